//! The end-to-end pipelines: from files to a trained model, or to an aggregate over predictions. The SQL is that of
//! `bench/peers/pipelines`, the results carry every key of `pipeline.py` there, and each is compared with values that
//! DuckDB and numpy computed (`bench/expected/pipelines.json`).
//!
//! What holds: a repetition begins with the files; compiled programs may be kept between repetitions, tables and
//! results may not. What is only there to be checked (the sum of the features, counts) runs outside the clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::tests::r#gen::Table;
use ::tests::oracle;
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};

use crate::data::{self, Format};
use crate::measure::{self, Bystanders, milliseconds, timed};
use crate::tpch::Run;
use crate::{Result, report};

/// Run an end-to-end pipeline and check its values. Relative paths count from the workspace root.
#[derive(Debug, Clone, Parser)]
pub struct Arguments {
    /// Which one.
    #[arg(long)]
    pub pipeline: Pipeline,
    /// The model that is trained or applied.
    #[arg(long, default_value = "mlp")]
    pub model: Model,
    /// Folder of the tables [default: made below target/bench-data].
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// p1, p2: copies of the flights, each a year later.
    #[arg(long, default_value_t = 1, conflicts_with = "data")]
    pub copies: u32,
    /// p3, p4: scale factor of TPC-H.
    #[arg(long, default_value_t = 1.0)]
    pub sf: f64,
    /// Kind of the files: parquet or csv.
    #[arg(long, default_value_t = Format::Parquet)]
    pub format: Format,
    /// Threads of the engine.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    pub threads: usize,
    /// Repetitions of the whole pipeline.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub reps: u32,
    /// File for the results.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// What cargo adds; of no effect.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// The four pipelines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pipeline {
    /// Flights: features, then training.
    P1,
    /// Flights: features, prediction with a given model, an aggregate.
    P2,
    /// TPC-H: features, prediction with a given model, an aggregate.
    P3,
    /// TPC-H: features, then training.
    P4,
}

/// The models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Model {
    /// Two hidden layers of 64, ReLU, two classes.
    Mlp,
    /// Logistic regression.
    Logreg,
    /// Linear regression.
    Linreg,
    /// Two hidden layers of 64, ReLU, a number.
    Mlpreg,
    /// 100 trees of depth 6.
    Gbt,
}

/// A system under measurement.
pub trait Host {
    /// Forgets all tables, models and results; compiled programs may stay.
    fn begin(&mut self) -> Result<()>;

    /// Makes the file of a table known under its name.
    fn table(&mut self, name: &str, file: &Path, format: Format) -> Result<()>;

    /// Runs a statement from its text to its whole result.
    fn run(&mut self, sql: &str) -> Result<Run>;
}

/// Runs the benchmark and writes its results. Returns whether every value that is checked is right.
pub fn run(arguments: &Arguments, host: &mut dyn Host) -> Result<bool> {
    let task = Task::new(arguments)?;
    let (folder, name) = input(arguments)?;
    let others = Bystanders::watch();
    let mut repetitions = Vec::new();
    for _ in 0..arguments.reps {
        repetitions.push(repeat(arguments, &task, &folder, host)?);
    }
    let other_cpus = others.busy();
    let peak = measure::peak_rss();

    let values = task.values(host, repetitions.last().ok_or("no repetition ran")?)?;
    let key = format!("{}/{}/{name}", value_name(arguments.pipeline), value_name(arguments.model));
    let (checks, right) = check(&expected(&key)?, &values);

    let best = repetitions.iter().min_by(|a, b| a.total.cmp(&b.total)).ok_or("no repetition ran")?;
    let total = |repetition: &Repetition| report::digits(milliseconds(repetition.total));
    let Value::Object(mut result) = measure::machine() else {
        return Err("the machine is described by an object".into());
    };
    let phases: Map<String, Value> = best
        .phases
        .iter()
        .map(|(phase, time)| ((*phase).to_owned(), json!(report::digits(milliseconds(*time)))))
        .collect();
    let fields = json!({
        "pipeline": value_name(arguments.pipeline),
        "stack": "flern",
        "ml": "flern",
        "model": value_name(arguments.model),
        "format": arguments.format.to_string(),
        "data": name,
        "threads": arguments.threads,
        "materialise": false,
        "csv_engine": null,
        "phases": phases,
        "total_ms": total(best),
        "first_total_ms": total(&repetitions[0]),
        "first_compile_ms": report::digits(milliseconds(repetitions[0].compile)),
        "reps": arguments.reps,
        "rep_totals": repetitions.iter().map(total).collect::<Vec<_>>(),
        "peak_rss_mb": (peak as f64 / 1024.0 / 1024.0 * 10.0).round() / 10.0,
        "other_cpus": other_cpus.map(report::digits),
        "checks": checks,
    });
    if let Value::Object(fields) = fields {
        result.extend(fields);
    }
    result.extend(values);
    let result = Value::Object(result);
    println!("{result}");
    if let Some(path) = &arguments.json {
        report::write_json(&data::from_root(path), &result)?;
    }
    Ok(right)
}

/// What one pipeline does with one model, as SQL.
#[derive(Debug)]
struct Task {
    tables: Vec<&'static str>,
    /// The feature query as it stands in `bench/peers/pipelines`.
    features: String,
    /// The scaled columns of the model's input, in its order.
    columns: Vec<&'static str>,
    /// Columns of categories with their numbers, each one-hot behind the scaled ones.
    categories: Vec<(&'static str, u32)>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// Trains by this statement; the column is the target, and whether it is a number.
    Train { statement: String, regression: bool },
    /// Makes the given model by the first statement, then answers the second. `predictions` is the table `preds` of
    /// the aggregate, which has the number of rows in one column and the sum in the other.
    Infer { model: String, answer: String, predictions: String, count: usize, sum: usize },
}

const FLIGHT_COLUMNS: [&str; 10] = [
    "f_dep_sin",
    "f_dep_cos",
    "f_distance",
    "f_temp",
    "f_wind",
    "f_visib",
    "f_plane_age",
    "f_prev_delay",
    "f_dest_lat",
    "f_dest_alt",
];

const LINE_COLUMNS: [&str; 12] = [
    "f_quantity",
    "f_extendedprice",
    "f_discount",
    "f_tax",
    "f_linenumber",
    "f_ship_days",
    "f_commit_days",
    "f_totalprice",
    "f_priority",
    "f_c_acctbal",
    "f_s_acctbal",
    "f_same_nation",
];

const TRAINING_LINE_COLUMNS: [&str; 12] = [
    "f_quantity",
    "f_discount",
    "f_tax",
    "f_linenumber",
    "f_ship_days",
    "f_commit_days",
    "f_totalprice",
    "f_priority",
    "f_size",
    "f_retailprice",
    "f_month",
    "f_year",
];

impl Task {
    fn new(arguments: &Arguments) -> Result<Task> {
        let (pipeline, model) = (arguments.pipeline, arguments.model);
        if model == Model::Gbt {
            return Err("gbt: tree ensembles are not supported yet".into());
        }
        let regression = matches!(model, Model::Linreg | Model::Mlpreg);
        let fits = match pipeline {
            Pipeline::P1 => !regression,
            Pipeline::P2 => model == Model::Mlp,
            Pipeline::P3 => !regression,
            Pipeline::P4 => true,
        };
        if !fits {
            return Err(format!("{} has no model {}", value_name(pipeline), value_name(model)).into());
        }
        let flights = matches!(pipeline, Pipeline::P1 | Pipeline::P2);
        let mut task = Task {
            tables: tables(pipeline).to_vec(),
            features: statement(match pipeline {
                Pipeline::P1 | Pipeline::P2 => "flights_features.sql",
                Pipeline::P3 => "tpch_infer_features.sql",
                Pipeline::P4 => "tpch_train_features.sql",
            })?,
            columns: match pipeline {
                Pipeline::P1 | Pipeline::P2 => FLIGHT_COLUMNS.to_vec(),
                Pipeline::P3 => LINE_COLUMNS.to_vec(),
                Pipeline::P4 => TRAINING_LINE_COLUMNS.to_vec(),
            },
            categories: if flights { vec![("carrier_id", 16), ("origin_id", 3)] } else { Vec::new() },
            work: Work::Train { statement: String::new(), regression },
        };
        task.work = match pipeline {
            Pipeline::P1 => task.train(model, "label", 3),
            Pipeline::P4 => task.train(model, if regression { "y_reg" } else { "y_cls" }, 1),
            Pipeline::P2 => task.infer(model, "p1_mlp", "flights_agg.sql", "carrier_id, month, label", (2, 4))?,
            Pipeline::P3 => {
                let weights = format!("p3_{}", value_name(model));
                task.infer(model, &weights, "tpch_infer_agg.sql", "nationkey, revenue", (1, 3))?
            }
        };
        Ok(task)
    }

    fn train(&self, model: Model, target: &str, epochs: u32) -> Work {
        let regression = matches!(model, Model::Linreg | Model::Mlpreg);
        let label = if regression { target.to_owned() } else { format!("{target} > 0.5") };
        let statement = format!(
            "CREATE OR REPLACE MODEL pipeline_model\n\
             TRANSFORM ({}, {label} AS y, split = 0 AS held_out)\n\
             OPTIONS (model_type = '{}', input_label_cols = ['y'], {}\
             optimizer = 'adam', learn_rate = 0.001, batch_size = 1024, max_iterations = {epochs}, early_stop = FALSE, \
             data_split_method = 'custom', data_split_col = 'held_out', seed = 7)\n\
             AS {}",
            self.inputs(),
            model_type(model),
            hidden(model),
            self.features
        );
        Work::Train { statement, regression }
    }

    fn infer(&self, model: Model, weights: &str, aggregate: &str, kept: &str, at: (usize, usize)) -> Result<Work> {
        let weights = folder().join(format!("models/{weights}.safetensors"));
        let predictions = format!(
            "SELECT {kept}, predicted_label_prob AS p FROM ML.PREDICT(MODEL pipeline_model, ({}))",
            self.features
        );
        Ok(Work::Infer {
            model: format!(
                "CREATE OR REPLACE MODEL pipeline_model\n\
                 TRANSFORM ({}, label)\n\
                 OPTIONS (model_type = '{}', input_label_cols = ['label'], {}data_split_method = 'no_split', path = '{}')\n\
                 AS {}",
                self.inputs(),
                model_type(model),
                hidden(model),
                weights.display().to_string().replace('\'', "''"),
                self.form()
            ),
            answer: format!("WITH preds AS ({predictions})\n{}", statement(aggregate)?),
            predictions,
            count: at.0,
            sum: at.1,
        })
    }

    /// A query with the columns and categories of the model's input and both classes, that reads no table: what a given
    /// model has to know besides its weights.
    fn form(&self) -> String {
        let columns = self.columns.iter().map(|column| format!("CAST(0 AS REAL) AS {column}"));
        let categories = self.categories.iter().map(|(column, n)| format!("CAST(k % {n} AS INTEGER) AS {column}"));
        let items: Vec<String> = columns.chain(categories).collect();
        let rows = self.categories.iter().map(|(_, n)| *n).max().unwrap_or(2);
        let rows: Vec<String> = (0..rows).map(|k| format!("({k})")).collect();
        format!("SELECT {}, k % 2 = 1 AS label FROM (VALUES {}) AS form(k)", items.join(", "), rows.join(", "))
    }

    /// The items of TRANSFORM that make the model's input, in the order of its weights.
    fn inputs(&self) -> String {
        let mut items: Vec<String> = self.columns.iter().map(|&column| column.to_owned()).collect();
        for (column, _) in &self.categories {
            items.push(format!("ML.ONE_HOT_ENCODER({column}) OVER() AS {column}"));
        }
        items.join(", ")
    }

    /// The values that are checked, computed outside the clock.
    fn values(&self, host: &mut dyn Host, last: &Repetition) -> Result<Map<String, Value>> {
        let sums: Vec<String> = self.columns.iter().map(|column| format!("SUM(CAST({column} AS DOUBLE))")).collect();
        let row = one_row(host, &format!("SELECT COUNT(*), {} FROM ({})", sums.join(" + "), self.features))?;
        let rows = number(&row, 0)?;
        let mut values = Map::new();
        values.insert("rows".into(), json!(rows as u64));
        // Each category of a row is one 1 in its features.
        let ones = rows * self.categories.len() as f64;
        values.insert("feat_sum".into(), json!(rounded(number(&row, 1)? + ones, 10.0)));
        match &self.work {
            Work::Train { regression, .. } => {
                let row = one_row(host, &format!("SELECT COUNT(*) FROM ({}) WHERE split <> 0", self.features))?;
                values.insert("train_rows".into(), json!(number(&row, 0)? as u64));
                let measures: &[(&str, &str)] = match regression {
                    true => &[("test_r2", "r2_score")],
                    false => &[("test_auc", "roc_auc"), ("test_acc", "accuracy")],
                };
                let names: Vec<&str> = measures.iter().map(|(_, column)| *column).collect();
                let evaluate = format!("SELECT {} FROM ML.EVALUATE(MODEL pipeline_model)", names.join(", "));
                let row = one_row(host, &evaluate)?;
                for (column, (name, _)) in measures.iter().enumerate() {
                    values.insert((*name).into(), json!(rounded(number(&row, column)?, 1e5)));
                }
            }
            Work::Infer { predictions, count, sum, .. } => {
                let total = |column: usize| -> Result<f64> { last.rows.iter().map(|row| number(row, column)).sum() };
                values.insert("groups".into(), json!(last.rows.len()));
                values.insert("agg_n".into(), json!(total(*count)? as u64));
                values.insert("agg_sum".into(), json!(rounded(total(*sum)?, 1e3)));
                let row = one_row(host, &format!("SELECT AVG(CAST(p AS DOUBLE)) FROM ({predictions})"))?;
                values.insert("mean_p".into(), json!(rounded(number(&row, 0)?, 1e6)));
            }
        }
        Ok(values)
    }
}

/// One run of the whole pipeline.
struct Repetition {
    total: Duration,
    compile: Duration,
    phases: Vec<(&'static str, Duration)>,
    /// The result of an inference pipeline.
    rows: Vec<oracle::Row>,
}

fn repeat(arguments: &Arguments, task: &Task, folder: &Path, host: &mut dyn Host) -> Result<Repetition> {
    host.begin()?;
    let (loaded, load) = timed(|| {
        task.tables
            .iter()
            .try_for_each(|table| host.table(table, &data::file(folder, table, arguments.format), arguments.format))
    });
    loaded?;
    let mut compile = Duration::ZERO;
    let (done, work) = timed(|| -> Result<_> {
        let last = match &task.work {
            Work::Train { statement, .. } => host.run(statement)?,
            Work::Infer { model, answer, .. } => {
                compile += host.run(model)?.compile;
                host.run(answer)?
            }
        };
        compile += last.compile;
        Ok(last.batches)
    });
    let batches = done?;
    let phase = match task.work {
        Work::Train { .. } => "train",
        Work::Infer { .. } => "infer",
    };
    Ok(Repetition {
        total: load + work,
        compile,
        phases: vec![("load", load), ("compile", compile), (phase, work.saturating_sub(compile))],
        rows: oracle::cells(&batches)?,
    })
}

/// The folder with the pipeline's tables, made where it is not given, and the name of the data set.
fn input(arguments: &Arguments) -> Result<(PathBuf, String)> {
    let tables = tables(arguments.pipeline);
    let flights = matches!(arguments.pipeline, Pipeline::P1 | Pipeline::P2);
    let folder = match (&arguments.data, flights) {
        (Some(folder), _) => data::from_root(folder),
        (None, true) => data::flights(arguments.copies, arguments.format)?,
        (None, false) => {
            let tables: Vec<Table> = data::TPCH.into_iter().filter(|table| tables.contains(&table.name())).collect();
            data::tpch(None, arguments.sf, &tables, arguments.format)?
        }
    };
    let name = match data::scale_factor_of(&folder)? {
        Some(scale_factor) if !flights => format!("tpch-sf{scale_factor}"),
        _ => folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    Ok((folder, name))
}

fn tables(pipeline: Pipeline) -> &'static [&'static str] {
    match pipeline {
        Pipeline::P1 | Pipeline::P2 => &data::FLIGHTS,
        Pipeline::P3 => &["lineitem", "orders", "customer", "supplier", "nation"],
        Pipeline::P4 => &["lineitem", "orders", "part"],
    }
}

fn model_type(model: Model) -> &'static str {
    match model {
        Model::Mlp => "dnn_classifier",
        Model::Logreg => "logistic_reg",
        Model::Linreg => "linear_reg",
        Model::Mlpreg => "dnn_regressor",
        Model::Gbt => "boosted_tree_classifier",
    }
}

fn hidden(model: Model) -> &'static str {
    match model {
        Model::Mlp | Model::Mlpreg => "hidden_units = [64, 64], activation_fn = 'relu', ",
        Model::Logreg | Model::Linreg | Model::Gbt => "",
    }
}

/// The expected values of a run, or nothing where none are committed.
fn expected(key: &str) -> Result<Map<String, Value>> {
    let path = data::from_root(Path::new("bench/expected/pipelines.json"));
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let all: Map<String, Value> = serde_json::from_str(&text)?;
    match all.get(key) {
        Some(Value::Object(values)) => Ok(values.clone()),
        _ => Ok(Map::new()),
    }
}

/// Compares values with the expected ones: what is computed within a relative error of 1e-5, the quality of a trained
/// model within 0.01 below, since other row orders give other batches. Says of each what it found.
fn check(expected: &Map<String, Value>, values: &Map<String, Value>) -> (Map<String, Value>, bool) {
    let mut found = Map::new();
    let mut right = true;
    for name in values.keys() {
        found.insert(name.clone(), json!("no expected value"));
    }
    // How near a row comes to a threshold says something of the expected values, not of ours.
    for (name, want) in expected.iter().filter(|(name, _)| *name != "margin") {
        let have = values.get(name).unwrap_or(&Value::Null);
        let equal = match (want.as_f64(), have.as_f64()) {
            (Some(want), Some(have)) if name.starts_with("test_") => have >= want - 0.01,
            (Some(want), Some(have)) => (have - want).abs() <= 1e-5 * want.abs().max(have.abs()),
            // A number that is none, as NaN, is null here.
            _ => false,
        };
        right &= equal;
        found.insert(name.clone(), if equal { json!("equal") } else { json!(format!("{have}, expected {want}")) });
    }
    (found, right)
}

/// The only row of a query's result.
fn one_row(host: &mut dyn Host, sql: &str) -> Result<oracle::Row> {
    let mut rows = oracle::cells(&host.run(sql)?.batches)?;
    match (rows.pop(), rows.is_empty()) {
        (Some(row), true) => Ok(row),
        _ => Err(format!("expected one row from: {sql}").into()),
    }
}

fn number(row: &oracle::Row, column: usize) -> Result<f64> {
    let cell = row.get(column).ok_or_else(|| format!("the result has no column {column}"))?;
    cell.parse().map_err(|_| format!("{cell:?} is not a number").into())
}

fn rounded(x: f64, steps: f64) -> f64 {
    (x * steps).round() / steps
}

/// A statement of `bench/peers/pipelines`, without comments ahead of it and white space behind.
fn statement(file: &str) -> Result<String> {
    let path = folder().join(file);
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(text.trim_end().to_owned())
}

fn folder() -> PathBuf {
    data::from_root(Path::new("bench/peers/pipelines"))
}

/// The name of a choice as the command line has it.
fn value_name(choice: impl ValueEnum) -> String {
    choice.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float64Array, RecordBatch};
    use std::sync::Arc;

    /// Answers the statements of P2 and P1 on one copy of the flights with the expected values, `rows` aside.
    struct Reciter {
        rows: f64,
        begun: usize,
        tables: usize,
    }

    impl Host for Reciter {
        fn begin(&mut self) -> Result<()> {
            self.begun += 1;
            self.tables = 0;
            Ok(())
        }

        fn table(&mut self, _: &str, file: &Path, _: Format) -> Result<()> {
            assert!(file.exists(), "{}", file.display());
            self.tables += 1;
            Ok(())
        }

        fn run(&mut self, sql: &str) -> Result<Run> {
            assert_eq!(self.tables, 5);
            let row: &[f64] = if sql.starts_with("CREATE OR REPLACE MODEL") {
                &[]
            } else if sql.starts_with("WITH preds") {
                &[3.0, 7.0, 22825.0, 0.6, 13820.3929, 0.5]
            } else if sql.contains("AVG(CAST(p AS DOUBLE))") {
                &[0.246381]
            } else if sql.contains("split <> 0") {
                &[261764.0]
            } else if sql.contains("ML.EVALUATE") {
                &[0.7051, 0.7785]
            } else {
                &[self.rows, 1813743.9 - 2.0 * 327346.0]
            };
            // The groups of the aggregate: all of it in the first, nothing in the others.
            let groups = if sql.starts_with("WITH preds") { 162 } else { 1 };
            let columns = row.iter().enumerate().map(|(at, x)| {
                let cells = (0..groups).map(|group| if group == 0 { *x } else { 0.0 });
                (format!("c{at}"), Arc::new(Float64Array::from_iter_values(cells)) as ArrayRef)
            });
            let batches = match row.is_empty() {
                true => Vec::new(),
                false => vec![RecordBatch::try_from_iter(columns)?],
            };
            Ok(Run { batches, compile: Duration::from_millis(3) })
        }
    }

    fn measured(rest: &[&str], rows: f64) -> (bool, Value) {
        let folder = tempfile::tempdir().unwrap();
        let json = folder.path().join("out.json").display().to_string();
        let all = ["pipelines", "--json", &json, "--reps", "2", "--threads", "2", "--bench"];
        let arguments = Arguments::parse_from(all.iter().chain(rest));
        let mut host = Reciter { rows, begun: 0, tables: 0 };
        let right = run(&arguments, &mut host).unwrap();
        assert_eq!(host.begun, 2);
        (right, serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap())
    }

    #[test]
    fn inference_is_checked_and_has_every_key_of_the_peers() {
        let (right, result) = measured(&["--pipeline", "p2"], 327346.0);
        assert!(right, "{}", result["checks"]);
        for key in [
            "pipeline",
            "stack",
            "ml",
            "model",
            "format",
            "data",
            "threads",
            "materialise",
            "csv_engine",
            "phases",
            "total_ms",
            "first_total_ms",
            "first_compile_ms",
            "reps",
            "rep_totals",
            "peak_rss_mb",
            "rows",
            "feat_sum",
            "groups",
            "agg_n",
            "agg_sum",
            "mean_p",
        ] {
            assert!(result.get(key).is_some(), "{key}");
        }
        assert_eq!(result["data"], "flights_k1");
        assert_eq!(result["first_compile_ms"], 6.0);
        let (right, result) = measured(&["--pipeline", "p2"], 327340.0);
        assert!(!right);
        assert_eq!(result["checks"]["rows"], "327340, expected 327346");
    }

    #[test]
    fn training_is_checked() {
        let (right, result) = measured(&["--pipeline", "p1", "--model", "mlp"], 327346.0);
        assert!(right, "{}", result["checks"]);
        assert_eq!(result["test_auc"], 0.7051);
        assert_eq!(result["train_rows"], 261764);
        assert!(result["phases"]["train"].is_number());
    }

    #[test]
    fn a_model_that_learned_less_or_a_sum_that_is_off_is_wrong() {
        let expected = json!({"test_auc": 0.71, "agg_sum": 1000.0});
        let values = |auc: f64, sum: f64| json!({"test_auc": auc, "agg_sum": sum});
        let right = |auc, sum| check(expected.as_object().unwrap(), values(auc, sum).as_object().unwrap()).1;
        assert!(right(0.705, 1000.009));
        assert!(right(0.75, 1000.0));
        assert!(!right(0.69, 1000.0));
        assert!(!right(0.71, 1000.02));
        assert!(!right(0.71, f64::NAN));
    }

    #[test]
    fn what_does_not_exist_is_named() {
        let task = |pipeline: &str, model: &str| {
            Task::new(&Arguments::parse_from(["pipelines", "--pipeline", pipeline, "--model", model]))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(task("p3", "gbt"), "gbt: tree ensembles are not supported yet");
        assert_eq!(task("p2", "linreg"), "p2 has no model linreg");
    }
}
