//! A differentiable tensor compiler.
//!
//! Closures over [`Tensor`] handles record a graph: they are written like define-by-run code and run as one compiled program.
//! Reverse mode takes a graph to a graph. Lantern knows no table and no SQL.

mod data;
mod error;
mod grad;
pub mod nn;
mod optim;
mod params;
mod stage;
mod tensor;

pub use data::{Batches, Fit, Trained};
pub use error::{At, Error, Result};
pub use grad::check::{check_gradients, finite_differences};
pub use grad::{grad, value_and_grad, vjp};
pub use optim::Optimizer;
pub use params::Params;
pub use stage::{Function, IntoTensors, Scope, Spec, stage};
pub use tensor::{Axes, Element, IntoValue, Operand, Tensor, array, value};
