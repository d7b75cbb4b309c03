//! Running steps.
//!
//! What holds:
//! - Every stored value has an address before a step reads or writes it: buffers of a block are set when it is entered with
//!   new sizes, parameters and results by who runs the block.
//! - A buffer holds the value's size in bytes; buffers of values in use at the same time do not overlap.
//! - Nests, matrix products and attention run on several threads, each on rows of its own, and so do parts of a loop over parts,
//!   by machines that have one thread each.

mod attention;
mod batches;
mod effects;
mod nests;
mod parts;

use std::sync::{Arc, Mutex};

use runtime::abi::PipelineFn;
use runtime::gemm::{self, Epilogue, Problem, RawRhs, SPLIT_PRODUCTS};
use runtime::kernels::random::Philox;
use runtime::pool::{self, QueryMemory};
use runtime::scheduler::WorkerPool;
use runtime::tape::Tape;
use runtime::trap::{CancelToken, Trap, TrapCode, WorkerBlock};

use super::library::{self, Finish, Gemm, Indices, Strided};
use super::nest::SCRATCH;
use super::{Action, Block, Check, Code, Def, Step, Val};
use crate::codegen::Entry;
use crate::entity::{PlaceId, SymId};
use crate::exec::convert;
use crate::exec::run::{ProgressHook, Resources};
use crate::graph::tensor::Distribution;
use crate::lower::rel::element_bytes;
use crate::stack::StackRoom;
use crate::types::{Dim, ScalarType, TensorType};

type Result<T> = std::result::Result<T, Trap>;

/// Buffers begin at multiples of so many bytes.
const ALIGN: usize = 64;

/// A nest's machine code.
pub(super) struct Kernel {
    run: PipelineFn,
    _entry: Entry,
}

impl Kernel {
    pub(super) fn new(entry: Entry) -> Self {
        assert!(entry.is_pipeline(), "a nest has the signature of a pipeline");
        // SAFETY: the code was compiled for this signature, and the entry keeps it in memory.
        let run = unsafe { std::mem::transmute::<*const u8, PipelineFn>(entry.address()) };
        Self { run, _entry: entry }
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kernel")
    }
}

/// Where a value is.
#[derive(Clone, Copy)]
struct Address(*mut u8);

// SAFETY: an address is a number; who reads or writes through it answers for that.
unsafe impl Send for Address {}
// SAFETY: as above.
unsafe impl Sync for Address {}

/// The buffers of a block.
#[derive(Default)]
struct Arena {
    memory: Option<pool::Block>,
    /// Bytes of each local value that there is room for.
    room: Vec<usize>,
    /// The sizes' version that was looked at.
    version: u64,
}

/// What a function that is called needs, by depth.
struct Frame {
    addresses: Vec<Address>,
    arenas: Vec<Arena>,
    handles: Vec<Option<usize>>,
    parts: parts::Workers,
}

impl Frame {
    fn new(code: &Code) -> Self {
        let addresses = code.values.list.iter().map(|info| match &info.def {
            Def::Const(t) => Address(convert::tensor_ptr(t).cast_mut()),
            _ => Address(std::ptr::null_mut()),
        });
        Self {
            addresses: addresses.collect(),
            arenas: (0..code.blocks).map(|_| Arena::default()).collect(),
            handles: vec![None; code.handles],
            parts: parts::Workers::default(),
        }
    }
}

/// The state of a run.
pub(super) struct Machine {
    /// The code of the function that runs; at first, and at last, of the program.
    code: Arc<Code>,
    /// The program's.
    functions: Vec<Arc<Code>>,
    /// By function, frames that no call uses now.
    frames: Vec<Vec<Frame>>,
    depth: u64,
    stack: StackRoom,
    tapes: Vec<Tape>,
    sums: Vec<effects::Sum>,
    /// Which tapes and sums belong to the function that runs.
    handles: Vec<Option<usize>>,
    /// Who runs the parts of its loops over parts.
    parts: parts::Workers,
    addresses: Vec<Address>,
    sizes: Vec<Option<usize>>,
    /// The greatest size that a symbol will have.
    capacity: Vec<Option<usize>>,
    version: u64,
    arenas: Vec<Arena>,
    memory: Arc<QueryMemory>,
    cancel: CancelToken,
    pool: Option<Arc<WorkerPool>>,
    workers: Vec<Mutex<WorkerBlock>>,
    /// What the workers' blocks point to.
    _scratch: Vec<Vec<u128>>,
    context: Vec<u64>,
    progress: Option<ProgressHook>,
}

fn too_large() -> Trap {
    Trap::with_detail(TrapCode::InvalidArgument, "a tensor is too large")
}

fn invalid(message: String) -> Trap {
    Trap::with_detail(TrapCode::InvalidArgument, message)
}

/// A trap with where it comes from, if that is not known yet.
fn located(mut t: Trap, place: Option<PlaceId>) -> Trap {
    if t.location == 0 {
        t.location = place.map_or(0, |p| u64::from(p.0) + 1);
    }
    t
}

impl Machine {
    /// For a stage of a run.
    pub(super) fn for_run(code: &Arc<Code>, r: &Resources) -> Self {
        let pool = (r.pool.threads() > 1).then(|| Arc::clone(&r.pool));
        Self::new(code, r.pool.threads(), pool, Arc::clone(&r.memory), r.cancel.clone(), r.progress.clone())
    }

    /// For tiles inside of a task.
    pub(super) fn for_tiles(code: &Arc<Code>) -> Self {
        Self::new(code, 1, None, QueryMemory::unlimited(), CancelToken::new(), None)
    }

    fn new(
        code: &Arc<Code>,
        threads: usize,
        pool: Option<Arc<WorkerPool>>,
        memory: Arc<QueryMemory>,
        cancel: CancelToken,
        progress: Option<ProgressHook>,
    ) -> Self {
        let Frame { addresses, arenas, handles, parts } = Frame::new(code);
        let mut scratch = vec![vec![0u128; SCRATCH / 16]; threads];
        let worker = |s: &mut Vec<u128>| Mutex::new(WorkerBlock::new(&[s.as_mut_ptr().cast()], &cancel, &memory));
        Self {
            addresses,
            functions: code.functions.clone(),
            frames: code.functions.iter().map(|_| vec![]).collect(),
            depth: 0,
            stack: StackRoom::here(effects::TASK_STACK),
            tapes: vec![],
            sums: vec![],
            handles,
            parts,
            sizes: vec![],
            capacity: vec![],
            version: 1,
            arenas,
            workers: scratch.iter_mut().map(worker).collect(),
            _scratch: scratch,
            memory,
            cancel,
            pool,
            context: vec![],
            progress,
            code: Arc::clone(code),
        }
    }

    pub(super) fn set_address(&mut self, v: Val, to: *mut u8) {
        self.addresses[v.0 as usize] = Address(to);
    }

    pub(super) fn set_size(&mut self, s: SymId, n: usize) {
        self.put_size(s, Some(n));
    }

    fn put_size(&mut self, s: SymId, n: Option<usize>) {
        if self.sizes.len() <= s.index() {
            self.sizes.resize(s.index() + 1, None);
            self.capacity.resize(s.index() + 1, None);
        }
        if self.sizes[s.index()] != n {
            self.sizes[s.index()] = n;
            self.version += 1;
        }
    }

    /// Buffers are made for so many.
    pub(super) fn set_capacity(&mut self, s: SymId, n: usize) {
        self.put_size(s, Some(n));
        self.capacity[s.index()] = Some(n);
    }

    fn size(&self, d: &Dim) -> Result<usize> {
        if let Dim::Const(n) = d {
            return Ok(*n);
        }
        let size = d.eval(&|s: SymId| self.sizes.get(s.index()).copied().flatten());
        size.ok_or_else(|| Trap::with_detail(TrapCode::Internal, "a dimension of unknown size"))
    }

    pub(super) fn shape(&self, dims: &[Dim]) -> Result<Vec<usize>> {
        dims.iter().map(|d| self.size(d)).collect()
    }

    pub(super) fn count(&self, dims: &[Dim]) -> Result<usize> {
        dims.iter().try_fold(1usize, |n, d| n.checked_mul(self.size(d)?).ok_or_else(too_large))
    }

    fn ty(&self, v: Val) -> &TensorType {
        &self.code.values.get(v).ty
    }

    fn bytes(&self, ty: &TensorType) -> Result<usize> {
        self.count(&ty.shape)?.checked_mul(element_bytes(ty.dtype) as usize).ok_or_else(too_large)
    }

    fn at(&self, v: Val) -> *mut u8 {
        self.addresses[v.0 as usize].0
    }

    // ---- memory ----

    /// Gives the block's values their buffers, if sizes changed.
    fn enter(&mut self, block: &Block) -> Result<()> {
        if self.arenas[block.id].version == self.version {
            return Ok(());
        }
        for check in &block.checks {
            self.check(check)?;
        }
        let code = Arc::clone(&self.code);
        let arena = &self.arenas[block.id];
        let mut fits = arena.memory.is_some();
        let mut need = vec![];
        for (i, (v, ..)) in block.locals.iter().enumerate() {
            let bytes = self.bytes(&code.values.get(*v).ty)?;
            fits &= arena.room.get(i).is_some_and(|room| bytes <= *room);
            need.push(bytes);
        }
        if !fits {
            let now = self.sizes.clone();
            for (size, capacity) in self.sizes.iter_mut().zip(&self.capacity) {
                if let (Some(size), Some(capacity)) = (size, capacity) {
                    *size = (*size).max(*capacity);
                }
            }
            let most: Result<Vec<usize>> =
                block.locals.iter().map(|(v, ..)| self.bytes(&code.values.get(*v).ty)).collect();
            self.sizes = now;
            let room: Vec<usize> = most?.iter().zip(&need).map(|(a, b)| *a.max(b)).collect();
            self.arenas[block.id] = Arena::default();
            let (places, total) = place(&block.locals, &room)?;
            let memory = self.memory.allocate(total)?;
            for ((v, ..), at) in block.locals.iter().zip(places) {
                self.set_address(*v, memory.as_ptr().wrapping_add(at));
            }
            self.arenas[block.id] = Arena { memory: Some(memory), room, version: 0 };
        }
        self.arenas[block.id].version = self.version;
        Ok(())
    }

    fn check(&self, check: &Check) -> Result<()> {
        match check {
            Check::Slice { start, len, step, size } => {
                let (start, len, n) = (self.size(start)?, self.size(len)?, self.size(size)?);
                let last = len.checked_sub(1).map(|l| l.checked_mul(*step).and_then(|l| l.checked_add(start)));
                match last {
                    Some(last) if last.is_none_or(|last| last >= n) => {
                        Err(invalid(format!("a slice of {len} from {start} is outside of a dimension of {n}")))
                    }
                    _ => Ok(()),
                }
            }
            Check::Reshape { from, to } => {
                if self.count(from)? == self.count(to)? {
                    return Ok(());
                }
                let (from, to) = (self.shape(from)?, self.shape(to)?);
                Err(invalid(format!("a tensor of shape {from:?} cannot take the shape {to:?}")))
            }
        }
    }

    // ---- steps ----

    /// Runs a block whose parameters and results have their addresses.
    pub(super) fn run(&mut self, block: &Block) -> Result<()> {
        self.enter(block)?;
        for step in &block.steps {
            self.step(step).map_err(|t| located(t, step.place))?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match &step.action {
            Action::Nest(nest) => self.nests([(&**nest, step.place)].into_iter()),
            Action::Nests(list) => self.nests(list.iter().map(|n| (&n.nest, n.place))),
            Action::Gemm(gemm) if gemm.double => self.gemm::<f64>(gemm),
            Action::Gemm(gemm) => self.gemm::<f32>(gemm),
            Action::Attend(a) if a.double => self.attend::<f64>(a),
            Action::Attend(a) => self.attend::<f32>(a),
            Action::AttendGrad(a) if a.of.double => self.attend_grad::<f64>(a),
            Action::AttendGrad(a) => self.attend_grad::<f32>(a),
            Action::Gather { table, indices, out } => self.gather(*table, *indices, *out),
            Action::ScatterAdd { base, indices, updates, out } => self.scatter_add(*base, *indices, *updates, *out),
            Action::Levels { operands, out } => self.levels(operands, *out),
            Action::Concat { axis, parts, out } => self.concat(*axis, parts, *out),
            Action::Random { distribution, seed, stream, out } => self.random(*distribution, *seed, *stream, *out),
            Action::If { condition, then, other, results } => {
                let block = if self.is_true(*condition) { then } else { other };
                for (r, out) in block.results.iter().zip(results) {
                    let at = self.at(*out);
                    self.set_address(*r, at);
                }
                self.run(block)
            }
            Action::While { state, go_on, body, results } => self.while_loop(state, go_on, body, results),
            Action::For { length, reverse, state, sources, body, results } => {
                let n = self.size(length)?;
                self.for_loop(n, *reverse, state, sources, body, results)
            }
            Action::ForBatches(f) => self.for_batches(f),
            Action::ForParts(f) => self.for_parts(f),
            Action::Call { function, arguments, results } => self.call(*function, arguments, results),
            Action::Effect(effect) => self.effect(effect),
        }
    }

    fn gemm<T: gemm::Element + Sync>(&mut self, g: &Gemm) -> Result<()> {
        let strides = |s: &[Dim; 2]| -> Result<[usize; 2]> { Ok([self.size(&s[0])?, self.size(&s[1])?]) };
        let (m, n, k) = (self.size(&g.m)?, self.size(&g.n)?, self.size(&g.k)?);
        let (sa, sb, sc) = (strides(&g.a_strides)?, strides(&g.b_strides)?, strides(&g.c_strides)?);
        let around: Vec<[usize; 4]> = g
            .around
            .iter()
            .map(|r| Ok([self.size(&r.size)?, self.size(&r.a)?, self.size(&r.b)?, self.size(&r.c)?]))
            .collect::<Result<_>>()?;
        let a = Address(self.at(g.a.base).cast::<T>().wrapping_add(self.size(&g.a.offset)?).cast());
        let b = Address(self.at(g.b.base).cast::<T>().wrapping_add(self.size(&g.b.offset)?).cast());
        let c = Address(self.at(g.out));
        let bias = match &g.finish {
            Finish::Bias(s) | Finish::BiasRelu(s) => Some(self.part::<T>(s, n)?),
            Finish::None | Finish::Relu | Finish::Gate(_) => None,
        };
        let gate = match &g.finish {
            Finish::Gate(s) => Some(self.part::<T>(s, m.checked_mul(n).ok_or_else(too_large)?)?),
            Finish::None | Finish::Relu | Finish::Bias(_) | Finish::BiasRelu(_) => None,
        };
        let relu = matches!(g.finish, Finish::Relu | Finish::BiasRelu(_));
        let products: usize = around.iter().map(|r| r[0]).product();
        let problem = |index: usize| {
            let (mut left, mut at) = (index, [0usize; 3]);
            for [size, x, y, z] in around.iter().rev() {
                let i = left % size;
                left /= size;
                at = [at[0] + i * x, at[1] + i * y, at[2] + i * z];
            }
            let (a, b, c) = (&a, &b, &c);
            Problem {
                m,
                n,
                k,
                alpha: T::ONE,
                a: a.0.cast::<T>().cast_const().wrapping_add(at[0]),
                a_strides: sa,
                b: RawRhs::Plain { data: b.0.cast::<T>().cast_const().wrapping_add(at[1]), strides: sb },
                beta: T::ZERO,
                c: c.0.cast::<T>().wrapping_add(at[2]),
                c_strides: sc,
                epilogue: match (bias, gate) {
                    (_, Some(gate)) => Epilogue::Gate(gemm::MatRef::row_major(gate, m, n)),
                    (Some(bias), None) if relu => Epilogue::BiasRelu(bias),
                    (Some(bias), None) => Epilogue::Bias(bias),
                    (None, None) if relu => Epilogue::Relu,
                    (None, None) => Epilogue::None,
                },
            }
        };
        // SAFETY: the strides were derived from the shapes of stored values, whose buffers have their size; the result's buffer
        // overlaps none of them, nor of what the epilogue reads, and each product writes elements of its own, which nobody else
        // accesses meanwhile. The same holds below.
        let one = |index: usize| unsafe { gemm::gemm_raw(&problem(index), 0..m) };
        let work = products.saturating_mul(m).saturating_mul(n).saturating_mul(k);
        match &self.pool {
            Some(pool) if work >= SPLIT_PRODUCTS && products >= 2 * pool.threads() => pool.run(products, |i, _| {
                one(i);
                Ok(())
            }),
            Some(pool) if work >= SPLIT_PRODUCTS => {
                // SAFETY: as above.
                (0..products).try_for_each(|index| unsafe { gemm::gemm_raw_on(pool, &problem(index)) })
            }
            _ => {
                (0..products).for_each(one);
                Ok(())
            }
        }
    }

    // ---- buffers as slices ----

    fn slice<T>(&self, v: Val) -> Result<&[T]> {
        let n = self.count(&self.ty(v).shape)?;
        if n == 0 {
            return Ok(&[]);
        }
        // SAFETY: a stored value's buffer holds its elements, of the type that its dtype stands for; no step writes what it reads.
        Ok(unsafe { std::slice::from_raw_parts(self.at(v).cast::<T>(), n) })
    }

    #[allow(clippy::mut_from_ref, reason = "buffers lie outside of the machine; a step writes to its own results only")]
    fn slice_mut<T>(&self, v: Val) -> Result<&mut [T]> {
        let n = self.count(&self.ty(v).shape)?;
        if n == 0 {
            return Ok(&mut []);
        }
        // SAFETY: as for `slice`; the result of a step overlaps nothing that the step reads.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.at(v).cast::<T>(), n) })
    }

    /// Elements of a stored value from an offset on.
    fn part<T>(&self, s: &Strided, count: usize) -> Result<&[T]> {
        let (offset, all) = (self.size(&s.offset)?, self.slice::<T>(s.base)?);
        let part = offset.checked_add(count).and_then(|end| all.get(offset..end));
        part.ok_or_else(|| Trap::with_detail(TrapCode::Internal, "a part of a tensor is outside of it"))
    }

    fn raw(&self, v: Val) -> Result<&[u8]> {
        let n = self.bytes(self.ty(v))?;
        if n == 0 {
            return Ok(&[]);
        }
        // SAFETY: as for `slice`.
        Ok(unsafe { std::slice::from_raw_parts(self.at(v), n) })
    }

    #[allow(clippy::mut_from_ref, reason = "as for `slice_mut`")]
    fn raw_mut(&self, v: Val) -> Result<&mut [u8]> {
        let n = self.bytes(self.ty(v))?;
        if n == 0 {
            return Ok(&mut []);
        }
        // SAFETY: as for `slice_mut`.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.at(v), n) })
    }

    fn is_true(&self, v: Val) -> bool {
        // SAFETY: a `bool[]` has one element, a byte.
        unsafe { *self.at(v) != 0 }
    }

    fn indices(&self, v: Val) -> Result<Indices<'_>> {
        Ok(match self.ty(v).dtype {
            ScalarType::I32 => Indices::I32(self.slice(v)?),
            _ => Indices::I64(self.slice(v)?),
        })
    }

    /// Rows, and bytes of each.
    fn rows(&self, v: Val) -> Result<(usize, usize)> {
        let ty = self.ty(v);
        let rows = self.size(ty.shape.first().unwrap_or(&Dim::Const(1)))?;
        let width = self.count(ty.shape.get(1..).unwrap_or(&[]))? * element_bytes(ty.dtype) as usize;
        Ok((rows, width))
    }

    fn gather(&mut self, table: Val, indices: Val, out: Val) -> Result<()> {
        let (rows, width) = self.rows(table)?;
        library::gather(self.raw(table)?, rows, width, &self.indices(indices)?, self.raw_mut(out)?)
    }

    fn scatter_add(&mut self, base: Val, indices: Val, updates: Val, out: Val) -> Result<()> {
        let (rows, bytes) = self.rows(base)?;
        let dtype = self.ty(base).dtype;
        let width = bytes / element_bytes(dtype) as usize;
        self.raw_mut(out)?.copy_from_slice(self.raw(base)?);
        let at = self.indices(indices)?;
        match dtype {
            ScalarType::F32 => {
                library::scatter_add(self.slice_mut::<f32>(out)?, rows, width, &at, self.slice(updates)?, |a, b| {
                    Some(a + b)
                })
            }
            ScalarType::F64 => {
                library::scatter_add(self.slice_mut::<f64>(out)?, rows, width, &at, self.slice(updates)?, |a, b| {
                    Some(a + b)
                })
            }
            ScalarType::I32 => {
                library::scatter_add(self.slice_mut(out)?, rows, width, &at, self.slice(updates)?, i32::checked_add)
            }
            ScalarType::I64 => {
                library::scatter_add(self.slice_mut(out)?, rows, width, &at, self.slice(updates)?, i64::checked_add)
            }
            other => Err(Trap::with_detail(TrapCode::InvalidArgument, format!("a sum of {other}"))),
        }
    }

    fn levels(&mut self, operands: &[Val], out: Val) -> Result<()> {
        let children = operands[2..].iter().map(|v| self.slice::<i64>(*v)).collect::<Result<Vec<_>>>()?;
        let (inner, root) = (self.raw(operands[0])?, self.slice::<i64>(operands[1])?[0]);
        library::levels(inner, root, &children, self.slice_mut(out)?)
    }

    fn concat(&mut self, axis: usize, parts: &[Val], out: Val) -> Result<()> {
        let outer = self.count(&self.ty(out).shape[..axis])?;
        let to = self.raw_mut(out)?;
        let mut at = 0;
        let sources: Vec<&[u8]> = parts.iter().map(|v| self.raw(*v)).collect::<Result<_>>()?;
        for o in 0..outer {
            for s in &sources {
                let width = s.len() / outer;
                to[at..at + width].copy_from_slice(&s[o * width..(o + 1) * width]);
                at += width;
            }
        }
        Ok(())
    }

    fn random(&mut self, distribution: Distribution, seed: u64, stream: u64, out: Val) -> Result<()> {
        let numbers = Philox::new(seed, stream);
        match self.ty(out).dtype {
            ScalarType::F32 => library::random_f32(&numbers, distribution, self.slice_mut(out)?),
            _ => library::random_f64(&numbers, distribution, self.slice_mut(out)?),
        }
        Ok(())
    }

    // ---- loops ----

    /// Memory of a loop: places of these sizes.
    fn loop_memory(&self, bytes: &[usize]) -> Result<(pool::Block, Vec<*mut u8>)> {
        let mut total = 0usize;
        let mut places = vec![];
        for b in bytes {
            places.push(total);
            total = b.checked_next_multiple_of(ALIGN).and_then(|b| total.checked_add(b)).ok_or_else(too_large)?;
        }
        let memory = self.memory.allocate(total.max(ALIGN))?;
        let places = places.into_iter().map(|at| memory.as_ptr().wrapping_add(at)).collect();
        Ok((memory, places))
    }

    /// Two places for each value of a state; the initial values stand in the first.
    fn begin_state(&self, state: &[Val]) -> Result<State> {
        let bytes: Vec<usize> = state.iter().map(|v| self.bytes(self.ty(*v))).collect::<Result<_>>()?;
        let (memory, places) = self.loop_memory(&[&bytes[..], &bytes[..]].concat())?;
        let (now, next) = places.split_at(state.len());
        for ((v, at), n) in state.iter().zip(now).zip(&bytes) {
            // SAFETY: the value's buffer has this size, and so has the new place.
            unsafe { std::ptr::copy_nonoverlapping(self.at(*v), *at, *n) };
        }
        Ok(State { now: now.to_vec(), next: next.to_vec(), bytes, _memory: memory })
    }

    fn set_state(&mut self, state: &State, params: &[Val], results: &[Val]) {
        for (v, at) in params.iter().zip(&state.now) {
            self.set_address(*v, *at);
        }
        for (v, at) in results.iter().zip(&state.next) {
            self.set_address(*v, *at);
        }
    }

    fn end_state(&self, state: &State, results: &[Val]) {
        for ((v, at), n) in results.iter().zip(&state.now).zip(&state.bytes) {
            // SAFETY: as in `begin_state`.
            unsafe { std::ptr::copy_nonoverlapping(*at, self.at(*v), *n) };
        }
    }

    fn while_loop(&mut self, state: &[Val], go_on: &Block, body: &Block, results: &[Val]) -> Result<()> {
        let mut s = self.begin_state(state)?;
        let (_memory, flag) = self.loop_memory(&[1])?;
        self.set_address(go_on.results[0], flag[0]);
        loop {
            self.cancel.check()?;
            self.set_state(&s, &go_on.params, &[]);
            self.run(go_on)?;
            if !self.is_true(go_on.results[0]) {
                break;
            }
            self.set_state(&s, &body.params, &body.results);
            self.run(body)?;
            s.swap();
        }
        self.end_state(&s, results);
        Ok(())
    }

    fn for_loop(
        &mut self,
        length: usize,
        reverse: bool,
        state: &[Val],
        sources: &[Val],
        body: &Block,
        results: &[Val],
    ) -> Result<()> {
        let mut s = self.begin_state(state)?;
        let mut counter = Box::new(0i64);
        let count = state.len();
        self.set_address(body.params[0], (&raw mut *counter).cast());
        let widths =
            |m: &Self, list: &[Val]| -> Result<Vec<usize>> { list.iter().map(|v| Ok(m.rows(*v)?.1)).collect() };
        let from = widths(self, sources)?;
        let to = widths(self, &results[count..])?;
        for step in 0..length {
            self.cancel.check()?;
            let i = if reverse { length - 1 - step } else { step };
            *counter = i as i64;
            self.set_state(&s, &body.params[1..=count], &body.results[..count]);
            for ((param, v), width) in body.params[1 + count..].iter().zip(sources).zip(&from) {
                let at = self.at(*v).wrapping_add(i * width);
                self.set_address(*param, at);
            }
            for ((r, v), width) in body.results[count..].iter().zip(&results[count..]).zip(&to) {
                let at = self.at(*v).wrapping_add(i * width);
                self.set_address(*r, at);
            }
            self.run(body)?;
            s.swap();
        }
        self.end_state(&s, &results[..count]);
        Ok(())
    }
}

/// The state of a loop: two places for each value.
struct State {
    now: Vec<*mut u8>,
    next: Vec<*mut u8>,
    bytes: Vec<usize>,
    _memory: pool::Block,
}

impl State {
    fn swap(&mut self) {
        std::mem::swap(&mut self.now, &mut self.next);
    }
}

/// Places for values of these sizes; those in use at the same time do not overlap. Returns the places and the bytes in all.
fn place(locals: &[(Val, usize, usize)], bytes: &[usize]) -> Result<(Vec<usize>, usize)> {
    let mut places: Vec<(usize, usize)> = vec![];
    let mut total = ALIGN;
    for (i, (_, first, last)) in locals.iter().enumerate() {
        let size = bytes[i].max(1).checked_next_multiple_of(ALIGN).ok_or_else(too_large)?;
        let mut taken: Vec<(usize, usize)> = locals[..i]
            .iter()
            .zip(&places)
            .filter(|((_, f, l), _)| f <= last && first <= l)
            .map(|(_, place)| *place)
            .collect();
        taken.sort_unstable();
        let mut at = 0usize;
        for (begin, end) in taken {
            if at.checked_add(size).is_some_and(|e| e <= begin) {
                break;
            }
            at = at.max(end);
        }
        let end = at.checked_add(size).ok_or_else(too_large)?;
        places.push((at, end));
        total = total.max(end);
    }
    Ok((places.into_iter().map(|p| p.0).collect(), total))
}
