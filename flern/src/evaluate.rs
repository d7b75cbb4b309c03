//! ML.EVALUATE: a model's answers against what was so.

use flare::ingest::Table;
use flare::{Engine, Query};
use ir::types::ScalarType;
use ir::value::{TensorData, TensorValue};
use lantern::Tensor;

use crate::error::{Error, Result};
use crate::model::{Label, Model, Network};
use crate::run::Run;
use crate::sql::{Rendered, Span};
use crate::train::{Continued, column_names, feature_list, handles};
use crate::transform::number;

/// Probabilities are kept this far from 0 and 1 in the log loss.
const LEAST_PROBABILITY: f64 = 1e-15;

/// The metrics as a query of one row, over these rows or the held-out ones.
pub(crate) fn evaluate(
    model: &Model,
    input: Option<&Rendered>,
    threshold: Option<f64>,
    at: Span,
    run: &Run<'_>,
) -> Result<String> {
    let list = feature_list(model, "TRUE")?;
    let metrics = match input {
        Some(input) => {
            let query = run.query(&format!("SELECT {list} FROM ({}\n) AS input", input.text));
            let query = query.map_err(|error| Error::Engine { error, span: Some(at) })?;
            metrics(model, &query, threshold, run)
        }
        None => {
            let Some(held_out) = &model.held_out else {
                let message = format!("the model {} has no held-out rows", model.name);
                let help = Some("name the rows: ML.EVALUATE(MODEL m, TABLE t)".to_string());
                return Err(Error::Model { message, help, span: Some(at) });
            };
            let engine = Engine::with_settings(run.engine.settings());
            let held = Table::from_columns("held_out", held_out.columns().to_vec(), held_out.rows());
            let registered = held.and_then(|held| engine.register_table("held_out", held));
            registered.map_err(|error| Error::Engine { error, span: None })?;
            let query = engine.sql_under(&format!("SELECT {list} FROM held_out"), &run.control);
            let query = query.map_err(|error| Error::Engine { error, span: Some(at) })?;
            metrics(model, &query, threshold, run)
        }
    };
    let columns: Vec<String> = metrics
        .map_err(|e| e.at(at))?
        .into_iter()
        .map(|(name, value)| {
            let value = if value.is_nan() { "CAST(NULL AS DOUBLE)".to_string() } else { number(value) };
            format!("{value} AS {name}")
        })
        .collect();
    Ok(format!("(SELECT {})", columns.join(", ")))
}

type Metrics = Vec<(&'static str, f64)>;

fn metrics(model: &Model, query: &Query, threshold: Option<f64>, run: &Run<'_>) -> Result<Metrics> {
    let engine = |error| Error::Engine { error, span: None };
    let program = query.program().map_err(engine)?.clone();
    let mut program = Continued::new(program, column_names(model)?)?;
    let columns = program.columns.clone();
    let Some((label, features)) = columns.split_last() else {
        return Err(Error::model("the rows have no columns", None));
    };
    let tensors = program.tensors(program.table, model.network.tensors(features), (*label, ScalarType::F64, true))?;
    let program = program.finish(|scope| {
        let params: Vec<Tensor> = Network::constants(scope, &model.params);
        let mut x = handles(scope, &tensors);
        let y = x.pop().into_iter().map(|y| ("label".to_string(), y));
        let answer = ("answer".to_string(), model.network.answer(&model.label, &x, &params));
        std::iter::once(answer).chain(y).collect()
    })?;
    let outputs = run.program(program, &query.inputs().map_err(engine)?)?.outputs;
    let doubles = |i: usize| match outputs.tensor(i).map(|t| &**t) {
        Some(TensorValue { data: TensorData::F64(v), .. }) => Ok(v.clone()),
        _ => Err(Error::model("the evaluation gave no numbers", None)),
    };
    let (answer, label) = (doubles(0)?, doubles(1)?);
    if label.is_empty() {
        return Err(Error::model("there are no rows to evaluate", None));
    }
    Ok(match &model.label {
        Label::Number { .. } => regression(&answer, &label),
        Label::Classes(classes) if classes.len() == 2 => binary(&answer, &label, threshold.unwrap_or(0.5)),
        Label::Classes(classes) => several(&answer, &label, classes.len()),
    })
}

fn regression(answer: &[f64], label: &[f64]) -> Metrics {
    let n = label.len() as f64;
    let mean = label.iter().sum::<f64>() / n;
    let errors = || answer.iter().zip(label).map(|(a, y)| a - y);
    let absolute = errors().map(f64::abs).sum::<f64>();
    let squared = errors().map(|e| e * e).sum::<f64>();
    let around = label.iter().map(|y| (y - mean) * (y - mean)).sum::<f64>();
    vec![
        ("mean_absolute_error", absolute / n),
        ("mean_squared_error", squared / n),
        ("r2_score", if around == 0.0 { f64::NAN } else { 1.0 - squared / around }),
    ]
}

fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

fn f1(precision: f64, recall: f64) -> f64 {
    ratio(2.0 * precision * recall, precision + recall)
}

fn binary(answer: &[f64], label: &[f64], threshold: f64) -> Metrics {
    let rows = || answer.iter().zip(label).map(|(p, y)| (*p, *y == 1.0));
    let count =
        |predicted: bool, so: bool| rows().filter(|(p, y)| (*p >= threshold) == predicted && *y == so).count() as f64;
    let (hits, alarms, misses) = (count(true, true), count(true, false), count(false, true));
    // A class that training did not see has -1: no answer is right.
    let right = answer.iter().zip(label).filter(|(p, y)| **y == f64::from(u8::from(**p >= threshold))).count();
    let loss: f64 =
        rows().map(|(p, y)| if y { p } else { 1.0 - p }).map(|p| -p.clamp(LEAST_PROBABILITY, 1.0).ln()).sum();
    let (precision, recall) = (ratio(hits, hits + alarms), ratio(hits, hits + misses));
    let n = label.len() as f64;
    vec![
        ("precision", precision),
        ("recall", recall),
        ("accuracy", right as f64 / n),
        ("f1_score", f1(precision, recall)),
        ("log_loss", loss / n),
        ("roc_auc", roc_auc(rows().collect())),
    ]
}

/// Over all classes: precision, recall, F1 and AUC are the plain means of the classes'.
fn several(answer: &[f64], label: &[f64], classes: usize) -> Metrics {
    let rows: Vec<(&[f64], f64)> = answer.chunks_exact(classes).zip(label.iter().copied()).collect();
    let best =
        |p: &[f64]| p.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0))).map_or(0, |m| m.0);
    let right = rows.iter().filter(|(p, y)| best(p) as f64 == *y).count();
    let loss: f64 = rows
        .iter()
        .map(|(p, y)| if *y >= 0.0 { p.get(*y as usize).copied().unwrap_or(0.0) } else { 0.0 })
        .map(|p| -p.clamp(LEAST_PROBABILITY, 1.0).ln())
        .sum();
    let (mut precision, mut recall, mut score, mut auc) = (0.0, 0.0, 0.0, 0.0);
    for class in 0..classes {
        let count = |predicted: bool, so: bool| {
            rows.iter().filter(|(p, y)| (best(p) == class) == predicted && (*y == class as f64) == so).count() as f64
        };
        let (hits, alarms, misses) = (count(true, true), count(true, false), count(false, true));
        let (p, r) = (ratio(hits, hits + alarms), ratio(hits, hits + misses));
        precision += p;
        recall += r;
        score += f1(p, r);
        auc += roc_auc(rows.iter().map(|(p, y)| (p[class], *y == class as f64)).collect());
    }
    let (n, k) = (label.len() as f64, classes as f64);
    vec![
        ("precision", precision / k),
        ("recall", recall / k),
        ("accuracy", right as f64 / n),
        ("f1_score", score / k),
        ("log_loss", loss / n),
        ("roc_auc", auc / k),
    ]
}

/// The share of pairs of a true and a false row in which the true one has the higher score; ties count half. NaN without pairs.
fn roc_auc(mut rows: Vec<(f64, bool)>) -> f64 {
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut pairs, mut trues) = (0.0, 0.0, 0.0);
    for ties in rows.chunk_by(|a, b| a.0 == b.0) {
        let so = ties.iter().filter(|r| r.1).count() as f64;
        let not = ties.len() as f64 - so;
        pairs += so * (below + not / 2.0);
        below += not;
        trues += so;
    }
    if below * trues == 0.0 { f64::NAN } else { pairs / (below * trues) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auc_counts_pairs() {
        assert_eq!(roc_auc(vec![(0.1, false), (0.4, false), (0.35, true), (0.8, true)]), 0.75);
        assert_eq!(roc_auc(vec![(0.5, false), (0.5, true)]), 0.5);
        assert!(roc_auc(vec![(0.5, true)]).is_nan());
    }

    #[test]
    fn metrics_of_two_classes() {
        let found = binary(&[0.9, 0.8, 0.3, 0.2], &[1.0, 0.0, 1.0, 0.0], 0.5);
        let of = |name: &str| found.iter().find(|m| m.0 == name).unwrap().1;
        assert_eq!([of("precision"), of("recall"), of("accuracy"), of("f1_score")], [0.5; 4]);
        assert!((of("log_loss") - (-(0.9f64 * 0.2 * 0.3 * 0.8).ln() / 4.0)).abs() < 1e-12);
        assert_eq!(of("roc_auc"), 0.75);
    }

    #[test]
    fn metrics_of_numbers() {
        let found = regression(&[1.0, 2.0, 4.0], &[1.0, 3.0, 5.0]);
        assert_eq!(found[0].1, 2.0 / 3.0);
        assert_eq!(found[2].1, 0.75);
    }
}
