//! Results: columns of the runtime to Arrow record batches.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array,
    RecordBatch, RecordBatchOptions, StringBuilder, TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, NullBuffer};
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
    if let Some(array) = plain_array(column, &rows)? {
        return Ok(array);
    }
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
            let bytes = rows.clone().map(|row| column.get_text(row).map_or(0, str::len)).sum();
            let mut builder = StringBuilder::with_capacity(rows.len(), bytes);
            rows.for_each(|row| builder.append_option(column.get_text(row)));
            Arc::new(builder.finish())
        }
    })
}

/// The rows of a column whose elements are its values, copied as they stand.
fn plain_array(column: &Column, rows: &Range<usize>) -> Result<Option<ArrayRef>> {
    let nulls = column
        .validity()
        .map(|valid| &valid[rows.clone()])
        .map(|valid| NullBuffer::new(BooleanBuffer::collect_bool(valid.len(), |i| valid[i] != 0)));
    macro_rules! copy {
        ($values:expr, $array:ty) => {
            $values.map(|v| -> ArrayRef { Arc::new(<$array>::new(v[rows.clone()].to_vec().into(), nulls)) })
        };
    }
    Ok(match column.kind() {
        ColumnKind::I32 => copy!(column.plain_i32(), Int32Array),
        ColumnKind::Date => copy!(column.plain_i32(), Date32Array),
        ColumnKind::I64 => copy!(column.plain_i64(), Int64Array),
        ColumnKind::Timestamp => copy!(column.plain_i64(), TimestampMicrosecondArray),
        ColumnKind::F32 => copy!(column.plain_f32(), Float32Array),
        ColumnKind::F64 => copy!(column.plain_f64(), Float64Array),
        ColumnKind::Decimal { precision, scale } => match column.plain_i64() {
            Some(values) => {
                let wide: Vec<i128> = values[rows.clone()].iter().map(|v| i128::from(*v)).collect();
                let array = Decimal128Array::new(wide.into(), nulls);
                let array = array.with_precision_and_scale(precision, scale.cast_signed());
                Some(Arc::new(array.map_err(|e| Error::Bug(e.to_string()))?))
            }
            None => None,
        },
        ColumnKind::Bool | ColumnKind::Text => None,
    })
}
