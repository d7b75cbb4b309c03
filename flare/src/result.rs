//! Results: columns of the runtime to Arrow record batches.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array,
    RecordBatch, RecordBatchOptions, StringBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Schema, SchemaRef};
use ir::types::RowType;
use runtime::column::{Column, ColumnKind, Table};

use crate::error::{Error, Result};
use crate::import::types::to_arrow;

/// The Arrow schema of a result.
pub(crate) fn schema_of(columns: &[(String, RowType)]) -> SchemaRef {
    let fields: Vec<Field> = columns.iter().map(|(name, ty)| Field::new(name, to_arrow(ty.ty), ty.nullable)).collect();
    Arc::new(Schema::new(fields))
}

/// Some rows of a table as a record batch of this schema.
pub(crate) fn batch(schema: &SchemaRef, table: &Table, rows: Range<usize>) -> Result<RecordBatch> {
    let mut arrays = vec![];
    for (_, column) in table.columns() {
        arrays.push(array(column, rows.clone())?);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(schema.clone(), arrays, &options).map_err(|e| Error::Bug(e.to_string()))
}

fn array(column: &Column, rows: Range<usize>) -> Result<ArrayRef> {
    let i64s = || rows.clone().map(|row| column.get_i64(row));
    Ok(match column.kind() {
        ColumnKind::Bool => Arc::new(rows.map(|row| column.get_bool(row)).collect::<BooleanArray>()),
        ColumnKind::I32 => Arc::new(i64s().map(|v| v.map(|v| v as i32)).collect::<Int32Array>()),
        ColumnKind::Date => Arc::new(i64s().map(|v| v.map(|v| v as i32)).collect::<Date32Array>()),
        ColumnKind::I64 => Arc::new(i64s().collect::<Int64Array>()),
        ColumnKind::Timestamp => Arc::new(i64s().collect::<TimestampMicrosecondArray>()),
        ColumnKind::F32 => Arc::new(rows.map(|row| column.get_f64(row).map(|v| v as f32)).collect::<Float32Array>()),
        ColumnKind::F64 => Arc::new(rows.map(|row| column.get_f64(row)).collect::<Float64Array>()),
        ColumnKind::Decimal { precision, scale } => {
            let array: Decimal128Array = rows.map(|row| column.get_i128(row)).collect();
            let array = array.with_precision_and_scale(precision, scale.cast_signed());
            Arc::new(array.map_err(|e| Error::Bug(e.to_string()))?)
        }
        ColumnKind::Text => {
            let mut builder = StringBuilder::new();
            rows.for_each(|row| builder.append_option(column.get_text(row)));
            Arc::new(builder.finish())
        }
    })
}
