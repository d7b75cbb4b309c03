//! The session: tables and models, and the statements over them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use flare::{Control, Costs, Engine, Query};
use ir::Program;
use ir::exec::run::{CompileOptions, Executable, Progress, Resources};
use ir::exec::{Inputs, Outputs};
use ir::opt::OptOptions;
use runtime::column::Table as Columns;

use crate::error::{Error, Result};
use crate::model::{Label, Model};
use crate::predict::{self, Score};
use crate::sql::{
    self, CreateModel, Expansion, ExplainLevel, Literal, ModelCall, ModelFunction, Name, Rendered, Span, Sql,
    Statement, StatementKind,
};
use crate::transform::number;
use crate::{evaluate, train};

/// How a session runs statements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Threads that load, compile and run; at least 1.
    pub threads: usize,
    /// Bytes that a statement may use; none for no limit.
    pub memory_limit: Option<usize>,
    /// What first weights, splits and shuffles follow from, where CREATE MODEL gives no seed.
    pub seed: u64,
    /// Run by the interpreter instead of compiled code: slow, and what compiled code is tested against.
    pub interpret: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Settings { threads, memory_limit: None, seed: 0, interpret: false }
    }
}

/// What a statement returned.
pub enum Answer {
    /// Rows, batch by batch.
    Rows(flare::Rows),
    /// A program or a description, to be shown as it is.
    Text(String),
    /// What was done, as `created table t`.
    Done(String),
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Answer::Rows(rows) => write!(f, "{} rows", rows.total()),
            Answer::Text(text) | Answer::Done(text) => f.write_str(text),
        }
    }
}

/// How far a training is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// From 1.
    pub epoch: usize,
    pub epochs: usize,
    /// Rows trained on, all epochs together.
    pub rows: u64,
    /// Rows of all epochs together.
    pub total_rows: u64,
    /// The mean loss of the epoch's rows so far.
    pub loss: f64,
}

/// A SQL engine with models. Cloning gives another handle of the same session; threads may share it.
#[derive(Debug, Clone, Default)]
pub struct Session {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    engine: Engine,
    settings: Mutex<Settings>,
    models: Mutex<BTreeMap<String, Arc<Model>>>,
    /// Held while a model comes or goes: its name and its function change together.
    changes: Mutex<u64>,
    /// The statements that run now, by a number.
    running: Mutex<BTreeMap<u64, Control>>,
}

/// Takes a statement from those that run when it ends.
struct Running<'a>(&'a Shared, u64);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(&self.0.running).remove(&self.1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// A session without tables and models.
    pub fn new() -> Session {
        Session::with_settings(Settings::default())
    }

    /// A session with these settings.
    pub fn with_settings(settings: Settings) -> Session {
        let session = Session::default();
        session.set_settings(settings);
        session
    }

    pub fn settings(&self) -> Settings {
        lock(&self.shared.settings).clone()
    }

    /// Changes the settings for statements that follow.
    pub fn set_settings(&self, settings: Settings) {
        self.shared.engine.set_settings(flare::Settings {
            threads: settings.threads.max(1),
            memory_limit: settings.memory_limit,
            interpret: settings.interpret,
            ..self.shared.engine.settings()
        });
        *lock(&self.shared.settings) = settings;
    }

    /// The SQL engine inside, with the session's tables.
    pub fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// Runs the statements of a text in order, up to the first that fails.
    ///
    /// # Errors
    /// The first error, with its place in the text; of a text that is not well formed nothing runs. A statement that fails
    /// leaves everything as it was.
    pub fn sql(&self, text: &str) -> Result<Vec<Answer>> {
        sql::parse(text)?.iter().map(|statement| self.run(statement, &|_| {}).map(|ran| ran.answer)).collect()
    }

    /// The rows of a text's last statement.
    ///
    /// # Errors
    /// As for [`Session::sql`]; a last statement that returns no rows.
    pub fn query(&self, text: &str) -> Result<Vec<RecordBatch>> {
        match self.sql(text)?.pop() {
            Some(Answer::Rows(rows)) => {
                let schema = rows.schema().clone();
                let mut batches: Vec<RecordBatch> =
                    rows.collect::<flare::Result<_>>().map_err(|error| Error::Engine { error, span: None })?;
                if batches.is_empty() {
                    batches.push(RecordBatch::new_empty(schema));
                }
                Ok(batches)
            }
            _ => Err(Error::model("the statement returns no rows", None)),
        }
    }

    /// Runs one statement of a text that was parsed. Training reports its steps to `watch`.
    ///
    /// # Errors
    /// As for [`Session::sql`].
    pub fn run(&self, statement: &Statement, watch: &(dyn Fn(Step) + Sync)) -> Result<Ran> {
        let control = Control::new();
        let _running = {
            let mut running = lock(&self.shared.running);
            let number = running.last_key_value().map_or(0, |(last, _)| last + 1);
            running.insert(number, control.clone());
            Running(&self.shared, number)
        };
        let run = Run { engine: &self.shared.engine, settings: self.settings(), watch, control };
        let answer = self.carry_out(statement, &run).map_err(|e| e.at(statement.span))?;
        Ok(Ran { answer, costs: run.control.costs() })
    }

    /// Stops the statements that run, from any thread.
    pub fn cancel(&self) {
        lock(&self.shared.running).values().for_each(Control::cancel);
    }

    /// The names of the models.
    pub fn models(&self) -> Vec<String> {
        lock(&self.shared.models).keys().cloned().collect()
    }

    /// A model to predict with.
    ///
    /// # Errors
    /// A name that is not there, with the nearest that is.
    pub fn model(&self, name: &str) -> Result<Predictor> {
        let name = Name { value: name.to_string(), span: Span::default() };
        let model = self.find(&name).map_err(|e| match e {
            Error::Model { message, help, .. } => Error::Model { message, help, span: None },
            other => other,
        })?;
        Ok(Predictor { session: self.clone(), model })
    }

    fn find(&self, name: &Name) -> Result<Arc<Model>> {
        let models = lock(&self.shared.models);
        models.get(&name.value).cloned().ok_or_else(|| {
            let names: Vec<&str> = models.keys().map(String::as_str).collect();
            Error::Model {
                message: format!("there is no model '{}'", name.value),
                help: sql::nearest(&name.value, &names).map(|near| format!("did you mean '{near}'?")),
                span: Some(name.span),
            }
        })
    }

    fn carry_out(&self, statement: &Statement, run: &Run<'_>) -> Result<Answer> {
        match &statement.kind {
            StatementKind::Sql(sql) => {
                let text = self.expand(sql, run)?;
                let query = run.query(&text.text).map_err(|error| Error::from_engine(error, &text))?;
                match query.message() {
                    Some(message) => Ok(Answer::Done(message.to_string())),
                    None => query.stream().map(Answer::Rows).map_err(|error| Error::from_engine(error, &text)),
                }
            }
            StatementKind::CreateModel(create) => self.create_model(create, run).map(Answer::Done),
            StatementKind::ShowModels => {
                let models: Vec<Arc<Model>> = lock(&self.shared.models).values().cloned().collect();
                let texts = |f: &dyn Fn(&Model) -> String| -> ArrayRef {
                    Arc::new(StringArray::from_iter_values(models.iter().map(|m| f(m))))
                };
                let rows: Int64Array = models.iter().map(|m| Some(m.rows as i64)).collect();
                rows_of(vec![
                    ("name", texts(&|m| m.name.clone())),
                    ("model_type", texts(&|m| m.kind.clone())),
                    ("label", texts(&|m| m.label_name.clone())),
                    ("training_rows", Arc::new(rows)),
                ])
            }
            StatementKind::DescribeModel(name) => describe(&*self.find(name)?),
            StatementKind::DropModel { name, if_exists } => {
                if *if_exists && !lock(&self.shared.models).contains_key(&name.value) {
                    return Ok(Answer::Done(format!("there is no model {}", name.value)));
                }
                let _changes = lock(&self.shared.changes);
                let model = self.find(name)?;
                lock(&self.shared.models).remove(&model.name);
                run.engine.remove_function(&model.function).map_err(|error| Error::Engine { error, span: None })?;
                Ok(Answer::Done(format!("dropped model {}", name.value)))
            }
            StatementKind::ExportModel { name, path } => {
                let model = self.find(name)?;
                crate::store::export(&model, path.as_ref()).map_err(|e| e.at(statement.span))?;
                Ok(Answer::Done(format!("exported model {} to {path}", name.value)))
            }
            StatementKind::ImportModel { name, .. } => {
                Err(Error::unsupported("IMPORT MODEL; CREATE MODEL with the option path reads the weights", name.span))
            }
            StatementKind::Explain { analyze, level, statement } => self.explain(*analyze, *level, statement, run),
            StatementKind::Set { name, value, value_span } => self.set(name, value, *value_span).map(Answer::Done),
        }
    }

    fn set(&self, name: &Name, value: &Literal, span: Span) -> Result<String> {
        const NAMES: &[&str] = &["threads", "memory_limit", "seed"];
        let mut settings = self.settings();
        let whole = |least: f64| match value {
            Literal::Number(n) if n.fract() == 0.0 && *n >= least && *n < 9e15 => Ok(*n),
            _ => Err(Error::model(format!("{} takes a whole number from {least} on", name.value), span)),
        };
        match name.value.as_str() {
            "threads" => settings.threads = whole(1.0)?.min(1024.0) as usize,
            "memory_limit" => settings.memory_limit = Some(whole(1.0)? as usize),
            "seed" => settings.seed = whole(0.0)? as u64,
            other => {
                let help = match sql::nearest(other, NAMES) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("known: {}", NAMES.join(", ")),
                };
                let message = format!("there is no setting '{other}'");
                return Err(Error::Model { message, help: Some(help), span: Some(name.span) });
            }
        }
        self.set_settings(settings);
        Ok(format!("set {}", name.value))
    }

    fn explain(
        &self,
        analyze: bool,
        level: Option<ExplainLevel>,
        statement: &Statement,
        run: &Run<'_>,
    ) -> Result<Answer> {
        let StatementKind::Sql(sql) = &statement.kind else {
            return Err(Error::unsupported("EXPLAIN of this statement", statement.span));
        };
        let text = self.expand(sql, run)?;
        let level = level.and_then(|l| ExplainLevel::ALL.iter().find(|a| a.1 == l)).map(|l| format!("({}) ", l.0));
        let analyze = if analyze { "ANALYZE " } else { "" };
        let explain = format!("EXPLAIN {analyze}{}{}", level.unwrap_or_default(), text.text);
        let query = run.query(&explain).map_err(|error| Error::Engine { error, span: Some(statement.span) })?;
        let mut lines = vec![];
        for batch in query.collect().map_err(|error| Error::Engine { error, span: Some(statement.span) })? {
            if let Some(texts) = batch.column(0).as_any().downcast_ref::<StringArray>() {
                lines.extend(texts.iter().flatten().map(str::to_string));
            }
        }
        Ok(Answer::Text(lines.join("\n")))
    }

    /// The statement with its calls of model functions replaced by SQL of the engine.
    fn expand(&self, sql: &Sql, run: &Run<'_>) -> Result<Rendered> {
        sql.expand(|call| self.expansion(sql, call, run).map_err(|e| e.at(call.span)))
    }

    fn expansion(&self, sql: &Sql, call: &ModelCall, run: &Run<'_>) -> Result<Expansion> {
        let model = self.find(&call.model)?;
        match call.function {
            ModelFunction::Predict => predict::expansion(&model, call.threshold),
            ModelFunction::Evaluate => {
                let input = sql.input(call);
                if let Some(input) = &input
                    && sql.calls().iter().any(|c| input.text.contains(&c.table))
                {
                    return Err(Error::unsupported("a model function in the rows of ML.EVALUATE", call.input_span()));
                }
                let table = evaluate::evaluate(&model, input.as_ref(), call.threshold, call.span, run)?;
                Ok(Expansion::Table(table))
            }
            ModelFunction::TrainingInfo => {
                let rows: Vec<String> = model
                    .epochs
                    .iter()
                    .enumerate()
                    .map(|(i, e)| format!("({i}, {}, {})", number(e.loss), number(e.duration_ms)))
                    .collect();
                if rows.is_empty() {
                    return Err(Error::model(format!("the model {} was not trained here", model.name), call.span));
                }
                let values = format!("(VALUES {}) AS epochs(iteration, loss, duration_ms)", rows.join(", "));
                Ok(Expansion::Table(format!("(SELECT * FROM {values})")))
            }
            ModelFunction::Weights => Err(Error::unsupported("ML.WEIGHTS", call.span)),
        }
    }

    fn create_model(&self, create: &CreateModel, run: &Run<'_>) -> Result<String> {
        let name = &create.name.value;
        let taken = || Error::Model {
            message: format!("there is a model '{name}' already"),
            help: Some("write CREATE OR REPLACE MODEL".to_string()),
            span: Some(create.name.span),
        };
        let exists = || lock(&self.shared.models).contains_key(name);
        if create.if_not_exists && exists() {
            return Ok(format!("model {name} exists"));
        }
        if !create.or_replace && exists() {
            return Err(taken());
        }
        let Some(query) = &create.query else {
            return Err(Error::unsupported("CREATE MODEL without AS and a query", create.name.span));
        };
        let query = self.expand(query, run)?;
        let number = {
            let mut changes = lock(&self.shared.changes);
            *changes += 1;
            *changes
        };
        let model = Arc::new(train::create(create, &query, format!("model_{name}_{number}"), run)?);
        let score = Arc::new(Score::new(&model)?);
        let engine = |error| Error::Engine { error, span: None };
        let _changes = lock(&self.shared.changes);
        if !create.or_replace && exists() {
            return Err(taken());
        }
        run.engine.register_function(score).map_err(engine)?;
        let old = lock(&self.shared.models).insert(name.clone(), model.clone());
        if let Some(old) = old {
            run.engine.remove_function(&old.function).map_err(engine)?;
        }
        let loss = model.epochs.last().map_or(String::new(), |e| format!(", loss {:.4}", e.loss));
        Ok(format!("created model {name}: {} rows, {} epochs{loss}", model.rows, model.epochs.len()))
    }
}

/// A model of a session, to predict with from Rust.
#[derive(Debug, Clone)]
pub struct Predictor {
    session: Session,
    model: Arc<Model>,
}

impl Predictor {
    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The rows with the columns that ML.PREDICT adds. The columns are found by their names.
    ///
    /// # Errors
    /// A column that is missing, of another type, or NULL where the model takes none.
    pub fn predict(&self, rows: &RecordBatch) -> Result<Vec<RecordBatch>> {
        let plain = |error| Error::Engine { error, span: None };
        for (name, _) in &self.model.inputs {
            if rows.schema().column_with_name(name).is_none() {
                let message = format!("the model {} reads the column '{name}', which is missing", self.model.name);
                return Err(Error::model(message, None));
            }
        }
        let engine = Engine::with_settings(self.session.engine().settings());
        engine.register_arrow("input", std::slice::from_ref(rows)).map_err(plain)?;
        engine.register_function(Arc::new(Score::new(&self.model)?)).map_err(plain)?;
        let text = match predict::expansion(&self.model, None)? {
            Expansion::Around { before, after } => format!("SELECT * FROM {before}input{after}"),
            Expansion::Table(table) => table,
        };
        engine.sql(&text).and_then(|q| q.collect()).map_err(plain)
    }
}

/// What a statement returned, and what it cost.
#[derive(Debug)]
pub struct Ran {
    pub answer: Answer,
    /// What it cost to make the statement's programs; the times are part of the statement's time.
    pub costs: Costs,
}

/// What a statement runs on.
pub(crate) struct Run<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) settings: Settings,
    watch: &'a (dyn Fn(Step) + Sync),
    /// Of the statement: every query that is made for it runs under this.
    pub(crate) control: Control,
}

impl Run<'_> {
    pub(crate) fn query(&self, text: &str) -> flare::Result<Query> {
        self.engine.sql_under(text, &self.control)
    }

    /// The rows of a query that was made here.
    pub(crate) fn columns(&self, text: &str) -> Result<Arc<Columns>> {
        let query = self.query(text).map_err(|error| Error::Engine { error, span: None })?;
        query.columns().map_err(|error| Error::Engine { error, span: None })
    }

    /// Runs a model's program.
    pub(crate) fn program(&self, program: Program, inputs: &Inputs) -> Result<Outputs> {
        if self.settings.interpret {
            return Ok(program.interpret(inputs)?);
        }
        let mut program = program;
        let start = Instant::now();
        let report = program.optimize(&OptOptions::default())?;
        let optimize = start.elapsed();
        let options = CompileOptions { threads: self.settings.threads, keep_text: false };
        let executable = Executable::compile(Arc::new(program), inputs, &options)?;
        self.control.add(|costs| {
            costs.optimize += optimize;
            costs.compile += executable.compile_time();
            let border = report.border().chain(executable.plan().border(executable.program()));
            border.for_each(|line| costs.add_border(line));
        });
        let mut resources = Resources::new(self.engine.pool(), self.settings.memory_limit);
        resources.cancel = self.control.token().clone();
        // The watcher lives as long as this call; the run's hook may outlive it, so steps go through a channel.
        let (sender, steps) = std::sync::mpsc::channel::<Progress>();
        resources.progress = Some(Arc::new(move |step| {
            let _ = sender.send(step);
        }));
        let watch = self.watch;
        std::thread::scope(|scope| {
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
            Ok(outputs?)
        })
    }
}

/// Rows that no engine computed.
fn rows_of(columns: Vec<(&str, ArrayRef)>) -> Result<Answer> {
    let plain = |error| Error::Engine { error, span: None };
    let batch = RecordBatch::try_from_iter(columns).map_err(|e| Error::model(e.to_string(), None))?;
    let engine = Engine::new();
    engine.register_arrow("rows", &[batch]).map_err(plain)?;
    engine.sql("SELECT * FROM rows").and_then(|q| q.stream()).map(Answer::Rows).map_err(plain)
}

fn describe(model: &Model) -> Result<Answer> {
    let mut items: Vec<(String, String)> =
        vec![("model_type".into(), model.kind.clone()), ("label".into(), model.label_name.clone())];
    if let Label::Classes(classes) = &model.label {
        let classes: Vec<String> = classes.iter().map(crate::transform::literal).collect::<Result<_>>()?;
        items.push(("classes".into(), classes.join(", ")));
    }
    items.push(("layers".into(), model.network.sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(" -> ")));
    items.push(("training rows".into(), model.rows.to_string()));
    items.extend(model.inputs.iter().map(|(name, ty)| (format!("input {name}"), ty.to_string())));
    for feature in &model.features {
        items.push((format!("feature {}", feature.name), feature.sql.clone()));
    }
    items.extend(model.options.iter().map(|(name, value)| (format!("option {name}"), value.clone())));
    let (names, values): (Vec<String>, Vec<String>) = items.into_iter().unzip();
    rows_of(vec![
        ("property", Arc::new(StringArray::from(names)) as ArrayRef),
        ("value", Arc::new(StringArray::from(values)) as ArrayRef),
    ])
}
