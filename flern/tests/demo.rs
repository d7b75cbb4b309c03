//! The main job: the demonstration on the real flights of 2013, and its script from a file.

use std::path::Path;
use std::process::{Command, Output};

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type};
use flern::Session;

/// The script with its files in a folder of the test.
fn script(folder: &Path) -> String {
    let script = include_str!("../src/bin/flern/demo.sql");
    script.replace("'nycflights13/", &format!("'{}/nycflights13/", folder.display()))
}

#[test]
fn the_model_of_the_demonstration_ranks_delays() {
    let folder = tempfile::tempdir().expect("a folder");
    flern::data::write_nycflights13(folder.path()).expect("the data");
    let session = Session::new();
    session.sql(&script(folder.path())).expect("the script runs");
    let rows = session.query("SELECT COUNT(*) AS n FROM features").expect("counts");
    // As counted by DuckDB, see tests/data/flights_etl.
    assert_eq!(rows[0].column(0).as_primitive::<Int64Type>().value(0), 327_346);
    let rows = session.query("SELECT roc_auc, accuracy FROM ML.EVALUATE(MODEL late_flights)").expect("evaluates");
    let auc = rows[0].column(0).as_primitive::<Float64Type>().value(0);
    let accuracy = rows[0].column(1).as_primitive::<Float64Type>().value(0);
    assert!(auc >= 0.70, "AUC {auc}");
    assert!(accuracy > 0.7647, "accuracy {accuracy} is not above the majority class");
}

fn flern(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flern")).args(arguments).current_dir(folder).output().expect("flern runs")
}

/// The demonstration prints its statements, their results and the times; its script prints the same results from a file.
#[test]
fn the_demonstration_runs_in_any_folder_and_from_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let demo = flern(folder.path(), &["demo", "--threads", "2"]);
    let (said, errors) = (String::from_utf8_lossy(&demo.stdout), String::from_utf8_lossy(&demo.stderr));
    assert!(demo.status.success(), "{said}{errors}");
    assert!(errors.is_empty(), "no progress where no terminal is: {errors}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0, "nothing is left behind");
    let at = |text: &str| said.find(text).unwrap_or_else(|| panic!("{text}:\n{said}"));
    let order = [
        "CREATE TABLE flights AS",
        "created table flights",
        "CREATE TABLE features AS",
        "created table features",
        "│  327346 │",
        "CREATE MODEL late_flights",
        "created model late_flights: 261764 rows, 3 epochs",
        "│ baseline_accuracy │",
        "│            0.7647 │",
        "FROM ML.PREDICT(MODEL late_flights, TABLE features)",
        "│ AirTran Airways Corporation │",
        "rows (40 shown)",
        "of which planning and compilation",
        "load ",
        "ETL ",
        "training ",
        "inference ",
        "total ",
        "Query and model are one program:",
    ];
    for pair in order.windows(2) {
        assert!(at(pair[0]) < at(pair[1]), "{pair:?}:\n{said}");
    }
    for phase in ["ETL ", "training ", "inference "] {
        let line = said.lines().find(|line| line.starts_with(phase)).expect("a line for each phase");
        let compiled = line.split_whitespace().nth(3).and_then(|s| s.parse::<f64>().ok()).expect("a time");
        assert!(compiled > 0.0, "compilation is counted: {line}");
    }
    // Fits the terminals that people have.
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");

    assert!(flern(folder.path(), &["demo", "--write", "."]).status.success());
    let run = flern(folder.path(), &["run", "demo.sql", "--threads", "2"]);
    let from_file = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{from_file}{}", String::from_utf8_lossy(&run.stderr));
    let tables = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with('│')).map(str::to_string).collect()
    };
    assert_eq!(tables(&said), tables(&from_file));
}
