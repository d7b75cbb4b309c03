//! Runs functions of the kernel level on real memory, one step after the other: the meaning that compiled code is tested against.
//!
//! What holds:
//! - Every op means what [`crate::kernel::eval`] says, every loop runs serially whatever its kind.
//! - Loads and stores go to the addresses that the program computes, unaligned if need be.
//! - A division without result, which compiled code would fault on, is an error.

use std::ops::Range;

use crate::kernel::{Definition, Function, FunctionId, Module, Op, Region, TrapCode, Type, Value, eval};
use runtime::abi::layout::{WORKER_TRAP_CODE, WORKER_TRAP_LOCATION};
use runtime::abi::{self, AbiValue, FieldLayout};

/// Why the interpreter gave up: always a bug of the program that built the kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterpretError {
    /// A division by zero or a quotient that does not fit, which the program should have guarded.
    #[error("kernel function `{0}`: `{1}` has no result: it is not guarded (this is a bug in lowering)")]
    NoResult(String, String),
    /// A function without a body, or arguments that do not fit.
    #[error("kernel function `{0}` cannot be called: {1}")]
    BadCall(String, &'static str),
}

enum Flow {
    Next,
    Return(u128),
}

/// Runs a function of a verified module; arguments and result are bits, zero-extended.
///
/// # Errors
/// [`InterpretError`]; traps are no errors, but statuses, as in compiled code.
///
/// # Safety
/// As for the compiled function: the memory that the program reaches from its arguments is live, large enough, and used by nobody else.
pub unsafe fn run(module: &Module, function: FunctionId, args: &[u64]) -> Result<Option<u64>, InterpretError> {
    let name = module.name(function);
    let Some(body) = module.function(function) else {
        return Err(InterpretError::BadCall(name.to_string(), "it has no body"));
    };
    if args.len() != body.params().len() {
        let why = "wrong number of arguments";
        return Err(InterpretError::BadCall(name.to_string(), why));
    }
    // SAFETY: promised by the caller.
    unsafe { call(module, body, args) }
}

unsafe fn call(module: &Module, function: &Function, args: &[u64]) -> Result<Option<u64>, InterpretError> {
    let mut values = vec![0u128; function.value_count()];
    for (index, slot) in values.iter_mut().enumerate() {
        if let Definition::Constant(bits) = function.definition(Value::new(index)) {
            *slot = bits;
        }
    }
    for (&param, &arg) in function.params().iter().zip(args) {
        values[param.index()] = eval::mask(function.ty(param), u128::from(arg));
    }
    let mut run = Run { module, function, values };
    // SAFETY: promised by the caller.
    let result = match unsafe { run.region(function.body())? } {
        Flow::Return(bits) => Some(bits),
        Flow::Next => {
            let yields = &function.region(function.body()).yields;
            yields.first().map(|&value| run.get(value))
        }
    };
    Ok(result.map(|bits| bits as u64))
}

struct Run<'a> {
    module: &'a Module,
    function: &'a Function,
    values: Vec<u128>,
}

impl<'a> Run<'a> {
    fn get(&self, value: Value) -> u128 {
        self.values[value.index()]
    }

    fn all(&self, values: &[Value]) -> Vec<u128> {
        values.iter().map(|&value| self.get(value)).collect()
    }

    fn set(&mut self, targets: &[Value], bits: &[u128]) {
        for (&target, &bits) in targets.iter().zip(bits) {
            self.values[target.index()] = bits;
        }
    }

    /// The address of pointer + offset.
    fn place(&self, pointer: Value, offset: i32) -> *mut u8 {
        let address = (self.get(pointer) as u64).wrapping_add_signed(i64::from(offset));
        std::ptr::with_exposed_provenance_mut(address as usize)
    }

    /// Where a field of the worker block is: the verifier lets nothing trap that has none.
    fn worker_place(&self, field: FieldLayout) -> *mut u8 {
        let worker = self.function.signature.worker.unwrap_or(0);
        self.place(self.function.params()[worker], field.offset)
    }

    unsafe fn worker_field(&self, field: FieldLayout) -> u128 {
        // SAFETY: promised by the caller.
        unsafe { load(Type::I64, self.worker_place(field)) }
    }

    unsafe fn set_worker_field(&mut self, field: FieldLayout, bits: u128) {
        // SAFETY: promised by the caller.
        unsafe { store(Type::I64, self.worker_place(field), bits) };
    }

    unsafe fn region(&mut self, region: Region) -> Result<Flow, InterpretError> {
        let function = self.function;
        for &inst in &function.region(region).insts {
            let data = function.inst(inst);
            // SAFETY: promised by the caller.
            match unsafe { self.op(&data.op, &data.results)? } {
                Flow::Next => {}
                leave => return Ok(leave),
            }
        }
        Ok(Flow::Next)
    }

    /// Runs a region and hands its yields to `targets`.
    unsafe fn branch(&mut self, region: Region, targets: &[Value]) -> Result<Flow, InterpretError> {
        // SAFETY: promised by the caller.
        if let leave @ Flow::Return(_) = unsafe { self.region(region)? } {
            return Ok(leave);
        }
        let yields = self.all(&self.function.region(region).yields);
        self.set(targets, &yields);
        Ok(Flow::Next)
    }

    unsafe fn op(&mut self, op: &'a Op, results: &[Value]) -> Result<Flow, InterpretError> {
        if op.is_pure() {
            let Some((first, second)) = self.pure(op) else {
                let text = format!("{op:?}");
                return Err(InterpretError::NoResult(self.function.name.clone(), text));
            };
            self.set(results, &[first, second]);
            return Ok(Flow::Next);
        }
        // SAFETY: promised by the caller.
        unsafe { self.effect(op, results) }
    }

    /// The one or two results of an op that only computes.
    fn pure(&self, op: &Op) -> Option<(u128, u128)> {
        let ty = |value: Value| self.function.ty(value);
        let one = match *op {
            Op::Unary(op, a) => eval::unary(op, ty(a), self.get(a))?,
            Op::Binary(op, a, b) => eval::binary(op, ty(a), self.get(a), self.get(b))?,
            Op::Checked(op, a, b) => {
                return eval::checked(op, ty(a), self.get(a), self.get(b));
            }
            Op::Fma(a, b, c) => eval::fma(ty(a), self.get(a), self.get(b), self.get(c))?,
            Op::Compare(cmp, a, b) => u128::from(eval::compare(cmp, ty(a), self.get(a), self.get(b))?),
            Op::Select(condition, a, b) => match self.get(condition) {
                0 => self.get(b),
                _ => self.get(a),
            },
            Op::Convert(op, a, to) => eval::convert(op, ty(a), to, self.get(a))?,
            Op::Concat64(lo, hi) => eval::concat64(self.get(lo), self.get(hi)),
            Op::Offset { base, index, scale, displacement } => {
                eval::offset(self.get(base), self.get(index), scale, displacement)
            }
            _ => return None,
        };
        Some((one, 0))
    }

    unsafe fn effect(&mut self, op: &'a Op, results: &[Value]) -> Result<Flow, InterpretError> {
        match op {
            Op::Load { ty, pointer, offset, .. } => {
                // SAFETY: promised by the caller.
                let bits = unsafe { load(*ty, self.place(*pointer, *offset)) };
                self.set(results, &[bits]);
            }
            Op::Store { value, pointer, offset, .. } => {
                let ty = self.function.ty(*value);
                // SAFETY: promised by the caller.
                unsafe { store(ty, self.place(*pointer, *offset), self.get(*value)) };
            }
            Op::CallRuntime(callee, args) => {
                let args: Vec<AbiValue> =
                    args.iter().map(|&arg| abi_value(self.function.ty(arg), self.get(arg) as u64)).collect();
                // SAFETY: promised by the caller.
                let result = unsafe { abi::call(*callee, &args) }.map_err(|_| {
                    let why = "arguments of a runtime call do not fit";
                    InterpretError::BadCall(self.function.name.clone(), why)
                })?;
                self.set(results, &[abi_bits(result)]);
            }
            Op::Call(callee, args) => {
                let args: Vec<u64> = args.iter().map(|&arg| self.get(arg) as u64).collect();
                // SAFETY: promised by the caller.
                let bits = unsafe { run(self.module, callee.id(), &args)? };
                if let Some(bits) = bits {
                    self.set(results, &[u128::from(bits)]);
                }
            }
            Op::TrapIf { condition, code, location } => {
                if self.get(*condition) != 0 {
                    let code = u128::from(*code as u32);
                    // SAFETY: the caller promises a live worker block.
                    unsafe {
                        self.set_worker_field(WORKER_TRAP_CODE, code);
                        self.set_worker_field(WORKER_TRAP_LOCATION, u128::from(*location));
                    }
                    return Ok(Flow::Return(code));
                }
            }
            Op::FailIf { condition, status, location } => {
                if self.get(*condition) != 0 {
                    // SAFETY: the caller promises a live worker block.
                    unsafe { self.set_worker_field(WORKER_TRAP_LOCATION, u128::from(*location)) };
                    let status = match status {
                        Some(status) => self.get(*status),
                        // SAFETY: as above.
                        None => match unsafe { self.worker_field(WORKER_TRAP_CODE) } {
                            0 => u128::from(TrapCode::Panic as u32),
                            code => eval::mask(Type::I32, code),
                        },
                    };
                    return Ok(Flow::Return(status));
                }
            }
            Op::ReturnIf { condition, value } => {
                if self.get(*condition) != 0 {
                    return Ok(Flow::Return(self.get(*value)));
                }
            }
            Op::If { condition, then_region, else_region } => {
                let region = match self.get(*condition) {
                    0 => *else_region,
                    _ => *then_region,
                };
                // SAFETY: promised by the caller.
                return unsafe { self.branch(region, results) };
            }
            Op::Switch { selector, cases, default } => {
                let number = eval::signed(self.function.ty(*selector), self.get(*selector));
                let region = cases
                    .iter()
                    .find(|(value, _)| i128::from(*value) == number)
                    .map_or(*default, |(_, region)| *region);
                // SAFETY: promised by the caller.
                return unsafe { self.branch(region, results) };
            }
            Op::For { begin, end, step, init, body, .. } => {
                let range = self.get(*begin) as i64..self.get(*end) as i64;
                // SAFETY: promised by the caller.
                return unsafe { self.count(range, *step, init, *body, results) };
            }
            Op::While { init, body } => {
                // SAFETY: promised by the caller.
                return unsafe { self.repeat(init, *body, results) };
            }
            Op::Unary(..)
            | Op::Binary(..)
            | Op::Checked(..)
            | Op::Fma(..)
            | Op::Compare(..)
            | Op::Select(..)
            | Op::Convert(..)
            | Op::Concat64(..)
            | Op::Offset { .. } => {}
        }
        Ok(Flow::Next)
    }

    /// A loop over a range, in steps.
    ///
    /// # Safety
    /// As for [`Self::region`].
    unsafe fn count(
        &mut self,
        range: Range<i64>,
        step: i64,
        init: &[Value],
        body: Region,
        results: &[Value],
    ) -> Result<Flow, InterpretError> {
        let params = &self.function.region(body).params;
        let mut carried = self.all(init);
        let mut index = range.start;
        while index < range.end {
            self.set(&params[..1], &[u128::from(index as u64)]);
            self.set(&params[1..], &carried);
            // SAFETY: promised by the caller.
            if let leave @ Flow::Return(_) = unsafe { self.region(body)? } {
                return Ok(leave);
            }
            carried = self.all(&self.function.region(body).yields);
            index = index.wrapping_add(step);
        }
        self.set(results, &carried);
        Ok(Flow::Next)
    }

    /// A loop as long as its body yields that it goes on.
    ///
    /// # Safety
    /// As for [`Self::region`].
    unsafe fn repeat(&mut self, init: &[Value], body: Region, results: &[Value]) -> Result<Flow, InterpretError> {
        let params = &self.function.region(body).params;
        let mut carried = self.all(init);
        loop {
            self.set(params, &carried);
            // SAFETY: promised by the caller.
            if let leave @ Flow::Return(_) = unsafe { self.region(body)? } {
                return Ok(leave);
            }
            let mut yields = self.all(&self.function.region(body).yields);
            let go_on = yields.remove(0);
            carried = yields;
            if go_on == 0 {
                break;
            }
        }
        self.set(results, &carried);
        Ok(Flow::Next)
    }
}

fn abi_value(ty: Type, bits: u64) -> AbiValue {
    match ty {
        Type::I8 => AbiValue::I8(bits as i8),
        Type::I16 => AbiValue::I16(bits as i16),
        Type::I32 => AbiValue::I32(bits as i32),
        Type::I64 | Type::I128 => AbiValue::I64(bits as i64),
        Type::F32 => AbiValue::F32(f32::from_bits(bits as u32)),
        Type::F64 => AbiValue::F64(f64::from_bits(bits)),
        Type::Ptr => AbiValue::Ptr(std::ptr::with_exposed_provenance_mut(bits as usize)),
    }
}

fn abi_bits(value: AbiValue) -> u128 {
    match value {
        AbiValue::Unit => 0,
        AbiValue::I8(x) => u128::from(x as u8),
        AbiValue::I16(x) => u128::from(x as u16),
        AbiValue::I32(x) => u128::from(x as u32),
        AbiValue::I64(x) => u128::from(x as u64),
        AbiValue::F32(x) => u128::from(x.to_bits()),
        AbiValue::F64(x) => u128::from(x.to_bits()),
        AbiValue::Ptr(x) => x.expose_provenance() as u128,
    }
}

unsafe fn load(ty: Type, place: *const u8) -> u128 {
    // SAFETY: promised by the caller; `read_unaligned` asks for no alignment.
    unsafe {
        match ty.bytes() {
            1 => u128::from(place.read_unaligned()),
            2 => u128::from(place.cast::<u16>().read_unaligned()),
            4 => u128::from(place.cast::<u32>().read_unaligned()),
            8 => u128::from(place.cast::<u64>().read_unaligned()),
            _ => place.cast::<u128>().read_unaligned(),
        }
    }
}

unsafe fn store(ty: Type, place: *mut u8, bits: u128) {
    // SAFETY: promised by the caller; `write_unaligned` asks for no alignment.
    unsafe {
        match ty.bytes() {
            1 => place.write_unaligned(bits as u8),
            2 => place.cast::<u16>().write_unaligned(bits as u16),
            4 => place.cast::<u32>().write_unaligned(bits as u32),
            8 => place.cast::<u64>().write_unaligned(bits as u64),
            _ => place.cast::<u128>().write_unaligned(bits),
        }
    }
}
