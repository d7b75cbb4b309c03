//! The judge of query results: compares rows with an expected answer cell by cell, with the rules and in the
//! words of `bench/peers/tpch/peers.py`, so that `report.py` beside it reads our results and the peers' alike.
//!
//! What holds:
//! - A cell is its text. Two cells agree when the texts are equal, or when both are numbers within a relative
//!   error of 1e-6, or when they differ by one unit in the last digit of the less precise decimal (at most 0.01).
//! - Rows are compared in the given order first, then sorted: ties in ORDER BY are free. [`compare`] says which of
//!   the two it took; [`same_order`] checks the sort keys alone.
//! - NULL is the empty text.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// One row: the text of each cell.
pub type Row = Vec<String>;

/// An expected answer as committed: the names of the columns and the rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Column names, in order.
    pub names: Vec<String>,
    /// Rows, in the order of the query's ORDER BY.
    pub rows: Vec<Row>,
}

/// How two cells compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Near {
    /// Equal, or numbers within a relative error of 1e-6.
    Same,
    /// Numbers that differ by one unit in the last digit of the less precise decimal.
    Rounding,
    /// Different, and at least one of them is not a number.
    Text,
    /// Different numbers.
    Number,
}

/// What the comparison of a result with its expected answer found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The rows agree.
    Equal {
        /// Some decimal differs by one unit in its last digit.
        rounding: bool,
        /// They agree only after sorting both sides.
        reordered: bool,
    },
    /// There is nothing to compare with.
    NoAnswer,
    /// The rows differ; the text says how many cells and shows the first.
    Different(String),
}

impl Verdict {
    /// Whether the result has to be rejected.
    pub fn is_wrong(&self) -> bool {
        matches!(self, Verdict::Different(_))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Equal { rounding, reordered } => {
                f.write_str("equal")?;
                if *rounding {
                    f.write_str(" (rounding)")?;
                }
                if *reordered {
                    f.write_str(" (row order differs)")?;
                }
                Ok(())
            }
            Verdict::NoAnswer => f.write_str("no expected answer"),
            Verdict::Different(what) => f.write_str(what),
        }
    }
}

/// Compares an expected cell with a cell of the result.
pub fn near(expected: &str, got: &str) -> Near {
    if expected == got {
        return Near::Same;
    }
    let (Some(x), Some(y)) = (number(expected), number(got)) else {
        return Near::Text;
    };
    if x == y || (x - y).abs() <= 1e-6 * x.abs().max(y.abs()) {
        return Near::Same;
    }
    let scale = decimals(expected).min(decimals(got));
    if scale >= 1 && (x - y).abs() <= 0.01_f64.min(10_f64.powi(-scale)) * 1.000001 {
        return Near::Rounding;
    }
    Near::Number
}

/// Compares all rows: in the given order, and if that fails sorted by the texts of their cells.
pub fn compare(expected: &[Row], got: &[Row]) -> Verdict {
    if expected.len() != got.len() {
        return Verdict::Different(format!("row count {}, expected {}", got.len(), expected.len()));
    }
    let in_order = compare_in_order(&by_reference(expected), &by_reference(got));
    let as_given = match in_order {
        Ok(rounding) => {
            return Verdict::Equal { rounding, reordered: false };
        }
        Err(differences) => differences,
    };
    match compare_in_order(&sorted(expected), &sorted(got)) {
        Ok(rounding) => Verdict::Equal { rounding, reordered: true },
        Err(as_sorted) => {
            let best = if as_sorted.cells < as_given.cells { as_sorted } else { as_given };
            Verdict::Different(format!("{} cells differ, first in row {}", best.cells, best.first))
        }
    }
}

/// Checks that the columns `keys`, by position, hold the same values row by row: what ORDER BY promises, whatever
/// the order of ties. The error shows the first difference.
pub fn same_order(expected: &[Row], got: &[Row], keys: &[usize]) -> Result<(), String> {
    for (row, (want, have)) in expected.iter().zip(got).enumerate() {
        for &key in keys {
            let (Some(want), Some(have)) = (want.get(key), have.get(key)) else {
                return Err(format!("row {row} has no column {key}"));
            };
            if !matches!(near(want, have), Near::Same | Near::Rounding) {
                return Err(format!("row {row}, sort key in col {key}: {have:?}, expected {want:?}"));
            }
        }
    }
    Ok(())
}

/// The rows of a result as text, in the words of `peers.py`: numbers as Python prints them, dates as
/// `2013-01-31`, NULL as the empty text, no white space at the end.
pub fn cells(batches: &[RecordBatch]) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for batch in batches {
        let columns =
            batch.columns().iter().map(|column| column_text(column.as_ref())).collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| column[row].clone()).collect());
        }
    }
    Ok(rows)
}

/// The path of a query's expected answer in `folder`: `q07.csv`, or `q07.csv.gz` where it is large.
pub fn answer_path(folder: &Path, query: u32) -> Option<PathBuf> {
    ["csv", "csv.gz"].iter().map(|end| folder.join(format!("q{query:02}.{end}"))).find(|path| path.exists())
}

/// Reads the expected answer of a query, or `None` where the folder has none. The error names the file.
pub fn read_answer(folder: &Path, query: u32) -> Result<Option<Answer>, String> {
    let Some(path) = answer_path(folder, query) else {
        return Ok(None);
    };
    let failed = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
    let file = File::open(&path).map_err(|e| failed(&e))?;
    let mut text = String::new();
    if path.extension().is_some_and(|end| end == "gz") {
        flate2::read::GzDecoder::new(file).read_to_string(&mut text)
    } else {
        let mut file = file;
        file.read_to_string(&mut text)
    }
    .map_err(|e| failed(&e))?;
    parse_answer(&text).map(Some).map_err(|e| failed(&e))
}

/// Parses an answer from CSV text: a line with the names, then the rows.
pub fn parse_answer(text: &str) -> Result<Answer, csv::Error> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut rows = Vec::new();
    for record in reader.records() {
        rows.push(record?.iter().map(str::to_owned).collect::<Row>());
    }
    let names = if rows.is_empty() { Vec::new() } else { rows.remove(0) };
    Ok(Answer { names, rows })
}

struct Differences {
    cells: usize,
    first: String,
}

/// `Ok` tells whether some decimal is one unit off.
fn compare_in_order(expected: &[&Row], got: &[&Row]) -> Result<bool, Differences> {
    let (mut cells, mut first, mut rounding) = (0, None, false);
    let mut note = |row: usize, what: String| {
        cells += 1;
        first.get_or_insert_with(|| format!("{row} {what}"));
    };
    for (row, (want, have)) in expected.iter().zip(got).enumerate() {
        if want.len() != have.len() {
            note(row, format!("columns {}, expected {}", have.len(), want.len()));
            break;
        }
        for (column, (want, have)) in want.iter().zip(have.iter()).enumerate() {
            match near(want, have) {
                Near::Same => {}
                Near::Rounding => rounding = true,
                Near::Text | Near::Number => {
                    note(row, format!("col {column}: {}, expected {}", quoted(have), quoted(want)));
                }
            }
        }
    }
    match first {
        None => Ok(rounding),
        Some(first) => Err(Differences { cells, first }),
    }
}

fn by_reference(rows: &[Row]) -> Vec<&Row> {
    rows.iter().collect()
}

/// Sorted by text, numbers by their first five digits, so that small errors move no row.
fn sorted(rows: &[Row]) -> Vec<&Row> {
    let mut rows = by_reference(rows);
    rows.sort_by_cached_key(|row| {
        row.iter().map(|cell| number(cell).map_or_else(|| cell.clone(), five_digits)).collect::<Row>()
    });
    rows
}

/// A cell as a number, as Python's `float` reads it.
fn number(cell: &str) -> Option<f64> {
    cell.trim().parse().ok()
}

/// Digits after the point; 17 where the number is written with an exponent.
fn decimals(cell: &str) -> i32 {
    match cell.split_once('.') {
        None => 0,
        Some(_) if cell.contains(['e', 'E']) => 17,
        Some((_, fraction)) => fraction.len() as i32,
    }
}

/// C's `%.5g`.
fn five_digits(x: f64) -> String {
    if !x.is_finite() {
        return python_float(x);
    }
    let scientific = format!("{x:.4e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..5).contains(&exponent) {
        trim(&format!("{x:.*}", (4 - exponent) as usize))
    } else {
        format!("{}e{}{:02}", trim(digits), if exponent < 0 { '-' } else { '+' }, exponent.abs())
    }
}

/// The shortest text that reads back as the same number, as Python's `repr` writes it.
fn python_float(x: f64) -> String {
    if x.is_nan() {
        return "nan".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{x}");
        if plain.contains('.') { plain } else { plain + ".0" }
    } else {
        format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    }
}

/// A text in quotes, as Python shows it.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

fn column_text(column: &dyn Array) -> Result<Vec<String>, String> {
    /// One text per row; NULL is empty.
    macro_rules! texts {
        ($array:expr, $text:expr) => {
            $array.iter().map(|cell| cell.map_or_else(String::new, $text)).collect()
        };
    }
    Ok(match column.data_type() {
        DataType::Null => vec![String::new(); column.len()],
        DataType::Boolean => texts!(column.as_boolean(), |x| if x { "True" } else { "False" }.to_owned()),
        DataType::Int8 => texts!(column.as_primitive::<Int8Type>(), |x| x.to_string()),
        DataType::Int16 => texts!(column.as_primitive::<Int16Type>(), |x| x.to_string()),
        DataType::Int32 => texts!(column.as_primitive::<Int32Type>(), |x| x.to_string()),
        DataType::Int64 => texts!(column.as_primitive::<Int64Type>(), |x| x.to_string()),
        DataType::UInt8 => texts!(column.as_primitive::<UInt8Type>(), |x| x.to_string()),
        DataType::UInt16 => texts!(column.as_primitive::<UInt16Type>(), |x| x.to_string()),
        DataType::UInt32 => texts!(column.as_primitive::<UInt32Type>(), |x| x.to_string()),
        DataType::UInt64 => texts!(column.as_primitive::<UInt64Type>(), |x| x.to_string()),
        DataType::Float32 => texts!(column.as_primitive::<Float32Type>(), |x| python_float(x.into())),
        DataType::Float64 => texts!(column.as_primitive::<Float64Type>(), python_float),
        DataType::Decimal128(_, scale) => {
            texts!(column.as_primitive::<Decimal128Type>(), |x| decimal_text(x, *scale))
        }
        DataType::Date32 => {
            let array = column.as_primitive::<Date32Type>();
            (0..array.len())
                .map(|row| match array.is_null(row) {
                    true => Ok(String::new()),
                    false => array
                        .value_as_date(row)
                        .map(|date| date.to_string())
                        .ok_or_else(|| format!("date out of range: day {}", array.value(row))),
                })
                .collect::<Result<_, _>>()?
        }
        DataType::Utf8 => texts!(column.as_string::<i32>(), |x| x.trim_end().to_owned()),
        DataType::LargeUtf8 => texts!(column.as_string::<i64>(), |x| x.trim_end().to_owned()),
        DataType::Utf8View => texts!(column.as_string_view(), |x| x.trim_end().to_owned()),
        DataType::Timestamp(_, _) | DataType::Dictionary(_, _) => {
            let options = FormatOptions::new().with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"));
            let format = ArrayFormatter::try_new(column, &options).map_err(|e| e.to_string())?;
            (0..column.len())
                .map(|row| {
                    let text = format.value(row).try_to_string().map_err(|e| e.to_string())?;
                    Ok(text.strip_suffix(" 00:00:00").unwrap_or(&text).trim_end().to_owned())
                })
                .collect::<Result<_, String>>()?
        }
        other => {
            return Err(format!("a result column of type {other} cannot be compared"));
        }
    })
}

/// An exact decimal with all the digits of its scale.
fn decimal_text(unscaled: i128, scale: i8) -> String {
    if scale <= 0 {
        return format!("{unscaled}{}", "0".repeat(if unscaled == 0 { 0 } else { usize::from(scale.unsigned_abs()) }));
    }
    let scale = usize::from(scale.unsigned_abs());
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    format!("{}{whole}.{fraction}", if unscaled < 0 { "-" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int64Array, StringArray,
        StringViewArray, TimestampMicrosecondArray,
    };
    use std::sync::Arc;

    fn rows(text: &[&[&str]]) -> Vec<Row> {
        text.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    fn said(expected: &[&[&str]], got: &[&[&str]]) -> String {
        compare(&rows(expected), &rows(got)).to_string()
    }

    #[test]
    fn cells_agree_within_the_tolerance_and_not_beyond_it() {
        for (expected, got, verdict) in [
            ("BRAZIL", "BRAZIL", Near::Same),
            ("BRAZIL", "BRASIL", Near::Text),
            ("", "0", Near::Text),
            ("0", "", Near::Text),
            ("7", "7.0", Near::Same),
            ("1000000", "1000000.9", Near::Same),
            ("1000000", "1000002", Near::Number),
            // One unit in the last digit of the less precise one.
            ("1.23", "1.2345", Near::Rounding),
            ("1.2345", "1.23", Near::Rounding),
            ("1.23", "1.25", Near::Number),
            ("0.5", "0.509", Near::Rounding),
            ("0.5", "0.52", Near::Number),
            // Whole numbers have no last digit to give.
            ("7", "8", Near::Number),
            ("0.001", "0.0011", Near::Rounding),
            ("0.0010", "0.0012", Near::Number),
            // An exponent counts as 17 digits.
            ("1e-7", "0.0", Near::Number),
            ("1.5e-05", "0.00002", Near::Rounding),
            ("nan", "nan", Near::Same),
            ("nan", "1.0", Near::Number),
            ("-0.0", "0.0", Near::Same),
        ] {
            assert_eq!(near(expected, got), verdict, "expected {expected:?}, got {got:?}");
        }
    }

    #[test]
    fn equal_rows_are_equal_whatever_the_order_of_ties() {
        assert_eq!(said(&[&["a", "1.00"]], &[&["a", "1.00"]]), "equal");
        assert_eq!(said(&[&["a", "1.00"]], &[&["a", "1.01"]]), "equal (rounding)");
        assert_eq!(said(&[&["a", "1"], &["b", "2"]], &[&["b", "2"], &["a", "1"]]), "equal (row order differs)");
        assert_eq!(said(&[], &[]), "equal");
    }

    #[test]
    fn different_rows_are_told_apart() {
        assert_eq!(said(&[&["a"]], &[]), "row count 0, expected 1");
        assert_eq!(said(&[&["a"]], &[&["b"]]), "1 cells differ, first in row 0 col 0: 'b', expected 'a'");
        assert_eq!(
            said(&[&["a", "1"], &["b", "2"]], &[&["a", "1"], &["b", "3"]]),
            "1 cells differ, first in row 1 col 1: '3', expected '2'"
        );
        assert_eq!(said(&[&["a", "b"]], &[&["a"]]), "1 cells differ, first in row 0 columns 1, expected 2");
        // The same values in other rows.
        assert!(compare(&rows(&[&["a", "1"], &["b", "2"]]), &rows(&[&["a", "2"], &["b", "1"]])).is_wrong());
        // A row twice is not two rows.
        assert!(compare(&rows(&[&["a"], &["b"]]), &rows(&[&["a"], &["a"]])).is_wrong());
        // NULL is not zero.
        assert!(compare(&rows(&[&[""]]), &rows(&[&["0.0"]])).is_wrong());
    }

    #[test]
    fn sort_keys_must_stand_in_order() {
        let expected = rows(&[&["x", "3"], &["y", "2"], &["z", "2"]]);
        let ties_swapped = rows(&[&["x", "3"], &["z", "2"], &["y", "2"]]);
        let unsorted = rows(&[&["y", "2"], &["x", "3"], &["z", "2"]]);
        assert_eq!(same_order(&expected, &ties_swapped, &[1]), Ok(()));
        assert_eq!(
            same_order(&expected, &unsorted, &[1]),
            Err("row 0, sort key in col 1: \"2\", expected \"3\"".to_owned())
        );
        assert!(same_order(&expected, &unsorted, &[5]).is_err());
    }

    #[test]
    fn numbers_read_as_python_writes_them() {
        for (x, text) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (1e300, "1e+300"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(python_float(x), text);
        }
        for (x, text) in [
            (123456.0, "1.2346e+05"),
            (12345.6, "12346"),
            (0.00012345, "0.00012345"),
            (0.0000123, "1.23e-05"),
            (100.0, "100"),
            (99999.96, "1e+05"),
            (0.0, "0"),
        ] {
            assert_eq!(five_digits(x), text);
        }
        assert_eq!(decimal_text(-5, 2), "-0.05");
        assert_eq!(decimal_text(123456, 4), "12.3456");
        assert_eq!(decimal_text(7, 0), "7");
    }

    #[test]
    fn arrow_columns_become_text() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("i", Arc::new(Int64Array::from(vec![Some(-3), None]))),
            ("f", Arc::new(Float64Array::from(vec![Some(2.5), None]))),
            ("r", Arc::new(Float32Array::from(vec![Some(0.1), None]))),
            ("d", Arc::new(Decimal128Array::from(vec![Some(1234), None]).with_precision_and_scale(15, 2).unwrap())),
            ("b", Arc::new(BooleanArray::from(vec![Some(true), None]))),
            ("s", Arc::new(StringArray::from(vec![Some("ab  "), None]))),
            ("v", Arc::new(StringViewArray::from(vec![Some("a longer text than twelve"), None]))),
            ("t", Arc::new(Date32Array::from(vec![Some(9204), None]))),
            ("m", Arc::new(TimestampMicrosecondArray::from(vec![Some(795_225_600_000_000), None]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        assert_eq!(
            cells(&[batch]).unwrap(),
            rows(&[
                &[
                    "-3",
                    "2.5",
                    "0.10000000149011612",
                    "12.34",
                    "True",
                    "ab",
                    "a longer text than twelve",
                    "1995-03-15",
                    "1995-03-15",
                ],
                &["", "", "", "", "", "", "", "", ""],
            ])
        );
    }

    #[test]
    fn answers_are_read_plain_and_compressed() {
        let folder = crate::tpch::peers().join("answers");
        let plain = read_answer(&folder.join("sf0.01"), 1).unwrap().unwrap();
        assert_eq!(plain.names[0], "l_returnflag");
        assert_eq!(plain.rows.len(), 4);
        let compressed = read_answer(&folder.join("sf1"), 16).unwrap().unwrap();
        assert_eq!(compressed.names, ["p_brand", "p_type", "p_size", "supplier_cnt"]);
        assert_eq!(compressed.rows.len(), 18314);
        // One NULL in one row: the answer of Q17 at this scale.
        assert_eq!(read_answer(&folder.join("sf0.01"), 17).unwrap().unwrap().rows, rows(&[&[""]]));
        assert_eq!(read_answer(&folder, 1), Ok(None));
    }
}
