//! Makes the files that the benchmarks and the peers' scripts read, and prints their folder.
//!
//!     cargo run --release -p bench --bin bench-data -- tpch --sf 1 [--format csv] [--data DIR]
//!     cargo run --release -p bench --bin bench-data -- flights --copies 20 [--format csv]

use std::path::PathBuf;
use std::process::ExitCode;

use bench::data::{self, Format};
use clap::{Parser, Subcommand};

/// Make the data of the benchmarks and print their folder.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The eight tables of TPC-H.
    Tpch {
        /// Scale factor; 1 is 6 million lines.
        #[arg(long, default_value_t = 1.0)]
        sf: f64,
        /// The folder to make them in, from the workspace root [default: target/bench-data/tpch-sfSF].
        #[arg(long)]
        data: Option<PathBuf>,
        /// parquet or csv.
        #[arg(long, default_value_t = Format::Parquet)]
        format: Format,
    },
    /// Copies of the flights of 2013.
    Flights {
        /// How many, each a year later than the one before.
        #[arg(long, default_value_t = 1)]
        copies: u32,
        /// parquet or csv.
        #[arg(long, default_value_t = Format::Parquet)]
        format: Format,
    },
}

fn main() -> ExitCode {
    let made = match Arguments::parse().what {
        What::Tpch { sf, data, format } => data::tpch(data.as_deref(), sf, &data::TPCH, format),
        What::Flights { copies, format } => data::flights(copies, format),
    };
    match made {
        Ok(folder) => {
            println!("{}", folder.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench-data: {error}");
            ExitCode::FAILURE
        }
    }
}
