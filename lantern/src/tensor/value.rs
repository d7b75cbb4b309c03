//! Arrays outside of programs.

use ir::types::ScalarType;
use ir::value::{TensorData, TensorValue};
use ndarray::{Array, ArrayD, ArrayRef, Data, Dimension, IxDyn};

use crate::error::{Error, Result};

/// A Rust type of tensor elements: `bool`, `i32`, `i64`, `f32`, `f64`.
pub trait Element: Copy + 'static {
    /// The element type.
    const TYPE: ScalarType;
    /// Elements as data.
    fn data(v: Vec<Self>) -> TensorData;
    /// The elements, if they are of this type.
    fn elements(data: &TensorData) -> Option<&[Self]>;
}

macro_rules! element {
    ($($ty:ty => $variant:ident),*) => {$(
        impl Element for $ty {
            const TYPE: ScalarType = ScalarType::$variant;
            fn data(v: Vec<Self>) -> TensorData {
                TensorData::$variant(v)
            }
            fn elements(data: &TensorData) -> Option<&[Self]> {
                if let TensorData::$variant(v) = data { Some(v) } else { None }
            }
        }
        impl IntoValue for $ty {
            fn into_value(self) -> TensorValue {
                TensorValue { shape: vec![], data: TensorData::$variant(vec![self]) }
            }
        }
    )*};
}

element!(bool => Bool, i32 => I32, i64 => I64, f32 => F32, f64 => F64);

/// What is an array of elements.
pub trait IntoValue {
    /// The array, row-major.
    fn into_value(self) -> TensorValue;
}

impl IntoValue for TensorValue {
    fn into_value(self) -> TensorValue {
        self
    }
}

impl IntoValue for &TensorValue {
    fn into_value(self) -> TensorValue {
        self.clone()
    }
}

impl<T: Element, D: Dimension> IntoValue for Array<T, D> {
    fn into_value(self) -> TensorValue {
        (&self).into_value()
    }
}

impl<T: Element, S: Data<Elem = T>, D: Dimension> IntoValue for &ndarray::ArrayBase<S, D> {
    fn into_value(self) -> TensorValue {
        let elements: &ArrayRef<T, D> = self;
        TensorValue { shape: self.shape().to_vec(), data: T::data(elements.iter().copied().collect()) }
    }
}

/// An array as a value of a program.
pub fn value(array: impl IntoValue) -> TensorValue {
    array.into_value()
}

/// A value of a program as an array.
///
/// # Errors
/// A value with elements of another type.
pub fn array<T: Element>(value: &TensorValue) -> Result<ArrayD<T>> {
    let elements = T::elements(&value.data)
        .ok_or_else(|| Error::Value(format!("the tensor holds {}, not {}", value.data.dtype(), T::TYPE)))?;
    Array::from_shape_vec(IxDyn(&value.shape), elements.to_vec()).map_err(|e| Error::Value(e.to_string()))
}
