//! Aggregates that are no reducers: made of windows over the groups' rows, reducers, and an expression over their results.
//!
//! The rows that count for a call are a partition of their own in each group; a window ranks them, or knows their mean, and
//! a reducer under a filter takes what the call asks for:
//! - `min_by`, `max_by`, `mode`, quantiles, `first` and `last` with an order: the argument of the row with the right rank;
//! - `string_agg`: the texts of all rows, joined over the whole partition, of which the first row's is taken;
//! - correlation and regression: sums of products of the distances from the means. They take two passes, so that no digits are
//!   lost where the means are large beside the spread (Chan, Golub and LeVeque, "Algorithms for computing the sample variance",
//!   The American Statistician 37, 1983).

use std::sync::Arc;

use ir::entity::{ColumnId, ValueId};
use ir::graph::rel::{Aggregate, Frame, FrameBound, FrameUnit, SortKey, WindowColumn, WindowFunc};
use ir::graph::{Builder, RelOp};
use ir::scalar::ScalarOp;
use ir::scalar::reduce::Reducer;
use ir::types::ScalarType;
use ir::value::Value;

use crate::error::{Error, Result};
use crate::functions::Pair;
use crate::import::Importer;

use ScalarType as S;

const WHOLE: Frame = Frame { unit: FrameUnit::Rows, start: FrameBound::Unbounded, end: FrameBound::Unbounded };

/// What a call of a composite aggregate becomes: reducers, and the expression over their results.
pub(crate) struct Composite {
    pub(crate) aggregates: Vec<Aggregate>,
    pub(crate) finish: Finish,
}

/// The expression over the results of the reducers.
pub(crate) enum Finish {
    /// The only result itself.
    Plain(ColumnId),
    /// Between two values by a share: low, high, share.
    Between([ColumnId; 3]),
    /// A statistic of pairs over: rows, sum of products, sums of squares of x and of y, means of x and of y.
    Pair(Pair, [ColumnId; 6]),
}

/// Which rows of a group count, and in which order.
pub(crate) struct Group<'k> {
    /// The keys of the groups.
    pub(crate) keys: &'k [ColumnId],
    /// The condition of `FILTER`.
    pub(crate) filter: Option<ColumnId>,
}

impl Importer {
    fn new_column(&mut self, name: &str, ty: ScalarType) -> ColumnId {
        self.b.program_mut().new_column(name, ty)
    }

    pub(crate) fn column_type_of(&self, id: ColumnId) -> ScalarType {
        self.b.program().columns[id.index()].ty
    }

    /// A column that is true for the rows that count: those that pass the filter, and where none of `present` is NULL.
    pub(crate) fn counted(&mut self, table: &mut ValueId, group: &Group<'_>, present: &[ColumnId]) -> Result<ColumnId> {
        let used = self.new_column("used", S::Bool);
        *table = self.b.extend(*table, &[used], |b| {
            let yes = b.literal(Value::Bool(true), S::Bool)?;
            let mut all = match group.filter {
                Some(filter) => {
                    let filter = b.col(filter)?;
                    b.scalar(ScalarOp::IsNotDistinct, &[filter, yes])?
                }
                None => yes,
            };
            for id in present {
                let value = b.col(*id)?;
                let there = b.scalar(ScalarOp::IsNotNull, &[value])?;
                all = b.scalar(ScalarOp::And, &[all, there])?;
            }
            Ok(vec![all])
        })?;
        Ok(used)
    }

    /// Functions over the partitions of the keys and `more`.
    fn over(
        &mut self,
        table: &mut ValueId,
        group: &Group<'_>,
        more: &[ColumnId],
        order: Vec<SortKey>,
        functions: Vec<(WindowFunc, Option<ColumnId>, ScalarType)>,
    ) -> Result<Vec<ColumnId>> {
        let mut partition = group.keys.to_vec();
        for id in more {
            if !partition.contains(id) {
                partition.push(*id);
            }
        }
        let mut columns = vec![];
        for (func, arg, ty) in functions {
            let out = self.new_column("over", ty);
            columns.push(WindowColumn { func, arg, frame: WHOLE, out });
        }
        let outs = columns.iter().map(|c| c.out).collect();
        *table = self.b.rel(RelOp::Window { partition, order, columns }, &[*table], &[])?;
        Ok(outs)
    }

    /// A column from the table's others.
    fn computed(
        &mut self,
        table: &mut ValueId,
        ty: ScalarType,
        body: impl FnOnce(&mut Builder) -> ir::Result<ValueId>,
    ) -> Result<ColumnId> {
        let id = self.new_column("step", ty);
        *table = self.b.extend(*table, &[id], |b| Ok(vec![body(b)?]))?;
        Ok(id)
    }

    fn first_where(&mut self, arg: ColumnId, flag: ColumnId) -> Aggregate {
        let out = self.new_column("first", self.column_type_of(arg));
        Aggregate { reducer: Reducer::First, arg: Some(arg), distinct: false, filter: Some(flag), out }
    }

    fn plain(&mut self, arg: ColumnId, flag: ColumnId) -> Composite {
        let first = self.first_where(arg, flag);
        Composite { finish: Finish::Plain(first.out), aggregates: vec![first] }
    }

    /// Any argument that is not NULL.
    pub(crate) fn any_value(&mut self, table: &mut ValueId, group: &Group<'_>, arg: ColumnId) -> Result<Composite> {
        let used = self.counted(table, group, &[arg])?;
        Ok(self.plain(arg, used))
    }

    /// Rows for which the argument is true.
    pub(crate) fn count_if(&mut self, table: &mut ValueId, group: &Group<'_>, arg: ColumnId) -> Result<Composite> {
        let used = self.counted(table, group, &[])?;
        let flag = self.computed(table, S::Bool, |b| {
            let (used, arg) = (b.col(used)?, b.col(arg)?);
            b.scalar(ScalarOp::And, &[used, arg])
        })?;
        let out = self.new_column("count_if", S::I64);
        let count = Aggregate { reducer: Reducer::CountAll, arg: None, distinct: false, filter: Some(flag), out };
        Ok(Composite { finish: Finish::Plain(out), aggregates: vec![count] })
    }

    /// The argument in the first row (or the last one) by an order.
    pub(crate) fn first_by(
        &mut self,
        table: &mut ValueId,
        group: &Group<'_>,
        arg: ColumnId,
        order: Vec<SortKey>,
        present: &[ColumnId],
        last: bool,
    ) -> Result<Composite> {
        let used = self.counted(table, group, present)?;
        let functions =
            vec![(WindowFunc::RowNumber, None, S::I64), (WindowFunc::Reduce(Reducer::CountAll), None, S::I64)];
        let outs = self.over(table, group, &[used], order, functions)?;
        let flag = self.computed(table, S::Bool, |b| {
            let (used, number) = (b.col(used)?, b.col(outs[0])?);
            let wanted = if last { b.col(outs[1])? } else { b.literal(Value::I64(1), S::I64)? };
            let here = b.scalar(ScalarOp::Eq, &[number, wanted])?;
            b.scalar(ScalarOp::And, &[used, here])
        })?;
        Ok(self.plain(arg, flag))
    }

    /// The argument that occurs most often; of several the least.
    pub(crate) fn mode(&mut self, table: &mut ValueId, group: &Group<'_>, arg: ColumnId) -> Result<Composite> {
        let used = self.counted(table, group, &[arg])?;
        let count = vec![(WindowFunc::Reduce(Reducer::CountAll), None, S::I64)];
        let count = self.over(table, group, &[used, arg], vec![], count)?[0];
        let order = vec![
            SortKey { column: count, descending: true, nulls_first: false },
            SortKey { column: arg, descending: false, nulls_first: false },
        ];
        self.first_by(table, group, arg, order, &[arg], false)
    }

    /// The value below which a share `q` of the arguments lies: one of them, or between two of them.
    pub(crate) fn quantile(
        &mut self,
        table: &mut ValueId,
        group: &Group<'_>,
        arg: ColumnId,
        q: f64,
        descending: bool,
        between: bool,
    ) -> Result<Composite> {
        let used = self.counted(table, group, &[arg])?;
        let order = vec![SortKey { column: arg, descending, nulls_first: false }];
        let functions =
            vec![(WindowFunc::RowNumber, None, S::I64), (WindowFunc::Reduce(Reducer::CountAll), None, S::I64)];
        let outs = self.over(table, group, &[used], order, functions)?;
        // The position as a float, from 1.
        let position = self.computed(table, S::F64, |b| {
            let rows = b.col(outs[1])?;
            let rows = b.scalar(ScalarOp::Cast(S::F64), &[rows])?;
            let (share, one) = (b.literal(Value::F64(q), S::F64)?, b.literal(Value::F64(1.0), S::F64)?);
            if between {
                let steps = b.scalar(ScalarOp::Sub, &[rows, one])?;
                let steps = b.scalar(ScalarOp::Mul, &[steps, share])?;
                return b.scalar(ScalarOp::Add, &[steps, one]);
            }
            let at = b.scalar(ScalarOp::Mul, &[rows, share])?;
            let at = b.scalar(ScalarOp::Ceil, &[at])?;
            b.scalar(ScalarOp::Max, &[at, one])
        })?;
        let mut at = |importer: &mut Self, round: ScalarOp| {
            importer.computed(table, S::Bool, |b| {
                let (used, number, position) = (b.col(used)?, b.col(outs[0])?, b.col(position)?);
                let number = b.scalar(ScalarOp::Cast(S::F64), &[number])?;
                let wanted = b.scalar(round, &[position])?;
                let here = b.scalar(ScalarOp::Eq, &[number, wanted])?;
                b.scalar(ScalarOp::And, &[used, here])
            })
        };
        let low = at(self, ScalarOp::Floor)?;
        if !between {
            return Ok(self.plain(arg, low));
        }
        let high = at(self, ScalarOp::Ceil)?;
        let share = self.computed(table, S::F64, |b| {
            let position = b.col(position)?;
            let whole = b.scalar(ScalarOp::Floor, &[position])?;
            b.scalar(ScalarOp::Sub, &[position, whole])
        })?;
        let aggregates = vec![self.first_where(arg, low), self.first_where(arg, high), self.first_where(share, low)];
        let outs = [aggregates[0].out, aggregates[1].out, aggregates[2].out];
        Ok(Composite { aggregates, finish: Finish::Between(outs) })
    }

    /// The texts that are not NULL, by an order, with the separator between them; equal ones once if that is wanted.
    pub(crate) fn concat(
        &mut self,
        table: &mut ValueId,
        group: &Group<'_>,
        arg: ColumnId,
        separator: Arc<str>,
        order: Vec<SortKey>,
        distinct: bool,
    ) -> Result<Composite> {
        let mut used = self.counted(table, group, &[arg])?;
        if distinct {
            if order.iter().any(|key| key.column != arg) {
                return Err(Error::meaning("what DISTINCT texts are ordered by is their own column"));
            }
            let number = vec![(WindowFunc::RowNumber, None, S::I64)];
            let number = self.over(table, group, &[used, arg], vec![], number)?[0];
            used = self.is_first(table, used, number)?;
        }
        let functions =
            vec![(WindowFunc::RowNumber, None, S::I64), (WindowFunc::Concat { separator }, Some(arg), S::Text)];
        let outs = self.over(table, group, &[used], order, functions)?;
        let flag = self.is_first(table, used, outs[0])?;
        Ok(self.plain(outs[1], flag))
    }

    /// A column that is true for rows that count and have the number 1.
    fn is_first(&mut self, table: &mut ValueId, used: ColumnId, number: ColumnId) -> Result<ColumnId> {
        self.computed(table, S::Bool, |b| {
            let (used, number, one) = (b.col(used)?, b.col(number)?, b.literal(Value::I64(1), S::I64)?);
            let first = b.scalar(ScalarOp::Eq, &[number, one])?;
            b.scalar(ScalarOp::And, &[used, first])
        })
    }

    /// A statistic of pairs of doubles, `y` first.
    pub(crate) fn pair(
        &mut self,
        table: &mut ValueId,
        group: &Group<'_>,
        kind: Pair,
        y: ColumnId,
        x: ColumnId,
    ) -> Result<Composite> {
        let used = self.counted(table, group, &[y, x])?;
        let mean = |id| (WindowFunc::Reduce(Reducer::Avg), Some(id), S::F64);
        let means = self.over(table, group, &[used], vec![], vec![mean(x), mean(y)])?;
        let mut distance = |importer: &mut Self, id: ColumnId, mean: ColumnId| {
            importer.computed(table, S::F64, |b| {
                let (value, mean) = (b.col(id)?, b.col(mean)?);
                b.scalar(ScalarOp::Sub, &[value, mean])
            })
        };
        let (dx, dy) = (distance(self, x, means[0])?, distance(self, y, means[1])?);
        let mut product = |importer: &mut Self, a: ColumnId, b_: ColumnId| {
            importer.computed(table, S::F64, |b| {
                let (left, right) = (b.col(a)?, b.col(b_)?);
                b.scalar(ScalarOp::Mul, &[left, right])
            })
        };
        let products = [product(self, dx, dy)?, product(self, dx, dx)?, product(self, dy, dy)?];
        let out = self.new_column("rows", S::I64);
        let mut aggregates =
            vec![Aggregate { reducer: Reducer::CountAll, arg: None, distinct: false, filter: Some(used), out }];
        for id in products {
            let out = self.new_column("sum", S::F64);
            aggregates.push(Aggregate {
                reducer: Reducer::Sum,
                arg: Some(id),
                distinct: false,
                filter: Some(used),
                out,
            });
        }
        aggregates.push(self.first_where(means[0], used));
        aggregates.push(self.first_where(means[1], used));
        let mut outs = [out; 6];
        for (slot, a) in outs.iter_mut().zip(&aggregates) {
            *slot = a.out;
        }
        Ok(Composite { aggregates, finish: Finish::Pair(kind, outs) })
    }

    /// The result of a composite over the grouped table.
    pub(crate) fn finish_composite(&mut self, table: &mut ValueId, finish: &Finish) -> Result<ColumnId> {
        match finish {
            Finish::Plain(id) => Ok(*id),
            Finish::Between([low, high, share]) => self.computed(table, S::F64, |b| {
                let (low, high, share) = (b.col(*low)?, b.col(*high)?, b.col(*share)?);
                let step = b.scalar(ScalarOp::Sub, &[high, low])?;
                let step = b.scalar(ScalarOp::Mul, &[step, share])?;
                b.scalar(ScalarOp::Add, &[low, step])
            }),
            Finish::Pair(kind, ids) => {
                let ty = if *kind == Pair::Count { S::I64 } else { S::F64 };
                self.computed(table, ty, |b| pair_result(b, *kind, ids))
            }
        }
    }
}

/// PostgreSQL's definitions; NULL where a denominator is 0.
fn pair_result(b: &mut Builder, kind: Pair, ids: &[ColumnId; 6]) -> ir::Result<ValueId> {
    let [rows, xy, xx, yy, mean_x, mean_y] = *ids;
    if kind == Pair::Count {
        return b.col(rows);
    }
    let rows = b.col(rows)?;
    let rows = b.scalar(ScalarOp::Cast(S::F64), &[rows])?;
    let (xy, xx, yy) = (b.col(xy)?, b.col(xx)?, b.col(yy)?);
    let (mean_x, mean_y) = (b.col(mean_x)?, b.col(mean_y)?);
    let (zero, one) = (b.literal(Value::F64(0.0), S::F64)?, b.literal(Value::F64(1.0), S::F64)?);
    let ratio = |b: &mut Builder, above: ValueId, below: ValueId| {
        let is_zero = b.scalar(ScalarOp::Le, &[below, zero])?;
        let ratio = b.scalar(ScalarOp::Div, &[above, below])?;
        b.scalar(ScalarOp::NullIfTrue, &[ratio, is_zero])
    };
    match kind {
        Pair::Count => Ok(rows),
        Pair::CovarPopulation => ratio(b, xy, rows),
        Pair::CovarSample => {
            let less = b.scalar(ScalarOp::Sub, &[rows, one])?;
            ratio(b, xy, less)
        }
        Pair::Corr => {
            let (x, y) = (b.scalar(ScalarOp::Sqrt, &[xx])?, b.scalar(ScalarOp::Sqrt, &[yy])?);
            let below = b.scalar(ScalarOp::Mul, &[x, y])?;
            ratio(b, xy, below)
        }
        Pair::Slope => ratio(b, xy, xx),
        Pair::Intercept => {
            let slope = ratio(b, xy, xx)?;
            let at = b.scalar(ScalarOp::Mul, &[slope, mean_x])?;
            b.scalar(ScalarOp::Sub, &[mean_y, at])
        }
        Pair::R2 => {
            let square = b.scalar(ScalarOp::Mul, &[xy, xy])?;
            let below = b.scalar(ScalarOp::Mul, &[xx, yy])?;
            let r2 = ratio(b, square, below)?;
            // All y are equal: the line goes through all of them. All x are equal: there is no line.
            let (flat, steep) = (b.scalar(ScalarOp::Le, &[yy, zero])?, b.scalar(ScalarOp::Le, &[xx, zero])?);
            let r2 = b.scalar(ScalarOp::Select, &[flat, one, r2])?;
            b.scalar(ScalarOp::NullIfTrue, &[r2, steep])
        }
        Pair::SumXX => Ok(xx),
        Pair::SumYY => Ok(yy),
        Pair::SumXY => Ok(xy),
        Pair::MeanX => Ok(mean_x),
        Pair::MeanY => Ok(mean_y),
    }
}
