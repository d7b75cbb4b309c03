//! Sorting of rows, and the rows that a limit keeps.
//!
//! What holds:
//! - The order is by the keys in turn; rows that are equal in all of them keep their input order. NaN is the greatest float and equals itself, 0.0
//!   equals -0.0, texts order by their bytes, and NULLs stand where the key says, whatever its direction.
//! - Each row gets a normalized key: one bit for NULL where the field is nullable, then the value so that unsigned order is the key's order, cut off after 64 or 128
//!   bits. Rows are compared by it, and in full only where it ties and something was cut off.
//! - Large inputs are first cut into buckets (`buckets.rs`); then each bucket is sorted as a task, but for those behind a limit. Rows with one
//!   normalized key are in one bucket. The result does not depend on threads.
//! - Where rows that are equal in the first keys follow each other is told from normalized keys, while those are at hand.
//! - Many sorted rows are moved, so that rows that follow each other stand beside each other: whoever reads them next reads memory in order.
//! - [`TopK`] begins with a [`RowBuffer`], to which generated code appends as to any other; when it is full it keeps the best rows, in input order.

mod buckets;
mod integers;

use std::cmp::Ordering;
use std::sync::Arc;

use self::buckets::{Counts, Item, KeyWord, Splitters};
use crate::buffer::{Field, FieldKind, RowBuffer, RowList};
use crate::column::TextView;
use crate::cpu::prefetch_line;
use crate::kernels::hash;
use crate::pool::{MemoryLimitError, PoolArray, QueryMemory};
use crate::scheduler::WorkerPool;
use crate::trap::{CancelToken, Trap, raise_null};

/// One key of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SortKey {
    /// Where it stands in the row.
    pub field: Field,
    /// Greatest value first.
    pub descending: bool,
    /// NULLs before all values.
    pub nulls_first: bool,
    /// For an integer of at most 64 bits: where its values that are not NULL lie, if that is known. The order is wrong where it is not so.
    pub bounds: Option<(i64, i64)>,
}

/// Orders two rows; equal rows are equal in all keys.
///
/// # Safety
/// Both rows have the keys' fields, texts alive.
pub unsafe fn compare_rows(keys: &[SortKey], a: *const u8, b: *const u8) -> Ordering {
    for key in keys {
        // SAFETY: promised by the caller.
        let order = unsafe {
            match (key.field.is_null(a), key.field.is_null(b)) {
                (true, true) => Ordering::Equal,
                (true, false) if key.nulls_first => Ordering::Less,
                (true, false) => Ordering::Greater,
                (false, true) if key.nulls_first => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) if key.descending => key.field.compare_values(b, a),
                (false, false) => key.field.compare_values(a, b),
            }
        };
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// How much of the keys a normalized key of 128 bits holds.
struct Normalizer<'a> {
    keys: &'a [SortKey],
    /// For each key the integers that it has, if they were looked at: it takes the bits that tell them apart.
    spans: Vec<Option<Span>>,
    /// Bits in use, at most 128.
    bits: u32,
    /// Whether nothing was cut off.
    complete: bool,
}

/// The least and the greatest of some integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    min: i64,
    max: i64,
}

impl Span {
    /// What is known of a key before a row of it was seen.
    fn known(key: &SortKey) -> Option<Self> {
        let (min, max) = key.bounds.filter(|(min, max)| min <= max && integers::is_integer(key.field.kind))?;
        Some(Self { min, max })
    }

    fn hull(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        match (a, b) {
            (Some(a), Some(b)) => Some(Self { min: a.min.min(b.min), max: a.max.max(b.max) }),
            (a, b) => a.or(b),
        }
    }

    /// Bits that tell its values apart; one at least.
    fn bits(self) -> u32 {
        (64 - self.max.wrapping_sub(self.min).cast_unsigned().leading_zeros()).max(1)
    }
}

impl<'a> Normalizer<'a> {
    /// Keys in the bounds that are known, else in the full width of their types.
    fn new(keys: &'a [SortKey]) -> Self {
        Self::with_spans(keys, keys.iter().map(Span::known).collect())
    }

    fn with_spans(keys: &'a [SortKey], spans: Vec<Option<Span>>) -> Self {
        let (bits, complete) = width(keys, &spans);
        Self { keys, spans, bits: bits.min(128), complete }
    }

    /// The bits of a normalized key that say what the first keys are; `None` where something of them is cut off.
    fn leading_bits(&self, leading: usize) -> Option<u32> {
        let (bits, complete) = width(&self.keys[..leading], &self.spans);
        complete.then_some(bits)
    }

    /// The span of each key, where all are integers that one word has room for.
    fn integer_spans(&self) -> Option<Vec<Span>> {
        let spans = self.keys.iter().zip(&self.spans).map(|(key, span)| span.or(integers::whole_span(key.field.kind)));
        spans.collect::<Option<_>>().filter(|_| self.bits <= 64)
    }

    /// # Safety
    /// As for [`compare_rows`]; with spans, the row is one of those that they were taken from.
    unsafe fn key(&self, row: *const u8) -> u128 {
        let mut normalized = 0;
        let mut used = 0;
        for (key, span) in self.keys.iter().zip(&self.spans) {
            if used >= 128 {
                break;
            }
            // SAFETY: promised by the caller.
            let null = unsafe { key.field.is_null(row) };
            if key.field.valid.is_some() {
                let flag = u128::from(null != key.nulls_first);
                normalized |= (flag << 127) >> used;
                used += 1;
            }
            let width = span.map_or_else(|| value_bits(key.field.kind), Span::bits);
            if !null && used < 128 {
                // SAFETY: promised by the caller; the field is not NULL.
                let value = unsafe {
                    match span {
                        Some(span) => {
                            let above = integer(key.field, row).wrapping_sub(span.min).cast_unsigned();
                            u128::from(above) << (128 - width)
                        }
                        None => ordered_bits(key.field, row),
                    }
                };
                let value = if key.descending { !value & (!0 << (128 - width)) } else { value };
                normalized |= value >> used;
            }
            used += width;
        }
        normalized
    }
}

/// The bits that these keys take, and whether those are all of them.
fn width(keys: &[SortKey], spans: &[Option<Span>]) -> (u32, bool) {
    let mut bits = 0;
    let mut complete = true;
    for (key, span) in keys.iter().zip(spans) {
        bits += u32::from(key.field.valid.is_some());
        bits += span.map_or_else(|| value_bits(key.field.kind), Span::bits);
        complete &= key.field.kind != FieldKind::Text && bits <= 128;
    }
    (bits, complete)
}

/// The value of a field for which [`integers::is_integer`] holds; 0 for others.
///
/// # Safety
/// `row` has the field, which is not NULL.
unsafe fn integer(field: Field, row: *const u8) -> i64 {
    // SAFETY: promised by the caller.
    unsafe {
        let at = row.add(field.offset as usize);
        match field.kind {
            FieldKind::I8 => i64::from(*at.cast::<i8>()),
            FieldKind::I16 => i64::from(*at.cast::<i16>()),
            FieldKind::I32 => i64::from(*at.cast::<i32>()),
            FieldKind::I64 => *at.cast::<i64>(),
            FieldKind::I128 | FieldKind::F32 | FieldKind::F64 | FieldKind::Text => 0,
        }
    }
}

/// Bits of a field's ordered form.
fn value_bits(kind: FieldKind) -> u32 {
    match kind {
        FieldKind::I8 => 8,
        FieldKind::I16 => 16,
        FieldKind::I32 | FieldKind::F32 => 32,
        FieldKind::I64 | FieldKind::F64 => 64,
        FieldKind::I128 | FieldKind::Text => 128,
    }
}

/// A value's ordered form in the top bits, the rest zero: unsigned order is the order of the values. Of a text its first 16 bytes.
///
/// # Safety
/// `row` has the field, which is not NULL; texts are alive.
unsafe fn ordered_bits(field: Field, row: *const u8) -> u128 {
    // SAFETY: promised by the caller.
    unsafe {
        let at = row.add(field.offset as usize);
        let word = |bits: u64, width: u32| u128::from(bits) << (128 - width);
        match field.kind {
            FieldKind::I8 => word(u64::from(*at ^ 0x80), 8),
            FieldKind::I16 => word(u64::from(*at.cast::<u16>() ^ 1 << 15), 16),
            FieldKind::I32 => word(u64::from(*at.cast::<u32>() ^ 1 << 31), 32),
            FieldKind::I64 => word(*at.cast::<u64>() ^ 1 << 63, 64),
            FieldKind::I128 => *at.cast::<u128>() ^ 1 << 127,
            FieldKind::F32 => {
                let value = *at.cast::<f32>();
                // One NaN, and 0.0 for -0.0.
                let value = if value.is_nan() { f32::NAN.abs() } else { value + 0.0 };
                let bits = value.to_bits();
                let flip = if bits >> 31 == 0 { 1 << 31 } else { !0 };
                word(u64::from(bits ^ flip), 32)
            }
            FieldKind::F64 => {
                let bits = hash::f64_word(*at.cast::<f64>());
                let flip = if bits >> 63 == 0 { 1 << 63 } else { !0 };
                word(bits ^ flip, 64)
            }
            FieldKind::Text => {
                let bytes = (*at.cast::<TextView>()).as_bytes();
                let mut first = [0; 16];
                let len = bytes.len().min(16);
                first[..len].copy_from_slice(&bytes[..len]);
                u128::from_be_bytes(first)
            }
        }
    }
}

/// So many rows are made into items, or moved, as one task.
const CHUNK_ROWS: usize = 16 << 10;

/// The rows in order, the first `limit` of them where there is a limit.
///
/// # Errors
/// Memory limits as traps, or [`crate::trap::TrapCode::Cancelled`].
///
/// # Safety
/// All rows have the keys' fields, texts alive.
pub unsafe fn sort_rows(
    rows: RowList,
    keys: &[SortKey],
    limit: Option<usize>,
    memory: &Arc<QueryMemory>,
    pool: &WorkerPool,
    cancel: &CancelToken,
) -> Result<RowList, Trap> {
    let sort = Sort { normalizer: Normalizer::new(keys), leading: 0, memory, pool, cancel };
    // SAFETY: promised by the caller.
    let (sorted, _) = unsafe { sort.all(rows.rows(), limit.unwrap_or(usize::MAX))? };
    // SAFETY: the addresses are those of this list.
    unsafe { moved(sorted, rows, memory, pool, cancel) }
}

/// As [`sort_rows`], and where rows begin that differ from the ones before in the first `leading` keys, the first row among them.
///
/// # Errors
/// As for [`sort_rows`].
///
/// # Safety
/// As for [`sort_rows`].
pub unsafe fn sort_rows_by_parts(
    rows: RowList,
    keys: &[SortKey],
    leading: usize,
    memory: &Arc<QueryMemory>,
    pool: &WorkerPool,
    cancel: &CancelToken,
) -> Result<(RowList, Vec<usize>), Trap> {
    // SAFETY: promised by the caller; the addresses are those of this list.
    unsafe {
        let (sorted, starts) = sorted_rows(&rows, keys, leading, memory, pool, cancel)?;
        Ok((moved(sorted, rows, memory, pool, cancel)?, starts))
    }
}

/// Rows in order: their addresses, while the rows stay where they are.
pub struct SortedRows {
    rows: PoolArray<*mut u8>,
    len: usize,
}

impl SortedRows {
    /// The addresses.
    pub fn as_slice(&self) -> &[*mut u8] {
        // SAFETY: the sort wrote them all, and nobody writes to them again.
        unsafe { self.rows.slice(0..self.len) }
    }
}

/// As [`sort_rows_by_parts`], the list and the rows being left as they are.
///
/// # Errors
/// As for [`sort_rows`].
///
/// # Safety
/// As for [`sort_rows`].
pub unsafe fn sorted_rows(
    rows: &RowList,
    keys: &[SortKey],
    leading: usize,
    memory: &Arc<QueryMemory>,
    pool: &WorkerPool,
    cancel: &CancelToken,
) -> Result<(SortedRows, Vec<usize>), Trap> {
    let sort = Sort { normalizer: Normalizer::new(keys), leading, memory, pool, cancel };
    // SAFETY: promised by the caller.
    unsafe { sort.all(rows.rows(), usize::MAX) }
}

/// A list of sorted rows; where they are many, of copies that stand beside each other.
///
/// # Safety
/// The addresses are those of rows of the list.
unsafe fn moved(
    sorted: SortedRows,
    rows: RowList,
    memory: &Arc<QueryMemory>,
    pool: &WorkerPool,
    cancel: &CancelToken,
) -> Result<RowList, Trap> {
    let row_size = rows.row_size();
    if sorted.len * row_size < MOVED_BYTES {
        let SortedRows { rows: addresses, len } = sorted;
        // SAFETY: the sort wrote all addresses.
        return Ok(unsafe { RowList::of_addresses(addresses, len, rows.into_buffers(), row_size) });
    }
    // SAFETY: the rows stand in the list's buffers, which live until they were copied.
    let moved = unsafe { in_order(&Rows(sorted.as_slice()), row_size, memory, pool, cancel)? };
    drop(rows);
    RowList::gathered(moved, memory, pool)
}

/// Copies of rows, one after the other.
///
/// # Safety
/// The rows have `row_size` bytes, a multiple of 8, and live.
unsafe fn in_order(
    rows: &Rows<'_>,
    row_size: usize,
    memory: &Arc<QueryMemory>,
    pool: &WorkerPool,
    cancel: &CancelToken,
) -> Result<Vec<RowBuffer>, Trap> {
    pool.map(rows.0.len().div_ceil(CHUNK_ROWS), |chunk, _| {
        cancel.check()?;
        let rows = rows.chunk(chunk);
        let mut buffer = RowBuffer::with_room(row_size, rows.len(), memory)?;
        for (i, &row) in rows.iter().enumerate() {
            if let Some(&next) = rows.get(i + AHEAD) {
                prefetch_line(next);
                prefetch_line(next.wrapping_add(row_size - 1));
            }
            let target = buffer.append()?;
            for word in 0..row_size / 8 {
                // SAFETY: promised by the caller; the target is a fresh row of another buffer.
                unsafe { *target.cast::<u64>().add(word) = *row.cast::<u64>().add(word) };
            }
        }
        Ok(buffer)
    })
}

/// Sorted rows of fewer bytes stay where they are: they likely fit a core's cache.
const MOVED_BYTES: usize = 256 << 10;

/// Rows whose memory is asked for ahead of their copy.
const AHEAD: usize = 16;

struct Sort<'a> {
    normalizer: Normalizer<'a>,
    /// So many of the keys say where rows begin that are told apart.
    leading: usize,
    memory: &'a Arc<QueryMemory>,
    pool: &'a WorkerPool,
    cancel: &'a CancelToken,
}

/// Rows' addresses, shared with tasks.
struct Rows<'a>(&'a [*mut u8]);

// SAFETY: the rows are only read while they are sorted.
unsafe impl Sync for Rows<'_> {}

impl Rows<'_> {
    fn chunk(&self, index: usize) -> &[*mut u8] {
        let begin = index * CHUNK_ROWS;
        &self.0[begin..(begin + CHUNK_ROWS).min(self.0.len())]
    }
}

/// Rows of one bucket that follow each other.
struct Bucket<K> {
    /// Where rows begin that differ from the ones before in the leading keys, but for the first row.
    starts: Vec<usize>,
    first: Item<K>,
    last: Item<K>,
}

impl<'a> Sort<'a> {
    /// The rows' addresses in order, the first `wanted` of them, and where rows differ from the ones before in the leading keys.
    ///
    /// # Safety
    /// As for [`sort_rows`].
    unsafe fn all(mut self, rows: &[*mut u8], wanted: usize) -> Result<(SortedRows, Vec<usize>), Trap> {
        let rows = Rows(rows);
        let unknown = |(key, span): (&SortKey, &Option<Span>)| span.is_none() && integers::is_integer(key.field.kind);
        if self.normalizer.bits > 64 && self.normalizer.keys.iter().zip(&self.normalizer.spans).any(unknown) {
            // Few distinct bits make keys of one word, and keys that need no second look.
            // SAFETY: promised by the caller.
            let spans = unsafe { self.spans(&rows)? };
            self.normalizer = Normalizer::with_spans(self.normalizer.keys, spans);
        }
        let narrow = self.normalizer.bits <= 64;
        // SAFETY: promised by the caller.
        unsafe { if narrow { self.run::<u64>(&rows, wanted) } else { self.run::<u128>(&rows, wanted) } }
    }

    fn sort<K: KeyWord>(&self, items: &mut [Item<K>]) {
        if self.normalizer.complete {
            items.sort_by_key(|item| item.key);
            return;
        }
        items.sort_by(|a, b| {
            // SAFETY: items are made of rows that have the keys.
            a.key.cmp(&b.key).then_with(|| unsafe { compare_rows(self.normalizer.keys, a.row, b.row) })
        });
    }

    /// The integers that each key has in these rows; none for keys of other kinds and where all are NULL.
    ///
    /// # Safety
    /// As for [`sort_rows`].
    unsafe fn spans(&self, rows: &Rows<'_>) -> Result<Vec<Option<Span>>, Trap> {
        let keys = self.normalizer.keys;
        let of_chunks = self.pool.map(rows.0.len().div_ceil(CHUNK_ROWS), |chunk, _| {
            self.cancel.check()?;
            let mut spans = vec![None; keys.len()];
            for block in rows.chunk(chunk).chunks(integers::BLOCK_ROWS) {
                for (key, all) in keys.iter().zip(&mut spans) {
                    // SAFETY: promised by the caller.
                    *all = Span::hull(*all, unsafe { integers::span(key.field, block) });
                }
            }
            Ok(spans)
        })?;
        let mut all = vec![None; keys.len()];
        for spans in of_chunks {
            all.iter_mut().zip(spans).for_each(|(all, span)| *all = Span::hull(*all, span));
        }
        // A key of NULLs alone: any span will do.
        let known = |(span, key): (Option<Span>, &SortKey)| {
            span.or(integers::is_integer(key.field.kind).then_some(Span { min: 0, max: 0 }))
        };
        Ok(all.into_iter().zip(keys).map(known).collect())
    }

    /// # Safety
    /// As for [`sort_rows`].
    unsafe fn run<K: KeyWord>(&self, rows: &Rows<'_>, wanted: usize) -> Result<(SortedRows, Vec<usize>), Trap> {
        let total = rows.0.len();
        // SAFETY: promised by the caller.
        let splitters = Splitters::new(total, |i| K::from_bits(unsafe { self.normalizer.key(rows.0[i]) }));
        // SAFETY: promised by the caller.
        let (items, counts) = unsafe { self.items(rows, &splitters)? };
        let (items, spare, starts) = if splitters.buckets() == 1 {
            (items, None, vec![0, total])
        } else {
            // SAFETY: all items were written.
            let (distributed, starts) = unsafe { self.distribute(&items, &splitters, &counts)? };
            (distributed, Some(items), starts)
        };
        // Buckets that begin behind what is wanted are not looked at.
        let buckets = starts.iter().take_while(|&&start| start < wanted).count().min(starts.len() - 1);
        let len = starts[buckets];
        let sorted = PoolArray::<*mut u8>::new(len, self.memory)?;
        let same = self.same_leading::<K>();
        let made = self.pool.map(buckets, |bucket, _| {
            self.cancel.check()?;
            let (begin, end) = (starts[bucket], starts[bucket + 1]);
            // SAFETY: all items are written, and each bucket is one task's, here and in the memory where its items came from.
            let part = |array: &PoolArray<Item<K>>| unsafe {
                std::slice::from_raw_parts_mut(array.as_ptr().add(begin), end - begin)
            };
            let items = buckets::sort(part(&items), spare.as_ref().map(part), self.normalizer.complete, |items| {
                self.sort(items);
            });
            for (i, item) in items.iter().enumerate() {
                // SAFETY: the places of a bucket are one task's.
                unsafe { sorted.as_ptr().add(begin + i).write(item.row) };
            }
            let (Some(&first), Some(&last)) = (items.first(), items.last()) else { return Ok(None) };
            let starts = if self.leading == 0 {
                vec![]
            } else {
                (1..items.len()).filter(|&i| !same(&items[i - 1], &items[i])).map(|i| begin + i).collect()
            };
            Ok(Some((begin, Bucket { starts, first, last })))
        })?;
        let mut starts = vec![];
        let mut before: Option<Item<K>> = None;
        for (begin, bucket) in made.into_iter().flatten() {
            if before.is_none_or(|before| !same(&before, &bucket.first)) {
                starts.push(begin);
            }
            starts.extend(bucket.starts);
            before = Some(bucket.last);
        }
        Ok((SortedRows { rows: sorted, len: len.min(wanted) }, starts))
    }

    /// Whether two rows are equal in the leading keys.
    fn same_leading<K: KeyWord>(&self) -> impl Fn(&Item<K>, &Item<K>) -> bool + Sync {
        let leading = &self.normalizer.keys[..self.leading];
        let bits = self.normalizer.leading_bits(self.leading);
        move |a, b| match bits {
            Some(bits) => a.key.common(b.key) >= bits,
            // SAFETY: items are made of rows that have the keys.
            None => unsafe { compare_rows(leading, a.row, b.row) }.is_eq(),
        }
    }

    /// An item for each row, in order, and how many of each chunk go to each bucket.
    ///
    /// # Safety
    /// As for [`sort_rows`].
    unsafe fn items<K: KeyWord>(
        &self,
        rows: &Rows<'_>,
        splitters: &Splitters<K>,
    ) -> Result<(PoolArray<Item<K>>, Counts), Trap> {
        let total = rows.0.len();
        let items = PoolArray::<Item<K>>::new(total, self.memory)?;
        let spans = self.normalizer.integer_spans();
        let counts = self.pool.map(total.div_ceil(CHUNK_ROWS), |chunk, _| {
            self.cancel.check()?;
            let mut counts = vec![0; splitters.buckets()];
            let mut put = |i: usize, key: K, row| {
                counts[splitters.bucket(key)] += 1;
                // SAFETY: each chunk writes its own part of the array.
                unsafe { items.as_ptr().add(chunk * CHUNK_ROWS + i).write(Item { key, row }) };
            };
            let rows = rows.chunk(chunk);
            let Some(spans) = &spans else {
                // SAFETY: promised by the caller.
                let key = |row| K::from_bits(unsafe { self.normalizer.key(row) });
                rows.iter().enumerate().for_each(|(i, &row)| put(i, key(row), row));
                return Ok(counts);
            };
            let mut words = [0; integers::BLOCK_ROWS];
            for (b, block) in rows.chunks(integers::BLOCK_ROWS).enumerate() {
                let words = &mut words[..block.len()];
                // SAFETY: promised by the caller; the spans are of these rows.
                unsafe { integers::words(self.normalizer.keys, spans, block, words) };
                for (i, (&word, &row)) in words.iter().zip(block).enumerate() {
                    put(b * integers::BLOCK_ROWS + i, K::from_word(word), row);
                }
            }
            Ok(counts)
        })?;
        Ok((items, counts))
    }

    /// The items by bucket, in input order within each, and where each bucket begins.
    ///
    /// # Safety
    /// All items are written; `counts` are those of the chunks.
    unsafe fn distribute<K: KeyWord>(
        &self,
        items: &PoolArray<Item<K>>,
        splitters: &Splitters<K>,
        counts: &Counts,
    ) -> Result<(PoolArray<Item<K>>, Vec<usize>), Trap> {
        let (places, starts) = buckets::places(counts, splitters.buckets());
        let target = PoolArray::<Item<K>>::new(items.len(), self.memory)?;
        self.pool.run(counts.len(), |chunk, _| {
            self.cancel.check()?;
            let mut places = places[chunk].clone();
            let begin = chunk * CHUNK_ROWS;
            // SAFETY: promised by the caller.
            for item in unsafe { items.slice(begin..(begin + CHUNK_ROWS).min(items.len())) } {
                let place = &mut places[splitters.bucket(item.key)];
                // SAFETY: the places of all chunks and buckets are disjoint.
                unsafe { target.as_ptr().add(*place).write(*item) };
                *place += 1;
            }
            Ok(())
        })?;
        Ok((target, starts))
    }
}

/// The best rows of one range, by an order and a limit. Generated code appends to it as to a row buffer, but calls `top_k_grow`.
#[repr(C)]
pub struct TopK {
    // First, so that its fields have the same offsets.
    rows: RowBuffer,
    keys: Vec<SortKey>,
    limit: usize,
    /// The greatest normalized key among the best rows so far, once there are as many as the limit: greater ones are not wanted.
    worst: Option<u128>,
}

// SAFETY: owns its rows.
unsafe impl Send for TopK {}

/// A full buffer is cut down to the limit once it holds this many times the limit.
const TOP_K_SLACK: usize = 4;

impl TopK {
    /// An empty state that keeps `limit` rows.
    pub fn new(row_size: usize, keys: &[SortKey], limit: usize, memory: &Arc<QueryMemory>) -> Self {
        Self { rows: RowBuffer::new(row_size, memory), keys: keys.to_vec(), limit, worst: None }
    }

    /// The address that generated code gets.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        (&raw mut *self).cast()
    }

    /// Makes room for at least one more row, by dropping rows beyond the limit where there are many.
    ///
    /// # Errors
    /// [`MemoryLimitError`]; the rows stay.
    ///
    /// # Safety
    /// All rows have the keys' fields, texts alive.
    pub unsafe fn grow(&mut self) -> Result<*mut u8, MemoryLimitError> {
        let row = self.rows.cur != self.rows.end;
        if !row && self.rows.len() > self.limit.saturating_mul(TOP_K_SLACK) {
            // SAFETY: promised by the caller.
            unsafe { self.keep_best()? };
        }
        self.rows.grow()
    }

    /// # Safety
    /// As for [`TopK::grow`].
    unsafe fn keep_best(&mut self) -> Result<(), MemoryLimitError> {
        let normalizer = Normalizer::new(&self.keys);
        let mut items: Vec<(u128, usize, *mut u8)> = self
            .rows
            .rows()
            .enumerate()
            // SAFETY: promised by the caller.
            .map(|(position, row)| (unsafe { normalizer.key(row) }, position, row))
            .filter(|item| self.worst.is_none_or(|worst| item.0 <= worst))
            .collect();
        if self.limit > 0 && items.len() > self.limit {
            items.select_nth_unstable_by(self.limit - 1, |a, b| {
                let order = a.0.cmp(&b.0).then_with(|| {
                    if normalizer.complete {
                        return Ordering::Equal;
                    }
                    // SAFETY: promised by the caller.
                    unsafe { compare_rows(&self.keys, a.2, b.2) }
                });
                order.then(a.1.cmp(&b.1))
            });
        }
        items.truncate(self.limit);
        if items.len() == self.limit {
            self.worst = items.iter().map(|item| item.0).max();
        }
        items.sort_unstable_by_key(|item| item.1);
        let size = self.rows.row_size();
        let mut best = RowBuffer::new(size, self.rows.memory());
        for (_, _, row) in items {
            let target = best.push()?;
            // SAFETY: both rows have the buffer's row size and stand in different buffers.
            unsafe { target.copy_from_nonoverlapping(row, size) };
        }
        self.rows = best;
        Ok(())
    }

    /// The best rows, in input order.
    ///
    /// # Errors
    /// [`MemoryLimitError`].
    ///
    /// # Safety
    /// As for [`TopK::grow`].
    pub unsafe fn into_rows(mut self) -> Result<RowBuffer, MemoryLimitError> {
        if self.rows.len() > self.limit {
            // SAFETY: promised by the caller.
            unsafe { self.keep_best()? };
        }
        Ok(self.rows)
    }
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// `worker` as for [`crate::trap::raise`]; `state` points to a live [`TopK`] that only this task uses.
pub(crate) unsafe fn top_k_grow(worker: *mut u8, state: *mut u8) -> *mut u8 {
    // SAFETY: promised by the caller.
    unsafe {
        match (*state.cast::<TopK>()).grow() {
            Ok(row) => row,
            Err(error) => raise_null(worker, error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// text 0..16, f64 16..24, i64 24..32, position 32..40, valid of the text 40, of the f64 41.
    const ROW: usize = 48;

    #[derive(Clone, Debug)]
    struct Record {
        text: Option<&'static str>,
        float: Option<f64>,
        int: i64,
    }

    fn record() -> impl Strategy<Value = Record> {
        let texts = vec!["", "a", "a\0", "ab", "abcdefghijklm", "abcdefghijklmnopq", "abcdefghijklmnopr", "b"];
        let floats = vec![0.0, -0.0, 1.5, -1.5, f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        let ints = prop_oneof![-3i64..3, Just(i64::MIN), Just(i64::MAX)];
        let text = prop::option::weighted(0.8, prop::sample::select(texts));
        let float = prop::option::weighted(0.8, prop::sample::select(floats));
        (text, float, ints).prop_map(|(text, float, int)| Record { text, float, int })
    }

    fn fields() -> [Field; 3] {
        [
            Field::nullable(0, FieldKind::Text, 40),
            Field::nullable(16, FieldKind::F64, 41),
            Field::new(24, FieldKind::I64),
        ]
    }

    fn write(row: *mut u8, record: &Record, position: usize) {
        let text = record.text.unwrap_or_default();
        // SAFETY: the row has the layout above; the texts are static.
        unsafe {
            *row.cast::<TextView>() = TextView::from_raw_bytes(text.as_ptr(), text.len());
            *row.add(16).cast::<f64>() = record.float.unwrap_or(9.0);
            *row.add(24).cast::<i64>() = record.int;
            *row.add(32).cast::<u64>() = position as u64;
            *row.add(40) = record.text.is_some().into();
            *row.add(41) = record.float.is_some().into();
        }
    }

    #[test]
    fn close_integers_take_few_bits() {
        let key = |offset, kind| SortKey {
            field: Field::new(offset, kind),
            descending: false,
            nulls_first: false,
            bounds: None,
        };
        let keys = [key(0, FieldKind::I64), key(8, FieldKind::I32), key(16, FieldKind::I64)];
        assert_eq!((Normalizer::new(&keys).bits, Normalizer::new(&keys).complete), (128, false));
        let span = |min, max| Some(Span { min, max });
        let close = Normalizer::with_spans(&keys, vec![span(2000, 2019), span(-1, 0), span(7, 7)]);
        assert_eq!((close.bits, close.complete), (5 + 1 + 1, true));
        assert_eq!(Span { min: i64::MIN, max: i64::MAX }.bits(), 64);
    }

    fn positions(rows: &[*mut u8]) -> Vec<usize> {
        // SAFETY: the rows have the layout above.
        let position = |&row: &*mut u8| unsafe { *row.add(32).cast::<u64>() as usize };
        rows.iter().map(position).collect()
    }

    fn nulls<T>(a: Option<T>, b: Option<T>, nulls_first: bool, values: impl Fn(T, T) -> Ordering) -> Ordering {
        match (a, b) {
            (Some(a), Some(b)) => values(a, b),
            (None, None) => Ordering::Equal,
            (a, _) => {
                let order = if a.is_none() { Ordering::Less } else { Ordering::Greater };
                if nulls_first { order } else { order.reverse() }
            }
        }
    }

    fn naive(records: &[Record], keys: &[SortKey]) -> Vec<usize> {
        let compare = |&a: &usize, &b: &usize| {
            let (a, b) = (&records[a], &records[b]);
            for key in keys {
                let turn = |order: Ordering| {
                    if key.descending { order.reverse() } else { order }
                };
                let order = match key.field.offset {
                    0 => nulls(a.text, b.text, key.nulls_first, |a, b| turn(a.cmp(b))),
                    16 => nulls(a.float, b.float, key.nulls_first, |a, b| {
                        turn(a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan())))
                    }),
                    _ => turn(a.int.cmp(&b.int)),
                };
                if order.is_ne() {
                    return order;
                }
            }
            Ordering::Equal
        };
        let mut order: Vec<usize> = (0..records.len()).collect();
        order.sort_by(compare);
        order
    }

    fn sorted(records: &[Record], keys: &[SortKey], limit: Option<usize>, threads: usize) -> Vec<usize> {
        let memory = QueryMemory::unlimited();
        let mut buffers = Vec::new();
        for (i, part) in records.chunks(records.len().div_ceil(3).max(1)).enumerate() {
            let mut buffer = RowBuffer::with_first_rows(ROW, 4, &memory);
            for (j, record) in part.iter().enumerate() {
                let position = i * records.len().div_ceil(3).max(1) + j;
                write(buffer.push().expect("no limit"), record, position);
            }
            buffers.push(buffer);
        }
        let pool = WorkerPool::new(threads);
        let cancel = CancelToken::new();
        // SAFETY: the rows have the layout above.
        let rows = unsafe { sort_rows(RowList::new(buffers), keys, limit, &memory, &pool, &cancel) };
        positions(rows.expect("no limit").rows())
    }

    fn any_keys() -> impl Strategy<Value = Vec<SortKey>> {
        let key = (0..3usize, any::<bool>(), any::<bool>()).prop_map(|(i, descending, nulls_first)| SortKey {
            field: fields()[i],
            descending,
            nulls_first,
            bounds: None,
        });
        prop::collection::vec(key, 0..4)
    }

    proptest! {
        #[test]
        fn sorting_equals_a_naive_stable_sort(
            records in prop::collection::vec(record(), 0..60),
            keys in any_keys(),
            limit in prop::option::of(0usize..20),
        ) {
            let mut expected = naive(&records, &keys);
            expected.truncate(limit.unwrap_or(usize::MAX));
            prop_assert_eq!(sorted(&records, &keys, limit, 1), expected);
        }

        #[test]
        fn top_k_keeps_the_best(
            records in prop::collection::vec(record(), 1..40),
            keys in any_keys(),
            limit in 0usize..12,
        ) {
            let memory = QueryMemory::unlimited();
            let mut state = TopK::new(ROW, &keys, limit, &memory);
            // Many times the same records, so that the buffer fills and is cut down.
            let repeated: Vec<Record> = records.iter().cycle().take(3000).cloned().collect();
            for (position, record) in repeated.iter().enumerate() {
                // SAFETY: the rows have the layout above.
                let row = unsafe { state.grow() }.expect("no limit");
                write(row, record, position);
                state.rows.cur = row.wrapping_add(ROW);
            }
            prop_assert!(state.rows.len() < 1500);
            let cancel = CancelToken::new();
            // SAFETY: the rows have the layout above.
            let rows = unsafe {
                sort_rows(
                    RowList::new(vec![state.into_rows().expect("no limit")]),
                    &keys,
                    Some(limit),
                    &memory,
                    &WorkerPool::new(1),
                    &cancel,
                )
            };
            let mut expected = naive(&repeated, &keys);
            expected.truncate(limit);
            prop_assert_eq!(positions(rows.expect("no limit").rows()), expected);
        }
    }

    #[test]
    fn large_sorts_are_the_same_with_any_number_of_threads() {
        let records: Vec<Record> = (0..70_000i64)
            .map(|i| Record {
                text: (i % 11 != 0).then_some(["x", "abcdefghijklmnopq", "abcdefghijklmnopr"][(i % 3) as usize]),
                float: Some(((i * 7919) % 1009) as f64),
                int: (i * 104_729) % 50,
            })
            .collect();
        let key = |i: usize, descending| SortKey { field: fields()[i], descending, nulls_first: false, bounds: None };
        for keys in [vec![key(2, true)], vec![key(0, false), key(1, true)], vec![key(1, false), key(2, false)]] {
            let expected = naive(&records, &keys);
            assert_eq!(sorted(&records, &keys, None, 1), expected);
            assert_eq!(sorted(&records, &keys, None, 3), expected);
            assert_eq!(sorted(&records, &keys, Some(20_000), 3), expected[..20_000]);
        }
    }

    #[test]
    fn parts_begin_where_leading_keys_change() {
        let memory = QueryMemory::unlimited();
        let cancel = CancelToken::new();
        let text = |i: i64| ["x", "abcdefghijklmnopq", "abcdefghijklmnopr"][(i % 3) as usize];
        let key = |i: usize, bounds| SortKey { field: fields()[i], descending: i == 2, nulls_first: false, bounds };
        // Integers alone, in known bounds and not; then what takes 128 bits, and texts that are cut off.
        let close = Some((0, 1000));
        let orders: [&[SortKey]; 5] = [
            &[key(2, close)],
            &[key(2, None), key(1, None)],
            &[key(2, close), key(1, None), key(0, None)],
            &[key(0, None), key(2, close)],
            &[],
        ];
        for rows in [0, 1, 500, 40_000i64] {
            let record = |i: i64| Record {
                text: (i % 11 != 0).then(|| text(i)),
                float: (i % 7 != 0).then_some(((i * 7919) % 13) as f64),
                int: (i * 104_729) % 1001,
            };
            let records: Vec<Record> = (0..rows).map(record).collect();
            let list = || {
                let mut buffer = RowBuffer::new(ROW, &memory);
                for (i, record) in records.iter().enumerate() {
                    write(buffer.push().expect("no limit"), record, i);
                }
                RowList::new(vec![buffer])
            };
            for keys in orders {
                let expected = naive(&records, keys);
                for leading in 0..=keys.len() {
                    let pool = WorkerPool::new(1 + leading);
                    let same = |a: usize, b: usize| {
                        let [a, b] = [a, b].map(|i| records[i].clone());
                        // A stable sort of the two, either way round, leaves them.
                        naive(&[a.clone(), b.clone()], &keys[..leading]) == naive(&[b, a], &keys[..leading])
                    };
                    let begins = |i: &usize| *i == 0 || !same(expected[i - 1], expected[*i]);
                    let expected_starts: Vec<usize> = (0..records.len()).filter(begins).collect();
                    let rows = list();
                    // SAFETY: the rows have the layout above.
                    unsafe {
                        let (sorted, starts) =
                            sorted_rows(&rows, keys, leading, &memory, &pool, &cancel).expect("no limit");
                        assert_eq!((positions(sorted.as_slice()), &starts), (expected.clone(), &expected_starts));
                        let (moved, starts) =
                            sort_rows_by_parts(rows, keys, leading, &memory, &pool, &cancel).expect("no limit");
                        assert_eq!((positions(moved.rows()), &starts), (expected.clone(), &expected_starts));
                    }
                }
            }
        }
    }

    #[test]
    fn a_sort_beyond_the_limit_is_an_error() {
        let pool = crate::pool::MemoryPool::new(1 << 20);
        let memory = QueryMemory::new(&pool, usize::MAX);
        let mut buffer = RowBuffer::new(ROW, &memory);
        for i in 0..15_000 {
            let record = Record { text: None, float: None, int: i };
            write(buffer.push().expect("fits"), &record, i as usize);
        }
        let key = SortKey { field: fields()[2], descending: false, nulls_first: false, bounds: None };
        // SAFETY: the rows have the layout above.
        let sorted = unsafe {
            sort_rows(RowList::new(vec![buffer]), &[key], None, &memory, &WorkerPool::new(1), &CancelToken::new())
        };
        assert_eq!(sorted.err().map(|t| t.code), Some(crate::trap::TrapCode::MemoryLimit));
        assert_eq!(memory.used(), 0);
    }
}
