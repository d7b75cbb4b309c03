//! Library calls: matrix products by strides, rows by index, random numbers.

use runtime::kernels::random::Philox;
use runtime::trap::{DEFAULT_DEPTH_LIMIT, Trap, TrapCode};

use super::index::{row_major, same_but_ones, through};
use super::{Def, Val, Values};
use crate::entity::ValueId;
use crate::graph::tensor::{ContractSpec, Distribution, Move};
use crate::graph::{Op, Program};
use crate::scalar::ScalarOp;
use crate::types::{Dim, ScalarType};
use crate::value::Value;

/// A stored value seen through strides, in elements.
#[derive(Clone, Debug)]
pub(super) struct Strided {
    pub base: Val,
    pub offset: Dim,
    pub strides: Vec<Dim>,
}

/// A loop around matrix products: its size and how far it moves in a, b and the result.
#[derive(Clone, Debug)]
pub(super) struct Around {
    pub size: Dim,
    pub a: Dim,
    pub b: Dim,
    pub c: Dim,
}

/// `out = a b`, m × k by k × n.
#[derive(Clone, Debug)]
pub(super) struct Gemm {
    pub a: Strided,
    pub b: Strided,
    pub out: Val,
    pub m: Dim,
    pub n: Dim,
    pub k: Dim,
    pub a_strides: [Dim; 2],
    pub b_strides: [Dim; 2],
    pub c_strides: [Dim; 2],
    pub around: Vec<Around>,
    pub double: bool,
    pub finish: Finish,
}

/// What becomes of an element of the product while it is in a register. Vectors have an element a column, matrices are stored
/// as the product is.
#[derive(Clone, Debug)]
pub(super) enum Finish {
    None,
    /// max(0, x).
    Relu,
    /// x + a vector's element.
    Bias(Strided),
    /// max(0, x + a vector's element).
    BiasRelu(Strided),
    /// x where a matrix is above 0, else 0.
    Gate(Strided),
}

impl Finish {
    /// What is read for it.
    pub(super) fn reads(&self) -> Option<Val> {
        match self {
            Self::None | Self::Relu => None,
            Self::Bias(s) | Self::BiasRelu(s) | Self::Gate(s) => Some(s.base),
        }
    }
}

/// A value by strides; none where it is computed.
pub(super) fn strided(values: &Values, v: Val) -> Option<Strided> {
    let info = values.get(v);
    let shape = &info.ty.shape;
    // A constant has an address even where nests take it as a literal.
    if values.is_stored(v) || matches!(info.def, Def::Const(_)) {
        return Some(Strided { base: v, offset: Dim::Const(0), strides: row_major(shape) });
    }
    let Def::View(m, o) = &info.def else { return None };
    let from = &values.get(*o).ty.shape;
    match m {
        Move::Reshape(_) if !same_but_ones(from, shape) => {
            let mut base = *o;
            while let Def::View(Move::Reshape(_), next) = &values.get(base).def
                && !values.is_stored(base)
            {
                base = *next;
            }
            let stored = values.is_stored(base) || matches!(values.get(base).def, Def::Const(_));
            stored.then(|| Strided { base, offset: Dim::Const(0), strides: row_major(shape) })
        }
        Move::Pad { .. } | Move::Reverse(_) => None,
        Move::Slice { dim, start, step, .. } => {
            let mut s = strided(values, *o)?;
            s.offset = s.offset.plus(start.clone().times(s.strides[*dim].clone()));
            s.strides[*dim] = s.strides[*dim].clone().times(Dim::Const(*step));
            Some(s)
        }
        Move::Permute(perm) => {
            let s = strided(values, *o)?;
            let strides = perm.iter().map(|d| s.strides[*d].clone()).collect();
            Some(Strided { strides, ..s })
        }
        Move::Broadcast { dims, .. } => {
            let s = strided(values, *o)?;
            let mut strides = vec![Dim::Const(0); shape.len()];
            for (i, d) in dims.iter().enumerate() {
                if from[i] != Dim::Const(1) {
                    strides[*d] = s.strides[i].clone();
                }
            }
            Some(Strided { strides, ..s })
        }
        Move::Reshape(_) => {
            // Where each dimension of the operand went; ones have no stride.
            let s = strided(values, *o)?;
            let places: Vec<Option<usize>> = (0..shape.len()).map(Some).collect();
            let index = through(&mut Places, m, from, shape, &places);
            let mut strides = vec![Dim::Const(0); shape.len()];
            for (i, place) in index.iter().enumerate() {
                if let Some(d) = place {
                    strides[*d] = s.strides[i].clone();
                }
            }
            Some(Strided { strides, ..s })
        }
    }
}

struct Places;

impl super::index::Indices for Places {
    type Index = Option<usize>;

    fn zero(&mut self) -> Option<usize> {
        None
    }

    fn scaled(&mut self, index: &Option<usize>, _: &Dim, _: usize) -> Option<usize> {
        *index
    }

    fn reversed(&mut self, index: &Option<usize>, _: &Dim) -> Option<usize> {
        *index
    }
}

/// A dimension with its strides in two tensors.
#[derive(Clone)]
struct Axis {
    size: Dim,
    x: Dim,
    y: Dim,
}

/// Takes neighbours together from the last one on; what is left stays apart.
fn merged(mut axes: Vec<Axis>) -> (Axis, Vec<Axis>) {
    axes.retain(|a| a.size != Dim::Const(1));
    let Some(mut last) = axes.pop() else {
        return (Axis { size: Dim::Const(1), x: Dim::Const(1), y: Dim::Const(1) }, vec![]);
    };
    let mut next = last.clone();
    while let Some(a) = axes.last() {
        if a.x != next.size.clone().times(next.x.clone()) || a.y != next.size.clone().times(next.y.clone()) {
            break;
        }
        last.size = a.size.clone().times(last.size);
        next = a.clone();
        axes.pop();
    }
    (last, axes)
}

/// A contraction as matrix products, where it is one.
pub(super) fn contract(values: &Values, spec: &ContractSpec, a: Val, b: Val, out: Val) -> Option<Gemm> {
    let once = |labels: &[u8]| labels.iter().enumerate().all(|(i, l)| !labels[..i].contains(l));
    if !once(&spec.a) || !once(&spec.b) || !once(&spec.out) {
        return None;
    }
    let (sa, sb) = (strided(values, a)?, strided(values, b)?);
    let sc = row_major(&values.get(out).ty.shape);
    let (shape_a, shape_b) = (&values.get(a).ty.shape, &values.get(b).ty.shape);
    let at = |labels: &[u8], l: u8| labels.iter().position(|x| *x == l);
    let size = |l: u8| at(&spec.a, l).map_or_else(|| at(&spec.b, l).map(|d| &shape_b[d]), |d| Some(&shape_a[d]));
    let stride_a = |l: u8| at(&spec.a, l).map_or(Dim::Const(0), |d| sa.strides[d].clone());
    let stride_b = |l: u8| at(&spec.b, l).map_or(Dim::Const(0), |d| sb.strides[d].clone());
    let stride_c = |l: u8| at(&spec.out, l).map_or(Dim::Const(0), |d| sc[d].clone());
    let (mut around, mut m, mut n) = (vec![], vec![], vec![]);
    for &l in &spec.out {
        let size = size(l)?.clone();
        match (spec.a.contains(&l), spec.b.contains(&l)) {
            (true, true) => around.push(Around { size, a: stride_a(l), b: stride_b(l), c: stride_c(l) }),
            (true, false) => m.push(Axis { size, x: stride_a(l), y: stride_c(l) }),
            (false, _) => n.push(Axis { size, x: stride_b(l), y: stride_c(l) }),
        }
    }
    let summed = |labels: &[u8], other: &[u8]| -> Option<Vec<Axis>> {
        let mut out = vec![];
        for &l in labels.iter().filter(|l| !spec.out.contains(l)) {
            other.contains(&l).then_some(())?;
            out.push(Axis { size: size(l)?.clone(), x: stride_a(l), y: stride_b(l) });
        }
        Some(out)
    };
    let (by_a, by_b) = (summed(&spec.a, &spec.b)?, summed(&spec.b, &spec.a)?);
    let (mut k, mut rest) = merged(by_a);
    if !rest.is_empty() {
        (k, rest) = merged(by_b);
    }
    if !rest.is_empty() {
        return None;
    }
    let (m, rest) = merged(m);
    around.extend(rest.into_iter().map(|r| Around { size: r.size, a: r.x, b: Dim::Const(0), c: r.y }));
    let (n, rest) = merged(n);
    around.extend(rest.into_iter().map(|r| Around { size: r.size, a: Dim::Const(0), b: r.x, c: r.y }));
    around.retain(|r| r.size != Dim::Const(1));
    Some(Gemm {
        a_strides: [m.x, k.x],
        b_strides: [k.y, n.x],
        c_strides: [m.y, n.y],
        m: m.size,
        n: n.size,
        k: k.size,
        a: sa,
        b: sb,
        out,
        around,
        double: values.get(out).ty.dtype == ScalarType::F64,
        finish: Finish::None,
    })
}

/// The product that makes a map's result, where the map is of a form that micro-kernels have: `product` is what the map alone
/// reads of a contraction.
pub(super) fn finished(p: &Program, values: &Values, map: Val, product: Val) -> Option<Gemm> {
    let Def::Contract { spec, a, b } = &values.get(product).def else { return None };
    if values.get(product).ty != values.get(map).ty {
        return None;
    }
    let gemm = contract(values, spec, *a, *b, map)?;
    let columns = |l: &u8| !spec.a.contains(l);
    let shape = &values.get(map).ty.shape;
    let contiguous = gemm.c_strides[1] == Dim::Const(1) && gemm.around.is_empty() && spec.out.is_sorted_by_key(columns);
    if !contiguous {
        return None;
    }
    let along = |of: Val, want: &dyn Fn(usize) -> Dim| {
        let s = strided(values, of)?;
        let same = |d: usize| shape[d] == Dim::Const(1) || s.strides[d] == want(d);
        (0..shape.len()).all(same).then_some(s)
    };
    let row_major = row_major(shape);
    let vector = |of: Val| along(of, &|d| if columns(&spec.out[d]) { row_major[d].clone() } else { Dim::Const(0) });
    let matrix = |of: Val| along(of, &|d| row_major[d].clone());
    let finish = match form(p, values, map, product)? {
        Form::Relu => Finish::Relu,
        Form::Bias(b) => Finish::Bias(vector(b)?),
        Form::BiasRelu(b) => Finish::BiasRelu(vector(b)?),
        Form::Gate(g) => Finish::Gate(matrix(g)?),
    };
    Some(Gemm { finish, ..gemm })
}

enum Form {
    Relu,
    Bias(Val),
    BiasRelu(Val),
    Gate(Val),
}

/// Reads a map's body: `max(0, c)`, `c + b`, `max(0, c + b)` or `g > 0 ? c : 0`, where `c` is the product.
fn form(p: &Program, values: &Values, map: Val, product: Val) -> Option<Form> {
    let Def::Map { node, operands, result } = &values.get(map).def else { return None };
    let body = p.region(p.node(*node).regions[0]);
    let scalar = |v: ValueId| match p.node_of(v).map(|n| (&n.op, n.operands.as_slice())) {
        Some((Op::Scalar(op), operands)) => Some((*op, operands)),
        _ => None,
    };
    let zero = |v: ValueId| match p.node_of(v).map(|n| &n.op) {
        Some(Op::Literal(Value::F32(x), _)) => x.to_bits() == 0,
        Some(Op::Literal(Value::F64(x), _)) => x.to_bits() == 0,
        _ => false,
    };
    let operand = |v: ValueId| operands.iter().find(|(param, _)| *param == v).map(|(_, o)| *o);
    let is_product = |v: ValueId| operand(v) == Some(product);
    let biased = |v: ValueId| match scalar(v)? {
        (ScalarOp::Add, [x, y]) if is_product(*x) => operand(*y),
        (ScalarOp::Add, [x, y]) if is_product(*y) => operand(*x),
        _ => None,
    };
    let out = *body.results.get(*result)?;
    if let Some(b) = biased(out) {
        return (b != product).then_some(Form::Bias(b));
    }
    match scalar(out)? {
        // Of equals the first: the result is never -0, as in the micro-kernels.
        (ScalarOp::Max, [x, y]) if zero(*x) && is_product(*y) => Some(Form::Relu),
        (ScalarOp::Max, [x, y]) if zero(*x) => biased(*y).filter(|b| *b != product).map(Form::BiasRelu),
        (ScalarOp::Select, [c, x, y]) if is_product(*x) && zero(*y) => match scalar(*c)? {
            (ScalarOp::Gt, [g, z]) if zero(*z) => operand(*g).filter(|g| *g != product).map(Form::Gate),
            _ => None,
        },
        _ => None,
    }
}

/// Indices of either width as numbers of rows.
pub(super) enum Indices<'a> {
    I32(&'a [i32]),
    I64(&'a [i64]),
}

impl Indices<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::I32(v) => v.len(),
            Self::I64(v) => v.len(),
        }
    }

    /// Index `i`, checked.
    pub(super) fn get(&self, i: usize, rows: usize) -> Result<usize, Trap> {
        let at = match self {
            Self::I32(v) => i64::from(v[i]),
            Self::I64(v) => v[i],
        };
        usize::try_from(at).ok().filter(|at| *at < rows).ok_or_else(|| {
            let message = format!("index {at} is outside of a tensor of {rows} rows");
            Trap::with_detail(TrapCode::InvalidArgument, message)
        })
    }
}

/// Copies rows of `width` bytes.
pub(super) fn gather(
    table: &[u8],
    rows: usize,
    width: usize,
    indices: &Indices<'_>,
    out: &mut [u8],
) -> Result<(), Trap> {
    for i in 0..indices.len() {
        let at = indices.get(i, rows)?;
        out[i * width..(i + 1) * width].copy_from_slice(&table[at * width..(at + 1) * width]);
    }
    Ok(())
}

/// The nodes below `root`, lowest first, and their heights: see [`crate::graph::TensorOp::Levels`]. Children are looked at in the
/// order in which recursion would come to them, by a stack of its own.
pub(super) fn levels(inner: &[u8], root: i64, children: &[&[i64]], out: &mut [i64]) -> Result<(), Trap> {
    const OPEN: i64 = -2;
    let n = inner.len();
    let row = |at: i64| Indices::I64(&[at]).get(0, n);
    let (order, height) = out.split_at_mut(out.len() / 2);
    order.fill(-1);
    height.fill(-1);
    // A node, and how many of its children are done. The heights stand at the nodes' numbers until they are sorted.
    let mut path = vec![(row(root)?, 0)];
    let mut count = 0;
    while let Some((node, done)) = path.last_mut() {
        let node = *node;
        if *done == 0 {
            height[node] = OPEN;
        }
        let open = inner[node] != 0 && *done < children.len();
        if open {
            let child = row(children[*done][node])?;
            *done += 1;
            if height[child] == OPEN || path.len() >= DEFAULT_DEPTH_LIMIT as usize {
                return Err(TrapCode::RecursionDepth.into());
            }
            if height[child] == -1 {
                path.push((child, 0));
            }
            continue;
        }
        path.pop();
        let below = children.iter().filter_map(|c| usize::try_from(c[node]).ok()).map(|c| height[c] + 1).max();
        height[node] = if inner[node] == 0 { 0 } else { below.unwrap_or(0) };
        if height[node] >= DEFAULT_DEPTH_LIMIT as i64 {
            return Err(TrapCode::RecursionDepth.into());
        }
        order[count] = node as i64;
        count += 1;
    }
    order[..count].sort_unstable_by_key(|v| (height[*v as usize], *v));
    let sorted: Vec<i64> = order[..count].iter().map(|v| height[*v as usize]).collect();
    height.fill(-1);
    height[..count].copy_from_slice(&sorted);
    Ok(())
}

/// Adds rows of `width` elements in order.
pub(super) fn scatter_add<T: Copy>(
    out: &mut [T],
    rows: usize,
    width: usize,
    indices: &Indices<'_>,
    updates: &[T],
    add: impl Fn(T, T) -> Option<T>,
) -> Result<(), Trap> {
    for i in 0..indices.len() {
        let at = indices.get(i, rows)?;
        for (x, u) in out[at * width..(at + 1) * width].iter_mut().zip(&updates[i * width..(i + 1) * width]) {
            *x = add(*x, *u).ok_or_else(|| Trap::with_detail(TrapCode::Overflow, "integer"))?;
        }
    }
    Ok(())
}

pub(super) fn random_f32(numbers: &Philox, distribution: Distribution, out: &mut [f32]) {
    match distribution {
        Distribution::Normal => numbers.fill_normal_f32(0, out),
        Distribution::Uniform { low, high } => {
            numbers.fill_uniform_f32(0, out);
            let (low, span) = (low as f32, (high - low) as f32);
            out.iter_mut().for_each(|x| *x = low + span * *x);
        }
    }
}

pub(super) fn random_f64(numbers: &Philox, distribution: Distribution, out: &mut [f64]) {
    match distribution {
        Distribution::Normal => numbers.fill_normal_f64(0, out),
        Distribution::Uniform { low, high } => {
            numbers.fill_uniform_f64(0, out);
            out.iter_mut().for_each(|x| *x = low + (high - low) * *x);
        }
    }
}
