//! Computes recursions over child indices level by level.
//!
//! A function is such a recursion under three conditions:
//! - it takes a node's number, and tensors that it hands on as they are;
//! - one branch, which depends on the node alone, tells inner nodes from others;
//! - in that branch it calls itself for what index tensors hold at the node.
//!
//! Then all nodes of one height can be computed at once. Tables, which begin at zero, have a row for what each node came to. A
//! loop takes a window of up to `LANES` nodes of one height and gathers their children's rows. It computes the body for all of
//! them, so that a product with a vector becomes one with a matrix, and adds the results to the tables.
//!
//! What holds:
//! - The nodes that are computed are those that the recursion comes to. Inner nodes and others are never in one window: the
//!   branch stays a branch, so nothing that can raise runs for a node for which it did not run.
//! - A window is always full: behind its last node stands its first one again, whose results are added as zeros. So sizes
//!   inside of the loop are constants, and no lane computes with values that are not there.
//! - What recursion raises for nodes that are none, for cycles and for depth, `levels` raises.
//!
//! Derivatives are taken of programs before this pass, and turn a recursion into a pair of functions with a tape. So whoever
//! takes them asks for the loop first, by [`batched`]: the reverse of the loop then walks the levels from the top down, and no
//! second pattern is needed.

use std::collections::{HashMap, HashSet};

use super::Context;
use crate::entity::{FuncId, NodeId, RegionId, ValueId};
use crate::error::{Error, Result};
use crate::graph::rewrite::{captures, walk};
use crate::graph::tensor::{ContractSpec, Move};
use crate::graph::{Builder, ControlOp, Node, Op, Program, TensorOp};
use crate::scalar::reduce::Reducer;
use crate::scalar::{ScalarOp, can_raise};
use crate::types::{Dim, ScalarType, TensorType, Type};
use crate::value::{TensorData, TensorValue, Value};

/// Nodes of a window: a product with so many rows reads its weights once. With those of a tree-LSTM's inner node, 300 × 750, it
/// takes 4.8 times as long as one with a single row, its gradients 2.5 (input) and 2.1 times (weights), measured on one core.
const LANES: usize = 8;

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    let mut b = Builder::over(p.clone()).exact();
    for i in 0..p.funcs.len() {
        let f = FuncId(i as u32);
        let calls = calls_from_outside(p, f);
        if calls.is_empty() || Recursion::of(p, f).is_none_or(|r| !r.pays()) || !cx.spend() {
            continue;
        }
        let Some(g) = batched(&mut b, f)? else { continue };
        cx.note(None, format!("@{}: nodes of one height at once, up to {LANES}", p.func(f).name));
        for n in calls {
            b.program_mut().nodes[n.index()].op = Op::Control(ControlOp::Call(g));
        }
    }
    Ok(b.finish())
}

fn calls_from_outside(p: &Program, f: FuncId) -> Vec<NodeId> {
    let mut out = vec![];
    for (_, func) in p.funcs.iter().enumerate().filter(|(i, _)| *i != f.index()) {
        walk(p, func.body, &mut |n, node| {
            if node.op == Op::Control(ControlOp::Call(f)) {
                out.push(n);
            }
        });
    }
    out
}

/// A function that gives what `f` gives, level by level, if `f` is a recursion over child indices that gains by it. It is added
/// to the builder's program and is to be called in the place of `f`.
///
/// # Errors
/// A bug of ours.
pub fn batched(b: &mut Builder, f: FuncId) -> Result<Option<FuncId>> {
    if b.is_declared(f) {
        return Ok(None);
    }
    match Recursion::of(b.program(), f).filter(Recursion::pays) {
        Some(r) => r.build(b, f).map(Some),
        None => Ok(None),
    }
}

/// A recursion over child indices.
struct Recursion {
    params: Vec<ValueId>,
    results: Vec<ValueId>,
    /// Which parameter is the node's number.
    node: usize,
    /// The nodes before the branch, the branch, and those behind it.
    before: Vec<NodeId>,
    branch: Node,
    behind: Vec<NodeId>,
    /// Which side of the branch calls.
    side: usize,
    /// The calls, and the tensor that holds each call's node.
    calls: Vec<(NodeId, ValueId)>,
    /// How many nodes there are.
    count: Dim,
    /// The nodes on which the branch's condition depends.
    condition: Vec<NodeId>,
}

impl Recursion {
    /// Legality.
    fn of(p: &Program, f: FuncId) -> Option<Self> {
        let body = p.region(p.func(f).body);
        let is_call = |n: &NodeId| p.node(*n).op == Op::Control(ControlOp::Call(f));
        let calls_in = |r: RegionId| {
            let mut found = vec![];
            walk(p, r, &mut |n, node| found.extend((node.op == Op::Control(ControlOp::Call(f))).then_some(n)));
            found
        };
        let at = body.nodes.iter().position(|n| p.node(*n).op == Op::Control(ControlOp::If))?;
        let branch = p.node(body.nodes[at]).clone();
        let side = branch.regions.iter().position(|r| !calls_in(*r).is_empty())?;
        let inner = p.region(branch.regions[side]);
        let calls: Vec<NodeId> = inner.nodes.iter().copied().filter(is_call).collect();
        if calls.len() != calls_in(p.func(f).body).len() {
            return None;
        }
        let differs = |i: &usize| calls.iter().any(|n| p.node(*n).operands[*i] != body.params[*i]);
        let mut varying = (0..body.params.len()).filter(differs);
        let node = varying.next().filter(|_| varying.next().is_none())?;
        let number = body.params[node];
        let index = TensorType::new(ScalarType::I64, []);
        if *p.ty(number) != Type::Tensor(index) {
            return None;
        }
        let at_node = |n: &NodeId| {
            let child = p.node_of(p.node(*n).operands[node])?;
            let whole = p.ty(*child.operands.first()?).as_tensor().is_some_and(|t| t.dtype == ScalarType::I64);
            let gathers = child.op == Op::Tensor(TensorOp::Gather) && child.operands[1] == number && whole;
            (gathers && body.params.contains(&child.operands[0])).then_some((*n, child.operands[0]))
        };
        let calls: Vec<(NodeId, ValueId)> = calls.iter().map(at_node).collect::<Option<_>>()?;
        let count = p.ty(calls[0].1).as_tensor()?.shape.first()?.clone();
        let same = |c: &(NodeId, ValueId)| p.ty(c.1).as_tensor().is_some_and(|t| t.shape == [count.clone()]);
        let numeric = |v: &ValueId| p.ty(*v).as_tensor().is_some_and(|t| t.dtype != ScalarType::Bool);
        let condition = before(p, branch.operands[0], &body.nodes[..at]);
        let found = Self {
            params: body.params.clone(),
            results: body.results.clone(),
            node,
            before: body.nodes[..at].to_vec(),
            branch,
            behind: body.nodes[at + 1..].to_vec(),
            side,
            count: count.clone(),
            calls,
            condition,
        };
        let legal = found.calls.iter().all(same)
            && found.results.iter().all(numeric)
            && found.has_lanes(p)
            && found.asks_without_raising(p);
        legal.then_some(found)
    }

    /// Profit: with one call no two nodes have the same height.
    fn pays(&self) -> bool {
        self.calls.len() > 1
    }

    fn number(&self) -> ValueId {
        self.params[self.node]
    }

    /// Whether the condition can be computed for every node, those included that the recursion does not come to.
    fn asks_without_raising(&self, p: &Program) -> bool {
        let quiet = |n: &NodeId| {
            let node = p.node(*n);
            match &node.op {
                Op::Tensor(TensorOp::Gather) => {
                    let rows = p.ty(node.operands[0]).as_tensor().and_then(|t| t.shape.first());
                    node.operands[1] == self.number() && rows == Some(&self.count)
                }
                Op::Tensor(TensorOp::Map { .. }) => {
                    let mut raises = false;
                    walk(p, node.regions[0], &mut |_, n| {
                        if let Op::Scalar(op) = n.op {
                            let types: Option<Vec<ScalarType>> =
                                n.operands.iter().map(|v| p.ty(*v).as_scalar().map(|t| t.ty)).collect();
                            raises |= types.is_none_or(|types| can_raise(op, &types));
                        }
                    });
                    !raises
                }
                Op::Tensor(TensorOp::Const(_) | TensorOp::Iota { .. }) => true,
                Op::Tensor(TensorOp::View(moves)) => moves.iter().all(|m| matches!(m, Move::Broadcast { .. })),
                _ => false,
            }
        };
        let of_node = self.condition.iter().any(|n| p.node(*n).operands.contains(&self.number()));
        of_node && p.ty(self.branch.operands[0]).as_tensor().is_some() && self.condition.iter().all(quiet)
    }

    /// Whether every operation can be done for several nodes at once.
    fn has_lanes(&self, p: &Program) -> bool {
        let mut varying = HashSet::from([self.number()]);
        let mut fits = true;
        let mut visit = |list: &[NodeId], varying: &mut HashSet<ValueId>| {
            for n in list {
                let node = p.node(*n);
                let call = self.calls.iter().any(|c| c.0 == *n);
                let varies = call || node.operands.iter().any(|v| varying.contains(v));
                fits &= call || (is_plain(p, node) && (!varies || self.vectorizes(p, node, varying)));
                if varies {
                    varying.extend(&node.results);
                }
            }
        };
        visit(&self.before, &mut varying);
        for r in &self.branch.regions {
            visit(&p.region(*r).nodes, &mut varying);
        }
        varying.extend(&self.branch.results);
        visit(&self.behind, &mut varying);
        fits
    }

    fn vectorizes(&self, p: &Program, node: &Node, varying: &HashSet<ValueId>) -> bool {
        let is_uniform = |i: usize| !varying.contains(&node.operands[i]);
        match &node.op {
            Op::Tensor(TensorOp::Gather) => is_uniform(0),
            Op::Tensor(TensorOp::ScatterAdd) => {
                let rows = p.ty(node.operands[0]).as_tensor().and_then(|t| t.shape.first());
                rows == Some(&self.count) && self.is_number(p, node.operands[1])
            }
            Op::Tensor(TensorOp::Contract(spec)) => free_label(spec).is_some(),
            Op::Tensor(
                TensorOp::Map { .. }
                | TensorOp::Reduce { .. }
                | TensorOp::Prefix { .. }
                | TensorOp::View(_)
                | TensorOp::Concat { .. },
            ) => true,
            _ => false,
        }
    }

    /// Whether a value is the node's number, as `i64[]` or `i64[1]`.
    fn is_number(&self, p: &Program, v: ValueId) -> bool {
        let small = p.ty(v).as_tensor().is_some_and(|t| t.shape.is_empty() || t.shape == [Dim::Const(1)]);
        let through = p.node_of(v).filter(|n| matches!(n.op, Op::Tensor(TensorOp::View(_))));
        small && (v == self.number() || through.is_some_and(|n| self.is_number(p, n.operands[0])))
    }
}

/// Whether an operation stands for itself, but for the regions of maps.
fn is_plain(p: &Program, node: &Node) -> bool {
    match &node.op {
        Op::Tensor(TensorOp::Map { .. }) => captures(p, node.regions[0]).is_empty(),
        Op::Tensor(_) | Op::Input(_) => true,
        _ => false,
    }
}

/// The nodes of a list on which a value depends, in order.
fn before(p: &Program, v: ValueId, list: &[NodeId]) -> Vec<NodeId> {
    let mut wanted = HashSet::from([v]);
    let mut found = vec![];
    for n in list.iter().rev() {
        let node = p.node(*n);
        if node.results.iter().any(|v| wanted.contains(v)) {
            wanted.extend(node.operands.iter().copied());
            found.push(*n);
        }
    }
    found.reverse();
    found
}

fn free_label(spec: &ContractSpec) -> Option<u8> {
    (b'a'..=b'z').chain(b'A'..=b'Z').find(|l| !spec.a.contains(l) && !spec.b.contains(l))
}

// ---- the loop ----

impl Recursion {
    fn build(&self, b: &mut Builder, f: FuncId) -> Result<FuncId> {
        let p = b.program();
        let types: Vec<Type> = self.params.iter().map(|v| p.ty(*v).clone()).collect();
        let names: HashSet<&String> = p.funcs.iter().map(|f| &f.name).collect();
        let base = format!("{}_levels", p.func(f).name);
        let name = (0..).map(|i| if i == 0 { base.clone() } else { format!("{base}{i}") });
        let name = name.into_iter().find(|n| !names.contains(n)).unwrap_or(base.clone());
        let params = b.begin_func(&types);
        let done = self.body(b, &params);
        let results = done.as_ref().map_or(&[][..], |r| r);
        let g = b.end_func(name, results);
        done.map(|_| g)
    }

    fn body(&self, b: &mut Builder, params: &[ValueId]) -> Result<Vec<ValueId>> {
        let root = params[self.node];
        let env: HashMap<ValueId, ValueId> = self.params.iter().copied().zip(params.iter().copied()).collect();
        let levels = self.levels(b, &env, root)?;
        let places = self.count.clone().plus(Dim::Const(LANES));
        let row = |b: &mut Builder, i: usize| {
            let moves = vec![
                Move::Slice { dim: 0, start: Dim::Const(i), len: Dim::Const(1), step: 1 },
                Move::Reshape(vec![places.clone()]),
            ];
            b.tensor(TensorOp::View(moves), &[levels])
        };
        let (order, heights) = (row(b, 0)?, row(b, 1)?);
        let mut state = vec![number(b, 0)?];
        for v in &self.results {
            let ty = b.ty(*v).as_tensor().cloned().ok_or_else(|| Error::Bug("a result that is no tensor".into()))?;
            let zero = zero(b, ty.dtype)?;
            let shape = std::iter::once(self.count.clone()).chain(ty.shape).collect();
            state.push(b.tensor(TensorOp::View(vec![Move::Broadcast { shape, dims: vec![] }]), &[zero])?);
        }
        let types: Vec<Type> = state.iter().map(|v| b.ty(*v).clone()).collect();
        let go_on = b.region(&types, vec![], |b, s| {
            let node = b.tensor(TensorOp::Gather, &[order, s[0]])?;
            let zero = number(b, 0)?;
            b.map(&[node, zero], |b, v| Ok(vec![b.scalar(ScalarOp::Ge, v)?]))
        })?;
        let step = b.region(&types, vec![], |b, s| self.window(b, &env, order, heights, s))?;
        let tables = b.push(Op::Control(ControlOp::While), &state, &[go_on, step])?;
        tables[1..].iter().map(|t| b.tensor(TensorOp::Gather, &[*t, root])).collect()
    }

    fn levels(&self, b: &mut Builder, env: &HashMap<ValueId, ValueId>, root: ValueId) -> Result<ValueId> {
        let ty = TensorType::new(ScalarType::I64, [self.count.clone()]);
        let all = b.tensor(TensorOp::Iota { ty, dim: 0 }, &[])?;
        let mut lanes = Lanes::new(env, self.count.clone(), self.number(), all);
        for n in &self.condition {
            lanes.node(b, *n)?;
        }
        let mut inner = lanes.wide(b, self.branch.operands[0])?;
        if self.side == 1 {
            inner = b.map(&[inner], |b, v| Ok(vec![b.scalar(ScalarOp::Not, v)?]))?[0];
        }
        let mut operands = vec![inner, root];
        operands.extend(self.calls.iter().map(|c| env[&c.1]));
        b.tensor(TensorOp::Levels { pad: LANES }, &operands)
    }

    /// One window: where the next begins, and the tables.
    fn window(
        &self,
        b: &mut Builder,
        env: &HashMap<ValueId, ValueId>,
        order: ValueId,
        heights: ValueId,
        state: &[ValueId],
    ) -> Result<Vec<ValueId>> {
        let shape = vec![Dim::Const(LANES)];
        let (at, tables) = (state[0], &state[1..]);
        let spread = |b: &mut Builder, v: ValueId| {
            b.tensor(TensorOp::View(vec![Move::Broadcast { shape: shape.clone(), dims: vec![] }]), &[v])
        };
        let lane = b.tensor(TensorOp::Iota { ty: TensorType::new(ScalarType::I64, shape.clone()), dim: 0 }, &[])?;
        let from = spread(b, at)?;
        let slots = b.map(&[from, lane], |b, v| Ok(vec![b.scalar(ScalarOp::Add, v)?]))?[0];
        let (first, height) = (b.tensor(TensorOp::Gather, &[order, at])?, b.tensor(TensorOp::Gather, &[heights, at])?);
        let (nodes, found) =
            (b.tensor(TensorOp::Gather, &[order, slots])?, b.tensor(TensorOp::Gather, &[heights, slots])?);
        let (first, wanted) = (spread(b, first)?, spread(b, height)?);
        let chosen = b.map(&[found, wanted, nodes, first], |b, v| {
            let here = b.scalar(ScalarOp::Eq, &v[..2])?;
            let node = b.scalar(ScalarOp::Select, &[here, v[2], v[3]])?;
            let (one, zero) = (b.literal(Value::I64(1), ScalarType::I64)?, b.literal(Value::I64(0), ScalarType::I64)?);
            let count = b.scalar(ScalarOp::Select, &[here, one, zero])?;
            Ok(vec![here, node, count])
        })?;
        let (here, nodes) = (chosen[0], chosen[1]);
        let count = b.tensor(TensorOp::Reduce { reducer: Reducer::Sum, axes: vec![0] }, &[chosen[2]])?;
        let next = b.map(&[at, count], |b, v| Ok(vec![b.scalar(ScalarOp::Add, v)?]))?[0];
        let mut lanes = Lanes::new(env, Dim::Const(LANES), self.number(), nodes);
        let values = self.values(b, &mut lanes, height, tables)?;
        let mut out = vec![next];
        for (table, value) in tables.iter().zip(values) {
            let ty = b.ty(value).as_tensor().cloned().ok_or_else(|| Error::Bug("a result that is no tensor".into()))?;
            let zero = zero(b, ty.dtype)?;
            let cover = |dims| TensorOp::View(vec![Move::Broadcast { shape: ty.shape.clone(), dims }]);
            let (here, zero) = (b.tensor(cover(vec![0]), &[here])?, b.tensor(cover(vec![]), &[zero])?);
            let added = b.map(&[here, value, zero], |b, v| Ok(vec![b.scalar(ScalarOp::Select, v)?]))?;
            out.push(b.tensor(TensorOp::ScatterAdd, &[*table, nodes, added[0]])?);
        }
        Ok(out)
    }

    /// What the function's body yields for the nodes of a window.
    fn values(&self, b: &mut Builder, lanes: &mut Lanes, height: ValueId, tables: &[ValueId]) -> Result<Vec<ValueId>> {
        for n in &self.before {
            lanes.node(b, *n)?;
        }
        let zero = number(b, 0)?;
        let is_inner = b.map(&[height, zero], |b, v| Ok(vec![b.scalar(ScalarOp::Gt, v)?]))?[0];
        let mut regions = vec![];
        for r in [self.side, 1 - self.side] {
            let old = b.program().region(self.branch.regions[r]).clone();
            let region = b.region(&[], vec![], |b, _| {
                for n in &old.nodes {
                    if !self.calls.iter().any(|c| c.0 == *n) {
                        lanes.node(b, *n)?;
                        continue;
                    }
                    let call = b.program().node(*n).clone();
                    let children = lanes.wide(b, call.operands[self.node])?;
                    for (v, table) in call.results.iter().zip(tables) {
                        let rows = b.tensor(TensorOp::Gather, &[*table, children])?;
                        lanes.set(*v, rows);
                    }
                }
                old.results.iter().map(|v| lanes.wide(b, *v)).collect()
            })?;
            regions.push(region);
        }
        let found = b.push(Op::Control(ControlOp::If), &[is_inner], &regions)?;
        self.branch.results.iter().zip(found).for_each(|(v, new)| lanes.set(*v, new));
        for n in &self.behind {
            lanes.node(b, *n)?;
        }
        self.results.iter().map(|v| lanes.wide(b, *v)).collect()
    }
}

fn number(b: &mut Builder, n: i64) -> Result<ValueId> {
    b.tensor(TensorOp::Const(TensorValue { shape: vec![], data: TensorData::I64(vec![n]) }.into()), &[])
}

fn zero(b: &mut Builder, dtype: ScalarType) -> Result<ValueId> {
    let data = match dtype {
        ScalarType::F32 => TensorData::F32(vec![0.0]),
        ScalarType::F64 => TensorData::F64(vec![0.0]),
        ScalarType::I32 => TensorData::I32(vec![0]),
        ScalarType::I64 => TensorData::I64(vec![0]),
        other => return Err(Error::Bug(format!("a table of {other}"))),
    };
    b.tensor(TensorOp::Const(TensorValue { shape: vec![], data }.into()), &[])
}

/// Operations done for several nodes at once: a value that varies from node to node has a first dimension for the nodes.
struct Lanes {
    size: Dim,
    same: HashMap<ValueId, ValueId>,
    varying: HashMap<ValueId, ValueId>,
}

impl Lanes {
    fn new(env: &HashMap<ValueId, ValueId>, size: Dim, number: ValueId, nodes: ValueId) -> Self {
        let mut same = env.clone();
        same.remove(&number);
        Self { size, same, varying: HashMap::from([(number, nodes)]) }
    }

    fn set(&mut self, old: ValueId, new: ValueId) {
        self.varying.insert(old, new);
    }

    fn with(&self, shape: &[Dim]) -> Vec<Dim> {
        std::iter::once(self.size.clone()).chain(shape.iter().cloned()).collect()
    }

    fn known(&self, old: ValueId) -> Result<ValueId> {
        let found = self.same.get(&old).copied();
        found.ok_or_else(|| Error::Bug(format!("{old} is not known in a window")))
    }

    /// A value with a dimension for the nodes.
    fn wide(&self, b: &mut Builder, old: ValueId) -> Result<ValueId> {
        if let Some(v) = self.varying.get(&old) {
            return Ok(*v);
        }
        let ty = b.ty(old).as_tensor().cloned().ok_or_else(|| Error::Bug(format!("{old} is no tensor")))?;
        let all = Move::Broadcast { shape: self.with(&ty.shape), dims: (1..=ty.rank()).collect() };
        let v = self.known(old)?;
        b.tensor(TensorOp::View(vec![all]), &[v])
    }

    fn node(&mut self, b: &mut Builder, n: NodeId) -> Result<()> {
        let node = b.program().node(n).clone();
        b.set_place(node.place);
        let done = self.place(b, &node);
        b.set_place(None);
        done
    }

    fn place(&mut self, b: &mut Builder, node: &Node) -> Result<()> {
        let varies = node.operands.iter().any(|v| self.varying.contains_key(v));
        let regions = node.regions.iter().map(|r| copy(b, *r, &mut HashMap::new())).collect::<Result<Vec<_>>>()?;
        if !varies {
            let operands = node.operands.iter().map(|v| self.known(*v)).collect::<Result<Vec<_>>>()?;
            let found = b.push(node.op.clone(), &operands, &regions)?;
            self.same.extend(node.results.iter().copied().zip(found));
            return Ok(());
        }
        let Op::Tensor(op) = &node.op else { return Err(Error::Bug("an operation without lanes".into())) };
        let found = match op {
            TensorOp::Contract(spec) => vec![self.contract(b, spec, node)?],
            TensorOp::Gather => {
                let operands = [self.known(node.operands[0])?, self.wide(b, node.operands[1])?];
                vec![b.tensor(TensorOp::Gather, &operands)?]
            }
            TensorOp::ScatterAdd => vec![self.scatter(b, node)?],
            op => {
                let operands = node.operands.iter().map(|v| self.wide(b, *v)).collect::<Result<Vec<_>>>()?;
                b.push(Op::Tensor(self.widened(op)?), &operands, &regions)?
            }
        };
        self.varying.extend(node.results.iter().copied().zip(found));
        Ok(())
    }

    /// The operation over values that all have a dimension for the nodes.
    fn widened(&self, op: &TensorOp) -> Result<TensorOp> {
        Ok(match op {
            TensorOp::Map { shape } => TensorOp::Map { shape: self.with(shape) },
            TensorOp::Reduce { reducer, axes } => {
                TensorOp::Reduce { reducer: *reducer, axes: axes.iter().map(|a| a + 1).collect() }
            }
            TensorOp::Prefix { reducer, axis } => TensorOp::Prefix { reducer: *reducer, axis: axis + 1 },
            TensorOp::Concat { axis } => TensorOp::Concat { axis: axis + 1 },
            TensorOp::View(moves) => TensorOp::View(moves.iter().map(|m| self.moved(m)).collect()),
            _ => return Err(Error::Bug("an operation without lanes".into())),
        })
    }

    fn moved(&self, m: &Move) -> Move {
        let behind = |dims: &[usize]| std::iter::once(0).chain(dims.iter().map(|d| d + 1)).collect();
        match m {
            Move::Permute(perm) => Move::Permute(behind(perm)),
            Move::Broadcast { shape, dims } => Move::Broadcast { shape: self.with(shape), dims: behind(dims) },
            Move::Slice { dim, start, len, step } => {
                Move::Slice { dim: dim + 1, start: start.clone(), len: len.clone(), step: *step }
            }
            Move::Reshape(shape) => Move::Reshape(self.with(shape)),
            Move::Pad { dim, before, after } => Move::Pad { dim: dim + 1, before: *before, after: *after },
            Move::Reverse(dim) => Move::Reverse(dim + 1),
        }
    }

    fn contract(&self, b: &mut Builder, spec: &ContractSpec, node: &Node) -> Result<ValueId> {
        let lane = free_label(spec).ok_or_else(|| Error::Bug("no label is left".into()))?;
        let mut spec = spec.clone();
        let mut operands = vec![];
        for (v, labels) in node.operands.iter().zip([&mut spec.a, &mut spec.b]) {
            operands.push(match self.varying.get(v) {
                Some(v) => {
                    labels.insert(0, lane);
                    *v
                }
                None => self.known(*v)?,
            });
        }
        spec.out.insert(0, lane);
        b.tensor(TensorOp::Contract(spec), &operands)
    }

    /// One row of each lane's base, at the node's number: where the row is, the update is added.
    fn scatter(&self, b: &mut Builder, node: &Node) -> Result<ValueId> {
        let (base, at) = (self.wide(b, node.operands[0])?, self.wide(b, node.operands[1])?);
        let update = self.wide(b, node.operands[2])?;
        let ty = b.ty(base).as_tensor().cloned().ok_or_else(|| Error::Bug("a base that is no tensor".into()))?;
        let with_row = b.ty(at).as_tensor().is_some_and(|t| t.rank() == 2);
        let cover = |dims| TensorOp::View(vec![Move::Broadcast { shape: ty.shape.clone(), dims }]);
        let skipped = usize::from(!with_row);
        let dims = std::iter::once(0).chain((1..ty.rank() - skipped).map(|d| d + skipped)).collect();
        let update = b.tensor(cover(dims), &[update])?;
        let at = b.tensor(cover(if with_row { vec![0, 1] } else { vec![0] }), &[at])?;
        let rows = TensorType { dtype: ScalarType::I64, shape: ty.shape.clone() };
        let rows = b.tensor(TensorOp::Iota { ty: rows, dim: 1 }, &[])?;
        let sum = b.map(&[base, update, rows, at], |b, v| {
            let here = b.scalar(ScalarOp::Eq, &v[2..])?;
            let sum = b.scalar(ScalarOp::Add, &v[..2])?;
            Ok(vec![b.scalar(ScalarOp::Select, &[here, sum, v[0]])?])
        })?;
        Ok(sum[0])
    }
}

/// A region that reads nothing from outside, once more.
fn copy(b: &mut Builder, region: RegionId, env: &mut HashMap<ValueId, ValueId>) -> Result<RegionId> {
    let old = b.program().region(region).clone();
    let types: Vec<Type> = old.params.iter().map(|v| b.ty(*v).clone()).collect();
    b.region(&types, vec![], |b, params| {
        env.extend(old.params.iter().copied().zip(params.iter().copied()));
        for n in &old.nodes {
            let node = b.program().node(*n).clone();
            let regions = node.regions.iter().map(|r| copy(b, *r, env)).collect::<Result<Vec<_>>>()?;
            let operands: Vec<ValueId> = node.operands.iter().map(|v| env[v]).collect();
            let found = b.push(node.op.clone(), &operands, &regions)?;
            env.extend(node.results.iter().copied().zip(found));
        }
        Ok(old.results.iter().map(|v| env[v]).collect())
    })
}
