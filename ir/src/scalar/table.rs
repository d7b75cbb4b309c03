//! THE table: one row an operation.
//!
//! What holds: `defs()[op.index()]` is the row of `op`, whatever its attribute. A row's type rule gets the
//! operands' types and answers `None` where the operation is not defined for them.

use super::eval::{Args, Outcome, cast, logic, number, text, time};
use super::grad::{self, Adjoints, Rule};
use super::{DateField, NullRule};
use crate::error::Result;
use crate::types::{RowType, ScalarType};

/// One operation.
pub struct ScalarDef {
    /// Name in text.
    pub name: &'static str,
    /// A call and its value; a test evaluates it.
    pub example: &'static str,
    /// The result's type, NULL aside.
    pub ty: fn(ScalarOp, &[ScalarType]) -> Option<ScalarType>,
    /// What NULL does.
    pub null: NullRule,
    /// Whether the result can be NULL, where the NULL rule is the operation's own.
    pub own_nullable: fn(ScalarOp, &[RowType]) -> bool,
    /// Whether it can raise on operands of these types.
    pub raises: fn(ScalarOp, &[ScalarType]) -> bool,
    /// What it computes; see `eval` for what holds.
    pub eval: fn(&Args<'_>) -> Outcome,
    /// Its derivative; see [`grad`](mod@super::grad) for what holds.
    pub grad: fn(&mut Rule<'_>) -> Result<Adjoints>,
}

/// Declares the operations: the enum, the table, and one operation for each row. What an operation carries beside its
/// operands stands in parentheses, with a value for [`each`].
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident $(($attribute:ty = $value:expr))?: $row:expr,)*) => {
        /// A scalar operation. Operands are SSA values; what is not a value (a target type, a date field) is in the variant.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum ScalarOp {
            $($(#[$doc])* $name $(($attribute))?,)*
        }

        /// The rows by name; the discriminant is the position.
        enum Row {
            $($name,)*
        }

        static TABLE: &[ScalarDef] = &[$($row,)*];

        static EACH: &[ScalarOp] = &[$(ScalarOp::$name $(($value))?,)*];

        impl ScalarOp {
            /// The position of its row.
            pub fn index(self) -> usize {
                match self {
                    $(Self::$name { .. } => Row::$name as usize,)*
                }
            }
        }
    };
}

impl ScalarOp {
    /// Its name in text.
    pub fn name(self) -> &'static str {
        def(self).name
    }
}

/// The row of an operation.
pub fn def(op: ScalarOp) -> &'static ScalarDef {
    &TABLE[op.index()]
}

/// Every row.
pub fn defs() -> &'static [ScalarDef] {
    TABLE
}

/// One operation for each row, in the table's order.
pub fn each() -> &'static [ScalarOp] {
    EACH
}

/// What most rows have: strict, never raising.
const STRICT: ScalarDef = ScalarDef {
    name: "",
    example: "",
    ty: same2,
    null: NullRule::Strict,
    own_nullable: never,
    raises: never_raises,
    eval: number::sum,
    grad: grad::missing,
};

operations! {
    // Arithmetic. Both operands have one type; integers and decimals raise on overflow.
    /// Sum.
    Add: ScalarDef {
        name: "add",
        example: "add(2, 3) = 5",
        ty: sum_type,
        raises: sum_raises,
        eval: number::sum,
        grad: grad::sum,
        ..STRICT
    },
    /// Difference.
    Sub: ScalarDef {
        name: "sub",
        example: "sub(1.50d, 0.5d) = 1.00d",
        ty: sum_type,
        raises: sum_raises,
        eval: number::sum,
        grad: grad::sum,
        ..STRICT
    },
    /// Product. Decimals: scales add up.
    Mul: ScalarDef {
        name: "mul",
        example: "mul(1.5d, 0.50d) = 0.750d",
        ty: product_type,
        raises: product_raises,
        eval: number::mul,
        grad: grad::mul,
        ..STRICT
    },
    /// Quotient. Integers truncate and raise on 0; floats follow IEEE 754; decimals are cast to `f64` before.
    Div: ScalarDef {
        name: "div",
        example: "div(-7, 2) = -3",
        ty: quotient_type,
        raises: integers,
        eval: number::div,
        grad: grad::div,
        ..STRICT
    },
    /// Remainder with the sign of the dividend; raises on 0 for integers and decimals.
    Rem: ScalarDef {
        name: "rem",
        example: "rem(-7, 2) = -1",
        ty: sum_type,
        raises: exact,
        eval: number::rem,
        grad: grad::rem,
        ..STRICT
    },
    /// Negation.
    Neg: ScalarDef {
        name: "neg",
        example: "neg(2.5) = -2.5",
        ty: numeric1,
        raises: integers,
        eval: number::neg,
        grad: grad::neg,
        ..STRICT
    },
    /// Absolute value.
    Abs: ScalarDef {
        name: "abs",
        example: "abs(-2) = 2",
        ty: numeric1,
        raises: integers,
        eval: number::abs,
        grad: grad::abs,
        ..STRICT
    },
    /// -1, 0 or 1, of the operand's type.
    Sign: ScalarDef {
        name: "sign",
        example: "sign(-2.5) = -1.0",
        ty: numeric1,
        eval: number::sign,
        grad: grad::zero,
        ..STRICT
    },
    /// The smaller of two; NaN is the greatest.
    Min: ScalarDef {
        name: "min",
        example: "min(nan, 1.0) = 1.0",
        ty: same2,
        eval: number::min,
        grad: grad::extreme,
        ..STRICT
    },
    /// The greater of two; NaN is the greatest.
    Max: ScalarDef {
        name: "max",
        example: "max(nan, 1.0) = nan",
        ty: same2,
        eval: number::max,
        grad: grad::extreme,
        ..STRICT
    },

    // Comparison. NaN equals itself and is greater than every number.
    /// Equal.
    Eq: ScalarDef { name: "eq", example: "eq(nan, nan) = true", ty: comparison, eval: logic::comparison, ..STRICT },
    /// Not equal.
    Ne: ScalarDef { name: "ne", example: "ne('a', 'b') = true", ty: comparison, eval: logic::comparison, ..STRICT },
    /// Less.
    Lt: ScalarDef { name: "lt", example: "lt('Z', 'a') = true", ty: comparison, eval: logic::comparison, ..STRICT },
    /// Less or equal.
    Le: ScalarDef { name: "le", example: "le(1.50d, 1.49d) = false", ty: comparison, eval: logic::comparison, ..STRICT },
    /// Greater.
    Gt: ScalarDef { name: "gt", example: "gt(nan, inf) = true", ty: comparison, eval: logic::comparison, ..STRICT },
    /// Greater or equal.
    Ge: ScalarDef {
        name: "ge",
        example: "ge(date '2013-02-01', date '2013-01-31') = true",
        ty: comparison,
        eval: logic::comparison,
        ..STRICT
    },
    /// `IS DISTINCT FROM`: NULL is a value.
    IsDistinct: ScalarDef {
        name: "is_distinct",
        example: "is_distinct(1, null) = true",
        ty: comparison,
        null: NullRule::Never,
        eval: logic::distinct,
        ..STRICT
    },
    /// `IS NOT DISTINCT FROM`: NULL is a value.
    IsNotDistinct: ScalarDef {
        name: "is_not_distinct",
        example: "is_not_distinct(null, null) = true",
        ty: comparison,
        null: NullRule::Never,
        eval: logic::distinct,
        ..STRICT
    },

    // Logic.
    /// Kleene's and.
    And: ScalarDef {
        name: "and",
        example: "and(false, null) = false",
        ty: logic2,
        null: NullRule::Kleene,
        eval: logic::and,
        ..STRICT
    },
    /// Kleene's or.
    Or: ScalarDef {
        name: "or",
        example: "or(false, null) = null",
        ty: logic2,
        null: NullRule::Kleene,
        eval: logic::or,
        ..STRICT
    },
    /// Not.
    Not: ScalarDef { name: "not", example: "not(true) = false", ty: logic1, eval: logic::not, ..STRICT },
    /// Whether NULL; never NULL itself.
    IsNull: ScalarDef {
        name: "is_null",
        example: "is_null(1) = false",
        ty: test,
        null: NullRule::Never,
        eval: logic::is_null,
        ..STRICT
    },
    /// Whether not NULL; never NULL itself.
    IsNotNull: ScalarDef {
        name: "is_not_null",
        example: "is_not_null(1) = true",
        ty: test,
        null: NullRule::Never,
        eval: logic::is_null,
        ..STRICT
    },
    /// The first operand if it is not NULL, else the second. Both are evaluated: an operand that can raise comes in by `if`.
    Coalesce: ScalarDef {
        name: "coalesce",
        example: "coalesce(null, 1) = 1",
        ty: same2,
        null: NullRule::Own,
        own_nullable: all_nullable,
        eval: logic::coalesce,
        grad: grad::coalesce,
        ..STRICT
    },
    /// `select(c, a, b)`: `a` where `c` is true, else `b`. Both are evaluated.
    Select: ScalarDef {
        name: "select",
        example: "select(null, 1, 2) = 2",
        ty: select_type,
        null: NullRule::Own,
        own_nullable: branch_nullable,
        eval: logic::select,
        grad: grad::select,
        ..STRICT
    },
    /// NULL of the operand's type where the condition (second operand) is true, else the first operand.
    NullIfTrue: ScalarDef {
        name: "null_if_true",
        example: "null_if_true(1, true) = null",
        ty: first_if_bool,
        null: NullRule::Own,
        own_nullable: always,
        eval: logic::null_if_true,
        grad: grad::null_if_true,
        ..STRICT
    },

    // Conversion.
    /// To another type; raises where the value does not fit. Decimal and float to integer round half away from zero.
    Cast(ScalarType = ScalarType::Bool): ScalarDef {
        name: "cast",
        example: "cast<i32>(-2.5) = -3i32",
        ty: cast_type,
        raises: cast_raises,
        eval: cast::cast,
        grad: grad::cast,
        ..STRICT
    },
    /// To another type; NULL where the value does not fit.
    TryCast(ScalarType = ScalarType::Bool): ScalarDef {
        name: "try_cast",
        example: "try_cast<i64>('x') = null",
        ty: cast_type,
        null: NullRule::Own,
        own_nullable: always,
        eval: logic::try_cast,
        grad: grad::cast,
        ..STRICT
    },

    // Mathematics, on `f32` and `f64`.
    /// e^x.
    Exp: ScalarDef { name: "exp", example: "exp(0.0) = 1.0", ty: float1, eval: number::math1, grad: grad::exp, ..STRICT },
    /// Natural logarithm.
    Log: ScalarDef { name: "log", example: "log(1.0) = 0.0", ty: float1, eval: number::math1, grad: grad::log, ..STRICT },
    /// log(1 + x).
    Log1p: ScalarDef {
        name: "log1p",
        example: "log1p(0.0) = 0.0",
        ty: float1,
        eval: number::math1,
        grad: grad::log1p,
        ..STRICT
    },
    /// Square root.
    Sqrt: ScalarDef {
        name: "sqrt",
        example: "sqrt(6.25) = 2.5",
        ty: float1,
        eval: number::math1,
        grad: grad::sqrt,
        ..STRICT
    },
    /// Sine of radians.
    Sin: ScalarDef { name: "sin", example: "sin(0.0) = 0.0", ty: float1, eval: number::math1, grad: grad::sin, ..STRICT },
    /// Cosine of radians.
    Cos: ScalarDef { name: "cos", example: "cos(0.0) = 1.0", ty: float1, eval: number::math1, grad: grad::cos, ..STRICT },
    /// Tangent of radians.
    Tan: ScalarDef { name: "tan", example: "tan(0.0) = 0.0", ty: float1, eval: number::math1, grad: grad::tan, ..STRICT },
    /// Inverse sine.
    Asin: ScalarDef { name: "asin", example: "asin(0.0) = 0.0", ty: float1, eval: number::math1, grad: grad::asin, ..STRICT },
    /// Inverse cosine.
    Acos: ScalarDef { name: "acos", example: "acos(1.0) = 0.0", ty: float1, eval: number::math1, grad: grad::asin, ..STRICT },
    /// Inverse tangent.
    Atan: ScalarDef { name: "atan", example: "atan(0.0) = 0.0", ty: float1, eval: number::math1, grad: grad::atan, ..STRICT },
    /// Inverse tangent of y / x, with quadrant.
    Atan2: ScalarDef {
        name: "atan2",
        example: "atan2(0.0, 1.0) = 0.0",
        ty: float2,
        eval: number::atan2,
        grad: grad::atan2,
        ..STRICT
    },
    /// Hyperbolic tangent.
    Tanh: ScalarDef {
        name: "tanh",
        example: "tanh(100.0) = 1.0",
        ty: float1,
        eval: number::math1,
        grad: grad::tanh,
        ..STRICT
    },
    /// 1 / (1 + e^-x).
    Sigmoid: ScalarDef {
        name: "sigmoid",
        example: "sigmoid(0.0) = 0.5",
        ty: float1,
        eval: number::math1,
        grad: grad::sigmoid,
        ..STRICT
    },
    /// Error function.
    Erf: ScalarDef { name: "erf", example: "erf(0.0) = 0.0", ty: float1, eval: number::math1, grad: grad::erf, ..STRICT },
    /// x^y.
    Pow: ScalarDef {
        name: "pow",
        example: "pow(2.0, 10.0) = 1024.0",
        ty: float2,
        eval: number::pow,
        grad: grad::pow,
        ..STRICT
    },
    /// Largest whole number not above; also on decimals.
    Floor: ScalarDef {
        name: "floor",
        example: "floor(-1.5d) = -2d",
        ty: rounding,
        eval: number::whole,
        grad: grad::zero,
        ..STRICT
    },
    /// Smallest whole number not below; also on decimals.
    Ceil: ScalarDef {
        name: "ceil",
        example: "ceil(-1.5) = -1.0",
        ty: rounding,
        eval: number::whole,
        grad: grad::zero,
        ..STRICT
    },
    /// Towards zero; also on decimals.
    Trunc: ScalarDef {
        name: "trunc",
        example: "trunc(-1.5d) = -1d",
        ty: rounding,
        eval: number::whole,
        grad: grad::zero,
        ..STRICT
    },
    /// `round(x, digits: i32)`: half away from zero; also on decimals.
    Round: ScalarDef {
        name: "round",
        example: "round(-1.25d, 1i32) = -1.30d",
        ty: round_type,
        raises: round_raises,
        eval: number::round,
        grad: grad::zero,
        ..STRICT
    },

    // Text.
    /// Number of characters, `i64`.
    Length: ScalarDef { name: "length", example: "length('Zürich') = 6", ty: text_length, eval: text::length, ..STRICT },
    /// Lower case.
    Lower: ScalarDef { name: "lower", example: "lower('ÄB') = 'äb'", ty: text1, eval: text::case, ..STRICT },
    /// Upper case.
    Upper: ScalarDef { name: "upper", example: "upper('äb') = 'ÄB'", ty: text1, eval: text::case, ..STRICT },
    /// Without blanks at both ends.
    Trim: ScalarDef { name: "trim", example: "trim('  a b ') = 'a b'", ty: text1, eval: text::trim, ..STRICT },
    /// Without blanks at the start.
    TrimStart: ScalarDef { name: "trim_start", example: "trim_start('  a ') = 'a '", ty: text1, eval: text::trim, ..STRICT },
    /// Without blanks at the end.
    TrimEnd: ScalarDef { name: "trim_end", example: "trim_end(' a  ') = ' a'", ty: text1, eval: text::trim, ..STRICT },
    /// `substring(text, start: i64, length: i64)`, characters counted from 1.
    Substring: ScalarDef {
        name: "substring",
        example: "substring('hello', 2, 3) = 'ell'",
        ty: substring_type,
        raises: always_raises,
        eval: text::substring,
        ..STRICT
    },
    /// Both, one after the other.
    Concat: ScalarDef { name: "concat", example: "concat('ab', 'c') = 'abc'", ty: text2, eval: text::concat, ..STRICT },
    /// `like(text, pattern)`: `%` any characters, `_` one, `\` escapes.
    Like: ScalarDef { name: "like", example: "like('50%', '5_\\%') = true", ty: text_test, eval: text::like, ..STRICT },
    /// `like` without regard to case.
    ILike: ScalarDef { name: "ilike", example: "ilike('Hello', 'hE%') = true", ty: text_test, eval: text::like, ..STRICT },
    /// Whether the regular expression (second operand) matches somewhere.
    RegexMatch: ScalarDef {
        name: "regex_match",
        example: "regex_match('abc', 'b.$') = true",
        ty: text_test,
        raises: always_raises,
        eval: text::regex_match,
        ..STRICT
    },
    /// Whether the text begins with the second operand.
    StartsWith: ScalarDef {
        name: "starts_with",
        example: "starts_with('hello', 'he') = true",
        ty: text_test,
        eval: text::search,
        ..STRICT
    },
    /// Whether the text contains the second operand.
    Contains: ScalarDef {
        name: "contains",
        example: "contains('hello', 'll') = true",
        ty: text_test,
        eval: text::search,
        ..STRICT
    },
    /// Position of the second operand, from 1; 0 where it does not occur. `i64`.
    Position: ScalarDef {
        name: "position",
        example: "position('hello', 'l') = 3",
        ty: text_position,
        eval: text::search,
        ..STRICT
    },
    /// `replace(text, from, to)`.
    Replace: ScalarDef {
        name: "replace",
        example: "replace('banana', 'an', 'o') = 'booa'",
        ty: text3,
        eval: text::replace,
        ..STRICT
    },
    /// Without the characters of the second operand at both ends.
    TrimAny: ScalarDef {
        name: "trim_any",
        example: "trim_any('xyaxy', 'yx') = 'a'",
        ty: text2,
        eval: text::trim_any,
        ..STRICT
    },
    /// Without the characters of the second operand at the beginning.
    TrimAnyStart: ScalarDef {
        name: "trim_any_start",
        example: "trim_any_start('xyaxy', 'yx') = 'axy'",
        ty: text2,
        eval: text::trim_any,
        ..STRICT
    },
    /// Without the characters of the second operand at the end.
    TrimAnyEnd: ScalarDef {
        name: "trim_any_end",
        example: "trim_any_end('xyaxy', 'yx') = 'xya'",
        ty: text2,
        eval: text::trim_any,
        ..STRICT
    },
    /// `pad_start(text, length: i64, fill)`: so many characters, filled up or cut; raises where it is too long.
    PadStart: ScalarDef {
        name: "pad_start",
        example: "pad_start('ab', 5, 'xy') = 'xyxab'",
        ty: pad_type,
        raises: always_raises,
        eval: text::pad,
        ..STRICT
    },
    /// `pad_end(text, length: i64, fill)`: so many characters, filled up or cut; raises where it is too long.
    PadEnd: ScalarDef {
        name: "pad_end",
        example: "pad_end('ab', 5, 'xy') = 'abxyx'",
        ty: pad_type,
        raises: always_raises,
        eval: text::pad,
        ..STRICT
    },
    /// `repeat(text, times: i64)`; raises where it is too long.
    Repeat: ScalarDef {
        name: "repeat",
        example: "repeat('ab', 2) = 'abab'",
        ty: repeat_type,
        raises: always_raises,
        eval: text::repeat,
        ..STRICT
    },
    /// The characters from the last to the first.
    Reverse: ScalarDef { name: "reverse", example: "reverse('abc') = 'cba'", ty: text1, eval: text::reverse, ..STRICT },
    /// Each word with a capital letter first and small ones behind; words are letters and digits.
    Capitalize: ScalarDef {
        name: "capitalize",
        example: "capitalize('hello wOrld') = 'Hello World'",
        ty: text1,
        eval: text::capitalize,
        ..STRICT
    },
    /// `split_part(text, separator, n: i64)`: the n-th part, from the end for a negative n; empty where there is none, and raises
    /// for 0.
    SplitPart: ScalarDef {
        name: "split_part",
        example: "split_part('a,b,c', ',', 2) = 'b'",
        ty: split_type,
        raises: always_raises,
        eval: text::split_part,
        ..STRICT
    },
    /// `translate(text, from, to)`: each character of `from` becomes the one of `to` at its place, or goes.
    Translate: ScalarDef {
        name: "translate",
        example: "translate('abcabc', 'ab', 'x') = 'xcxc'",
        ty: text3,
        eval: text::translate,
        ..STRICT
    },
    /// The first character's number in Unicode, `i64`; 0 for no text.
    CharCode: ScalarDef {
        name: "char_code",
        example: "char_code('A') = 65",
        ty: text_number,
        eval: text::char_code,
        ..STRICT
    },
    /// The character with this number in Unicode (`i64`); raises where there is none.
    FromCharCode: ScalarDef {
        name: "from_char_code",
        example: "from_char_code(955) = 'λ'",
        ty: from_code_type,
        raises: always_raises,
        eval: text::from_char_code,
        ..STRICT
    },
    /// Bytes of the text in UTF-8, `i64`.
    ByteLength: ScalarDef {
        name: "byte_length",
        example: "byte_length('ß') = 2",
        ty: text_number,
        eval: text::byte_length,
        ..STRICT
    },
    /// Whether the text ends with the second operand.
    EndsWith: ScalarDef {
        name: "ends_with",
        example: "ends_with('hello', 'lo') = true",
        ty: text_test,
        eval: text::search,
        ..STRICT
    },
    /// `regex_replace(text, pattern, replacement)`: the first match; `\1` in the replacement is the first group.
    RegexReplace: ScalarDef {
        name: "regex_replace",
        example: "regex_replace('abcabc', 'b', 'X') = 'aXcabc'",
        ty: text3,
        raises: always_raises,
        eval: text::regex_replace,
        ..STRICT
    },
    /// `regex_replace` of every match.
    RegexReplaceAll: ScalarDef {
        name: "regex_replace_all",
        example: "regex_replace_all('abcabc', 'b', 'X') = 'aXcaXc'",
        ty: text3,
        raises: always_raises,
        eval: text::regex_replace,
        ..STRICT
    },

    // Integers.
    /// Greatest common divisor, not negative; raises where the type does not hold it.
    Gcd: ScalarDef {
        name: "gcd",
        example: "gcd(12, -18) = 6",
        ty: integers2,
        raises: always_raises,
        eval: number::gcd,
        ..STRICT
    },
    /// Both bits.
    BitAnd: ScalarDef { name: "bit_and", example: "bit_and(12, 10) = 8", ty: integers2, eval: number::bits, ..STRICT },
    /// Either bit.
    BitOr: ScalarDef { name: "bit_or", example: "bit_or(12, 10) = 14", ty: integers2, eval: number::bits, ..STRICT },
    /// One bit of two.
    BitXor: ScalarDef { name: "bit_xor", example: "bit_xor(12, 10) = 6", ty: integers2, eval: number::bits, ..STRICT },
    /// The first operand's bits moved up by the second, 0 to 63 (31); raises for any other.
    ShiftLeft: ScalarDef {
        name: "shift_left",
        example: "shift_left(1, 4) = 16",
        ty: integers2,
        raises: always_raises,
        eval: number::bits,
        ..STRICT
    },
    /// The first operand's bits moved down by the second, 0 to 63 (31), the sign kept; raises for any other.
    ShiftRight: ScalarDef {
        name: "shift_right",
        example: "shift_right(256, 2) = 64",
        ty: integers2,
        raises: always_raises,
        eval: number::bits,
        ..STRICT
    },

    // Dates and timestamps.
    /// `make_date(year, month, day)`, of `i64`; raises where there is no such day.
    MakeDate: ScalarDef {
        name: "make_date",
        example: "make_date(2024, 2, 29) = date '2024-02-29'",
        ty: make_date_type,
        raises: always_raises,
        eval: time::make_date,
        ..STRICT
    },
    /// `format_time(time, pattern)`: `strftime`'s `%Y %y %m %d %H %I %M %S %f %p %A %a %B %b %j %%`, English names; raises for
    /// another.
    FormatTime: ScalarDef {
        name: "format_time",
        example: "format_time(date '2024-02-29', '%d.%m.%Y') = '29.02.2024'",
        ty: format_time_type,
        raises: always_raises,
        eval: time::format,
        ..STRICT
    },
    /// A field, as `i64`.
    Extract(DateField = DateField::Year): ScalarDef {
        name: "extract",
        example: "extract<week>(date '2013-12-31') = 1",
        ty: extract_type,
        eval: time::extract,
        ..STRICT
    },
    /// Rounded down to a field; the operand's type.
    DateTrunc(DateField = DateField::Year): ScalarDef {
        name: "date_trunc",
        example: "date_trunc<month>(date '2013-01-31') = date '2013-01-01'",
        ty: trunc_date,
        raises: always_raises,
        eval: time::trunc,
        ..STRICT
    },
    /// Plus months (`i32`), clamped to the end of the month.
    AddMonths: ScalarDef {
        name: "add_months",
        example: "add_months(date '2013-01-31', 1i32) = date '2013-02-28'",
        ty: add_i32,
        raises: always_raises,
        eval: time::add_months,
        ..STRICT
    },
    /// Plus days (`i32`).
    AddDays: ScalarDef {
        name: "add_days",
        example: "add_days(date '2013-01-31', 1i32) = date '2013-02-01'",
        ty: add_i32,
        raises: always_raises,
        eval: time::add_days,
        ..STRICT
    },
    /// Plus microseconds (`i64`), of a timestamp.
    AddMicros: ScalarDef {
        name: "add_micros",
        example: "add_micros(timestamp '2013-01-01 00:00:00', -1) = timestamp '2012-12-31 23:59:59.999999'",
        ty: add_micros_type,
        raises: always_raises,
        eval: time::add_micros,
        ..STRICT
    },
    /// `date_diff(field, a, b)`: boundaries of the field crossed from `a` to `b`, `i64`.
    DateDiff(DateField = DateField::Year): ScalarDef {
        name: "date_diff",
        example: "date_diff<month>(date '2013-01-31', date '2013-02-01') = 1",
        ty: date_diff_type,
        eval: time::diff,
        ..STRICT
    },
}

use ScalarType as S;

fn never(_: ScalarOp, _: &[RowType]) -> bool {
    false
}
fn always(_: ScalarOp, _: &[RowType]) -> bool {
    true
}
fn all_nullable(_: ScalarOp, t: &[RowType]) -> bool {
    t.iter().all(|t| t.nullable)
}
fn branch_nullable(_: ScalarOp, t: &[RowType]) -> bool {
    t[1].nullable || t[2].nullable
}

fn never_raises(_: ScalarOp, _: &[S]) -> bool {
    false
}
fn always_raises(_: ScalarOp, _: &[S]) -> bool {
    true
}
/// Integers and decimals raise on overflow (and on division by zero); floats never do.
fn exact(_: ScalarOp, t: &[S]) -> bool {
    !t[0].is_float()
}
fn integers(_: ScalarOp, t: &[S]) -> bool {
    t[0].is_integer()
}
/// Sums of decimals raise only where the result's precision was cut to 38.
fn sum_raises(_: ScalarOp, t: &[S]) -> bool {
    match *t {
        [S::Decimal { precision: p1, scale: s1 }, S::Decimal { precision: p2, scale: s2 }] => {
            (p1 - s1).max(p2 - s2) + s1.max(s2) + 1 > 38
        }
        _ => t[0].is_integer(),
    }
}
fn product_raises(_: ScalarOp, t: &[S]) -> bool {
    match *t {
        [S::Decimal { precision: p1, .. }, S::Decimal { precision: p2, .. }] => p1 + p2 > 38,
        _ => t[0].is_integer(),
    }
}
/// Rounding adds at most one digit, which the result's type has unless it has 38.
fn round_raises(_: ScalarOp, t: &[S]) -> bool {
    match t[0] {
        S::Decimal { precision, .. } => precision == 38,
        t => t.is_integer(),
    }
}
fn cast_raises(op: ScalarOp, t: &[S]) -> bool {
    let ScalarOp::Cast(to) = op else { return false };
    match (t[0], to) {
        (a, b) if a == b => false,
        (S::Text, _) => true,
        (_, S::Text | S::F64 | S::F32 | S::Bool) => false,
        (S::Bool, S::I32 | S::I64) | (S::I32, S::I64) | (S::Timestamp, S::Date) => false,
        (S::I32, S::Decimal { precision, scale }) => precision - scale < 10,
        (S::I64, S::Decimal { precision, scale }) => precision - scale < 19,
        // Fewer digits after the point: rounding may carry into one digit more.
        (S::Decimal { precision: p1, scale: s1 }, S::Decimal { precision: p2, scale: s2 }) => {
            p2 - s2 < p1 - s1 + u8::from(s2 < s1)
        }
        _ => true,
    }
}

/// Two operands of one numeric type give that type; decimals of any precision and scale give one digit more.
fn sum_type(op: ScalarOp, t: &[S]) -> Option<S> {
    match *t {
        [S::Decimal { precision: p1, scale: s1 }, S::Decimal { precision: p2, scale: s2 }] => {
            let scale = s1.max(s2);
            let carry = u8::from(op != ScalarOp::Rem);
            let precision = (p1 - s1).max(p2 - s2) + scale + carry;
            Some(S::Decimal { precision: precision.min(38), scale })
        }
        [a, b] if a == b && a.is_numeric() => Some(a),
        _ => None,
    }
}
fn product_type(_: ScalarOp, t: &[S]) -> Option<S> {
    match *t {
        [S::Decimal { precision: p1, scale: s1 }, S::Decimal { precision: p2, scale: s2 }] => {
            let scale = s1 + s2;
            (scale <= 38).then_some(S::Decimal { precision: (p1 + p2).min(38), scale })
        }
        [a, b] if a == b && a.is_numeric() => Some(a),
        _ => None,
    }
}
fn quotient_type(_: ScalarOp, t: &[S]) -> Option<S> {
    match *t {
        [a, b] if a == b && (a.is_integer() || a.is_float()) => Some(a),
        _ => None,
    }
}
fn numeric1(_: ScalarOp, t: &[S]) -> Option<S> {
    if let [a] = *t { a.is_numeric().then_some(a) } else { None }
}
fn same2(_: ScalarOp, t: &[S]) -> Option<S> {
    if let [a, b] = *t { (a == b).then_some(a) } else { None }
}
/// Decimals compare only at one scale: the caller casts.
fn comparison(_: ScalarOp, t: &[S]) -> Option<S> {
    match *t {
        [S::Decimal { scale: a, .. }, S::Decimal { scale: b, .. }] => (a == b).then_some(S::Bool),
        [a, b] => (a == b).then_some(S::Bool),
        _ => None,
    }
}
fn logic2(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::Bool, S::Bool]).then_some(S::Bool)
}
fn logic1(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::Bool]).then_some(S::Bool)
}
fn test(_: ScalarOp, t: &[S]) -> Option<S> {
    (t.len() == 1).then_some(S::Bool)
}
fn select_type(_: ScalarOp, t: &[S]) -> Option<S> {
    if let [S::Bool, a, b] = *t { (a == b).then_some(a) } else { None }
}
fn first_if_bool(_: ScalarOp, t: &[S]) -> Option<S> {
    if let [a, S::Bool] = *t { Some(a) } else { None }
}
fn cast_type(op: ScalarOp, t: &[S]) -> Option<S> {
    let to = match op {
        ScalarOp::Cast(to) | ScalarOp::TryCast(to) => to,
        _ => return None,
    };
    let [from] = *t else { return None };
    let time = |t: S| matches!(t, S::Date | S::Timestamp);
    let ok = from == to
        || from == S::Text
        || to == S::Text
        || (time(from) && time(to))
        || !(time(from) || time(to) || (from == S::Bool && matches!(to, S::Decimal { .. })));
    ok.then_some(to)
}
fn float1(_: ScalarOp, t: &[S]) -> Option<S> {
    if let [a] = *t { a.is_float().then_some(a) } else { None }
}
fn float2(_: ScalarOp, t: &[S]) -> Option<S> {
    if let [a, b] = *t { (a == b && a.is_float()).then_some(a) } else { None }
}
fn rounding(_: ScalarOp, t: &[S]) -> Option<S> {
    match *t {
        [S::Decimal { precision, scale }] => {
            let precision = (precision - scale + 1).min(38);
            Some(S::Decimal { precision, scale: 0 })
        }
        [a] => a.is_numeric().then_some(a),
        _ => None,
    }
}
/// A decimal keeps its scale: its digits after the rounded ones become 0; the carry may need one digit more.
fn round_type(_: ScalarOp, t: &[S]) -> Option<S> {
    match *t {
        [S::Decimal { precision, scale }, S::I32] => Some(S::Decimal { precision: (precision + 1).min(38), scale }),
        [a, S::I32] => a.is_numeric().then_some(a),
        _ => None,
    }
}
fn text_length(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::Text]).then_some(S::I64)
}
fn text1(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::Text]).then_some(S::Text)
}
fn text2(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::Text, S::Text]).then_some(S::Text)
}
fn text3(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::Text, S::Text, S::Text]).then_some(S::Text)
}
fn substring_type(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::Text, S::I64, S::I64]).then_some(S::Text)
}
fn text_test(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::Text, S::Text]).then_some(S::Bool)
}
fn text_position(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::Text, S::Text]).then_some(S::I64)
}
fn pad_type(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::Text, S::I64, S::Text]).then_some(S::Text)
}
fn repeat_type(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::Text, S::I64]).then_some(S::Text)
}
fn split_type(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::Text, S::Text, S::I64]).then_some(S::Text)
}
fn text_number(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::Text]).then_some(S::I64)
}
fn from_code_type(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::I64]).then_some(S::Text)
}
fn integers2(_: ScalarOp, t: &[S]) -> Option<S> {
    if let [a @ (S::I32 | S::I64), b] = *t { (a == b).then_some(a) } else { None }
}
fn make_date_type(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::I64, S::I64, S::I64]).then_some(S::Date)
}
fn format_time_type(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::Date | S::Timestamp, S::Text]).then_some(S::Text)
}
fn extract_type(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::Date | S::Timestamp]).then_some(S::I64)
}
fn trunc_date(_: ScalarOp, t: &[S]) -> Option<S> {
    if let [a @ (S::Date | S::Timestamp)] = *t { Some(a) } else { None }
}
fn add_i32(_: ScalarOp, t: &[S]) -> Option<S> {
    if let [a @ (S::Date | S::Timestamp), S::I32] = *t { Some(a) } else { None }
}
fn add_micros_type(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::Timestamp, S::I64]).then_some(S::Timestamp)
}
fn date_diff_type(_: ScalarOp, t: &[S]) -> Option<S> {
    matches!(t, [S::Date, S::Date] | [S::Timestamp, S::Timestamp]).then_some(S::I64)
}
