//! Expressions: to operations of a row region.
//!
//! The type of a value is what the common layer infers, from the leaves up. Casts that the binder put in are kept where they
//! change a value; inside operators, a cast that only widens a decimal's precision is dropped.

use std::fmt::{self, Write};

use datafusion_common::{Column, DFSchema, ScalarValue};
use datafusion_expr::expr::{Between, Case, InList, Like, ScalarFunction};
use datafusion_expr::{BinaryExpr, Expr, ExprSchemable, Operator};
use ir::entity::{ColumnId, PlaceId, ValueId};
use ir::graph::Op;
use ir::scalar::ScalarOp;
use ir::types::{RowType, ScalarType, Type};
use ir::value::Value;

use crate::binder::{ScalarStub, placeholder_index, span_of, unknown_column};
use crate::error::{Error, Result};
use crate::functions::{Make, SCALARS, common_type, sql_type_name};
use crate::import::Importer;
use crate::import::types::from_arrow;

use ScalarType as S;

/// Longest text of an expression in an error at run time.
const MAX_PLACE_TEXT: usize = 200;
/// Parts of an expression that are looked at for its place and its text.
const MAX_PLACE_NODES: usize = 100;

/// What columns mean in an expression: those of a plan's schema, by position.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'e> {
    pub(crate) schema: &'e DFSchema,
    pub(crate) columns: &'e [ColumnId],
}

/// A call of a scalar function, for [`crate::functions`] to build.
pub(crate) struct Call<'i, 'e> {
    importer: &'i mut Importer,
    scope: Scope<'e>,
    args: &'e [Expr],
    types: Vec<ScalarType>,
    name: &'static str,
}

impl Call<'_, '_> {
    /// The function's name.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Number of arguments.
    pub(crate) fn len(&self) -> usize {
        self.args.len()
    }

    /// Argument `i`, evaluated here, in the type that the function's row says.
    pub(crate) fn arg(&mut self, i: usize) -> Result<ValueId> {
        let v = self.importer.operand(&self.args[i], self.scope)?;
        self.cast(v, self.types[i])
    }

    /// The value of argument `i`, if it is a constant.
    pub(crate) fn constant(&self, i: usize) -> Option<Value> {
        match &self.args[i] {
            Expr::Literal(literal, _) => constant_of(literal),
            _ => None,
        }
    }

    /// Whether argument `i` can be evaluated where its value may not be used: it is cheap and does not raise.
    pub(crate) fn is_plain(&self, i: usize) -> bool {
        is_plain(&self.args[i], self.scope.schema)
    }

    /// An operation.
    pub(crate) fn op(&mut self, op: ScalarOp, operands: &[ValueId]) -> Result<ValueId> {
        self.importer.op(op, operands)
    }

    /// An operation over all arguments.
    pub(crate) fn op_all(&mut self, op: ScalarOp) -> Result<ValueId> {
        let args: Vec<ValueId> = (0..self.len()).map(|i| self.arg(i)).collect::<Result<_>>()?;
        self.op(op, &args)
    }

    /// A constant.
    pub(crate) fn literal(&mut self, value: Value, ty: ScalarType) -> Result<ValueId> {
        self.importer.literal(value, ty)
    }

    /// A float constant of this float type.
    pub(crate) fn float(&mut self, value: f64, ty: ScalarType) -> Result<ValueId> {
        let value = if ty == S::F32 { Value::F32(value as f32) } else { Value::F64(value) };
        self.literal(value, ty)
    }

    /// A value in another type.
    pub(crate) fn cast(&mut self, v: ValueId, to: ScalarType) -> Result<ValueId> {
        self.importer.cast(v, to)
    }

    /// The type of a value.
    pub(crate) fn ty(&self, v: ValueId) -> ScalarType {
        self.importer.row_type(v).ty
    }

    /// Whether a value can be NULL.
    pub(crate) fn nullable(&self, v: ValueId) -> bool {
        self.importer.row_type(v).nullable
    }

    /// One of two values; only the chosen one is evaluated. NULL chooses the second.
    pub(crate) fn if_else(
        &mut self,
        condition: ValueId,
        then: impl FnOnce(&mut Self) -> Result<ValueId>,
        other: impl FnOnce(&mut Self) -> Result<ValueId>,
    ) -> Result<ValueId> {
        self.importer.b.begin_region(&[], vec![]);
        let a = then(self)?;
        let a = self.importer.b.end_region(&[a]);
        self.importer.b.begin_region(&[], vec![]);
        let b = other(self)?;
        let b = self.importer.b.end_region(&[b]);
        self.importer.if_regions(condition, a, b)
    }
}

impl Importer {
    /// A value of an expression in the region that is open.
    pub(crate) fn expr(&mut self, e: &Expr, scope: Scope<'_>) -> Result<ValueId> {
        if let Some(column) = self.hoisted.get(&(std::ptr::from_ref(e) as usize)) {
            return Ok(self.b.col(*column)?);
        }
        let outer_place = self.place;
        if has_place(e) {
            self.place = self.place_of(e);
            self.b.set_place(self.place);
        }
        let result = self.expr_here(e, scope);
        self.place = outer_place;
        self.b.set_place(outer_place);
        result.map_err(|error| error.at(span_in(e).0.and_then(|s| span_of(s, &self.lines))))
    }

    fn expr_here(&mut self, e: &Expr, scope: Scope<'_>) -> Result<ValueId> {
        match e {
            Expr::Alias(alias) => self.expr(&alias.expr, scope),
            Expr::Column(column) => {
                let id = self.column(column, scope)?;
                Ok(self.b.col(id)?)
            }
            Expr::OuterReferenceColumn(_, column) => {
                let id = self.outer_column(column)?;
                Ok(self.b.col(id)?)
            }
            Expr::Literal(literal, _) => {
                let (value, ty) = literal_of(literal)?;
                self.literal(value, ty)
            }
            Expr::Placeholder(p) => {
                let value = placeholder_index(&p.id).and_then(|i| self.parameters.get(i)).copied();
                let value = value.ok_or_else(|| Error::Bug(format!("the parameter {} was not declared", p.id)))?;
                match p.field.as_ref().and_then(|f| from_arrow(f.data_type())) {
                    Some(ty) => self.cast(value, ty),
                    None => Ok(value),
                }
            }
            Expr::BinaryExpr(binary) => self.binary(binary, scope),
            Expr::Like(like) => self.like(like, scope),
            Expr::SimilarTo(_) => Err(Error::unsupported("SIMILAR TO")),
            Expr::Not(x) => self.unary(ScalarOp::Not, x, scope),
            Expr::IsNotNull(x) => self.unary(ScalarOp::IsNotNull, x, scope),
            Expr::IsNull(x) | Expr::IsUnknown(x) => self.unary(ScalarOp::IsNull, x, scope),
            Expr::IsNotUnknown(x) => self.unary(ScalarOp::IsNotNull, x, scope),
            Expr::IsTrue(x) => self.is_bool(x, true, true, scope),
            Expr::IsFalse(x) => self.is_bool(x, false, true, scope),
            Expr::IsNotTrue(x) => self.is_bool(x, true, false, scope),
            Expr::IsNotFalse(x) => self.is_bool(x, false, false, scope),
            Expr::Negative(x) => {
                if matches!(x.as_ref(), Expr::Literal(ScalarValue::IntervalMonthDayNano(_), _)) {
                    return Err(Error::unsupported("an interval outside of date arithmetic"));
                }
                self.unary(ScalarOp::Neg, x, scope)
            }
            Expr::Between(between) => self.between(between, scope),
            Expr::Case(case) => self.case(case, e, scope),
            Expr::Cast(cast) => {
                let to = self.target(cast.field.data_type())?;
                let v = self.expr(&cast.expr, scope)?;
                self.cast(v, to)
            }
            Expr::TryCast(cast) => {
                let to = self.target(cast.field.data_type())?;
                let v = self.expr(&cast.expr, scope)?;
                self.op(ScalarOp::TryCast(to), &[v])
            }
            Expr::ScalarFunction(call) => self.call(call, scope),
            Expr::InList(list) => self.in_list(list, scope),
            Expr::AggregateFunction(f) => {
                Err(Error::meaning(format!("the aggregate {} cannot stand here", f.func.name())))
            }
            Expr::WindowFunction(f) => {
                Err(Error::meaning(format!("the window function {} cannot stand here", f.fun.name())))
            }
            Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) | Expr::ScalarSubquery(_) => {
                Err(Error::unsupported("a subquery at this place"))
            }
            Expr::GroupingSet(_) => Err(Error::unsupported("grouping sets at this place")),
            Expr::Unnest(_) => Err(Error::unsupported("UNNEST")),
            Expr::ScalarVariable(_, names) => Err(Error::unsupported(format!("the variable {}", names.join(".")))),
            #[expect(deprecated, reason = "the variant is still there, so it is matched")]
            Expr::Wildcard { .. } => Err(Error::unsupported("* at this place")),
            Expr::HigherOrderFunction(_) | Expr::Lambda(_) | Expr::LambdaVariable(_) => {
                Err(Error::unsupported("lambda functions"))
            }
        }
    }

    /// An expression whose decimal precision does not matter: a cast that only widens it is left out.
    pub(crate) fn operand(&mut self, e: &Expr, scope: Scope<'_>) -> Result<ValueId> {
        if let Expr::Cast(cast) = e
            && let Some(S::Decimal { precision, scale }) = from_arrow(cast.field.data_type())
        {
            let inner = self.operand(&cast.expr, scope)?;
            return match self.row_type(inner).ty {
                S::Decimal { precision: p, scale: s } if s == scale && p <= precision => Ok(inner),
                _ => self.cast(inner, S::Decimal { precision, scale }),
            };
        }
        self.expr(e, scope)
    }

    /// The id of a column of this scope.
    pub(crate) fn column(&self, column: &Column, scope: Scope<'_>) -> Result<ColumnId> {
        match scope.schema.maybe_index_of_column(column) {
            Some(position) => Ok(scope.columns[position]),
            // The planner lets unknown names in ORDER BY pass.
            None => Err(unknown_column(column, &scope.schema.columns(), &self.lines)),
        }
    }

    fn outer_column(&self, column: &Column) -> Result<ColumnId> {
        let found = self.outer.iter().rev().find_map(|s| {
            let position = s.schema.maybe_index_of_column(column)?;
            Some(s.columns[position])
        });
        found.ok_or_else(|| Error::unsupported(format!("the outer column {} at this place", column.flat_name())))
    }

    /// An operation over scalars.
    pub(crate) fn op(&mut self, op: ScalarOp, operands: &[ValueId]) -> Result<ValueId> {
        self.b.scalar(op, operands).map_err(|e| match e {
            ir::Error::Type(message) => Error::meaning(message),
            other => other.into(),
        })
    }

    /// A constant.
    pub(crate) fn literal(&mut self, value: Value, ty: ScalarType) -> Result<ValueId> {
        Ok(self.b.literal(value, ty)?)
    }

    /// The type of a scalar value.
    pub(crate) fn row_type(&self, v: ValueId) -> RowType {
        match self.b.ty(v) {
            Type::Scalar(t) => *t,
            Type::Tensor(_) | Type::Table(_) | Type::Tape | Type::Acc(_) => unreachable!("an expression is a scalar"),
        }
    }

    /// A value in another type; constants are converted here where that is exact.
    pub(crate) fn cast(&mut self, v: ValueId, to: ScalarType) -> Result<ValueId> {
        let from = self.row_type(v).ty;
        if from == to {
            return Ok(v);
        }
        if let Some(constant) = self.constant(v)
            && let Some(converted) = convert(&constant, from, to)
        {
            return self.literal(converted, to);
        }
        self.op(ScalarOp::Cast(to), &[v]).map_err(|e| match e {
            Error::Meaning(_) => {
                Error::meaning(format!("{} cannot be cast to {}", sql_type_name(from), sql_type_name(to)))
            }
            other => other,
        })
    }

    fn target(&self, ty: &arrow::datatypes::DataType) -> Result<ScalarType> {
        from_arrow(ty).ok_or_else(|| Error::unsupported(format!("the type {ty}")))
    }

    /// The constant that a value is.
    pub(crate) fn constant(&self, v: ValueId) -> Option<Value> {
        match &self.b.program().node_of(v)?.op {
            Op::Literal(value, _) => Some(value.clone()),
            _ => None,
        }
    }

    fn unary(&mut self, op: ScalarOp, x: &Expr, scope: Scope<'_>) -> Result<ValueId> {
        let v = self.operand(x, scope)?;
        self.op(op, &[v])
    }

    /// `x IS TRUE` and its kind: never NULL.
    fn is_bool(&mut self, x: &Expr, wanted: bool, positive: bool, scope: Scope<'_>) -> Result<ValueId> {
        let v = self.expr(x, scope)?;
        let wanted = self.literal(Value::Bool(wanted), S::Bool)?;
        let op = if positive { ScalarOp::IsNotDistinct } else { ScalarOp::IsDistinct };
        self.op(op, &[v, wanted])
    }

    fn binary(&mut self, e: &BinaryExpr, scope: Scope<'_>) -> Result<ValueId> {
        use Operator as O;
        match e.op {
            O::Eq => self.compare_exprs(ScalarOp::Eq, e, scope),
            O::NotEq => self.compare_exprs(ScalarOp::Ne, e, scope),
            O::Lt => self.compare_exprs(ScalarOp::Lt, e, scope),
            O::LtEq => self.compare_exprs(ScalarOp::Le, e, scope),
            O::Gt => self.compare_exprs(ScalarOp::Gt, e, scope),
            O::GtEq => self.compare_exprs(ScalarOp::Ge, e, scope),
            O::IsDistinctFrom => self.compare_exprs(ScalarOp::IsDistinct, e, scope),
            O::IsNotDistinctFrom => self.compare_exprs(ScalarOp::IsNotDistinct, e, scope),
            O::And => self.logic(ScalarOp::And, e, scope),
            O::Or => self.logic(ScalarOp::Or, e, scope),
            O::Plus | O::Minus if is_interval(&e.left, scope) || is_interval(&e.right, scope) => {
                self.plus_interval(e, scope)
            }
            O::Plus => self.arithmetic(ScalarOp::Add, e, scope),
            O::Minus => self.arithmetic(ScalarOp::Sub, e, scope),
            O::Multiply => self.arithmetic(ScalarOp::Mul, e, scope),
            O::Divide => self.arithmetic(ScalarOp::Div, e, scope),
            O::Modulo => self.arithmetic(ScalarOp::Rem, e, scope),
            O::StringConcat => {
                let (a, b) = (self.expr(&e.left, scope)?, self.expr(&e.right, scope)?);
                let (a, b) = (self.cast(a, S::Text)?, self.cast(b, S::Text)?);
                self.op(ScalarOp::Concat, &[a, b])
            }
            O::RegexMatch => self.text_test(ScalarOp::RegexMatch, false, e, scope),
            O::RegexNotMatch => self.text_test(ScalarOp::RegexMatch, true, e, scope),
            O::LikeMatch => self.text_test(ScalarOp::Like, false, e, scope),
            O::NotLikeMatch => self.text_test(ScalarOp::Like, true, e, scope),
            O::ILikeMatch => self.text_test(ScalarOp::ILike, false, e, scope),
            O::NotILikeMatch => self.text_test(ScalarOp::ILike, true, e, scope),
            O::RegexIMatch => self.ignoring_case(false, e, scope),
            O::RegexNotIMatch => self.ignoring_case(true, e, scope),
            O::BitwiseAnd => self.arithmetic(ScalarOp::BitAnd, e, scope),
            O::BitwiseOr => self.arithmetic(ScalarOp::BitOr, e, scope),
            O::BitwiseXor => self.arithmetic(ScalarOp::BitXor, e, scope),
            O::BitwiseShiftRight => self.arithmetic(ScalarOp::ShiftRight, e, scope),
            O::BitwiseShiftLeft => self.arithmetic(ScalarOp::ShiftLeft, e, scope),
            O::AtArrow
            | O::ArrowAt
            | O::Arrow
            | O::LongArrow
            | O::HashArrow
            | O::HashLongArrow
            | O::AtAt
            | O::IntegerDivide
            | O::HashMinus
            | O::AtQuestion
            | O::Question
            | O::QuestionAnd
            | O::QuestionPipe
            | O::Colon => Err(Error::unsupported(format!("the operator {}", e.op))),
        }
    }

    fn compare_exprs(&mut self, op: ScalarOp, e: &BinaryExpr, scope: Scope<'_>) -> Result<ValueId> {
        let (a, b) = (self.operand(&e.left, scope)?, self.operand(&e.right, scope)?);
        self.compare(op, a, b)
    }

    /// A comparison of two values of any types that have a common one.
    pub(crate) fn compare(&mut self, op: ScalarOp, a: ValueId, b: ValueId) -> Result<ValueId> {
        let (a, b) = self.without_cast(a, b)?;
        let (b, a) = self.without_cast(b, a)?;
        let (ta, tb) = (self.row_type(a).ty, self.row_type(b).ty);
        let same_scale = matches!((ta, tb), (S::Decimal { scale: x, .. }, S::Decimal { scale: y, .. }) if x == y);
        if ta == tb || same_scale {
            return self.op(op, &[a, b]);
        }
        let common = common_type(ta, tb).ok_or_else(|| {
            Error::meaning(format!("{} and {} cannot be compared", sql_type_name(ta), sql_type_name(tb)))
        })?;
        let (a, b) = (self.cast(a, common)?, self.cast(b, common)?);
        self.op(op, &[a, b])
    }

    /// `cast(x)` beside a constant of `x`'s own range is `x` beside that constant.
    fn without_cast(&mut self, v: ValueId, other: ValueId) -> Result<(ValueId, ValueId)> {
        let Some(constant) = self.constant(other) else { return Ok((v, other)) };
        let Some(node) = self.b.program().node_of(v) else { return Ok((v, other)) };
        let Op::Scalar(ScalarOp::Cast(_)) = node.op else { return Ok((v, other)) };
        let inner = node.operands[0];
        let (from, to) = (self.row_type(inner).ty, self.row_type(v).ty);
        let widening = match (from, to) {
            (S::I32, S::I64) => true,
            (S::Decimal { precision: p, scale: s }, S::Decimal { precision, scale }) => {
                s <= scale && p - s <= precision - scale
            }
            _ => false,
        };
        match convert(&constant, self.row_type(other).ty, from) {
            Some(narrow) if widening => Ok((inner, self.literal(narrow, from)?)),
            _ => Ok((v, other)),
        }
    }

    /// `AND` and `OR`. The right side is evaluated only where the left one does not decide, if it can raise.
    fn logic(&mut self, op: ScalarOp, e: &BinaryExpr, scope: Scope<'_>) -> Result<ValueId> {
        // Long chains lean to the left: walk down the spine instead of recursing.
        let mut spine = vec![&*e.right];
        let mut left = &*e.left;
        while let Expr::BinaryExpr(inner) = left
            && inner.op == e.op
        {
            spine.push(&inner.right);
            left = &inner.left;
        }
        let mut value = self.bool_expr(left, scope)?;
        for right in spine.into_iter().rev() {
            value = self.logic_with(op, value, right, scope)?;
        }
        Ok(value)
    }

    /// `value op right`, where `right` is not evaluated where `value` decides, if it can raise.
    pub(crate) fn logic_with(
        &mut self,
        op: ScalarOp,
        value: ValueId,
        right: &Expr,
        scope: Scope<'_>,
    ) -> Result<ValueId> {
        if !is_plain(right, scope.schema) {
            return self.guarded(op, value, right, scope);
        }
        let right = self.bool_expr(right, scope)?;
        self.op(op, &[value, right])
    }

    fn bool_expr(&mut self, e: &Expr, scope: Scope<'_>) -> Result<ValueId> {
        let v = self.expr(e, scope)?;
        self.cast(v, S::Bool)
    }

    fn guarded(&mut self, op: ScalarOp, value: ValueId, right: &Expr, scope: Scope<'_>) -> Result<ValueId> {
        let decides = self.literal(Value::Bool(op == ScalarOp::Or), S::Bool)?;
        let open = self.op(ScalarOp::IsDistinct, &[value, decides])?;
        self.b.begin_region(&[], vec![]);
        let right = self.bool_expr(right, scope)?;
        let both = self.op(op, &[value, right])?;
        let evaluated = self.b.end_region(&[both]);
        self.b.begin_region(&[], vec![]);
        let decided = self.b.end_region(&[value]);
        self.if_regions(open, evaluated, decided)
    }

    /// An `if` over two regions that yield one value each.
    pub(crate) fn if_regions(
        &mut self,
        condition: ValueId,
        then: ir::entity::RegionId,
        other: ir::entity::RegionId,
    ) -> Result<ValueId> {
        Ok(self.b.push1(Op::Control(ir::graph::ControlOp::If), &[condition], &[then, other])?)
    }

    fn arithmetic(&mut self, op: ScalarOp, e: &BinaryExpr, scope: Scope<'_>) -> Result<ValueId> {
        let (a, b) = (self.operand(&e.left, scope)?, self.operand(&e.right, scope)?);
        let (ta, tb) = (self.row_type(a).ty, self.row_type(b).ty);
        let decimals = matches!((ta, tb), (S::Decimal { .. }, S::Decimal { .. }));
        if decimals && op == ScalarOp::Div {
            let (a, b) = (self.cast(a, S::F64)?, self.cast(b, S::F64)?);
            return self.op(op, &[a, b]);
        }
        if decimals || ta == tb {
            return self.op(op, &[a, b]);
        }
        let common = common_type(ta, tb).filter(|t| t.is_numeric()).ok_or_else(|| {
            Error::meaning(format!("{} is not defined for {} and {}", e.op, sql_type_name(ta), sql_type_name(tb)))
        })?;
        let (a, b) = (self.cast(a, common)?, self.cast(b, common)?);
        self.op(op, &[a, b])
    }

    /// A date or a timestamp and a constant interval: months first, then days, then the rest.
    fn plus_interval(&mut self, e: &BinaryExpr, scope: Scope<'_>) -> Result<ValueId> {
        let minus = e.op == Operator::Minus;
        let (time, interval) = if is_interval(&e.right, scope) { (&e.left, &e.right) } else { (&e.right, &e.left) };
        if is_interval(time, scope) {
            return Err(Error::unsupported("arithmetic on intervals"));
        }
        let (mut months, mut days, mut micros) = interval_of(interval)
            .ok_or_else(|| Error::unsupported("an interval that is not a constant; use add_days or add_months"))?;
        if minus {
            let negated = || Some((months.checked_neg()?, days.checked_neg()?, micros.checked_neg()?));
            (months, days, micros) = negated().ok_or_else(|| Error::meaning("interval out of range"))?;
        }
        let mut v = self.expr(time, scope)?;
        if months != 0 {
            let n = self.literal(Value::I32(months), S::I32)?;
            v = self.op(ScalarOp::AddMonths, &[v, n])?;
        }
        if days != 0 {
            let n = self.literal(Value::I32(days), S::I32)?;
            v = self.op(ScalarOp::AddDays, &[v, n])?;
        }
        if micros != 0 {
            v = self.cast(v, S::Timestamp)?;
            let n = self.literal(Value::I64(micros), S::I64)?;
            v = self.op(ScalarOp::AddMicros, &[v, n])?;
        }
        Ok(v)
    }

    fn text_test(&mut self, op: ScalarOp, negated: bool, e: &BinaryExpr, scope: Scope<'_>) -> Result<ValueId> {
        let (a, b) = (self.expr(&e.left, scope)?, self.expr(&e.right, scope)?);
        let v = self.op(op, &[a, b])?;
        if negated { self.op(ScalarOp::Not, &[v]) } else { Ok(v) }
    }

    /// `~*`: a regular expression without regard to case.
    fn ignoring_case(&mut self, negated: bool, e: &BinaryExpr, scope: Scope<'_>) -> Result<ValueId> {
        let (text, pattern) = (self.expr(&e.left, scope)?, self.expr(&e.right, scope)?);
        let ignore = self.literal(Value::Text("(?i)".into()), S::Text)?;
        let pattern = self.op(ScalarOp::Concat, &[ignore, pattern])?;
        let v = self.op(ScalarOp::RegexMatch, &[text, pattern])?;
        if negated { self.op(ScalarOp::Not, &[v]) } else { Ok(v) }
    }

    fn like(&mut self, e: &Like, scope: Scope<'_>) -> Result<ValueId> {
        let text = self.expr(&e.expr, scope)?;
        let text = self.cast(text, S::Text)?;
        let mut pattern = self.expr(&e.pattern, scope)?;
        if let Some(escape) = e.escape_char.filter(|c| *c != '\\') {
            let Some(Value::Text(p)) = self.constant(pattern) else {
                return Err(Error::unsupported("LIKE ... ESCAPE with a pattern that is not a constant"));
            };
            pattern = self.literal(Value::Text(with_backslashes(&p, escape).into()), S::Text)?;
        }
        let pattern = self.cast(pattern, S::Text)?;
        let op = if e.case_insensitive { ScalarOp::ILike } else { ScalarOp::Like };
        let v = self.op(op, &[text, pattern])?;
        if e.negated { self.op(ScalarOp::Not, &[v]) } else { Ok(v) }
    }

    fn between(&mut self, e: &Between, scope: Scope<'_>) -> Result<ValueId> {
        let v = self.operand(&e.expr, scope)?;
        let (low, high) = (self.operand(&e.low, scope)?, self.operand(&e.high, scope)?);
        let above = self.compare(ScalarOp::Ge, v, low)?;
        let below = self.compare(ScalarOp::Le, v, high)?;
        let both = self.op(ScalarOp::And, &[above, below])?;
        if e.negated { self.op(ScalarOp::Not, &[both]) } else { Ok(both) }
    }

    fn in_list(&mut self, e: &InList, scope: Scope<'_>) -> Result<ValueId> {
        let v = self.operand(&e.expr, scope)?;
        let mut any = None;
        for item in &e.list {
            let item = self.operand(item, scope)?;
            let equal = self.compare(ScalarOp::Eq, v, item)?;
            any = Some(match any {
                None => equal,
                Some(before) => self.op(ScalarOp::Or, &[before, equal])?,
            });
        }
        let any = match any {
            Some(any) => any,
            None => self.literal(Value::Bool(false), S::Bool)?,
        };
        if e.negated { self.op(ScalarOp::Not, &[any]) } else { Ok(any) }
    }

    fn case(&mut self, case: &Case, e: &Expr, scope: Scope<'_>) -> Result<ValueId> {
        let ty = e.get_type(scope.schema).ok().and_then(|t| from_arrow(&t)).unwrap_or(S::Text);
        let operand = case.expr.as_ref().map(|x| self.operand(x, scope)).transpose()?;
        self.case_from(case, 0, operand, ty, scope)
    }

    fn case_from(
        &mut self,
        case: &Case,
        i: usize,
        operand: Option<ValueId>,
        ty: ScalarType,
        scope: Scope<'_>,
    ) -> Result<ValueId> {
        let Some((when, then)) = case.when_then_expr.get(i) else {
            return match &case.else_expr {
                Some(other) => {
                    let v = self.expr(other, scope)?;
                    self.cast(v, ty)
                }
                None => self.literal(Value::Null, ty),
            };
        };
        let mut condition = self.operand(when, scope)?;
        if let Some(operand) = operand {
            condition = self.compare(ScalarOp::Eq, operand, condition)?;
        }
        let condition = self.cast(condition, S::Bool)?;
        let rest = case.when_then_expr[i + 1..].iter().flat_map(|(w, t)| [w, t]).chain(&case.else_expr);
        if is_plain(then, scope.schema) && rest.into_iter().all(|e| is_plain(e, scope.schema)) {
            let then = self.expr(then, scope)?;
            let then = self.cast(then, ty)?;
            let other = self.case_from(case, i + 1, operand, ty, scope)?;
            return self.op(ScalarOp::Select, &[condition, then, other]);
        }
        self.b.begin_region(&[], vec![]);
        let then = self.expr(then, scope)?;
        let then = self.cast(then, ty)?;
        let then = self.b.end_region(&[then]);
        self.b.begin_region(&[], vec![]);
        let other = self.case_from(case, i + 1, operand, ty, scope)?;
        let other = self.b.end_region(&[other]);
        self.if_regions(condition, then, other)
    }

    fn call(&mut self, call: &ScalarFunction, scope: Scope<'_>) -> Result<ValueId> {
        let implementation: &dyn std::any::Any = call.func.inner().as_ref();
        let Some(stub) = implementation.downcast_ref::<ScalarStub>() else {
            return Err(Error::unsupported(format!("the function {} at this place", call.func.name())));
        };
        let f = &SCALARS[stub.row];
        let given: Vec<Option<ScalarType>> =
            call.args.iter().map(|a| a.get_type(scope.schema).ok().and_then(|t| from_arrow(&t))).collect();
        let types = f.cast_to(&given)?;
        let mut call = Call { importer: self, scope, args: &call.args, types, name: f.names[0] };
        match &f.make {
            Make::Op(op) => call.op_all(*op),
            Make::Build { build, .. } => build(&mut call),
        }
    }

    /// The place of an expression, for errors at run time.
    fn place_of(&mut self, e: &Expr) -> Option<PlaceId> {
        let (span, small) = span_in(e);
        let span = span.and_then(|s| span_of(s, &self.lines));
        let mut text = Short(String::new());
        if small {
            // Writing fails where the text is long enough.
            let _ = write!(text, "{}", Sql(e));
        } else {
            text.0.push_str("a long expression");
        }
        let span = span.and_then(|s| Some((u32::try_from(s.start).ok()?, u32::try_from(s.end).ok()?)));
        Some(self.b.program_mut().new_place(text.0, span))
    }
}

/// Text that takes no more than it may.
struct Short(String);

impl Write for Short {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.0.push_str(s);
        if self.0.len() <= MAX_PLACE_TEXT {
            return Ok(());
        }
        let end = (0..=MAX_PLACE_TEXT).rev().find(|i| self.0.is_char_boundary(*i)).unwrap_or(0);
        self.0.truncate(end);
        self.0.push('…');
        Err(fmt::Error)
    }
}

/// An expression as SQL, with the parentheses that it needs.
struct Sql<'e>(&'e Expr);

impl fmt::Display for Sql<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operand = |f: &mut fmt::Formatter<'_>, e: &Expr| match e {
            Expr::BinaryExpr(_) | Expr::Between(_) | Expr::Like(_) | Expr::InList(_) => write!(f, "({})", Sql(e)),
            e => write!(f, "{}", Sql(e)),
        };
        match self.0 {
            Expr::BinaryExpr(e) => {
                operand(f, &e.left)?;
                write!(f, " {} ", e.op)?;
                operand(f, &e.right)
            }
            Expr::Column(c) | Expr::OuterReferenceColumn(_, c) => f.write_str(&c.name),
            Expr::Alias(alias) => write!(f, "{}", Sql(&alias.expr)),
            Expr::Negative(x) => {
                f.write_str("-")?;
                operand(f, x)
            }
            Expr::Cast(cast) => match from_arrow(cast.field.data_type()) {
                Some(ty) => write!(f, "CAST({} AS {})", Sql(&cast.expr), sql_type_name(ty)),
                None => write!(f, "{}", Sql(&cast.expr)),
            },
            Expr::ScalarFunction(call) => {
                write!(f, "{}(", call.func.name())?;
                for (i, arg) in call.args.iter().enumerate() {
                    write!(f, "{}{}", if i > 0 { ", " } else { "" }, Sql(arg))?;
                }
                f.write_str(")")
            }
            Expr::Literal(ScalarValue::Utf8(Some(text)), _) => write!(f, "'{}'", text.replace('\'', "''")),
            other => write!(f, "{}", other.human_display()),
        }
    }
}

/// Whether an expression is an operation that can raise.
fn has_place(e: &Expr) -> bool {
    match e {
        Expr::BinaryExpr(e) => {
            matches!(e.op, Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo)
        }
        Expr::Cast(cast) => !matches!(cast.expr.as_ref(), Expr::Literal(..)),
        Expr::ScalarFunction(_) | Expr::Negative(_) => true,
        _ => false,
    }
}

/// The span of the columns in an expression, and whether that was all of it: of a long one only the beginning is looked at.
fn span_in(e: &Expr) -> (Option<datafusion_common::Span>, bool) {
    use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
    let mut all: Option<datafusion_common::Span> = None;
    let mut nodes = 0;
    // The closure never fails.
    let _ = e.apply(|e| {
        if let Expr::Column(column) | Expr::OuterReferenceColumn(_, column) = e
            && let Some(span) = column.spans.first()
        {
            all = Some(all.map_or(span, |a| a.union(&span)));
        }
        nodes += 1;
        Ok(if nodes < MAX_PLACE_NODES { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    (all, nodes < MAX_PLACE_NODES)
}

/// Whether an expression may be evaluated for rows that do not use it: cheap, and it never raises.
pub(crate) fn is_plain(e: &Expr, schema: &DFSchema) -> bool {
    let plain = |e: &Expr| is_plain(e, schema);
    match e {
        Expr::Literal(..) | Expr::Column(_) | Expr::OuterReferenceColumn(..) | Expr::Placeholder(_) => true,
        Expr::Alias(alias) => plain(&alias.expr),
        Expr::Not(x)
        | Expr::IsNull(x)
        | Expr::IsNotNull(x)
        | Expr::IsTrue(x)
        | Expr::IsFalse(x)
        | Expr::IsNotTrue(x)
        | Expr::IsNotFalse(x)
        | Expr::IsUnknown(x)
        | Expr::IsNotUnknown(x) => plain(x),
        Expr::BinaryExpr(e) => {
            let arithmetic = matches!(
                e.op,
                Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo
            );
            let logic = matches!(
                e.op,
                Operator::Eq
                    | Operator::NotEq
                    | Operator::Lt
                    | Operator::LtEq
                    | Operator::Gt
                    | Operator::GtEq
                    | Operator::And
                    | Operator::Or
                    | Operator::IsDistinctFrom
                    | Operator::IsNotDistinctFrom
                    | Operator::LikeMatch
                    | Operator::NotLikeMatch
            );
            let float = || e.left.get_type(schema).is_ok_and(|t| t.is_floating());
            (logic || (arithmetic && float())) && plain(&e.left) && plain(&e.right)
        }
        Expr::Like(like) => plain(&like.expr) && plain(&like.pattern),
        Expr::Between(b) => plain(&b.expr) && plain(&b.low) && plain(&b.high),
        Expr::InList(list) => plain(&list.expr) && list.list.iter().all(plain),
        Expr::Cast(cast) => {
            let literal = matches!(cast.expr.as_ref(), Expr::Literal(..));
            let from = cast.expr.get_type(schema).ok().and_then(|t| from_arrow(&t));
            let to = from_arrow(cast.field.data_type());
            let safe = match (from, to) {
                (None, Some(_)) => literal,
                (Some(S::I32), Some(S::I64)) => true,
                (Some(S::Decimal { precision: p, scale: s }), Some(S::Decimal { precision, scale })) => {
                    s <= scale && p - s <= precision - scale
                }
                (Some(S::I32), Some(S::Decimal { precision, scale })) => precision - scale >= 10,
                (Some(S::I64), Some(S::Decimal { precision, scale })) => precision - scale >= 19,
                (Some(from), Some(S::F32 | S::F64)) => from.is_numeric(),
                (from, to) => from == to,
            };
            safe && plain(&cast.expr)
        }
        Expr::Case(case) => {
            case.expr.iter().all(|e| plain(e))
                && case.when_then_expr.iter().all(|(w, t)| plain(w) && plain(t))
                && case.else_expr.iter().all(|e| plain(e))
        }
        _ => false,
    }
}

fn is_interval(e: &Expr, scope: Scope<'_>) -> bool {
    matches!(e.get_type(scope.schema), Ok(arrow::datatypes::DataType::Interval(_)))
}

/// Months, days and microseconds of a constant interval.
fn interval_of(e: &Expr) -> Option<(i32, i32, i64)> {
    match e {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(i)), _) => {
            (i.nanoseconds % 1000 == 0).then_some((i.months, i.days, i.nanoseconds / 1000))
        }
        Expr::Literal(ScalarValue::IntervalYearMonth(Some(months)), _) => Some((*months, 0, 0)),
        Expr::Literal(ScalarValue::IntervalDayTime(Some(i)), _) => Some((0, i.days, i64::from(i.milliseconds) * 1000)),
        Expr::Cast(cast) => interval_of(&cast.expr),
        Expr::Negative(x) => {
            let (months, days, micros) = interval_of(x)?;
            Some((months.checked_neg()?, days.checked_neg()?, micros.checked_neg()?))
        }
        _ => None,
    }
}

/// A `LIKE` pattern with another escape character, as one with backslashes.
fn with_backslashes(pattern: &str, escape: char) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c == escape {
            if let Some(next) = chars.next() {
                out.push('\\');
                out.push(next);
            }
        } else {
            if c == '\\' {
                out.push('\\');
            }
            out.push(c);
        }
    }
    out
}

/// A constant of ours; `None` where there is no type for it.
pub(crate) fn constant_of(literal: &ScalarValue) -> Option<Value> {
    literal_of(literal).ok().map(|(value, _)| value)
}

/// A constant and its type.
pub(crate) fn literal_of(literal: &ScalarValue) -> Result<(Value, ScalarType)> {
    let or_null = |v: Option<Value>| v.unwrap_or(Value::Null);
    Ok(match literal {
        ScalarValue::Null => (Value::Null, S::Text),
        ScalarValue::Boolean(v) => (or_null(v.map(Value::Bool)), S::Bool),
        ScalarValue::Int8(v) => (or_null(v.map(|v| Value::I32(v.into()))), S::I32),
        ScalarValue::Int16(v) => (or_null(v.map(|v| Value::I32(v.into()))), S::I32),
        ScalarValue::Int32(v) => (or_null(v.map(Value::I32)), S::I32),
        ScalarValue::Int64(v) => (or_null(v.map(Value::I64)), S::I64),
        ScalarValue::UInt8(v) => (or_null(v.map(|v| Value::I32(v.into()))), S::I32),
        ScalarValue::UInt16(v) => (or_null(v.map(|v| Value::I32(v.into()))), S::I32),
        ScalarValue::UInt32(v) => (or_null(v.map(|v| Value::I64(v.into()))), S::I64),
        ScalarValue::UInt64(v) => match v.map(i64::try_from) {
            None => (Value::Null, S::I64),
            Some(Ok(v)) => (Value::I64(v), S::I64),
            Some(Err(_)) => {
                let wide = v.map(|v| Value::Decimal(v.into()));
                (or_null(wide), S::Decimal { precision: 20, scale: 0 })
            }
        },
        ScalarValue::Float32(v) => (or_null(v.map(Value::F32)), S::F32),
        ScalarValue::Float64(v) => (or_null(v.map(Value::F64)), S::F64),
        ScalarValue::Decimal128(v, precision, scale) => {
            let scale = u8::try_from(*scale).map_err(|_| Error::unsupported("a decimal with a negative scale"))?;
            let precision = (*precision).max(scale).max(1);
            (or_null(v.map(Value::Decimal)), S::Decimal { precision, scale })
        }
        ScalarValue::Date32(v) => (or_null(v.map(Value::Date)), S::Date),
        ScalarValue::TimestampSecond(v, _) => {
            (or_null(v.and_then(|v| v.checked_mul(1_000_000)).map(Value::Timestamp)), S::Timestamp)
        }
        ScalarValue::TimestampMillisecond(v, _) => {
            (or_null(v.and_then(|v| v.checked_mul(1000)).map(Value::Timestamp)), S::Timestamp)
        }
        ScalarValue::TimestampMicrosecond(v, _) => (or_null(v.map(Value::Timestamp)), S::Timestamp),
        ScalarValue::TimestampNanosecond(v, _) => {
            (or_null(v.map(|v| Value::Timestamp(v.div_euclid(1000)))), S::Timestamp)
        }
        ScalarValue::Utf8(v) | ScalarValue::LargeUtf8(v) | ScalarValue::Utf8View(v) => {
            (or_null(v.as_deref().map(|v| Value::Text(v.into()))), S::Text)
        }
        ScalarValue::IntervalMonthDayNano(_) | ScalarValue::IntervalDayTime(_) | ScalarValue::IntervalYearMonth(_) => {
            return Err(Error::unsupported("an interval outside of date arithmetic"));
        }
        ScalarValue::Decimal256(..) => return Err(Error::unsupported("a number of more than 38 digits")),
        other => return Err(Error::unsupported(format!("a constant of the type {}", other.data_type()))),
    })
}

/// A constant in another type, where that is exact and needs no rule of the engine's.
pub(crate) fn convert(value: &Value, from: ScalarType, to: ScalarType) -> Option<Value> {
    if value.is_null() {
        return Some(Value::Null);
    }
    let integer = match value {
        Value::I32(v) => Some(i128::from(*v)),
        Value::I64(v) => Some(i128::from(*v)),
        _ => None,
    };
    match (value, from, to) {
        _ if from == to => Some(value.clone()),
        (Value::I32(_) | Value::I64(_), _, S::I32) => i32::try_from(integer?).ok().map(Value::I32),
        (Value::I32(_) | Value::I64(_), _, S::I64) => i64::try_from(integer?).ok().map(Value::I64),
        (Value::I32(v), _, S::F64) => Some(Value::F64(f64::from(*v))),
        (Value::I64(v), _, S::F64) if v.unsigned_abs() <= 1 << 53 => Some(Value::F64(*v as f64)),
        (Value::I32(_) | Value::I64(_), _, S::F32) if integer?.unsigned_abs() <= 1 << 24 => {
            Some(Value::F32(integer? as f32))
        }
        (Value::F32(v), _, S::F64) => Some(Value::F64(f64::from(*v))),
        (Value::I32(_) | Value::I64(_), _, S::Decimal { precision, scale }) => rescale(integer?, 0, precision, scale),
        (Value::Decimal(v), S::Decimal { scale: from, .. }, S::Decimal { precision, scale }) => {
            rescale(*v, from, precision, scale)
        }
        // At most 15 digits and a power of ten below 10^23 are both exact, so the quotient is the nearest double.
        (Value::Decimal(v), S::Decimal { scale, .. }, S::F64) if v.unsigned_abs() < 1 << 53 && scale <= 22 => {
            Some(Value::F64(*v as f64 / 10f64.powi(scale.into())))
        }
        (Value::Text(t), _, S::F64) => t.trim().parse().ok().map(Value::F64),
        (Value::Text(t), _, S::Date) => parse_date(t).map(Value::Date),
        (Value::Text(t), _, S::Timestamp) => runtime::kernels::date::parse_timestamp(t).map(Value::Timestamp),
        _ => None,
    }
}

fn rescale(v: i128, from: u8, precision: u8, scale: u8) -> Option<Value> {
    let v = if scale >= from {
        v.checked_mul(10i128.checked_pow(u32::from(scale - from))?)?
    } else {
        let factor = 10i128.checked_pow(u32::from(from - scale))?;
        if v % factor != 0 {
            return None;
        }
        v / factor
    };
    (v.unsigned_abs() < 10u128.checked_pow(precision.into())?).then_some(Value::Decimal(v))
}

/// Days since 1970-01-01 of `YYYY-MM-DD` (Howard Hinnant, "chrono-compatible low-level date algorithms").
pub(crate) fn parse_date(text: &str) -> Option<i32> {
    let mut parts = text.trim().split('-');
    let (y, m, d) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || y.len() != 4 || m.len() != 2 || d.len() != 2 {
        return None;
    }
    let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<i32>().ok()).flatten();
    let (y, m, d) = (number(y)?, number(m)?, number(d)?);
    let leap = y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    let days = match m {
        2 => 28 + i32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days).contains(&d) {
        return None;
    }
    let y = if m <= 2 { y - 1 } else { y };
    let era = y.div_euclid(400);
    let year_of_era = y - era * 400;
    let day_of_year = (153 * ((m + 9) % 12) + 2) / 5 + d - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}
