//! `cargo bench -p bench --bench tpch -- --sf 1 --mode memory --threads 4 --json FILE`; `--help` lists all.

use std::process::ExitCode;

use bench::engine::Flare;
use bench::tpch::{Arguments, run};
use clap::Parser;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments, &mut Flare::new(arguments.threads)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("tpch: a query failed or gave a wrong answer");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tpch: {error}");
            ExitCode::FAILURE
        }
    }
}
