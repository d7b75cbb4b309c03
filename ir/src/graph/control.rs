//! Control flow.

use crate::entity::{FuncId, SymId};
use crate::error::{Error, Result};
use crate::graph::Program;
use crate::graph::rewrite::symbols_of;
use crate::types::{Dim, ScalarType, TensorType, Type};

/// A control operation.
#[derive(Clone, PartialEq, Debug)]
pub enum ControlOp {
    /// (condition: bool scalar, or `bool[]`) {then} {else} → what the chosen region yields. Only that region runs; a NULL
    /// condition chooses `else`. Regions have no parameters.
    If,
    /// (state…) {region: state to `bool[]`, whether to go on} {region: state to state} → the final state.
    While,
    /// (state… — `state` of them —, tensors `[length, …]`…) {region: (i: i64[], state…, slices `[…]`…) to (state…,
    /// values `[…]`…)} → the final state, then each value stacked to `[length, …]`.
    For {
        /// Number of steps.
        length: Dim,
        /// Operands that are state.
        state: usize,
        /// From the last slice to the first (`i` counts down too; stacked values keep their slice's place).
        reverse: bool,
    },
    /// (tensors `[n, …]`) {region: a part `[part, …]` of each to (`joined` tensors `[part, …]`…, floats of any shape…)} → the
    /// joined ones one part after the other, `[n, …]`, then the sums of the others over the parts, added from the first part
    /// to the last one; zeros where there is no part.
    ///
    /// The operands are cut into parts of `rows` rows, the last one shorter. Parts may run at the same time: it is what OpenMP
    /// calls `parallel for reduction(+: …)`, and data parallelism where the region is a step of training.
    ForParts {
        /// The number of rows of a part, inside the region.
        part: SymId,
        /// Rows of a part, at least 1.
        rows: usize,
        /// Results that are joined; the others are summed.
        joined: usize,
    },
    /// (arguments) → the function's results.
    Call(FuncId),
    /// → an empty tape.
    TapeNew,
    /// (tape, tensors…) → the tape with a frame of these tensors on top. The tag says who pushed.
    Push {
        /// Tag of the frame.
        tag: u32,
    },
    /// (tape) → the tape without its top frame, then the frame's tensors. A frame of another tag or of other sizes
    /// raises: who pops knows what was pushed.
    Pop {
        /// Tag of the frame.
        tag: u32,
        /// The frame's tensors.
        types: Vec<TensorType>,
    },
    /// → a sum of this type, at zero.
    AccNew(TensorType),
    /// (acc, tensor) → the sum with the tensor added, in place.
    AccAdd,
    /// (acc `[v, …]`, indices: `[…]` of i32 or i64, updates: indices' shape ++ `[…]`) → the sum with the updates added at
    /// these rows, in place; equal indices add up. An index out of range raises.
    AccRows,
    /// (acc) → the sum as a tensor.
    AccRead,
}

impl ControlOp {
    /// The types of region `region`'s parameters for these operands.
    pub fn region_params(&self, operands: &[&Type]) -> Result<Vec<Type>> {
        match self {
            Self::If
            | Self::Call(_)
            | Self::TapeNew
            | Self::Push { .. }
            | Self::Pop { .. }
            | Self::AccNew(_)
            | Self::AccAdd
            | Self::AccRows
            | Self::AccRead => Ok(vec![]),
            Self::While => Ok(operands.iter().map(|t| (*t).clone()).collect()),
            Self::For { length, state, .. } => {
                let mut params = vec![Type::Tensor(TensorType { dtype: ScalarType::I64, shape: vec![] })];
                for (i, t) in operands.iter().enumerate() {
                    if i < *state {
                        params.push((*t).clone());
                        continue;
                    }
                    match t.as_tensor() {
                        Some(t) if t.shape.first() == Some(length) => {
                            params.push(Type::Tensor(TensorType { dtype: t.dtype, shape: t.shape[1..].to_vec() }));
                        }
                        _ => {
                            return Err(Error::Type(format!(
                                "operand {i} of for is {t}, not a tensor of {length} slices"
                            )));
                        }
                    }
                }
                Ok(params)
            }
            Self::ForParts { part, .. } => {
                rows_of(operands)?;
                let cut = |t: &&Type| {
                    let t = t.as_tensor()?;
                    let shape = std::iter::once(Dim::Sym(*part)).chain(t.shape[1..].iter().cloned());
                    Some(Type::Tensor(TensorType::new(t.dtype, shape)))
                };
                Ok(operands.iter().filter_map(cut).collect())
            }
        }
    }

    /// The results' types. `regions` holds the types that each region yields.
    pub fn infer(&self, p: &Program, operands: &[&Type], regions: &[Vec<Type>]) -> Result<Vec<Type>> {
        match self {
            Self::If => {
                let is_bool = match operands {
                    [Type::Scalar(t)] => t.ty == ScalarType::Bool,
                    [Type::Tensor(t)] => t.dtype == ScalarType::Bool && t.shape.is_empty(),
                    _ => false,
                };
                let [a, b] = regions else { return Err(Error::Type("if has two regions".into())) };
                if !is_bool || a.len() != b.len() {
                    return Err(Error::Type("if takes a bool and two regions that yield the same types".into()));
                }
                let join = |(a, b): (&Type, &Type)| match (a, b) {
                    (Type::Scalar(x), Type::Scalar(y)) if x.ty == y.ty => {
                        Ok(Type::Scalar(x.ty.nullable(x.nullable || y.nullable)))
                    }
                    _ if a == b => Ok(a.clone()),
                    _ => Err(Error::Type(format!("the branches of if yield {a} and {b}"))),
                };
                a.iter().zip(b).map(join).collect()
            }
            Self::While => {
                let [go_on, next] = regions else { return Err(Error::Type("while has two regions".into())) };
                let is_bool =
                    matches!(go_on.as_slice(), [Type::Tensor(t)] if t.dtype == ScalarType::Bool && t.shape.is_empty());
                if !is_bool || next.len() != operands.len() || next.iter().zip(operands).any(|(a, b)| a != *b) {
                    return Err(Error::Type("while yields bool[] and then its state's types".into()));
                }
                Ok(next.clone())
            }
            Self::For { length, state, .. } => {
                let yields = regions.first().map_or(&[][..], |r| r);
                if yields.len() < *state || yields.iter().zip(&operands[..*state]).any(|(a, b)| a != *b) {
                    return Err(Error::Type("for yields its state's types first".into()));
                }
                let mut out = yields[..*state].to_vec();
                for t in &yields[*state..] {
                    let t = t.as_tensor().ok_or_else(|| Error::Type("for stacks tensors".into()))?;
                    let shape = std::iter::once(length.clone()).chain(t.shape.iter().cloned()).collect();
                    out.push(Type::Tensor(TensorType { dtype: t.dtype, shape }));
                }
                Ok(out)
            }
            Self::ForParts { rows: 0, .. } => Err(Error::Type("for_parts cuts parts of no rows".into())),
            Self::ForParts { part, joined, .. } => {
                let rows = rows_of(operands)?;
                let yields = regions.first().map_or(&[][..], |r| r);
                if yields.len() < *joined {
                    return Err(Error::Type("for_parts yields what is joined first".into()));
                }
                let result = |(i, t): (usize, &Type)| {
                    let fail =
                        || Error::Type(format!("for_parts cannot {} {t}", if i < *joined { "join" } else { "add" }));
                    let t = t.as_tensor().ok_or_else(fail)?;
                    let mut shape = t.shape.as_slice();
                    let mut out = vec![];
                    if i < *joined {
                        shape = shape.strip_prefix(&[Dim::Sym(*part)]).ok_or_else(fail)?;
                        out.push(rows.clone());
                    } else if !t.dtype.is_float() {
                        return Err(fail());
                    }
                    let mut depends = false;
                    shape.iter().for_each(|d| symbols_of(d, &mut |s| depends |= s == *part));
                    out.extend_from_slice(shape);
                    if depends { Err(fail()) } else { Ok(Type::Tensor(TensorType { dtype: t.dtype, shape: out })) }
                };
                yields.iter().enumerate().map(result).collect()
            }
            Self::Call(f) => {
                let body = p.region(p.func(*f).body);
                let params: Vec<&Type> = body.params.iter().map(|v| p.ty(*v)).collect();
                if params.len() != operands.len() || params.iter().zip(operands).any(|(a, b)| a != b) {
                    return Err(Error::Type(format!("the arguments of {} do not fit", p.func(*f).name)));
                }
                Ok(body.results.iter().map(|v| p.ty(*v).clone()).collect())
            }
            Self::TapeNew => Ok(vec![Type::Tape]),
            Self::Push { .. } => match operands.split_first() {
                Some((Type::Tape, rest)) if rest.iter().all(|t| t.as_tensor().is_some()) => Ok(vec![Type::Tape]),
                _ => Err(Error::Type("push takes a tape and tensors".into())),
            },
            Self::Pop { types, .. } => match operands {
                [Type::Tape] => {
                    Ok(std::iter::once(Type::Tape).chain(types.iter().cloned().map(Type::Tensor)).collect())
                }
                _ => Err(Error::Type("pop takes a tape".into())),
            },
            Self::AccNew(ty) => {
                if !ty.dtype.is_numeric() {
                    return Err(Error::Type(format!("a sum of {ty}")));
                }
                Ok(vec![Type::Acc(ty.clone())])
            }
            Self::AccAdd => match operands {
                [Type::Acc(sum), Type::Tensor(t)] if sum == t => Ok(vec![Type::Acc(sum.clone())]),
                _ => Err(Error::Type("acc_add takes a sum and a tensor of its type".into())),
            },
            Self::AccRows => match operands {
                [Type::Acc(sum), Type::Tensor(i), Type::Tensor(t)]
                    if sum.rank() > 0
                        && i.dtype.is_integer()
                        && t.dtype == sum.dtype
                        && i.shape.iter().chain(&sum.shape[1..]).eq(&t.shape) =>
                {
                    Ok(vec![Type::Acc(sum.clone())])
                }
                _ => Err(Error::Type("acc_rows takes a sum, indices and rows of the sum for them".into())),
            },
            Self::AccRead => match operands {
                [Type::Acc(sum)] => Ok(vec![Type::Tensor(sum.clone())]),
                _ => Err(Error::Type("acc_read takes a sum".into())),
            },
        }
    }

    /// Whether every such node stands for itself, though it is equal to another one: each begins a tape or a sum of its own.
    pub fn is_unique(&self) -> bool {
        matches!(self, Self::TapeNew | Self::AccNew(_))
    }
}

/// The number of rows of operands that are cut: the first dimension of each.
fn rows_of<'a>(operands: &[&'a Type]) -> Result<&'a Dim> {
    let mut rows = operands.iter().map(|t| t.as_tensor().and_then(|t| t.shape.first()));
    let first = rows.next().flatten();
    match first {
        Some(n) if rows.all(|r| r == first) => Ok(n),
        _ => Err(Error::Type("for_parts cuts tensors of one number of rows".into())),
    }
}
