//! Running plans: stages in order, each over the worker pool.
//!
//! What holds:
//! - An [`Executable`] is shared and unchanging; everything of a run lives in `Run`. Runs may overlap.
//! - A source is cut into ranges by its number of rows alone. Each range has its own states, and states are put together in
//!   range order: a result does not depend on threads or timing.
//! - What a slot of the context points to lives until the last stage has run that reads it. Texts live until the run ends.
//! - The executable was compiled for given tables (their encodings, dictionaries and bounds); running it on others is refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::buffer::{RowList, TextArena};
use runtime::column::{Column, ColumnStats, Table, TextView};
use runtime::join_table::JoinTable;
use runtime::kernels::like::LikePattern;
use runtime::pool::{MemoryPool, QueryMemory, Reservation};
use runtime::scheduler::WorkerPool;
use runtime::trap::{CancelToken, WorkerBlock};

use crate::codegen::{self, Backend, CompiledModule, CpuBackend, Entry};
use crate::entity::{ColumnId, InputId, NodeId, SymId, ValueId};
use crate::error::{Error, Result};
use crate::graph::{InputKind, Op, Program};
use crate::kernel::Module;
use crate::lower::context::{Context, Slot};
use crate::lower::rel::{self, Lowered};
use crate::lower::row::Inputs as LowerInputs;
use crate::lower::scalar::HostOp;
use crate::lower::tensor::{TensorProgram, TileProgram};
use crate::plan::split::{InputInfo, split};
use crate::plan::{Output as PlanOutput, Plan, Seal, Source, Stage, StateId};
use crate::value::TensorValue;

use super::batch::Batch;
use super::convert;
use super::pipeline::Part;
use super::{Bound, BoundInput, Datum, Inputs, Outputs};

/// Results of up to so many rows become columns on the thread that asks for them.
const FEW_ROWS: usize = 4 << 10;

/// How far a loop over batches has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The epoch, from 0.
    pub epoch: usize,
    /// Epochs in all.
    pub epochs: usize,
    /// Rows of this epoch that were seen.
    pub rows: usize,
    /// Rows of an epoch.
    pub total: usize,
    /// The mean of the first metric over these rows, if there is one.
    pub loss: Option<f64>,
}

/// Called some times in each epoch of a loop over batches, on the thread that runs it.
pub type ProgressHook = Arc<dyn Fn(Progress) + Send + Sync>;

/// Programs of fewer nodes are compiled on the caller's stack.
const SMALL_PROGRAM: usize = 200;

/// The stack for compiling larger ones: address space, of which only what is used is touched.
const LARGE_STACK: usize = 256 << 20;

/// What a run draws on.
#[derive(Clone)]
pub struct Resources {
    /// Threads.
    pub pool: Arc<WorkerPool>,
    /// The run's account of memory.
    pub memory: Arc<QueryMemory>,
    /// Stops the run.
    pub cancel: CancelToken,
    /// Rows of a morsel; ranges are multiples of it.
    pub morsel_rows: usize,
    /// Told of the progress of loops over batches.
    pub progress: Option<ProgressHook>,
    /// The tables of the results are read once: their columns need neither statistics nor an encoding that makes scans fast.
    pub read_once: bool,
}

impl Resources {
    /// On this pool, with a limit in bytes (none: the process's).
    pub fn new(pool: Arc<WorkerPool>, memory_limit: Option<usize>) -> Self {
        let memory = match memory_limit {
            Some(limit) => QueryMemory::new(MemoryPool::process(), limit),
            None => QueryMemory::unlimited(),
        };
        Self {
            pool,
            memory,
            cancel: CancelToken::new(),
            morsel_rows: runtime::scheduler::MORSEL_ROWS,
            progress: None,
            read_once: false,
        }
    }
}

/// How to compile.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// Threads that compile.
    pub threads: usize,
    /// Keep the backend's input and the machine code as text.
    pub keep_text: bool,
    /// Rules of the plan ([`crate::plan::border::RULES`]) that are switched off, by name; other names mean nothing here.
    pub off: Vec<String>,
}

impl Default for CompileOptions {
    /// One thread, no text; off is what `IR_OFF` names.
    fn default() -> Self {
        Self { threads: 1, keep_text: false, off: crate::opt::switched_off() }
    }
}

/// What a stage took.
#[derive(Clone, Debug)]
pub struct StageTime {
    /// The stage, as the plan prints it.
    pub stage: String,
    /// Rows that went in.
    pub rows: usize,
    /// Those of them that were skipped by blocks: the statistics of their zones rule them out.
    pub skipped: usize,
    /// Time.
    pub time: Duration,
}

/// A compiled program.
pub struct Executable {
    pub(super) program: Arc<Program>,
    pub(super) plan: Plan,
    pub(super) module: Module,
    pub(super) code: CompiledModule,
    pub(super) context: Context,
    /// By stage: the pipeline's entry and its states.
    pub(super) pipelines: HashMap<usize, (Entry, Lowered)>,
    pub(super) merges: HashMap<StateId, Entry>,
    pub(super) tensors: HashMap<usize, TensorProgram>,
    pub(super) tiles: HashMap<NodeId, TileProgram>,
    /// The tables that the code was made for.
    pub(super) tables: HashMap<InputId, TableInput>,
    /// Results of expressions over dictionaries.
    pub(super) maps: HashMap<Slot, convert::Mapped>,
    /// Text views of long literals.
    pub(super) texts: HashMap<Arc<str>, Box<TextView>>,
    /// Compiled patterns.
    likes: HashMap<Arc<str>, Box<LikePattern>>,
    /// What host calls evaluate.
    pub(super) hosts: HashMap<HostOp, Box<convert::Host>>,
    pub(super) compile_time: Duration,
}

/// The columns of a table input, in the program's order, and the number of rows.
pub(super) type TableInput = (Vec<Arc<Column>>, usize);

/// The tensors of a run.
pub(super) type Values = HashMap<ValueId, Arc<TensorValue>>;

/// The tables of a compilation.
struct Tables<'a> {
    tables: &'a HashMap<InputId, TableInput>,
}

impl InputInfo for Tables<'_> {
    fn codes(&self, input: InputId, source: u32) -> Option<usize> {
        self.tables.get(&input).and_then(|t| t.0[source as usize].dictionary()).map(|d| d.len())
    }

    fn rows(&self, input: InputId) -> Option<usize> {
        self.tables.get(&input).map(|t| t.1)
    }

    fn stats(&self, input: InputId, source: u32) -> Option<&ColumnStats> {
        self.tables.get(&input).and_then(|t| t.0.get(source as usize)).map(|c| c.stats())
    }
}

impl LowerInputs for Tables<'_> {
    fn column(&self, input: InputId, source: u32) -> Result<Arc<Column>> {
        let table = self.tables.get(&input).ok_or_else(|| Error::Input(format!("{input} was not given")))?;
        Ok(Arc::clone(&table.0[source as usize]))
    }
}

/// The tables among bound inputs.
fn tables_of(bound: &Bound) -> HashMap<InputId, TableInput> {
    let tables = bound.inputs.iter().enumerate().filter_map(|(i, input)| match input {
        BoundInput::Table { columns, rows } => Some((InputId(i as u32), (columns.clone(), *rows))),
        BoundInput::Tensor(_) | BoundInput::Scalar(_) => None,
    });
    tables.collect()
}

impl Executable {
    /// Compiles an optimized program for these inputs. A large program is compiled on a stack of its own: lowering follows
    /// expressions as deep as they go.
    pub fn compile(program: Arc<Program>, inputs: &Inputs, options: &CompileOptions) -> Result<Self> {
        if program.nodes.len() < SMALL_PROGRAM {
            return Self::compile_here(program, inputs, options);
        }
        std::thread::scope(|scope| {
            let large = std::thread::Builder::new().stack_size(LARGE_STACK);
            let thread = large.spawn_scoped(scope, || Self::compile_here(program, inputs, options));
            let thread = thread.map_err(|e| Error::Bug(format!("no thread to compile on: {e}")))?;
            thread.join().map_err(|_| Error::Bug("compilation panicked".into()))?
        })
    }

    fn compile_here(program: Arc<Program>, inputs: &Inputs, options: &CompileOptions) -> Result<Self> {
        let start = Instant::now();
        let p = &*program;
        // Only tables have a say in the code: without them, inputs may come with the run.
        let has_tables = p.inputs.iter().any(|i| matches!(i.kind, InputKind::Table(_)));
        let tables = if has_tables { tables_of(&inputs.bind(p)?) } else { HashMap::new() };
        let info = Tables { tables: &tables };
        let plan = tracing::debug_span!("plan").in_scope(|| split(p, &info, &options.off))?;
        let mut context = Context::default();
        let mut module = Module::new();
        let mut lowered = HashMap::new();
        let mut merges = HashMap::new();
        let mut tensors = HashMap::new();
        let mut tiles = HashMap::new();
        let span = tracing::debug_span!("lower").entered();
        for (i, stage) in plan.stages.iter().enumerate() {
            match stage {
                Stage::Pipeline(pipeline) => {
                    let name = format!("pipeline{i}");
                    lowered.insert(i, rel::pipeline(p, &plan, pipeline, &name, &info, &mut context, &mut module)?);
                    for step in &pipeline.steps {
                        if let crate::plan::Step::Apply { node, .. } = step {
                            let name = format!("model{}", node.0);
                            tiles.insert(*node, TileProgram::lower(p, *node, &name, &mut module)?);
                        }
                    }
                }
                Stage::Seal { state, seal: Seal::Group } => {
                    let name = format!("merge{}", state.0);
                    merges.insert(*state, rel::merge(p, &plan, *state, &name, &info, &mut context, &mut module)?);
                }
                Stage::Seal { .. } | Stage::Loop { .. } => {}
                Stage::Tensor { nodes, inputs, outputs } => {
                    let name = format!("tensor{i}");
                    tensors.insert(i, TensorProgram::lower(p, nodes, inputs, outputs, &name, &mut module)?);
                }
            }
        }
        drop(span);
        let options = codegen::Options {
            threads: options.threads.max(1),
            keep_text: options.keep_text,
            ..codegen::Options::default()
        };
        let backend = CpuBackend::shared().map_err(|e| Error::Bug(e.to_string()))?;
        let code = tracing::debug_span!("codegen")
            .in_scope(|| backend.compile(&module, &options))
            .map_err(|e| Error::Bug(e.to_string()))?;
        let mut maps = HashMap::new();
        let mut texts = HashMap::new();
        let mut likes = HashMap::new();
        let mut hosts = HashMap::new();
        for slot in context.slots() {
            match slot {
                Slot::DictionaryMap(input, source, v) => {
                    let column = info.column(*input, *source)?;
                    maps.insert(slot.clone(), convert::map_dictionary(p, *v, &column)?);
                }
                Slot::DomainMap(v, axes) => {
                    maps.insert(slot.clone(), convert::map_domain(p, *v, axes)?);
                }
                Slot::CodeMap { from, to } => {
                    let (from, to) = (info.column(from.0, from.1)?, info.column(to.0, to.1)?);
                    maps.insert(slot.clone(), convert::map_codes(&from, &to)?);
                }
                Slot::Text(text) => {
                    // SAFETY: the bytes belong to the `Arc`, which the executable keeps as the key.
                    let view = unsafe { TextView::from_raw_bytes(text.as_ptr(), text.len()) };
                    texts.insert(Arc::clone(text), Box::new(view));
                }
                Slot::Like(pattern) => {
                    let compiled = LikePattern::new(pattern.as_bytes(), Some('\\'), false);
                    likes.insert(Arc::clone(pattern), Box::new(compiled));
                }
                Slot::Host(op) => {
                    hosts.insert(op.clone(), convert::Host::new(op.clone()));
                }
                _ => {}
            }
        }
        let pipelines = lowered.into_iter().map(|(i, l)| (i, (code.entry(l.function.id()), l))).collect();
        let merges = merges.into_iter().map(|(s, f)| (s, code.entry(f.id()))).collect();
        for t in tensors.values_mut() {
            t.link(&code);
        }
        for t in tiles.values_mut() {
            t.link(&code);
        }
        Ok(Self {
            program,
            plan,
            module,
            code,
            context,
            pipelines,
            merges,
            tensors,
            tiles,
            tables,
            maps,
            texts,
            likes,
            hosts,
            compile_time: start.elapsed(),
        })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The kernels.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// The machine code.
    pub fn code(&self) -> &CompiledModule {
        &self.code
    }

    /// Time of planning, lowering and code generation.
    pub fn compile_time(&self) -> Duration {
        self.compile_time
    }

    /// Runs the program.
    pub fn run(&self, inputs: &Inputs, resources: &Resources) -> Result<Outputs> {
        self.run_timed(inputs, resources).map(|(outputs, _)| outputs)
    }

    /// Runs the program, and tells what each stage took.
    pub fn run_timed(&self, inputs: &Inputs, resources: &Resources) -> Result<(Outputs, Vec<StageTime>)> {
        let bound = inputs.bind(&self.program)?;
        let tables = tables_of(&bound);
        // What a run reads counts as long as it runs; what it gives until it is handed over.
        let read = tables.values().flat_map(|t| &t.0).map(|c| c.bytes()).sum();
        let _read = reserve(&self.program, resources, read)?;
        for (id, table) in &self.tables {
            let same = tables.get(id).is_some_and(|t| {
                t.1 == table.1 && t.0.len() == table.0.len() && t.0.iter().zip(&table.0).all(|(a, b)| Arc::ptr_eq(a, b))
            });
            if !same {
                let name = &self.program.input(*id).name;
                return Err(Error::Input(format!("table {name} is not the one that the program was compiled for")));
            }
        }
        let mut run = Run {
            exe: self,
            resources,
            params: HashMap::new(),
            values: HashMap::new(),
            dims: HashMap::new(),
            states: (0..self.plan.states.len()).map(|_| StateData::Filling(vec![])).collect(),
            batches: HashMap::new(),
            skipped: 0,
            kept: vec![],
            texts: vec![],
            arenas: vec![],
            last_uses: self.plan.last_uses(),
        };
        run.bind_values(&bound);
        let time = |stage: &Stage| StageTime { stage: stage.to_string(), rows: 0, skipped: 0, time: Duration::ZERO };
        let mut times: Vec<StageTime> = self.plan.stages.iter().map(time).collect();
        run.stages(0..self.plan.stages.len(), &mut times)?;
        let outputs = run.outputs()?;
        Ok((outputs, times))
    }
}

/// A state during a run.
pub(super) enum StateData {
    /// Parts by range; for tensors the groups of a range stand one after the other.
    Filling(Vec<Part>),
    Rows(RowList),
    Join(JoinTable),
    /// Tensors are values of the run; of other states the last reader has run.
    Done,
}

/// A run.
pub(super) struct Run<'a> {
    pub(super) exe: &'a Executable,
    pub(super) resources: &'a Resources,
    /// Scalar parameters as the code reads them.
    params: HashMap<InputId, convert::Param>,
    /// Tensors.
    pub(super) values: Values,
    /// Sizes of symbolic dimensions.
    pub(super) dims: HashMap<SymId, usize>,
    pub(super) states: Vec<StateData>,
    /// The memory of tensors that are being filled, by group.
    pub(super) batches: HashMap<StateId, Vec<Batch>>,
    /// Rows that the stage skipped.
    pub(super) skipped: usize,
    /// Worker blocks: their texts are in use until the run ends.
    pub(super) kept: Vec<WorkerBlock>,
    /// Texts of literals in states.
    pub(super) texts: Vec<Arc<str>>,
    /// For each stage the states that nobody needs after it.
    last_uses: Vec<Vec<StateId>>,
    /// Texts of recursions and windows.
    pub(super) arenas: Vec<TextArena>,
}

impl Run<'_> {
    fn bind_values(&mut self, bound: &Bound) {
        let p = &*self.exe.program;
        for (i, n) in bound.symbols.iter().enumerate() {
            if let Some(n) = n {
                self.dims.insert(SymId(i as u32), *n);
            }
        }
        for (i, input) in bound.inputs.iter().enumerate() {
            let id = InputId(i as u32);
            match input {
                BoundInput::Table { .. } => {}
                BoundInput::Tensor(t) => {
                    for node in p.nodes.iter().filter(|n| n.op == Op::Input(id)) {
                        self.values.insert(node.results[0], Arc::clone(t));
                    }
                }
                BoundInput::Scalar(v) => {
                    self.params.insert(id, convert::Param::new(v));
                }
            }
        }
    }

    /// Runs stages in order, a loop with its body; `times` has an entry for each stage of the plan.
    pub(super) fn stages(&mut self, range: std::ops::Range<usize>, times: &mut [StageTime]) -> Result<()> {
        let plan = &self.exe.plan;
        let mut i = range.start;
        while i < range.end {
            let start = Instant::now();
            let (rows, next) = match &plan.stages[i] {
                Stage::Loop { body, .. } => (self.recursion(i, times)?, i + 1 + body),
                stage => (self.stage(i, stage)?, i + 1),
            };
            for state in &self.last_uses[i] {
                self.states[state.index()] = StateData::Done;
            }
            let time = &mut times[i];
            time.rows += rows;
            time.skipped += std::mem::take(&mut self.skipped);
            time.time += start.elapsed();
            i = next;
        }
        Ok(())
    }

    /// Runs a stage; the number of rows that went in.
    fn stage(&mut self, i: usize, stage: &Stage) -> Result<usize> {
        self.resources.cancel.check().map_err(|t| self.trap(t))?;
        match stage {
            Stage::Pipeline(pipeline) => self.pipeline(i, pipeline),
            Stage::Seal { state, seal } => self.seal(*state, seal),
            Stage::Loop { .. } => Err(Error::Bug("a loop runs with its body".into())),
            Stage::Tensor { .. } => {
                let program = &self.exe.tensors[&i];
                program.run(&mut self.values, &mut self.dims, self.resources)?;
                Ok(0)
            }
        }
    }

    pub(super) fn source_rows(&self, source: &Source) -> Result<usize> {
        match source {
            Source::Scan { input, .. } => Ok(self.exe.tables[input].1),
            Source::State(state) => match &self.states[state.index()] {
                StateData::Rows(rows) => Ok(rows.len()),
                _ => Err(Error::Bug(format!("{state} is read before it is sealed"))),
            },
            Source::Tensors(node) => {
                let v = self.exe.program.node(*node).operands[0];
                let t = self.values.get(&v).ok_or_else(|| Error::Bug(format!("{v} was not made")))?;
                Ok(t.shape.first().copied().unwrap_or(1))
            }
        }
    }

    /// The context's slots for a stage.
    pub(super) fn context(&self) -> Vec<u64> {
        let exe = self.exe;
        let slots = exe.context.slots().iter().map(|slot| match slot {
            Slot::ColumnData(input, source) => address(exe.tables[input].0[*source as usize].data_ptr()),
            Slot::ColumnValid(input, source) => {
                exe.tables[input].0[*source as usize].validity().map_or(0, |v| address(v.as_ptr()))
            }
            Slot::Dictionary(input, source) => {
                exe.tables[input].0[*source as usize].dictionary().map_or(0, |d| address(d.views().as_ptr()))
            }
            Slot::DictionaryMap(..) | Slot::DomainMap(..) | Slot::CodeMap { .. } => address(exe.maps[slot].as_ptr()),
            Slot::Text(text) => address(&raw const *exe.texts[text]),
            Slot::Like(pattern) => address(&raw const *exe.likes[pattern]),
            Slot::Host(op) => address(&raw const *exe.hosts[op]),
            Slot::Param(input) => self.params.get(input).map_or(0, |p| address(p.as_ptr())),
            Slot::Rows(state) => match &self.states[state.index()] {
                StateData::Rows(rows) => address(rows.rows().as_ptr()),
                _ => 0,
            },
            Slot::JoinTable(state) => match &self.states[state.index()] {
                StateData::Join(table) => address(table.as_ptr()),
                _ => 0,
            },
            Slot::TensorData(node, operand) => {
                let v = exe.program.node(*node).operands[*operand as usize];
                self.values.get(&v).map_or(0, |t| address(convert::tensor_ptr(t)))
            }
        });
        slots.collect()
    }

    /// A run-time error with its place.
    pub(super) fn trap(&self, t: runtime::trap::Trap) -> Error {
        convert::trap(&self.exe.program.columns, &self.resources.memory, t)
    }

    fn outputs(&mut self) -> Result<Outputs> {
        let p = &*self.exe.program;
        let mut outputs = Outputs::default();
        let mut given = vec![];
        for (i, o) in self.exe.plan.outputs.iter().enumerate() {
            let names = p.result_names.get(i);
            match o {
                PlanOutput::Rows { state, columns } => {
                    let StateData::Rows(rows) = &self.states[state.index()] else {
                        return Err(Error::Bug(format!("{state} is no result")));
                    };
                    let layout = &self.exe.plan.state(*state).layout;
                    let fields = columns.iter().map(|id| {
                        let field = layout.fields.iter().find(|f| f.column == Some(*id));
                        field.ok_or_else(|| Error::Bug(format!("{id} is not in {state}")))
                    });
                    let fields: Vec<_> = fields.collect::<Result<_>>()?;
                    for field in &fields {
                        let bytes = rows.len().saturating_mul(convert::runtime_field(field).kind.bytes());
                        given.push(reserve(p, self.resources, bytes)?);
                    }
                    let read_once = self.resources.read_once;
                    let column =
                        |j: usize| convert::column_of_rows(rows.rows(), fields[j], &self.exe.tables, read_once);
                    let made: Vec<Result<Column>> = if rows.len() <= FEW_ROWS {
                        (0..fields.len()).map(column).collect()
                    } else {
                        let made = self.resources.pool.map(fields.len(), |j, _| Ok(column(j)));
                        made.map_err(|t| self.trap(t))?
                    };
                    let made = made.into_iter().map(|c| c.map(Arc::new)).collect::<Result<Vec<_>>>()?;
                    outputs.list.push(table_of(p, names, columns, made, rows.len()));
                }
                PlanOutput::Columns { input, columns } => {
                    let (of_input, rows) = &self.exe.tables[input];
                    let made = columns.iter().map(|(source, _)| Arc::clone(&of_input[*source as usize])).collect();
                    let ids: Vec<ColumnId> = columns.iter().map(|(_, id)| *id).collect();
                    outputs.list.push(table_of(p, names, &ids, made, *rows));
                }
                PlanOutput::Tensor(v) => {
                    let t = self.values.get(v).ok_or_else(|| Error::Bug(format!("{v} was not made")))?;
                    let names = names.cloned().unwrap_or_default();
                    outputs.list.push(super::Output { names, datum: Datum::Tensor(Arc::clone(t)) });
                }
            }
        }
        Ok(outputs)
    }
}

/// A result of these columns, under the names that the program gives it.
fn table_of(
    p: &Program,
    names: Option<&Vec<String>>,
    ids: &[ColumnId],
    columns: Vec<Arc<Column>>,
    rows: usize,
) -> super::Output {
    let name = |(j, id): (usize, &ColumnId)| {
        let given = names.and_then(|n| n.get(j)).cloned();
        given.unwrap_or_else(|| p.columns[id.index()].name.clone())
    };
    let names: Vec<String> = ids.iter().enumerate().map(name).collect();
    let table = Table::new(names.iter().cloned().zip(columns).collect(), rows);
    super::Output { names, datum: Datum::Table(Arc::new(table)) }
}

/// Counts bytes that are held outside of the pool against the run's limit.
fn reserve(p: &Program, resources: &Resources, bytes: usize) -> Result<Reservation> {
    let reserved = resources.memory.reserve(bytes);
    reserved.map_err(|e| convert::trap(&p.columns, &resources.memory, e.into()))
}

fn address<T>(p: *const T) -> u64 {
    p.expose_provenance() as u64
}
