//! Indices: how an element of a view is found in its operand, and which loops can be one.

use std::collections::HashSet;

use super::{Def, Val, Values};
use crate::graph::tensor::Move;
use crate::types::Dim;

/// Distances between neighbours along each dimension, in elements, of a row-major tensor.
pub(super) fn row_major(shape: &[Dim]) -> Vec<Dim> {
    let mut out = vec![Dim::Const(1); shape.len()];
    for d in (1..shape.len()).rev() {
        out[d - 1] = shape[d].clone().times(out[d].clone());
    }
    out
}

/// The product of dimensions.
pub(super) fn product(shape: &[Dim]) -> Dim {
    shape.iter().rev().fold(Dim::Const(1), |n, d| d.clone().times(n))
}

fn is_one(d: &Dim) -> bool {
    *d == Dim::Const(1)
}

/// Whether two shapes differ only in dimensions of size 1.
pub(super) fn same_but_ones(a: &[Dim], b: &[Dim]) -> bool {
    a.iter().filter(|d| !is_one(d)).eq(b.iter().filter(|d| !is_one(d)))
}

/// What is done with indices: emitted, or analysed.
pub(super) trait Indices {
    type Index: Clone;
    fn zero(&mut self) -> Self::Index;
    /// `start + index * step`.
    fn scaled(&mut self, index: &Self::Index, start: &Dim, step: usize) -> Self::Index;
    /// `size - 1 - index`.
    fn reversed(&mut self, index: &Self::Index, size: &Dim) -> Self::Index;
}

/// The operand's index of an element of a move's result. Not for pads, nor reshapes that do more than add and drop ones.
pub(super) fn through<I: Indices>(i: &mut I, m: &Move, from: &[Dim], to: &[Dim], index: &[I::Index]) -> Vec<I::Index> {
    match m {
        Move::Permute(perm) => {
            let mut out = index.to_vec();
            for (at, d) in perm.iter().enumerate() {
                out[*d] = index[at].clone();
            }
            out
        }
        Move::Broadcast { dims, .. } => {
            let one = |i: &mut I, (d, size): (&usize, &Dim)| if is_one(size) { i.zero() } else { index[*d].clone() };
            dims.iter().zip(from).map(|x| one(i, x)).collect()
        }
        Move::Slice { dim, start, step, .. } => {
            let mut out = index.to_vec();
            if *start != Dim::Const(0) || *step != 1 {
                out[*dim] = i.scaled(&index[*dim], start, *step);
            }
            out
        }
        Move::Reverse(dim) => {
            let mut out = index.to_vec();
            out[*dim] = i.reversed(&index[*dim], &from[*dim]);
            out
        }
        Move::Reshape(_) => {
            let mut kept = to.iter().zip(index).filter(|(d, _)| !is_one(d)).map(|(_, x)| x.clone());
            from.iter()
                .map(|d| if is_one(d) { None } else { kept.next() })
                .map(|x| x.unwrap_or_else(|| i.zero()))
                .collect()
        }
        Move::Pad { .. } => index.to_vec(),
    }
}

/// What is known of an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Zero,
    /// The index of a loop over this dimension.
    Loop(usize),
    Other,
}

/// Finds out which dimensions are walked through in one step by all leaves.
struct Analysis<'a> {
    values: &'a Values,
    /// Dimensions whose index is computed with.
    pinned: HashSet<usize>,
    /// The indices of the leaves, with their sizes.
    leaves: Vec<Vec<(Known, Dim)>>,
    seen: HashSet<(Val, Vec<u32>)>,
}

impl Indices for Analysis<'_> {
    type Index = Known;

    fn zero(&mut self) -> Known {
        Known::Zero
    }

    fn scaled(&mut self, index: &Known, _: &Dim, _: usize) -> Known {
        self.pin(*index)
    }

    fn reversed(&mut self, index: &Known, _: &Dim) -> Known {
        self.pin(*index)
    }
}

impl Analysis<'_> {
    fn pin(&mut self, index: Known) -> Known {
        if let Known::Loop(d) = index {
            self.pinned.insert(d);
        }
        Known::Other
    }

    fn leaf(&mut self, shape: &[Dim], index: &[Known]) {
        let all = index.iter().copied().zip(shape.iter().cloned());
        self.leaves.push(all.filter(|(_, d)| !is_one(d)).collect());
    }

    fn visit(&mut self, v: Val, index: &[Known], root: bool) {
        let key = index.iter().map(|i| match i {
            Known::Zero => 0,
            Known::Other => 1,
            Known::Loop(d) => *d as u32 + 2,
        });
        if !self.seen.insert((v, key.collect())) {
            return;
        }
        let values = self.values;
        let info = values.get(v);
        if !root && values.is_stored(v) {
            return self.leaf(&info.ty.shape, index);
        }
        match &info.def {
            Def::Iota { dim } => {
                self.pin(index[*dim]);
            }
            Def::Map { operands, .. } => operands.iter().for_each(|(_, o)| self.visit(*o, index, false)),
            Def::Copy(o) => self.visit(*o, index, false),
            Def::View(m, o) => {
                let from = &values.get(*o).ty.shape;
                match m {
                    Move::Reshape(_) if !same_but_ones(from, &info.ty.shape) => self.leaf(&info.ty.shape, index),
                    Move::Pad { dim, .. } => {
                        let mut inner = index.to_vec();
                        inner[*dim] = self.pin(index[*dim]);
                        self.visit(*o, &inner, false);
                    }
                    _ => {
                        let inner = through(self, m, from, &info.ty.shape, index);
                        self.visit(*o, &inner, false);
                    }
                }
            }
            _ => self.leaf(&info.ty.shape, index),
        }
    }
}

/// Dimensions that one loop runs through.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// The dimensions, outermost first; the loop's index stands for the last one, the others' is 0.
    pub dims: Vec<usize>,
    /// The number of steps.
    pub extent: Dim,
}

/// What loops run over: expressions over the indices of a shape.
pub(super) struct Space<'a> {
    /// The shape.
    pub shape: &'a [Dim],
    /// Dimensions of one class may be walked through in one loop.
    pub class: &'a [usize],
    /// Dimensions that have a loop of their own.
    pub alone: &'a [usize],
}

impl Space<'_> {
    /// The loops: neighbouring dimensions of one class are one loop where every access allows it. `reads` are values with the
    /// dimensions of the shape that index them.
    pub(super) fn groups(&self, values: &Values, reads: &[(Val, Vec<usize>, bool)]) -> Vec<Group> {
        let mut a =
            Analysis { values, pinned: self.alone.iter().copied().collect(), leaves: vec![], seen: HashSet::new() };
        for (v, dims, root) in reads {
            let index: Vec<Known> =
                dims.iter().map(|d| if is_one(&self.shape[*d]) { Known::Zero } else { Known::Loop(*d) }).collect();
            a.visit(*v, &index, *root);
        }
        let real: Vec<usize> = (0..self.shape.len()).filter(|d| !is_one(&self.shape[*d])).collect();
        let mut groups: Vec<Group> = vec![];
        for d in real {
            if let Some(g) = groups.last_mut()
                && let Some(&last) = g.dims.last()
                && self.class[last] == self.class[d]
                && !a.pinned.contains(&last)
                && !a.pinned.contains(&d)
                && a.leaves.iter().all(|leaf| self.neighbours(leaf, last, d))
            {
                g.dims.push(d);
                g.extent = g.extent.clone().times(self.shape[d].clone());
                continue;
            }
            groups.push(Group { dims: vec![d], extent: self.shape[d].clone() });
        }
        groups
    }

    /// Whether a leaf has neither dimension, or both as neighbours of full size.
    fn neighbours(&self, leaf: &[(Known, Dim)], a: usize, b: usize) -> bool {
        let at = |d: usize| leaf.iter().position(|(k, _)| *k == Known::Loop(d));
        let times = |d: usize| leaf.iter().filter(|(k, _)| *k == Known::Loop(d)).count();
        match (at(a), at(b)) {
            (None, None) => true,
            (Some(x), Some(y)) => {
                let full = leaf[y].1 == self.shape[b] && leaf[x].1 == self.shape[a];
                x + 1 == y && full && times(a) == 1 && times(b) == 1
            }
            _ => false,
        }
    }
}
