//! `cargo bench -p bench --bench ablation -- --threads N --copies K --json FILE [--docs DIR]`; `--help` lists all.

use std::process::ExitCode;

use bench::ablation::{Arguments, run};
use clap::Parser;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("ablation: a result with a rule differs from the one without");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("ablation: {error}");
            ExitCode::FAILURE
        }
    }
}
