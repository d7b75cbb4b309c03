//! Makes maps that read maps one map.
//!
//! What holds:
//! - A group is maps of one region and one shape, each of which reads another's result or is read by it. It becomes a map where
//!   the last of them stood; what only the group reads is a scalar there, and the rest are its results.
//! - Legal: whoever else reads a result of the group stands behind its last map. Nothing runs for other elements than before.
//! - Worth while: the body stays of a size that one loop keeps in registers.
//!
//! Reductions and products take their maps in when they are lowered (`lower/tensor`): what they read where they need it
//! depends on where tensors lie. Here is only what one loop over elements computes.

use std::collections::{HashMap, HashSet};

use super::Context;
use crate::entity::{NodeId, RegionId, ValueId};
use crate::error::Result;
use crate::graph::rewrite::{Change, Rebuild, Rewrite, captures, rebuild};
use crate::graph::{Node, Op, Program, TensorOp};
use crate::scalar::ScalarOp;
use crate::types::Type;

/// Scalar operations of a group at most.
const MAX_OPERATIONS: usize = 64;
/// Of these, functions that a loop of their own computes (exponentials and the like), at most.
const MAX_FUNCTIONS: usize = 6;

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    if !super::algebra::has_tensors(p) {
        return Ok(p.clone());
    }
    let mut groups = Groups::default();
    for func in &p.funcs {
        plan(p, func.body, cx, &mut groups);
    }
    rebuild(p, &mut Elementwise { groups })
}

/// Maps that become one.
struct Group {
    maps: Vec<NodeId>,
    /// Results that others read.
    results: Vec<ValueId>,
}

/// The groups by their last maps; and the maps that are not last.
#[derive(Default)]
struct Groups {
    by_last: HashMap<NodeId, Group>,
    inner: HashSet<NodeId>,
}

/// Finds the groups of a region and of those inside.
fn plan(p: &Program, region: RegionId, cx: &mut Context<'_>, out: &mut Groups) {
    let nodes = &p.region(region).nodes;
    let is_map = |n: NodeId| matches!(p.node(n).op, Op::Tensor(TensorOp::Map { .. }));
    let mut place = HashMap::new();
    for (at, n) in nodes.iter().enumerate() {
        let node = p.node(*n);
        if !is_map(*n) {
            node.regions.iter().for_each(|r| plan(p, *r, cx, out));
        }
        node.results.iter().for_each(|v| _ = place.insert(*v, at));
    }
    let readers = readers(p, region);
    // Each map is a group first; a group is named by its last map's place.
    let mut group: Vec<usize> = (0..nodes.len()).collect();
    let mut members: HashMap<usize, Vec<usize>> =
        nodes.iter().enumerate().filter(|(_, n)| is_map(**n)).map(|(at, _)| (at, vec![at])).collect();
    for at in 0..nodes.len() {
        if !is_map(nodes[at]) {
            continue;
        }
        for operand in &p.node(nodes[at]).operands {
            let Some(&from) = place.get(operand) else { continue };
            let (a, b) = (group[from], group[at]);
            if a == b || !is_map(nodes[from]) {
                continue;
            }
            let mut both = [&members[&a][..], &members[&b][..]].concat();
            both.sort_unstable();
            let ids: Vec<NodeId> = both.iter().map(|m| nodes[*m]).collect();
            if !is_legal(p, &both, &ids, &readers) || !is_worth_while(p, &ids) || !cx.spend() {
                continue;
            }
            members.remove(&a);
            members.remove(&b);
            let last = a.max(b);
            both.iter().for_each(|m| group[*m] = last);
            members.insert(last, both);
        }
    }
    let mut found: Vec<(usize, Vec<usize>)> = members.into_iter().filter(|(_, list)| list.len() > 1).collect();
    found.sort_unstable();
    for (last, list) in found {
        let ids: Vec<NodeId> = list.iter().map(|m| nodes[*m]).collect();
        let all: Vec<ValueId> = ids.iter().flat_map(|n| p.node(*n).results.iter().copied()).collect();
        let mut results: Vec<ValueId> = all.iter().copied().filter(|v| leaves(*v, &list, &readers)).collect();
        let node = p.node(nodes[last]);
        if let Some(t) = p.ty(node.results[0]).as_tensor() {
            let dims: Vec<String> = t.shape.iter().map(ToString::to_string).collect();
            let (n, gone, shape) = (ids.len(), all.len() - results.len(), dims.join(", "));
            cx.note(node.place, format!("{n} maps over [{shape}] are one, {gone} tensors between them are not stored"));
        }
        if results.is_empty() {
            results.push(node.results[0]);
        }
        out.inner.extend(ids.iter().filter(|n| **n != nodes[last]));
        out.by_last.insert(nodes[last], Group { maps: ids, results });
    }
}

/// The places of the nodes that read a value of a region, themselves or in their regions; that of no node for its results.
fn readers(p: &Program, region: RegionId) -> HashMap<ValueId, Vec<usize>> {
    let mut out: HashMap<ValueId, Vec<usize>> = HashMap::new();
    let nodes = &p.region(region).nodes;
    for (at, n) in nodes.iter().enumerate() {
        let node = p.node(*n);
        node.operands.iter().for_each(|v| out.entry(*v).or_default().push(at));
        for r in &node.regions {
            captures(p, *r).iter().for_each(|v| out.entry(*v).or_default().push(at));
        }
    }
    p.region(region).results.iter().for_each(|v| out.entry(*v).or_default().push(nodes.len()));
    out
}

/// Whether a value is read outside of the group.
fn leaves(v: ValueId, group: &[usize], readers: &HashMap<ValueId, Vec<usize>>) -> bool {
    readers.get(&v).is_some_and(|list| list.iter().any(|at| !group.contains(at)))
}

fn is_legal(p: &Program, group: &[usize], ids: &[NodeId], readers: &HashMap<ValueId, Vec<usize>>) -> bool {
    let last = group.last().copied().unwrap_or(0);
    let results = ids.iter().flat_map(|n| &p.node(*n).results);
    let mut outside = results.flat_map(|v| readers.get(v).into_iter().flatten()).filter(|at| !group.contains(at));
    outside.all(|at| *at > last)
}

fn is_worth_while(p: &Program, ids: &[NodeId]) -> bool {
    let operations = || ids.iter().flat_map(|n| &p.region(p.node(*n).regions[0]).nodes).map(|n| &p.node(*n).op);
    let count = operations().filter(|op| !matches!(op, Op::Literal(..))).count();
    let functions = operations().filter(|op| matches!(op, Op::Scalar(op) if is_function(*op))).count();
    count <= MAX_OPERATIONS && functions <= MAX_FUNCTIONS
}

fn is_function(op: ScalarOp) -> bool {
    use ScalarOp as O;
    matches!(op, O::Exp | O::Log | O::Log1p | O::Tanh | O::Sigmoid | O::Erf | O::Sin | O::Cos | O::Pow)
}

struct Elementwise {
    groups: Groups,
}

impl Rewrite for Elementwise {
    fn node(&mut self, cx: &mut Rebuild<'_>, id: NodeId, node: &Node) -> Result<Change> {
        if self.groups.inner.contains(&id) {
            return Ok(Change::Drop);
        }
        let Some(group) = self.groups.by_last.remove(&id) else { return Ok(Change::Keep) };
        let old = cx.old;
        // What the group reads from outside, each once.
        let made: HashSet<ValueId> = group.maps.iter().flat_map(|n| old.node(*n).results.iter().copied()).collect();
        let mut operands: Vec<ValueId> = vec![];
        for v in group.maps.iter().flat_map(|n| &old.node(*n).operands) {
            if !made.contains(v) && !operands.contains(v) {
                operands.push(*v);
            }
        }
        let new = cx.values(&operands)?;
        let element = |v: &ValueId| cx.ty(*v).as_tensor().map(|t| Type::Scalar(t.dtype.nullable(false)));
        let types: Vec<Type> = new.iter().filter_map(element).collect();
        let op = cx.map_op(&node.op)?;
        let params = cx.b.begin_region(&types, vec![]);
        let mut scalars: HashMap<ValueId, ValueId> = operands.iter().copied().zip(params).collect();
        for n in &group.maps {
            let map = old.node(*n);
            let arguments: Vec<ValueId> = map.operands.iter().filter_map(|v| scalars.get(v).copied()).collect();
            let results = cx.inline(self, map.regions[0], &arguments)?;
            scalars.extend(map.results.iter().copied().zip(results));
        }
        let body: Vec<ValueId> = group.results.iter().filter_map(|v| scalars.get(v).copied()).collect();
        let region = cx.b.end_region(&body);
        cx.b.set_place(node.place);
        let results = cx.b.push(op, &new, &[region])?;
        cx.b.set_place(None);
        for (old, new) in group.results.iter().zip(&results) {
            cx.set_value(*old, *new);
        }
        let own = |v: &ValueId| group.results.iter().position(|r| r == v).and_then(|at| results.get(at).copied());
        Ok(Change::Some(node.results.iter().map(own).collect()))
    }
}
