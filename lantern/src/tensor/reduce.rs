//! Reductions over axes, and what is made of them.

use std::panic::Location;

use ir::graph::TensorOp;
use ir::graph::tensor::Move;
use ir::scalar::ScalarOp;
use ir::scalar::reduce::Reducer;
use ir::types::Dim;

use super::Tensor;
use crate::error::{At, Fault};
use crate::stage::dim_value;

/// Axes of a tensor; negative ones count from the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Axes {
    /// Every axis.
    All,
    /// These.
    List(Vec<i32>),
}

impl Axes {
    /// Positions in `t`, ascending.
    pub(crate) fn of(&self, t: &Tensor) -> Result<Vec<usize>, Fault> {
        match self {
            Self::All => Ok((0..t.rank()).collect()),
            Self::List(list) => {
                let mut axes = list.iter().map(|a| t.axis(*a)).collect::<Result<Vec<_>, _>>()?;
                axes.sort_unstable();
                if axes.windows(2).any(|w| w[0] == w[1]) {
                    return Err(Fault::Invalid(format!("axes {list:?} of {} name one twice", t.ty)));
                }
                Ok(axes)
            }
        }
    }
}

impl From<i32> for Axes {
    fn from(axis: i32) -> Self {
        Self::List(vec![axis])
    }
}

impl<const N: usize> From<[i32; N]> for Axes {
    fn from(axes: [i32; N]) -> Self {
        Self::List(axes.to_vec())
    }
}

impl From<&[i32]> for Axes {
    fn from(axes: &[i32]) -> Self {
        Self::List(axes.to_vec())
    }
}

macro_rules! reductions {
    ($($(#[$doc:meta])* $name:ident, $keep:ident => $reducer:expr;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(&self, axes: impl Into<Axes>) -> Tensor {
                self.reduce(stringify!($name), Location::caller(), $reducer, &axes.into(), false)
            }

            #[doc = concat!("As [`Tensor::", stringify!($name), "`], with the axes kept as dimensions of size 1.")]
            #[track_caller]
            pub fn $keep(&self, axes: impl Into<Axes>) -> Tensor {
                self.reduce(stringify!($keep), Location::caller(), $reducer, &axes.into(), true)
            }
        )*}
    };
}

reductions! {
    /// Sum over axes.
    sum, sum_keep => Reducer::Sum;
    /// Product over axes.
    product, product_keep => Reducer::Product;
    /// Greatest element over axes; NaN is the greatest. Equals share the derivative.
    max, max_keep => Reducer::Max;
    /// Least element over axes. Equals share the derivative.
    min, min_keep => Reducer::Min;
    /// Whether all are true.
    all, all_keep => Reducer::BoolAnd;
    /// Whether any is true.
    any, any_keep => Reducer::BoolOr;
}

impl Tensor {
    fn reduce(&self, name: &'static str, at: At, reducer: Reducer, axes: &Axes, keep: bool) -> Tensor {
        let positions = axes.of(self);
        self.scope.record(name, at, &[self], |b, v| {
            let axes = positions?;
            if axes.is_empty() {
                return Ok(v[0]);
            }
            let out = b.tensor(TensorOp::Reduce { reducer, axes: axes.clone() }, v)?;
            if !keep {
                return Ok(out);
            }
            let mut shape = self.ty.shape.clone();
            axes.iter().for_each(|a| shape[*a] = Dim::Const(1));
            Ok(b.tensor(TensorOp::View(vec![Move::Reshape(shape)]), &[out])?)
        })
    }

    /// Mean over axes.
    #[track_caller]
    pub fn mean(&self, axes: impl Into<Axes>) -> Tensor {
        let axes = axes.into();
        let sum = self.reduce("mean", Location::caller(), Reducer::Sum, &axes, false);
        self.divide_by_count(Location::caller(), &sum, &axes)
    }

    /// As [`Tensor::mean`], with the axes kept as dimensions of size 1.
    #[track_caller]
    pub fn mean_keep(&self, axes: impl Into<Axes>) -> Tensor {
        let axes = axes.into();
        let sum = self.reduce("mean_keep", Location::caller(), Reducer::Sum, &axes, true);
        self.divide_by_count(Location::caller(), &sum, &axes)
    }

    fn divide_by_count(&self, at: At, sum: &Tensor, axes: &Axes) -> Tensor {
        let dtype = self.dtype();
        if let (true, Ok(Dim::Const(n))) = (dtype.is_float(), self.count(axes)) {
            return super::elementwise::with_number("mean", at, ScalarOp::Div, sum, n as f64, false);
        }
        let count = self.scope.record("mean", at, &[sum], |b, _| {
            if !dtype.is_float() {
                return Err(Fault::Invalid(format!("the mean of {}; cast it to a float", self.ty)));
            }
            let count = dim_value(b, &self.count(axes)?)?;
            Ok(b.map(&[count], |b, v| Ok(vec![b.scalar(ScalarOp::Cast(dtype), v)?]))?[0])
        });
        super::elementwise::map("mean", at, &[sum, &count], |b, v| Ok(b.scalar(ScalarOp::Div, v)?))
    }

    /// Index of the greatest element along an axis, `i64`; the first of equals.
    #[track_caller]
    pub fn argmax(&self, axis: i32) -> Tensor {
        self.reduce("argmax", Location::caller(), Reducer::ArgMax, &Axes::from(axis), false)
    }

    /// Index of the least element along an axis, `i64`; the first of equals.
    #[track_caller]
    pub fn argmin(&self, axis: i32) -> Tensor {
        self.reduce("argmin", Location::caller(), Reducer::ArgMin, &Axes::from(axis), false)
    }

    /// e^x divided by its sum along an axis; shifted by the greatest element, so that nothing overflows.
    #[track_caller]
    pub fn softmax(&self, axis: i32) -> Tensor {
        let exp = (self - self.max_keep(axis).detach()).exp();
        &exp / exp.sum_keep(axis)
    }

    /// Logarithm of [`Tensor::softmax`], without underflow.
    #[track_caller]
    pub fn log_softmax(&self, axis: i32) -> Tensor {
        let shifted = self - self.max_keep(axis).detach();
        &shifted - shifted.exp().sum_keep(axis).log()
    }

    /// Logarithm of the sum of e^x along an axis, without overflow.
    #[track_caller]
    pub fn logsumexp(&self, axis: i32) -> Tensor {
        let max = self.max_keep(axis).detach();
        ((self - &max).exp().sum_keep(axis).log() + max).squeeze(axis)
    }
}
