//! One statement while it runs: its tables, its costs, and the programs of models.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use flare::{Control, Engine};
use ir::Program;
use ir::exec::run::{CompileOptions, Executable, Progress, Resources};
use ir::exec::{Inputs, Outputs};
use ir::opt::OptOptions;
use runtime::column::Table as Columns;

use crate::error::{Error, Result};
use crate::session::{Settings, Step, lock};
use crate::sql::ExplainLevel;
use crate::transform::quoted;

/// What a statement runs on.
pub(crate) struct Run<'a> {
    pub(crate) engine: &'a Engine,
    number: u64,
    pub(crate) settings: Settings,
    watch: &'a (dyn Fn(Step) + Sync),
    /// Of the statement: every query that is made for it runs under this.
    pub(crate) control: Control,
    /// Tables of this statement alone.
    tables: RefCell<Vec<String>>,
}

/// What a model's program gave.
pub(crate) struct RanProgram {
    pub(crate) outputs: Outputs,
    pub(crate) took: Duration,
    /// The time of each pass of a loop over batches; nothing where the interpreter ran it.
    pub(crate) epochs: Vec<Duration>,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        for name in self.tables.borrow().iter() {
            // It is there: no other statement knows the name.
            let _ = self.engine.sql(&format!("DROP TABLE {}", quoted(name)));
        }
    }
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        engine: &'a Engine,
        number: u64,
        settings: Settings,
        watch: &'a (dyn Fn(Step) + Sync),
        control: Control,
    ) -> Self {
        Self { engine, number, settings, watch, control, tables: RefCell::default() }
    }

    pub(crate) fn query(&self, text: &str) -> flare::Result<flare::Query> {
        self.engine.sql_under(text, &self.control)
    }

    /// A table that is there until the statement is planned; returns its name as SQL.
    pub(crate) fn table(&self, name: &str, rows: RecordBatch) -> Result<String> {
        let name = format!("{name} of statement {}", self.number);
        if !self.tables.borrow().contains(&name) {
            self.engine.register_arrow(&name, &[rows]).map_err(|error| Error::Engine { error, span: None })?;
            self.tables.borrow_mut().push(name.clone());
        }
        Ok(quoted(&name))
    }

    /// The rows of a query that was made here.
    pub(crate) fn columns(&self, text: &str) -> Result<Arc<Columns>> {
        let query = self.query(text).map_err(|error| Error::Engine { error, span: None })?;
        query.columns().map_err(|error| Error::Engine { error, span: None })
    }

    /// Runs a model's program.
    pub(crate) fn program(&self, program: Program, inputs: &Inputs) -> Result<RanProgram> {
        let start = Instant::now();
        if self.settings.interpret {
            let outputs = program.interpret(inputs)?;
            return Ok(RanProgram { outputs, took: start.elapsed(), epochs: vec![] });
        }
        let mut program = program;
        let report = program.optimize(&knowing(inputs))?;
        let optimize = start.elapsed();
        let options = CompileOptions { threads: self.settings.threads, ..CompileOptions::default() };
        let executable = Executable::compile(Arc::new(program), inputs, &options)?;
        self.control.add(|costs| {
            costs.optimize += optimize;
            costs.compile += executable.compile_time();
            costs.add_border(report.border().chain(executable.plan().notes.iter().map(String::as_str)));
        });
        let start = Instant::now();
        let mut resources = self.resources();
        let marks: Arc<Mutex<Vec<(Progress, Instant)>>> = Arc::default();
        let made = marks.clone();
        // The watcher lives as long as this call; the run's hook may outlive it, so steps go through a channel.
        let (sender, steps) = std::sync::mpsc::channel::<Progress>();
        resources.progress = Some(Arc::new(move |step| {
            lock(&made).push((step, Instant::now()));
            let _ = sender.send(step);
        }));
        let watch = self.watch;
        let outputs = std::thread::scope(|scope| {
            scope.spawn(move || {
                // Ends when the run's resources, and the sender with them, are dropped.
                for p in steps {
                    watch(Step {
                        epoch: p.epoch + 1,
                        epochs: p.epochs,
                        rows: (p.epoch * p.total + p.rows) as u64,
                        total_rows: (p.epochs * p.total) as u64,
                        loss: p.loss.unwrap_or(f64::NAN),
                    });
                }
            });
            let outputs = executable.run(inputs, &resources);
            drop(resources);
            outputs
        })?;
        let epochs = durations(&lock(&marks), start);
        Ok(RanProgram { outputs, took: start.elapsed(), epochs })
    }

    /// Tells the watcher of passes over `rows` rows with these losses, where the run itself did not: the interpreter is silent.
    pub(crate) fn report_passes(&self, epochs: usize, rows: usize, losses: &[f64]) {
        if !self.settings.interpret {
            return;
        }
        for (i, loss) in losses.iter().enumerate() {
            let (epoch, total_rows) = (i + 1, (epochs * rows) as u64);
            (self.watch)(Step { epoch, epochs, rows: (epoch * rows) as u64, total_rows, loss: *loss });
        }
    }

    fn resources(&self) -> Resources {
        let mut resources = Resources::new(self.engine.pool(), self.settings.memory_limit);
        resources.cancel = self.control.token().clone();
        resources
    }

    /// A model's program at a level, with what the optimizer did on the first; run, if asked for.
    pub(crate) fn explain(
        &self,
        program: &Program,
        inputs: &Inputs,
        analyze: bool,
        level: Option<ExplainLevel>,
    ) -> Result<String> {
        let mut program = program.clone();
        let report = program.optimize(&knowing(inputs))?;
        let mut graph = program.print_short();
        for (pass, note) in report.notes() {
            graph += &format!("-- {pass}: {}\n", note.text);
        }
        let level = if analyze { level } else { Some(level.unwrap_or(ExplainLevel::Graph)) };
        if !analyze && level == Some(ExplainLevel::Graph) {
            return Ok(graph);
        }
        let keep_text = matches!(level, Some(ExplainLevel::Clif | ExplainLevel::Asm));
        let options = CompileOptions { threads: self.settings.threads, keep_text, ..CompileOptions::default() };
        let executable = Executable::compile(Arc::new(program), inputs, &options)?;
        let mut out = String::new();
        if analyze {
            let ms = |d: Duration| d.as_secs_f64() * 1e3;
            let start = Instant::now();
            let (_, stages) = executable.run_timed(inputs, &self.resources())?;
            out += &format!("compile {:.3} ms, run {:.3} ms\n", ms(executable.compile_time()), ms(start.elapsed()));
            for s in executable.code().stats() {
                out += &format!("compiled {} in {:.3} ms: {} bytes\n", s.name, ms(s.time), s.code_bytes);
            }
            for s in &stages {
                let name = s.stage.replace("\n    ", " | ");
                out += &format!("{:>10.3} ms {:>10} rows  {name}\n", ms(s.time), s.rows);
            }
        }
        let texts = |pick: fn(&ir::codegen::FunctionText) -> &str| -> String {
            executable.module().ids().map(|id| pick(executable.code().text(id)).to_owned() + "\n").collect()
        };
        out += &match level {
            None => String::new(),
            Some(ExplainLevel::Graph) => graph,
            Some(ExplainLevel::Plan) => executable.plan().to_string(),
            Some(ExplainLevel::Kernel) => executable.module().to_string(),
            Some(ExplainLevel::Clif) => texts(|t| &t.backend),
            Some(ExplainLevel::Asm) => texts(|t| &t.assembly),
        };
        Ok(out)
    }
}

/// The optimizer's options for a program that reads these.
fn knowing(inputs: &Inputs) -> OptOptions {
    OptOptions { statistics: inputs.statistics(), ..OptOptions::default() }
}

/// How long each pass took. The loop does not tell when it begins: the first pass's start follows from the rows that it had seen
/// at its first report.
fn durations(marks: &[(Progress, Instant)], start: Instant) -> Vec<Duration> {
    let Some((first, seen_at)) = marks.first() else { return vec![] };
    let ends: Vec<Instant> = marks.iter().filter(|(p, _)| p.rows >= p.total).map(|(_, at)| *at).collect();
    let Some(first_end) = ends.first() else { return vec![] };
    let left = first.total.saturating_sub(first.rows);
    let begin = match left {
        0 => start,
        left => {
            let rate = (*first_end - *seen_at).div_f64(left as f64);
            first_end.checked_sub(rate.mul_f64(first.total as f64)).map_or(start, |begin| begin.max(start))
        }
    };
    let begins = std::iter::once(begin).chain(ends.iter().copied());
    begins.zip(&ends).map(|(from, to)| to.saturating_duration_since(from)).collect()
}
