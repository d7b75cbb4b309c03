//! Tensor programs: nodes to steps.
//!
//! What holds:
//! - A value is *stored* (it has a buffer), or an expression that its consumers compute where they need it: maps with one
//!   consumer, views, constants. `build` decides.
//! - A `Step` makes stored values: a nest (generated loops, `nest`), a library call (`library`) or control flow over
//!   blocks of steps (`machine`).
//! - A block's results are written where its owner says, so a loop's state has two places that change roles in each step.
//! - Buffers of a block are laid out once for given sizes, overlapping where lifetimes allow, and kept until the run ends.
//! - No result depends on the number of threads: work is split by rows of results only.

mod attention;
mod build;
mod control;
mod groups;
mod index;
mod library;
mod machine;
mod nest;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::codegen::CompiledModule;
use crate::entity::{NodeId, PlaceId, SymId, ValueId};
use crate::error::{Error, Result};
use crate::exec::convert;
use crate::exec::run::Resources;
use crate::graph::attend::AttendSpec;
use crate::graph::tensor::{Distribution, Move};
use crate::graph::{BridgeOp, Op, Program, TensorConst};
use crate::kernel::{FunctionRef, Module};
use crate::lower::rel::{element_bytes, tensor_record_size, tile_slots as tile};
use crate::scalar::reduce::Reducer;
use crate::types::{Dim, ScalarType, TensorType};
use crate::value::{TensorData, TensorValue};

use attention::{Attend, AttendGrad};
use control::Effect;
use index::Group;
use library::Gemm;
use machine::{Kernel, Machine};

/// A value of a tensor program.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Val(u32);

/// Where a value comes from.
#[derive(Clone, Debug)]
enum Def {
    /// Its buffer is given, or filled by a control step.
    Outside,
    Const(TensorConst),
    Iota {
        dim: usize,
    },
    Random {
        distribution: Distribution,
        seed: u64,
        stream: u64,
    },
    /// Result `result` of a map's body; the operands that it needs, by the parameters they stand for.
    Map {
        node: NodeId,
        operands: Vec<(ValueId, Val)>,
        result: usize,
    },
    Reduce {
        reducer: Reducer,
        axes: Vec<usize>,
        operand: Val,
    },
    Prefix {
        reducer: Reducer,
        axis: usize,
        operand: Val,
    },
    Contract {
        spec: crate::graph::tensor::ContractSpec,
        a: Val,
        b: Val,
    },
    /// Queries, keys, values, then the terms.
    Attend {
        spec: Box<AttendSpec>,
        operands: Vec<Val>,
    },
    /// Result `result` of a derivative of attention: queries, keys, values, the terms, then the adjoint of attention's result.
    AttendGrad {
        node: NodeId,
        spec: Box<AttendSpec>,
        operands: Vec<Val>,
        result: usize,
    },
    View(Move, Val),
    Gather(Val, Val),
    ScatterAdd(Val, Val, Val),
    /// Inner nodes, the root, children.
    Levels(Vec<Val>),
    Concat {
        axis: usize,
        parts: Vec<Val>,
    },
    Copy(Val),
}

#[derive(Clone, Debug)]
struct Info {
    ty: TensorType,
    def: Def,
    place: Option<PlaceId>,
    /// The block that defines it.
    block: usize,
}

/// All values, and which are stored.
#[derive(Clone, Default, Debug)]
struct Values {
    list: Vec<Info>,
    stored: HashSet<Val>,
}

impl Values {
    fn get(&self, v: Val) -> &Info {
        &self.list[v.0 as usize]
    }

    fn add(&mut self, info: Info) -> Val {
        self.list.push(info);
        Val(self.list.len() as u32 - 1)
    }

    /// Whether the value has a buffer.
    fn is_stored(&self, v: Val) -> bool {
        match &self.get(v).def {
            Def::Outside => true,
            Def::Const(t) => t.data.len() != 1,
            _ => self.stored.contains(&v),
        }
    }
}

/// What a nest reads from its context, a slot each.
#[derive(Clone, PartialEq, Debug)]
enum Slot {
    /// A value's address.
    Address(Val),
    /// A size.
    Size(Dim),
}

/// A generated nest.
#[derive(Debug)]
struct Nest {
    function: FunctionRef,
    code: Option<Kernel>,
    slots: Vec<Slot>,
    /// Steps of the outermost loop, which may be split.
    extent: Dim,
    /// Elements that are computed.
    work: Dim,
    /// Operations an element.
    weight: usize,
}

/// A nest, and where in the source it comes from.
#[derive(Debug)]
struct PlacedNest {
    nest: Nest,
    place: Option<PlaceId>,
}

/// Something to be done.
#[derive(Debug)]
enum Action {
    Nest(Box<Nest>),
    /// Several that do not read each other.
    Nests(Vec<PlacedNest>),
    Gemm(Box<Gemm>),
    Attend(Box<Attend>),
    AttendGrad(Box<AttendGrad>),
    Gather {
        table: Val,
        indices: Val,
        out: Val,
    },
    ScatterAdd {
        base: Val,
        indices: Val,
        updates: Val,
        out: Val,
    },
    Levels {
        operands: Vec<Val>,
        out: Val,
    },
    Concat {
        axis: usize,
        parts: Vec<Val>,
        out: Val,
    },
    Random {
        distribution: Distribution,
        seed: u64,
        stream: u64,
        out: Val,
    },
    If {
        condition: Val,
        then: Box<Block>,
        other: Box<Block>,
        results: Vec<Val>,
    },
    While {
        state: Vec<Val>,
        go_on: Box<Block>,
        body: Box<Block>,
        results: Vec<Val>,
    },
    For {
        length: Dim,
        reverse: bool,
        state: Vec<Val>,
        sources: Vec<Val>,
        body: Box<Block>,
        results: Vec<Val>,
    },
    ForBatches(Box<ForBatches>),
    ForParts(Box<ForParts>),
    /// A function by its number in the code.
    Call {
        function: usize,
        arguments: Vec<Val>,
        results: Vec<Val>,
    },
    Effect(Effect),
}

#[derive(Debug)]
struct ForBatches {
    batch: SymId,
    size: usize,
    epochs: usize,
    shuffle: Option<u64>,
    drop_last: bool,
    early_stop: Option<f64>,
    sources: Vec<Val>,
    /// Which sources' batches only loops over parts read.
    by_parts: Vec<bool>,
    state: Vec<Val>,
    body: Block,
    results: Vec<Val>,
}

#[derive(Debug)]
struct ForParts {
    part: SymId,
    /// Rows of a part.
    rows: usize,
    /// Results that are joined; the others are sums.
    joined: usize,
    sources: Vec<Val>,
    body: Block,
    results: Vec<Val>,
}

#[derive(Debug)]
struct Step {
    action: Action,
    reads: Vec<Val>,
    writes: Vec<Val>,
    place: Option<PlaceId>,
}

/// What must hold of sizes that are known at run time only.
#[derive(Clone, PartialEq, Debug)]
enum Check {
    Slice { start: Dim, len: Dim, step: usize, size: Dim },
    Reshape { from: Vec<Dim>, to: Vec<Dim> },
}

/// Steps in order.
#[derive(Debug)]
struct Block {
    id: usize,
    params: Vec<Val>,
    steps: Vec<Step>,
    results: Vec<Val>,
    /// Stored values of its own, with the steps from and to which they are in use.
    locals: Vec<(Val, usize, usize)>,
    checks: Vec<Check>,
    /// Stored values of blocks around it.
    captured: Vec<Val>,
}

/// A linked program: what runs share.
#[derive(Debug)]
struct Code {
    values: Values,
    block: Block,
    blocks: usize,
    /// Inputs of the program that are read.
    inputs: Vec<(ValueId, Val)>,
    /// Tapes and sums that it begins.
    handles: usize,
    /// Functions that are called rather than taken in. Those of a function are those of the program.
    functions: Vec<Arc<Code>>,
}

impl Code {
    fn link(&mut self, module: &CompiledModule) {
        self.block.link(module);
        for f in &mut self.functions {
            if let Some(f) = Arc::get_mut(f) {
                f.link(module);
            }
        }
    }
}

/// The tensor nodes of a stage.
#[derive(Debug)]
pub struct TensorProgram {
    code: Arc<Code>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
}

impl TensorProgram {
    /// Lowers nodes into functions of the module.
    ///
    /// # Errors
    /// Operations that are not lowered, by name.
    pub fn lower(
        p: &Program,
        nodes: &[NodeId],
        inputs: &[ValueId],
        outputs: &[ValueId],
        name: &str,
        module: &mut Module,
    ) -> Result<Self> {
        // Inputs of the program are values of the run already.
        let is_input = |v: &ValueId| matches!(p.node_of(*v).map(|n| &n.op), Some(Op::Input(_)));
        let outputs: Vec<ValueId> = outputs.iter().copied().filter(|v| !is_input(v)).collect();
        if let Some(v) = outputs.iter().find(|v| p.ty(**v).is_linear()) {
            let message = format!("a value of type {} between a tensor stage and another one", p.ty(*v));
            return Err(Error::Unsupported(message));
        }
        let code = build::lower(p, nodes, inputs, &outputs, name, module)?;
        Ok(Self { code: Arc::new(code), inputs: inputs.to_vec(), outputs })
    }

    /// Takes the functions from the compiled module.
    pub fn link(&mut self, module: &CompiledModule) {
        if let Some(code) = Arc::get_mut(&mut self.code) {
            code.link(module);
        }
    }

    /// Runs the steps: reads the inputs from `values`, adds the outputs.
    ///
    /// # Errors
    /// What the program raises, with its place.
    pub fn run(
        &self,
        values: &mut HashMap<ValueId, Arc<TensorValue>>,
        dims: &mut HashMap<SymId, usize>,
        resources: &Resources,
    ) -> Result<()> {
        let failed = |t| convert::trap(&[], &resources.memory, t);
        let mut machine = Machine::for_run(&self.code, resources);
        for (s, n) in dims.iter() {
            machine.set_size(*s, *n);
        }
        let mut kept = vec![];
        let params = self.inputs.iter().copied().zip(self.code.block.params.iter().copied());
        for (v, param) in params.chain(self.code.inputs.iter().copied()) {
            let t = values.get(&v).ok_or_else(|| Error::Bug(format!("{v} was not made")))?;
            machine.set_address(param, convert::tensor_ptr(t).cast_mut());
            kept.push(Arc::clone(t));
        }
        let mut made = vec![];
        for (v, r) in self.outputs.iter().zip(&self.code.block.results) {
            let ty = &self.code.values.get(*r).ty;
            let shape = machine.shape(&ty.shape).map_err(failed)?;
            let count = machine.count(&ty.shape).map_err(failed)?;
            let _charged =
                resources.memory.reserve(count * element_bytes(ty.dtype) as usize).map_err(|e| failed(e.into()))?;
            let mut tensor = TensorValue { shape, data: room(ty.dtype, count)? };
            machine.set_address(*r, tensor_mut_ptr(&mut tensor));
            made.push((*v, tensor, count));
        }
        machine.run_entry().map_err(failed)?;
        drop(machine);
        for (v, mut tensor, count) in made {
            // SAFETY: there is room for so many elements, and the run wrote each of a result's.
            unsafe { set_len(&mut tensor.data, count) };
            values.insert(v, Arc::new(tensor));
        }
        Ok(())
    }
}

fn zeros(ty: ScalarType, n: usize) -> Result<TensorData> {
    Ok(match ty {
        ScalarType::Bool => TensorData::Bool(vec![false; n]),
        ScalarType::I32 => TensorData::I32(vec![0; n]),
        ScalarType::I64 => TensorData::I64(vec![0; n]),
        ScalarType::F32 => TensorData::F32(vec![0.0; n]),
        ScalarType::F64 => TensorData::F64(vec![0.0; n]),
        other => return Err(Error::Bug(format!("a tensor of {other}"))),
    })
}

/// Room for so many elements, which are not written yet: large results would be written twice.
fn room(ty: ScalarType, n: usize) -> Result<TensorData> {
    Ok(match ty {
        ScalarType::Bool => TensorData::Bool(pages(n)),
        ScalarType::I32 => TensorData::I32(pages(n)),
        ScalarType::I64 => TensorData::I64(pages(n)),
        ScalarType::F32 => TensorData::F32(pages(n)),
        ScalarType::F64 => TensorData::F64(pages(n)),
        other => return Err(Error::Bug(format!("a tensor of {other}"))),
    })
}

/// Room in large pages where it is large: the memory is fresh in every run, and each page is made when it is first written.
fn pages<T>(n: usize) -> Vec<T> {
    let mut room: Vec<T> = Vec::with_capacity(n);
    runtime::pool::advise_huge_pages(room.as_mut_ptr().cast(), n * size_of::<T>());
    room
}

/// # Safety
/// There is room for so many elements, and all of them have been written.
unsafe fn set_len(data: &mut TensorData, n: usize) {
    // SAFETY: promised by the caller.
    unsafe {
        match data {
            TensorData::Bool(v) => v.set_len(n),
            TensorData::I32(v) => v.set_len(n),
            TensorData::I64(v) => v.set_len(n),
            TensorData::F32(v) => v.set_len(n),
            TensorData::F64(v) => v.set_len(n),
        }
    }
}

fn tensor_mut_ptr(t: &mut TensorValue) -> *mut u8 {
    match &mut t.data {
        TensorData::Bool(v) => v.as_mut_ptr().cast(),
        TensorData::I32(v) => v.as_mut_ptr().cast(),
        TensorData::I64(v) => v.as_mut_ptr().cast(),
        TensorData::F32(v) => v.as_mut_ptr().cast(),
        TensorData::F64(v) => v.as_mut_ptr().cast(),
    }
}

/// A model that runs over tiles of rows.
#[derive(Debug)]
pub struct TileProgram {
    code: Arc<Code>,
    rows: SymId,
    captured: Vec<ValueId>,
    /// Bytes a row of each input, then of each output.
    records: Vec<usize>,
    inputs: usize,
}

impl TileProgram {
    /// Lowers the region of an `apply` node.
    ///
    /// # Errors
    /// Operations that are not lowered, by name.
    pub fn lower(p: &Program, node: NodeId, name: &str, module: &mut Module) -> Result<Self> {
        let n = p.node(node);
        let Op::Bridge(BridgeOp::Apply { rows, inputs, .. }) = &n.op else {
            return Err(Error::Bug(format!("{node} is no apply")));
        };
        let region = p.region(n.regions[0]);
        let captured = crate::plan::split::free_values(p, n.regions[0]);
        let mut params = region.params.clone();
        params.extend(&captured);
        let code = build::lower(p, &region.nodes, &params, &region.results, name, module)?;
        let mut records: Vec<usize> = inputs.iter().map(|g| tensor_record_size(g) as usize).collect();
        for v in &region.results {
            let t = p.ty(*v).as_tensor().ok_or_else(|| Error::Bug("an apply yields tensors".into()))?;
            let width = t.shape.get(1).and_then(Dim::as_const).unwrap_or(1);
            records.push(width * element_bytes(t.dtype) as usize);
        }
        Ok(Self { code: Arc::new(code), rows: *rows, captured, records, inputs: inputs.len() })
    }

    /// Takes the functions from the compiled module.
    pub fn link(&mut self, module: &CompiledModule) {
        if let Some(code) = Arc::get_mut(&mut self.code) {
            code.link(module);
        }
    }

    /// Bytes a row of each input group, then of each output.
    pub fn record_bytes(&self) -> impl Iterator<Item = usize> {
        self.records.iter().copied()
    }
}

/// A model over the tiles of one range.
pub struct TileRun {
    machine: Machine,
    rows: SymId,
    _kept: Vec<Arc<TensorValue>>,
}

impl TileRun {
    /// Over tensors at these addresses (inputs, then outputs), with room for `capacity` rows each.
    pub fn new(
        program: &TileProgram,
        tensors: &[u64],
        values: &HashMap<ValueId, Arc<TensorValue>>,
        capacity: usize,
    ) -> Self {
        let code = Arc::clone(&program.code);
        let mut machine = Machine::for_tiles(&code);
        machine.set_capacity(program.rows, capacity);
        let address = |a: &u64| std::ptr::with_exposed_provenance_mut::<u8>(*a as usize);
        let (inputs, outputs) = tensors.split_at(program.inputs);
        let mut kept = vec![];
        for (param, a) in code.block.params.iter().zip(inputs) {
            machine.set_address(*param, address(a));
        }
        let captured = code.block.params[inputs.len()..].iter().copied().zip(program.captured.iter().copied());
        for (param, v) in captured.chain(code.inputs.iter().map(|(v, param)| (*param, *v))) {
            if let Some(t) = values.get(&v) {
                machine.set_address(param, convert::tensor_ptr(t).cast_mut());
                kept.push(Arc::clone(t));
            }
        }
        for (r, a) in code.block.results.iter().zip(outputs) {
            machine.set_address(*r, address(a));
        }
        Self { machine, rows: program.rows, _kept: kept }
    }

    /// Runs the model over the rows of a tile.
    ///
    /// # Safety
    /// `data` is the address of a `TileRun` that only this task uses, `tile` of its block, `worker` of the task's.
    pub unsafe extern "C" fn call(data: *mut u8, tile: *mut u8, worker: *mut u8) -> i32 {
        // SAFETY: promised by the caller; the block's first slot is its number of rows.
        let (run, rows) = unsafe { (&mut *data.cast::<Self>(), *tile.add(tile::COUNT as usize).cast::<i64>()) };
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run.machine.set_size(run.rows, rows as usize);
            run.machine.run_here()
        }));
        let trap = match made {
            Ok(Ok(())) => return 0,
            Ok(Err(trap)) => trap,
            Err(_) => runtime::trap::TrapCode::Panic.into(),
        };
        // SAFETY: promised by the caller.
        unsafe { runtime::trap::raise(worker, trap) }
    }
}
