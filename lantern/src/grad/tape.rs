//! What the forward pass keeps for the reverse one.
//!
//! The forward pass is changed in place. What holds:
//! - One gradient has one tape. It is threaded through the operations that need it (`if`, `while`, calls, and loops around
//!   them) in the order in which they run, and through their reverse in the opposite order: each reverse leaves the tape as
//!   its forward found it.
//! - A body that leaves a frame (a branch, a step of a `while`, a function) pushes it last, and its reverse pops it first.
//!   The frame's tag is the number of the forward region. It holds those values of the forward body that the reverse reads;
//!   views and constants are made again, parameters of a function are given again.
//! - A `for` needs no frames: the values of its body that the reverse reads become stacked results of it.
//! - Every operation through which the tape was threaded is reversed, with zeros where no adjoint came: else its frames
//!   would stay on the tape.

use std::collections::{HashMap, HashSet};

use ir::entity::{FuncId, NodeId, RegionId, ValueId};
use ir::graph::{Builder, ControlOp, Def, Node, Op, Program, TensorOp, ValueData};
use ir::scalar::ScalarOp;
use ir::types::{Dim, ScalarType, TensorType, Type};
use ir::value::{TensorData, Value};
use smallvec::{SmallVec, smallvec};

use super::copy::{Copy, unique_name};
use super::{Reverse, adjoint_type, captures, is_float, missing, reads, varied};
use crate::error::Result;
use crate::stage::constant;

/// Functions of this gradient, by function and by which of its parameters are varied.
#[derive(Default)]
pub(crate) struct Pairs {
    pub(super) list: HashMap<(FuncId, Vec<bool>), Pair>,
    /// Which pair a call became.
    pub(super) calls: HashMap<NodeId, (FuncId, Vec<bool>)>,
}

/// A function's forward, which takes and gives a tape beside what the function does, and its reverse.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    pub(super) forward: FuncId,
    pub(super) reverse: FuncId,
}

/// Whether an operation needs a tape: one of unknown length, or one that chooses.
pub(super) fn needs_tape(p: &Program, node: &Node) -> bool {
    match node.op {
        Op::Control(ControlOp::If | ControlOp::While | ControlOp::Call(_)) => true,
        Op::Control(ControlOp::For { .. }) => {
            let mut found = false;
            ir::graph::rewrite::walk(p, node.regions[0], &mut |_, node| {
                let op = &node.op;
                found |= matches!(op, Op::Control(ControlOp::If | ControlOp::While | ControlOp::Call(_)));
            });
            found
        }
        _ => false,
    }
}

impl Reverse<'_> {
    /// Threads a new tape through nodes of the open region, if one of them needs it.
    pub(super) fn begin_tape(&mut self, nodes: &[NodeId]) -> Result<()> {
        let taped: Vec<NodeId> = nodes.iter().copied().filter(|n| self.takes_tape(*n)).collect();
        let Some(first) = taped.first() else { return Ok(()) };
        let here = self.b.current_region();
        let inside: HashSet<NodeId> = self.b.program().region(here).nodes.iter().copied().collect();
        if let Some(n) = taped.iter().find(|n| !inside.contains(n)) {
            let name = name_of(&self.b.program().node(*n).op);
            return Err(missing(name, "it stands outside of the loop in which the gradient is taken"));
        }
        let tape = self.b.push1(Op::Control(ControlOp::TapeNew), &[], &[])?;
        move_before(self.b.program_mut(), here, *first);
        self.level.tape = Some(self.thread(here, nodes, tape)?);
        Ok(())
    }

    fn takes_tape(&self, n: NodeId) -> bool {
        let p = self.b.program();
        let node = p.node(n);
        needs_tape(p, node)
            && (node.operands.iter().any(|v| self.is_varied(*v))
                || captures(p, node).iter().any(|v| self.is_varied(*v)))
    }

    /// Threads a tape through those of a region's nodes that need it; the tape behind them.
    pub(super) fn thread(&mut self, region: RegionId, nodes: &[NodeId], tape: ValueId) -> Result<ValueId> {
        let mut tape = tape;
        for n in nodes.iter().copied().filter(|n| self.takes_tape(*n)).collect::<Vec<_>>() {
            let node = self.b.program().node(n).clone();
            let p = self.b.program();
            let of_sum = |v: &ValueId| matches!(p.ty(*v), Type::Acc(_)) && self.is_varied(*v);
            if node.operands.iter().any(of_sum) || captures(p, &node).iter().any(of_sum) {
                return Err(missing(name_of(&node.op), "a derivative of its derivative has no rule yet"));
            }
            match node.op {
                Op::Control(ControlOp::If) => {
                    let p = self.b.program_mut();
                    node.regions.iter().for_each(|r| p.regions[r.index()].results.push(tape));
                }
                Op::Control(ControlOp::While) => self.thread_while(region, n, &node, tape)?,
                Op::Control(ControlOp::For { state, .. }) => {
                    thread_for(self.b.program_mut(), n, &node, state, tape);
                    self.level.taped.insert(n);
                    tape = self.b.program().node(n).results[state];
                    continue;
                }
                Op::Control(ControlOp::Call(f)) => {
                    let p = self.b.program();
                    let mask: Vec<bool> = node.operands.iter().map(|v| self.is_varied(*v) && is_float(p, *v)).collect();
                    let pair = self.pair(f, &mask)?;
                    let p = self.b.program_mut();
                    p.nodes[n.index()].op = Op::Control(ControlOp::Call(pair.forward));
                    p.nodes[n.index()].operands.push(tape);
                    self.pairs.calls.insert(n, (f, mask));
                }
                _ => continue,
            }
            tape = add_result(self.b.program_mut(), n, Type::Tape);
            self.level.taped.insert(n);
        }
        Ok(tape)
    }

    /// A `while` counts its steps, then carries the tape.
    fn thread_while(&mut self, region: RegionId, n: NodeId, node: &Node, tape: ValueId) -> Result<()> {
        self.b.reopen_region(region);
        let zero = constant(self.b, TensorData::I64(vec![0]));
        let results = self.b.program().region(region).results.clone();
        self.b.end_region(&results);
        let zero = zero?;
        move_before(self.b.program_mut(), region, n);
        let p = self.b.program_mut();
        p.nodes[n.index()].operands.extend([zero, tape]);
        add_result(p, n, p.ty(zero).clone());
        for r in &node.regions {
            let p = self.b.program_mut();
            let count = p.ty(zero).clone();
            let params = [add_param(p, *r, count), add_param(p, *r, Type::Tape)];
            if *r == node.regions[1] {
                let mut results = p.region(*r).results.clone();
                self.b.reopen_region(*r);
                let next = step(self.b, params[0], 1);
                results.extend([next.as_ref().copied().unwrap_or(params[0]), params[1]]);
                self.b.end_region(&results);
                next?;
            }
        }
        Ok(())
    }
}

/// The tape becomes the last of a loop's state.
fn thread_for(p: &mut Program, n: NodeId, node: &Node, state: usize, tape: ValueId) {
    let body = node.regions[0];
    p.nodes[n.index()].operands.insert(state, tape);
    if let Op::Control(ControlOp::For { state, .. }) = &mut p.nodes[n.index()].op {
        *state += 1;
    }
    let param = new_value(p, Type::Tape, Def::Param(body, 0));
    p.regions[body.index()].params.insert(1 + state, param);
    for (i, v) in p.regions[body.index()].params.iter().enumerate() {
        p.values[v.index()].def = Def::Param(body, i as u32);
    }
    p.regions[body.index()].results.insert(state, param);
    let result = new_value(p, Type::Tape, Def::Result(n, 0));
    p.nodes[n.index()].results.insert(state, result);
    for (i, v) in p.nodes[n.index()].results.iter().enumerate() {
        p.values[v.index()].def = Def::Result(n, i as u32);
    }
}

/// An `i64[]` and a number.
pub(super) fn step(b: &mut Builder, v: ValueId, by: i64) -> Result<ValueId> {
    let sum = b.map(&[v], |b, v| {
        let by = b.literal(Value::I64(by), ScalarType::I64)?;
        Ok(vec![b.scalar(ScalarOp::Add, &[v[0], by])?])
    })?;
    Ok(sum[0])
}

pub(super) fn name_of(op: &Op) -> &'static str {
    match op {
        Op::Control(ControlOp::If) => "if",
        Op::Control(ControlOp::While) => "while",
        Op::Control(ControlOp::For { .. }) => "for",
        Op::Control(ControlOp::Call(_)) => "call",
        Op::Control(ControlOp::Push { .. }) => "push",
        Op::Control(ControlOp::Pop { .. }) => "pop",
        _ => "an operation",
    }
}

fn new_value(p: &mut Program, ty: Type, def: Def) -> ValueId {
    p.values.push(ValueData { ty, def });
    ValueId(p.values.len() as u32 - 1)
}

pub(super) fn add_result(p: &mut Program, n: NodeId, ty: Type) -> ValueId {
    let index = p.node(n).results.len() as u32;
    let v = new_value(p, ty, Def::Result(n, index));
    p.nodes[n.index()].results.push(v);
    v
}

pub(super) fn add_param(p: &mut Program, r: RegionId, ty: Type) -> ValueId {
    let index = p.region(r).params.len() as u32;
    let v = new_value(p, ty, Def::Param(r, index));
    p.regions[r.index()].params.push(v);
    v
}

/// The node added last to a region moves before another one.
fn move_before(p: &mut Program, region: RegionId, before: NodeId) {
    let nodes = &mut p.regions[region.index()].nodes;
    if let (Some(at), Some(last)) = (nodes.iter().position(|n| *n == before), nodes.pop()) {
        nodes.insert(at, last);
    }
}

/// How a value of the forward body reaches the reverse body.
pub(super) enum Keep<'a> {
    /// By results of the forward `for`, stacked, and slices of the reverse one.
    Stack { forward: NodeId, states: usize, slices: &'a [ValueId], length: &'a Dim },
    /// By a frame that is popped by this node, the first of the reverse body.
    Frame { pop: NodeId },
}

/// What a reverse body reads of its forward body.
pub(super) struct Residuals<'a> {
    pub(super) keep: Keep<'a>,
    pub(super) forward: RegionId,
    pub(super) reverse: RegionId,
    /// Values of the forward body, and what stands for them in the reverse one.
    pub(super) known: HashMap<ValueId, ValueId>,
    /// What is kept: operands of the reverse loop, or values of the frame.
    kept: Vec<ValueId>,
    /// Nodes of the forward body.
    nodes: HashSet<NodeId>,
    again: Vec<NodeId>,
}

impl<'a> Residuals<'a> {
    pub(super) fn new(p: &Program, keep: Keep<'a>, forward: RegionId, reverse: RegionId) -> Self {
        let nodes = p.region(forward).nodes.iter().copied().collect();
        Self { keep, forward, reverse, known: HashMap::new(), kept: vec![], nodes, again: vec![] }
    }

    /// Gives the reverse body what it reads of the forward body; answers what is kept for that.
    pub(super) fn lift(mut self, b: &mut Builder) -> Result<Vec<ValueId>> {
        let (mut defined, mut read) = (HashSet::new(), vec![]);
        reads(b.program(), self.reverse, &mut defined, &mut read);
        for v in read {
            if !defined.contains(&v) && self.is_forward(b.program(), v) {
                self.resolve(b.program_mut(), v)?;
            }
        }
        let p = b.program_mut();
        let first = usize::from(matches!(self.keep, Keep::Frame { .. }));
        p.regions[self.reverse.index()].nodes.splice(first..first, self.again);
        replace(p, self.reverse, &self.known);
        Ok(self.kept)
    }

    /// Whether a value is defined in the forward body itself.
    fn is_forward(&self, p: &Program, v: ValueId) -> bool {
        match p.values[v.index()].def {
            Def::Param(region, _) => region == self.forward,
            Def::Result(n, _) => self.nodes.contains(&n),
        }
    }

    fn resolve(&mut self, p: &mut Program, v: ValueId) -> Result<ValueId> {
        if let Some(new) = self.known.get(&v) {
            return Ok(*new);
        }
        if !self.is_forward(p, v) {
            return Ok(v);
        }
        if let Some(node) = p.node_of(v).filter(|n| is_cheap(&n.op)).cloned() {
            let mut inputs: SmallVec<[ValueId; 3]> = smallvec![];
            for o in &node.operands {
                inputs.push(self.resolve(p, *o)?);
            }
            let id = NodeId(p.nodes.len() as u32);
            let new = new_value(p, p.ty(v).clone(), Def::Result(id, 0));
            p.nodes.push(Node { operands: inputs, results: smallvec![new], ..node });
            self.again.push(id);
            self.known.insert(v, new);
            return Ok(new);
        }
        let Type::Tensor(ty) = p.ty(v).clone() else {
            return Err(missing("a body", format!("it computes with {}, which cannot be kept", p.ty(v))));
        };
        let (kept, new) = match self.keep {
            Keep::Stack { forward, states, slices, length } => {
                let operand = match p.values[v.index()].def {
                    Def::Param(_, i) if i as usize > states => slices[i as usize - 1 - states],
                    _ => stacked(p, forward, self.forward, v, &ty, states, length),
                };
                (operand, add_param(p, self.reverse, Type::Tensor(ty)))
            }
            Keep::Frame { pop } => {
                let new = add_result(p, pop, Type::Tensor(ty.clone()));
                if let Op::Control(ControlOp::Pop { types, .. }) = &mut p.nodes[pop.index()].op {
                    types.push(ty);
                }
                (v, new)
            }
        };
        self.kept.push(kept);
        self.known.insert(v, new);
        Ok(new)
    }
}

/// The result of the forward loop that stacks a value of its body; added where there is none yet.
fn stacked(
    p: &mut Program,
    forward: NodeId,
    body: RegionId,
    v: ValueId,
    ty: &TensorType,
    states: usize,
    length: &Dim,
) -> ValueId {
    let results = &p.region(body).results;
    if let Some(i) = results[states..].iter().position(|x| *x == v) {
        return p.node(forward).results[states + i];
    }
    let shape = std::iter::once(length.clone()).chain(ty.shape.iter().cloned());
    let ty = Type::Tensor(TensorType::new(ty.dtype, shape));
    p.regions[body.index()].results.push(v);
    add_result(p, forward, ty)
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

/// A frame that a forward body will push and the open reverse body, nothing being in it yet, pops from `tape`: the node that
/// pops it, and the tape below.
pub(super) fn pop_frame(b: &mut Builder, forward: RegionId, tape: ValueId) -> Result<(NodeId, ValueId)> {
    let below = b.push1(Op::Control(ControlOp::Pop { tag: forward.0, types: vec![] }), &[tape], &[])?;
    match b.program().values[below.index()].def {
        Def::Result(n, _) => Ok((n, below)),
        Def::Param(..) => Err(ir::Error::Bug("a pop that is a parameter".into()).into()),
    }
}

/// The forward body pushes its frame, last of all, onto `tape`; its result `at` becomes the tape.
pub(super) fn push_frame(b: &mut Builder, forward: RegionId, at: usize, tape: ValueId, kept: &[ValueId]) -> Result<()> {
    let mut results = b.program().region(forward).results.clone();
    b.reopen_region(forward);
    let operands: Vec<ValueId> = std::iter::once(tape).chain(kept.iter().copied()).collect();
    let pushed = b.push1(Op::Control(ControlOp::Push { tag: forward.0 }), &operands, &[]);
    if let (Ok(v), Some(result)) = (&pushed, results.get_mut(at)) {
        *result = *v;
    }
    b.end_region(&results);
    pushed?;
    Ok(())
}

/// A sum of a value's type, at zero.
pub(super) fn new_sum(b: &mut Builder, of: ValueId) -> Result<ValueId> {
    match b.ty(of).clone() {
        Type::Tensor(t) => Ok(b.push1(Op::Control(ControlOp::AccNew(t)), &[], &[])?),
        t => Err(missing("a loop", format!("it reads {t} from outside"))),
    }
}

pub(super) fn read_sum(b: &mut Builder, sum: ValueId) -> Result<ValueId> {
    Ok(b.push1(Op::Control(ControlOp::AccRead), &[sum], &[])?)
}

impl Reverse<'_> {
    /// A function's forward and reverse, with adjoints for the parameters of `mask`.
    ///
    /// The forward takes a tape behind the parameters and gives it behind the results. The reverse takes adjoints of the
    /// float results, a sum for each parameter of the mask, the parameters again and the tape; it gives the sums and the tape.
    pub(super) fn pair(&mut self, f: FuncId, mask: &[bool]) -> Result<Pair> {
        let key = (f, mask.to_vec());
        if let Some(pair) = self.pairs.list.get(&key) {
            return Ok(*pair);
        }
        let p = self.b.program();
        let name = p.func(f).name.clone();
        if self.b.is_declared(f) {
            return Err(missing(format!("call of {name}"), "its body is not finished"));
        }
        let body = p.func(f).body;
        let region = p.region(body).clone();
        let types = |values: &[ValueId]| values.iter().map(|v| p.ty(*v).clone()).collect::<Vec<Type>>();
        let (params, results) = (types(&region.params), types(&region.results));
        let floats: Vec<usize> = (0..results.len()).filter(|i| is_float(p, region.results[*i])).collect();
        let masked: Vec<usize> = (0..params.len()).filter(|i| mask[*i]).collect();
        let mut sums = vec![];
        for i in &masked {
            match &params[*i] {
                Type::Tensor(t) => sums.push(Type::Acc(t.clone())),
                t => return Err(missing(format!("call of {name}"), format!("an argument is {t}"))),
            }
        }
        // Another gradient's tape and sums are the forward's alone.
        let again: Vec<usize> = (0..params.len()).filter(|i| !params[*i].is_linear()).collect();
        let params_again: Vec<Type> = again.iter().map(|i| params[*i].clone()).collect();
        let tape = [Type::Tape];
        let adjoints: Vec<Type> = floats.iter().map(|i| adjoint_type(&results[*i])).collect();
        let forward_name = unique_name(p, &format!("{name}.forward"));
        let reverse_name = unique_name(p, &format!("{name}.reverse"));
        let forward =
            self.b.declare_func(forward_name, &[&params[..], &tape].concat(), &[&results[..], &tape].concat());
        let reverse = self.b.declare_func(
            reverse_name,
            &[&adjoints[..], &sums, &params_again, &tape].concat(),
            &[&sums[..], &tape].concat(),
        );
        let pair = Pair { forward, reverse };
        self.pairs.list.insert(key, pair);

        // The forward: the body once more, with the tape through it.
        let given = self.b.begin_declared(forward);
        let mut copy = Copy::new(None);
        copy.values.extend(region.params.iter().copied().zip(given.iter().copied()));
        let copied = copy.region(self.b, body);
        let mut yields = copied.as_deref().unwrap_or(&[]).to_vec();
        yields.push(given[params.len()]);
        self.b.end_region(&yields);
        copied?;
        let body = self.b.program().func(forward).body;
        let nodes = self.b.program().region(body).nodes.clone();
        let inside = varied(self.b.program(), &nodes, masked.iter().map(|i| given[*i]).collect());
        let outer = self.enter(inside);
        let behind = self.thread(body, &nodes, given[params.len()])?;

        let taken = self.b.begin_declared(reverse);
        let (adjoints, rest) = taken.split_at(floats.len());
        let (sums, rest) = rest.split_at(masked.len());
        let made = (|| {
            let (pop, below) = pop_frame(self.b, body, rest[again.len()])?;
            self.level.tape = Some(below);
            self.level.sums = masked.iter().map(|i| given[*i]).zip(sums.iter().copied()).collect();
            for (i, d) in floats.iter().zip(adjoints) {
                self.add(yields[*i], *d)?;
            }
            self.run(&nodes)?;
            let mut out: Vec<ValueId> = masked.iter().map(|i| self.level.sums[&given[*i]]).collect();
            out.push(self.end_tape()?);
            Ok((pop, out))
        })();
        let made: Result<(NodeId, Vec<ValueId>)> = made;
        match &made {
            Ok((_, out)) => self.b.end_declared(reverse, out)?,
            Err(_) => {
                self.b.end_region(&[]);
            }
        }
        let (pop, _) = made?;
        self.leave(outer);
        let to = self.b.program().func(reverse).body;
        let mut residuals = Residuals::new(self.b.program(), Keep::Frame { pop }, body, to);
        residuals.known.extend(again.iter().map(|i| given[*i]).zip(rest.iter().copied()));
        let kept = residuals.lift(self.b)?;
        push_frame(self.b, body, results.len(), behind, &kept)?;
        let yields = self.b.program().region(body).results.clone();
        self.b.begin_declared(forward);
        self.b.end_declared(forward, &yields)?;
        Ok(pair)
    }
}
