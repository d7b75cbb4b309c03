//! Products with a vector: bound by reading the matrix once.
//!
//! What holds: where the matrix is contiguous along k, a result is an inner product in 128 bytes of interleaved sums that are
//! added pairwise at the end; where it is contiguous along the other dimension, a result is one chain of fused steps in the
//! order of k, as in the blocked product.

use super::pack::Scratch;
use super::{Element, Epilogue, Problem, finish};
use crate::cpu::simd_level;
use std::ops::Range;

/// Results that stay in the first-level cache while k runs.
const RESULTS: usize = 2048;

/// Whether a matrix with these strides has a path here.
pub(super) fn is_suited(strides: [usize; 2]) -> bool {
    strides[0] == 1 || strides[1] == 1
}

/// `C = A x` for the rows of a problem with n = 1.
///
/// # Safety
/// As for `gemm_raw`; `x` has k elements `x_stride` apart. A's strides are suited, or A is read column by column at any stride.
pub(super) unsafe fn matrix_vector<T: Element>(p: &Problem<T>, x: *const T, x_stride: usize, rows: Range<usize>) {
    let (bias, relu, gate) = p.epilogue.parts();
    let bias = bias.map(|bias| bias[0]);
    let gate = |row| gate.map(|gate| gate.at([row, 0]));
    // SAFETY: the caller's promise.
    unsafe { product(p, x, x_stride, rows.clone(), |row| (bias, gate(row)), relu) };
    if let Epilogue::Call(call) = p.epilogue {
        call.call(rows, 0..1);
    }
}

/// `C = x B` for a problem with m = 1, given as its transpose: A is B's transpose, and C's rows are the results.
///
/// # Safety
/// As for [`matrix_vector`].
pub(super) unsafe fn vector_matrix<T: Element>(flipped: &Problem<T>, x: *const T, x_stride: usize) {
    let (bias, relu, gate) = flipped.epilogue.parts();
    let extras = |row: usize| (bias.map(|bias| bias[row]), gate.map(|gate| gate.at([0, row])));
    // SAFETY: the caller's promise.
    unsafe { product(flipped, x, x_stride, 0..flipped.m, extras, relu) };
    if let Epilogue::Call(call) = flipped.epilogue {
        call.call(0..1, 0..flipped.m);
    }
}

/// # Safety
/// As for [`matrix_vector`].
unsafe fn product<T: Element>(
    p: &Problem<T>,
    x: *const T,
    x_stride: usize,
    rows: Range<usize>,
    extras: impl Fn(usize) -> (Option<T>, Option<T>),
    relu: bool,
) {
    Scratch::with(|scratch| {
        let (contiguous, sums) = scratch.split::<T>(p.k, RESULTS);
        // SAFETY: the scratch holds k elements; x has k elements by its stride.
        let x = unsafe {
            for i in 0..p.k {
                *contiguous.wrapping_add(i) = *x.wrapping_add(i * x_stride);
            }
            std::slice::from_raw_parts(contiguous.cast_const(), p.k)
        };
        // SAFETY: the scratch holds so many initialized elements beside x.
        let sums = unsafe { std::slice::from_raw_parts_mut(sums, RESULTS) };
        let mut first = rows.start;
        while first < rows.end {
            let sums = &mut sums[..RESULTS.min(rows.end - first)];
            let a = p.a.wrapping_add(first * p.a_strides[0]);
            // SAFETY: `a` is the first of sums.len() rows of A, with these strides.
            unsafe {
                if p.a_strides[1] == 1 {
                    inner_products(a, p.a_strides[0], x, sums);
                } else if p.a_strides[0] == 1 {
                    T::add_columns(a, p.a_strides[1], x, sums);
                } else {
                    strided_chains(a, p.a_strides, x, sums);
                }
            }
            for (i, &sum) in sums.iter().enumerate() {
                let row = first + i;
                let c = p.c.wrapping_add(row * p.c_strides[0]);
                let (bias, gate) = extras(row);
                // SAFETY: the row's element of C.
                unsafe { finish(p.alpha * sum, p.beta, c, bias, relu, gate) };
            }
            first += sums.len();
        }
    });
}

/// # Safety
/// `a` is the first of sums.len() × x.len() elements by the strides.
unsafe fn strided_chains<T: Element>(a: *const T, strides: [usize; 2], x: &[T], sums: &mut [T]) {
    for (i, sum) in sums.iter_mut().enumerate() {
        let row = a.wrapping_add(i * strides[0]);
        *sum = T::ZERO;
        for (p, &x) in x.iter().enumerate() {
            // SAFETY: element (i, p).
            *sum = unsafe { *row.wrapping_add(p * strides[1]) }.fused(x, *sum);
        }
    }
}

/// `sums[i]` = the inner product of `x` and the row at `a + i * stride`.
///
/// # Safety
/// Each of the rows has x.len() readable elements.
unsafe fn inner_products<T: Element>(a: *const T, stride: usize, x: &[T], sums: &mut [T]) {
    let kernels = T::kernels(simd_level());
    let [several, one] = kernels.inner;
    let mut groups = sums.chunks_exact_mut(kernels.group);
    let mut row = a;
    for group in &mut groups {
        // SAFETY: rows of x.len() elements, as many as the group has sums.
        unsafe { several(row, stride, x.as_ptr(), x.len(), group.as_mut_ptr()) };
        row = row.wrapping_add(kernels.group * stride);
    }
    for sum in groups.into_remainder() {
        // SAFETY: a row of x.len() elements, and its sum.
        unsafe { one(row, stride, x.as_ptr(), x.len(), sum) };
        row = row.wrapping_add(stride);
    }
}

/// The loop over columns, compiled for each instruction set.
pub trait VectorLoops: Sized {
    /// `sums[i]` = the sum over p of `x[p]` times the element at `a + p * stride + i`.
    ///
    /// # Safety
    /// Each of the columns at `a + p * stride` has sums.len() readable elements.
    unsafe fn add_columns(a: *const Self, stride: usize, x: &[Self], sums: &mut [Self]);
}

macro_rules! vector_loops {
    ($t:ident, $columns:ident) => {
        impl VectorLoops for $t {
            unsafe fn add_columns(a: *const $t, stride: usize, x: &[$t], sums: &mut [$t]) {
                sums.fill(0.0);
                let mut first = 0;
                while first + 8 <= x.len() {
                    let columns: [&[$t]; 8] = std::array::from_fn(|p| {
                        // SAFETY: column first + p < x.len() has sums.len() elements.
                        unsafe { std::slice::from_raw_parts(a.wrapping_add((first + p) * stride), sums.len()) }
                    });
                    $columns::<8>(columns, &x[first..first + 8], sums);
                    first += 8;
                }
                for p in first..x.len() {
                    // SAFETY: column p < x.len() has sums.len() elements.
                    let column = unsafe { std::slice::from_raw_parts(a.wrapping_add(p * stride), sums.len()) };
                    $columns::<1>([column], &x[p..=p], sums);
                }
            }
        }

        multiversion_const! {
            fn $columns<R>(columns: [&[$t]; R], x: &[$t], sums: &mut [$t]) {
                let columns = columns.map(|column| &column[..sums.len()]);
                let x: [$t; R] = std::array::from_fn(|p| x[p]);
                for i in 0..sums.len() {
                    let mut sum = sums[i];
                    for p in 0..R {
                        sum = columns[p][i].mul_add(x[p], sum);
                    }
                    sums[i] = sum;
                }
            }
        }
    };
}

vector_loops!(f32, columns_f32);
vector_loops!(f64, columns_f64);
