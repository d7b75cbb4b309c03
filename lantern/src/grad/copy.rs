//! Writing operations once more: the body of a function or of a branch, where a builder stands.

use std::collections::HashMap;

use ir::entity::{FuncId, NodeId, RegionId, SymId, ValueId};
use ir::graph::rewrite::{bound_symbol, dims_of_mut};
use ir::graph::{BridgeOp, Builder, ControlOp, InputKind, Node, Op, Program};
use ir::types::{Dim, TensorType, Type};
use ir::{Error, Result};

/// A copy under way.
pub(crate) struct Copy<'a> {
    /// The program that is read; `None` for the builder's own.
    from: Option<&'a Program>,
    /// What values become; a value of the builder's own program that is not here stays.
    pub(crate) values: HashMap<ValueId, ValueId>,
    symbols: HashMap<SymId, Dim>,
    /// Functions of the program that is read.
    funcs: HashMap<FuncId, FuncId>,
}

impl<'a> Copy<'a> {
    pub(crate) fn new(from: Option<&'a Program>) -> Self {
        Self { from, values: HashMap::new(), symbols: HashMap::new(), funcs: HashMap::new() }
    }

    fn source<'b>(&'b self, b: &'b Builder) -> &'b Program {
        self.from.unwrap_or_else(|| b.program())
    }

    pub(crate) fn value(&self, v: ValueId) -> Result<ValueId> {
        match self.values.get(&v) {
            Some(new) => Ok(*new),
            None if self.from.is_none() => Ok(v),
            None => Err(Error::Bug(format!("{v} was not copied"))),
        }
    }

    pub(crate) fn all(&self, values: &[ValueId]) -> Result<Vec<ValueId>> {
        values.iter().map(|v| self.value(*v)).collect()
    }

    /// The nodes of a region, where the builder stands; the region's results.
    pub(crate) fn region(&mut self, b: &mut Builder, region: RegionId) -> Result<Vec<ValueId>> {
        let (nodes, results) = {
            let region = self.source(b).region(region);
            (region.nodes.clone(), region.results.clone())
        };
        for n in nodes {
            self.node(b, n)?;
        }
        self.all(&results)
    }

    /// One node.
    pub(crate) fn node(&mut self, b: &mut Builder, n: NodeId) -> Result<()> {
        let node: Node = self.source(b).node(n).clone();
        if node.results.iter().all(|v| self.values.contains_key(v)) && !node.results.is_empty() {
            return Ok(());
        }
        let op = self.op(b, &node.op)?;
        let operands = self.all(&node.operands)?;
        let mut regions = vec![];
        for r in &node.regions {
            let (types, columns) = b.region_entry(&op, &operands, &regions)?;
            let params = b.begin_region(&types, columns);
            let old = self.source(b).region(*r).params.clone();
            self.values.extend(old.into_iter().zip(params));
            let results = self.region(b, *r);
            let region = b.end_region(results.as_deref().unwrap_or(&[]));
            results?;
            regions.push(region);
        }
        b.set_place(if self.from.is_none() { node.place } else { None });
        let results = b.push(op, &operands, &regions);
        b.set_place(None);
        self.values.extend(node.results.iter().copied().zip(results?));
        Ok(())
    }

    /// A function of the program that is read.
    fn func(&mut self, b: &mut Builder, from: &'a Program, f: FuncId) -> Result<FuncId> {
        if let Some(new) = self.funcs.get(&f) {
            return Ok(*new);
        }
        let func = from.func(f);
        let region = from.region(func.body);
        let types = |values: &[ValueId]| values.iter().map(|v| self.ty(from.ty(*v))).collect::<Vec<_>>();
        let (params, results) = (types(&region.params), types(&region.results));
        let name = unique_name(b.program(), &func.name);
        let new = b.declare_func(name, &params, &results);
        self.funcs.insert(f, new);
        let given = b.begin_declared(new);
        self.values.extend(region.params.iter().copied().zip(given));
        match self.region(b, func.body) {
            Ok(results) => b.end_declared(new, &results)?,
            Err(e) => {
                b.end_region(&[]);
                return Err(e);
            }
        }
        Ok(new)
    }

    fn ty(&self, ty: &Type) -> Type {
        let tensor = |t: &TensorType| TensorType::new(t.dtype, t.shape.iter().map(|d| self.dim(d)));
        match ty {
            Type::Tensor(t) => Type::Tensor(tensor(t)),
            Type::Acc(t) => Type::Acc(tensor(t)),
            Type::Scalar(_) | Type::Table(_) | Type::Tape => ty.clone(),
        }
    }

    fn op(&mut self, b: &mut Builder, op: &Op) -> Result<Op> {
        let mut op = op.clone();
        if let (Some(from), Op::Control(ControlOp::Call(f))) = (self.from, &mut op) {
            *f = self.func(b, from, *f)?;
        }
        if let Some(old) = bound_symbol(&op) {
            let name = self.source(b).symbols[old.index()].clone();
            let new = b.program_mut().new_symbol(name);
            self.symbols.insert(old, Dim::Sym(new));
            if let Op::Bridge(
                BridgeOp::ToTensor { rows: s, .. }
                | BridgeOp::Apply { rows: s, .. }
                | BridgeOp::ForBatches { batch: s, .. },
            )
            | Op::Control(ControlOp::ForParts { part: s, .. }) = &mut op
            {
                *s = new;
            }
        }
        dims_of_mut(&mut op, &mut |d| *d = self.dim(d));
        Ok(op)
    }

    fn dim(&self, d: &Dim) -> Dim {
        match d {
            Dim::Const(n) => Dim::Const(*n),
            Dim::Sym(s) => self.symbols.get(s).cloned().unwrap_or(Dim::Sym(*s)),
            Dim::Add(x, y) => self.dim(x).plus(self.dim(y)),
            Dim::Mul(x, y) => self.dim(x).times(self.dim(y)),
            Dim::FloorDiv(x, y) => self.dim(x).floor_div(self.dim(y)),
        }
    }

    /// An input of the program that is read stands for a value of this type; its symbols become sizes of that.
    fn bind(&mut self, name: &str, want: &TensorType, given: &TensorType) -> Result<()> {
        let wrong = || Error::Type(format!("input \"{name}\" is {want}, and {given} does not fit"));
        if want.dtype != given.dtype || want.rank() != given.rank() {
            return Err(wrong());
        }
        for (w, g) in want.shape.iter().zip(&given.shape) {
            if let Dim::Sym(s) = w {
                self.symbols.entry(*s).or_insert_with(|| g.clone());
            }
        }
        let fits = want.shape.iter().zip(&given.shape).all(|(w, g)| self.dim(w) == *g);
        if fits { Ok(()) } else { Err(wrong()) }
    }
}

/// The entry function of a program over tensors, where the builder stands; its results.
pub(crate) fn call(b: &mut Builder, program: &Program, args: &[ValueId]) -> Result<Vec<ValueId>> {
    let entry = program.entry.ok_or_else(|| Error::Type("the program has no entry".into()))?;
    if args.len() != program.inputs.len() {
        return Err(Error::Type(format!("{} arguments for {} inputs", args.len(), program.inputs.len())));
    }
    let mut copy = Copy::new(Some(program));
    for (input, arg) in program.inputs.iter().zip(args) {
        match (&input.kind, b.ty(*arg).as_tensor().cloned()) {
            (InputKind::Tensor(want), Some(given)) => copy.bind(&input.name, want, &given)?,
            _ => return Err(Error::Type(format!("input \"{}\" is no tensor", input.name))),
        }
    }
    let body = program.func(entry).body;
    for n in &program.region(body).nodes {
        let node = program.node(*n);
        if let Op::Input(id) = node.op {
            copy.values.insert(node.results[0], args[id.index()]);
        }
    }
    copy.region(b, body)
}

/// A name that no function of a program has: this one, or with a number.
pub(crate) fn unique_name(p: &Program, name: &str) -> String {
    let is_free = |name: &str| p.funcs.iter().all(|f| f.name != name);
    let numbered = || (2..).map(|i| format!("{name}.{i}")).find(|n| is_free(n));
    if is_free(name) { name.into() } else { numbered().unwrap_or_default() }
}
