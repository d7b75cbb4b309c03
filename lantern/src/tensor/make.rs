//! Tensors from nothing: constants, counters, random numbers, sizes.

use std::panic::Location;
use std::sync::Arc;

use ir::graph::TensorOp;
use ir::graph::tensor::Distribution;
use ir::types::{Dim, ScalarType, TensorType};

use super::{IntoValue, Tensor};
use crate::stage::{Scope, dim_value, filled};

impl Scope {
    /// A constant.
    #[track_caller]
    pub fn constant(&self, array: impl IntoValue) -> Tensor {
        let array = Arc::new(array.into_value());
        self.record("constant", Location::caller(), &[], |b, _| Ok(b.tensor(TensorOp::Const(array), &[])?))
    }

    /// A tensor of one number.
    #[track_caller]
    pub fn full(&self, dtype: ScalarType, shape: &[Dim], number: f64) -> Tensor {
        let ty = TensorType::new(dtype, shape.iter().cloned());
        self.record("full", Location::caller(), &[], |b, _| Ok(filled(b, &ty, number)?))
    }

    /// Zeros.
    #[track_caller]
    pub fn zeros(&self, dtype: ScalarType, shape: &[Dim]) -> Tensor {
        self.full(dtype, shape, 0.0)
    }

    /// Indices along an axis: `0, 1, 2, …`.
    #[track_caller]
    pub fn iota(&self, dtype: ScalarType, shape: &[Dim], axis: usize) -> Tensor {
        let ty = TensorType::new(dtype, shape.iter().cloned());
        self.record("iota", Location::caller(), &[], |b, _| Ok(b.tensor(TensorOp::Iota { ty, dim: axis }, &[])?))
    }

    /// Uniform random numbers in [low, high). They are a function of `seed` and `stream` alone: tensors that shall differ take
    /// different streams.
    #[track_caller]
    pub fn uniform(&self, dtype: ScalarType, shape: &[Dim], low: f64, high: f64, seed: u64, stream: u64) -> Tensor {
        self.random("uniform", dtype, shape, Distribution::Uniform { low, high }, seed, stream)
    }

    /// Normal random numbers with mean 0 and standard deviation 1; seed and stream as in [`Scope::uniform`].
    #[track_caller]
    pub fn normal(&self, dtype: ScalarType, shape: &[Dim], seed: u64, stream: u64) -> Tensor {
        self.random("normal", dtype, shape, Distribution::Normal, seed, stream)
    }

    #[track_caller]
    fn random(
        &self,
        name: &'static str,
        dtype: ScalarType,
        shape: &[Dim],
        distribution: Distribution,
        seed: u64,
        stream: u64,
    ) -> Tensor {
        let ty = TensorType::new(dtype, shape.iter().cloned());
        let op = TensorOp::Random { ty, distribution, seed, stream };
        self.record(name, Location::caller(), &[], |b, _| Ok(b.tensor(op, &[])?))
    }

    /// A size, as an `i64[]` tensor.
    #[track_caller]
    pub fn size(&self, dim: &Dim) -> Tensor {
        self.record("size", Location::caller(), &[], |b, _| Ok(dim_value(b, dim)?))
    }
}

impl Tensor {
    /// Zeros of this tensor's type and shape.
    #[track_caller]
    pub fn zeros_like(&self) -> Tensor {
        self.scope.zeros(self.dtype(), self.shape())
    }

    /// Ones of this tensor's type and shape.
    #[track_caller]
    pub fn ones_like(&self) -> Tensor {
        self.scope.full(self.dtype(), self.shape(), 1.0)
    }
}
