//! Relational operations.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Item, Machine, bug, needed, trap};
use crate::entity::{ColumnId, RegionId, ValueId};
use crate::error::{Result, TrapKind};
use crate::exec::{BoundInput, column_of_values, column_value};
use crate::graph::rel::{Aggregate, JoinKind, SortKey};
use crate::graph::{Def, Node, Op, RelOp};
use crate::scalar::reduce::Evaluator;
use crate::scalar::{self, ScalarOp, compare};
use crate::types::{ScalarType, TableType, Type};
use crate::value::Value;

/// A table: columns of `rows` values each.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) columns: Vec<(ColumnId, Arc<Vec<Value>>)>,
    pub(super) rows: usize,
}

impl Table {
    pub(super) fn column(&self, id: ColumnId) -> Option<&Arc<Vec<Value>>> {
        self.columns.iter().find(|c| c.0 == id).map(|c| &c.1)
    }

    fn get(&self, id: ColumnId) -> Result<&Arc<Vec<Value>>> {
        match self.column(id) {
            Some(values) => Ok(values),
            None => bug("a column that the table has not"),
        }
    }

    /// The rows at these places, in this order.
    fn pick(&self, rows: &[usize]) -> Self {
        let columns = self.columns.iter().map(|(id, values)| (*id, pick(values, rows))).collect();
        Self { columns, rows: rows.len() }
    }

    /// The rows at these places, NULLs where there is none.
    fn pick_or_null(&self, rows: &[Option<usize>]) -> Self {
        let value = |values: &[Value], row: &Option<usize>| row.map_or(Value::Null, |r| values[r].clone());
        let column = |values: &Arc<Vec<Value>>| Arc::new(rows.iter().map(|r| value(values, r)).collect());
        let columns = self.columns.iter().map(|(id, values)| (*id, column(values))).collect();
        Self { columns, rows: rows.len() }
    }

    pub(super) fn to_runtime(&self, ty: &TableType, names: &[String]) -> Result<runtime::column::Table> {
        let mut columns = Vec::new();
        for (i, c) in ty.columns.iter().enumerate() {
            let name = names.get(i).cloned().unwrap_or_default();
            columns.push((name, Arc::new(column_of_values(c.ty.ty, self.get(c.id)?)?)));
        }
        Ok(runtime::column::Table::new(columns, self.rows))
    }
}

fn pick(values: &[Value], rows: &[usize]) -> Arc<Vec<Value>> {
    Arc::new(rows.iter().map(|r| values[*r].clone()).collect())
}

/// A value such that equal values (as SQL has it: NaN equals itself, -0 equals 0) are identical, NULLs too.
pub(super) fn key(v: &Value) -> Value {
    match v {
        Value::F32(x) if x.is_nan() => Value::F32(f32::NAN),
        Value::F64(x) if x.is_nan() => Value::F64(f64::NAN),
        Value::F32(x) => Value::F32(x + 0.0),
        Value::F64(x) => Value::F64(x + 0.0),
        v => v.clone(),
    }
}

/// The key of a row in these columns.
fn row_key(columns: &[&Arc<Vec<Value>>], row: usize) -> Vec<Value> {
    columns.iter().map(|c| key(&c[row])).collect()
}

/// The order of two rows.
pub(super) fn row_order(keys: &[(Arc<Vec<Value>>, SortKey)], a: usize, b: usize) -> Ordering {
    for (values, k) in keys {
        let (x, y) = (&values[a], &values[b]);
        let order = match (x.is_null(), y.is_null()) {
            (true, true) => Ordering::Equal,
            (true, false) if k.nulls_first => Ordering::Less,
            (true, false) => Ordering::Greater,
            (false, true) if k.nulls_first => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) if k.descending => compare(y, x),
            (false, false) => compare(x, y),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

pub(super) fn sort_columns(table: &Table, keys: &[SortKey]) -> Result<Vec<(Arc<Vec<Value>>, SortKey)>> {
    keys.iter().map(|k| Ok((table.get(k.column)?.clone(), *k))).collect()
}

/// Rows by group, groups in the order of their first rows.
pub(super) fn groups(table: &Table, keys: &[ColumnId]) -> Result<Vec<Vec<usize>>> {
    let columns: Vec<&Arc<Vec<Value>>> = keys.iter().map(|id| table.get(*id)).collect::<Result<_>>()?;
    let mut found: HashMap<Vec<Value>, usize> = HashMap::new();
    let mut out: Vec<Vec<usize>> = Vec::new();
    for row in 0..table.rows {
        let group = *found.entry(row_key(&columns, row)).or_insert(out.len());
        if group == out.len() {
            out.push(vec![]);
        }
        out[group].push(row);
    }
    Ok(out)
}

/// Which right rows may be partners of a left row.
enum Candidates {
    All,
    /// Rows by key; rows with a NULL in the key; the left rows' keys. A pair of different keys without a NULL is no match.
    ByKey {
        rows: HashMap<Vec<Value>, Vec<usize>>,
        nulls: Vec<usize>,
        left: Vec<Vec<Value>>,
    },
}

impl Machine<'_> {
    pub(super) fn rel(&mut self, op: &RelOp, node: &Node) -> Result<Table> {
        let operand = |m: &Self, i: usize| m.table(node.operands[i]);
        match op {
            RelOp::Scan { input, columns } => {
                let BoundInput::Table { columns: source, rows } = &self.inputs.inputs[input.index()] else {
                    return bug("a scan of something else than a table");
                };
                let read = |c: &runtime::column::Column| (0..*rows).map(|r| column_value(c, r)).collect();
                let columns = columns.iter().map(|c| (c.id, Arc::new(read(&source[c.source as usize])))).collect();
                Ok(Table { columns, rows: *rows })
            }
            RelOp::Values { columns, rows } => {
                let columns = columns
                    .iter()
                    .enumerate()
                    .map(|(i, c)| (c.id, Arc::new(rows.iter().map(|r| r[i].clone()).collect())))
                    .collect();
                Ok(Table { columns, rows: rows.len() })
            }
            RelOp::Extend { columns } => {
                let table = operand(self, 0)?;
                let mut added = vec![Vec::with_capacity(table.rows); columns.len()];
                self.each_row(&table, node.regions[0], |_, values| {
                    added.iter_mut().zip(values).for_each(|(column, v)| column.push(v));
                    Ok(())
                })?;
                let mut out = Table::clone(&table);
                out.columns.extend(columns.iter().zip(added).map(|(id, values)| (*id, Arc::new(values))));
                Ok(out)
            }
            RelOp::Project { columns } => {
                let table = operand(self, 0)?;
                let columns = columns.iter().map(|id| Ok((*id, table.get(*id)?.clone()))).collect::<Result<_>>()?;
                Ok(Table { columns, rows: table.rows })
            }
            RelOp::Filter => {
                let table = operand(self, 0)?;
                let mut kept = Vec::new();
                self.each_row(&table, node.regions[0], |row, values| {
                    if matches!(values[..], [Value::Bool(true)]) {
                        kept.push(row);
                    }
                    Ok(())
                })?;
                Ok(table.pick(&kept))
            }
            RelOp::Join { kind } => {
                let (left, right) = (operand(self, 0)?, operand(self, 1)?);
                self.join(*kind, &left, &right, node)
            }
            RelOp::DependentJoin { kind } => {
                let left = operand(self, 0)?;
                self.dependent_join(*kind, &left, node)
            }
            RelOp::Group { keys, aggregates } => {
                let table = operand(self, 0)?;
                self.group(&table, keys, aggregates)
            }
            RelOp::Sort { keys, limit } => {
                let table = operand(self, 0)?;
                let columns = sort_columns(&table, keys)?;
                let mut rows: Vec<usize> = (0..table.rows).collect();
                rows.sort_by(|a, b| row_order(&columns, *a, *b));
                rows.truncate(limit.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX)));
                Ok(table.pick(&rows))
            }
            RelOp::Limit { offset, count } => {
                let table = operand(self, 0)?;
                let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
                let start = size(*offset).min(table.rows);
                let end = start.saturating_add(count.map_or(usize::MAX, size)).min(table.rows);
                Ok(table.pick(&(start..end).collect::<Vec<_>>()))
            }
            RelOp::Union { inputs, columns } => {
                let mut out = vec![Vec::new(); columns.len()];
                let mut rows = 0;
                for (i, ids) in inputs.iter().enumerate() {
                    let table = operand(self, i)?;
                    rows += table.rows;
                    for (column, id) in out.iter_mut().zip(ids) {
                        column.extend_from_slice(table.get(*id)?);
                    }
                }
                let columns = columns.iter().zip(out).map(|(id, values)| (*id, Arc::new(values))).collect();
                Ok(Table { columns, rows })
            }
            RelOp::Recurse { base, working, columns, distinct, limit } => {
                let table = operand(self, 0)?;
                let first = base.iter().map(|id| Ok((*id, table.get(*id)?.clone()))).collect::<Result<_>>()?;
                let first = Table { columns: first, rows: table.rows };
                let ids: Vec<ColumnId> = columns.iter().map(|c| c.id).collect();
                let enough = limit.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
                self.recurse(first, working, &ids, *distinct, enough, node.regions[0])
            }
            RelOp::Window { partition, order, columns } => {
                let table = operand(self, 0)?;
                self.window(&table, partition, order, columns)
            }
        }
    }

    fn recurse(
        &mut self,
        base: Table,
        working: &[ColumnId],
        columns: &[ColumnId],
        distinct: bool,
        enough: usize,
        region: RegionId,
    ) -> Result<Table> {
        let mut all: Vec<Vec<Value>> = vec![vec![]; columns.len()];
        let mut seen = HashSet::new();
        let mut rows = 0;
        let mut next = base;
        loop {
            if distinct {
                let values: Vec<&Arc<Vec<Value>>> = next.columns.iter().map(|c| &c.1).collect();
                let new: Vec<usize> = (0..next.rows).filter(|r| seen.insert(row_key(&values, *r))).collect();
                next = next.pick(&new);
            }
            rows += next.rows;
            for (column, (_, values)) in all.iter_mut().zip(&next.columns) {
                column.extend_from_slice(values);
            }
            if next.rows == 0 || rows >= enough {
                break;
            }
            let current = working.iter().zip(next.columns).map(|(id, (_, values))| (*id, values)).collect();
            self.run_region(region, vec![Item::Table(Arc::new(Table { columns: current, rows: next.rows }))])?;
            let Some(Item::Table(step)) = self.results(region)?.pop() else {
                return bug("a recursion that yields no table");
            };
            next = Table::clone(&step);
        }
        let columns = columns.iter().zip(all).map(|(id, values)| (*id, Arc::new(values))).collect();
        Ok(Table { columns, rows })
    }

    /// Runs `f` where a region reads columns of these tables, each at its cursor.
    fn over_rows<T>(&mut self, tables: &[&Table], f: impl FnOnce(&mut Self, usize) -> Result<T>) -> Result<T> {
        let first = self.cursors.len();
        let mut hidden = Vec::new();
        for table in tables {
            for (id, values) in &table.columns {
                let entry = self.columns[id.index()].replace((values.clone(), self.cursors.len()));
                hidden.push((*id, entry));
            }
            self.cursors.push(0);
        }
        let result = f(self, first);
        self.cursors.truncate(first);
        for (id, entry) in hidden.into_iter().rev() {
            self.columns[id.index()] = entry;
        }
        result
    }

    /// Runs a row region for every row of a table and hands on what it yields.
    fn each_row(
        &mut self,
        table: &Table,
        region: RegionId,
        mut f: impl FnMut(usize, Vec<Value>) -> Result<()>,
    ) -> Result<()> {
        self.over_rows(&[table], |m, cursor| {
            for row in 0..table.rows {
                m.cursors[cursor] = row;
                m.run_region(region, vec![])?;
                let values = m.scalars(region)?;
                f(row, values)?;
            }
            Ok(())
        })
    }

    fn scalars(&self, region: RegionId) -> Result<Vec<Value>> {
        self.p.region(region).results.iter().map(|v| self.scalar(*v).cloned()).collect()
    }

    // Joins.

    fn join(&mut self, kind: JoinKind, left: &Table, right: &Table, node: &Node) -> Result<Table> {
        let region = node.regions[0];
        let candidates = self.candidates(left, right, node)?;
        let mut pairs: Vec<(Option<usize>, Option<usize>)> = Vec::new();
        let mut marks = Vec::new();
        let mut met = vec![false; right.rows];
        self.over_rows(&[left, right], |m, cursor| {
            for l in 0..left.rows {
                m.cursors[cursor] = l;
                let rows = candidates.of(l, right.rows, kind);
                let (partners, unknown) = m.partners(region, cursor + 1, rows, kind)?;
                partners.iter().for_each(|r| met[*r] = true);
                emit(kind, l, &partners, unknown, &mut pairs, &mut marks)?;
            }
            Ok(())
        })?;
        if matches!(kind, JoinKind::Right | JoinKind::Full) {
            pairs.extend((0..right.rows).filter(|r| !met[*r]).map(|r| (None, Some(r))));
        }
        let (l, r): (Vec<Option<usize>>, Vec<Option<usize>>) = pairs.into_iter().unzip();
        let mut out = left.pick_or_null(&l);
        if kind.has_right() {
            out.columns.extend(right.pick_or_null(&r).columns);
        }
        if let JoinKind::Mark(id) = kind {
            out.columns.push((id, Arc::new(marks)));
        }
        Ok(out)
    }

    fn dependent_join(&mut self, kind: JoinKind, left: &Table, node: &Node) -> Result<Table> {
        let (right_region, predicate) = (node.regions[0], node.regions[1]);
        let right_value = self.p.region(right_region).results[0];
        let Type::Table(right_type) = self.p.ty(right_value) else { return bug("a right side that is no table") };
        let mut rows = Vec::new();
        let mut right_columns: Vec<Vec<Value>> = vec![Vec::new(); right_type.columns.len()];
        let mut marks = Vec::new();
        self.over_rows(&[left], |m, cursor| {
            for l in 0..left.rows {
                m.cursors[cursor] = l;
                m.run_region(right_region, vec![])?;
                let right = m.table(right_value)?;
                let all = (0..right.rows).collect();
                let (partners, unknown) =
                    m.over_rows(&[&right], |m, cursor| m.partners(predicate, cursor, all, kind))?;
                let mut pairs = Vec::new();
                emit(kind, l, &partners, unknown, &mut pairs, &mut marks)?;
                for (_, r) in pairs {
                    rows.push(l);
                    for (column, c) in right_columns.iter_mut().zip(&right_type.columns) {
                        let values = right.get(c.id)?;
                        column.push(r.map_or(Value::Null, |r| values[r].clone()));
                    }
                }
            }
            Ok(())
        })?;
        let mut out = left.pick(&rows);
        if kind.has_right() {
            let ids = right_type.columns.iter().map(|c| c.id);
            out.columns.extend(ids.zip(right_columns).map(|(id, values)| (id, Arc::new(values))));
        }
        if let JoinKind::Mark(id) = kind {
            out.columns.push((id, Arc::new(marks)));
        }
        Ok(out)
    }

    /// The right rows for which the predicate is true, and whether it was NULL for one.
    fn partners(
        &mut self,
        predicate: RegionId,
        cursor: usize,
        rows: Vec<usize>,
        kind: JoinKind,
    ) -> Result<(Vec<usize>, bool)> {
        let mut partners = Vec::new();
        let mut unknown = false;
        for r in rows {
            self.cursors[cursor] = r;
            self.run_region(predicate, vec![])?;
            match self.scalar(self.p.region(predicate).results[0])? {
                Value::Bool(true) => {
                    partners.push(r);
                    if matches!(kind, JoinKind::Semi | JoinKind::Anti | JoinKind::Mark(_)) {
                        break;
                    }
                }
                Value::Null => unknown = true,
                _ => {}
            }
        }
        Ok((partners, unknown))
    }

    /// Equalities among the predicate's conjuncts, one side over the left row and one over the right, limit the pairs that are
    /// tried: where they are false, the predicate is false.
    fn candidates(&mut self, left: &Table, right: &Table, node: &Node) -> Result<Candidates> {
        let region = node.regions[0];
        let mut keys: Vec<(ValueId, ValueId)> = Vec::new();
        let mut conjuncts = vec![self.p.region(region).results[0]];
        while let Some(v) = conjuncts.pop() {
            let Some(n) = self.p.node_of(v) else { continue };
            match &n.op {
                Op::Scalar(ScalarOp::And) => conjuncts.extend(&n.operands),
                Op::Scalar(ScalarOp::Eq) => {
                    let (a, b) = (n.operands[0], n.operands[1]);
                    if self.is_over(region, a, left) && self.is_over(region, b, right) {
                        keys.push((a, b));
                    } else if self.is_over(region, b, left) && self.is_over(region, a, right) {
                        keys.push((b, a));
                    }
                }
                _ => {}
            }
        }
        if keys.is_empty() {
            return Ok(Candidates::All);
        }
        let (a, b): (Vec<ValueId>, Vec<ValueId>) = keys.into_iter().unzip();
        let left = self.keys_of(region, left, &a)?;
        let mut rows: HashMap<Vec<Value>, Vec<usize>> = HashMap::new();
        let mut nulls = Vec::new();
        for (r, key) in self.keys_of(region, right, &b)?.into_iter().enumerate() {
            if key.iter().any(Value::is_null) {
                nulls.push(r);
            } else {
                rows.entry(key).or_default().push(r);
            }
        }
        Ok(Candidates::ByKey { rows, nulls, left })
    }

    /// Whether a value of a region is made of scalar operations that cannot raise over columns of this table (at least one).
    fn is_over(&self, region: RegionId, v: ValueId, table: &Table) -> bool {
        let mut columns = 0;
        for n in needed(self.p, region, v) {
            let node = self.p.node(n);
            match &node.op {
                Op::Col(id) if table.column(*id).is_some() => columns += 1,
                Op::Literal(..) => {}
                Op::Scalar(op) => {
                    let types: Vec<ScalarType> =
                        node.operands.iter().filter_map(|v| self.p.ty(*v).as_scalar()).map(|t| t.ty).collect();
                    if scalar::can_raise(*op, &types) {
                        return false;
                    }
                }
                _ => return false,
            }
        }
        columns > 0
            && matches!(self.p.values[v.index()].def, Def::Result(n, _) if self.p.region(region).nodes.contains(&n))
    }

    /// The keys that these values of a region make, for each row.
    fn keys_of(&mut self, region: RegionId, table: &Table, values: &[ValueId]) -> Result<Vec<Vec<Value>>> {
        let nodes: Vec<_> = values.iter().map(|v| needed(self.p, region, *v)).collect();
        self.over_rows(&[table], |m, cursor| {
            let mut out = Vec::with_capacity(table.rows);
            for row in 0..table.rows {
                m.cursors[cursor] = row;
                for n in nodes.iter().flatten() {
                    m.node(*n)?;
                }
                out.push(values.iter().map(|v| Ok(key(m.scalar(*v)?))).collect::<Result<Vec<_>>>()?);
            }
            Ok(out)
        })
    }

    // Groups.

    fn group(&mut self, table: &Table, keys: &[ColumnId], aggregates: &[Aggregate]) -> Result<Table> {
        let mut groups = groups(table, keys)?;
        if keys.is_empty() && groups.is_empty() {
            groups.push(vec![]);
        }
        let first: Vec<usize> = groups.iter().filter_map(|g| g.first().copied()).collect();
        let mut out = Table { columns: vec![], rows: groups.len() };
        for id in keys {
            out.columns.push((*id, pick(table.get(*id)?, &first)));
        }
        for a in aggregates {
            let arg = a.arg.map(|id| table.get(id)).transpose()?;
            let filter = a.filter.map(|id| table.get(id)).transpose()?;
            let ty = a.arg.map(|id| self.p.columns[id.index()].ty);
            let reducer = Evaluator::new(a.reducer, ty);
            let mut results = Vec::with_capacity(groups.len());
            for rows in &groups {
                let mut state = reducer.init();
                let mut seen = HashSet::new();
                for row in rows {
                    if filter.is_some_and(|f| !matches!(f[*row], Value::Bool(true))) {
                        continue;
                    }
                    let v = arg.map(|values| &values[*row]);
                    if a.distinct && v.is_some_and(|v| !seen.insert(key(v))) {
                        continue;
                    }
                    reducer.step(&mut state, v.unwrap_or(&Value::Null))?;
                }
                results.push(reducer.finish(&state)?);
            }
            out.columns.push((a.out, Arc::new(results)));
        }
        Ok(out)
    }
}

impl Candidates {
    fn of(&self, left_row: usize, right_rows: usize, kind: JoinKind) -> Vec<usize> {
        match self {
            Self::All => (0..right_rows).collect(),
            Self::ByKey { rows, nulls, left } => {
                let key = &left[left_row];
                // Only a mark tells NULL from false.
                let tells_null = matches!(kind, JoinKind::Mark(_));
                if key.iter().any(Value::is_null) {
                    return if tells_null { (0..right_rows).collect() } else { vec![] };
                }
                let mut out = rows.get(key).cloned().unwrap_or_default();
                if tells_null {
                    out.extend(nulls);
                }
                out
            }
        }
    }
}

/// What a left row with these partners adds to a join's result.
fn emit(
    kind: JoinKind,
    l: usize,
    partners: &[usize],
    unknown: bool,
    pairs: &mut Vec<(Option<usize>, Option<usize>)>,
    marks: &mut Vec<Value>,
) -> Result<()> {
    match kind {
        JoinKind::Inner | JoinKind::Right => pairs.extend(partners.iter().map(|r| (Some(l), Some(*r)))),
        JoinKind::Left | JoinKind::Full => match partners {
            [] => pairs.push((Some(l), None)),
            rows => pairs.extend(rows.iter().map(|r| (Some(l), Some(*r)))),
        },
        JoinKind::Semi if !partners.is_empty() => pairs.push((Some(l), None)),
        JoinKind::Anti if partners.is_empty() => pairs.push((Some(l), None)),
        JoinKind::Semi | JoinKind::Anti => {}
        JoinKind::Mark(_) => {
            pairs.push((Some(l), None));
            marks.push(match (partners.is_empty(), unknown) {
                (false, _) => Value::Bool(true),
                (true, true) => Value::Null,
                (true, false) => Value::Bool(false),
            });
        }
        JoinKind::Single => match partners {
            [] => pairs.push((Some(l), None)),
            [r] => pairs.push((Some(l), Some(*r))),
            _ => return trap(TrapKind::SubqueryRows),
        },
    }
    Ok(())
}
