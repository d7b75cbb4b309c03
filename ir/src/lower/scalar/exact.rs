//! Arithmetic of integers and decimals.

use runtime::abi::RuntimeFn;
use runtime::trap::TrapCode;

use super::range_of;
use crate::error::Result;
use crate::kernel::{self, Cmp, Type as K};
use crate::lower::row::{Cell, RowLower};
use crate::plan::bounds::{Range, arithmetic_range, type_range};
use crate::plan::register_type;
use crate::scalar::ScalarOp;
use crate::types::ScalarType;

fn fits_i64(r: (i128, i128)) -> bool {
    r.0 >= i128::from(i64::MIN) && r.1 <= i128::from(i64::MAX)
}

pub(super) fn fits(ty: ScalarType, r: (i128, i128)) -> bool {
    match ty {
        ScalarType::I32 | ScalarType::Date => r.0 >= i128::from(i32::MIN) && r.1 <= i128::from(i32::MAX),
        ScalarType::I64 | ScalarType::Timestamp => fits_i64(r),
        ScalarType::Decimal { precision, .. } => {
            let limit = 10i128.pow(u32::from(precision));
            r.0 > -limit && r.1 < limit
        }
        _ => false,
    }
}

impl RowLower<'_> {
    /// A sum, difference or product of integers or decimals.
    pub(super) fn exact(
        &mut self,
        op: ScalarOp,
        a: &Cell,
        c: &Cell,
        out: ScalarType,
        valid: Option<kernel::Value>,
        location: u32,
    ) -> Result<Option<(kernel::Value, Range)>> {
        let (a, c) = match (a.ty, c.ty, out) {
            (ScalarType::Decimal { .. }, ScalarType::Decimal { .. }, ScalarType::Decimal { scale, .. })
                if op != ScalarOp::Mul =>
            {
                (self.scaled_up(a, scale)?, self.scaled_up(c, scale)?)
            }
            _ => (Some(*a), Some(*c)),
        };
        let (Some(a), Some(c)) = (a, c) else { return Ok(None) };
        let range = arithmetic_range(op, range_of(&a), range_of(&c));
        let proven = range.filter(|r| fits(out, *r));
        let narrow = |s: &Self, c: &Cell| s.b.ty(c.value) != K::I128;
        let decimal = matches!(out, ScalarType::Decimal { .. });
        if let Some(r) = proven {
            // The result needs no check. In 64 bits if operands and result fit.
            let small = fits_i64(r) && narrow(self, &a) && narrow(self, &c);
            let register = match (decimal, small) {
                (true, true) => K::I64,
                (true, false) => K::I128,
                (false, _) => register_type(out),
            };
            let (x, y) = (self.to_register(&a, register)?, self.to_register(&c, register)?);
            return Ok(Some((self.plain(op, x, y), proven)));
        }
        if decimal {
            // In 128 bits if that cannot wrap; then the digits are checked.
            if range.is_none() {
                return Ok(None);
            }
            let (x, y) = (self.to_register(&a, K::I128)?, self.to_register(&c, K::I128)?);
            let v = self.plain(op, x, y);
            let ScalarType::Decimal { precision, .. } = out else { return Ok(None) };
            return Ok(Some((v, self.check_digits(v, range, precision, valid, location))));
        }
        let (v, overflow) = match op {
            ScalarOp::Add => self.b.add_checked(a.value, c.value),
            ScalarOp::Sub => self.b.sub_checked(a.value, c.value),
            _ => self.b.mul_checked(a.value, c.value),
        };
        self.raise_if(overflow, valid, TrapCode::Overflow, location);
        Ok(Some((v, type_range(out))))
    }

    /// Raises where a decimal of these bounds has more digits; its bounds then.
    pub(super) fn check_digits(
        &mut self,
        v: kernel::Value,
        range: Range,
        precision: u8,
        valid: Option<kernel::Value>,
        location: u32,
    ) -> Range {
        let ty = self.b.ty(v);
        let limit = 10i128.pow(u32::from(precision));
        let range = range.unwrap_or((i128::MIN, i128::MAX));
        // What the register cannot hold is not in it.
        let fits = |bound: i128| ty == K::I128 || i64::try_from(bound).is_ok();
        let mut outside = None;
        for (cmp, bound, needed) in [(Cmp::Le, -limit, range.0 <= -limit), (Cmp::Ge, limit, range.1 >= limit)] {
            if needed && fits(bound) {
                let bound = self.b.iconst128(ty, bound);
                let beyond = self.b.compare(cmp, v, bound);
                outside = Some(outside.map_or(beyond, |o| self.b.or(o, beyond)));
            }
        }
        if let Some(outside) = outside {
            self.raise_if(outside, valid, TrapCode::Overflow, location);
        }
        Some((range.0.max(1 - limit), range.1.min(limit - 1)))
    }

    fn plain(&mut self, op: ScalarOp, x: kernel::Value, y: kernel::Value) -> kernel::Value {
        match op {
            ScalarOp::Add => self.b.add(x, y),
            ScalarOp::Sub => self.b.sub(x, y),
            _ => self.b.mul(x, y),
        }
    }

    /// A decimal at a greater scale; none where the digits may not fit 128 bits.
    pub(super) fn scaled_up(&mut self, c: &Cell, scale: u8) -> Result<Option<Cell>> {
        let ScalarType::Decimal { precision, scale: from } = c.ty else { return Ok(Some(*c)) };
        if from >= scale {
            return Ok(Some(*c));
        }
        let factor = 10i128.pow(u32::from(scale - from));
        let Some(range) = arithmetic_range(ScalarOp::Mul, range_of(c), Some((factor, factor))) else { return Ok(None) };
        let register = if fits_i64(range) && self.b.ty(c.value) == K::I64 { K::I64 } else { K::I128 };
        let x = self.to_register(c, register)?;
        let f = self.b.iconst128(register, factor);
        let ty = ScalarType::Decimal { precision: (precision + scale - from).min(38), scale };
        Ok(Some(Cell { value: self.b.mul(x, f), valid: c.valid, ty, range: Some(range) }))
    }

    /// The quotient of integers, towards zero.
    pub(super) fn divide(
        &mut self,
        a: &Cell,
        c: &Cell,
        valid: Option<kernel::Value>,
        location: u32,
    ) -> Result<Option<(kernel::Value, Range)>> {
        let ty = self.b.ty(a.value);
        let zero = self.b.icmp_imm(Cmp::Eq, c.value, 0);
        self.raise_if(zero, valid, TrapCode::DivisionByZero, location);
        // What would trap in hardware divides by 1 instead: 0 where NULL, and the least number by -1.
        let minus = self.b.icmp_imm(Cmp::Eq, c.value, -1);
        let one = self.b.iconst(ty, 1);
        let odd = self.b.or(zero, minus);
        let divisor = self.b.select(odd, one, c.value);
        let q = self.b.sdiv(a.value, divisor);
        let least = self.b.iconst(ty, if ty == K::I32 { i64::from(i32::MIN) } else { i64::MIN });
        let at_least = self.b.icmp(Cmp::Eq, a.value, least);
        let overflow = self.b.and(minus, at_least);
        self.raise_if(overflow, valid, TrapCode::Overflow, location);
        let negated = self.b.neg(a.value);
        Ok(Some((self.b.select(minus, negated, q), type_range(a.ty))))
    }

    /// The remainder with the sign of the dividend, at the greater scale of two decimals.
    pub(super) fn remainder(
        &mut self,
        a: &Cell,
        c: &Cell,
        out: ScalarType,
        valid: Option<kernel::Value>,
        location: u32,
    ) -> Result<Option<(kernel::Value, Range)>> {
        let (a, c) = match out {
            ScalarType::Decimal { scale, .. } => {
                let (Some(a), Some(c)) = (self.scaled_up(a, scale)?, self.scaled_up(c, scale)?) else {
                    return Ok(None);
                };
                (a, c)
            }
            _ => (*a, *c),
        };
        let ty = self.b.ty(a.value);
        if ty == K::I128 || self.b.ty(c.value) == K::I128 {
            return Ok(None);
        }
        let divisor = match self.b.constant_bits(c.value) {
            // -1 and 0 would trap in hardware, for some dividends.
            Some(_) if range_of(&c).is_some_and(|r| r.0 > 0 || r.1 < -1) => c.value,
            _ => {
                let zero = self.b.icmp_imm(Cmp::Eq, c.value, 0);
                self.raise_if(zero, valid, TrapCode::DivisionByZero, location);
                let minus = self.b.icmp_imm(Cmp::Eq, c.value, -1);
                let odd = self.b.or(zero, minus);
                let one = self.b.iconst(ty, 1);
                self.b.select(odd, one, c.value)
            }
        };
        Ok(Some((self.b.srem(a.value, divisor), remainder_range(range_of(&a), range_of(&c)))))
    }

    /// The magnitude; the least integer has none.
    pub(super) fn abs(
        &mut self,
        a: &Cell,
        out: ScalarType,
        valid: Option<kernel::Value>,
        location: u32,
    ) -> Result<Option<(kernel::Value, Range)>> {
        let zero = Cell { value: self.zero(self.b.ty(a.value)), valid: None, ty: a.ty, range: Some((0, 0)) };
        let negative = self.b.compare(Cmp::Lt, a.value, zero.value);
        let wanted = Some(valid.map_or(negative, |v| self.b.and(v, negative)));
        let Some((negated, _)) = self.exact(ScalarOp::Sub, &zero, a, out, wanted, location)? else { return Ok(None) };
        let magnitude = self.b.select(negative, negated, a.value);
        let most = range_of(a).and_then(|r| Some(r.0.checked_abs()?.max(r.1.checked_abs()?)));
        Ok(Some((magnitude, most.map(|m| (0, m)))))
    }

    /// -1, 0 or 1 at the operand's scale.
    pub(super) fn sign(&mut self, a: &Cell) -> (kernel::Value, Range) {
        let ty = self.b.ty(a.value);
        let scale = if let ScalarType::Decimal { scale, .. } = a.ty { scale } else { 0 };
        let one = 10i128.pow(u32::from(scale));
        let ty = if i64::try_from(one).is_ok() { ty } else { K::I128 };
        let zero = self.zero(self.b.ty(a.value));
        let (nothing, plus, minus) = (self.zero(ty), self.b.iconst128(ty, one), self.b.iconst128(ty, -one));
        let above = self.b.compare(Cmp::Gt, a.value, zero);
        let below = self.b.compare(Cmp::Lt, a.value, zero);
        let rest = self.b.select(below, minus, nothing);
        (self.b.select(above, plus, rest), Some((-one, one)))
    }

    /// `floor`, `ceil` and `trunc` of a decimal, at scale 0.
    pub(super) fn whole(&mut self, op: ScalarOp, a: &Cell) -> Result<Option<(kernel::Value, Range)>> {
        let ScalarType::Decimal { scale, .. } = a.ty else { return Ok(None) };
        if scale == 0 {
            return Ok(Some((a.value, a.range)));
        }
        if self.b.ty(a.value) != K::I64 || scale > MOST_DIGITS {
            let Some(area) = self.area else { return Ok(None) };
            let function = match op {
                ScalarOp::Floor => RuntimeFn::DecimalFloor,
                ScalarOp::Ceil => RuntimeFn::DecimalCeil,
                _ => RuntimeFn::DecimalTrunc,
            };
            let wide = self.to_register(a, K::I128)?;
            let scale = self.b.iconst(K::I32, i64::from(scale));
            let words = [self.b.lo64(wide), self.b.hi64(wide), scale, area];
            self.b.call(function, &words);
            return Ok(Some((self.b.load(K::I128, area, 0), None)));
        }
        let unit = self.b.iconst(K::I64, 10i64.pow(u32::from(scale)));
        let (quotient, rest) = self.quotient_and_rest(a.value, unit);
        let step = match op {
            ScalarOp::Floor => self.b.sshr_imm(rest, 63),
            ScalarOp::Ceil => {
                let up = self.b.icmp_imm(Cmp::Gt, rest, 0);
                self.b.zext(up, K::I64)
            }
            _ => self.zero(K::I64),
        };
        Ok(Some((self.b.add(quotient, step), scaled_down_range(range_of(a), u32::from(scale)))))
    }

    /// `round` to digits: inline where they are a constant and the number has 64 bits.
    pub(super) fn round(
        &mut self,
        a: &Cell,
        digits: &Cell,
        out: ScalarType,
        valid: Option<kernel::Value>,
        location: u32,
    ) -> Result<Option<(kernel::Value, Range)>> {
        let constant = self.b.constant_bits(digits.value).map(|bits| bits as u32 as i32);
        if a.ty.is_float() {
            return self.round_float(a, digits.value, constant).map(Some);
        }
        let ScalarType::Decimal { scale, .. } = a.ty else {
            return Ok(constant.filter(|d| *d >= 0).map(|_| (a.value, a.range)));
        };
        let ScalarType::Decimal { precision, .. } = out else { return Ok(None) };
        let drop = constant.map(|d| (i64::from(scale) - i64::from(d)).max(0));
        match drop {
            Some(0) => Ok(Some((a.value, a.range))),
            Some(drop) if self.b.ty(a.value) == K::I64 && drop <= i64::from(MOST_DIGITS) => {
                let unit = 10i64.pow(drop as u32);
                let (value, range) = self.divide_half_away(a, drop as u32);
                let factor = self.b.iconst(K::I64, unit);
                let range = arithmetic_range(ScalarOp::Mul, range, Some((unit.into(), unit.into())));
                if range.is_none_or(|r| !fits_i64(r)) {
                    let wide = self.b.sext(value, K::I128);
                    let factor = self.b.iconst128(K::I128, unit.into());
                    let value = self.b.mul(wide, factor);
                    return Ok(Some((value, self.check_digits(value, range, precision, valid, location))));
                }
                let value = self.b.mul(value, factor);
                Ok(Some((value, self.check_digits(value, range, precision, valid, location))))
            }
            _ => {
                let wide = self.to_register(a, K::I128)?;
                let [scale, precision] = [scale, precision].map(|n| self.b.iconst(K::I32, i64::from(n)));
                let words = [self.b.lo64(wide), self.b.hi64(wide), scale, digits.value, precision];
                let value = self.guarded_call(RuntimeFn::DecimalRound, &words, K::I128, valid, location);
                Ok(value.map(|v| (v, type_range(out))))
            }
        }
    }

    fn round_float(
        &mut self,
        a: &Cell,
        digits: kernel::Value,
        constant: Option<i32>,
    ) -> Result<(kernel::Value, Range)> {
        let ty = self.b.ty(a.value);
        if constant == Some(0) {
            // What is cut off is exact; a sum with 0 would lose the sign of -0.
            let whole = self.b.ftrunc(a.value);
            let rest = self.b.fsub(a.value, whole);
            let (half, minus_half) = (self.b.fconst(ty, 0.5), self.b.fconst(ty, -0.5));
            let (one, minus_one) = (self.b.fconst(ty, 1.0), self.b.fconst(ty, -1.0));
            let (up, down) = (self.b.fcmp(Cmp::Ge, rest, half), self.b.fcmp(Cmp::Le, rest, minus_half));
            let (above, below) = (self.b.fadd(whole, one), self.b.fadd(whole, minus_one));
            let value = self.b.select(down, below, whole);
            return Ok((self.b.select(up, above, value), None));
        }
        let function = if ty == K::F32 { RuntimeFn::RoundF32 } else { RuntimeFn::RoundF64 };
        Ok((self.pure_call(function, &[a.value, digits])?, None))
    }

    /// A number in 64 bits divided by 10^digits, rounded half away from zero; at most [`MOST_DIGITS`].
    pub(super) fn divide_half_away(&mut self, a: &Cell, digits: u32) -> (kernel::Value, Range) {
        let range = scaled_down_range(range_of(a), digits);
        if digits == 0 {
            return (a.value, range_of(a));
        }
        let unit = 10i64.pow(digits);
        let divisor = self.b.iconst(K::I64, unit);
        let (quotient, rest) = self.quotient_and_rest(a.value, divisor);
        // A power of ten above 1 is even.
        let up = self.b.icmp_imm(Cmp::Ge, rest, unit / 2);
        let down = self.b.icmp_imm(Cmp::Le, rest, -(unit / 2));
        let (up, down) = (self.b.zext(up, K::I64), self.b.zext(down, K::I64));
        let step = self.b.sub(up, down);
        (self.b.add(quotient, step), range)
    }

    fn quotient_and_rest(&mut self, x: kernel::Value, divisor: kernel::Value) -> (kernel::Value, kernel::Value) {
        let quotient = self.b.sdiv(x, divisor);
        let whole = self.b.mul(quotient, divisor);
        (quotient, self.b.sub(x, whole))
    }
}

/// 10^18 is the greatest power of ten in 64 bits.
pub(super) const MOST_DIGITS: u8 = 18;

/// Bounds of a number divided by a power of ten, rounded in any way.
fn scaled_down_range(range: Range, digits: u32) -> Range {
    let unit = 10i128.pow(digits);
    range.map(|r| (r.0 / unit - 1, r.1 / unit + 1))
}

/// A remainder is smaller than the divisor, not greater than the dividend, and has its sign.
fn remainder_range(a: Range, c: Range) -> Range {
    let most = c.and_then(|c| Some(c.0.checked_abs()?.max(c.1.checked_abs()?).checked_sub(1)?.max(0)));
    let (low, high) = a.unwrap_or((i128::MIN, i128::MAX));
    let most = most.unwrap_or(i128::MAX);
    Some((low.min(0).max(-most), high.max(0).min(most)))
}
