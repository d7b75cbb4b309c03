//! Tensors that a pipeline writes in place (B1): each range writes its rows to where they stand if no row is left out, and what
//! is left out is closed up at the end.
//!
//! What holds:
//! - A tensor's memory has room for all rows of the source. The system gives it page by page as rows come; the run's account is
//!   charged by the ranges' buffers.
//! - A range that gives more rows than it reads puts the rest into blocks of its buffer; then the tensor is copied together.

use std::ops::Range;
use std::sync::Arc;

use runtime::buffer::RowBuffer;
use runtime::pool::{QueryMemory, advise_huge_pages};

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
    fn close_up(self, buffers: &[&RowBuffer]) -> TensorData {
        let Self { mut data, start } = self;
        let mut bytes = 0;
        for buffer in buffers {
            for (from, rows) in buffer.chunks() {
                let len = rows * buffer.row_size();
                // SAFETY: the rows lie in the list's room, at or behind the place they go to.
                unsafe { std::ptr::copy(from, start.wrapping_add(bytes), len) };
                bytes += len;
            }
        }
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
        data
    }
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
            Some(batch) if buffers.iter().all(|buffer| buffer.is_within()) => return Ok(batch.close_up(buffers)),
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
