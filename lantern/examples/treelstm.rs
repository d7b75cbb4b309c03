//! Trains a binary tree-LSTM by recursion over trees of known shape: at each node, whether more of the words below it are
//! good than bad.
//!
//! `cargo run --release -p lantern --example treelstm`

use std::time::Instant;

use ir::types::ScalarType::F32;
use ir::value::TensorValue;
use lantern::{Init, Optimizer, Params, Tensor, array, nn, stage, value};
use ndarray::Array1;

const WORDS: usize = 40;
const EMBEDDING: usize = 16;
const HIDDEN: usize = 24;

/// Numbers that differ (xorshift; Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % n
    }
}

/// A random tree: words of the leaves, children, labels. Leaves come first, children before their parents.
fn tree(r: &mut Numbers) -> [TensorValue; 4] {
    let leaves = 3 + r.below(10);
    let words: Vec<i64> = (0..leaves).map(|_| r.below(WORDS) as i64).collect();
    // Words below the middle are good.
    let mut good: Vec<i64> = words.iter().map(|w| if *w < WORDS as i64 / 2 { 1 } else { -1 }).collect();
    let (mut left, mut right) = (vec![-1; leaves], vec![-1; leaves]);
    let mut open: Vec<usize> = (0..leaves).collect();
    while open.len() > 1 {
        let i = r.below(open.len() - 1);
        let (a, b) = (open[i], open.remove(i + 1));
        left.push(a as i64);
        right.push(b as i64);
        good.push(good[a] + good[b]);
        open[i] = left.len() - 1;
    }
    let label = good.iter().map(|g| i64::from(*g > 0)).collect();
    // Inner nodes have no word.
    let words = words.into_iter().chain(std::iter::repeat(0)).take(left.len()).collect();
    [words, left, right, label].map(|v: Vec<i64>| value(Array1::from(v)))
}

fn main() -> lantern::Result<()> {
    let part = |name: &str, shape: &[usize]| (name.to_string(), shape.to_vec(), Init::uniform_for(HIDDEN));
    let list = [
        part("emb", &[WORDS, EMBEDDING]),
        part("wx", &[3 * HIDDEN, EMBEDDING]),
        part("bx", &[3 * HIDDEN]),
        part("wh", &[5 * HIDDEN, 2 * HIDDEN]),
        part("bh", &[5 * HIDDEN]),
        part("wo", &[2, HIDDEN]),
        part("bo", &[2]),
    ];
    let params = Params::init(F32, list, 7)?;
    let count = params.len();
    let optimizer = Optimizer::adagrad(0.05);

    let mut specs = params.specs();
    specs.extend(params.iter().map(|(name, v)| lantern::Spec::of(format!("{name}.sum"), F32, &v.shape)));
    specs.extend(["word: i64[n]", "left: i64[n]", "right: i64[n]", "label: i64[n]"].map(Into::into));
    let step = stage("step", specs, |t| {
        let (old, data) = t.split_at(2 * count);
        let (weights, state) = old.split_at(count);
        let (p, [word, left, right, label]) = (params.named(weights), [0, 1, 2, 3].map(|i: usize| &data[i]));
        let w = nn::TreeLstm {
            leaf: p["wx"],
            leaf_bias: p["bx"],
            inner: p["wh"],
            inner_bias: p["bh"],
            output: p["wo"],
            output_bias: p["bo"],
        };
        let root = word.scope().size(&word.dim(0)) - 1.0;
        let leaf = |n: &Tensor| nn::embedding(p["emb"], &word.gather(n));
        let logits = nn::tree_lstm(nn::Tree { left, right }, &root, leaf, w);
        let loss = nn::cross_entropy(&logits, label);
        let right = logits.argmax(-1).eq(label).cast(F32).mean(0);
        let grads = loss.grad(&weights.iter().collect::<Vec<_>>());
        (vec![loss, right], optimizer.step(weights, &grads, state))
    })?;

    let mut r = Numbers(0x2545_F491_4F6C_DD1D);
    let trees: Vec<[TensorValue; 4]> = (0..100).map(|_| tree(&mut r)).collect();
    let mut now: Vec<TensorValue> = params.values().collect();
    now.extend(params.values().map(|v| value(array::<f32>(&v).unwrap_or_default() * 0.0)));
    let mut share = 0.0;
    step.compile()?;
    for epoch in 0..8 {
        let begin = Instant::now();
        let (mut loss, mut right) = (0.0, 0.0);
        for tree in &trees {
            let mut out = step.run(now.into_iter().chain(tree.iter().cloned()))?;
            now = out.split_off(2);
            loss += array::<f32>(&out[0])?.sum();
            right += array::<f32>(&out[1])?.sum();
        }
        let n = trees.len() as f32;
        share = right / n;
        let ms = begin.elapsed().as_secs_f64() * 1e3 / f64::from(n);
        println!("epoch {epoch}  loss {:.4}  right {:.1} %  {ms:.2} ms a tree", loss / n, share * 100.0);
    }
    assert!(share > 0.95, "the trees were not learned");
    Ok(())
}
