//! Block kernels: plain loops over whole columns or tiles, compiled several times and chosen at start-up by what the CPU has.
//!
//! What holds:
//! - A block kernel gets pointers and a row count, reads and writes nothing beyond them, and never allocates.
//! - Every version of a kernel gives the same bits.

pub mod bloom;
pub(crate) mod calls;
pub mod date;
pub mod decimal;
pub mod filter;
pub mod groups;
pub mod hash;
pub mod like;
pub mod mask;
pub mod random;
pub mod text;
pub mod unpack;
pub mod vector_math;

/// A slice of what generated code points to.
///
/// # Safety
/// `start` points to `len` initialized elements, aligned, that no one writes to while the slice lives; a length below 0 is 0.
unsafe fn elements<'a, T>(start: *mut u8, len: i64) -> &'a [T] {
    let len = len.max(0) as usize;
    if len == 0 {
        return &[];
    }
    // SAFETY: promised by the caller.
    unsafe { std::slice::from_raw_parts(start.cast(), len) }
}

/// As [`elements`], to write to.
///
/// # Safety
/// As for [`elements`], and no one else reads them while the slice lives.
unsafe fn elements_mut<'a, T>(start: *mut u8, len: i64) -> &'a mut [T] {
    let len = len.max(0) as usize;
    if len == 0 {
        return &mut [];
    }
    // SAFETY: promised by the caller.
    unsafe { std::slice::from_raw_parts_mut(start.cast(), len) }
}
