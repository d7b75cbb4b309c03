//! Pipelines to kernels.
//!
//! What holds:
//! - A pipeline is one function over a range of its source, and one more for each `apply` step: rows are written into a tile,
//!   and a full tile (or the last one of the range) runs the model and goes on with the steps after it.
//! - A step is emitted inside the code of the steps before it: a filter opens an `if`, a probe a loop over partners. What is
//!   inside sees what is outside; nothing inside is seen outside.
//! - The worker block holds, from its first state slot on, the sink's states and then the tiles, in the order of
//!   [`Lowered::states`].

use runtime::abi::{RuntimeFn, layout};

use super::context::{Context, Slot};
use super::row::{Binding, Cell, Env, Inputs, RowLower};
use crate::entity::{ColumnId, NodeId, ValueId};
use crate::error::{Error, Result};
use crate::graph::bridge::TensorColumns;
use crate::graph::{BridgeOp, Op, Program, RelOp};
use crate::kernel::{self, Cmp, FunctionRef, LoopKind, Module, Signature, Type as K};
use crate::plan::{Layout, Pipeline, Plan, ProbeKind, Sink, Source, StateId, StateKind, Step, register_type};
use crate::scalar::ScalarOp;
use crate::types::ScalarType;

/// Bytes before the first state in a worker block.
const FIRST_STATE: i32 = runtime::trap::WORKER_HEAD_SLOTS as i32 * 8;

/// Rows of a tile.
pub const TILE_ROWS: usize = 1024;

/// Slots of a tile's block.
pub mod tile {
    /// Rows in the tile.
    pub const COUNT: i32 = 0;
    /// Address of the saved rows.
    pub const ROWS: i32 = 8;
    /// The function that runs the model.
    pub const CALLBACK: i32 = 16;
    /// Its first argument.
    pub const DATA: i32 = 24;
    /// Addresses of the inputs, then of the outputs.
    pub const TENSORS: i32 = 32;
}

/// The location of a trap site that names a column rather than a place.
pub const COLUMN_LOCATION: u32 = 1 << 31;

/// A state that each range has of its own.
#[derive(Clone, PartialEq, Debug)]
pub enum WorkerState {
    /// A row buffer of records of this size.
    Rows {
        /// Bytes of a record.
        size: u32,
    },
    /// A group table.
    Group {
        /// Bytes of a record.
        size: u32,
    },
    /// The area of host calls.
    Area,
    /// A tile of an `apply` node.
    Tile {
        /// The node.
        node: NodeId,
        /// Bytes of a saved record.
        size: u32,
    },
}

/// A lowered pipeline.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// `(ctx, worker, begin, end) -> status`.
    pub function: FunctionRef,
    /// What the worker block must hold.
    pub states: Vec<WorkerState>,
}

/// What a `to_tensor` or an `apply` makes of a row: a record of `columns` elements a group.
pub fn tensor_record_size(group: &TensorColumns) -> u32 {
    element_bytes(group.dtype) * group.columns.len() as u32
}

/// Bytes of a tensor's element.
pub fn element_bytes(ty: ScalarType) -> u32 {
    register_type(ty).bytes()
}

struct PipelineLower<'a> {
    r: RowLower<'a>,
    plan: &'a Plan,
    pipeline: &'a Pipeline,
    /// For each step that is an `apply` its function and the index of its tile among the states.
    flushes: &'a [(usize, FunctionRef, usize)],
    /// The group's record, where there are no keys.
    single_group: Option<kernel::Value>,
}

/// Lowers a pipeline into functions of the module.
pub fn pipeline(
    p: &Program,
    plan: &Plan,
    pipeline: &Pipeline,
    name: &str,
    inputs: &dyn Inputs,
    context: &mut Context,
    module: &mut Module,
) -> Result<Lowered> {
    let mut states = sink_states(p, plan, &pipeline.sink)?;
    let mut flushes = vec![];
    for (i, step) in pipeline.steps.iter().enumerate() {
        if let Step::Apply { node, saved } = step {
            let signature = Signature::new(&[K::Ptr, K::Ptr], Some(K::I32)).with_worker(1);
            flushes.push((i, module.declare(&format!("{name}_tile{}", flushes.len()), signature), states.len()));
            states.push(WorkerState::Tile { node: *node, size: saved.size });
        }
    }
    states.push(WorkerState::Area);
    let function = module.declare(name, Signature::pipeline());
    for k in 0..=flushes.len() {
        let target = if k == 0 { &function } else { &flushes[k - 1].1 };
        let mut b = module.builder(target);
        let (ctx, worker) = (b.param(0), b.param(1));
        let area = b.load_always(K::Ptr, worker, FIRST_STATE + (states.len() as i32 - 1) * 8);
        let r = RowLower { p, inputs, b, context: &mut *context, ctx, worker, area: Some(area) };
        let mut l = PipelineLower { r, plan, pipeline, flushes: &flushes, single_group: None };
        if k == 0 { l.main()? } else { l.flush(k - 1)? }
        let zero = l.r.b.iconst(K::I32, 0);
        let body = l.r.b.finish(Some(zero)).map_err(|e| Error::Bug(e.to_string()))?;
        module.define(target, body);
    }
    Ok(Lowered { function, states })
}

/// The states that a sink fills, one set a range.
fn sink_states(p: &Program, plan: &Plan, sink: &Sink) -> Result<Vec<WorkerState>> {
    let (Sink::Append { state, .. } | Sink::Build { state, .. } | Sink::Group { state }) = sink;
    let s = plan.state(*state);
    Ok(match &s.kind {
        StateKind::Rows | StateKind::Join { .. } => vec![WorkerState::Rows { size: s.layout.size }],
        StateKind::Group { .. } => vec![WorkerState::Group { size: s.layout.size }],
        StateKind::Tensors { node } => {
            to_tensor_groups(p, *node)?.iter().map(|g| WorkerState::Rows { size: tensor_record_size(g) }).collect()
        }
    })
}

fn to_tensor_groups(p: &Program, node: NodeId) -> Result<&[TensorColumns]> {
    match &p.node(node).op {
        Op::Bridge(BridgeOp::ToTensor { groups, .. }) => Ok(groups),
        _ => Err(Error::Bug(format!("{node} is no to_tensor"))),
    }
}

/// The function that merges one group's record into another's: `(ctx, worker, into, from) -> status`.
pub fn merge(
    p: &Program,
    plan: &Plan,
    state: StateId,
    name: &str,
    inputs: &dyn Inputs,
    context: &mut Context,
    module: &mut Module,
) -> Result<FunctionRef> {
    let StateKind::Group { node, states } = &plan.state(state).kind else {
        return Err(Error::Bug(format!("{state} holds no groups")));
    };
    let Op::Rel(RelOp::Group { aggregates, .. }) = &p.node(*node).op else {
        return Err(Error::Bug(format!("{node} is no group")));
    };
    let layout = &plan.state(state).layout;
    let source = p.ty(p.node(*node).operands[0]).as_table().ok_or_else(|| Error::Bug("a group reads a table".into()))?;
    let function = module.declare(name, Signature::pipeline());
    let mut b = module.builder(&function);
    let (ctx, worker, into, from) = (b.param(0), b.param(1), b.param(2), b.param(3));
    let (into, from) = (b.bitcast(into, K::Ptr), b.bitcast(from, K::Ptr));
    let mut r = RowLower { p, inputs, b, context, ctx, worker, area: None };
    for (a, &(first, n)) in aggregates.iter().zip(states) {
        let arg = a.arg.and_then(|c| source.get(c));
        let fields = &layout.fields[first..first + n];
        let load = |b: &mut kernel::Builder, row| -> Vec<kernel::Value> {
            fields.iter().map(|f| b.load(f.register(), row, f.offset as i32)).collect()
        };
        let (x, y) = (load(&mut r.b, into), load(&mut r.b, from));
        let merged = r.reduce_merge(a.reducer, arg.map(|a| a.ty), &x, &y)?;
        for (f, v) in fields.iter().zip(merged) {
            r.b.store(v, into, f.offset as i32);
        }
    }
    let zero = r.b.iconst(K::I32, 0);
    let body = r.b.finish(Some(zero)).map_err(|e| Error::Bug(e.to_string()))?;
    module.define(&function, body);
    Ok(function)
}

impl<'a> PipelineLower<'a> {
    fn state_pointer(&mut self, index: usize) -> kernel::Value {
        self.r.b.load_always(K::Ptr, self.r.worker, FIRST_STATE + index as i32 * 8)
    }

    /// Whether the sink stands in the function of tile `k` (0: the main function).
    fn has_sink(&self, k: usize) -> bool {
        k == self.flushes.len()
    }

    fn main(&mut self) -> Result<()> {
        if self.has_sink(0) {
            self.sink_prologue()?;
        }
        let (begin, end) = (self.r.b.param(2), self.r.b.param(3));
        let body = self.r.b.begin_for(LoopKind::Serial, begin, end, 1, &[]);
        let env = self.source(body.index)?;
        self.step(0, env)?;
        self.r.b.end_for(&[]);
        for (_, function, _) in self.flushes {
            let status = self.r.b.call_function(function, &[self.r.ctx, self.r.worker]);
            let status = status.ok_or_else(|| Error::Bug("a tile's function returns a status".into()))?;
            self.r.b.return_if_failed(status);
        }
        Ok(())
    }

    /// Columns of row `index` of the source.
    fn source(&mut self, index: kernel::Value) -> Result<Env> {
        let mut env = Env::default();
        match &self.pipeline.source {
            Source::Scan { input, columns } => {
                for c in columns {
                    env.columns.insert(c.id, Binding::Scan { input: *input, source: c.source, index });
                }
            }
            Source::State(state) => {
                let rows = self.r.slot(Slot::Rows(*state));
                let at = self.r.b.offset(rows, index, 8, 0);
                let row = self.r.b.load_readonly(K::Ptr, at, 0);
                self.bind_row(*state, row, &mut env)?;
            }
            Source::Tensors(node) => {
                let n = self.r.p.node(*node);
                let Op::Bridge(BridgeOp::ToTable { columns }) = &n.op else {
                    return Err(Error::Bug(format!("{node} is no to_table")));
                };
                let mut ids = columns.iter();
                for (i, v) in n.operands.iter().enumerate() {
                    let t = self.r.p.ty(*v).as_tensor().ok_or_else(|| Error::Bug("to_table reads tensors".into()))?;
                    let base = self.r.slot(Slot::TensorData(*node, i as u32));
                    let width = t.shape.get(1).and_then(|d| d.as_const()).unwrap_or(1);
                    self.bind_elements(base, index, t.dtype, width, &mut ids, &mut env);
                }
            }
        }
        Ok(env)
    }

    /// Binds `width` columns to the elements of a row-major tensor's row.
    fn bind_elements<'c>(
        &mut self,
        base: kernel::Value,
        index: kernel::Value,
        dtype: ScalarType,
        width: usize,
        ids: &mut impl Iterator<Item = &'c ColumnId>,
        env: &mut Env,
    ) {
        let bytes = element_bytes(dtype);
        let row = self.r.b.offset(base, index, i64::from(bytes) * width as i64, 0);
        for (j, id) in ids.by_ref().take(width).enumerate() {
            let field = crate::plan::Field {
                column: Some(*id),
                kind: crate::plan::FieldKind::Value,
                ty: dtype.nullable(false),
                offset: j as u32 * bytes,
                valid: None,
            };
            env.columns.insert(*id, Binding::Field { row, field, present: None });
        }
    }

    /// Binds the columns of a state's record.
    fn bind_row(&mut self, state: StateId, row: kernel::Value, env: &mut Env) -> Result<()> {
        let plan = self.plan;
        let s = plan.state(state);
        for f in &s.layout.fields {
            if let Some(id) = f.column {
                env.columns.insert(id, Binding::Field { row, field: *f, present: None });
            }
        }
        if let StateKind::Group { node, states } = &s.kind {
            let n = self.r.p.node(*node);
            let Op::Rel(RelOp::Group { aggregates, .. }) = &n.op else {
                return Err(Error::Bug(format!("{node} is no group")));
            };
            let table = |v: ValueId| self.r.p.ty(v).as_table().ok_or_else(|| Error::Bug("a group reads a table".into()));
            let (source, result) = (table(n.operands[0])?, table(n.results[0])?);
            for (a, &(first, count)) in aggregates.iter().zip(states) {
                let ty = result.get(a.out).ok_or_else(|| Error::Bug("an aggregate has a column".into()))?;
                let binding = Binding::Reduced {
                    row,
                    reducer: a.reducer,
                    arg: a.arg.and_then(|c| source.get(c)),
                    fields: s.layout.fields[first..first + count].to_vec(),
                    ty,
                };
                env.columns.insert(a.out, binding);
            }
        }
        Ok(())
    }

    /// Emits step `i` and what follows.
    fn step(&mut self, i: usize, mut env: Env) -> Result<()> {
        let pipeline = self.pipeline;
        let Some(step) = pipeline.steps.get(i) else { return self.sink(env) };
        match step {
            Step::Filter(region) => {
                let result = self.r.p.region(*region).results[0];
                self.filter(&[result], env, &mut |s, env| s.step(i + 1, env))
            }
            Step::Extend { columns, region } => {
                let p = self.r.p;
                for (c, v) in columns.iter().zip(&p.region(*region).results) {
                    env.columns.insert(*c, Binding::Lazy(*v));
                }
                self.step(i + 1, env)
            }
            Step::Probe { table, kind, keys, residual, null_aware } => {
                self.probe(i, *table, *kind, keys, residual, *null_aware, env)
            }
            Step::Apply { node, saved } => self.save(i, *node, saved, env),
        }
    }

    /// Runs `then` where all conditions are true, one after the other.
    fn filter(
        &mut self,
        conditions: &[ValueId],
        mut env: Env,
        then: &mut dyn FnMut(&mut Self, Env) -> Result<()>,
    ) -> Result<()> {
        let mut parts = vec![];
        for v in conditions {
            crate::plan::split::conjuncts(self.r.p, *v, &mut parts);
        }
        let mut open = 0;
        for v in parts {
            let cell = self.r.value(v, &mut env)?;
            let flag = self.r.is_true(&cell);
            self.r.b.begin_if(flag, &[]);
            open += 1;
        }
        then(self, env)?;
        for _ in 0..open {
            self.r.b.end_if(&[]);
        }
        Ok(())
    }

    // ---- probes ----

    #[allow(clippy::too_many_arguments, reason = "the fields of a step")]
    fn probe(
        &mut self,
        i: usize,
        state: StateId,
        kind: ProbeKind,
        keys: &[ValueId],
        residual: &[ValueId],
        null_aware: bool,
        mut env: Env,
    ) -> Result<()> {
        let cells: Vec<Cell> = keys.iter().map(|v| self.r.value(*v, &mut env)).collect::<Result<_>>()?;
        let table = self.r.slot(Slot::JoinTable(state));
        let rows = self.r.b.load_always(K::Ptr, table, layout::JOIN_TABLE_ROWS.offset);
        let (start, count) = self.candidates(state, table, rows, &cells)?;
        let size = i64::from(self.plan.state(state).layout.size);
        match kind {
            ProbeKind::Inner => {
                let end = self.r.b.add(start, count);
                let body = self.r.b.begin_for(LoopKind::Serial, start, end, 1, &[]);
                let row = self.r.b.offset(rows, body.index, size, 0);
                let mut inner = env;
                self.bind_partner(state, row, None, &mut inner);
                self.filter(residual, inner, &mut |s, env| s.step(i + 1, env))?;
                self.r.b.end_for(&[]);
                Ok(())
            }
            ProbeKind::Left if residual.is_empty() => {
                let one = self.r.b.iconst(K::I64, 1);
                let n = self.r.b.smax(count, one);
                let end = self.r.b.add(start, n);
                let present = self.r.b.icmp_imm(Cmp::Ne, count, 0);
                let body = self.r.b.begin_for(LoopKind::Serial, start, end, 1, &[]);
                let row = self.r.b.offset(rows, body.index, size, 0);
                self.bind_partner(state, row, Some(present), &mut env);
                self.step(i + 1, env)?;
                self.r.b.end_for(&[]);
                Ok(())
            }
            ProbeKind::Left => self.probe_left(i, state, rows, start, count, residual, env),
            ProbeKind::Semi | ProbeKind::Anti | ProbeKind::Mark(_) => {
                let (found, unknown) = self.exists(state, table, rows, start, count, residual, &cells, null_aware, &env)?;
                if let ProbeKind::Mark(id) = kind {
                    let valid = unknown.map(|u| self.r.b.bool_not(u));
                    let cell = Cell { value: found, valid, ty: ScalarType::Bool, range: Some((0, 1)) };
                    env.columns.insert(id, Binding::Cell(cell));
                    return self.step(i + 1, env);
                }
                let keep = if kind == ProbeKind::Semi { found } else { self.r.b.bool_not(found) };
                self.r.b.begin_if(keep, &[]);
                self.step(i + 1, env)?;
                self.r.b.end_if(&[]);
                Ok(())
            }
            ProbeKind::Single => {
                let (row, present) = self.single(state, rows, start, count, residual, &env)?;
                self.bind_partner(state, row, Some(present), &mut env);
                self.step(i + 1, env)
            }
        }
    }

    /// The rows that may be partners: all of equal keys, or all. First row and number of rows, I64.
    fn candidates(
        &mut self,
        state: StateId,
        table: kernel::Value,
        rows: kernel::Value,
        keys: &[Cell],
    ) -> Result<(kernel::Value, kernel::Value)> {
        if keys.is_empty() {
            let zero = self.r.b.iconst(K::I64, 0);
            let len = self.r.b.load_always(K::I64, table, layout::JOIN_TABLE_LEN.offset);
            return Ok((zero, len));
        }
        let plan = self.plan;
        let s = plan.state(state);
        let StateKind::Join { null_equal, .. } = &s.kind else {
            return Err(Error::Bug(format!("{state} is no join table")));
        };
        let mut present = None;
        for (k, null_equal) in keys.iter().zip(null_equal) {
            if let (Some(v), false) = (k.valid, null_equal) {
                present = Some(match present {
                    Some(p) => self.r.b.and(p, v),
                    None => v,
                });
            }
        }
        if let Some(present) = present {
            self.r.b.begin_if(present, &[K::I64, K::I64]);
        }
        let canonical: Vec<Cell> = keys
            .iter()
            .zip(&s.layout.fields)
            .map(|(k, f)| Ok(Cell { value: self.r.to_register(k, f.register())?, ..*k }))
            .collect::<Result<_>>()?;
        let hash = self.r.hash(&canonical)?;
        let entries = self.r.b.load_always(K::Ptr, table, layout::JOIN_TABLE_ENTRIES.offset);
        let shift = self.r.b.load_always(K::I64, table, layout::JOIN_TABLE_SHIFT.offset);
        let mask = self.r.b.load_always(K::I64, table, layout::JOIN_TABLE_MASK.offset);
        let first = self.r.b.ushr(hash, shift);
        let zero = self.r.b.iconst(K::I64, 0);
        let carried = self.r.b.begin_while(&[first, zero, zero]);
        let entry = self.r.b.offset(entries, carried[0], 16, 0);
        let entry_hash = self.r.b.load_readonly(K::I64, entry, layout::JOIN_ENTRY_HASH.offset);
        let start = self.r.b.load_readonly(K::I32, entry, layout::JOIN_ENTRY_START.offset);
        let count = self.r.b.load_readonly(K::I32, entry, layout::JOIN_ENTRY_COUNT.offset);
        let (start, count) = (self.r.b.zext(start, K::I64), self.r.b.zext(count, K::I64));
        let taken = self.r.b.icmp_imm(Cmp::Ne, count, 0);
        let same_hash = self.r.b.icmp(Cmp::Eq, entry_hash, hash);
        let candidate = self.r.b.and(taken, same_hash);
        self.r.b.begin_if(candidate, &[K::I8]);
        let row = self.r.b.offset(rows, start, i64::from(s.layout.size), 0);
        let mut same = self.r.b.bool_const(true);
        for ((k, f), null_equal) in canonical.iter().zip(&s.layout.fields).zip(null_equal) {
            let (value, valid) = self.r.load_field(row, f, None);
            let stored = Cell { value, valid, ty: f.ty.ty, range: None };
            let equal = self.r.equal(k, &stored, *null_equal)?;
            same = self.r.b.and(same, equal);
        }
        self.r.b.begin_else(&[same]);
        let no = self.r.b.bool_const(false);
        let same = self.r.b.end_if(&[no])[0];
        let other = self.r.b.bool_not(same);
        let go_on = self.r.b.and(taken, other);
        let next = self.r.b.add_imm(carried[0], 1);
        let next = self.r.b.and(next, mask);
        let count = self.r.b.select(same, count, zero);
        let out = self.r.b.end_while(go_on, &[next, start, count]);
        if present.is_some() {
            self.r.b.begin_else(&[out[1], out[2]]);
            let out = self.r.b.end_if(&[zero, zero]);
            return Ok((out[0], out[1]));
        }
        Ok((out[1], out[2]))
    }

    fn bind_partner(&mut self, state: StateId, row: kernel::Value, present: Option<kernel::Value>, env: &mut Env) {
        for f in &self.plan.state(state).layout.fields {
            if let Some(id) = f.column {
                env.columns.insert(id, Binding::Field { row, field: *f, present });
            }
        }
    }

    /// A left probe with a residual: partners that pass, then once more without a partner if none did.
    #[allow(clippy::too_many_arguments, reason = "what `probe` has found so far")]
    fn probe_left(
        &mut self,
        i: usize,
        state: StateId,
        rows: kernel::Value,
        start: kernel::Value,
        count: kernel::Value,
        residual: &[ValueId],
        env: Env,
    ) -> Result<()> {
        let size = i64::from(self.plan.state(state).layout.size);
        let zero = self.r.b.iconst(K::I64, 0);
        let steps = self.r.b.add_imm(count, 1);
        let none = self.r.b.bool_const(false);
        let body = self.r.b.begin_for(LoopKind::Serial, zero, steps, 1, &[none]);
        let matched = body.carried[0];
        let present = self.r.b.icmp(Cmp::Lt, body.index, count);
        let at = self.r.b.add(start, body.index);
        let row = self.r.b.offset(rows, at, size, 0);
        self.r.b.begin_if(present, &[K::I8]);
        let mut inner = env.clone();
        self.bind_partner(state, row, None, &mut inner);
        let pass = self.all_true(residual, inner)?;
        self.r.b.begin_else(&[pass]);
        let alone = self.r.b.bool_not(matched);
        let go = self.r.b.end_if(&[alone])[0];
        let hit = self.r.b.and(present, go);
        let matched = self.r.b.binary(kernel::BinaryOp::Or, matched, hit);
        self.r.b.begin_if(go, &[]);
        let mut inner = env;
        self.bind_partner(state, row, Some(present), &mut inner);
        self.step(i + 1, inner)?;
        self.r.b.end_if(&[]);
        self.r.b.end_for(&[matched]);
        Ok(())
    }

    /// 1 where all conditions are true.
    fn all_true(&mut self, conditions: &[ValueId], mut env: Env) -> Result<kernel::Value> {
        let mut all = self.r.b.bool_const(true);
        for v in conditions {
            self.r.b.begin_if(all, &[K::I8]);
            let mut inner = env.clone();
            let cell = self.r.value(*v, &mut inner)?;
            let flag = self.r.is_true(&cell);
            self.r.b.begin_else(&[flag]);
            let no = self.r.b.bool_const(false);
            all = self.r.b.end_if(&[no])[0];
            env = Env { columns: env.columns, values: env.values };
        }
        Ok(all)
    }

    /// Whether a partner exists, and, where NULLs matter, whether that is unknown.
    #[allow(clippy::too_many_arguments, reason = "what `probe` has found so far")]
    fn exists(
        &mut self,
        state: StateId,
        table: kernel::Value,
        rows: kernel::Value,
        start: kernel::Value,
        count: kernel::Value,
        residual: &[ValueId],
        keys: &[Cell],
        null_aware: bool,
        env: &Env,
    ) -> Result<(kernel::Value, Option<kernel::Value>)> {
        if residual.is_empty() {
            let found = self.r.b.icmp_imm(Cmp::Ne, count, 0);
            if !null_aware {
                return Ok((found, None));
            }
            // Unknown: a NULL on either side, and no partner.
            let len = self.r.b.load_always(K::I64, table, layout::JOIN_TABLE_LEN.offset);
            let nulls = self.r.b.load_always(K::I64, table, layout::JOIN_TABLE_NULL_ROWS.offset);
            let mut unknown = self.r.b.icmp_imm(Cmp::Ne, nulls, 0);
            if let Some(valid) = keys.first().and_then(|k| k.valid) {
                let null = self.r.b.bool_not(valid);
                let any = self.r.b.icmp_imm(Cmp::Ne, len, 0);
                let null = self.r.b.and(null, any);
                unknown = self.r.b.binary(kernel::BinaryOp::Or, unknown, null);
            }
            let missing = self.r.b.bool_not(found);
            return Ok((found, Some(self.r.b.and(unknown, missing))));
        }
        // Look at the candidates until one passes. A candidate of an empty run is not looked at.
        let size = i64::from(self.plan.state(state).layout.size);
        let no = self.r.b.bool_const(false);
        let zero = self.r.b.iconst(K::I64, 0);
        let any = self.r.b.icmp_imm(Cmp::Ne, count, 0);
        self.r.b.begin_if(any, &[K::I8, K::I8]);
        let carried = self.r.b.begin_while(&[zero, no, no]);
        let at = self.r.b.add(start, carried[0]);
        let row = self.r.b.offset(rows, at, size, 0);
        let mut inner = env.clone();
        self.bind_partner(state, row, None, &mut inner);
        let (found, unknown) = if null_aware {
            // The conjunction in Kleene's logic.
            let mut all: Option<Cell> = None;
            for v in residual {
                let cell = self.r.value(*v, &mut inner)?;
                all = Some(match all {
                    None => cell,
                    Some(a) => {
                        let ty = ScalarType::Bool.nullable(a.valid.is_some() || cell.valid.is_some());
                        self.r.scalar(ScalarOp::And, &[a, cell], ty, None)?
                    }
                });
            }
            let all = all.ok_or_else(|| Error::Bug("a residual has a condition".into()))?;
            let valid = self.r.valid_flag(&all);
            let null = self.r.b.bool_not(valid);
            (self.r.is_true(&all), self.r.b.binary(kernel::BinaryOp::Or, carried[2], null))
        } else {
            (self.all_true(residual, inner)?, no)
        };
        let next = self.r.b.add_imm(carried[0], 1);
        let more = self.r.b.icmp(Cmp::Lt, next, count);
        let missing = self.r.b.bool_not(found);
        let go_on = self.r.b.and(more, missing);
        let out = self.r.b.end_while(go_on, &[next, found, unknown]);
        self.r.b.begin_else(&[out[1], out[2]]);
        let out = self.r.b.end_if(&[no, no]);
        let missing = self.r.b.bool_not(out[0]);
        let unknown = self.r.b.and(out[1], missing);
        Ok((out[0], null_aware.then_some(unknown)))
    }

    /// The only partner and whether there is one; a second raises.
    fn single(
        &mut self,
        state: StateId,
        rows: kernel::Value,
        start: kernel::Value,
        count: kernel::Value,
        residual: &[ValueId],
        env: &Env,
    ) -> Result<(kernel::Value, kernel::Value)> {
        let size = i64::from(self.plan.state(state).layout.size);
        let one = self.r.b.iconst(K::I64, 1);
        let code = runtime::trap::TrapCode::ScalarSubqueryRows;
        if residual.is_empty() {
            let many = self.r.b.icmp(Cmp::Gt, count, one);
            self.r.b.trap_if(many, code, 0);
            let row = self.r.b.offset(rows, start, size, 0);
            return Ok((row, self.r.b.icmp_imm(Cmp::Ne, count, 0)));
        }
        let zero = self.r.b.iconst(K::I64, 0);
        let body = self.r.b.begin_for(LoopKind::Serial, zero, count, 1, &[zero, zero]);
        let at = self.r.b.add(start, body.index);
        let row = self.r.b.offset(rows, at, size, 0);
        let mut inner = env.clone();
        self.bind_partner(state, row, None, &mut inner);
        let pass = self.all_true(residual, inner)?;
        let wide = self.r.b.zext(pass, K::I64);
        let hits = self.r.b.add(body.carried[0], wide);
        let best = self.r.b.select(pass, at, body.carried[1]);
        let out = self.r.b.end_for(&[hits, best]);
        let many = self.r.b.icmp(Cmp::Gt, out[0], one);
        self.r.b.trap_if(many, code, 0);
        let row = self.r.b.offset(rows, out[1], size, 0);
        Ok((row, self.r.b.icmp_imm(Cmp::Ne, out[0], 0)))
    }

    // ---- tiles ----

    fn tile_inputs(&self, node: NodeId) -> Result<(&'a [TensorColumns], &'a [ColumnId])> {
        let p: &'a Program = self.r.p;
        match &p.node(node).op {
            Op::Bridge(BridgeOp::Apply { inputs, columns, .. }) => Ok((inputs, columns)),
            _ => Err(Error::Bug(format!("{node} is no apply"))),
        }
    }

    /// Writes the row into the tile of step `i`, and runs the tile if it is full.
    fn save(&mut self, i: usize, node: NodeId, saved: &Layout, mut env: Env) -> Result<()> {
        let (_, function, index) =
            self.flushes.iter().find(|f| f.0 == i).ok_or_else(|| Error::Bug("a tile has a function".into()))?;
        let t = self.state_pointer(*index);
        let count = self.r.b.load(K::I64, t, tile::COUNT);
        let (inputs, _) = self.tile_inputs(node)?;
        for (g, group) in inputs.iter().enumerate() {
            let base = self.r.b.load_always(K::Ptr, t, tile::TENSORS + g as i32 * 8);
            let at = self.r.b.offset(base, count, i64::from(tensor_record_size(group)), 0);
            self.store_elements(group, at, &mut env)?;
        }
        let rows = self.r.b.load_always(K::Ptr, t, tile::ROWS);
        let row = self.r.b.offset(rows, count, i64::from(saved.size), 0);
        self.store_columns(saved, 0, row, &mut env)?;
        let next = self.r.b.add_imm(count, 1);
        self.r.b.store(next, t, tile::COUNT);
        let full = self.r.b.icmp_imm(Cmp::Eq, next, TILE_ROWS as i64);
        self.r.b.begin_if(full, &[]);
        let status = self.r.b.call_function(function, &[self.r.ctx, self.r.worker]);
        let status = status.ok_or_else(|| Error::Bug("a tile's function returns a status".into()))?;
        self.r.b.return_if_failed(status);
        self.r.b.end_if(&[]);
        Ok(())
    }

    /// Converts columns to a tensor's elements; a NULL raises.
    fn store_elements(&mut self, group: &TensorColumns, at: kernel::Value, env: &mut Env) -> Result<()> {
        let bytes = element_bytes(group.dtype);
        for (j, c) in group.columns.iter().enumerate() {
            let cell = self.r.column(*c, env)?;
            if let Some(valid) = cell.valid {
                let null = self.r.b.bool_not(valid);
                let code = runtime::trap::TrapCode::NullFeature;
                self.r.b.trap_if(null, code, COLUMN_LOCATION | c.0);
            }
            let cell = Cell { valid: None, ..cell };
            let out = if cell.ty == group.dtype {
                cell
            } else {
                self.r.scalar(ScalarOp::Cast(group.dtype), &[cell], group.dtype.nullable(false), None)?
            };
            self.r.b.store(out.value, at, (j as u32 * bytes) as i32);
        }
        Ok(())
    }

    /// Stores columns to the fields of a record from field `first` on.
    fn store_columns(&mut self, layout: &Layout, first: usize, row: kernel::Value, env: &mut Env) -> Result<()> {
        for f in &layout.fields[first..] {
            if let Some(id) = f.column {
                self.store_column(Some(id), f, row, env)?;
            }
        }
        Ok(())
    }

    /// Stores a column (or NULL) to a field: its code where codes are stored.
    fn store_column(
        &mut self,
        id: Option<ColumnId>,
        field: &crate::plan::Field,
        row: kernel::Value,
        env: &mut Env,
    ) -> Result<()> {
        let Some(id) = id else {
            let ty = field.register();
            let value = self.r.zero(ty);
            let no = self.r.b.bool_const(false);
            let cell = Cell { value, valid: Some(no), ty: field.ty.ty, range: None };
            return self.r.store_field(&cell, row, field);
        };
        if let crate::plan::FieldKind::Code { input, source } = field.kind {
            return match self.r.code(id, env)? {
                Some((i, s, code, valid)) if (i, s) == (input, source) => {
                    let cell = Cell { value: code, valid, ty: ScalarType::I32, range: None };
                    self.r.store_field(&cell, row, field)
                }
                _ => Err(Error::Bug(format!("{id} is stored as codes but is none"))),
            };
        }
        let cell = self.r.column(id, env)?;
        self.r.store_field(&cell, row, field)
    }

    /// The function of tile `k`: run the model, then the steps after it for each row.
    fn flush(&mut self, k: usize) -> Result<()> {
        let (i, _, index) = self.flushes[k].clone();
        let Step::Apply { node, saved } = &self.pipeline.steps[i] else {
            return Err(Error::Bug("a tile belongs to an apply step".into()));
        };
        let t = self.state_pointer(index);
        let count = self.r.b.load(K::I64, t, tile::COUNT);
        if self.has_sink(k + 1) {
            self.sink_prologue()?;
        }
        let any = self.r.b.icmp_imm(Cmp::Ne, count, 0);
        self.r.b.begin_if(any, &[]);
        self.r.b.call_or_fail(RuntimeFn::TileRun, &[self.r.worker, t], 0);
        let zero = self.r.b.iconst(K::I64, 0);
        let body = self.r.b.begin_for(LoopKind::Serial, zero, count, 1, &[]);
        let rows = self.r.b.load_always(K::Ptr, t, tile::ROWS);
        let row = self.r.b.offset(rows, body.index, i64::from(saved.size), 0);
        let mut env = Env::default();
        for f in &saved.fields {
            if let Some(id) = f.column {
                env.columns.insert(id, Binding::Field { row, field: *f, present: None });
            }
        }
        let (inputs, columns) = self.tile_inputs(*node)?;
        let p = self.r.p;
        let mut ids = columns.iter();
        for (o, v) in p.region(p.node(*node).regions[0]).results.iter().enumerate() {
            let ty = p.ty(*v).as_tensor().ok_or_else(|| Error::Bug("apply yields tensors".into()))?;
            let slot = tile::TENSORS + (inputs.len() + o) as i32 * 8;
            let base = self.r.b.load_always(K::Ptr, t, slot);
            let width = ty.shape.get(1).and_then(|d| d.as_const()).unwrap_or(1);
            self.bind_elements(base, body.index, ty.dtype, width, &mut ids, &mut env);
        }
        self.step(i + 1, env)?;
        self.r.b.end_for(&[]);
        self.r.b.store(zero, t, tile::COUNT);
        self.r.b.end_if(&[]);
        Ok(())
    }

    // ---- sinks ----

    fn sink_prologue(&mut self) -> Result<()> {
        if let Sink::Group { state } = &self.pipeline.sink
            && self.group_keys(*state)?.is_empty()
        {
            let row = self.find_group(*state, &[])?;
            self.single_group = Some(row);
        }
        Ok(())
    }

    fn group_keys(&self, state: StateId) -> Result<&'a [ColumnId]> {
        let StateKind::Group { node, .. } = &self.plan.state(state).kind else {
            return Err(Error::Bug(format!("{state} holds no groups")));
        };
        let p: &'a Program = self.r.p;
        match &p.node(*node).op {
            Op::Rel(RelOp::Group { keys, .. }) => Ok(keys),
            _ => Err(Error::Bug(format!("{node} is no group"))),
        }
    }

    fn sink(&mut self, mut env: Env) -> Result<()> {
        let pipeline = self.pipeline;
        match &pipeline.sink {
            Sink::Append { state, columns } => {
                let s = self.plan.state(*state);
                if let StateKind::Tensors { node } = &s.kind {
                    for (g, group) in to_tensor_groups(self.r.p, *node)?.iter().enumerate() {
                        let at = self.append_row(g, tensor_record_size(group))?;
                        self.store_elements(group, at, &mut env)?;
                    }
                    return Ok(());
                }
                let row = self.append_row(0, s.layout.size)?;
                for (f, c) in s.layout.fields.iter().zip(columns) {
                    self.store_column(*c, f, row, &mut env)?;
                }
                Ok(())
            }
            Sink::Build { state, keys, .. } => {
                let s = self.plan.state(*state);
                let mut cells = vec![];
                for (v, f) in keys.iter().zip(&s.layout.fields) {
                    let cell = self.r.value(*v, &mut env)?;
                    cells.push(Cell { value: self.r.to_register(&cell, f.register())?, ..cell });
                }
                let hash = self.r.hash(&cells)?;
                let row = self.append_row(0, s.layout.size)?;
                self.r.b.store(hash, row, 0);
                for (cell, f) in cells.iter().zip(&s.layout.fields) {
                    self.r.store_field(cell, row, f)?;
                }
                self.store_columns(&s.layout, keys.len(), row, &mut env)
            }
            Sink::Group { state } => self.group(*state, env),
        }
    }

    /// The address of a fresh record in the range's row buffer.
    fn append_row(&mut self, index: usize, size: u32) -> Result<kernel::Value> {
        let buffer = self.state_pointer(index);
        let at = self.r.b.load(K::Ptr, buffer, layout::ROW_BUFFER_CUR.offset);
        let end = self.r.b.load(K::Ptr, buffer, layout::ROW_BUFFER_END.offset);
        let next = self.r.b.displace(at, i64::from(size));
        let full = self.r.b.compare(Cmp::UGt, next, end);
        self.r.b.begin_if(full, &[K::Ptr]);
        let fresh = self.r.b.call_or_fail(RuntimeFn::RowBufferGrow, &[self.r.worker, buffer], 0);
        let fresh = fresh.ok_or_else(|| Error::Bug("row_buffer_grow returns an address".into()))?;
        self.r.b.begin_else(&[fresh]);
        let row = self.r.b.end_if(&[at])[0];
        let next = self.r.b.displace(row, i64::from(size));
        self.r.b.store(next, buffer, layout::ROW_BUFFER_CUR.offset);
        Ok(row)
    }

    fn group(&mut self, state: StateId, mut env: Env) -> Result<()> {
        let keys = self.group_keys(state)?;
        let s = self.plan.state(state);
        let row = match self.single_group {
            Some(row) => row,
            None => {
                let mut cells = vec![];
                for (id, f) in keys.iter().zip(&s.layout.fields) {
                    let cell = match f.kind {
                        crate::plan::FieldKind::Code { .. } => match self.r.code(*id, &mut env)? {
                            Some((_, _, code, valid)) => Cell { value: code, valid, ty: ScalarType::I32, range: None },
                            None => return Err(Error::Bug(format!("{id} is grouped by code but has none"))),
                        },
                        crate::plan::FieldKind::Value => {
                            let cell = self.r.column(*id, &mut env)?;
                            Cell { value: self.r.to_register(&cell, f.register())?, ..cell }
                        }
                    };
                    cells.push(cell);
                }
                self.find_group(state, &cells)?
            }
        };
        let StateKind::Group { node, states } = &s.kind else {
            return Err(Error::Bug(format!("{state} holds no groups")));
        };
        let n = self.r.p.node(*node);
        let Op::Rel(RelOp::Group { aggregates, .. }) = &n.op else {
            return Err(Error::Bug(format!("{node} is no group")));
        };
        for (a, &(first, count)) in aggregates.iter().zip(states) {
            let fields = &s.layout.fields[first..first + count];
            let mut guard = None;
            if let Some(f) = a.filter {
                let cell = self.r.column(f, &mut env)?;
                guard = Some(self.r.is_true(&cell));
            }
            let arg = a.arg.map(|c| self.r.column(c, &mut env)).transpose()?;
            if let Some(valid) = arg.and_then(|c| c.valid)
                && !a.reducer.sees_null()
            {
                guard = Some(match guard {
                    Some(g) => self.r.b.and(g, valid),
                    None => valid,
                });
            }
            if let Some(guard) = guard {
                self.r.b.begin_if(guard, &[]);
            }
            let old: Vec<kernel::Value> =
                fields.iter().map(|f| self.r.b.load(f.register(), row, f.offset as i32)).collect();
            let new = self.r.reduce_step(a.reducer, arg.as_ref(), &old)?;
            for (f, v) in fields.iter().zip(new) {
                self.r.b.store(v, row, f.offset as i32);
            }
            if guard.is_some() {
                self.r.b.end_if(&[]);
            }
        }
        Ok(())
    }

    /// The record of the group with these keys; a fresh one gets keys and initial states.
    fn find_group(&mut self, state: StateId, keys: &[Cell]) -> Result<kernel::Value> {
        let plan = self.plan;
        let s = plan.state(state);
        let table = self.state_pointer(0);
        let hash = self.r.hash(keys)?;
        let entries = self.r.b.load(K::Ptr, table, layout::GROUP_TABLE_ENTRIES.offset);
        let shift = self.r.b.load(K::I64, table, layout::GROUP_TABLE_SHIFT.offset);
        let mask = self.r.b.load(K::I64, table, layout::GROUP_TABLE_MASK.offset);
        let first = self.r.b.ushr(hash, shift);
        let nothing = self.r.zero(K::Ptr);
        let carried = self.r.b.begin_while(&[first, nothing]);
        let entry = self.r.b.offset(entries, carried[0], 16, 0);
        let entry_hash = self.r.b.load(K::I64, entry, layout::GROUP_ENTRY_HASH.offset);
        let row = self.r.b.load(K::Ptr, entry, layout::GROUP_ENTRY_ROW.offset);
        let bits = self.r.b.bitcast(row, K::I64);
        let taken = self.r.b.icmp_imm(Cmp::Ne, bits, 0);
        let same_hash = self.r.b.icmp(Cmp::Eq, entry_hash, hash);
        let candidate = self.r.b.and(taken, same_hash);
        self.r.b.begin_if(candidate, &[K::I8]);
        let mut same = self.r.b.bool_const(true);
        for (k, f) in keys.iter().zip(&s.layout.fields) {
            let (value, valid) = self.r.load_field(row, f, None);
            let stored = Cell { value, valid, ty: k.ty, range: None };
            let equal = self.r.equal(k, &stored, true)?;
            same = self.r.b.and(same, equal);
        }
        self.r.b.begin_else(&[same]);
        let no = self.r.b.bool_const(false);
        let same = self.r.b.end_if(&[no])[0];
        let other = self.r.b.bool_not(same);
        let go_on = self.r.b.and(taken, other);
        let next = self.r.b.add_imm(carried[0], 1);
        let next = self.r.b.and(next, mask);
        let found = self.r.b.select(same, row, nothing);
        let out = self.r.b.end_while(go_on, &[next, found]);
        let found = out[1];
        let bits = self.r.b.bitcast(found, K::I64);
        let missing = self.r.b.icmp_imm(Cmp::Eq, bits, 0);
        self.r.b.begin_if(missing, &[K::Ptr]);
        let fresh = self.r.b.call_or_fail(RuntimeFn::GroupTableInsert, &[self.r.worker, table, hash], 0);
        let fresh = fresh.ok_or_else(|| Error::Bug("group_table_insert returns an address".into()))?;
        self.r.b.store(hash, fresh, 0);
        for (k, f) in keys.iter().zip(&s.layout.fields) {
            self.r.store_field(k, fresh, f)?;
        }
        self.init_states(state, fresh)?;
        self.r.b.begin_else(&[fresh]);
        Ok(self.r.b.end_if(&[found])[0])
    }

    fn init_states(&mut self, state: StateId, row: kernel::Value) -> Result<()> {
        let s = self.plan.state(state);
        let StateKind::Group { node, states } = &s.kind else {
            return Err(Error::Bug(format!("{state} holds no groups")));
        };
        let n = self.r.p.node(*node);
        let Op::Rel(RelOp::Group { aggregates, .. }) = &n.op else {
            return Err(Error::Bug(format!("{node} is no group")));
        };
        let source = self.r.p.ty(n.operands[0]).as_table().ok_or_else(|| Error::Bug("a group reads a table".into()))?;
        for (a, &(first, count)) in aggregates.iter().zip(states) {
            let arg = a.arg.and_then(|c| source.get(c));
            let init = self.r.reduce_init(a.reducer, arg)?;
            for (f, v) in s.layout.fields[first..first + count].iter().zip(init) {
                self.r.b.store(v, row, f.offset as i32);
            }
        }
        Ok(())
    }
}

