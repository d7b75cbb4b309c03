//! `generate_series(first, last[, step])` and `range`, which leaves the last one out: integers, and times by intervals.
//!
//! Dates are taken as their midnight, and each time is the one before plus the interval, as in PostgreSQL and DuckDB: from the
//! 31st of January in steps of a month come the 28th of February and the 28th of March.

use std::sync::Arc;

use arrow::datatypes::{DataType, IntervalMonthDayNano, IntervalUnit};
use datafusion_common::ScalarValue;
use datafusion_expr::Expr;
use ir::types::ScalarType;
use ir::value::Value;
use runtime::column::Column;
use runtime::kernels::date;

use crate::error::{Error, Result};
use crate::import::window::constant;
use crate::ingest::{Table, column_kind};

/// The functions.
pub(super) const NAMES: [&str; 2] = ["generate_series", "range"];
/// Rows are in memory before the query runs: so many at most.
const MAX_ROWS: usize = 1 << 26;

/// The rows of a function of [`NAMES`], numbered from 1 in a second column if that is wanted.
pub(super) fn table(name: &str, args: &[Expr], numbered: bool) -> Result<Table> {
    let series = Series { name, inclusive: name == "generate_series" };
    let (ty, values) = series.values(args)?;
    let rows = values.len();
    let column = |ty, values: &[i64]| Arc::new(Column::from_i64(column_kind(ty), values, None));
    let mut columns = vec![(name.to_string(), column(ty, &values))];
    if numbered {
        let numbers: Vec<i64> = (1..=rows as i64).collect();
        columns.push(("ordinality".to_string(), column(ScalarType::I64, &numbers)));
    }
    Table::from_columns(name, columns, rows)
}

struct Series<'n> {
    name: &'n str,
    inclusive: bool,
}

impl Series<'_> {
    fn values(&self, args: &[Expr]) -> Result<(ScalarType, Vec<i64>)> {
        let ends: Vec<Value> = args.iter().take(2).map(|e| self.end(e)).collect::<Result<_>>()?;
        match (ends.as_slice(), args.get(2)) {
            _ if args.len() > 3 => Err(self.wrong()),
            ([Value::Null], None) | ([Value::Null, _] | [_, Value::Null], _) => Ok((ScalarType::I64, vec![])),
            ([Value::I64(last)], None) => self.integers(0, *last, 1),
            ([Value::I64(first), Value::I64(last)], None) => self.integers(*first, *last, 1),
            ([Value::I64(first), Value::I64(last)], Some(step)) => match self.end(step)? {
                Value::I64(step) => self.integers(*first, *last, step),
                Value::Null => Ok((ScalarType::I64, vec![])),
                _ => Err(self.wrong()),
            },
            ([Value::Timestamp(first), Value::Timestamp(last)], Some(step)) => {
                self.times(*first, *last, interval(step).ok_or_else(|| self.wrong())?)
            }
            _ => Err(self.wrong()),
        }
    }

    /// A constant: an integer, a time in microseconds, or NULL.
    fn end(&self, e: &Expr) -> Result<Value> {
        let Some((value, _)) = constant(e) else {
            return Err(Error::unsupported(format!("{} of what is not a constant", self.name)));
        };
        match value {
            Value::I32(n) => Ok(Value::I64(n.into())),
            Value::I64(_) | Value::Timestamp(_) | Value::Null => Ok(value),
            Value::Date(days) => date::date_to_timestamp(days).map(Value::Timestamp).ok_or_else(|| self.wrong()),
            _ => Err(self.wrong()),
        }
    }

    fn wrong(&self) -> Error {
        let message = "takes integers (first, last, step), or two dates or timestamps and an interval";
        Error::meaning(format!("{} {message}", self.name))
    }

    fn integers(&self, first: i64, last: i64, step: i64) -> Result<(ScalarType, Vec<i64>)> {
        let values = self.walk(first, last, step.signum(), |at| at.checked_add(step))?;
        Ok((ScalarType::I64, values))
    }

    fn times(&self, first: i64, last: i64, step: IntervalMonthDayNano) -> Result<(ScalarType, Vec<i64>)> {
        let parts = [i64::from(step.months), i64::from(step.days), step.nanoseconds / 1000];
        let up = parts.iter().any(|p| *p > 0);
        if up && parts.iter().any(|p| *p < 0) {
            return Err(Error::meaning(format!("the step of {} goes both forwards and backwards", self.name)));
        }
        let sign = if up { 1 } else { parts.iter().sum::<i64>().signum() };
        let values =
            self.walk(first, last, sign, |at| date::timestamp_add_interval(at, parts[0], parts[1], parts[2]))?;
        Ok((ScalarType::Timestamp, values))
    }

    /// From `first` as long as `last` is not passed, in the direction of the sign.
    fn walk(&self, first: i64, last: i64, sign: i64, next: impl Fn(i64) -> Option<i64>) -> Result<Vec<i64>> {
        if sign == 0 {
            return Err(Error::meaning(format!("the step of {} is zero", self.name)));
        }
        let within = |at: i64| {
            let before = if sign > 0 { at < last } else { at > last };
            before || (self.inclusive && at == last)
        };
        let mut values = vec![];
        let mut at = Some(first);
        while let Some(value) = at.filter(|at| within(*at)) {
            if values.len() == MAX_ROWS {
                return Err(Error::Limit(format!("{} gives more than {MAX_ROWS} rows", self.name)));
            }
            values.push(value);
            at = next(value);
        }
        Ok(values)
    }
}

/// A constant interval, also as a text under a cast.
fn interval(e: &Expr) -> Option<IntervalMonthDayNano> {
    let interval = DataType::Interval(IntervalUnit::MonthDayNano);
    let literal = match e {
        Expr::Literal(literal, _) => literal.clone(),
        Expr::Alias(alias) => return self::interval(&alias.expr),
        Expr::Cast(cast) if matches!(cast.field.data_type(), DataType::Interval(_)) => match &*cast.expr {
            Expr::Literal(literal, _) => literal.clone(),
            _ => return None,
        },
        Expr::Negative(inner) => {
            let step = self::interval(inner)?;
            let (months, days) = (step.months.checked_neg()?, step.days.checked_neg()?);
            return Some(IntervalMonthDayNano { months, days, nanoseconds: step.nanoseconds.checked_neg()? });
        }
        _ => return None,
    };
    match literal.cast_to(&interval) {
        Ok(ScalarValue::IntervalMonthDayNano(step)) => step,
        _ => None,
    }
}
