//! `cargo bench -p bench --bench gemm -- --threads 1 --json FILE`; `--help` lists all.

use std::process::ExitCode;

use bench::gemm::{Arguments, run};
use clap::Parser;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gemm: {error}");
            ExitCode::FAILURE
        }
    }
}
