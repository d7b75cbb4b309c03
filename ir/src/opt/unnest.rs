//! Makes every dependent join a plain join (Neumann and Kemper, "Unnesting arbitrary queries", BTW 2015).
//!
//! The right side is taken out of its region, operation by operation from below. What ties its rows to the row outside goes up
//! with it, in one of two forms:
//!
//! - as *conditions* over columns of both sides, which become part of the join's predicate: a filter that reads the row
//!   outside costs nothing more. Through a group, a window or a limit only equalities go up: their inner sides become keys.
//! - where that does not do, as a *domain*: the distinct values that the row outside has in the columns that are read. It is
//!   joined to the right side, which then reads the domain's columns, and joins the left side on them at the end.
//!
//! A right side that has exactly one row (aggregates without keys) becomes a left join with the groups; counts of no row are 0,
//! and what is computed from the row is computed behind the join, once for each row outside as before.
//!
//! Innermost joins come first, so that a right side contains none. Groups may come to be formed that no row outside asks for.

use std::collections::{HashMap, HashSet};

use super::Context;
use super::rows::{Condition, Emitter, Part, conjuncts, copy_column, fill_zeros, may_raise, type_of};
use crate::entity::{ColumnId, NodeId, RegionId, ValueId};
use crate::error::{Error, Result};
use crate::graph::rel::{Aggregate, Frame, FrameBound, FrameUnit, JoinKind, SortKey, WindowColumn, WindowFunc};
use crate::graph::rewrite::{Change, Rebuild, Rewrite, bound_symbol, captures, reachable_nodes, rebuild, walk};
use crate::graph::{BridgeOp, Def, Node, Op, Program, Region, RelOp};
use crate::scalar::ScalarOp;
use crate::scalar::reduce::Reducer;
use crate::types::{ScalarType, TableType};
use crate::value::Value;

/// Removes all dependent joins. Takes no fuel: what follows needs it.
pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    let mut program = p.clone();
    loop {
        let mut any = false;
        reachable_nodes(&program, |_, node| any |= is_dependent(node));
        if !any {
            return Ok(program);
        }
        program = rebuild(&program, &mut Unnest { cx })?;
    }
}

fn is_dependent(node: &Node) -> bool {
    matches!(node.op, Op::Rel(RelOp::DependentJoin { .. }))
}

struct Unnest<'a, 'b> {
    cx: &'a mut Context<'b>,
}

impl Rewrite for Unnest<'_, '_> {
    fn node(&mut self, cx: &mut Rebuild<'_>, _: NodeId, node: &Node) -> Result<Change> {
        let Op::Rel(RelOp::DependentJoin { kind }) = &node.op else { return Ok(Change::Keep) };
        let mut nested = false;
        walk(cx.old, node.regions[0], &mut |_, inner| nested |= is_dependent(inner));
        if nested {
            return Ok(Change::Keep);
        }
        self.cx.count(1);
        cx.b.set_place(node.place);
        let table = unnest(cx, *kind, node, self)?;
        cx.b.set_place(None);
        Ok(Change::Values(vec![table]))
    }
}

/// A table of the right side, for all rows outside at once: for one of them it has the rows that fulfil the conditions, and
/// that carry its values in the domain's columns.
#[derive(Clone)]
struct Side {
    table: ValueId,
    conditions: Vec<Condition>,
    /// For each column that is read outside, the column that holds its value here.
    domain: Option<HashMap<ColumnId, ColumnId>>,
}

struct Join<'a> {
    node: &'a Node,
    /// The new left table and its old type.
    left: ValueId,
    left_type: TableType,
    /// The columns of the left table that the right side reads.
    outer: Vec<ColumnId>,
    /// Tables of the right side that depend on the row outside.
    sides: HashMap<ValueId, Side>,
}

fn unnest(cx: &mut Rebuild<'_>, kind: JoinKind, node: &Node, rewrite: &mut dyn Rewrite) -> Result<ValueId> {
    let p = cx.old;
    let left_type = p.ty(node.operands[0]).as_table().cloned().unwrap_or_default();
    let mut outer = Vec::new();
    walk(p, node.regions[0], &mut |_, n| {
        if let Op::Col(id) = n.op
            && left_type.get(id).is_some()
            && !outer.contains(&id)
        {
            outer.push(id);
        }
    });
    let left = cx.value(node.operands[0])?;
    let mut join = Join { node, left, left_type, outer, sides: HashMap::new() };
    join.run(cx, kind, rewrite)
}

impl Join<'_> {
    fn run(&mut self, cx: &mut Rebuild<'_>, kind: JoinKind, rewrite: &mut dyn Rewrite) -> Result<ValueId> {
        let p = cx.old;
        let region = p.region(self.node.regions[0]);
        let predicate = conjuncts(p, self.node.regions[1]);
        let right = match kind {
            JoinKind::Semi | JoinKind::Anti | JoinKind::Mark(_) if predicate.is_empty() => {
                any_row(p, region.results[0])
            }
            _ => region.results[0],
        };
        let needed = needed_nodes(p, region, right);
        let chain = self.one_row(p, right, kind, predicate.is_empty());
        for &id in &region.nodes {
            let node = p.node(id);
            if !needed.contains(&id) || chain.as_ref().is_some_and(|c| c.contains(&id)) {
                continue;
            }
            if self.is_correlated(p, node) {
                let side = self.side(cx, node)?;
                self.sides.insert(node.results[0], side);
            } else {
                let results = cx.keep(rewrite, node)?;
                node.results.iter().zip(results).for_each(|(old, new)| cx.set_value(*old, new));
            }
        }
        let joined = match chain {
            Some(chain) => self.join_one_row(cx, kind, &chain, &predicate)?,
            None => self.join(cx, kind, right, predicate)?,
        };
        let wanted: Vec<ColumnId> =
            p.ty(self.node.results[0]).as_table().into_iter().flat_map(|t| t.columns.iter().map(|c| c.id)).collect();
        project(cx, joined, wanted)
    }

    /// Whether a node of the right side depends on the row outside.
    fn is_correlated(&self, p: &Program, node: &Node) -> bool {
        let mut reads = matches!(node.op, Op::Col(id) if self.outer.contains(&id));
        for r in &node.regions {
            walk(p, *r, &mut |_, n| reads |= matches!(n.op, Op::Col(id) if self.outer.contains(&id)));
        }
        reads || node.operands.iter().any(|v| self.sides.contains_key(v))
    }

    /// The join of the left table with the right side.
    fn join(&mut self, cx: &mut Rebuild<'_>, kind: JoinKind, right: ValueId, predicate: Vec<Part>) -> Result<ValueId> {
        let side = self.input(cx, right)?;
        let mut conditions = self.domain_equalities(cx, &side)?;
        conditions.extend(side.conditions);
        if matches!(kind, JoinKind::Mark(_)) {
            conditions = not_null(conditions);
        }
        conditions.extend(predicate.into_iter().map(Condition::Part));
        let region = Emitter::default().predicate(cx, &[self.left, side.table], &conditions)?;
        cx.b.rel(RelOp::Join { kind }, &[self.left, side.table], &[region])
    }

    /// The columns outside equal the domain's.
    fn domain_equalities(&self, cx: &Rebuild<'_>, side: &Side) -> Result<Vec<Condition>> {
        let Some(domain) = &side.domain else { return Ok(vec![]) };
        let pair = |id: &ColumnId| {
            let nullable = cx.ty(self.left).as_table().and_then(|t| t.get(*id)).is_none_or(|t| t.nullable);
            let op = if nullable { ScalarOp::IsNotDistinct } else { ScalarOp::Eq };
            Ok(Condition::Columns(op, *id, domain[id]))
        };
        self.outer.iter().map(pair).collect()
    }

    // A right side of one row.

    /// The nodes of a right side that has exactly one row, from its end down to the operation that makes it so; `None` for any
    /// other right side, and where one of them has a second reader.
    fn one_row(&self, p: &Program, right: ValueId, kind: JoinKind, always: bool) -> Option<Vec<NodeId>> {
        if matches!(kind, JoinKind::Left | JoinKind::Single) && !always {
            return None;
        }
        let region = p.region(self.node.regions[0]);
        let mut chain = Vec::new();
        let mut v = right;
        loop {
            let Def::Result(id, _) = p.values[v.index()].def else { return None };
            let node = p.node(id);
            let readers = region.nodes.iter().flat_map(|n| &p.node(*n).operands).filter(|o| **o == v).count();
            if !region.nodes.contains(&id) || readers > usize::from(v != right) {
                return None;
            }
            chain.push(id);
            match &node.op {
                Op::Rel(RelOp::Extend { .. } | RelOp::Project { .. }) => v = node.operands[0],
                Op::Rel(RelOp::Group { keys, .. }) if keys.is_empty() => return Some(chain),
                Op::Rel(RelOp::Values { rows, .. }) if rows.len() == 1 => return Some(chain),
                _ => return None,
            }
        }
    }

    fn join_one_row(
        &mut self,
        cx: &mut Rebuild<'_>,
        kind: JoinKind,
        chain: &[NodeId],
        predicate: &[Part],
    ) -> Result<ValueId> {
        let p = cx.old;
        let mut table = self.left;
        for id in chain.iter().rev() {
            let node = p.node(*id);
            match &node.op {
                Op::Rel(RelOp::Values { columns, rows }) => {
                    let ids: Vec<ColumnId> = columns.iter().map(|c| c.id).collect();
                    table = cx.b.extend(table, &ids, |b| {
                        let literal =
                            |(v, c): (&Value, &crate::types::Column)| b.push1(Op::Literal(v.clone(), c.ty), &[], &[]);
                        rows[0].iter().zip(columns).map(literal).collect()
                    })?;
                }
                Op::Rel(RelOp::Group { aggregates, .. }) => {
                    let input = self.input(cx, node.operands[0])?;
                    let (grouped, zeros, conditions) = self.group_by_row(cx, input, aggregates)?;
                    table = if conditions.is_empty() {
                        let always = Emitter::default().predicate(cx, &[table, grouped], &[])?;
                        cx.b.rel(RelOp::Join { kind: JoinKind::Inner }, &[table, grouped], &[always])?
                    } else {
                        let region = Emitter::default().predicate(cx, &[table, grouped], &conditions)?;
                        cx.b.rel(RelOp::Join { kind: JoinKind::Left }, &[table, grouped], &[region])?
                    };
                    table = fill_zeros(cx, table, &zeros)?;
                }
                Op::Rel(RelOp::Extend { columns }) => {
                    let results = &p.region(node.regions[0]).results;
                    table = extend(cx, &mut Emitter::default(), table, columns, results)?;
                }
                _ => {}
            }
        }
        let conditions: Vec<Condition> = predicate.iter().cloned().map(Condition::Part).collect();
        match kind {
            JoinKind::Inner | JoinKind::Semi if conditions.is_empty() => Ok(table),
            JoinKind::Inner | JoinKind::Semi => {
                let region = Emitter::default().predicate(cx, &[table], &conditions)?;
                cx.b.rel(RelOp::Filter, &[table], &[region])
            }
            JoinKind::Left | JoinKind::Single => Ok(table),
            JoinKind::Anti => {
                let mut emitter = Emitter::default();
                begin_row_region(cx, &[table])?;
                emitter.open();
                let met = emitter.all(cx, &conditions)?;
                let yes = cx.b.literal(Value::Bool(true), ScalarType::Bool)?;
                let not_met = cx.b.scalar(ScalarOp::IsDistinct, &[met, yes])?;
                emitter.close(cx);
                let region = cx.b.end_region(&[not_met]);
                cx.b.rel(RelOp::Filter, &[table], &[region])
            }
            JoinKind::Mark(mark) => {
                let predicate = cx.old.region(self.node.regions[1]).results[0];
                extend(cx, &mut Emitter::default(), table, &[mark], &[predicate])
            }
            JoinKind::Right | JoinKind::Full => Err(Error::Bug("a dependent join that keeps right rows".into())),
        }
    }

    /// Groups a side for each row outside: the groups, the counts that are 0 where there is no group, and when a group is that
    /// of a row outside.
    #[expect(clippy::type_complexity, reason = "three results of one use")]
    fn group_by_row(
        &self,
        cx: &mut Rebuild<'_>,
        input: Side,
        aggregates: &[Aggregate],
    ) -> Result<(ValueId, Vec<(ColumnId, ColumnId)>, Vec<Condition>)> {
        let (input, keys) = self.keyed(cx, input)?;
        let mut aggregates = aggregates.to_vec();
        let mut zeros = Vec::new();
        if !keys.is_empty() || !input.conditions.is_empty() {
            for a in &mut aggregates {
                if matches!(a.reducer, Reducer::Count | Reducer::CountAll) {
                    let counted = copy_column(cx, a.out);
                    zeros.push((counted, a.out));
                    a.out = counted;
                }
            }
        }
        let grouped = cx.b.rel(RelOp::Group { keys, aggregates }, &[input.table], &[])?;
        let mut conditions = self.domain_equalities(cx, &input)?;
        conditions.extend(input.conditions);
        Ok((grouped, zeros, conditions))
    }

    // Operations of the right side.

    /// A table that an operation of the right side reads.
    fn input(&self, cx: &Rebuild<'_>, v: ValueId) -> Result<Side> {
        match self.sides.get(&v) {
            Some(side) => Ok(side.clone()),
            None => Ok(Side { table: cx.value(v)?, conditions: vec![], domain: None }),
        }
    }

    /// The side with a domain instead of conditions.
    fn bound(&self, cx: &mut Rebuild<'_>, side: Side) -> Result<Side> {
        if side.domain.is_some() {
            return Ok(side);
        }
        let (domain, table) = self.domain(cx)?;
        let mut emitter = Emitter::with_columns(domain.iter().map(|(a, b)| (*a, *b)));
        let region = emitter.predicate(cx, &[table, side.table], &side.conditions)?;
        let table = cx.b.rel(RelOp::Join { kind: JoinKind::Inner }, &[table, side.table], &[region])?;
        Ok(Side { table, conditions: vec![], domain: Some(domain) })
    }

    /// The distinct values of the columns outside that are read, in columns of their own.
    fn domain(&self, cx: &mut Rebuild<'_>) -> Result<(HashMap<ColumnId, ColumnId>, ValueId)> {
        let copies: Vec<ColumnId> = self.outer.iter().map(|c| copy_column(cx, *c)).collect();
        let table = cx.b.extend(self.left, &copies, |b| self.outer.iter().map(|c| b.col(*c)).collect())?;
        let table = cx.b.rel(RelOp::Group { keys: copies.clone(), aggregates: vec![] }, &[table], &[])?;
        Ok((self.outer.iter().copied().zip(copies).collect(), table))
    }

    /// The side with columns that tell rows of different rows outside apart: the inner sides of its equalities, or the domain.
    /// Conditions that read no column of the side stay conditions.
    fn keyed(&self, cx: &mut Rebuild<'_>, side: Side) -> Result<(Side, Vec<ColumnId>)> {
        if let Some(domain) = &side.domain {
            let keys = self.outer.iter().map(|c| domain[c]).collect();
            return Ok((side, keys));
        }
        let table_type = type_of(cx, side.table)?;
        let mut conditions = Vec::new();
        let mut keys: Vec<ColumnId> = Vec::new();
        let mut computed: Vec<(ColumnId, ValueId)> = Vec::new();
        for c in &side.conditions {
            if c.columns().iter().all(|c| table_type.get(*c).is_none()) {
                conditions.push(c.clone());
                continue;
            }
            let Some((op, inner, outer)) = self.equality(cx.old, c, &table_type) else {
                let side = self.bound(cx, side)?;
                return self.keyed(cx, side);
            };
            let column = match inner {
                Inner::Column(column) => column,
                Inner::Value(v) => match computed.iter().find(|c| c.1 == v) {
                    Some(c) => c.0,
                    None => {
                        let ty = cx.old.ty(v).as_scalar().map_or(ScalarType::Bool, |t| t.ty);
                        let column = cx.b.program_mut().new_column("key", ty);
                        computed.push((column, v));
                        column
                    }
                },
            };
            if !keys.contains(&column) {
                keys.push(column);
            }
            conditions.push(Condition::Key(op, column, outer));
        }
        let mut table = side.table;
        if !computed.is_empty() {
            let (columns, values): (Vec<ColumnId>, Vec<ValueId>) = computed.into_iter().unzip();
            table = extend(cx, &mut Emitter::default(), table, &columns, &values)?;
        }
        Ok((Side { table, conditions, domain: None }, keys))
    }

    /// A condition that is an equality of a value of the side and a value of the row outside.
    fn equality(&self, p: &Program, c: &Condition, table: &TableType) -> Option<(ScalarOp, Inner, Part)> {
        let part = match c {
            Condition::Key(op, column, part) => return Some((*op, Inner::Column(*column), part.clone())),
            Condition::Columns(..) | Condition::IsTrue(_) | Condition::Any(_) => return None,
            Condition::Part(part) => part,
        };
        let node = p.node_of(part.value)?;
        let Op::Scalar(op @ (ScalarOp::Eq | ScalarOp::IsNotDistinct)) = node.op else { return None };
        let (a, b) = (Part::of(p, node.operands[0]), Part::of(p, node.operands[1]));
        let is_inner = |x: &Part| x.reads_any(table) && !x.reads_any(&self.left_type);
        let (inner, outer) = match (is_inner(&a) && !b.reads_any(table), is_inner(&b) && !a.reads_any(table)) {
            (true, _) => (a, b),
            (_, true) => (b, a),
            _ => return None,
        };
        let inner = match p.node_of(inner.value).map(|n| &n.op) {
            Some(Op::Col(id)) => Inner::Column(*id),
            _ => Inner::Value(inner.value),
        };
        Some((op, inner, outer))
    }

    /// What a node that depends on the row outside gives for all rows outside.
    fn side(&mut self, cx: &mut Rebuild<'_>, node: &Node) -> Result<Side> {
        let unsupported =
            |what: &str| Err(Error::Unsupported(format!("a subquery that reads the row outside in {what}")));
        match &node.op {
            Op::Rel(op) => self.rel(cx, op, node),
            Op::Bridge(BridgeOp::Apply { .. }) => {
                let side = self.input(cx, node.operands[0])?;
                let side = if side.conditions.is_empty() { side } else { self.bound(cx, side)? };
                self.over(cx, node, side)
            }
            Op::Bridge(_) | Op::Tensor(_) => unsupported("a tensor"),
            Op::Control(_) => unsupported("a branch, a loop or a call"),
            Op::Literal(..) | Op::Col(_) | Op::Scalar(_) | Op::Input(_) => unsupported("a scalar outside of a row"),
        }
    }

    /// The node over a side, its regions reading the domain.
    fn over(&self, cx: &mut Rebuild<'_>, node: &Node, side: Side) -> Result<Side> {
        let op = cx.map_op(&node.op)?;
        self.over_as(cx, op, node, side)
    }

    fn over_as(&self, cx: &mut Rebuild<'_>, op: Op, node: &Node, side: Side) -> Result<Side> {
        let domain = side.domain.iter().flatten().map(|(a, b)| (*a, *b));
        let mut emitter = Emitter::with_columns(domain);
        let table = cx.keep_over(&mut emitter, op, &[side.table], node)?[0];
        Ok(Side { table, ..side })
    }

    fn rel(&mut self, cx: &mut Rebuild<'_>, op: &RelOp, node: &Node) -> Result<Side> {
        let p = cx.old;
        match op {
            RelOp::Scan { .. } | RelOp::Values { .. } | RelOp::DependentJoin { .. } => {
                Err(Error::Bug("an operation that cannot depend on a row outside".into()))
            }
            RelOp::Recurse { .. } => Err(Error::Unsupported("a recursive query that reads a row outside of it".into())),
            RelOp::Filter => {
                let side = self.input(cx, node.operands[0])?;
                self.filter(cx, node.regions[0], side)
            }
            RelOp::Extend { .. } => {
                let mut side = self.input(cx, node.operands[0])?;
                if self.region_reads_outside(p, node.regions[0]) || (!side.conditions.is_empty() && raises(p, node)) {
                    side = self.bound(cx, side)?;
                }
                self.over(cx, node, side)
            }
            RelOp::Project { columns } => {
                let side = self.input(cx, node.operands[0])?;
                let mut columns = columns.clone();
                let table_type = type_of(cx, side.table)?;
                let read = side.conditions.iter().flat_map(Condition::columns);
                for c in read.chain(side.domain.iter().flat_map(|d| self.outer.iter().map(|c| d[c]))) {
                    if table_type.get(c).is_some() && !columns.contains(&c) {
                        columns.push(c);
                    }
                }
                let table = cx.b.rel(RelOp::Project { columns }, &[side.table], &[])?;
                Ok(Side { table, ..side })
            }
            RelOp::Join { kind } => self.inner_join(cx, *kind, node),
            RelOp::Group { keys, aggregates } => {
                let input = self.input(cx, node.operands[0])?;
                if keys.is_empty() {
                    return self.group_of_all(cx, input, aggregates);
                }
                let (input, more) = self.keyed(cx, input)?;
                let mut keys = keys.clone();
                more.into_iter().for_each(|c| {
                    if !keys.contains(&c) {
                        keys.push(c);
                    }
                });
                let op = RelOp::Group { keys, aggregates: aggregates.clone() };
                let table = cx.b.rel(op, &[input.table], &[])?;
                Ok(Side { table, ..input })
            }
            RelOp::Sort { keys, limit: Some(n) } => {
                let side = self.input(cx, node.operands[0])?;
                self.limit(cx, side, keys, 0, Some(*n))
            }
            RelOp::Sort { limit: None, .. } => {
                let side = self.input(cx, node.operands[0])?;
                self.over(cx, node, side)
            }
            RelOp::Limit { offset, count } => {
                let below = p.node_of(node.operands[0]);
                let (operand, keys) = match below.map(|n| (&n.op, n)) {
                    Some((Op::Rel(RelOp::Sort { keys, limit: None }), sort)) => (sort.operands[0], keys.clone()),
                    _ => (node.operands[0], vec![]),
                };
                let side = self.input(cx, operand)?;
                self.limit(cx, side, &keys, *offset, *count)
            }
            RelOp::Window { partition, order, columns } => {
                let side = self.input(cx, node.operands[0])?;
                let (side, more) = self.keyed(cx, side)?;
                let partition = partition.iter().copied().chain(more).collect();
                let op = RelOp::Window { partition, order: order.clone(), columns: columns.clone() };
                let table = cx.b.rel(op, &[side.table], &[])?;
                Ok(Side { table, ..side })
            }
            RelOp::Union { inputs, columns } => {
                let mut tables = Vec::new();
                let mut inputs = inputs.clone();
                for (v, ids) in node.operands.iter().zip(&mut inputs) {
                    let side = self.input(cx, *v)?;
                    let side = self.bound(cx, side)?;
                    tables.push(side.table);
                    ids.extend(side.domain.iter().flat_map(|d| self.outer.iter().map(|c| d[c])));
                }
                let copies: Vec<ColumnId> = self.outer.iter().map(|c| copy_column(cx, *c)).collect();
                let columns = columns.iter().chain(&copies).copied().collect();
                let table = cx.b.rel(RelOp::Union { inputs, columns }, &tables, &[])?;
                let domain = self.outer.iter().copied().zip(copies).collect();
                Ok(Side { table, conditions: vec![], domain: Some(domain) })
            }
        }
    }

    fn region_reads_outside(&self, p: &Program, region: RegionId) -> bool {
        let mut reads = false;
        walk(p, region, &mut |_, n| reads |= matches!(n.op, Op::Col(id) if self.outer.contains(&id)));
        reads
    }

    fn filter(&self, cx: &mut Rebuild<'_>, region: RegionId, mut side: Side) -> Result<Side> {
        let parts = conjuncts(cx.old, region);
        let mut stay = Vec::new();
        for part in parts {
            // What can raise stays behind the conditions that stood before it.
            let waits = part.raises && !side.conditions.is_empty();
            if side.domain.is_none() && (part.reads_any(&self.left_type) || waits) {
                side.conditions.push(Condition::Part(part));
            } else {
                stay.push(Condition::Part(part));
            }
        }
        if stay.is_empty() {
            return Ok(side);
        }
        let mut emitter = Emitter::with_columns(side.domain.iter().flatten().map(|(a, b)| (*a, *b)));
        let region = emitter.predicate(cx, &[side.table], &stay)?;
        let table = cx.b.rel(RelOp::Filter, &[side.table], &[region])?;
        Ok(Side { table, ..side })
    }

    /// An aggregate without keys that is not the right side's end: one row for each row outside.
    fn group_of_all(&self, cx: &mut Rebuild<'_>, input: Side, aggregates: &[Aggregate]) -> Result<Side> {
        let (grouped, zeros, conditions) = self.group_by_row(cx, input, aggregates)?;
        let (domain, rows) = self.domain(cx)?;
        let mut emitter = Emitter::with_columns(domain.iter().map(|(a, b)| (*a, *b)));
        let conditions: Vec<Condition> = conditions.into_iter().map(|c| rename(c, &domain)).collect();
        let region = emitter.predicate(cx, &[rows, grouped], &conditions)?;
        let table = cx.b.rel(RelOp::Join { kind: JoinKind::Left }, &[rows, grouped], &[region])?;
        let table = fill_zeros(cx, table, &zeros)?;
        Ok(Side { table, conditions: vec![], domain: Some(domain) })
    }

    /// The first rows for each row outside.
    fn limit(
        &self,
        cx: &mut Rebuild<'_>,
        side: Side,
        order: &[SortKey],
        offset: u64,
        count: Option<u64>,
    ) -> Result<Side> {
        let (side, partition) = self.keyed(cx, side)?;
        let number = cx.b.program_mut().new_column("number", ScalarType::I64);
        let whole = Frame { unit: FrameUnit::Rows, start: FrameBound::Unbounded, end: FrameBound::Unbounded };
        let column = WindowColumn { func: WindowFunc::RowNumber, arg: None, frame: whole, out: number };
        let op = RelOp::Window { partition, order: order.to_vec(), columns: vec![column] };
        let table = cx.b.rel(op, &[side.table], &[])?;
        let bound = |n: u64| Value::I64(i64::try_from(n).unwrap_or(i64::MAX));
        let table = cx.b.filter(table, |b| {
            let number = b.col(number)?;
            let first = b.literal(bound(offset), ScalarType::I64)?;
            let after = b.scalar(ScalarOp::Gt, &[number, first])?;
            let Some(count) = count else { return Ok(after) };
            let last = b.literal(bound(offset.saturating_add(count)), ScalarType::I64)?;
            let before = b.scalar(ScalarOp::Le, &[number, last])?;
            b.scalar(ScalarOp::And, &[after, before])
        })?;
        Ok(Side { table, ..side })
    }

    /// A join inside the right side.
    fn inner_join(&self, cx: &mut Rebuild<'_>, kind: JoinKind, node: &Node) -> Result<Side> {
        let p = cx.old;
        let (mut a, mut b) = (self.input(cx, node.operands[0])?, self.input(cx, node.operands[1])?);
        let parts = conjuncts(p, node.regions[0]);
        let reads_outside = parts.iter().any(|c| c.reads_any(&self.left_type));
        let is_tied = |s: &Side| s.domain.is_some() || !s.conditions.is_empty();
        match kind {
            JoinKind::Inner => {
                let mut wait = Vec::new();
                let mut now = Vec::new();
                if a.domain.is_none() && b.domain.is_none() {
                    wait.append(&mut a.conditions);
                    wait.append(&mut b.conditions);
                } else {
                    now.append(&mut a.conditions);
                    now.append(&mut b.conditions);
                }
                let bound = a.domain.is_some() || b.domain.is_some();
                for part in parts {
                    let waits = part.reads_any(&self.left_type) || (part.raises && !wait.is_empty());
                    if waits && !bound { &mut wait } else { &mut now }.push(Condition::Part(part));
                }
                self.meet(cx, kind, a, b, now, wait)
            }
            JoinKind::Left | JoinKind::Semi | JoinKind::Anti | JoinKind::Mark(_) | JoinKind::Single => {
                if is_tied(&b) || reads_outside || (!a.conditions.is_empty() && parts.iter().any(|c| c.raises)) {
                    a = self.bound(cx, a)?;
                }
                let mut conditions = std::mem::take(&mut b.conditions);
                if matches!(kind, JoinKind::Mark(_)) {
                    conditions = not_null(conditions);
                }
                conditions.extend(parts.into_iter().map(Condition::Part));
                let wait = std::mem::take(&mut a.conditions);
                self.meet(cx, kind, a, b, conditions, wait)
            }
            JoinKind::Right => {
                if is_tied(&a) || reads_outside || (!b.conditions.is_empty() && parts.iter().any(|c| c.raises)) {
                    b = self.bound(cx, b)?;
                }
                let mut conditions = std::mem::take(&mut a.conditions);
                conditions.extend(parts.into_iter().map(Condition::Part));
                let wait = std::mem::take(&mut b.conditions);
                self.meet(cx, kind, a, b, conditions, wait)
            }
            JoinKind::Full => {
                let (a, b) = (self.bound(cx, a)?, self.bound(cx, b)?);
                self.meet(cx, kind, a, b, parts.into_iter().map(Condition::Part).collect(), vec![])
            }
        }
    }

    /// Joins two sides; `now` becomes the predicate, `wait` the result's conditions.
    fn meet(
        &self,
        cx: &mut Rebuild<'_>,
        kind: JoinKind,
        a: Side,
        b: Side,
        now: Vec<Condition>,
        wait: Vec<Condition>,
    ) -> Result<Side> {
        let b = self.apart(cx, &a, b)?;
        let mut conditions = Vec::new();
        if let (Some(x), Some(y)) = (&a.domain, &b.domain) {
            let equal = |c: &ColumnId| Condition::Columns(ScalarOp::IsNotDistinct, x[c], y[c]);
            conditions.extend(self.outer.iter().map(equal));
        }
        let preserved = if kind == JoinKind::Right { b.domain.as_ref().or(a.domain.as_ref()) } else { None };
        let domain = preserved.or(a.domain.as_ref()).or(b.domain.as_ref()).cloned();
        conditions.extend(now.into_iter().map(|c| rename(c, domain.as_ref().unwrap_or(&HashMap::new()))));
        let mut emitter = Emitter::with_columns(domain.iter().flatten().map(|(a, b)| (*a, *b)));
        let region = emitter.predicate(cx, &[a.table, b.table], &conditions)?;
        let mut table = cx.b.rel(RelOp::Join { kind }, &[a.table, b.table], &[region])?;
        let mut domain = domain;
        if let (JoinKind::Full, Some(x), Some(y)) = (kind, &a.domain, &b.domain) {
            let copies: Vec<ColumnId> = self.outer.iter().map(|c| copy_column(cx, *c)).collect();
            table = cx.b.extend(table, &copies, |builder| {
                let either = |c: &ColumnId| {
                    let (a, b) = (builder.col(x[c])?, builder.col(y[c])?);
                    builder.scalar(ScalarOp::Coalesce, &[a, b])
                };
                self.outer.iter().map(either).collect()
            })?;
            domain = Some(self.outer.iter().copied().zip(copies).collect());
        }
        Ok(Side { table, conditions: wait, domain })
    }

    /// The side with a domain in columns that another side does not have.
    fn apart(&self, cx: &mut Rebuild<'_>, a: &Side, b: Side) -> Result<Side> {
        let (Some(domain), Some(has)) = (&b.domain, cx.ty(a.table).as_table().cloned()) else { return Ok(b) };
        if domain.values().all(|c| has.get(*c).is_none()) {
            return Ok(b);
        }
        let copies: Vec<ColumnId> = self.outer.iter().map(|c| copy_column(cx, *c)).collect();
        let table =
            cx.b.extend(b.table, &copies, |builder| self.outer.iter().map(|c| builder.col(domain[c])).collect())?;
        let columns = type_of(cx, table)?.columns.into_iter().map(|c| c.id);
        let columns = columns.filter(|c| !domain.values().any(|d| d == c)).collect();
        let table = cx.b.rel(RelOp::Project { columns }, &[table], &[])?;
        let domain = self.outer.iter().copied().zip(copies).collect();
        Ok(Side { table, conditions: b.conditions, domain: Some(domain) })
    }
}

/// A table that has a row where this one has: without operations that only change what a row is, or the order.
fn any_row(p: &Program, mut v: ValueId) -> ValueId {
    while let Some(node) = p.node_of(v) {
        v = match &node.op {
            Op::Rel(RelOp::Extend { .. } | RelOp::Project { .. } | RelOp::Sort { limit: None | Some(1..), .. })
            | Op::Rel(RelOp::Limit { offset: 0, count: None | Some(1..) }) => node.operands[0],
            _ => return v,
        };
    }
    v
}

/// The nodes of a region that a value depends on.
fn needed_nodes(p: &Program, region: &Region, v: ValueId) -> HashSet<NodeId> {
    let mut values = HashSet::from([v]);
    let mut needed = HashSet::new();
    for &id in region.nodes.iter().rev() {
        let node = p.node(id);
        // A size that is bound may be read anywhere.
        if node.results.iter().any(|v| values.contains(v)) || bound_symbol(&node.op).is_some() {
            needed.insert(id);
            values.extend(&node.operands);
            node.regions.iter().for_each(|r| values.extend(captures(p, *r)));
        }
    }
    needed
}

/// The inner side of an equality.
enum Inner {
    Column(ColumnId),
    Value(ValueId),
}

/// Conditions of which NULL is as good as false, for a predicate of which it is not.
fn not_null(conditions: Vec<Condition>) -> Vec<Condition> {
    conditions.into_iter().map(|c| Condition::IsTrue(Box::new(c))).collect()
}

/// A condition that reads the domain where it read columns outside.
fn rename(c: Condition, domain: &HashMap<ColumnId, ColumnId>) -> Condition {
    let other = |c: ColumnId| domain.get(&c).copied().unwrap_or(c);
    match c {
        Condition::Columns(op, a, b) => Condition::Columns(op, other(a), other(b)),
        Condition::IsTrue(c) => Condition::IsTrue(Box::new(rename(*c, domain))),
        Condition::Part(_) | Condition::Key(..) | Condition::Any(_) => c,
    }
}

/// Whether a node's regions can raise.
fn raises(p: &Program, node: &Node) -> bool {
    let mut found = false;
    node.regions.iter().for_each(|r| walk(p, *r, &mut |_, n| found |= may_raise(p, n)));
    found
}

fn begin_row_region(cx: &mut Rebuild<'_>, tables: &[ValueId]) -> Result<()> {
    let types = tables.iter().map(|v| type_of(cx, *v)).collect::<Result<_>>()?;
    cx.b.begin_region(&[], types);
    Ok(())
}

/// Adds columns that hold values of old row regions.
fn extend(
    cx: &mut Rebuild<'_>,
    emitter: &mut Emitter,
    table: ValueId,
    columns: &[ColumnId],
    values: &[ValueId],
) -> Result<ValueId> {
    begin_row_region(cx, &[table])?;
    emitter.open();
    let values = values.iter().map(|v| emitter.value(cx, *v)).collect::<Result<Vec<_>>>()?;
    emitter.close(cx);
    let region = cx.b.end_region(&values);
    cx.b.rel(RelOp::Extend { columns: columns.to_vec() }, &[table], &[region])
}

/// Only these columns, in this order.
fn project(cx: &mut Rebuild<'_>, table: ValueId, columns: Vec<ColumnId>) -> Result<ValueId> {
    let has: Vec<ColumnId> = type_of(cx, table)?.columns.iter().map(|c| c.id).collect();
    if has == columns {
        return Ok(table);
    }
    cx.b.rel(RelOp::Project { columns }, &[table], &[])
}
