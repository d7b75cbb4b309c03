//! Branches, loops, calls, tapes and sums.

use std::sync::Arc;

use runtime::tape::TapeError;
use runtime::trap::TrapCode;

use super::{Item, Machine, bug, index, is_true, tensor, trap};
use crate::entity::SymId;
use crate::error::{Result, TrapKind};
use crate::graph::{ControlOp, Node};
use crate::types::{Dim, ScalarType, TensorType, Type};
use crate::value::{TensorValue, Value};

fn wrong_frame<T>(e: TapeError) -> Result<T> {
    trap(TrapKind::InvalidArgument(format!("{}: {e}", TrapCode::InvalidArgument)))
}

fn dtype_bytes(dtype: ScalarType) -> usize {
    match dtype {
        ScalarType::Bool => 1,
        ScalarType::I32 | ScalarType::F32 => 4,
        _ => 8,
    }
}

/// A stack of frames.
#[derive(Clone, Debug, Default)]
pub(super) struct Tape(Option<Arc<Frame>>);

#[derive(Debug)]
struct Frame {
    tag: u32,
    values: Vec<Arc<TensorValue>>,
    below: Tape,
}

impl Tape {
    fn push(self, tag: u32, values: Vec<Arc<TensorValue>>) -> Self {
        Self(Some(Arc::new(Frame { tag, values, below: self })))
    }

    fn pop(self) -> Option<(Self, u32, Vec<Arc<TensorValue>>)> {
        let frame = self.0.as_ref()?;
        Some((frame.below.clone(), frame.tag, frame.values.clone()))
    }
}

impl Drop for Tape {
    /// Frame by frame: a long tape must not take a deep stack.
    fn drop(&mut self) {
        let mut next = self.0.take();
        while let Some(mut frame) = next.and_then(Arc::into_inner) {
            next = frame.below.0.take();
        }
    }
}

impl Machine<'_> {
    pub(super) fn control(&mut self, op: &ControlOp, node: &Node) -> Result<Vec<Item>> {
        match op {
            ControlOp::If => {
                let condition = match self.item(node.operands[0])? {
                    Item::Scalar(Value::Bool(b)) => *b,
                    Item::Scalar(Value::Null) => false,
                    Item::Tensor(t) => is_true(t)?,
                    _ => return bug("a condition that is not a bool"),
                };
                let region = node.regions[usize::from(!condition)];
                self.run_region(region, vec![])?;
                self.results(region)
            }
            ControlOp::While => {
                let mut state = self.operands(node)?;
                loop {
                    self.run_region(node.regions[0], state.clone())?;
                    let go_on = self.results(node.regions[0])?;
                    let [Item::Tensor(t)] = &go_on[..] else { return bug("a condition that is not a bool") };
                    if !is_true(t)? {
                        return Ok(state);
                    }
                    self.run_region(node.regions[1], state)?;
                    state = self.results(node.regions[1])?;
                }
            }
            ControlOp::For { length, state, reverse } => self.for_loop(node, length, *state, *reverse),
            ControlOp::ForParts { part, rows, joined } => self.for_parts(node, *part, *rows, *joined),
            ControlOp::Call(f) => {
                let arguments = self.take_operands(node)?;
                self.call(*f, arguments)
            }
            ControlOp::TapeNew => Ok(vec![Item::Tape(Tape::default())]),
            ControlOp::Push { tag } => {
                let mut operands = self.take_operands(node)?.into_iter();
                let Some(Item::Tape(tape)) = operands.next() else { return bug("a push onto what is no tape") };
                let values = operands.map(|item| match item {
                    Item::Tensor(t) => Ok(t),
                    _ => bug("a frame of what is no tensor"),
                });
                Ok(vec![Item::Tape(tape.push(*tag, values.collect::<Result<_>>()?))])
            }
            ControlOp::Pop { tag, types } => {
                let Some(Item::Tape(tape)) = self.take_operands(node)?.pop() else {
                    return bug("a pop of what is no tape");
                };
                let Some((tape, found, values)) = tape.pop() else { return wrong_frame(TapeError::Empty) };
                let bytes = |n: usize, dtype: ScalarType| n * dtype_bytes(dtype);
                let mut wanted_bytes = 0;
                for ty in types {
                    wanted_bytes += bytes(self.shape(&ty.shape)?.iter().product(), ty.dtype);
                }
                let found_bytes = values.iter().map(|t| bytes(t.data.len(), t.data.dtype())).sum();
                let mut fits = found == *tag && values.len() == types.len();
                for (t, ty) in values.iter().zip(types) {
                    fits &= t.data.dtype() == ty.dtype && t.shape == self.shape(&ty.shape)?;
                }
                if !fits {
                    return wrong_frame(TapeError::Mismatch { wanted: *tag, wanted_bytes, found, found_bytes });
                }
                Ok(std::iter::once(Item::Tape(tape)).chain(values.into_iter().map(Item::Tensor)).collect())
            }
            ControlOp::AccNew(ty) => {
                let shape = self.shape(&ty.shape)?;
                let data = tensor::zeros(ty.dtype, shape.iter().product())?;
                Ok(vec![Item::Acc(Arc::new(TensorValue { shape, data }))])
            }
            ControlOp::AccAdd => {
                let [Item::Acc(sum), Item::Tensor(t)] = &self.take_operands(node)?[..] else {
                    return bug("an addition to what is no sum");
                };
                Ok(vec![Item::Acc(Arc::new(tensor::plus(sum, t)?))])
            }
            ControlOp::AccRows => {
                let [Item::Acc(sum), Item::Tensor(i), Item::Tensor(t)] = &self.take_operands(node)?[..] else {
                    return bug("an addition to what is no sum");
                };
                Ok(vec![Item::Acc(Arc::new(tensor::scatter_add(sum, i, t)?))])
            }
            ControlOp::AccRead => match self.take_operands(node)?.pop() {
                Some(Item::Acc(sum)) => Ok(vec![Item::Tensor(sum)]),
                _ => bug("a sum that is none"),
            },
        }
    }

    /// The operands, those that are used once out of their places: so a tape is not held twice.
    fn take_operands(&mut self, node: &Node) -> Result<Vec<Item>> {
        let mut out = vec![];
        for v in &node.operands {
            out.push(if self.p.ty(*v).is_linear() {
                let slot = self.slots[v.index()] as usize;
                match std::mem::take(&mut self.frame[slot]) {
                    Item::Empty => return bug("a tape or a sum that is used twice"),
                    item => item,
                }
            } else {
                self.item(*v)?.clone()
            });
        }
        Ok(out)
    }

    pub(super) fn operands(&self, node: &Node) -> Result<Vec<Item>> {
        node.operands.iter().map(|v| self.item(*v).cloned()).collect()
    }

    fn for_loop(&mut self, node: &Node, length: &Dim, count: usize, reverse: bool) -> Result<Vec<Item>> {
        let n = self.size(length)?;
        let operands = self.operands(node)?;
        let (mut state, sources) = (operands[..count].to_vec(), &operands[count..]);
        let body = node.regions[0];
        let stacked_types: Vec<TensorType> =
            node.results[count..].iter().filter_map(|v| self.p.ty(*v).as_tensor().cloned()).collect();
        let mut stacked: Vec<Vec<Option<Arc<TensorValue>>>> = vec![vec![None; n]; stacked_types.len()];
        for step in 0..n {
            let i = if reverse { n - 1 - step } else { step };
            let mut params = vec![Item::Tensor(Arc::new(index(i)))];
            params.append(&mut state);
            for source in sources {
                let Item::Tensor(t) = source else { return bug("a source that is not a tensor") };
                params.push(Item::Tensor(Arc::new(tensor::rows(t, &[i], true)?)));
            }
            self.run_region(body, params)?;
            let mut results = self.results(body)?;
            for (list, item) in stacked.iter_mut().zip(results.split_off(count)) {
                let Item::Tensor(t) = item else { return bug("a stacked value that is not a tensor") };
                list[i] = Some(t);
            }
            state = results;
        }
        for (list, ty) in stacked.into_iter().zip(stacked_types) {
            let slices: Vec<Arc<TensorValue>> = list.into_iter().flatten().collect();
            let shape = match slices.first() {
                Some(first) => std::iter::once(n).chain(first.shape.iter().copied()).collect(),
                None => self.shape(&ty.shape)?,
            };
            let data = tensor::concat_data(ty.dtype, slices.iter().map(|t| &t.data));
            state.push(Item::Tensor(Arc::new(TensorValue { shape, data })));
        }
        Ok(state)
    }

    fn for_parts(&mut self, node: &Node, part: SymId, rows: usize, joined: usize) -> Result<Vec<Item>> {
        let cut = node.operands.iter().map(|v| self.tensor(*v)).collect::<Result<Vec<_>>>()?;
        let n = cut[0].shape[0];
        let body = node.regions[0];
        let mut pieces: Vec<Vec<Arc<TensorValue>>> = vec![vec![]; joined];
        let mut sums: Vec<Option<Arc<TensorValue>>> = vec![None; node.results.len() - joined];
        let outer = self.symbols[part.index()];
        for first in (0..n).step_by(rows) {
            let chosen: Vec<usize> = (first..n.min(first + rows)).collect();
            self.symbols[part.index()] = Some(chosen.len());
            let params = cut.iter().map(|t| Ok(Item::Tensor(Arc::new(tensor::rows(t, &chosen, false)?))));
            let params = params.collect::<Result<_>>()?;
            self.run_region(body, params)?;
            for (i, item) in self.results(body)?.into_iter().enumerate() {
                let Item::Tensor(t) = item else { return bug("a part that is no tensor") };
                if i < joined {
                    pieces[i].push(t);
                    continue;
                }
                let sum = &mut sums[i - joined];
                *sum = Some(match sum.take() {
                    Some(sum) => Arc::new(tensor::plus(&sum, &t)?),
                    None => t,
                });
            }
        }
        self.symbols[part.index()] = outer;
        let mut out = vec![];
        for (i, v) in node.results.iter().enumerate() {
            let Type::Tensor(ty) = self.p.ty(*v) else { return bug("a result that is no tensor") };
            let shape = self.shape(&ty.shape)?;
            out.push(Item::Tensor(match sums.get_mut(i.wrapping_sub(joined)).map(Option::take) {
                Some(Some(sum)) => sum,
                Some(None) => {
                    let data = tensor::zeros(ty.dtype, shape.iter().product())?;
                    Arc::new(TensorValue { shape, data })
                }
                None => {
                    let data = tensor::concat_data(ty.dtype, pieces[i].iter().map(|t| &t.data));
                    Arc::new(TensorValue { shape, data })
                }
            }));
        }
        Ok(out)
    }
}
