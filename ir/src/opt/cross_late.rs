//! M7: a model runs late, for the rows that are asked for.
//!
//! A condition that reads none of a model's answers goes before the model, whether it stood behind it as a filter, above joins
//! or above what was computed from the answers; so do limits, and sorts of which the first rows are kept. That answers and
//! features which nobody reads are left out is the work of [`super::clean`].

use std::collections::BTreeSet;

use super::{Context, pushdown};
use crate::entity::ColumnId;
use crate::error::Result;
use crate::graph::rewrite::reachable_nodes;
use crate::graph::{BridgeOp, Op, Program};

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    if pays(p) { pushdown::run_through_models(p, cx) } else { Ok(p.clone()) }
}

/// Legal: a condition over these columns, which cannot raise, says the same before the model as behind it. A row that is
/// filtered out does not run through the model; a NULL feature of it raises no longer.
pub(super) fn may_pass(model: &Op, columns: &BTreeSet<ColumnId>) -> bool {
    match model {
        Op::Bridge(BridgeOp::Apply { columns: answers, .. }) => answers.iter().all(|c| !columns.contains(c)),
        _ => false,
    }
}

/// Profit: a condition costs the same on either side of a model, so it always pays; without a model there is nothing to do.
fn pays(p: &Program) -> bool {
    let mut found = false;
    reachable_nodes(p, |_, node| found |= matches!(node.op, Op::Bridge(BridgeOp::Apply { .. })));
    found
}
