//! The ablation: every rule across the border of query and model on and off, over a program that shows it.
//!
//! What holds:
//! - A rule is switched off by `IR_OFF`, as a user does it. So each side of a case is a process of its own (this program with
//!   `--worker`): it makes its tables and models, runs the case once, and then whenever it is told to. The sides take turns.
//! - Both sides give the same numbers, to the bit or within the tolerance of the rule's exactness.
//! - A rule without a switch stands in the table with the reason, and without a number that nobody could repeat.

mod cases;
mod page;
mod worker;

use std::path::{Path, PathBuf};

use clap::Parser;
use serde_json::{Map, Value, json};

use crate::measure::{self, Bystanders, Times};
use crate::{Result, data, report};
use cases::{Case, cases};
use worker::Worker;

/// Measure every border rule on and off. Relative paths count from the workspace root.
#[derive(Debug, Clone, Parser)]
pub struct Arguments {
    /// Copies of the flights, each a year later.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub copies: u32,
    /// Threads of the engine.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    pub threads: usize,
    /// Runs of each side.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pub reps: u32,
    /// Only these rules, by their letters and numbers: `B7,M4`.
    #[arg(long, value_delimiter = ',')]
    pub rules: Vec<String>,
    /// File for the results.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Folder for the table (`ablation.md`) and its plot (`ablation.svg`).
    #[arg(long)]
    pub docs: Option<PathBuf>,
    /// Be one side of a case.
    #[arg(long, hide = true)]
    worker: Option<String>,
    /// What cargo adds; of no effect.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// A measured case.
struct Measured {
    case: Case,
    on: Times,
    off: Times,
    /// How far the results of both sides are apart, as a share.
    apart: f64,
}

impl Measured {
    /// How many times as long the program takes without the rule.
    fn gain(&self) -> f64 {
        self.off.median() / self.on.median()
    }

    /// The same for each pair of runs that followed each other: the least and the greatest.
    fn range(&self) -> (f64, f64) {
        let pairs: Times = self.off.all().iter().zip(self.on.all()).map(|(off, on)| off / on).collect();
        (pairs.min(), pairs.max())
    }

    fn is_equal(&self) -> bool {
        self.apart <= self.case.tolerance
    }
}

/// Runs the benchmark, or one side of a case. Returns whether both sides of every case gave the same.
///
/// # Errors
/// A rule that does not exist; data or a process that cannot be made; a statement that fails.
pub fn run(arguments: &Arguments) -> Result<bool> {
    let folder = data::flights(arguments.copies, data::Format::Parquet)?;
    if let Some(name) = &arguments.worker {
        worker::serve(&find(name)?, &folder, arguments.threads)?;
        return Ok(true);
    }
    let chosen: Vec<Case> = match arguments.rules.is_empty() {
        true => cases(),
        false => arguments.rules.iter().map(|r| find(r)).collect::<Result<_>>()?,
    };
    let others = Bystanders::watch();
    let mut all = vec![];
    for case in chosen {
        if case.switch.is_some() {
            eprintln!("{}: {}", case.rule, case.shown);
            all.push(measure(case, arguments)?);
        }
    }
    let other_cpus = others.busy();
    let result = result(arguments, &all, other_cpus);
    println!("{}", page::table(&all));
    if let Some(path) = &arguments.json {
        report::write_json(&data::from_root(path), &result)?;
    }
    if let Some(docs) = &arguments.docs {
        let folder = data::from_root(docs);
        write(&folder.join("ablation.md"), &page::page(&all, &result))?;
        write(&folder.join("ablation.svg"), &page::plot(&all))?;
    }
    Ok(all.iter().all(Measured::is_equal))
}

fn find(rule: &str) -> Result<Case> {
    let found = cases().into_iter().find(|c| c.rule == rule);
    found.ok_or_else(|| format!("there is no rule {rule}; there are {}", listed()).into())
}

fn listed() -> String {
    cases().iter().map(|c| c.rule).collect::<Vec<_>>().join(", ")
}

/// Both sides in turn.
fn measure(case: Case, arguments: &Arguments) -> Result<Measured> {
    let mut on = Worker::start(&case, false, arguments)?;
    let mut off = Worker::start(&case, true, arguments)?;
    let mut measured = Measured { case, on: Times::default(), off: Times::default(), apart: 0.0 };
    for i in 0..arguments.reps {
        // Neither side is always the first.
        let (first, second) = if i % 2 == 0 { (&mut on, &mut off) } else { (&mut off, &mut on) };
        let (a, b) = (first.run()?, second.run()?);
        measured.apart = measured.apart.max(apart(&a.values, &b.values));
        let (with, without) = if i % 2 == 0 { (a, b) } else { (b, a) };
        measured.on.push(with.time);
        measured.off.push(without.time);
    }
    Ok(measured)
}

/// The largest relative difference of two lists of numbers; infinite where they are of other lengths or one is NaN alone.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let one = |(a, b): (&f64, &f64)| {
        if a == b || (a.is_nan() && b.is_nan()) {
            return 0.0;
        }
        let share = (a - b).abs() / a.abs().max(b.abs());
        if share.is_nan() { f64::INFINITY } else { share }
    };
    a.iter().zip(b).map(one).fold(0.0, f64::max)
}

fn result(arguments: &Arguments, all: &[Measured], other_cpus: Option<f64>) -> Value {
    let mut out = match measure::machine() {
        Value::Object(machine) => machine,
        _ => Map::new(),
    };
    let rules: Map<String, Value> = all
        .iter()
        .map(|m| {
            let runs = |t: &Times| t.all().iter().copied().map(report::digits).collect::<Vec<_>>();
            let fields = json!({
                "switch": m.case.switch,
                "shown": m.case.shown,
                "on_ms": report::digits(m.on.median()),
                "on_spread": report::digits(m.on.spread()),
                "on_runs_ms": runs(&m.on),
                "off_ms": report::digits(m.off.median()),
                "off_spread": report::digits(m.off.spread()),
                "off_runs_ms": runs(&m.off),
                "gain": report::digits(m.gain()),
                "apart": m.apart,
                "tolerance": m.case.tolerance,
                "equal": m.is_equal(),
            });
            (m.case.rule.to_string(), fields)
        })
        .collect();
    out.insert("copies".into(), json!(arguments.copies));
    out.insert("threads".into(), json!(arguments.threads));
    out.insert("reps".into(), json!(arguments.reps));
    out.insert("other_cpus".into(), json!(other_cpus.map(report::digits)));
    out.insert("rules".into(), Value::Object(rules));
    Value::Object(out)
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_differ_are_found() {
        assert_eq!(apart(&[1.0, f64::NAN], &[1.0, f64::NAN]), 0.0);
        assert_eq!(apart(&[2.0, 4.0], &[2.0, 3.0]), 0.25);
        assert!(apart(&[1.0], &[]).is_infinite() && apart(&[1.0], &[f64::NAN]).is_infinite());
    }

    #[test]
    fn gains_are_ratios_of_medians_and_their_range_that_of_neighbours() {
        let case = find("M4").unwrap();
        let (on, off) = ([2.0, 4.0, 3.0].into_iter().collect(), [6.0, 6.0, 9.0].into_iter().collect());
        let m = Measured { case, on, off, apart: 0.0 };
        assert_eq!((m.gain(), m.range(), m.is_equal()), (2.0, (1.5, 3.0), true));
    }

    #[test]
    fn a_rule_that_does_not_exist_is_refused() {
        let error = find("B9").err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("B9") && error.contains("B1, B2"), "{error}");
    }
}
