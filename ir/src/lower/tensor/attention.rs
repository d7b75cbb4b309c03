//! Attention and its derivative: library calls by strides, and what they need to have stored.

use super::index::row_major;
use super::library::{Strided, strided};
use super::{Def, Val, Values};
use crate::entity::ValueId;
use crate::graph::attend::AttendSpec;
use crate::graph::tensor::Move;
use crate::graph::{Op, Program};
use crate::scalar::ScalarOp;
use crate::types::{Dim, ScalarType};
use crate::value::Value;

/// Attention of one head, and the loops around it.
#[derive(Clone, Debug)]
pub(super) struct Attend {
    pub q: Matrix,
    pub k: Matrix,
    pub v: Matrix,
    /// The result; of a derivative, its adjoint.
    pub out: Matrix,
    pub queries: Dim,
    pub keys: Dim,
    pub inner: Dim,
    pub columns: Dim,
    pub terms: Vec<Term>,
    pub around: Vec<Around>,
    pub scale: f64,
    pub fill: f64,
    pub double: bool,
}

/// An operand of a head: where it is, and its strides in the two dimensions that the head walks through.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    pub at: Strided,
    pub strides: [Dim; 2],
}

/// What changes a score.
#[derive(Clone, Debug)]
pub(super) enum Term {
    /// A number is added.
    Bias(Matrix),
    /// Hidden where false.
    Mask(Matrix),
    /// Hidden where key > query + the number; nothing is read.
    Triangle(i64),
}

impl Term {
    fn matrix(&self) -> Option<&Matrix> {
        match self {
            Self::Bias(m) | Self::Mask(m) => Some(m),
            Self::Triangle(_) => None,
        }
    }
}

/// The derivative of attention.
#[derive(Clone, Debug)]
pub(super) struct AttendGrad {
    pub of: Attend,
    /// The adjoints of queries, keys and values that are wanted.
    pub results: [Option<Adjoint>; 3],
}

/// An adjoint of an operand: its strides as for the operand, and how far each loop around the heads moves in it.
#[derive(Clone, Debug)]
pub(super) struct Adjoint {
    pub out: Val,
    pub strides: [Dim; 2],
    pub steps: Vec<Dim>,
}

/// A loop around the heads: its size, and how far it moves in queries, keys, values, result and terms.
#[derive(Clone, Debug)]
pub(super) struct Around {
    pub label: u8,
    pub size: Dim,
    pub steps: [Dim; 4],
    pub terms: Vec<Dim>,
}

impl Attend {
    /// The values that are read.
    pub(super) fn reads(&self) -> Vec<Val> {
        let operands = [&self.q, &self.k, &self.v].into_iter();
        operands.chain(self.terms.iter().filter_map(Term::matrix)).map(|m| m.at.base).collect()
    }
}

impl AttendGrad {
    /// The values that are read.
    pub(super) fn reads(&self) -> Vec<Val> {
        let mut reads = self.of.reads();
        reads.push(self.of.out.at.base);
        reads
    }
}

/// The call for these results of a derivative, each with its number; the last operand is the adjoint of the attention's result.
pub(super) fn attend_grad(
    p: &Program,
    values: &Values,
    spec: &AttendSpec,
    operands: &[Val],
    results: &[(usize, Val)],
) -> Option<AttendGrad> {
    let (adjoint, operands) = operands.split_last()?;
    let (roles, row) = (spec.roles()?, spec.row());
    let whole = strided(values, *adjoint)?;
    let of = attend(p, values, spec, operands, whole)?;
    let parts = [
        (&spec.q, row, roles.inner),
        (&spec.k, Some(roles.key), roles.inner),
        (&spec.v, Some(roles.key), roles.column),
    ];
    let adjoint = |i: usize| {
        let out = results.iter().find(|(number, _)| *number == i)?.1;
        let strides = row_major(&values.get(out).ty.shape);
        let (labels, down, along) = parts[i];
        let stride = |l: u8| labels.iter().position(|x| *x == l).map_or(Dim::Const(0), |d| strides[d].clone());
        let down = down.map_or(Dim::Const(0), stride);
        Some(Adjoint {
            out,
            strides: [down, stride(along)],
            steps: of.around.iter().map(|a| stride(a.label)).collect(),
        })
    };
    let results = [0, 1, 2].map(adjoint);
    Some(AttendGrad { of, results })
}

/// The call whose result stands there; none where an operand has no address. The terms follow queries, keys and values.
pub(super) fn attend(
    p: &Program,
    values: &Values,
    spec: &AttendSpec,
    operands: &[Val],
    whole: Strided,
) -> Option<Attend> {
    let (main, terms) = operands.split_at_checked(3)?;
    let roles = spec.roles()?;
    let row = spec.row();
    let found: Vec<Strided> = main.iter().map(|v| strided(values, *v)).collect::<Option<_>>()?;
    let stride = |s: &Strided, labels: &[u8], l: u8| {
        labels.iter().position(|x| *x == l).map_or(Dim::Const(0), |d| s.strides[d].clone())
    };
    let of_row = |s: &Strided, labels: &[u8]| row.map_or(Dim::Const(0), |row| stride(s, labels, row));
    let [q, k, v] = [0, 1, 2].map(|i| found.get(i).cloned());
    let (q, k, v) = (q?, k?, v?);
    let size = |l: u8| {
        let find = |(v, labels): (&Val, &[u8])| {
            labels.iter().position(|x| *x == l).map(|d| values.get(*v).ty.shape[d].clone())
        };
        operands.iter().zip(spec.operands()).find_map(find)
    };
    let mut places: Vec<Option<Strided>> = vec![];
    let mut list = vec![];
    for (t, labels) in terms.iter().zip(&spec.terms) {
        if let Some(offset) = triangle(p, values, spec, labels, *t) {
            list.push(Term::Triangle(offset));
            places.push(None);
            continue;
        }
        let at = strided(values, *t)?;
        let matrix = Matrix { strides: [of_row(&at, labels), stride(&at, labels, roles.key)], at: at.clone() };
        let mask = values.get(*t).ty.dtype == ScalarType::Bool;
        list.push(if mask { Term::Mask(matrix) } else { Term::Bias(matrix) });
        places.push(Some(at));
    }
    let mut around = vec![];
    for l in spec.out.iter().copied().filter(|l| *l != roles.column && Some(*l) != row) {
        let steps =
            [stride(&q, &spec.q, l), stride(&k, &spec.k, l), stride(&v, &spec.v, l), stride(&whole, &spec.out, l)];
        let term =
            |(s, labels): (&Option<Strided>, &Vec<u8>)| s.as_ref().map_or(Dim::Const(0), |s| stride(s, labels, l));
        let terms = places.iter().zip(&spec.terms).map(term).collect();
        around.push(Around { label: l, size: size(l)?, steps, terms });
    }
    around.retain(|a| a.size != Dim::Const(1));
    Some(Attend {
        q: Matrix { strides: [of_row(&q, &spec.q), stride(&q, &spec.q, roles.inner)], at: q },
        k: Matrix { strides: [stride(&k, &spec.k, roles.key), stride(&k, &spec.k, roles.inner)], at: k },
        v: Matrix { strides: [stride(&v, &spec.v, roles.key), stride(&v, &spec.v, roles.column)], at: v },
        out: Matrix { strides: [of_row(&whole, &spec.out), stride(&whole, &spec.out, roles.column)], at: whole },
        queries: row.map_or(Some(Dim::Const(1)), size)?,
        keys: size(roles.key)?,
        inner: size(roles.inner)?,
        columns: size(roles.column)?,
        terms: list,
        around,
        scale: spec.scale,
        fill: spec.fill,
        double: values.get(*operands.first()?).ty.dtype == ScalarType::F64,
    })
}

/// The offset of a mask that is true where key ≤ query + offset, if it is a comparison of two indices: then it is not stored.
pub(super) fn triangle(p: &Program, values: &Values, spec: &AttendSpec, labels: &[u8], mask: Val) -> Option<i64> {
    let (roles, row) = (spec.roles()?, spec.row()?);
    let Def::Map { node, operands, result } = &values.get(mask).def else { return None };
    let body = p.region(p.node(*node).regions[0]);
    let compare = p.node_of(*body.results.get(*result)?)?;
    let [x, y] = compare.operands.as_slice() else { return None };
    let index = |v: ValueId| linear(p, values, operands, v);
    let (low, high, strict) = match compare.op {
        Op::Scalar(ScalarOp::Le) => (index(*x)?, index(*y)?, 0),
        Op::Scalar(ScalarOp::Lt) => (index(*x)?, index(*y)?, 1),
        Op::Scalar(ScalarOp::Ge) => (index(*y)?, index(*x)?, 0),
        Op::Scalar(ScalarOp::Gt) => (index(*y)?, index(*x)?, 1),
        _ => return None,
    };
    let is_of = |dim: usize, label: u8| labels.get(dim) == Some(&label);
    let fits = is_of(low.0, roles.key) && is_of(high.0, row);
    fits.then(|| high.1.checked_sub(low.1)?.checked_sub(strict)).flatten()
}

/// A scalar of a map's body as an index along one dimension of the map plus a whole number.
fn linear(p: &Program, values: &Values, operands: &[(ValueId, Val)], v: ValueId) -> Option<(usize, i64)> {
    if let Some((_, operand)) = operands.iter().find(|(param, _)| *param == v) {
        return Some((counts(values, *operand)?, 0));
    }
    let node = p.node_of(v)?;
    let number = |v: ValueId| match p.node_of(v).map(|n| &n.op) {
        Some(Op::Literal(Value::I32(x), _)) => Some(i64::from(*x)),
        Some(Op::Literal(Value::I64(x), _)) => Some(*x),
        Some(_) => None,
        None => constant(values, operands.iter().find(|(param, _)| *param == v)?.1),
    };
    let below = |v: ValueId| linear(p, values, operands, v);
    match (&node.op, node.operands.as_slice()) {
        (Op::Scalar(ScalarOp::Add), [x, y]) => {
            let (index, n) = match (number(*x), number(*y)) {
                (None, Some(n)) => (below(*x)?, n),
                (Some(n), None) => (below(*y)?, n),
                _ => return None,
            };
            Some((index.0, index.1.checked_add(n)?))
        }
        (Op::Scalar(ScalarOp::Sub), [x, y]) => {
            let index = below(*x)?;
            Some((index.0, index.1.checked_sub(number(*y)?)?))
        }
        _ => None,
    }
}

/// The dimension along which a value of whole numbers counts from 0.
fn counts(values: &Values, v: Val) -> Option<usize> {
    let info = values.get(v);
    match &info.def {
        Def::Iota { dim } if info.ty.dtype.is_integer() => Some(*dim),
        Def::View(Move::Permute(perm), o) => {
            let dim = counts(values, *o)?;
            perm.iter().position(|d| *d == dim)
        }
        Def::View(Move::Broadcast { dims, shape }, o) => {
            let dim = counts(values, *o)?;
            let to = *dims.get(dim)?;
            (values.get(*o).ty.shape[dim] == shape[to]).then_some(to)
        }
        _ => None,
    }
}

/// The whole number that all elements of a value are.
fn constant(values: &Values, v: Val) -> Option<i64> {
    match &values.get(v).def {
        Def::Const(t) if t.data.len() == 1 => match t.data.get(0) {
            Value::I32(x) => Some(i64::from(x)),
            Value::I64(x) => Some(x),
            _ => None,
        },
        Def::View(Move::Pad { .. }, _) => None,
        Def::View(_, o) => constant(values, *o),
        _ => None,
    }
}
