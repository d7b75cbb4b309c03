//! Block kernels and the scalar routines behind them: each is a safe Rust function over slices.

pub mod date;
pub mod decimal;
pub mod random;
pub mod vector_math;
