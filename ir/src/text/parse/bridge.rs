//! Operations between tables and tensors.

use super::Parser;
use crate::entity::ValueId;
use crate::error::Result;
use crate::graph::BridgeOp;
use crate::graph::bridge::TensorColumns;

impl Parser {
    /// The operation between tables and tensors of this name, with its operands; `None` where there is none.
    pub(super) fn bridge(&mut self, name: &str) -> Result<Option<(BridgeOp, Vec<ValueId>)>> {
        if !matches!(name, "row_count" | "to_tensor" | "to_table" | "apply" | "for_batches") {
            return Ok(None);
        }
        let operands = self.operands()?;
        let op = match name {
            "row_count" => BridgeOp::RowCount,
            "to_tensor" => {
                self.keyword("rows")?;
                let rows = self.symbol()?;
                BridgeOp::ToTensor { rows, groups: self.tensor_columns()? }
            }
            "to_table" => BridgeOp::ToTable { columns: self.columns()? },
            "apply" => {
                self.keyword("rows")?;
                let rows = self.symbol()?;
                let inputs = self.tensor_columns()?;
                BridgeOp::Apply { rows, inputs, columns: self.columns()? }
            }
            _ => self.for_batches()?,
        };
        Ok(Some((op, operands)))
    }

    fn for_batches(&mut self) -> Result<BridgeOp> {
        self.keyword("sources")?;
        let sources = self.usize()?;
        self.keyword("batch")?;
        let batch = self.symbol()?;
        self.keyword("size")?;
        let line = self.line();
        let size = self.usize()?;
        if size == 0 {
            return self.fail_at(line, "a batch has at least one row");
        }
        self.keyword("epochs")?;
        let epochs = self.usize()?;
        let shuffle = if self.eat_word("shuffle") { Some(self.number("a seed")?) } else { None };
        let drop_last = self.eat_word("drop_last");
        let early_stop = if self.eat_word("early_stop") { Some(self.float()?) } else { None };
        Ok(BridgeOp::ForBatches { batch, sources, size, epochs, shuffle, drop_last, early_stop })
    }

    fn tensor_columns(&mut self) -> Result<Vec<TensorColumns>> {
        self.list('(', ')', |p| {
            let dtype = p.scalar_type()?;
            if p.is('[') {
                let columns = p.list('[', ']', Self::column)?;
                return Ok(TensorColumns { columns, dtype, flat: false });
            }
            Ok(TensorColumns { columns: vec![p.column()?], dtype, flat: true })
        })
    }
}
