//! Tensor operations.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use runtime::kernels::random::Philox;

use super::{Item, Machine, bug, elements, trap};
use crate::error::{Result, TrapKind};
use crate::graph::tensor::{ContractSpec, Distribution, Move};
use crate::graph::{Node, TensorOp};
use crate::scalar::compare;
use crate::scalar::reduce::Reducer;
use crate::types::{ScalarType, Type};
use crate::value::{TensorData, TensorValue, Value};

/// Stands for a zero where an element's index is asked for.
const ZERO: usize = usize::MAX;

/// Evaluates an expression over the elements, whatever their type; the result has the same type.
macro_rules! same_type {
    ($data:expr, $v:ident => $e:expr) => {
        match $data {
            TensorData::Bool($v) => TensorData::Bool($e),
            TensorData::I32($v) => TensorData::I32($e),
            TensorData::I64($v) => TensorData::I64($e),
            TensorData::F32($v) => TensorData::F32($e),
            TensorData::F64($v) => TensorData::F64($e),
        }
    };
}

impl Machine<'_> {
    pub(super) fn tensor_op(&mut self, op: &TensorOp, node: &Node) -> Result<Vec<TensorValue>> {
        let operand = |m: &Self, i: usize| m.tensor(node.operands[i]);
        let one = match op {
            TensorOp::Const(t) => TensorValue::clone(t),
            TensorOp::Iota { ty, dim } => iota(ty.dtype, self.shape(&ty.shape)?, *dim)?,
            TensorOp::Random { ty, distribution, seed, stream } => {
                random(ty.dtype, self.shape(&ty.shape)?, *distribution, *seed, *stream)?
            }
            TensorOp::Map { shape } => return self.map(node, &self.shape(shape)?),
            TensorOp::Reduce { reducer, axes } => reduce(*reducer, &*operand(self, 0)?, axes)?,
            TensorOp::Prefix { reducer, axis } => prefix(*reducer, &*operand(self, 0)?, *axis)?,
            TensorOp::Contract(spec) => contract(spec, &*operand(self, 0)?, &*operand(self, 1)?)?,
            TensorOp::Attend(spec) => {
                let operands: Vec<Arc<TensorValue>> =
                    (0..node.operands.len()).map(|i| operand(self, i)).collect::<Result<_>>()?;
                super::attend::attend(spec, &operands)?
            }
            TensorOp::AttendGrad(spec) => {
                let operands: Vec<Arc<TensorValue>> =
                    (0..node.operands.len()).map(|i| operand(self, i)).collect::<Result<_>>()?;
                return super::attend::attend_grad(spec, &operands);
            }
            TensorOp::View(moves) => self.view(&*operand(self, 0)?, moves)?,
            TensorOp::Gather => {
                let (table, indices) = (operand(self, 0)?, operand(self, 1)?);
                let chosen = row_indices(&indices, table.shape[0])?;
                let mut shape = indices.shape.clone();
                shape.extend(&table.shape[1..]);
                elements(&shape)?;
                TensorValue { shape, data: rows(&table, &chosen, false)?.data }
            }
            TensorOp::ScatterAdd => scatter_add(&*operand(self, 0)?, &*operand(self, 1)?, &*operand(self, 2)?)?,
            TensorOp::Levels { pad } => {
                let operands: Vec<Arc<TensorValue>> =
                    (0..node.operands.len()).map(|i| operand(self, i)).collect::<Result<_>>()?;
                levels(&operands, *pad)?
            }
            TensorOp::Concat { axis } => {
                let parts: Vec<Arc<TensorValue>> =
                    (0..node.operands.len()).map(|i| operand(self, i)).collect::<Result<_>>()?;
                concat(&parts, *axis)
            }
        };
        Ok(vec![one])
    }

    fn map(&mut self, node: &Node, shape: &[usize]) -> Result<Vec<TensorValue>> {
        let operands: Vec<Arc<TensorValue>> = node.operands.iter().map(|v| self.tensor(*v)).collect::<Result<_>>()?;
        if operands.iter().any(|t| t.shape != shape) {
            return bug("operands of a map with other shapes than its own");
        }
        let region = self.p.region(node.regions[0]);
        let count = elements(shape)?;
        let mut columns: Vec<Vec<Value>> = vec![Vec::with_capacity(count); region.results.len()];
        for i in 0..count {
            let params = operands.iter().map(|t| Item::Scalar(t.data.get(i))).collect();
            self.run_region(node.regions[0], params)?;
            for (column, v) in columns.iter_mut().zip(&region.results) {
                column.push(self.scalar(*v)?.clone());
            }
        }
        let mut out = Vec::new();
        for (values, v) in columns.into_iter().zip(&node.results) {
            let Type::Tensor(ty) = self.p.ty(*v) else { return bug("a map that makes no tensor") };
            let Some(data) = from_values(ty.dtype, values) else { return bug("an element of another type") };
            out.push(TensorValue { shape: shape.to_vec(), data });
        }
        Ok(out)
    }

    fn view(&self, t: &TensorValue, moves: &[Move]) -> Result<TensorValue> {
        let mut shape = t.shape.clone();
        let mut from: Vec<usize> = (0..t.data.len()).collect();
        for m in moves {
            let (to, index) = self.view_move(m, &shape)?;
            from = index.into_iter().map(|i| if i == ZERO { ZERO } else { from[i] }).collect();
            shape = to;
        }
        Ok(TensorValue { shape, data: pick(&t.data, &from) })
    }

    /// The shape after a move, and for each element of it where it comes from.
    fn view_move(&self, m: &Move, shape: &[usize]) -> Result<(Vec<usize>, Vec<usize>)> {
        let old = strides(shape);
        let mut to = shape.to_vec();
        let mut steps: Vec<isize> = old.iter().map(|s| *s as isize).collect();
        let mut base = 0isize;
        match m {
            Move::Permute(perm) => {
                to = perm.iter().map(|i| shape[*i]).collect();
                steps = perm.iter().map(|i| old[*i] as isize).collect();
            }
            Move::Broadcast { shape: wanted, dims } => {
                to = self.shape(wanted)?;
                steps = vec![0; to.len()];
                for (i, d) in dims.iter().enumerate() {
                    if shape[i] != 1 {
                        if shape[i] != to[*d] {
                            return bug("a broadcast of another size");
                        }
                        steps[*d] = old[i] as isize;
                    }
                }
            }
            Move::Slice { dim, start, len, step } => {
                let (start, len) = (self.size(start)?, self.size(len)?);
                if len > 0 {
                    let last = (len - 1).checked_mul(*step).and_then(|n| n.checked_add(start));
                    if last.is_none_or(|last| last >= shape[*dim]) {
                        let n = shape[*dim];
                        let message = format!("a slice of {len} from {start} is outside of a dimension of {n}");
                        return trap(TrapKind::InvalidArgument(message));
                    }
                    base = (start * old[*dim]) as isize;
                }
                steps[*dim] *= *step as isize;
                to[*dim] = len;
            }
            Move::Reshape(wanted) => {
                to = self.shape(wanted)?;
                let count = elements(shape)?;
                if elements(&to)? != count {
                    let message = format!("a tensor of shape {shape:?} cannot take the shape {to:?}");
                    return trap(TrapKind::InvalidArgument(message));
                }
                return Ok((to, (0..count).collect()));
            }
            Move::Pad { dim, before, after } => {
                let n = shape[*dim];
                to[*dim] = before + n + after;
                elements(&to)?;
                let mut out = Vec::new();
                each_index(&to, |i| {
                    let inside = i[*dim] >= *before && i[*dim] < before + n;
                    let offset = i.iter().zip(&old).map(|(i, s)| i * s).sum::<usize>();
                    out.push(if inside { offset - before * old[*dim] } else { ZERO });
                });
                return Ok((to, out));
            }
            Move::Reverse(dim) => {
                base = shape[*dim].saturating_sub(1) as isize * steps[*dim];
                steps[*dim] = -steps[*dim];
            }
        }
        let mut out = Vec::with_capacity(elements(&to)?);
        each_index(&to, |i| {
            let offset: isize = i.iter().zip(&steps).map(|(i, s)| *i as isize * s).sum();
            out.push((base + offset) as usize);
        });
        Ok((to, out))
    }
}

/// Calls `f` with each index of a shape, in row-major order.
pub(super) fn each_index(shape: &[usize], mut f: impl FnMut(&[usize])) {
    if shape.contains(&0) {
        return;
    }
    let mut index = vec![0; shape.len()];
    loop {
        f(&index);
        let mut d = shape.len();
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            index[d] += 1;
            if index[d] < shape[d] {
                break;
            }
            index[d] = 0;
        }
    }
}

/// How far elements are apart along each dimension.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut out = vec![1; shape.len()];
    for d in (1..shape.len()).rev() {
        out[d - 1] = out[d] * shape[d];
    }
    out
}

/// The elements at these places; zero for [`ZERO`].
fn pick(data: &TensorData, from: &[usize]) -> TensorData {
    same_type!(data, v => from.iter().map(|i| if *i == ZERO { Default::default() } else { v[*i] }).collect())
}

/// Elements from scalars; `None` where one is of another type.
pub(super) fn from_values(dtype: ScalarType, values: Vec<Value>) -> Option<TensorData> {
    macro_rules! all {
        ($variant:ident) => {
            TensorData::$variant(
                values
                    .into_iter()
                    .map(|v| if let Value::$variant(x) = v { Some(x) } else { None })
                    .collect::<Option<_>>()?,
            )
        };
    }
    Some(match dtype {
        ScalarType::Bool => all!(Bool),
        ScalarType::I32 => all!(I32),
        ScalarType::I64 => all!(I64),
        ScalarType::F32 => all!(F32),
        ScalarType::F64 => all!(F64),
        ScalarType::Decimal { .. } | ScalarType::Date | ScalarType::Timestamp | ScalarType::Text => return None,
    })
}

/// Element `i` of a float tensor.
pub(super) fn float(t: &TensorValue, i: usize) -> Result<f64> {
    match &t.data {
        TensorData::F32(v) => Ok(v[i].into()),
        TensorData::F64(v) => Ok(v[i]),
        _ => bug("an element that is not a float"),
    }
}

/// The chosen slices of the first dimension; with `single`, the one slice without that dimension.
pub(super) fn rows(t: &TensorValue, chosen: &[usize], single: bool) -> Result<TensorValue> {
    let width: usize = t.shape[1..].iter().product();
    let mut shape = t.shape.clone();
    if single {
        shape.remove(0);
    } else {
        shape[0] = chosen.len();
    }
    elements(&shape)?;
    let data = same_type!(&t.data, v => {
        let mut out = Vec::with_capacity(chosen.len() * width);
        chosen.iter().for_each(|r| out.extend_from_slice(&v[r * width..(r + 1) * width]));
        out
    });
    Ok(TensorValue { shape, data })
}

/// The order of an epoch's rows.
pub(super) fn permutation(seed: u64, epoch: u64, rows: usize) -> Result<Vec<usize>> {
    let Ok(n) = u32::try_from(rows) else {
        return trap(TrapKind::InvalidArgument(format!("{rows} rows are too many to shuffle")));
    };
    Ok(Philox::new(seed, epoch).permutation(n).into_iter().map(|i| i as usize).collect())
}

/// A tensor's worth of zeros.
pub(super) fn zeros(dtype: ScalarType, n: usize) -> Result<TensorData> {
    match from_values(dtype, vec![identity(Reducer::Sum, dtype)?; n]) {
        Some(data) => Ok(data),
        None => bug("a sum of what is no number"),
    }
}

/// The sum of two tensors of one shape.
pub(super) fn plus(a: &TensorValue, b: &TensorValue) -> Result<TensorValue> {
    if a.shape != b.shape {
        return bug("a sum of tensors of two shapes");
    }
    let sums = (0..a.data.len()).map(|i| combine(Reducer::Sum, &a.data.get(i), &b.data.get(i)));
    match from_values(a.data.dtype(), sums.collect::<Result<_>>()?) {
        Some(data) => Ok(TensorValue { shape: a.shape.clone(), data }),
        None => bug("a sum of what is no number"),
    }
}

fn iota(dtype: ScalarType, shape: Vec<usize>, dim: usize) -> Result<TensorValue> {
    let mut counts = Vec::with_capacity(elements(&shape)?);
    each_index(&shape, |i| counts.push(i[dim]));
    let data = match dtype {
        ScalarType::I32 => TensorData::I32(counts.into_iter().map(|i| i as i32).collect()),
        ScalarType::I64 => TensorData::I64(counts.into_iter().map(|i| i as i64).collect()),
        ScalarType::F32 => TensorData::F32(counts.into_iter().map(|i| i as f32).collect()),
        ScalarType::F64 => TensorData::F64(counts.into_iter().map(|i| i as f64).collect()),
        _ => return bug("an iota of another type"),
    };
    Ok(TensorValue { shape, data })
}

fn random(
    dtype: ScalarType,
    shape: Vec<usize>,
    distribution: Distribution,
    seed: u64,
    stream: u64,
) -> Result<TensorValue> {
    let numbers = Philox::new(seed, stream);
    let count = elements(&shape)? as u64;
    let data = match (dtype, distribution) {
        (ScalarType::F32, Distribution::Normal) => TensorData::F32((0..count).map(|i| numbers.normal_f32(i)).collect()),
        (ScalarType::F64, Distribution::Normal) => TensorData::F64((0..count).map(|i| numbers.normal_f64(i)).collect()),
        (ScalarType::F32, Distribution::Uniform { low, high }) => {
            let (low, span) = (low as f32, (high - low) as f32);
            TensorData::F32((0..count).map(|i| low + span * numbers.uniform_f32(i)).collect())
        }
        (ScalarType::F64, Distribution::Uniform { low, high }) => {
            TensorData::F64((0..count).map(|i| low + (high - low) * numbers.uniform_f64(i)).collect())
        }
        _ => return bug("random numbers of another type"),
    };
    Ok(TensorValue { shape, data })
}

/// One step of a reducer over two elements.
fn combine(reducer: Reducer, a: &Value, b: &Value) -> Result<Value> {
    let overflow = || crate::error::Error::Trap(TrapKind::Overflow("integer".into()).into());
    Ok(match (reducer, a, b) {
        (Reducer::Sum, Value::I32(a), Value::I32(b)) => Value::I32(a.checked_add(*b).ok_or_else(overflow)?),
        (Reducer::Sum, Value::I64(a), Value::I64(b)) => Value::I64(a.checked_add(*b).ok_or_else(overflow)?),
        (Reducer::Sum, Value::F32(a), Value::F32(b)) => Value::F32(a + b),
        (Reducer::Sum, Value::F64(a), Value::F64(b)) => Value::F64(a + b),
        (Reducer::Product, Value::I32(a), Value::I32(b)) => Value::I32(a.checked_mul(*b).ok_or_else(overflow)?),
        (Reducer::Product, Value::I64(a), Value::I64(b)) => Value::I64(a.checked_mul(*b).ok_or_else(overflow)?),
        (Reducer::Product, Value::F32(a), Value::F32(b)) => Value::F32(a * b),
        (Reducer::Product, Value::F64(a), Value::F64(b)) => Value::F64(a * b),
        (Reducer::BoolAnd, Value::Bool(a), Value::Bool(b)) => Value::Bool(*a && *b),
        (Reducer::BoolOr, Value::Bool(a), Value::Bool(b)) => Value::Bool(*a || *b),
        (Reducer::Min, a, b) => {
            if compare(b, a) == Ordering::Less {
                b.clone()
            } else {
                a.clone()
            }
        }
        (Reducer::Max, a, b) => {
            if compare(b, a) == Ordering::Greater {
                b.clone()
            } else {
                a.clone()
            }
        }
        _ => return bug("a reduction of another type"),
    })
}

/// What a reduction of no elements gives.
fn identity(reducer: Reducer, dtype: ScalarType) -> Result<Value> {
    Ok(match (reducer, dtype) {
        (Reducer::Sum, ScalarType::I32) => Value::I32(0),
        (Reducer::Sum, ScalarType::I64) => Value::I64(0),
        (Reducer::Sum, ScalarType::F32) => Value::F32(0.0),
        (Reducer::Sum, ScalarType::F64) => Value::F64(0.0),
        (Reducer::Product, ScalarType::I32) => Value::I32(1),
        (Reducer::Product, ScalarType::I64) => Value::I64(1),
        (Reducer::Product, ScalarType::F32) => Value::F32(1.0),
        (Reducer::Product, ScalarType::F64) => Value::F64(1.0),
        (Reducer::BoolAnd, _) => Value::Bool(true),
        (Reducer::BoolOr, _) => Value::Bool(false),
        _ => return trap(TrapKind::InvalidArgument(format!("{} of no elements", reducer.name()))),
    })
}

fn reduce(reducer: Reducer, t: &TensorValue, axes: &[usize]) -> Result<TensorValue> {
    let kept: Vec<usize> = (0..t.shape.len()).filter(|d| !axes.contains(d)).collect();
    let all = strides(&t.shape);
    let pick = |from: &[usize], dims: &[usize]| dims.iter().map(|d| from[*d]).collect::<Vec<_>>();
    let (shape, inner) = (pick(&t.shape, &kept), pick(&t.shape, axes));
    let (outer_steps, inner_steps) = (pick(&all, &kept), pick(&all, axes));
    let offset = |i: &[usize], steps: &[usize]| i.iter().zip(steps).map(|(i, s)| i * s).sum::<usize>();
    let mut inside = Vec::with_capacity(elements(&inner)?);
    each_index(&inner, |i| inside.push(offset(i, &inner_steps)));
    let mut starts = Vec::with_capacity(elements(&shape)?);
    each_index(&shape, |i| starts.push(offset(i, &outer_steps)));

    if matches!(reducer, Reducer::ArgMax | Reducer::ArgMin) {
        let wanted = if reducer == Reducer::ArgMax { Ordering::Greater } else { Ordering::Less };
        if inside.is_empty() && !starts.is_empty() {
            return trap(TrapKind::InvalidArgument(format!("{} of no elements", reducer.name())));
        }
        let best = starts.iter().map(|start| {
            let at = |i: usize| t.data.get(start + inside[i]);
            (1..inside.len()).fold(0, |best, i| if compare(&at(i), &at(best)) == wanted { i } else { best }) as i64
        });
        return Ok(TensorValue { shape, data: TensorData::I64(best.collect()) });
    }
    // Sums of floats are the bulk of the work.
    let data = match (&t.data, reducer) {
        (TensorData::F32(v), Reducer::Sum) => {
            TensorData::F32(starts.iter().map(|s| inside.iter().fold(0.0, |sum, i| sum + v[s + i])).collect())
        }
        (TensorData::F64(v), Reducer::Sum) => {
            TensorData::F64(starts.iter().map(|s| inside.iter().fold(0.0, |sum, i| sum + v[s + i])).collect())
        }
        (data, _) => {
            let mut out = Vec::with_capacity(starts.len());
            for start in &starts {
                let mut acc: Option<Value> = None;
                for i in &inside {
                    let v = data.get(start + i);
                    acc = Some(match acc {
                        Some(acc) => combine(reducer, &acc, &v)?,
                        None => v,
                    });
                }
                out.push(match acc {
                    Some(v) => v,
                    None => identity(reducer, data.dtype())?,
                });
            }
            match from_values(data.dtype(), out) {
                Some(data) => data,
                None => return bug("a reduction of another type"),
            }
        }
    };
    Ok(TensorValue { shape, data })
}

fn prefix(reducer: Reducer, t: &TensorValue, axis: usize) -> Result<TensorValue> {
    let step = strides(&t.shape)[axis];
    let mut values: Vec<Value> = (0..t.data.len()).map(|i| t.data.get(i)).collect();
    let mut at = 0;
    let mut failed = None;
    each_index(&t.shape, |i| {
        if i[axis] > 0 && failed.is_none() {
            match combine(reducer, &values[at - step], &values[at]) {
                Ok(v) => values[at] = v,
                Err(e) => failed = Some(e),
            }
        }
        at += 1;
    });
    if let Some(e) = failed {
        return Err(e);
    }
    match from_values(t.data.dtype(), values) {
        Some(data) => Ok(TensorValue { shape: t.shape.clone(), data }),
        None => bug("a running reduction of another type"),
    }
}

fn contract(spec: &ContractSpec, a: &TensorValue, b: &TensorValue) -> Result<TensorValue> {
    let size = |label: u8| {
        let find = |labels: &[u8], shape: &[usize]| labels.iter().position(|l| *l == label).map(|d| shape[d]);
        find(&spec.a, &a.shape).or_else(|| find(&spec.b, &b.shape)).unwrap_or(1)
    };
    for (labels, t) in [(&spec.a, a), (&spec.b, b)] {
        if labels.iter().zip(&t.shape).any(|(l, n)| size(*l) != *n) {
            return bug("a contraction of different sizes");
        }
    }
    let mut summed: Vec<u8> = Vec::new();
    for l in spec.a.iter().chain(&spec.b) {
        if !spec.out.contains(l) && !summed.contains(l) {
            summed.push(*l);
        }
    }
    // A label that stands twice in one operand steps along its diagonal.
    let steps = |labels: &[u8], shape: &[usize], wanted: &[u8]| -> Vec<usize> {
        let all = strides(shape);
        wanted.iter().map(|w| labels.iter().zip(&all).filter(|(l, _)| *l == w).map(|(_, s)| *s).sum()).collect()
    };
    let offset = |i: &[usize], steps: &[usize]| i.iter().zip(steps).map(|(i, s)| i * s).sum::<usize>();
    let offsets = |labels: &[u8]| -> Result<Vec<(usize, usize)>> {
        let shape: Vec<usize> = labels.iter().map(|l| size(*l)).collect();
        let (sa, sb) = (steps(&spec.a, &a.shape, labels), steps(&spec.b, &b.shape, labels));
        let mut out = Vec::with_capacity(elements(&shape)?);
        each_index(&shape, |i| out.push((offset(i, &sa), offset(i, &sb))));
        Ok(out)
    };
    let shape: Vec<usize> = spec.out.iter().map(|l| size(*l)).collect();
    let (outer, inner) = (offsets(&spec.out)?, offsets(&summed)?);
    let data = match (&a.data, &b.data) {
        (TensorData::F32(x), TensorData::F32(y)) => TensorData::F32(
            outer.iter().map(|(p, q)| inner.iter().fold(0.0, |sum, (i, j)| sum + x[p + i] * y[q + j])).collect(),
        ),
        (TensorData::F64(x), TensorData::F64(y)) => TensorData::F64(
            outer.iter().map(|(p, q)| inner.iter().fold(0.0, |sum, (i, j)| sum + x[p + i] * y[q + j])).collect(),
        ),
        _ => return bug("a contraction of another type"),
    };
    Ok(TensorValue { shape, data })
}

/// Nodes by height. From the root down, breadth first: who is met at more steps than calls nest goes round, or is too deep. A
/// node is higher than its children by the most steps there are to a leaf, which are found from the deepest nodes up.
fn levels(operands: &[Arc<TensorValue>], pad: usize) -> Result<TensorValue> {
    let TensorData::Bool(inner) = &operands[0].data else { return bug("inner nodes that are no bools") };
    let n = inner.len();
    let mut now = row_indices(&operands[1], n)?;
    // The last step at which each node was met: its children are met later.
    let mut last = vec![None; n];
    for step in 0.. {
        if now.is_empty() {
            break;
        }
        if step >= super::MAX_DEPTH {
            return trap(TrapKind::RecursionDepth(super::MAX_DEPTH));
        }
        let mut next = BTreeSet::new();
        for node in now {
            last[node] = Some(step);
            for child in operands[2..].iter().filter(|_| inner[node]) {
                next.extend(row_indices(&rows(child, &[node], true)?, n)?);
            }
        }
        now = next.into_iter().collect();
    }
    let mut met: Vec<usize> = (0..n).filter(|v| last[*v].is_some()).collect();
    met.sort_by_key(|v| std::cmp::Reverse(last[*v]));
    let mut height = vec![0i64; n];
    for node in &met {
        for child in operands[2..].iter().filter(|_| inner[*node]) {
            let child = row_indices(&rows(child, &[*node], true)?, n)?[0];
            height[*node] = height[*node].max(height[child] + 1);
        }
    }
    met.sort_by_key(|v| (height[*v], *v));
    let mut data = vec![-1; 2 * (n + pad)];
    for (i, node) in met.into_iter().enumerate() {
        data[i] = node as i64;
        data[n + pad + i] = height[node];
    }
    Ok(TensorValue { shape: vec![2, n + pad], data: TensorData::I64(data) })
}

fn row_indices(indices: &TensorValue, rows: usize) -> Result<Vec<usize>> {
    let mut out = Vec::with_capacity(indices.data.len());
    for i in 0..indices.data.len() {
        let at = match indices.data.get(i) {
            Value::I32(v) => i64::from(v),
            Value::I64(v) => v,
            _ => return bug("an index that is not an integer"),
        };
        match usize::try_from(at) {
            Ok(at) if at < rows => out.push(at),
            _ => {
                let message = format!("index {at} is outside of a tensor of {rows} rows");
                return trap(TrapKind::InvalidArgument(message));
            }
        }
    }
    Ok(out)
}

pub(super) fn scatter_add(base: &TensorValue, indices: &TensorValue, updates: &TensorValue) -> Result<TensorValue> {
    let chosen = row_indices(indices, base.shape[0])?;
    let width: usize = base.shape[1..].iter().product();
    let mut values: Vec<Value> = (0..base.data.len()).map(|i| base.data.get(i)).collect();
    for (k, row) in chosen.iter().enumerate() {
        for j in 0..width {
            let at = row * width + j;
            values[at] = combine(Reducer::Sum, &values[at], &updates.data.get(k * width + j))?;
        }
    }
    match from_values(base.data.dtype(), values) {
        Some(data) => Ok(TensorValue { shape: base.shape.clone(), data }),
        None => bug("a scatter of another type"),
    }
}

/// All elements, one tensor after the other.
pub(super) fn concat_data<'a>(dtype: ScalarType, parts: impl Iterator<Item = &'a TensorData>) -> TensorData {
    let mut out = match dtype {
        ScalarType::Bool => TensorData::Bool(vec![]),
        ScalarType::I32 => TensorData::I32(vec![]),
        ScalarType::F32 => TensorData::F32(vec![]),
        ScalarType::F64 => TensorData::F64(vec![]),
        _ => TensorData::I64(vec![]),
    };
    for part in parts {
        match (&mut out, part) {
            (TensorData::Bool(a), TensorData::Bool(b)) => a.extend_from_slice(b),
            (TensorData::I32(a), TensorData::I32(b)) => a.extend_from_slice(b),
            (TensorData::I64(a), TensorData::I64(b)) => a.extend_from_slice(b),
            (TensorData::F32(a), TensorData::F32(b)) => a.extend_from_slice(b),
            (TensorData::F64(a), TensorData::F64(b)) => a.extend_from_slice(b),
            _ => {}
        }
    }
    out
}

fn concat(parts: &[Arc<TensorValue>], axis: usize) -> TensorValue {
    let mut shape = parts[0].shape.clone();
    shape[axis] = parts.iter().map(|t| t.shape[axis]).sum();
    let outer: usize = shape[..axis].iter().product();
    // Block `o` of each part in turn, for each index before the axis.
    let mut blocks = Vec::new();
    for o in 0..outer {
        for t in parts {
            let width: usize = t.shape[axis..].iter().product();
            blocks.push(pick(&t.data, &(o * width..(o + 1) * width).collect::<Vec<_>>()));
        }
    }
    let data = concat_data(parts[0].data.dtype(), blocks.iter());
    TensorValue { shape, data }
}
