//! Between what people hand in and what code reads: parameters, dictionaries' maps, rows of results, traps.

use std::collections::HashMap;
use std::sync::Arc;

use runtime::buffer;
use runtime::column::{Column, ColumnKind, TextView};
use runtime::pool::QueryMemory;
use runtime::trap::{Trap as RuntimeTrap, TrapCode};

use crate::entity::{ColumnId, InputId, PlaceId, ValueId};
use crate::error::{Error, Result, Trap, TrapKind};
use crate::graph::{ColumnInfo, Op, Program};
use crate::lower::context::Axis;
use crate::lower::rel::COLUMN_LOCATION;
use crate::lower::row::map_marks;
use crate::lower::scalar::{HOST_AREA, HOST_SLOT, HostOp};
use crate::plan::{Field, FieldKind, register_type};
use crate::scalar;
use crate::types::ScalarType;
use crate::value::{TensorData, TensorValue, Value};

/// A value as registers hold it: low and high word.
pub(super) fn words(v: &Value, text: &mut Vec<Arc<str>>) -> (u64, u64) {
    let wide = |x: i128| (x as u64, (x >> 64) as u64);
    match v {
        Value::Null => (0, 0),
        Value::Bool(x) => (u64::from(*x), 0),
        Value::I32(x) | Value::Date(x) => wide(i128::from(*x)),
        Value::I64(x) | Value::Timestamp(x) => wide(i128::from(*x)),
        Value::Decimal(x) => wide(*x),
        Value::F32(x) => (u64::from(x.to_bits()), 0),
        Value::F64(x) => (x.to_bits(), 0),
        Value::Text(t) => {
            text.push(Arc::clone(t));
            // SAFETY: the bytes belong to the `Arc` that the caller keeps.
            unsafe { TextView::from_raw_bytes(t.as_ptr(), t.len()) }.to_words()
        }
    }
}

/// A value from registers' words.
///
/// # Safety
/// A text view's bytes are alive.
pub(super) unsafe fn value_of_words(ty: ScalarType, lo: u64, hi: u64) -> Value {
    match ty {
        ScalarType::Bool => Value::Bool(lo as u8 != 0),
        ScalarType::I32 => Value::I32(lo as i32),
        ScalarType::Date => Value::Date(lo as i32),
        ScalarType::I64 => Value::I64(lo as i64),
        ScalarType::Timestamp => Value::Timestamp(lo as i64),
        ScalarType::F32 => Value::F32(f32::from_bits(lo as u32)),
        ScalarType::F64 => Value::F64(f64::from_bits(lo)),
        ScalarType::Decimal { precision, .. } if precision <= 18 => Value::Decimal(i128::from(lo as i64)),
        ScalarType::Decimal { .. } => Value::Decimal((u128::from(hi) << 64 | u128::from(lo)) as i128),
        // SAFETY: promised by the caller.
        ScalarType::Text => Value::Text(unsafe { TextView::from_words(lo, hi).as_str() }.into()),
    }
}

/// The results of an expression over a dictionary, in register type.
pub(super) struct Mapped {
    bytes: Vec<u128>,
    _texts: Vec<Arc<str>>,
}

impl Mapped {
    fn new(bytes: &[u8], texts: Vec<Arc<str>>) -> Self {
        let words = bytes.chunks(16).map(|c| {
            let mut word = [0u8; 16];
            word[..c.len()].copy_from_slice(c);
            u128::from_le_bytes(word)
        });
        Self { bytes: words.collect(), _texts: texts }
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr().cast()
    }
}

/// Evaluates an expression over one dictionary column for each of its values; it is strict. Behind the values stand marks: 1
/// where it raises.
pub(super) fn map_dictionary(p: &Program, v: ValueId, column: &Column) -> Result<Mapped> {
    let dictionary = column.dictionary().ok_or_else(|| Error::Bug("a map is over a dictionary".into()))?;
    let ty = p.ty(v).as_scalar().ok_or_else(|| Error::Bug("a map yields a scalar".into()))?.ty;
    let width = register_type(ty).bytes() as usize;
    let marks = map_marks(dictionary.len(), register_type(ty));
    let mut bytes = vec![0u8; marks + dictionary.len()];
    let mut texts = vec![];
    for code in 0..dictionary.len() {
        let value = match evaluate(p, v, &|_| Ok(Value::Text(dictionary.get(code).into()))) {
            Ok(value) => value,
            Err(Error::Trap(_)) => {
                bytes[marks + code] = 1;
                continue;
            }
            Err(e) => return Err(e),
        };
        let (lo, hi) = words(&value, &mut texts);
        let all = [lo.to_le_bytes(), hi.to_le_bytes()].concat();
        bytes[code * width..][..width].copy_from_slice(&all[..width]);
    }
    Ok(Mapped::new(&bytes, texts))
}

/// Evaluates an expression over integer columns for all combinations of their values; it is strict and cannot raise.
pub(super) fn map_domain(p: &Program, v: ValueId, axes: &[Axis]) -> Result<Mapped> {
    let ty = p.ty(v).as_scalar().ok_or_else(|| Error::Bug("a map yields a scalar".into()))?.ty;
    let width = register_type(ty).bytes() as usize;
    let all: usize = axes.iter().map(|a| a.size).product();
    let mut bytes = Vec::with_capacity(all * width);
    let mut texts = vec![];
    for number in 0..all {
        let value = evaluate(p, v, &|id| {
            let at = axes.iter().position(|a| a.column == id);
            let at = at.ok_or_else(|| Error::Bug(format!("{id} is no axis of the map")))?;
            let below: usize = axes[at + 1..].iter().map(|a| a.size).product();
            let value = axes[at].least + (number / below % axes[at].size) as i64;
            Ok(match p.columns[id.index()].ty {
                ScalarType::I32 => Value::I32(value as i32),
                _ => Value::I64(value),
            })
        })?;
        let (lo, hi) = words(&value, &mut texts);
        bytes.extend_from_slice(&[lo.to_le_bytes(), hi.to_le_bytes()].concat()[..width]);
    }
    Ok(Mapped::new(&bytes, texts))
}

/// The codes of one dictionary's texts in another, -1 where it has them not.
pub(super) fn map_codes(from: &Column, to: &Column) -> Result<Mapped> {
    let dictionary = |c: &Column| c.dictionary().cloned().ok_or_else(|| Error::Bug("codes have a dictionary".into()));
    let (from, to) = (dictionary(from)?, dictionary(to)?);
    // Both are sorted.
    let mut at = 0;
    let mut bytes = vec![];
    for code in 0..from.len() {
        let text = from.get(code);
        while at < to.len() && to.get(at) < text {
            at += 1;
        }
        let found = at < to.len() && to.get(at) == text;
        bytes.extend(if found { at as i32 } else { -1 }.to_le_bytes());
    }
    Ok(Mapped::new(&bytes, vec![]))
}

fn evaluate(p: &Program, v: ValueId, column: &dyn Fn(ColumnId) -> Result<Value>) -> Result<Value> {
    let node = p.node_of(v).ok_or_else(|| Error::Bug("a map has no parameters".into()))?;
    match &node.op {
        Op::Literal(value, _) => Ok(value.clone()),
        Op::Col(id) => column(*id),
        Op::Scalar(op) => {
            let mut args = vec![];
            let mut types = vec![];
            for o in &node.operands {
                args.push(evaluate(p, *o, column)?);
                types.push(p.ty(*o).as_scalar().map(|t| t.ty).ok_or_else(|| Error::Bug("a scalar".into()))?);
            }
            let out = p.ty(v).as_scalar().map(|t| t.ty).ok_or_else(|| Error::Bug("a scalar".into()))?;
            Ok(scalar::eval(*op, &args, &types, out)?)
        }
        other => Err(Error::Bug(format!("{other:?} in a map over a dictionary"))),
    }
}

/// A scalar parameter as code reads it.
pub(super) struct Param {
    words: Box<[u64; 3]>,
    _texts: Vec<Arc<str>>,
}

impl Param {
    pub(super) fn new(v: &Value) -> Self {
        let mut texts = vec![];
        let (lo, hi) = words(v, &mut texts);
        Self { words: Box::new([lo, hi, u64::from(!v.is_null())]), _texts: texts }
    }

    pub(super) fn as_ptr(&self) -> *const u64 {
        self.words.as_ptr()
    }
}

/// What a host call reads: the function first, as the runtime expects it.
#[repr(C)]
pub(super) struct Host {
    call: unsafe extern "C" fn(*mut u8, *const u8, *mut u8) -> i32,
    op: HostOp,
}

impl Host {
    pub(super) fn new(op: HostOp) -> Box<Self> {
        Box::new(Self { call: host_call, op })
    }
}

/// Evaluates an operation's row on the arguments in the area; the result replaces the first, its valid flag the second.
unsafe extern "C" fn host_call(worker: *mut u8, data: *const u8, area: *mut u8) -> i32 {
    // SAFETY: generated code passes the address of a `Host` of the executable that it belongs to.
    let host = unsafe { &*data.cast::<Host>() };
    let slot = |i: usize| area.wrapping_add(i * HOST_SLOT as usize).cast::<u64>();
    let mut values = [const { Value::Null }; HOST_AREA / HOST_SLOT as usize];
    for (i, (value, ty)) in values.iter_mut().zip(&host.op.operands).enumerate() {
        // SAFETY: the area has a slot of 16 bytes an argument, and texts in it are alive.
        *value = unsafe { value_of_words(*ty, *slot(i), *slot(i).add(1)) };
    }
    let args = &values[..host.op.operands.len()];
    let raise = |code: TrapCode, detail: Option<String>| {
        let trap = RuntimeTrap { code, location: 0, detail };
        // SAFETY: generated code passes its worker block.
        unsafe { runtime::trap::raise(worker, trap) }
    };
    let value = match scalar::eval(host.op.op, args, &host.op.operands, host.op.result) {
        Ok(value) => value,
        Err(trap) => {
            let (code, detail) = runtime_trap(&trap.kind);
            return raise(code, detail);
        }
    };
    let (lo, hi) = if let Value::Text(t) = &value {
        // SAFETY: generated code passes its worker block, whose scratch lives and is this task's alone.
        let copied = unsafe { runtime::trap::scratch(worker) }.texts.copy(t.as_bytes());
        match copied {
            Ok(view) => view.to_words(),
            Err(e) => return raise(TrapCode::MemoryLimit, Some(e.to_string())),
        }
    } else {
        words(&value, &mut vec![])
    };
    // SAFETY: the area has two slots at least.
    unsafe {
        *slot(0) = lo;
        *slot(0).add(1) = hi;
        *slot(1) = u64::from(!value.is_null());
    }
    0
}

fn runtime_trap(kind: &TrapKind) -> (TrapCode, Option<String>) {
    match kind {
        TrapKind::Overflow(what) => (TrapCode::Overflow, Some(what.clone())),
        TrapKind::DivisionByZero => (TrapCode::DivisionByZero, None),
        TrapKind::InvalidCast { value, to } => (TrapCode::InvalidCast, Some(format!("{to}\0{value}"))),
        TrapKind::InvalidArgument(what) => (TrapCode::InvalidArgument, Some(what.clone())),
        other => (TrapCode::InvalidArgument, Some(other.to_string())),
    }
}

/// A run-time error with its place.
pub(crate) fn trap(columns: &[ColumnInfo], memory: &QueryMemory, t: RuntimeTrap) -> Error {
    let location = t.location as u32;
    let place = (location != 0 && location & COLUMN_LOCATION == 0).then(|| PlaceId(location - 1));
    let detail = t.detail.clone();
    let kind = match t.code {
        TrapCode::Overflow => TrapKind::Overflow(detail.unwrap_or_else(|| "value".into())),
        TrapCode::DivisionByZero => TrapKind::DivisionByZero,
        TrapCode::InvalidCast => {
            let detail = detail.unwrap_or_default();
            let (to, value) = detail.split_once('\0').unwrap_or(("the wanted type", &detail));
            TrapKind::InvalidCast { value: value.into(), to: to.into() }
        }
        TrapCode::ScalarSubqueryRows => TrapKind::SubqueryRows,
        TrapCode::NullFeature => {
            let id = ColumnId(location & !COLUMN_LOCATION);
            TrapKind::NullFeature(columns.get(id.index()).map_or_else(|| id.to_string(), |c| c.name.clone()))
        }
        TrapCode::RecursionDepth => TrapKind::RecursionDepth(runtime::trap::DEFAULT_DEPTH_LIMIT as u32),
        TrapCode::MemoryLimit => {
            let request = detail.unwrap_or_else(|| format!("{} bytes in use", memory.used()));
            let request = request.strip_prefix("memory limit: ").unwrap_or(&request).to_string();
            TrapKind::MemoryLimit { limit: memory.limit() as u64, request }
        }
        TrapCode::Cancelled => TrapKind::Cancelled,
        TrapCode::OutOfRange | TrapCode::InvalidArgument | TrapCode::TooManyRows => {
            TrapKind::InvalidArgument(t.to_string())
        }
        TrapCode::Panic | TrapCode::Internal => TrapKind::Internal(t.to_string()),
    };
    Error::Trap(Trap { kind, place })
}

/// A field as the runtime describes it.
pub(super) fn runtime_field(f: &Field) -> buffer::Field {
    use crate::kernel::Type as K;
    let kind = match f.stored {
        K::I8 => buffer::FieldKind::I8,
        K::I16 => buffer::FieldKind::I16,
        K::I32 => buffer::FieldKind::I32,
        K::I64 | K::Ptr => buffer::FieldKind::I64,
        K::F32 => buffer::FieldKind::F32,
        K::F64 => buffer::FieldKind::F64,
        K::I128 if f.ty.ty == ScalarType::Text => buffer::FieldKind::Text,
        K::I128 => buffer::FieldKind::I128,
    };
    buffer::Field { offset: f.offset, kind, valid: f.valid }
}

/// A column of rows' fields. Codes are decoded, but for a column that is `read_once`.
pub(super) fn column_of_rows(
    rows: &[*mut u8],
    field: &Field,
    tables: &HashMap<InputId, (Vec<Arc<Column>>, usize)>,
    read_once: bool,
) -> Result<Column> {
    let f = runtime_field(field);
    if read_once {
        let dictionary = match field.kind {
            FieldKind::Code { input, source } => tables[&input].0[source as usize].dictionary(),
            FieldKind::Value => None,
        };
        // SAFETY: the rows have this layout, and stand in states of the run.
        return Ok(unsafe { Column::result_of_rows(ColumnKind::from(field.ty.ty), rows, f, dictionary) });
    }
    if let FieldKind::Code { input, source } = field.kind {
        let dictionary = tables[&input].0[source as usize]
            .dictionary()
            .ok_or_else(|| Error::Bug("codes have a dictionary".into()))?;
        let mut codes = Vec::with_capacity(rows.len());
        let mut valid = Vec::with_capacity(rows.len());
        for &row in rows {
            // SAFETY: the rows have this layout, and stand in states of the run.
            let code = unsafe { (!f.is_null(row)).then(|| *row.add(f.offset as usize).cast::<u32>()) };
            codes.push(code.unwrap_or(0));
            valid.push(code.is_some().into());
        }
        return Ok(Column::from_codes(dictionary, &codes, Some(valid)));
    }
    // SAFETY: the rows have this layout, and stand in states of the run.
    Ok(unsafe { Column::from_rows(ColumnKind::from(field.ty.ty), rows, f) })
}

/// Writes a literal row.
pub(super) fn write_value(row: *mut u8, field: &Field, v: &Value, texts: &mut Vec<Arc<str>>) {
    let (lo, hi) = words(v, texts);
    let all = [lo.to_le_bytes(), hi.to_le_bytes()].concat();
    let width = field.register().bytes() as usize;
    // SAFETY: the row is a fresh record of the layout that the field belongs to.
    unsafe {
        std::ptr::copy_nonoverlapping(all.as_ptr(), row.add(field.offset as usize), width);
        if let Some(at) = field.valid {
            *row.add(at as usize) = u8::from(!v.is_null());
        }
    }
}

/// The address of a tensor's first element.
pub(crate) fn tensor_ptr(t: &TensorValue) -> *const u8 {
    match &t.data {
        TensorData::Bool(v) => v.as_ptr().cast(),
        TensorData::I32(v) => v.as_ptr().cast(),
        TensorData::I64(v) => v.as_ptr().cast(),
        TensorData::F32(v) => v.as_ptr().cast(),
        TensorData::F64(v) => v.as_ptr().cast(),
    }
}
