//! Rebuilding programs: what every pass stands on.
//!
//! A pass does not change a program in place. [`rebuild`] walks functions, regions and nodes in order and makes them anew, and
//! a [`Rewrite`] says for each node what stands in its place. So dominance holds by construction, types are inferred again
//! (a narrower table narrows everything above it), and what nobody copies is gone.

use std::collections::HashMap;

use smallvec::SmallVec;

use crate::entity::{ColumnId, FuncId, NodeId, RegionId, SymId, ValueId};
use crate::error::{Error, Result};
use crate::graph::rel::{JoinKind, WindowFunc};
use crate::graph::tensor::Move;
use crate::graph::{BridgeOp, Builder, ControlOp, Def, Node, Op, Program, RelOp, TensorOp};
use crate::types::{Dim, TableType, Type};

/// What stands in a node's place.
pub enum Change {
    /// The node itself, over the rewritten operands, its regions rewritten in turn.
    Keep,
    /// These values of the new program, one for each result.
    Values(Vec<ValueId>),
    /// These values, `None` for results that are not used.
    Some(Vec<Option<ValueId>>),
    /// Nothing: its results are not used.
    Drop,
}

/// A rewrite of a program, node by node.
pub trait Rewrite {
    /// What stands in the place of `node`. Its operands are rewritten already: see [`Rebuild::value`].
    fn node(&mut self, cx: &mut Rebuild<'_>, id: NodeId, node: &Node) -> Result<Change>;

    /// Whether a function is kept.
    fn keeps_func(&mut self, _func: FuncId) -> bool {
        true
    }

    /// Called when a region was opened, before its first node.
    fn enter(&mut self, _cx: &mut Rebuild<'_>, _region: RegionId) {}

    /// Called before a region is closed.
    fn leave(&mut self, _cx: &mut Rebuild<'_>, _region: RegionId) {}
}

/// A rebuild under way.
pub struct Rebuild<'a> {
    /// The program that is read.
    pub old: &'a Program,
    /// The program that is made; new nodes are added here.
    pub b: Builder,
    values: HashMap<ValueId, ValueId>,
    funcs: HashMap<FuncId, FuncId>,
    columns: HashMap<ColumnId, ColumnId>,
    symbols: HashMap<SymId, SymId>,
}

/// Makes a program anew, as `rewrite` says.
pub fn rebuild(old: &Program, rewrite: &mut dyn Rewrite) -> Result<Program> {
    rebuild_with(old, HashMap::new(), rewrite)
}

fn rebuild_with(old: &Program, columns: HashMap<ColumnId, ColumnId>, rewrite: &mut dyn Rewrite) -> Result<Program> {
    let program = Program {
        inputs: old.inputs.clone(),
        columns: old.columns.clone(),
        symbols: old.symbols.clone(),
        places: old.places.clone(),
        result_names: old.result_names.clone(),
        ..Program::default()
    };
    let b = Builder::over(program).exact();
    let mut cx = Rebuild { old, b, values: HashMap::new(), funcs: HashMap::new(), columns, symbols: HashMap::new() };
    for (i, func) in old.funcs.iter().enumerate() {
        let id = FuncId(i as u32);
        if rewrite.keeps_func(id) {
            let body = old.region(func.body);
            let types = |values: &[ValueId]| values.iter().map(|v| cx.map_type(old.ty(*v))).collect::<Vec<_>>();
            let (params, results) = (types(&body.params), types(&body.results));
            let new = cx.b.declare_func(func.name.clone(), &params, &results);
            cx.funcs.insert(id, new);
        }
    }
    for (i, func) in old.funcs.iter().enumerate() {
        let id = FuncId(i as u32);
        let Some(&new) = cx.funcs.get(&id) else { continue };
        let params = cx.b.begin_declared(new);
        let results = cx.open_body(rewrite, func.body, &params)?;
        if old.entry == Some(id) {
            // Nobody calls the entry: its results' types may be sharper than before.
            cx.b.end_entry(new, &results);
        } else {
            cx.b.end_declared(new, &results)?;
        }
    }
    let entry = old.entry.and_then(|f| cx.funcs.get(&f).copied());
    let mut program = cx.b.finish();
    program.entry = entry;
    Ok(program)
}

impl Rebuild<'_> {
    /// The new value of an old one.
    pub fn value(&self, old: ValueId) -> Result<ValueId> {
        let found = self.values.get(&old).copied();
        found.ok_or_else(|| Error::Bug(format!("a rewrite dropped {old:?}, which is used")))
    }

    /// The new values of old ones.
    pub fn values(&self, old: &[ValueId]) -> Result<Vec<ValueId>> {
        old.iter().map(|v| self.value(*v)).collect()
    }

    /// Says what an old value becomes from here on.
    pub fn set_value(&mut self, old: ValueId, new: ValueId) {
        self.values.insert(old, new);
    }

    /// The type of a new value.
    pub fn ty(&self, new: ValueId) -> &Type {
        self.b.ty(new)
    }

    /// The node of the new program that defines a new value.
    pub fn def(&self, new: ValueId) -> Option<&Node> {
        self.b.program().node_of(new)
    }

    /// The new id of an old column.
    pub fn column(&self, old: ColumnId) -> ColumnId {
        self.columns.get(&old).copied().unwrap_or(old)
    }

    /// From here on an old column is read under another id.
    pub fn set_column(&mut self, old: ColumnId, new: ColumnId) {
        self.columns.insert(old, new);
    }

    /// From here on an old symbol is another one of the new program; returns what it was.
    pub fn set_symbol(&mut self, old: SymId, new: SymId) -> SymId {
        self.symbols.insert(old, new).unwrap_or(old)
    }

    /// The new id of an old function.
    pub fn func(&self, old: FuncId) -> Result<FuncId> {
        let found = self.funcs.get(&old).copied();
        found.ok_or_else(|| Error::Bug(format!("a rewrite dropped {old:?}, which is called")))
    }

    /// An old operation with columns, symbols and functions of the new program.
    pub fn map_op(&self, op: &Op) -> Result<Op> {
        let mut op = op.clone();
        if !self.columns.is_empty() {
            columns_of_mut(&mut op, &mut |id| *id = self.column(*id));
        }
        if !self.symbols.is_empty() {
            map_symbols(&mut op, &|s| self.symbols.get(&s).copied().unwrap_or(s));
        }
        if let Op::Control(ControlOp::Call(f)) = &mut op {
            *f = self.func(*f)?;
        }
        Ok(op)
    }

    fn map_type(&self, ty: &Type) -> Type {
        let mut ty = ty.clone();
        match &mut ty {
            Type::Scalar(_) | Type::Tape => {}
            Type::Tensor(t) | Type::Acc(t) => {
                map_shape(&mut t.shape, &|s| self.symbols.get(&s).copied().unwrap_or(s));
            }
            Type::Table(t) => t.columns.iter_mut().for_each(|c| c.id = self.column(c.id)),
        }
        ty
    }

    /// The node over new operands, its regions rewritten.
    pub fn keep(&mut self, rewrite: &mut dyn Rewrite, node: &Node) -> Result<Vec<ValueId>> {
        let op = self.map_op(&node.op)?;
        self.keep_as(rewrite, op, node)
    }

    /// Another operation in a node's place, over its operands and with its regions, rewritten.
    pub fn keep_as(&mut self, rewrite: &mut dyn Rewrite, op: Op, node: &Node) -> Result<Vec<ValueId>> {
        let operands = self.values(&node.operands)?;
        self.keep_over(rewrite, op, &operands, node)
    }

    /// Another operation over other operands in a node's place, with its regions, rewritten.
    pub fn keep_over(
        &mut self,
        rewrite: &mut dyn Rewrite,
        op: Op,
        operands: &[ValueId],
        node: &Node,
    ) -> Result<Vec<ValueId>> {
        let mut regions: SmallVec<[RegionId; 2]> = SmallVec::new();
        for r in &node.regions {
            let (params, columns) = self.b.region_entry(&op, operands, &regions)?;
            regions.push(self.region(rewrite, *r, &params, columns)?);
        }
        self.b.set_place(node.place);
        let results = self.b.push(op, operands, &regions)?;
        self.b.set_place(None);
        Ok(results)
    }

    /// A region made anew, with parameters of these types.
    pub fn region(
        &mut self,
        rewrite: &mut dyn Rewrite,
        old: RegionId,
        params: &[Type],
        columns: Vec<TableType>,
    ) -> Result<RegionId> {
        let params = self.b.begin_region(params, columns);
        let results = self.open_body(rewrite, old, &params)?;
        Ok(self.b.end_region(&results))
    }

    fn open_body(&mut self, rewrite: &mut dyn Rewrite, old: RegionId, params: &[ValueId]) -> Result<Vec<ValueId>> {
        rewrite.enter(self, old);
        let results = self.inline(rewrite, old, params)?;
        rewrite.leave(self, old);
        Ok(results)
    }

    /// The nodes of an old region made anew in the region that is open now, its parameters being `params`; its results.
    pub fn inline(&mut self, rewrite: &mut dyn Rewrite, old: RegionId, params: &[ValueId]) -> Result<Vec<ValueId>> {
        let program = self.old;
        let region = program.region(old);
        if region.params.len() != params.len() {
            return Err(Error::Bug("a region is given another number of parameters than it has".into()));
        }
        for (old, new) in region.params.iter().zip(params) {
            self.set_value(*old, *new);
        }
        self.nodes(rewrite, old)?;
        self.values(&region.results)
    }

    /// A region made anew with some of its parameters (by position, with their types) and some of its results.
    pub fn region_where(
        &mut self,
        rewrite: &mut dyn Rewrite,
        old: RegionId,
        params: &[(usize, Type)],
        columns: Vec<TableType>,
        results: &[usize],
    ) -> Result<RegionId> {
        let types: Vec<Type> = params.iter().map(|p| p.1.clone()).collect();
        let new = self.b.begin_region(&types, columns);
        let region = self.old.region(old);
        for ((i, _), v) in params.iter().zip(new) {
            self.set_value(region.params[*i], v);
        }
        rewrite.enter(self, old);
        self.nodes(rewrite, old)?;
        rewrite.leave(self, old);
        let results = results.iter().map(|i| self.value(region.results[*i])).collect::<Result<Vec<_>>>()?;
        Ok(self.b.end_region(&results))
    }

    fn nodes(&mut self, rewrite: &mut dyn Rewrite, region: RegionId) -> Result<()> {
        let program = self.old;
        for &id in &program.region(region).nodes {
            let node = program.node(id);
            let results: Vec<Option<ValueId>> = match rewrite.node(self, id, node)? {
                Change::Keep => self.keep(rewrite, node)?.into_iter().map(Some).collect(),
                Change::Values(values) => values.into_iter().map(Some).collect(),
                Change::Some(values) => values,
                Change::Drop => continue,
            };
            if results.len() != node.results.len() {
                return Err(Error::Bug("a rewrite gives another number of results".into()));
            }
            for (old, new) in node.results.iter().zip(results) {
                if let Some(new) = new {
                    self.set_value(*old, new);
                }
            }
        }
        Ok(())
    }

    /// [`Rebuild::inline`] with fresh columns and symbols for those that the region defines, so that it may stand more than
    /// once in the new program.
    pub fn inline_fresh(
        &mut self,
        rewrite: &mut dyn Rewrite,
        old: RegionId,
        params: &[ValueId],
    ) -> Result<Vec<ValueId>> {
        let (columns, symbols) = (self.columns.clone(), self.symbols.clone());
        let program = self.old;
        let (mut new_columns, mut new_symbols) = (vec![], vec![]);
        walk(program, old, &mut |_, node| {
            defined_columns(&node.op, &mut |c| new_columns.push(c));
            new_symbols.extend(bound_symbol(&node.op));
        });
        for c in new_columns {
            let info = program.columns[c.index()].clone();
            let fresh = self.b.program_mut().new_column(info.name, info.ty);
            self.columns.insert(c, fresh);
        }
        for s in new_symbols {
            let fresh = self.b.program_mut().new_symbol(program.symbols[s.index()].clone());
            self.symbols.insert(s, fresh);
        }
        let results = self.inline(rewrite, old, params);
        self.columns = columns;
        self.symbols = symbols;
        results
    }
}

/// A rewrite that changes nothing.
pub struct Identity;

impl Rewrite for Identity {
    fn node(&mut self, _: &mut Rebuild<'_>, _: NodeId, _: &Node) -> Result<Change> {
        Ok(Change::Keep)
    }
}

/// The program with ids in the order of its text, and nothing that the text does not show: two programs that differ in
/// numbering only are equal then.
pub fn canonical(p: &Program) -> Result<Program> {
    let used = crate::text::used_columns(p);
    let mut columns = HashMap::new();
    let mut kept = Vec::new();
    for (i, info) in p.columns.iter().enumerate() {
        if used[i] {
            columns.insert(ColumnId(i as u32), ColumnId(kept.len() as u32));
            kept.push(info.clone());
        }
    }
    let mut new = rebuild_with(p, columns, &mut Identity)?;
    new.columns = kept;
    Ok(new)
}

/// Calls `f` for every node of a region and of the regions inside, in order, owners before bodies.
pub fn walk<'a>(p: &'a Program, region: RegionId, f: &mut dyn FnMut(NodeId, &'a Node)) {
    for &id in &p.region(region).nodes {
        let node = p.node(id);
        f(id, node);
        for r in &node.regions {
            walk(p, *r, f);
        }
    }
}

/// Calls `f` for every node of every function.
pub fn reachable_nodes<'a>(p: &'a Program, mut f: impl FnMut(NodeId, &'a Node)) {
    for func in &p.funcs {
        walk(p, func.body, &mut f);
    }
}

/// The values that a region reads from outside of it, each once, in order of first use.
pub fn captures(p: &Program, region: RegionId) -> Vec<ValueId> {
    fn visit(p: &Program, region: RegionId, inside: &mut Vec<RegionId>, out: &mut Vec<ValueId>) {
        inside.push(region);
        let mut read = |v: ValueId, inside: &[RegionId]| {
            let home = match p.values[v.index()].def {
                Def::Param(r, _) => Some(r),
                Def::Result(n, _) => inside.iter().copied().find(|r| p.region(*r).nodes.contains(&n)),
            };
            if home.is_none_or(|r| !inside.contains(&r)) && !out.contains(&v) {
                out.push(v);
            }
        };
        for &id in &p.region(region).nodes {
            p.node(id).operands.iter().for_each(|v| read(*v, inside));
        }
        p.region(region).results.iter().for_each(|v| read(*v, inside));
        for &id in &p.region(region).nodes {
            for r in &p.node(id).regions {
                visit(p, *r, inside, out);
            }
        }
        inside.pop();
    }
    let mut out = Vec::new();
    visit(p, region, &mut Vec::new(), &mut out);
    out
}

/// Writes a function over every column id of an operation, once for reading and once for changing: definitions go to `$def`,
/// uses to `$read`.
macro_rules! for_columns {
    ($op:expr, $def:ident, $read:ident, $($m:tt)*) => {
        match $op {
            Op::Col(id) => $read(id),
            Op::Literal(..) | Op::Scalar(_) | Op::Input(_) | Op::Tensor(_) | Op::Control(_) => {}
            Op::Rel(op) => match op {
                RelOp::Scan { columns, .. } => columns.into_iter().for_each(|c| $def($($m)* c.id)),
                RelOp::Values { columns, .. } => columns.into_iter().for_each(|c| $def($($m)* c.id)),
                RelOp::Extend { columns } => columns.into_iter().for_each(|c| $def(c)),
                RelOp::Project { columns } => columns.into_iter().for_each(|c| $read(c)),
                RelOp::Filter | RelOp::Limit { .. } => {}
                RelOp::Join { kind } | RelOp::DependentJoin { kind } => {
                    if let JoinKind::Mark(id) = kind {
                        $def(id);
                    }
                }
                RelOp::Group { keys, aggregates } => {
                    keys.into_iter().for_each(|c| $read(c));
                    for a in aggregates {
                        ($($m)* a.arg).into_iter().for_each(|c| $read(c));
                        ($($m)* a.filter).into_iter().for_each(|c| $read(c));
                        $def($($m)* a.out);
                    }
                }
                RelOp::Sort { keys, .. } => keys.into_iter().for_each(|k| $read($($m)* k.column)),
                RelOp::Union { inputs, columns } => {
                    inputs.into_iter().for_each(|ids| ids.into_iter().for_each(|c| $read(c)));
                    columns.into_iter().for_each(|c| $def(c));
                }
                RelOp::Recurse { base, working, columns, .. } => {
                    base.into_iter().for_each(|c| $read(c));
                    working.into_iter().for_each(|c| $def(c));
                    columns.into_iter().for_each(|c| $def($($m)* c.id));
                }
                RelOp::Window { partition, order, columns } => {
                    partition.into_iter().for_each(|c| $read(c));
                    order.into_iter().for_each(|k| $read($($m)* k.column));
                    for c in columns {
                        if let Some(arg) = $($m)* c.arg {
                            $read(arg);
                        }
                        $def($($m)* c.out);
                    }
                }
            },
            Op::Bridge(op) => match op {
                BridgeOp::ToTensor { groups, .. } => {
                    groups.into_iter().for_each(|g| ($($m)* g.columns).into_iter().for_each(|c| $read(c)));
                }
                BridgeOp::ToTable { columns } => columns.into_iter().for_each(|c| $def(c)),
                BridgeOp::Apply { inputs, columns, .. } => {
                    inputs.into_iter().for_each(|g| ($($m)* g.columns).into_iter().for_each(|c| $read(c)));
                    columns.into_iter().for_each(|c| $def(c));
                }
                BridgeOp::ForBatches { .. } | BridgeOp::RowCount => {}
            },
        }
    };
}

/// Calls `f` for every column that an operation names.
pub fn columns_of(op: &Op, f: &mut dyn FnMut(ColumnId)) {
    let f = std::cell::RefCell::new(f);
    let (def, read) = (|c: &ColumnId| (f.borrow_mut())(*c), |c: &ColumnId| (f.borrow_mut())(*c));
    for_columns!(op, def, read, &);
}

/// Calls `f` for every column that an operation makes.
pub fn defined_columns(op: &Op, f: &mut dyn FnMut(ColumnId)) {
    let mut def = |c: &ColumnId| f(*c);
    let read = |_: &ColumnId| {};
    for_columns!(op, def, read, &);
}

/// Calls `f` for every column that an operation reads.
pub fn read_columns(op: &Op, f: &mut dyn FnMut(ColumnId)) {
    let def = |_: &ColumnId| {};
    let mut read = |c: &ColumnId| f(*c);
    for_columns!(op, def, read, &);
}

/// Calls `f` for every column id of an operation, to change it.
pub fn columns_of_mut(op: &mut Op, f: &mut dyn FnMut(&mut ColumnId)) {
    let f = std::cell::RefCell::new(f);
    let (def, read) = (|c: &mut ColumnId| (f.borrow_mut())(c), |c: &mut ColumnId| (f.borrow_mut())(c));
    for_columns!(op, def, read, &mut);
}

/// The symbol whose size an operation sets.
pub fn bound_symbol(op: &Op) -> Option<SymId> {
    match op {
        Op::Bridge(BridgeOp::ToTensor { rows, .. } | BridgeOp::Apply { rows, .. }) => Some(*rows),
        Op::Bridge(BridgeOp::ForBatches { batch, .. }) => Some(*batch),
        Op::Control(ControlOp::ForParts { part, .. }) => Some(*part),
        _ => None,
    }
}

/// Calls `f` for every symbol of a dimension.
pub fn symbols_of(dim: &Dim, f: &mut dyn FnMut(SymId)) {
    match dim {
        Dim::Const(_) => {}
        Dim::Sym(s) => f(*s),
        Dim::Add(a, b) | Dim::Mul(a, b) | Dim::FloorDiv(a, b) => {
            symbols_of(a, f);
            symbols_of(b, f);
        }
    }
}

/// Writes a function over every dimension that an operation names, once for reading and once for changing.
macro_rules! for_dims {
    ($op:expr, $f:ident, $($m:tt)*) => {
        match $op {
            Op::Tensor(TensorOp::Iota { ty, .. } | TensorOp::Random { ty, .. }) => {
                ($($m)* ty.shape).into_iter().for_each(|d| $f(d));
            }
            Op::Tensor(TensorOp::Map { shape }) => shape.into_iter().for_each(|d| $f(d)),
            Op::Tensor(TensorOp::View(moves)) => {
                for m in moves {
                    match m {
                        Move::Broadcast { shape, .. } | Move::Reshape(shape) => shape.into_iter().for_each(|d| $f(d)),
                        Move::Slice { start, len, .. } => {
                            $f(start);
                            $f(len);
                        }
                        Move::Permute(_) | Move::Pad { .. } | Move::Reverse(_) => {}
                    }
                }
            }
            Op::Control(ControlOp::For { length, .. }) => $f(length),
            Op::Control(ControlOp::Pop { types, .. }) => {
                for ty in types {
                    ($($m)* ty.shape).into_iter().for_each(|d| $f(d));
                }
            }
            Op::Control(ControlOp::AccNew(ty)) => ($($m)* ty.shape).into_iter().for_each(|d| $f(d)),
            Op::Literal(..)
            | Op::Col(_)
            | Op::Scalar(_)
            | Op::Input(_)
            | Op::Rel(_)
            | Op::Tensor(_)
            | Op::Bridge(_)
            | Op::Control(_) => {}
        }
    };
}

/// Calls `f` for every dimension that an operation names in its attributes.
pub fn dims_of(op: &Op, f: &mut dyn FnMut(&Dim)) {
    for_dims!(op, f, &);
}

/// Calls `f` for every dimension that an operation names in its attributes, to change it.
pub fn dims_of_mut(op: &mut Op, f: &mut dyn FnMut(&mut Dim)) {
    for_dims!(op, f, &mut);
}

fn map_dim(dim: &mut Dim, f: &dyn Fn(SymId) -> SymId) {
    match dim {
        Dim::Const(_) => {}
        Dim::Sym(s) => *s = f(*s),
        Dim::Add(a, b) | Dim::Mul(a, b) | Dim::FloorDiv(a, b) => {
            map_dim(a, f);
            map_dim(b, f);
        }
    }
}

fn map_shape(shape: &mut [Dim], f: &dyn Fn(SymId) -> SymId) {
    shape.iter_mut().for_each(|d| map_dim(d, f));
}

/// Changes every symbol of an operation.
fn map_symbols(op: &mut Op, f: &dyn Fn(SymId) -> SymId) {
    dims_of_mut(op, &mut |d| map_dim(d, f));
    match op {
        Op::Bridge(BridgeOp::ToTensor { rows, .. } | BridgeOp::Apply { rows, .. }) => *rows = f(*rows),
        Op::Bridge(BridgeOp::ForBatches { batch, .. }) => *batch = f(*batch),
        Op::Control(ControlOp::ForParts { part, .. }) => *part = f(*part),
        _ => {}
    }
}

/// Whether a window function looks at its frame (others look at the whole partition).
pub fn uses_frame(func: &WindowFunc) -> bool {
    match func {
        WindowFunc::NthValue(_) | WindowFunc::LastValue | WindowFunc::Concat { .. } | WindowFunc::Reduce(_) => true,
        WindowFunc::RowNumber
        | WindowFunc::Rank
        | WindowFunc::DenseRank
        | WindowFunc::PercentRank
        | WindowFunc::CumeDist
        | WindowFunc::Ntile(_)
        | WindowFunc::Lag { .. } => false,
    }
}
