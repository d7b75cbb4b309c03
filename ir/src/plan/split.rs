//! Graph to plan: which rows stream, which are stored.
//!
//! A table value with one consumer streams into it; one with several is materialized once, but for one with two filters over it:
//! its rows stream into one of them, and on their way those of the other are stored. Joins build on their right operand and
//! probe with their left one (a right join the other way round): which operand is which is the optimizer's choice.

use std::collections::{BTreeSet, HashMap, HashSet};

use runtime::column::ColumnStats;

use super::bounds::Bounds;
use super::*;
use crate::entity::RegionId;
use crate::error::{Error, Result};
use crate::graph::bridge::TensorColumns;
use crate::graph::rel::{Aggregate, JoinKind, WindowColumn};
use crate::graph::{BridgeOp, ControlOp, Node, Op, Program, RelOp};
use crate::scalar::ScalarOp;
use crate::scalar::reduce::Reducer;
use crate::types::{Column, TableType, Type};
use crate::value::Value;

/// What the split asks of the inputs.
pub trait InputInfo {
    /// How many codes a column has that is stored as dictionary codes.
    fn codes(&self, input: InputId, source: u32) -> Option<usize>;

    /// Rows of a table.
    fn rows(&self, input: InputId) -> Option<usize>;

    /// What is known of a column's values.
    fn stats(&self, input: InputId, source: u32) -> Option<&ColumnStats>;
}

/// Splits a program's entry function, without the rules of [`border::RULES`] that are `off`. Dependent joins must have been
/// unnested.
pub fn split<'a>(p: &'a Program, info: &'a dyn InputInfo, off: &[String]) -> Result<Plan> {
    let entry = p.entry_region().ok_or_else(|| Error::Type("the program has no entry function".into()))?;
    let tile_rows = if border::is_off(off, &border::TILE) { border::WHOLE_ROWS } else { border::TILE_ROWS };
    let mut s = Splitter {
        p,
        bounds: Bounds::new(p, info),
        plan: Plan { tile_rows, ..Plan::default() },
        writes_batches: !border::is_off(off, &border::BATCH),
        uses: count_uses(p, &entry.nodes, &entry.results),
        info,
        entry: &entry.nodes,
        codes: dictionary_columns(p, info),
        stored: HashMap::new(),
        pending: vec![],
        made: HashSet::new(),
        plain: BTreeSet::new(),
    };
    s.enter(&entry.nodes)?;
    s.flush_tensors(&entry.results)?;
    for &v in &entry.results {
        let output = match p.ty(v) {
            Type::Table(t) => match columns_of_input(p, v) {
                Some((input, sources)) => {
                    let columns = t.columns.iter().map(|c| sources.get(&c.id).map(|source| (*source, c.id)));
                    let columns: Option<_> = columns.collect();
                    let columns = columns.ok_or_else(|| Error::Bug(format!("{v} has columns that no scan gives")))?;
                    Output::Columns { input, columns }
                }
                None => {
                    let state = s.materialize(v, &BTreeSet::new())?;
                    Output::Rows { state, columns: t.columns.iter().map(|c| c.id).collect() }
                }
            },
            Type::Tensor(_) => Output::Tensor(v),
            Type::Scalar(_) => return Err(Error::Unsupported("a scalar as the result of a program".into())),
            Type::Tape | Type::Acc(_) => return Err(Error::Unsupported("a tape as the result of a program".into())),
        };
        s.plan.outputs.push(output);
    }
    Ok(s.plan)
}

/// The input of a table that is only scanned and projected, and the number there of each scanned column.
fn columns_of_input(p: &Program, table: ValueId) -> Option<(InputId, HashMap<ColumnId, u32>)> {
    let node = p.node_of(table)?;
    match &node.op {
        Op::Rel(RelOp::Scan { input, columns }) => Some((*input, columns.iter().map(|c| (c.id, c.source)).collect())),
        Op::Rel(RelOp::Project { .. }) => columns_of_input(p, node.operands[0]),
        _ => None,
    }
}

/// The columns that are scanned from dictionaries; ids are unique, so they stay codes wherever they go.
fn key_bounds(range: bounds::Range) -> Option<KeyBounds> {
    let (min, max) = range?;
    let size = u64::try_from(max.checked_sub(min)?.checked_add(1)?).ok()?;
    Some(KeyBounds { min: i64::try_from(min).ok()?, size })
}

fn dictionary_columns(p: &Program, info: &dyn InputInfo) -> HashMap<ColumnId, (InputId, u32)> {
    let mut codes = HashMap::new();
    for node in &p.nodes {
        if let Op::Rel(RelOp::Scan { input, columns }) = &node.op {
            for c in columns {
                if info.codes(*input, c.source).is_some() {
                    codes.insert(c.id, (*input, c.source));
                }
            }
        }
    }
    codes
}

fn count_uses(p: &Program, nodes: &[NodeId], results: &[ValueId]) -> HashMap<ValueId, usize> {
    // Only what the results need counts.
    let mut uses: HashMap<ValueId, usize> = HashMap::new();
    for v in results {
        *uses.entry(*v).or_default() += 1;
    }
    for &n in nodes.iter().rev() {
        let node = p.node(n);
        if node.results.iter().any(|v| uses.contains_key(v)) {
            reads(p, node).for_each(|v| *uses.entry(v).or_default() += 1);
            if let Op::Rel(RelOp::Recurse { .. }) = node.op {
                let step = p.region(node.regions[0]);
                for (v, n) in count_uses(p, &step.nodes, &step.results) {
                    *uses.entry(v).or_default() += n;
                }
            }
        }
    }
    uses
}

/// What a node reads: its operands, and what its regions read from outside of them.
fn reads<'a>(p: &'a Program, node: &'a Node) -> impl Iterator<Item = ValueId> + 'a {
    node.operands.iter().copied().chain(node.regions.iter().flat_map(|r| free_values(p, *r)))
}

/// Values that a region reads and does not define, each once.
pub fn free_values(p: &Program, region: RegionId) -> Vec<ValueId> {
    fn walk(p: &Program, region: RegionId, defined: &mut HashSet<ValueId>, free: &mut Vec<ValueId>) {
        let r = p.region(region);
        defined.extend(&r.params);
        for &n in &r.nodes {
            let node = p.node(n);
            free.extend(node.operands.iter().filter(|v| !defined.contains(v)));
            for &inner in &node.regions {
                walk(p, inner, defined, free);
            }
            defined.extend(&node.results);
        }
        free.extend(r.results.iter().filter(|v| !defined.contains(v)));
    }
    let mut free = vec![];
    walk(p, region, &mut HashSet::new(), &mut free);
    let mut seen = HashSet::new();
    free.retain(|v| seen.insert(*v));
    free
}

/// Columns that a region reads.
pub fn region_columns(p: &Program, region: RegionId, out: &mut BTreeSet<ColumnId>) {
    for &n in &p.region(region).nodes {
        let node = p.node(n);
        if let Op::Col(id) = node.op {
            out.insert(id);
        }
        for &inner in &node.regions {
            region_columns(p, inner, out);
        }
    }
}

/// Columns that a value of a row region depends on.
pub fn value_columns(p: &Program, v: ValueId, out: &mut BTreeSet<ColumnId>) {
    let Some(node) = p.node_of(v) else { return };
    if let Op::Col(id) = node.op {
        out.insert(id);
    }
    node.operands.iter().for_each(|v| value_columns(p, *v, out));
    for &r in &node.regions {
        region_columns(p, r, out);
        free_values(p, r).into_iter().for_each(|v| value_columns(p, v, out));
    }
}

/// The parts of a conjunction.
pub fn conjuncts(p: &Program, v: ValueId, out: &mut Vec<ValueId>) {
    match p.node_of(v) {
        Some(Node { op: Op::Scalar(ScalarOp::And), operands, .. }) => {
            operands.iter().for_each(|v| conjuncts(p, *v, out));
        }
        Some(Node { op: Op::Literal(Value::Bool(true), _), .. }) => {}
        _ => out.push(v),
    }
}

/// What keeps an aggregate's state, with the types of its fields. Sums and counts are kept apart, so that aggregates of one
/// argument share them.
fn folds(a: &Aggregate, arg: Option<RowType>, types: Vec<ScalarType>) -> Vec<(Fold, Vec<ScalarType>)> {
    let count = match (a.arg, arg) {
        (Some(c), Some(ty)) if ty.nullable => Fold::Known(c),
        _ => Fold::Rows,
    };
    match (a.reducer, a.arg) {
        (Reducer::CountAll | Reducer::Count, _) => vec![(count, types)],
        (Reducer::Sum | Reducer::Avg, Some(c)) => {
            vec![(Fold::Sum(c), types[..1].to_vec()), (count, types[1..].to_vec())]
        }
        (reducer, arg) => vec![(Fold::Whole(reducer, arg), types)],
    }
}

/// A pipeline without its sink.
struct Stream {
    source: Source,
    steps: Vec<Step>,
}

/// A join's predicate, taken apart.
struct JoinKeys {
    left: Vec<ValueId>,
    right: Vec<ValueId>,
    null_equal: Vec<bool>,
    residual: Vec<ValueId>,
}

/// A `window` node.
struct Window<'a> {
    node: NodeId,
    operand: ValueId,
    partition: &'a [ColumnId],
    order: &'a [SortKey],
    columns: &'a [WindowColumn],
}

/// What a recursion carries: see [`RelOp::Recurse`].
struct Carried<'c> {
    base: &'c [ColumnId],
    working: &'c [ColumnId],
    columns: &'c [Column],
    distinct: bool,
    limit: Option<u64>,
}

/// Splits the stages of a loop's body into those that do the same in each iteration, and the others. Around an inner loop,
/// which counts the stages behind it, none is moved.
fn hoist(stages: Vec<Stage>, working: StateId, next: StateId) -> (Vec<Stage>, Vec<Stage>) {
    let nested = stages.iter().any(|s| matches!(s, Stage::Loop { .. }));
    let mut changing = HashSet::from([working, next]);
    loop {
        let before = changing.len();
        changing.extend(
            stages
                .iter()
                .filter(|s| nested || s.states().iter().any(|state| changing.contains(state)))
                .filter_map(Stage::state)
                .collect::<Vec<_>>(),
        );
        if changing.len() == before {
            break;
        }
    }
    stages.into_iter().partition(|s| s.state().is_some_and(|state| !changing.contains(&state)))
}

/// An index of so many words is always worth its memory: 4 MB.
const SMALL_INDEX: u64 = 16 << 20;

/// Otherwise it may have so many words for each row that may build it, so that it is no larger than a hash table.
const WORDS_PER_ROW: u64 = 16;

struct Splitter<'a> {
    p: &'a Program,
    bounds: Bounds<'a>,
    plan: Plan,
    /// Whether pipelines write the tensors that a model reads.
    writes_batches: bool,
    uses: HashMap<ValueId, usize>,
    info: &'a dyn InputInfo,
    /// The nodes of the entry function.
    entry: &'a [NodeId],
    codes: HashMap<ColumnId, (InputId, u32)>,
    stored: HashMap<ValueId, StateId>,
    /// Tensor nodes that no stage holds yet.
    pending: Vec<NodeId>,
    /// Tensor values that a stage makes.
    made: HashSet<ValueId>,
    /// Columns that some state stores as values: from there on they are no codes.
    plain: BTreeSet<ColumnId>,
}

impl<'a> Splitter<'a> {
    /// Looks through the nodes of a region whose tables are asked for later: rows become tensors here, and what computes
    /// tensors waits for who reads it.
    fn enter(&mut self, nodes: &'a [NodeId]) -> Result<()> {
        for &n in nodes {
            let node = self.p.node(n);
            match &node.op {
                Op::Rel(_) | Op::Bridge(BridgeOp::Apply { .. } | BridgeOp::ToTable { .. }) => {}
                Op::Bridge(BridgeOp::ToTensor { .. }) => self.store_tensors(n, node)?,
                Op::Literal(..) => {}
                _ if node.results.iter().all(|v| matches!(self.p.ty(*v), Type::Scalar(_))) => {}
                _ => {
                    self.plan.notes.extend(border::shuffle_note(self.p, node));
                    self.pending.push(n);
                }
            }
        }
        Ok(())
    }

    fn table(&self, v: ValueId) -> Result<&'a TableType> {
        self.p.ty(v).as_table().ok_or_else(|| Error::Bug(format!("{v} is not a table")))
    }

    fn node(&self, v: ValueId) -> Result<(NodeId, &'a Node)> {
        match self.p.values[v.index()].def {
            crate::graph::Def::Result(n, _) => Ok((n, self.p.node(n))),
            crate::graph::Def::Param(..) => {
                Err(Error::Unsupported("a table as a parameter of a function or a loop".into()))
            }
        }
    }

    fn state(&mut self, kind: StateKind, layout: Layout) -> StateId {
        self.plan.states.push(State { kind, layout });
        StateId(self.plan.states.len() as u32 - 1)
    }

    fn seal(&mut self, state: StateId, seal: Seal) {
        self.plan.stages.push(Stage::Seal { state, seal });
    }

    fn pipeline(&mut self, stream: Stream, sink: Sink) {
        let beside =
            stream.steps.iter().filter_map(|s| if let Step::Also { state, .. } = s { Some(*state) } else { None });
        let beside: Vec<StateId> = beside.collect();
        self.plan.stages.push(Stage::Pipeline(Pipeline { source: stream.source, steps: stream.steps, sink }));
        beside.into_iter().for_each(|state| self.seal(state, Seal::Collect));
    }

    /// How a column is stored; `plain` where its value itself is needed.
    fn kind(&self, column: ColumnId, plain: bool) -> FieldKind {
        match self.codes.get(&column) {
            Some(&(input, source)) if !plain && !self.plain.contains(&column) => FieldKind::Code { input, source },
            _ => FieldKind::Value,
        }
    }

    /// Adds a column to rows that only generated code, and a window's sort, read, in as few bytes as its values need.
    fn add_narrow(&mut self, b: &mut LayoutBuilder, (id, ty): (ColumnId, RowType), plain: bool) {
        let kind = self.kind(id, plain);
        let bounds = match kind {
            FieldKind::Code { input, source } => self.code_range(input, source),
            FieldKind::Value => self.bounds.column(id),
        };
        b.add_narrow(Some(id), kind, ty, bounds);
    }

    fn code_range(&self, input: InputId, source: u32) -> bounds::Range {
        self.info.codes(input, source).map(|n| (0, n as i128 - 1))
    }

    fn rows_layout(&mut self, columns: &[(ColumnId, RowType)], plain: &BTreeSet<ColumnId>) -> Layout {
        self.plain.extend(plain);
        let mut b = LayoutBuilder::new(false);
        for &(id, ty) in columns {
            b.add(Some(id), self.kind(id, plain.contains(&id)), ty);
        }
        b.finish()
    }

    /// Stores a table value once, with all of its columns; `plain` columns hold values rather than codes.
    fn materialize(&mut self, v: ValueId, plain: &BTreeSet<ColumnId>) -> Result<StateId> {
        if let Some(&state) = self.stored.get(&v) {
            return Ok(state);
        }
        let all: BTreeSet<ColumnId> = self.table(v)?.columns.iter().map(|c| c.id).collect();
        let state = self.store(v, &all, plain)?;
        self.stored.insert(v, state);
        Ok(state)
    }

    /// Stores the needed columns of a table value.
    fn store(&mut self, v: ValueId, need: &BTreeSet<ColumnId>, plain: &BTreeSet<ColumnId>) -> Result<StateId> {
        let (n, node) = self.node(v)?;
        let keep: Vec<(ColumnId, RowType)> =
            self.table(v)?.columns.iter().filter(|c| need.contains(&c.id)).map(|c| (c.id, c.ty)).collect();
        match &node.op {
            Op::Rel(RelOp::Sort { keys, limit }) => {
                let mut below = need.clone();
                below.extend(keys.iter().map(|k| k.column));
                // Codes are in the order of their texts.
                let state = self.append(node.operands[0], &below, plain)?;
                self.seal(state, Seal::Sort { keys: keys.clone(), limit: *limit });
                Ok(state)
            }
            Op::Rel(RelOp::Limit { offset, count }) => {
                let below = self.p.node_of(node.operands[0]);
                let is_sort = below.is_some_and(|below| matches!(below.op, Op::Rel(RelOp::Sort { .. })));
                let state = if is_sort && self.uses.get(&node.operands[0]) == Some(&1) {
                    self.store(node.operands[0], need, plain)?
                } else {
                    self.append(node.operands[0], need, plain)?
                };
                self.seal(state, Seal::Limit { offset: *offset, count: *count });
                Ok(state)
            }
            Op::Rel(RelOp::Window { partition, order, columns }) => {
                let window = Window { node: n, operand: node.operands[0], partition, order, columns };
                let state = self.window(&window, need, false)?;
                Ok(state)
            }
            Op::Rel(RelOp::Union { inputs, columns }) => {
                let mut plain = plain.clone();
                plain.extend(columns);
                let layout = self.rows_layout(&keep, &plain);
                let state = self.state(StateKind::Rows, layout);
                for (operand, ids) in node.operands.iter().zip(inputs) {
                    let from: Vec<ColumnId> =
                        columns.iter().zip(ids).filter(|(c, _)| need.contains(c)).map(|(_, i)| *i).collect();
                    let stream = self.stream(*operand, &from.iter().copied().collect())?;
                    self.pipeline(stream, Sink::Append { state, columns: from.into_iter().map(Some).collect() });
                }
                self.seal(state, Seal::Collect);
                Ok(state)
            }
            Op::Rel(RelOp::Recurse { base, working, columns, distinct, limit }) => {
                let carried = Carried { base, working, columns, distinct: *distinct, limit: *limit };
                self.recurse(node, &carried)
            }
            Op::Rel(RelOp::Values { .. }) => {
                let all: BTreeSet<ColumnId> = keep.iter().map(|c| c.0).collect();
                let layout = self.rows_layout(&keep, &all);
                let state = self.state(StateKind::Rows, layout);
                self.seal(state, Seal::Values(n));
                Ok(state)
            }
            Op::Rel(RelOp::Join { kind: JoinKind::Full }) => self.full_join(node, &keep, plain),
            _ => {
                // Not by `stream`: that would read a value with several consumers from here.
                let stream = self.fresh_stream(v, need)?;
                let state = self.append_rows(stream, &keep, plain);
                self.seal(state, Seal::Collect);
                Ok(state)
            }
        }
    }

    /// The rows of a recursion: those that it begins with, then the loop.
    fn recurse(&mut self, node: &'a Node, carried: &Carried<'_>) -> Result<StateId> {
        let ids: Vec<ColumnId> = carried.columns.iter().map(|c| c.id).collect();
        let next = self.carried_rows(carried, &ids);
        let result = self.carried_rows(carried, &ids);
        let working = self.carried_rows(carried, carried.working);
        let stream = self.stream(node.operands[0], &carried.base.iter().copied().collect())?;
        let columns = carried.base.iter().copied().map(Some).collect();
        self.pipeline(stream, Sink::Append { state: next, columns });
        self.seal(next, Seal::Collect);

        let region = node.regions[0];
        for v in free_values(self.p, region) {
            // What the body reads from outside is there before it.
            if self.p.ty(v).as_table().is_some() {
                self.materialize(v, &BTreeSet::new())?;
            }
        }
        let step = self.p.region(region);
        self.stored.insert(step.params[0], working);
        let begin = self.plan.stages.len();
        self.enter(&step.nodes)?;
        let made = step.results[0];
        let columns: Vec<ColumnId> = self.table(made)?.columns.iter().map(|c| c.id).collect();
        let stream = self.stream(made, &columns.iter().copied().collect())?;
        self.pipeline(stream, Sink::Append { state: next, columns: columns.into_iter().map(Some).collect() });
        self.seal(next, Seal::Collect);
        // Tensors do not depend on rows, and may be read behind the loop too.
        let (tensors, stages) =
            self.plan.stages.split_off(begin).into_iter().partition(|s| matches!(s, Stage::Tensor { .. }));
        let (once, changing) = hoist(stages, working, next);
        self.plan.stages.extend::<Vec<Stage>>(tensors);
        let (distinct, limit, body) = (carried.distinct, carried.limit, once.len() + changing.len());
        self.plan.stages.push(Stage::Loop { next, working, result, distinct, limit, once: once.len(), body });
        self.plan.stages.extend(once.into_iter().chain(changing));
        Ok(result)
    }

    /// A state for rows that a recursion carries: all such states of one recursion have one layout, of values.
    fn carried_rows(&mut self, carried: &Carried<'_>, ids: &[ColumnId]) -> StateId {
        self.plain.extend(ids);
        // A set keeps the hash of its rows in front of them.
        let mut b = LayoutBuilder::new(carried.distinct);
        for (id, c) in ids.iter().zip(carried.columns) {
            b.add(Some(*id), FieldKind::Value, c.ty);
        }
        self.state(StateKind::Rows, b.finish())
    }

    /// Streams a table into a fresh state that is not sealed.
    fn append(&mut self, v: ValueId, need: &BTreeSet<ColumnId>, plain: &BTreeSet<ColumnId>) -> Result<StateId> {
        let keep: Vec<(ColumnId, RowType)> =
            self.table(v)?.columns.iter().filter(|c| need.contains(&c.id)).map(|c| (c.id, c.ty)).collect();
        let stream = self.stream(v, &keep.iter().map(|c| c.0).collect())?;
        Ok(self.append_rows(stream, &keep, plain))
    }

    fn append_rows(&mut self, stream: Stream, keep: &[(ColumnId, RowType)], plain: &BTreeSet<ColumnId>) -> StateId {
        let layout = self.rows_layout(keep, plain);
        let state = self.state(StateKind::Rows, layout);
        self.pipeline(stream, Sink::Append { state, columns: keep.iter().map(|c| Some(c.0)).collect() });
        state
    }

    /// Stores the rows of a window with the columns that are needed, and what its functions give. `in_place`: the rows stay in
    /// the order of the operand.
    fn window(&mut self, w: &Window<'_>, need: &BTreeSet<ColumnId>, in_place: bool) -> Result<StateId> {
        // Codes are in the order of their texts, so that keys may be codes.
        let plain: BTreeSet<ColumnId> = w.columns.iter().filter_map(|c| c.arg).collect();
        let mut below = need.clone();
        below.extend(w.partition.iter().copied().chain(w.order.iter().map(|k| k.column)));
        below.extend(&plain);
        self.plain.extend(&plain);
        let source = self.table(w.operand)?;
        let stream = self.stream(w.operand, &below)?;
        let mut b = LayoutBuilder::new(false);
        let mut from = vec![];
        for c in source.columns.iter().filter(|c| below.contains(&c.id)) {
            let is_argument = plain.contains(&c.id);
            if in_place && !is_argument {
                self.add_narrow(&mut b, (c.id, c.ty), false);
            } else {
                b.add(Some(c.id), self.kind(c.id, is_argument), c.ty);
            }
            from.push(Some(c.id));
        }
        // The results' fields are written by the seal.
        for c in w.columns {
            let arg = c.arg.and_then(|a| source.get(a));
            b.add(Some(c.out), FieldKind::Value, c.func.result_type(arg)?);
        }
        let state = self.state(StateKind::Rows, b.finish());
        self.pipeline(stream, Sink::Append { state, columns: from });
        self.seal(state, Seal::Window { node: w.node, in_place });
        Ok(state)
    }

    /// A window over a scan as a scan beside what its functions give: only keys and arguments are stored, not the rows.
    fn window_stream(&mut self, w: &Window<'_>, need: &BTreeSet<ColumnId>) -> Result<Option<Stream>> {
        let Some((input, sources)) = columns_of_input(self.p, w.operand) else { return Ok(None) };
        let beside = Some(self.window(w, &BTreeSet::new(), true)?);
        let table = self.table(w.operand)?;
        let needed = table.columns.iter().filter(|c| need.contains(&c.id));
        let columns = needed.map(|c| sources.get(&c.id).map(|source| ScanColumn { id: c.id, source: *source }));
        let columns: Option<_> = columns.collect();
        let columns = columns.ok_or_else(|| Error::Bug(format!("{} has columns that no scan gives", w.operand)))?;
        Ok(Some(Stream { source: Source::Scan { input, columns, beside }, steps: vec![] }))
    }

    fn full_join(
        &mut self,
        node: &'a Node,
        keep: &[(ColumnId, RowType)],
        plain: &BTreeSet<ColumnId>,
    ) -> Result<StateId> {
        let need: BTreeSet<ColumnId> = keep.iter().map(|c| c.0).collect();
        // Both sides are read twice.
        for &v in &node.operands {
            self.materialize(v, &BTreeSet::new())?;
        }
        let left =
            self.probe(node.operands[0], node.operands[1], node.regions[0], ProbeKind::Left, false, &need, false)?;
        let layout = self.rows_layout(keep, plain);
        let state = self.state(StateKind::Rows, layout);
        self.pipeline(left, Sink::Append { state, columns: keep.iter().map(|c| Some(c.0)).collect() });
        let right_type = self.table(node.operands[1])?;
        let of_right: BTreeSet<ColumnId> = need.iter().copied().filter(|c| right_type.get(*c).is_some()).collect();
        let right =
            self.probe(node.operands[1], node.operands[0], node.regions[0], ProbeKind::Anti, false, &of_right, true)?;
        let columns = keep.iter().map(|c| of_right.contains(&c.0).then_some(c.0)).collect();
        self.pipeline(right, Sink::Append { state, columns });
        self.seal(state, Seal::Collect);
        Ok(state)
    }

    /// A table value as a stream of rows that carries the needed columns.
    fn stream(&mut self, v: ValueId, need: &BTreeSet<ColumnId>) -> Result<Stream> {
        let from = |state| Ok(Stream { source: Source::State(state), steps: vec![] });
        if let Some(&state) = self.stored.get(&v) {
            return from(state);
        }
        if !self.is_cheap(v) && self.uses.get(&v).copied().unwrap_or(0) > 1 {
            let state = self.materialize(v, &BTreeSet::new())?;
            return from(state);
        }
        self.fresh_stream(v, need)
    }

    /// A table value as a stream, made here even if it has other consumers.
    fn fresh_stream(&mut self, v: ValueId, need: &BTreeSet<ColumnId>) -> Result<Stream> {
        let from = |state| Ok(Stream { source: Source::State(state), steps: vec![] });
        let (n, node) = self.node(v)?;
        match &node.op {
            Op::Rel(op) => match op {
                RelOp::Scan { input, columns } => {
                    let columns = columns.iter().filter(|c| need.contains(&c.id)).copied().collect();
                    Ok(Stream { source: Source::Scan { input: *input, columns, beside: None }, steps: vec![] })
                }
                RelOp::Window { partition, order, columns } => {
                    let window = Window { node: n, operand: node.operands[0], partition, order, columns };
                    match self.window_stream(&window, need)? {
                        Some(stream) => Ok(stream),
                        None => from(self.window(&window, need, false)?),
                    }
                }
                RelOp::Values { .. }
                | RelOp::Sort { .. }
                | RelOp::Limit { .. }
                | RelOp::Union { .. }
                | RelOp::Recurse { .. } => {
                    let state = self.store(v, need, &BTreeSet::new())?;
                    from(state)
                }
                RelOp::Extend { columns } => {
                    let region = node.regions[0];
                    let mut below: BTreeSet<ColumnId> = need.iter().copied().filter(|c| !columns.contains(c)).collect();
                    for (c, r) in columns.iter().zip(&self.p.region(region).results) {
                        if need.contains(c) {
                            value_columns(self.p, *r, &mut below);
                        }
                    }
                    let mut s = self.stream(node.operands[0], &below)?;
                    s.steps.push(Step::Extend { columns: columns.clone(), region });
                    Ok(s)
                }
                RelOp::Project { .. } => self.stream(node.operands[0], need),
                RelOp::Filter => {
                    let mut below = need.clone();
                    region_columns(self.p, node.regions[0], &mut below);
                    let mut s = match self.other_filter(n, node.operands[0]) {
                        Some(other) => self.stream_beside(node.operands[0], &mut below, other)?,
                        None => self.stream(node.operands[0], &below)?,
                    };
                    s.steps.push(Step::Filter(node.regions[0]));
                    Ok(s)
                }
                RelOp::Join { kind } => {
                    let (l, r, region) = (node.operands[0], node.operands[1], node.regions[0]);
                    match *kind {
                        JoinKind::Inner => self.probe(l, r, region, ProbeKind::Inner, false, need, false),
                        JoinKind::Left => self.probe(l, r, region, ProbeKind::Left, false, need, false),
                        JoinKind::Right => self.probe(r, l, region, ProbeKind::Left, false, need, true),
                        JoinKind::Semi => self.probe(l, r, region, ProbeKind::Semi, false, need, false),
                        JoinKind::Anti => self.probe(l, r, region, ProbeKind::Anti, false, need, false),
                        JoinKind::Single => self.probe(l, r, region, ProbeKind::Single, false, need, false),
                        JoinKind::Mark(c) => {
                            let null_aware = self.table(v)?.get(c).is_some_and(|t| t.nullable);
                            self.probe(l, r, region, ProbeKind::Mark(c), null_aware, need, false)
                        }
                        JoinKind::Full => {
                            let state = self.store(v, need, &BTreeSet::new())?;
                            from(state)
                        }
                    }
                }
                RelOp::DependentJoin { .. } => {
                    Err(Error::Unsupported("a correlated subquery of this form (it could not be unnested)".into()))
                }
                RelOp::Group { keys, aggregates } => {
                    let state = self.group(n, node, keys, aggregates)?;
                    from(state)
                }
            },
            Op::Bridge(BridgeOp::Apply { inputs, columns, .. }) => {
                self.flush_tensors(&free_values(self.p, node.regions[0]))?;
                let mut below: BTreeSet<ColumnId> = need.iter().copied().filter(|c| !columns.contains(c)).collect();
                let saved: Vec<ColumnId> = below.iter().copied().collect();
                below.extend(inputs.iter().flat_map(|g| &g.columns));
                let source = self.table(node.operands[0])?;
                let mut s = self.stream(node.operands[0], &below)?;
                let saved: Vec<(ColumnId, RowType)> =
                    source.columns.iter().filter(|c| saved.contains(&c.id)).map(|c| (c.id, c.ty)).collect();
                let saved = self.rows_layout(&saved, &BTreeSet::new());
                self.plan.notes.push(border::tile_note(inputs, self.plan.tile_rows));
                s.steps.push(Step::Apply { node: n, saved });
                Ok(s)
            }
            Op::Bridge(BridgeOp::ToTable { .. }) => {
                self.flush_tensors(&node.operands)?;
                Ok(Stream { source: Source::Tensors(n), steps: vec![] })
            }
            _ => Err(Error::Bug(format!("{v} is no table"))),
        }
    }

    /// The filter besides this one over a value that nobody else reads and that is not stored.
    fn other_filter(&self, this: NodeId, v: ValueId) -> Option<&'a Node> {
        if self.uses.get(&v) != Some(&2) || self.stored.contains_key(&v) || self.is_cheap(v) {
            return None;
        }
        let is_filter = |node: &Node| matches!(node.op, Op::Rel(RelOp::Filter)) && node.operands[0] == v;
        let is_read = |node: &Node| self.uses.contains_key(&node.results[0]);
        let (mine, others): (Vec<NodeId>, Vec<NodeId>) = self
            .entry
            .iter()
            .filter(|n| is_filter(self.p.node(**n)) && is_read(self.p.node(**n)))
            .partition(|n| **n == this);
        match (&mine[..], &others[..]) {
            ([_], [other]) => Some(self.p.node(*other)).filter(|other| !self.stored.contains_key(&other.results[0])),
            _ => None,
        }
    }

    /// A value as a stream of rows, made here, that stores those of another filter over it on their way.
    fn stream_beside(&mut self, v: ValueId, need: &mut BTreeSet<ColumnId>, other: &Node) -> Result<Stream> {
        // Columns that nobody reads are left out.
        let mut kept = other.results[0];
        while self.uses.get(&kept) == Some(&1)
            && let Some(project) =
                self.entry.iter().map(|n| self.p.node(*n)).find(|n| n.operands.first() == Some(&kept))
            && matches!(project.op, Op::Rel(RelOp::Project { .. }))
        {
            kept = project.results[0];
        }
        let columns: Vec<(ColumnId, RowType)> = self.table(kept)?.columns.iter().map(|c| (c.id, c.ty)).collect();
        need.extend(columns.iter().map(|c| c.0));
        region_columns(self.p, other.regions[0], need);
        let mut stream = self.fresh_stream(v, need)?;
        let layout = self.rows_layout(&columns, &BTreeSet::new());
        let state = self.state(StateKind::Rows, layout);
        self.stored.insert(kept, state);
        let columns = columns.into_iter().map(|c| c.0).collect();
        stream.steps.push(Step::Also { filter: other.regions[0], state, columns });
        Ok(stream)
    }

    /// Whether to read a value twice costs no more than to store it.
    fn is_cheap(&self, v: ValueId) -> bool {
        let project_of = |n: &Node| matches!(&n.op, Op::Rel(RelOp::Project { .. })) && self.is_scan(n.operands[0]);
        self.is_scan(v) || self.p.node_of(v).is_some_and(project_of)
    }

    fn is_scan(&self, v: ValueId) -> bool {
        self.p.node_of(v).is_some_and(|n| matches!(n.op, Op::Rel(RelOp::Scan { .. })))
    }

    /// Takes a join's predicate apart: equalities between the sides are keys, the rest is the residual.
    fn join_keys(&self, region: RegionId, left: &TableType, right: &TableType) -> JoinKeys {
        let mut parts = vec![];
        conjuncts(self.p, self.p.region(region).results[0], &mut parts);
        let mut keys = JoinKeys { left: vec![], right: vec![], null_equal: vec![], residual: vec![] };
        let side = |v: ValueId, t: &TableType| {
            let mut columns = BTreeSet::new();
            value_columns(self.p, v, &mut columns);
            !columns.is_empty() && columns.iter().all(|c| t.get(*c).is_some())
        };
        for v in parts {
            let found = self.p.node_of(v).and_then(|n| {
                let null_equal = match n.op {
                    Op::Scalar(ScalarOp::Eq) => false,
                    Op::Scalar(ScalarOp::IsNotDistinct) => true,
                    _ => return None,
                };
                let (a, b) = (n.operands[0], n.operands[1]);
                if side(a, left) && side(b, right) {
                    Some((a, b, null_equal))
                } else if side(b, left) && side(a, right) {
                    Some((b, a, null_equal))
                } else {
                    None
                }
            });
            match found {
                Some((l, r, null_equal)) => {
                    keys.left.push(l);
                    keys.right.push(r);
                    keys.null_equal.push(null_equal);
                }
                None => keys.residual.push(v),
            }
        }
        keys
    }

    /// The probing side's stream with a probe of the building side's table. `swapped`: the probing side is the join's right
    /// operand.
    #[allow(clippy::too_many_arguments, reason = "a join is two sides, a predicate and a kind")]
    fn probe(
        &mut self,
        probe: ValueId,
        build: ValueId,
        region: RegionId,
        kind: ProbeKind,
        null_aware: bool,
        need: &BTreeSet<ColumnId>,
        swapped: bool,
    ) -> Result<Stream> {
        let (probe_type, build_type) = (self.table(probe)?, self.table(build)?);
        let (left, right) = if swapped { (build_type, probe_type) } else { (probe_type, build_type) };
        let mut keys = self.join_keys(region, left, right);
        if null_aware && !(keys.left.len() == 1 && keys.residual.is_empty() && !keys.null_equal[0]) {
            // NULLs of the predicate matter for every pair: look at all of them.
            let mut all = vec![];
            conjuncts(self.p, self.p.region(region).results[0], &mut all);
            keys = JoinKeys { left: vec![], right: vec![], null_equal: vec![], residual: all };
        }
        let (probe_keys, build_keys) = if swapped { (keys.right, keys.left) } else { (keys.left, keys.right) };
        let mut above = need.clone();
        for v in &keys.residual {
            value_columns(self.p, *v, &mut above);
        }
        let pays: Vec<(ColumnId, RowType)> =
            build_type.columns.iter().filter(|c| above.contains(&c.id)).map(|c| (c.id, c.ty)).collect();
        let mut build_need: BTreeSet<ColumnId> = pays.iter().map(|c| c.0).collect();
        build_keys.iter().for_each(|v| value_columns(self.p, *v, &mut build_need));
        let mut probe_need: BTreeSet<ColumnId> =
            above.iter().copied().filter(|c| probe_type.get(*c).is_some()).collect();
        probe_keys.iter().for_each(|v| value_columns(self.p, *v, &mut probe_need));
        let build_stream = self.stream(build, &build_need)?;
        // Whether a text comes as a code is known once its stream is made.
        let texts = build_keys.iter().zip(&probe_keys).any(|(b, p)| self.code_pair(*b, *p).is_some());
        let probe_stream = if texts { Some(self.stream(probe, &probe_need)?) } else { None };
        // Whoever asks for NULLs of the predicate wants to know of rows with a NULL key.
        let word = match null_aware {
            true => None,
            false => self.key_word(&build_keys, &probe_keys, &keys.null_equal, build)?,
        };
        let existence = matches!(kind, ProbeKind::Semi | ProbeKind::Anti | ProbeKind::Mark(_));
        let state = match word {
            Some(word) if existence && keys.residual.is_empty() && word.words.is_some() => {
                self.state(StateKind::Set { word }, Layout::default())
            }
            word => {
                let mut b = LayoutBuilder::new(true);
                for v in build_keys.iter().filter(|_| word.is_none()) {
                    let ty = self.p.ty(*v).as_scalar().ok_or_else(|| Error::Bug("a key is a scalar".into()))?;
                    b.add(None, FieldKind::Value, ty);
                }
                for &column in &pays {
                    self.add_narrow(&mut b, column, false);
                }
                self.state(StateKind::Join { null_equal: keys.null_equal, word }, b.finish())
            }
        };
        let columns = pays.iter().map(|c| c.0).collect();
        self.pipeline(build_stream, Sink::Build { state, keys: build_keys, columns });
        self.seal(state, Seal::Join);

        let mut s = match probe_stream {
            Some(s) => s,
            None => self.stream(probe, &probe_need)?,
        };
        s.steps.push(Step::Probe { table: state, kind, keys: probe_keys, residual: keys.residual, null_aware });
        Ok(s)
    }

    /// The stored side's dictionary, where a key is a text that comes as a code on both sides.
    fn code_pair(&self, build: ValueId, probe: ValueId) -> Option<(InputId, u32)> {
        let code = |v: ValueId| match self.p.node_of(v)?.op {
            Op::Col(id) => match self.kind(id, false) {
                FieldKind::Code { input, source } => Some((input, source)),
                FieldKind::Value => None,
            },
            _ => None,
        };
        code(probe)?;
        code(build)
    }

    /// How the keys make one word, if they are integers or codes of texts: one key, or several of known bounds.
    fn key_word(
        &mut self,
        build: &[ValueId],
        probe: &[ValueId],
        null_equal: &[bool],
        table: ValueId,
    ) -> Result<Option<KeyWord>> {
        let ty = |v: ValueId| self.p.ty(v).as_scalar().ok_or_else(|| Error::Bug("a key is a scalar".into()));
        let codes: Vec<Option<(InputId, u32)>> = build.iter().zip(probe).map(|(b, p)| self.code_pair(*b, *p)).collect();
        for (((&b, &p), &null_equal), code) in build.iter().zip(probe).zip(null_equal).zip(&codes) {
            let (b, p) = (ty(b)?, ty(p)?);
            let integer = matches!(register_type(b.ty), kernel::Type::I8 | kernel::Type::I32 | kernel::Type::I64);
            if b.ty != p.ty || !(integer || code.is_some()) || (null_equal && b.nullable) {
                return Ok(None);
            }
        }
        let parts: Vec<Option<KeyBounds>> = build
            .iter()
            .zip(&codes)
            .map(|(v, code)| match code {
                Some((input, source)) => key_bounds(self.code_range(*input, *source)),
                None => key_bounds(self.bounds.value(*v)),
            })
            .collect();
        let words = parts.iter().try_fold(1u64, |n, part| n.checked_mul((*part)?.size));
        // A word is a signed number where it is made.
        let words = words.filter(|n| *n <= i64::MAX as u64 / 2);
        if build.is_empty() || (build.len() > 1 && words.is_none()) {
            return Ok(None);
        }
        let rows = self.bounds.rows(table).and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        let words = words.filter(|n| *n <= SMALL_INDEX.max(rows.saturating_mul(WORDS_PER_ROW)));
        Ok(Some(KeyWord { parts, codes, words }))
    }

    fn group(&mut self, n: NodeId, node: &Node, keys: &[ColumnId], aggregates: &[Aggregate]) -> Result<StateId> {
        let source = self.table(node.operands[0])?;
        let mut need: BTreeSet<ColumnId> = keys.iter().copied().collect();
        need.extend(aggregates.iter().flat_map(|a| a.arg.into_iter().chain(a.filter)));
        let stream = self.stream(node.operands[0], &need)?;
        let mut b = LayoutBuilder::new(true);
        for &k in keys {
            let ty = source.get(k).ok_or_else(|| Error::Bug(format!("{k} is no key")))?;
            b.add(Some(k), self.kind(k, false), ty);
        }
        let mut accumulators: Vec<Accumulator> = vec![];
        let mut states = vec![];
        let mut at = keys.len();
        for a in aggregates {
            if a.distinct {
                return Err(Error::Bug("an aggregate over distinct values was not rewritten".into()));
            }
            let arg = a.arg.and_then(|c| source.get(c));
            let types = a.reducer.state_fields(arg)?;
            let mut state = vec![];
            for (fold, mut types) in folds(a, arg, types) {
                if let Some(known) = accumulators.iter().find(|k| k.fold == fold && k.filter == a.filter) {
                    state.extend(known.fields());
                    continue;
                }
                if let (Fold::Sum(c), ScalarType::Decimal { precision, .. }) = (&fold, &mut types[0])
                    && self.bounds.sum_fits_i64(node.operands[0], *c)
                {
                    *precision = I64_DIGITS;
                }
                let accumulator = Accumulator { fold, filter: a.filter, first: at, count: types.len() };
                state.extend(accumulator.fields());
                accumulators.push(accumulator);
                at += types.len();
                for ty in types {
                    b.add(None, FieldKind::Value, ty.nullable(false));
                }
            }
            states.push(state);
        }
        let identity = self.bounds.identity(node.operands[0], keys);
        let state = self.state(StateKind::Group { node: n, identity, accumulators, states }, b.finish());
        self.pipeline(stream, Sink::Group { state });
        self.seal(state, Seal::Group);
        Ok(state)
    }

    /// The rows that become tensors: as they stream, or from a table that is stored first.
    fn batch_stream(&mut self, v: ValueId, groups: &[TensorColumns], need: &BTreeSet<ColumnId>) -> Result<Stream> {
        let ty = self.table(v)?;
        let mut row = LayoutBuilder::new(false);
        for c in ty.columns.iter().filter(|c| need.contains(&c.id)) {
            row.add(Some(c.id), self.kind(c.id, false), c.ty);
        }
        let layout = border::layout_note(groups, ty);
        let stream = if self.writes_batches {
            let stream = self.stream(v, need)?;
            // Rows that were stored anyway save nothing.
            if !matches!(stream.source, Source::State(_)) || !stream.steps.is_empty() {
                self.plan.notes.push(border::batch_note(groups, Some(row.finish().size)));
            }
            stream
        } else {
            self.plan.notes.push(border::batch_note(groups, None));
            let state = self.append(v, need, &BTreeSet::new())?;
            self.seal(state, Seal::Collect);
            Stream { source: Source::State(state), steps: vec![] }
        };
        self.plan.notes.push(layout);
        Ok(stream)
    }

    fn store_tensors(&mut self, n: NodeId, node: &Node) -> Result<()> {
        let Op::Bridge(BridgeOp::ToTensor { groups, .. }) = &node.op else {
            return Err(Error::Bug("not a to_tensor node".into()));
        };
        if node.results.iter().all(|v| !self.uses.contains_key(v)) {
            return Ok(());
        }
        let columns: Vec<ColumnId> = groups.iter().flat_map(|g| g.columns.iter().copied()).collect();
        let need: BTreeSet<ColumnId> = columns.iter().copied().collect();
        let stream = self.batch_stream(node.operands[0], groups, &need)?;
        let state = self.state(StateKind::Tensors { node: n }, Layout::default());
        self.pipeline(stream, Sink::Append { state, columns: columns.into_iter().map(Some).collect() });
        self.seal(state, Seal::Tensors);
        self.made.extend(node.results.iter());
        Ok(())
    }

    /// Makes the pending tensor nodes a stage, if one of these values needs them.
    fn flush_tensors(&mut self, wanted: &[ValueId]) -> Result<()> {
        let made_here: HashSet<ValueId> =
            self.pending.iter().flat_map(|n| self.p.node(*n).results.iter().copied()).collect();
        if !wanted.iter().any(|v| made_here.contains(v)) {
            return Ok(());
        }
        let nodes = std::mem::take(&mut self.pending);
        let mut inputs = vec![];
        for &n in &nodes {
            let node = self.p.node(n);
            if let Op::Control(ControlOp::Call(f)) = node.op
                && self.p.region(self.p.func(f).body).results.iter().any(|v| matches!(self.p.ty(*v), Type::Table(_)))
            {
                return Err(Error::Unsupported("a function that returns a table".into()));
            }
            for v in reads(self.p, node) {
                if !made_here.contains(&v) && !inputs.contains(&v) {
                    inputs.push(v);
                }
            }
        }
        // What nodes of this stage alone read stays inside of it.
        let mut inside: HashMap<ValueId, usize> = HashMap::new();
        for node in nodes.iter().map(|n| self.p.node(*n)) {
            if node.results.iter().any(|v| self.uses.contains_key(v)) {
                reads(self.p, node).for_each(|v| *inside.entry(v).or_default() += 1);
            }
        }
        let outputs: Vec<ValueId> = nodes
            .iter()
            .flat_map(|n| self.p.node(*n).results.iter().copied())
            .filter(|v| self.uses.get(v).is_some_and(|n| inside.get(v).is_none_or(|m| n > m)))
            .collect();
        self.made.extend(&outputs);
        self.plan.stages.push(Stage::Tensor { nodes, inputs, outputs });
        Ok(())
    }
}
