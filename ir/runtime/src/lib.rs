//! What generated code may touch: columns, tiles, block kernels, tables, sorting, GEMM, the memory pool and the worker pool.
//!
//! This crate knows no graph, no SQL and no layer.

pub mod kernels;
