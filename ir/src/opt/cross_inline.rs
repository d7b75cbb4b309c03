//! M5: a small model is computed as expressions of its row.
//!
//! A model over rows gathers features into a tile, runs when the tile is full, and hands its answers back. A model of few
//! operations costs less where the row is: its contractions become sums of products, its maps expressions, and what its
//! conditions and aggregates read is fused with it. Products with weights that are zero fall out, and with them features.
//!
//! Sums are made from left to right; a product of matrices may round in another order.

use std::collections::HashMap;

use super::Context;
use crate::entity::{ColumnId, NodeId, RegionId, ValueId};
use crate::error::{Error, Result};
use crate::graph::rewrite::{Change, Identity, Rebuild, Rewrite, captures, rebuild, walk};
use crate::graph::tensor::{ContractSpec, Move};
use crate::graph::{BridgeOp, Node, Op, Program, RelOp, TensorOp};
use crate::scalar::ScalarOp;
use crate::scalar::reduce::Reducer;
use crate::types::{Dim, ScalarType};
use crate::value::Value;

/// A model of more scalar operations a row than this stays a model: with 80 (eight features, four hidden units) tiles were as fast.
const MAX_OPERATIONS: usize = 64;
/// A tensor of more elements a row than this is not looked at.
const MAX_ELEMENTS: usize = 1024;

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    rebuild(p, &mut Inline { cx })
}

struct Inline<'a, 'b> {
    cx: &'a mut Context<'b>,
}

impl Rewrite for Inline<'_, '_> {
    fn node(&mut self, cx: &mut Rebuild<'_>, _: NodeId, node: &Node) -> Result<Change> {
        let Op::Bridge(BridgeOp::Apply { columns, .. }) = &node.op else { return Ok(Change::Keep) };
        let Some(operations) = operations(cx.old, node).filter(|n| pays(*n)) else { return Ok(Change::Keep) };
        if !self.cx.spend() {
            return Ok(Change::Keep);
        }
        let many = if operations == 1 { "operation" } else { "operations" };
        self.cx.note(node.place, format!("M5: a model of {operations} {many} is computed in its row, without a tile"));
        let table = cx.value(node.operands[0])?;
        let columns: Vec<ColumnId> = columns.iter().map(|c| cx.column(*c)).collect();
        let ty = cx.b.program().table(table)?.clone();
        cx.b.begin_region(&[], vec![ty]);
        cx.b.set_place(node.place);
        let p = cx.old;
        let written = Model { p, out: &mut Emit { cx }, tensors: HashMap::new() }.answers(node)?;
        let values = written.ok_or_else(|| Error::Bug("a model that was counted is not written".into()))?;
        let region = cx.b.end_region(&values);
        let table = cx.b.rel(RelOp::Extend { columns }, &[table], &[region])?;
        cx.b.set_place(None);
        Ok(Change::Values(vec![table]))
    }
}

/// Legal: every operation is one that [`Model`] writes, all sizes but the number of rows are known, and no feature can be
/// NULL (that is an error which names the feature). Then: how many scalar operations a row takes.
fn operations(p: &Program, node: &Node) -> Option<usize> {
    let Op::Bridge(BridgeOp::Apply { inputs, .. }) = &node.op else { return None };
    let table = p.ty(node.operands[0]).as_table()?;
    let nullable = |c: &ColumnId| table.get(*c).is_none_or(|t| t.nullable);
    if inputs.iter().any(|g| g.columns.iter().any(nullable)) {
        return None;
    }
    let mut count = Count { p, operations: 0 };
    let answers = Model { p, out: &mut count, tensors: HashMap::new() }.answers(node).ok()??;
    (!answers.is_empty()).then_some(count.operations)
}

/// Profit: few operations.
fn pays(operations: usize) -> bool {
    operations <= MAX_OPERATIONS
}

/// An element of a tensor for one row.
#[derive(Clone)]
enum Element<V> {
    Constant(Value),
    Value(V),
}

/// What a tensor is for one row: the dimension of rows has size 1.
#[derive(Clone)]
struct Row<V> {
    sizes: Vec<usize>,
    dtype: ScalarType,
    elements: Vec<Element<V>>,
}

/// Where a model's scalar operations go.
trait Out {
    type V: Clone;
    fn feature(&mut self, column: ColumnId, dtype: ScalarType) -> Result<Self::V>;
    fn literal(&mut self, value: &Value, ty: ScalarType) -> Result<Self::V>;
    fn binary(&mut self, op: ScalarOp, a: Self::V, b: Self::V) -> Result<Self::V>;
    /// The results of a map's region for one element of each operand.
    fn map(&mut self, region: RegionId, operands: &[Self::V]) -> Result<Vec<Self::V>>;
}

/// Counts them.
struct Count<'a> {
    p: &'a Program,
    operations: usize,
}

impl Out for Count<'_> {
    type V = ();

    fn feature(&mut self, _: ColumnId, _: ScalarType) -> Result<()> {
        Ok(())
    }

    fn literal(&mut self, _: &Value, _: ScalarType) -> Result<()> {
        Ok(())
    }

    fn binary(&mut self, _: ScalarOp, (): (), (): ()) -> Result<()> {
        self.operations += 1;
        Ok(())
    }

    fn map(&mut self, region: RegionId, _: &[()]) -> Result<Vec<()>> {
        walk(self.p, region, &mut |_, n| self.operations += usize::from(!matches!(n.op, Op::Literal(..))));
        Ok(vec![(); self.p.region(region).results.len()])
    }
}

/// Writes them into the row region that is open.
struct Emit<'a, 'b> {
    cx: &'a mut Rebuild<'b>,
}

impl Out for Emit<'_, '_> {
    type V = ValueId;

    fn feature(&mut self, column: ColumnId, dtype: ScalarType) -> Result<ValueId> {
        let v = self.cx.b.col(self.cx.column(column))?;
        match self.cx.ty(v).as_scalar() {
            Some(t) if t.ty == dtype => Ok(v),
            _ => self.cx.b.scalar(ScalarOp::Cast(dtype), &[v]),
        }
    }

    fn literal(&mut self, value: &Value, ty: ScalarType) -> Result<ValueId> {
        self.cx.b.literal(value.clone(), ty)
    }

    fn binary(&mut self, op: ScalarOp, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.cx.b.scalar(op, &[a, b])
    }

    fn map(&mut self, region: RegionId, operands: &[ValueId]) -> Result<Vec<ValueId>> {
        self.cx.inline(&mut Identity, region, operands)
    }
}

struct Model<'a, O: Out> {
    p: &'a Program,
    out: &'a mut O,
    tensors: HashMap<ValueId, Row<O::V>>,
}

/// The size of a dimension for one row: 1 for the rows, none for what is not known.
fn size(dim: &Dim) -> Option<usize> {
    match dim {
        Dim::Const(n) => Some(*n),
        Dim::Sym(_) => Some(1),
        Dim::Add(..) | Dim::Mul(..) | Dim::FloorDiv(..) => None,
    }
}

fn sizes(dims: &[Dim]) -> Option<Vec<usize>> {
    let sizes: Vec<usize> = dims.iter().map(size).collect::<Option<_>>()?;
    (sizes.iter().try_fold(1usize, |n, s| n.checked_mul(*s))? <= MAX_ELEMENTS).then_some(sizes)
}

/// The indices of a shape in row-major order.
fn indices(sizes: &[usize]) -> impl Iterator<Item = Vec<usize>> + use<'_> {
    (0..sizes.iter().product::<usize>()).map(|mut at| {
        let mut index = vec![0; sizes.len()];
        for (i, n) in sizes.iter().enumerate().rev() {
            index[i] = at % n;
            at /= n;
        }
        index
    })
}

fn position(sizes: &[usize], index: &[usize]) -> usize {
    sizes.iter().zip(index).fold(0, |at, (n, i)| at * n + i)
}

impl<V: Clone> Row<V> {
    fn at(&self, index: &[usize]) -> Element<V> {
        self.elements[position(&self.sizes, index)].clone()
    }
}

impl<O: Out> Model<'_, O> {
    /// The answers of a model for one row; `None` where it has an operation that is not written so.
    fn answers(mut self, node: &Node) -> Result<Option<Vec<O::V>>> {
        let Op::Bridge(BridgeOp::Apply { rows, inputs, .. }) = &node.op else { return Ok(None) };
        let region = self.p.region(node.regions[0]);
        for (group, param) in inputs.iter().zip(&region.params) {
            let features = group.columns.iter().map(|c| self.out.feature(*c, group.dtype));
            let elements = features.map(|v| v.map(Element::Value)).collect::<Result<Vec<_>>>()?;
            let sizes = if group.flat { vec![1] } else { vec![1, elements.len()] };
            self.tensors.insert(*param, Row { sizes, dtype: group.dtype, elements });
        }
        for id in &region.nodes {
            let inner = self.p.node(*id);
            // The only size that is not known is the number of rows, and that leads.
            let fits = inner.results.iter().all(|v| {
                let shape = self.p.ty(*v).as_tensor().map(|t| t.shape.as_slice()).unwrap_or_default();
                shape.iter().enumerate().all(|(i, d)| matches!(d, Dim::Const(_)) || (i == 0 && *d == Dim::Sym(*rows)))
            });
            if !fits || self.node(inner)?.is_none() {
                return Ok(None);
            }
        }
        let mut answers = Vec::new();
        for v in &region.results {
            let Some(row) = self.tensor(*v) else { return Ok(None) };
            for element in row.elements {
                answers.push(self.value(&element, row.dtype)?);
            }
        }
        Ok(Some(answers))
    }

    /// A tensor of the model, or a constant from around it.
    fn tensor(&self, v: ValueId) -> Option<Row<O::V>> {
        if let Some(row) = self.tensors.get(&v) {
            return Some(row.clone());
        }
        let Some(Node { op: Op::Tensor(TensorOp::Const(t)), .. }) = self.p.node_of(v) else { return None };
        if t.data.len() > MAX_ELEMENTS {
            return None;
        }
        let elements = (0..t.data.len()).map(|i| Element::Constant(t.data.get(i))).collect();
        Some(Row { sizes: t.shape.clone(), dtype: t.data.dtype(), elements })
    }

    fn value(&mut self, element: &Element<O::V>, ty: ScalarType) -> Result<O::V> {
        match element {
            Element::Constant(v) => self.out.literal(v, ty),
            Element::Value(v) => Ok(v.clone()),
        }
    }

    fn node(&mut self, node: &Node) -> Result<Option<()>> {
        let Op::Tensor(op) = &node.op else { return Ok(None) };
        let Some(operands) = node.operands.iter().map(|v| self.tensor(*v)).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let row = match op {
            // Read where it is used.
            TensorOp::Const(_) => return Ok(Some(())),
            TensorOp::Map { shape } => return self.map(node, shape, &operands),
            TensorOp::View(moves) => view(&operands[0], moves),
            TensorOp::Contract(spec) => self.contract(spec, &operands[0], &operands[1])?,
            TensorOp::Reduce { reducer: Reducer::Sum, axes } => self.sum(&operands[0], axes, node)?,
            TensorOp::Iota { .. }
            | TensorOp::Random { .. }
            | TensorOp::Reduce { .. }
            | TensorOp::Prefix { .. }
            | TensorOp::Attend(_)
            | TensorOp::AttendGrad(_)
            | TensorOp::Gather
            | TensorOp::ScatterAdd
            | TensorOp::Levels { .. }
            | TensorOp::Concat { .. } => None,
        };
        Ok(row.map(|row| {
            self.tensors.insert(node.results[0], row);
        }))
    }

    fn map(&mut self, node: &Node, shape: &[Dim], operands: &[Row<O::V>]) -> Result<Option<()>> {
        let Some(sizes) = sizes(shape) else { return Ok(None) };
        // A map that reads more than its elements, or calls a function, stays.
        let region = node.regions[0];
        let mut plain = captures(self.p, region).is_empty();
        walk(self.p, region, &mut |_, n| plain &= matches!(n.op, Op::Scalar(_) | Op::Literal(..)));
        if !plain {
            return Ok(None);
        }
        let mut results: Vec<Vec<Element<O::V>>> = vec![vec![]; node.results.len()];
        for i in 0..sizes.iter().product() {
            let values = operands.iter().map(|o| self.value(&o.elements[i], o.dtype)).collect::<Result<Vec<_>>>()?;
            for (list, v) in results.iter_mut().zip(self.out.map(region, &values)?) {
                list.push(Element::Value(v));
            }
        }
        for (v, elements) in node.results.iter().zip(results) {
            let Some(t) = self.p.ty(*v).as_tensor() else { return Ok(None) };
            self.tensors.insert(*v, Row { sizes: sizes.clone(), dtype: t.dtype, elements });
        }
        Ok(Some(()))
    }

    fn contract(&mut self, spec: &ContractSpec, a: &Row<O::V>, b: &Row<O::V>) -> Result<Option<Row<O::V>>> {
        let mut labels: Vec<(u8, usize)> = vec![];
        for (l, n) in spec.a.iter().zip(&a.sizes).chain(spec.b.iter().zip(&b.sizes)) {
            if labels.iter().all(|x| x.0 != *l) {
                labels.push((*l, *n));
            }
        }
        let summed: Vec<(u8, usize)> = labels.iter().copied().filter(|l| !spec.out.contains(&l.0)).collect();
        let of = |l: &u8| labels.iter().find(|x| x.0 == *l).map_or(1, |x| x.1);
        let sizes: Vec<usize> = spec.out.iter().map(of).collect();
        let inner: Vec<usize> = summed.iter().map(|l| l.1).collect();
        if sizes.iter().chain(&inner).product::<usize>() > MAX_ELEMENTS * MAX_ELEMENTS {
            return Ok(None);
        }
        let mut elements = Vec::new();
        for out in indices(&sizes) {
            let mut total: Option<O::V> = None;
            for sum in indices(&inner) {
                let index = |l: &u8| {
                    let kept = spec.out.iter().position(|x| x == l).map(|i| out[i]);
                    kept.or_else(|| summed.iter().position(|x| x.0 == *l).map(|i| sum[i])).unwrap_or(0)
                };
                let x = a.at(&spec.a.iter().map(index).collect::<Vec<_>>());
                let y = b.at(&spec.b.iter().map(index).collect::<Vec<_>>());
                if is_zero(&x) || is_zero(&y) {
                    continue;
                }
                let (x, y) = (self.value(&x, a.dtype)?, self.value(&y, b.dtype)?);
                let product = self.out.binary(ScalarOp::Mul, x, y)?;
                total = Some(match total {
                    None => product,
                    Some(total) => self.out.binary(ScalarOp::Add, total, product)?,
                });
            }
            elements.push(total.map_or_else(|| Element::Constant(zero(a.dtype)), Element::Value));
        }
        Ok(Some(Row { sizes, dtype: a.dtype, elements }))
    }

    fn sum(&mut self, row: &Row<O::V>, axes: &[usize], node: &Node) -> Result<Option<Row<O::V>>> {
        let Some(t) = self.p.ty(node.operands[0]).as_tensor() else { return Ok(None) };
        // Not over the rows, and not where a sum can overflow.
        if !row.dtype.is_float() || axes.iter().any(|a| !matches!(t.shape[*a], Dim::Const(_))) {
            return Ok(None);
        }
        let kept: Vec<usize> = (0..row.sizes.len()).filter(|i| !axes.contains(i)).collect();
        let sizes: Vec<usize> = kept.iter().map(|i| row.sizes[*i]).collect();
        let mut totals: Vec<Option<O::V>> = vec![None; sizes.iter().product()];
        for (index, element) in indices(&row.sizes).zip(&row.elements) {
            let at = position(&sizes, &kept.iter().map(|i| index[*i]).collect::<Vec<_>>());
            let v = self.value(element, row.dtype)?;
            totals[at] = Some(match totals[at].take() {
                None => v,
                Some(total) => self.out.binary(ScalarOp::Add, total, v)?,
            });
        }
        let of = |t: Option<O::V>| t.map_or_else(|| Element::Constant(zero(row.dtype)), Element::Value);
        Ok(Some(Row { sizes, dtype: row.dtype, elements: totals.into_iter().map(of).collect() }))
    }
}

fn is_zero<V>(e: &Element<V>) -> bool {
    match e {
        Element::Constant(Value::F32(x)) => *x == 0.0,
        Element::Constant(Value::F64(x)) => *x == 0.0,
        Element::Constant(_) | Element::Value(_) => false,
    }
}

fn zero(ty: ScalarType) -> Value {
    if ty == ScalarType::F64 { Value::F64(0.0) } else { Value::F32(0.0) }
}

/// A tensor seen through moves; `None` for moves that add elements or read across rows.
fn view<V: Clone>(row: &Row<V>, moves: &[Move]) -> Option<Row<V>> {
    let mut row = row.clone();
    for m in moves {
        row = match m {
            Move::Permute(perm) => {
                let to: Vec<usize> = perm.iter().map(|i| row.sizes[*i]).collect();
                let from = |index: &[usize]| {
                    let mut old = vec![0; index.len()];
                    perm.iter().zip(index).for_each(|(p, i)| old[*p] = *i);
                    old
                };
                seen(&row, to, from)
            }
            Move::Broadcast { shape, dims } => {
                let old = row.sizes.clone();
                let from = |index: &[usize]| {
                    dims.iter().zip(&old).map(|(d, n)| if *n == 1 { 0 } else { index[*d] }).collect::<Vec<_>>()
                };
                seen(&row, sizes(shape)?, from)
            }
            Move::Reshape(shape) => {
                let to = sizes(shape)?;
                if to.iter().product::<usize>() != row.elements.len() {
                    return None;
                }
                Row { sizes: to, ..row }
            }
            Move::Slice { dim, start, len, step } => {
                let (start, len) = (start.as_const()?, len.as_const()?);
                let mut to = row.sizes.clone();
                to[*dim] = len;
                let from = |index: &[usize]| {
                    let mut old = index.to_vec();
                    old[*dim] = start + index[*dim] * step;
                    old
                };
                seen(&row, to, from)
            }
            Move::Pad { .. } | Move::Reverse(_) => return None,
        };
    }
    Some(row)
}

fn seen<V: Clone>(row: &Row<V>, to: Vec<usize>, from: impl Fn(&[usize]) -> Vec<usize>) -> Row<V> {
    let elements = indices(&to).map(|index| row.at(&from(&index))).collect();
    Row { sizes: to, dtype: row.dtype, elements }
}
