//! M4: a condition on a model's answer becomes one on what its last function is computed from.
//!
//! `sigmoid(z) > 0.4` is `z >= t` for a `t` that [`super::monotone`] finds by bisection over the floats, with the functions as
//! they are computed: every row fares as before, bit for bit. Where the answer is wanted for nothing else it is not computed;
//! where a query needs it too, it is computed for the rows that pass. A comparison of a double with a decimal constant becomes
//! one of doubles on the way.
//!
//! What holds:
//! - The comparison with a constant stands in a region over rows; from its operand, steps that rise lead through columns that
//!   `extend` computes, and through maps and views of a model, to the number that is compared in its place.
//! - That number is handed up as a column of its own: it is read only where nothing in between chose columns.
//! - An operation that raised (a number that a decimal does not hold) raises no longer; the reverse never happens.

use std::collections::{BTreeSet, HashMap};

use super::Context;
use super::features::{Definitions, extend_by, same_results};
use super::live::Live;
use super::monotone::{Condition, Step};
use crate::entity::{ColumnId, NodeId, ValueId};
use crate::error::Result;
use crate::graph::rewrite::{Change, Rebuild, Rewrite, reachable_nodes, rebuild};
use crate::graph::tensor::Move;
use crate::graph::{BridgeOp, Node, Op, Program, TensorOp};
use crate::scalar::ScalarOp;
use crate::types::ScalarType;
use crate::value::Value;

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    let around = Around::of(p);
    if around.compared.is_empty() {
        return Ok(p.clone());
    }
    // Answers that are wanted for more than conditions stay, and are compared themselves.
    let mut kept = BTreeSet::new();
    loop {
        let found = around.conditions(&kept);
        if found.is_empty() {
            return Ok(p.clone());
        }
        let mut logit = Logit::new(found);
        let new = rebuild(p, &mut logit)?;
        if !same_results(p, &new) {
            return Ok(p.clone());
        }
        let live = Live::of(&new);
        let wanted: Vec<ColumnId> =
            logit.answers.iter().filter(|(table, c)| live.column(*table, *c)).map(|(_, c)| *c).collect();
        if wanted.is_empty() {
            return spend(p, cx, logit.comparisons);
        }
        kept.extend(wanted);
    }
}

/// The rewrite with as many conditions as there is fuel for.
fn spend(p: &Program, cx: &mut Context<'_>, found: HashMap<NodeId, Found>) -> Result<Program> {
    let mut found: Vec<(NodeId, Found)> = found.into_iter().collect();
    found.sort_by_key(|(id, _)| id.index());
    found.retain(|(id, f)| {
        let fuel = cx.spend();
        if fuel {
            cx.note(p.node(*id).place, f.note());
        }
        fuel
    });
    if found.is_empty() { Ok(p.clone()) } else { rebuild(p, &mut Logit::new(found.into_iter().collect())) }
}

/// What is compared in an answer's place.
#[derive(Clone, Debug, PartialEq)]
enum Base {
    /// A value of the same region.
    Here(ValueId),
    /// A column as it is.
    Column(ColumnId),
    /// A value in the region of an `extend`.
    Row(NodeId, ValueId),
    /// A tensor in the region of a model, seen through moves; the answer that it is in the place of.
    Model(NodeId, ValueId, Vec<Move>, ColumnId),
}

/// A condition and its new form.
#[derive(Clone, Debug)]
struct Found {
    base: Base,
    op: ScalarOp,
    threshold: Value,
    ty: ScalarType,
    old: Condition,
}

impl Found {
    fn note(&self) -> String {
        let what = if self.old.steps.iter().any(Step::is_function) { "its logit" } else { "it as it is computed" };
        let number = |v: &Value| match v {
            Value::F32(x) => x.to_string(),
            Value::F64(x) => x.to_string(),
            _ => "a constant".into(),
        };
        let (op, threshold) = (self.op.name(), number(&self.threshold));
        format!("M4: a condition on a model's answer is one on {what}: {op} {threshold}")
    }
}

/// What of a program conditions are traced through.
struct Around<'p> {
    p: &'p Program,
    definitions: Definitions,
    /// The answers of the entry's models that are one number a row: the model, and which of its results.
    answers: HashMap<ColumnId, (NodeId, usize)>,
    /// Comparisons with a constant on the right: what is compared, how, and with what.
    compared: Vec<(NodeId, ValueId, ScalarOp, Value)>,
}

impl<'p> Around<'p> {
    fn of(p: &'p Program) -> Self {
        let mut around = Self { p, definitions: Definitions::of(p), answers: HashMap::new(), compared: vec![] };
        for id in p.entry_region().iter().flat_map(|r| &r.nodes) {
            let node = p.node(*id);
            let Op::Bridge(BridgeOp::Apply { columns, .. }) = &node.op else { continue };
            if p.region(node.regions[0]).results.len() == columns.len() {
                around.answers.extend(columns.iter().enumerate().map(|(i, c)| (*c, (*id, i))));
            }
        }
        reachable_nodes(p, |id, node| {
            let Op::Scalar(op @ (ScalarOp::Lt | ScalarOp::Le | ScalarOp::Gt | ScalarOp::Ge)) = node.op else { return };
            let (a, b) = (node.operands[0], node.operands[1]);
            match (literal(p, a), literal(p, b)) {
                (None, Some(bound)) => around.compared.push((id, a, op, bound)),
                (Some(bound), None) => around.compared.push((id, b, mirrored(op), bound)),
                _ => {}
            }
        });
        around
    }

    /// The conditions that become others; these answers are compared as they are.
    fn conditions(&self, kept: &BTreeSet<ColumnId>) -> HashMap<NodeId, Found> {
        let found = |(id, v, op, bound): &(NodeId, ValueId, ScalarOp, Value)| {
            let (mut steps, base, answer) = self.trace(*v, kept);
            // Profit: a function or a decimal less for each row.
            let pays = steps.iter().any(|s| s.is_function() || (answer && s.is_dear()));
            if !pays {
                return None;
            }
            steps.reverse();
            let ty = self.p.ty(*v).as_scalar()?.ty;
            let old = Condition { steps, op: *op, bound: bound.clone(), ty };
            let from = self.base_type(&base)?;
            let (op, threshold) = old.threshold(from)?;
            Some((*id, Found { base, op, threshold, ty: from, old }))
        };
        self.compared.iter().filter_map(found).collect()
    }

    fn base_type(&self, base: &Base) -> Option<ScalarType> {
        match base {
            Base::Here(v) | Base::Row(_, v) => Some(self.p.ty(*v).as_scalar()?.ty),
            Base::Column(c) => Some(self.p.columns[c.index()].ty),
            Base::Model(_, t, ..) => Some(self.p.ty(*t).as_tensor()?.dtype),
        }
    }

    /// The rising steps that a value ends, outermost first, what they begin with, and whether that comes from a model.
    fn trace(&self, v: ValueId, kept: &BTreeSet<ColumnId>) -> (Vec<Step>, Base, bool) {
        let (mut steps, mut at, mut home) = (vec![], v, None);
        loop {
            if let Some((step, operand)) = step(self.p, at) {
                steps.push(step);
                at = operand;
                continue;
            }
            let Some(Op::Col(c)) = self.p.node_of(at).map(|n| &n.op) else { break };
            if let Some((extend, value)) = self.definitions.get(*c) {
                (home, at) = (Some(extend), value);
                continue;
            }
            let Some((model, result)) = self.answers.get(c) else { return (steps, Base::Column(*c), false) };
            if kept.contains(c) {
                return (steps, Base::Column(*c), true);
            }
            let (inner, tensor, moves) = trace_tensor(self.p, *model, *result);
            let base = if inner.is_empty() { Base::Column(*c) } else { Base::Model(*model, tensor, moves, *c) };
            steps.extend(inner);
            return (steps, base, true);
        }
        let base = match home {
            None => Base::Here(at),
            Some(extend) => Base::Row(extend, at),
        };
        (steps, base, false)
    }
}

/// The same through maps and views of a model, from one of its results on: the steps, the tensor, and the moves that it is
/// seen through.
fn trace_tensor(p: &Program, model: NodeId, result: usize) -> (Vec<Step>, ValueId, Vec<Move>) {
    let (mut steps, mut moves) = (vec![], vec![]);
    let mut at = p.region(p.node(model).regions[0]).results[result];
    while let Some(node) = p.node_of(at) {
        match &node.op {
            Op::Tensor(TensorOp::View(more)) if !more.iter().any(|m| matches!(m, Move::Pad { .. })) => {
                moves.splice(0..0, more.iter().cloned());
                at = node.operands[0];
            }
            Op::Tensor(TensorOp::Map { .. }) => {
                let Some((inner, operand)) = through_map(p, node, at) else { break };
                steps.extend(inner);
                at = operand;
            }
            _ => break,
        }
    }
    (steps, at, moves)
}

/// The steps of a map from one of its operands to a result, if that is all it does.
fn through_map(p: &Program, map: &Node, result: ValueId) -> Option<(Vec<Step>, ValueId)> {
    let body = p.region(map.regions[0]);
    let mut at = body.results[map.results.iter().position(|v| *v == result)?];
    let mut steps = vec![];
    loop {
        if let Some(i) = body.params.iter().position(|v| *v == at) {
            return Some((steps, map.operands[i]));
        }
        let (step, operand) = step(p, at)?;
        steps.push(step);
        at = operand;
    }
}

fn step(p: &Program, v: ValueId) -> Option<(Step, ValueId)> {
    let node = p.node_of(v)?;
    let Op::Scalar(op) = node.op else { return None };
    let literals: Vec<Option<Value>> = node.operands.iter().map(|v| literal(p, *v)).collect();
    let types = node.operands.iter().map(|v| p.ty(*v).as_scalar().map(|t| t.ty)).collect::<Option<Vec<_>>>()?;
    let operand = node.operands[literals.iter().position(Option::is_none)?];
    Some((Step::of(op, literals, types, p.ty(v).as_scalar()?.ty)?, operand))
}

fn literal(p: &Program, v: ValueId) -> Option<Value> {
    match &p.node_of(v)?.op {
        Op::Literal(v, _) if !v.is_null() => Some(v.clone()),
        _ => None,
    }
}

fn mirrored(op: ScalarOp) -> ScalarOp {
    match op {
        ScalarOp::Lt => ScalarOp::Gt,
        ScalarOp::Le => ScalarOp::Ge,
        ScalarOp::Gt => ScalarOp::Lt,
        ScalarOp::Ge => ScalarOp::Le,
        op => op,
    }
}

struct Logit {
    comparisons: HashMap<NodeId, Found>,
    /// The columns that numbers are handed up in.
    columns: Vec<(Base, ColumnId)>,
    /// The tables that models make, and the answers in whose place something else is compared.
    answers: Vec<(ValueId, ColumnId)>,
}

impl Logit {
    fn new(comparisons: HashMap<NodeId, Found>) -> Self {
        Self { comparisons, columns: vec![], answers: vec![] }
    }

    /// What a node has to hand up, each once, in the order of the comparisons.
    fn handed_up(&self, of: NodeId) -> Vec<Base> {
        let mut all: Vec<(&NodeId, &Base)> = self.comparisons.iter().map(|(id, f)| (id, &f.base)).collect();
        all.sort_by_key(|(id, _)| id.index());
        let mut out: Vec<Base> = vec![];
        for (_, base) in all {
            let mine = matches!(base, Base::Row(n, _) | Base::Model(n, ..) if *n == of);
            if mine && !out.contains(base) {
                out.push(base.clone());
            }
        }
        out
    }

    /// The comparison of what stands in an answer's place, where that can be read.
    fn compare(&self, cx: &mut Rebuild<'_>, node: &Node, found: &Found) -> Result<Change> {
        let column = match &found.base {
            Base::Here(_) => None,
            Base::Column(c) => Some(cx.column(*c)),
            base => match self.columns.iter().find(|(b, _)| b == base) {
                Some((_, c)) => Some(*c),
                None => return Ok(Change::Keep),
            },
        };
        if column.is_some_and(|c| cx.b.columns_here().iter().all(|t| t.get(c).is_none())) {
            return Ok(Change::Keep);
        }
        cx.b.set_place(node.place);
        let number = match (column, &found.base) {
            (Some(c), _) => cx.b.col(c)?,
            (None, Base::Here(v)) => cx.value(*v)?,
            (None, _) => return Ok(Change::Keep),
        };
        let threshold = cx.b.literal(found.threshold.clone(), found.ty)?;
        let made = cx.b.scalar(found.op, &[number, threshold])?;
        cx.b.set_place(None);
        Ok(Change::Values(vec![made]))
    }

    /// A model with more answers.
    fn model(&mut self, cx: &mut Rebuild<'_>, node: &Node, more: Vec<Base>) -> Result<Change> {
        let Op::Bridge(BridgeOp::Apply { rows, inputs, columns }) = cx.map_op(&node.op)? else {
            return Ok(Change::Keep);
        };
        let mut columns = columns;
        for base in &more {
            let Base::Model(_, tensor, _, answer) = base else { continue };
            let ty = cx.old.ty(*tensor).as_tensor().map_or(ScalarType::F32, |t| t.dtype);
            let name = cx.old.columns[answer.index()].name.clone();
            let new = cx.b.program_mut().new_column(name, ty);
            columns.push(new);
            self.columns.push((base.clone(), new));
        }
        let op = Op::Bridge(BridgeOp::Apply { rows, inputs, columns });
        let operands = cx.values(&node.operands)?;
        let (types, tables) = cx.b.region_entry(&op, &operands, &[])?;
        let params = cx.b.begin_region(&types, tables);
        let mut results = cx.inline(self, node.regions[0], &params)?;
        for base in &more {
            let Base::Model(_, tensor, moves, _) = base else { continue };
            let tensor = cx.value(*tensor)?;
            let seen = if moves.is_empty() { tensor } else { cx.b.tensor(TensorOp::View(moves.clone()), &[tensor])? };
            results.push(seen);
        }
        let region = cx.b.end_region(&results);
        cx.b.set_place(node.place);
        let table = cx.b.push(op, &operands, &[region])?;
        cx.b.set_place(None);
        let answers = more.iter().filter_map(|b| if let Base::Model(.., c) = b { Some(cx.column(*c)) } else { None });
        self.answers.extend(answers.map(|c| (table[0], c)));
        Ok(Change::Values(table))
    }
}

impl Rewrite for Logit {
    fn node(&mut self, cx: &mut Rebuild<'_>, id: NodeId, node: &Node) -> Result<Change> {
        if let Some(found) = self.comparisons.get(&id) {
            return self.compare(cx, node, found);
        }
        let more = self.handed_up(id);
        if more.is_empty() {
            return Ok(Change::Keep);
        }
        if matches!(node.op, Op::Bridge(_)) {
            return self.model(cx, node, more);
        }
        let values: Vec<(ValueId, String)> = more
            .iter()
            .filter_map(|b| if let Base::Row(_, v) = b { Some((*v, "logit".to_string())) } else { None })
            .collect();
        let (table, columns) = extend_by(cx, self, node, &values)?;
        self.columns.extend(more.into_iter().zip(columns));
        Ok(Change::Values(vec![table]))
    }
}
