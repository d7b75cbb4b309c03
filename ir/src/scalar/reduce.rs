//! Reducers: `init / step / merge / finish`, one row each.
//!
//! SQL aggregates, tensor reductions, window frames and merges across threads all read the same rows. States are tuples of
//! scalars; a NULL argument leaves the state as it is (only `CountAll` has no argument).

use crate::error::{Error, Result};
use crate::types::{RowType, ScalarType};

/// A reducer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reducer {
    /// Number of rows, `i64`. No argument.
    CountAll,
    /// Number of arguments that are not NULL, `i64`.
    Count,
    /// Sum; NULL for no argument. Integers give `i64`, decimals `decimal(38, s)`, both raise on overflow; floats keep their type.
    Sum,
    /// Mean, `f64`; NULL for no argument.
    Avg,
    /// Least; NULL for no argument.
    Min,
    /// Greatest; NULL for no argument. NaN is the greatest.
    Max,
    /// Product (tensors).
    Product,
    /// Sample variance, `f64`; NULL for fewer than two arguments (Welford; merge by Chan et al. 1983).
    VarSample,
    /// Population variance, `f64`.
    VarPopulation,
    /// Sample standard deviation, `f64`.
    StddevSample,
    /// Population standard deviation, `f64`.
    StddevPopulation,
    /// True if every argument is.
    BoolAnd,
    /// True if any argument is.
    BoolOr,
    /// The first argument in row order, NULLs included.
    First,
    /// The last argument in row order, NULLs included.
    Last,
    /// The value if there is one row; raises on more (scalar subqueries).
    Single,
    /// Index (`i64`) of the greatest element; the first of equals (tensors).
    ArgMax,
    /// Index (`i64`) of the least element; the first of equals (tensors).
    ArgMin,
}

impl Reducer {
    /// The result's type over rows of arguments of this type.
    pub fn result_type(self, arg: Option<RowType>) -> Result<RowType> {
        use ScalarType as S;
        let wrong = || {
            let of = arg.map_or("no argument".to_string(), |a| a.ty.to_string());
            Error::Type(format!("{} is not defined for {of}", self.name()))
        };
        if self == Self::CountAll {
            return if arg.is_none() { Ok(S::I64.nullable(false)) } else { Err(wrong()) };
        }
        let arg = arg.ok_or_else(wrong)?;
        let ty = match self {
            Self::CountAll | Self::Count => return Ok(S::I64.nullable(false)),
            Self::Sum | Self::Product => match arg.ty {
                S::I32 | S::I64 => S::I64,
                S::Decimal { scale, .. } if self == Self::Sum => S::Decimal { precision: 38, scale },
                S::F32 | S::F64 => arg.ty,
                _ => return Err(wrong()),
            },
            Self::Avg => match arg.ty {
                S::I32 | S::I64 | S::F32 | S::F64 | S::Decimal { .. } => S::F64,
                _ => return Err(wrong()),
            },
            Self::VarSample | Self::VarPopulation | Self::StddevSample | Self::StddevPopulation => match arg.ty {
                S::I32 | S::I64 | S::F32 | S::F64 | S::Decimal { .. } => S::F64,
                _ => return Err(wrong()),
            },
            Self::Min | Self::Max | Self::First | Self::Last | Self::Single => arg.ty,
            Self::BoolAnd | Self::BoolOr => match arg.ty {
                S::Bool => S::Bool,
                _ => return Err(wrong()),
            },
            Self::ArgMax | Self::ArgMin => S::I64,
        };
        Ok(ty.nullable(true))
    }

    /// Its name in text.
    pub fn name(self) -> &'static str {
        match self {
            Self::CountAll => "count_all",
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Min => "min",
            Self::Max => "max",
            Self::Product => "product",
            Self::VarSample => "var_samp",
            Self::VarPopulation => "var_pop",
            Self::StddevSample => "stddev_samp",
            Self::StddevPopulation => "stddev_pop",
            Self::BoolAnd => "bool_and",
            Self::BoolOr => "bool_or",
            Self::First => "first",
            Self::Last => "last",
            Self::Single => "single",
            Self::ArgMax => "arg_max",
            Self::ArgMin => "arg_min",
        }
    }
}
