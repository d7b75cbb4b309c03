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
//! - A dense table has no entries worth reading: element `key - dense_min` of `dense`, for a difference below `dense_len` (unsigned), holds first row and
//!   number of rows. It is built where the caller allows it, for one integer key whose range is at most 4 times the rows.
//!   `dense_len` is 0 and `dense` null otherwise.

use std::sync::Arc;

use crate::buffer::{Field, FieldKind, RowBuffer, keys_equal};
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

/// One element of a dense table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenseEntry {
    /// The index of the key's first row.
    pub start: u32,
    /// How many rows have the key; 0 for none.
    pub count: u32,
}

/// How a table is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JoinOptions {
    /// NULL equals NULL, as IS NOT DISTINCT FROM wants. Otherwise rows with a NULL key match nothing.
    pub null_equal: bool,
    /// A dense array may be built; the probe has to look at `dense_len` then.
    pub allow_dense: bool,
}

/// A finished table. Generated code reads the first ten fields.
#[repr(C)]
pub struct JoinTable {
    pub(crate) entries: *mut JoinEntry,
    pub(crate) shift: u64,
    pub(crate) mask: u64,
    pub(crate) rows: *mut u8,
    pub(crate) row_size: u64,
    pub(crate) dense: *mut DenseEntry,
    pub(crate) dense_min: i64,
    pub(crate) dense_len: u64,
    pub(crate) len: u64,
    pub(crate) null_rows: u64,
    distinct: usize,
    // What the pointers above point into.
    _entries: PoolArray<JoinEntry>,
    _rows: PoolArray<u8>,
    _dense: Option<PoolArray<DenseEntry>>,
}

// SAFETY: the table owns all that it points to.
unsafe impl Send for JoinTable {}
// SAFETY: shared access only reads; rows are reached through the caller's `unsafe`.
unsafe impl Sync for JoinTable {}

/// Up to this many rows a build is one task.
const SERIAL_ROWS: usize = 32 << 10;
const PARTITION_BITS: u32 = 6;
/// A dense array may have this many elements for each row.
const DENSE_FACTOR: u64 = 4;
/// A dense array may have this many elements however few the rows are.
const DENSE_ALWAYS: u64 = 4096;

impl JoinTable {
    /// Builds a table from the rows of all ranges, in range order, and frees the buffers.
    ///
    /// # Errors
    /// Memory limits as traps, [`TrapCode::TooManyRows`] beyond 2^32 - 1 rows, or [`TrapCode::Cancelled`].
    ///
    /// # Safety
    /// All rows have one layout: the hash of `keys` in bytes 0..8, and these fields; texts are alive as long as the table.
    pub unsafe fn build(
        buffers: Vec<RowBuffer>,
        keys: &[Field],
        options: JoinOptions,
        memory: &Arc<QueryMemory>,
        pool: &WorkerPool,
        cancel: &CancelToken,
    ) -> Result<Self, Trap> {
        let buffers: Vec<RowBuffer> = buffers.into_iter().filter(|b| !b.is_empty()).collect();
        let total: usize = buffers.iter().map(RowBuffer::len).sum();
        if u32::try_from(total).is_err() {
            return Err(Trap::with_detail(TrapCode::TooManyRows, format!("{total} rows in a join table")));
        }
        let build = Build {
            buffers: &buffers,
            keys,
            skip_nulls: !options.null_equal && keys.iter().any(|key| key.valid.is_some()),
            total,
            row_size: buffers.first().map_or(8, RowBuffer::row_size),
            memory,
            pool,
            cancel,
        };
        let dense_key = (options.allow_dense && !(options.null_equal && keys[0].valid.is_some()))
            .then(|| dense_key(keys))
            .flatten();
        if let Some(key) = dense_key
            && total > 0
        {
            // SAFETY: promised by the caller.
            let range = unsafe { build.key_range(key)? };
            if let Some((min, span)) = range
                && span < (total as u64 * DENSE_FACTOR).max(DENSE_ALWAYS)
            {
                // SAFETY: promised by the caller; the range was scanned.
                return unsafe { build.dense(key, min, span) };
            }
        }
        // SAFETY: promised by the caller.
        unsafe { build.hashed() }
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

    /// Whether the table is a dense array.
    pub fn is_dense(&self) -> bool {
        self.dense_len > 0
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
        if self.is_dense() {
            // SAFETY: promised by the caller.
            let key = unsafe { read_integer(keys[0], row) };
            let index = key.wrapping_sub(self.dense_min) as u64;
            if index >= self.dense_len {
                return (0, 0);
            }
            // SAFETY: the index was checked.
            let entry = unsafe { *self.dense.add(index as usize) };
            return (entry.start as usize, entry.count as usize);
        }
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
}

fn dense_key(keys: &[Field]) -> Option<Field> {
    match keys {
        [key] => match key.kind {
            FieldKind::I8 | FieldKind::I32 | FieldKind::I64 => Some(*key),
            FieldKind::I128 | FieldKind::F32 | FieldKind::F64 | FieldKind::Text => None,
        },
        _ => None,
    }
}

/// # Safety
/// `row` has the field, of an integer kind of at most 8 bytes.
#[inline]
unsafe fn read_integer(key: Field, row: *const u8) -> i64 {
    // SAFETY: promised by the caller.
    unsafe {
        let at = row.add(key.offset as usize);
        match key.kind {
            FieldKind::I8 => i64::from(*at.cast::<i8>()),
            FieldKind::I32 => i64::from(*at.cast::<i32>()),
            FieldKind::I64 => *at.cast::<i64>(),
            FieldKind::I128 | FieldKind::F32 | FieldKind::F64 | FieldKind::Text => {
                unreachable!("dense keys are integers")
            }
        }
    }
}

/// # Safety
/// `row` is a row of a table: its hash stands first.
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

/// All rows with keys, by partition and in input order within each; then the rows without.
struct Partitioned {
    rows: PoolArray<*mut u8>,
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

    fn partition(&self, p: usize) -> &[*mut u8] {
        // SAFETY: `Build::partition` filled the array and no one writes to it any more.
        unsafe { self.rows.slice(self.starts[p]..self.starts[p + 1]) }
    }

    fn nulls(&self) -> &[*mut u8] {
        let keyed = self.keyed();
        // SAFETY: as above.
        unsafe { self.rows.slice(keyed..keyed + self.null_rows) }
    }
}

impl Build<'_> {
    /// # Safety
    /// `row` is one of the build's.
    #[inline]
    unsafe fn has_null_key(&self, row: *const u8) -> bool {
        // SAFETY: promised by the caller.
        self.skip_nulls && self.keys.iter().any(|key| unsafe { key.is_null(row) })
    }

    /// The least key that is not NULL and the distance from there to the greatest.
    ///
    /// # Safety
    /// As for [`JoinTable::build`].
    unsafe fn key_range(&self, key: Field) -> Result<Option<(i64, u64)>, Trap> {
        let ranges = self.pool.map(self.buffers.len(), |i, _| {
            self.cancel.check()?;
            let mut range: Option<(i64, i64)> = None;
            for row in self.buffers[i].rows() {
                // SAFETY: promised by the caller.
                unsafe {
                    if !self.has_null_key(row) {
                        let value = read_integer(key, row);
                        let (min, max) = range.unwrap_or((value, value));
                        range = Some((min.min(value), max.max(value)));
                    }
                }
            }
            Ok(range)
        })?;
        let range = ranges.into_iter().flatten().reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        Ok(range.map(|(min, max)| (min, max.wrapping_sub(min) as u64)))
    }

    /// Sorts the rows' addresses by partition.
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
        let rows = PoolArray::<*mut u8>::new(self.total, self.memory)?;
        self.pool.run(self.buffers.len(), |range, _| {
            self.cancel.check()?;
            let mut places = places[range].clone();
            for row in self.buffers[range].rows() {
                let place = &mut places[bucket_of(row)];
                // SAFETY: the places of all ranges and buckets are disjoint and add up to `total`.
                unsafe { *rows.as_ptr().add(*place) = row };
                *place += 1;
            }
            Ok(())
        })?;
        let null_rows = starts[partitions + 1] - starts[partitions];
        starts.truncate(partitions + 1);
        Ok(Partitioned { rows, starts, null_rows })
    }

    fn partition_bits(&self) -> u32 {
        if self.total <= SERIAL_ROWS { 0 } else { PARTITION_BITS }
    }

    /// The rows' array with the rows without keys in place, all others still to be written.
    fn row_array(&self, partitioned: &Partitioned) -> Result<PoolArray<u8>, MemoryLimitError> {
        let rows = PoolArray::<u8>::new(self.total * self.row_size, self.memory)?;
        for (i, &row) in partitioned.nulls().iter().enumerate() {
            // SAFETY: keyed and other rows add up to `total`.
            unsafe { self.copy_row(row, &rows, partitioned.keyed() + i) };
        }
        Ok(rows)
    }

    /// # Safety
    /// `index < total`, no one else writes there, and `row` is one of the build's.
    #[inline]
    unsafe fn copy_row(&self, row: *const u8, rows: &PoolArray<u8>, index: usize) {
        // SAFETY: promised by the caller; sources and the array do not overlap.
        unsafe {
            let target = rows.as_ptr().add(index * self.row_size);
            target.copy_from_nonoverlapping(row, self.row_size);
        }
    }

    /// # Safety
    /// As for [`JoinTable::build`]; `min` and `span` are the range of the key.
    unsafe fn dense(&self, key: Field, min: i64, span: u64) -> Result<JoinTable, Trap> {
        let bits = self.partition_bits();
        // The least shift that leaves `bits` bits of the key's distance from the least key.
        let shift = (64 - span.leading_zeros()).saturating_sub(bits);
        // SAFETY: called with rows of the build that have keys.
        let distance = |row| unsafe { read_integer(key, row).wrapping_sub(min) as u64 };
        // A span of at most 2^62 (4 times the rows) makes the difference exact and the shift less than 64.
        // SAFETY: a distance is at most `span`, which has `shift + bits` bits at most.
        let partitioned = unsafe { self.partition(1 << bits, |row| (distance(row) >> shift) as usize)? };
        let len = span as usize + 1;
        let dense = PoolArray::<DenseEntry>::new(len, self.memory)?;
        let rows = self.row_array(&partitioned)?;
        let distinct = self.pool.map(partitioned.count(), |p, _| {
            self.cancel.check()?;
            let begin = (p << shift).min(len);
            let end = ((p + 1) << shift).min(len);
            // SAFETY: the elements `begin..end` belong to the keys of this partition alone.
            let entries = unsafe { std::slice::from_raw_parts_mut(dense.as_ptr().add(begin), end - begin) };
            entries.fill(DenseEntry { start: 0, count: 0 });
            for &row in partitioned.partition(p) {
                entries[distance(row) as usize - begin].count += 1;
            }
            let mut next = partitioned.starts[p] as u32;
            let mut distinct = 0;
            for entry in entries.iter_mut() {
                entry.start = next;
                next += entry.count;
                distinct += usize::from(entry.count > 0);
            }
            for &row in partitioned.partition(p) {
                let entry = &mut entries[distance(row) as usize - begin];
                // SAFETY: each row of this partition gets an index of its own within the partition's.
                unsafe { self.copy_row(row, &rows, entry.start as usize) };
                entry.start += 1;
            }
            for entry in entries.iter_mut() {
                entry.start -= entry.count;
            }
            Ok(distinct)
        })?;
        let entries = PoolArray::<JoinEntry>::zeroed(2, self.memory)?;
        let mut table = self.table(&partitioned, entries, rows, distinct.iter().sum());
        table.dense = dense.as_ptr();
        table.dense_min = min;
        table.dense_len = len as u64;
        table._dense = Some(dense);
        Ok(table)
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
            if let Some(table) = unsafe { self.try_hashed(&partitioned, capacity)? } {
                return Ok(table);
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
            let rows = partitioned.partition(p);
            let bits = (rows.len() * 2).next_power_of_two().max(64);
            let mut seen = vec![0u64; bits / 64];
            for &row in rows {
                // SAFETY: a row of the build.
                // The top bits chose the partition, so the bits below them are used.
                let hash = unsafe { row_hash(row) } << PARTITION_BITS;
                let bit = (hash >> (64 - bits.ilog2())) as usize;
                seen[bit / 64] |= 1 << (bit % 64);
            }
            let set: u32 = seen.iter().map(|word| word.count_ones()).sum();
            let empty = (bits - set as usize).max(1);
            let estimate = bits as f64 * (bits as f64 / empty as f64).ln();
            Ok(((estimate * 1.03) as usize + 1).min(rows.len()))
        })?;
        Ok(estimates.iter().sum())
    }

    /// `None` where the capacity turns out too small.
    ///
    /// # Safety
    /// As for [`JoinTable::build`].
    unsafe fn try_hashed(&self, partitioned: &Partitioned, capacity: usize) -> Result<Option<JoinTable>, Trap> {
        let entries = PoolArray::<JoinEntry>::new(capacity, self.memory)?;
        let shift = 64 - capacity.ilog2();
        let region = capacity / partitioned.count();
        // For each row its slot, and the first row of its key, both in partition order.
        let slots = PoolArray::<u32>::new(partitioned.keyed(), self.memory)?;
        let firsts = PoolArray::<u32>::new(partitioned.keyed(), self.memory)?;
        let parts = self.pool.map(partitioned.count(), |p, _| {
            self.cancel.check()?;
            // SAFETY: each partition has its own region of slots and its own part of the arrays.
            let part = unsafe {
                let start = partitioned.starts[p];
                let len = partitioned.starts[p + 1] - start;
                entries.as_ptr().add(p * region).write_bytes(0, region);
                PartBuild {
                    rows: partitioned.partition(p),
                    slots: std::slice::from_raw_parts_mut(slots.as_ptr().add(start), len),
                    firsts: std::slice::from_raw_parts_mut(firsts.as_ptr().add(start), len),
                    keys: self.keys,
                    entries: entries.as_ptr(),
                    shift,
                }
            };
            // SAFETY: promised by the caller; the region is this task's.
            Ok(unsafe { part.insert((p + 1) * region) })
        })?;
        let mut distinct: usize = parts.iter().map(|part| part.distinct).sum();
        if distinct > capacity / 2 {
            return Ok(None);
        }
        // Rows whose probe ran out of their partition's region: rare, so one after the other, around the end of the table.
        for (p, part) in parts.iter().enumerate() {
            let start = partitioned.starts[p];
            for &row in &part.left_over {
                // SAFETY: the tasks have ended; slots are below the capacity, at most half of them and the left-over rows are taken.
                unsafe {
                    let first = &mut *firsts.as_ptr().add(start + row as usize);
                    let slot = &mut *slots.as_ptr().add(start + row as usize);
                    if distinct == capacity - 1 {
                        return Ok(None);
                    }
                    let place = LeftOver {
                        rows: partitioned.partition(p),
                        first_row: partitioned.partition(p)[row as usize],
                        index: row,
                        partition: p,
                        partition_bits: partitioned.count().ilog2(),
                    };
                    let (at, new) = place.insert(self.keys, entries.as_ptr(), shift);
                    *slot = at as u32;
                    *first = (*entries.as_ptr().add(at)).start;
                    distinct += usize::from(new);
                }
            }
        }
        let rows = self.row_array(partitioned)?;
        self.pool.run(partitioned.count(), |p, _| {
            self.cancel.check()?;
            let base = partitioned.starts[p];
            let part = partitioned.partition(p);
            // SAFETY: filled above for every row, read only from here on.
            let (slots, firsts) = unsafe {
                let range = base..base + part.len();
                (slots.slice(range.clone()), firsts.slice(range))
            };
            let mut next = base as u32;
            let mut cursors = vec![0u32; part.len()];
            for (i, &row) in part.iter().enumerate() {
                let first = firsts[i] as usize;
                if first == i {
                    // SAFETY: a key's entry is written by the task of its partition alone, wherever it stands.
                    let entry = unsafe { &mut *entries.as_ptr().add(slots[i] as usize) };
                    entry.start = next;
                    cursors[i] = next;
                    next += entry.count;
                }
                // SAFETY: the rows of a partition get distinct indices from `base` on.
                unsafe { self.copy_row(row, &rows, cursors[first] as usize) };
                cursors[first] += 1;
            }
            Ok(())
        })?;
        Ok(Some(self.table(partitioned, entries, rows, distinct)))
    }

    fn table(
        &self,
        partitioned: &Partitioned,
        entries: PoolArray<JoinEntry>,
        rows: PoolArray<u8>,
        distinct: usize,
    ) -> JoinTable {
        let capacity = entries.len();
        JoinTable {
            entries: entries.as_ptr(),
            shift: 64 - u64::from(capacity.ilog2()),
            mask: capacity as u64 - 1,
            rows: rows.as_ptr(),
            row_size: self.row_size as u64,
            dense: std::ptr::null_mut(),
            dense_min: 0,
            dense_len: 0,
            len: partitioned.keyed() as u64,
            null_rows: partitioned.null_rows as u64,
            distinct,
            _entries: entries,
            _rows: rows,
            _dense: None,
        }
    }
}

/// The insertion of one partition's rows into its region. While a table is built, an entry's `start` is the index of the key's first row
/// within its partition.
struct PartBuild<'a> {
    rows: &'a [*mut u8],
    slots: &'a mut [u32],
    firsts: &'a mut [u32],
    keys: &'a [Field],
    entries: *mut JoinEntry,
    shift: u32,
}

struct PartResult {
    distinct: usize,
    left_over: Vec<u32>,
}

impl PartBuild<'_> {
    /// # Safety
    /// The slots from the partition's first up to `end` are initialized and this task's alone; all rows have the keys.
    unsafe fn insert(self, end: usize) -> PartResult {
        let mut result = PartResult { distinct: 0, left_over: Vec::new() };
        for (i, &row) in self.rows.iter().enumerate() {
            // SAFETY: promised by the caller; the home slot of a row lies in its partition's region.
            unsafe {
                let hash = row_hash(row);
                let mut slot = (hash >> self.shift) as usize;
                loop {
                    if slot == end {
                        result.left_over.push(i as u32);
                        break;
                    }
                    let entry = &mut *self.entries.add(slot);
                    if entry.count == 0 {
                        *entry = JoinEntry { hash, start: i as u32, count: 1 };
                        result.distinct += 1;
                    } else if entry.hash == hash && keys_equal(self.keys, self.rows[entry.start as usize], row) {
                        entry.count += 1;
                    } else {
                        slot += 1;
                        continue;
                    }
                    self.slots[i] = slot as u32;
                    self.firsts[i] = entry.start;
                    break;
                }
            }
        }
        result
    }
}

/// The insertion of one row anywhere in the table.
struct LeftOver<'a> {
    rows: &'a [*mut u8],
    first_row: *mut u8,
    index: u32,
    partition: usize,
    partition_bits: u32,
}

impl LeftOver<'_> {
    /// The row's slot, and whether its key is new.
    ///
    /// # Safety
    /// No one else uses the table, which has an empty slot.
    unsafe fn insert(self, keys: &[Field], entries: *mut JoinEntry, shift: u32) -> (usize, bool) {
        let mask = (1usize << (64 - shift)) - 1;
        // SAFETY: promised by the caller.
        unsafe {
            let hash = row_hash(self.first_row);
            let mut slot = (hash >> shift) as usize;
            loop {
                let entry = &mut *entries.add(slot);
                if entry.count == 0 {
                    *entry = JoinEntry { hash, start: self.index, count: 1 };
                    return (slot, true);
                }
                // Another partition's entry has another hash, so `start` is looked up in this partition's rows only.
                let same_partition =
                    self.partition_bits == 0 || (entry.hash >> (64 - self.partition_bits)) as usize == self.partition;
                if same_partition
                    && entry.hash == hash
                    && keys_equal(keys, self.rows[entry.start as usize], self.first_row)
                {
                    entry.count += 1;
                    return (slot, false);
                }
                slot = (slot + 1) & mask;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::hash_keys;
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
        options: JoinOptions,
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
        // SAFETY: all rows have the layout above.
        unsafe { JoinTable::build(buffers, &keys(), options, &memory, &pool, &CancelToken::new()).expect("no limit") }
    }

    /// Every key finds its rows in input order, no other key finds any, and NULL rows stand last.
    fn check(ranges: &[Vec<Option<i64>>], table: &JoinTable, options: JoinOptions, hash: impl Fn(u64) -> u64 + Copy) {
        let all: Vec<Option<i64>> = ranges.iter().flatten().copied().collect();
        let mut expected = std::collections::BTreeMap::<Option<i64>, Vec<i64>>::new();
        for (number, &key) in all.iter().enumerate() {
            expected.entry(key).or_default().push(number as i64);
        }
        let null_rows = if options.null_equal { Vec::new() } else { expected.remove(&None).unwrap_or_default() };
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

    const ALL_OPTIONS: [JoinOptions; 4] = [
        JoinOptions { null_equal: false, allow_dense: false },
        JoinOptions { null_equal: false, allow_dense: true },
        JoinOptions { null_equal: true, allow_dense: false },
        JoinOptions { null_equal: true, allow_dense: true },
    ];

    proptest! {
        #[test]
        fn probes_equal_a_naive_lookup(
            ranges in prop::collection::vec(
                prop::collection::vec(prop::option::weighted(0.9, -30i64..30), 0..50), 0..4),
            spread in prop::sample::select(vec![1i64, 1_000_003, i64::MAX / 64]),
        ) {
            let ranges: Vec<Vec<Option<i64>>> = ranges
                .into_iter()
                .map(|r| r.into_iter().map(|k| k.map(|k| k * spread)).collect())
                .collect();
            for options in ALL_OPTIONS {
                // Good hashes, hashes that all collide, and hashes that run over the end of the table.
                check(&ranges, &build(&ranges, options, 1, |h| h), options, |h| h);
                check(&ranges, &build(&ranges, options, 1, |_| 5), options, |_| 5);
                check(&ranges, &build(&ranges, options, 1, |h| h | !0 << 8), options, |h| h | !0 << 8);
            }
        }
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
        for (step, dense) in [(1, true), (1_000_003, false)] {
            let ranges = large(step);
            let options = JoinOptions { null_equal: false, allow_dense: true };
            let one = build(&ranges, options, 1, |h| h);
            let three = build(&ranges, options, 3, |h| h);
            assert_eq!(one.is_dense(), dense);
            check(&ranges, &one, options, |h| h);
            check(&ranges, &three, options, |h| h);
            let order = |t: &JoinTable| -> Vec<i64> { (0..t.len()).map(|i| number(t.row(i))).collect() };
            assert_eq!(order(&one), order(&three));
        }
    }

    #[test]
    fn large_builds_with_skewed_hashes_run_over_their_regions() {
        let ranges = large(1_000_003);
        let options = JoinOptions::default();
        // All hashes in the last slots of the partitions 10 and 63.
        let hash = |h: u64| (if h & 1 == 0 { 10 << 58 } else { 63 << 58 }) | (!0 >> 6 & !0xff) | (h >> 56);
        check(&ranges, &build(&ranges, options, 3, hash), options, hash);
    }

    #[test]
    fn empty_and_limited() {
        let options = JoinOptions { null_equal: false, allow_dense: true };
        for ranges in [vec![], vec![vec![]], vec![vec![None, None]]] {
            let table = build(&ranges, options, 1, |h| h);
            assert!(table.is_empty());
            check(&ranges, &table, options, |h| h);
        }
        let pool = MemoryPool::new(1 << 20);
        let memory = QueryMemory::new(&pool, usize::MAX);
        let mut buffer = RowBuffer::new(ROW, &memory);
        for i in 0..16_000 {
            write(buffer.push().expect("fits"), Some(i), i, |h| h);
        }
        // SAFETY: all rows have the layout above.
        let table = unsafe {
            JoinTable::build(vec![buffer], &keys(), options, &memory, &WorkerPool::new(1), &CancelToken::new())
        };
        assert_eq!(table.err().map(|t| t.code), Some(TrapCode::MemoryLimit));
        assert_eq!(memory.used(), 0);
    }
}
