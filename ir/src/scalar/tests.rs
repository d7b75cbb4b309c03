//! Tests over the whole table.

use super::table::each;
use super::*;
use crate::error::TrapKind;
use crate::types::ScalarType as S;
use crate::value::Value;

/// Reads `name<attribute>(literal, ...) = literal`. Literals: `1` is an i64, `1i32`, `1.5` an f64, `1.5f32`, `1.50d` a decimal,
/// `'text'`, `date '…'`, `timestamp '…'`, `true`, `null`, `nan`, `inf`.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn take(&mut self, until: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(until).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn expect(&mut self, token: &str) {
        self.rest = self.rest.trim_start();
        self.rest =
            self.rest.strip_prefix(token).unwrap_or_else(|| panic!("`{token}` expected before `{}`", self.rest));
    }

    fn accept(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        self.rest = rest;
        true
    }

    fn quoted(&mut self) -> &'a str {
        self.expect("'");
        let text = self.take(|c| c == '\'');
        self.expect("'");
        text
    }

    fn literal(&mut self) -> (Value, S) {
        self.rest = self.rest.trim_start();
        if self.rest.starts_with('\'') {
            return (Value::Text(self.quoted().into()), S::Text);
        }
        let word = self.take(|c| !(c.is_ascii_alphanumeric() || c == '-' || c == '.'));
        match word {
            "null" => (Value::Null, S::I64),
            "true" => (Value::Bool(true), S::Bool),
            "false" => (Value::Bool(false), S::Bool),
            "nan" => (Value::F64(f64::NAN), S::F64),
            "inf" => (Value::F64(f64::INFINITY), S::F64),
            "date" => {
                let text = self.quoted();
                (Value::Date(runtime::kernels::date::parse_date(text).expect("a date")), S::Date)
            }
            "timestamp" => {
                let text = self.quoted();
                (Value::Timestamp(runtime::kernels::date::parse_timestamp(text).expect("a timestamp")), S::Timestamp)
            }
            _ => number(word),
        }
    }
}

fn number(word: &str) -> (Value, S) {
    if let Some(digits) = word.strip_suffix("i32") {
        return (Value::I32(digits.parse().expect("an i32")), S::I32);
    }
    if let Some(digits) = word.strip_suffix("f32") {
        return (Value::F32(digits.parse().expect("an f32")), S::F32);
    }
    if let Some(digits) = word.strip_suffix('d') {
        let scale = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len()) as u8;
        let value: i128 = digits.replace('.', "").parse().expect("a decimal");
        let precision = (value.unsigned_abs().to_string().len() as u8).max(scale + 1);
        return (Value::Decimal(value), S::Decimal { precision, scale });
    }
    if word.contains('.') {
        return (Value::F64(word.parse().expect("an f64")), S::F64);
    }
    (Value::I64(word.parse().expect("an i64")), S::I64)
}

fn field(name: &str) -> Option<DateField> {
    Some(match name {
        "year" => DateField::Year,
        "month" => DateField::Month,
        "week" => DateField::Week,
        "day" => DateField::Day,
        "dow" => DateField::DayOfWeek,
        "doy" => DateField::DayOfYear,
        "hour" => DateField::Hour,
        _ => return None,
    })
}

fn scalar_type(name: &str) -> Option<S> {
    Some(match name {
        "bool" => S::Bool,
        "i32" => S::I32,
        "i64" => S::I64,
        "f32" => S::F32,
        "f64" => S::F64,
        "date" => S::Date,
        "timestamp" => S::Timestamp,
        "text" => S::Text,
        "decimal(4,2)" => S::Decimal { precision: 4, scale: 2 },
        _ => return None,
    })
}

/// Every operation, each attribute once.
pub(crate) fn every_op() -> Vec<ScalarOp> {
    use ScalarOp as O;
    let with_attribute =
        |op: &O| matches!(op, O::Cast(_) | O::TryCast(_) | O::Extract(_) | O::DateTrunc(_) | O::DateDiff(_));
    let mut ops: Vec<O> = each().iter().copied().filter(|op| !with_attribute(op)).collect();
    for name in ["bool", "i32", "i64", "f32", "f64", "decimal(4,2)", "date", "timestamp", "text"] {
        let ty = scalar_type(name).expect("named above");
        ops.extend([O::Cast(ty), O::TryCast(ty)]);
    }
    for name in ["year", "month", "week", "day", "dow", "doy", "hour"] {
        let field = field(name).expect("named above");
        ops.extend([O::Extract(field), O::DateTrunc(field), O::DateDiff(field)]);
    }
    ops
}

/// The operation of a name with the attribute in brackets.
fn op(name: &str, attribute: &str) -> ScalarOp {
    let fits = |op: &ScalarOp| match *op {
        ScalarOp::Cast(ty) | ScalarOp::TryCast(ty) => Some(ty) == scalar_type(attribute),
        ScalarOp::Extract(f) | ScalarOp::DateTrunc(f) | ScalarOp::DateDiff(f) => Some(f) == field(attribute),
        _ => attribute.is_empty(),
    };
    every_op().into_iter().find(|o| o.name() == name && fits(o)).unwrap_or_else(|| panic!("no {name}<{attribute}>"))
}

/// Evaluates `call = value` or `call raises message`.
fn check(example: &str) {
    let mut r = Reader { rest: example };
    let name = r.take(|c| c == '<' || c == '(');
    let attribute = if r.accept("<") { r.take(|c| c == '>') } else { "" };
    r.accept(">");
    let op = op(name, attribute);
    r.expect("(");
    let (mut values, mut types) = (vec![], vec![]);
    while !r.accept(")") {
        let (value, ty) = r.literal();
        values.push(value);
        types.push(ty);
        r.accept(",");
    }
    // NULL takes the type of its neighbours, or one that the operation is defined for; a condition is a bool.
    let neighbour = values.iter().zip(&types).rfind(|(v, _)| !v.is_null()).map(|(_, t)| *t);
    let guess = |ty: S| types.iter().zip(&values).map(|(t, v)| if v.is_null() { ty } else { *t }).collect::<Vec<_>>();
    let guesses = [neighbour.unwrap_or(S::I64), S::Bool, S::Text].map(guess);
    types = guesses.into_iter().find(|t| (def(op).ty)(op, t).is_some()).unwrap_or(types);
    if op == ScalarOp::Select {
        types[0] = S::Bool;
    }
    let row: Vec<RowType> = types.iter().zip(&values).map(|(t, v)| t.nullable(v.is_null())).collect();
    let out = result_type(op, &row).unwrap_or_else(|e| panic!("{example}: {e}"));
    let got = eval(op, &values, &types, out.ty);
    if r.accept("raises") {
        let trap = got.expect_err(example);
        assert_eq!(trap.to_string(), r.rest.trim(), "{example}");
        assert!(can_raise(op, &types), "{example}: the table says that it never raises");
        return;
    }
    r.expect("=");
    let (want, _) = r.literal();
    assert!(r.rest.is_empty(), "{example}: `{}` is left over", r.rest);
    let got = got.unwrap_or_else(|e| panic!("{example}: {e}"));
    assert!(got.fits(out.ty), "{example}: {got:?} is not of type {}", out.ty);
    assert!(out.nullable || !got.is_null(), "{example}: NULL where the type has none");
    assert_eq!(got, want, "{example}");
}

#[test]
fn rows_stand_at_their_index() {
    for op in every_op() {
        let row = def(op);
        assert!(row.example.starts_with(row.name), "{op:?} got the row of {}", row.name);
    }
    let mut seen: Vec<usize> = every_op().iter().map(|op| op.index()).collect();
    seen.dedup();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), defs().len());
}

#[test]
fn examples_hold() {
    for row in defs() {
        check(row.example);
    }
}

#[test]
fn arithmetic_raises_at_the_edge_of_its_type() {
    check("add(2147483647i32, 1i32) raises i32 out of range");
    check("add(2147483646i32, 1i32) = 2147483647i32");
    check("sub(-9223372036854775808, 1) raises i64 out of range");
    check("mul(4294967296, 2147483648) raises i64 out of range");
    check("mul(65536i32, -32768i32) = -2147483648i32");
    check("div(1, 0) raises division by zero");
    check("div(-2147483648i32, -1i32) raises i32 out of range");
    check("rem(-2147483648i32, -1i32) = 0i32");
    check("rem(5, 0) raises division by zero");
    check("rem(5.5d, 0.0d) raises division by zero");
    check("rem(-5.5d, 2.00d) = -1.50d");
    check("rem(-5.5, 2.0) = -1.5");
    check("neg(-9223372036854775808) raises i64 out of range");
    check("abs(-2147483648i32) raises i32 out of range");
    check("div(1.0, 0.0) = inf");
    check("div(7, -2) = -3");
    check("add(99999999999999999999999999999999999999d, 1d) raises decimal(38,0) out of range");
    check("mul(10000000000000000000d, 10000000000000000000d) raises decimal(38,0) out of range");
    check("add(9.99d, 0.01d) = 10.00d");
    check("sign(-0.0) = 0.0");
    check("sign(nan) = nan");
    check("sign(-2.50d) = -1.00d");
    check("min(1.0, nan) = 1.0");
    check("max('a', 'b') = 'b'");
}

#[test]
fn comparisons_order_nan_text_and_null() {
    check("lt(1.0, nan) = true");
    check("lt(nan, nan) = false");
    check("ge(nan, nan) = true");
    check("eq(-0.0, 0.0) = true");
    check("eq(1, null) = null");
    check("lt('a', 'ab') = true");
    check("lt('z', 'ä') = true");
    check("is_distinct(null, null) = false");
    check("is_distinct(nan, nan) = false");
    check("is_not_distinct(1, null) = false");
}

#[test]
fn logic_is_kleenes() {
    check("and(null, false) = false");
    check("and(true, null) = null");
    check("or(null, true) = true");
    check("or(true, null) = true");
    check("not(null) = null");
    check("select(false, 1, null) = null");
    check("select(true, 1, null) = 1");
    check("null_if_true(1, false) = 1");
    check("coalesce(2, 1) = 2");
}

#[test]
fn numbers_round_half_away_from_zero() {
    check("cast<i64>(2.5) = 3");
    check("cast<i64>(0.49999999999999994) = 0");
    check("cast<i32>(2.50d) = 3i32");
    check("cast<i32>(-2.49d) = -2i32");
    check("cast<i64>(nan) raises i64 out of range");
    check("cast<i64>(9223372036854775808.0) raises i64 out of range");
    check("cast<i32>(2147483647.5) raises i32 out of range");
    check("cast<decimal(4,2)>(1.005) = 1.01d");
    check("cast<decimal(4,2)>(100) raises decimal(4,2) out of range");
    check("cast<decimal(4,2)>(99.995d) raises decimal(4,2) out of range");
    check("cast<decimal(4,2)>(-1.005d) = -1.01d");
    check("round(2.5, 0i32) = 3.0");
    check("round(-2.345, 2i32) = -2.35");
    check("round(1234.5, -2i32) = 1200.0");
    check("round(1250, -2i32) = 1300");
    check("round(2147483647i32, -1i32) raises i32 out of range");
    check("round(9.99d, 1i32) = 10.00d");
    check("round(1.0, 400i32) = 1.0");
    check("ceil(1.01d) = 2d");
    check("floor(1.99d) = 1d");
    check("trunc(-0.5d) = 0d");
}

#[test]
fn text_reads_and_prints_as_postgresql_does() {
    check("cast<i32>(' +12 ') = 12i32");
    check("cast<i32>('1.5') raises cannot cast '1.5' to i32");
    check("cast<i32>('2147483648') raises i32 out of range");
    check("cast<i64>('9223372036854775808') raises i64 out of range");
    check("cast<i64>('') raises cannot cast '' to i64");
    check("cast<f64>('1e400') raises f64 out of range");
    check("cast<f64>('-.5') = -0.5");
    check("cast<f64>('Infinity') = inf");
    check("cast<bool>('Yes') = true");
    check("cast<bool>('of') = false");
    check("cast<bool>('o') raises cannot cast 'o' to bool");
    check("cast<decimal(4,2)>('1.255') = 1.26d");
    check("cast<decimal(4,2)>('100') raises decimal(4,2) out of range");
    check("cast<date>('2013-02-29') raises cannot cast '2013-02-29' to date");
    check("cast<timestamp>('2013-01-31 05:06:07.5') = timestamp '2013-01-31 05:06:07.5'");
    check("cast<date>(timestamp '2013-01-31 05:06:07') = date '2013-01-31'");
    check("cast<timestamp>(date '2013-01-31') = timestamp '2013-01-31 00:00:00'");
    check("cast<text>(1.0) = '1'");
    check("cast<text>(0.1f32) = '0.1'");
    check("cast<text>(0.00001) = '1e-05'");
    check("cast<text>(0.0001) = '0.0001'");
    check("cast<text>(123456789012345.0) = '123456789012345'");
    check("cast<text>(1234567890123456.0) = '1.234567890123456e+15'");
    check("cast<text>(-1234.5) = '-1234.5'");
    check("cast<text>(1000000.0f32) = '1e+06'");
    check("cast<text>(nan) = 'NaN'");
    check("cast<text>(-0.05d) = '-0.05'");
    check("cast<text>(true) = 'true'");
    check("cast<text>(date '2013-01-31') = '2013-01-31'");
    check("cast<text>(timestamp '2013-01-31 05:00:00') = '2013-01-31 05:00:00'");
    check("try_cast<i32>('99999999999') = null");
    check("try_cast<i32>(null) = null");
    check("try_cast<decimal(4,2)>(100) = null");
}

#[test]
fn text_functions_follow_postgresql() {
    check("substring('hello', -1, 3) = 'h'");
    check("substring('hello', 0, 1) = ''");
    check("substring('hello', 4, 100) = 'lo'");
    check("substring('hello', 9223372036854775807, 9223372036854775807) = ''");
    check("substring('hello', 1, -1) raises negative substring length not allowed");
    check("substring('Zürich', 2, 2) = 'ür'");
    check("trim(null) = null");
    check("like('special packages requests', '%special%requests%') = true");
    check("like('special package', '%special%requests%') = false");
    check("like('aab', '%ab') = true");
    check("like('', '%') = true");
    check("like('', '_') = false");
    check("like('ü', '_') = true");
    check("like('a', 'A') = false");
    check("like('a\\b', 'a\\\\b') = true");
    check("like('abc', 'a%c%') = true");
    check("like('Zürich', 'Z_rich') = true");
    check("like('Zürich', 'Z__rich') = false");
    check("like('mississippi', '%iss%ip_') = false");
    check("like('mississippi', '%iss%ip__') = true");
    check("like('a', 'a_') = false");
    check("like('abc', '%') = true");
    check("like('abc', '') = false");
    check("like('aéb', '%_b') = true");
    check("like('%a', '\\%_') = true");
    check("like('ba', '\\%_') = false");
    check("like('\\b', '\\a') = false");
    check("like('a\\', 'a\\') = true");
    check("ilike('ÄRGER', 'är%') = true");
    check(
        "regex_match('x', '(') raises invalid regular expression: regex parse error:\n    (\n    ^\nerror: unclosed group",
    );
    check("position('Zürich', 'r') = 3");
    check("position('abc', '') = 1");
    check("position('abc', 'x') = 0");
    check("replace('abc', '', 'x') = 'abc'");
}

#[test]
fn dates_follow_duckdb() {
    check("extract<year>(date '2013-12-31') = 2013");
    check("extract<dow>(date '2013-12-29') = 0");
    check("extract<doy>(date '2012-12-31') = 366");
    check("extract<hour>(timestamp '1969-12-31 23:59:59') = 23");
    check("date_trunc<hour>(timestamp '2013-01-31 05:06:07') = timestamp '2013-01-31 05:00:00'");
    check("date_trunc<week>(date '2013-01-06') = date '2012-12-31'");
    check("date_diff<hour>(timestamp '2013-01-31 05:59:59', timestamp '2013-01-31 06:00:00') = 1");
    check("date_diff<year>(date '2013-12-31', date '2014-01-01') = 1");
    check("date_diff<day>(date '2013-01-02', date '2013-01-01') = -1");
    check("add_months(date '2012-03-31', -1i32) = date '2012-02-29'");
    check("add_days(timestamp '2013-01-31 05:00:00', -31i32) = timestamp '2012-12-31 05:00:00'");
    check("add_days(date '2013-01-31', 2147483647i32) raises date out of range");
}

#[test]
fn values_of_wrong_types_are_an_error_and_no_panic() {
    for op in every_op() {
        for values in [vec![], vec![Value::Text("x".into())], vec![Value::Date(1), Value::Bool(true)]] {
            let types = vec![S::I64; values.len()];
            if let Err(e) = eval(op, &values, &types, S::I64) {
                assert!(!e.to_string().is_empty());
            }
        }
    }
    assert!(matches!(
        eval(ScalarOp::Add, &[Value::I32(1)], &[S::I32], S::I32).map_err(|e| e.kind),
        Err(TrapKind::Internal(_))
    ));
}

/// Values at the edges of a type.
pub(crate) fn edges(ty: S) -> Vec<Value> {
    use Value as V;
    match ty {
        S::Bool => vec![V::Bool(false), V::Bool(true)],
        S::I32 => [0, 1, -1, 2, 7, 12, -100, i32::MAX, i32::MIN, i32::MAX - 1].map(V::I32).to_vec(),
        S::I64 => {
            let near = i64::from(i32::MAX) + 1;
            [0, 1, -1, 2, 7, near, -near - 1, i64::MAX, i64::MIN, i64::MAX - 1].map(V::I64).to_vec()
        }
        S::F32 => {
            [0.0, -0.0, 1.0, -1.5, 0.1, 2.5, 1e-40, 3e38, 2_147_483_648.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
                .map(V::F32)
                .to_vec()
        }
        S::F64 => {
            [0.0, -0.0, 1.0, -1.5, 0.1, 2.5, 1e-310, 1e308, -9.3e18, 99.995, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]
                .map(V::F64)
                .to_vec()
        }
        S::Decimal { precision, .. } => {
            let most = 10i128.pow(u32::from(precision)) - 1;
            [0, 1, -1, 5, most / 2, most, -most, most - 5].map(V::Decimal).to_vec()
        }
        S::Date => [0, 1, -1, 15_706, -719_162, 11_016, i32::MAX, i32::MIN].map(V::Date).to_vec(),
        S::Timestamp => {
            let day = 86_400_000_000;
            [0, 1, -1, 15_706 * day + 12_345_678_901, -719_162 * day, i64::MAX, i64::MIN].map(V::Timestamp).to_vec()
        }
        S::Text => [
            "",
            "a",
            "Zürich",
            " 12 ",
            "-7.5",
            "%_%",
            "2013-01-31 05:06:07",
            "true",
            "inf",
            "a text of more than twelve bytes",
            "\\",
        ]
        .map(|t| V::Text(t.into()))
        .to_vec(),
    }
}

/// Types for the generated tests; decimals that fit 64 bits, that need more, and that are full.
pub(crate) fn sample_types() -> Vec<S> {
    let decimal = |precision, scale| S::Decimal { precision, scale };
    vec![
        S::Bool,
        S::I32,
        S::I64,
        S::F32,
        S::F64,
        decimal(4, 2),
        decimal(4, 0),
        decimal(18, 4),
        decimal(19, 2),
        decimal(38, 10),
        S::Date,
        S::Timestamp,
        S::Text,
    ]
}

/// Every list of operand types for which the operation is defined.
pub(crate) fn signatures(op: ScalarOp) -> Vec<Vec<S>> {
    let types = sample_types();
    let mut lists: Vec<Vec<S>> = types.iter().map(|t| vec![*t]).collect();
    for a in &types {
        for b in &types {
            lists.push(vec![*a, *b]);
        }
    }
    lists.extend(types.iter().map(|t| vec![S::Bool, *t, *t]));
    let (text, number) = (S::Text, S::I64);
    lists.extend(
        [[text; 3], [text, number, number], [text, number, text], [text, text, number], [number; 3]].map(Vec::from),
    );
    lists.retain(|t| (def(op).ty)(op, t).is_some());
    lists
}

/// Every list of values of these types, edges and NULL.
pub(crate) fn operand_lists(types: &[S]) -> Vec<Vec<Value>> {
    let mut lists = vec![vec![]];
    for ty in types {
        let mut values = edges(*ty);
        values.push(Value::Null);
        if types.len() == 3 {
            // Three operands: every second value is enough.
            values = values.into_iter().rev().step_by(2).collect();
        }
        lists = lists
            .iter()
            .flat_map(|list| values.iter().map(move |v| [list.as_slice(), std::slice::from_ref(v)].concat()))
            .collect();
    }
    lists
}

#[test]
fn results_keep_what_the_rows_promise() {
    let mut evaluated = 0;
    for op in every_op() {
        assert!(!signatures(op).is_empty(), "{op:?} is defined for no sample");
        for types in signatures(op) {
            let raises = can_raise(op, &types);
            for values in operand_lists(&types) {
                let row: Vec<RowType> = types.iter().zip(&values).map(|(t, v)| t.nullable(v.is_null())).collect();
                let out = result_type(op, &row).expect("the signature is defined");
                let what = || format!("{op:?} of {values:?} as {types:?}");
                evaluated += 1;
                let value = match eval(op, &values, &types, out.ty) {
                    Ok(value) => value,
                    Err(trap) => {
                        assert!(raises, "{} raises {trap}; the row says that it never does", what());
                        assert!(!matches!(trap.kind, TrapKind::Internal(_)), "{}: {trap}", what());
                        continue;
                    }
                };
                assert!(value.fits(out.ty), "{} is {value:?}, no {}", what(), out.ty);
                assert!(out.nullable || !value.is_null(), "{} is NULL", what());
                if def(op).null == NullRule::Strict {
                    assert_eq!(value.is_null(), values.iter().any(Value::is_null), "{}", what());
                }
                if let (Value::Decimal(v), S::Decimal { precision, .. }) = (&value, out.ty) {
                    assert!(v.unsigned_abs() < 10u128.pow(u32::from(precision)), "{} has too many digits: {v}", what());
                }
            }
        }
    }
    assert!(evaluated > 10_000, "{evaluated}");
}

/// A number as an exact ratio times a power of ten, for what has one.
fn exact(value: &Value, ty: S) -> Option<(i128, u32)> {
    match (value, ty) {
        (Value::I32(v), _) => Some((i128::from(*v), 0)),
        (Value::I64(v), _) => Some((i128::from(*v), 0)),
        (Value::Decimal(v), S::Decimal { scale, .. }) => Some((*v, u32::from(scale))),
        _ => None,
    }
}

#[test]
fn exact_arithmetic_equals_arithmetic_in_wide_integers() {
    for op in [ScalarOp::Add, ScalarOp::Sub, ScalarOp::Mul, ScalarOp::Neg, ScalarOp::Abs] {
        for types in signatures(op) {
            let out = (def(op).ty)(op, &types).expect("defined");
            for values in operand_lists(&types) {
                let numbers: Option<Vec<_>> = values.iter().zip(&types).map(|(v, t)| exact(v, *t)).collect();
                let Some(numbers) = numbers else { continue };
                let to = if let S::Decimal { scale, .. } = out { u32::from(scale) } else { 0 };
                let up = |(v, from): (i128, u32)| v.checked_mul(10i128.pow(to - from));
                let want = match op {
                    ScalarOp::Mul => numbers[0].0.checked_mul(numbers[1].0),
                    ScalarOp::Add => up(numbers[0]).zip(up(numbers[1])).and_then(|(a, b)| a.checked_add(b)),
                    ScalarOp::Sub => up(numbers[0]).zip(up(numbers[1])).and_then(|(a, b)| a.checked_sub(b)),
                    ScalarOp::Neg => Some(-numbers[0].0),
                    _ => Some(numbers[0].0.abs()),
                };
                let want = want.filter(|v| match out {
                    S::I32 => i32::try_from(*v).is_ok(),
                    S::I64 => i64::try_from(*v).is_ok(),
                    S::Decimal { precision, .. } => v.unsigned_abs() < 10u128.pow(u32::from(precision)),
                    _ => false,
                });
                let got = eval(op, &values, &types, out).ok().and_then(|v| exact(&v, out)).map(|v| v.0);
                assert_eq!(got, want, "{op:?} of {values:?} as {types:?}");
            }
        }
    }
}

#[test]
fn every_value_reads_back_from_its_text() {
    for ty in sample_types() {
        for value in edges(ty) {
            let text =
                eval(ScalarOp::Cast(S::Text), std::slice::from_ref(&value), &[ty], S::Text).expect("everything prints");
            let back = eval(ScalarOp::Cast(ty), std::slice::from_ref(&text), &[S::Text], ty);
            let out_of_print = matches!(ty, S::Date | S::Timestamp) && back.is_err();
            if !out_of_print {
                assert_eq!(back, Ok(value.clone()), "{value:?} prints as {text:?}");
            }
        }
    }
}

#[test]
fn comparisons_agree_with_each_other() {
    let flag = |op, values: &[Value], types: &[S]| match eval(op, values, types, S::Bool) {
        Ok(Value::Bool(v)) => v,
        other => panic!("{op:?} of {values:?}: {other:?}"),
    };
    for ty in sample_types() {
        let types = [ty, ty];
        for a in edges(ty) {
            for b in edges(ty) {
                let (pair, turned) = ([a.clone(), b.clone()], [b.clone(), a.clone()]);
                let lt = flag(ScalarOp::Lt, &pair, &types);
                let eq = flag(ScalarOp::Eq, &pair, &types);
                let gt = flag(ScalarOp::Gt, &pair, &types);
                assert_eq!(u8::from(lt) + u8::from(eq) + u8::from(gt), 1, "{pair:?} have one order");
                assert_eq!(flag(ScalarOp::Le, &pair, &types), lt || eq);
                assert_eq!(flag(ScalarOp::Ge, &pair, &types), gt || eq);
                assert_eq!(flag(ScalarOp::Ne, &pair, &types), !eq);
                assert_eq!(flag(ScalarOp::Lt, &turned, &types), gt, "{pair:?} turned");
                assert_eq!(flag(ScalarOp::IsNotDistinct, &pair, &types), eq);
                let least = eval(ScalarOp::Min, &pair, &types, ty).expect("min does not raise");
                assert_eq!(least, if gt { b.clone() } else { a.clone() }, "min of {pair:?}");
            }
        }
    }
}
