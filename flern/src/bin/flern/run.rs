//! Runs scripts: statement by statement, with results, errors and times printed.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use flern::sql::{self, Statement};

use crate::host::{Answer, Failure, Host, Rows, Stats};
use crate::interrupt;
use crate::output::{self, Format, Stop};
use crate::progress::Progress;
use crate::report;

/// What scripts run on and print to.
pub(crate) struct Runner<H> {
    pub(crate) host: H,
    pub(crate) out: Box<dyn Write>,
    /// Where errors go.
    pub(crate) err: Box<dyn Write>,
    pub(crate) format: Format,
    /// The terminal's width, where the output is one.
    pub(crate) width: Option<u16>,
    /// Whether to print how long each statement took.
    pub(crate) timer: bool,
}

/// Why a script ended early.
#[derive(Debug)]
pub(crate) enum Ended {
    /// A statement failed, and the failure was printed.
    Failed,
    /// The output is gone.
    Output(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Ended {
        Ended::Output(error)
    }
}

/// What a statement took.
pub(crate) struct Took {
    pub(crate) time: Duration,
    pub(crate) stats: Stats,
}

impl<H: Host> Runner<H> {
    /// Runs the statements of a script up to the first that fails. `name` says in errors where the script came from.
    pub(crate) fn script(&mut self, name: &str, script: &str) -> Result<(), Ended> {
        for statement in self.parse(name, script)? {
            let took = self.statement(name, script, &statement)?;
            if self.timer {
                writeln!(
                    self.out,
                    "time: {}, of which planning and compilation {}",
                    seconds(took.time),
                    seconds(took.stats.compile)
                )?;
            }
            self.out.flush()?;
        }
        Ok(())
    }

    /// Reads a whole script, so that nothing of it runs where it is not well formed.
    pub(crate) fn parse(&mut self, name: &str, script: &str) -> Result<Vec<Statement>, Ended> {
        sql::parse(script).map_err(|error| self.failed(&flern::Error::from(error).into(), name, script))
    }

    /// Runs one statement and prints what it returns.
    pub(crate) fn statement(&mut self, name: &str, script: &str, statement: &Statement) -> Result<Took, Ended> {
        self.statement_seen(name, script, statement, &mut |_| {})
    }

    /// As [`Runner::statement`], and shows `see` the rows that are printed.
    pub(crate) fn statement_seen(
        &mut self,
        name: &str,
        script: &str,
        statement: &Statement,
        see: &mut dyn FnMut(&RecordBatch),
    ) -> Result<Took, Ended> {
        let progress = Progress::new();
        let watch = |step| progress.step(step);
        let start = Instant::now();
        let guard = interrupt::running(self.host.canceller());
        let printed = {
            let answer = self.host.run(script, statement, &watch);
            progress.clear();
            match answer {
                Ok(Answer::Rows(Rows { schema, batches })) => {
                    let batches = Box::new(batches.inspect(|batch| {
                        if let Ok(batch) = batch {
                            see(batch);
                        }
                    }));
                    output::rows(&mut *self.out, Rows { schema, batches }, self.format, self.width)
                }
                Ok(Answer::Text(text)) => writeln!(self.out, "{}", text.trim_end()).map_err(Stop::from),
                // Programs that read results are not told what was done.
                Ok(Answer::Done(_)) if self.format != Format::Table => Ok(()),
                Ok(Answer::Done(text)) => writeln!(self.out, "{text}").map_err(Stop::from),
                Err(failure) => Err(Stop::Failed(failure)),
            }
        };
        drop(guard);
        match printed {
            Ok(()) => {}
            Err(Stop::Failed(failure)) => return Err(self.failed(&failure, name, script)),
            Err(Stop::Output(error)) => return Err(Ended::Output(error)),
        }
        self.out.flush()?;
        Ok(Took { time: start.elapsed(), stats: self.host.stats() })
    }

    pub(crate) fn failed(&mut self, failure: &Failure, name: &str, script: &str) -> Ended {
        // What was printed before the error should stand before it.
        if let Err(error) = self.out.flush() {
            return Ended::Output(error);
        }
        report::print(&mut *self.err, failure, name, script);
        Ended::Failed
    }
}

/// A time in seconds with three digits behind the point.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::runner;

    const TABLE: &str =
        "┌────────┐\n│    n   │\n│ bigint │\n├────────┤\n│      1 │\n│      2 │\n│      3 │\n└────────┘\n";

    #[test]
    fn a_script_runs_in_order() {
        let (mut runner, out, err) = runner(Format::Table);
        runner.script("x", "CREATE TABLE t AS SELECT 1; SELECT 2; EXPLAIN SELECT 3").unwrap();
        assert_eq!(out.take(), format!("created table\n{TABLE}scan numbers\n"));
        assert_eq!(err.take(), "");
    }

    #[test]
    fn only_results_go_to_programs() {
        let (mut runner, out, _) = runner(Format::Csv);
        runner.script("x", "CREATE TABLE t AS SELECT 1; SELECT 2").unwrap();
        assert_eq!(out.take(), "n\n1\n2\n3\n");
    }

    #[test]
    fn nothing_runs_behind_a_failure() {
        let (mut runner, out, err) = runner(Format::Csv);
        let ended = runner.script("x.sql", "SELECT 1;\nSELECT * FROM nowhere;\nSELECT 3");
        assert!(matches!(ended, Err(Ended::Failed)));
        assert_eq!(runner.host.ran, ["SELECT 1", "SELECT * FROM nowhere"]);
        assert_eq!(out.take(), "n\n1\n2\n3\n");
        let err = err.take();
        assert!(err.contains("no table 'nowhere'") && err.contains("x.sql:2:15"), "{err}");
    }

    #[test]
    fn nothing_of_an_ill_formed_script_runs() {
        let (mut runner, _, err) = runner(Format::Csv);
        assert!(matches!(runner.script("x", "SELECT 1; SELECT FROM WHERE )"), Err(Ended::Failed)));
        assert!(runner.host.ran.is_empty());
        assert!(!err.take().is_empty());
    }

    #[test]
    fn times_are_printed_on_request() {
        let (mut runner, out, _) = runner(Format::Table);
        runner.timer = true;
        runner.script("x", "EXPLAIN SELECT 1").unwrap();
        let out = out.take();
        assert!(out.starts_with("scan numbers\ntime: 0.") && out.ends_with("compilation 0.000 s\n"), "{out}");
    }
}
