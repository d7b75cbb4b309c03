//! Calls, branches, loops, tapes and accumulators.

use super::Parser;
use crate::entity::ValueId;
use crate::error::Result;
use crate::graph::ControlOp;

impl Parser {
    /// The operation of control of this name, with its operands; `None` where there is none.
    pub(super) fn control(&mut self, line: usize, name: &str) -> Result<Option<(ControlOp, Vec<ValueId>)>> {
        let op = match name {
            "call" => {
                let name = self.variant(Self::func_name)?;
                let Some(&f) = self.funcs.get(&name) else {
                    return self.fail_at(line, format!("there is no function @{name}"));
                };
                (ControlOp::Call(f), self.operands()?)
            }
            "if" => (ControlOp::If, self.operands()?),
            "while" => (ControlOp::While, self.operands()?),
            "for" => {
                let operands = self.operands()?;
                self.keyword("length")?;
                let length = self.dim()?;
                self.keyword("state")?;
                let state = self.usize()?;
                (ControlOp::For { length, state, reverse: self.eat_word("reverse") }, operands)
            }
            "for_parts" => {
                let operands = self.operands()?;
                self.keyword("part")?;
                let part = self.symbol()?;
                self.keyword("rows")?;
                let line = self.line();
                let rows = self.usize()?;
                if rows == 0 {
                    return self.fail_at(line, "a part has at least one row");
                }
                self.keyword("joined")?;
                (ControlOp::ForParts { part, rows, joined: self.usize()? }, operands)
            }
            "tape_new" => (ControlOp::TapeNew, vec![]),
            "push" => {
                let tag = self.variant(|p| p.number("a tag"))?;
                (ControlOp::Push { tag }, self.operands()?)
            }
            "pop" => {
                let tag = self.variant(|p| p.number("a tag"))?;
                let operands = self.operands()?;
                (ControlOp::Pop { tag, types: self.list('(', ')', Self::tensor_type)? }, operands)
            }
            "acc_new" => (ControlOp::AccNew(self.tensor_type()?), vec![]),
            "acc_add" => (ControlOp::AccAdd, self.operands()?),
            "acc_rows" => (ControlOp::AccRows, self.operands()?),
            "acc_read" => (ControlOp::AccRead, self.operands()?),
            _ => return Ok(None),
        };
        Ok(Some(op))
    }
}
