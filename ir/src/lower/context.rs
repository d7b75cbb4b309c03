//! The context: a table of 8-byte slots that every function of a plan reads.
//!
//! Lowering asks for slots by meaning; the executable fills them before the stage that reads them runs.

use std::collections::HashMap;
use std::sync::Arc;

use super::scalar::HostOp;
use crate::entity::{ColumnId, InputId, NodeId, ValueId};
use crate::plan::StateId;

/// What a slot of the context holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Slot {
    /// Address of a column's values, codes or narrowed integers.
    ColumnData(InputId, u32),
    /// Address of a column's valid bytes.
    ColumnValid(InputId, u32),
    /// Address of a dictionary's text views.
    Dictionary(InputId, u32),
    /// Address of the results of an expression over a dictionary's values, in register type, with marks behind them (see
    /// `row::map_marks`).
    DictionaryMap(InputId, u32, ValueId),
    /// Address of the results of an expression over all combinations of the columns' values, in register type; the last column's
    /// are next to each other.
    DomainMap(ValueId, Vec<Axis>),
    /// Address of an I32 for each code of a column's dictionary: the code of the same text in another's, -1 where it has none.
    CodeMap {
        /// The column.
        from: (InputId, u32),
        /// The other.
        to: (InputId, u32),
    },
    /// Address of a text view of a literal.
    Text(Arc<str>),
    /// Address of a compiled pattern of LIKE.
    Like(Arc<str>),
    /// Address of what a host call evaluates.
    Host(HostOp),
    /// Address of a scalar parameter: 16 bytes of value, then a valid byte.
    Param(InputId),
    /// Address of a state's row addresses.
    Rows(StateId),
    /// Address of a join table.
    JoinTable(StateId),
    /// Address of tensor result `1` of node `0`'s operands: a `to_table` source.
    TensorData(NodeId, u32),
}

/// The values of an integer column.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Axis {
    /// The column.
    pub column: ColumnId,
    /// Its least value.
    pub least: i64,
    /// How many values follow one another from there.
    pub size: usize,
}

/// Slots by meaning.
#[derive(Clone, Default, Debug)]
pub struct Context {
    slots: Vec<Slot>,
    index: HashMap<Slot, usize>,
}

impl Context {
    /// The slot for this meaning.
    pub fn slot(&mut self, slot: Slot) -> usize {
        if let Some(&i) = self.index.get(&slot) {
            return i;
        }
        self.slots.push(slot.clone());
        self.index.insert(slot, self.slots.len() - 1);
        self.slots.len() - 1
    }

    /// The slots in order.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }
}
