//! CREATE MODEL: from rows to weights in one program.

use ir::entity::{ColumnId, ValueId};
use ir::exec::Inputs;
use ir::graph::bridge::TensorColumns;
use ir::graph::{BridgeOp, Builder, Op, Program, RelOp};
use ir::scalar::ScalarOp;
use ir::types::ScalarType;
use ir::value::{TensorData, TensorValue, Value};
use lantern::nn::Activation;
use lantern::{Batches, Fit, Optimizer, Params, Scope, Tensor, Trained};

use crate::codes::TrainingColumns;
use crate::error::{Error, Result};
use crate::features::Features;
use crate::model::{Epoch, Label, Model, Network};
use crate::run::Run;
use crate::session::Precision;
use crate::sql::{CreateModel, FeatureFunction, Literal, ModelOptions, Rendered, Span, TransformKind};
use crate::transform::{self, Item, Rows, Survey, counts, literal, number, quoted};

/// Passes over the rows, where nothing is said.
const MAX_ITERATIONS: i64 = 20;
const BATCH_SIZE: i64 = 1024;
/// The step size, where nothing is said; a model without hidden layers takes ten times this.
const LEARN_RATE: f64 = 0.001;
/// With `early_stop`, an epoch that lowers the loss by no more than this share of the epoch's before is the last one. The value
/// of BigQuery ML's `min_rel_progress`.
const LEAST_PROGRESS: f64 = 0.01;
const EVAL_FRACTION: f64 = 0.2;
/// `auto_split`: no held-out rows below the first number, a fifth up to the second, then so many rows.
const AUTO_SPLIT: (usize, usize, f64) = (500, 50_000, 10_000.0);

/// A model that is ready to be trained: its features have their statistics, its weights their first values.
pub(crate) struct Training {
    model: Model,
    /// None where the weights were read.
    program: Option<(Program, Inputs)>,
}

/// What CREATE MODEL comes to over the rows of `query`, in which calls of model functions were replaced.
pub(crate) fn prepare(statement: &CreateModel, query: &Rendered, number: u64, run: &Run<'_>) -> Result<Training> {
    let options = &statement.options;
    let at = statement.name.span;
    let kind = Kind::of(options, at)?;
    let whole = run.query(&query.text).map_err(|error| Error::from_engine(error, query))?;
    let source = transform::schema(&whole)?;
    let base = format!("({}\n)", query.text);
    let roles = Roles::of(statement, &source)?;
    let types = item_types(&roles, &base, run)?;
    let (base, held_out) = split(options, &base, roles.split_sql.as_deref(), types.split, run)?;
    let survey = Survey::of(&base, held_out.as_deref().unwrap_or("FALSE"), &counted(&roles, &types, &kind), run)?;
    if survey.training == 0 {
        return Err(Error::model("there are no training rows", at));
    }
    let held_out = held_out.filter(|_| survey.held_out > 0);
    let train = held_out.as_ref().map_or("TRUE".to_string(), |eval| format!("NOT {eval}"));
    let rows = Rows { table: &base, condition: &train, survey: &survey };
    let features = transform::features(roles.items.into_iter().zip(types.items).collect(), &rows, run)?;
    let mut columns = vec![];
    for feature in &features {
        columns.extend(feature.columns()?);
    }
    let recorded = Features::record(&columns, &source)?;
    if recorded.inputs().is_empty() {
        return Err(Error::model("no feature reads a column", at));
    }
    let mut label = label(&roles.label, types.label, &kind, &rows, run)?;
    if let (Label::Number { mean, scale }, Some(_)) = (&mut label, options.get("path")) {
        // Weights from elsewhere give the number itself.
        (*mean, *scale) = (0.0, 1.0);
    }
    let Layers { sizes, activation } = layers(options, &kind, columns.len(), &label, at)?;
    let dtype = match run.settings.precision {
        Precision::Single => ScalarType::F32,
        Precision::Double => ScalarType::F64,
    };
    let seed = seed(options, run);
    let mut model = Model {
        name: statement.name.value.clone(),
        kind: kind.name.clone(),
        options: options.given.iter().map(|o| (o.name.to_string(), printed(&o.value))).collect(),
        label_name: roles.label.name,
        label,
        label_sql: roles.label.sql,
        features,
        recorded,
        params: Params::mlp(dtype, &sizes, seed)?,
        network: Network::Layers { sizes, activation, dtype },
        epochs: vec![],
        rows: 0,
        held_out: None,
        number,
    };
    if let Some(path) = options.text("path") {
        if let Some(eval) = &held_out {
            let names: Vec<String> = source.iter().map(|(n, _)| quoted(n)).collect();
            let rows = Rows { condition: eval, ..rows };
            model.held_out = Some(run.columns(&rows.select(&names.join(", "), ""))?);
        }
        let span = options.get("path").map_or(at, |o| o.value_span);
        model.params = crate::store::weights(path, &model.params, span)?;
        return Ok(Training { model, program: None });
    }
    let training_rows = usize::try_from(survey.training).unwrap_or(0);
    let base = Base { sql: &base, columns: source.len(), held_out: held_out.as_deref(), training_rows };
    let program = training_program(&model, &fit(options, &kind, seed), &base, run)?;
    Ok(Training { model, program: Some(program) })
}

/// The option `model_type`.
struct Kind {
    name: String,
    classifies: bool,
    is_deep: bool,
}

impl Kind {
    fn of(options: &ModelOptions, at: Span) -> Result<Kind> {
        let Some(name) = options.word("model_type") else {
            let why = "it says what is trained".to_string();
            return Err(crate::SqlError::MissingOption { name: "model_type", why, span: at }.into());
        };
        let classifies = matches!(name.as_str(), "dnn_classifier" | "logistic_reg");
        Ok(Kind { classifies, is_deep: name.starts_with("dnn"), name })
    }
}

/// What the columns of the query are for.
struct Roles {
    /// What becomes features.
    items: Vec<Item>,
    label: LabelColumn,
    /// `data_split_col`.
    split_sql: Option<String>,
}

/// `input_label_cols`.
struct LabelColumn {
    name: String,
    sql: String,
    span: Span,
}

impl Roles {
    fn of(statement: &CreateModel, source: &[(String, ScalarType)]) -> Result<Roles> {
        let options = &statement.options;
        let at = statement.name.span;
        let name = match options.texts("input_label_cols").as_deref() {
            None => "label".to_string(),
            Some([one]) => (*one).to_string(),
            Some(_) => {
                let span = options.get("input_label_cols").map(|o| o.value_span);
                return Err(Error::unsupported("a model with several labels", span));
            }
        };
        let span = options.get("input_label_cols").map_or(at, |o| o.value_span);
        let mut items = items(statement, source)?;
        let mut take = |wanted: &str, span: Span| -> Result<String> {
            if let Some(i) = items.iter().position(|i| i.name.eq_ignore_ascii_case(wanted)) {
                let item = items.remove(i);
                if statement.transform.is_some() && !item.functions.is_empty() {
                    let message = format!("'{wanted}' is no feature and takes no ML function");
                    return Err(Error::model(message, item.span));
                }
                return Ok(item.sql);
            }
            let names: Vec<&str> = source.iter().map(|s| s.0.as_str()).collect();
            Ok(quoted(known(wanted, &names, span)?))
        };
        let sql = take(&name, span)?;
        let split_span = options.get("data_split_col").map_or(at, |o| o.value_span);
        let split_sql = options.text("data_split_col").map(|column| take(column, split_span)).transpose()?;
        if items.is_empty() {
            return Err(Error::model("no column is left as a feature", at));
        }
        Ok(Roles { items, label: LabelColumn { name, sql, span }, split_sql })
    }
}

/// The items of TRANSFORM, or all columns; the label and the split column among them.
fn items(statement: &CreateModel, source: &[(String, ScalarType)]) -> Result<Vec<Item>> {
    let at = statement.name.span;
    let whole_column = |name: &str, functions| Item { name: name.into(), sql: quoted(name), span: at, functions };
    let Some(list) = &statement.transform else {
        let scaled = |ty: ScalarType| if ty.is_numeric() { vec![FeatureFunction::StandardScaler] } else { vec![] };
        return Ok(source.iter().map(|(name, ty)| whole_column(name, scaled(*ty))).collect());
    };
    let names: Vec<&str> = source.iter().map(|s| s.0.as_str()).collect();
    let mut items = vec![];
    for item in list {
        match &item.kind {
            TransformKind::Wildcard { except } => {
                for name in except {
                    known(&name.value, &names, name.span)?;
                }
                let listed = names.iter().filter(|n| except.iter().all(|e| e.value != **n));
                items.extend(listed.map(|n| whole_column(n, vec![])));
            }
            TransformKind::Column { name, value } => items.push(Item::new(&name.value, value)),
        }
    }
    Ok(items)
}

/// The expressions whose values are counted: categories, and the label of a classifier.
fn counted<'a>(roles: &'a Roles, types: &RoleTypes, kind: &Kind) -> Vec<(&'a str, ScalarType)> {
    let items = roles.items.iter().zip(&types.items).filter(|(item, ty)| item.is_counted(**ty));
    let mut keys: Vec<(&str, ScalarType)> = items.map(|(item, ty)| (item.sql.as_str(), *ty)).collect();
    if kind.classifies && transform::is_category(types.label) {
        keys.push((&roles.label.sql, types.label));
    }
    keys.sort_by_key(|key| key.0);
    keys.dedup();
    keys
}

/// What stands between features and answer.
struct Layers {
    /// Widths, first the number of features, last the number of outputs.
    sizes: Vec<usize>,
    activation: Activation,
}

fn layers(options: &ModelOptions, kind: &Kind, features: usize, label: &Label, at: Span) -> Result<Layers> {
    let Kind { name, is_deep, .. } = kind;
    let mut sizes = vec![features];
    match options.sizes("hidden_units") {
        Some(units) if *is_deep => sizes.extend(units),
        None if *is_deep => {
            let why = "it says how many layers the network has, and how wide they are".to_string();
            return Err(crate::SqlError::MissingOption { name: "hidden_units", why, span: at }.into());
        }
        Some(_) => {
            let span = options.get("hidden_units").map(|o| o.name_span);
            return Err(Error::model(format!("a {name} has no hidden layers"), span));
        }
        None => {}
    }
    if let (false, Some(option)) = (is_deep, options.get("activation_fn")) {
        return Err(Error::model(format!("a {name} has no hidden layers and no activation"), option.name_span));
    }
    sizes.push(match label {
        Label::Classes(classes) if classes.len() > 2 => classes.len(),
        _ => 1,
    });
    let activation = options.word("activation_fn").and_then(|n| Activation::by_name(&n)).unwrap_or_default();
    Ok(Layers { sizes, activation })
}

fn seed(options: &ModelOptions, run: &Run<'_>) -> u64 {
    options.integer("seed").map_or(run.settings.seed, |s| s as u64)
}

/// How the weights are found.
fn fit(options: &ModelOptions, kind: &Kind, seed: u64) -> Fit {
    let rate = if kind.is_deep { LEARN_RATE } else { LEARN_RATE * 10.0 };
    let rate = options.number("learn_rate").unwrap_or(rate);
    let batches = Batches {
        size: options.integer("batch_size").unwrap_or(BATCH_SIZE) as usize,
        epochs: options.integer("max_iterations").unwrap_or(MAX_ITERATIONS) as usize,
        shuffle: Some(seed),
        drop_last: false,
        early_stop: options.bool("early_stop").unwrap_or(true).then_some(LEAST_PROGRESS),
    };
    let optimizer = match options.word("optimizer").as_deref() {
        Some("sgd") => Optimizer::sgd(rate),
        Some("momentum") => Optimizer::momentum(rate, 0.9),
        _ => Optimizer::adam(rate),
    };
    Fit { batches, optimizer }
}

/// CREATE MODEL without a query: the model that the option `path` names, as it was exported.
pub(crate) fn read(statement: &CreateModel, number: u64) -> Result<Model> {
    let options = &statement.options;
    let path = options.get("path").map_or(statement.name.span, |o| o.value_span);
    let folder = std::path::Path::new(options.text("path").unwrap_or_default());
    if !folder.is_dir() {
        return Err(Error::Model {
            message: format!("{} is not the folder of an exported model", folder.display()),
            help: Some("for weights alone add AS and a query: its columns are the features".to_string()),
            span: Some(path),
        });
    }
    let model = crate::store::import(&statement.name, folder, number).map_err(|e| e.at(path))?;
    let other = options.given.iter().find(|o| !matches!(o.name, "path" | "model_type"));
    if let Some(span) = other.map(|o| o.name_span).or(statement.transform.as_ref().map(|_| statement.name.span)) {
        return Err(Error::model("an exported model has its own TRANSFORM and OPTIONS", span));
    }
    match options.word("model_type") {
        Some(kind) if kind != model.kind => {
            let span = options.get("model_type").map(|o| o.value_span);
            Err(Error::model(format!("the exported model is a {}", model.kind), span))
        }
        _ => Ok(model),
    }
}

impl Training {
    /// The program from the query's tables to the weights, and what it reads; none where the weights were read.
    pub(crate) fn program(&self) -> Option<&(Program, Inputs)> {
        self.program.as_ref()
    }

    /// Trains.
    pub(crate) fn run(self, run: &Run<'_>) -> Result<Model> {
        let Training { mut model, program } = self;
        let Some((program, inputs)) = program else { return Ok(model) };
        let ran = run.program(program, &inputs)?;
        let tensor = |i: usize| {
            ran.outputs
                .tensor(i)
                .map(|t| (**t).clone())
                .ok_or_else(|| Error::model("the training gave no weights", None))
        };
        let count = model.params.len();
        let trained: Vec<TensorValue> = (0..count).map(tensor).collect::<Result<_>>()?;
        let losses = doubles(tensor(count)?.data);
        if let TensorData::I64(n) = tensor(count + 1)?.data {
            model.rows = n.first().copied().unwrap_or(0) as usize;
        }
        // Behind the losses of the held-out rows come the rows themselves.
        model.held_out = ran.outputs.table(count + 3).cloned();
        let watched = if model.held_out.is_some() { doubles(tensor(count + 2)?.data) } else { vec![] };
        // Passes that an early stop left out have NaN, behind the others.
        let epochs = losses.iter().rposition(|l: &f64| !l.is_nan()).map_or(0, |last| last + 1);
        let finite = |v: &TensorValue| doubles(v.data.clone()).iter().all(|x| x.is_finite());
        if epochs == 0 || !losses[..epochs].iter().all(|l| l.is_finite()) || !trained.iter().all(finite) {
            return Err(Error::Model {
                message: "the loss left the range of numbers".into(),
                help: Some("lower learn_rate, or scale the features".into()),
                span: None,
            });
        }
        run.report_passes(losses.len(), model.rows, &losses[..epochs]);
        let unit = if let Label::Number { scale, .. } = &model.label { scale * scale } else { 1.0 };
        // The interpreter tells the time of all passes only.
        let mean = ran.took.as_secs_f64() * 1e3 / epochs as f64;
        let epoch = |(i, loss): (usize, &f64)| Epoch {
            loss: loss * unit,
            eval_loss: watched.get(i).map(|l| l * unit),
            duration_ms: ran.epochs.get(i).map_or(mean, |d| d.as_secs_f64() * 1e3),
        };
        model.epochs = losses[..epochs].iter().enumerate().map(epoch).collect();
        model.params.update(trained)?;
        Ok(model)
    }
}

fn doubles(data: TensorData) -> Vec<f64> {
    match data {
        TensorData::F32(v) => v.into_iter().map(f64::from).collect(),
        TensorData::F64(v) => v,
        TensorData::Bool(_) | TensorData::I32(_) | TensorData::I64(_) => vec![],
    }
}

/// The columns of the features, and behind them the label as the loss takes it. `unknown` is a condition: where it holds, a
/// class that training did not see is -1; elsewhere it is an error.
pub(crate) fn feature_list(model: &Model, unknown: &str) -> Result<String> {
    let mut list = vec![];
    for feature in &model.features {
        for (i, column) in feature.columns()?.into_iter().enumerate() {
            list.push(format!("{column} AS {}", quoted(&format!("{}.{i}", feature.name))));
        }
    }
    list.push(format!("{} AS {}", target(model, false, unknown)?, quoted(&format!("{}.label", model.label_name))));
    Ok(list.join(", "))
}

/// The label as a number: a class's index, or the number, for training as the distance from the mean.
fn target(model: &Model, scaled: bool, unknown: &str) -> Result<String> {
    let sql = &model.label_sql;
    match &model.label {
        Label::Classes(classes) => {
            let cases: Vec<String> = classes
                .iter()
                .enumerate()
                .map(|(i, v)| Ok(format!("WHEN {sql} = {} THEN {i}", literal(v)?)))
                .collect::<Result<_>>()?;
            Ok(format!("CASE {} WHEN {sql} IS NOT NULL AND {unknown} THEN -1 END", cases.join(" ")))
        }
        Label::Number { mean, scale } if scaled => {
            Ok(format!("((CAST({sql} AS DOUBLE) - {}) / {})", number(*mean), number(*scale)))
        }
        Label::Number { .. } => Ok(format!("CAST({sql} AS DOUBLE)")),
    }
}

/// A query's program, reopened: what follows becomes of its rows.
pub(crate) struct Continued {
    builder: Builder,
    entry: ir::entity::FuncId,
    /// The query's result.
    pub(crate) table: ValueId,
    /// Its columns.
    pub(crate) columns: Vec<ColumnId>,
    /// Their names in SQL.
    names: Vec<String>,
}

/// Some of the rows.
struct Part<'a> {
    /// The rows.
    rows: ValueId,
    /// Features and label.
    columns: &'a Features,
    /// Whose they are, as the user knows it.
    names: &'a [String],
    /// Leave rows out whose class is -1: one that training did not see.
    known_classes: bool,
}

/// Tensors of features and label.
type Tensors = Vec<ValueId>;

impl Continued {
    /// Reopens a program. `names` are those of its columns in errors about a NULL.
    pub(crate) fn new(program: Program, names: impl IntoIterator<Item = String>) -> Result<Continued> {
        let bug = |message: &str| Error::Program(ir::Error::Bug(message.into()));
        let entry = program.entry.ok_or_else(|| bug("a query without an entry"))?;
        let region = program.entry_region().ok_or_else(|| bug("a query without a body"))?;
        let table = *region.results.first().ok_or_else(|| bug("a query without a result"))?;
        let columns: Vec<ColumnId> = match program.ty(table).as_table() {
            Some(t) => t.columns.iter().map(|c| c.id).collect(),
            None => return Err(bug("a query whose result is no table")),
        };
        let shown = program.result_names.first().cloned().unwrap_or_default();
        let mut builder = Builder::over(program);
        for (id, name) in columns.iter().zip(names) {
            builder.program_mut().columns[id.index()].name = name;
        }
        builder.begin_declared(entry);
        Ok(Continued { builder, entry, table, columns, names: shown })
    }

    /// The columns that features read.
    fn given(&self, features: &Features) -> ir::Result<Vec<ColumnId>> {
        let column = |name: &str| self.names.iter().position(|n| n == name).and_then(|i| self.columns.get(i)).copied();
        let given = features.inputs().iter().map(|input| {
            column(&input.name).ok_or_else(|| ir::Error::Bug(format!("the query has no column {}", input.name)))
        });
        given.collect()
    }

    /// The rows of which a condition is true, or false.
    fn rows_where(&mut self, condition: &Features, wanted: bool) -> ir::Result<ValueId> {
        let given = self.given(condition)?;
        let (with_flag, flag) = condition.write(&mut self.builder, self.table, &given)?;
        self.builder.filter(with_flag, |b| {
            let flag = b.col(flag[0])?;
            if wanted { Ok(flag) } else { b.scalar(ScalarOp::Not, &[flag]) }
        })
    }

    /// Features and label of a part of the rows as tensors. Rows are chosen before their features are computed: where the query
    /// is a table, each part reads it for itself, and nothing is stored but the tensors.
    fn part(&mut self, part: &Part<'_>, dtype: ScalarType, label: (ScalarType, bool)) -> ir::Result<Tensors> {
        let given = self.given(part.columns)?;
        let (mut table, columns) = part.columns.write(&mut self.builder, part.rows, &given)?;
        for (id, name) in columns.iter().zip(part.names) {
            self.builder.program_mut().columns[id.index()].name = name.clone();
        }
        let (target, features) = columns.split_last().ok_or_else(|| ir::Error::Bug("no label".into()))?;
        if part.known_classes {
            table = self.builder.filter(table, |b| {
                let (class, ty) = (b.col(*target)?, b.program().columns[target.index()].ty);
                let zero = b.literal(if ty == ScalarType::I32 { Value::I32(0) } else { Value::I64(0) }, ty)?;
                b.scalar(ScalarOp::Ge, &[class, zero])
            })?;
        }
        let features = vec![TensorColumns { columns: features.to_vec(), dtype, flat: false }];
        self.tensors(table, features, (*target, label.0, label.1))
    }

    /// Features and label of these rows as tensors.
    pub(crate) fn tensors(
        &mut self,
        table: ValueId,
        features: Vec<TensorColumns>,
        label: (ColumnId, ScalarType, bool),
    ) -> ir::Result<Tensors> {
        let rows = self.builder.program_mut().new_symbol("rows");
        let mut groups = features;
        groups.push(TensorColumns { columns: vec![label.0], dtype: label.1, flat: label.2 });
        self.builder.push(Op::Bridge(BridgeOp::ToTensor { rows, groups }), &[table], &[])
    }

    /// Records what becomes of the tensors, and ends the program: its results are what `record` gives, with their names.
    pub(crate) fn finish(self, record: impl FnOnce(&Scope) -> Vec<(String, Tensor)>) -> Result<Program> {
        self.finish_with(None, record)
    }

    /// As `finish`, with a table and the names of its columns as the last result.
    fn finish_with(
        mut self,
        table: Option<(ValueId, Vec<String>)>,
        record: impl FnOnce(&Scope) -> Vec<(String, Tensor)>,
    ) -> Result<Program> {
        let results = Scope::within(&mut self.builder, |scope| {
            record(scope).into_iter().map(|(name, t)| (name, t.value())).collect::<Vec<_>>()
        })?;
        let values: Option<Vec<_>> = results.iter().map(|r| r.1).collect();
        let mut values = values.ok_or_else(|| ir::Error::Bug("an operation failed without an error".into()))?;
        let mut names: Vec<Vec<String>> = results.into_iter().map(|r| vec![r.0]).collect();
        if let Some((table, columns)) = table {
            values.push(table);
            names.push(columns);
        }
        self.builder.end_entry(self.entry, &values);
        let mut program = self.builder.finish();
        program.result_names = names;
        program.verify()?;
        Ok(program)
    }
}

/// Tensors of features, and the label behind them.
pub(crate) fn handles(scope: &Scope, tensors: &[ValueId]) -> Vec<Tensor> {
    tensors.iter().map(|v| scope.tensor(*v)).collect()
}

/// The names of the feature columns and of the label, each as the user knows it.
pub(crate) fn column_names(model: &Model) -> Result<Vec<String>> {
    let mut names = vec![];
    for feature in &model.features {
        names.extend(feature.columns()?.iter().map(|_| feature.name.clone()));
    }
    names.push(model.label_name.clone());
    Ok(names)
}

/// The rows that a model is made of.
struct Base<'a> {
    /// The query in parentheses.
    sql: &'a str,
    /// How many of its columns, from the first on, are the user's.
    columns: usize,
    /// The condition of held-out rows.
    held_out: Option<&'a str>,
    /// How many rows the others are.
    training_rows: usize,
}

/// One program from the query's tables to the weights, the losses, the number of rows and, with held-out rows, their losses and
/// the rows themselves: what the query stands for is computed once.
fn training_program(model: &Model, fit: &Fit, base: &Base<'_>, run: &Run<'_>) -> Result<(Program, Inputs)> {
    let engine = |error| Error::Engine { error, span: None };
    let Network::Layers { dtype, .. } = model.network else {
        return Err(Error::unsupported("training a function from elsewhere", None));
    };
    let label = match &model.label {
        Label::Classes(c) if c.len() > 2 => (ScalarType::I64, true),
        _ => (dtype, false),
    };
    let query = run.query(&format!("SELECT * FROM {} AS input", base.sql)).map_err(engine)?;
    let source = transform::schema(&query)?;
    let inputs = TrainingColumns::of(&model.features, base.training_rows, dtype)?;
    let columns = |unknown: &str| -> Result<Features> {
        let mut columns = inputs.sql.clone();
        columns.push(target(model, true, unknown)?);
        Features::record(&columns, &source)
    };
    let mut names = inputs.names.clone();
    names.push(model.label_name.clone());
    let mut program = Continued::new(query.program().map_err(engine)?.clone(), [])?;
    let train = columns("FALSE")?;
    let condition = base.held_out.map(|eval| Features::record(&[eval.to_string()], &source)).transpose()?;
    let rows = match &condition {
        None => program.table,
        Some(condition) => program.rows_where(condition, false)?,
    };
    let train = program.part(&Part { rows, columns: &train, names: &names, known_classes: false }, dtype, label)?;
    let (mut eval, mut held) = (None, None);
    if let Some(condition) = &condition {
        let kept = program.columns.get(..base.columns).unwrap_or(&program.columns).to_vec();
        let shown = program.names.iter().take(kept.len()).cloned().collect();
        let rows = program.rows_where(condition, true)?;
        let rows = program.builder.rel(RelOp::Project { columns: kept }, &[rows], &[])?;
        let known_classes = matches!(model.label, Label::Classes(_));
        let part = Part { rows, columns: &columns("TRUE")?, names: &names, known_classes };
        eval = Some(program.part(&part, dtype, label)?);
        held = Some((rows, shown));
    }
    let program = program.finish_with(held, |scope| {
        let first = Network::constants(scope, &model.params);
        let sources = handles(scope, &train);
        let loss = |batch: &[Tensor], params: &[Tensor]| match batch {
            [x, y] => model.network.loss(&model.label, &[inputs.dense(x)], y, params),
            _ => scope.constant(f64::NAN),
        };
        let Trained { params, losses, watched, .. } = match &eval {
            None => scope.fit(fit, &sources, &first, loss),
            Some(eval) => scope.fit_watching(fit, &sources, &handles(scope, eval), &first, loss),
        };
        let names = model.params.iter().map(|(name, _)| name.to_string());
        let mut out: Vec<(String, Tensor)> = names.zip(params).collect();
        out.push(("loss".into(), losses));
        out.push(("rows".into(), scope.size(&sources[0].dim(0))));
        out.extend(watched.map(|watched| ("eval_loss".into(), watched)));
        out
    })?;
    Ok((program, query.inputs().map_err(engine)?))
}

/// A name out of a list, or an error that suggests one.
fn known<'a>(name: &str, names: &[&'a str], span: Span) -> Result<&'a str> {
    if let Some(found) = names.iter().find(|n| n.eq_ignore_ascii_case(name)) {
        return Ok(found);
    }
    let help = match crate::sql::nearest(name, names) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("the query has {}", names.join(", ")),
    };
    Err(Error::Model { message: format!("the query has no column '{name}'"), help: Some(help), span: Some(span) })
}

/// Types of what [`Roles`] names.
struct RoleTypes {
    items: Vec<ScalarType>,
    label: ScalarType,
    split: Option<ScalarType>,
}

fn item_types(roles: &Roles, base: &str, run: &Run<'_>) -> Result<RoleTypes> {
    let mut list: Vec<(&str, Span)> = roles.items.iter().map(|i| (i.sql.as_str(), i.span)).collect();
    list.push((&roles.label.sql, roles.label.span));
    list.extend(roles.split_sql.iter().map(|s| (s.as_str(), roles.label.span)));
    let select = |list: &[(&str, Span)]| {
        let columns: Vec<String> = list.iter().enumerate().map(|(i, c)| format!("{} AS c{i}", c.0)).collect();
        format!("SELECT {} FROM {base} AS input", columns.join(", "))
    };
    match run.query(&select(&list)) {
        Ok(query) => {
            let mut items: Vec<ScalarType> = transform::schema(&query)?.into_iter().map(|c| c.1).collect();
            let split = roles.split_sql.as_ref().and_then(|_| items.pop());
            let label = items.pop().ok_or_else(|| Error::model("the query has no columns", None))?;
            Ok(RoleTypes { items, label, split })
        }
        Err(error) => {
            // Whichever fails alone is the one at fault.
            for one in &list {
                if let Err(error) = run.query(&select(&[*one])) {
                    return Err(Error::Engine { error, span: Some(one.1) });
                }
            }
            Err(Error::Engine { error, span: None })
        }
    }
}

/// What the model predicts, from the training rows.
fn label(column: &LabelColumn, ty: ScalarType, kind: &Kind, rows: &Rows<'_>, run: &Run<'_>) -> Result<Label> {
    let LabelColumn { name, sql, span } = column;
    if !kind.classifies {
        if !ty.is_numeric() {
            return Err(Error::model(format!("the label '{name}' is {ty}; a regression predicts numbers"), *span));
        }
        let x = format!("CAST({sql} AS DOUBLE)");
        let found = run.columns(&rows.select(&format!("avg({x}), stddev_pop({x})"), ""))?;
        let value = |i: usize| found.column(i).get_f64(0).filter(|v| v.is_finite());
        return match (value(0), value(1)) {
            (Some(mean), Some(deviation)) => {
                Ok(Label::Number { mean, scale: if deviation == 0.0 { 1.0 } else { deviation } })
            }
            _ => Err(Error::model(format!("the training rows have no number for the label '{name}'"), *span)),
        };
    }
    if !transform::is_category(ty) {
        let message = format!("the label '{name}' is {ty}; classes are booleans, whole numbers or texts");
        return Err(Error::model(message, *span));
    }
    let classes: Vec<Value> = counts(sql, rows, run)?.into_iter().map(|c| c.0).collect();
    if classes.len() < 2 {
        let message = format!("the label '{name}' has {} class in the training rows; it takes two", classes.len());
        return Err(Error::model(message, *span));
    }
    Ok(Label::Classes(classes))
}

/// The query with what the split needs, and the condition of held-out rows.
fn split(
    options: &ModelOptions,
    base: &str,
    column: Option<&str>,
    ty: Option<ScalarType>,
    run: &Run<'_>,
) -> Result<(String, Option<String>)> {
    let all = Rows { table: base, condition: "TRUE", survey: &Survey::default() };
    let count = || -> Result<usize> {
        Ok(run.columns(&all.select("count(*)", ""))?.column(0).get_i64(0).unwrap_or(0) as usize)
    };
    let fraction = options.number("data_split_eval_fraction").unwrap_or(EVAL_FRACTION);
    let seed = seed(options, run);
    let span = options.get("data_split_col").map(|o| o.value_span);
    match (options.word("data_split_method").as_deref(), column) {
        (Some("no_split"), _) => Ok((base.to_string(), None)),
        (Some("random"), _) => Ok(random(base, fraction, seed)),
        (Some("custom"), Some(column)) => {
            if ty != Some(ScalarType::Bool) {
                return Err(Error::model("data_split_col must be a boolean column", span));
            }
            Ok((base.to_string(), Some(format!("COALESCE({column}, FALSE)"))))
        }
        (Some("seq"), Some(column)) => {
            let counts = counts(column, &all, run)?;
            let total: u64 = counts.iter().map(|c| c.1).sum();
            let mut held = 0;
            let mut from = None;
            for (value, n) in counts.iter().rev() {
                held += n;
                if held as f64 > fraction * total as f64 {
                    break;
                }
                from = Some(value);
            }
            match from {
                Some(value) => {
                    Ok((base.to_string(), Some(format!("COALESCE({column} >= {}, FALSE)", literal(value)?))))
                }
                None => Ok((base.to_string(), None)),
            }
        }
        _ => match count()? {
            n if n < AUTO_SPLIT.0 => Ok((base.to_string(), None)),
            n if n <= AUTO_SPLIT.1 => Ok(random(base, EVAL_FRACTION, seed)),
            n => Ok(random(base, AUTO_SPLIT.2 / n as f64, seed)),
        },
    }
}

/// Each row is held out or not by its number and the seed alone.
fn random(base: &str, fraction: f64, seed: u64) -> (String, Option<String>) {
    // A row's number goes through two squarings modulo a prime below 2^31: no product overflows.
    const PRIME: i64 = 2_147_483_647;
    let offset = seed % PRIME as u64;
    let base = format!("(SELECT *, row_number() OVER () AS split_row_number FROM {base} AS numbered)");
    let mix = |x: &str, by: i64| format!("((({x}) * {by} + {offset}) % {PRIME})");
    let square = |x: String| format!("(({x} * {x}) % {PRIME})");
    let mixed = square(mix(&square(mix("split_row_number % 1000000007", 48_271)), 1_103));
    (base, Some(format!("({mixed} < {})", (fraction * PRIME as f64) as i64)))
}

fn printed(value: &Literal) -> String {
    match value {
        Literal::Text(text) => format!("'{text}'"),
        Literal::Number(number) => number.to_string(),
        Literal::Bool(b) => b.to_string(),
        Literal::Array(items) => format!("[{}]", items.iter().map(printed).collect::<Vec<_>>().join(", ")),
    }
}
