//! Scalar operations to kernel instructions.
//!
//! What holds:
//! - The values of NULL cells are harmless but meaningless; a trap condition is always ANDed with validity.
//! - Integers and decimals are computed in 64 bits without checks where bounds prove that the result fits, else with checks, or
//!   in 128 bits.
//! - An operation that is not emitted here is called: its row's `eval`, through a host call. So every operation runs, and the ones
//!   that run often are emitted.

mod cast;
mod exact;
mod text;
mod time;

use runtime::abi::RuntimeFn;
use runtime::trap::TrapCode;

use super::context::Slot;
use super::row::{Cell, RowLower};
use crate::entity::PlaceId;
use crate::error::{Error, Result};
use crate::kernel::{self, Cmp, Type as K};
use crate::plan::bounds::{Range, type_range};
use crate::plan::register_type;
use crate::scalar::{self, NullRule, ScalarOp};
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
            O::Div if a.ty.is_integer() => return self.divide(a, &args[1], valid, location),
            O::Rem if !a.ty.is_float() => return self.remainder(a, &args[1], out, valid, location),
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
            O::Abs => return self.abs(a, out, valid, location),
            O::Sign => self.sign(a),
            O::Floor | O::Ceil | O::Trunc => return self.whole(op, a),
            O::Round => return self.round(a, &args[1], out, valid, location),
            O::BitAnd => (self.b.and(a.value, args[1].value), None),
            O::BitOr => (self.b.or(a.value, args[1].value), None),
            O::BitXor => (self.b.xor(a.value, args[1].value), None),
            O::Extract(_) | O::DateDiff(_) | O::DateTrunc(_) | O::AddMonths | O::AddDays | O::AddMicros => {
                return self.time(op, args, valid, location);
            }
            _ if args.iter().all(|c| matches!(c.ty, ScalarType::Text | ScalarType::I64))
                && a.ty == ScalarType::Text =>
            {
                return self.text(op, args, valid, location);
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

    /// A call that can raise, made where the result is wanted; it leaves its result in the area.
    fn guarded_call(
        &mut self,
        function: RuntimeFn,
        args: &[kernel::Value],
        register: K,
        valid: Option<kernel::Value>,
        location: u32,
    ) -> Option<kernel::Value> {
        let area = self.area?;
        if let Some(valid) = valid {
            self.b.begin_if(valid, &[register]);
        }
        let all: Vec<kernel::Value> = [&[self.worker], args, &[area]].concat();
        self.b.call_or_fail(function, &all, location);
        let value = self.b.load(register, area, 0);
        if valid.is_none() {
            return Some(value);
        }
        self.b.begin_else(&[value]);
        let zero = self.zero(register);
        Some(self.b.end_if(&[zero])[0])
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

/// Bounds of either of two cells.
fn join(a: &Cell, c: &Cell) -> Range {
    let (a, c) = (range_of(a)?, range_of(c)?);
    Some((a.0.min(c.0), a.1.max(c.1)))
}

/// The runtime's function for a transcendental operation.
pub(super) fn math_function(op: ScalarOp, ty: ScalarType) -> Option<RuntimeFn> {
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
