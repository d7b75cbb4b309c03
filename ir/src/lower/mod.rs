//! Plan to kernels.
//!
//! - [`row`]: values of row regions, on demand, under an environment of columns.
//! - [`rel`]: pipelines: a source's loop, steps by produce and consume, sinks.
//! - [`scalar`], [`reduce`]: operations and reducers as instructions.
//! - [`tensor`]: tensor programs.
//! - [`context`]: what a pipeline reads beside its rows, by slot.

pub mod context;
pub mod reduce;
pub mod rel;
pub mod row;
pub mod scalar;
pub mod tensor;
