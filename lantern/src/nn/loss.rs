//! Losses: means over all elements.

use std::panic::Location;

use ir::types::{Dim, ScalarType};

use crate::error::Fault;
use crate::tensor::{Axes, Tensor};

/// Losses compare what has one shape: broadcasting here would be a mistake that trains.
fn check_shapes(name: &'static str, at: crate::At, a: &Tensor, b: &Tensor) {
    if a.value().is_some() && b.value().is_some() && a.ty() != b.ty() {
        a.scope().fail(Fault::Shapes(a.ty().clone(), b.ty().clone()).at(name, at));
    }
}

/// Mean squared error; `target` has the shape of `y`.
#[track_caller]
pub fn mse(y: &Tensor, target: &Tensor) -> Tensor {
    check_shapes("mse", Location::caller(), y, target);
    (y - target).square().mean(Axes::All)
}

/// Mean absolute error; `target` has the shape of `y`.
#[track_caller]
pub fn mae(y: &Tensor, target: &Tensor) -> Tensor {
    check_shapes("mae", Location::caller(), y, target);
    (y - target).abs().mean(Axes::All)
}

/// Mean binary cross entropy of sigmoid(`logits`) with `target` in [0, 1], of the same shape; without overflow.
#[track_caller]
pub fn binary_cross_entropy(logits: &Tensor, target: &Tensor) -> Tensor {
    check_shapes("binary_cross_entropy", Location::caller(), logits, target);
    (logits.softplus() - logits * target).mean(Axes::All)
}

/// Mean cross entropy of softmax(`logits`), `[…, classes]`, with the class indices `target`, `[…]` of `i32` or `i64`. A class
/// out of range raises.
#[track_caller]
pub fn cross_entropy(logits: &Tensor, target: &Tensor) -> Tensor {
    let at = Location::caller();
    let classes = logits.dim(-1);
    let rows = logits.shape().split_last().map(|s| s.1);
    let known = logits.value().is_some() && target.value().is_some();
    if known && (rows != Some(target.shape()) || !target.dtype().is_integer()) {
        let fault = Fault::Shapes(logits.ty().clone(), target.ty().clone());
        logits.scope().fail(fault.at("cross_entropy", at));
        return logits.scope().nothing();
    }
    let scope = logits.scope();
    let shape: Vec<Dim> = logits.shape().to_vec();
    let index = scope.iota(target.dtype(), std::slice::from_ref(&classes), 0);
    let is_target = target.unsqueeze(-1).eq(&index);
    let zeros = scope.zeros(logits.dtype(), &shape);
    let logit = is_target.choose(logits, &zeros).sum(-1);
    // A gather of ones: it is there for the error of a class out of range.
    let in_range = scope.full(logits.dtype(), &[classes], 1.0).gather(&target.cast(ScalarType::I64));
    ((logits.logsumexp(-1) - logit) * in_range).mean(Axes::All)
}
