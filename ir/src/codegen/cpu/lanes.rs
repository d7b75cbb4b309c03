//! Vector loops.

use super::emit::Emitter;
use crate::kernel::{LoopKind, Region};
use cranelift_codegen::ir;

/// Writes the part of a vector loop that runs in full lanes; returns the index and the carried values where the serial rest begins.
pub(super) fn vector_part(
    _emitter: &mut Emitter<'_>,
    _kind: LoopKind,
    begin: ir::Value,
    _end: ir::Value,
    _step: i64,
    init: Vec<ir::Value>,
    _body: Region,
) -> (ir::Value, Vec<ir::Value>) {
    (begin, init)
}
