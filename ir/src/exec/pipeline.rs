//! One pipeline over the ranges of its source: states for each range, morsels through generated code, what the ranges made.
//!
//! What holds:
//! - Each range has its own states, and they are handed on in range order.
//! - A range goes to the code by morsels. In between it looks whether the run is cancelled, whether the zones of the next morsel
//!   rule its rows out, and whether enough rows are stored where only the first are wanted.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use runtime::buffer::RowBuffer;
use runtime::column::Bound as ColumnBound;
use runtime::group_table::GroupTable;
use runtime::join_table::ByteSet;
use runtime::scheduler::{MORSEL_ROWS, Ranges};
use runtime::sort::{SortKey, TopK};
use runtime::tile::Tile as Masks;
use runtime::trap::{Trap, TrapCode, WorkerBlock};

use super::batch::Batch;
use super::run::{Executable, Resources, Run, StateData, Values};
use super::seal;
use super::tile::Tile;
use crate::codegen::Entry;
use crate::error::{Error, Result};
use crate::lower::rel::{Direct, Lowered, WorkerState, ZoneTest, zone_bounds};
use crate::lower::scalar::HOST_AREA;
use crate::plan::{Pipeline, Sink, StateId, StateKind};

/// Rows that a range hands to a function at once.
const MORSEL: i64 = 16 << 10;

/// What one range of a pipeline made.
pub(super) enum Part {
    Rows(Box<RowBuffer>),
    TopRows(Box<TopK>),
    Group(Box<GroupTable>),
    Tile(Box<Tile>),
    Area(Box<[u128; HOST_AREA / 16]>),
    Masks(Box<[Masks]>),
    /// One set for all ranges.
    Set(Arc<ByteSet>),
}

impl Part {
    /// The address that generated code gets.
    fn as_mut_ptr(&mut self) -> *mut u8 {
        match self {
            Self::Rows(rows) => rows.as_mut_ptr(),
            Self::TopRows(rows) => rows.as_mut_ptr(),
            Self::Group(table) => table.as_mut_ptr(),
            Self::Tile(tile) => tile.as_mut_ptr(),
            Self::Area(area) => area.as_mut_ptr().cast(),
            Self::Masks(masks) => masks.as_mut_ptr().cast(),
            Self::Set(set) => set.as_mut_ptr(),
        }
    }

    /// As the state takes it, once the range is through.
    fn finish(self) -> Result<Self, Trap> {
        Ok(match self {
            // SAFETY: the function wrote rows of the layout that the keys are of; their texts are in its block or in tables.
            Self::TopRows(rows) => Self::Rows(Box::new(unsafe { rows.into_rows() }?)),
            Self::Group(mut table) => {
                table.finish();
                Self::Group(table)
            }
            other => other,
        })
    }

    /// Whether the state keeps it; the rest was the range's own.
    fn is_kept(&self) -> bool {
        matches!(self, Self::Rows(_) | Self::Group(_))
    }
}

impl Run<'_> {
    /// Runs a pipeline; the number of rows that went in.
    pub(super) fn pipeline(&mut self, i: usize, pipeline: &Pipeline) -> Result<usize> {
        let rows = self.source_rows(&pipeline.source)?;
        let (Sink::Append { state, .. } | Sink::Build { state, .. } | Sink::Group { state }) = &pipeline.sink;
        self.prepare_batches(*state, rows)?;
        let ready = PipelineRun::new(self, i, pipeline, rows)?;
        // A group without keys has a record even if there is no row.
        let tasks = match &pipeline.sink {
            Sink::Group { .. } => ready.ranges.len().max(1),
            _ => ready.ranges.len(),
        };
        let made = self.resources.pool.map(tasks, |task, _| ready.range(task)).map_err(|t| self.trap(t))?;
        let PipelineRun { set, read, skipped, .. } = ready;
        let exe = self.exe;
        let beside = &exe.pipelines[&i].1.beside;
        for (parts, block) in made {
            for (i, part) in parts.into_iter().enumerate().filter(|(_, part)| part.is_kept()) {
                let beside = beside.iter().find(|b| b.0 == i);
                self.filling(beside.map_or(*state, |b| b.1))?.push(part);
            }
            self.kept.push(block);
        }
        self.filling(*state)?.extend(set.map(Part::Set));
        self.skipped += skipped.into_inner();
        Ok(read.into_inner())
    }

    fn filling(&mut self, state: StateId) -> Result<&mut Vec<Part>> {
        match &mut self.states[state.index()] {
            StateData::Filling(parts) => Ok(parts),
            _ => Err(Error::Bug(format!("{state} is filled after it was sealed"))),
        }
    }
}

/// A pipeline that is ready to run: all that its ranges share.
struct PipelineRun<'r> {
    exe: &'r Executable,
    resources: &'r Resources,
    values: &'r Values,
    entry: &'r Entry,
    lowered: &'r Lowered,
    /// The slots that the code reads.
    context: Vec<u64>,
    /// Rows of the source.
    rows: usize,
    ranges: Ranges,
    /// Where the sink's rows go, if they go to tensors.
    batches: &'r [Batch],
    set: Option<Arc<ByteSet>>,
    /// The order and the number of the rows that are kept, if not all are.
    best: Option<(Vec<SortKey>, usize)>,
    /// How many rows are wanted, if the first that come will do.
    wanted: Option<usize>,
    /// By range: rows that it has stored, where only the first are wanted.
    stored: Vec<AtomicUsize>,
    /// Rows that went in.
    read: AtomicUsize,
    /// Rows that zones ruled out.
    skipped: AtomicUsize,
}

impl<'r> PipelineRun<'r> {
    fn new(run: &'r Run<'_>, i: usize, pipeline: &Pipeline, rows: usize) -> Result<Self> {
        let (exe, resources) = (run.exe, run.resources);
        let (Sink::Append { state, .. } | Sink::Build { state, .. } | Sink::Group { state }) = &pipeline.sink;
        let ranges = Ranges::with_morsel(rows, resources.morsel_rows);
        let (entry, lowered) = &exe.pipelines[&i];
        Ok(Self {
            exe,
            resources,
            values: &run.values,
            entry,
            lowered,
            context: run.context(),
            rows,
            batches: run.batches.get(state).map_or(&[], Vec::as_slice),
            set: Self::set(run, *state)?,
            best: match exe.plan.top_rows(*state) {
                Some((keys, limit)) => Some((seal::sort_keys(keys, &exe.plan.state(*state).layout)?, limit)),
                None => None,
            },
            wanted: match pipeline.sink {
                // Rows that are stored on the way are all wanted.
                Sink::Append { state, .. } if lowered.beside.is_empty() => {
                    exe.plan.first_rows(state).filter(|n| *n < usize::MAX)
                }
                Sink::Append { .. } | Sink::Build { .. } | Sink::Group { .. } => None,
            },
            stored: (0..ranges.len()).map(|_| AtomicUsize::new(0)).collect(),
            ranges,
            read: AtomicUsize::new(0),
            skipped: AtomicUsize::new(0),
        })
    }

    fn set(run: &Run<'_>, state: StateId) -> Result<Option<Arc<ByteSet>>> {
        let StateKind::Set { word } = &run.exe.plan.state(state).kind else { return Ok(None) };
        let set = ByteSet::new(word.words.unwrap_or(0), &run.resources.memory);
        Ok(Some(Arc::new(set.map_err(|e| run.trap(e.into()))?)))
    }

    /// Runs one range; what it made, and the block that its texts are in.
    fn range(&self, task: usize) -> Result<(Vec<Part>, WorkerBlock), Trap> {
        let range = if self.rows == 0 { 0..0 } else { self.ranges.get(task) };
        let states = self.lowered.states.iter().enumerate();
        let mut parts = states.map(|(i, state)| self.part(i, state, &range)).collect::<Result<Vec<Part>, Trap>>()?;
        let pointers: Vec<*mut u8> = parts.iter_mut().map(Part::as_mut_ptr).collect();
        let mut block = WorkerBlock::new(&pointers, &self.resources.cancel, &self.resources.memory);
        self.morsels(task, range, &mut parts, &mut block)?;
        Ok((parts.into_iter().map(Part::finish).collect::<Result<_, _>>()?, block))
    }

    /// State `i` of a range's worker block.
    fn part(&self, i: usize, state: &WorkerState, range: &Range<usize>) -> Result<Part, Trap> {
        let memory = &self.resources.memory;
        let missing = |what: &str| Trap::with_detail(TrapCode::Internal, what);
        Ok(match state {
            WorkerState::Rows { size } => Part::Rows(Box::new(match self.batches.get(i) {
                Some(batch) => batch.part(range, *size as usize, memory),
                None => RowBuffer::new(*size as usize, memory),
            })),
            WorkerState::TopRows { size } => {
                let (keys, limit) = self.best.as_ref().ok_or_else(|| missing("no order"))?;
                Part::TopRows(Box::new(TopK::new(*size as usize, keys, *limit, memory)))
            }
            WorkerState::Group { size, direct: None } => {
                Part::Group(Box::new(GroupTable::new(*size as usize, memory)?))
            }
            WorkerState::Group { size, direct: Some(direct) } => {
                let (first, slots) = self.window(direct, range);
                Part::Group(Box::new(GroupTable::direct(*size as usize, first, slots, memory)?))
            }
            WorkerState::Area => Part::Area(Box::new([0; HOST_AREA / 16])),
            WorkerState::Masks { levels } => Part::Masks((0..*levels).map(|_| Masks::new()).collect()),
            WorkerState::Set => Part::Set(Arc::clone(self.set.as_ref().ok_or_else(|| missing("no set"))?)),
            WorkerState::Tile { node, size } => {
                let program = &self.exe.tiles[node];
                Part::Tile(Box::new(Tile::new(program, *size as usize, self.exe.plan.tile_rows, self.values)))
            }
        })
    }

    /// The slots of a range's group table that is indexed by its keys: the first key, and how many.
    fn window(&self, direct: &Direct, range: &Range<usize>) -> (i64, usize) {
        match direct {
            Direct::Slots(slots) => (0, *slots),
            Direct::Window { input, source } => {
                let column = &self.exe.tables[input].0[*source as usize];
                let (low, high) = zone_bounds(column, range).unwrap_or((0, -1));
                (low as i64, (high - low + 1) as usize)
            }
        }
    }

    /// Runs the function over a range, morsel by morsel.
    fn morsels(
        &self,
        task: usize,
        range: Range<usize>,
        parts: &mut [Part],
        block: &mut WorkerBlock,
    ) -> Result<(), Trap> {
        let (mut begin, end) = (range.start as i64, range.end as i64);
        loop {
            self.resources.cancel.check()?;
            if self.is_enough(task) {
                return Ok(());
            }
            let next = (begin + MORSEL).min(end);
            let skip = skips(self.exe, &self.lowered.zones, begin as usize..next as usize);
            if skip {
                self.skipped.fetch_add((next - begin) as usize, Ordering::Relaxed);
            }
            // A call without rows still makes the record of a group without keys.
            let stop = if skip { begin } else { next };
            // SAFETY: the context's slots that this function reads are filled: stages run in order. The block and its states are
            // this task's alone, and they outlive the call.
            let status = unsafe { self.entry.run(self.context.as_ptr(), block.as_mut_ptr(), begin, stop) };
            block.check(status)?;
            self.read.fetch_add((next - begin) as usize, Ordering::Relaxed);
            if let (Some(_), Some(Part::Rows(rows))) = (self.wanted, parts.first()) {
                self.stored[task].store(rows.len(), Ordering::Relaxed);
            }
            begin = next;
            if begin >= end {
                return Ok(());
            }
        }
    }

    /// Whether the ranges up to this one have stored all rows that are wanted.
    fn is_enough(&self, task: usize) -> bool {
        let stored = |tasks: &[AtomicUsize]| tasks.iter().map(|n| n.load(Ordering::Relaxed)).sum::<usize>();
        self.wanted.is_some_and(|wanted| stored(&self.stored[..=task]) >= wanted)
    }
}

/// Whether no row of a block can pass, by the statistics of the zones that it is in.
fn skips(exe: &Executable, tests: &[ZoneTest], rows: std::ops::Range<usize>) -> bool {
    if tests.is_empty() || rows.is_empty() {
        return false;
    }
    let mut zones = rows.start / MORSEL_ROWS..rows.end.div_ceil(MORSEL_ROWS);
    zones.all(|zone| {
        tests.iter().any(|t| {
            let column = &exe.tables[&t.input].0[t.source as usize];
            match column.zones().get(zone).map(|z| (&z.min, &z.max, z.nulls)) {
                Some((Some(ColumnBound::Int(min)), Some(ColumnBound::Int(max)), _)) => *max < t.low || *min > t.high,
                // All of them are NULL.
                Some((None, None, nulls)) => nulls > 0,
                _ => false,
            }
        })
    })
}
