//! The verifier of the graph level.
//!
//! What holds, in the order it is checked:
//!
//! 1. Ids are in range. A region has one owner: a function or a node. A node stands in one region. What a value says of its
//!    definition is so.
//! 2. Names of functions and of inputs are unique. The entry has no parameters and nobody calls it. There is a list of names
//!    for each of its results; for a table, a name for each column.
//! 3. A node reads values of its region that stand before it, parameters of its region, and what is visible where the
//!    region's owner stands. Nothing is captured from another function. A region's results are visible at its end.
//! 4. Operations have as many operands and regions as their kind has, and regions the parameters that follow from the
//!    operands.
//! 5. Result types equal the inferred ones. (So a column is read only where it is visible, and what a loop carries keeps its
//!    type.)
//! 6. A column is made by one operation of the program, with the type that the program's list says. A table carries a column
//!    once.
//! 7. A symbol is bound before it is used: by an input, by a function's parameters, by a `to_tensor` that stands before, or
//!    for a region by its owner (`apply`, `for_batches`). Where it is bound, it is not bound again.
//! 8. A tape or a sum is used at most once, and not by a map or a loop that it comes from outside of (the branches of an
//!    `if` are one use).
//! 9. With [`Stage::Unnested`], no dependent join is left, and a row region reads `col` of its owner's tables only.

use std::collections::{HashMap, HashSet};

use crate::entity::{ColumnId, FuncId, NodeId, RegionId, SymId, ValueId};
use crate::error::{Error, Result};
use crate::graph::build::{check_arity, infer, region_entry};
use crate::graph::rewrite::{bound_symbol, columns_of, defined_columns, dims_of, symbols_of};
use crate::graph::{ControlOp, Def, InputKind, Node, Op, Program, RelOp};
use crate::types::{TableType, Type};

/// How far the optimizer has come: later stages allow less.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Stage {
    /// Everything that a front end may write.
    #[default]
    Built,
    /// Subqueries are joins.
    Unnested,
}

/// Checks all that holds of a program; an error names the function and the node.
pub fn verify(p: &Program) -> Result<()> {
    verify_at(p, Stage::Built)
}

/// Checks all that holds of a program at a stage.
pub fn verify_at(p: &Program, stage: Stage) -> Result<()> {
    structure(p)?;
    declarations(p)?;
    let mut v = Verifier {
        p,
        stage,
        visible: HashSet::new(),
        rows: vec![],
        symbols: HashSet::new(),
        made: HashMap::new(),
        func: FuncId(0),
    };
    for i in 0..p.funcs.len() {
        v.func(FuncId(i as u32))?;
        let f = FuncId(i as u32);
        linear(p, p.func(f).body, &mut HashSet::new()).map_err(|e| in_func(p, f, e))?;
    }
    Ok(())
}

/// Point 8. `used` holds what was used up before.
fn linear(p: &Program, region: RegionId, used: &mut HashSet<ValueId>) -> Result<()> {
    let take = |v: &ValueId, used: &mut HashSet<ValueId>| {
        if p.ty(*v).is_linear() && !used.insert(*v) {
            return wrong(format!("a value of type {} is used twice", p.ty(*v)));
        }
        Ok(())
    };
    for n in &p.region(region).nodes {
        let node = p.node(*n);
        node.operands.iter().try_for_each(|v| take(v, used))?;
        let before = used.clone();
        for r in &node.regions {
            // What one branch uses, another one may use too. The condition of a loop looks on.
            let mut inside = before.clone();
            linear(p, *r, &mut inside)?;
            if inside.len() == before.len() {
                continue;
            }
            let defined = defined_in(p, *r);
            for v in inside.difference(&before).filter(|v| !defined.contains(*v)) {
                if !matches!(node.op, Op::Control(ControlOp::If)) {
                    return wrong(format!(
                        "a value of type {} is used by a loop that it comes from outside of",
                        p.ty(*v)
                    ));
                }
                used.insert(*v);
            }
        }
    }
    p.region(region).results.iter().try_for_each(|v| take(v, used))
}

fn defined_in(p: &Program, region: RegionId) -> HashSet<ValueId> {
    let mut out: HashSet<ValueId> = p.region(region).params.iter().copied().collect();
    crate::graph::rewrite::walk(p, region, &mut |_, node| {
        out.extend(&node.results);
        node.regions.iter().for_each(|r| out.extend(&p.region(*r).params));
    });
    out
}

fn wrong<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Type(message.into()))
}

/// Point 1: what everything else (and the printer) stands on.
fn structure(p: &Program) -> Result<()> {
    let mut regions = vec![false; p.regions.len()];
    let mut nodes = vec![false; p.nodes.len()];
    for (i, f) in p.funcs.iter().enumerate() {
        own(p, f.body, &mut regions, &mut nodes).map_err(|e| in_func(p, FuncId(i as u32), e))?;
    }
    match p.entry {
        Some(f) if f.index() >= p.funcs.len() => wrong("the entry is not a function of the program"),
        _ => Ok(()),
    }
}

fn own(p: &Program, r: RegionId, regions: &mut [bool], nodes: &mut [bool]) -> Result<()> {
    let Some(owned) = regions.get_mut(r.index()) else { return wrong(format!("there is no region {r}")) };
    if std::mem::replace(owned, true) {
        return wrong(format!("region {r} has two owners"));
    }
    let region = p.region(r);
    let known = |v: &ValueId| v.index() < p.values.len();
    for (i, v) in region.params.iter().enumerate() {
        if !known(v) || p.values[v.index()].def != Def::Param(r, i as u32) {
            return wrong(format!("parameter {i} of region {r} is not defined there"));
        }
    }
    for &n in &region.nodes {
        let Some(placed) = nodes.get_mut(n.index()) else { return wrong(format!("there is no node {n}")) };
        if std::mem::replace(placed, true) {
            return wrong(format!("node {n} stands in two places"));
        }
        let node = p.node(n);
        if !node.operands.iter().all(known) {
            return wrong(format!("node {n} reads a value that does not exist"));
        }
        for (i, v) in node.results.iter().enumerate() {
            if !known(v) || p.values[v.index()].def != Def::Result(n, i as u32) {
                return wrong(format!("result {i} of node {n} is not defined there"));
            }
        }
        if node.place.is_some_and(|place| place.index() >= p.places.len()) {
            return wrong(format!("node {n} has an unknown place"));
        }
        ids_in_range(p, &node.op)?;
        for &inner in &node.regions {
            own(p, inner, regions, nodes)?;
        }
    }
    if region.results.iter().all(known) {
        Ok(())
    } else {
        wrong(format!("region {r} yields a value that does not exist"))
    }
}

fn ids_in_range(p: &Program, op: &Op) -> Result<()> {
    let mut unknown = None;
    columns_of(op, &mut |c| {
        if c.index() >= p.columns.len() {
            unknown = Some(c.to_string());
        }
    });
    op_symbols(op, &mut |s| {
        if s.index() >= p.symbols.len() {
            unknown = Some(s.to_string());
        }
    });
    match op {
        Op::Input(id) | Op::Rel(RelOp::Scan { input: id, .. }) if id.index() >= p.inputs.len() => {
            unknown = Some(id.to_string());
        }
        Op::Control(ControlOp::Call(f)) if f.index() >= p.funcs.len() => unknown = Some(f.to_string()),
        _ => {}
    }
    match unknown {
        Some(id) => wrong(format!("the program does not know {id}")),
        None => Ok(()),
    }
}

/// Every symbol that an operation names.
fn op_symbols(op: &Op, f: &mut dyn FnMut(SymId)) {
    bound_symbol(op).into_iter().for_each(&mut *f);
    dims_of(op, &mut |d| symbols_of(d, f));
}

/// Every symbol of a type.
fn type_symbols(ty: &Type, f: &mut dyn FnMut(SymId)) {
    if let Type::Tensor(t) | Type::Acc(t) = ty {
        t.shape.iter().for_each(|d| symbols_of(d, f));
    }
}

/// Point 2.
fn declarations(p: &Program) -> Result<()> {
    let mut names = HashSet::new();
    for f in &p.funcs {
        if !names.insert(&f.name) {
            return wrong(format!("there are two functions @{}", f.name));
        }
    }
    let mut names = HashSet::new();
    for i in &p.inputs {
        if !names.insert(&i.name) {
            return wrong(format!("there are two inputs \"{}\"", i.name));
        }
    }
    let Some(entry) = p.entry_region() else { return Ok(()) };
    if !entry.params.is_empty() {
        return wrong("the entry has parameters");
    }
    if p.result_names.len() != entry.results.len() {
        let (names, results) = (p.result_names.len(), entry.results.len());
        return wrong(format!("{names} lists of names for {results} results of the entry"));
    }
    for (names, v) in p.result_names.iter().zip(&entry.results) {
        let wanted = p.ty(*v).as_table().map_or(1, |t| t.columns.len());
        if names.len() != wanted {
            return wrong(format!("{} names for a result with {wanted}", names.len()));
        }
    }
    Ok(())
}

fn in_func(p: &Program, f: FuncId, e: Error) -> Error {
    match e {
        Error::Type(message) => Error::Type(format!("in @{}: {message}", p.func(f).name)),
        e => e,
    }
}

struct Verifier<'a> {
    p: &'a Program,
    stage: Stage,
    visible: HashSet<ValueId>,
    /// The tables of the row regions around, innermost last.
    rows: Vec<Vec<TableType>>,
    symbols: HashSet<SymId>,
    /// Which node makes a column.
    made: HashMap<ColumnId, NodeId>,
    func: FuncId,
}

impl Verifier<'_> {
    fn func(&mut self, f: FuncId) -> Result<()> {
        self.visible.clear();
        self.rows.clear();
        self.symbols.clear();
        self.func = f;
        let symbols = &mut self.symbols;
        for input in &self.p.inputs {
            if let InputKind::Tensor(t) = &input.kind {
                type_symbols(&Type::Tensor(t.clone()), &mut |s| {
                    symbols.insert(s);
                });
            }
        }
        let body = self.p.func(f).body;
        for v in &self.p.region(body).params {
            type_symbols(self.p.ty(*v), &mut |s| {
                symbols.insert(s);
            });
        }
        self.region(body).map_err(|e| in_func(self.p, f, e))
    }

    fn region(&mut self, r: RegionId) -> Result<()> {
        let region = self.p.region(r);
        let mut added = region.params.clone();
        let mut bound = Vec::new();
        self.visible.extend(&region.params);
        for &n in &region.nodes {
            let node = self.p.node(n);
            self.node(n, node, &mut bound).map_err(|e| match e {
                Error::Type(message) if !message.contains('`') => {
                    Error::Type(format!("`{}`: {message}", crate::text::print_node(self.p, n)))
                }
                e => e,
            })?;
            self.visible.extend(&node.results);
            added.extend(&node.results);
        }
        for v in &region.results {
            if !self.visible.contains(v) {
                return wrong("a region yields a value that is not visible at its end");
            }
        }
        // What a region defines is not visible behind it.
        added.iter().for_each(|v| {
            self.visible.remove(v);
        });
        bound.iter().for_each(|s| {
            self.symbols.remove(s);
        });
        Ok(())
    }

    fn node(&mut self, n: NodeId, node: &Node, bound: &mut Vec<SymId>) -> Result<()> {
        if let Some(i) = node.operands.iter().position(|v| !self.visible.contains(v)) {
            return wrong(format!("operand {i} is not visible here"));
        }
        check_arity(&node.op, node.operands.len(), node.regions.len())?;
        self.stage(&node.op)?;
        self.bind(&node.op, bound)?;
        for (i, &r) in node.regions.iter().enumerate() {
            let (params, tables) = region_entry(self.p, &node.op, &node.operands, &node.regions[..i])?;
            let region = self.p.region(r);
            let fits = region.params.len() == params.len()
                && region.params.iter().zip(&params).all(|(v, ty)| self.p.ty(*v) == ty);
            if !fits {
                return wrong(format!("region {i} has not the parameters that follow from the operands"));
            }
            self.rows.push(tables);
            self.region(r)?;
            self.rows.pop();
        }
        self.unbind_region_symbol(&node.op);
        self.types(node)?;
        self.columns(n, node)
    }

    /// Points 5 and, for types, 7.
    fn types(&self, node: &Node) -> Result<()> {
        // An `if` inside a row expression has no rows of its own: it stands over the row around it.
        let rows = self.rows.iter().rev().filter(|tables| !tables.is_empty());
        let around = if self.stage == Stage::Built { usize::MAX } else { 1 };
        let column = |id| rows.clone().take(around).find_map(|tables| tables.iter().find_map(|t| t.get(id)));
        let types = infer(self.p, &node.op, &node.operands, &node.regions, &column, &|_| None)?;
        if types.len() != node.results.len() {
            return wrong(format!("{} results where there are {}", node.results.len(), types.len()));
        }
        for (ty, v) in types.iter().zip(&node.results) {
            if self.p.ty(*v) != ty {
                return wrong(format!("the type is {ty}, not {}", self.p.ty(*v)));
            }
            let mut unbound = None;
            type_symbols(ty, &mut |s| {
                if !self.symbols.contains(&s) {
                    unbound = Some(s);
                }
            });
            if let Some(s) = unbound {
                return wrong(format!("symbol {s} is not bound here"));
            }
        }
        if let Op::Control(ControlOp::Call(f)) = &node.op
            && self.p.entry == Some(*f)
        {
            return wrong("the entry is called");
        }
        Ok(())
    }

    /// Point 6.
    fn columns(&mut self, n: NodeId, node: &Node) -> Result<()> {
        let mut made = Vec::new();
        defined_columns(&node.op, &mut |c| made.push(c));
        for c in made {
            if let Some(other) = self.made.insert(c, n) {
                let other = crate::text::print_node(self.p, other);
                return wrong(format!("column {c} is made by `{other}` too"));
            }
        }
        for ty in node.results.iter().filter_map(|v| self.p.ty(*v).as_table()) {
            let mut seen = HashSet::new();
            for c in &ty.columns {
                if !seen.insert(c.id) {
                    return wrong(format!("the table carries column {} twice", c.id));
                }
                let declared = self.p.columns[c.id.index()].ty;
                if declared != c.ty.ty {
                    return wrong(format!("column {} is declared as {declared}, here it is {}", c.id, c.ty.ty));
                }
            }
        }
        Ok(())
    }

    /// Point 7: what an operation binds and uses.
    fn bind(&mut self, op: &Op, bound: &mut Vec<SymId>) -> Result<()> {
        let binds = bound_symbol(op);
        if let Some(s) = binds {
            if !self.symbols.insert(s) {
                return wrong(format!("symbol {s} is bound already"));
            }
            if binds_from_here(op) {
                bound.push(s);
            }
        }
        let mut unbound = None;
        op_symbols(op, &mut |s| {
            if !self.symbols.contains(&s) {
                unbound = Some(s);
            }
        });
        match unbound {
            Some(s) => wrong(format!("symbol {s} is not bound here")),
            None => Ok(()),
        }
    }

    fn unbind_region_symbol(&mut self, op: &Op) {
        if let Some(s) = bound_symbol(op)
            && !binds_from_here(op)
        {
            self.symbols.remove(&s);
        }
    }

    /// Point 9.
    fn stage(&self, op: &Op) -> Result<()> {
        match (self.stage, op) {
            (Stage::Unnested, Op::Rel(RelOp::DependentJoin { .. })) => wrong("a dependent join is left"),
            _ => Ok(()),
        }
    }
}

/// Whether an operation binds its symbol for all that follows, rather than for its region.
fn binds_from_here(op: &Op) -> bool {
    matches!(op, Op::Bridge(crate::graph::BridgeOp::ToTensor { .. }))
}
