//! The types of the graph level.

use std::fmt;

use crate::entity::{ColumnId, SymId};

/// The type of one scalar: a field of a row or an element of a tensor. Whether NULL is allowed stands beside it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ScalarType {
    /// `false` or `true`.
    Bool,
    /// 32-bit signed integer.
    I32,
    /// 64-bit signed integer.
    I64,
    /// IEEE 754 single.
    F32,
    /// IEEE 754 double.
    F64,
    /// Exact decimal: an integer times 10^-scale with at most `precision` (≤ 38) digits.
    Decimal {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits after the point, at most `precision`.
        scale: u8,
    },
    /// Days since 1970-01-01.
    Date,
    /// Microseconds since 1970-01-01 00:00:00 UTC.
    Timestamp,
    /// UTF-8 text.
    Text,
}

impl ScalarType {
    /// Whether arithmetic is defined on it.
    pub fn is_numeric(self) -> bool {
        matches!(self, Self::I32 | Self::I64 | Self::F32 | Self::F64 | Self::Decimal { .. })
    }

    /// `I32` or `I64`.
    pub fn is_integer(self) -> bool {
        matches!(self, Self::I32 | Self::I64)
    }

    /// `F32` or `F64`.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }

    /// Whether tensors may have elements of this type.
    pub fn is_tensor_element(self) -> bool {
        matches!(self, Self::Bool | Self::I32 | Self::I64 | Self::F32 | Self::F64)
    }

    /// The same type with a NULL rule.
    pub fn nullable(self, nullable: bool) -> RowType {
        RowType { ty: self, nullable }
    }
}

impl fmt::Display for ScalarType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::I32 => f.write_str("i32"),
            Self::I64 => f.write_str("i64"),
            Self::F32 => f.write_str("f32"),
            Self::F64 => f.write_str("f64"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::Date => f.write_str("date"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Text => f.write_str("text"),
        }
    }
}

/// A scalar in a row: its type and whether it may be NULL. Prints as `i32` or `i32?`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RowType {
    /// The type of a value that is not NULL.
    pub ty: ScalarType,
    /// Whether NULL may occur.
    pub nullable: bool,
}

impl fmt::Display for RowType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.ty, if self.nullable { "?" } else { "" })
    }
}

/// A dimension of a tensor: a constant, a symbol, or an expression of both.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Dim {
    /// Known when the program is built.
    Const(usize),
    /// Known when the program runs.
    Sym(SymId),
    /// Sum.
    Add(Box<Dim>, Box<Dim>),
    /// Product.
    Mul(Box<Dim>, Box<Dim>),
    /// Quotient, rounded down.
    FloorDiv(Box<Dim>, Box<Dim>),
}

impl Dim {
    /// The constant, if it is one.
    pub fn as_const(&self) -> Option<usize> {
        match self {
            Self::Const(n) => Some(*n),
            Self::Sym(_) | Self::Add(..) | Self::Mul(..) | Self::FloorDiv(..) => None,
        }
    }

    /// Sum, folded where both are constant.
    pub fn plus(self, other: Dim) -> Dim {
        match (self, other) {
            (Self::Const(a), Self::Const(b)) if a.checked_add(b).is_some() => Self::Const(a + b),
            (a, Self::Const(0)) | (Self::Const(0), a) => a,
            (a, b) => Self::Add(Box::new(a), Box::new(b)),
        }
    }

    /// Product, folded where both are constant and it fits a `usize`; one that does not has no value.
    pub fn times(self, other: Dim) -> Dim {
        match (self, other) {
            (Self::Const(a), Self::Const(b)) if a.checked_mul(b).is_some() => Self::Const(a * b),
            (a, Self::Const(1)) | (Self::Const(1), a) => a,
            (a, b) => Self::Mul(Box::new(a), Box::new(b)),
        }
    }

    /// Quotient rounded down, folded where both are constant and the divisor is not 0.
    pub fn floor_div(self, other: Dim) -> Dim {
        match (self, other) {
            (Self::Const(a), Self::Const(b)) if b != 0 => Self::Const(a / b),
            (a, Self::Const(1)) => a,
            (a, b) => Self::FloorDiv(Box::new(a), Box::new(b)),
        }
    }

    /// The size for given symbol values; `None` where a symbol is unknown, a divisor is 0, or the size is beyond `usize`.
    pub fn eval(&self, symbol: &dyn Fn(SymId) -> Option<usize>) -> Option<usize> {
        Some(match self {
            Self::Const(n) => *n,
            Self::Sym(s) => symbol(*s)?,
            Self::Add(a, b) => a.eval(symbol)?.checked_add(b.eval(symbol)?)?,
            Self::Mul(a, b) => a.eval(symbol)?.checked_mul(b.eval(symbol)?)?,
            Self::FloorDiv(a, b) => a.eval(symbol)?.checked_div(b.eval(symbol)?)?,
        })
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Self {
        Self::Const(n)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Const(n) => write!(f, "{n}"),
            Self::Sym(s) => write!(f, "{s}"),
            Self::Add(a, b) => write!(f, "({a} + {b})"),
            Self::Mul(a, b) => write!(f, "({a} * {b})"),
            Self::FloorDiv(a, b) => write!(f, "({a} / {b})"),
        }
    }
}

/// The type of a tensor. Prints as `f32[s0, 64]`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TensorType {
    /// Element type; `Bool`, `I32`, `I64`, `F32` or `F64`.
    pub dtype: ScalarType,
    /// Dimensions, outermost first; empty for a rank-0 tensor.
    pub shape: Vec<Dim>,
}

impl TensorType {
    /// A tensor type of these dimensions.
    pub fn new(dtype: ScalarType, shape: impl IntoIterator<Item = Dim>) -> Self {
        Self { dtype, shape: shape.into_iter().collect() }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.shape.iter().enumerate() {
            write!(f, "{}{d}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str("]")
    }
}

/// A column of a table type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Column {
    /// Its identity, unique in the program.
    pub id: ColumnId,
    /// Its type and NULL rule, here: an outer join makes a column nullable without renaming it.
    pub ty: RowType,
}

/// The type of a table: its columns in order. Prints as `table(c0: i32, c1: text?)`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct TableType {
    /// The columns, in the order of the result.
    pub columns: Vec<Column>,
}

impl TableType {
    /// The type of a column.
    pub fn get(&self, id: ColumnId) -> Option<RowType> {
        self.columns.iter().find(|c| c.id == id).map(|c| c.ty)
    }
}

impl fmt::Display for TableType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("table(")?;
        for (i, c) in self.columns.iter().enumerate() {
            write!(f, "{}{}: {}", if i > 0 { ", " } else { "" }, c.id, c.ty)?;
        }
        f.write_str(")")
    }
}

/// The type of an SSA value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Type {
    /// A scalar of a row expression or a map body.
    Scalar(RowType),
    /// A tensor.
    Tensor(TensorType),
    /// A table.
    Table(TableType),
    /// A stack of frames, for values that a later pass over the same steps reads in the opposite order. Used once.
    Tape,
    /// A sum under way: it is added to and read at the end. Used once.
    Acc(TensorType),
}

impl Type {
    /// The scalar type, if it is one.
    pub fn as_scalar(&self) -> Option<RowType> {
        if let Self::Scalar(t) = self { Some(*t) } else { None }
    }

    /// The tensor type, if it is one.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        if let Self::Tensor(t) = self { Some(t) } else { None }
    }

    /// Whether a value of this type is used at most once: what is done to it happens in place.
    pub fn is_linear(&self) -> bool {
        matches!(self, Self::Tape | Self::Acc(_))
    }

    /// The table type, if it is one.
    pub fn as_table(&self) -> Option<&TableType> {
        if let Self::Table(t) = self { Some(t) } else { None }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(t) => t.fmt(f),
            Self::Tensor(t) => t.fmt(f),
            Self::Table(t) => t.fmt(f),
            Self::Tape => f.write_str("tape"),
            Self::Acc(t) => write!(f, "acc<{t}>"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_beyond_usize_have_no_value() {
        let huge = Dim::Const(usize::MAX);
        let none = |_: SymId| None;
        assert_eq!(huge.clone().times(Dim::Const(2)).eval(&none), None);
        assert_eq!(huge.clone().plus(Dim::Const(1)).eval(&none), None);
        assert_eq!(huge.times(Dim::Const(1)).eval(&none), Some(usize::MAX));
        assert_eq!(Dim::Const(6).times(Dim::Const(7)), Dim::Const(42));
        let half = |_: SymId| Some(usize::MAX / 2);
        assert_eq!(Dim::Sym(SymId(0)).times(Dim::Const(3)).eval(&half), None);
    }
}
