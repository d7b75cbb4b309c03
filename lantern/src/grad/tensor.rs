//! Tensor operations, one rule each.

use ir::entity::ValueId;
use ir::graph::tensor::{ContractSpec, Move};
use ir::graph::{Node, TensorOp};
use ir::scalar::ScalarOp;
use ir::scalar::reduce::Reducer;
use ir::types::{Dim, ScalarType, TensorType};

use super::{Reverse, missing};
use crate::error::Result;
use crate::stage::{dim_value, filled};
use crate::tensor::broadcast_value;

/// Hands adjoints to the operands of an operation with one result, whose adjoint is `d`.
pub(crate) fn reverse(r: &mut Reverse<'_>, op: &TensorOp, node: &Node, d: ValueId) -> Result<()> {
    let arg = |i: usize| node.operands[i];
    match op {
        TensorOp::Const(_) | TensorOp::Iota { .. } | TensorOp::Random { .. } => Ok(()),
        TensorOp::Map { .. } => super::scalar::map(r, node, &[Some(d)]),
        TensorOp::Reduce { reducer, axes } => {
            let dx = reduce(r, *reducer, axes, arg(0), node.results[0], d)?;
            r.add(arg(0), dx)
        }
        TensorOp::Prefix { reducer, axis } => {
            if *reducer != Reducer::Sum {
                return Err(missing(format!("prefix {}", reducer.name()), "only running sums have a rule"));
            }
            // The running sum from the other end.
            let flipped = r.view(d, vec![Move::Reverse(*axis)])?;
            let sums = r.b.tensor(op.clone(), &[flipped])?;
            let dx = r.view(sums, vec![Move::Reverse(*axis)])?;
            r.add(arg(0), dx)
        }
        TensorOp::Contract(spec) => contract(r, spec, node, d),
        TensorOp::Attend(spec) => super::attend::reverse(r, spec, node, d),
        // Of several results.
        TensorOp::AttendGrad(spec) => super::attend::reverse_grad(r, spec, node, &[Some(d)]),
        TensorOp::View(moves) => {
            let dx = view(r, moves, arg(0), d)?;
            r.add(arg(0), dx)
        }
        TensorOp::Gather => {
            if r.is_varied(arg(0)) {
                r.add_rows(arg(0), arg(1), d)?;
            }
            Ok(())
        }
        TensorOp::ScatterAdd => {
            r.add(arg(0), d)?;
            if r.is_varied(arg(2)) {
                let du = r.b.tensor(TensorOp::Gather, &[d, arg(1)])?;
                r.add(arg(2), du)?;
            }
            Ok(())
        }
        // Whole numbers.
        TensorOp::Levels { .. } => Ok(()),
        TensorOp::Concat { axis } => {
            let mut start = Dim::Const(0);
            for v in &node.operands {
                let len = r.tensor_type(*v)?.shape[*axis].clone();
                if r.is_varied(*v) {
                    let part = Move::Slice { dim: *axis, start: start.clone(), len: len.clone(), step: 1 };
                    let dx = r.view(d, vec![part])?;
                    r.add(*v, dx)?;
                }
                start = start.plus(len);
            }
            Ok(())
        }
    }
}

impl Reverse<'_> {
    fn tensor_type(&self, v: ValueId) -> Result<TensorType> {
        let ty = self.b.ty(v).as_tensor().cloned();
        ty.ok_or_else(|| ir::Error::Bug(format!("{v} is no tensor")).into())
    }

    fn view(&mut self, v: ValueId, moves: Vec<Move>) -> Result<ValueId> {
        Ok(if moves.is_empty() { v } else { self.b.tensor(TensorOp::View(moves), &[v])? })
    }

    fn map2(&mut self, op: ScalarOp, x: ValueId, y: ValueId) -> Result<ValueId> {
        Ok(self.b.map(&[x, y], |b, v| Ok(vec![b.scalar(op, v)?]))?[0])
    }

    fn sum(&mut self, v: ValueId, axes: Vec<usize>) -> Result<ValueId> {
        if axes.is_empty() {
            return Ok(v);
        }
        Ok(self.b.tensor(TensorOp::Reduce { reducer: Reducer::Sum, axes }, &[v])?)
    }
}

/// What was reduced away repeats.
fn expand(shape: &[Dim], axes: &[usize]) -> Move {
    Move::Broadcast { shape: shape.to_vec(), dims: (0..shape.len()).filter(|i| !axes.contains(i)).collect() }
}

fn reduce(
    r: &mut Reverse<'_>,
    reducer: Reducer,
    axes: &[usize],
    x: ValueId,
    y: ValueId,
    d: ValueId,
) -> Result<ValueId> {
    let ty = r.tensor_type(x)?;
    match reducer {
        Reducer::Sum => r.view(d, vec![expand(&ty.shape, axes)]),
        Reducer::Max | Reducer::Min => {
            // Equals share.
            let best = r.view(y, vec![expand(&ty.shape, axes)])?;
            let (one, zero) = (r.number(x, 1.0)?, r.number(x, 0.0)?);
            let (one, zero) = (broadcast_value(r.b, one, &ty.shape)?, broadcast_value(r.b, zero, &ty.shape)?);
            let is_best = r.b.map(&[x, best, one, zero], |b, v| {
                let eq = b.scalar(ScalarOp::Eq, &v[..2])?;
                Ok(vec![b.scalar(ScalarOp::Select, &[eq, v[2], v[3]])?])
            })?[0];
            let count = r.sum(is_best, axes.to_vec())?;
            let share = r.map2(ScalarOp::Div, d, count)?;
            let share = r.view(share, vec![expand(&ty.shape, axes)])?;
            r.map2(ScalarOp::Mul, is_best, share)
        }
        Reducer::Product => product(r, axes, x, &ty, d),
        _ => Err(missing(format!("reduce {}", reducer.name()), "it has no rule")),
    }
}

/// Each element's adjoint is the product of the others: of those before and of those after it. So zeros do no harm.
fn product(r: &mut Reverse<'_>, axes: &[usize], x: ValueId, ty: &TensorType, d: ValueId) -> Result<ValueId> {
    let kept: Vec<usize> = (0..ty.rank()).filter(|i| !axes.contains(i)).collect();
    let perm: Vec<usize> = kept.iter().chain(axes).copied().collect();
    let permuted: Vec<Dim> = perm.iter().map(|i| ty.shape[*i].clone()).collect();
    let count = axes.iter().fold(Dim::Const(1), |n, a| n.times(ty.shape[*a].clone()));
    let last = kept.len();
    let mut flat: Vec<Dim> = permuted[..last].to_vec();
    flat.push(count.clone());
    let rows = r.view(x, vec![Move::Permute(perm.clone()), Move::Reshape(flat.clone())])?;
    let mut one = flat.clone();
    one[last] = Dim::Const(1);
    let ones = filled(r.b, &TensorType { dtype: ty.dtype, shape: one }, 1.0)?;
    let before = |r: &mut Reverse<'_>, rows: ValueId| -> Result<ValueId> {
        let shifted = r.b.tensor(TensorOp::Concat { axis: last }, &[ones, rows])?;
        let running = r.b.tensor(TensorOp::Prefix { reducer: Reducer::Product, axis: last }, &[shifted])?;
        r.view(running, vec![Move::Slice { dim: last, start: Dim::Const(0), len: count.clone(), step: 1 }])
    };
    let left = before(r, rows)?;
    let flipped = r.view(rows, vec![Move::Reverse(last)])?;
    let right = before(r, flipped)?;
    let right = r.view(right, vec![Move::Reverse(last)])?;
    let others = r.map2(ScalarOp::Mul, left, right)?;
    let d = r.view(d, vec![expand(&flat, &[last])])?;
    let dx = r.map2(ScalarOp::Mul, d, others)?;
    r.view(dx, vec![Move::Reshape(permuted), Move::Permute(inverse(&perm))])
}

fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut out = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(i, p)| out[*p] = i);
    out
}

/// The adjoint of an operand of a product is the product of the result's adjoint and the other operand.
fn contract(r: &mut Reverse<'_>, spec: &ContractSpec, node: &Node, d: ValueId) -> Result<()> {
    let sides = [(0, &spec.a, 1, &spec.b), (1, &spec.b, 0, &spec.a)];
    for (i, mine, other, theirs) in sides {
        let (x, y) = (node.operands[i], node.operands[other]);
        if !r.is_varied(x) {
            continue;
        }
        if (1..mine.len()).any(|k| mine[..k].contains(&mine[k])) {
            return Err(missing(format!("contract {spec}"), "a label occurs twice in one operand"));
        }
        // Labels that only this operand has are summed alone: their adjoint repeats.
        let alone: Vec<usize> =
            (0..mine.len()).filter(|k| !spec.out.contains(&mine[*k]) && !theirs.contains(&mine[*k])).collect();
        let out: Vec<u8> = mine.iter().enumerate().filter(|(k, _)| !alone.contains(k)).map(|(_, l)| *l).collect();
        let adjoint = ContractSpec { a: spec.out.clone(), b: theirs.clone(), out };
        let mut dx = r.b.tensor(TensorOp::Contract(adjoint), &[d, y])?;
        if !alone.is_empty() {
            let shape = r.tensor_type(x)?.shape;
            dx = r.view(dx, vec![expand(&shape, &alone)])?;
        }
        r.add(x, dx)?;
    }
    Ok(())
}

/// The moves undone, from the last to the first.
fn view(r: &mut Reverse<'_>, moves: &[Move], x: ValueId, d: ValueId) -> Result<ValueId> {
    let ty = r.tensor_type(x)?;
    let mut shapes = vec![ty.shape.clone()];
    for m in moves {
        let next = m.apply(&shapes[shapes.len() - 1])?;
        shapes.push(next);
    }
    let mut d = d;
    for (m, before) in moves.iter().zip(&shapes).rev() {
        d = match m {
            Move::Permute(perm) => r.view(d, vec![Move::Permute(inverse(perm))])?,
            Move::Reshape(_) => r.view(d, vec![Move::Reshape(before.clone())])?,
            Move::Reverse(dim) => r.view(d, vec![Move::Reverse(*dim)])?,
            Move::Pad { dim, before: zeros, .. } => {
                let part = Move::Slice { dim: *dim, start: Dim::Const(*zeros), len: before[*dim].clone(), step: 1 };
                r.view(d, vec![part])?
            }
            Move::Broadcast { shape, dims } => unbroadcast(r, shape, dims, before, d)?,
            Move::Slice { dim, start, len, step } => unslice(r, (*dim, start, len, *step), ty.dtype, before, d)?,
        };
    }
    Ok(d)
}

/// What was repeated adds up.
fn unbroadcast(r: &mut Reverse<'_>, shape: &[Dim], dims: &[usize], before: &[Dim], d: ValueId) -> Result<ValueId> {
    let repeated = |axis: usize| match dims.iter().position(|x| *x == axis) {
        Some(i) => before[i] != shape[axis],
        None => true,
    };
    let axes: Vec<usize> = (0..shape.len()).filter(|a| repeated(*a)).collect();
    let sum = r.sum(d, axes)?;
    if r.tensor_type(sum)?.shape == before { Ok(sum) } else { r.view(sum, vec![Move::Reshape(before.to_vec())]) }
}

/// Zeros around the slice, and between its elements where it steps.
fn unslice(
    r: &mut Reverse<'_>,
    (dim, start, len, step): (usize, &Dim, &Dim, usize),
    dtype: ScalarType,
    before: &[Dim],
    d: ValueId,
) -> Result<ValueId> {
    if let (Some(n), Some(start), Some(len)) = (before[dim].as_const(), start.as_const(), len.as_const()) {
        let mut moves = vec![];
        let mut covered = len;
        if step > 1 && len > 0 {
            // [len] -> [len, 1] -> [len, step] -> [len · step]
            let mut split = before.to_vec();
            split[dim] = Dim::Const(len);
            split.insert(dim + 1, Dim::Const(1));
            moves.push(Move::Reshape(split));
            moves.push(Move::Pad { dim: dim + 1, before: 0, after: step - 1 });
            let mut joined = before.to_vec();
            joined[dim] = Dim::Const(len * step);
            moves.push(Move::Reshape(joined));
            covered = len * step;
            if covered > n - start {
                covered = n - start;
                moves.push(Move::Slice { dim, start: Dim::Const(0), len: Dim::Const(covered), step: 1 });
            }
        }
        let after = n.saturating_sub(start + covered);
        if start > 0 || after > 0 {
            moves.push(Move::Pad { dim, before: start, after });
        }
        return r.view(d, moves);
    }
    // Sizes that are not known: rows are added to zeros at their places.
    let front: Vec<usize> = std::iter::once(dim).chain((0..before.len()).filter(|i| *i != dim)).collect();
    let shape: Vec<Dim> = front.iter().map(|i| before[*i].clone()).collect();
    let rows = r.view(d, vec![Move::Permute(front.clone())])?;
    let base = filled(r.b, &TensorType { dtype, shape }, 0.0)?;
    let index = TensorType { dtype: ScalarType::I64, shape: vec![len.clone()] };
    let index = r.b.tensor(TensorOp::Iota { ty: index, dim: 0 }, &[])?;
    let (start, step) = (dim_value(r.b, start)?, dim_value(r.b, &Dim::Const(step))?);
    let shape = std::slice::from_ref(len);
    let (start, step) = (broadcast_value(r.b, start, shape)?, broadcast_value(r.b, step, shape)?);
    let steps = r.map2(ScalarOp::Mul, index, step)?;
    let index = r.map2(ScalarOp::Add, start, steps)?;
    let out = r.b.tensor(TensorOp::ScatterAdd, &[base, index, rows])?;
    r.view(out, vec![Move::Permute(inverse(&front))])
}
