//! Dates and timestamps.

use runtime::kernels::date::{self, DatePart};

use super::{Args, Outcome, mistyped, overflow};
use crate::scalar::{DateField, ScalarOp};
use crate::value::Value;

/// The runtime's name of a field.
pub(crate) fn part(field: DateField) -> DatePart {
    match field {
        DateField::Year => DatePart::Year,
        DateField::Quarter => DatePart::Quarter,
        DateField::Month => DatePart::Month,
        DateField::Week => DatePart::Week,
        DateField::Day => DatePart::Day,
        DateField::DayOfWeek => DatePart::DayOfWeek,
        DateField::DayOfYear => DatePart::DayOfYear,
        DateField::Hour => DatePart::Hour,
        DateField::Minute => DatePart::Minute,
        DateField::Second => DatePart::Second,
        DateField::Epoch => DatePart::Epoch,
    }
}

pub(crate) fn extract(args: &Args<'_>) -> Outcome {
    let ScalarOp::Extract(field) = args.op else { return mistyped(args) };
    match args.values {
        [Value::Date(d)] => Ok(Value::I64(date::extract_date(part(field), *d))),
        [Value::Timestamp(t)] => Ok(Value::I64(date::extract_timestamp(part(field), *t))),
        _ => mistyped(args),
    }
}

pub(crate) fn trunc(args: &Args<'_>) -> Outcome {
    let ScalarOp::DateTrunc(field) = args.op else { return mistyped(args) };
    match args.values {
        [Value::Date(d)] => in_range(args, date::trunc_date(part(field), *d).map(Value::Date)),
        [Value::Timestamp(t)] => in_range(args, date::trunc_timestamp(part(field), *t).map(Value::Timestamp)),
        _ => mistyped(args),
    }
}

pub(crate) fn add_months(args: &Args<'_>) -> Outcome {
    let months = i64::from(args.i32(1)?);
    match args.values {
        [Value::Date(d), _] => in_range(args, date::add_months(*d, months).map(Value::Date)),
        [Value::Timestamp(t), _] => in_range(args, date::timestamp_add_months(*t, months).map(Value::Timestamp)),
        _ => mistyped(args),
    }
}

pub(crate) fn add_days(args: &Args<'_>) -> Outcome {
    let days = i64::from(args.i32(1)?);
    match args.values {
        [Value::Date(d), _] => in_range(args, date::add_days(*d, days).map(Value::Date)),
        [Value::Timestamp(t), _] => in_range(args, date::timestamp_add_interval(*t, 0, days, 0).map(Value::Timestamp)),
        _ => mistyped(args),
    }
}

pub(crate) fn add_micros(args: &Args<'_>) -> Outcome {
    match args.values {
        [Value::Timestamp(t), Value::I64(micros)] => in_range(args, t.checked_add(*micros).map(Value::Timestamp)),
        _ => mistyped(args),
    }
}

pub(crate) fn diff(args: &Args<'_>) -> Outcome {
    let ScalarOp::DateDiff(field) = args.op else { return mistyped(args) };
    match args.values {
        [Value::Date(a), Value::Date(b)] => in_range(args, date::diff_date(part(field), *a, *b).map(Value::I64)),
        [Value::Timestamp(a), Value::Timestamp(b)] => {
            in_range(args, date::diff_timestamp(part(field), *a, *b).map(Value::I64))
        }
        _ => mistyped(args),
    }
}

fn in_range(args: &Args<'_>, result: Option<Value>) -> Outcome {
    result.ok_or_else(|| overflow(args.out))
}
