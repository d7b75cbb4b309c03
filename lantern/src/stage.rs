//! Staging: what closures over [`Tensor`] handles record, and the functions that come out.
//!
//! What holds:
//! - A [`Scope`] owns a [`Builder`] while handles record into it. A handle belongs to one scope and to the region in which it
//!   was made; it is read there and in the regions inside.
//! - The first error is kept and answered by whoever closes the scope. After it, operations give handles that stand for
//!   nothing, without further errors; so closures need no `?`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::panic::Location;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use ir::entity::{FuncId, NodeId, RegionId, SymId, ValueId};
use ir::exec::Inputs;
use ir::exec::run::{CompileOptions, Executable, Resources};
use ir::graph::tensor::Move;
use ir::graph::{Builder, ControlOp, Def, InputKind, Op, Program, TensorOp, ValueData};
use ir::opt::OptOptions;
use ir::scalar::ScalarOp;
use ir::scalar::reduce::Reducer;
use ir::types::{Dim, ScalarType, TensorType, Type};
use ir::value::{TensorData, TensorValue};

use runtime::scheduler::WorkerPool;

use crate::error::{At, Error, Fault, Result};
use crate::grad::copy;
use crate::tensor::Tensor;

/// A recording under way.
#[derive(Clone)]
pub struct Scope(pub(crate) Rc<Shared>);

pub(crate) struct Shared {
    builder: RefCell<Builder>,
    error: RefCell<Option<Error>>,
    /// The regions that are open, as numbers that are never used again.
    frames: RefCell<Vec<u32>>,
    next_frame: Cell<u32>,
    closed: Cell<bool>,
    /// See [`Scope::compute_levels`].
    levels: Cell<bool>,
    /// Functions whose bodies are being recorded, innermost last.
    open: RefCell<Vec<OpenFunc>>,
    /// What finished functions read from outside of them, to be given with each call.
    captured: RefCell<HashMap<FuncId, Vec<Tensor>>>,
}

/// A function whose body is being recorded.
struct OpenFunc {
    id: FuncId,
    /// The frame of its body.
    frame: u32,
    /// What it reads from outside: the tensor there, and the parameter that stands for it.
    captured: Vec<(Tensor, ValueId)>,
    /// Its calls of itself.
    calls: Vec<NodeId>,
}

impl Scope {
    /// Records into a builder that stands in an open region; [`Scope::into_builder`] gives it back.
    pub fn over(builder: Builder) -> Self {
        Self(Rc::new(Shared {
            builder: RefCell::new(builder),
            error: RefCell::new(None),
            frames: RefCell::new(vec![0]),
            next_frame: Cell::new(1),
            closed: Cell::new(false),
            levels: Cell::new(!ir::opt::switched_off().iter().any(|name| name == "levels")),
            open: RefCell::new(vec![]),
            captured: RefCell::new(HashMap::new()),
        }))
    }

    /// Whether derivatives that are taken from here on have recursions over child indices computed level by level, which is so
    /// unless `IR_OFF` names the pass `levels`. What has no derivative is the pass's.
    pub fn compute_levels(&self, on: bool) {
        self.0.levels.set(on);
    }

    pub(crate) fn computes_levels(&self) -> bool {
        self.0.levels.get()
    }

    /// Ends the recording. Handles that are left record no more.
    ///
    /// # Errors
    /// The first error of an operation.
    pub fn into_builder(self) -> Result<Builder> {
        self.0.closed.set(true);
        match self.0.error.borrow_mut().take() {
            Some(e) => Err(e),
            None => Ok(std::mem::take(&mut *self.0.builder.borrow_mut())),
        }
    }

    /// Records into a builder that is borrowed, in the region that is open.
    ///
    /// # Errors
    /// The first error of an operation. The builder is whole in any case.
    pub fn within<R>(builder: &mut Builder, record: impl FnOnce(&Scope) -> R) -> Result<R> {
        let scope = Self::over(std::mem::take(builder));
        let out = record(&scope);
        scope.0.closed.set(true);
        *builder = std::mem::take(&mut *scope.0.builder.borrow_mut());
        match scope.0.error.borrow_mut().take() {
            Some(e) => Err(e),
            None => Ok(out),
        }
    }

    /// A handle of a tensor value that is visible in the region that is open.
    #[track_caller]
    pub fn tensor(&self, value: ValueId) -> Tensor {
        let at = Location::caller();
        self.record("tensor", at, &[], |b, _| {
            if b.program().values.len() <= value.index() {
                return Err(Fault::Invalid(format!("{value} is not a value of this program")));
            }
            match b.ty(value) {
                Type::Tensor(_) => Ok(value),
                t => Err(Fault::Invalid(format!("{value} is {t}, not a tensor"))),
            }
        })
    }

    /// The builder, for what handles do not cover. Do not record with handles while it is borrowed.
    ///
    /// # Errors
    /// A recording that has ended.
    pub fn with_builder<R>(&self, f: impl FnOnce(&mut Builder) -> ir::Result<R>) -> Result<R> {
        if self.0.closed.get() {
            return Err(Error::Value("the recording has ended".into()));
        }
        Ok(f(&mut self.0.builder.borrow_mut())?)
    }

    /// The first error so far is this one. For functions that check more than operations do.
    pub(crate) fn fail(&self, e: Error) {
        self.0.error.borrow_mut().get_or_insert(e);
    }

    /// A handle that stands for nothing, after an error.
    pub(crate) fn nothing(&self) -> Tensor {
        Tensor { scope: self.clone(), value: None, ty: TensorType::new(ScalarType::F32, []), frame: 0 }
    }

    fn frame(&self) -> u32 {
        *self.0.frames.borrow().last().unwrap_or(&0)
    }

    /// The values behind handles, if each belongs here and is visible.
    fn values(&self, inputs: &[&Tensor]) -> Result<Option<Vec<ValueId>>, Fault> {
        if self.0.closed.get() {
            return Err(Fault::Invalid("its recording has ended".into()));
        }
        let mut out = Vec::with_capacity(inputs.len());
        for t in inputs {
            if !Rc::ptr_eq(&self.0, &t.scope.0) {
                return Err(Fault::Invalid("its tensors belong to two recordings".into()));
            }
            if t.value.is_none() {
                return Ok(None);
            }
            if !self.0.frames.borrow().contains(&t.frame) {
                return Err(Fault::Invalid("a tensor is used outside of the loop that made it; yield it".into()));
            }
            out.extend(self.visible(t));
        }
        Ok(Some(out))
    }

    /// The value of a handle here: within functions that were opened after it was made, a parameter of theirs.
    fn visible(&self, t: &Tensor) -> Option<ValueId> {
        let mut v = t.value?;
        let frames = self.0.frames.borrow();
        let at = |frame: u32| frames.iter().position(|f| *f == frame);
        for open in self.0.open.borrow_mut().iter_mut().filter(|open| at(open.frame) > at(t.frame)) {
            v = match open.captured.iter().find(|c| c.0.value == t.value) {
                Some(known) => known.1,
                None => {
                    let param = capture(self.0.builder.borrow_mut().program_mut(), open.id, v);
                    open.captured.push((t.clone(), param));
                    param
                }
            };
        }
        Some(v)
    }

    /// Records the body of a declared function, whose region the builder has open, and closes it.
    pub(crate) fn record_func(
        &self,
        id: FuncId,
        params: &[ValueId],
        body: impl FnOnce(Vec<Tensor>) -> Vec<Tensor>,
    ) -> Result<(), Fault> {
        let frame = self.0.next_frame.get();
        self.0.next_frame.set(frame + 1);
        self.0.frames.borrow_mut().push(frame);
        self.0.open.borrow_mut().push(OpenFunc { id, frame, captured: vec![], calls: vec![] });
        let results = body(self.handles(params));
        let results = self.values(&results.iter().collect::<Vec<_>>());
        self.0.frames.borrow_mut().pop();
        let open = self.0.open.borrow_mut().pop();
        let mut b = self.0.builder.borrow_mut();
        let (Ok(Some(results)), Some(open)) = (&results, open) else {
            b.end_region(&[]);
            return results.map(|_| ());
        };
        b.end_declared(id, results)?;
        // A call that was recorded before the last capture gets what came later.
        let inner: Vec<ValueId> = open.captured.iter().map(|c| c.1).collect();
        for n in open.calls {
            let node = &mut b.program_mut().nodes[n.index()];
            let known = node.operands.len() - params.len();
            node.operands.extend_from_slice(&inner[known..]);
        }
        let outer = open.captured.into_iter().map(|c| c.0).collect();
        self.0.captured.borrow_mut().insert(id, outer);
        Ok(())
    }

    /// Records a call of a function: with what it reads from outside.
    pub(crate) fn record_call(&self, id: FuncId, at: At, inputs: &[Tensor], results: usize) -> Vec<Tensor> {
        let outer = self.0.captured.borrow().get(&id).cloned();
        let inputs: Vec<&Tensor> = inputs.iter().chain(outer.iter().flatten()).collect();
        self.record_many("call", at, &inputs, results, |b, v| {
            let mut open = self.0.open.borrow_mut();
            let mut operands = v.to_vec();
            let last = open.len();
            if let Some((i, f)) = open.iter_mut().enumerate().find(|(_, f)| f.id == id) {
                if i + 1 != last {
                    return Err(Fault::Invalid("a function is called by one inside of it".into()));
                }
                operands.extend(f.captured.iter().map(|c| c.1));
            }
            let found = b.push(Op::Control(ControlOp::Call(id)), &operands, &[])?;
            let node = found.first().map(|v| b.program().values[v.index()].def);
            if let (Some(Def::Result(n, _)), Some(f)) = (node, open.last_mut())
                && f.id == id
                && !f.calls.contains(&n)
            {
                f.calls.push(n);
            }
            Ok(found)
        })
    }

    /// Records one operation.
    pub(crate) fn record(
        &self,
        op: &'static str,
        at: At,
        inputs: &[&Tensor],
        f: impl FnOnce(&mut Builder, &[ValueId]) -> Result<ValueId, Fault>,
    ) -> Tensor {
        self.record_many(op, at, inputs, 1, |b, v| Ok(vec![f(b, v)?])).pop().unwrap_or_else(|| self.nothing())
    }

    /// Records what gives `count` tensors.
    pub(crate) fn record_many(
        &self,
        op: &'static str,
        at: At,
        inputs: &[&Tensor],
        count: usize,
        f: impl FnOnce(&mut Builder, &[ValueId]) -> Result<Vec<ValueId>, Fault>,
    ) -> Vec<Tensor> {
        let nothing = || vec![self.nothing(); count];
        let recorded = match self.values(inputs) {
            Ok(Some(values)) => f(&mut self.0.builder.borrow_mut(), &values),
            Ok(None) => return nothing(),
            Err(fault) => Err(fault),
        };
        match recorded {
            Ok(values) => self.handles(&values),
            Err(fault) => {
                self.fail(fault.at(op, at));
                nothing()
            }
        }
    }

    pub(crate) fn handles(&self, values: &[ValueId]) -> Vec<Tensor> {
        let b = self.0.builder.borrow();
        let frame = self.frame();
        let handle = |v: &ValueId| match b.ty(*v) {
            Type::Tensor(ty) => Tensor { scope: self.clone(), value: Some(*v), ty: ty.clone(), frame },
            _ => self.nothing(),
        };
        values.iter().map(handle).collect()
    }

    /// Records an operation with a region for each of `bodies`, which get handles of their region's parameters. Yields `count`
    /// handles of nothing after an error.
    pub(crate) fn record_regions(
        &self,
        name: &'static str,
        at: At,
        op: Op,
        inputs: &[&Tensor],
        count: usize,
        bodies: Vec<Body<'_>>,
    ) -> Vec<Tensor> {
        let recorded = (|| -> Result<Option<Vec<ValueId>>, Fault> {
            let Some(values) = self.values(inputs)? else { return Ok(None) };
            let mut regions = vec![];
            for body in bodies {
                let Some(region) = self.record_body(&op, &values, &regions, body)? else { return Ok(None) };
                regions.push(region);
            }
            Ok(Some(self.0.builder.borrow_mut().push(op, &values, &regions)?))
        })();
        match recorded {
            Ok(Some(values)) => return self.handles(&values),
            Ok(None) => {}
            Err(fault) => self.fail(fault.at(name, at)),
        }
        vec![self.nothing(); count]
    }

    fn record_body(
        &self,
        op: &Op,
        operands: &[ValueId],
        before: &[RegionId],
        body: Body<'_>,
    ) -> Result<Option<RegionId>, Fault> {
        let params = {
            let mut b = self.0.builder.borrow_mut();
            let (types, columns) = b.region_entry(op, operands, before)?;
            b.begin_region(&types, columns)
        };
        let frame = self.0.next_frame.get();
        self.0.next_frame.set(frame + 1);
        self.0.frames.borrow_mut().push(frame);
        let results = body(self.handles(&params));
        let results = self.values(&results.iter().collect::<Vec<_>>());
        self.0.frames.borrow_mut().pop();
        let yields = results.as_ref().ok().and_then(|r| r.as_deref()).unwrap_or(&[]);
        let region = self.0.builder.borrow_mut().end_region(yields);
        Ok(results?.map(|_| region))
    }
}

/// A parameter of a function for a value from outside of it.
fn capture(p: &mut Program, f: FuncId, v: ValueId) -> ValueId {
    let body = p.func(f).body;
    let index = p.region(body).params.len() as u32;
    let ty = p.ty(v).clone();
    p.values.push(ValueData { ty, def: Def::Param(body, index) });
    let param = ValueId(p.values.len() as u32 - 1);
    p.regions[body.index()].params.push(param);
    param
}

/// What fills a region.
pub(crate) type Body<'a> = Box<dyn FnOnce(Vec<Tensor>) -> Vec<Tensor> + 'a>;

/// Name and type of an input of a function, written as `"x: f32[n, 9]"`: the element type (`bool`, `i32`, `i64`, `f32`,
/// `f64`) and the sizes. A name in the place of a size is a size that is known when the function runs; equal names are equal
/// sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    name: String,
    ty: String,
}

impl Spec {
    /// From a name and the text of a type.
    pub fn new(name: impl Into<String>, ty: impl Into<String>) -> Self {
        Self { name: name.into(), ty: ty.into() }
    }

    /// The spec of a tensor of these sizes.
    pub fn of(name: impl Into<String>, dtype: ScalarType, shape: &[usize]) -> Self {
        let sizes: Vec<String> = shape.iter().map(|n| n.to_string()).collect();
        Self::new(name, format!("{dtype}[{}]", sizes.join(", ")))
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the type; names of sizes become symbols of the program.
    fn read(&self, p: &mut Program, symbols: &mut HashMap<String, SymId>) -> Result<TensorType> {
        let wrong =
            |message: &str| Error::Spec { input: format!("{}: {}", self.name, self.ty), message: message.into() };
        if self.name.is_empty() {
            return Err(wrong("an input has a name and a type, as \"x: f32[n, 9]\""));
        }
        let (dtype, rest) = self.ty.trim().split_once('[').ok_or_else(|| wrong("a type is written as f32[n, 9]"))?;
        let sizes = rest.trim_end().strip_suffix(']').ok_or_else(|| wrong("a ] is missing"))?;
        let dtype = match dtype.trim() {
            "bool" => ScalarType::Bool,
            "i32" => ScalarType::I32,
            "i64" => ScalarType::I64,
            "f32" => ScalarType::F32,
            "f64" => ScalarType::F64,
            _ => return Err(wrong("tensors hold bool, i32, i64, f32 or f64")),
        };
        let mut shape = vec![];
        for size in sizes.split(',').map(str::trim).filter(|_| !sizes.trim().is_empty()) {
            let is_name = size.starts_with(|c: char| c.is_alphabetic() || c == '_')
                && size.chars().all(|c| c.is_alphanumeric() || c == '_');
            shape.push(match size.parse::<usize>() {
                Ok(n) => Dim::Const(n),
                Err(_) if is_name => Dim::Sym(*symbols.entry(size.to_string()).or_insert_with(|| p.new_symbol(size))),
                Err(_) => return Err(wrong("a size is a number or a name")),
            });
        }
        Ok(TensorType { dtype, shape })
    }
}

impl From<&str> for Spec {
    fn from(text: &str) -> Self {
        match text.split_once(':') {
            Some((name, ty)) => Self::new(name.trim(), ty.trim()),
            None => Self::new("", text),
        }
    }
}

impl From<String> for Spec {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<&Spec> for Spec {
    fn from(spec: &Spec) -> Self {
        spec.clone()
    }
}

/// What a staged closure may yield: a tensor, a tuple or a list of tensors.
pub trait IntoTensors {
    /// The tensors, in order.
    fn into_tensors(self) -> Vec<Tensor>;
}

impl IntoTensors for Tensor {
    fn into_tensors(self) -> Vec<Tensor> {
        vec![self]
    }
}

impl IntoTensors for Vec<Tensor> {
    fn into_tensors(self) -> Vec<Tensor> {
        self
    }
}

impl<const N: usize> IntoTensors for [Tensor; N] {
    fn into_tensors(self) -> Vec<Tensor> {
        self.into()
    }
}

impl<A: IntoTensors, B: IntoTensors> IntoTensors for (A, B) {
    fn into_tensors(self) -> Vec<Tensor> {
        let mut out = self.0.into_tensors();
        out.extend(self.1.into_tensors());
        out
    }
}

impl<A: IntoTensors, B: IntoTensors, C: IntoTensors> IntoTensors for (A, B, C) {
    fn into_tensors(self) -> Vec<Tensor> {
        ((self.0, self.1), self.2).into_tensors()
    }
}

/// Records a function: `body` gets a handle for each input and yields the results.
///
/// ```
/// use lantern::{stage, value};
/// use ndarray::array;
///
/// let f = stage("affine", ["x: f32[n, 2]", "w: f32[2]"], |t| (&t[0] * &t[1]).sum(1) + 1.0)?;
/// let y = f.interpret([value(array![[1f32, 2.0], [3.0, 4.0]]), value(array![10f32, 100.0])])?;
/// assert_eq!(y[0], value(array![211f32, 431.0]));
/// # Ok::<(), lantern::Error>(())
/// ```
///
/// # Errors
/// An input whose type does not read; the first error of an operation.
pub fn stage<S, O>(
    name: &str,
    inputs: impl IntoIterator<Item = S>,
    body: impl FnOnce(&[Tensor]) -> O,
) -> Result<Function>
where
    S: Into<Spec>,
    O: IntoTensors,
{
    let _span = tracing::debug_span!("stage", name).entered();
    let mut b = Builder::new();
    let mut symbols = HashMap::new();
    let mut ids = vec![];
    for spec in inputs {
        let spec: Spec = spec.into();
        let ty = spec.read(b.program_mut(), &mut symbols)?;
        if b.program().inputs.iter().any(|i| i.name == spec.name) {
            return Err(Error::Spec { input: spec.name, message: "two inputs have this name".into() });
        }
        ids.push(b.program_mut().new_input(spec.name, InputKind::Tensor(ty)));
    }
    b.begin_func(&[]);
    let mut values = vec![];
    for id in ids {
        values.push(b.input(id)?);
    }
    let scope = Scope::over(b);
    let handles = scope.handles(&values);
    let results = body(&handles).into_tensors();
    let results = scope.values(&results.iter().collect::<Vec<_>>());
    let results = results.map_err(|fault| fault.at("stage", Location::caller()));
    let mut b = scope.into_builder()?;
    let Some(results) = results? else {
        return Err(Error::Ir(ir::Error::Bug("an operation failed without an error".into())));
    };
    let f = b.end_func(copy::unique_name(b.program(), name), &results);
    let mut program = b.finish();
    program.entry = Some(f);
    program.result_names = (0..results.len()).map(|i| vec![format!("out{i}")]).collect();
    ir::graph::verify::verify(&program)?;
    Ok(Function(Arc::new(Staged { program, compiled: OnceLock::new() })))
}

/// A staged function: a program whose inputs and results are tensors. Cheap to clone.
#[derive(Clone)]
pub struct Function(Arc<Staged>);

struct Staged {
    program: Program,
    compiled: OnceLock<Executable>,
}

impl Function {
    /// The function that a program over tensors is: its inputs and the results of its entry.
    ///
    /// # Errors
    /// A program that does not verify, has no entry, or has inputs or results that are no tensors.
    pub fn from_program(program: Program) -> Result<Self> {
        ir::graph::verify::verify(&program)?;
        let entry = program.entry_region().ok_or_else(|| Error::Value("the program has no entry".into()))?;
        if let Some(input) = program.inputs.iter().find(|i| !matches!(i.kind, InputKind::Tensor(_))) {
            return Err(Error::Value(format!("the input \"{}\" is no tensor", input.name)));
        }
        if let Some(other) = entry.results.iter().find(|v| program.ty(**v).as_tensor().is_none()) {
            return Err(Error::Value(format!("the result {other} is no tensor")));
        }
        Ok(Function(Arc::new(Staged { program, compiled: OnceLock::new() })))
    }

    /// Reads the text that a function prints as.
    ///
    /// # Errors
    /// Text that is no program; what [`Function::from_program`] refuses.
    pub fn parse(text: &str) -> Result<Self> {
        Self::from_program(Program::parse(text)?)
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.0.program
    }

    /// Optimizes and compiles it, if that was not done before: [`Function::run`] compiles at its first call otherwise.
    ///
    /// # Errors
    /// What the compiler does not support yet.
    pub fn compile(&self) -> Result<&Executable> {
        if let Some(compiled) = self.0.compiled.get() {
            return Ok(compiled);
        }
        let _span = tracing::debug_span!("compile").entered();
        let mut program = self.0.program.clone();
        program.optimize(&OptOptions::default())?;
        let options = CompileOptions { threads: pool().threads(), ..CompileOptions::default() };
        let compiled = Executable::compile(Arc::new(program), &Inputs::new(), &options)?;
        Ok(self.0.compiled.get_or_init(|| compiled))
    }

    /// Runs it, compiled, on all CPUs.
    ///
    /// # Errors
    /// What [`Function::compile`] answers; arrays that do not fit the inputs; what the program raises.
    pub fn run(&self, inputs: impl IntoIterator<Item = TensorValue>) -> Result<Vec<TensorValue>> {
        self.run_on(inputs, &Resources::new(Arc::clone(pool()), None))
    }

    /// As [`Function::run`], on these threads and within this memory.
    ///
    /// # Errors
    /// As [`Function::run`]; a limit that was reached; a run that was stopped.
    pub fn run_on(
        &self,
        inputs: impl IntoIterator<Item = TensorValue>,
        resources: &Resources,
    ) -> Result<Vec<TensorValue>> {
        let compiled = self.compile()?;
        outputs(compiled.run(&self.bind(inputs)?, resources)?)
    }

    /// Names of the inputs, in order.
    pub fn inputs(&self) -> impl Iterator<Item = &str> {
        self.0.program.inputs.iter().map(|i| i.name.as_str())
    }

    /// Runs it by the reference interpreter: slow, for tests.
    ///
    /// # Errors
    /// Arrays that do not fit the inputs; what the program raises.
    pub fn interpret(&self, inputs: impl IntoIterator<Item = TensorValue>) -> Result<Vec<TensorValue>> {
        let inputs = self.bind(inputs)?;
        outputs(self.0.program.interpret(&inputs)?)
    }

    fn bind(&self, arrays: impl IntoIterator<Item = TensorValue>) -> Result<Inputs> {
        let mut inputs = Inputs::new();
        let mut names = self.0.program.inputs.iter();
        let mut given = 0;
        for array in arrays {
            given += 1;
            let Some(input) = names.next() else { continue };
            inputs = inputs.tensor(input.name.clone(), array);
        }
        if given != self.0.program.inputs.len() {
            return Err(Error::Value(format!("{given} arrays for {} inputs", self.0.program.inputs.len())));
        }
        Ok(inputs)
    }

    /// Records a call of this function: its operations are written once more, over `inputs`.
    #[track_caller]
    pub fn call(&self, scope: &Scope, inputs: &[Tensor]) -> Vec<Tensor> {
        let at = Location::caller();
        let results = self.0.program.entry_region().map_or(0, |r| r.results.len());
        let refs: Vec<&Tensor> = inputs.iter().collect();
        scope.record_many("call", at, &refs, results, |b, values| {
            copy::call(b, &self.0.program, values).map_err(Fault::from)
        })
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ir::text::print(&self.0.program))
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The threads that functions run on.
fn pool() -> &'static Arc<WorkerPool> {
    static POOL: OnceLock<Arc<WorkerPool>> = OnceLock::new();
    POOL.get_or_init(|| Arc::new(WorkerPool::with_all_cpus()))
}

fn outputs(outputs: ir::exec::Outputs) -> Result<Vec<TensorValue>> {
    let tensor = |o: ir::exec::Output| match o.datum {
        ir::exec::Datum::Tensor(t) => Ok(Arc::unwrap_or_clone(t)),
        _ => Err(Error::Ir(ir::Error::Bug("a function yielded what is no tensor".into()))),
    };
    outputs.list.into_iter().map(tensor).collect()
}

/// The size of a dimension as an `i64[]` value where the builder stands; equal sizes in a region are one value.
pub(crate) fn dim_value(b: &mut Builder, dim: &Dim) -> ir::Result<ValueId> {
    let mut both = |x: &Dim, y: &Dim, op: ScalarOp| -> ir::Result<ValueId> {
        let (x, y) = (dim_value(b, x)?, dim_value(b, y)?);
        Ok(b.map(&[x, y], |b, v| Ok(vec![b.scalar(op, v)?]))?[0])
    };
    match dim {
        Dim::Const(n) => constant(b, TensorData::I64(vec![*n as i64])),
        Dim::Sym(_) => {
            // As many ones as the symbol says, added up.
            let one = constant(b, TensorData::I64(vec![1]))?;
            let ones = Move::Broadcast { shape: vec![dim.clone()], dims: vec![] };
            let ones = b.tensor(TensorOp::View(vec![ones]), &[one])?;
            b.tensor(TensorOp::Reduce { reducer: Reducer::Sum, axes: vec![0] }, &[ones])
        }
        Dim::Add(x, y) => both(x, y, ScalarOp::Add),
        Dim::Mul(x, y) => both(x, y, ScalarOp::Mul),
        Dim::FloorDiv(x, y) => both(x, y, ScalarOp::Div),
    }
}

/// A rank-0 constant.
pub(crate) fn constant(b: &mut Builder, data: TensorData) -> ir::Result<ValueId> {
    b.tensor(TensorOp::Const(Arc::new(TensorValue { shape: vec![], data })), &[])
}

/// A tensor of one number.
pub(crate) fn filled(b: &mut Builder, ty: &TensorType, number: f64) -> ir::Result<ValueId> {
    let data = match ty.dtype {
        ScalarType::F32 => TensorData::F32(vec![number as f32]),
        ScalarType::F64 => TensorData::F64(vec![number]),
        ScalarType::I32 => TensorData::I32(vec![number as i32]),
        ScalarType::I64 => TensorData::I64(vec![number as i64]),
        ScalarType::Bool => TensorData::Bool(vec![number != 0.0]),
        ty => return Err(ir::Error::Type(format!("a tensor cannot hold {ty}"))),
    };
    let one = constant(b, data)?;
    if ty.shape.is_empty() {
        return Ok(one);
    }
    b.tensor(TensorOp::View(vec![Move::Broadcast { shape: ty.shape.clone(), dims: vec![] }]), &[one])
}
