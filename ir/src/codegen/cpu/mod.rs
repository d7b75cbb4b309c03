//! The CPU backend: Cranelift for x86-64 and aarch64.
//!
//! What holds:
//! - Functions are compiled independently, on several threads where a module has several; they are placed in memory in the
//!   module's order.
//! - Runtime functions are reached by their addresses; nothing is looked up by name in the process.

pub mod entry;

mod emit;
mod helpers;
mod lanes;

use super::{Backend, CodegenError, FunctionStats, FunctionText, Options};
use crate::kernel::{self, Module, Op, OptLevel, RuntimeFn};
use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::FunctionBuilderContext;
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, Linkage, Module as _, ModuleReloc, default_libcall_names};
use emit::Imports;
use entry::{CodeMemory, Compiled, CompiledModule};
use helpers::Helper;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

/// Compiles for the machine that it runs on. Cheap to clone.
#[derive(Clone)]
pub struct CpuBackend {
    plain: OwnedTargetIsa,
    speed: OwnedTargetIsa,
    plain_checked: OwnedTargetIsa,
    speed_checked: OwnedTargetIsa,
}

/// Below so many instructions in all, a second thread costs more than it saves.
const PARALLEL_INSTS: usize = 150;

impl CpuBackend {
    /// A backend for this machine.
    ///
    /// # Errors
    /// [`CodegenError::Machine`].
    pub fn new() -> Result<CpuBackend, CodegenError> {
        Ok(CpuBackend {
            plain: isa(OptLevel::None, false)?,
            speed: isa(OptLevel::Speed, false)?,
            plain_checked: isa(OptLevel::None, true)?,
            speed_checked: isa(OptLevel::Speed, true)?,
        })
    }

    /// The process's backend, made once.
    ///
    /// # Errors
    /// [`CodegenError::Machine`].
    pub fn shared() -> Result<&'static CpuBackend, CodegenError> {
        static SHARED: OnceLock<Result<CpuBackend, String>> = OnceLock::new();
        SHARED
            .get_or_init(|| CpuBackend::new().map_err(|error| error.to_string()))
            .as_ref()
            .map_err(|error| CodegenError::Machine(error.clone()))
    }

    fn isa(&self, opt: OptLevel, verify: bool) -> &OwnedTargetIsa {
        match (opt, verify) {
            (OptLevel::None, false) => &self.plain,
            (OptLevel::Speed, false) => &self.speed,
            (OptLevel::None, true) => &self.plain_checked,
            (OptLevel::Speed, true) => &self.speed_checked,
        }
    }
}

fn isa(opt: OptLevel, verify: bool) -> Result<OwnedTargetIsa, CodegenError> {
    let machine = |error: String| CodegenError::Machine(error);
    let mut flags = settings::builder();
    let opt = match opt {
        OptLevel::None => "none",
        OptLevel::Speed => "speed",
    };
    for (name, value) in [
        ("opt_level", opt),
        ("regalloc_algorithm", "backtracking"),
        ("enable_verifier", if verify { "true" } else { "false" }),
        ("unwind_info", "false"),
        ("is_pic", "false"),
        ("use_colocated_libcalls", "false"),
        ("probestack_strategy", "inline"),
    ] {
        flags.set(name, value).map_err(|error| machine(format!("{name}: {error}")))?;
    }
    let builder = cranelift_native::builder().map_err(|error| machine(error.to_string()))?;
    builder.finish(settings::Flags::new(flags)).map_err(|error| machine(error.to_string()))
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn compile(&self, module: &Module, options: &Options) -> Result<CompiledModule, CodegenError> {
        let start = Instant::now();
        kernel::verify_module(module)?;
        let mut builder = JITBuilder::with_isa(self.plain.clone(), default_libcall_names());
        let called = called_functions(module);
        for function in &called {
            builder.symbol(function.name(), function.address());
        }
        for helper in Helper::ALL {
            builder.symbol(helper.symbol(), helper.address());
        }
        let mut memory = CodeMemory::new(JITModule::new(builder));
        let Some(jit) = memory.module() else {
            return Err(CodegenError::Memory("no module".to_string()));
        };
        let imports = declare(jit, module, &called)?;
        let code = self.compile_functions(module, options, &imports)?;
        for (index, code) in code.iter().enumerate() {
            jit.define_function_bytes(imports.functions[index].0, code.alignment, &code.bytes, &code.relocations)
                .map_err(memory_error)?;
        }
        jit.finalize_definitions().map_err(memory_error)?;
        let functions = code
            .into_iter()
            .zip(module.ids())
            .map(|(code, id)| {
                let address = jit.get_finalized_function(imports.functions[id.index()].0);
                let mut text = code.text;
                if options.keep_text {
                    let placed = entry::code_at(address, code.bytes.len());
                    text.assembly = disassemble(&placed, &called);
                }
                Compiled {
                    address: address.expose_provenance(),
                    signature: Arc::new(module.signature(id).clone()),
                    stats: code.stats,
                    text,
                }
            })
            .collect();
        Ok(CompiledModule::new(functions, memory, start.elapsed()))
    }
}

fn memory_error(error: cranelift_module::ModuleError) -> CodegenError {
    CodegenError::Memory(error.to_string())
}

/// The runtime functions that a module calls.
fn called_functions(module: &Module) -> HashSet<RuntimeFn> {
    let mut called = HashSet::new();
    for function in module.ids().filter_map(|id| module.function(id)) {
        for data in function.arena() {
            if let Op::CallRuntime(callee, _) = &data.op {
                called.insert(*callee);
            }
        }
    }
    called
}

fn declare(jit: &mut JITModule, module: &Module, called: &HashSet<RuntimeFn>) -> Result<Imports, CodegenError> {
    let call_conv = jit.isa().default_call_conv();
    let mut functions = Vec::new();
    for id in module.ids() {
        let signature = emit::signature(module.signature(id), call_conv);
        let declared = jit.declare_anonymous_function(&signature);
        functions.push((declared.map_err(memory_error)?, signature));
    }
    let mut runtime = HashMap::new();
    for &function in called {
        let signature = emit::runtime_signature(function, call_conv);
        let declared = jit.declare_function(function.name(), Linkage::Import, &signature);
        runtime.insert(function, declared.map_err(memory_error)?);
    }
    let mut helpers = HashMap::new();
    for helper in Helper::ALL {
        let signature = emit::helper_signature(helper, call_conv);
        let declared = jit.declare_function(helper.symbol(), Linkage::Import, &signature);
        helpers.insert(helper, declared.map_err(memory_error)?);
    }
    Ok(Imports { functions, runtime, helpers })
}

/// One function's code before it has a place.
struct Code {
    bytes: Vec<u8>,
    alignment: u64,
    relocations: Vec<ModuleReloc>,
    stats: FunctionStats,
    text: FunctionText,
}

impl CpuBackend {
    /// The code of each function, in the module's order.
    fn compile_functions(
        &self,
        module: &Module,
        options: &Options,
        imports: &Imports,
    ) -> Result<Vec<Code>, CodegenError> {
        let mut order: Vec<(usize, &kernel::Function)> =
            module.ids().filter_map(|id| Some((id.index(), module.function(id)?))).collect();
        let total: usize = order.iter().map(|(_, f)| f.inst_count()).sum();
        // The longest first, so that no thread is left with one at the end.
        order.sort_by_key(|(_, function)| std::cmp::Reverse(function.inst_count()));
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<(usize, Result<Code, CodegenError>)>> = Mutex::new(Vec::new());
        let work = || {
            let mut builder_context = FunctionBuilderContext::new();
            let mut context = Context::new();
            let mut mine = Vec::new();
            while let Some(&(index, function)) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                let own = imports.functions[index].0;
                let code = self.compile_one((own, function), options, imports, &mut builder_context, &mut context);
                mine.push((index, code));
            }
            match done.lock() {
                Ok(mut done) => done.extend(mine),
                Err(poisoned) => poisoned.into_inner().extend(mine),
            }
        };
        let threads = match total < PARALLEL_INSTS {
            true => 1,
            false => options.threads.clamp(1, order.len().max(1)),
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        let mut done = match done.into_inner() {
            Ok(done) => done,
            Err(poisoned) => poisoned.into_inner(),
        };
        done.sort_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, code)| code).collect()
    }

    fn compile_one(
        &self,
        (own, function): (FuncId, &kernel::Function),
        options: &Options,
        imports: &Imports,
        builder_context: &mut FunctionBuilderContext,
        context: &mut Context,
    ) -> Result<Code, CodegenError> {
        let start = Instant::now();
        let opt = options.opt.unwrap_or(function.opt);
        let isa = self.isa(opt, options.verify);
        context.clear();
        emit::emit(function, &**isa, imports, builder_context, &mut context.func);
        let mut text = FunctionText::default();
        if options.keep_text {
            text.backend = context.func.display().to_string();
        }
        let backend_insts = context.func.dfg.num_insts();
        if let Err(error) = context.compile(&**isa, &mut ControlPlane::default()) {
            return Err(CodegenError::Function { function: function.name.clone(), why: error.inner.to_string() });
        }
        let Some(compiled) = context.take_compiled_code() else {
            return Err(CodegenError::Function {
                function: function.name.clone(),
                why: "no code came out".to_string(),
            });
        };
        let relocations = compiled
            .buffer
            .relocs()
            .iter()
            .map(|relocation| ModuleReloc::from_mach_reloc(relocation, &context.func, own))
            .collect();
        let bytes = compiled.code_buffer().to_vec();
        let stats = FunctionStats {
            name: function.name.clone(),
            kernel_insts: function.inst_count(),
            backend_insts,
            code_bytes: bytes.len(),
            time: start.elapsed(),
        };
        Ok(Code { alignment: u64::from(compiled.buffer.alignment), bytes, relocations, stats, text })
    }
}

/// The machine code as text, with the names of the functions that it calls.
#[cfg(target_arch = "x86_64")]
fn disassemble(bytes: &[u8], called: &HashSet<RuntimeFn>) -> String {
    use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter, Mnemonic, OpKind};
    let mut names: HashMap<u64, &str> =
        called.iter().map(|function| (function.address() as u64, function.name())).collect();
    for helper in Helper::ALL {
        names.insert(helper.address() as u64, helper.symbol());
    }
    let mut formatter = IntelFormatter::new();
    let mut text = String::new();
    let mut reached = 0;
    for instruction in &mut Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE) {
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        if instruction.mnemonic() == Mnemonic::Mov
            && instruction.op1_kind() == OpKind::Immediate64
            && let Some(name) = names.get(&instruction.immediate64())
        {
            line.push_str(" ; ");
            line.push_str(name);
        }
        text.push_str(&format!("{:6x}  {line}\n", instruction.ip()));
        // Behind the last instruction stand constants.
        reached = reached.max(instruction.near_branch_target());
        let leaves = matches!(instruction.mnemonic(), Mnemonic::Ret | Mnemonic::Jmp | Mnemonic::Ud2);
        if leaves && reached < instruction.next_ip() {
            break;
        }
    }
    text
}

/// The machine code as bytes: there is no disassembler for this machine here.
#[cfg(not(target_arch = "x86_64"))]
fn disassemble(bytes: &[u8], _called: &HashSet<RuntimeFn>) -> String {
    bytes
        .chunks(4)
        .map(|word| {
            let digits: String = word.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{digits}\n")
        })
        .collect()
}
