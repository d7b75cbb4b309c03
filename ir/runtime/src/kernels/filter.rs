//! Scan filters: comparisons of a column with constants, or with another column, into byte masks.
//!
//! What holds:
//! - A filter sees elements as they are stored: constants are moved into the column's encoding by the caller (base subtracted, text to code).
//! - The mode says what becomes of the mask: it is set, ANDed or ORed; and whether the test is negated first. NULL is not the
//!   filter's business: AND the validity bytes afterwards, negated test or not.
//! - Integer tests are ranges `low <= x <= high` in i64, which may reach beyond the element's width; an empty range holds for nothing. So
//!   `=`, `<`, `<=`, `>`, `>=` and BETWEEN are one kernel, and `<>` its negation.
//! - Float tests are ranges with open or closed ends in which NaN is the greatest value: it is in the range where the mode says so.

use super::{elements, elements_mut};

/// What a filter does with the mask; the bits of the `mode` that generated code passes.
pub mod mode {
    /// `mask = test`.
    pub const SET: i32 = 0;
    /// `mask &= test`.
    pub const AND: i32 = 1;
    /// `mask |= test`.
    pub const OR: i32 = 2;
    /// Negates the test. Added to one of the above.
    pub const NEGATE: i32 = 4;
    /// Float ranges: `low < x` instead of `low <= x`.
    pub const LOW_OPEN: i32 = 8;
    /// Float ranges: `x < high` instead of `x <= high`.
    pub const HIGH_OPEN: i32 = 16;
    /// Float ranges: NaN is in the range.
    pub const NAN_IN: i32 = 32;

    pub(super) const COMBINE: i32 = 3;
}

/// Folds tests into a mask.
macro_rules! apply {
    ($mask:ident, $mode:ident, $tests:expr) => {{
        let flip = u8::from($mode & mode::NEGATE != 0);
        let tests = $mask.iter_mut().zip($tests);
        match $mode & mode::COMBINE {
            mode::AND => tests.for_each(|(m, t)| *m &= u8::from(t) ^ flip),
            mode::OR => tests.for_each(|(m, t)| *m |= u8::from(t) ^ flip),
            _ => tests.for_each(|(m, t)| *m = u8::from(t) ^ flip),
        }
    }};
}

macro_rules! integer_filters {
    ($($kernel:ident, $entry:ident, $ty:ty;)+) => {$(
        multiversion! {
            /// Tests `low <= x <= high`.
            pub fn $kernel(data: &[$ty], low: $ty, high: $ty, mask: &mut [u8], mode: i32) {
                apply!(mask, mode, data.iter().map(|&x| (x >= low) & (x <= high)));
            }
        }

        /// See the table in [`crate::abi`].
        ///
        /// # Safety
        /// `data` points to `rows` elements, `mask` to `rows` bytes.
        pub(crate) unsafe fn $entry(
            data: *mut u8,
            rows: i64,
            low: i64,
            high: i64,
            mask: *mut u8,
            mode: i32,
        ) {
            const LEAST: i64 = <$ty>::MIN as i64;
            const GREATEST: i64 = <$ty>::MAX as i64;
            // An empty range stays one: its ends do not cross when they are moved in.
            let empty = low > high || low > GREATEST || high < LEAST;
            let (low, high) = if empty {
                (GREATEST, LEAST)
            } else {
                (low.clamp(LEAST, GREATEST), high.clamp(LEAST, GREATEST))
            };
            // SAFETY: promised by the caller.
            unsafe {
                $kernel(
                    elements(data, rows),
                    low as $ty,
                    high as $ty,
                    elements_mut(mask, rows),
                    mode,
                );
            }
        }
    )+};
}

integer_filters! {
    range_i8, filter_range_i8, i8;
    range_i16, filter_range_i16, i16;
    range_i32, filter_range_i32, i32;
    range_i64, filter_range_i64, i64;
    range_u8, filter_range_u8, u8;
    range_u16, filter_range_u16, u16;
    range_u32, filter_range_u32, u32;
}

macro_rules! float_filters {
    ($($kernel:ident, $entry:ident, $ty:ty;)+) => {$(
        multiversion! {
            /// Tests a range; see [`mode`] for its ends and NaN.
            pub fn $kernel(data: &[$ty], low: $ty, high: $ty, mask: &mut [u8], mode: i32) {
                let nan = mode & mode::NAN_IN != 0;
                match (mode & mode::LOW_OPEN != 0, mode & mode::HIGH_OPEN != 0) {
                    (false, false) => apply!(mask, mode, data.iter().map(|&x| ((x >= low) & (x <= high)) | (x.is_nan() & nan))),
                    (false, true) => apply!(mask, mode, data.iter().map(|&x| ((x >= low) & (x < high)) | (x.is_nan() & nan))),
                    (true, false) => apply!(mask, mode, data.iter().map(|&x| ((x > low) & (x <= high)) | (x.is_nan() & nan))),
                    (true, true) => apply!(mask, mode, data.iter().map(|&x| ((x > low) & (x < high)) | (x.is_nan() & nan))),
                }
            }
        }

        /// See the table in [`crate::abi`].
        ///
        /// # Safety
        /// `data` points to `rows` elements, `mask` to `rows` bytes.
        pub(crate) unsafe fn $entry(
            data: *mut u8,
            rows: i64,
            low: $ty,
            high: $ty,
            mask: *mut u8,
            mode: i32,
        ) {
            // SAFETY: promised by the caller.
            unsafe {
                $kernel(elements(data, rows), low, high, elements_mut(mask, rows), mode);
            }
        }
    )+};
}

float_filters! {
    range_f32, filter_range_f32, f32;
    range_f64, filter_range_f64, f64;
}

macro_rules! lookup_filters {
    ($($kernel:ident, $entry:ident, $ty:ty;)+) => {$(
        /// Tests the byte of each code in a table of 0 and 1: IN lists and any other test on texts, once a value.
        pub fn $kernel(codes: &[$ty], table: &[u8], mask: &mut [u8], mode: i32) {
            apply!(mask, mode, codes.iter().map(|&c| table[c as usize] != 0));
        }

        /// See the table in [`crate::abi`].
        ///
        /// # Safety
        /// `codes` points to `rows` codes, `mask` to `rows` bytes, `table` to `values` bytes; codes are below `values`.
        pub(crate) unsafe fn $entry(
            codes: *mut u8,
            rows: i64,
            table: *mut u8,
            values: i64,
            mask: *mut u8,
            mode: i32,
        ) {
            // SAFETY: promised by the caller.
            unsafe {
                $kernel(
                    elements(codes, rows),
                    elements(table, values),
                    elements_mut(mask, rows),
                    mode,
                );
            }
        }
    )+};
}

lookup_filters! {
    lookup_u8, filter_lookup_u8, u8;
    lookup_u16, filter_lookup_u16, u16;
    lookup_u32, filter_lookup_u32, u32;
}

/// How two columns compare.
pub mod comparison {
    /// `a < b`.
    pub const LESS: i32 = 0;
    /// `a <= b`.
    pub const LESS_EQUAL: i32 = 1;
    /// `a = b`.
    pub const EQUAL: i32 = 2;
}

multiversion! {
    fn compare_blocks(a: &[i64], b: &[i64], delta: i64, comparison: i32, mask: &mut [u8], mode: i32) {
        let pairs = a.iter().zip(b).map(|(&a, &b)| (a.wrapping_add(delta), b));
        match comparison {
            comparison::LESS => apply!(mask, mode, pairs.map(|(a, b)| a < b)),
            comparison::LESS_EQUAL => apply!(mask, mode, pairs.map(|(a, b)| a <= b)),
            _ => apply!(mask, mode, pairs.map(|(a, b)| a == b)),
        }
    }

    /// Two columns of 16 bits, as dates are stored: compared in 32, without a copy.
    fn compare_i16(a: &[i16], b: &[i16], delta: i32, comparison: i32, mask: &mut [u8], mode: i32) {
        let pairs = a.iter().zip(b).map(|(&a, &b)| (i32::from(a) + delta, i32::from(b)));
        match comparison {
            comparison::LESS => apply!(mask, mode, pairs.map(|(a, b)| a < b)),
            comparison::LESS_EQUAL => apply!(mask, mode, pairs.map(|(a, b)| a <= b)),
            _ => apply!(mask, mode, pairs.map(|(a, b)| a == b)),
        }
    }

    fn widen_i8(data: &[i8], out: &mut [i64]) {
        out.iter_mut().zip(data).for_each(|(o, &x)| *o = x.into());
    }

    fn widen_i16(data: &[i16], out: &mut [i64]) {
        out.iter_mut().zip(data).for_each(|(o, &x)| *o = x.into());
    }

    fn widen_i32(data: &[i32], out: &mut [i64]) {
        out.iter_mut().zip(data).for_each(|(o, &x)| *o = x.into());
    }
}

/// Rows that are widened at a time.
const BLOCK: usize = 512;

/// Elements `begin..begin + len` of an integer column of `bytes` bytes an element, as i64.
///
/// # Safety
/// `data` points to `begin + len` elements.
unsafe fn widened(data: *mut u8, bytes: i32, begin: usize, len: usize, buffer: &mut [i64; BLOCK]) -> &[i64] {
    let start = data.wrapping_add(begin * bytes as usize);
    let rows = len as i64;
    // SAFETY: promised by the caller.
    unsafe {
        match bytes {
            1 => widen_i8(elements(start, rows), &mut buffer[..len]),
            2 => widen_i16(elements(start, rows), &mut buffer[..len]),
            4 => widen_i32(elements(start, rows), &mut buffer[..len]),
            _ => return elements(start, rows),
        }
    }
    &buffer[..len]
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// `a` and `b` point to `rows` signed integers of `a_bytes` and `b_bytes` bytes (1, 2, 4 or 8), `mask` to `rows` bytes.
#[allow(clippy::too_many_arguments, reason = "what generated code passes, one value each")]
pub(crate) unsafe fn filter_compare(
    a: *mut u8,
    a_bytes: i32,
    b: *mut u8,
    b_bytes: i32,
    rows: i64,
    delta: i64,
    comparison: i32,
    mask: *mut u8,
    mode: i32,
) {
    // SAFETY: promised by the caller.
    let mask: &mut [u8] = unsafe { elements_mut(mask, rows) };
    if let (2, 2, Ok(delta)) = (a_bytes, b_bytes, i32::try_from(delta))
        && delta.unsigned_abs() < 1 << 30
    {
        // SAFETY: promised by the caller.
        let (a, b) = unsafe { (elements(a, rows), elements(b, rows)) };
        return compare_i16(a, b, delta, comparison, mask, mode);
    }
    let (mut a_buffer, mut b_buffer) = ([0; BLOCK], [0; BLOCK]);
    for (block, mask) in mask.chunks_mut(BLOCK).enumerate() {
        let (begin, len) = (block * BLOCK, mask.len());
        // SAFETY: promised by the caller.
        let (a, b) =
            unsafe { (widened(a, a_bytes, begin, len, &mut a_buffer), widened(b, b_bytes, begin, len, &mut b_buffer)) };
        compare_blocks(a, b, delta, comparison, mask, mode);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::at_every_level;
    use proptest::prelude::*;

    const COMBINATIONS: [i32; 6] =
        [mode::SET, mode::AND, mode::OR, mode::SET | mode::NEGATE, mode::AND | mode::NEGATE, mode::OR | mode::NEGATE];

    fn combine(old: u8, test: bool, mode: i32) -> u8 {
        let test = u8::from(test != (mode & mode::NEGATE != 0));
        match mode & mode::COMBINE {
            mode::AND => old & test,
            mode::OR => old | test,
            _ => test,
        }
    }

    fn check(old: &[u8], run: impl Fn(*mut u8, i32), test: impl Fn(usize) -> bool, extra: i32) {
        at_every_level(|_| {
            for mode in COMBINATIONS {
                let mut mask = old.to_vec();
                run(mask.as_mut_ptr(), mode | extra);
                for (row, (&new, &old)) in mask.iter().zip(old).enumerate() {
                    assert_eq!(new, combine(old, test(row), mode), "row {row}, mode {mode}");
                }
            }
        });
    }

    type IntegerEntry = unsafe fn(*mut u8, i64, i64, i64, *mut u8, i32);

    fn check_integers<T: Copy>(data: &[T], wide: impl Fn(T) -> i64, entry: IntegerEntry, low: i64, high: i64) {
        let old: Vec<u8> = (0..data.len()).map(|i| (i % 3 == 0).into()).collect();
        let run = |mask: *mut u8, mode| {
            let start = data.as_ptr().cast_mut().cast();
            // SAFETY: data and mask have as many rows.
            unsafe { entry(start, data.len() as i64, low, high, mask, mode) }
        };
        check(&old, run, |row| (low..=high).contains(&wide(data[row])), 0);
    }

    proptest! {
        #[test]
        fn ranges_equal_a_naive_test(
            values in prop::collection::vec(prop_oneof![any::<i64>(), -130i64..130], 0..130),
            low in prop_oneof![any::<i64>(), -130i64..130, Just(i64::MIN)],
            high in prop_oneof![any::<i64>(), -130i64..130, Just(i64::MAX)],
        ) {
            macro_rules! width {
                ($ty:ty, $entry:ident) => {
                    let narrow: Vec<$ty> = values.iter().map(|&v| v as $ty).collect();
                    check_integers(&narrow, |v| v as i64, $entry, low, high);
                };
            }
            width!(i8, filter_range_i8);
            width!(i16, filter_range_i16);
            width!(i32, filter_range_i32);
            width!(i64, filter_range_i64);
            width!(u8, filter_range_u8);
            width!(u16, filter_range_u16);
            width!(u32, filter_range_u32);
        }

        #[test]
        fn columns_compare(
            pairs in prop::collection::vec((-100i64..100, -100i64..100), 0..1100),
            delta in -50i64..50,
        ) {
            let a: Vec<i16> = pairs.iter().map(|p| p.0 as i16).collect();
            let old = vec![1u8; pairs.len()];
            macro_rules! width {
                ($ty:ty) => {
                    let b: Vec<$ty> = pairs.iter().map(|p| p.1 as $ty).collect();
                    for (comparison, naive) in [
                        (comparison::LESS, (|a, b| a < b) as fn(i64, i64) -> bool),
                        (comparison::LESS_EQUAL, |a, b| a <= b),
                        (comparison::EQUAL, |a, b| a == b),
                    ] {
                        // SAFETY: all have as many rows.
                        let run = |mask: *mut u8, mode| unsafe {
                            filter_compare(
                                a.as_ptr().cast_mut().cast(), 2,
                                b.as_ptr().cast_mut().cast(), size_of::<$ty>() as i32,
                                pairs.len() as i64, delta, comparison, mask, mode,
                            )
                        };
                        check(&old, run, |row| naive(pairs[row].0 + delta, pairs[row].1), 0);
                    }
                };
            }
            width!(i8);
            width!(i16);
            width!(i32);
            width!(i64);
        }
    }

    #[test]
    fn float_ranges_have_ends_and_nan() {
        let values = [f64::NAN, -1.0, -0.0, 0.0, 1.0, f64::INFINITY, f64::NEG_INFINITY, 0.5];
        let values: Vec<f64> = values.iter().cycle().take(75).copied().collect();
        let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        let old = vec![1u8; values.len()];
        for ends in 0..8 {
            let extra = ends * mode::LOW_OPEN;
            for (low, high) in [(0.0, 1.0), (1.0, 0.0), (f64::NEG_INFINITY, f64::INFINITY)] {
                let test = |row: usize| {
                    let x = values[row];
                    let above = if extra & mode::LOW_OPEN != 0 { x > low } else { x >= low };
                    let below = if extra & mode::HIGH_OPEN != 0 { x < high } else { x <= high };
                    (above && below) || (x.is_nan() && extra & mode::NAN_IN != 0)
                };
                let rows = values.len() as i64;
                // SAFETY: data and mask have as many rows.
                let run = |mask: *mut u8, mode| unsafe {
                    filter_range_f64(values.as_ptr().cast_mut().cast(), rows, low, high, mask, mode)
                };
                check(&old, run, test, extra);
                // SAFETY: as above.
                let run = |mask: *mut u8, mode| unsafe {
                    let data = narrow.as_ptr().cast_mut().cast();
                    filter_range_f32(data, rows, low as f32, high as f32, mask, mode)
                };
                check(&old, run, test, extra);
            }
        }
    }

    #[test]
    fn codes_are_looked_up() {
        let table = [1u8, 0, 0, 1, 0];
        let codes: Vec<u8> = (0..77).map(|i| i % 5).collect();
        let wide: Vec<u16> = codes.iter().map(|&c| c.into()).collect();
        let wider: Vec<u32> = codes.iter().map(|&c| c.into()).collect();
        let old = vec![1u8; codes.len()];
        for entry in 0..3 {
            let run = |mask: *mut u8, mode| {
                let table = table.as_ptr().cast_mut();
                // SAFETY: data and mask have as many rows, codes are below 5.
                unsafe {
                    match entry {
                        0 => filter_lookup_u8(codes.as_ptr().cast_mut(), 77, table, 5, mask, mode),
                        1 => filter_lookup_u16(wide.as_ptr().cast_mut().cast(), 77, table, 5, mask, mode),
                        _ => filter_lookup_u32(wider.as_ptr().cast_mut().cast(), 77, table, 5, mask, mode),
                    }
                }
            };
            check(&old, run, |row| table[usize::from(codes[row])] != 0, 0);
        }
    }
}
