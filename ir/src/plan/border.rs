//! What the plan does at the border of query and model, and its switches.
//!
//! The rules that rewrite the graph are passes of the optimizer (`cross_…`); these are about where data stops.

use crate::graph::bridge::TensorColumns;
use crate::graph::{BridgeOp, Node, Op, Program};
use crate::types::TableType;

/// A rule that can be switched off, by its name in [`crate::opt::OptOptions::off`] or in `IR_OFF`.
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a line.
    pub doc: &'static str,
}

/// B1: the query writes the batch tensor. Off, its rows are stored as a table, and the tensor is made from that.
pub const BATCH: Rule =
    Rule { name: "cross_batch", doc: "B1: the query's pipeline writes the tensors that a model reads, not a table" };

/// B3: a model runs over tiles of the rows that stream. Off, over as many rows as a large range has.
pub const TILE: Rule =
    Rule { name: "cross_tile", doc: "B3: a model runs over tiles that fit into caches, not over all rows of a range" };

/// All of them.
pub const RULES: &[Rule] = &[BATCH, TILE];

/// Rows of a tile.
pub const TILE_ROWS: usize = 1024;

/// Rows of a tile where [`TILE`] is off.
pub const WHOLE_ROWS: usize = 1 << 16;

pub(super) fn is_off(off: &[String], rule: &Rule) -> bool {
    off.iter().any(|n| n == rule.name)
}

/// What a tensor of rows is, for a note: `f32[rows, 30]`.
fn tensor(group: &TensorColumns) -> String {
    if group.flat {
        format!("{}[rows]", group.dtype)
    } else {
        format!("{}[rows, {}]", group.dtype, group.columns.len())
    }
}

fn tensors(groups: &[TensorColumns]) -> String {
    groups.iter().map(tensor).collect::<Vec<_>>().join(" and ")
}

/// B1: how the tensors of a query are written; `bytes` of a row would be stored else.
pub(super) fn batch_note(groups: &[TensorColumns], bytes: Option<u32>) -> String {
    match bytes {
        Some(bytes) => {
            format!("B1: the query writes {}; a table of {bytes} bytes a row is not stored", tensors(groups))
        }
        None => format!("B1 is off: {} is made from a stored table", tensors(groups)),
    }
}

/// B2: how many columns are converted as they are written; none if all are of the tensors' types.
pub(super) fn layout_note(groups: &[TensorColumns], table: &TableType) -> String {
    let all: usize = groups.iter().map(|g| g.columns.len()).sum();
    let other =
        |g: &TensorColumns| g.columns.iter().filter(|c| table.get(**c).is_some_and(|t| t.ty != g.dtype)).count();
    let converted: usize = groups.iter().map(other).sum();
    let kind = if all == 1 { "column is" } else { "columns are" };
    format!(
        "B2: {all} {kind} written row by row, as the first product reads them, {converted} of them converted on the way"
    )
}

/// B3: over what a model runs.
pub(super) fn tile_note(groups: &[TensorColumns], rows: usize) -> String {
    let bytes: usize = groups.iter().map(|g| g.columns.len() * super::register_type(g.dtype).bytes() as usize).sum();
    let off = if rows == TILE_ROWS { "" } else { " is off" };
    format!("B3{off}: the model runs over tiles of {rows} rows, {} KiB of features", (bytes * rows).div_ceil(1024))
}

/// B5: how a training loop shuffles; `None` for one that does not.
pub(super) fn shuffle_note(p: &Program, node: &Node) -> Option<String> {
    let Op::Bridge(BridgeOp::ForBatches { size, epochs, shuffle: Some(seed), .. }) = &node.op else { return None };
    let stored = node.operands.first().and_then(|v| p.node_of(*v));
    let once = matches!(stored, Some(Node { op: Op::Bridge(BridgeOp::ToTensor { .. }), .. }));
    let from = if once { "the query's rows, computed once" } else { "stored tensors" };
    Some(format!("B5: {epochs} epochs gather batches of {size} rows from {from}, by permutations of seed {seed}"))
}
