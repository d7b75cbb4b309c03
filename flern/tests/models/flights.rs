//! The features of the demonstration, against answers that DuckDB computed (`tests/data/flights_etl/make.py`).

use std::fs;
use std::path::Path;

use flern::Session;

use crate::{doubles, number, rows, run, session, texts};

fn with_features() -> (Session, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    flern::data::write_nycflights13(folder.path()).unwrap();
    let script = include_str!("../../src/bin/flern/demo.sql");
    let script = script.replace("'nycflights13/", &format!("'{}/nycflights13/", folder.path().display()));
    let session = session();
    for statement in flern::sql::parse(&script).unwrap() {
        let text = statement.span.of(&script);
        if text.starts_with("CREATE TABLE") {
            run(&session, text);
        }
    }
    (session, folder)
}

fn answers(name: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/flights_etl").join(name);
    let text = fs::read_to_string(path).unwrap();
    // No field has a comma in it.
    text.lines().map(|line| line.split(',').map(str::to_string).collect()).collect()
}

fn same(got: &str, want: &str) -> bool {
    got == want
        || match (got.parse::<f64>(), want.parse::<f64>()) {
            (Ok(got), Ok(want)) => (got - want).abs() <= 1e-9 * want.abs().max(1.0),
            _ => false,
        }
}

#[test]
fn the_features_are_those_that_duckdb_computes() {
    let (session, _folder) = with_features();
    let expected = answers("rows.csv");
    let (names, expected) = expected.split_first().unwrap();
    let found = rows(
        &session,
        "SELECT * FROM features WHERE (flight * 7 + day * 31 + month) % 1009 = 0
         ORDER BY month, day, carrier, flight, origin, dep_hour",
    );
    assert_eq!(found.schema().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>(), *names);
    assert_eq!(found.num_rows(), expected.len());
    for (c, name) in names.iter().enumerate() {
        let column = texts(&found, name);
        for (r, row) in expected.iter().enumerate() {
            assert!(same(&column[r], &row[c]), "row {r}, {name}: {}, expected {}", column[r], row[c]);
        }
    }
    for row in &answers("summary.csv")[1..] {
        let [name, kind, numbers @ ..] = row.as_slice() else { panic!("{row:?}") };
        let value = match kind.as_str() {
            "VARCHAR" => format!("length({name})"),
            "BOOLEAN" => format!("CASE WHEN {name} THEN 1 ELSE 0 END"),
            _ => name.clone(),
        };
        let found = rows(
            &session,
            &format!(
                "SELECT count(*) AS a, count(*) - count({name}) AS b, count(DISTINCT {name}) AS c, CAST(sum({value}) AS DOUBLE) AS d FROM features"
            ),
        );
        for (column, want) in ["a", "b", "c", "d"].iter().zip(numbers) {
            let (got, want) = (doubles(&found, column)[0], want.parse::<f64>().unwrap());
            assert!((got - want).abs() <= 1e-9 * want.abs(), "{name}, {column}: {got}, expected {want}");
        }
    }
    assert_eq!(number(&session, "SELECT count(*) FROM features WHERE late IS NULL"), 0.0);
}
