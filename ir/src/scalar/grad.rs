//! Derivatives, as graph operations.
//!
//! What holds: a rule gets the operands, the result and the adjoint of the result (of the result's type) and gives an adjoint
//! for each operand, of the operand's type; `None` is a derivative that is zero almost everywhere (whole numbers, conditions,
//! steps). An operation over floats has a rule of its own: a rule that is missing is an error, never a zero.

use super::ScalarOp;
use crate::entity::ValueId;
use crate::error::{Error, Result};
use crate::graph::Builder;
use crate::types::{ScalarType, Type};
use crate::value::Value;

/// An adjoint for each operand.
pub type Adjoints = Vec<Option<ValueId>>;

/// The adjoints of an operation's operands, built where the builder stands: `out` is its result, `dout` the adjoint of that.
///
/// # Errors
/// [`Error::Unsupported`] where a float depends on the operand and there is no rule.
pub fn grad(b: &mut Builder, op: ScalarOp, args: &[ValueId], out: ValueId, dout: ValueId) -> Result<Adjoints> {
    let float = |b: &Builder, v: ValueId| b.ty(v).as_scalar().is_some_and(|t| t.ty.is_float());
    if !float(b, out) || !args.iter().any(|a| float(b, *a)) {
        return Ok(vec![None; args.len()]);
    }
    let mut rule = Rule { b, op, args, out, dout };
    let adjoints = (super::def(op).grad)(&mut rule)?;
    if adjoints.len() != args.len() {
        return Err(Error::Bug(format!("the derivative of {} has {} parts", op.name(), adjoints.len())));
    }
    Ok(adjoints.into_iter().zip(args).map(|(d, a)| d.filter(|_| float(b, *a))).collect())
}

/// What a rule works with.
pub struct Rule<'a> {
    b: &'a mut Builder,
    op: ScalarOp,
    args: &'a [ValueId],
    out: ValueId,
    dout: ValueId,
}

impl Rule<'_> {
    fn op1(&mut self, op: ScalarOp, a: ValueId) -> Result<ValueId> {
        self.b.scalar(op, &[a])
    }

    fn op2(&mut self, op: ScalarOp, a: ValueId, c: ValueId) -> Result<ValueId> {
        self.b.scalar(op, &[a, c])
    }

    fn mul(&mut self, a: ValueId, c: ValueId) -> Result<ValueId> {
        self.op2(ScalarOp::Mul, a, c)
    }

    fn div(&mut self, a: ValueId, c: ValueId) -> Result<ValueId> {
        self.op2(ScalarOp::Div, a, c)
    }

    fn neg(&mut self, a: ValueId) -> Result<ValueId> {
        self.op1(ScalarOp::Neg, a)
    }

    /// A constant of the result's type.
    fn constant(&mut self, v: f64) -> Result<ValueId> {
        match self.b.ty(self.out) {
            Type::Scalar(t) if t.ty == ScalarType::F32 => self.b.literal(Value::F32(v as f32), ScalarType::F32),
            Type::Scalar(t) if t.ty == ScalarType::F64 => self.b.literal(Value::F64(v), ScalarType::F64),
            t => Err(Error::Type(format!("{} has no derivative in {t}", self.op.name()))),
        }
    }

    /// `constant + sign x²`, with sign 1 or -1.
    fn plus_square(&mut self, constant: f64, sign: f64, x: ValueId) -> Result<ValueId> {
        let c = self.constant(constant)?;
        let square = self.mul(x, x)?;
        self.op2(if sign < 0.0 { ScalarOp::Sub } else { ScalarOp::Add }, c, square)
    }

    /// The adjoint where the condition holds and 0 elsewhere, and the other way round.
    fn split(&mut self, condition: ValueId) -> Result<(ValueId, ValueId)> {
        let zero = self.constant(0.0)?;
        let dout = self.dout;
        Ok((
            self.b.scalar(ScalarOp::Select, &[condition, dout, zero])?,
            self.b.scalar(ScalarOp::Select, &[condition, zero, dout])?,
        ))
    }
}

/// For rows whose result is no float, or whose derivative nobody needed so far.
pub(crate) fn missing(r: &mut Rule<'_>) -> Result<Adjoints> {
    Err(Error::Unsupported(format!("the derivative of {}", r.op.name())))
}

/// Constant almost everywhere.
pub(crate) fn zero(r: &mut Rule<'_>) -> Result<Adjoints> {
    Ok(vec![None; r.args.len()])
}

pub(crate) fn sum(r: &mut Rule<'_>) -> Result<Adjoints> {
    let second = if r.op == ScalarOp::Sub { r.neg(r.dout)? } else { r.dout };
    Ok(vec![Some(r.dout), Some(second)])
}

pub(crate) fn mul(r: &mut Rule<'_>) -> Result<Adjoints> {
    let (x, y) = (r.args[0], r.args[1]);
    Ok(vec![Some(r.mul(r.dout, y)?), Some(r.mul(r.dout, x)?)])
}

pub(crate) fn div(r: &mut Rule<'_>) -> Result<Adjoints> {
    let dx = r.div(r.dout, r.args[1])?;
    let scaled = r.mul(dx, r.out)?;
    Ok(vec![Some(dx), Some(r.neg(scaled)?)])
}

/// x rem y = x - y trunc(x / y).
pub(crate) fn rem(r: &mut Rule<'_>) -> Result<Adjoints> {
    let quotient = r.div(r.args[0], r.args[1])?;
    let whole = r.op1(ScalarOp::Trunc, quotient)?;
    let scaled = r.mul(r.dout, whole)?;
    Ok(vec![Some(r.dout), Some(r.neg(scaled)?)])
}

pub(crate) fn neg(r: &mut Rule<'_>) -> Result<Adjoints> {
    Ok(vec![Some(r.neg(r.dout)?)])
}

/// 0 at 0.
pub(crate) fn abs(r: &mut Rule<'_>) -> Result<Adjoints> {
    let sign = r.op1(ScalarOp::Sign, r.args[0])?;
    Ok(vec![Some(r.mul(r.dout, sign)?)])
}

/// `min` and `max`: to the operand that is the result, to the first of equals.
pub(crate) fn extreme(r: &mut Rule<'_>) -> Result<Adjoints> {
    let cmp = if r.op == ScalarOp::Min { ScalarOp::Lt } else { ScalarOp::Gt };
    let second = r.op2(cmp, r.args[1], r.args[0])?;
    let (to_second, to_first) = r.split(second)?;
    Ok(vec![Some(to_first), Some(to_second)])
}

pub(crate) fn coalesce(r: &mut Rule<'_>) -> Result<Adjoints> {
    let known = r.op1(ScalarOp::IsNotNull, r.args[0])?;
    let (to_first, to_second) = r.split(known)?;
    Ok(vec![Some(to_first), Some(to_second)])
}

pub(crate) fn select(r: &mut Rule<'_>) -> Result<Adjoints> {
    let (yes, no) = r.split(r.args[0])?;
    Ok(vec![None, Some(yes), Some(no)])
}

pub(crate) fn null_if_true(r: &mut Rule<'_>) -> Result<Adjoints> {
    let (_, no) = r.split(r.args[1])?;
    Ok(vec![Some(no), None])
}

/// Between floats: the adjoint, cast back. From what is no float, nothing flows.
pub(crate) fn cast(r: &mut Rule<'_>) -> Result<Adjoints> {
    Ok(vec![match r.b.ty(r.args[0]).as_scalar() {
        Some(from) if from.ty.is_float() => Some(r.op1(ScalarOp::Cast(from.ty), r.dout)?),
        _ => None,
    }])
}

pub(crate) fn exp(r: &mut Rule<'_>) -> Result<Adjoints> {
    Ok(vec![Some(r.mul(r.dout, r.out)?)])
}

pub(crate) fn log(r: &mut Rule<'_>) -> Result<Adjoints> {
    Ok(vec![Some(r.div(r.dout, r.args[0])?)])
}

pub(crate) fn log1p(r: &mut Rule<'_>) -> Result<Adjoints> {
    let one = r.constant(1.0)?;
    let x = r.op2(ScalarOp::Add, one, r.args[0])?;
    Ok(vec![Some(r.div(r.dout, x)?)])
}

pub(crate) fn sqrt(r: &mut Rule<'_>) -> Result<Adjoints> {
    let half = r.constant(0.5)?;
    let d = r.mul(r.dout, half)?;
    Ok(vec![Some(r.div(d, r.out)?)])
}

pub(crate) fn sin(r: &mut Rule<'_>) -> Result<Adjoints> {
    let cos = r.op1(ScalarOp::Cos, r.args[0])?;
    Ok(vec![Some(r.mul(r.dout, cos)?)])
}

pub(crate) fn cos(r: &mut Rule<'_>) -> Result<Adjoints> {
    let sin = r.op1(ScalarOp::Sin, r.args[0])?;
    let d = r.mul(r.dout, sin)?;
    Ok(vec![Some(r.neg(d)?)])
}

/// 1 + tan².
pub(crate) fn tan(r: &mut Rule<'_>) -> Result<Adjoints> {
    let slope = r.plus_square(1.0, 1.0, r.out)?;
    Ok(vec![Some(r.mul(r.dout, slope)?)])
}

/// `asin` and, negated, `acos`: 1 / sqrt(1 - x²).
pub(crate) fn asin(r: &mut Rule<'_>) -> Result<Adjoints> {
    let square = r.plus_square(1.0, -1.0, r.args[0])?;
    let root = r.op1(ScalarOp::Sqrt, square)?;
    let d = r.div(r.dout, root)?;
    Ok(vec![Some(if r.op == ScalarOp::Acos { r.neg(d)? } else { d })])
}

pub(crate) fn atan(r: &mut Rule<'_>) -> Result<Adjoints> {
    let square = r.plus_square(1.0, 1.0, r.args[0])?;
    Ok(vec![Some(r.div(r.dout, square)?)])
}

/// Of y and x: x / (x² + y²) and -y / (x² + y²).
pub(crate) fn atan2(r: &mut Rule<'_>) -> Result<Adjoints> {
    let (y, x) = (r.args[0], r.args[1]);
    let (xx, yy) = (r.mul(x, x)?, r.mul(y, y)?);
    let square = r.op2(ScalarOp::Add, xx, yy)?;
    let d = r.div(r.dout, square)?;
    let dy = r.mul(d, x)?;
    let dx = r.mul(d, y)?;
    Ok(vec![Some(dy), Some(r.neg(dx)?)])
}

/// 1 - tanh².
pub(crate) fn tanh(r: &mut Rule<'_>) -> Result<Adjoints> {
    let slope = r.plus_square(1.0, -1.0, r.out)?;
    Ok(vec![Some(r.mul(r.dout, slope)?)])
}

/// s (1 - s).
pub(crate) fn sigmoid(r: &mut Rule<'_>) -> Result<Adjoints> {
    let one = r.constant(1.0)?;
    let rest = r.op2(ScalarOp::Sub, one, r.out)?;
    let slope = r.mul(r.out, rest)?;
    Ok(vec![Some(r.mul(r.dout, slope)?)])
}

/// 2 / sqrt π e^(-x²).
pub(crate) fn erf(r: &mut Rule<'_>) -> Result<Adjoints> {
    let minus_square = r.plus_square(0.0, -1.0, r.args[0])?;
    let bell = r.op1(ScalarOp::Exp, minus_square)?;
    let scale = r.constant(std::f64::consts::FRAC_2_SQRT_PI)?;
    let slope = r.mul(scale, bell)?;
    Ok(vec![Some(r.mul(r.dout, slope)?)])
}

/// y x^(y-1), 0 where y is 0; and x^y log x, 0 where x is 0.
pub(crate) fn pow(r: &mut Rule<'_>) -> Result<Adjoints> {
    let (x, y) = (r.args[0], r.args[1]);
    let (zero, one) = (r.constant(0.0)?, r.constant(1.0)?);
    let y_less = r.op2(ScalarOp::Sub, y, one)?;
    let y_is_zero = r.op2(ScalarOp::Eq, y, zero)?;
    let exponent = r.b.scalar(ScalarOp::Select, &[y_is_zero, one, y_less])?;
    let power = r.op2(ScalarOp::Pow, x, exponent)?;
    let slope = r.mul(y, power)?;
    let dx = r.mul(r.dout, slope)?;
    let x_is_zero = r.op2(ScalarOp::Eq, x, zero)?;
    let base = r.b.scalar(ScalarOp::Select, &[x_is_zero, one, x])?;
    let log = r.op1(ScalarOp::Log, base)?;
    let slope = r.mul(r.out, log)?;
    let dy = r.mul(r.dout, slope)?;
    Ok(vec![Some(dx), Some(dy)])
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::graph::Op;
    use crate::scalar::{self, RowType, tests::every_op};

    /// The values of the results for these parameters of a function of scalars.
    fn run(b: &Builder, params: &[(ValueId, Value)], results: &[ValueId]) -> Vec<Value> {
        let mut known: HashMap<ValueId, Value> = params.iter().cloned().collect();
        for node in &b.program().nodes {
            let ty = |v: ValueId| b.ty(v).as_scalar().expect("a scalar").ty;
            let value = match &node.op {
                Op::Literal(v, _) => v.clone(),
                Op::Scalar(op) => {
                    let values: Vec<Value> = node.operands.iter().map(|v| known[v].clone()).collect();
                    let types: Vec<ScalarType> = node.operands.iter().map(|v| ty(*v)).collect();
                    scalar::eval(*op, &values, &types, ty(node.results[0])).expect("a derivative does not raise")
                }
                other => panic!("{other:?} in a derivative"),
            };
            known.insert(node.results[0], value);
        }
        results.iter().map(|v| known[v].clone()).collect()
    }

    /// The result and the adjoints of the operands, for an adjoint of the result.
    fn adjoints(op: ScalarOp, values: &[Value], types: &[RowType], seed: f64) -> Result<(Value, Vec<Option<Value>>)> {
        let mut b = Builder::new();
        let params: Vec<Type> = types.iter().map(|t| Type::Scalar(*t)).collect();
        let args = b.begin_func(&params);
        let out = b.scalar(op, &args)?;
        let out_type = b.ty(out).as_scalar().expect("a scalar").ty;
        let dout = match out_type {
            ScalarType::F32 => b.literal(Value::F32(seed as f32), ScalarType::F32)?,
            _ => b.literal(Value::F64(seed), ScalarType::F64)?,
        };
        let result = grad(&mut b, op, &args, out, dout);
        let given: Vec<(ValueId, Value)> = args.iter().copied().zip(values.iter().cloned()).collect();
        let out_value = run(&b, &given, &[out]).remove(0);
        let found = match &result {
            Ok(ds) => ds.iter().map(|d| d.map(|d| run(&b, &given, &[d]).remove(0))).collect(),
            Err(_) => vec![],
        };
        b.end_func("f", &[]);
        result.map(|_| (out_value, found))
    }

    fn double(v: &Value) -> f64 {
        match v {
            Value::F64(v) => *v,
            Value::F32(v) => f64::from(*v),
            other => panic!("{other:?} is no float"),
        }
    }

    /// Operand lists for which the type rule holds and the result is a float, at points without kinks.
    fn points(op: ScalarOp) -> Vec<Vec<Value>> {
        let floats = [0.37, 0.71, -0.62, 1.93, -2.44].map(Value::F64);
        let mut out = vec![];
        for a in &floats {
            out.push(vec![a.clone()]);
            out.push(vec![a.clone(), Value::I32(1)]);
            out.push(vec![a.clone(), Value::Bool(true)]);
            out.push(vec![a.clone(), Value::Bool(false)]);
            for c in &floats {
                if a != c {
                    out.push(vec![a.clone(), c.clone()]);
                    out.push(vec![Value::Bool(true), a.clone(), c.clone()]);
                    out.push(vec![Value::Bool(false), a.clone(), c.clone()]);
                }
            }
        }
        out.retain(|values| {
            let types: Vec<RowType> = types(values);
            scalar::result_type(op, &types).is_ok_and(|t| t.ty == ScalarType::F64)
        });
        out
    }

    fn types(values: &[Value]) -> Vec<RowType> {
        let ty = |v: &Value| match v {
            Value::F64(_) => ScalarType::F64,
            Value::F32(_) => ScalarType::F32,
            Value::I32(_) => ScalarType::I32,
            _ => ScalarType::Bool,
        };
        values.iter().map(|v| ty(v).nullable(false)).collect()
    }

    /// Central difference in f64; `None` where the function is not finite around the point.
    fn slope(op: ScalarOp, values: &[Value], i: usize) -> Option<f64> {
        let step = 1e-5;
        let at = |shift: f64| {
            let mut moved = values.to_vec();
            moved[i] = Value::F64(double(&values[i]) + shift);
            let types: Vec<ScalarType> = types(&moved).iter().map(|t| t.ty).collect();
            match scalar::eval(op, &moved, &types, ScalarType::F64).expect("floats do not raise") {
                Value::Null => None,
                v => Some(double(&v)),
            }
        };
        let slope = (at(step)? - at(-step)?) / (2.0 * step);
        slope.is_finite().then_some(slope)
    }

    #[test]
    fn derivatives_are_central_differences() {
        let mut checked = vec![];
        for op in every_op() {
            for values in points(op) {
                let seed = 1.25;
                let (_, found) = adjoints(op, &values, &types(&values), seed).unwrap_or_else(|e| panic!("{op:?}: {e}"));
                for (i, d) in found.iter().enumerate() {
                    if !matches!(values[i], Value::F64(_)) {
                        assert_eq!(*d, None, "{op:?}: operand {i} is no float");
                        continue;
                    }
                    let Some(want) = slope(op, &values, i) else { continue };
                    let got = d.as_ref().map_or(0.0, double) / seed;
                    let close = (got - want).abs() <= 1e-7 * want.abs().max(1.0);
                    assert!(close, "{op:?} {values:?}, operand {i}: {got}, finite difference {want}");
                    checked.push(op.index());
                }
            }
        }
        checked.sort_unstable();
        checked.dedup();
        // Everything that makes a float from floats was checked.
        let float1 = |op: ScalarOp| !points(op).is_empty();
        let all: std::collections::BTreeSet<usize> =
            every_op().into_iter().filter(|o| float1(*o)).map(|o| o.index()).collect();
        assert_eq!(checked, all.into_iter().collect::<Vec<_>>());
        assert!(checked.len() >= 33, "{} operations have derivatives", checked.len());
    }

    #[test]
    fn ties_go_to_the_first_and_types_are_kept() {
        let same = [Value::F32(2.0), Value::F32(2.0)];
        for op in [ScalarOp::Min, ScalarOp::Max] {
            let (_, found) = adjoints(op, &same, &types(&same), 3.0).unwrap();
            assert_eq!(found, [Some(Value::F32(3.0)), Some(Value::F32(0.0))]);
        }
        let (_, found) =
            adjoints(ScalarOp::Cast(ScalarType::F64), &[Value::F32(2.0)], &types(&[Value::F32(2.0)]), 3.0).unwrap();
        assert_eq!(found, [Some(Value::F32(3.0))]);
        let nothing =
            adjoints(ScalarOp::Cast(ScalarType::F64), &[Value::I32(2)], &types(&[Value::I32(2)]), 3.0).unwrap();
        assert_eq!(nothing.1, [None]);
        let null = [Value::Null, Value::F64(1.0)];
        let nullable = [ScalarType::F64.nullable(true), ScalarType::F64.nullable(false)];
        let (_, found) = adjoints(ScalarOp::Coalesce, &null, &nullable, 3.0).unwrap();
        assert_eq!(found, [Some(Value::F64(0.0)), Some(Value::F64(3.0))]);
    }
}
