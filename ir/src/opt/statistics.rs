//! What is known of the inputs, and how many rows that makes.
//!
//! Estimates choose among programs that give the same rows; no result depends on them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use runtime::column::{Bound, Column, ColumnStats};

use super::rows::{Condition, Part, conjuncts};
use crate::entity::{ColumnId, ValueId};
use crate::graph::rel::JoinKind;
use crate::graph::{BridgeOp, InputKind, Op, Program, RelOp};
use crate::scalar::ScalarOp;
use crate::types::ScalarType;
use crate::value::Value;

/// What is known of the tables that a program reads, by the names of its inputs.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    tables: HashMap<String, TableStatistics>,
}

/// What is known of one table.
#[derive(Clone, Debug, Default)]
struct TableStatistics {
    rows: f64,
    columns: HashMap<String, ColumnStats>,
}

impl Statistics {
    /// Nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a table: its rows, and those of its columns that are at hand.
    pub fn add<'a>(
        &mut self,
        input: impl Into<String>,
        rows: usize,
        columns: impl IntoIterator<Item = (&'a str, &'a Arc<Column>)>,
    ) {
        let columns = columns.into_iter().map(|(name, c)| (name.to_string(), c.stats().clone())).collect();
        self.tables.insert(input.into(), TableStatistics { rows: rows as f64, columns });
    }
}

/// Rows of a table of which nothing is known.
const UNKNOWN_ROWS: f64 = 10_000.0;
/// The share of rows that passes a condition of which nothing is known.
const UNKNOWN_SHARE: f64 = 0.3;
/// The share of texts that matches a pattern.
const MATCHING_SHARE: f64 = 0.1;

/// Estimates for the tables of a program.
pub(super) struct Estimates<'a> {
    p: &'a Program,
    /// What is known of the columns of inputs.
    columns: HashMap<ColumnId, &'a ColumnStats>,
    /// The scan that a column comes from, and its rows if they are known.
    scans: HashMap<ColumnId, usize>,
    scan_rows: HashMap<usize, f64>,
    rows: HashMap<ValueId, f64>,
    statistics: &'a Statistics,
}

impl<'a> Estimates<'a> {
    pub(super) fn new(p: &'a Program, statistics: &'a Statistics) -> Self {
        let mut columns = HashMap::new();
        let mut scans = HashMap::new();
        let mut scan_rows = HashMap::new();
        for (i, node) in p.nodes.iter().enumerate() {
            if let Op::Rel(RelOp::Scan { columns, .. }) = &node.op {
                scans.extend(columns.iter().map(|c| (c.id, i)));
            }
            if let Op::Rel(RelOp::Scan { input, columns: list }) = &node.op
                && let (InputKind::Table(source), Some(known)) =
                    (&p.input(*input).kind, statistics.tables.get(&p.input(*input).name))
            {
                scan_rows.insert(i, known.rows);
                for c in list {
                    let name = source.get(c.source as usize).map(|s| &s.name);
                    if let Some(stats) = name.and_then(|name| known.columns.get(name)) {
                        columns.insert(c.id, stats);
                    }
                }
            }
        }
        Self { p, columns, scans, scan_rows, rows: HashMap::new(), statistics }
    }

    /// Rows of a table, at least 1.
    pub(super) fn rows(&mut self, v: ValueId) -> f64 {
        if let Some(rows) = self.rows.get(&v) {
            return *rows;
        }
        let rows = self.estimate(v).max(1.0);
        self.rows.insert(v, rows);
        rows
    }

    fn estimate(&mut self, v: ValueId) -> f64 {
        let Some(node) = self.p.node_of(v) else { return UNKNOWN_ROWS };
        let Op::Rel(op) = &node.op else {
            return match (&node.op, node.operands.first()) {
                (Op::Bridge(BridgeOp::Apply { .. }), Some(v)) => self.rows(*v),
                _ => UNKNOWN_ROWS,
            };
        };
        let operands: Vec<f64> = node.operands.iter().map(|v| self.rows(*v)).collect();
        let operand = |i: usize| operands[i];
        match op {
            RelOp::Scan { input, .. } => {
                self.statistics.tables.get(&self.p.input(*input).name).map_or(UNKNOWN_ROWS, |t| t.rows)
            }
            RelOp::Values { rows, .. } => rows.len() as f64,
            RelOp::Extend { .. } | RelOp::Project { .. } | RelOp::Window { .. } | RelOp::Sort { limit: None, .. } => {
                operand(0)
            }
            RelOp::Sort { limit: Some(n), .. } | RelOp::Limit { count: Some(n), .. } => operand(0).min(*n as f64),
            RelOp::Limit { count: None, .. } => operand(0),
            RelOp::Union { .. } => operands.iter().sum(),
            RelOp::DependentJoin { .. } => operand(0),
            // How often it goes round is not known: more rows than the first ones at any rate.
            RelOp::Recurse { .. } => operand(0).max(UNKNOWN_ROWS),
            RelOp::Filter => {
                let parts = conjuncts(self.p, node.regions[0]);
                operand(0) * self.share_of_all(&parts)
            }
            RelOp::Group { keys, .. } => {
                let rows = operand(0);
                let groups: f64 = keys.iter().map(|c| self.distinct(*c, rows)).product();
                groups.min(rows)
            }
            RelOp::Join { kind } => {
                let (left, right) = (operand(0), operand(1));
                let conditions: Vec<Condition> =
                    conjuncts(self.p, node.regions[0]).into_iter().map(Condition::Part).collect();
                let pairs = left * right * self.share_of_pairs(&conditions, left, right);
                match kind {
                    JoinKind::Inner => pairs,
                    JoinKind::Left => pairs.max(left),
                    JoinKind::Right => pairs.max(right),
                    JoinKind::Full => pairs.max(left).max(right),
                    JoinKind::Mark(_) | JoinKind::Single => left,
                    JoinKind::Semi => left * self.share_with_partner(&conditions, left, right),
                    JoinKind::Anti => left * self.share_without_partner(&conditions, left, right),
                }
            }
        }
    }

    /// Distinct values of a column among so many rows.
    fn distinct(&self, c: ColumnId, rows: f64) -> f64 {
        match self.columns.get(&c) {
            Some(stats) => (stats.distinct as f64).min(rows).max(1.0),
            None => rows.max(1.0),
        }
    }

    /// The share of a table's rows that have a partner in another one.
    pub(super) fn share_with_partner(&self, conditions: &[Condition], left: f64, right: f64) -> f64 {
        let share = conditions.iter().filter_map(|c| match self.equality(c) {
            Some((a, b)) => {
                // The greater domain is the one that the smaller refers to.
                let (a, b) = (self.domain(a), self.domain(b));
                let domain = a.unwrap_or(left).max(b.unwrap_or(1.0));
                Some((right / domain).min(1.0))
            }
            None => None,
        });
        share.fold(1.0, f64::min)
    }

    /// The share of a table's rows that have no partner in another one.
    pub(super) fn share_without_partner(&self, conditions: &[Condition], left: f64, right: f64) -> f64 {
        // Whether a partner fulfils more than equalities is unknown.
        let met = if conditions.iter().all(|c| self.equality(c).is_some()) { 1.0 } else { 0.5 };
        (1.0 - met * self.share_with_partner(conditions, left, right)).max(0.1)
    }

    fn domain(&self, c: ColumnId) -> Option<f64> {
        self.columns.get(&c).map(|s| s.distinct as f64)
    }

    /// The columns of an equality of two columns.
    pub(super) fn equality(&self, c: &Condition) -> Option<(ColumnId, ColumnId)> {
        match c {
            Condition::Columns(ScalarOp::Eq | ScalarOp::IsNotDistinct, a, b) => Some((*a, *b)),
            Condition::Part(part) => {
                let node = self.p.node_of(part.value)?;
                let Op::Scalar(ScalarOp::Eq | ScalarOp::IsNotDistinct) = node.op else { return None };
                Some((self.column(node.operands[0])?, self.column(node.operands[1])?))
            }
            _ => None,
        }
    }

    /// The column that a value is, casts aside.
    fn column(&self, v: ValueId) -> Option<ColumnId> {
        let node = self.p.node_of(v)?;
        match &node.op {
            Op::Col(id) => Some(*id),
            Op::Scalar(ScalarOp::Cast(_)) => self.column(node.operands[0]),
            _ => None,
        }
    }

    /// The share of pairs of rows that fulfil these conditions. Columns of a key are not independent: see [`Self::key_domain`].
    pub(super) fn share_of_pairs(&self, conditions: &[Condition], left: f64, right: f64) -> f64 {
        let mut equalities = Vec::new();
        let mut domains: Vec<f64> = Vec::new();
        let mut share = 1.0;
        for c in conditions {
            match self.equality(c) {
                Some((a, b)) => {
                    let domain = match (self.domain(a), self.domain(b)) {
                        (Some(a), Some(b)) => a.max(b),
                        (Some(a), None) | (None, Some(a)) => a,
                        (None, None) => left.max(right),
                    };
                    equalities.push((a, b));
                    domains.push(domain.max(1.0));
                }
                None => share *= self.share_of_condition(c),
            }
        }
        domains.sort_by(|a, b| b.total_cmp(a));
        let Some(greatest) = domains.first().copied() else { return share };
        // Of columns of unknown tables the one with most values counts in full, the others less.
        let domain = self
            .key_domain(&equalities)
            .unwrap_or_else(|| domains.iter().skip(1).fold(greatest, |domain, d| domain * d.sqrt()));
        share / domain.max(greatest)
    }

    /// Distinct values of a key of several columns: no more than either table has rows, filters aside, for one of the two refers
    /// to the rows of the other. `None` where the columns do not come from two tables of known rows.
    fn key_domain(&self, equalities: &[(ColumnId, ColumnId)]) -> Option<f64> {
        let (first, _) = equalities.first().filter(|_| equalities.len() > 1)?;
        let side = self.scans.get(first)?;
        let mut of_sides: [Option<(usize, f64)>; 2] = [None; 2];
        for (a, b) in equalities {
            let pair = if self.scans.get(a)? == side { [a, b] } else { [b, a] };
            for (of_side, column) in of_sides.iter_mut().zip(pair) {
                let scan = *self.scans.get(column)?;
                let (known, domain) = of_side.get_or_insert((scan, 1.0));
                if *known != scan {
                    return None;
                }
                *domain *= self.domain(*column)?.max(1.0);
            }
        }
        let mut least = f64::INFINITY;
        for (scan, domain) in of_sides.into_iter().flatten() {
            least = least.min(domain.min(*self.scan_rows.get(&scan)?));
        }
        Some(least)
    }

    /// The share of a table's rows that fulfil all of these.
    pub(super) fn share_of(&self, conditions: &[Condition]) -> f64 {
        let parts: Vec<Part> = conditions
            .iter()
            .filter_map(|c| match c {
                Condition::Part(part) => Some(part.clone()),
                _ => None,
            })
            .collect();
        let others = conditions.iter().filter(|c| !matches!(c, Condition::Part(_)));
        others.fold(self.share_of_all(&parts), |share, c| share * self.share_of_condition(c))
    }

    fn share_of_condition(&self, c: &Condition) -> f64 {
        match c {
            Condition::Part(part) => self.share(part.value),
            Condition::Any(branches) => self.share_of_any(branches),
            Condition::Columns(..) | Condition::Key(..) | Condition::IsTrue(_) => UNKNOWN_SHARE,
        }
    }

    /// The share of pairs that fulfil a disjunction over several tables, of those whose rows fulfil what it says of each table
    /// alone: that was sent to the tables before.
    fn share_of_any(&self, branches: &[Vec<Part>]) -> f64 {
        let any = |branches: &[Vec<Part>]| branches.iter().map(|b| self.share_of_all(b)).sum::<f64>().min(1.0);
        let mut share = any(branches);
        let scan = |part: &Part| {
            let mut scans = part.columns.iter().map(|c| self.scans.get(c));
            let first = scans.next().flatten();
            if scans.all(|s| s == first) { first } else { None }
        };
        let of_first: BTreeSet<&usize> = branches.first().into_iter().flatten().filter_map(scan).collect();
        for table in of_first {
            let here = |b: &Vec<Part>| -> Vec<Part> { b.iter().filter(|p| scan(p) == Some(table)).cloned().collect() };
            let here: Vec<Vec<Part>> = branches.iter().map(here).collect();
            if here.iter().all(|b| !b.is_empty()) {
                share /= any(&here).max(1e-6);
            }
        }
        share.clamp(1e-6, 1.0)
    }

    /// The share of rows that fulfil all of these. The two ends of a range belong together.
    fn share_of_all(&self, parts: &[Part]) -> f64 {
        let mut share = 1.0;
        let mut ranges: Vec<(ColumnId, f64)> = Vec::new();
        for part in parts {
            match self.range(part.value) {
                Some((column, s)) => match ranges.iter_mut().find(|r| r.0 == column) {
                    Some(r) => r.1 = (r.1 + s - 1.0).max(0.001),
                    None => ranges.push((column, s)),
                },
                None => share *= self.share(part.value),
            }
        }
        ranges.iter().fold(share, |share, r| share * r.1)
    }

    /// The share of rows for which a predicate is true.
    fn share(&self, v: ValueId) -> f64 {
        let Some(node) = self.p.node_of(v) else { return UNKNOWN_SHARE };
        let operand = |i: usize| node.operands.get(i).copied();
        match &node.op {
            Op::Literal(Value::Bool(b), _) => f64::from(u8::from(*b)),
            Op::Scalar(ScalarOp::And) => node.operands.iter().map(|v| self.share(*v)).product(),
            Op::Scalar(ScalarOp::Or) => node.operands.iter().map(|v| self.share(*v)).sum::<f64>().min(1.0),
            Op::Scalar(ScalarOp::Not) => operand(0).map_or(UNKNOWN_SHARE, |v| 1.0 - self.share(v)),
            Op::Scalar(ScalarOp::Eq) => self.equal_share(&node.operands),
            Op::Scalar(ScalarOp::Ne) => 1.0 - self.equal_share(&node.operands),
            Op::Scalar(ScalarOp::Lt | ScalarOp::Le | ScalarOp::Gt | ScalarOp::Ge) => {
                self.range(v).map_or(UNKNOWN_SHARE, |r| r.1)
            }
            Op::Scalar(ScalarOp::Like | ScalarOp::ILike | ScalarOp::RegexMatch | ScalarOp::Contains) => MATCHING_SHARE,
            Op::Scalar(ScalarOp::StartsWith) => MATCHING_SHARE,
            _ => UNKNOWN_SHARE,
        }
    }

    fn equal_share(&self, operands: &[ValueId]) -> f64 {
        let distinct: Vec<f64> = operands.iter().filter_map(|v| self.domain(self.column(*v)?)).collect();
        distinct.into_iter().fold(None, |a: Option<f64>, d| Some(a.map_or(d, |a| a.max(d)))).map_or(
            // An expression has fewer values than the column that it is made of.
            MATCHING_SHARE,
            |d| 1.0 / d.max(1.0),
        )
    }

    /// For a comparison of a column with a constant: the column and the share of rows, values being spread evenly.
    fn range(&self, v: ValueId) -> Option<(ColumnId, f64)> {
        let node = self.p.node_of(v)?;
        let Op::Scalar(op @ (ScalarOp::Lt | ScalarOp::Le | ScalarOp::Gt | ScalarOp::Ge)) = node.op else { return None };
        let (a, b) = (node.operands[0], node.operands[1]);
        let (column, constant, below) = match (self.column(a), self.constant(b), self.column(b), self.constant(a)) {
            (Some(c), Some(x), _, _) => (c, x, matches!(op, ScalarOp::Lt | ScalarOp::Le)),
            (_, _, Some(c), Some(x)) => (c, x, matches!(op, ScalarOp::Gt | ScalarOp::Ge)),
            _ => return None,
        };
        let stats = self.columns.get(&column)?;
        let scale = match self.p.columns[column.index()].ty {
            ScalarType::Decimal { scale, .. } => 10f64.powi(-i32::from(scale)),
            _ => 1.0,
        };
        let (low, high) = (number(stats.min.as_ref()?, scale)?, number(stats.max.as_ref()?, scale)?);
        let before = if high > low { ((constant - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
        Some((column, if below { before } else { 1.0 - before }))
    }

    fn constant(&self, v: ValueId) -> Option<f64> {
        let node = self.p.node_of(v)?;
        match &node.op {
            Op::Scalar(ScalarOp::Cast(_)) => self.constant(node.operands[0]),
            Op::Literal(v, ty) => Some(match v {
                Value::I32(x) | Value::Date(x) => f64::from(*x),
                Value::I64(x) | Value::Timestamp(x) => *x as f64,
                Value::F32(x) => f64::from(*x),
                Value::F64(x) => *x,
                Value::Decimal(x) => match ty.ty {
                    ScalarType::Decimal { scale, .. } => *x as f64 * 10f64.powi(-i32::from(scale)),
                    _ => *x as f64,
                },
                Value::Null | Value::Bool(_) | Value::Text(_) => return None,
            }),
            _ => None,
        }
    }
}

fn number(bound: &Bound, scale: f64) -> Option<f64> {
    match bound {
        Bound::Int(v) => Some(*v as f64 * scale),
        Bound::Float(v) => Some(*v),
        Bound::Text(_) => None,
    }
}

/// The name of the input that a table comes from, or what makes it.
pub(super) fn source(p: &Program, v: ValueId) -> String {
    let Some(node) = p.node_of(v) else { return "table".into() };
    match &node.op {
        Op::Rel(RelOp::Scan { input, .. }) => p.input(*input).name.clone(),
        Op::Rel(RelOp::Group { .. }) => "groups".into(),
        Op::Rel(RelOp::Filter | RelOp::Extend { .. } | RelOp::Project { .. }) => source(p, node.operands[0]),
        _ => "table".into(),
    }
}
