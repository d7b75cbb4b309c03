//! What generated code may touch: columns, tiles, block kernels, tables, sorting, GEMM, the memory pool and the worker pool.
//!
//! This crate knows no graph, no SQL and no layer.

#[macro_use]
mod cpu;
pub mod kernels;

pub use cpu::{SimdLevel, simd_level};
