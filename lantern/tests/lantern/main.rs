//! Tests of Lantern through its public functions.

mod golden;
mod gradients;
mod random;
mod regression;
mod training;
mod values;

use ir::value::{TensorData, TensorValue};

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
    for (i, (g, w)) in doubles(got).iter().zip(doubles(want)).enumerate() {
        assert!((g - w).abs() <= tolerance, "{what}, element {i}: {g}, expected {w}");
    }
}
