//! Sums of few groups over a tile: which slot each row falls into, and masked sums of each slot.
//!
//! What holds:
//! - A row's slot is a byte below [`MOST_SLOTS`], or [`NO_SLOT`] where the row is left out.
//! - The list of the slots that are there has them in the order of their first rows, so that groups come in that order.
//! - Sums wrap: whoever asks for them has a proof that what the sums come to fits 64 bits.
//! - Where all rows are of one group, products of two columns are summed in one pass over them and the mask.

use super::{elements, elements_mut};

/// The most slots.
pub const MOST_SLOTS: usize = 8;

/// The slot of a row that is left out.
pub const NO_SLOT: u8 = 255;

/// Slots whose sums are kept in registers at a time.
const TOGETHER: usize = 4;

/// Rows that are summed at a time: that many i16 fit an i32.
const BLOCK: usize = 1 << 15;

/// A slot that rows of the tile fall into.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundSlot {
    /// The slot.
    pub slot: i64,
    /// Its first row in the tile.
    pub first: i64,
    /// The number of its rows.
    pub rows: i64,
}

multiversion! {
    /// `slots = slots * values + codes`, bytes.
    pub fn add_codes(slots: &mut [u8], codes: &[u8], values: u8) {
        for (slot, &code) in slots.iter_mut().zip(codes) {
            *slot = slot.wrapping_mul(values).wrapping_add(code);
        }
    }

    /// Leaves out the rows whose byte of the mask is 0.
    fn leave_out(slots: &mut [u8], mask: &[u8]) {
        for (slot, &mask) in slots.iter_mut().zip(mask) {
            *slot |= (mask ^ 1).wrapping_neg();
        }
    }

    fn count_of(slots: &[u8], slot: u8) -> usize {
        let mut total = 0;
        // Sums of at most 255 ones fit into bytes.
        for block in slots.chunks(255 * 64) {
            let mut sums = [0u8; 64];
            let mut lines = block.chunks_exact(64);
            for line in &mut lines {
                for (sum, &byte) in sums.iter_mut().zip(line) {
                    *sum += u8::from(byte == slot);
                }
            }
            total += sums.iter().map(|&s| usize::from(s)).sum::<usize>();
            total += lines.remainder().iter().filter(|&&b| b == slot).count();
        }
        total
    }
}

/// Writes the slots that rows fall into, by their first rows, and returns their number.
pub fn find_slots(slots: &[u8], list: &mut [FoundSlot; MOST_SLOTS]) -> usize {
    let (mut found, mut left) = (0, slots.len() - count_of(slots, NO_SLOT));
    for slot in 0..MOST_SLOTS as u8 {
        if left == 0 {
            break;
        }
        let rows = count_of(slots, slot);
        if let (1.., Some(first)) = (rows, slots.iter().position(|&s| s == slot)) {
            list[found] = FoundSlot { slot: slot.into(), first: first as i64, rows: rows as i64 };
            found += 1;
            left -= rows;
        }
    }
    list[..found].sort_unstable_by_key(|f| f.first);
    found
}

macro_rules! integers {
    ($($ty:ty, $sum:ty, $sums:ident, $sums_entry:ident, $scale:ident, $multiply:ident, $scale_entry:ident;)+) => {$(
        multiversion_const! {
            fn $sums<N>(data: &[$ty], slots: &[u8], wanted: &[u8], sums: &mut [i64]) {
                let mut of_slot = [NO_SLOT; N];
                of_slot.copy_from_slice(wanted);
                let mut totals = [0i64; N];
                for (data, slots) in data.chunks(BLOCK).zip(slots.chunks(BLOCK)) {
                    // One sum a slot and one pass for all: this form is what the compiler makes vectors of.
                    let mut sums = [0 as $sum; N];
                    for (&x, &slot) in data.iter().zip(slots) {
                        for (sum, &of) in sums.iter_mut().zip(&of_slot) {
                            *sum = sum.wrapping_add(if slot == of { <$sum>::from(x) } else { 0 });
                        }
                    }
                    totals.iter_mut().zip(sums).for_each(|(t, s)| *t = t.wrapping_add(i64::from(s)));
                }
                sums.copy_from_slice(&totals);
            }
        }

        /// See the table in [`crate::abi`].
        ///
        /// # Safety
        /// `data` points to `rows` elements, `slots` to `rows` bytes, `list` to `found` [`FoundSlot`]s (8 at most), `sums` to as
        /// many i64.
        pub(crate) unsafe fn $sums_entry(
            data: *mut u8,
            rows: i64,
            slots: *mut u8,
            list: *mut u8,
            found: i64,
            sums: *mut u8,
        ) {
            // SAFETY: promised by the caller.
            let (data, slots, list, sums) = unsafe {
                (
                    elements::<$ty>(data, rows),
                    elements::<u8>(slots, rows),
                    elements::<FoundSlot>(list, found),
                    elements_mut::<i64>(sums, found),
                )
            };
            for (list, sums) in list.chunks(TOGETHER).zip(sums.chunks_mut(TOGETHER)) {
                let mut wanted = [NO_SLOT; TOGETHER];
                wanted.iter_mut().zip(list).for_each(|(w, f)| *w = f.slot as u8);
                let wanted = &wanted[..list.len()];
                match list.len() {
                    1 => $sums::<1>(data, slots, wanted, sums),
                    2 => $sums::<2>(data, slots, wanted, sums),
                    3 => $sums::<3>(data, slots, wanted, sums),
                    _ => $sums::<4>(data, slots, wanted, sums),
                }
            }
        }

        multiversion! {
            fn $scale(data: &[$ty], factor: i64, constant: i64, words: &mut [i64]) {
                for (word, &x) in words.iter_mut().zip(data) {
                    *word = i64::from(x).wrapping_mul(factor).wrapping_add(constant);
                }
            }

            fn $multiply(data: &[$ty], factor: i64, constant: i64, words: &mut [i64]) {
                for (word, &x) in words.iter_mut().zip(data) {
                    *word = word.wrapping_mul(i64::from(x).wrapping_mul(factor).wrapping_add(constant));
                }
            }
        }

        /// See the table in [`crate::abi`].
        ///
        /// # Safety
        /// `data` points to `rows` elements, `words` to as many i64.
        pub(crate) unsafe fn $scale_entry(
            data: *mut u8,
            rows: i64,
            factor: i64,
            constant: i64,
            words: *mut u8,
            first: i32,
        ) {
            // SAFETY: promised by the caller.
            let (data, words) = unsafe { (elements::<$ty>(data, rows), elements_mut::<i64>(words, rows)) };
            match first {
                0 => $multiply(data, factor, constant, words),
                _ => $scale(data, factor, constant, words),
            }
        }
    )+};
}

integers! {
    i8, i32, sums_i8, slot_sums_i8, scale_i8, multiply_i8, words_scale_i8;
    i16, i32, sums_i16, slot_sums_i16, scale_i16, multiply_i16, words_scale_i16;
    i32, i64, sums_i32, slot_sums_i32, scale_i32, multiply_i32, words_scale_i32;
    i64, i64, sums_i64, slot_sums_i64, scale_i64, multiply_i64, words_scale_i64;
}

/// What the rows of a mask come to in two columns.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProductSums {
    /// The sum of the products.
    pub products: i64,
    /// The sum of the first column.
    pub first: i64,
    /// The sum of the second column.
    pub second: i64,
}

macro_rules! products {
    ($($a:ty, $b:ty, $sums:ident, $entry:ident;)+) => {$(
        multiversion! {
            fn $sums(a: &[$a], b: &[$b], mask: &[u8]) -> ProductSums {
                let [mut products, mut first, mut second] = [0i64; 3];
                for ((&a, &b), &mask) in a.iter().zip(b).zip(mask) {
                    let kept = -i64::from(mask);
                    let (x, y) = (i64::from(a) & kept, i64::from(b));
                    products = products.wrapping_add(x * y);
                    first = first.wrapping_add(x);
                    second = second.wrapping_add(y & kept);
                }
                ProductSums { products, first, second }
            }
        }

        /// See the table in [`crate::abi`].
        ///
        /// # Safety
        /// `a` and `b` point to `rows` elements, `mask` to as many bytes, `sums` to a [`ProductSums`].
        pub(crate) unsafe fn $entry(a: *mut u8, b: *mut u8, mask: *mut u8, rows: i64, sums: *mut u8) {
            // SAFETY: promised by the caller.
            unsafe {
                let (a, b) = (elements::<$a>(a, rows), elements::<$b>(b, rows));
                sums.cast::<ProductSums>().write_unaligned($sums(a, b, elements::<u8>(mask, rows)));
            }
        }
    )+};
}

products! {
    i8, i8, products_i8_i8, product_sums_i8_i8;
    i8, i16, products_i8_i16, product_sums_i8_i16;
    i8, i32, products_i8_i32, product_sums_i8_i32;
    i16, i16, products_i16_i16, product_sums_i16_i16;
    i16, i32, products_i16_i32, product_sums_i16_i32;
    i32, i32, products_i32_i32, product_sums_i32_i32;
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// `codes` is null or points to `rows` bytes, `slots` points to `rows` bytes.
pub(crate) unsafe fn slots_add(codes: *mut u8, rows: i64, values: i64, slots: *mut u8, first: i32) {
    // SAFETY: promised by the caller.
    unsafe {
        let slots = elements_mut::<u8>(slots, rows);
        if first != 0 {
            slots.fill(0);
        }
        if !codes.is_null() {
            add_codes(slots, elements(codes, rows), values as u8);
        }
    }
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// `slots` points to `rows` bytes, `mask` is null or points to as many, `list` points to [`MOST_SLOTS`] [`FoundSlot`]s.
pub(crate) unsafe fn slots_found(slots: *mut u8, mask: *mut u8, rows: i64, list: *mut u8) -> i64 {
    // SAFETY: promised by the caller.
    unsafe {
        let slots = elements_mut::<u8>(slots, rows);
        if !mask.is_null() {
            leave_out(slots, elements(mask, rows));
        }
        find_slots(slots, &mut *list.cast()) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::at_every_level;
    use proptest::prelude::*;

    type Sums = unsafe fn(*mut u8, i64, *mut u8, *mut u8, i64, *mut u8);

    fn check<T: Copy + Into<i64>>(sums: Sums, data: &[T], slots: &[u8], list: &[FoundSlot]) {
        let mut out = vec![77i64; list.len()];
        let (rows, found) = (data.len() as i64, list.len() as i64);
        let address = |p: *const u8| p.cast_mut();
        // SAFETY: all slices are as long as is said.
        unsafe {
            let list = address(list.as_ptr().cast());
            sums(address(data.as_ptr().cast()), rows, address(slots.as_ptr()), list, found, out.as_mut_ptr().cast());
        }
        for (f, sum) in list.iter().zip(&out) {
            let of_slot = data.iter().zip(slots).filter(|(_, s)| i64::from(**s) == f.slot);
            assert_eq!(*sum, of_slot.fold(0i64, |sum, (x, _)| sum.wrapping_add((*x).into())));
        }
    }

    proptest! {
        #[test]
        fn slots_and_their_sums_are_those_of_a_loop_over_rows(
            rows in prop::collection::vec((0u8..3, 0u8..2, 0u8..2, any::<i64>()), 0..300),
        ) {
            let a: Vec<u8> = rows.iter().map(|r| r.0).collect();
            let b: Vec<u8> = rows.iter().map(|r| r.1).collect();
            let mask: Vec<u8> = rows.iter().map(|r| r.2).collect();
            let words: Vec<i64> = rows.iter().map(|r| r.3).collect();
            let n = rows.len() as i64;
            let mut expected: Vec<FoundSlot> = vec![];
            for (i, r) in rows.iter().enumerate().filter(|(_, r)| r.2 == 1) {
                let slot = i64::from(r.0 * 2 + r.1);
                match expected.iter_mut().find(|f| f.slot == slot) {
                    Some(f) => f.rows += 1,
                    None => expected.push(FoundSlot { slot, first: i as i64, rows: 1 }),
                }
            }
            at_every_level(|_| {
                let mut slots = vec![9; rows.len()];
                let mut list = [FoundSlot { slot: 0, first: 0, rows: 0 }; MOST_SLOTS];
                // SAFETY: all slices are as long as is said.
                let found = unsafe {
                    slots_add(a.as_ptr().cast_mut(), n, 3, slots.as_mut_ptr(), 1);
                    slots_add(b.as_ptr().cast_mut(), n, 2, slots.as_mut_ptr(), 0);
                    slots_found(slots.as_mut_ptr(), mask.as_ptr().cast_mut(), n, list.as_mut_ptr().cast())
                };
                let list = &list[..found as usize];
                assert_eq!(list, expected);
                check(slot_sums_i64, &words, &slots, list);
                check(slot_sums_i32, &words.iter().map(|&x| x as i32).collect::<Vec<_>>(), &slots, list);
                check(slot_sums_i16, &words.iter().map(|&x| x as i16).collect::<Vec<_>>(), &slots, list);
                check(slot_sums_i8, &words.iter().map(|&x| x as i8).collect::<Vec<_>>(), &slots, list);
                let (mut out, bytes) = (vec![5i64; rows.len()], words.iter().map(|&x| x as i8).collect::<Vec<_>>());
                // SAFETY: as above.
                unsafe {
                    words_scale_i64(words.as_ptr().cast_mut().cast(), n, 3, -1, out.as_mut_ptr().cast(), 1);
                    words_scale_i8(bytes.as_ptr().cast_mut().cast(), n, -1, 100, out.as_mut_ptr().cast(), 0);
                }
                for ((out, &x), &y) in out.iter().zip(&words).zip(&bytes) {
                    assert_eq!(*out, x.wrapping_mul(3).wrapping_sub(1).wrapping_mul(100 - i64::from(y)));
                }
            });
        }
    }

    type Products = unsafe fn(*mut u8, *mut u8, *mut u8, i64, *mut u8);

    fn check_products<A: Copy + Into<i64>, B: Copy + Into<i64>>(sums: Products, a: &[A], b: &[B], mask: &[u8]) {
        let mut out = ProductSums { products: 7, first: 7, second: 7 };
        let address = |p: *const u8| p.cast_mut();
        // SAFETY: all slices are as long as is said.
        unsafe {
            let mask_address = address(mask.as_ptr());
            let (a, b) = (address(a.as_ptr().cast()), address(b.as_ptr().cast()));
            sums(a, b, mask_address, mask.len() as i64, (&raw mut out).cast());
        }
        let mut expected = ProductSums::default();
        for ((&a, &b), _) in a.iter().zip(b).zip(mask).filter(|(_, mask)| **mask == 1) {
            let (a, b): (i64, i64) = (a.into(), b.into());
            expected.products = expected.products.wrapping_add(a * b);
            expected.first += a;
            expected.second += b;
        }
        assert_eq!(out, expected);
    }

    proptest! {
        #[test]
        fn products_of_two_columns_are_those_of_a_loop_over_rows(
            rows in prop::collection::vec((any::<i32>(), any::<i32>(), 0u8..2), 0..300),
        ) {
            let a32: Vec<i32> = rows.iter().map(|r| r.0).chain([i32::MIN; 3]).collect();
            let b32: Vec<i32> = rows.iter().map(|r| r.1).chain([i32::MIN; 3]).collect();
            let mask: Vec<u8> = rows.iter().map(|r| r.2).chain([1, 0, 1]).collect();
            let short = |x: &[i32]| x.iter().map(|&x| (x >> 16) as i16).collect::<Vec<i16>>();
            let bytes = |x: &[i32]| x.iter().map(|&x| (x >> 24) as i8).collect::<Vec<i8>>();
            let (a16, b16, a8, b8) = (short(&a32), short(&b32), bytes(&a32), bytes(&b32));
            at_every_level(|_| {
                check_products(product_sums_i8_i8, &a8, &b8, &mask);
                check_products(product_sums_i8_i16, &a8, &b16, &mask);
                check_products(product_sums_i8_i32, &a8, &b32, &mask);
                check_products(product_sums_i16_i16, &a16, &b16, &mask);
                check_products(product_sums_i16_i32, &a16, &b32, &mask);
                check_products(product_sums_i32_i32, &a32, &b32, &mask);
            });
        }
    }

    #[test]
    fn sums_of_narrow_elements_do_not_wrap_where_blocks_of_rows_end() {
        let slots = vec![3u8; 70_000];
        let list = [FoundSlot { slot: 3, first: 0, rows: 70_000 }];
        at_every_level(|_| {
            check(slot_sums_i8, &vec![i8::MIN; slots.len()], &slots, &list);
            check(slot_sums_i16, &vec![i16::MIN; slots.len()], &slots, &list);
            check(slot_sums_i32, &vec![i32::MAX; slots.len()], &slots, &list);
        });
    }

    #[test]
    fn without_keys_and_mask_all_rows_are_of_slot_zero() {
        let mut slots = [7u8; 70];
        let mut list = [FoundSlot { slot: 0, first: 0, rows: 0 }; MOST_SLOTS];
        let null = std::ptr::null_mut();
        // SAFETY: the slices have 70 bytes and 8 entries.
        let found = unsafe {
            slots_add(null, 70, 1, slots.as_mut_ptr(), 1);
            slots_found(slots.as_mut_ptr(), null, 70, list.as_mut_ptr().cast())
        };
        assert_eq!((found, list[0]), (1, FoundSlot { slot: 0, first: 0, rows: 70 }));
    }
}
