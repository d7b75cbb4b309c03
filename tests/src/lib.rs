//! What the tests and the benchmarks share: data to run on ([`gen`]), the TPC-H queries and their
//! parameters ([`tpch`]), and the judge of results ([`oracle`]).

pub mod r#gen;
pub mod oracle;
pub mod tpch;
