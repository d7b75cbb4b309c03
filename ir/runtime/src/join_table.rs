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

use std::ops::Range;
use std::sync::Arc;

use crate::buffer::{Field, FieldKind, RowBuffer, keys_equal};
use crate::pool::{PoolArray, QueryMemory};
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
    /// As for [`JoinTable::build`]; `min` and `span` are the range of the key.
    unsafe fn dense(&self, key: Field, min: i64, span: u64) -> Result<JoinTable, Trap> {
        let bits = self.partition_bits();
        // The least shift that leaves `bits` bits of the key's distance from the least key.
        let shift = (64 - span.leading_zeros()).saturating_sub(bits);
        // SAFETY: called with rows of the build that have keys.
        let distance = |row| unsafe { read_integer(key, row).wrapping_sub(min) as u64 };
        // SAFETY: a distance is at most `span`, which has `shift + bits` bits at most.
        let partitioned = unsafe { self.partition(1 << bits, |row| (distance(row) >> shift) as usize)? };
        let len = span as usize + 1;
        let dense = PoolArray::<DenseEntry>::new(len, self.memory)?;
        let distinct = self.pool.map(partitioned.count(), |p, _| {
            self.cancel.check()?;
            let begin = (p << shift).min(len);
            let end = ((p + 1) << shift).min(len);
            // SAFETY: the elements `begin..end` belong to the keys of this partition alone.
            let entries = unsafe { std::slice::from_raw_parts_mut(dense.as_ptr().add(begin), end - begin) };
            entries.fill(DenseEntry { start: 0, count: 0 });
            let mut distinct = 0;
            for index in partitioned.range(p) {
                let entry = &mut entries[distance(partitioned.row(index)) as usize - begin];
                if entry.count == 0 {
                    entry.start = index as u32;
                    distinct += 1;
                }
                entry.count += 1;
            }
            let range = partitioned.range(p);
            if distinct < range.len() {
                // Rows of one key are brought together, keys ascending.
                let mut next = range.start as u32;
                for entry in entries.iter_mut() {
                    entry.start = next;
                    next += entry.count;
                }
                let place = |row| {
                    let entry = &mut entries[distance(row) as usize - begin];
                    entry.start += 1;
                    entry.start as usize - 1
                };
                // SAFETY: the rows of the range are this task's, and each gets a place of its own there.
                unsafe { self.permute(&partitioned, range, place) };
                for entry in entries.iter_mut() {
                    entry.start -= entry.count;
                }
            }
            Ok(distinct)
        })?;
        let entries = PoolArray::<JoinEntry>::zeroed(2, self.memory)?;
        let mut table = self.table(partitioned, entries, distinct.iter().sum());
        table.dense = dense.as_ptr();
        table.dense_min = min;
        table.dense_len = len as u64;
        table._dense = Some(dense);
        Ok(table)
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
    ) {
        let mut copy = vec![0u64; range.len() * self.row_size / 8];
        let copy = copy.as_mut_ptr().cast::<u8>();
        // SAFETY: both hold the range's rows; promised by the caller.
        unsafe {
            copy.copy_from_nonoverlapping(partitioned.row(range.start), range.len() * self.row_size);
            for i in 0..range.len() {
                let row = copy.add(i * self.row_size);
                copy_row(row, partitioned.row(place(row)), self.row_size);
            }
        }
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
                return Ok(self.table(partitioned, entries, distinct));
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
            unsafe { self.bring_together(partitioned, range.clone(), slots.slice(range), entries.as_ptr()) };
            Ok(())
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
    ) {
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
        unsafe { self.permute(partitioned, range, |_| places.next().unwrap_or(0) as usize) };
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

    fn table(&self, partitioned: Partitioned, entries: PoolArray<JoinEntry>, distinct: usize) -> JoinTable {
        let capacity = entries.len();
        JoinTable {
            entries: entries.as_ptr(),
            shift: 64 - u64::from(capacity.ilog2()),
            mask: capacity as u64 - 1,
            rows: partitioned.rows.as_ptr(),
            row_size: self.row_size as u64,
            dense: std::ptr::null_mut(),
            dense_min: 0,
            dense_len: 0,
            len: partitioned.keyed() as u64,
            null_rows: partitioned.null_rows as u64,
            distinct,
            _entries: entries,
            _rows: partitioned.rows,
            _dense: None,
        }
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
