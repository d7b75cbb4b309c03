//! From the kernel level to machine code.
//!
//! A [`Backend`] compiles a verified module; what comes back ([`CompiledModule`]) owns its code, can be shared between threads, and
//! frees the code when the last owner ([`Entry`] included) is dropped.

pub mod cpu;

#[cfg(test)]
mod tests;

use crate::kernel::{KernelError, Module, OptLevel};
use std::time::Duration;

pub use cpu::CpuBackend;
pub use cpu::entry::{CompiledModule, Entry};

/// What compiles kernels for one kind of device.
pub trait Backend: Send + Sync {
    /// For people: `cpu`.
    fn name(&self) -> &'static str;

    /// Compiles every function of the module.
    ///
    /// # Errors
    /// [`CodegenError`].
    fn compile(&self, module: &Module, options: &Options) -> Result<CompiledModule, CodegenError>;
}

/// How to compile.
#[derive(Clone, Debug)]
pub struct Options {
    /// Functions are compiled on up to so many threads.
    pub threads: usize,
    /// Overrides every function's own level.
    pub opt: Option<OptLevel>,
    /// Keeps the backend's input and the machine code as text for EXPLAIN.
    pub keep_text: bool,
    /// Checks the module, and lets the backend check its input: for tests.
    pub verify: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { threads: 1, opt: None, keep_text: false, verify: cfg!(debug_assertions) }
    }
}

/// What compiling one function took and gave.
#[derive(Clone, Debug)]
pub struct FunctionStats {
    /// The function's name.
    pub name: String,
    /// Instructions at the kernel level.
    pub kernel_insts: usize,
    /// Instructions handed to the backend.
    pub backend_insts: usize,
    /// Bytes of machine code.
    pub code_bytes: usize,
    /// Time on the thread that compiled it.
    pub time: Duration,
}

/// Why a module could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CodegenError {
    /// The module is not well formed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// This machine is not one that the backend knows.
    #[error("no code can be generated for this machine: {0}")]
    Machine(String),
    /// The backend does not take a function.
    #[error("the backend does not compile kernel function `{function}`: {why} (this is a bug in code generation)")]
    Function {
        /// Its name.
        function: String,
        /// The backend's words.
        why: String,
    },
    /// No memory for the code, or the system does not let it run.
    #[error("no memory for machine code: {0}")]
    Memory(String),
}

/// The text of one compiled function, if [`Options::keep_text`] was set.
#[derive(Clone, Debug, Default)]
pub struct FunctionText {
    /// The backend's input.
    pub backend: String,
    /// The machine code, disassembled.
    pub assembly: String,
}
