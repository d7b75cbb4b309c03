//! Tensor operations: tensors to tensors.
//!
//! Nothing broadcasts by itself: operands of a `map` have one shape, made by `view`. A rank-0 tensor is a tensor.

use crate::error::{Error, Result};
use crate::graph::TensorConst;
use crate::graph::attend::AttendSpec;
use crate::scalar::reduce::Reducer;
use crate::types::{Dim, ScalarType, TensorType, Type};
use crate::value::TensorValue;

/// One move of a view. A view is a list of moves, applied from first to last; it is lowered to an index map, never to a copy
/// of its own.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Move {
    /// Dimension `i` of the result is dimension `perm[i]` of the operand.
    Permute(Vec<usize>),
    /// The result has `shape`; dimension `i` of the operand becomes dimension `dims[i]` (ascending), which either has its size
    /// or the operand's has size 1; the other dimensions repeat.
    Broadcast {
        /// The result's shape.
        shape: Vec<Dim>,
        /// Where the operand's dimensions go.
        dims: Vec<usize>,
    },
    /// `len` elements of dimension `dim` from `start` in steps of `step` (≥ 1).
    Slice {
        /// The dimension.
        dim: usize,
        /// First index.
        start: Dim,
        /// Number of indices.
        len: Dim,
        /// Distance.
        step: usize,
    },
    /// The same elements in row-major order under another shape.
    Reshape(Vec<Dim>),
    /// Zeros added at both ends of dimension `dim`.
    Pad {
        /// The dimension.
        dim: usize,
        /// Zeros before.
        before: usize,
        /// Zeros after.
        after: usize,
    },
    /// Dimension `dim` reversed.
    Reverse(usize),
}

/// A contraction over named indices, as in Einstein's notation: operands' dimensions carry labels; labels that are missing in
/// the result are summed over. Prints as `ij,jk->ik`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ContractSpec {
    /// Labels of the first operand's dimensions.
    pub a: Vec<u8>,
    /// Labels of the second operand's dimensions.
    pub b: Vec<u8>,
    /// Labels of the result's dimensions; each occurs in an operand.
    pub out: Vec<u8>,
}

impl ContractSpec {
    /// Reads `"ij,jk->ik"`.
    pub fn parse(text: &str) -> Option<Self> {
        let (inputs, out) = text.split_once("->")?;
        let (a, b) = inputs.split_once(',')?;
        let labels = |s: &str| s.bytes().all(|c| c.is_ascii_alphabetic()).then(|| s.bytes().collect::<Vec<u8>>());
        Some(Self { a: labels(a)?, b: labels(b)?, out: labels(out)? })
    }
}

impl std::fmt::Display for ContractSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |s: &[u8]| String::from_utf8_lossy(s).into_owned();
        write!(f, "{},{}->{}", text(&self.a), text(&self.b), text(&self.out))
    }
}

/// A distribution of pure random numbers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Distribution {
    /// Uniform in [low, high).
    Uniform {
        /// Least.
        low: f64,
        /// Bound.
        high: f64,
    },
    /// Normal with mean 0 and standard deviation 1.
    Normal,
}

/// A tensor operation.
#[derive(Clone, PartialEq, Debug)]
pub enum TensorOp {
    /// A constant. No operands.
    Const(TensorConst),
    /// Index along dimension `dim`. No operands.
    Iota {
        /// Result type; `I32`, `I64`, `F32` or `F64` elements.
        ty: TensorType,
        /// The dimension counted.
        dim: usize,
    },
    /// Element `i` is a function of (seed, stream, i) alone: Philox 4x32-10. No operands.
    Random {
        /// Result type; `F32` or `F64` elements.
        ty: TensorType,
        /// The distribution.
        distribution: Distribution,
        /// Key.
        seed: u64,
        /// Distinguishes tensors of one seed.
        stream: u64,
    },
    /// (tensors of one shape) {region: scalars to scalars} → one tensor of that shape for each scalar yielded. Without
    /// operands `shape` says the shape.
    Map {
        /// The shape.
        shape: Vec<Dim>,
    },
    /// (tensor) → the tensor with `axes` (ascending) reduced away.
    Reduce {
        /// The reducer: `sum`, `product`, `min`, `max`, `bool_and`, `bool_or`, `arg_max`, `arg_min` (these two over one axis).
        reducer: Reducer,
        /// The axes.
        axes: Vec<usize>,
    },
    /// (tensor) → running reduction along an axis, this element included.
    Prefix {
        /// `sum`, `product`, `min` or `max`.
        reducer: Reducer,
        /// The axis.
        axis: usize,
    },
    /// (a, b) → products summed over the labels that the result lacks.
    Contract(ContractSpec),
    /// (queries, keys, values, terms…) → attention: values weighted by how well their keys fit the queries.
    Attend(Box<AttendSpec>),
    /// (queries, keys, values, terms…, the adjoint of what [`TensorOp::Attend`] gives for them) → the adjoints of queries, keys and
    /// values. See [`AttendSpec::has_gradient`].
    AttendGrad(Box<AttendSpec>),
    /// (tensor) → the tensor seen through moves.
    View(Vec<Move>),
    /// (table `[v, …]`, indices `[…]` of `i32` or `i64`) → `indices.shape ++ table.shape[1..]`. An index out of range raises.
    Gather,
    /// (base `[v, …]`, indices `[n…]`, updates `[n…] ++ base.shape[1..]`) → base with the updates added at their rows; equal
    /// indices add up in order.
    ScatterAdd,
    /// (inner: `bool[n]`, root: `i64[]`, children: `i64[n]`…) → `i64[2, n + pad]`: the nodes that are reached from the root, lowest
    /// first and equally high ones by number, and under each its height; -1 behind the last. A node that is not inner has height
    /// 0 and no children; another is one higher than the highest of its children. A child that is no node raises, and so does
    /// what is higher than calls nest, or comes round to itself.
    Levels {
        /// How many places there are behind the last node at least.
        pad: usize,
    },
    /// (tensors) → one after the other along an axis.
    Concat {
        /// The axis.
        axis: usize,
    },
}

fn tensor<'a>(operands: &'a [&'a Type], i: usize) -> Result<&'a TensorType> {
    operands.get(i).and_then(|t| t.as_tensor()).ok_or_else(|| Error::Type(format!("operand {i} must be a tensor")))
}

fn same(a: &Dim, b: &Dim) -> bool {
    a == b
}

impl Move {
    /// The shape after this move.
    pub fn apply(&self, shape: &[Dim]) -> Result<Vec<Dim>> {
        let wrong = |what: &str| Error::Type(format!("{what} does not fit rank {}", shape.len()));
        let mut out = shape.to_vec();
        match self {
            Self::Permute(perm) => {
                let mut seen = vec![false; shape.len()];
                let valid = perm.len() == shape.len()
                    && perm.iter().all(|&i| i < seen.len() && !std::mem::replace(&mut seen[i], true));
                if !valid {
                    return Err(wrong("permute"));
                }
                out = perm.iter().map(|&i| shape[i].clone()).collect();
            }
            Self::Broadcast { shape: to, dims } => {
                let ascending = dims.windows(2).all(|w| w[0] < w[1]);
                let fits = dims.len() == shape.len()
                    && ascending
                    && dims
                        .iter()
                        .zip(shape)
                        .all(|(&d, s)| to.get(d).is_some_and(|t| same(t, s) || *s == Dim::Const(1)));
                if !fits {
                    return Err(wrong("broadcast"));
                }
                out = to.clone();
            }
            Self::Slice { dim, start, len, step } => {
                if *step == 0 || *dim >= shape.len() {
                    return Err(wrong("slice"));
                }
                if let (Some(n), Some(s), Some(l)) = (shape[*dim].as_const(), start.as_const(), len.as_const())
                    && l > 0
                    && s + (l - 1) * step >= n
                {
                    return Err(Error::Type(format!("slice {s}+{l} is outside of a dimension of {n}")));
                }
                out[*dim] = len.clone();
            }
            Self::Reshape(to) => {
                let count = |s: &[Dim]| s.iter().map(Dim::as_const).try_fold(1usize, |n, d| n.checked_mul(d?));
                if let (Some(a), Some(b)) = (count(shape), count(to))
                    && a != b
                {
                    return Err(Error::Type(format!("reshape of {a} elements to {b}")));
                }
                out = to.clone();
            }
            Self::Pad { dim, before, after } => {
                let d = out.get_mut(*dim).ok_or_else(|| wrong("pad"))?;
                *d = d.clone().plus(Dim::Const(before + after));
            }
            Self::Reverse(dim) => {
                if *dim >= shape.len() {
                    return Err(wrong("reverse"));
                }
            }
        }
        Ok(out)
    }
}

impl TensorOp {
    /// The results' types. `regions` holds the types that each region yields.
    pub fn infer(&self, operands: &[&Type], regions: &[Vec<Type>]) -> Result<Vec<Type>> {
        match self {
            Self::Const(v) => {
                let TensorValue { shape, data } = v.as_ref();
                one(data.dtype(), shape.iter().map(|&n| Dim::Const(n)).collect())
            }
            Self::Iota { ty, dim } => {
                if *dim >= ty.rank() {
                    return Err(Error::Type("iota counts a dimension that it has not".into()));
                }
                one(ty.dtype, ty.shape.clone())
            }
            Self::Random { ty, .. } => {
                if !ty.dtype.is_float() {
                    return Err(Error::Type("random tensors hold f32 or f64".into()));
                }
                one(ty.dtype, ty.shape.clone())
            }
            Self::Map { shape } => map_types(operands, regions, shape),
            Self::Reduce { reducer, axes } => reduce_type(tensor(operands, 0)?, *reducer, axes),
            Self::Prefix { reducer, axis } => {
                let t = tensor(operands, 0)?;
                let valid = matches!(reducer, Reducer::Sum | Reducer::Product | Reducer::Min | Reducer::Max);
                if *axis >= t.rank() || !valid || !t.dtype.is_numeric() {
                    return Err(Error::Type(format!("no running {} of {t} along {axis}", reducer.name())));
                }
                one(t.dtype, t.shape.clone())
            }
            Self::Contract(spec) => contract_type(spec, tensor(operands, 0)?, tensor(operands, 1)?),
            Self::Attend(spec) => {
                let operands = (0..operands.len()).map(|i| tensor(operands, i)).collect::<Result<Vec<_>>>()?;
                Ok(vec![Type::Tensor(spec.infer(&operands)?)])
            }
            Self::AttendGrad(spec) => {
                let operands = (0..operands.len()).map(|i| tensor(operands, i)).collect::<Result<Vec<_>>>()?;
                Ok(spec.infer_gradient(&operands)?.into_iter().map(Type::Tensor).collect())
            }
            Self::View(moves) => {
                let t = tensor(operands, 0)?;
                let shape = moves.iter().try_fold(t.shape.clone(), |s, m| m.apply(&s))?;
                one(t.dtype, shape)
            }
            Self::Gather => {
                let (t, i) = (tensor(operands, 0)?, tensor(operands, 1)?);
                if t.rank() == 0 || !i.dtype.is_integer() {
                    return Err(Error::Type(format!("gather of {t} by {i}")));
                }
                one(t.dtype, i.shape.iter().chain(&t.shape[1..]).cloned().collect())
            }
            Self::ScatterAdd => {
                let (t, i, u) = (tensor(operands, 0)?, tensor(operands, 1)?, tensor(operands, 2)?);
                let want: Vec<Dim> = i.shape.iter().chain(t.shape.iter().skip(1)).cloned().collect();
                if t.rank() == 0 || !i.dtype.is_integer() || u.dtype != t.dtype || u.shape != want {
                    return Err(Error::Type(format!("scatter of {u} into {t} by {i}")));
                }
                one(t.dtype, t.shape.clone())
            }
            Self::Levels { pad } => levels_type(operands, *pad),
            Self::Concat { axis } => concat_type(operands, *axis),
        }
    }
}

/// A tensor of the map's shape for each scalar that its region yields.
fn map_types(operands: &[&Type], regions: &[Vec<Type>], shape: &[Dim]) -> Result<Vec<Type>> {
    for i in 0..operands.len() {
        let t = tensor(operands, i)?;
        if t.rank() != shape.len() || !t.shape.iter().zip(shape).all(|(a, b)| same(a, b)) {
            let want = TensorType { dtype: t.dtype, shape: shape.to_vec() };
            return Err(Error::Type(format!("operand {i} of map is {t}, not {want}")));
        }
    }
    let yields = regions.first().map_or(&[][..], |r| r);
    let types = yields.iter().map(|t| match t.as_scalar() {
        Some(t) if t.ty.is_tensor_element() && !t.nullable => {
            Ok(Type::Tensor(TensorType { dtype: t.ty, shape: shape.to_vec() }))
        }
        _ => Err(Error::Type(format!("a map cannot yield {t}"))),
    });
    types.collect()
}

/// The operand without the axes; indices where the place of a value is asked.
fn reduce_type(t: &TensorType, reducer: Reducer, axes: &[usize]) -> Result<Vec<Type>> {
    if axes.iter().any(|&a| a >= t.rank()) || axes.windows(2).any(|w| w[0] >= w[1]) {
        return Err(Error::Type(format!("axes {axes:?} do not fit {t}")));
    }
    let shape = (0..t.rank()).filter(|i| !axes.contains(i)).map(|i| t.shape[i].clone()).collect();
    let dtype = match reducer {
        Reducer::ArgMax | Reducer::ArgMin if axes.len() == 1 => ScalarType::I64,
        Reducer::Sum | Reducer::Product | Reducer::Min | Reducer::Max if t.dtype.is_numeric() => t.dtype,
        Reducer::BoolAnd | Reducer::BoolOr if t.dtype == ScalarType::Bool => t.dtype,
        _ => return Err(Error::Type(format!("{} does not reduce {t} over {axes:?}", reducer.name()))),
    };
    one(dtype, shape)
}

/// The sizes that the result's labels have in the operands.
fn contract_type(spec: &ContractSpec, a: &TensorType, b: &TensorType) -> Result<Vec<Type>> {
    if a.rank() != spec.a.len() || b.rank() != spec.b.len() || a.dtype != b.dtype || !a.dtype.is_float() {
        return Err(Error::Type(format!("contract {spec} does not fit {a} and {b}")));
    }
    let mut size: Vec<(u8, Dim)> = Vec::new();
    for (label, d) in spec.a.iter().zip(&a.shape).chain(spec.b.iter().zip(&b.shape)) {
        match size.iter().find(|s| s.0 == *label) {
            Some((_, s)) if !same(s, d) => {
                let l = *label as char;
                return Err(Error::Type(format!("contract {spec}: {l} is {s} in one operand, {d} in another")));
            }
            Some(_) => {}
            None => size.push((*label, d.clone())),
        }
    }
    let shape = spec.out.iter().map(|l| size.iter().find(|s| s.0 == *l).map(|s| s.1.clone()));
    let shape: Option<Vec<Dim>> = shape.collect();
    let shape = shape.ok_or_else(|| Error::Type(format!("contract {spec}: a label occurs in the result alone")))?;
    one(a.dtype, shape)
}

/// Two rows: nodes and their heights, with room for `pad` more.
fn levels_type(operands: &[&Type], pad: usize) -> Result<Vec<Type>> {
    let inner = tensor(operands, 0)?;
    let whole = |t: &TensorType, shape: &[Dim]| t.dtype == ScalarType::I64 && t.shape == shape;
    let children = (2..operands.len()).map(|i| tensor(operands, i)).collect::<Result<Vec<_>>>()?;
    let fits = inner.dtype == ScalarType::Bool
        && inner.rank() == 1
        && whole(tensor(operands, 1)?, &[])
        && children.iter().all(|t| whole(t, &inner.shape));
    if !fits {
        return Err(Error::Type("levels takes bool[n], i64[], and children, i64[n]".into()));
    }
    one(ScalarType::I64, vec![Dim::Const(2), inner.shape[0].clone().plus(Dim::Const(pad))])
}

/// The operands one behind the other along the axis; their other dimensions are equal.
fn concat_type(operands: &[&Type], axis: usize) -> Result<Vec<Type>> {
    let first = tensor(operands, 0)?;
    let mut shape = first.shape.clone();
    if axis >= shape.len() {
        return Err(Error::Type(format!("concat along {axis} of {first}")));
    }
    for i in 1..operands.len() {
        let t = tensor(operands, i)?;
        let fits = t.dtype == first.dtype
            && t.rank() == first.rank()
            && (0..t.rank()).all(|d| d == axis || same(&t.shape[d], &first.shape[d]));
        if !fits {
            return Err(Error::Type(format!("concat of {first} and {t} along {axis}")));
        }
        shape[axis] = shape[axis].clone().plus(t.shape[axis].clone());
    }
    one(first.dtype, shape)
}

/// One tensor.
fn one(dtype: ScalarType, shape: Vec<Dim>) -> Result<Vec<Type>> {
    Ok(vec![Type::Tensor(TensorType { dtype, shape })])
}
