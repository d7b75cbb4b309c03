//! Copies of operands in the order in which the micro-kernel reads them.
//!
//! What holds: a panel of B is `width` columns (the last one fewer, rounded up to whole vectors and padded with zeros), its
//! rows of one k after the other; panels follow each other; blocks of k follow each other. A packed block of A is tiles of
//! [`ROWS`] rows a [`tile_stride`] apart, each k's rows side by side; the last tile's missing rows are left as they were and
//! never used.

use super::kernel::{ROWS, line};
use super::{Element, MatRef, k_block};
use crate::cpu::{SimdLevel, prefetch_line, simd_level};
use std::cell::Cell;

/// One cache line, so that buffers are aligned to it.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([u8; 64]);

/// A growing buffer of lines, reused by all products of a thread.
#[derive(Default)]
pub(super) struct Scratch {
    lines: Vec<Line>,
}

impl Scratch {
    pub(super) const fn new() -> Self {
        Self { lines: Vec::new() }
    }

    /// Lends this thread's scratch. A product inside of an epilogue gets one of its own.
    pub(super) fn with<R>(run: impl FnOnce(&mut Scratch) -> R) -> R {
        thread_local! {
            static SCRATCH: Cell<Scratch> = const { Cell::new(Scratch::new()) };
        }
        let mut scratch = SCRATCH.take();
        let result = run(&mut scratch);
        SCRATCH.set(scratch);
        result
    }

    /// Two buffers of at least so many elements.
    pub(super) fn split<T: Element>(&mut self, first: usize, second: usize) -> (*mut T, *mut T) {
        let lines = |elements: usize| (elements * size_of::<T>()).div_ceil(size_of::<Line>());
        let need = lines(first) + lines(second);
        if self.lines.len() < need {
            self.lines.clear();
            self.lines.resize(need, Line([0; 64]));
        }
        let start = self.lines.as_mut_ptr();
        (start.cast(), start.wrapping_add(lines(first)).cast())
    }
}

/// Packs k × n elements of B.
///
/// # Safety
/// All elements of `from` are readable; `to` has room for k × (n rounded up to lanes) elements.
pub(super) unsafe fn pack_b<T: Element>(
    from: *const T,
    [row_stride, column_stride]: [usize; 2],
    k: usize,
    n: usize,
    width: usize,
    lanes: usize,
    to: *mut T,
) {
    let mut to = to;
    let mut column = 0;
    while column < n {
        let columns = width.min(n - column);
        let padded = columns.next_multiple_of(lanes);
        let panel = from.wrapping_add(column * column_stride);
        // SAFETY: the panel's elements are readable, and its padded rows fit into `to`.
        unsafe {
            if column_stride == 1 {
                pack_rows(panel, row_stride, k, columns, padded, to);
            } else {
                pack_columns(panel, [row_stride, column_stride], k, columns, padded, to);
            }
            for p in 0..k {
                for j in columns..padded {
                    *to.wrapping_add(p * padded + j) = T::ZERO;
                }
            }
        }
        to = to.wrapping_add(k * padded);
        column += columns;
    }
}

/// Rows that are asked for before they are copied: each may lie on a page of its own, where the processor does not look ahead.
const ROWS_AHEAD: usize = 8;

/// Packs a panel whose rows are contiguous.
///
/// # Safety
/// As for [`pack_b`].
unsafe fn pack_rows<T: Element>(
    panel: *const T,
    row_stride: usize,
    k: usize,
    columns: usize,
    padded: usize,
    to: *mut T,
) {
    const PIECE: usize = 16;
    for p in 0..k {
        let (from, to) = (panel.wrapping_add(p * row_stride), to.wrapping_add(p * padded));
        let next = from.wrapping_add(ROWS_AHEAD * row_stride);
        for j in (0..columns).step_by(line::<T>()) {
            prefetch_line(next.wrapping_add(j).cast());
        }
        let whole = columns / PIECE * PIECE;
        // SAFETY: row p of the panel, and its place.
        unsafe {
            for j in (0..whole).step_by(PIECE) {
                let piece = from.wrapping_add(j).cast::<[T; PIECE]>().read();
                to.wrapping_add(j).cast::<[T; PIECE]>().write(piece);
            }
            for j in whole..columns {
                *to.wrapping_add(j) = *from.wrapping_add(j);
            }
        }
    }
}

/// Packs a panel whose columns are strided, in squares, so that a cache line of either side is used whole.
///
/// # Safety
/// As for [`pack_b`].
unsafe fn pack_columns<T: Element>(
    panel: *const T,
    [row_stride, column_stride]: [usize; 2],
    k: usize,
    columns: usize,
    padded: usize,
    to: *mut T,
) {
    #[cfg(target_arch = "x86_64")]
    if size_of::<T>() == size_of::<f32>() && row_stride == 1 && simd_level() >= SimdLevel::Avx2 {
        // SAFETY: the machine has AVX2; the elements are of four bytes each, which are moved and not looked at; the rest is
        // the caller's promise.
        return unsafe { turned::pack_columns(panel.cast(), column_stride, k, columns, padded, to.cast()) };
    }
    const SQUARE: usize = 16;
    for first_p in (0..k).step_by(SQUARE) {
        for first_j in (0..columns).step_by(SQUARE) {
            for j in first_j..columns.min(first_j + SQUARE) {
                for p in first_p..k.min(first_p + SQUARE) {
                    // SAFETY: element (p, j) of the panel, and its place in the packed panel.
                    unsafe {
                        *to.wrapping_add(p * padded + j) = *panel.wrapping_add(p * row_stride + j * column_stride)
                    };
                }
            }
        }
    }
}

/// Panels whose columns are contiguous, of elements of four bytes: squares of 8 × 8 are transposed in registers.
#[cfg(target_arch = "x86_64")]
mod turned {
    use crate::cpu::prefetch_line;
    use std::arch::x86_64::{
        __m256, _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps,
        _mm256_unpacklo_ps,
    };

    const SQUARE: usize = 8;
    /// Steps whose elements of one column are a cache line.
    const LINE: usize = 16;
    /// How many steps ahead lines are asked for.
    const AHEAD: usize = 4 * LINE;

    /// # Safety
    /// As for [`super::pack_columns`]; the machine has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn pack_columns(
        panel: *const f32,
        stride: usize,
        k: usize,
        columns: usize,
        padded: usize,
        to: *mut f32,
    ) {
        let (whole_k, whole_columns) = (k / SQUARE * SQUARE, columns / SQUARE * SQUARE);
        for first in (0..whole_k).step_by(LINE) {
            for j in (0..whole_columns).step_by(SQUARE) {
                for i in 0..SQUARE {
                    prefetch_line(panel.wrapping_add((j + i) * stride + first + AHEAD).cast());
                }
                for p in (first..whole_k.min(first + LINE)).step_by(SQUARE) {
                    // SAFETY: steps p to p + 8 of columns j to j + 8, and their places.
                    unsafe {
                        square(panel.wrapping_add(j * stride + p), stride, to.wrapping_add(p * padded + j), padded)
                    };
                }
            }
        }
        for p in 0..k {
            let first = if p < whole_k { whole_columns } else { 0 };
            for j in first..columns {
                // SAFETY: element (p, j) of the panel, and its place.
                unsafe { *to.wrapping_add(p * padded + j) = *panel.wrapping_add(p + j * stride) };
            }
        }
    }

    /// Row i of the result is element i of each row.
    ///
    /// # Safety
    /// 8 rows of 8 elements are readable at `from`, and writable at `to`; the machine has AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn square(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: promised by the caller.
        let row = |i: usize| unsafe { _mm256_loadu_ps(from.wrapping_add(i * stride)) };
        // Pairs, then fours of rows side by side within each half; then the halves.
        let pairs = |i: usize| {
            let (a, b) = (row(i), row(i + 1));
            [_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)]
        };
        let fours = |i: usize| -> [__m256; 4] {
            let ([a, b], [c, d]) = (pairs(i), pairs(i + 2));
            [
                _mm256_shuffle_ps::<0x44>(a, c),
                _mm256_shuffle_ps::<0xee>(a, c),
                _mm256_shuffle_ps::<0x44>(b, d),
                _mm256_shuffle_ps::<0xee>(b, d),
            ]
        };
        let (low, high) = (fours(0), fours(4));
        for i in 0..4 {
            let (first, second) =
                (_mm256_permute2f128_ps::<0x20>(low[i], high[i]), _mm256_permute2f128_ps::<0x31>(low[i], high[i]));
            // SAFETY: promised by the caller.
            unsafe {
                _mm256_storeu_ps(to.wrapping_add(i * to_stride), first);
                _mm256_storeu_ps(to.wrapping_add((i + 4) * to_stride), second);
            }
        }
    }
}

/// Elements from one packed tile of A to the next: a line more than it has, so that the tiles do not all meet in one set of a
/// cache.
pub(super) fn tile_stride<T>(k: usize) -> usize {
    ROWS * k + line::<T>()
}

/// Packs rows × k elements of A.
///
/// # Safety
/// All elements of `from` are readable; `to` has room for a [`tile_stride`] for each [`ROWS`] rows.
pub(super) unsafe fn pack_a<T: Element>(from: *const T, strides: [usize; 2], rows: usize, k: usize, to: *mut T) {
    let whole = if strides[0] == 1 { rows / ROWS * ROWS } else { 0 };
    if whole > 0 {
        for p in 0..k {
            let column = from.wrapping_add(p * strides[1]);
            let next = column.wrapping_add(ROWS_AHEAD * strides[1]);
            for i in (0..whole).step_by(line::<T>()) {
                prefetch_line(next.wrapping_add(i).cast());
            }
            let mut tile = to.wrapping_add(p * ROWS);
            for first in (0..whole).step_by(ROWS) {
                // SAFETY: rows first to first + ROWS of column p, which lie side by side, and their place in their tile.
                unsafe {
                    let rows = column.wrapping_add(first).cast::<[T; ROWS]>().read();
                    tile.cast::<[T; ROWS]>().write(rows);
                }
                tile = tile.wrapping_add(tile_stride::<T>(k));
            }
        }
    }
    for first in (whole..rows).step_by(ROWS) {
        let tile = to.wrapping_add(first / ROWS * tile_stride::<T>(k));
        let from = from.wrapping_add(first * strides[0]);
        for p in 0..k {
            for i in 0..ROWS.min(rows - first) {
                // SAFETY: element (first + i, p) of A, and its place in the tile.
                unsafe { *tile.wrapping_add(p * ROWS + i) = *from.wrapping_add(i * strides[0] + p * strides[1]) };
            }
        }
    }
}

/// A right operand that is packed once and used many times: constant weights.
pub struct PackedB<T> {
    lines: Vec<Line>,
    k: usize,
    n: usize,
    level: SimdLevel,
    element: std::marker::PhantomData<T>,
}

impl<T: Element> PackedB<T> {
    /// A packed copy of a k × n matrix.
    pub fn new(b: MatRef<T>) -> PackedB<T> {
        let (k, n, level) = (b.rows, b.columns, simd_level());
        let kernels = T::kernels(level);
        let padded = if n == 1 { 1 } else { n.next_multiple_of(kernels.lanes) };
        let lines = vec![Line([0; 64]); (k * padded * size_of::<T>()).div_ceil(size_of::<Line>())];
        let mut packed = PackedB { lines, k, n, level, element: std::marker::PhantomData };
        let strides = [b.row_stride, b.column_stride];
        let to: *mut T = packed.lines.as_mut_ptr().cast();
        if n == 1 {
            for p in 0..k {
                // SAFETY: the vector has room for k elements.
                unsafe { *to.wrapping_add(p) = b.data[p * b.row_stride] };
            }
            return packed;
        }
        let block = k_block(k);
        for first in (0..k).step_by(block) {
            let steps = block.min(k - first);
            let from = b.data.as_ptr().wrapping_add(first * b.row_stride);
            // SAFETY: the elements lie in b's slice, as its constructor checked; there is room for k × padded elements.
            unsafe { pack_b(from, strides, steps, n, kernels.width(), kernels.lanes, to.wrapping_add(first * padded)) };
        }
        packed
    }

    /// Room for a k × n matrix in memory that held another one; what it holds is not this matrix yet.
    pub(super) fn over(mut lines: Vec<Line>, k: usize, n: usize) -> PackedB<T> {
        let level = simd_level();
        let need = (k * n.next_multiple_of(T::kernels(level).lanes) * size_of::<T>()).div_ceil(size_of::<Line>());
        if lines.len() < need {
            lines.clear();
            lines.resize(need, Line([0; 64]));
        }
        PackedB { lines, k, n, level, element: std::marker::PhantomData }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut T {
        self.lines.as_mut_ptr().cast()
    }

    /// Takes the memory, for another matrix.
    pub(super) fn take_lines(&mut self) -> Vec<Line> {
        (self.k, self.n) = (0, 0);
        std::mem::take(&mut self.lines)
    }

    /// Where the panel of this column starts within the block of `steps` steps that begins at `first`; how far apart its rows are.
    pub(super) fn panel(&self, first: usize, steps: usize, column: usize, width: usize) -> (*const T, usize) {
        let lanes = T::kernels(self.level).lanes;
        let padded = self.n.next_multiple_of(lanes);
        let at = first * padded + column * steps;
        (self.lines.as_ptr().cast::<T>().wrapping_add(at), width.min(padded - column))
    }

    /// The elements, where n is 1: they are not padded then.
    pub(super) fn as_vector(&self) -> *const T {
        debug_assert!(self.is_vector());
        self.lines.as_ptr().cast()
    }
}

impl<T> PackedB<T> {
    /// The number of rows.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The number of columns.
    pub fn n(&self) -> usize {
        self.n
    }

    pub(super) fn is_vector(&self) -> bool {
        self.n == 1
    }

    pub(super) fn level(&self) -> SimdLevel {
        self.level
    }
}

impl<T> std::fmt::Debug for PackedB<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedB({} x {}, {:?})", self.k, self.n, self.level)
    }
}
