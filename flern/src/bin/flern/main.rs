//! The command `flern`: see `flern --help`.

mod complete;
mod demo;
mod engine;
mod host;
mod interrupt;
mod output;
mod progress;
mod report;
mod run;
mod shell;

use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::host::{Failure, Host};
use crate::output::Format;
use crate::run::{Ended, Runner};

/// SQL and machine learning compiled as one program.
#[derive(Debug, Parser)]
#[command(name = "flern", version, about, args_conflicts_with_subcommands = false)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// Run this SQL; may be repeated
    #[arg(short = 'c', long = "command", value_name = "SQL")]
    sql: Vec<String>,

    /// The form of results
    #[arg(long, value_enum, default_value_t = Format::Table, global = true)]
    format: Format,

    /// Threads to run on [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), global = true)]
    threads: Option<u16>,

    /// Most memory for tables and queries, as 4GB or 512MB [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = memory_size, global = true)]
    memory_limit: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a file of SQL; - is the standard input
    Run { file: PathBuf },
    /// Load, train and predict on the flights of 2013
    Demo {
        /// Stay in the shell, with the tables and the model
        #[arg(long)]
        shell: bool,
        /// Write the script and its data into a folder and run nothing
        #[arg(long, value_name = "DIR", conflicts_with = "shell")]
        write: Option<PathBuf>,
    },
}

/// Reads a size in bytes: a number and a unit of 1000 or (KiB, MiB, GiB, TiB) 1024.
fn memory_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| "a size begins with a number, as 4GB".to_string())?;
    let unit: f64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" | "k" => 1e3,
        "mb" | "m" => 1e6,
        "gb" | "g" => 1e9,
        "tb" | "t" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        unit => {
            return Err(format!("there is no unit '{unit}': write KB, MB, GB, TB, KiB, MiB, GiB or TiB"));
        }
    };
    let bytes = number * unit;
    // Exact as f64, and more than any machine has.
    if (1.0..9e15).contains(&bytes) { Ok(bytes as u64) } else { Err("the size is out of range".to_string()) }
}

/// The planner recurses as deep as a statement is nested or chained; memory that is not touched costs nothing.
const STACK: usize = 256 << 20;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    report::keep_contained_panics_quiet();
    let worker = std::thread::Builder::new().name("main".to_string()).stack_size(STACK).spawn(move || start(arguments));
    match worker.map(|worker| worker.join()) {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        // Whoever reads the output has enough of it.
        Ok(Ok(Err(Ended::Output(error)))) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Ok(Ok(Err(Ended::Output(error)))) => {
            report::print_plain(&format!("the output: {error}"));
            ExitCode::FAILURE
        }
        Ok(Ok(Err(Ended::Failed))) | Ok(Err(_)) => ExitCode::FAILURE,
        Err(error) => {
            report::print_plain(&format!("no thread could be started: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> Result<(), Ended> {
    if let Some(Command::Demo { write: Some(folder), .. }) = &arguments.command {
        return demo::write(folder).map_err(|error| {
            report::print_plain(&format!("{}: {error}", folder.display()));
            Ended::Failed
        });
    }
    let settings = Settings { threads: arguments.threads, memory_limit: arguments.memory_limit };
    match engine::open(&settings) {
        Ok(host) => run(arguments, host),
        Err(failure) => {
            report::print(&mut io::stderr(), &failure, "", "");
            Err(Ended::Failed)
        }
    }
}

/// What the system that runs statements is opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) threads: Option<u16>,
    /// Bytes.
    pub(crate) memory_limit: Option<u64>,
}

fn run(arguments: Arguments, host: impl Host) -> Result<(), Ended> {
    let stdout = io::stdout();
    let to_terminal = stdout.is_terminal();
    let mut runner = Runner {
        host,
        out: Box::new(io::BufWriter::new(stdout)),
        err: Box::new(io::stderr()),
        format: arguments.format,
        width: if to_terminal { comfy_table::Table::new().width() } else { None },
        timer: false,
    };
    if let Err(error) = interrupt::listen() {
        report::print_plain(&format!("Ctrl-C cannot be listened to: {error}"));
    }
    let is_plain = arguments.command.is_none() && arguments.sql.is_empty();
    for sql in &arguments.sql {
        runner.script("command", sql)?;
    }
    match arguments.command {
        Some(Command::Run { file }) if file.as_os_str() == "-" => standard_input(&mut runner),
        Some(Command::Run { file }) => {
            let name = file.display().to_string();
            match std::fs::read_to_string(&file) {
                Ok(script) => runner.script(&name, &script),
                Err(error) => Err(runner.failed(&Failure::new(format!("{name}: {error}")), &name, "")),
            }
        }
        Some(Command::Demo { shell: stay, .. }) => {
            demo::run(&mut runner)?;
            if stay { shell::interact(&mut runner) } else { Ok(()) }
        }
        None if is_plain && io::stdin().is_terminal() => shell::interact(&mut runner),
        None if is_plain => standard_input(&mut runner),
        None => Ok(()),
    }
}

fn standard_input<H: Host>(runner: &mut Runner<H>) -> Result<(), Ended> {
    const NAME: &str = "standard input";
    let mut script = String::new();
    match io::stdin().read_to_string(&mut script) {
        Ok(_) => runner.script(NAME, &script),
        Err(error) => Err(runner.failed(&Failure::new(format!("{NAME}: {error}")), NAME, "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_stand_before_or_behind_the_command() {
        let before = Arguments::parse_from(["flern", "--format", "csv", "--threads", "3", "run", "x.sql"]);
        let behind = Arguments::parse_from(["flern", "run", "x.sql", "--format", "csv", "--threads=3"]);
        for arguments in [before, behind] {
            assert_eq!(arguments.format, Format::Csv);
            assert_eq!(arguments.threads, Some(3));
            assert!(matches!(arguments.command, Some(Command::Run { .. })));
        }
        assert!(Arguments::try_parse_from(["flern", "--threads", "0"]).is_err());
        assert!(Arguments::try_parse_from(["flern", "demo", "--shell", "--write", "x"]).is_err());
    }

    #[test]
    fn sizes_of_memory() {
        assert_eq!(memory_size("4GB"), Ok(4_000_000_000));
        assert_eq!(memory_size("1.5 gib"), Ok(1_610_612_736));
        assert_eq!(memory_size("100"), Ok(100));
        assert_eq!(memory_size("512MB"), Ok(512_000_000));
        for wrong in ["", "GB", "4XB", "-1GB", "0", "1e3", "99999999TB", "1.2.3GB", "é"] {
            assert!(memory_size(wrong).is_err(), "{wrong}");
        }
    }
}
