//! What is known about a column: NULLs, bounds of the whole and by zones, distinct values.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{PhysicalType, Validity};
use crate::buffer::compare_f64;
use crate::kernels::hash;
use crate::scheduler::MORSEL_ROWS;

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

/// Validity bytes, kept only where some row is NULL.
pub(super) struct Nulls {
    pub(super) bytes: Option<Vec<u8>>,
    pub(super) rows: usize,
}

impl Nulls {
    pub(super) fn new(validity: Validity, rows: usize) -> Self {
        let bytes = validity.map(|mut bytes| {
            assert_eq!(bytes.len(), rows, "one validity byte a row");
            bytes.iter_mut().for_each(|b| *b = u8::from(*b != 0));
            bytes
        });
        Self { bytes: bytes.filter(|bytes| bytes.contains(&0)), rows }
    }

    pub(super) fn is_valid(&self, row: usize) -> bool {
        self.bytes.as_ref().is_none_or(|bytes| bytes[row] != 0)
    }

    /// The rows that are not NULL.
    pub(super) fn values<'a, T>(&'a self, values: &'a [T]) -> impl Iterator<Item = (usize, &'a T)> {
        values.iter().enumerate().filter(|(i, _)| self.is_valid(*i))
    }

    /// The elements, with `harmless` in place of NULLs.
    pub(super) fn lanes<'a, T: Copy + 'a>(
        &'a self,
        values: impl Iterator<Item = T> + 'a,
        harmless: T,
    ) -> impl Iterator<Item = T> + 'a {
        values.enumerate().map(move |(i, v)| if self.is_valid(i) { v } else { harmless })
    }
}

pub(super) trait Integer: Copy {
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

pub(super) fn zones_of<T, V: Copy>(
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

pub(super) fn zones_of_text(validity: &Nulls) -> Vec<Zone> {
    (0..validity.rows.div_ceil(MORSEL_ROWS))
        .map(|zone| {
            let begin = zone * MORSEL_ROWS;
            let end = (begin + MORSEL_ROWS).min(validity.rows);
            Zone { nulls: (begin..end).filter(|&row| !validity.is_valid(row)).count(), min: None, max: None }
        })
        .collect()
}

pub(super) fn compare_bounds(a: &Bound, b: &Bound) -> Ordering {
    match (a, b) {
        (Bound::Int(a), Bound::Int(b)) => a.cmp(b),
        (Bound::Float(a), Bound::Float(b)) => compare_f64(*a, *b),
        (Bound::Text(a), Bound::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        _ => unreachable!("bounds of one column are of one kind"),
    }
}

pub(super) fn float_statistics<T>(values: &[T], validity: &Nulls, get: impl Fn(&T) -> f64 + Copy) -> (Vec<Zone>, u64) {
    let zones = zones_of(values, validity, get, |a, b| compare_f64(*a, *b), Bound::Float);
    let mut distinct = DistinctSketch::new();
    for (_, value) in validity.values(values) {
        distinct.add(hash::f64_word(get(value)));
    }
    (zones, distinct.estimate())
}

/// Least and greatest value, (0, 0) where all are NULL.
pub(super) fn integer_range(zones: &[Zone]) -> (i64, i64) {
    let int = |bound: &Option<Bound>| match bound {
        Some(Bound::Int(value)) => Some(*value as i64),
        _ => None,
    };
    let min = zones.iter().filter_map(|zone| int(&zone.min)).min();
    let max = zones.iter().filter_map(|zone| int(&zone.max)).max();
    (min.unwrap_or(0), max.unwrap_or(0))
}

/// The narrowest element for values in `min..=max`, at most as wide as `register`, and the base; the base is 0 where the values fit without.
pub(super) fn narrowest(min: i64, max: i64, register: PhysicalType) -> (PhysicalType, i64) {
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

/// Whether the distinct values of so many rows are counted one by one, in a bitmap of their range.
pub(super) fn counts_exactly(min: i64, max: i64, rows: usize) -> bool {
    max.abs_diff(min) / 16 <= rows as u64
}

/// Distinct values, and whether the number is exact: a bitmap where the range is small, a sketch otherwise.
pub(super) fn distinct_integers<T: Integer>(values: &[T], validity: &Nulls, min: i64, max: i64) -> (u64, bool) {
    let span = max.abs_diff(min);
    if counts_exactly(min, max, values.len()) {
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
pub(super) struct DistinctSketch {
    registers: Box<[u8; 1 << Self::BITS]>,
}

impl DistinctSketch {
    const BITS: u32 = 12;

    pub(super) fn new() -> Self {
        Self { registers: Box::new([0; 1 << Self::BITS]) }
    }

    pub(super) fn add(&mut self, word: u64) {
        // The finalizer of MurmurHash3 (Appleby): every bit of the word reaches every bit of the hash.
        let mut h = word;
        h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        h ^= h >> 33;
        let register = &mut self.registers[(h >> (64 - Self::BITS)) as usize];
        let rank = ((h << Self::BITS) | 1 << (Self::BITS - 1)).leading_zeros() + 1;
        *register = (*register).max(rank as u8);
    }

    /// Adds what the other one has seen.
    pub(super) fn merge(&mut self, other: &Self) {
        for (register, other) in self.registers.iter_mut().zip(&*other.registers) {
            *register = (*register).max(*other);
        }
    }

    pub(super) fn estimate(&self) -> u64 {
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
