//! Steps of a model, timed: what the benchmarks of perceptrons and Transformers share. The results carry the keys of
//! `bench/peers/ml/models.py`.
//!
//! What holds: a step is forward, loss, backward and optimizer over one batch that lies in memory, or one forward pass.
//! Training is one program whose loop carries parameters and the optimizer's state; a step's time is the time between two
//! reports of that loop. Inference runs a program again and again on inputs that stay where they are.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use ir::exec::Inputs;
use ir::exec::run::Resources;
use ir::value::TensorValue;
use lantern::{Batches, Fit, Function, Optimizer, Params, Spec, Tensor, array, stage};
use runtime::scheduler::WorkerPool;
use serde_json::{Map, Value, json};

use crate::measure::{self, Bystanders, Times, milliseconds, timed};
use crate::{Result, data, report};

/// What the benchmarks of models are told besides the model.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// What a step is.
    #[arg(long, default_value = "train")]
    pub mode: Mode,
    /// Rows, or sentences, of a batch [default: the configuration's].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Option<u32>,
    /// Threads.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    pub threads: usize,
    /// Timed steps [default: as many as the budget holds, 5 to 300].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: Option<u32>,
    /// Seconds of timed steps, where their number is not given.
    #[arg(long, default_value_t = 12.0)]
    pub budget: f64,
    /// File for the results.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// What cargo adds; of no effect.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// What a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Forward, loss, backward, optimizer.
    Train,
    /// Forward.
    Infer,
}

/// A configuration of `bench/peers/ml/configs.md`.
pub trait Model: ValueEnum + Copy {
    /// Steps before those that are timed.
    const WARM_UP: usize;

    /// Drawn from the configuration's distributions.
    fn params(self) -> Result<Params>;

    /// The configuration's rows, or sentences, of a batch.
    fn batch(self) -> usize;

    /// The inputs of a batch, the target last.
    fn specs(self, batch: usize) -> Vec<Spec>;

    /// A batch, drawn.
    fn draw(self, batch: usize) -> Result<Vec<TensorValue>>;

    /// What the network says. `batch` may have the target at its end.
    fn forward(self, params: &Params, weights: &[Tensor], batch: &[Tensor]) -> Tensor;

    /// A mean over the batch.
    fn loss(self, out: &Tensor, target: &Tensor) -> Tensor;

    /// What follows the gradients.
    fn optimizer(self) -> Optimizer;

    /// Additions and multiplications of the matrix products of a step.
    fn flops(self, batch: usize, mode: Mode) -> u64;
}

/// What was measured.
struct Measured {
    first: Duration,
    steps: Times,
    losses: Option<(f64, f64)>,
}

/// Times the steps of a model, prints the results and writes them.
///
/// # Errors
/// What compilation or a run answers; a file that cannot be written.
pub fn run<M: Model>(model: M, options: &Options) -> Result<()> {
    let batch = options.batch.map_or(model.batch(), |n| n as usize);
    let params = model.params()?;
    let resources = Resources::new(Arc::new(WorkerPool::new(options.threads)), None);
    let others = Bystanders::watch();
    let measured = match options.mode {
        Mode::Train => train(model, options, batch, &params, &resources)?,
        Mode::Infer => infer(model, options, batch, &params, &resources)?,
    };
    let (steps, flops) = (&measured.steps, model.flops(batch, options.mode));
    let fields = json!({
        "model": name(model),
        "batch": batch,
        "median_ms": digits(steps.median()),
        "min_ms": digits(steps.min()),
        "p90_ms": digits(steps.quantile(0.9)),
        "steps": steps.len(),
        "first_step_ms": digits(milliseconds(measured.first)),
        "loss_first": measured.losses.map(|l| l.0),
        "loss_last": measured.losses.map(|l| l.1),
        "flops": flops,
        "gflops": digits(flops as f64 / steps.median() / 1e6),
        "params": params.values().map(|v| v.data.len()).sum::<usize>(),
    });
    tell(options, &others, fields)
}

/// Prints and writes a result: these fields, those of every benchmark of models, and the machine's.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn tell(options: &Options, others: &Bystanders, fields: Value) -> Result<()> {
    let common = json!({
        "engine": "lantern",
        "mode": name(options.mode),
        "threads": options.threads,
        "peak_rss_mb": (measure::peak_rss() as f64 / 1024.0 / 1024.0 * 10.0).round() / 10.0,
        "other_cpus": others.busy().map(report::digits),
    });
    let mut result = Map::new();
    for part in [measure::machine(), fields, common] {
        if let Value::Object(part) = part {
            result.extend(part);
        }
    }
    let result = Value::Object(result);
    println!("{result}");
    if let Some(path) = &options.json {
        report::write_json(&data::from_root(path), &result)?;
    }
    Ok(())
}

fn name(v: impl ValueEnum) -> String {
    v.to_possible_value().map_or(String::new(), |v| v.get_name().to_owned())
}

/// Rounded to a tenth of a microsecond: the smallest step takes some tens.
pub(crate) fn digits(x: f64) -> f64 {
    (x * 1e4).round() / 1e4
}

/// How many steps are timed, if one takes this long.
fn count(options: &Options, step: Duration) -> usize {
    let fitting = options.budget / step.as_secs_f64().max(1e-6);
    options.steps.map_or((fitting as usize).clamp(5, 300), |n| n as usize)
}

fn train<M: Model>(
    model: M,
    options: &Options,
    batch: usize,
    params: &Params,
    resources: &Resources,
) -> Result<Measured> {
    let n = params.len();
    let program = |epochs: usize| -> Result<Function> {
        let fit = Fit { batches: Batches::new(batch, epochs), optimizer: model.optimizer() };
        let specs: Vec<Spec> = params.specs().into_iter().chain(model.specs(batch)).collect();
        Ok(stage("train", specs, |t| {
            let (weights, data) = t.split_at(n);
            let loss = |batch: &[Tensor], weights: &[Tensor]| {
                model.loss(&model.forward(params, weights, batch), &batch[batch.len() - 1])
            };
            let trained = t[0].scope().fit(&fit, data, weights, loss);
            (trained.params, trained.losses)
        })?)
    };
    let inputs: Vec<TensorValue> = params.values().chain(model.draw(batch)?).collect();
    let once = program(1)?;
    let (done, first) = timed(|| once.run_on(inputs.clone(), resources));
    done?;
    let (done, second) = timed(|| once.run_on(inputs.clone(), resources));
    done?;
    let steps = program(M::WARM_UP + count(options, second))?;
    steps.compile()?;
    let (times, losses) = looped(&steps, inputs, resources)?;
    let timed: Times = times.all().iter().skip(M::WARM_UP).copied().collect();
    Ok(Measured { first, steps: timed, losses: Some((losses[0], losses[losses.len() - 1])) })
}

/// Runs a training loop: the time of each step, and the losses.
fn looped(f: &Function, inputs: Vec<TensorValue>, resources: &Resources) -> Result<(Times, Vec<f64>)> {
    let times = Arc::new(Mutex::new((Instant::now(), Times::default())));
    let told = Arc::clone(&times);
    let mut resources = resources.clone();
    resources.progress = Some(Arc::new(move |_| {
        let mut t = told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let step = now - t.0;
        t.1.push(step);
        t.0 = now;
    }));
    let out = f.run_on(inputs, &resources)?;
    let losses = array::<f32>(out.last().ok_or("a training run yields its losses")?)?;
    let times = times.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
    Ok((times, losses.iter().map(|l| f64::from(*l)).collect()))
}

fn infer<M: Model>(
    model: M,
    options: &Options,
    batch: usize,
    params: &Params,
    resources: &Resources,
) -> Result<Measured> {
    let n = params.len();
    let (mut specs, mut data) = (model.specs(batch), model.draw(batch)?);
    specs.pop();
    data.pop();
    let specs: Vec<Spec> = params.specs().into_iter().chain(specs).collect();
    let f = stage("infer", specs, |t| model.forward(params, &t[..n], &t[n..]))?;
    let named = f.inputs().map(str::to_owned).zip(params.values().chain(data));
    let inputs = named.fold(Inputs::new(), |inputs, (name, value)| inputs.tensor(name, value));
    let (done, first) = timed(|| -> Result<_> { Ok(f.compile()?.run(&inputs, resources)?) });
    done?;
    let program = f.compile()?;
    let runs = |count: usize| -> Result<Times> {
        let mut times = Times::default();
        for _ in 0..count {
            let (done, time) = timed(|| program.run(&inputs, resources));
            done?;
            times.push(time);
        }
        Ok(times)
    };
    let warm = runs(M::WARM_UP)?;
    let steps = runs(count(options, Duration::from_secs_f64(warm.min() / 1e3)))?;
    Ok(Measured { first, steps, losses: None })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs so many steps and reads what was written.
    pub(crate) fn written<M: Model>(model: M, mode: Mode, batch: Option<u32>, steps: u32) -> Value {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.json");
        let options = Options {
            mode,
            batch,
            threads: 2,
            steps: Some(steps),
            budget: 0.0,
            json: Some(path.clone()),
            bench: false,
        };
        run(model, &options).unwrap();
        let result: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!((&result["steps"], &result["mode"]), (&json!(steps), &json!(name(mode))));
        if mode == Mode::Train {
            assert!(result["loss_last"].as_f64() < result["loss_first"].as_f64(), "{}", name(model));
        }
        result
    }

    #[test]
    fn steps_fill_the_budget() {
        let options =
            Options { mode: Mode::Train, batch: None, threads: 1, steps: None, budget: 12.0, json: None, bench: false };
        let counts = [1, 120, 60_000].map(|ms| count(&options, Duration::from_millis(ms)));
        assert_eq!(counts, [300, 100, 5]);
        assert_eq!(count(&Options { steps: Some(7), ..options }, Duration::from_secs(1)), 7);
    }
}
