//! THE table: one row an operation.
//!
//! What holds: `defs()[op.index()]` is the row of `op`, whatever its attribute; a test holds that. A row's type rule gets the
//! operands' types and answers `None` where the operation is not defined for them.

use super::eval::{Args, Outcome, cast, logic, number, text, time};
use super::grad::{self, Adjoints, Rule};
use super::{NullRule, ScalarOp};
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

impl ScalarOp {
    /// The position of its row.
    pub fn index(self) -> usize {
        match self {
            Self::Add => 0,
            Self::Sub => 1,
            Self::Mul => 2,
            Self::Div => 3,
            Self::Rem => 4,
            Self::Neg => 5,
            Self::Abs => 6,
            Self::Sign => 7,
            Self::Min => 8,
            Self::Max => 9,
            Self::Eq => 10,
            Self::Ne => 11,
            Self::Lt => 12,
            Self::Le => 13,
            Self::Gt => 14,
            Self::Ge => 15,
            Self::IsDistinct => 16,
            Self::IsNotDistinct => 17,
            Self::And => 18,
            Self::Or => 19,
            Self::Not => 20,
            Self::IsNull => 21,
            Self::IsNotNull => 22,
            Self::Coalesce => 23,
            Self::Select => 24,
            Self::NullIfTrue => 25,
            Self::Cast(_) => 26,
            Self::TryCast(_) => 27,
            Self::Exp => 28,
            Self::Log => 29,
            Self::Log1p => 30,
            Self::Sqrt => 31,
            Self::Sin => 32,
            Self::Cos => 33,
            Self::Tan => 34,
            Self::Asin => 35,
            Self::Acos => 36,
            Self::Atan => 37,
            Self::Atan2 => 38,
            Self::Tanh => 39,
            Self::Sigmoid => 40,
            Self::Erf => 41,
            Self::Pow => 42,
            Self::Floor => 43,
            Self::Ceil => 44,
            Self::Trunc => 45,
            Self::Round => 46,
            Self::Length => 47,
            Self::Lower => 48,
            Self::Upper => 49,
            Self::Trim => 50,
            Self::TrimStart => 51,
            Self::TrimEnd => 52,
            Self::Substring => 53,
            Self::Concat => 54,
            Self::Like => 55,
            Self::ILike => 56,
            Self::RegexMatch => 57,
            Self::StartsWith => 58,
            Self::Contains => 59,
            Self::Position => 60,
            Self::Replace => 61,
            Self::Extract(_) => 62,
            Self::DateTrunc(_) => 63,
            Self::AddMonths => 64,
            Self::AddDays => 65,
            Self::AddMicros => 66,
            Self::DateDiff(_) => 67,
        }
    }

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

static TABLE: &[ScalarDef] = &[
    ScalarDef {
        name: "add",
        example: "add(2, 3) = 5",
        ty: sum_type,
        raises: sum_raises,
        eval: number::sum,
        grad: grad::sum,
        ..STRICT
    },
    ScalarDef {
        name: "sub",
        example: "sub(1.50d, 0.5d) = 1.00d",
        ty: sum_type,
        raises: sum_raises,
        eval: number::sum,
        grad: grad::sum,
        ..STRICT
    },
    ScalarDef {
        name: "mul",
        example: "mul(1.5d, 0.50d) = 0.750d",
        ty: product_type,
        raises: product_raises,
        eval: number::mul,
        grad: grad::mul,
        ..STRICT
    },
    ScalarDef {
        name: "div",
        example: "div(-7, 2) = -3",
        ty: quotient_type,
        raises: integers,
        eval: number::div,
        grad: grad::div,
        ..STRICT
    },
    ScalarDef {
        name: "rem",
        example: "rem(-7, 2) = -1",
        ty: sum_type,
        raises: exact,
        eval: number::rem,
        grad: grad::rem,
        ..STRICT
    },
    ScalarDef {
        name: "neg",
        example: "neg(2.5) = -2.5",
        ty: numeric1,
        raises: integers,
        eval: number::neg,
        grad: grad::neg,
        ..STRICT
    },
    ScalarDef {
        name: "abs",
        example: "abs(-2) = 2",
        ty: numeric1,
        raises: integers,
        eval: number::abs,
        grad: grad::abs,
        ..STRICT
    },
    ScalarDef {
        name: "sign",
        example: "sign(-2.5) = -1.0",
        ty: numeric1,
        eval: number::sign,
        grad: grad::zero,
        ..STRICT
    },
    ScalarDef {
        name: "min",
        example: "min(nan, 1.0) = 1.0",
        ty: same2,
        eval: number::min,
        grad: grad::extreme,
        ..STRICT
    },
    ScalarDef {
        name: "max",
        example: "max(nan, 1.0) = nan",
        ty: same2,
        eval: number::max,
        grad: grad::extreme,
        ..STRICT
    },
    ScalarDef { name: "eq", example: "eq(nan, nan) = true", ty: comparison, eval: logic::comparison, ..STRICT },
    ScalarDef { name: "ne", example: "ne('a', 'b') = true", ty: comparison, eval: logic::comparison, ..STRICT },
    ScalarDef { name: "lt", example: "lt('Z', 'a') = true", ty: comparison, eval: logic::comparison, ..STRICT },
    ScalarDef { name: "le", example: "le(1.50d, 1.49d) = false", ty: comparison, eval: logic::comparison, ..STRICT },
    ScalarDef { name: "gt", example: "gt(nan, inf) = true", ty: comparison, eval: logic::comparison, ..STRICT },
    ScalarDef {
        name: "ge",
        example: "ge(date '2013-02-01', date '2013-01-31') = true",
        ty: comparison,
        eval: logic::comparison,
        ..STRICT
    },
    ScalarDef {
        name: "is_distinct",
        example: "is_distinct(1, null) = true",
        ty: comparison,
        null: NullRule::Never,
        eval: logic::distinct,
        ..STRICT
    },
    ScalarDef {
        name: "is_not_distinct",
        example: "is_not_distinct(null, null) = true",
        ty: comparison,
        null: NullRule::Never,
        eval: logic::distinct,
        ..STRICT
    },
    ScalarDef {
        name: "and",
        example: "and(false, null) = false",
        ty: logic2,
        null: NullRule::Kleene,
        eval: logic::and,
        ..STRICT
    },
    ScalarDef {
        name: "or",
        example: "or(false, null) = null",
        ty: logic2,
        null: NullRule::Kleene,
        eval: logic::or,
        ..STRICT
    },
    ScalarDef { name: "not", example: "not(true) = false", ty: logic1, eval: logic::not, ..STRICT },
    ScalarDef {
        name: "is_null",
        example: "is_null(1) = false",
        ty: test,
        null: NullRule::Never,
        eval: logic::is_null,
        ..STRICT
    },
    ScalarDef {
        name: "is_not_null",
        example: "is_not_null(1) = true",
        ty: test,
        null: NullRule::Never,
        eval: logic::is_null,
        ..STRICT
    },
    ScalarDef {
        name: "coalesce",
        example: "coalesce(null, 1) = 1",
        ty: same2,
        null: NullRule::Own,
        own_nullable: all_nullable,
        eval: logic::coalesce,
        grad: grad::coalesce,
        ..STRICT
    },
    ScalarDef {
        name: "select",
        example: "select(null, 1, 2) = 2",
        ty: select_type,
        null: NullRule::Own,
        own_nullable: branch_nullable,
        eval: logic::select,
        grad: grad::select,
        ..STRICT
    },
    ScalarDef {
        name: "null_if_true",
        example: "null_if_true(1, true) = null",
        ty: first_if_bool,
        null: NullRule::Own,
        own_nullable: always,
        eval: logic::null_if_true,
        grad: grad::null_if_true,
        ..STRICT
    },
    ScalarDef {
        name: "cast",
        example: "cast<i32>(-2.5) = -3i32",
        ty: cast_type,
        raises: cast_raises,
        eval: cast::cast,
        grad: grad::cast,
        ..STRICT
    },
    ScalarDef {
        name: "try_cast",
        example: "try_cast<i64>('x') = null",
        ty: cast_type,
        null: NullRule::Own,
        own_nullable: always,
        eval: logic::try_cast,
        grad: grad::cast,
        ..STRICT
    },
    ScalarDef { name: "exp", example: "exp(0.0) = 1.0", ty: float1, eval: number::math1, grad: grad::exp, ..STRICT },
    ScalarDef { name: "log", example: "log(1.0) = 0.0", ty: float1, eval: number::math1, grad: grad::log, ..STRICT },
    ScalarDef {
        name: "log1p",
        example: "log1p(0.0) = 0.0",
        ty: float1,
        eval: number::math1,
        grad: grad::log1p,
        ..STRICT
    },
    ScalarDef {
        name: "sqrt",
        example: "sqrt(6.25) = 2.5",
        ty: float1,
        eval: number::math1,
        grad: grad::sqrt,
        ..STRICT
    },
    ScalarDef { name: "sin", example: "sin(0.0) = 0.0", ty: float1, eval: number::math1, grad: grad::sin, ..STRICT },
    ScalarDef { name: "cos", example: "cos(0.0) = 1.0", ty: float1, eval: number::math1, grad: grad::cos, ..STRICT },
    ScalarDef { name: "tan", example: "tan(0.0) = 0.0", ty: float1, eval: number::math1, grad: grad::tan, ..STRICT },
    ScalarDef { name: "asin", example: "asin(0.0) = 0.0", ty: float1, eval: number::math1, grad: grad::asin, ..STRICT },
    ScalarDef { name: "acos", example: "acos(1.0) = 0.0", ty: float1, eval: number::math1, grad: grad::asin, ..STRICT },
    ScalarDef { name: "atan", example: "atan(0.0) = 0.0", ty: float1, eval: number::math1, grad: grad::atan, ..STRICT },
    ScalarDef {
        name: "atan2",
        example: "atan2(0.0, 1.0) = 0.0",
        ty: float2,
        eval: number::atan2,
        grad: grad::atan2,
        ..STRICT
    },
    ScalarDef {
        name: "tanh",
        example: "tanh(100.0) = 1.0",
        ty: float1,
        eval: number::math1,
        grad: grad::tanh,
        ..STRICT
    },
    ScalarDef {
        name: "sigmoid",
        example: "sigmoid(0.0) = 0.5",
        ty: float1,
        eval: number::math1,
        grad: grad::sigmoid,
        ..STRICT
    },
    ScalarDef { name: "erf", example: "erf(0.0) = 0.0", ty: float1, eval: number::math1, grad: grad::erf, ..STRICT },
    ScalarDef {
        name: "pow",
        example: "pow(2.0, 10.0) = 1024.0",
        ty: float2,
        eval: number::pow,
        grad: grad::pow,
        ..STRICT
    },
    ScalarDef {
        name: "floor",
        example: "floor(-1.5d) = -2d",
        ty: rounding,
        eval: number::whole,
        grad: grad::zero,
        ..STRICT
    },
    ScalarDef {
        name: "ceil",
        example: "ceil(-1.5) = -1.0",
        ty: rounding,
        eval: number::whole,
        grad: grad::zero,
        ..STRICT
    },
    ScalarDef {
        name: "trunc",
        example: "trunc(-1.5d) = -1d",
        ty: rounding,
        eval: number::whole,
        grad: grad::zero,
        ..STRICT
    },
    ScalarDef {
        name: "round",
        example: "round(-1.25d, 1i32) = -1.30d",
        ty: round_type,
        raises: round_raises,
        eval: number::round,
        grad: grad::zero,
        ..STRICT
    },
    ScalarDef { name: "length", example: "length('Zürich') = 6", ty: text_length, eval: text::length, ..STRICT },
    ScalarDef { name: "lower", example: "lower('ÄB') = 'äb'", ty: text1, eval: text::case, ..STRICT },
    ScalarDef { name: "upper", example: "upper('äb') = 'ÄB'", ty: text1, eval: text::case, ..STRICT },
    ScalarDef { name: "trim", example: "trim('  a b ') = 'a b'", ty: text1, eval: text::trim, ..STRICT },
    ScalarDef { name: "trim_start", example: "trim_start('  a ') = 'a '", ty: text1, eval: text::trim, ..STRICT },
    ScalarDef { name: "trim_end", example: "trim_end(' a  ') = ' a'", ty: text1, eval: text::trim, ..STRICT },
    ScalarDef {
        name: "substring",
        example: "substring('hello', 2, 3) = 'ell'",
        ty: substring_type,
        raises: always_raises,
        eval: text::substring,
        ..STRICT
    },
    ScalarDef { name: "concat", example: "concat('ab', 'c') = 'abc'", ty: text2, eval: text::concat, ..STRICT },
    ScalarDef { name: "like", example: "like('50%', '5_\\%') = true", ty: text_test, eval: text::like, ..STRICT },
    ScalarDef { name: "ilike", example: "ilike('Hello', 'hE%') = true", ty: text_test, eval: text::like, ..STRICT },
    ScalarDef {
        name: "regex_match",
        example: "regex_match('abc', 'b.$') = true",
        ty: text_test,
        raises: always_raises,
        eval: text::regex_match,
        ..STRICT
    },
    ScalarDef {
        name: "starts_with",
        example: "starts_with('hello', 'he') = true",
        ty: text_test,
        eval: text::search,
        ..STRICT
    },
    ScalarDef {
        name: "contains",
        example: "contains('hello', 'll') = true",
        ty: text_test,
        eval: text::search,
        ..STRICT
    },
    ScalarDef {
        name: "position",
        example: "position('hello', 'l') = 3",
        ty: text_position,
        eval: text::search,
        ..STRICT
    },
    ScalarDef {
        name: "replace",
        example: "replace('banana', 'an', 'o') = 'booa'",
        ty: text3,
        eval: text::replace,
        ..STRICT
    },
    ScalarDef {
        name: "extract",
        example: "extract<week>(date '2013-12-31') = 1",
        ty: extract_type,
        eval: time::extract,
        ..STRICT
    },
    ScalarDef {
        name: "date_trunc",
        example: "date_trunc<month>(date '2013-01-31') = date '2013-01-01'",
        ty: trunc_date,
        raises: always_raises,
        eval: time::trunc,
        ..STRICT
    },
    ScalarDef {
        name: "add_months",
        example: "add_months(date '2013-01-31', 1i32) = date '2013-02-28'",
        ty: add_i32,
        raises: always_raises,
        eval: time::add_months,
        ..STRICT
    },
    ScalarDef {
        name: "add_days",
        example: "add_days(date '2013-01-31', 1i32) = date '2013-02-01'",
        ty: add_i32,
        raises: always_raises,
        eval: time::add_days,
        ..STRICT
    },
    ScalarDef {
        name: "add_micros",
        example: "add_micros(timestamp '2013-01-01 00:00:00', -1) = timestamp '2012-12-31 23:59:59.999999'",
        ty: add_micros_type,
        raises: always_raises,
        eval: time::add_micros,
        ..STRICT
    },
    ScalarDef {
        name: "date_diff",
        example: "date_diff<month>(date '2013-01-31', date '2013-02-01') = 1",
        ty: date_diff_type,
        eval: time::diff,
        ..STRICT
    },
];

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
