//! The files that the benchmarks read. They are made once, below `target/bench-data`; the peers' scripts read the
//! same ones.
//!
//! What holds: a file is written whole or not at all (a temporary file in the same folder, renamed when complete);
//! a file that exists is never written again; the same arguments give the same rows.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;

use ::tests::r#gen::Table;
use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::compute::kernels::numeric::add;
use arrow::datatypes::{Int64Type, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use tempfile::NamedTempFile;

use crate::{Error, Result};

/// Rows of a Parquet row group: the unit in which engines share out a scan.
const ROW_GROUP: usize = 122_880;

/// The kind of the input files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Parquet, compressed with Snappy.
    Parquet,
    /// CSV with a line of names; NULL is the empty field.
    Csv,
}

impl Format {
    /// The ending of the files, without the point.
    pub fn ending(self) -> &'static str {
        match self {
            Format::Parquet => "parquet",
            Format::Csv => "csv",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.ending())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "parquet" => Ok(Format::Parquet),
            "csv" => Ok(Format::Csv),
            other => Err(format!("{other:?} is neither parquet nor csv")),
        }
    }
}

/// The tables of the flights, each a file of this name.
pub const FLIGHTS: [&str; 5] = ["flights", "weather", "planes", "airports", "airlines"];

/// The tables of TPC-H.
pub const TPCH: [Table; 8] = Table::ALL;

/// A path of the command line: `cargo bench` runs in the package's folder, so relative ones count from the
/// workspace root.
pub fn from_root(path: &Path) -> PathBuf {
    ::tests::tpch::workspace().join(path)
}

/// The folder for data made here: `target/bench-data`, or below `CARGO_TARGET_DIR`.
pub fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    from_root(&target).join("bench-data")
}

/// The path of a table's file.
pub fn file(folder: &Path, table: &str, format: Format) -> PathBuf {
    folder.join(format!("{table}.{}", format.ending()))
}

/// The folder with the given TPC-H tables at a scale factor; what is missing in it is made. A file `SF` beside the
/// tables holds the scale factor, as `gen.sh` writes it; a folder of another scale factor is an error.
pub fn tpch(at: Option<&Path>, scale_factor: f64, tables: &[Table], format: Format) -> Result<PathBuf> {
    let folder = at.map_or_else(|| folder().join(format!("tpch-sf{scale_factor}")), from_root);
    match scale_factor_of(&folder)? {
        Some(found) if found != scale_factor => {
            return Err(format!("{} holds SF {found}, not SF {scale_factor}", folder.display()).into());
        }
        Some(_) => {}
        None => whole(&folder.join("SF"), |out| Ok(writeln!(out, "{scale_factor}")?))?,
    }
    in_parallel(tables, |table| {
        whole(&file(&folder, table.name(), format), |out| {
            let batches = table.generate(scale_factor, ROW_GROUP);
            write(out, format, batches.schema().clone(), batches.map(Ok))
        })
    })?;
    Ok(folder)
}

/// The scale factor that a folder's file `SF` gives, or `None` without one.
pub fn scale_factor_of(folder: &Path) -> Result<Option<f64>> {
    let path = folder.join("SF");
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path)?;
    match text.trim().parse() {
        Ok(scale_factor) => Ok(Some(scale_factor)),
        Err(_) => Err(format!("{}: {:?} is no scale factor", path.display(), text.trim()).into()),
    }
}

/// The folder with `copies` copies of the flights of 2013: copy `i` of flights and weather has year + `i`, the other
/// tables are as they are. Of the weather, the second report of an hour is dropped, so that a flight joins one.
pub fn flights(copies: u32, format: Format) -> Result<PathBuf> {
    let folder = folder().join(format!("flights_k{copies}"));
    in_parallel(&FLIGHTS, |&table| {
        whole(&file(&folder, table, format), |out| {
            let (schema, mut batches) = read(&source().join(format!("{table}.parquet")))?;
            let copies = match table {
                "flights" => copies,
                "weather" => {
                    batches = first_report_of_an_hour(&batches)?;
                    copies
                }
                _ => 1,
            };
            let shifted =
                (0..i64::from(copies)).flat_map(|copy| batches.iter().map(move |batch| later_by_years(batch, copy)));
            write(out, format, schema.clone(), shifted)
        })
    })?;
    Ok(folder)
}

/// The folder of the flights of 2013 in the repository.
pub fn source() -> PathBuf {
    from_root(Path::new("flern/data/nycflights13"))
}

/// Writes a file whole or not at all, unless it exists.
fn whole(path: &Path, fill: impl FnOnce(&mut dyn WriteSend) -> Result<()>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let failed = |error: Error| -> Error { format!("{}: {error}", path.display()).into() };
    let folder = path.parent().ok_or("a file needs a folder")?;
    fs::create_dir_all(folder)?;
    let mut out = BufWriter::with_capacity(1 << 20, NamedTempFile::new_in(folder)?);
    fill(&mut out).map_err(failed)?;
    out.flush()?;
    let out = out.into_inner().map_err(|e| failed(e.into_error().into()))?;
    out.persist(path).map_err(|e| failed(e.error.into()))?;
    Ok(())
}

/// What the Parquet writer asks of its target.
trait WriteSend: Write + Send {}
impl<W: Write + Send> WriteSend for W {}

fn write(
    out: &mut dyn WriteSend,
    format: Format,
    schema: SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch>>,
) -> Result<()> {
    match format {
        Format::Parquet => {
            let properties = WriterProperties::builder()
                .set_compression(Compression::SNAPPY)
                .set_max_row_group_row_count(Some(ROW_GROUP))
                .build();
            let mut writer = ArrowWriter::try_new(out, schema, Some(properties))?;
            for batch in batches {
                writer.write(&batch?)?;
            }
            writer.close()?;
        }
        Format::Csv => {
            let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(out);
            for batch in batches {
                writer.write(&batch?)?;
            }
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let schema = reader.schema().clone();
    let batches = reader.with_batch_size(ROW_GROUP).build()?.collect::<Result<Vec<_>, _>>()?;
    Ok((schema, batches))
}

fn later_by_years(batch: &RecordBatch, years: i64) -> Result<RecordBatch> {
    let schema = batch.schema();
    // Planes have a year too, that of their make; they have one copy.
    let Ok(at) = schema.index_of("year") else {
        return Ok(batch.clone());
    };
    if years == 0 {
        return Ok(batch.clone());
    }
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    columns[at] = add(&columns[at], &Int64Array::new_scalar(years))?;
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// Keeps the first row of each (origin, year, month, day, hour): when the clocks go back, an hour comes twice.
fn first_report_of_an_hour(batches: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
    let mut seen = HashSet::new();
    let mut kept = Vec::new();
    for batch in batches {
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("weather has no column {name}"));
        let origin = column("origin")?;
        let origin = origin.as_string_opt::<i32>().ok_or("weather.origin is not text")?;
        let mut numbers = Vec::new();
        for name in ["year", "month", "day", "hour"] {
            let values = column(name)?.as_primitive_opt::<Int64Type>();
            numbers.push(values.ok_or_else(|| format!("weather.{name} is not a 64-bit integer"))?);
        }
        let first: BooleanArray = (0..batch.num_rows())
            .map(|row| {
                let when: Vec<i64> = numbers.iter().map(|column| column.value(row)).collect();
                Some(seen.insert((origin.value(row).to_owned(), when)))
            })
            .collect();
        kept.push(filter_record_batch(batch, &first)?);
    }
    Ok(kept)
}

fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    thread::scope(|scope| {
        let running: Vec<_> = items.iter().map(|item| scope.spawn(move || work(item))).collect();
        running
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_file_that_fails_half_way_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/x.csv");
        let failed = whole(&path, |out| {
            out.write_all(b"half")?;
            Err("the disk is full".into())
        });
        assert!(failed.unwrap_err().to_string().contains("the disk is full"));
        assert!(!path.exists());
        assert_eq!(fs::read_dir(folder.path().join("sub")).unwrap().count(), 0, "a temporary file was left");
    }

    #[test]
    fn a_file_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let calls = AtomicUsize::new(0);
        for _ in 0..2 {
            whole(&path, |out| {
                calls.fetch_add(1, Ordering::Relaxed);
                Ok(out.write_all(b"all of it")?)
            })
            .unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"all of it");
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn tpch_files_carry_their_scale_factor() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("data");
        tpch(Some(&at), 0.01, &[Table::Nation], Format::Parquet).unwrap();
        tpch(Some(&at), 0.01, &[Table::Region], Format::Csv).unwrap();
        assert_eq!(scale_factor_of(&at).unwrap(), Some(0.01));
        let (_, nations) = read(&at.join("nation.parquet")).unwrap();
        assert_eq!(nations.iter().map(RecordBatch::num_rows).sum::<usize>(), 25);
        let regions = fs::read_to_string(at.join("region.csv")).unwrap();
        assert_eq!(regions.lines().next(), Some("r_regionkey,r_name,r_comment"));
        assert_eq!(regions.lines().count(), 6);
        let error = tpch(Some(&at), 1.0, &[Table::Nation], Format::Parquet).unwrap_err();
        assert!(error.to_string().ends_with("holds SF 0.01, not SF 1"), "{error}");
    }

    #[test]
    fn copies_of_the_weather_move_by_a_year_and_hours_come_once() {
        use arrow::array::StringArray;
        let batch = RecordBatch::try_from_iter([
            ("origin", Arc::new(StringArray::from(vec!["EWR", "EWR", "JFK"])) as ArrayRef),
            ("year", Arc::new(Int64Array::from(vec![2013, 2013, 2013])) as ArrayRef),
            ("month", Arc::new(Int64Array::from(vec![11, 11, 11])) as ArrayRef),
            ("day", Arc::new(Int64Array::from(vec![3, 3, 3])) as ArrayRef),
            ("hour", Arc::new(Int64Array::from(vec![1, 1, 1])) as ArrayRef),
            ("temp", Arc::new(Int64Array::from(vec![50, 51, 52])) as ArrayRef),
        ])
        .unwrap();
        let kept = first_report_of_an_hour(&[batch.clone(), batch]).unwrap();
        let temp: Vec<i64> =
            kept.iter().flat_map(|batch| batch.column(5).as_primitive::<Int64Type>().values().to_vec()).collect();
        assert_eq!(temp, [50, 52]);
        let moved = later_by_years(&kept[0], 7).unwrap();
        assert_eq!(moved.column(1).as_primitive::<Int64Type>().values()[..], [2020, 2020]);
    }
}
