//! The blocked product: which parts of the operands are packed when, and which tile of C is computed when.

use super::kernel::{Kernels, MAX_TILE, ROWS, Tile};
use super::pack::{Scratch, pack_a, pack_b};
use super::{Element, Epilogue, Problem, RawRhs, finish};
use crate::cpu::simd_level;
use std::ops::Range;

/// The number of steps between two stores of a sum: k is cut into equal blocks of at most this many, rounded up to eight.
const MAX_K_BLOCK: usize = 512;
/// Rows of A between two passes over the panels of B: a block of A stays in the second-level cache.
const ROW_BLOCK: usize = 24 * ROWS;
/// Columns of B that are packed at a time.
const COLUMN_BLOCK: usize = 1536;

/// The length of the blocks that `k` is cut into; a function of `k` alone.
pub fn k_block(k: usize) -> usize {
    let blocks = k.div_ceil(MAX_K_BLOCK).max(1);
    k.div_ceil(blocks).next_multiple_of(8).max(8)
}

/// One blocked product over a range of rows and a range of columns.
pub(super) struct Blocked<'a, T: 'static> {
    p: Problem<'a, T>,
    rows: Range<usize>,
    columns: Range<usize>,
    /// Whether rows and columns were swapped, which the epilogue has to undo.
    flipped: bool,
    kernels: &'static Kernels<T>,
}

impl<'a, T: Element> Blocked<'a, T> {
    pub(super) fn new(p: Problem<'a, T>, rows: Range<usize>, columns: Range<usize>, flipped: bool) -> Self {
        let level = match p.b {
            RawRhs::Packed(b) => b.level(),
            RawRhs::Plain { .. } => simd_level(),
        };
        Blocked { p, rows, columns, flipped, kernels: T::kernels(level) }
    }

    /// Whether B is read where it lies: its rows are contiguous, and there are too few rows of A to pay for packing, or it is
    /// one panel that the caches hold.
    fn reads_b_in_place(&self, strides: [usize; 2]) -> bool {
        let one_panel =
            self.columns.len() <= self.kernels.width() && self.p.k * strides[0] * size_of::<T>() <= 128 << 10;
        let padded = self.kernels.masks_loads || self.columns.len().is_multiple_of(self.kernels.lanes);
        strides[1] == 1 && padded && (one_panel || self.rows.len() < 8 * ROWS)
    }

    /// Whether A is packed: its columns are strided, and it is read for more than one panel.
    fn packs_a(&self) -> bool {
        self.p.a_strides[1] != 1 && self.columns.len() > self.kernels.width() && self.rows.len() > ROWS
    }

    /// # Safety
    /// As for [`gemm_raw`].
    pub(super) unsafe fn run(&self) {
        Scratch::with(|scratch| {
            let block = k_block(self.p.k);
            let in_place = matches!(self.p.b, RawRhs::Plain { strides, .. } if self.reads_b_in_place(strides));
            let column_block =
                if matches!(self.p.b, RawRhs::Plain { .. }) && !in_place { COLUMN_BLOCK } else { usize::MAX };
            let mut first_column = self.columns.start;
            while first_column < self.columns.end {
                let columns = first_column..self.columns.end.min(first_column.saturating_add(column_block));
                first_column = columns.end;
                let mut first_k = 0;
                loop {
                    let steps = first_k..self.p.k.min(first_k + block);
                    // SAFETY: the ranges are parts of the problem's.
                    unsafe { self.k_step(steps.clone(), columns.clone(), in_place, scratch) };
                    first_k = steps.end;
                    if first_k >= self.p.k {
                        break;
                    }
                }
            }
        });
    }

    /// Adds the products of one block of k to the columns.
    ///
    /// # Safety
    /// As for [`gemm_raw`]; the ranges are parts of the problem's.
    unsafe fn k_step(&self, steps: Range<usize>, columns: Range<usize>, in_place: bool, scratch: &mut Scratch) {
        let k = steps.len();
        let width = self.kernels.width();
        let (packed_a, packed_b) = scratch.split(
            if self.packs_a() { ROW_BLOCK * k } else { 0 },
            if in_place { 0 } else { columns.len().next_multiple_of(self.kernels.lanes) * k },
        );
        // Where the panel of a column starts, and how far apart its rows are.
        let panel_of: &dyn Fn(usize, usize) -> (*const T, usize) = match self.p.b {
            RawRhs::Packed(b) => &move |column, _| b.panel(steps.start, k, column, width),
            RawRhs::Plain { data, strides } if in_place => {
                &move |column, _| (data.wrapping_add(steps.start * strides[0] + column), strides[0])
            }
            RawRhs::Plain { data, strides } => {
                let from = data.wrapping_add(steps.start * strides[0] + columns.start * strides[1]);
                // SAFETY: `from` is the first of k × columns elements of B; the scratch has room for the padded panels.
                unsafe { pack_b(from, strides, k, columns.len(), width, self.kernels.lanes, packed_b) };
                let first_column = columns.start;
                let packed_b = packed_b.cast_const();
                &move |column, columns| {
                    let at = (column - first_column) * k;
                    (packed_b.wrapping_add(at), columns.next_multiple_of(self.kernels.lanes))
                }
            }
        };
        let first = steps.start == 0;
        let last = steps.end == self.p.k;
        let row_block = if self.columns.len() <= width { usize::MAX } else { ROW_BLOCK };
        let mut first_row = self.rows.start;
        while first_row < self.rows.end {
            let rows = first_row..self.rows.end.min(first_row.saturating_add(row_block));
            first_row = rows.end;
            let from = self.p.a.wrapping_add(rows.start * self.p.a_strides[0] + steps.start * self.p.a_strides[1]);
            let packs_a = self.packs_a();
            if packs_a {
                // SAFETY: `from` is the first of rows × k elements of A; the scratch has room for them in whole tiles.
                unsafe { pack_a(from, self.p.a_strides, rows.len(), k, packed_a) };
            }
            let mut column = columns.start;
            while column < columns.end {
                let tile_columns = width.min(columns.end - column);
                let (b, b_stride) = panel_of(column, tile_columns);
                let mut row = rows.start;
                while row < rows.end {
                    let tile_rows = ROWS.min(rows.end - row);
                    let (a, a_strides) = if packs_a {
                        (packed_a.cast_const().wrapping_add((row - rows.start) * k), [1, ROWS])
                    } else {
                        (from.wrapping_add((row - rows.start) * self.p.a_strides[0]), self.p.a_strides)
                    };
                    let tile = Tile {
                        k,
                        a,
                        a_strides,
                        b,
                        b_stride,
                        c: std::ptr::null_mut(),
                        c_stride: 0,
                        columns: tile_columns,
                        alpha: self.p.alpha,
                        beta: if first { self.p.beta } else { T::ONE },
                        bias: std::ptr::null(),
                        relu: false,
                        gate: std::ptr::null(),
                        gate_stride: 0,
                    };
                    // SAFETY: the tile is a part of the problem.
                    unsafe { self.tile(tile, row, tile_rows, column, last) };
                    row += tile_rows;
                }
                if last && let Epilogue::Call(callback) = self.p.epilogue {
                    let columns = column..column + tile_columns;
                    if self.flipped {
                        callback.call(columns, rows.clone());
                    } else {
                        callback.call(rows.clone(), columns);
                    }
                }
                column += tile_columns;
            }
        }
    }

    /// Runs the micro-kernel on one tile: straight into C where its rows are contiguous, else through a buffer.
    ///
    /// # Safety
    /// As for [`gemm_raw`]; the tile's operands are set and C's tile at (row, column) is within the problem's ranges.
    #[inline(always)]
    unsafe fn tile(&self, mut tile: Tile<T>, row: usize, rows: usize, column: usize, last: bool) {
        let [row_stride, column_stride] = self.p.c_strides;
        let c = self.p.c.wrapping_add(row * row_stride + column * column_stride);
        let run = self.kernels.tile(rows, tile.columns);
        let (mut bias, mut relu, mut gate) = self.p.epilogue.parts();
        if !last {
            (bias, relu, gate) = (None, false, None);
        }
        let along_rows = bias.is_none() && gate.is_none() || !self.flipped;
        if column_stride == 1 && along_rows && gate.is_none_or(|gate| gate.column_stride == 1) {
            tile.c = c;
            tile.c_stride = row_stride;
            tile.bias = bias.map_or(std::ptr::null(), |bias| bias[column..].as_ptr());
            tile.relu = relu;
            if let Some(gate) = gate {
                tile.gate = gate.data.as_ptr().wrapping_add(row * gate.row_stride + column);
                tile.gate_stride = gate.row_stride;
            }
            // SAFETY: operands and C are in bounds by the caller's promise; the kernel is one that this machine runs.
            unsafe { run(&tile) };
            return;
        }
        let mut buffer = [T::ZERO; MAX_TILE];
        let (columns, beta) = (tile.columns, tile.beta);
        tile.c = buffer.as_mut_ptr();
        tile.c_stride = self.kernels.width();
        tile.beta = T::ZERO;
        // SAFETY: as above; the buffer holds the widest tile.
        unsafe { run(&tile) };
        for i in 0..rows {
            for j in 0..columns {
                let value = buffer[i * self.kernels.width() + j];
                let at = if self.flipped { [column + j, row + i] } else { [row + i, column + j] };
                let (bias, gate) = (bias.map(|bias| bias[at[1]]), gate.map(|gate| gate.at(at)));
                let to = c.wrapping_add(i * row_stride + j * column_stride);
                // SAFETY: an element of C within the problem's ranges.
                unsafe { finish(value, beta, to, bias, relu, gate) };
            }
        }
    }
}
