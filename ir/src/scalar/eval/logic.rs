//! Comparison and logic.

use std::cmp::Ordering;

use super::{Args, Outcome, cast, compare, mistyped};
use crate::error::TrapKind;
use crate::scalar::ScalarOp;
use crate::value::Value;

/// `eq` to `ge`.
pub(crate) fn comparison(args: &Args<'_>) -> Outcome {
    let [a, b] = args.values else { return mistyped(args) };
    let order = compare(a, b);
    Ok(Value::Bool(match args.op {
        ScalarOp::Eq => order == Ordering::Equal,
        ScalarOp::Ne => order != Ordering::Equal,
        ScalarOp::Lt => order == Ordering::Less,
        ScalarOp::Le => order != Ordering::Greater,
        ScalarOp::Gt => order == Ordering::Greater,
        ScalarOp::Ge => order != Ordering::Less,
        _ => return mistyped(args),
    }))
}

/// `is_distinct` and `is_not_distinct`: NULL compares as a value.
pub(crate) fn distinct(args: &Args<'_>) -> Outcome {
    let [a, b] = args.values else { return mistyped(args) };
    let equal = compare(a, b) == Ordering::Equal;
    Ok(Value::Bool(equal == (args.op == ScalarOp::IsNotDistinct)))
}

pub(crate) fn and(args: &Args<'_>) -> Outcome {
    kleene(args, false)
}

pub(crate) fn or(args: &Args<'_>) -> Outcome {
    kleene(args, true)
}

/// `decisive` decides alone; otherwise NULL wins.
fn kleene(args: &Args<'_>, decisive: bool) -> Outcome {
    match args.values {
        [Value::Bool(v), _] | [_, Value::Bool(v)] if *v == decisive => Ok(Value::Bool(decisive)),
        [Value::Null, Value::Bool(v)] | [Value::Bool(v), Value::Null] if *v != decisive => Ok(Value::Null),
        [Value::Bool(_), Value::Bool(v)] => Ok(Value::Bool(*v)),
        [Value::Null, Value::Null] => Ok(Value::Null),
        _ => mistyped(args),
    }
}

pub(crate) fn not(args: &Args<'_>) -> Outcome {
    Ok(Value::Bool(!args.bool(0)?))
}

pub(crate) fn is_null(args: &Args<'_>) -> Outcome {
    let [v] = args.values else { return mistyped(args) };
    Ok(Value::Bool(v.is_null() == (args.op == ScalarOp::IsNull)))
}

pub(crate) fn coalesce(args: &Args<'_>) -> Outcome {
    let [a, b] = args.values else { return mistyped(args) };
    Ok(if a.is_null() { b.clone() } else { a.clone() })
}

pub(crate) fn select(args: &Args<'_>) -> Outcome {
    match args.values {
        [Value::Bool(true), a, _] => Ok(a.clone()),
        [Value::Bool(false) | Value::Null, _, b] => Ok(b.clone()),
        _ => mistyped(args),
    }
}

pub(crate) fn null_if_true(args: &Args<'_>) -> Outcome {
    match args.values {
        [_, Value::Bool(true)] => Ok(Value::Null),
        [a, Value::Bool(false) | Value::Null] => Ok(a.clone()),
        _ => mistyped(args),
    }
}

pub(crate) fn try_cast(args: &Args<'_>) -> Outcome {
    match cast::cast(args) {
        Err(TrapKind::Overflow(_) | TrapKind::InvalidCast { .. }) => Ok(Value::Null),
        other => other,
    }
}
