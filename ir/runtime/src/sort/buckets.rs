//! Rows with their normalized keys, cut into buckets before they are sorted.
//!
//! What holds:
//! - Buckets lie between splitters that are taken from a sample. All items of one key are in one bucket, in input order.
//! - A bucket is sorted by the eight bits that come behind those which all its keys share, then each of the parts in turn: what came in
//!   the order of the keys behind the first is found in order there, and costs no more than a look.

/// A normalized key of 64 or 128 bits.
pub(super) trait KeyWord: Copy + Ord + Send + Sync {
    fn from_bits(bits: u128) -> Self;

    /// Of the upper 64 bits, the others being zero.
    fn from_word(word: u64) -> Self;

    /// How many leading bits two keys share.
    fn common(self, other: Self) -> u32;

    /// At most 16 bits behind the first `skip`; fewer where the key ends.
    fn bits(self, skip: u32, count: u32) -> usize;
}

impl KeyWord for u64 {
    fn from_bits(bits: u128) -> Self {
        (bits >> 64) as u64
    }

    fn from_word(word: u64) -> Self {
        word
    }

    fn common(self, other: Self) -> u32 {
        (self ^ other).leading_zeros()
    }

    fn bits(self, skip: u32, count: u32) -> usize {
        (self.checked_shl(skip).unwrap_or(0) >> (u64::BITS - count)) as usize
    }
}

impl KeyWord for u128 {
    fn from_bits(bits: u128) -> Self {
        bits
    }

    fn from_word(word: u64) -> Self {
        u128::from(word) << 64
    }

    fn common(self, other: Self) -> u32 {
        (self ^ other).leading_zeros()
    }

    fn bits(self, skip: u32, count: u32) -> usize {
        (self.checked_shl(skip).unwrap_or(0) >> (u128::BITS - count)) as usize
    }
}

/// A row and its key.
#[derive(Clone, Copy)]
pub(super) struct Item<K> {
    pub(super) key: K,
    pub(super) row: *mut u8,
}

// SAFETY: items name rows that no one writes to while they are sorted.
unsafe impl<K: Send> Send for Item<K> {}
// SAFETY: as above.
unsafe impl<K: Sync> Sync for Item<K> {}

/// Rows a bucket, about.
const BUCKET_ROWS: usize = 16 << 10;
const MAX_BUCKETS: usize = 256;
/// Samples a bucket.
const SAMPLES: usize = 32;
/// Leading bits of a key that tell its bucket, or a few that it may be in.
const SLOT_BITS: u32 = 12;

/// Keys between buckets: a key belongs to the bucket whose number is that of the splitters that are less or equal.
pub(super) struct Splitters<K> {
    /// Ascending and distinct.
    keys: Vec<K>,
    /// For each value of the leading bits the first and the last bucket; empty where there is one bucket.
    slots: Vec<(u8, u8)>,
}

impl<K: KeyWord> Splitters<K> {
    /// Splitters for so many rows, whose keys are asked for by their place.
    pub(super) fn new(rows: usize, key: impl Fn(usize) -> K) -> Self {
        let buckets = (rows / BUCKET_ROWS).min(MAX_BUCKETS);
        if buckets < 2 {
            return Self { keys: vec![], slots: vec![] };
        }
        let step = rows / (buckets * SAMPLES);
        let mut sample: Vec<K> = (0..rows).step_by(step).map(key).collect();
        sample.sort_unstable();
        let mut keys: Vec<K> = (1..buckets).map(|i| sample[sample.len() * i / buckets]).collect();
        keys.dedup();
        let below = |slot| keys.partition_point(|key| key.bits(0, SLOT_BITS) < slot) as u8;
        let slots = (0..1 << SLOT_BITS).map(|slot| (below(slot), below(slot + 1))).collect();
        Self { keys, slots }
    }

    pub(super) fn buckets(&self) -> usize {
        self.keys.len() + 1
    }

    #[inline]
    pub(super) fn bucket(&self, key: K) -> usize {
        let Some(&(first, last)) = self.slots.get(key.bits(0, SLOT_BITS)) else { return 0 };
        let first = usize::from(first);
        first + self.keys[first..usize::from(last)].partition_point(|splitter| *splitter <= key)
    }
}

/// For each chunk of items how many each bucket has of them, or where they go.
pub(super) type Counts = Vec<Vec<usize>>;

/// For each chunk where its items of each bucket go, and where each bucket begins, the end behind them.
pub(super) fn places(counts: &Counts, buckets: usize) -> (Counts, Vec<usize>) {
    let mut starts = vec![0; buckets + 1];
    let mut places = vec![vec![0; buckets]; counts.len()];
    for bucket in 0..buckets {
        let mut place = starts[bucket];
        for (places, counts) in places.iter_mut().zip(counts) {
            places[bucket] = place;
            place += counts[bucket];
        }
        starts[bucket + 1] = place;
    }
    (places, starts)
}

/// Fewer items are sorted at once.
const FEW: usize = 256;

/// Sorts a bucket, into one of two places: `rest` sorts a part, stably. Where keys are `complete`, equal ones need no sort.
pub(super) fn sort<'a, K: KeyWord>(
    items: &'a mut [Item<K>],
    spare: Option<&'a mut [Item<K>]>,
    complete: bool,
    rest: impl Fn(&mut [Item<K>]),
) -> &'a [Item<K>] {
    let Some(spare) = spare.filter(|_| items.len() > FEW) else {
        rest(items);
        return items;
    };
    let first = items[0].key;
    let mut shared = u32::MAX;
    let mut in_order = complete;
    let mut before = first;
    for item in &*items {
        shared = shared.min(item.key.common(first));
        in_order &= before <= item.key;
        before = item.key;
    }
    if in_order {
        return items;
    }
    let part = |item: &Item<K>| item.key.bits(shared, 8);
    let mut places = [0; 256];
    items.iter().for_each(|item| places[part(item)] += 1);
    let mut begin = 0;
    for place in &mut places {
        begin += std::mem::replace(place, begin);
    }
    for item in &*items {
        let place = &mut places[part(item)];
        spare[*place] = *item;
        *place += 1;
    }
    // Each place is now the end of its part.
    let mut begin = 0;
    for end in places {
        rest(&mut spare[begin..end]);
        begin = end;
    }
    spare
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixed(i: usize) -> u64 {
        (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
    }

    #[test]
    fn a_key_is_behind_the_splitters_that_are_not_greater() {
        let distributions: [fn(usize) -> u64; 5] =
            [mixed, |i| mixed(i) >> 40, |i| mixed(i) | 0xffff << 48, |i| i as u64 % 3, |_| u64::MAX];
        for key in distributions {
            let rows = 40 * BUCKET_ROWS;
            let splitters = Splitters::new(rows, key);
            assert!(splitters.keys.is_sorted_by(|a, b| a < b) && splitters.buckets() <= 40);
            let wide = Splitters::new(rows, |i| u128::from(key(i)) << 64);
            let edges = splitters.keys.iter().flat_map(|&k| [k.wrapping_sub(1), k, k.wrapping_add(1)]);
            for key in edges.chain([0, u64::MAX]).chain((0..1000).map(key)) {
                let expected = splitters.keys.iter().filter(|splitter| **splitter <= key).count();
                assert_eq!(splitters.bucket(key), expected);
                assert_eq!(wide.bucket(u128::from_word(key)), expected);
            }
        }
        assert_eq!(Splitters::new(100, mixed).buckets(), 1);
        assert_eq!(Splitters::new(100, mixed).bucket(7), 0);
    }

    #[test]
    fn chunks_go_to_places_of_their_own() {
        let (places, starts) = places(&vec![vec![2, 0, 1], vec![1, 3, 0]], 3);
        assert_eq!(starts, [0, 3, 6, 7]);
        assert_eq!(places, [[0, 3, 6], [2, 3, 7]]);
        assert_eq!(super::places(&vec![], 1), (vec![], vec![0, 0]));
    }

    #[test]
    fn buckets_are_sorted_stably() {
        let distributions: [fn(usize) -> u64; 6] = [
            mixed,
            |i| mixed(i) % 7,
            |i| i as u64,
            |i| u64::MAX - i as u64,
            |i| 1 << 63 | (mixed(i) % 16) << 40 | i as u64,
            |_| 5,
        ];
        for key in distributions {
            for len in [1, 2, FEW, FEW + 1, 5000] {
                let rows = vec![0u8; len];
                let row = |i: usize| rows.as_ptr().cast_mut().wrapping_add(i);
                let mut items: Vec<Item<u64>> = (0..len).map(|i| Item { key: key(i), row: row(i) }).collect();
                let mut expected: Vec<(u64, *mut u8)> = items.iter().map(|item| (item.key, item.row)).collect();
                expected.sort_by_key(|item| item.0);
                let mut spare = items.clone();
                let rest = |items: &mut [Item<u64>]| items.sort_by_key(|item| item.key);
                let sorted = sort(&mut items, Some(&mut spare), true, rest);
                assert!(sorted.iter().map(|item| (item.key, item.row)).eq(expected));
            }
        }
    }
}
