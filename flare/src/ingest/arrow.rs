//! Arrow arrays to columns.

use std::path::Path;

use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Float16Type, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::array::{Array, AsArray, PrimitiveArray};
use arrow::datatypes::{DataType, Field, TimeUnit};
use ir::types::ScalarType;

use crate::error::{Error, Result};
use crate::import::types::from_arrow;
use crate::ingest::{Builder, Values};

const DAY_MILLISECONDS: i64 = 86_400_000;

/// The type of the column that holds an Arrow field.
pub(crate) fn column_type(origin: &Path, field: &Field) -> Result<ScalarType> {
    from_arrow(field.data_type()).ok_or_else(|| {
        Error::input_column(origin, field.name(), format!("the type {} is not supported", field.data_type()))
    })
}

/// Appends an array whose type maps to the builder's.
pub(crate) fn append(b: &mut Builder, array: &dyn Array) -> Result<(), String> {
    match array.data_type() {
        DataType::Boolean => {
            let array = array.as_boolean();
            validity(b, array);
            let Values::Bool(out) = &mut b.values else { return Err(mismatch()) };
            out.extend((0..array.len()).map(|i| array.is_valid(i) && array.value(i)));
            Ok(())
        }
        DataType::Int8 => i32s::<Int8Type>(b, array, i32::from),
        DataType::Int16 => i32s::<Int16Type>(b, array, i32::from),
        DataType::Int32 => i32s::<Int32Type>(b, array, |v| v),
        DataType::UInt8 => i32s::<UInt8Type>(b, array, i32::from),
        DataType::UInt16 => i32s::<UInt16Type>(b, array, i32::from),
        DataType::Date32 => i32s::<Date32Type>(b, array, |v| v),
        DataType::Date64 => try_i32s::<Date64Type>(b, array, |v| i32::try_from(v.div_euclid(DAY_MILLISECONDS)).ok()),
        DataType::UInt32 => all_i64s::<UInt32Type>(b, array, i64::from),
        DataType::Int64 => all_i64s::<Int64Type>(b, array, |v| v),
        DataType::UInt64 => i64s::<UInt64Type>(b, array, |v| v.try_into().ok()),
        DataType::Timestamp(TimeUnit::Second, _) => i64s::<TimestampSecondType>(b, array, |v| v.checked_mul(1_000_000)),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            i64s::<TimestampMillisecondType>(b, array, |v| v.checked_mul(1000))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => all_i64s::<TimestampMicrosecondType>(b, array, |v| v),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            all_i64s::<TimestampNanosecondType>(b, array, |v| v.div_euclid(1000))
        }
        DataType::Float16 => f32s::<Float16Type>(b, array, |v| v.to_f32()),
        DataType::Float32 => f32s::<Float32Type>(b, array, |v| v),
        DataType::Float64 => {
            let array = array.as_primitive::<Float64Type>();
            validity(b, array);
            let Values::F64(out) = &mut b.values else { return Err(mismatch()) };
            extend(out, array, |v| v);
            Ok(())
        }
        DataType::Decimal32(..) => decimals::<Decimal32Type>(b, array, i128::from),
        DataType::Decimal64(..) => decimals::<Decimal64Type>(b, array, i128::from),
        DataType::Decimal128(..) => decimals::<Decimal128Type>(b, array, |v| v),
        DataType::Utf8 => texts(b, array.as_string::<i32>().iter()),
        DataType::LargeUtf8 => texts(b, array.as_string::<i64>().iter()),
        DataType::Utf8View => texts(b, array.as_string_view().iter()),
        DataType::Dictionary(_, value) if from_arrow(value) == Some(ScalarType::Text) => dictionary(b, array),
        DataType::Dictionary(_, value) => {
            let plain = arrow::compute::cast(array, value).map_err(|e| e.to_string())?;
            append(b, plain.as_ref())
        }
        other => Err(format!("the type {other} is not supported")),
    }
}

fn mismatch() -> String {
    "the type changed within the file".to_string()
}

fn validity(b: &mut Builder, array: &dyn Array) {
    let valid = array.nulls().into_iter().flat_map(|nulls| nulls.iter());
    b.add_validity(array.len(), array.null_count(), valid);
}

/// Appends the values; anything in place of NULL.
fn extend<T: ArrowPrimitiveType, U>(out: &mut Vec<U>, array: &PrimitiveArray<T>, f: impl Fn(T::Native) -> U) {
    out.extend(array.values().iter().map(|v| f(*v)));
}

/// Appends values of which some may not fit.
fn try_extend<T: ArrowPrimitiveType, U: Default>(
    out: &mut Vec<U>,
    array: &PrimitiveArray<T>,
    f: impl Fn(T::Native) -> Option<U>,
) -> Result<(), String>
where
    T::Native: std::fmt::Display,
{
    out.reserve(array.len());
    for v in array.iter() {
        out.push(match v {
            None => U::default(),
            Some(v) => f(v).ok_or_else(|| format!("the value {v} is out of range"))?,
        });
    }
    Ok(())
}

fn i32s<T: ArrowPrimitiveType>(b: &mut Builder, array: &dyn Array, f: impl Fn(T::Native) -> i32) -> Result<(), String> {
    let array = array.as_primitive::<T>();
    validity(b, array);
    let Values::I32(out) = &mut b.values else { return Err(mismatch()) };
    extend(out, array, f);
    Ok(())
}

fn try_i32s<T: ArrowPrimitiveType>(
    b: &mut Builder,
    array: &dyn Array,
    f: impl Fn(T::Native) -> Option<i32>,
) -> Result<(), String>
where
    T::Native: std::fmt::Display,
{
    let array = array.as_primitive::<T>();
    validity(b, array);
    let Values::I32(out) = &mut b.values else { return Err(mismatch()) };
    try_extend(out, array, f)
}

fn all_i64s<T: ArrowPrimitiveType>(
    b: &mut Builder,
    array: &dyn Array,
    f: impl Fn(T::Native) -> i64,
) -> Result<(), String> {
    let array = array.as_primitive::<T>();
    validity(b, array);
    let Values::I64(out) = &mut b.values else { return Err(mismatch()) };
    extend(out, array, f);
    Ok(())
}

fn i64s<T: ArrowPrimitiveType>(
    b: &mut Builder,
    array: &dyn Array,
    f: impl Fn(T::Native) -> Option<i64>,
) -> Result<(), String>
where
    T::Native: std::fmt::Display,
{
    let array = array.as_primitive::<T>();
    validity(b, array);
    let Values::I64(out) = &mut b.values else { return Err(mismatch()) };
    try_extend(out, array, f)
}

fn f32s<T: ArrowPrimitiveType>(b: &mut Builder, array: &dyn Array, f: impl Fn(T::Native) -> f32) -> Result<(), String> {
    let array = array.as_primitive::<T>();
    validity(b, array);
    let Values::F32(out) = &mut b.values else { return Err(mismatch()) };
    extend(out, array, f);
    Ok(())
}

fn decimals<T: ArrowPrimitiveType>(
    b: &mut Builder,
    array: &dyn Array,
    f: impl Fn(T::Native) -> i128,
) -> Result<(), String>
where
    T::Native: std::fmt::Display,
{
    let array = array.as_primitive::<T>();
    validity(b, array);
    let ScalarType::Decimal { precision, .. } = b.ty else { return Err(mismatch()) };
    let Values::I128(out) = &mut b.values else { return Err(mismatch()) };
    let limit = 10u128.pow(precision.into());
    try_extend(out, array, |v| Some(f(v)).filter(|v| v.unsigned_abs() < limit))
}

/// Appends texts that come as keys of a dictionary: each of its texts is looked at once.
fn dictionary(b: &mut Builder, array: &dyn Array) -> Result<(), String> {
    let Values::Text(out) = &mut b.values else { return Err(mismatch()) };
    let array = array.as_any_dictionary();
    let values = arrow::compute::cast(array.values(), &DataType::Utf8View).map_err(|e| e.to_string())?;
    let values: Vec<Option<&str>> = values.as_string_view().iter().collect();
    if values.is_empty() {
        // There is nothing but NULL.
        (0..array.len()).for_each(|_| out.push(None));
        return Ok(());
    }
    let keys = array.normalized_keys().into_iter().enumerate();
    out.push_keys(&values, keys.map(|(row, key)| array.is_valid(row).then_some(key)));
    Ok(())
}

fn texts<'a>(b: &mut Builder, values: impl Iterator<Item = Option<&'a str>>) -> Result<(), String> {
    let Values::Text(out) = &mut b.values else { return Err(mismatch()) };
    values.for_each(|v| out.push(v));
    Ok(())
}
