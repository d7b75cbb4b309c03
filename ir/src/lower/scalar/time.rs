//! Operations on dates and timestamps.

use runtime::abi::RuntimeFn;
use runtime::kernels::date::{self, MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND};
use runtime::trap::TrapCode;

use super::exact::fits;
use super::range_of;
use crate::error::{Error, Result};
use crate::kernel::{self, Type as K};
use crate::lower::row::{Cell, RowLower};
use crate::plan::bounds::{Range, arithmetic_range};
use crate::scalar::{DateField, ScalarOp, eval};
use crate::types::ScalarType;

const SECONDS_PER_DAY: i64 = 86_400;

impl RowLower<'_> {
    /// An operation on dates or timestamps.
    pub(super) fn time(
        &mut self,
        op: ScalarOp,
        args: &[Cell],
        valid: Option<kernel::Value>,
        location: u32,
    ) -> Result<Option<(kernel::Value, Range)>> {
        use RuntimeFn as F;
        use ScalarOp as O;
        let a = &args[0];
        let is_date = a.ty == ScalarType::Date;
        let register = if is_date { K::I32 } else { K::I64 };
        Ok(match op {
            O::Extract(field) => Some(self.extract(field, a)?),
            O::DateDiff(field) => self.date_diff(field, a, &args[1], valid, location),
            O::DateTrunc(field) => {
                let part = self.part(field);
                let function = if is_date { F::DateTrunc } else { F::TimestampTrunc };
                self.guarded_call(function, &[part, a.value], register, valid, location).map(|v| (v, None))
            }
            O::AddMonths => {
                let function = if is_date { F::DateAddMonths } else { F::TimestampAddMonths };
                self.guarded_call(function, &[a.value, args[1].value], register, valid, location).map(|v| (v, None))
            }
            O::AddDays if !is_date => {
                let days = self.b.sext(args[1].value, K::I64);
                let unit = self.b.iconst(K::I64, MICROS_PER_DAY);
                let (more, overflow) = self.b.mul_checked(days, unit);
                self.raise_if(overflow, valid, TrapCode::Overflow, location);
                Some(self.add_time(a, more, None, valid, location))
            }
            O::AddDays | O::AddMicros => Some(self.add_time(a, args[1].value, range_of(&args[1]), valid, location)),
            other => return Err(Error::Bug(format!("{} is no operation on times", other.name()))),
        })
    }

    fn part(&mut self, field: DateField) -> kernel::Value {
        self.b.iconst(K::I32, eval::time::part(field) as i64)
    }

    /// A time some of its units later.
    fn add_time(
        &mut self,
        a: &Cell,
        more: kernel::Value,
        range: Range,
        valid: Option<kernel::Value>,
        location: u32,
    ) -> (kernel::Value, Range) {
        let range = arithmetic_range(ScalarOp::Add, range_of(a), range).filter(|r| fits(a.ty, *r));
        if range.is_some() {
            return (self.b.add(a.value, more), range);
        }
        let (sum, overflow) = self.b.add_checked(a.value, more);
        self.raise_if(overflow, valid, TrapCode::Overflow, location);
        (sum, None)
    }

    fn extract(&mut self, field: DateField, a: &Cell) -> Result<(kernel::Value, Range)> {
        let part = self.part(field);
        let is_date = a.ty == ScalarType::Date;
        let function = if is_date { RuntimeFn::DateExtract } else { RuntimeFn::TimestampExtract };
        Ok((self.pure_call(function, &[part, a.value])?, extracted_range(field, a)))
    }

    /// Boundaries crossed from `a` to `b`.
    fn date_diff(
        &mut self,
        field: DateField,
        a: &Cell,
        b: &Cell,
        valid: Option<kernel::Value>,
        location: u32,
    ) -> Option<(kernel::Value, Range)> {
        let is_date = a.ty == ScalarType::Date;
        if matches!(field, DateField::Year | DateField::Quarter | DateField::Month) {
            let part = self.part(field);
            let function = if is_date { RuntimeFn::DateDiff } else { RuntimeFn::TimestampDiff };
            let value = self.guarded_call(function, &[part, a.value, b.value], K::I64, valid, location)?;
            return Some((value, None));
        }
        let (from, to) = (self.periods(field, a), self.periods(field, b));
        let value = self.b.sub(to, from);
        // Whole days are what is subtracted; shorter periods of dates are multiples of them.
        let days = arithmetic_range(ScalarOp::Sub, range_of(b), range_of(a));
        let factor = i128::from(periods_a_day(field));
        let range = match field {
            DateField::Week => None,
            _ if is_date => arithmetic_range(ScalarOp::Mul, days, Some((factor, factor))),
            _ => None,
        };
        Some((value, range))
    }

    /// The number of the period (of a fixed length) that a time is in, from some period on.
    fn periods(&mut self, field: DateField, a: &Cell) -> kernel::Value {
        if a.ty == ScalarType::Date {
            let days = self.b.sext(a.value, K::I64);
            return match field {
                DateField::Week => self.weeks(days),
                _ => {
                    let factor = self.b.iconst(K::I64, periods_a_day(field));
                    self.b.mul(days, factor)
                }
            };
        }
        let unit = match field {
            DateField::Hour => MICROS_PER_HOUR,
            DateField::Minute => MICROS_PER_MINUTE,
            DateField::Second | DateField::Epoch => MICROS_PER_SECOND,
            _ => MICROS_PER_DAY,
        };
        let number = self.floor_div(a.value, unit);
        if field == DateField::Week { self.weeks(number) } else { number }
    }

    /// The number of the week (from Monday on) of a day.
    fn weeks(&mut self, days: kernel::Value) -> kernel::Value {
        // 1970-01-01 was a Thursday.
        let days = self.b.add_imm(days, 3);
        self.floor_div(days, 7)
    }

    /// The quotient of an I64 rounded down.
    fn floor_div(&mut self, x: kernel::Value, divisor: i64) -> kernel::Value {
        let d = self.b.iconst(K::I64, divisor);
        let quotient = self.b.sdiv(x, d);
        let whole = self.b.mul(quotient, d);
        let rest = self.b.sub(x, whole);
        // -1 where the rest is negative, 0 elsewhere.
        let sign = self.b.sshr_imm(rest, 63);
        self.b.add(quotient, sign)
    }
}

/// How many periods of a field's length a day has; 1 for those that count days.
fn periods_a_day(field: DateField) -> i64 {
    match field {
        DateField::Hour => 24,
        DateField::Minute => 1440,
        DateField::Second | DateField::Epoch => SECONDS_PER_DAY,
        _ => 1,
    }
}

/// Bounds of a field.
fn extracted_range(field: DateField, a: &Cell) -> Range {
    let is_date = a.ty == ScalarType::Date;
    Some(match field {
        DateField::Quarter => (1, 4),
        DateField::Month => (1, 12),
        DateField::Week => (1, 53),
        DateField::Day => (1, 31),
        DateField::DayOfWeek => (0, 6),
        DateField::DayOfYear => (1, 366),
        DateField::Hour => (0, 23),
        DateField::Minute | DateField::Second => (0, 59),
        // They grow with the time.
        DateField::Year | DateField::Epoch => {
            let part = eval::time::part(field);
            let (low, high) = range_of(a)?;
            let at = |time: i128| -> Option<i128> {
                Some(i128::from(if is_date {
                    date::extract_date(part, i32::try_from(time).ok()?)
                } else {
                    date::extract_timestamp(part, i64::try_from(time).ok()?)
                }))
            };
            (at(low)?, at(high)?)
        }
    })
}
