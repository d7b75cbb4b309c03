//! The derivative of attention by tiles: the weights are computed again, so that the forward pass keeps none (Dao et al.,
//! "FlashAttention" 2022, section 3.1; here without its kept sums of rows).
//!
//! What holds:
//! - with P the weights, S the products' scores, O the result and d its adjoint: dV = Pᵀ d, dP = d Vᵀ,
//!   dS = scale P ∘ (dP - rows' sums of P ∘ dP), 0 where the score was replaced, dQ = dS K, dK = dSᵀ Q;
//! - a tile is a block of queries by at most [`KEYS`] keys. Where all keys are in one tile, each product is computed once; else the
//!   rows' greatest scores and sums take a walk of their own;
//! - one call is one head, whose tiles add up in order: the bits of a result depend on the sizes alone.

use super::attention::{Attended, Attention, LANES, Rows, Term, block_of, query_block};
use super::pack::Scratch;
use super::{Epilogue, Problem, RawRhs, gemm_raw};
use std::cell::Cell;
use std::ops::Range;

/// Keys of a tile at most: two tiles of so many keys and of a block of queries fit the second cache.
const KEYS: usize = 512;

/// A matrix that is written, by strides in elements.
#[derive(Clone, Copy, Debug)]
pub struct Target<T> {
    pub data: *mut T,
    pub strides: [usize; 2],
}

/// The adjoints of one head's operands.
#[derive(Clone, Copy, Debug)]
pub struct AttentionGrad<'a, T> {
    /// The head. What it says of the result, it says of the result's adjoint, which is only read.
    pub of: Attention<'a, T>,
    /// Of query and inner index.
    pub dq: Option<Target<T>>,
    /// Of key and inner index.
    pub dk: Option<Target<T>>,
    /// Of key and column.
    pub dv: Option<Target<T>>,
}

/// What a block of queries has of its own: a tile of weights, one of adjoints, and an element a query of each of the rest.
struct Block<'a, T> {
    weights: &'a mut [T],
    adjoints: &'a mut [T],
    rows: Rows<'a, T>,
    /// Sums of e^(score - greatest) times the weight's adjoint.
    means: &'a mut [T],
}

/// The adjoints of all of a head.
///
/// # Safety
/// Every element of Q, K, V, of the terms and of the result's adjoint is at a valid address by its strides; those of the targets
/// may be written, overlap nothing else, and nobody else accesses them meanwhile.
pub unsafe fn attend_grad<T: Attended>(p: &AttentionGrad<'_, T>) {
    let head = &p.of;
    // SAFETY: the caller's promise.
    unsafe {
        fill(p.dq, 0..head.queries, head.inner, T::ZERO);
        fill(p.dk, 0..head.keys, head.inner, T::ZERO);
        fill(p.dv, 0..head.keys, head.columns, T::ZERO);
    }
    let block = query_block(head.queries);
    for first in (0..head.queries).step_by(block) {
        let queries = first..head.queries.min(first + block);
        TILES.with(|tiles| {
            let mut scratch = tiles.take();
            // SAFETY: the caller's promise.
            unsafe { block_of_queries(p, queries, &mut scratch) };
            tiles.set(scratch);
        });
    }
}

thread_local! {
    /// Two tiles and the state of their rows. The products inside have a scratch of their own.
    static TILES: Cell<Scratch> = const { Cell::new(Scratch::new()) };
}

/// # Safety
/// All elements of these rows of the target may be written.
unsafe fn fill<T: Attended>(target: Option<Target<T>>, rows: Range<usize>, columns: usize, value: T) {
    let Some(Target { data, strides }) = target else { return };
    for row in rows {
        for column in 0..columns {
            // SAFETY: the caller's promise.
            unsafe { *data.wrapping_add(row * strides[0] + column * strides[1]) = value };
        }
    }
}

/// # Safety
/// As for [`attend_grad`].
unsafe fn block_of_queries<T: Attended>(p: &AttentionGrad<'_, T>, queries: Range<usize>, scratch: &mut Scratch) {
    let (count, block) = (queries.len(), block_of(p.of.keys, KEYS, LANES));
    let (tiles, state) = scratch.split::<T>(2 * count * block, 4 * count);
    // SAFETY: the scratch has room for both, apart from each other, and its memory is initialized.
    let (tiles, state) = unsafe {
        (std::slice::from_raw_parts_mut(tiles, 2 * count * block), std::slice::from_raw_parts_mut(state, 4 * count))
    };
    let (weights, adjoints) = tiles.split_at_mut(count * block);
    let (greatest, rest) = state.split_at_mut(count);
    let (sums, rest) = rest.split_at_mut(count);
    let (factors, means) = rest.split_at_mut(count);
    greatest.fill(T::NEG_INFINITY);
    sums.fill(T::ZERO);
    means.fill(T::ZERO);
    let mut own = Block { weights, adjoints, rows: Rows { greatest, sums, factors }, means };
    let seen = p.of.seen(queries.end - 1);
    let tiles = || (0..seen).step_by(block).map(|first| first..seen.min(first + block));
    for keys in tiles() {
        // SAFETY: the caller's promise.
        unsafe { own.weigh(p, &queries, &keys) };
        own.average(keys.len());
    }
    if p.of.keys > seen && own.rows.sums.contains(&T::ZERO) {
        // The weights of a query that sees nothing are NaN, those of the keys behind the last tile too.
        // SAFETY: the caller's promise.
        unsafe { fill(p.dv, seen..p.of.keys, p.of.columns, T::NAN) };
    }
    if seen <= block {
        if seen > 0 {
            // SAFETY: the caller's promise.
            unsafe { own.hand_on(p, &queries, &(0..seen)) };
        }
        return;
    }
    let sums = own.rows.sums.to_vec();
    for keys in tiles() {
        // SAFETY: the caller's promise.
        unsafe { own.weigh(p, &queries, &keys) };
        // The greatest scores are known, so that the sums only grew.
        own.rows.sums.copy_from_slice(&sums);
        // SAFETY: the caller's promise.
        unsafe { own.hand_on(p, &queries, &keys) };
    }
}

/// How long the rows of a tile with so many keys are.
fn width(keys: usize) -> usize {
    keys.next_multiple_of(LANES)
}

impl<T: Attended> Block<'_, T> {
    /// The weights of a tile before they are divided by their sums, and their adjoints.
    ///
    /// # Safety
    /// As for [`attend_grad`].
    unsafe fn weigh(&mut self, p: &AttentionGrad<'_, T>, queries: &Range<usize>, keys: &Range<usize>) {
        let (head, width) = (&p.of, width(keys.len()));
        let weights = &mut self.weights[..queries.len() * width];
        // SAFETY: the caller's promise.
        unsafe { head.scores(queries.clone(), keys.clone(), weights, width) };
        T::soften(weights, width, &mut self.rows);
        let adjoints = &mut self.adjoints[..queries.len() * width];
        let product = Problem {
            m: queries.len(),
            n: keys.len(),
            k: head.columns,
            alpha: T::ONE,
            a: head.out.cast_const().wrapping_add(queries.start * head.out_strides[0]),
            a_strides: head.out_strides,
            b: RawRhs::Plain {
                data: head.v.wrapping_add(keys.start * head.v_strides[0]),
                strides: [head.v_strides[1], head.v_strides[0]],
            },
            beta: T::ZERO,
            c: adjoints.as_mut_ptr(),
            c_strides: [width, 1],
            epilogue: Epilogue::None,
        };
        // SAFETY: the caller's promise.
        unsafe { gemm_raw(&product, 0..queries.len()) };
        if width > keys.len() {
            adjoints.chunks_exact_mut(width).for_each(|row| row[keys.len()..].fill(T::ZERO));
        }
    }

    /// Takes a tile into the means.
    fn average(&mut self, keys: usize) {
        let width = width(keys);
        let size = self.means.len() * width;
        T::average(&self.weights[..size], &self.adjoints[..size], width, self.rows.factors, self.means);
    }

    /// Adds what a tile hands to the operands.
    ///
    /// # Safety
    /// As for [`attend_grad`].
    unsafe fn hand_on(&mut self, p: &AttentionGrad<'_, T>, queries: &Range<usize>, keys: &Range<usize>) {
        let (head, width, count) = (&p.of, width(keys.len()), queries.len());
        let (weights, adjoints) = (&mut self.weights[..count * width], &mut self.adjoints[..count * width]);
        T::slope(weights, adjoints, width, self.rows.sums, self.means, head.scale);
        for term in head.terms.iter().filter(|t| !matches!(t, Term::Bias { .. })) {
            // A score that was replaced has no part in the products.
            // SAFETY: the caller's promise.
            unsafe { term.change(adjoints, width, queries.start, keys.clone(), T::ZERO) };
        }
        let (by_row, by_column) = ([width, 1], [1, width]);
        let queries_at = |data: *const T, strides: [usize; 2]| (data.wrapping_add(queries.start * strides[0]), strides);
        let keys_at = |data: *const T, strides: [usize; 2]| (data.wrapping_add(keys.start * strides[0]), strides);
        let products = [
            (p.dv, keys, (weights.as_ptr(), by_column), queries_at(head.out.cast_const(), head.out_strides)),
            (p.dk, keys, (adjoints.as_ptr(), by_column), queries_at(head.q, head.q_strides)),
            (p.dq, queries, (adjoints.as_ptr(), by_row), keys_at(head.k, head.k_strides)),
        ];
        for (i, (target, rows, a, b)) in products.into_iter().enumerate() {
            let Some(Target { data, strides }) = target else { continue };
            let product = Problem {
                m: rows.len(),
                n: if i == 0 { head.columns } else { head.inner },
                k: if i == 2 { keys.len() } else { count },
                alpha: T::ONE,
                a: a.0,
                a_strides: a.1,
                b: RawRhs::Plain { data: b.0, strides: b.1 },
                beta: T::ONE,
                c: data.wrapping_add(rows.start * strides[0]),
                c_strides: strides,
                epilogue: Epilogue::None,
            };
            // SAFETY: the caller's promise; the tiles have a row for each query and room for the keys.
            unsafe { gemm_raw(&product, 0..rows.len()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::at_every_level;
    use crate::kernels::random::Philox;

    /// A head of contiguous operands, in f64.
    struct Case {
        sizes: [usize; 4],
        q: Vec<f64>,
        k: Vec<f64>,
        v: Vec<f64>,
        d: Vec<f64>,
        scale: f64,
        fill: f64,
        triangle: Option<i64>,
        bias: Option<Vec<f64>>,
        mask: Option<Vec<u8>>,
    }

    fn numbers(stream: u64, n: usize) -> Vec<f64> {
        (0..n as u64).map(|i| Philox::new(7, stream).normal_f64(i)).collect()
    }

    impl Case {
        fn new(sizes @ [queries, keys, inner, columns]: [usize; 4]) -> Self {
            let [q, k] = [(1, queries * inner), (2, keys * inner)].map(|(s, n)| numbers(s, n));
            let [v, d] = [(3, keys * columns), (4, queries * columns)].map(|(s, n)| numbers(s, n));
            let (scale, fill) = (0.5, f64::NEG_INFINITY);
            Case { sizes, q, k, v, d, scale, fill, triangle: None, bias: None, mask: None }
        }

        fn is_hidden(&self, i: usize, j: usize) -> bool {
            let above = self.triangle.is_some_and(|offset| j as i64 > offset.saturating_add(i as i64));
            above || self.mask.as_ref().is_some_and(|m| m[i * self.sizes[1] + j] == 0)
        }

        /// dq, dk and dv by their definition.
        fn expected(&self) -> [Vec<f64>; 3] {
            let [queries, keys, inner, columns] = self.sizes;
            let mut out = [vec![0.0; queries * inner], vec![0.0; keys * inner], vec![0.0; keys * columns]];
            let dot = |x: &[f64], i: usize, y: &[f64], j: usize, n: usize| -> f64 {
                (0..n).map(|c| x[i * n + c] * y[j * n + c]).sum()
            };
            for i in 0..queries {
                let score = |j: usize| match self.is_hidden(i, j) {
                    true => self.fill,
                    false => {
                        let bias = self.bias.as_ref().map_or(0.0, |b| b[i * keys + j]);
                        dot(&self.q, i, &self.k, j, inner) * self.scale + bias
                    }
                };
                let scores: Vec<f64> = (0..keys).map(score).collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|s| (s - most).exp()).sum();
                let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp() / total).collect();
                let adjoints: Vec<f64> = (0..keys).map(|j| dot(&self.d, i, &self.v, j, columns)).collect();
                let mean: f64 = weights.iter().zip(&adjoints).map(|(w, a)| w * a).sum();
                for j in 0..keys {
                    let slope = if self.is_hidden(i, j) { 0.0 } else { weights[j] * (adjoints[j] - mean) * self.scale };
                    for c in 0..inner {
                        out[0][i * inner + c] += slope * self.k[j * inner + c];
                        out[1][j * inner + c] += slope * self.q[i * inner + c];
                    }
                    (0..columns).for_each(|c| out[2][j * columns + c] += weights[j] * self.d[i * columns + c]);
                }
            }
            out
        }

        fn check<T: Attended + PartialEq>(&self, of: fn(f64) -> T, to: fn(T) -> f64, tolerance: f64, what: &str) {
            let [queries, keys, inner, columns] = self.sizes;
            let [q, k, v, d] =
                [&self.q, &self.k, &self.v, &self.d].map(|x| x.iter().copied().map(of).collect::<Vec<T>>());
            let bias: Option<Vec<T>> = self.bias.as_ref().map(|b| b.iter().copied().map(of).collect());
            let mut terms = vec![];
            terms.extend(bias.as_ref().map(|b| Term::Bias { data: b.as_ptr(), strides: [keys, 1] }));
            terms.extend(self.mask.as_ref().map(|m| Term::Mask { data: m.as_ptr(), strides: [keys, 1] }));
            terms.extend(self.triangle.map(|offset| Term::Triangle { offset }));
            let want = self.expected();
            at_every_level(|_| {
                let mut found = [queries * inner, keys * inner, keys * columns].map(|n| vec![of(f64::NAN); n]);
                let [dq, dk, dv] = &mut found;
                let target = |v: &mut Vec<T>, n: usize| Some(Target { data: v.as_mut_ptr(), strides: [n, 1] });
                let p = AttentionGrad {
                    of: Attention {
                        queries,
                        keys,
                        inner,
                        columns,
                        q: q.as_ptr(),
                        q_strides: [inner, 1],
                        k: k.as_ptr(),
                        k_strides: [inner, 1],
                        v: v.as_ptr(),
                        v_strides: [columns, 1],
                        out: d.as_ptr().cast_mut(),
                        out_strides: [columns, 1],
                        scale: of(self.scale),
                        fill: of(self.fill),
                        terms: &terms,
                    },
                    dq: target(dq, inner),
                    dk: target(dk, inner),
                    dv: target(dv, columns),
                };
                // SAFETY: the vectors have the head's sizes; the adjoint is only read.
                unsafe { attend_grad(&p) };
                for (name, (found, want)) in ["dq", "dk", "dv"].iter().zip(found.iter().zip(&want)) {
                    let scale = want.iter().filter(|x| x.is_finite()).fold(1.0f64, |m, x| m.max(x.abs()));
                    for (i, (x, want)) in found.iter().map(|x| to(*x)).zip(want).enumerate() {
                        let same = x.is_nan() && want.is_nan() || (x - want).abs() <= tolerance * scale;
                        assert!(same, "{what}, {:?}: {name} {i} is {x}, not {want}", self.sizes);
                    }
                }
            });
        }

        fn at_both_widths(&self, what: &str) {
            self.check::<f64>(|x| x, |x| x, 1e-12, what);
            self.check::<f32>(|x| x as f32, f64::from, 1e-4, what);
        }
    }

    #[test]
    fn adjoints_are_those_of_the_definition() {
        for sizes in [[1, 1, 1, 1], [7, 5, 3, 2], [32, 32, 32, 32], [97, 33, 16, 20], [100, 530, 9, 5], [3, 1100, 4, 4]]
        {
            let [queries, keys, ..] = sizes;
            Case::new(sizes).at_both_widths("plain");
            for offset in [0, 2, keys as i64 - queries as i64] {
                Case { triangle: Some(offset), ..Case::new(sizes) }.at_both_widths("triangle");
                Case { triangle: Some(offset), fill: -3.0, ..Case::new(sizes) }.at_both_widths("finite triangle");
            }
            let random = numbers(5, queries * keys);
            Case { bias: Some(random.clone()), ..Case::new(sizes) }.at_both_widths("bias");
            let mut mask: Vec<u8> = random.iter().map(|x| u8::from(*x > -0.5)).collect();
            (0..queries).for_each(|i| mask[i * keys + i % keys] = 1);
            Case { mask: Some(mask.clone()), ..Case::new(sizes) }.at_both_widths("mask");
            Case { mask: Some(mask), fill: -1.0, ..Case::new(sizes) }.at_both_widths("finite mask");
        }
    }

    #[test]
    fn a_query_that_sees_nothing_spreads_to_values_only() {
        let mut case = Case { mask: Some(vec![1; 12]), ..Case::new([3, 4, 2, 2]) };
        case.mask.as_mut().unwrap()[4..8].fill(0);
        case.at_both_widths("a row that sees nothing");
        let [dq, dk, dv] = case.expected();
        assert!(dq.iter().chain(&dk).all(|x| x.is_finite()) && dv.iter().all(|x| x.is_nan()));
        Case::new([3, 0, 4, 2]).at_both_widths("no keys");
        Case::new([0, 3, 4, 2]).at_both_widths("no queries");
    }
}
