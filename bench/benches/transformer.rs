//! `cargo bench -p bench --bench transformer -- --model transformer --mode train --threads 4 --json FILE`; `--help` lists all.

use std::process::ExitCode;

use bench::transformer::{Arguments, run};
use clap::Parser;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("transformer: {error}");
            ExitCode::FAILURE
        }
    }
}
