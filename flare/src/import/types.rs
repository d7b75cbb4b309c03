//! Arrow's types and ours.

use arrow::datatypes::{DataType, TimeUnit};
use ir::types::ScalarType;

/// The type of our own that holds an SQL or Arrow type; `None` where there is none.
///
/// Small and unsigned integers widen: to `i32` where it holds them, else to `i64`. An unsigned 64-bit integer is checked when
/// it is read.
pub(crate) fn from_arrow(ty: &DataType) -> Option<ScalarType> {
    Some(match ty {
        DataType::Boolean => ScalarType::Bool,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => ScalarType::I32,
        DataType::UInt32 | DataType::Int64 | DataType::UInt64 => ScalarType::I64,
        DataType::Float16 | DataType::Float32 => ScalarType::F32,
        DataType::Float64 => ScalarType::F64,
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) => {
            ScalarType::Decimal { precision: *p, scale: u8::try_from(*s).ok().filter(|s| s <= p)? }
        }
        DataType::Date32 | DataType::Date64 => ScalarType::Date,
        DataType::Timestamp(_, _) => ScalarType::Timestamp,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ScalarType::Text,
        DataType::Dictionary(_, value) => match value.as_ref() {
            DataType::Dictionary(..) => return None,
            value => from_arrow(value)?,
        },
        _ => return None,
    })
}

/// The Arrow type in which results of this type are given.
pub(crate) fn to_arrow(ty: ScalarType) -> DataType {
    match ty {
        ScalarType::Bool => DataType::Boolean,
        ScalarType::I32 => DataType::Int32,
        ScalarType::I64 => DataType::Int64,
        ScalarType::F32 => DataType::Float32,
        ScalarType::F64 => DataType::Float64,
        ScalarType::Decimal { precision, scale } => DataType::Decimal128(precision, scale.cast_signed()),
        ScalarType::Date => DataType::Date32,
        ScalarType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        ScalarType::Text => DataType::Utf8,
    }
}
