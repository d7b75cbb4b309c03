//! Operations on tensors.

use std::sync::Arc;

use super::Parser;
use crate::entity::ValueId;
use crate::error::Result;
use crate::graph::TensorOp;
use crate::graph::attend::AttendSpec;
use crate::graph::tensor::{ContractSpec, Distribution, Move};
use crate::types::{ScalarType, TensorType};

impl Parser {
    /// The operation on tensors of this name, with its operands; `None` where there is none.
    pub(super) fn tensor(&mut self, line: usize, name: &str) -> Result<Option<(TensorOp, Vec<ValueId>)>> {
        let op = match name {
            "const" => {
                let dtype = self.variant(Self::scalar_type)?;
                (TensorOp::Const(Arc::new(self.tensor_value(dtype)?)), vec![])
            }
            "iota" => (TensorOp::Iota { dim: self.variant(Self::usize)?, ty: untyped(ScalarType::I64) }, vec![]),
            "random" => (self.random()?, vec![]),
            "reduce" => {
                let reducer = self.variant(Self::reducer)?;
                let operands = self.operands()?;
                (TensorOp::Reduce { reducer, axes: self.sizes()? }, operands)
            }
            "prefix" => {
                let reducer = self.variant(Self::reducer)?;
                let operands = self.operands()?;
                self.keyword("axis")?;
                (TensorOp::Prefix { reducer, axis: self.usize()? }, operands)
            }
            "contract" => {
                let spec = self.variant(Self::text)?;
                let Some(spec) = ContractSpec::parse(&spec) else {
                    return self.fail_at(line, format!("`{spec}` is not a contraction"));
                };
                (TensorOp::Contract(spec), self.operands()?)
            }
            "attend" => {
                let (spec, operands) = self.attend(line)?;
                (TensorOp::Attend(spec), operands)
            }
            "attend_grad" => {
                let (spec, operands) = self.attend(line)?;
                (TensorOp::AttendGrad(spec), operands)
            }
            "gather" => (TensorOp::Gather, self.operands()?),
            "scatter_add" => (TensorOp::ScatterAdd, self.operands()?),
            "map" => {
                let operands = self.operands()?;
                (TensorOp::Map { shape: self.shape()? }, operands)
            }
            "view" => {
                let operands = self.operands()?;
                (TensorOp::View(self.list('(', ')', Self::view_move)?), operands)
            }
            "levels" => {
                let operands = self.operands()?;
                self.keyword("pad")?;
                (TensorOp::Levels { pad: self.usize()? }, operands)
            }
            _ => return Ok(None),
        };
        Ok(Some(op))
    }

    /// `random`, without the type of its result.
    fn random(&mut self) -> Result<TensorOp> {
        let distribution = self.variant(|p| {
            if p.eat_word("normal") {
                return Ok(Distribution::Normal);
            }
            p.keyword("uniform")?;
            let low = p.float()?;
            p.keyword("to")?;
            Ok(Distribution::Uniform { low, high: p.float()? })
        })?;
        self.keyword("seed")?;
        let seed = self.number("a seed")?;
        self.keyword("stream")?;
        let stream = self.number("a stream")?;
        Ok(TensorOp::Random { ty: untyped(ScalarType::F32), distribution, seed, stream })
    }

    fn attend(&mut self, line: usize) -> Result<(Box<AttendSpec>, Vec<ValueId>)> {
        let labels = self.variant(Self::text)?;
        let operands = self.operands()?;
        self.keyword("scale")?;
        let scale = self.float()?;
        self.keyword("fill")?;
        let Some(spec) = AttendSpec::parse(&labels, scale, self.float()?) else {
            return self.fail_at(line, format!("`{labels}` is not attention"));
        };
        Ok((Box::new(spec), operands))
    }

    fn view_move(&mut self) -> Result<Move> {
        let line = self.line();
        Ok(match self.word()?.as_str() {
            "permute" => Move::Permute(self.sizes()?),
            "broadcast" => {
                let shape = self.shape()?;
                self.keyword("dims")?;
                Move::Broadcast { shape, dims: self.sizes()? }
            }
            "slice" => {
                let dim = self.usize()?;
                self.keyword("start")?;
                let start = self.dim()?;
                self.keyword("len")?;
                let len = self.dim()?;
                self.keyword("step")?;
                Move::Slice { dim, start, len, step: self.usize()? }
            }
            "reshape" => Move::Reshape(self.shape()?),
            "pad" => {
                let dim = self.usize()?;
                self.keyword("before")?;
                let before = self.usize()?;
                self.keyword("after")?;
                Move::Pad { dim, before, after: self.usize()? }
            }
            "reverse" => Move::Reverse(self.usize()?),
            other => return self.fail_at(line, format!("there is no move `{other}`")),
        })
    }
}

/// In place of the type that stands behind the operation.
fn untyped(dtype: ScalarType) -> TensorType {
    TensorType { dtype, shape: vec![] }
}
