//! Operations that move elements, and products.

use std::ops::Range;
use std::panic::Location;

use ir::graph::TensorOp;
use ir::graph::tensor::{ContractSpec, Move};
use ir::types::Dim;

use super::elementwise::{broadcast_shape, broadcast_value};
use super::{Axes, Tensor, no_axis};
use crate::error::{At, Fault};

impl Tensor {
    fn view(&self, name: &'static str, at: At, moves: Result<Vec<Move>, Fault>) -> Tensor {
        self.scope.record(name, at, &[self], |b, v| {
            let moves = moves?;
            Ok(if moves.is_empty() { v[0] } else { b.tensor(TensorOp::View(moves), v)? })
        })
    }

    /// Dimension `i` of the result is dimension `axes[i]`.
    #[track_caller]
    pub fn permute(&self, axes: &[i32]) -> Tensor {
        let perm: Result<Vec<usize>, Fault> = axes.iter().map(|a| self.axis(*a)).collect();
        self.view("permute", Location::caller(), perm.map(|p| vec![Move::Permute(p)]))
    }

    /// The last two dimensions exchanged.
    #[track_caller]
    pub fn t(&self) -> Tensor {
        let rank = self.rank();
        let perm = if rank < 2 {
            Err(Fault::Invalid(format!("{} has no two dimensions", self.ty)))
        } else {
            Ok(vec![Move::Permute((0..rank - 2).chain([rank - 1, rank - 2]).collect())])
        };
        self.view("t", Location::caller(), perm)
    }

    /// The same elements under another shape.
    #[track_caller]
    pub fn reshape<D: Into<Dim>>(&self, shape: impl IntoIterator<Item = D>) -> Tensor {
        let shape: Vec<Dim> = shape.into_iter().map(Into::into).collect();
        let moves = if shape == self.ty.shape { vec![] } else { vec![Move::Reshape(shape)] };
        self.view("reshape", Location::caller(), Ok(moves))
    }

    /// Repeated to a shape, by the rules of broadcasting.
    #[track_caller]
    pub fn broadcast_to<D: Into<Dim>>(&self, shape: impl IntoIterator<Item = D>) -> Tensor {
        let shape: Vec<Dim> = shape.into_iter().map(Into::into).collect();
        self.scope.record("broadcast_to", Location::caller(), &[self], |b, v| Ok(broadcast_value(b, v[0], &shape)?))
    }

    /// A new dimension of size 1 before dimension `axis`; -1 is a new last one.
    #[track_caller]
    pub fn unsqueeze(&self, axis: i32) -> Tensor {
        let rank = self.rank() as i64;
        let at = if axis < 0 { i64::from(axis) + rank + 1 } else { axis.into() };
        let moves = if (0..=rank).contains(&at) {
            let mut shape = self.ty.shape.clone();
            shape.insert(at as usize, Dim::Const(1));
            Ok(vec![Move::Reshape(shape)])
        } else {
            Err(no_axis(axis, &self.ty))
        };
        self.view("unsqueeze", Location::caller(), moves)
    }

    /// Without a dimension of size 1.
    #[track_caller]
    pub fn squeeze(&self, axis: i32) -> Tensor {
        let moves = self.axis(axis).and_then(|a| {
            let mut shape = self.ty.shape.clone();
            if shape.remove(a) != Dim::Const(1) {
                return Err(Fault::Invalid(format!("dimension {axis} of {} is not 1", self.ty)));
            }
            Ok(vec![Move::Reshape(shape)])
        });
        self.view("squeeze", Location::caller(), moves)
    }

    /// Elements `range` along an axis.
    #[track_caller]
    pub fn slice(&self, axis: i32, range: Range<usize>) -> Tensor {
        let len = range.end.saturating_sub(range.start);
        self.slice_by(axis, range.start, len, 1)
    }

    /// `len` elements from `start` in steps of `step` along an axis; start and number may be symbolic.
    #[track_caller]
    pub fn slice_by(&self, axis: i32, start: impl Into<Dim>, len: impl Into<Dim>, step: usize) -> Tensor {
        let (start, len) = (start.into(), len.into());
        let moves = self.axis(axis).map(|dim| vec![Move::Slice { dim, start, len, step }]);
        self.view("slice", Location::caller(), moves)
    }

    /// Zeros added at both ends of an axis.
    #[track_caller]
    pub fn pad(&self, axis: i32, before: usize, after: usize) -> Tensor {
        self.view("pad", Location::caller(), self.axis(axis).map(|dim| vec![Move::Pad { dim, before, after }]))
    }

    /// An axis reversed.
    #[track_caller]
    pub fn flip(&self, axis: i32) -> Tensor {
        self.view("flip", Location::caller(), self.axis(axis).map(|dim| vec![Move::Reverse(dim)]))
    }

    /// Tensors one after the other along an axis.
    #[track_caller]
    pub fn concat(tensors: &[&Tensor], axis: i32) -> Option<Tensor> {
        let first = tensors.first()?;
        let axis = first.axis(axis);
        Some(
            first.scope.record("concat", Location::caller(), tensors, |b, v| {
                Ok(b.tensor(TensorOp::Concat { axis: axis? }, v)?)
            }),
        )
    }

    /// Rows of `self` (`[v, …]`) by `indices` (`[…]` of `i32` or `i64`): `indices.shape ++ self.shape[1..]`. An index out of range
    /// raises.
    #[track_caller]
    pub fn gather(&self, indices: &Tensor) -> Tensor {
        self.scope.record("gather", Location::caller(), &[self, indices], |b, v| Ok(b.tensor(TensorOp::Gather, v)?))
    }

    /// `self` (`[v, …]`) with `updates` (`indices.shape ++ self.shape[1..]`) added at the rows `indices`; equal indices add up.
    #[track_caller]
    pub fn scatter_add(&self, indices: &Tensor, updates: &Tensor) -> Tensor {
        self.scope.record("scatter_add", Location::caller(), &[self, indices, updates], |b, v| {
            Ok(b.tensor(TensorOp::ScatterAdd, v)?)
        })
    }

    /// Sum of products over named dimensions: `a.contract("ij,jk->ik", &b)` is the matrix product.
    #[track_caller]
    pub fn contract(&self, spec: &str, other: &Tensor) -> Tensor {
        self.scope.record("contract", Location::caller(), &[self, other], |b, v| {
            let spec = ContractSpec::parse(spec)
                .ok_or_else(|| Fault::Invalid(format!("\"{spec}\" does not read as \"ij,jk->ik\"")))?;
            Ok(b.tensor(TensorOp::Contract(spec), v)?)
        })
    }

    /// Matrix product as `numpy.matmul`: over the last dimension of `self` and the last but one of `other`; the dimensions before
    /// broadcast; a vector is a row on the left and a column on the right.
    #[track_caller]
    pub fn matmul(&self, other: &Tensor) -> Tensor {
        let (a, c) = (&self.ty, &other.ty);
        self.scope.record("matmul", Location::caller(), &[self, other], |b, v| {
            let fault = || Fault::Shapes(a.clone(), c.clone());
            if a.rank() == 0 || c.rank() == 0 || a.dtype != c.dtype {
                return Err(fault());
            }
            let (rows, columns) = (a.rank() >= 2, c.rank() >= 2);
            let (a_batch, c_batch) = (a.rank().saturating_sub(2), c.rank().saturating_sub(2));
            if a.rank() > 20 || c.rank() > 20 {
                return Err(Fault::Invalid("more than 20 dimensions".into()));
            }
            let inner = |t: &ir::types::TensorType, i: usize| t.shape[i].clone();
            if inner(a, a.rank() - 1) != inner(c, if columns { c.rank() - 2 } else { 0 }) {
                return Err(fault());
            }
            let mut values = [v[0], v[1]];
            let batch = a_batch.max(c_batch);
            // Both have batch dimensions: broadcast them to each other. Where one has none, it is the same for every matrix.
            if a_batch > 0 && c_batch > 0 {
                let head =
                    |t: &ir::types::TensorType, n: usize| ir::types::TensorType::new(t.dtype, t.shape[..n].to_vec());
                let joined = broadcast_shape(&head(a, a_batch), &head(c, c_batch)).map_err(|_| fault())?;
                for (value, (t, n)) in values.iter_mut().zip([(a, a_batch), (c, c_batch)]) {
                    let shape: Vec<Dim> = joined.iter().chain(&t.shape[n..]).cloned().collect();
                    *value = broadcast_value(b, *value, &shape)?;
                }
            }
            let labels: Vec<u8> = (b'a'..).take(batch).collect();
            let of = |n: usize, tail: &[u8]| {
                let head = if a_batch > 0 && c_batch > 0 { batch } else { n };
                [&labels[batch - head..], tail].concat()
            };
            let spec = ContractSpec {
                a: of(a_batch, if rows { b"xy" } else { b"y" }),
                b: of(c_batch, if columns { b"yz" } else { b"y" }),
                out: [&labels[..], if rows { b"x" } else { b"" }, if columns { b"z" } else { b"" }].concat(),
            };
            Ok(b.tensor(TensorOp::Contract(spec), &values)?)
        })
    }

    /// The same tensor, but constant for derivatives. It is a view of no moves; reverse mode goes no further there.
    #[track_caller]
    pub fn detach(&self) -> Tensor {
        self.scope.record("detach", Location::caller(), &[self], |b, v| Ok(b.tensor(TensorOp::View(vec![]), v)?))
    }

    /// The running sum along an axis, this element included.
    #[track_caller]
    pub fn cumsum(&self, axis: i32) -> Tensor {
        let axis = self.axis(axis);
        self.scope.record("cumsum", Location::caller(), &[self], |b, v| {
            Ok(b.tensor(TensorOp::Prefix { reducer: ir::scalar::reduce::Reducer::Sum, axis: axis? }, v)?)
        })
    }

    /// Sizes of dimensions: the product over `axes`.
    pub(crate) fn count(&self, axes: &Axes) -> Result<Dim, Fault> {
        Ok(axes.of(self)?.iter().fold(Dim::Const(1), |n, a| n.times(self.ty.shape[*a].clone())))
    }
}
