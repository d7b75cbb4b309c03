//! The one hash function, for rows, for generated code and for columns.
//!
//! What holds:
//! - A hash is 64 bits, folded word by word: `h = 0; for each word: h = mix(h ^ word)` with `mix(x) = m ^ (m >> 32)`, `m = x * MULTIPLIER`.
//!   The top bits are those of Fibonacci hashing (Knuth, TAOCP vol. 3, 6.4); they choose a table's slot. The low bits choose a
//!   partition.
//! - The words of a value: integers, booleans and dates sign-extended to 64 bits; floats as [`f32_word`] and [`f64_word`]; I128 as low,
//!   then high half; text as [`text_word`]; NULL as [`NULL_WORD`]. So the same number hashes the same in every width and encoding.

use crate::column::TextView;

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

/// Folds a 128-bit integer into a hash.
#[inline]
pub fn combine_i128(hash: u64, value: i128) -> u64 {
    combine(combine(hash, value as u64), (value >> 64) as u64)
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
