//! Semi joins that keep rows away from what stores them ("magic sets": Mumick and Pirahesh, SIGMOD 1994; Bernstein and Chiu's
//! semi-join reducers, JACM 1981).
//!
//! Of a join, the rows of one side that have no partner do not matter (both sides of an inner join; the right side of left,
//! single, semi and anti joins). If the side is stored or grouped and the other side is small, its rows are first looked up
//! among the other side's keys: as far down as the keys go, below groups on them, into inputs of joins. The other side, or what
//! it takes its keys from, is then read twice, and so it is stored once.
//!
//! What holds: rows and their order are those of before, for a semi join keeps order and only rows go that meet no partner. An
//! operation that can raise runs for fewer rows.
//!
//! The choice among reducers and places is by estimated rows; [`Profit`] has the prices.

use std::collections::{HashMap, HashSet};

use super::Context;
use super::live::Live;
use super::rows::{Condition, Emitter, conjuncts, tables_read_once};
use super::statistics::{Estimates, source};
use crate::entity::{ColumnId, NodeId, ValueId};
use crate::error::Result;
use crate::graph::rel::JoinKind;
use crate::graph::rewrite::{Change, Rebuild, Rewrite, reachable_nodes, read_columns, rebuild};
use crate::graph::{BridgeOp, Def, Node, Op, Program, RelOp};
use crate::scalar::ScalarOp;
use crate::types::TableType;

/// A row that is stored and hashed costs as much as so many that are looked up.
const BUILD_COST: f64 = 3.0;
/// A row of a table that is stored to be read twice.
const STORE_COST: f64 = 2.0;
/// What the pipelines of a reducer cost, in rows.
const START_COST: f64 = 2000.0;

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    let mut search = Search {
        p,
        estimates: Estimates::new(p, cx.statistics),
        inner: tables_read_once(p),
        shared: HashSet::new(),
        edges: HashMap::new(),
    };
    let mut joins = Vec::new();
    reachable_nodes(p, |id, node| {
        if let Op::Rel(RelOp::Join { kind }) = &node.op {
            joins.push((id, *kind));
        }
    });
    // From above: a reducer of an outer join goes deepest.
    for (id, kind) in joins.into_iter().rev() {
        let Some(found) = search.best(id, kind) else { continue };
        if !cx.spend() {
            break;
        }
        cx.note(p.node(id).place, search.describe(&found));
        search.shared.insert(found.reducer);
        search.edges.entry(found.edge).or_default().push(found);
    }
    if search.edges.is_empty() {
        return Ok(p.clone());
    }
    let Search { inner, shared, edges, .. } = search;
    let mut named = HashSet::new();
    reachable_nodes(p, |_, node| {
        if !matches!(node.op, Op::Col(_)) {
            read_columns(&node.op, &mut |c| {
                named.insert(c);
            });
        }
    });
    let (live, made, emitter) = (Live::of(p), HashMap::new(), Emitter::default());
    let mut write = Reduce { live, named, inner, shared, edges, made, emitter };
    rebuild(p, &mut write)
}

/// Where a table is read: a node, and which operand.
type Edge = (NodeId, usize);

/// A semi join to be put in.
#[derive(Clone)]
struct Reduction {
    /// Above which rows go through it.
    edge: Edge,
    /// The rows there.
    rows: f64,
    /// The share of them that is left.
    share: f64,
    /// The table whose keys they are looked up among.
    reducer: ValueId,
    /// The comparisons: operation, column of the rows, column of the reducer.
    keys: Vec<(ScalarOp, ColumnId, ColumnId)>,
}

/// What a reduction saves and costs, in rows that are looked up.
#[derive(Clone, Copy, Default)]
struct Profit {
    /// The price of all rows that pass, of which the reduction leaves a share.
    passing: f64,
}

impl Profit {
    fn gain(self, share: f64, rows: f64, reducer: f64, stored: bool) -> f64 {
        let store = if stored { 0.0 } else { STORE_COST * reducer };
        self.passing * (1.0 - share) - rows - BUILD_COST * reducer - store - START_COST
    }
}

struct Search<'a, 'b> {
    p: &'a Program,
    estimates: Estimates<'b>,
    inner: HashSet<ValueId>,
    /// Tables that are read twice already.
    shared: HashSet<ValueId>,
    edges: HashMap<Edge, Vec<Reduction>>,
}

impl<'a> Search<'a, '_> {
    fn table(&self, v: ValueId) -> Option<&'a TableType> {
        self.p.ty(v).as_table()
    }

    fn best(&mut self, id: NodeId, kind: JoinKind) -> Option<Reduction> {
        let node = self.p.node(id);
        // Which side may lose rows without a partner: left, right.
        let (left, right) = match kind {
            JoinKind::Inner => (true, true),
            JoinKind::Left | JoinKind::Single | JoinKind::Anti => (false, true),
            JoinKind::Semi => (true, true),
            JoinKind::Right => (true, false),
            JoinKind::Full | JoinKind::Mark(_) => return None,
        };
        let keys = self.keys(node)?;
        let mut best: Option<(f64, Reduction)> = None;
        for (side, may) in [(0, left), (1, right)] {
            if !may {
                continue;
            }
            let pairs: Vec<_> = keys.iter().map(|k| if side == 0 { *k } else { (k.0, k.2, k.1) }).collect();
            let mut sets: Vec<Vec<_>> = pairs.iter().map(|k| vec![*k]).collect();
            if pairs.len() > 1 {
                sets.push(pairs);
            }
            for set in sets {
                let places = self.places((id, side), &set);
                let reducers = self.reducers(node.operands[1 - side], &set);
                for reducer in &reducers {
                    for (edge, profit) in &places {
                        let rows = self.estimates.rows(self.p.node(edge.0).operands[edge.1]);
                        let size = self.estimates.rows(*reducer);
                        let conditions: Vec<Condition> =
                            set.iter().map(|k| Condition::Columns(k.0, k.1, k.2)).collect();
                        let share = self.estimates.share_with_partner(&conditions, rows, size);
                        let stored = self.shared.contains(reducer) || self.is_scan(*reducer);
                        let gain = profit.gain(share, rows, size, stored);
                        if gain > best.as_ref().map_or(0.0, |b| b.0) {
                            let found = Reduction { edge: *edge, rows, share, reducer: *reducer, keys: set.clone() };
                            best = Some((gain, found));
                        }
                    }
                }
            }
        }
        best.map(|b| b.1)
    }

    /// The equalities of a column of the left side and one of the right side.
    fn keys(&self, node: &Node) -> Option<Vec<(ScalarOp, ColumnId, ColumnId)>> {
        let p = self.p;
        let (left, right) = (self.table(node.operands[0])?, self.table(node.operands[1])?);
        let column = |v: ValueId| match p.node_of(v).map(|n| &n.op) {
            Some(Op::Col(id)) => Some(*id),
            _ => None,
        };
        let mut keys = Vec::new();
        for part in conjuncts(p, node.regions[0]) {
            let Some(Node { op: Op::Scalar(op @ (ScalarOp::Eq | ScalarOp::IsNotDistinct)), operands, .. }) =
                p.node_of(part.value)
            else {
                continue;
            };
            let (Some(a), Some(b)) = (column(operands[0]), column(operands[1])) else { continue };
            if left.get(a).is_some() && right.get(b).is_some() {
                keys.push((*op, a, b));
            } else if left.get(b).is_some() && right.get(a).is_some() {
                keys.push((*op, b, a));
            }
        }
        (!keys.is_empty()).then_some(keys)
    }

    fn is_scan(&self, v: ValueId) -> bool {
        matches!(self.p.node_of(v), Some(Node { op: Op::Rel(RelOp::Scan { .. }), .. }))
    }

    /// Where rows can go through the semi join, from an operand of the join down, with what is saved above.
    fn places(&mut self, from: Edge, keys: &[(ScalarOp, ColumnId, ColumnId)]) -> Vec<(Edge, Profit)> {
        let mut out = Vec::new();
        let mut edge = from;
        let mut profit = Profit::default();
        if from.1 == 1 {
            profit.passing += BUILD_COST * self.estimates.rows(self.p.node(from.0).operands[1]);
        }
        loop {
            out.push((edge, profit));
            let v = self.p.node(edge.0).operands[edge.1];
            let Def::Result(id, _) = self.p.values[v.index()].def else { return out };
            let node = self.p.node(id);
            if !self.inner.contains(&v) || self.shared.contains(&v) {
                return out;
            }
            let has = |i: usize| {
                let t = node.operands.get(i).and_then(|v| self.p.ty(*v).as_table());
                t.is_some_and(|t| keys.iter().all(|k| t.get(k.1).is_some()))
            };
            let next =
                match &node.op {
                    Op::Rel(RelOp::Group { keys: by, .. }) if keys.iter().all(|k| by.contains(&k.1)) => {
                        profit.passing += BUILD_COST * self.estimates.rows(node.operands[0]);
                        0
                    }
                    Op::Rel(RelOp::Extend { .. } | RelOp::Project { .. } | RelOp::Filter)
                    | Op::Rel(RelOp::Sort { limit: None, .. })
                        if has(0) =>
                    {
                        0
                    }
                    Op::Bridge(BridgeOp::Apply { .. }) if has(0) => {
                        profit.passing += BUILD_COST * self.estimates.rows(node.operands[0]);
                        0
                    }
                    Op::Rel(RelOp::Join { kind: JoinKind::Inner }) if has(0) || has(1) => usize::from(!has(0)),
                    Op::Rel(RelOp::Join {
                        kind: JoinKind::Left | JoinKind::Semi | JoinKind::Anti | JoinKind::Single,
                    }) if has(0) => 0,
                    _ => return out,
                };
            if matches!(node.op, Op::Rel(RelOp::Join { .. })) {
                let price = if next == 1 { BUILD_COST } else { 1.0 };
                profit.passing += price * self.estimates.rows(node.operands[next]);
            }
            edge = (id, next);
        }
    }

    /// The tables from which a side takes its keys, from the side itself down.
    fn reducers(&self, side: ValueId, keys: &[(ScalarOp, ColumnId, ColumnId)]) -> Vec<ValueId> {
        let mut out = Vec::new();
        let mut v = side;
        loop {
            out.push(v);
            let Some(node) = self.p.node_of(v).filter(|_| self.inner.contains(&v)) else { return out };
            let has = |i: usize| {
                let t = node.operands.get(i).and_then(|v| self.table(*v));
                t.is_some_and(|t| keys.iter().all(|k| t.get(k.2).is_some()))
            };
            v = match &node.op {
                Op::Rel(RelOp::Extend { .. } | RelOp::Project { .. } | RelOp::Filter)
                | Op::Rel(RelOp::Sort { limit: None, .. })
                    if has(0) =>
                {
                    node.operands[0]
                }
                Op::Bridge(BridgeOp::Apply { .. }) if has(0) => node.operands[0],
                Op::Rel(RelOp::Join { kind: JoinKind::Inner }) if has(0) => node.operands[0],
                Op::Rel(RelOp::Join { kind: JoinKind::Inner }) if has(1) => node.operands[1],
                Op::Rel(RelOp::Join { kind }) if has(0) && !matches!(kind, JoinKind::Right | JoinKind::Full) => {
                    node.operands[0]
                }
                _ => return out,
            };
        }
    }

    fn describe(&mut self, r: &Reduction) -> String {
        let place = self.p.node(r.edge.0).operands[r.edge.1];
        let reducer = self.estimates.rows(r.reducer);
        format!(
            "{} {:.0} ⋉ {} {reducer:.0}: about {:.0} rows go on",
            source(self.p, place),
            r.rows,
            source(self.p, r.reducer),
            r.rows * r.share
        )
    }
}

/// Puts the semi joins in.
struct Reduce {
    live: Live,
    /// Columns that operations list, used or not.
    named: HashSet<ColumnId>,
    inner: HashSet<ValueId>,
    shared: HashSet<ValueId>,
    edges: HashMap<Edge, Vec<Reduction>>,
    /// Shared tables that are made.
    made: HashMap<ValueId, ValueId>,
    emitter: Emitter,
}

impl Rewrite for Reduce {
    fn node(&mut self, cx: &mut Rebuild<'_>, id: NodeId, node: &Node) -> Result<Change> {
        if !node.makes_table() {
            return Ok(Change::Keep);
        }
        let v = node.results[0];
        if self.inner.contains(&v) {
            return Ok(Change::Drop);
        }
        let table = if self.shared.contains(&v) { self.operand(cx, v)? } else { self.over(cx, id, node)? };
        let has: Vec<ColumnId> = columns(cx, table)?;
        let wanted: Vec<ColumnId> = cx
            .old
            .ty(v)
            .as_table()
            .into_iter()
            .flat_map(|t| t.columns.iter().map(|c| c.id))
            .filter(|c| has.contains(c))
            .collect();
        if wanted == has {
            return Ok(Change::Values(vec![table]));
        }
        Ok(Change::Values(vec![cx.b.rel(RelOp::Project { columns: wanted }, &[table], &[])?]))
    }
}

fn columns(cx: &Rebuild<'_>, table: ValueId) -> Result<Vec<ColumnId>> {
    Ok(cx.b.program().table(table)?.columns.iter().map(|c| c.id).collect())
}

impl Reduce {
    /// A table, made here if it was put off. One that is read twice is made once, with the columns that are used.
    fn operand(&mut self, cx: &mut Rebuild<'_>, v: ValueId) -> Result<ValueId> {
        if let Some(table) = self.made.get(&v) {
            return Ok(*table);
        }
        let p = cx.old;
        let Def::Result(id, _) = p.values[v.index()].def else { return cx.value(v) };
        let waits = self.inner.contains(&v) || (self.shared.contains(&v) && cx.value(v).is_err());
        if !waits {
            return cx.value(v);
        }
        let node = p.node(id);
        let mut table = self.over(cx, id, node)?;
        if self.shared.contains(&v) {
            let has = columns(cx, table)?;
            let is_used = |c: &ColumnId| self.named.contains(c) || self.live.column(v, *c);
            let used: Vec<ColumnId> = has.iter().copied().filter(is_used).collect();
            if used.len() < has.len() && !matches!(node.op, Op::Rel(RelOp::Scan { .. })) {
                table = cx.b.rel(RelOp::Project { columns: used }, &[table], &[])?;
            }
            self.made.insert(v, table);
        }
        Ok(table)
    }

    fn over(&mut self, cx: &mut Rebuild<'_>, id: NodeId, node: &Node) -> Result<ValueId> {
        let mut operands = Vec::new();
        for (i, v) in node.operands.iter().enumerate() {
            if cx.old.ty(*v).as_table().is_none() {
                operands.push(cx.value(*v)?);
                continue;
            }
            let mut table = self.operand(cx, *v)?;
            for r in self.edges.get(&(id, i)).cloned().unwrap_or_default() {
                let reducer = self.operand(cx, r.reducer)?;
                let conditions: Vec<Condition> =
                    r.keys.iter().map(|(op, a, b)| Condition::Columns(*op, *a, *b)).collect();
                let region = self.emitter.predicate(cx, &[table, reducer], &conditions)?;
                table = cx.b.rel(RelOp::Join { kind: JoinKind::Semi }, &[table, reducer], &[region])?;
            }
            operands.push(table);
        }
        let op = cx.map_op(&node.op)?;
        if matches!(op, Op::Rel(RelOp::Recurse { .. })) {
            return Ok(cx.keep_over(self, op, &operands, node)?[0]);
        }
        Ok(cx.keep_over(&mut self.emitter, op, &operands, node)?[0])
    }
}
