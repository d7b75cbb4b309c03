//! Branches, calls and loops.

use std::collections::{HashMap, HashSet};

use ir::entity::{FuncId, NodeId, RegionId, ValueId};
use ir::graph::{ControlOp, Def, Node, Op, Program, TensorOp, ValueData};
use ir::types::{Dim, TensorType, Type};
use smallvec::{SmallVec, smallvec};

use super::copy::Copy;
use super::{Reverse, captures, is_float, local_adjoints, missing, reads, varied, zero};
use crate::error::Result;

/// The branch that ran is run again, then backwards; each branch gives an adjoint for everything that either of them reads.
pub(crate) fn branch(r: &mut Reverse<'_>, node: &Node, outs: &[Option<ValueId>]) -> Result<()> {
    let outer = captures(r.b.program(), node);
    let wanted: Vec<ValueId> = outer.iter().copied().filter(|v| r.is_varied(*v)).collect();
    let boundary: HashSet<ValueId> = outer.into_iter().collect();
    let mut regions = vec![];
    for old in &node.regions {
        r.b.begin_region(&[], vec![]);
        let made = (|| -> Result<Vec<ValueId>> {
            let mut copy = Copy::new(None);
            let results = copy.region(r.b, *old)?;
            let seeds = seeds(r, &results, outs);
            let found = local_adjoints(r.b, &seeds, &boundary, &wanted)?;
            found.into_iter().zip(&wanted).map(|(d, v)| d.map_or_else(|| zero(r.b, *v), Ok)).collect()
        })();
        let yields = made.as_deref().unwrap_or(&[]);
        regions.push(r.b.end_region(yields));
        made?;
    }
    let found = r.b.push(Op::Control(ControlOp::If), &node.operands, &regions)?;
    wanted.iter().zip(found).try_for_each(|(v, d)| r.add(*v, d))
}

/// The function's body is written once more, then backwards. A function that calls itself has no derivative yet.
pub(crate) fn call(r: &mut Reverse<'_>, f: FuncId, node: &Node, outs: &[Option<ValueId>]) -> Result<()> {
    let name = r.b.program().func(f).name.clone();
    if calls(r.b.program(), f, &mut vec![]) {
        return Err(missing(format!("call of {name}"), "it calls itself"));
    }
    let body = r.b.program().func(f).body;
    let params = r.b.program().region(body).params.clone();
    // Arguments are told apart by a name each: one value may be given twice, or be computed from another.
    let mut copy = Copy::new(None);
    copy.values.extend(params.iter().copied().zip(node.operands.iter().copied()));
    let results = copy.region(r.b, body)?;
    let seeds = seeds(r, &results, outs);
    let mut wanted: Vec<ValueId> = vec![];
    node.operands.iter().for_each(|v| {
        if r.is_varied(*v) && !wanted.contains(v) {
            wanted.push(*v);
        }
    });
    let boundary: HashSet<ValueId> = node.operands.iter().copied().collect();
    let found = local_adjoints(r.b, &seeds, &boundary, &wanted)?;
    for (v, d) in wanted.iter().zip(found) {
        if let Some(d) = d {
            r.add(*v, d)?;
        }
    }
    Ok(())
}

/// Whether a function reaches itself by calls.
fn calls(p: &Program, f: FuncId, path: &mut Vec<FuncId>) -> bool {
    if path.contains(&f) {
        return true;
    }
    path.push(f);
    let mut found = false;
    ir::graph::rewrite::walk(p, p.func(f).body, &mut |_, node| {
        if let Op::Control(ControlOp::Call(g)) = node.op {
            found = found || calls(p, g, path);
        }
    });
    path.pop();
    found
}

fn seeds(r: &Reverse<'_>, results: &[ValueId], outs: &[Option<ValueId>]) -> Vec<(ValueId, ValueId)> {
    let float = |v: &ValueId| is_float(r.b.program(), *v);
    results.iter().zip(outs).filter(|(v, _)| float(v)).filter_map(|(v, d)| d.map(|d| (*v, d))).collect()
}

/// The loop that runs the other way. Its state: adjoints of the state, and running adjoints of what the body captures. Its
/// slices: adjoints of the stacked results, then the values of the forward body that it reads. It yields, stacked, adjoints of
/// the forward slices.
pub(crate) fn for_loop(
    r: &mut Reverse<'_>,
    id: NodeId,
    node: &Node,
    outs: &[Option<ValueId>],
    (length, states, backwards): (&Dim, usize, bool),
) -> Result<()> {
    let p = r.b.program();
    let body = node.regions[0];
    let region = p.region(body).clone();
    let (state_params, slice_params) = region.params[1..].split_at(states);
    let (state_operands, slice_operands) = node.operands.split_at(states);
    let captured: Vec<ValueId> = captures(p, node).into_iter().filter(|v| r.is_varied(*v)).collect();

    // What is varied inside, until nothing more comes around.
    let mut from: HashSet<ValueId> = captured.iter().copied().collect();
    from.extend(region.params[1..].iter().zip(&node.operands).filter(|(_, o)| r.is_varied(**o)).map(|(p, _)| *p));
    let inside = loop {
        let inside = varied(p, &region.nodes, from.clone());
        let more: Vec<ValueId> = (0..states)
            .filter(|j| inside.contains(&region.results[*j]) && !from.contains(&state_params[*j]))
            .map(|j| state_params[j])
            .collect();
        if more.is_empty() {
            break inside;
        }
        from.extend(more);
    };
    let active: Vec<usize> = (0..states).filter(|j| from.contains(&state_params[*j])).collect();
    let slices: Vec<usize> = (0..slice_params.len()).filter(|j| from.contains(&slice_params[*j])).collect();
    let seeded: Vec<usize> =
        (states..region.results.len()).filter(|j| outs[*j].is_some() && inside.contains(&region.results[*j])).collect();

    let mut operands = vec![];
    for j in &active {
        operands.push(match outs[*j] {
            Some(d) => d,
            None => zero(r.b, state_operands[*j])?,
        });
    }
    for v in &captured {
        operands.push(zero(r.b, *v)?);
    }
    operands.extend(seeded.iter().filter_map(|j| outs[*j]));
    let op = Op::Control(ControlOp::For {
        length: length.clone(),
        state: active.len() + captured.len(),
        reverse: !backwards,
    });

    let (types, columns) = r.b.region_entry(&op, &operands, &[])?;
    let params = r.b.begin_region(&types, columns);
    let made = (|| -> Result<Vec<ValueId>> {
        let mut inner = Reverse::new(r.b, inside);
        for (j, d) in active.iter().zip(&params[1..]) {
            inner.add(region.results[*j], *d)?;
        }
        for (j, d) in seeded.iter().zip(&params[1 + active.len() + captured.len()..]) {
            inner.add(region.results[*j], *d)?;
        }
        inner.run(&region.nodes)?;
        let mut yields = vec![];
        for j in &active {
            yields.push(inner.adjoint(state_params[*j]).map_or_else(|| zero(inner.b, state_params[*j]), Ok)?);
        }
        for (v, sum) in captured.iter().zip(&params[1 + active.len()..]) {
            yields.push(match inner.adjoint(*v) {
                Some(d) => inner.plus(*sum, d)?,
                None => *sum,
            });
        }
        for j in &slices {
            yields.push(inner.adjoint(slice_params[*j]).map_or_else(|| zero(inner.b, slice_params[*j]), Ok)?);
        }
        Ok(yields)
    })();
    let new_body = r.b.end_region(made.as_deref().unwrap_or(&[]));
    made?;

    let mut residuals = Residuals { forward: id, body, slice_operands, length, new_body, known: HashMap::new() };
    residuals.known.insert(region.params[0], params[0]);
    operands.extend(residuals.lift(r)?);
    let found = r.b.push(op, &operands, &[new_body])?;
    let mut found = found.into_iter();
    for j in &active {
        let d = found.next().unwrap_or(node.operands[*j]);
        r.add(state_operands[*j], d)?;
    }
    for v in &captured {
        let d = found.next().unwrap_or(*v);
        r.add(*v, d)?;
    }
    for j in &slices {
        let d = found.next().unwrap_or(slice_operands[*j]);
        r.add(slice_operands[*j], d)?;
    }
    Ok(())
}

/// What the loop that runs the other way reads of the forward loop's body.
struct Residuals<'a> {
    forward: NodeId,
    body: RegionId,
    slice_operands: &'a [ValueId],
    length: &'a Dim,
    new_body: RegionId,
    /// Values of the forward body, and what stands for them in the new one.
    known: HashMap<ValueId, ValueId>,
}

impl Residuals<'_> {
    /// Gives the new body parameters for what it reads of the forward body; the operands for them. A slice is read again,
    /// a view or a constant made again; all else is stacked by the forward loop.
    fn lift(&mut self, r: &mut Reverse<'_>) -> Result<Vec<ValueId>> {
        let p = r.b.program();
        let (mut defined, mut read) = (HashSet::new(), vec![]);
        reads(p, self.new_body, &mut defined, &mut read);
        let mut operands = vec![];
        let mut again = vec![];
        for v in read {
            if !defined.contains(&v) && self.is_forward(r.b.program(), v) {
                self.resolve(r, v, &mut operands, &mut again)?;
            }
        }
        let p = r.b.program_mut();
        again.append(&mut p.regions[self.new_body.index()].nodes);
        p.regions[self.new_body.index()].nodes = again;
        replace(p, self.new_body, &self.known);
        Ok(operands)
    }

    /// Whether a value is defined in the forward body itself.
    fn is_forward(&self, p: &Program, v: ValueId) -> bool {
        match p.values[v.index()].def {
            Def::Param(region, _) => region == self.body,
            Def::Result(n, _) => p.region(self.body).nodes.contains(&n),
        }
    }

    fn resolve(
        &mut self,
        r: &mut Reverse<'_>,
        v: ValueId,
        operands: &mut Vec<ValueId>,
        again: &mut Vec<NodeId>,
    ) -> Result<ValueId> {
        let p = r.b.program();
        if let Some(new) = self.known.get(&v) {
            return Ok(*new);
        }
        if !self.is_forward(p, v) {
            return Ok(v);
        }
        if let Some(node) = p.node_of(v).filter(|n| is_cheap(&n.op)).cloned() {
            let mut inputs: SmallVec<[ValueId; 3]> = smallvec![];
            for o in &node.operands {
                inputs.push(self.resolve(r, *o, operands, again)?);
            }
            let p = r.b.program_mut();
            let id = NodeId(p.nodes.len() as u32);
            let new = ValueId(p.values.len() as u32);
            let ty = p.ty(v).clone();
            p.values.push(ValueData { ty, def: Def::Result(id, 0) });
            p.nodes.push(Node { operands: inputs, results: smallvec![new], ..node });
            again.push(id);
            self.known.insert(v, new);
            return Ok(new);
        }
        let Type::Tensor(ty) = p.ty(v).clone() else {
            return Err(missing("for", format!("its body computes with {}, which cannot be stacked", p.ty(v))));
        };
        let states = p.node(self.forward).operands.len() - self.slice_operands.len();
        let operand = match p.values[v.index()].def {
            Def::Param(_, i) if i as usize > states => self.slice_operands[i as usize - 1 - states],
            _ => self.stacked(r, v, &ty, states),
        };
        let p = r.b.program_mut();
        let new = ValueId(p.values.len() as u32);
        let index = p.region(self.new_body).params.len() as u32;
        p.values.push(ValueData { ty: Type::Tensor(ty), def: Def::Param(self.new_body, index) });
        p.regions[self.new_body.index()].params.push(new);
        operands.push(operand);
        self.known.insert(v, new);
        Ok(new)
    }

    /// The result of the forward loop that stacks a value of its body; added where there is none yet.
    fn stacked(&self, r: &mut Reverse<'_>, v: ValueId, ty: &TensorType, states: usize) -> ValueId {
        let p = r.b.program_mut();
        let results = &p.region(self.body).results;
        if let Some(i) = results[states..].iter().position(|x| *x == v) {
            return p.node(self.forward).results[states + i];
        }
        let index = results.len() as u32;
        let shape = std::iter::once(self.length.clone()).chain(ty.shape.iter().cloned());
        let ty = Type::Tensor(TensorType::new(ty.dtype, shape));
        let new = ValueId(p.values.len() as u32);
        p.values.push(ValueData { ty, def: Def::Result(self.forward, index) });
        p.regions[self.body.index()].results.push(v);
        p.nodes[self.forward.index()].results.push(new);
        new
    }
}

/// Whether a value is better made again than kept.
fn is_cheap(op: &Op) -> bool {
    matches!(op, Op::Tensor(TensorOp::View(_) | TensorOp::Const(_) | TensorOp::Iota { .. }) | Op::Literal(..))
}

/// Reads other values in a region and those inside.
fn replace(p: &mut Program, region: RegionId, by: &HashMap<ValueId, ValueId>) {
    let new = |v: &mut ValueId| *v = by.get(v).copied().unwrap_or(*v);
    p.regions[region.index()].results.iter_mut().for_each(new);
    for n in p.region(region).nodes.clone() {
        p.nodes[n.index()].operands.iter_mut().for_each(new);
        for inner in p.node(n).regions.clone() {
            replace(p, inner, by);
        }
    }
}
