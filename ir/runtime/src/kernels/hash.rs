//! The one hash function, for rows, for generated code and for columns.
//!
//! What holds:
//! - A hash is 64 bits, folded word by word: `h = 0; for each word: h = mix(h ^ word)` with `mix(x) = m ^ (m >> 32)`, `m = x * MULTIPLIER`.
//!   The top bits are those of Fibonacci hashing (Knuth, TAOCP vol. 3, 6.4); they choose a table's slot. Bits 26 to 31 choose a
//!   partition: like the top ones they depend on every bit of the word, also where its low bits are all zero, as a float's often are.
//! - The words of a value: integers, booleans and dates sign-extended to 64 bits; floats as [`f32_word`] and [`f64_word`]; I128 as [`i128_word`];
//!   text as [`text_word`]; NULL as [`NULL_WORD`]. So the same number hashes the same in every width and encoding.

use super::{elements, elements_mut};
use crate::column::TextView;
use crate::group_table::GroupTable;
use crate::join_table::JoinTable;

/// 2^64 divided by the golden ratio, odd.
pub const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// What NULL hashes as.
pub const NULL_WORD: u64 = 0x5bd1_e995_7b7d_159b;

/// The bits of every NaN's word.
pub const NAN_WORD: u64 = 0x7ff8_0000_0000_0000;

/// One round.
#[inline]
pub fn mix(x: u64) -> u64 {
    let m = x.wrapping_mul(MULTIPLIER);
    m ^ (m >> 32)
}

/// Folds one word into a hash.
#[inline]
pub fn combine(hash: u64, word: u64) -> u64 {
    mix(hash ^ word)
}

/// The number of partitions.
pub const PARTITIONS: usize = 64;

/// A hash's partition, below [`PARTITIONS`].
#[inline]
pub fn partition(hash: u64) -> usize {
    (hash >> 26) as usize % PARTITIONS
}

/// The word of a 128-bit integer: that of the same number as an i64 where it fits, for then the high half is the sign of the
/// low one, and `mix(0)` is 0.
#[inline]
pub fn i128_word(value: i128) -> u64 {
    let low = value as u64;
    let sign = (low as i64 >> 63) as u64;
    let rest = (value >> 64) as u64 ^ sign;
    low ^ mix(rest)
}

/// The word of an f64: its bits, with -0.0 as 0.0 and one NaN.
#[inline]
pub fn f64_word(value: f64) -> u64 {
    if value.is_nan() {
        NAN_WORD
    } else {
        // Adding 0.0 turns -0.0 into 0.0 and changes nothing else.
        (value + 0.0).to_bits()
    }
}

/// The word of an f32: that of the same number as an f64.
#[inline]
pub fn f32_word(value: f32) -> u64 {
    f64_word(f64::from(value))
}

/// The word of a text, the same for equal texts: up to 12 bytes, the fold of the view's two words; otherwise that of the
/// length and then of 8 bytes at a time, the last ones padded with zeros. Dictionaries hold it for each of their values.
#[inline]
pub fn text_word(view: &TextView) -> u64 {
    let (lo, hi) = view.to_words();
    if view.len() <= TextView::INLINE {
        return combine(combine(0, lo), hi);
    }
    long_text_word(view)
}

fn long_text_word(view: &TextView) -> u64 {
    // SAFETY: a view's bytes live as long as it does: the invariant of `TextView`.
    let bytes = unsafe { view.as_bytes() };
    let mut hash = combine(0, bytes.len() as u64);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let mut buffer = [0; 8];
        buffer.copy_from_slice(word);
        hash = combine(hash, u64::from_le_bytes(buffer));
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let mut buffer = [0; 8];
        buffer[..rest.len()].copy_from_slice(rest);
        hash = combine(hash, u64::from_le_bytes(buffer));
    }
    hash
}

/// Folds a text into a hash.
#[inline]
pub fn combine_text(hash: u64, view: &TextView) -> u64 {
    combine(hash, text_word(view))
}

/// Rows whose words are made at a time.
const BLOCK: usize = 256;

multiversion! {
    fn fold(words: &[u64], hashes: &mut [u64]) {
        for (h, &word) in hashes.iter_mut().zip(words) {
            *h = combine(*h, word);
        }
    }

    fn words_i8(data: &[i8], base: u64, out: &mut [u64]) {
        out.iter_mut().zip(data).for_each(|(o, &x)| *o = base.wrapping_add(i64::from(x) as u64));
    }

    fn words_i16(data: &[i16], base: u64, out: &mut [u64]) {
        out.iter_mut().zip(data).for_each(|(o, &x)| *o = base.wrapping_add(i64::from(x) as u64));
    }

    fn words_i32(data: &[i32], base: u64, out: &mut [u64]) {
        out.iter_mut().zip(data).for_each(|(o, &x)| *o = base.wrapping_add(i64::from(x) as u64));
    }

    fn words_i64(data: &[i64], base: u64, out: &mut [u64]) {
        out.iter_mut().zip(data).for_each(|(o, &x)| *o = base.wrapping_add(x as u64));
    }

    fn words_f32(data: &[f32], out: &mut [u64]) {
        out.iter_mut().zip(data).for_each(|(o, &x)| *o = f32_word(x));
    }

    fn words_f64(data: &[f64], out: &mut [u64]) {
        out.iter_mut().zip(data).for_each(|(o, &x)| *o = f64_word(x));
    }

    fn replace_nulls(valid: &[u8], words: &mut [u64]) {
        for (word, &valid) in words.iter_mut().zip(valid) {
            *word = if valid == 0 { NULL_WORD } else { *word };
        }
    }
}

/// Folds one column's rows into hashes, block by block: words, then NULLs, then the round.
fn hash_blocks<T>(
    data: &[T],
    valid: Option<&[u8]>,
    hashes: &mut [u64],
    first: bool,
    words_of: impl Fn(&[T], &mut [u64]),
) {
    if first {
        hashes.fill(0);
    }
    let mut words = [0; BLOCK];
    for (block, (data, hashes)) in data.chunks(BLOCK).zip(hashes.chunks_mut(BLOCK)).enumerate() {
        let words = &mut words[..data.len()];
        words_of(data, words);
        if let Some(valid) = valid {
            replace_nulls(&valid[block * BLOCK..][..data.len()], words);
        }
        fold(words, hashes);
    }
}

macro_rules! entry {
    ($($name:ident($($arg:ident: $arg_ty:ty),*), $ty:ty, $words_of:expr;)+) => {$(
        /// See the table in [`crate::abi`].
        ///
        /// # Safety
        /// `data` points to `rows` elements, `valid` is null or points to `rows` bytes, `hashes` points to `rows` u64.
        pub(crate) unsafe fn $name(
            data: *mut u8,
            rows: i64,
            valid: *mut u8,
            hashes: *mut u8,
            first: i32,
            $($arg: $arg_ty,)*
        ) {
            // SAFETY: promised by the caller.
            unsafe {
                let valid = (!valid.is_null()).then(|| elements::<u8>(valid, rows));
                let hashes = elements_mut(hashes, rows);
                hash_blocks(elements::<$ty>(data, rows), valid, hashes, first != 0, $words_of);
            }
        }
    )+};
}

entry! {
    hash_i8(base: i64), i8, |data: &[i8], out: &mut [u64]| words_i8(data, base as u64, out);
    hash_i16(base: i64), i16, |data: &[i16], out: &mut [u64]| words_i16(data, base as u64, out);
    hash_i32(base: i64), i32, |data: &[i32], out: &mut [u64]| words_i32(data, base as u64, out);
    hash_i64(base: i64), i64, |data: &[i64], out: &mut [u64]| words_i64(data, base as u64, out);
    hash_f32(), f32, words_f32;
    hash_f64(), f64, words_f64;
    hash_i128(), i128, |data: &[i128], out: &mut [u64]| {
        out.iter_mut().zip(data).for_each(|(o, &value)| *o = i128_word(value));
    };
    hash_text(), TextView, |data: &[TextView], out: &mut [u64]| {
        out.iter_mut().zip(data).for_each(|(o, view)| *o = text_word(view));
    };
    hash_codes_u8(words: *mut u8, values: i64), u8, |data: &[u8], out: &mut [u64]| {
        let words = elements::<u64>(words, values);
        out.iter_mut().zip(data).for_each(|(o, &code)| *o = words[usize::from(code)]);
    };
    hash_codes_u16(words: *mut u8, values: i64), u16, |data: &[u16], out: &mut [u64]| {
        let words = elements::<u64>(words, values);
        out.iter_mut().zip(data).for_each(|(o, &code)| *o = words[usize::from(code)]);
    };
    hash_codes_u32(words: *mut u8, values: i64), u32, |data: &[u32], out: &mut [u64]| {
        let words = elements::<u64>(words, values);
        out.iter_mut().zip(data).for_each(|(o, &code)| *o = words[code as usize]);
    };
}

/// Below this size a table is likely in the cache of its core, and asking for its lines costs more than it gains.
const PREFETCH_BYTES: u64 = 512 << 10;

/// Asks for the home slots of hashes, 16 bytes each.
///
/// # Safety
/// `hashes` points to `rows` hashes.
unsafe fn prefetch(entries: *const u8, shift: u64, mask: u64, hashes: *mut u8, rows: i64) {
    if (mask + 1) * 16 < PREFETCH_BYTES {
        return;
    }
    // SAFETY: promised by the caller.
    for hash in unsafe { elements::<u64>(hashes, rows) } {
        prefetch_line(entries.wrapping_add((hash >> shift) as usize * 16));
    }
}

/// Asks for the cache line of an address.
#[inline(always)]
pub(crate) fn prefetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees and does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// `table` points to a live [`JoinTable`], `hashes` to `rows` hashes.
pub(crate) unsafe fn join_table_prefetch(table: *mut u8, hashes: *mut u8, rows: i64) {
    // SAFETY: promised by the caller.
    unsafe {
        let table = &*table.cast::<JoinTable>();
        prefetch(table.entries.cast(), table.shift, table.mask, hashes, rows);
    }
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// `table` points to a live [`GroupTable`], `hashes` to `rows` hashes.
pub(crate) unsafe fn group_table_prefetch(table: *mut u8, hashes: *mut u8, rows: i64) {
    // SAFETY: promised by the caller.
    unsafe {
        let table = &*table.cast::<GroupTable>();
        prefetch(table.entries.cast(), table.shift, table.mask, hashes, rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{Field, FieldKind};
    use crate::column::{Column, ColumnKind, Encoding, PhysicalType};
    use crate::cpu::tests::at_every_level;
    use proptest::prelude::*;

    /// Hashes a column's rows with the block kernels.
    fn hash_column(column: &Column, hashes: &mut [u64], first: bool) {
        let rows = column.len() as i64;
        let data = column.data_ptr().cast_mut();
        let valid = column.validity().map_or(std::ptr::null_mut(), |v| v.as_ptr().cast_mut());
        let out = hashes.as_mut_ptr().cast();
        let first = first.into();
        let base = match column.encoding() {
            Encoding::Narrowed { base } => base,
            Encoding::Plain | Encoding::Dictionary => 0,
        };
        let words = column.dictionary().map_or(&[][..], |d| d.hash_words());
        let (words, values) = (words.as_ptr().cast_mut().cast(), words.len() as i64);
        // SAFETY: the column lives, and `hashes` has as many rows.
        unsafe {
            match column.physical() {
                PhysicalType::I8 => hash_i8(data, rows, valid, out, first, base),
                PhysicalType::I16 => hash_i16(data, rows, valid, out, first, base),
                PhysicalType::I32 => hash_i32(data, rows, valid, out, first, base),
                PhysicalType::I64 => hash_i64(data, rows, valid, out, first, base),
                PhysicalType::F32 => hash_f32(data, rows, valid, out, first),
                PhysicalType::F64 => hash_f64(data, rows, valid, out, first),
                PhysicalType::Text => hash_text(data, rows, valid, out, first),
                PhysicalType::Code8 => hash_codes_u8(data, rows, valid, out, first, words, values),
                PhysicalType::Code16 => hash_codes_u16(data, rows, valid, out, first, words, values),
                PhysicalType::Code32 => hash_codes_u32(data, rows, valid, out, first, words, values),
                PhysicalType::I128 => hash_i128(data, rows, valid, out, first),
            }
        }
    }

    proptest! {
        #[test]
        fn columns_hash_as_rows_do_in_every_encoding(
            rows in prop::collection::vec(
                (prop::option::weighted(0.8, -9i64..9), prop::option::weighted(0.8, "[a-b]{0,14}"), -2i8..3),
                1..600),
            spread in prop::sample::select(vec![1i64, 100, 100_000, 1 << 40]),
        ) {
            let ints: Vec<i64> = rows.iter().map(|r| r.0.unwrap_or(0) * spread).collect();
            let valid = Some(rows.iter().map(|r| r.0.is_some().into()).collect());
            let int = Column::from_i64(ColumnKind::I64, &ints, valid);
            let text = Column::from_text(rows.iter().map(|r| r.1.as_deref()));
            let floats: Vec<f64> = rows.iter().map(|r| if r.2 == 2 { f64::NAN } else { f64::from(r.2) * -0.5 }).collect();
            let float = Column::from_f64(&floats, None);
            let halves: Vec<f32> = floats.iter().map(|&f| f as f32).collect();
            let half = Column::from_f32(&halves, None);

            // i64 0..8, f64 8..16, text 16..32, valid of the i64 32, of the text 33.
            let fields = [
                Field::nullable(0, FieldKind::I64, 32),
                Field::nullable(16, FieldKind::Text, 33),
                Field::new(8, FieldKind::F64),
            ];
            let expected: Vec<u64> = (0..rows.len()).map(|i| {
                let mut row = [0u128; 3];
                let start = row.as_mut_ptr().cast::<u8>();
                // SAFETY: the row has 48 bytes, aligned to 16; the texts live in their column.
                unsafe {
                    *start.cast::<i64>() = ints[i];
                    *start.add(8).cast::<f64>() = floats[i];
                    *start.add(16).cast::<TextView>() = text.get_view(i);
                    *start.add(32) = rows[i].0.is_some().into();
                    *start.add(33) = rows[i].1.is_some().into();
                    crate::buffer::hash_keys(&fields, start)
                }
            }).collect();
            at_every_level(|_| {
                for (int, text, float) in [
                    (&int, &text, &float),
                    (&int.to_plain(), &text.to_plain(), &half),
                ] {
                    let mut hashes = vec![77; rows.len()];
                    hash_column(int, &mut hashes, true);
                    hash_column(text, &mut hashes, false);
                    hash_column(float, &mut hashes, false);
                    assert_eq!(hashes, expected);
                }
            });
        }
    }

    #[test]
    fn decimals_hash_the_same_in_every_width() {
        let kind = ColumnKind::Decimal { precision: 38, scale: 0 };
        let values = [0, 1, -1, i64::MAX.into(), i64::MIN.into(), 1 << 64, -(1 << 64), i128::MAX, i128::MIN];
        let mut words: Vec<u64> = values.iter().map(|&v| i128_word(v)).collect();
        let mut wide = vec![0; values.len()];
        hash_column(&Column::from_i128(kind, &values, None), &mut wide, true);
        let mut narrow = vec![0; 5];
        hash_column(&Column::from_i128(kind, &values[..5], None), &mut narrow, true);
        assert_eq!(wide[..5], narrow[..]);
        for (value, hash) in values.iter().zip(&wide) {
            let field = Field::new(0, FieldKind::I128);
            // SAFETY: the field is the value.
            assert_eq!(*hash, unsafe { field.hash(0, (&raw const *value).cast()) });
        }
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), values.len());
    }

    #[test]
    fn hashes_spread_over_slots_and_partitions() {
        for step in [1u64, 8, 1 << 20, 1 << 40, 1 << 52] {
            let (mut slots, mut partitions) = (vec![0u32; 256], vec![0u32; 64]);
            for i in 0..4096u64 {
                let hash = combine(0, i.wrapping_mul(step));
                slots[(hash >> 56) as usize] += 1;
                partitions[partition(hash)] += 1;
            }
            assert!(slots.iter().all(|&n| n < 64), "step {step}: {slots:?}");
            assert!(partitions.iter().all(|&n| n < 256), "step {step}: {partitions:?}");
        }
    }
}
