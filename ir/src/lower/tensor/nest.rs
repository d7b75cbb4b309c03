//! Nests: loops over the elements of a stored value.
//!
//! What holds:
//! - A nest is `(ctx, worker, begin, end) -> status` over the steps of its outermost loop, which writes rows of the result of
//!   its own; the context has a slot for each address and each size that is not constant.
//! - An element is computed by walking the expression above it: indices go through views, map bodies are lowered like rows.
//! - The innermost loop may run in lanes; the code generator decides whether its body allows it.

use std::collections::HashMap;

use runtime::abi::RuntimeFn;
use runtime::trap::TrapCode;

use super::build::{constant, needed, weight_of};
use super::index::{Indices, Space, product, row_major, same_but_ones, through};
use super::{Def, Group, Nest, Slot, Val, Values};
use crate::entity::{NodeId, ValueId};
use crate::error::{Error, Result};
use crate::graph::tensor::{ContractSpec, Move};
use crate::graph::{Op, Program};
use crate::kernel::{self, BinaryOp, Builder, Cmp, LoopKind, Module, Signature, Type as K};
use crate::lower::context::Context;
use crate::lower::rel::element_bytes;
use crate::lower::row::{Cell, Env, Inputs, RowLower};
use crate::plan::register_type;
use crate::scalar::ScalarOp;
use crate::scalar::reduce::Reducer;
use crate::types::{Dim, ScalarType};
use crate::value::Value;

struct NoInputs;

impl Inputs for NoInputs {
    fn column(&self, _: crate::entity::InputId, _: u32) -> Result<std::sync::Arc<runtime::column::Column>> {
        Err(Error::Bug("a column in a tensor nest".into()))
    }
}

/// Lowers one nest.
pub(super) struct NestLower<'a> {
    r: RowLower<'a>,
    values: &'a Values,
    slots: Vec<Slot>,
    memo: HashMap<(Val, Vec<kernel::Value>), kernel::Value>,
    /// What is known of maps' bodies, for maps that more than one value comes from.
    bodies: HashMap<(NodeId, Vec<kernel::Value>), Env>,
    /// Computed here though it is stored.
    root: Val,
    /// Results of the root's map, the root among them, that are computed here too.
    roots: Vec<Val>,
    /// Values of the root's body that block functions computed.
    made: Vec<(ValueId, Cell)>,
    /// The value of the root's body that is computed, if it is not its result.
    wanted: Option<ValueId>,
    weight: usize,
}

/// Elements of a strip: what block functions work on at once.
const STRIP: usize = 512;
/// Block functions in one nest at most.
const MAX_SITES: usize = 7;
/// Bytes of a worker's scratch: the argument and the results of the block functions.
pub(super) const SCRATCH: usize = (MAX_SITES + 1) * STRIP * 8;

/// The operations of a map's body that block functions compute for many elements at once, as far as these results need them, in
/// order.
pub(super) fn block_sites(p: &Program, map: NodeId, results: &[usize]) -> Vec<(ValueId, RuntimeFn)> {
    let body = p.region(p.node(map).regions[0]);
    let needed = needed(p, map, results);
    let site = |n: &NodeId| {
        let node = p.node(*n);
        let Op::Scalar(op) = node.op else { return None };
        let v = node.results[0];
        Some((v, block_function(op, p.ty(v).as_scalar()?.ty)?))
    };
    body.nodes.iter().filter_map(site).filter(|(v, _)| needed.contains(v)).collect()
}

fn block_function(op: ScalarOp, ty: ScalarType) -> Option<RuntimeFn> {
    use RuntimeFn as F;
    let (single, double) = match op {
        ScalarOp::Exp => (F::ExpBlockF32, F::ExpBlockF64),
        ScalarOp::Log => (F::LogBlockF32, F::LogBlockF64),
        ScalarOp::Log1p => (F::Log1pBlockF32, F::Log1pBlockF64),
        ScalarOp::Tanh => (F::TanhBlockF32, F::TanhBlockF64),
        ScalarOp::Sigmoid => (F::SigmoidBlockF32, F::SigmoidBlockF64),
        ScalarOp::Erf => (F::ErfBlockF32, F::ErfBlockF64),
        ScalarOp::Sin => (F::SinBlockF32, F::SinBlockF64),
        ScalarOp::Cos => (F::CosBlockF32, F::CosBlockF64),
        _ => return None,
    };
    match ty {
        ScalarType::F32 => Some(single),
        ScalarType::F64 => Some(double),
        _ => None,
    }
}

/// What folds a block into one element where generated code would compare one element after the other: the greatest, for NaN is
/// above all numbers.
fn fold_function(reducer: Reducer, dtype: ScalarType) -> Option<RuntimeFn> {
    match (reducer, dtype) {
        (Reducer::Max, ScalarType::F32) => Some(RuntimeFn::MaxFoldF32),
        (Reducer::Max, ScalarType::F64) => Some(RuntimeFn::MaxFoldF64),
        _ => None,
    }
}

type V = kernel::Value;

impl Indices for NestLower<'_> {
    type Index = V;

    fn zero(&mut self) -> V {
        self.index(0)
    }

    fn scaled(&mut self, index: &V, start: &Dim, step: usize) -> V {
        let start = self.size(start);
        let step = self.index(step as i64);
        let scaled = self.r.b.mul(*index, step);
        self.r.b.add(scaled, start)
    }

    fn reversed(&mut self, index: &V, size: &Dim) -> V {
        let size = self.size(size);
        let one = self.index(1);
        let last = self.r.b.sub(size, one);
        self.r.b.sub(last, *index)
    }
}

impl NestLower<'_> {
    /// The nest that fills the buffers of these values: of one, or of results of one map.
    pub(super) fn lower(p: &Program, values: &Values, module: &mut Module, name: &str, roots: &[Val]) -> Result<Nest> {
        let root = *roots.first().ok_or_else(|| Error::Bug("a nest of nothing".into()))?;
        let b = Builder::new(name, Signature::pipeline());
        let (ctx, worker) = (b.param(0), b.param(1));
        let mut context = Context::default();
        let r = RowLower { p, inputs: &NoInputs, b, context: &mut context, ctx, worker, area: None, rows: 0 };
        let mut l = NestLower {
            r,
            values,
            slots: vec![],
            memo: HashMap::new(),
            bodies: HashMap::new(),
            root,
            roots: roots.to_vec(),
            made: vec![],
            wanted: None,
            weight: 0,
        };
        let (extent, work) = l.value()?;
        let zero = l.r.b.iconst(K::I32, 0);
        let (slots, weight) = (l.slots, l.weight.max(1));
        let body = l.r.b.finish(Some(zero)).map_err(|e| Error::Bug(e.to_string()))?;
        if !context.slots().is_empty() {
            return Err(Error::Unsupported("a scalar parameter or a text in a tensor's map".into()));
        }
        // Layers that are alike have nests that differ by what stands in the slots.
        let function = module.share(body);
        Ok(Nest { function, code: None, slots, extent, work, weight })
    }

    /// What was computed holds for one element only.
    fn forget(&mut self) {
        self.memo.clear();
        self.bodies.clear();
    }

    fn index(&mut self, n: i64) -> V {
        self.r.b.iconst(K::I64, n)
    }

    fn slot(&mut self, slot: Slot) -> i32 {
        let at = self.slots.iter().position(|s| *s == slot).unwrap_or_else(|| {
            self.slots.push(slot);
            self.slots.len() - 1
        });
        at as i32 * 8
    }

    fn size(&mut self, d: &Dim) -> V {
        match constant(d) {
            Some(n) => self.index(n),
            None => {
                let at = self.slot(Slot::Size(d.clone()));
                self.r.b.load_always(K::I64, self.r.ctx, at)
            }
        }
    }

    /// The address of an element of a row-major buffer.
    fn address(&mut self, v: Val, shape: &[Dim], index: &[V]) -> V {
        let at = self.slot(Slot::Address(v));
        let mut pointer = self.r.b.load_always(K::Ptr, self.r.ctx, at);
        let bytes = i64::from(element_bytes(self.values.get(v).ty.dtype));
        for (i, stride) in index.iter().zip(row_major(shape)) {
            pointer = match constant(&stride) {
                Some(n) => self.r.b.offset(pointer, *i, n * bytes, 0),
                None => {
                    let stride = self.size(&stride);
                    let i = self.r.b.mul(*i, stride);
                    self.r.b.offset(pointer, i, bytes, 0)
                }
            };
        }
        pointer
    }

    fn load(&mut self, v: Val, shape: &[Dim], index: &[V]) -> V {
        let at = self.address(v, shape, index);
        self.r.b.load_readonly(register_type(self.values.get(v).ty.dtype), at, 0)
    }

    // ---- elements ----

    fn element(&mut self, v: Val, index: &[V]) -> Result<V> {
        let key = (v, index.to_vec());
        if let Some(x) = self.memo.get(&key) {
            return Ok(*x);
        }
        let values = self.values;
        let info = values.get(v);
        let x = if !self.roots.contains(&v) && values.is_stored(v) {
            self.load(v, &info.ty.shape, index)
        } else {
            self.compute(v, index)?
        };
        self.memo.insert(key, x);
        Ok(x)
    }

    fn compute(&mut self, v: Val, index: &[V]) -> Result<V> {
        let values = self.values;
        let info = values.get(v);
        match &info.def {
            Def::Const(t) if t.data.len() == 1 => Ok(self.literal(&t.data.get(0), info.ty.dtype)?.value),
            Def::Outside | Def::Const(_) => Ok(self.load(v, &info.ty.shape, index)),
            Def::Copy(o) => self.element(*o, index),
            Def::Iota { dim } => {
                let i = index[*dim];
                Ok(match info.ty.dtype {
                    ScalarType::I32 => self.r.b.trunc(i, K::I32),
                    ScalarType::F32 => self.r.b.int_to_float(i, K::F32),
                    ScalarType::F64 => self.r.b.int_to_float(i, K::F64),
                    _ => i,
                })
            }
            Def::Map { node, operands, result } => {
                let body = self.r.p.region(self.r.p.node(*node).regions[0]);
                self.weight += weight_of(self.r.p, *node, *result);
                let is_root = self.roots.contains(&v);
                let key = (*node, index.to_vec());
                let mut env = self.bodies.remove(&key).unwrap_or_default();
                if is_root {
                    env.values.extend(self.made.iter().copied());
                }
                for (param, o) in operands {
                    let value = self.element(*o, index)?;
                    let ty = values.get(*o).ty.dtype;
                    env.values.insert(*param, Cell { value, valid: None, ty, range: None });
                }
                let wanted = if is_root { self.wanted } else { None };
                let cell = self.r.value(wanted.unwrap_or(body.results[*result]), &mut env)?;
                self.bodies.insert(key, env);
                self.r.to_register(&cell, register_type(cell.ty))
            }
            Def::View(m, o) => {
                let (from, to) = (&values.get(*o).ty.shape, &info.ty.shape);
                match m {
                    Move::Reshape(_) if !same_but_ones(from, to) => {
                        // The elements lie in order: the address is the same under either shape.
                        let mut base = *o;
                        while let Def::View(Move::Reshape(_), next) = &values.get(base).def
                            && !values.is_stored(base)
                        {
                            base = *next;
                        }
                        if !values.is_stored(base) {
                            return self.single(base);
                        }
                        Ok(self.load(base, to, index))
                    }
                    Move::Pad { dim, before, .. } => self.pad(*o, index, *dim, *before),
                    _ => {
                        let index = through(self, m, from, to, index);
                        self.element(*o, &index)
                    }
                }
            }
            other => Err(Error::Bug(format!("{other:?} as an expression"))),
        }
    }

    /// The only element of a value that has no buffer.
    fn single(&mut self, v: Val) -> Result<V> {
        let zero = self.index(0);
        let index = vec![zero; self.values.get(v).ty.rank()];
        self.element(v, &index)
    }

    fn pad(&mut self, operand: Val, index: &[V], dim: usize, before: usize) -> Result<V> {
        let ty = &self.values.get(operand).ty;
        let register = register_type(ty.dtype);
        let size = self.size(&ty.shape[dim]);
        let before = self.index(before as i64);
        let inner = self.r.b.sub(index[dim], before);
        let inside = self.r.b.icmp(Cmp::ULt, inner, size);
        let mut at = index.to_vec();
        at[dim] = inner;
        let (memo, bodies) = (self.memo.clone(), self.bodies.clone());
        self.r.b.begin_if(inside, &[register]);
        let value = self.element(operand, &at)?;
        self.r.b.begin_else(&[value]);
        (self.memo, self.bodies) = (memo, bodies);
        let zero = self.r.zero(register);
        Ok(self.r.b.end_if(&[zero])[0])
    }

    fn literal(&mut self, v: &Value, ty: ScalarType) -> Result<Cell> {
        self.r.literal(v, ty)
    }

    // ---- loops ----

    /// The nest of the root: the steps of its outermost loop, and the number of elements computed.
    fn value(&mut self) -> Result<(Dim, Dim)> {
        let values = self.values;
        let info = values.get(self.root);
        match &info.def {
            Def::Reduce { reducer, axes, operand } => {
                let shape = values.get(*operand).ty.shape.clone();
                let dims: Vec<usize> = (0..shape.len()).collect();
                let dtype = values.get(*operand).ty.dtype;
                let reads = [(*operand, dims, false)];
                if matches!(reducer, Reducer::ArgMax | Reducer::ArgMin) {
                    return self.arg(*reducer, &shape, axes[0], *operand);
                }
                let element = |l: &mut Self, index: &[V]| l.element(*operand, index);
                self.reduce(*reducer, dtype, &shape, axes, &reads, &element)
            }
            Def::Contract { spec, a, b } => self.contract(spec, *a, *b),
            Def::Prefix { reducer, axis, operand } => self.prefix(*reducer, *axis, *operand),
            _ => self.elementwise(),
        }
    }

    /// Opens loops over groups; the first one runs over the function's range. Returns the indices.
    fn open(&mut self, groups: &[Group], rank: usize, first: bool, vector: bool) -> Vec<V> {
        let zero = self.index(0);
        let mut index = vec![zero; rank];
        self.open_into(groups, &mut index, first, vector);
        index
    }

    fn open_into(&mut self, groups: &[Group], index: &mut [V], first: bool, vector: bool) {
        for (g, group) in groups.iter().enumerate() {
            let (begin, end) = if g == 0 && first {
                (self.r.b.param(2), self.r.b.param(3))
            } else {
                (self.index(0), self.size(&group.extent))
            };
            let last = g + 1 == groups.len();
            let kind = if last && vector { LoopKind::Vector(0) } else { LoopKind::Serial };
            let body = self.r.b.begin_for(kind, begin, end, 1, &[]);
            if let Some(d) = group.dims.last() {
                index[*d] = body.index;
            }
        }
        self.forget();
    }

    fn close(&mut self, groups: &[Group]) {
        for _ in groups {
            self.r.b.end_for(&[]);
        }
        self.forget();
    }

    fn elementwise(&mut self) -> Result<(Dim, Dim)> {
        let values = self.values;
        let root = self.root;
        let shape = values.get(root).ty.shape.clone();
        let dims: Vec<usize> = (0..shape.len()).collect();
        let space = Space { shape: &shape, class: &vec![0; shape.len()], alone: &[] };
        let roots = self.roots.clone();
        let reads: Vec<_> = roots.iter().map(|v| (*v, dims.clone(), true)).collect();
        let groups = space.groups(values, &reads);
        let result = |v: &Val| if let Def::Map { result, .. } = values.get(*v).def { Some(result) } else { None };
        let results: Vec<usize> = roots.iter().filter_map(result).collect();
        let sites = match &values.get(root).def {
            Def::Map { node, .. } => block_sites(self.r.p, *node, &results),
            _ => vec![],
        };
        let long = groups.last().is_some_and(|g| constant(&g.extent).is_none_or(|n| n >= 32));
        if !sites.is_empty() && sites.len() <= MAX_SITES && long {
            self.strips(&groups, &shape, &sites)?;
        } else {
            let index = self.open(&groups, shape.len(), true, true);
            self.store_element(&shape, &index)?;
            self.close(&groups);
        }
        Ok((groups.first().map_or(Dim::Const(1), |g| g.extent.clone()), product(&shape)))
    }

    fn store_element(&mut self, shape: &[Dim], index: &[V]) -> Result<()> {
        for v in self.roots.clone() {
            let x = self.element(v, index)?;
            let at = self.address(v, shape, index);
            self.r.b.store(x, at, 0);
        }
        Ok(())
    }

    /// The innermost loop in strips: for each block function a loop that computes its arguments, then the call; at last a loop
    /// that computes the results.
    fn strips(&mut self, groups: &[Group], shape: &[Dim], sites: &[(ValueId, RuntimeFn)]) -> Result<()> {
        let Some((last, outer)) = groups.split_last() else { return Err(Error::Bug("strips of one element".into())) };
        let mut index = self.open(outer, shape.len(), true, false);
        let (begin, end) = match outer.is_empty() {
            true => (self.r.b.param(2), self.r.b.param(3)),
            false => (self.index(0), self.size(&last.extent)),
        };
        let dim = last.dims.last().copied().unwrap_or(0);
        let strip = self.r.b.begin_for(LoopKind::Serial, begin, end, STRIP as i64, &[]);
        let first = strip.index;
        let limit = self.r.b.add_imm(first, STRIP as i64);
        let limit = self.r.b.smin(limit, end);
        let count = self.r.b.sub(limit, first);
        let scratch = self.r.b.load_always(K::Ptr, self.r.worker, runtime::trap::WORKER_HEAD_SLOTS as i32 * 8);
        let mut buffers: Vec<(ValueId, V)> = vec![];
        for k in 0..=sites.len() {
            let body = self.r.b.begin_for(LoopKind::Vector(0), first, limit, 1, &[]);
            self.forget();
            index[dim] = body.index;
            let offset = self.r.b.sub(body.index, first);
            self.made.clear();
            for (v, buffer) in &buffers {
                let ty = self.scalar_type(*v)?;
                let at = self.r.b.offset(*buffer, offset, i64::from(element_bytes(ty)), 0);
                let value = self.r.b.load(register_type(ty), at, 0);
                self.made.push((*v, Cell { value, valid: None, ty, range: None }));
            }
            let Some((v, function)) = sites.get(k) else {
                self.wanted = None;
                self.store_element(shape, &index)?;
                self.r.b.end_for(&[]);
                break;
            };
            let argument = self.r.p.node_of(*v).map(|n| n.operands[0]);
            self.wanted = argument;
            let x = self.argument(&index)?;
            let bytes = i64::from(element_bytes(self.scalar_type(*v)?));
            let at = self.r.b.offset(scratch, offset, bytes, 0);
            self.r.b.store(x, at, 0);
            self.r.b.end_for(&[]);
            let buffer = self.r.b.displace(scratch, ((k + 1) * STRIP * 8) as i64);
            self.r.b.call(*function, &[scratch, buffer, count]);
            buffers.push((*v, buffer));
        }
        self.made.clear();
        self.r.b.end_for(&[]);
        self.close(outer);
        Ok(())
    }

    /// The value of the roots' body that is wanted.
    fn argument(&mut self, index: &[V]) -> Result<V> {
        let needs = |l: &Self, v: &Val| match (&l.values.get(*v).def, l.wanted) {
            (Def::Map { node, result, .. }, Some(wanted)) => needed(l.r.p, *node, &[*result]).contains(&wanted),
            _ => false,
        };
        let root = self.roots.iter().copied().find(|v| needs(self, v)).unwrap_or(self.root);
        self.compute(root, index)
    }

    fn scalar_type(&self, v: ValueId) -> Result<ScalarType> {
        self.r.p.ty(v).as_scalar().map(|t| t.ty).ok_or_else(|| Error::Bug("a scalar in a map".into()))
    }

    fn combine(&mut self, reducer: Reducer, dtype: ScalarType, acc: V, x: V) -> Result<V> {
        let op = match reducer {
            Reducer::Sum => ScalarOp::Add,
            Reducer::Product => ScalarOp::Mul,
            Reducer::Min => ScalarOp::Min,
            Reducer::Max => ScalarOp::Max,
            Reducer::BoolAnd => return Ok(self.r.b.binary(BinaryOp::And, acc, x)),
            Reducer::BoolOr => return Ok(self.r.b.binary(BinaryOp::Or, acc, x)),
            other => return Err(Error::Unsupported(format!("{} over a tensor", other.name()))),
        };
        let cell = |value| Cell { value, valid: None, ty: dtype, range: None };
        let place = self.values.get(self.root).place;
        let out = self.r.scalar(op, &[cell(acc), cell(x)], dtype.nullable(false), place)?;
        self.r.to_register(&out, register_type(dtype))
    }

    /// What changes nothing when it is combined. NaN is greater than every number.
    fn identity(&mut self, reducer: Reducer, dtype: ScalarType) -> Result<V> {
        let value = match (reducer, dtype) {
            (Reducer::Sum, ScalarType::F32) => Value::F32(0.0),
            (Reducer::Sum, ScalarType::F64) => Value::F64(0.0),
            (Reducer::Product, ScalarType::F32) => Value::F32(1.0),
            (Reducer::Product, ScalarType::F64) => Value::F64(1.0),
            (Reducer::Min, ScalarType::F32) => Value::F32(f32::NAN),
            (Reducer::Min, ScalarType::F64) => Value::F64(f64::NAN),
            (Reducer::Max, ScalarType::F32) => Value::F32(f32::NEG_INFINITY),
            (Reducer::Max, ScalarType::F64) => Value::F64(f64::NEG_INFINITY),
            (Reducer::Sum, ScalarType::I32) => Value::I32(0),
            (Reducer::Sum, ScalarType::I64) => Value::I64(0),
            (Reducer::Product, ScalarType::I32) => Value::I32(1),
            (Reducer::Product, ScalarType::I64) => Value::I64(1),
            (Reducer::Min, ScalarType::I32) => Value::I32(i32::MAX),
            (Reducer::Min, ScalarType::I64) => Value::I64(i64::MAX),
            (Reducer::Max, ScalarType::I32) => Value::I32(i32::MIN),
            (Reducer::Max, ScalarType::I64) => Value::I64(i64::MIN),
            (Reducer::BoolAnd, _) => Value::Bool(true),
            (Reducer::BoolOr, _) => Value::Bool(false),
            _ => return Err(Error::Unsupported(format!("{} over a tensor of {dtype}", reducer.name()))),
        };
        Ok(self.literal(&value, dtype)?.value)
    }

    /// Raises where a reduction that needs an element has none.
    fn need_elements(&mut self, reducer: Reducer, reduced: &Dim) {
        if matches!(reducer, Reducer::Min | Reducer::Max | Reducer::ArgMax | Reducer::ArgMin) {
            let n = self.size(reduced);
            let none = self.r.b.icmp_imm(Cmp::Eq, n, 0);
            let place = self.values.get(self.root).place.map_or(0, |p| p.0 + 1);
            self.r.b.trap_if(none, TrapCode::InvalidArgument, place);
        }
    }

    #[allow(clippy::type_complexity, reason = "a function of the elements")]
    fn reduce(
        &mut self,
        reducer: Reducer,
        dtype: ScalarType,
        shape: &[Dim],
        axes: &[usize],
        reads: &[(Val, Vec<usize>, bool)],
        element: &dyn Fn(&mut Self, &[V]) -> Result<V>,
    ) -> Result<(Dim, Dim)> {
        let values = self.values;
        let root = self.root;
        let out_shape = values.get(root).ty.shape.clone();
        let kept: Vec<usize> = (0..shape.len()).filter(|d| !axes.contains(d)).collect();
        let class: Vec<usize> = (0..shape.len()).map(|d| usize::from(axes.contains(&d))).collect();
        let groups = Space { shape, class: &class, alone: &[] }.groups(values, reads);
        let reduced: Vec<Dim> = axes.iter().map(|d| shape[*d].clone()).collect();
        let reduced = product(&reduced);
        let is_reduced = |g: &Group| g.dims.first().is_some_and(|d| class[*d] == 1);
        let out_index = |index: &[V]| kept.iter().map(|d| index[*d]).collect::<Vec<V>>();
        let work = product(shape);
        let inner = groups.last().is_none_or(is_reduced);
        let (outer_groups, inner_groups): (Vec<Group>, Vec<Group>) = if inner {
            groups.iter().cloned().partition(|g| !is_reduced(g))
        } else {
            // Kept dimensions before the first reduced one are outside.
            let first = groups.iter().position(is_reduced).unwrap_or(groups.len());
            (groups[..first].to_vec(), groups[first..].to_vec())
        };
        let extent = outer_groups.first().map_or(Dim::Const(1), |g| g.extent.clone());
        if outer_groups.is_empty() {
            // Nothing is split: an empty range of rows does not occur.
            self.need_elements(reducer, &reduced);
        }
        let mut index = self.open(&outer_groups, shape.len(), true, false);
        if !outer_groups.is_empty() {
            self.need_elements(reducer, &reduced);
        }
        if let (true, [last], Some(function)) = (inner, &inner_groups[..], fold_function(reducer, dtype)) {
            let start = self.identity(reducer, dtype)?;
            let out = self.address(root, &out_shape, &out_index(&index));
            self.r.b.store(start, out, 0);
            self.folded(last, &mut index, dtype, (function, out), element)?;
        } else if inner {
            let start = self.identity(reducer, dtype)?;
            let acc = self.accumulate(&inner_groups, &mut index, start, &|l, index, acc| {
                let x = element(l, index)?;
                l.combine(reducer, dtype, acc, x)
            })?;
            let at = self.address(root, &out_shape, &out_index(&index));
            self.r.b.store(acc, at, 0);
        } else {
            let kept_inner: Vec<Group> = inner_groups.iter().filter(|g| !is_reduced(g)).cloned().collect();
            let axes_inner: Vec<Group> = inner_groups.iter().filter(|g| is_reduced(g)).cloned().collect();
            let mut fill = index.clone();
            self.open_into(&kept_inner, &mut fill, false, true);
            let start = self.identity(reducer, dtype)?;
            let at = self.address(root, &out_shape, &out_index(&fill));
            self.r.b.store(start, at, 0);
            self.close(&kept_inner);
            // The reduced dimensions outside, the kept ones inside: a row at a time is added to the results.
            self.open_into(&axes_inner, &mut index, false, false);
            self.open_into(&kept_inner, &mut index, false, true);
            let x = element(self, &index)?;
            let at = self.address(root, &out_shape, &out_index(&index));
            let acc = self.r.b.load(register_type(dtype), at, 0);
            let acc = self.combine(reducer, dtype, acc, x)?;
            self.r.b.store(acc, at, 0);
            self.close(&kept_inner);
            self.close(&axes_inner);
        }
        self.close(&outer_groups);
        Ok((extent, work))
    }

    /// The elements of a group in strips, each computed and then folded into one place by a block function.
    #[allow(clippy::type_complexity, reason = "a function of the elements")]
    fn folded(
        &mut self,
        group: &Group,
        index: &mut [V],
        dtype: ScalarType,
        (function, out): (RuntimeFn, V),
        element: &dyn Fn(&mut Self, &[V]) -> Result<V>,
    ) -> Result<()> {
        let (begin, end) = (self.index(0), self.size(&group.extent));
        let strip = self.r.b.begin_for(LoopKind::Serial, begin, end, STRIP as i64, &[]);
        let limit = self.r.b.add_imm(strip.index, STRIP as i64);
        let limit = self.r.b.smin(limit, end);
        let count = self.r.b.sub(limit, strip.index);
        let scratch = self.r.b.load_always(K::Ptr, self.r.worker, runtime::trap::WORKER_HEAD_SLOTS as i32 * 8);
        let body = self.r.b.begin_for(LoopKind::Vector(0), strip.index, limit, 1, &[]);
        self.forget();
        if let Some(d) = group.dims.last() {
            index[*d] = body.index;
        }
        let x = element(self, index)?;
        let offset = self.r.b.sub(body.index, strip.index);
        let at = self.r.b.offset(scratch, offset, i64::from(element_bytes(dtype)), 0);
        self.r.b.store(x, at, 0);
        self.r.b.end_for(&[]);
        self.r.b.call(function, &[scratch, out, count]);
        self.r.b.end_for(&[]);
        self.forget();
        Ok(())
    }

    /// Loops over groups that carry one value.
    #[allow(clippy::type_complexity, reason = "a step of the accumulation")]
    fn accumulate(
        &mut self,
        groups: &[Group],
        index: &mut Vec<V>,
        start: V,
        step: &dyn Fn(&mut Self, &[V], V) -> Result<V>,
    ) -> Result<V> {
        let Some((group, rest)) = groups.split_first() else {
            self.forget();
            return step(self, index, start);
        };
        let (begin, end) = (self.index(0), self.size(&group.extent));
        let kind = if rest.is_empty() { LoopKind::Vector(0) } else { LoopKind::Serial };
        let body = self.r.b.begin_for(kind, begin, end, 1, &[start]);
        if let Some(d) = group.dims.last() {
            index[*d] = body.index;
        }
        let next = self.accumulate(rest, index, body.carried[0], step)?;
        let out = self.r.b.end_for(&[next]);
        if let Some(d) = group.dims.last() {
            index[*d] = self.index(0);
        }
        self.forget();
        Ok(out[0])
    }

    /// A contraction that no matrix product computes.
    fn contract(&mut self, spec: &ContractSpec, a: Val, b: Val) -> Result<(Dim, Dim)> {
        let values = self.values;
        let (ta, tb) = (&values.get(a).ty, &values.get(b).ty);
        let mut labels = spec.out.clone();
        for l in spec.a.iter().chain(&spec.b) {
            if !labels.contains(l) {
                labels.push(*l);
            }
        }
        let size = |l: &u8| {
            let find = |labels: &[u8], shape: &[Dim]| labels.iter().position(|x| x == l).map(|d| shape[d].clone());
            find(&spec.a, &ta.shape).or_else(|| find(&spec.b, &tb.shape)).unwrap_or(Dim::Const(1))
        };
        let shape: Vec<Dim> = labels.iter().map(size).collect();
        let axes: Vec<usize> = (spec.out.len()..labels.len()).collect();
        let dims =
            |of: &[u8]| -> Vec<usize> { of.iter().map(|l| labels.iter().position(|x| x == l).unwrap_or(0)).collect() };
        let (da, db) = (dims(&spec.a), dims(&spec.b));
        let element = |l: &mut Self, index: &[V]| {
            let at = |dims: &[usize]| dims.iter().map(|d| index[*d]).collect::<Vec<V>>();
            let (x, y) = (l.element(a, &at(&da))?, l.element(b, &at(&db))?);
            Ok(l.r.b.fmul(x, y))
        };
        let reads = [(a, da.clone(), false), (b, db.clone(), false)];
        self.weight += 2;
        self.reduce(Reducer::Sum, ta.dtype, &shape, &axes, &reads, &element)
    }

    fn arg(&mut self, reducer: Reducer, shape: &[Dim], axis: usize, operand: Val) -> Result<(Dim, Dim)> {
        let values = self.values;
        let dtype = values.get(operand).ty.dtype;
        let out_shape = values.get(self.root).ty.shape.clone();
        let kept: Vec<usize> = (0..shape.len()).filter(|d| *d != axis).collect();
        let class: Vec<usize> = (0..shape.len()).map(|d| usize::from(d == axis)).collect();
        let dims: Vec<usize> = (0..shape.len()).collect();
        let groups = Space { shape, class: &class, alone: &[axis] }.groups(values, &[(operand, dims, false)]);
        let groups: Vec<Group> = groups.into_iter().filter(|g| !g.dims.contains(&axis)).collect();
        if groups.is_empty() {
            self.need_elements(reducer, &shape[axis]);
        }
        let mut index = self.open(&groups, shape.len(), true, false);
        if !groups.is_empty() {
            self.need_elements(reducer, &shape[axis]);
        }
        let zero = self.index(0);
        index[axis] = zero;
        let first = self.element(operand, &index)?;
        let (one, end) = (self.index(1), self.size(&shape[axis]));
        let body = self.r.b.begin_for(LoopKind::Serial, one, end, 1, &[first, zero]);
        self.forget();
        index[axis] = body.index;
        let x = self.element(operand, &index)?;
        let cell = |value| Cell { value, valid: None, ty: dtype, range: None };
        let op = if reducer == Reducer::ArgMax { ScalarOp::Gt } else { ScalarOp::Lt };
        let better =
            self.r.scalar(op, &[cell(x), cell(body.carried[0])], ScalarType::Bool.nullable(false), None)?.value;
        let best = self.r.b.select(better, x, body.carried[0]);
        let at = self.r.b.select(better, body.index, body.carried[1]);
        let out = self.r.b.end_for(&[best, at]);
        let out_index: Vec<V> = kept.iter().map(|d| index[*d]).collect();
        let at = self.address(self.root, &out_shape, &out_index);
        self.r.b.store(out[1], at, 0);
        self.close(&groups);
        Ok((groups.first().map_or(Dim::Const(1), |g| g.extent.clone()), product(shape)))
    }

    fn prefix(&mut self, reducer: Reducer, axis: usize, operand: Val) -> Result<(Dim, Dim)> {
        let values = self.values;
        let ty = values.get(operand).ty.clone();
        let shape = &ty.shape;
        let class: Vec<usize> = (0..shape.len()).map(|d| usize::from(d == axis)).collect();
        let dims: Vec<usize> = (0..shape.len()).collect();
        let groups = Space { shape, class: &class, alone: &[axis] }.groups(values, &[(operand, dims, false)]);
        let groups: Vec<Group> = groups.into_iter().filter(|g| !g.dims.contains(&axis)).collect();
        let mut index = self.open(&groups, shape.len(), true, false);
        let start = self.identity(reducer, ty.dtype)?;
        let (zero, end) = (self.index(0), self.size(&shape[axis]));
        let body = self.r.b.begin_for(LoopKind::Serial, zero, end, 1, &[start]);
        self.forget();
        index[axis] = body.index;
        let x = self.element(operand, &index)?;
        let acc = self.combine(reducer, ty.dtype, body.carried[0], x)?;
        let at = self.address(self.root, shape, &index);
        self.r.b.store(acc, at, 0);
        self.r.b.end_for(&[acc]);
        self.close(&groups);
        Ok((groups.first().map_or(Dim::Const(1), |g| g.extent.clone()), product(shape)))
    }
}
