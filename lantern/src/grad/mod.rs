//! Reverse mode: graph to graph.
//!
//! What holds:
//! - Adjoints are recorded in the region that is open, after the values they belong to. A value's adjoint has its type.
//! - A node is visited after every node that reads its results; it hands an adjoint to each operand, and to each value that
//!   its regions capture, if that value depends on what is differentiated for (it is *varied*).
//! - A missing rule is an error. A zero stands only for what does not depend, or depends through whole numbers, conditions and
//!   steps.
//! - A loop's derivative is a loop that runs the other way, a function's is another function ([`control`]). What they read of
//!   the forward pass comes in stacked, or on a tape ([`tape`]).
//! - Adjoints of what a loop or a function reads again in each step add up in place, in a sum that is carried along.
//!
//! Derivatives are taken from the graph that was recorded, before any pass; but what has a derivative as a whole is found first:
//! recursions over child indices, and attention ([`attend`]).

mod attend;
mod bridge;
pub(crate) mod check;
mod control;
pub(crate) mod copy;
mod scalar;
mod tape;
mod tensor;

use std::collections::{HashMap, HashSet};
use std::panic::Location;

use ir::entity::{NodeId, RegionId, ValueId};
use ir::graph::{Builder, ControlOp, Node, Op, Program, TensorOp};
use ir::scalar::ScalarOp;
use ir::types::Type;

use crate::error::{Error, Fault, Result};
use crate::stage::{constant, filled};
use crate::tensor::Tensor;

/// A function that gives the gradient of `f` (which yields one number) with respect to its inputs `wrt`, for
/// [`stage`](crate::stage).
///
/// ```
/// use lantern::{grad, stage, value};
/// use ndarray::array;
///
/// let f = stage("gradient", ["x: f64[n]"], grad(|t| t[0].square().sum(0), &[0]))?;
/// assert_eq!(f.interpret([value(array![1.0, 2.0, 3.0])])?, [value(array![2.0, 4.0, 6.0])]);
/// # Ok::<(), lantern::Error>(())
/// ```
pub fn grad(f: impl FnOnce(&[Tensor]) -> Tensor, wrt: &[usize]) -> impl FnOnce(&[Tensor]) -> Vec<Tensor> {
    let f = value_and_grad(f, wrt);
    move |inputs| f(inputs).split_off(1)
}

/// As [`grad`], with the function's value before the gradients.
pub fn value_and_grad(f: impl FnOnce(&[Tensor]) -> Tensor, wrt: &[usize]) -> impl FnOnce(&[Tensor]) -> Vec<Tensor> {
    let wrt = wrt.to_vec();
    move |inputs| {
        let y = f(inputs);
        let chosen: Vec<&Tensor> = wrt.iter().filter_map(|i| inputs.get(*i)).collect();
        if chosen.len() != wrt.len() {
            let message = format!("inputs {wrt:?} of {}", inputs.len());
            y.scope().fail(Fault::Invalid(message).at("grad", Location::caller()));
        }
        let mut out = vec![y.clone()];
        out.extend(y.grad(&chosen));
        out
    }
}

/// A function of `f`'s inputs and of an adjoint for each result of `f`, that gives `f`'s results and then the adjoints of its
/// inputs.
pub fn vjp(f: impl FnOnce(&[Tensor]) -> Vec<Tensor>, inputs: usize) -> impl FnOnce(&[Tensor]) -> Vec<Tensor> {
    move |all| {
        let (inputs, adjoints) = all.split_at(inputs.min(all.len()));
        let mut out = f(inputs);
        let (outs, wrt): (Vec<&Tensor>, Vec<&Tensor>) = (out.iter().collect(), inputs.iter().collect());
        let found = Tensor::vjp(&outs, &adjoints.iter().collect::<Vec<_>>(), &wrt);
        out.extend(found);
        out
    }
}

impl Tensor {
    /// The gradient of this tensor, which is one float, with respect to tensors of the same recording: one tensor for each, of
    /// its type. Zero for those that it does not depend on.
    #[track_caller]
    pub fn grad(&self, wrt: &[&Tensor]) -> Vec<Tensor> {
        let inputs: Vec<&Tensor> = std::iter::once(self).chain(wrt.iter().copied()).collect();
        let ty = self.ty.clone();
        self.scope.record_many("grad", Location::caller(), &inputs, wrt.len(), |b, v| {
            if !ty.shape.is_empty() || !ty.dtype.is_float() {
                return Err(Fault::Invalid(format!(
                    "the gradient of {ty}; it is of one float: take the sum or the mean"
                )));
            }
            let one = filled(b, &ty, 1.0)?;
            if self.scope.computes_levels() {
                by_levels(b, &v[..1])?;
            }
            Ok(adjoints(b, &[(v[0], one)], &v[1..])?)
        })
    }

    /// Adjoints of `wrt` for adjoints of `outs`: the vector-Jacobian product.
    #[track_caller]
    pub fn vjp(outs: &[&Tensor], adjoints_of_outs: &[&Tensor], wrt: &[&Tensor]) -> Vec<Tensor> {
        let Some(first) = outs.first() else { return vec![] };
        let inputs: Vec<&Tensor> = outs.iter().chain(adjoints_of_outs).chain(wrt).copied().collect();
        first.scope.record_many("vjp", Location::caller(), &inputs, wrt.len(), |b, v| {
            let n = outs.len();
            if n != adjoints_of_outs.len() {
                return Err(Fault::Invalid(format!("{n} results and {} adjoints", adjoints_of_outs.len())));
            }
            for (y, d) in outs.iter().zip(adjoints_of_outs) {
                if y.ty != d.ty {
                    return Err(Fault::Shapes(y.ty.clone(), d.ty.clone()));
                }
            }
            if first.scope.computes_levels() {
                by_levels(b, &v[..n])?;
            }
            let seeds: Vec<(ValueId, ValueId)> = v[..n].iter().copied().zip(v[n..2 * n].iter().copied()).collect();
            Ok(adjoints(b, &seeds, &v[2 * n..])?)
        })
    }
}

/// Recursions over child indices on which values depend are computed level by level from here on: as the pass `levels` would,
/// which does not see them behind their derivatives.
fn by_levels(b: &mut Builder, outs: &[ValueId]) -> Result<()> {
    let mut calls = vec![];
    let mut found = |n, node: &Node| {
        if let Op::Control(ControlOp::Call(f)) = node.op {
            calls.push((n, f));
        }
    };
    for n in nodes_before(b.program(), outs) {
        let p = b.program();
        found(n, p.node(n));
        p.node(n).regions.iter().for_each(|r| ir::graph::rewrite::walk(p, *r, &mut found));
    }
    let mut known = HashMap::new();
    for (n, f) in calls {
        let g = match known.get(&f) {
            Some(g) => *g,
            None => *known.entry(f).or_insert(ir::opt::levels::batched(b, f)?),
        };
        if let Some(g) = g {
            b.program_mut().nodes[n.index()].op = Op::Control(ControlOp::Call(g));
        }
    }
    Ok(())
}

/// An adjoint for each of `wrt`, zeros where there is none.
fn adjoints(b: &mut Builder, seeds: &[(ValueId, ValueId)], wrt: &[ValueId]) -> Result<Vec<ValueId>> {
    for v in wrt {
        if !is_float(b.program(), *v) {
            return Err(missing("grad", format!("with respect to {}", b.ty(*v))));
        }
    }
    attend::recognize(b, seeds, wrt);
    let found = local_adjoints(b, seeds, wrt)?;
    found.into_iter().zip(wrt).map(|(d, v)| d.map_or_else(|| zero(b, *v), Ok)).collect()
}

/// Adjoints of `wrt` through the nodes between them and the seeds (value, adjoint).
fn local_adjoints(b: &mut Builder, seeds: &[(ValueId, ValueId)], wrt: &[ValueId]) -> Result<Vec<Option<ValueId>>> {
    let outs: Vec<ValueId> = seeds.iter().map(|s| s.0).collect();
    let nodes = nodes_before(b.program(), &outs);
    let varied = varied(b.program(), &nodes, wrt.iter().copied().collect());
    let mut reverse = Reverse::new(b, varied);
    reverse.begin_tape(&nodes)?;
    for (v, d) in seeds {
        reverse.add(*v, *d)?;
    }
    reverse.run(&nodes)?;
    Ok(wrt.iter().map(|v| reverse.adjoint(*v)).collect())
}

pub(crate) fn missing(op: impl Into<String>, message: impl Into<String>) -> Error {
    Error::Derivative { op: op.into(), message: message.into() }
}

/// Whether derivatives are defined for a value: a float, or a tensor of floats.
fn is_float(p: &Program, v: ValueId) -> bool {
    match p.ty(v) {
        Type::Scalar(t) => t.ty.is_float(),
        Type::Tensor(t) | Type::Acc(t) => t.dtype.is_float(),
        Type::Table(_) | Type::Tape => false,
    }
}

/// The type of a value's adjoint: its own, or that of what a sum adds up.
fn adjoint_type(ty: &Type) -> Type {
    match ty {
        Type::Acc(t) => Type::Tensor(t.clone()),
        ty => ty.clone(),
    }
}

/// Zero of a value's type.
fn zero(b: &mut Builder, of: ValueId) -> Result<ValueId> {
    match b.ty(of).clone() {
        Type::Tensor(t) | Type::Acc(t) => Ok(filled(b, &t, 0.0)?),
        Type::Scalar(t) => match crate::tensor::number(b, 0.0, t.ty) {
            Ok(v) => Ok(v),
            Err(_) => Err(missing("a scalar", format!("of {t}"))),
        },
        Type::Table(_) => Err(missing("a table", "a table has no adjoint")),
        Type::Tape => Err(missing("a tape", "a tape has no adjoint")),
    }
}

/// The nodes on which values depend, in order.
fn nodes_before(p: &Program, outs: &[ValueId]) -> Vec<NodeId> {
    let mut found = HashSet::new();
    let mut open: Vec<ValueId> = outs.to_vec();
    while let Some(v) = open.pop() {
        let ir::graph::Def::Result(n, _) = p.values[v.index()].def else { continue };
        if found.insert(n) {
            open.extend(p.node(n).operands.iter().copied());
            open.extend(captures(p, p.node(n)));
        }
    }
    // A node is made after what it reads.
    let mut nodes: Vec<NodeId> = found.into_iter().collect();
    nodes.sort_unstable();
    nodes
}

/// The values that a node's regions read from outside.
fn captures(p: &Program, node: &Node) -> Vec<ValueId> {
    let mut defined = HashSet::new();
    let mut read = vec![];
    node.regions.iter().for_each(|r| reads(p, *r, &mut defined, &mut read));
    let mut seen = HashSet::new();
    read.retain(|v| !defined.contains(v) && seen.insert(*v));
    read
}

/// Everything that a region and those inside define and read.
fn reads(p: &Program, region: RegionId, defined: &mut HashSet<ValueId>, read: &mut Vec<ValueId>) {
    let region = p.region(region);
    defined.extend(&region.params);
    for n in &region.nodes {
        let node = p.node(*n);
        read.extend(&node.operands);
        node.regions.iter().for_each(|r| reads(p, *r, defined, read));
        defined.extend(&node.results);
    }
    read.extend(&region.results);
}

/// `from` and the floats that depend on it through these nodes.
fn varied(p: &Program, nodes: &[NodeId], from: HashSet<ValueId>) -> HashSet<ValueId> {
    let mut varied = from;
    for n in nodes {
        let node = p.node(*n);
        if is_detached(&node.op) {
            continue;
        }
        let reads_varied = node.operands.iter().any(|v| varied.contains(v))
            || (!node.regions.is_empty() && captures(p, node).iter().any(|v| varied.contains(v)));
        if reads_varied {
            varied.extend(node.results.iter().filter(|v| is_float(p, **v) || *p.ty(**v) == Type::Tape));
        }
    }
    varied
}

/// See [`Tensor::detach`].
fn is_detached(op: &Op) -> bool {
    matches!(op, Op::Tensor(TensorOp::View(moves)) if moves.is_empty())
}

/// A walk backwards.
pub(crate) struct Reverse<'a> {
    pub(crate) b: &'a mut Builder,
    pairs: tape::Pairs,
    level: Level,
}

/// Where a walk stands in one region.
#[derive(Default)]
struct Level {
    varied: HashSet<ValueId>,
    adjoints: HashMap<ValueId, ValueId>,
    /// Values whose adjoints add up in place, and the sum as it is now.
    sums: HashMap<ValueId, ValueId>,
    /// The tape as it is now.
    tape: Option<ValueId>,
    /// Operations through which it was threaded.
    taped: HashSet<NodeId>,
}

impl<'a> Reverse<'a> {
    fn new(b: &'a mut Builder, varied: HashSet<ValueId>) -> Self {
        Self { b, pairs: tape::Pairs::default(), level: Level { varied, ..Level::default() } }
    }

    /// Begins the walk of an inner region; [`Reverse::leave`] ends it.
    fn enter(&mut self, varied: HashSet<ValueId>) -> Level {
        std::mem::replace(&mut self.level, Level { varied, ..Level::default() })
    }

    fn leave(&mut self, outer: Level) {
        self.level = outer;
    }

    /// The sum of the adjoints handed to a value so far.
    fn adjoint(&self, v: ValueId) -> Option<ValueId> {
        self.level.adjoints.get(&v).copied()
    }

    fn adjoint_or_zero(&mut self, v: ValueId) -> Result<ValueId> {
        self.adjoint(v).map_or_else(|| zero(self.b, v), Ok)
    }

    fn is_varied(&self, v: ValueId) -> bool {
        self.level.varied.contains(&v)
    }

    /// The varied values that a region reads from outside of it.
    fn outer_varied(&self, region: RegionId) -> HashSet<ValueId> {
        let (mut defined, mut read) = (HashSet::new(), vec![]);
        reads(self.b.program(), region, &mut defined, &mut read);
        read.into_iter().filter(|v| !defined.contains(v) && self.is_varied(*v)).collect()
    }

    /// The tape before the reverse of a node, which is the tape behind the node.
    fn tape_here(&mut self, node: &Node) -> Result<ValueId> {
        let bug = || ir::Error::Bug(format!("no tape at {}", tape::name_of(&node.op)));
        Ok(self.level.tape.take().ok_or_else(bug)?)
    }

    /// The tape at the end of a body's reverse.
    fn end_tape(&mut self) -> Result<ValueId> {
        Ok(self.level.tape.take().ok_or_else(|| ir::Error::Bug("the tape was lost".into()))?)
    }

    /// Hands an adjoint to a value.
    fn add(&mut self, v: ValueId, d: ValueId) -> Result<()> {
        if !self.is_varied(v) {
            return Ok(());
        }
        if adjoint_type(self.b.ty(v)) != *self.b.ty(d) {
            let (v, d) = (self.b.ty(v), self.b.ty(d));
            return Err(ir::Error::Bug(format!("an adjoint of {v} is {d}")).into());
        }
        if let Some(sum) = self.level.sums.get(&v).copied() {
            let sum = self.b.push1(Op::Control(ControlOp::AccAdd), &[sum, d], &[])?;
            self.level.sums.insert(v, sum);
            return Ok(());
        }
        let sum = match self.adjoint(v) {
            None => d,
            Some(old) => self.plus(old, d)?,
        };
        self.level.adjoints.insert(v, sum);
        Ok(())
    }

    /// Hands an adjoint to rows of a value, chosen by indices.
    fn add_rows(&mut self, v: ValueId, indices: ValueId, d: ValueId) -> Result<()> {
        match self.level.sums.get(&v).copied() {
            Some(sum) => {
                let sum = self.b.push1(Op::Control(ControlOp::AccRows), &[sum, indices, d], &[])?;
                self.level.sums.insert(v, sum);
                Ok(())
            }
            None => {
                let zeros = zero(self.b, v)?;
                let dx = self.b.tensor(TensorOp::ScatterAdd, &[zeros, indices, d])?;
                self.add(v, dx)
            }
        }
    }

    fn plus(&mut self, x: ValueId, y: ValueId) -> Result<ValueId> {
        Ok(match self.b.ty(x) {
            Type::Tensor(_) => self.b.map(&[x, y], |b, v| Ok(vec![b.scalar(ScalarOp::Add, v)?]))?[0],
            _ => self.b.scalar(ScalarOp::Add, &[x, y])?,
        })
    }

    /// Visits nodes, given in order, from the last to the first.
    fn run(&mut self, nodes: &[NodeId]) -> Result<()> {
        for n in nodes.iter().rev() {
            let node = self.b.program().node(*n).clone();
            let outs: Vec<Option<ValueId>> = node.results.iter().map(|v| self.adjoint(*v)).collect();
            if outs.iter().any(Option::is_some) || self.level.taped.contains(n) {
                self.visit(*n, &node, &outs)?;
            }
        }
        Ok(())
    }

    fn visit(&mut self, id: NodeId, node: &Node, outs: &[Option<ValueId>]) -> Result<()> {
        let p = self.b.program();
        let any =
            node.operands.iter().any(|v| self.is_varied(*v)) || captures(p, node).iter().any(|v| self.is_varied(*v));
        if !any || is_detached(&node.op) {
            return Ok(());
        }
        match &node.op {
            Op::Literal(..) | Op::Col(_) | Op::Input(_) => Ok(()),
            Op::Scalar(op) => {
                let Some(d) = outs[0] else { return Ok(()) };
                let found = ir::scalar::grad(self.b, *op, &node.operands, node.results[0], d)
                    .map_err(|e| missing(op.name(), e.to_string()))?;
                for (v, d) in node.operands.iter().zip(found) {
                    if let Some(d) = d {
                        self.add(*v, d)?;
                    }
                }
                Ok(())
            }
            Op::Tensor(TensorOp::Map { .. }) => scalar::map(self, node, outs),
            Op::Tensor(TensorOp::AttendGrad(spec)) => attend::reverse_grad(self, spec, node, outs),
            Op::Tensor(op) => match outs[0] {
                Some(d) => tensor::reverse(self, op, node, d),
                None => Ok(()),
            },
            Op::Control(op) => match op {
                ControlOp::If => control::branch(self, node, outs),
                ControlOp::While => control::while_loop(self, id, node, outs),
                ControlOp::For { length, state, reverse } => {
                    control::for_loop(self, id, node, outs, (length, *state, *reverse))
                }
                ControlOp::ForParts { .. } => Err(missing("for_parts", "it is what the optimizer makes of a step")),
                ControlOp::Call(_) => control::call(self, id, node, outs),
                // Another gradient's: its frames hold values, and what is pushed has no adjoint but by a pop.
                ControlOp::TapeNew | ControlOp::Push { .. } | ControlOp::AccNew(_) => Ok(()),
                ControlOp::Pop { .. } => Err(missing(
                    "a derivative",
                    "of an if, a while or a call: derivatives of those are first ones only",
                )),
                ControlOp::AccAdd => control::acc_add(self, node, outs),
                ControlOp::AccRows => control::acc_rows(self, node, outs),
                ControlOp::AccRead => control::acc_add(self, node, outs),
            },
            Op::Bridge(op) => Err(bridge::missing_rule(op)),
            Op::Rel(op) => Err(missing(format!("{op:?}"), "derivatives do not pass through tables yet")),
        }
    }

    /// A rank-0 constant of a float type.
    fn number(&mut self, like: ValueId, v: f64) -> Result<ValueId> {
        let ty = self.b.ty(like).as_tensor().map(|t| t.dtype);
        let data = match ty {
            Some(ir::types::ScalarType::F32) => ir::value::TensorData::F32(vec![v as f32]),
            _ => ir::value::TensorData::F64(vec![v]),
        };
        Ok(constant(self.b, data)?)
    }
}
