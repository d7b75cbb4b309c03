//! Flare: a SQL engine that compiles query plans to native code.

pub mod catalog;
pub mod engine;
pub mod error;
pub mod ingest;

mod binder;
mod functions;
mod import;
mod result;
mod sql;

pub use engine::{Engine, Query, Rows, Settings};
pub use error::{Error, Result};
pub use sql::{Level, split_statements};
