//! Computes equal things once.
//!
//! A node is replaced by an equal one that is visible: of its own region, or of a region around it. Nothing moves, so nothing
//! runs that did not run before. What makes columns is not shared (each has its own ids), and `col` is shared only where it
//! reads the same row. Literals and inputs are cheap: they stay in their regions, where patterns look for them.

use std::collections::HashMap;

use super::Context;
use crate::entity::{ColumnId, NodeId, RegionId, ValueId};
use crate::error::Result;
use crate::graph::rewrite::{Change, Rebuild, Rewrite, bound_symbol, defined_columns, rebuild};
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
            other.is_some_and(|other| same_node(cx.b.program(), new, other, &mut HashMap::new()))
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

/// Whether two nodes compute the same, `same` saying which values of `a`'s regions are which of `b`'s.
fn same_node(p: &Program, a: &Node, b: &Node, same: &mut HashMap<ValueId, ValueId>) -> bool {
    let read = |v: &ValueId, same: &HashMap<ValueId, ValueId>| same.get(v).copied().unwrap_or(*v);
    a.op == b.op
        && a.operands.len() == b.operands.len()
        && a.operands.iter().zip(&b.operands).all(|(x, y)| read(x, same) == *y)
        && a.regions.len() == b.regions.len()
        && a.regions.iter().zip(&b.regions).all(|(x, y)| same_region(p, *x, *y, same))
}

fn same_region(p: &Program, a: RegionId, b: RegionId, same: &mut HashMap<ValueId, ValueId>) -> bool {
    let (a, b) = (p.region(a), p.region(b));
    let lengths =
        a.params.len() == b.params.len() && a.nodes.len() == b.nodes.len() && a.results.len() == b.results.len();
    if !lengths || a.params.iter().zip(&b.params).any(|(x, y)| p.ty(*x) != p.ty(*y)) {
        return false;
    }
    same.extend(a.params.iter().copied().zip(b.params.iter().copied()));
    for (x, y) in a.nodes.iter().zip(&b.nodes) {
        let (x, y) = (p.node(*x), p.node(*y));
        if !same_node(p, x, y, same) {
            return false;
        }
        same.extend(x.results.iter().copied().zip(y.results.iter().copied()));
    }
    a.results.iter().zip(&b.results).all(|(x, y)| same.get(x).copied().unwrap_or(*x) == *y)
}
