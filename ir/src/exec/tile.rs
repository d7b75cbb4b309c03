//! Tiles of `apply` steps: the rows' features, the saved columns, and the model that runs over them.

use super::run::Values;
use crate::lower::rel::tile_slots as tile;
use crate::lower::tensor::{TileProgram, TileRun};

/// A tile of one range.
pub(super) struct Tile {
    /// The block that generated code reads, see [`tile`].
    slots: Vec<u64>,
    _buffers: Vec<Vec<u128>>,
    _run: Box<TileRun>,
}

impl Tile {
    /// A tile of so many rows for a model; saved records have `size` bytes.
    pub(super) fn new(program: &TileProgram, size: usize, tile_rows: usize, values: &Values) -> Self {
        let mut buffers: Vec<Vec<u128>> = vec![];
        let mut block = |bytes: usize| -> u64 {
            buffers.push(vec![0u128; bytes.div_ceil(16) + 1]);
            let last = buffers.len() - 1;
            buffers[last].as_mut_ptr().expose_provenance() as u64
        };
        let rows = block(size * tile_rows);
        let tensors: Vec<u64> = program.record_bytes().map(|bytes| block(bytes * tile_rows)).collect();
        let mut run = Box::new(TileRun::new(program, &tensors, values, tile_rows));
        let mut slots = vec![0u64; tile::TENSORS as usize / 8];
        slots[tile::ROWS as usize / 8] = rows;
        slots[tile::CALLBACK as usize / 8] = (TileRun::call as *const u8).expose_provenance() as u64;
        slots[tile::DATA as usize / 8] = (&raw mut *run).expose_provenance() as u64;
        slots.extend(tensors);
        Self { slots, _buffers: buffers, _run: run }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.slots.as_mut_ptr().cast()
    }
}
