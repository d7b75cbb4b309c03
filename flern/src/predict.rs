//! Models inside of queries.

use std::fmt;
use std::sync::Arc;

use flare::catalog::{Argument, RowFunction};
use ir::entity::{ColumnId, ValueId};
use ir::graph::bridge::TensorColumns;
use ir::graph::{BridgeOp, Builder, Op};
use ir::types::{RowType, ScalarType};
use ir::value::Value;
use lantern::Scope;

use crate::error::Result;
use crate::model::{Label, Model, Network};
use crate::sql::Expansion;
use crate::transform::{literal, number, quoted};

/// The engine's function that computes a network's answer from feature columns.
pub(crate) struct Score {
    pub(crate) name: String,
    pub(crate) model: Arc<Model>,
    /// The names of the feature columns, for errors.
    pub(crate) columns: Vec<String>,
}

impl Score {
    pub(crate) fn new(model: &Arc<Model>) -> Result<Score> {
        let mut columns = vec![];
        for feature in &model.features {
            columns.extend(feature.columns()?.iter().map(|_| feature.name.clone()));
        }
        Ok(Score { name: model.function.clone(), model: model.clone(), columns })
    }
}

impl fmt::Debug for Score {
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

impl RowFunction for Score {
    fn name(&self) -> &str {
        &self.name
    }

    fn result(&self, args: &[Argument]) -> Result<RowType, String> {
        if args.len() == self.columns.len() {
            Ok(ScalarType::F64.nullable(false))
        } else {
            Err(format!("the model {} takes {} features, not {}", self.model.name, self.columns.len(), args.len()))
        }
    }

    fn apply(
        &self,
        b: &mut Builder,
        table: ValueId,
        args: &[Argument],
        columns: &[Option<ColumnId>],
    ) -> ir::Result<(ValueId, ColumnId)> {
        let mut table = table;
        let mut features = vec![];
        for ((name, arg), column) in self.columns.iter().zip(args).zip(columns) {
            let id = match column {
                Some(id) => *id,
                None => {
                    let id = b.program_mut().new_column(name, arg.ty.unwrap_or(ScalarType::F64));
                    let value = arg.constant.clone().unwrap_or(Value::Null);
                    let ty = arg.ty.unwrap_or(ScalarType::F64);
                    table = b.extend(table, &[id], |b| Ok(vec![b.literal(value, ty)?]))?;
                    id
                }
            };
            b.program_mut().columns[id.index()].name.clone_from(name);
            features.push(id);
        }
        let rows = b.program_mut().new_symbol("rows");
        let out = b.program_mut().new_column("score", ScalarType::F64);
        let inputs = vec![TensorColumns { columns: features, dtype: ScalarType::F32, flat: false }];
        let model = &self.model;
        let weights = Scope::within(b, |scope| {
            Network::constants(scope, &model.params).iter().filter_map(|t| t.value()).collect::<Vec<_>>()
        });
        let weights = weights.map_err(of_lantern)?;
        let op = Op::Bridge(BridgeOp::Apply { rows, inputs, columns: vec![out] });
        let table = b.with_region(op, &[table], |b, x| {
            let score = Scope::within(b, |scope| {
                let params: Vec<_> = weights.iter().map(|w| scope.tensor(*w)).collect();
                model.network.score(&model.label, &scope.tensor(x[0]), &params).value()
            });
            let score = score.map_err(of_lantern)?;
            Ok(vec![score.ok_or_else(|| ir::Error::Bug("an operation failed without an error".into()))?])
        })?;
        Ok((table[0], out))
    }
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
    let mut features = vec![];
    for feature in &model.features {
        features.extend(feature.columns()?);
    }
    let added: Vec<String> = predicted(model, threshold, "model_score")?
        .into_iter()
        .rev()
        .map(|(name, sql)| format!("{sql} AS {}", quoted(&name)))
        .collect();
    let function = quoted(&model.function);
    Ok(Expansion::Around {
        before: format!(
            "(SELECT * EXCLUDE (model_score), {} FROM (SELECT *, {function}({}) AS model_score FROM ",
            added.join(", "),
            features.join(", ")
        ),
        after: " AS model_input) AS model_scores)".to_string(),
    })
}
