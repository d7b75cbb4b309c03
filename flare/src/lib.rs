//! Flare: a SQL engine that compiles query plans to native code.

pub mod catalog;
pub mod error;
pub mod ingest;

mod binder;
mod functions;
mod import;
mod sql;

pub use error::{Error, Result};
