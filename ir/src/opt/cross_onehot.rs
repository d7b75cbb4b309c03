//! Products with one-hot rows become gathers, and those of their gradients scatters.
//!
//! What holds:
//! - A one-hot tensor is a map that compares whole numbers with an `iota` along a dimension of a known size and yields 1 where
//!   they are equal, else 0.
//! - Summed over that dimension, its product with a matrix is a row of the matrix for each number: a gather. With that dimension
//!   in the result and everything else summed, it is a sum of rows by number: a scatter.
//! - A number outside of the dimension has no 1, so its row is zeros: the gather reads row 0 for it, which is replaced.
//! - Exact in real arithmetic, but for infinities and NaN: 0 times those is NaN, and here it is not computed.
//!
//! Worth while from [`WORTH`] categories on.

use super::Context;
use super::algebra::{has_tensors, number_of};
use crate::entity::{NodeId, ValueId};
use crate::error::Result;
use crate::graph::rewrite::{Change, Rebuild, Rewrite, rebuild};
use crate::graph::tensor::Move;
use crate::graph::{Node, Op, Program, TensorOp};
use crate::scalar::ScalarOp;
use crate::types::{Dim, ScalarType, TensorType};
use crate::value::{TensorData, TensorValue, Value};

/// Categories from which a gather is taken. A product of a row with so many is computed at 16 multiplications an instruction;
/// to copy the row and to look at its number takes the time of some ten.
const WORTH: usize = 16;

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    if !has_tensors(p) {
        return Ok(p.clone());
    }
    rebuild(p, &mut OneHot { cx })
}

struct OneHot<'a, 'b> {
    cx: &'a mut Context<'b>,
}

impl Rewrite for OneHot<'_, '_> {
    fn node(&mut self, cx: &mut Rebuild<'_>, _: NodeId, node: &Node) -> Result<Change> {
        let Op::Tensor(TensorOp::Contract(spec)) = &node.op else { return Ok(Change::Keep) };
        let operands = cx.values(&node.operands)?;
        for side in 0..2 {
            let (mine, theirs) = if side == 0 { (&spec.a, &spec.b) } else { (&spec.b, &spec.a) };
            let Some(codes) = Codes::of(cx, operands[side]) else { continue };
            let Some(plan) = plan(&codes, mine, theirs, &spec.out) else { continue };
            if codes.categories < WORTH || !self.cx.spend() {
                continue;
            }
            let n = codes.categories;
            let what = if plan.gathers { "is a gather" } else { "is a scatter" };
            self.cx
                .note(node.place, format!("the product {spec} with one-hot rows of {n} {what}: {n} times fewer steps"));
            cx.b.set_place(node.place);
            let v = if plan.gathers {
                gather(cx, &codes, &plan, operands[1 - side])?
            } else {
                scatter(cx, &codes, &plan, operands[1 - side])?
            };
            cx.b.set_place(None);
            return Ok(Change::Values(vec![v]));
        }
        Ok(Change::Keep)
    }
}

/// The numbers behind a one-hot tensor.
struct Codes {
    /// What the view below is of.
    source: ValueId,
    /// The numbers, repeated along the categories.
    moves: Vec<Move>,
    /// The one-hot tensor's shape, and which dimension the categories are.
    shape: Vec<Dim>,
    dim: usize,
    categories: usize,
}

impl Codes {
    fn of(cx: &Rebuild<'_>, v: ValueId) -> Option<Self> {
        let p = cx.b.program();
        let map = cx.def(v)?;
        let Op::Tensor(TensorOp::Map { shape }) = &map.op else { return None };
        let body = p.region(map.regions[0]);
        // One result, or the one that is read.
        let result = *body.results.get(map.results.iter().position(|r| *r == v)?)?;
        let scalar = |v: ValueId| match p.node_of(v).map(|n| (&n.op, n.operands.as_slice())) {
            Some((Op::Scalar(op), operands)) => Some((*op, operands)),
            _ => None,
        };
        let operand = |v: ValueId| body.params.iter().position(|x| *x == v).map(|i| map.operands[i]);
        let number = |v: ValueId| match p.node_of(v).map(|n| &n.op) {
            Some(Op::Literal(Value::F32(x), _)) => Some(f64::from(*x)),
            Some(Op::Literal(Value::F64(x), _)) => Some(*x),
            Some(_) => None,
            None => number_of(p, operand(v)?),
        };
        let equal = match scalar(result)? {
            (ScalarOp::Select, [c, x, y]) if number(*x) == Some(1.0) && number(*y) == Some(0.0) => *c,
            (ScalarOp::Cast(to), [c]) if to.is_float() => *c,
            _ => return None,
        };
        let (ScalarOp::Eq, [x, y]) = scalar(equal)? else { return None };
        let (x, y) = (operand(*x)?, operand(*y)?);
        for (count, codes) in [(x, y), (y, x)] {
            let Some(dim) = counts(cx, count) else { continue };
            let (source, moves) = repeated(cx, codes, dim)?;
            let integer = cx.ty(codes).as_tensor()?.dtype.is_integer();
            let categories = shape.get(dim)?.as_const()?;
            return integer.then(|| Self { source, moves, shape: shape.clone(), dim, categories });
        }
        None
    }

    /// The numbers with a dimension less, each as it is or 0 where it is no category; and whether it is one.
    fn clamped(&self, cx: &mut Rebuild<'_>) -> Result<(ValueId, ValueId)> {
        let mut moves = self.moves.clone();
        moves.push(Move::Slice { dim: self.dim, start: Dim::Const(0), len: Dim::Const(1), step: 1 });
        let mut rows = self.shape.clone();
        rows.remove(self.dim);
        moves.push(Move::Reshape(rows));
        let codes = cx.b.tensor(TensorOp::View(moves), &[self.source])?;
        let end = i64::try_from(self.categories).unwrap_or(i64::MAX);
        let made = cx.b.map(&[codes], |b, v| {
            let Some(ty) = b.ty(v[0]).as_scalar().map(|t| t.ty) else { return Ok(vec![]) };
            let whole = |n: i64| if ty == ScalarType::I32 { Value::I32(n as i32) } else { Value::I64(n) };
            let (zero, end) = (b.literal(whole(0), ty)?, b.literal(whole(end), ty)?);
            let (low, high) = (b.scalar(ScalarOp::Ge, &[v[0], zero])?, b.scalar(ScalarOp::Lt, &[v[0], end])?);
            let known = b.scalar(ScalarOp::And, &[low, high])?;
            Ok(vec![b.scalar(ScalarOp::Select, &[known, v[0], zero])?, known])
        })?;
        Ok((made[0], made[1]))
    }
}

/// The dimension along which a tensor counts from 0, if that is all it does.
fn counts(cx: &Rebuild<'_>, v: ValueId) -> Option<usize> {
    let node = cx.def(v)?;
    match &node.op {
        Op::Tensor(TensorOp::Iota { dim, .. }) => Some(*dim),
        Op::Tensor(TensorOp::View(moves)) => {
            let mut dim = counts(cx, node.operands[0])?;
            let mut shape = cx.ty(node.operands[0]).as_tensor()?.shape.clone();
            for m in moves {
                dim = match m {
                    Move::Broadcast { shape: to, dims } => (to[dims[dim]] == shape[dim]).then_some(dims[dim])?,
                    // Only ones may come or go.
                    Move::Reshape(to) => {
                        let real = |s: &[Dim]| s.iter().filter(|d| **d != Dim::Const(1)).cloned().collect::<Vec<_>>();
                        let nth = shape[..dim].iter().filter(|d| **d != Dim::Const(1)).count();
                        let same = real(&shape) == real(to) && shape[dim] != Dim::Const(1);
                        let places = to.iter().enumerate().filter(|(_, d)| **d != Dim::Const(1));
                        same.then(|| places.map(|(i, _)| i).nth(nth))??
                    }
                    Move::Permute(perm) => perm.iter().position(|d| *d == dim)?,
                    Move::Slice { .. } | Move::Pad { .. } | Move::Reverse(_) => return None,
                };
                shape = m.apply(&shape).ok()?;
            }
            Some(dim)
        }
        _ => None,
    }
}

/// A tensor as a view that repeats itself along a dimension.
fn repeated(cx: &Rebuild<'_>, v: ValueId, dim: usize) -> Option<(ValueId, Vec<Move>)> {
    let node = cx.def(v)?;
    let Op::Tensor(TensorOp::View(moves)) = &node.op else { return None };
    let (Move::Broadcast { dims, .. }, before) = moves.split_last()? else { return None };
    let mut shape = cx.ty(node.operands[0]).as_tensor()?.shape.clone();
    for m in before {
        shape = m.apply(&shape).ok()?;
    }
    let repeats = match dims.iter().position(|d| *d == dim) {
        Some(i) => shape[i] == Dim::Const(1),
        None => true,
    };
    repeats.then(|| (node.operands[0], moves.clone()))
}

/// How the product is computed by numbers.
struct Plan {
    gathers: bool,
    /// Labels of the numbers, without the categories.
    rows: Vec<u8>,
    category: u8,
    /// Labels of the other operand, and those of them that are neither rows nor categories.
    theirs: Vec<u8>,
    others: Vec<u8>,
    out: Vec<u8>,
}

fn plan(codes: &Codes, mine: &[u8], theirs: &[u8], out: &[u8]) -> Option<Plan> {
    let twice = |labels: &[u8]| labels.iter().enumerate().any(|(i, l)| labels[..i].contains(l));
    if twice(mine) || twice(theirs) || twice(out) {
        return None;
    }
    let category = *mine.get(codes.dim)?;
    let rows: Vec<u8> = mine.iter().copied().filter(|l| *l != category).collect();
    let others: Vec<u8> = theirs.iter().copied().filter(|l| *l != category && !rows.contains(l)).collect();
    let kept = |labels: &[u8]| labels.iter().all(|l| out.contains(l));
    let gathers = !out.contains(&category)
        && theirs.contains(&category)
        && kept(&rows)
        && !rows.iter().any(|l| theirs.contains(l));
    let scatters = out.contains(&category)
        && !theirs.contains(&category)
        && rows.iter().all(|l| theirs.contains(l) && !out.contains(l));
    let fits = (gathers || scatters) && kept(&others);
    fits.then(|| Plan { gathers, rows, category, theirs: theirs.to_vec(), others, out: out.to_vec() })
}

/// A tensor with these labels, its dimensions in another order.
fn permuted(cx: &mut Rebuild<'_>, v: ValueId, from: &[u8], to: &[u8]) -> Result<ValueId> {
    if from == to {
        return Ok(v);
    }
    let perm = to.iter().filter_map(|l| from.iter().position(|x| x == l)).collect();
    cx.b.tensor(TensorOp::View(vec![Move::Permute(perm)]), &[v])
}

/// The tensor where `known`, whose dimensions are its first ones, holds; else 0.
fn where_known(cx: &mut Rebuild<'_>, v: ValueId, known: ValueId) -> Result<ValueId> {
    let ty = tensor_type(cx, v)?;
    let rank = tensor_type(cx, known)?.rank();
    let all = Move::Broadcast { shape: ty.shape.clone(), dims: (0..rank).collect() };
    let known = cx.b.tensor(TensorOp::View(vec![all]), &[known])?;
    let made = cx.b.map(&[known, v], |b, v| {
        let zero = b.literal(zero(ty.dtype), ty.dtype)?;
        Ok(vec![b.scalar(ScalarOp::Select, &[v[0], v[1], zero])?])
    })?;
    Ok(made[0])
}

fn zero(ty: ScalarType) -> Value {
    if ty == ScalarType::F32 { Value::F32(0.0) } else { Value::F64(0.0) }
}

fn tensor_type(cx: &Rebuild<'_>, v: ValueId) -> Result<TensorType> {
    cx.ty(v).as_tensor().cloned().ok_or_else(|| crate::error::Error::Bug(format!("{v} is no tensor")))
}

fn gather(cx: &mut Rebuild<'_>, codes: &Codes, plan: &Plan, table: ValueId) -> Result<ValueId> {
    let (numbers, known) = codes.clamped(cx)?;
    let order = [&[plan.category][..], &plan.others].concat();
    let table = permuted(cx, table, &plan.theirs, &order)?;
    let rows = cx.b.tensor(TensorOp::Gather, &[table, numbers])?;
    let rows = where_known(cx, rows, known)?;
    permuted(cx, rows, &[&plan.rows[..], &plan.others].concat(), &plan.out)
}

fn scatter(cx: &mut Rebuild<'_>, codes: &Codes, plan: &Plan, updates: ValueId) -> Result<ValueId> {
    let (numbers, known) = codes.clamped(cx)?;
    let order = [&plan.rows[..], &plan.others].concat();
    let updates = permuted(cx, updates, &plan.theirs, &order)?;
    let updates = where_known(cx, updates, known)?;
    let ty = tensor_type(cx, updates)?;
    let data = if ty.dtype == ScalarType::F32 { TensorData::F32(vec![0.0]) } else { TensorData::F64(vec![0.0]) };
    let none = cx.b.tensor(TensorOp::Const(std::sync::Arc::new(TensorValue { shape: vec![], data })), &[])?;
    let mut shape = vec![Dim::Const(codes.categories)];
    shape.extend_from_slice(&ty.shape[plan.rows.len()..]);
    let base = cx.b.tensor(TensorOp::View(vec![Move::Broadcast { shape, dims: vec![] }]), &[none])?;
    let sums = cx.b.tensor(TensorOp::ScatterAdd, &[base, numbers, updates])?;
    permuted(cx, sums, &[&[plan.category][..], &plan.others].concat(), &plan.out)
}
