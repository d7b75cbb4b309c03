//! Hash tables for joins: the build. The probe is generated code.
//!
//! What holds:
//! - A table is built once, from the row buffers of all ranges, and then only read (but for match flags, which are bytes of its rows).
//!   A row begins with its hash (bytes 0..8); the rest is the caller's.
//! - All rows stand in one array. Rows of one key are contiguous, in input order. Rows with a NULL key, which match nothing, stand behind
//!   the others. The order of keys depends on the rows alone, not on threads.
//! - Entries are 16 bytes: hash, first row, number of rows; a number of 0 marks an empty slot. One entry a distinct key, the
//!   capacity is a power of two, at most about 0.4 of the slots are taken, and a hash `h` is found by looking at slots `h >> shift`, then
//!   one up at a time modulo the capacity (`& mask`), until an empty one. Equal hashes do not prove equal keys: compare the first row's.
//! - An index has no entries worth reading. It is for keys that are words of a known range: word `w` has bit `w % 64` of block
//!   `w / 64`, and its rank is the block's rank plus the number of 1 bits below it. Rows stand in the order of their words. Where all words
//!   differ, the rank is the row and `starts` is null; otherwise the rows of a rank are `starts[rank]..starts[rank + 1]`. Behind the
//!   last word stands a block without bits, for probes that can match nothing. (The index of bits with counts is Jacobson's, FOCS 1989.)
//! - A set is an index of bits alone, without rows.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::buffer::{Field, RowBuffer, keys_equal};
use crate::pool::{MemoryLimitError, PoolArray, QueryMemory};
use crate::scheduler::WorkerPool;
use crate::trap::{CancelToken, Trap, TrapCode};

/// One slot: a distinct key and where its rows are.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinEntry {
    /// The hash of the key.
    pub hash: u64,
    /// The index of the key's first row.
    pub start: u32,
    /// How many rows have the key; 0 for an empty slot.
    pub count: u32,
}

/// 64 words of an index.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexBlock {
    /// A bit for each word that is there.
    pub bits: u64,
    /// The number of words there are in all blocks before.
    pub rank: u64,
}

/// A finished table. Generated code reads the first nine fields.
#[repr(C)]
pub struct JoinTable {
    pub(crate) entries: *mut JoinEntry,
    pub(crate) shift: u64,
    pub(crate) mask: u64,
    pub(crate) rows: *mut u8,
    pub(crate) row_size: u64,
    pub(crate) blocks: *mut IndexBlock,
    pub(crate) starts: *mut u32,
    pub(crate) len: u64,
    pub(crate) null_rows: u64,
    distinct: usize,
    // What the pointers above point into.
    _entries: PoolArray<JoinEntry>,
    _rows: PoolArray<u8>,
    _blocks: Option<PoolArray<IndexBlock>>,
    _starts: Option<PoolArray<u32>>,
}

// SAFETY: the table owns all that it points to.
unsafe impl Send for JoinTable {}
// SAFETY: shared access only reads; rows are reached through the caller's `unsafe`.
unsafe impl Sync for JoinTable {}

/// Up to this many rows a build is one task.
const SERIAL_ROWS: usize = 32 << 10;
const PARTITION_BITS: u32 = 6;
impl JoinTable {
    /// Builds a hash table from the rows of all ranges, in range order, and frees the buffers. Without `keys` the hashes are the keys.
    /// With `null_equal` NULL equals NULL, as IS NOT DISTINCT FROM wants; otherwise rows with a NULL key match nothing.
    ///
    /// # Errors
    /// Memory limits as traps, [`TrapCode::TooManyRows`] beyond 2^32 - 1 rows, or [`TrapCode::Cancelled`].
    ///
    /// # Safety
    /// All rows have one layout: the hash of `keys` in bytes 0..8, and these fields; texts are alive as long as the table.
    pub unsafe fn build(
        buffers: Vec<RowBuffer>,
        keys: &[Field],
        null_equal: bool,
        memory: &Arc<QueryMemory>,
        pool: &WorkerPool,
        cancel: &CancelToken,
    ) -> Result<Self, Trap> {
        let buffers = not_empty(buffers);
        let skip_nulls = !null_equal && keys.iter().any(|key| key.valid.is_some());
        let build = Build::new(&buffers, keys, skip_nulls, memory, pool, cancel)?;
        // SAFETY: promised by the caller.
        unsafe { build.hashed() }
    }

    /// Builds an index over `words` words from the rows of all ranges, in range order, and frees the buffers.
    ///
    /// # Errors
    /// As for [`JoinTable::build`].
    ///
    /// # Safety
    /// All rows have one layout, their word in bytes 0..8. (A word that is not below `words` is a panic.)
    pub unsafe fn build_index(
        buffers: Vec<RowBuffer>,
        words: u64,
        memory: &Arc<QueryMemory>,
        pool: &WorkerPool,
        cancel: &CancelToken,
    ) -> Result<Self, Trap> {
        let buffers = not_empty(buffers);
        let build = Build::new(&buffers, &[], false, memory, pool, cancel)?;
        // SAFETY: promised by the caller.
        unsafe { build.indexed(words) }
    }

    /// A set of the words whose byte is 1.
    ///
    /// # Errors
    /// [`MemoryLimitError`] as a trap.
    pub fn set_of(bytes: &ByteSet, memory: &Arc<QueryMemory>) -> Result<Self, Trap> {
        let bytes = bytes.as_slice();
        let blocks = PoolArray::<IndexBlock>::new(bytes.len() / 64 + 1, memory)?;
        let mut rank = 0;
        // The last block has no words.
        let groups = bytes.chunks_exact(64).map(Some).chain([None]);
        for (i, group) in groups.enumerate() {
            let bits = group.map_or(0, bits_of);
            // SAFETY: there is a block for each group of bytes.
            unsafe { blocks.as_ptr().add(i).write(IndexBlock { bits, rank }) };
            rank += u64::from(bits.count_ones());
        }
        let partitioned =
            Partitioned { rows: PoolArray::new(0, memory)?, row_size: 8, starts: vec![0, 0], null_rows: 0 };
        let mut table = JoinTable::new(partitioned, PoolArray::zeroed(2, memory)?, rank as usize);
        table.len = rank;
        table.blocks = blocks.as_ptr();
        table._blocks = Some(blocks);
        Ok(table)
    }

    /// The address that generated code gets.
    pub fn as_ptr(&self) -> *const u8 {
        (&raw const *self).cast()
    }

    /// The number of rows that can match.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no row can match.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of rows with a NULL key; they stand behind the others.
    pub fn null_rows(&self) -> usize {
        self.null_rows as usize
    }

    /// The number of distinct keys.
    pub fn distinct_keys(&self) -> usize {
        self.distinct
    }

    /// Whether every key has one row.
    pub fn is_unique(&self) -> bool {
        self.distinct == self.len()
    }

    /// Whether the table is an index (or a set).
    pub fn is_index(&self) -> bool {
        !self.blocks.is_null()
    }

    /// Bytes a row.
    pub fn row_size(&self) -> usize {
        self.row_size as usize
    }

    /// The address of row `index` in `0..len() + null_rows()`.
    pub fn row(&self, index: usize) -> *mut u8 {
        assert!(index < self.len() + self.null_rows(), "row {index}");
        self.rows.wrapping_add(index * self.row_size())
    }

    /// First row and number of rows of the key in `row`, `(0, 0)` where there is none: what generated code computes.
    ///
    /// # Safety
    /// `row` has the fields `keys`, none of them NULL unless the table was built with `null_equal`; texts are alive.
    pub unsafe fn probe(&self, keys: &[Field], hash: u64, row: *const u8) -> (usize, usize) {
        assert!(!self.is_index(), "an index is probed by word");
        let mut slot = hash >> self.shift;
        loop {
            // SAFETY: slots are below the capacity, and some are empty.
            let entry = unsafe { *self.entries.add(slot as usize) };
            if entry.count == 0 {
                return (0, 0);
            }
            let first = self.row(entry.start as usize);
            // SAFETY: promised by the caller; the table's rows have the keys.
            if entry.hash == hash && unsafe { keys_equal(keys, first, row) } {
                return (entry.start as usize, entry.count as usize);
            }
            slot = (slot + 1) & self.mask;
        }
    }

    /// First row and number of rows of a word, `(0, 0)` where there is none: what generated code computes for an index of as many
    /// words. Of a set the first is the rank.
    pub fn probe_index(&self, word: u64) -> (usize, usize) {
        let blocks = self._blocks.as_ref().map_or(0, PoolArray::len);
        assert!(word < blocks as u64 * 64, "word {word} in {blocks} blocks");
        // SAFETY: the block's number was checked, and all are written when the table is made.
        let block = unsafe { *self.blocks.add(word as usize / 64) };
        if block.bits >> (word % 64) & 1 == 0 {
            return (0, 0);
        }
        let below = block.bits & ((1 << (word % 64)) - 1);
        let rank = (block.rank + u64::from(below.count_ones())) as usize;
        if self.starts.is_null() {
            return (rank, 1);
        }
        // SAFETY: there is one more start than there are words.
        let (start, end) = unsafe { (*self.starts.add(rank), *self.starts.add(rank + 1)) };
        (start as usize, (end - start) as usize)
    }

    fn new(partitioned: Partitioned, entries: PoolArray<JoinEntry>, distinct: usize) -> Self {
        let capacity = entries.len();
        JoinTable {
            entries: entries.as_ptr(),
            shift: 64 - u64::from(capacity.ilog2()),
            mask: capacity as u64 - 1,
            rows: partitioned.rows.as_ptr(),
            row_size: partitioned.row_size as u64,
            blocks: std::ptr::null_mut(),
            starts: std::ptr::null_mut(),
            len: partitioned.keyed() as u64,
            null_rows: partitioned.null_rows as u64,
            distinct,
            _entries: entries,
            _rows: partitioned.rows,
            _blocks: None,
            _starts: None,
        }
    }
}

fn not_empty(buffers: Vec<RowBuffer>) -> Vec<RowBuffer> {
    buffers.into_iter().filter(|b| !b.is_empty()).collect()
}

/// A bit for each of 64 bytes, which are 0 or 1.
fn bits_of(bytes: &[u8]) -> u64 {
    // Eight bytes at a time: the factor moves byte `i` to bit `56 + i`, and no two sums meet.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    bytes.chunks_exact(8).enumerate().fold(0, |bits, (i, chunk)| {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        bits | (u64::from_le_bytes(word).wrapping_mul(GATHER) >> 56) << (8 * i)
    })
}

/// A byte a word, which generated code of several tasks sets to 1: what a set is made of.
pub struct ByteSet {
    bytes: PoolArray<u8>,
}

impl ByteSet {
    /// None of `words` words (rounded up to whole blocks).
    ///
    /// # Errors
    /// [`MemoryLimitError`].
    pub fn new(words: u64, memory: &Arc<QueryMemory>) -> Result<Self, MemoryLimitError> {
        let len = usize::try_from(words.next_multiple_of(64)).unwrap_or(usize::MAX);
        Ok(Self { bytes: PoolArray::zeroed(len, memory)? })
    }

    /// The address that generated code gets.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.bytes.as_ptr()
    }

    fn as_slice(&self) -> &[u8] {
        // SAFETY: zeroed when made; whoever writes through the address has ended before the bytes are read.
        unsafe { self.bytes.slice(0..self.bytes.len()) }
    }
}

/// # Safety
/// `row` is a row of a table: its hash, or its word, stands first.
#[inline]
unsafe fn row_hash(row: *const u8) -> u64 {
    // SAFETY: promised by the caller.
    unsafe { *row.cast::<u64>() }
}

struct Build<'a> {
    buffers: &'a [RowBuffer],
    keys: &'a [Field],
    skip_nulls: bool,
    total: usize,
    row_size: usize,
    memory: &'a Arc<QueryMemory>,
    pool: &'a WorkerPool,
    cancel: &'a CancelToken,
}

/// The rows' array: rows with keys by partition, in input order within each; then the rows without.
struct Partitioned {
    rows: PoolArray<u8>,
    row_size: usize,
    /// Partition `p` is `starts[p]..starts[p + 1]`.
    starts: Vec<usize>,
    null_rows: usize,
}

impl Partitioned {
    fn count(&self) -> usize {
        self.starts.len() - 1
    }

    fn keyed(&self) -> usize {
        self.starts[self.count()]
    }

    fn range(&self, p: usize) -> Range<usize> {
        self.starts[p]..self.starts[p + 1]
    }

    /// The address of row `index` of the array.
    #[inline]
    fn row(&self, index: usize) -> *mut u8 {
        self.rows.as_ptr().wrapping_add(index * self.row_size)
    }
}

/// # Safety
/// Both are rows of `bytes` bytes, a multiple of 8, in different memory, aligned to 8.
#[inline]
unsafe fn copy_row(from: *const u8, to: *mut u8, bytes: usize) {
    // Rows are short: a loop over words beats a call.
    for word in 0..bytes / 8 {
        // SAFETY: promised by the caller.
        unsafe { *to.cast::<u64>().add(word) = *from.cast::<u64>().add(word) };
    }
}

impl<'a> Build<'a> {
    fn new(
        buffers: &'a [RowBuffer],
        keys: &'a [Field],
        skip_nulls: bool,
        memory: &'a Arc<QueryMemory>,
        pool: &'a WorkerPool,
        cancel: &'a CancelToken,
    ) -> Result<Self, Trap> {
        let total: usize = buffers.iter().map(RowBuffer::len).sum();
        if u32::try_from(total).is_err() {
            return Err(Trap::with_detail(TrapCode::TooManyRows, format!("{total} rows in a join table")));
        }
        let row_size = buffers.first().map_or(8, RowBuffer::row_size);
        Ok(Self { buffers, keys, skip_nulls, total, row_size, memory, pool, cancel })
    }

    /// # Safety
    /// `row` is one of the build's.
    #[inline]
    unsafe fn has_null_key(&self, row: *const u8) -> bool {
        // SAFETY: promised by the caller.
        self.skip_nulls && self.keys.iter().any(|key| unsafe { key.is_null(row) })
    }

    /// Copies the rows into their array, by partition.
    ///
    /// # Safety
    /// `partition_of` is below `partitions` for every row with keys.
    unsafe fn partition(
        &self,
        partitions: usize,
        partition_of: impl Fn(*const u8) -> usize + Sync,
    ) -> Result<Partitioned, Trap> {
        // SAFETY: called with rows of the build.
        let bucket_of = |row: *const u8| unsafe { if self.has_null_key(row) { partitions } else { partition_of(row) } };
        let counts = self.pool.map(self.buffers.len(), |range, _| {
            self.cancel.check()?;
            let mut counts = vec![0usize; partitions + 1];
            for row in self.buffers[range].rows() {
                counts[bucket_of(row)] += 1;
            }
            Ok(counts)
        })?;
        // Where each range writes in each bucket: bucket by bucket, range by range.
        let mut starts = vec![0usize; partitions + 2];
        let mut places = vec![vec![0usize; partitions + 1]; self.buffers.len()];
        for bucket in 0..=partitions {
            let mut place = starts[bucket];
            for (range, counts) in counts.iter().enumerate() {
                places[range][bucket] = place;
                place += counts[bucket];
            }
            starts[bucket + 1] = place;
        }
        let rows = PoolArray::<u8>::new(self.total * self.row_size, self.memory)?;
        self.pool.run(self.buffers.len(), |range, _| {
            self.cancel.check()?;
            let mut places = places[range].clone();
            for row in self.buffers[range].rows() {
                let place = &mut places[bucket_of(row)];
                // SAFETY: the places of all ranges and buckets are disjoint and add up to `total`.
                unsafe { copy_row(row, rows.as_ptr().add(*place * self.row_size), self.row_size) };
                *place += 1;
            }
            Ok(())
        })?;
        let null_rows = starts[partitions + 1] - starts[partitions];
        starts.truncate(partitions + 1);
        Ok(Partitioned { rows, row_size: self.row_size, starts, null_rows })
    }

    fn partition_bits(&self) -> u32 {
        if self.total <= SERIAL_ROWS { 0 } else { PARTITION_BITS }
    }

    /// # Safety
    /// As for [`JoinTable::build_index`].
    unsafe fn indexed(&self, words: u64) -> Result<JoinTable, Trap> {
        let index = Index::new(words, self.memory)?;
        self.pool.run(self.buffers.len(), |range, _| {
            self.cancel.check()?;
            for row in self.buffers[range].rows() {
                // SAFETY: promised by the caller.
                index.add(unsafe { row_hash(row) }, self.pool.threads() > 1);
            }
            Ok(())
        })?;
        let distinct = index.count();
        let (partitioned, starts) = if distinct == self.total {
            (self.place_unique(&index)?, None)
        } else if self.pool.threads() == 1 || self.total <= SERIAL_ROWS {
            self.place_serially(&index, distinct)?
        } else {
            self.place_by_partitions(&index, distinct)?
        };
        let mut table = JoinTable::new(partitioned, PoolArray::zeroed(2, self.memory)?, distinct);
        table.blocks = index.blocks.as_ptr();
        table._blocks = Some(index.blocks);
        table.starts = starts.as_ref().map_or(std::ptr::null_mut(), PoolArray::as_ptr);
        table._starts = starts;
        Ok(table)
    }

    /// The rows at their ranks: no two have one word.
    fn place_unique(&self, index: &Index) -> Result<Partitioned, Trap> {
        let rows = PoolArray::<u8>::new(self.total * self.row_size, self.memory)?;
        self.pool.run(self.buffers.len(), |range, _| {
            self.cancel.check()?;
            for row in self.buffers[range].rows() {
                // SAFETY: the ranks of different words differ and are below `total`.
                unsafe {
                    let place = index.rank(row_hash(row));
                    copy_row(row, rows.as_ptr().add(place * self.row_size), self.row_size);
                }
            }
            Ok(())
        })?;
        Ok(Partitioned { rows, row_size: self.row_size, starts: vec![0, self.total], null_rows: 0 })
    }

    /// The rows by rank, in input order within each, and where each rank begins. For each rank `r` the element `r + 2` counts, then
    /// `r + 1` is where its next row goes, until it is where the next rank begins.
    fn place_serially(&self, index: &Index, distinct: usize) -> Result<(Partitioned, Option<PoolArray<u32>>), Trap> {
        let starts = PoolArray::<u32>::zeroed(distinct + 2, self.memory)?;
        let rows = PoolArray::<u8>::new(self.total * self.row_size, self.memory)?;
        // SAFETY: zeroed above, and used by this thread alone.
        let places = unsafe { std::slice::from_raw_parts_mut(starts.as_ptr(), distinct + 2) };
        for buffer in self.buffers {
            self.cancel.check()?;
            for row in buffer.rows() {
                // SAFETY: a row of the build.
                places[index.rank(unsafe { row_hash(row) }) + 2] += 1;
            }
        }
        let mut sum = 0;
        for place in places.iter_mut() {
            sum += *place;
            *place = sum;
        }
        for buffer in self.buffers {
            self.cancel.check()?;
            for row in buffer.rows() {
                // SAFETY: a row of the build; the places are a permutation of the rows.
                unsafe {
                    let place = &mut places[index.rank(row_hash(row)) + 1];
                    copy_row(row, rows.as_ptr().add(*place as usize * self.row_size), self.row_size);
                    *place += 1;
                }
            }
        }
        let partitioned = Partitioned { rows, row_size: self.row_size, starts: vec![0, self.total], null_rows: 0 };
        Ok((partitioned, Some(starts)))
    }

    /// As [`Build::place_serially`], by several tasks: rows are cut into partitions of successive words first.
    fn place_by_partitions(
        &self,
        index: &Index,
        distinct: usize,
    ) -> Result<(Partitioned, Option<PoolArray<u32>>), Trap> {
        let blocks = index.blocks.len();
        let step = blocks.div_ceil(1 << PARTITION_BITS);
        // SAFETY: called with rows of the build; the partition of a block is below the number of partitions.
        let partitioned = unsafe { self.partition(1 << PARTITION_BITS, |row| row_hash(row) as usize / 64 / step)? };
        let starts = PoolArray::<u32>::new(distinct + 1, self.memory)?;
        self.pool.run(partitioned.count(), |p, _| {
            self.cancel.check()?;
            let ranks = index.rank_of_block(p * step)..index.rank_of_block((p + 1) * step);
            // SAFETY: the ranks of different partitions differ, and are below `distinct`.
            let places = unsafe { std::slice::from_raw_parts_mut(starts.as_ptr().add(ranks.start), ranks.len()) };
            places.fill(0);
            let range = partitioned.range(p);
            // SAFETY: called with rows of the build.
            let rank = |row| unsafe { index.rank(row_hash(row)) - ranks.start };
            for i in range.clone() {
                places[rank(partitioned.row(i))] += 1;
            }
            let mut next = range.start as u32;
            for place in places.iter_mut() {
                next += std::mem::replace(place, next);
            }
            let place = |row| {
                let place = &mut places[rank(row)];
                *place += 1;
                *place as usize - 1
            };
            // SAFETY: the rows of the range are this task's, and each gets a place of its own there.
            unsafe { self.permute(&partitioned, range.clone(), place)? };
            // Each is where the next one begins: move them up.
            if let Some(last) = places.len().checked_sub(1) {
                places.copy_within(..last, 1);
                places[0] = range.start as u32;
            }
            Ok(())
        })?;
        // SAFETY: there is one more start than there are ranks.
        unsafe { *starts.as_ptr().add(distinct) = self.total as u32 };
        Ok((partitioned, Some(starts)))
    }

    /// Moves the rows of `range` to the indices that `place` gives, called for each in turn.
    ///
    /// # Safety
    /// No one else uses these rows; the indices are a permutation of the range.
    unsafe fn permute(
        &self,
        partitioned: &Partitioned,
        range: Range<usize>,
        mut place: impl FnMut(*const u8) -> usize,
    ) -> Result<(), Trap> {
        let copy = PoolArray::<u8>::new(range.len() * self.row_size, self.memory)?;
        // SAFETY: both hold the range's rows; promised by the caller.
        unsafe {
            copy.as_ptr().copy_from_nonoverlapping(partitioned.row(range.start), range.len() * self.row_size);
            for i in 0..range.len() {
                let row = copy.as_ptr().add(i * self.row_size);
                copy_row(row, partitioned.row(place(row)), self.row_size);
            }
        }
        Ok(())
    }

    /// # Safety
    /// As for [`JoinTable::build`].
    unsafe fn hashed(&self) -> Result<JoinTable, Trap> {
        let bits = self.partition_bits();
        let partition_of = |row| {
            // SAFETY: called with rows of the build.
            let hash = unsafe { row_hash(row) };
            if bits == 0 { 0 } else { (hash >> (64 - bits)) as usize }
        };
        // SAFETY: a number of `bits` bits is below `1 << bits`.
        let partitioned = unsafe { self.partition(1 << bits, partition_of)? };
        let expected = self.distinct_estimate(&partitioned)?;
        let mut capacity = (expected * 5 / 2).max(2 << bits).next_power_of_two();
        loop {
            // SAFETY: promised by the caller.
            if let Some((entries, distinct)) = unsafe { self.insert_all(&partitioned, capacity)? } {
                return Ok(JoinTable::new(partitioned, entries, distinct));
            }
            capacity *= 2;
        }
    }

    /// About how many distinct keys there are; at most the number of rows. Linear counting (Whang et al., TODS 1990) of each partition.
    fn distinct_estimate(&self, partitioned: &Partitioned) -> Result<usize, Trap> {
        if partitioned.count() == 1 {
            return Ok(partitioned.keyed());
        }
        let estimates = self.pool.map(partitioned.count(), |p, _| {
            self.cancel.check()?;
            let rows = partitioned.range(p);
            let most = rows.len();
            let bits = (most * 2).next_power_of_two().max(64);
            let mut seen = vec![0u64; bits / 64];
            for index in rows {
                // The top bits chose the partition, so the bits below them are used.
                // SAFETY: a row of the build.
                let hash = unsafe { row_hash(partitioned.row(index)) } << PARTITION_BITS;
                let bit = (hash >> (64 - bits.ilog2())) as usize;
                seen[bit / 64] |= 1 << (bit % 64);
            }
            let set: u32 = seen.iter().map(|word| word.count_ones()).sum();
            let empty = (bits - set as usize).max(1);
            let estimate = bits as f64 * (bits as f64 / empty as f64).ln();
            Ok(((estimate * 1.03) as usize + 1).min(most))
        })?;
        Ok(estimates.iter().sum())
    }

    /// The entries and the number of distinct keys, with the rows of each key brought together; `None` where the capacity turns out
    /// too small, with the rows where they were.
    ///
    /// # Safety
    /// As for [`JoinTable::build`].
    unsafe fn insert_all(
        &self,
        partitioned: &Partitioned,
        capacity: usize,
    ) -> Result<Option<(PoolArray<JoinEntry>, usize)>, Trap> {
        let entries = PoolArray::<JoinEntry>::new(capacity, self.memory)?;
        let shift = 64 - capacity.ilog2();
        let region = capacity / partitioned.count();
        // The slot of each row.
        let slots = PoolArray::<u32>::new(partitioned.keyed(), self.memory)?;
        let parts = self.pool.map(partitioned.count(), |p, _| {
            self.cancel.check()?;
            // SAFETY: each partition has its own region of slots and its own part of the array; promised by the caller.
            unsafe {
                entries.as_ptr().add(p * region).write_bytes(0, region);
                let part = PartBuild { partitioned, keys: self.keys, entries: entries.as_ptr(), shift };
                Ok(part.insert(p, (p + 1) * region, slots.as_ptr()))
            }
        })?;
        let mut distinct: usize = parts.iter().map(|part| part.distinct).sum();
        let left_over: usize = parts.iter().map(|part| part.left_over.len()).sum();
        // Enough empty slots for what is left, whatever its keys are.
        if distinct + left_over > capacity / 2 {
            let least = self.keyed_least_capacity(partitioned);
            if capacity < least {
                return Ok(None);
            }
        }
        // Rows whose probe ran out of their partition's region: rare, so one after the other, around the end of the table.
        for part in &parts {
            for &index in &part.left_over {
                // SAFETY: the tasks have ended; there is an empty slot, for the capacity is more than the rows or twice the keys.
                unsafe {
                    let (slot, new) = self.insert_anywhere(partitioned, index as usize, entries.as_ptr(), shift);
                    *slots.as_ptr().add(index as usize) = slot as u32;
                    distinct += usize::from(new);
                }
            }
        }
        self.pool.run(partitioned.count(), |p, _| {
            self.cancel.check()?;
            let range = partitioned.range(p);
            if parts[p].distinct == range.len() && parts[p].left_over.is_empty() {
                return Ok(());
            }
            // SAFETY: filled above for every row, read only from here on; the entries of these rows are this task's.
            unsafe { self.bring_together(partitioned, range.clone(), slots.slice(range), entries.as_ptr()) }
        })?;
        Ok(Some((entries, distinct)))
    }

    /// The capacity that is enough whatever the keys are.
    fn keyed_least_capacity(&self, partitioned: &Partitioned) -> usize {
        (partitioned.keyed() * 2).max(2 * partitioned.count()).next_power_of_two()
    }

    /// Brings the rows of each key together, keys in order of first appearance, and lets the entries name them.
    ///
    /// # Safety
    /// `slots` are those of the rows of `range`, in whose entries `start` is the index of the key's first row; both are this task's.
    unsafe fn bring_together(
        &self,
        partitioned: &Partitioned,
        range: Range<usize>,
        slots: &[u32],
        entries: *mut JoinEntry,
    ) -> Result<(), Trap> {
        let mut next = range.start as u32;
        // For a key's first row the place of the key's next row.
        let mut cursors = vec![0u32; range.len()];
        let mut places = vec![0u32; range.len()];
        // Entries keep naming first rows until all places are known.
        let mut firsts = Vec::new();
        for (i, &slot) in slots.iter().enumerate() {
            // SAFETY: promised by the caller.
            let entry = unsafe { *entries.add(slot as usize) };
            let first = entry.start as usize - range.start;
            if first == i {
                cursors[i] = next;
                firsts.push((slot, next));
                next += entry.count;
            }
            places[i] = cursors[first];
            cursors[first] += 1;
        }
        for (slot, start) in firsts {
            // SAFETY: as above.
            unsafe { (*entries.add(slot as usize)).start = start };
        }
        let mut places = places.into_iter();
        // SAFETY: promised by the caller; the counts of the keys add up to the rows.
        unsafe { self.permute(partitioned, range, |_| places.next().unwrap_or(0) as usize) }
    }

    /// Enters one row anywhere in the table: its slot, and whether its key is new.
    ///
    /// # Safety
    /// No one else uses the table, which has an empty slot.
    unsafe fn insert_anywhere(
        &self,
        partitioned: &Partitioned,
        index: usize,
        entries: *mut JoinEntry,
        shift: u32,
    ) -> (usize, bool) {
        let mask = (1usize << (64 - shift)) - 1;
        let row = partitioned.row(index);
        // SAFETY: promised by the caller.
        unsafe {
            let hash = row_hash(row);
            let mut slot = (hash >> shift) as usize;
            loop {
                let entry = &mut *entries.add(slot);
                if entry.count == 0 {
                    *entry = JoinEntry { hash, start: index as u32, count: 1 };
                    return (slot, true);
                }
                if entry.hash == hash && keys_equal(self.keys, partitioned.row(entry.start as usize), row) {
                    entry.count += 1;
                    return (slot, false);
                }
                slot = (slot + 1) & mask;
            }
        }
    }
}

/// An index while it is built.
struct Index {
    words: u64,
    blocks: PoolArray<IndexBlock>,
}

impl Index {
    fn new(words: u64, memory: &Arc<QueryMemory>) -> Result<Self, MemoryLimitError> {
        let blocks = usize::try_from(words.div_ceil(64)).unwrap_or(usize::MAX).saturating_add(1);
        Ok(Self { words, blocks: PoolArray::zeroed(blocks, memory)? })
    }

    /// Adds a word. `shared`: others add words at the same time.
    #[inline]
    fn add(&self, word: u64, shared: bool) {
        assert!(word < self.words, "word {word} of {}", self.words);
        // SAFETY: the word was checked; all who add go through atomics, and no one reads until they have ended.
        let bits = unsafe { AtomicU64::from_ptr(&raw mut (*self.blocks.as_ptr().add(word as usize / 64)).bits) };
        let bit = 1 << (word % 64);
        if shared {
            bits.fetch_or(bit, Ordering::Relaxed);
        } else {
            bits.store(bits.load(Ordering::Relaxed) | bit, Ordering::Relaxed);
        }
    }

    /// Writes the ranks, after all words were added; the number of words.
    fn count(&self) -> usize {
        let mut rank = 0;
        for i in 0..self.blocks.len() {
            // SAFETY: zeroed when made; no one else uses the blocks now.
            let block = unsafe { &mut *self.blocks.as_ptr().add(i) };
            block.rank = rank;
            rank += u64::from(block.bits.count_ones());
        }
        rank as usize
    }

    /// The rank of a word that was added.
    #[inline]
    fn rank(&self, word: u64) -> usize {
        // SAFETY: the word was added, so its block is there; blocks are not written any more.
        let block = unsafe { *self.blocks.as_ptr().add(word as usize / 64) };
        let below = block.bits & ((1 << (word % 64)) - 1);
        (block.rank + u64::from(below.count_ones())) as usize
    }

    /// The number of words before a block, of all for a block behind the last.
    fn rank_of_block(&self, block: usize) -> usize {
        // SAFETY: the last block has no bits, so its rank is the number of words.
        unsafe { (*self.blocks.as_ptr().add(block.min(self.blocks.len() - 1))).rank as usize }
    }
}

/// The insertion of partitions' rows into their regions of the table.
struct PartBuild<'a> {
    partitioned: &'a Partitioned,
    keys: &'a [Field],
    entries: *mut JoinEntry,
    shift: u32,
}

struct PartResult {
    distinct: usize,
    /// Rows whose probe ran out of the region.
    left_over: Vec<u32>,
}

impl PartBuild<'_> {
    /// # Safety
    /// The slots from the partition's first up to `end` are initialized and this task's alone; all rows have the keys; `slots` has
    /// one element for each row.
    unsafe fn insert(&self, p: usize, end: usize, slots: *mut u32) -> PartResult {
        let mut result = PartResult { distinct: 0, left_over: Vec::new() };
        for index in self.partitioned.range(p) {
            let row = self.partitioned.row(index);
            // SAFETY: promised by the caller; the home slot of a row lies in its partition's region.
            unsafe {
                let hash = row_hash(row);
                let mut slot = (hash >> self.shift) as usize;
                loop {
                    if slot == end {
                        result.left_over.push(index as u32);
                        break;
                    }
                    let entry = &mut *self.entries.add(slot);
                    if entry.count == 0 {
                        *entry = JoinEntry { hash, start: index as u32, count: 1 };
                        result.distinct += 1;
                    } else if entry.hash == hash
                        && keys_equal(self.keys, self.partitioned.row(entry.start as usize), row)
                    {
                        entry.count += 1;
                    } else {
                        slot += 1;
                        continue;
                    }
                    *slots.add(index) = slot as u32;
                    break;
                }
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{FieldKind, hash_keys};
    use crate::pool::MemoryPool;
    use proptest::prelude::*;

    /// hash 0..8, key 8..16, row number 16..24, valid 24.
    const ROW: usize = 32;

    fn write(row: *mut u8, key: Option<i64>, number: i64, hash: impl Fn(u64) -> u64) {
        // SAFETY: the row has the layout above.
        unsafe {
            *row.add(8).cast::<i64>() = key.unwrap_or(0);
            *row.add(16).cast::<i64>() = number;
            *row.add(24) = key.is_some().into();
            *row.cast::<u64>() = hash(hash_keys(&keys(), row));
        }
    }

    fn keys() -> [Field; 1] {
        [Field::nullable(8, FieldKind::I64, 24)]
    }

    fn number(row: *const u8) -> i64 {
        // SAFETY: the row has the layout above.
        unsafe { *row.add(16).cast::<i64>() }
    }

    fn build(
        ranges: &[Vec<Option<i64>>],
        null_equal: bool,
        threads: usize,
        hash: impl Fn(u64) -> u64 + Copy,
    ) -> JoinTable {
        let memory = QueryMemory::unlimited();
        let mut next = 0;
        let buffers = ranges
            .iter()
            .map(|range| {
                let mut buffer = RowBuffer::with_first_rows(ROW, 4, &memory);
                for &key in range {
                    write(buffer.push().expect("no limit"), key, next, hash);
                    next += 1;
                }
                buffer
            })
            .collect();
        let pool = WorkerPool::new(threads);
        let cancel = CancelToken::new();
        // SAFETY: all rows have the layout above.
        unsafe { JoinTable::build(buffers, &keys(), null_equal, &memory, &pool, &cancel).expect("no limit") }
    }

    /// An index of the keys, less `MIN`.
    fn build_index(ranges: &[Vec<Option<i64>>], threads: usize) -> JoinTable {
        let memory = QueryMemory::unlimited();
        let mut next = 0;
        let buffers = ranges
            .iter()
            .map(|range| {
                let mut buffer = RowBuffer::with_first_rows(ROW, 4, &memory);
                for &key in range {
                    // As a sink does: a row with a NULL key is not stored.
                    if let Some(key) = key {
                        let row = buffer.push().expect("no limit");
                        write(row, Some(key), next, |h| h);
                        // SAFETY: the row begins with its word.
                        unsafe { *row.cast::<u64>() = (key - MIN) as u64 };
                    }
                    next += 1;
                }
                buffer
            })
            .collect();
        let pool = WorkerPool::new(threads);
        // SAFETY: all rows have the layout above.
        unsafe { JoinTable::build_index(buffers, WORDS, &memory, &pool, &CancelToken::new()).expect("no limit") }
    }

    const MIN: i64 = -100;
    const WORDS: u64 = 1 << 20;

    /// Every word finds its rows in input order, no other word finds any.
    fn check_index(ranges: &[Vec<Option<i64>>], table: &JoinTable) {
        let mut expected = std::collections::BTreeMap::<u64, Vec<i64>>::new();
        for (number, key) in ranges.iter().flatten().enumerate() {
            if let Some(key) = key {
                expected.entry((key - MIN) as u64).or_default().push(number as i64);
            }
        }
        assert!(table.is_index());
        assert_eq!(table.distinct_keys(), expected.len());
        assert_eq!(table.len(), expected.values().map(Vec::len).sum::<usize>());
        let behind = WORDS.next_multiple_of(64);
        for word in (0..200).chain([WORDS - 1, behind, behind + 63]).chain(expected.keys().copied()) {
            let (start, count) = table.probe_index(word);
            let found: Vec<i64> = (start..start + count).map(|i| number(table.row(i))).collect();
            assert_eq!(found, expected.get(&word).cloned().unwrap_or_default(), "word {word}");
        }
    }

    /// Every key finds its rows in input order, no other key finds any, and NULL rows stand last.
    fn check(ranges: &[Vec<Option<i64>>], table: &JoinTable, null_equal: bool, hash: impl Fn(u64) -> u64 + Copy) {
        let all: Vec<Option<i64>> = ranges.iter().flatten().copied().collect();
        let mut expected = std::collections::BTreeMap::<Option<i64>, Vec<i64>>::new();
        for (number, &key) in all.iter().enumerate() {
            expected.entry(key).or_default().push(number as i64);
        }
        let null_rows = if null_equal { Vec::new() } else { expected.remove(&None).unwrap_or_default() };
        assert_eq!(table.distinct_keys(), expected.len());
        assert_eq!(table.len() + table.null_rows(), all.len());
        let find = |key: Option<i64>| -> Vec<i64> {
            let mut probe = [0u64; ROW / 8];
            let row = probe.as_mut_ptr().cast::<u8>();
            write(row, key, -1, hash);
            // SAFETY: the probe row has the layout above.
            let (start, count) = unsafe { table.probe(&keys(), row_hash(row), row) };
            (start..start + count).map(|i| number(table.row(i))).collect()
        };
        for (&key, rows) in &expected {
            assert_eq!(&find(key), rows, "key {key:?}");
        }
        for absent in [i64::MIN, -1_000_000, 987_654_321, i64::MAX] {
            if !expected.contains_key(&Some(absent)) {
                assert_eq!(find(Some(absent)), []);
            }
        }
        let found: Vec<i64> = (table.len()..table.len() + table.null_rows()).map(|i| number(table.row(i))).collect();
        assert_eq!(found, null_rows);
    }

    proptest! {
        #[test]
        fn probes_equal_a_naive_lookup(
            ranges in prop::collection::vec(
                prop::collection::vec(prop::option::weighted(0.9, -30i64..30), 0..50), 0..4),
            spread in prop::sample::select(vec![1i64, 1_000_003, i64::MAX / 64]),
        ) {
            let spread: Vec<Vec<Option<i64>>> = ranges
                .iter()
                .map(|r| r.iter().map(|k| k.map(|k| k * spread)).collect())
                .collect();
            for null_equal in [false, true] {
                // Good hashes, hashes that all collide, and hashes that run over the end of the table.
                check(&spread, &build(&spread, null_equal, 1, |h| h), null_equal, |h| h);
                check(&spread, &build(&spread, null_equal, 1, |_| 5), null_equal, |_| 5);
                check(&spread, &build(&spread, null_equal, 1, |h| h | !0 << 8), null_equal, |h| h | !0 << 8);
            }
            check_index(&ranges, &build_index(&ranges, 1));
        }

        #[test]
        fn a_set_holds_its_words(words in prop::collection::btree_set(0u64..1000, 0..300), end in 1000u64..1100) {
            let memory = QueryMemory::unlimited();
            let bytes = ByteSet::new(end, &memory).expect("no limit");
            for &word in &words {
                // SAFETY: the word is below the end.
                unsafe { *bytes.as_mut_ptr().add(word as usize) = 1 };
            }
            let set = JoinTable::set_of(&bytes, &memory).expect("no limit");
            prop_assert_eq!(set.len(), words.len());
            for word in 0..end.next_multiple_of(64) + 64 {
                prop_assert_eq!(set.probe_index(word).1 > 0, words.contains(&word));
            }
        }
    }

    fn order(t: &JoinTable) -> Vec<i64> {
        (0..t.len()).map(|i| number(t.row(i))).collect()
    }

    fn large(step: i64) -> Vec<Vec<Option<i64>>> {
        (0..4)
            .map(|range| {
                (0..12_000i64)
                    .map(|i| {
                        let key = (i * 7 + range) % 17_001;
                        (key != 44).then_some(key * step)
                    })
                    .collect()
            })
            .collect()
    }

    #[test]
    fn large_builds_are_the_same_with_any_number_of_threads() {
        let ranges = large(1_000_003);
        let (one, three) = (build(&ranges, false, 1, |h| h), build(&ranges, false, 3, |h| h));
        check(&ranges, &one, false, |h| h);
        check(&ranges, &three, false, |h| h);
        assert_eq!(order(&one), order(&three));
    }

    #[test]
    fn large_indexes_are_the_same_with_any_number_of_threads() {
        let twice: Vec<Vec<Option<i64>>> = large(1);
        let unique: Vec<Vec<Option<i64>>> = (0..4)
            .map(|range| (0..12_000).map(|i| Some((i * 7_919 + range * 250_000) % 1_000_000)).collect())
            .collect();
        let skewed: Vec<Vec<Option<i64>>> = vec![vec![Some(3); 40_000], (0..1000).map(Some).collect()];
        for ranges in [twice, unique, skewed] {
            let (one, three) = (build_index(&ranges, 1), build_index(&ranges, 3));
            check_index(&ranges, &one);
            check_index(&ranges, &three);
            assert_eq!(order(&one), order(&three));
        }
    }

    #[test]
    fn large_builds_with_skewed_hashes_run_over_their_regions() {
        let ranges = large(1_000_003);
        // All hashes in the last slots of the partitions 10 and 63.
        let hash = |h: u64| (if h & 1 == 0 { 10 << 58 } else { 63 << 58 }) | (!0 >> 6 & !0xff) | (h >> 56);
        check(&ranges, &build(&ranges, false, 3, hash), false, hash);
    }

    #[test]
    fn empty_and_limited() {
        for ranges in [vec![], vec![vec![]], vec![vec![None, None]]] {
            let table = build(&ranges, false, 1, |h| h);
            assert!(table.is_empty());
            check(&ranges, &table, false, |h| h);
            check_index(&ranges, &build_index(&ranges, 1));
        }
        let pool = MemoryPool::new(1 << 20);
        let memory = QueryMemory::new(&pool, usize::MAX);
        for index in [false, true] {
            let mut buffer = RowBuffer::new(ROW, &memory);
            for i in 0..16_000 {
                // As a hash or a word.
                write(buffer.push().expect("fits"), Some(i), i, |_| i as u64);
            }
            let (pool, cancel) = (WorkerPool::new(1), CancelToken::new());
            // SAFETY: all rows have the layout above.
            let table = unsafe {
                if index {
                    JoinTable::build_index(vec![buffer], 16_000, &memory, &pool, &cancel)
                } else {
                    JoinTable::build(vec![buffer], &keys(), false, &memory, &pool, &cancel)
                }
            };
            assert_eq!(table.err().map(|t| t.code), Some(TrapCode::MemoryLimit));
            assert_eq!(memory.used(), 0);
        }
    }
}
