//! The matrix products of the models in `bench/peers/ml/configs.md`: each layer's product, and those of the gradients of its
//! input and of its weights, by the library that compiled programs call. Convolutions count as the product over their windows.
//!
//! What holds: a product and the machine's peak are measured in turn, a few rounds each, so that a slow spell meets both. A
//! product's speed is that of its best run, in GFLOP/s; its share of the peak is the median over the rounds of the best run's
//! speed over that of the peak in the same round. The peak is one thread's, multiplied by the number of threads.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use runtime::gemm::{Epilogue, MatMut, MatRef, Rhs, fused_chains, gemm_on};
use runtime::pool::advise_huge_pages;
use runtime::scheduler::WorkerPool;
use serde_json::{Value, json};

use crate::measure::{self, Bystanders, Times, milliseconds, timed};
use crate::{Result, data, report};

/// Time the matrix products of the models.
#[derive(Debug, Clone, Parser)]
pub struct Arguments {
    /// Threads.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    pub threads: usize,
    /// Only models whose name begins so.
    #[arg(long)]
    pub model: Option<String>,
    /// Seconds for each product.
    #[arg(long, default_value_t = 0.2)]
    pub budget: f64,
    /// File for the results.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// What cargo adds; of no effect.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// A layer `y = x wᵀ`: `rows` × `inputs` by `outputs` × `inputs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Layer {
    model: &'static str,
    name: &'static str,
    rows: usize,
    inputs: usize,
    outputs: usize,
}

const fn layer(model: &'static str, name: &'static str, [rows, inputs, outputs]: [usize; 3]) -> Layer {
    Layer { model, name, rows, inputs, outputs }
}

/// Layers of equal sizes stand once. Rows of convolutions are positions of all images, their inputs channels times window.
const LAYERS: &[Layer] = &[
    layer("mlp9", "l0", [64, 9, 64]),
    layer("mlp9", "l1", [64, 64, 64]),
    layer("mlp9", "l2", [64, 64, 1]),
    layer("mlp128", "l0", [1024, 128, 512]),
    layer("mlp128", "l1", [1024, 512, 256]),
    layer("mlp128", "l2", [1024, 256, 1]),
    layer("flights", "l0", [1024, 30, 64]),
    layer("flights", "l1", [1024, 64, 64]),
    layer("flights", "l2", [1024, 64, 1]),
    layer("flights", "l0, 128 rows", [128, 30, 64]),
    layer("flights", "l1, 128 rows", [128, 64, 64]),
    layer("flights", "l2, 128 rows", [128, 64, 1]),
    layer("transformer", "q k v o", [1024, 256, 256]),
    layer("transformer", "ffn 1", [1024, 256, 512]),
    layer("transformer", "ffn 2", [1024, 512, 256]),
    layer("transformer", "vocabulary", [1024, 256, 9521]),
    layer("transformer", "scores of a head", [32, 32, 32]),
    layer("bert4", "q k v o, batch 1", [128, 768, 768]),
    layer("bert4", "ffn 1, batch 1", [128, 768, 3072]),
    layer("bert4", "ffn 2, batch 1", [128, 3072, 768]),
    layer("bert4", "q k v o, batch 8", [1024, 768, 768]),
    layer("bert4", "ffn 1, batch 8", [1024, 768, 3072]),
    layer("bert4", "ffn 2, batch 8", [1024, 3072, 768]),
    layer("bert4", "scores of a head", [128, 64, 128]),
    layer("bert4", "values of a head", [128, 128, 64]),
    layer("squeezenet", "first", [64 * 15 * 15, 27, 64]),
    layer("squeezenet", "fire 2, squeeze", [64 * 7 * 7, 64, 16]),
    layer("squeezenet", "fire 2, 3x3", [64 * 7 * 7, 16 * 9, 64]),
    layer("squeezenet", "fire 5, 3x3", [64 * 3 * 3, 32 * 9, 128]),
    layer("squeezenet", "fire 9, 3x3", [64, 64 * 9, 256]),
    layer("resnet50", "first", [64 * 16 * 16, 147, 64]),
    layer("resnet50", "stage 1, 3x3", [64 * 8 * 8, 64 * 9, 64]),
    layer("resnet50", "stage 1, out", [64 * 8 * 8, 64, 256]),
    layer("resnet50", "stage 2, 3x3", [64 * 4 * 4, 128 * 9, 128]),
    layer("resnet50", "stage 3, 3x3", [64 * 2 * 2, 256 * 9, 256]),
    layer("resnet50", "stage 4, 3x3", [64, 512 * 9, 512]),
    layer("resnet50", "fc", [64, 2048, 10]),
    layer("deepspeech2", "conv 1", [8 * 81 * 100, 451, 32]),
    layer("deepspeech2", "conv 2", [8 * 41 * 100, 32 * 21 * 11, 32]),
    layer("deepspeech2", "rnn 1, input", [800, 1312, 512]),
    layer("deepspeech2", "rnn 2, input", [800, 512, 512]),
    layer("deepspeech2", "rnn, hidden", [8, 512, 512]),
    layer("deepspeech2", "letters", [800, 512, 29]),
    layer("charrnn", "lstm, input", [20, 128, 1024]),
    layer("charrnn", "lstm, hidden", [20, 256, 1024]),
    layer("charrnn", "letters", [1280, 256, 96]),
    layer("treelstm", "leaf", [1, 300, 450]),
    layer("treelstm", "node", [1, 300, 750]),
    layer("treelstm", "classes", [1, 150, 5]),
];

/// The products of a layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// x wᵀ.
    Forward,
    /// The gradient of x: dy w.
    Input,
    /// The gradient of w: dyᵀ x.
    Weights,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Forward, Self::Input, Self::Weights];

    fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Input => "input gradient",
            Self::Weights => "weight gradient",
        }
    }

    /// m, n, k.
    fn shape(self, l: Layer) -> [usize; 3] {
        match self {
            Self::Forward => [l.rows, l.outputs, l.inputs],
            Self::Input => [l.rows, l.inputs, l.outputs],
            Self::Weights => [l.outputs, l.inputs, l.rows],
        }
    }
}

/// Runs the benchmark, prints a table and writes the results.
///
/// # Errors
/// A file that cannot be written.
pub fn run(arguments: &Arguments) -> Result<()> {
    let pool = WorkerPool::new(arguments.threads);
    let others = Bystanders::watch();
    let budget = Duration::from_secs_f64(arguments.budget.max(0.0));
    println!("peak {:.1} GFLOP/s on {} threads", peak() * pool.threads() as f64, pool.threads());
    println!("{:<12} {:<20} {:<15} {:>20} {:>9} {:>6}", "model", "layer", "product", "m x n x k", "GFLOP/s", "peak");
    let wanted = |l: &&Layer| arguments.model.as_ref().is_none_or(|m| l.model.starts_with(m.as_str()));
    let (mut rows, mut peaks) = (vec![], vec![]);
    for l in LAYERS.iter().filter(wanted) {
        for kind in Kind::ALL {
            let found = measure_product(*l, kind, &pool, budget)?;
            let [m, n, k] = kind.shape(*l);
            let speed = |ms: f64| 2.0 * m as f64 * n as f64 * k as f64 / ms / 1e6;
            let (best, share) = (speed(found.times.min()), found.shares.median());
            let shape = format!("{m} x {n} x {k}");
            println!(
                "{:<12} {:<20} {:<15} {shape:>20} {best:>9.1} {:>5.0}%",
                l.model,
                l.name,
                kind.name(),
                share * 100.0
            );
            peaks.push(found.peak);
            rows.push(json!({
                "model": l.model, "layer": l.name, "product": kind.name(), "m": m, "n": n, "k": k,
                "min_ms": digits(found.times.min()), "median_ms": digits(found.times.median()), "runs": found.times.len(),
                "gflops": report::digits(best), "median_gflops": report::digits(speed(found.times.median())),
                "peak_gflops": report::digits(found.peak), "share_of_peak": report::digits(share),
                "shares": found.shares.all().iter().copied().map(report::digits).collect::<Vec<_>>(),
            }));
        }
    }
    let Value::Object(mut result) = measure::machine() else {
        return Err("the machine is described by an object".into());
    };
    result.insert("threads".into(), json!(pool.threads()));
    result.insert("peak_gflops".into(), json!(report::digits(peaks.into_iter().collect::<Times>().median())));
    result.insert("other_cpus".into(), json!(others.busy().map(report::digits)));
    result.insert("products".into(), Value::Array(rows));
    if let Some(path) = &arguments.json {
        report::write_json(&data::from_root(path), &Value::Object(result))?;
    }
    Ok(())
}

/// Milliseconds to a hundredth of a microsecond: small products take less than one.
fn digits(x: f64) -> f64 {
    (x * 1e5).round() / 1e5
}

/// Rounds in which a product and the peak take turns.
const ROUNDS: u32 = 5;

/// What was measured of a product.
struct Measured {
    times: Times,
    /// GFLOP/s of all threads at best.
    peak: f64,
    /// A round each.
    shares: Times,
}

/// GFLOP/s of one thread at best, over about five milliseconds.
fn peak() -> f64 {
    let chains = (0..12).map(|_| timed(fused_chains));
    chains.map(|(work, time)| work as f64 / time.as_secs_f64() / 1e9).fold(0.0, f64::max)
}

/// Numbers in memory as that of compiled programs is, whose pool asks for large pages.
fn operand(len: usize) -> Vec<f32> {
    let mut numbers = Vec::<f32>::with_capacity(len);
    advise_huge_pages(numbers.as_mut_ptr().cast(), len * size_of::<f32>());
    numbers.extend((0..len).map(|i| (i % 13) as f32 / 13.0 - 0.5));
    numbers
}

fn measure_product(l: Layer, kind: Kind, pool: &WorkerPool, budget: Duration) -> Result<Measured> {
    let [m, n, k] = kind.shape(l);
    let (a, b, mut c) = (operand(m * k), operand(k * n), operand(m * n));
    let (a, b) = match kind {
        Kind::Forward => (MatRef::row_major(&a, m, k), MatRef::row_major(&b, n, k).transposed()),
        Kind::Input => (MatRef::row_major(&a, m, k), MatRef::row_major(&b, k, n)),
        Kind::Weights => (MatRef::row_major(&a, k, m).transposed(), MatRef::row_major(&b, k, n)),
    };
    // A single run of a small product is shorter than the clock's step.
    let runs = (200_000 / (m * n * k)).max(1);
    let mut product = || -> Result<f64> {
        let (done, time) = timed(|| {
            (0..runs).try_for_each(|_| {
                let c = MatMut::row_major(&mut c, m, n);
                gemm_on(pool, 1.0, a, Rhs::Plain(b), 0.0, c, Epilogue::None)
            })
        });
        done.map_err(|trap| format!("a product stopped: {trap:?}"))?;
        Ok(milliseconds(time) / runs as f64)
    };
    let (mut all, mut shares, mut best_peak) = (vec![], vec![], 0.0f64);
    product()?;
    for _ in 0..ROUNDS {
        let before = peak();
        let (mut times, start) = (vec![], Instant::now());
        while times.is_empty() || start.elapsed() < budget / ROUNDS {
            times.push(product()?);
        }
        let peak = before.max(peak()) * pool.threads() as f64;
        let best = times.iter().copied().fold(f64::INFINITY, f64::min);
        best_peak = best_peak.max(peak);
        shares.push(2e-6 * (m * n * k) as f64 / best / peak);
        all.extend(times);
    }
    Ok(Measured { times: all.into_iter().collect(), peak: best_peak, shares: shares.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layers_products_have_equal_work() {
        for l in LAYERS {
            let work = Kind::ALL.map(|kind| kind.shape(*l).iter().product::<usize>());
            assert_eq!(work, [l.rows * l.inputs * l.outputs; 3]);
        }
    }

    #[test]
    fn results_name_every_product() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gemm.json");
        let json = path.to_str().unwrap();
        let list = ["gemm", "--model", "mlp9", "--threads", "2", "--budget", "0", "--json", json];
        run(&Arguments::try_parse_from(list).unwrap()).unwrap();
        let result: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(result["products"].as_array().unwrap().len(), 9);
        assert!(result["peak_gflops"].as_f64().unwrap() > 0.1);
        assert_eq!(result["products"][0]["shares"].as_array().unwrap().len(), ROUNDS as usize);
    }
}
