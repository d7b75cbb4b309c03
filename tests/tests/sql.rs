//! SQL logic tests: the files of `tests/slt`, in several modes of the engine.
//!
//! Expected values are PostgreSQL's and DuckDB's (`tests/slt/witness.py` writes them there); where the two differ from each
//! other or from what is documented here, the file says which one counts. Every file starts with an empty engine.
//!
//! Values print as: `NULL`; `(empty)` for an empty text; `true` and `false`; floats with 12 significant digits; decimals with
//! all their digits; dates and timestamps in ISO 8601.

use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::temporal_conversions::{date32_to_datetime, timestamp_us_to_datetime};
use flare::{Engine, Error, Settings};
use sqllogictest::{DB, DBOutput, DefaultColumnType as Kind, Runner, strict_column_validator};

/// An engine as the test runner drives it.
struct Connection(Engine);

impl DB for Connection {
    type Error = Error;
    type ColumnType = Kind;

    fn run(&mut self, sql: &str) -> Result<DBOutput<Kind>, Error> {
        let query = self.0.sql(sql)?;
        if query.message().is_some() {
            return Ok(DBOutput::StatementComplete(0));
        }
        let types = query.schema()?.fields().iter().map(|f| kind(f.data_type())).collect();
        let mut rows = vec![];
        for batch in query.collect()? {
            rows.extend((0..batch.num_rows()).map(|r| row(&batch, r)));
        }
        Ok(DBOutput::Rows { types, rows })
    }
}

fn kind(ty: &DataType) -> Kind {
    match ty {
        DataType::Int32 | DataType::Int64 => Kind::Integer,
        DataType::Float32 | DataType::Float64 => Kind::FloatingPoint,
        _ => Kind::Text,
    }
}

fn row(batch: &RecordBatch, r: usize) -> Vec<String> {
    batch.columns().iter().map(|c| cell(c.as_ref(), r)).collect()
}

fn cell(column: &dyn Array, r: usize) -> String {
    if column.is_null(r) {
        return "NULL".into();
    }
    match column.data_type() {
        DataType::Boolean => column.as_boolean().value(r).to_string(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(r).to_string(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(r).to_string(),
        DataType::Float32 => number(column.as_primitive::<Float32Type>().value(r).into()),
        DataType::Float64 => number(column.as_primitive::<Float64Type>().value(r)),
        DataType::Decimal128(..) => column.as_primitive::<Decimal128Type>().value_as_string(r),
        DataType::Date32 => {
            let day = column.as_primitive::<Date32Type>().value(r);
            date32_to_datetime(day).map_or("out of range".into(), |d| d.format("%Y-%m-%d").to_string())
        }
        DataType::Timestamp(TimeUnit::Microsecond, None) => {
            let at = column.as_primitive::<TimestampMicrosecondType>().value(r);
            let shown = timestamp_us_to_datetime(at).map(|t| t.format("%Y-%m-%d %H:%M:%S%.6f").to_string());
            let shown = shown.unwrap_or_else(|| "out of range".into());
            shown.trim_end_matches('0').trim_end_matches('.').to_string()
        }
        DataType::Utf8 => match column.as_string::<i32>().value(r) {
            "" => "(empty)".into(),
            text => text.into(),
        },
        other => panic!("a result of the type {other}"),
    }
}

/// 12 significant digits, zeros at the end left out; an exponent below 1e-5 and from 1e15 on.
fn number(x: f64) -> String {
    if x.is_nan() {
        return "NaN".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    if x == 0.0 {
        return "0".into();
    }
    let trimmed = |s: &str| match s.contains('.') {
        true => s.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => s.to_string(),
    };
    let scientific = format!("{x:.11e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("scientific notation has an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is an integer");
    if (-5..15).contains(&exponent) {
        let digits = usize::try_from(11 - exponent).unwrap_or(0);
        return trimmed(&format!("{x:.digits$}"));
    }
    format!("{}e{exponent}", trimmed(mantissa))
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("slt");
    let entries = std::fs::read_dir(&folder).expect("the folder of the tests");
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "slt"));
    files.sort();
    assert!(!files.is_empty(), "no tests in {}", folder.display());
    // One file alone, for who writes it.
    if let Ok(only) = std::env::var("SLT") {
        files.retain(|f| f.file_stem().is_some_and(|s| *s == *only));
    }
    files
}

/// Runs every record of every file; all failures at once.
fn check(settings: &Settings) {
    let mut failures = String::new();
    for file in files() {
        let records = sqllogictest::parse_file::<Kind>(&file).expect("a file of tests parses");
        let engine = Engine::with_settings(settings.clone());
        let mut runner = Runner::new(|| {
            let connection = Connection(engine.clone());
            async move { Ok(connection) }
        });
        runner.with_column_validator(strict_column_validator);
        runner.with_normalizer(|s| s.trim_end().to_string());
        for record in records {
            if let Err(e) = runner.run(record) {
                failures += &format!("{e}\n\n");
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

fn settings(threads: usize) -> Settings {
    Settings { threads, ..Settings::default() }
}

#[test]
fn compiled() {
    check(&settings(1));
}

#[test]
fn compiled_on_four_threads_with_tiny_morsels() {
    check(&Settings { morsel_rows: Some(2), batch_rows: 2, ..settings(4) });
}

#[test]
fn compiled_without_optimization() {
    // Code has no nested loops over subqueries and no sets of distinct values: these two are no option.
    check(&Settings { passes: Some(vec!["unnest".into(), "aggregate".into()]), ..settings(1) });
}

#[test]
fn interpreted() {
    check(&Settings { interpret: true, ..settings(1) });
}

#[test]
fn interpreted_without_optimization() {
    check(&Settings { interpret: true, passes: Some(vec![]), ..settings(1) });
}
