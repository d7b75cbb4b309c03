//! Attention in the networks that have it: the optimizer finds it, and it computes the same.

use ir::opt::{OptOptions, OptReport, optimize};
use ir::types::ScalarType::{F32, I64};
use ir::value::{TensorData, TensorValue};
use lantern::{Function, Params, Spec, Tensor, nn, stage, value};
use ndarray::Array2;

use crate::gradients::{check, numbers, weigh};
use crate::{assert_close, both};

const SHAPE: nn::Transformer = nn::Transformer { words: 11, width: 16, heads: 2, encoders: 6, decoders: 6, inner: 24 };

/// What the Transformer answers for sentences of 7 words and of 5.
fn inference() -> (Function, Vec<TensorValue>) {
    let params = Params::init(F32, SHAPE.params(), 5).expect("parameters");
    let n = params.len();
    let specs = params.specs_and(["source: i64[3, 7]", "target: i64[3, 5]"]);
    let f = stage("logits", specs, |t| SHAPE.logits(&params.named(&t[..n]), &t[n], &t[n + 1]));
    let words = |rows: usize| value(Array2::from_shape_fn((3, rows), |(i, j)| (i * 5 + j * 3) as i64 % 11));
    (f.expect("it stages"), params.values().chain([words(7), words(5)]).collect())
}

fn optimized(f: &Function) -> (String, OptReport) {
    let (program, report) = optimize(f.program().clone(), &OptOptions::default()).expect("it optimizes");
    (program.print(), report)
}

#[test]
fn every_attention_of_a_transformer_runs_by_tiles() {
    let (f, inputs) = inference();
    let (text, report) = optimized(&f);
    // Six in the encoder; in the decoder six that look back, and six at the encoder.
    assert_eq!((report.rewrites("attention"), text.matches("attend<").count()), (18, 18));
    for scores in ["f32[3, 2, 7, 7]", "f32[3, 2, 5, 5]", "f32[3, 2, 5, 7]"] {
        assert!(f.program().print().contains(scores) && !text.contains(scores), "{scores} in\n{text}");
    }
    both(&f, &inputs).expect("it runs");
}

#[test]
fn derivatives_run_by_tiles_too() {
    for causal in [false, true] {
        let f = stage("f", ["q: f64[2, 3, 4]", "k: f64[2, 5, 4]"].map(Spec::from), |t| {
            let out = nn::attention(&t[0], &t[1], &t[1], 2, causal).sum([0, 1, 2]);
            let grads = out.grad(&[&t[0], &t[1]]);
            (vec![out], grads)
        });
        let (text, _) = optimized(&f.expect("it stages"));
        assert_eq!((text.matches("attend<").count(), text.matches("attend_grad<").count()), (1, 1), "{text}");
        assert!(!text.contains("f64[2, 2, 3, 5]"), "scores in\n{text}");
    }
}

#[test]
fn attention_has_the_derivatives_of_its_definition() {
    let specs = ["q: f64[2, 3, 4]", "k: f64[2, 5, 4]", "v: f64[2, 5, 4]"];
    let inputs = [(&[2, 3, 4], 1), (&[2, 5, 4], 2), (&[2, 5, 4], 3)].map(|(shape, seed)| numbers(shape, seed));
    for causal in [false, true] {
        check(&specs, &inputs, |t| nn::attention(&t[0], &t[1], &t[2], 2, causal));
        // Of some of them only.
        let fixed = |t: &Tensor, i: usize| t.scope().constant(inputs[i].clone());
        check(&specs[1..], &inputs[1..], |t| nn::attention(&fixed(&t[0], 0), &t[0], &t[1], 2, causal));
        check(&specs[..1], &inputs[..1], |t| nn::attention(&t[0], &fixed(&t[0], 1), &fixed(&t[0], 2), 1, causal));
    }
}

#[test]
fn attention_has_second_derivatives() {
    let specs = ["q: f64[1, 3, 4]", "k: f64[1, 4, 4]"];
    let inputs = [numbers(&[1, 3, 4], 1), numbers(&[1, 4, 4], 2)];
    for causal in [false, true] {
        check(&specs, &inputs, |t| {
            let y = weigh(&nn::attention(&t[0], &t[1], &t[1], 2, causal));
            let grads = y.grad(&[&t[0], &t[1]]);
            weigh(&grads[0]) + weigh(&grads[1])
        });
    }
}

#[test]
fn what_changes_the_scores_may_have_a_derivative() {
    // Then the scores are needed: the separate operations stay.
    let specs = ["q: f64[3, 4]", "k: f64[5, 4]", "bias: f64[3, 5]"];
    let inputs = [numbers(&[3, 4], 1), numbers(&[5, 4], 2), numbers(&[3, 5], 3)];
    let network = |t: &[Tensor]| (t[0].contract("qd,kd->qk", &t[1]) + &t[2]).softmax(-1).contract("qk,kd->qd", &t[1]);
    check(&specs, &inputs, network);
    let bias = |t: &Tensor| t.scope().constant(inputs[2].clone());
    check(&specs[..2], &inputs[..2], |t| network(&[t[0].clone(), t[1].clone(), bias(&t[0])]));
    let backward = |wrt: &[usize]| {
        let f = stage("backward", specs.map(Spec::from), lantern::grad(|t| weigh(&network(t)), wrt));
        optimized(&f.expect("it stages")).0.matches("attend_grad<").count()
    };
    assert_eq!((backward(&[0, 1]), backward(&[0, 1, 2])), (1, 0));
}

#[test]
fn softmax_written_out_is_found_too() {
    let specs = ["q: f32[2, 4, 6]", "k: f32[2, 5, 6]", "v: f32[2, 5, 3]", "bias: f32[4, 5]"];
    let inputs = specs.map(|s| {
        let (_, shape) = s.split_once("f32").expect("a type");
        let sizes: Vec<usize> =
            shape.trim_matches(['[', ']']).split(", ").map(|n| n.parse().expect("a size")).collect();
        let n = sizes.iter().product::<usize>();
        let numbers = (0..n).map(|i| (i * 7 % 13) as f32 / 3.0).collect();
        TensorValue::new(sizes, TensorData::F32(numbers)).expect("sizes agree")
    });
    let network = |t: &[Tensor]| {
        let scores = t[0].contract("bqd,bkd->bqk", &t[1]) / 6f64.sqrt() + &t[3];
        let greatest = scores.max_keep(-1);
        let weights = (&scores - &greatest).exp();
        (&weights / weights.sum_keep(-1)).contract("bqk,bkv->bqv", &t[2])
    };
    let f = stage("f", specs.map(Spec::from), network).expect("it stages");
    let (text, report) = optimized(&f);
    assert_eq!(report.rewrites("attention"), 1);
    assert!(text.contains("attend<\"bqd,bkd,bkv,qk->bqv\">"), "{text}");
    let found = both(&f, &inputs).expect("it runs").remove(0);
    let compiled = f.run(inputs).expect("it runs").remove(0);
    assert_close("the result", &compiled, &found, 1e-5);
}

#[test]
fn sizes_may_be_known_at_run_time_only() {
    let specs = ["q: f64[n, rows, 6]", "k: f64[n, keys, 6]"].map(Spec::from);
    let f = stage("f", specs, |t| nn::attention(&t[0], &t[1], &t[1], 2, true)).expect("it stages");
    assert_eq!(optimized(&f).1.rewrites("attention"), 1);
    let backward = stage("backward", ["q: f64[n, rows, 6]", "k: f64[n, keys, 6]"].map(Spec::from), |t| {
        nn::attention(&t[0], &t[1], &t[1], 2, true).square().sum([0, 1, 2]).grad(&[&t[0], &t[1]])
    });
    let backward = backward.expect("it stages");
    assert!(optimized(&backward).0.contains("attend_grad<"));
    for [n, rows, keys] in [[1, 1, 1], [2, 5, 3], [3, 40, 41]] {
        let numbers = |rows: usize, by: f64| {
            let at = |i: usize| ((i * 7 % 13) as f64 - 6.0) * by;
            let numbers = (0..n * rows * 6).map(at).collect();
            TensorValue::new(vec![n, rows, 6], TensorData::F64(numbers)).expect("sizes agree")
        };
        for f in [&f, &backward] {
            both(f, &[numbers(rows, 0.5), numbers(keys, 0.25)]).expect("it runs");
        }
    }
}

#[test]
fn layers_that_are_alike_share_their_compiled_loops() {
    let functions = |layers: usize| {
        let shape = nn::Transformer { encoders: layers, decoders: layers, ..SHAPE };
        let specs: Vec<Spec> = shape.params().into_iter().map(|(name, sizes, _)| Spec::of(name, F32, &sizes)).collect();
        let n = specs.len();
        let specs = specs.into_iter().chain(["source", "target", "next"].map(|name| Spec::of(name, I64, &[3, 7])));
        let f = stage("step", specs.collect::<Vec<_>>(), |t| {
            let names: Vec<String> = shape.params().into_iter().map(|p| p.0).collect();
            let named = names.iter().map(String::as_str).zip(&t[..n]).collect();
            let loss = nn::cross_entropy(&shape.logits(&named, &t[n], &t[n + 1]), &t[n + 2]);
            let grads = loss.grad(&t[..n].iter().collect::<Vec<_>>());
            (loss, grads)
        });
        f.expect("it stages").compile().expect("it compiles").code().stats().count()
    };
    let (three, six) = (functions(3), functions(6));
    assert_eq!(three, six);
    assert!(six < 100, "{six} functions");
}
