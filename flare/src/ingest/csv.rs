//! CSV files: `,` or `;`, tab or `|` between fields (whichever the first line has most of); `"` quotes.
//!
//! The file is cut into fields when it is opened, and the type of a column is the narrowest that all its fields have: boolean,
//! `i64`, `f64`, date, timestamp, else text. An empty field is NULL. So a value that does not fit its column cannot occur;
//! a row with too few or too many fields is an error that names its line.
//!
//! The first line is a header, unless it reads like the rows below it: some column is not text, and every field of the line has
//! its column's type. Then the columns are called `column0`, `column1` and so on.

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, AsArray, StringArray};
use arrow::csv::ReaderBuilder;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use ir::types::ScalarType;

use crate::error::{Error, InputError, Result, suggest};
use crate::ingest::{Builder, ColumnDef, Source, Table, Values, in_parallel};

/// Rows that are cut at a time.
const BATCH_ROWS: usize = 8192;
/// A file is cut in parts of at least this many bytes, by several threads.
const MIN_PART: usize = 1 << 20;
/// What quotes fields.
const QUOTE: u8 = b'"';

/// What a statement says of a file; what it does not say is found out.
#[derive(Clone, Debug, Default)]
pub(crate) struct CsvOptions {
    /// What stands between fields.
    delimiter: Option<u8>,
    /// Whether the first line has the names.
    header: Option<bool>,
    /// The field that is NULL; an empty field then is an empty text.
    null: Option<String>,
    /// What quotes fields, if anything does.
    quote: Option<Option<u8>>,
}

/// The value of an option.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OptionValue<'v> {
    Text(&'v str),
    Bool(bool),
}

impl CsvOptions {
    /// Sets an option by DuckDB's name for it.
    ///
    /// # Errors
    /// An option that there is not, with the nearest one; a value of another kind.
    pub(crate) fn set(&mut self, name: &str, value: OptionValue<'_>) -> Result<()> {
        let wrong = |wanted: &str| Err(Error::meaning(format!("the option {name} of read_csv takes {wanted}")));
        match (name, value) {
            ("delim" | "sep" | "delimiter", OptionValue::Text(text)) => match text.as_bytes() {
                [b] => self.delimiter = Some(*b),
                b"\\t" => self.delimiter = Some(b'\t'),
                _ => return wrong("one character of ASCII"),
            },
            ("quote", OptionValue::Text(text)) => match text.as_bytes() {
                [] => self.quote = Some(None),
                [b] => self.quote = Some(Some(*b)),
                _ => return wrong("one character of ASCII, or none"),
            },
            ("header", OptionValue::Bool(header)) => self.header = Some(header),
            ("nullstr" | "null", OptionValue::Text(text)) => self.null = Some(text.to_string()),
            ("delim" | "sep" | "delimiter" | "quote" | "nullstr" | "null", OptionValue::Bool(_)) => {
                return wrong("a text");
            }
            ("header", OptionValue::Text(_)) => return wrong("true or false"),
            _ => {
                let help = suggest(name, ["delim", "sep", "delimiter", "quote", "header", "nullstr"]);
                return Err(Error::name(format!("read_csv has no option {name}"), help));
            }
        }
        Ok(())
    }

    fn quote(&self) -> u8 {
        // A byte that no text has quotes nothing.
        self.quote.unwrap_or(Some(QUOTE)).unwrap_or(0xff)
    }
}

/// The fields of a file.
pub(crate) struct File {
    batches: Vec<RecordBatch>,
    types: Vec<ScalarType>,
}

/// Opens a file: cuts it into fields and infers the types.
pub(crate) fn open(path: &Path, options: &CsvOptions) -> Result<Table> {
    let mut bytes = vec![];
    super::open_file(path)?.read_to_end(&mut bytes).map_err(|e| Error::input(path, e))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    if bytes.trim_ascii().is_empty() {
        return Err(Error::input(path, "the file is empty"));
    }
    let first_end = bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |i| i + 1);
    let delimiter = options.delimiter.unwrap_or_else(|| delimiter_of(&bytes[..first_end]));
    let format = Format { delimiter, quote: options.quote() };
    if bytes.contains(&format.quote) {
        each_record(bytes, format, |_| {}).map_err(|line| unclosed(path, line))?;
    }
    let names = first_line(path, bytes, format)?;
    let fields: Vec<Field> = (0..names.len()).map(|i| Field::new(format!("column{i}"), DataType::Utf8, true)).collect();
    let mut batches = cut(path, bytes, &Arc::new(Schema::new(fields)), format)?;
    if let Some(null) = &options.null {
        batches = batches.iter().map(|b| with_null(b, null)).collect::<Result<_>>()?;
    }
    let first = match batches.first_mut() {
        Some(batch) if batch.num_rows() > 0 => {
            let first = batch.slice(0, 1);
            *batch = batch.slice(1, batch.num_rows() - 1);
            first
        }
        _ => return Err(Error::input(path, "the file is empty")),
    };
    let mut inferred = infer(&batches, names.len())?;
    let names = if options.header.unwrap_or_else(|| is_header(&first, &inferred)) {
        let name = |(i, name): (usize, String)| if name.is_empty() { format!("column{i}") } else { name };
        names.into_iter().enumerate().map(name).collect()
    } else {
        for (i, inferred) in inferred.iter_mut().enumerate() {
            *inferred = first.column(i).as_string::<i32>().iter().flatten().fold(*inferred, Inferred::with);
        }
        batches.insert(0, first);
        (0..names.len()).map(|i| format!("column{i}")).collect::<Vec<_>>()
    };
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    let types: Vec<ScalarType> = inferred.iter().map(|i| i.ty()).collect();
    let columns = names.into_iter().zip(&types).map(|(name, ty)| ColumnDef { name, ty: ty.nullable(true) }).collect();
    Table::from_source(path, columns, rows, Source::Csv(File { batches, types }))
}

/// How fields stand in a file.
#[derive(Clone, Copy)]
struct Format {
    delimiter: u8,
    quote: u8,
}

/// The fields, those that say `null` being NULL, and empty ones empty texts.
fn with_null(batch: &RecordBatch, null: &str) -> Result<RecordBatch> {
    let column = |c: &Arc<dyn Array>| -> Arc<dyn Array> {
        let fields = c.as_string::<i32>();
        let field = |i: usize| if fields.is_valid(i) { fields.value(i) } else { "" };
        Arc::new((0..fields.len()).map(|i| Some(field(i)).filter(|f| *f != null)).collect::<StringArray>())
    };
    let columns = batch.columns().iter().map(column).collect();
    RecordBatch::try_new(batch.schema(), columns).map_err(|e| Error::Bug(e.to_string()))
}

/// The types of all rows but the first line.
fn infer(batches: &[RecordBatch], columns: usize) -> Result<Vec<Inferred>> {
    let inferred: Vec<Mutex<Inferred>> = (0..columns).map(|_| Mutex::new(Inferred::Nothing)).collect();
    in_parallel(columns, threads(), |i| {
        let mut all = Inferred::Nothing;
        for batch in batches {
            all = batch.column(i).as_string::<i32>().iter().flatten().fold(all, Inferred::with);
        }
        *inferred[i].lock().unwrap_or_else(PoisonError::into_inner) = all;
        Ok(())
    })?;
    Ok(inferred.into_iter().map(|i| i.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
}

/// Whether the first line names the columns: it does unless it reads like the rows below it.
fn is_header(first: &RecordBatch, below: &[Inferred]) -> bool {
    let typed = below.iter().any(|i| !matches!(i, Inferred::Nothing | Inferred::Text));
    let fits = |(i, below): (usize, &Inferred)| {
        first.column(i).as_string::<i32>().iter().flatten().all(|field| below.with(field) == *below)
    };
    !(typed && below.iter().enumerate().all(fits))
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn delimiter_of(header: &[u8]) -> u8 {
    let count = |d: u8| header.iter().filter(|b| **b == d).count();
    let mut best = b',';
    for d in [b';', b'\t', b'|'] {
        if count(d) > count(best) {
            best = d;
        }
    }
    best
}

/// Calls `record` with the line, from 1, in which each record begins: as the reader cuts them, empty lines are none, and a
/// quote opens at the beginning of a field only.
///
/// # Errors
/// The line of a quote that nothing closes.
fn each_record(bytes: &[u8], format: Format, mut record: impl FnMut(u64)) -> Result<(), u64> {
    let Format { delimiter, quote } = format;
    let (mut line, mut inside, mut field_begins) = (1, false, true);
    let mut open = None;
    let mut rest = bytes.iter().copied().peekable();
    while let Some(b) = rest.next() {
        if b == b'\n' {
            line += 1;
        }
        match (open, b) {
            // Two quotes inside of quotes are one that is meant.
            (Some(_), b) if b == quote => {
                if rest.next_if_eq(&quote).is_none() {
                    open = None;
                }
            }
            (Some(_), _) => {}
            (None, b'\n' | b'\r') => (inside, field_begins) = (false, true),
            (None, b) => {
                if !std::mem::replace(&mut inside, true) {
                    record(line);
                }
                open = (b == quote && field_begins).then_some(line);
                field_begins = b == delimiter;
            }
        }
    }
    open.map_or(Ok(()), Err)
}

/// The fields of the first line.
fn first_line(path: &Path, bytes: &[u8], format: Format) -> Result<Vec<String>> {
    let Format { delimiter, quote } = format;
    let format = arrow::csv::reader::Format::default().with_header(true).with_delimiter(delimiter).with_quote(quote);
    let (schema, _) = format.infer_schema(bytes, Some(0)).map_err(|e| error(path, &e.to_string(), |n| n))?;
    Ok(schema.fields().iter().map(|f| f.name().trim().to_string()).collect())
}

/// Cuts the rows into fields. A file without quotes is cut in parts at line ends, at the same time.
fn cut(path: &Path, bytes: &[u8], schema: &Arc<Schema>, format: Format) -> Result<Vec<RecordBatch>> {
    let mut starts = vec![0];
    if !bytes.contains(&format.quote) {
        let parts = (bytes.len() / MIN_PART).clamp(1, 4 * threads());
        for i in 1..parts {
            let from = bytes.len() / parts * i;
            let start = bytes[from..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |at| from + at + 1);
            if Some(&start) != starts.last() && start < bytes.len() {
                starts.push(start);
            }
        }
    }
    let parts: Vec<Mutex<Vec<RecordBatch>>> = starts.iter().map(|_| Mutex::new(vec![])).collect();
    in_parallel(starts.len(), threads(), |i| {
        let end = starts.get(i + 1).copied().unwrap_or(bytes.len());
        let part = &bytes[starts[i]..end];
        let place = |e: arrow::error::ArrowError| {
            let lines_before = bytes[..starts[i]].iter().filter(|b| **b == b'\n').count() as u64;
            error(path, &e.to_string(), |n| lines_before + line_of_record(part, format, n))
        };
        let reader = ReaderBuilder::new(schema.clone())
            .with_header(false)
            .with_delimiter(format.delimiter)
            .with_quote(format.quote)
            .with_batch_size(BATCH_ROWS)
            .build_buffered(part);
        let mut out = vec![];
        for batch in reader.map_err(place)? {
            out.push(batch.map_err(place)?);
        }
        *parts[i].lock().unwrap_or_else(PoisonError::into_inner) = out;
        Ok(())
    })?;
    Ok(parts.into_iter().flat_map(|p| p.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
}

fn unclosed(path: &Path, line: u64) -> Error {
    Error::Input(Box::new(InputError {
        path: path.to_path_buf(),
        line: Some(line),
        column: None,
        message: "a quote that opens here is not closed".to_string(),
    }))
}

/// The line, from 1, in which record `n`, from 1, begins.
fn line_of_record(bytes: &[u8], format: Format, n: u64) -> u64 {
    let (mut count, mut line) = (0, n);
    let _ = each_record(bytes, format, |at| {
        count += 1;
        if count == n {
            line = at;
        }
    });
    line
}

/// The reader says in its message which record it was at; `line_of` gives its line.
fn error(path: &Path, message: &str, line_of: impl Fn(u64) -> u64) -> Error {
    let digits = |from: &str| -> Option<u64> {
        let at = message.find(from)? + from.len();
        let rest = message[at..].trim_start();
        rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
    };
    let line = digits("at line ").or_else(|| digits("for line ")).or_else(|| digits("line "));
    let message = message.trim_start_matches("Csv error: ").trim_start_matches("Parser error: ");
    Error::Input(Box::new(InputError {
        path: path.to_path_buf(),
        line: line.map(line_of),
        column: None,
        message: message.to_string(),
    }))
}

/// What all fields of a column seen so far are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Inferred {
    Nothing,
    Bool,
    I64,
    F64,
    Date,
    Timestamp,
    Text,
}

impl Inferred {
    /// With one more field.
    fn with(self, field: &str) -> Self {
        match self {
            Self::Text => Self::Text,
            Self::Nothing => Self::of(field),
            Self::Bool if parse_bool(field).is_some() => self,
            Self::I64 if parse_i64(field).is_some() => self,
            Self::I64 | Self::F64 if parse_f64(field).is_some() => Self::F64,
            Self::Date if parse_date(field).is_some() => self,
            Self::Date | Self::Timestamp if parse_timestamp(field).is_some() => Self::Timestamp,
            Self::Bool | Self::I64 | Self::F64 | Self::Date | Self::Timestamp => Self::Text,
        }
    }

    fn of(field: &str) -> Self {
        if parse_i64(field).is_some() {
            Self::I64
        } else if parse_f64(field).is_some() {
            Self::F64
        } else if parse_date(field).is_some() {
            Self::Date
        } else if parse_timestamp(field).is_some() {
            Self::Timestamp
        } else if parse_bool(field).is_some() {
            Self::Bool
        } else {
            Self::Text
        }
    }

    fn ty(self) -> ScalarType {
        match self {
            Self::Bool => ScalarType::Bool,
            Self::I64 => ScalarType::I64,
            Self::F64 => ScalarType::F64,
            Self::Date => ScalarType::Date,
            Self::Timestamp => ScalarType::Timestamp,
            Self::Nothing | Self::Text => ScalarType::Text,
        }
    }
}

impl File {
    /// Bytes of the fields of column `i`.
    pub(crate) fn bytes(&self, i: usize) -> u64 {
        self.batches.iter().map(|batch| batch.column(i).as_string::<i32>().values().len() as u64).sum()
    }

    /// Reads the fields of column `i` as values.
    pub(crate) fn read(&self, i: usize, builder: &mut Builder) {
        for batch in &self.batches {
            let fields = batch.column(i).as_string::<i32>();
            builder.add_validity(fields.len(), fields.null_count(), (0..fields.len()).map(|row| fields.is_valid(row)));
            // The types were inferred over all fields, so each field parses.
            match &mut builder.values {
                Values::Bool(out) => out.extend(fields.iter().map(|f| f.and_then(parse_bool).unwrap_or_default())),
                Values::I32(out) => out.extend(fields.iter().map(|f| f.and_then(parse_date).unwrap_or_default())),
                Values::I64(out) if self.types[i] == ScalarType::Timestamp => {
                    out.extend(fields.iter().map(|f| f.and_then(parse_timestamp).unwrap_or_default()));
                }
                Values::I64(out) => out.extend(fields.iter().map(|f| f.and_then(parse_i64).unwrap_or_default())),
                Values::F64(out) => out.extend(fields.iter().map(|f| f.and_then(parse_f64).unwrap_or_default())),
                Values::Text(out) => fields.iter().for_each(|f| out.push(f)),
                Values::I128(_) | Values::F32(_) => {}
            }
        }
    }
}

fn parse_bool(field: &str) -> Option<bool> {
    if field.eq_ignore_ascii_case("true") {
        Some(true)
    } else if field.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

fn parse_i64(field: &str) -> Option<i64> {
    if field.starts_with('+') {
        return None;
    }
    field.parse().ok()
}

fn parse_f64(field: &str) -> Option<f64> {
    let number = field.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E'));
    let unsigned = field.strip_prefix('-').unwrap_or(field);
    let word = ["nan", "inf", "infinity"].iter().any(|word| unsigned.eq_ignore_ascii_case(word));
    if number || word { field.parse().ok() } else { None }
}

/// Days since 1970-01-01 of `YYYY-MM-DD`.
fn parse_date(field: &str) -> Option<i32> {
    crate::import::expr::parse_date(field)
}

/// Microseconds since 1970-01-01 of `YYYY-MM-DD HH:MM[:SS[.fffffffff]]`, with `T` for the blank, and `Z`;
/// what is below a microsecond is cut off.
fn parse_timestamp(field: &str) -> Option<i64> {
    let (date, time) = field.split_once([' ', 'T'])?;
    let days = parse_date(date)?;
    let time = time.strip_suffix('Z').unwrap_or(time);
    let (clock, fraction) = time.split_once('.').map_or((time, None), |(clock, fraction)| (clock, Some(fraction)));
    let part = |text: &str, limit: i64| -> Option<i64> {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<i64>().ok().filter(|v| digits && *v < limit)
    };
    let parts: Vec<&str> = clock.split(':').collect();
    let (hours, minutes, seconds) = match parts.as_slice() {
        [hours, minutes] if fraction.is_none() => (hours, minutes, 0),
        [hours, minutes, seconds] => (hours, minutes, part(seconds, 60)?),
        _ => return None,
    };
    let seconds = part(hours, 24)? * 3600 + part(minutes, 60)? * 60 + seconds;
    let fraction = fraction.unwrap_or_default();
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let micros = fraction.bytes().chain(std::iter::repeat(b'0')).take(6).fold(0, |n, b| n * 10 + i64::from(b - b'0'));
    Some((i64::from(days) * 86_400 + seconds) * 1_000_000 + micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<Table> {
        super::open(path, &CsvOptions::default())
    }

    fn write(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn types_are_the_narrowest_of_all_rows() {
        let text = "a,b,c,d,e,f\n1,1,2013-01-01,2013-01-01,true,x7\n,2.5,2013-01-02,2013-01-01 05:00:00,FALSE,8\n";
        let file = write(text);
        let table = open(file.path()).unwrap();
        let types: Vec<ScalarType> = table.columns().iter().map(|c| c.ty.ty).collect();
        use ScalarType as S;
        assert_eq!(types, [S::I64, S::F64, S::Date, S::Timestamp, S::Bool, S::Text]);
        let columns = table.load(&[0, 1, 2, 3, 5], 2).unwrap();
        assert_eq!((columns[0].get_i64(0), columns[0].get_i64(1)), (Some(1), None));
        assert_eq!(columns[1].get_f64(1), Some(2.5));
        assert_eq!(columns[2].get_i64(0), Some(15_706));
        assert_eq!(columns[3].get_i64(1), Some((15_706 * 86_400 + 5 * 3600) * 1_000_000));
        assert_eq!(columns[4].get_text(0), Some("x7"));
        assert!(table.column_type(0).nullable && !table.column_type(1).nullable);
    }

    #[test]
    fn quotes_and_other_delimiters() {
        let file = write("a;b\n\"x;\ny\";1\n\"say \"\"hi\"\"\";2\n");
        let table = open(file.path()).unwrap();
        let columns = table.load(&[0, 1], 1).unwrap();
        assert_eq!(columns[0].get_text(0), Some("x;\ny"));
        assert_eq!(columns[0].get_text(1), Some("say \"hi\""));
        assert_eq!(columns[1].get_i64(1), Some(2));
    }

    fn names(table: &Table) -> Vec<&str> {
        table.columns().iter().map(|c| c.name.as_str()).collect()
    }

    #[test]
    fn a_first_line_that_reads_like_the_others_is_no_header() {
        let table = open(write("1,x\n2,y\n").path()).unwrap();
        assert_eq!((names(&table), table.rows()), (vec!["column0", "column1"], 2));
        let columns = table.load(&[0, 1], 1).unwrap();
        assert_eq!((columns[0].get_i64(0), columns[1].get_text(1)), (Some(1), Some("y")));
        // Only texts, or nothing below: the first line has the names.
        let table = open(write("a,b\nx,y\n").path()).unwrap();
        assert_eq!((names(&table), table.rows()), (vec!["a", "b"], 1));
        let table = open(write("1,2\n").path()).unwrap();
        assert_eq!((names(&table), table.rows()), (vec!["1", "2"], 0));
        // A field that does not have its column's type makes it a header, and one without a name gets one.
        let table = open(write("2013,,y\n1,2,3\n").path()).unwrap();
        assert_eq!((names(&table), table.rows()), (vec!["2013", "column1", "y"], 1));
        let table = open(write("year,2014\n1,2\n").path()).unwrap();
        assert_eq!((names(&table), table.rows()), (vec!["year", "2014"], 1));
    }

    #[test]
    fn fields_of_times_and_special_numbers() {
        let at = |hours: i64, minutes: i64, micros: i64| Some(((hours * 60 + minutes) * 60) * 1_000_000 + micros);
        for (field, expected) in [
            ("1970-01-01 05:06", at(5, 6, 0)),
            ("1970-01-01T05:06:07Z", at(5, 6, 7_000_000)),
            ("1970-01-01 05:06:07.5", at(5, 6, 7_500_000)),
            ("1970-01-01 05:06:07.123456789", at(5, 6, 7_123_456)),
            ("1970-01-01 05:06:99", None),
            ("1970-01-01 05:6", None),
            ("1970-01-01 05:06.5", None),
            ("1970-01-01 24:00:00", None),
            ("1970-01-01 05:06:07.1234567890", None),
            ("1970-01-01", None),
        ] {
            assert_eq!(parse_timestamp(field), expected, "{field}");
        }
        let table = open(write("x\n1.5\nNaN\n-inf\n").path()).unwrap();
        let column = table.load(&[0], 1).unwrap().remove(0);
        assert_eq!(column.get_f64(2), Some(f64::NEG_INFINITY));
        assert!(column.get_f64(1).unwrap().is_nan());
        assert_eq!(
            (parse_f64("information"), parse_f64("0x10"), parse_f64("1_0"), parse_f64("")),
            (None, None, None, None)
        );
    }

    #[test]
    fn malformed_files_name_their_line() {
        let file = write("a,b\n1,2\n3\n");
        let Error::Input(e) = open(file.path()).unwrap_err() else { panic!() };
        assert_eq!(e.line, Some(3), "{e}");
        for (bytes, line) in [(&b"a,b\n1,2\n3,4,5\n"[..], 3), (b"a,b\n1,2\n3,\xff\n", 3)] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            let Error::Input(e) = open(file.path()).unwrap_err() else { panic!() };
            assert_eq!(e.line, Some(line), "{e}");
        }
        for (text, line, message) in [
            ("a,b\n1,\"x\n2,y\n", 2, "a quote that opens here is not closed"),
            ("a,b\n\"1\n\n\",x\n2,\"y\"\"\n", 5, "a quote that opens here is not closed"),
            ("a,b\n\"1\n2\n3\",x\n\n4,5,6\n", 6, "incorrect number of fields"),
            ("a,b\n\n\n4,5,6\n", 4, "incorrect number of fields"),
            ("a,b\r\n\"1\r\n2\",x\r\n3\r\n", 4, "incorrect number of fields"),
        ] {
            let Error::Input(e) = open(write(text).path()).unwrap_err() else { panic!() };
            assert_eq!(e.line, Some(line), "{text:?}: {e}");
            assert!(e.to_string().contains(message), "{text:?}: {e}");
        }
        // A quote inside of a field that none began is text.
        assert_eq!(open(write("a,b\n1,5\" pipe\n").path()).unwrap().rows(), 1);
        for nothing in ["", "\n", "  \r\n"] {
            assert!(open(write(nothing).path()).unwrap_err().to_string().contains("the file is empty"));
        }
        let folder = tempfile::tempdir().unwrap();
        assert!(open(folder.path()).unwrap_err().to_string().contains("this is a folder, not a file"));
        let file = write("a,a\n1,2\n");
        assert!(open(file.path()).unwrap_err().to_string().contains("another column of this name"));
        assert!(open(Path::new("/no/such/file.csv")).is_err());
    }

    #[test]
    fn large_files_are_cut_in_parts() {
        let mut text = String::from("n,t\n");
        for i in 0..400_000 {
            text += &format!("{i},row {i}\n");
        }
        let file = write(&text);
        let table = open(file.path()).unwrap();
        assert_eq!(table.rows(), 400_000);
        let columns = table.load(&[0, 1], 3).unwrap();
        assert!((0..400_000).step_by(997).all(|i| columns[0].get_i64(i) == Some(i as i64)));
        assert_eq!(columns[1].get_text(399_999), Some("row 399999"));
        text += "1,2,3\n";
        let Error::Input(e) = open(write(&text).path()).unwrap_err() else { panic!() };
        assert_eq!(e.line, Some(400_002), "{e}");
    }
}
