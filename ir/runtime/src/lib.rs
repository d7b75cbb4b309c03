//! What generated code may touch: columns, rows, hash tables, sorting, block kernels, the memory pool and the worker pool.
//!
//! This crate knows no graph, no SQL and no layer above it. Generated code reaches it only through the tables of [`abi`]: the
//! functions that it may call, and the layouts that it may read and write.

#[macro_use]
mod cpu;

pub mod abi;
pub mod buffer;
pub mod column;
pub mod gemm;
pub mod group_table;
pub mod join_table;
pub mod kernels;
pub mod pool;
pub mod recursion;
pub mod scheduler;
pub mod sort;
pub mod stats;
pub mod tape;
pub mod tile;
pub mod trap;
pub mod window;

pub use cpu::{SimdLevel, prefetch_line, simd_level};
