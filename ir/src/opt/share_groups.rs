//! Computes equal groups once: a common table expression that is named twice stands twice in the program.
//!
//! A group that equals an earlier one up to the ids of its columns becomes the earlier one's rows under new ids. Only groups:
//! they are stored anyway, so that reading them twice costs nothing, whereas filters and joins would have to be stored for it.
//!
//! What holds: nobody else reads the tables below the group that goes, so that all who read a column of it read it through
//! the group, and read its new id from there on. Both stand in the body of the entry, whose results no caller names by column.

use std::collections::{HashMap, HashSet};

use super::Context;
use super::rows::tables_read_once;
use super::share::Same;
use crate::entity::{NodeId, ValueId};
use crate::error::{Error, Result};
use crate::graph::rewrite::{Change, Rebuild, Rewrite, rebuild};
use crate::graph::{Node, Op, Program, RelOp};

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    let Some(entry) = p.entry_region() else { return Ok(p.clone()) };
    let once = tables_read_once(p);
    let is_group = |n: &&NodeId| matches!(p.node(**n).op, Op::Rel(RelOp::Group { .. }));
    let mut earlier: Vec<ValueId> = vec![];
    let mut equal = HashMap::new();
    for n in entry.nodes.iter().filter(is_group) {
        let node = p.node(*n);
        let group = node.results[0];
        let found = earlier.iter().copied().find(|e| Same::new(p).table(group, *e));
        match found {
            Some(found) if is_alone(p, node, &once) && cx.spend() => {
                cx.note(node.place, "a group is there already");
                equal.insert(*n, found);
            }
            _ => earlier.push(group),
        }
    }
    if equal.is_empty() {
        return Ok(p.clone());
    }
    rebuild(p, &mut ShareGroups { equal })
}

/// Whether nobody else reads the tables below a node.
fn is_alone(p: &Program, node: &Node, once: &HashSet<ValueId>) -> bool {
    node.operands.iter().all(|v| once.contains(v) && p.node_of(*v).is_some_and(|n| is_alone(p, n, once)))
}

struct ShareGroups {
    /// Groups of the old program, and what stands for them.
    equal: HashMap<NodeId, ValueId>,
}

impl Rewrite for ShareGroups {
    fn node(&mut self, cx: &mut Rebuild<'_>, id: NodeId, node: &Node) -> Result<Change> {
        let Some(earlier) = self.equal.get(&id) else { return Ok(Change::Keep) };
        let table = |v: ValueId| cx.old.ty(v).as_table().ok_or_else(|| Error::Bug("a group gives a table".into()));
        let (old, same) = (table(node.results[0])?, table(*earlier)?);
        let group = cx.value(*earlier)?;
        let read: Vec<_> = same.columns.iter().map(|c| cx.column(c.id)).collect();
        let mut made = vec![];
        for c in &old.columns {
            let info = cx.old.columns[c.id.index()].clone();
            let fresh = cx.b.program_mut().new_column(info.name, info.ty);
            cx.set_column(c.id, fresh);
            made.push(fresh);
        }
        let rows = cx.b.extend(group, &made, |b| read.iter().map(|c| b.col(*c)).collect())?;
        let rows = cx.b.rel(RelOp::Project { columns: made }, &[rows], &[])?;
        Ok(Change::Values(vec![rows]))
    }
}
