//! Growing row buffers, the fields of their rows, and the arena for texts.
//!
//! What holds:
//! - A row is a record of fixed width, a multiple of 8 bytes (of 16 where it holds a 16-byte field); a record of tensor elements
//!   is as wide as its elements, so that records stand as the tensor does, without gaps. Values are as wide as
//!   registers: I8 for booleans, I32, I64, F32, F64, 16 bytes for I128 and text views.
//! - NULL: a nullable field has a *valid* byte elsewhere in the row, 1 for a value and 0 for NULL. The field of a NULL holds
//!   any fixed value and is never compared.
//! - Rows never move while the buffer lives. Row `i` is the i-th that was appended.
//! - Generated code appends inline: `p = cur; if p == end { p = row_buffer_grow(..) }; write the row; cur = p + row_size`.
//!   So `end - cur` is always a multiple of the row size, and `cur == end` before the first row.
//! - Rows of tables carry their hash in bytes 0..8.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use crate::column::TextView;
use crate::kernels::hash;
use crate::pool::{Block, LARGE_BLOCK, MemoryLimitError, PoolArray, QueryMemory, Reservation, SMALLEST_BLOCK};
use crate::scheduler::WorkerPool;
use crate::trap::{Trap, WorkerScratch, raise_null};

/// What a field of a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldKind {
    /// One byte; booleans are 0 or 1.
    I8,
    /// Two bytes: integers that are known to fit.
    I16,
    /// Four bytes: integers and dates.
    I32,
    /// Eight bytes: integers, timestamps, small decimals.
    I64,
    /// Sixteen bytes: decimals.
    I128,
    /// Four bytes.
    F32,
    /// Eight bytes.
    F64,
    /// Sixteen bytes: a [`TextView`].
    Text,
}

impl FieldKind {
    /// Width in bytes; fields are aligned to it.
    pub fn bytes(self) -> usize {
        match self {
            FieldKind::I8 => 1,
            FieldKind::I16 => 2,
            FieldKind::I32 | FieldKind::F32 => 4,
            FieldKind::I64 | FieldKind::F64 => 8,
            FieldKind::I128 | FieldKind::Text => 16,
        }
    }
}

/// Where a field stands in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// Bytes from the start of the row.
    pub offset: u32,
    /// What it holds.
    pub kind: FieldKind,
    /// The offset of the valid byte (1 = value, 0 = NULL); `None` where the field is never NULL.
    pub valid: Option<u32>,
}

impl Field {
    /// A field that is never NULL.
    pub fn new(offset: u32, kind: FieldKind) -> Self {
        Self { offset, kind, valid: None }
    }

    /// A field that may be NULL.
    pub fn nullable(offset: u32, kind: FieldKind, valid: u32) -> Self {
        Self { offset, kind, valid: Some(valid) }
    }

    /// Whether the field of this row is NULL.
    ///
    /// # Safety
    /// `row` points to a row that has this field.
    #[inline]
    pub unsafe fn is_null(&self, row: *const u8) -> bool {
        match self.valid {
            None => false,
            // SAFETY: promised by the caller.
            Some(offset) => unsafe { *row.add(offset as usize) == 0 },
        }
    }

    /// Whether two rows hold equal values in this field; NULL equals NULL, NaN equals itself, and 0.0 equals -0.0.
    ///
    /// # Safety
    /// Both point to rows that have this field, texts among them alive.
    #[inline]
    pub unsafe fn equal(&self, a: *const u8, b: *const u8) -> bool {
        // SAFETY: promised by the caller; fields are aligned to their width, and rows to 8 or 16 as their fields need.
        unsafe {
            if self.valid.is_some() {
                let (null_a, null_b) = (self.is_null(a), self.is_null(b));
                if null_a || null_b {
                    return null_a == null_b;
                }
            }
            let offset = self.offset as usize;
            let (a, b) = (a.add(offset), b.add(offset));
            match self.kind {
                FieldKind::I8 => *a == *b,
                FieldKind::I16 => *a.cast::<i16>() == *b.cast::<i16>(),
                FieldKind::I32 => *a.cast::<i32>() == *b.cast::<i32>(),
                FieldKind::I64 => *a.cast::<i64>() == *b.cast::<i64>(),
                FieldKind::I128 => *a.cast::<i128>() == *b.cast::<i128>(),
                FieldKind::F32 => hash::f32_word(*a.cast::<f32>()) == hash::f32_word(*b.cast::<f32>()),
                FieldKind::F64 => hash::f64_word(*a.cast::<f64>()) == hash::f64_word(*b.cast::<f64>()),
                FieldKind::Text => *a.cast::<TextView>() == *b.cast::<TextView>(),
            }
        }
    }

    /// Orders two values of this field, neither of them NULL; NaN is the greatest and equals itself.
    ///
    /// # Safety
    /// As for [`Field::equal`].
    #[inline]
    pub unsafe fn compare_values(&self, a: *const u8, b: *const u8) -> Ordering {
        let offset = self.offset as usize;
        // SAFETY: promised by the caller.
        unsafe {
            let (a, b) = (a.add(offset), b.add(offset));
            match self.kind {
                FieldKind::I8 => (*a.cast::<i8>()).cmp(&*b.cast::<i8>()),
                FieldKind::I16 => (*a.cast::<i16>()).cmp(&*b.cast::<i16>()),
                FieldKind::I32 => (*a.cast::<i32>()).cmp(&*b.cast::<i32>()),
                FieldKind::I64 => (*a.cast::<i64>()).cmp(&*b.cast::<i64>()),
                FieldKind::I128 => (*a.cast::<i128>()).cmp(&*b.cast::<i128>()),
                FieldKind::F32 => compare_f64(f64::from(*a.cast::<f32>()), f64::from(*b.cast::<f32>())),
                FieldKind::F64 => compare_f64(*a.cast::<f64>(), *b.cast::<f64>()),
                FieldKind::Text => (*a.cast::<TextView>()).cmp(&*b.cast::<TextView>()),
            }
        }
    }

    /// Folds this field of a row into a hash, as generated code and the block kernels do.
    ///
    /// # Safety
    /// As for [`Field::is_null`], texts alive.
    #[inline]
    pub unsafe fn hash(&self, hash: u64, row: *const u8) -> u64 {
        // SAFETY: promised by the caller.
        unsafe {
            if self.is_null(row) {
                return hash::combine(hash, hash::NULL_WORD);
            }
            let at = row.add(self.offset as usize);
            match self.kind {
                FieldKind::I8 => hash::combine(hash, i64::from(*at.cast::<i8>()) as u64),
                FieldKind::I16 => hash::combine(hash, i64::from(*at.cast::<i16>()) as u64),
                FieldKind::I32 => hash::combine(hash, i64::from(*at.cast::<i32>()) as u64),
                FieldKind::I64 => hash::combine(hash, *at.cast::<i64>() as u64),
                FieldKind::I128 => hash::combine(hash, hash::i128_word(*at.cast::<i128>())),
                FieldKind::F32 => hash::combine(hash, hash::f32_word(*at.cast::<f32>())),
                FieldKind::F64 => hash::combine(hash, hash::f64_word(*at.cast::<f64>())),
                FieldKind::Text => hash::combine_text(hash, &*at.cast::<TextView>()),
            }
        }
    }
}

/// NaN is the greatest and equals itself; 0.0 equals -0.0.
#[inline]
pub(crate) fn compare_f64(a: f64, b: f64) -> Ordering {
    match a.partial_cmp(&b) {
        Some(order) => order,
        None => a.is_nan().cmp(&b.is_nan()),
    }
}

/// Whether two rows are equal in all of `keys`; NULL equals NULL.
///
/// # Safety
/// Both point to rows that have these fields, texts among them alive.
#[inline]
pub unsafe fn keys_equal(keys: &[Field], a: *const u8, b: *const u8) -> bool {
    // SAFETY: promised by the caller.
    keys.iter().all(|key| unsafe { key.equal(a, b) })
}

/// The hash of a row's keys, equal to what generated code computes for them.
///
/// # Safety
/// As for [`keys_equal`].
pub unsafe fn hash_keys(keys: &[Field], row: *const u8) -> u64 {
    // SAFETY: promised by the caller.
    keys.iter().fold(0, |h, key| unsafe { key.hash(h, row) })
}

struct Chunk {
    start: *mut u8,
    held: Held,
    /// The number of rows in earlier chunks.
    first: usize,
    /// Rows that fit.
    capacity: usize,
}

/// Whose memory a chunk is.
enum Held {
    /// The buffer's.
    Block(Block),
    /// A part of the region that the buffer was given.
    Part { _counted: Reservation },
}

/// Memory that a buffer was given, from its first free byte to its end.
struct Region {
    next: *mut u8,
    end: *mut u8,
}

/// A growing list of rows of one width, at stable addresses. Its first two fields are read and written by generated code.
#[repr(C)]
pub struct RowBuffer {
    /// Where the next row goes; equals `end` where there is no room.
    pub(crate) cur: *mut u8,
    /// The end of the room in the last chunk.
    pub(crate) end: *mut u8,
    row_size: usize,
    first_rows: usize,
    chunks: Vec<Chunk>,
    region: Option<Region>,
    memory: Arc<QueryMemory>,
}

// SAFETY: a buffer owns its chunks; `cur` and `end` point into the last of them.
unsafe impl Send for RowBuffer {}
// SAFETY: shared access only reads addresses and counts; reading rows is the caller's `unsafe`.
unsafe impl Sync for RowBuffer {}

impl RowBuffer {
    /// An empty buffer of rows of `row_size` bytes, a multiple of its fields' alignment. Allocates nothing yet.
    pub fn new(row_size: usize, memory: &Arc<QueryMemory>) -> Self {
        Self::with_first_rows(row_size, usize::MAX, memory)
    }

    /// As `new`, with room for at most `first_rows` rows in the first chunk, so that tests see growth.
    pub fn with_first_rows(row_size: usize, first_rows: usize, memory: &Arc<QueryMemory>) -> Self {
        assert!(row_size > 0, "a row has bytes");
        Self {
            cur: std::ptr::null_mut(),
            end: std::ptr::null_mut(),
            row_size,
            first_rows: first_rows.max(1),
            chunks: Vec::new(),
            region: None,
            memory: Arc::clone(memory),
        }
    }

    /// An empty buffer whose first `rows` rows go to `start`, one after the other; what comes behind them goes elsewhere. The
    /// account is charged as they come.
    ///
    /// # Safety
    /// As long as the buffer lives, so many rows may be written from `start` on, aligned as their fields need, and nobody else
    /// uses that memory.
    pub unsafe fn within(start: *mut u8, rows: usize, row_size: usize, memory: &Arc<QueryMemory>) -> Self {
        let region = Region { next: start, end: start.wrapping_add(rows * row_size) };
        Self { region: Some(region), ..Self::new(row_size, memory) }
    }

    /// Whether all rows are where [`RowBuffer::within`] put them.
    pub fn is_within(&self) -> bool {
        self.chunks.iter().all(|chunk| matches!(chunk.held, Held::Part { .. }))
    }

    /// The address that generated code gets.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        (&raw mut *self).cast()
    }

    /// Bytes a row.
    pub fn row_size(&self) -> usize {
        self.row_size
    }

    /// The account that the chunks are drawn from.
    pub fn memory(&self) -> &Arc<QueryMemory> {
        &self.memory
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        match self.chunks.last() {
            None => 0,
            Some(last) => {
                let room = self.end as usize - self.cur as usize;
                last.first + last.capacity - room / self.row_size
            }
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for at least one more row and returns where it goes; `cur` stays there.
    ///
    /// # Errors
    /// [`MemoryLimitError`]; the rows stay.
    pub fn grow(&mut self) -> Result<*mut u8, MemoryLimitError> {
        if self.cur != self.end {
            return Ok(self.cur);
        }
        let first = self.len();
        let (start, held, mut capacity) = match self.part()? {
            Some(part) => part,
            None => {
                let bytes = match self.chunks.last() {
                    Some(Chunk { held: Held::Block(last), .. }) => (last.bytes() * 2).min(LARGE_BLOCK),
                    _ => SMALLEST_BLOCK,
                };
                let block = self.memory.allocate(bytes.max(self.row_size))?;
                let capacity = block.bytes() / self.row_size;
                (block.as_ptr(), Held::Block(block), capacity)
            }
        };
        if self.chunks.is_empty() {
            capacity = capacity.min(self.first_rows);
        }
        self.cur = start;
        self.end = self.cur.wrapping_add(capacity * self.row_size);
        self.chunks.push(Chunk { start, held, first, capacity });
        Ok(self.cur)
    }

    /// The next part of the region: where it starts, and the rows that fit. None where there is no region or no room in it.
    fn part(&mut self) -> Result<Option<(*mut u8, Held, usize)>, MemoryLimitError> {
        let Some(region) = &mut self.region else { return Ok(None) };
        let rows = (region.end as usize - region.next as usize) / self.row_size;
        let rows = rows.min((LARGE_BLOCK / self.row_size).max(1));
        if rows == 0 {
            return Ok(None);
        }
        let counted = self.memory.reserve(rows * self.row_size)?;
        let start = region.next;
        region.next = start.wrapping_add(rows * self.row_size);
        Ok(Some((start, Held::Part { _counted: counted }, rows)))
    }

    /// An empty buffer with room for so many rows.
    ///
    /// # Errors
    /// [`MemoryLimitError`].
    pub(crate) fn with_room(row_size: usize, rows: usize, memory: &Arc<QueryMemory>) -> Result<Self, MemoryLimitError> {
        let mut buffer = Self::new(row_size, memory);
        let block = memory.allocate((row_size * rows).max(row_size))?;
        let capacity = block.bytes() / row_size;
        buffer.cur = block.as_ptr();
        buffer.end = buffer.cur.wrapping_add(capacity * row_size);
        buffer.chunks.push(Chunk { start: block.as_ptr(), held: Held::Block(block), first: 0, capacity });
        Ok(buffer)
    }

    /// Appends a row that the caller writes, and returns its address.
    ///
    /// # Errors
    /// [`MemoryLimitError`]; the rows stay.
    pub(crate) fn append(&mut self) -> Result<*mut u8, MemoryLimitError> {
        let row = self.grow()?;
        self.cur = row.wrapping_add(self.row_size);
        Ok(row)
    }

    /// Appends a zeroed row and returns its address.
    ///
    /// # Errors
    /// [`MemoryLimitError`]; the rows stay.
    pub fn push(&mut self) -> Result<*mut u8, MemoryLimitError> {
        let row = self.grow()?;
        // SAFETY: `grow` left room for one row at `row`, inside of the last chunk, which this buffer owns.
        unsafe { row.write_bytes(0, self.row_size) };
        self.cur = row.wrapping_add(self.row_size);
        Ok(row)
    }

    /// The address of row `index`.
    pub fn row(&self, index: usize) -> *mut u8 {
        assert!(index < self.len(), "row {index} of {}", self.len());
        let chunk = self.chunks.partition_point(|c| c.first <= index) - 1;
        let chunk = &self.chunks[chunk];
        let offset = (index - chunk.first) * self.row_size;
        chunk.start.wrapping_add(offset)
    }

    /// The chunks in order: the address of the first row and the number of rows.
    pub fn chunks(&self) -> impl Iterator<Item = (*mut u8, usize)> + '_ {
        let len = self.len();
        self.chunks.iter().map(move |chunk| {
            let rows = (len - chunk.first).min(chunk.capacity);
            (chunk.start, rows)
        })
    }

    /// The rows' addresses in order.
    pub fn rows(&self) -> impl Iterator<Item = *mut u8> + '_ {
        self.chunks().flat_map(move |(start, rows)| (0..rows).map(move |i| start.wrapping_add(i * self.row_size)))
    }

    /// Forgets all rows; the first chunk is kept for reuse.
    pub fn clear(&mut self) {
        self.chunks.truncate(1);
        if let Some(first) = self.chunks.first() {
            self.cur = first.start;
            self.end = self.cur.wrapping_add(first.capacity * self.row_size);
        }
    }
}

/// Rows of one or several buffers in an order of their own, and the buffers that hold them: the source that a later pipeline scans.
pub struct RowList {
    addresses: Addresses,
    /// Which of them.
    range: Range<usize>,
    buffers: Vec<RowBuffer>,
    row_size: usize,
}

/// Addresses of rows, in order.
enum Addresses {
    List(Vec<*mut u8>),
    /// Many of them, in memory that the pool keeps.
    Pooled(PoolArray<*mut u8>),
}

// SAFETY: the list owns the buffers that its rows point into.
unsafe impl Send for RowList {}
// SAFETY: shared access only gives out addresses; reading rows is the caller's `unsafe`.
unsafe impl Sync for RowList {}

/// The addresses of fewer rows are listed by one thread.
const FEW_ROWS: usize = 32 << 10;

impl RowList {
    /// All rows of `buffers`, one buffer after the other.
    pub fn new(buffers: Vec<RowBuffer>) -> Self {
        let mut rows = Vec::with_capacity(buffers.iter().map(RowBuffer::len).sum());
        for buffer in &buffers {
            rows.extend(buffer.rows());
        }
        let row_size = buffers.first().map_or(8, RowBuffer::row_size);
        Self::from_parts(rows, buffers, row_size)
    }

    /// As [`RowList::new`], by several threads; the list of addresses counts as memory of the query.
    ///
    /// # Errors
    /// [`MemoryLimitError`] as a trap.
    pub fn gathered(buffers: Vec<RowBuffer>, memory: &Arc<QueryMemory>, pool: &WorkerPool) -> Result<Self, Trap> {
        let len = buffers.iter().map(RowBuffer::len).sum();
        if len < FEW_ROWS {
            return Ok(Self::new(buffers));
        }
        let addresses = PoolArray::<*mut u8>::new(len, memory)?;
        let firsts = buffers.iter().scan(0, |next, buffer| {
            let first = *next;
            *next += buffer.len();
            Some(first)
        });
        let firsts: Vec<usize> = firsts.collect();
        pool.run(buffers.len(), |i, _| {
            for (row, address) in buffers[i].rows().enumerate() {
                // SAFETY: each buffer has as many places of the list as rows, and no other has them.
                unsafe { addresses.as_ptr().add(firsts[i] + row).write(address) };
            }
            Ok(())
        })?;
        let row_size = buffers.first().map_or(8, RowBuffer::row_size);
        // SAFETY: all addresses were written.
        Ok(unsafe { Self::of_addresses(addresses, len, buffers, row_size) })
    }

    /// Chosen rows in a chosen order. Each must point into one of the buffers.
    pub(crate) fn from_parts(rows: Vec<*mut u8>, buffers: Vec<RowBuffer>, row_size: usize) -> Self {
        Self { range: 0..rows.len(), addresses: Addresses::List(rows), buffers, row_size }
    }

    /// As [`RowList::from_parts`], the first `len` of some addresses.
    ///
    /// # Safety
    /// So many were written, and nobody writes to them again.
    pub(crate) unsafe fn of_addresses(
        addresses: PoolArray<*mut u8>,
        len: usize,
        buffers: Vec<RowBuffer>,
        row_size: usize,
    ) -> Self {
        assert!(len <= addresses.len(), "so many addresses");
        Self { addresses: Addresses::Pooled(addresses), range: 0..len, buffers, row_size }
    }

    /// The addresses, in order: a generated scan loads row `i` from element `i`.
    pub fn rows(&self) -> &[*mut u8] {
        match &self.addresses {
            Addresses::List(rows) => &rows[self.range.clone()],
            // SAFETY: the range is within what was written when the list was made.
            Addresses::Pooled(rows) => unsafe { rows.slice(self.range.clone()) },
        }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Bytes a row.
    pub fn row_size(&self) -> usize {
        self.row_size
    }

    /// At most `count` rows after the first `offset`.
    pub fn slice(mut self, offset: usize, count: usize) -> Self {
        let start = self.range.start + offset.min(self.len());
        self.range = start..self.range.end.min(start.saturating_add(count));
        self
    }

    /// The buffers that hold the rows.
    pub(crate) fn into_buffers(self) -> Vec<RowBuffer> {
        self.buffers
    }
}

/// Bytes of texts at stable addresses, freed together.
pub struct TextArena {
    cur: *mut u8,
    end: *mut u8,
    blocks: Vec<Block>,
    memory: Arc<QueryMemory>,
}

// SAFETY: an arena owns its blocks; `cur` and `end` point into the last of them.
unsafe impl Send for TextArena {}
// SAFETY: shared access gives out nothing.
unsafe impl Sync for TextArena {}

impl TextArena {
    /// An empty arena. Allocates nothing yet.
    pub fn new(memory: &Arc<QueryMemory>) -> Self {
        Self { cur: std::ptr::null_mut(), end: std::ptr::null_mut(), blocks: Vec::new(), memory: Arc::clone(memory) }
    }

    /// Room for `bytes` bytes, contents undefined, valid until the arena is dropped.
    ///
    /// # Errors
    /// [`MemoryLimitError`]; what the arena holds stays.
    pub fn allocate(&mut self, bytes: usize) -> Result<*mut u8, MemoryLimitError> {
        if bytes > self.end as usize - self.cur as usize {
            let next = match self.blocks.last() {
                None => SMALLEST_BLOCK,
                Some(last) => (last.bytes() * 2).min(LARGE_BLOCK),
            };
            let block = self.memory.allocate(next.max(bytes))?;
            self.cur = block.as_ptr();
            self.end = self.cur.wrapping_add(block.bytes());
            self.blocks.push(block);
        }
        let start = self.cur;
        self.cur = start.wrapping_add(bytes);
        Ok(start)
    }

    /// A view of a copy of `text`, valid until the arena is dropped; texts of up to 12 bytes need no room.
    ///
    /// # Errors
    /// [`MemoryLimitError`]; what the arena holds stays.
    pub fn copy(&mut self, text: &[u8]) -> Result<TextView, MemoryLimitError> {
        if let Some(view) = TextView::inline(text) {
            return Ok(view);
        }
        let start = self.allocate(text.len())?;
        // SAFETY: `start` has room for the text, in a block that this arena owns and has given to no one else.
        unsafe {
            start.copy_from_nonoverlapping(text.as_ptr(), text.len());
            Ok(TextView::from_raw_bytes(start, text.len()))
        }
    }
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// `worker` as for [`crate::trap::raise`]; `buffer` points to a live [`RowBuffer`] that only this task uses.
pub(crate) unsafe fn row_buffer_grow(worker: *mut u8, buffer: *mut u8) -> *mut u8 {
    // SAFETY: promised by the caller.
    unsafe {
        match (*buffer.cast::<RowBuffer>()).grow() {
            Ok(row) => row,
            Err(error) => raise_null(worker, error.into()),
        }
    }
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// `worker` points to a live worker block that only this task uses.
pub(crate) unsafe fn text_allocate(worker: *mut u8, bytes: i64) -> *mut u8 {
    // SAFETY: promised by the caller; the scratch of a live worker lives.
    unsafe {
        let scratch: &mut WorkerScratch = &mut *(*worker.cast::<crate::trap::Worker>()).scratch;
        match scratch.texts.allocate(bytes.max(0) as usize) {
            Ok(start) => start,
            Err(error) => raise_null(worker, Trap::from(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::MemoryPool;

    #[test]
    fn rows_stay_where_they_are_and_count() {
        let memory = QueryMemory::unlimited();
        for first_rows in [1, 4, usize::MAX] {
            let mut buffer = RowBuffer::with_first_rows(24, first_rows, &memory);
            assert!(buffer.is_empty());
            assert_eq!(buffer.rows().count(), 0);
            let mut addresses = Vec::new();
            for i in 0..10_000u64 {
                let row = buffer.push().expect("no limit");
                // SAFETY: a fresh row of 24 bytes.
                unsafe { *row.cast::<u64>() = i };
                addresses.push(row);
            }
            assert_eq!(buffer.len(), 10_000);
            assert_eq!(buffer.rows().collect::<Vec<_>>(), addresses);
            for (i, &row) in addresses.iter().enumerate() {
                assert_eq!(buffer.row(i), row);
                // SAFETY: written above.
                assert_eq!(unsafe { *row.cast::<u64>() }, i as u64);
            }
            buffer.clear();
            assert_eq!(buffer.len(), 0);
            buffer.push().expect("no limit");
            assert_eq!(buffer.rows().count(), 1);
        }
    }

    #[test]
    fn rows_go_to_the_region_first_and_are_counted() {
        let memory = QueryMemory::unlimited();
        let mut region = vec![0u64; 3 * 1000];
        // SAFETY: the region holds a thousand rows of 24 bytes and is not used until the buffer is dropped.
        let mut buffer = unsafe { RowBuffer::within(region.as_mut_ptr().cast(), 1000, 24, &memory) };
        for i in 0..1500u64 {
            assert_eq!(buffer.is_within(), i <= 1000);
            let row = buffer.push().expect("no limit");
            // SAFETY: a fresh row of 24 bytes.
            unsafe { *row.cast::<u64>() = i };
        }
        assert_eq!(buffer.len(), 1500);
        // SAFETY: written above.
        assert!(buffer.rows().enumerate().all(|(i, row)| unsafe { *row.cast::<u64>() } == i as u64));
        assert!(memory.used() >= 1500 * 24);
        drop(buffer);
        assert_eq!(memory.used(), 0);
        assert!((0..1000).all(|i| region[3 * i] == i as u64));
        let limited = QueryMemory::new(&MemoryPool::new(usize::MAX), 100);
        // SAFETY: as above.
        let mut buffer = unsafe { RowBuffer::within(region.as_mut_ptr().cast(), 1000, 24, &limited) };
        assert!(buffer.push().is_err());
    }

    #[test]
    fn lists_have_the_rows_of_all_buffers_in_order() {
        let memory = QueryMemory::unlimited();
        for rows in [0, 1, FEW_ROWS / 4 - 1, FEW_ROWS / 2] {
            let buffers: Vec<RowBuffer> = (0..4)
                .map(|part| {
                    let mut buffer = RowBuffer::new(16, &memory);
                    for i in 0..if part == 2 { 0 } else { rows } {
                        // SAFETY: a fresh row of 16 bytes.
                        unsafe { *buffer.push().expect("no limit").cast::<usize>() = part * rows + i };
                    }
                    buffer
                })
                .collect();
            // SAFETY: written above.
            let read =
                |list: &RowList| list.rows().iter().map(|row| unsafe { *row.cast::<usize>() }).collect::<Vec<_>>();
            let list = RowList::gathered(buffers, &memory, &WorkerPool::new(3)).expect("no limit");
            let expected: Vec<usize> = (0..2 * rows).chain(3 * rows..4 * rows).collect();
            assert_eq!((read(&list), list.len()), (expected.clone(), 3 * rows));
            let list = list.slice(1, 2 * rows).slice(rows, usize::MAX);
            assert_eq!(
                read(&list),
                expected.get((rows + 1).min(3 * rows)..(2 * rows + 1).min(3 * rows)).unwrap_or(&[])
            );
            assert!(list.slice(usize::MAX, 1).is_empty());
        }
        let limited = QueryMemory::new(&MemoryPool::new(usize::MAX), 1 << 10);
        let mut buffer = RowBuffer::new(16, &memory);
        for _ in 0..FEW_ROWS {
            buffer.push().expect("no limit");
        }
        assert!(RowList::gathered(vec![buffer], &limited, &WorkerPool::new(1)).is_err());
    }

    #[test]
    fn a_full_pool_is_an_error_and_keeps_the_rows() {
        let pool = MemoryPool::new(SMALLEST_BLOCK * 3);
        let memory = QueryMemory::new(&pool, usize::MAX);
        let mut buffer = RowBuffer::new(1024, &memory);
        let mut rows = 0;
        while buffer.push().is_ok() {
            rows += 1;
        }
        assert_eq!(rows, 48);
        assert_eq!(buffer.len(), 48);
        drop(buffer);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn fields_compare_with_null_and_nan() {
        let fields =
            [Field::nullable(0, FieldKind::F64, 8), Field::new(9, FieldKind::I8), Field::new(16, FieldKind::Text)];
        let row = |number: Option<f64>, text: &str| {
            let mut row = [0u128; 2];
            let base = row.as_mut_ptr().cast::<u8>();
            // SAFETY: all offsets lie within the 32 bytes, aligned as their kinds ask.
            unsafe {
                *base.cast::<f64>() = number.unwrap_or(77.0);
                *base.add(8) = number.is_some().into();
                *base.add(16).cast::<TextView>() = TextView::inline(text.as_bytes()).expect("short");
            }
            row
        };
        let equal = |a: &[u128; 2], b: &[u128; 2]| {
            // SAFETY: both are rows as made above.
            let (same, ha, hb) = unsafe {
                let (a, b) = (a.as_ptr().cast(), b.as_ptr().cast());
                (keys_equal(&fields, a, b), hash_keys(&fields, a), hash_keys(&fields, b))
            };
            if same {
                assert_eq!(ha, hb);
            }
            same
        };
        assert!(equal(&row(Some(0.0), "a"), &row(Some(-0.0), "a")));
        assert!(equal(&row(Some(f64::NAN), "a"), &row(Some(-f64::NAN), "a")));
        assert!(equal(&row(None, "a"), &row(None, "a")));
        assert!(!equal(&row(None, "a"), &row(Some(77.0), "a")));
        assert!(!equal(&row(Some(1.0), "a"), &row(Some(1.0), "b")));
    }

    #[test]
    fn arena_texts_stay() {
        let memory = QueryMemory::unlimited();
        let mut arena = TextArena::new(&memory);
        let texts: Vec<String> = (0..3000).map(|i| "x".repeat(i % 40) + &i.to_string()).collect();
        let views: Vec<TextView> = texts.iter().map(|t| arena.copy(t.as_bytes()).expect("no limit")).collect();
        for (text, view) in texts.iter().zip(&views) {
            // SAFETY: the arena lives.
            assert_eq!(unsafe { view.as_bytes() }, text.as_bytes());
        }
        let big = "y".repeat(5 << 20);
        let view = arena.copy(big.as_bytes()).expect("no limit");
        // SAFETY: the arena lives.
        assert_eq!(unsafe { view.as_bytes() }.len(), big.len());
    }
}
