//! Linear and logistic regression against scikit-learn's coefficients (`bench/peers/ml/sklearn_golden.py`).

use std::path::PathBuf;

use ir::types::ScalarType;
use ir::value::TensorValue;
use lantern::{Axes, Optimizer, Params, Tensor, nn, stage};

use crate::assert_close;

fn data(name: &str) -> Params {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    Params::load(folder.join(name)).expect("the data are there")
}

fn standardized(x: &Tensor) -> Tensor {
    let x = x.cast(ScalarType::F64);
    let centered = &x - x.mean_keep(0);
    let deviation = centered.square().mean_keep(0).sqrt();
    centered / deviation
}

/// Weights `[1, columns]` and intercept `[1]` after gradient descent over all rows, with momentum.
fn fitted(
    data: &Params,
    steps: usize,
    optimizer: Optimizer,
    loss: fn(&Tensor, &Tensor, &Tensor) -> Tensor,
) -> Vec<TensorValue> {
    let (x, y) = (data.get("x").unwrap(), data.get("y").unwrap());
    let columns = x.shape[1];
    let f = stage("fit", [format!("x: f32[n, {columns}]"), "y: f32[n, 1]".into()], |t| {
        let scope = t[0].scope();
        let (x, y) = (standardized(&t[0]), t[1].cast(ScalarType::F64));
        let mut state =
            vec![scope.zeros(ScalarType::F64, &[1.into(), columns.into()]), scope.zeros(ScalarType::F64, &[1.into()])];
        state.extend(optimizer.init(scope, &state));
        let (state, _) = scope.scan(steps, &state, &[], |_, state, _| {
            let (params, velocity) = state.split_at(2);
            let loss = loss(&nn::linear(&x, &params[0], Some(&params[1])), &y, &params[0]);
            let grads = loss.grad(&[&params[0], &params[1]]);
            let (mut next, velocity) = optimizer.step(params, &grads, velocity);
            next.extend(velocity);
            (next, vec![])
        });
        state[..2].to_vec()
    });
    f.expect("it stages").run([x.clone(), y.clone()]).expect("it runs")
}

/// The momentum and rate that suit second derivatives between `least` and `most` (Polyak 1964).
fn heavy_ball(least: f64, most: f64) -> Optimizer {
    let (a, b) = (least.sqrt(), most.sqrt());
    Optimizer::momentum(4.0 / (a + b).powi(2), ((b - a) / (b + a)).powi(2))
}

#[test]
fn linear_regression_has_the_coefficients_of_scikit_learn() {
    let data = data("diabetes.safetensors");
    let found = fitted(&data, 400, heavy_ball(0.017, 8.1), |y, target, _| nn::mse(y, target));
    assert_close("coefficients", &found[0], data.get("coef").unwrap(), 1e-6);
    assert_close("intercept", &found[1], data.get("intercept").unwrap(), 1e-6);
}

#[test]
fn logistic_regression_has_the_coefficients_of_scikit_learn() {
    let data = data("breast_cancer.safetensors");
    let found = fitted(&data, 500, heavy_ball(1.0 / 569.0, 3.4), |logits, target, w| {
        nn::binary_cross_entropy(logits, target) + w.square().sum(Axes::All) * (0.5 / 569.0)
    });
    assert_close("coefficients", &found[0], data.get("coef").unwrap(), 1e-5);
    assert_close("intercept", &found[1], data.get("intercept").unwrap(), 1e-5);
}
