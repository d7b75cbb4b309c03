//! Recognizes attention by its structure.
//!
//! What holds:
//! - Attention is the product `contract(P, V)` of values with weights P = E / sum(E), E = e^(S - max(S)), both reduced over one
//!   axis of S. The scores S come of another product `contract(Q, K)` by factors, additions of tensors, and choices between a
//!   score and a number. All of it becomes an `attend`, which never has all scores in memory.
//! - Whether these stand in one map or in several, and in which order dimensions stand, makes no difference: maps are read as
//!   expressions over elements, dimensions by the labels of the two products.
//! - Worth while, and done, where nobody else reads what is between the products: a backward pass that wants the weights keeps
//!   them.
//! - A derivative is taken of an `attend` where one may be found before ([`recognize`]): then no pass needs to find the products of
//!   the backward pass.
//! - Exact in real arithmetic, but for infinities and NaN among the values: a value whose weight is 0 may not be looked at.
//!   Without keys the greatest score raises, and attention sums nothing.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::Context;
use super::algebra::{has_tensors, number_of};
use super::live::Live;
use crate::entity::{NodeId, ValueId};
use crate::error::Result;
use crate::graph::attend::AttendSpec;
use crate::graph::rewrite::{Change, Rebuild, Rewrite, reachable_nodes, rebuild};
use crate::graph::tensor::{ContractSpec, Move};
use crate::graph::{Def, Node, Op, Program, TensorOp};
use crate::scalar::ScalarOp;
use crate::scalar::reduce::Reducer;
use crate::types::{Dim, Type};
use crate::value::Value;

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    if !has_tensors(p) {
        return Ok(p.clone());
    }
    let mut found = Found::default();
    let readers = readers(p, &mut found.inner);
    let dead = found.inner.clone();
    reachable_nodes(p, |id, node| {
        if dead.contains(&id) {
            return;
        }
        let Some(m) = attention(p, node).filter(|m| is_read_here_only(p, m, node, &readers)) else { return };
        if cx.spend() {
            let (spec, scores) = (&m.spec, p.ty(m.score));
            cx.note(
                node.place,
                format!("the attention {spec} is computed by tiles: its scores, {scores}, are not stored"),
            );
            found.inner.extend(&m.inner);
            found.attentions.insert(id, m);
        }
    });
    if found.attentions.is_empty() {
        return Ok(p.clone());
    }
    rebuild(p, &mut found)
}

/// Makes attentions among these nodes, which their recording still holds, the operation that has a derivative of its own. What
/// they are computed from stays, for whoever reads it. `is_fixed` says of the tensors that change the scores that nobody asks for
/// their adjoints.
pub fn recognize(p: &mut Program, nodes: &[NodeId], is_fixed: impl Fn(ValueId) -> bool) {
    for n in nodes {
        let Some(m) = attention(p, p.node(*n)).filter(|m| m.spec.has_gradient()) else { continue };
        // As they stand: a new node would come after those that read it.
        let stored = |t: &Term| match t.source {
            Source::Tensor(v) if t.shape.is_none() && !t.inverted && is_fixed(v) => Some(v),
            _ => None,
        };
        let Some(terms) = m.terms.iter().map(stored).collect::<Option<Vec<_>>>() else { continue };
        let mut spec = m.spec;
        let [q, k, v] = [(m.q, &mut spec.q), (m.k, &mut spec.k), (m.v, &mut spec.v)].map(|(v, l)| unpermuted(p, v, l));
        let node = &mut p.nodes[n.index()];
        node.op = Op::Tensor(TensorOp::Attend(Box::new(spec)));
        node.operands = [q, k, v].into_iter().chain(terms).collect();
    }
}

/// What a tensor was before its dimensions were reordered, with the labels in that order: the adjoint is stored in it too.
fn unpermuted(p: &Program, v: ValueId, labels: &mut [u8]) -> ValueId {
    let mut v = v;
    while let Some(Node { op: Op::Tensor(TensorOp::View(moves)), operands, .. }) = p.node_of(v)
        && let [Move::Permute(perm)] = &moves[..]
    {
        let now = labels.to_vec();
        perm.iter().zip(now).for_each(|(d, l)| labels[*d] = l);
        v = operands[0];
    }
    v
}

/// What was found: by the last product; and the nodes that go, with those that nobody reads anyway.
#[derive(Default)]
struct Found {
    attentions: HashMap<NodeId, Attention>,
    inner: HashSet<NodeId>,
}

struct Attention {
    spec: AttendSpec,
    q: ValueId,
    k: ValueId,
    v: ValueId,
    terms: Vec<Term>,
    score: ValueId,
    /// The nodes from the first product to the weights.
    inner: Vec<NodeId>,
}

// ---- the structure ----

/// The attention whose values a product weights.
fn attention(p: &Program, node: &Node) -> Option<Attention> {
    let Op::Tensor(TensorOp::Contract(last)) = &node.op else { return None };
    (0..2).find_map(|side| {
        let (weights, v) = (node.operands[side], node.operands[1 - side]);
        let (labels, v_labels) = if side == 0 { (&last.a, &last.b) } else { (&last.b, &last.a) };
        let (scores, axis) = softmax(p, weights)?;
        let rank = p.ty(weights).as_tensor()?.rank();
        (labels.len() == rank).then_some(())?;
        let scores = Scores::of(p, &scores)?;
        let terms: Vec<Term> = scores.terms.iter().map(|t| Term::of(p, t, labels)).collect::<Option<_>>()?;
        let product = p.node_of(scores.product)?;
        let Op::Tensor(TensorOp::Contract(first)) = &product.op else { return None };
        let [a, b] = renamed(first, labels, v_labels)?;
        let key = *labels.get(axis)?;
        let keys = usize::from(b.contains(&key));
        let [q, k] = if keys == 1 { [a, b] } else { [b, a] };
        let spec = AttendSpec {
            q,
            k,
            v: v_labels.clone(),
            terms: terms.iter().map(|t| t.labels.clone()).collect(),
            out: last.out.clone(),
            scale: scores.scale,
            fill: scores.fill.unwrap_or(f64::NEG_INFINITY),
        };
        let roles = spec.roles().filter(|r| r.key == key)?;
        // Every index of the scores but the key is one of the result.
        labels.iter().all(|l| *l == roles.key || spec.out.contains(l)).then_some(())?;
        let inner = between(p, weights, scores.product)?;
        (!terms.iter().any(|t| t.depends_on(p, scores.product))).then_some(())?;
        let (q, k) = (product.operands[1 - keys], product.operands[keys]);
        Some(Attention { spec, q, k, v, terms, score: scores.product, inner })
    })
}

/// The scores whose softmax a tensor is, and the axis over which: `e^(s - max(s)) / sum(e^(s - max(s)))`.
fn softmax(p: &Program, weights: ValueId) -> Option<(Expr, usize)> {
    let Expr::Apply(ScalarOp::Div, parts, _) = Expr::of(p, weights)? else { return None };
    let [exp, total] = <[Expr; 2]>::try_from(parts).ok()?;
    let (summed, axis) = reduced(p, &total, Reducer::Sum)?;
    summed.is(&exp).then_some(())?;
    let Expr::Apply(ScalarOp::Exp, parts, _) = exp else { return None };
    let [Expr::Apply(ScalarOp::Sub, parts, _)] = <[Expr; 1]>::try_from(parts).ok()? else { return None };
    let [scores, greatest] = <[Expr; 2]>::try_from(parts).ok()?;
    let (of, same) = reduced(p, &greatest, Reducer::Max)?;
    (same == axis && of.is(&scores)).then_some((scores, axis))
}

/// What was reduced over one axis, where an expression is the outcome repeated along that axis.
fn reduced(p: &Program, e: &Expr, wanted: Reducer) -> Option<(Expr, usize)> {
    let Expr::Leaf(Source::Tensor(v)) = e else { return None };
    let (source, moves) = behind_views(p, *v);
    let node = p.node_of(source)?;
    let Op::Tensor(TensorOp::Reduce { reducer, axes }) = &node.op else { return None };
    let [axis] = axes[..] else { return None };
    let places = places(&moves, &p.ty(source).as_tensor()?.shape)?;
    let back = |(i, place): (usize, &Option<usize>)| place.is_none_or(|d| d == if i < axis { i } else { i + 1 });
    let same = *reducer == wanted && places.iter().enumerate().all(back);
    same.then(|| Some((Expr::of(p, node.operands[0])?, axis))).flatten()
}

/// Scores as what becomes of a product.
struct Scores {
    product: ValueId,
    scale: f64,
    fill: Option<f64>,
    /// What is added, or chooses, with whether it chooses by being false.
    terms: Vec<(Source, bool)>,
}

impl Scores {
    fn of(p: &Program, e: &Expr) -> Option<Self> {
        match e {
            Expr::Leaf(Source::Tensor(v)) => {
                let is_product = matches!(p.node_of(*v)?.op, Op::Tensor(TensorOp::Contract(_)));
                is_product.then_some(Self { product: *v, scale: 1.0, fill: None, terms: vec![] })
            }
            Expr::Leaf(_) | Expr::Number(..) => None,
            Expr::Apply(op, parts, _) => match (op, &parts[..]) {
                (ScalarOp::Mul, [x, Expr::Number(c)] | [Expr::Number(c), x]) => Self::of(p, x)?.times(*c),
                (ScalarOp::Div, [x, Expr::Number(c)]) => Self::of(p, x)?.times(1.0 / *c),
                (ScalarOp::Add, [x, y]) => Self::of(p, x).and_then(|s| s.plus(y)).or_else(|| Self::of(p, y)?.plus(x)),
                (ScalarOp::Select, [c, x, Expr::Number(fill)]) => Self::of(p, x)?.hidden(c, *fill, false),
                (ScalarOp::Select, [c, Expr::Number(fill), x]) => Self::of(p, x)?.hidden(c, *fill, true),
                _ => None,
            },
        }
    }

    /// All scores times a number. What was added before would have to be multiplied too.
    fn times(mut self, c: f64) -> Option<Self> {
        let hides_only = self.fill.is_some() && self.terms.len() == 1 || self.terms.is_empty();
        self.scale *= c;
        self.fill = self.fill.map(|f| f * c);
        (hides_only && c.is_finite() && !self.fill.is_some_and(f64::is_nan)).then_some(self)
    }

    fn plus(mut self, e: &Expr) -> Option<Self> {
        self.terms.push((e.source()?, false));
        Some(self)
    }

    fn hidden(mut self, condition: &Expr, fill: f64, inverted: bool) -> Option<Self> {
        let agrees = self.fill.is_none_or(|f| f.to_bits() == fill.to_bits());
        (agrees && !fill.is_nan()).then_some(())?;
        self.fill = Some(fill);
        self.terms.push((condition.source()?, inverted));
        Some(self)
    }
}

/// The labels of a product's operands as the labels of its result are called elsewhere; those that are summed keep theirs, or get
/// letters that are free.
fn renamed(product: &ContractSpec, out: &[u8], taken: &[u8]) -> Option<[Vec<u8>; 2]> {
    let mut names: HashMap<u8, u8> = product.out.iter().copied().zip(out.iter().copied()).collect();
    (names.len() == out.len() && product.out.len() == out.len()).then_some(())?;
    for l in product.a.iter().chain(&product.b) {
        if !names.contains_key(l) {
            let is_free = |c: &u8| !out.contains(c) && !taken.contains(c) && !names.values().any(|n| n == c);
            let name = std::iter::once(*l).chain(b'a'..=b'z').chain(b'A'..=b'Z').find(is_free)?;
            names.insert(*l, name);
        }
    }
    let labels = |labels: &[u8]| labels.iter().map(|l| names[l]).collect();
    Some([labels(&product.a), labels(&product.b)])
}

// ---- elements as expressions ----

/// Where a value of the scores' shape comes from.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Source {
    Tensor(ValueId),
    /// A scalar in the body of a map.
    Inside(NodeId, ValueId),
}

/// An element of a tensor, by elements of tensors of the same shape.
#[derive(Clone, Debug)]
enum Expr {
    Leaf(Source),
    Number(f64),
    Apply(ScalarOp, Vec<Expr>, Source),
}

/// Operations of an expression at most: softmax and what attention does to scores are a dozen.
const MAX_OPERATIONS: usize = 64;

impl Expr {
    /// None where it would be too long.
    fn of(p: &Program, v: ValueId) -> Option<Self> {
        Self::tensor(p, v, &mut 0)
    }

    fn tensor(p: &Program, v: ValueId, size: &mut usize) -> Option<Self> {
        let here = Source::Tensor(v);
        if let Some(n) = number_of(p, v) {
            return Some(Self::Number(n));
        }
        let Some(node) = p.node_of(v) else { return Some(Self::Leaf(here)) };
        let Op::Tensor(TensorOp::Map { .. }) = node.op else { return Some(Self::Leaf(here)) };
        let id = node_id(p, v)?;
        let result = node.results.iter().position(|r| *r == v)?;
        let body = Self::scalar(p, id, *p.region(node.regions[0]).results.get(result)?, size)?;
        // What the map makes has an address of its own.
        Some(match body {
            Self::Apply(op, parts, _) => Self::Apply(op, parts, here),
            leaf => leaf,
        })
    }

    fn scalar(p: &Program, map: NodeId, v: ValueId, size: &mut usize) -> Option<Self> {
        *size += 1;
        (*size <= MAX_OPERATIONS).then_some(())?;
        let (node, here) = (p.node(map), Source::Inside(map, v));
        if let Some(i) = p.region(node.regions[0]).params.iter().position(|x| *x == v) {
            return Self::tensor(p, node.operands[i], size);
        }
        let inner = p.node_of(v)?;
        Some(match &inner.op {
            Op::Literal(Value::F32(x), _) => Self::Number(f64::from(*x)),
            Op::Literal(Value::F64(x), _) => Self::Number(*x),
            Op::Scalar(op) => {
                let parts = inner.operands.iter().map(|x| Self::scalar(p, map, *x, size));
                Self::Apply(*op, parts.collect::<Option<_>>()?, here)
            }
            _ => Self::Leaf(here),
        })
    }

    /// Whether two expressions compute the same.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Leaf(a), Self::Leaf(b)) => a == b,
            (Self::Number(a), Self::Number(b)) => a.to_bits() == b.to_bits(),
            (Self::Apply(f, x, _), Self::Apply(g, y, _)) => {
                f == g && x.len() == y.len() && x.iter().zip(y).all(|(x, y)| x.is(y))
            }
            _ => false,
        }
    }

    /// Where the value is found; none for a number, which has no place in the scores' shape.
    fn source(&self) -> Option<Source> {
        match self {
            Self::Leaf(s) | Self::Apply(_, _, s) => Some(*s),
            Self::Number(..) => None,
        }
    }
}

/// What a chain of views is of, and the moves from there.
fn behind_views(p: &Program, v: ValueId) -> (ValueId, Vec<Move>) {
    let (mut source, mut moves) = (v, vec![]);
    while let Some(Node { op: Op::Tensor(TensorOp::View(more)), operands, .. }) = p.node_of(source) {
        moves.splice(0..0, more.iter().cloned());
        source = operands[0];
    }
    (source, moves)
}

/// Where moves take each dimension, if all they do is to repeat and to reorder; none for dimensions of size 1.
fn places(moves: &[Move], shape: &[Dim]) -> Option<Vec<Option<usize>>> {
    let is_one = |d: &Dim| *d == Dim::Const(1);
    let real = |shape: &[Dim]| (0..shape.len()).filter(|d| !is_one(&shape[*d])).collect::<Vec<_>>();
    let mut out: Vec<Option<usize>> = (0..shape.len()).map(|d| (!is_one(&shape[d])).then_some(d)).collect();
    let mut now = shape.to_vec();
    for m in moves {
        let to = m.apply(&now).ok()?;
        let moved: Vec<usize> = match m {
            Move::Permute(perm) => (0..now.len()).map(|d| perm.iter().position(|x| *x == d)).collect::<Option<_>>()?,
            Move::Broadcast { dims, .. } => dims.clone(),
            Move::Reshape(_) => {
                let (from, into) = (real(&now), real(&to));
                from.iter().map(|d| &now[*d]).eq(into.iter().map(|d| &to[*d])).then_some(())?;
                let mut moved = vec![0; now.len()];
                from.into_iter().zip(into).for_each(|(d, e)| moved[d] = e);
                moved
            }
            Move::Slice { .. } | Move::Pad { .. } | Move::Reverse(_) => return None,
        };
        out.iter_mut().flatten().for_each(|d| *d = moved[*d]);
        now = to;
    }
    Some(out)
}

// ---- terms ----

/// What changes the scores.
struct Term {
    source: Source,
    labels: Vec<u8>,
    /// The shape of the tensor without dimensions of size 1, where it has some.
    shape: Option<Vec<Dim>>,
    inverted: bool,
}

impl Term {
    /// A term of scores with these labels. It is taken from before it was repeated.
    fn of(p: &Program, (source, inverted): &(Source, bool), labels: &[u8]) -> Option<Self> {
        let inverted = *inverted;
        let whole = Self { source: *source, labels: labels.to_vec(), shape: None, inverted };
        let v = match *source {
            Source::Tensor(v) => v,
            Source::Inside(_, v) => {
                let plain = |v: &ValueId| p.node_of(*v).is_none_or(|n| n.regions.is_empty());
                return needed(p, v).iter().all(plain).then_some(whole);
            }
        };
        let (base, moves) = behind_views(p, v);
        let shape = &p.ty(base).as_tensor()?.shape;
        let Some(places) = places(&moves, shape) else { return Some(whole) };
        let kept: Vec<(usize, usize)> = places.iter().enumerate().filter_map(|(i, d)| Some((i, (*d)?))).collect();
        let labels = kept.iter().map(|(_, d)| labels.get(*d).copied()).collect::<Option<_>>()?;
        let drops = kept.len() < shape.len();
        let shape = drops.then(|| kept.iter().map(|(i, _)| shape[*i].clone()).collect());
        Some(Self { source: Source::Tensor(base), labels, shape, inverted })
    }

    /// Whether it is computed from the product that it changes.
    fn depends_on(&self, p: &Program, product: ValueId) -> bool {
        match self.source {
            Source::Tensor(v) => between(p, v, product).is_some(),
            Source::Inside(map, v) => {
                let (node, needed) = (p.node(map), needed(p, v));
                let params = p.region(node.regions[0]).params.iter().zip(&node.operands);
                params.filter(|(param, _)| needed.contains(param)).any(|(_, o)| between(p, *o, product).is_some())
            }
        }
    }

    /// The tensor in the new program.
    fn make(&self, cx: &mut Rebuild<'_>) -> Result<ValueId> {
        let mut v = match self.source {
            Source::Tensor(v) => cx.value(v)?,
            Source::Inside(map, v) => part_of_map(cx, map, v)?,
        };
        if let Some(shape) = &self.shape {
            let op = cx.map_op(&Op::Tensor(TensorOp::View(vec![Move::Reshape(shape.clone())])))?;
            v = cx.b.push(op, &[v], &[])?[0];
        }
        if self.inverted {
            v = cx.b.map(&[v], |b, x| Ok(vec![b.scalar(ScalarOp::Not, x)?]))?[0];
        }
        Ok(v)
    }
}

/// A map that yields a scalar of the body of another one.
fn part_of_map(cx: &mut Rebuild<'_>, map: NodeId, wanted: ValueId) -> Result<ValueId> {
    let p = cx.old;
    let node = p.node(map);
    let body = p.region(node.regions[0]);
    let needed = needed(p, wanted);
    let used: Vec<usize> = (0..body.params.len()).filter(|i| needed.contains(&body.params[*i])).collect();
    let operands = used.iter().map(|i| cx.value(node.operands[*i])).collect::<Result<Vec<_>>>()?;
    let element = |v: &ValueId| cx.ty(*v).as_tensor().map(|t| Type::Scalar(t.dtype.nullable(false)));
    let types: Vec<Type> = operands.iter().filter_map(element).collect();
    let op = cx.map_op(&node.op)?;
    let params = cx.b.begin_region(&types, vec![]);
    let mut scalars: HashMap<ValueId, ValueId> = used.iter().map(|i| body.params[*i]).zip(params).collect();
    for n in body.nodes.iter().map(|n| p.node(*n)).filter(|n| n.results.iter().any(|r| needed.contains(r))) {
        let arguments = n.operands.iter().map(|v| scalars.get(v).copied().map_or_else(|| cx.value(*v), Ok));
        let arguments = arguments.collect::<Result<Vec<_>>>()?;
        let results = cx.b.push(n.op.clone(), &arguments, &[])?;
        scalars.extend(n.results.iter().copied().zip(results));
    }
    let result = scalars.get(&wanted).copied().map_or_else(|| cx.value(wanted), Ok)?;
    let region = cx.b.end_region(&[result]);
    Ok(cx.b.push(op, &operands, &[region])?[0])
}

/// The scalars that a scalar is computed from, itself included.
fn needed(p: &Program, v: ValueId) -> HashSet<ValueId> {
    let (mut out, mut open) = (HashSet::new(), vec![v]);
    while let Some(v) = open.pop() {
        if out.insert(v) {
            open.extend(p.node_of(v).iter().flat_map(|n| n.operands.iter().copied()));
        }
    }
    out
}

// ---- what goes ----

/// The nodes by which `to` depends on the product `from`, that one included; none where it does not, or by more than maps, views
/// and reductions.
fn between(p: &Program, to: ValueId, from: ValueId) -> Option<Vec<NodeId>> {
    let is_inside =
        |n: &Node| matches!(n.op, Op::Tensor(TensorOp::Map { .. } | TensorOp::View(_) | TensorOp::Reduce { .. }));
    let (mut above, mut open) = (BTreeSet::from([node_id(p, from)?]), vec![to]);
    while let Some(v) = open.pop() {
        if let Some(id) = node_id(p, v).filter(|id| is_inside(p.node(*id)) && above.insert(*id)) {
            open.extend(&p.node(id).operands);
        }
    }
    // Nodes are numbered in the order in which they were made: operands come before their readers.
    let mut reached = HashSet::from([from]);
    let reads = |id: &NodeId, reached: &HashSet<ValueId>| p.node(*id).operands.iter().any(|o| reached.contains(o));
    let mut out = vec![];
    for id in above {
        if p.node(id).results.contains(&from) || reads(&id, &reached) {
            reached.extend(&p.node(id).results);
            out.push(id);
        }
    }
    reached.contains(&to).then_some(out)
}

fn node_id(p: &Program, v: ValueId) -> Option<NodeId> {
    match p.values[v.index()].def {
        Def::Result(n, _) => Some(n),
        Def::Param(..) => None,
    }
}

/// How often each value is read by what is used; the tensor operations that are not go to `dead`.
fn readers(p: &Program, dead: &mut HashSet<NodeId>) -> HashMap<ValueId, usize> {
    let live = Live::of(p);
    let mut out: HashMap<ValueId, usize> = HashMap::new();
    let mut read = |v: ValueId| *out.entry(v).or_default() += 1;
    for func in &p.funcs {
        p.region(func.body).results.iter().for_each(|v| read(*v));
    }
    reachable_nodes(p, |id, n| {
        if matches!(n.op, Op::Tensor(_)) && !live.node(n) {
            dead.insert(id);
            return;
        }
        n.operands.iter().for_each(|v| read(*v));
        n.regions.iter().for_each(|r| p.region(*r).results.iter().for_each(|v| read(*v)));
    });
    out
}

/// Whether only the attention reads what is between its products.
fn is_read_here_only(p: &Program, m: &Attention, last: &Node, readers: &HashMap<ValueId, usize>) -> bool {
    let nodes = || m.inner.iter().map(|n| p.node(*n));
    let here = |v: ValueId| nodes().chain([last]).flat_map(|n| &n.operands).filter(|o| **o == v).count();
    nodes().flat_map(|n| &n.results).all(|v| readers.get(v).copied().unwrap_or(0) == here(*v))
}

impl Rewrite for Found {
    fn node(&mut self, cx: &mut Rebuild<'_>, id: NodeId, node: &Node) -> Result<Change> {
        if self.inner.contains(&id) {
            return Ok(Change::Drop);
        }
        let Some(m) = self.attentions.remove(&id) else { return Ok(Change::Keep) };
        cx.b.set_place(node.place);
        let mut operands = cx.values(&[m.q, m.k, m.v])?;
        for term in &m.terms {
            operands.push(term.make(cx)?);
        }
        let v = cx.b.tensor(TensorOp::Attend(Box::new(m.spec)), &operands)?;
        cx.b.set_place(None);
        Ok(Change::Values(vec![v]))
    }
}
