//! Columns that several threads write, each a range of the rows, as values or as keys of dictionaries.
//!
//! What holds:
//! - What the elements are is assumed before the first value is seen ([`Assumed`]). A value that the assumption excludes is a
//!   [`Misfit`]. An assumption that is wider than it need be makes no difference: the column is what the constructors of
//!   [`Column`] make of the same values, statistics included.
//! - An element is written once, where it stays. A dictionary's values are narrowed once, and counted as distinct once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bytes::{Element, Piece, Unwritten};
use super::stats::{Bound, DistinctSketch, Nulls, Zone, compare_bounds, counts_exactly, integer_range, narrowest};
use super::{Column, ColumnKind, Dictionary, Encoding, PhysicalType};
use crate::buffer::compare_f64;
use crate::kernels::unpack::{NarrowSlot, Slot, highest};
use crate::kernels::{hash, mask};
use crate::scheduler::MORSEL_ROWS;

/// What is assumed of a column's values before they are seen.
#[derive(Clone)]
pub enum Assumed {
    /// Booleans, integers, dates, timestamps, decimals in these bounds.
    Integers {
        /// The least value that may come.
        min: i64,
        /// The greatest one.
        max: i64,
    },
    /// Floats.
    Floats,
    /// Texts of a dictionary.
    Codes(Arc<Dictionary>),
}

/// Numbers as files store them, little-endian.
#[derive(Clone, Copy)]
pub enum Stored<'a> {
    /// 32-bit integers.
    I32(&'a [[u8; 4]]),
    /// 64-bit integers.
    I64(&'a [[u8; 8]]),
    /// 32-bit floats.
    F32(&'a [[u8; 4]]),
    /// 64-bit floats.
    F64(&'a [[u8; 8]]),
}

/// Why a part cannot take what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// A value that the column was assumed not to have.
    Value,
    /// A key without a value.
    Key,
}

/// How elements become values, and where the assumed ones lie.
#[derive(Clone, Copy)]
struct Frame {
    physical: PhysicalType,
    base: i64,
    bounds: (i64, i64),
}

/// Which distinct values have been seen, by all parts.
enum Distinct {
    /// Integers.
    Bits(Bitmaps),
    /// Texts, by their codes.
    Codes(Vec<AtomicBool>),
    /// Parts keep sketches.
    Sketches,
}

/// A bit for each integer that may come, from the least. Each part that is written has a bitmap for its time, which need not be shared
/// then: there are as many as there are threads.
struct Bitmaps {
    words: usize,
    free: Mutex<Vec<Vec<u64>>>,
}

impl Bitmaps {
    /// With one bitmap; `None` where the system has no room for it.
    fn new(values: usize) -> Option<Self> {
        let words = values.div_ceil(64);
        Some(Self { words, free: Mutex::new(vec![zeros(words)?]) })
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<u64>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A bitmap that no other part has now; `None` where the system has no room for it.
    fn take(&self) -> Option<Vec<u64>> {
        let free = self.free().pop();
        free.or_else(|| zeros(self.words))
    }

    /// The integers that any part has seen.
    fn count(self) -> u64 {
        let bitmaps = self.free.into_inner().unwrap_or_else(PoisonError::into_inner);
        let any = |word| bitmaps.iter().fold(0, |any, bitmap: &Vec<u64>| any | bitmap[word]);
        (0..self.words).map(|word| u64::from(any(word).count_ones())).sum()
    }
}

/// A column while it is written.
pub struct Parts {
    kind: ColumnKind,
    rows: usize,
    frame: Frame,
    dictionary: Option<Arc<Dictionary>>,
    data: Unwritten,
    distinct: Distinct,
}

/// A range of a column's rows, before they are written.
pub struct Share<'a> {
    kind: ColumnKind,
    frame: Frame,
    first: usize,
    rows: usize,
    piece: Piece<'a>,
    distinct: &'a Distinct,
}

/// A range of a column's rows while they are written, in order.
pub struct Part<'a> {
    frame: Frame,
    first: usize,
    rows: usize,
    at: usize,
    lane: Lanes<'a>,
    seen: Seen<'a>,
    /// 1 for a value, 0 for NULL; shorter than the rows while no NULL has come.
    validity: Vec<u8>,
}

/// What is known of the rows of a part once they are written.
pub struct PartDone {
    first: usize,
    validity: Vec<u8>,
    zones: Vec<(usize, Zone)>,
    sketch: Option<DistinctSketch>,
}

impl Parts {
    /// A column of so many rows; `None` where the system has no room for it.
    ///
    /// # Panics
    /// An assumption about another kind.
    pub fn new(kind: ColumnKind, rows: usize, assumed: Assumed) -> Option<Self> {
        let mut distinct = Distinct::Sketches;
        let mut dictionary = None;
        let frame = match assumed {
            Assumed::Integers { min, max } => {
                assert!(!matches!(kind, ColumnKind::F32 | ColumnKind::F64 | ColumnKind::Text) && min <= max);
                let (physical, base) = narrowest(min, max, kind.plain());
                if counts_exactly(min, max, rows) {
                    distinct = Distinct::Bits(Bitmaps::new(max.abs_diff(min) as usize + 1)?);
                }
                Frame { physical, base, bounds: (min, max) }
            }
            Assumed::Floats => {
                assert!(matches!(kind, ColumnKind::F32 | ColumnKind::F64));
                Frame { physical: kind.plain(), base: 0, bounds: (0, 0) }
            }
            Assumed::Codes(texts) => {
                assert!(kind == ColumnKind::Text);
                let physical = match texts.len() {
                    ..=0x100 => PhysicalType::Code8,
                    0x101..=0x1_0000 => PhysicalType::Code16,
                    _ => PhysicalType::Code32,
                };
                distinct = Distinct::Codes(zeros(texts.len())?);
                dictionary = Some(texts);
                Frame { physical, base: 0, bounds: (0, 0) }
            }
        };
        let data = Unwritten::new(rows.checked_mul(frame.physical.bytes())?)?;
        Some(Self { kind, rows, frame, dictionary, data, distinct })
    }

    /// Shares of these many rows, one behind the other.
    ///
    /// # Panics
    /// Where the column has fewer rows than all shares.
    pub fn shares(&mut self, rows: &[usize]) -> Vec<Share<'_>> {
        let Self { kind, frame, data, distinct, .. } = self;
        let bytes: Vec<usize> = rows.iter().map(|rows| rows.saturating_mul(frame.physical.bytes())).collect();
        let mut first = 0;
        let share = |(&rows, piece)| {
            let share = Share { kind: *kind, frame: *frame, first, rows, piece, distinct };
            first += rows;
            share
        };
        rows.iter().zip(data.pieces(&bytes)).map(share).collect()
    }

    /// The column, its parts being in order; `None` where one is missing.
    pub fn finish(self, done: Vec<PartDone>) -> Option<Column> {
        let Self { kind, rows, frame, dictionary, data, distinct } = self;
        let validity = join_validity(&done, rows);
        let zones = join_zones(&done, rows);
        let data = data.finish()?;
        match distinct {
            Distinct::Codes(used) => {
                let dictionary = dictionary?;
                let distinct = used.into_iter().filter(|used| used.load(Ordering::Relaxed)).count();
                if distinct == dictionary.len() {
                    let mut column = Column::coded(frame.physical, data, validity, zones, distinct, dictionary);
                    column.set_bounds_of_codes();
                    return Some(column);
                }
                let codes: Vec<u32> = match frame.physical {
                    PhysicalType::Code8 => data.slice::<u8>(rows).iter().map(|&c| c.into()).collect(),
                    PhysicalType::Code16 => data.slice::<u16>(rows).iter().map(|&c| c.into()).collect(),
                    _ => data.slice::<u32>(rows).to_vec(),
                };
                Some(Column::from_codes(&dictionary, &codes, validity.bytes))
            }
            Distinct::Sketches if matches!(kind, ColumnKind::F32 | ColumnKind::F64) => {
                let distinct = (join_sketches(&done), false);
                Some(Column::assemble(kind, frame.physical, data, validity, zones, distinct))
            }
            counted => {
                let (min, max) = integer_range(&zones);
                let exact = matches!(counted, Distinct::Bits(_));
                if narrowest(min, max, kind.plain()) != (frame.physical, frame.base)
                    || counts_exactly(min, max, rows) != exact
                {
                    return Some(Column::integers(kind, &widened(&data, rows, frame), validity.bytes));
                }
                let distinct = match counted {
                    Distinct::Bits(bitmaps) => bitmaps.count(),
                    _ => join_sketches(&done),
                };
                let mut column = Column::assemble(kind, frame.physical, data, validity, zones, (distinct, exact));
                if frame.physical != kind.plain() {
                    column.encoding = Encoding::Narrowed { base: frame.base };
                }
                Some(column)
            }
        }
    }
}

/// So many zeros, if the system has room for them.
fn zeros<T: Default>(len: usize) -> Option<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(len).ok()?;
    list.resize_with(len, T::default);
    Some(list)
}

fn join_validity(done: &[PartDone], rows: usize) -> Nulls {
    let bytes = done.iter().any(|part| !part.validity.is_empty()).then(|| {
        let mut all = vec![1u8; rows];
        for part in done {
            all[part.first..][..part.validity.len()].copy_from_slice(&part.validity);
        }
        all
    });
    Nulls { bytes, rows }
}

fn join_zones(done: &[PartDone], rows: usize) -> Vec<Zone> {
    let mut zones = vec![Zone { nulls: 0, min: None, max: None }; rows.div_ceil(MORSEL_ROWS)];
    let pick = |into: &mut Option<Bound>, from: &Option<Bound>, wanted: std::cmp::Ordering| match (&*into, from) {
        (Some(known), Some(other)) if compare_bounds(other, known) != wanted => {}
        (_, None) => {}
        _ => into.clone_from(from),
    };
    for (zone, part) in done.iter().flat_map(|part| &part.zones) {
        let into = &mut zones[*zone];
        into.nulls += part.nulls;
        pick(&mut into.min, &part.min, std::cmp::Ordering::Less);
        pick(&mut into.max, &part.max, std::cmp::Ordering::Greater);
    }
    zones
}

fn join_sketches(done: &[PartDone]) -> u64 {
    let mut all = DistinctSketch::new();
    done.iter().filter_map(|part| part.sketch.as_ref()).for_each(|sketch| all.merge(sketch));
    all.estimate()
}

fn widened(data: &super::AlignedBytes, rows: usize, frame: Frame) -> Vec<i64> {
    fn of<T: Element + Into<i64>>(data: &[T], base: i64) -> Vec<i64> {
        data.iter().map(|&v| v.into().wrapping_add(base)).collect()
    }
    match frame.physical {
        PhysicalType::I8 => of(data.slice::<i8>(rows), frame.base),
        PhysicalType::I16 => of(data.slice::<i16>(rows), frame.base),
        PhysicalType::I32 => of(data.slice::<i32>(rows), frame.base),
        _ => of(data.slice::<i64>(rows), frame.base),
    }
}

impl<'a> Share<'a> {
    /// Begins to write the rows: in the thread that does, since this touches their memory first. `None` where the system has no room for
    /// what is counted.
    pub fn begin(self) -> Option<Part<'a>> {
        let Self { kind, frame, first, rows, piece, distinct } = self;
        let sketched = matches!(distinct, Distinct::Sketches);
        let bits = if let Distinct::Bits(bitmaps) = distinct { bitmaps.take()? } else { vec![] };
        let seen = Seen {
            all: distinct,
            bits,
            sketch: sketched.then(DistinctSketch::new),
            integers: !matches!(kind, ColumnKind::F32 | ColumnKind::F64 | ColumnKind::Text),
            frame,
            words: vec![],
            used: vec![],
            used_first: 0,
        };
        let lane = Lanes::over(piece, frame.physical);
        Some(Part { frame, first, rows, at: 0, lane, seen, validity: vec![] })
    }
}

/// Elements that are being written.
struct Lane<'a, T> {
    out: &'a mut [T],
    /// The dictionary's values as elements.
    table: Vec<T>,
    /// Values without the NULLs between them.
    dense: Vec<T>,
}

enum Lanes<'a> {
    I8(Lane<'a, i8>),
    I16(Lane<'a, i16>),
    I32(Lane<'a, i32>),
    I64(Lane<'a, i64>),
    F32(Lane<'a, f32>),
    F64(Lane<'a, f64>),
    Code8(Lane<'a, u8>),
    Code16(Lane<'a, u16>),
    Code32(Lane<'a, u32>),
}

macro_rules! each_lane {
    ($lanes:expr, $lane:ident => $body:expr) => {
        match $lanes {
            Lanes::I8($lane) => $body,
            Lanes::I16($lane) => $body,
            Lanes::I32($lane) => $body,
            Lanes::I64($lane) => $body,
            Lanes::F32($lane) => $body,
            Lanes::F64($lane) => $body,
            Lanes::Code8($lane) => $body,
            Lanes::Code16($lane) => $body,
            Lanes::Code32($lane) => $body,
        }
    };
}

impl<'a> Lanes<'a> {
    fn over(piece: Piece<'a>, physical: PhysicalType) -> Self {
        match physical {
            PhysicalType::I8 => Self::I8(Lane::over(piece)),
            PhysicalType::I16 => Self::I16(Lane::over(piece)),
            PhysicalType::I32 => Self::I32(Lane::over(piece)),
            PhysicalType::I64 => Self::I64(Lane::over(piece)),
            PhysicalType::F32 => Self::F32(Lane::over(piece)),
            PhysicalType::F64 => Self::F64(Lane::over(piece)),
            PhysicalType::Code8 => Self::Code8(Lane::over(piece)),
            PhysicalType::Code16 => Self::Code16(Lane::over(piece)),
            PhysicalType::Code32 => Self::Code32(Lane::over(piece)),
            PhysicalType::I128 | PhysicalType::Text => unreachable!("{physical:?} is never assumed"),
        }
    }
}

impl<'a, T: Element + Slot> Lane<'a, T> {
    fn over(piece: Piece<'a>) -> Self {
        Self { out: piece.zeros(), table: vec![], dense: vec![] }
    }

    fn keys(&mut self, at: usize, keys: &[u32], valid: Option<&[u8]>) {
        match valid {
            None => T::gather(&self.table, keys, &mut self.out[at..at + keys.len()]),
            Some(valid) => {
                self.dense.resize(keys.len(), T::default());
                T::gather(&self.table, keys, &mut self.dense);
                T::spread(&self.dense, valid, &mut self.out[at..at + valid.len()]);
            }
        }
    }

    /// Writes values by `fill`, which gets as many places as there are values.
    fn values<R>(&mut self, at: usize, values: usize, valid: Option<&[u8]>, fill: impl FnOnce(&mut [T]) -> R) -> R {
        match valid {
            None => fill(&mut self.out[at..at + values]),
            Some(valid) => {
                self.dense.resize(values, T::default());
                let result = fill(&mut self.dense);
                T::spread(&self.dense, valid, &mut self.out[at..at + valid.len()]);
                result
            }
        }
    }
}

/// The distinct values that a part has seen.
struct Seen<'a> {
    all: &'a Distinct,
    /// One of the column's bitmaps, if it has any.
    bits: Vec<u64>,
    sketch: Option<DistinctSketch>,
    integers: bool,
    frame: Frame,
    /// The dictionary's values as they are counted: integers themselves, floats hashed, texts' codes.
    words: Vec<u64>,
    /// 1 for each of them that has come.
    used: Vec<u8>,
    /// So many of the first have come: writers number values as they come.
    used_first: usize,
}

impl Seen<'_> {
    /// Counts what was used of the dictionary there was, and takes the next one.
    fn take_dictionary(&mut self, words: impl Iterator<Item = u64>) -> Result<(), Misfit> {
        self.count_used()?;
        self.words.clear();
        self.words.extend(words);
        self.used.clear();
        self.used.resize(self.words.len(), 0);
        self.used_first = 0;
        Ok(())
    }

    /// Marks what keys were used, the highest of which is given.
    fn use_keys(&mut self, keys: &[u32], highest: usize) {
        if highest >= self.used_first {
            keys.iter().for_each(|&key| self.used[key as usize] = 1);
            self.used_first += self.used[self.used_first..].iter().take_while(|used| **used == 1).count();
        }
    }

    fn count_used(&mut self) -> Result<(), Misfit> {
        let (min, max) = self.frame.bounds;
        let used = self.words.iter().zip(&self.used).filter(|(_, used)| **used != 0).map(|(word, _)| *word);
        match self.all {
            Distinct::Codes(all) => used.for_each(|code| all[code as usize].store(true, Ordering::Relaxed)),
            _ if self.integers => {
                for word in used {
                    if !(min..=max).contains(&(word as i64)) {
                        return Err(Misfit::Value);
                    }
                    match &mut self.sketch {
                        None => set_bit(&mut self.bits, (word as i64).abs_diff(min)),
                        Some(sketch) => sketch.add(word),
                    }
                }
            }
            _ => {
                if let Some(sketch) = &mut self.sketch {
                    used.for_each(|word| sketch.add(word));
                }
            }
        }
        Ok(())
    }

    fn count_integers<T: NarrowSlot>(&mut self, values: &[T]) {
        let (base, min) = (self.frame.base, self.frame.bounds.0);
        match &mut self.sketch {
            None => values.iter().for_each(|&v| set_bit(&mut self.bits, v.into().wrapping_add(base).abs_diff(min))),
            Some(sketch) => values.iter().for_each(|&v| sketch.add(v.into().wrapping_add(base) as u64)),
        }
    }

    fn count_floats<T: Copy + Into<f64>>(&mut self, values: &[T]) {
        if let Some(sketch) = &mut self.sketch {
            values.iter().for_each(|&v| sketch.add(hash::f64_word(v.into())));
        }
    }
}

fn set_bit(bits: &mut [u64], at: u64) {
    bits[(at / 64) as usize] |= 1 << (at % 64);
}

impl Part<'_> {
    /// Rows that are not written yet.
    pub fn left(&self) -> usize {
        self.rows - self.at
    }

    /// Keys are from now on those of these values.
    ///
    /// # Errors
    /// A value of the dictionary before that was used, and assumed not to come.
    ///
    /// # Panics
    /// Numbers of another kind than the column's.
    pub fn set_dictionary(&mut self, values: Stored<'_>) -> Result<(), Misfit> {
        fn integers<T: NarrowSlot, V: Iterator<Item = i64>>(lane: &mut Lane<'_, T>, base: i64, values: V) {
            lane.table.clear();
            lane.table.extend(values.map(|v| T::narrowed(v, base)));
        }
        let base = self.frame.base;
        macro_rules! take {
            ($values:expr) => {{
                let values = $values;
                self.seen.take_dictionary(values.clone().map(|v| v as u64))?;
                match &mut self.lane {
                    Lanes::I8(lane) => integers(lane, base, values),
                    Lanes::I16(lane) => integers(lane, base, values),
                    Lanes::I32(lane) => integers(lane, base, values),
                    Lanes::I64(lane) => integers(lane, base, values),
                    _ => unreachable!("integers in a column of them"),
                }
            }};
        }
        match (values, &mut self.lane) {
            (Stored::I32(values), _) => take!(values.iter().map(|v| i64::from(i32::from_le_bytes(*v)))),
            (Stored::I64(values), _) => take!(values.iter().map(|v| i64::from_le_bytes(*v))),
            (Stored::F32(values), Lanes::F32(lane)) => {
                lane.table = values.iter().map(|v| f32::from_le_bytes(*v)).collect();
                self.seen.take_dictionary(lane.table.iter().map(|&v| hash::f64_word(v.into())))?;
            }
            (Stored::F64(values), Lanes::F64(lane)) => {
                lane.table = values.iter().map(|v| f64::from_le_bytes(*v)).collect();
                self.seen.take_dictionary(lane.table.iter().map(|&v| hash::f64_word(v)))?;
            }
            _ => unreachable!("floats in a column of them"),
        }
        Ok(())
    }

    /// Keys are from now on those of these codes of the column's dictionary.
    ///
    /// # Panics
    /// A column of numbers, or a code that its dictionary does not have.
    pub fn set_codes(&mut self, codes: &[u32]) {
        let Distinct::Codes(all) = self.seen.all else { panic!("codes in a column of them") };
        assert!(codes.iter().all(|&code| (code as usize) < all.len()), "codes of the dictionary");
        // Codes are never outside of what is assumed.
        let _ = self.seen.take_dictionary(codes.iter().map(|&code| code.into()));
        match &mut self.lane {
            Lanes::Code8(lane) => lane.table = codes.iter().map(|&code| code as u8).collect(),
            Lanes::Code16(lane) => lane.table = codes.iter().map(|&code| code as u16).collect(),
            Lanes::Code32(lane) => lane.table = codes.to_vec(),
            _ => unreachable!("codes in a column of them"),
        }
    }

    /// Writes rows by their keys: one for each row, or for each whose byte of `valid` is 1.
    ///
    /// # Errors
    /// A key without a value.
    ///
    /// # Panics
    /// More rows than are left, or another number of keys.
    pub fn keys(&mut self, keys: &[u32], valid: Option<&[u8]>) -> Result<(), Misfit> {
        if !keys.is_empty() {
            let highest = highest(keys) as usize;
            if highest >= self.seen.words.len() {
                return Err(Misfit::Key);
            }
            self.seen.use_keys(keys, highest);
        }
        let at = self.next(keys.len(), valid);
        each_lane!(&mut self.lane, lane => lane.keys(at, keys, valid));
        Ok(())
    }

    /// Writes rows by their values: one for each row, or for each whose byte of `valid` is 1.
    ///
    /// # Errors
    /// A value that was assumed not to come.
    ///
    /// # Panics
    /// More rows than are left, another number of values, or numbers of another kind than the column's.
    pub fn values(&mut self, values: Stored<'_>, valid: Option<&[u8]>) -> Result<(), Misfit> {
        let Frame { base, bounds, .. } = self.frame;
        let len = match values {
            Stored::I32(v) | Stored::F32(v) => v.len(),
            Stored::I64(v) | Stored::F64(v) => v.len(),
        };
        let at = self.next(len, valid);
        let seen = &mut self.seen;
        macro_rules! narrow {
            ($lane:expr) => {
                $lane.values(at, len, valid, |out| {
                    let within = match values {
                        Stored::I32(values) => NarrowSlot::narrow_i32(values, base, bounds, out),
                        Stored::I64(values) => NarrowSlot::narrow_i64(values, base, bounds, out),
                        _ => unreachable!("integers in a column of them"),
                    };
                    within.then(|| seen.count_integers(out)).ok_or(Misfit::Value)
                })
            };
        }
        match (&mut self.lane, values) {
            (Lanes::I8(lane), _) => narrow!(lane),
            (Lanes::I16(lane), _) => narrow!(lane),
            (Lanes::I32(lane), _) => narrow!(lane),
            (Lanes::I64(lane), _) => narrow!(lane),
            (Lanes::F32(lane), Stored::F32(values)) => {
                lane.values(at, len, valid, |out| {
                    out.iter_mut().zip(values).for_each(|(out, v)| *out = f32::from_le_bytes(*v));
                    seen.count_floats(out);
                });
                Ok(())
            }
            (Lanes::F64(lane), Stored::F64(values)) => {
                lane.values(at, len, valid, |out| {
                    out.iter_mut().zip(values).for_each(|(out, v)| *out = f64::from_le_bytes(*v));
                    seen.count_floats(out);
                });
                Ok(())
            }
            _ => unreachable!("numbers of the column's kind"),
        }
    }

    /// The place of the next rows, of which `values` have one.
    fn next(&mut self, values: usize, valid: Option<&[u8]>) -> usize {
        let rows = valid.map_or(values, <[u8]>::len);
        assert!(rows <= self.left(), "{rows} rows where {} are left", self.left());
        if let Some(valid) = valid {
            assert_eq!(mask::count(valid), values, "values of the rows that have one");
            self.validity.resize(self.at, 1);
            self.validity.extend_from_slice(valid);
        }
        self.at += rows;
        self.at - rows
    }

    /// What is known of the rows.
    ///
    /// # Errors
    /// A value of the dictionary that was used, and assumed not to come.
    ///
    /// # Panics
    /// Where rows are left.
    pub fn finish(mut self) -> Result<PartDone, Misfit> {
        assert_eq!(self.left(), 0, "rows of a part");
        self.seen.count_used()?;
        if let Distinct::Bits(bitmaps) = self.seen.all {
            bitmaps.free().push(std::mem::take(&mut self.seen.bits));
        }
        if mask::count(&self.validity) == self.validity.len() {
            self.validity.clear();
        } else {
            self.validity.resize(self.rows, 1);
        }
        let zones = cut_by_zones(self.first, self.rows).map(|(zone, rows)| (zone, self.zone(rows))).collect();
        Ok(PartDone { first: self.first, validity: self.validity, zones, sketch: self.seen.sketch })
    }

    fn zone(&self, rows: std::ops::Range<usize>) -> Zone {
        fn integers<T: NarrowSlot>(values: &[T], valid: Option<&[u8]>, base: i64) -> Option<(Bound, Bound)> {
            let bound = |v: i64| Bound::Int(v.wrapping_add(base).into());
            T::range(values, valid).map(|(min, max)| (bound(min), bound(max)))
        }
        fn floats<T: Copy + Into<f64>>(values: &[T], valid: Option<&[u8]>) -> Option<(Bound, Bound)> {
            let known = values.iter().enumerate().filter(|(i, _)| valid.is_none_or(|valid| valid[*i] != 0));
            let known = known.map(|(_, &v)| v.into());
            let min = known.clone().min_by(|a, b| compare_f64(*a, *b))?;
            let max = known.max_by(|a, b| compare_f64(*a, *b))?;
            Some((Bound::Float(min), Bound::Float(max)))
        }
        let valid = (!self.validity.is_empty()).then(|| &self.validity[rows.clone()]);
        let base = self.frame.base;
        let bounds = match &self.lane {
            Lanes::I8(lane) => integers(&lane.out[rows], valid, base),
            Lanes::I16(lane) => integers(&lane.out[rows], valid, base),
            Lanes::I32(lane) => integers(&lane.out[rows], valid, base),
            Lanes::I64(lane) => integers(&lane.out[rows], valid, base),
            Lanes::F32(lane) => floats(&lane.out[rows], valid),
            Lanes::F64(lane) => floats(&lane.out[rows], valid),
            Lanes::Code8(_) | Lanes::Code16(_) | Lanes::Code32(_) => None,
        };
        let nulls = valid.map_or(0, |valid| valid.len() - mask::count(valid));
        let (min, max) = bounds.unzip();
        Zone { nulls, min, max }
    }
}

/// Cuts the rows `first..first + rows` where zones end: the zone's number, and its rows counted from `first`.
fn cut_by_zones(first: usize, rows: usize) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    let last = first + rows;
    let zones = if rows == 0 { 0..0 } else { first / MORSEL_ROWS..last.div_ceil(MORSEL_ROWS) };
    zones.map(move |zone| {
        let begin = (zone * MORSEL_ROWS).max(first);
        let end = ((zone + 1) * MORSEL_ROWS).min(last);
        (zone, begin - first..end - first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::column::TextSet;

    /// Values of rows, somewhat at random.
    fn mixed(row: usize) -> i64 {
        (row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) as i64
    }

    fn assert_same(column: &Column, expected: &Column) {
        assert_eq!(column.stats(), expected.stats());
        assert_eq!(column.zones(), expected.zones());
        assert_eq!((column.physical(), column.encoding()), (expected.physical(), expected.encoding()));
        assert_eq!(column.validity(), expected.validity());
        assert!((0..column.len()).all(|row| column.get_i128(row) == expected.get_i128(row)));
    }

    /// A column of parts that begin in these rows: parts of even numbers write values, others keys.
    fn in_parts(
        kind: ColumnKind,
        values: &[Option<i64>],
        rows: &[usize],
        bounds: (i64, i64),
    ) -> Result<Column, Misfit> {
        let assumed = Assumed::Integers { min: bounds.0, max: bounds.1 };
        let mut parts = Parts::new(kind, values.len(), assumed).unwrap();
        let mut done = vec![];
        let mut first = 0;
        for (number, share) in parts.shares(rows).into_iter().enumerate() {
            let values = &values[first..first + rows[number]];
            first += rows[number];
            let mut part = share.begin().unwrap();
            let known: Vec<i64> = values.iter().flatten().copied().collect();
            let mut dictionary = known.clone();
            dictionary.sort_unstable();
            dictionary.dedup();
            // A value that no row has is none of the column's.
            dictionary.push(i64::MIN);
            let stored: Vec<[u8; 8]> = dictionary.iter().map(|v| v.to_le_bytes()).collect();
            part.set_dictionary(Stored::I64(&stored))?;
            for values in values.chunks(1000) {
                let valid: Vec<u8> = values.iter().map(|v| u8::from(v.is_some())).collect();
                let valid = (values.iter().any(Option::is_none)).then_some(&valid[..]);
                let known = values.iter().flatten();
                if number % 2 == 0 {
                    let stored: Vec<[u8; 8]> = known.map(|v| v.to_le_bytes()).collect();
                    part.values(Stored::I64(&stored), valid)?;
                } else {
                    let sorted = &dictionary[..dictionary.len() - 1];
                    let keys: Vec<u32> = known.map(|v| sorted.binary_search(v).unwrap() as u32).collect();
                    part.keys(&keys, valid)?;
                }
            }
            done.push(part.finish()?);
        }
        Ok(parts.finish(done).unwrap())
    }

    #[test]
    fn parts_are_the_column_of_all_values() {
        let rows = 2 * MORSEL_ROWS + 100;
        let shares = [MORSEL_ROWS - 5, 0, 40_000, rows - 40_000 - (MORSEL_ROWS - 5)];
        for (spread, offset) in [(100, -50), (100, 1 << 40), (60_000, 0), (1 << 24, 7), (1 << 40, -3), (i64::MAX, 0)] {
            let nulls: [fn(usize) -> bool; 4] = [|_| false, |row| row % 3 == 0, |row| row > 1000, |_| true];
            for null in nulls {
                let value = |row| (!null(row)).then(|| mixed(row).rem_euclid(spread).wrapping_add(offset));
                let values: Vec<Option<i64>> = (0..rows).map(value).collect();
                let dense: Vec<i64> = values.iter().map(|v| v.unwrap_or(99)).collect();
                let validity = values.iter().map(|v| u8::from(v.is_some())).collect();
                let expected = Column::from_i64(ColumnKind::I64, &dense, Some(validity));
                let (min, max) = (values.iter().flatten().min(), values.iter().flatten().max());
                let exact = (min.copied().unwrap_or(0), max.copied().unwrap_or(0));
                let loose = (exact.0.saturating_sub(1000), exact.1.saturating_add(1 << 20));
                for bounds in [exact, loose, (i64::MIN, i64::MAX)] {
                    assert_same(&in_parts(ColumnKind::I64, &values, &shares, bounds).unwrap(), &expected);
                }
            }
        }
    }

    #[test]
    fn values_that_were_not_assumed_are_told() {
        let values: Vec<Option<i64>> = (0..100).map(Some).collect();
        for shares in [vec![100], vec![0, 100]] {
            for bounds in [(0, 98), (1, 99), (200, 300)] {
                assert_eq!(in_parts(ColumnKind::I64, &values, &shares, bounds).unwrap_err(), Misfit::Value);
            }
        }
        let mut parts = Parts::new(ColumnKind::I64, 1, Assumed::Integers { min: 0, max: 5 }).unwrap();
        let mut part = parts.shares(&[1]).remove(0).begin().unwrap();
        assert_eq!(part.keys(&[0], None), Err(Misfit::Key));
        part.set_dictionary(Stored::I64(&[[0; 8]])).unwrap();
        assert_eq!(part.keys(&[1], None), Err(Misfit::Key));
    }

    #[test]
    fn a_column_needs_all_its_parts() {
        let mut parts = Parts::new(ColumnKind::I32, 20, Assumed::Integers { min: 0, max: 5 }).unwrap();
        let mut shares = parts.shares(&[10, 10]);
        let mut part = shares.remove(0).begin().unwrap();
        part.values(Stored::I32(&[[0; 4]; 10]), None).unwrap();
        let done = part.finish().unwrap();
        drop(shares);
        assert!(parts.finish(vec![done]).is_none());
        assert!(Parts::new(ColumnKind::I64, usize::MAX / 2, Assumed::Integers { min: 0, max: i64::MAX }).is_none());
    }

    #[test]
    fn codes_that_no_row_has_leave_the_dictionary() {
        let mut texts = TextSet::new();
        let codes = ["b", "d", "a", "c"].map(|text| texts.code_of(text.as_bytes()));
        let (dictionary, new_codes) = texts.into_dictionary();
        let codes = codes.map(|code| new_codes[code as usize]);
        for (keys, expected) in [([0, 1, 2, 3], "b d a c"), ([2, 2, 0, 2], "a a b a"), ([1; 4], "d d d d")] {
            let mut parts = Parts::new(ColumnKind::Text, 4, Assumed::Codes(dictionary.clone())).unwrap();
            let mut part = parts.shares(&[4]).remove(0).begin().unwrap();
            part.set_codes(&codes);
            part.keys(&keys, None).unwrap();
            let done = part.finish().unwrap();
            let column = parts.finish(vec![done]).unwrap();
            let wanted = Column::from_text(expected.split(' ').map(Some));
            assert_eq!(column.stats(), wanted.stats());
            assert_eq!(column.dictionary().unwrap().views(), wanted.dictionary().unwrap().views());
            assert!((0..4).all(|row| column.get_text(row) == wanted.get_text(row)));
        }
    }

    #[test]
    fn rows_are_cut_where_zones_end() {
        let cut = |first, rows| cut_by_zones(first, rows).collect::<Vec<_>>();
        assert_eq!(cut(10, 0), []);
        assert_eq!(cut(MORSEL_ROWS, 0), []);
        assert_eq!(cut(MORSEL_ROWS - 1, 2), [(0, 0..1), (1, 1..2)]);
        assert_eq!(cut(10, 2 * MORSEL_ROWS).len(), 3);
    }
}
