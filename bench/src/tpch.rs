//! The TPC-H benchmark: its command line, the runs, the judging of every answer, the file of results. What is
//! measured comes in as a [`System`], so that the tests can put a false one under the judge.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ::tests::oracle::{self, Verdict};
use ::tests::tpch;
use arrow::array::RecordBatch;
use clap::Parser;
use serde_json::{Map, Value, json};

use crate::data::{self, Format};
use crate::measure::{self, Bystanders, Times, milliseconds, timed};
use crate::{Result, report};

/// Run the 22 queries of TPC-H and check every answer. Relative paths count from the workspace root.
#[derive(Debug, Clone, Parser)]
pub struct Arguments {
    /// Scale factor; 1 is 6 million lines.
    #[arg(long, default_value_t = 1.0)]
    pub sf: f64,
    /// Folder with TABLE.parquet; what is missing is made [default: target/bench-data/tpch-sfSF].
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// memory: load the tables first; parquet: read the files in each query.
    #[arg(long, default_value_t = Mode::Memory)]
    pub mode: Mode,
    /// Threads of the engine.
    #[arg(long, default_value_t = default_threads())]
    pub threads: usize,
    /// Timed runs after the warm-up.
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// Queries, as 1,3,6-9.
    #[arg(long, default_value = "1-22")]
    pub queries: Queries,
    /// Folder with the expected answers, qNN.csv [default: those kept for the scale factor, if any].
    #[arg(long)]
    pub answers: Option<PathBuf>,
    /// File for the results.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Name in reports.
    #[arg(long, default_value = "flare")]
    pub label: String,
    /// What cargo adds; of no effect.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// Where the tables are while the queries run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In memory, loaded before the clock starts.
    Memory,
    /// In Parquet files, read by each query.
    Parquet,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Memory => "memory",
            Mode::Parquet => "parquet",
        })
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "memory" => Ok(Mode::Memory),
            "parquet" => Ok(Mode::Parquet),
            other => Err(format!("{other:?} is neither memory nor parquet")),
        }
    }
}

/// A choice of queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queries(pub Vec<u32>);

impl FromStr for Queries {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.trim().parse() {
            Ok(number) if tpch::QUERIES.contains(&number) => Ok(number),
            _ => Err(format!("{text:?} is no query: they are 1 to 22")),
        };
        let mut queries = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("{part:?} runs backwards"));
            }
            queries.extend(first..=last);
        }
        Ok(Queries(queries))
    }
}

/// What a query took and gave.
#[derive(Debug, Clone)]
pub struct Run {
    /// The whole result.
    pub batches: Vec<RecordBatch>,
    /// The part of the time that went into planning and compilation, or into finding what an earlier run kept of them.
    pub compile: Duration,
}

/// A query engine under measurement.
pub trait System {
    /// Makes a table known under its name, in the given mode.
    fn table(&mut self, name: &str, file: &Path, mode: Mode) -> Result<()>;

    /// Runs a query from its text to its whole result.
    fn run(&mut self, sql: &str) -> Result<Run>;
}

/// Runs the benchmark and writes its results. Returns whether every query ran and gave the right answer.
pub fn run(arguments: &Arguments, system: &mut dyn System) -> Result<bool> {
    let tables = &data::TPCH;
    let folder = data::tpch(arguments.data.as_deref(), arguments.sf, tables, Format::Parquet)?;
    let answers = arguments.answers.as_deref().map(data::from_root).or_else(|| kept_answers(arguments.sf));

    let others = Bystanders::watch();
    let (loaded, load) = timed(|| {
        tables.iter().try_for_each(|table| {
            let file = data::file(&folder, table.name(), Format::Parquet);
            system.table(table.name(), &file, arguments.mode)
        })
    });
    loaded?;
    println!(
        "{} {} threads={} sf={}: loaded in {:.2} s",
        arguments.label,
        arguments.mode,
        arguments.threads,
        arguments.sf,
        load.as_secs_f64()
    );
    // So that threads and caches that are made once are not billed to the first query.
    system.run("select count(*) as n from region")?;

    let mut right = true;
    let mut queries = BTreeMap::new();
    for &number in &arguments.queries.0 {
        let record = match measure(arguments, answers.as_deref(), system, number) {
            Ok((record, verdict)) => {
                right &= !verdict.is_wrong();
                record
            }
            Err(error) => {
                right = false;
                println!("q{number:02} ERROR {error}");
                Map::from_iter([("error".to_owned(), json!(error.to_string()))])
            }
        };
        queries.insert(number, Value::Object(record));
    }

    let Value::Object(mut result) = measure::machine() else {
        return Err("the machine is described by an object".into());
    };
    result.extend([
        ("engine".to_owned(), json!("flare")),
        ("label".to_owned(), json!(arguments.label)),
        ("sf".to_owned(), json!(arguments.sf)),
        ("mode".to_owned(), json!(arguments.mode.to_string())),
        ("threads".to_owned(), json!(arguments.threads)),
        ("runs".to_owned(), json!(arguments.runs)),
        ("load_s".to_owned(), json!(report::digits(load.as_secs_f64()))),
        ("peak_rss".to_owned(), json!(measure::peak_rss())),
        ("other_cpus".to_owned(), json!(others.busy().map(report::digits))),
        (
            "queries".to_owned(),
            // Numbers as text, in their order.
            Value::Object(queries.into_iter().map(|(number, record)| (number.to_string(), record)).collect()),
        ),
    ]);
    if let Some(path) = &arguments.json {
        report::write_json(&data::from_root(path), &Value::Object(result))?;
    }
    Ok(right)
}

fn measure(
    arguments: &Arguments,
    answers: Option<&Path>,
    system: &mut dyn System,
    number: u32,
) -> Result<(Map<String, Value>, Verdict)> {
    let sql = tpch::query(number, arguments.sf)?;
    let (warm_up, first) = timed(|| system.run(&sql));
    let mut last = warm_up?;
    let compile = last.compile;
    let (mut times, mut lookups) = (Times::default(), Times::default());
    for _ in 0..arguments.runs {
        let (result, time) = timed(|| system.run(&sql));
        last = result?;
        times.push(time);
        lookups.push(last.compile);
    }
    // The last run is judged: it is one of those that are reported.
    let rows = oracle::cells(&last.batches)?;
    let verdict = match answers.map(|folder| oracle::read_answer(folder, number)).transpose()?.flatten() {
        Some(answer) => oracle::compare(&answer.rows, &rows),
        None => Verdict::NoAnswer,
    };
    println!(
        "q{number:02} first {:.1} (compile {:.1}, later {:.3}) min {:.1} median {:.1} ms, {} rows {verdict}",
        milliseconds(first),
        milliseconds(compile),
        lookups.median(),
        times.min(),
        times.median(),
        rows.len()
    );
    let mut record = report::times(milliseconds(first), &times);
    record.insert("compile_ms".into(), json!(report::digits(milliseconds(compile))));
    record.insert("lookup_ms".into(), json!(report::digits(lookups.median())));
    record.insert("rows".into(), json!(rows.len()));
    record.insert("answer".into(), json!(verdict.to_string()));
    Ok((record, verdict))
}

/// The folder of answers that the repository keeps for a scale factor.
fn kept_answers(scale_factor: f64) -> Option<PathBuf> {
    Some(tpch::peers().join(format!("answers/sf{scale_factor}"))).filter(|folder| folder.exists())
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::tests::oracle::Answer;
    use arrow::array::{ArrayRef, StringArray};
    use std::fs;
    use std::sync::Arc;

    /// Answers from the files of expected answers, one of them changed.
    struct Reciter {
        wrong: Option<u32>,
    }

    impl System for Reciter {
        fn table(&mut self, _: &str, file: &Path, _: Mode) -> Result<()> {
            assert!(file.exists());
            Ok(())
        }

        fn run(&mut self, sql: &str) -> Result<Run> {
            let number = sql
                .strip_prefix("-- TPC-H Q")
                .and_then(|rest| rest.split([',', ' ']).next())
                .and_then(|number| number.parse().ok());
            let Some(number) = number else {
                return Ok(Run { batches: Vec::new(), compile: Duration::ZERO });
            };
            if number == 7 {
                return Err("the seventh does not run".into());
            }
            let answer: Answer = oracle::read_answer(&kept_answers(0.01).unwrap(), number)?.unwrap();
            let columns = answer.names.iter().enumerate().map(|(column, name)| {
                let cells = answer.rows.iter().map(|row| match self.wrong == Some(number) && column == 0 {
                    true => "something else",
                    false => row[column].as_str(),
                });
                (name, Arc::new(cells.map(Some).collect::<StringArray>()) as ArrayRef)
            });
            let batch = RecordBatch::try_from_iter(columns)?;
            Ok(Run { batches: vec![batch], compile: Duration::from_millis(2) })
        }
    }

    fn arguments(folder: &Path, rest: &[&str]) -> Arguments {
        let data = folder.join("data").display().to_string();
        let json = folder.join("out.json").display().to_string();
        let all = ["tpch", "--sf", "0.01", "--data", &data, "--json", &json, "--runs", "2", "--bench"];
        Arguments::parse_from(all.iter().chain(rest))
    }

    fn written(folder: &Path) -> Value {
        serde_json::from_str(&fs::read_to_string(folder.join("out.json")).unwrap()).unwrap()
    }

    #[test]
    fn right_answers_pass_and_the_peers_fields_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = arguments(folder.path(), &["--queries", "1,3-4", "--threads", "2"]);
        assert!(run(&arguments, &mut Reciter { wrong: None }).unwrap());
        let result = written(folder.path());
        for key in ["label", "sf", "mode", "threads", "load_s", "peak_rss", "other_cpus", "commit", "cpu"] {
            assert!(result.get(key).is_some(), "{key}");
        }
        assert_eq!(result["queries"].as_object().unwrap().keys().collect::<Vec<_>>(), ["1", "3", "4"]);
        let first = &result["queries"]["1"];
        for key in ["first_ms", "min_ms", "median_ms", "compile_ms", "lookup_ms", "spread"] {
            assert!(first[key].is_number(), "{key}");
        }
        assert_eq!(first["answer"], "equal");
        assert_eq!(first["rows"], 4);
    }

    #[test]
    fn a_wrong_answer_and_an_error_are_recorded_and_fail_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = arguments(folder.path(), &["--queries", "6-8"]);
        assert!(!run(&arguments, &mut Reciter { wrong: Some(6) }).unwrap());
        let queries = &written(folder.path())["queries"];
        assert_eq!(
            queries["6"]["answer"],
            "1 cells differ, first in row 0 col 0: 'something else', expected '1193053.2253'"
        );
        assert_eq!(queries["7"]["error"], "the seventh does not run");
        assert_eq!(queries["8"]["answer"], "equal");
    }

    #[test]
    fn queries_are_chosen_by_numbers_and_ranges() {
        assert_eq!("1,6-8".parse(), Ok(Queries(vec![1, 6, 7, 8])));
        assert_eq!("0".parse::<Queries>(), Err("\"0\" is no query: they are 1 to 22".to_owned()));
        assert!("3-1".parse::<Queries>().is_err());
        assert!("".parse::<Queries>().is_err());
    }
}
