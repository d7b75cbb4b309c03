//! How much of a thread's stack is left for recursion.

/// The part of a thread's stack that recursion may use, from where it was made on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StackRoom {
    base: usize,
    room: usize,
}

impl StackRoom {
    /// So many bytes from the caller's frame on.
    #[inline(never)]
    pub(crate) fn here(room: usize) -> Self {
        let mark = 0u8;
        Self { base: std::ptr::from_ref(&mark).addr(), room }
    }

    /// Whether this frame lies beyond them. Of the same thread only.
    #[inline(never)]
    pub(crate) fn is_used(&self) -> bool {
        let mark = 0u8;
        self.base.abs_diff(std::ptr::from_ref(&mark).addr()) > self.room
    }
}
