//! `flern demo`: from files to predictions in one script, on the flights that left New York City in 2013.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Float64Type;
use arrow::record_batch::RecordBatch;
use flern::sql::{Statement, StatementKind};

use crate::host::{Failure, Host};
use crate::run::{Ended, Runner, seconds};

const SCRIPT: &str = include_str!("demo.sql");
const NAME: &str = "demo.sql";

/// The script's model ranks delays at least this well; PyTorch and JAX reach 0.71 with the same network.
const LEAST_AUC: f64 = 0.70;

/// What a statement of the script is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Load,
    Etl,
    Training,
    Inference,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Phase::Load => "load",
            Phase::Etl => "ETL",
            Phase::Training => "training",
            Phase::Inference => "inference",
        }
    }

    fn of(statement: &Statement) -> Phase {
        match &statement.kind {
            StatementKind::CreateModel(_) => Phase::Training,
            StatementKind::Sql(sql) if !sql.calls().is_empty() => Phase::Inference,
            StatementKind::Sql(sql) if sql.source().contains(".parquet'") => Phase::Load,
            _ => Phase::Etl,
        }
    }
}

#[derive(Debug, Default, Clone)]
struct Cost {
    time: Duration,
    compile: Duration,
}

/// Writes the script and its data into a folder, so that `flern run demo.sql` runs there.
pub(crate) fn write(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    flern::data::write_nycflights13(folder)?;
    std::fs::write(folder.join(NAME), SCRIPT)
}

/// Runs the script: prints each statement, then its result, and at the end the times.
pub(crate) fn run<H: Host>(runner: &mut Runner<H>) -> Result<(), Ended> {
    let data = tempfile::tempdir()?;
    flern::data::write_nycflights13(data.path())?;
    // The script names its files from here.
    let before = std::env::current_dir();
    std::env::set_current_dir(data.path())?;
    let ran = statements(runner);
    if let Ok(before) = before {
        std::env::set_current_dir(before)?;
    }
    ran
}

fn statements<H: Host>(runner: &mut Runner<H>) -> Result<(), Ended> {
    let mut costs: BTreeMap<Phase, Cost> = BTreeMap::new();
    let mut border: Vec<String> = Vec::new();
    let mut auc = None;
    let mut shown = 0;
    for statement in runner.parse(NAME, SCRIPT)? {
        // The comments before a statement say what it is for.
        let text = SCRIPT[shown..statement.span.end].trim_start_matches(';').trim();
        shown = statement.span.end;
        writeln!(runner.out, "{text};\n")?;
        runner.out.flush()?;
        let took = runner.statement_seen(NAME, SCRIPT, &statement, &mut |rows| auc = auc.or(auc_of(rows)))?;
        writeln!(runner.out)?;
        let cost = costs.entry(Phase::of(&statement)).or_default();
        cost.time += took.time;
        cost.compile += took.stats.compile;
        for line in took.stats.border {
            if !border.contains(&line) {
                border.push(line);
            }
        }
    }
    summary(&mut runner.out, &costs, &border)?;
    runner.out.flush()?;
    match auc {
        Some(auc) if auc >= LEAST_AUC => Ok(()),
        Some(auc) => {
            let message = format!("the model's AUC on the held-out flights is {auc:.4}, and not {LEAST_AUC} at least");
            Err(runner.failed(&Failure::new(message), NAME, ""))
        }
        None => Err(runner.failed(&Failure::new("the script did not tell the model's AUC"), NAME, "")),
    }
}

/// The AUC in a result that has one.
fn auc_of(rows: &RecordBatch) -> Option<f64> {
    let auc = rows.column_by_name("roc_auc")?.as_primitive_opt::<Float64Type>()?;
    (!auc.is_empty() && auc.is_valid(0)).then(|| auc.value(0))
}

fn summary(out: &mut dyn Write, costs: &BTreeMap<Phase, Cost>, border: &[String]) -> std::io::Result<()> {
    writeln!(out, "{:<10} {:>9}   of which planning and compilation", "", "time")?;
    let line = |out: &mut dyn Write, name: &str, cost: &Cost| {
        writeln!(out, "{name:<10} {:>9} {:>9}", seconds(cost.time), seconds(cost.compile))
    };
    let mut total = Cost::default();
    for (phase, cost) in costs {
        line(out, phase.name(), cost)?;
        total.time += cost.time;
        total.compile += cost.compile;
    }
    line(out, "total", &total)?;
    if !border.is_empty() {
        writeln!(out, "\nQuery and model are one program:")?;
        for rule in border {
            writeln!(out, "  {rule}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_has_a_statement() {
        let statements = flern::sql::parse(SCRIPT).unwrap();
        let phases: Vec<Phase> = statements.iter().map(Phase::of).collect();
        use Phase::{Etl, Inference, Load, Training};
        let expected = [Load, Load, Load, Load, Load, Etl, Etl, Training, Inference, Inference];
        assert_eq!(phases, expected);
    }

    #[test]
    fn the_written_folder_has_all_that_the_script_reads() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("new");
        write(&inside).unwrap();
        let script = std::fs::read_to_string(inside.join("demo.sql")).unwrap();
        let files: Vec<&str> = script.split('\'').filter(|text| text.ends_with(".parquet")).collect();
        assert_eq!(files.len(), 5);
        for file in files {
            assert!(inside.join(file).is_file(), "{file}");
        }
    }

    #[test]
    fn each_statement_is_printed_before_its_result() {
        let (mut runner, out, _) = crate::host::fake::runner(crate::output::Format::Csv);
        runner.host.auc = 0.71;
        statements(&mut runner).unwrap();
        let out = out.take();
        assert!(out.starts_with("-- Flights that left"), "{out}");
        assert!(out.contains("SELECT COUNT(*) AS flights,"), "{out}");
        assert!(out.contains("FROM features;\n\nn\n1\n2\n3\n\n-- 3."), "{out}");
        assert!(out.contains("\ntotal ") && out.ends_with("  B1 wrote the batches\n"), "{out}");
        assert_eq!(runner.host.ran.len(), 10);
    }

    #[test]
    fn a_model_that_ranks_badly_is_a_failure() {
        for auc in [0.69, f64::NAN] {
            let (mut runner, out, err) = crate::host::fake::runner(crate::output::Format::Csv);
            runner.host.auc = auc;
            assert!(matches!(statements(&mut runner), Err(Ended::Failed)));
            assert!(out.take().contains("\ntotal "), "the times are told all the same");
            assert!(err.take().contains(&format!("is {auc:.4}, and not 0.7")));
        }
    }

    #[test]
    fn the_summary_adds_up() {
        let cost = |time, compile| Cost { time: Duration::from_millis(time), compile: Duration::from_millis(compile) };
        let costs = BTreeMap::from([(Phase::Training, cost(300, 20)), (Phase::Load, cost(50, 0))]);
        let mut out = Vec::new();
        let border = ["B1: the query writes the batches".to_string()];
        summary(&mut out, &costs, &border).unwrap();
        expect_test::expect![[r#"
                            time   of which planning and compilation
            load         0.050 s   0.000 s
            training     0.300 s   0.020 s
            total        0.350 s   0.020 s

            Query and model are one program:
              B1: the query writes the batches
        "#]]
        .assert_eq(&String::from_utf8(out).unwrap());
    }
}
