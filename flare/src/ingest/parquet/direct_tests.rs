//! Columns are the same whether their pages are decoded here or by Arrow's reader.

use std::path::Path;
use std::sync::Arc;

use ::arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array,
    RecordBatch, StringArray, TimestampMicrosecondArray,
};
use ::arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use runtime::column::{Column, ColumnKind};

use super::*;
use crate::ingest::{Room, column_kind};

/// Rows of more than one zone, in row groups that do not end with it.
const ROWS: usize = 70_000;

/// What follows from the number of a row, somewhat at random.
fn mixed(row: usize) -> i64 {
    (row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) as i64
}

/// A column of every type that is decoded here, and NULL in every row that `null` names.
fn batch(rows: usize, null: impl Fn(usize) -> bool + Copy) -> RecordBatch {
    fn column<T, A: FromIterator<Option<T>> + ::arrow::array::Array + 'static>(
        rows: usize,
        null: impl Fn(usize) -> bool,
        f: impl Fn(usize) -> T,
    ) -> ArrayRef {
        Arc::new((0..rows).map(|i| (!null(i)).then(|| f(i))).collect::<A>())
    }
    let few = |i: usize| mixed(i).rem_euclid(200);
    let decimal = |precision: u8, limit: i128| -> ArrayRef {
        let values = (0..rows).map(|i| (!null(i)).then(|| i128::from(mixed(i)) % limit));
        Arc::new(values.collect::<Decimal128Array>().with_precision_and_scale(precision, 2).unwrap())
    };
    let texts = ["", "a", "some text", "a text that is longer than a view", "ü"];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("bool", column::<_, BooleanArray>(rows, null, |i| few(i) < 50)),
        ("bytes", column::<_, Int64Array>(rows, null, |i| few(i) - 100)),
        ("with_base", column::<_, Int64Array>(rows, null, |i| 1_000_000_000_000 + few(i))),
        ("shorts", column::<_, Int32Array>(rows, null, |i| (mixed(i) % 30_000) as i32)),
        ("all_i32", column::<_, Int32Array>(rows, null, |i| mixed(i) as i32)),
        ("all_i64", column::<_, Int64Array>(rows, null, mixed)),
        ("rising", column::<_, Int64Array>(rows, null, |i| i as i64 / 4 * 7 - 1000)),
        ("date", column::<_, Date32Array>(rows, null, |i| 8000 + (mixed(i) % 2500) as i32)),
        (
            "time",
            column::<_, TimestampMicrosecondArray>(rows, null, |i| 1_700_000_000_000_000 + few(i) * 3_600_000_000),
        ),
        ("decimal9", decimal(9, 1_000_000_000)),
        ("decimal18", decimal(18, 5_000_000)),
        ("f32", column::<_, Float32Array>(rows, null, |i| few(i) as f32 / 3.0)),
        ("f64", column::<_, Float64Array>(rows, null, |i| mixed(i) as f64 / 7.0)),
        ("few_texts", column::<_, StringArray>(rows, null, |i| texts[few(i) as usize % texts.len()])),
        ("more_texts", column::<_, StringArray>(rows, null, |i| format!("text {}", mixed(i).rem_euclid(1000)))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

/// The same rows in columns that may not be NULL.
fn required(batch: &RecordBatch) -> RecordBatch {
    let fields: Vec<Field> = batch.schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(false)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), batch.columns().to_vec()).unwrap()
}

fn write(batch: &RecordBatch, properties: WriterPropertiesBuilder) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let properties = properties.set_max_row_group_row_count(Some(30_000)).build();
    let mut writer = ArrowWriter::try_new(file.reopen().unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    file
}

fn assert_same(direct: &Column, other: &Column, name: &str) {
    assert_eq!(direct.len(), other.len(), "{name}");
    assert_eq!(direct.stats(), other.stats(), "{name}");
    assert_eq!(direct.zones(), other.zones(), "{name}");
    assert_eq!((direct.physical(), direct.encoding()), (other.physical(), other.encoding()), "{name}");
    assert_eq!(direct.validity(), other.validity(), "{name}");
    for row in 0..direct.len() {
        match direct.kind() {
            ColumnKind::F32 | ColumnKind::F64 => {
                assert_eq!(direct.get_f64(row), other.get_f64(row), "{name}, row {row}")
            }
            ColumnKind::Text => assert_eq!(direct.get_text(row), other.get_text(row), "{name}, row {row}"),
            _ => assert_eq!(direct.get_i64(row), other.get_i64(row), "{name}, row {row}"),
        }
    }
    if let (Some(a), Some(b)) = (direct.dictionary(), other.dictionary()) {
        assert_eq!(a.views(), b.views(), "{name}");
        assert_eq!(a.hash_words(), b.hash_words(), "{name}");
    }
}

/// Checks that a file's columns are the same either way; which of them are decoded here.
fn check(path: &Path) -> Vec<String> {
    let (table, other) = (open(path).unwrap(), open(path).unwrap());
    let all: Vec<usize> = (0..table.columns().len()).collect();
    let columns = table.load(&all, 3).unwrap();
    for (i, column) in columns.iter().enumerate() {
        assert_same(column, &other.load_one(i, &mut Room::default()).unwrap(), &table.columns()[i].name);
    }
    let Source::Parquet(parquet) = &table.source else { panic!("a Parquet file") };
    let file = parquet.reopen(path).unwrap();
    let here = |i: &usize| parquet.direct(&file, *i, table.columns()[*i].ty.ty).unwrap().is_some();
    all.into_iter().filter(here).map(|i| table.columns()[i].name.clone()).collect()
}

#[test]
fn every_type_page_and_pattern_of_nulls() {
    let versions = [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0];
    let none = batch(ROWS, |_| false);
    let nulls: [fn(usize) -> bool; 4] =
        [|i| i % 3 == 1, |i| (40_000..41_500).contains(&i), |i| i < 33_000, |i| mixed(i) % 1000 == 0];
    let mut batches = vec![required(&none), none];
    batches.extend(nulls.map(|null| batch(ROWS, null)));
    for version in versions {
        for (b, batch) in batches.iter().enumerate() {
            let properties = || WriterProperties::builder().set_writer_version(version);
            let by_dictionary = write(batch, properties().set_compression(Compression::SNAPPY));
            assert_eq!(check(by_dictionary.path()).len(), batch.num_columns(), "batch {b}, {version:?}");
            if version == WriterVersion::PARQUET_1_0 {
                let plain = write(batch, properties().set_dictionary_enabled(false));
                assert_eq!(
                    check(plain.path()).len(),
                    batch.num_columns() - 2,
                    "batch {b}: plain texts are left to Arrow"
                );
            }
        }
    }
}

#[test]
fn dictionaries_that_are_given_up_within_a_chunk() {
    let batch = batch(ROWS, |i| i % 7 == 3);
    let properties =
        WriterProperties::builder().set_dictionary_page_size_limit(2000).set_data_page_row_count_limit(3000);
    let decoded = check(write(&batch, properties).path());
    for name in ["bool", "all_i64", "rising", "decimal9", "f64", "date", "few_texts"] {
        assert!(decoded.iter().any(|d| d == name), "{name} of {decoded:?}");
    }
    assert!(!decoded.iter().any(|name| name == "more_texts"), "{decoded:?}");
}

#[test]
fn files_without_statistics() {
    let batch = batch(ROWS, |i| i % 5 == 0);
    let properties = WriterProperties::builder().set_statistics_enabled(EnabledStatistics::None);
    assert_eq!(check(write(&batch, properties).path()).len(), batch.num_columns());
}

#[test]
fn other_encodings_are_left_to_arrow() {
    let batch = batch(1000, |i| i % 3 == 0);
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_column_encoding("all_i64".into(), Encoding::DELTA_BINARY_PACKED)
        .set_column_encoding("f64".into(), Encoding::BYTE_STREAM_SPLIT)
        .set_column_encoding("few_texts".into(), Encoding::DELTA_BYTE_ARRAY)
        .set_column_encoding("bool".into(), Encoding::RLE);
    let decoded = check(write(&batch, properties).path());
    for name in ["all_i64", "f64", "few_texts"] {
        assert!(!decoded.iter().any(|d| d == name), "{name} of {decoded:?}");
    }
    assert!(decoded.iter().any(|d| d == "bool"), "{decoded:?}");
}

#[test]
fn few_rows_and_none() {
    for rows in [0, 1, 7, 8, 9] {
        check(write(&batch(rows, |_| false), WriterProperties::builder()).path());
        check(write(&batch(rows, |_| true), WriterProperties::builder()).path());
        check(write(&required(&batch(rows, |_| false)), WriterProperties::builder()).path());
    }
}

#[test]
fn texts_that_are_many_have_no_dictionary() {
    let texts: ArrayRef = Arc::new((0..10_000).map(|i| Some(format!("{}", i / 2))).collect::<StringArray>());
    let batch = RecordBatch::try_from_iter([("text", texts)]).unwrap();
    assert_eq!(check(write(&batch, WriterProperties::builder()).path()), Vec::<String>::new());
}

#[test]
fn a_dictionary_of_few_texts_is_kept_however_few_the_rows() {
    let texts: Vec<Option<String>> = (0..3000).map(|i| (i % 7 > 0).then(|| format!("{}", i / 2))).collect();
    let column: ArrayRef = Arc::new(texts.iter().collect::<StringArray>());
    let batch = RecordBatch::try_from_iter_with_nullable([("text", column, true)]).unwrap();
    let file = write(&batch, WriterProperties::builder());
    let column = open(file.path()).unwrap().load(&[0], 2).unwrap().remove(0);
    assert_eq!((column.len(), column.dictionary().map(|d| d.len())), (3000, Some(1500)));
    for (row, text) in texts.iter().enumerate() {
        assert_eq!(column.get_text(row), text.as_deref(), "row {row}");
    }
}

/// A file of one integer column with these groups of values, and with these bounds for each.
fn with_statistics(groups: &[&[i64]], min: i64, max: i64) -> tempfile::NamedTempFile {
    let schema = parse_message_type("message m { required int64 n; }").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let properties = Arc::new(WriterProperties::builder().set_statistics_enabled(EnabledStatistics::Chunk).build());
    let mut writer = SerializedFileWriter::new(file.reopen().unwrap(), Arc::new(schema), properties).unwrap();
    for values in groups {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let typed = column.typed::<Int64Type>();
        typed.write_batch_with_statistics(values, None, None, Some(&min), Some(&max), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
    file
}

#[test]
fn statistics_are_not_believed() {
    let groups: [&[i64]; 4] = [&[5, 900, 5, -3], &[], &[7; 100], &[100_000]];
    for (min, max) in [(-3, 100_000), (0, 10), (-1_000_000, 1_000_000), (i64::MIN, i64::MAX), (200, 300), (10, 0)] {
        assert_eq!(check(with_statistics(&groups, min, max).path()), ["n"], "{min}..={max}");
    }
}

#[test]
fn row_groups_without_rows() {
    check(with_statistics(&[&[], &[], &[]], 0, 0).path());
    check(with_statistics(&[&[], &[1, 2], &[]], 1, 2).path());
}

#[test]
fn texts_that_are_no_utf8_are_errors() {
    let schema = parse_message_type("message m { required binary t (UTF8); }").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = SerializedFileWriter::new(file.reopen().unwrap(), Arc::new(schema), Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values = vec![ByteArray::from(vec![0xff, 0xfe]); 100];
    column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    let error = open(file.path()).unwrap().load(&[0], 1).unwrap_err().to_string();
    assert!(error.contains("column t"), "{error}");
}

/// The places of a file's bytes that are wrong in turn: all of a small one.
#[test]
fn wrong_bytes_are_errors_or_wrong_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.parquet");
    for (version, compression) in
        [(WriterVersion::PARQUET_1_0, Compression::UNCOMPRESSED), (WriterVersion::PARQUET_2_0, Compression::SNAPPY)]
    {
        let properties = WriterProperties::builder()
            .set_writer_version(version)
            .set_compression(compression)
            .set_dictionary_page_size_limit(300);
        let bytes = std::fs::read(write(&batch(60, |i| i % 4 == 1), properties).path()).unwrap();
        let mut refused = 0;
        for at in (0..bytes.len()).step_by(3) {
            let mut bad = bytes.clone();
            bad[at] ^= [0x01, 0x80, 0xff][at / 3 % 3];
            std::fs::write(&path, &bad).unwrap();
            let loaded = open(&path).and_then(|table| {
                let all: Vec<usize> = (0..table.columns().len()).collect();
                let columns = table.load(&all, 1)?;
                let kinds = table.columns().iter().map(|c| column_kind(c.ty.ty));
                assert!(columns.iter().zip(kinds).all(|(c, kind)| c.len() == table.rows() && c.kind() == kind));
                Ok(())
            });
            match loaded {
                Ok(()) => {}
                Err(crate::error::Error::Input(_)) => refused += 1,
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
        assert!(refused > 0);
    }
}

#[test]
fn types_are_those_of_arrow() {
    // Unsigned numbers are stored as signed ones: they are not decoded here, though the footer calls both INT32.
    let numbers: ArrayRef = Arc::new(::arrow::array::UInt32Array::from(vec![1, u32::MAX]));
    let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
    assert_eq!(batch.schema().field(0).data_type(), &DataType::UInt32);
    assert_eq!(check(write(&batch, WriterProperties::builder()).path()), Vec::<String>::new());
}
