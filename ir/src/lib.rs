//! The common layer of Flare and Lantern.
//!
//! A program enters as a [`graph`] (what is computed), is optimized, becomes a plan (where data stops), then kernels (how),
//! then machine code. This crate knows no SQL word and no layer name.

pub mod codegen;
pub mod entity;
pub mod error;
pub mod exec;
pub mod graph;
pub mod interp;
pub mod kernel;
pub mod lower;
pub mod opt;
pub mod plan;
mod program;
pub mod scalar;
mod stack;
pub mod text;
pub mod types;
pub mod value;

pub use error::{Error, Result};
pub use graph::Program;
