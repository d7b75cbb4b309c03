//! Maps: the derivative of a map is a map, whose body has the derivatives of the scalar operations.

use std::collections::{HashMap, HashSet};

use ir::entity::{NodeId, ValueId};
use ir::graph::{Builder, Node, Op, Program};
use ir::scalar::ScalarOp;
use ir::types::Type;

use super::copy::Copy;
use super::{Reverse, captures, missing, nodes_before, varied};
use crate::error::Result;

/// What a parameter of the body stands for.
#[derive(Clone, Copy)]
enum Source {
    /// A tensor of which the map sees an element.
    Element(ValueId),
    /// A scalar from outside.
    Scalar(ValueId),
}

/// Adjoints of a map's operands. The body is first written apart, forwards and backwards; what the adjoints need of it then
/// becomes one map. Values of the forward body are computed again, unless the forward map yields them and they are dear.
pub(crate) fn map(reverse: &mut Reverse<'_>, node: &Node, outs: &[Option<ValueId>]) -> Result<()> {
    let program = reverse.b.program();
    let region = program.region(node.regions[0]).clone();
    let outer = captures(program, node);
    if outer.iter().any(|v| reverse.is_varied(*v)) {
        return Err(missing("map", "with respect to a scalar that its body captures"));
    }
    let scalar = |v: &ValueId| program.ty(*v).clone();
    let mut sources: Vec<Source> = node.operands.iter().map(|v| Source::Element(*v)).collect();
    let mut types: Vec<Type> = region.params.iter().map(scalar).collect();
    sources.extend(outer.iter().map(|v| Source::Scalar(*v)));
    types.extend(outer.iter().map(scalar));
    sources.extend(node.results.iter().map(|v| Source::Element(*v)));
    types.extend(region.results.iter().map(scalar));
    let seeded: Vec<(usize, ValueId)> = outs.iter().enumerate().filter_map(|(i, d)| d.map(|d| (i, d))).collect();
    sources.extend(seeded.iter().map(|(_, d)| Source::Element(*d)));
    types.extend(seeded.iter().map(|(i, _)| scalar(&region.results[*i])));

    // Written apart.
    let mut apart = Builder::new();
    let params = apart.begin_func(&types);
    let mut copy = Copy::new(Some(program));
    copy.values.extend(region.params.iter().chain(&outer).copied().zip(params.iter().copied()));
    let results = copy.region(&mut apart, node.regions[0])?;
    let yielded = &params[node.operands.len() + outer.len()..][..results.len()];
    let known: HashMap<ValueId, ValueId> =
        results.iter().zip(yielded).filter(|(v, _)| is_dear(apart.program(), **v)).map(|(v, y)| (*v, *y)).collect();
    let wanted: Vec<usize> = (0..node.operands.len()).filter(|i| reverse.is_varied(node.operands[*i])).collect();
    let from: HashSet<ValueId> = wanted.iter().map(|i| params[*i]).collect();
    let nodes = nodes_before(apart.program(), &results);
    let varied = varied(apart.program(), &nodes, from);
    let mut inner = Reverse::new(&mut apart, varied);
    let seeds = &params[params.len() - seeded.len()..];
    for ((i, _), seed) in seeded.iter().zip(seeds) {
        inner.add(results[*i], *seed)?;
    }
    inner.run(&nodes)?;
    let found: Vec<(ValueId, ValueId)> =
        wanted.iter().filter_map(|i| inner.adjoint(params[*i]).map(|d| (node.operands[*i], d))).collect();
    apart.end_func("apart", &[]);
    let apart = apart.finish();

    // An adjoint that is handed through needs no map.
    let through = |d: ValueId| params.iter().position(|p| *p == d);
    let mut made = vec![];
    for (operand, d) in found {
        match through(d).map(|i| sources[i]) {
            Some(Source::Element(d)) => reverse.add(operand, d)?,
            _ => made.push((operand, d)),
        }
    }
    if made.is_empty() {
        return Ok(());
    }
    let live = live(&apart, made.iter().map(|m| m.1), &known);
    let used: Vec<usize> = (0..params.len()).filter(|i| live.contains(&params[*i])).collect();
    let element = |i: &usize| if let Source::Element(v) = sources[*i] { Some((params[*i], v)) } else { None };
    let elements: Vec<(ValueId, ValueId)> = used.iter().filter_map(element).collect();
    let tensors: Vec<ValueId> = elements.iter().map(|e| e.1).collect();
    let new = reverse.b.map(&tensors, |b, values| {
        let mut copy = Copy::new(Some(&apart));
        copy.values.extend(elements.iter().map(|e| e.0).zip(values.iter().copied()));
        for (param, source) in params.iter().zip(&sources) {
            if let Source::Scalar(v) = source {
                copy.values.insert(*param, *v);
            }
        }
        for (v, y) in &known {
            if let Some(new) = copy.values.get(y).copied() {
                copy.values.insert(*v, new);
            }
        }
        for n in 0..apart.nodes.len() {
            let id = NodeId(n as u32);
            if apart.node(id).results.iter().any(|v| live.contains(v) && !known.contains_key(v)) {
                copy.node(b, id)?;
            }
        }
        copy.all(&made.iter().map(|m| m.1).collect::<Vec<_>>())
    })?;
    for ((operand, _), d) in made.iter().zip(new) {
        reverse.add(*operand, d)?;
    }
    Ok(())
}

/// Whether a scalar costs more to compute than to read.
fn is_dear(p: &Program, v: ValueId) -> bool {
    use ScalarOp as S;
    matches!(
        p.node_of(v).map(|n| &n.op),
        Some(Op::Scalar(
            S::Exp
                | S::Log
                | S::Log1p
                | S::Sqrt
                | S::Sin
                | S::Cos
                | S::Tan
                | S::Asin
                | S::Acos
                | S::Atan
                | S::Atan2
                | S::Tanh
                | S::Sigmoid
                | S::Erf
                | S::Pow
        ))
    )
}

/// The values that are needed, where those of `known` are read instead of computed.
fn live(p: &Program, from: impl Iterator<Item = ValueId>, known: &HashMap<ValueId, ValueId>) -> HashSet<ValueId> {
    let mut live = HashSet::new();
    let mut open: Vec<ValueId> = from.collect();
    while let Some(v) = open.pop() {
        if !live.insert(v) {
            continue;
        }
        if let Some(y) = known.get(&v) {
            open.push(*y);
        } else if let Some(node) = p.node_of(v) {
            open.extend(&node.operands);
            open.extend(captures(p, node));
            live.extend(&node.results);
        }
    }
    live
}
