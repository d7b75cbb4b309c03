//! Vector loops: many steps at once in registers of 128 bits.
//!
//! What holds:
//! - A chunk is a number of steps, a power of two. A value that differs between steps is a list of registers that together hold one lane
//!   per step, in order; a narrow type takes fewer registers than a wide one, and conversions go from the one list to the other.
//! - A comparison is a mask: lanes of all ones or all zeros, as wide as what was compared. It becomes 0 and 1 when it is stored.
//! - What is the same for all steps of a chunk is computed once, as scalars; so are the addresses of its first step.
//! - A carried value must be a reduction, used for nothing else: it has one accumulator per lane, put together after the loop.
//! - A loop that does not fit is left to the serial code ([`plan`] says no before anything is written), as are the last steps.

use super::emit::{Emitter, float_cc, int_cc, memory_flags};
use crate::kernel::{BinaryOp, CheckedOp, Cmp, ConvertOp, Function, Inst, LoopKind, Op, Region, Type, UnaryOp, Value};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{self, Endianness, InstBuilder, MemFlagsData, types};
use std::collections::{HashMap, HashSet};

/// Bytes of a register.
const REGISTER: u32 = 16;

/// Above so many vector instructions a chunk is two registers of the widest type, below it four.
const LONG_BODY: usize = 40;

/// How a value differs between the steps of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    /// Not at all.
    Same,
    /// By so much from one step to the next: an integer (I64) or an address.
    Affine(i64),
    /// In any way; lanes of the type.
    Lanes(Type),
    /// A comparison.
    Mask,
}

/// How a carried value is put together from its lanes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reduction {
    ty: Type,
    combine: BinaryOp,
    /// The carried value is the first operand.
    first: bool,
}

/// What is known of a loop that runs in lanes.
struct Plan<'a> {
    kernel: &'a Function,
    body: Region,
    classes: HashMap<Value, Class>,
    reductions: Vec<Reduction>,
    narrowest: u32,
    widest: u32,
    vector_insts: usize,
}

/// Decides whether a loop's body can run in lanes.
fn plan(kernel: &Function, body: Region, step: i64) -> Option<Plan<'_>> {
    if step != 1 {
        return None;
    }
    let data = kernel.region(body);
    let mut plan = Plan {
        kernel,
        body,
        classes: HashMap::new(),
        reductions: Vec::new(),
        narrowest: 8,
        widest: 1,
        vector_insts: 0,
    };
    plan.classes.insert(data.params[0], Class::Affine(1));
    for (number, &param) in data.params[1..].iter().enumerate() {
        let reduction = reduction(kernel, body, param, data.yields[number])?;
        plan.width(reduction.ty);
        plan.classes.insert(param, Class::Lanes(reduction.ty));
        plan.reductions.push(reduction);
    }
    for &inst in &data.insts {
        plan.inst(inst)?;
    }
    (plan.vector_insts > 0).then_some(plan)
}

/// The reduction that takes `param` to `next`, if it is one and neither is used otherwise.
fn reduction(kernel: &Function, body: Region, param: Value, next: Value) -> Option<Reduction> {
    let data = kernel.region(body);
    let mut users = Vec::new();
    for &inst in &data.insts {
        kernel.inst(inst).op.each_operand(|operand| {
            if operand == param || operand == next {
                users.push((inst, operand));
            }
        });
    }
    let times_yielded = data.yields.iter().filter(|&&value| value == next || value == param).count();
    let [(inst, operand)] = users[..] else {
        return None;
    };
    if operand != param || times_yielded != 1 || kernel.inst(inst).results[..] != [next] {
        return None;
    }
    let ty = kernel.ty(param);
    let (combine, first) = match kernel.inst(inst).op {
        Op::Binary(op, a, _) => match op {
            BinaryOp::Sub if a == param => (BinaryOp::Add, true),
            BinaryOp::FSub if a == param => (BinaryOp::FAdd, true),
            BinaryOp::Add
            | BinaryOp::And
            | BinaryOp::Or
            | BinaryOp::Xor
            | BinaryOp::SMin
            | BinaryOp::SMax
            | BinaryOp::FAdd
            | BinaryOp::FMul
            | BinaryOp::FMin
            | BinaryOp::FMax => (op, a == param),
            BinaryOp::Mul if ty != Type::I8 => (op, a == param),
            _ => return None,
        },
        Op::Fma(_, _, c) if c == param => (BinaryOp::FAdd, true),
        _ => return None,
    };
    identity(combine, ty)?;
    Some(Reduction { ty, combine, first })
}

/// The bits that change nothing when combined.
fn identity(op: BinaryOp, ty: Type) -> Option<u128> {
    let ones = (1u128 << ty.bits().min(127)) - 1;
    let top = 1u128 << (ty.bits() - 1).min(126);
    Some(match (op, ty) {
        (_, Type::I128 | Type::Ptr) => return None,
        (BinaryOp::Add | BinaryOp::Or | BinaryOp::Xor, _) => 0,
        (BinaryOp::Mul, _) => 1,
        (BinaryOp::And, _) => ones,
        (BinaryOp::SMin, _) => top - 1,
        (BinaryOp::SMax, _) => top,
        // -0.0: it leaves a sum of negative zeros negative.
        (BinaryOp::FAdd, _) => top,
        (BinaryOp::FMul, Type::F32) => u128::from(1f32.to_bits()),
        (BinaryOp::FMul, _) => u128::from(1f64.to_bits()),
        (BinaryOp::FMin, Type::F32) => u128::from(f32::INFINITY.to_bits()),
        (BinaryOp::FMin, _) => u128::from(f64::INFINITY.to_bits()),
        (BinaryOp::FMax, Type::F32) => u128::from(f32::NEG_INFINITY.to_bits()),
        (BinaryOp::FMax, _) => u128::from(f64::NEG_INFINITY.to_bits()),
        _ => return None,
    })
}

impl Plan<'_> {
    fn class(&self, value: Value) -> Class {
        self.classes.get(&value).copied().unwrap_or(Class::Same)
    }

    fn ty(&self, value: Value) -> Type {
        self.kernel.ty(value)
    }

    fn width(&mut self, ty: Type) {
        self.narrowest = self.narrowest.min(ty.bytes());
        self.widest = self.widest.max(ty.bytes());
    }

    /// Classifies what an instruction makes; `None` if it cannot run in lanes.
    fn inst(&mut self, inst: Inst) -> Option<()> {
        let data = self.kernel.inst(inst);
        let mut all_same = true;
        data.op.each_operand(|operand| all_same &= self.class(operand) == Class::Same);
        let scalar = all_same && (data.op.is_pure() || matches!(data.op, Op::Load { .. }));
        if scalar {
            let partial = matches!(data.op, Op::Binary(op, ..) if op.is_partial());
            return (!partial).then_some(());
        }
        if let Some(stride) = self.stride(&data.op) {
            self.classes.insert(data.results[0], Class::Affine(stride));
            return Some(());
        }
        let class = self.vector(&data.op)?;
        self.vector_insts += 1;
        for (number, &result) in data.results.iter().enumerate() {
            let class = if number == 0 { class } else { Class::Mask };
            if let Class::Lanes(ty) = class {
                self.width(ty);
            }
            self.classes.insert(result, class);
        }
        for (operand, as_mask) in self.operands(&data.op) {
            if !as_mask {
                self.width(self.ty(operand));
            }
        }
        Some(())
    }

    /// By how much an integer or an address grows from step to step, if it does so evenly.
    fn stride(&self, op: &Op) -> Option<i64> {
        let stride = |value: Value| match self.class(value) {
            Class::Same => Some(0),
            Class::Affine(stride) => Some(stride),
            Class::Lanes(_) | Class::Mask => None,
        };
        let constant = |value: Value| self.kernel.constant(value).map(|bits| bits as u64 as i64);
        match *op {
            Op::Binary(_, a, _) if self.ty(a) != Type::I64 => None,
            Op::Binary(BinaryOp::Add, a, b) => stride(a)?.checked_add(stride(b)?),
            Op::Binary(BinaryOp::Sub, a, b) => stride(a)?.checked_sub(stride(b)?),
            Op::Binary(BinaryOp::Mul, a, b) => stride(a)?.checked_mul(constant(b)?),
            Op::Offset { base, index, scale, .. } => stride(base)?.checked_add(stride(index)?.checked_mul(scale)?),
            Op::Convert(ConvertOp::Bitcast, a, Type::I64) if self.ty(a) == Type::Ptr => stride(a),
            Op::Convert(ConvertOp::Bitcast, a, Type::Ptr) if self.ty(a) == Type::I64 => stride(a),
            _ => None,
        }
    }

    /// Whether an operand can be had as lanes.
    fn lanes(&self, value: Value) -> Option<()> {
        let fits = match self.class(value) {
            Class::Same => !matches!(self.ty(value), Type::I128 | Type::Ptr),
            Class::Affine(_) => self.ty(value) == Type::I64,
            Class::Lanes(_) | Class::Mask => true,
        };
        fits.then_some(())
    }

    fn vector(&self, op: &Op) -> Option<Class> {
        match *op {
            // No vector instruction counts the bits of 64.
            Op::Unary(UnaryOp::PopCount, _) => None,
            Op::Unary(_, a) => {
                self.lanes(a)?;
                Some(Class::Lanes(self.ty(a)))
            }
            Op::Binary(op, a, b) => self.binary(op, a, b),
            Op::Checked(CheckedOp::Add | CheckedOp::Sub, a, b) if self.ty(a) != Type::I128 => {
                self.lanes(a)?;
                self.lanes(b)?;
                Some(Class::Lanes(self.ty(a)))
            }
            Op::Fma(a, b, c) => {
                self.lanes(a)?;
                self.lanes(b)?;
                self.lanes(c)?;
                Some(Class::Lanes(self.ty(a)))
            }
            Op::Compare(cmp, a, b) => {
                self.lanes(a)?;
                self.lanes(b)?;
                let unsigned = matches!(cmp, Cmp::ULt | Cmp::ULe | Cmp::UGt | Cmp::UGe);
                let fits = !(unsigned && self.ty(a) == Type::I64) && self.ty(a) != Type::I128;
                fits.then_some(Class::Mask)
            }
            Op::Select(condition, a, b) => {
                self.lanes(condition)?;
                self.lanes(a)?;
                self.lanes(b)?;
                let both_masks = self.class(a) == Class::Mask && self.class(b) == Class::Mask;
                Some(if both_masks { Class::Mask } else { Class::Lanes(self.ty(a)) })
            }
            Op::Convert(op, a, to) => {
                self.lanes(a)?;
                let from = self.ty(a);
                let wide = from == Type::I128 || to == Type::I128 || to == Type::Ptr;
                let fits = match op {
                    ConvertOp::IntToFloat => from != Type::I64 && !(to == Type::F32 && from.bytes() > 4),
                    ConvertOp::FloatToInt => from == Type::F32 && to == Type::I32,
                    ConvertOp::Lo64 | ConvertOp::Hi64 => false,
                    _ => true,
                };
                (fits && !wide).then_some(Class::Lanes(to))
            }
            Op::Load { ty, pointer, .. } => {
                let unit = self.class(pointer) == Class::Affine(i64::from(ty.bytes()));
                (unit && !matches!(ty, Type::I128 | Type::Ptr)).then_some(Class::Lanes(ty))
            }
            Op::Store { value, pointer, .. } => {
                self.lanes(value)?;
                let unit = self.class(pointer) == Class::Affine(i64::from(self.ty(value).bytes()));
                unit.then_some(Class::Lanes(self.ty(value)))
            }
            _ => None,
        }
    }

    fn binary(&self, op: BinaryOp, a: Value, b: Value) -> Option<Class> {
        self.lanes(a)?;
        let ty = self.ty(a);
        if op.is_shift() {
            let fits = matches!(op, BinaryOp::Shl | BinaryOp::SShr | BinaryOp::UShr)
                && matches!(ty, Type::I32 | Type::I64)
                && self.class(b) == Class::Same;
            return fits.then_some(Class::Lanes(ty));
        }
        self.lanes(b)?;
        let mask = |value: Value| {
            let zero_or_one = self.kernel.constant(value).is_some_and(|bits| bits <= 1);
            self.class(value) == Class::Mask || zero_or_one
        };
        match op {
            BinaryOp::And | BinaryOp::Or | BinaryOp::Xor if mask(a) && mask(b) => Some(Class::Mask),
            BinaryOp::UMulHi | BinaryOp::SDiv | BinaryOp::SRem => None,
            BinaryOp::Mul if ty == Type::I8 => None,
            _ => Some(Class::Lanes(ty)),
        }
    }

    /// Operands that the op takes as lanes, and whether as a mask.
    fn operands(&self, op: &Op) -> Vec<(Value, bool)> {
        match *op {
            Op::Load { .. } => Vec::new(),
            Op::Store { value, .. } => vec![(value, false)],
            Op::Binary(op, a, _) if op.is_shift() => vec![(a, false)],
            Op::Binary(op, a, b) => {
                let mask = self.binary(op, a, b) == Some(Class::Mask);
                vec![(a, mask), (b, mask)]
            }
            Op::Select(condition, a, b) => {
                let masks = self.vector(op) == Some(Class::Mask);
                vec![(condition, true), (a, masks), (b, masks)]
            }
            Op::Convert(ConvertOp::ZeroExtend, a, _) if self.class(a) == Class::Mask => vec![(a, true)],
            _ => {
                let mut operands = Vec::new();
                op.each_operand(|value| operands.push((value, false)));
                operands
            }
        }
    }

    /// Steps per chunk.
    fn chunk(&self, wish: u32) -> u32 {
        let least = REGISTER / self.narrowest;
        if wish > 0 {
            return wish.next_power_of_two().clamp(least, 64);
        }
        let registers = if self.vector_insts > LONG_BODY { 2 } else { 4 };
        (registers * REGISTER / self.widest).max(least)
    }
}

/// Where the serial rest of a vector loop begins.
pub(super) struct Rest {
    pub(super) index: ir::Value,
    pub(super) carried: Vec<ir::Value>,
    /// Whether no step is left, as far as is known when compiling.
    pub(super) empty: bool,
}

/// Writes the part of a vector loop that runs in full lanes. `steps` is the number of steps if it is known.
pub(super) fn vector_part(
    emitter: &mut Emitter<'_>,
    (kind, step, body): (LoopKind, i64, Region),
    steps: Option<i64>,
    (begin, end): (ir::Value, ir::Value),
    init: Vec<ir::Value>,
) -> Rest {
    let mut rest = Rest { index: begin, carried: init, empty: false };
    let kernel = emitter.kernel;
    let LoopKind::Vector(wish) = kind else {
        return rest;
    };
    let Some(plan) = plan(kernel, body, step) else {
        return rest;
    };
    let least = REGISTER / plan.narrowest;
    let mut chunk = plan.chunk(wish);
    let mut left = steps;
    loop {
        // Of a known number of steps only what fits is written.
        let fits = left.is_none_or(|left| left >= i64::from(chunk));
        if fits {
            (rest.index, rest.carried) = chunks(emitter, &plan, chunk, (rest.index, end), rest.carried);
            left = left.map(|left| left % i64::from(chunk));
        }
        if chunk == least || left == Some(0) || (left.is_none() && plan.vector_insts > LONG_BODY) {
            break;
        }
        // What is left of a wide chunk still fills narrow ones.
        chunk = match left {
            None => least,
            Some(_) => chunk / 2,
        };
    }
    rest.empty = left == Some(0);
    rest
}

/// The loop over chunks of one size.
fn chunks(
    emitter: &mut Emitter<'_>,
    plan: &Plan<'_>,
    chunk: u32,
    (begin, end): (ir::Value, ir::Value),
    init: Vec<ir::Value>,
) -> (ir::Value, Vec<ir::Value>) {
    let mut lanes = Lanes { e: emitter, plan, chunk, made: HashMap::new(), same: HashMap::new(), iota: HashMap::new() };
    let reach = lanes.e.b.ins().iconst(types::I64, i64::from(chunk) - 1);
    let limit = lanes.e.b.ins().isub(end, reach);
    let (header, after, join) = (lanes.e.b.create_block(), lanes.e.b.create_block(), lanes.e.b.create_block());
    let before = lanes.e.b.create_block();
    let join_index = lanes.e.b.append_block_param(join, types::I64);
    let mut join_params = Vec::new();
    for &value in &init {
        let ty = lanes.e.b.func.dfg.value_type(value);
        join_params.push(lanes.e.b.append_block_param(join, ty));
    }
    let mut skip = vec![begin];
    skip.extend(&init);
    let enter = lanes.e.b.ins().icmp(IntCC::SignedLessThan, begin, limit);
    lanes.e.branch(enter, (before, &[]), (join, &skip));

    lanes.e.b.switch_to_block(before);
    lanes.prepare();
    let mut state = vec![begin];
    state.extend(lanes.accumulators());
    lanes.e.jump(header, &state);

    let types: Vec<ir::Type> = state.iter().map(|&v| lanes.e.b.func.dfg.value_type(v)).collect();
    let params: Vec<ir::Value> = types.iter().map(|&ty| lanes.e.b.append_block_param(header, ty)).collect();
    lanes.e.b.switch_to_block(header);
    let next_accumulators = lanes.round(&params);
    let size = lanes.e.b.ins().iconst(types::I64, i64::from(chunk));
    let next = lanes.e.b.ins().iadd(params[0], size);
    let mut state = vec![next];
    state.extend(next_accumulators);
    let again = lanes.e.b.ins().icmp(IntCC::SignedLessThan, next, limit);
    lanes.e.branch(again, (header, &state), (after, &[]));

    lanes.e.b.switch_to_block(after);
    let mut last = vec![next];
    last.extend(lanes.reduce(&state[1..], &init));
    lanes.e.jump(join, &last);
    lanes.e.b.switch_to_block(join);
    (join_index, join_params)
}

/// A value in registers.
#[derive(Clone, Debug)]
struct Registers {
    /// Bytes per lane.
    width: u32,
    regs: Vec<ir::Value>,
}

struct Lanes<'e, 'a, 'p> {
    e: &'e mut Emitter<'a>,
    plan: &'p Plan<'p>,
    chunk: u32,
    /// Values of the chunk being written.
    made: HashMap<Value, Registers>,
    /// Values from before the loop, one register each: as lanes, and as mask.
    same: HashMap<(Value, bool), ir::Value>,
    /// 0, s, 2s, ... for a stride s.
    iota: HashMap<i64, Vec<ir::Value>>,
}

fn lane_type(ty: Type) -> ir::Type {
    match ty {
        Type::F32 => types::F32X4,
        Type::F64 => types::F64X2,
        _ => int_lanes(ty.bytes()),
    }
}

fn int_lanes(width: u32) -> ir::Type {
    match width {
        1 => types::I8X16,
        2 => types::I16X8,
        4 => types::I32X4,
        _ => types::I64X2,
    }
}

fn lane_flags() -> MemFlagsData {
    MemFlagsData::new().with_endianness(Endianness::Little)
}

impl Lanes<'_, '_, '_> {
    // ---- before and after the loop ----

    /// Writes what the chunks use and does not change: values from outside as lanes, index steps.
    fn prepare(&mut self) {
        let kernel = self.plan.kernel;
        let defined: HashSet<Value> =
            kernel.region(self.plan.body).insts.iter().flat_map(|&inst| kernel.inst(inst).results.clone()).collect();
        for &inst in &kernel.region(self.plan.body).insts {
            let op = &kernel.inst(inst).op;
            let scalar = match kernel.inst(inst).results.first() {
                Some(&result) => matches!(self.plan.class(result), Class::Same | Class::Affine(_)),
                None => false,
            };
            if scalar {
                continue;
            }
            for (value, as_mask) in self.plan.operands(op) {
                if self.plan.class(value) == Class::Same && !defined.contains(&value) {
                    self.splat(value, as_mask, true);
                }
                if let Class::Affine(stride) = self.plan.class(value) {
                    self.iota(stride);
                }
            }
        }
    }

    fn registers_of(&self, width: u32) -> usize {
        (self.chunk * width / REGISTER) as usize
    }

    /// One accumulator per register of each reduction.
    fn accumulators(&mut self) -> Vec<ir::Value> {
        let mut all = Vec::new();
        for reduction in &self.plan.reductions {
            let bits = identity(reduction.combine, reduction.ty).unwrap_or(0);
            let one = self.e.make_constant(reduction.ty, bits);
            let lanes = self.e.b.ins().splat(lane_type(reduction.ty), one);
            all.extend(vec![lanes; self.registers_of(reduction.ty.bytes())]);
        }
        all
    }

    /// Puts the accumulators together with the values before the loop.
    fn reduce(&mut self, accumulators: &[ir::Value], init: &[ir::Value]) -> Vec<ir::Value> {
        let mut rest = accumulators;
        let mut results = Vec::new();
        for (reduction, &init) in self.plan.reductions.iter().zip(init) {
            let (mine, others) = rest.split_at(self.registers_of(reduction.ty.bytes()));
            rest = others;
            let mut together = mine[0];
            for &register in &mine[1..] {
                together = self.lane_binary(reduction.combine, together, register);
            }
            let mut result = init;
            for lane in 0..REGISTER / reduction.ty.bytes() {
                let one = self.e.b.ins().extractlane(together, lane as u8);
                let (x, y) = if reduction.first { (result, one) } else { (one, result) };
                result = self.e.scalar_binary(reduction.combine, reduction.ty, x, y);
            }
            results.push(result);
        }
        results
    }

    // ---- a chunk ----

    /// Writes one chunk; takes the index and the accumulators, gives the next accumulators.
    fn round(&mut self, state: &[ir::Value]) -> Vec<ir::Value> {
        let kernel = self.plan.kernel;
        let data = kernel.region(self.plan.body);
        self.e.define(data.params[0], state[0]);
        let mut rest = &state[1..];
        for (&param, reduction) in data.params[1..].iter().zip(&self.plan.reductions) {
            let width = reduction.ty.bytes();
            let (mine, others) = rest.split_at(self.registers_of(width));
            self.made.insert(param, Registers { width, regs: mine.to_vec() });
            rest = others;
        }
        for &inst in &data.insts {
            self.inst(inst);
        }
        data.yields.iter().flat_map(|value| self.made[value].regs.clone()).collect()
    }

    fn inst(&mut self, inst: Inst) {
        let data = self.plan.kernel.inst(inst);
        if let Some(&result) = data.results.first()
            && matches!(self.plan.class(result), Class::Same | Class::Affine(_))
        {
            let values = self.e.simple(&data.op);
            for (&result, value) in data.results.iter().zip(values) {
                self.e.define(result, value);
            }
            return;
        }
        let made = self.vector(&data.op);
        for (&result, registers) in data.results.iter().zip(made) {
            self.made.insert(result, registers);
        }
    }

    fn vector(&mut self, op: &Op) -> Vec<Registers> {
        match *op {
            Op::Unary(op, a) => {
                let a = self.get(a);
                vec![self.map(a, |lanes, x| lanes.lane_unary(op, x))]
            }
            Op::Binary(op, a, b) => vec![self.binary(op, a, b)],
            Op::Checked(op, a, b) => self.checked(op, a, b),
            Op::Fma(a, b, c) => {
                let (a, b, c) = (self.get(a), self.get(b), self.get(c));
                let regs = (0..a.regs.len()).map(|n| self.e.b.ins().fma(a.regs[n], b.regs[n], c.regs[n])).collect();
                vec![Registers { width: a.width, regs }]
            }
            Op::Compare(cmp, a, b) => {
                let float = self.plan.ty(a).is_float();
                let (a, b) = (self.get(a), self.get(b));
                vec![self.zip(&a, &b, |lanes, x, y| {
                    if float {
                        lanes.e.b.ins().fcmp(float_cc(cmp), x, y)
                    } else {
                        lanes.e.b.ins().icmp(int_cc(cmp), x, y)
                    }
                })]
            }
            Op::Select(condition, a, b) => vec![self.select(op, condition, a, b)],
            Op::Convert(op, a, to) => vec![self.convert(op, a, to)],
            Op::Load { ty, pointer, offset, flags } => {
                let pointer = self.e.get(pointer);
                let width = ty.bytes();
                let mut flags = flags;
                flags.aligned = false;
                let flags = memory_flags(flags);
                let regs = (0..self.registers_of(width))
                    .map(|n| self.e.b.ins().load(lane_type(ty), flags, pointer, offset + (n as i32) * 16))
                    .collect();
                vec![Registers { width, regs }]
            }
            Op::Store { value, pointer, offset, flags } => {
                let value = self.get(value);
                let pointer = self.e.get(pointer);
                let mut flags = flags;
                flags.aligned = false;
                let flags = memory_flags(flags);
                for (n, &register) in value.regs.iter().enumerate() {
                    self.e.b.ins().store(flags, register, pointer, offset + (n as i32) * 16);
                }
                Vec::new()
            }
            _ => unreachable!("the plan lets no other op into lanes"),
        }
    }

    fn map(&mut self, a: Registers, mut make: impl FnMut(&mut Self, ir::Value) -> ir::Value) -> Registers {
        let regs = a.regs.iter().map(|&x| make(self, x)).collect();
        Registers { width: a.width, regs }
    }

    fn zip(
        &mut self,
        a: &Registers,
        b: &Registers,
        mut make: impl FnMut(&mut Self, ir::Value, ir::Value) -> ir::Value,
    ) -> Registers {
        let regs = a.regs.iter().zip(&b.regs).map(|(&x, &y)| make(self, x, y)).collect();
        Registers { width: a.width, regs }
    }

    // ---- operands ----

    /// A value as lanes of its type.
    fn get(&mut self, value: Value) -> Registers {
        let width = self.plan.ty(value).bytes();
        match self.plan.class(value) {
            Class::Same => {
                let one = self.splat(value, false, false);
                Registers { width, regs: vec![one; self.registers_of(width)] }
            }
            Class::Affine(stride) => {
                let first = self.e.get(value);
                let first = self.e.b.ins().splat(types::I64X2, first);
                let steps = self.iota(stride);
                let regs = steps.iter().map(|&step| self.e.b.ins().iadd(first, step)).collect();
                Registers { width, regs }
            }
            Class::Lanes(_) => self.made[&value].clone(),
            Class::Mask => {
                let mask = self.made[&value].clone();
                let mask = self.resize_mask(mask, 1);
                let one = self.e.b.ins().iconst(types::I8, 1);
                let ones = self.e.b.ins().splat(types::I8X16, one);
                self.map(mask, |lanes, x| lanes.e.b.ins().band(x, ones))
            }
        }
    }

    /// A boolean as a mask of some width.
    fn mask(&mut self, value: Value, width: u32) -> Registers {
        match self.plan.class(value) {
            Class::Mask => {
                let mask = self.made[&value].clone();
                self.resize_mask(mask, width)
            }
            Class::Lanes(_) | Class::Affine(_) => {
                let bytes = self.made[&value].clone();
                let zero = self.e.b.ins().iconst(types::I8, 0);
                let zeros = self.e.b.ins().splat(types::I8X16, zero);
                let mask = self.map(bytes, |lanes, x| lanes.e.b.ins().icmp(IntCC::NotEqual, x, zeros));
                self.resize_mask(mask, width)
            }
            Class::Same => {
                let one = self.splat(value, true, false);
                let one = self.cast(one, int_lanes(width));
                Registers { width, regs: vec![one; self.registers_of(width)] }
            }
        }
    }

    /// The width that a boolean has as a mask, if it has one of its own.
    fn mask_width(&self, value: Value) -> Option<u32> {
        match self.plan.class(value) {
            Class::Mask => Some(self.made[&value].width),
            _ => None,
        }
    }

    /// A value that is the same for all steps, in every lane of one register; as a mask if asked for.
    fn splat(&mut self, value: Value, as_mask: bool, outside: bool) -> ir::Value {
        if let Some(&known) = self.same.get(&(value, as_mask)) {
            return known;
        }
        let ty = self.plan.ty(value);
        let one = self.e.get(value);
        let lanes = if as_mask {
            let (yes, no) = (self.e.b.ins().iconst(types::I8, 255), self.e.b.ins().iconst(types::I8, 0));
            let all = self.e.b.ins().select(one, yes, no);
            self.e.b.ins().splat(types::I8X16, all)
        } else {
            self.e.b.ins().splat(lane_type(ty), one)
        };
        if outside {
            self.same.insert((value, as_mask), lanes);
        }
        lanes
    }

    /// 0, s, 2s, ... in lanes of I64, for every step of a chunk.
    fn iota(&mut self, stride: i64) -> Vec<ir::Value> {
        if let Some(known) = self.iota.get(&stride) {
            return known.clone();
        }
        let registers: Vec<ir::Value> = (0..self.registers_of(8) as i64)
            .map(|n| {
                let mut bytes = [0u8; 16];
                for lane in 0..2i64 {
                    let step = stride.wrapping_mul(2 * n + lane);
                    bytes[lane as usize * 8..][..8].copy_from_slice(&step.to_le_bytes());
                }
                let constant = self.e.b.func.dfg.constants.insert(bytes.to_vec().into());
                self.e.b.ins().vconst(types::I64X2, constant)
            })
            .collect();
        self.iota.insert(stride, registers.clone());
        registers
    }

    // ---- ops ----

    fn binary(&mut self, op: BinaryOp, a: Value, b: Value) -> Registers {
        if op.is_shift() {
            let x = self.get(a);
            let count = self.e.shift_count(b, self.plan.ty(a));
            return self.map(x, |lanes, x| match op {
                BinaryOp::Shl => lanes.e.b.ins().ishl(x, count),
                BinaryOp::SShr => lanes.e.b.ins().sshr(x, count),
                _ => lanes.e.b.ins().ushr(x, count),
            });
        }
        let (x, y) = if self.plan.binary(op, a, b) == Some(Class::Mask) {
            let width = self.mask_width(a).or(self.mask_width(b)).unwrap_or(1);
            (self.mask(a, width), self.mask(b, width))
        } else {
            (self.get(a), self.get(b))
        };
        self.zip(&x, &y, |lanes, x, y| lanes.lane_binary(op, x, y))
    }

    fn lane_unary(&mut self, op: UnaryOp, x: ir::Value) -> ir::Value {
        match op {
            UnaryOp::Neg => self.e.b.ins().ineg(x),
            UnaryOp::Not => self.e.b.ins().bnot(x),
            UnaryOp::PopCount => unreachable!("the plan lets it not into lanes"),
            UnaryOp::FNeg => self.e.b.ins().fneg(x),
            UnaryOp::FAbs => self.e.b.ins().fabs(x),
            UnaryOp::FSqrt => self.e.b.ins().sqrt(x),
            UnaryOp::FFloor => self.e.b.ins().floor(x),
            UnaryOp::FCeil => self.e.b.ins().ceil(x),
            UnaryOp::FTrunc => self.e.b.ins().trunc(x),
            UnaryOp::FNearest => self.e.b.ins().nearest(x),
        }
    }

    fn lane_binary(&mut self, op: BinaryOp, x: ir::Value, y: ir::Value) -> ir::Value {
        match op {
            BinaryOp::Add => self.e.b.ins().iadd(x, y),
            BinaryOp::Sub => self.e.b.ins().isub(x, y),
            BinaryOp::Mul => self.e.b.ins().imul(x, y),
            BinaryOp::And => self.e.b.ins().band(x, y),
            BinaryOp::Or => self.e.b.ins().bor(x, y),
            BinaryOp::Xor => self.e.b.ins().bxor(x, y),
            BinaryOp::SMin => self.e.b.ins().smin(x, y),
            BinaryOp::SMax => self.e.b.ins().smax(x, y),
            BinaryOp::FAdd => self.e.b.ins().fadd(x, y),
            BinaryOp::FSub => self.e.b.ins().fsub(x, y),
            BinaryOp::FMul => self.e.b.ins().fmul(x, y),
            BinaryOp::FDiv => self.e.b.ins().fdiv(x, y),
            BinaryOp::FMin => self.choose_less(x, y, x, y),
            // `b < a`, so that it becomes one instruction.
            BinaryOp::FMax => self.choose_less(y, x, x, y),
            _ => unreachable!("the plan lets no other op into lanes"),
        }
    }

    /// `a < b ? x : y` by lane.
    fn choose_less(&mut self, a: ir::Value, b: ir::Value, x: ir::Value, y: ir::Value) -> ir::Value {
        let mask = self.e.b.ins().fcmp(FloatCC::LessThan, a, b);
        let ty = self.e.b.func.dfg.value_type(x);
        let mask = self.cast(mask, ty);
        self.e.b.ins().bitselect(mask, x, y)
    }

    /// Wrapped result and overflow: the signs tell.
    fn checked(&mut self, op: CheckedOp, a: Value, b: Value) -> Vec<Registers> {
        let ty = self.plan.ty(a);
        let (x, y) = (self.get(a), self.get(b));
        let add = op == CheckedOp::Add;
        let value = self.zip(&x, &y, |lanes, x, y| match add {
            true => lanes.e.b.ins().iadd(x, y),
            false => lanes.e.b.ins().isub(x, y),
        });
        let mut flags = Vec::new();
        for n in 0..value.regs.len() {
            let (x, y, r) = (x.regs[n], y.regs[n], value.regs[n]);
            // Addition overflows where both signs differ from the result's, subtraction where a's differs from b's and from the result's.
            let first = self.e.b.ins().bxor(x, r);
            let second = if add { self.e.b.ins().bxor(y, r) } else { self.e.b.ins().bxor(x, y) };
            let signs = self.e.b.ins().band(first, second);
            let count = self.e.b.ins().iconst(types::I32, i64::from(ty.bits() - 1));
            flags.push(self.e.b.ins().sshr(signs, count));
        }
        vec![value, Registers { width: ty.bytes(), regs: flags }]
    }

    fn select(&mut self, op: &Op, condition: Value, a: Value, b: Value) -> Registers {
        let masks = self.plan.vector(op) == Some(Class::Mask);
        let (x, y) = if masks {
            let width = self.mask_width(a).unwrap_or(1);
            (self.mask(a, width), self.mask(b, width))
        } else {
            (self.get(a), self.get(b))
        };
        let mask = self.mask(condition, x.width);
        let regs = (0..x.regs.len())
            .map(|n| {
                let ty = self.e.b.func.dfg.value_type(x.regs[n]);
                let mask = self.cast(mask.regs[n], ty);
                self.e.b.ins().bitselect(mask, x.regs[n], y.regs[n])
            })
            .collect();
        Registers { width: x.width, regs }
    }

    fn cast(&mut self, x: ir::Value, ty: ir::Type) -> ir::Value {
        if self.e.b.func.dfg.value_type(x) == ty {
            return x;
        }
        self.e.b.ins().bitcast(ty, lane_flags(), x)
    }

    fn convert(&mut self, op: ConvertOp, a: Value, to: Type) -> Registers {
        let from = self.plan.ty(a);
        // A comparison as a wider integer: the mask's lowest bits.
        if op == ConvertOp::ZeroExtend && self.plan.class(a) == Class::Mask {
            let mask = self.mask(a, to.bytes());
            let one = self.e.make_constant(to, 1);
            let ones = self.e.b.ins().splat(lane_type(to), one);
            return self.map(mask, |lanes, x| lanes.e.b.ins().band(x, ones));
        }
        let x = self.get(a);
        match op {
            ConvertOp::SignExtend => self.widen(x, to.bytes(), true),
            ConvertOp::ZeroExtend => self.widen(x, to.bytes(), false),
            ConvertOp::Truncate => self.narrow(x, to.bytes()),
            ConvertOp::IntToFloat => {
                let x = if from.bytes() < 4 { self.widen(x, 4, true) } else { x };
                self.int_to_float(x, to)
            }
            ConvertOp::FloatToInt => self.map(x, |lanes, x| lanes.e.b.ins().fcvt_to_sint_sat(types::I32X4, x)),
            ConvertOp::Promote => self.halves(x, |lanes, low| lanes.e.b.ins().fvpromote_low(low)),
            ConvertOp::Demote => {
                let mut regs = Vec::new();
                for pair in x.regs.chunks(2) {
                    let low = self.e.b.ins().fvdemote(pair[0]);
                    let high = self.e.b.ins().fvdemote(pair[1]);
                    let picked: Vec<u8> = (0..8).chain(16..24).collect();
                    let both = self.shuffle(low, high, &picked);
                    regs.push(self.cast(both, types::F32X4));
                }
                Registers { width: 4, regs }
            }
            _ => self.map(x, |lanes, x| lanes.cast(x, lane_type(to))),
        }
    }

    fn int_to_float(&mut self, x: Registers, to: Type) -> Registers {
        if to == Type::F32 {
            return self.map(x, |lanes, x| lanes.e.b.ins().fcvt_from_sint(types::F32X4, x));
        }
        self.halves(x, |lanes, low| {
            let wide = lanes.e.b.ins().swiden_low(low);
            lanes.e.b.ins().fcvt_from_sint(types::F64X2, wide)
        })
    }

    /// Two registers of 8-byte lanes from each register of 4-byte lanes, by an op that reads its low half.
    fn halves(&mut self, x: Registers, mut make: impl FnMut(&mut Self, ir::Value) -> ir::Value) -> Registers {
        let mut regs = Vec::new();
        for &register in &x.regs {
            let ty = self.e.b.func.dfg.value_type(register);
            regs.push(make(self, register));
            let picked: Vec<u8> = (8..16).chain(8..16).collect();
            let high = self.shuffle(register, register, &picked);
            let high = self.cast(high, ty);
            regs.push(make(self, high));
        }
        Registers { width: 8, regs }
    }

    /// Integers to wider lanes.
    fn widen(&mut self, mut x: Registers, width: u32, signed: bool) -> Registers {
        while x.width < width {
            let mut regs = Vec::new();
            for &register in &x.regs {
                if signed {
                    regs.push(self.e.b.ins().swiden_low(register));
                    regs.push(self.e.b.ins().swiden_high(register));
                } else {
                    regs.push(self.e.b.ins().uwiden_low(register));
                    regs.push(self.e.b.ins().uwiden_high(register));
                }
            }
            x = Registers { width: x.width * 2, regs };
        }
        x
    }

    /// Integers to narrower lanes: the low bytes.
    fn narrow(&mut self, mut x: Registers, width: u32) -> Registers {
        while x.width > width {
            let half = x.width / 2;
            let picked: Vec<u8> = (0..32u8).filter(|byte| u32::from(*byte) % x.width < half).collect();
            let mut regs = Vec::new();
            for pair in x.regs.chunks(2) {
                let both = self.shuffle(pair[0], pair[1], &picked);
                regs.push(self.cast(both, int_lanes(half)));
            }
            x = Registers { width: half, regs };
        }
        x
    }

    fn resize_mask(&mut self, mask: Registers, width: u32) -> Registers {
        if mask.width < width { self.widen(mask, width, true) } else { self.narrow(mask, width) }
    }

    /// Sixteen bytes out of two registers.
    fn shuffle(&mut self, a: ir::Value, b: ir::Value, picked: &[u8]) -> ir::Value {
        let (a, b) = (self.cast(a, types::I8X16), self.cast(b, types::I8X16));
        let mask = self.e.b.func.dfg.immediates.push(picked.to_vec().into());
        self.e.b.ins().shuffle(a, b, mask)
    }
}
