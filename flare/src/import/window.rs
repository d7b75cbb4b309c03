//! Functions over windows.

use std::any::Any;

use datafusion_common::ScalarValue;
use datafusion_expr::expr::WindowFunction;
use datafusion_expr::logical_plan::Window;
use datafusion_expr::{Expr, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition};
use ir::entity::ColumnId;
use ir::graph::RelOp;
use ir::graph::rel::{Frame, FrameBound, SortKey, WindowColumn, WindowFunc};
use ir::scalar::reduce::Reducer;
use ir::types::ScalarType;
use ir::value::Value;

use crate::binder::{AggregateStub, WindowStub};
use crate::error::{Error, Result};
use crate::functions::{AGGREGATES, WINDOWS, WindowKind};
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
        for e in &w.window_expr {
            let call = window_call(e)?;
            let name = call.fun.name();
            let params = &call.params;
            if params.distinct {
                return Err(Error::unsupported(format!("DISTINCT in {name} over a window")));
            }
            if params.filter.is_some() {
                return Err(Error::unsupported(format!("FILTER in {name} over a window")));
            }
            if params.null_treatment.is_some() {
                return Err(Error::unsupported(format!("IGNORE NULLS in {name}")));
            }
            let (next, keys) = self.sort_keys(table, schema, &input.columns, &params.order_by)?;
            let mut exprs: Vec<&Expr> = params.partition_by.iter().collect();
            exprs.extend(argument(call));
            let (next, ids) = self.extend(next, schema, &input.columns, &exprs)?;
            table = next;
            let mut partition: Vec<ColumnId> = vec![];
            for id in &ids[..params.partition_by.len()] {
                if !partition.contains(id) {
                    partition.push(*id);
                }
            }
            let arg = ids.get(params.partition_by.len()).copied();
            let arg_type = arg.map(|id| self.b.program().columns[id.index()].ty);
            let func = function(call, arg_type)?;
            let frame = frame(&params.window_frame)?;
            let ty =
                func.result_type(arg_type.map(|t| t.nullable(true))).map_err(|e| Error::meaning(e.to_string()))?.ty;
            let out = self.b.program_mut().new_column(e.schema_name().to_string(), ty);
            outs.push(out);
            let column = WindowColumn { func, arg, frame, out };
            match groups.iter_mut().find(|(p, k, _)| *p == partition && *k == keys) {
                Some((_, _, columns)) => columns.push(column),
                None => groups.push((partition, keys, vec![column])),
            }
        }
        for (partition, order, columns) in groups {
            table = self.b.rel(RelOp::Window { partition, order, columns }, &[table], &[])?;
        }
        let columns = input.columns.into_iter().chain(outs).collect();
        Ok(Rel { table, columns })
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

fn function(call: &WindowFunction, arg: Option<ScalarType>) -> Result<WindowFunc> {
    let args = &call.params.args;
    let unknown = || Error::unsupported(format!("the window function {}", call.fun.name()));
    let kind = match &call.fun {
        WindowFunctionDefinition::AggregateUDF(f) => {
            let implementation: &dyn Any = f.inner().as_ref();
            let stub = implementation.downcast_ref::<AggregateStub>().ok_or_else(unknown)?;
            let reducer = AGGREGATES[stub.row].reducer;
            return Ok(WindowFunc::Reduce(if arg.is_none() { Reducer::CountAll } else { reducer }));
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
            WindowFunc::Lag { offset, default: default_of(args.get(2), arg, call.fun.name())? }
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

/// A constant, also a negated one and one under a cast between integers.
fn constant(e: &Expr) -> Option<(Value, ScalarType)> {
    match e {
        Expr::Literal(literal, _) => literal_of(literal).ok(),
        Expr::Alias(alias) => constant(&alias.expr),
        Expr::Cast(cast) => {
            let (value, from) = constant(&cast.expr)?;
            let to = crate::import::types::from_arrow(cast.field.data_type())?;
            Some((crate::import::expr::convert(&value, from, to)?, to))
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

fn frame(frame: &WindowFrame) -> Result<Frame> {
    let range = match frame.units {
        WindowFrameUnits::Rows => false,
        WindowFrameUnits::Range => true,
        WindowFrameUnits::Groups => return Err(Error::unsupported("a window frame in GROUPS")),
    };
    let start = bound(&frame.start_bound, range)?;
    let end = bound(&frame.end_bound, range)?;
    Ok(Frame { range, start, end })
}

fn bound(bound: &WindowFrameBound, range: bool) -> Result<FrameBound> {
    let (rows, sign) = match bound {
        WindowFrameBound::CurrentRow => return Ok(FrameBound::CurrentRow),
        WindowFrameBound::Preceding(n) => (n, -1),
        WindowFrameBound::Following(n) => (n, 1),
    };
    if rows.is_null() {
        return Ok(FrameBound::Unbounded);
    }
    if range {
        return Err(Error::unsupported("a window frame in RANGE with an offset"));
    }
    let rows = match rows {
        ScalarValue::UInt64(Some(n)) => i64::try_from(*n).ok(),
        ScalarValue::Int64(Some(n)) => Some(*n),
        _ => None,
    };
    match rows {
        Some(n) if n >= 0 => Ok(FrameBound::Offset(sign * n)),
        _ => Err(Error::unsupported("a window frame with an offset that is not a constant number of rows")),
    }
}
