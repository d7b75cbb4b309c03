//! Values of row regions.
//!
//! A value is evaluated where it is first wanted and remembered for the code that this place dominates; so an expression that
//! no row needs costs nothing, and one that can raise runs only where its value is used. Columns are loaded the same way.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use runtime::abi::RuntimeFn;
use runtime::column::{Column, Encoding};

use super::context::{Axis, Context, Slot};
use super::scalar::math_function;
use crate::entity::{ColumnId, InputId, RegionId, ValueId};
use crate::error::{Error, Result};
use crate::graph::{ControlOp, Op, Program};
use crate::kernel::{self, BinaryOp, Builder, Cmp, Type as K};
use crate::plan::bounds::{Range, stats_range};
use crate::plan::split::value_columns;
use crate::plan::{Field, FieldKind, register_type};
use crate::scalar::reduce::Reducer;
use crate::scalar::{self, NullRule, ScalarOp};
use crate::types::{RowType, ScalarType};
use crate::value::Value;

/// A dictionary code: the input, the column's position, the code (I32), and the valid flag.
pub type Code = (InputId, u32, kernel::Value, Option<kernel::Value>);

/// A scalar in registers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Cell {
    /// The value; some harmless value where NULL.
    pub value: kernel::Value,
    /// 1 where not NULL; none where never NULL.
    pub valid: Option<kernel::Value>,
    /// The type.
    pub ty: ScalarType,
    /// Bounds that every value obeys, where they are proven (integers, decimals unscaled, dates).
    pub range: Range,
}

/// What the environment knows of a column.
#[derive(Clone, Debug)]
pub enum Binding {
    /// In registers.
    Cell(Cell),
    /// Row `index` of an input's column.
    Scan {
        /// The input.
        input: InputId,
        /// The column's position.
        source: u32,
        /// The row, I64.
        index: kernel::Value,
    },
    /// A dictionary code in registers.
    Code {
        /// The input.
        input: InputId,
        /// The column's position.
        source: u32,
        /// The code, I32.
        code: kernel::Value,
        /// As in [`Cell`].
        valid: Option<kernel::Value>,
    },
    /// A field of a row record.
    Field {
        /// The record's address.
        row: kernel::Value,
        /// The field.
        field: Field,
        /// 0 where there is no record (an outer join's missing partner): the field is NULL then.
        present: Option<kernel::Value>,
    },
    /// A value of a region, evaluated on demand.
    Lazy(ValueId),
    /// The result of a reducer over the state fields of a group's record.
    Reduced {
        /// The record's address.
        row: kernel::Value,
        /// The reducer.
        reducer: Reducer,
        /// Its argument's type.
        arg: Option<RowType>,
        /// The state's fields.
        fields: Vec<Field>,
        /// The result's type.
        ty: RowType,
    },
    /// NULL.
    Null(ScalarType),
}

/// What is known at a place in the code. Cloned for code that runs only sometimes.
#[derive(Clone, Default)]
pub struct Env {
    /// Columns.
    pub columns: HashMap<ColumnId, Binding>,
    /// Values of regions.
    pub values: HashMap<ValueId, Cell>,
}

/// What lowering asks of the inputs.
pub trait Inputs {
    /// A column of an input.
    fn column(&self, input: InputId, source: u32) -> Result<Arc<Column>>;
}

/// Lowers values of one function.
pub struct RowLower<'a> {
    /// The program.
    pub p: &'a Program,
    /// The inputs.
    pub inputs: &'a dyn Inputs,
    /// The function.
    pub b: Builder,
    /// Slots.
    pub context: &'a mut Context,
    /// The context's address.
    pub ctx: kernel::Value,
    /// The worker block's address.
    pub worker: kernel::Value,
    /// The area of host calls, where there is one.
    pub area: Option<kernel::Value>,
    /// Rows that the function may be run for, as far as known: a table of values has to pay for itself.
    pub rows: usize,
}

/// A dictionary may have this many values for an expression to be evaluated over all of them.
pub(super) const DICTIONARY_MAP_LIMIT: usize = 16 << 10;

/// Combinations of integers that an expression may be evaluated over: the results stay in the first-level cache.
const DOMAIN_LIMIT: usize = 2 << 10;
/// Rows for which one combination is evaluated.
const DOMAIN_ROWS: usize = 64;

/// Where the marks of a map over a dictionary begin, behind its values: a byte for each, 1 where the expression raises.
pub(crate) fn map_marks(values: usize, register: K) -> usize {
    (values * register.bytes() as usize).next_multiple_of(16)
}

impl RowLower<'_> {
    /// The content of a slot of the context.
    pub fn slot(&mut self, slot: Slot) -> kernel::Value {
        let index = self.context.slot(slot);
        self.b.load_always(K::Ptr, self.ctx, (index * 8) as i32)
    }

    /// A column's value.
    pub fn column(&mut self, id: ColumnId, env: &mut Env) -> Result<Cell> {
        let binding = env.columns.get(&id).cloned().ok_or_else(|| Error::Bug(format!("{id} is not bound")))?;
        let cell = match binding {
            Binding::Cell(cell) => return Ok(cell),
            Binding::Lazy(v) => self.value(v, env)?,
            Binding::Null(ty) => self.null(ty),
            Binding::Reduced { row, reducer, arg, fields, ty } => {
                let state: Vec<kernel::Value> = fields.iter().map(|f| self.load_field(row, f, None).0).collect();
                self.reduce_finish(reducer, arg, &state, ty)?
            }
            Binding::Scan { input, source, index } => {
                let column = self.inputs.column(input, source)?;
                if matches!(column.encoding(), Encoding::Dictionary) {
                    let (code, valid) = self.load_code(&column, input, source, index);
                    env.columns.insert(id, Binding::Code { input, source, code, valid });
                    return self.column(id, env);
                }
                self.load_scan(&column, input, source, index)?
            }
            Binding::Code { input, source, code, valid } => {
                let base = self.slot(Slot::Dictionary(input, source));
                let code = self.b.zext(code, K::I64);
                let at = self.b.offset(base, code, 16, 0);
                let value = self.b.load_readonly(K::I128, at, 0);
                // The code stays: hashing and maps want it.
                return Ok(Cell { value, valid, ty: ScalarType::Text, range: None });
            }
            Binding::Field { row, field, present } => {
                let (value, valid) = self.load_field(row, &field, present);
                if let FieldKind::Code { input, source } = field.kind {
                    env.columns.insert(id, Binding::Code { input, source, code: value, valid });
                    return self.column(id, env);
                }
                Cell { value, valid, ty: field.ty.ty, range: field.bounds }
            }
        };
        env.columns.insert(id, Binding::Cell(cell));
        Ok(cell)
    }

    /// A column's dictionary code, if it is bound to one of this dictionary.
    pub fn code(&mut self, id: ColumnId, env: &mut Env) -> Result<Option<Code>> {
        if let Some(Binding::Scan { input, source, .. }) = env.columns.get(&id)
            && !matches!(self.inputs.column(*input, *source)?.encoding(), Encoding::Dictionary)
        {
            return Ok(None);
        }
        if let Some(Binding::Field { field, .. }) = env.columns.get(&id)
            && field.kind == FieldKind::Value
        {
            return Ok(None);
        }
        match env.columns.get(&id).cloned() {
            // The text behind the code is not needed.
            Some(Binding::Scan { input, source, index }) => {
                let column = self.inputs.column(input, source)?;
                let (code, valid) = self.load_code(&column, input, source, index);
                env.columns.insert(id, Binding::Code { input, source, code, valid });
            }
            Some(Binding::Field { row, field, present }) => {
                if let FieldKind::Code { input, source } = field.kind {
                    let (code, valid) = self.load_field(row, &field, present);
                    env.columns.insert(id, Binding::Code { input, source, code, valid });
                }
            }
            _ => {}
        }
        match env.columns.get(&id) {
            Some(&Binding::Code { input, source, code, valid }) => Ok(Some((input, source, code, valid))),
            _ => Ok(None),
        }
    }

    /// A column's code among those of a column `to` of an input; -1 for a text that it does not have.
    pub(super) fn code_among(&mut self, id: ColumnId, to: (InputId, u32), env: &mut Env) -> Result<Cell> {
        let code = self.code(id, env)?;
        let (input, source, code, valid) = code.ok_or_else(|| Error::Bug(format!("{id} is no code")))?;
        let dictionary = |c: &Column| {
            c.dictionary().cloned().ok_or_else(|| Error::Bug(format!("{id} is a code without a dictionary")))
        };
        let of = dictionary(&*self.inputs.column(input, source)?)?;
        let among = dictionary(&*self.inputs.column(to.0, to.1)?)?;
        let last = among.len() as i128 - 1;
        if Arc::ptr_eq(&of, &among) {
            return Ok(Cell { value: code, valid, ty: ScalarType::I32, range: Some((0, last)) });
        }
        let base = self.slot(Slot::CodeMap { from: (input, source), to });
        let index = self.b.zext(code, K::I64);
        let at = self.b.offset(base, index, 4, 0);
        let value = self.b.load_readonly(K::I32, at, 0);
        Ok(Cell { value, valid, ty: ScalarType::I32, range: Some((-1, last)) })
    }

    fn load_valid(
        &mut self,
        column: &Column,
        input: InputId,
        source: u32,
        index: kernel::Value,
    ) -> Option<kernel::Value> {
        column.validity().map(|_| {
            let base = self.slot(Slot::ColumnValid(input, source));
            let at = self.b.offset(base, index, 1, 0);
            self.b.load_readonly(K::I8, at, 0)
        })
    }

    fn load_code(
        &mut self,
        column: &Column,
        input: InputId,
        source: u32,
        index: kernel::Value,
    ) -> (kernel::Value, Option<kernel::Value>) {
        let base = self.slot(Slot::ColumnData(input, source));
        let width = column.physical().bytes() as i64;
        let at = self.b.offset(base, index, width, 0);
        let ty = [K::I8, K::I16, K::I32][width.ilog2() as usize];
        let code = self.b.load_readonly(ty, at, 0);
        let code = if ty == K::I32 { code } else { self.b.zext(code, K::I32) };
        (code, self.load_valid(column, input, source, index))
    }

    fn load_scan(&mut self, column: &Column, input: InputId, source: u32, index: kernel::Value) -> Result<Cell> {
        let ty = self.input_type(input, source)?.ty;
        let base = self.slot(Slot::ColumnData(input, source));
        let width = column.physical().bytes() as i64;
        let at = self.b.offset(base, index, width, 0);
        let register = register_type(ty);
        let value = match column.encoding() {
            Encoding::Narrowed { base: reference } => {
                let narrow = [K::I8, K::I16, K::I32, K::I64][width.ilog2() as usize];
                let v = self.b.load_readonly(narrow, at, 0);
                // Narrowed values may pass the register's range before the base is added: add in 64 bits.
                let wide = if narrow == K::I64 { v } else { self.b.sext(v, K::I64) };
                let wide = self.b.add_imm(wide, reference);
                match register {
                    K::I64 => wide,
                    K::I128 => self.b.sext(wide, K::I128),
                    _ => self.b.trunc(wide, register),
                }
            }
            Encoding::Plain | Encoding::Dictionary => {
                let stored = match (register, width) {
                    (K::I128, 8) => K::I64,
                    (K::I64, 16) => K::I128,
                    _ => register,
                };
                let v = self.b.load_readonly(stored, at, 0);
                match (stored, register) {
                    (K::I64, K::I128) => self.b.sext(v, K::I128),
                    (K::I128, K::I64) => self.b.trunc(v, K::I64),
                    _ => v,
                }
            }
        };
        let range = stats_range(column.stats());
        Ok(Cell { value, valid: self.load_valid(column, input, source, index), ty, range })
    }

    fn input_type(&self, input: InputId, source: u32) -> Result<RowType> {
        match &self.p.input(input).kind {
            crate::graph::InputKind::Table(columns) => Ok(columns[source as usize].ty),
            _ => Err(Error::Bug(format!("{input} is not a table"))),
        }
    }

    /// A field's value and valid flag.
    pub fn load_field(
        &mut self,
        row: kernel::Value,
        field: &Field,
        present: Option<kernel::Value>,
    ) -> (kernel::Value, Option<kernel::Value>) {
        let Some(present) = present else {
            let value = self.load_stored(row, field);
            let valid = field.valid.map(|at| self.b.load(K::I8, row, at as i32));
            return (value, valid);
        };
        // No record, no load.
        let ty = field.register();
        self.b.begin_if(present, &[ty, K::I8]);
        let value = self.load_stored(row, field);
        let valid = match field.valid {
            Some(at) => self.b.load(K::I8, row, at as i32),
            None => self.b.bool_const(true),
        };
        self.b.begin_else(&[value, valid]);
        let zero = self.zero(ty);
        let no = self.b.bool_const(false);
        let out = self.b.end_if(&[zero, no]);
        (out[0], Some(out[1]))
    }

    /// A field's value in its register.
    fn load_stored(&mut self, row: kernel::Value, field: &Field) -> kernel::Value {
        let value = self.b.load(field.stored, row, field.offset as i32);
        if field.stored == field.register() { value } else { self.b.sext(value, field.register()) }
    }

    /// Stores a cell to a field; the field is nullable where the cell is.
    pub fn store_field(&mut self, cell: &Cell, row: kernel::Value, field: &Field) -> Result<()> {
        let value = self.to_register(cell, field.register())?;
        let value = if field.stored == field.register() { value } else { self.b.trunc(value, field.stored) };
        self.b.store(value, row, field.offset as i32);
        if let Some(at) = field.valid {
            let valid = self.valid_flag(cell);
            self.b.store(valid, row, at as i32);
        }
        Ok(())
    }

    /// The value in another integer width: decimals are held in 64 or 128 bits.
    pub fn to_register(&mut self, cell: &Cell, want: K) -> Result<kernel::Value> {
        let have = self.b.ty(cell.value);
        match (have, want) {
            _ if have == want => Ok(cell.value),
            (K::I64, K::I128) => Ok(self.b.sext(cell.value, K::I128)),
            (K::I128, K::I64) => Ok(self.b.trunc(cell.value, K::I64)),
            _ => Err(Error::Bug(format!("a {have} where a {want} is stored"))),
        }
    }

    /// The zero of a register type.
    pub fn zero(&mut self, ty: K) -> kernel::Value {
        self.b.constant(ty, 0)
    }

    /// A NULL.
    pub fn null(&mut self, ty: ScalarType) -> Cell {
        let value = self.zero(register_type(ty));
        let valid = Some(self.b.bool_const(false));
        Cell { value, valid, ty, range: Some((0, 0)).filter(|_| ty != ScalarType::Text) }
    }

    /// 1 where the cell is not NULL.
    pub fn valid_flag(&mut self, cell: &Cell) -> kernel::Value {
        cell.valid.unwrap_or_else(|| self.b.bool_const(true))
    }

    /// 1 where a boolean cell is true, 0 where it is false or NULL.
    pub fn is_true(&mut self, cell: &Cell) -> kernel::Value {
        match cell.valid {
            Some(valid) => self.b.and(cell.value, valid),
            None => cell.value,
        }
    }

    /// A region's value in this environment.
    pub fn value(&mut self, v: ValueId, env: &mut Env) -> Result<Cell> {
        if let Some(cell) = env.values.get(&v) {
            return Ok(*cell);
        }
        let p = self.p;
        let node =
            p.node_of(v).ok_or_else(|| Error::Unsupported("a parameter of a function in a row expression".into()))?;
        let ty = p.ty(v).as_scalar().ok_or_else(|| Error::Unsupported("a tensor in a row expression".into()))?;
        let cell = match &node.op {
            Op::Literal(value, ty) => self.literal(value, ty.ty)?,
            Op::Col(id) => return self.column(*id, env),
            Op::Input(id) => self.param(*id, ty)?,
            Op::Scalar(_) => {
                let known = match self.dictionary_map(v, env)? {
                    None => self.domain_map(v, env)?,
                    found => found,
                };
                match known {
                    Some(cell) => cell,
                    None => self.evaluated(v, env)?,
                }
            }
            Op::Control(ControlOp::If) => {
                let index = node.results.iter().position(|r| *r == v).unwrap_or(0);
                self.branch(node.operands[0], node.regions[0], node.regions[1], index, ty, env)?
            }
            other => return Err(Error::Unsupported(format!("{other:?} in a row expression"))),
        };
        env.values.insert(v, cell);
        Ok(cell)
    }

    /// A scalar operation's value, from its operands.
    fn evaluated(&mut self, v: ValueId, env: &mut Env) -> Result<Cell> {
        let p = self.p;
        let (Some(node), Some(ty)) = (p.node_of(v), p.ty(v).as_scalar()) else {
            return Err(Error::Bug(format!("{v} is no scalar operation")));
        };
        let Op::Scalar(op) = node.op else { return Err(Error::Bug(format!("{v} is no scalar operation"))) };
        if op == ScalarOp::Like
            && let Some(Op::Literal(Value::Text(pattern), _)) = p.node_of(node.operands[1]).map(|n| &n.op)
        {
            let text = self.value(node.operands[0], env)?;
            return self.like(&text, pattern);
        }
        let mut args = Vec::with_capacity(node.operands.len());
        for &o in &node.operands {
            args.push(self.value(o, env)?);
        }
        self.scalar(op, &args, ty, node.place)
    }

    fn branch(
        &mut self,
        condition: ValueId,
        then: RegionId,
        other: RegionId,
        index: usize,
        ty: RowType,
        env: &mut Env,
    ) -> Result<Cell> {
        let register = register_type(ty.ty);
        let types: &[K] = if ty.nullable { &[register, K::I8] } else { &[register] };
        let holds = self.value(condition, env)?;
        let holds = self.is_true(&holds);
        let mut there = env.clone();
        // What was found not to be NULL is known not to be.
        if let Some(node) = self.p.node_of(condition)
            && node.op == Op::Scalar(ScalarOp::IsNotNull)
        {
            let cell = self.value(node.operands[0], env)?;
            there.values.insert(node.operands[0], Cell { valid: None, ..cell });
        }
        let one = |s: &mut Self, region: RegionId, mut inner: Env| -> Result<(Vec<kernel::Value>, Range)> {
            let cell = s.value(s.p.region(region).results[index], &mut inner)?;
            let value = s.to_register(&cell, register)?;
            let mut out = vec![value];
            if ty.nullable {
                out.push(s.valid_flag(&cell));
            }
            Ok((out, cell.range))
        };
        self.b.begin_if(holds, types);
        let (a, ra) = one(self, then, there)?;
        self.b.begin_else(&a);
        let (c, rc) = one(self, other, env.clone())?;
        let out = self.b.end_if(&c);
        let range = ra.zip(rc).map(|(a, c)| (a.0.min(c.0), a.1.max(c.1)));
        Ok(Cell { value: out[0], valid: ty.nullable.then(|| out[1]), ty: ty.ty, range })
    }

    /// A constant.
    pub fn literal(&mut self, v: &Value, ty: ScalarType) -> Result<Cell> {
        let register = register_type(ty);
        let integer = |s: &mut Self, n: i128| {
            let value = s.b.iconst128(register, n);
            Cell { value, valid: None, ty, range: Some((n, n)) }
        };
        Ok(match v {
            Value::Null => self.null(ty),
            Value::Bool(x) => integer(self, i128::from(*x)),
            Value::I32(x) | Value::Date(x) => integer(self, i128::from(*x)),
            Value::I64(x) | Value::Timestamp(x) => integer(self, i128::from(*x)),
            Value::Decimal(x) => integer(self, *x),
            Value::F32(x) => {
                let value = self.b.constant(K::F32, u128::from(x.to_bits()));
                Cell { value, valid: None, ty, range: None }
            }
            Value::F64(x) => {
                let value = self.b.constant(K::F64, u128::from(x.to_bits()));
                Cell { value, valid: None, ty, range: None }
            }
            Value::Text(text) => {
                let value = if text.len() <= 12 {
                    let mut bytes = [0u8; 16];
                    bytes[..4].copy_from_slice(&(text.len() as u32).to_le_bytes());
                    bytes[4..4 + text.len()].copy_from_slice(text.as_bytes());
                    self.b.constant(K::I128, u128::from_le_bytes(bytes))
                } else {
                    let at = self.slot(Slot::Text(text.clone()));
                    self.b.load_readonly(K::I128, at, 0)
                };
                Cell { value, valid: None, ty, range: None }
            }
        })
    }

    fn param(&mut self, id: InputId, ty: RowType) -> Result<Cell> {
        let at = self.slot(Slot::Param(id));
        let value = self.b.load_readonly(register_type(ty.ty), at, 0);
        let valid = ty.nullable.then(|| self.b.load_readonly(K::I8, at, 16));
        Ok(Cell { value, valid, ty: ty.ty, range: None })
    }

    /// An expression over one dictionary column is evaluated once for each value of the dictionary, before the run. Where it
    /// can raise, the values for which it does are marked, and a row with one of them evaluates the expression to raise itself.
    fn dictionary_map(&mut self, v: ValueId, env: &mut Env) -> Result<Option<Cell>> {
        let Some((id, raises)) = self.dictionary_expression(v) else { return Ok(None) };
        let Some((input, source, code, valid)) = self.code(id, env)? else { return Ok(None) };
        let column = self.inputs.column(input, source)?;
        let Some(values) = column.dictionary().map(|d| d.len()).filter(|n| *n <= DICTIONARY_MAP_LIMIT) else {
            return Ok(None);
        };
        let ty = self.p.ty(v).as_scalar().map(|t| t.ty).ok_or_else(|| Error::Bug("a map yields a scalar".into()))?;
        let register = register_type(ty);
        let base = self.slot(Slot::DictionaryMap(input, source, v));
        let index = self.b.zext(code, K::I64);
        let at = self.b.offset(base, index, i64::from(register.bytes()), 0);
        if !raises {
            let value = self.b.load_readonly(register, at, 0);
            return Ok(Some(Cell { value, valid, ty, range: None }));
        }
        let mark = self.b.offset(base, index, 1, map_marks(values, register) as i64);
        let marked = self.b.load_readonly(K::I8, mark, 0);
        let wanted = match valid {
            Some(valid) => self.b.and(marked, valid),
            None => marked,
        };
        self.b.begin_if(wanted, &[register]);
        let cell = self.evaluated(v, &mut env.clone())?;
        let raising = self.to_register(&cell, register)?;
        self.b.begin_else(&[raising]);
        let value = self.b.load_readonly(register, at, 0);
        let value = self.b.end_if(&[value])[0];
        Ok(Some(Cell { value, valid, ty, range: None }))
    }

    /// An expression that calls functions, over integers of few combinations, is evaluated once for each of them before the run.
    fn domain_map(&mut self, v: ValueId, env: &mut Env) -> Result<Option<Cell>> {
        let mut columns = BTreeSet::new();
        if self.rows < DOMAIN_ROWS || !self.is_mapped(v, &mut columns).unwrap_or(false) {
            return Ok(None);
        }
        let mut number = self.b.iconst(K::I64, 0);
        let (mut axes, mut all) = (vec![], 1usize);
        for id in columns {
            let cell = self.column(id, env)?;
            let (None, Some((least, greatest))) = (cell.valid, cell.range) else { return Ok(None) };
            let size = (greatest - least + 1).try_into().ok().filter(|size| *size <= DOMAIN_LIMIT);
            let (Some(size), Ok(least)) = (size, i64::try_from(least)) else { return Ok(None) };
            all *= size;
            if all > DOMAIN_LIMIT || all > self.rows / DOMAIN_ROWS {
                return Ok(None);
            }
            let wide = self.b.sext(cell.value, K::I64);
            let at = self.b.add_imm(wide, least.wrapping_neg());
            let size_of = self.b.iconst(K::I64, size as i64);
            number = self.b.mul(number, size_of);
            number = self.b.add(number, at);
            axes.push(Axis { column: id, least, size });
        }
        let ty = self.p.ty(v).as_scalar().map(|t| t.ty).ok_or_else(|| Error::Bug("a map yields a scalar".into()))?;
        let register = register_type(ty);
        let base = self.slot(Slot::DomainMap(v, axes));
        let at = self.b.offset(base, number, i64::from(register.bytes()), 0);
        let value = self.b.load_readonly(register, at, 0);
        Ok(Some(Cell { value, valid: None, ty, range: None }))
    }

    /// Whether a function is called for a value; none where it depends on more than integer columns and literals, or may be NULL
    /// or raise. Notes the columns.
    fn is_mapped(&self, v: ValueId, columns: &mut BTreeSet<ColumnId>) -> Option<bool> {
        let node = self.p.node_of(v)?;
        let ty = self.p.ty(v).as_scalar()?;
        match &node.op {
            Op::Literal(value, _) => (!value.is_null()).then_some(false),
            Op::Col(id) => {
                columns.insert(*id);
                let integer = matches!(ty.ty, ScalarType::I32 | ScalarType::I64) && !ty.nullable;
                integer.then_some(false)
            }
            Op::Scalar(op) => {
                let types: Vec<ScalarType> =
                    node.operands.iter().filter_map(|o| self.p.ty(*o).as_scalar().map(|t| t.ty)).collect();
                let plain = scalar::def(*op).null == NullRule::Strict && !scalar::can_raise(*op, &types);
                plain.then_some(())?;
                let own = types.first().is_some_and(|ty| math_function(*op, *ty).is_some());
                node.operands.iter().try_fold(own, |any, o| Some(self.is_mapped(*o, columns)? || any))
            }
            _ => None,
        }
    }

    /// The column, if the expression is strict, cannot raise, and depends on one text column and literals only.
    pub(super) fn only_dictionary_column(&self, v: ValueId) -> Option<ColumnId> {
        self.dictionary_expression(v).filter(|(_, raises)| !raises).map(|(id, _)| id)
    }

    /// The column, if the expression is strict and depends on one text column and literals only, and whether it can raise.
    fn dictionary_expression(&self, v: ValueId) -> Option<(ColumnId, bool)> {
        /// Whether it can raise; none where it is not strict.
        fn raises(p: &Program, v: ValueId) -> Option<bool> {
            let node = p.node_of(v)?;
            match &node.op {
                Op::Literal(value, _) => (!value.is_null()).then_some(false),
                Op::Col(_) => p.ty(v).as_scalar().is_some_and(|t| t.ty == ScalarType::Text).then_some(false),
                Op::Scalar(op) => {
                    let types: Vec<ScalarType> =
                        node.operands.iter().filter_map(|o| p.ty(*o).as_scalar().map(|t| t.ty)).collect();
                    // Kleene's operations of NULLs alone give NULL; beside a literal they may not.
                    let literal = |o: &ValueId| matches!(p.node_of(*o).map(|n| &n.op), Some(Op::Literal(..)));
                    let kleene = scalar::def(*op).null == NullRule::Kleene && !node.operands.iter().any(literal);
                    (scalar::def(*op).null == NullRule::Strict || kleene).then_some(())?;
                    let own = scalar::can_raise(*op, &types) && !literal_substring(p, node);
                    node.operands.iter().try_fold(own, |all, o| Some(raises(p, *o)? || all))
                }
                _ => None,
            }
        }
        /// A substring with a literal length that is not negative cannot raise.
        fn literal_substring(p: &Program, node: &crate::graph::Node) -> bool {
            node.op == Op::Scalar(ScalarOp::Substring)
                && matches!(p.node_of(node.operands[2]).map(|n| &n.op), Some(Op::Literal(Value::I64(n), _)) if *n >= 0)
        }
        let raises = raises(self.p, v)?;
        let mut columns = BTreeSet::new();
        value_columns(self.p, v, &mut columns);
        let mut columns = columns.into_iter();
        columns.next().filter(|_| columns.next().is_none()).map(|id| (id, raises))
    }

    // ---- keys ----

    /// A hash of keys: equal keys (NULL equals NULL) have equal hashes.
    pub fn hash(&mut self, keys: &[Cell]) -> Result<kernel::Value> {
        let mut h = self.b.iconst(K::I64, HASH_SEED);
        for key in keys {
            let words = self.hash_words(key)?;
            for mut w in words {
                if let Some(valid) = key.valid {
                    let null = self.b.iconst(K::I64, HASH_NULL);
                    w = self.b.select(valid, w, null);
                }
                h = self.mix(h, w);
            }
        }
        let shift = self.b.iconst(K::I64, 29);
        let high = self.b.ushr(h, shift);
        let h = self.b.xor(h, high);
        let m = self.b.iconst(K::I64, HASH_FINISH);
        Ok(self.b.mul(h, m))
    }

    fn mix(&mut self, h: kernel::Value, w: kernel::Value) -> kernel::Value {
        let x = self.b.xor(h, w);
        let m = self.b.iconst(K::I64, HASH_MULTIPLY);
        let x = self.b.mul(x, m);
        let shift = self.b.iconst(K::I64, 32);
        let high = self.b.ushr(x, shift);
        self.b.xor(x, high)
    }

    fn hash_words(&mut self, key: &Cell) -> Result<Vec<kernel::Value>> {
        Ok(match self.b.ty(key.value) {
            K::I8 | K::I16 | K::I32 => vec![self.b.sext(key.value, K::I64)],
            K::I64 => vec![key.value],
            K::I128 if key.ty == ScalarType::Text => {
                let (lo, hi) = (self.b.lo64(key.value), self.b.hi64(key.value));
                let seed = self.b.iconst(K::I64, HASH_SEED);
                let h = self.b.call(RuntimeFn::TextHash, &[seed, lo, hi]);
                vec![h.ok_or_else(|| Error::Bug("text_hash has a result".into()))?]
            }
            K::I128 => vec![self.b.lo64(key.value), self.b.hi64(key.value)],
            ty @ (K::F32 | K::F64) => {
                // -0 becomes 0, and every NaN one NaN.
                let zero = self.b.fconst(ty, 0.0);
                let v = self.b.fadd(key.value, zero);
                let nan = self.b.fconst(ty, f64::NAN);
                let is_nan = self.b.fcmp(Cmp::Ne, v, v);
                let v = self.b.select(is_nan, nan, v);
                if ty == K::F32 {
                    let bits = self.b.bitcast(v, K::I32);
                    vec![self.b.zext(bits, K::I64)]
                } else {
                    vec![self.b.bitcast(v, K::I64)]
                }
            }
            K::Ptr => return Err(Error::Bug("an address is no key".into())),
        })
    }

    /// 1 where two cells of one type are equal; NULL equals NULL if asked, else a NULL equals nothing.
    pub fn equal(&mut self, a: &Cell, c: &Cell, null_equal: bool) -> Result<kernel::Value> {
        let bare = |x: &Cell| Cell { valid: None, ..*x };
        let same = self.scalar(ScalarOp::Eq, &[bare(a), bare(c)], ScalarType::Bool.nullable(false), None)?.value;
        if a.valid.is_none() && c.valid.is_none() {
            return Ok(same);
        }
        let (va, vc) = (self.valid_flag(a), self.valid_flag(c));
        let both = self.b.and(va, vc);
        let equal = self.b.and(same, both);
        if !null_equal {
            return Ok(equal);
        }
        let any = self.b.binary(BinaryOp::Or, va, vc);
        let neither = self.b.bool_not(any);
        Ok(self.b.binary(BinaryOp::Or, equal, neither))
    }
}

// Odd constants with many bits: 2^64 divided by the golden ratio, and two of the finalizers of MurmurHash3.
const HASH_SEED: i64 = 0x9e37_79b9_7f4a_7c15u64 as i64;
const HASH_MULTIPLY: i64 = 0xff51_afd7_ed55_8ccdu64 as i64;
const HASH_FINISH: i64 = 0xc4ce_b9fe_1a85_ec53u64 as i64;
const HASH_NULL: i64 = 0x5851_f42d_4c95_7f2du64 as i64;
