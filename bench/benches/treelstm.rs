//! `cargo bench -p bench --bench treelstm -- --mode train --threads 1 --json FILE`; `--help` lists all.

use std::process::ExitCode;

use bench::treelstm::{Arguments, run};
use clap::Parser;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("treelstm: {error}");
            ExitCode::FAILURE
        }
    }
}
