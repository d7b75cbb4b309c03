//! What the benchmarks share: input files ([`data`]), the clock and the machine ([`measure`]), and the files of
//! results ([`report`]).

pub mod data;
pub mod measure;
pub mod pipelines;
pub mod report;
pub mod tpch;

/// Any failure of a benchmark, told to the user and the exit status.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The result of anything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;
