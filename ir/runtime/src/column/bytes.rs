//! The memory of a column's elements.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::TextView;
use crate::pool::{Block, LARGE_BLOCK, QueryMemory};

/// An array of bytes of fixed length and generous alignment, initialized.
pub(super) struct AlignedBytes {
    start: NonNull<u8>,
    bytes: usize,
    memory: Memory,
}

/// Where an array stands.
enum Memory {
    System(Layout),
    /// Large arrays stand in the process's pool, which keeps the memory of those that are dropped: new pages cost more than what
    /// is written to them.
    Pool {
        _block: Block,
    },
}

// SAFETY: the array owns its memory; writing needs `&mut`.
unsafe impl Send for AlignedBytes {}
// SAFETY: as above.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// Memory that nothing was written to, by `allocate` where the pool has no part in it; `None` where there is none.
    fn take(bytes: usize, allocate: unsafe fn(Layout) -> *mut u8) -> Option<Self> {
        let bytes = bytes.max(64);
        if bytes >= LARGE_BLOCK {
            let block = account().allocate(bytes).ok()?;
            let start = NonNull::new(block.as_ptr())?;
            return Some(Self { start, bytes, memory: Memory::Pool { _block: block } });
        }
        let layout = Layout::from_size_align(bytes, 64).ok()?;
        // SAFETY: the layout has at least 64 bytes.
        let start = NonNull::new(unsafe { allocate(layout) })?;
        Some(Self { start, bytes, memory: Memory::System(layout) })
    }

    pub(super) fn zeroed(bytes: usize) -> Self {
        let Some(array) = Self::take(bytes, alloc_zeroed) else { panic!("no memory for a column of {bytes} bytes") };
        if let Memory::Pool { .. } = array.memory {
            // SAFETY: as many bytes are this array's.
            unsafe { array.start.write_bytes(0, array.bytes) };
        }
        array
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// `T` must be a plain number or a [`TextView`]: any bytes are a value, zeros among them.
    pub(super) fn from_iter<T: Element>(len: usize, values: impl Iterator<Item = T>) -> Self {
        let mut array = Self::zeroed(len * size_of::<T>());
        for (slot, value) in array.slice_mut::<T>(len).iter_mut().zip(values) {
            *slot = value;
        }
        array
    }

    pub(super) fn slice<T: Element>(&self, len: usize) -> &[T] {
        assert!(len * size_of::<T>() <= self.bytes);
        // SAFETY: aligned to at least 64 bytes, long enough, initialized, and any bytes are an element.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), len) }
    }

    pub(super) fn slice_mut<T: Element>(&mut self, len: usize) -> &mut [T] {
        assert!(len * size_of::<T>() <= self.bytes);
        // SAFETY: as in `slice`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), len) }
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        if let Memory::System(layout) = self.memory {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(self.start.as_ptr(), layout) };
        }
    }
}

/// What all columns hold of the process's pool.
fn account() -> &'static Arc<QueryMemory> {
    static COLUMNS: OnceLock<Arc<QueryMemory>> = OnceLock::new();
    COLUMNS.get_or_init(QueryMemory::unlimited)
}

/// An array that several threads write, each a piece of it. Its memory is touched first by who writes it.
pub(super) struct Unwritten {
    array: AlignedBytes,
    bytes: usize,
    /// How many bytes pieces have made zero.
    zeroed: AtomicUsize,
}

/// A piece of an array, which no one has written to.
pub(super) struct Piece<'a> {
    start: NonNull<u8>,
    bytes: usize,
    zeroed: &'a AtomicUsize,
}

// SAFETY: a piece is the only one that refers to its bytes.
unsafe impl Send for Piece<'_> {}

impl Unwritten {
    /// An array of so many bytes; `None` where the system has no room for it.
    pub(super) fn new(bytes: usize) -> Option<Self> {
        Some(Self { array: AlignedBytes::take(bytes, alloc)?, bytes, zeroed: AtomicUsize::new(0) })
    }

    /// Pieces of these many bytes, one behind the other.
    ///
    /// # Panics
    /// Where the array is shorter than all pieces.
    pub(super) fn pieces(&mut self, bytes: &[usize]) -> Vec<Piece<'_>> {
        let Self { array, bytes: all, zeroed } = self;
        let total = bytes.iter().try_fold(0usize, |sum, bytes| sum.checked_add(*bytes));
        assert!(total.is_some_and(|total| total <= *all), "pieces of an array");
        *zeroed.get_mut() = 0;
        let zeroed = &*zeroed;
        let mut at = 0;
        let piece = |&bytes: &usize| {
            // SAFETY: within the array, as asserted; pieces do not overlap, and `&mut self` is lent to them.
            let start = unsafe { array.start.add(at) };
            at += bytes;
            Piece { start, bytes, zeroed }
        };
        bytes.iter().map(piece).collect()
    }

    /// The array; `None` where a piece of it was left unwritten.
    pub(super) fn finish(self) -> Option<AlignedBytes> {
        (self.zeroed.into_inner() == self.bytes).then_some(self.array)
    }
}

impl<'a> Piece<'a> {
    /// The piece, zeros.
    pub(super) fn zeros<T: Element>(self) -> &'a mut [T] {
        assert!(self.start.cast::<T>().is_aligned(), "elements of a piece");
        // SAFETY: the bytes are this piece's alone for as long as the array is lent; zeros are elements, and as many fit.
        unsafe {
            self.start.write_bytes(0, self.bytes);
            self.zeroed.fetch_add(self.bytes, Ordering::Relaxed);
            std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.bytes / size_of::<T>())
        }
    }
}

/// Elements of columns.
///
/// # Safety
/// Any bytes are a value.
pub(super) unsafe trait Element: Copy {}
// SAFETY: numbers.
unsafe impl Element for u8 {}
// SAFETY: numbers.
unsafe impl Element for i8 {}
// SAFETY: numbers.
unsafe impl Element for u16 {}
// SAFETY: numbers.
unsafe impl Element for i16 {}
// SAFETY: numbers.
unsafe impl Element for u32 {}
// SAFETY: numbers.
unsafe impl Element for i32 {}
// SAFETY: numbers.
unsafe impl Element for i64 {}
// SAFETY: numbers.
unsafe impl Element for u64 {}
// SAFETY: numbers.
unsafe impl Element for i128 {}
// SAFETY: numbers.
unsafe impl Element for f32 {}
// SAFETY: numbers.
unsafe impl Element for f64 {}
// SAFETY: two numbers; the invariant on what they point to is kept by those who write them. The columns here write valid views only.
unsafe impl Element for TextView {}
