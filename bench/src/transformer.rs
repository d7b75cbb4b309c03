//! Transformers through Lantern's public functions: the configurations `transformer` and `bert4` of
//! `bench/peers/ml/configs.md`. The results carry the keys of `models.py` there.
//!
//! What holds: a step is forward, loss, backward and optimizer over one batch that lies in memory, or one forward pass.
//! Training is one program whose loop carries parameters and the optimizer's state; a step's time is the time between two
//! reports of that loop. Inference runs a program again and again on inputs that stay where they are. Parameters and batch are
//! drawn from the configuration's distributions by generators of our own: `loss_first` is near the peers' one, not equal to it
//! (the golden values of `transformer_s` and `bert4_s` are what is compared exactly, in Lantern's tests).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use ir::exec::Inputs;
use ir::exec::run::Resources;
use ir::types::ScalarType::{F32, I64};
use ir::value::TensorValue;
use lantern::{Batches, Fit, Function, Optimizer, Params, Spec, Tensor, array, nn, stage};
use ndarray::Array2;
use runtime::kernels::random::Philox;
use runtime::scheduler::WorkerPool;
use serde_json::{Value, json};

use crate::measure::{self, Bystanders, Times, milliseconds, timed};
use crate::{Result, data, report};

/// Time training steps or forward passes of a Transformer.
#[derive(Debug, Clone, Parser)]
pub struct Arguments {
    /// Which one.
    #[arg(long)]
    pub model: Model,
    /// What a step is.
    #[arg(long, default_value = "train")]
    pub mode: Mode,
    /// Sentences of a batch [default: the configuration's].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Option<u32>,
    /// Threads.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    pub threads: usize,
    /// Timed steps [default: as many as 12 seconds hold, 5 to 300].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: Option<u32>,
    /// File for the results.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// What cargo adds; of no effect.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// The networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Model {
    /// Encoder and decoder of 6 layers, width 256, 9521 words, sentences of 32; batches of 32; cross entropy, Adagrad 1e-3.
    Transformer,
    /// 4 layers of an encoder, width 768, 128 rows; batches of 8; mean squared error, Adam 1e-4.
    Bert4,
    /// The structure of the first, as small as a test likes it.
    #[value(hide = true)]
    TransformerS,
    /// The structure of the second.
    #[value(hide = true)]
    Bert4S,
}

/// What a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Forward, loss, backward, optimizer.
    Train,
    /// Forward.
    Infer,
}

/// The layers, and rows of a sentence.
#[derive(Debug, Clone, Copy)]
enum Network {
    Words(nn::Transformer, usize),
    Rows(nn::Encoder, usize),
}

impl Model {
    fn network(self) -> Network {
        match self {
            Self::Transformer => {
                let shape = nn::Transformer { words: 9521, width: 256, heads: 8, encoders: 6, decoders: 6, inner: 512 };
                Network::Words(shape, 32)
            }
            Self::Bert4 => Network::Rows(nn::Encoder { width: 768, heads: 12, layers: 4, inner: 3072 }, 128),
            Self::TransformerS => {
                let shape = nn::Transformer { words: 50, width: 16, heads: 2, encoders: 1, decoders: 1, inner: 32 };
                Network::Words(shape, 6)
            }
            Self::Bert4S => Network::Rows(nn::Encoder { width: 24, heads: 3, layers: 2, inner: 48 }, 6),
        }
    }

    fn batch(self) -> usize {
        match self {
            Self::Transformer => 32,
            Self::Bert4 => 8,
            Self::TransformerS | Self::Bert4S => 2,
        }
    }

    fn optimizer(self) -> Optimizer {
        match self.network() {
            Network::Words(..) => Optimizer::adagrad(1e-3),
            Network::Rows(..) => Optimizer::adam(1e-4),
        }
    }
}

impl Network {
    fn params(self) -> Result<Params> {
        Ok(match self {
            Self::Words(shape, _) => Params::init(F32, shape.params(), 1234)?,
            Self::Rows(shape, _) => Params::init(F32, shape.params(), 1234)?,
        })
    }

    /// The inputs of a batch, the target last.
    fn specs(self, batch: usize) -> Vec<Spec> {
        match self {
            Self::Words(_, rows) => ["src", "tgt", "y"].map(|name| Spec::of(name, I64, &[batch, rows])).into(),
            Self::Rows(shape, rows) => ["x", "y"].map(|name| Spec::of(name, F32, &[batch, rows, shape.width])).into(),
        }
    }

    /// A batch: words of equal probability, or standard normal rows.
    fn draw(self, batch: usize) -> Vec<TensorValue> {
        match self {
            Self::Words(shape, rows) => (0..3u64)
                .map(|stream| {
                    let mut drawn = vec![0.0; batch * rows];
                    Philox::new(5678, stream).fill_uniform_f64(0, &mut drawn);
                    let words = drawn.into_iter().map(|x| (x * shape.words as f64) as i64);
                    lantern::value(Array2::from_shape_vec((batch, rows), words.collect()).unwrap_or_default())
                })
                .collect(),
            Self::Rows(shape, rows) => (0..2u64)
                .map(|stream| {
                    let mut drawn = vec![0f32; batch * rows * shape.width];
                    Philox::new(5678, stream).fill_normal_f32(0, &mut drawn);
                    TensorValue { shape: vec![batch, rows, shape.width], data: ir::value::TensorData::F32(drawn) }
                })
                .collect(),
        }
    }

    /// Logits, or rows. `batch` may have the target at its end.
    fn forward(self, params: &Params, weights: &[Tensor], batch: &[Tensor]) -> Tensor {
        let named = params.named(weights);
        match self {
            Self::Words(shape, _) => shape.logits(&named, &batch[0], &batch[1]),
            Self::Rows(shape, _) => shape.rows(&named, &batch[0]),
        }
    }

    fn loss(self, out: &Tensor, target: &Tensor) -> Tensor {
        match self {
            Self::Words(..) => nn::cross_entropy(out, target),
            Self::Rows(..) => nn::mse(out, target),
        }
    }

    /// Additions and multiplications of the matrix products of a step: a training step has three for each of a forward pass,
    /// less that nobody asks for the gradient of embedded rows.
    fn flops(self, batch: usize, mode: Mode) -> u64 {
        let (attention, feed) = match self {
            Self::Words(s, rows) => ((s.encoders + 2 * s.decoders, rows, s.width), (s.encoders + s.decoders, s.inner)),
            Self::Rows(s, rows) => ((s.layers, rows, s.width), (s.layers, s.inner)),
        };
        let (attentions, rows, width) = attention;
        let tokens = batch * rows;
        let projections = attentions * 4 * tokens * width * width;
        let scores = attentions * 2 * tokens * rows * width;
        let feeds = feed.0 * 2 * tokens * width * feed.1;
        let (logits, leaves) = match self {
            Self::Words(s, _) => (tokens * width * s.words, 0),
            Self::Rows(..) => (0, 3 * tokens * width * width),
        };
        let forward = projections + scores + feeds + logits;
        let products = match mode {
            Mode::Infer => forward,
            Mode::Train => 3 * forward - leaves,
        };
        2 * products as u64
    }
}

/// Steps before those that are timed.
const WARM_UP: usize = 3;
/// How long the timed steps take, where their number is not given.
const BUDGET: Duration = Duration::from_secs(12);

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
    let network = arguments.model.network();
    let batch = arguments.batch.map_or(arguments.model.batch(), |n| n as usize);
    let params = network.params()?;
    let resources = Resources::new(Arc::new(WorkerPool::new(arguments.threads)), None);
    let others = Bystanders::watch();
    let measured = match arguments.mode {
        Mode::Train => train(arguments, batch, &params, resources)?,
        Mode::Infer => infer(arguments, batch, &params, &resources)?,
    };
    let Value::Object(mut result) = measure::machine() else {
        return Err("the machine is described by an object".into());
    };
    let steps = &measured.steps;
    let name = |v: Option<clap::builder::PossibleValue>| v.map_or(String::new(), |v| v.get_name().to_owned());
    let flops = network.flops(batch, arguments.mode);
    let fields = json!({
        "model": name(arguments.model.to_possible_value()),
        "engine": "lantern",
        "mode": name(arguments.mode.to_possible_value()),
        "batch": batch,
        "threads": arguments.threads,
        "median_ms": report::digits(steps.median()),
        "min_ms": report::digits(steps.min()),
        "p90_ms": report::digits(steps.quantile(0.9)),
        "steps": steps.len(),
        "first_step_ms": report::digits(milliseconds(measured.first)),
        "loss_first": measured.losses.map(|l| l.0),
        "loss_last": measured.losses.map(|l| l.1),
        "flops": flops,
        "gflops": report::digits(flops as f64 / steps.median() / 1e6),
        "params": params.values().map(|v| v.data.len()).sum::<usize>(),
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

/// How many steps are timed, if one takes this long.
fn count(arguments: &Arguments, step: Duration) -> usize {
    let fitting = BUDGET.as_secs_f64() / step.as_secs_f64().max(1e-6);
    arguments.steps.map_or((fitting as usize).clamp(5, 300), |n| n as usize)
}

fn train(arguments: &Arguments, batch: usize, params: &Params, resources: Resources) -> Result<Measured> {
    let (model, network, n) = (arguments.model, arguments.model.network(), params.len());
    let program = |epochs: usize| -> Result<Function> {
        let fit = Fit { batches: Batches::new(batch, epochs), optimizer: model.optimizer() };
        let specs: Vec<Spec> = params.specs().into_iter().chain(network.specs(batch)).collect();
        Ok(stage("train", specs, |t| {
            let (weights, data) = t.split_at(n);
            let loss = |batch: &[Tensor], weights: &[Tensor]| {
                network.loss(&network.forward(params, weights, batch), &batch[batch.len() - 1])
            };
            let trained = t[0].scope().fit(&fit, data, weights, loss);
            (trained.params, trained.losses)
        })?)
    };
    let inputs: Vec<TensorValue> = params.values().chain(network.draw(batch)).collect();
    let warm = program(WARM_UP)?;
    let (done, first) = timed(|| warm.run_on(inputs.clone(), &resources));
    done?;
    let (times, _) = looped(&warm, inputs.clone(), &resources)?;
    let steps = program(WARM_UP + count(arguments, Duration::from_secs_f64(times.min() / 1e3)))?;
    steps.compile()?;
    let (times, losses) = looped(&steps, inputs, &resources)?;
    let timed: Times = times.all().iter().skip(WARM_UP).copied().collect();
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

fn infer(arguments: &Arguments, batch: usize, params: &Params, resources: &Resources) -> Result<Measured> {
    let (network, n) = (arguments.model.network(), params.len());
    let (mut specs, mut data) = (network.specs(batch), network.draw(batch));
    specs.pop();
    data.pop();
    let specs: Vec<Spec> = params.specs().into_iter().chain(specs).collect();
    let f = stage("infer", specs, |t| network.forward(params, &t[..n], &t[n..]))?;
    let named = f.inputs().map(str::to_owned).zip(params.values().chain(data));
    let inputs = named.fold(Inputs::new(), |inputs, (name, value)| inputs.tensor(name, value));
    let (done, first) = timed(|| -> Result<_> { Ok(f.compile()?.run(&inputs, resources)?) });
    done?;
    let program = f.compile()?;
    let mut warm = Times::default();
    for _ in 0..WARM_UP {
        let (done, time) = timed(|| program.run(&inputs, resources));
        done?;
        warm.push(time);
    }
    let mut steps = Times::default();
    for _ in 0..count(arguments, Duration::from_secs_f64(warm.min() / 1e3)) {
        let (done, time) = timed(|| program.run(&inputs, resources));
        done?;
        steps.push(time);
    }
    Ok(Measured { first, steps, losses: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_those_that_pytorch_counts() {
        // `models.py --flops`: 334 GFLOP/s × 196 ms, and 7.45 G for one sentence of bert4.
        let train = Model::Transformer.network().flops(32, Mode::Train) as f64;
        assert!((train / 65.4e9 - 1.0).abs() < 0.01, "{train}");
        let infer = Model::Bert4.network().flops(1, Mode::Infer) as f64;
        assert!((infer / 7.45e9 - 1.0).abs() < 0.01, "{infer}");
    }

    #[test]
    fn both_modes_of_both_models_run() {
        for (model, mode, steps) in [
            ("transformer-s", "train", 3),
            ("bert4-s", "train", 3),
            ("transformer-s", "infer", 2),
            ("bert4-s", "infer", 2),
        ] {
            let list = ["transformer", "--model", model, "--mode", mode, "--threads", "2"];
            let mut arguments = Arguments::try_parse_from(list).unwrap();
            arguments.steps = Some(steps);
            let folder = tempfile::tempdir().unwrap();
            arguments.json = Some(folder.path().join("transformer.json"));
            run(&arguments).unwrap();
            let text = std::fs::read_to_string(folder.path().join("transformer.json")).unwrap();
            let result: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&result["steps"], &result["batch"]), (&json!(steps), &json!(2)));
            if mode == "train" {
                assert!(result["loss_last"].as_f64() < result["loss_first"].as_f64(), "{model}");
            }
        }
    }
}
