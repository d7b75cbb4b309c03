//! Block kernels: plain loops over whole columns or tiles, compiled several times and chosen at start-up by what the CPU has.
//!
//! What holds:
//! - A block kernel gets pointers and a row count, reads and writes nothing beyond them, and never allocates.
//! - Every version of a kernel gives the same bits.

pub mod date;
pub mod decimal;
pub mod hash;
pub mod random;
pub mod vector_math;
