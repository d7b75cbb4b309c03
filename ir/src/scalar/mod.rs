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
pub use table::{def, defs};

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

/// A scalar operation. Operands are SSA values; what is not a value (a target type, a date field) is in the variant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ScalarOp {
    // Arithmetic. Both operands have one type; integers and decimals raise on overflow.
    /// Sum.
    Add,
    /// Difference.
    Sub,
    /// Product. Decimals: scales add up.
    Mul,
    /// Quotient. Integers truncate and raise on 0; floats follow IEEE 754; decimals are cast to `f64` before.
    Div,
    /// Remainder with the sign of the dividend; raises on 0 for integers and decimals.
    Rem,
    /// Negation.
    Neg,
    /// Absolute value.
    Abs,
    /// -1, 0 or 1, of the operand's type.
    Sign,
    /// The smaller of two; NaN is the greatest.
    Min,
    /// The greater of two; NaN is the greatest.
    Max,

    // Comparison. NaN equals itself and is greater than every number.
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
    /// `IS DISTINCT FROM`: NULL is a value.
    IsDistinct,
    /// `IS NOT DISTINCT FROM`: NULL is a value.
    IsNotDistinct,

    // Logic.
    /// Kleene's and.
    And,
    /// Kleene's or.
    Or,
    /// Not.
    Not,
    /// Whether NULL; never NULL itself.
    IsNull,
    /// Whether not NULL; never NULL itself.
    IsNotNull,
    /// The first operand if it is not NULL, else the second. Both are evaluated: an operand that can raise comes in by `if`.
    Coalesce,
    /// `select(c, a, b)`: `a` where `c` is true, else `b`. Both are evaluated.
    Select,
    /// NULL of the operand's type where the condition (second operand) is true, else the first operand.
    NullIfTrue,

    // Conversion.
    /// To another type; raises where the value does not fit. Decimal and float to integer round half away from zero.
    Cast(ScalarType),
    /// To another type; NULL where the value does not fit.
    TryCast(ScalarType),

    // Mathematics, on `f32` and `f64`.
    /// e^x.
    Exp,
    /// Natural logarithm.
    Log,
    /// log(1 + x).
    Log1p,
    /// Square root.
    Sqrt,
    /// Sine of radians.
    Sin,
    /// Cosine of radians.
    Cos,
    /// Tangent of radians.
    Tan,
    /// Inverse sine.
    Asin,
    /// Inverse cosine.
    Acos,
    /// Inverse tangent.
    Atan,
    /// Inverse tangent of y / x, with quadrant.
    Atan2,
    /// Hyperbolic tangent.
    Tanh,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// Error function.
    Erf,
    /// x^y.
    Pow,
    /// Largest whole number not above; also on decimals.
    Floor,
    /// Smallest whole number not below; also on decimals.
    Ceil,
    /// Towards zero; also on decimals.
    Trunc,
    /// `round(x, digits: i32)`: half away from zero; also on decimals.
    Round,

    // Text.
    /// Number of characters, `i64`.
    Length,
    /// Lower case.
    Lower,
    /// Upper case.
    Upper,
    /// Without blanks at both ends.
    Trim,
    /// Without blanks at the start.
    TrimStart,
    /// Without blanks at the end.
    TrimEnd,
    /// `substring(text, start: i64, length: i64)`, characters counted from 1.
    Substring,
    /// Both, one after the other.
    Concat,
    /// `like(text, pattern)`: `%` any characters, `_` one, `\` escapes.
    Like,
    /// `like` without regard to case.
    ILike,
    /// Whether the regular expression (second operand) matches somewhere.
    RegexMatch,
    /// Whether the text begins with the second operand.
    StartsWith,
    /// Whether the text contains the second operand.
    Contains,
    /// Position of the second operand, from 1; 0 where it does not occur. `i64`.
    Position,
    /// `replace(text, from, to)`.
    Replace,

    // Dates and timestamps.
    /// A field, as `i64`.
    Extract(DateField),
    /// Rounded down to a field; the operand's type.
    DateTrunc(DateField),
    /// Plus months (`i32`), clamped to the end of the month.
    AddMonths,
    /// Plus days (`i32`).
    AddDays,
    /// Plus microseconds (`i64`), of a timestamp.
    AddMicros,
    /// `date_diff(field, a, b)`: boundaries of the field crossed from `a` to `b`, `i64`.
    DateDiff(DateField),
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
