//! Machine code in memory: who owns it, and how it is called.
//!
//! What holds:
//! - Code is written while its pages are writable, and runs only after they became executable and read-only.
//! - A [`CompiledModule`] and every [`Entry`] share the ownership; the pages go back to the system when the last one is dropped.

use crate::codegen::{FunctionStats, FunctionText};
use crate::kernel::{FunctionId, Signature};
use cranelift_jit::JITModule;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How many modules' code is in memory.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// Frees a module's code on drop.
pub(super) struct CodeMemory(Mutex<Option<JITModule>>);

impl CodeMemory {
    pub(super) fn new(module: JITModule) -> CodeMemory {
        LIVE.fetch_add(1, Ordering::Relaxed);
        CodeMemory(Mutex::new(Some(module)))
    }

    /// The module, while it is being filled.
    pub(super) fn module(&mut self) -> Option<&mut JITModule> {
        match self.0.get_mut() {
            Ok(module) => module.as_mut(),
            Err(poisoned) => poisoned.into_inner().as_mut(),
        }
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        let module = match self.0.get_mut() {
            Ok(module) => module.take(),
            Err(poisoned) => poisoned.into_inner().take(),
        };
        if let Some(module) = module {
            LIVE.fetch_sub(1, Ordering::Relaxed);
            // SAFETY: every entry holds the memory by an `Arc`, and a caller of an entry borrows the entry; so nothing runs in
            // this code any more, and no address of it is used afterwards.
            unsafe { module.free_memory() };
        }
    }
}

/// A copy of finished code, with its addresses patched in.
pub(super) fn code_at(address: *const u8, len: usize) -> Vec<u8> {
    // SAFETY: only called on a function that was just finished, by who owns its memory, with the length of its code.
    unsafe { std::slice::from_raw_parts(address, len) }.to_vec()
}

pub(super) struct Compiled {
    pub(super) address: usize,
    pub(super) signature: Arc<Signature>,
    pub(super) stats: FunctionStats,
    pub(super) text: FunctionText,
}

struct Shared {
    functions: Vec<Compiled>,
    /// Held for its drop.
    _memory: CodeMemory,
    wall: Duration,
}

/// A module's machine code. Cheap to clone.
#[derive(Clone)]
pub struct CompiledModule(Arc<Shared>);

impl CompiledModule {
    pub(super) fn new(functions: Vec<Compiled>, memory: CodeMemory, wall: Duration) -> Self {
        CompiledModule(Arc::new(Shared { functions, _memory: memory, wall }))
    }

    /// How many modules' code is in memory in this process.
    pub fn live() -> usize {
        LIVE.load(Ordering::Relaxed)
    }

    /// A function to be called.
    ///
    /// # Panics
    /// If the id is of another module.
    pub fn entry(&self, id: FunctionId) -> Entry {
        let function = &self.0.functions[id.index()];
        Entry {
            address: function.address,
            pipeline: *function.signature == Signature::pipeline(),
            signature: function.signature.clone(),
            _code: self.clone(),
        }
    }

    /// What each function took and gave, in the order of the module.
    pub fn stats(&self) -> impl Iterator<Item = &FunctionStats> {
        self.0.functions.iter().map(|function| &function.stats)
    }

    /// Time from call to code, all functions together.
    pub fn wall_time(&self) -> Duration {
        self.0.wall
    }

    /// Time that compiling took, summed over the threads.
    pub fn compile_time(&self) -> Duration {
        self.stats().map(|stats| stats.time).sum()
    }

    /// Bytes of machine code, all functions together.
    pub fn code_bytes(&self) -> usize {
        self.stats().map(|stats| stats.code_bytes).sum()
    }

    /// The texts of a function; empty unless they were asked for.
    ///
    /// # Panics
    /// If the id is of another module.
    pub fn text(&self, id: FunctionId) -> &FunctionText {
        &self.0.functions[id.index()].text
    }
}

impl std::fmt::Debug for CompiledModule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CompiledModule({} functions, {} bytes)", self.0.functions.len(), self.code_bytes())
    }
}

/// A compiled function; keeps its code in memory.
#[derive(Clone)]
pub struct Entry {
    address: usize,
    signature: Arc<Signature>,
    pipeline: bool,
    _code: CompiledModule,
}

impl Entry {
    /// Whether this is a pipeline function, which [`Entry::run`] calls.
    pub fn is_pipeline(&self) -> bool {
        self.pipeline
    }

    /// The function's parameters and result.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The function's address, valid as long as this entry.
    pub fn address(&self) -> *const u8 {
        std::ptr::with_exposed_provenance(self.address)
    }

    /// Runs a pipeline function over a range; 0, or the status of a trap, whose details are in the worker block.
    ///
    /// # Panics
    /// If the function has another signature.
    ///
    /// # Safety
    /// What the function reaches from `ctx` and `worker` is as the kernel expects it: live, large enough, and for `worker`
    /// used by nobody else.
    pub unsafe fn run(&self, ctx: *const u64, worker: *mut u64, begin: i64, end: i64) -> i32 {
        assert!(self.is_pipeline(), "not a pipeline function");
        type Pipeline = unsafe extern "C" fn(*const u64, *mut u64, i64, i64) -> i32;
        // SAFETY: the code at the address was compiled for this signature, and is in memory as long as `self`.
        let function = unsafe { std::mem::transmute::<*const u8, Pipeline>(self.address()) };
        // SAFETY: promised by the caller.
        unsafe { function(ctx, worker, begin, end) }
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({:?})", self.signature)
    }
}

const _: () = {
    const fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<CompiledModule>();
    is_send_and_sync::<Entry>();
};
