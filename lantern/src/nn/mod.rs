//! Layers and losses, as plain functions.
//!
//! Weights of linear layers are `[out, in]`, those of embeddings `[rows, width]`.

mod attention;
mod loss;
mod recurrent;

use std::panic::Location;

use ir::graph::TensorOp;
use ir::graph::tensor::ContractSpec;
use ir::types::{Dim, ScalarType};

use crate::error::Fault;
use crate::stage::Scope;
use crate::tensor::Tensor;

pub use attention::{Encoder, Transformer, attention};
pub use loss::{binary_cross_entropy, cross_entropy, mae, mse};
pub use recurrent::{Lstm, Tree, TreeLstm, lstm, lstm_cell, tree_lstm};

/// What stands between the layers of an [`mlp`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Activation {
    /// max(0, x).
    #[default]
    Relu,
    /// Hyperbolic tangent.
    Tanh,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// x Φ(x).
    Gelu,
    /// x.
    Identity,
}

impl Activation {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Relu, Self::Tanh, Self::Sigmoid, Self::Gelu, Self::Identity];

    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
            Self::Gelu => "gelu",
            Self::Identity => "identity",
        }
    }

    /// The one of this name, in any case.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name().eq_ignore_ascii_case(name))
    }

    /// Of each element.
    #[track_caller]
    pub fn of(self, x: &Tensor) -> Tensor {
        match self {
            Self::Relu => x.relu(),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => x.sigmoid(),
            Self::Gelu => x.gelu(),
            Self::Identity => x.clone(),
        }
    }
}

/// x wᵀ + b: `x` is `[…, in]`, `w` `[out, in]`, `b` `[out]`; the result is `[…, out]`.
#[track_caller]
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Tensor {
    let y = product(x, w, Location::caller());
    match b {
        Some(b) => y + b,
        None => y,
    }
}

/// x wᵀ, as one contraction.
fn product(x: &Tensor, w: &Tensor, at: crate::At) -> Tensor {
    x.scope().record("linear", at, &[x, w], |b, v| {
        let fault = || Fault::Shapes(x.ty().clone(), w.ty().clone());
        let (xs, ws) = (x.shape(), w.shape());
        let Some((inner, rows)) = xs.split_last() else { return Err(fault()) };
        if ws.len() != 2 || ws[1] != *inner || x.dtype() != w.dtype() || rows.len() > 20 {
            return Err(fault());
        }
        let rows: Vec<u8> = (b'a'..).take(rows.len()).collect();
        let spec = ContractSpec { a: [&rows[..], b"y"].concat(), b: b"zy".to_vec(), out: [&rows[..], b"z"].concat() };
        Ok(b.tensor(TensorOp::Contract(spec), v)?)
    })
}

/// Rows of a table `[rows, width]` by indices `[…]`: `[…, width]`.
#[track_caller]
pub fn embedding(table: &Tensor, indices: &Tensor) -> Tensor {
    table.gather(indices)
}

/// (x - mean) / sqrt(var + epsilon) over the last dimension, times `gain` plus `bias`, both of that dimension's size.
#[track_caller]
pub fn layer_norm(x: &Tensor, gain: &Tensor, bias: &Tensor, epsilon: f64) -> Tensor {
    let centered = x - x.mean_keep(-1);
    let variance = centered.square().mean_keep(-1);
    centered / (variance + epsilon).sqrt() * gain + bias
}

/// Linear layers with an activation between them. `params` are weight and bias of each layer in order; `x` is `[…, in]`.
#[track_caller]
pub fn mlp(x: &Tensor, params: &[Tensor], activation: Activation) -> Tensor {
    let layers = params.len() / 2;
    if params.len() % 2 == 1 || layers == 0 {
        let message = format!("{} parameters; it takes a weight and a bias for each layer", params.len());
        x.scope().fail(Fault::Invalid(message).at("mlp", Location::caller()));
        return x.scope().nothing();
    }
    params.chunks_exact(2).enumerate().fold(x.clone(), |x, (i, wb)| {
        let y = linear(&x, &wb[0], Some(&wb[1]));
        if i + 1 < layers { activation.of(&y) } else { y }
    })
}

/// Names of an [`mlp`]'s parameters: `l0.w`, `l0.b`, `l1.w`, …
pub fn mlp_names(sizes: &[usize]) -> Vec<String> {
    (1..sizes.len()).flat_map(|i| ["w", "b"].map(|k| format!("l{}.{k}", i - 1))).collect()
}

/// Initial parameters of an [`mlp`] of these widths, first the input's: weights `[out, in]` and biases `[out]`, uniform in ±1/√in.
/// A function of the seed alone.
#[track_caller]
pub fn mlp_params(scope: &Scope, dtype: ScalarType, sizes: &[usize], seed: u64) -> Vec<Tensor> {
    let mut out = vec![];
    for pair in sizes.windows(2) {
        let (inputs, outputs) = (pair[0], pair[1]);
        let a = 1.0 / (inputs.max(1) as f64).sqrt();
        let stream = out.len() as u64;
        out.push(scope.uniform(dtype, &[Dim::Const(outputs), Dim::Const(inputs)], -a, a, seed, stream));
        out.push(scope.uniform(dtype, &[Dim::Const(outputs)], -a, a, seed, stream + 1));
    }
    out
}
