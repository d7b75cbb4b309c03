//! Parquet files: the footer when a file is opened, a column when it is needed.

use std::path::Path;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

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
    let file = std::fs::File::open(path).map_err(|e| Error::input(path, e))?;
    let stamp = stamp(path, &file)?;
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(|e| Error::input(path, e))?;
    let mut columns = vec![];
    for field in metadata.schema().fields() {
        let ty = arrow::column_type(path, field)?.nullable(true);
        columns.push(ColumnDef { name: field.name().clone(), ty });
    }
    let rows = usize::try_from(metadata.metadata().file_metadata().num_rows());
    let rows = rows.map_err(|_| Error::input(path, "the footer has a negative number of rows"))?;
    Table::from_source(path, columns, rows, Source::Parquet(File { metadata, stamp }))
}

fn stamp(path: &Path, file: &std::fs::File) -> Result<(u64, Option<std::time::SystemTime>)> {
    let data = file.metadata().map_err(|e| Error::input(path, e))?;
    Ok((data.len(), data.modified().ok()))
}

impl File {
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
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(|e| wrong(&e))?;
        for batch in reader {
            let batch = batch.map_err(|e| wrong(&e))?;
            arrow::append(builder, batch.column(0).as_ref()).map_err(|e| wrong(&e))?;
        }
        Ok(())
    }
}
