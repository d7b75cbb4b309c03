//! Row regions taken apart: the conjuncts of a predicate, what they read, whether they can raise, and writing them elsewhere.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::entity::{ColumnId, NodeId, RegionId, ValueId};
use crate::error::{Error, Result};
use crate::graph::rewrite::{Change, Rebuild, Rewrite, captures, walk};
use crate::graph::{BridgeOp, ControlOp, Def, Node, Op, Program, TensorOp};
use crate::scalar::{self, ScalarOp};
use crate::types::{ScalarType, TableType};
use crate::value::Value;

/// A value of a row region of the old program: a conjunct, mostly.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The value.
    pub(super) value: ValueId,
    /// The columns that it depends on.
    pub(super) columns: BTreeSet<ColumnId>,
    /// Whether evaluating it can raise.
    pub(super) raises: bool,
}

impl Part {
    /// A value of a row region.
    pub(super) fn of(p: &Program, value: ValueId) -> Self {
        let mut columns = BTreeSet::new();
        let mut raises = false;
        let mut seen = HashSet::new();
        examine(p, value, &mut seen, &mut |node| {
            if let Op::Col(id) = node.op {
                columns.insert(id);
            }
            raises |= may_raise(p, node);
        });
        Self { value, columns, raises }
    }

    /// Whether all columns that it reads are among these.
    pub(super) fn reads_only(&self, table: &TableType) -> bool {
        self.columns.iter().all(|c| table.get(*c).is_some())
    }

    /// Whether it reads one of these columns.
    pub(super) fn reads_any(&self, table: &TableType) -> bool {
        self.columns.iter().any(|c| table.get(*c).is_some())
    }
}

/// Calls `f` for every node that a value depends on, those of regions included, up to tables.
fn examine<'a>(p: &'a Program, v: ValueId, seen: &mut HashSet<NodeId>, f: &mut dyn FnMut(&'a Node)) {
    let Def::Result(id, _) = p.values[v.index()].def else { return };
    let node = p.node(id);
    if p.ty(v).as_table().is_some() || !seen.insert(id) {
        return;
    }
    f(node);
    node.operands.iter().for_each(|v| examine(p, *v, seen, f));
    for r in &node.regions {
        walk(p, *r, &mut |id, inner| {
            if seen.insert(id) {
                f(inner);
                inner.operands.iter().for_each(|v| examine(p, *v, seen, f));
            }
        });
        p.region(*r).results.iter().for_each(|v| examine(p, *v, seen, f));
    }
}

/// Whether a node can raise by itself, its regions aside.
pub(super) fn may_raise(p: &Program, node: &Node) -> bool {
    match &node.op {
        Op::Literal(..) | Op::Col(_) | Op::Input(_) => false,
        Op::Scalar(op) => {
            let types: Option<Vec<ScalarType>> =
                node.operands.iter().map(|v| p.ty(*v).as_scalar().map(|t| t.ty)).collect();
            types.is_none_or(|types| scalar::can_raise(*op, &types)) && !literals_are_safe(p, *op, &node.operands)
        }
        Op::Control(op) => !matches!(op, ControlOp::If),
        Op::Tensor(op) => !matches!(op, TensorOp::Const(_)),
        Op::Rel(_) | Op::Bridge(_) => true,
    }
}

/// Whether an operation that can raise cannot with these literals: a substring of a length that is not negative, a division
/// by what is neither 0 nor -1.
fn literals_are_safe(p: &Program, op: ScalarOp, operands: &[ValueId]) -> bool {
    let last = operands.last().and_then(|v| match p.node_of(*v).map(|n| &n.op) {
        Some(Op::Literal(v, _)) => Some(v),
        _ => None,
    });
    match (op, last) {
        (ScalarOp::Substring, Some(Value::I64(n))) => *n >= 0,
        (ScalarOp::Div | ScalarOp::Rem, Some(Value::I32(n))) => !matches!(n, 0 | -1),
        (ScalarOp::Div | ScalarOp::Rem, Some(Value::I64(n))) => !matches!(n, 0 | -1),
        _ => false,
    }
}

/// The conjuncts of a predicate, in order. Constants that are true are left out. The second operand of a guarded conjunction
/// (`if a is distinct from false { a and b } else { a }`) is a conjunct too: whoever evaluates it does so where those before
/// it are true.
pub(super) fn conjuncts(p: &Program, region: RegionId) -> Vec<Part> {
    let mut values = vec![];
    if let Some(v) = p.region(region).results.first() {
        split(p, *v, &mut values);
    }
    values.into_iter().map(|v| Part::of(p, v)).collect()
}

fn split(p: &Program, v: ValueId, out: &mut Vec<ValueId>) {
    let Some(node) = p.node_of(v) else { return out.push(v) };
    match &node.op {
        Op::Literal(Value::Bool(true), _) => {}
        Op::Scalar(ScalarOp::And) => node.operands.iter().for_each(|v| split(p, *v, out)),
        Op::Control(ControlOp::If) => match guarded(p, node) {
            Some((ScalarOp::And, a, b)) => {
                split(p, a, out);
                split(p, b, out);
            }
            _ => out.push(v),
        },
        _ => out.push(v),
    }
}

/// The operation and the operands of a guarded conjunction or disjunction, `if a is distinct from d { a op b } else { a }`
/// where `a op b` is `d` if `a` is.
pub(super) fn guarded(p: &Program, node: &Node) -> Option<(ScalarOp, ValueId, ValueId)> {
    let (Op::Control(ControlOp::If), [_]) = (&node.op, node.results.as_slice()) else { return None };
    let test = p.node_of(node.operands[0])?;
    let (Op::Scalar(ScalarOp::IsDistinct), [a, decides]) = (&test.op, test.operands.as_slice()) else { return None };
    let decides = match p.node_of(*decides).map(|n| &n.op) {
        Some(Op::Literal(Value::Bool(b), _)) => *b,
        _ => return None,
    };
    let then = p.node_of(*p.region(node.regions[0]).results.first()?)?;
    let op = match then.op {
        Op::Scalar(op @ ScalarOp::And) if !decides => op,
        Op::Scalar(op @ ScalarOp::Or) if decides => op,
        _ => return None,
    };
    let otherwise = p.region(node.regions[1]).results.first() == Some(a);
    (then.operands[0] == *a && otherwise).then(|| (op, *a, then.operands[1]))
}

/// A conjunct that is a disjunction, taken apart: what all its branches have in common, and the rest of the branches. Equal
/// values must be one value.
pub(super) fn disjuncts(p: &Program, part: Part) -> Vec<Condition> {
    let mut values = vec![];
    branches(p, part.value, &mut values);
    if values.len() < 2 {
        return vec![Condition::Part(part)];
    }
    let list = |v: &ValueId| {
        let mut parts = vec![];
        split(p, *v, &mut parts);
        parts
    };
    let mut branches: Vec<Vec<ValueId>> = values.iter().map(list).collect();
    let common: Vec<ValueId> = branches[0].iter().copied().filter(|v| branches.iter().all(|b| b.contains(v))).collect();
    branches.iter_mut().for_each(|b| b.retain(|v| !common.contains(v)));
    let parts = |values: Vec<ValueId>| -> Vec<Part> { values.into_iter().map(|v| Part::of(p, v)).collect() };
    let mut out: Vec<Condition> = parts(common).into_iter().map(Condition::Part).collect();
    if branches.iter().all(|b| !b.is_empty()) {
        out.push(Condition::Any(branches.into_iter().map(parts).collect()));
    }
    out
}

fn branches(p: &Program, v: ValueId, out: &mut Vec<ValueId>) {
    match p.node_of(v) {
        Some(Node { op: Op::Scalar(ScalarOp::Or), operands, .. }) => operands.iter().for_each(|v| branches(p, *v, out)),
        _ => out.push(v),
    }
}

/// Tables that have one reader, a relational operation or a model beside them: they can be made where the reader is.
pub(super) fn tables_read_once(p: &Program) -> HashSet<ValueId> {
    let mut readers: HashMap<ValueId, usize> = HashMap::new();
    let mut beside: HashSet<ValueId> = HashSet::new();
    for f in &p.funcs {
        count_readers(p, f.body, &mut readers, &mut beside);
    }
    beside.retain(|v| readers.get(v) == Some(&1));
    beside
}

fn count_readers(p: &Program, region: RegionId, readers: &mut HashMap<ValueId, usize>, beside: &mut HashSet<ValueId>) {
    let mut here = HashSet::new();
    for &id in &p.region(region).nodes {
        let node = p.node(id);
        let takes = matches!(node.op, Op::Rel(_) | Op::Bridge(BridgeOp::Apply { .. }));
        for v in &node.operands {
            *readers.entry(*v).or_default() += 1;
            if takes && here.contains(v) {
                beside.insert(*v);
            }
        }
        node.regions.iter().for_each(|r| count_readers(p, *r, readers, beside));
        let is_table = matches!(node.op, Op::Rel(_) | Op::Bridge(BridgeOp::Apply { .. }));
        if is_table {
            here.extend(node.results.iter().copied());
        }
    }
    p.region(region).results.iter().for_each(|v| *readers.entry(*v).or_default() += 1);
}

/// What stands in a column's place where a value is written anew and the column is not visible.
#[derive(Clone, Copy, Debug)]
pub(super) enum With {
    /// Another column.
    Column(ColumnId),
    /// A value of another row region of the old program.
    Value(ValueId),
}

/// Writes values of row regions of the old program into the region of the new one that is open.
#[derive(Default)]
pub(super) struct Emitter {
    /// What stands in the place of columns.
    pub(super) columns: HashMap<ColumnId, With>,
    /// Values that are written already, by open region, with what stood for them before.
    scopes: Vec<HashMap<ValueId, Option<ValueId>>>,
}

impl Emitter {
    /// An emitter that reads other columns in the place of some.
    pub(super) fn with_columns(columns: impl IntoIterator<Item = (ColumnId, ColumnId)>) -> Self {
        Self { columns: columns.into_iter().map(|(a, b)| (a, With::Column(b))).collect(), ..Self::default() }
    }

    /// Begins a region: nothing is written in it yet.
    pub(super) fn open(&mut self) {
        self.scopes.push(HashMap::new());
    }

    /// Ends a region: values stand again for what they stood for before it.
    pub(super) fn close(&mut self, cx: &mut Rebuild<'_>) {
        for (old, before) in self.scopes.pop().unwrap_or_default() {
            if let Some(before) = before {
                cx.set_value(old, before);
            }
        }
    }

    /// A value of an old row region, written into the region that is open. Values from outside of row regions are those of
    /// the rebuild.
    pub(super) fn value(&mut self, cx: &mut Rebuild<'_>, v: ValueId) -> Result<ValueId> {
        let p = cx.old;
        let Def::Result(id, _) = p.values[v.index()].def else { return cx.value(v) };
        if self.scopes.iter().any(|s| s.contains_key(&v)) {
            return cx.value(v);
        }
        let node = p.node(id);
        if !is_row(p, node) {
            return cx.value(v);
        }
        for o in &node.operands {
            self.value(cx, *o)?;
        }
        for r in &node.regions {
            for c in captures(p, *r) {
                self.value(cx, c)?;
            }
        }
        let results = match self.node(cx, id, node)? {
            Change::Values(values) => values,
            Change::Keep => cx.keep(self, node)?,
            Change::Some(_) | Change::Drop => return Err(Error::Bug("an emitter drops nothing".into())),
        };
        for (old, new) in node.results.iter().zip(results) {
            let before = cx.value(*old).ok();
            cx.set_value(*old, new);
            if let Some(scope) = self.scopes.last_mut() {
                scope.insert(*old, before);
            }
        }
        cx.value(v)
    }

    /// A conjunction: of these conditions in order, each with whether it can raise; one that can is evaluated only where those
    /// before it are true. True for none.
    pub(super) fn all(&mut self, cx: &mut Rebuild<'_>, conditions: &[Condition]) -> Result<ValueId> {
        let mut all = None;
        for c in conditions {
            all = Some(match all {
                None => self.condition(cx, c)?,
                Some(before) if c.raises() => {
                    cx.b.begin_region(&[], vec![]);
                    self.open();
                    let v = self.condition(cx, c)?;
                    self.close(cx);
                    let then = cx.b.end_region(&[v]);
                    cx.b.begin_region(&[], vec![]);
                    let no = cx.b.literal(Value::Bool(false), ScalarType::Bool)?;
                    let otherwise = cx.b.end_region(&[no]);
                    cx.b.push1(Op::Control(ControlOp::If), &[before], &[then, otherwise])?
                }
                Some(before) => {
                    let v = self.condition(cx, c)?;
                    cx.b.scalar(ScalarOp::And, &[before, v])?
                }
            });
        }
        match all {
            Some(all) => Ok(all),
            None => cx.b.literal(Value::Bool(true), ScalarType::Bool),
        }
    }

    fn condition(&mut self, cx: &mut Rebuild<'_>, c: &Condition) -> Result<ValueId> {
        match c {
            Condition::Part(part) => self.value(cx, part.value),
            Condition::Columns(op, a, b) => {
                let (a, b) = (cx.b.col(*a)?, cx.b.col(*b)?);
                cx.b.scalar(*op, &[a, b])
            }
            Condition::Key(op, column, part) => {
                let (a, b) = (cx.b.col(*column)?, self.value(cx, part.value)?);
                cx.b.scalar(*op, &[a, b])
            }
            Condition::Any(branches) => {
                let mut any = None;
                for branch in branches {
                    let parts: Vec<Condition> = branch.iter().cloned().map(Condition::Part).collect();
                    let all = self.all(cx, &parts)?;
                    any = Some(match any {
                        None => all,
                        Some(any) => cx.b.scalar(ScalarOp::Or, &[any, all])?,
                    });
                }
                any.ok_or_else(|| Error::Bug("a disjunction of nothing".into()))
            }
            Condition::IsTrue(c) => {
                let v = self.condition(cx, c)?;
                is_true(cx, v)
            }
        }
    }

    /// A row region over these tables of the new program, of a conjunction.
    pub(super) fn predicate(
        &mut self,
        cx: &mut Rebuild<'_>,
        tables: &[ValueId],
        conditions: &[Condition],
    ) -> Result<RegionId> {
        let types: Option<Vec<TableType>> = tables.iter().map(|v| cx.ty(*v).as_table().cloned()).collect();
        let types = types.ok_or_else(|| Error::Bug("a row region stands over tables".into()))?;
        cx.b.begin_region(&[], types);
        self.open();
        let all = self.all(cx, conditions)?;
        self.close(cx);
        Ok(cx.b.end_region(&[all]))
    }
}

/// A condition, false where it is NULL. Equalities stay equalities, so that joins find them.
fn is_true(cx: &mut Rebuild<'_>, v: ValueId) -> Result<ValueId> {
    let nullable = |cx: &Rebuild<'_>, v: ValueId| cx.ty(v).as_scalar().is_none_or(|t| t.nullable);
    if !nullable(cx, v) {
        return Ok(v);
    }
    let operands = match cx.def(v) {
        Some(Node { op: Op::Scalar(ScalarOp::Eq), operands, .. }) => Some((operands[0], operands[1])),
        _ => None,
    };
    let Some((a, b)) = operands else {
        let no = cx.b.literal(Value::Bool(false), ScalarType::Bool)?;
        return cx.b.scalar(ScalarOp::Coalesce, &[v, no]);
    };
    let same = cx.b.scalar(ScalarOp::IsNotDistinct, &[a, b])?;
    if nullable(cx, a) && nullable(cx, b) {
        let known = cx.b.scalar(ScalarOp::IsNotNull, &[b])?;
        return cx.b.scalar(ScalarOp::And, &[same, known]);
    }
    Ok(same)
}

/// Whether a node is part of a row expression: it makes scalars, and not from outside of the program.
fn is_row(p: &Program, node: &Node) -> bool {
    match &node.op {
        Op::Literal(..) | Op::Col(_) | Op::Scalar(_) => true,
        Op::Control(_) => node.results.iter().all(|v| p.ty(*v).as_scalar().is_some()),
        Op::Input(_) | Op::Rel(_) | Op::Bridge(_) | Op::Tensor(_) => false,
    }
}

impl Rewrite for Emitter {
    fn node(&mut self, cx: &mut Rebuild<'_>, _: NodeId, node: &Node) -> Result<Change> {
        let Op::Col(id) = node.op else { return Ok(Change::Keep) };
        let start = cx.column(id);
        let mut id = start;
        // A column stands for another, that one perhaps for a value.
        while cx.b.column_type(id).is_none() {
            match self.columns.get(&id).copied() {
                None => return Ok(Change::Keep),
                Some(With::Column(other)) => id = other,
                Some(With::Value(v)) => return Ok(Change::Values(vec![self.value(cx, v)?])),
            }
        }
        if id == start { Ok(Change::Keep) } else { Ok(Change::Values(vec![cx.b.col(id)?])) }
    }

    fn enter(&mut self, _: &mut Rebuild<'_>, _: RegionId) {
        self.open();
    }

    fn leave(&mut self, cx: &mut Rebuild<'_>, _: RegionId) {
        self.close(cx);
    }
}

/// One condition of a predicate that is made anew.
#[derive(Clone, Debug)]
pub(super) enum Condition {
    /// A conjunct of the old program.
    Part(Part),
    /// A comparison of two columns of the new program.
    Columns(ScalarOp, ColumnId, ColumnId),
    /// A comparison of a column of the new program with a value of the old one.
    Key(ScalarOp, ColumnId, Part),
    /// False where it is NULL.
    IsTrue(Box<Condition>),
    /// A disjunction of conjunctions of the old program, none of which can raise.
    Any(Vec<Vec<Part>>),
}

impl Condition {
    /// Whether evaluating it can raise.
    pub(super) fn raises(&self) -> bool {
        match self {
            Self::Part(part) | Self::Key(_, _, part) => part.raises,
            Self::Columns(..) => false,
            Self::IsTrue(c) => c.raises(),
            Self::Any(branches) => branches.iter().flatten().any(|part| part.raises),
        }
    }

    /// The columns that it reads.
    pub(super) fn columns(&self) -> BTreeSet<ColumnId> {
        match self {
            Self::Part(part) => part.columns.clone(),
            Self::Columns(_, a, b) => BTreeSet::from([*a, *b]),
            Self::Key(_, c, part) => part.columns.iter().copied().chain([*c]).collect(),
            Self::IsTrue(c) => c.columns(),
            Self::Any(branches) => branches.iter().flatten().flat_map(|part| part.columns.iter().copied()).collect(),
        }
    }
}

/// The type of a new table.
pub(super) fn type_of(cx: &Rebuild<'_>, table: ValueId) -> Result<TableType> {
    cx.b.program().table(table).cloned()
}

/// A fresh column like another.
pub(super) fn copy_column(cx: &mut Rebuild<'_>, id: ColumnId) -> ColumnId {
    let info = cx.b.program().columns[id.index()].clone();
    cx.b.program_mut().new_column(info.name, info.ty)
}

/// Counts under their own names, 0 where there was no group.
pub(super) fn fill_zeros(cx: &mut Rebuild<'_>, table: ValueId, zeros: &[(ColumnId, ColumnId)]) -> Result<ValueId> {
    if zeros.is_empty() {
        return Ok(table);
    }
    let columns: Vec<ColumnId> = zeros.iter().map(|z| z.1).collect();
    cx.b.extend(table, &columns, |b| {
        let fill = |(counted, _): &(ColumnId, ColumnId)| {
            let (counted, zero) = (b.col(*counted)?, b.literal(Value::I64(0), ScalarType::I64)?);
            b.scalar(ScalarOp::Coalesce, &[counted, zero])
        };
        zeros.iter().map(fill).collect()
    })
}
