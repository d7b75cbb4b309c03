//! What the command needs of the system that runs statements.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use flern::sql::{Span, Statement};

/// Runs statements, one at a time.
pub(crate) trait Host {
    /// Runs a statement of `script`, whose places are bytes of that text. Training reports its steps to `watch`.
    fn run<'a>(
        &'a mut self,
        script: &str,
        statement: &Statement,
        watch: &'a (dyn Fn(Step) + Sync),
    ) -> Result<Answer<'a>, Failure>;

    /// What the last statement that ran cost; complete once its rows have been read.
    fn stats(&self) -> Stats;

    fn tables(&self) -> Vec<String>;

    /// The columns of a table or view.
    fn columns(&self, table: &str) -> Result<Vec<Column>, Failure>;

    fn models(&self) -> Vec<String>;

    /// Ends the statement that runs, from any thread; does nothing where none runs.
    fn canceller(&self) -> Arc<dyn Fn() + Send + Sync>;
}

/// What a statement returns.
pub(crate) enum Answer<'a> {
    Rows(Rows<'a>),
    /// A program or a description, to be printed as it is.
    Text(String),
    /// What was done, as "created table flights".
    Done(String),
}

pub(crate) struct Rows<'a> {
    pub(crate) schema: SchemaRef,
    pub(crate) batches: Box<dyn Iterator<Item = Result<RecordBatch, Failure>> + 'a>,
}

/// An error as the command prints it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    /// Bytes of the script.
    pub(crate) span: Option<Span>,
    /// A second place, and what to write beside it.
    pub(crate) related: Option<(Span, &'static str)>,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), help: None, span: None, related: None }
    }
}

impl From<flern::Error> for Failure {
    fn from(error: flern::Error) -> Failure {
        Failure { message: error.to_string(), help: error.help(), span: error.span(), related: error.related() }
    }
}

/// A column of a table, its type as SQL names it.
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) sql_type: String,
}

/// How far a training is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Step {
    /// From 1.
    pub(crate) epoch: usize,
    pub(crate) epochs: usize,
    /// Rows trained on, all epochs together.
    pub(crate) rows: u64,
    /// Rows of all epochs together.
    pub(crate) total_rows: u64,
    /// The mean loss of this epoch's rows so far.
    pub(crate) loss: f64,
}

/// What a statement cost.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stats {
    /// Time spent on planning and on making machine code; part of the statement's time.
    pub(crate) compile: Duration,
    /// What was done at the border of query and model, a line each.
    pub(crate) border: Vec<String>,
}

/// A host for tests of what is around it: it knows a table of numbers, and what to answer to a few statements.
#[cfg(test)]
pub(crate) mod fake {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use arrow::array::{ArrayRef, Float64Array, Int64Array};

    use super::*;
    use crate::output::Format;
    use crate::run::Runner;

    #[derive(Default)]
    pub(crate) struct Fake {
        /// The statements that were run.
        pub(crate) ran: Vec<String>,
        /// What a statement about it is answered with.
        pub(crate) auc: f64,
    }

    impl Host for Fake {
        fn run<'a>(
            &'a mut self,
            script: &str,
            statement: &Statement,
            watch: &'a (dyn Fn(Step) + Sync),
        ) -> Result<Answer<'a>, Failure> {
            let text = statement.span.of(script);
            self.ran.push(text.to_string());
            watch(Step { epoch: 1, epochs: 1, rows: 1, total_rows: 1, loss: 0.0 });
            if let Some(at) = text.find("nowhere") {
                let start = statement.span.start + at;
                return Err(Failure {
                    span: Some(Span { start, end: start + 7 }),
                    ..Failure::new("there is no table 'nowhere'")
                });
            }
            if text.contains("roc_auc") {
                let auc: ArrayRef = Arc::new(Float64Array::from(vec![self.auc]));
                let batch = RecordBatch::try_from_iter([("roc_auc", auc)]).unwrap();
                return Ok(Answer::Rows(Rows {
                    schema: batch.schema(),
                    batches: Box::new(std::iter::once(Ok(batch))),
                }));
            }
            if text.starts_with("SELECT") {
                let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
                let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
                return Ok(Answer::Rows(Rows {
                    schema: batch.schema(),
                    batches: Box::new(std::iter::once(Ok(batch))),
                }));
            }
            if text.starts_with("EXPLAIN") {
                return Ok(Answer::Text("scan numbers\n".to_string()));
            }
            Ok(Answer::Done("created table".to_string()))
        }

        fn stats(&self) -> Stats {
            Stats { compile: Duration::ZERO, border: vec!["B1 wrote the batches".to_string()] }
        }

        fn tables(&self) -> Vec<String> {
            vec!["numbers".to_string()]
        }

        fn columns(&self, table: &str) -> Result<Vec<Column>, Failure> {
            match table {
                "numbers" => Ok(vec![Column { name: "n".to_string(), sql_type: "bigint".to_string() }]),
                other => Err(Failure::new(format!("there is no table '{other}'"))),
            }
        }

        fn models(&self) -> Vec<String> {
            vec!["late".to_string()]
        }

        fn canceller(&self) -> Arc<dyn Fn() + Send + Sync> {
            Arc::new(|| {})
        }
    }

    /// Text that a runner printed.
    #[derive(Default, Clone)]
    pub(crate) struct Printed(Arc<Mutex<Vec<u8>>>);

    impl Printed {
        /// Returns the text and forgets it.
        pub(crate) fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    impl Write for Printed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A runner on the fake host, its output and its errors.
    pub(crate) fn runner(format: Format) -> (Runner<Fake>, Printed, Printed) {
        let (out, err) = (Printed::default(), Printed::default());
        let runner = Runner {
            host: Fake::default(),
            out: Box::new(out.clone()),
            err: Box::new(err.clone()),
            format,
            width: None,
            timer: false,
        };
        (runner, out, err)
    }
}
