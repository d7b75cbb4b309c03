//! Parquet files: the footer when a file is opened, a column when it is needed.
//!
//! What most columns are is decoded by row groups ([`direct`]); for everything else Arrow's reader makes arrays of a whole column.

mod direct;
#[cfg(test)]
mod direct_tests;
mod hybrid;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use ::arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::Encoding;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

use crate::error::{Error, Result};
use crate::ingest::{Builder, ColumnDef, Source, Table, arrow};

pub(super) use direct::{Codes, Direct, Refused};

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 64 << 10;

/// An opened file.
pub(crate) struct File {
    metadata: ArrowReaderMetadata,
    /// Size and time of the last change, when it was opened.
    stamp: (u64, Option<std::time::SystemTime>),
}

/// Opens a file: reads and checks its footer.
pub(crate) fn open(path: &Path) -> Result<Table> {
    let file = super::open_file(path)?;
    let stamp = stamp(path, &file)?;
    let metadata = contained(|| {
        let found = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())?;
        let options = ArrowReaderOptions::new().with_schema(Arc::new(as_read(&found)));
        ArrowReaderMetadata::try_new(Arc::clone(found.metadata()), options)
    })
    .map_err(|e| Error::input(path, e))?;
    let mut columns = vec![];
    for field in metadata.schema().fields() {
        let ty = arrow::column_type(path, field)?.nullable(true);
        columns.push(ColumnDef { name: field.name().clone(), ty });
    }
    let rows = usize::try_from(metadata.metadata().file_metadata().num_rows());
    let rows = rows.map_err(|_| Error::input(path, "the footer has a negative number of rows"))?;
    Table::from_source(path, columns, rows, Source::Parquet(File { metadata, stamp }))
}

/// Runs a reader. What it says is wrong with the file, and where it panics over it, is an error.
fn contained<T>(read: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string().trim_start_matches("Parquet error: ").to_string()),
        Err(_) => Err("the file is malformed".to_string()),
    }
}

/// The schema to read a file by: texts keep the dictionaries that they are stored with, and are not copied where they have none.
fn as_read(found: &ArrowReaderMetadata) -> Schema {
    let leaves = found.parquet_schema().columns();
    let field = |field: &Arc<Field>| -> Arc<Field> {
        if !matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
            return Arc::clone(field);
        }
        let leaf = leaves.iter().position(|leaf| leaf.path().parts() == [field.name().as_str()]);
        let ty = match leaf {
            Some(leaf) if is_dictionary(found.metadata(), leaf) => {
                DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
            }
            _ => DataType::Utf8View,
        };
        Arc::new(field.as_ref().clone().with_data_type(ty))
    };
    let fields: Vec<Arc<Field>> = found.schema().fields().iter().map(field).collect();
    Schema::new_with_metadata(fields, found.schema().metadata().clone())
}

/// Whether every value of a column is stored by a dictionary.
fn is_dictionary(file: &ParquetMetaData, leaf: usize) -> bool {
    let by_dictionary = |e: Encoding| matches!(e, Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY);
    let of_levels = |e: Encoding| e == Encoding::RLE;
    let chunk = |chunk: &ColumnChunkMetaData| {
        let has_dictionary = chunk.dictionary_page_offset().is_some();
        has_dictionary
            && match chunk.page_encoding_stats_mask() {
                Some(mask) => mask.encodings().all(by_dictionary),
                // This list has the encoding of the dictionary itself as well: PLAIN in it may mean that or a page of values.
                None => chunk.encodings().all(|e| by_dictionary(e) || of_levels(e)),
            }
    };
    file.num_row_groups() > 0 && file.row_groups().iter().all(|group| group.columns().get(leaf).is_some_and(chunk))
}

fn stamp(path: &Path, file: &std::fs::File) -> Result<(u64, Option<std::time::SystemTime>)> {
    let data = file.metadata().map_err(|e| Error::input(path, e))?;
    Ok((data.len(), data.modified().ok()))
}

impl File {
    /// Bytes of column `i`, uncompressed.
    pub(crate) fn bytes(&self, i: usize) -> u64 {
        let groups = self.metadata.metadata().row_groups().iter();
        groups.filter_map(|group| u64::try_from(group.columns().get(i)?.uncompressed_size()).ok()).sum()
    }

    /// The file itself, which is what it was when it was opened.
    pub(super) fn reopen(&self, path: &Path) -> Result<std::fs::File> {
        let file = std::fs::File::open(path).map_err(|e| Error::input(path, e))?;
        if stamp(path, &file)? != self.stamp {
            return Err(Error::input(path, "the file has changed since it was registered; register it again"));
        }
        Ok(file)
    }

    /// Decodes column `i` by Arrow's reader.
    pub(crate) fn read(&self, path: &Path, i: usize, name: &str, builder: &mut Builder) -> Result<()> {
        let wrong = |e: &dyn std::fmt::Display| Error::input_column(path, name, e);
        let file = self.reopen(path)?;
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), [i]);
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS);
        let mut reader = contained(|| reader.build()).map_err(|e| wrong(&e))?;
        while let Some(batch) = contained(|| Ok(reader.next().transpose()?)).map_err(|e| wrong(&e))? {
            arrow::append(builder, batch.column(0).as_ref()).map_err(|e| wrong(&e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ::arrow::array::{
        ArrayRef, BooleanArray, Date32Array, Date64Array, Decimal32Array, Decimal64Array, Decimal128Array,
        DictionaryArray, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, LargeStringArray,
        ListArray, RecordBatch, StringArray, StringViewArray, StructArray, Time64MicrosecondArray,
        TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray,
        UInt8Array, UInt16Array, UInt32Array, UInt64Array,
    };
    use ::arrow::datatypes::{Int32Type, Int64Type};
    use ir::types::ScalarType;
    use parquet::arrow::ArrowWriter;
    use parquet::basic::{Compression, GzipLevel, ZstdLevel};
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use runtime::column::Column;

    use super::*;

    fn file_of(batch: &RecordBatch, properties: WriterProperties) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = ArrowWriter::try_new(file.reopen().unwrap(), batch.schema(), Some(properties)).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
        file
    }

    /// `f` of each row's number; NULL in every third.
    fn column<T, A: FromIterator<Option<T>> + ::arrow::array::Array + 'static>(
        rows: i64,
        f: impl Fn(i64) -> T,
    ) -> ArrayRef {
        Arc::new((0..rows).map(|i| (i % 3 != 1).then(|| f(i))).collect::<A>())
    }

    fn every_type(rows: i64) -> RecordBatch {
        let text = |i: i64| if i % 2 == 0 { format!("{}", i % 7) } else { format!("a text that is long, {}", i % 50) };
        let decimals = |precision: u8| {
            let limit = 10i128.pow(precision.into());
            move |i: i64| (i128::from(i) - 300) * (limit / 1000) + 7
        };
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("bool", column::<_, BooleanArray>(rows, |i| i % 2 == 0)),
            ("i8", column::<_, Int8Array>(rows, |i| (i % 256 - 128) as i8)),
            ("i16", column::<_, Int16Array>(rows, |i| (i * 100 - 30_000) as i16)),
            ("i32", column::<_, Int32Array>(rows, |i| (i * 1_000_003 - i64::from(i32::MAX)) as i32)),
            ("i64", column::<_, Int64Array>(rows, |i| i64::MIN + i)),
            ("u8", column::<_, UInt8Array>(rows, |i| (i % 256) as u8)),
            ("u16", column::<_, UInt16Array>(rows, |i| u16::MAX - i as u16)),
            ("u32", column::<_, UInt32Array>(rows, |i| u32::MAX - i as u32)),
            ("u64", column::<_, UInt64Array>(rows, |i| (i64::MAX - i) as u64)),
            ("f32", column::<_, Float32Array>(rows, |i| i as f32 / 3.0)),
            ("f64", column::<_, Float64Array>(rows, |i| i as f64 / 3.0)),
            ("date32", column::<_, Date32Array>(rows, |i| (i - 300) as i32 * 50)),
            ("date64", column::<_, Date64Array>(rows, |i| (i - 300) * 86_400_000)),
            ("seconds", column::<_, TimestampSecondArray>(rows, |i| (i - 300) * 100_000_007)),
            ("milliseconds", column::<_, TimestampMillisecondArray>(rows, |i| (i - 300) * 10_000_000_019)),
            ("microseconds", column::<_, TimestampMicrosecondArray>(rows, |i| (i - 300) * 10_000_000_000_037)),
            ("nanoseconds", column::<_, TimestampNanosecondArray>(rows, |i| (i - 300) * 10_000_000_000_000_061)),
            (
                "decimal32",
                Arc::new(
                    (0..rows)
                        .map(|i| (i % 3 != 1).then(|| decimals(8)(i) as i32))
                        .collect::<Decimal32Array>()
                        .with_precision_and_scale(9, 2)
                        .unwrap(),
                ),
            ),
            (
                "decimal64",
                Arc::new(
                    (0..rows)
                        .map(|i| (i % 3 != 1).then(|| decimals(17)(i) as i64))
                        .collect::<Decimal64Array>()
                        .with_precision_and_scale(18, 4)
                        .unwrap(),
                ),
            ),
            (
                "decimal128",
                Arc::new(
                    (0..rows)
                        .map(|i| (i % 3 != 1).then(|| decimals(37)(i)))
                        .collect::<Decimal128Array>()
                        .with_precision_and_scale(38, 10)
                        .unwrap(),
                ),
            ),
            ("text", column::<_, StringArray>(rows, text)),
            ("large_text", column::<_, LargeStringArray>(rows, text)),
            ("text_view", column::<_, StringViewArray>(rows, text)),
            ("distinct_text", column::<_, StringArray>(rows, |i| format!("text {i}"))),
            ("nothing", Arc::new(StringArray::from(vec![None::<&str>; rows as usize]))),
            (
                "dictionary",
                Arc::new(
                    (0..rows)
                        .map(|i| (i % 3 != 1).then_some(["x", "a longer text than twelve"][i as usize % 2]))
                        .collect::<DictionaryArray<Int32Type>>(),
                ),
            ),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
    }

    /// What a file says is what its batch says.
    fn check(path: &Path, batch: &RecordBatch) {
        let expected = Table::from_batches("expected", &batch.schema(), std::slice::from_ref(batch)).unwrap();
        let table = open(path).unwrap();
        let all: Vec<usize> = (0..batch.num_columns()).collect();
        let (columns, wanted) = (table.load(&all, 2).unwrap(), expected.load(&all, 1).unwrap());
        assert_eq!(table.rows(), batch.num_rows());
        for (i, (column, wanted)) in columns.iter().zip(&wanted).enumerate() {
            let name = &table.columns()[i].name;
            assert_eq!(table.column_type(i), expected.column_type(i), "{name}");
            assert_eq!(column.stats(), wanted.stats(), "{name}");
            let value = |column: &Column, row: usize| match table.columns()[i].ty.ty {
                ScalarType::Bool => format!("{:?}", column.get_bool(row)),
                ScalarType::F32 | ScalarType::F64 => format!("{:?}", column.get_f64(row)),
                ScalarType::Text => format!("{:?}", column.get_text(row)),
                _ => format!("{:?}", column.get_i128(row)),
            };
            for row in 0..table.rows() {
                assert_eq!(value(column, row), value(wanted, row), "{name}, row {row}");
            }
        }
    }

    #[test]
    fn every_type_in_every_compression_and_encoding() {
        let batch = every_type(600);
        let gzip = Compression::GZIP(GzipLevel::default());
        let zstd = Compression::ZSTD(ZstdLevel::default());
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, zstd, Compression::LZ4_RAW, gzip] {
            for dictionary in [true, false] {
                let properties = WriterProperties::builder()
                    .set_compression(compression)
                    .set_dictionary_enabled(dictionary)
                    .set_max_row_group_row_count(Some(250))
                    .build();
                check(file_of(&batch, properties).path(), &batch);
            }
        }
        // Dictionaries that are given up within a row group: pages of both kinds.
        let properties = WriterProperties::builder()
            .set_dictionary_page_size_limit(64)
            .set_write_batch_size(32)
            .set_data_page_row_count_limit(64)
            .build();
        check(file_of(&batch, properties).path(), &batch);
        // No row, and no row group.
        check(file_of(&batch.slice(0, 0), WriterProperties::default()).path(), &batch.slice(0, 0));
    }

    #[test]
    fn decimals_as_byte_arrays() {
        let schema = parse_message_type("message m { optional binary d (DECIMAL(30, 2)); }").unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let properties = Arc::new(WriterProperties::default());
        let mut writer = SerializedFileWriter::new(file.reopen().unwrap(), Arc::new(schema), properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        // Big-endian, as short as they come.
        let values = [vec![1u8], vec![0xff], vec![0x01, 0x00], vec![0x80, 0, 0, 0, 0, 0, 0, 0, 0]].map(ByteArray::from);
        column.typed::<ByteArrayType>().write_batch(&values, Some(&[1, 1, 0, 1, 1]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        let table = open(file.path()).unwrap();
        let column = table.load(&[0], 1).unwrap().remove(0);
        let read: Vec<Option<i128>> = (0..5).map(|row| column.get_i128(row)).collect();
        assert_eq!(read, [Some(1), Some(-1), None, Some(256), Some(-(1 << 71))]);
    }

    #[test]
    fn types_without_a_counterpart_name_their_column() {
        let list: ArrayRef =
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None]));
        let inner: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let inner_field = Arc::new(Field::new("inner", DataType::Int64, true));
        let structure: ArrayRef = Arc::new(StructArray::from(vec![(inner_field, inner)]));
        let time: ArrayRef = Arc::new(Time64MicrosecondArray::from(vec![1, 2]));
        let bytes: ArrayRef = Arc::new(::arrow::array::BinaryArray::from_vec(vec![b"a", b"b"]));
        for array in [list, structure, time, bytes] {
            let good: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
            let batch = RecordBatch::try_from_iter([("good", good), ("odd", array)]).unwrap();
            let file = file_of(&batch, WriterProperties::default());
            let Error::Input(e) = open(file.path()).unwrap_err() else { panic!() };
            assert_eq!(e.column.as_deref(), Some("odd"), "{e}");
            assert!(e.message.contains("is not supported"), "{e}");
        }
    }

    #[test]
    fn values_that_do_not_fit_name_their_column() {
        let big: ArrayRef = Arc::new(UInt64Array::from(vec![1, u64::MAX]));
        let late: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![1, i64::MAX]));
        for array in [big, late] {
            let batch = RecordBatch::try_from_iter([("odd", array)]).unwrap();
            let file = file_of(&batch, WriterProperties::default());
            let error = open(file.path()).unwrap().load(&[0], 1).unwrap_err().to_string();
            assert!(error.contains("column odd") && error.contains("is out of range"), "{error}");
        }
    }

    #[test]
    fn malformed_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        assert!(open(folder.path()).unwrap_err().to_string().contains("this is a folder, not a file"));
        assert!(open(&folder.path().join("none.parquet")).unwrap_err().to_string().contains("No such file"));
        let batch = every_type(90);
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let file = file_of(&batch, properties);
        let bytes = std::fs::read(file.path()).unwrap();
        let path = folder.path().join("bad.parquet");
        let all: Vec<usize> = (0..batch.num_columns()).collect();
        for len in (0..bytes.len()).step_by(97) {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert!(open(&path).is_err(), "cut at {len}");
        }
        std::fs::write(&path, b"this is no Parquet file").unwrap();
        assert!(open(&path).is_err());
        // A wrong byte is an error or a wrong value, and nothing else.
        let mut refused = 0;
        for at in (0..bytes.len()).step_by(37) {
            for flip in [0x01, 0xff] {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                std::fs::write(&path, &bad).unwrap();
                match open(&path).and_then(|table| table.load(&all[..all.len().min(table.columns().len())], 1)) {
                    Ok(columns) => assert!(columns.iter().all(|c| c.len() == columns[0].len()), "byte {at}"),
                    Err(Error::Input(_)) => refused += 1,
                    Err(other) => panic!("byte {at}: {other}"),
                }
            }
        }
        assert!(refused > 0);
    }

    #[test]
    fn a_file_that_changes_is_an_error() {
        let batch = every_type(10);
        let file = file_of(&batch, WriterProperties::default());
        let table = open(file.path()).unwrap();
        let other = file_of(&batch.slice(0, 5), WriterProperties::default());
        std::fs::copy(other.path(), file.path()).unwrap();
        let error = table.load(&[0], 1).unwrap_err().to_string();
        assert!(error.contains("the file has changed"), "{error}");
    }
}
