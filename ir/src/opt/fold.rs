//! Computes what is constant.
//!
//! Every rewrite keeps every bit and the type, nullability included. An operation that would raise is left to raise when it
//! runs.

use super::Context;
use crate::entity::{NodeId, ValueId};
use crate::error::Result;
use crate::graph::rewrite::{Change, Rebuild, Rewrite, rebuild};
use crate::graph::{ControlOp, Node, Op, Program, RelOp, TensorOp};
use crate::scalar::{self, NullRule, ScalarOp};
use crate::types::{RowType, ScalarType};
use crate::value::{TensorData, Value};

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    rebuild(p, &mut Fold { cx })
}

struct Fold<'a, 'b> {
    cx: &'a mut Context<'b>,
}

impl Rewrite for Fold<'_, '_> {
    fn node(&mut self, cx: &mut Rebuild<'_>, _: NodeId, node: &Node) -> Result<Change> {
        match &node.op {
            Op::Scalar(op) => self.scalar(cx, *op, node),
            Op::Control(ControlOp::If) => self.branch(cx, node),
            Op::Rel(op) => self.rel(cx, op, node),
            Op::Literal(..) | Op::Col(_) | Op::Input(_) | Op::Tensor(_) | Op::Bridge(_) | Op::Control(_) => {
                Ok(Change::Keep)
            }
        }
    }
}

/// What an identity gives.
enum Simple {
    /// One of the operands.
    Value(ValueId),
    /// A constant.
    Constant(Value),
    /// Another operation over these.
    Other(ScalarOp, Vec<ValueId>),
}

impl Fold<'_, '_> {
    fn scalar(&mut self, cx: &mut Rebuild<'_>, op: ScalarOp, node: &Node) -> Result<Change> {
        let operands = cx.values(&node.operands)?;
        let Some(out) = cx.old.ty(node.results[0]).as_scalar() else { return Ok(Change::Keep) };
        let Some(simple) = simplify(cx, op, &operands, out) else { return Ok(Change::Keep) };
        // The type must stay, so that what is around needs no change.
        let fits = match &simple {
            Simple::Value(v) => cx.ty(*v).as_scalar() == Some(out),
            Simple::Constant(v) => v.fits(out.ty) && (out.nullable || !v.is_null()),
            Simple::Other(op, operands) => {
                let types: Option<Vec<RowType>> = operands.iter().map(|v| cx.ty(*v).as_scalar()).collect();
                types.is_some_and(|types| scalar::result_type(*op, &types) == Ok(out))
            }
        };
        if !fits || !self.cx.spend() {
            return Ok(Change::Keep);
        }
        cx.b.set_place(node.place);
        let value = match simple {
            Simple::Value(v) => v,
            Simple::Constant(v) => cx.b.push1(Op::Literal(v, out), &[], &[])?,
            Simple::Other(op, operands) => cx.b.scalar(op, &operands)?,
        };
        cx.b.set_place(None);
        Ok(Change::Values(vec![value]))
    }

    fn branch(&mut self, cx: &mut Rebuild<'_>, node: &Node) -> Result<Change> {
        let condition = cx.value(node.operands[0])?;
        let constant = match cx.def(condition).map(|n| &n.op) {
            Some(Op::Literal(v, _)) => Some(matches!(v, Value::Bool(true))),
            Some(Op::Tensor(TensorOp::Const(t))) => match &t.data {
                TensorData::Bool(v) => v.first().copied(),
                _ => None,
            },
            _ => None,
        };
        let Some(constant) = constant else { return Ok(Change::Keep) };
        let region = node.regions[usize::from(!constant)];
        let results = &cx.old.region(region).results;
        let same = results.iter().zip(&node.results).all(|(a, b)| cx.old.ty(*a) == cx.old.ty(*b));
        if !same || !self.cx.spend() {
            return Ok(Change::Keep);
        }
        let kept = if constant { "first" } else { "second" };
        self.cx.note(node.place, format!("a condition is known: only the {kept} branch is left"));
        Ok(Change::Values(cx.inline(self, region, &[])?))
    }

    fn rel(&mut self, cx: &mut Rebuild<'_>, op: &RelOp, node: &Node) -> Result<Change> {
        let Some(operand) = node.operands.first() else { return Ok(Change::Keep) };
        let operand = cx.value(*operand)?;
        let below = cx.def(operand).map(|n| n.op.clone());
        match op {
            RelOp::Filter => {
                // The predicate is rewritten first; what is known of it shows then.
                let kept = cx.keep(self, node)?;
                let filter = cx.def(kept[0]).map(|n| n.regions[0]);
                let predicate = filter.and_then(|r| cx.b.program().region(r).results.first().copied());
                let constant = match predicate.and_then(|v| cx.def(v)).map(|n| &n.op) {
                    Some(Op::Literal(v, _)) => Some(matches!(v, Value::Bool(true))),
                    _ => None,
                };
                let Some(all) = constant else { return Ok(Change::Values(kept)) };
                if !self.cx.spend() {
                    return Ok(Change::Values(kept));
                }
                if all {
                    return Ok(Change::Values(vec![operand]));
                }
                self.cx.note(node.place, "a filter keeps no row");
                let empty = RelOp::Limit { offset: 0, count: Some(0) };
                Ok(Change::Values(vec![cx.b.rel(empty, &[operand], &[])?]))
            }
            RelOp::Limit { offset: 0, count: None } => self.same(operand),
            RelOp::Limit { .. } | RelOp::Sort { .. } if is_empty(below.as_ref()) => self.same(operand),
            RelOp::Sort { keys, limit: None } if keys.is_empty() => self.same(operand),
            RelOp::Extend { columns } if columns.is_empty() => self.same(operand),
            RelOp::Project { columns } => {
                let wanted: Vec<_> = columns.iter().map(|c| cx.column(*c)).collect();
                let has = cx.ty(operand).as_table().is_some_and(|t| t.columns.iter().map(|c| c.id).eq(wanted.clone()));
                if has {
                    return self.same(operand);
                }
                let Some(Op::Rel(RelOp::Project { .. })) = below else { return Ok(Change::Keep) };
                let Some(source) = cx.def(operand).map(|n| n.operands[0]) else { return Ok(Change::Keep) };
                if !self.cx.spend() {
                    return Ok(Change::Keep);
                }
                let project = RelOp::Project { columns: wanted };
                Ok(Change::Values(vec![cx.b.rel(project, &[source], &[])?]))
            }
            RelOp::Scan { .. }
            | RelOp::Values { .. }
            | RelOp::Extend { .. }
            | RelOp::Join { .. }
            | RelOp::DependentJoin { .. }
            | RelOp::Group { .. }
            | RelOp::Sort { .. }
            | RelOp::Limit { .. }
            | RelOp::Union { .. }
            | RelOp::Recurse { .. }
            | RelOp::Window { .. } => Ok(Change::Keep),
        }
    }

    fn same(&mut self, operand: ValueId) -> Result<Change> {
        Ok(if self.cx.spend() { Change::Values(vec![operand]) } else { Change::Keep })
    }
}

/// Whether an operation gives no row.
fn is_empty(op: Option<&Op>) -> bool {
    match op {
        Some(Op::Rel(RelOp::Limit { count, .. })) => *count == Some(0),
        Some(Op::Rel(RelOp::Values { rows, .. })) => rows.is_empty(),
        _ => false,
    }
}

/// The simplest form of an operation, if there is a simpler one.
fn simplify(cx: &Rebuild<'_>, op: ScalarOp, operands: &[ValueId], out: RowType) -> Option<Simple> {
    let literals: Vec<Option<&Value>> = operands
        .iter()
        .map(|v| match cx.def(*v).map(|n| &n.op) {
            Some(Op::Literal(v, _)) => Some(v),
            _ => None,
        })
        .collect();
    let types: Vec<RowType> = operands.iter().map(|v| cx.ty(*v).as_scalar()).collect::<Option<_>>()?;
    if let Some(values) = literals.iter().map(|v| v.cloned()).collect::<Option<Vec<Value>>>() {
        let types: Vec<ScalarType> = types.iter().map(|t| t.ty).collect();
        return scalar::eval(op, &values, &types, out.ty).ok().map(Simple::Constant);
    }
    if scalar::def(op).null == NullRule::Strict && literals.iter().any(|v| v.is_some_and(Value::is_null)) {
        return Some(Simple::Constant(Value::Null));
    }
    let value = |i: usize| Some(Simple::Value(operands[i]));
    let constant = |b: bool| Some(Simple::Constant(Value::Bool(b)));
    let same = operands.len() == 2 && operands[0] == operands[1];
    let not_null = |i: usize| !types[i].nullable;
    match op {
        ScalarOp::Add if is_number(literals[1], Zero::Negative) => value(0),
        ScalarOp::Add if is_number(literals[0], Zero::Negative) => value(1),
        ScalarOp::Sub if is_number(literals[1], Zero::Positive) => value(0),
        ScalarOp::Mul | ScalarOp::Div if is_one(literals[1]) => value(0),
        ScalarOp::Mul if is_one(literals[0]) => value(1),
        ScalarOp::And => match (literals[0], literals[1]) {
            (Some(Value::Bool(false)), _) | (_, Some(Value::Bool(false))) => constant(false),
            (Some(Value::Bool(true)), _) => value(1),
            (_, Some(Value::Bool(true))) => value(0),
            _ if same => value(0),
            _ => None,
        },
        ScalarOp::Or => match (literals[0], literals[1]) {
            (Some(Value::Bool(true)), _) | (_, Some(Value::Bool(true))) => constant(true),
            (Some(Value::Bool(false)), _) => value(1),
            (_, Some(Value::Bool(false))) => value(0),
            _ if same => value(0),
            _ => None,
        },
        ScalarOp::Not => {
            let inner = cx.def(operands[0])?;
            let Op::Scalar(of) = inner.op else { return None };
            let negated = match of {
                ScalarOp::Not => return Some(Simple::Value(inner.operands[0])),
                ScalarOp::Eq => ScalarOp::Ne,
                ScalarOp::Ne => ScalarOp::Eq,
                ScalarOp::Lt => ScalarOp::Ge,
                ScalarOp::Ge => ScalarOp::Lt,
                ScalarOp::Le => ScalarOp::Gt,
                ScalarOp::Gt => ScalarOp::Le,
                ScalarOp::IsDistinct => ScalarOp::IsNotDistinct,
                ScalarOp::IsNotDistinct => ScalarOp::IsDistinct,
                ScalarOp::IsNull => ScalarOp::IsNotNull,
                ScalarOp::IsNotNull => ScalarOp::IsNull,
                _ => return None,
            };
            Some(Simple::Other(negated, inner.operands.to_vec()))
        }
        // NaN equals itself.
        ScalarOp::Eq | ScalarOp::Le | ScalarOp::Ge if same && not_null(0) => constant(true),
        ScalarOp::Ne | ScalarOp::Lt | ScalarOp::Gt if same && not_null(0) => constant(false),
        ScalarOp::IsNotDistinct if same => constant(true),
        ScalarOp::IsDistinct if same => constant(false),
        ScalarOp::IsNull if not_null(0) => constant(false),
        ScalarOp::IsNotNull if not_null(0) => constant(true),
        ScalarOp::Coalesce if not_null(0) => value(0),
        ScalarOp::Coalesce if literals[0].is_some_and(Value::is_null) => value(1),
        ScalarOp::Select => match literals[0] {
            Some(Value::Bool(true)) => value(1),
            Some(_) => value(2),
            None if operands[1] == operands[2] => value(1),
            None => None,
        },
        ScalarOp::NullIfTrue => match literals[1] {
            Some(Value::Bool(true)) => Some(Simple::Constant(Value::Null)),
            Some(_) => value(0),
            None => None,
        },
        ScalarOp::Cast(to) if types[0].ty == to => value(0),
        ScalarOp::TryCast(to) if !scalar::can_raise(ScalarOp::Cast(to), &[types[0].ty]) => {
            Some(Simple::Other(ScalarOp::Cast(to), vec![operands[0]]))
        }
        ScalarOp::Min | ScalarOp::Max if same => value(0),
        _ => None,
    }
}

/// Which zero of a float changes nothing: `x + -0.0` and `x - 0.0` are `x` for every `x`, `-0.0 + 0.0` is `0.0`.
enum Zero {
    Positive,
    Negative,
}

fn is_number(v: Option<&Value>, zero: Zero) -> bool {
    let sign = matches!(zero, Zero::Negative);
    match v {
        Some(Value::I32(0) | Value::I64(0) | Value::Decimal(0)) => true,
        Some(Value::F32(x)) => *x == 0.0 && x.is_sign_negative() == sign,
        Some(Value::F64(x)) => *x == 0.0 && x.is_sign_negative() == sign,
        _ => false,
    }
}

fn is_one(v: Option<&Value>) -> bool {
    match v {
        Some(Value::I32(1) | Value::I64(1)) => true,
        Some(Value::F32(x)) => *x == 1.0,
        Some(Value::F64(x)) => *x == 1.0,
        _ => false,
    }
}
