//! Tests of Lantern through its public functions.

mod attention;
mod control;
mod golden;
mod gradients;
mod levels;
mod random;
mod regression;
mod training;
mod values;

use ir::value::{TensorData, TensorValue};
use lantern::Function;

/// What the interpreter gives, after a check that the compiled function gives the same: floats within 1e-9 of the greatest in
/// their tensor (`f32`: 1e-5), all else exactly.
fn both(f: &Function, inputs: &[TensorValue]) -> lantern::Result<Vec<TensorValue>> {
    let interpreted = f.interpret(inputs.iter().cloned())?;
    let compiled = f.run(inputs.iter().cloned())?;
    assert_eq!(interpreted.len(), compiled.len());
    for (i, (want, got)) in interpreted.iter().zip(&compiled).enumerate() {
        let tolerance = match &want.data {
            TensorData::F32(_) => 1e-5,
            TensorData::F64(_) => 1e-9,
            _ => {
                assert_eq!(want, got, "result {i}, compiled");
                continue;
            }
        };
        let scale = doubles(want).iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
        assert_close(&format!("result {i}, compiled"), got, want, tolerance * scale);
    }
    Ok(interpreted)
}

/// The elements as doubles.
fn doubles(v: &TensorValue) -> Vec<f64> {
    match &v.data {
        TensorData::F32(v) => v.iter().map(|x| f64::from(*x)).collect(),
        TensorData::F64(v) => v.clone(),
        other => panic!("{other:?} holds no floats"),
    }
}

#[track_caller]
fn assert_close(what: &str, got: &TensorValue, want: &TensorValue, tolerance: f64) {
    assert_eq!(got.shape, want.shape, "{what}");
    for (i, (g, w)) in doubles(got).into_iter().zip(doubles(want)).enumerate() {
        let same = g == w || (g.is_nan() && w.is_nan());
        assert!(same || (g - w).abs() <= tolerance, "{what}, element {i}: {g}, expected {w}");
    }
}
