//! Columns in memory: encoded, immutable, with statistics; and the text view.
//!
//! What holds:
//! - A column is one array of fixed-width elements, aligned to 64 bytes (to 2 MB where it is that large), in one encoding for all rows:
//!   - plain: the element is the value, as wide as the kind's register ([`ColumnKind`]; Bool is I8, decimals of up to 18 digits I64, others I128);
//!   - narrowed (integers, dates, timestamps, decimals): `value = base + element`, the element a signed integer narrower than the register;
//!   - dictionary (text): the element is an unsigned code; values are distinct and sorted by their bytes, so codes compare as texts do.
//! - NULL: `validity` has one byte a row, 1 for a value and 0 for NULL, and exists only where there is a NULL. The element of
//!   a NULL is 0 (the empty text); a dictionary is never empty, so that code 0 exists.
//! - Statistics are exact but for the number of distinct values, which is exact where [`ColumnStats::distinct_exact`] says so. There is one zone for
//!   each [`MORSEL_ROWS`] rows; zones of texts have no bounds.
//! - The bytes behind every text view of a column live as long as the column (or its dictionary).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cmp::Ordering;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::buffer::{Field, FieldKind, compare_f64};
use crate::kernels::hash;
use crate::pool::LARGE_BLOCK;
use crate::scheduler::MORSEL_ROWS;

/// A text as two words: bytes 0..4 the length; up to 12 bytes of text follow inline, padded with zeros; longer texts have their
/// first 4 bytes there and in bytes 8..16 the address of all of them.
///
/// Invariant: the bytes behind the address live, unchanged, as long as the view is used. Whoever makes a view from an address
/// promises it; whoever copies one out of a column, an arena or a row keeps that alive.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct TextView {
    lo: u64,
    hi: u64,
}

// SAFETY: the bytes behind a view are immutable while it is used.
unsafe impl Send for TextView {}
// SAFETY: as above.
unsafe impl Sync for TextView {}

impl TextView {
    /// The longest text that needs no address.
    pub const INLINE: usize = 12;
    /// The empty text.
    pub const EMPTY: TextView = TextView { lo: 0, hi: 0 };

    /// A view of a text of at most 12 bytes.
    pub fn inline(text: &[u8]) -> Option<Self> {
        if text.len() > Self::INLINE {
            return None;
        }
        let mut bytes = [0u8; 16];
        bytes[0] = text.len() as u8;
        bytes[4..4 + text.len()].copy_from_slice(text);
        let value = u128::from_le_bytes(bytes);
        Some(Self { lo: value as u64, hi: (value >> 64) as u64 })
    }

    /// A view of `len` bytes at `start`. Texts beyond 4 GB are cut to the length's 32 bits.
    ///
    /// # Safety
    /// The bytes are readable and fulfil the invariant of [`TextView`]; they are UTF-8 where the view is used as such.
    pub unsafe fn from_raw_bytes(start: *const u8, len: usize) -> Self {
        let len = len.min(u32::MAX as usize);
        // SAFETY: promised by the caller.
        let bytes = unsafe { std::slice::from_raw_parts(start, len) };
        if let Some(view) = Self::inline(bytes) {
            return view;
        }
        let mut prefix = [0; 4];
        prefix.copy_from_slice(&bytes[..4]);
        Self { lo: len as u64 | u64::from(u32::from_le_bytes(prefix)) << 32, hi: start.expose_provenance() as u64 }
    }

    /// A view from its two words.
    ///
    /// # Safety
    /// The words come from a view whose bytes still live.
    pub unsafe fn from_words(lo: u64, hi: u64) -> Self {
        Self { lo, hi }
    }

    /// The two words: low, high.
    #[inline]
    pub fn to_words(self) -> (u64, u64) {
        (self.lo, self.hi)
    }

    /// The length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.lo as u32 as usize
    }

    /// Whether it is the empty text.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes.
    ///
    /// # Safety
    /// The lifetime `'a` ends while the bytes behind the view still live; for inline texts, while the view stays in place.
    #[inline]
    pub unsafe fn as_bytes<'a>(&self) -> &'a [u8] {
        let len = self.len();
        let start = if len <= Self::INLINE {
            (&raw const *self).cast::<u8>().wrapping_add(4)
        } else {
            std::ptr::with_exposed_provenance(self.hi as usize)
        };
        // SAFETY: inline texts stand in the view itself; others where the maker promised.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// The text; what is not UTF-8 reads as empty.
    ///
    /// # Safety
    /// As for [`TextView::as_bytes`].
    pub unsafe fn as_str<'a>(&self) -> &'a str {
        // SAFETY: promised by the caller.
        std::str::from_utf8(unsafe { self.as_bytes() }).unwrap_or_default()
    }

    /// The first 4 bytes as a number that orders as they do.
    #[inline]
    fn prefix(self) -> u32 {
        ((self.lo >> 32) as u32).swap_bytes()
    }
}

impl PartialEq for TextView {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        if self.lo != other.lo {
            return false;
        }
        if self.hi == other.hi {
            return true;
        }
        // SAFETY: the invariant of `TextView`; the slices end with this call.
        self.len() > Self::INLINE && unsafe { self.as_bytes() == other.as_bytes() }
    }
}

impl Eq for TextView {}

impl Ord for TextView {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        // Texts shorter than 4 bytes are padded with zeros, which order before or equal to any byte; equal prefixes decide nothing.
        match self.prefix().cmp(&other.prefix()) {
            // SAFETY: the invariant of `TextView`; the slices end with this call.
            Ordering::Equal => unsafe { self.as_bytes().cmp(other.as_bytes()) },
            order => order,
        }
    }
}

impl PartialOrd for TextView {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for TextView {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(hash::text_word(self));
    }
}

impl fmt::Debug for TextView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: the invariant of `TextView`.
        write!(f, "{:?}", unsafe { self.as_str() })
    }
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// Both pairs of words are views whose bytes live.
pub(crate) unsafe fn text_equal(a_lo: i64, a_hi: i64, b_lo: i64, b_hi: i64) -> i8 {
    // SAFETY: promised by the caller.
    let (a, b) = unsafe { views(a_lo, a_hi, b_lo, b_hi) };
    i8::from(a == b)
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// As for [`text_equal`].
pub(crate) unsafe fn text_compare(a_lo: i64, a_hi: i64, b_lo: i64, b_hi: i64) -> i32 {
    // SAFETY: promised by the caller.
    let (a, b) = unsafe { views(a_lo, a_hi, b_lo, b_hi) };
    a.cmp(&b) as i32
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// As for [`text_equal`].
pub(crate) unsafe fn text_hash(hash: i64, lo: i64, hi: i64) -> i64 {
    // SAFETY: promised by the caller.
    let view = unsafe { TextView::from_words(lo as u64, hi as u64) };
    hash::combine_text(hash as u64, &view) as i64
}

unsafe fn views(a_lo: i64, a_hi: i64, b_lo: i64, b_hi: i64) -> (TextView, TextView) {
    // SAFETY: promised by the callers.
    unsafe { (TextView::from_words(a_lo as u64, a_hi as u64), TextView::from_words(b_lo as u64, b_hi as u64)) }
}

/// What a column's values mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnKind {
    /// Booleans.
    Bool,
    /// 32-bit integers.
    I32,
    /// 64-bit integers.
    I64,
    /// 32-bit floats.
    F32,
    /// 64-bit floats.
    F64,
    /// Integers scaled by 10^-scale.
    Decimal {
        /// Digits in all, at most 38.
        precision: u8,
        /// Digits behind the point.
        scale: u8,
    },
    /// Days since 1970-01-01.
    Date,
    /// Microseconds since 1970-01-01T00:00:00.
    Timestamp,
    /// UTF-8 texts.
    Text,
}

impl ColumnKind {
    /// What a plain element is.
    pub fn plain(self) -> PhysicalType {
        match self {
            ColumnKind::Bool => PhysicalType::I8,
            ColumnKind::I32 | ColumnKind::Date => PhysicalType::I32,
            ColumnKind::I64 | ColumnKind::Timestamp => PhysicalType::I64,
            ColumnKind::F32 => PhysicalType::F32,
            ColumnKind::F64 => PhysicalType::F64,
            ColumnKind::Decimal { precision, .. } if precision <= 18 => PhysicalType::I64,
            ColumnKind::Decimal { .. } => PhysicalType::I128,
            ColumnKind::Text => PhysicalType::Text,
        }
    }
}

/// What an element of a column's array is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PhysicalType {
    /// Signed, 1 byte.
    I8,
    /// Signed, 2 bytes.
    I16,
    /// Signed, 4 bytes.
    I32,
    /// Signed, 8 bytes.
    I64,
    /// Signed, 16 bytes.
    I128,
    /// Float, 4 bytes.
    F32,
    /// Float, 8 bytes.
    F64,
    /// A [`TextView`].
    Text,
    /// A dictionary code of 1 byte.
    Code8,
    /// A dictionary code of 2 bytes.
    Code16,
    /// A dictionary code of 4 bytes.
    Code32,
}

impl PhysicalType {
    /// Width in bytes.
    pub fn bytes(self) -> usize {
        match self {
            PhysicalType::I8 | PhysicalType::Code8 => 1,
            PhysicalType::I16 | PhysicalType::Code16 => 2,
            PhysicalType::I32 | PhysicalType::F32 | PhysicalType::Code32 => 4,
            PhysicalType::I64 | PhysicalType::F64 => 8,
            PhysicalType::I128 | PhysicalType::Text => 16,
        }
    }
}

/// How elements become values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// The element is the value.
    Plain,
    /// `value = base + element`; the element is narrower than the register.
    Narrowed {
        /// Added to each element.
        base: i64,
    },
    /// The element is an index into [`Column::dictionary`].
    Dictionary,
}

/// A value in statistics.
#[derive(Clone, Debug, PartialEq)]
pub enum Bound {
    /// Booleans, integers, dates, timestamps, scaled decimals.
    Int(i128),
    /// Floats; NaN is the greatest.
    Float(f64),
    /// Texts.
    Text(Arc<str>),
}

/// What is known about a whole column.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnStats {
    /// Rows that are NULL.
    pub nulls: usize,
    /// The least value, `None` where all are NULL.
    pub min: Option<Bound>,
    /// The greatest value.
    pub max: Option<Bound>,
    /// The number of distinct values that are not NULL.
    pub distinct: u64,
    /// Whether `distinct` is exact; otherwise it is within a few percent as a rule.
    pub distinct_exact: bool,
}

/// What is known about [`MORSEL_ROWS`] rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    /// Rows that are NULL.
    pub nulls: usize,
    /// The least value, `None` where all are NULL, and for texts.
    pub min: Option<Bound>,
    /// The greatest value.
    pub max: Option<Bound>,
}

/// An array of bytes of fixed length and generous alignment, zero at first.
struct AlignedBytes {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the array owns its memory; writing needs `&mut`.
unsafe impl Send for AlignedBytes {}
// SAFETY: as above.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    fn zeroed(bytes: usize) -> Self {
        let align = if bytes >= LARGE_BLOCK { LARGE_BLOCK } else { 64 };
        let layout = match Layout::from_size_align(bytes.max(64), align) {
            Ok(layout) => layout,
            Err(_) => panic!("a column of {bytes} bytes"),
        };
        // SAFETY: the layout has at least 64 bytes.
        match NonNull::new(unsafe { alloc_zeroed(layout) }) {
            Some(start) => Self { start, layout },
            None => handle_alloc_error(layout),
        }
    }

    /// `T` must be a plain number or a [`TextView`]: any bytes are a value, zeros among them.
    fn from_iter<T: Element>(len: usize, values: impl Iterator<Item = T>) -> Self {
        let mut array = Self::zeroed(len * size_of::<T>());
        for (slot, value) in array.slice_mut::<T>(len).iter_mut().zip(values) {
            *slot = value;
        }
        array
    }

    fn slice<T: Element>(&self, len: usize) -> &[T] {
        assert!(len * size_of::<T>() <= self.layout.size());
        // SAFETY: aligned to at least 64 bytes, long enough, initialized, and any bytes are an element.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), len) }
    }

    fn slice_mut<T: Element>(&mut self, len: usize) -> &mut [T] {
        assert!(len * size_of::<T>() <= self.layout.size());
        // SAFETY: as in `slice`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), len) }
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Elements of columns.
///
/// # Safety
/// Any bytes are a value.
unsafe trait Element: Copy {}
// SAFETY: numbers.
unsafe impl Element for u8 {}
// SAFETY: numbers.
unsafe impl Element for i8 {}
// SAFETY: numbers.
unsafe impl Element for u16 {}
// SAFETY: numbers.
unsafe impl Element for i16 {}
// SAFETY: numbers.
unsafe impl Element for u32 {}
// SAFETY: numbers.
unsafe impl Element for i32 {}
// SAFETY: numbers.
unsafe impl Element for i64 {}
// SAFETY: numbers.
unsafe impl Element for u64 {}
// SAFETY: numbers.
unsafe impl Element for i128 {}
// SAFETY: numbers.
unsafe impl Element for f32 {}
// SAFETY: numbers.
unsafe impl Element for f64 {}
// SAFETY: two numbers; the invariant on what they point to is kept by those who write them. The columns here write valid views only.
unsafe impl Element for TextView {}

/// Bytes of texts at stable addresses.
#[derive(Default)]
struct TextHeap {
    chunks: Vec<Vec<u8>>,
}

impl TextHeap {
    const FIRST_CHUNK: usize = 4 << 10;
    const LARGEST_CHUNK: usize = 4 << 20;

    fn store(&mut self, text: &[u8]) -> TextView {
        if let Some(view) = TextView::inline(text) {
            return view;
        }
        let fits = |chunk: &Vec<u8>| chunk.capacity() - chunk.len() >= text.len();
        if !self.chunks.last().is_some_and(fits) {
            let next =
                self.chunks.last().map_or(Self::FIRST_CHUNK, |chunk| (chunk.capacity() * 2).min(Self::LARGEST_CHUNK));
            self.chunks.push(Vec::with_capacity(next.max(text.len())));
        }
        let last = self.chunks.len() - 1;
        let chunk = &mut self.chunks[last];
        let start = chunk.len();
        // Within the capacity: the bytes of earlier texts do not move.
        chunk.extend_from_slice(text);
        // SAFETY: the bytes live and stay as long as the heap, which the column keeps.
        unsafe { TextView::from_raw_bytes(chunk.as_ptr().add(start), text.len()) }
    }
}

/// The values of a dictionary column: distinct and sorted by their bytes.
pub struct Dictionary {
    views: AlignedBytes,
    words: AlignedBytes,
    len: usize,
    heap: Arc<TextHeap>,
}

impl Dictionary {
    fn new(views: &[TextView], heap: Arc<TextHeap>) -> Self {
        Self {
            views: AlignedBytes::from_iter(views.len(), views.iter().copied()),
            words: AlignedBytes::from_iter(views.len(), views.iter().map(hash::text_word)),
            len: views.len(),
            heap,
        }
    }

    /// The number of values, at least 1.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no values: never.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values' views, by code.
    pub fn views(&self) -> &[TextView] {
        self.views.slice(self.len)
    }

    /// The values' hash words ([`hash::text_word`]), by code.
    pub fn hash_words(&self) -> &[u64] {
        self.words.slice(self.len)
    }

    /// The value of a code.
    pub fn get(&self, code: usize) -> &str {
        // SAFETY: the views stand in this dictionary, and its heap lives as long as it does.
        unsafe { self.views()[code].as_str() }
    }

    /// The code of a text: `Ok` where it is a value, otherwise `Err` with the code of the first greater value.
    ///
    /// # Errors
    /// The text is not a value.
    pub fn find(&self, text: &str) -> Result<usize, usize> {
        // SAFETY: the views stand in this dictionary, and its heap lives as long as it does.
        self.views().binary_search_by(|view| unsafe { view.as_bytes() }.cmp(text.as_bytes()))
    }
}

/// An immutable column.
pub struct Column {
    kind: ColumnKind,
    rows: usize,
    physical: PhysicalType,
    encoding: Encoding,
    data: AlignedBytes,
    validity: Option<AlignedBytes>,
    dictionary: Option<Arc<Dictionary>>,
    // Keeps the bytes of plain texts.
    heap: Option<Arc<TextHeap>>,
    stats: ColumnStats,
    zones: Vec<Zone>,
}

impl fmt::Debug for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Column")
            .field("kind", &self.kind)
            .field("rows", &self.rows)
            .field("physical", &self.physical)
            .field("encoding", &self.encoding)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

/// Which rows have a value: `None` for all, otherwise one byte a row, 0 for NULL.
pub type Validity = Option<Vec<u8>>;

impl Column {
    /// Booleans.
    pub fn from_bool(values: &[bool], validity: Validity) -> Self {
        Self::integers(ColumnKind::Bool, values, validity)
    }

    /// Integers of kind I32 or Date.
    pub fn from_i32(kind: ColumnKind, values: &[i32], validity: Validity) -> Self {
        assert_eq!(kind.plain(), PhysicalType::I32, "the kind's register");
        Self::integers(kind, values, validity)
    }

    /// Integers of kind I64, Timestamp or Decimal (scaled, any precision).
    pub fn from_i64(kind: ColumnKind, values: &[i64], validity: Validity) -> Self {
        assert!(matches!(kind.plain(), PhysicalType::I64 | PhysicalType::I128), "the kind's register");
        Self::integers(kind, values, validity)
    }

    /// Scaled decimals of any precision. With a precision of up to 18 digits all values must fit into 64 bits.
    pub fn from_i128(kind: ColumnKind, values: &[i128], validity: Validity) -> Self {
        assert!(matches!(kind, ColumnKind::Decimal { .. }), "a decimal kind");
        let validity = Nulls::new(validity, values.len());
        let narrow: Option<Vec<i64>> = values
            .iter()
            .enumerate()
            .map(|(i, &v)| if validity.is_valid(i) { i64::try_from(v).ok() } else { Some(0) })
            .collect();
        if let Some(values) = narrow {
            return Self::integers(kind, &values, validity.bytes);
        }
        assert_eq!(kind.plain(), PhysicalType::I128, "values beyond 64 bits");
        let zones = zones_of(values, &validity, |&v| v, Ord::cmp, Bound::Int);
        let mut distinct = DistinctSketch::new();
        for (_, &value) in validity.values(values) {
            distinct.add(hash::i128_word(value));
        }
        let lanes = validity.lanes(values.iter().copied(), 0);
        let data = AlignedBytes::from_iter(values.len(), lanes);
        Self::assemble(kind, PhysicalType::I128, data, validity, zones, (distinct.estimate(), false))
    }

    /// 32-bit floats.
    pub fn from_f32(values: &[f32], validity: Validity) -> Self {
        let validity = Nulls::new(validity, values.len());
        let wide = |&v: &f32| f64::from(v);
        let (zones, distinct) = float_statistics(values, &validity, wide);
        let lanes = validity.lanes(values.iter().copied(), 0.0);
        let data = AlignedBytes::from_iter(values.len(), lanes);
        Self::assemble(ColumnKind::F32, PhysicalType::F32, data, validity, zones, (distinct, false))
    }

    /// 64-bit floats.
    pub fn from_f64(values: &[f64], validity: Validity) -> Self {
        let validity = Nulls::new(validity, values.len());
        let (zones, distinct) = float_statistics(values, &validity, |&v| v);
        let lanes = validity.lanes(values.iter().copied(), 0.0);
        let data = AlignedBytes::from_iter(values.len(), lanes);
        Self::assemble(ColumnKind::F64, PhysicalType::F64, data, validity, zones, (distinct, false))
    }

    /// Texts.
    pub fn from_text<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let mut builder = TextBuilder::new();
        for value in values {
            builder.push(value);
        }
        builder.finish()
    }

    /// A text column out of codes of a dictionary; the code of a NULL is not read. Where the column has few values for its rows
    /// it gets a dictionary of just these, over the same texts, else their views.
    ///
    /// # Panics
    /// A code that the dictionary does not have.
    pub fn from_codes(dictionary: &Arc<Dictionary>, codes: &[u32], validity: Validity) -> Self {
        let validity = Nulls::new(validity, codes.len());
        let mut used = vec![false; dictionary.len()];
        for (_, &code) in validity.values(codes) {
            used[code as usize] = true;
        }
        let distinct = used.iter().filter(|used| **used).count();
        let zones = zones_of_text(&validity);
        let views = dictionary.views();
        let first = used.iter().position(|used| *used);
        let last = used.iter().rposition(|used| *used);
        let mut column = if !few_distinct(distinct, codes.len()) {
            let elements = validity.lanes(codes.iter().map(|&code| views[code as usize]), TextView::EMPTY);
            let data = AlignedBytes::from_iter(codes.len(), elements);
            let stats = (distinct as u64, true);
            let mut column = Self::assemble(ColumnKind::Text, PhysicalType::Text, data, validity, zones, stats);
            column.heap = Some(Arc::clone(&dictionary.heap));
            column
        } else if distinct == dictionary.len() {
            let of_row = validity.lanes(codes.iter().copied(), 0);
            let (physical, data) = narrow_codes(distinct, codes.len(), of_row);
            Self::coded(physical, data, validity, zones, distinct, Arc::clone(dictionary))
        } else {
            // Codes stay in the order of their texts.
            let mut kept: Vec<TextView> = vec![];
            let mut new_codes = vec![0u32; dictionary.len()];
            for (code, _) in used.iter().enumerate().filter(|(_, used)| **used) {
                new_codes[code] = kept.len() as u32;
                kept.push(views[code]);
            }
            if kept.is_empty() {
                kept.push(TextView::EMPTY);
            }
            let of_row = validity.lanes(codes.iter().map(|&code| new_codes[code as usize]), 0);
            let (physical, data) = narrow_codes(kept.len(), codes.len(), of_row);
            let kept = Arc::new(Dictionary::new(&kept, Arc::clone(&dictionary.heap)));
            Self::coded(physical, data, validity, zones, distinct, kept)
        };
        column.stats.min = first.map(|code| text_bound(views[code]));
        column.stats.max = last.map(|code| text_bound(views[code]));
        column
    }

    /// A text column of codes. Its least and greatest text are not known here.
    fn coded(
        physical: PhysicalType,
        data: AlignedBytes,
        validity: Nulls,
        zones: Vec<Zone>,
        distinct: usize,
        dictionary: Arc<Dictionary>,
    ) -> Self {
        let stats = (distinct as u64, true);
        let mut column = Self::assemble(ColumnKind::Text, physical, data, validity, zones, stats);
        column.encoding = Encoding::Dictionary;
        column.dictionary = Some(dictionary);
        column
    }

    /// A field of rows, one value a row.
    ///
    /// # Safety
    /// All rows have the field, which holds what the kind's register does; texts are alive.
    pub unsafe fn from_rows(kind: ColumnKind, rows: &[*mut u8], field: Field) -> Self {
        /// # Safety
        /// As for `from_rows`, with `T` what the field holds.
        unsafe fn gather<T: Copy>(rows: &[*mut u8], field: Field) -> Vec<T> {
            let offset = field.offset as usize;
            // SAFETY: promised by the caller.
            rows.iter().map(|row| unsafe { *row.add(offset).cast::<T>() }).collect()
        }
        // SAFETY: promised by the caller.
        unsafe {
            let validity =
                field.valid.map(|_| rows.iter().map(|&row| u8::from(!field.is_null(row))).collect::<Vec<u8>>());
            match (kind, field.kind) {
                (ColumnKind::Bool, _) => {
                    let values: Vec<bool> = gather::<u8>(rows, field).into_iter().map(|v| v != 0).collect();
                    Self::from_bool(&values, validity)
                }
                (ColumnKind::I32 | ColumnKind::Date, _) => Self::from_i32(kind, &gather(rows, field), validity),
                (ColumnKind::Decimal { .. }, FieldKind::I128) => Self::from_i128(kind, &gather(rows, field), validity),
                (ColumnKind::I64 | ColumnKind::Timestamp | ColumnKind::Decimal { .. }, _) => {
                    Self::from_i64(kind, &gather(rows, field), validity)
                }
                (ColumnKind::F32, _) => Self::from_f32(&gather(rows, field), validity),
                (ColumnKind::F64, _) => Self::from_f64(&gather(rows, field), validity),
                (ColumnKind::Text, _) => {
                    let mut builder = TextBuilder::new();
                    for &row in rows {
                        let valid = !field.is_null(row);
                        let view = row.add(field.offset as usize).cast::<TextView>();
                        builder.push(valid.then(|| (*view).as_str()));
                    }
                    builder.finish()
                }
            }
        }
    }

    /// A field of rows as a result that is read once: elements as the register holds them, or codes of `dictionary`; without
    /// statistics.
    ///
    /// # Safety
    /// As for [`Column::from_rows`]; with a dictionary the field holds its codes, as I32.
    pub unsafe fn result_of_rows(
        kind: ColumnKind,
        rows: &[*mut u8],
        field: Field,
        dictionary: Option<&Arc<Dictionary>>,
    ) -> Self {
        /// # Safety
        /// All rows have the field, which holds a `T`.
        unsafe fn gather<T: Element>(rows: &[*mut u8], field: Field) -> AlignedBytes {
            let offset = field.offset as usize;
            // SAFETY: promised by the caller.
            AlignedBytes::from_iter(rows.len(), rows.iter().map(|row| unsafe { *row.add(offset).cast::<T>() }))
        }
        let mut heap = None;
        // SAFETY: promised by the caller.
        let (physical, data, validity) = unsafe {
            let (physical, data) = match field.kind {
                FieldKind::I8 => (PhysicalType::I8, gather::<i8>(rows, field)),
                FieldKind::I32 if dictionary.is_some() => (PhysicalType::Code32, gather::<u32>(rows, field)),
                FieldKind::I32 => (PhysicalType::I32, gather::<i32>(rows, field)),
                FieldKind::I64 => (PhysicalType::I64, gather::<i64>(rows, field)),
                FieldKind::I128 => (PhysicalType::I128, gather::<i128>(rows, field)),
                FieldKind::F32 => (PhysicalType::F32, gather::<f32>(rows, field)),
                FieldKind::F64 => (PhysicalType::F64, gather::<f64>(rows, field)),
                FieldKind::Text => {
                    let mut texts = TextHeap::default();
                    let offset = field.offset as usize;
                    let views = rows.iter().map(|&row| {
                        if field.is_null(row) {
                            return TextView::EMPTY;
                        }
                        texts.store((*row.add(offset).cast::<TextView>()).as_bytes())
                    });
                    let views = AlignedBytes::from_iter(rows.len(), views);
                    heap = Some(Arc::new(texts));
                    (PhysicalType::Text, views)
                }
            };
            let valid = |&row: &*mut u8| u8::from(!field.is_null(row));
            (physical, data, field.valid.map(|_| AlignedBytes::from_iter(rows.len(), rows.iter().map(valid))))
        };
        Self {
            kind,
            rows: rows.len(),
            physical,
            encoding: if dictionary.is_some() { Encoding::Dictionary } else { Encoding::Plain },
            data,
            validity,
            dictionary: dictionary.cloned(),
            heap,
            stats: ColumnStats { nulls: 0, min: None, max: None, distinct: 0, distinct_exact: false },
            zones: Vec::new(),
        }
    }

    fn integers<T: Integer>(kind: ColumnKind, values: &[T], validity: Validity) -> Self {
        let validity = Nulls::new(validity, values.len());
        let zones = zones_of(values, &validity, |v| v.wide(), Ord::cmp, |v| Bound::Int(v.into()));
        let (min, max) = integer_range(&zones);
        let distinct = distinct_integers(values, &validity, min, max);
        let register = kind.plain();
        let (physical, base) = narrowest(min, max, register);
        let elements = values.iter().map(|v| v.wide().wrapping_sub(base));
        let elements = validity.lanes(elements, 0);
        let len = values.len();
        let data = match physical {
            PhysicalType::I8 => AlignedBytes::from_iter(len, elements.map(|v| v as i8)),
            PhysicalType::I16 => AlignedBytes::from_iter(len, elements.map(|v| v as i16)),
            PhysicalType::I32 => AlignedBytes::from_iter(len, elements.map(|v| v as i32)),
            _ => AlignedBytes::from_iter(len, elements),
        };
        let mut column = Self::assemble(kind, physical, data, validity, zones, distinct);
        if physical != register {
            column.encoding = Encoding::Narrowed { base };
        }
        column
    }

    fn assemble(
        kind: ColumnKind,
        physical: PhysicalType,
        data: AlignedBytes,
        validity: Nulls,
        zones: Vec<Zone>,
        (distinct, distinct_exact): (u64, bool),
    ) -> Self {
        let rows = validity.rows;
        let nulls = zones.iter().map(|zone| zone.nulls).sum();
        let pick = |want: Ordering, get: fn(&Zone) -> &Option<Bound>| {
            zones
                .iter()
                .filter_map(|z| get(z).clone())
                .reduce(|a, b| if compare_bounds(&b, &a) == want { b } else { a })
        };
        let stats = ColumnStats {
            nulls,
            min: pick(Ordering::Less, |z| &z.min),
            max: pick(Ordering::Greater, |z| &z.max),
            distinct,
            distinct_exact,
        };
        let validity = validity.bytes.map(|bytes| AlignedBytes::from_iter(bytes.len(), bytes.into_iter()));
        Self {
            kind,
            rows,
            physical,
            encoding: Encoding::Plain,
            data,
            validity,
            dictionary: None,
            heap: None,
            stats,
            zones,
        }
    }

    /// What the values mean.
    pub fn kind(&self) -> ColumnKind {
        self.kind
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// What an element is.
    pub fn physical(&self) -> PhysicalType {
        self.physical
    }

    /// How elements become values.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The address of the first element.
    pub fn data_ptr(&self) -> *const u8 {
        self.data.start.as_ptr()
    }

    /// The validity bytes, one a row; `None` where no row is NULL.
    pub fn validity(&self) -> Option<&[u8]> {
        self.validity.as_ref().map(|bytes| bytes.slice(self.rows))
    }

    /// The values of a dictionary column.
    pub fn dictionary(&self) -> Option<&Arc<Dictionary>> {
        self.dictionary.as_ref()
    }

    /// What is known about the whole column.
    pub fn stats(&self) -> &ColumnStats {
        &self.stats
    }

    /// What is known about each [`MORSEL_ROWS`] rows.
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// Bytes in memory, texts included.
    pub fn bytes(&self) -> usize {
        let heap = |heap: &Arc<TextHeap>| heap.chunks.iter().map(Vec::capacity).sum();
        let dictionary = |d: &Arc<Dictionary>| d.views.layout.size() + d.words.layout.size() + heap(&d.heap);
        self.data.layout.size()
            + self.validity.as_ref().map_or(0, |v| v.layout.size())
            + self.heap.as_ref().map_or(0, heap)
            + self.dictionary.as_ref().map_or(0, dictionary)
    }

    /// Whether the row has a value.
    pub fn is_valid(&self, row: usize) -> bool {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        self.validity().is_none_or(|bytes| bytes[row] != 0)
    }

    fn element<T: Element>(&self, row: usize) -> T {
        self.data.slice::<T>(self.rows)[row]
    }

    /// The integer of a row (booleans, integers, dates, timestamps, scaled decimals); `None` for NULL.
    ///
    /// # Panics
    /// For floats and texts.
    pub fn get_i128(&self, row: usize) -> Option<i128> {
        if !self.is_valid(row) {
            return None;
        }
        let base = match self.encoding {
            Encoding::Narrowed { base } => i128::from(base),
            Encoding::Plain | Encoding::Dictionary => 0,
        };
        let element = match self.physical {
            PhysicalType::I8 => i128::from(self.element::<i8>(row)),
            PhysicalType::I16 => i128::from(self.element::<i16>(row)),
            PhysicalType::I32 => i128::from(self.element::<i32>(row)),
            PhysicalType::I64 => i128::from(self.element::<i64>(row)),
            PhysicalType::I128 => self.element::<i128>(row),
            _ => panic!("an integer of a column of {:?}", self.kind),
        };
        Some(base + element)
    }

    fn plain<T: Element>(&self, physical: PhysicalType) -> Option<&[T]> {
        let fits = self.encoding == Encoding::Plain && self.physical == physical;
        fits.then(|| self.data.slice(self.rows))
    }

    /// The values of all rows, where they stand as 32-bit integers; those of NULLs are any.
    pub fn plain_i32(&self) -> Option<&[i32]> {
        self.plain(PhysicalType::I32)
    }

    /// The values of all rows, where they stand as 64-bit integers; those of NULLs are any.
    pub fn plain_i64(&self) -> Option<&[i64]> {
        self.plain(PhysicalType::I64)
    }

    /// The values of all rows, where they stand as 32-bit floats; those of NULLs are any.
    pub fn plain_f32(&self) -> Option<&[f32]> {
        self.plain(PhysicalType::F32)
    }

    /// The values of all rows, where they stand as 64-bit floats; those of NULLs are any.
    pub fn plain_f64(&self) -> Option<&[f64]> {
        self.plain(PhysicalType::F64)
    }

    /// The integer of a row that fits into 64 bits; `None` for NULL.
    ///
    /// # Panics
    /// For floats, texts and decimals beyond 64 bits.
    pub fn get_i64(&self, row: usize) -> Option<i64> {
        let value = self.get_i128(row)?;
        match i64::try_from(value) {
            Ok(value) => Some(value),
            Err(_) => panic!("{value} in 64 bits"),
        }
    }

    /// The boolean of a row; `None` for NULL.
    ///
    /// # Panics
    /// For floats and texts.
    pub fn get_bool(&self, row: usize) -> Option<bool> {
        self.get_i128(row).map(|value| value != 0)
    }

    /// The float of a row; `None` for NULL.
    ///
    /// # Panics
    /// For anything but floats.
    pub fn get_f64(&self, row: usize) -> Option<f64> {
        if !self.is_valid(row) {
            return None;
        }
        match self.physical {
            PhysicalType::F32 => Some(f64::from(self.element::<f32>(row))),
            PhysicalType::F64 => Some(self.element::<f64>(row)),
            _ => panic!("a float of a column of {:?}", self.kind),
        }
    }

    /// The text of a row; `None` for NULL.
    ///
    /// # Panics
    /// For anything but texts.
    pub fn get_text(&self, row: usize) -> Option<&str> {
        if !self.is_valid(row) {
            return None;
        }
        // SAFETY: the view stands in this column or its dictionary, and so do the bytes behind it.
        Some(unsafe { self.view(row).as_str() })
    }

    /// The view of a row's text, alive as long as the column; the empty text for NULL.
    ///
    /// # Panics
    /// For anything but texts.
    pub fn get_view(&self, row: usize) -> TextView {
        if !self.is_valid(row) {
            return TextView::EMPTY;
        }
        *self.view(row)
    }

    fn view(&self, row: usize) -> &TextView {
        let code = match self.physical {
            PhysicalType::Text => return &self.data.slice::<TextView>(self.rows)[row],
            PhysicalType::Code8 => self.element::<u8>(row).into(),
            PhysicalType::Code16 => self.element::<u16>(row).into(),
            PhysicalType::Code32 => self.element::<u32>(row) as usize,
            _ => panic!("a text of a column of {:?}", self.kind),
        };
        match &self.dictionary {
            Some(dictionary) => &dictionary.views()[code],
            None => unreachable!("codes have a dictionary"),
        }
    }

    /// The same values without an encoding.
    pub fn to_plain(&self) -> Self {
        let plain = self.kind.plain();
        let rows = 0..self.rows;
        let ints = |row| self.get_i128(row).unwrap_or(0);
        let data = match plain {
            PhysicalType::I8 => AlignedBytes::from_iter(self.rows, rows.map(|r| ints(r) as i8)),
            PhysicalType::I32 => AlignedBytes::from_iter(self.rows, rows.map(|r| ints(r) as i32)),
            PhysicalType::I64 => AlignedBytes::from_iter(self.rows, rows.map(|r| ints(r) as i64)),
            PhysicalType::I128 => AlignedBytes::from_iter(self.rows, rows.map(ints)),
            PhysicalType::F32 => AlignedBytes::from_iter(self.rows, rows.map(|r| self.element::<f32>(r))),
            PhysicalType::F64 => AlignedBytes::from_iter(self.rows, rows.map(|r| self.element::<f64>(r))),
            _ => AlignedBytes::from_iter(self.rows, rows.map(|r| self.get_view(r))),
        };
        Self {
            kind: self.kind,
            rows: self.rows,
            physical: plain,
            encoding: Encoding::Plain,
            data,
            validity: self.validity().map(|v| AlignedBytes::from_iter(v.len(), v.iter().copied())),
            dictionary: None,
            // The views point into the heap of the dictionary, or of the column itself.
            heap: match &self.dictionary {
                Some(dictionary) => Some(Arc::clone(&dictionary.heap)),
                None => self.heap.clone(),
            },
            stats: self.stats.clone(),
            zones: self.zones.clone(),
        }
    }
}

/// Validity bytes, kept only where some row is NULL.
struct Nulls {
    bytes: Option<Vec<u8>>,
    rows: usize,
}

impl Nulls {
    fn new(validity: Validity, rows: usize) -> Self {
        let bytes = validity.map(|mut bytes| {
            assert_eq!(bytes.len(), rows, "one validity byte a row");
            bytes.iter_mut().for_each(|b| *b = u8::from(*b != 0));
            bytes
        });
        Self { bytes: bytes.filter(|bytes| bytes.contains(&0)), rows }
    }

    fn is_valid(&self, row: usize) -> bool {
        self.bytes.as_ref().is_none_or(|bytes| bytes[row] != 0)
    }

    /// The rows that are not NULL.
    fn values<'a, T>(&'a self, values: &'a [T]) -> impl Iterator<Item = (usize, &'a T)> {
        values.iter().enumerate().filter(|(i, _)| self.is_valid(*i))
    }

    /// The elements, with `harmless` in place of NULLs.
    fn lanes<'a, T: Copy + 'a>(
        &'a self,
        values: impl Iterator<Item = T> + 'a,
        harmless: T,
    ) -> impl Iterator<Item = T> + 'a {
        values.enumerate().map(move |(i, v)| if self.is_valid(i) { v } else { harmless })
    }
}

trait Integer: Copy {
    fn wide(self) -> i64;
}

impl Integer for bool {
    fn wide(self) -> i64 {
        self.into()
    }
}

impl Integer for i32 {
    fn wide(self) -> i64 {
        self.into()
    }
}

impl Integer for i64 {
    fn wide(self) -> i64 {
        self
    }
}

fn zones_of<T, V: Copy>(
    values: &[T],
    validity: &Nulls,
    get: impl Fn(&T) -> V,
    compare: impl Fn(&V, &V) -> Ordering,
    bound: impl Fn(V) -> Bound,
) -> Vec<Zone> {
    let zone = |(index, values): (usize, &[T])| {
        let first = index * MORSEL_ROWS;
        let mut nulls = 0;
        let mut range: Option<(V, V)> = None;
        for (i, value) in values.iter().enumerate() {
            if !validity.is_valid(first + i) {
                nulls += 1;
                continue;
            }
            let value = get(value);
            let (min, max) = range.unwrap_or((value, value));
            let less = compare(&value, &min).is_lt();
            let greater = compare(&value, &max).is_gt();
            range = Some((if less { value } else { min }, if greater { value } else { max }));
        }
        Zone { nulls, min: range.map(|(min, _)| bound(min)), max: range.map(|(_, max)| bound(max)) }
    };
    values.chunks(MORSEL_ROWS).enumerate().map(zone).collect()
}

fn compare_bounds(a: &Bound, b: &Bound) -> Ordering {
    match (a, b) {
        (Bound::Int(a), Bound::Int(b)) => a.cmp(b),
        (Bound::Float(a), Bound::Float(b)) => compare_f64(*a, *b),
        (Bound::Text(a), Bound::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        _ => unreachable!("bounds of one column are of one kind"),
    }
}

fn float_statistics<T>(values: &[T], validity: &Nulls, get: impl Fn(&T) -> f64 + Copy) -> (Vec<Zone>, u64) {
    let zones = zones_of(values, validity, get, |a, b| compare_f64(*a, *b), Bound::Float);
    let mut distinct = DistinctSketch::new();
    for (_, value) in validity.values(values) {
        distinct.add(hash::f64_word(get(value)));
    }
    (zones, distinct.estimate())
}

/// Least and greatest value, (0, 0) where all are NULL.
fn integer_range(zones: &[Zone]) -> (i64, i64) {
    let int = |bound: &Option<Bound>| match bound {
        Some(Bound::Int(value)) => Some(*value as i64),
        _ => None,
    };
    let min = zones.iter().filter_map(|zone| int(&zone.min)).min();
    let max = zones.iter().filter_map(|zone| int(&zone.max)).max();
    (min.unwrap_or(0), max.unwrap_or(0))
}

/// The narrowest element for values in `min..=max`, at most as wide as `register`, and the base; the base is 0 where the values fit without.
fn narrowest(min: i64, max: i64, register: PhysicalType) -> (PhysicalType, i64) {
    let candidates = [
        (PhysicalType::I8, i64::from(i8::MIN), i64::from(i8::MAX)),
        (PhysicalType::I16, i64::from(i16::MIN), i64::from(i16::MAX)),
        (PhysicalType::I32, i64::from(i32::MIN), i64::from(i32::MAX)),
    ];
    for (physical, least, greatest) in candidates {
        if physical.bytes() >= register.bytes() {
            break;
        }
        if min >= least && max <= greatest {
            return (physical, 0);
        }
        let base = min.checked_sub(least);
        if let Some(base) = base
            && i128::from(max) - i128::from(base) <= i128::from(greatest)
        {
            return (physical, base);
        }
    }
    let widest = if register == PhysicalType::I128 { PhysicalType::I64 } else { register };
    (widest, 0)
}

/// Distinct values, and whether the number is exact: a bitmap where the range is small, a sketch otherwise.
fn distinct_integers<T: Integer>(values: &[T], validity: &Nulls, min: i64, max: i64) -> (u64, bool) {
    let span = max.abs_diff(min);
    if span / 16 <= values.len() as u64 {
        let mut seen = vec![0u64; span as usize / 64 + 1];
        for (_, value) in validity.values(values) {
            let bit = value.wide().abs_diff(min) as usize;
            seen[bit / 64] |= 1 << (bit % 64);
        }
        let distinct = seen.iter().map(|word| u64::from(word.count_ones())).sum();
        return (distinct, true);
    }
    let mut sketch = DistinctSketch::new();
    for (_, value) in validity.values(values) {
        sketch.add(value.wide() as u64);
    }
    (sketch.estimate(), false)
}

/// An estimate of the number of distinct words: HyperLogLog (Flajolet et al. 2007) with 2^12 registers, standard error 1.6 %, and linear
/// counting for few words.
struct DistinctSketch {
    registers: Box<[u8; 1 << Self::BITS]>,
}

impl DistinctSketch {
    const BITS: u32 = 12;

    fn new() -> Self {
        Self { registers: Box::new([0; 1 << Self::BITS]) }
    }

    fn add(&mut self, word: u64) {
        // The finalizer of MurmurHash3 (Appleby): every bit of the word reaches every bit of the hash.
        let mut h = word;
        h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        h ^= h >> 33;
        let register = &mut self.registers[(h >> (64 - Self::BITS)) as usize];
        let rank = ((h << Self::BITS) | 1 << (Self::BITS - 1)).leading_zeros() + 1;
        *register = (*register).max(rank as u8);
    }

    fn estimate(&self) -> u64 {
        let m = self.registers.len() as f64;
        let sum: f64 = self.registers.iter().map(|&r| 0.5f64.powi(r.into())).sum();
        let raw = 0.7213 / (1.0 + 1.079 / m) * m * m / sum;
        let empty = self.registers.iter().filter(|&&r| r == 0).count();
        if raw <= 2.5 * m && empty > 0 {
            return (m * (m / empty as f64).ln()).round() as u64;
        }
        raw.round() as u64
    }
}

/// Builds a text column row by row and chooses its encoding: a dictionary while the distinct values are few, plain views otherwise.
pub struct TextBuilder {
    /// The rows' codes while a dictionary is tried, into `distinct`.
    codes: Vec<u32>,
    /// The rows' views once it was given up.
    views: Vec<TextView>,
    plain: bool,
    nulls: Vec<u8>,
    has_nulls: bool,
    heap: TextHeap,
    distinct: Vec<TextView>,
    /// Open addressing over `distinct`: index + 1, 0 for an empty slot.
    slots: Vec<u32>,
    hasher: RandomState,
    /// The last codes of short texts, by a quick hash: most rows repeat one of few texts.
    recent: Box<[(TextView, u32); RECENT]>,
}

const RECENT: usize = 256;

/// A dictionary has at most this many values,
const DICTIONARY_LIMIT: usize = 64 << 10;
/// and at most one for this many rows (but columns of few rows may have any).
const DICTIONARY_ROWS: usize = 4;
const DICTIONARY_ALWAYS: usize = 16;

impl Default for TextBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl TextBuilder {
    /// A builder of an empty column.
    pub fn new() -> Self {
        Self {
            codes: Vec::new(),
            views: Vec::new(),
            plain: false,
            nulls: Vec::new(),
            has_nulls: false,
            heap: TextHeap::default(),
            distinct: Vec::new(),
            slots: vec![0; 64],
            hasher: RandomState::new(),
            recent: Box::new([(TextView::EMPTY, u32::MAX); RECENT]),
        }
    }

    /// Appends a row.
    pub fn push(&mut self, value: Option<&str>) {
        self.nulls.push(value.is_some().into());
        self.has_nulls |= value.is_none();
        let text = value.unwrap_or_default().as_bytes();
        if self.plain {
            self.views.push(self.heap.store(text));
            return;
        }
        let code = match value {
            // No value of the dictionary: the column may have none but NULLs.
            None => u32::MAX,
            Some(_) => self.recent_code_of(text),
        };
        self.codes.push(code);
        if self.distinct.len() > DICTIONARY_LIMIT {
            self.give_up_dictionary();
        }
    }

    /// Appends rows that are given as keys of `values`: a text is searched once, not for each of its rows.
    ///
    /// # Panics
    /// A key that is no index of `values`.
    pub fn push_keys(&mut self, values: &[Option<&str>], keys: impl Iterator<Item = Option<usize>>) {
        const UNKNOWN: u32 = u32::MAX;
        let mut codes = vec![UNKNOWN; values.len()];
        for key in keys {
            let value = key.and_then(|key| Some((key, values[key]?)));
            match value {
                Some((key, _)) if codes[key] != UNKNOWN && !self.plain => {
                    self.nulls.push(1);
                    self.codes.push(codes[key]);
                }
                Some((key, text)) => {
                    self.push(Some(text));
                    if let Some(code) = self.codes.last() {
                        codes[key] = *code;
                    }
                }
                None => self.push(None),
            }
        }
    }

    fn recent_code_of(&mut self, text: &[u8]) -> u32 {
        let Some(view) = TextView::inline(text) else {
            return self.code_of(text);
        };
        let place = (hash::text_word(&view) >> 56) as usize % RECENT;
        let (known, code) = self.recent[place];
        if known == view && code != u32::MAX {
            return code;
        }
        let code = self.code_of(text);
        self.recent[place] = (view, code);
        code
    }

    fn code_of(&mut self, text: &[u8]) -> u32 {
        // Keyed, since texts come from files: nobody can choose them to collide.
        let mask = self.slots.len() - 1;
        let mut slot = self.hasher.hash_one(text) as usize & mask;
        while self.slots[slot] != 0 {
            let code = self.slots[slot] - 1;
            // SAFETY: the view's bytes stand in the heap, or in the view itself, which does not move during the comparison.
            if unsafe { self.distinct[code as usize].as_bytes() } == text {
                return code;
            }
            slot = (slot + 1) & mask;
        }
        let code = self.distinct.len() as u32;
        self.distinct.push(self.heap.store(text));
        self.slots[slot] = code + 1;
        if self.distinct.len() * 2 > self.slots.len() {
            self.grow_slots();
        }
        code
    }

    fn grow_slots(&mut self) {
        let mask = self.slots.len() * 4 - 1;
        let mut slots = vec![0; mask + 1];
        for (code, view) in self.distinct.iter().enumerate() {
            // SAFETY: as in `code_of`.
            let mut slot = self.hasher.hash_one(unsafe { view.as_bytes() }) as usize & mask;
            while slots[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            slots[slot] = code as u32 + 1;
        }
        self.slots = slots;
    }

    fn give_up_dictionary(&mut self) {
        let view = |code: &u32| self.distinct.get(*code as usize).copied();
        self.views = self.codes.iter().map(|c| view(c).unwrap_or(TextView::EMPTY)).collect();
        self.codes = Vec::new();
        self.slots = Vec::new();
        self.plain = true;
    }

    /// The column.
    pub fn finish(mut self) -> Column {
        let rows = self.nulls.len();
        let few = few_distinct(self.distinct.len(), rows);
        let known = self.distinct.len() as u64;
        let exact = !self.plain;
        if !self.plain && !few {
            self.give_up_dictionary();
        }
        let nulls = std::mem::take(&mut self.nulls);
        let validity = Nulls::new(self.has_nulls.then_some(nulls), rows);
        let zones = zones_of_text(&validity);
        if !self.plain {
            return self.finish_dictionary(validity, zones);
        }
        let distinct = if exact {
            known
        } else {
            let mut sketch = DistinctSketch::new();
            for (_, view) in validity.values(&self.views) {
                sketch.add(hash::text_word(view));
            }
            sketch.estimate()
        };
        let min = validity.values(&self.views).map(|(_, view)| *view).min();
        let max = validity.values(&self.views).map(|(_, view)| *view).max();
        let data = AlignedBytes::from_iter(rows, self.views.iter().copied());
        let mut column =
            Column::assemble(ColumnKind::Text, PhysicalType::Text, data, validity, zones, (distinct, exact));
        column.stats.min = min.map(text_bound);
        column.stats.max = max.map(text_bound);
        column.heap = Some(Arc::new(self.heap));
        column
    }

    fn finish_dictionary(self, validity: Nulls, zones: Vec<Zone>) -> Column {
        let distinct = self.distinct.len();
        let mut order: Vec<u32> = (0..distinct as u32).collect();
        order.sort_unstable_by_key(|&code| self.distinct[code as usize]);
        let mut views: Vec<TextView> = order.iter().map(|&c| self.distinct[c as usize]).collect();
        let mut new_codes = vec![0u32; distinct];
        for (new, &old) in order.iter().enumerate() {
            new_codes[old as usize] = new as u32;
        }
        let min = views.first().copied().map(text_bound);
        let max = views.last().copied().map(text_bound);
        if views.is_empty() {
            views.push(TextView::EMPTY);
        }
        let rows = self.codes.len();
        let codes = self.codes.iter().map(|&old| new_codes.get(old as usize).copied().unwrap_or(0));
        let (physical, data) = narrow_codes(views.len(), rows, codes);
        let dictionary = Arc::new(Dictionary::new(&views, Arc::new(self.heap)));
        let mut column = Column::coded(physical, data, validity, zones, distinct, dictionary);
        column.stats.min = min;
        column.stats.max = max;
        column
    }
}

/// Whether a dictionary pays for so many distinct texts.
fn few_distinct(distinct: usize, rows: usize) -> bool {
    distinct <= (rows / DICTIONARY_ROWS).max(DICTIONARY_ALWAYS)
}

/// Codes of a dictionary of `values` texts, as narrow as they may be.
fn narrow_codes(values: usize, rows: usize, codes: impl Iterator<Item = u32>) -> (PhysicalType, AlignedBytes) {
    match values {
        ..=0x100 => (PhysicalType::Code8, AlignedBytes::from_iter(rows, codes.map(|c| c as u8))),
        0x101..=0x1_0000 => (PhysicalType::Code16, AlignedBytes::from_iter(rows, codes.map(|c| c as u16))),
        _ => (PhysicalType::Code32, AlignedBytes::from_iter(rows, codes)),
    }
}

fn text_bound(view: TextView) -> Bound {
    // SAFETY: called by builders, which hold the bytes.
    Bound::Text(unsafe { view.as_str() }.into())
}

fn zones_of_text(validity: &Nulls) -> Vec<Zone> {
    (0..validity.rows.div_ceil(MORSEL_ROWS))
        .map(|zone| {
            let begin = zone * MORSEL_ROWS;
            let end = (begin + MORSEL_ROWS).min(validity.rows);
            Zone { nulls: (begin..end).filter(|&row| !validity.is_valid(row)).count(), min: None, max: None }
        })
        .collect()
}

/// Named columns of equal length.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(String, Arc<Column>)>,
    rows: usize,
}

impl Table {
    /// A table of `rows` rows; there may be no columns.
    ///
    /// # Panics
    /// Where a column has another number of rows.
    pub fn new(columns: Vec<(String, Arc<Column>)>, rows: usize) -> Self {
        for (name, column) in &columns {
            assert_eq!(column.len(), rows, "rows of column {name}");
        }
        Self { columns, rows }
    }

    /// The columns with their names, in order.
    pub fn columns(&self) -> &[(String, Arc<Column>)] {
        &self.columns
    }

    /// The column at a position.
    pub fn column(&self, index: usize) -> &Arc<Column> {
        &self.columns[index].1
    }

    /// The position of a name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|(n, _)| n == name)
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(|(_, column)| column.bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn validity<T>(values: &[Option<T>]) -> Validity {
        Some(values.iter().map(|v| v.is_some().into()).collect())
    }

    fn lanes<T: Copy + Default>(values: &[Option<T>]) -> Vec<T> {
        values.iter().map(|v| v.unwrap_or_default()).collect()
    }

    proptest! {
        #[test]
        fn views_behave_as_their_texts(
            texts in prop::collection::vec("[ab\u{0}é]{0,20}", 0..12),
        ) {
            let mut heap = TextHeap::default();
            let views: Vec<TextView> = texts.iter().map(|t| heap.store(t.as_bytes())).collect();
            for (a, x) in views.iter().zip(&texts) {
                // SAFETY: the heap lives.
                prop_assert_eq!(unsafe { a.as_str() }, x);
                for (b, y) in views.iter().zip(&texts) {
                    prop_assert_eq!(a == b, x == y);
                    prop_assert_eq!(a.cmp(b), x.as_bytes().cmp(y.as_bytes()));
                    prop_assert!(x != y || hash::text_word(a) == hash::text_word(b));
                    let ((al, ah), (bl, bh)) = (a.to_words(), b.to_words());
                    let words = (al as i64, ah as i64, bl as i64, bh as i64);
                    // SAFETY: the heap lives.
                    unsafe {
                        prop_assert_eq!(text_equal(words.0, words.1, words.2, words.3) != 0, x == y);
                        let order = text_compare(words.0, words.1, words.2, words.3);
                        prop_assert_eq!(order, x.as_bytes().cmp(y.as_bytes()) as i32);
                    }
                }
            }
        }

        #[test]
        fn integers_come_back(
            values in prop::collection::vec(
                prop::option::weighted(0.8, prop_oneof![
                    -100i64..100, 1_000_000i64..1_000_100, Just(i64::MIN), Just(i64::MAX), any::<i64>()]),
                0..50),
        ) {
            for values in [&values[..], &values[..values.len().min(2)]] {
                let column = Column::from_i64(ColumnKind::I64, &lanes(values), validity(values));
                let plain = column.to_plain();
                prop_assert_eq!(plain.encoding(), Encoding::Plain);
                for (i, &value) in values.iter().enumerate() {
                    prop_assert_eq!(column.get_i64(i), value);
                    prop_assert_eq!(plain.get_i64(i), value);
                }
                let int = |v: Option<i64>| v.map(|v| Bound::Int(v.into()));
                let stats = column.stats();
                prop_assert_eq!(&stats.min, &int(values.iter().flatten().copied().min()));
                prop_assert_eq!(&stats.max, &int(values.iter().flatten().copied().max()));
                prop_assert_eq!(stats.nulls, values.iter().filter(|v| v.is_none()).count());
                prop_assert_eq!(column.validity().is_some(), stats.nulls > 0);
                let distinct: std::collections::HashSet<_> = values.iter().flatten().collect();
                // An estimate: two of 2^12 registers may be shared by chance.
                prop_assert!(stats.distinct.abs_diff(distinct.len() as u64) <= 2 + distinct.len() as u64 / 8);
            }
        }

        #[test]
        fn texts_come_back(
            values in prop::collection::vec(prop::option::weighted(0.8, "[a-c]{0,15}"), 0..120),
        ) {
            let column = Column::from_text(values.iter().map(Option::as_deref));
            let plain = column.to_plain();
            for (i, value) in values.iter().enumerate() {
                prop_assert_eq!(column.get_text(i), value.as_deref());
                prop_assert_eq!(plain.get_text(i), value.as_deref());
            }
            let distinct: std::collections::BTreeSet<_> = values.iter().flatten().collect();
            let text = |v: Option<&&String>| v.map(|v| Bound::Text(v.as_str().into()));
            prop_assert_eq!(&column.stats().min, &text(distinct.first()));
            prop_assert_eq!(&column.stats().max, &text(distinct.last()));
            prop_assert_eq!(column.stats().distinct, distinct.len() as u64);
            if let Some(dictionary) = column.dictionary() {
                prop_assert!(dictionary.views().is_sorted());
                prop_assert_eq!(dictionary.find("zz"), Err(dictionary.len()));
                for code in 0..dictionary.len() {
                    prop_assert_eq!(dictionary.find(dictionary.get(code)), Ok(code));
                }
            }
        }
    }

    #[test]
    fn the_narrowest_width_is_chosen() {
        let width = |values: &[i64]| {
            let column = Column::from_i64(ColumnKind::I64, values, None);
            (column.physical(), column.encoding())
        };
        let narrowed = |base| Encoding::Narrowed { base };
        assert_eq!(width(&[]), (PhysicalType::I8, narrowed(0)));
        assert_eq!(width(&[-128, 127]), (PhysicalType::I8, narrowed(0)));
        assert_eq!(width(&[1000, 1255]), (PhysicalType::I8, narrowed(1128)));
        assert_eq!(width(&[1000, 1256]), (PhysicalType::I16, narrowed(0)));
        assert_eq!(width(&[0, 1 << 31]), (PhysicalType::I32, narrowed(1 << 31)));
        assert_eq!(width(&[0, 1 << 32]), (PhysicalType::I64, Encoding::Plain));
        assert_eq!(width(&[i64::MAX - 1, i64::MAX]), (PhysicalType::I64, Encoding::Plain));
        let dates = Column::from_i32(ColumnKind::Date, &[8035, 10_591], None);
        assert_eq!(dates.physical(), PhysicalType::I16);
        let small = Column::from_i32(ColumnKind::I32, &[i32::MIN, i32::MAX], None);
        assert_eq!(small.encoding(), Encoding::Plain);
        assert_eq!(small.get_i64(0), Some(i64::from(i32::MIN)));
    }

    #[test]
    fn decimals_beyond_64_bits_stay_wide_and_others_do_not() {
        let kind = ColumnKind::Decimal { precision: 38, scale: 2 };
        let big = 10i128.pow(30);
        let wide = Column::from_i128(kind, &[big, -big, 5], Some(vec![1, 1, 0]));
        assert_eq!(wide.physical(), PhysicalType::I128);
        assert_eq!(wide.get_i128(1), Some(-big));
        assert_eq!(wide.get_i128(2), None);
        let narrow = Column::from_i128(kind, &[1 << 40, 5], None);
        assert_eq!(narrow.physical(), PhysicalType::I64);
        assert_eq!(narrow.encoding(), Encoding::Narrowed { base: 0 });
        assert_eq!(narrow.get_i128(0), Some(1 << 40));
        assert_eq!(narrow.to_plain().physical(), PhysicalType::I128);
    }

    #[test]
    fn floats_and_booleans_come_back_and_nan_is_the_greatest() {
        let values = [1.5, f64::NAN, -0.0, f64::INFINITY];
        let column = Column::from_f64(&values, Some(vec![1, 1, 1, 0]));
        assert_eq!(column.get_f64(0), Some(1.5));
        assert_eq!(column.get_f64(3), None);
        assert_eq!(column.stats().min, Some(Bound::Float(-0.0)));
        assert!(matches!(column.stats().max, Some(Bound::Float(v)) if v.is_nan()));
        assert_eq!(column.stats().distinct, 3);
        let column = Column::from_f32(&[0.25, 7.0], None);
        assert_eq!(column.get_f64(1), Some(7.0));
        let column = Column::from_bool(&[true, false], Some(vec![1, 0]));
        assert_eq!((column.get_bool(0), column.get_bool(1)), (Some(true), None));
        assert_eq!(column.physical(), PhysicalType::I8);
    }

    #[test]
    fn many_distinct_texts_end_a_dictionary_and_estimates_are_close() {
        let texts: Vec<String> = (0..200_000).map(|i| format!("text number {i}")).collect();
        let column = Column::from_text(texts.iter().map(|t| Some(t.as_str())));
        assert_eq!(column.physical(), PhysicalType::Text);
        assert!(column.stats().distinct.abs_diff(200_000) < 10_000);
        assert_eq!(column.get_text(123_456), Some("text number 123456"));
        assert_eq!(column.zones().len(), 4);
        let few = Column::from_text(texts.iter().map(|t| Some(&t[..13])));
        assert_eq!(few.physical(), PhysicalType::Code8);
        let middling = Column::from_text((0..200_000).map(|i| Some(texts[i % 1000].as_str())));
        assert_eq!(middling.physical(), PhysicalType::Code16);
        assert_eq!(middling.get_text(150_999), Some("text number 999"));
    }

    #[test]
    fn zones_cover_their_rows() {
        let values: Vec<i64> = (0..150_000).collect();
        let column = Column::from_i64(ColumnKind::I64, &values, None);
        let zones = column.zones();
        assert_eq!(zones.len(), 3);
        assert_eq!(zones[1].min, Some(Bound::Int(MORSEL_ROWS as i128)));
        assert_eq!(zones[2].max, Some(Bound::Int(149_999)));
        assert_eq!(column.stats().distinct, 150_000);
        assert!(column.stats().distinct_exact);
        let spread: Vec<i64> = values.iter().map(|v| v * 1_000_003).collect();
        let distinct = Column::from_i64(ColumnKind::I64, &spread, None).stats().distinct;
        assert!(distinct.abs_diff(150_000) < 7_500, "{distinct}");
    }

    #[test]
    fn keys_become_the_columns_of_their_texts() {
        let texts: Vec<String> = (0..100_000).map(|i| format!("text {i}")).collect();
        let values: Vec<Option<&str>> = texts.iter().map(|t| Some(t.as_str())).chain([None]).collect();
        // Few texts; and so many that the dictionary is given up in the middle, in the middle of a call, too.
        for (distinct, cut) in [(7, 1000), (100_000, 150_000), (100_000, 10)] {
            let keys: Vec<Option<usize>> = (0..200_000)
                .map(|i| if i % 11 == 0 { None } else { Some(if i % 13 == 0 { 100_000 } else { i * 7 % distinct }) })
                .collect();
            let mut builder = TextBuilder::new();
            for part in keys.chunks(cut) {
                builder.push_keys(&values, part.iter().copied());
            }
            let made = builder.finish();
            let expected = Column::from_text(keys.iter().map(|key| values[(*key)?]));
            assert_eq!((made.encoding(), made.stats()), (expected.encoding(), expected.stats()));
            assert_eq!(made.zones(), expected.zones());
            assert!((0..keys.len()).all(|row| made.get_text(row) == expected.get_text(row)));
        }
    }

    #[test]
    fn codes_become_columns() {
        let texts: Vec<String> = (0..40).map(|i| format!("a text of more than 12 bytes, {i:02}")).collect();
        let of = |rows: usize| Column::from_text((0..rows).map(|i| Some(texts[i % 40].as_str())));
        let whole = of(4000);
        let dictionary = whole.dictionary().expect("few values");
        let check = |codes: &[u32], nulls: bool| {
            let valid: Option<Vec<u8>> = nulls.then(|| (0..codes.len()).map(|i| u8::from(i % 3 != 0)).collect());
            let expected = codes
                .iter()
                .enumerate()
                .map(|(i, code)| valid.as_ref().is_none_or(|v| v[i] != 0).then(|| dictionary.get(*code as usize)));
            let expected = Column::from_text(expected);
            let made = Column::from_codes(dictionary, codes, valid);
            assert_eq!(made.encoding(), expected.encoding());
            assert_eq!(made.physical(), expected.physical());
            assert_eq!(made.stats(), expected.stats());
            assert_eq!(made.zones(), expected.zones());
            assert_eq!(made.dictionary().map(|d| d.len()), expected.dictionary().map(|d| d.len()));
            for row in 0..codes.len() {
                assert_eq!(made.get_text(row), expected.get_text(row), "row {row}");
            }
            made
        };
        // All values: the dictionary itself. Some of them: one of its own. One for each row: views.
        let all = check(&(0..400).map(|i| i % 40).collect::<Vec<u32>>(), false);
        assert!(Arc::ptr_eq(all.dictionary().expect("few values"), dictionary));
        check(&(0..400).map(|i| 7 + 2 * (i % 5)).collect::<Vec<u32>>(), true);
        check(&(0..40).collect::<Vec<u32>>(), true);
        check(&[3], true);
        check(&[], false);
        drop(whole);
        assert_eq!(all.get_text(41), Some(texts[1].as_str()));
    }

    #[test]
    fn rows_become_columns() {
        let memory = crate::pool::QueryMemory::unlimited();
        let mut rows = crate::buffer::RowBuffer::new(32, &memory);
        let texts = ["short", "a text that is not inline", ""];
        for (i, text) in texts.iter().enumerate() {
            let row = rows.push().expect("no limit");
            // SAFETY: a fresh row of 32 bytes; the texts are static.
            unsafe {
                *row.cast::<TextView>() = TextView::from_raw_bytes(text.as_ptr(), text.len());
                *row.add(16).cast::<i64>() = i as i64;
                *row.add(24) = u8::from(i != 1);
            }
        }
        let rows: Vec<*mut u8> = rows.rows().collect();
        // SAFETY: the rows are as above.
        let (text, number) = unsafe {
            (
                Column::from_rows(ColumnKind::Text, &rows, Field::new(0, FieldKind::Text)),
                Column::from_rows(ColumnKind::I64, &rows, Field::nullable(16, FieldKind::I64, 24)),
            )
        };
        assert_eq!(text.get_text(1), Some(texts[1]));
        assert_eq!([number.get_i64(0), number.get_i64(1), number.get_i64(2)], [Some(0), None, Some(2)]);
    }
}
