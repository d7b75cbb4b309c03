//! Random numbers as a pure function of (key, counter): Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random
//! numbers: as easy as 1, 2, 3" (SC 2011).
//!
//! The number with index i depends on the seed, the stream and i alone, so that any split of the work gives the same numbers.

use super::vector_math;
use crate::cpu::prefetch_line;

/// Swaps of a shuffle whose memory is asked for ahead of them.
const AHEAD: usize = 32;

/// One stream of random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Philox {
    key: [u32; 2],
    stream: u64,
}

const ROUNDS: u32 = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// The golden ratio and the square root of 3, less 1.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The bijection itself: four random words of a 128-bit counter under a 64-bit key (least significant words first).
#[inline(always)]
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..ROUNDS {
        let p0 = u64::from(MULTIPLIERS[0]) * u64::from(c0);
        let p1 = u64::from(MULTIPLIERS[1]) * u64::from(c2);
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

impl Philox {
    /// The stream with this number under this seed; different streams of one seed are independent.
    pub fn new(seed: u64, stream: u64) -> Philox {
        Philox { key: [seed as u32, (seed >> 32) as u32], stream }
    }

    /// The block with this index: four words.
    #[inline(always)]
    pub fn block(&self, index: u64) -> [u32; 4] {
        let counter = [index as u32, (index >> 32) as u32, self.stream as u32, (self.stream >> 32) as u32];
        philox4x32(counter, self.key)
    }

    /// Word `index` of the stream.
    #[inline]
    pub fn u32_at(&self, index: u64) -> u32 {
        self.block(index / 4)[(index % 4) as usize]
    }

    /// The 64-bit number with this index: words `2 index` and `2 index + 1`.
    #[inline]
    pub fn u64_at(&self, index: u64) -> u64 {
        let block = self.block(index / 2);
        let half = (index % 2 * 2) as usize;
        u64::from(block[half]) | u64::from(block[half + 1]) << 32
    }

    /// A number in [0, 1) with 24 bits.
    #[inline]
    pub fn uniform_f32(&self, index: u64) -> f32 {
        unit_f32(self.u32_at(index))
    }

    /// A number in [0, 1) with 53 bits.
    #[inline]
    pub fn uniform_f64(&self, index: u64) -> f64 {
        unit_f64(self.u64_at(index))
    }

    /// A number of the normal distribution with mean 0 and deviation 1 (Box and Muller 1958, the cosine branch).
    #[inline]
    pub fn normal_f64(&self, index: u64) -> f64 {
        let [a, b, c, d] = self.block(index);
        // 1 - u is in (0, 1], where the logarithm is finite.
        let u = 1.0 - unit_f64(u64::from(a) | u64::from(b) << 32);
        let v = unit_f64(u64::from(c) | u64::from(d) << 32);
        (-2.0 * vector_math::single::log_f64(u)).sqrt() * vector_math::single::cos_f64(std::f64::consts::TAU * v)
    }

    /// [`Philox::normal_f64`], rounded.
    #[inline]
    pub fn normal_f32(&self, index: u64) -> f32 {
        self.normal_f64(index) as f32
    }

    /// `out[i] = uniform_f32(first + i)`.
    pub fn fill_uniform_f32(&self, first: u64, out: &mut [f32]) {
        self.fill_words(first, out, unit_f32);
    }

    /// `out[i] = uniform_f64(first + i)`.
    pub fn fill_uniform_f64(&self, first: u64, out: &mut [f64]) {
        for (i, out) in (first..).zip(out) {
            *out = self.uniform_f64(i);
        }
    }

    /// `out[i] = normal_f32(first + i)`.
    pub fn fill_normal_f32(&self, first: u64, out: &mut [f32]) {
        for (i, out) in (first..).zip(out) {
            *out = self.normal_f32(i);
        }
    }

    /// `out[i] = normal_f64(first + i)`.
    pub fn fill_normal_f64(&self, first: u64, out: &mut [f64]) {
        for (i, out) in (first..).zip(out) {
            *out = self.normal_f64(i);
        }
    }

    fn fill_words<T>(&self, first: u64, out: &mut [T], convert: impl Fn(u32) -> T) {
        let (mut index, mut out) = (first, out);
        while !out.is_empty() {
            let skip = (index % 4) as usize;
            let words = self.block(index / 4);
            let take = (4 - skip).min(out.len());
            let (head, rest) = std::mem::take(&mut out).split_at_mut(take);
            for (out, &word) in head.iter_mut().zip(&words[skip..]) {
                *out = convert(word);
            }
            out = rest;
            index += take as u64;
        }
    }

    /// The numbers 0..n in an order that depends on the stream alone (Fisher and Yates, Durstenfeld's form).
    pub fn permutation(&self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }

    /// Puts the items into an order that depends on the stream and their number alone.
    pub fn shuffle<T>(&self, items: &mut [T]) {
        let mut draw = 0;
        let mut end = items.len();
        let mut partners = [0; AHEAD];
        while end > 1 {
            // The numbers do not depend on the items: what they name is asked for some swaps ahead.
            let count = (end - 1).min(AHEAD);
            for (i, partner) in partners[..count].iter_mut().enumerate() {
                *partner = self.below((end - i) as u64, &mut draw) as usize;
                prefetch_line((&raw const items[*partner]).cast());
            }
            for (i, partner) in partners[..count].iter().enumerate() {
                items.swap(end - 1 - i, *partner);
            }
            end -= count;
        }
    }

    /// An unbiased number in 0..bound (bound > 0): Lemire, "Fast random integer generation in an interval" (2019).
    fn below(&self, bound: u64, draw: &mut u64) -> u64 {
        loop {
            let product = u128::from(self.u64_at(*draw)) * u128::from(bound);
            *draw += 1;
            let low = product as u64;
            if low >= bound || low >= bound.wrapping_neg() % bound {
                return (product >> 64) as u64;
            }
        }
    }
}

#[inline(always)]
fn unit_f32(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / (1 << 24) as f32)
}

#[inline(always)]
fn unit_f64(word: u64) -> f64 {
    (word >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published vectors of Random123 1.09 (`kat_vectors`, philox4x32 with 10 rounds).
    #[test]
    fn known_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn indexing_and_filling_agree() {
        let stream = Philox::new(42, 7);
        for first in 0..9 {
            for len in 0..11 {
                let mut singles = vec![0.0; len];
                stream.fill_uniform_f32(first, &mut singles);
                let expected: Vec<f32> = (0..len as u64).map(|i| stream.uniform_f32(first + i)).collect();
                assert_eq!(singles, expected);
            }
        }
        let mut normals = [0.0; 5];
        stream.fill_normal_f64(3, &mut normals);
        assert_eq!(normals[4], stream.normal_f64(7));
        assert_ne!(Philox::new(42, 8).u64_at(0), stream.u64_at(0));
        assert_ne!(Philox::new(43, 7).u64_at(0), stream.u64_at(0));
    }

    #[test]
    fn moments() {
        let stream = Philox::new(1, 0);
        let n = 100_000u64;
        let moments = |draw: &dyn Fn(u64) -> f64| {
            let (sum, squares) = (0..n).map(draw).fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
            let mean = sum / n as f64;
            (mean, squares / n as f64 - mean * mean)
        };
        // Five standard errors.
        let (mean, variance) = moments(&|i| stream.uniform_f64(i));
        assert!((mean - 0.5).abs() < 0.0046 && (variance - 1.0 / 12.0).abs() < 0.0012, "{mean} {variance}");
        let (mean, variance) = moments(&|i| f64::from(stream.uniform_f32(i)));
        assert!((mean - 0.5).abs() < 0.0046 && (variance - 1.0 / 12.0).abs() < 0.0012, "{mean} {variance}");
        let (mean, variance) = moments(&|i| stream.normal_f64(i));
        assert!(mean.abs() < 0.016 && (variance - 1.0).abs() < 0.023, "{mean} {variance}");
        assert!((0..n).all(|i| (0.0..1.0).contains(&stream.uniform_f32(i))));
    }

    #[test]
    fn permutations_hold_every_number_once() {
        for n in [0, 1, 2, 3, 1000] {
            let order = Philox::new(9, 0).permutation(n);
            assert_eq!(order, Philox::new(9, 0).permutation(n));
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..n));
            assert!(n < 1000 || order != Philox::new(9, 1).permutation(n));
        }
    }

    #[test]
    fn permutations_are_uniform() {
        let mut counts = std::collections::BTreeMap::new();
        for stream in 0..6000 {
            *counts.entry(Philox::new(5, stream).permutation(3)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|&count| (850..1150).contains(&count)), "{counts:?}");
    }
}
