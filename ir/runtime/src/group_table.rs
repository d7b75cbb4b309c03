//! Hash tables for grouping: growth, insertion and merge. The probe is generated code.
//!
//! What holds:
//! - Entries are 16 bytes: the hash and the address of the group's row, null where the slot is empty. The capacity is a power of two,
//!   at most half of the slots are taken, and a hash `h` is found by looking at slots `h >> shift`, then one up at a time
//!   modulo the capacity (`& mask`), until an empty one.
//! - A row begins with its hash (bytes 0..8); the rest is the caller's: keys, then states. Rows never move, and stand in the order in
//!   which their groups first appeared.
//! - NULL keys are equal to each other, as GROUP BY wants.
//! - A direct table is an array of row addresses indexed by a small dense code. Its rows carry hashes too, so that it merges as any other.
//! - Groups by one integer merge by its value where that is dense, or where ranges do not overlap; others by their hash.
//! - A merge keeps the order of first appearance: by range, then by position in the range. Groups of one key are merged in
//!   range order, whatever the number of threads, so float sums do not depend on scheduling.

use std::sync::Arc;

use crate::buffer::{Field, FieldKind, RowBuffer, RowList, keys_equal};
use crate::kernels::hash::{self, PARTITIONS};
use crate::pool::{Block, MemoryLimitError, PoolArray, QueryMemory};
use crate::scheduler::WorkerPool;
use crate::trap::{CancelToken, Trap, TrapCode, raise_null};

/// One slot.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct GroupEntry {
    /// The hash of the group's keys.
    pub hash: u64,
    /// The group's row, null for an empty slot.
    pub row: *mut u8,
}

/// A table of groups. Generated code reads the first six fields.
#[repr(C)]
pub struct GroupTable {
    pub(crate) entries: *mut GroupEntry,
    pub(crate) shift: u64,
    pub(crate) mask: u64,
    pub(crate) len: u64,
    pub(crate) limit: u64,
    pub(crate) direct: *mut *mut u8,
    rows: RowBuffer,
    // Dropped with the table or before; `entries` points into it.
    entry_block: Option<Block>,
    direct_block: Option<Block>,
    direct_first: i64,
    direct_len: usize,
}

// SAFETY: the table owns its entries and its rows.
unsafe impl Send for GroupTable {}
// SAFETY: shared access only reads counts and addresses; reading rows is the caller's `unsafe`.
unsafe impl Sync for GroupTable {}

/// The capacity of a new table, in slots.
pub const FIRST_CAPACITY: usize = 1024;

/// Below this number of rows a merge is one task; above it, one task a partition.
const SERIAL_MERGE_ROWS: usize = 16 << 10;

impl GroupTable {
    /// An empty table of rows of `row_size` bytes, hash included.
    ///
    /// # Errors
    /// [`MemoryLimitError`].
    pub fn new(row_size: usize, memory: &Arc<QueryMemory>) -> Result<Self, MemoryLimitError> {
        Self::with_capacity(row_size, FIRST_CAPACITY, memory)
    }

    /// As `new`, with at least `capacity` slots (2 at least), so that tests see growth, and known sizes do not.
    ///
    /// # Errors
    /// [`MemoryLimitError`].
    pub fn with_capacity(
        row_size: usize,
        capacity: usize,
        memory: &Arc<QueryMemory>,
    ) -> Result<Self, MemoryLimitError> {
        let capacity = capacity.max(2).next_power_of_two();
        let entry_block = empty_entries(capacity, memory)?;
        let first_rows = if capacity < FIRST_CAPACITY { capacity } else { usize::MAX };
        let mut table = Self {
            entries: std::ptr::null_mut(),
            shift: 0,
            mask: 0,
            len: 0,
            limit: 0,
            direct: std::ptr::null_mut(),
            rows: RowBuffer::with_first_rows(row_size, first_rows, memory),
            entry_block: None,
            direct_block: None,
            direct_first: 0,
            direct_len: 0,
        };
        table.point_at_entries(entry_block, capacity);
        Ok(table)
    }

    /// A table indexed by a code in `first..first + codes`; [`group_table_insert_direct`](crate::abi::RuntimeFn) fills its slots. The
    /// address that code reads is that of code 0, wherever the codes begin.
    ///
    /// # Errors
    /// [`MemoryLimitError`].
    pub fn direct(
        row_size: usize,
        first: i64,
        codes: usize,
        memory: &Arc<QueryMemory>,
    ) -> Result<Self, MemoryLimitError> {
        let mut table = Self::with_capacity(row_size, 2, memory)?;
        table.rows = RowBuffer::new(row_size, memory);
        let bytes = codes.max(1) * size_of::<*mut u8>();
        let mut block = memory.allocate(bytes)?;
        block.zero(bytes);
        table.direct = block.as_ptr().cast::<*mut u8>().wrapping_offset((first as isize).wrapping_neg());
        table.direct_block = Some(block);
        table.direct_first = first;
        table.direct_len = codes;
        Ok(table)
    }

    fn point_at_entries(&mut self, block: Block, capacity: usize) -> Option<Block> {
        self.entries = block.as_ptr().cast();
        self.shift = 64 - u64::from(capacity.ilog2());
        self.mask = capacity as u64 - 1;
        self.limit = capacity as u64 / 2;
        self.entry_block.replace(block)
    }

    /// Gives back the memory that only finding groups needs: merges read rows. The table takes no more groups.
    pub fn finish(&mut self) {
        (self.entries, self.direct) = (std::ptr::null_mut(), std::ptr::null_mut());
        (self.entry_block, self.direct_block) = (None, None);
        self.limit = 0;
    }

    /// The address that generated code gets.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        (&raw mut *self).cast()
    }

    /// The number of groups.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no groups.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The number of slots.
    pub fn capacity(&self) -> usize {
        self.mask as usize + 1
    }

    /// The groups' rows in order of first appearance.
    pub fn rows(&self) -> &RowBuffer {
        &self.rows
    }

    /// Adds a group that is not in the table and returns its row: the hash in place, the rest zero.
    ///
    /// # Errors
    /// [`MemoryLimitError`]; the table stays as it was.
    pub fn insert(&mut self, hash: u64) -> Result<*mut u8, MemoryLimitError> {
        if self.len >= self.limit {
            self.grow()?;
        }
        let row = self.rows.push()?;
        // SAFETY: a fresh row, at least 8 bytes, aligned to 8.
        unsafe { row.cast::<u64>().write(hash) };
        self.place(hash, row);
        Ok(row)
    }

    /// Adds the group of `code` to a direct table.
    fn insert_direct(&mut self, code: i64, hash: u64) -> Result<*mut u8, Trap> {
        if code.wrapping_sub(self.direct_first) as u64 >= self.direct_len as u64 {
            let codes = format!("{} from {}", self.direct_len, self.direct_first);
            return Err(Trap::with_detail(TrapCode::Internal, format!("group code {code} of {codes}")));
        }
        let row = self.rows.push()?;
        self.len += 1;
        // SAFETY: a fresh row of at least 8 bytes; `code` is within the array, which the table owns.
        unsafe {
            row.cast::<u64>().write(hash);
            *self.direct.wrapping_offset(code as isize) = row;
        }
        Ok(row)
    }

    /// The row whose keys equal those of `row`, which has the hash `hash`.
    ///
    /// # Safety
    /// `row` and the table's rows have these keys, texts alive.
    pub unsafe fn find(&self, keys: &[Field], hash: u64, row: *const u8) -> Option<*mut u8> {
        let mut slot = (hash >> self.shift) as usize;
        loop {
            // SAFETY: a slot is below the capacity, and at least half of the slots are empty, so the loop ends.
            let entry = unsafe { *self.entries.add(slot) };
            if entry.row.is_null() {
                return None;
            }
            // SAFETY: promised by the caller.
            if entry.hash == hash && unsafe { keys_equal(keys, entry.row, row) } {
                return Some(entry.row);
            }
            slot = (slot + 1) & self.mask as usize;
        }
    }

    /// Enters a row into the first free slot of its hash. There is one: `len < limit`.
    fn place(&mut self, hash: u64, row: *mut u8) {
        let mut slot = (hash >> self.shift) as usize;
        // SAFETY: slots are below the capacity, and half of them are empty.
        unsafe {
            while !(*self.entries.add(slot)).row.is_null() {
                slot = (slot + 1) & self.mask as usize;
            }
            *self.entries.add(slot) = GroupEntry { hash, row };
        }
        self.len += 1;
    }

    fn grow(&mut self) -> Result<(), MemoryLimitError> {
        let old_capacity = self.capacity();
        // Small tables are cheap to oversize, large ones are not.
        let factor = if old_capacity < 64 << 10 { 4 } else { 2 };
        let capacity = old_capacity * factor;
        let block = empty_entries(capacity, self.rows.memory())?;
        let Some(old) = self.point_at_entries(block, capacity) else { return Ok(()) };
        self.len = 0;
        // SAFETY: the old block holds `old_capacity` initialized entries.
        let entries = unsafe { std::slice::from_raw_parts(old.as_ptr().cast::<GroupEntry>(), old_capacity) };
        for entry in entries.iter().filter(|entry| !entry.row.is_null()) {
            self.place(entry.hash, entry.row);
        }
        Ok(())
    }

    /// The groups as a list of rows, in order of first appearance.
    pub fn into_rows(self) -> RowList {
        RowList::new(vec![self.rows])
    }
}

fn empty_entries(capacity: usize, memory: &Arc<QueryMemory>) -> Result<Block, MemoryLimitError> {
    let bytes = capacity * size_of::<GroupEntry>();
    let mut block = memory.allocate(bytes)?;
    block.zero(bytes);
    Ok(block)
}

/// Two rows of equal keys.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergePair {
    /// The row that stays.
    pub into: *mut u8,
    /// The row whose states are merged into it.
    pub from: *const u8,
}

/// Merges states, pair by pair in order.
pub type MergeRows<'a> = dyn Fn(&[MergePair]) -> Result<(), Trap> + Sync + 'a;

/// Pairs that are merged at a time: a call for each would cost more than the merge.
const MERGE_PAIRS: usize = 512;

/// Collects pairs, and merges them in order.
struct Merger<'a> {
    merge: &'a MergeRows<'a>,
    pairs: Vec<MergePair>,
}

impl<'a> Merger<'a> {
    fn new(merge: &'a MergeRows<'a>) -> Self {
        Self { merge, pairs: Vec::with_capacity(MERGE_PAIRS) }
    }

    fn push(&mut self, into: *mut u8, from: *const u8) -> Result<(), Trap> {
        self.pairs.push(MergePair { into, from });
        if self.pairs.len() == MERGE_PAIRS { self.finish() } else { Ok(()) }
    }

    fn finish(&mut self) -> Result<(), Trap> {
        let done = (self.merge)(&self.pairs);
        self.pairs.clear();
        done
    }
}

/// One list of groups from the tables of all ranges, in range order; see the head of this file for the order of rows and merges.
///
/// # Errors
/// What `merge` returns, [`MemoryLimitError`] as a trap, or [`crate::trap::TrapCode::Cancelled`].
///
/// # Safety
/// All tables' rows have these keys and one layout, texts alive; `merge` touches only the two rows that it gets.
pub unsafe fn merge_groups(
    tables: Vec<GroupTable>,
    keys: &[Field],
    merge: &MergeRows<'_>,
    pool: &WorkerPool,
    cancel: &CancelToken,
) -> Result<RowList, Trap> {
    let mut tables: Vec<GroupTable> = tables.into_iter().filter(|t| !t.is_empty()).collect();
    if tables.len() <= 1 {
        return Ok(tables.pop().map_or_else(|| RowList::new(Vec::new()), GroupTable::into_rows));
    }
    let total: usize = tables.iter().map(GroupTable::len).sum();
    let row_size = tables[0].rows.row_size();
    let buffers: Vec<RowBuffer> = tables.into_iter().map(|table| table.rows).collect();
    let by_integer = match IntegerKey::of(keys).filter(|_| total > SERIAL_MERGE_ROWS) {
        // SAFETY: promised by the caller.
        Some(key) => unsafe { merge_by_integer(&buffers, total, key, merge, pool, cancel)? },
        None => None,
    };
    let rows = match by_integer {
        Some(rows) => rows,
        // SAFETY: promised by the caller.
        None if total <= SERIAL_MERGE_ROWS => unsafe { merge_serially(&buffers, total, keys, merge)? },
        // SAFETY: promised by the caller.
        None => unsafe { merge_partitions(&buffers, keys, merge, pool, cancel)? },
    };
    Ok(RowList::from_parts(rows, buffers, row_size))
}

/// The one key of a row, where it is an integer that is never NULL.
#[derive(Clone, Copy)]
struct IntegerKey {
    offset: usize,
    wide: bool,
}

impl IntegerKey {
    fn of(keys: &[Field]) -> Option<Self> {
        let [Field { offset, kind: kind @ (FieldKind::I32 | FieldKind::I64), valid: None }] = keys else { return None };
        Some(Self { offset: *offset as usize, wide: *kind == FieldKind::I64 })
    }

    /// # Safety
    /// The row has this key.
    unsafe fn get(self, row: *const u8) -> i64 {
        // SAFETY: promised by the caller.
        unsafe {
            if self.wide {
                row.add(self.offset).cast::<i64>().read()
            } else {
                i64::from(row.add(self.offset).cast::<i32>().read())
            }
        }
    }
}

/// A dense merge takes an array of at most this many slots a row.
const DENSE_SLOTS_A_ROW: i128 = 4;

/// Merges by the value of the key: `None` where the keys are too far apart for that.
///
/// Ranges whose keys do not overlap, as where a table is stored in the key's order, have nothing to merge but the keys that two of
/// them end and begin with.
///
/// # Safety
/// As for [`merge_groups`].
unsafe fn merge_by_integer(
    buffers: &[RowBuffer],
    total: usize,
    key: IntegerKey,
    merge: &MergeRows<'_>,
    pool: &WorkerPool,
    cancel: &CancelToken,
) -> Result<Option<Vec<*mut u8>>, Trap> {
    let ends = pool.map(buffers.len(), |range, _| {
        cancel.check()?;
        // SAFETY: promised by the caller.
        let keys = buffers[range].rows().map(|row| unsafe { key.get(row) });
        Ok(keys.fold((i64::MAX, i64::MIN), |(low, high), k| (low.min(k), high.max(k))))
    })?;
    let mut sorted = ends.clone();
    sorted.sort_unstable();
    let shared: Vec<i64> = sorted.windows(2).filter(|w| w[0].1 == w[1].0).map(|w| w[0].1).collect();
    let mut merger = Merger::new(merge);
    let mut rows = Vec::with_capacity(total);
    if sorted.windows(2).all(|w| w[0].1 <= w[1].0) {
        let mut firsts: Vec<(i64, *mut u8)> = Vec::with_capacity(shared.len());
        for row in buffers.iter().flat_map(RowBuffer::rows) {
            // SAFETY: promised by the caller.
            let k = unsafe { key.get(row) };
            if shared.binary_search(&k).is_ok() {
                match firsts.iter().find(|f| f.0 == k) {
                    Some(&(_, first)) => {
                        merger.push(first, row)?;
                        continue;
                    }
                    None => firsts.push((k, row)),
                }
            }
            rows.push(row);
        }
        merger.finish()?;
        return Ok(Some(rows));
    }
    let (low, high) = ends.iter().fold((i64::MAX, i64::MIN), |(l, h), e| (l.min(e.0), h.max(e.1)));
    let slots = i128::from(high) - i128::from(low) + 1;
    if slots > DENSE_SLOTS_A_ROW * total as i128 {
        return Ok(None);
    }
    let slots = slots as usize;
    // Each task merges the keys of one part of the array; all look at all rows. Parts are of one size whatever the number of
    // threads, and so is the order of merges of a key.
    let parts = pool.threads().min(slots.div_ceil(SERIAL_MERGE_ROWS));
    let part_slots = slots.div_ceil(parts);
    let merged = pool.map(parts, |part, _| {
        let first = part * part_slots;
        let own = part_slots.min(slots - first.min(slots));
        let places = PoolArray::<*mut u8>::new(own, buffers[0].memory())?;
        // SAFETY: the array has `own` elements, which this task alone uses.
        unsafe { std::ptr::write_bytes(places.as_ptr(), 0, own) };
        let mut merger = Merger::new(merge);
        let mut dead = vec![];
        let mut position = 0usize;
        for buffer in buffers {
            cancel.check()?;
            for row in buffer.rows() {
                // SAFETY: promised by the caller; the slot is within the array.
                unsafe {
                    let slot = (key.get(row).wrapping_sub(low) as usize).wrapping_sub(first);
                    if slot < own {
                        let place = places.as_ptr().add(slot);
                        if (*place).is_null() {
                            *place = row;
                        } else {
                            merger.push(*place, row)?;
                            dead.push(position);
                        }
                    }
                }
                position += 1;
            }
        }
        merger.finish()?;
        Ok(dead)
    })?;
    let mut alive = vec![true; total];
    merged.iter().flatten().for_each(|&position| alive[position] = false);
    rows.extend(buffers.iter().flat_map(RowBuffer::rows).zip(alive).filter(|r| r.1).map(|r| r.0));
    Ok(Some(rows))
}

/// A table over rows that live elsewhere, used by merges only.
struct Index {
    table: GroupTable,
}

impl Index {
    fn new(rows: usize, memory: &Arc<QueryMemory>) -> Result<Self, MemoryLimitError> {
        let table = GroupTable::with_capacity(8, rows * 2, memory)?;
        Ok(Self { table })
    }

    /// The row that stands for the keys of `row`, which has the hash `hash`: an earlier one, or `row` itself from now on.
    ///
    /// # Safety
    /// As for [`GroupTable::find`]; at most as many rows are entered as `new` was told.
    unsafe fn find_or_enter(&mut self, keys: &[Field], hash: u64, row: *mut u8) -> Option<*mut u8> {
        // Rows of one partition agree in some bits of their hashes: another round makes slots of the others.
        let hash = hash::mix(hash);
        // SAFETY: promised by the caller.
        let found = unsafe { self.table.find(keys, hash, row) };
        if found.is_none() {
            self.table.place(hash, row);
        }
        found
    }
}

unsafe fn merge_serially(
    buffers: &[RowBuffer],
    total: usize,
    keys: &[Field],
    merge: &MergeRows<'_>,
) -> Result<Vec<*mut u8>, Trap> {
    let mut index = Index::new(total, buffers[0].memory())?;
    let mut rows = Vec::with_capacity(total);
    let mut merger = Merger::new(merge);
    for row in buffers.iter().flat_map(RowBuffer::rows) {
        // SAFETY: promised by the caller of `merge_groups`; rows begin with their hash.
        match unsafe { index.find_or_enter(keys, *row.cast::<u64>(), row) } {
            Some(earlier) => merger.push(earlier, row)?,
            None => rows.push(row),
        }
    }
    merger.finish()?;
    Ok(rows)
}

/// A row on its way through a merge: partitions are worked off without touching rows whose hash is new.
#[derive(Clone, Copy)]
struct Candidate {
    hash: u64,
    row: *mut u8,
    /// The row's position among all rows, ranges in order.
    position: u32,
}

unsafe fn merge_partitions(
    buffers: &[RowBuffer],
    keys: &[Field],
    merge: &MergeRows<'_>,
    pool: &WorkerPool,
    cancel: &CancelToken,
) -> Result<Vec<*mut u8>, Trap> {
    let memory = buffers[0].memory();
    // SAFETY: rows of a group table begin with their hash.
    let hash_of = |row: *mut u8| unsafe { *row.cast::<u64>() };
    let counts = pool.map(buffers.len(), |range, _| {
        cancel.check()?;
        let mut counts = [0usize; PARTITIONS];
        buffers[range].rows().for_each(|row| counts[hash::partition(hash_of(row))] += 1);
        Ok(counts)
    })?;
    // Where each partition begins, and where each range writes in it.
    let mut starts = [0usize; PARTITIONS + 1];
    let mut places = vec![[0usize; PARTITIONS]; buffers.len()];
    for p in 0..PARTITIONS {
        let mut place = starts[p];
        for (range, counts) in counts.iter().enumerate() {
            places[range][p] = place;
            place += counts[p];
        }
        starts[p + 1] = place;
    }
    let total = starts[PARTITIONS];
    if u32::try_from(total).is_err() {
        return Err(Trap::with_detail(TrapCode::TooManyRows, format!("{total} groups in a merge")));
    }
    let mut firsts = vec![0usize; buffers.len() + 1];
    for (range, buffer) in buffers.iter().enumerate() {
        firsts[range + 1] = firsts[range] + buffer.len();
    }
    let candidates = PoolArray::<Candidate>::new(total, memory)?;
    // Each row's address in input order, null once it is merged into an earlier one.
    let alive = PoolArray::<*mut u8>::new(total, memory)?;
    pool.run(buffers.len(), |range, _| {
        cancel.check()?;
        let mut places = places[range];
        for (row, position) in buffers[range].rows().zip(firsts[range]..) {
            let hash = hash_of(row);
            let place = &mut places[hash::partition(hash)];
            let candidate = Candidate { hash, row, position: position as u32 };
            // SAFETY: the places of all ranges and partitions are disjoint, and so are positions.
            unsafe {
                *candidates.as_ptr().add(*place) = candidate;
                *alive.as_ptr().add(position) = row;
            }
            *place += 1;
        }
        Ok(())
    })?;
    pool.run(PARTITIONS, |p, _| {
        cancel.check()?;
        let mut index = Index::new(starts[p + 1] - starts[p], memory)?;
        let mut merger = Merger::new(merge);
        // SAFETY: written above, only read from here on.
        for candidate in unsafe { candidates.slice(starts[p]..starts[p + 1]) } {
            let row = candidate.row;
            // SAFETY: promised by the caller of `merge_groups`; rows of one key are all in this partition, hence in this task.
            unsafe {
                if let Some(earlier) = index.find_or_enter(keys, candidate.hash, row) {
                    merger.push(earlier, row)?;
                    *alive.as_ptr().add(candidate.position as usize) = std::ptr::null_mut();
                }
            }
        }
        merger.finish()
    })?;
    // SAFETY: every position was written, and the tasks have ended.
    let alive = unsafe { alive.slice(0..total) };
    Ok(alive.iter().copied().filter(|row| !row.is_null()).collect())
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// `worker` as for [`crate::trap::raise`]; `table` points to a live [`GroupTable`] that only this task uses.
pub(crate) unsafe fn group_table_insert(worker: *mut u8, table: *mut u8, hash: i64) -> *mut u8 {
    // SAFETY: promised by the caller.
    unsafe {
        match (*table.cast::<GroupTable>()).insert(hash as u64) {
            Ok(row) => row,
            Err(error) => raise_null(worker, error.into()),
        }
    }
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// As for [`group_table_insert`].
pub(crate) unsafe fn group_table_insert_direct(worker: *mut u8, table: *mut u8, code: i64, hash: i64) -> *mut u8 {
    // SAFETY: promised by the caller.
    unsafe {
        match (*table.cast::<GroupTable>()).insert_direct(code, hash as u64) {
            Ok(row) => row,
            Err(trap) => raise_null(worker, trap),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::hash_keys;
    use crate::pool::MemoryPool;
    use proptest::prelude::*;

    /// hash 0..8, key 8..16, sum 16..24, valid 24.
    const ROW: usize = 32;

    fn keys() -> [Field; 1] {
        [Field::nullable(8, FieldKind::I64, 24)]
    }

    /// What generated code does for one input row.
    fn update(table: &mut GroupTable, key: Option<i64>, value: i64) -> Result<(), MemoryLimitError> {
        let mut probe = [0u64; ROW / 8];
        let row = probe.as_mut_ptr().cast::<u8>();
        // SAFETY: the probe row and the table's rows have the layout above.
        unsafe {
            *row.add(8).cast::<i64>() = key.unwrap_or(0);
            *row.add(24) = key.is_some().into();
            let hash = hash_keys(&keys(), row);
            let group = match table.find(&keys(), hash, row) {
                Some(group) => group,
                None => {
                    let group = table.insert(hash)?;
                    *group.add(8).cast::<i64>() = key.unwrap_or(0);
                    *group.add(24) = key.is_some().into();
                    group
                }
            };
            *group.add(16).cast::<i64>() += value;
        }
        Ok(())
    }

    fn read(rows: &RowList) -> Vec<(Option<i64>, i64)> {
        // SAFETY: the rows have the layout above.
        let read = |&row: &*mut u8| unsafe {
            let key = (*row.add(24) != 0).then(|| *row.add(8).cast::<i64>());
            (key, *row.add(16).cast::<i64>())
        };
        rows.rows().iter().map(read).collect()
    }

    fn add(pairs: &[MergePair]) -> Result<(), Trap> {
        for pair in pairs {
            // SAFETY: called with rows of the layout above.
            unsafe { *pair.into.add(16).cast::<i64>() += *pair.from.add(16).cast::<i64>() };
        }
        Ok(())
    }

    fn naive(ranges: &[Vec<(Option<i64>, i64)>]) -> Vec<(Option<i64>, i64)> {
        let mut groups: Vec<(Option<i64>, i64)> = Vec::new();
        let mut places = std::collections::HashMap::new();
        for &(key, value) in ranges.iter().flatten() {
            let place = *places.entry(key).or_insert_with(|| {
                groups.push((key, 0));
                groups.len() - 1
            });
            groups[place].1 += value;
        }
        groups
    }

    fn grouped(ranges: &[Vec<(Option<i64>, i64)>], capacity: usize, threads: usize) -> Vec<(Option<i64>, i64)> {
        let memory = QueryMemory::unlimited();
        let tables = ranges
            .iter()
            .map(|range| {
                let mut table = GroupTable::with_capacity(ROW, capacity, &memory).expect("no limit");
                for &(key, value) in range {
                    update(&mut table, key, value).expect("no limit");
                }
                table
            })
            .collect();
        let pool = WorkerPool::new(threads);
        // SAFETY: all rows have the layout above.
        let rows = unsafe { merge_groups(tables, &keys(), &add, &pool, &CancelToken::new()) };
        read(&rows.expect("no trap"))
    }

    proptest! {
        #[test]
        fn groups_equal_a_naive_grouping(
            ranges in prop::collection::vec(
                prop::collection::vec((prop::option::of(-20i64..20), -100i64..100), 0..60), 0..5),
        ) {
            prop_assert_eq!(grouped(&ranges, 4, 1), naive(&ranges));
        }
    }

    #[test]
    fn large_merges_keep_the_order_with_any_number_of_threads() {
        let ranges: Vec<Vec<(Option<i64>, i64)>> = (0..5i64)
            .map(|range| {
                (0..9000i64)
                    .map(|i| {
                        let key = (i * 7919 + range * 4001) % 20_011;
                        ((key != 13).then_some(key), i)
                    })
                    .collect()
            })
            .collect();
        let expected = naive(&ranges);
        assert_eq!(grouped(&ranges, 4, 1), expected);
        assert_eq!(grouped(&ranges, 1024, 3), expected);
    }

    /// Groups of keys that are never NULL, merged by value; the order is that of first appearance.
    fn by_integer(ranges: &[Vec<(Option<i64>, i64)>], threads: usize) -> Option<Vec<(Option<i64>, i64)>> {
        let memory = QueryMemory::unlimited();
        let mut buffers = vec![];
        for range in ranges {
            let mut table = GroupTable::new(ROW, &memory).expect("no limit");
            range.iter().for_each(|&(key, value)| update(&mut table, key, value).expect("no limit"));
            buffers.push(table.rows);
        }
        let total = buffers.iter().map(RowBuffer::len).sum();
        let key = IntegerKey::of(&[Field::new(8, FieldKind::I64)]).expect("an integer");
        // SAFETY: all rows have the layout above.
        let rows =
            unsafe { merge_by_integer(&buffers, total, key, &add, &WorkerPool::new(threads), &CancelToken::new()) };
        let rows = rows.expect("no trap")?;
        Some(read(&RowList::from_parts(rows, buffers, ROW)))
    }

    #[test]
    fn integers_merge_by_value() {
        let range = |keys: std::ops::Range<i64>, step: i64| -> Vec<(Option<i64>, i64)> {
            keys.map(|k| (Some(k * step % 30_011), k)).collect()
        };
        // In the key's order, with keys that end one range and begin others; descending; mixed; negative.
        let clustered = vec![range(0..100, 1), range(99..100, 1), range(99..20_000, 1), range(20_001..20_002, 1)];
        let descending: Vec<_> = clustered.iter().rev().cloned().collect();
        let mixed = vec![range(0..20_000, 7919), range(5000..9000, 4001), range(-300..20_000, 7919)];
        for ranges in [clustered, descending, mixed] {
            for threads in [1, 3] {
                assert_eq!(by_integer(&ranges, threads), Some(naive(&ranges)));
            }
        }
        let far = vec![vec![(Some(i64::MIN), 1), (Some(i64::MAX), 2)], vec![(Some(0), 3)]];
        assert_eq!(by_integer(&far, 1), None);
    }

    #[test]
    fn direct_tables_merge_with_others() {
        const FIRST: i64 = -1_000_000;
        let memory = QueryMemory::unlimited();
        let cancel = CancelToken::new();
        let mut tables = Vec::new();
        for range in 0..2i64 {
            let mut table = GroupTable::direct(ROW, FIRST, 5, &memory).expect("no limit");
            for key in [3i64, range, 3] {
                // SAFETY: the codes are in the table's range, and rows have the layout above.
                unsafe {
                    let mut row = *table.direct.wrapping_offset((FIRST + key) as isize);
                    if row.is_null() {
                        let hash = crate::kernels::hash::combine(0, key as u64);
                        row = table.insert_direct(FIRST + key, hash).expect("in range");
                        *row.add(8).cast::<i64>() = key;
                        *row.add(24) = 1;
                    }
                    *row.add(16).cast::<i64>() += 1;
                }
            }
            for outside in [FIRST + 5, FIRST - 1] {
                assert_eq!(table.insert_direct(outside, 0).map_err(|t| t.code), Err(TrapCode::Internal));
            }
            table.finish();
            tables.push(table);
        }
        // SAFETY: all rows have the layout above.
        let rows = unsafe { merge_groups(tables, &keys(), &add, &WorkerPool::new(1), &cancel) };
        assert_eq!(read(&rows.expect("no trap")), [(Some(3), 4), (Some(0), 1), (Some(1), 1)]);
    }

    #[test]
    fn a_full_pool_is_an_error_and_keeps_the_groups() {
        let pool = MemoryPool::new(256 << 10);
        let memory = QueryMemory::new(&pool, usize::MAX);
        let mut table = GroupTable::with_capacity(ROW, 4, &memory).expect("fits");
        let mut groups = 0i64;
        while update(&mut table, Some(groups), groups).is_ok() {
            groups += 1;
        }
        assert!(groups > 100);
        assert_eq!(table.len(), groups as usize);
        for key in 0..groups {
            update(&mut table, Some(key), 1).expect("no new group");
        }
        let sums: Vec<i64> = read(&table.into_rows()).iter().map(|g| g.1).collect();
        assert_eq!(sums, (1..=groups).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_merges_to_nothing_and_a_trap_comes_out() {
        let memory = QueryMemory::unlimited();
        let cancel = CancelToken::new();
        let pool = WorkerPool::new(1);
        // SAFETY: there are no rows.
        let rows = unsafe { merge_groups(Vec::new(), &keys(), &add, &pool, &cancel) };
        assert!(rows.expect("no trap").is_empty());
        let tables = (0..2)
            .map(|_| {
                let mut table = GroupTable::new(ROW, &memory).expect("no limit");
                update(&mut table, None, 1).expect("no limit");
                table
            })
            .collect();
        let fail = |_: &[MergePair]| Err(Trap::new(TrapCode::Overflow));
        // SAFETY: all rows have the layout above.
        let rows = unsafe { merge_groups(tables, &keys(), &fail, &pool, &cancel) };
        assert_eq!(rows.err().map(|t| t.code), Some(TrapCode::Overflow));
    }
}
