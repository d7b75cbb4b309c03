//! Completing states: collect, sort, limit, window, hash, merge, make tensors.

use std::sync::Arc;

use runtime::buffer::{RowBuffer, RowList};
use runtime::group_table::{GroupTable, MergePair, merge_groups};
use runtime::join_table::JoinTable;
use runtime::sort::{SortKey as RuntimeKey, SortedRows, sort_rows, sort_rows_by_parts, sorted_rows};
use runtime::trap::{Trap, TrapCode, WorkerBlock};
use runtime::window::{self, WindowSpec};

use super::convert;
use super::pipeline::Part;
use super::run::{Run, StateData};
use crate::entity::NodeId;
use crate::error::{Error, Result};
use crate::graph::rel::{Frame, FrameBound, FrameUnit, SortKey, WindowFunc};
use crate::graph::{BridgeOp, Op, RelOp};
use crate::plan::{KeyWord, Layout, Seal, StateId, StateKind};
use crate::scalar::reduce::Reducer;
use crate::types::ScalarType;
use crate::value::{TensorValue, Value};

impl Run<'_> {
    /// Completes a state; the number of its rows.
    pub(super) fn seal(&mut self, id: StateId, seal: &Seal) -> Result<usize> {
        let exe = self.exe;
        let state = exe.plan.state(id);
        let slot = &mut self.states[id.index()];
        let data = std::mem::replace(slot, StateData::Done);
        let sealed = match (seal, data) {
            (Seal::Values(node), StateData::Filling(_)) => StateData::Rows(self.values_rows(*node, &state.layout)?),
            (Seal::Group, StateData::Filling(parts)) => StateData::Rows(self.merge(id, parts)?),
            (Seal::Join, StateData::Filling(parts)) => {
                StateData::Join(self.join_table(&state.kind, &state.layout, parts).map_err(|t| self.trap(t))?)
            }
            (Seal::Tensors, StateData::Filling(parts)) => {
                let StateKind::Tensors { node } = state.kind else {
                    return Err(Error::Bug(format!("{id} holds no tensors")));
                };
                return self.make_tensors(id, node, row_buffers(parts));
            }
            (seal, StateData::Filling(parts)) => {
                let r = self.resources;
                let rows = RowList::gathered(row_buffers(parts), &r.memory, &r.pool).map_err(|t| self.trap(t))?;
                self.finish_rows(rows, seal, &state.layout)?
            }
            (seal @ Seal::Limit { .. }, StateData::Rows(rows)) => self.finish_rows(rows, seal, &state.layout)?,
            _ => return Err(Error::Bug(format!("{id} is sealed twice"))),
        };
        let rows = match &sealed {
            StateData::Rows(rows) => rows.len(),
            StateData::Join(table) => table.len(),
            _ => 0,
        };
        self.states[id.index()] = sealed;
        Ok(rows)
    }

    fn join_table(&self, kind: &StateKind, layout: &Layout, parts: Vec<Part>) -> Result<JoinTable, Trap> {
        let r = self.resources;
        let bug = |what: &str| Trap::with_detail(TrapCode::Internal, what);
        // SAFETY: the pipelines before wrote rows of this layout, hash or word first; their texts are kept by the run.
        unsafe {
            match kind {
                StateKind::Join { null_equal, word: None } => {
                    let fields: Vec<_> = layout.fields[..null_equal.len()].iter().map(convert::runtime_field).collect();
                    let null_equal = null_equal.contains(&true);
                    JoinTable::build(row_buffers(parts), &fields, null_equal, &r.memory, &r.pool, &r.cancel)
                }
                StateKind::Join { word: Some(KeyWord { words: None, .. }), .. } => {
                    JoinTable::build(row_buffers(parts), &[], false, &r.memory, &r.pool, &r.cancel)
                }
                StateKind::Join { word: Some(KeyWord { words: Some(words), .. }), .. } => {
                    JoinTable::build_index(row_buffers(parts), *words, &r.memory, &r.pool, &r.cancel)
                }
                StateKind::Set { .. } => {
                    let set = parts.iter().find_map(|p| if let Part::Set(set) = p { Some(set) } else { None });
                    JoinTable::set_of(set.ok_or_else(|| bug("a set was not filled"))?, &r.memory)
                }
                _ => Err(bug("the state is no join table")),
            }
        }
    }

    fn finish_rows(&mut self, rows: RowList, seal: &Seal, layout: &Layout) -> Result<StateData> {
        Ok(StateData::Rows(match seal {
            Seal::Sort { keys, limit } => {
                let keys = sort_keys(keys, layout)?;
                self.sort(rows, &keys, limit.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))?
            }
            Seal::Limit { offset, count } => {
                let offset = usize::try_from(*offset).unwrap_or(usize::MAX);
                let count = count.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
                rows.slice(offset, count)
            }
            Seal::Window { node, in_place } => self.window(*node, rows, layout, *in_place)?,
            _ => rows,
        }))
    }

    fn sort(&self, rows: RowList, keys: &[RuntimeKey], limit: Option<usize>) -> Result<RowList> {
        let r = self.resources;
        // SAFETY: the rows have the layout that the keys were taken from; their texts are kept by the run.
        unsafe { sort_rows(rows, keys, limit, &r.memory, &r.pool, &r.cancel) }.map_err(|t| self.trap(t))
    }

    fn values_rows(&mut self, node: NodeId, layout: &Layout) -> Result<RowList> {
        let Op::Rel(RelOp::Values { columns, rows }) = &self.exe.program.node(node).op else {
            return Err(Error::Bug(format!("{node} is no values")));
        };
        let mut buffer = RowBuffer::new(layout.size as usize, &self.resources.memory);
        for row in rows {
            let at = buffer.push().map_err(|e| self.trap(e.into()))?;
            for f in &layout.fields {
                let i = columns.iter().position(|c| Some(c.id) == f.column);
                let v = i.and_then(|i| row.get(i)).ok_or_else(|| Error::Bug("a field has a value".into()))?;
                convert::write_value(at, f, v, &mut self.texts);
            }
        }
        Ok(RowList::new(vec![buffer]))
    }

    fn merge(&mut self, id: StateId, parts: Vec<Part>) -> Result<RowList> {
        let state = self.exe.plan.state(id);
        let StateKind::Group { identity, .. } = &state.kind else {
            return Err(Error::Bug(format!("{id} holds no groups")));
        };
        let keys: Vec<_> = identity.iter().map(|i| convert::runtime_field(&state.layout.fields[*i])).collect();
        let tables: Vec<GroupTable> =
            parts.into_iter().filter_map(|p| if let Part::Group(t) = p { Some(*t) } else { None }).collect();
        let entry = &self.exe.merges[&id];
        let context = self.context();
        let r = self.resources;
        let merge = |pairs: &[MergePair]| {
            if pairs.is_empty() {
                return Ok(());
            }
            let mut block = WorkerBlock::new(&[], &r.cancel, &r.memory);
            let first = pairs.as_ptr().expose_provenance() as i64;
            // SAFETY: the pairs are records of this state's layout, and this task is the only one that merges into the first of each.
            let status = unsafe { entry.run(context.as_ptr(), block.as_mut_ptr(), first, pairs.len() as i64) };
            block.check(status)
        };
        // SAFETY: the tables' rows have these keys; their texts are kept by the run.
        unsafe { merge_groups(tables, &keys, &merge, &r.pool, &r.cancel) }.map_err(|t| self.trap(t))
    }

    fn make_tensors(&mut self, state: StateId, node: NodeId, buffers: Vec<RowBuffer>) -> Result<usize> {
        let program = Arc::clone(&self.exe.program);
        let Op::Bridge(BridgeOp::ToTensor { rows, groups }) = &program.node(node).op else {
            return Err(Error::Bug(format!("{node} is no to_tensor")));
        };
        let mut count = 0;
        let mut batches = self.batches.remove(&state).into_iter().flatten();
        for (g, group) in groups.iter().enumerate() {
            let mine: Vec<&RowBuffer> = buffers.iter().skip(g).step_by(groups.len()).collect();
            let n: usize = mine.iter().map(|b| b.len()).sum();
            let data = self.elements(group, batches.next(), &mine)?;
            let shape = if group.flat { vec![n] } else { vec![n, group.columns.len()] };
            let tensor = TensorValue::new(shape, data).ok_or_else(|| Error::Bug("a tensor's size".into()))?;
            self.values.insert(program.node(node).results[g], Arc::new(tensor));
            count = n;
        }
        self.dims.insert(*rows, count);
        Ok(count)
    }

    fn window(&mut self, node: NodeId, rows: RowList, layout: &Layout, in_place: bool) -> Result<RowList> {
        let program = Arc::clone(&self.exe.program);
        let Op::Rel(RelOp::Window { partition, order, columns }) = &program.node(node).op else {
            return Err(Error::Bug(format!("{node} is no window")));
        };
        let by = |c: &crate::entity::ColumnId| SortKey { column: *c, descending: false, nulls_first: false };
        let partition: Vec<SortKey> = partition.iter().map(by).collect();
        let partition = sort_keys(&partition, layout)?;
        let order = sort_keys(order, layout)?;
        let keys: Vec<RuntimeKey> = partition.iter().chain(&order).copied().collect();
        let r = self.resources;
        // SAFETY: as for `sort`.
        let (rows, order_of_rows, starts) = unsafe {
            if in_place {
                let sorted = sorted_rows(&rows, &keys, partition.len(), &r.memory, &r.pool, &r.cancel);
                let (sorted, starts) = sorted.map_err(|t| self.trap(t))?;
                (rows, Some(sorted), starts)
            } else {
                let sorted = sort_rows_by_parts(rows, &keys, partition.len(), &r.memory, &r.pool, &r.cancel);
                let (rows, starts) = sorted.map_err(|t| self.trap(t))?;
                (rows, None, starts)
            }
        };
        let mut specs = vec![];
        for c in columns {
            let field = |id| {
                let found = layout.fields.iter().find(|f| f.column == Some(id));
                found.ok_or_else(|| Error::Bug(format!("{id} is not in the window's rows")))
            };
            let arg = c.arg.map(field).transpose()?;
            let out = field(c.out)?;
            let mut default = (0, 0, false);
            let func = match &c.func {
                WindowFunc::RowNumber => window::Func::RowNumber,
                WindowFunc::Rank => window::Func::Rank,
                WindowFunc::DenseRank => window::Func::DenseRank,
                WindowFunc::PercentRank => window::Func::PercentRank,
                WindowFunc::CumeDist => window::Func::CumeDist,
                WindowFunc::Ntile(n) => window::Func::Ntile(*n),
                WindowFunc::Lag { offset, default: v } => {
                    let (lo, hi) = convert::words(v, &mut self.texts);
                    default = (lo, hi, !matches!(v, Value::Null));
                    window::Func::Lag(*offset)
                }
                WindowFunc::NthValue(n) => window::Func::NthValue(*n),
                WindowFunc::LastValue => window::Func::LastValue,
                WindowFunc::Concat { separator } => {
                    let (lo, hi) = convert::words(&Value::Text(Arc::clone(separator)), &mut self.texts);
                    default = (lo, hi, true);
                    window::Func::Concat
                }
                WindowFunc::Reduce(r) => window::Func::Reduce(match r {
                    Reducer::CountAll => window::Reduce::CountAll,
                    Reducer::Count => window::Reduce::Count,
                    Reducer::Sum => window::Reduce::Sum,
                    Reducer::Avg => window::Reduce::Avg,
                    Reducer::Min => window::Reduce::Min,
                    Reducer::Max => window::Reduce::Max,
                    Reducer::VarSample => window::Reduce::VarSample,
                    Reducer::VarPopulation => window::Reduce::VarPopulation,
                    Reducer::StddevSample => window::Reduce::StddevSample,
                    Reducer::StddevPopulation => window::Reduce::StddevPopulation,
                    Reducer::BoolAnd => window::Reduce::BoolAnd,
                    Reducer::BoolOr => window::Reduce::BoolOr,
                    other => return Err(Error::Unsupported(format!("{} over a window", other.name()))),
                }),
            };
            let scale = match arg.map(|f| f.ty.ty) {
                Some(ScalarType::Decimal { scale, .. }) => u32::from(scale),
                _ => 0,
            };
            specs.push(WindowSpec {
                func,
                arg: arg.map(convert::runtime_field),
                scale,
                default,
                frame: frame(&c.frame),
                out: convert::runtime_field(out),
            });
        }
        let sorted = order_of_rows.as_ref().map_or(rows.rows(), SortedRows::as_slice);
        // SAFETY: the rows are sorted by these keys and have these fields; nobody else reads them now.
        let made = unsafe { window::evaluate(sorted, &starts, &order, &specs, &r.memory, &r.pool, &r.cancel) };
        self.arenas.extend(made.map_err(|t| self.trap(t))?);
        Ok(rows)
    }
}

fn frame(f: &Frame) -> window::Frame {
    let bound = |b: FrameBound| match b {
        FrameBound::Unbounded => window::Bound::Unbounded,
        FrameBound::CurrentRow => window::Bound::CurrentRow,
        FrameBound::Offset(n) => window::Bound::Offset(n),
    };
    let unit = match f.unit {
        FrameUnit::Rows => window::Unit::Rows,
        FrameUnit::Range => window::Unit::Range,
        FrameUnit::Groups => window::Unit::Groups,
    };
    window::Frame { unit, start: bound(f.start), end: bound(f.end) }
}

pub(super) fn sort_keys(keys: &[SortKey], layout: &Layout) -> Result<Vec<RuntimeKey>> {
    let one = |k: &SortKey| {
        let field = layout.fields.iter().find(|f| f.column == Some(k.column));
        let field = field.ok_or_else(|| Error::Bug(format!("{} is not in the sorted rows", k.column)))?;
        let bounds = field.bounds.and_then(|(min, max)| Some((i64::try_from(min).ok()?, i64::try_from(max).ok()?)));
        Ok(RuntimeKey {
            field: convert::runtime_field(field),
            descending: k.descending,
            nulls_first: k.nulls_first,
            bounds,
        })
    };
    keys.iter().map(one).collect()
}

fn row_buffers(parts: Vec<Part>) -> Vec<RowBuffer> {
    parts.into_iter().filter_map(|p| if let Part::Rows(b) = p { Some(*b) } else { None }).collect()
}
