//! Pipelines to kernels.
//!
//! What holds:
//! - A pipeline is one function over a range of its source, and one more for each `apply` step: rows are written into a tile,
//!   and a full tile (or the last one of the range) runs the model and goes on with the steps after it.
//! - A step is emitted inside the code of the steps before it: a filter opens an `if`, a probe a loop over partners. What is
//!   inside sees what is outside; nothing inside is seen outside.
//! - Conditions on a scan's columns as they are stored are tested by tiles, before the loop over rows (see `filter.rs`); sums of
//!   few groups go by tiles too (see `blocks.rs`).
//! - The worker block holds, from its first state slot on, the sink's states, then the tiles and the buffers of rows that are
//!   stored on the way, in the order of [`Lowered::states`].

mod blocks;
mod filter;
mod group;
mod probe;
mod sink;
mod source;
mod tile;

use super::context::Context;
use super::row::{Binding, Env, Inputs, RowLower};
use crate::entity::{InputId, NodeId, ValueId};
use crate::error::{Error, Result};
use crate::graph::bridge::TensorColumns;
use crate::graph::{BridgeOp, Op, Program};
use crate::kernel::{self, FunctionRef, LoopKind, Module, Signature, Type as K};
use crate::plan::{Pipeline, Plan, Sink, Source, StateId, StateKind, Step, register_type};
use crate::types::ScalarType;

use blocks::Blocks;
use filter::TileFilter;
pub use group::merge;
pub(crate) use group::zone_bounds;

/// Bytes before the first state in a worker block.
const FIRST_STATE: i32 = runtime::trap::WORKER_HEAD_SLOTS as i32 * 8;

/// Slots of a tile's block.
pub mod tile_slots {
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
    /// As `Rows`, but of which only the best are kept.
    TopRows {
        /// Bytes of a record.
        size: u32,
    },
    /// A group table.
    Group {
        /// Bytes of a record.
        size: u32,
        /// How a table is indexed by the keys, if it is.
        direct: Option<Direct>,
    },
    /// The area of host calls.
    Area,
    /// Masks of a scan's filter; the first tile has the selection too, the last one is scratch of sums by blocks.
    Masks {
        /// Tiles.
        levels: usize,
    },
    /// The bytes of a set, which all ranges share.
    Set,
    /// A tile of an `apply` node.
    Tile {
        /// The node.
        node: NodeId,
        /// Bytes of a saved record.
        size: u32,
    },
}

/// The slots of a group table that is indexed by its keys.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Direct {
    /// So many, from 0.
    Slots(usize),
    /// One for each value between the bounds of a scanned column in the rows of the range.
    Window {
        /// The input.
        input: InputId,
        /// The column's position.
        source: u32,
    },
}

/// A lowered pipeline.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// `(ctx, worker, begin, end) -> status`.
    pub function: FunctionRef,
    /// What the worker block must hold.
    pub states: Vec<WorkerState>,
    /// Of these states the row buffers that a [`Step::Also`] fills, and for which state of the plan.
    pub beside: Vec<(usize, StateId)>,
    /// Conditions that every row of the result meets.
    pub zones: Vec<ZoneTest>,
}

/// A condition on a scanned column: rows whose value is outside of the range, or NULL, give nothing.
#[derive(Clone, PartialEq, Debug)]
pub struct ZoneTest {
    /// The input.
    pub input: InputId,
    /// The column's position.
    pub source: u32,
    /// The least value.
    pub low: i128,
    /// The greatest value.
    pub high: i128,
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
    /// As [`Lowered::beside`].
    beside: &'a [(usize, StateId)],
    /// The group's record, where there are no keys.
    single_group: Option<kernel::Value>,
    /// How the group table is indexed by the keys.
    direct: Option<Direct>,
    /// The scan's filter, once the main function has it.
    filter: TileFilter,
    /// How groups are summed by blocks, if they are.
    blocks: Option<Blocks>,
    /// The index of the masks among the states.
    masks: usize,
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
    let (mut flushes, mut beside) = (vec![], vec![]);
    for (i, step) in pipeline.steps.iter().enumerate() {
        match step {
            Step::Apply { node, saved } => {
                let signature = Signature::new(&[K::Ptr, K::Ptr], Some(K::I32)).with_worker(1);
                flushes.push((i, module.declare(&format!("{name}_tile{}", flushes.len()), signature), states.len()));
                states.push(WorkerState::Tile { node: *node, size: saved.size });
            }
            Step::Also { state, .. } => {
                beside.push((states.len(), *state));
                states.push(WorkerState::Rows { size: plan.state(*state).layout.size });
            }
            Step::Filter(_) | Step::Extend { .. } | Step::Probe { .. } => {}
        }
    }
    states.push(WorkerState::Area);
    states.push(WorkerState::Masks { levels: 0 });
    let masks = states.len() - 1;
    let mut zones = vec![];
    let rows = source_rows(&pipeline.source, inputs)?;
    let function = module.declare(name, Signature::pipeline());
    for k in 0..=flushes.len() {
        let target = if k == 0 { &function } else { &flushes[k - 1].1 };
        let mut b = module.builder(target);
        let (ctx, worker) = (b.param(0), b.param(1));
        let area = b.load_always(K::Ptr, worker, FIRST_STATE + (masks as i32 - 1) * 8);
        let r = RowLower { p, inputs, b, context: &mut *context, ctx, worker, area: Some(area), rows };
        let mut l = PipelineLower {
            r,
            plan,
            pipeline,
            flushes: &flushes,
            beside: &beside,
            single_group: None,
            direct: None,
            filter: TileFilter::default(),
            blocks: None,
            masks,
        };
        if k == 0 {
            l.main()?
        } else {
            l.flush(k - 1)?
        }
        if let (Some(by), Some(WorkerState::Group { direct, .. })) = (l.direct, states.first_mut()) {
            *direct = Some(by);
        }
        if let (true, Source::Scan { input, .. }) = (l.goes_by_tiles(), &pipeline.source) {
            states[masks] = WorkerState::Masks { levels: l.filter.levels() + 1 };
            zones = l.filter.zones(*input);
        }
        let zero = l.r.b.iconst(K::I32, 0);
        let body = l.r.b.finish(Some(zero)).map_err(|e| Error::Bug(e.to_string()))?;
        module.define(target, body);
    }
    Ok(Lowered { function, states, beside, zones })
}

/// The rows of a pipeline's source; 0 where they are not known before the run.
fn source_rows(source: &Source, inputs: &dyn Inputs) -> Result<usize> {
    match source {
        Source::Scan { input, columns, .. } => match columns.first() {
            Some(c) => Ok(inputs.column(*input, c.source)?.len()),
            None => Ok(0),
        },
        Source::State(_) | Source::Tensors(_) => Ok(0),
    }
}

/// The states that a sink fills, one set a range.
fn sink_states(p: &Program, plan: &Plan, sink: &Sink) -> Result<Vec<WorkerState>> {
    let (Sink::Append { state, .. } | Sink::Build { state, .. } | Sink::Group { state }) = sink;
    let s = plan.state(*state);
    Ok(match &s.kind {
        StateKind::Rows if plan.top_rows(*state).is_some() => vec![WorkerState::TopRows { size: s.layout.size }],
        StateKind::Rows | StateKind::Join { .. } => vec![WorkerState::Rows { size: s.layout.size }],
        StateKind::Set { .. } => vec![WorkerState::Set],
        StateKind::Group { .. } => vec![WorkerState::Group { size: s.layout.size, direct: None }],
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

impl<'a> PipelineLower<'a> {
    fn state_pointer(&mut self, index: usize) -> kernel::Value {
        self.r.b.load_always(K::Ptr, self.r.worker, FIRST_STATE + index as i32 * 8)
    }

    /// Whether the sink stands in the function of tile `k` (0: the main function).
    fn has_sink(&self, k: usize) -> bool {
        k == self.flushes.len()
    }

    fn goes_by_tiles(&self) -> bool {
        !self.filter.is_empty() || self.blocks.is_some()
    }

    fn main(&mut self) -> Result<()> {
        if self.has_sink(0) {
            self.sink_prologue()?;
        }
        self.filter = self.tile_filter()?;
        if self.has_sink(0) {
            self.blocks = self.block_sums()?;
        }
        if !self.goes_by_tiles() {
            let (begin, end) = (self.r.b.param(2), self.r.b.param(3));
            let body = self.r.b.begin_for(LoopKind::Serial, begin, end, 1, &[]);
            let env = self.source(body.index)?;
            self.step(0, env)?;
            self.r.b.end_for(&[]);
        } else {
            self.tiles()?;
        }
        for (_, function, _) in self.flushes {
            let status = self.r.b.call_function(function, &[self.r.ctx, self.r.worker]);
            let status = status.ok_or_else(|| Error::Bug("a tile's function returns a status".into()))?;
            self.r.b.return_if_failed(status);
        }
        Ok(())
    }

    /// Emits step `i` and what follows.
    fn step(&mut self, i: usize, mut env: Env) -> Result<()> {
        let pipeline = self.pipeline;
        let Some(step) = pipeline.steps.get(i) else { return self.sink(env) };
        match step {
            Step::Filter(region) => {
                let conditions = match self.filter.rest(i) {
                    Some(rest) => rest.to_vec(),
                    None => vec![self.r.p.region(*region).results[0]],
                };
                self.filter(&conditions, env, &mut |s, env| s.step(i + 1, env))
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
            Step::Also { filter, state, columns } => {
                let condition = self.r.p.region(*filter).results[0];
                self.filter(&[condition], env.clone(), &mut |s, env| s.append_beside(*state, columns, env))?;
                self.step(i + 1, env)
            }
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
}
