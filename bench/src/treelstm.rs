//! The tree-LSTM of `bench/peers/ml/configs.md` by recursion over child indices, through Lantern's public functions: hidden 150,
//! frozen embeddings of 300, 5 classes at every node, Adagrad 0.05, over the trees of `bench/peers/ml/trees.txt`, one at a time.
//! The results carry the keys of `treelstm.py` there.
//!
//! What holds: a step is one tree: forward, loss, backward and optimizer, or forward and loss. The program is compiled once and
//! takes trees of any size; parameters and the optimizer's state go from one run into the next. With `IR_OFF=levels` the recursion
//! stays one, else the optimizer computes the nodes of one height together. Parameters are drawn from the configuration's
//! distributions by a generator of our own, so that `loss_mean` is near the peers' one, not equal to it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use ir::exec::run::Resources;
use ir::exec::{Datum, Inputs};
use ir::types::ScalarType::F32;
use ir::value::TensorValue;
use lantern::{Function, Init, Optimizer, Params, Spec, Tensor, array, nn, stage, value};
use ndarray::Array1;
use runtime::scheduler::WorkerPool;
use serde_json::json;

use crate::measure::{Bystanders, Times, milliseconds, timed};
use crate::steps::{self, Mode, Options, digits};
use crate::{Result, data};

/// Time training steps or forward passes of a tree-LSTM.
#[derive(Debug, Clone, Parser)]
pub struct Arguments {
    #[command(flatten)]
    pub options: Options,
}

const HIDDEN: usize = 150;
const EMBEDDING: usize = 300;
const WORDS: usize = 2000;
const CLASSES: usize = 5;
/// Where the trees are, from the workspace root.
const TREES: &str = "bench/peers/ml/trees.txt";
/// Trees before those that are timed.
const WARM_UP: usize = 20;
/// What a tree is to the program, beside the parameters.
const TREE: [&str; 4] = ["word", "left", "right", "label"];

/// A tree: the words of its leaves, which come first; the children of all nodes, -1 for those of a leaf; their labels.
#[derive(Debug)]
struct Tree {
    nodes: usize,
    parts: [Arc<TensorValue>; 4],
}

impl Tree {
    /// A line of the file: words, left children of the inner nodes, right ones, labels of all nodes.
    fn parse(line: &str) -> Result<Self> {
        let group = |text: &str| text.split_whitespace().map(str::parse).collect::<Result<Vec<i64>, _>>();
        let groups = line.split('|').map(group).collect::<Result<Vec<_>, _>>()?;
        let [words, left, right, labels]: [Vec<i64>; 4] =
            groups.try_into().map_err(|_| format!("{TREES}: a tree is four lists, by |"))?;
        let nodes = words.len() + left.len();
        let children = |inner: Vec<i64>| [vec![-1; words.len()], inner].concat();
        let (left, right) = (children(left), children(right));
        if right.len() != nodes || labels.len() != nodes || nodes == 0 {
            return Err(
                format!("{TREES}: {nodes} nodes, {} right children, {} labels", right.len(), labels.len()).into()
            );
        }
        let parts = [words, left, right, labels].map(|list| Arc::new(value(Array1::from(list))));
        Ok(Self { nodes, parts })
    }

    fn read(path: &Path) -> Result<Vec<Self>> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        text.lines().map(Self::parse).collect()
    }
}

/// Runs the benchmark, prints its results and writes them.
///
/// # Errors
/// What compilation or a run answers; a file that cannot be read or written.
pub fn run(arguments: &Arguments) -> Result<()> {
    let options = &arguments.options;
    let mut trees = Tree::read(&data::from_root(Path::new(TREES)))?;
    trees.truncate(options.steps.map_or(usize::MAX, |n| n as usize));
    let resources = Resources::new(Arc::new(WorkerPool::new(options.threads)), None);
    let others = Bystanders::watch();
    let mut steps = Steps::new(options.mode)?;
    let (done, first) = timed(|| steps.step(&trees[0], &resources));
    done?;
    for tree in trees.iter().take(WARM_UP) {
        steps.step(tree, &resources)?;
    }
    let (mut times, mut loss) = (Times::default(), 0.0);
    for tree in &trees {
        let (done, time) = timed(|| steps.step(tree, &resources));
        loss += done? / trees.len() as f64;
        times.push(time);
    }
    steps::tell(options, &others, fields(&times, first, loss, &trees))
}

fn fields(times: &Times, first: Duration, loss: f64, trees: &[Tree]) -> serde_json::Value {
    let (count, sum) = (times.len() as f64, times.all().iter().sum::<f64>());
    let nodes: usize = trees.iter().map(|t| t.nodes).sum();
    json!({
        "model": "treelstm",
        "batch": 1,
        "by": if ir::opt::switched_off().iter().any(|name| name == "levels") { "recursion" } else { "levels" },
        "median_ms": digits(times.median()),
        "min_ms": digits(times.min()),
        "mean_ms": digits(sum / count),
        "trees_per_s": (1e4 * count / sum).round() / 10.0,
        "nodes_per_tree": (10.0 * nodes as f64 / count).round() / 10.0,
        "steps": times.len(),
        "first_step_ms": digits(milliseconds(first)),
        "loss_mean": digits(loss),
    })
}

/// The compiled step, and what goes from one into the next.
struct Steps {
    program: Function,
    inputs: Inputs,
    /// What the parameters and the optimizer's state are called; a forward pass changes none.
    carried: Vec<String>,
}

impl Steps {
    fn new(mode: Mode) -> Result<Self> {
        let part = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec(), Init::uniform_for(HIDDEN));
        let weights = [
            part("wx", &[3 * HIDDEN, EMBEDDING]),
            part("bx", &[3 * HIDDEN]),
            part("wh", &[5 * HIDDEN, 2 * HIDDEN]),
            part("bh", &[5 * HIDDEN]),
            part("wo", &[CLASSES, HIDDEN]),
            part("bo", &[CLASSES]),
        ];
        let weights = Params::init(F32, weights, 1234)?;
        let frozen = Params::init(F32, [("emb".to_owned(), vec![WORDS, EMBEDDING], Init::Uniform(0.05))], 4321)?;
        let mut inputs = Inputs::new();
        let mut carried = vec![];
        let mut specs: Vec<Spec> = frozen.specs();
        for (name, v) in frozen.iter() {
            inputs = inputs.tensor(name, v.clone());
        }
        specs.extend(weights.specs());
        for (name, v) in weights.iter() {
            inputs = inputs.tensor(name, v.clone());
            carried.push(name.to_owned());
        }
        if mode == Mode::Train {
            for (name, v) in weights.iter() {
                let (name, zeros) = (format!("{name}.sum"), array::<f32>(v)? * 0.0);
                specs.push(Spec::of(&name, F32, &v.shape));
                inputs = inputs.tensor(&name, value(zeros));
                carried.push(name);
            }
        } else {
            carried.clear();
        }
        specs.extend(["word: i64[leaves]", "left: i64[n]", "right: i64[n]", "label: i64[n]"].map(Into::into));
        let program = stage("treelstm", specs, |t| step(mode, &weights, t))?;
        Ok(Self { program, inputs, carried })
    }

    /// The loss of a tree.
    fn step(&mut self, tree: &Tree, resources: &Resources) -> Result<f64> {
        for (name, part) in TREE.iter().zip(&tree.parts) {
            self.inputs.set(*name, Datum::Tensor(Arc::clone(part)));
        }
        let mut out = self.program.compile()?.run(&self.inputs, resources)?.list.into_iter();
        let loss = match out.next().map(|o| o.datum) {
            Some(Datum::Tensor(loss)) => f64::from(array::<f32>(&loss)?.sum()),
            _ => return Err("a step yields a loss".into()),
        };
        for (name, o) in self.carried.iter().zip(out) {
            self.inputs.set(name, o.datum);
        }
        Ok(loss)
    }
}

/// The loss of a tree, and in training the parameters and the optimizer's state behind the step.
fn step(mode: Mode, weights: &Params, t: &[Tensor]) -> Vec<Tensor> {
    let (emb, rest) = (&t[0], &t[1..]);
    let (w, rest) = rest.split_at(weights.len());
    let (state, data) = rest.split_at(rest.len() - TREE.len());
    let (p, [word, left, right, label]) = (weights.named(w), [0, 1, 2, 3].map(|i: usize| &data[i]));
    let root = left.scope().size(&left.dim(0)) - 1.0;
    let leaf = |n: &Tensor| nn::embedding(emb, &word.gather(n));
    let parts = nn::TreeLstm {
        leaf: p["wx"],
        leaf_bias: p["bx"],
        inner: p["wh"],
        inner_bias: p["bh"],
        output: p["wo"],
        output_bias: p["bo"],
    };
    let logits = nn::tree_lstm(nn::Tree { left, right }, &root, leaf, parts);
    let loss = nn::cross_entropy(&logits, label);
    if mode == Mode::Infer {
        return vec![loss];
    }
    let grads = loss.grad(&w.iter().collect::<Vec<_>>());
    let (w, state) = Optimizer::adagrad(0.05).step(w, &grads, state);
    [vec![loss], w, state].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_that_does_not_fit_is_told() {
        assert_eq!(Tree::parse("7 8|0|1|1 2 3").unwrap().nodes, 3);
        for line in ["", "7 8|0|1|1 2", "7 8|0||1 2 3", "7 8|0|1", "7 x|0|1|1 2 3"] {
            assert!(Tree::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn both_modes_run() {
        for mode in ["train", "infer"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("treelstm.json");
            let list = ["treelstm", "--mode", mode, "--threads", "1", "--steps", "4", "--json", path.to_str().unwrap()];
            run(&Arguments::try_parse_from(list).unwrap()).unwrap();
            let result: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
            assert_eq!((&result["steps"], &result["by"]), (&json!(4), &json!("levels")));
            // Five classes of equal probability: ln 5.
            let loss = result["loss_mean"].as_f64().unwrap();
            assert!(loss < 1.9 && (mode == "train" || loss > 1.4), "{mode}: {loss}");
        }
    }
}
