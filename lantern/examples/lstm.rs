//! Trains a long short-term memory to say the next letter of a text, then lets it write on.
//!
//! `cargo run --release -p lantern --example lstm`

use std::collections::HashMap;

use ir::types::ScalarType::F32;
use lantern::{Init, Optimizer, Params, Tensor, array, nn, stage, value};
use ndarray::{Array1, Array2};

const TEXT: &str = "the quick brown fox jumps over the lazy dog, and the lazy dog sleeps on. ";
const LETTERS: &str = " abcdefghijklmnopqrstuvwxyz,.";
const STEPS: usize = 24;
const HIDDEN: usize = 64;

fn letter(c: char) -> i64 {
    LETTERS.find(c).map_or(0, |i| i as i64)
}

/// Logits of the next letters, `[steps, batch, letters]`, for letters `[steps, batch]`.
fn network(p: &HashMap<&str, &Tensor>, letters: &Tensor) -> Tensor {
    let xs = nn::embedding(p["emb"], letters);
    let w = nn::Lstm { input: p["wi"], state: p["wh"], input_bias: p["bi"], state_bias: p["bh"] };
    let zeros = xs.scope().zeros(F32, &[xs.dim(1), HIDDEN.into()]);
    let (hs, _, _) = nn::lstm(&xs, (&zeros, &zeros), w);
    nn::linear(&hs, p["wo"], Some(p["bo"]))
}

fn main() -> lantern::Result<()> {
    let n = LETTERS.len();
    let uniform = |name: &str, shape: &[usize]| (name.to_string(), shape.to_vec(), Init::uniform_for(HIDDEN));
    let list = [
        uniform("emb", &[n, 16]),
        uniform("wi", &[4 * HIDDEN, 16]),
        uniform("wh", &[4 * HIDDEN, HIDDEN]),
        uniform("bi", &[4 * HIDDEN]),
        uniform("bh", &[4 * HIDDEN]),
        uniform("wo", &[n, HIDDEN]),
        uniform("bo", &[n]),
    ];
    let params = Params::init(F32, list, 1)?;
    let count = params.len();
    let optimizer = Optimizer::adam(0.01);

    // One step: parameters and the optimizer's state in, the loss and what follows out.
    let mut specs = params.specs_and(["t: i64[]"]);
    for kind in ["mean", "square"] {
        specs.extend(params.iter().map(|(name, v)| lantern::Spec::of(format!("{name}.{kind}"), F32, &v.shape)));
    }
    specs.extend(["x: i64[steps, batch]".into(), "y: i64[steps, batch]".into()]);
    let step = stage("step", specs, |t| {
        let (old, data) = t.split_at(t.len() - 2);
        let (weights, state) = old.split_at(count);
        let loss = nn::cross_entropy(&network(&params.named(weights), &data[0]), &data[1]);
        let grads = loss.grad(&weights.iter().collect::<Vec<_>>());
        (vec![loss], optimizer.step(weights, &grads, state))
    })?;

    // Windows of the text, one column each, and the letters behind theirs.
    let text: Vec<i64> = TEXT.chars().cycle().take(TEXT.len() + STEPS + 1).map(letter).collect();
    let window = |shift: usize| value(Array2::from_shape_fn((STEPS, TEXT.len()), |(i, b)| text[b + i + shift]));
    let (x, y) = (window(0), window(1));

    let mut now: Vec<_> = params.values().collect();
    now.push(value(0i64));
    for _ in 0..2 {
        now.extend(params.values().map(|v| value(array::<f32>(&v).unwrap_or_default() * 0.0)));
    }
    let mut last = f32::INFINITY;
    for i in 0..=120 {
        let mut out = step.run(now.into_iter().chain([x.clone(), y.clone()]))?;
        now = out.split_off(1);
        last = array::<f32>(&out[0])?.sum();
        if i % 20 == 0 {
            println!("step {i:3}  loss {last:.4}");
        }
    }
    assert!(last < 0.2, "the text was not learned: loss {last}");

    let next = stage("next", params.specs_and(["x: i64[steps]"]), |t| {
        let logits = network(&params.named(&t[..count]), &t[count].unsqueeze(1));
        logits.argmax(-1)
    })?;
    let mut written: Vec<i64> = "the quick ".chars().map(letter).collect();
    for _ in 0..60 {
        let seen = value(Array1::from(written[written.len().saturating_sub(STEPS)..].to_vec()));
        let out = next.run(now[..count].iter().cloned().chain([seen]))?;
        written.extend(array::<i64>(&out[0])?.iter().last());
    }
    let text: String = written.iter().filter_map(|i| LETTERS.chars().nth(*i as usize)).collect();
    println!("{text}");
    Ok(())
}
