//! A trained model as data, and its network as a graph.

use std::sync::Arc;

use ir::types::ScalarType;
use ir::value::{TensorValue, Value};
use lantern::nn::{self, Activation};
use lantern::{Params, Scope, Tensor};
use runtime::column::Table;

use crate::transform::Feature;

/// What a model predicts.
#[derive(Debug, Clone, PartialEq)]
pub enum Label {
    /// One of these values, ascending; two or more.
    Classes(Vec<Value>),
    /// A number. The network computes it in units of `scale` from `mean` on.
    Number { mean: f64, scale: f64 },
}

/// One pass of training over the rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Epoch {
    /// Mean loss over the rows.
    pub loss: f64,
    /// Milliseconds; the mean over all passes of the training.
    pub duration_ms: f64,
}

/// A model: immutable, shared by the statements that use it.
#[derive(Debug)]
pub struct Model {
    pub(crate) name: String,
    /// The value of `model_type`.
    pub(crate) kind: String,
    /// The options as they were given, printed.
    pub(crate) options: Vec<(String, String)>,
    pub(crate) label_name: String,
    pub(crate) label: Label,
    /// The label as SQL over the input's columns.
    pub(crate) label_sql: String,
    pub(crate) features: Vec<Feature>,
    /// The columns that the features are computed from, with their types.
    pub(crate) inputs: Vec<(String, ScalarType)>,
    pub(crate) network: Network,
    pub(crate) params: Params,
    pub(crate) epochs: Vec<Epoch>,
    /// Rows that were trained on.
    pub(crate) rows: usize,
    /// The held-out rows as the query gave them.
    pub(crate) held_out: Option<Arc<Table>>,
    /// The engine's function that computes the network's answer.
    pub(crate) function: String,
}

impl Model {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it predicts.
    pub fn label(&self) -> &Label {
        &self.label
    }

    /// The column that it predicts.
    pub fn label_name(&self) -> &str {
        &self.label_name
    }

    /// The weights: `l0.w` `[out, in]`, `l0.b` `[out]`, `l1.w`, …
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Loss and time of each pass of the training.
    pub fn epochs(&self) -> &[Epoch] {
        &self.epochs
    }
}

/// The network's form.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Network {
    /// Widths, first the number of features, last the number of outputs.
    pub(crate) sizes: Vec<usize>,
    pub(crate) activation: Activation,
}

impl Network {
    pub(crate) fn output(&self, x: &Tensor, params: &[Tensor]) -> Tensor {
        nn::mlp(x, params, self.activation)
    }

    /// The mean loss of a batch. `y` is `f32[n, 1]`, or `i64[n]` for more than two classes.
    pub(crate) fn loss(&self, label: &Label, x: &Tensor, y: &Tensor, params: &[Tensor]) -> Tensor {
        let out = self.output(x, params);
        match label {
            Label::Classes(classes) if classes.len() == 2 => nn::binary_cross_entropy(&out, y),
            Label::Classes(_) => nn::cross_entropy(&out, y),
            Label::Number { .. } => nn::mse(&out, y),
        }
    }

    /// What stands for a row: `f64[n, 1]` with the probability of the second class, `f64[n, k]` with the probability of each
    /// class, or `f64[n, 1]` with the number.
    pub(crate) fn answer(&self, label: &Label, x: &Tensor, params: &[Tensor]) -> Tensor {
        let out = self.output(x, params);
        match label {
            Label::Classes(classes) if classes.len() == 2 => out.sigmoid().cast(ScalarType::F64),
            Label::Classes(_) => out.softmax(-1).cast(ScalarType::F64),
            Label::Number { mean, scale } => out.cast(ScalarType::F64) * *scale + *mean,
        }
    }

    /// The same as one number a row, `f64[n]`: of more than two classes the most probable one's index.
    pub(crate) fn score(&self, label: &Label, x: &Tensor, params: &[Tensor]) -> Tensor {
        match label {
            Label::Classes(classes) if classes.len() > 2 => self.output(x, params).argmax(-1).cast(ScalarType::F64),
            _ => self.answer(label, x, params).squeeze(-1),
        }
    }

    /// The weights as constants of a program.
    pub(crate) fn constants(scope: &Scope, params: &Params) -> Vec<Tensor> {
        params.values().map(|v: TensorValue| scope.constant(v)).collect()
    }
}
