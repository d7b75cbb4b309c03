//! Runs the part of a training step that goes row by row over parts of the batch.
//!
//! In the body of a `for_batches`, forward and backward pass treat each row of the batch by itself, and gradients and losses
//! are sums over the rows. Such nodes become one `for_parts`: a part of the batch is on one core from its features to its share
//! of the gradients, so that a step is one fork and join rather than one for each operation, and values between operations stay
//! in that core's cache. (Data parallelism with an all-reduce, within one machine.)
//!
//! What holds:
//! - [`Kind`] says of each value of the body how it depends on the batch. What is by rows or a sum of rows moves; what is known
//!   before the batch stands ahead of the loop over parts, and everything else behind it. So the number of rows by which a mean
//!   divides is the batch's, not the part's.
//! - The batch is the first dimension of what is by rows, and no other one.
//! - The size of a part follows from the program alone ([`profit`]).
//! - Exact in real arithmetic: sums over a batch are added in another order.

use std::collections::{HashMap, HashSet};

use super::Context;
use super::algebra::has_tensors;
use crate::entity::{NodeId, RegionId, SymId, ValueId};
use crate::error::Result;
use crate::graph::attend::AttendSpec;
use crate::graph::rewrite::{Change, Rebuild, Rewrite, captures, rebuild, symbols_of, walk};
use crate::graph::tensor::{ContractSpec, Move};
use crate::graph::{BridgeOp, ControlOp, Node, Op, Program, TensorOp};
use crate::scalar::reduce::Reducer;
use crate::types::{Dim, ScalarType, TensorType};

/// Rows of matrix products in a part at least: below, packing the weights shows.
const LEAST_ROWS: usize = 64;
/// Multiplications of a part at least, some ten microseconds: below, handing parts to threads shows.
const LEAST_WORK: usize = 1 << 20;
/// Bytes of sums that all parts have at most: beyond, they leave the caches and adding them takes longer than is won.
const MOST_BYTES: usize = 8 << 20;
/// So many multiplications for each element that is stored for the loop's sake, at least.
const WORTH: usize = 16;

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    if !has_tensors(p) {
        return Ok(p.clone());
    }
    let mut plans = HashMap::new();
    for func in &p.funcs {
        walk(p, func.body, &mut |_, node| {
            if let Op::Bridge(BridgeOp::ForBatches { batch, sources, size, .. }) = &node.op {
                let body = node.regions[0];
                let cut = &p.region(body).params[2..2 + sources];
                if let Some(plan) = Body::new(p, body, *batch, cut).plan(*size)
                    && cx.spend()
                {
                    let (rows, sums) = (plan.rows, plan.sums.len());
                    cx.note(
                        node.place,
                        format!("a step of {size} rows runs as parts of {rows}, which add up {sums} sums"),
                    );
                    plans.extend(p.region(body).nodes.first().map(|first| (*first, plan)));
                }
            }
        });
    }
    rebuild(p, &mut Parts { plans, gone: HashSet::new() })
}

/// How a value depends on the batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// It does not: it is known before the batch is looked at. It may have a row for each of the batch (numbers of rows, random
    /// numbers).
    Before,
    /// Nor does this, and its rows are equal: a part makes them anew.
    Equal,
    /// A row follows from the batch's row.
    Rows,
    /// A sum over the rows.
    Sum,
    /// It needs all rows.
    Behind,
}

/// The body of a loop over batches, looked at.
struct Body<'a> {
    p: &'a Program,
    region: RegionId,
    batch: SymId,
    /// Of parameters and results of nodes; what comes from outside is known before.
    kinds: HashMap<ValueId, Kind>,
}

/// What becomes of a body.
struct Plan {
    batch: SymId,
    rows: usize,
    /// Nodes that stand ahead of the loop over parts.
    ahead: Vec<NodeId>,
    /// Nodes of its region.
    inside: Vec<NodeId>,
    /// Nodes that stand in neither place any more.
    moved: Vec<NodeId>,
    /// Values that are cut.
    cut: Vec<ValueId>,
    joined: Vec<ValueId>,
    sums: Vec<ValueId>,
}

impl<'a> Body<'a> {
    fn new(p: &'a Program, region: RegionId, batch: SymId, cut: &[ValueId]) -> Self {
        let kinds = cut.iter().map(|v| (*v, Kind::Rows)).collect();
        let mut body = Self { p, region, batch, kinds };
        for n in &p.region(region).nodes {
            let node = p.node(*n);
            let kind = body.classify(node);
            body.kinds.extend(node.results.iter().map(|v| (*v, kind)));
        }
        body
    }

    fn kind(&self, v: ValueId) -> Kind {
        self.kinds.get(&v).copied().unwrap_or(Kind::Before)
    }

    // ---- shapes ----

    fn names_batch(&self, d: &Dim) -> bool {
        let mut found = false;
        symbols_of(d, &mut |s| found |= s == self.batch);
        found
    }

    /// How many rows of these dimensions there are for one of the batch; none where the batch is not the first dimension, or not
    /// that alone.
    fn share_of(&self, shape: &[Dim]) -> Option<usize> {
        fn share(d: &Dim, batch: SymId) -> Option<usize> {
            match d {
                Dim::Sym(s) if *s == batch => Some(1),
                Dim::Mul(a, b) => match (a.as_const(), b.as_const()) {
                    (None, Some(n)) => share(a, batch)?.checked_mul(n),
                    (Some(n), None) => share(b, batch)?.checked_mul(n),
                    _ => None,
                },
                _ => None,
            }
        }
        let (first, rest) = shape.split_first()?;
        let share = share(first, self.batch)?;
        (!rest.iter().any(|d| self.names_batch(d))).then_some(share)
    }

    fn shape(&self, v: ValueId) -> &'a [Dim] {
        self.p.ty(v).as_tensor().map_or(&[], |t| &t.shape)
    }

    /// Whether a value has a row for each of the batch that a part can have.
    fn is_by_rows(&self, v: ValueId) -> bool {
        match (self.kind(v), self.share_of(self.shape(v))) {
            (Kind::Rows | Kind::Equal, Some(_)) => true,
            (Kind::Before, share) => share == Some(1),
            _ => false,
        }
    }

    /// Whether a value is known before and the same for all parts.
    fn is_fixed(&self, v: ValueId) -> bool {
        self.kind(v) == Kind::Before && !self.shape(v).iter().any(|d| self.names_batch(d))
    }

    // ---- kinds ----

    fn classify(&self, node: &Node) -> Kind {
        let captured: Vec<ValueId> = node.regions.iter().flat_map(|r| captures(self.p, *r)).collect();
        let reads: Vec<Kind> = node.operands.iter().chain(&captured).map(|v| self.kind(*v)).collect();
        if reads.iter().any(|k| matches!(k, Kind::Sum | Kind::Behind)) {
            return Kind::Behind;
        }
        let Op::Tensor(op) = &node.op else {
            return if reads.contains(&Kind::Rows) { Kind::Behind } else { Kind::Before };
        };
        if !reads.contains(&Kind::Rows) {
            return if self.has_equal_rows(op, node) { Kind::Equal } else { Kind::Before };
        }
        let kind = if captured.iter().all(|v| self.is_fixed(*v)) { self.by_rows(op, node) } else { None };
        let rows = |v: &ValueId| self.share_of(self.shape(*v)).is_some();
        let none = |v: &ValueId| !self.shape(*v).iter().any(|d| self.names_batch(d));
        match kind {
            Some(Kind::Rows) if node.results.iter().all(rows) => Kind::Rows,
            Some(Kind::Sum) if node.results.iter().all(none) => Kind::Sum,
            _ => Kind::Behind,
        }
    }

    fn has_equal_rows(&self, op: &TensorOp, node: &Node) -> bool {
        if self.share_of(self.shape(node.results[0])).is_none() {
            return false;
        }
        match op {
            TensorOp::Iota { dim, .. } => *dim > 0,
            TensorOp::Map { .. } => {
                !node.operands.is_empty() && node.operands.iter().all(|v| self.kind(*v) == Kind::Equal)
            }
            TensorOp::View(moves) => {
                let [v] = node.operands[..] else { return false };
                match self.kind(v) {
                    Kind::Equal => self.keeps_rows(moves, self.shape(v).to_vec()),
                    _ => self.is_fixed(v) && self.repeats(moves, self.shape(v).to_vec()),
                }
            }
            _ => false,
        }
    }

    /// How the result of an operation that reads rows of the batch depends on it.
    fn by_rows(&self, op: &TensorOp, node: &Node) -> Option<Kind> {
        let o = &node.operands;
        let is = |found: bool| found.then_some(Kind::Rows);
        match op {
            TensorOp::Map { .. } => is(o.iter().all(|v| self.is_by_rows(*v))),
            TensorOp::Reduce { reducer, axes } if axes.contains(&0) => {
                let is_float = self.p.ty(o[0]).as_tensor().is_some_and(|t| t.dtype.is_float());
                (self.is_by_rows(o[0]) && *reducer == Reducer::Sum && is_float).then_some(Kind::Sum)
            }
            TensorOp::Reduce { .. } => is(self.is_by_rows(o[0])),
            TensorOp::Prefix { axis, .. } => is(self.is_by_rows(o[0]) && *axis > 0),
            TensorOp::Contract(spec) => self.contract(spec, o),
            TensorOp::Attend(spec) => is(self.attend(spec, o)),
            TensorOp::View(moves) => is(self.is_by_rows(o[0]) && self.keeps_rows(moves, self.shape(o[0]).to_vec())),
            TensorOp::Gather => is(self.is_fixed(o[0]) && self.is_by_rows(o[1])),
            TensorOp::Concat { axis } => is(*axis > 0 && o.iter().all(|v| self.is_by_rows(*v))),
            TensorOp::Const(_)
            | TensorOp::Iota { .. }
            | TensorOp::Random { .. }
            | TensorOp::ScatterAdd
            | TensorOp::AttendGrad(_)
            | TensorOp::Levels { .. } => None,
        }
    }

    /// The label that stands for the batch in operands, if it does so in all of them: each has it first and only there, or not at
    /// all and is the same for all parts.
    fn batch_label(&self, operands: &[(&[u8], ValueId)]) -> Option<u8> {
        let (labels, _) = operands.iter().find(|(_, v)| self.is_by_rows(*v))?;
        let label = *labels.first()?;
        let fits = |(labels, v): &(&[u8], ValueId)| match self.is_by_rows(*v) {
            true => labels.first() == Some(&label) && !labels[1..].contains(&label),
            false => self.is_fixed(*v) && !labels.contains(&label),
        };
        operands.iter().all(fits).then_some(label)
    }

    fn contract(&self, spec: &ContractSpec, o: &[ValueId]) -> Option<Kind> {
        let label = self.batch_label(&[(&spec.a, o[0]), (&spec.b, o[1])])?;
        match spec.out.iter().position(|l| *l == label) {
            Some(0) => Some(Kind::Rows),
            Some(_) => None,
            None => Some(Kind::Sum),
        }
    }

    fn attend(&self, spec: &AttendSpec, o: &[ValueId]) -> bool {
        let operands: Vec<(&[u8], ValueId)> = spec.operands().zip(o.iter().copied()).collect();
        let label = self.batch_label(&operands);
        label.is_some() && spec.out.first().copied() == label
    }

    /// Whether where a move begins depends on the number of rows.
    fn is_placed_by_batch(&self, m: &Move) -> bool {
        matches!(m, Move::Slice { start, .. } if self.names_batch(start))
    }

    /// Whether moves leave each row's elements in its row.
    fn keeps_rows(&self, moves: &[Move], mut shape: Vec<Dim>) -> bool {
        for m in moves {
            if self.is_placed_by_batch(m) {
                return false;
            }
            let Ok(next) = m.apply(&shape) else { return false };
            let (Some(before), Some(after)) = (self.share_of(&shape), self.share_of(&next)) else { return false };
            let keeps = match m {
                Move::Permute(perm) => perm.first() == Some(&0),
                Move::Broadcast { dims, .. } => dims.first() == Some(&0) && before == after,
                Move::Slice { dim, .. } | Move::Pad { dim, .. } | Move::Reverse(dim) => *dim > 0,
                // A row of the batch has as many elements as before.
                Move::Reshape(_) => {
                    let row = |share: usize, shape: &[Dim]| {
                        shape[1..].iter().try_fold(share, |n, d| n.checked_mul(d.as_const()?))
                    };
                    row(before, &shape).is_some_and(|n| Some(n) == row(after, &next))
                }
            };
            if !keeps {
                return false;
            }
            shape = next;
        }
        true
    }

    /// Whether moves repeat something for each row of the batch.
    fn repeats(&self, moves: &[Move], mut shape: Vec<Dim>) -> bool {
        for (i, m) in moves.iter().enumerate() {
            if self.is_placed_by_batch(m) {
                return false;
            }
            let Ok(next) = m.apply(&shape) else { return false };
            if next.iter().any(|d| self.names_batch(d)) {
                let Move::Broadcast { dims, .. } = m else { return false };
                let first = dims.iter().position(|d| *d == 0);
                let repeated = first.is_none_or(|i| shape[i] == Dim::Const(1));
                return repeated && self.share_of(&next).is_some() && self.keeps_rows(&moves[i + 1..], next);
            }
            shape = next;
        }
        false
    }

    // ---- the plan ----

    fn reads(&self, node: &Node) -> Vec<ValueId> {
        let inner = node.regions.iter().flat_map(|r| captures(self.p, *r));
        node.operands.iter().copied().chain(inner).collect()
    }

    fn plan(&self, size: usize) -> Option<Plan> {
        let region = self.p.region(self.region);
        let kind_of = |n: NodeId| self.p.node(n).results.first().map_or(Kind::Behind, |v| self.kind(*v));
        let by_rows = |v: &ValueId| matches!(self.kind(*v), Kind::Rows | Kind::Sum);
        let is_param = |v: &ValueId| region.params.contains(v);
        // What is read outside of the loop over parts comes out of it.
        let behind = region.nodes.iter().filter(|n| kind_of(**n) == Kind::Behind);
        let mut out: Vec<ValueId> = vec![];
        for v in behind.flat_map(|n| self.reads(self.p.node(*n))).chain(region.results.iter().copied()) {
            if by_rows(&v) && !is_param(&v) && !out.contains(&v) {
                out.push(v);
            }
        }
        let (joined, sums): (Vec<_>, Vec<_>) = out.iter().partition(|v| self.kind(**v) == Kind::Rows);
        if sums.is_empty() || joined.iter().any(|v| self.share_of(self.shape(*v)) != Some(1)) {
            return None;
        }
        // Nodes inside, from the last to the first; then those that must stand ahead of them.
        let mut wanted: HashSet<ValueId> = out.iter().copied().collect();
        let (mut inside, mut ahead, mut cut) = (vec![], vec![], vec![]);
        let mut before: HashSet<ValueId> = HashSet::new();
        for n in region.nodes.iter().rev() {
            let node = self.p.node(*n);
            let moves = matches!(kind_of(*n), Kind::Rows | Kind::Sum | Kind::Equal);
            if !moves || !node.results.iter().any(|v| wanted.contains(v)) {
                continue;
            }
            inside.push(*n);
            for v in self.reads(node) {
                match self.kind(v) {
                    Kind::Before => _ = before.insert(v),
                    _ => _ = wanted.insert(v),
                }
            }
        }
        inside.reverse();
        for v in inside.iter().flat_map(|n| self.reads(self.p.node(*n))) {
            let is_cut =
                is_param(&v) && self.kind(v) == Kind::Rows || self.kind(v) == Kind::Before && !self.is_fixed(v);
            if is_cut && !cut.contains(&v) {
                cut.push(v);
            }
        }
        for n in region.nodes.iter().rev() {
            if self.p.node(*n).results.iter().any(|v| before.contains(v)) {
                ahead.push(*n);
                before.extend(self.reads(self.p.node(*n)));
            }
        }
        ahead.reverse();
        if cut.is_empty() {
            return None;
        }
        let moved = self.moved(&inside, &ahead);
        let rows = self.profit(&inside, &joined, &sums, size)?;
        Some(Plan { batch: self.batch, rows, ahead, inside, moved, cut, joined, sums })
    }

    /// The nodes that are not made outside: those with equal rows may be wanted inside and outside.
    fn moved(&self, inside: &[NodeId], ahead: &[NodeId]) -> Vec<NodeId> {
        let region = self.p.region(self.region);
        let mut out = vec![];
        let mut read: HashSet<ValueId> = region.results.iter().copied().collect();
        for n in region.nodes.iter().rev() {
            let node = self.p.node(*n);
            let is_equal = node.results.iter().any(|v| self.kind(*v) == Kind::Equal);
            let stays = is_equal && (ahead.contains(n) || node.results.iter().any(|v| read.contains(v)));
            let is_by_rows = node.results.iter().any(|v| matches!(self.kind(*v), Kind::Rows | Kind::Sum));
            if is_by_rows || inside.contains(n) && !stays {
                out.push(*n);
            } else {
                read.extend(self.reads(node));
            }
        }
        out
    }

    // ---- profit ----

    /// The rows of a part, if parts pay. A part has enough rows and multiplications to be worth a thread's while, the parts' sums
    /// stay in the caches, and few elements are stored for the loop's sake beside what is computed.
    fn profit(&self, inside: &[NodeId], joined: &[ValueId], sums: &[ValueId], size: usize) -> Option<usize> {
        let products: usize = inside.iter().map(|n| self.products(self.p.node(*n))).sum();
        let share = inside.iter().map(|n| self.share(self.p.node(*n))).max().unwrap_or(1);
        let elements = |v: &ValueId| elements(&self.shape(*v)[usize::from(self.kind(*v) == Kind::Rows)..]);
        let added = sums.iter().map(elements).try_fold(0usize, |n, x| n.checked_add(x?))?;
        let stored = joined.iter().map(elements).try_fold(0usize, |n, x| n.checked_add(x?))?;
        let bytes = |v: &ValueId| self.p.ty(*v).as_tensor().map_or(8, element_bytes) * elements(v).unwrap_or(0);
        let bytes: usize = sums.iter().map(bytes).sum();
        let mut rows = LEAST_ROWS.div_ceil(share).next_power_of_two();
        let is_small = |rows: usize| {
            rows.saturating_mul(products) < LEAST_WORK || bytes.saturating_mul(size.div_ceil(rows)) > MOST_BYTES
        };
        while rows < size && is_small(rows) {
            rows *= 2;
        }
        let worth = |stored: usize, products: usize| stored.saturating_mul(WORTH) <= products;
        let pays = rows < size && worth(added, rows.saturating_mul(products)) && worth(stored, products);
        pays.then_some(rows)
    }

    /// Multiplications of a node's matrix products for one row of the batch.
    fn products(&self, node: &Node) -> usize {
        let Op::Tensor(TensorOp::Contract(spec)) = &node.op else { return 0 };
        let (a, b) = (self.shape(node.operands[0]), self.shape(node.operands[1]));
        let mut sizes: Vec<(u8, usize)> = vec![];
        for (label, d) in spec.a.iter().zip(a).chain(spec.b.iter().zip(b)) {
            if !sizes.iter().any(|s| s.0 == *label) {
                sizes.push((*label, d.as_const().or_else(|| self.share_of(std::slice::from_ref(d))).unwrap_or(1)));
            }
        }
        sizes.iter().fold(1, |n, s| n.saturating_mul(s.1))
    }

    /// Rows of a node's matrix products for one row of the batch.
    fn share(&self, node: &Node) -> usize {
        let is_product = matches!(node.op, Op::Tensor(TensorOp::Contract(_)));
        let of = |v: &ValueId| self.share_of(self.shape(*v)).unwrap_or(1);
        if is_product { node.operands.iter().map(of).max().unwrap_or(1) } else { 1 }
    }
}

fn element_bytes(t: &TensorType) -> usize {
    if t.dtype == ScalarType::F64 { 8 } else { 4 }
}

fn elements(shape: &[Dim]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(d.as_const()?))
}

struct Parts {
    /// By the first node of their bodies: there everything that a body is given has its value.
    plans: HashMap<NodeId, Plan>,
    /// Nodes that were made elsewhere already.
    gone: HashSet<NodeId>,
}

impl Rewrite for Parts {
    fn node(&mut self, cx: &mut Rebuild<'_>, id: NodeId, _: &Node) -> Result<Change> {
        if let Some(plan) = self.plans.remove(&id) {
            self.emit(cx, &plan)?;
        }
        Ok(if self.gone.contains(&id) { Change::Drop } else { Change::Keep })
    }
}

impl Parts {
    /// Makes the nodes ahead of a loop over parts, and it.
    fn emit(&mut self, cx: &mut Rebuild<'_>, plan: &Plan) -> Result<()> {
        for n in &plan.ahead {
            self.keep(cx, *n)?;
        }
        let part = cx.b.program_mut().new_symbol("part");
        let op = Op::Control(ControlOp::ForParts { part, rows: plan.rows, joined: plan.joined.len() });
        let operands = cx.values(&plan.cut)?;
        let (types, _) = cx.b.region_entry(&op, &operands, &[])?;
        // What stands inside has a meaning there that ends with the region.
        let made = plan.inside.iter().flat_map(|n| cx.old.node(*n).results.iter().copied());
        let outside: Vec<(ValueId, Option<ValueId>)> =
            plan.cut.iter().copied().chain(made).map(|v| (v, cx.value(v).ok())).collect();
        let symbol = cx.set_symbol(plan.batch, part);
        let params = cx.b.begin_region(&types, vec![]);
        plan.cut.iter().zip(params).for_each(|(v, param)| cx.set_value(*v, param));
        for n in &plan.inside {
            self.keep(cx, *n)?;
        }
        let out: Vec<ValueId> = plan.joined.iter().chain(&plan.sums).copied().collect();
        let body = cx.b.end_region(&cx.values(&out)?);
        cx.set_symbol(plan.batch, symbol);
        for (v, before) in outside {
            before.into_iter().for_each(|before| cx.set_value(v, before));
        }
        let results = cx.b.push(op, &operands, &[body])?;
        out.iter().zip(results).for_each(|(v, r)| cx.set_value(*v, r));
        self.gone.extend(plan.ahead.iter().chain(&plan.moved));
        Ok(())
    }

    fn keep(&mut self, cx: &mut Rebuild<'_>, n: NodeId) -> Result<()> {
        let node = cx.old.node(n);
        let results = cx.keep(self, node)?;
        node.results.iter().zip(results).for_each(|(v, r)| cx.set_value(*v, r));
        Ok(())
    }
}
