//! Operations between tables and tensors: derivatives stop there, with an error.

use ir::graph::BridgeOp;

use super::missing;
use crate::error::Error;

/// The error for an operation without a rule.
pub(crate) fn missing_rule(op: &BridgeOp) -> Error {
    let (name, message) = match op {
        BridgeOp::ToTensor { .. } => ("to_tensor", "derivatives do not pass through tables yet"),
        BridgeOp::ToTable { .. } => ("to_table", "derivatives do not pass through tables yet"),
        BridgeOp::Apply { .. } => ("apply", "derivatives do not pass through tables yet"),
        BridgeOp::ForBatches { .. } => ("for_batches", "a training loop is not differentiated; use scan"),
        BridgeOp::RowCount => ("row_count", "a number of rows has no derivative"),
    };
    missing(name, message)
}
