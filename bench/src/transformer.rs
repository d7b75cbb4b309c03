//! Transformers through Lantern's public functions: the configurations `transformer` and `bert4` of
//! `bench/peers/ml/configs.md`.
//!
//! What holds: parameters and batch are drawn from the configuration's distributions by generators of our own: `loss_first` is
//! near the peers' one, not equal to it (the golden values of `transformer_s` and `bert4_s` are what is compared exactly, in
//! Lantern's tests). What a step is stands in [`crate::steps`].

use clap::{Parser, ValueEnum};
use ir::types::ScalarType::{F32, I64};
use ir::value::TensorValue;
use lantern::{Optimizer, Params, Spec, Tensor, nn};
use ndarray::Array2;
use runtime::kernels::random::Philox;

use crate::Result;
use crate::steps::{self, Mode, Options};

/// Time training steps or forward passes of a Transformer.
#[derive(Debug, Clone, Parser)]
pub struct Arguments {
    /// Which one.
    #[arg(long)]
    pub model: Model,
    #[command(flatten)]
    pub options: Options,
}

/// The networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Model {
    /// Encoder and decoder of 6 layers, width 256, 9521 words, sentences of 32; batches of 32; cross entropy, Adagrad 1e-3.
    Transformer,
    /// 4 layers of an encoder, width 768, 128 rows; batches of 8; mean squared error, Adam 1e-4.
    Bert4,
    /// The structure of the first, as small as a test likes it.
    #[value(hide = true)]
    TransformerS,
    /// The structure of the second.
    #[value(hide = true)]
    Bert4S,
}

/// The layers, and rows of a sentence.
#[derive(Debug, Clone, Copy)]
enum Network {
    Words(nn::Transformer, usize),
    Rows(nn::Encoder, usize),
}

impl Model {
    fn network(self) -> Network {
        match self {
            Self::Transformer => {
                let shape = nn::Transformer { words: 9521, width: 256, heads: 8, encoders: 6, decoders: 6, inner: 512 };
                Network::Words(shape, 32)
            }
            Self::Bert4 => Network::Rows(nn::Encoder { width: 768, heads: 12, layers: 4, inner: 3072 }, 128),
            Self::TransformerS => {
                let shape = nn::Transformer { words: 50, width: 16, heads: 2, encoders: 1, decoders: 1, inner: 32 };
                Network::Words(shape, 6)
            }
            Self::Bert4S => Network::Rows(nn::Encoder { width: 24, heads: 3, layers: 2, inner: 48 }, 6),
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
    const WARM_UP: usize = 3;

    fn params(self) -> Result<Params> {
        Ok(match self.network() {
            Network::Words(shape, _) => Params::init(F32, shape.params(), 1234)?,
            Network::Rows(shape, _) => Params::init(F32, shape.params(), 1234)?,
        })
    }

    fn batch(self) -> usize {
        match self {
            Self::Transformer => 32,
            Self::Bert4 => 8,
            Self::TransformerS | Self::Bert4S => 2,
        }
    }

    fn specs(self, batch: usize) -> Vec<Spec> {
        match self.network() {
            Network::Words(_, rows) => ["src", "tgt", "y"].map(|name| Spec::of(name, I64, &[batch, rows])).into(),
            Network::Rows(shape, rows) => {
                ["x", "y"].map(|name| Spec::of(name, F32, &[batch, rows, shape.width])).into()
            }
        }
    }

    /// Words of equal probability, or standard normal rows.
    fn draw(self, batch: usize) -> Result<Vec<TensorValue>> {
        Ok(match self.network() {
            Network::Words(shape, rows) => (0..3u64)
                .map(|stream| {
                    let mut drawn = vec![0.0; batch * rows];
                    Philox::new(5678, stream).fill_uniform_f64(0, &mut drawn);
                    let words = drawn.into_iter().map(|x| (x * shape.words as f64) as i64);
                    lantern::value(Array2::from_shape_vec((batch, rows), words.collect()).unwrap_or_default())
                })
                .collect(),
            Network::Rows(shape, rows) => (0..2u64)
                .map(|stream| {
                    let mut drawn = vec![0f32; batch * rows * shape.width];
                    Philox::new(5678, stream).fill_normal_f32(0, &mut drawn);
                    TensorValue { shape: vec![batch, rows, shape.width], data: ir::value::TensorData::F32(drawn) }
                })
                .collect(),
        })
    }

    /// Logits, or rows.
    fn forward(self, params: &Params, weights: &[Tensor], batch: &[Tensor]) -> Tensor {
        let named = params.named(weights);
        match self.network() {
            Network::Words(shape, _) => shape.logits(&named, &batch[0], &batch[1]),
            Network::Rows(shape, _) => shape.rows(&named, &batch[0]),
        }
    }

    fn loss(self, out: &Tensor, target: &Tensor) -> Tensor {
        match self.network() {
            Network::Words(..) => nn::cross_entropy(out, target),
            Network::Rows(..) => nn::mse(out, target),
        }
    }

    fn optimizer(self) -> Optimizer {
        match self.network() {
            Network::Words(..) => Optimizer::adagrad(1e-3),
            Network::Rows(..) => Optimizer::adam(1e-4),
        }
    }

    fn flops(self, batch: usize, mode: Mode) -> u64 {
        self.network().flops(batch, mode)
    }
}

impl Network {
    /// A training step has three products for each of a forward pass, less that nobody asks for the gradient of embedded rows.
    fn flops(self, batch: usize, mode: Mode) -> u64 {
        let (attention, feed) = match self {
            Self::Words(s, rows) => ((s.encoders + 2 * s.decoders, rows, s.width), (s.encoders + s.decoders, s.inner)),
            Self::Rows(s, rows) => ((s.layers, rows, s.width), (s.layers, s.inner)),
        };
        let (attentions, rows, width) = attention;
        let tokens = batch * rows;
        let projections = attentions * 4 * tokens * width * width;
        let scores = attentions * 2 * tokens * rows * width;
        let feeds = feed.0 * 2 * tokens * width * feed.1;
        let (logits, leaves) = match self {
            Self::Words(s, _) => (tokens * width * s.words, 0),
            Self::Rows(..) => (0, 3 * tokens * width * width),
        };
        let forward = projections + scores + feeds + logits;
        let products = match mode {
            Mode::Infer => forward,
            Mode::Train => 3 * forward - leaves,
        };
        2 * products as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::Model as _;
    use crate::steps::tests::written;

    #[test]
    fn operations_are_those_that_pytorch_counts() {
        // `models.py --flops`: 334 GFLOP/s × 196 ms, and 7.45 G for one sentence of bert4.
        let train = Model::Transformer.flops(32, Mode::Train) as f64;
        assert!((train / 65.4e9 - 1.0).abs() < 0.01, "{train}");
        let infer = Model::Bert4.flops(1, Mode::Infer) as f64;
        assert!((infer / 7.45e9 - 1.0).abs() < 0.01, "{infer}");
    }

    #[test]
    fn both_modes_of_both_models_run() {
        for model in [Model::TransformerS, Model::Bert4S] {
            for (mode, steps) in [(Mode::Train, 3), (Mode::Infer, 2)] {
                assert_eq!(written(model, mode, None, steps)["batch"], 2);
            }
        }
    }
}
