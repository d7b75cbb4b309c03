//! Attention by its definition: all scores of a query, their softmax, the weighted sum.

use std::sync::Arc;

use super::tensor::{each_index, float, from_values, strides};
use super::{bug, elements};
use crate::error::Result;
use crate::graph::attend::AttendSpec;
use crate::types::ScalarType;
use crate::value::{TensorValue, Value};

pub(super) fn attend(spec: &AttendSpec, operands: &[Arc<TensorValue>]) -> Result<TensorValue> {
    let Some(roles) = spec.roles() else { return bug("labels that are no attention") };
    let labels: Vec<&[u8]> = spec.operands().collect();
    let size = |label: u8| {
        let find = |(labels, t): (&&[u8], &Arc<TensorValue>)| {
            labels.iter().position(|l| *l == label).and_then(|d| t.shape.get(d).copied())
        };
        labels.iter().zip(operands).find_map(find).unwrap_or(1)
    };
    let steps: Vec<Vec<usize>> = operands.iter().map(|t| strides(&t.shape)).collect();
    // Where an operand's element is for these indices of labels.
    let offset = |operand: usize, at: &dyn Fn(u8) -> usize| -> usize {
        labels[operand].iter().zip(&steps[operand]).map(|(l, step)| at(*l) * step).sum()
    };
    let dtype = operands[0].data.dtype();
    let rounded = |x: f64| if dtype == ScalarType::F32 { f64::from(x as f32) } else { x };
    let (keys, inner) = (size(roles.key), size(roles.inner));
    let score = |outer: &dyn Fn(u8) -> usize, key: usize| -> Result<f64> {
        let at = |l: u8| if l == roles.key { key } else { outer(l) };
        let mut product = 0.0;
        for i in 0..inner {
            let at = |l: u8| if l == roles.inner { i } else { at(l) };
            product += float(&operands[0], offset(0, &at))? * float(&operands[1], offset(1, &at))?;
        }
        let mut score = rounded(product * spec.scale);
        for (term, t) in operands.iter().enumerate().skip(3) {
            match t.data.get(offset(term, &at)) {
                Value::Bool(true) => {}
                Value::Bool(false) => score = spec.fill,
                _ => score = rounded(score + float(t, offset(term, &at))?),
            }
        }
        Ok(score)
    };
    let shape: Vec<usize> = spec.out.iter().map(|l| size(*l)).collect();
    let zero = if dtype == ScalarType::F32 { Value::F32(0.0) } else { Value::F64(0.0) };
    let mut out = vec![zero; elements(&shape)?];
    // One query of each batch and head at a time: the result's indices without the column's.
    let (places, columns) = (strides(&shape), size(roles.column));
    let column_at = spec.out.iter().position(|l| *l == roles.column).unwrap_or(0);
    let mut queries = shape.clone();
    queries[column_at] = 1;
    let mut indices = vec![];
    each_index(&queries, |i| indices.push(i.to_vec()));
    for index in indices {
        let outer = |l: u8| spec.out.iter().position(|o| *o == l).map_or(0, |d| index[d]);
        let scores = (0..keys).map(|key| score(&outer, key)).collect::<Result<Vec<f64>>>()?;
        let greatest = scores.iter().fold(f64::NEG_INFINITY, |m, x| if x.is_nan() || *x > m { *x } else { m });
        let weights: Vec<f64> = scores.iter().map(|x| (x - greatest).exp()).collect();
        let total: f64 = weights.iter().sum();
        for column in 0..columns {
            let mut sum = 0.0;
            for (key, weight) in weights.iter().enumerate() {
                let at = |l: u8| match l {
                    _ if l == roles.key => key,
                    _ if l == roles.column => column,
                    _ => outer(l),
                };
                sum += weight / total * float(&operands[2], offset(2, &at))?;
            }
            let place = index.iter().zip(&places).map(|(i, s)| i * s).sum::<usize>() + column * places[column_at];
            out[place] = if dtype == ScalarType::F32 { Value::F32(sum as f32) } else { Value::F64(sum) };
        }
    }
    match from_values(dtype, out) {
        Some(data) => Ok(TensorValue { shape, data }),
        None => bug("attention of another type"),
    }
}
