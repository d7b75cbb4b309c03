//! Makes guarded conjunctions and disjunctions plain ones where nothing can raise.
//!
//! `if a is distinct from false { a and b } else { a }` says that `b` is not evaluated where `a` decides. Once `b` turned out
//! not to raise (its constants are folded by now) that is `a and b`, which filters and joins take apart.

use super::Context;
use super::rows::{guarded, may_raise};
use crate::entity::{NodeId, RegionId};
use crate::error::Result;
use crate::graph::rewrite::{Change, Rebuild, Rewrite, rebuild, walk};
use crate::graph::{Node, Program};

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    rebuild(p, &mut Guard { cx })
}

struct Guard<'a, 'b> {
    cx: &'a mut Context<'b>,
}

impl Rewrite for Guard<'_, '_> {
    fn node(&mut self, cx: &mut Rebuild<'_>, _: NodeId, node: &Node) -> Result<Change> {
        let p = cx.old;
        if guarded(p, node).is_none() || raises(p, node.regions[0]) {
            return Ok(Change::Keep);
        }
        let region = node.regions[0];
        // What is around it counts on the type.
        let same = p.ty(p.region(region).results[0]) == p.ty(node.results[0]);
        if !same || !self.cx.spend() {
            return Ok(Change::Keep);
        }
        Ok(Change::Values(cx.inline(self, region, &[])?))
    }
}

fn raises(p: &Program, region: RegionId) -> bool {
    let mut found = false;
    walk(p, region, &mut |_, n| found |= may_raise(p, n));
    found
}
