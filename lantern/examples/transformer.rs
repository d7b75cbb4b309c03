//! Trains a Transformer to say a sentence backwards.
//!
//! `cargo run --release -p lantern --example transformer`

use std::time::Instant;

use ir::types::ScalarType::F32;
use lantern::{Optimizer, Params, Spec, array, nn, stage, value};
use ndarray::Array2;

const WORDS: usize = 12;
const LENGTH: usize = 6;
const BATCH: usize = 32;

fn main() -> lantern::Result<()> {
    let shape = nn::Transformer { words: WORDS, width: 32, heads: 4, encoders: 1, decoders: 1, inner: 64 };
    let params = Params::init(F32, shape.params(), 3)?;
    let count = params.len();
    let optimizer = Optimizer::adam(3e-3);

    let mut specs = params.specs_and(["t: i64[]"]);
    for kind in ["mean", "square"] {
        specs.extend(params.iter().map(|(name, v)| Spec::of(format!("{name}.{kind}"), F32, &v.shape)));
    }
    for name in ["source", "target", "y"] {
        specs.push(Spec::new(name, format!("i64[{BATCH}, {LENGTH}]")));
    }
    let step = stage("step", specs, |t| {
        let (old, data) = t.split_at(t.len() - 3);
        let (weights, state) = old.split_at(count);
        let logits = shape.logits(&params.named(weights), &data[0], &data[1]);
        let loss = nn::cross_entropy(&logits, &data[2]);
        let right = logits.argmax(-1).eq(&data[2]).cast(F32).mean([0, 1]);
        let grads = loss.grad(&weights.iter().collect::<Vec<_>>());
        (vec![loss, right], optimizer.step(weights, &grads, state))
    })?;

    let begin = Instant::now();
    step.compile()?;
    println!("compiled in {:.2} s", begin.elapsed().as_secs_f64());
    let mut now: Vec<_> = params.values().collect();
    now.push(value(0i64));
    for _ in 0..2 {
        now.extend(params.values().map(|v| value(array::<f32>(&v).unwrap_or_default() * 0.0)));
    }
    let mut state = 1u64;
    let mut right = 0.0;
    for i in 0..=400 {
        // Sentences of words 1 and up; word 0 begins the target.
        let source = Array2::from_shape_simple_fn((BATCH, LENGTH), || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            1 + (state >> 33) as i64 % (WORDS as i64 - 1)
        });
        let y = Array2::from_shape_fn((BATCH, LENGTH), |(b, k)| source[[b, LENGTH - 1 - k]]);
        let target = Array2::from_shape_fn((BATCH, LENGTH), |(b, k)| if k == 0 { 0 } else { y[[b, k - 1]] });
        let mut out = step.run(now.into_iter().chain([value(source), value(target), value(y)]))?;
        now = out.split_off(2);
        right = array::<f32>(&out[1])?.sum();
        if i % 50 == 0 {
            println!("step {i:3}  loss {:.4}  right {:.1} %", array::<f32>(&out[0])?.sum(), right * 100.0);
        }
    }
    let ms = begin.elapsed().as_secs_f64() * 1e3 / 401.0;
    println!("{ms:.1} ms a step");
    assert!(right > 0.9, "the words were not learned");
    Ok(())
}
