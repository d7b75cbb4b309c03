//! Graph to blocks of steps: what is stored, what is computed where it is used, in which order.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::attention::{attend, attend_grad, triangle};
use super::control::{Effect, Functions};
use super::groups;
use super::index::{product, row_major, same_but_ones};
use super::library::{Gemm, Strided, contract, finished};
use super::nest::{NestLower, block_sites};
use super::{Action, Block, Check, Code, Def, ForBatches, ForParts, Info, Slot, Step, Val, Values};
use crate::codegen::CompiledModule;
use crate::entity::{FuncId, NodeId, PlaceId, RegionId, ValueId};
use crate::error::{Error, Result};
use crate::graph::rewrite::captures;
use crate::graph::tensor::Move;
use crate::graph::{BridgeOp, ControlOp, Node, Op, Program, TensorOp};
use crate::kernel::Module;
use crate::scalar::ScalarOp;
use crate::types::{Dim, ScalarType, TensorType, Type};

/// Scalar operations that one nest computes for an element at most.
const MAX_WEIGHT: usize = 160;
/// A map of so few operations is rather computed twice than stored.
const CHEAP: usize = 2;

type Env = HashMap<ValueId, Val>;

/// Lowers nodes: `params` are given, `results` wanted.
pub(super) fn lower(
    p: &Program,
    nodes: &[NodeId],
    params: &[ValueId],
    results: &[ValueId],
    name: &str,
    module: &mut Module,
) -> Result<Code> {
    let mut functions = Functions::default();
    let mut code = body(p, nodes, params, results, name, module, &mut functions)?;
    let mut done = 0;
    while let Some(f) = functions.list.get(done).copied() {
        let region = p.region(p.func(f).body);
        let name = format!("{name}_f{done}");
        let f = body(p, &region.nodes, &region.params, &region.results, &name, module, &mut functions)?;
        if !f.inputs.is_empty() {
            return Err(Error::Unsupported("an input of the program read by a recursive function".into()));
        }
        code.functions.push(Arc::new(f));
        done += 1;
    }
    Ok(code)
}

fn body(
    p: &Program,
    nodes: &[NodeId],
    params: &[ValueId],
    results: &[ValueId],
    name: &str,
    module: &mut Module,
    functions: &mut Functions,
) -> Result<Code> {
    let mut l = Lower {
        p,
        module,
        name,
        values: Values::default(),
        blocks: 0,
        nests: 0,
        handles: 0,
        calls: vec![],
        inputs: vec![],
        functions,
    };
    let block = l.block(&Env::new(), params, results, nodes)?;
    if let Some(v) = block.captured.first() {
        return Err(Error::Bug(format!("{v:?} comes from nowhere")));
    }
    Ok(Code { values: l.values, block, blocks: l.blocks, inputs: l.inputs, handles: l.handles, functions: vec![] })
}

impl Block {
    /// Whether loops over parts cut a value, and nothing else reads it.
    fn is_read_by_parts_only(&self, v: Val) -> bool {
        let reads = |step: &Step| match &step.action {
            Action::ForParts(f) => f.body.captured.contains(&v),
            _ => step.reads.contains(&v),
        };
        !self.steps.iter().any(reads) && !self.results.contains(&v)
    }

    pub(super) fn link(&mut self, module: &CompiledModule) {
        for step in &mut self.steps {
            match &mut step.action {
                Action::Nest(nest) => nest.code = Some(super::Kernel::new(module.entry(nest.function.id()))),
                Action::Nests(list) => {
                    for n in list {
                        n.nest.code = Some(super::Kernel::new(module.entry(n.nest.function.id())));
                    }
                }
                Action::If { then, other, .. } => {
                    then.link(module);
                    other.link(module);
                }
                Action::While { go_on, body, .. } => {
                    go_on.link(module);
                    body.link(module);
                }
                Action::For { body, .. } => body.link(module),
                Action::ForBatches(f) => f.body.link(module),
                Action::ForParts(f) => f.body.link(module),
                Action::Call { .. }
                | Action::Effect(_)
                | Action::Gemm(_)
                | Action::Attend(_)
                | Action::AttendGrad(_)
                | Action::Gather { .. }
                | Action::ScatterAdd { .. }
                | Action::Levels { .. }
                | Action::Concat { .. }
                | Action::Random { .. } => {}
            }
        }
    }
}

/// What stands in a block before it is decided what is stored.
enum Item {
    Value(Val),
    Control { action: Action, operands: Vec<Val>, results: Vec<Val>, place: Option<PlaceId> },
}

struct Lower<'a> {
    p: &'a Program,
    module: &'a mut Module,
    name: &'a str,
    values: Values,
    blocks: usize,
    nests: usize,
    /// Tapes and sums so far.
    handles: usize,
    /// Functions whose bodies are being taken in.
    calls: Vec<FuncId>,
    /// Functions that are called.
    functions: &'a mut Functions,
    /// Inputs of the program that are read, in whatever block.
    inputs: Vec<(ValueId, Val)>,
}

/// How the values of a block are used, found from the last to the first.
struct Uses {
    block: usize,
    needed: HashSet<Val>,
    /// Consumers, counted once for each place where the value would be computed.
    count: HashMap<Val, usize>,
    /// Read more often than once an element by a consumer.
    repeated: HashSet<Val>,
    captured: Vec<Val>,
}

fn tensor_type(p: &Program, v: ValueId) -> Result<TensorType> {
    match p.ty(v) {
        Type::Tensor(t) => Ok(t.clone()),
        Type::Scalar(_) => Err(Error::Unsupported("a scalar parameter in a tensor program".into())),
        Type::Table(_) => Err(Error::Unsupported("a table in a tensor program".into())),
        // Where it is, as a number.
        Type::Tape | Type::Acc(_) => Ok(TensorType::new(ScalarType::I64, [])),
    }
}

impl Lower<'_> {
    fn find(&self, env: &Env, v: ValueId) -> Result<Val> {
        if let Some(v) = env.get(&v) {
            return Ok(*v);
        }
        tensor_type(self.p, v)?;
        Err(Error::Unsupported(format!("{v}: a value from outside of a function")))
    }

    fn outside(&mut self, ty: TensorType, block: usize) -> Val {
        self.values.add(Info { ty, def: Def::Outside, place: None, block })
    }

    fn block(&mut self, outer: &Env, params: &[ValueId], results: &[ValueId], nodes: &[NodeId]) -> Result<Block> {
        let id = self.blocks;
        self.blocks += 1;
        let mut env = outer.clone();
        let mut mine = vec![];
        for v in params {
            let v2 = self.outside(tensor_type(self.p, *v)?, id);
            env.insert(*v, v2);
            mine.push(v2);
        }
        let mut items = vec![];
        let mut checks = vec![];
        self.nodes(nodes, &mut env, id, &mut items, &mut checks)?;
        let mut out: Vec<Val> = vec![];
        for v in results {
            let v = self.find(&env, *v)?;
            let info = self.values.get(v);
            let given = mine.contains(&v) || self.inputs.iter().any(|i| i.1 == v) || matches!(info.def, Def::Const(_));
            let own = info.block == id && !given && !out.contains(&v);
            out.push(if own {
                v
            } else {
                let info = Info { ty: info.ty.clone(), def: Def::Copy(v), place: None, block: id };
                let copy = self.values.add(info);
                items.push(Item::Value(copy));
                copy
            });
        }
        self.schedule(id, mine, items, out, checks)
    }

    fn nodes(
        &mut self,
        nodes: &[NodeId],
        env: &mut Env,
        block: usize,
        items: &mut Vec<Item>,
        checks: &mut Vec<Check>,
    ) -> Result<()> {
        let p = self.p;
        for &n in nodes {
            let node = p.node(n);
            let operands =
                |l: &Self, env: &Env| -> Result<Vec<Val>> { node.operands.iter().map(|v| l.find(env, *v)).collect() };
            match &node.op {
                Op::Tensor(op) => {
                    let operands = operands(self, env)?;
                    self.tensor(op, n, &operands, env, block, items, checks)?;
                }
                Op::Control(ControlOp::Call(f)) => {
                    let arguments = operands(self, env)?;
                    if self.functions.is_recursive(p, *f) {
                        let results = self.control_results(node, block, env)?;
                        let function = self.functions.number(*f);
                        let action = Action::Call { function, arguments: arguments.clone(), results: results.clone() };
                        items.push(Item::Control { action, operands: arguments, results, place: node.place });
                        continue;
                    }
                    self.calls.push(*f);
                    let body = p.region(p.func(*f).body);
                    let mut inner = Env::new();
                    inner.extend(body.params.iter().copied().zip(arguments));
                    self.nodes(&body.nodes, &mut inner, block, items, checks)?;
                    for (v, r) in node.results.iter().zip(&body.results) {
                        let r = self.find(&inner, *r)?;
                        env.insert(*v, r);
                    }
                    self.calls.pop();
                }
                Op::Control(_) | Op::Bridge(BridgeOp::ForBatches { .. }) => {
                    let operands = operands(self, env)?;
                    let results = self.control_results(node, block, env)?;
                    let action = self.control(n, &operands, &results, env)?;
                    items.push(Item::Control { action, operands, results, place: node.place });
                }
                // Scalars of the region that others read are looked for where they are used.
                Op::Literal(..) | Op::Scalar(_) | Op::Col(_) => {}
                Op::Input(_) => {
                    let v = node.results[0];
                    if let Type::Tensor(ty) = p.ty(v) {
                        let input = self.outside(ty.clone(), 0);
                        self.inputs.push((v, input));
                        env.insert(v, input);
                    }
                }
                Op::Bridge(BridgeOp::RowCount) => {
                    return Err(Error::Unsupported("the number of rows of a table as a tensor".into()));
                }
                Op::Bridge(_) | Op::Rel(_) => {
                    return Err(Error::Unsupported("a table inside of a tensor program".into()));
                }
            }
        }
        Ok(())
    }

    fn control_results(&mut self, node: &Node, block: usize, env: &mut Env) -> Result<Vec<Val>> {
        let mut results = vec![];
        for v in &node.results {
            let r = self.outside(tensor_type(self.p, *v)?, block);
            env.insert(*v, r);
            results.push(r);
        }
        Ok(results)
    }

    fn region(&mut self, region: RegionId, env: &Env) -> Result<Block> {
        let r = self.p.region(region);
        self.block(env, &r.params, &r.results, &r.nodes)
    }

    fn control(&mut self, n: NodeId, operands: &[Val], results: &[Val], env: &Env) -> Result<Action> {
        let node = self.p.node(n);
        let results = results.to_vec();
        Ok(match &node.op {
            Op::Control(ControlOp::If) => Action::If {
                condition: operands[0],
                then: Box::new(self.region(node.regions[0], env)?),
                other: Box::new(self.region(node.regions[1], env)?),
                results,
            },
            Op::Control(ControlOp::While) => Action::While {
                state: operands.to_vec(),
                go_on: Box::new(self.region(node.regions[0], env)?),
                body: Box::new(self.region(node.regions[1], env)?),
                results,
            },
            Op::Control(ControlOp::For { length, state, reverse }) => Action::For {
                length: length.clone(),
                reverse: *reverse,
                state: operands[..*state].to_vec(),
                sources: operands[*state..].to_vec(),
                body: Box::new(self.region(node.regions[0], env)?),
                results,
            },
            Op::Control(ControlOp::ForParts { part, rows, joined }) => Action::ForParts(Box::new(ForParts {
                part: *part,
                rows: *rows,
                joined: *joined,
                sources: operands.to_vec(),
                body: self.region(node.regions[0], env)?,
                results,
            })),
            Op::Bridge(BridgeOp::ForBatches { batch, sources, size, epochs, shuffle, drop_last, early_stop }) => {
                if *size == 0 {
                    return Err(Error::Type("batches of no rows".into()));
                }
                let body = self.region(node.regions[0], env)?;
                let params = &body.params[2..2 + *sources];
                Action::ForBatches(Box::new(ForBatches {
                    by_parts: params.iter().map(|v| body.is_read_by_parts_only(*v)).collect(),
                    batch: *batch,
                    size: *size,
                    epochs: *epochs,
                    shuffle: *shuffle,
                    drop_last: *drop_last,
                    early_stop: *early_stop,
                    sources: operands[..*sources].to_vec(),
                    state: operands[*sources..].to_vec(),
                    body,
                    results,
                }))
            }
            Op::Control(op) => {
                let effect = Effect::lower(op, operands, &results, &mut self.handles)
                    .ok_or_else(|| Error::Bug(format!("{op:?} has no effect")))?;
                Action::Effect(effect)
            }
            other => return Err(Error::Bug(format!("{other:?} is no control operation"))),
        })
    }

    #[allow(clippy::too_many_arguments, reason = "the state of a walk over nodes")]
    fn tensor(
        &mut self,
        op: &TensorOp,
        n: NodeId,
        operands: &[Val],
        env: &mut Env,
        block: usize,
        items: &mut Vec<Item>,
        checks: &mut Vec<Check>,
    ) -> Result<()> {
        let node = self.p.node(n);
        let o = |i: usize| operands[i];
        let def = match op {
            TensorOp::Map { .. } => {
                let params = &self.p.region(node.regions[0]).params;
                for (result, v) in node.results.iter().enumerate() {
                    let needed = needed(self.p, n, &[result]);
                    let pairs = params.iter().copied().zip(operands.iter().copied());
                    let operands = pairs.filter(|(param, _)| needed.contains(param)).collect();
                    let def = Def::Map { node: n, operands, result };
                    let info = Info { ty: tensor_type(self.p, *v)?, def, place: node.place, block };
                    let val = self.values.add(info);
                    items.push(Item::Value(val));
                    env.insert(*v, val);
                }
                return Ok(());
            }
            TensorOp::AttendGrad(spec) => {
                for (result, v) in node.results.iter().enumerate() {
                    let def = Def::AttendGrad { node: n, spec: spec.clone(), operands: operands.to_vec(), result };
                    let info = Info { ty: tensor_type(self.p, *v)?, def, place: node.place, block };
                    let val = self.values.add(info);
                    items.push(Item::Value(val));
                    env.insert(*v, val);
                }
                return Ok(());
            }
            TensorOp::View(moves) => {
                let mut v = o(0);
                for m in moves {
                    v = self.view(m, v, block, items, checks)?;
                }
                env.insert(node.results[0], v);
                return Ok(());
            }
            TensorOp::Const(t) => Def::Const(t.clone()),
            TensorOp::Iota { dim, .. } => Def::Iota { dim: *dim },
            TensorOp::Random { distribution, seed, stream, .. } => {
                Def::Random { distribution: *distribution, seed: *seed, stream: *stream }
            }
            TensorOp::Reduce { reducer, axes } => Def::Reduce { reducer: *reducer, axes: axes.clone(), operand: o(0) },
            TensorOp::Prefix { reducer, axis } => Def::Prefix { reducer: *reducer, axis: *axis, operand: o(0) },
            TensorOp::Contract(spec) => Def::Contract { spec: spec.clone(), a: o(0), b: o(1) },
            TensorOp::Attend(spec) => Def::Attend { spec: spec.clone(), operands: operands.to_vec() },
            TensorOp::Gather => Def::Gather(o(0), o(1)),
            TensorOp::ScatterAdd => Def::ScatterAdd(o(0), o(1), o(2)),
            TensorOp::Levels { .. } => Def::Levels(operands.to_vec()),
            TensorOp::Concat { axis } => Def::Concat { axis: *axis, parts: operands.to_vec() },
        };
        let ty = tensor_type(self.p, node.results[0])?;
        let v = self.values.add(Info { ty, def, place: node.place, block });
        items.push(Item::Value(v));
        env.insert(node.results[0], v);
        Ok(())
    }

    fn view(&mut self, m: &Move, v: Val, block: usize, items: &mut Vec<Item>, checks: &mut Vec<Check>) -> Result<Val> {
        let ty = &self.values.get(v).ty;
        let shape = m.apply(&ty.shape)?;
        match m {
            Move::Slice { dim, start, len, step } => {
                let (start, len, size) = (start.clone(), len.clone(), ty.shape[*dim].clone());
                checks.push(Check::Slice { start, len, step: *step, size });
            }
            Move::Reshape(to) if product(&ty.shape) != product(to) => {
                checks.push(Check::Reshape { from: ty.shape.clone(), to: to.clone() });
            }
            _ => {}
        }
        let ty = TensorType { dtype: ty.dtype, shape };
        let v = self.values.add(Info { ty, def: Def::View(m.clone(), v), place: None, block });
        items.push(Item::Value(v));
        Ok(v)
    }

    // ---- what is stored ----

    fn schedule(
        &mut self,
        id: usize,
        params: Vec<Val>,
        items: Vec<Item>,
        results: Vec<Val>,
        checks: Vec<Check>,
    ) -> Result<Block> {
        let mut uses = Uses {
            block: id,
            needed: HashSet::new(),
            count: HashMap::new(),
            repeated: HashSet::new(),
            captured: vec![],
        };
        results.iter().for_each(|r| self.store(*r, &mut uses));
        for item in items.iter().rev() {
            match item {
                Item::Value(v) => self.decide(*v, &mut uses),
                Item::Control { action, operands, results, .. } => {
                    if !results.iter().any(|r| uses.needed.contains(r)) {
                        continue;
                    }
                    operands.iter().for_each(|v| self.store(*v, &mut uses));
                    blocks_of(action).iter().flat_map(|b| &b.captured).for_each(|v| self.store(*v, &mut uses));
                }
            }
        }
        self.limit_weight(&items, &uses);
        let mut finished = self.finishes(&items, &results, &uses);
        let mut steps: Vec<Step> = vec![];
        let mut done: HashSet<Val> = HashSet::new();
        for item in items {
            match item {
                Item::Value(v) => {
                    if uses.needed.contains(&v) && self.values.stored.contains(&v) && !done.contains(&v) {
                        let together = self.together(v, &uses);
                        done.extend(&together);
                        let step = match finished.remove(&v) {
                            Some(gemm) => self.product(gemm, v),
                            None => self.step(v, &together)?,
                        };
                        steps.push(step);
                    }
                }
                Item::Control { action, operands, results, place } => {
                    if !results.iter().any(|r| uses.needed.contains(r)) {
                        continue;
                    }
                    let mut reads = operands;
                    reads.extend(blocks_of(&action).iter().flat_map(|b| b.captured.iter().copied()));
                    steps.push(Step { action, reads, writes: results, place });
                }
            }
        }
        let steps = groups::together(steps);
        let mut locals: Vec<(Val, usize, usize)> = vec![];
        for (i, step) in steps.iter().enumerate() {
            for v in step.writes.iter().filter(|v| !results.contains(v)) {
                locals.push((*v, i, i));
            }
            for v in &step.reads {
                if let Some(l) = locals.iter_mut().find(|l| l.0 == *v) {
                    l.2 = i;
                }
            }
        }
        // Of what a nest reads, values of other blocks are captured.
        for v in steps.iter().flat_map(|s| &s.reads) {
            let info = self.values.get(*v);
            if info.block != id && !matches!(info.def, Def::Const(_)) && !uses.captured.contains(v) {
                uses.captured.push(*v);
            }
        }
        let captured = uses.captured;
        Ok(Block { id, params, steps, results, locals, checks, captured })
    }

    /// Makes a value stored.
    fn store(&mut self, v: Val, uses: &mut Uses) {
        uses.needed.insert(v);
        let info = self.values.get(v);
        let (block, free) = (info.block, matches!(info.def, Def::Const(_)));
        if !free && !matches!(info.def, Def::Outside) {
            self.values.stored.insert(v);
        }
        if block != uses.block && !free && !uses.captured.contains(&v) {
            uses.captured.push(v);
        }
    }

    /// A consumer computes the value where it needs it, if it is not stored.
    fn consume(&mut self, v: Val, times: usize, repeated: bool, uses: &mut Uses) {
        let info = self.values.get(v);
        let free = matches!(info.def, Def::Const(_));
        if info.block != uses.block && !free {
            return self.store(v, uses);
        }
        uses.needed.insert(v);
        *uses.count.entry(v).or_default() += times;
        if repeated {
            uses.repeated.insert(v);
        }
    }

    /// A library call reads the value by strides.
    fn stride(&mut self, v: Val, uses: &mut Uses) {
        let info = self.values.get(v);
        if info.block != uses.block || self.values.is_stored(v) {
            return self.store(v, uses);
        }
        match info.def.clone() {
            Def::View(Move::Permute(_) | Move::Broadcast { .. } | Move::Slice { .. }, o) => {
                uses.needed.insert(v);
                self.stride(o, uses);
            }
            Def::View(Move::Reshape(_), o) => {
                uses.needed.insert(v);
                let base = self.reshaped(o);
                self.store(base, uses);
            }
            _ => self.store(v, uses),
        }
    }

    /// The value that a chain of reshapes begins with.
    fn reshaped(&self, v: Val) -> Val {
        match &self.values.get(v).def {
            Def::View(Move::Reshape(_), o) if !self.values.is_stored(v) => self.reshaped(*o),
            _ => v,
        }
    }

    fn decide(&mut self, v: Val, uses: &mut Uses) {
        if !uses.needed.contains(&v) {
            return;
        }
        let info = self.values.get(v).clone();
        let count = uses.count.get(&v).copied().unwrap_or(0);
        let repeated = uses.repeated.contains(&v);
        if let Def::Map { node, operands, result } = &info.def
            && !self.values.is_stored(v)
            && (self.has_blocks(*node, *result, &info.ty.shape)
                || (count > 1 || repeated) && !self.is_cheap(*node, *result, operands))
        {
            self.store(v, uses);
        }
        let stored = self.values.is_stored(v);
        let times = if stored { 1 } else { count };
        let repeated = repeated && !stored;
        match info.def {
            Def::Outside | Def::Const(_) | Def::Iota { .. } => {}
            Def::Random { .. } => self.store(v, uses),
            Def::Map { operands, .. } => {
                let mut seen: Vec<Val> = vec![];
                for (_, o) in operands {
                    if !seen.contains(&o) {
                        seen.push(o);
                        self.consume(o, times, repeated, uses);
                    }
                }
            }
            Def::Copy(o) => self.consume(o, times, repeated, uses),
            Def::Reduce { operand, .. } | Def::Prefix { operand, .. } => {
                self.store(v, uses);
                self.consume(operand, 1, false, uses);
            }
            Def::Contract { a, b, .. } => {
                self.store(v, uses);
                self.stride(a, uses);
                self.stride(b, uses);
            }
            Def::Attend { spec, operands } | Def::AttendGrad { spec, operands, .. } => {
                self.store(v, uses);
                let (main, rest) = operands.split_at(3);
                let (terms, adjoint) = rest.split_at(spec.terms.len());
                main.iter().chain(adjoint).for_each(|o| self.stride(*o, uses));
                for (term, labels) in terms.iter().zip(&spec.terms) {
                    if triangle(self.p, &self.values, &spec, labels, *term).is_none() {
                        self.stride(*term, uses);
                    }
                }
            }
            Def::View(m, o) => {
                let from = &self.values.get(o).ty.shape;
                match &m {
                    Move::Reshape(_) if !same_but_ones(from, &info.ty.shape) => {
                        let base = self.reshaped(o);
                        self.store(base, uses);
                        let mut at = o;
                        while at != base {
                            uses.needed.insert(at);
                            let Def::View(_, next) = self.values.get(at).def else { break };
                            at = next;
                        }
                    }
                    Move::Broadcast { .. } => {
                        let enlarges = !same_but_ones(from, &info.ty.shape);
                        self.consume(o, times, repeated || enlarges, uses);
                    }
                    _ => self.consume(o, times, repeated, uses),
                }
            }
            Def::Gather(a, b) => {
                self.store(v, uses);
                [a, b].into_iter().for_each(|o| self.store(o, uses));
            }
            Def::ScatterAdd(a, b, c) => {
                self.store(v, uses);
                [a, b, c].into_iter().for_each(|o| self.store(o, uses));
            }
            Def::Levels(parts) | Def::Concat { parts, .. } => {
                self.store(v, uses);
                parts.into_iter().for_each(|o| self.store(o, uses));
            }
        }
    }

    /// Whether a map has operations that block functions compute, for many elements: then it has a nest of its own.
    fn has_blocks(&self, node: NodeId, result: usize, shape: &[Dim]) -> bool {
        let many = constant(&product(shape)).is_none_or(|n| n >= 32);
        many && !block_sites(self.p, node, &[result]).is_empty()
    }

    /// Whether computing a map's element again costs less than storing and loading it.
    fn is_cheap(&self, node: NodeId, result: usize, operands: &[(ValueId, Val)]) -> bool {
        let slow = |v: &ValueId| match self.p.node_of(*v).map(|n| &n.op) {
            Some(Op::Scalar(op)) => is_slow(*op),
            Some(Op::Literal(..)) | None => false,
            Some(_) => true,
        };
        let few = weight_of(self.p, node, result) <= CHEAP && !needed(self.p, node, &[result]).iter().any(slow);
        let base = |v: Val| {
            let mut v = v;
            while let Def::View(_, o) = self.values.get(v).def {
                v = o;
            }
            v
        };
        few && operands.iter().all(|(_, o)| !matches!(self.values.get(base(*o)).def, Def::Map { .. }))
    }

    /// Stores maps where the expression above them would become too long.
    fn limit_weight(&mut self, items: &[Item], uses: &Uses) {
        let mut weights: HashMap<Val, usize> = HashMap::new();
        for item in items {
            let Item::Value(v) = item else { continue };
            if !uses.needed.contains(v) {
                continue;
            }
            let below = |v: &Val| weights.get(v).copied().unwrap_or(1);
            let weight = match &self.values.get(*v).def {
                Def::Map { node, operands, result } => {
                    weight_of(self.p, *node, *result) + operands.iter().map(|(_, o)| below(o)).sum::<usize>()
                }
                Def::View(_, o) | Def::Copy(o) => below(o),
                _ => 1,
            };
            if weight > MAX_WEIGHT && matches!(self.values.get(*v).def, Def::Map { .. }) {
                self.values.stored.insert(*v);
            }
            weights.insert(*v, if self.values.is_stored(*v) { 1 } else { weight });
        }
    }

    // ---- steps ----

    /// Products that make a map's result themselves: nothing else reads them, so that they are not stored. They run where the map
    /// would, by when all that the map reads is there.
    fn finishes(&mut self, items: &[Item], results: &[Val], uses: &Uses) -> HashMap<Val, Gemm> {
        let mut readers: HashMap<Val, Vec<Val>> = HashMap::new();
        let mut others: HashSet<Val> = uses.captured.iter().chain(results).copied().collect();
        for item in items {
            match item {
                Item::Value(v) if uses.needed.contains(v) => {
                    self.operands(*v).into_iter().for_each(|o| readers.entry(o).or_default().push(*v));
                }
                Item::Value(_) => {}
                Item::Control { action, operands, .. } => {
                    others.extend(operands);
                    others.extend(blocks_of(action).iter().flat_map(|b| &b.captured));
                }
            }
        }
        let mut out = HashMap::new();
        for (product, maps) in readers {
            let is_product = matches!(self.values.get(product).def, Def::Contract { .. });
            let [map] = maps[..] else { continue };
            let own = |v: Val| self.values.get(v).block == uses.block && self.values.stored.contains(&v);
            let alone = || self.together(map, uses) == [map];
            if !is_product || others.contains(&product) || !own(product) || !own(map) || !alone() {
                continue;
            }
            if let Some(gemm) = finished(self.p, &self.values, map, product) {
                self.values.stored.remove(&product);
                out.insert(map, gemm);
            }
        }
        out
    }

    fn operands(&self, v: Val) -> Vec<Val> {
        match &self.values.get(v).def {
            Def::Outside | Def::Const(_) | Def::Iota { .. } | Def::Random { .. } => vec![],
            Def::Map { operands, .. } => operands.iter().map(|(_, o)| *o).collect(),
            Def::Reduce { operand, .. } | Def::Prefix { operand, .. } => vec![*operand],
            Def::View(_, o) | Def::Copy(o) => vec![*o],
            Def::Contract { a, b, .. } | Def::Gather(a, b) => vec![*a, *b],
            Def::ScatterAdd(a, b, c) => vec![*a, *b, *c],
            Def::Levels(parts) | Def::Concat { parts, .. } => parts.clone(),
            Def::Attend { operands, .. } | Def::AttendGrad { operands, .. } => operands.clone(),
        }
    }

    fn product(&self, gemm: Gemm, v: Val) -> Step {
        let mut reads = vec![gemm.a.base, gemm.b.base];
        reads.extend(gemm.finish.reads());
        Step { action: Action::Gemm(Box::new(gemm)), reads, writes: vec![v], place: self.values.get(v).place }
    }

    /// Stored results of one node, which one step writes.
    fn together(&self, v: Val, uses: &Uses) -> Vec<Val> {
        let node = |v: Val| match &self.values.get(v).def {
            Def::Map { node, .. } | Def::AttendGrad { node, .. } => Some(*node),
            _ => None,
        };
        let Some(same) = node(v) else { return vec![v] };
        // The results of a node follow each other.
        let next = (v.0..self.values.list.len() as u32).map(Val);
        let of_node = |v: &Val| node(*v) == Some(same);
        let same_block = |v2: &Val| self.values.get(*v2).block == self.values.get(v).block;
        let all = next.take_while(|v2| of_node(v2) && same_block(v2));
        all.filter(|v| uses.needed.contains(v) && self.values.stored.contains(v)).collect()
    }

    fn step(&mut self, v: Val, together: &[Val]) -> Result<Step> {
        let info = self.values.get(v).clone();
        let place = info.place;
        let library = |action: Action, reads: Vec<Val>| Ok(Step { action, reads, writes: vec![v], place });
        match &info.def {
            Def::Gather(table, indices) => {
                let (table, indices) = (*table, *indices);
                library(Action::Gather { table, indices, out: v }, vec![table, indices])
            }
            Def::ScatterAdd(base, indices, updates) => {
                let (base, indices, updates) = (*base, *indices, *updates);
                library(Action::ScatterAdd { base, indices, updates, out: v }, vec![base, indices, updates])
            }
            Def::Levels(operands) => library(Action::Levels { operands: operands.clone(), out: v }, operands.clone()),
            Def::Concat { axis, parts } => {
                library(Action::Concat { axis: *axis, parts: parts.clone(), out: v }, parts.clone())
            }
            Def::Random { distribution, seed, stream } => {
                let (distribution, seed, stream) = (*distribution, *seed, *stream);
                library(Action::Random { distribution, seed, stream, out: v }, vec![])
            }
            Def::Contract { spec, a, b } => match contract(&self.values, spec, *a, *b, v) {
                Some(gemm) => Ok(self.product(gemm, v)),
                None => self.nest(together),
            },
            Def::Attend { spec, operands } => {
                let whole = Strided { base: v, offset: Dim::Const(0), strides: row_major(&info.ty.shape) };
                let attend = attend(self.p, &self.values, spec, operands, whole)
                    .ok_or_else(|| Error::Bug(format!("an operand of attend {spec} has no address")))?;
                let reads = attend.reads();
                library(Action::Attend(Box::new(attend)), reads)
            }
            Def::AttendGrad { spec, operands, .. } => {
                let number = |v: &Val| match self.values.get(*v).def {
                    Def::AttendGrad { result, .. } => Some((result, *v)),
                    _ => None,
                };
                let results: Vec<(usize, Val)> = together.iter().filter_map(number).collect();
                let grad = attend_grad(self.p, &self.values, spec, operands, &results)
                    .ok_or_else(|| Error::Bug(format!("an operand of attend_grad {spec} has no address")))?;
                let (reads, writes) = (grad.reads(), together.to_vec());
                Ok(Step { action: Action::AttendGrad(Box::new(grad)), reads, writes, place })
            }
            _ => self.nest(together),
        }
    }

    /// A nest that writes these values: one, or results of one map.
    fn nest(&mut self, roots: &[Val]) -> Result<Step> {
        let name = format!("{}_{}", self.name, self.nests);
        self.nests += 1;
        let nest = NestLower::lower(self.p, &self.values, self.module, &name, roots)?;
        let address = |s: &Slot| if let Slot::Address(r) = s { Some(*r) } else { None };
        let reads = nest.slots.iter().filter_map(address).filter(|r| !roots.contains(r)).collect();
        let place = roots.first().and_then(|v| self.values.get(*v).place);
        Ok(Step { action: Action::Nest(Box::new(nest)), reads, writes: roots.to_vec(), place })
    }
}

fn blocks_of(action: &Action) -> Vec<&Block> {
    match action {
        Action::If { then, other, .. } => vec![then, other],
        Action::While { go_on, body, .. } => vec![go_on, body],
        Action::For { body, .. } => vec![body],
        Action::ForBatches(f) => vec![&f.body],
        Action::ForParts(f) => vec![&f.body],
        Action::Call { .. }
        | Action::Effect(_)
        | Action::Nest(_)
        | Action::Nests(_)
        | Action::Gemm(_)
        | Action::Attend(_)
        | Action::AttendGrad(_)
        | Action::Gather { .. }
        | Action::ScatterAdd { .. }
        | Action::Levels { .. }
        | Action::Concat { .. }
        | Action::Random { .. } => vec![],
    }
}

/// The values of a map's body that some of its results need, parameters included.
pub(super) fn needed(p: &Program, map: NodeId, results: &[usize]) -> HashSet<ValueId> {
    let region = p.node(map).regions[0];
    let body = p.region(region);
    let mut out = HashSet::new();
    let mut open: Vec<ValueId> = results.iter().filter_map(|r| body.results.get(*r).copied()).collect();
    while let Some(v) = open.pop() {
        if !out.insert(v) {
            continue;
        }
        let Some(node) = p.node_of(v) else { continue };
        open.extend(&node.operands);
        node.regions.iter().for_each(|r| open.extend(captures(p, *r)));
    }
    out
}

/// Scalar operations of a map's body that a result needs.
pub(super) fn weight_of(p: &Program, map: NodeId, result: usize) -> usize {
    let is_operation = |v: &&ValueId| p.node_of(**v).is_some_and(|n| !matches!(n.op, Op::Literal(..)));
    needed(p, map, &[result]).iter().filter(is_operation).count().max(1)
}

/// Operations that take many instructions.
fn is_slow(op: ScalarOp) -> bool {
    use ScalarOp as O;
    let fast = matches!(
        op,
        O::Add
            | O::Sub
            | O::Mul
            | O::Neg
            | O::Abs
            | O::Min
            | O::Max
            | O::Eq
            | O::Ne
            | O::Lt
            | O::Le
            | O::Gt
            | O::Ge
            | O::And
            | O::Or
            | O::Not
            | O::Select
            | O::Cast(ScalarType::F32 | ScalarType::F64)
    );
    !fast
}

/// A size as a constant where it is one.
pub(super) fn constant(d: &Dim) -> Option<i64> {
    d.as_const().and_then(|n| i64::try_from(n).ok())
}
