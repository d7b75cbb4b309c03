//! Relational operations: tables to tables.
//!
//! Row order: `scan` gives storage order; `filter`, `extend`, `project`, `apply` keep order; `sort` is stable; `limit` takes the
//! first rows; every other operation gives an order that is a function of its inputs' contents and order (never of scheduling).

use std::sync::Arc;

use crate::entity::{ColumnId, InputId};
use crate::error::{Error, Result};
use crate::graph::{InputKind, Program};
use crate::scalar::reduce::Reducer;
use crate::types::{Column, RowType, ScalarType, TableType, Type};
use crate::value::Value;

/// A column that a scan reads.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ScanColumn {
    /// Position in the input's column list.
    pub source: u32,
    /// The id it gets.
    pub id: ColumnId,
}

/// How two tables meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum JoinKind {
    /// Pairs for which the predicate is true.
    Inner,
    /// Inner, and left rows without a partner with NULLs on the right.
    Left,
    /// Inner, and right rows without a partner with NULLs on the left.
    Right,
    /// Left and right together.
    Full,
    /// Left rows with a partner, once each. No right columns.
    Semi,
    /// Left rows without a partner. No right columns.
    Anti,
    /// Every left row once, with a boolean column: true with a partner; else NULL if the predicate was NULL for some right
    /// row; else false. No right columns. (`IN`, `EXISTS` as a value.)
    Mark(ColumnId),
    /// Every left row once, with its partner's columns or NULLs; raises for a second partner. (Scalar subqueries.)
    Single,
}

/// One column of an ordering.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SortKey {
    /// The column.
    pub column: ColumnId,
    /// Greatest first.
    pub descending: bool,
    /// NULLs before everything, whatever the direction.
    pub nulls_first: bool,
}

/// One aggregate of a group.
#[derive(Clone, PartialEq, Debug)]
pub struct Aggregate {
    /// The reducer.
    pub reducer: Reducer,
    /// Its argument column; none for `count_all`.
    pub arg: Option<ColumnId>,
    /// Over distinct arguments only.
    pub distinct: bool,
    /// Only rows for which this boolean column is true.
    pub filter: Option<ColumnId>,
    /// The result's column.
    pub out: ColumnId,
}

/// A function over a window.
#[derive(Clone, PartialEq, Debug)]
pub enum WindowFunc {
    /// 1, 2, 3 … in the partition. `i64`.
    RowNumber,
    /// Rank with gaps. `i64`.
    Rank,
    /// Rank without gaps. `i64`.
    DenseRank,
    /// (rank - 1) / (rows - 1). `f64`.
    PercentRank,
    /// Share of rows not after this one. `f64`.
    CumeDist,
    /// Bucket 1..=n. `i64`.
    Ntile(i64),
    /// The argument `offset` rows before (negative: after); the default outside of the partition.
    Lag {
        /// Rows before.
        offset: i64,
        /// Value outside of the partition; its type is the argument's.
        default: Value,
    },
    /// The argument in the `n`-th row of the frame (1 = first); NULL if there is none.
    NthValue(i64),
    /// The argument in the last row of the frame.
    LastValue,
    /// The texts of the frame that are not NULL, in its order, with the separator between them; NULL if there is none.
    Concat {
        /// What stands between two texts.
        separator: Arc<str>,
    },
    /// A reducer over the frame.
    Reduce(Reducer),
}

/// What the ends of a frame count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameUnit {
    /// Rows.
    Rows,
    /// The one order key, which must be an integer, a date (days) or a timestamp (microseconds): an end with an offset is as
    /// far from the current row's key. Rows whose key is NULL have each other for that end.
    Range,
    /// Groups of peers.
    Groups,
}

/// One end of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameBound {
    /// The partition's first row (start) or last row (end).
    Unbounded,
    /// The current row (with its peers, unless the frame is of rows).
    CurrentRow,
    /// So many units before (negative) or after the current row.
    Offset(i64),
}

/// Which rows a function over a window sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What the ends count.
    pub unit: FrameUnit,
    /// First row.
    pub start: FrameBound,
    /// Last row.
    pub end: FrameBound,
}

/// One result column of a window.
#[derive(Clone, PartialEq, Debug)]
pub struct WindowColumn {
    /// The function.
    pub func: WindowFunc,
    /// Its argument column.
    pub arg: Option<ColumnId>,
    /// The frame; ranks, row numbers and lag look at the whole partition.
    pub frame: Frame,
    /// The result's column.
    pub out: ColumnId,
}

/// A relational operation.
#[derive(Clone, PartialEq, Debug)]
pub enum RelOp {
    /// Rows of a table input. No operands.
    Scan {
        /// The input.
        input: InputId,
        /// The columns read.
        columns: Vec<ScanColumn>,
    },
    /// Given rows. No operands.
    Values {
        /// The columns.
        columns: Vec<Column>,
        /// Rows, each with a value a column.
        rows: Vec<Vec<Value>>,
    },
    /// (table) {row region: one scalar a column} → the table with these columns added.
    Extend {
        /// The added columns.
        columns: Vec<ColumnId>,
    },
    /// (table) → only these columns, in this order.
    Project {
        /// The columns kept.
        columns: Vec<ColumnId>,
    },
    /// (table) {row region: bool} → the rows for which it is true (not NULL, not false).
    Filter,
    /// (left, right) {row region over both: bool} → see [`JoinKind`].
    Join {
        /// The kind.
        kind: JoinKind,
    },
    /// (left) {region: right table, which may read `col` of the left row} {row region over both: bool} → a join whose right
    /// side is computed for each left row. How subqueries come in; the optimizer unnests all of them.
    DependentJoin {
        /// The kind; not `Right` and not `Full`.
        kind: JoinKind,
    },
    /// (table) → one row a group: keys, then aggregates. Groups come in the order of their first rows. Without keys there is
    /// exactly one group.
    Group {
        /// The key columns.
        keys: Vec<ColumnId>,
        /// The aggregates.
        aggregates: Vec<Aggregate>,
    },
    /// (table) → ordered, stable; only the first `limit` rows if given.
    Sort {
        /// The ordering.
        keys: Vec<SortKey>,
        /// Rows kept.
        limit: Option<u64>,
    },
    /// (table) → `count` rows after the first `offset`.
    Limit {
        /// Rows left out at the start.
        offset: u64,
        /// Rows kept; all if none.
        count: Option<u64>,
    },
    /// (table, table, …) → all rows of the first, then of the second, …
    Union {
        /// For each operand the columns that become the result's, by position.
        inputs: Vec<Vec<ColumnId>>,
        /// The result's columns.
        columns: Vec<ColumnId>,
    },
    /// (base) {region: working table → table} → the rows of `base`, then those that the region makes of them, then those that
    /// it makes of these, … until it makes none. The loop of tables: a `while` would carry all rows so far from iteration to
    /// iteration, while a recursion only adds to them.
    ///
    /// What the region yields has the result's columns by position.
    Recurse {
        /// The columns of `base` that become the result's, by position.
        base: Vec<ColumnId>,
        /// The working table's columns: in the region they hold the rows that the iteration before has added.
        working: Vec<ColumnId>,
        /// The result's columns.
        columns: Vec<Column>,
        /// Only rows that are not there yet are added (NULL equals NULL); otherwise all.
        distinct: bool,
        /// Nobody reads more rows than these first ones: no iteration begins where they are there.
        limit: Option<u64>,
    },
    /// (table) → the table with a column for each function. Rows come partition by partition, in the partitions' order of
    /// first rows, and within a partition in window order.
    Window {
        /// Rows that are equal here are a partition.
        partition: Vec<ColumnId>,
        /// Order in a partition.
        order: Vec<SortKey>,
        /// The functions.
        columns: Vec<WindowColumn>,
    },
}

/// The type of a recursion's working table.
pub fn working_type(working: &[ColumnId], columns: &[Column]) -> TableType {
    TableType { columns: working.iter().zip(columns).map(|(id, c)| Column { id: *id, ty: c.ty }).collect() }
}

impl JoinKind {
    /// Whether right columns are in the result.
    pub fn has_right(self) -> bool {
        match self {
            Self::Inner | Self::Left | Self::Right | Self::Full | Self::Single => true,
            Self::Semi | Self::Anti | Self::Mark(_) => false,
        }
    }
}

fn table<'a>(operands: &'a [&'a Type], i: usize) -> Result<&'a TableType> {
    operands.get(i).and_then(|t| t.as_table()).ok_or_else(|| Error::Type(format!("operand {i} must be a table")))
}

fn column(t: &TableType, id: ColumnId) -> Result<RowType> {
    t.get(id).ok_or_else(|| Error::Type(format!("column {id} is not in {t}")))
}

fn make_nullable(columns: &[Column]) -> impl Iterator<Item = Column> + '_ {
    columns.iter().map(|c| Column { id: c.id, ty: RowType { nullable: true, ..c.ty } })
}

fn is_predicate(results: &[Type]) -> Result<()> {
    match results {
        [Type::Scalar(t)] if t.ty == ScalarType::Bool => Ok(()),
        _ => Err(Error::Type("a predicate must yield one bool".into())),
    }
}

/// The result type of a join of these tables.
pub fn join_type(kind: JoinKind, left: &TableType, right: &TableType, predicate_nullable: bool) -> TableType {
    let mut columns = left.columns.clone();
    match kind {
        JoinKind::Inner => columns.extend(&right.columns),
        JoinKind::Left | JoinKind::Single => columns.extend(make_nullable(&right.columns)),
        JoinKind::Right => {
            columns = make_nullable(&left.columns).collect();
            columns.extend(&right.columns);
        }
        JoinKind::Full => {
            columns = make_nullable(&left.columns).collect();
            columns.extend(make_nullable(&right.columns));
        }
        JoinKind::Semi | JoinKind::Anti => {}
        JoinKind::Mark(id) => columns.push(Column { id, ty: ScalarType::Bool.nullable(predicate_nullable) }),
    }
    TableType { columns }
}

impl RelOp {
    /// The result's type. `regions` holds the types that each region yields.
    pub fn infer(&self, p: &Program, operands: &[&Type], regions: &[Vec<Type>]) -> Result<Vec<Type>> {
        let ty = match self {
            Self::Scan { input, columns } => scan_type(p, *input, columns)?,
            Self::Values { columns, rows } => values_type(columns, rows)?,
            Self::Extend { columns } => extend_type(table(operands, 0)?, columns, regions)?,
            Self::Project { columns } => {
                let t = table(operands, 0)?;
                let keep = columns.iter().map(|id| Ok(Column { id: *id, ty: column(t, *id)? }));
                TableType { columns: keep.collect::<Result<_>>()? }
            }
            Self::Filter => {
                is_predicate(regions.first().map_or(&[][..], |r| r))?;
                table(operands, 0)?.clone()
            }
            Self::Join { kind } => {
                let predicate = regions.first().map_or(&[][..], |r| r);
                is_predicate(predicate)?;
                join_type(
                    *kind,
                    table(operands, 0)?,
                    table(operands, 1)?,
                    predicate[0].as_scalar().is_none_or(|t| t.nullable),
                )
            }
            Self::DependentJoin { kind } => dependent_join_type(*kind, table(operands, 0)?, regions)?,
            Self::Group { keys, aggregates } => group_type(table(operands, 0)?, keys, aggregates)?,
            Self::Sort { keys, .. } => {
                let t = table(operands, 0)?;
                for k in keys {
                    column(t, k.column)?;
                }
                t.clone()
            }
            Self::Limit { .. } => table(operands, 0)?.clone(),
            Self::Union { inputs, columns } => union_type(operands, inputs, columns)?,
            Self::Recurse { base, working, columns, .. } => {
                recurse_type(table(operands, 0)?, regions, base, working, columns)?
            }
            Self::Window { partition, order, columns } => window_type(table(operands, 0)?, partition, order, columns)?,
        };
        Ok(vec![Type::Table(ty)])
    }
}

/// The scanned columns with the types that they have in the input.
fn scan_type(p: &Program, input: InputId, columns: &[ScanColumn]) -> Result<TableType> {
    let InputKind::Table(source) = &p.input(input).kind else {
        return Err(Error::Type(format!("{input} is not a table")));
    };
    let columns = columns.iter().map(|c| {
        let s = source
            .get(c.source as usize)
            .ok_or_else(|| Error::Type(format!("{input} has no column number {}", c.source)))?;
        Ok(Column { id: c.id, ty: s.ty })
    });
    Ok(TableType { columns: columns.collect::<Result<_>>()? })
}

/// The columns as declared, which every row must fit.
fn values_type(columns: &[Column], rows: &[Vec<Value>]) -> Result<TableType> {
    for row in rows {
        let fits = row.len() == columns.len()
            && row.iter().zip(columns).all(|(v, c)| v.fits(c.ty.ty) && (c.ty.nullable || !v.is_null()));
        if !fits {
            return Err(Error::Type("a row of values does not fit its columns".into()));
        }
    }
    Ok(TableType { columns: columns.to_vec() })
}

/// The operand's columns, then one for each scalar that the region yields.
fn extend_type(operand: &TableType, columns: &[ColumnId], regions: &[Vec<Type>]) -> Result<TableType> {
    let mut t = operand.clone();
    let yields = regions.first().map_or(&[][..], |r| r);
    if yields.len() != columns.len() {
        return Err(Error::Type("extend yields another number of values than it adds columns".into()));
    }
    for (id, ty) in columns.iter().zip(yields) {
        let ty = ty.as_scalar().ok_or_else(|| Error::Type("extend must yield scalars".into()))?;
        t.columns.push(Column { id: *id, ty });
    }
    Ok(t)
}

/// As a join of the left rows with the table that the first region yields for each of them.
fn dependent_join_type(kind: JoinKind, left: &TableType, regions: &[Vec<Type>]) -> Result<TableType> {
    if matches!(kind, JoinKind::Right | JoinKind::Full) {
        return Err(Error::Type("a dependent join cannot be a right or a full join".into()));
    }
    let [right, predicate] = regions else {
        return Err(Error::Type("a dependent join has two regions".into()));
    };
    is_predicate(predicate)?;
    let right = match right.as_slice() {
        [Type::Table(t)] => t,
        _ => return Err(Error::Type("the first region of a dependent join yields one table".into())),
    };
    Ok(join_type(kind, left, right, predicate[0].as_scalar().is_none_or(|t| t.nullable)))
}

/// The keys, then the aggregates. A count or a fold over values that are there in groups that are not empty is never NULL.
fn group_type(t: &TableType, keys: &[ColumnId], aggregates: &[Aggregate]) -> Result<TableType> {
    let mut columns = Vec::new();
    for &id in keys {
        columns.push(Column { id, ty: column(t, id)? });
    }
    for a in aggregates {
        let arg = a.arg.map(|id| column(t, id)).transpose()?;
        if let Some(f) = a.filter
            && column(t, f)?.ty != ScalarType::Bool
        {
            return Err(Error::Type("an aggregate's filter must be a bool column".into()));
        }
        let mut ty = a.reducer.result_type(arg)?;
        let always = !keys.is_empty() && a.filter.is_none() && arg.is_some_and(|t| !t.nullable);
        if always && !matches!(a.reducer, Reducer::VarSample | Reducer::StddevSample) {
            ty.nullable = false;
        }
        columns.push(Column { id: a.out, ty });
    }
    Ok(TableType { columns })
}

/// New columns of the types that all operands' columns have; nullable where one of them is.
fn union_type(operands: &[&Type], inputs: &[Vec<ColumnId>], columns: &[ColumnId]) -> Result<TableType> {
    let mut types: Option<Vec<RowType>> = None;
    if inputs.len() != operands.len() {
        return Err(Error::Type("a union names the columns of each operand".into()));
    }
    for (i, ids) in inputs.iter().enumerate() {
        let t = table(operands, i)?;
        let here: Vec<RowType> = ids.iter().map(|id| column(t, *id)).collect::<Result<_>>()?;
        match &mut types {
            None => types = Some(here),
            Some(all) => {
                if all.len() != here.len() || all.iter().zip(&here).any(|(a, b)| a.ty != b.ty) {
                    return Err(Error::Type("the operands of a union have other types".into()));
                }
                all.iter_mut().zip(&here).for_each(|(a, b)| a.nullable |= b.nullable);
            }
        }
    }
    let types = types.ok_or_else(|| Error::Type("a union has an operand".into()))?;
    if types.len() != columns.len() {
        return Err(Error::Type("a union has as many columns as each operand".into()));
    }
    Ok(TableType { columns: columns.iter().zip(types).map(|(id, ty)| Column { id: *id, ty }).collect() })
}

/// The columns as declared, which the first rows and those of a step must fit.
fn recurse_type(
    first: &TableType,
    regions: &[Vec<Type>],
    base: &[ColumnId],
    working: &[ColumnId],
    columns: &[Column],
) -> Result<TableType> {
    let [step] = regions else { return Err(Error::Type("a recursion has one region".into())) };
    let step = match step.as_slice() {
        [Type::Table(t)] => t,
        _ => return Err(Error::Type("the region of a recursion yields one table".into())),
    };
    let first: Vec<RowType> = base.iter().map(|id| column(first, *id)).collect::<Result<_>>()?;
    let next: Vec<RowType> = step.columns.iter().map(|c| c.ty).collect();
    for types in [first, next] {
        let fits = |(a, b): (&RowType, &Column)| a.ty == b.ty.ty && (b.ty.nullable || !a.nullable);
        let all = types.len() == columns.len() && types.iter().zip(columns).all(fits);
        if !all || working.len() != columns.len() {
            return Err(Error::Type("the rows of a recursion do not fit its columns".into()));
        }
    }
    Ok(TableType { columns: columns.to_vec() })
}

/// The operand's columns, then those of the functions.
fn window_type(
    source: &TableType,
    partition: &[ColumnId],
    order: &[SortKey],
    columns: &[WindowColumn],
) -> Result<TableType> {
    let mut t = source.clone();
    for id in partition.iter().chain(order.iter().map(|k| &k.column)) {
        column(source, *id)?;
    }
    for c in columns {
        let arg = c.arg.map(|id| column(source, id)).transpose()?;
        t.columns.push(Column { id: c.out, ty: c.func.result_type(arg)? });
    }
    Ok(t)
}

impl WindowFunc {
    /// The result's type over an argument of this type.
    pub fn result_type(&self, arg: Option<RowType>) -> Result<RowType> {
        let need = || arg.ok_or_else(|| Error::Type("a window function lacks its argument".into()));
        Ok(match self {
            Self::RowNumber | Self::Rank | Self::DenseRank | Self::Ntile(_) => ScalarType::I64.nullable(false),
            Self::PercentRank | Self::CumeDist => ScalarType::F64.nullable(false),
            Self::Lag { default, .. } => {
                let arg = need()?;
                if !default.fits(arg.ty) {
                    return Err(Error::Type("the default of lag has another type than its argument".into()));
                }
                RowType { nullable: arg.nullable || default.is_null(), ..arg }
            }
            Self::NthValue(_) | Self::LastValue => RowType { nullable: true, ..need()? },
            Self::Concat { .. } => {
                let arg = need()?;
                if arg.ty != ScalarType::Text {
                    return Err(Error::Type(format!("concat joins texts, not {}", arg.ty)));
                }
                arg.ty.nullable(true)
            }
            Self::Reduce(r) => r.result_type(arg)?,
        })
    }
}
