//! Bloom filters over the hashes of a join's build side, for probes that mostly miss.
//!
//! What holds:
//! - A filter is a power of two of 64-bit words, 16 to 32 bits a key. A hash sets two bits of one word: the word by its top
//!   bits, the bits by the top twelve of another round.
//! - There are no false negatives.

use std::sync::Arc;

use super::filter::mode;
use super::hash::MULTIPLIER;
use super::{elements, elements_mut};
use crate::join_table::JoinTable;
use crate::pool::{MemoryLimitError, PoolArray, QueryMemory};

/// A filter. Generated code passes its address.
#[repr(C)]
pub struct BloomFilter {
    words: *mut u64,
    shift: u64,
    array: PoolArray<u64>,
}

// SAFETY: owns its words.
unsafe impl Send for BloomFilter {}
// SAFETY: shared access only reads.
unsafe impl Sync for BloomFilter {}

#[inline(always)]
fn bits(hash: u64) -> u64 {
    let round = hash.wrapping_mul(MULTIPLIER);
    1 << (round >> 58) | 1 << ((round >> 52) & 63)
}

impl BloomFilter {
    /// An empty filter for about `keys` keys.
    ///
    /// # Errors
    /// [`MemoryLimitError`].
    pub fn new(keys: usize, memory: &Arc<QueryMemory>) -> Result<Self, MemoryLimitError> {
        let words = (keys / 4).max(2).next_power_of_two();
        let array = PoolArray::zeroed(words, memory)?;
        Ok(Self { words: array.as_ptr(), shift: 64 - u64::from(words.ilog2()), array })
    }

    /// A filter of the rows of a table that can match.
    ///
    /// # Errors
    /// [`MemoryLimitError`].
    pub fn of_table(table: &JoinTable, memory: &Arc<QueryMemory>) -> Result<Self, MemoryLimitError> {
        let mut filter = Self::new(table.distinct_keys(), memory)?;
        for row in 0..table.len() {
            // SAFETY: rows of a join table begin with their hash.
            filter.insert(unsafe { *table.row(row).cast::<u64>() });
        }
        Ok(filter)
    }

    /// Adds a hash.
    pub fn insert(&mut self, hash: u64) {
        // SAFETY: the shift leaves an index below the number of words; `&mut self` makes the access unique.
        unsafe { *self.words.add((hash >> self.shift) as usize) |= bits(hash) };
    }

    /// Whether a hash may have been added: never false for one that was.
    pub fn may_contain(&self, hash: u64) -> bool {
        let word = self.as_words()[(hash >> self.shift) as usize];
        word & bits(hash) == bits(hash)
    }

    /// The address that generated code gets.
    pub fn as_ptr(&self) -> *const u8 {
        (&raw const *self).cast()
    }

    fn as_words(&self) -> &[u64] {
        // SAFETY: zeroed when made; writing needs `&mut self`.
        unsafe { self.array.slice(0..self.array.len()) }
    }
}

multiversion! {
    fn test(words: &[u64], shift: u64, hashes: &[u64], mask: &mut [u8], and: bool) {
        for (m, &hash) in mask.iter_mut().zip(hashes) {
            let word = words[(hash >> shift) as usize];
            let hit = u8::from(word & bits(hash) == bits(hash));
            *m = if and { *m & hit } else { hit };
        }
    }
}

/// See the table in [`crate::abi`].
///
/// # Safety
/// `filter` points to a live [`BloomFilter`], `hashes` to `rows` hashes, `mask` to `rows` bytes.
pub(crate) unsafe fn bloom_test(filter: *mut u8, hashes: *mut u8, rows: i64, mask: *mut u8, mode: i32) {
    // SAFETY: promised by the caller.
    unsafe {
        let filter = &*filter.cast::<BloomFilter>();
        let and = mode == mode::AND;
        test(filter.as_words(), filter.shift, elements(hashes, rows), elements_mut(mask, rows), and);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::at_every_level;
    use crate::kernels::hash::combine;

    #[test]
    fn what_was_added_is_found_and_most_else_is_not() {
        let memory = QueryMemory::unlimited();
        for keys in [0u64, 1, 10, 10_000] {
            let mut filter = BloomFilter::new(keys as usize, &memory).expect("no limit");
            for key in 0..keys {
                filter.insert(combine(0, key));
            }
            let hashes: Vec<u64> = (0..keys + 10_000).map(|key| combine(0, key)).collect();
            at_every_level(|_| {
                let mut mask = vec![0u8; hashes.len()];
                let rows = hashes.len() as i64;
                let address = filter.as_ptr().cast_mut();
                let start = hashes.as_ptr().cast_mut().cast();
                // SAFETY: filter, hashes and mask live and have as many rows.
                unsafe { bloom_test(address, start, rows, mask.as_mut_ptr(), mode::SET) };
                assert!(mask[..keys as usize].iter().all(|&m| m == 1));
                let expected: Vec<u8> = hashes.iter().map(|&h| filter.may_contain(h).into()).collect();
                assert_eq!(mask, expected);
                let wrong = mask[keys as usize..].iter().filter(|&&m| m == 1).count();
                assert!(wrong < 700, "{wrong} of 10000");
                mask.fill(0);
                // SAFETY: as above.
                unsafe { bloom_test(address, start, rows, mask.as_mut_ptr(), mode::AND) };
                assert!(mask.iter().all(|&m| m == 0));
            });
        }
    }
}
