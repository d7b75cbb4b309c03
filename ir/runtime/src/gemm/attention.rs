//! Attention by tiles: the softmax of scores, times values, with no more than a tile of scores in memory.
//!
//! What holds:
//! - a tile is [`query_block`] queries by at most [`KEYS`] keys. Its scores are a matrix product into a buffer of the thread; there
//!   they become e^(score - m), m being the greatest score of the row so far; a second product adds them, times the values, to
//!   the result. Where a later tile has a greater score, what was summed before is scaled down (the running softmax of
//!   Milakov and Gimelshein 2018, in the tiles of Dao et al., "FlashAttention" 2022). The sums divide the result at the end;
//! - a triangle whose hidden scores are -inf ends the keys at the last one that a query of the tile sees;
//! - the bits of a result depend on the sizes alone, not on which thread computed it: tiles are cut by size;
//! - a row without a visible key has NaN, as the softmax of nothing but -inf; without keys at all the result is 0.

use super::pack::Scratch;
use super::{Element, Epilogue, Problem, RawRhs, gemm_raw};
use crate::kernels::vector_math::{exp_f32, exp_f64};
use std::cell::Cell;
use std::ops::Range;

/// Queries of a tile at most; a multiple of the micro-kernel's rows.
const QUERIES: usize = 96;
/// Keys of a tile at most.
const KEYS: usize = 256;
/// Rows of a tile begin at multiples of so many elements, and sums have so many lanes.
pub(super) const LANES: usize = 16;
/// Below this, e^x is no normal number, with which processors are slow: such a weight, and that of a hidden score, is 0 beside the
/// greatest, which is 1.
const LEAST_F32: f32 = -87.0;
const LEAST_F64: f64 = -708.0;

/// How many queries are taken together, of so many: the blocks are nearly equal, and a function of the number alone.
pub fn query_block(queries: usize) -> usize {
    block_of(queries, QUERIES, super::kernel::ROWS)
}

pub(super) fn block_of(n: usize, most: usize, step: usize) -> usize {
    let blocks = n.div_ceil(most).max(1);
    n.div_ceil(blocks).next_multiple_of(step).max(step)
}

/// What changes a score, by strides of (query, key) in elements.
#[derive(Clone, Copy, Debug)]
pub enum Term<T> {
    /// Adds a number.
    Bias { data: *const T, strides: [usize; 2] },
    /// Replaces the score where a byte is 0.
    Mask { data: *const u8, strides: [usize; 2] },
    /// Replaces the score where key > query + offset.
    Triangle { offset: i64 },
}

/// One head: `out = softmax(terms(scale Q Kᵀ)) V`, by pointers and strides in elements.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a, T> {
    pub queries: usize,
    pub keys: usize,
    /// Length of a query and of a key.
    pub inner: usize,
    /// Length of a value and of a result.
    pub columns: usize,
    pub q: *const T,
    /// Of query and inner index.
    pub q_strides: [usize; 2],
    pub k: *const T,
    /// Of key and inner index.
    pub k_strides: [usize; 2],
    pub v: *const T,
    /// Of key and column.
    pub v_strides: [usize; 2],
    pub out: *mut T,
    /// Of query and column.
    pub out_strides: [usize; 2],
    pub scale: T,
    /// What a score becomes where a mask or a triangle hides it.
    pub fill: T,
    /// In the order in which they are done.
    pub terms: &'a [Term<T>],
}

/// The number types that attention runs on.
pub trait Attended: Element {
    const NEG_INFINITY: Self;
    const NAN: Self;
    #[doc(hidden)]
    fn soften(tile: &mut [Self], width: usize, rows: &mut Rows<'_, Self>);
    #[doc(hidden)]
    fn hide(tile: &mut [Self], width: usize, seen: i64, fill: Self);
    #[doc(hidden)]
    fn scale_row(row: &mut [Self], factor: Self);
    #[doc(hidden)]
    fn inverse(self) -> Self;
    #[doc(hidden)]
    fn average(weights: &[Self], adjoints: &[Self], width: usize, factors: &[Self], means: &mut [Self]);
    #[doc(hidden)]
    fn slope(weights: &mut [Self], adjoints: &mut [Self], width: usize, sums: &[Self], means: &[Self], scale: Self);
}

/// What is known of the rows of a tile: an element a row each.
#[doc(hidden)]
#[derive(Debug)]
pub struct Rows<'a, T> {
    /// The greatest score so far.
    pub(super) greatest: &'a mut [T],
    /// The sum of e^(score - greatest) so far.
    pub(super) sums: &'a mut [T],
    /// By what the results so far are to be multiplied.
    pub(super) factors: &'a mut [T],
}

macro_rules! attended {
    ($t:ident, $exp:ident, $least:ident, $soften:ident, $hide:ident, $scale:ident, $average:ident, $slope:ident) => {
        multiversion! {
            /// Takes a tile's scores into account: they become e^(score - greatest). Rows are `width` long, a multiple of the
            /// lanes.
            fn $soften(tile: &mut [$t], width: usize, rows: &mut Rows<'_, $t>) {
                let state = rows.greatest.iter_mut().zip(rows.sums.iter_mut()).zip(rows.factors.iter_mut());
                for (row, ((greatest, sum), factor)) in tile.chunks_exact_mut(width).zip(state) {
                    let mut lanes = [*greatest; LANES];
                    for chunk in row.chunks_exact(LANES) {
                        for (lane, &x) in lanes.iter_mut().zip(chunk) {
                            *lane = if x > *lane { x } else { *lane };
                        }
                    }
                    let mut half = LANES;
                    while half > 1 {
                        half /= 2;
                        for i in 0..half {
                            lanes[i] = if lanes[i + half] > lanes[i] { lanes[i + half] } else { lanes[i] };
                        }
                    }
                    let most = lanes[0];
                    // Where nothing was seen yet, -inf - -inf would be NaN: e^-inf is 0 at any shift.
                    let shift = if most == <$t>::NEG_INFINITY { 0.0 } else { most };
                    *factor = match *greatest {
                        before if before == most => 1.0,
                        <$t>::NEG_INFINITY => 0.0,
                        before => $exp(before - most),
                    };
                    *greatest = most;
                    let mut lanes = [0.0; LANES];
                    for chunk in row.chunks_exact_mut(LANES) {
                        for (lane, x) in lanes.iter_mut().zip(chunk) {
                            let below = *x - shift;
                            let weight = $exp(if below < $least { $least } else { below });
                            *x = if below < $least { 0.0 } else { weight };
                            *lane += *x;
                        }
                    }
                    let mut half = LANES;
                    while half > 1 {
                        half /= 2;
                        for i in 0..half {
                            lanes[i] += lanes[i + half];
                        }
                    }
                    *sum = *sum * *factor + lanes[0];
                }
            }

            /// Fills what is behind the first `seen` numbers of the first row, and one more in each row that follows.
            fn $hide(tile: &mut [$t], width: usize, seen: i64, fill: $t) {
                for (row, seen) in tile.chunks_exact_mut(width).zip(seen..) {
                    let seen = seen.clamp(0, width as i64) as i32;
                    for (i, x) in row.iter_mut().enumerate() {
                        *x = if (i as i32) < seen { *x } else { fill };
                    }
                }
            }

            fn $scale(row: &mut [$t], factor: $t) {
                for x in row {
                    *x *= factor;
                }
            }

            /// Adds each row's sum of e^(score - greatest) times its adjoint to what the row had, times the row's factor.
            fn $average(weights: &[$t], adjoints: &[$t], width: usize, factors: &[$t], means: &mut [$t]) {
                let rows = weights.chunks_exact(width).zip(adjoints.chunks_exact(width));
                for ((row, adjoint), (mean, factor)) in rows.zip(means.iter_mut().zip(factors)) {
                    let mut lanes = [0.0; LANES];
                    for (x, a) in row.chunks_exact(LANES).zip(adjoint.chunks_exact(LANES)) {
                        for (lane, (x, a)) in lanes.iter_mut().zip(x.iter().zip(a)) {
                            *lane += x * a;
                        }
                    }
                    let mut half = LANES;
                    while half > 1 {
                        half /= 2;
                        for i in 0..half {
                            lanes[i] += lanes[i + half];
                        }
                    }
                    *mean = *mean * *factor + lanes[0];
                }
            }

            /// Divides the weights by their rows' sums, and makes their adjoints those of the products.
            fn $slope(weights: &mut [$t], adjoints: &mut [$t], width: usize, sums: &[$t], means: &[$t], scale: $t) {
                let rows = weights.chunks_exact_mut(width).zip(adjoints.chunks_exact_mut(width));
                for ((row, adjoint), (sum, mean)) in rows.zip(sums.iter().zip(means)) {
                    // Where all was hidden this is infinite, and the weights are NaN.
                    let inverse = 1.0 / *sum;
                    let mean = *mean * inverse;
                    for (x, a) in row.iter_mut().zip(adjoint) {
                        *x *= inverse;
                        *a = *x * (*a - mean) * scale;
                    }
                }
            }
        }

        impl Attended for $t {
            const NEG_INFINITY: $t = $t::NEG_INFINITY;
            const NAN: $t = $t::NAN;

            fn soften(tile: &mut [$t], width: usize, rows: &mut Rows<'_, $t>) {
                $soften(tile, width, rows);
            }

            fn hide(tile: &mut [$t], width: usize, seen: i64, fill: $t) {
                $hide(tile, width, seen, fill);
            }

            fn scale_row(row: &mut [$t], factor: $t) {
                $scale(row, factor);
            }

            fn inverse(self) -> $t {
                1.0 / self
            }

            fn average(weights: &[$t], adjoints: &[$t], width: usize, factors: &[$t], means: &mut [$t]) {
                $average(weights, adjoints, width, factors, means);
            }

            fn slope(weights: &mut [$t], adjoints: &mut [$t], width: usize, sums: &[$t], means: &[$t], scale: $t) {
                $slope(weights, adjoints, width, sums, means, scale);
            }
        }
    };
}

attended!(f32, exp_f32, LEAST_F32, soften_f32, hide_f32, scale_f32, average_f32, slope_f32);
attended!(f64, exp_f64, LEAST_F64, soften_f64, hide_f64, scale_f64, average_f64, slope_f64);

/// The results of these queries; at most [`query_block`] of them make one tile a row of tiles.
///
/// # Safety
/// Every element of Q and of the result (of these rows), of K, V and the terms is at a valid address by its strides; the result's
/// may be written, overlap none of the others, and nobody else accesses them meanwhile.
pub unsafe fn attend<T: Attended>(p: &Attention<'_, T>, queries: Range<usize>) {
    let block = query_block(p.queries);
    let mut first = queries.start;
    while first < queries.end {
        let rows = first..queries.end.min(first + block);
        first = rows.end;
        TILES.with(|tiles| {
            let mut scratch = tiles.take();
            // SAFETY: the caller's promise.
            unsafe { block_of_queries(p, rows, &mut scratch) };
            tiles.set(scratch);
        });
    }
}

thread_local! {
    /// A tile of scores and the state of its rows. The products inside have a scratch of their own.
    static TILES: Cell<Scratch> = const { Cell::new(Scratch::new()) };
}

/// # Safety
/// As for [`attend`].
unsafe fn block_of_queries<T: Attended>(p: &Attention<'_, T>, queries: Range<usize>, scratch: &mut Scratch) {
    let (count, block) = (queries.len(), block_of(p.keys, KEYS, LANES));
    let (tile, state) = scratch.split::<T>(count * block, 3 * count);
    // SAFETY: the scratch has room for both, apart from each other, and its memory is initialized.
    let (tile, state) = unsafe {
        (std::slice::from_raw_parts_mut(tile, count * block), std::slice::from_raw_parts_mut(state, 3 * count))
    };
    let (greatest, rest) = state.split_at_mut(count);
    let (sums, factors) = rest.split_at_mut(count);
    greatest.fill(T::NEG_INFINITY);
    sums.fill(T::ZERO);
    let mut rows = Rows { greatest, sums, factors };
    let out = p.out.wrapping_add(queries.start * p.out_strides[0]);
    let seen = p.seen(queries.end - 1);
    for first in (0..seen).step_by(block) {
        let keys = first..seen.min(first + block);
        let width = keys.len().next_multiple_of(LANES);
        let tile = &mut tile[..count * width];
        // SAFETY: the ranges are parts of the problem's.
        unsafe { p.scores(queries.clone(), keys.clone(), tile, width) };
        T::soften(tile, width, &mut rows);
        if first > 0 {
            for (row, factor) in rows.factors.iter().enumerate().filter(|(_, f)| **f != T::ONE) {
                // SAFETY: a row of the result.
                unsafe { p.scale_result(out.wrapping_add(row * p.out_strides[0]), *factor) };
            }
        }
        let sum = Problem {
            m: count,
            n: p.columns,
            k: keys.len(),
            alpha: T::ONE,
            a: tile.as_ptr(),
            a_strides: [width, 1],
            b: RawRhs::Plain { data: p.v.wrapping_add(first * p.v_strides[0]), strides: p.v_strides },
            beta: if first == 0 { T::ZERO } else { T::ONE },
            c: out,
            c_strides: p.out_strides,
            epilogue: Epilogue::None,
        };
        // SAFETY: the tile's rows, some of the keys, and rows of the result.
        unsafe { gemm_raw(&sum, 0..count) };
    }
    for (row, sum) in rows.sums.iter().enumerate() {
        let at = out.wrapping_add(row * p.out_strides[0]);
        // SAFETY: a row of the result.
        unsafe {
            match (p.keys, seen) {
                (0, _) => p.fill_result(at, T::ZERO),
                (_, 0) => p.fill_result(at, T::NAN),
                // Where all was hidden the sum is 0, and 0 times its inverse NaN.
                _ => p.scale_result(at, sum.inverse()),
            }
        }
    }
}

impl<T: Attended> Attention<'_, T> {
    /// How many keys the queries up to this one see, where triangles say it.
    pub(super) fn seen(&self, query: usize) -> usize {
        let ends = self.terms.iter().filter_map(|t| match t {
            Term::Triangle { offset } if self.fill == T::NEG_INFINITY => Some(seen_by(query, *offset, self.keys)),
            _ => None,
        });
        ends.min().unwrap_or(self.keys)
    }

    /// The scores of a tile; behind each row's, -inf.
    ///
    /// # Safety
    /// As for [`attend`]; the ranges are parts of the problem's, and a row of the tile has room for the keys.
    pub(super) unsafe fn scores(&self, queries: Range<usize>, keys: Range<usize>, tile: &mut [T], width: usize) {
        let product = Problem {
            m: queries.len(),
            n: keys.len(),
            k: self.inner,
            alpha: self.scale,
            a: self.q.wrapping_add(queries.start * self.q_strides[0]),
            a_strides: self.q_strides,
            b: RawRhs::Plain {
                data: self.k.wrapping_add(keys.start * self.k_strides[0]),
                strides: [self.k_strides[1], self.k_strides[0]],
            },
            beta: T::ZERO,
            c: tile.as_mut_ptr(),
            c_strides: [width, 1],
            epilogue: Epilogue::None,
        };
        // SAFETY: the caller's promise.
        unsafe { gemm_raw(&product, 0..queries.len()) };
        for term in self.terms {
            // SAFETY: the caller's promise: an element of the term for each of these queries and keys.
            unsafe { term.change(tile, width, queries.start, keys.clone(), self.fill) };
        }
        if width > keys.len() {
            tile.chunks_exact_mut(width).for_each(|row| row[keys.len()..].fill(T::NEG_INFINITY));
        }
    }

    /// # Safety
    /// `row` is a row of the result.
    unsafe fn scale_result(&self, row: *mut T, factor: T) {
        if self.out_strides[1] == 1 {
            // SAFETY: the row's elements are contiguous, valid and nobody else's.
            T::scale_row(unsafe { std::slice::from_raw_parts_mut(row, self.columns) }, factor);
            return;
        }
        for i in 0..self.columns {
            let at = row.wrapping_add(i * self.out_strides[1]);
            // SAFETY: an element of the row.
            unsafe { *at = *at * factor };
        }
    }

    /// # Safety
    /// `row` is a row of the result.
    unsafe fn fill_result(&self, row: *mut T, value: T) {
        for i in 0..self.columns {
            // SAFETY: an element of the row.
            unsafe { *row.wrapping_add(i * self.out_strides[1]) = value };
        }
    }
}

/// How many of the keys are at most query + offset.
fn seen_by(query: usize, offset: i64, keys: usize) -> usize {
    let end = (query as i64).saturating_add(offset).saturating_add(1);
    usize::try_from(end).map_or(0, |end| end.min(keys))
}

impl<T: Attended> Term<T> {
    /// Changes the scores of a tile with these keys, from this query on.
    ///
    /// # Safety
    /// The term has an element for each of them, at a valid address.
    pub(super) unsafe fn change(&self, tile: &mut [T], width: usize, query: usize, keys: Range<usize>, fill: T) {
        let rows = (query..).zip(tile.chunks_exact_mut(width).map(|row| &mut row[..keys.len()]));
        match *self {
            Term::Triangle { offset } => {
                let seen = offset.saturating_add(query as i64).saturating_sub(keys.start as i64).saturating_add(1);
                if seen < keys.len() as i64 {
                    T::hide(tile, width, seen, fill);
                }
            }
            Term::Bias { data, strides: [down, along] } => {
                for (query, row) in rows {
                    let from = data.wrapping_add(query * down + keys.start * along);
                    for (i, x) in row.iter_mut().enumerate() {
                        // SAFETY: the caller's promise.
                        *x = *x + unsafe { *from.wrapping_add(i * along) };
                    }
                }
            }
            Term::Mask { data, strides: [down, along] } => {
                for (query, row) in rows {
                    let from = data.wrapping_add(query * down + keys.start * along);
                    for (i, x) in row.iter_mut().enumerate() {
                        // SAFETY: the caller's promise.
                        let seen = unsafe { *from.wrapping_add(i * along) };
                        *x = if seen == 0 { fill } else { *x };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::at_every_level;
    use crate::kernels::random::Philox;

    /// What the test needs of a number type.
    trait Float: Attended {
        fn of(x: f64) -> Self;
        fn to(self) -> f64;
        const TOLERANCE: f64;
    }

    impl Float for f32 {
        fn of(x: f64) -> f32 {
            x as f32
        }
        fn to(self) -> f64 {
            f64::from(self)
        }
        const TOLERANCE: f64 = 2e-5;
    }

    impl Float for f64 {
        fn of(x: f64) -> f64 {
            x
        }
        fn to(self) -> f64 {
            self
        }
        const TOLERANCE: f64 = 1e-13;
    }

    fn numbers<T: Float>(stream: u64, n: usize) -> Vec<T> {
        (0..n as u64).map(|i| T::of(Philox::new(5, stream).normal_f64(i))).collect()
    }

    struct Case<T> {
        sizes: [usize; 4],
        data: [Vec<T>; 3],
        scale: f64,
        fill: f64,
        triangle: Option<i64>,
        bias: Option<Vec<T>>,
        mask: Option<Vec<u8>>,
        /// Distance of neighbours in a row of each operand and of the result.
        step: usize,
    }

    impl<T: Float> Case<T> {
        fn new(sizes @ [queries, keys, inner, columns]: [usize; 4]) -> Self {
            let step = 1;
            let data = [numbers(1, queries * inner), numbers(2, keys * inner), numbers(3, keys * columns)];
            let (triangle, bias, mask) = (None, None, None);
            Case { sizes, data, scale: 0.5, fill: f64::NEG_INFINITY, triangle, bias, mask, step }
        }

        fn is_hidden(&self, i: usize, j: usize) -> bool {
            let above = self.triangle.is_some_and(|offset| j as i64 > offset.saturating_add(i as i64));
            above || self.mask.as_ref().is_some_and(|m| m[i * self.sizes[1] + j] == 0)
        }

        fn expected(&self) -> Vec<f64> {
            let [queries, keys, inner, columns] = self.sizes;
            let [q, k, v] = [0, 1, 2].map(|i| self.data[i].iter().map(|x| x.to()).collect::<Vec<f64>>());
            let mut out = vec![0.0; queries * columns];
            for i in 0..queries {
                let score = |j: usize| {
                    let product: f64 = (0..inner).map(|d| q[i * inner + d] * k[j * inner + d]).sum();
                    let bias = self.bias.as_ref().map_or(0.0, |b| b[i * keys + j].to());
                    if self.is_hidden(i, j) { self.fill } else { product * self.scale + bias }
                };
                let scores: Vec<f64> = (0..keys).map(score).collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                let total: f64 = weights.iter().sum();
                for c in 0..columns {
                    out[i * columns + c] = (0..keys).map(|j| weights[j] / total * v[j * columns + c]).sum();
                }
            }
            out
        }

        /// By tiles, all queries at once, or in two calls.
        fn run(&self, cut: usize) -> Vec<T> {
            let [queries, keys, inner, columns] = self.sizes;
            let mut terms = vec![];
            terms.extend(self.bias.as_ref().map(|b| Term::Bias { data: b.as_ptr(), strides: [keys, 1] }));
            terms.extend(self.mask.as_ref().map(|m| Term::Mask { data: m.as_ptr(), strides: [keys, 1] }));
            terms.extend(self.triangle.map(|offset| Term::Triangle { offset }));
            let spread = |v: &[T]| -> Vec<T> {
                v.iter().flat_map(|x| std::iter::once(*x).chain((1..self.step).map(|_| T::NAN))).collect()
            };
            let [q, k, v] = [0, 1, 2].map(|i| spread(&self.data[i]));
            let mut out = vec![T::NAN; queries * columns * self.step];
            let p = Attention {
                queries,
                keys,
                inner,
                columns,
                q: q.as_ptr(),
                q_strides: [inner * self.step, self.step],
                k: k.as_ptr(),
                k_strides: [inner * self.step, self.step],
                v: v.as_ptr(),
                v_strides: [columns * self.step, self.step],
                out: out.as_mut_ptr(),
                out_strides: [columns * self.step, self.step],
                scale: T::of(self.scale),
                fill: T::of(self.fill),
                terms: &terms,
            };
            // SAFETY: the vectors have the problem's sizes.
            unsafe {
                attend(&p, 0..cut);
                attend(&p, cut..queries);
            }
            out.into_iter().step_by(self.step).collect()
        }

        fn check(&self, what: &str) {
            at_every_level(|_| {
                let found = self.run(0);
                for (i, (x, want)) in found.iter().zip(self.expected()).enumerate() {
                    let near = (x.to() - want).abs() <= T::TOLERANCE * (1.0 + want.abs());
                    let sizes = self.sizes;
                    assert!(near || x.to().is_nan() && want.is_nan(), "{what}, {sizes:?}: {i} is {x:?}, not {want}");
                }
                let again = self.run(query_block(self.sizes[0]).min(self.sizes[0]));
                let same = |a: &T, b: &T| a.to() == b.to() || a.to().is_nan() && b.to().is_nan();
                assert!(found.iter().zip(&again).all(|(a, b)| same(a, b)), "{what}: the split changes the result");
            });
        }
    }

    fn all_shapes<T: Float>() {
        for sizes in [[1, 1, 1, 1], [1, 300, 8, 8], [7, 5, 3, 2], [32, 32, 32, 32], [97, 257, 16, 33], [200, 530, 9, 5]]
        {
            let [queries, keys, ..] = sizes;
            Case::<T>::new(sizes).check("plain");
            Case::<T> { step: 3, ..Case::new(sizes) }.check("strided");
            for offset in [0, 2, -1, -40, keys as i64 - queries as i64, i64::MAX] {
                Case::<T> { triangle: Some(offset), ..Case::new(sizes) }.check("triangle");
                // Hidden scores count where they are finite.
                Case::<T> { triangle: Some(offset), fill: -3.0, ..Case::new(sizes) }.check("finite triangle");
            }
            let random: Vec<T> = numbers(4, queries * keys);
            Case::<T> { bias: Some(random.clone()), ..Case::new(sizes) }.check("bias");
            let mut mask: Vec<u8> = random.iter().map(|x| u8::from(x.to() > 0.5)).collect();
            Case::<T> { mask: Some(mask.clone()), ..Case::new(sizes) }.check("mask");
            mask[..keys].fill(0);
            Case::<T> { mask: Some(mask.clone()), ..Case::new(sizes) }.check("a row that sees nothing");
            Case::<T> { mask: Some(mask), fill: -1e9, ..Case::new(sizes) }.check("a row that sees all alike");
        }
    }

    #[test]
    fn single_precision_is_the_definition() {
        all_shapes::<f32>();
    }

    #[test]
    fn double_precision_is_the_definition() {
        all_shapes::<f64>();
    }

    #[test]
    fn large_scores_do_not_overflow() {
        // Scores up to some 10^4, the greatest of each row in a later tile than the first.
        let mut case = Case::<f32>::new([20, 600, 4, 3]);
        case.scale = 1000.0;
        for (i, k) in case.data[1].iter_mut().enumerate() {
            *k *= (i / 4) as f32 / 100.0;
        }
        let found = case.run(0);
        for (x, want) in found.iter().zip(case.expected()) {
            assert!(x.is_finite() && (f64::from(*x) - want).abs() < 2e-2, "{x}, not {want}");
        }
    }

    #[test]
    fn no_keys_sum_to_zero_and_what_is_not_a_number_spreads() {
        assert_eq!(Case::<f32>::new([3, 0, 4, 2]).run(0), [0.0; 6]);
        assert!(Case::<f32>::new([0, 3, 4, 2]).run(0).is_empty());
        let mut case = Case::<f32>::new([2, 300, 4, 2]);
        case.data[0][0] = f32::NAN;
        let found = case.run(0);
        assert!(found[..2].iter().all(|x| x.is_nan()) && found[2..].iter().all(|x| x.is_finite()), "{found:?}");
    }
}
