//! Conversions: PostgreSQL's texts, halves away from zero.

use runtime::kernels::decimal::ParseDecimalError;
use runtime::kernels::{date, decimal};

use super::{Args, Outcome, mistyped, overflow, text_value};
use crate::error::TrapKind;
use crate::types::ScalarType as S;
use crate::value::Value;

pub(crate) fn cast(args: &Args<'_>) -> Outcome {
    let ([value], [from]) = (args.values, args.types) else { return mistyped(args) };
    let to = args.out;
    if let Value::Null = value {
        return Ok(Value::Null);
    }
    if *from == to {
        return Ok(value.clone());
    }
    if let Value::Text(text) = value {
        return parse(text, to);
    }
    let none = || overflow(to);
    Ok(match to {
        S::Text => return text_value(print(value, *from)),
        S::Bool => Value::Bool(match value {
            Value::I32(v) => *v != 0,
            Value::I64(v) => *v != 0,
            Value::F32(v) => *v != 0.0,
            Value::F64(v) => *v != 0.0,
            Value::Decimal(v) => *v != 0,
            _ => return mistyped(args),
        }),
        S::I32 => Value::I32(i32::try_from(whole(args, value)?.ok_or_else(none)?).map_err(|_| none())?),
        S::I64 => Value::I64(i64::try_from(whole(args, value)?.ok_or_else(none)?).map_err(|_| none())?),
        S::F32 => Value::F32(match value {
            Value::Bool(v) => f32::from(u8::from(*v)),
            Value::I32(v) => *v as f32,
            Value::I64(v) => *v as f32,
            Value::F64(v) => *v as f32,
            // Through f64, as generated code goes.
            Value::Decimal(v) => decimal::to_f64(*v, args.scale(0)) as f32,
            _ => return mistyped(args),
        }),
        S::F64 => Value::F64(match value {
            Value::Bool(v) => f64::from(u8::from(*v)),
            Value::I32(v) => f64::from(*v),
            Value::I64(v) => *v as f64,
            Value::F32(v) => f64::from(*v),
            Value::Decimal(v) => decimal::to_f64(*v, args.scale(0)),
            _ => return mistyped(args),
        }),
        S::Decimal { .. } => {
            let (precision, scale) = args.out_decimal();
            let result = match value {
                Value::I32(v) => decimal::from_i64(i64::from(*v), scale, precision),
                Value::I64(v) => decimal::from_i64(*v, scale, precision),
                Value::F32(v) => decimal::from_f32(*v, scale, precision),
                Value::F64(v) => decimal::from_f64(*v, scale, precision),
                Value::Decimal(v) => decimal::rescale(*v, args.scale(0), scale, precision),
                _ => return mistyped(args),
            };
            Value::Decimal(result.ok_or_else(none)?)
        }
        S::Date => match value {
            Value::Timestamp(v) => Value::Date(date::timestamp_to_date(*v)),
            _ => return mistyped(args),
        },
        S::Timestamp => match value {
            Value::Date(v) => Value::Timestamp(date::date_to_timestamp(*v).ok_or_else(none)?),
            _ => return mistyped(args),
        },
    })
}

/// The nearest whole number, halves away from zero; `None` for NaN and what is far out of range.
fn whole(args: &Args<'_>, value: &Value) -> Result<Option<i128>, TrapKind> {
    Ok(match value {
        Value::Bool(v) => Some(i128::from(*v)),
        Value::I32(v) => Some(i128::from(*v)),
        Value::I64(v) => Some(i128::from(*v)),
        Value::F32(v) => whole_float(f64::from(*v)),
        Value::F64(v) => whole_float(*v),
        Value::Decimal(v) => decimal::rescale(*v, args.scale(0), 0, decimal::MAX_SCALE),
        _ => return mistyped(args),
    })
}

fn whole_float(v: f64) -> Option<i128> {
    (v.abs() < 1e30).then(|| v.round() as i128)
}

/// A value as text, as a cast makes it.
pub(crate) fn print(value: &Value, ty: S) -> String {
    let mut out = String::new();
    match value {
        Value::Null => out.push_str("NULL"),
        Value::Bool(v) => out.push_str(if *v { "true" } else { "false" }),
        Value::I32(v) => out = v.to_string(),
        Value::I64(v) => out = v.to_string(),
        Value::F32(v) => out = print_float(f64::from(*v), &format!("{v:e}"), 6),
        Value::F64(v) => out = print_float(*v, &format!("{v:e}"), 15),
        Value::Decimal(v) => {
            let scale = if let S::Decimal { scale, .. } = ty { scale } else { 0 };
            decimal::print(*v, u32::from(scale), &mut out);
        }
        Value::Date(v) => date::print_date(*v, &mut out),
        Value::Timestamp(v) => date::print_timestamp(*v, &mut out),
        Value::Text(v) => out.push_str(v),
    }
    out
}

/// The shortest digits that read back as the same float, given in `scientific`; an exponent below -4 or from `limit` on is
/// written, with a sign and at least two digits.
fn print_float(v: f64, scientific: &str, limit: i32) -> String {
    if v.is_nan() {
        return "NaN".into();
    }
    if v.is_infinite() {
        return if v > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent < -4 || exponent >= limit {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |m| ("-", m));
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    if exponent < 0 {
        return format!("{sign}0.{}{digits}", "0".repeat((-exponent - 1) as usize));
    }
    let point = exponent as usize + 1;
    if digits.len() > point {
        format!("{sign}{}.{}", &digits[..point], &digits[point..])
    } else {
        format!("{sign}{digits}{}", "0".repeat(point - digits.len()))
    }
}

/// Text as a value of another type; white space around it does not count.
fn parse(text: &str, to: S) -> Outcome {
    let trimmed = text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let invalid = || TrapKind::InvalidCast { value: format!("'{text}'"), to: to.to_string() };
    Ok(match to {
        S::Text => Value::Text(text.into()),
        S::Bool => Value::Bool(parse_bool(trimmed).ok_or_else(invalid)?),
        S::I32 => match parse_integer(trimmed).ok_or_else(invalid)? {
            Some(v) => Value::I32(i32::try_from(v).map_err(|_| overflow(to))?),
            None => return Err(overflow(to)),
        },
        S::I64 => match parse_integer(trimmed).ok_or_else(invalid)? {
            Some(v) => Value::I64(v),
            None => return Err(overflow(to)),
        },
        S::F32 => {
            let v: f32 = trimmed.parse().map_err(|_| invalid())?;
            finite(v.is_infinite(), trimmed, to)?;
            Value::F32(v)
        }
        S::F64 => {
            let v: f64 = trimmed.parse().map_err(|_| invalid())?;
            finite(v.is_infinite(), trimmed, to)?;
            Value::F64(v)
        }
        S::Decimal { precision, scale } => match decimal::parse(trimmed, u32::from(scale), u32::from(precision)) {
            Ok(v) => Value::Decimal(v),
            Err(ParseDecimalError::Syntax) => return Err(invalid()),
            Err(ParseDecimalError::Overflow) => return Err(overflow(to)),
        },
        S::Date => Value::Date(date::parse_date(trimmed).ok_or_else(invalid)?),
        S::Timestamp => Value::Timestamp(date::parse_timestamp(trimmed).ok_or_else(invalid)?),
    })
}

/// The beginnings of true, false, yes, no, on and off that are unique, and 1 and 0.
fn parse_bool(text: &str) -> Option<bool> {
    let lower = text.to_ascii_lowercase();
    let begins = |word: &str, least: usize| lower.len() >= least && word.starts_with(&lower);
    if lower == "1" || begins("true", 1) || begins("yes", 1) || begins("on", 2) {
        Some(true)
    } else if lower == "0" || begins("false", 1) || begins("no", 1) || begins("off", 2) {
        Some(false)
    } else {
        None
    }
}

/// `None`: no integer; `Some(None)`: out of the range of `i64`.
fn parse_integer(text: &str) -> Option<Option<i64>> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().ok())
}

/// An infinity is an overflow where the text does not name it.
fn finite(infinite: bool, text: &str, to: S) -> Result<(), TrapKind> {
    if infinite && text.bytes().any(|b| b.is_ascii_digit()) { Err(overflow(to)) } else { Ok(()) }
}
