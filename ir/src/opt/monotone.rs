//! Comparisons of what rises with a number, as comparisons of that number.
//!
//! What holds:
//! - Every step rises with its operand as it is computed, rounding included, but for [`falls`]: the computed value of such a
//!   function lies at most so many units in the last place below one that it had for a smaller operand. A test of the runtime
//!   holds these counts against every float (`kernels/vector_math/tests.rs`).
//! - So a value proves something of all smaller ones: if its result, moved up by that many units, does not pass, none of theirs
//!   does. A search from the threshold down finds such a value, one upwards its counterpart; what lies between is tried, float
//!   by float. Where both would be far apart there is no threshold.
//! - Evaluation is that of [`scalar::eval`], which generated code is held to: the rewrite keeps every bit.

use crate::scalar::{ScalarOp, eval::eval};
use crate::types::ScalarType;
use crate::value::Value;

/// The most floats that are tried one by one.
const MAX_TRIED: i64 = 1 << 14;

/// An operation on the way from a number to what is compared, with the literals among its operands.
#[derive(Clone, Debug)]
pub(super) struct Step {
    op: ScalarOp,
    /// The operands; `None` for the number.
    operands: Vec<Option<Value>>,
    types: Vec<ScalarType>,
    out: ScalarType,
}

impl Step {
    /// A step that rises with the one operand that is no literal; `None` for any other.
    pub(super) fn of(
        op: ScalarOp,
        operands: Vec<Option<Value>>,
        types: Vec<ScalarType>,
        out: ScalarType,
    ) -> Option<Self> {
        let at = operands.iter().position(Option::is_none)?;
        let from = types[at];
        let positive = |v: &Option<Value>| match v {
            Some(Value::F32(x)) => *x > 0.0 && x.is_finite(),
            Some(Value::F64(x)) => *x > 0.0 && x.is_finite(),
            _ => false,
        };
        let finite = |v: &Option<Value>| match v {
            Some(Value::F32(x)) => x.is_finite(),
            Some(Value::F64(x)) => x.is_finite(),
            _ => false,
        };
        let rises = match (op, operands.as_slice()) {
            (ScalarOp::Cast(to), [None]) => {
                from.is_float() && (to.is_float() || matches!(to, ScalarType::Decimal { .. }))
            }
            // In double precision not every number can be tried.
            (ScalarOp::Sigmoid | ScalarOp::Tanh | ScalarOp::Exp, [None]) => from == ScalarType::F32,
            (ScalarOp::Add, [None, c] | [c, None]) | (ScalarOp::Sub, [None, c]) => from.is_float() && finite(c),
            (ScalarOp::Mul, [None, c] | [c, None]) | (ScalarOp::Div, [None, c]) => from.is_float() && positive(c),
            _ => false,
        };
        rises.then_some(Self { op, operands, types, out })
    }

    /// Whether it takes longer than a comparison: a function, or a number made a decimal.
    pub(super) fn is_dear(&self) -> bool {
        self.is_function() || matches!(self.op, ScalarOp::Cast(ScalarType::Decimal { .. }))
    }

    /// Whether it is one of [`falls`].
    pub(super) fn is_function(&self) -> bool {
        matches!(self.op, ScalarOp::Sigmoid | ScalarOp::Tanh | ScalarOp::Exp)
    }

    fn apply(&self, x: &Value, moved: Moved) -> Option<Value> {
        let values: Vec<Value> = self.operands.iter().map(|v| v.clone().unwrap_or_else(|| x.clone())).collect();
        let result = eval(self.op, &values, &self.types, self.out).ok()?;
        match (moved, x, result) {
            (Moved::Up, Value::F32(x), Value::F32(y)) => Some(Value::F32(of(order(y) + falls(self.op, *x)))),
            (Moved::Down, Value::F32(x), Value::F32(y)) => Some(Value::F32(of(order(y) - falls(self.op, *x)))),
            (_, _, result) => Some(result),
        }
    }
}

/// How many units in the last place a computed function may lie below what it was for a smaller operand, from `x` on.
fn falls(op: ScalarOp, x: f32) -> i64 {
    match op {
        // e^x / (1 + e^x) rounds twice below -log 2; from there on the sum of 1 and e^-|x| is all that rounds unevenly.
        ScalarOp::Sigmoid if x < -0.69 => 1,
        ScalarOp::Tanh => 2,
        _ => 0,
    }
}

/// What is assumed of a computed function.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moved {
    No,
    Up,
    Down,
}

/// A comparison of what the steps, innermost first, make of a number with a constant.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) steps: Vec<Step>,
    /// `lt`, `le`, `gt` or `ge`.
    pub(super) op: ScalarOp,
    pub(super) bound: Value,
    /// The type of both sides.
    pub(super) ty: ScalarType,
}

impl Condition {
    /// Whether the number passes `gt` or `ge`, or fails `lt` or `le`: false for small ones, true for large ones.
    fn is_above(&self, x: Value, moved: Moved) -> bool {
        let positive = match x {
            Value::F32(x) => x > 0.0,
            Value::F64(x) => x > 0.0,
            _ => false,
        };
        let result = self.steps.iter().try_fold(x, |x, step| step.apply(&x, moved));
        // What a decimal does not hold is beyond all that it holds.
        let Some(result) = result else { return positive };
        let passes = eval(self.op, &[result, self.bound.clone()], &[self.ty, self.ty], ScalarType::Bool);
        let passes = matches!(passes, Ok(Value::Bool(true)));
        passes == matches!(self.op, ScalarOp::Gt | ScalarOp::Ge)
    }

    /// The same comparison of a number of this type itself: the operation and the constant.
    pub(super) fn threshold(&self, ty: ScalarType) -> Option<(ScalarOp, Value)> {
        let float = Floats::of(ty)?;
        let above = |at: i64, moved| self.is_above(float.value(at), moved);
        let (mut low, mut high) = (-float.infinity, float.infinity);
        if above(low, Moved::Up) || !above(high, Moved::Down) {
            return None;
        }
        while low + 1 < high {
            let middle = i64::midpoint(low, high);
            if above(middle, Moved::No) { high = middle } else { low = middle }
        }
        // Zeros are equal, so they must fare alike.
        if self.is_above(float.negative_zero(), Moved::No) != above(0, Moved::No) {
            return None;
        }
        let first = reach(low, -1, float.infinity, |at| !above(at, Moved::Up))?;
        let last = reach(high, 1, float.infinity, |at| above(at, Moved::Down))?;
        let same = (first..=last).all(|at| above(at, Moved::No) == (at >= high));
        let op = if matches!(self.op, ScalarOp::Gt | ScalarOp::Ge) { ScalarOp::Ge } else { ScalarOp::Lt };
        same.then(|| (op, float.value(high)))
    }
}

/// The first place from `at` on, in steps that double, where something holds; `None` if it is far.
fn reach(at: i64, towards: i64, infinity: i64, holds: impl Fn(i64) -> bool) -> Option<i64> {
    let mut distance = 0;
    while distance <= MAX_TRIED / 2 {
        let place = (at + towards * distance).clamp(-infinity, infinity);
        if holds(place) {
            return Some(place);
        }
        distance = (2 * distance).max(1);
    }
    None
}

/// The floats of a type in their order, zero being 0.
struct Floats {
    ty: ScalarType,
    infinity: i64,
}

impl Floats {
    fn of(ty: ScalarType) -> Option<Self> {
        let infinity = match ty {
            ScalarType::F32 => order(f32::INFINITY),
            ScalarType::F64 => f64::INFINITY.to_bits() as i64,
            _ => return None,
        };
        Some(Self { ty, infinity })
    }

    fn value(&self, at: i64) -> Value {
        if self.ty == ScalarType::F32 {
            return Value::F32(of(at));
        }
        let x = f64::from_bits(at.unsigned_abs());
        Value::F64(if at < 0 { -x } else { x })
    }

    fn negative_zero(&self) -> Value {
        if self.ty == ScalarType::F32 { Value::F32(-0.0) } else { Value::F64(-0.0) }
    }
}

/// The place of a float among all, zero being 0.
fn order(x: f32) -> i64 {
    let magnitude = i64::from(x.to_bits() & 0x7fff_ffff);
    if x.is_sign_negative() { -magnitude } else { magnitude }
}

/// The float at a place.
fn of(at: i64) -> f32 {
    let magnitude = at.unsigned_abs().min(u64::from(f32::INFINITY.to_bits())) as u32;
    let x = f32::from_bits(magnitude);
    if at < 0 { -x } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F32: ScalarType = ScalarType::F32;
    const F64: ScalarType = ScalarType::F64;

    fn step(op: ScalarOp, literals: Vec<Option<Value>>, from: ScalarType, out: ScalarType) -> Step {
        let types = vec![from; literals.len()];
        Step::of(op, literals, types, out).expect("it rises")
    }

    fn probability(op: ScalarOp, bound: f64) -> Condition {
        let steps =
            vec![step(ScalarOp::Sigmoid, vec![None], F32, F32), step(ScalarOp::Cast(F64), vec![None], F32, F64)];
        Condition { steps, op, bound: Value::F64(bound), ty: F64 }
    }

    /// Every float within two thousand of the threshold, and a walk over all magnitudes.
    fn agrees(c: &Condition) -> Option<f32> {
        let (op, Value::F32(threshold)) = c.threshold(F32)? else { panic!("a float is expected") };
        let near = order(threshold) - 2000..=order(threshold) + 2000;
        let far = (-order(f32::INFINITY)..=order(f32::INFINITY)).step_by(1_000_003);
        for x in near.chain(far).map(of).chain([-0.0, 0.0]) {
            let mine = eval(op, &[Value::F32(x), Value::F32(threshold)], &[F32, F32], ScalarType::Bool);
            let value = c.steps.iter().try_fold(Value::F32(x), |x, s| s.apply(&x, Moved::No)).expect("a value");
            let theirs = eval(c.op, &[value, c.bound.clone()], &[c.ty, c.ty], ScalarType::Bool);
            assert_eq!(mine, theirs, "{c:?} at {x}");
        }
        Some(threshold)
    }

    #[test]
    fn thresholds_of_probabilities_keep_every_bit() {
        for op in [ScalarOp::Gt, ScalarOp::Ge, ScalarOp::Lt, ScalarOp::Le] {
            for bound in [1e-30, 1e-6, 0.1, 0.25, 1.0 / 3.0, 0.4, 0.499_999, 0.5, 0.500_001, 0.7, 0.999_999] {
                let threshold = agrees(&probability(op, bound)).expect("a threshold");
                let exact = (bound / (1.0 - bound)).ln();
                let error = (f64::from(threshold) - exact).abs() * bound * (1.0 - bound);
                assert!(error < 2e-7, "{op:?} {bound}: {threshold} for {exact}");
            }
        }
    }

    #[test]
    fn other_functions_and_steps() {
        let two = |op, c: f64| step(op, vec![None, Some(Value::F64(c))], F64, F64);
        let base = vec![step(ScalarOp::Cast(F64), vec![None], F32, F64)];
        let tanh = [vec![step(ScalarOp::Tanh, vec![None], F32, F32)], base.clone()].concat();
        let exp =
            [vec![step(ScalarOp::Exp, vec![None], F32, F32)], base.clone(), vec![two(ScalarOp::Add, -1.0)]].concat();
        let line = [base, vec![two(ScalarOp::Mul, 12.5), two(ScalarOp::Sub, 3.0), two(ScalarOp::Div, 0.3)]].concat();
        for (steps, bound) in [(tanh.clone(), 0.3), (tanh, -0.75), (exp, 7.0), (line, -2.0)] {
            agrees(&Condition { steps, op: ScalarOp::Le, bound: Value::F64(bound), ty: F64 }).expect("a threshold");
        }
    }

    #[test]
    fn decimals_compare_after_rounding() {
        let ty = ScalarType::Decimal { precision: 30, scale: 15 };
        let mut condition = probability(ScalarOp::Gt, 0.0);
        condition.steps.push(step(ScalarOp::Cast(ty), vec![None], F64, ty));
        (condition.bound, condition.ty) = (Value::Decimal(400_000_000_000_000), ty);
        agrees(&condition).expect("a threshold");
        // A double alone, up to those that a decimal does not hold.
        condition.steps = vec![step(ScalarOp::Cast(ty), vec![None], F64, ty)];
        let (op, threshold) = condition.threshold(F64).expect("a threshold");
        assert_eq!((op, threshold), (ScalarOp::Ge, Value::F64(0.400_000_000_000_000_5)));
    }

    #[test]
    fn what_is_always_or_never_true_has_no_threshold() {
        for bound in [-1.0, 1.0, 2.0] {
            assert_eq!(probability(ScalarOp::Gt, bound).threshold(F32), None);
        }
        let falling = Step::of(ScalarOp::Mul, vec![None, Some(Value::F64(-1.0))], vec![F64, F64], F64);
        let double = Step::of(ScalarOp::Sigmoid, vec![None], vec![F64], F64);
        assert!(falling.is_none() && double.is_none());
    }
}
