//! Window functions.

use std::cmp::Ordering;
use std::sync::Arc;

use super::rel::{Table, groups, row_order, sort_columns};
use super::{Machine, bug, trap};
use crate::entity::ColumnId;
use crate::error::{Error, Result, TrapKind};
use crate::graph::rel::{Frame, FrameBound, FrameUnit, SortKey, WindowColumn, WindowFunc};
use crate::scalar::reduce::Evaluator;
use crate::types::ScalarType;
use crate::value::Value;

/// A partition in window order.
struct Partition {
    /// For each row, where its peers begin and end.
    peers: Vec<(usize, usize)>,
    /// For each row, how many groups of peers come before its own.
    rank: Vec<usize>,
}

impl Machine<'_> {
    pub(super) fn window(
        &mut self,
        table: &Table,
        partition: &[ColumnId],
        order: &[SortKey],
        columns: &[WindowColumn],
    ) -> Result<Table> {
        let keys = sort_columns(table, order)?;
        let mut rows = Vec::with_capacity(table.rows);
        let mut added: Vec<Vec<Value>> = vec![Vec::with_capacity(table.rows); columns.len()];
        for mut part in groups(table, partition)? {
            part.sort_by(|a, b| row_order(&keys, *a, *b));
            let shape = Partition::new(part.len(), |a, b| row_order(&keys, part[a], part[b]) == Ordering::Equal);
            let by_key = |c: &WindowColumn| {
                let offset = |b| matches!(b, FrameBound::Offset(_));
                c.frame.unit == FrameUnit::Range && (offset(c.frame.start) || offset(c.frame.end))
            };
            let key = match order {
                _ if !columns.iter().any(by_key) => None,
                [one] => {
                    let Some(values) = table.column(one.column) else { return bug("a column that the table has not") };
                    Some(Key::new(part.iter().map(|r| values[*r].clone()), one.descending)?)
                }
                _ => return bug("a range frame with an offset has one order key"),
            };
            for (out, c) in added.iter_mut().zip(columns) {
                let arg: Option<Vec<Value>> = match c.arg {
                    Some(id) => match table.column(id) {
                        Some(values) => Some(part.iter().map(|r| values[*r].clone()).collect()),
                        None => return bug("a column that the table has not"),
                    },
                    None => None,
                };
                let ty = c.arg.map(|id| self.p.columns[id.index()].ty);
                out.extend(shape.column(c, arg.as_deref(), ty, key.as_ref())?);
            }
            rows.extend(part);
        }
        let pick = |values: &Arc<Vec<Value>>| Arc::new(rows.iter().map(|r| values[*r].clone()).collect());
        let mut out = Table { columns: table.columns.iter().map(|(id, v)| (*id, pick(v))).collect(), rows: table.rows };
        out.columns.extend(columns.iter().zip(added).map(|(c, values)| (c.out, Arc::new(values))));
        Ok(out)
    }
}

impl Partition {
    fn new(rows: usize, equal: impl Fn(usize, usize) -> bool) -> Self {
        let mut peers = Vec::with_capacity(rows);
        let mut rank = Vec::with_capacity(rows);
        let (mut start, mut before) = (0, 0);
        while start < rows {
            let mut end = start + 1;
            while end < rows && equal(start, end) {
                end += 1;
            }
            peers.extend(std::iter::repeat_n((start, end), end - start));
            rank.extend(std::iter::repeat_n(before, end - start));
            before += 1;
            start = end;
        }
        Self { peers, rank }
    }

    fn column(
        &self,
        c: &WindowColumn,
        arg: Option<&[Value]>,
        ty: Option<ScalarType>,
        key: Option<&Key>,
    ) -> Result<Vec<Value>> {
        let rows = self.peers.len();
        let need = || arg.ok_or_else(|| Error::Bug("a window function lacks its argument".into()));
        let each = |f: &dyn Fn(usize) -> Result<Value>| (0..rows).map(f).collect::<Result<Vec<_>>>();
        let count = |n: usize| Value::I64(n as i64);
        match &c.func {
            WindowFunc::RowNumber => each(&|i| Ok(count(i + 1))),
            WindowFunc::Rank => each(&|i| Ok(count(self.peers[i].0 + 1))),
            WindowFunc::DenseRank => each(&|i| Ok(count(self.rank[i] + 1))),
            WindowFunc::PercentRank => each(&|i| {
                let last = rows - 1;
                Ok(Value::F64(if last == 0 { 0.0 } else { self.peers[i].0 as f64 / last as f64 }))
            }),
            WindowFunc::CumeDist => each(&|i| Ok(Value::F64(self.peers[i].1 as f64 / rows as f64))),
            WindowFunc::Ntile(n) => {
                let Some(n) = usize::try_from(*n).ok().filter(|n| *n > 0) else {
                    return trap(TrapKind::InvalidArgument("the argument of ntile must be greater than zero".into()));
                };
                // The first `more` buckets have one row more than the others.
                let (least, more) = (rows / n, rows % n);
                let bucket = |i: usize| {
                    let long = more * (least + 1);
                    if i < long { i / (least + 1) } else { more + (i - long) / least.max(1) }
                };
                each(&|i| Ok(count(bucket(i) + 1)))
            }
            WindowFunc::Lag { offset, default } => {
                let values = need()?;
                each(&|i| {
                    let at = (i as i64).checked_sub(*offset).and_then(|at| usize::try_from(at).ok());
                    Ok(at.and_then(|at| values.get(at)).unwrap_or(default).clone())
                })
            }
            WindowFunc::NthValue(n) => {
                let values = need()?;
                let Some(n) = usize::try_from(*n).ok().filter(|n| *n > 0) else {
                    return trap(TrapKind::InvalidArgument(
                        "the argument of nth_value must be greater than zero".into(),
                    ));
                };
                each(&|i| {
                    let (start, end) = self.frame(&c.frame, i, key)?;
                    Ok(if n <= end - start { values[start + n - 1].clone() } else { Value::Null })
                })
            }
            WindowFunc::LastValue => {
                let values = need()?;
                each(&|i| {
                    let (start, end) = self.frame(&c.frame, i, key)?;
                    Ok(if start < end { values[end - 1].clone() } else { Value::Null })
                })
            }
            WindowFunc::Concat { separator } => {
                let values = need()?;
                each(&|i| {
                    let (start, end) = self.frame(&c.frame, i, key)?;
                    let text = |v: &Value| if let Value::Text(t) = v { Some(t.to_string()) } else { None };
                    let texts: Vec<String> = values[start..end].iter().filter_map(text).collect();
                    Ok(if texts.is_empty() { Value::Null } else { Value::Text(texts.join(separator).into()) })
                })
            }
            WindowFunc::Reduce(reducer) => {
                let mut out = Vec::with_capacity(rows);
                let reducer = Evaluator::new(*reducer, ty);
                let mut state = reducer.init();
                let (mut from, mut to) = (0, 0);
                for i in 0..rows {
                    let (start, end) = self.frame(&c.frame, i, key)?;
                    // A frame that grows at its end only goes on where the one before stopped.
                    if start != from || end < to {
                        state = reducer.init();
                        (from, to) = (start, start);
                    }
                    for row in to..end {
                        reducer.step(&mut state, arg.map_or(&Value::Null, |values| &values[row]))?;
                    }
                    to = to.max(end);
                    out.push(reducer.finish(&state)?);
                }
                Ok(out)
            }
        }
    }

    /// The rows of a frame: from the first up to, not including, the second. `key` is the order key, where a frame counts by it.
    fn frame(&self, frame: &Frame, i: usize, key: Option<&Key>) -> Result<(usize, usize)> {
        let rows = self.peers.len();
        let by_rows = |n: i64| (i as i64).saturating_add(n).clamp(-1, rows as i64);
        let group = |n: i64| (self.rank[i] as i64).saturating_add(n);
        let need = || key.ok_or_else(|| Error::Bug("a range frame with an offset lacks its key".into()));
        let start = match (frame.start, frame.unit) {
            (FrameBound::Unbounded, _) => 0,
            (FrameBound::CurrentRow, FrameUnit::Rows) => i,
            (FrameBound::CurrentRow, _) => self.peers[i].0,
            (FrameBound::Offset(n), FrameUnit::Rows) => by_rows(n).max(0) as usize,
            (FrameBound::Offset(n), FrameUnit::Groups) => {
                (0..rows).find(|r| self.rank[*r] as i64 >= group(n)).unwrap_or(rows)
            }
            (FrameBound::Offset(n), FrameUnit::Range) => match need()?.reach(i, n) {
                None => self.peers[i].0,
                Some(to) => (0..rows).find(|r| need().is_ok_and(|k| k.is_from(*r, to))).unwrap_or(rows),
            },
        };
        let end = match (frame.end, frame.unit) {
            (FrameBound::Unbounded, _) => rows,
            (FrameBound::CurrentRow, FrameUnit::Rows) => i + 1,
            (FrameBound::CurrentRow, _) => self.peers[i].1,
            (FrameBound::Offset(n), FrameUnit::Rows) => ((by_rows(n) + 1).max(0) as usize).min(rows),
            (FrameBound::Offset(n), FrameUnit::Groups) => {
                (0..rows).rfind(|r| self.rank[*r] as i64 <= group(n)).map_or(0, |r| r + 1)
            }
            (FrameBound::Offset(n), FrameUnit::Range) => match need()?.reach(i, n) {
                None => self.peers[i].1,
                Some(to) => (0..rows).rfind(|r| need().is_ok_and(|k| k.is_up_to(*r, to))).map_or(0, |r| r + 1),
            },
        };
        Ok((start, end.max(start)))
    }
}

/// The order key of a partition's rows, as integers that grow along the order.
struct Key(Vec<Option<i128>>);

impl Key {
    fn new(values: impl Iterator<Item = Value>, descending: bool) -> Result<Self> {
        let number = |v: Value| {
            let n = match v {
                Value::Null => return Ok(None),
                Value::I32(v) | Value::Date(v) => i128::from(v),
                Value::I64(v) | Value::Timestamp(v) => i128::from(v),
                other => return Err(Error::Unsupported(format!("a RANGE frame with an offset over {other:?}"))),
            };
            Ok(Some(if descending { -n } else { n }))
        };
        Ok(Self(values.map(number).collect::<Result<_>>()?))
    }

    /// What lies `n` behind the key of row `i`; `None` where that is NULL.
    fn reach(&self, i: usize, n: i64) -> Option<i128> {
        Some(self.0[i]? + i128::from(n))
    }

    fn is_from(&self, row: usize, from: i128) -> bool {
        self.0[row].is_some_and(|k| k >= from)
    }

    fn is_up_to(&self, row: usize, to: i128) -> bool {
        self.0[row].is_some_and(|k| k <= to)
    }
}
