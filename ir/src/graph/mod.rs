//! The graph level: what a program computes.
//!
//! What holds:
//! - A [`Program`] owns every function, region, node and value in arenas; ids are never reused.
//! - A region's nodes stand in dependency order; a node sees the values of its own region that stand before it, the region's
//!   parameters, and everything visible where the region's owner stands. Every operation is pure.
//! - A *row region* (of a filter, an extend, a join) is evaluated once per row: `col(c)` reads column `c` of the row, of the
//!   owner's table operands or, inside a dependent join, of an outer row. Values captured from outside (weights, parameters)
//!   are ordinary operands, so the optimizer sees them.
//! - Columns have ids that are unique in the program. An operation that makes a column gives it a fresh id; no operation
//!   renames. Names are print hints.
//! - Types are inferred by the family files ([`rel`], [`tensor`], [`bridge`], [`control`]); a node's result types are never
//!   written by hand.

pub mod attend;
pub mod bridge;
pub mod build;
pub mod control;
pub mod rel;
pub mod rewrite;
pub mod tensor;
pub mod verify;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::entity::{ColumnId, FuncId, InputId, NodeId, PlaceId, RegionId, SymId, ValueId};
use crate::error::{Error, Result};
use crate::scalar::ScalarOp;
use crate::types::{RowType, ScalarType, TableType, TensorType, Type};
use crate::value::{TensorValue, Value};

pub use bridge::BridgeOp;
pub use build::Builder;
pub use control::ControlOp;
pub use rel::RelOp;
pub use tensor::TensorOp;

/// An operation: one closed enum a family.
#[derive(Clone, PartialEq, Debug)]
pub enum Op {
    /// A scalar constant of this type. No operands.
    Literal(Value, RowType),
    /// The current row's value of a column. Only in row regions. No operands.
    Col(ColumnId),
    /// A scalar operation over scalars.
    Scalar(ScalarOp),
    /// An input of the program. No operands.
    Input(InputId),
    /// Tables to tables.
    Rel(RelOp),
    /// Tensors to tensors.
    Tensor(TensorOp),
    /// Between tables and tensors.
    Bridge(BridgeOp),
    /// Control flow.
    Control(ControlOp),
}

/// One operation with its operands, regions and results.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// What it reads, beside what its regions capture.
    pub operands: SmallVec<[ValueId; 3]>,
    /// Its bodies.
    pub regions: SmallVec<[RegionId; 1]>,
    /// The values it defines.
    pub results: SmallVec<[ValueId; 1]>,
    /// Where it stands in the source, for errors at run time.
    pub place: Option<PlaceId>,
}

impl Node {
    /// Whether its first result is a table that a query computes.
    pub fn makes_table(&self) -> bool {
        matches!(self.op, Op::Rel(_) | Op::Bridge(BridgeOp::Apply { .. } | BridgeOp::ToTable { .. }))
    }

    /// A hash that equal nodes share; of regions it knows only how many there are.
    pub(crate) fn shallow_hash(&self) -> u64 {
        let mut h = DefaultHasher::new();
        std::mem::discriminant(&self.op).hash(&mut h);
        match &self.op {
            Op::Literal(v, ty) => (v, ty).hash(&mut h),
            Op::Col(id) => id.hash(&mut h),
            Op::Scalar(op) => op.hash(&mut h),
            Op::Input(id) => id.hash(&mut h),
            Op::Rel(op) => std::mem::discriminant(op).hash(&mut h),
            Op::Tensor(op) => std::mem::discriminant(op).hash(&mut h),
            Op::Bridge(op) => std::mem::discriminant(op).hash(&mut h),
            Op::Control(op) => std::mem::discriminant(op).hash(&mut h),
        }
        self.operands.hash(&mut h);
        self.regions.len().hash(&mut h);
        h.finish()
    }
}

/// Where a value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Def {
    /// Result `index` of a node.
    Result(NodeId, u32),
    /// Parameter `index` of a region.
    Param(RegionId, u32),
}

/// An SSA value.
#[derive(Clone, PartialEq, Debug)]
pub struct ValueData {
    /// Its type.
    pub ty: Type,
    /// Where it is defined.
    pub def: Def,
}

/// A body: parameters, nodes in order, results.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Region {
    /// Values that its owner supplies.
    pub params: Vec<ValueId>,
    /// Nodes in dependency order.
    pub nodes: Vec<NodeId>,
    /// What it yields to its owner.
    pub results: Vec<ValueId>,
}

/// A function. The entry function of a program has no parameters: it reads [`Op::Input`].
#[derive(Clone, PartialEq, Debug)]
pub struct Func {
    /// Name, unique in the program.
    pub name: String,
    /// Body.
    pub body: RegionId,
}

/// A column of a table input, as the program was told of it.
#[derive(Clone, PartialEq, Debug)]
pub struct InputColumn {
    /// Name, for errors and print.
    pub name: String,
    /// Type and NULL rule.
    pub ty: RowType,
}

/// What a run must supply.
#[derive(Clone, PartialEq, Debug)]
pub enum InputKind {
    /// A table with these columns; read by `scan`.
    Table(Vec<InputColumn>),
    /// A tensor.
    Tensor(TensorType),
    /// A scalar parameter of a query.
    Scalar(RowType),
}

/// An input of a program.
#[derive(Clone, PartialEq, Debug)]
pub struct Input {
    /// Name, unique in the program.
    pub name: String,
    /// What it is.
    pub kind: InputKind,
}

/// A column known to the program.
#[derive(Clone, PartialEq, Debug)]
pub struct ColumnInfo {
    /// Print hint; not unique.
    pub name: String,
    /// Type. Whether it is nullable depends on the table that carries it.
    pub ty: ScalarType,
}

/// A place in a source text: what an error message shows.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Place {
    /// The expression, printed.
    pub text: String,
    /// Byte range in the source text, where it is known.
    pub span: Option<(u32, u32)>,
}

/// A program: functions over one set of arenas. `entry` is run.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Program {
    /// Values.
    pub values: Vec<ValueData>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Regions.
    pub regions: Vec<Region>,
    /// Functions.
    pub funcs: Vec<Func>,
    /// Inputs.
    pub inputs: Vec<Input>,
    /// Columns.
    pub columns: Vec<ColumnInfo>,
    /// Symbolic dimensions; the strings are print hints.
    pub symbols: Vec<String>,
    /// Places.
    pub places: Vec<Place>,
    /// The function that is run.
    pub entry: Option<FuncId>,
    /// Names of the entry function's results: names of the columns for a table, of the tensor otherwise.
    pub result_names: Vec<Vec<String>>,
}

impl Program {
    /// A value's type.
    pub fn ty(&self, v: ValueId) -> &Type {
        &self.values[v.index()].ty
    }

    /// The type of a value that is a table.
    ///
    /// # Errors
    /// A bug of the caller's, where it is none.
    pub(crate) fn table(&self, v: ValueId) -> Result<&TableType> {
        self.ty(v).as_table().ok_or_else(|| Error::Bug("a table is expected".into()))
    }

    /// The node that defines a value; `None` for a region parameter.
    pub fn node_of(&self, v: ValueId) -> Option<&Node> {
        match self.values[v.index()].def {
            Def::Result(n, _) => Some(&self.nodes[n.index()]),
            Def::Param(..) => None,
        }
    }

    /// A node.
    pub fn node(&self, n: NodeId) -> &Node {
        &self.nodes[n.index()]
    }

    /// A region.
    pub fn region(&self, r: RegionId) -> &Region {
        &self.regions[r.index()]
    }

    /// A function.
    pub fn func(&self, f: FuncId) -> &Func {
        &self.funcs[f.index()]
    }

    /// An input.
    pub fn input(&self, i: InputId) -> &Input {
        &self.inputs[i.index()]
    }

    /// The body of the entry function.
    pub fn entry_region(&self) -> Option<&Region> {
        self.entry.map(|f| self.region(self.func(f).body))
    }

    /// A fresh column id.
    pub fn new_column(&mut self, name: impl Into<String>, ty: ScalarType) -> ColumnId {
        self.columns.push(ColumnInfo { name: name.into(), ty });
        ColumnId(self.columns.len() as u32 - 1)
    }

    /// A fresh symbolic dimension.
    pub fn new_symbol(&mut self, name: impl Into<String>) -> SymId {
        self.symbols.push(name.into());
        SymId(self.symbols.len() as u32 - 1)
    }

    /// Declares an input.
    pub fn new_input(&mut self, name: impl Into<String>, kind: InputKind) -> InputId {
        self.inputs.push(Input { name: name.into(), kind });
        InputId(self.inputs.len() as u32 - 1)
    }

    /// Declares a place.
    pub fn new_place(&mut self, text: impl Into<String>, span: Option<(u32, u32)>) -> PlaceId {
        self.places.push(Place { text: text.into(), span });
        PlaceId(self.places.len() as u32 - 1)
    }
}

/// A tensor constant, shared.
pub type TensorConst = Arc<TensorValue>;
