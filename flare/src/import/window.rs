//! Functions over windows.

use std::any::Any;

use datafusion_common::ScalarValue;
use datafusion_expr::expr::WindowFunction;
use datafusion_expr::logical_plan::Window;
use datafusion_expr::{Expr, Operator, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition};
use ir::entity::ColumnId;
use ir::graph::RelOp;
use ir::graph::rel::{Frame, FrameBound, FrameUnit, SortKey, WindowColumn, WindowFunc};
use ir::scalar::ScalarOp;
use ir::scalar::reduce::Reducer;
use ir::types::ScalarType;
use ir::value::Value;

use crate::binder::{AggregateStub, WindowStub};
use crate::error::{Error, Result};
use crate::functions::{AGGREGATES, AggregateMake, WINDOWS, WindowKind, sql_type_name};
use crate::import::aggregate::separator_of;
use crate::import::expr::literal_of;
use crate::import::{Importer, Rel, unalias};

impl Importer {
    /// The input's columns, then one for each function. Functions over equal windows share one operation.
    pub(crate) fn window(&mut self, w: &Window) -> Result<Rel> {
        let input = self.plan(&w.input)?;
        let schema = w.input.schema();
        let mut table = input.table;
        let mut groups: Vec<(Vec<ColumnId>, Vec<SortKey>, Vec<WindowColumn>)> = vec![];
        let mut outs = vec![];
        let mut defaults: Vec<(usize, ColumnId, ColumnId)> = vec![];
        for e in &w.window_expr {
            let call = window_call(e)?;
            let name = call.fun.name();
            let params = &call.params;
            if params.distinct {
                return Err(Error::Bug(format!("DISTINCT in {name} over a window")));
            }
            if params.null_treatment.is_some() {
                return Err(Error::unsupported(format!("IGNORE NULLS in {name}")));
            }
            let (next, keys) = self.sort_keys(table, schema, &input.columns, &params.order_by)?;
            let mut exprs: Vec<&Expr> = params.partition_by.iter().collect();
            exprs.extend(argument(call));
            exprs.extend(params.filter.as_deref());
            let computed_default = computed_default(call);
            exprs.extend(computed_default);
            let (next, ids) = self.extend(next, schema, &input.columns, &exprs)?;
            table = next;
            let mut ids = ids.into_iter();
            let mut partition: Vec<ColumnId> = vec![];
            for id in ids.by_ref().take(params.partition_by.len()) {
                if !partition.contains(&id) {
                    partition.push(id);
                }
            }
            let mut arg = argument(call).and_then(|_| ids.next());
            let mut func = function(call, arg.map(|id| self.column_type_of(id)))?;
            if params.filter.is_some() {
                let filter = ids.next().ok_or_else(|| Error::Bug("a filter without a column".into()))?;
                if !matches!(func, WindowFunc::Reduce(_) | WindowFunc::Concat { .. }) {
                    return Err(Error::unsupported(format!("FILTER in {name} over a window")));
                }
                // Rows that do not pass count as NULL, which reducers leave out.
                let ty = arg.map_or(ScalarType::I64, |id| self.column_type_of(id));
                let kept = self.b.program_mut().new_column("kept", ty);
                table = self.b.extend(table, &[kept], |b| {
                    let filter = b.col(filter)?;
                    let value = match arg {
                        Some(id) => b.col(id)?,
                        None => b.literal(Value::I64(1), ScalarType::I64)?,
                    };
                    let null = b.literal(Value::Null, ty)?;
                    Ok(vec![b.scalar(ScalarOp::Select, &[filter, value, null])?])
                })?;
                if arg.is_none() {
                    func = WindowFunc::Reduce(Reducer::Count);
                }
                arg = Some(kept);
            }
            let arg_type = arg.map(|id| self.column_type_of(id));
            let frame = self.frame(&params.window_frame, &keys)?;
            let ty =
                func.result_type(arg_type.map(|t| t.nullable(true))).map_err(|e| Error::meaning(e.to_string()))?.ty;
            let out = self.b.program_mut().new_column(e.schema_name().to_string(), ty);
            outs.push(out);
            let mut columns_here = vec![WindowColumn { func: func.clone(), arg, frame, out }];
            if let (Some(default), Some(_)) = (ids.next(), computed_default) {
                // Whether there is a row there at all: then what it holds counts, NULL included.
                let there = self.b.program_mut().new_column("there", ScalarType::Bool);
                table =
                    self.b.extend(table, &[there], |b| Ok(vec![b.literal(Value::Bool(true), ScalarType::Bool)?]))?;
                let is_there = self.b.program_mut().new_column("is_there", ScalarType::Bool);
                columns_here.push(WindowColumn { func, arg: Some(there), frame, out: is_there });
                defaults.push((outs.len() - 1, is_there, default));
            }
            match groups.iter_mut().find(|(p, k, _)| *p == partition && *k == keys) {
                Some((_, _, columns)) => columns.extend(columns_here),
                None => groups.push((partition, keys, columns_here)),
            }
        }
        for (partition, order, columns) in groups {
            table = self.b.rel(RelOp::Window { partition, order, columns }, &[table], &[])?;
        }
        for (i, is_there, default) in defaults {
            let ty = self.column_type_of(outs[i]);
            let out = self.b.program_mut().new_column("or_default", ty);
            let found = outs[i];
            table = self.b.extend(table, &[out], |b| {
                let (found, default, is_there) = (b.col(found)?, b.col(default)?, b.col(is_there)?);
                let there = b.scalar(ScalarOp::IsNotNull, &[is_there])?;
                Ok(vec![b.scalar(ScalarOp::Select, &[there, found, default])?])
            })?;
            outs[i] = out;
        }
        let columns = input.columns.into_iter().chain(outs).collect();
        Ok(Rel { table, columns })
    }

    /// A frame over these order keys.
    fn frame(&self, frame: &WindowFrame, keys: &[SortKey]) -> Result<Frame> {
        let unit = match frame.units {
            WindowFrameUnits::Rows => FrameUnit::Rows,
            WindowFrameUnits::Range => FrameUnit::Range,
            WindowFrameUnits::Groups => FrameUnit::Groups,
        };
        if unit == FrameUnit::Groups && keys.is_empty() {
            return Err(Error::meaning("a window frame in GROUPS needs an ORDER BY"));
        }
        let start = self.frame_end(&frame.start_bound, unit, keys)?;
        let end = self.frame_end(&frame.end_bound, unit, keys)?;
        Ok(Frame { unit, start, end })
    }

    fn frame_end(&self, bound: &WindowFrameBound, unit: FrameUnit, keys: &[SortKey]) -> Result<FrameBound> {
        let (distance, sign) = match bound {
            WindowFrameBound::CurrentRow => return Ok(FrameBound::CurrentRow),
            WindowFrameBound::Preceding(n) => (n, -1),
            WindowFrameBound::Following(n) => (n, 1),
        };
        if distance.is_null() {
            return Ok(FrameBound::Unbounded);
        }
        let distance = match unit {
            FrameUnit::Rows | FrameUnit::Groups => whole_number(distance)
                .ok_or_else(|| Error::unsupported("a window frame with an offset that is not a constant number"))?,
            FrameUnit::Range => {
                let [key] = keys else {
                    return Err(Error::meaning("a window frame in RANGE with an offset needs one key of ORDER BY"));
                };
                range_distance(distance, self.column_type_of(key.column))?
            }
        };
        if distance < 0 {
            return Err(Error::meaning("the offset of a window frame cannot be negative"));
        }
        Ok(FrameBound::Offset(sign * distance))
    }
}

fn whole_number(n: &ScalarValue) -> Option<i64> {
    match n {
        ScalarValue::UInt64(Some(n)) => i64::try_from(*n).ok(),
        ScalarValue::UInt32(Some(n)) => Some((*n).into()),
        ScalarValue::Int64(Some(n)) => Some(*n),
        ScalarValue::Int32(Some(n)) => Some((*n).into()),
        ScalarValue::Utf8(Some(n)) => n.parse().ok(),
        _ => None,
    }
}

/// How far a frame in RANGE reaches, in the unit of its key: itself for integers, days for dates, microseconds for timestamps.
fn range_distance(distance: &ScalarValue, key: ScalarType) -> Result<i64> {
    const DAY: i64 = 86_400_000_000;
    let wrong = || {
        let construct =
            format!("a window frame in RANGE with the offset {distance} over a key of type {}", sql_type_name(key));
        Error::unsupported(construct)
    };
    let interval = match distance {
        ScalarValue::IntervalMonthDayNano(Some(i)) if i.months == 0 && i.nanoseconds % 1000 == 0 => {
            Some((i64::from(i.days), i.nanoseconds / 1000))
        }
        ScalarValue::IntervalDayTime(Some(i)) => Some((i64::from(i.days), i64::from(i.milliseconds) * 1000)),
        _ => None,
    };
    match (key, interval) {
        (ScalarType::I32 | ScalarType::I64, None) => whole_number(distance).ok_or_else(wrong),
        (ScalarType::Date, Some((days, micros))) if micros % DAY == 0 => Ok(days + micros / DAY),
        (ScalarType::Timestamp, Some((days, micros))) => {
            days.checked_mul(DAY).and_then(|d| d.checked_add(micros)).ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

fn window_call(e: &Expr) -> Result<&WindowFunction> {
    match unalias(e) {
        Expr::WindowFunction(call) => Ok(call),
        other => Err(Error::Bug(format!("{} is not a function over a window", other.schema_name()))),
    }
}

/// The function's argument that is a column.
fn argument(call: &WindowFunction) -> Option<&Expr> {
    let first = call.params.args.first();
    match &call.fun {
        WindowFunctionDefinition::AggregateUDF(_) => match first {
            Some(Expr::Literal(literal, _)) if !literal.is_null() && call.fun.name() == "count" => None,
            other => other,
        },
        WindowFunctionDefinition::WindowUDF(_) => first.filter(|_| call.fun.name() != "ntile"),
    }
}

/// The default of `lag` and `lead`, where it is not a constant.
fn computed_default(call: &WindowFunction) -> Option<&Expr> {
    let is_lag =
        matches!(call.fun.name(), "lag" | "lead") && matches!(call.fun, WindowFunctionDefinition::WindowUDF(_));
    call.params.args.get(2).filter(|e| is_lag && constant(e).is_none())
}

fn function(call: &WindowFunction, arg: Option<ScalarType>) -> Result<WindowFunc> {
    let args = &call.params.args;
    let unknown = || Error::unsupported(format!("the window function {}", call.fun.name()));
    let kind = match &call.fun {
        WindowFunctionDefinition::AggregateUDF(f) => {
            let implementation: &dyn Any = f.inner().as_ref();
            let stub = implementation.downcast_ref::<AggregateStub>().ok_or_else(unknown)?;
            return match AGGREGATES[stub.row].make {
                AggregateMake::Reduce(Reducer::First) => Ok(WindowFunc::NthValue(1)),
                AggregateMake::Reduce(Reducer::Last) => Ok(WindowFunc::LastValue),
                AggregateMake::Concat => {
                    let separator = separator_of(call.fun.name(), &call.params.args)?;
                    Ok(WindowFunc::Concat { separator })
                }
                AggregateMake::Reduce(_) if arg.is_none() => Ok(WindowFunc::Reduce(Reducer::CountAll)),
                AggregateMake::Reduce(reducer) => Ok(WindowFunc::Reduce(reducer)),
                _ => Err(Error::unsupported(format!("{} over a window", call.fun.name()))),
            };
        }
        WindowFunctionDefinition::WindowUDF(f) => {
            let implementation: &dyn Any = f.inner().as_ref();
            WINDOWS[implementation.downcast_ref::<WindowStub>().ok_or_else(unknown)?.row].kind
        }
    };
    Ok(match kind {
        WindowKind::RowNumber => WindowFunc::RowNumber,
        WindowKind::Rank => WindowFunc::Rank,
        WindowKind::DenseRank => WindowFunc::DenseRank,
        WindowKind::PercentRank => WindowFunc::PercentRank,
        WindowKind::CumeDist => WindowFunc::CumeDist,
        WindowKind::Ntile => match integer(args.first(), "ntile")? {
            n if n > 0 => WindowFunc::Ntile(n),
            n => return Err(Error::meaning(format!("ntile needs a positive number, not {n}"))),
        },
        WindowKind::Lag | WindowKind::Lead => {
            let offset = if args.len() > 1 { integer(args.get(1), call.fun.name())? } else { 1 };
            let offset = if kind == WindowKind::Lead { offset.checked_neg() } else { Some(offset) };
            let offset =
                offset.ok_or_else(|| Error::meaning(format!("the offset of {} is too large", call.fun.name())))?;
            let default = match computed_default(call) {
                Some(_) => Value::Null,
                None => default_of(args.get(2), arg, call.fun.name())?,
            };
            WindowFunc::Lag { offset, default }
        }
        WindowKind::FirstValue => WindowFunc::NthValue(1),
        WindowKind::LastValue => WindowFunc::LastValue,
        WindowKind::NthValue => match integer(args.get(1), "nth_value")? {
            n if n > 0 => WindowFunc::NthValue(n),
            n => return Err(Error::meaning(format!("nth_value needs a positive number, not {n}"))),
        },
    })
}

fn integer(e: Option<&Expr>, name: &str) -> Result<i64> {
    let e = e.ok_or_else(|| Error::meaning(format!("{name} lacks a number")))?;
    match constant(e) {
        Some((Value::I64(n), _)) => Ok(n),
        Some((Value::I32(n), _)) => Ok(n.into()),
        _ => Err(Error::unsupported(format!("{name} with a number that is not a constant integer"))),
    }
}

/// A constant, also a negated one, one under a cast, and sums and products of integers.
pub(crate) fn constant(e: &Expr) -> Option<(Value, ScalarType)> {
    match e {
        Expr::Literal(literal, _) => literal_of(literal).ok(),
        Expr::Alias(alias) => constant(&alias.expr),
        Expr::Cast(cast) => {
            let (value, from) = constant(&cast.expr)?;
            let to = crate::import::types::from_arrow(cast.field.data_type())?;
            Some((crate::import::expr::convert(&value, from, to)?, to))
        }
        Expr::BinaryExpr(e) => {
            let whole = |e: &Expr| match constant(e)? {
                (Value::I32(n), _) => Some(i64::from(n)),
                (Value::I64(n), _) => Some(n),
                _ => None,
            };
            let (a, b) = (whole(&e.left)?, whole(&e.right)?);
            let n = match e.op {
                Operator::Plus => a.checked_add(b)?,
                Operator::Minus => a.checked_sub(b)?,
                Operator::Multiply => a.checked_mul(b)?,
                _ => return None,
            };
            Some((Value::I64(n), ScalarType::I64))
        }
        Expr::Negative(x) => match constant(x)? {
            (Value::I32(v), t) => Some((Value::I32(v.checked_neg()?), t)),
            (Value::I64(v), t) => Some((Value::I64(v.checked_neg()?), t)),
            (Value::F64(v), t) => Some((Value::F64(-v), t)),
            (Value::Decimal(v), t) => Some((Value::Decimal(-v), t)),
            _ => None,
        },
        _ => None,
    }
}

fn default_of(e: Option<&Expr>, ty: Option<ScalarType>, name: &str) -> Result<Value> {
    let (Some(e), Some(ty)) = (e, ty) else { return Ok(Value::Null) };
    let converted = constant(e).and_then(|(value, from)| crate::import::expr::convert(&value, from, ty));
    converted
        .ok_or_else(|| Error::unsupported(format!("{name} with a default that is not a constant of the column's type")))
}
