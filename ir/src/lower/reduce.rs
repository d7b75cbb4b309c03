//! Reducers to kernel instructions: initial states, steps, merges and results.
//!
//! The fields of a state are those of [`Reducer::state_fields`]; a step sees arguments that are not NULL, unless the reducer
//! says that it sees NULLs.

use runtime::trap::TrapCode;

use super::row::{Cell, RowLower};
use crate::error::{Error, Result};
use crate::kernel::{self, Cmp, Type as K};
use crate::plan::{Fold, register_type};
use crate::scalar::ScalarOp;
use crate::scalar::reduce::Reducer;
use crate::types::{RowType, ScalarType, TableType};

impl RowLower<'_> {
    /// The state of no rows.
    pub fn reduce_init(&mut self, reducer: Reducer, arg: Option<RowType>) -> Result<Vec<kernel::Value>> {
        let fields = reducer.state_fields(arg)?;
        if reducer == Reducer::Product && fields[0] != ScalarType::F64 {
            return Err(Error::Unsupported("a product of integers".into()));
        }
        let mut out: Vec<kernel::Value> = fields.iter().map(|f| self.zero(register_type(*f))).collect();
        match reducer {
            Reducer::Product => out[0] = self.b.fconst(K::F64, 1.0),
            Reducer::BoolAnd => out[0] = self.b.bool_const(true),
            _ => {}
        }
        Ok(out)
    }

    /// The state with one more row.
    pub fn reduce_step(
        &mut self,
        reducer: Reducer,
        arg: Option<&Cell>,
        s: &[kernel::Value],
    ) -> Result<Vec<kernel::Value>> {
        use Reducer as R;
        if reducer == R::CountAll {
            return Ok(vec![self.b.add_imm(s[0], 1)]);
        }
        let arg = arg.ok_or_else(|| Error::Bug(format!("{} has an argument", reducer.name())))?;
        Ok(match reducer {
            R::CountAll | R::Count => vec![self.b.add_imm(s[0], 1)],
            R::Sum | R::Avg => {
                let sum = self.accumulate(s[0], arg)?;
                vec![sum, self.b.add_imm(s[1], 1)]
            }
            R::Product => {
                if !arg.ty.is_float() {
                    return Err(Error::Unsupported("a product of integers".into()));
                }
                let x = self.in_f64(arg)?;
                vec![self.b.fmul(s[0], x), self.b.add_imm(s[1], 1)]
            }
            R::Min | R::Max => {
                let register = self.b.ty(s[0]);
                let value = self.to_register(arg, register)?;
                let op = if reducer == R::Min { ScalarOp::Lt } else { ScalarOp::Gt };
                let old = Cell { value: s[0], valid: None, ty: arg.ty, range: None };
                let new = Cell { value, valid: None, ty: arg.ty, range: None };
                let better = self.scalar(op, &[new, old], ScalarType::Bool.nullable(false), None)?.value;
                let first = self.b.bool_not(s[1]);
                let take = self.b.or(better, first);
                vec![self.b.select(take, value, s[0]), self.b.bool_const(true)]
            }
            R::BoolAnd => vec![self.b.and(s[0], arg.value), self.b.bool_const(true)],
            R::BoolOr => vec![self.b.or(s[0], arg.value), self.b.bool_const(true)],
            R::First | R::Last => {
                let register = self.b.ty(s[0]);
                let value = self.to_register(arg, register)?;
                let valid = self.valid_flag(arg);
                let yes = self.b.bool_const(true);
                if reducer == R::Last {
                    return Ok(vec![value, valid, yes]);
                }
                vec![self.b.select(s[2], s[0], value), self.b.select(s[2], s[1], valid), yes]
            }
            R::Single => {
                let register = self.b.ty(s[0]);
                let value = self.to_register(arg, register)?;
                let valid = self.valid_flag(arg);
                let again = self.b.icmp_imm(Cmp::Ne, s[2], 0);
                self.b.trap_if(again, TrapCode::ScalarSubqueryRows, 0);
                vec![value, valid, self.b.add_imm(s[2], 1)]
            }
            R::VarSample | R::VarPopulation | R::StddevSample | R::StddevPopulation => {
                // Welford's update.
                let x = self.in_f64(arg)?;
                let n = self.b.add_imm(s[0], 1);
                let delta = self.b.fsub(x, s[1]);
                let count = self.b.int_to_float(n, K::F64);
                let share = self.b.fdiv(delta, count);
                let mean = self.b.fadd(s[1], share);
                let rest = self.b.fsub(x, mean);
                let square = self.b.fmul(delta, rest);
                vec![n, mean, self.b.fadd(s[2], square)]
            }
            R::ArgMax | R::ArgMin => return Err(Error::Unsupported(format!("{} over rows", reducer.name()))),
        })
    }

    /// The fields of an accumulator with one more row; `counts` is 0 where the row does not count.
    pub fn fold_step(
        &mut self,
        fold: &Fold,
        arg: Option<&Cell>,
        counts: Option<kernel::Value>,
        s: &[kernel::Value],
    ) -> Result<Vec<kernel::Value>> {
        let missing = || Error::Bug("an accumulator of a column has an argument".into());
        Ok(match fold {
            Fold::Whole(reducer, _) => return self.reduce_step(*reducer, arg, s),
            Fold::Rows | Fold::Known(_) => {
                let valid = if matches!(fold, Fold::Known(_)) { arg.ok_or_else(missing)?.valid } else { None };
                let one = match (counts, valid) {
                    (Some(a), Some(b)) => Some(self.b.and(a, b)),
                    (a, b) => a.or(b),
                };
                match one {
                    None => vec![self.b.add_imm(s[0], 1)],
                    Some(one) => {
                        let one = self.b.zext(one, K::I64);
                        vec![self.b.add(s[0], one)]
                    }
                }
            }
            Fold::Sum(_) => {
                let arg = arg.ok_or_else(missing)?;
                let cell = match arg.valid {
                    None => *arg,
                    // NULL adds nothing. No sum of floats that began with 0 is -0, so 0 changes none.
                    Some(valid) => {
                        let zero = self.zero(self.b.ty(arg.value));
                        Cell { value: self.b.select(valid, arg.value, zero), valid: None, ..*arg }
                    }
                };
                vec![self.accumulate(s[0], &cell)?]
            }
        })
    }

    /// The fields of an accumulator of both records' rows.
    pub fn fold_merge(
        &mut self,
        fold: &Fold,
        source: &TableType,
        x: &[kernel::Value],
        y: &[kernel::Value],
    ) -> Result<Vec<kernel::Value>> {
        match fold {
            Fold::Whole(reducer, arg) => {
                self.reduce_merge(*reducer, arg.and_then(|c| source.get(c)).map(|t| t.ty), x, y)
            }
            Fold::Sum(_) if self.b.ty(x[0]).is_float() => Ok(vec![self.b.fadd(x[0], y[0])]),
            Fold::Rows | Fold::Known(_) | Fold::Sum(_) => Ok(vec![self.b.add(x[0], y[0])]),
        }
    }

    fn in_f64(&mut self, c: &Cell) -> Result<kernel::Value> {
        let bare = Cell { valid: None, ..*c };
        Ok(self.scalar(ScalarOp::Cast(ScalarType::F64), &[bare], ScalarType::F64.nullable(false), None)?.value)
    }

    /// A sum with one more argument: floats in `f64`, all else in 128 bits, or in 64 where the plan proves that sums fit.
    fn accumulate(&mut self, sum: kernel::Value, arg: &Cell) -> Result<kernel::Value> {
        let register = self.b.ty(sum);
        let have = self.b.ty(arg.value);
        let value = match (register, have) {
            (K::F64, K::F32) => self.b.promote(arg.value),
            (K::F32 | K::F64, _) => arg.value,
            (K::I128, K::I128) => arg.value,
            (K::I128, _) => self.b.sext(arg.value, K::I128),
            (K::I64, K::I64) => arg.value,
            (K::I64, K::I32) => self.b.sext(arg.value, K::I64),
            (K::I64, K::I128) => self.b.trunc(arg.value, K::I64),
            _ => return Err(Error::Bug(format!("a sum in {register}"))),
        };
        Ok(if register.is_float() { self.b.fadd(sum, value) } else { self.b.add(sum, value) })
    }

    /// The state of both states' rows, those of `x` first.
    pub fn reduce_merge(
        &mut self,
        reducer: Reducer,
        ty: Option<ScalarType>,
        x: &[kernel::Value],
        y: &[kernel::Value],
    ) -> Result<Vec<kernel::Value>> {
        use Reducer as R;
        let add = |s: &mut Self, i: usize| {
            if s.b.ty(x[i]).is_float() { s.b.fadd(x[i], y[i]) } else { s.b.add(x[i], y[i]) }
        };
        Ok(match reducer {
            R::CountAll | R::Count => vec![add(self, 0)],
            R::Sum | R::Avg => vec![add(self, 0), add(self, 1)],
            R::Product => vec![self.b.fmul(x[0], y[0]), add(self, 1)],
            R::Min | R::Max => {
                let ty = ty.ok_or_else(|| Error::Bug("min and max have an argument".into()))?;
                let cell = |value| Cell { value, valid: None, ty, range: None };
                let op = if reducer == R::Min { ScalarOp::Lt } else { ScalarOp::Gt };
                let better = self.scalar(op, &[cell(y[0]), cell(x[0])], ScalarType::Bool.nullable(false), None)?.value;
                let first = self.b.bool_not(x[1]);
                let take = self.b.or(better, first);
                let take = self.b.and(take, y[1]);
                vec![self.b.select(take, y[0], x[0]), self.b.or(x[1], y[1])]
            }
            R::BoolAnd => vec![self.b.and(x[0], y[0]), self.b.or(x[1], y[1])],
            R::BoolOr => vec![self.b.or(x[0], y[0]), self.b.or(x[1], y[1])],
            R::First => {
                vec![self.b.select(x[2], x[0], y[0]), self.b.select(x[2], x[1], y[1]), self.b.or(x[2], y[2])]
            }
            R::Last => vec![self.b.select(y[2], y[0], x[0]), self.b.select(y[2], y[1], x[1]), self.b.or(x[2], y[2])],
            R::Single => {
                let n = self.b.add(x[2], y[2]);
                let many = self.b.icmp_imm(Cmp::Gt, n, 1);
                self.b.trap_if(many, TrapCode::ScalarSubqueryRows, 0);
                let mine = self.b.icmp_imm(Cmp::Ne, x[2], 0);
                vec![self.b.select(mine, x[0], y[0]), self.b.select(mine, x[1], y[1]), n]
            }
            R::VarSample | R::VarPopulation | R::StddevSample | R::StddevPopulation => {
                // Chan, Golub and LeVeque.
                let n = self.b.add(x[0], y[0]);
                let (nx, ny, nf) = (
                    self.b.int_to_float(x[0], K::F64),
                    self.b.int_to_float(y[0], K::F64),
                    self.b.int_to_float(n, K::F64),
                );
                let delta = self.b.fsub(y[1], x[1]);
                let share = self.b.fdiv(ny, nf);
                let step = self.b.fmul(delta, share);
                let mean = self.b.fadd(x[1], step);
                let square = self.b.fmul(delta, delta);
                let weight = self.b.fmul(nx, share);
                let cross = self.b.fmul(square, weight);
                let m2 = self.b.fadd(x[2], y[2]);
                let m2 = self.b.fadd(m2, cross);
                // A state of no rows leaves the other as it is.
                let (no_x, no_y) = (self.b.icmp_imm(Cmp::Eq, x[0], 0), self.b.icmp_imm(Cmp::Eq, y[0], 0));
                let (mean, m2) = (self.b.select(no_x, y[1], mean), self.b.select(no_x, y[2], m2));
                vec![n, self.b.select(no_y, x[1], mean), self.b.select(no_y, x[2], m2)]
            }
            R::ArgMax | R::ArgMin => return Err(Error::Unsupported(format!("{} over rows", reducer.name()))),
        })
    }

    /// The result of a state.
    pub fn reduce_finish(
        &mut self,
        reducer: Reducer,
        arg: Option<RowType>,
        s: &[kernel::Value],
        ty: RowType,
    ) -> Result<Cell> {
        use Reducer as R;
        let cell = |value, valid| Cell { value, valid, ty: ty.ty, range: None };
        // A sum that the plan proves to fit 64 bits.
        let small = self.b.ty(s[0]) == K::I64;
        let some = |s: &mut Self, n: kernel::Value, least: i64| {
            let flag = s.b.icmp_imm(Cmp::Ge, n, least);
            ty.nullable.then_some(flag)
        };
        Ok(match reducer {
            R::CountAll | R::Count => cell(s[0], None),
            R::Sum => {
                let valid = some(self, s[1], 1);
                if small {
                    let value = if ty.ty == ScalarType::I64 { s[0] } else { self.b.sext(s[0], register_type(ty.ty)) };
                    return Ok(cell(value, valid));
                }
                if ty.ty == ScalarType::I64 {
                    let low = self.b.trunc(s[0], K::I64);
                    let back = self.b.sext(low, K::I128);
                    let lost = self.b.compare(Cmp::Ne, back, s[0]);
                    self.b.trap_if(lost, TrapCode::Overflow, 0);
                    return Ok(cell(low, valid));
                }
                if let ScalarType::Decimal { precision, .. } = ty.ty {
                    let limit = 10i128.pow(u32::from(precision));
                    let (low, high) = (self.b.iconst128(K::I128, -limit), self.b.iconst128(K::I128, limit));
                    let below = self.b.compare(Cmp::Le, s[0], low);
                    let above = self.b.compare(Cmp::Ge, s[0], high);
                    let lost = self.b.or(below, above);
                    self.b.trap_if(lost, TrapCode::Overflow, 0);
                }
                let sum = if ty.ty == ScalarType::F32 { self.b.demote(s[0]) } else { s[0] };
                cell(sum, valid)
            }
            R::Product => {
                let valid = some(self, s[1], 1);
                let product = if ty.ty == ScalarType::F32 { self.b.demote(s[0]) } else { s[0] };
                cell(product, valid)
            }
            R::Avg => {
                let valid = some(self, s[1], 1);
                let sum = match (self.b.ty(s[0]), arg.map(|a| a.ty)) {
                    (K::F64, _) => s[0],
                    (_, a) => {
                        let scale = if let Some(ScalarType::Decimal { scale, .. }) = a { scale } else { 0 };
                        let ty = ScalarType::Decimal { precision: 38, scale };
                        let value = if small { self.b.sext(s[0], K::I128) } else { s[0] };
                        self.in_f64(&Cell { value, valid: None, ty, range: None })?
                    }
                };
                let n = self.b.int_to_float(s[1], K::F64);
                cell(self.b.fdiv(sum, n), valid)
            }
            R::Min | R::Max | R::BoolAnd | R::BoolOr | R::First | R::Last | R::Single => {
                cell(s[0], ty.nullable.then_some(s[1]))
            }
            R::VarSample | R::VarPopulation | R::StddevSample | R::StddevPopulation => {
                let sample = matches!(reducer, R::VarSample | R::StddevSample);
                let valid = some(self, s[0], if sample { 2 } else { 1 });
                let n = if sample { self.b.add_imm(s[0], -1) } else { s[0] };
                let n = self.b.int_to_float(n, K::F64);
                let var = self.b.fdiv(s[2], n);
                let root = matches!(reducer, R::StddevSample | R::StddevPopulation);
                cell(if root { self.b.fsqrt(var) } else { var }, valid)
            }
            R::ArgMax | R::ArgMin => return Err(Error::Unsupported(format!("{} over rows", reducer.name()))),
        })
    }
}
