//! Multi-layer perceptrons through Lantern's public functions: the configurations `mlp9` and `mlp128` of
//! `bench/peers/ml/configs.md`, and the network of the flights.
//!
//! What holds: parameters and batch are drawn from the configuration's distributions, by generators of our own: `loss_first` is
//! near the peers' one, not equal to it (the golden values of `mlp_s` are what is compared exactly, in Lantern's tests). What a
//! step is stands in [`crate::steps`].

use clap::{Parser, ValueEnum};
use ir::types::{Dim, ScalarType};
use ir::value::TensorValue;
use lantern::{Optimizer, Params, Spec, Tensor, nn, stage};

use crate::Result;
use crate::steps::{self, Mode, Options};

/// Time training steps or forward passes of a perceptron.
#[derive(Debug, Clone, Parser)]
pub struct Arguments {
    /// Which one.
    #[arg(long)]
    pub model: Model,
    #[command(flatten)]
    pub options: Options,
}

/// The networks, all with ReLU between their layers and Adam 1e-3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Model {
    /// 9-64-64-1, mean squared error, batches of 64.
    Mlp9,
    /// 128-512-256-1, mean squared error, batches of 1024.
    Mlp128,
    /// 30-64-64-1, log loss, batches of 1024: the network of the flights.
    Flights,
}

impl Model {
    fn sizes(self) -> &'static [usize] {
        match self {
            Self::Mlp9 => &[9, 64, 64, 1],
            Self::Mlp128 => &[128, 512, 256, 1],
            Self::Flights => &[30, 64, 64, 1],
        }
    }
}

/// Runs the benchmark, prints its results and writes them.
///
/// # Errors
/// What compilation or a run answers; a file that cannot be written.
pub fn run(arguments: &Arguments) -> Result<()> {
    steps::run(arguments.model, &arguments.options)
}

impl steps::Model for Model {
    const WARM_UP: usize = 20;

    fn params(self) -> Result<Params> {
        Ok(Params::mlp(ScalarType::F32, self.sizes(), 1234)?)
    }

    fn batch(self) -> usize {
        match self {
            Self::Mlp9 => 64,
            Self::Mlp128 | Self::Flights => 1024,
        }
    }

    fn specs(self, batch: usize) -> Vec<Spec> {
        [("x", self.sizes()[0]), ("y", 1)].map(|(name, n)| Spec::of(name, ScalarType::F32, &[batch, n])).into()
    }

    /// Standard normal inputs, and targets that are zeros and ones where the loss asks for it.
    fn draw(self, batch: usize) -> Result<Vec<TensorValue>> {
        let draw = stage("batch", [Spec::of("nothing", ScalarType::F32, &[])], |t| {
            let scope = t[0].scope();
            let [rows, width, one] = [batch, self.sizes()[0], 1].map(Dim::Const);
            let x = scope.normal(ScalarType::F32, &[rows.clone(), width], 5678, 0);
            let y = scope.normal(ScalarType::F32, &[rows, one], 5678, 1);
            let y = if self == Self::Flights { y.gt(y.zeros_like()).cast(ScalarType::F32) } else { y };
            vec![x, y]
        })?;
        Ok(draw.run([lantern::value(ndarray::arr0(0f32))])?)
    }

    fn forward(self, _: &Params, weights: &[Tensor], batch: &[Tensor]) -> Tensor {
        nn::mlp(&batch[0], weights, nn::Activation::Relu)
    }

    fn loss(self, out: &Tensor, target: &Tensor) -> Tensor {
        match self {
            Self::Mlp9 | Self::Mlp128 => nn::mse(out, target),
            Self::Flights => nn::binary_cross_entropy(out, target),
        }
    }

    fn optimizer(self) -> Optimizer {
        Optimizer::adam(1e-3)
    }

    fn flops(self, batch: usize, mode: Mode) -> u64 {
        flops(self.sizes(), batch, mode)
    }
}

/// Nobody asks for the gradient of the batch.
fn flops(sizes: &[usize], batch: usize, mode: Mode) -> u64 {
    let layers = sizes.windows(2).enumerate().map(|(i, pair)| {
        let products = match mode {
            Mode::Infer => 1,
            Mode::Train if i == 0 => 2,
            Mode::Train => 3,
        };
        products * 2 * batch as u64 * pair[0] as u64 * pair[1] as u64
    });
    layers.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::tests::written;

    #[test]
    fn a_step_of_training_has_three_products_a_layer_but_the_first() {
        assert_eq!(flops(&[9, 64, 1], 10, Mode::Infer), 20 * (9 * 64 + 64));
        assert_eq!(flops(&[9, 64, 1], 10, Mode::Train), 20 * (2 * 9 * 64 + 3 * 64));
    }

    #[test]
    fn both_modes_run() {
        for (mode, steps) in [(Mode::Train, 3), (Mode::Infer, 2)] {
            let result = written(Model::Mlp9, mode, Some(8), steps);
            assert_eq!(
                (&result["params"], &result["batch"]),
                (&(64 * 9 + 64 + 64 * 64 + 64 + 64 + 1).into(), &8.into())
            );
        }
    }
}
