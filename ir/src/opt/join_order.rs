//! The order of inner joins, by estimated rows.
//!
//! Inner joins that stand together are taken apart into tables and conditions, and put together anew. Each set of tables is
//! halved in the way that handles fewest rows, of all ways that there are (Moerkotte and Neumann, VLDB 2006, without their
//! enumeration; sets are few). Of many tables, the pair that gives the fewest rows is joined first. A join builds on its right
//! operand and probes with its left one, so the smaller one goes right.
//!
//! A semi or anti join above or between them goes to the one table that its condition reads, unless the joins leave fewer rows
//! than that table has (not many fewer, where few rows pass it); then it stands above all joins.
//!
//! What can raise is evaluated behind all joins, for the rows that are left. Rows may come in another order.

use std::collections::HashSet;

use super::Context;
use super::rows::{Condition, Emitter, Part, conjuncts, disjuncts, tables_read_once};
use super::statistics::{Estimates, source};
use crate::entity::{NodeId, ValueId};
use crate::error::Result;
use crate::graph::rel::JoinKind;
use crate::graph::rewrite::{Change, Rebuild, Rewrite, rebuild};
use crate::graph::{Node, Op, Program, RelOp};

/// So many tables are ordered by trying all ways.
const MAX_TABLES: usize = 9;
/// A row that is stored and hashed costs as much as so many that probe.
const BUILD_COST: f64 = 3.0;
/// A row that is looked up by a key of several columns costs as much as so many that are looked up by one column, which mostly
/// has an index: 70 ns and 4 to 7 were measured over TPC-H's tables.
const WIDE_KEY_COST: f64 = 8.0;
/// A semi join goes down if at most this share of rows passes it.
const FEW: f64 = 0.3;
/// And if the table has at most so many times the rows that the joins give.
const EARLY: f64 = 8.0;

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    let estimates = Estimates::new(p, cx.statistics);
    let inner = tables_read_once(p);
    rebuild(p, &mut JoinOrder { cx, estimates, inner, emitter: Emitter::default() })
}

struct JoinOrder<'a, 'b, 'c> {
    cx: &'a mut Context<'b>,
    estimates: Estimates<'c>,
    /// Tables that are made when their one reader is.
    inner: HashSet<ValueId>,
    emitter: Emitter,
}

/// A table among those that are joined.
struct Leaf<'a> {
    v: ValueId,
    /// Semi and anti joins that it goes through first.
    through: Vec<&'a Node>,
    rows: f64,
}

/// Tables that are joined, and on what.
#[derive(Default)]
struct Joined<'a> {
    leaves: Vec<Leaf<'a>>,
    conditions: Vec<Condition>,
    /// Conditions that can raise.
    last: Vec<Condition>,
    /// Semi and anti joins above or between.
    above: Vec<&'a Node>,
    joins: u64,
}

/// How a set of tables is put together.
enum Tree {
    Leaf(usize),
    /// Probe, build.
    Join(Box<Tree>, Box<Tree>),
}

impl Rewrite for JoinOrder<'_, '_, '_> {
    fn node(&mut self, cx: &mut Rebuild<'_>, _: NodeId, node: &Node) -> Result<Change> {
        if !node.makes_table() {
            return Ok(Change::Keep);
        }
        if self.inner.contains(&node.results[0]) {
            return Ok(Change::Drop);
        }
        let table = self.table(cx, node.results[0])?;
        // Who reads it may count on the columns' order.
        let wanted: Vec<_> = cx.old.table(node.results[0])?.columns.iter().map(|c| c.id).collect();
        let has: Vec<_> = cx.ty(table).as_table().into_iter().flat_map(|t| t.columns.iter().map(|c| c.id)).collect();
        if wanted == has {
            return Ok(Change::Values(vec![table]));
        }
        Ok(Change::Values(vec![cx.b.rel(RelOp::Project { columns: wanted }, &[table], &[])?]))
    }
}

fn join_kind(node: &Node) -> Option<JoinKind> {
    match &node.op {
        Op::Rel(RelOp::Join { kind }) => Some(*kind),
        _ => None,
    }
}

impl JoinOrder<'_, '_, '_> {
    /// An operand: made here if it was put off.
    fn operand(&mut self, cx: &mut Rebuild<'_>, v: ValueId) -> Result<ValueId> {
        if self.inner.contains(&v) { self.table(cx, v) } else { cx.value(v) }
    }

    fn table(&mut self, cx: &mut Rebuild<'_>, v: ValueId) -> Result<ValueId> {
        let p = cx.old;
        let Some(node) = p.node_of(v) else { return cx.value(v) };
        let mut joined = Joined::default();
        self.take_apart(p, v, true, &mut joined)?;
        if joined.joins > 0 && joined.leaves.len() > 1 {
            self.send_down(p, &mut joined)?;
            let tree = self.best(p, &joined)?;
            if self.cx.spend() {
                self.note(p, node, &joined, &tree);
                return self.put_together(cx, &joined, &tree);
            }
        }
        self.over(cx, node)
    }

    fn over(&mut self, cx: &mut Rebuild<'_>, node: &Node) -> Result<ValueId> {
        let operands = node.operands.iter().map(|v| self.operand(cx, *v)).collect::<Result<Vec<_>>>()?;
        let op = cx.map_op(&node.op)?;
        if matches!(op, Op::Rel(RelOp::Recurse { .. })) {
            return Ok(cx.keep_over(self, op, &operands, node)?[0]);
        }
        Ok(cx.keep_over(&mut self.emitter, op, &operands, node)?[0])
    }

    /// Takes inner joins apart, those that are made with `v` alone.
    fn take_apart<'p>(&mut self, p: &'p Program, v: ValueId, top: bool, joined: &mut Joined<'p>) -> Result<()> {
        let node = p.node_of(v).filter(|_| top || self.inner.contains(&v));
        match node.map(|n| (n, join_kind(n))) {
            Some((node, Some(JoinKind::Inner))) => {
                joined.joins += 1;
                for part in conjuncts(p, node.regions[0]) {
                    if part.raises {
                        joined.last.push(Condition::Part(part));
                    } else {
                        joined.conditions.extend(disjuncts(p, part));
                    }
                }
                self.take_apart(p, node.operands[0], false, joined)?;
                self.take_apart(p, node.operands[1], false, joined)
            }
            Some((node, Some(JoinKind::Semi | JoinKind::Anti))) if safe(p, node) => {
                joined.above.push(node);
                self.take_apart(p, node.operands[0], false, joined)
            }
            _ => {
                let rows = self.estimates.rows(v);
                joined.leaves.push(Leaf { v, through: vec![], rows });
                Ok(())
            }
        }
    }

    /// Semi and anti joins go to the one table that they read, where that leaves few rows.
    fn send_down<'p>(&mut self, p: &'p Program, joined: &mut Joined<'p>) -> Result<()> {
        let above = std::mem::take(&mut joined.above);
        if above.is_empty() {
            return Ok(());
        }
        let n = joined.leaves.len();
        let all_rows = if n > 63 { f64::INFINITY } else { self.rows_of(joined, &self.sets(p, joined)?, (1 << n) - 1) };
        for node in above {
            let parts = conjuncts(p, node.regions[0]);
            let right = p.table(node.operands[1])?;
            let mut place = None;
            for (i, leaf) in joined.leaves.iter().enumerate() {
                let t = p.table(leaf.v)?;
                if parts.iter().all(|c| c.columns.iter().all(|c| t.get(*c).is_some() || right.get(*c).is_some())) {
                    place = Some(i);
                }
            }
            let conditions: Vec<Condition> = parts.into_iter().map(Condition::Part).collect();
            let right_rows = self.estimates.rows(node.operands[1]);
            match place {
                Some(i) => {
                    let leaf = &mut joined.leaves[i];
                    let share = match join_kind(node) {
                        Some(JoinKind::Anti) => {
                            self.estimates.share_without_partner(&conditions, leaf.rows, right_rows)
                        }
                        _ => self.estimates.share_with_partner(&conditions, leaf.rows, right_rows),
                    };
                    if leaf.rows <= all_rows || (share <= FEW && leaf.rows <= all_rows * EARLY) {
                        leaf.rows = (leaf.rows * share).max(1.0);
                        leaf.through.push(node);
                    } else {
                        joined.above.push(node);
                    }
                }
                None => joined.above.push(node),
            }
        }
        Ok(())
    }

    /// For each condition the tables that it reads, as a set.
    fn sets(&self, p: &Program, joined: &Joined<'_>) -> Result<Vec<u64>> {
        let types = joined.leaves.iter().map(|l| p.table(l.v)).collect::<Result<Vec<_>>>()?;
        let set = |c: &Condition| {
            let columns = c.columns();
            types
                .iter()
                .enumerate()
                .filter(|(_, t)| columns.iter().any(|c| t.get(*c).is_some()))
                .fold(0, |s, (i, _)| s | 1 << i)
        };
        Ok(joined.conditions.iter().map(set).collect())
    }

    fn best(&mut self, p: &Program, joined: &Joined<'_>) -> Result<Tree> {
        let n = joined.leaves.len();
        if n > 63 {
            // Beyond what a set holds: as they came.
            let mut tree = Tree::Leaf(0);
            for i in 1..n {
                tree = Tree::Join(Box::new(tree), Box::new(Tree::Leaf(i)));
            }
            return Ok(tree);
        }
        let sets = self.sets(p, joined)?;
        if n <= MAX_TABLES { Ok(self.exhaustive(joined, &sets)) } else { Ok(self.greedy(joined, &sets)) }
    }

    /// The rows of a set of tables joined on all conditions within it.
    fn rows_of(&self, joined: &Joined<'_>, sets: &[u64], set: u64) -> f64 {
        let within = |s: &u64| s & !set == 0 && s.count_ones() > 1;
        let mut rows: f64 =
            joined.leaves.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1).map(|(_, l)| l.rows).product();
        // Conditions between the same tables belong together.
        let mut done: Vec<u64> = Vec::new();
        for s in sets.iter().filter(|s| within(s)) {
            if done.contains(s) {
                continue;
            }
            done.push(*s);
            let here: Vec<Condition> =
                joined.conditions.iter().zip(sets).filter(|(_, other)| *other == s).map(|(c, _)| c.clone()).collect();
            let sides: Vec<f64> =
                joined.leaves.iter().enumerate().filter(|(i, _)| s >> i & 1 == 1).map(|(_, l)| l.rows).collect();
            let (a, b) = (sides.first().copied().unwrap_or(1.0), sides.get(1).copied().unwrap_or(1.0));
            rows *= self.estimates.share_of_pairs(&here, a, b);
        }
        rows.max(1.0)
    }

    fn exhaustive(&self, joined: &Joined<'_>, sets: &[u64]) -> Tree {
        let n = joined.leaves.len();
        let full = (1u64 << n) - 1;
        let size = 1usize << n;
        let mut rows = vec![1.0; size];
        let equal: Vec<bool> = joined.conditions.iter().map(|c| self.estimates.equality(c).is_some()).collect();
        let probe_cost = |a: u64, b: u64| {
            let spans = |s: u64| s & a != 0 && s & b != 0 && s & !(a | b) == 0;
            let keys = sets.iter().zip(&equal).filter(|(s, equal)| **equal && spans(**s)).count();
            if keys > 1 { WIDE_KEY_COST } else { 1.0 }
        };
        // The cost of a set and its probing half.
        let mut best: Vec<(f64, u64)> = vec![(f64::INFINITY, 0); size];
        for set in 1..=full {
            let at = set as usize;
            rows[at] = self.rows_of(joined, sets, set);
            if set.count_ones() == 1 {
                best[at] = (0.0, 0);
                continue;
            }
            let mut half = (set - 1) & set;
            while half > 0 {
                let other = set & !half;
                let (a, b) = (half as usize, other as usize);
                let probe = probe_cost(half, other) * rows[a];
                let cost = best[a].0 + best[b].0 + probe + BUILD_COST * rows[b] + rows[at];
                if cost < best[at].0 {
                    best[at] = (cost, half);
                }
                half = (half - 1) & set;
            }
        }
        fn tree(best: &[(f64, u64)], set: u64) -> Tree {
            if set.count_ones() == 1 {
                return Tree::Leaf(set.trailing_zeros() as usize);
            }
            let probe = best[set as usize].1;
            Tree::Join(Box::new(tree(best, probe)), Box::new(tree(best, set & !probe)))
        }
        tree(&best, full)
    }

    fn greedy(&self, joined: &Joined<'_>, sets: &[u64]) -> Tree {
        let mut parts: Vec<(u64, f64, Tree)> =
            joined.leaves.iter().enumerate().map(|(i, l)| (1 << i, l.rows, Tree::Leaf(i))).collect();
        while parts.len() > 1 {
            let mut found = (f64::INFINITY, 0, 1);
            for i in 0..parts.len() {
                for j in i + 1..parts.len() {
                    let rows = self.rows_of(joined, sets, parts[i].0 | parts[j].0);
                    let cost = rows + BUILD_COST * parts[i].1.min(parts[j].1);
                    if cost < found.0 {
                        found = (cost, i, j);
                    }
                }
            }
            let (_, i, j) = found;
            let b = parts.swap_remove(j);
            let a = parts.swap_remove(i);
            let set = a.0 | b.0;
            let rows = self.rows_of(joined, sets, set);
            let (probe, build) = if a.1 >= b.1 { (a.2, b.2) } else { (b.2, a.2) };
            parts.push((set, rows, Tree::Join(Box::new(probe), Box::new(build))));
        }
        parts.pop().map_or(Tree::Leaf(0), |p| p.2)
    }

    fn put_together(&mut self, cx: &mut Rebuild<'_>, joined: &Joined<'_>, tree: &Tree) -> Result<ValueId> {
        let sets = if joined.leaves.len() > 63 { vec![] } else { self.sets(cx.old, joined)? };
        let mut used = vec![false; joined.conditions.len()];
        let (mut table, _) = self.build(cx, joined, &sets, &mut used, tree)?;
        for node in joined.above.iter().rev() {
            table = self.through(cx, node, table)?;
        }
        let mut rest: Vec<Condition> =
            joined.conditions.iter().zip(&used).filter(|(_, used)| !**used).map(|(c, _)| c.clone()).collect();
        rest.extend(joined.last.iter().cloned());
        if !rest.is_empty() {
            let region = self.emitter.predicate(cx, &[table], &rest)?;
            table = cx.b.rel(RelOp::Filter, &[table], &[region])?;
        }
        Ok(table)
    }

    /// A semi or anti join with another left table.
    fn through(&mut self, cx: &mut Rebuild<'_>, node: &Node, left: ValueId) -> Result<ValueId> {
        let right = self.operand(cx, node.operands[1])?;
        let op = cx.map_op(&node.op)?;
        // Its condition alone: what its region computes and does not need may read tables that are not there yet.
        let conditions: Vec<Condition> = conjuncts(cx.old, node.regions[0]).into_iter().map(Condition::Part).collect();
        let region = self.emitter.predicate(cx, &[left, right], &conditions)?;
        cx.b.set_place(node.place);
        cx.b.push1(op, &[left, right], &[region])
    }

    fn build(
        &mut self,
        cx: &mut Rebuild<'_>,
        joined: &Joined<'_>,
        sets: &[u64],
        used: &mut [bool],
        tree: &Tree,
    ) -> Result<(ValueId, u64)> {
        match tree {
            Tree::Leaf(i) => {
                let leaf = &joined.leaves[*i];
                let mut table = self.operand(cx, leaf.v)?;
                for node in leaf.through.iter().rev() {
                    table = self.through(cx, node, table)?;
                }
                Ok((table, 1u64.checked_shl(*i as u32).unwrap_or(0)))
            }
            Tree::Join(a, b) => {
                let (left, x) = self.build(cx, joined, sets, used, a)?;
                let (right, y) = self.build(cx, joined, sets, used, b)?;
                let mut here = Vec::new();
                for (i, s) in sets.iter().enumerate() {
                    if !used[i] && s & !(x | y) == 0 && *s != 0 {
                        used[i] = true;
                        here.push(joined.conditions[i].clone());
                    }
                }
                let region = self.emitter.predicate(cx, &[left, right], &here)?;
                let table = cx.b.rel(RelOp::Join { kind: JoinKind::Inner }, &[left, right], &[region])?;
                Ok((table, x | y))
            }
        }
    }

    fn note(&mut self, p: &Program, node: &Node, joined: &Joined<'_>, tree: &Tree) {
        fn write(tree: &Tree, name: &dyn Fn(usize) -> String, out: &mut String) {
            match tree {
                Tree::Leaf(i) => *out += &name(*i),
                Tree::Join(a, b) => {
                    out.push('(');
                    write(a, name, out);
                    *out += " ⋈ ";
                    write(b, name, out);
                    out.push(')');
                }
            }
        }
        let name = |i: usize| {
            let leaf = &joined.leaves[i];
            format!("{} {:.0}", source(p, leaf.v), leaf.rows)
        };
        let mut text = "joins, with estimated rows: ".to_string();
        write(tree, &name, &mut text);
        self.cx.note(node.place, text);
    }
}

/// Whether a join's predicate cannot raise.
fn safe(p: &Program, node: &Node) -> bool {
    conjuncts(p, node.regions[0]).iter().all(|c: &Part| !c.raises)
}
