//! Which values are used, and which columns of each table.
//!
//! A value is used if a used node reads it, or a region or function yields it where its owner is used. A table's column is
//! used if something above reads it.
//!
//! All columns are used of a table that a loop carries, a branch yields, a function takes, or a recursion makes: there the types
//! of two places must agree.

use std::collections::{HashMap, HashSet};

use crate::entity::{ColumnId, FuncId, RegionId, SymId, ValueId};
use crate::graph::rewrite::{defined_columns, dims_of, reachable_nodes, symbols_of};
use crate::graph::{BridgeOp, ControlOp, Node, Op, Program, RelOp, TensorOp};
use crate::types::{TensorType, Type};

/// What of a program is used.
#[derive(Default)]
pub(crate) struct Live {
    values: HashSet<ValueId>,
    columns: HashMap<ValueId, HashSet<ColumnId>>,
    funcs: HashSet<FuncId>,
    /// A result of the `to_tensor` that binds a symbol.
    binders: HashMap<SymId, ValueId>,
}

impl Live {
    /// What the entry needs; without an entry, what any function needs.
    pub(crate) fn of(p: &Program) -> Self {
        let mut live = Self::default();
        reachable_nodes(p, |_, node| {
            if let (Op::Bridge(BridgeOp::ToTensor { rows, .. }), Some(v)) = (&node.op, node.results.first()) {
                live.binders.insert(*rows, *v);
            }
        });
        let mut todo: Vec<FuncId> = match p.entry {
            Some(f) => vec![f],
            None => (0..p.funcs.len() as u32).map(FuncId).collect(),
        };
        while let Some(f) = todo.pop() {
            if live.funcs.insert(f) {
                let body = p.func(f).body;
                let all: Vec<usize> = (0..p.region(body).results.len()).collect();
                for i in &all {
                    live.whole(p, p.region(body).results[*i]);
                }
                live.region(p, body, &mut todo);
            }
        }
        live
    }

    /// Whether a value is used.
    pub(crate) fn value(&self, v: ValueId) -> bool {
        self.values.contains(&v)
    }

    /// Whether a column of a table is used.
    pub(crate) fn column(&self, table: ValueId, id: ColumnId) -> bool {
        self.columns.get(&table).is_some_and(|c| c.contains(&id))
    }

    /// Whether a function is called from where it matters.
    pub(crate) fn func(&self, f: FuncId) -> bool {
        self.funcs.contains(&f)
    }

    /// Whether a node's results are used.
    pub(crate) fn node(&self, node: &Node) -> bool {
        node.results.iter().any(|v| self.value(*v))
    }

    fn read(&mut self, v: ValueId, columns: impl IntoIterator<Item = ColumnId>) {
        self.values.insert(v);
        self.columns.entry(v).or_default().extend(columns);
    }

    /// A value with all its columns.
    fn whole(&mut self, p: &Program, v: ValueId) {
        self.values.insert(v);
        if let Type::Table(t) = p.ty(v) {
            self.columns.entry(v).or_default().extend(t.columns.iter().map(|c| c.id));
        }
    }

    fn wanted(&self, v: ValueId) -> HashSet<ColumnId> {
        self.columns.get(&v).cloned().unwrap_or_default()
    }

    /// Walks a region whose used results are marked, from its end; the columns that it reads of rows around.
    fn region(&mut self, p: &Program, region: RegionId, todo: &mut Vec<FuncId>) -> HashSet<ColumnId> {
        let mut rows = HashSet::new();
        for n in p.region(region).nodes.iter().rev() {
            let node = p.node(*n);
            if self.node(node) {
                rows.extend(self.uses(p, node, todo));
            }
        }
        rows
    }

    /// Marks what a used node reads; the columns that it reads of rows around.
    fn uses(&mut self, p: &Program, node: &Node, todo: &mut Vec<FuncId>) -> HashSet<ColumnId> {
        // A size that an operation names is known from the node that binds it.
        let mut symbols = Vec::new();
        dims_of(&node.op, &mut |d| symbols_of(d, &mut |s| symbols.push(s)));
        for s in symbols {
            if let Some(v) = self.binders.get(&s) {
                self.values.insert(*v);
            }
        }
        match &node.op {
            Op::Col(id) => HashSet::from([*id]),
            Op::Literal(..) | Op::Input(_) => HashSet::new(),
            Op::Scalar(_) => {
                self.values.extend(&node.operands);
                HashSet::new()
            }
            Op::Rel(op) => self.rel(p, op, node, todo),
            Op::Tensor(TensorOp::Map { .. }) => {
                let region = node.regions[0];
                for i in self.used_results(node) {
                    self.values.insert(p.region(region).results[i]);
                }
                let rows = self.region(p, region, todo);
                for (v, param) in node.operands.iter().zip(&p.region(region).params) {
                    if self.value(*param) {
                        self.values.insert(*v);
                    }
                }
                rows
            }
            Op::Tensor(_) => {
                self.values.extend(&node.operands);
                HashSet::new()
            }
            Op::Bridge(op) => self.bridge(p, op, node, todo),
            Op::Control(op) => {
                if let ControlOp::Call(f) = op {
                    todo.push(*f);
                }
                self.all_of(p, node, todo)
            }
        }
    }

    fn used_results(&self, node: &Node) -> Vec<usize> {
        (0..node.results.len()).filter(|i| self.value(node.results[*i])).collect()
    }

    /// Everything that a node reads and its regions yield.
    fn all_of(&mut self, p: &Program, node: &Node, todo: &mut Vec<FuncId>) -> HashSet<ColumnId> {
        node.operands.iter().for_each(|v| self.whole(p, *v));
        let mut rows = HashSet::new();
        for r in &node.regions {
            p.region(*r).results.iter().for_each(|v| self.whole(p, *v));
            rows.extend(self.region(p, *r, todo));
        }
        rows
    }

    /// Columns that a row region reads, of the tables that it stands over or of rows around.
    fn row_region(
        &mut self,
        p: &Program,
        region: RegionId,
        used: &[usize],
        todo: &mut Vec<FuncId>,
    ) -> HashSet<ColumnId> {
        for i in used {
            self.values.insert(p.region(region).results[*i]);
        }
        self.region(p, region, todo)
    }

    /// Gives each table those of the columns that it has; what is left belongs to rows around.
    fn hand_out(&mut self, p: &Program, tables: &[ValueId], columns: HashSet<ColumnId>) -> HashSet<ColumnId> {
        let mut left = columns;
        for v in tables {
            let Some(t) = p.ty(*v).as_table() else { continue };
            let own: Vec<ColumnId> = t.columns.iter().map(|c| c.id).filter(|c| left.contains(c)).collect();
            own.iter().for_each(|c| {
                left.remove(c);
            });
            self.read(*v, own);
        }
        left
    }

    fn rel(&mut self, p: &Program, op: &RelOp, node: &Node, todo: &mut Vec<FuncId>) -> HashSet<ColumnId> {
        let mut wanted = self.wanted(node.results[0]);
        let mut made: Vec<ColumnId> = Vec::new();
        defined_columns(&node.op, &mut |c| made.push(c));
        let used: Vec<usize> = (0..made.len()).filter(|i| wanted.contains(&made[*i])).collect();
        made.iter().for_each(|c| {
            wanted.remove(c);
        });
        let mut rows = HashSet::new();
        match op {
            RelOp::Scan { .. } | RelOp::Values { .. } => return rows,
            RelOp::Extend { .. } => rows = self.row_region(p, node.regions[0], &used, todo),
            RelOp::Filter | RelOp::Join { .. } => rows = self.row_region(p, node.regions[0], &[0], todo),
            RelOp::Project { .. } | RelOp::Limit { .. } => {}
            RelOp::DependentJoin { kind } => {
                let right = p.region(node.regions[0]).results[0];
                let mut reads = self.row_region(p, node.regions[1], &[0], todo);
                if kind.has_right() {
                    reads.extend(&wanted);
                }
                // What is the right side's is handed to it; the rest it shares with the left side or with rows around.
                self.read(right, []);
                rows = self.hand_out(p, &[right], reads);
                rows.extend(self.region(p, node.regions[0], todo));
            }
            RelOp::Group { keys, aggregates } => {
                wanted.clear();
                wanted.extend(keys);
                for i in &used {
                    wanted.extend(aggregates[*i].arg.into_iter().chain(aggregates[*i].filter));
                }
            }
            RelOp::Sort { keys, .. } => wanted.extend(keys.iter().map(|k| k.column)),
            RelOp::Union { inputs, .. } => {
                for (v, ids) in node.operands.iter().zip(inputs) {
                    self.read(*v, used.iter().map(|i| ids[*i]));
                }
                return rows;
            }
            RelOp::Recurse { .. } => return self.all_of(p, node, todo),
            RelOp::Window { partition, order, columns } => {
                if !used.is_empty() {
                    wanted.extend(partition);
                    wanted.extend(order.iter().map(|k| k.column));
                    wanted.extend(used.iter().filter_map(|i| columns[*i].arg));
                }
            }
        }
        node.operands.iter().for_each(|v| self.read(*v, []));
        wanted.extend(rows);
        let left = self.hand_out(p, &node.operands, wanted);
        // Columns of the result that no operand has come from a region (a dependent join's right side).
        if matches!(op, RelOp::DependentJoin { .. }) {
            let right = p.region(node.regions[0]).results[0];
            return left.into_iter().filter(|c| p.ty(right).as_table().is_none_or(|t| t.get(*c).is_none())).collect();
        }
        left
    }

    fn bridge(&mut self, p: &Program, op: &BridgeOp, node: &Node, todo: &mut Vec<FuncId>) -> HashSet<ColumnId> {
        match op {
            BridgeOp::ToTensor { groups, .. } => {
                let used = self.used_results(node);
                self.read(node.operands[0], used.iter().flat_map(|i| groups[*i].columns.clone()));
                HashSet::new()
            }
            BridgeOp::ToTable { columns } => {
                let wanted = self.wanted(node.results[0]);
                let widths = node.operands.iter().map(|v| width(p, *v));
                let mut used = used_tensors(columns, widths, |c| wanted.contains(&c));
                if used.is_empty() {
                    // One says how many rows there are.
                    used.push(0);
                }
                used.iter().for_each(|i| {
                    self.values.insert(node.operands[*i]);
                });
                HashSet::new()
            }
            BridgeOp::Apply { inputs, columns, .. } => {
                let mut wanted = self.wanted(node.results[0]);
                let region = node.regions[0];
                let results = &p.region(region).results;
                let used = used_tensors(columns, results.iter().map(|v| width(p, *v)), |c| wanted.contains(&c));
                used.iter().for_each(|i| {
                    self.values.insert(results[*i]);
                });
                let rows = self.region(p, region, todo);
                columns.iter().for_each(|c| {
                    wanted.remove(c);
                });
                for (g, param) in inputs.iter().zip(&p.region(region).params) {
                    if self.value(*param) {
                        wanted.extend(&g.columns);
                    }
                }
                self.read(node.operands[0], wanted);
                rows
            }
            BridgeOp::ForBatches { .. } => self.all_of(p, node, todo),
            BridgeOp::RowCount => {
                self.read(node.operands[0], []);
                HashSet::new()
            }
        }
    }
}

/// How many columns a tensor spreads to.
pub(crate) fn width(p: &Program, v: ValueId) -> usize {
    match p.ty(v) {
        Type::Tensor(TensorType { shape, .. }) => shape.get(1).and_then(|d| d.as_const()).unwrap_or(1),
        Type::Scalar(_) | Type::Table(_) | Type::Tape | Type::Acc(_) => 1,
    }
}

/// The tensors of which a column is used.
pub(crate) fn used_tensors(
    columns: &[ColumnId],
    widths: impl Iterator<Item = usize>,
    used: impl Fn(ColumnId) -> bool,
) -> Vec<usize> {
    let mut at = 0;
    let mut out = Vec::new();
    for (i, width) in widths.enumerate() {
        let end = (at + width).min(columns.len());
        if columns[at..end].iter().any(|c| used(*c)) {
            out.push(i);
        }
        at = end;
    }
    out
}
