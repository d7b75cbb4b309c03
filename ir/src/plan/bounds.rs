//! What the tables at hand prove about values of a program: bounds of columns, numbers of rows, keys.
//!
//! What holds:
//! - Bounds come from exact statistics of the columns that the code is made for (an executable refuses to run on others), from the
//!   values of literals and from types. They are never estimates.
//! - A column's bounds hold for its values that are not NULL.
//! - `None` is "nothing is proven".

use std::collections::{BTreeSet, HashMap};

use runtime::column::{Bound, ColumnStats};

use super::split::{InputInfo, conjuncts, value_columns};
use crate::entity::{ColumnId, InputId, ValueId};
use crate::graph::rel::JoinKind;
use crate::graph::{BridgeOp, Op, Program, RelOp};
use crate::scalar::ScalarOp;
use crate::types::ScalarType;
use crate::value::Value;

/// Least and greatest value, where they are proven: integers, dates, timestamps, booleans, unscaled decimals.
pub(crate) type Range = Option<(i128, i128)>;

/// Bounds of a sum, a difference or a product.
pub(crate) fn arithmetic_range(op: ScalarOp, a: Range, b: Range) -> Range {
    let (a, b) = (a?, b?);
    match op {
        ScalarOp::Add => Some((a.0.checked_add(b.0)?, a.1.checked_add(b.1)?)),
        ScalarOp::Sub => Some((a.0.checked_sub(b.1)?, a.1.checked_sub(b.0)?)),
        ScalarOp::Mul => {
            let all = [a.0.checked_mul(b.0)?, a.0.checked_mul(b.1)?, a.1.checked_mul(b.0)?, a.1.checked_mul(b.1)?];
            Some((*all.iter().min()?, *all.iter().max()?))
        }
        _ => None,
    }
}

/// Bounds that a type gives.
pub(crate) fn type_range(ty: ScalarType) -> Range {
    match ty {
        ScalarType::Decimal { precision, .. } => {
            let limit = 10i128.checked_pow(u32::from(precision))?;
            Some((1 - limit, limit - 1))
        }
        ScalarType::I32 | ScalarType::Date => Some((i128::from(i32::MIN), i128::from(i32::MAX))),
        ScalarType::I64 | ScalarType::Timestamp => Some((i128::from(i64::MIN), i128::from(i64::MAX))),
        ScalarType::Bool => Some((0, 1)),
        _ => None,
    }
}

/// Bounds of a scanned column.
pub(crate) fn stats_range(stats: &ColumnStats) -> Range {
    match (&stats.min, &stats.max) {
        (Some(Bound::Int(min)), Some(Bound::Int(max))) => Some((*min, *max)),
        _ => None,
    }
}

/// Both bounds' hull.
fn hull(a: Range, b: Range) -> Range {
    let (a, b) = (a?, b?);
    Some((a.0.min(b.0), a.1.max(b.1)))
}

/// Where a column comes from.
#[derive(Clone, Copy)]
enum Origin {
    Scan(InputId, u32),
    Value(ValueId),
}

/// Proofs over one program and its tables.
pub(crate) struct Bounds<'a> {
    p: &'a Program,
    info: &'a dyn InputInfo,
    origins: HashMap<ColumnId, Origin>,
    values: HashMap<ValueId, Range>,
}

impl<'a> Bounds<'a> {
    pub(crate) fn new(p: &'a Program, info: &'a dyn InputInfo) -> Self {
        let mut origins = HashMap::new();
        for node in &p.nodes {
            match &node.op {
                Op::Rel(RelOp::Scan { input, columns }) => {
                    origins.extend(columns.iter().map(|c| (c.id, Origin::Scan(*input, c.source))));
                }
                Op::Rel(RelOp::Extend { columns }) => {
                    let results = &p.region(node.regions[0]).results;
                    origins.extend(columns.iter().zip(results).map(|(c, v)| (*c, Origin::Value(*v))));
                }
                _ => {}
            }
        }
        Self { p, info, origins, values: HashMap::new() }
    }

    /// Bounds of a column's values.
    pub(crate) fn column(&mut self, id: ColumnId) -> Range {
        let by_type = type_range(self.p.columns[id.index()].ty);
        match self.origins.get(&id).copied() {
            Some(Origin::Scan(input, source)) => self.info.stats(input, source).and_then(stats_range).or(by_type),
            Some(Origin::Value(v)) => self.value(v),
            None => by_type,
        }
    }

    /// Bounds of a row expression's value.
    pub(crate) fn value(&mut self, v: ValueId) -> Range {
        if let Some(range) = self.values.get(&v) {
            return *range;
        }
        let range = self.expression(v);
        self.values.insert(v, range);
        range
    }

    fn expression(&mut self, v: ValueId) -> Range {
        let p = self.p;
        let ty = p.ty(v).as_scalar()?.ty;
        let by_type = type_range(ty);
        let Some(node) = p.node_of(v) else { return by_type };
        let scale = |ty: ScalarType| if let ScalarType::Decimal { scale, .. } = ty { scale } else { 0 };
        // An operand's bounds at the result's scale.
        let operand = |s: &mut Self, i: usize, rescale: bool| {
            let o = node.operands[i];
            let range = s.value(o);
            let from = scale(p.ty(o).as_scalar()?.ty);
            match scale(ty).checked_sub(from) {
                _ if !rescale => range,
                Some(up) => {
                    let factor = 10i128.checked_pow(u32::from(up))?;
                    arithmetic_range(ScalarOp::Mul, range, Some((factor, factor)))
                }
                None => None,
            }
        };
        let exact = ty.is_integer() || matches!(ty, ScalarType::Decimal { .. });
        let known = match &node.op {
            Op::Literal(value, _) => match value {
                Value::Bool(x) => Some((i128::from(*x), i128::from(*x))),
                Value::I32(x) | Value::Date(x) => Some((i128::from(*x), i128::from(*x))),
                Value::I64(x) | Value::Timestamp(x) => Some((i128::from(*x), i128::from(*x))),
                Value::Decimal(x) => Some((*x, *x)),
                // No value that is not NULL.
                Value::Null => by_type.map(|_| (0, 0)),
                Value::F32(_) | Value::F64(_) | Value::Text(_) => None,
            },
            Op::Col(id) => self.column(*id),
            Op::Scalar(op @ (ScalarOp::Add | ScalarOp::Sub)) if exact => {
                let (a, b) = (operand(self, 0, true), operand(self, 1, true));
                arithmetic_range(*op, a, b)
            }
            Op::Scalar(op @ ScalarOp::Mul) if exact => {
                let of = |i: usize| p.ty(node.operands[i]).as_scalar().map(|t| u32::from(scale(t.ty)));
                let whole = of(0)? + of(1)? == u32::from(scale(ty));
                let (a, b) = (operand(self, 0, false), operand(self, 1, false));
                if whole { arithmetic_range(*op, a, b) } else { None }
            }
            Op::Scalar(ScalarOp::Neg) if exact => arithmetic_range(ScalarOp::Sub, Some((0, 0)), operand(self, 0, true)),
            Op::Scalar(ScalarOp::Cast(_)) if exact => {
                let from = p.ty(node.operands[0]).as_scalar()?.ty;
                let whole = from.is_integer() || matches!(from, ScalarType::Decimal { .. } | ScalarType::Bool);
                if whole { operand(self, 0, true) } else { None }
            }
            Op::Scalar(ScalarOp::Coalesce) => hull(operand(self, 0, true), operand(self, 1, true)),
            Op::Scalar(ScalarOp::Select) => hull(operand(self, 1, true), operand(self, 2, true)),
            Op::Scalar(ScalarOp::NullIfTrue) => operand(self, 0, true),
            Op::Control(crate::graph::ControlOp::If) => {
                let index = node.results.iter().position(|r| *r == v)?;
                let results = [node.regions[0], node.regions[1]].map(|r| p.region(r).results[index]);
                hull(self.value(results[0]), self.value(results[1]))
            }
            _ => None,
        };
        // What left its type raised.
        match (known, by_type) {
            (Some(k), Some(t)) => Some((k.0.max(t.0), k.1.min(t.1))),
            (known, by_type) => known.or(by_type),
        }
    }

    /// The most rows that a table can have.
    pub(crate) fn rows(&self, v: ValueId) -> Option<u128> {
        let node = self.p.node_of(v)?;
        let op = match &node.op {
            Op::Rel(op) => op,
            Op::Bridge(BridgeOp::Apply { .. }) => return self.rows(*node.operands.first()?),
            _ => return None,
        };
        Some(match op {
            RelOp::Scan { input, .. } => self.info.rows(*input)? as u128,
            RelOp::Values { rows, .. } => rows.len() as u128,
            RelOp::Extend { .. } | RelOp::Project { .. } | RelOp::Filter | RelOp::Window { .. } => {
                self.rows(node.operands[0])?
            }
            RelOp::Sort { limit, .. } | RelOp::Limit { count: limit, .. } => {
                let rows = self.rows(node.operands[0]);
                match limit {
                    Some(limit) => rows.map_or(u128::from(*limit), |r| r.min(u128::from(*limit))),
                    None => rows?,
                }
            }
            RelOp::Group { keys, .. } if keys.is_empty() => 1,
            RelOp::Group { .. } => self.rows(node.operands[0])?,
            RelOp::Union { .. } => node.operands.iter().try_fold(0u128, |sum, v| sum.checked_add(self.rows(*v)?))?,
            RelOp::Join { kind } => {
                let (left, right) = (node.operands[0], node.operands[1]);
                let l = self.rows(left)?;
                if matches!(kind, JoinKind::Semi | JoinKind::Anti | JoinKind::Mark(_) | JoinKind::Single) {
                    return Some(l);
                }
                let r = self.rows(right)?;
                let (left_keys, right_keys) = self.join_keys(node.regions[0], left, right);
                let pairs = if self.unique(right, &right_keys) {
                    l
                } else if self.unique(left, &left_keys) {
                    r
                } else {
                    l.checked_mul(r)?
                };
                match kind {
                    JoinKind::Inner => pairs,
                    JoinKind::Left => pairs.checked_add(l)?,
                    JoinKind::Right => pairs.checked_add(r)?,
                    _ => pairs.checked_add(l)?.checked_add(r)?,
                }
            }
            RelOp::DependentJoin { .. } | RelOp::Recurse { .. } => return None,
        })
    }

    /// Columns of each side that the predicate makes equal.
    fn join_keys(
        &self,
        predicate: crate::entity::RegionId,
        left: ValueId,
        right: ValueId,
    ) -> (BTreeSet<ColumnId>, BTreeSet<ColumnId>) {
        let (mut of_left, mut of_right) = (BTreeSet::new(), BTreeSet::new());
        let mut parts = vec![];
        self.p.region(predicate).results.iter().for_each(|v| conjuncts(self.p, *v, &mut parts));
        let (Some(l), Some(r)) = (self.p.ty(left).as_table(), self.p.ty(right).as_table()) else {
            return (of_left, of_right);
        };
        for v in parts {
            let Some(node) = self.p.node_of(v) else { continue };
            if node.op != Op::Scalar(ScalarOp::Eq) {
                continue;
            }
            let column = |v: ValueId| match self.p.node_of(v)?.op {
                Op::Col(id) => Some(id),
                _ => None,
            };
            if let (Some(a), Some(b)) = (column(node.operands[0]), column(node.operands[1])) {
                for (a, b) in [(a, b), (b, a)] {
                    if l.get(a).is_some() && r.get(b).is_some() {
                        of_left.insert(a);
                        of_right.insert(b);
                    }
                }
            }
        }
        (of_left, of_right)
    }

    /// Whether no two rows of a table agree in these columns.
    pub(crate) fn unique(&self, v: ValueId, columns: &BTreeSet<ColumnId>) -> bool {
        let Some(node) = self.p.node_of(v) else { return false };
        let Op::Rel(op) = &node.op else { return false };
        match op {
            RelOp::Scan { input, columns: scanned } => scanned.iter().any(|c| {
                columns.contains(&c.id)
                    && self.info.stats(*input, c.source).is_some_and(|s| {
                        s.distinct_exact && s.nulls == 0 && Some(s.distinct as usize) == self.info.rows(*input)
                    })
            }),
            RelOp::Extend { .. }
            | RelOp::Project { .. }
            | RelOp::Filter
            | RelOp::Window { .. }
            | RelOp::Sort { .. }
            | RelOp::Limit { .. } => self.unique(node.operands[0], columns),
            RelOp::Group { keys, .. } => keys.iter().all(|k| columns.contains(k)),
            RelOp::Join { kind } => {
                let (left, right) = (node.operands[0], node.operands[1]);
                match kind {
                    JoinKind::Semi | JoinKind::Anti | JoinKind::Mark(_) | JoinKind::Single => {
                        self.unique(left, columns)
                    }
                    JoinKind::Inner | JoinKind::Left => {
                        let (left_keys, right_keys) = self.join_keys(node.regions[0], left, right);
                        let one_side = self.unique(left, columns) && self.unique(right, &right_keys);
                        let other =
                            *kind == JoinKind::Inner && self.unique(right, columns) && self.unique(left, &left_keys);
                        one_side || other
                    }
                    JoinKind::Right | JoinKind::Full => false,
                }
            }
            RelOp::Recurse { columns: all, distinct, .. } => *distinct && all.iter().all(|c| columns.contains(&c.id)),
            RelOp::Values { .. } | RelOp::Union { .. } | RelOp::DependentJoin { .. } => false,
        }
    }

    /// The positions of keys that tell the rows' groups apart: what these decide is left out, texts first.
    pub(crate) fn identity(&self, table: ValueId, keys: &[ColumnId]) -> Vec<usize> {
        let mut kept: Vec<usize> = (0..keys.len()).collect();
        let is_integer = |i: usize| {
            let ty = self.p.columns[keys[i].index()].ty;
            ty.is_integer() || matches!(ty, ScalarType::Date | ScalarType::Bool)
        };
        let mut order = kept.clone();
        order.reverse();
        order.sort_by_key(|i| is_integer(*i));
        for i in order {
            let others: BTreeSet<ColumnId> = kept.iter().filter(|k| **k != i).map(|k| keys[*k]).collect();
            if !others.is_empty() && self.decided(table, others).contains(&keys[i]) {
                kept.retain(|k| *k != i);
            }
        }
        kept
    }

    /// The columns whose values some columns of a table decide: rows that agree in those agree in these.
    fn decided(&self, table: ValueId, mut columns: BTreeSet<ColumnId>) -> BTreeSet<ColumnId> {
        loop {
            let before = columns.len();
            self.decide(table, &mut columns);
            if columns.len() == before {
                return columns;
            }
        }
    }

    /// One step of [`Self::decided`].
    fn decide(&self, v: ValueId, columns: &mut BTreeSet<ColumnId>) {
        let Some(node) = self.p.node_of(v) else { return };
        let Op::Rel(op) = &node.op else { return };
        match op {
            RelOp::Scan { columns: scanned, .. } => {
                if self.unique(v, columns) {
                    columns.extend(scanned.iter().map(|c| c.id));
                }
            }
            RelOp::Extend { columns: made } => {
                self.decide(node.operands[0], columns);
                for (c, v) in made.iter().zip(&self.p.region(node.regions[0]).results) {
                    let mut of = BTreeSet::new();
                    value_columns(self.p, *v, &mut of);
                    if of.is_subset(columns) {
                        columns.insert(*c);
                    }
                }
            }
            RelOp::Project { .. } | RelOp::Filter | RelOp::Window { .. } | RelOp::Sort { .. } | RelOp::Limit { .. } => {
                self.decide(node.operands[0], columns)
            }
            RelOp::Group { keys, .. } => {
                self.decide(node.operands[0], columns);
                if let (true, Some(table)) = (keys.iter().all(|k| columns.contains(k)), self.p.ty(v).as_table()) {
                    columns.extend(table.columns.iter().map(|c| c.id));
                }
            }
            RelOp::Join { kind: JoinKind::Inner } => {
                node.operands.iter().for_each(|side| self.decide(*side, columns));
                for (a, b) in self.equal_columns(node.regions[0]) {
                    if columns.contains(&a) || columns.contains(&b) {
                        columns.extend([a, b]);
                    }
                }
            }
            // A row without a partner has NULLs where a partner may have values.
            RelOp::Join { kind } if !matches!(kind, JoinKind::Right | JoinKind::Full) => {
                self.decide(node.operands[0], columns);
            }
            RelOp::Join { .. }
            | RelOp::Recurse { .. }
            | RelOp::Values { .. }
            | RelOp::Union { .. }
            | RelOp::DependentJoin { .. } => {}
        }
    }

    /// Pairs of columns that a predicate makes equal; not floats, of which 0 equals -0.
    fn equal_columns(&self, predicate: crate::entity::RegionId) -> Vec<(ColumnId, ColumnId)> {
        let mut parts = vec![];
        self.p.region(predicate).results.iter().for_each(|v| conjuncts(self.p, *v, &mut parts));
        let column = |v: ValueId| match self.p.node_of(v)?.op {
            Op::Col(id) if !self.p.columns[id.index()].ty.is_float() => Some(id),
            _ => None,
        };
        let pair = |v: &ValueId| {
            let node = self.p.node_of(*v).filter(|n| n.op == Op::Scalar(ScalarOp::Eq))?;
            column(node.operands[0]).zip(column(node.operands[1]))
        };
        parts.iter().filter_map(pair).collect()
    }

    /// Whether every partial sum of a column over the rows of a table fits 64 bits.
    pub(crate) fn sum_fits_i64(&mut self, table: ValueId, column: ColumnId) -> bool {
        let mut fits = || {
            let (low, high) = self.column(column)?;
            let greatest = low.unsigned_abs().max(high.unsigned_abs());
            greatest.checked_mul(self.rows(table)?)
        };
        fits().is_some_and(|sum| sum <= i64::MAX as u128)
    }
}
