//! The main job: the demonstration's own script on the real flights of 2013.

use arrow::array::AsArray;
use arrow::datatypes::Float64Type;
use flern::Session;

/// The script with its files in a folder of the test.
fn script(folder: &std::path::Path) -> String {
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
    assert_eq!(rows[0].column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0), 327_346);
    let rows = session.query("SELECT roc_auc, accuracy FROM ML.EVALUATE(MODEL late_flights)").expect("evaluates");
    let auc = rows[0].column(0).as_primitive::<Float64Type>().value(0);
    let accuracy = rows[0].column(1).as_primitive::<Float64Type>().value(0);
    assert!(auc >= 0.70, "AUC {auc}");
    assert!(accuracy > 0.7647, "accuracy {accuracy} is not above the majority class");
}
