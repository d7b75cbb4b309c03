//! Branches, calls and loops, backwards.

use std::collections::HashSet;

use ir::entity::{NodeId, RegionId, ValueId};
use ir::graph::{ControlOp, Node, Op, TensorOp};
use ir::scalar::ScalarOp;
use ir::types::{Dim, ScalarType, Type};
use ir::value::Value;

use super::tape::{Keep, Residuals, new_sum, pop_frame, push_frame, read_sum, step};
use super::{Reverse, captures, is_float, varied, zero};
use crate::error::Result;

/// What a body with adjoints to hand out reads from outside of it, and how these adjoints get there.
struct Captured {
    /// All that are varied.
    all: Vec<ValueId>,
}

impl Captured {
    fn of(r: &Reverse<'_>, node: &Node) -> Self {
        let p = r.b.program();
        Self { all: captures(p, node).into_iter().filter(|v| r.is_varied(*v) && !p.ty(*v).is_linear()).collect() }
    }

    /// A sum for each, which a loop carries: the one that runs already, or a new one.
    fn sums(&self, r: &mut Reverse<'_>) -> Result<Vec<ValueId>> {
        let sum = |v: &ValueId| r.level.sums.get(v).copied().map_or_else(|| new_sum(r.b, *v), Ok);
        self.all.iter().map(sum).collect()
    }

    /// The sums behind a loop: those that run go on, new ones are read. First of all: what else is handed out may be added to
    /// one of them.
    fn hand_out(&self, r: &mut Reverse<'_>, sums: impl Iterator<Item = ValueId>) -> Result<()> {
        for (v, sum) in self.all.iter().zip(sums) {
            if r.level.sums.contains_key(v) {
                r.level.sums.insert(*v, sum);
            } else {
                let d = read_sum(r.b, sum)?;
                r.add(*v, d)?;
            }
        }
        Ok(())
    }
}

/// A loop's body: what is varied in it, and which of its state has adjoints.
struct Varied {
    inside: HashSet<ValueId>,
    active: Vec<usize>,
    slices: Vec<usize>,
}

/// `params` are the state's and the slices', for `operands`; varied is what comes in so, until nothing more comes around.
fn varied_in(r: &Reverse<'_>, body: RegionId, params: &[ValueId], operands: &[ValueId], states: usize) -> Varied {
    let p = r.b.program();
    let region = p.region(body);
    let mut from: HashSet<ValueId> = r.outer_varied(body);
    from.extend(params.iter().zip(operands).filter(|(_, o)| r.is_varied(**o)).map(|(p, _)| *p));
    let inside = loop {
        let inside = varied(p, &region.nodes, from.clone());
        let more: Vec<ValueId> = (0..states)
            .filter(|j| inside.contains(&region.results[*j]) && !from.contains(&params[*j]))
            .map(|j| params[j])
            .collect();
        if more.is_empty() {
            break inside;
        }
        from.extend(more);
    };
    // Another gradient's tape has no adjoint.
    let active = (0..states).filter(|j| from.contains(&params[*j]) && is_float(p, params[*j])).collect();
    let slices = (states..params.len()).filter(|j| from.contains(&params[*j])).map(|j| j - states).collect();
    Varied { inside, active, slices }
}

/// The reverse of the branch that ran: each branch leaves a frame, and its reverse gives an adjoint for everything that
/// either of them reads.
pub(crate) fn branch(r: &mut Reverse<'_>, node: &Node, outs: &[Option<ValueId>]) -> Result<()> {
    let tape = r.tape_here(node)?;
    let captured = Captured::of(r, node);
    let (summed, plain): (Vec<ValueId>, Vec<ValueId>) =
        captured.all.iter().partition(|v| r.level.sums.contains_key(*v));
    let at = node.results.len() - 1;
    let mut regions = vec![];
    for body in &node.regions {
        let region = r.b.program().region(*body).clone();
        let inside = varied(r.b.program(), &region.nodes, r.outer_varied(*body));
        let sums = summed.iter().map(|v| (*v, r.level.sums[v])).collect();
        let outer = r.enter(inside);
        let forward_tape = r.thread(*body, &region.nodes, region.results[at])?;
        r.b.begin_region(&[], vec![]);
        let made = (|| {
            let (pop, below) = pop_frame(r.b, *body, tape)?;
            r.level.tape = Some(below);
            r.level.sums = sums;
            for (v, d) in region.results.iter().zip(outs) {
                if let Some(d) = d {
                    r.add(*v, *d)?;
                }
            }
            r.run(&region.nodes)?;
            let mut yields = vec![];
            for v in &plain {
                yields.push(r.adjoint_or_zero(*v)?);
            }
            yields.extend(summed.iter().map(|v| r.level.sums[v]));
            yields.push(r.end_tape()?);
            Ok((pop, yields))
        })();
        let made: Result<(NodeId, Vec<ValueId>)> = made;
        let reverse = r.b.end_region(made.as_ref().map_or(&[], |m| &m.1));
        let (pop, _) = made?;
        r.leave(outer);
        regions.push(reverse);
        let kept = Residuals::new(r.b.program(), Keep::Frame { pop }, *body, reverse).lift(r.b)?;
        push_frame(r.b, *body, at, forward_tape, &kept)?;
    }
    let mut found = r.b.push(Op::Control(ControlOp::If), &node.operands, &regions)?;
    r.level.tape = found.pop();
    let sums = found.split_off(plain.len());
    r.level.sums.extend(summed.into_iter().zip(sums));
    plain.iter().zip(found).try_for_each(|(v, d)| r.add(*v, d))
}

/// The loop that runs the other way. Its state: adjoints of the state, sums for what the body captures, the tape. Its slices:
/// adjoints of the stacked results, then the values of the forward body that it reads. It yields, stacked, adjoints of the
/// forward slices.
pub(crate) fn for_loop(
    r: &mut Reverse<'_>,
    id: NodeId,
    node: &Node,
    outs: &[Option<ValueId>],
    (length, states, backwards): (&Dim, usize, bool),
) -> Result<()> {
    let body = node.regions[0];
    let region = r.b.program().region(body).clone();
    let (state_params, slice_params) = region.params[1..].split_at(states);
    let (state_operands, slice_operands) = node.operands.split_at(states);
    let captured = Captured::of(r, node);
    let Varied { inside, active, slices } = varied_in(r, body, &region.params[1..], &node.operands, states);
    let seeded: Vec<usize> =
        (states..region.results.len()).filter(|j| outs[*j].is_some() && inside.contains(&region.results[*j])).collect();
    let tape = if r.level.taped.contains(&id) { Some(r.tape_here(node)?) } else { None };

    let mut operands = vec![];
    for j in &active {
        operands.push(match outs[*j] {
            Some(d) => d,
            None => zero(r.b, state_operands[*j])?,
        });
    }
    operands.extend(captured.sums(r)?);
    operands.extend(tape);
    let state = operands.len();
    operands.extend(seeded.iter().filter_map(|j| outs[*j]));
    let op = Op::Control(ControlOp::For { length: length.clone(), state, reverse: !backwards });

    let outer = r.enter(inside);
    if tape.is_some() {
        let behind = r.thread(body, &region.nodes, state_params[states - 1])?;
        r.b.program_mut().regions[body.index()].results[states - 1] = behind;
    }
    let (types, columns) = r.b.region_entry(&op, &operands, &[])?;
    let params = r.b.begin_region(&types, columns);
    let made = (|| -> Result<Vec<ValueId>> {
        let (adjoints, rest) = params[1..].split_at(active.len());
        let (sums, rest) = rest.split_at(captured.all.len());
        r.level.sums = captured.all.iter().copied().zip(sums.iter().copied()).collect();
        let rest = match tape {
            Some(_) => {
                r.level.tape = Some(rest[0]);
                &rest[1..]
            }
            None => rest,
        };
        for (j, d) in active.iter().zip(adjoints).chain(seeded.iter().zip(rest)) {
            r.add(region.results[*j], *d)?;
        }
        r.run(&region.nodes)?;
        let mut yields = vec![];
        for j in &active {
            yields.push(r.adjoint_or_zero(state_params[*j])?);
        }
        yields.extend(captured.all.iter().map(|v| r.level.sums[v]));
        if tape.is_some() {
            yields.push(r.end_tape()?);
        }
        for j in &slices {
            yields.push(r.adjoint_or_zero(slice_params[*j])?);
        }
        Ok(yields)
    })();
    let reverse = r.b.end_region(made.as_deref().unwrap_or(&[]));
    made?;
    r.leave(outer);

    let keep = Keep::Stack { forward: id, states, slices: slice_operands, length };
    let mut residuals = Residuals::new(r.b.program(), keep, body, reverse);
    residuals.known.insert(region.params[0], params[0]);
    operands.extend(residuals.lift(r.b)?);
    let mut found = r.b.push(op, &operands, &[reverse])?.into_iter();
    let adjoints: Vec<ValueId> = found.by_ref().take(active.len()).collect();
    captured.hand_out(r, found.by_ref().take(captured.all.len()))?;
    for (j, d) in active.iter().zip(adjoints) {
        r.add(state_operands[*j], d)?;
    }
    if tape.is_some() {
        r.level.tape = found.next();
    }
    for (j, d) in slices.iter().zip(found) {
        r.add(slice_operands[*j], d)?;
    }
    Ok(())
}

/// As many steps back as the loop took forward, each from the frame that the step left. The state: the steps to go, adjoints
/// of the state, sums for what the body captures, the tape.
pub(crate) fn while_loop(r: &mut Reverse<'_>, id: NodeId, node: &Node, outs: &[Option<ValueId>]) -> Result<()> {
    let body = node.regions[1];
    let region = r.b.program().region(body).clone();
    let states = region.params.len();
    if !r.level.taped.contains(&id) {
        return Err(ir::Error::Bug("a loop without a tape".into()).into());
    }
    let tape = r.tape_here(node)?;
    let captured = Captured::of(r, node);
    let Varied { inside, active, .. } = varied_in(r, body, &region.params, &node.operands, states);

    let mut operands = vec![node.results[states - 2]];
    for j in &active {
        operands.push(match outs[*j] {
            Some(d) => d,
            None => zero(r.b, node.operands[*j])?,
        });
    }
    operands.extend(captured.sums(r)?);
    operands.push(tape);
    let types: Vec<Type> = operands.iter().map(|v| r.b.ty(*v).clone()).collect();

    let params = r.b.begin_region(&types, vec![]);
    let more = r.b.map(&params[..1], |b, v| {
        let zero = b.literal(Value::I64(0), ScalarType::I64)?;
        Ok(vec![b.scalar(ScalarOp::Gt, &[v[0], zero])?])
    });
    let go_on = r.b.end_region(more.as_deref().unwrap_or(&[]));
    more?;

    let outer = r.enter(inside);
    let forward_tape = r.thread(body, &region.nodes, region.params[states - 1])?;
    let params = r.b.begin_region(&types, vec![]);
    let made = (|| -> Result<(NodeId, Vec<ValueId>)> {
        let (pop, below) = pop_frame(r.b, body, params[params.len() - 1])?;
        r.level.tape = Some(below);
        let (adjoints, rest) = params[1..].split_at(active.len());
        r.level.sums = captured.all.iter().copied().zip(rest.iter().copied()).collect();
        for (j, d) in active.iter().zip(adjoints) {
            r.add(region.results[*j], *d)?;
        }
        r.run(&region.nodes)?;
        let mut yields = vec![step(r.b, params[0], -1)?];
        for j in &active {
            yields.push(r.adjoint_or_zero(region.params[*j])?);
        }
        yields.extend(captured.all.iter().map(|v| r.level.sums[v]));
        yields.push(r.end_tape()?);
        Ok((pop, yields))
    })();
    let reverse = r.b.end_region(made.as_ref().map_or(&[], |m| &m.1));
    let (pop, _) = made?;
    r.leave(outer);
    let kept = Residuals::new(r.b.program(), Keep::Frame { pop }, body, reverse).lift(r.b)?;
    push_frame(r.b, body, states - 1, forward_tape, &kept)?;

    let mut found = r.b.push(Op::Control(ControlOp::While), &operands, &[go_on, reverse])?.into_iter().skip(1);
    let adjoints: Vec<ValueId> = found.by_ref().take(active.len()).collect();
    captured.hand_out(r, found.by_ref().take(captured.all.len()))?;
    for (j, d) in active.iter().zip(adjoints) {
        r.add(node.operands[*j], d)?;
    }
    r.level.tape = found.next();
    Ok(())
}

/// A call of the function's reverse.
pub(crate) fn call(r: &mut Reverse<'_>, id: NodeId, node: &Node, outs: &[Option<ValueId>]) -> Result<()> {
    let found = r.pairs.calls.get(&id).and_then(|key| Some((key.1.clone(), *r.pairs.list.get(key)?)));
    let Some((mask, pair)) = found else { return Err(ir::Error::Bug("a call without a reverse".into()).into()) };
    let tape = r.tape_here(node)?;
    let arguments = &node.operands[..mask.len()];
    let mut operands = vec![];
    for (v, d) in node.results.iter().zip(outs) {
        if is_float(r.b.program(), *v) {
            operands.push(d.map_or_else(|| zero(r.b, *v), Ok)?);
        }
    }
    // A sum that runs goes in, once.
    let mut sums: Vec<(ValueId, bool)> = vec![];
    for v in arguments.iter().zip(&mask).filter(|(_, m)| **m).map(|(v, _)| *v) {
        let runs = r.level.sums.contains_key(&v) && !sums.contains(&(v, true));
        operands.push(if runs { r.level.sums[&v] } else { new_sum(r.b, v)? });
        sums.push((v, runs));
    }
    operands.extend(arguments.iter().filter(|v| !r.b.ty(**v).is_linear()));
    operands.push(tape);
    let mut found = r.b.push(Op::Control(ControlOp::Call(pair.reverse)), &operands, &[])?;
    r.level.tape = found.pop();
    for ((v, runs), sum) in sums.iter().zip(&found) {
        if *runs {
            r.level.sums.insert(*v, *sum);
        }
    }
    for ((v, runs), sum) in sums.into_iter().zip(found) {
        if !runs {
            let d = read_sum(r.b, sum)?;
            r.add(v, d)?;
        }
    }
    Ok(())
}

/// What is added to a sum, and the sum before, have the adjoint of the sum behind.
pub(crate) fn acc_add(r: &mut Reverse<'_>, node: &Node, outs: &[Option<ValueId>]) -> Result<()> {
    let Some(d) = outs[0] else { return Ok(()) };
    node.operands.iter().try_for_each(|v| r.add(*v, d))
}

/// As [`acc_add`], for rows.
pub(crate) fn acc_rows(r: &mut Reverse<'_>, node: &Node, outs: &[Option<ValueId>]) -> Result<()> {
    let Some(d) = outs[0] else { return Ok(()) };
    r.add(node.operands[0], d)?;
    if r.is_varied(node.operands[2]) {
        let rows = r.b.tensor(TensorOp::Gather, &[d, node.operands[1]])?;
        r.add(node.operands[2], rows)?;
    }
    Ok(())
}
