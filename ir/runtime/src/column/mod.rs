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
//!   each [`MORSEL_ROWS`](crate::scheduler::MORSEL_ROWS) rows; zones of texts have no bounds.
//! - The bytes behind every text view of a column live as long as the column (or its dictionary).

mod bytes;
mod parts;
mod stats;
mod text;
mod view;

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::buffer::{Field, FieldKind};
use crate::kernels::hash;

use bytes::{AlignedBytes, Element};
use stats::{
    DistinctSketch, Integer, Nulls, compare_bounds, distinct_integers, float_statistics, integer_range, narrowest,
    zones_of, zones_of_text,
};
use text::{TextHeap, few_distinct, narrow_codes, text_bound};

pub use parts::{Assumed, Misfit, Part, PartDone, Parts, Share, Stored};
pub use stats::{Bound, ColumnStats, Zone};
pub use text::{TextBuilder, TextSet};
pub use view::TextView;
pub(crate) use view::{text_compare, text_equal, text_hash};

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

    /// The bounds of a column of codes that has every text of its dictionary, or no text.
    fn set_bounds_of_codes(&mut self) {
        let views = self.dictionary.as_ref().filter(|_| self.stats.distinct > 0).map(|d| d.views());
        let bound = |view: Option<&TextView>| view.copied().map(text_bound);
        let (min, max) = (bound(views.and_then(|v| v.first())), bound(views.and_then(|v| v.last())));
        (self.stats.min, self.stats.max) = (min, max);
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
                FieldKind::I16 => (PhysicalType::I16, gather::<i16>(rows, field)),
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
        self.data.as_ptr()
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

    /// What is known about each [`MORSEL_ROWS`](crate::scheduler::MORSEL_ROWS) rows.
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// Bytes in memory, texts included.
    pub fn bytes(&self) -> usize {
        let heap = |heap: &Arc<TextHeap>| heap.bytes();
        let dictionary = |d: &Arc<Dictionary>| d.views.bytes() + d.words.bytes() + heap(&d.heap);
        self.data.bytes()
            + self.validity.as_ref().map_or(0, |v| v.bytes())
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
