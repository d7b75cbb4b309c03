//! The session: tables and models, and the statements over them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::StringArray;
use arrow::record_batch::RecordBatch;
use flare::{Control, Costs, Engine};
use ir::types::ScalarType;
use lantern::{Function, Params};

use crate::error::{Error, Result};
use crate::features::Features;
use crate::model::{Label, Model, Network};
use crate::predict::{self, Predict};
use crate::predictor::Predictor;
use crate::query::Query;
use crate::run::Run;
use crate::sql::{
    self, CreateModel, Expansion, ExplainLevel, Given, Literal, ModelCall, ModelFunction, Name, Rendered, Span, Sql,
    Statement, StatementKind,
};
use crate::transform::{Feature, FeatureKind, quoted, sql_type};
use crate::{describe, evaluate, train};

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
    /// What models that are created compute in.
    pub precision: Precision,
}

/// The floats of a model's features and weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// `f32`.
    #[default]
    Single,
    /// `f64`: slower, for comparisons.
    Double,
}

impl Default for Settings {
    fn default() -> Settings {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Settings { threads, memory_limit: None, seed: 0, interpret: false, precision: Precision::Single }
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
    /// Held while a model comes or goes: its name and its functions change together. Counts models and statements.
    changes: Mutex<u64>,
    /// The statements that run now, by their numbers.
    running: Mutex<BTreeMap<u64, Control>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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

    /// Runs the statements of a text in order, up to the first that fails. If the last one is a query, it is planned, and runs
    /// when its rows are asked for: its parameters can be bound before.
    ///
    /// ```
    /// use flern::{Session, Value};
    ///
    /// let session = Session::new();
    /// session.sql("CREATE TABLE t AS SELECT * FROM (VALUES (1), (2), (3)) AS v(x)")?;
    /// let rows = session.sql("SELECT x FROM t WHERE x > $1")?.bind(&[Value::I64(1)])?.collect()?;
    /// assert_eq!(rows[0].num_rows(), 2);
    /// # Ok::<(), flern::Error>(())
    /// ```
    ///
    /// # Errors
    /// The first error, with its place in the text; of a text that is not well formed nothing runs. A statement that fails
    /// leaves everything as it was.
    pub fn sql(&self, text: &str) -> Result<Query> {
        let statements = sql::parse(text)?;
        let Some((last, others)) = statements.split_last() else {
            return Ok(Query::done(Answer::Done(String::new()), None));
        };
        for statement in others {
            self.run(statement, &|_| {})?;
        }
        let (guard, run) = self.begin(&|_| {});
        if let StatementKind::Sql(sql) = &last.kind {
            let (query, text) = self.plan(sql, &run).map_err(|e| e.at(last.span))?;
            return Ok(match query.message() {
                Some(message) => Query::done(Answer::Done(message.to_string()), Some(last.span)),
                None => Query::planned(query, text, last.span, guard),
            });
        }
        let answer = self.carry_out(last, &run).map_err(|e| e.at(last.span))?;
        Ok(Query::done(answer, Some(last.span)))
    }

    /// The rows of a text's last statement.
    ///
    /// # Errors
    /// As for [`Session::sql`] and [`Query::collect`].
    pub fn query(&self, text: &str) -> Result<Vec<RecordBatch>> {
        self.sql(text)?.collect()
    }

    /// Runs one statement of a text that was parsed. Training reports its steps to `watch`.
    ///
    /// # Errors
    /// As for [`Session::sql`].
    pub fn run(&self, statement: &Statement, watch: &(dyn Fn(Step) + Sync)) -> Result<Ran> {
        let (_guard, run) = self.begin(watch);
        let answer = self.carry_out(statement, &run).map_err(|e| e.at(statement.span))?;
        Ok(Ran { answer, costs: run.control.costs() })
    }

    fn begin<'a>(&'a self, watch: &'a (dyn Fn(Step) + Sync)) -> (Guard, Run<'a>) {
        let number = self.next_number();
        let control = Control::new();
        lock(&self.shared.running).insert(number, control.clone());
        let run = Run::new(&self.shared.engine, number, self.settings(), watch, control);
        (Guard { session: self.clone(), number }, run)
    }

    fn next_number(&self) -> u64 {
        let mut changes = lock(&self.shared.changes);
        *changes += 1;
        *changes
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
        Predictor::new(self.clone(), model)
    }

    /// Makes a model of a Lantern function: `ML.PREDICT` and `predict` take it by its name, as any other.
    ///
    /// The inputs of the function that `params` names are its parameters. The others take features, `[n]` or `[n, k]` each with
    /// one name for `n`, in the order of `columns`. The first result is one number a row, `[n]` or `[n, 1]`; it has to depend on
    /// its row alone, since a query calls the function for any cut of its rows. `ML.EVALUATE` compares it with a column `label`.
    ///
    /// ```
    /// use lantern::{Params, stage, value};
    ///
    /// let session = flern::Session::new();
    /// let params = Params::new().with("w", value(ndarray::array![2f32, 3.0]));
    /// let f = stage("f", ["x: f32[n, 2]", "w: f32[2]"], |t| (&t[0] * &t[1]).sum(1))?;
    /// session.register_function("weigh", &f, &params, &["a", "b"])?;
    /// let rows = session.query("SELECT predict('weigh', 10, 100) AS y, predict('weigh', b => 1, a => 0) AS z")?;
    /// # use arrow::array::AsArray;
    /// # use arrow::datatypes::Float64Type;
    /// assert_eq!(rows[0].column(0).as_primitive::<Float64Type>().value(0), 320.0);
    /// # assert_eq!(rows[0].column(1).as_primitive::<Float64Type>().value(0), 3.0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A name that is taken; a function whose inputs or result do not fit, or another number of columns than features.
    pub fn register_function(&self, name: &str, function: &Function, params: &Params, columns: &[&str]) -> Result<()> {
        let network = Network::function(function.clone(), params, 1)
            .map_err(|message| Error::model(format!("the function of the model {name}: {message}"), None))?;
        let groups = network.groups();
        let types: Vec<ScalarType> = groups.iter().flat_map(|g| std::iter::repeat_n(g.dtype, g.width)).collect();
        if types.len() != columns.len() {
            let message = format!("the model {name} has {} features and {} columns", types.len(), columns.len());
            return Err(Error::model(message, None));
        }
        // Doubles are given for floats of either width: they are converted where the tensors are made.
        let wide = |ty: ScalarType| if ty.is_float() { ScalarType::F64 } else { ty };
        let source: Vec<(String, ScalarType)> =
            columns.iter().zip(types).map(|(name, ty)| (name.to_string(), wide(ty))).collect();
        let expressions: Vec<String> = columns.iter().map(|c| quoted(c)).collect();
        let feature = |name: &&str| Feature { name: name.to_string(), sql: quoted(name), kind: FeatureKind::Number };
        let model = Model {
            name: name.to_string(),
            kind: "function".to_string(),
            options: vec![],
            label_name: "label".to_string(),
            label: Label::Number { mean: 0.0, scale: 1.0 },
            label_sql: quoted("label"),
            features: columns.iter().map(feature).collect(),
            recorded: Features::record(&expressions, &source)?,
            network,
            params: params.clone(),
            epochs: vec![],
            rows: 0,
            held_out: None,
            number: self.next_number(),
        };
        self.keep(model, false, None)
    }

    fn find(&self, name: &Name) -> Result<Arc<Model>> {
        let models = lock(&self.shared.models);
        let folded = || models.get(&name.value.to_lowercase());
        models.get(&name.value).or_else(folded).cloned().ok_or_else(|| {
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
                let (query, text) = self.plan(sql, run)?;
                match query.message() {
                    Some(message) => Ok(Answer::Done(message.to_string())),
                    None => query.stream().map(Answer::Rows).map_err(|error| Error::from_engine(error, &text)),
                }
            }
            StatementKind::CreateModel(create) => self.create_model(create, run).map(Answer::Done),
            StatementKind::ShowModels => describe::show(lock(&self.shared.models).values()),
            StatementKind::DescribeModel(name) => describe::describe(&*self.find(name)?),
            StatementKind::DropModel { name, if_exists } => {
                if *if_exists && !lock(&self.shared.models).contains_key(&name.value) {
                    return Ok(Answer::Done(format!("there is no model {}", name.value)));
                }
                let _changes = lock(&self.shared.changes);
                let model = self.find(name)?;
                lock(&self.shared.models).remove(&model.name);
                self.forget(&model)?;
                Ok(Answer::Done(format!("dropped model {}", name.value)))
            }
            StatementKind::ExportModel { name, path } => {
                let model = self.find(name)?;
                crate::store::export(&model, path.as_ref()).map_err(|e| e.at(statement.span))?;
                Ok(Answer::Done(format!("exported model {} to {path}", name.value)))
            }
            StatementKind::ImportModel { name, path } => {
                let model = crate::store::import(name, path.as_ref(), self.next_number())?;
                self.keep(model, false, Some(name.span))?;
                Ok(Answer::Done(format!("imported model {}", name.value)))
            }
            StatementKind::Explain { analyze, level, statement } => self.explain(*analyze, *level, statement, run),
            StatementKind::Set { name, value, value_span } => self.set(name, value, *value_span).map(Answer::Done),
        }
    }

    fn set(&self, name: &Name, value: &Literal, span: Span) -> Result<String> {
        const NAMES: &[&str] = &["threads", "memory_limit", "seed", "precision"];
        let mut settings = self.settings();
        let whole = |least: f64| match value {
            Literal::Number(n) if n.fract() == 0.0 && *n >= least && *n < 9e15 => Ok(*n),
            _ => Err(Error::model(format!("{} takes a whole number from {least} on", name.value), span)),
        };
        match name.value.as_str() {
            "threads" => settings.threads = whole(1.0)?.min(1024.0) as usize,
            "memory_limit" => settings.memory_limit = Some(whole(1.0)? as usize),
            "seed" => settings.seed = whole(0.0)? as u64,
            "precision" => match value {
                Literal::Text(text) if text.eq_ignore_ascii_case("single") => settings.precision = Precision::Single,
                Literal::Text(text) if text.eq_ignore_ascii_case("double") => settings.precision = Precision::Double,
                _ => return Err(Error::model("precision is 'single' or 'double'", span)),
            },
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
        let sql = match &statement.kind {
            StatementKind::Sql(sql) => sql,
            StatementKind::CreateModel(create) => {
                let Some(query) = &create.query else {
                    return Err(Error::unsupported("EXPLAIN of a model that is read", statement.span));
                };
                let query = self.expand(query, run)?;
                let training = train::prepare(create, &query, 0, run)?;
                return match training.program() {
                    Some((program, inputs)) => run.explain(program, inputs, analyze, level).map(Answer::Text),
                    None => Err(Error::unsupported("EXPLAIN of a model whose weights are read", statement.span)),
                };
            }
            _ => return Err(Error::unsupported("EXPLAIN of this statement", statement.span)),
        };
        let level = level.and_then(|l| ExplainLevel::ALL.iter().find(|a| a.1 == l)).map(|l| format!("({}) ", l.0));
        let analyze = if analyze { "ANALYZE " } else { "" };
        let text = self.expand(sql, run)?.behind(&format!("EXPLAIN {analyze}{}", level.unwrap_or_default()));
        let query = run.query(&text.text).map_err(|error| Error::from_engine(error, &text))?;
        let mut lines = vec![];
        for batch in query.collect().map_err(|error| Error::from_engine(error, &text))? {
            if let Some(texts) = batch.column(0).as_any().downcast_ref::<StringArray>() {
                lines.extend(texts.iter().flatten().map(str::to_string));
            }
        }
        Ok(Answer::Text(lines.join("\n")))
    }

    /// Hands a statement to the engine, calls of model functions replaced.
    fn plan(&self, sql: &Sql, run: &Run<'_>) -> Result<(flare::Query, Rendered)> {
        let text = self.expand(sql, run)?;
        match run.query(&text.text) {
            Ok(query) => Ok((query, text)),
            Err(error) => Err(self.place(error, sql, &text, run)),
        }
    }

    /// An error of the engine with its place. One about an argument of `predict` has none in the engine, which checks types
    /// behind its parser; the argument is found by leaving it alone among NULLs of the right types.
    fn place(&self, error: flare::Error, sql: &Sql, text: &Rendered, run: &Run<'_>) -> Error {
        let error = Error::from_engine(error, text);
        let values: Vec<&ModelCall> = sql.calls().iter().filter(|c| c.function == ModelFunction::Value).collect();
        if error.span().is_some() || values.is_empty() {
            return error;
        }
        let fails = |kept: Option<(&ModelCall, usize)>| -> Option<flare::Error> {
            let replaced = sql.expand(|call| {
                let expansion = self.expansion(sql, call, run)?;
                let Expansion::Call { function, arguments } = expansion else { return Ok(expansion) };
                let model = self.find(&call.model)?;
                let is_kept = |given: &Given| {
                    kept.is_some_and(|(kept, i)| std::ptr::eq(kept, call) && *given == Given::Argument(i))
                };
                let null = |ty| Given::Text(format!("CAST(NULL AS {})", sql_type(ty)));
                let arguments = arguments.into_iter().zip(model.inputs());
                let arguments =
                    arguments.map(|(given, (_, ty))| if is_kept(&given) { given } else { null(ty) }).collect();
                Ok::<_, Error>(Expansion::Call { function, arguments })
            });
            run.query(&replaced.ok()?.text).err()
        };
        if fails(None).is_some() {
            return error;
        }
        for call in values {
            for (i, argument) in call.arguments().iter().enumerate() {
                if let Some(error) = fails(Some((call, i))) {
                    return Error::Engine { error, span: Some(argument.span) };
                }
            }
        }
        error
    }

    /// The statement with its calls of model functions replaced by SQL of the engine.
    fn expand(&self, sql: &Sql, run: &Run<'_>) -> Result<Rendered> {
        sql.expand(|call| self.expansion(sql, call, run).map_err(|e| e.at(call.span)))
    }

    fn expansion(&self, sql: &Sql, call: &ModelCall, run: &Run<'_>) -> Result<Expansion> {
        let model = self.find(&call.model)?;
        match call.function {
            ModelFunction::Predict => predict::expansion(&model, call.threshold),
            ModelFunction::Value => predict::value(&model, call),
            ModelFunction::Evaluate => {
                let input =
                    sql.expand_input(call, |inner| self.expansion(sql, inner, run).map_err(|e| e.at(inner.span)))?;
                let table = evaluate::evaluate(&model, input.as_ref(), call.threshold, call.span, run)?;
                Ok(Expansion::Table(table))
            }
            ModelFunction::TrainingInfo => match describe::epochs(&model) {
                Some(rows) => Ok(Expansion::Table(rows)),
                None => Err(Error::model(format!("the model {} was not trained here", model.name), call.span)),
            },
            ModelFunction::Weights => {
                if makes_view(sql) {
                    return Err(Error::unsupported("ML.WEIGHTS in a view", call.span));
                }
                run.table(&call.table, describe::weights(&model)?).map(Expansion::Table)
            }
        }
    }

    /// Takes a model in: from here on its name stands for it.
    fn keep(&self, model: Model, or_replace: bool, span: Option<Span>) -> Result<()> {
        let model = Arc::new(model);
        let engine = |error| Error::Engine { error, span: None };
        let _changes = lock(&self.shared.changes);
        if !or_replace && lock(&self.shared.models).contains_key(&model.name) {
            return Err(taken(&model.name, span));
        }
        for function in Predict::all(&model) {
            self.shared.engine.register_function(function).map_err(engine)?;
        }
        match lock(&self.shared.models).insert(model.name.clone(), model.clone()) {
            Some(old) => self.forget(&old),
            None => Ok(()),
        }
    }

    /// Removes the functions of a model that has gone from the engine, but for those that a view calls: it keeps the model that
    /// it was made with. Queries that were planned have their functions already.
    fn forget(&self, model: &Arc<Model>) -> Result<()> {
        use flare::catalog::{Relation, RowFunction};
        let catalog = self.shared.engine.catalog();
        for function in Predict::all(model) {
            let name = quoted(function.name());
            let calls = |relation: &Relation| matches!(relation, Relation::View(text) if text.contains(&name));
            if !catalog.relations().any(|(_, relation)| calls(relation)) {
                let removed = self.shared.engine.remove_function(function.name());
                removed.map_err(|error| Error::Engine { error, span: None })?;
            }
        }
        Ok(())
    }

    fn create_model(&self, create: &CreateModel, run: &Run<'_>) -> Result<String> {
        let name = &create.name.value;
        let exists = || lock(&self.shared.models).contains_key(name);
        if create.if_not_exists && exists() {
            return Ok(format!("model {name} exists"));
        }
        if !create.or_replace && exists() {
            return Err(taken(name, Some(create.name.span)));
        }
        let number = self.next_number();
        let model = match &create.query {
            Some(query) => {
                let query = self.expand(query, run)?;
                train::prepare(create, &query, number, run)?.run(run)?
            }
            None => train::read(create, number)?,
        };
        let loss = model.epochs.last().map_or(String::new(), |e| format!(", loss {:.4}", e.loss));
        let done = format!("created model {name}: {} rows, {} epochs{loss}", model.rows, model.epochs.len());
        self.keep(model, create.or_replace, Some(create.name.span))?;
        Ok(done)
    }
}

fn taken(name: &str, span: Option<Span>) -> Error {
    Error::Model {
        message: format!("there is a model '{name}' already"),
        help: Some("write CREATE OR REPLACE MODEL, or DROP MODEL first".to_string()),
        span,
    }
}

/// Whether a statement is CREATE VIEW.
fn makes_view(sql: &Sql) -> bool {
    let words = sql.source().split_whitespace();
    let mut kinds = words.filter(|w| ["TABLE", "VIEW", "SELECT", "WITH"].iter().any(|k| w.eq_ignore_ascii_case(k)));
    kinds.next().is_some_and(|word| word.eq_ignore_ascii_case("VIEW"))
}

/// A statement is over when this is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    session: Session,
    number: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        lock(&self.session.shared.running).remove(&self.number);
    }
}

/// What a statement returned, and what it cost.
#[derive(Debug)]
pub struct Ran {
    pub answer: Answer,
    /// What it cost to make the statement's programs; the times are part of the statement's time.
    pub costs: Costs,
}
