//! THE table: one row an operation.
//!
//! What holds: `defs()[op.index()]` is the row of `op`, whatever its attribute; a test holds that. A row's type rule gets the
//! operands' types and answers `None` where the operation is not defined for them.

use super::{NullRule, ScalarOp};
use crate::types::{RowType, ScalarType};

/// One operation.
pub struct ScalarDef {
    /// Name in text.
    pub name: &'static str,
    /// The result's type, NULL aside.
    pub ty: fn(ScalarOp, &[ScalarType]) -> Option<ScalarType>,
    /// What NULL does.
    pub null: NullRule,
    /// Whether the result can be NULL, where the NULL rule is the operation's own.
    pub own_nullable: fn(ScalarOp, &[RowType]) -> bool,
    /// Whether it can raise on operands of these types.
    pub raises: fn(ScalarOp, &[ScalarType]) -> bool,
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

static TABLE: &[ScalarDef] = &[
    ScalarDef { name: "add", ty: sum_type, null: NullRule::Strict, own_nullable: never, raises: exact },
    ScalarDef { name: "sub", ty: sum_type, null: NullRule::Strict, own_nullable: never, raises: exact },
    ScalarDef { name: "mul", ty: product_type, null: NullRule::Strict, own_nullable: never, raises: exact },
    ScalarDef { name: "div", ty: quotient_type, null: NullRule::Strict, own_nullable: never, raises: integers },
    ScalarDef { name: "rem", ty: sum_type, null: NullRule::Strict, own_nullable: never, raises: exact },
    ScalarDef { name: "neg", ty: numeric1, null: NullRule::Strict, own_nullable: never, raises: exact },
    ScalarDef { name: "abs", ty: numeric1, null: NullRule::Strict, own_nullable: never, raises: exact },
    ScalarDef { name: "sign", ty: numeric1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "min", ty: same2, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "max", ty: same2, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "eq", ty: comparison, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "ne", ty: comparison, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "lt", ty: comparison, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "le", ty: comparison, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "gt", ty: comparison, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "ge", ty: comparison, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "is_distinct", ty: comparison, null: NullRule::Never, own_nullable: never, raises: never_raises },
    ScalarDef {
        name: "is_not_distinct",
        ty: comparison,
        null: NullRule::Never,
        own_nullable: never,
        raises: never_raises,
    },
    ScalarDef { name: "and", ty: logic2, null: NullRule::Kleene, own_nullable: never, raises: never_raises },
    ScalarDef { name: "or", ty: logic2, null: NullRule::Kleene, own_nullable: never, raises: never_raises },
    ScalarDef { name: "not", ty: logic1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "is_null", ty: test, null: NullRule::Never, own_nullable: never, raises: never_raises },
    ScalarDef { name: "is_not_null", ty: test, null: NullRule::Never, own_nullable: never, raises: never_raises },
    ScalarDef { name: "coalesce", ty: same2, null: NullRule::Own, own_nullable: all_nullable, raises: never_raises },
    ScalarDef {
        name: "select",
        ty: select_type,
        null: NullRule::Own,
        own_nullable: branch_nullable,
        raises: never_raises,
    },
    ScalarDef {
        name: "null_if_true",
        ty: first_if_bool,
        null: NullRule::Own,
        own_nullable: always,
        raises: never_raises,
    },
    ScalarDef { name: "cast", ty: cast_type, null: NullRule::Strict, own_nullable: never, raises: cast_raises },
    ScalarDef { name: "try_cast", ty: cast_type, null: NullRule::Own, own_nullable: always, raises: never_raises },
    ScalarDef { name: "exp", ty: float1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "log", ty: float1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "log1p", ty: float1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "sqrt", ty: float1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "sin", ty: float1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "cos", ty: float1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "tan", ty: float1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "asin", ty: float1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "acos", ty: float1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "atan", ty: float1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "atan2", ty: float2, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "tanh", ty: float1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "sigmoid", ty: float1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "erf", ty: float1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "pow", ty: float2, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "floor", ty: rounding, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "ceil", ty: rounding, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "trunc", ty: rounding, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "round", ty: round_type, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "length", ty: text_length, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "lower", ty: text1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "upper", ty: text1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "trim", ty: text1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "trim_start", ty: text1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "trim_end", ty: text1, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef {
        name: "substring",
        ty: substring_type,
        null: NullRule::Strict,
        own_nullable: never,
        raises: always_raises,
    },
    ScalarDef { name: "concat", ty: text2, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "like", ty: text_test, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "ilike", ty: text_test, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef {
        name: "regex_match",
        ty: text_test,
        null: NullRule::Strict,
        own_nullable: never,
        raises: always_raises,
    },
    ScalarDef { name: "starts_with", ty: text_test, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "contains", ty: text_test, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef {
        name: "position",
        ty: text_position,
        null: NullRule::Strict,
        own_nullable: never,
        raises: never_raises,
    },
    ScalarDef { name: "replace", ty: text3, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "extract", ty: extract_type, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "date_trunc", ty: trunc_date, null: NullRule::Strict, own_nullable: never, raises: never_raises },
    ScalarDef { name: "add_months", ty: add_i32, null: NullRule::Strict, own_nullable: never, raises: always_raises },
    ScalarDef { name: "add_days", ty: add_i32, null: NullRule::Strict, own_nullable: never, raises: always_raises },
    ScalarDef {
        name: "add_micros",
        ty: add_micros_type,
        null: NullRule::Strict,
        own_nullable: never,
        raises: always_raises,
    },
    ScalarDef {
        name: "date_diff",
        ty: date_diff_type,
        null: NullRule::Strict,
        own_nullable: never,
        raises: never_raises,
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
fn cast_raises(op: ScalarOp, t: &[S]) -> bool {
    let ScalarOp::Cast(to) = op else { return false };
    match (t[0], to) {
        (a, b) if a == b => false,
        (_, S::Text | S::F64 | S::F32) => t[0] == S::Text,
        (S::Bool, S::I32 | S::I64) | (S::I32, S::I64) | (S::Date, S::Timestamp) | (S::Timestamp, S::Date) => false,
        (_, S::Bool) => t[0] == S::Text,
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
        || (!time(from) && !time(to) && !(from == S::Bool && matches!(to, S::Decimal { .. })));
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
/// A decimal keeps its type: its digits after the rounded ones become 0.
fn round_type(_: ScalarOp, t: &[S]) -> Option<S> {
    match *t {
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
