//! Features: the items of TRANSFORM with the statistics of the training rows in them, as SQL over the query's columns.

use std::collections::HashMap;

use flare::Query;
use ir::exec::column_value;
use ir::types::ScalarType;
use ir::value::Value;

use crate::error::{Error, Result};
use crate::run::Run;
use crate::sql::{FeatureFunction, FeatureValue, ImputeStrategy, Span};

/// A column of numbers, or a category that becomes several, as SQL text over the columns of the query.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Feature {
    pub(crate) name: String,
    pub(crate) sql: String,
    pub(crate) kind: FeatureKind,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FeatureKind {
    Number,
    /// A column of 0 and 1 for each of these values.
    OneHot(Vec<Value>),
    /// The columns of a feature that came with an exported model, as SQL.
    Given(Vec<String>),
}

impl Feature {
    /// The expressions of its columns. A NULL category has 0 in all of them, as one that training did not see.
    pub(crate) fn columns(&self) -> Result<Vec<String>> {
        match &self.kind {
            FeatureKind::Number => Ok(vec![self.sql.clone()]),
            FeatureKind::OneHot(values) => values
                .iter()
                .map(|v| Ok(format!("CASE WHEN {} = {} THEN 1e0 ELSE 0e0 END", self.sql, literal(v)?)))
                .collect(),
            FeatureKind::Given(columns) => Ok(columns.clone()),
        }
    }
}

/// An item before its statistics are known.
pub(crate) struct Item {
    pub(crate) name: String,
    /// What the functions are applied to.
    pub(crate) sql: String,
    pub(crate) span: Span,
    /// Innermost first; none for a column that is taken as its type demands.
    pub(crate) functions: Vec<FeatureFunction>,
}

impl Item {
    /// Whether its values are counted as they are: a category without other functions.
    pub(crate) fn is_counted(&self, ty: ScalarType) -> bool {
        match &self.functions[..] {
            [] => ty == ScalarType::Text,
            [FeatureFunction::OneHotEncoder] => is_category(ty),
            _ => false,
        }
    }

    pub(crate) fn new(name: &str, value: &FeatureValue) -> Item {
        let (sql, _) = value.expression();
        let mut functions = vec![];
        let mut at = value;
        while let FeatureValue::Feature { function, input, .. } = at {
            functions.insert(0, function.clone());
            at = input;
        }
        Item { name: name.to_string(), sql: format!("({sql})"), span: value.span(), functions }
    }
}

/// The rows that statistics are taken of: a query in parentheses and a condition.
pub(crate) struct Rows<'a> {
    pub(crate) table: &'a str,
    pub(crate) condition: &'a str,
    /// What is known of them already.
    pub(crate) survey: &'a Survey,
}

/// How many rows are trained on and held out, and which values some expressions have in the training rows: found by one pass over
/// the query, which may be long.
#[derive(Default)]
pub(crate) struct Survey {
    pub(crate) training: i64,
    pub(crate) held_out: i64,
    /// By expression.
    counts: HashMap<String, Vec<(Value, u64)>>,
}

impl Survey {
    /// Surveys `base`, a query in parentheses; `held_out` is the condition of held-out rows.
    pub(crate) fn of(base: &str, held_out: &str, keys: &[(&str, ScalarType)], run: &Run<'_>) -> Result<Survey> {
        let mut survey = Survey::default();
        survey.add(base, held_out, keys.get(..KEYS_AT_ONCE).unwrap_or(keys), run)?;
        for more in keys.get(KEYS_AT_ONCE..).unwrap_or(&[]).chunks(KEYS_AT_ONCE) {
            survey.add(base, held_out, more, run)?;
        }
        Ok(survey)
    }

    /// Groups the rows by some keys together, then the groups by each of them.
    fn add(&mut self, base: &str, held_out: &str, keys: &[(&str, ScalarType)], run: &Run<'_>) -> Result<()> {
        let found = run.columns(&survey_text(base, held_out, keys))?;
        let found = &*found;
        let rows_of =
            |part: usize| (0..found.rows()).filter(move |row| found.column(0).get_i64(*row) == Some(part as i64));
        let counted = |row: usize| found.column(keys.len() + 2).get_i64(row).unwrap_or(0);
        for (i, (key, _)) in keys.iter().enumerate() {
            let counts = rows_of(i + 1).map(|row| (column_value(found.column(i + 2), row), counted(row) as u64));
            self.counts.insert((*key).to_string(), in_order(counts.collect()));
        }
        let held = |wanted: bool| rows_of(0).filter(move |row| found.column(1).get_bool(*row) == Some(wanted));
        (self.training, self.held_out) = (held(false).map(counted).sum(), held(true).map(counted).sum());
        Ok(())
    }
}

/// So many keys are grouped together: with each there may be more groups.
const KEYS_AT_ONCE: usize = 4;

/// The query of a survey. Its rows: 0, whether they are held out, NULLs and how many; for each key its number from 1, FALSE, the
/// key's value among NULLs, and how many of the training rows have it.
fn survey_text(base: &str, held_out: &str, keys: &[(&str, ScalarType)]) -> String {
    let list = |of: &dyn Fn(usize) -> String| (0..keys.len()).map(of).collect::<String>();
    let named = list(&|i| format!(", {} AS k{i}", keys[i].0));
    let names = list(&|i| format!(", k{i}"));
    let part = |number: usize, held: &str, key: Option<usize>| {
        let cell = |i: usize| match key {
            Some(key) if key == i => format!(", k{i}"),
            _ => format!(", CAST(NULL AS {}) AS k{i}", sql_type(keys[i].1)),
        };
        format!("SELECT {number} AS part, {held} AS held_out{}, CAST(sum(n) AS BIGINT) AS n FROM survey", list(&cell))
    };
    let keys_of = |i: usize| format!(" UNION ALL {} WHERE NOT held_out GROUP BY k{i}", part(i + 1, "FALSE", Some(i)));
    format!(
        "WITH survey AS (SELECT held_out{names}, count(*) AS n FROM (SELECT {held_out} AS held_out{named} FROM {base} AS input) \
         AS keys GROUP BY held_out{names}) {} GROUP BY held_out{}",
        part(0, "held_out", None),
        list(&keys_of)
    )
}

impl Rows<'_> {
    pub(crate) fn select(&self, list: &str, tail: &str) -> String {
        format!("SELECT {list} FROM {} AS input WHERE {} {tail}", self.table, self.condition)
    }
}

/// Gives the items their statistics.
pub(crate) fn features(items: Vec<(Item, ScalarType)>, rows: &Rows<'_>, run: &Run<'_>) -> Result<Vec<Feature>> {
    let mut done: Vec<(Feature, ScalarType, Span, Vec<FeatureFunction>)> = items
        .into_iter()
        .map(|(item, ty)| {
            let feature = Feature { name: item.name, sql: item.sql, kind: FeatureKind::Number };
            (feature, ty, item.span, item.functions)
        })
        .collect();
    for (feature, ty, span, functions) in &mut done {
        // What is no number becomes one.
        let buckets = matches!(functions.last(), Some(FeatureFunction::Bucketize { .. }));
        let imputed_text = matches!(functions.last(), None | Some(FeatureFunction::Imputer { .. }));
        if buckets || (imputed_text && *ty == ScalarType::Text) {
            functions.push(FeatureFunction::OneHotEncoder);
        }
        if matches!(ty, ScalarType::Decimal { .. } | ScalarType::F32) {
            feature.sql = format!("CAST({} AS DOUBLE)", feature.sql);
            *ty = ScalarType::F64;
        }
        if matches!(ty, ScalarType::Date | ScalarType::Timestamp) {
            let message = format!("the feature '{}' is a {ty}; take numbers out of it with EXTRACT", feature.name);
            return Err(Error::model(message, *span));
        }
    }
    // One query for the statistics of all functions that stand at the same depth.
    while done.iter().any(|(.., functions)| !functions.is_empty()) {
        let mut wanted: Vec<String> = vec![];
        for (feature, ty, span, functions) in &done {
            let Some(function) = functions.first() else { continue };
            let number = ty.is_numeric() || *ty == ScalarType::Bool;
            let takes_numbers = !matches!(
                function,
                FeatureFunction::OneHotEncoder | FeatureFunction::Imputer { strategy: ImputeStrategy::MostFrequent }
            );
            if takes_numbers && !number {
                let message = format!("'{}' scales or imputes numbers, and this is {ty}", feature.name);
                return Err(Error::model(message, *span));
            }
            let x = as_double(&feature.sql, *ty);
            match function {
                FeatureFunction::StandardScaler => wanted.extend([format!("avg({x})"), format!("stddev_pop({x})")]),
                FeatureFunction::MinMaxScaler => wanted.extend([format!("min({x})"), format!("max({x})")]),
                FeatureFunction::Imputer { strategy: ImputeStrategy::Mean } => wanted.push(format!("avg({x})")),
                _ => {}
            }
        }
        let found = if wanted.is_empty() { vec![] } else { one_row(&rows.select(&wanted.join(", "), ""), run)? };
        let mut found = found.into_iter();
        for (feature, ty, span, functions) in &mut done {
            if functions.is_empty() {
                continue;
            }
            let function = functions.remove(0);
            let x = as_double(&feature.sql, *ty);
            let mut next = || match found.next() {
                Some(Value::F64(v)) if v.is_finite() => Ok(v),
                Some(Value::F64(_)) => {
                    let message = format!("the feature '{}' has NaN or an infinity in the training rows", feature.name);
                    Err(Error::model(message, *span))
                }
                _ => {
                    let message = format!("all training rows have NULL for '{}'", feature.name);
                    Err(Error::model(message, *span))
                }
            };
            match function {
                FeatureFunction::StandardScaler => {
                    let (mean, deviation) = (next()?, next()?);
                    let scale = if deviation == 0.0 { 1.0 } else { deviation };
                    feature.sql = format!("(({x} - {}) / {})", number(mean), number(scale));
                    *ty = ScalarType::F64;
                }
                FeatureFunction::MinMaxScaler => {
                    let (min, max) = (next()?, next()?);
                    let scale = if max == min { 1.0 } else { max - min };
                    feature.sql = format!("(({x} - {}) / {})", number(min), number(scale));
                    *ty = ScalarType::F64;
                }
                FeatureFunction::Imputer { strategy: ImputeStrategy::Mean } => {
                    feature.sql = format!("COALESCE({x}, {})", number(next()?));
                    *ty = ScalarType::F64;
                }
                FeatureFunction::Imputer { strategy } => {
                    let (numeric, sql) = (ty.is_numeric(), feature.sql.clone());
                    let sql = if numeric { as_double(&sql, *ty) } else { sql };
                    let counts = counts(&sql, rows, run)?;
                    let empty = || {
                        let message = format!("all training rows have NULL for '{}'", feature.name);
                        Error::model(message, *span)
                    };
                    let fill = match strategy {
                        ImputeStrategy::Median => number(median(&counts).ok_or_else(empty)?),
                        ImputeStrategy::MostFrequent | ImputeStrategy::Mean => {
                            let most = counts.iter().map(|c| c.1).max().ok_or_else(empty)?;
                            let (value, _) = counts.iter().find(|c| c.1 == most).ok_or_else(empty)?;
                            literal(value)?
                        }
                    };
                    if numeric {
                        *ty = ScalarType::F64;
                    }
                    feature.sql = format!("COALESCE({sql}, {fill})");
                }
                FeatureFunction::Bucketize { boundaries } => {
                    let steps: Vec<String> = boundaries
                        .iter()
                        .enumerate()
                        .rev()
                        .map(|(i, b)| format!("WHEN {x} >= {} THEN {}", number(*b), i + 1))
                        .collect();
                    feature.sql = format!("(CASE WHEN {x} IS NULL THEN NULL {} ELSE 0 END)", steps.join(" "));
                    *ty = ScalarType::I64;
                }
                FeatureFunction::OneHotEncoder => {
                    let values: Vec<Value> = counts(&feature.sql, rows, run)?.into_iter().map(|c| c.0).collect();
                    if values.is_empty() {
                        let message = format!("all training rows have NULL for '{}'", feature.name);
                        return Err(Error::model(message, *span));
                    }
                    if !functions.is_empty() {
                        return Err(Error::model("ML.ONE_HOT_ENCODER stands outermost", *span));
                    }
                    feature.kind = FeatureKind::OneHot(values);
                }
            }
        }
    }
    Ok(done.into_iter().map(|(feature, ..)| feature).collect())
}

fn as_double(sql: &str, ty: ScalarType) -> String {
    match ty {
        ScalarType::F64 => sql.to_string(),
        ScalarType::Bool => format!("(CASE WHEN {sql} THEN 1e0 WHEN NOT {sql} THEN 0e0 END)"),
        _ => format!("CAST({sql} AS DOUBLE)"),
    }
}

/// The values of an expression that are not NULL, ascending, and how many rows have each.
pub(crate) fn counts(sql: &str, rows: &Rows<'_>, run: &Run<'_>) -> Result<Vec<(Value, u64)>> {
    if let Some(known) = rows.survey.counts.get(sql) {
        return Ok(known.clone());
    }
    let text = format!(
        "SELECT v, count(*) AS n FROM (SELECT {sql} AS v FROM {} AS input WHERE {}) AS value_counts GROUP BY v",
        rows.table, rows.condition
    );
    let table = run.columns(&text)?;
    let (values, numbers) = (table.column(0), table.column(1));
    let number = |row: usize| numbers.get_i64(row).unwrap_or(0) as u64;
    Ok(in_order((0..table.rows()).map(|row| (column_value(values, row), number(row))).collect()))
}

/// The values that are not NULL, ascending.
fn in_order(mut counts: Vec<(Value, u64)>) -> Vec<(Value, u64)> {
    counts.retain(|(v, _)| !v.is_null());
    counts.sort_by(|a, b| order(&a.0, &b.0));
    counts
}

/// Whether values of this type are classes and categories as they are.
pub(crate) fn is_category(ty: ScalarType) -> bool {
    matches!(ty, ScalarType::Bool | ScalarType::I32 | ScalarType::I64 | ScalarType::Text)
}

/// The order of values of one type.
pub(crate) fn order(a: &Value, b: &Value) -> std::cmp::Ordering {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::I32(a), Value::I32(b)) | (Value::Date(a), Value::Date(b)) => a.cmp(b),
        (Value::I64(a), Value::I64(b)) | (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
        (Value::Decimal(a), Value::Decimal(b)) => a.cmp(b),
        (Value::F32(a), Value::F32(b)) => a.total_cmp(b),
        (Value::F64(a), Value::F64(b)) => a.total_cmp(b),
        _ => std::cmp::Ordering::Equal,
    }
}

fn median(counts: &[(Value, u64)]) -> Option<f64> {
    let total: u64 = counts.iter().map(|c| c.1).sum();
    let at = |position: u64| {
        let mut before = 0;
        let found = counts.iter().find(|(_, n)| {
            before += n;
            before > position
        });
        match found {
            Some((Value::F64(v), _)) => Some(*v),
            _ => None,
        }
    };
    Some((at(total.checked_sub(1)? / 2)? + at(total / 2)?) / 2.0)
}

/// The values of a query's only row.
fn one_row(text: &str, run: &Run<'_>) -> Result<Vec<Value>> {
    let table = run.columns(text)?;
    Ok((0..table.columns().len()).map(|i| column_value(table.column(i), 0)).collect())
}

/// A double as SQL.
pub(crate) fn number(v: f64) -> String {
    if v.is_finite() { format!("({v:e})") } else { format!("CAST('{v}' AS DOUBLE)") }
}

/// A value as SQL.
pub(crate) fn literal(v: &Value) -> Result<String> {
    Ok(match v {
        Value::Null => "NULL".to_string(),
        Value::Bool(v) => if *v { "TRUE" } else { "FALSE" }.to_string(),
        Value::I32(v) => format!("({v})"),
        Value::I64(v) => format!("({v})"),
        Value::F32(v) => number((*v).into()),
        Value::F64(v) => number(*v),
        Value::Text(v) => format!("'{}'", v.replace('\'', "''")),
        Value::Decimal(_) | Value::Date(_) | Value::Timestamp(_) => {
            return Err(Error::unsupported("a category or a fill value that is a decimal or a date", None));
        }
    })
}

/// A column's name as SQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A type as SQL.
pub(crate) fn sql_type(ty: ScalarType) -> String {
    match ty {
        ScalarType::Bool => "BOOLEAN".into(),
        ScalarType::I32 => "INTEGER".into(),
        ScalarType::I64 => "BIGINT".into(),
        ScalarType::F32 => "REAL".into(),
        ScalarType::F64 => "DOUBLE".into(),
        ScalarType::Decimal { precision, scale } => format!("DECIMAL({precision},{scale})"),
        ScalarType::Date => "DATE".into(),
        ScalarType::Timestamp => "TIMESTAMP".into(),
        ScalarType::Text => "VARCHAR".into(),
    }
}

/// The type that [`sql_type`] writes so.
pub(crate) fn type_of_sql(text: &str) -> Option<ScalarType> {
    const PLAIN: [ScalarType; 8] = [
        ScalarType::Bool,
        ScalarType::I32,
        ScalarType::I64,
        ScalarType::F32,
        ScalarType::F64,
        ScalarType::Date,
        ScalarType::Timestamp,
        ScalarType::Text,
    ];
    if let Some(inside) = text.strip_prefix("DECIMAL(").and_then(|rest| rest.strip_suffix(')')) {
        let (precision, scale) = inside.split_once(',')?;
        let (precision, scale) = (precision.parse().ok()?, scale.parse().ok()?);
        let fits = (1..=38).contains(&precision) && scale <= precision;
        return fits.then_some(ScalarType::Decimal { precision, scale });
    }
    PLAIN.into_iter().find(|ty| sql_type(*ty) == text)
}

/// The names and types of a query's columns.
pub(crate) fn schema(query: &Query) -> Result<Vec<(String, ScalarType)>> {
    let program = query.program().map_err(|error| Error::Engine { error, span: None })?;
    let region = program.entry_region();
    let result = region.and_then(|r| r.results.first()).map(|v| program.ty(*v));
    let table = result.and_then(|t| t.as_table());
    let names = program.result_names.first();
    match (table, names) {
        (Some(table), Some(names)) => Ok(names.iter().cloned().zip(table.columns.iter().map(|c| c.ty.ty)).collect()),
        _ => Err(Error::model("the query has no columns", None)),
    }
}
