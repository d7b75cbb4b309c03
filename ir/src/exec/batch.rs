//! Tensors that a pipeline writes in place (B1): each range writes its rows to where they stand if no row is left out, and what
//! is left out is closed up at the end.
//!
//! What holds:
//! - A tensor's memory has room for all rows of the source. The system gives it page by page as rows come; the run's account is
//!   charged by the ranges' buffers.
//! - A range that gives more rows than it reads puts the rest into blocks of its buffer; then the tensor is copied together.
//! - Closing up moves rows towards the start, in order: what is written lies before all that is still to be read.

use std::ops::Range;
use std::sync::Arc;

use runtime::buffer::RowBuffer;
use runtime::pool::{QueryMemory, advise_huge_pages};
use runtime::scheduler::WorkerPool;
use runtime::trap::Trap;

use super::run::Run;
use crate::error::{Error, Result};
use crate::graph::bridge::TensorColumns;
use crate::graph::{BridgeOp, Op};
use crate::plan::{StateId, StateKind};
use crate::types::ScalarType;
use crate::value::TensorData;

/// Smaller tensors have small pages: less is lost where few rows are written.
const LARGE_TENSOR: usize = 64 << 20;

/// The memory of a tensor that is being filled: a list without elements, with room for them.
pub(super) struct Batch {
    data: TensorData,
    start: *mut u8,
}

// SAFETY: the address belongs to the list; ranges write to parts of their own.
unsafe impl Sync for Batch {}

impl Batch {
    /// Room for so many elements; none where the system does not give it, or no elements are wanted.
    fn new(dtype: ScalarType, elements: usize) -> Option<Self> {
        fn room<T>(elements: usize, make: impl FnOnce(Vec<T>) -> TensorData) -> Option<Batch> {
            let mut list: Vec<T> = Vec::new();
            list.try_reserve_exact(elements).ok().filter(|()| elements > 0)?;
            let start: *mut u8 = list.as_mut_ptr().cast();
            if elements * size_of::<T>() >= LARGE_TENSOR {
                advise_huge_pages(start, elements * size_of::<T>());
            }
            Some(Batch { data: make(list), start })
        }
        match dtype {
            ScalarType::Bool => room(elements, TensorData::Bool),
            ScalarType::I32 => room(elements, TensorData::I32),
            ScalarType::I64 => room(elements, TensorData::I64),
            ScalarType::F32 => room(elements, TensorData::F32),
            ScalarType::F64 => room(elements, TensorData::F64),
            _ => None,
        }
    }

    /// The buffer of a range.
    pub(super) fn part(&self, range: &Range<usize>, row_size: usize, memory: &Arc<QueryMemory>) -> RowBuffer {
        let start = self.start.wrapping_add(range.start * row_size);
        // SAFETY: there is room for the rows of all ranges, and ranges do not overlap; the run keeps the list longer than the
        // buffers.
        unsafe { RowBuffer::within(start, range.len(), row_size, memory) }
    }

    /// The tensor's elements, once the ranges' rows stand in their places.
    fn close_up(self, buffers: &[&RowBuffer], pool: &WorkerPool) -> Result<TensorData, Trap> {
        let Self { mut data, start } = self;
        let mut bytes = 0;
        let mut moves = vec![];
        for buffer in buffers {
            for (from, rows) in buffer.chunks() {
                let len = rows * buffer.row_size();
                moves.push(Move { from, to: start.wrapping_add(bytes), len });
                bytes += len;
            }
        }
        moves.retain(|m| m.from != m.to);
        // SAFETY: the rows lie in the list's room, each at or behind the place it goes to, and nobody else uses it.
        unsafe { run_moves(&moves, pool) }?;
        fn finish<T>(list: &mut Vec<T>, bytes: usize) {
            // SAFETY: the ranges wrote so many bytes of elements, which fit the list's room.
            unsafe { list.set_len(bytes / size_of::<T>()) };
            list.shrink_to_fit();
        }
        match &mut data {
            TensorData::Bool(list) => finish(list, bytes),
            TensorData::I32(list) => finish(list, bytes),
            TensorData::I64(list) => finish(list, bytes),
            TensorData::F32(list) => finish(list, bytes),
            TensorData::F64(list) => finish(list, bytes),
        }
        Ok(data)
    }
}

/// Bytes that go to a place before them, which they may overlap.
#[derive(Clone, Copy)]
struct Move {
    from: *mut u8,
    to: *mut u8,
    len: usize,
}

// SAFETY: two addresses; using them is the `unsafe` of `run_moves`.
unsafe impl Sync for Move {}

/// Fewer bytes are moved by the thread that asks.
const MANY_BYTES: usize = 8 << 20;

/// Moves in order, many at a time where they do not touch what the others read.
///
/// # Safety
/// The memory from the first `to` to the end of the last move is initialized where it is read, and nobody else uses it. Moves
/// are in the order of their addresses, neither their sources nor their targets overlap, and `to` is never behind `from`.
unsafe fn run_moves(moves: &[Move], pool: &WorkerPool) -> Result<(), Trap> {
    let few = moves.iter().map(|m| m.len).sum::<usize>() < MANY_BYTES;
    let mut rest = moves;
    while let Some(first) = rest.first() {
        // Those that end before the source of the first write nothing that one of them reads.
        let apart = rest.iter().take_while(|m| m.to as usize + m.len <= first.from as usize).count();
        let (now, later) = rest.split_at(apart.max(1));
        rest = later;
        if few || apart <= 1 {
            for m in now {
                // SAFETY: promised by the caller; moves before it wrote before this one's source.
                unsafe { std::ptr::copy(m.from, m.to, m.len) };
            }
            continue;
        }
        pool.run(now.len(), |i, _| {
            let m = &now[i];
            // SAFETY: promised by the caller; what the others of these write lies before the source of the first, and their
            // targets are apart.
            unsafe { std::ptr::copy_nonoverlapping(m.from, m.to, m.len) };
            Ok(())
        })?;
    }
    Ok(())
}

impl Run<'_> {
    /// Makes room for the tensors that a pipeline over so many rows fills, where that is what the state holds.
    pub(super) fn prepare_batches(&mut self, state: StateId, rows: usize) -> Result<()> {
        let StateKind::Tensors { node } = self.exe.plan.state(state).kind else { return Ok(()) };
        let Op::Bridge(BridgeOp::ToTensor { groups, .. }) = &self.exe.program.node(node).op else {
            return Err(Error::Bug(format!("{node} is no to_tensor")));
        };
        let room = |group: &TensorColumns| Batch::new(group.dtype, rows.checked_mul(group.columns.len())?);
        if let Some(batches) = groups.iter().map(room).collect() {
            self.batches.insert(state, batches);
        }
        Ok(())
    }

    /// The elements of a group's tensor, of the ranges' buffers in order.
    pub(super) fn elements(
        &self,
        group: &TensorColumns,
        batch: Option<Batch>,
        buffers: &[&RowBuffer],
    ) -> Result<TensorData> {
        // Where it is not closed up its rows are copied below: it lives that long.
        let _first_rows = match batch {
            Some(batch) if buffers.iter().all(|buffer| buffer.is_within()) => {
                return batch.close_up(buffers, &self.resources.pool).map_err(|t| self.trap(t));
            }
            other => other,
        };
        let elements = buffers.iter().map(|b| b.len()).sum::<usize>() * group.columns.len();
        macro_rules! gather {
            ($variant:ident, $t:ty) => {{
                let mut out: Vec<$t> = Vec::with_capacity(elements);
                for buffer in buffers {
                    for (at, rows) in buffer.chunks() {
                        let len = rows * group.columns.len();
                        // SAFETY: a chunk holds so many records of elements without gaps.
                        out.extend_from_slice(unsafe { std::slice::from_raw_parts(at.cast::<$t>(), len) });
                    }
                }
                TensorData::$variant(out)
            }};
        }
        Ok(match group.dtype {
            ScalarType::F32 => gather!(F32, f32),
            ScalarType::F64 => gather!(F64, f64),
            ScalarType::I32 => gather!(I32, i32),
            ScalarType::I64 => gather!(I64, i64),
            ScalarType::Bool => gather!(Bool, bool),
            other => return Err(Error::Bug(format!("a tensor of {other}"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of many lengths, with gaps between them, closed up by several threads as by one.
    #[test]
    fn moves_keep_the_order_of_rows() {
        let pool = WorkerPool::new(3);
        for (rows, gap) in [(64usize, 1usize), (1000, 300), (1, 5000)] {
            let lens: Vec<usize> = (0..200).map(|i| rows * 1000 + i * 7).collect();
            let (mut memory, mut moves, mut to, mut wanted) = (vec![], vec![], 0, vec![]);
            let mut at = vec![];
            for (i, len) in lens.iter().enumerate() {
                at.push(memory.len());
                memory.extend(std::iter::repeat_n(i as u8, *len));
                wanted.extend(std::iter::repeat_n(i as u8, *len));
                memory.extend(std::iter::repeat_n(255, gap * (i % 4)));
            }
            let start = memory.as_mut_ptr();
            for (at, len) in at.iter().zip(&lens) {
                moves.push(Move { from: start.wrapping_add(*at), to: start.wrapping_add(to), len: *len });
                to += len;
            }
            // SAFETY: all of them lie in `memory`, in order and apart, at or before their sources.
            unsafe { run_moves(&moves, &pool) }.expect("nothing raises");
            assert!(memory[..to] == wanted[..]);
        }
    }
}
