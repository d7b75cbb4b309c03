//! Optimizers, as functions of the graph: (parameters, gradients, state) to (parameters, state). Those of `torch.optim`, with its
//! constants as defaults.

use std::panic::Location;

use ir::types::ScalarType;

use crate::error::Fault;
use crate::stage::Scope;
use crate::tensor::Tensor;

/// How parameters follow gradients.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Optimizer {
    /// p - lr g; with momentum, g becomes the velocity v = momentum v + g, or g + momentum v if Nesterov's.
    Sgd {
        /// Learning rate.
        lr: f64,
        /// 0 for none.
        momentum: f64,
        /// Nesterov's momentum.
        nesterov: bool,
    },
    /// Adam (Kingma and Ba 2015), with bias correction.
    Adam {
        /// Learning rate.
        lr: f64,
        /// Decay of the mean of the gradients.
        beta1: f64,
        /// Decay of the mean of their squares.
        beta2: f64,
        /// Added to the root.
        epsilon: f64,
    },
    /// Adagrad (Duchi et al. 2011).
    Adagrad {
        /// Learning rate.
        lr: f64,
        /// Added to the root.
        epsilon: f64,
    },
}

impl Optimizer {
    /// Gradient descent.
    pub fn sgd(lr: f64) -> Self {
        Self::Sgd { lr, momentum: 0.0, nesterov: false }
    }

    /// Gradient descent with momentum.
    pub fn momentum(lr: f64, momentum: f64) -> Self {
        Self::Sgd { lr, momentum, nesterov: false }
    }

    /// Gradient descent with Nesterov's momentum.
    pub fn nesterov(lr: f64, momentum: f64) -> Self {
        Self::Sgd { lr, momentum, nesterov: true }
    }

    /// Adam with (0.9, 0.999, 1e-8).
    pub fn adam(lr: f64) -> Self {
        Self::Adam { lr, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }

    /// Adagrad with 1e-10.
    pub fn adagrad(lr: f64) -> Self {
        Self::Adagrad { lr, epsilon: 1e-10 }
    }

    /// The state before the first step: tensors that a loop carries beside the parameters.
    #[track_caller]
    pub fn init(&self, scope: &Scope, params: &[Tensor]) -> Vec<Tensor> {
        let zeros = |params: &[Tensor]| params.iter().map(Tensor::zeros_like).collect::<Vec<_>>();
        match self {
            Self::Sgd { momentum, .. } if *momentum == 0.0 => vec![],
            Self::Sgd { .. } | Self::Adagrad { .. } => zeros(params),
            Self::Adam { .. } => {
                let mut state = vec![scope.zeros(ScalarType::I64, &[])];
                state.extend(zeros(params));
                state.extend(zeros(params));
                state
            }
        }
    }

    /// Number of tensors that [`Optimizer::init`] gives for so many parameters.
    pub fn state_len(&self, params: usize) -> usize {
        match self {
            Self::Sgd { momentum, .. } if *momentum == 0.0 => 0,
            Self::Sgd { .. } | Self::Adagrad { .. } => params,
            Self::Adam { .. } => 1 + 2 * params,
        }
    }

    /// One step: parameters and state after it.
    #[track_caller]
    pub fn step(&self, params: &[Tensor], grads: &[Tensor], state: &[Tensor]) -> (Vec<Tensor>, Vec<Tensor>) {
        let Some(first) = params.first() else { return (vec![], state.to_vec()) };
        let (n, want) = (params.len(), self.state_len(params.len()));
        if grads.len() != n || state.len() != want {
            let (g, s) = (grads.len(), state.len());
            let message = format!("{n} parameters, {g} gradients, {s} tensors of state ({want} expected)");
            first.scope().fail(Fault::Invalid(message).at("step", Location::caller()));
            return (params.to_vec(), state.to_vec());
        }
        let pairs = params.iter().zip(grads);
        match *self {
            Self::Sgd { lr, momentum: 0.0, .. } => (pairs.map(|(p, g)| p - g * lr).collect(), vec![]),
            Self::Sgd { lr, momentum, nesterov } => pairs
                .zip(state)
                .map(|((p, g), v)| {
                    let v = v * momentum + g;
                    let step = if nesterov { g + &v * momentum } else { v.clone() };
                    (p - step * lr, v)
                })
                .unzip(),
            Self::Adagrad { lr, epsilon } => pairs
                .zip(state)
                .map(|((p, g), sum)| {
                    let sum = sum + g.square();
                    (p - g / (sum.sqrt() + epsilon) * lr, sum)
                })
                .unzip(),
            Self::Adam { lr, beta1, beta2, epsilon } => adam(params, grads, state, [lr, beta1, beta2, epsilon]),
        }
    }
}

/// State: the number of steps, then the means of the gradients, then those of their squares.
#[track_caller]
fn adam(
    params: &[Tensor],
    grads: &[Tensor],
    state: &[Tensor],
    [lr, beta1, beta2, epsilon]: [f64; 4],
) -> (Vec<Tensor>, Vec<Tensor>) {
    let scope = params[0].scope();
    let n = params.len();
    let step = &state[0] + 1.0;
    let steps = step.cast(ScalarType::F64);
    // 1 - beta^t, in f64: for a small t it must not cancel.
    let correction = |beta: f64| 1.0 - scope.constant(beta).pow(&steps);
    let rate = lr / correction(beta1);
    let root = correction(beta2).sqrt();
    let (mut new, mut means, mut squares) = (vec![], vec![], vec![]);
    for (i, (p, g)) in params.iter().zip(grads).enumerate() {
        let mean = &state[1 + i] * beta1 + g * (1.0 - beta1);
        let square = &state[1 + n + i] * beta2 + g.square() * (1.0 - beta2);
        let below = square.sqrt() / root.cast(p.dtype()) + epsilon;
        new.push(p - &mean / below * rate.cast(p.dtype()));
        means.push(mean);
        squares.push(square);
    }
    let mut state = vec![step];
    state.extend(means);
    state.extend(squares);
    (new, state)
}
