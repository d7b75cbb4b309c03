//! Handles of tensors.
//!
//! Operations follow NumPy: shapes broadcast from the last dimension, sizes of 1 repeat, negative axes count from the end. Element
//! types never change by themselves: [`Tensor::cast`] says so.

mod elementwise;
mod make;
mod reduce;
mod shape;
mod value;

use std::fmt;

use ir::entity::ValueId;
use ir::types::{Dim, ScalarType, TensorType};

use crate::error::Fault;
use crate::stage::Scope;

pub use elementwise::Operand;
pub(crate) use elementwise::{broadcast_value, number};
pub use reduce::Axes;
pub use value::{Element, IntoValue, array, value};

/// A tensor of a program that is being recorded: a name for a value, cheap to clone.
#[derive(Clone)]
pub struct Tensor {
    pub(crate) scope: Scope,
    /// `None` after an error, which the scope keeps.
    pub(crate) value: Option<ValueId>,
    pub(crate) ty: TensorType,
    /// The region in which it was made.
    pub(crate) frame: u32,
}

impl Tensor {
    /// The recording that it belongs to.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The value of the graph; `None` after an error.
    pub fn value(&self) -> Option<ValueId> {
        self.value
    }

    /// Element type and shape.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// Element type.
    pub fn dtype(&self) -> ScalarType {
        self.ty.dtype
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[Dim] {
        &self.ty.shape
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.ty.rank()
    }

    /// The size of a dimension; negative ones count from the end. After an error, and where there is no such dimension, 1 (the
    /// operation that needs it will say so).
    pub fn dim(&self, axis: i32) -> Dim {
        self.axis(axis).ok().and_then(|a| self.ty.shape.get(a).cloned()).unwrap_or(Dim::Const(1))
    }

    /// The position of an axis that may be counted from the end.
    pub(crate) fn axis(&self, axis: i32) -> Result<usize, Fault> {
        let rank = self.rank() as i64;
        let at = if axis < 0 { i64::from(axis) + rank } else { axis.into() };
        if (0..rank).contains(&at) { Ok(at as usize) } else { Err(no_axis(axis, &self.ty)) }
    }
}

pub(crate) fn no_axis(axis: i32, ty: &TensorType) -> Fault {
    Fault::Invalid(format!("{ty} has no axis {axis}"))
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Some(v) => write!(f, "{v}: {}", self.ty),
            None => f.write_str("nothing, after an error"),
        }
    }
}
