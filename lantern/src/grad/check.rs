//! Derivatives against finite differences, in `f64`.

use ir::value::{TensorData, TensorValue};

use super::value_and_grad;
use crate::error::{Error, Result};
use crate::stage::{Function, Spec, stage};
use crate::tensor::Tensor;

/// Central differences of a function's first result, which is one number, with respect to input `wrt`.
///
/// # Errors
/// Inputs that do not fit, or are not `f64`; what the program raises.
pub fn finite_differences(f: &Function, inputs: &[TensorValue], wrt: usize) -> Result<Vec<f64>> {
    let wrong = || Error::Value("finite differences are taken of f64 numbers".into());
    let Some(TensorData::F64(x)) = inputs.get(wrt).map(|t| &t.data) else { return Err(wrong()) };
    let at = |i: usize, v: f64| -> Result<f64> {
        let mut moved = inputs.to_vec();
        if let TensorData::F64(x) = &mut moved[wrt].data {
            x[i] = v;
        }
        match f.interpret(moved)?.first().map(|t| &t.data) {
            Some(TensorData::F64(y)) if y.len() == 1 => Ok(y[0]),
            _ => Err(wrong()),
        }
    };
    let slope = |(i, x): (usize, &f64)| {
        let step = 1e-6 * x.abs().max(1.0);
        Ok((at(i, x + step)? - at(i, x - step)?) / (2.0 * step))
    };
    x.iter().enumerate().map(slope).collect()
}

/// Checks the gradient of `f`, which yields one `f64`, with respect to each input that holds `f64`, at a point where it is
/// smooth.
///
/// # Errors
/// The first element whose derivative is off by more than `tolerance` times the greatest in its tensor (or 1, if that is more);
/// what fails in staging or running.
pub fn check_gradients(
    specs: &[Spec],
    f: impl Fn(&[Tensor]) -> Tensor,
    inputs: &[TensorValue],
    tolerance: f64,
) -> Result<()> {
    let wrt: Vec<usize> = (0..inputs.len()).filter(|i| matches!(inputs[*i].data, TensorData::F64(_))).collect();
    let forward = stage("forward", specs, |t| f(t))?;
    let backward = stage("backward", specs, value_and_grad(&f, &wrt))?;
    let found = backward.interpret(inputs.iter().cloned())?;
    for (i, got) in wrt.iter().zip(&found[1..]) {
        let name = specs[*i].name();
        if got.shape != inputs[*i].shape {
            return Err(Error::Value(format!("the gradient of \"{name}\" has shape {:?}", got.shape)));
        }
        let want = finite_differences(&forward, inputs, *i)?;
        let TensorData::F64(got) = &got.data else {
            return Err(Error::Value(format!("the gradient of \"{name}\" is not f64")));
        };
        let scale = want.iter().fold(1.0f64, |m, w| m.max(w.abs()));
        for (k, (g, w)) in got.iter().zip(&want).enumerate() {
            // A NaN is not close.
            let close = (g - w).abs() <= tolerance * scale;
            if !close {
                return Err(Error::Value(format!("\"{name}\", element {k}: gradient {g}, finite difference {w}")));
            }
        }
    }
    Ok(())
}
