//! A differentiable tensor compiler.
//!
//! Closures over [`Tensor`] handles record a graph: they are written like define-by-run code and run as one compiled program.
//! Reverse mode takes a graph to a graph. Lantern knows no table and no SQL.
//!
//! ```
//! use lantern::{Batches, Fit, Optimizer, Params, nn, stage, value};
//! use ir::types::ScalarType;
//! use ndarray::array;
//!
//! // The exclusive or, learned by a network: parameters, one program that trains them, one that uses them.
//! let params = Params::mlp(ScalarType::F32, &[2, 8, 1], 1)?;
//! let net = |x: &lantern::Tensor, params: &[lantern::Tensor]| nn::mlp(x, params, nn::Activation::Tanh);
//! let fit = Fit { batches: Batches::new(4, 200), optimizer: Optimizer::adam(0.05) };
//! let train = stage("train", params.specs_and(["x: f32[n, 2]", "y: f32[n, 1]"]), |t| {
//!     let (params, data) = t.split_at(4);
//!     let loss = |batch: &[lantern::Tensor], p: &[lantern::Tensor]| nn::binary_cross_entropy(&net(&batch[0], p), &batch[1]);
//!     t[0].scope().fit(&fit, data, params, loss).params
//! })?;
//! let x = value(array![[0f32, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]);
//! let y = value(array![[0f32], [1.0], [1.0], [0.0]]);
//! let trained = train.interpret(params.values().chain([x.clone(), y]))?;
//!
//! let predict = stage("predict", params.specs_and(["x: f32[n, 2]"]), |t| net(&t[4], &t[..4]).sigmoid())?;
//! let p = lantern::array::<f32>(&predict.interpret(trained.into_iter().chain([x]))?[0])?;
//! assert!(p[[0, 0]] < 0.2 && p[[1, 0]] > 0.8 && p[[2, 0]] > 0.8 && p[[3, 0]] < 0.2, "{p}");
//! # Ok::<(), lantern::Error>(())
//! ```

mod control;
mod data;
mod error;
mod grad;
pub mod nn;
mod optim;
mod params;
mod stage;
mod tensor;

pub use control::Func;
pub use data::{Batches, Fit, Trained};
pub use error::{At, Error, Result};
pub use grad::check::{check_gradients, finite_differences};
pub use grad::{grad, value_and_grad, vjp};
pub use optim::Optimizer;
pub use params::{Init, Params};
pub use stage::{Function, IntoTensors, Scope, Spec, stage};
pub use tensor::{Axes, Element, IntoValue, Operand, Tensor, array, value};
