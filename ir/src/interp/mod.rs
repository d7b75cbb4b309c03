//! Reference interpreters: what programs mean, sharing no code with lowering and code generation.

pub mod graph;
pub mod kernel;
