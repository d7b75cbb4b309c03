//! Algebra of tensors: views, products, and maps that change nothing.
//!
//! What [`run`] does keeps every bit:
//! - a chain of views is one view, without moves that undo each other or change nothing; a view that changes nothing is its
//!   operand;
//! - a transpose of a product's operand, or of its result if nobody else reads it, is the product's order of labels. The labels
//!   that are summed over keep theirs, for that is the order in which the products are added;
//! - `x * 1` and `x / 1` are `x`;
//! - the sign of `x` is asked of `max(0, x)` where that is there too: so the gradient of a ReLU reads what the next layer reads,
//!   and `x` itself need not be stored.
//!
//! What [`reorder`] does is exact in real arithmetic:
//! - `x + 0`, `0 + x` and `x - 0` are `x` (`-0 + 0` is `0`);
//! - of `(a b) c` and `a (b c)` the one with fewer multiplications is computed.

use std::collections::HashMap;

use super::Context;
use crate::entity::{NodeId, RegionId, ValueId};
use crate::error::Result;
use crate::graph::attend::AttendSpec;
use crate::graph::rewrite::{Change, Rebuild, Rewrite, captures, reachable_nodes, rebuild};
use crate::graph::tensor::{ContractSpec, Move};
use crate::graph::{Node, Op, Program, TensorOp};
use crate::scalar::ScalarOp;
use crate::types::{Dim, TensorType};
use crate::value::Value;

/// What keeps every bit.
pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    if !has_tensors(p) {
        return Ok(p.clone());
    }
    let readers = readers(p);
    rebuild(p, &mut Algebra { cx, readers, rectified: vec![] })
}

/// What is exact in real arithmetic.
pub(super) fn reorder(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    if !has_tensors(p) {
        return Ok(p.clone());
    }
    let readers = readers(p);
    rebuild(p, &mut Reorder { cx, readers })
}

/// Whether a program has tensor operations at all.
pub(super) fn has_tensors(p: &Program) -> bool {
    let mut found = false;
    reachable_nodes(p, |_, n| found |= matches!(n.op, Op::Tensor(_)));
    found
}

/// How often each value is read.
pub(super) fn readers(p: &Program) -> HashMap<ValueId, usize> {
    let mut out: HashMap<ValueId, usize> = HashMap::new();
    let mut read = |v: ValueId| *out.entry(v).or_default() += 1;
    for func in &p.funcs {
        p.region(func.body).results.iter().for_each(|v| read(*v));
    }
    reachable_nodes(p, |_, n| {
        n.operands.iter().for_each(|v| read(*v));
        n.regions.iter().for_each(|r| p.region(*r).results.iter().for_each(|v| read(*v)));
    });
    out
}

fn tensor<'a>(cx: &'a Rebuild<'_>, v: ValueId) -> Option<&'a TensorType> {
    cx.ty(v).as_tensor()
}

/// A product or attention that gives its result's dimensions in another order, and what is said of it.
fn permuted(op: &TensorOp, perm: &[usize]) -> Option<(TensorOp, String)> {
    let reordered = |out: &[u8]| perm.iter().map(|d| out[*d]).collect();
    match op {
        TensorOp::Contract(spec) => {
            let spec = ContractSpec { out: reordered(&spec.out), ..spec.clone() };
            let said = format!("a product is computed in the order {spec}");
            Some((TensorOp::Contract(spec), said))
        }
        TensorOp::Attend(spec) => {
            let spec = AttendSpec { out: reordered(&spec.out), ..AttendSpec::clone(spec) };
            let said = format!("attention is computed in the order {spec}");
            Some((TensorOp::Attend(Box::new(spec)), said))
        }
        _ => None,
    }
}

struct Algebra<'a, 'b> {
    cx: &'a mut Context<'b>,
    readers: HashMap<ValueId, usize>,
    /// For each region that is open: `max(0, x)` by `x`, in the new program.
    rectified: Vec<HashMap<ValueId, ValueId>>,
}

impl Rewrite for Algebra<'_, '_> {
    fn node(&mut self, cx: &mut Rebuild<'_>, _: NodeId, node: &Node) -> Result<Change> {
        match &node.op {
            Op::Tensor(TensorOp::View(moves)) => self.view(cx, moves, node),
            Op::Tensor(TensorOp::Contract(spec)) => self.contract(cx, spec, node),
            Op::Tensor(TensorOp::Map { .. }) => self.map(cx, node),
            _ => Ok(Change::Keep),
        }
    }

    fn enter(&mut self, _: &mut Rebuild<'_>, _: RegionId) {
        self.rectified.push(HashMap::new());
    }

    fn leave(&mut self, _: &mut Rebuild<'_>, _: RegionId) {
        self.rectified.pop();
    }
}

impl Algebra<'_, '_> {
    fn view(&mut self, cx: &mut Rebuild<'_>, moves: &[Move], node: &Node) -> Result<Change> {
        let operand = cx.value(node.operands[0])?;
        let Op::Tensor(TensorOp::View(moves)) = cx.map_op(&Op::Tensor(TensorOp::View(moves.to_vec())))? else {
            return Ok(Change::Keep);
        };
        let (mut source, mut all) = (operand, moves.clone());
        if let Some(Node { op: Op::Tensor(TensorOp::View(below)), operands, .. }) = cx.def(operand) {
            all = [&below[..], &all[..]].concat();
            source = operands[0];
        }
        let Some(ty) = tensor(cx, source) else { return Ok(Change::Keep) };
        simplify(&mut all, &ty.shape)?;
        if let (Some(Move::Permute(perm)), Some(Node { op: Op::Tensor(op), operands, .. })) =
            (all.first(), cx.def(source))
            && self.readers.get(&node.operands[0]) == Some(&1)
            && source == operand
            && let Some((op, name)) = permuted(op, perm)
        {
            let operands = operands.to_vec();
            if !self.cx.spend() {
                return Ok(Change::Keep);
            }
            self.cx.note(node.place, format!("{name}, not transposed"));
            cx.b.set_place(node.place);
            let product = cx.b.tensor(op, &operands)?;
            all.remove(0);
            let v = if all.is_empty() { product } else { cx.b.tensor(TensorOp::View(all), &[product])? };
            cx.b.set_place(None);
            return Ok(Change::Values(vec![v]));
        }
        if (source == operand && all == moves) || !self.cx.spend() {
            return Ok(Change::Keep);
        }
        if all.is_empty() {
            return Ok(Change::Values(vec![source]));
        }
        cx.b.set_place(node.place);
        let v = cx.b.tensor(TensorOp::View(all), &[source])?;
        cx.b.set_place(None);
        Ok(Change::Values(vec![v]))
    }

    /// Takes transposes of operands into the labels.
    fn contract(&mut self, cx: &mut Rebuild<'_>, spec: &ContractSpec, node: &Node) -> Result<Change> {
        let mut operands = cx.values(&node.operands)?;
        let mut new = spec.clone();
        let mut changed = false;
        for (operand, labels) in operands.iter_mut().zip([&mut new.a, &mut new.b]) {
            let Some(Node { op: Op::Tensor(TensorOp::View(moves)), operands: below, .. }) = cx.def(*operand) else {
                continue;
            };
            let Some((Move::Permute(perm), before)) = moves.split_last() else { continue };
            let mut source = labels.clone();
            perm.iter().zip(labels.iter()).for_each(|(d, l)| source[*d] = *l);
            let summed = |labels: &[u8]| labels.iter().copied().filter(|l| !spec.out.contains(l)).collect::<Vec<u8>>();
            if summed(&source) != summed(labels) || !self.cx.spend() {
                continue;
            }
            let (below, before) = (below[0], before.to_vec());
            *operand = if before.is_empty() { below } else { cx.b.tensor(TensorOp::View(before), &[below])? };
            *labels = source;
            changed = true;
        }
        if !changed {
            return Ok(Change::Keep);
        }
        self.cx.note(node.place, format!("a product reads its operands in the order {new}, not transposed"));
        cx.b.set_place(node.place);
        let v = cx.b.tensor(TensorOp::Contract(new), &operands)?;
        cx.b.set_place(None);
        Ok(Change::Values(vec![v]))
    }

    fn map(&mut self, cx: &mut Rebuild<'_>, node: &Node) -> Result<Change> {
        let operands = cx.values(&node.operands)?;
        if let Some((op, x, c, first)) = with_number(cx, node, &operands)
            && c == 1.0
            && (op == ScalarOp::Mul || op == ScalarOp::Div && !first)
            && self.cx.spend()
        {
            return Ok(Change::Values(vec![x]));
        }
        let signs = self.signs(cx, node, &operands);
        let mut changed = operands.clone();
        for (i, rectified) in signs {
            if self.cx.spend() {
                self.cx.note(node.place, "the sign of a value is read off its positive part, which is stored anyway");
                changed[i] = rectified;
            }
        }
        let op = cx.map_op(&node.op)?;
        let results = cx.keep_over(self, op, &changed, node)?;
        if let (Some(x), Some(scope)) = (rectifies(cx.old, node), self.rectified.last_mut()) {
            scope.insert(operands[x], results[0]);
        }
        Ok(Change::Values(results))
    }

    /// The operands of which a map's body asks only whether they are above 0, with their positive parts.
    fn signs(&self, cx: &Rebuild<'_>, node: &Node, operands: &[ValueId]) -> Vec<(usize, ValueId)> {
        let (p, region) = (cx.old, node.regions[0]);
        let body = p.region(region);
        let scope = self.rectified.last();
        let known = |i: usize| scope.and_then(|s| s.get(&operands[i])).copied();
        let asked = |param: ValueId| {
            let mut times = 0;
            let mut only = !body.results.contains(&param);
            for n in &body.nodes {
                let n = p.node(*n);
                if !n.operands.contains(&param) {
                    only &= !n.regions.iter().any(|r| captures(p, *r).contains(&param));
                    continue;
                }
                times += 1;
                only &= n.op == Op::Scalar(ScalarOp::Gt) && n.operands[0] == param && is_zero(p, n.operands[1]);
            }
            only && times > 0
        };
        let found = (0..operands.len()).filter(|i| asked(body.params[*i]));
        found.filter_map(|i| Some((i, known(i)?))).collect()
    }
}

/// Whether a scalar of a body is the literal 0.
fn is_zero(p: &Program, v: ValueId) -> bool {
    match p.node_of(v).map(|n| &n.op) {
        Some(Op::Literal(Value::F32(x), _)) => *x == 0.0,
        Some(Op::Literal(Value::F64(x), _)) => *x == 0.0,
        Some(Op::Literal(Value::I32(x), _)) => *x == 0,
        Some(Op::Literal(Value::I64(x), _)) => *x == 0,
        _ => false,
    }
}

/// The operand of which a map yields the larger of it and 0, if that is what it does.
fn rectifies(p: &Program, node: &Node) -> Option<usize> {
    let body = p.region(node.regions[0]);
    let [result] = body.results[..] else { return None };
    let max = p.node_of(result)?;
    let (Op::Scalar(ScalarOp::Max), [a, b]) = (&max.op, max.operands.as_slice()) else { return None };
    let param = |v: ValueId| body.params.iter().position(|x| *x == v);
    match (is_zero(p, *a), is_zero(p, *b)) {
        (true, _) => param(*b),
        (_, true) => param(*a),
        _ => None,
    }
}

/// A map of one operation over an operand and a number: the operation, the operand, the number, whether the number comes first.
fn with_number(cx: &Rebuild<'_>, node: &Node, operands: &[ValueId]) -> Option<(ScalarOp, ValueId, f64, bool)> {
    let p = cx.old;
    let body = p.region(node.regions[0]);
    let [result] = body.results[..] else { return None };
    let scalar = p.node_of(result)?;
    let (Op::Scalar(op), [a, b]) = (&scalar.op, scalar.operands.as_slice()) else { return None };
    let operand = |v: ValueId| body.params.iter().position(|x| *x == v).map(|i| operands[i]);
    let number = |v: ValueId| match p.node_of(v).map(|n| &n.op) {
        Some(Op::Literal(Value::F32(x), _)) => Some(f64::from(*x)),
        Some(Op::Literal(Value::F64(x), _)) => Some(*x),
        Some(_) => None,
        None => number_of(cx.b.program(), operand(v)?),
    };
    match (number(*a), number(*b)) {
        (None, Some(c)) => Some((*op, operand(*a)?, c, false)),
        (Some(c), None) => Some((*op, operand(*b)?, c, true)),
        _ => None,
    }
}

/// The number that all elements of a tensor of floats are.
pub(super) fn number_of(p: &Program, v: ValueId) -> Option<f64> {
    let node = p.node_of(v)?;
    match &node.op {
        Op::Tensor(TensorOp::Const(t)) if t.data.len() == 1 => match t.data.get(0) {
            Value::F32(x) => Some(f64::from(x)),
            Value::F64(x) => Some(x),
            _ => None,
        },
        Op::Tensor(TensorOp::View(moves)) if !moves.iter().any(|m| matches!(m, Move::Pad { .. })) => {
            number_of(p, node.operands[0])
        }
        _ => None,
    }
}

/// Takes neighbours together and drops what changes nothing, of moves over a tensor of this shape.
fn simplify(moves: &mut Vec<Move>, shape: &[Dim]) -> Result<()> {
    let mut at = 0;
    let mut before = vec![shape.to_vec()];
    while at < moves.len() {
        let nothing = changes_nothing(&moves[at], &before[at]);
        let next = moves.get(at + 1);
        let undone =
            next.is_some_and(|next| matches!((&moves[at], next), (Move::Reverse(d), Move::Reverse(e)) if d == e));
        let both = next.and_then(|next| together(&moves[at], next));
        if nothing || undone || both.is_some() {
            match both {
                _ if nothing => _ = moves.remove(at),
                Some(both) => _ = moves.splice(at..at + 2, [both]),
                None => _ = moves.drain(at..at + 2),
            }
            // What stands before may go with what has come.
            at = at.saturating_sub(1);
            before.truncate(at + 1);
            continue;
        }
        let next = moves[at].apply(&before[at])?;
        before.push(next);
        at += 1;
    }
    Ok(())
}

fn changes_nothing(m: &Move, shape: &[Dim]) -> bool {
    let in_order = |dims: &[usize]| dims.iter().copied().eq(0..shape.len());
    match m {
        Move::Permute(perm) => in_order(perm),
        Move::Broadcast { shape: to, dims } => in_order(dims) && to == shape,
        Move::Slice { dim, start, len, step } => *start == Dim::Const(0) && *step == 1 && *len == shape[*dim],
        Move::Reshape(to) => to == shape,
        Move::Pad { before, after, .. } => before + after == 0,
        Move::Reverse(_) => false,
    }
}

/// Two moves as one.
fn together(a: &Move, b: &Move) -> Option<Move> {
    match (a, b) {
        (Move::Permute(p), Move::Permute(q)) => Some(Move::Permute(q.iter().map(|d| p[*d]).collect())),
        (Move::Reshape(_), Move::Reshape(to)) => Some(Move::Reshape(to.clone())),
        (Move::Broadcast { dims, .. }, Move::Broadcast { shape, dims: next }) => {
            Some(Move::Broadcast { shape: shape.clone(), dims: dims.iter().map(|d| next[*d]).collect() })
        }
        _ => None,
    }
}

struct Reorder<'a, 'b> {
    cx: &'a mut Context<'b>,
    readers: HashMap<ValueId, usize>,
}

impl Rewrite for Reorder<'_, '_> {
    fn node(&mut self, cx: &mut Rebuild<'_>, _: NodeId, node: &Node) -> Result<Change> {
        match &node.op {
            Op::Tensor(TensorOp::Map { .. }) => {
                let operands = cx.values(&node.operands)?;
                match with_number(cx, node, &operands) {
                    Some((ScalarOp::Add, x, 0.0, _) | (ScalarOp::Sub, x, 0.0, false)) if self.cx.spend() => {
                        Ok(Change::Values(vec![x]))
                    }
                    _ => Ok(Change::Keep),
                }
            }
            Op::Tensor(TensorOp::Contract(spec)) => self.associate(cx, spec, node),
            _ => Ok(Change::Keep),
        }
    }
}

impl Reorder<'_, '_> {
    /// `(a b) c` as `a (b c)`, or with `c` first, where that takes fewer multiplications.
    fn associate(&mut self, cx: &mut Rebuild<'_>, spec: &ContractSpec, node: &Node) -> Result<Change> {
        let operands = cx.values(&node.operands)?;
        for inner in 0..2 {
            if self.readers.get(&node.operands[inner]) != Some(&1) {
                continue;
            }
            let Some(Node { op: Op::Tensor(TensorOp::Contract(below)), operands: ab, .. }) = cx.def(operands[inner])
            else {
                continue;
            };
            let (mine, theirs) = if inner == 0 { (&spec.a, &spec.b) } else { (&spec.b, &spec.a) };
            let Some(product) = renamed(below, mine, theirs) else { continue };
            let (a, b, c) = (ab[0], ab[1], operands[1 - inner]);
            let Some(best) = cheaper(cx, &product, theirs, spec, [a, b, c]) else { continue };
            if !self.cx.spend() {
                continue;
            }
            let saved = best.before - best.after;
            self.cx.note(node.place, format!("a product of three is reordered: {saved} multiplications fewer"));
            let (first, rest) =
                if best.keeps_a { ((b, &product.b), (a, &product.a)) } else { ((a, &product.a), (b, &product.b)) };
            cx.b.set_place(node.place);
            let early = ContractSpec { a: first.1.clone(), b: theirs.clone(), out: best.middle.clone() };
            let early = cx.b.tensor(TensorOp::Contract(early), &[first.0, c])?;
            let late = ContractSpec { a: rest.1.clone(), b: best.middle, out: spec.out.clone() };
            let late = cx.b.tensor(TensorOp::Contract(late), &[rest.0, early])?;
            cx.b.set_place(None);
            return Ok(Change::Values(vec![late]));
        }
        Ok(Change::Keep)
    }
}

/// An inner product's labels as the outer one calls them; the summed ones get letters that are free. None where a label occurs
/// twice in an operand.
fn renamed(below: &ContractSpec, outer: &[u8], other: &[u8]) -> Option<ContractSpec> {
    let twice = |labels: &[u8]| labels.iter().enumerate().any(|(i, l)| labels[..i].contains(l));
    if [&below.a[..], &below.b, &below.out, outer, other].iter().any(|l| twice(l)) {
        return None;
    }
    let mut free = (b'a'..=b'z').chain(b'A'..=b'Z').filter(|l| !outer.contains(l) && !other.contains(l));
    let mut names: HashMap<u8, u8> = below.out.iter().copied().zip(outer.iter().copied()).collect();
    let mut name = |l: u8| match names.get(&l) {
        Some(name) => Some(*name),
        None => {
            let name = free.next()?;
            names.insert(l, name);
            Some(name)
        }
    };
    let a = below.a.iter().map(|l| name(*l)).collect::<Option<Vec<u8>>>()?;
    let b = below.b.iter().map(|l| name(*l)).collect::<Option<Vec<u8>>>()?;
    Some(ContractSpec { a, b, out: outer.to_vec() })
}

struct Cheaper {
    /// Whether `b c` comes first, then `a`; else `a c`, then `b`.
    keeps_a: bool,
    middle: Vec<u8>,
    before: u128,
    after: u128,
}

/// Rows whose number is not known count as so many.
const UNKNOWN: u128 = 4096;

/// The better order of `(a b) c`, if it is not this one.
fn cheaper(
    cx: &Rebuild<'_>,
    product: &ContractSpec,
    other: &[u8],
    spec: &ContractSpec,
    [a, b, c]: [ValueId; 3],
) -> Option<Cheaper> {
    let mut size: HashMap<u8, u128> = HashMap::new();
    for (v, labels) in [(a, &product.a[..]), (b, &product.b), (c, other)] {
        let shape = &tensor(cx, v)?.shape;
        size.extend(labels.iter().zip(shape).map(|(l, d)| (*l, d.as_const().map_or(UNKNOWN, |n| n as u128))));
    }
    let union = |x: &[u8], y: &[u8]| {
        let mut out = x.to_vec();
        out.extend(y.iter().filter(|l| !x.contains(l)));
        out
    };
    let cost = |labels: &[u8]| labels.iter().map(|l| size[l]).try_fold(1u128, u128::checked_mul);
    let before = cost(&union(&product.a, &product.b))?.checked_add(cost(&union(&product.out, other))?)?;
    let order = |first: &[u8], rest: &[u8], keeps_a: bool| {
        let all = union(first, other);
        let middle: Vec<u8> = all.iter().copied().filter(|l| rest.contains(l) || spec.out.contains(l)).collect();
        let after = cost(&all)?.checked_add(cost(&union(rest, &middle))?)?;
        Some(Cheaper { keeps_a, middle, before, after })
    };
    let orders = [order(&product.b, &product.a, true), order(&product.a, &product.b, false)];
    orders.into_iter().flatten().filter(|o| o.after < o.before).min_by_key(|o| o.after)
}
