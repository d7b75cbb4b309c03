//! Networks against values that PyTorch computed (`bench/peers/ml/dump.py`).

use std::collections::HashMap;
use std::path::PathBuf;

use ir::value::{TensorData, TensorValue};
use lantern::nn::{self, Activation};
use lantern::{Function, Optimizer, Params, Spec, Tensor, stage};

use crate::{assert_close, both};

fn golden(name: &str) -> Params {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../bench/peers/ml/golden");
    Params::load(folder.join(name)).expect("the golden values are there")
}

fn part<'a>(all: &'a Params, prefix: &str, names: &[String]) -> Vec<&'a TensorValue> {
    names.iter().map(|n| all.get(&format!("{prefix}/{n}")).expect("a golden value")).collect()
}

fn step(golden: &Params, names: &[String]) -> Function {
    let spec = |name: &str, v: &TensorValue| Spec::of(name, v.data.dtype(), &v.shape);
    let mut specs: Vec<Spec> = vec!["x: f32[n, 9]".into(), "y: f32[n, 1]".into()];
    specs.extend(names.iter().zip(part(golden, "param", names)).map(|(n, v)| spec(n, v)));
    let f = stage("step", specs, |t| {
        let (x, y, params) = (&t[0], &t[1], &t[2..]);
        let out = nn::mlp(x, params, Activation::Relu);
        let loss = nn::mse(&out, y);
        let grads = loss.grad(&params.iter().collect::<Vec<&Tensor>>());
        (vec![out, loss], grads)
    });
    f.expect("the network stages")
}

#[test]
fn mlp_has_the_values_and_gradients_of_pytorch() {
    let golden = golden("mlp_s.safetensors");
    let names = nn::mlp_names(&[9, 16, 16, 1]);
    let f = step(&golden, &names);
    let mut inputs = part(&golden, "batch", &["x".into(), "y".into()]);
    inputs.extend(part(&golden, "param", &names));
    let inputs: Vec<TensorValue> = inputs.into_iter().cloned().collect();
    let found = both(&f, &inputs).expect("it runs");
    assert_close("out", &found[0], golden.get("out").unwrap(), 1e-5);
    let loss = TensorValue { shape: vec![1], ..found[1].clone() };
    assert_close("loss", &loss, golden.get("loss").unwrap(), 1e-5);
    for ((name, got), want) in names.iter().zip(&found[2..]).zip(part(&golden, "grad", &names)) {
        assert_close(name, got, want, 1e-4);
    }
}

/// The parts of a file under a prefix, without it.
fn parts(all: &Params, prefix: &str) -> Params {
    let inside = all.iter().filter_map(|(n, v)| Some((n.strip_prefix(prefix)?, v)));
    inside.fold(Params::new(), |p, (n, v)| p.with(n, v))
}

/// A network: parameters by name and a batch by name to output and loss.
type Network = fn(&HashMap<&str, &Tensor>, &HashMap<&str, &Tensor>) -> (Tensor, Tensor);

/// The first step has the golden values; then 20 steps of an optimizer, compiled as interpreted: in `f64`, for Adagrad divides
/// gradients that are zero but for rounding by themselves.
fn matches(file: &str, batch: &str, network: Network, optimizer: Optimizer) {
    let golden = golden(file);
    let (params, batch) = (parts(&golden, "param/"), parts(&golden, batch));
    let specs = params.specs_and(batch.specs());
    let n = params.len();
    let loss = |t: &[Tensor]| network(&params.named(&t[..n]), &batch.named(&t[n..]));
    let first = stage("first", &specs, |t| {
        let (out, loss) = loss(t);
        let grads = loss.grad(&t[..n].iter().collect::<Vec<_>>());
        (vec![out, loss], grads)
    });
    let inputs: Vec<TensorValue> = params.values().chain(batch.values()).collect();
    let found = both(&first.expect("the network stages"), &inputs).expect("it runs");
    assert_close("out", &found[0], golden.get("out").expect("an output"), 1e-5);
    let value = TensorValue { shape: vec![1], ..found[1].clone() };
    assert_close("loss", &value, golden.get("loss").expect("a loss"), 1e-5);
    for ((name, _), got) in params.iter().zip(&found[2..]) {
        assert_close(name, got, golden.get(&format!("grad/{name}")).expect("a gradient"), 1e-4);
    }

    let params = with_state(&params);
    let step = stage("step", params.specs_and(batch.specs()), |t| {
        let (old, data) = t.split_at(2 * n);
        let loss = loss(&[&old[..n], data].concat()).1;
        let grads = loss.grad(&old[..n].iter().collect::<Vec<_>>());
        let (new, state) = optimizer.step(&old[..n], &grads, &old[n..]);
        (vec![loss], (new, state))
    });
    let step = step.expect("a step stages");
    let (mut interpreted, mut compiled) = (params.clone(), params);
    let mut losses = vec![];
    for i in 0..20 {
        let mut a = step.interpret(interpreted.values().chain(batch.values())).expect("it runs");
        let mut b = step.run(compiled.values().chain(batch.values())).expect("it runs");
        assert_close(&format!("loss {i}, compiled"), &b[0], &a[0], 1e-9);
        losses.push(crate::doubles(&b[0])[0]);
        interpreted.update(a.split_off(1)).expect("the same types");
        compiled.update(b.split_off(1)).expect("the same types");
    }
    for ((name, a), (_, b)) in interpreted.iter().zip(compiled.iter()) {
        assert_close(&format!("{name} after 20 steps"), b, a, 1e-8);
    }
    assert!(losses[19] < losses[0], "{losses:?}");
}

/// Parameters as `f64`, then a state of their shapes.
fn with_state(params: &Params) -> Params {
    let double = |v: &TensorValue, by: f64| TensorValue {
        shape: v.shape.clone(),
        data: TensorData::F64(crate::doubles(v).into_iter().map(|x| x * by).collect()),
    };
    let all = params.iter().fold(Params::new(), |all, (n, v)| all.with(n, double(v, 1.0)));
    params.iter().fold(all, |all, (n, v)| all.with(format!("{n}.sum"), double(v, 0.0)))
}

#[test]
fn lstm_has_the_values_and_gradients_of_pytorch() {
    let network: Network = |p, b| {
        // [batch, steps] to [steps, batch].
        let xs = nn::embedding(p["emb"], &b["x"].t());
        let w = nn::Lstm { input: p["r.wi"], state: p["r.wh"], input_bias: p["r.bi"], state_bias: p["r.bh"] };
        let zeros = xs.scope().zeros(xs.dtype(), &[xs.dim(1), p["r.wh"].dim(1)]);
        let (hs, _, _) = nn::lstm(&xs, (&zeros, &zeros), w);
        let out = nn::linear(&hs, p["fc.w"], Some(p["fc.b"]));
        let loss = nn::cross_entropy(&out, &b["y"].t());
        (out, loss)
    };
    matches("charrnn_s.safetensors", "batch/", network, Optimizer::adagrad(1e-2));
}

fn tree_lstm(p: &HashMap<&str, &Tensor>, b: &HashMap<&str, &Tensor>) -> (Tensor, Tensor) {
    let tree = nn::Tree { left: b["left"], right: b["right"] };
    let w = nn::TreeLstm {
        leaf: p["wx"],
        leaf_bias: p["bx"],
        inner: p["wh"],
        inner_bias: p["bh"],
        output: p["wo"],
        output_bias: p["bo"],
    };
    let root = b["left"].scope().size(&b["left"].dim(0)) - 1.0;
    let leaf = |n: &Tensor| nn::embedding(p["emb"], &b["word"].gather(n));
    let out = nn::tree_lstm(tree, &root, leaf, w);
    let loss = nn::cross_entropy(&out, b["label"]);
    (out, loss)
}

#[test]
fn tree_lstm_has_the_values_and_gradients_of_pytorch() {
    matches("treelstm_s.safetensors", "tree/", tree_lstm, Optimizer::adagrad(0.05));
    let recursive: Network = |p, b| {
        b["left"].scope().compute_levels(false);
        tree_lstm(p, b)
    };
    matches("treelstm_s.safetensors", "tree/", recursive, Optimizer::adagrad(0.05));
}

#[test]
fn transformer_has_the_values_and_gradients_of_pytorch() {
    let shape = nn::Transformer { words: 50, width: 16, heads: 2, encoders: 1, decoders: 1, inner: 32 };
    let golden = golden("transformer_s.safetensors");
    for (name, sizes, _) in shape.params() {
        assert_eq!(golden.get(&format!("param/{name}")).map(|v| &v.shape), Some(&sizes), "{name}");
    }
    let network: Network = |p, b| {
        let shape = nn::Transformer { words: 50, width: 16, heads: 2, encoders: 1, decoders: 1, inner: 32 };
        let out = shape.logits(p, b["src"], b["tgt"]);
        let loss = nn::cross_entropy(&out, b["y"]);
        (out, loss)
    };
    matches("transformer_s.safetensors", "batch/", network, Optimizer::adagrad(1e-3));
}

#[test]
fn bert_has_the_values_and_gradients_of_pytorch() {
    const SHAPE: nn::Encoder = nn::Encoder { width: 24, heads: 3, layers: 2, inner: 48 };
    let golden = golden("bert4_s.safetensors");
    let names = SHAPE.params();
    assert_eq!(golden.iter().filter(|(name, _)| name.starts_with("param/")).count(), names.len());
    for (name, sizes, _) in names {
        assert_eq!(golden.get(&format!("param/{name}")).map(|v| &v.shape), Some(&sizes), "{name}");
    }
    let network: Network = |p, b| {
        let [x, y] = ["x", "y"].map(|name| b[name].cast(p["e0.n1.g"].dtype()));
        let out = SHAPE.rows(p, &x);
        let loss = nn::mse(&out, &y);
        (out, loss)
    };
    matches("bert4_s.safetensors", "batch/", network, Optimizer::adagrad(1e-3));
}
