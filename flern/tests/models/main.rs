//! Models in SQL, through the public functions.

mod birds;
mod errors;
mod evaluating;
mod flights;
mod kinds;
mod predicting;
mod rust;
mod saving;
mod splits;
mod transforms;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type};
use arrow::util::display::array_value_to_string;
use flern::{Session, Settings};

/// A session over two threads, in compiled code.
fn session() -> Session {
    Session::with_settings(Settings { threads: 2, seed: 7, ..Settings::default() })
}

/// A session with the table `points`: 60 rows of whole numbers and what follows from them.
fn with_points() -> Session {
    let session = session();
    run(&session, POINTS);
    session
}

/// `i` counts; `x` in 0..10; `y` in 0..11; `z = 2x - 3y + 1`; `late`, whether x > 4; `size`, three classes by y.
const POINTS: &str = "CREATE TABLE points AS
    WITH a AS (SELECT * FROM (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) AS v(d)),
         b AS (SELECT * FROM (VALUES (0), (1), (2), (3), (4), (5)) AS v(t)),
         n AS (SELECT t * 10 + d AS i FROM a, b)
    SELECT i, i % 10 AS x, (i * 7) % 11 AS y, 2.0e0 * (i % 10) - 3.0e0 * ((i * 7) % 11) + 1.0e0 AS z, i % 10 > 4 AS late,
           CASE WHEN (i * 7) % 11 < 4 THEN 'small' WHEN (i * 7) % 11 < 8 THEN 'middle' ELSE 'large' END AS size
    FROM n";

#[track_caller]
fn run(session: &Session, sql: &str) {
    if let Err(error) = session.sql(sql) {
        panic!("{error}\n{sql}");
    }
}

/// The rows of a query, in one batch.
#[track_caller]
fn rows(session: &Session, sql: &str) -> RecordBatch {
    let batches = session.query(sql).unwrap_or_else(|error| panic!("{error}\n{sql}"));
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

/// A column of numbers as doubles; NULL as NaN.
fn doubles(batch: &RecordBatch, column: &str) -> Vec<f64> {
    let column = batch.column_by_name(column).unwrap_or_else(|| panic!("{column} of {:?}", batch.schema()));
    let value = |i: usize| match column.data_type() {
        _ if column.is_null(i) => f64::NAN,
        DataType::Float64 => column.as_primitive::<Float64Type>().value(i),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(i) as f64,
        DataType::Int32 => column.as_primitive::<Int32Type>().value(i).into(),
        DataType::Boolean => f64::from(u8::from(column.as_boolean().value(i))),
        other => panic!("{other} is no number"),
    };
    (0..column.len()).map(value).collect()
}

/// A column as texts.
fn texts(batch: &RecordBatch, column: &str) -> Vec<String> {
    let column = batch.column_by_name(column).unwrap_or_else(|| panic!("{column} of {:?}", batch.schema()));
    (0..column.len()).map(|i| array_value_to_string(column, i).unwrap()).collect()
}

/// One number of one row.
#[track_caller]
fn number(session: &Session, sql: &str) -> f64 {
    let batch = rows(session, sql);
    assert_eq!((batch.num_rows(), batch.num_columns()), (1, 1), "{sql}");
    doubles(&batch, batch.schema().field(0).name())[0]
}

/// The error of a statement: message, the text at its place, and the help.
#[track_caller]
fn failure(session: &Session, sql: &str) -> (String, String, String) {
    let error = match session.sql(sql).and_then(|query| query.answer()) {
        Ok(answer) => panic!("no error: {answer:?}\n{sql}"),
        Err(error) => error,
    };
    let place = error.span().map_or(String::new(), |span| span.of(sql).to_string());
    (error.to_string(), place, error.help().unwrap_or_default())
}

/// The lines of EXPLAIN.
#[track_caller]
fn explained(session: &Session, sql: &str) -> String {
    texts(&rows(session, sql), "explain").join("\n")
}

#[track_caller]
fn assert_near(got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "{got}, expected {want}");
}
