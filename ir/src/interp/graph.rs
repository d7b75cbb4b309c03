//! The reference interpreter of the graph level: what every operation means, written for clarity.
//!
//! It shares no code with lowering: scalars go through the scalar table's `eval`, reducers through their rows, everything else
//! is here. Rows are evaluated one after the other, tensors element by element.
//!
//! What holds:
//! - A region's nodes are evaluated in order, each time the region is run; an `if` runs the chosen region only.
//! - While a row region runs, `columns` says for each visible column where its values are and which cursor names the row.
//! - Symbols have the sizes that the nearest binding gave them.

mod attend;
mod control;
mod rel;
mod tensor;
mod window;

use std::sync::Arc;

use smallvec::SmallVec;

use crate::entity::{ColumnId, FuncId, NodeId, RegionId, SymId, ValueId};
use crate::error::{Error, Result, Trap, TrapKind};
use crate::exec::{Bound, BoundInput, Datum, Inputs, Output, Outputs};
use crate::graph::bridge::TensorColumns;
use crate::graph::{BridgeOp, Def, Node, Op, Program};
use crate::scalar::{self, ScalarOp};
use crate::stack::StackRoom;
use crate::types::{Dim, ScalarType, TableType, Type};
use crate::value::{TensorData, TensorValue, Value};
use rel::Table;

/// Calls nest no deeper.
pub const MAX_DEPTH: u32 = runtime::trap::DEFAULT_DEPTH_LIMIT as u32;
/// The interpreter's own stack: a call of the program takes several of ours.
const STACK: usize = 256 << 20;
/// What calls of the program may use of it.
const CALL_STACK: usize = STACK - (32 << 20);
/// No tensor has more elements.
const MAX_ELEMENTS: usize = 1 << 28;

/// Runs a program's entry function.
///
/// # Errors
/// Inputs that do not fit; what the program raises, with its place.
pub fn interpret(p: &Program, inputs: &Inputs) -> Result<Outputs> {
    let bound = inputs.bind(p)?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("interpreter".into()).stack_size(STACK);
        let run = thread.spawn_scoped(scope, || Machine::new(p, bound).run());
        let run = run.map_err(|e| Error::Bug(format!("no thread for the interpreter: {e}")))?;
        run.join().unwrap_or_else(|_| Err(Error::Bug("the interpreter panicked".into())))
    })
}

/// What a value is while the program runs.
#[derive(Clone, Debug, Default)]
enum Item {
    #[default]
    Empty,
    Scalar(Value),
    Tensor(Arc<TensorValue>),
    Table(Arc<Table>),
    Tape(control::Tape),
    /// A sum under way.
    Acc(Arc<TensorValue>),
}

/// What is looked up once for each node.
#[derive(Default)]
struct Prepared {
    operands: SmallVec<[u32; 3]>,
    results: SmallVec<[u32; 1]>,
    /// For scalar operations: the operands' types and the result's.
    types: SmallVec<[ScalarType; 3]>,
    out: Option<ScalarType>,
}

struct Machine<'p> {
    p: &'p Program,
    inputs: Bound,
    prepared: Vec<Prepared>,
    /// Where a value stands in its function's frame.
    slots: Vec<u32>,
    frame_sizes: Vec<usize>,
    frame: Vec<Item>,
    symbols: Vec<Option<usize>>,
    columns: Vec<Option<(Arc<Vec<Value>>, usize)>>,
    cursors: Vec<usize>,
    depth: u32,
    stack: StackRoom,
}

fn bug<T>(message: &str) -> Result<T> {
    Err(Error::Bug(format!("the interpreter met {message}")))
}

fn trap<T>(kind: TrapKind) -> Result<T> {
    Err(Error::Trap(kind.into()))
}

impl<'p> Machine<'p> {
    fn new(p: &'p Program, inputs: Bound) -> Self {
        let mut slots = vec![0; p.values.len()];
        let mut frame_sizes = vec![0; p.funcs.len()];
        for (f, size) in p.funcs.iter().zip(&mut frame_sizes) {
            number(p, f.body, &mut slots, size);
        }
        let prepared = p.nodes.iter().map(|node| prepare(p, node, &slots)).collect();
        let symbols = inputs.symbols.clone();
        let columns = vec![None; p.columns.len()];
        let stack = StackRoom::here(CALL_STACK);
        Self {
            p,
            inputs,
            prepared,
            slots,
            frame_sizes,
            frame: vec![],
            symbols,
            columns,
            cursors: vec![],
            depth: 0,
            stack,
        }
    }

    fn run(mut self) -> Result<Outputs> {
        let Some(entry) = self.p.entry else { return bug("a program without an entry") };
        let results = self.call(entry, vec![])?;
        let region = self.p.region(self.p.func(entry).body);
        let mut list = Vec::new();
        for (i, (item, v)) in results.into_iter().zip(&region.results).enumerate() {
            let names = self.p.result_names.get(i).cloned().unwrap_or_default();
            let datum = match (item, self.p.ty(*v)) {
                (Item::Table(t), Type::Table(ty)) => Datum::Table(Arc::new(t.to_runtime(ty, &names)?)),
                (Item::Tensor(t), Type::Tensor(_)) => Datum::Tensor(t),
                (Item::Scalar(v), Type::Scalar(_)) => Datum::Scalar(v),
                _ => return bug("a result of another kind than its type"),
            };
            list.push(Output { names, datum });
        }
        Ok(Outputs { list })
    }

    fn call(&mut self, f: FuncId, arguments: Vec<Item>) -> Result<Vec<Item>> {
        if self.depth >= MAX_DEPTH || self.stack.is_used() {
            return trap(TrapKind::RecursionDepth(MAX_DEPTH));
        }
        self.depth += 1;
        let frame = vec![Item::Empty; self.frame_sizes[f.index()]];
        let caller = std::mem::replace(&mut self.frame, frame);
        let body = self.p.func(f).body;
        let done = self.run_region(body, arguments);
        let results = done.and_then(|()| self.results(body));
        self.frame = caller;
        self.depth -= 1;
        results
    }

    fn run_region(&mut self, region: RegionId, params: Vec<Item>) -> Result<()> {
        let p = self.p;
        for (v, item) in p.region(region).params.iter().zip(params) {
            self.frame[self.slots[v.index()] as usize] = item;
        }
        for &n in &p.region(region).nodes {
            self.node(n)?;
        }
        Ok(())
    }

    fn results(&self, region: RegionId) -> Result<Vec<Item>> {
        self.p.region(region).results.iter().map(|v| self.item(*v).cloned()).collect()
    }

    fn item(&self, v: ValueId) -> Result<&Item> {
        match &self.frame[self.slots[v.index()] as usize] {
            Item::Empty => bug("a value before its definition"),
            item => Ok(item),
        }
    }

    fn scalar(&self, v: ValueId) -> Result<&Value> {
        match self.item(v)? {
            Item::Scalar(v) => Ok(v),
            _ => bug("something else where a scalar belongs"),
        }
    }

    fn tensor(&self, v: ValueId) -> Result<Arc<TensorValue>> {
        match self.item(v)? {
            Item::Tensor(t) => Ok(t.clone()),
            _ => bug("something else where a tensor belongs"),
        }
    }

    fn table(&self, v: ValueId) -> Result<Arc<Table>> {
        match self.item(v)? {
            Item::Table(t) => Ok(t.clone()),
            _ => bug("something else where a table belongs"),
        }
    }

    fn node(&mut self, n: NodeId) -> Result<()> {
        let node = self.p.node(n);
        self.evaluate(n, node).map_err(|e| match e {
            Error::Trap(Trap { kind, place: None }) => Error::Trap(Trap { kind, place: node.place }),
            e => e,
        })
    }

    fn evaluate(&mut self, n: NodeId, node: &Node) -> Result<()> {
        let item = match &node.op {
            Op::Scalar(op) => Item::Scalar(self.scalar_op(n, *op)?),
            Op::Literal(v, _) => Item::Scalar(v.clone()),
            Op::Col(id) => Item::Scalar(self.col(*id)?),
            Op::Input(id) => match &self.inputs.inputs[id.index()] {
                BoundInput::Tensor(t) => Item::Tensor(t.clone()),
                BoundInput::Scalar(v) => Item::Scalar(v.clone()),
                BoundInput::Table { .. } => return bug("a table read as a value"),
            },
            Op::Rel(op) => Item::Table(Arc::new(self.rel(op, node)?)),
            Op::Tensor(op) => {
                let results = self.tensor_op(op, node)?;
                return self.set_results(n, results.into_iter().map(|t| Item::Tensor(Arc::new(t))).collect());
            }
            Op::Bridge(op) => {
                let results = self.bridge(op, node)?;
                return self.set_results(n, results);
            }
            Op::Control(op) => {
                let results = self.control(op, node)?;
                return self.set_results(n, results);
            }
        };
        self.frame[self.prepared[n.index()].results[0] as usize] = item;
        Ok(())
    }

    fn set_results(&mut self, n: NodeId, items: Vec<Item>) -> Result<()> {
        let slots = &self.prepared[n.index()].results;
        if slots.len() != items.len() {
            return bug("another number of results");
        }
        for (slot, item) in slots.iter().zip(items) {
            self.frame[*slot as usize] = item;
        }
        Ok(())
    }

    fn scalar_op(&self, n: NodeId, op: ScalarOp) -> Result<Value> {
        let prepared = &self.prepared[n.index()];
        let mut values: SmallVec<[Value; 3]> = SmallVec::new();
        for slot in &prepared.operands {
            match &self.frame[*slot as usize] {
                Item::Scalar(v) => values.push(v.clone()),
                _ => return bug("something else where a scalar belongs"),
            }
        }
        let Some(out) = prepared.out else { return bug("a scalar operation without a type") };
        Ok(scalar::eval(op, &values, &prepared.types, out)?)
    }

    fn col(&self, id: ColumnId) -> Result<Value> {
        match &self.columns[id.index()] {
            Some((values, cursor)) => Ok(values[self.cursors[*cursor]].clone()),
            None => bug("a column that is not visible"),
        }
    }

    fn size(&self, d: &Dim) -> Result<usize> {
        match d.eval(&|s: SymId| self.symbols[s.index()]) {
            Some(n) => Ok(n),
            None => bug("a dimension of unknown size"),
        }
    }

    fn shape(&self, dims: &[Dim]) -> Result<Vec<usize>> {
        let shape: Vec<usize> = dims.iter().map(|d| self.size(d)).collect::<Result<_>>()?;
        elements(&shape)?;
        Ok(shape)
    }

    // Bridge.

    fn bridge(&mut self, op: &BridgeOp, node: &Node) -> Result<Vec<Item>> {
        match op {
            BridgeOp::ToTensor { rows, groups } => {
                let table = self.table(node.operands[0])?;
                let Type::Table(ty) = self.p.ty(node.operands[0]) else { return bug("a table of another type") };
                self.symbols[rows.index()] = Some(table.rows);
                self.to_tensors(&table, ty, groups)
            }
            BridgeOp::ToTable { columns } => {
                let tensors = node.operands.iter().map(|v| self.tensor(*v)).collect::<Result<Vec<_>>>()?;
                let rows = tensors.first().and_then(|t| t.shape.first()).copied().unwrap_or(0);
                let mut table = Table { columns: vec![], rows };
                spread(&mut table, columns, &tensors)?;
                Ok(vec![Item::Table(Arc::new(table))])
            }
            BridgeOp::Apply { rows, inputs, columns } => {
                let table = self.table(node.operands[0])?;
                let Type::Table(ty) = self.p.ty(node.operands[0]) else { return bug("a table of another type") };
                let params = self.to_tensors(&table, ty, inputs)?;
                let outer = self.symbols[rows.index()].replace(table.rows);
                self.run_region(node.regions[0], params)?;
                let results = self.results(node.regions[0])?;
                self.symbols[rows.index()] = outer;
                let tensors: Option<Vec<Arc<TensorValue>>> =
                    results.into_iter().map(|i| if let Item::Tensor(t) = i { Some(t) } else { None }).collect();
                let Some(tensors) = tensors else { return bug("an apply that yields no tensor") };
                let mut out = Table::clone(&table);
                spread(&mut out, columns, &tensors)?;
                Ok(vec![Item::Table(Arc::new(out))])
            }
            BridgeOp::ForBatches { .. } => self.for_batches(op, node),
            BridgeOp::RowCount => {
                let rows = self.table(node.operands[0])?.rows;
                Ok(vec![Item::Tensor(Arc::new(index(rows)))])
            }
        }
    }

    /// The tensors that groups of columns make.
    fn to_tensors(&self, table: &Table, ty: &TableType, groups: &[TensorColumns]) -> Result<Vec<Item>> {
        let mut out = Vec::new();
        for g in groups {
            let mut columns = Vec::new();
            for id in &g.columns {
                let (Some(values), Some(from)) = (table.column(*id), ty.get(*id)) else {
                    return bug("a column that the table has not");
                };
                columns.push((*id, values.clone(), from.ty));
            }
            let mut values = Vec::with_capacity(table.rows * columns.len());
            for row in 0..table.rows {
                for (id, column, from) in &columns {
                    let v = &column[row];
                    if v.is_null() {
                        let name = &self.p.columns[id.index()].name;
                        let name = if name.is_empty() { id.to_string() } else { name.clone() };
                        return trap(TrapKind::NullFeature(name));
                    }
                    values.push(if *from == g.dtype {
                        v.clone()
                    } else {
                        scalar::eval(ScalarOp::Cast(g.dtype), std::slice::from_ref(v), &[*from], g.dtype)?
                    });
                }
            }
            let shape = if g.flat { vec![table.rows] } else { vec![table.rows, columns.len()] };
            let Some(data) = tensor::from_values(g.dtype, values) else { return bug("an element of another type") };
            out.push(Item::Tensor(Arc::new(TensorValue { shape, data })));
        }
        Ok(out)
    }

    fn for_batches(&mut self, op: &BridgeOp, node: &Node) -> Result<Vec<Item>> {
        let BridgeOp::ForBatches { batch, sources, size, epochs, shuffle, drop_last, early_stop } = op else {
            return bug("another operation than for_batches");
        };
        let operands = self.operands(node)?;
        let (sources, state) = operands.split_at(*sources);
        let mut state = state.to_vec();
        let sources: Option<Vec<&Arc<TensorValue>>> =
            sources.iter().map(|i| if let Item::Tensor(t) = i { Some(t) } else { None }).collect();
        let Some(sources) = sources else { return bug("a source that is not a tensor") };
        let rows = sources[0].shape[0];
        if sources.iter().any(|t| t.shape[0] != rows) {
            return bug("sources with different numbers of rows");
        }
        let body = node.regions[0];
        let metric_types: Vec<ScalarType> =
            node.results[state.len()..].iter().filter_map(|v| Some(self.p.ty(*v).as_tensor()?.dtype)).collect();
        let mut metrics = vec![vec![f64::NAN; *epochs]; metric_types.len()];
        let outer = self.symbols[batch.index()];
        let mut step = 0;
        for epoch in 0..*epochs {
            let order: Vec<usize> = match shuffle {
                Some(seed) => tensor::permutation(*seed, epoch as u64, rows)?,
                None => (0..rows).collect(),
            };
            let mut sums = vec![0.0; metric_types.len()];
            let mut seen = 0;
            for chosen in order.chunks(*size) {
                if *drop_last && chosen.len() < *size {
                    continue;
                }
                self.symbols[batch.index()] = Some(chosen.len());
                let mut params = vec![Item::Tensor(Arc::new(index(epoch))), Item::Tensor(Arc::new(index(step)))];
                for source in &sources {
                    params.push(Item::Tensor(Arc::new(tensor::rows(source, chosen, false)?)));
                }
                let count = state.len();
                params.append(&mut state);
                self.run_region(body, params)?;
                let mut results = self.results(body)?;
                for (sum, item) in sums.iter_mut().zip(results.split_off(count)) {
                    let Item::Tensor(t) = item else { return bug("a metric that is not a tensor") };
                    *sum += tensor::float(&t, 0)? * chosen.len() as f64;
                }
                state = results;
                seen += chosen.len();
                step += 1;
            }
            for (list, sum) in metrics.iter_mut().zip(sums) {
                list[epoch] = sum / seen as f64;
            }
            if let (Some(share), Some(list), true) = (early_stop, metrics.last(), epoch > 0) {
                let (before, now) = (list[epoch - 1], list[epoch]);
                let improved = before - now > share * before.abs();
                if !improved {
                    break;
                }
            }
        }
        self.symbols[batch.index()] = outer;
        for (list, ty) in metrics.into_iter().zip(metric_types) {
            let data = match ty {
                ScalarType::F32 => TensorData::F32(list.into_iter().map(|v| v as f32).collect()),
                _ => TensorData::F64(list),
            };
            state.push(Item::Tensor(Arc::new(TensorValue { shape: vec![*epochs], data })));
        }
        Ok(state)
    }
}

/// The columns that tensors `[n]` / `[n, k]` spread to.
fn spread(table: &mut Table, ids: &[ColumnId], tensors: &[Arc<TensorValue>]) -> Result<()> {
    let mut ids = ids.iter();
    for t in tensors {
        if t.shape.first() != Some(&table.rows) {
            return bug("a tensor with another number of rows");
        }
        let width = t.shape.get(1).copied().unwrap_or(1);
        for k in 0..width {
            let Some(id) = ids.next() else { return bug("fewer columns than the tensors spread to") };
            let values = (0..table.rows).map(|row| t.data.get(row * width + k)).collect();
            table.columns.push((*id, Arc::new(values)));
        }
    }
    Ok(())
}

/// A count as a tensor.
fn index(i: usize) -> TensorValue {
    TensorValue { shape: vec![], data: TensorData::I64(vec![i as i64]) }
}

fn is_true(t: &TensorValue) -> Result<bool> {
    match &t.data {
        TensorData::Bool(v) if v.len() == 1 => Ok(v[0]),
        _ => bug("a condition that is not a bool"),
    }
}

/// The number of elements of a shape, if it can be held.
fn elements(shape: &[usize]) -> Result<usize> {
    match shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)) {
        Some(n) if n <= MAX_ELEMENTS => Ok(n),
        _ => trap(TrapKind::InvalidArgument(format!("a tensor of shape {shape:?} is too large"))),
    }
}

/// Gives each value of a function a place in its frame.
fn number(p: &Program, region: RegionId, slots: &mut [u32], next: &mut usize) {
    let mut place = |v: ValueId| {
        slots[v.index()] = *next as u32;
        *next += 1;
    };
    p.region(region).params.iter().for_each(|v| place(*v));
    for n in &p.region(region).nodes {
        p.node(*n).results.iter().for_each(|v| place(*v));
    }
    for n in &p.region(region).nodes {
        for r in &p.node(*n).regions {
            number(p, *r, slots, next);
        }
    }
}

fn prepare(p: &Program, node: &Node, slots: &[u32]) -> Prepared {
    let place = |v: &ValueId| slots[v.index()];
    let scalar = |v: &ValueId| p.ty(*v).as_scalar().map(|t| t.ty);
    Prepared {
        operands: node.operands.iter().map(place).collect(),
        results: node.results.iter().map(place).collect(),
        types: node.operands.iter().filter_map(scalar).collect(),
        out: node.results.first().and_then(scalar),
    }
}

/// The nodes of a region that its result `v` needs, without those outside.
fn needed(p: &Program, region: RegionId, v: ValueId) -> Vec<NodeId> {
    let mut wanted = vec![v];
    let mut out = Vec::new();
    while let Some(v) = wanted.pop() {
        if let Def::Result(n, _) = p.values[v.index()].def
            && p.region(region).nodes.contains(&n)
            && !out.contains(&n)
        {
            out.push(n);
            wanted.extend(&p.node(n).operands);
        }
    }
    out.sort_by_key(|n| p.region(region).nodes.iter().position(|m| m == n));
    out
}
