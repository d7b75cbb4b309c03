//! The functions of SQL, one row each: names, arguments, result type, and what they become.
//!
//! To add a function, add a row. Nothing else in the engine lists functions.

use ir::entity::ValueId;
use ir::scalar::reduce::Reducer;
use ir::scalar::{DateField, ScalarOp};
use ir::types::ScalarType;
use ir::value::Value;

use crate::error::{Error, Result};
use crate::import::expr::Call;

use ScalarType as S;

/// What an argument may be, and what it is cast to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Param {
    /// A number; becomes a float (`f32` stays).
    Float,
    /// A number of any type.
    Number,
    /// An integer; becomes `i64`.
    I64,
    /// An integer; becomes `i32`.
    I32,
    /// Text.
    Text,
    /// A boolean.
    Bool,
    /// A date or a timestamp; text becomes a timestamp.
    Time,
    /// Anything; all arguments of this kind in a call get their common type.
    Same,
    /// Anything; becomes text.
    Shown,
}

/// A scalar function.
pub(crate) struct ScalarFunction {
    /// Its names; the first is the one that is printed.
    pub(crate) names: &'static [&'static str],
    /// Arguments that must be there.
    pub(crate) params: &'static [Param],
    /// Arguments that may follow.
    pub(crate) optional: &'static [Param],
    /// Whether the last of them may be repeated.
    pub(crate) variadic: bool,
    /// What it becomes.
    pub(crate) make: Make,
}

/// What a scalar function becomes.
pub(crate) enum Make {
    /// One operation over its arguments.
    Op(ScalarOp),
    /// Whatever the function builds, of this type.
    Build {
        /// The type for arguments of these types (after casting).
        ty: fn(&[ScalarType]) -> ScalarType,
        /// Builds it.
        build: fn(&mut Call<'_, '_>) -> Result<ValueId>,
    },
}

/// An aggregate function; over a window too.
pub(crate) struct AggregateFunction {
    /// Its names; the first is the one that is printed.
    pub(crate) names: &'static [&'static str],
    /// What it becomes.
    pub(crate) make: AggregateMake,
    /// Its arguments.
    pub(crate) params: &'static [AggregateParam],
}

/// What an aggregate function becomes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum AggregateMake {
    /// A reducer over its argument.
    Reduce(Reducer),
    /// Any argument that is not NULL.
    AnyValue,
    /// Number of rows for which its argument is true.
    CountIf,
    /// The first argument in the row with the least second one; with the greatest if true.
    By(bool),
    /// The argument that occurs most often; of several the least.
    Mode,
    /// The argument at a share of the order, the second argument; one half if there is none. Between two arguments if true.
    Quantile(bool),
    /// A statistic of pairs.
    Pair(Pair),
    /// The texts, the second argument between them.
    Concat,
    /// Which of the arguments are keys that the grouping set lacks: a bit each, the last argument's is the lowest.
    Grouping,
}

/// Statistics of pairs `(y, x)`; pairs with a NULL do not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pair {
    Count,
    CovarPopulation,
    CovarSample,
    Corr,
    Slope,
    Intercept,
    R2,
    SumXX,
    SumYY,
    SumXY,
    MeanX,
    MeanY,
}

/// The argument of an aggregate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AggregateParam {
    /// Of any type.
    Any,
    /// A number; `f32` becomes `f64`, so that sums keep their digits.
    Number,
    /// A number; becomes `f64`.
    Double,
    /// A boolean.
    Bool,
    /// Of any type; becomes text.
    Text,
}

/// A function that exists over a window only.
pub(crate) struct WindowFunction {
    /// Its names; the first is the one that is printed.
    pub(crate) names: &'static [&'static str],
    /// Which one.
    pub(crate) kind: WindowKind,
}

/// The functions over windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WindowKind {
    RowNumber,
    Rank,
    DenseRank,
    PercentRank,
    CumeDist,
    Ntile,
    Lag,
    Lead,
    FirstValue,
    LastValue,
    NthValue,
}

const fn op(names: &'static [&'static str], params: &'static [Param], op: ScalarOp) -> ScalarFunction {
    ScalarFunction { names, params, optional: &[], variadic: false, make: Make::Op(op) }
}

const fn build(
    names: &'static [&'static str],
    params: &'static [Param],
    ty: fn(&[ScalarType]) -> ScalarType,
    build: fn(&mut Call<'_, '_>) -> Result<ValueId>,
) -> ScalarFunction {
    ScalarFunction { names, params, optional: &[], variadic: false, make: Make::Build { ty, build } }
}

const fn field(names: &'static [&'static str], field: DateField) -> ScalarFunction {
    op(names, &[Param::Time], ScalarOp::Extract(field))
}

impl ScalarFunction {
    const fn optional(mut self, optional: &'static [Param]) -> Self {
        self.optional = optional;
        self
    }

    const fn variadic(mut self) -> Self {
        self.variadic = true;
        self
    }
}

use Param::{Bool, Float, I32, I64, Number, Same, Shown, Text, Time};

/// The scalar functions.
pub(crate) static SCALARS: &[ScalarFunction] = &[
    // Numbers.
    op(&["abs"], &[Number], ScalarOp::Abs),
    op(&["sign"], &[Number], ScalarOp::Sign),
    op(&["floor"], &[Number], ScalarOp::Floor),
    op(&["ceil", "ceiling"], &[Number], ScalarOp::Ceil),
    op(&["trunc"], &[Number], ScalarOp::Trunc),
    build(&["round"], &[Number], |t| t[0], round).optional(&[I32]),
    build(&["mod"], &[Same, Same], |t| t[0], |c| c.op_all(ScalarOp::Rem)),
    op(&["sqrt"], &[Float], ScalarOp::Sqrt),
    op(&["exp"], &[Float], ScalarOp::Exp),
    op(&["ln"], &[Float], ScalarOp::Log),
    build(&["log", "log10"], &[Float], |t| t[0], |c| log_base(c, std::f64::consts::LN_10)),
    build(&["log2"], &[Float], |t| t[0], |c| log_base(c, std::f64::consts::LN_2)),
    op(&["log1p"], &[Float], ScalarOp::Log1p),
    op(&["sin"], &[Float], ScalarOp::Sin),
    op(&["cos"], &[Float], ScalarOp::Cos),
    op(&["tan"], &[Float], ScalarOp::Tan),
    op(&["asin"], &[Float], ScalarOp::Asin),
    op(&["acos"], &[Float], ScalarOp::Acos),
    op(&["atan"], &[Float], ScalarOp::Atan),
    build(&["atan2"], &[Float, Float], |_| S::F64, |c| f64_pair(c, ScalarOp::Atan2)),
    op(&["tanh"], &[Float], ScalarOp::Tanh),
    build(&["power", "pow"], &[Float, Float], |_| S::F64, |c| f64_pair(c, ScalarOp::Pow)),
    build(&["radians"], &[Float], |t| t[0], |c| scaled(c, std::f64::consts::PI / 180.0)),
    build(&["degrees"], &[Float], |t| t[0], |c| scaled(c, 180.0 / std::f64::consts::PI)),
    op(&["gcd"], &[Same, Same], ScalarOp::Gcd),
    build(&["lcm"], &[Same, Same], |t| t[0], lcm),
    op(&["xor"], &[Same, Same], ScalarOp::BitXor),
    build(
        &["isnan"],
        &[Float],
        |_| S::Bool,
        |c| {
            let x = c.arg(0)?;
            against(c, x, ScalarOp::Eq, f64::NAN)
        },
    ),
    build(&["isinf"], &[Float], |_| S::Bool, |c| magnitude(c, ScalarOp::Eq)),
    build(&["isfinite"], &[Float], |_| S::Bool, |c| magnitude(c, ScalarOp::Lt)),
    build(&["pi"], &[], |_| S::F64, |c| c.literal(Value::F64(std::f64::consts::PI), S::F64)),
    // Any type.
    build(&["coalesce", "ifnull", "nvl"], &[Same], |t| t[0], |c| coalesce(c, 0)).optional(&[Same]).variadic(),
    build(&["nullif"], &[Same, Same], |t| t[0], null_if),
    build(&["greatest"], &[Same], |t| t[0], |c| extreme(c, ScalarOp::Max)).optional(&[Same]).variadic(),
    build(&["least"], &[Same], |t| t[0], |c| extreme(c, ScalarOp::Min)).optional(&[Same]).variadic(),
    build(
        &["if", "iff"],
        &[Bool, Same, Same],
        |t| t[1],
        |c| {
            let condition = c.arg(0)?;
            c.if_else(condition, |c| c.arg(1), |c| c.arg(2))
        },
    ),
    // Text.
    op(&["length", "char_length", "character_length", "len"], &[Text], ScalarOp::Length),
    op(&["lower", "lcase"], &[Text], ScalarOp::Lower),
    op(&["upper", "ucase"], &[Text], ScalarOp::Upper),
    build(&["trim", "btrim"], &[Text], |_| S::Text, |c| trim(c, ScalarOp::Trim, ScalarOp::TrimAny)).optional(&[Text]),
    build(&["ltrim"], &[Text], |_| S::Text, |c| trim(c, ScalarOp::TrimStart, ScalarOp::TrimAnyStart)).optional(&[Text]),
    build(&["rtrim"], &[Text], |_| S::Text, |c| trim(c, ScalarOp::TrimEnd, ScalarOp::TrimAnyEnd)).optional(&[Text]),
    build(&["substring", "substr"], &[Text, I64], |_| S::Text, substring).optional(&[I64]),
    build(&["left"], &[Text, I64], |_| S::Text, left),
    build(&["right"], &[Text, I64], |_| S::Text, right),
    build(&["concat"], &[Shown], |_| S::Text, concat).optional(&[Shown]).variadic(),
    op(&["strpos", "position", "instr"], &[Text, Text], ScalarOp::Position),
    op(&["replace"], &[Text, Text, Text], ScalarOp::Replace),
    op(&["starts_with", "prefix"], &[Text, Text], ScalarOp::StartsWith),
    op(&["ends_with", "suffix"], &[Text, Text], ScalarOp::EndsWith),
    op(&["contains"], &[Text, Text], ScalarOp::Contains),
    op(&["regexp_matches", "regexp_like"], &[Text, Text], ScalarOp::RegexMatch),
    build(&["regexp_replace"], &[Text, Text, Text], |_| S::Text, regexp_replace).optional(&[Text]),
    build(&["lpad"], &[Text, I64], |_| S::Text, |c| pad(c, ScalarOp::PadStart)).optional(&[Text]),
    build(&["rpad"], &[Text, I64], |_| S::Text, |c| pad(c, ScalarOp::PadEnd)).optional(&[Text]),
    op(&["repeat"], &[Text, I64], ScalarOp::Repeat),
    op(&["reverse"], &[Text], ScalarOp::Reverse),
    op(&["initcap"], &[Text], ScalarOp::Capitalize),
    op(&["split_part"], &[Text, Text, I64], ScalarOp::SplitPart),
    op(&["translate"], &[Text, Text, Text], ScalarOp::Translate),
    op(&["ascii", "unicode", "ord"], &[Text], ScalarOp::CharCode),
    op(&["chr"], &[I64], ScalarOp::FromCharCode),
    op(&["octet_length", "strlen"], &[Text], ScalarOp::ByteLength),
    build(&["bit_length"], &[Text], |_| S::I64, bit_length),
    build(&["concat_ws"], &[Text, Shown], |_| S::Text, concat_ws).optional(&[Shown]).variadic(),
    // Dates and timestamps.
    build(&["date_part", "datepart"], &[Text, Time], |_| S::I64, date_part),
    build(
        &["date_trunc", "datetrunc"],
        &[Text, Time],
        |t| t[1],
        |c| {
            let field = date_field(c, 0)?;
            let time = c.arg(1)?;
            c.op(ScalarOp::DateTrunc(field), &[time])
        },
    ),
    build(&["date_diff", "datediff"], &[Text, Time, Time], |_| S::I64, date_diff),
    op(&["strftime", "format_time"], &[Time, Text], ScalarOp::FormatTime),
    build(&["monthname"], &[Time], |_| S::Text, |c| formatted(c, "%B")),
    build(&["dayname"], &[Time], |_| S::Text, |c| formatted(c, "%A")),
    build(&["last_day"], &[Time], |_| S::Date, last_day),
    op(&["make_date"], &[I64, I64, I64], ScalarOp::MakeDate),
    op(&["add_days"], &[Time, I32], ScalarOp::AddDays),
    op(&["add_months"], &[Time, I32], ScalarOp::AddMonths),
    field(&["year"], DateField::Year),
    field(&["quarter"], DateField::Quarter),
    field(&["month"], DateField::Month),
    field(&["week", "weekofyear"], DateField::Week),
    field(&["day", "dayofmonth"], DateField::Day),
    field(&["dayofweek", "weekday"], DateField::DayOfWeek),
    field(&["dayofyear"], DateField::DayOfYear),
    field(&["hour"], DateField::Hour),
    field(&["minute"], DateField::Minute),
    field(&["second"], DateField::Second),
    field(&["epoch"], DateField::Epoch),
];

const fn aggregate(
    names: &'static [&'static str],
    make: AggregateMake,
    params: &'static [AggregateParam],
) -> AggregateFunction {
    AggregateFunction { names, make, params }
}

const fn reduce(
    names: &'static [&'static str],
    reducer: Reducer,
    params: &'static [AggregateParam],
) -> AggregateFunction {
    aggregate(names, AggregateMake::Reduce(reducer), params)
}

const fn pair(names: &'static [&'static str], pair: Pair) -> AggregateFunction {
    aggregate(names, AggregateMake::Pair(pair), &[AggregateParam::Double, AggregateParam::Double])
}

/// The aggregate functions.
pub(crate) static AGGREGATES: &[AggregateFunction] = &[
    reduce(&["count"], Reducer::Count, &[AggregateParam::Any]),
    reduce(&["sum"], Reducer::Sum, &[AggregateParam::Number]),
    reduce(&["avg", "mean"], Reducer::Avg, &[AggregateParam::Number]),
    reduce(&["min"], Reducer::Min, &[AggregateParam::Any]),
    reduce(&["max"], Reducer::Max, &[AggregateParam::Any]),
    reduce(&["stddev_samp", "stddev"], Reducer::StddevSample, &[AggregateParam::Number]),
    reduce(&["stddev_pop"], Reducer::StddevPopulation, &[AggregateParam::Number]),
    reduce(&["var_samp", "variance", "var_sample"], Reducer::VarSample, &[AggregateParam::Number]),
    reduce(&["var_pop"], Reducer::VarPopulation, &[AggregateParam::Number]),
    reduce(&["bool_and", "every"], Reducer::BoolAnd, &[AggregateParam::Bool]),
    reduce(&["bool_or"], Reducer::BoolOr, &[AggregateParam::Bool]),
    reduce(&["first"], Reducer::First, &[AggregateParam::Any]),
    reduce(&["last"], Reducer::Last, &[AggregateParam::Any]),
    reduce(&["product"], Reducer::Product, &[AggregateParam::Double]),
    aggregate(&["any_value", "arbitrary"], AggregateMake::AnyValue, &[AggregateParam::Any]),
    aggregate(&["count_if", "countif"], AggregateMake::CountIf, &[AggregateParam::Bool]),
    aggregate(&["min_by", "arg_min", "argmin"], AggregateMake::By(false), &[AggregateParam::Any, AggregateParam::Any]),
    aggregate(&["max_by", "arg_max", "argmax"], AggregateMake::By(true), &[AggregateParam::Any, AggregateParam::Any]),
    aggregate(&["mode"], AggregateMake::Mode, &[AggregateParam::Any]),
    aggregate(&["median"], AggregateMake::Quantile(true), &[AggregateParam::Double]),
    aggregate(
        &["quantile_cont", "percentile_cont"],
        AggregateMake::Quantile(true),
        &[AggregateParam::Double, AggregateParam::Double],
    ),
    aggregate(
        &["quantile_disc", "percentile_disc", "quantile"],
        AggregateMake::Quantile(false),
        &[AggregateParam::Any, AggregateParam::Double],
    ),
    pair(&["corr"], Pair::Corr),
    pair(&["covar_pop"], Pair::CovarPopulation),
    pair(&["covar_samp"], Pair::CovarSample),
    pair(&["regr_count"], Pair::Count),
    pair(&["regr_slope"], Pair::Slope),
    pair(&["regr_intercept"], Pair::Intercept),
    pair(&["regr_r2"], Pair::R2),
    pair(&["regr_sxx"], Pair::SumXX),
    pair(&["regr_syy"], Pair::SumYY),
    pair(&["regr_sxy"], Pair::SumXY),
    pair(&["regr_avgx"], Pair::MeanX),
    pair(&["regr_avgy"], Pair::MeanY),
    aggregate(
        &["string_agg", "listagg", "group_concat"],
        AggregateMake::Concat,
        &[AggregateParam::Text, AggregateParam::Text],
    ),
    aggregate(&["grouping"], AggregateMake::Grouping, &[]),
];

/// The functions over windows.
pub(crate) static WINDOWS: &[WindowFunction] = &[
    WindowFunction { names: &["row_number"], kind: WindowKind::RowNumber },
    WindowFunction { names: &["rank"], kind: WindowKind::Rank },
    WindowFunction { names: &["dense_rank"], kind: WindowKind::DenseRank },
    WindowFunction { names: &["percent_rank"], kind: WindowKind::PercentRank },
    WindowFunction { names: &["cume_dist"], kind: WindowKind::CumeDist },
    WindowFunction { names: &["ntile"], kind: WindowKind::Ntile },
    WindowFunction { names: &["lag"], kind: WindowKind::Lag },
    WindowFunction { names: &["lead"], kind: WindowKind::Lead },
    WindowFunction { names: &["first_value"], kind: WindowKind::FirstValue },
    WindowFunction { names: &["last_value"], kind: WindowKind::LastValue },
    WindowFunction { names: &["nth_value"], kind: WindowKind::NthValue },
];

/// All names of all functions.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let scalars = SCALARS.iter().flat_map(|f| f.names);
    scalars.chain(AGGREGATES.iter().flat_map(|f| f.names)).chain(WINDOWS.iter().flat_map(|f| f.names)).copied()
}

impl ScalarFunction {
    /// The types that arguments of these types are cast to (`None`: an untyped NULL or parameter).
    pub(crate) fn cast_to(&self, args: &[Option<ScalarType>]) -> Result<Vec<ScalarType>> {
        let name = self.names[0];
        let most = self.params.len() + self.optional.len();
        if args.len() < self.params.len() || (args.len() > most && !self.variadic) {
            let wanted = match (self.params.len(), self.variadic) {
                (least, true) => format!("at least {least}"),
                (least, false) if least == most => least.to_string(),
                (least, false) => format!("{least} to {most}"),
            };
            return Err(Error::meaning(format!("{name} takes {wanted} arguments, not {}", args.len())));
        }
        let params: Vec<Param> = (0..args.len()).map(|i| self.param(i)).collect();
        let same = common_of(name, args, &params)?;
        params.iter().zip(args).enumerate().map(|(i, (p, a))| p.cast_to(name, i + 1, *a, same)).collect()
    }

    /// The result's type for arguments of these types, as [`ScalarFunction::cast_to`] gives them.
    pub(crate) fn result(&self, args: &[ScalarType]) -> Result<ScalarType> {
        match &self.make {
            Make::Build { ty, .. } => Ok(ty(args)),
            Make::Op(op) => {
                let args: Vec<_> = args.iter().map(|t| t.nullable(true)).collect();
                Ok(ir::scalar::result_type(*op, &args).map_err(|e| Error::meaning(e.to_string()))?.ty)
            }
        }
    }

    fn param(&self, i: usize) -> Param {
        let all = self.params.iter().chain(self.optional);
        all.clone().nth(i).or_else(|| all.last()).copied().unwrap_or(Param::Same)
    }
}

impl Param {
    fn cast_to(self, name: &str, i: usize, arg: Option<ScalarType>, same: ScalarType) -> Result<ScalarType> {
        let wrong = |wanted: &str| {
            let found = arg.map_or("NULL".to_string(), sql_type_name);
            Err(Error::meaning(format!("argument {i} of {name} must be {wanted}, not {found}")))
        };
        match (self, arg) {
            (Self::Float, Some(S::F32)) => Ok(S::F32),
            (Self::Float, None) => Ok(S::F64),
            (Self::Float, Some(t)) if t.is_numeric() => Ok(S::F64),
            (Self::Float | Self::Number, Some(_)) if !arg.is_some_and(S::is_numeric) => wrong("a number"),
            (Self::Float, Some(_)) => wrong("a number"),
            (Self::Number, Some(t)) => Ok(t),
            (Self::Number, None) => Ok(S::F64),
            (Self::I64, None | Some(S::I32 | S::I64)) => Ok(S::I64),
            (Self::I64, Some(_)) => wrong("an integer"),
            (Self::I32, None | Some(S::I32 | S::I64)) => Ok(S::I32),
            (Self::I32, Some(_)) => wrong("an integer"),
            (Self::Text, None | Some(S::Text)) => Ok(S::Text),
            (Self::Text, Some(_)) => wrong("text"),
            (Self::Bool, None | Some(S::Bool)) => Ok(S::Bool),
            (Self::Bool, Some(_)) => wrong("a boolean"),
            (Self::Time, Some(S::Date)) => Ok(S::Date),
            (Self::Time, None | Some(S::Timestamp | S::Text)) => Ok(S::Timestamp),
            (Self::Time, Some(_)) => wrong("a date or a timestamp"),
            (Self::Same, _) => Ok(same),
            (Self::Shown, _) => Ok(S::Text),
        }
    }
}

fn common_of(name: &str, args: &[Option<ScalarType>], params: &[Param]) -> Result<ScalarType> {
    let mut common = None;
    for t in args.iter().zip(params).filter(|(_, p)| **p == Param::Same).filter_map(|(t, _)| *t) {
        common = Some(match common {
            None => t,
            Some(c) => common_type(c, t).ok_or_else(|| {
                let (a, b) = (sql_type_name(c), sql_type_name(t));
                Error::meaning(format!("the arguments of {name} have no common type: {a} and {b}"))
            })?,
        });
    }
    Ok(common.unwrap_or(S::Text))
}

/// The type that values of both types are cast to without loss of range.
pub(crate) fn common_type(a: ScalarType, b: ScalarType) -> Option<ScalarType> {
    let digits = |t: ScalarType| match t {
        S::I32 => Some((10, 0)),
        S::I64 => Some((19, 0)),
        S::Decimal { precision, scale } => Some((precision - scale, scale)),
        _ => None,
    };
    Some(match (a, b) {
        _ if a == b => a,
        (S::I32 | S::I64, S::I32 | S::I64) => S::I64,
        (S::F32, S::I32 | S::I64) | (S::I32 | S::I64, S::F32) => S::F32,
        (S::F32 | S::F64, _) if b.is_numeric() => S::F64,
        (_, S::F32 | S::F64) if a.is_numeric() => S::F64,
        (S::Date, S::Timestamp) | (S::Timestamp, S::Date) => S::Timestamp,
        _ => {
            let ((whole_a, scale_a), (whole_b, scale_b)) = (digits(a)?, digits(b)?);
            let scale = scale_a.max(scale_b);
            S::Decimal { precision: (whole_a.max(whole_b) + scale).min(38), scale }
        }
    })
}

/// A type as SQL calls it.
pub(crate) fn sql_type_name(t: ScalarType) -> String {
    match t {
        S::Bool => "BOOLEAN".into(),
        S::I32 => "INTEGER".into(),
        S::I64 => "BIGINT".into(),
        S::F32 => "REAL".into(),
        S::F64 => "DOUBLE".into(),
        S::Decimal { precision, scale } => format!("DECIMAL({precision},{scale})"),
        S::Date => "DATE".into(),
        S::Timestamp => "TIMESTAMP".into(),
        S::Text => "VARCHAR".into(),
    }
}

fn round(c: &mut Call<'_, '_>) -> Result<ValueId> {
    let x = c.arg(0)?;
    let digits = if c.len() > 1 { c.arg(1)? } else { c.literal(Value::I32(0), S::I32)? };
    c.op(ScalarOp::Round, &[x, digits])
}

fn log_base(c: &mut Call<'_, '_>, ln_base: f64) -> Result<ValueId> {
    let x = c.arg(0)?;
    let ln = c.op(ScalarOp::Log, &[x])?;
    let ty = c.ty(ln);
    let base = c.float(ln_base, ty)?;
    c.op(ScalarOp::Div, &[ln, base])
}

fn scaled(c: &mut Call<'_, '_>, factor: f64) -> Result<ValueId> {
    let x = c.arg(0)?;
    let ty = c.ty(x);
    let factor = c.float(factor, ty)?;
    c.op(ScalarOp::Mul, &[x, factor])
}

/// A comparison with a constant; NaN equals itself and is greater than any other number.
fn against(c: &mut Call<'_, '_>, x: ValueId, comparison: ScalarOp, constant: f64) -> Result<ValueId> {
    let ty = c.ty(x);
    let constant = c.float(constant, ty)?;
    c.op(comparison, &[x, constant])
}

/// A comparison of the argument's magnitude with infinity.
fn magnitude(c: &mut Call<'_, '_>, comparison: ScalarOp) -> Result<ValueId> {
    let x = c.op_all(ScalarOp::Abs)?;
    against(c, x, comparison, f64::INFINITY)
}

fn f64_pair(c: &mut Call<'_, '_>, op: ScalarOp) -> Result<ValueId> {
    let (x, y) = (c.arg(0)?, c.arg(1)?);
    let (x, y) = (c.cast(x, S::F64)?, c.cast(y, S::F64)?);
    c.op(op, &[x, y])
}

/// The first argument from `i` on that is not NULL; those after it are not evaluated if they could raise.
fn coalesce(c: &mut Call<'_, '_>, i: usize) -> Result<ValueId> {
    let x = c.arg(i)?;
    if i + 1 == c.len() || !c.nullable(x) {
        return Ok(x);
    }
    if i + 2 == c.len() && c.is_plain(i + 1) {
        let other = c.arg(i + 1)?;
        return c.op(ScalarOp::Coalesce, &[x, other]);
    }
    let there = c.op(ScalarOp::IsNotNull, &[x])?;
    c.if_else(there, |_| Ok(x), |c| coalesce(c, i + 1))
}

fn null_if(c: &mut Call<'_, '_>) -> Result<ValueId> {
    let (x, y) = (c.arg(0)?, c.arg(1)?);
    let equal = c.op(ScalarOp::Eq, &[x, y])?;
    c.op(ScalarOp::NullIfTrue, &[x, equal])
}

/// Greatest or least of the arguments that are not NULL.
fn extreme(c: &mut Call<'_, '_>, op: ScalarOp) -> Result<ValueId> {
    let mut best = c.arg(0)?;
    for i in 1..c.len() {
        let x = c.arg(i)?;
        let both = c.op(op, &[best, x])?;
        let either = c.op(ScalarOp::Coalesce, &[best, x])?;
        best = c.op(ScalarOp::Coalesce, &[both, either])?;
    }
    Ok(best)
}

fn substring(c: &mut Call<'_, '_>) -> Result<ValueId> {
    let (text, start) = (c.arg(0)?, c.arg(1)?);
    let length = if c.len() > 2 { c.arg(2)? } else { c.literal(Value::I64(i64::from(i32::MAX)), S::I64)? };
    c.op(ScalarOp::Substring, &[text, start, length])
}

/// The first `n` characters; for a negative `n` all but the last `-n`.
fn left(c: &mut Call<'_, '_>) -> Result<ValueId> {
    let (text, n) = (c.arg(0)?, c.arg(1)?);
    let (zero, one) = (c.literal(Value::I64(0), S::I64)?, c.literal(Value::I64(1), S::I64)?);
    let length = c.op(ScalarOp::Length, &[text])?;
    let all_but = c.op(ScalarOp::Add, &[length, n])?;
    let all_but = c.op(ScalarOp::Max, &[all_but, zero])?;
    let negative = c.op(ScalarOp::Lt, &[n, zero])?;
    let count = c.op(ScalarOp::Select, &[negative, all_but, n])?;
    c.op(ScalarOp::Substring, &[text, one, count])
}

/// The last `n` characters; for a negative `n` all but the first `-n`.
fn right(c: &mut Call<'_, '_>) -> Result<ValueId> {
    let (text, n) = (c.arg(0)?, c.arg(1)?);
    let (zero, one) = (c.literal(Value::I64(0), S::I64)?, c.literal(Value::I64(1), S::I64)?);
    let length = c.op(ScalarOp::Length, &[text])?;
    let before = c.op(ScalarOp::Sub, &[length, n])?;
    let before = c.op(ScalarOp::Max, &[before, zero])?;
    let skipped = c.op(ScalarOp::Sub, &[zero, n])?;
    let negative = c.op(ScalarOp::Lt, &[n, zero])?;
    let skip = c.op(ScalarOp::Select, &[negative, skipped, before])?;
    let start = c.op(ScalarOp::Add, &[skip, one])?;
    c.op(ScalarOp::Substring, &[text, start, length])
}

/// All arguments as text, one after the other; NULL counts as empty.
fn concat(c: &mut Call<'_, '_>) -> Result<ValueId> {
    let empty = c.literal(Value::Text("".into()), S::Text)?;
    let mut all = empty;
    for i in 0..c.len() {
        let mut x = c.arg(i)?;
        if c.nullable(x) {
            x = c.op(ScalarOp::Coalesce, &[x, empty])?;
        }
        all = if i == 0 { x } else { c.op(ScalarOp::Concat, &[all, x])? };
    }
    Ok(all)
}

fn trim(c: &mut Call<'_, '_>, blanks: ScalarOp, any: ScalarOp) -> Result<ValueId> {
    if c.len() > 1 { c.op_all(any) } else { c.op_all(blanks) }
}

fn pad(c: &mut Call<'_, '_>, op: ScalarOp) -> Result<ValueId> {
    let (text, length) = (c.arg(0)?, c.arg(1)?);
    let fill = if c.len() > 2 { c.arg(2)? } else { c.literal(Value::Text(" ".into()), S::Text)? };
    c.op(op, &[text, length, fill])
}

/// The first match, or all with the flag `g`; `i` ignores case.
fn regexp_replace(c: &mut Call<'_, '_>) -> Result<ValueId> {
    let (text, mut pattern, to) = (c.arg(0)?, c.arg(1)?, c.arg(2)?);
    let mut op = ScalarOp::RegexReplace;
    if c.len() > 3 {
        let Some(Value::Text(flags)) = c.constant(3) else {
            return Err(Error::unsupported("regexp_replace with flags that are not a constant text"));
        };
        for flag in flags.chars() {
            match flag {
                'g' => op = ScalarOp::RegexReplaceAll,
                'i' => {
                    let ignore = c.literal(Value::Text("(?i)".into()), S::Text)?;
                    pattern = c.op(ScalarOp::Concat, &[ignore, pattern])?;
                }
                other => return Err(Error::unsupported(format!("the flag {other} in regexp_replace"))),
            }
        }
    }
    c.op(op, &[text, pattern, to])
}

fn bit_length(c: &mut Call<'_, '_>) -> Result<ValueId> {
    let bytes = c.op_all(ScalarOp::ByteLength)?;
    let eight = c.literal(Value::I64(8), S::I64)?;
    c.op(ScalarOp::Mul, &[bytes, eight])
}

/// The arguments that are not NULL with the first one between them.
fn concat_ws(c: &mut Call<'_, '_>) -> Result<ValueId> {
    let separator = c.arg(0)?;
    let empty = c.literal(Value::Text("".into()), S::Text)?;
    let mut all = c.op(ScalarOp::Concat, &[separator, empty])?;
    // Each with the separator before it; what stands before the first one is cut off at the end.
    for i in 1..c.len() {
        let x = c.arg(i)?;
        let with = c.op(ScalarOp::Concat, &[separator, x])?;
        let with = c.op(ScalarOp::Coalesce, &[with, empty])?;
        all = c.op(ScalarOp::Concat, &[all, with])?;
    }
    let length = c.op(ScalarOp::Length, &[separator])?;
    let (one, two) = (c.literal(Value::I64(1), S::I64)?, c.literal(Value::I64(2), S::I64)?);
    let twice = c.op(ScalarOp::Mul, &[length, two])?;
    let start = c.op(ScalarOp::Add, &[twice, one])?;
    let most = c.literal(Value::I64(i64::from(i32::MAX)), S::I64)?;
    c.op(ScalarOp::Substring, &[all, start, most])
}

/// `|a / gcd(a, b) * b|`, 0 where one of them is.
fn lcm(c: &mut Call<'_, '_>) -> Result<ValueId> {
    let (a, b) = (c.arg(0)?, c.arg(1)?);
    let gcd = c.op(ScalarOp::Gcd, &[a, b])?;
    let ty = c.ty(gcd);
    let value = |n: i32| if ty == S::I32 { Value::I32(n) } else { Value::I64(n.into()) };
    let (zero, one) = (c.literal(value(0), ty)?, c.literal(value(1), ty)?);
    let both_zero = c.op(ScalarOp::Eq, &[gcd, zero])?;
    let by = c.op(ScalarOp::Select, &[both_zero, one, gcd])?;
    let part = c.op(ScalarOp::Div, &[a, by])?;
    let product = c.op(ScalarOp::Mul, &[part, b])?;
    c.op(ScalarOp::Abs, &[product])
}

fn formatted(c: &mut Call<'_, '_>, pattern: &str) -> Result<ValueId> {
    let time = c.arg(0)?;
    let pattern = c.literal(Value::Text(pattern.into()), S::Text)?;
    c.op(ScalarOp::FormatTime, &[time, pattern])
}

fn last_day(c: &mut Call<'_, '_>) -> Result<ValueId> {
    let time = c.arg(0)?;
    let first = c.op(ScalarOp::DateTrunc(DateField::Month), &[time])?;
    let first = c.cast(first, S::Date)?;
    let one = c.literal(Value::I32(1), S::I32)?;
    let next = c.op(ScalarOp::AddMonths, &[first, one])?;
    let back = c.literal(Value::I32(-1), S::I32)?;
    c.op(ScalarOp::AddDays, &[next, back])
}

fn date_part(c: &mut Call<'_, '_>) -> Result<ValueId> {
    let iso = matches!(c.constant(0), Some(Value::Text(name)) if name.to_lowercase() == "isodow");
    let field = if iso { DateField::DayOfWeek } else { date_field(c, 0)? };
    let time = c.arg(1)?;
    let part = c.op(ScalarOp::Extract(field), &[time])?;
    if !iso {
        return Ok(part);
    }
    // Monday is 1, Sunday 7.
    let (six, seven, one) =
        (c.literal(Value::I64(6), S::I64)?, c.literal(Value::I64(7), S::I64)?, c.literal(Value::I64(1), S::I64)?);
    let shifted = c.op(ScalarOp::Add, &[part, six])?;
    let within = c.op(ScalarOp::Rem, &[shifted, seven])?;
    c.op(ScalarOp::Add, &[within, one])
}

fn date_diff(c: &mut Call<'_, '_>) -> Result<ValueId> {
    let field = date_field(c, 0)?;
    let (mut from, mut to) = (c.arg(1)?, c.arg(2)?);
    if c.ty(from) != c.ty(to) {
        (from, to) = (c.cast(from, S::Timestamp)?, c.cast(to, S::Timestamp)?);
    }
    c.op(ScalarOp::DateDiff(field), &[from, to])
}

fn date_field(c: &Call<'_, '_>, i: usize) -> Result<DateField> {
    let Some(Value::Text(name)) = c.constant(i) else {
        return Err(Error::unsupported(format!("{} with a field that is not a constant text", c.name())));
    };
    Ok(match name.to_lowercase().as_str() {
        "year" | "years" => DateField::Year,
        "quarter" | "quarters" => DateField::Quarter,
        "month" | "months" => DateField::Month,
        "week" | "weeks" => DateField::Week,
        "day" | "days" => DateField::Day,
        "dow" | "dayofweek" | "weekday" => DateField::DayOfWeek,
        "doy" | "dayofyear" => DateField::DayOfYear,
        "hour" | "hours" => DateField::Hour,
        "minute" | "minutes" => DateField::Minute,
        "second" | "seconds" => DateField::Second,
        "epoch" => DateField::Epoch,
        other => return Err(Error::unsupported(format!("the date field {other}"))),
    })
}

impl AggregateFunction {
    /// The types that arguments of these types are cast to (`None`: an untyped NULL or parameter).
    pub(crate) fn cast_to(&self, args: &[Option<ScalarType>]) -> Result<Vec<ScalarType>> {
        let name = self.names[0];
        if self.make == AggregateMake::Grouping {
            return match args.len() {
                0 => Err(Error::meaning("grouping takes at least 1 argument, not 0")),
                _ => Ok(args.iter().map(|t| t.unwrap_or(S::Text)).collect()),
            };
        }
        // Texts are joined by a comma where nothing is said.
        let by_default = self.make == AggregateMake::Concat && args.len() == 1;
        if args.len() != self.params.len() && !by_default {
            let wanted = match self.params.len() {
                1 => "one argument".to_string(),
                n => format!("{n} arguments"),
            };
            return Err(Error::meaning(format!("{name} takes {wanted}, not {}", args.len())));
        }
        self.params.iter().zip(args).map(|(p, a)| p.cast_to(name, *a)).collect()
    }

    /// The result's type for arguments of these types, as [`AggregateFunction::cast_to`] gives them.
    pub(crate) fn result(&self, args: &[ScalarType]) -> Result<ScalarType> {
        let first = args.first().copied().unwrap_or(S::Text);
        Ok(match self.make {
            AggregateMake::Reduce(reducer) => {
                let result = reducer.result_type(Some(first.nullable(true)));
                result.map_err(|e| Error::meaning(e.to_string()))?.ty
            }
            AggregateMake::AnyValue | AggregateMake::By(_) | AggregateMake::Mode => first,
            AggregateMake::Quantile(_) => first,
            AggregateMake::CountIf | AggregateMake::Pair(Pair::Count) => S::I64,
            AggregateMake::Pair(_) => S::F64,
            AggregateMake::Concat => S::Text,
            AggregateMake::Grouping => S::I32,
        })
    }
}

impl AggregateParam {
    /// The type that an argument of this type is cast to.
    pub(crate) fn cast_to(self, name: &str, arg: Option<ScalarType>) -> Result<ScalarType> {
        match (self, arg) {
            (Self::Any, arg) => Ok(arg.unwrap_or(S::Text)),
            (Self::Text, _) => Ok(S::Text),
            (Self::Number, None | Some(S::F32)) => Ok(S::F64),
            (Self::Number, Some(t)) if t.is_numeric() => Ok(t),
            (Self::Double, None) => Ok(S::F64),
            (Self::Double, Some(t)) if t.is_numeric() => Ok(S::F64),
            (Self::Number | Self::Double, Some(t)) => {
                Err(Error::meaning(format!("{name} takes a number, not {}", sql_type_name(t))))
            }
            (Self::Bool, None | Some(S::Bool)) => Ok(S::Bool),
            (Self::Bool, Some(t)) => Err(Error::meaning(format!("{name} takes a boolean, not {}", sql_type_name(t)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_by_kind() {
        for mut names in [
            SCALARS.iter().flat_map(|f| f.names).collect::<Vec<_>>(),
            AGGREGATES.iter().flat_map(|f| f.names).collect(),
            WINDOWS.iter().flat_map(|f| f.names).collect(),
        ] {
            names.sort();
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        }
    }

    #[test]
    fn common_types() {
        let decimal = |precision, scale| S::Decimal { precision, scale };
        assert_eq!(common_type(S::I32, S::I64), Some(S::I64));
        assert_eq!(common_type(S::I64, decimal(15, 2)), Some(decimal(21, 2)));
        assert_eq!(common_type(decimal(38, 0), decimal(38, 10)), Some(decimal(38, 10)));
        assert_eq!(common_type(decimal(5, 1), S::F32), Some(S::F64));
        assert_eq!(common_type(S::Date, S::Timestamp), Some(S::Timestamp));
        assert_eq!(common_type(S::Text, S::I32), None);
    }

    #[test]
    fn wrong_arguments_are_named() {
        let substring = SCALARS.iter().find(|f| f.names[0] == "substring").unwrap();
        let error = substring.cast_to(&[Some(S::Text)]).unwrap_err();
        assert_eq!(error.to_string(), "substring takes 2 to 3 arguments, not 1");
        let error = substring.cast_to(&[Some(S::I64), Some(S::I64)]).unwrap_err();
        assert_eq!(error.to_string(), "argument 1 of substring must be text, not BIGINT");
    }
}
