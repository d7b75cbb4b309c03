//! Values outside of generated code: literals, inputs and results, and what the interpreters compute with.

use std::sync::Arc;

use crate::types::ScalarType;

/// One scalar, or NULL. The type stands beside it where it is needed: a decimal carries its unscaled integer only.
#[derive(Clone, Debug)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// [`ScalarType::Bool`].
    Bool(bool),
    /// [`ScalarType::I32`].
    I32(i32),
    /// [`ScalarType::I64`].
    I64(i64),
    /// [`ScalarType::F32`].
    F32(f32),
    /// [`ScalarType::F64`].
    F64(f64),
    /// [`ScalarType::Decimal`]: the number times 10^scale.
    Decimal(i128),
    /// [`ScalarType::Date`]: days since 1970-01-01.
    Date(i32),
    /// [`ScalarType::Timestamp`]: microseconds since 1970-01-01 UTC.
    Timestamp(i64),
    /// [`ScalarType::Text`].
    Text(Arc<str>),
}

impl Value {
    /// Whether it is NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Whether it is NULL or of this type.
    pub fn fits(&self, ty: ScalarType) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(_) => ty == ScalarType::Bool,
            Self::I32(_) => ty == ScalarType::I32,
            Self::I64(_) => ty == ScalarType::I64,
            Self::F32(_) => ty == ScalarType::F32,
            Self::F64(_) => ty == ScalarType::F64,
            Self::Decimal(_) => matches!(ty, ScalarType::Decimal { .. }),
            Self::Date(_) => ty == ScalarType::Date,
            Self::Timestamp(_) => ty == ScalarType::Timestamp,
            Self::Text(_) => ty == ScalarType::Text,
        }
    }
}

/// Identity, not SQL equality: NULL equals NULL, floats are compared by their bits. What hash-consing needs.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::I32(a), Self::I32(b)) | (Self::Date(a), Self::Date(b)) => a == b,
            (Self::I64(a), Self::I64(b)) | (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::F32(a), Self::F32(b)) => a.to_bits() == b.to_bits(),
            (Self::F64(a), Self::F64(b)) => a.to_bits() == b.to_bits(),
            (Self::Decimal(a), Self::Decimal(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl std::hash::Hash for Value {
    fn hash<H: std::hash::Hasher>(&self, h: &mut H) {
        std::mem::discriminant(self).hash(h);
        match self {
            Self::Null => {}
            Self::Bool(v) => v.hash(h),
            Self::I32(v) | Self::Date(v) => v.hash(h),
            Self::I64(v) | Self::Timestamp(v) => v.hash(h),
            Self::F32(v) => v.to_bits().hash(h),
            Self::F64(v) => v.to_bits().hash(h),
            Self::Decimal(v) => v.hash(h),
            Self::Text(v) => v.hash(h),
        }
    }
}

/// The elements of a tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    /// One byte an element.
    Bool(Vec<bool>),
    /// 32-bit integers.
    I32(Vec<i32>),
    /// 64-bit integers.
    I64(Vec<i64>),
    /// Singles.
    F32(Vec<f32>),
    /// Doubles.
    F64(Vec<f64>),
}

impl TensorData {
    /// The element type.
    pub fn dtype(&self) -> ScalarType {
        match self {
            Self::Bool(_) => ScalarType::Bool,
            Self::I32(_) => ScalarType::I32,
            Self::I64(_) => ScalarType::I64,
            Self::F32(_) => ScalarType::F32,
            Self::F64(_) => ScalarType::F64,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Bool(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element `i` as a scalar value.
    pub fn get(&self, i: usize) -> Value {
        match self {
            Self::Bool(v) => Value::Bool(v[i]),
            Self::I32(v) => Value::I32(v[i]),
            Self::I64(v) => Value::I64(v[i]),
            Self::F32(v) => Value::F32(v[i]),
            Self::F64(v) => Value::F64(v[i]),
        }
    }
}

/// A dense tensor, row-major: `data.len()` is the product of `shape`.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorValue {
    /// Sizes, outermost first; empty for rank 0.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: TensorData,
}

impl TensorValue {
    /// A tensor of these elements; `None` where their number is not the product of the shape.
    pub fn new(shape: Vec<usize>, data: TensorData) -> Option<Self> {
        (shape.iter().product::<usize>() == data.len()).then_some(Self { shape, data })
    }

    /// A rank-0 tensor.
    pub fn scalar_f32(v: f32) -> Self {
        Self { shape: vec![], data: TensorData::F32(vec![v]) }
    }

    /// A rank-0 tensor.
    pub fn scalar_f64(v: f64) -> Self {
        Self { shape: vec![], data: TensorData::F64(vec![v]) }
    }
}
