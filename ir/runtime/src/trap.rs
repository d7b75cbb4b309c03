//! How generated code stops early, and the block of memory that one task owns.
//!
//! What holds:
//! - A status is an `i32`: 0 is success, anything else is a [`TrapCode`]. Codes never change their number within a version.
//! - A task that returns a status other than 0 has written the same code into its worker block, and the id of the trap site
//!   (0 where no site is known). What the id means is known to who made the code.
//! - [`Worker`] is the head of a worker block: eight slots of 8 bytes. From slot 8 on follow pointers to the states of the
//!   task's range, in an order that the caller chose.
//! - Texts made in a task live in its scratch's arena, which lives as long as the worker block; keep the block while states
//!   that hold such texts are in use.

use std::fmt;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::buffer::TextArena;
use crate::pool::{MemoryLimitError, QueryMemory};

macro_rules! trap_codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $message:literal;)+) => {
        /// Why a task stopped. The numbers are the statuses that generated code returns.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(i32)]
        pub enum TrapCode {
            $($(#[doc = $doc])+ $name = $code,)+
        }

        impl TrapCode {
            /// Every code.
            pub const ALL: &[TrapCode] = &[$(TrapCode::$name),+];

            /// The code of a status; `None` for 0 and for unknown numbers.
            pub fn from_status(status: i32) -> Option<Self> {
                match status {
                    $($code => Some(TrapCode::$name),)+
                    _ => None,
                }
            }

            /// A short message for people.
            pub fn message(self) -> &'static str {
                match self {
                    $(TrapCode::$name => $message,)+
                }
            }
        }
    };
}

trap_codes! {
    /// An integer or decimal result does not fit its type.
    Overflow = 1, "value out of range: integer overflow";
    /// Division or remainder by zero.
    DivisionByZero = 2, "division by zero";
    /// A text or number that does not convert to the type asked for.
    InvalidCast = 3, "invalid input for a cast";
    /// A value outside of what a function or a type admits.
    OutOfRange = 4, "value out of range";
    /// A scalar subquery gave more than one row.
    ScalarSubqueryRows = 5, "a subquery used as a value returned more than one row";
    /// Calls nested deeper than the limit.
    RecursionDepth = 6, "recursion is deeper than the limit";
    /// The query's or the process's memory limit is reached.
    MemoryLimit = 7, "memory limit reached";
    /// Someone asked to stop.
    Cancelled = 8, "cancelled";
    /// A NULL where a model needs a number.
    NullFeature = 9, "a feature is NULL";
    /// An argument that a function does not accept.
    InvalidArgument = 10, "invalid argument";
    /// More rows than a table can address (2^32 - 1 in a join table).
    TooManyRows = 11, "too many rows";
    /// A panic inside the runtime: a bug in this program.
    Panic = 12, "internal error: the runtime panicked";
    /// Something that must not happen: a bug in this program.
    Internal = 13, "internal error";
}

impl TrapCode {
    /// The status that generated code returns for this code.
    pub fn status(self) -> i32 {
        self as i32
    }
}

impl fmt::Display for TrapCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

/// A trap with its place and, where the runtime knows more, a detail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Why.
    pub code: TrapCode,
    /// The id of the trap site, 0 where unknown.
    pub location: u64,
    /// More words, such as the text that did not convert.
    pub detail: Option<String>,
}

impl Trap {
    /// A trap without a place.
    pub fn new(code: TrapCode) -> Self {
        Self { code, location: 0, detail: None }
    }

    /// A trap without a place, with more words.
    pub fn with_detail(code: TrapCode, detail: impl Into<String>) -> Self {
        Self { code, location: 0, detail: Some(detail.into()) }
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.message())?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Trap {}

impl From<MemoryLimitError> for Trap {
    fn from(error: MemoryLimitError) -> Self {
        Trap::with_detail(TrapCode::MemoryLimit, error.to_string())
    }
}

impl From<TrapCode> for Trap {
    fn from(code: TrapCode) -> Self {
        Trap::new(code)
    }
}

/// A flag that asks running tasks to stop; clones share it. Generated code polls it through slot 0 of the worker block.
#[derive(Clone, Default)]
pub struct CancelToken {
    flag: Arc<AtomicU32>,
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to stop.
    pub fn cancel(&self) {
        self.flag.store(TrapCode::Cancelled as u32, Ordering::Relaxed);
    }

    /// Whether someone asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::Relaxed) != 0
    }

    /// An error once cancelled.
    ///
    /// # Errors
    /// [`TrapCode::Cancelled`].
    pub fn check(&self) -> Result<(), Trap> {
        if self.is_cancelled() {
            return Err(Trap::new(TrapCode::Cancelled));
        }
        Ok(())
    }

    /// The address of the flag: an `I32`, not 0 once cancelled. Valid while any clone of the token lives.
    pub fn flag_address(&self) -> *const AtomicU32 {
        Arc::as_ptr(&self.flag)
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CancelToken({})", self.is_cancelled())
    }
}

/// What runtime functions need of a task beyond its states.
pub struct WorkerScratch {
    /// Texts made by this task.
    pub texts: TextArena,
    /// More words on the trap in the worker block.
    pub detail: Option<String>,
    /// The account that the task's memory is drawn from.
    pub memory: Arc<QueryMemory>,
}

/// The head of a worker block; states follow.
#[repr(C)]
pub struct Worker {
    /// Slot 0: the address of an `I32` that is not 0 when the task should stop.
    pub interrupt: *const AtomicU32,
    /// Slot 1: the code of the trap that stopped the task, 0 for none.
    pub trap_code: u64,
    /// Slot 2: the id of the trap site.
    pub trap_location: u64,
    /// Slot 3: the task's scratch.
    pub scratch: *mut WorkerScratch,
    /// Slot 4: the depth of recursive calls now.
    pub depth: u64,
    /// Slot 5: the depth at which [`TrapCode::RecursionDepth`] is raised.
    pub depth_limit: u64,
    /// Slots 6 and 7: free.
    pub reserved: [u64; 2],
}

/// The number of slots before the first state.
pub const WORKER_HEAD_SLOTS: usize = size_of::<Worker>() / 8;
const _: () = assert!(WORKER_HEAD_SLOTS == 8);

/// How deep generated functions may call each other when the caller sets no limit.
pub const DEFAULT_DEPTH_LIMIT: u64 = 4096;

/// An owned worker block with its scratch.
pub struct WorkerBlock {
    slots: Box<[u64]>,
    // Boxed, and reached through slot 3: its address must not move with the block.
    scratch: *mut WorkerScratch,
    cancel: CancelToken,
}

// SAFETY: the block owns its slots and its scratch; the pointers among the slots are used only by the task that holds the block.
unsafe impl Send for WorkerBlock {}

impl WorkerBlock {
    /// A block with the given states' addresses from slot 8 on.
    pub fn new(states: &[*mut u8], cancel: &CancelToken, memory: &Arc<QueryMemory>) -> Self {
        let scratch = Box::into_raw(Box::new(WorkerScratch {
            texts: TextArena::new(memory),
            detail: None,
            memory: Arc::clone(memory),
        }));
        let mut slots = vec![0u64; WORKER_HEAD_SLOTS + states.len()].into_boxed_slice();
        let head = Worker {
            interrupt: cancel.flag_address(),
            trap_code: 0,
            trap_location: 0,
            scratch,
            depth: 0,
            depth_limit: DEFAULT_DEPTH_LIMIT,
            reserved: [0; 2],
        };
        // SAFETY: the slots are at least as large as a `Worker`, aligned to 8 as it is, and not borrowed.
        unsafe { slots.as_mut_ptr().cast::<Worker>().write(head) };
        for (slot, state) in slots[WORKER_HEAD_SLOTS..].iter_mut().zip(states) {
            *slot = state.expose_provenance() as u64;
        }
        Self { slots, scratch, cancel: cancel.clone() }
    }

    /// The address that a pipeline function gets.
    pub fn as_mut_ptr(&mut self) -> *mut u64 {
        self.slots.as_mut_ptr()
    }

    /// Replaces the address of state `index`.
    pub fn set_state(&mut self, index: usize, state: *mut u8) {
        self.slots[WORKER_HEAD_SLOTS + index] = state.expose_provenance() as u64;
    }

    /// The token that the block's interrupt slot points to.
    pub fn cancel_token(&self) -> &CancelToken {
        &self.cancel
    }

    /// Turns what a generated function returned into a result; the block is clean again afterwards.
    ///
    /// # Errors
    /// The trap that the block holds, where the status is not 0.
    pub fn check(&mut self, status: i32) -> Result<(), Trap> {
        let panic = crate::abi::take_panic();
        if status == 0 && panic.is_none() {
            return Ok(());
        }
        // SAFETY: the slots hold a `Worker` since `new`, and `&mut self` says that no task is using them.
        let head = unsafe { &mut *self.slots.as_mut_ptr().cast::<Worker>() };
        // SAFETY: made by `Box::into_raw` in `new`, freed only in `drop`.
        let scratch = unsafe { &mut *self.scratch };
        let location = head.trap_location;
        head.trap_code = 0;
        head.trap_location = 0;
        head.depth = 0;
        let detail = scratch.detail.take();
        if let Some(message) = panic {
            return Err(Trap { code: TrapCode::Panic, location, detail: Some(message) });
        }
        let code = TrapCode::from_status(status).unwrap_or(TrapCode::Internal);
        Err(Trap { code, location, detail })
    }
}

impl Drop for WorkerBlock {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw` in `new` and freed here only.
        drop(unsafe { Box::from_raw(self.scratch) });
    }
}

/// Records a trap in a worker block and returns its status; a null worker is allowed and records nothing.
///
/// # Safety
/// `worker` is null or points to a live [`Worker`] that only this task uses.
pub unsafe fn raise(worker: *mut u8, trap: Trap) -> i32 {
    let worker = worker.cast::<Worker>();
    if !worker.is_null() {
        // SAFETY: promised by the caller.
        let head = unsafe { &mut *worker };
        head.trap_code = trap.code as u64;
        if trap.location != 0 {
            head.trap_location = trap.location;
        }
        if !head.scratch.is_null() {
            // SAFETY: the scratch of a live worker lives, and only this task uses it.
            unsafe { (*head.scratch).detail = trap.detail };
        }
    }
    trap.code.status()
}

/// The scratch of a task.
///
/// # Safety
/// `worker` points to a live [`Worker`] with a scratch that only this task uses.
pub unsafe fn scratch<'a>(worker: *mut u8) -> &'a mut WorkerScratch {
    // SAFETY: promised by the caller.
    unsafe { &mut *(*worker.cast::<Worker>()).scratch }
}

/// As [`raise`], for functions whose failure is a null pointer.
///
/// # Safety
/// As for [`raise`].
pub unsafe fn raise_null(worker: *mut u8, trap: Trap) -> *mut u8 {
    // SAFETY: promised by the caller.
    unsafe { raise(worker, trap) };
    ptr::null_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_codes_are_one_to_one() {
        assert_eq!(TrapCode::from_status(0), None);
        for &code in TrapCode::ALL {
            assert_eq!(TrapCode::from_status(code.status()), Some(code));
        }
    }

    #[test]
    fn a_block_reports_its_trap_once() {
        let memory = QueryMemory::unlimited();
        let cancel = CancelToken::new();
        let mut state = 7u64;
        let mut block = WorkerBlock::new(&[(&raw mut state).cast()], &cancel, &memory);
        let head = block.as_mut_ptr();
        // SAFETY: the block lives, and the test alone uses it; slot 8 holds the address of `state`.
        unsafe {
            assert_eq!(*(*head.add(8) as *const u64), 7);
            let status = raise(head.cast(), Trap::with_detail(TrapCode::InvalidCast, "'abc'"));
            (*head.cast::<Worker>()).trap_location = 5;
            let trap = block.check(status).expect_err("raised");
            assert_eq!(trap.code, TrapCode::InvalidCast);
            assert_eq!(trap.location, 5);
            assert_eq!(trap.to_string(), "invalid input for a cast: 'abc'");
        }
        assert_eq!(block.check(0), Ok(()));
    }

    #[test]
    fn a_token_is_shared_by_its_clones() {
        let token = CancelToken::new();
        let other = token.clone();
        assert!(token.check().is_ok());
        other.cancel();
        assert!(token.is_cancelled());
        assert_eq!(token.check().map_err(|t| t.code), Err(TrapCode::Cancelled));
    }
}
