//! Computes equal things once.
//!
//! A node is replaced by an equal one that is visible: of its own region, or of a region around it. Nothing moves, so nothing
//! runs that did not run before. What makes columns is not shared (each has its own ids), and `col` is shared only where it
//! reads the same row. Literals and inputs are cheap: they stay in their regions, where patterns look for them.

use std::collections::HashMap;

use super::Context;
use crate::entity::{ColumnId, NodeId, RegionId, ValueId};
use crate::error::Result;
use crate::graph::rewrite::{Change, Rebuild, Rewrite, bound_symbol, columns_of_mut, defined_columns, rebuild};
use crate::graph::{Node, Op, Program};

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    rebuild(p, &mut Share { cx, scopes: vec![] })
}

/// What is known in a region.
#[derive(Default)]
struct Scope {
    /// Nodes of the new program by their hash.
    known: HashMap<u64, Vec<Vec<ValueId>>>,
    /// Columns that this region's rows have.
    columns: Vec<ColumnId>,
}

struct Share<'a, 'b> {
    cx: &'a mut Context<'b>,
    scopes: Vec<Scope>,
}

impl Rewrite for Share<'_, '_> {
    fn node(&mut self, cx: &mut Rebuild<'_>, _: NodeId, node: &Node) -> Result<Change> {
        let mut makes = bound_symbol(&node.op).is_some() || matches!(&node.op, Op::Control(op) if op.is_unique());
        defined_columns(&node.op, &mut |_| makes = true);
        if makes || node.results.is_empty() {
            return Ok(Change::Keep);
        }
        let results = cx.keep(self, node)?;
        let Some(new) = cx.def(results[0]) else { return Ok(Change::Values(results)) };
        let hash = new.shallow_hash();
        let depth = self.scopes.len();
        let from = match new.op {
            Op::Literal(..) | Op::Input(_) => depth.saturating_sub(1),
            // The innermost rows that have this column are the ones that are read.
            Op::Col(id) => self.scopes.iter().rposition(|s| s.columns.contains(&id)).unwrap_or(depth),
            _ => 0,
        };
        let mut known = self.scopes[from..].iter().flat_map(|s| s.known.get(&hash).into_iter().flatten());
        let found = known.find(|values| {
            let other = cx.def(values[0]);
            other.is_some_and(|other| Same::new(cx.b.program()).node(new, other))
        });
        match found {
            Some(values) if self.cx.spend() => Ok(Change::Values(values.clone())),
            Some(_) => Ok(Change::Values(results)),
            None => {
                if let Some(scope) = self.scopes.last_mut() {
                    scope.known.entry(hash).or_default().push(results.clone());
                }
                Ok(Change::Values(results))
            }
        }
    }

    fn enter(&mut self, cx: &mut Rebuild<'_>, _: RegionId) {
        let columns = cx.b.columns_here().iter().flat_map(|t| t.columns.iter().map(|c| c.id)).collect();
        self.scopes.push(Scope { known: HashMap::new(), columns });
    }

    fn leave(&mut self, _: &mut Rebuild<'_>, _: RegionId) {
        self.scopes.pop();
    }
}

/// The equality of nodes, in the course of a comparison.
pub(super) struct Same<'p> {
    pub(super) p: &'p Program,
    /// Which values of the first are which of the second.
    values: HashMap<ValueId, ValueId>,
    /// Which columns that the first makes are which of the second.
    columns: HashMap<ColumnId, ColumnId>,
}

impl<'p> Same<'p> {
    pub(super) fn new(p: &'p Program) -> Self {
        Self { p, values: HashMap::new(), columns: HashMap::new() }
    }

    /// Whether two nodes over the same operands compute the same.
    fn node(&mut self, a: &Node, b: &Node) -> bool {
        a.operands.len() == b.operands.len()
            && a.operands.iter().zip(&b.operands).all(|(x, y)| self.is(*x, *y))
            && self.but_operands(a, b)
    }

    fn is(&self, a: ValueId, b: ValueId) -> bool {
        self.values.get(&a).copied().unwrap_or(a) == b
    }

    fn but_operands(&mut self, a: &Node, b: &Node) -> bool {
        self.op(&a.op, &b.op)
            && a.regions.len() == b.regions.len()
            && a.regions.iter().zip(&b.regions).all(|(x, y)| self.region(*x, *y))
            && {
                self.values.extend(a.results.iter().copied().zip(b.results.iter().copied()));
                true
            }
    }

    fn op(&self, a: &Op, b: &Op) -> bool {
        if self.columns.is_empty() {
            return a == b;
        }
        let mut a = a.clone();
        columns_of_mut(&mut a, &mut |id| *id = self.columns.get(id).copied().unwrap_or(*id));
        a == *b
    }

    fn region(&mut self, a: RegionId, b: RegionId) -> bool {
        let p = self.p;
        let (a, b) = (p.region(a), p.region(b));
        let lengths =
            a.params.len() == b.params.len() && a.nodes.len() == b.nodes.len() && a.results.len() == b.results.len();
        if !lengths || a.params.iter().zip(&b.params).any(|(x, y)| p.ty(*x) != p.ty(*y)) {
            return false;
        }
        self.values.extend(a.params.iter().copied().zip(b.params.iter().copied()));
        a.nodes.iter().zip(&b.nodes).all(|(x, y)| self.node(p.node(*x), p.node(*y)))
            && a.results.iter().zip(&b.results).all(|(x, y)| self.is(*x, *y))
    }

    /// Whether two tables have the same rows in the same order, each with columns of its own.
    pub(super) fn table(&mut self, a: ValueId, b: ValueId) -> bool {
        if self.is(a, b) {
            return true;
        }
        let (Some(x), Some(y)) = (self.p.node_of(a), self.p.node_of(b)) else { return false };
        let (Op::Rel(x_op), Op::Rel(y_op)) = (&x.op, &y.op) else { return false };
        if std::mem::discriminant(x_op) != std::mem::discriminant(y_op) || x.operands.len() != y.operands.len() {
            return false;
        }
        let below = x.operands.iter().zip(&y.operands).all(|(x, y)| self.table(*x, *y));
        let (mut made, mut other) = (vec![], vec![]);
        defined_columns(&x.op, &mut |c| made.push(c));
        defined_columns(&y.op, &mut |c| other.push(c));
        if !below || made.len() != other.len() {
            return false;
        }
        self.columns.extend(made.into_iter().zip(other));
        self.but_operands(x, y)
    }
}
