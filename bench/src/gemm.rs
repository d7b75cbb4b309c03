//! The matrix products of the models in `bench/peers/ml/configs.md`: each layer's product, and those of the gradients of its
//! input and of its weights, by the library that compiled programs call. Convolutions count as the product over their windows.
//!
//! What holds: a product's speed is that of its best run out of several, in GFLOP/s; the peak beside it is measured in the same
//! process, on one thread, and is multiplied by the number of threads.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use runtime::gemm::{Epilogue, MatMut, MatRef, Rhs, fused_chains, gemm_rows};
use runtime::scheduler::WorkerPool;
use serde_json::{Value, json};

use crate::measure::{self, Bystanders, Times, timed};
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
    #[arg(long, default_value_t = 0.1)]
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
    let chains = repeat(budget.max(Duration::from_millis(200)), || _ = fused_chains());
    let peak = fused_chains() as f64 / chains.min() / 1e6 * pool.threads() as f64;
    println!("peak {peak:.1} GFLOP/s on {} threads", pool.threads());
    println!("{:<12} {:<20} {:<15} {:>20} {:>9} {:>6}", "model", "layer", "product", "m x n x k", "GFLOP/s", "peak");
    let wanted = |l: &&Layer| arguments.model.as_ref().is_none_or(|m| l.model.starts_with(m.as_str()));
    let mut rows = vec![];
    for l in LAYERS.iter().filter(wanted) {
        for kind in Kind::ALL {
            let times = measure_product(*l, kind, &pool, budget);
            let [m, n, k] = kind.shape(*l);
            let flops = 2.0 * m as f64 * n as f64 * k as f64;
            let (best, median) = (flops / times.min() / 1e6, flops / times.median() / 1e6);
            let shape = format!("{m} x {n} x {k}");
            let share = best / peak * 100.0;
            println!("{:<12} {:<20} {:<15} {shape:>20} {best:>9.1} {share:>5.0}%", l.model, l.name, kind.name());
            rows.push(json!({
                "model": l.model, "layer": l.name, "product": kind.name(), "m": m, "n": n, "k": k,
                "min_ms": digits(times.min()), "median_ms": digits(times.median()), "runs": times.len(),
                "gflops": report::digits(best), "median_gflops": report::digits(median),
                "share_of_peak": report::digits(best / peak),
            }));
        }
    }
    let Value::Object(mut result) = measure::machine() else {
        return Err("the machine is described by an object".into());
    };
    result.insert("threads".into(), json!(pool.threads()));
    result.insert("peak_gflops".into(), json!(report::digits(peak)));
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

/// Times of a piece of work, repeated for so long and at least three times.
fn repeat(budget: Duration, mut work: impl FnMut()) -> Times {
    let mut times = Times::default();
    let start = Instant::now();
    while times.len() < 3 || start.elapsed() < budget {
        times.push(timed(&mut work).1);
    }
    times
}

/// Products below this number of multiplications run on one thread, as in compiled programs.
const SPLIT: usize = 1 << 23;

fn measure_product(l: Layer, kind: Kind, pool: &WorkerPool, budget: Duration) -> Times {
    let fill = |n: usize| (0..n).map(|i| (i % 13) as f32 / 13.0 - 0.5).collect::<Vec<f32>>();
    let [m, n, k] = kind.shape(l);
    let (a, b) = (fill(m * k), fill(k * n));
    let mut c = vec![0f32; m * n];
    let (a, b) = match kind {
        Kind::Forward => (MatRef::row_major(&a, m, k), MatRef::row_major(&b, n, k).transposed()),
        Kind::Input => (MatRef::row_major(&a, m, k), MatRef::row_major(&b, k, n)),
        Kind::Weights => (MatRef::row_major(&a, k, m).transposed(), MatRef::row_major(&b, k, n)),
    };
    let cuts = if m * n * k >= SPLIT { pool.threads().min(m.div_ceil(16)) } else { 1 };
    let rows = m.div_ceil(cuts).next_multiple_of(8);
    // A single run of a small product is shorter than the clock's step.
    let runs = (200_000 / (m * n * k)).max(1);
    let times = repeat(budget, || {
        for _ in 0..runs {
            let parts: Vec<Mutex<&mut [f32]>> = c.chunks_mut(rows * n).map(Mutex::new).collect();
            let done = pool.run(parts.len(), |task, _| {
                let mut c = parts[task].lock().unwrap_or_else(PoisonError::into_inner);
                let first = task * rows;
                let count = c.len() / n;
                let c = MatMut::row_major(&mut c, count, n);
                gemm_rows(first..first + count, 1.0, a, Rhs::Plain(b), 0.0, c, Epilogue::None);
                Ok(())
            });
            drop(done);
        }
    });
    times.all().iter().map(|ms| ms / runs as f64).collect()
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
    }
}
