//! Scalar operations to kernel instructions.
//!
//! What holds:
//! - The values of NULL cells are harmless but meaningless; a trap condition is always ANDed with validity.
//! - Integers and decimals are computed in 64 bits without checks where bounds prove that the result fits, else with checks, or
//!   in 128 bits.
//! - An operation that is not emitted here is called: its row's `eval`, through a host call. So every operation runs, and the ones
//!   that run often are emitted.

use runtime::abi::RuntimeFn;
use runtime::trap::TrapCode;

use super::context::Slot;
use super::row::{Cell, RowLower};
use crate::entity::PlaceId;
use crate::error::{Error, Result};
use crate::kernel::{self, Cmp, Type as K};
use crate::plan::bounds::{Range, arithmetic_range, type_range};
use crate::plan::register_type;
use crate::scalar::{self, NullRule, ScalarOp, eval};
use crate::types::{RowType, ScalarType};

/// What a host call evaluates.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HostOp {
    /// The operation.
    pub op: ScalarOp,
    /// The operands' types.
    pub operands: Vec<ScalarType>,
    /// The result's type.
    pub result: ScalarType,
}

/// Bytes of an argument, and of the result, in the area of a host call.
pub const HOST_SLOT: i32 = 16;

/// Bytes of the area.
pub const HOST_AREA: usize = 8 * HOST_SLOT as usize;

fn fits_i64(r: (i128, i128)) -> bool {
    r.0 >= i128::from(i64::MIN) && r.1 <= i128::from(i64::MAX)
}

fn fits(ty: ScalarType, r: (i128, i128)) -> bool {
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

fn range_of(c: &Cell) -> Range {
    c.range.or_else(|| type_range(c.ty))
}

impl RowLower<'_> {
    /// The operation on these operands.
    pub fn scalar(&mut self, op: ScalarOp, args: &[Cell], out: RowType, place: Option<PlaceId>) -> Result<Cell> {
        match scalar::def(op).null {
            NullRule::Strict => {
                let valid = self.all_valid(args);
                let location = place.map_or(0, |p| p.0 + 1);
                match self.strict(op, args, out.ty, valid, location)? {
                    Some((value, range)) => Ok(Cell { value, valid, ty: out.ty, range }),
                    None => self.host_call(op, args, out, valid, location),
                }
            }
            NullRule::Kleene => self.kleene(op, &args[0], &args[1]),
            NullRule::Never | NullRule::Own => self.own(op, args, out, place),
        }
    }

    /// 1 where every operand is not NULL; none where none can be.
    fn all_valid(&mut self, args: &[Cell]) -> Option<kernel::Value> {
        let mut all = None;
        for v in args.iter().filter_map(|c| c.valid) {
            all = Some(match all {
                Some(a) => self.b.and(a, v),
                None => v,
            });
        }
        all
    }

    /// Raises where the condition holds and the result is wanted.
    fn raise_if(&mut self, condition: kernel::Value, valid: Option<kernel::Value>, code: TrapCode, location: u32) {
        let condition = match valid {
            Some(v) => self.b.and(condition, v),
            None => condition,
        };
        self.b.trap_if(condition, code, location);
    }

    fn kleene(&mut self, op: ScalarOp, a: &Cell, c: &Cell) -> Result<Cell> {
        let is_and = op == ScalarOp::And;
        let value = if is_and { self.b.and(a.value, c.value) } else { self.b.or(a.value, c.value) };
        if a.valid.is_none() && c.valid.is_none() {
            return Ok(Cell { value, valid: None, ty: ScalarType::Bool, range: Some((0, 1)) });
        }
        // Known if both are, or if one is known and decides.
        let (va, vc) = (self.valid_flag(a), self.valid_flag(c));
        let both = self.b.and(va, vc);
        let decides = |s: &mut Self, x: &Cell, v: kernel::Value| {
            let hit = if is_and { s.b.bool_not(x.value) } else { x.value };
            s.b.and(v, hit)
        };
        let (da, dc) = (decides(self, a, va), decides(self, c, vc));
        let any = self.b.or(da, dc);
        let valid = self.b.or(both, any);
        let value = if is_and {
            // False where one decides; else both are true.
            self.b.bool_not(any)
        } else {
            any
        };
        // Where both are known, `any` says all: and = not (a known false), or = a known true.
        Ok(Cell { value, valid: Some(valid), ty: ScalarType::Bool, range: Some((0, 1)) })
    }

    fn own(&mut self, op: ScalarOp, args: &[Cell], out: RowType, place: Option<PlaceId>) -> Result<Cell> {
        let boolean = |value| Cell { value, valid: None, ty: ScalarType::Bool, range: Some((0, 1)) };
        let register = register_type(out.ty);
        match op {
            ScalarOp::IsNull => {
                let valid = self.valid_flag(&args[0]);
                Ok(boolean(self.b.bool_not(valid)))
            }
            ScalarOp::IsNotNull => Ok(boolean(self.valid_flag(&args[0]))),
            ScalarOp::IsDistinct | ScalarOp::IsNotDistinct => {
                let same = self.equal(&args[0], &args[1], true)?;
                Ok(boolean(if op == ScalarOp::IsDistinct { self.b.bool_not(same) } else { same }))
            }
            ScalarOp::Coalesce => {
                let Some(valid) = args[0].valid else { return Ok(args[0]) };
                let (a, c) = self.same_register(&args[0], &args[1], register)?;
                let value = self.b.select(valid, a, c);
                let valid = args[1].valid.map(|v| self.b.or(valid, v));
                Ok(Cell { value, valid, ty: out.ty, range: join(&args[0], &args[1]) })
            }
            ScalarOp::Select => {
                let condition = self.is_true(&args[0]);
                let (a, c) = self.same_register(&args[1], &args[2], register)?;
                let value = self.b.select(condition, a, c);
                let valid = if args[1].valid.is_some() || args[2].valid.is_some() {
                    let (va, vc) = (self.valid_flag(&args[1]), self.valid_flag(&args[2]));
                    Some(self.b.select(condition, va, vc))
                } else {
                    None
                };
                Ok(Cell { value, valid, ty: out.ty, range: join(&args[1], &args[2]) })
            }
            ScalarOp::NullIfTrue => {
                let condition = self.is_true(&args[1]);
                let keep = self.b.bool_not(condition);
                let valid = match args[0].valid {
                    Some(v) => self.b.and(v, keep),
                    None => keep,
                };
                Ok(Cell { valid: Some(valid), ..args[0] })
            }
            _ => {
                let valid = self.all_valid(args);
                self.host_call(op, args, out, valid, place.map_or(0, |p| p.0 + 1))
            }
        }
    }

    /// Two cells in one register type: the narrower of theirs that holds both.
    fn same_register(&mut self, a: &Cell, c: &Cell, register: K) -> Result<(kernel::Value, kernel::Value)> {
        let (ta, tc) = (self.b.ty(a.value), self.b.ty(c.value));
        let want = if ta == tc { ta } else { register };
        let want = if matches!((ta, tc), (K::I128, _) | (_, K::I128)) { K::I128 } else { want };
        Ok((self.to_register(a, want)?, self.to_register(c, want)?))
    }

    /// A strict operation on values; none where it is not emitted.
    fn strict(
        &mut self,
        op: ScalarOp,
        args: &[Cell],
        out: ScalarType,
        valid: Option<kernel::Value>,
        location: u32,
    ) -> Result<Option<(kernel::Value, Range)>> {
        use ScalarOp as O;
        let a = &args[0];
        Ok(Some(match op {
            O::Add | O::Sub | O::Mul if a.ty.is_float() => {
                let (x, y) = (a.value, args[1].value);
                let v = match op {
                    O::Add => self.b.fadd(x, y),
                    O::Sub => self.b.fsub(x, y),
                    _ => self.b.fmul(x, y),
                };
                (v, None)
            }
            O::Add | O::Sub | O::Mul => return self.exact(op, a, &args[1], out, valid, location),
            O::Div if a.ty.is_float() => (self.b.fdiv(a.value, args[1].value), None),
            O::Div | O::Rem if a.ty.is_integer() => return self.divide(op, a, &args[1], valid, location),
            O::Neg if a.ty.is_float() => (self.b.fneg(a.value), None),
            O::Abs if a.ty.is_float() => (self.b.fabs(a.value), None),
            // 0 of both zeros; NaN of NaN.
            O::Sign if a.ty.is_float() => {
                let ty = self.b.ty(a.value);
                let (zero, one) = (self.b.fconst(ty, 0.0), self.b.fconst(ty, 1.0));
                let minus = self.b.fconst(ty, -1.0);
                let less = self.b.fcmp(Cmp::Lt, a.value, zero);
                let greater = self.b.fcmp(Cmp::Gt, a.value, zero);
                let is_zero = self.b.fcmp(Cmp::Eq, a.value, zero);
                let rest = self.b.select(is_zero, zero, a.value);
                let rest = self.b.select(less, minus, rest);
                (self.b.select(greater, one, rest), None)
            }
            O::Neg => {
                let zero = Cell { value: self.zero(self.b.ty(a.value)), valid: None, ty: a.ty, range: Some((0, 0)) };
                return self.exact(O::Sub, &zero, a, out, valid, location);
            }
            O::Min | O::Max if a.ty.is_numeric() || a.ty == ScalarType::Date || a.ty == ScalarType::Timestamp => {
                let (x, y) = self.same_register(a, &args[1], register_type(out))?;
                // Of equals (zeros of both signs) the first.
                let second = if op == O::Min { self.order(Cmp::Lt, y, x)? } else { self.order(Cmp::Lt, x, y)? };
                let v = self.b.select(second, y, x);
                (v, join(a, &args[1]))
            }
            O::Eq | O::Ne | O::Lt | O::Le | O::Gt | O::Ge => (self.compare(op, a, &args[1])?, Some((0, 1))),
            O::Not => (self.b.bool_not(a.value), Some((0, 1))),
            O::Cast(to) => return self.cast(a, to, valid, location),
            O::Sqrt => (self.b.fsqrt(a.value), None),
            O::Floor if a.ty.is_float() => (self.b.ffloor(a.value), None),
            O::Ceil if a.ty.is_float() => (self.b.fceil(a.value), None),
            O::Trunc if a.ty.is_float() => (self.b.ftrunc(a.value), None),
            O::Floor | O::Ceil | O::Trunc if a.ty.is_integer() => (a.value, a.range),
            O::Like | O::StartsWith | O::Contains | O::Position => {
                let function = match op {
                    O::Like => RuntimeFn::TextLike,
                    O::StartsWith => RuntimeFn::TextStartsWith,
                    O::Contains => RuntimeFn::TextContains,
                    _ => RuntimeFn::TextPosition,
                };
                let words = self.text_words(args);
                (self.pure_call(function, &words)?, None)
            }
            O::Length if a.ty == ScalarType::Text => {
                let words = self.text_words(args);
                (self.pure_call(RuntimeFn::TextLength, &words)?, None)
            }
            O::Substring => return self.substring(args),
            O::Extract(field) => {
                let part = self.b.iconst(K::I32, eval::time::part(field) as i64);
                let function =
                    if a.ty == ScalarType::Date { RuntimeFn::DateExtract } else { RuntimeFn::TimestampExtract };
                (self.pure_call(function, &[part, a.value])?, None)
            }
            _ => match math_function(op, a.ty) {
                Some(function) => {
                    let values: Vec<kernel::Value> = args.iter().map(|c| c.value).collect();
                    let v = self.b.call(function, &values);
                    (v.ok_or_else(|| Error::Bug("a math function has a result".into()))?, None)
                }
                None => return Ok(None),
            },
        }))
    }

    fn pure_call(&mut self, function: RuntimeFn, args: &[kernel::Value]) -> Result<kernel::Value> {
        self.b.call(function, args).ok_or_else(|| Error::Bug(format!("{} has a result", function.name())))
    }

    /// Texts as the runtime takes them: two words each.
    fn text_words(&mut self, args: &[Cell]) -> Vec<kernel::Value> {
        args.iter().flat_map(|c| [self.b.lo64(c.value), self.b.hi64(c.value)]).collect()
    }

    /// LIKE with a pattern that is known, compiled once.
    pub(super) fn like(&mut self, text: &Cell, pattern: &std::sync::Arc<str>) -> Result<Cell> {
        let compiled = self.slot(Slot::Like(pattern.clone()));
        let words = self.text_words(std::slice::from_ref(text));
        let value = self.pure_call(RuntimeFn::LikeMatch, &[compiled, words[0], words[1]])?;
        Ok(Cell { value, valid: text.valid, ty: ScalarType::Bool, range: Some((0, 1)) })
    }

    /// A part of a text: a view of the same bytes. A length that is no constant may be negative, which raises with the row's own words.
    fn substring(&mut self, args: &[Cell]) -> Result<Option<(kernel::Value, Range)>> {
        let Some(area) = self.area else { return Ok(None) };
        let constant = self.b.constant_bits(args[2].value).is_some_and(|n| n as u64 as i64 >= 0);
        if !constant {
            return Ok(None);
        }
        let words = self.text_words(&args[..1]);
        let call = [self.worker, words[0], words[1], args[1].value, args[2].value, area];
        self.b.call_or_fail(RuntimeFn::TextSubstring, &call, 0);
        Ok(Some((self.b.load(K::I128, area, 0), None)))
    }

    /// A sum, difference or product of integers or decimals.
    fn exact(
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
            let limit = 10i128.pow(u32::from(precision));
            let (low, high) = (self.b.iconst128(K::I128, -limit), self.b.iconst128(K::I128, limit));
            let below = self.b.compare(Cmp::Le, v, low);
            let above = self.b.compare(Cmp::Ge, v, high);
            let outside = self.b.or(below, above);
            self.raise_if(outside, valid, TrapCode::Overflow, location);
            return Ok(Some((v, Some((1 - limit, limit - 1)))));
        }
        let (v, overflow) = match op {
            ScalarOp::Add => self.b.add_checked(a.value, c.value),
            ScalarOp::Sub => self.b.sub_checked(a.value, c.value),
            _ => self.b.mul_checked(a.value, c.value),
        };
        self.raise_if(overflow, valid, TrapCode::Overflow, location);
        Ok(Some((v, type_range(out))))
    }

    fn plain(&mut self, op: ScalarOp, x: kernel::Value, y: kernel::Value) -> kernel::Value {
        match op {
            ScalarOp::Add => self.b.add(x, y),
            ScalarOp::Sub => self.b.sub(x, y),
            _ => self.b.mul(x, y),
        }
    }

    /// A decimal at a greater scale; none where the digits may not fit 128 bits.
    fn scaled_up(&mut self, c: &Cell, scale: u8) -> Result<Option<Cell>> {
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

    fn divide(
        &mut self,
        op: ScalarOp,
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
        if op == ScalarOp::Rem {
            let v = self.b.srem(a.value, divisor);
            return Ok(Some((v, type_range(a.ty))));
        }
        let q = self.b.sdiv(a.value, divisor);
        let least = self.b.iconst(ty, if ty == K::I32 { i64::from(i32::MIN) } else { i64::MIN });
        let at_least = self.b.icmp(Cmp::Eq, a.value, least);
        let overflow = self.b.and(minus, at_least);
        self.raise_if(overflow, valid, TrapCode::Overflow, location);
        let negated = self.b.neg(a.value);
        Ok(Some((self.b.select(minus, negated, q), type_range(a.ty))))
    }

    /// 1 where `x` stands before (or `Le`: not after) `y`; NaN is the greatest number and equals itself.
    fn order(&mut self, cmp: Cmp, x: kernel::Value, y: kernel::Value) -> Result<kernel::Value> {
        if !self.b.ty(x).is_float() {
            return Ok(self.b.compare(cmp, x, y));
        }
        let plain = self.b.fcmp(cmp, x, y);
        let nan_y = self.b.fcmp(Cmp::Ne, y, y);
        if cmp == Cmp::Le {
            return Ok(self.b.or(plain, nan_y));
        }
        let number_x = self.b.fcmp(Cmp::Eq, x, x);
        let before = self.b.and(nan_y, number_x);
        Ok(self.b.or(plain, before))
    }

    fn compare(&mut self, op: ScalarOp, a: &Cell, c: &Cell) -> Result<kernel::Value> {
        use ScalarOp as O;
        if a.ty == ScalarType::Text {
            return self.compare_text(op, a.value, c.value);
        }
        let (x, y) = self.same_register(a, c, register_type(a.ty))?;
        Ok(match op {
            O::Eq | O::Ne => {
                let same = if a.ty.is_float() {
                    let plain = self.b.fcmp(Cmp::Eq, x, y);
                    let (nx, ny) = (self.b.fcmp(Cmp::Ne, x, x), self.b.fcmp(Cmp::Ne, y, y));
                    let both = self.b.and(nx, ny);
                    self.b.or(plain, both)
                } else {
                    self.b.compare(Cmp::Eq, x, y)
                };
                if op == O::Eq { same } else { self.b.bool_not(same) }
            }
            O::Lt => self.order(Cmp::Lt, x, y)?,
            O::Le => self.order(Cmp::Le, x, y)?,
            O::Gt => self.order(Cmp::Lt, y, x)?,
            _ => self.order(Cmp::Le, y, x)?,
        })
    }

    fn compare_text(&mut self, op: ScalarOp, x: kernel::Value, y: kernel::Value) -> Result<kernel::Value> {
        let (xl, xh, yl, yh) = (self.b.lo64(x), self.b.hi64(x), self.b.lo64(y), self.b.hi64(y));
        let missing = || Error::Bug("a comparison has a result".into());
        if matches!(op, ScalarOp::Eq | ScalarOp::Ne) {
            // Length and first bytes differ in most pairs.
            let heads = self.b.icmp(Cmp::Eq, xl, yl);
            self.b.begin_if(heads, &[K::I8]);
            let same = self.b.call(RuntimeFn::TextEqual, &[xl, xh, yl, yh]).ok_or_else(missing)?;
            self.b.begin_else(&[same]);
            let no = self.b.bool_const(false);
            let same = self.b.end_if(&[no])[0];
            return Ok(if op == ScalarOp::Eq { same } else { self.b.bool_not(same) });
        }
        let order = self.b.call(RuntimeFn::TextCompare, &[xl, xh, yl, yh]).ok_or_else(missing)?;
        let cmp = match op {
            ScalarOp::Lt => Cmp::Lt,
            ScalarOp::Le => Cmp::Le,
            ScalarOp::Gt => Cmp::Gt,
            _ => Cmp::Ge,
        };
        Ok(self.b.icmp_imm(cmp, order, 0))
    }

    fn cast(
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
            (S::F32 | S::F64, S::I32 | S::I64) => {
                // Half away from zero; what is out of range (or NaN) raises.
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
                let bound = if to == S::I32 { 2f64.powi(31) } else { 2f64.powi(63) };
                let (low, high) = (self.b.fconst(ty, -bound), self.b.fconst(ty, bound));
                let above = self.b.fcmp(Cmp::Le, low, rounded);
                let below = self.b.fcmp(Cmp::Lt, rounded, high);
                let fits = self.b.and(above, below);
                let outside = self.b.bool_not(fits);
                self.raise_if(outside, valid, TrapCode::Overflow, location);
                let safe = self.b.select(fits, rounded, zero);
                (self.b.float_to_int(safe, register_type(to)), type_range(to))
            }
            (S::F32 | S::F64, S::Bool) => {
                let zero = self.b.fconst(self.b.ty(a.value), 0.0);
                (self.b.fcmp(Cmp::Ne, a.value, zero), Some((0, 1)))
            }
            (S::F32, S::F64) => (self.b.promote(a.value), None),
            (S::F64, S::F32) => (self.b.demote(a.value), None),
            (S::I32 | S::I64, S::Decimal { precision, scale }) => {
                let ty = S::Decimal { precision: if a.ty == S::I32 { 10 } else { 19 }, scale: 0 };
                let value = if a.ty == S::I32 { self.b.sext(a.value, K::I64) } else { a.value };
                let whole = Cell { value, valid: a.valid, ty, range: range_of(a) };
                let Some(scaled) = self.scaled_up(&whole, scale)? else { return Ok(None) };
                let range = range_of(&scaled);
                if !range.is_some_and(|r| fits(S::Decimal { precision, scale }, r)) {
                    return Ok(None);
                }
                (scaled.value, range)
            }
            (S::Decimal { scale: from, .. }, S::Decimal { precision, scale }) if scale >= from => {
                let Some(scaled) = self.scaled_up(a, scale)? else { return Ok(None) };
                let range = range_of(&scaled);
                if !range.is_some_and(|r| fits(S::Decimal { precision, scale }, r)) {
                    return Ok(None);
                }
                (scaled.value, range)
            }
            (S::Decimal { scale, .. }, S::F64 | S::F32) if range_of(a).is_some_and(exact_in_f64) && scale <= 22 => {
                // Integer and power of ten are exact, so that one division rounds once.
                let value = self.to_register(a, K::I64)?;
                let wide = self.b.int_to_float(value, K::F64);
                let power = self.b.fconst(K::F64, 10f64.powi(i32::from(scale)));
                let v = if scale == 0 { wide } else { self.b.fdiv(wide, power) };
                (if to == S::F32 { self.b.demote(v) } else { v }, None)
            }
            (S::Decimal { scale, .. }, S::F64 | S::F32) => {
                let wide = self.to_register(a, K::I128)?;
                let scale = self.b.iconst(K::I32, i64::from(scale));
                let function = if to == S::F64 { RuntimeFn::DecimalToF64 } else { RuntimeFn::DecimalToF32 };
                let words = [self.b.lo64(wide), self.b.hi64(wide), scale];
                (self.pure_call(function, &words)?, None)
            }
            (S::Date, S::Timestamp) => {
                let days = self.b.sext(a.value, K::I64);
                let micros = self.b.iconst(K::I64, 86_400_000_000);
                let (midnight, overflow) = self.b.mul_checked(days, micros);
                self.raise_if(overflow, valid, TrapCode::Overflow, location);
                (midnight, None)
            }
            _ => return Ok(None),
        }))
    }

    /// Evaluates the operation's row at run time, where the operands are not NULL.
    fn host_call(
        &mut self,
        op: ScalarOp,
        args: &[Cell],
        out: RowType,
        valid: Option<kernel::Value>,
        location: u32,
    ) -> Result<Cell> {
        let register = register_type(out.ty);
        let area = self.area.ok_or_else(|| Error::Unsupported(format!("{} in this place", op.name())))?;
        let host = HostOp { op, operands: args.iter().map(|c| c.ty).collect(), result: out.ty };
        if args.len() > HOST_AREA / HOST_SLOT as usize - 1 {
            return Err(Error::Bug(format!("{} has too many operands", op.name())));
        }
        if let Some(valid) = valid {
            self.b.begin_if(valid, &[register, K::I8]);
        }
        for (i, c) in args.iter().enumerate() {
            let value = self.to_register(c, register_type(c.ty))?;
            self.b.store(value, area, i as i32 * HOST_SLOT);
        }
        let data = self.slot(Slot::Host(host));
        self.b.call_or_fail(RuntimeFn::HostCall, &[self.worker, data, area], location);
        let value = self.b.load(register, area, 0);
        let known = self.b.load(K::I8, area, HOST_SLOT);
        let (value, known) = match valid {
            Some(_) => {
                self.b.begin_else(&[value, known]);
                let zero = self.zero(register);
                let no = self.b.bool_const(false);
                let out = self.b.end_if(&[zero, no]);
                (out[0], out[1])
            }
            None => (value, known),
        };
        let nullable = valid.is_some() || out.nullable;
        Ok(Cell { value, valid: nullable.then_some(known), ty: out.ty, range: None })
    }
}

/// Integers up to 2^53 are exact in `f64`.
fn exact_in_f64(r: (i128, i128)) -> bool {
    r.0 >= -(1 << 53) && r.1 <= 1 << 53
}

/// Bounds of either of two cells.
fn join(a: &Cell, c: &Cell) -> Range {
    let (a, c) = (range_of(a)?, range_of(c)?);
    Some((a.0.min(c.0), a.1.max(c.1)))
}

/// The runtime's function for a transcendental operation.
fn math_function(op: ScalarOp, ty: ScalarType) -> Option<RuntimeFn> {
    use RuntimeFn as F;
    Some(match (op, ty) {
        (ScalarOp::Exp, ScalarType::F32) => F::ExpF32,
        (ScalarOp::Exp, ScalarType::F64) => F::ExpF64,
        (ScalarOp::Log, ScalarType::F32) => F::LogF32,
        (ScalarOp::Log, ScalarType::F64) => F::LogF64,
        (ScalarOp::Log1p, ScalarType::F32) => F::Log1pF32,
        (ScalarOp::Log1p, ScalarType::F64) => F::Log1pF64,
        (ScalarOp::Sin, ScalarType::F32) => F::SinF32,
        (ScalarOp::Sin, ScalarType::F64) => F::SinF64,
        (ScalarOp::Cos, ScalarType::F32) => F::CosF32,
        (ScalarOp::Cos, ScalarType::F64) => F::CosF64,
        (ScalarOp::Tanh, ScalarType::F32) => F::TanhF32,
        (ScalarOp::Tanh, ScalarType::F64) => F::TanhF64,
        (ScalarOp::Sigmoid, ScalarType::F32) => F::SigmoidF32,
        (ScalarOp::Sigmoid, ScalarType::F64) => F::SigmoidF64,
        (ScalarOp::Erf, ScalarType::F32) => F::ErfF32,
        (ScalarOp::Erf, ScalarType::F64) => F::ErfF64,
        (ScalarOp::Pow, ScalarType::F32) => F::PowF32,
        (ScalarOp::Pow, ScalarType::F64) => F::PowF64,
        _ => return None,
    })
}
