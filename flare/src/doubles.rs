//! Decimals that meet doubles become doubles.
//!
//! DataFusion's `TypeCoercion` makes a double beside a decimal a decimal: `x > 0.5` would then raise for a large `x` and lose the
//! digits of a small one. Here every place where two types meet gets its casts before that: operators, `IN`, `BETWEEN`, `CASE`,
//! comparisons with subqueries, keys of joins, branches of `UNION`. Arguments of functions have their types from
//! [`crate::functions`].

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, DataFusionError};
use datafusion_expr::expr::{Cast, InSubquery, SetComparison};
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::logical_plan::Union;
use datafusion_expr::utils::merge_schema;
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, Subquery};

type Result<T> = std::result::Result<T, DataFusionError>;

/// The plan with these casts.
pub(crate) fn coerce(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(plan.transform_up_with_subqueries(|node| node_with_casts(node).map(Transformed::yes))?.data)
}

fn node_with_casts(plan: LogicalPlan) -> Result<LogicalPlan> {
    let schema = merge_schema(&plan.inputs());
    let names = NamePreserver::new(&plan);
    let plan = plan.map_expressions(|e| {
        let name = names.save(&e);
        Ok(e.transform_up(|e| expression(e, &schema))?.update_data(|e| name.restore(e)))
    })?;
    match plan.data {
        LogicalPlan::Union(mut union) => {
            let widths = union.inputs.iter().map(|i| i.schema().fields().len()).min().unwrap_or(0);
            for column in 0..widths {
                let types = || union.inputs.iter().map(|i| i.schema().field(column).data_type());
                if meets(types()) {
                    for input in &mut union.inputs {
                        *input = Arc::new(with_double(input.as_ref().clone(), column)?);
                    }
                }
            }
            Ok(LogicalPlan::Union(Union::try_new_with_loose_types(union.inputs)?))
        }
        LogicalPlan::Join(mut join) => {
            for (a, b) in &mut join.on {
                let pair = [a.get_type(join.left.schema())?, b.get_type(join.right.schema())?];
                if meets(&pair) {
                    for (side, ty) in [a, b].into_iter().zip(pair) {
                        to_double(side, &ty);
                    }
                }
            }
            Ok(LogicalPlan::Join(join))
        }
        plan => plan.recompute_schema(),
    }
}

fn is_float(t: &DataType) -> bool {
    matches!(t, DataType::Float32 | DataType::Float64)
}

fn is_decimal(t: &DataType) -> bool {
    matches!(t, DataType::Decimal128(..))
}

/// Whether there are a decimal and a float among these.
fn meets<'t>(types: impl IntoIterator<Item = &'t DataType>) -> bool {
    let (mut float, mut decimal) = (false, false);
    for t in types {
        float |= is_float(t);
        decimal |= is_decimal(t);
    }
    float && decimal
}

fn to_double(e: &mut Expr, ty: &DataType) {
    if ty.is_numeric() && *ty != DataType::Float64 {
        let inner = std::mem::take(e);
        *e = Expr::Cast(Cast::new(Box::new(inner), DataType::Float64));
    }
}

/// Makes these doubles if decimals and floats are among them. What has no type yet is left to the coercion behind.
fn together(exprs: &mut [&mut Expr], schema: &DFSchema) -> bool {
    let types: Vec<Option<DataType>> = exprs.iter().map(|e| e.get_type(schema).ok()).collect();
    let change = meets(types.iter().flatten());
    if change {
        for (e, ty) in exprs.iter_mut().zip(&types) {
            if let Some(ty) = ty {
                to_double(e, ty);
            }
        }
    }
    change
}

fn expression(mut e: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let changed = match &mut e {
        Expr::BinaryExpr(b) if joins_types(b.op) => together(&mut [&mut b.left, &mut b.right], schema),
        Expr::Between(b) => together(&mut [&mut b.expr, &mut b.low, &mut b.high], schema),
        Expr::InList(list) => {
            let mut all: Vec<&mut Expr> = vec![&mut list.expr];
            all.extend(&mut list.list);
            together(&mut all, schema)
        }
        Expr::Case(case) => {
            let (mut compared, mut values): (Vec<&mut Expr>, Vec<&mut Expr>) = (vec![], vec![]);
            let simple = case.expr.is_some();
            compared.extend(case.expr.as_deref_mut());
            for (when, then) in &mut case.when_then_expr {
                if simple {
                    compared.push(when);
                }
                values.push(then);
            }
            values.extend(case.else_expr.as_deref_mut());
            let compared = together(&mut compared, schema);
            together(&mut values, schema) || compared
        }
        Expr::InSubquery(InSubquery { expr, subquery, .. })
        | Expr::SetComparison(SetComparison { expr, subquery, .. }) => with_subquery(expr, subquery, schema)?,
        _ => false,
    };
    Ok(if changed { Transformed::yes(e) } else { Transformed::no(e) })
}

/// Whether both sides of an operator get one type.
fn joins_types(op: Operator) -> bool {
    use Operator as O;
    let compares =
        matches!(op, O::Eq | O::NotEq | O::Lt | O::LtEq | O::Gt | O::GtEq | O::IsDistinctFrom | O::IsNotDistinctFrom);
    compares || op.is_numerical_operators()
}

fn with_subquery(e: &mut Expr, subquery: &mut Subquery, schema: &DFSchema) -> Result<bool> {
    let Ok(ty) = e.get_type(schema) else { return Ok(false) };
    let plan = &subquery.subquery;
    let Some(of_subquery) = plan.schema().fields().first().map(|f| f.data_type().clone()) else { return Ok(false) };
    if !meets([&ty, &of_subquery]) {
        return Ok(false);
    }
    to_double(e, &ty);
    if of_subquery != DataType::Float64 {
        subquery.subquery = Arc::new(with_double(plan.as_ref().clone(), 0)?);
    }
    Ok(true)
}

/// The plan with one of its columns as a double, under its name.
fn with_double(plan: LogicalPlan, column: usize) -> Result<LogicalPlan> {
    if *plan.schema().field(column).data_type() == DataType::Float64 {
        return Ok(plan);
    }
    let exprs: Vec<Expr> = plan
        .schema()
        .iter()
        .enumerate()
        .map(|(i, (qualifier, field))| {
            let mut e = Expr::from((qualifier, field));
            if i == column {
                to_double(&mut e, field.data_type());
                e = e.alias_qualified(qualifier.cloned(), field.name());
            }
            e
        })
        .collect();
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}
