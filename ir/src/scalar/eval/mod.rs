//! What each operation computes, in plain Rust: constant folding and both interpreters read it, generated code is held to it.
//!
//! What holds: a row's function gets values that are of the types beside them; it sees NULL only where the row's NULL rule
//! says so; its result is of the type `out` or NULL. It never panics.

pub(crate) mod cast;
pub(crate) mod logic;
pub(crate) mod number;
pub(crate) mod text;
pub(crate) mod time;

use std::cmp::Ordering;
use std::sync::Arc;

use super::{NullRule, ScalarOp, def};
use crate::error::{Trap, TrapKind};
use crate::types::ScalarType;
use crate::value::Value;

/// The operands of one evaluation.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    /// The operation, for what stands in its variant.
    pub op: ScalarOp,
    /// The operands.
    pub values: &'a [Value],
    /// Their types.
    pub types: &'a [ScalarType],
    /// The type of the result.
    pub out: ScalarType,
}

/// What a row's function gives.
pub type Outcome = Result<Value, TrapKind>;

/// The value of an operation: `out` is the type that [`super::result_type`] gives. NULL goes by the operation's rule.
///
/// # Errors
/// What the operation raises; an internal error where the values are not of their types.
pub fn eval(op: ScalarOp, values: &[Value], types: &[ScalarType], out: ScalarType) -> Result<Value, Trap> {
    let row = def(op);
    if row.null == NullRule::Strict && values.iter().any(Value::is_null) {
        return Ok(Value::Null);
    }
    Ok((row.eval)(&Args { op, values, types, out })?)
}

/// The order of two values of one type, as `lt` and `eq` see it: NaN equals itself and is the greatest, text goes by its bytes,
/// NULL equals itself and is the greatest. Decimals must be of one scale. Values of different types are ordered by type.
pub fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::I32(a), Value::I32(b)) | (Value::Date(a), Value::Date(b)) => a.cmp(b),
        (Value::I64(a), Value::I64(b)) | (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
        (Value::F32(a), Value::F32(b)) => compare_floats(f64::from(*a), f64::from(*b)),
        (Value::F64(a), Value::F64(b)) => compare_floats(*a, *b),
        (Value::Decimal(a), Value::Decimal(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        _ => rank(a).cmp(&rank(b)),
    }
}

fn compare_floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

fn rank(v: &Value) -> u8 {
    match v {
        Value::Bool(_) => 0,
        Value::I32(_) => 1,
        Value::I64(_) => 2,
        Value::F32(_) => 3,
        Value::F64(_) => 4,
        Value::Decimal(_) => 5,
        Value::Date(_) => 6,
        Value::Timestamp(_) => 7,
        Value::Text(_) => 8,
        Value::Null => 9,
    }
}

/// A result of this type that its type cannot hold.
pub(crate) fn overflow(ty: ScalarType) -> TrapKind {
    TrapKind::Overflow(ty.to_string())
}

/// Values that are not of the types that the type rule admits: a fault of who built the program.
pub(crate) fn mistyped<T>(args: &Args<'_>) -> Result<T, TrapKind> {
    let list: Vec<String> = args.values.iter().map(|v| format!("{v:?}")).collect();
    Err(TrapKind::Internal(format!("{} got ({})", args.op.name(), list.join(", "))))
}

impl<'a> Args<'a> {
    pub(crate) fn bool(&self, i: usize) -> Result<bool, TrapKind> {
        if let Some(Value::Bool(v)) = self.values.get(i) { Ok(*v) } else { mistyped(self) }
    }

    pub(crate) fn i32(&self, i: usize) -> Result<i32, TrapKind> {
        if let Some(Value::I32(v)) = self.values.get(i) { Ok(*v) } else { mistyped(self) }
    }

    pub(crate) fn i64(&self, i: usize) -> Result<i64, TrapKind> {
        if let Some(Value::I64(v)) = self.values.get(i) { Ok(*v) } else { mistyped(self) }
    }

    pub(crate) fn text(&self, i: usize) -> Result<&'a str, TrapKind> {
        if let Some(Value::Text(v)) = self.values.get(i) { Ok(v) } else { mistyped(self) }
    }

    /// The scale of an operand; 0 for what is not a decimal.
    pub(crate) fn scale(&self, i: usize) -> u32 {
        match self.types.get(i) {
            Some(ScalarType::Decimal { scale, .. }) => u32::from(*scale),
            _ => 0,
        }
    }

    /// Precision and scale of the result; `(0, 0)` for what is not a decimal.
    pub(crate) fn out_decimal(&self) -> (u32, u32) {
        match self.out {
            ScalarType::Decimal { precision, scale } => (u32::from(precision), u32::from(scale)),
            _ => (0, 0),
        }
    }
}

pub(crate) fn text_value(s: impl Into<Arc<str>>) -> Outcome {
    Ok(Value::Text(s.into()))
}
