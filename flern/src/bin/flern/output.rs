//! Results on the standard output: a table for people, CSV or JSON for programs.

use std::collections::VecDeque;
use std::io::{self, Write};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use comfy_table::{
    Cell, CellAlignment, ColumnConstraint, ContentArrangement, ContentLineStyle, LineStyle, Table, TableStyle, Width,
};

use crate::host::{Failure, Rows};

/// The form of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A table, shortened in the middle where it is long.
    Table,
    /// Comma-separated values with a header; NULL is an empty field.
    Csv,
    /// One array of objects for each result.
    Json,
}

/// Why a result was not printed.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The statement failed while its rows were read.
    Failed(Failure),
    /// The output is gone: a closed pipe or a full disk.
    Output(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Output(error)
    }
}

/// A table longer than this shows its first and last rows only.
const LONG: usize = 40;

/// Prints a result. `width` is the terminal's, where the output is one.
pub(crate) fn rows(out: &mut dyn Write, rows: Rows<'_>, format: Format, width: Option<u16>) -> Result<(), Stop> {
    match format {
        Format::Table => table(out, rows, width),
        Format::Csv => csv(out, rows),
        Format::Json => json(out, rows),
    }
}

fn csv(out: &mut dyn Write, rows: Rows<'_>) -> Result<(), Stop> {
    let header = RecordBatch::new_empty(rows.schema.clone());
    let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(out);
    writer.write(&header).map_err(output)?;
    for batch in rows.batches {
        writer.write(&batch.map_err(Stop::Failed)?).map_err(output)?;
    }
    writer.into_inner().flush()?;
    Ok(())
}

fn json(out: &mut dyn Write, rows: Rows<'_>) -> Result<(), Stop> {
    let mut writer = arrow::json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow::json::writer::JsonArray>(&mut *out);
    for batch in rows.batches {
        writer.write(&batch.map_err(Stop::Failed)?).map_err(output)?;
    }
    writer.finish().map_err(output)?;
    drop(writer);
    writeln!(out)?;
    Ok(())
}

fn output(error: arrow::error::ArrowError) -> Stop {
    match error {
        arrow::error::ArrowError::IoError(_, error) => Stop::Output(error),
        // The writers wrap what the pipe says into text.
        arrow::error::ArrowError::CsvError(message) if message.contains("Broken pipe") => {
            Stop::Output(io::ErrorKind::BrokenPipe.into())
        }
        error => Stop::Failed(Failure::new(error.to_string())),
    }
}

fn table(out: &mut dyn Write, rows: Rows<'_>, width: Option<u16>) -> Result<(), Stop> {
    let schema = rows.schema;
    let mut kept = Kept::default();
    for batch in rows.batches {
        kept.add(&batch.map_err(Stop::Failed)?).map_err(|error| Stop::Failed(Failure::new(error.to_string())))?;
    }
    writeln!(out, "{}", draw(&schema, &kept, width))?;
    Ok(())
}

/// The rows of a result that its table shows: all, or the first and the last ones.
#[derive(Default)]
struct Kept {
    first: Vec<Vec<String>>,
    last: VecDeque<Vec<String>>,
    count: usize,
}

impl Kept {
    fn add(&mut self, batch: &RecordBatch) -> Result<(), arrow::error::ArrowError> {
        let rows = batch.num_rows();
        let head = (LONG / 2).saturating_sub(self.first.len()).min(rows);
        // The last rows of this batch only: those before them would be dropped again.
        let tail = head.max(rows.saturating_sub(LONG / 2));
        self.count += rows;
        if tail > head {
            self.last.clear();
        }
        let cells = |row: usize, columns: &[ArrayFormatter<'_>]| -> Vec<String> {
            columns.iter().map(|column| clean(&column.value(row).to_string())).collect()
        };
        let options = FormatOptions::default()
            .with_null("NULL")
            .with_display_error(true)
            .with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"))
            .with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.f%:z"));
        let columns = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
            .collect::<Result<Vec<_>, _>>()?;
        for row in 0..head {
            self.first.push(cells(row, &columns));
        }
        for row in tail..rows {
            if self.last.len() == LONG / 2 {
                self.last.pop_front();
            }
            self.last.push_back(cells(row, &columns));
        }
        Ok(())
    }

    fn hidden(&self) -> usize {
        self.count - self.first.len() - self.last.len()
    }
}

/// A value on one line.
fn clean(value: &str) -> String {
    value
        .chars()
        .map(|c| match c {
            '\n' => '↵',
            c if c.is_control() => '�',
            c => c,
        })
        .collect()
}

/// Thin lines all around, none between the rows.
const STYLE: TableStyle = TableStyle::new()
    .top_border(LineStyle::new('┌', '─', '┬', '┐'))
    .header_lines(ContentLineStyle::new('│', '│', '│'))
    .header_separator(LineStyle::new('├', '─', '┼', '┤'))
    .content_lines(ContentLineStyle::new('│', '│', '│'))
    .bottom_border(LineStyle::new('└', '─', '┴', '┘'));

/// A text column is cut down to this before columns are left out.
const NARROWEST: u16 = 16;

fn draw(schema: &SchemaRef, kept: &Kept, width: Option<u16>) -> String {
    let names: Vec<String> = schema.fields().iter().map(|field| clean(field.name())).collect();
    if names.is_empty() {
        return format!("({})", count(kept.count, "row"));
    }
    let types: Vec<String> = schema.fields().iter().map(|field| sql_type(field.data_type())).collect();
    let right: Vec<bool> = schema.fields().iter().map(|field| field.data_type().is_numeric()).collect();
    let all: Vec<usize> = (0..names.len()).collect();
    let shown = match width {
        Some(width) => fitting(&content_widths(&names, &types, kept), &right, width),
        None => all,
    };
    let left_out = names.len() - shown.len();
    // Where columns are left out, a narrow one of dots stands for them.
    let gap = (left_out > 0).then_some(shown.len().div_ceil(2));
    let line = |cells: &[String], dots: &str| -> Vec<String> {
        let mut line: Vec<String> = shown.iter().map(|column| cells[*column].clone()).collect();
        if let Some(gap) = gap {
            line.insert(gap, dots.to_string());
        }
        line
    };
    let mut table = Table::new();
    table.force_no_tty();
    table.load_style(STYLE);
    let heads: Vec<String> = names.iter().zip(&types).map(|(name, kind)| format!("{name}\n{kind}")).collect();
    table.set_header(line(&heads, "…").into_iter().map(|cell| Cell::new(cell).set_alignment(CellAlignment::Center)));
    let mut alignments: Vec<CellAlignment> =
        shown.iter().map(|column| if right[*column] { CellAlignment::Right } else { CellAlignment::Left }).collect();
    if let Some(gap) = gap {
        alignments.insert(gap, CellAlignment::Center);
    }
    let mut add = |cells: Vec<String>, centered: bool| {
        let cells = cells.into_iter().zip(&alignments).map(|(cell, alignment)| {
            Cell::new(cell).set_alignment(if centered { CellAlignment::Center } else { *alignment })
        });
        let mut row = comfy_table::Row::from(cells.collect::<Vec<_>>());
        row.max_height(1);
        table.add_row(row);
    };
    for row in &kept.first {
        add(line(row, "…"), false);
    }
    if kept.hidden() > 0 {
        add(line(&vec!["·".to_string(); names.len()], "·"), true);
    }
    for row in &kept.last {
        add(line(row, "…"), false);
    }
    if let Some(width) = width {
        table.set_truncation_indicator("…");
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(width);
        let widths = table.column_max_content_widths();
        for (at, column) in table.column_iter_mut().enumerate() {
            // Numbers are never cut.
            if alignments[at] != CellAlignment::Left {
                column.set_constraint(ColumnConstraint::ContentWidth);
            } else {
                column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(widths[at].min(NARROWEST) + 2)));
            }
        }
    }
    let mut text = table.to_string();
    if let Some(note) = note(kept, names.len(), left_out) {
        text.push('\n');
        text.push_str(&note);
    }
    text
}

/// What the table does not show by itself: how long and how wide the result is.
fn note(kept: &Kept, columns: usize, left_out: usize) -> Option<String> {
    const MANY: usize = 10;
    let mut note = match kept.hidden() {
        0 if kept.count == 0 || kept.count > MANY => count(kept.count, "row"),
        0 if left_out == 0 => return None,
        0 => count(kept.count, "row"),
        hidden => format!("{} ({} shown)", count(kept.count, "row"), kept.count - hidden),
    };
    if left_out > 0 {
        note.push_str(&format!(", {} ({} shown)", count(columns, "column"), columns - left_out));
    }
    Some(note)
}

/// "1 row", "12,345 rows"
pub(crate) fn count(number: usize, what: &str) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{grouped} {what}{}", if number == 1 { "" } else { "s" })
}

/// How wide each column's text is.
fn content_widths(names: &[String], types: &[String], kept: &Kept) -> Vec<u16> {
    let mut table = Table::new();
    table.add_row(names);
    table.add_row(types);
    for row in kept.first.iter().chain(&kept.last) {
        table.add_row(row);
    }
    table.column_max_content_widths()
}

/// The columns that fit next to each other into the width, texts cut where they must be: from both ends inwards.
fn fitting(widths: &[u16], right: &[bool], width: u16) -> Vec<usize> {
    let least = |column: usize| -> usize {
        let content = if right[column] { widths[column] } else { widths[column].min(NARROWEST) };
        usize::from(content) + 3
    };
    let width = usize::from(width);
    let all: Vec<usize> = (0..widths.len()).collect();
    if all.iter().map(|column| least(*column)).sum::<usize>() < width {
        return all;
    }
    let gap = 4;
    let mut used = 1 + gap;
    let (mut front, mut back) = (Vec::new(), Vec::new());
    let (mut from, mut to) = (0, widths.len());
    while from < to {
        let at_front = front.len() <= back.len();
        let column = if at_front { from } else { to - 1 };
        used += least(column);
        if used > width && !front.is_empty() {
            break;
        }
        if at_front {
            front.push(column);
            from += 1;
        } else {
            back.push(column);
            to -= 1;
        }
    }
    front.extend(back.into_iter().rev());
    front
}

/// A type as SQL names it.
pub(crate) fn sql_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".to_string(),
        DataType::Int8 | DataType::UInt8 => "tinyint".to_string(),
        DataType::Int16 | DataType::UInt16 => "smallint".to_string(),
        DataType::Int32 | DataType::UInt32 => "integer".to_string(),
        DataType::Int64 | DataType::UInt64 => "bigint".to_string(),
        DataType::Float32 => "real".to_string(),
        DataType::Float64 => "double".to_string(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Date32 => "date".to_string(),
        DataType::Timestamp(TimeUnit::Microsecond, None) => "timestamp".to_string(),
        DataType::Timestamp(_, Some(_)) => "timestamptz".to_string(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".to_string(),
        DataType::Dictionary(_, value) => sql_type(value),
        other => other.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, Date32Array, Float64Array, Int64Array, StringArray};
    use expect_test::{Expect, expect};

    use super::*;

    fn print(batches: Vec<RecordBatch>, format: Format, width: Option<u16>) -> String {
        let mut out = Vec::new();
        let result = Rows { schema: batches[0].schema(), batches: Box::new(batches.into_iter().map(Ok)) };
        rows(&mut out, result, format, width).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn small() -> RecordBatch {
        RecordBatch::try_from_iter([
            ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(-300)])) as ArrayRef),
            ("größe", Arc::new(StringArray::from(vec![Some("a\nb"), Some("日本"), None]))),
            ("x", Arc::new(Float64Array::from(vec![0.1, f64::NAN, 1e300]))),
            ("late", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
            ("day", Arc::new(Date32Array::from(vec![0, 19_000, -1]))),
        ])
        .unwrap()
    }

    fn long(rows: i64) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(0..rows)) as ArrayRef)]).unwrap()
    }

    fn wide(columns: usize) -> RecordBatch {
        RecordBatch::try_from_iter((0..columns).map(|n| {
            let column: ArrayRef = if n % 2 == 0 {
                Arc::new(Int64Array::from(vec![n as i64 * 1_000_000]))
            } else {
                Arc::new(StringArray::from(vec!["a rather long text that does not fit"]))
            };
            (format!("column_{n}"), column)
        }))
        .unwrap()
    }

    fn check(text: String, expected: Expect) {
        expected.assert_eq(&text);
    }

    #[test]
    fn a_small_result_is_a_table() {
        check(
            print(vec![small()], Format::Table, None),
            expect![[r#"
                ┌────────┬───────┬────────┬─────────┬────────────┐
                │    n   │ größe │    x   │   late  │     day    │
                │ bigint │  text │ double │ boolean │    date    │
                ├────────┼───────┼────────┼─────────┼────────────┤
                │      1 │ a↵b   │    0.1 │ true    │ 1970-01-01 │
                │   NULL │ 日本  │    NaN │ false   │ 2022-01-08 │
                │   -300 │ NULL  │  1e300 │ NULL    │ 1969-12-31 │
                └────────┴───────┴────────┴─────────┴────────────┘
            "#]],
        );
    }

    #[test]
    fn csv_leaves_null_empty() {
        check(
            print(vec![small(), small()], Format::Csv, None),
            expect![[r#"
                n,größe,x,late,day
                1,"a
                b",0.1,true,1970-01-01
                ,日本,NaN,false,2022-01-08
                -300,,1e300,,1969-12-31
                1,"a
                b",0.1,true,1970-01-01
                ,日本,NaN,false,2022-01-08
                -300,,1e300,,1969-12-31
            "#]],
        );
        check(
            print(vec![small().slice(0, 0)], Format::Csv, None),
            expect![[r#"
                n,größe,x,late,day
            "#]],
        );
    }

    #[test]
    fn json_is_one_array() {
        check(
            print(vec![small(), small()], Format::Json, None),
            expect![[r#"
                [{"n":1,"größe":"a\nb","x":0.1,"late":true,"day":"1970-01-01"},{"n":null,"größe":"日本","x":null,"late":false,"day":"2022-01-08"},{"n":-300,"größe":null,"x":1.0e300,"late":null,"day":"1969-12-31"},{"n":1,"größe":"a\nb","x":0.1,"late":true,"day":"1970-01-01"},{"n":null,"größe":"日本","x":null,"late":false,"day":"2022-01-08"},{"n":-300,"größe":null,"x":1.0e300,"late":null,"day":"1969-12-31"}]
            "#]],
        );
        check(
            print(vec![small().slice(0, 0)], Format::Json, None),
            expect![[r#"
                []
            "#]],
        );
    }

    #[test]
    fn a_result_without_rows_shows_its_columns() {
        check(
            print(vec![small().slice(0, 0)], Format::Table, None),
            expect![[r#"
                ┌────────┬───────┬────────┬─────────┬──────┐
                │    n   │ größe │    x   │   late  │  day │
                │ bigint │  text │ double │ boolean │ date │
                ├────────┼───────┼────────┼─────────┼──────┤
                └────────┴───────┴────────┴─────────┴──────┘
                0 rows
            "#]],
        );
    }

    #[test]
    fn long_results_are_shortened_in_the_middle() {
        let text = print(vec![long(12_345)], Format::Table, None);
        assert!(text.ends_with("12,345 rows (40 shown)\n"), "{text}");
        assert!(text.contains("│     19 │\n│    ·   │\n│  12325 │"), "{text}");
        // The same whatever the batches are.
        for size in [1, 7, 19, 20, 21, 40, 5_000] {
            let whole = long(12_345);
            let cut = (0..12_345).step_by(size).map(|at| whole.slice(at, size.min(12_345 - at)));
            assert_eq!(print(cut.collect(), Format::Table, None), text, "{size}");
        }
    }

    #[test]
    fn results_of_40_rows_are_shown_whole() {
        let text = print(vec![long(40)], Format::Table, None);
        assert!(!text.contains('·') && text.ends_with("40 rows\n"), "{text}");
        let text = print(vec![long(41)], Format::Table, None);
        assert!(text.contains('·') && text.ends_with("41 rows (40 shown)\n"), "{text}");
    }

    #[test]
    fn wide_results_fit_the_terminal() {
        check(
            print(vec![wide(3)], Format::Table, Some(60)),
            expect![[r#"
                ┌──────────┬────────────────────────────────────┬──────────┐
                │ column_0 │              column_1              │ column_2 │
                │  bigint  │                text                │  bigint  │
                ├──────────┼────────────────────────────────────┼──────────┤
                │        0 │ a rather long text that does not…  │  2000000 │
                └──────────┴────────────────────────────────────┴──────────┘
            "#]],
        );
        check(
            print(vec![wide(9)], Format::Table, Some(80)),
            expect![[r#"
                ┌──────────┬────────────────────┬──────────┬───┬────────────────────┬──────────┐
                │ column_0 │      column_1      │ column_2 │ … │      column_7      │ column_8 │
                │  bigint  │        text        │  bigint  │   │        text        │  bigint  │
                ├──────────┼────────────────────┼──────────┼───┼────────────────────┼──────────┤
                │        0 │ a rather long tex… │  2000000 │ … │ a rather long tex… │  8000000 │
                └──────────┴────────────────────┴──────────┴───┴────────────────────┴──────────┘
                1 row, 9 columns (5 shown)
            "#]],
        );
        for columns in 1..12 {
            for width in 30..200 {
                for line in
                    print(vec![wide(columns)], Format::Table, Some(width)).lines().filter(|l| !l.contains("row"))
                {
                    assert!(line.chars().count() <= usize::from(width), "{columns} columns, {width}:\n{line}");
                }
            }
        }
    }

    #[test]
    fn a_failure_among_the_rows_comes_out() {
        let result = Rows {
            schema: small().schema(),
            batches: Box::new([Ok(small()), Err(Failure::new("division by zero"))].into_iter()),
        };
        let stop = rows(&mut Vec::new(), result, Format::Table, None).unwrap_err();
        assert!(matches!(stop, Stop::Failed(failure) if failure.message == "division by zero"));
    }

    #[test]
    fn a_closed_pipe_is_told_from_a_failure() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        for format in [Format::Table, Format::Csv, Format::Json] {
            let result = Rows { schema: long(10_000).schema(), batches: Box::new(std::iter::once(Ok(long(10_000)))) };
            let stop = rows(&mut Closed, result, format, None).unwrap_err();
            assert!(
                matches!(&stop, Stop::Output(error) if error.kind() == io::ErrorKind::BrokenPipe),
                "{format:?}: {stop:?}"
            );
        }
    }
}
