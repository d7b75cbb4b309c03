//! Casts.

use runtime::abi::RuntimeFn;
use runtime::trap::TrapCode;

use super::exact::{MOST_DIGITS, fits};
use super::range_of;
use crate::error::Result;
use crate::kernel::{self, Cmp, Type as K};
use crate::lower::row::{Cell, RowLower};
use crate::plan::bounds::{Range, type_range};
use crate::plan::register_type;
use crate::types::ScalarType;

impl RowLower<'_> {
    pub(super) fn cast(
        &mut self,
        a: &Cell,
        to: ScalarType,
        valid: Option<kernel::Value>,
        location: u32,
    ) -> Result<Option<(kernel::Value, Range)>> {
        use ScalarType as S;
        Ok(Some(match (a.ty, to) {
            (from, to) if from == to => (a.value, a.range),
            (S::Bool, S::I32 | S::I64) => (self.b.zext(a.value, register_type(to)), Some((0, 1))),
            (S::Bool, S::F32 | S::F64) => {
                let wide = self.b.zext(a.value, K::I32);
                (self.b.int_to_float(wide, register_type(to)), None)
            }
            (S::I32 | S::I64, S::Bool) => (self.b.icmp_imm(Cmp::Ne, a.value, 0), Some((0, 1))),
            (S::I32, S::I64) => (self.b.sext(a.value, K::I64), a.range.or_else(|| type_range(S::I32))),
            (S::I64, S::I32) => {
                let narrow = self.b.trunc(a.value, K::I32);
                if !range_of(a).is_some_and(|r| fits(S::I32, r)) {
                    let back = self.b.sext(narrow, K::I64);
                    let lost = self.b.icmp(Cmp::Ne, back, a.value);
                    self.raise_if(lost, valid, TrapCode::Overflow, location);
                }
                (narrow, a.range)
            }
            (S::I32 | S::I64, S::F32 | S::F64) => (self.b.int_to_float(a.value, register_type(to)), None),
            (S::F32 | S::F64, S::I32 | S::I64) => self.float_to_integer(a, to, valid, location),
            (S::F32 | S::F64, S::Bool) => {
                let zero = self.b.fconst(self.b.ty(a.value), 0.0);
                (self.b.fcmp(Cmp::Ne, a.value, zero), Some((0, 1)))
            }
            (S::F32, S::F64) => (self.b.promote(a.value), None),
            (S::F64, S::F32) => (self.b.demote(a.value), None),
            (S::I32 | S::I64, S::Decimal { .. }) => {
                let ty = S::Decimal { precision: if a.ty == S::I32 { 10 } else { 19 }, scale: 0 };
                let value = if a.ty == S::I32 { self.b.sext(a.value, K::I64) } else { a.value };
                let whole = Cell { value, valid: a.valid, ty, range: range_of(a) };
                return self.rescale(&whole, to, valid, location);
            }
            (S::Decimal { .. }, S::Decimal { .. }) => return self.rescale(a, to, valid, location),
            (S::Decimal { scale, .. }, S::I32 | S::I64) => {
                return self.decimal_to_integer(a, scale, to, valid, location);
            }
            (S::Decimal { .. }, S::Bool) => {
                let zero = self.zero(self.b.ty(a.value));
                (self.b.compare(Cmp::Ne, a.value, zero), Some((0, 1)))
            }
            (S::Decimal { scale, .. }, S::F64 | S::F32) => {
                let v = self.decimal_to_double(a, scale)?;
                (if to == S::F32 { self.b.demote(v) } else { v }, None)
            }
            (S::F32 | S::F64, S::Decimal { precision, scale }) => {
                let function = if a.ty == S::F32 { RuntimeFn::F32ToDecimal } else { RuntimeFn::F64ToDecimal };
                let [scale, digits] = [scale, precision].map(|n| self.b.iconst(K::I32, i64::from(n)));
                let args = [a.value, scale, digits];
                let value = self.guarded_call(function, &args, register_type(to), valid, location);
                return Ok(value.map(|v| (v, type_range(to))));
            }
            (S::Timestamp, S::Date) => (self.pure_call(RuntimeFn::TimestampToDate, &[a.value])?, None),
            (S::Date, S::Timestamp) => {
                let days = self.b.sext(a.value, K::I64);
                let micros = self.b.iconst(K::I64, 86_400_000_000);
                let (midnight, overflow) = self.b.mul_checked(days, micros);
                self.raise_if(overflow, valid, TrapCode::Overflow, location);
                (midnight, None)
            }
            (S::Text, to) => return Ok(self.parse(a, to, valid, location)),
            (from, S::Text) => return Ok(self.print(a, from, valid, location)),
            _ => return Ok(None),
        }))
    }

    /// A float as the nearest integer, half away from zero; what is out of range (or NaN) raises.
    fn float_to_integer(
        &mut self,
        a: &Cell,
        to: ScalarType,
        valid: Option<kernel::Value>,
        location: u32,
    ) -> (kernel::Value, Range) {
        let ty = self.b.ty(a.value);
        let whole = self.b.ftrunc(a.value);
        let rest = self.b.fsub(a.value, whole);
        let (half, minus_half) = (self.b.fconst(ty, 0.5), self.b.fconst(ty, -0.5));
        let (zero, one) = (self.b.fconst(ty, 0.0), self.b.fconst(ty, 1.0));
        let minus_one = self.b.fconst(ty, -1.0);
        let down = self.b.fcmp(Cmp::Le, rest, minus_half);
        let up = self.b.fcmp(Cmp::Le, half, rest);
        let step = self.b.select(down, minus_one, zero);
        let step = self.b.select(up, one, step);
        let rounded = self.b.fadd(whole, step);
        let bound = if to == ScalarType::I32 { 2f64.powi(31) } else { 2f64.powi(63) };
        let (low, high) = (self.b.fconst(ty, -bound), self.b.fconst(ty, bound));
        let above = self.b.fcmp(Cmp::Le, low, rounded);
        let below = self.b.fcmp(Cmp::Lt, rounded, high);
        let fits = self.b.and(above, below);
        let outside = self.b.bool_not(fits);
        self.raise_if(outside, valid, TrapCode::Overflow, location);
        let safe = self.b.select(fits, rounded, zero);
        (self.b.float_to_int(safe, register_type(to)), type_range(to))
    }

    /// A decimal as the nearest F64.
    fn decimal_to_double(&mut self, a: &Cell, scale: u8) -> Result<kernel::Value> {
        if range_of(a).is_some_and(exact_in_f64) && scale <= 22 {
            // Integer and power of ten are exact, so that one division rounds once.
            let value = self.to_register(a, K::I64)?;
            let wide = self.b.int_to_float(value, K::F64);
            let power = self.b.fconst(K::F64, 10f64.powi(i32::from(scale)));
            return Ok(if scale == 0 { wide } else { self.b.fdiv(wide, power) });
        }
        let wide = self.to_register(a, K::I128)?;
        let scale = self.b.iconst(K::I32, i64::from(scale));
        let words = [self.b.lo64(wide), self.b.hi64(wide), scale];
        self.pure_call(RuntimeFn::DecimalToF64, &words)
    }

    /// A decimal at another scale and precision; half away from zero where digits are dropped.
    fn rescale(
        &mut self,
        a: &Cell,
        to: ScalarType,
        valid: Option<kernel::Value>,
        location: u32,
    ) -> Result<Option<(kernel::Value, Range)>> {
        let (ScalarType::Decimal { scale: from, .. }, ScalarType::Decimal { precision, scale }) = (a.ty, to) else {
            return Ok(None);
        };
        let up = if scale >= from { self.scaled_up(a, scale)? } else { None };
        let (value, range) = match up {
            Some(scaled) => (scaled.value, range_of(&scaled)),
            None if scale < from && from - scale <= MOST_DIGITS && self.b.ty(a.value) == K::I64 => {
                self.divide_half_away(a, u32::from(from - scale))
            }
            None => {
                let wide = self.to_register(a, K::I128)?;
                let [from, scale, digits] = [from, scale, precision].map(|n| self.b.iconst(K::I32, i64::from(n)));
                let args = [self.b.lo64(wide), self.b.hi64(wide), from, scale, digits];
                let value = self.guarded_call(RuntimeFn::DecimalRescale, &args, K::I128, valid, location);
                return Ok(value.map(|v| (v, type_range(to))));
            }
        };
        let range = self.check_digits(value, range, precision, valid, location);
        let narrow = register_type(to) == K::I64 && self.b.ty(value) == K::I128;
        Ok(Some((if narrow { self.b.trunc(value, K::I64) } else { value }, range)))
    }

    /// The nearest integer, half away from zero.
    fn decimal_to_integer(
        &mut self,
        a: &Cell,
        scale: u8,
        to: ScalarType,
        valid: Option<kernel::Value>,
        location: u32,
    ) -> Result<Option<(kernel::Value, Range)>> {
        let whole = if self.b.ty(a.value) == K::I64 && scale <= MOST_DIGITS {
            let (value, range) = self.divide_half_away(a, u32::from(scale));
            let most = type_range(ScalarType::I64);
            let range = range.zip(most).map(|(r, m)| (r.0.max(m.0), r.1.min(m.1)));
            Cell { value, valid: a.valid, ty: ScalarType::I64, range }
        } else {
            let wide = self.to_register(a, K::I128)?;
            let scale = self.b.iconst(K::I32, i64::from(scale));
            let args = [self.b.lo64(wide), self.b.hi64(wide), scale];
            let value = self.guarded_call(RuntimeFn::DecimalToI64, &args, K::I64, valid, location);
            let Some(value) = value else { return Ok(None) };
            Cell { value, valid: a.valid, ty: ScalarType::I64, range: None }
        };
        self.cast(&whole, to, valid, location)
    }

    /// A text as a value of another type.
    fn parse(
        &mut self,
        a: &Cell,
        to: ScalarType,
        valid: Option<kernel::Value>,
        location: u32,
    ) -> Option<(kernel::Value, Range)> {
        use RuntimeFn as F;
        use ScalarType as S;
        let mut args = vec![self.b.lo64(a.value), self.b.hi64(a.value)];
        let function = match to {
            S::Bool => F::TextToBool,
            S::I32 => F::TextToI32,
            S::I64 => F::TextToI64,
            S::F32 => F::TextToF32,
            S::F64 => F::TextToF64,
            S::Date => F::TextToDate,
            S::Timestamp => F::TextToTimestamp,
            S::Decimal { precision, scale } => {
                args.extend([scale, precision].map(|n| self.b.iconst(K::I32, i64::from(n))));
                F::TextToDecimal
            }
            S::Text => return None,
        };
        let value = self.guarded_call(function, &args, register_type(to), valid, location)?;
        Some((value, type_range(to)))
    }

    /// A value as text.
    fn print(
        &mut self,
        a: &Cell,
        from: ScalarType,
        valid: Option<kernel::Value>,
        location: u32,
    ) -> Option<(kernel::Value, Range)> {
        use RuntimeFn as F;
        use ScalarType as S;
        let (function, args) = match from {
            S::Bool => (F::BoolToText, vec![a.value]),
            S::I32 => (F::I64ToText, vec![self.b.sext(a.value, K::I64)]),
            S::I64 => (F::I64ToText, vec![a.value]),
            S::F32 => (F::F32ToText, vec![a.value]),
            S::F64 => (F::F64ToText, vec![a.value]),
            S::Date => (F::DateToText, vec![a.value]),
            S::Timestamp => (F::TimestampToText, vec![a.value]),
            S::Decimal { scale, .. } => {
                let wide = if self.b.ty(a.value) == K::I64 { self.b.sext(a.value, K::I128) } else { a.value };
                let scale = self.b.iconst(K::I32, i64::from(scale));
                (F::DecimalToText, vec![self.b.lo64(wide), self.b.hi64(wide), scale])
            }
            S::Text => return None,
        };
        let value = self.guarded_call(function, &args, K::I128, valid, location)?;
        Some((value, None))
    }
}

/// Integers up to 2^53 are exact in `f64`.
fn exact_in_f64(r: (i128, i128)) -> bool {
    r.0 >= -(1 << 53) && r.1 <= 1 << 53
}
