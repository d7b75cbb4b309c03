//! Operations on each element, with broadcasting.

use std::ops::{Add, Div, Mul, Neg, Sub};
use std::panic::Location;

use ir::entity::ValueId;
use ir::graph::tensor::Move;
use ir::graph::{Builder, TensorOp};
use ir::scalar::ScalarOp;
use ir::types::{Dim, ScalarType, TensorType, Type};
use ir::value::Value;

use super::Tensor;
use crate::error::{At, Fault};

/// The shape to which shapes broadcast.
pub(crate) fn broadcast_shape(a: &TensorType, b: &TensorType) -> Result<Vec<Dim>, Fault> {
    let rank = a.rank().max(b.rank());
    let at = |t: &TensorType, i: usize| (i + t.rank()).checked_sub(rank).map_or(Dim::Const(1), |i| t.shape[i].clone());
    let one = Dim::Const(1);
    let size = |i: usize| match (at(a, i), at(b, i)) {
        (x, y) if x == y || y == one => Ok(x),
        (x, y) if x == one => Ok(y),
        _ => Err(Fault::Shapes(a.clone(), b.clone())),
    };
    (0..rank).map(size).collect()
}

/// A value seen under a shape to which it broadcasts.
pub(crate) fn broadcast_value(b: &mut Builder, v: ValueId, shape: &[Dim]) -> ir::Result<ValueId> {
    let Some(ty) = b.ty(v).as_tensor().cloned() else { return Err(ir::Error::Type(format!("{v} is no tensor"))) };
    if ty.shape == shape {
        return Ok(v);
    }
    let Some(first) = shape.len().checked_sub(ty.rank()) else {
        return Err(ir::Error::Type(format!("{ty} does not broadcast to fewer dimensions")));
    };
    let dims = (first..shape.len()).collect();
    b.tensor(TensorOp::View(vec![Move::Broadcast { shape: shape.to_vec(), dims }]), &[v])
}

/// A number as a literal of a type.
pub(crate) fn number(b: &mut Builder, v: f64, ty: ScalarType) -> Result<ValueId, Fault> {
    let whole = v.fract() == 0.0 && v.abs() < 9e15;
    let value = match ty {
        ScalarType::F32 => Value::F32(v as f32),
        ScalarType::F64 => Value::F64(v),
        ScalarType::I32 if whole && v.abs() <= f64::from(i32::MAX) => Value::I32(v as i32),
        ScalarType::I64 if whole => Value::I64(v as i64),
        _ => return Err(Fault::Invalid(format!("the number {v} is not a value of {ty}"))),
    };
    Ok(b.literal(value, ty)?)
}

/// A scalar function over operands that broadcast: one map.
pub(crate) fn map(
    op: &'static str,
    at: At,
    operands: &[&Tensor],
    body: impl FnOnce(&mut Builder, &[ValueId]) -> Result<ValueId, Fault>,
) -> Tensor {
    let scope = operands[0].scope.clone();
    let types: Vec<TensorType> = operands.iter().map(|t| t.ty.clone()).collect();
    scope.record(op, at, operands, |b, values| {
        let mut joined = types[0].clone();
        for ty in &types[1..] {
            joined.shape = broadcast_shape(&joined, ty)?;
        }
        let mut seen = vec![];
        for v in values {
            seen.push(broadcast_value(b, *v, &joined.shape)?);
        }
        let mut fault = None;
        let out = b.map(&seen, |b, v| match body(b, v) {
            Ok(v) => Ok(vec![v]),
            Err(e) => {
                fault = Some(e);
                Err(ir::Error::Type(String::new()))
            }
        });
        match (out, fault) {
            (_, Some(fault)) => Err(fault),
            (Ok(values), None) => Ok(values[0]),
            (Err(e), None) => Err(e.into()),
        }
    })
}

/// The type of a scalar value.
pub(crate) fn scalar_type(b: &Builder, v: ValueId) -> ScalarType {
    match b.ty(v) {
        Type::Scalar(t) => t.ty,
        _ => ScalarType::Bool,
    }
}

/// A scalar operation over values of one type, numbers among them.
fn apply(b: &mut Builder, op: ScalarOp, args: &[ValueId]) -> Result<ValueId, Fault> {
    Ok(b.scalar(op, args)?)
}

fn binary(name: &'static str, at: At, op: ScalarOp, x: &Tensor, y: &Tensor) -> Tensor {
    map(name, at, &[x, y], |b, v| {
        if x.dtype() != y.dtype() {
            return Err(Fault::Invalid(format!("{} and {} have different elements; cast one", x.ty, y.ty)));
        }
        apply(b, op, v)
    })
}

pub(super) fn with_number(name: &'static str, at: At, op: ScalarOp, x: &Tensor, y: f64, first: bool) -> Tensor {
    map(name, at, &[x], |b, v| {
        let y = number(b, y, x.dtype())?;
        apply(b, op, &if first { [y, v[0]] } else { [v[0], y] })
    })
}

/// What may stand on the right of a comparison or of `maximum`: a tensor or a number.
pub trait Operand {
    #[doc(hidden)]
    fn combine(&self, name: &'static str, at: At, op: ScalarOp, left: &Tensor) -> Tensor;
}

impl Operand for Tensor {
    fn combine(&self, name: &'static str, at: At, op: ScalarOp, left: &Tensor) -> Tensor {
        binary(name, at, op, left, self)
    }
}

impl Operand for &Tensor {
    fn combine(&self, name: &'static str, at: At, op: ScalarOp, left: &Tensor) -> Tensor {
        binary(name, at, op, left, self)
    }
}

impl Operand for f64 {
    fn combine(&self, name: &'static str, at: At, op: ScalarOp, left: &Tensor) -> Tensor {
        with_number(name, at, op, left, *self, false)
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident, $name:literal, $op:expr) => {
        impl<R: Operand> $trait<R> for &Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, right: R) -> Tensor {
                right.combine($name, Location::caller(), $op, self)
            }
        }
        impl<R: Operand> $trait<R> for Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, right: R) -> Tensor {
                right.combine($name, Location::caller(), $op, &self)
            }
        }
        impl $trait<&Tensor> for f64 {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, right: &Tensor) -> Tensor {
                with_number($name, Location::caller(), $op, right, self, true)
            }
        }
        impl $trait<Tensor> for f64 {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, right: Tensor) -> Tensor {
                with_number($name, Location::caller(), $op, &right, self, true)
            }
        }
    };
}

operator!(Add, add, "+", ScalarOp::Add);
operator!(Sub, sub, "-", ScalarOp::Sub);
operator!(Mul, mul, "*", ScalarOp::Mul);
operator!(Div, div, "/", ScalarOp::Div);

impl Neg for &Tensor {
    type Output = Tensor;
    #[track_caller]
    fn neg(self) -> Tensor {
        map("-", Location::caller(), &[self], |b, v| apply(b, ScalarOp::Neg, v))
    }
}

impl Neg for Tensor {
    type Output = Tensor;
    #[track_caller]
    fn neg(self) -> Tensor {
        -&self
    }
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident => $op:expr;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(&self) -> Tensor {
                map(stringify!($name), Location::caller(), &[self], |b, v| apply(b, $op, v))
            }
        )*}
    };
}

unary! {
    /// e^x.
    exp => ScalarOp::Exp;
    /// Natural logarithm.
    log => ScalarOp::Log;
    /// log(1 + x).
    log1p => ScalarOp::Log1p;
    /// Square root.
    sqrt => ScalarOp::Sqrt;
    /// Sine.
    sin => ScalarOp::Sin;
    /// Cosine.
    cos => ScalarOp::Cos;
    /// Hyperbolic tangent.
    tanh => ScalarOp::Tanh;
    /// 1 / (1 + e^-x).
    sigmoid => ScalarOp::Sigmoid;
    /// Error function.
    erf => ScalarOp::Erf;
    /// Absolute value; its derivative at 0 is 0.
    abs => ScalarOp::Abs;
    /// -1, 0 or 1.
    sign => ScalarOp::Sign;
    /// Rounded down.
    floor => ScalarOp::Floor;
    /// Rounded up.
    ceil => ScalarOp::Ceil;
    /// Logical not.
    logical_not => ScalarOp::Not;
}

macro_rules! with_operand {
    ($($(#[$doc:meta])* $name:ident => $op:expr;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(&self, other: impl Operand) -> Tensor {
                other.combine(stringify!($name), Location::caller(), $op, self)
            }
        )*}
    };
}

with_operand! {
    /// The greater of two; NaN is the greatest. Of equals, the derivative goes to `self`.
    maximum => ScalarOp::Max;
    /// The smaller of two. Of equals, the derivative goes to `self`.
    minimum => ScalarOp::Min;
    /// x^y.
    pow => ScalarOp::Pow;
    /// Remainder with the sign of the dividend. Of integers: of floats it is not compiled yet.
    rem => ScalarOp::Rem;
    /// Whether equal; `bool`.
    eq => ScalarOp::Eq;
    /// Whether not equal; `bool`.
    ne => ScalarOp::Ne;
    /// Whether less; `bool`.
    lt => ScalarOp::Lt;
    /// Whether less or equal; `bool`.
    le => ScalarOp::Le;
    /// Whether greater; `bool`.
    gt => ScalarOp::Gt;
    /// Whether greater or equal; `bool`.
    ge => ScalarOp::Ge;
    /// Both true.
    logical_and => ScalarOp::And;
    /// One of both true.
    logical_or => ScalarOp::Or;
}

impl Tensor {
    /// x².
    #[track_caller]
    pub fn square(&self) -> Tensor {
        map("square", Location::caller(), &[self], |b, v| apply(b, ScalarOp::Mul, &[v[0], v[0]]))
    }

    /// max(0, x); its derivative at 0 is 0.
    #[track_caller]
    pub fn relu(&self) -> Tensor {
        with_number("relu", Location::caller(), ScalarOp::Max, self, 0.0, true)
    }

    /// x Φ(x), by the error function: x/2 (1 + erf(x / √2)).
    #[track_caller]
    pub fn gelu(&self) -> Tensor {
        map("gelu", Location::caller(), &[self], |b, v| {
            let ty = scalar_type(b, v[0]);
            let (half, one) = (number(b, 0.5, ty)?, number(b, 1.0, ty)?);
            let scale = number(b, std::f64::consts::FRAC_1_SQRT_2, ty)?;
            let scaled = apply(b, ScalarOp::Mul, &[v[0], scale])?;
            let erf = apply(b, ScalarOp::Erf, &[scaled])?;
            let sum = apply(b, ScalarOp::Add, &[one, erf])?;
            let half = apply(b, ScalarOp::Mul, &[v[0], half])?;
            apply(b, ScalarOp::Mul, &[half, sum])
        })
    }

    /// log(1 + e^x), without overflow.
    #[track_caller]
    pub fn softplus(&self) -> Tensor {
        // max(x, 0) + log1p(e^-|x|), with the conditions so that the derivative at 0 is 1/2.
        map("softplus", Location::caller(), &[self], |b, v| {
            let zero = number(b, 0.0, scalar_type(b, v[0]))?;
            let positive = apply(b, ScalarOp::Gt, &[v[0], zero])?;
            let minus = apply(b, ScalarOp::Neg, v)?;
            let least = apply(b, ScalarOp::Select, &[positive, minus, v[0]])?;
            let exp = apply(b, ScalarOp::Exp, &[least])?;
            let log = apply(b, ScalarOp::Log1p, &[exp])?;
            let most = apply(b, ScalarOp::Select, &[positive, v[0], zero])?;
            apply(b, ScalarOp::Add, &[most, log])
        })
    }

    /// `self` (a `bool` tensor) chooses: elements of `yes` where it is true, of `no` elsewhere.
    #[track_caller]
    pub fn choose(&self, yes: &Tensor, no: &Tensor) -> Tensor {
        map("choose", Location::caller(), &[self, yes, no], |b, v| apply(b, ScalarOp::Select, v))
    }

    /// Elements of another type. Raises where a number does not fit; floats to integers round half away from zero.
    #[track_caller]
    pub fn cast(&self, to: ScalarType) -> Tensor {
        if self.dtype() == to {
            return self.clone();
        }
        map("cast", Location::caller(), &[self], |b, v| apply(b, ScalarOp::Cast(to), v))
    }
}
