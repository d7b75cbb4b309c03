//! From what files store to elements of columns: packed bits, keys of dictionaries, numbers wider than they need be.
//!
//! What holds:
//! - Packed bits are those of Parquet's hybrid encoding: eight numbers of `width` bits in `width` bytes, the first in the lowest bits.
//! - A narrowed number is the number minus a base, cut to the element; whether it was within bounds is the result.

/// Unpacks whole groups; first those that go by vectors.
fn unpack_width<const WIDTH: usize>(packed: &[u8], out: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    let (packed, out) = match crate::cpu::simd_level() {
        crate::cpu::SimdLevel::Avx512 | crate::cpu::SimdLevel::Avx2 if WIDTH <= MAX_SHUFFLED => {
            // SAFETY: these levels are only given where the machine has AVX2.
            let done = unsafe { unpack_by_vectors::<WIDTH>(packed, out) };
            (&packed[done * WIDTH..], &mut out[done * 8..])
        }
        _ => (packed, out),
    };
    unpack_groups::<WIDTH>(packed, out);
}

/// Numbers of so many bits and the bits before them in their first byte fit in 32.
#[cfg(target_arch = "x86_64")]
const MAX_SHUFFLED: usize = 25;

/// Unpacks groups, each by two loads of 16 bytes for four numbers each; those at the end are left, where a load would go beyond what is
/// packed. Returns how many were unpacked.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn unpack_by_vectors<const WIDTH: usize>(packed: &[u8], out: &mut [u32]) -> usize {
    use std::arch::x86_64::{
        _mm_loadu_si128, _mm256_and_si256, _mm256_loadu_si256, _mm256_set_m128i, _mm256_set1_epi32,
        _mm256_shuffle_epi8, _mm256_srlv_epi32, _mm256_storeu_si256,
    };
    // The four bytes where each number begins, counted from what is loaded for its half; the bits before it there.
    let mut bytes = [0u8; 32];
    let mut shifts = [0u32; 8];
    for i in 0..8 {
        let bit = i * WIDTH - i / 4 * (WIDTH / 2 * 8);
        (0..4).for_each(|byte| bytes[4 * i + byte] = (bit / 8 + byte) as u8);
        shifts[i] = (bit % 8) as u32;
    }
    let room = (packed.len() + WIDTH).saturating_sub(WIDTH / 2 + 16);
    let groups = (room / WIDTH).min(out.len() / 8);
    // SAFETY: the arrays have 32 bytes. The loads of the last group end where the packed bytes do, or before; each group writes eight
    // numbers of those that are there.
    unsafe {
        let bytes = _mm256_loadu_si256(bytes.as_ptr().cast());
        let shifts = _mm256_loadu_si256(shifts.as_ptr().cast());
        let mask = _mm256_set1_epi32(((1u64 << WIDTH) - 1) as i32);
        for group in 0..groups {
            let at = packed.as_ptr().add(group * WIDTH);
            let (low, high) = (_mm_loadu_si128(at.cast()), _mm_loadu_si128(at.add(WIDTH / 2).cast()));
            let words = _mm256_shuffle_epi8(_mm256_set_m128i(high, low), bytes);
            let numbers = _mm256_and_si256(_mm256_srlv_epi32(words, shifts), mask);
            _mm256_storeu_si256(out.as_mut_ptr().add(group * 8).cast(), numbers);
        }
    }
    groups
}

multiversion_const! {
    fn unpack_groups<WIDTH>(packed: &[u8], out: &mut [u32]) {
        let mask = ((1u64 << WIDTH) - 1) as u32;
        let mut last = [0u8; 40];
        for (group, out) in out.chunks_exact_mut(8).enumerate() {
            let at = group * WIDTH;
            let window = match packed.get(at..at + WIDTH + 8) {
                Some(window) => window,
                None => {
                    last[..WIDTH].copy_from_slice(&packed[at..at + WIDTH]);
                    &last[..WIDTH + 8]
                }
            };
            for (i, out) in out.iter_mut().enumerate() {
                let bit = i * WIDTH;
                let word = window[bit / 8..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                *out = (word >> (bit % 8)) as u32 & mask;
            }
        }
    }
}

macro_rules! by_width {
    ($width:expr, $packed:expr, $out:expr; $($n:literal)+) => {
        match $width {
            $($n => unpack_width::<$n>($packed, $out),)+
            width => unreachable!("numbers of {width} bits"),
        }
    };
}

/// Unpacks numbers of `width` bits, at most 32.
///
/// # Panics
/// Where `out` is no multiple of 8 numbers long, or `packed` is shorter than they are.
pub fn unpack(packed: &[u8], width: usize, out: &mut [u32]) {
    assert!(width <= 32 && out.len().is_multiple_of(8) && packed.len() >= out.len() / 8 * width, "packed numbers");
    if width == 0 {
        out.fill(0);
        return;
    }
    by_width!(width, packed, out;
        1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32);
}

multiversion! {
    /// The highest of the keys, 0 where there is none.
    pub fn highest(keys: &[u32]) -> u32 {
        keys.iter().fold(0, |high, &key| high.max(key))
    }
}

/// Elements that come by keys, or with NULLs between them.
pub(crate) trait Slot: Copy + Default {
    /// `out[i] = table[keys[i]]`.
    ///
    /// # Panics
    /// A key that the table does not have.
    fn gather(table: &[Self], keys: &[u32], out: &mut [Self]) {
        for (out, &key) in out.iter_mut().zip(keys) {
            *out = table[key as usize];
        }
    }

    /// The elements of `dense`, one for each row whose byte of `valid` is 1; the others stay as they are.
    fn spread(dense: &[Self], valid: &[u8], out: &mut [Self]) {
        let mut next = 0;
        for (out, &valid) in out.iter_mut().zip(valid) {
            if valid != 0 {
                *out = dense[next];
                next += 1;
            }
        }
    }
}

impl Slot for u8 {}
impl Slot for u16 {}
impl Slot for u32 {}
impl Slot for f32 {}
impl Slot for f64 {}

/// Integers that columns narrow.
pub(crate) trait NarrowSlot: Slot + Into<i64> {
    /// The least and the greatest element of the rows that have one.
    fn range(values: &[Self], valid: Option<&[u8]>) -> Option<(i64, i64)>;
    /// The number minus a base.
    fn narrowed(value: i64, base: i64) -> Self;
    /// Narrows 32-bit numbers; whether all were in `min..=max`.
    fn narrow_i32(bytes: &[[u8; 4]], base: i64, bounds: (i64, i64), out: &mut [Self]) -> bool;
    /// Narrows 64-bit numbers; whether all were in `min..=max`.
    fn narrow_i64(bytes: &[[u8; 8]], base: i64, bounds: (i64, i64), out: &mut [Self]) -> bool;
}

macro_rules! narrow_slots {
    ($($ty:ident $range:ident $range_valid:ident $from_i32:ident $from_i64:ident;)+) => {$(
        multiversion! {
            fn $range(values: &[$ty]) -> ($ty, $ty) {
                values.iter().fold(($ty::MAX, $ty::MIN), |(min, max), &v| (min.min(v), max.max(v)))
            }

            fn $range_valid(values: &[$ty], valid: &[u8]) -> ($ty, $ty) {
                values.iter().zip(valid).fold(($ty::MAX, $ty::MIN), |(min, max), (&v, &valid)| {
                    let known = valid != 0;
                    (min.min(if known { v } else { $ty::MAX }), max.max(if known { v } else { $ty::MIN }))
                })
            }

            fn $from_i32(bytes: &[[u8; 4]], base: i64, bounds: (i64, i64), out: &mut [$ty]) -> bool {
                let mut outside = false;
                for (out, bytes) in out.iter_mut().zip(bytes) {
                    let value = i64::from(i32::from_le_bytes(*bytes));
                    outside |= (value < bounds.0) | (value > bounds.1);
                    *out = value.wrapping_sub(base) as $ty;
                }
                !outside
            }

            fn $from_i64(bytes: &[[u8; 8]], base: i64, bounds: (i64, i64), out: &mut [$ty]) -> bool {
                let mut outside = false;
                for (out, bytes) in out.iter_mut().zip(bytes) {
                    let value = i64::from_le_bytes(*bytes);
                    outside |= (value < bounds.0) | (value > bounds.1);
                    *out = value.wrapping_sub(base) as $ty;
                }
                !outside
            }
        }

        impl Slot for $ty {}

        impl NarrowSlot for $ty {
            fn range(values: &[Self], valid: Option<&[u8]>) -> Option<(i64, i64)> {
                let (min, max) = match valid {
                    None => $range(values),
                    Some(valid) => $range_valid(values, valid),
                };
                (min <= max).then(|| (min.into(), max.into()))
            }

            fn narrowed(value: i64, base: i64) -> Self {
                value.wrapping_sub(base) as $ty
            }

            fn narrow_i32(bytes: &[[u8; 4]], base: i64, bounds: (i64, i64), out: &mut [Self]) -> bool {
                $from_i32(bytes, base, bounds, out)
            }

            fn narrow_i64(bytes: &[[u8; 8]], base: i64, bounds: (i64, i64), out: &mut [Self]) -> bool {
                $from_i64(bytes, base, bounds, out)
            }
        }
    )+};
}

narrow_slots! {
    i8 range_i8 range_valid_i8 i8_from_i32 i8_from_i64;
    i16 range_i16 range_valid_i16 i16_from_i32 i16_from_i64;
    i32 range_i32 range_valid_i32 i32_from_i32 i32_from_i64;
    i64 range_i64 range_valid_i64 i64_from_i32 i64_from_i64;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::at_every_level;

    #[test]
    fn numbers_of_every_width_are_unpacked() {
        at_every_level(|level| {
            for width in 0..=32usize {
                for groups in [0, 1, 2, 5, 33] {
                    let mask = ((1u64 << width) - 1) as u32;
                    let numbers: Vec<u32> =
                        (0..groups as u32 * 8).map(|i| i.wrapping_mul(0x9e37_79b9).rotate_left(7) & mask).collect();
                    let mut packed = vec![0u8; groups * width];
                    for (i, number) in numbers.iter().enumerate() {
                        for bit in (0..width).filter(|bit| number >> bit & 1 == 1) {
                            packed[(i * width + bit) / 8] |= 1 << ((i * width + bit) % 8);
                        }
                    }
                    let mut out = vec![7; numbers.len()];
                    unpack(&packed, width, &mut out);
                    assert_eq!(out, numbers, "{level:?}, {width} bits");
                    assert_eq!(highest(&out), numbers.iter().copied().max().unwrap_or(0));
                }
            }
        });
    }

    #[test]
    fn narrowing_tells_what_is_outside() {
        at_every_level(|level| {
            for outside in [None, Some(0), Some(9), Some(40)] {
                let mut values: Vec<i64> = (1000..1041).collect();
                if let Some(at) = outside {
                    values[at] = 999;
                }
                let bytes: Vec<[u8; 8]> = values.iter().map(|v| v.to_le_bytes()).collect();
                let mut out = vec![0i8; values.len()];
                let within = i8::narrow_i64(&bytes, 1128, (1000, 1255), &mut out);
                assert_eq!(within, outside.is_none(), "{level:?}");
                assert_eq!((out[1], out[39]), (-127, -89));
                let bytes: Vec<[u8; 4]> = values.iter().map(|v| (*v as i32).to_le_bytes()).collect();
                let mut out = vec![0i64; values.len()];
                assert_eq!(i64::narrow_i32(&bytes, 0, (1000, 1255), &mut out), outside.is_none(), "{level:?}");
                assert_eq!(out, values);
            }
        });
    }

    #[test]
    fn ranges_leave_nulls_out() {
        at_every_level(|_| {
            let values: Vec<i16> = (0..100).map(|i| i * 3 - 50).collect();
            let valid: Vec<u8> = (0..100).map(|i| u8::from((20..90).contains(&i))).collect();
            assert_eq!(i16::range(&values, None), Some((-50, 247)));
            assert_eq!(i16::range(&values, Some(&valid)), Some((10, 217)));
            assert_eq!(i16::range(&values, Some(&[0; 100])), None);
            assert_eq!(i16::range(&[], None), None);
        });
    }
}
