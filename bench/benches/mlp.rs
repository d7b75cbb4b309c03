//! `cargo bench -p bench --bench mlp -- --model mlp128 --mode train --threads 4 --json FILE`; `--help` lists all.

use std::process::ExitCode;

use bench::mlp::{Arguments, run};
use clap::Parser;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mlp: {error}");
            ExitCode::FAILURE
        }
    }
}
