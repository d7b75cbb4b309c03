//! CREATE MODEL: from rows to weights in one program.

use std::time::Instant;

use ir::entity::ColumnId;
use ir::graph::bridge::TensorColumns;
use ir::graph::{BridgeOp, Builder, Op, Program};
use ir::types::ScalarType;
use ir::value::{TensorData, TensorValue, Value};
use lantern::nn::{self, Activation};
use lantern::{Batches, Fit, Optimizer, Params, Scope, Tensor};

use crate::error::{Error, Result};
use crate::model::{Epoch, Label, Model, Network};
use crate::session::Run;
use crate::sql::{CreateModel, Literal, ModelOptions, Rendered, Span, TransformKind};
use crate::transform::{self, Feature, Item, Rows, counts, literal, number, quoted};

/// Passes over the rows, where nothing is said.
const MAX_ITERATIONS: i64 = 20;
const BATCH_SIZE: i64 = 1024;
/// The step size, where nothing is said; a model without hidden layers takes ten times this.
const LEARN_RATE: f64 = 0.001;
/// An epoch that lowers the loss by less than this share ends the training early.
const LEAST_PROGRESS: f64 = 0.01;
const EVAL_FRACTION: f64 = 0.2;
/// `auto_split`: no held-out rows below the first number, a fifth up to the second, then so many rows.
const AUTO_SPLIT: (usize, usize, f64) = (500, 50_000, 10_000.0);

/// Trains a model over the rows of `query`, in which calls of model functions were replaced.
pub(crate) fn create(statement: &CreateModel, query: &Rendered, function: String, run: &Run<'_>) -> Result<Model> {
    let options = &statement.options;
    let at = statement.name.span;
    let kind = options.word("model_type").unwrap_or_default();
    let classifies = matches!(kind.as_str(), "dnn_classifier" | "logistic_reg");
    let is_deep = kind.starts_with("dnn");
    let whole = run.query(&query.text).map_err(|error| Error::from_engine(error, query))?;
    let source = transform::schema(&whole)?;
    let base = format!("({}\n)", query.text);

    let label_name = match options.texts("input_label_cols").as_deref() {
        None => "label".to_string(),
        Some([one]) => (*one).to_string(),
        Some(_) => {
            let span = options.get("input_label_cols").map(|o| o.value_span);
            return Err(Error::unsupported("a model with several labels", span));
        }
    };
    let label_span = options.get("input_label_cols").map_or(at, |o| o.value_span);
    let split_col = options.text("data_split_col").map(str::to_string);
    let (mut items, mut label_sql, mut split_sql) = (vec![], None, None);
    let whole_column = |name: &str, functions| Item { name: name.into(), sql: quoted(name), span: at, functions };
    match &statement.transform {
        None => {
            for (name, ty) in &source {
                use crate::sql::FeatureFunction::StandardScaler;
                let scaled = if ty.is_numeric() { vec![StandardScaler] } else { vec![] };
                items.push(whole_column(name, scaled));
            }
        }
        Some(list) => {
            for item in list {
                match &item.kind {
                    TransformKind::Wildcard { except } => {
                        for name in except {
                            let names: Vec<&str> = source.iter().map(|s| s.0.as_str()).collect();
                            known(&name.value, &names, name.span)?;
                        }
                        let listed = source.iter().filter(|(n, _)| except.iter().all(|e| e.value != *n));
                        items.extend(listed.map(|(n, _)| whole_column(n, vec![])));
                    }
                    TransformKind::Column { name, value } => items.push(Item::new(&name.value, value)),
                }
            }
        }
    }
    let mut take = |wanted: &str, span: Span| -> Result<String> {
        if let Some(i) = items.iter().position(|i| i.name.eq_ignore_ascii_case(wanted)) {
            let item = items.remove(i);
            if statement.transform.is_some() && !item.functions.is_empty() {
                return Err(Error::model(format!("'{wanted}' is no feature and takes no ML function"), item.span));
            }
            return Ok(item.sql);
        }
        let names: Vec<&str> = source.iter().map(|s| s.0.as_str()).collect();
        Ok(quoted(known(wanted, &names, span)?))
    };
    label_sql.replace(take(&label_name, label_span)?);
    if let Some(column) = &split_col {
        let span = options.get("data_split_col").map_or(at, |o| o.value_span);
        split_sql.replace(take(column, span)?);
    }
    let label_sql = label_sql.unwrap_or_default();
    if items.is_empty() {
        return Err(Error::model("no column is left as a feature", at));
    }
    let types = item_types(&items, &label_sql, split_sql.as_deref(), &base, run, label_span)?;
    let label_type = types[items.len()];

    let (base, held_out) = split(options, &base, split_sql.as_deref(), types.get(items.len() + 1).copied(), run)?;
    let train = held_out.as_ref().map_or("TRUE".to_string(), |eval| format!("NOT {eval}"));
    let rows = Rows { table: &base, condition: &train };
    let typed: Vec<(Item, ScalarType)> = items.into_iter().zip(types).collect();
    let features = transform::features(typed, &rows, run)?;

    let label = label(&label_sql, label_type, classifies, &label_name, label_span, &rows, run)?;
    let inputs = inputs_of(&features, &source);
    let width: usize = features.iter().map(|f| f.columns().map(|c| c.len())).sum::<Result<usize>>()?;
    let mut sizes = vec![width];
    match options.sizes("hidden_units") {
        Some(units) if is_deep => sizes.extend(units),
        None if is_deep => {
            let why = "it says how many layers the network has, and how wide they are".to_string();
            return Err(crate::SqlError::MissingOption { name: "hidden_units", why, span: at }.into());
        }
        Some(_) => {
            let span = options.get("hidden_units").map(|o| o.name_span);
            return Err(Error::model(format!("a {kind} has no hidden layers"), span));
        }
        None => {}
    }
    sizes.push(match &label {
        Label::Classes(classes) if classes.len() > 2 => classes.len(),
        _ => 1,
    });
    let activation = options.word("activation_fn").and_then(|n| Activation::by_name(&n)).unwrap_or_default();
    let network = Network { sizes, activation };
    let seed = options.integer("seed").map_or(run.settings.seed, |s| s as u64);

    let mut model = Model {
        name: statement.name.value.clone(),
        kind,
        options: options.given.iter().map(|o| (o.name.to_string(), printed(&o.value))).collect(),
        label_name,
        label,
        label_sql,
        features,
        inputs,
        params: Params::mlp(ScalarType::F32, &network.sizes, seed)?,
        network,
        epochs: vec![],
        rows: 0,
        held_out: None,
        function,
    };
    let rate = if is_deep { LEARN_RATE } else { LEARN_RATE * 10.0 };
    let rate = options.number("learn_rate").unwrap_or(rate);
    let epochs = options.integer("max_iterations").unwrap_or(MAX_ITERATIONS) as usize;
    let batches = Batches {
        size: options.integer("batch_size").unwrap_or(BATCH_SIZE) as usize,
        epochs,
        shuffle: Some(seed),
        drop_last: false,
        early_stop: options.bool("early_stop").unwrap_or(true).then_some(LEAST_PROGRESS),
    };
    let optimizer = match options.word("optimizer").as_deref() {
        Some("sgd") => Optimizer::sgd(rate),
        Some("momentum") => Optimizer::momentum(rate, 0.9),
        _ => Optimizer::adam(rate),
    };
    if let Some(path) = options.text("path") {
        let span = options.get("path").map_or(at, |o| o.value_span);
        model.params = crate::store::weights(path, &model.params, span)?;
    } else {
        fit(&mut model, &Fit { batches, optimizer }, &rows, run)?;
    }
    if let Some(eval) = &held_out {
        let names: Vec<String> = source.iter().map(|(n, _)| quoted(n)).collect();
        let held = Rows { table: &base, condition: eval }.select(&names.join(", "), "");
        model.held_out = Some(run.columns(&held)?);
    }
    Ok(model)
}

/// Trains: one program from the query's tables to the weights.
fn fit(model: &mut Model, fit: &Fit, rows: &Rows<'_>, run: &Run<'_>) -> Result<()> {
    let start = Instant::now();
    let query = run.query(&rows.select(&feature_list(model, true)?, ""));
    let query = query.map_err(|error| Error::Engine { error, span: None })?;
    let engine = |error| Error::Engine { error, span: None };
    let program = training_program(query.program().map_err(engine)?.clone(), model, fit)?;
    let outputs = run.program(program, &query.inputs().map_err(engine)?)?;
    let tensor = |i: usize| {
        outputs.tensor(i).map(|t| (**t).clone()).ok_or_else(|| Error::model("the training gave no weights", None))
    };
    let count = model.params.len();
    let trained: Vec<TensorValue> = (0..count).map(tensor).collect::<Result<_>>()?;
    let losses = match tensor(count)?.data {
        TensorData::F32(v) => v.into_iter().map(f64::from).collect(),
        TensorData::F64(v) => v,
        _ => vec![],
    };
    if let TensorData::I64(n) = tensor(count + 1)?.data {
        model.rows = n.first().copied().unwrap_or(0) as usize;
    }
    if model.rows == 0 {
        return Err(Error::model("there are no training rows", None));
    }
    // Passes that an early stop left out have NaN, behind the others.
    let ran = losses.iter().rposition(|l: &f64| !l.is_nan()).map_or(0, |last| last + 1);
    let finite = |v: &TensorValue| match &v.data {
        TensorData::F32(v) => v.iter().all(|x| x.is_finite()),
        _ => true,
    };
    if ran == 0 || !losses[..ran].iter().all(|l| l.is_finite()) || !trained.iter().all(finite) {
        return Err(Error::Model {
            message: "the loss left the range of numbers".into(),
            help: Some("lower learn_rate, or scale the features".into()),
            span: None,
        });
    }
    let unit = if let Label::Number { scale, .. } = &model.label { scale * scale } else { 1.0 };
    let duration_ms = start.elapsed().as_secs_f64() * 1e3 / ran as f64;
    model.epochs = losses[..ran].iter().map(|l| Epoch { loss: l * unit, duration_ms }).collect();
    model.params.update(trained)?;
    Ok(())
}

/// The columns of the features, and behind them the label as the loss takes it.
pub(crate) fn feature_list(model: &Model, training: bool) -> Result<String> {
    let mut list = vec![];
    for feature in &model.features {
        for (i, column) in feature.columns()?.into_iter().enumerate() {
            list.push(format!("{column} AS {}", quoted(&format!("{}.{i}", feature.name))));
        }
    }
    list.push(format!("{} AS {}", target(model, training)?, quoted(&format!("{}.label", model.label_name))));
    Ok(list.join(", "))
}

/// The label as a number: a class's index, or the distance from the mean. A class that training did not see is an error of
/// training, and -1 where a model is evaluated.
fn target(model: &Model, training: bool) -> Result<String> {
    let sql = &model.label_sql;
    match &model.label {
        Label::Classes(classes) => {
            let cases: Vec<String> = classes
                .iter()
                .enumerate()
                .map(|(i, v)| Ok(format!("WHEN {sql} = {} THEN {i}", literal(v)?)))
                .collect::<Result<_>>()?;
            let unknown = if training { String::new() } else { format!("WHEN {sql} IS NOT NULL THEN -1") };
            Ok(format!("CASE {} {unknown} END", cases.join(" ")))
        }
        Label::Number { mean, scale } if training => {
            Ok(format!("((CAST({sql} AS DOUBLE) - {}) / {})", number(*mean), number(*scale)))
        }
        Label::Number { .. } => Ok(format!("CAST({sql} AS DOUBLE)")),
    }
}

/// Reopens a query's program, whose result becomes the tensors of features and label. `finish` records what follows and gives
/// the program's results with their names.
pub(crate) fn continue_query(
    program: Program,
    model: &Model,
    label: ScalarType,
    flat: bool,
    finish: impl FnOnce(&Scope, &Tensor, &Tensor) -> Vec<(String, Tensor)>,
) -> Result<Program> {
    let bug = |message: &str| Error::Program(ir::Error::Bug(message.into()));
    let entry = program.entry.ok_or_else(|| bug("a query without an entry"))?;
    let region = program.entry_region().ok_or_else(|| bug("a query without a body"))?;
    let table = *region.results.first().ok_or_else(|| bug("a query without a result"))?;
    let columns: Vec<ColumnId> = match program.ty(table).as_table() {
        Some(t) => t.columns.iter().map(|c| c.id).collect(),
        None => return Err(bug("a query whose result is no table")),
    };
    let (target, features) = columns.split_last().ok_or_else(|| bug("a query without columns"))?;
    let mut b = Builder::over(program);
    let names = model.features.iter().map(|f| Ok((f.name.clone(), f.columns()?.len())));
    let names: Vec<(String, usize)> = names.collect::<Result<_>>()?;
    let names = names.iter().flat_map(|(name, n)| std::iter::repeat_n(name.clone(), *n));
    let label_name = std::iter::once(model.label_name.clone());
    // An error about a NULL names the feature.
    for (id, name) in columns.iter().zip(names.chain(label_name)) {
        b.program_mut().columns[id.index()].name = name;
    }
    b.begin_declared(entry);
    let rows = b.program_mut().new_symbol("rows");
    let groups = vec![
        TensorColumns { columns: features.to_vec(), dtype: ScalarType::F32, flat: false },
        TensorColumns { columns: vec![*target], dtype: label, flat },
    ];
    let tensors = b.push(Op::Bridge(BridgeOp::ToTensor { rows, groups }), &[table], &[])?;
    let results = Scope::within(&mut b, |scope| {
        let mut out = finish(scope, &scope.tensor(tensors[0]), &scope.tensor(tensors[1]));
        out.push(("rows".into(), scope.size(&scope.tensor(tensors[1]).dim(0))));
        out.into_iter().map(|(name, t)| (name, t.value())).collect::<Vec<_>>()
    })?;
    let values: Option<Vec<_>> = results.iter().map(|r| r.1).collect();
    let values = values.ok_or_else(|| bug("an operation failed without an error"))?;
    b.end_entry(entry, &values);
    let mut program = b.finish();
    program.result_names = results.into_iter().map(|r| vec![r.0]).collect();
    program.verify()?;
    Ok(program)
}

fn training_program(program: Program, model: &Model, fit: &Fit) -> Result<Program> {
    let many = matches!(&model.label, Label::Classes(c) if c.len() > 2);
    let label = if many { ScalarType::I64 } else { ScalarType::F32 };
    let names = nn::mlp_names(&model.network.sizes);
    continue_query(program, model, label, many, |scope, x, y| {
        let first = Network::constants(scope, &model.params);
        let trained = scope.fit(fit, &[x.clone(), y.clone()], &first, |batch, params| {
            model.network.loss(&model.label, &batch[0], &batch[1], params)
        });
        let mut out: Vec<(String, Tensor)> = names.into_iter().zip(trained.params).collect();
        out.push(("loss".into(), trained.losses));
        out
    })
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

/// The types of the items, the label and the split column.
fn item_types(
    items: &[Item],
    label: &str,
    split: Option<&str>,
    base: &str,
    run: &Run<'_>,
    label_span: Span,
) -> Result<Vec<ScalarType>> {
    let mut list: Vec<(&str, Span)> = items.iter().map(|i| (i.sql.as_str(), i.span)).collect();
    list.push((label, label_span));
    list.extend(split.map(|s| (s, label_span)));
    let select = |list: &[(&str, Span)]| {
        let columns: Vec<String> = list.iter().enumerate().map(|(i, c)| format!("{} AS c{i}", c.0)).collect();
        format!("SELECT {} FROM {base} AS input", columns.join(", "))
    };
    match run.query(&select(&list)) {
        Ok(query) => Ok(transform::schema(&query)?.into_iter().map(|c| c.1).collect()),
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
fn label(
    sql: &str,
    ty: ScalarType,
    classifies: bool,
    name: &str,
    span: Span,
    rows: &Rows<'_>,
    run: &Run<'_>,
) -> Result<Label> {
    if !classifies {
        if !ty.is_numeric() {
            return Err(Error::model(format!("the label '{name}' is {ty}; a regression predicts numbers"), span));
        }
        let x = format!("CAST({sql} AS DOUBLE)");
        let found = run.columns(&rows.select(&format!("avg({x}), stddev_pop({x})"), ""))?;
        let value = |i: usize| found.column(i).get_f64(0).filter(|v| v.is_finite());
        return match (value(0), value(1)) {
            (Some(mean), Some(deviation)) => {
                Ok(Label::Number { mean, scale: if deviation == 0.0 { 1.0 } else { deviation } })
            }
            _ => Err(Error::model(format!("the training rows have no number for the label '{name}'"), span)),
        };
    }
    if !matches!(ty, ScalarType::Bool | ScalarType::I32 | ScalarType::I64 | ScalarType::Text) {
        let message = format!("the label '{name}' is {ty}; classes are booleans, whole numbers or texts");
        return Err(Error::model(message, span));
    }
    let classes: Vec<Value> = counts(sql, rows, run)?.into_iter().map(|c| c.0).collect();
    if classes.len() < 2 {
        let message = format!("the label '{name}' has {} class in the training rows; it takes two", classes.len());
        return Err(Error::model(message, span));
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
    let all = Rows { table: base, condition: "TRUE" };
    let count = || -> Result<usize> {
        Ok(run.columns(&all.select("count(*)", ""))?.column(0).get_i64(0).unwrap_or(0) as usize)
    };
    let fraction = options.number("data_split_eval_fraction").unwrap_or(EVAL_FRACTION);
    let seed = options.integer("seed").map_or(run.settings.seed, |s| s as u64);
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

/// The columns of the query that features read.
fn inputs_of(features: &[Feature], source: &[(String, ScalarType)]) -> Vec<(String, ScalarType)> {
    let reads = |name: &str| {
        features.iter().any(|f| {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            f.sql
                .match_indices(name)
                .any(|(at, _)| !f.sql[..at].ends_with(word) && !f.sql[at + name.len()..].starts_with(word))
        })
    };
    source.iter().filter(|(name, _)| reads(name)).cloned().collect()
}

fn printed(value: &Literal) -> String {
    match value {
        Literal::Text(text) => format!("'{text}'"),
        Literal::Number(number) => number.to_string(),
        Literal::Bool(b) => b.to_string(),
        Literal::Array(items) => format!("[{}]", items.iter().map(printed).collect::<Vec<_>>().join(", ")),
    }
}
