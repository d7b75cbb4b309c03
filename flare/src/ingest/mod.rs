//! Tables: from files and from record batches to columns of the runtime.
//!
//! What holds:
//! - A table's names and types are known when it is opened; its columns are decoded when they are first asked for, once, and
//!   kept. A file that changes in between is an error, not a mixture.
//! - Opening reads a Parquet file's footer, and a CSV file whole (types are inferred over all rows).
//! - Whether NULL occurs is known once a column is loaded: a column without a NULL is not nullable then.

mod arrow;
pub(crate) mod csv;
mod load;
mod parquet;

use load::in_parallel;
pub(crate) use load::load_all;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ::arrow::record_batch::RecordBatch;
use bytes::BytesMut;
use ir::types::{RowType, ScalarType};
use runtime::column::{Column, ColumnKind};

use crate::error::{Error, Result};

/// A column's name and type.
#[derive(Clone, PartialEq, Debug)]
pub struct ColumnDef {
    /// Its name.
    pub name: String,
    /// Its type, and whether NULL may occur.
    pub ty: RowType,
}

/// A table: names and types, and columns that are loaded when they are needed.
pub struct Table {
    /// The file, or the name of the table where it came from memory.
    origin: PathBuf,
    columns: Vec<ColumnDef>,
    rows: usize,
    source: Source,
    loaded: Vec<OnceLock<Arc<Column>>>,
    opening: Duration,
}

/// Where columns come from.
enum Source {
    /// They are all loaded.
    Memory,
    Parquet(parquet::File),
    Csv(csv::File),
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("origin", &self.origin)
            .field("columns", &self.columns)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl Table {
    fn from_source(origin: &Path, columns: Vec<ColumnDef>, rows: usize, source: Source) -> Result<Self> {
        for (i, c) in columns.iter().enumerate() {
            if columns[..i].iter().any(|other| other.name == c.name) {
                return Err(Error::input_column(origin, &c.name, "there is another column of this name"));
            }
        }
        let loaded = columns.iter().map(|_| OnceLock::new()).collect();
        Ok(Self { origin: origin.to_path_buf(), columns, rows, source, loaded, opening: Duration::ZERO })
    }

    /// A table of these columns without rows.
    ///
    /// # Errors
    /// Two columns of one name.
    pub fn empty(columns: Vec<ColumnDef>) -> Result<Self> {
        let table = Self::from_source(Path::new(""), columns, 0, Source::Memory)?;
        for (slot, def) in table.loaded.iter().zip(&table.columns) {
            // The slot is empty: the table was made here.
            let _ = slot.set(Arc::new(Builder::new(def.ty.ty).finish()));
        }
        Ok(table)
    }

    /// A table of columns in memory.
    ///
    /// # Errors
    /// Two columns of one name, or columns of different lengths.
    pub fn from_columns(name: &str, columns: Vec<(String, Arc<Column>)>, rows: usize) -> Result<Self> {
        let mut defs = vec![];
        for (column_name, column) in &columns {
            if column.len() != rows {
                let message = format!("has {} rows, not {rows}", column.len());
                return Err(Error::input_column(name.as_ref(), column_name, message));
            }
            let ty = scalar_type(column.kind()).nullable(column.validity().is_some());
            defs.push(ColumnDef { name: column_name.clone(), ty });
        }
        let table = Self::from_source(name.as_ref(), defs, rows, Source::Memory)?;
        for (slot, (_, column)) in table.loaded.iter().zip(columns) {
            // The slot is empty: the table was made here.
            let _ = slot.set(column);
        }
        Ok(table)
    }

    /// A table of the rows of record batches, which share one schema.
    ///
    /// # Errors
    /// A column whose type has no counterpart, or a value that does not fit.
    pub fn from_batches(name: &str, schema: &::arrow::datatypes::Schema, batches: &[RecordBatch]) -> Result<Self> {
        let origin = Path::new(name);
        let mut columns = vec![];
        for (i, field) in schema.fields().iter().enumerate() {
            let ty = arrow::column_type(origin, field)?;
            let mut builder = Builder::new(ty);
            for batch in batches {
                let array = batch.columns().get(i).filter(|a| a.data_type() == field.data_type());
                let array = array.ok_or_else(|| Error::input(origin, "the record batches have different schemas"))?;
                arrow::append(&mut builder, array.as_ref())
                    .map_err(|e| Error::input_column(origin, field.name(), e))?;
            }
            columns.push((field.name().clone(), Arc::new(builder.finish())));
        }
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        Self::from_columns(name, columns, rows)
    }

    /// The columns, in order. A column of a file is called nullable until it is loaded.
    pub fn columns(&self) -> &[ColumnDef] {
        &self.columns
    }

    /// The type of a column as far as it is known now.
    pub fn column_type(&self, i: usize) -> RowType {
        let declared = self.columns[i].ty;
        match self.loaded[i].get() {
            Some(column) => declared.ty.nullable(column.validity().is_some()),
            None => declared,
        }
    }

    /// How long it took to open the table's file.
    pub(crate) fn opening(&self) -> Duration {
        self.opening
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// A column that has been loaded.
    pub fn loaded(&self, i: usize) -> Option<&Arc<Column>> {
        self.loaded[i].get()
    }

    /// These columns, loaded on first use.
    ///
    /// # Errors
    /// A file that cannot be read, or a value that does not fit its column.
    pub fn load(&self, columns: &[usize], threads: usize) -> Result<Vec<Arc<Column>>> {
        load_all(&[(self, columns)], threads)?;
        columns.iter().map(|i| self.load_one(*i, &mut Room::default())).collect()
    }

    /// Bytes that a column takes in its file, uncompressed; a guess at how long it takes to load.
    fn bytes_to_decode(&self, i: usize) -> u64 {
        match &self.source {
            Source::Memory => 0,
            Source::Parquet(file) => file.bytes(i),
            Source::Csv(file) => file.bytes(i),
        }
    }

    fn load_one(&self, i: usize, room: &mut Room) -> Result<Arc<Column>> {
        if let Some(column) = self.loaded[i].get() {
            return Ok(column.clone());
        }
        let def = &self.columns[i];
        let mut builder = Builder::in_room(def.ty.ty, room, self.rows);
        match &self.source {
            Source::Memory => return Err(Error::Bug(format!("column {} is not in memory", def.name))),
            Source::Parquet(file) => file.read(&self.origin, i, &def.name, &mut builder)?,
            Source::Csv(file) => file.read(i, &mut builder),
        }
        let column = builder.finish_into(room);
        if column.len() != self.rows {
            let message = format!("has {} rows where the file promised {}", column.len(), self.rows);
            return Err(Error::input_column(&self.origin, &def.name, message));
        }
        Ok(self.keep(i, column))
    }

    /// The column that is kept from now on: this one, or one that another thread has loaded in the meantime.
    fn keep(&self, i: usize, column: Column) -> Arc<Column> {
        self.loaded[i].get_or_init(|| Arc::new(column)).clone()
    }
}

/// Opens a Parquet file: reads and checks its footer.
pub(crate) fn open_parquet(path: &Path) -> Result<Table> {
    let start = Instant::now();
    let table = parquet::open(path)?;
    Ok(Table { opening: start.elapsed(), ..table })
}

/// Opens a CSV file: reads it whole and infers the types.
pub(crate) fn open_csv(path: &Path, options: &csv::CsvOptions) -> Result<Table> {
    let start = Instant::now();
    let table = csv::open(path, options)?;
    Ok(Table { opening: start.elapsed(), ..table })
}

/// Opens a file to read.
pub(crate) fn open_file(path: &Path) -> Result<std::fs::File> {
    let file = std::fs::File::open(path).map_err(|e| Error::input(path, e))?;
    match file.metadata() {
        Ok(data) if data.is_dir() => Err(Error::input(path, "this is a folder, not a file")),
        _ => Ok(file),
    }
}

/// The table in a file that a statement names by its path; `None` where the name does not look like a file's.
pub(crate) fn open_by_extension(name: &str) -> Option<Result<Table>> {
    match name.rsplit_once('.')?.1.to_lowercase().as_str() {
        "parquet" => Some(open_parquet(name.as_ref())),
        "csv" | "tsv" => Some(open_csv(name.as_ref(), &csv::CsvOptions::default())),
        _ if Path::new(name).is_file() => {
            let message =
                "only .parquet, .csv and .tsv are read by their name; read_parquet('…') and read_csv('…') take any";
            Some(Err(Error::input(name.as_ref(), message)))
        }
        _ => None,
    }
}

/// The runtime's name of a type.
pub(crate) fn column_kind(ty: ScalarType) -> ColumnKind {
    match ty {
        ScalarType::Bool => ColumnKind::Bool,
        ScalarType::I32 => ColumnKind::I32,
        ScalarType::I64 => ColumnKind::I64,
        ScalarType::F32 => ColumnKind::F32,
        ScalarType::F64 => ColumnKind::F64,
        ScalarType::Decimal { precision, scale } => ColumnKind::Decimal { precision, scale },
        ScalarType::Date => ColumnKind::Date,
        ScalarType::Timestamp => ColumnKind::Timestamp,
        ScalarType::Text => ColumnKind::Text,
    }
}

/// The type of a column of the runtime.
pub(crate) fn scalar_type(kind: ColumnKind) -> ScalarType {
    match kind {
        ColumnKind::Bool => ScalarType::Bool,
        ColumnKind::I32 => ScalarType::I32,
        ColumnKind::I64 => ScalarType::I64,
        ColumnKind::F32 => ScalarType::F32,
        ColumnKind::F64 => ScalarType::F64,
        ColumnKind::Decimal { precision, scale } => ScalarType::Decimal { precision, scale },
        ColumnKind::Date => ScalarType::Date,
        ColumnKind::Timestamp => ScalarType::Timestamp,
        ColumnKind::Text => ScalarType::Text,
    }
}

/// Memory in which a thread collects one column after the other: fresh memory costs more than what is written to it.
#[derive(Default)]
struct Room {
    i32s: Vec<i32>,
    i64s: Vec<i64>,
    i128s: Vec<i128>,
    f64s: Vec<f64>,
    /// A column chunk of a file.
    chunk: BytesMut,
}

/// A list in the room of one that is done, with room for so many values, if the system has it.
fn emptied<T>(list: &mut Vec<T>, rows: usize) -> Vec<T> {
    let mut list = std::mem::take(list);
    list.clear();
    // A footer may promise any number of rows: what it is worth shows when they come.
    let _ = list.try_reserve_exact(rows);
    list
}

/// Collects the values of one column.
pub(crate) struct Builder {
    ty: ScalarType,
    values: Values,
    /// 1 for a value, 0 for NULL; shorter than the column while no NULL has come. The texts keep their own.
    validity: Vec<u8>,
    rows: usize,
    nulls: usize,
}

pub(crate) enum Values {
    Bool(Vec<bool>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    I128(Vec<i128>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Text(runtime::column::TextBuilder),
}

impl Builder {
    pub(crate) fn new(ty: ScalarType) -> Self {
        let values = match ty {
            ScalarType::Bool => Values::Bool(vec![]),
            ScalarType::I32 | ScalarType::Date => Values::I32(vec![]),
            ScalarType::I64 | ScalarType::Timestamp => Values::I64(vec![]),
            ScalarType::F32 => Values::F32(vec![]),
            ScalarType::F64 => Values::F64(vec![]),
            ScalarType::Decimal { .. } => Values::I128(vec![]),
            ScalarType::Text => Values::Text(runtime::column::TextBuilder::new()),
        };
        Self { ty, values, validity: vec![], rows: 0, nulls: 0 }
    }

    /// A builder for so many rows in the room of earlier ones.
    fn in_room(ty: ScalarType, room: &mut Room, rows: usize) -> Self {
        let mut builder = Self::new(ty);
        match &mut builder.values {
            Values::I32(list) => *list = emptied(&mut room.i32s, rows),
            Values::I64(list) => *list = emptied(&mut room.i64s, rows),
            Values::I128(list) => *list = emptied(&mut room.i128s, rows),
            Values::F64(list) => *list = emptied(&mut room.f64s, rows),
            Values::Bool(_) | Values::F32(_) | Values::Text(_) => {}
        }
        builder
    }

    /// Says of the next rows which are NULL; `valid` is not asked where none is.
    pub(crate) fn add_validity(&mut self, rows: usize, nulls: usize, valid: impl Iterator<Item = bool>) {
        if nulls > 0 {
            self.validity.resize(self.rows, 1);
            self.validity.extend(valid.map(u8::from));
        }
        self.rows += rows;
        self.nulls += nulls;
    }

    /// The column.
    pub(crate) fn finish(self) -> Column {
        self.finish_into(&mut Room::default())
    }

    /// The column, its values' memory being left to the next one.
    fn finish_into(mut self, room: &mut Room) -> Column {
        let kind = column_kind(self.ty);
        if self.nulls > 0 {
            self.validity.resize(self.rows, 1);
        }
        let validity = (self.nulls > 0).then_some(self.validity);
        match self.values {
            Values::Bool(v) => Column::from_bool(&v, validity),
            Values::I32(v) => {
                room.i32s = v;
                Column::from_i32(kind, &room.i32s, validity)
            }
            Values::I64(v) => {
                room.i64s = v;
                Column::from_i64(kind, &room.i64s, validity)
            }
            Values::I128(v) => {
                room.i128s = v;
                Column::from_i128(kind, &room.i128s, validity)
            }
            Values::F32(v) => Column::from_f32(&v, validity),
            Values::F64(v) => {
                room.f64s = v;
                Column::from_f64(&room.f64s, validity)
            }
            Values::Text(v) => v.finish(),
        }
    }
}
