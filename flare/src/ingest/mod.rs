//! Tables from files and from record batches.

use ir::types::RowType;

/// A column's name and type.
#[derive(Clone, PartialEq, Debug)]
pub struct ColumnDef {
    /// Its name.
    pub name: String,
    /// Its type and whether NULL may occur.
    pub ty: RowType,
}

/// A table.
#[derive(Debug)]
pub struct Table {
    columns: Vec<ColumnDef>,
}

impl Table {
    /// A table that has these columns and no rows.
    pub fn empty(columns: Vec<ColumnDef>) -> Self {
        Self { columns }
    }

    /// The columns, in order.
    pub fn columns(&self) -> &[ColumnDef] {
        &self.columns
    }
}

pub(crate) mod csv;
pub(crate) mod parquet;

use crate::error::Result;

/// The table in a file that a statement names by its path; `None` where the name does not look like a file's.
pub(crate) fn open_by_extension(name: &str) -> Option<Result<Table>> {
    match name.rsplit_once('.')?.1.to_lowercase().as_str() {
        "parquet" => Some(parquet::open(name.as_ref())),
        "csv" => Some(csv::open(name.as_ref())),
        _ => None,
    }
}
