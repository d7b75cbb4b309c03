//! Building programs.
//!
//! A [`Builder`] adds nodes to the region it stands in. Equal operations in one region become one node (everything is pure).

use std::collections::HashMap;

use smallvec::SmallVec;

use crate::entity::{ColumnId, FuncId, InputId, NodeId, PlaceId, RegionId, ValueId};
use crate::error::{Error, Result};
use crate::graph::rel::working_type;
use crate::graph::{BridgeOp, ControlOp, Def, Func, InputKind, Node, Op, Program, Region, RelOp, TensorOp, ValueData};
use crate::scalar::{self, ScalarOp};
use crate::types::{RowType, ScalarType, TableType, Type};
use crate::value::Value;

/// A region that is being built.
struct Frame {
    region: RegionId,
    /// Columns that `col` sees here, beside those of the frames outside.
    columns: Vec<TableType>,
    /// Nodes by their first result's position, for sharing: a hash of the operation to candidates.
    seen: HashMap<u64, Vec<NodeId>>,
}

/// Builds a [`Program`], region by region.
#[derive(Default)]
pub struct Builder {
    program: Program,
    frames: Vec<Frame>,
    place: Option<PlaceId>,
    /// Every node stands for itself: equal operations are not made one.
    exact: bool,
    /// Result types of declared functions whose bodies are not finished.
    declared: HashMap<FuncId, Vec<Type>>,
}

impl Builder {
    /// A builder of an empty program. Begin with [`Builder::begin_func`].
    pub fn new() -> Self {
        Self::default()
    }

    /// A builder that adds to a program, for passes.
    pub fn over(program: Program) -> Self {
        Self { program, ..Self::default() }
    }

    /// The same builder, but equal operations stay apart: for the parser and for passes that count.
    pub fn exact(self) -> Self {
        Self { exact: true, ..self }
    }

    /// The program so far.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The program so far, to add inputs, columns, symbols or places.
    pub fn program_mut(&mut self) -> &mut Program {
        &mut self.program
    }

    /// The finished program.
    pub fn finish(self) -> Program {
        debug_assert!(self.frames.is_empty(), "a region is still open");
        self.program
    }

    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> &Type {
        self.program.ty(v)
    }

    /// Nodes that follow carry this place.
    pub fn set_place(&mut self, place: Option<PlaceId>) {
        self.place = place;
    }

    /// Opens a region with parameters of these types. `columns` are the tables whose columns `col` reads in it.
    pub fn begin_region(&mut self, params: &[Type], columns: Vec<TableType>) -> Vec<ValueId> {
        self.program.regions.push(Region::default());
        let region = RegionId(self.program.regions.len() as u32 - 1);
        let params: Vec<ValueId> = params
            .iter()
            .enumerate()
            .map(|(i, ty)| {
                self.program.values.push(ValueData { ty: ty.clone(), def: Def::Param(region, i as u32) });
                ValueId(self.program.values.len() as u32 - 1)
            })
            .collect();
        self.program.regions[region.index()].params = params.clone();
        self.frames.push(Frame { region, columns, seen: HashMap::new() });
        params
    }

    /// Closes the region opened last.
    pub fn end_region(&mut self, results: &[ValueId]) -> RegionId {
        let frame = self.frames.pop().expect("a region is open");
        self.program.regions[frame.region.index()].results = results.to_vec();
        frame.region
    }

    /// Opens a function's body.
    pub fn begin_func(&mut self, params: &[Type]) -> Vec<ValueId> {
        self.begin_region(params, vec![])
    }

    /// Closes a function's body.
    pub fn end_func(&mut self, name: impl Into<String>, results: &[ValueId]) -> FuncId {
        let body = self.end_region(results);
        self.program.funcs.push(Func { name: name.into(), body });
        FuncId(self.program.funcs.len() as u32 - 1)
    }

    /// Declares a function before its body, so that bodies may call it: recursion. Give it a body by
    /// [`Builder::begin_declared`] and [`Builder::end_declared`].
    pub fn declare_func(&mut self, name: impl Into<String>, params: &[Type], results: &[Type]) -> FuncId {
        self.begin_region(params, vec![]);
        let body = self.end_region(&[]);
        self.program.funcs.push(Func { name: name.into(), body });
        let id = FuncId(self.program.funcs.len() as u32 - 1);
        self.declared.insert(id, results.to_vec());
        id
    }

    /// Opens the body of a declared function; its parameters.
    pub fn begin_declared(&mut self, f: FuncId) -> Vec<ValueId> {
        let region = self.program.func(f).body;
        self.frames.push(Frame { region, columns: vec![], seen: HashMap::new() });
        self.program.region(region).params.clone()
    }

    /// Whether a function is declared and its body not closed yet.
    pub fn is_declared(&self, f: FuncId) -> bool {
        self.declared.contains_key(&f)
    }

    /// Opens a region that was closed: nodes are added at its end. [`Builder::end_region`] closes it again.
    pub fn reopen_region(&mut self, region: RegionId) {
        self.frames.push(Frame { region, columns: vec![], seen: HashMap::new() });
    }

    /// The region that is open, innermost.
    ///
    /// # Panics
    /// None is open.
    pub fn current_region(&self) -> RegionId {
        self.frames.last().expect("a region is open").region
    }

    /// Closes the body of a declared function; the results must have the declared types.
    pub fn end_declared(&mut self, f: FuncId, results: &[ValueId]) -> Result<()> {
        self.end_region(results);
        let declared = self.declared.remove(&f).unwrap_or_default();
        if declared.len() != results.len() || declared.iter().zip(results).any(|(t, v)| t != self.ty(*v)) {
            let list = |types: &mut dyn Iterator<Item = String>| types.collect::<Vec<_>>().join(", ");
            let yields = list(&mut results.iter().map(|v| self.ty(*v).to_string()));
            let declared = list(&mut declared.iter().map(|t| t.to_string()));
            let name = &self.program.func(f).name;
            return Err(Error::Type(format!("@{name} yields ({yields}), it declares ({declared})")));
        }
        Ok(())
    }

    /// Closes the body of a declared function that nobody calls: its results may have other types than declared.
    pub fn end_entry(&mut self, f: FuncId, results: &[ValueId]) {
        self.end_region(results);
        self.declared.remove(&f);
    }

    /// The types of the parameters of an operation's next region, and the tables whose columns `col` reads in it. `regions`
    /// are the operation's regions before it.
    pub fn region_entry(
        &self,
        op: &Op,
        operands: &[ValueId],
        regions: &[RegionId],
    ) -> Result<(Vec<Type>, Vec<TableType>)> {
        region_entry(&self.program, op, operands, regions)
    }

    /// A region with no parameters, built by a closure.
    pub fn region(
        &mut self,
        params: &[Type],
        columns: Vec<TableType>,
        body: impl FnOnce(&mut Self, &[ValueId]) -> Result<Vec<ValueId>>,
    ) -> Result<RegionId> {
        let params = self.begin_region(params, columns);
        match body(self, &params) {
            Ok(results) => Ok(self.end_region(&results)),
            Err(e) => {
                self.end_region(&[]);
                Err(e)
            }
        }
    }

    /// The type of a column as `col` reads it here: innermost table first.
    pub fn column_type(&self, id: ColumnId) -> Option<RowType> {
        self.frames.iter().rev().find_map(|f| f.columns.iter().find_map(|t| t.get(id)))
    }

    /// The tables over which the innermost open region stands.
    pub fn columns_here(&self) -> &[TableType] {
        self.frames.last().map_or(&[], |f| &f.columns)
    }

    /// Adds a node; the types of its results are inferred.
    pub fn push(&mut self, op: Op, operands: &[ValueId], regions: &[RegionId]) -> Result<Vec<ValueId>> {
        let types = self.infer(&op, operands, regions)?;
        Ok(self.push_typed(op, operands, regions, types))
    }

    /// Adds a node with one result.
    pub fn push1(&mut self, op: Op, operands: &[ValueId], regions: &[RegionId]) -> Result<ValueId> {
        match self.push(op, operands, regions)?.as_slice() {
            [v] => Ok(*v),
            other => Err(Error::Type(format!("an operation with {} results where one was expected", other.len()))),
        }
    }

    /// The types of an operation's results here.
    pub fn infer(&self, op: &Op, operands: &[ValueId], regions: &[RegionId]) -> Result<Vec<Type>> {
        let declared = |f: FuncId| self.declared.get(&f).cloned();
        infer(&self.program, op, operands, regions, &|id| self.column_type(id), &declared)
    }

    fn push_typed(&mut self, op: Op, operands: &[ValueId], regions: &[RegionId], types: Vec<Type>) -> Vec<ValueId> {
        let node = Node {
            op,
            operands: SmallVec::from_slice(operands),
            regions: SmallVec::from_slice(regions),
            results: SmallVec::new(),
            place: self.place,
        };
        let may_share =
            !self.exact && node.regions.is_empty() && !matches!(&node.op, Op::Control(op) if op.is_unique());
        let key = may_share.then(|| node.shallow_hash());
        let frame = self.frames.last_mut().expect("a region is open");
        if let Some(key) = key {
            for &n in frame.seen.get(&key).into_iter().flatten() {
                let old = &self.program.nodes[n.index()];
                if old.op == node.op && old.operands == node.operands && old.regions.is_empty() {
                    return old.results.to_vec();
                }
            }
        }
        let id = NodeId(self.program.nodes.len() as u32);
        let results: SmallVec<[ValueId; 1]> = types
            .into_iter()
            .enumerate()
            .map(|(i, ty)| {
                self.program.values.push(ValueData { ty, def: Def::Result(id, i as u32) });
                ValueId(self.program.values.len() as u32 - 1)
            })
            .collect();
        let out = results.to_vec();
        self.program.nodes.push(Node { results, ..node });
        self.program.regions[frame.region.index()].nodes.push(id);
        if let Some(key) = key {
            frame.seen.entry(key).or_default().push(id);
        }
        out
    }

    /// A scalar constant.
    pub fn literal(&mut self, v: Value, ty: ScalarType) -> Result<ValueId> {
        let ty = ty.nullable(v.is_null());
        self.push1(Op::Literal(v, ty), &[], &[])
    }

    /// The current row's value of a column.
    pub fn col(&mut self, id: ColumnId) -> Result<ValueId> {
        self.push1(Op::Col(id), &[], &[])
    }

    /// A scalar operation.
    pub fn scalar(&mut self, op: ScalarOp, operands: &[ValueId]) -> Result<ValueId> {
        self.push1(Op::Scalar(op), operands, &[])
    }

    /// An input that is a tensor or a scalar.
    pub fn input(&mut self, id: InputId) -> Result<ValueId> {
        self.push1(Op::Input(id), &[], &[])
    }

    /// A relational operation.
    pub fn rel(&mut self, op: RelOp, operands: &[ValueId], regions: &[RegionId]) -> Result<ValueId> {
        self.push1(Op::Rel(op), operands, regions)
    }

    /// A tensor operation with one result.
    pub fn tensor(&mut self, op: TensorOp, operands: &[ValueId]) -> Result<ValueId> {
        self.push1(Op::Tensor(op), operands, &[])
    }

    /// A map: `body` gets a scalar for each operand and yields scalars.
    pub fn map(
        &mut self,
        operands: &[ValueId],
        body: impl FnOnce(&mut Self, &[ValueId]) -> Result<Vec<ValueId>>,
    ) -> Result<Vec<ValueId>> {
        let tensors: Option<Vec<_>> = operands.iter().map(|v| self.ty(*v).as_tensor().cloned()).collect();
        let tensors = tensors.ok_or_else(|| Error::Type("map takes tensors".into()))?;
        let shape = tensors.first().map(|t| t.shape.clone()).unwrap_or_default();
        let params: Vec<Type> = tensors.iter().map(|t| Type::Scalar(t.dtype.nullable(false))).collect();
        let region = self.region(&params, vec![], body)?;
        self.push(Op::Tensor(TensorOp::Map { shape }), operands, &[region])
    }

    /// Rows for which `body` yields true.
    pub fn filter(&mut self, table: ValueId, body: impl FnOnce(&mut Self) -> Result<ValueId>) -> Result<ValueId> {
        let region = self.row_region(&[table], |b| Ok(vec![body(b)?]))?;
        self.rel(RelOp::Filter, &[table], &[region])
    }

    /// Adds columns; `body` yields a scalar for each.
    pub fn extend(
        &mut self,
        table: ValueId,
        columns: &[ColumnId],
        body: impl FnOnce(&mut Self) -> Result<Vec<ValueId>>,
    ) -> Result<ValueId> {
        let region = self.row_region(&[table], body)?;
        self.rel(RelOp::Extend { columns: columns.to_vec() }, &[table], &[region])
    }

    /// A row region over these tables' columns.
    pub fn row_region(
        &mut self,
        tables: &[ValueId],
        body: impl FnOnce(&mut Self) -> Result<Vec<ValueId>>,
    ) -> Result<RegionId> {
        let types: Option<Vec<TableType>> = tables.iter().map(|v| self.ty(*v).as_table().cloned()).collect();
        let types = types.ok_or_else(|| Error::Type("a row region stands over tables".into()))?;
        self.region(&[], types, |b, _| body(b))
    }

    /// Evaluates one of two regions.
    pub fn if_else(
        &mut self,
        condition: ValueId,
        then: impl FnOnce(&mut Self) -> Result<Vec<ValueId>>,
        other: impl FnOnce(&mut Self) -> Result<Vec<ValueId>>,
    ) -> Result<Vec<ValueId>> {
        let a = self.region(&[], vec![], |b, _| then(b))?;
        let c = self.region(&[], vec![], |b, _| other(b))?;
        self.push(Op::Control(ControlOp::If), &[condition], &[a, c])
    }

    /// A bridge or control operation with one region whose parameters follow from the operands.
    pub fn with_region(
        &mut self,
        op: Op,
        operands: &[ValueId],
        body: impl FnOnce(&mut Self, &[ValueId]) -> Result<Vec<ValueId>>,
    ) -> Result<Vec<ValueId>> {
        let types: Vec<&Type> = operands.iter().map(|v| self.program.ty(*v)).collect();
        let params = match &op {
            Op::Bridge(op @ (BridgeOp::Apply { .. } | BridgeOp::ForBatches { .. })) => op.region_params(&types)?,
            Op::Control(op @ (ControlOp::For { .. } | ControlOp::ForParts { .. })) => op.region_params(&types)?,
            _ => return Err(Error::Type("this operation has not one region with parameters".into())),
        };
        let region = self.region(&params, vec![], body)?;
        self.push(op, operands, &[region])
    }
}

/// The types of an operation's results. `column` says what `col` reads, `declared` what a function yields whose body is not
/// finished.
pub fn infer(
    p: &Program,
    op: &Op,
    operands: &[ValueId],
    regions: &[RegionId],
    column: &dyn Fn(ColumnId) -> Option<RowType>,
    declared: &dyn Fn(FuncId) -> Option<Vec<Type>>,
) -> Result<Vec<Type>> {
    check_arity(op, operands.len(), regions.len())?;
    let types: Vec<&Type> = operands.iter().map(|v| p.ty(*v)).collect();
    let yields: Vec<Vec<Type>> =
        regions.iter().map(|r| p.region(*r).results.iter().map(|v| p.ty(*v).clone()).collect()).collect();
    match op {
        Op::Literal(v, ty) => {
            if !v.fits(ty.ty) || (v.is_null() && !ty.nullable) {
                return Err(Error::Type(format!("a literal does not fit {ty}")));
            }
            Ok(vec![Type::Scalar(*ty)])
        }
        Op::Col(id) => match column(*id) {
            Some(ty) => Ok(vec![Type::Scalar(ty)]),
            None => Err(Error::Type(format!("column {id} is not visible here"))),
        },
        Op::Scalar(op) => {
            let scalars: Option<Vec<RowType>> = types.iter().map(|t| t.as_scalar()).collect();
            let scalars = scalars.ok_or_else(|| Error::Type("a scalar operation takes scalars".into()))?;
            Ok(vec![Type::Scalar(scalar::result_type(*op, &scalars)?)])
        }
        Op::Input(id) => match &p.input(*id).kind {
            InputKind::Table(_) => Err(Error::Type(format!("{id} is a table: read it by scan"))),
            InputKind::Tensor(t) => Ok(vec![Type::Tensor(t.clone())]),
            InputKind::Scalar(t) => Ok(vec![Type::Scalar(*t)]),
        },
        Op::Rel(op) => op.infer(p, &types, &yields),
        Op::Tensor(op) => op.infer(&types, &yields),
        Op::Bridge(op) => op.infer(&types, &yields),
        Op::Control(ControlOp::Call(f)) => {
            let Some(results) = declared(*f) else { return ControlOp::Call(*f).infer(p, &types, &yields) };
            let params = &p.region(p.func(*f).body).params;
            if params.len() != types.len() || params.iter().zip(&types).any(|(a, b)| p.ty(*a) != *b) {
                return Err(Error::Type(format!("the arguments of {} do not fit", p.func(*f).name)));
            }
            Ok(results)
        }
        Op::Control(op) => op.infer(p, &types, &yields),
    }
}

/// The number of regions that an operation has.
pub fn region_count(op: &Op) -> usize {
    match op {
        Op::Literal(..) | Op::Col(_) | Op::Scalar(_) | Op::Input(_) => 0,
        Op::Rel(op) => match op {
            RelOp::Extend { .. } | RelOp::Filter | RelOp::Join { .. } | RelOp::Recurse { .. } => 1,
            RelOp::DependentJoin { .. } => 2,
            RelOp::Scan { .. }
            | RelOp::Values { .. }
            | RelOp::Project { .. }
            | RelOp::Group { .. }
            | RelOp::Sort { .. }
            | RelOp::Limit { .. }
            | RelOp::Union { .. }
            | RelOp::Window { .. } => 0,
        },
        Op::Tensor(op) => match op {
            TensorOp::Map { .. } => 1,
            TensorOp::Const(_)
            | TensorOp::Iota { .. }
            | TensorOp::Random { .. }
            | TensorOp::Reduce { .. }
            | TensorOp::Prefix { .. }
            | TensorOp::Contract(_)
            | TensorOp::Attend(_)
            | TensorOp::AttendGrad(_)
            | TensorOp::View(_)
            | TensorOp::Gather
            | TensorOp::ScatterAdd
            | TensorOp::Levels { .. }
            | TensorOp::Concat { .. } => 0,
        },
        Op::Bridge(op) => match op {
            BridgeOp::Apply { .. } | BridgeOp::ForBatches { .. } => 1,
            BridgeOp::ToTensor { .. } | BridgeOp::ToTable { .. } | BridgeOp::RowCount => 0,
        },
        Op::Control(op) => match op {
            ControlOp::If | ControlOp::While => 2,
            ControlOp::For { .. } | ControlOp::ForParts { .. } => 1,
            ControlOp::Call(_)
            | ControlOp::TapeNew
            | ControlOp::Push { .. }
            | ControlOp::Pop { .. }
            | ControlOp::AccNew(_)
            | ControlOp::AccAdd
            | ControlOp::AccRows
            | ControlOp::AccRead => 0,
        },
    }
}

/// Whether an operation may have this many operands and regions.
pub fn check_arity(op: &Op, operands: usize, regions: usize) -> Result<()> {
    let exactly = |n: usize| (n, n);
    let (least, most) = match op {
        Op::Literal(..) | Op::Col(_) | Op::Input(_) => exactly(0),
        Op::Scalar(_) => (1, 3),
        Op::Rel(op) => match op {
            RelOp::Scan { .. } | RelOp::Values { .. } => exactly(0),
            RelOp::Join { .. } => exactly(2),
            RelOp::Union { inputs, .. } => exactly(inputs.len().max(1)),
            RelOp::Extend { .. }
            | RelOp::Project { .. }
            | RelOp::Filter
            | RelOp::DependentJoin { .. }
            | RelOp::Group { .. }
            | RelOp::Sort { .. }
            | RelOp::Limit { .. }
            | RelOp::Recurse { .. }
            | RelOp::Window { .. } => exactly(1),
        },
        Op::Tensor(op) => match op {
            TensorOp::Const(_) | TensorOp::Iota { .. } | TensorOp::Random { .. } => exactly(0),
            TensorOp::Map { .. } => (0, usize::MAX),
            TensorOp::Concat { .. } => (1, usize::MAX),
            TensorOp::Levels { .. } => (3, usize::MAX),
            TensorOp::Reduce { .. } | TensorOp::Prefix { .. } | TensorOp::View(_) => exactly(1),
            TensorOp::Contract(_) | TensorOp::Gather => exactly(2),
            TensorOp::ScatterAdd => exactly(3),
            TensorOp::Attend(spec) => exactly(3 + spec.terms.len()),
            TensorOp::AttendGrad(spec) => exactly(4 + spec.terms.len()),
        },
        Op::Bridge(op) => match op {
            BridgeOp::ToTensor { .. } | BridgeOp::Apply { .. } | BridgeOp::RowCount => exactly(1),
            BridgeOp::ToTable { .. } => (1, usize::MAX),
            BridgeOp::ForBatches { sources, .. } => ((*sources).max(1), usize::MAX),
        },
        Op::Control(op) => match op {
            ControlOp::If => exactly(1),
            ControlOp::While | ControlOp::Call(_) => (0, usize::MAX),
            ControlOp::For { state, .. } => (*state, usize::MAX),
            ControlOp::ForParts { .. } => (1, usize::MAX),
            ControlOp::TapeNew | ControlOp::AccNew(_) => exactly(0),
            ControlOp::Push { .. } => (1, usize::MAX),
            ControlOp::Pop { .. } | ControlOp::AccRead => exactly(1),
            ControlOp::AccAdd => exactly(2),
            ControlOp::AccRows => exactly(3),
        },
    };
    if operands < least || operands > most {
        return Err(Error::Type(format!("an operation with {operands} operands, which it cannot have")));
    }
    if regions != region_count(op) {
        return Err(Error::Type(format!("an operation with {regions} regions where it has {}", region_count(op))));
    }
    Ok(())
}

/// See [`Builder::region_entry`].
pub fn region_entry(
    p: &Program,
    op: &Op,
    operands: &[ValueId],
    regions: &[RegionId],
) -> Result<(Vec<Type>, Vec<TableType>)> {
    let types: Vec<&Type> = operands.iter().map(|v| p.ty(*v)).collect();
    let tables = |n: usize| -> Result<Vec<TableType>> {
        let tables: Vec<TableType> = types.iter().take(n).filter_map(|t| t.as_table().cloned()).collect();
        if tables.len() == n { Ok(tables) } else { Err(Error::Type("a row region stands over tables".into())) }
    };
    match op {
        Op::Rel(RelOp::Extend { .. } | RelOp::Filter) => Ok((vec![], tables(1)?)),
        Op::Rel(RelOp::Join { .. }) => Ok((vec![], tables(2)?)),
        Op::Rel(RelOp::Recurse { working, columns, .. }) => {
            Ok((vec![Type::Table(working_type(working, columns))], vec![]))
        }
        Op::Rel(RelOp::DependentJoin { .. }) => {
            let mut tables = tables(1)?;
            if let Some(right) = regions.first() {
                let results = &p.region(*right).results;
                let right = results.first().and_then(|v| p.ty(*v).as_table());
                let right =
                    right.ok_or_else(|| Error::Type("the first region of a dependent join yields one table".into()))?;
                tables.push(right.clone());
            }
            Ok((vec![], tables))
        }
        Op::Tensor(TensorOp::Map { .. }) => {
            let params = types.iter().map(|t| match t.as_tensor() {
                Some(t) => Ok(Type::Scalar(t.dtype.nullable(false))),
                None => Err(Error::Type("map takes tensors".into())),
            });
            Ok((params.collect::<Result<_>>()?, vec![]))
        }
        Op::Bridge(op) => Ok((op.region_params(&types)?, vec![])),
        Op::Control(op) => Ok((op.region_params(&types)?, vec![])),
        Op::Literal(..) | Op::Col(_) | Op::Scalar(_) | Op::Input(_) | Op::Rel(_) | Op::Tensor(_) => {
            Ok((vec![], vec![]))
        }
    }
}
