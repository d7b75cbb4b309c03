//! Multi-layer perceptrons through Lantern's public functions: the configurations `mlp9` and `mlp128` of
//! `bench/peers/ml/configs.md`, and the network of the flights. The results carry the keys of `models.py` there.
//!
//! What holds: a step is forward, loss, backward and Adam over one batch that lies in memory, or one forward pass; a training
//! run is one program whose loop makes the steps, and a step's time is the time between two reports of that loop. Parameters
//! and batch are drawn from the configuration's distributions, by generators of our own: `loss_first` is near the peers' one,
//! not equal to it (the golden values of `mlp_s` are what is compared exactly, in Lantern's tests).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use ir::exec::run::Resources;
use ir::types::ScalarType;
use ir::value::TensorValue;
use lantern::{Batches, Fit, Function, Optimizer, Params, Spec, Tensor, array, nn, stage};
use runtime::scheduler::WorkerPool;
use serde_json::{Value, json};

use crate::measure::{self, Bystanders, Times, milliseconds, timed};
use crate::{Result, data, report};

/// Time training steps or forward passes of a perceptron.
#[derive(Debug, Clone, Parser)]
pub struct Arguments {
    /// Which one.
    #[arg(long)]
    pub model: Model,
    /// What a step is.
    #[arg(long, default_value = "train")]
    pub mode: Mode,
    /// Rows of a batch [default: the configuration's].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Option<u32>,
    /// Threads.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    pub threads: usize,
    /// Timed steps.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// File for the results.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// What cargo adds; of no effect.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// The networks, all with ReLU between their layers and Adam 1e-3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Model {
    /// 9-64-64-1, mean squared error, batches of 64.
    Mlp9,
    /// 128-512-256-1, mean squared error, batches of 1024.
    Mlp128,
    /// 30-64-64-1, log loss, batches of 1024: the network of the flights.
    Flights,
}

/// What a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Forward, loss, backward, optimizer.
    Train,
    /// Forward.
    Infer,
}

impl Model {
    fn sizes(self) -> &'static [usize] {
        match self {
            Self::Mlp9 => &[9, 64, 64, 1],
            Self::Mlp128 => &[128, 512, 256, 1],
            Self::Flights => &[30, 64, 64, 1],
        }
    }

    fn batch(self) -> usize {
        match self {
            Self::Mlp9 => 64,
            Self::Mlp128 | Self::Flights => 1024,
        }
    }

    fn loss(self, y: &Tensor, target: &Tensor) -> Tensor {
        match self {
            Self::Mlp9 | Self::Mlp128 => nn::mse(y, target),
            Self::Flights => nn::binary_cross_entropy(y, target),
        }
    }
}

/// Steps before those that are timed.
const WARM_UP: usize = 20;

/// What was measured.
struct Measured {
    first: Duration,
    steps: Times,
    losses: Option<(f64, f64)>,
}

/// Runs the benchmark, prints its results and writes them.
///
/// # Errors
/// What compilation or a run answers; a file that cannot be written.
pub fn run(arguments: &Arguments) -> Result<()> {
    let batch = arguments.batch.map_or(arguments.model.batch(), |n| n as usize);
    let sizes = arguments.model.sizes();
    let params = Params::mlp(ScalarType::F32, sizes, 1234)?;
    let resources = Resources::new(Arc::new(WorkerPool::new(arguments.threads)), None);
    let others = Bystanders::watch();
    let measured = match arguments.mode {
        Mode::Train => train(arguments, batch, &params, resources)?,
        Mode::Infer => infer(arguments, batch, &params, &resources)?,
    };
    let count: usize = params.values().map(|v| v.data.len()).sum();
    let Value::Object(mut result) = measure::machine() else {
        return Err("the machine is described by an object".into());
    };
    let (steps, name) = (&measured.steps, |v: &dyn Fn() -> Option<clap::builder::PossibleValue>| {
        v().map_or(String::new(), |v| v.get_name().to_owned())
    });
    let fields = json!({
        "model": name(&|| arguments.model.to_possible_value()),
        "engine": "lantern",
        "mode": name(&|| arguments.mode.to_possible_value()),
        "batch": batch,
        "threads": arguments.threads,
        "median_ms": digits(steps.median()),
        "min_ms": digits(steps.min()),
        "p90_ms": digits(steps.quantile(0.9)),
        "steps": steps.len(),
        "first_step_ms": digits(milliseconds(measured.first)),
        "loss_first": measured.losses.map(|l| l.0),
        "loss_last": measured.losses.map(|l| l.1),
        "flops": flops(sizes, batch, arguments.mode),
        "gflops": digits(flops(sizes, batch, arguments.mode) as f64 / steps.median() / 1e6),
        "params": count,
        "peak_rss_mb": (measure::peak_rss() as f64 / 1024.0 / 1024.0 * 10.0).round() / 10.0,
        "other_cpus": others.busy().map(report::digits),
    });
    if let Value::Object(fields) = fields {
        result.extend(fields);
    }
    let result = Value::Object(result);
    println!("{result}");
    if let Some(path) = &arguments.json {
        report::write_json(&data::from_root(path), &result)?;
    }
    Ok(())
}

/// Rounded to a tenth of a microsecond: the smallest step takes some tens.
fn digits(x: f64) -> f64 {
    (x * 1e4).round() / 1e4
}

/// Additions and multiplications of the matrix products of a step. Nobody asks for the gradient of the batch.
fn flops(sizes: &[usize], batch: usize, mode: Mode) -> u64 {
    let layers = sizes.windows(2).enumerate().map(|(i, pair)| {
        let products = match mode {
            Mode::Infer => 1,
            Mode::Train if i == 0 => 2,
            Mode::Train => 3,
        };
        products * 2 * batch as u64 * pair[0] as u64 * pair[1] as u64
    });
    layers.sum()
}

/// A batch: standard normal inputs, and targets that are zeros and ones where the loss asks for it.
fn batch_of(model: Model, rows: usize) -> Result<Vec<TensorValue>> {
    let width = model.sizes()[0];
    let draw = stage("batch", [Spec::of("nothing", ScalarType::F32, &[])], |t| {
        let scope = t[0].scope();
        let (rows, width) = (ir::types::Dim::Const(rows), ir::types::Dim::Const(width));
        let x = scope.normal(ScalarType::F32, &[rows.clone(), width], 5678, 0);
        let y = scope.normal(ScalarType::F32, &[rows, ir::types::Dim::Const(1)], 5678, 1);
        let y = if model == Model::Flights { y.gt(&y.zeros_like()).cast(ScalarType::F32) } else { y };
        vec![x, y]
    })?;
    Ok(draw.run([lantern::value(ndarray::arr0(0f32))])?)
}

fn specs(model: Model, params: &Params, batch: usize) -> Vec<Spec> {
    let mut specs = params.specs();
    specs.push(Spec::of("x", ScalarType::F32, &[batch, model.sizes()[0]]));
    specs.push(Spec::of("y", ScalarType::F32, &[batch, 1]));
    specs
}

fn train(arguments: &Arguments, batch: usize, params: &Params, mut resources: Resources) -> Result<Measured> {
    let (model, n) = (arguments.model, params.len());
    let steps = WARM_UP + arguments.steps as usize;
    let program = |epochs: usize| -> Result<Function> {
        let fit = Fit { batches: Batches::new(batch, epochs), optimizer: Optimizer::adam(1e-3) };
        Ok(stage("train", specs(model, params, batch), |t| {
            let (params, data) = t.split_at(n);
            let loss =
                |batch: &[Tensor], p: &[Tensor]| model.loss(&nn::mlp(&batch[0], p, nn::Activation::Relu), &batch[1]);
            let trained = t[0].scope().fit(&fit, data, params, loss);
            (trained.params, trained.losses)
        })?)
    };
    let inputs: Vec<TensorValue> = params.values().chain(batch_of(model, batch)?).collect();
    let once = program(1)?;
    let (done, first) = timed(|| once.run_on(inputs.clone(), &resources));
    done?;
    let f = program(steps)?;
    f.compile()?;
    let times = Arc::new(Mutex::new((Instant::now(), Times::default())));
    let told = Arc::clone(&times);
    resources.progress = Some(Arc::new(move |_| {
        let mut t = told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let step = now - t.0;
        t.1.push(step);
        t.0 = now;
    }));
    let out = f.run_on(inputs, &resources)?;
    let losses = array::<f32>(out.last().ok_or("a training run yields its losses")?)?;
    let losses: Vec<f64> = losses.iter().map(|l| f64::from(*l)).collect();
    let all = times.lock().unwrap_or_else(PoisonError::into_inner);
    let timed: Times = all.1.all().iter().skip(WARM_UP).copied().collect();
    Ok(Measured { first, steps: timed, losses: Some((losses[0], losses[losses.len() - 1])) })
}

fn infer(arguments: &Arguments, batch: usize, params: &Params, resources: &Resources) -> Result<Measured> {
    let (model, n) = (arguments.model, params.len());
    let mut specs = specs(model, params, batch);
    specs.pop();
    let f = stage("infer", specs, |t| nn::mlp(&t[n], &t[..n], nn::Activation::Relu))?;
    let mut batch = batch_of(model, batch)?;
    batch.pop();
    let inputs: Vec<TensorValue> = params.values().chain(batch).collect();
    let (done, first) = timed(|| f.run_on(inputs.clone(), resources));
    done?;
    let mut steps = Times::default();
    for i in 0..WARM_UP + arguments.steps as usize {
        let inputs = inputs.clone();
        let (done, time) = timed(|| f.run_on(inputs, resources));
        done?;
        if i >= WARM_UP {
            steps.push(time);
        }
    }
    Ok(Measured { first, steps, losses: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_training_has_three_products_a_layer_but_the_first() {
        assert_eq!(flops(&[9, 64, 1], 10, Mode::Infer), 20 * (9 * 64 + 64));
        assert_eq!(flops(&[9, 64, 1], 10, Mode::Train), 20 * (2 * 9 * 64 + 3 * 64));
    }

    #[test]
    fn both_modes_run() {
        for (mode, steps) in [("train", 3), ("infer", 2)] {
            let list = ["mlp", "--model", "mlp9", "--mode", mode, "--threads", "1", "--batch", "8"];
            let mut arguments = Arguments::try_parse_from(list).unwrap();
            arguments.steps = steps;
            let folder = tempfile::tempdir().unwrap();
            arguments.json = Some(folder.path().join("mlp.json"));
            run(&arguments).unwrap();
            let text = std::fs::read_to_string(folder.path().join("mlp.json")).unwrap();
            let result: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(result["steps"], json!(steps));
            assert_eq!(result["params"], json!(64 * 9 + 64 + 64 * 64 + 64 + 64 + 1));
            if mode == "train" {
                assert!(result["loss_last"].as_f64() < result["loss_first"].as_f64());
            }
        }
    }
}
