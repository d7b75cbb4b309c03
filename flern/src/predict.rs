//! Models inside of queries.

use std::fmt;
use std::sync::Arc;

use flare::catalog::{Argument, RowFunction};
use ir::entity::{ColumnId, ValueId};
use ir::graph::{BridgeOp, Builder, Op};
use ir::scalar::ScalarOp;
use ir::types::{RowType, ScalarType};
use ir::value::Value;
use lantern::Scope;

use crate::error::{Error, Result};
use crate::model::{Label, Model, Network};
use crate::sql::{self, Expansion, Given, ModelCall};
use crate::transform::{literal, number, quoted, sql_type};

/// The column in which ML.PREDICT keeps the network's answer on its way.
const SCORE: &str = "score of ML.PREDICT";

/// The engine's function that computes a model's answer from the columns that it predicts from.
pub(crate) struct Predict {
    name: String,
    model: Arc<Model>,
    gives: Gives,
}

/// What a [`Predict`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gives {
    /// The probability of the second of two classes, the index of the most probable of several, or the number.
    Score,
    /// The most probable class.
    Class,
}

impl Predict {
    /// All functions of a model.
    pub(crate) fn all(model: &Arc<Model>) -> Vec<Arc<Predict>> {
        let function = |gives| Arc::new(Predict { name: name(model, gives), model: model.clone(), gives });
        match &model.label {
            Label::Classes(classes) if classes.len() > 2 => vec![function(Gives::Score), function(Gives::Class)],
            Label::Classes(_) | Label::Number { .. } => vec![function(Gives::Score)],
        }
    }

    fn wrong(&self, what: &str) -> String {
        let model = &self.model;
        format!("predict('{}', …) takes {}; {what}", model.name, model.inputs_listed())
    }
}

/// A function's name in the engine: no two models of a session share one.
pub(crate) fn name(model: &Model, gives: Gives) -> String {
    let what = match gives {
        Gives::Score => "score",
        Gives::Class => "class",
    };
    format!("{what}_{}_{}", model.name, model.number)
}

impl fmt::Debug for Predict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

fn of_lantern(error: lantern::Error) -> ir::Error {
    match error {
        lantern::Error::Ir(error) => error,
        other => ir::Error::Type(other.to_string()),
    }
}

/// Whether a column of one type may be given for one of another: numbers widen, and become floats.
fn widens(from: ScalarType, to: ScalarType) -> bool {
    use ScalarType::{Decimal, F32, F64, I32, I64};
    from == to
        || match to {
            F32 | F64 => from.is_numeric(),
            Decimal { .. } => matches!(from, Decimal { .. } | I32 | I64),
            I64 => from == I32,
            // A whole number without a point is as wide as it is written, so it may be a narrow column's.
            I32 => from == I64,
            _ => false,
        }
}

fn class_type(classes: &[Value]) -> ScalarType {
    match classes.first() {
        Some(Value::Bool(_)) => ScalarType::Bool,
        Some(Value::I32(_)) => ScalarType::I32,
        Some(Value::I64(_)) => ScalarType::I64,
        _ => ScalarType::Text,
    }
}

impl RowFunction for Predict {
    fn name(&self) -> &str {
        &self.name
    }

    fn result(&self, args: &[Argument]) -> Result<RowType, String> {
        let count = self.model.inputs().count();
        if args.len() != count {
            return Err(self.wrong(&format!("{} arguments were given for {count}", args.len())));
        }
        for (i, ((name, to), arg)) in self.model.inputs().zip(args).enumerate() {
            if let Some(from) = arg.ty
                && !widens(from, to)
            {
                let (from, to) = (sql_type(from), sql_type(to));
                return Err(self.wrong(&format!("argument {} ({name}) is {from}, not {to}", i + 1)));
            }
        }
        Ok(match (&self.model.label, self.gives) {
            (Label::Classes(classes), Gives::Class) => class_type(classes),
            (_, Gives::Class | Gives::Score) => ScalarType::F64,
        }
        .nullable(false))
    }

    fn apply(
        &self,
        b: &mut Builder,
        table: ValueId,
        args: &[Argument],
        columns: &[Option<ColumnId>],
    ) -> ir::Result<(ValueId, ColumnId)> {
        let model = &*self.model;
        let (mut table, mut given) = (table, vec![]);
        for (((name, to), arg), column) in model.inputs().zip(args).zip(columns) {
            let from = arg.ty.unwrap_or(to);
            given.push(match column {
                Some(id) if from == to => *id,
                _ => {
                    let id = b.program_mut().new_column(name, to);
                    table = b.extend(table, &[id], |b| {
                        let value = match column {
                            Some(id) => b.col(*id)?,
                            None => b.literal(arg.constant.clone().unwrap_or(Value::Null), from)?,
                        };
                        Ok(vec![if from == to { value } else { b.scalar(ScalarOp::Cast(to), &[value])? }])
                    })?;
                    id
                }
            });
        }
        let (table, features) = model.recorded.write(b, table, &given)?;
        name_features(b, model, &features).map_err(|e| ir::Error::Type(e.to_string()))?;
        let (table, score) = score(b, model, table, &features)?;
        match (&model.label, self.gives) {
            (Label::Classes(classes), Gives::Class) => class(b, classes, table, score),
            (_, Gives::Class | Gives::Score) => Ok((table, score)),
        }
    }
}

/// Calls the feature columns by their features, so that an error about a NULL names the one.
fn name_features(b: &mut Builder, model: &Model, columns: &[ColumnId]) -> Result<()> {
    let mut ids = columns.iter();
    for feature in &model.features {
        for id in ids.by_ref().take(feature.columns()?.len()) {
            b.program_mut().columns[id.index()].name.clone_from(&feature.name);
        }
    }
    Ok(())
}

/// The network over the features of each row: one `apply`.
fn score(b: &mut Builder, model: &Model, table: ValueId, features: &[ColumnId]) -> ir::Result<(ValueId, ColumnId)> {
    let rows = b.program_mut().new_symbol("rows");
    let out = b.program_mut().new_column("score", ScalarType::F64);
    let weights = Scope::within(b, |scope| {
        Network::constants(scope, &model.params).iter().filter_map(|t| t.value()).collect::<Vec<_>>()
    });
    let weights = weights.map_err(of_lantern)?;
    let op = Op::Bridge(BridgeOp::Apply { rows, inputs: model.network.tensors(features), columns: vec![out] });
    let table = b.with_region(op, &[table], |b, x| {
        let score = Scope::within(b, |scope| {
            let params: Vec<_> = weights.iter().map(|w| scope.tensor(*w)).collect();
            let x: Vec<_> = x.iter().map(|x| scope.tensor(*x)).collect();
            model.network.score(&model.label, &x, &params).value()
        });
        let score = score.map_err(of_lantern)?;
        Ok(vec![score.ok_or_else(|| ir::Error::Bug("an operation failed without an error".into()))?])
    })?;
    Ok((table[0], out))
}

/// The class of an index.
fn class(b: &mut Builder, classes: &[Value], table: ValueId, score: ColumnId) -> ir::Result<(ValueId, ColumnId)> {
    let ty = class_type(classes);
    let out = b.program_mut().new_column("class", ty);
    let table = b.extend(table, &[out], |b| {
        let (last, others) = classes.split_last().ok_or_else(|| ir::Error::Bug("no classes".into()))?;
        let score = b.col(score)?;
        let mut class = b.literal(last.clone(), ty)?;
        for (i, value) in others.iter().enumerate().rev() {
            let bound = b.literal(Value::F64(i as f64 + 0.5), ScalarType::F64)?;
            let is_below = b.scalar(ScalarOp::Lt, &[score, bound])?;
            let value = b.literal(value.clone(), ty)?;
            class = b.scalar(ScalarOp::Select, &[is_below, value, class])?;
        }
        Ok(vec![class])
    })?;
    Ok((table, out))
}

/// The columns that ML.PREDICT adds, as SQL over the network's answer `score`.
fn predicted(model: &Model, threshold: Option<f64>, score: &str) -> Result<Vec<(String, String)>> {
    let name = format!("predicted_{}", model.label_name);
    Ok(match &model.label {
        Label::Classes(classes) if classes.len() == 2 => {
            let bound = number(threshold.unwrap_or(0.5));
            let class = match classes.as_slice() {
                [Value::Bool(false), Value::Bool(true)] => format!("({score} >= {bound})"),
                [first, second] => {
                    format!("CASE WHEN {score} >= {bound} THEN {} ELSE {} END", literal(second)?, literal(first)?)
                }
                _ => String::new(),
            };
            vec![(format!("{name}_prob"), score.to_string()), (name, class)]
        }
        Label::Classes(classes) => {
            let (last, others) = classes.split_last().unwrap_or((&Value::Null, &[]));
            let mut cases = vec![];
            for (i, class) in others.iter().enumerate() {
                cases.push(format!("WHEN {score} < {} THEN {}", number(i as f64 + 0.5), literal(class)?));
            }
            vec![(name, format!("CASE {} ELSE {} END", cases.join(" "), literal(last)?))]
        }
        Label::Number { .. } => vec![(name, score.to_string())],
    })
}

/// ML.PREDICT as a query around its input.
pub(crate) fn expansion(model: &Model, threshold: Option<f64>) -> Result<Expansion> {
    let score = quoted(SCORE);
    let added: Vec<String> = predicted(model, threshold, &score)?
        .into_iter()
        .rev()
        .map(|(name, sql)| format!("{sql} AS {}", quoted(&name)))
        .collect();
    let inputs: Vec<String> = model.inputs().map(|(name, _)| quoted(name)).collect();
    Ok(Expansion::Around {
        before: format!(
            "(SELECT * EXCLUDE ({score}), {} FROM (SELECT *, {}({}) AS {score} FROM ",
            added.join(", "),
            quoted(&name(model, Gives::Score)),
            inputs.join(", ")
        ),
        after: " AS model_input) AS model_scores)".to_string(),
    })
}

/// `predict('m', …)` as a call of the engine's function.
///
/// # Errors
/// Another number of arguments than the model takes, or other names, with the place.
pub(crate) fn value(model: &Model, call: &ModelCall) -> Result<Expansion> {
    let gives = match &model.label {
        Label::Classes(classes) if classes.len() > 2 => Gives::Class,
        Label::Classes(_) | Label::Number { .. } => Gives::Score,
    };
    let names: Vec<&str> = model.inputs().map(|(name, _)| name).collect();
    let given = call.arguments();
    let wrong = |message: String, span| Error::Model {
        message,
        help: Some(format!("predict('{}', …) takes {}", model.name, model.inputs_listed())),
        span: Some(span),
    };
    let by_name = given.first().is_some_and(|a| a.name.is_some());
    if by_name {
        for argument in given {
            let Some(name) = &argument.name else { continue };
            if !names.contains(&name.value.as_str()) {
                let near = sql::nearest(&name.value, &names).map(|near| format!("; did you mean '{near}'?"));
                let message = format!("the model {} has no input '{}'", model.name, name.value);
                return Err(wrong(message + &near.unwrap_or_default(), name.span));
            }
        }
    }
    let mut arguments = vec![];
    for (i, name) in names.iter().enumerate() {
        let at = if by_name {
            given.iter().position(|a| a.name.as_ref().is_some_and(|n| n.value == *name))
        } else {
            (i < given.len()).then_some(i)
        };
        let Some(at) = at else {
            let message = match by_name {
                true => format!("the argument '{name}' is missing"),
                false => format!("the model {} takes {} arguments, not {}", model.name, names.len(), given.len()),
            };
            return Err(wrong(message, call.span));
        };
        arguments.push(Given::Argument(at));
    }
    if given.len() > names.len() {
        let message = format!("the model {} takes {} arguments, not {}", model.name, names.len(), given.len());
        return Err(wrong(message, given[names.len()].span.to(given[given.len() - 1].span)));
    }
    Ok(Expansion::Call { function: name(model, gives), arguments })
}
