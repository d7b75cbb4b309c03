//! Attention and its derivative by their definitions: all scores of a query, their softmax, the weighted sum.

use std::sync::Arc;

use super::tensor::{each_index, float, from_values, strides};
use super::{bug, elements};
use crate::error::Result;
use crate::graph::attend::{AttendRoles, AttendSpec};
use crate::types::ScalarType;
use crate::value::{TensorValue, Value};

pub(super) fn attend(spec: &AttendSpec, operands: &[Arc<TensorValue>]) -> Result<TensorValue> {
    let Some(roles) = spec.roles() else { return bug("labels that are no attention") };
    let heads = Heads::new(spec, roles, operands);
    let shape: Vec<usize> = spec.out.iter().map(|l| heads.size(*l)).collect();
    let mut out = vec![0.0; elements(&shape)?];
    let (places, columns) = (strides(&shape), heads.size(roles.column));
    for index in heads.queries(&shape) {
        let outer = |l: u8| spec.out.iter().position(|o| *o == l).map_or(0, |d| index[d]);
        let weights = heads.weights(&outer)?;
        for column in 0..columns {
            let mut sum = 0.0;
            for (key, (weight, _)) in weights.iter().enumerate() {
                let at = heads.at(&outer, [(roles.key, key), (roles.column, column)]);
                sum += weight * float(&operands[2], heads.offset(2, &at))?;
            }
            let at = heads.at(&outer, [(roles.column, column); 2]);
            out[spec.out.iter().zip(&places).map(|(l, step)| at(*l) * step).sum::<usize>()] = sum;
        }
    }
    heads.tensor(shape, out)
}

/// The adjoints of queries, keys and values; the last operand is the result's.
pub(super) fn attend_grad(spec: &AttendSpec, operands: &[Arc<TensorValue>]) -> Result<Vec<TensorValue>> {
    let (Some(roles), Some((adjoint, operands))) = (spec.roles(), operands.split_last()) else {
        return bug("labels that are no attention");
    };
    let heads = Heads::new(spec, roles, operands);
    let places = strides(&adjoint.shape);
    let mut out: Vec<Vec<f64>> = operands[..3].iter().map(|t| vec![0.0; t.data.len()]).collect();
    for index in heads.queries(&adjoint.shape) {
        let outer = |l: u8| spec.out.iter().position(|o| *o == l).map_or(0, |d| index[d]);
        let weights = heads.weights(&outer)?;
        // The adjoint of each weight.
        let mut of_weights = vec![0.0; weights.len()];
        for (key, (weight, _)) in weights.iter().enumerate() {
            for column in 0..heads.size(roles.column) {
                let at = heads.at(&outer, [(roles.key, key), (roles.column, column)]);
                let place = spec.out.iter().zip(&places).map(|(l, step)| at(*l) * step).sum();
                let (d, value) = (float(adjoint, place)?, heads.offset(2, &at));
                of_weights[key] += d * float(&operands[2], value)?;
                out[2][value] += weight * d;
            }
        }
        let mean: f64 = weights.iter().zip(&of_weights).map(|((w, _), d)| w * d).sum();
        for (key, (weight, replaced)) in weights.iter().enumerate() {
            let slope = if *replaced { 0.0 } else { weight * (of_weights[key] - mean) * spec.scale };
            for inner in 0..heads.size(roles.inner) {
                let at = heads.at(&outer, [(roles.key, key), (roles.inner, inner)]);
                let (q, k) = (heads.offset(0, &at), heads.offset(1, &at));
                out[0][q] += slope * float(&operands[1], k)?;
                out[1][k] += slope * float(&operands[0], q)?;
            }
        }
    }
    out.into_iter().zip(operands).map(|(numbers, t)| heads.tensor(t.shape.clone(), numbers)).collect()
}

/// Queries, keys, values and terms.
struct Heads<'a> {
    spec: &'a AttendSpec,
    roles: AttendRoles,
    operands: &'a [Arc<TensorValue>],
    labels: Vec<&'a [u8]>,
    steps: Vec<Vec<usize>>,
}

impl<'a> Heads<'a> {
    fn new(spec: &'a AttendSpec, roles: AttendRoles, operands: &'a [Arc<TensorValue>]) -> Self {
        let steps = operands.iter().map(|t| strides(&t.shape)).collect();
        Self { spec, roles, operands, labels: spec.operands().collect(), steps }
    }

    fn size(&self, label: u8) -> usize {
        let find = |(labels, t): (&&[u8], &Arc<TensorValue>)| {
            labels.iter().position(|l| *l == label).and_then(|d| t.shape.get(d).copied())
        };
        self.labels.iter().zip(self.operands).find_map(find).unwrap_or(1)
    }

    /// One query of each batch and head: indices of a result of this shape, that of the column 0.
    fn queries(&self, shape: &[usize]) -> Vec<Vec<usize>> {
        let mut shape = shape.to_vec();
        shape.iter_mut().zip(&self.spec.out).filter(|(_, l)| **l == self.roles.column).for_each(|(n, _)| *n = 1);
        let mut out = vec![];
        each_index(&shape, |i| out.push(i.to_vec()));
        out
    }

    /// The indices of labels, with those of some set.
    fn at<'b>(&self, outer: &'b dyn Fn(u8) -> usize, set: [(u8, usize); 2]) -> impl Fn(u8) -> usize + use<'b> {
        move |l: u8| set.iter().find(|s| s.0 == l).map_or_else(|| outer(l), |s| s.1)
    }

    /// Where an operand's element is for these indices of labels.
    fn offset(&self, operand: usize, at: &dyn Fn(u8) -> usize) -> usize {
        self.labels[operand].iter().zip(&self.steps[operand]).map(|(l, step)| at(*l) * step).sum()
    }

    /// The weights of a query's keys, and whether a term replaced their scores.
    fn weights(&self, outer: &dyn Fn(u8) -> usize) -> Result<Vec<(f64, bool)>> {
        let keys = self.size(self.roles.key);
        let scores = (0..keys).map(|key| self.score(outer, key)).collect::<Result<Vec<_>>>()?;
        let greatest = scores.iter().fold(f64::NEG_INFINITY, |m, (x, _)| if x.is_nan() || *x > m { *x } else { m });
        let weights: Vec<f64> = scores.iter().map(|(x, _)| (x - greatest).exp()).collect();
        let total: f64 = weights.iter().sum();
        Ok(weights.iter().zip(scores).map(|(weight, (_, replaced))| (weight / total, replaced)).collect())
    }

    fn score(&self, outer: &dyn Fn(u8) -> usize, key: usize) -> Result<(f64, bool)> {
        let rounded = |x: f64| if self.dtype() == ScalarType::F32 { f64::from(x as f32) } else { x };
        let (mut product, mut replaced) = (0.0, false);
        for inner in 0..self.size(self.roles.inner) {
            let at = self.at(outer, [(self.roles.key, key), (self.roles.inner, inner)]);
            product += float(&self.operands[0], self.offset(0, &at))? * float(&self.operands[1], self.offset(1, &at))?;
        }
        let mut score = rounded(product * self.spec.scale);
        let at = self.at(outer, [(self.roles.key, key); 2]);
        for (term, t) in self.operands.iter().enumerate().skip(3) {
            match t.data.get(self.offset(term, &at)) {
                Value::Bool(true) => {}
                Value::Bool(false) => (score, replaced) = (self.spec.fill, true),
                _ => score = rounded(score + float(t, self.offset(term, &at))?),
            }
        }
        Ok((score, replaced))
    }

    fn dtype(&self) -> ScalarType {
        self.operands[0].data.dtype()
    }

    fn tensor(&self, shape: Vec<usize>, numbers: Vec<f64>) -> Result<TensorValue> {
        let value = |x: f64| if self.dtype() == ScalarType::F32 { Value::F32(x as f32) } else { Value::F64(x) };
        match from_values(self.dtype(), numbers.into_iter().map(value).collect()) {
            Some(data) => Ok(TensorValue { shape, data }),
            None => bug("attention of another type"),
        }
    }
}
