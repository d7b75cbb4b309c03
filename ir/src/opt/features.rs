//! How models read their features, for the rules that look at a model's first product and at the query below it.

use std::collections::HashMap;

use crate::entity::{ColumnId, NodeId, RegionId, ValueId};
use crate::error::{Error, Result};
use crate::graph::bridge::TensorColumns;
use crate::graph::rewrite::{Rebuild, Rewrite, walk};
use crate::graph::tensor::ContractSpec;
use crate::graph::{BridgeOp, Def, Node, Op, Program, RelOp, TensorOp};
use crate::types::{Dim, Type};
use crate::value::{TensorData, TensorValue};

/// Where rows of a query become the features of a model.
pub(super) struct Model<'p> {
    /// An `apply`, or a `to_tensor` whose tensors the operations behind it read.
    pub(super) id: NodeId,
    /// The same.
    pub(super) node: &'p Node,
    /// The columns of each tensor.
    pub(super) groups: &'p [TensorColumns],
    /// The tensors.
    tensors: &'p [ValueId],
    /// The region that reads them.
    pub(super) region: RegionId,
}

impl<'p> Model<'p> {
    /// Those of a program's entry. What loops and functions hold is left alone, for there types of two places must agree.
    pub(super) fn all(p: &'p Program) -> Vec<Self> {
        let Some(entry) = p.entry_region() else { return vec![] };
        let of = |id: &NodeId| {
            let node = p.node(*id);
            match &node.op {
                Op::Bridge(BridgeOp::Apply { inputs, .. }) => {
                    let (region, tensors) = (node.regions[0], &p.region(node.regions[0]).params);
                    Some(Model { id: *id, node, groups: inputs, tensors, region })
                }
                Op::Bridge(BridgeOp::ToTensor { groups, .. }) => {
                    let region = p.func(p.entry?).body;
                    Some(Model { id: *id, node, groups, tensors: &node.results, region })
                }
                _ => None,
            }
        };
        entry.nodes.iter().filter_map(of).collect()
    }

    /// The operation with other columns for its tensors.
    pub(super) fn with(node: &Node, change: impl FnOnce(&mut Vec<TensorColumns>)) -> Op {
        let mut op = node.op.clone();
        if let Op::Bridge(BridgeOp::Apply { inputs: groups, .. } | BridgeOp::ToTensor { groups, .. }) = &mut op {
            change(groups);
        }
        op
    }

    /// The products with weights that read a tensor of features; `None` where anything else reads it.
    pub(super) fn products(&self, p: &'p Program, group: usize) -> Option<Vec<Product<'p>>> {
        let features = self.tensors[group];
        let mut products = vec![];
        for id in &p.region(self.region).nodes {
            if p.node(*id).operands.contains(&features) {
                products.push(product(p, *id, features)?);
            }
        }
        (readers(p, self.region, features)? == products.len() && !products.is_empty()).then_some(products)
    }
}

/// How many nodes of a region and of those inside read a value; `None` where a region yields it.
fn readers(p: &Program, region: RegionId, v: ValueId) -> Option<usize> {
    let mut count = 0;
    let mut yielded = p.region(region).results.contains(&v);
    walk(p, region, &mut |_, node| {
        count += usize::from(node.operands.contains(&v));
        yielded |= node.regions.iter().any(|r| p.region(*r).results.contains(&v));
    });
    (!yielded).then_some(count)
}

/// A product of a model's features, `[rows, features]`, with constant weights that sums over the features.
pub(super) struct Product<'p> {
    /// The contraction, a node of the model's region.
    pub(super) node: NodeId,
    /// Which operand the weights are.
    pub(super) side: usize,
    /// The weights.
    pub(super) weights: &'p TensorValue,
    /// The dimension of the weights that the features are.
    pub(super) axis: usize,
    /// For each dimension of the product that the weights bring, which it is of theirs.
    outputs: Vec<usize>,
}

fn product(p: &Program, id: NodeId, features: ValueId) -> Option<Product<'_>> {
    let node = p.node(id);
    let Op::Tensor(TensorOp::Contract(ContractSpec { a, b, out })) = &node.op else { return None };
    let side = usize::from(node.operands[0] == features);
    let (mine, theirs) = if side == 1 { (a, b) } else { (b, a) };
    let weights = constant(p, node.operands[side])?;
    let [rows, feature] = mine.as_slice() else { return None };
    let axis = theirs.iter().position(|l| l == feature)?;
    let twice = |labels: &[u8]| labels.iter().enumerate().any(|(i, l)| labels[..i].contains(l));
    let fits = rows != feature
        && !twice(theirs)
        && !theirs.contains(rows)
        && out.first() == Some(rows)
        && out.len() == theirs.len()
        && !out.contains(feature);
    let outputs = out[1..].iter().map(|l| theirs.iter().position(|x| x == l)).collect::<Option<Vec<_>>>()?;
    fits.then_some(Product { node: id, side, weights, axis, outputs })
}

/// The tensor that a value is, if it is a constant of floats.
pub(super) fn constant(p: &Program, v: ValueId) -> Option<&TensorValue> {
    match &p.node_of(v)?.op {
        Op::Tensor(TensorOp::Const(t)) if t.data.dtype().is_float() => Some(t),
        _ => None,
    }
}

/// A tensor of floats as doubles.
pub(super) fn doubles(t: &TensorValue) -> Vec<f64> {
    match &t.data {
        TensorData::F32(v) => v.iter().map(|x| f64::from(*x)).collect(),
        TensorData::F64(v) => v.clone(),
        TensorData::Bool(_) | TensorData::I32(_) | TensorData::I64(_) => vec![],
    }
}

/// Doubles as a tensor of another's type.
pub(super) fn like(t: &TensorValue, shape: Vec<usize>, data: &[f64]) -> TensorValue {
    let data = match &t.data {
        TensorData::F64(_) => TensorData::F64(data.to_vec()),
        _ => TensorData::F32(data.iter().map(|x| *x as f32).collect()),
    };
    TensorValue { shape, data }
}

impl Product<'_> {
    /// The feature that a weight belongs to, by its place in row-major order.
    pub(super) fn feature(&self, at: usize) -> usize {
        let inner: usize = self.weights.shape[self.axis + 1..].iter().product();
        at / inner % self.weights.shape[self.axis]
    }

    /// The shape of one row of the product.
    pub(super) fn row_shape(&self) -> Vec<usize> {
        self.outputs.iter().map(|i| self.weights.shape[*i]).collect()
    }

    /// The place in one row of the product that a weight adds to.
    pub(super) fn output(&self, at: usize) -> usize {
        let index = |dim: usize| {
            let inner: usize = self.weights.shape[dim + 1..].iter().product();
            at / inner % self.weights.shape[dim]
        };
        self.outputs.iter().fold(0, |sum, i| sum * self.weights.shape[*i] + index(*i))
    }
}

/// Where the columns that a program's entry computes from its rows come from.
pub(super) struct Definitions(HashMap<ColumnId, (NodeId, ValueId)>);

impl Definitions {
    pub(super) fn of(p: &Program) -> Self {
        let mut found = HashMap::new();
        for id in p.entry_region().iter().flat_map(|r| &r.nodes) {
            let node = p.node(*id);
            if let Op::Rel(RelOp::Extend { columns }) = &node.op {
                let values = &p.region(node.regions[0]).results;
                found.extend(columns.iter().zip(values).map(|(c, v)| (*c, (*id, *v))));
            }
        }
        Self(found)
    }

    /// The `extend` that computes a column, and the value in its region.
    pub(super) fn get(&self, column: ColumnId) -> Option<(NodeId, ValueId)> {
        self.0.get(&column).copied()
    }
}

/// An `extend` with more columns, of these names, for values of its region; its table and they.
pub(super) fn extend_by(
    cx: &mut Rebuild<'_>,
    rewrite: &mut dyn Rewrite,
    node: &Node,
    more: &[(ValueId, String)],
) -> Result<(ValueId, Vec<ColumnId>)> {
    let Op::Rel(RelOp::Extend { columns }) = cx.map_op(&node.op)? else {
        return Err(Error::Bug("an extend is expected".into()));
    };
    let mut added = vec![];
    for (value, name) in more {
        let ty = cx.old.ty(*value).as_scalar().ok_or_else(|| Error::Bug(format!("{value} is no scalar")))?;
        added.push(cx.b.program_mut().new_column(name.clone(), ty.ty));
    }
    let op = Op::Rel(RelOp::Extend { columns: [columns, added.clone()].concat() });
    let operands = cx.values(&node.operands)?;
    let (_, tables) = cx.b.region_entry(&op, &operands, &[])?;
    cx.b.begin_region(&[], tables);
    let mut results = cx.inline(rewrite, node.regions[0], &[])?;
    for (value, _) in more {
        results.push(cx.value(*value)?);
    }
    let region = cx.b.end_region(&results);
    cx.b.set_place(node.place);
    let table = cx.b.push1(op, &operands, &[region])?;
    cx.b.set_place(None);
    Ok((table, added))
}

/// Whether a column that an `extend` adds arrives at a table above it, and the projections on the way, which have to let it
/// pass; nothing else may read their tables. `readers` says how often values are read.
pub(super) fn way(p: &Program, extend: NodeId, at: ValueId, readers: &HashMap<ValueId, usize>) -> Option<Vec<NodeId>> {
    if p.node(extend).results.contains(&at) {
        return Some(vec![]);
    }
    let Def::Result(id, _) = p.values[at.index()].def else { return None };
    let node = p.node(id);
    let below = |i: usize| way(p, extend, node.operands[i], readers);
    match &node.op {
        Op::Rel(RelOp::Join { kind }) if kind.has_right() => below(0).or_else(|| below(1)),
        Op::Rel(RelOp::Project { .. }) if readers.get(&at) == Some(&1) => {
            let mut found = below(0)?;
            found.push(id);
            Some(found)
        }
        Op::Rel(
            RelOp::Join { .. }
            | RelOp::Extend { .. }
            | RelOp::Filter
            | RelOp::Sort { .. }
            | RelOp::Limit { .. }
            | RelOp::Window { .. },
        )
        | Op::Bridge(BridgeOp::Apply { .. }) => below(0),
        _ => None,
    }
}

/// Whether two programs have results of the same types: columns that a pass adds must not come so far.
pub(super) fn same_results(old: &Program, new: &Program) -> bool {
    let types = |p: &Program| -> Option<Vec<Type>> {
        Some(p.entry_region()?.results.iter().map(|v| p.ty(*v).clone()).collect())
    };
    types(old) == types(new)
}

/// A shape of known sizes.
pub(super) fn dims(sizes: &[usize]) -> Vec<Dim> {
    sizes.iter().map(|n| Dim::Const(*n)).collect()
}
