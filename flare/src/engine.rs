//! The engine: names, statements, queries.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use ir::Program;
use ir::exec::run::{CompileOptions, Executable, Resources};
use ir::exec::{Datum, Inputs, Outputs};
use ir::graph::{Op, rewrite};
use ir::opt::{OptOptions, OptReport};
use ir::types::{RowType, ScalarType};
use ir::value::Value;
use runtime::column::Table as Columns;
use runtime::scheduler::WorkerPool;
use runtime::trap::CancelToken;

use crate::binder;
use crate::catalog::{Catalog, Relation, RowFunction};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::functions::sql_type_name;
use crate::import::{self, Imported, InputSource};
use crate::ingest::csv::CsvOptions;
use crate::ingest::{self, Table};
use crate::result;
use crate::sql::{self, DropKind, Level, ParsedQuery, Statement};

/// Rows of a record batch, unless the settings say otherwise.
const BATCH_ROWS: usize = 64 << 10;

/// Programs that are kept.
const MAX_PLANNED: usize = 256;

/// A statement with more tokens is planned on a stack of its own: planning recurses over long expressions.
const SMALL_STATEMENT: usize = 200;
/// Stack for each token of such a statement, and at least.
const STACK_PER_TOKEN: usize = 16 << 10;
const MIN_STACK: usize = 8 << 20;

/// How the engine runs statements.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads that load files, compile and run.
    pub threads: usize,
    /// Bytes that a statement may use; none for no limit.
    pub memory_limit: Option<usize>,
    /// Rows of the record batches of a result, at most.
    pub batch_rows: usize,
    /// Rows of a morsel, for tests; the runtime's own number if none.
    pub morsel_rows: Option<usize>,
    /// Run by the interpreter instead of compiled code: slow, and what compiled code is tested against.
    pub interpret: bool,
    /// Only these passes of the optimizer, in this order, for tests; all of them if none.
    pub passes: Option<Vec<String>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            memory_limit: None,
            batch_rows: BATCH_ROWS,
            morsel_rows: None,
            interpret: false,
            passes: None,
        }
    }
}

/// A SQL engine: a catalog and settings. Cloning gives another handle of the same engine; all methods take `&self`.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    catalog: Mutex<Arc<Catalog>>,
    settings: Mutex<Settings>,
    pool: Mutex<Option<Arc<WorkerPool>>>,
    /// Queries over the tables of the catalog as it is now, by their text.
    planned: Mutex<HashMap<String, Arc<Planned>>>,
    /// Their code, by what is computed: other texts of the same query share it.
    compiled: Mutex<HashMap<String, Arc<Executable>>>,
    plannings: AtomicU64,
    compilations: AtomicU64,
}

/// How often an engine did what it keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Statements that were planned: a text that is known, over tables that are the same, is not planned again.
    pub plannings: u64,
    /// Programs that were compiled: one that is known is not compiled again, whatever its text.
    pub compilations: u64,
}

/// A program with its inputs, and its code once it has run.
struct Planned {
    imported: Imported,
    optimized: OnceLock<Arc<(Program, OptReport)>>,
    executable: OnceLock<Arc<Executable>>,
}

impl Planned {
    /// Whether it reads tables of the catalog only: files that a statement names may change.
    fn is_lasting(&self, catalog: &Catalog) -> bool {
        let registered = |table: &Arc<Table>| {
            catalog.relations().any(|(_, r)| matches!(r, Relation::Table(t) if Arc::ptr_eq(t, table)))
        };
        self.imported.inputs.iter().all(|input| match input {
            InputSource::Table(table, _) => registered(table),
            InputSource::Parameter(_) => true,
        })
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("catalog", &self.catalog)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// An engine without tables.
    pub fn new() -> Self {
        Self::default()
    }

    /// An engine with these settings.
    pub fn with_settings(settings: Settings) -> Self {
        let engine = Self::default();
        engine.set_settings(settings);
        engine
    }

    /// The settings that the next statement gets.
    pub fn settings(&self) -> Settings {
        lock(&self.shared.settings).clone()
    }

    /// Changes the settings for statements that follow.
    pub fn set_settings(&self, settings: Settings) {
        let passes = settings.passes.clone();
        let before = std::mem::replace(&mut *lock(&self.shared.settings), settings);
        if before.passes != passes {
            lock(&self.shared.planned).clear();
        }
    }

    /// The threads that statements run on: as many as the settings say.
    pub fn pool(&self) -> Arc<WorkerPool> {
        let threads = self.settings().threads.max(1);
        let mut pool = lock(&self.shared.pool);
        match &*pool {
            Some(pool) if pool.threads() == threads => pool.clone(),
            _ => pool.insert(Arc::new(WorkerPool::new(threads))).clone(),
        }
    }

    /// The names as they are now; later changes do not show in it.
    pub fn catalog(&self) -> Arc<Catalog> {
        lock(&self.shared.catalog).clone()
    }

    /// Replaces the catalog by what `change` makes of it, or leaves it where that fails.
    fn update(&self, change: impl FnOnce(&Catalog) -> Result<Catalog>) -> Result<()> {
        let mut catalog = lock(&self.shared.catalog);
        *catalog = Arc::new(change(&catalog)?);
        // Programs of the old catalog would keep its tables alive.
        lock(&self.shared.planned).clear();
        lock(&self.shared.compiled).clear();
        Ok(())
    }

    /// How often this engine planned and compiled.
    pub fn counts(&self) -> Counts {
        Counts {
            plannings: self.shared.plannings.load(Ordering::Relaxed),
            compilations: self.shared.compilations.load(Ordering::Relaxed),
        }
    }

    /// Registers a Parquet file under a name. Its columns are read when statements first need them.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that cannot be read or whose types have no counterpart; [`Error::Name`] for a name that is
    /// taken. Then nothing is registered.
    pub fn register_parquet(&self, name: &str, path: impl AsRef<Path>) -> Result<()> {
        self.register_table(name, ingest::open_parquet(path.as_ref())?)
    }

    /// Registers a CSV file with a header under a name. Types are inferred over all rows.
    ///
    /// ```
    /// let path = std::env::temp_dir().join(format!("flare_example_{}.csv", std::process::id()));
    /// std::fs::write(&path, "city,people\nBern,134\nBasel,173\n")?;
    /// let engine = flare::Engine::new();
    /// engine.register_csv("cities", &path)?;
    /// let rows = engine.sql("SELECT city FROM cities ORDER BY people DESC")?.collect()?;
    /// assert_eq!(rows[0].num_rows(), 2);
    /// # std::fs::remove_file(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Engine::register_parquet`].
    pub fn register_csv(&self, name: &str, path: impl AsRef<Path>) -> Result<()> {
        self.register_table(name, ingest::open_csv(path.as_ref(), &CsvOptions::default())?)
    }

    /// Registers record batches of one schema under a name.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use arrow::array::{ArrayRef, Int64Array};
    /// use arrow::record_batch::RecordBatch;
    ///
    /// let n: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    /// let engine = flare::Engine::new();
    /// engine.register_arrow("t", &[RecordBatch::try_from_iter([("n", n)])?])?;
    /// assert_eq!(engine.sql("SELECT n FROM t WHERE n > 1")?.collect()?[0].num_rows(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Engine::register_parquet`]; and if there is no batch, since then there is no schema.
    pub fn register_arrow(&self, name: &str, batches: &[RecordBatch]) -> Result<()> {
        let first = batches.first().ok_or_else(|| Error::input(name.as_ref(), "there is no record batch"))?;
        self.register_table(name, Table::from_batches(name, &first.schema(), batches)?)
    }

    /// Registers a table under a name.
    ///
    /// # Errors
    /// [`Error::Name`] for a name that is taken.
    pub fn register_table(&self, name: &str, table: Table) -> Result<()> {
        let table = Arc::new(table);
        self.update(|catalog| {
            absent(catalog, name)?;
            Ok(catalog.with_relation(name, Relation::Table(table)))
        })
    }

    /// Registers a function over rows, in place of one of the same name.
    pub fn register_function(&self, function: Arc<dyn RowFunction>) -> Result<()> {
        self.update(|catalog| Ok(catalog.with_function(function)))
    }

    /// Removes a function; does nothing if there is none of this name.
    pub fn remove_function(&self, name: &str) -> Result<()> {
        self.update(|catalog| Ok(catalog.without_function(name)))
    }

    /// Takes one statement. A query is planned and runs when its rows are asked for; every other statement is carried out here,
    /// and its query has the rows that it returns, if any.
    ///
    /// # Errors
    /// An error with its place in the text. A statement that fails leaves everything as it was.
    pub fn sql(&self, text: &str) -> Result<Query> {
        self.sql_under(text, &Control::new())
    }

    /// As [`Engine::sql`], for a caller who may want to stop the statement while it is carried out here, or the query that is
    /// returned, and to know what they cost.
    ///
    /// # Errors
    /// As for [`Engine::sql`].
    pub fn sql_under(&self, text: &str, control: &Control) -> Result<Query> {
        let settings = self.settings();
        let catalog = self.catalog();
        if let Some(planned) = lock(&self.shared.planned).get(text) {
            let plan = Plan { planned: Some(planned.clone()), parameters: planned.imported.parameters.clone() };
            return Ok(Query::new(self, text, plan, catalog, settings, control));
        }
        self.shared.plannings.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        let prepared = prepare(text, &catalog, &[], settings.threads)?;
        control.add(|costs| costs.plan += start.elapsed().saturating_sub(prepared.loading(&catalog)));
        match prepared {
            Prepared::Query(plan) => {
                self.remember(text, &plan, &catalog);
                Ok(Query::new(self, text, plan, catalog, settings, control))
            }
            Prepared::CreateTable { name, or_replace, if_not_exists, plan } => {
                if if_not_exists && catalog.get(&name).is_some() {
                    return Ok(Query::done(self, format!("table {name} exists"), settings));
                }
                if !or_replace {
                    absent(&catalog, &name)?;
                }
                let columns = Query::new(self, text, plan, catalog, settings.clone(), control).columns()?;
                let table = Arc::new(Table::from_columns(&name, columns.columns().to_vec(), columns.rows())?);
                self.update(|catalog| {
                    if !or_replace {
                        absent(catalog, &name)?;
                    }
                    Ok(catalog.with_relation(&name, Relation::Table(table)))
                })?;
                Ok(Query::done(self, format!("created table {name}"), settings))
            }
            Prepared::CreateView { name, or_replace, if_not_exists, query } => {
                self.update(|catalog| match catalog.get(&name) {
                    Some(_) if if_not_exists => Ok(catalog.clone()),
                    Some(_) if !or_replace => Err(taken(&name)),
                    _ => Ok(catalog.with_relation(&name, Relation::View(text[query].into()))),
                })?;
                Ok(Query::done(self, format!("created view {name}"), settings))
            }
            Prepared::Drop { kind, names, if_exists } => {
                self.update(|catalog| drop_all(catalog, kind, &names, if_exists))?;
                let names: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
                Ok(Query::done(self, format!("dropped {}", names.join(", ")), settings))
            }
            Prepared::ShowTables => {
                let names: Vec<String> = catalog.relations().map(|(name, _)| name.to_string()).collect();
                let is_view = |r| if matches!(r, &Relation::View(_)) { "view" } else { "table" };
                let kinds = catalog.relations().map(|(_, r)| is_view(r).to_string()).collect();
                Query::texts(self, &[("name", names), ("kind", kinds)], settings)
            }
            Prepared::Describe { columns } => {
                let names = columns.iter().map(|(name, _)| name.clone()).collect();
                let types = columns.iter().map(|(_, t)| sql_type_name(t.ty)).collect();
                let nullable = columns.iter().map(|(_, t)| if t.nullable { "YES" } else { "NO" }.to_string()).collect();
                Query::texts(self, &[("column_name", names), ("column_type", types), ("null", nullable)], settings)
            }
            Prepared::Explain { analyze, level, plan } => {
                let query = Query::new(self, text, plan, catalog, settings.clone(), control);
                let printed =
                    if analyze { query.explain_analyze(level)? } else { query.explain(level.unwrap_or_default())? };
                let lines = printed.lines().map(str::to_string).collect();
                Query::texts(self, &[("explain", lines)], settings)
            }
        }
    }

    /// Keeps the program of a query that reads tables of the catalog only, as long as the catalog stays as it is.
    fn remember(&self, text: &str, plan: &Plan, catalog: &Arc<Catalog>) {
        let Some(planned) = &plan.planned else { return };
        let current = lock(&self.shared.catalog);
        if !planned.is_lasting(catalog) || current.version() != catalog.version() {
            return;
        }
        let mut all = lock(&self.shared.planned);
        if all.len() >= MAX_PLANNED {
            all.clear();
        }
        all.insert(text.to_string(), planned.clone());
    }

    /// The columns of a table or a view.
    ///
    /// # Errors
    /// [`Error::Name`] for an unknown name; the view's own errors.
    pub fn describe(&self, name: &str) -> Result<Vec<(String, RowType)>> {
        let settings = self.settings();
        describe(name, &self.catalog(), settings.threads)
    }
}

fn describe(name: &str, catalog: &Catalog, threads: usize) -> Result<Vec<(String, RowType)>> {
    match catalog.get(name) {
        None => Err(catalog.unknown(name)),
        Some(Relation::Table(table)) => {
            let column = |i: usize| (table.columns()[i].name.clone(), table.column_type(i));
            Ok((0..table.columns().len()).map(column).collect())
        }
        Some(Relation::View(text)) => match prepare(text, catalog, &[], threads)? {
            Prepared::Query(Plan { planned: Some(planned), .. }) => Ok(planned.imported.columns.clone()),
            _ => Err(Error::Bug(format!("the view {name} is no query"))),
        },
    }
}

fn absent(catalog: &Catalog, name: &str) -> Result<()> {
    if catalog.get(name).is_some() { Err(taken(name)) } else { Ok(()) }
}

fn taken(name: &str) -> Error {
    Error::name(format!("there is a table or a view \"{name}\" already"), None)
}

fn drop_all(catalog: &Catalog, kind: DropKind, names: &[(String, Range<usize>)], if_exists: bool) -> Result<Catalog> {
    let mut next = catalog.clone();
    for (name, span) in names {
        let here = match (next.get(name), kind) {
            (Some(Relation::Table(_)), DropKind::Table) | (Some(Relation::View(_)), DropKind::View) => true,
            (Some(Relation::Table(_)), DropKind::View) => {
                return Err(
                    Error::meaning(format!("\"{name}\" is a table: DROP TABLE drops it")).at(Some(span.clone()))
                );
            }
            (Some(Relation::View(_)), DropKind::Table) => {
                return Err(Error::meaning(format!("\"{name}\" is a view: DROP VIEW drops it")).at(Some(span.clone())));
            }
            (None, _) => false,
        };
        if here {
            next = next.without_relation(name);
        } else if !if_exists {
            return Err(catalog.unknown(name).at(Some(span.clone())));
        }
    }
    Ok(next)
}

/// A query that is planned.
struct Plan {
    /// The program; none where the type of a parameter is not known yet.
    planned: Option<Arc<Planned>>,
    /// The types of the parameters, as far as their use tells.
    parameters: Vec<Option<ScalarType>>,
}

/// A statement that is planned.
enum Prepared {
    Query(Plan),
    CreateTable { name: String, or_replace: bool, if_not_exists: bool, plan: Plan },
    CreateView { name: String, or_replace: bool, if_not_exists: bool, query: Range<usize> },
    Drop { kind: DropKind, names: Vec<(String, Range<usize>)>, if_exists: bool },
    ShowTables,
    Describe { columns: Vec<(String, RowType)> },
    Explain { analyze: bool, level: Option<Level>, plan: Plan },
}

impl Prepared {
    /// Time that planning spent on files: opening them, and loading what the program reads.
    fn loading(&self, catalog: &Catalog) -> Duration {
        let (Self::Query(plan) | Self::CreateTable { plan, .. } | Self::Explain { plan, .. }) = self else {
            return Duration::ZERO;
        };
        let Some(planned) = &plan.planned else { return Duration::ZERO };
        let opened = planned.imported.inputs.iter().filter_map(|input| match input {
            InputSource::Table(table, _) if !catalog.has_table(table) => Some(table.opening()),
            InputSource::Table(..) | InputSource::Parameter(_) => None,
        });
        planned.imported.loading + opened.sum::<Duration>()
    }
}

fn prepare(text: &str, catalog: &Catalog, types: &[Option<ScalarType>], threads: usize) -> Result<Prepared> {
    // A token has a byte at least.
    let tokens = text.len() / 2;
    if tokens <= SMALL_STATEMENT {
        return prepare_here(text, catalog, types, threads);
    }
    let tokens = sql::count_tokens(text)?;
    let stack = (tokens * STACK_PER_TOKEN).max(MIN_STACK);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("flare-plan".into()).stack_size(stack);
        let handle = thread
            .spawn_scoped(scope, || prepare_here(text, catalog, types, threads))
            .map_err(|e| Error::Limit(format!("no thread for planning: {e}")))?;
        handle.join().unwrap_or_else(|panic| Err(Error::Bug(panic_message(&*panic))))
    })
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic in planning").to_string()
}

fn prepare_here(text: &str, catalog: &Catalog, types: &[Option<ScalarType>], threads: usize) -> Result<Prepared> {
    let _span = tracing::debug_span!("plan", bytes = text.len()).entered();
    let plan = |query: ParsedQuery| plan_query(&query, text, catalog, types, threads);
    Ok(match sql::parse(text)? {
        Statement::Query(query) => Prepared::Query(plan(query)?),
        Statement::CreateTable { name, or_replace, if_not_exists, query } => {
            Prepared::CreateTable { name, or_replace, if_not_exists, plan: plan(query)? }
        }
        Statement::CreateView { name, or_replace, if_not_exists, query } => {
            let view = sql::parse_query(&text[query.clone()]).map_err(|e| e.shifted(query.start))?;
            plan_query(&view, &text[query.clone()], catalog, &[], threads).map_err(|e| e.shifted(query.start))?;
            Prepared::CreateView { name, or_replace, if_not_exists, query }
        }
        Statement::Drop { kind, names, if_exists } => Prepared::Drop { kind, names, if_exists },
        Statement::ShowTables => Prepared::ShowTables,
        Statement::Describe { name, span } => {
            Prepared::Describe { columns: describe(&name, catalog, threads).map_err(|e| e.at(Some(span)))? }
        }
        Statement::Explain { analyze, level, query } => Prepared::Explain { analyze, level, plan: plan(query)? },
    })
}

fn plan_query(
    query: &ParsedQuery,
    text: &str,
    catalog: &Catalog,
    types: &[Option<ScalarType>],
    threads: usize,
) -> Result<Plan> {
    let bound = binder::bind(query, text, catalog, types)?;
    let known: Option<Vec<ScalarType>> =
        bound.parameters.iter().enumerate().map(|(i, t)| t.or_else(|| types.get(i).copied().flatten())).collect();
    let planned = match known {
        Some(types) => {
            let _span = tracing::debug_span!("import").entered();
            let imported = import::import(&bound, &types, &query.shown_names, text, threads)?;
            Some(Arc::new(Planned { imported, optimized: OnceLock::new(), executable: OnceLock::new() }))
        }
        None => None,
    };
    Ok(Plan { planned, parameters: bound.parameters })
}

/// A statement that was taken: a query to run, or the rows that a statement returned.
///
/// It holds the tables as they were when it was made; changes of the catalog do not reach it.
pub struct Query {
    engine: Engine,
    text: String,
    settings: Settings,
    control: Control,
    state: State,
}

enum State {
    /// A query, with the values of its parameters.
    Program { plan: Plan, values: Vec<Value>, catalog: Arc<Catalog> },
    /// A statement that was carried out.
    Done { message: String, schema: SchemaRef, rows: Option<RecordBatch> },
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Query").field("text", &self.text).finish_non_exhaustive()
    }
}

/// The rows of a result, batch by batch.
pub struct Rows {
    schema: SchemaRef,
    table: Arc<Columns>,
    next: usize,
    batch_rows: usize,
}

impl Query {
    fn new(
        engine: &Engine,
        text: &str,
        plan: Plan,
        catalog: Arc<Catalog>,
        settings: Settings,
        control: &Control,
    ) -> Self {
        let state = State::Program { plan, values: vec![], catalog };
        Self { engine: engine.clone(), text: text.to_string(), settings, control: control.clone(), state }
    }

    fn done(engine: &Engine, message: String, settings: Settings) -> Self {
        let state = State::Done { message, schema: Arc::new(Schema::empty()), rows: None };
        Self { engine: engine.clone(), text: String::new(), settings, control: Control::new(), state }
    }

    fn texts(engine: &Engine, columns: &[(&str, Vec<String>)], settings: Settings) -> Result<Self> {
        let fields: Vec<Field> = columns.iter().map(|(name, _)| Field::new(*name, DataType::Utf8, false)).collect();
        let schema = Arc::new(Schema::new(fields));
        let arrays = columns.iter().map(|(_, v)| Arc::new(StringArray::from_iter_values(v)) as ArrayRef).collect();
        let rows = RecordBatch::try_new(schema.clone(), arrays).map_err(|e| Error::Bug(e.to_string()))?;
        let state = State::Done { message: String::new(), schema, rows: Some(rows) };
        Ok(Self { engine: engine.clone(), text: String::new(), settings, control: Control::new(), state })
    }

    /// What a statement without rows did, as `created table t`.
    pub fn message(&self) -> Option<&str> {
        match &self.state {
            State::Done { message, rows: None, .. } => Some(message),
            State::Done { .. } | State::Program { .. } => None,
        }
    }

    /// Gives the parameters values: `$1`, or the first `?`, is the first. A value is cast to the type that its use demands.
    ///
    /// ```
    /// use ir::value::Value;
    ///
    /// let engine = flare::Engine::new();
    /// engine.sql("CREATE TABLE t AS SELECT * FROM (VALUES (1), (2), (3)) AS v(n)")?;
    /// let query = engine.sql("SELECT n FROM t ORDER BY n LIMIT $1")?.bind(&[Value::I64(2)])?;
    /// assert_eq!(query.collect()?[0].num_rows(), 2);
    /// # Ok::<(), flare::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Meaning`] for another number of values than the query has parameters, or a value that does not cast.
    pub fn bind(mut self, given: &[Value]) -> Result<Self> {
        let State::Program { plan, values, catalog } = &mut self.state else {
            return if given.is_empty() { Ok(self) } else { Err(Error::meaning("this statement has no parameters")) };
        };
        if given.len() != plan.parameters.len() {
            let message =
                format!("the query has {} parameters, {} values were given", plan.parameters.len(), given.len());
            return Err(Error::meaning(message));
        }
        if plan.planned.is_none() {
            let types: Vec<Option<ScalarType>> =
                plan.parameters.iter().zip(given).map(|(t, v)| Some(t.unwrap_or_else(|| type_of(v)))).collect();
            match prepare(&self.text, catalog, &types, self.settings.threads)? {
                Prepared::Query(Plan { planned: Some(planned), .. }) => {
                    *plan = Plan { planned: Some(planned), parameters: types };
                }
                _ => return Err(Error::meaning("the type of a parameter is not known: write CAST($1 AS type)")),
            }
        }
        *values = given
            .iter()
            .zip(&plan.parameters)
            .enumerate()
            .map(|(i, (v, t))| parameter_value(i, v, t.unwrap_or_else(|| type_of(v))))
            .collect::<Result<_>>()?;
        Ok(self)
    }

    fn planned(&self) -> Result<&Planned> {
        match &self.state {
            State::Program { plan: Plan { planned: Some(planned), .. }, .. } => Ok(planned),
            State::Program { .. } => Err(Error::meaning("the query has parameters: bind values to them first")),
            State::Done { .. } => Err(Error::meaning("this statement has no program")),
        }
    }

    fn imported(&self) -> Result<&Imported> {
        Ok(&self.planned()?.imported)
    }

    /// The program of a query, as it came from SQL: not optimized.
    ///
    /// # Errors
    /// [`Error::Meaning`] for a statement that is no query, or whose parameters have no types yet.
    pub fn program(&self) -> Result<&Program> {
        Ok(&self.imported()?.program)
    }

    /// What the program reads: tables, and the values of parameters.
    ///
    /// # Errors
    /// As for [`Query::program`]; [`Error::Meaning`] where a parameter has no value.
    pub fn inputs(&self) -> Result<Inputs> {
        let imported = self.imported()?;
        let values = match &self.state {
            State::Program { values, .. } => values.as_slice(),
            State::Done { .. } => &[],
        };
        let mut inputs = Inputs::new();
        // What the optimizer left: columns that nothing reads are not loaded.
        let optimized = self.optimized()?;
        for (input, source) in imported.program.inputs.iter().zip(&imported.inputs) {
            let Some(needed) = optimized.0.inputs.iter().find(|i| i.name == input.name) else { continue };
            let datum = match source {
                InputSource::Table(table, columns) => {
                    let kept = |i: &&usize| match &needed.kind {
                        ir::graph::InputKind::Table(list) => list.iter().any(|c| c.name == table.columns()[**i].name),
                        _ => false,
                    };
                    let columns: &Vec<usize> = &columns.iter().filter(kept).copied().collect();
                    let loaded = table.load(columns, self.settings.threads)?;
                    let names = columns.iter().map(|i| table.columns()[*i].name.clone());
                    Datum::Table(Arc::new(Columns::new(names.zip(loaded).collect(), table.rows())))
                }
                InputSource::Parameter(i) => {
                    let value = values.get(*i);
                    let value = value.ok_or_else(|| Error::meaning(format!("parameter ${} has no value", i + 1)))?;
                    Datum::Scalar(value.clone())
                }
            };
            inputs.set(&input.name, datum);
        }
        Ok(inputs)
    }

    /// The names and types of the result's columns.
    pub fn schema(&self) -> Result<SchemaRef> {
        match &self.state {
            State::Done { schema, .. } => Ok(schema.clone()),
            State::Program { .. } => Ok(result::schema_of(&self.imported()?.columns)),
        }
    }

    /// Runs the query; all rows of the result, as columns of the runtime.
    ///
    /// # Errors
    /// [`Error::Run`] for what the query raises, with the expression that raised it; limits; cancellation.
    pub fn columns(&self) -> Result<Arc<Columns>> {
        self.rows_of(&self.run(false)?)
    }

    fn rows_of(&self, outputs: &Outputs) -> Result<Arc<Columns>> {
        outputs.table(0).cloned().ok_or_else(|| Error::Bug("a query whose result is no table".into()))
    }

    /// `read_once`: the result's columns need no statistics.
    fn run(&self, read_once: bool) -> Result<Outputs> {
        let _span = tracing::debug_span!("run").entered();
        if self.control.token().is_cancelled() {
            return Err(Error::Cancelled);
        }
        let inputs = self.inputs()?;
        let optimized = self.optimized()?;
        let (program, report) = &*optimized;
        self.control.add(|costs| costs.add_border(report.border()));
        let outputs = if self.settings.interpret {
            program.interpret(&inputs)
        } else {
            let executable = self.executable(&inputs)?;
            self.control.add(|costs| costs.add_border(executable.plan().notes.iter().map(String::as_str)));
            executable.run(&inputs, &Resources { read_once, ..self.resources() })
        };
        outputs.map_err(|e| Error::from_ir(e, program))
    }

    /// The program as the optimizer leaves it, and what the optimizer did; made once.
    ///
    /// # Errors
    /// As for [`Query::program`]; [`Error::Bug`] for a pass that breaks the program.
    pub fn optimized(&self) -> Result<Arc<(Program, OptReport)>> {
        let planned = self.planned()?;
        if let Some(optimized) = planned.optimized.get() {
            return Ok(optimized.clone());
        }
        let _span = tracing::debug_span!("optimize").entered();
        let start = Instant::now();
        let mut program = planned.imported.program.clone();
        let options = OptOptions {
            statistics: planned.imported.statistics(),
            only: self.settings.passes.clone(),
            ..OptOptions::default()
        };
        let report = program.optimize(&options);
        let report = report.map_err(|e| Error::from_ir(e, &planned.imported.program))?;
        self.control.add(|costs| costs.optimize += start.elapsed());
        Ok(planned.optimized.get_or_init(|| Arc::new((program, report))).clone())
    }

    /// The machine code of the query, made once.
    fn executable(&self, inputs: &Inputs) -> Result<Arc<Executable>> {
        let planned = self.planned()?;
        if let Some(executable) = planned.executable.get() {
            return Ok(executable.clone());
        }
        let catalog = match &self.state {
            State::Program { catalog, .. } => catalog,
            State::Done { .. } => return Err(Error::Bug("a statement without a program".into())),
        };
        // Tables keep their names as long as the catalog stays as it is, so the text tells which they are.
        let shared = &self.engine.shared;
        let text = self.optimized()?.0.print();
        let keep = planned.is_lasting(catalog) && lock(&shared.catalog).version() == catalog.version();
        let known = if keep { lock(&shared.compiled).get(&text).cloned() } else { None };
        let executable = match known {
            Some(executable) => executable,
            None => Arc::new(self.compile(inputs, false)?),
        };
        if keep {
            let current = lock(&shared.catalog);
            if current.version() == catalog.version() {
                let mut all = lock(&shared.compiled);
                if all.len() >= MAX_PLANNED {
                    all.clear();
                }
                all.insert(text, executable.clone());
            }
        }
        Ok(planned.executable.get_or_init(|| executable).clone())
    }

    /// Loads what the query reads and compiles it, so that a later run only runs it. Returns the time that optimizing and
    /// compiling took, loading not counted: next to nothing where the code is there already.
    ///
    /// # Errors
    /// As for [`Query::program`], and what loading and compiling say.
    pub fn prepare(&self) -> Result<Duration> {
        let start = Instant::now();
        self.optimized()?;
        let optimizing = start.elapsed();
        let inputs = self.inputs()?;
        let start = Instant::now();
        if !self.settings.interpret {
            self.executable(&inputs)?;
        }
        Ok(optimizing + start.elapsed())
    }

    fn compile(&self, inputs: &Inputs, keep_text: bool) -> Result<Executable> {
        let optimized = self.optimized()?;
        self.engine.shared.compilations.fetch_add(1, Ordering::Relaxed);
        let options = CompileOptions { threads: self.settings.threads, keep_text, ..CompileOptions::default() };
        let executable = Executable::compile(Arc::new(optimized.0.clone()), inputs, &options);
        let executable = executable.map_err(|e| Error::from_ir(e, &optimized.0))?;
        self.control.add(|costs| costs.compile += executable.compile_time());
        Ok(executable)
    }

    fn resources(&self) -> Resources {
        let mut resources = Resources::new(self.engine.pool(), self.settings.memory_limit);
        resources.cancel = self.control.token().clone();
        if let Some(rows) = self.settings.morsel_rows {
            resources.morsel_rows = rows;
        }
        resources
    }

    /// Runs the query; its rows come batch by batch.
    ///
    /// ```
    /// let engine = flare::Engine::new();
    /// let rows = engine.sql("SELECT * FROM (VALUES (1), (2)) AS v(n)")?.stream()?;
    /// assert_eq!(rows.total(), 2);
    /// for batch in rows {
    ///     assert_eq!(batch?.num_columns(), 1);
    /// }
    /// # Ok::<(), flare::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Query::columns`].
    pub fn stream(&self) -> Result<Rows> {
        let (schema, table) = match &self.state {
            State::Program { .. } => (self.schema()?, self.rows_of(&self.run(true)?)?),
            State::Done { schema, rows, .. } => match rows {
                Some(rows) => (schema.clone(), columns_of(schema, rows)?),
                None => (schema.clone(), Arc::new(Columns::new(vec![], 0))),
            },
        };
        Ok(Rows { schema, table, next: 0, batch_rows: self.settings.batch_rows.max(1) })
    }

    /// Runs the query; all its rows. There is one batch at least for a query, so that there is a schema.
    ///
    /// # Errors
    /// As for [`Query::columns`].
    pub fn collect(&self) -> Result<Vec<RecordBatch>> {
        let rows = self.stream()?;
        let schema = rows.schema().clone();
        let batch = |i: usize| {
            let begin = i * rows.batch_rows;
            result::batch(&schema, &rows.table, begin..(begin + rows.batch_rows).min(rows.table.rows()))
        };
        let made = self.engine.pool().map(rows.table.rows().div_ceil(rows.batch_rows), |i, _| Ok(batch(i)));
        let made = made.map_err(|trap| Error::Bug(trap.to_string()))?;
        let mut batches = made.into_iter().collect::<Result<Vec<RecordBatch>>>()?;
        if batches.is_empty() && !schema.fields().is_empty() {
            batches.push(RecordBatch::new_empty(schema));
        }
        Ok(batches)
    }

    /// The program at a level, as text.
    ///
    /// ```
    /// use flare::{Engine, Level};
    ///
    /// let engine = Engine::new();
    /// engine.sql("CREATE TABLE t AS SELECT * FROM (VALUES (1), (2)) AS v(n)")?;
    /// let query = engine.sql("SELECT n + 1 FROM t")?;
    /// assert!(query.explain(Level::Graph)?.contains("add"));
    /// assert!(query.explain(Level::Plan)?.contains("scan"));
    /// # Ok::<(), flare::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Query::program`]; [`Error::Unsupported`] for a level that this build does not print.
    pub fn explain(&self, level: Level) -> Result<String> {
        let optimized = self.optimized()?;
        if level == Level::Graph {
            let mut out = optimized.0.print_short();
            for (pass, note) in optimized.1.notes() {
                out += &format!("-- {pass}: {}\n", note.text);
            }
            let mut has_models = false;
            rewrite::reachable_nodes(&optimized.0, |_, node| has_models |= matches!(node.op, Op::Bridge(_)));
            if has_models {
                for note in &self.executable(&self.inputs()?)?.plan().notes {
                    out += &format!("-- plan: {note}\n");
                }
            }
            return Ok(out);
        }
        let executable = self.compile(&self.inputs()?, matches!(level, Level::Clif | Level::Asm))?;
        let texts = |pick: fn(&ir::codegen::FunctionText) -> &str| -> String {
            executable.module().ids().map(|id| pick(executable.code().text(id)).to_owned() + "\n").collect()
        };
        Ok(match level {
            Level::Graph | Level::Plan => executable.plan().to_string(),
            Level::Kernel => executable.module().to_string(),
            Level::Clif => texts(|t| &t.backend),
            Level::Asm => texts(|t| &t.assembly),
        })
    }

    /// Runs the query and tells what it took.
    fn explain_analyze(&self, level: Option<Level>) -> Result<String> {
        let start = Instant::now();
        let inputs = self.inputs()?;
        let loaded = start.elapsed();
        let executable = self.executable(&inputs)?;
        let compiled = start.elapsed();
        let timed = executable.run_timed(&inputs, &self.resources());
        let (outputs, stages) = timed.map_err(|e| Error::from_ir(e, executable.program()))?;
        let took = start.elapsed();
        let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
        let rows = outputs.table(0).map_or(0, |t| t.rows());
        let mut out = format!(
            "{rows} rows in {:.3} ms: load {:.3}, plan and compile {:.3}, run {:.3}\n",
            ms(took),
            ms(loaded),
            ms(compiled - loaded),
            ms(took - compiled)
        );
        for s in executable.code().stats() {
            out += &format!("compiled {} in {:.3} ms: {} bytes\n", s.name, ms(s.time), s.code_bytes);
        }
        for s in &stages {
            let name = s.stage.replace("\n    ", " | ");
            out += &format!("{:>10.3} ms {:>10} rows  {name}\n", ms(s.time), s.rows);
        }
        if let Some(level) = level {
            out += &self.explain(level)?;
        }
        Ok(out)
    }

    /// A token that stops the query from another thread.
    pub fn cancel_token(&self) -> CancelToken {
        self.control.token().clone()
    }
}

/// Rows of our own as columns of the runtime.
fn columns_of(schema: &SchemaRef, rows: &RecordBatch) -> Result<Arc<Columns>> {
    let table = Table::from_batches("", schema, std::slice::from_ref(rows))?;
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    let names = schema.fields().iter().map(|f| f.name().clone());
    Ok(Arc::new(Columns::new(names.zip(table.load(&all, 1)?).collect(), rows.num_rows())))
}

fn type_of(v: &Value) -> ScalarType {
    match v {
        Value::Bool(_) => ScalarType::Bool,
        Value::I32(_) => ScalarType::I32,
        Value::I64(_) => ScalarType::I64,
        Value::F32(_) => ScalarType::F32,
        Value::F64(_) => ScalarType::F64,
        Value::Decimal(_) => ScalarType::Decimal { precision: 38, scale: 0 },
        Value::Date(_) => ScalarType::Date,
        Value::Timestamp(_) => ScalarType::Timestamp,
        Value::Null | Value::Text(_) => ScalarType::Text,
    }
}

fn parameter_value(i: usize, v: &Value, to: ScalarType) -> Result<Value> {
    let from = type_of(v);
    if v.fits(to) && !matches!(v, Value::Decimal(_)) {
        return Ok(v.clone());
    }
    let cast = ir::scalar::eval(ir::scalar::ScalarOp::Cast(to), std::slice::from_ref(v), &[from], to);
    cast.map_err(|e| Error::meaning(format!("parameter ${}: {e}", i + 1)))
}

impl Rows {
    /// The names and types of the columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Number of rows, those already read included.
    pub fn total(&self) -> usize {
        self.table.rows()
    }
}

impl Iterator for Rows {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.table.rows() {
            return None;
        }
        let rows = self.next..(self.next + self.batch_rows).min(self.table.rows());
        self.next = rows.end;
        Some(result::batch(&self.schema, &self.table, rows))
    }
}
