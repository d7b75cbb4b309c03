//! The blocked product: which parts of the operands are packed when, and which tile of C is computed when.

use super::kernel::{Ahead, Kernels, MAX_TILE, ROWS, Tile, line};
use super::pack::{Scratch, pack_a, pack_b, tile_stride};
use super::{Element, Epilogue, Problem, RawRhs, finish};
use crate::cpu::simd_level;
use std::ops::Range;

/// The number of steps between two stores of a sum: k is cut into equal blocks of at most this many, rounded up to eight.
const MAX_K_BLOCK: usize = 512;
/// Bytes of A between two passes over the panels of B: a block of A stays in the second-level cache, beside a panel.
const ROW_BLOCK_BYTES: usize = 320 << 10;
/// Bytes of operands and result that the second-level cache may hold from before; of larger ones, parts are asked for ahead.
const CACHED_BYTES: usize = 512 << 10;
/// Columns of B that are packed for several passes.
const COLUMN_BLOCK: usize = 1536;

/// Rows up to which B is read where it lies, if its rows are contiguous: a copy would be read too few times to pay for itself.
const IN_PLACE_ROWS: usize = 44 * ROWS;
/// Bytes of a block of a B of one panel, from its first element to its last, up to which any number of rows reads it where it lies.
const ONE_PANEL_BYTES: usize = 128 << 10;

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
    /// Whether parts of the operands and of C are asked for ahead.
    asks: bool,
}

impl<'a, T: Element> Blocked<'a, T> {
    pub(super) fn new(p: Problem<'a, T>, rows: Range<usize>, columns: Range<usize>, flipped: bool) -> Self {
        let level = match p.b {
            RawRhs::Packed(b) => b.level(),
            RawRhs::Plain { .. } => simd_level(),
        };
        let bytes = |x: usize, y: usize| x.saturating_mul(y).saturating_mul(size_of::<T>());
        let asks = [bytes(p.m, p.k), bytes(p.k, p.n), bytes(p.m, p.n)].into_iter().any(|bytes| bytes > CACHED_BYTES);
        Blocked { p, rows, columns, flipped, kernels: T::kernels(level), asks }
    }

    /// Whether B is read where it lies: its rows are contiguous, and there are too few rows of A to pay for packing, or it is
    /// one panel whose blocks of k the caches hold.
    fn reads_b_in_place(&self, strides: [usize; 2]) -> bool {
        let block = k_block(self.p.k).min(self.p.k);
        let one_panel = self.columns.len() <= self.kernels.width()
            && block.saturating_mul(strides[0]).saturating_mul(size_of::<T>()) <= ONE_PANEL_BYTES;
        let padded = self.kernels.masks_loads || self.columns.len().is_multiple_of(self.kernels.lanes);
        strides[1] == 1 && padded && (one_panel || self.rows.len() <= IN_PLACE_ROWS)
    }

    /// Whether A is packed: its columns are strided, and it is read for more than one panel.
    fn packs_a(&self) -> bool {
        self.p.a_strides[1] != 1 && self.columns.len() > self.kernels.width() && self.rows.len() > ROWS
    }

    /// Rows between two passes over the panels of B: nearly equal blocks. A single panel is passed once.
    fn row_block(&self, k: usize) -> usize {
        let rows = self.rows.len();
        if self.columns.len() <= self.kernels.width() && !self.packs_a() {
            return rows;
        }
        let most = (ROW_BLOCK_BYTES / (k.max(1) * size_of::<T>())).max(4 * ROWS);
        rows.div_ceil(rows.div_ceil(most)).next_multiple_of(ROWS)
    }

    /// # Safety
    /// As for [`super::gemm_raw`].
    pub(super) unsafe fn run(&self) {
        Scratch::with(|scratch| {
            let block = k_block(self.p.k);
            let rows = self.row_block(block.min(self.p.k));
            let place = match self.p.b {
                RawRhs::Packed(_) => Place::Packed,
                RawRhs::Plain { strides, .. } if self.reads_b_in_place(strides) => Place::Lying,
                RawRhs::Plain { .. } if rows >= self.rows.len() => Place::Once,
                RawRhs::Plain { .. } => Place::Kept,
            };
            let column_block = if place == Place::Kept { COLUMN_BLOCK } else { usize::MAX };
            let mut first_column = self.columns.start;
            while first_column < self.columns.end {
                let columns = first_column..self.columns.end.min(first_column.saturating_add(column_block));
                first_column = columns.end;
                let mut first_k = 0;
                loop {
                    let steps = first_k..self.p.k.min(first_k + block);
                    first_k = steps.end;
                    // SAFETY: the ranges are parts of the problem's.
                    unsafe { self.k_step(steps, columns.clone(), place, rows, scratch) };
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
    /// As for [`super::gemm_raw`]; the ranges are parts of the problem's.
    unsafe fn k_step(
        &self,
        steps: Range<usize>,
        columns: Range<usize>,
        place: Place,
        row_block: usize,
        scratch: &mut Scratch,
    ) {
        let k = steps.len();
        let (width, lanes) = (self.kernels.width(), self.kernels.lanes);
        let (packed_a, packed_b) = scratch.split(
            if self.packs_a() { row_block.div_ceil(ROWS) * tile_stride::<T>(k) } else { 0 },
            match place {
                Place::Packed | Place::Lying => 0,
                Place::Once => width * k,
                Place::Kept => columns.len().next_multiple_of(lanes) * k,
            },
        );
        let last = steps.end == self.p.k;
        let panels =
            Panels { p: &self.p, kernels: self.kernels, steps, columns: columns.clone(), place, packed: packed_b };
        let mut first_row = self.rows.start;
        while first_row < self.rows.end {
            let rows = first_row..self.rows.end.min(first_row + row_block);
            // SAFETY: the rows are a part of the problem's, and the scratch has room for them.
            let a = unsafe { self.block_of_a(rows.clone(), &panels.steps, packed_a) };
            let packs_b = first_row == self.rows.start && matches!(place, Place::Once | Place::Kept);
            first_row = rows.end;
            for column in columns.clone().step_by(width) {
                if packs_b {
                    // SAFETY: the panel is a part of B, and the scratch has room for it.
                    unsafe { panels.pack(column) };
                }
                // SAFETY: the rows and the panel are parts of the problem.
                unsafe { self.panel(&a, rows.clone(), &panels, column, packs_b) };
                if last && let Epilogue::Call(callback) = self.p.epilogue {
                    let columns = column..columns.end.min(column + width);
                    if self.flipped {
                        callback.call(columns, rows.clone());
                    } else {
                        callback.call(rows.clone(), columns);
                    }
                }
            }
        }
    }

    /// The rows of A for some steps: where they lie, or packed.
    ///
    /// # Safety
    /// The elements are readable; where A is packed, `to` has room for the tiles.
    unsafe fn block_of_a(&self, rows: Range<usize>, steps: &Range<usize>, to: *mut T) -> BlockOfA<T> {
        let strides = self.p.a_strides;
        let from = self.p.a.wrapping_add(rows.start * strides[0] + steps.start * strides[1]);
        if !self.packs_a() {
            return BlockOfA { from, tile: ROWS * strides[0], strides, lies: strides[1] == 1 };
        }
        // SAFETY: `from` is the first of rows × steps elements of A; the scratch has room for them in whole tiles.
        unsafe { pack_a(from, strides, rows.len(), steps.len(), to) };
        BlockOfA { from: to.cast_const(), tile: tile_stride::<T>(steps.len()), strides: [1, ROWS], lies: false }
    }

    /// Adds the products of some rows with one panel. While its tiles run, what comes next is on its way into the caches: the next
    /// rows of A, where they lie and no panel before has read them; else a part of the next panel of B, or of what it will be
    /// packed from.
    ///
    /// # Safety
    /// As for [`super::gemm_raw`]; the rows and the panel are parts of the problem.
    unsafe fn panel(&self, a: &BlockOfA<T>, rows: Range<usize>, panels: &Panels<'_, T>, column: usize, packing: bool) {
        let k = panels.steps.len();
        let columns = self.kernels.width().min(panels.columns.end - column);
        let (b, b_stride) = panels.at(column, columns);
        let beta = if panels.steps.start == 0 { self.p.beta } else { T::ONE };
        let last = panels.steps.end == self.p.k;
        let reads_a_first = a.lies && column == panels.columns.start;
        for (index, row) in rows.clone().step_by(ROWS).enumerate() {
            let from = a.from.wrapping_add(index * a.tile);
            let here = Ahead { from, row: 0, step: 0 };
            let ahead = if reads_a_first {
                Ahead { from: from.wrapping_add(a.tile), row: a.strides[0], step: line::<T>() }
            } else {
                panels.ahead(column + columns, index, packing).unwrap_or(here)
            };
            let tile = Tile {
                k,
                a: from,
                a_strides: a.strides,
                b,
                b_stride,
                c: std::ptr::null_mut(),
                c_stride: 0,
                columns,
                alpha: self.p.alpha,
                beta,
                bias: std::ptr::null(),
                relu: false,
                gate: std::ptr::null(),
                gate_stride: 0,
                asks: self.asks,
                ahead,
            };
            // SAFETY: the tile is a part of the problem.
            unsafe { self.tile(tile, row, ROWS.min(rows.end - row), column, last) };
        }
    }

    /// Runs the micro-kernel on one tile: straight into C where its rows are contiguous, else through a buffer.
    ///
    /// # Safety
    /// As for [`super::gemm_raw`]; the tile's operands are set and C's tile at (row, column) is within the problem's ranges.
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

/// Where the panels of B are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// In an operand that was packed before.
    Packed,
    /// In B as it lies.
    Lying,
    /// In the scratch, one at a time: there is one pass.
    Once,
    /// In the scratch: the first pass packs them.
    Kept,
}

/// Some rows of A for a block of k.
struct BlockOfA<T> {
    from: *const T,
    /// From one tile to the next, in elements.
    tile: usize,
    strides: [usize; 2],
    /// Whether these are A's own rows, contiguous along k.
    lies: bool,
}

/// The panels of some columns of B for a block of k.
struct Panels<'a, T: 'static> {
    p: &'a Problem<'a, T>,
    kernels: &'static Kernels<T>,
    steps: Range<usize>,
    columns: Range<usize>,
    place: Place,
    packed: *mut T,
}

impl<T: Element> Panels<'_, T> {
    /// Where a panel of so many columns starts, and how far apart its rows are.
    fn at(&self, column: usize, columns: usize) -> (*const T, usize) {
        let k = self.steps.len();
        match self.p.b {
            RawRhs::Packed(b) => b.panel(self.steps.start, k, column, self.kernels.width()),
            RawRhs::Plain { data, strides } if self.place == Place::Lying => {
                (data.wrapping_add(self.steps.start * strides[0] + column), strides[0])
            }
            RawRhs::Plain { .. } => (self.slot(column).cast_const(), columns.next_multiple_of(self.kernels.lanes)),
        }
    }

    /// The place of a panel in the scratch.
    fn slot(&self, column: usize) -> *mut T {
        let before = if self.place == Place::Once { 0 } else { column - self.columns.start };
        self.packed.wrapping_add(before * self.steps.len())
    }

    /// Packs a panel into its place.
    ///
    /// # Safety
    /// The panel is a part of B, and the scratch has room for it.
    unsafe fn pack(&self, column: usize) {
        if let RawRhs::Plain { data, strides } = self.p.b {
            let columns = self.kernels.width().min(self.columns.end - column);
            let from = data.wrapping_add(self.steps.start * strides[0] + column * strides[1]);
            let (width, lanes) = (self.kernels.width(), self.kernels.lanes);
            // SAFETY: the caller's promise.
            unsafe { pack_b(from, strides, self.steps.len(), columns, width, lanes, self.slot(column)) };
        }
    }

    /// What the tile with this index asks for, of the panel that begins at a column: a part of where the panel is, or is packed
    /// from. Behind the last panel comes the first one of the next block of k.
    fn ahead(&self, column: usize, index: usize, packing: bool) -> Option<Ahead<T>> {
        let RawRhs::Plain { data, strides } = self.p.b else {
            return None;
        };
        let (mut column, mut begin) = (column, self.steps.start);
        if column >= self.columns.end {
            if !(packing || self.place == Place::Lying) || self.steps.end >= self.p.k {
                return None;
            }
            (column, begin) = (self.columns.start, self.steps.end);
        }
        let columns = self.kernels.width().min(self.columns.end - column);
        let (k, line) = (self.steps.len().min(self.p.k - begin), line::<T>());
        let source = data.wrapping_add(begin * strides[0] + column * strides[1]);
        let times = k.div_ceil(line);
        if packing && strides[0] == 1 {
            // A line of each of some columns at each time.
            let first = index * ROWS;
            let from = source.wrapping_add(first * strides[1]);
            return (first < columns).then_some(Ahead { from, row: strides[1], step: line });
        }
        if packing || self.place == Place::Lying {
            // A row at each time.
            let first = index * times;
            let from = source.wrapping_add(first * strides[0]);
            return (first < k && strides[1] == 1).then_some(Ahead { from, row: line, step: strides[0] });
        }
        let first = index * times * ROWS * line;
        let from = self.slot(column).cast_const().wrapping_add(first);
        (first < k * columns).then_some(Ahead { from, row: line, step: ROWS * line })
    }
}
