//! The session: tables and models, and the statements over them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use arrow::record_batch::RecordBatch;
use flare::{Control, Costs, Engine};
use ir::Program;
use ir::exec::run::{CompileOptions, Executable, Progress, Resources};
use ir::exec::{Inputs, Outputs};
use ir::opt::OptOptions;
use ir::types::ScalarType;
use ir::value::TensorData;
use lantern::{Function, Params};
use runtime::column::Table as Columns;

use crate::error::{Error, Result};
use crate::features::Features;
use crate::model::{Label, Model, Network};
use crate::predict::{self, Predict};
use crate::query::Query;
use crate::sql::{
    self, CreateModel, Expansion, ExplainLevel, Given, Literal, ModelCall, ModelFunction, Name, Rendered, Span, Sql,
    Statement, StatementKind,
};
use crate::transform::{Feature, FeatureKind, number, quoted, sql_type};
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
        let tables = RefCell::default();
        let run = Run { engine: &self.shared.engine, number, settings: self.settings(), watch, control, tables };
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
        Ok(Predictor { session: self.clone(), model })
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
                let (query, text) = self.plan(sql, run)?;
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
            ModelFunction::TrainingInfo => {
                let rows: Vec<String> = model
                    .epochs
                    .iter()
                    .enumerate()
                    .map(|(i, e)| {
                        let eval = e.eval_loss.map_or("CAST(NULL AS DOUBLE)".to_string(), number);
                        format!("({i}, {}, {eval}, {})", number(e.loss), number(e.duration_ms))
                    })
                    .collect();
                if rows.is_empty() {
                    return Err(Error::model(format!("the model {} was not trained here", model.name), call.span));
                }
                let values = format!("(VALUES {}) AS epochs(iteration, loss, eval_loss, duration_ms)", rows.join(", "));
                Ok(Expansion::Table(format!("(SELECT * FROM {values})")))
            }
            ModelFunction::Weights => {
                if makes_view(sql) {
                    return Err(Error::unsupported("ML.WEIGHTS in a view", call.span));
                }
                run.table(&call.table, weights_of(&model)?).map(Expansion::Table)
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

/// The weights as a table: tensor, the place in it, the feature that a weight of the first layer belongs to, and the value.
fn weights_of(model: &Model) -> Result<RecordBatch> {
    let mut columns = vec![];
    for feature in &model.features {
        let n = feature.columns()?.len();
        columns.extend((0..n).map(|i| if n == 1 { feature.name.clone() } else { format!("{}.{i}", feature.name) }));
    }
    let layered = matches!(model.network, Network::Layers { .. });
    let (mut tensors, mut rows, mut inputs, mut features, mut weights) = (vec![], vec![], vec![], vec![], vec![]);
    for (tensor, value) in model.params.iter() {
        let values: Vec<f64> = match &value.data {
            TensorData::F32(v) => v.iter().map(|x| f64::from(*x)).collect(),
            TensorData::F64(v) => v.clone(),
            TensorData::I32(v) => v.iter().map(|x| f64::from(*x)).collect(),
            TensorData::I64(v) => v.iter().map(|x| *x as f64).collect(),
            TensorData::Bool(v) => v.iter().map(|x| f64::from(u8::from(*x))).collect(),
        };
        let width = if value.shape.len() < 2 { None } else { value.shape.last().copied() };
        for (i, weight) in values.into_iter().enumerate() {
            let (row, input) = match width {
                Some(width) => (i / width, Some(i % width)),
                None => (i, None),
            };
            tensors.push(tensor.to_string());
            rows.push(row as i64);
            inputs.push(input.map(|i| i as i64));
            features.push(input.filter(|_| layered && tensor == "l0.w").and_then(|i| columns.get(i).cloned()));
            weights.push(weight);
        }
    }
    let batch: Vec<(&str, ArrayRef)> = vec![
        ("tensor", Arc::new(StringArray::from(tensors))),
        ("output", Arc::new(Int64Array::from(rows))),
        ("input", Arc::new(Int64Array::from(inputs))),
        ("feature", Arc::new(StringArray::from(features))),
        ("weight", Arc::new(Float64Array::from(weights))),
    ];
    RecordBatch::try_from_iter(batch).map_err(|e| Error::model(e.to_string(), None))
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
        for (name, _) in self.model.inputs() {
            if rows.schema().column_with_name(name).is_none() {
                let message = format!("the model {} reads the column '{name}', which is missing", self.model.name);
                return Err(Error::model(message, None));
            }
        }
        let engine = Engine::with_settings(self.session.engine().settings());
        engine.register_arrow("input", std::slice::from_ref(rows)).map_err(plain)?;
        for function in Predict::all(&self.model) {
            engine.register_function(function).map_err(plain)?;
        }
        let text = match predict::expansion(&self.model, None)? {
            Expansion::Around { before, after } => format!("SELECT * FROM {before}input{after}"),
            Expansion::Table(_) | Expansion::Call { .. } => return Err(Error::model("no query to predict with", None)),
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

impl Run<'_> {
    pub(crate) fn query(&self, text: &str) -> flare::Result<flare::Query> {
        self.engine.sql_under(text, &self.control)
    }

    /// A table that is there until the statement is planned; returns its name as SQL.
    fn table(&self, name: &str, rows: RecordBatch) -> Result<String> {
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
        let report = program.optimize(&OptOptions::default())?;
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

    fn resources(&self) -> Resources {
        let mut resources = Resources::new(self.engine.pool(), self.settings.memory_limit);
        resources.cancel = self.control.token().clone();
        resources
    }

    /// A model's program at a level, with what the optimizer did on the first; run, if asked for.
    fn explain(
        &self,
        program: &Program,
        inputs: &Inputs,
        analyze: bool,
        level: Option<ExplainLevel>,
    ) -> Result<String> {
        let mut program = program.clone();
        let report = program.optimize(&OptOptions::default())?;
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
    items.push(("network".into(), model.network.described()));
    items.push(("training rows".into(), model.rows.to_string()));
    items.extend(model.inputs().map(|(name, ty)| (format!("input {name}"), sql_type(ty))));
    for feature in &model.features {
        let sql = match &feature.kind {
            FeatureKind::Given(columns) => columns.join(", "),
            FeatureKind::Number | FeatureKind::OneHot(_) => feature.sql.clone(),
        };
        items.push((format!("feature {}", feature.name), sql));
    }
    items.extend(model.options.iter().map(|(name, value)| (format!("option {name}"), value.clone())));
    let (names, values): (Vec<String>, Vec<String>) = items.into_iter().unzip();
    rows_of(vec![
        ("property", Arc::new(StringArray::from(names)) as ArrayRef),
        ("value", Arc::new(StringArray::from(values)) as ArrayRef),
    ])
}
