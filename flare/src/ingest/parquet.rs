//! Parquet files: the footer when a file is opened, a column when it is needed.

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

    /// Decodes column `i`.
    pub(crate) fn read(&self, path: &Path, i: usize, name: &str, builder: &mut Builder) -> Result<()> {
        let wrong = |e: &dyn std::fmt::Display| Error::input_column(path, name, e);
        let file = std::fs::File::open(path).map_err(|e| wrong(&e))?;
        if stamp(path, &file)? != self.stamp {
            return Err(Error::input(path, "the file has changed since it was registered; register it again"));
        }
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
