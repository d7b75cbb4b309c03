//! A network against values that PyTorch computed (`bench/peers/ml/dump.py`).

use std::path::PathBuf;

use ir::value::TensorValue;
use lantern::nn::{self, Activation};
use lantern::{Function, Params, Spec, Tensor, stage};

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
