//! Aggregates over distinct arguments become groups of groups.
//!
//! - All over one argument: the rows are grouped by keys and argument, then by keys; the aggregate sees each value once.
//! - Beside them aggregates over all rows that can be put together from parts (counts, exact sums and means, minima, maxima):
//!   the same, with the parts computed in the first group.
//! - Otherwise each argument gets groups of its own, joined on the keys, NULL being a key like others.
//!
//! Sums of integers are put together as decimals, so that no part overflows where the whole does not; sums of floats are added
//! in the order of rows and are never put together.

use super::Context;
use super::rows::{copy_column, fill_zeros, type_of};
use crate::entity::{ColumnId, NodeId, ValueId};
use crate::error::{Error, Result};
use crate::graph::rel::{Aggregate, JoinKind};
use crate::graph::rewrite::{Change, Rebuild, Rewrite, rebuild};
use crate::graph::{Node, Op, Program, RelOp};
use crate::scalar::ScalarOp;
use crate::scalar::reduce::Reducer;
use crate::types::{ScalarType, TableType};
use crate::value::Value;

/// Takes no fuel: what follows knows no aggregate over distinct arguments.
pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    rebuild(p, &mut Distinct { cx })
}

struct Distinct<'a, 'b> {
    cx: &'a mut Context<'b>,
}

impl Rewrite for Distinct<'_, '_> {
    fn node(&mut self, cx: &mut Rebuild<'_>, _: NodeId, node: &Node) -> Result<Change> {
        let Op::Rel(RelOp::Group { keys, aggregates }) = &node.op else { return Ok(Change::Keep) };
        if aggregates.iter().all(|a| !a.distinct) {
            return Ok(Change::Keep);
        }
        self.cx.count(1);
        cx.b.set_place(node.place);
        let input = cx.value(node.operands[0])?;
        let table = group(cx, input, keys, aggregates)?;
        let columns = keys.iter().copied().chain(aggregates.iter().map(|a| a.out)).collect();
        let table = cx.b.rel(RelOp::Project { columns }, &[table], &[])?;
        cx.b.set_place(None);
        Ok(Change::Values(vec![table]))
    }
}

/// Aggregates over the distinct values of one argument among the same rows.
struct Same {
    arg: ColumnId,
    filter: Option<ColumnId>,
    aggregates: Vec<Aggregate>,
}

fn group(cx: &mut Rebuild<'_>, input: ValueId, keys: &[ColumnId], aggregates: &[Aggregate]) -> Result<ValueId> {
    let input_type = type_of(cx, input)?;
    let mut plain: Vec<Aggregate> = Vec::new();
    let mut distinct: Vec<Same> = Vec::new();
    for a in aggregates {
        let all = Aggregate { distinct: false, ..a.clone() };
        let Some(arg) = a.arg.filter(|_| a.distinct && counts_values(a.reducer)) else {
            plain.push(all);
            continue;
        };
        match distinct.iter_mut().find(|s| s.arg == arg && s.filter == a.filter) {
            Some(same) => same.aggregates.push(all),
            None => distinct.push(Same { arg, filter: a.filter, aggregates: vec![all] }),
        }
    }
    match distinct.as_slice() {
        [] => cx.b.rel(RelOp::Group { keys: keys.to_vec(), aggregates: plain }, &[input], &[]),
        [same] if same.filter.is_none() && plain.iter().all(|a| has_parts(a, &input_type)) => {
            group_of_groups(cx, input, keys, same, &plain)
        }
        _ => joined_groups(cx, input, keys, &distinct, plain),
    }
}

/// Whether it matters to a reducer how often a value comes.
fn counts_values(reducer: Reducer) -> bool {
    match reducer {
        Reducer::Min | Reducer::Max | Reducer::BoolAnd | Reducer::BoolOr | Reducer::First => false,
        Reducer::CountAll
        | Reducer::Count
        | Reducer::Sum
        | Reducer::Avg
        | Reducer::Product
        | Reducer::VarSample
        | Reducer::VarPopulation
        | Reducer::StddevSample
        | Reducer::StddevPopulation
        | Reducer::Last
        | Reducer::Single
        | Reducer::ArgMax
        | Reducer::ArgMin => true,
    }
}

/// Whether an aggregate can be put together from those of parts, with every bit.
fn has_parts(a: &Aggregate, input: &TableType) -> bool {
    match a.reducer {
        Reducer::CountAll | Reducer::Count | Reducer::Min | Reducer::Max | Reducer::BoolAnd | Reducer::BoolOr => true,
        Reducer::Sum | Reducer::Avg => match a.arg.and_then(|c| input.get(c)).map(|t| t.ty) {
            Some(ScalarType::I32 | ScalarType::I64) => true,
            // Parts of 2^32 rows and more still have 38 digits.
            Some(ScalarType::Decimal { precision, .. }) => precision <= 28,
            _ => false,
        },
        Reducer::Product
        | Reducer::VarSample
        | Reducer::VarPopulation
        | Reducer::StddevSample
        | Reducer::StddevPopulation
        | Reducer::First
        | Reducer::Last
        | Reducer::Single
        | Reducer::ArgMax
        | Reducer::ArgMin => false,
    }
}

fn group_of_groups(
    cx: &mut Rebuild<'_>,
    input: ValueId,
    keys: &[ColumnId],
    same: &Same,
    plain: &[Aggregate],
) -> Result<ValueId> {
    let mut parts = Parts::default();
    let input_type = type_of(cx, input)?;
    for a in plain {
        parts.add(cx, a, &input_type)?;
    }
    let mut table = input;
    if !parts.wide.is_empty() {
        let columns: Vec<ColumnId> = parts.wide.iter().map(|w| w.1).collect();
        table = cx.b.extend(table, &columns, |b| {
            let widen = |(from, to): &(ColumnId, ColumnId)| {
                let ty = b.program().columns[to.index()].ty;
                let v = b.col(*from)?;
                b.scalar(ScalarOp::Cast(ty), &[v])
            };
            parts.wide.iter().map(widen).collect()
        })?;
    }
    let mut inner = keys.to_vec();
    if !inner.contains(&same.arg) {
        inner.push(same.arg);
    }
    table = cx.b.rel(RelOp::Group { keys: inner, aggregates: parts.inner }, &[table], &[])?;
    let aggregates = same.aggregates.iter().cloned().chain(parts.outer).collect();
    table = cx.b.rel(RelOp::Group { keys: keys.to_vec(), aggregates }, &[table], &[])?;
    if parts.finish.is_empty() {
        return Ok(table);
    }
    let columns: Vec<ColumnId> = parts.finish.iter().map(|f| f.0).collect();
    cx.b.extend(table, &columns, |b| {
        let finish = |(_, how): &(ColumnId, Finish)| match *how {
            Finish::Count(n) => {
                let (n, zero) = (b.col(n)?, b.literal(Value::I64(0), ScalarType::I64)?);
                b.scalar(ScalarOp::Coalesce, &[n, zero])
            }
            Finish::Integer(sum) => {
                let sum = b.col(sum)?;
                b.scalar(ScalarOp::Cast(ScalarType::I64), &[sum])
            }
            Finish::Mean(sum, n) => {
                let (sum, n) = (b.col(sum)?, b.col(n)?);
                let sum = b.scalar(ScalarOp::Cast(ScalarType::F64), &[sum])?;
                let n = b.scalar(ScalarOp::Cast(ScalarType::F64), &[n])?;
                b.scalar(ScalarOp::Div, &[sum, n])
            }
        };
        parts.finish.iter().map(finish).collect()
    })
}

/// How a result comes from the second group's columns.
enum Finish {
    /// A sum of counts, 0 where there is none.
    Count(ColumnId),
    /// A sum of integers that was added as a decimal.
    Integer(ColumnId),
    /// A sum and a count.
    Mean(ColumnId, ColumnId),
}

/// Aggregates over all rows, in two steps.
#[derive(Default)]
struct Parts {
    /// Integer arguments and the decimals that they are added as.
    wide: Vec<(ColumnId, ColumnId)>,
    inner: Vec<Aggregate>,
    outer: Vec<Aggregate>,
    finish: Vec<(ColumnId, Finish)>,
}

impl Parts {
    fn add(&mut self, cx: &mut Rebuild<'_>, a: &Aggregate, input: &TableType) -> Result<()> {
        match a.reducer {
            Reducer::CountAll | Reducer::Count => {
                let n = self.sum_of(cx, a, a.arg, a.reducer, ScalarType::I64);
                self.finish.push((a.out, Finish::Count(n)));
            }
            Reducer::Min | Reducer::Max | Reducer::BoolAnd | Reducer::BoolOr => {
                let ty = cx.b.program().columns[a.out.index()].ty;
                let part = cx.b.program_mut().new_column("part", ty);
                self.inner.push(Aggregate { out: part, ..a.clone() });
                self.outer.push(Aggregate { arg: Some(part), filter: None, ..a.clone() });
            }
            Reducer::Sum | Reducer::Avg => {
                let arg = a.arg.ok_or_else(|| Error::Bug("a sum without an argument".into()))?;
                let scale = match input.get(arg).map(|t| t.ty) {
                    Some(ScalarType::Decimal { scale, .. }) => Some(scale),
                    _ => None,
                };
                let sum_type = ScalarType::Decimal { precision: 38, scale: scale.unwrap_or(0) };
                let added = if scale.is_some() { arg } else { self.widened(cx, arg) };
                if a.reducer == Reducer::Sum && scale.is_some() {
                    let part = cx.b.program_mut().new_column("part", sum_type);
                    self.inner.push(Aggregate { out: part, ..a.clone() });
                    self.outer.push(Aggregate { arg: Some(part), filter: None, ..a.clone() });
                    return Ok(());
                }
                let sum = self.sum_of(cx, a, Some(added), Reducer::Sum, sum_type);
                if a.reducer == Reducer::Sum {
                    self.finish.push((a.out, Finish::Integer(sum)));
                } else {
                    let n = self.sum_of(cx, a, a.arg, Reducer::Count, ScalarType::I64);
                    self.finish.push((a.out, Finish::Mean(sum, n)));
                }
            }
            _ => return Err(Error::Bug("an aggregate that has no parts".into())),
        }
        Ok(())
    }

    /// The sum of what a reducer gives for the parts; both have this type.
    fn sum_of(
        &mut self,
        cx: &mut Rebuild<'_>,
        a: &Aggregate,
        arg: Option<ColumnId>,
        reducer: Reducer,
        ty: ScalarType,
    ) -> ColumnId {
        let is_same = |x: &Aggregate| (x.reducer, x.arg, x.filter) == (reducer, arg, a.filter);
        if let Some(known) = self.inner.iter().find(|x| is_same(x)).map(|x| x.out)
            && let Some(whole) = self.outer.iter().find(|x| x.arg == Some(known) && x.reducer == Reducer::Sum)
        {
            return whole.out;
        }
        let part = cx.b.program_mut().new_column("part", ty);
        let whole = cx.b.program_mut().new_column("whole", ty);
        self.inner.push(Aggregate { reducer, arg, distinct: false, filter: a.filter, out: part });
        self.outer.push(Aggregate {
            reducer: Reducer::Sum,
            arg: Some(part),
            distinct: false,
            filter: None,
            out: whole,
        });
        whole
    }

    fn widened(&mut self, cx: &mut Rebuild<'_>, arg: ColumnId) -> ColumnId {
        if let Some(known) = self.wide.iter().find(|w| w.0 == arg) {
            return known.1;
        }
        let ty = ScalarType::Decimal { precision: 28, scale: 0 };
        let wide = cx.b.program_mut().new_column("wide", ty);
        self.wide.push((arg, wide));
        wide
    }
}

/// Groups for each argument, joined on the keys.
fn joined_groups(
    cx: &mut Rebuild<'_>,
    input: ValueId,
    keys: &[ColumnId],
    distinct: &[Same],
    plain: Vec<Aggregate>,
) -> Result<ValueId> {
    let mut table = None;
    if !keys.is_empty() || !plain.is_empty() {
        table = Some(cx.b.rel(RelOp::Group { keys: keys.to_vec(), aggregates: plain }, &[input], &[])?);
    }
    for same in distinct {
        let mut zeros = Vec::new();
        let mut aggregates = same.aggregates.clone();
        aggregates.iter_mut().for_each(|a| a.filter = None);
        if same.filter.is_some() && !keys.is_empty() {
            for a in aggregates.iter_mut().filter(|a| a.reducer == Reducer::Count) {
                let counted = copy_column(cx, a.out);
                zeros.push((counted, a.out));
                a.out = counted;
            }
        }
        let same = Same { arg: same.arg, filter: same.filter, aggregates };
        let (groups, copies) = distinct_group(cx, input, keys, &same)?;
        let Some(left) = table else {
            table = Some(groups);
            continue;
        };
        let region = cx.b.row_region(&[left, groups], |b| {
            let mut all = None;
            for (key, copy) in keys.iter().zip(&copies) {
                let (a, c) = (b.col(*key)?, b.col(*copy)?);
                let equal = b.scalar(ScalarOp::IsNotDistinct, &[a, c])?;
                all = Some(match all {
                    None => equal,
                    Some(all) => b.scalar(ScalarOp::And, &[all, equal])?,
                });
            }
            Ok(vec![match all {
                Some(all) => all,
                None => b.literal(Value::Bool(true), ScalarType::Bool)?,
            }])
        })?;
        // With a filter a group may have no row at all.
        let kind = if same.filter.is_some() && !keys.is_empty() { JoinKind::Left } else { JoinKind::Inner };
        let joined = cx.b.rel(RelOp::Join { kind }, &[left, groups], &[region])?;
        table = Some(fill_zeros(cx, joined, &zeros)?);
    }
    table.ok_or_else(|| Error::Bug("a group without aggregates".into()))
}

/// The groups of one argument, and their keys in columns of their own.
fn distinct_group(
    cx: &mut Rebuild<'_>,
    input: ValueId,
    keys: &[ColumnId],
    same: &Same,
) -> Result<(ValueId, Vec<ColumnId>)> {
    let copies: Vec<ColumnId> = keys.iter().map(|c| copy_column(cx, *c)).collect();
    let mut table = input;
    if let Some(filter) = same.filter {
        table = cx.b.filter(table, |b| b.col(filter))?;
    }
    if !keys.is_empty() {
        table = cx.b.extend(table, &copies, |b| keys.iter().map(|c| b.col(*c)).collect())?;
    }
    let mut inner = copies.clone();
    inner.push(same.arg);
    table = cx.b.rel(RelOp::Group { keys: inner, aggregates: vec![] }, &[table], &[])?;
    let op = RelOp::Group { keys: copies.clone(), aggregates: same.aggregates.clone() };
    Ok((cx.b.rel(op, &[table], &[])?, copies))
}
