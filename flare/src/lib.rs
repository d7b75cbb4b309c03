//! Flare: a SQL engine that compiles query plans to native code.
//!
//! A statement is parsed and bound by DataFusion's planner ([`Engine::sql`]), imported as a graph of the common layer
//! ([`Query::program`]), and optimized, compiled and run there. Results are Arrow record batches.
//!
//! ```
//! let engine = flare::Engine::new();
//! engine.sql("CREATE TABLE t AS SELECT * FROM (VALUES (1, 'one'), (2, 'two')) AS v(n, name)")?;
//! let batches = engine.sql("SELECT name FROM t WHERE n > 1")?.collect()?;
//! assert_eq!(batches[0].num_rows(), 1);
//! # Ok::<(), flare::Error>(())
//! ```
//!
//! The crate knows nothing of tensors, gradients and models. What a host adds to SQL comes in as a
//! [`catalog::RowFunction`]: a function over rows that builds its own part of the graph.
//!
//! # Types
//!
//! | SQL | here | |
//! | --- | --- | --- |
//! | `BOOLEAN` | bool | |
//! | `TINYINT`, `SMALLINT`, `INTEGER` | i32 | narrow integers widen |
//! | `BIGINT` | i64 | |
//! | `REAL`, `DOUBLE` | f32, f64 | |
//! | `DECIMAL(p, s)` | decimal | p ≤ 38 |
//! | `DATE`, `TIMESTAMP` | date, timestamp | microseconds, UTC |
//! | `VARCHAR`, `TEXT`, `CHAR` | text | a length is not enforced |
//!
//! Decimals: `+` and `-` give one digit more than the wider side, `*` adds precisions and scales (at most 38 digits); all three
//! are exact and raise on overflow. `/` gives a double. `sum` of a decimal is `DECIMAL(38, s)`, of an integer `BIGINT`; both
//! raise on overflow. `avg` gives a double. `round(x, n)` keeps the type of a decimal. Integers divide towards zero.
//! `DESC` puts NULLs first, `ASC` last, as in PostgreSQL.

pub mod catalog;
pub mod control;
pub mod engine;
pub mod error;
pub mod ingest;

mod binder;
mod chains;
mod doubles;
mod functions;
mod import;
mod result;
mod rewrite;
mod sql;
mod table_functions;

pub use control::{Control, Costs};
pub use engine::{Counts, Engine, Query, Rows, Settings};
pub use error::{Error, Result};
pub use sql::{Level, split_statements};
