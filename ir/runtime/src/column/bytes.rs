//! The memory of a column's elements.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use super::TextView;
use crate::pool::LARGE_BLOCK;

/// An array of bytes of fixed length and generous alignment, zero at first.
pub(super) struct AlignedBytes {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the array owns its memory; writing needs `&mut`.
unsafe impl Send for AlignedBytes {}
// SAFETY: as above.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    pub(super) fn zeroed(bytes: usize) -> Self {
        let align = if bytes >= LARGE_BLOCK { LARGE_BLOCK } else { 64 };
        let layout = match Layout::from_size_align(bytes.max(64), align) {
            Ok(layout) => layout,
            Err(_) => panic!("a column of {bytes} bytes"),
        };
        // SAFETY: the layout has at least 64 bytes.
        match NonNull::new(unsafe { alloc_zeroed(layout) }) {
            Some(start) => Self { start, layout },
            None => handle_alloc_error(layout),
        }
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.layout.size()
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
        assert!(len * size_of::<T>() <= self.layout.size());
        // SAFETY: aligned to at least 64 bytes, long enough, initialized, and any bytes are an element.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), len) }
    }

    pub(super) fn slice_mut<T: Element>(&mut self, len: usize) -> &mut [T] {
        assert!(len * size_of::<T>() <= self.layout.size());
        // SAFETY: as in `slice`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), len) }
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
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
