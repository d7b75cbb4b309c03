//! The one language for rows and for tensor elements.
//!
//! An operation is **one row of one table** ([`table`]): what it is called, its type rule, its NULL rule, whether it can
//! raise, what it computes (`eval`: constant folding and both interpreters), its derivative (`grad`) and how it is lowered.
//! Whoever needs to know something of an operation asks [`def`]; nobody matches on names.
//!
//! An operation that can raise is never speculated: it runs only where the value is used.

pub mod eval;
pub mod grad;
pub mod reduce;
pub mod table;

use crate::error::{Error, Result};
use crate::types::{RowType, ScalarType};

pub use eval::{compare, eval};
pub use grad::grad;
pub use table::{ScalarOp, def, defs};

/// A field of a date or a timestamp.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DateField {
    /// Year of the Gregorian calendar.
    Year,
    /// 1 to 4.
    Quarter,
    /// 1 to 12.
    Month,
    /// ISO week, 1 to 53.
    Week,
    /// 1 to 31.
    Day,
    /// Day of week, Sunday = 0.
    DayOfWeek,
    /// Day of year, 1 to 366.
    DayOfYear,
    /// 0 to 23.
    Hour,
    /// 0 to 59.
    Minute,
    /// 0 to 59.
    Second,
    /// Seconds since 1970-01-01.
    Epoch,
}

/// What an operation does with NULL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NullRule {
    /// NULL if any operand is; `eval` sees no NULL.
    Strict,
    /// Kleene's logic: `eval` sees NULLs; the result is nullable if an operand is.
    Kleene,
    /// Never NULL; `eval` sees NULLs.
    Never,
    /// The operation's own rule, stated in its doc line; `eval` sees NULLs. The flag function in the row gives nullability.
    Own,
}

/// The type of the result for operands of these types; NULL rule included.
pub fn result_type(op: ScalarOp, operands: &[RowType]) -> Result<RowType> {
    let d = def(op);
    let types: Vec<ScalarType> = operands.iter().map(|t| t.ty).collect();
    let ty = (d.ty)(op, &types).ok_or_else(|| {
        let list: Vec<String> = types.iter().map(|t| t.to_string()).collect();
        Error::Type(format!("{} is not defined for ({})", d.name, list.join(", ")))
    })?;
    let any = operands.iter().any(|t| t.nullable);
    let nullable = match d.null {
        NullRule::Strict | NullRule::Kleene => any,
        NullRule::Never => false,
        NullRule::Own => (d.own_nullable)(op, operands),
    };
    Ok(RowType { ty, nullable })
}

/// Whether the operation can raise on operands of these types.
pub fn can_raise(op: ScalarOp, operands: &[ScalarType]) -> bool {
    (def(op).raises)(op, operands)
}

#[cfg(test)]
pub(crate) mod tests;
