//! Filters go down to where their columns come from.
//!
//! A filter is split into conjuncts, and each goes below what does not make its columns. That is below extends (then it reads
//! what the column was computed from), projections, sorts and unions, below groups and windows if it reads their keys, and to
//! the sides of joins that may lose rows. On the way
//!
//! - an inner join takes conjuncts over both sides into its predicate, and gives those over one side to that side;
//! - a predicate that NULLs do not pass makes an outer join an inner one;
//! - a mark that must be true makes its join a semi join, one that must be false an anti join, if it cannot be NULL;
//! - a single join with a table of exactly one row is an inner join;
//! - a disjunction gives up what all its branches have in common, and to each side of a join what all branches say of it.
//!
//! A limit goes below what keeps rows and order; over a sort it becomes the sort's.
//!
//! What can raise does not move. Its conjuncts run for the rows that passed the others.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::rows::{Condition, Emitter, Part, With, conjuncts, disjuncts, tables_read_once};
use super::statistics::Estimates;
use super::{Context, cross_late};
use crate::entity::{ColumnId, NodeId, ValueId};
use crate::error::Result;
use crate::graph::rel::{JoinKind, SortKey};
use crate::graph::rewrite::{Change, Rebuild, Rewrite, rebuild};
use crate::graph::{BridgeOp, Def, Node, Op, Program, RelOp};
use crate::scalar::{self, NullRule, ScalarOp};
use crate::types::{ScalarType, TableType};
use crate::value::Value;

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    rebuild(p, &mut Pushdown { cx, inner: tables_read_once(p), emitter: Emitter::default(), models: None })
}

/// The same, and through models too.
pub(super) fn run_through_models(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    let models = Some(Estimates::new(p, cx.statistics));
    rebuild(p, &mut Pushdown { cx, inner: tables_read_once(p), emitter: Emitter::default(), models })
}

struct Pushdown<'a, 'b, 'c> {
    cx: &'a mut Context<'b>,
    /// Tables that are made when their one reader is.
    inner: HashSet<ValueId>,
    emitter: Emitter,
    /// Given if filters and limits go below models: estimates for the notes.
    models: Option<Estimates<'c>>,
}

/// A conjunct on its way down. It cannot raise.
#[derive(Clone)]
struct Moving {
    condition: Condition,
    /// The columns that it needs where it is now.
    columns: BTreeSet<ColumnId>,
}

impl Moving {
    fn new(condition: Condition) -> Self {
        Self { columns: condition.columns(), condition }
    }

    fn reads_only(&self, t: &TableType) -> bool {
        self.columns.iter().all(|c| t.get(*c).is_some())
    }
}

impl Rewrite for Pushdown<'_, '_, '_> {
    fn node(&mut self, cx: &mut Rebuild<'_>, _: NodeId, node: &Node) -> Result<Change> {
        if !node.makes_table() {
            return Ok(Change::Keep);
        }
        if self.inner.contains(&node.results[0]) {
            return Ok(Change::Drop);
        }
        Ok(Change::Values(vec![self.table(cx, node.results[0], vec![])?]))
    }
}

impl Pushdown<'_, '_, '_> {
    /// An operand with conjuncts that its rows must fulfil.
    fn operand(&mut self, cx: &mut Rebuild<'_>, v: ValueId, moving: Vec<Moving>) -> Result<ValueId> {
        if self.inner.contains(&v) {
            return self.table(cx, v, moving);
        }
        let table = cx.value(v)?;
        self.filter(cx, table, moving)
    }

    /// A filter over a new table; none for no condition.
    fn filter(&mut self, cx: &mut Rebuild<'_>, table: ValueId, moving: Vec<Moving>) -> Result<ValueId> {
        self.filter_all(cx, table, moving.into_iter().map(|m| m.condition).collect())
    }

    fn filter_all(&mut self, cx: &mut Rebuild<'_>, table: ValueId, conditions: Vec<Condition>) -> Result<ValueId> {
        if conditions.is_empty() {
            return Ok(table);
        }
        let region = self.emitter.predicate(cx, &[table], &conditions)?;
        cx.b.rel(RelOp::Filter, &[table], &[region])
    }

    /// A node over new operands.
    fn over(&mut self, cx: &mut Rebuild<'_>, node: &Node, operands: &[ValueId]) -> Result<ValueId> {
        let op = cx.map_op(&node.op)?;
        Ok(cx.keep_over(&mut self.emitter, op, operands, node)?[0])
    }

    /// An old table made anew, with conjuncts that its rows must fulfil.
    fn table(&mut self, cx: &mut Rebuild<'_>, v: ValueId, moving: Vec<Moving>) -> Result<ValueId> {
        let Def::Result(id, _) = cx.old.values[v.index()].def else {
            let table = cx.value(v)?;
            return self.filter(cx, table, moving);
        };
        let node = cx.old.node(id);
        match &node.op {
            Op::Rel(op) => self.rel(cx, op, node, moving),
            Op::Bridge(BridgeOp::Apply { .. }) if self.models.is_some() => {
                let (down, stay) = self.split(moving, |m| cross_late::may_pass(&node.op, &m.columns));
                let parts: Vec<Condition> = down.iter().map(|m| m.condition.clone()).collect();
                self.note_filter(node, &parts);
                let table = self.operand(cx, node.operands[0], down)?;
                let table = self.over(cx, node, &[table])?;
                self.filter(cx, table, stay)
            }
            _ => {
                let operands = self.operands(cx, node)?;
                let table = self.over(cx, node, &operands)?;
                self.filter(cx, table, moving)
            }
        }
    }

    fn operands(&mut self, cx: &mut Rebuild<'_>, node: &Node) -> Result<Vec<ValueId>> {
        let mut operands = Vec::new();
        for v in &node.operands {
            let is_table = cx.old.ty(*v).as_table().is_some();
            operands.push(if is_table { self.operand(cx, *v, vec![])? } else { cx.value(*v)? });
        }
        Ok(operands)
    }

    /// Those that go below an operation which does not make their columns, and those that stay.
    fn split(&mut self, moving: Vec<Moving>, below: impl Fn(&Moving) -> bool) -> (Vec<Moving>, Vec<Moving>) {
        let mut down = Vec::new();
        let mut stay = Vec::new();
        for m in moving {
            if below(&m) && self.cx.spend() { down.push(m) } else { stay.push(m) }
        }
        (down, stay)
    }

    fn rel(&mut self, cx: &mut Rebuild<'_>, op: &RelOp, node: &Node, mut moving: Vec<Moving>) -> Result<ValueId> {
        match op {
            RelOp::Filter => {
                let mut stay = Vec::new();
                for part in conjuncts(cx.old, node.regions[0]) {
                    if part.raises {
                        stay.push(Condition::Part(part));
                    } else {
                        moving.extend(disjuncts(cx.old, part).into_iter().map(Moving::new));
                    }
                }
                let table = self.operand(cx, node.operands[0], moving)?;
                self.filter_all(cx, table, stay)
            }
            RelOp::Extend { columns } => {
                let values = &cx.old.region(node.regions[0]).results;
                let parts: HashMap<ColumnId, Part> =
                    columns.iter().zip(values).map(|(c, v)| (*c, Part::of(cx.old, *v))).collect();
                let fits = |m: &Moving| m.columns.iter().all(|c| parts.get(c).is_none_or(|part| !part.raises));
                let (mut down, stay) = self.split(moving, fits);
                for m in &mut down {
                    let read: Vec<ColumnId> = m.columns.iter().copied().filter(|c| parts.contains_key(c)).collect();
                    for c in read {
                        m.columns.remove(&c);
                        m.columns.extend(&parts[&c].columns);
                        self.emitter.columns.insert(c, With::Value(parts[&c].value));
                    }
                }
                let table = self.operand(cx, node.operands[0], down)?;
                let table = self.over(cx, node, &[table])?;
                self.filter(cx, table, stay)
            }
            RelOp::Project { .. } | RelOp::Sort { limit: None, .. } => {
                let (down, stay) = self.split(moving, |_| true);
                let table = self.operand(cx, node.operands[0], down)?;
                let table = self.over(cx, node, &[table])?;
                self.filter(cx, table, stay)
            }
            RelOp::Group { keys, .. } => {
                let (down, stay) =
                    self.split(moving, |m| !keys.is_empty() && m.columns.iter().all(|c| keys.contains(c)));
                let table = self.operand(cx, node.operands[0], down)?;
                let table = self.over(cx, node, &[table])?;
                self.filter(cx, table, stay)
            }
            RelOp::Window { partition, .. } => {
                let (down, stay) = self.split(moving, |m| m.columns.iter().all(|c| partition.contains(c)));
                let table = self.operand(cx, node.operands[0], down)?;
                let table = self.over(cx, node, &[table])?;
                self.filter(cx, table, stay)
            }
            RelOp::Union { inputs, columns } => {
                let (down, stay) = self.split(moving, |_| true);
                let mut tables = Vec::new();
                for (v, ids) in node.operands.iter().zip(inputs) {
                    let to: HashMap<ColumnId, ColumnId> = columns.iter().copied().zip(ids.iter().copied()).collect();
                    let mut here = down.clone();
                    for m in &mut here {
                        m.columns = m.columns.iter().map(|c| to.get(c).copied().unwrap_or(*c)).collect();
                    }
                    self.emitter.columns.extend(to.iter().map(|(a, b)| (*a, With::Column(*b))));
                    tables.push(self.operand(cx, *v, here)?);
                }
                let table = self.over(cx, node, &tables)?;
                self.filter(cx, table, stay)
            }
            RelOp::Join { kind } => self.join(cx, *kind, node, moving),
            RelOp::Limit { .. } => {
                let table = self.limit(cx, op, node)?;
                self.filter(cx, table, moving)
            }
            RelOp::Sort { keys, limit: Some(limit) } => {
                let table = self.top(cx, node, keys, *limit)?;
                self.filter(cx, table, moving)
            }
            RelOp::Recurse { limit, .. } => {
                let table = self.recurse(cx, node, *limit)?;
                self.filter(cx, table, moving)
            }
            RelOp::Scan { .. } | RelOp::Values { .. } | RelOp::DependentJoin { .. } => {
                let operands = self.operands(cx, node)?;
                let table = self.over(cx, node, &operands)?;
                self.filter(cx, table, moving)
            }
        }
    }

    fn note_filter(&mut self, node: &Node, parts: &[Condition]) {
        let Some(estimates) = self.models.as_mut().filter(|_| !parts.is_empty()) else { return };
        let rows = estimates.rows(node.operands[0]);
        let left = (rows * estimates.share_of(parts)).max(1.0);
        let many = if parts.len() == 1 { "a condition goes" } else { "conditions go" };
        self.cx.note(
            node.place,
            format!("M7: {many} before the model, which runs for about {left:.0} rows in place of {rows:.0}"),
        );
    }

    fn note_limit(&mut self, chain: &[&Node], rows: u64) {
        let model = chain.iter().find(|n| matches!(n.op, Op::Bridge(_)));
        let (Some(node), Some(estimates)) = (model, self.models.as_mut()) else { return };
        let all = estimates.rows(node.operands[0]);
        self.cx.note(node.place, format!("M7: the model runs for the {rows} rows that are left, not for {all:.0}"));
    }

    /// The operations from `v` down that keep rows and their order, none of which makes one of these columns; and what they
    /// stand on.
    fn row_by_row<'p>(&self, p: &'p Program, mut v: ValueId, columns: &[ColumnId]) -> (Vec<&'p Node>, ValueId) {
        let mut chain = Vec::new();
        while self.inner.contains(&v)
            && let Some(node) = p.node_of(v)
        {
            let makes_none = match &node.op {
                Op::Rel(RelOp::Extend { columns: made }) => columns.iter().all(|c| !made.contains(c)),
                Op::Rel(RelOp::Project { .. }) => true,
                Op::Bridge(BridgeOp::Apply { columns: made, .. }) => {
                    self.models.is_some() && columns.iter().all(|c| !made.contains(c))
                }
                _ => false,
            };
            if !makes_none {
                break;
            }
            chain.push(node);
            v = node.operands[0];
        }
        (chain, v)
    }

    fn limit(&mut self, cx: &mut Rebuild<'_>, op: &RelOp, node: &Node) -> Result<ValueId> {
        let RelOp::Limit { offset, count: Some(count) } = op else {
            let table = self.operand(cx, node.operands[0], vec![])?;
            return self.over(cx, node, &[table]);
        };
        let p = cx.old;
        // What stands between the limit and a sort keeps rows and order.
        let (between, v) = self.row_by_row(p, node.operands[0], &[]);
        let below = p.node_of(v).filter(|_| self.inner.contains(&v));
        let rows = offset.saturating_add(*count);
        let mut table = match below.map(|n| (&n.op, n)) {
            Some((Op::Rel(RelOp::Sort { keys, limit }), sort)) if self.cx.spend() => {
                let limit = limit.map_or(rows, |l| l.min(rows));
                let table = self.top(cx, sort, keys, limit)?;
                if *offset == 0 { table } else { self.over(cx, node, &[table])? }
            }
            Some((Op::Rel(RelOp::Union { .. }), union)) if self.has_models(p, union) && self.cx.spend() => {
                let tables =
                    union.operands.iter().map(|v| self.first_rows(cx, *v, rows)).collect::<Result<Vec<_>>>()?;
                let table = self.over(cx, union, &tables)?;
                self.over(cx, node, &[table])?
            }
            Some((Op::Rel(RelOp::Recurse { limit, .. }), recursion))
                if limit.is_none_or(|l| l > rows) && self.cx.spend() =>
            {
                self.cx.note(node.place, format!("a recursion ends with the iteration that gives row {rows}"));
                let table = self.recurse(cx, recursion, Some(rows))?;
                self.over(cx, node, &[table])?
            }
            _ if !between.is_empty() && self.cx.spend() => {
                let table = self.operand(cx, v, vec![])?;
                self.over(cx, node, &[table])?
            }
            _ => {
                let table = self.operand(cx, node.operands[0], vec![])?;
                return self.over(cx, node, &[table]);
            }
        };
        self.note_limit(&between, *count);
        for node in between.into_iter().rev() {
            table = self.over(cx, node, &[table])?;
        }
        Ok(table)
    }

    /// A recursion of which so many rows are read. Conditions stay behind it: rows that they drop may lead to others.
    fn recurse(&mut self, cx: &mut Rebuild<'_>, node: &Node, rows: Option<u64>) -> Result<ValueId> {
        let base = self.operand(cx, node.operands[0], vec![])?;
        let mut op = cx.map_op(&node.op)?;
        if let Op::Rel(RelOp::Recurse { limit, .. }) = &mut op {
            *limit = rows;
        }
        Ok(cx.keep_over(self, op, &[base], node)?[0])
    }

    /// Whether a model, and what keeps rows and their order, makes an operand of a union.
    fn has_models(&self, p: &Program, union: &Node) -> bool {
        let is_model = |n: &&Node| matches!(n.op, Op::Bridge(_));
        union.operands.iter().any(|v| self.row_by_row(p, *v, &[]).0.iter().any(is_model))
    }

    /// The first rows of an operand, taken before its model if it has one.
    fn first_rows(&mut self, cx: &mut Rebuild<'_>, v: ValueId, rows: u64) -> Result<ValueId> {
        let (chain, below) = self.row_by_row(cx.old, v, &[]);
        if !chain.iter().any(|n| matches!(n.op, Op::Bridge(_))) {
            return self.operand(cx, v, vec![]);
        }
        let table = self.operand(cx, below, vec![])?;
        let mut table = cx.b.rel(RelOp::Limit { offset: 0, count: Some(rows) }, &[table], &[])?;
        self.note_limit(&chain, rows);
        for node in chain.into_iter().rev() {
            table = self.over(cx, node, &[table])?;
        }
        Ok(table)
    }

    /// A sort of which the first rows are asked for: below models that it does not read.
    fn top(&mut self, cx: &mut Rebuild<'_>, sort: &Node, keys: &[SortKey], limit: u64) -> Result<ValueId> {
        let read: Vec<ColumnId> = keys.iter().map(|k| k.column).collect();
        let (chain, v) = self.row_by_row(cx.old, sort.operands[0], &read);
        let is_model = |n: &&Node| matches!(n.op, Op::Bridge(_));
        let (chain, v) = match chain.iter().any(is_model) && self.cx.spend() {
            true => (chain, v),
            false => (vec![], sort.operands[0]),
        };
        let table = self.operand(cx, v, vec![])?;
        let op = cx.map_op(&Op::Rel(RelOp::Sort { keys: keys.to_vec(), limit: Some(limit) }))?;
        let mut table = cx.keep_over(&mut self.emitter, op, &[table], sort)?[0];
        self.note_limit(&chain, limit);
        for node in chain.into_iter().rev() {
            table = self.over(cx, node, &[table])?;
        }
        Ok(table)
    }

    fn join(&mut self, cx: &mut Rebuild<'_>, kind: JoinKind, node: &Node, moving: Vec<Moving>) -> Result<ValueId> {
        let p = cx.old;
        let (left, right) = (cx.old.table(node.operands[0])?, cx.old.table(node.operands[1])?);
        let (mut raising, mut own) = (Vec::new(), Vec::new());
        for part in conjuncts(p, node.regions[0]) {
            if part.raises {
                raising.push(Condition::Part(part));
            } else if matches!(kind, JoinKind::Mark(_)) {
                own.push(Moving::new(Condition::Part(part)));
            } else {
                own.extend(disjuncts(p, part).into_iter().map(Moving::new));
            }
        }
        let mut above = moving;
        let mut kind = kind;
        let mut mark = None;
        let sharper = self.sharper(cx, kind, node, &above, own.is_empty() && raising.is_empty(), left, right);
        if let Some((to, fulfilled)) = sharper
            && self.cx.spend()
        {
            if let JoinKind::Mark(id) = kind {
                mark = Some((id, to == JoinKind::Semi));
            }
            if let Some(i) = fulfilled {
                above.remove(i);
            }
            kind = to;
        }
        let mut stay = Vec::new();
        if let Some((id, _)) = mark {
            // What else reads the mark reads a constant.
            let (reads, others): (Vec<_>, Vec<_>) = above.into_iter().partition(|m| m.columns.contains(&id));
            stay = reads;
            above = others;
        }
        let (mut to_left, mut to_right, mut both) = (Vec::new(), Vec::new(), Vec::new());
        if kind == JoinKind::Inner {
            own.append(&mut above);
        }
        let narrow_left = matches!(kind, JoinKind::Inner | JoinKind::Semi | JoinKind::Right);
        let narrow_right = !matches!(kind, JoinKind::Right | JoinKind::Full);
        for m in own {
            let nullable_mark = matches!(kind, JoinKind::Mark(_)) && is_nullable(p, &m.condition);
            let (in_left, in_right) = (m.reads_only(left), m.reads_only(right));
            if narrow_left && in_left && self.cx.spend() {
                to_left.push(m);
            } else if narrow_right && in_right && !in_left && !nullable_mark && self.cx.spend() {
                to_right.push(m);
            } else {
                both.push(m);
            }
        }
        for m in above {
            let keeps_left = !matches!(kind, JoinKind::Right | JoinKind::Full);
            if keeps_left && m.reads_only(left) && self.cx.spend() {
                to_left.push(m);
            } else if kind == JoinKind::Right && m.reads_only(right) && self.cx.spend() {
                to_right.push(m);
            } else {
                stay.push(m);
            }
        }
        for m in &both {
            let Condition::Any(branches) = &m.condition else { continue };
            if narrow_left
                && let Some(part) = consequence(branches, left)
                && self.cx.spend()
            {
                to_left.push(Moving::new(part));
            }
            if narrow_right
                && let Some(part) = consequence(branches, right)
                && self.cx.spend()
            {
                to_right.push(Moving::new(part));
            }
        }
        let a = self.operand(cx, node.operands[0], to_left)?;
        let b = self.operand(cx, node.operands[1], to_right)?;
        let conditions: Vec<Condition> = both.into_iter().map(|m| m.condition).chain(raising).collect();
        let region = self.emitter.predicate(cx, &[a, b], &conditions)?;
        cx.b.set_place(node.place);
        let mut table = cx.b.rel(RelOp::Join { kind }, &[a, b], &[region])?;
        cx.b.set_place(None);
        if let Some((id, is)) = mark {
            table = cx.b.extend(table, &[id], |b| Ok(vec![b.literal(Value::Bool(is), ScalarType::Bool)?]))?;
        }
        self.filter(cx, table, stay)
    }

    /// A kind that gives fewer rows than this one, all that the conjuncts above want; and which of these it fulfils.
    #[expect(clippy::too_many_arguments, reason = "all that is known of one join")]
    fn sharper(
        &self,
        cx: &Rebuild<'_>,
        kind: JoinKind,
        node: &Node,
        above: &[Moving],
        always: bool,
        left: &TableType,
        right: &TableType,
    ) -> Option<(JoinKind, Option<usize>)> {
        let p = cx.old;
        let rejects = |t: &TableType| above.iter().any(|m| self.rejects_null(p, &m.condition, t));
        match kind {
            JoinKind::Left => rejects(right).then_some((JoinKind::Inner, None)),
            JoinKind::Right => rejects(left).then_some((JoinKind::Inner, None)),
            JoinKind::Full => match (rejects(left), rejects(right)) {
                (true, true) => Some((JoinKind::Inner, None)),
                (true, false) => Some((JoinKind::Left, None)),
                (false, true) => Some((JoinKind::Right, None)),
                (false, false) => None,
            },
            JoinKind::Single => (always && has_one_row(p, node.operands[1])).then_some((JoinKind::Inner, None)),
            JoinKind::Mark(id) => above.iter().enumerate().find_map(|(i, m)| {
                let Condition::Part(part) = &m.condition else { return None };
                match self.mark_of(p, part.value, id)? {
                    true => Some((JoinKind::Semi, Some(i))),
                    false => {
                        let nullable = cx.old.table(node.results[0]).ok()?.get(id)?.nullable;
                        (!nullable).then_some((JoinKind::Anti, Some(i)))
                    }
                }
            }),
            JoinKind::Inner | JoinKind::Semi | JoinKind::Anti => None,
        }
    }

    /// Whether a predicate is this column (true) or its negation (false), here.
    fn mark_of(&self, p: &Program, v: ValueId, id: ColumnId) -> Option<bool> {
        let node = p.node_of(v)?;
        match &node.op {
            Op::Col(c) if *c == id => Some(true),
            Op::Col(c) => match self.emitter.columns.get(c)? {
                With::Column(other) => (*other == id).then_some(true),
                With::Value(v) => self.mark_of(p, *v, id),
            },
            Op::Scalar(ScalarOp::Not) => self.mark_of(p, node.operands[0], id).map(|is| !is),
            _ => None,
        }
    }

    /// Whether a condition is not true where all columns of a table are NULL.
    fn rejects_null(&self, p: &Program, c: &Condition, t: &TableType) -> bool {
        match c {
            Condition::Part(part) => self.not_true(p, part.value, t),
            Condition::Any(branches) => branches.iter().all(|b| b.iter().any(|part| self.not_true(p, part.value, t))),
            Condition::Columns(..) | Condition::Key(..) | Condition::IsTrue(_) => false,
        }
    }

    fn not_true(&self, p: &Program, v: ValueId, t: &TableType) -> bool {
        let Some(node) = p.node_of(v) else { return false };
        match &node.op {
            Op::Scalar(ScalarOp::And) => node.operands.iter().any(|v| self.not_true(p, *v, t)),
            Op::Scalar(ScalarOp::Or) => node.operands.iter().all(|v| self.not_true(p, *v, t)),
            Op::Scalar(ScalarOp::IsNotNull) => self.is_null(p, node.operands[0], t),
            _ => self.is_null(p, v, t),
        }
    }

    /// Whether a value is NULL where all columns of a table are.
    fn is_null(&self, p: &Program, v: ValueId, t: &TableType) -> bool {
        let Some(node) = p.node_of(v) else { return false };
        match &node.op {
            Op::Col(id) => match self.emitter.columns.get(id) {
                _ if t.get(*id).is_some() => true,
                Some(With::Column(other)) => t.get(*other).is_some(),
                Some(With::Value(v)) => self.is_null(p, *v, t),
                None => false,
            },
            Op::Scalar(op) => {
                scalar::def(*op).null == NullRule::Strict && node.operands.iter().any(|v| self.is_null(p, *v, t))
            }
            _ => false,
        }
    }
}

/// What a disjunction says of one table: for each branch the conjuncts over it. `None` if a branch says nothing.
fn consequence(branches: &[Vec<Part>], t: &TableType) -> Option<Condition> {
    let of = |branch: &Vec<Part>| -> Vec<Part> {
        branch.iter().filter(|part| !part.columns.is_empty() && part.reads_only(t)).cloned().collect()
    };
    let branches: Vec<Vec<Part>> = branches.iter().map(of).collect();
    branches.iter().all(|b| !b.is_empty()).then_some(Condition::Any(branches))
}

fn is_nullable(p: &Program, c: &Condition) -> bool {
    let nullable = |part: &Part| p.ty(part.value).as_scalar().is_none_or(|t| t.nullable);
    match c {
        Condition::Part(part) => nullable(part),
        Condition::Any(branches) => branches.iter().flatten().any(nullable),
        Condition::Columns(..) | Condition::Key(..) => true,
        Condition::IsTrue(_) => false,
    }
}

/// Whether a table has exactly one row.
fn has_one_row(p: &Program, v: ValueId) -> bool {
    let Some(node) = p.node_of(v) else { return false };
    match &node.op {
        Op::Rel(RelOp::Extend { .. } | RelOp::Project { .. }) | Op::Bridge(BridgeOp::Apply { .. }) => {
            has_one_row(p, node.operands[0])
        }
        Op::Rel(RelOp::Group { keys, .. }) => keys.is_empty(),
        Op::Rel(RelOp::Values { rows, .. }) => rows.len() == 1,
        _ => false,
    }
}
