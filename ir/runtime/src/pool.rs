//! The memory pool: one per process, reused up to its high-water mark.
//!
//! What holds:
//! - Every block belongs to one size class: a power of two from 16 KB on, in quarter steps from 2 MB on. Blocks of 2 MB and
//!   more are aligned to 2 MB (so that the kernel may back them with huge pages), smaller ones to 4 KB.
//! - `used` counts the bytes of blocks that are handed out and of plain reservations; `used <= limit` always. `cached` counts free blocks that are
//!   kept for reuse; `used + cached <= limit` too, for free blocks go back to the system before a request within the limit fails.
//! - A [`QueryMemory`] counts what one query holds. A request beyond its limit or the process's is a [`MemoryLimitError`],
//!   never a panic, and changes nothing.
//! - A dropped [`Block`] returns to the pool; its bytes are not cleared. Whoever needs zeros writes them.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The alignment and the growth step of large blocks: 2 MB, one huge page.
pub const LARGE_BLOCK: usize = 2 << 20;
/// The smallest block, in bytes.
pub const SMALLEST_BLOCK: usize = 16 << 10;

const SMALL_ALIGNMENT: usize = 4096;
const SMALLEST_LOG2: u32 = SMALLEST_BLOCK.trailing_zeros();
const LARGE_LOG2: u32 = LARGE_BLOCK.trailing_zeros();
const SMALL_CLASSES: usize = (LARGE_LOG2 - SMALLEST_LOG2) as usize;
/// Large classes cover 2 MB to 2^47 bytes in quarter steps.
const CLASSES: usize = SMALL_CLASSES + 4 * (47 - LARGE_LOG2 as usize);

/// Whose limit a request would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitScope {
    /// The query's own limit.
    Query,
    /// The limit of the whole process.
    Process,
    /// The operating system gave no more memory.
    System,
}

/// A request for memory that a limit forbids. The user must act: raise the limit or ask for less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("memory limit: {requested} bytes requested, {used} of {limit} in use ({scope:?})")]
pub struct MemoryLimitError {
    /// Bytes asked for.
    pub requested: usize,
    /// Bytes in use when asked, within the scope.
    pub used: usize,
    /// The limit, in bytes.
    pub limit: usize,
    /// Whose limit it is.
    pub scope: LimitScope,
}

/// What a pool holds at one moment, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Handed out or reserved.
    pub used: usize,
    /// Free and kept for reuse.
    pub cached: usize,
    /// The highest `used` so far.
    pub peak: usize,
}

/// The pool of blocks. Most programs use the one of [`MemoryPool::process`].
pub struct MemoryPool {
    state: Mutex<PoolState>,
}

struct PoolState {
    free: Vec<Vec<NonNull<u8>>>,
    usage: PoolUsage,
    limit: usize,
}

// SAFETY: the free lists hold unique pointers to memory that no one else refers to; moving them between threads is moving ownership.
unsafe impl Send for PoolState {}

impl MemoryPool {
    /// A pool of its own, with a limit in bytes (`usize::MAX` for none).
    pub fn new(limit: usize) -> Arc<Self> {
        let free = (0..CLASSES).map(|_| Vec::new()).collect();
        Arc::new(Self { state: Mutex::new(PoolState { free, usage: PoolUsage::default(), limit }) })
    }

    /// The pool of this process, without a limit until [`MemoryPool::set_limit`].
    pub fn process() -> &'static Arc<Self> {
        static POOL: OnceLock<Arc<MemoryPool>> = OnceLock::new();
        POOL.get_or_init(|| MemoryPool::new(usize::MAX))
    }

    /// Sets the limit in bytes. What is in use stays; later requests fail until it fits.
    pub fn set_limit(&self, limit: usize) {
        let mut state = self.lock();
        state.limit = limit;
        let room = limit.saturating_sub(state.usage.used);
        state.evict_to(room);
    }

    /// What the pool holds now.
    pub fn usage(&self) -> PoolUsage {
        self.lock().usage
    }

    /// Gives every free block back to the system.
    pub fn trim(&self) {
        self.lock().evict_to(0);
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, class: SizeClass) -> Result<NonNull<u8>, MemoryLimitError> {
        let mut state = self.lock();
        state.charge(class.bytes)?;
        if let Some(block) = state.free[class.index].pop() {
            state.usage.cached -= class.bytes;
            return Ok(block);
        }
        let room = state.limit - state.usage.used;
        state.evict_to(room);
        // SAFETY: the class's size is at least 16 KB, so the layout is not empty.
        let block = NonNull::new(unsafe { alloc(class.layout()) });
        let Some(block) = block else {
            state.usage.used -= class.bytes;
            return Err(MemoryLimitError {
                requested: class.bytes,
                used: state.usage.used,
                limit: state.limit,
                scope: LimitScope::System,
            });
        };
        if class.bytes >= LARGE_BLOCK {
            advise_huge_pages(block.as_ptr(), class.bytes);
        }
        Ok(block)
    }

    fn give(&self, block: NonNull<u8>, class: SizeClass) {
        let mut state = self.lock();
        state.usage.used -= class.bytes;
        state.usage.cached += class.bytes;
        state.free[class.index].push(block);
        let room = state.limit.saturating_sub(state.usage.used);
        state.evict_to(room);
    }
}

impl PoolState {
    fn charge(&mut self, bytes: usize) -> Result<(), MemoryLimitError> {
        let used = self.usage.used;
        if bytes > self.limit.saturating_sub(used) {
            return Err(MemoryLimitError { requested: bytes, used, limit: self.limit, scope: LimitScope::Process });
        }
        self.usage.used += bytes;
        self.usage.peak = self.usage.peak.max(self.usage.used);
        Ok(())
    }

    /// Frees cached blocks, the largest first, until at most `room` bytes of them are left.
    fn evict_to(&mut self, room: usize) {
        if self.usage.cached <= room {
            return;
        }
        for index in (0..CLASSES).rev() {
            let class = SizeClass::of_index(index);
            while self.usage.cached > room {
                let Some(block) = self.free[index].pop() else {
                    break;
                };
                self.usage.cached -= class.bytes;
                // SAFETY: the block was allocated with this class's layout and sat in its free list, so no one uses it.
                unsafe { dealloc(block.as_ptr(), class.layout()) };
            }
        }
    }
}

impl Drop for PoolState {
    fn drop(&mut self) {
        self.evict_to(0);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SizeClass {
    index: usize,
    bytes: usize,
}

impl SizeClass {
    /// The smallest class that holds `bytes`; `None` beyond 2^46 bytes.
    fn for_bytes(bytes: usize) -> Option<Self> {
        if bytes <= LARGE_BLOCK / 2 {
            let bytes = bytes.max(SMALLEST_BLOCK).next_power_of_two();
            let index = (bytes.trailing_zeros() - SMALLEST_LOG2) as usize;
            return Some(Self { index, bytes });
        }
        if bytes > 1 << 46 {
            return None;
        }
        let bytes = bytes.max(LARGE_BLOCK);
        let log2 = bytes.ilog2();
        let step = (1usize << log2) / 4;
        let quarters = (bytes - (1 << log2)).div_ceil(step);
        let index = SMALL_CLASSES + 4 * (log2 - LARGE_LOG2) as usize + quarters;
        Some(Self::of_index(index))
    }

    fn of_index(index: usize) -> Self {
        let bytes = if index < SMALL_CLASSES {
            SMALLEST_BLOCK << index
        } else {
            let large = index - SMALL_CLASSES;
            let base = LARGE_BLOCK << (large / 4);
            base + base / 4 * (large % 4)
        };
        Self { index, bytes }
    }

    fn layout(self) -> Layout {
        let align = if self.bytes >= LARGE_BLOCK { LARGE_BLOCK } else { SMALL_ALIGNMENT };
        match Layout::from_size_align(self.bytes, align) {
            Ok(layout) => layout,
            Err(_) => unreachable!("size classes end at 2^47 bytes"),
        }
    }
}

/// Asks the system for large pages in the whole ones of them that lie in this memory: they are made, and found, faster.
#[cfg(all(target_os = "linux", not(miri)))]
pub fn advise_huge_pages(start: *mut u8, bytes: usize) {
    unsafe extern "C" {
        fn madvise(address: *mut core::ffi::c_void, length: usize, advice: i32) -> i32;
    }
    const MADV_HUGEPAGE: i32 = 14;
    let skip = start.align_offset(LARGE_BLOCK);
    let whole = bytes.saturating_sub(skip) / LARGE_BLOCK * LARGE_BLOCK;
    if whole > 0 {
        // SAFETY: the advice changes no contents, whoever the pages belong to, and its failure is harmless.
        unsafe { madvise(start.wrapping_add(skip).cast(), whole, MADV_HUGEPAGE) };
    }
}

/// Asks the system for large pages: there are none here.
#[cfg(not(all(target_os = "linux", not(miri))))]
pub fn advise_huge_pages(_start: *mut u8, _bytes: usize) {}

/// What one query holds of a pool, with a limit of its own.
pub struct QueryMemory {
    pool: Arc<MemoryPool>,
    limit: usize,
    used: AtomicUsize,
    peak: AtomicUsize,
}

impl QueryMemory {
    /// An account on the process's pool, without a limit of its own.
    pub fn unlimited() -> Arc<Self> {
        Self::new(MemoryPool::process(), usize::MAX)
    }

    /// An account on `pool` that holds at most `limit` bytes.
    pub fn new(pool: &Arc<MemoryPool>, limit: usize) -> Arc<Self> {
        Arc::new(Self { pool: Arc::clone(pool), limit, used: AtomicUsize::new(0), peak: AtomicUsize::new(0) })
    }

    /// Bytes held now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes held at once so far.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// The limit in bytes, `usize::MAX` for none.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// A block of at least `bytes` bytes, contents undefined.
    ///
    /// # Errors
    /// [`MemoryLimitError`] where the query's limit, the process's or the system's is reached.
    pub fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Block, MemoryLimitError> {
        let Some(class) = SizeClass::for_bytes(bytes) else {
            return Err(MemoryLimitError {
                requested: bytes,
                used: self.used(),
                limit: 1 << 46,
                scope: LimitScope::System,
            });
        };
        self.charge(class.bytes)?;
        match self.pool.take(class) {
            Ok(start) => Ok(Block { start, class, memory: Arc::clone(self) }),
            Err(error) => {
                self.used.fetch_sub(class.bytes, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Counts `bytes` that the caller holds elsewhere (a `Vec`, say) against both limits until the reservation is dropped.
    ///
    /// # Errors
    /// [`MemoryLimitError`] where a limit is reached.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reservation, MemoryLimitError> {
        self.charge(bytes)?;
        let mut state = self.pool.lock();
        if let Err(error) = state.charge(bytes) {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(error);
        }
        let room = state.limit - state.usage.used;
        state.evict_to(room);
        drop(state);
        Ok(Reservation { bytes, memory: Arc::clone(self) })
    }

    fn charge(&self, bytes: usize) -> Result<(), MemoryLimitError> {
        let charged = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|&sum| sum <= self.limit)
        });
        match charged {
            Ok(before) => {
                self.peak.fetch_max(before + bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(used) => Err(MemoryLimitError { requested: bytes, used, limit: self.limit, scope: LimitScope::Query }),
        }
    }
}

/// Owned memory from the pool; returns there when dropped.
pub struct Block {
    start: NonNull<u8>,
    class: SizeClass,
    memory: Arc<QueryMemory>,
}

// SAFETY: a block owns its memory alone; access to it goes through raw pointers whose users carry their own obligations.
unsafe impl Send for Block {}
// SAFETY: as above; a shared block gives out nothing but its address and its size.
unsafe impl Sync for Block {}

impl Block {
    /// The first byte; aligned to 4 KB, or to 2 MB for a block of 2 MB or more.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The size in bytes: what was asked for, rounded up to the class.
    pub fn bytes(&self) -> usize {
        self.class.bytes
    }

    /// Writes zeros over the first `bytes` bytes.
    pub fn zero(&mut self, bytes: usize) {
        assert!(bytes <= self.class.bytes, "zeroing beyond the block");
        // SAFETY: the block owns its memory, and the length was checked.
        unsafe { self.start.as_ptr().write_bytes(0, bytes) };
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.class.bytes, Ordering::Relaxed);
        self.memory.pool.give(self.start, self.class);
    }
}

/// A block as an array of plain values of fixed length, for temporaries that several tasks fill. Access goes through its address.
pub(crate) struct PoolArray<T: Copy> {
    block: Block,
    len: usize,
    // Reading elements is `unsafe`, so sharing the array is not.
    element: std::marker::PhantomData<fn() -> T>,
}

impl<T: Copy> PoolArray<T> {
    /// An array of `len` elements, contents undefined.
    pub(crate) fn new(len: usize, memory: &Arc<QueryMemory>) -> Result<Self, MemoryLimitError> {
        const { assert!(align_of::<T>() <= SMALL_ALIGNMENT) };
        let bytes = len.saturating_mul(size_of::<T>());
        Ok(Self { block: memory.allocate(bytes.max(1))?, len, element: std::marker::PhantomData })
    }

    /// As `new`, all bytes zero.
    pub(crate) fn zeroed(len: usize, memory: &Arc<QueryMemory>) -> Result<Self, MemoryLimitError> {
        let mut array = Self::new(len, memory)?;
        array.block.zero(len * size_of::<T>());
        Ok(array)
    }

    pub(crate) fn as_ptr(&self) -> *mut T {
        self.block.as_ptr().cast()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The elements `range`.
    ///
    /// # Safety
    /// They are initialized, and no one writes to them while the slice lives.
    pub(crate) unsafe fn slice(&self, range: std::ops::Range<usize>) -> &[T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: the range is within the array; the rest is promised by the caller.
        unsafe { std::slice::from_raw_parts(self.as_ptr().add(range.start), range.len()) }
    }
}

/// Bytes counted against a query's and the pool's limit; see [`QueryMemory::reserve`].
pub struct Reservation {
    bytes: usize,
    memory: Arc<QueryMemory>,
}

impl Reservation {
    /// The bytes that it counts.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.memory.pool.lock().usage.used -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_cover_their_sizes_and_round_by_at_most_a_quarter_when_large() {
        for bytes in [
            1,
            4096,
            SMALLEST_BLOCK,
            SMALLEST_BLOCK + 1,
            (1 << 20) + 1,
            LARGE_BLOCK - 1,
            LARGE_BLOCK,
            LARGE_BLOCK + 1,
            5 << 20,
            (1 << 22) - 1,
            123_456_789,
            1 << 40,
        ] {
            let class = SizeClass::for_bytes(bytes).expect("in range");
            assert!(class.bytes >= bytes);
            assert_eq!(SizeClass::of_index(class.index), class);
            if bytes > LARGE_BLOCK {
                assert!(class.bytes <= bytes + bytes / 4 + 1);
            }
        }
        assert!(SizeClass::for_bytes(usize::MAX).is_none());
    }

    #[test]
    fn freed_blocks_are_reused_and_trimmed() {
        let pool = MemoryPool::new(usize::MAX);
        let query = QueryMemory::new(&pool, usize::MAX);
        let first = query.allocate(LARGE_BLOCK).expect("no limit");
        let address = first.as_ptr();
        assert_eq!(address as usize % LARGE_BLOCK, 0);
        drop(first);
        assert_eq!(pool.usage().cached, LARGE_BLOCK);
        let second = query.allocate(LARGE_BLOCK - 5).expect("no limit");
        assert_eq!(second.as_ptr(), address);
        drop(second);
        pool.trim();
        assert_eq!(pool.usage(), PoolUsage { used: 0, cached: 0, peak: LARGE_BLOCK });
    }

    #[test]
    fn limits_hold_and_name_their_scope() {
        let pool = MemoryPool::new(4 * LARGE_BLOCK);
        let query = QueryMemory::new(&pool, 2 * LARGE_BLOCK);
        let _held = query.allocate(LARGE_BLOCK).expect("within the limit");
        let error = query.allocate(2 * LARGE_BLOCK).err().expect("over");
        assert_eq!(error.scope, LimitScope::Query);
        assert_eq!(error.used, LARGE_BLOCK);
        let other = QueryMemory::new(&pool, usize::MAX);
        let error = other.allocate(4 * LARGE_BLOCK).err().expect("over");
        assert_eq!(error.scope, LimitScope::Process);
        assert_eq!(other.used(), 0);
        let reservation = other.reserve(3 * LARGE_BLOCK).expect("exactly full");
        assert_eq!(other.reserve(1).err().map(|e| e.scope), Some(LimitScope::Process));
        drop(reservation);
        assert_eq!(pool.usage().used, LARGE_BLOCK);
    }

    #[test]
    fn cached_blocks_make_way_for_other_sizes() {
        let pool = MemoryPool::new(4 * LARGE_BLOCK);
        let query = QueryMemory::new(&pool, usize::MAX);
        drop(query.allocate(3 * LARGE_BLOCK).expect("fits"));
        let big = query.allocate(4 * LARGE_BLOCK).expect("after eviction");
        assert_eq!(pool.usage().cached, 0);
        drop(big);
        pool.set_limit(LARGE_BLOCK);
        assert_eq!(pool.usage().cached, 0);
    }
}
