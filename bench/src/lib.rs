//! The benchmarks: TPC-H ([`tpch`]), the end-to-end pipelines ([`pipelines`]), steps ([`steps`]) of perceptrons ([`mlp`]) and
//! Transformers ([`transformer`]), a tree-LSTM ([`treelstm`]), the matrix products of the models ([`gemm`]) and the rules across the border of query and
//! model, on and off ([`ablation`]), on engines ([`engine`]) and input files ([`data`]) of their own, with the clock and the
//! machine ([`measure`]) and the files of results ([`report`]).

pub mod ablation;
pub mod data;
pub mod engine;
pub mod gemm;
pub mod measure;
pub mod mlp;
pub mod pipelines;
pub mod report;
pub mod steps;
pub mod tpch;
pub mod transformer;
pub mod treelstm;

/// Any failure of a benchmark, told to the user and the exit status.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The result of anything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;
