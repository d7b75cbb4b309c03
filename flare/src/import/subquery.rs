//! Subqueries and the host's functions: what an expression needs beside its row becomes a column of the table first.
//!
//! - `EXISTS` and `IN` as conditions of their own become semi and anti joins; inside other expressions mark joins.
//! - A subquery used as a value becomes a single join.
//! - A call of a host function becomes what the function makes of it, usually an `apply`.
//!
//! A subquery that reads nothing outside is an ordinary join, the others are dependent joins. A column that is made this way
//! is computed for every row, also where the expression around it would not look at it.

use std::any::Any;

use datafusion_common::DFSchemaRef;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_expr::expr::{SetComparison, SetQuantifier};
use datafusion_expr::{Expr, LogicalPlan, Operator};
use ir::entity::{ColumnId, ValueId};
use ir::graph::RelOp;
use ir::graph::rel::JoinKind;
use ir::scalar::ScalarOp;
use ir::types::ScalarType;
use ir::value::Value;

use crate::binder::RowStub;
use crate::catalog::Argument;
use crate::error::{Error, Result};
use crate::import::expr::{Scope, constant_of};
use crate::import::types::from_arrow;
use crate::import::{Importer, OuterScope, has_subquery, unalias};

/// What a subquery's rows are compared with.
enum Condition<'e> {
    /// Nothing: every row counts.
    Always,
    /// This expression, by this comparison, with the first column.
    Compare(&'e Expr, ScalarOp),
}

impl Importer {
    /// `EXISTS (…)`, `x IN (…)` and their negations as a condition of their own; `None` for any other condition.
    pub(crate) fn semi_join(
        &mut self,
        table: ValueId,
        schema: &DFSchemaRef,
        columns: &[ColumnId],
        condition: &Expr,
    ) -> Result<Option<ValueId>> {
        let (condition, negated) = match unalias(condition) {
            Expr::Not(inner) => (unalias(inner), true),
            other => (other, false),
        };
        let joined = match condition {
            Expr::Exists(e) => {
                let kind = if e.negated != negated { JoinKind::Anti } else { JoinKind::Semi };
                self.subquery_join(table, schema, columns, &e.subquery.subquery, kind, Condition::Always)?
            }
            Expr::InSubquery(e) if e.negated == negated && !has_subquery(&e.expr) => {
                let table = self.hoist(table, schema, columns, &[&e.expr])?;
                let condition = Condition::Compare(&e.expr, ScalarOp::Eq);
                self.subquery_join(table, schema, columns, &e.subquery.subquery, JoinKind::Semi, condition)?
            }
            _ => return Ok(None),
        };
        Ok(Some(joined.0))
    }

    /// Makes a column of each subquery and each call of a host function in these expressions.
    pub(crate) fn hoist(
        &mut self,
        mut table: ValueId,
        schema: &DFSchemaRef,
        columns: &[ColumnId],
        exprs: &[&Expr],
    ) -> Result<ValueId> {
        for e in exprs {
            for e in outermost(e) {
                let (next, column) = self.hoist_one(table, schema, columns, e)?;
                table = next;
                self.hoisted.insert(std::ptr::from_ref(e) as usize, column);
            }
        }
        Ok(table)
    }

    fn hoist_one(
        &mut self,
        table: ValueId,
        schema: &DFSchemaRef,
        columns: &[ColumnId],
        e: &Expr,
    ) -> Result<(ValueId, ColumnId)> {
        match e {
            Expr::ScalarSubquery(s) => {
                let (table, right) =
                    self.subquery_join(table, schema, columns, &s.subquery, JoinKind::Single, Condition::Always)?;
                let column = right.first().copied().ok_or_else(|| Error::Bug("a subquery without a column".into()))?;
                Ok((table, column))
            }
            Expr::Exists(s) => self.mark(table, schema, columns, &s.subquery.subquery, Condition::Always, s.negated),
            Expr::InSubquery(s) => {
                let table = self.hoist(table, schema, columns, &[&s.expr])?;
                let condition = Condition::Compare(&s.expr, ScalarOp::Eq);
                self.mark(table, schema, columns, &s.subquery.subquery, condition, s.negated)
            }
            Expr::SetComparison(s) => {
                let table = self.hoist(table, schema, columns, &[&s.expr])?;
                // `x op ALL` is `NOT (x opposite ANY)`.
                let all = s.quantifier == SetQuantifier::All;
                let condition = Condition::Compare(&s.expr, comparison_of(s, all)?);
                self.mark(table, schema, columns, &s.subquery.subquery, condition, all)
            }
            Expr::ScalarFunction(call) => {
                let implementation: &dyn Any = call.func.inner().as_ref();
                let stub = implementation.downcast_ref::<RowStub>();
                let stub = stub.ok_or_else(|| Error::Bug("not a host function".into()))?;
                self.row_function(table, schema, columns, stub, &call.args)
            }
            _ => Err(Error::Bug("nothing to make a column of".into())),
        }
    }

    fn row_function(
        &mut self,
        table: ValueId,
        schema: &DFSchemaRef,
        columns: &[ColumnId],
        stub: &RowStub,
        args: &[Expr],
    ) -> Result<(ValueId, ColumnId)> {
        use datafusion_expr::ExprSchemable;
        let mut arguments = vec![];
        let mut computed = vec![];
        for arg in args {
            let ty = arg.get_type(schema.as_ref()).ok().and_then(|t| from_arrow(&t));
            let constant = match arg {
                Expr::Literal(literal, _) => constant_of(literal),
                _ => None,
            };
            if constant.is_none() {
                computed.push(arg);
            }
            arguments.push(Argument { ty, constant });
        }
        let (table, ids) = self.extend(table, schema, columns, &computed)?;
        let mut ids = ids.into_iter();
        let columns: Vec<Option<ColumnId>> =
            arguments.iter().map(|a| if a.constant.is_some() { None } else { ids.next() }).collect();
        Ok(stub.function.apply(&mut self.b, table, &arguments, &columns)?)
    }

    /// A boolean column: whether a row of the subquery fits.
    fn mark(
        &mut self,
        table: ValueId,
        schema: &DFSchemaRef,
        columns: &[ColumnId],
        subquery: &LogicalPlan,
        condition: Condition<'_>,
        negated: bool,
    ) -> Result<(ValueId, ColumnId)> {
        let mark = self.b.program_mut().new_column("mark", ScalarType::Bool);
        let (table, _) = self.subquery_join(table, schema, columns, subquery, JoinKind::Mark(mark), condition)?;
        if !negated {
            return Ok((table, mark));
        }
        let not = self.b.program_mut().new_column("mark", ScalarType::Bool);
        let table = self.b.extend(table, &[not], |b| {
            let mark = b.col(mark)?;
            Ok(vec![b.scalar(ScalarOp::Not, &[mark])?])
        })?;
        Ok((table, not))
    }

    /// Joins a subquery; returns the table and the subquery's columns.
    fn subquery_join(
        &mut self,
        table: ValueId,
        schema: &DFSchemaRef,
        columns: &[ColumnId],
        subquery: &LogicalPlan,
        kind: JoinKind,
        condition: Condition<'_>,
    ) -> Result<(ValueId, Vec<ColumnId>)> {
        let left_type = self.table_type(table);
        if !reads_outside(subquery) {
            let right = self.plan(subquery)?;
            let right_type = self.table_type(right.table);
            self.b.begin_region(&[], vec![left_type, right_type]);
            let holds = self.condition(condition, Scope { schema, columns }, &right.columns)?;
            let predicate = self.b.end_region(&[holds]);
            let joined = self.b.rel(RelOp::Join { kind }, &[table, right.table], &[predicate])?;
            return Ok((joined, right.columns));
        }
        self.outer.push(OuterScope { schema: schema.clone(), columns: columns.to_vec() });
        self.b.begin_region(&[], vec![left_type.clone()]);
        let right = self.plan(subquery);
        self.outer.pop();
        let right = right?;
        let right_type = self.table_type(right.table);
        let region = self.b.end_region(&[right.table]);
        self.b.begin_region(&[], vec![left_type, right_type]);
        let holds = self.condition(condition, Scope { schema, columns }, &right.columns)?;
        let predicate = self.b.end_region(&[holds]);
        let joined = self.b.rel(RelOp::DependentJoin { kind }, &[table], &[region, predicate])?;
        Ok((joined, right.columns))
    }

    fn condition(&mut self, condition: Condition<'_>, scope: Scope<'_>, right: &[ColumnId]) -> Result<ValueId> {
        match condition {
            Condition::Always => self.literal(Value::Bool(true), ScalarType::Bool),
            Condition::Compare(left, op) => {
                let column = right.first().copied().ok_or_else(|| Error::Bug("a subquery without a column".into()))?;
                let left = self.operand(left, scope)?;
                let right = self.b.col(column)?;
                self.compare(op, left, right)
            }
        }
    }
}

fn comparison_of(s: &SetComparison, opposite: bool) -> Result<ScalarOp> {
    Ok(match (s.op, opposite) {
        (Operator::Eq, false) | (Operator::NotEq, true) => ScalarOp::Eq,
        (Operator::NotEq, false) | (Operator::Eq, true) => ScalarOp::Ne,
        (Operator::Lt, false) | (Operator::GtEq, true) => ScalarOp::Lt,
        (Operator::LtEq, false) | (Operator::Gt, true) => ScalarOp::Le,
        (Operator::Gt, false) | (Operator::LtEq, true) => ScalarOp::Gt,
        (Operator::GtEq, false) | (Operator::Lt, true) => ScalarOp::Ge,
        (op, _) => return Err(Error::unsupported(format!("{op} with ANY or ALL"))),
    })
}

/// Whether an expression holds a subquery or a call of a host function.
pub(crate) fn is_hoisted(e: &Expr) -> bool {
    let here = |e: &Expr| match e {
        Expr::ScalarFunction(call) => is_row_function(call.func.inner().as_ref()),
        other => has_subquery(other),
    };
    e.exists(|e| Ok(here(e))).unwrap_or(false)
}

fn is_row_function(implementation: &dyn Any) -> bool {
    implementation.is::<RowStub>()
}

/// The subqueries and the calls of host functions in an expression that stand in no other.
pub(crate) fn outermost(e: &Expr) -> Vec<&Expr> {
    let mut found = vec![];
    // The closure never fails.
    let _ = e.apply(|e| {
        Ok(match e {
            Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) | Expr::ScalarSubquery(_) => {
                found.push(e);
                TreeNodeRecursion::Jump
            }
            Expr::ScalarFunction(call) if is_row_function(call.func.inner().as_ref()) => {
                found.push(e);
                TreeNodeRecursion::Jump
            }
            _ => TreeNodeRecursion::Continue,
        })
    });
    found
}

/// Whether a subquery, or what it is compared with, or a call of a host function reads a column of this schema.
pub(crate) fn reads_from(e: &Expr, schema: &DFSchemaRef) -> bool {
    if matches!(e, Expr::ScalarFunction(_)) {
        return e.column_refs().iter().any(|c| schema.maybe_index_of_column(c).is_some());
    }
    let plan = match e {
        Expr::Exists(s) => &s.subquery.subquery,
        Expr::InSubquery(s) => &s.subquery.subquery,
        Expr::SetComparison(s) => &s.subquery.subquery,
        Expr::ScalarSubquery(s) => &s.subquery,
        _ => return false,
    };
    let compared = match e {
        Expr::InSubquery(s) => s.expr.column_refs().iter().any(|c| schema.maybe_index_of_column(c).is_some()),
        Expr::SetComparison(s) => s.expr.column_refs().iter().any(|c| schema.maybe_index_of_column(c).is_some()),
        _ => false,
    };
    let mut found = compared;
    // The closures never fail.
    let _ = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|e| {
            e.apply(|e| {
                if let Expr::OuterReferenceColumn(_, column) = e {
                    found |= schema.maybe_index_of_column(column).is_some();
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    found
}

/// Whether a plan, or a subquery in it, reads a column of a row outside.
fn reads_outside(plan: &LogicalPlan) -> bool {
    let mut found = false;
    // The closures never fail.
    let _ = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|e| {
            e.apply(|e| {
                if matches!(e, Expr::OuterReferenceColumn(..)) {
                    found = true;
                    return Ok(TreeNodeRecursion::Stop);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    found
}
