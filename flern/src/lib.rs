//! SQL and machine learning compiled as one program.

pub mod data;
pub mod error;
pub mod sql;

pub use error::{Error, SqlError};
