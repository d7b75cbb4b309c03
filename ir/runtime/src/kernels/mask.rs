//! Byte masks: combine, count, and turn into selections.
//!
//! What holds:
//! - A mask has one byte a row, 0 or 1. Validity bytes are a mask.
//! - A selection holds the indices of the rows whose byte is 1, ascending, as u16; masks of at most 65,536 rows have one.

use super::{elements, elements_mut};
#[cfg(target_arch = "x86_64")]
use crate::cpu::SimdLevel;

multiversion! {
    /// `target &= other`.
    pub fn and(target: &mut [u8], other: &[u8]) {
        for (t, &o) in target.iter_mut().zip(other) {
            *t &= o;
        }
    }

    /// `target &= !other`: with validity bytes, the rows that are NULL.
    pub fn and_not(target: &mut [u8], other: &[u8]) {
        for (t, &o) in target.iter_mut().zip(other) {
            *t &= o ^ 1;
        }
    }

    /// `target |= other`.
    pub fn or(target: &mut [u8], other: &[u8]) {
        for (t, &o) in target.iter_mut().zip(other) {
            *t |= o;
        }
    }

    /// `target = !target`.
    pub fn not(target: &mut [u8]) {
        for t in target {
            *t ^= 1;
        }
    }

    /// The number of rows whose byte is 1.
    pub fn count(mask: &[u8]) -> usize {
        let mut total = 0;
        // Sums of at most 255 ones fit into bytes.
        for block in mask.chunks(255 * 32) {
            let mut sums = [0u8; 32];
            let mut lines = block.chunks_exact(32);
            for line in &mut lines {
                for (sum, &byte) in sums.iter_mut().zip(line) {
                    *sum += byte;
                }
            }
            total += sums.iter().map(|&s| usize::from(s)).sum::<usize>();
            total += lines.remainder().iter().map(|&b| usize::from(b)).sum::<usize>();
        }
        total
    }
}

/// Writes the indices of the rows whose byte is 1 and returns their number. `selection` is at least as long as the mask.
pub fn to_selection(mask: &[u8], selection: &mut [u16]) -> usize {
    assert!(mask.len() <= 1 << 16, "indices are 16 bits");
    assert!(selection.len() >= mask.len(), "room for all indices");
    #[cfg(target_arch = "x86_64")]
    if crate::cpu::simd_level() == SimdLevel::Avx512 && is_x86_feature_detected!("avx512vbmi2") {
        // SAFETY: the machine has these features, and the selection is as long as the mask.
        return unsafe { compress(mask, selection) };
    }
    to_selection_by_words(mask, selection)
}

/// [`to_selection`] by 32 rows at a time: the indices of ones are moved together in a register.
///
/// # Safety
/// The selection is at least as long as the mask.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,avx2,popcnt")]
unsafe fn compress(mask: &[u8], selection: &mut [u16]) -> usize {
    use std::arch::x86_64::*;
    let whole = mask.len() / 32 * 32;
    let mut count = 0;
    let first: [u16; 32] = std::array::from_fn(|i| i as u16);
    // SAFETY: an array of 64 bytes.
    let mut indices = unsafe { _mm512_loadu_si512(first.as_ptr().cast()) };
    for row in (0..whole).step_by(32) {
        // SAFETY: 32 bytes of the mask are left. At most `row` indices are written, and 32 more elements fit behind them.
        unsafe {
            let bytes = _mm256_loadu_si256(mask.as_ptr().add(row).cast());
            let ones = _mm256_test_epi8_mask(bytes, bytes);
            _mm512_storeu_si512(selection.as_mut_ptr().add(count).cast(), _mm512_maskz_compress_epi16(ones, indices));
            count += ones.count_ones() as usize;
        }
        indices = _mm512_add_epi16(indices, _mm512_set1_epi16(32));
    }
    for (row, &byte) in mask.iter().enumerate().skip(whole) {
        if byte != 0 {
            selection[count] = row as u16;
            count += 1;
        }
    }
    count
}

fn to_selection_by_words(mask: &[u8], selection: &mut [u16]) -> usize {
    let mut count = 0;
    let mut words = mask.chunks_exact(8);
    let mut base = 0u16;
    for word in &mut words {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        // Bit 8 i of the word says whether row `base + i` is in.
        let bits = u64::from_le_bytes(bytes);
        if bits.count_ones() <= 1 {
            if bits != 0 {
                selection[count] = base + (bits.trailing_zeros() / 8) as u16;
                count += 1;
            }
        } else {
            // Every index is written, but only those of ones stay: no branch to mispredict. At least 8 elements are left, for
            // the count is at most the number of rows before this word.
            let room = &mut selection[count..count + 8];
            let mut kept = 0;
            for i in 0..8 {
                room[kept & 7] = base + i;
                kept += (bits >> (8 * i)) as usize & 1;
            }
            count += kept;
        }
        base = base.wrapping_add(8);
    }
    for (i, &byte) in words.remainder().iter().enumerate() {
        if byte != 0 {
            selection[count] = base + i as u16;
            count += 1;
        }
    }
    count
}

macro_rules! entry {
    ($($name:ident => $kernel:path;)+) => {$(
        /// See the table in [`crate::abi`].
        ///
        /// # Safety
        /// Both addresses point to `rows` bytes that do not overlap.
        pub(crate) unsafe fn $name(target: *mut u8, other: *mut u8, rows: i64) {
            // SAFETY: promised by the caller.
            unsafe { $kernel(elements_mut(target, rows), elements(other, rows)) }
        }
    )+};
}

entry! {
    mask_and => and;
    mask_and_not => and_not;
    mask_or => or;
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// `target` points to `rows` bytes.
pub(crate) unsafe fn mask_not(target: *mut u8, rows: i64) {
    // SAFETY: promised by the caller.
    not(unsafe { elements_mut(target, rows) });
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// `mask` points to `rows` bytes.
pub(crate) unsafe fn mask_count(mask: *mut u8, rows: i64) -> i64 {
    // SAFETY: promised by the caller.
    count(unsafe { elements(mask, rows) }) as i64
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// `mask` points to `rows` bytes, `selection` to room for as many u16.
pub(crate) unsafe fn mask_to_selection(mask: *mut u8, rows: i64, selection: *mut u8) -> i64 {
    // SAFETY: promised by the caller.
    unsafe { to_selection(elements(mask, rows), elements_mut(selection, rows)) as i64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::at_every_level;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn masks_behave_as_booleans(
            rows in prop::collection::vec((0u8..2, 0u8..2), 0..300),
            dense in any::<bool>(),
        ) {
            let a: Vec<u8> = rows.iter().map(|r| if dense { r.0 | 1 } else { r.0 }).collect();
            let b: Vec<u8> = rows.iter().map(|r| r.1).collect();
            at_every_level(|_| {
                let combined = |kernel: fn(&mut [u8], &[u8]), naive: fn(u8, u8) -> u8| {
                    let mut target = a.clone();
                    kernel(&mut target, &b);
                    let expected: Vec<u8> = a.iter().zip(&b).map(|(&a, &b)| naive(a, b)).collect();
                    assert_eq!(target, expected);
                };
                combined(and, |a, b| a & b);
                combined(and_not, |a, b| a & (1 - b));
                combined(or, |a, b| a | b);
                let mut inverted = a.clone();
                not(&mut inverted);
                assert!(a.iter().zip(&inverted).all(|(a, b)| a + b == 1));
                assert_eq!(count(&a), a.iter().filter(|&&b| b == 1).count());
            });
            at_every_level(|_| {
                let mut selection = vec![0; a.len()];
                let selected = to_selection(&a, &mut selection);
                let expected: Vec<u16> = (0..a.len()).filter(|&i| a[i] == 1).map(|i| i as u16).collect();
                assert_eq!(&selection[..selected], &expected[..]);
            });
        }
    }

    #[test]
    fn long_masks() {
        let ones = vec![1u8; 1 << 16];
        at_every_level(|_| assert_eq!(count(&ones), 1 << 16));
        at_every_level(|_| {
            let mut selection = vec![0; 1 << 16];
            assert_eq!(to_selection(&ones, &mut selection), 1 << 16);
            assert!(selection.iter().enumerate().all(|(i, &s)| i == usize::from(s)));
        });
    }
}
