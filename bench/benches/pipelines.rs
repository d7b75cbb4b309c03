//! `cargo bench -p bench --bench pipelines -- --pipeline p2 --model mlp --copies 20 --threads 3 --json FILE`; `--help`
//! lists all.

use std::process::ExitCode;

use bench::engine::Flern;
use bench::pipelines::{Arguments, run};
use clap::Parser;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments, &mut Flern::new(arguments.threads)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("pipelines: a value differs from what is expected, see `checks`");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("pipelines: {error}");
            ExitCode::FAILURE
        }
    }
}
