//! A trained model as data, and its network as a graph.

use std::sync::Arc;

use ir::entity::ColumnId;
use ir::graph::InputKind;
use ir::graph::bridge::TensorColumns;
use ir::types::{Dim, ScalarType};
use ir::value::{TensorValue, Value};
use lantern::nn::{self, Activation};
use lantern::{Function, Params, Scope, Tensor};
use runtime::column::Table;

use crate::features::Features;
use crate::transform::{Feature, sql_type};

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
    /// Mean loss over the rows, each before the weights follow it: log loss for classes, squared error in the label's unit for
    /// numbers.
    pub loss: f64,
    /// Mean loss over the held-out rows behind the pass; none where no rows were held out.
    pub eval_loss: Option<f64>,
    /// Milliseconds that the pass took.
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
    /// The features as a graph over the input's columns.
    pub(crate) recorded: Features,
    pub(crate) network: Network,
    pub(crate) params: Params,
    pub(crate) epochs: Vec<Epoch>,
    /// Rows that were trained on.
    pub(crate) rows: usize,
    /// The held-out rows as the query gave them.
    pub(crate) held_out: Option<Arc<Table>>,
    /// Counts the models of the session: no two have the same functions in the engine.
    pub(crate) number: u64,
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

    /// The columns that it predicts from, in the order in which `predict` takes them, with their types.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, ScalarType)> {
        self.recorded.inputs().iter().map(|input| (input.name.as_str(), input.ty))
    }

    /// The inputs as an error lists them.
    pub(crate) fn inputs_listed(&self) -> String {
        let list: Vec<String> = self.inputs().map(|(name, ty)| format!("{name} {}", sql_type(ty))).collect();
        if list.is_empty() { "no column".to_string() } else { list.join(", ") }
    }
}

/// What computes the answer from the features.
#[derive(Debug, Clone)]
pub(crate) enum Network {
    /// Linear layers.
    Layers {
        /// Widths, first the number of features, last the number of outputs.
        sizes: Vec<usize>,
        activation: Activation,
        /// Type of features and weights.
        dtype: ScalarType,
    },
    /// A function from elsewhere.
    Function { function: Function, arguments: Vec<FunctionInput>, groups: Vec<FeatureGroup> },
}

/// What a function's input is given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum FunctionInput {
    /// The group of features of this number.
    Features(usize),
    /// The parameter of this number.
    Param(usize),
}

/// Features that become one tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct FeatureGroup {
    pub(crate) width: usize,
    pub(crate) dtype: ScalarType,
    /// `[rows]` rather than `[rows, width]`.
    pub(crate) flat: bool,
}

impl Network {
    /// A function of parameters (the inputs that `params` names) and features (the others, `[rows]` or `[rows, k]` each), whose
    /// first result is `[rows]` or `[rows, outputs]`.
    ///
    /// # Errors
    /// A sentence that says what does not fit.
    pub(crate) fn function(function: Function, params: &Params, outputs: usize) -> Result<Network, String> {
        let program = function.program();
        let (mut arguments, mut groups, mut rows) = (vec![], vec![], None);
        for input in &program.inputs {
            let InputKind::Tensor(ty) = &input.kind else {
                return Err(format!("the input '{}' is no tensor", input.name));
            };
            if let Some(at) = params.iter().position(|(name, _)| name == input.name) {
                let (_, value) = params.iter().nth(at).ok_or("a parameter is missing")?;
                let shape: Vec<Dim> = value.shape.iter().map(|n| Dim::Const(*n)).collect();
                if ty.dtype != value.data.dtype() || ty.shape != shape {
                    let (dtype, shape) = (value.data.dtype(), &value.shape);
                    return Err(format!("the parameter '{}' is {ty}, and its value {dtype}{shape:?}", input.name));
                }
                arguments.push(FunctionInput::Param(at));
                continue;
            }
            let (n, width) = match ty.shape.as_slice() {
                [n @ Dim::Sym(_)] => (n, None),
                [n @ Dim::Sym(_), Dim::Const(k)] => (n, Some(*k)),
                _ => {
                    return Err(format!(
                        "the input '{}' is {ty}; it has to be a parameter, or features [n] or [n, k] with a name for n",
                        input.name
                    ));
                }
            };
            if rows.get_or_insert_with(|| n.clone()) != n {
                return Err(format!("the input '{}' has another number of rows than the first", input.name));
            }
            arguments.push(FunctionInput::Features(groups.len()));
            groups.push(FeatureGroup { width: width.unwrap_or(1), dtype: ty.dtype, flat: width.is_none() });
        }
        let result = program.entry_region().and_then(|r| r.results.first()).and_then(|v| program.ty(*v).as_tensor());
        let result = result.ok_or("it has no result")?;
        let fits = match (result.shape.as_slice(), &rows) {
            ([n], Some(rows)) => n == rows && outputs == 1,
            ([n, Dim::Const(k)], Some(rows)) => n == rows && *k == outputs,
            _ => false,
        };
        if !fits || result.dtype == ScalarType::Bool {
            let wanted = if outputs == 1 { "one number".to_string() } else { format!("{outputs} numbers") };
            return Err(format!("the first result is {result}; it has to be {wanted} for each row of the features"));
        }
        if let Some((name, _)) = params.iter().find(|(name, _)| program.inputs.iter().all(|i| i.name != *name)) {
            return Err(format!("it has no input for the parameter '{name}'"));
        }
        Ok(Network::Function { function, arguments, groups })
    }

    /// The tensors that it takes the features in.
    pub(crate) fn groups(&self) -> Vec<FeatureGroup> {
        match self {
            Network::Layers { sizes, dtype, .. } => {
                vec![FeatureGroup { width: sizes.first().copied().unwrap_or(0), dtype: *dtype, flat: false }]
            }
            Network::Function { groups, .. } => groups.clone(),
        }
    }

    /// The same as groups of these columns.
    pub(crate) fn tensors(&self, columns: &[ColumnId]) -> Vec<TensorColumns> {
        let mut rest = columns;
        let group = |group: FeatureGroup| {
            let (now, later) = rest.split_at(group.width.min(rest.len()));
            rest = later;
            TensorColumns { columns: now.to_vec(), dtype: group.dtype, flat: group.flat }
        };
        self.groups().into_iter().map(group).collect()
    }

    /// What it is, for DESCRIBE.
    pub(crate) fn described(&self) -> String {
        match self {
            Network::Layers { sizes, .. } => sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(" -> "),
            Network::Function { function, .. } => {
                format!("a function of {}", function.inputs().collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// `[n, outputs]` from the tensors of the features: of classes before sigmoid or softmax.
    pub(crate) fn output(&self, x: &[Tensor], params: &[Tensor]) -> Tensor {
        match self {
            Network::Layers { activation, .. } => nn::mlp(&x[0], params, *activation),
            Network::Function { function, arguments, .. } => {
                let given: Vec<Tensor> = arguments
                    .iter()
                    .map(|argument| match argument {
                        FunctionInput::Features(i) => x[*i].clone(),
                        FunctionInput::Param(i) => params[*i].clone(),
                    })
                    .collect();
                let out = function.call(x[0].scope(), &given).swap_remove(0);
                if out.shape().len() == 1 { out.unsqueeze(-1) } else { out }
            }
        }
    }

    /// The mean loss of a batch. `y` is `[n, 1]`, or `i64[n]` for more than two classes.
    pub(crate) fn loss(&self, label: &Label, x: &[Tensor], y: &Tensor, params: &[Tensor]) -> Tensor {
        let out = self.output(x, params);
        match label {
            Label::Classes(classes) if classes.len() == 2 => nn::binary_cross_entropy(&out, y),
            Label::Classes(_) => nn::cross_entropy(&out, y),
            Label::Number { .. } => nn::mse(&out, y),
        }
    }

    /// What stands for a row: `f64[n, 1]` with the probability of the second class, `f64[n, k]` with the probability of each
    /// class, or `f64[n, 1]` with the number.
    pub(crate) fn answer(&self, label: &Label, x: &[Tensor], params: &[Tensor]) -> Tensor {
        let out = self.output(x, params);
        match label {
            Label::Classes(classes) if classes.len() == 2 => out.sigmoid().cast(ScalarType::F64),
            Label::Classes(_) => out.softmax(-1).cast(ScalarType::F64),
            Label::Number { mean: 0.0, scale: 1.0 } => out.cast(ScalarType::F64),
            Label::Number { mean, scale } => out.cast(ScalarType::F64) * *scale + *mean,
        }
    }

    /// The same as one number a row, `f64[n]`: of more than two classes the most probable one's index.
    pub(crate) fn score(&self, label: &Label, x: &[Tensor], params: &[Tensor]) -> Tensor {
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
