//! Dates and timestamps.

use runtime::kernels::date::{self, DatePart};

use super::{Args, Outcome, mistyped, overflow, text_value};
use crate::error::TrapKind;
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

pub(crate) fn make_date(args: &Args<'_>) -> Outcome {
    let (year, month, day) = (args.i64(0)?, args.i64(1)?, args.i64(2)?);
    let date = match (u32::try_from(month), u32::try_from(day)) {
        (Ok(month), Ok(day)) if year.unsigned_abs() < 1 << 24 => date::date_from_civil(year, month, day),
        _ => None,
    };
    date.map(Value::Date).ok_or_else(|| TrapKind::InvalidArgument(format!("there is no day {year}-{month}-{day}")))
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

pub(crate) fn format(args: &Args<'_>) -> Outcome {
    let micros = match args.values.first() {
        Some(Value::Timestamp(t)) => Some(*t),
        Some(Value::Date(d)) => date::date_to_timestamp(*d),
        _ => return mistyped(args),
    };
    let micros = micros.ok_or_else(|| overflow(args.out))?;
    let get = |part| date::extract_timestamp(part, micros);
    let name = |names: &[&'static str], i: i64| usize::try_from(i).ok().and_then(|i| names.get(i)).copied();
    let mut out = String::new();
    let mut chars = args.text(1)?.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let hour = get(DatePart::Hour);
        let month = name(&MONTHS, get(DatePart::Month) - 1).unwrap_or_default();
        let day = name(&DAYS, get(DatePart::DayOfWeek)).unwrap_or_default();
        match chars.next() {
            Some('Y') => out += &format!("{:04}", get(DatePart::Year)),
            Some('y') => out += &format!("{:02}", get(DatePart::Year).rem_euclid(100)),
            Some('m') => out += &format!("{:02}", get(DatePart::Month)),
            Some('d') => out += &format!("{:02}", get(DatePart::Day)),
            Some('H') => out += &format!("{hour:02}"),
            Some('I') => out += &format!("{:02}", (hour + 11) % 12 + 1),
            Some('M') => out += &format!("{:02}", get(DatePart::Minute)),
            Some('S') => out += &format!("{:02}", get(DatePart::Second)),
            Some('f') => out += &format!("{:06}", micros.rem_euclid(1_000_000)),
            Some('p') => out += if hour < 12 { "AM" } else { "PM" },
            Some('A') => out += day,
            Some('a') => out += &day[..3],
            Some('B') => out += month,
            Some('b') => out += &month[..3],
            Some('j') => out += &format!("{:03}", get(DatePart::DayOfYear)),
            Some('%') => out.push('%'),
            other => {
                let what = other.map_or("nothing".to_string(), |c| format!("%{c}"));
                return Err(TrapKind::InvalidArgument(format!("the format of a time has {what}, which is not known")));
            }
        }
    }
    text_value(out)
}
