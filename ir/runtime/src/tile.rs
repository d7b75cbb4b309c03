//! A tile: the bounded block between a block kernel and the loop over its survivors, in a task's own memory.
//!
//! What holds:
//! - A tile has room for [`TILE_ROWS`] rows. `rows` says how many are in it now; elements behind that are undefined.
//! - `mask` has one byte a row, 0 or 1. `selection` has the indices of the rows whose byte is 1, ascending, and
//!   `selected` their number, once a kernel has written them.
//! - Column pointers are not part of it: kernels get them as arguments.

/// Rows a tile.
pub const TILE_ROWS: usize = 2048;

/// Scratch of a scan. Generated code passes addresses of its fields to kernels.
#[repr(C, align(64))]
pub struct Tile {
    /// 1 for rows that are in.
    pub mask: [u8; TILE_ROWS],
    /// Indices of the rows that are in.
    pub selection: [u16; TILE_ROWS],
    /// A word a row: a hash of its keys, or what is summed.
    pub words: [u64; TILE_ROWS],
    /// The number of rows.
    pub rows: u64,
    /// The number of indices in `selection`.
    pub selected: u64,
}

impl Default for Tile {
    fn default() -> Self {
        Self::new()
    }
}

impl Tile {
    /// A tile without rows.
    pub fn new() -> Self {
        Self { mask: [0; TILE_ROWS], selection: [0; TILE_ROWS], words: [0; TILE_ROWS], rows: 0, selected: 0 }
    }

    /// The address that generated code gets.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        (&raw mut *self).cast()
    }
}
