//! From one kernel function to Cranelift's IR.
//!
//! What holds:
//! - Every region becomes a run of blocks entered at one place; a loop tests its condition before it is entered and at its end, so
//!   that a step costs one branch.
//! - Integer constants are written where they are used, so that they become immediates; float constants used in a loop are held
//!   in registers across the outermost loop.
//! - Integers of 8 and 16 bits are computed in 32 bits; memory, bitwise ops and choices keep them narrow.
//! - 128-bit ops that have no instructions take a path of 64-bit instructions where their arguments fit, else call a helper.
//! - A trap's code and place are written in a block of its own, out of the way.

use super::helpers::Helper;
use super::lanes;
use crate::kernel::{
    BinaryOp, CheckedOp, Cmp, ConvertOp, Definition, Function, FunctionId, Inst, LoopKind, MemFlags, Op, Region,
    RuntimeFn, Signature, TrapCode, Type, UnaryOp, Value, eval, runtime_params, runtime_result,
};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{
    self, AbiParam, Block, BlockArg, ExtFuncData, ExternalName, FuncRef, InstBuilder, MemFlagsData, StackSlotData,
    StackSlotKind, UserExternalName, types,
};
use cranelift_codegen::isa::{CallConv, TargetIsa};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Switch};
use cranelift_module::FuncId;
use runtime::abi::layout::{WORKER_TRAP_CODE, WORKER_TRAP_LOCATION};
use std::collections::HashMap;

/// The symbols that the functions of a module refer to.
pub(super) struct Imports {
    pub(super) functions: Vec<(FuncId, ir::Signature)>,
    pub(super) runtime: HashMap<RuntimeFn, FuncId>,
    pub(super) helpers: HashMap<Helper, FuncId>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Callee {
    Function(FunctionId),
    Runtime(RuntimeFn),
    Helper(Helper),
}

/// Above so many float constants in a loop, the rest are loaded where they are used.
const HELD_CONSTANTS: usize = 8;

/// A Cranelift function for a verified kernel function.
pub(super) fn emit(
    kernel: &Function,
    isa: &dyn TargetIsa,
    imports: &Imports,
    context: &mut FunctionBuilderContext,
    func: &mut ir::Function,
) {
    func.signature = signature(&kernel.signature, isa.default_call_conv());
    let mut emitter = Emitter {
        kernel,
        b: FunctionBuilder::new(func, context),
        call_conv: isa.default_call_conv(),
        imports,
        callees: HashMap::new(),
        values: vec![None; kernel.value_count()],
        constants: HashMap::new(),
        held: HashMap::new(),
        loops: 0,
        trap_exit: None,
    };
    emitter.function();
    emitter.b.seal_all_blocks();
    emitter.b.finalize(isa.frontend_config());
}

/// The type of a register that holds a value.
pub(super) fn clif_type(ty: Type) -> ir::Type {
    match ty {
        Type::I8 => types::I8,
        Type::I16 => types::I16,
        Type::I32 => types::I32,
        Type::I64 | Type::Ptr => types::I64,
        Type::I128 => types::I128,
        Type::F32 => types::F32,
        Type::F64 => types::F64,
    }
}

/// The signature as the system's calling convention has it: narrow integers are sign-extended, as the runtime's `i8` and `i16` ask.
pub(super) fn signature(signature: &Signature, call_conv: CallConv) -> ir::Signature {
    let param = |ty: &Type| match ty {
        Type::I8 | Type::I16 => AbiParam::new(clif_type(*ty)).sext(),
        _ => AbiParam::new(clif_type(*ty)),
    };
    let mut result = ir::Signature::new(call_conv);
    result.params.extend(signature.params.iter().map(param));
    result.returns.extend(signature.result.iter().map(param));
    result
}

/// The signature of a runtime function.
pub(super) fn runtime_signature(function: RuntimeFn, call_conv: CallConv) -> ir::Signature {
    let params = runtime_params(function);
    signature(&Signature::new(&params, runtime_result(function)), call_conv)
}

/// The signature of a 128-bit helper.
pub(super) fn helper_signature(helper: Helper, call_conv: CallConv) -> ir::Signature {
    let (params, result): (&[Type], Option<Type>) = match helper {
        Helper::Mul => (&[Type::I64, Type::I64, Type::I64, Type::I64, Type::Ptr], Some(Type::I32)),
        Helper::Div | Helper::Rem => (&[Type::I64, Type::I64, Type::I64, Type::I64, Type::Ptr], None),
        Helper::ToF64 => (&[Type::I64, Type::I64], Some(Type::F64)),
        Helper::ToF32 => (&[Type::I64, Type::I64], Some(Type::F32)),
        Helper::FromF64 => (&[Type::F64, Type::Ptr], None),
    };
    signature(&Signature::new(params, result), call_conv)
}

pub(super) fn int_cc(cmp: Cmp) -> IntCC {
    match cmp {
        Cmp::Eq => IntCC::Equal,
        Cmp::Ne => IntCC::NotEqual,
        Cmp::Lt => IntCC::SignedLessThan,
        Cmp::Le => IntCC::SignedLessThanOrEqual,
        Cmp::Gt => IntCC::SignedGreaterThan,
        Cmp::Ge => IntCC::SignedGreaterThanOrEqual,
        Cmp::ULt => IntCC::UnsignedLessThan,
        Cmp::ULe => IntCC::UnsignedLessThanOrEqual,
        Cmp::UGt => IntCC::UnsignedGreaterThan,
        Cmp::UGe => IntCC::UnsignedGreaterThanOrEqual,
    }
}

/// The verifier lets no unsigned comparison of floats pass.
pub(super) fn float_cc(cmp: Cmp) -> FloatCC {
    match cmp {
        Cmp::Eq => FloatCC::Equal,
        Cmp::Ne => FloatCC::NotEqual,
        Cmp::Lt | Cmp::ULt => FloatCC::LessThan,
        Cmp::Le | Cmp::ULe => FloatCC::LessThanOrEqual,
        Cmp::Gt | Cmp::UGt => FloatCC::GreaterThan,
        Cmp::Ge | Cmp::UGe => FloatCC::GreaterThanOrEqual,
    }
}

pub(super) fn memory_flags(flags: MemFlags) -> MemFlagsData {
    let mut result = MemFlagsData::new().with_notrap();
    if flags.aligned {
        result = result.with_aligned();
    }
    if flags.readonly || flags.always {
        result = result.with_readonly();
    }
    result
}

fn block_args(values: &[ir::Value]) -> Vec<BlockArg> {
    values.iter().map(|&value| BlockArg::Value(value)).collect()
}

pub(super) struct Emitter<'a> {
    pub(super) kernel: &'a Function,
    pub(super) b: FunctionBuilder<'a>,
    call_conv: CallConv,
    imports: &'a Imports,
    callees: HashMap<Callee, FuncRef>,
    /// What stands for each kernel value where the code is now.
    values: Vec<Option<ir::Value>>,
    /// Constants written so far, good in the block that they were written in.
    constants: HashMap<Value, (Block, ir::Value)>,
    /// Float constants in registers across the loop that is open.
    held: HashMap<Value, ir::Value>,
    loops: usize,
    trap_exit: Option<Block>,
}

impl Emitter<'_> {
    fn function(&mut self) {
        let entry = self.b.create_block();
        self.b.append_block_params_for_function_params(entry);
        self.b.switch_to_block(entry);
        let params = self.b.block_params(entry).to_vec();
        for (&param, value) in self.kernel.params().iter().zip(params) {
            self.define(param, value);
        }
        let body = self.kernel.body();
        let results = self.region(body);
        self.b.ins().return_(&results);
        self.fill_trap_exit();
    }

    // ---- values ----

    pub(super) fn define(&mut self, value: Value, is: ir::Value) {
        self.values[value.index()] = Some(is);
    }

    fn define_all(&mut self, values: &[Value], are: &[ir::Value]) {
        for (&value, &is) in values.iter().zip(are) {
            self.define(value, is);
        }
    }

    pub(super) fn get(&mut self, value: Value) -> ir::Value {
        if let Definition::Constant(bits) = self.kernel.definition(value) {
            return self.constant(value, bits);
        }
        self.values[value.index()].expect("a verified function defines values before their use")
    }

    fn all(&mut self, values: &[Value]) -> Vec<ir::Value> {
        values.iter().map(|&value| self.get(value)).collect()
    }

    pub(super) fn block(&self) -> Block {
        self.b.current_block().expect("code is written into an open block")
    }

    fn constant(&mut self, value: Value, bits: u128) -> ir::Value {
        if let Some(&held) = self.held.get(&value) {
            return held;
        }
        let here = self.block();
        if let Some(&(block, known)) = self.constants.get(&value)
            && block == here
        {
            return known;
        }
        let made = self.make_constant(self.kernel.ty(value), bits);
        self.constants.insert(value, (here, made));
        made
    }

    pub(super) fn make_constant(&mut self, ty: Type, bits: u128) -> ir::Value {
        match ty {
            Type::F32 => self.b.ins().f32const(f32::from_bits(bits as u32)),
            Type::F64 => self.b.ins().f64const(f64::from_bits(bits as u64)),
            Type::I128 => {
                let lo = self.word(bits as u64);
                let hi = self.word((bits >> 64) as u64);
                self.b.ins().iconcat(lo, hi)
            }
            _ => self.b.ins().iconst(clif_type(ty), bits as u64 as i64),
        }
    }

    fn word(&mut self, bits: u64) -> ir::Value {
        self.b.ins().iconst(types::I64, bits as i64)
    }

    fn ty(&self, value: Value) -> Type {
        self.kernel.ty(value)
    }

    // ---- regions ----

    /// Writes a region's code; returns what it yields.
    fn region(&mut self, region: Region) -> Vec<ir::Value> {
        let kernel = self.kernel;
        let data = kernel.region(region);
        for &inst in &data.insts {
            self.inst(inst);
        }
        self.all(&data.yields)
    }

    /// Writes a region's code with its parameters bound.
    fn region_with(&mut self, region: Region, params: &[ir::Value]) -> Vec<ir::Value> {
        let kernel = self.kernel;
        self.define_all(&kernel.region(region).params, params);
        self.region(region)
    }

    fn new_block(&mut self, params: &[Value]) -> Block {
        let block = self.b.create_block();
        for &param in params {
            self.b.append_block_param(block, clif_type(self.kernel.ty(param)));
        }
        block
    }

    pub(super) fn jump(&mut self, block: Block, args: &[ir::Value]) {
        let args = block_args(args);
        self.b.ins().jump(block, &args);
    }

    pub(super) fn branch(
        &mut self,
        condition: ir::Value,
        (yes, yes_args): (Block, &[ir::Value]),
        (no, no_args): (Block, &[ir::Value]),
    ) {
        let (yes_args, no_args) = (block_args(yes_args), block_args(no_args));
        self.b.ins().brif(condition, yes, &yes_args, no, &no_args);
    }

    fn cold_block(&mut self) -> Block {
        let block = self.b.create_block();
        self.b.set_cold_block(block);
        block
    }

    // ---- instructions ----

    fn inst(&mut self, inst: Inst) {
        let kernel = self.kernel;
        let data = kernel.inst(inst);
        match &data.op {
            Op::If { condition, then_region, else_region } => {
                self.if_op(*condition, *then_region, *else_region, &data.results)
            }
            Op::Switch { selector, cases, default } => self.switch_op(*selector, cases, *default, &data.results),
            Op::For { kind, begin, end, step, init, body } => {
                self.enter_loop(*body);
                let results = self.for_op(*kind, *begin, *end, *step, init, *body);
                self.leave_loop();
                self.define_all(&data.results, &results);
            }
            Op::While { init, body } => {
                self.enter_loop(*body);
                self.while_op(init, *body, &data.results);
                self.leave_loop();
            }
            op => {
                let results = self.simple(op);
                self.define_all(&data.results, &results);
            }
        }
    }

    /// An op without regions: its results.
    pub(super) fn simple(&mut self, op: &Op) -> Vec<ir::Value> {
        match op {
            Op::Unary(op, a) => vec![self.unary(*op, *a)],
            Op::Binary(op, a, b) => vec![self.binary(*op, *a, *b)],
            Op::Checked(op, a, b) => {
                let (value, overflow) = self.checked(*op, *a, *b);
                vec![value, overflow]
            }
            Op::Fma(a, b, c) => {
                let (a, b, c) = (self.get(*a), self.get(*b), self.get(*c));
                vec![self.b.ins().fma(a, b, c)]
            }
            Op::Compare(cmp, a, b) => vec![self.compare(*cmp, *a, *b)],
            Op::Select(condition, a, b) => {
                let (condition, a, b) = (self.get(*condition), self.get(*a), self.get(*b));
                vec![self.select(condition, a, b)]
            }
            Op::Convert(op, a, to) => vec![self.convert(*op, *a, *to)],
            Op::Concat64(lo, hi) => {
                let (lo, hi) = (self.get(*lo), self.get(*hi));
                vec![self.b.ins().iconcat(lo, hi)]
            }
            Op::Offset { base, index, scale, displacement } => vec![self.offset(*base, *index, *scale, *displacement)],
            Op::Load { ty, pointer, offset, flags } => {
                let pointer = self.get(*pointer);
                let flags = memory_flags(*flags);
                vec![self.b.ins().load(clif_type(*ty), flags, pointer, *offset)]
            }
            Op::Store { value, pointer, offset, flags } => {
                let (value, pointer) = (self.get(*value), self.get(*pointer));
                let flags = memory_flags(*flags);
                self.b.ins().store(flags, value, pointer, *offset);
                Vec::new()
            }
            Op::CallRuntime(callee, args) => {
                let args = self.all(args);
                self.call(Callee::Runtime(*callee), &args)
            }
            Op::Call(callee, args) => {
                let args = self.all(args);
                self.call(Callee::Function(callee.id()), &args)
            }
            Op::TrapIf { condition, code, location } => {
                self.trap_if(*condition, *code as u32, *location);
                Vec::new()
            }
            Op::FailIf { condition, status, location } => {
                self.fail_if(*condition, *status, *location);
                Vec::new()
            }
            Op::ReturnIf { condition, value } => {
                let condition = self.get(*condition);
                let (leave, stay) = (self.cold_block(), self.b.create_block());
                self.branch(condition, (leave, &[]), (stay, &[]));
                self.b.switch_to_block(leave);
                let value = self.get(*value);
                self.b.ins().return_(&[value]);
                self.b.switch_to_block(stay);
                Vec::new()
            }
            Op::If { .. } | Op::Switch { .. } | Op::For { .. } | Op::While { .. } => Vec::new(),
        }
    }

    /// A choice of I128 is one of each half: Cranelift's optimizer would make a 128-bit minimum of a comparison and a choice, which
    /// it then cannot write.
    fn select(&mut self, condition: ir::Value, a: ir::Value, b: ir::Value) -> ir::Value {
        if self.b.func.dfg.value_type(a) != types::I128 {
            return self.b.ins().select(condition, a, b);
        }
        let (a_lo, a_hi) = self.b.ins().isplit(a);
        let (b_lo, b_hi) = self.b.ins().isplit(b);
        let lo = self.b.ins().select(condition, a_lo, b_lo);
        let hi = self.b.ins().select(condition, a_hi, b_hi);
        self.b.ins().iconcat(lo, hi)
    }

    fn unary(&mut self, op: UnaryOp, a: Value) -> ir::Value {
        let ty = self.ty(a);
        let x = self.get(a);
        match op {
            UnaryOp::Neg => match ty {
                Type::I8 | Type::I16 => {
                    let wide = self.b.ins().sextend(types::I32, x);
                    let negated = self.b.ins().ineg(wide);
                    self.b.ins().ireduce(clif_type(ty), negated)
                }
                _ => self.b.ins().ineg(x),
            },
            UnaryOp::Not => self.b.ins().bnot(x),
            UnaryOp::PopCount => self.b.ins().popcnt(x),
            UnaryOp::FNeg => self.b.ins().fneg(x),
            UnaryOp::FAbs => self.b.ins().fabs(x),
            UnaryOp::FSqrt => self.b.ins().sqrt(x),
            UnaryOp::FFloor => self.b.ins().floor(x),
            UnaryOp::FCeil => self.b.ins().ceil(x),
            UnaryOp::FTrunc => self.b.ins().trunc(x),
            UnaryOp::FNearest => self.b.ins().nearest(x),
        }
    }

    /// An integer of 8 or 16 bits in 32; constants are written wide at once.
    fn widened(&mut self, value: Value, signed: bool) -> ir::Value {
        let ty = self.ty(value);
        if let Some(bits) = self.kernel.constant(value) {
            let number = if signed { eval::signed(ty, bits) as i64 } else { bits as i64 };
            return self.b.ins().iconst(types::I32, i64::from(number as i32 as u32));
        }
        let x = self.get(value);
        if signed { self.b.ins().sextend(types::I32, x) } else { self.b.ins().uextend(types::I32, x) }
    }

    fn binary(&mut self, op: BinaryOp, a: Value, b: Value) -> ir::Value {
        let ty = self.ty(a);
        let narrow = matches!(ty, Type::I8 | Type::I16);
        if op.is_shift() {
            return self.shift(op, a, b);
        }
        let bitwise = matches!(op, BinaryOp::And | BinaryOp::Or | BinaryOp::Xor);
        if narrow && !bitwise {
            let (x, y) = (self.widened(a, true), self.widened(b, true));
            let wide = self.int_binary(op, Type::I32, x, y);
            return self.b.ins().ireduce(clif_type(ty), wide);
        }
        let (x, y) = (self.get(a), self.get(b));
        self.scalar_binary(op, ty, x, y)
    }

    /// An op on values of a type that needs no widening.
    pub(super) fn scalar_binary(&mut self, op: BinaryOp, ty: Type, x: ir::Value, y: ir::Value) -> ir::Value {
        match op {
            BinaryOp::FAdd => self.b.ins().fadd(x, y),
            BinaryOp::FSub => self.b.ins().fsub(x, y),
            BinaryOp::FMul => self.b.ins().fmul(x, y),
            BinaryOp::FDiv => self.b.ins().fdiv(x, y),
            BinaryOp::FMin => {
                let less = self.b.ins().fcmp(FloatCC::LessThan, x, y);
                self.b.ins().select(less, x, y)
            }
            BinaryOp::FMax => {
                // Written as `b < a` so that it becomes one instruction.
                let less = self.b.ins().fcmp(FloatCC::LessThan, y, x);
                self.b.ins().select(less, x, y)
            }
            _ => self.int_binary(op, ty, x, y),
        }
    }

    fn int_binary(&mut self, op: BinaryOp, ty: Type, x: ir::Value, y: ir::Value) -> ir::Value {
        match op {
            BinaryOp::Add => self.b.ins().iadd(x, y),
            BinaryOp::Sub => self.b.ins().isub(x, y),
            BinaryOp::Mul => self.b.ins().imul(x, y),
            BinaryOp::SDiv if ty == Type::I128 => self.wide_division(Helper::Div, x, y),
            BinaryOp::SRem if ty == Type::I128 => self.wide_division(Helper::Rem, x, y),
            BinaryOp::SDiv => self.b.ins().sdiv(x, y),
            BinaryOp::SRem => self.b.ins().srem(x, y),
            BinaryOp::UMulHi => self.b.ins().umulhi(x, y),
            BinaryOp::And => self.b.ins().band(x, y),
            BinaryOp::Or => self.b.ins().bor(x, y),
            BinaryOp::Xor => self.b.ins().bxor(x, y),
            BinaryOp::SMin => {
                let less = self.b.ins().icmp(IntCC::SignedLessThan, x, y);
                self.select(less, x, y)
            }
            BinaryOp::SMax => {
                let greater = self.b.ins().icmp(IntCC::SignedGreaterThan, x, y);
                self.select(greater, x, y)
            }
            BinaryOp::Shl
            | BinaryOp::SShr
            | BinaryOp::UShr
            | BinaryOp::Rotl
            | BinaryOp::FAdd
            | BinaryOp::FSub
            | BinaryOp::FMul
            | BinaryOp::FDiv
            | BinaryOp::FMin
            | BinaryOp::FMax => unreachable!("shifts and float ops are written elsewhere"),
        }
    }

    /// The amount of a shift of a type.
    pub(super) fn shift_count(&mut self, amount: Value, ty: Type) -> ir::Value {
        if let Some(bits) = self.kernel.constant(amount) {
            let count = (bits as u32) & (ty.bits() - 1);
            return self.b.ins().iconst(types::I32, i64::from(count));
        }
        let y = match self.ty(amount) {
            Type::I8 | Type::I16 => self.widened(amount, false),
            _ => self.get(amount),
        };
        if !matches!(ty, Type::I8 | Type::I16) {
            return y;
        }
        let y_ty = self.b.func.dfg.value_type(y);
        let mask = self.b.ins().iconst(y_ty, i64::from(ty.bits() - 1));
        self.b.ins().band(y, mask)
    }

    /// Amounts count modulo the width: of 8 and 16 bits that has to be written, as the shift is done in 32.
    fn shift(&mut self, op: BinaryOp, a: Value, amount: Value) -> ir::Value {
        let ty = self.ty(a);
        let narrow = matches!(ty, Type::I8 | Type::I16);
        let x = match op {
            BinaryOp::UShr if narrow => self.widened(a, false),
            _ if narrow => self.widened(a, true),
            _ => self.get(a),
        };
        let y = self.shift_count(amount, ty);
        let shifted = match op {
            BinaryOp::Shl => self.b.ins().ishl(x, y),
            BinaryOp::SShr => self.b.ins().sshr(x, y),
            BinaryOp::UShr => self.b.ins().ushr(x, y),
            _ => self.b.ins().rotl(x, y),
        };
        if narrow { self.b.ins().ireduce(clif_type(ty), shifted) } else { shifted }
    }

    fn checked(&mut self, op: CheckedOp, a: Value, b: Value) -> (ir::Value, ir::Value) {
        let ty = self.ty(a);
        let (x, y) = (self.get(a), self.get(b));
        match (op, ty) {
            (CheckedOp::Mul, Type::I128) => self.wide_mul_checked(x, y),
            (CheckedOp::Add, _) => self.b.ins().sadd_overflow(x, y),
            (CheckedOp::Sub, _) => self.b.ins().ssub_overflow(x, y),
            (CheckedOp::Mul, _) => self.b.ins().smul_overflow(x, y),
        }
    }

    fn compare(&mut self, cmp: Cmp, a: Value, b: Value) -> ir::Value {
        let ty = self.ty(a);
        if ty.is_float() {
            let (x, y) = (self.get(a), self.get(b));
            return self.b.ins().fcmp(float_cc(cmp), x, y);
        }
        let (x, y) = match ty {
            Type::I8 | Type::I16 => {
                let signed = matches!(cmp, Cmp::Lt | Cmp::Le | Cmp::Gt | Cmp::Ge);
                (self.widened(a, signed), self.widened(b, signed))
            }
            _ => (self.get(a), self.get(b)),
        };
        self.b.ins().icmp(int_cc(cmp), x, y)
    }

    fn convert(&mut self, op: ConvertOp, a: Value, to: Type) -> ir::Value {
        let from = self.ty(a);
        let x = self.get(a);
        let target = clif_type(to);
        match op {
            ConvertOp::SignExtend if to == Type::I128 && from != Type::I64 => {
                let half = self.b.ins().sextend(types::I64, x);
                self.b.ins().sextend(types::I128, half)
            }
            ConvertOp::SignExtend => self.b.ins().sextend(target, x),
            ConvertOp::ZeroExtend if to == Type::I128 && from != Type::I64 => {
                let half = self.b.ins().uextend(types::I64, x);
                self.b.ins().uextend(types::I128, half)
            }
            ConvertOp::ZeroExtend => self.b.ins().uextend(target, x),
            ConvertOp::Truncate if from == Type::I128 => {
                let (lo, _) = self.b.ins().isplit(x);
                match to {
                    Type::I64 => lo,
                    _ => self.b.ins().ireduce(target, lo),
                }
            }
            ConvertOp::Truncate => self.b.ins().ireduce(target, x),
            ConvertOp::IntToFloat => match from {
                Type::I8 | Type::I16 => {
                    let wide = self.b.ins().sextend(types::I32, x);
                    self.b.ins().fcvt_from_sint(target, wide)
                }
                Type::I128 => self.wide_to_float(x, to),
                _ => self.b.ins().fcvt_from_sint(target, x),
            },
            ConvertOp::FloatToInt if to == Type::I128 => {
                let x = match from {
                    Type::F32 => self.b.ins().fpromote(types::F64, x),
                    _ => x,
                };
                self.float_to_wide(x)
            }
            ConvertOp::FloatToInt => self.b.ins().fcvt_to_sint_sat(target, x),
            ConvertOp::Promote => self.b.ins().fpromote(target, x),
            ConvertOp::Demote => self.b.ins().fdemote(target, x),
            // An address is an I64 here.
            ConvertOp::Bitcast if clif_type(from) == target => x,
            ConvertOp::Bitcast => self.b.ins().bitcast(target, MemFlagsData::new(), x),
            ConvertOp::Lo64 => self.b.ins().isplit(x).0,
            ConvertOp::Hi64 => self.b.ins().isplit(x).1,
        }
    }

    pub(super) fn offset(&mut self, base: Value, index: Value, scale: i64, displacement: i64) -> ir::Value {
        let mut place = self.get(base);
        if scale != 0 {
            let index = self.get(index);
            let scaled = self.scaled(index, scale);
            place = self.b.ins().iadd(place, scaled);
        }
        if displacement != 0 {
            let displacement = self.word(displacement as u64);
            place = self.b.ins().iadd(place, displacement);
        }
        place
    }

    /// index * scale, by a shift where that is possible: shifts of up to 3 fold into addresses.
    fn scaled(&mut self, index: ir::Value, scale: i64) -> ir::Value {
        if scale == 1 {
            return index;
        }
        if scale > 0 && scale.count_ones() == 1 {
            let count = i64::from(scale.trailing_zeros());
            let count = self.b.ins().iconst(types::I32, count);
            return self.b.ins().ishl(index, count);
        }
        let scale = self.word(scale as u64);
        self.b.ins().imul(index, scale)
    }

    // ---- 128 bits ----

    /// Whether the high half of an I128 is the sign of its low half.
    fn fits_word(&mut self, lo: ir::Value, hi: ir::Value) -> ir::Value {
        let count = self.b.ins().iconst(types::I32, 63);
        let sign = self.b.ins().sshr(lo, count);
        self.b.ins().icmp(IntCC::Equal, hi, sign)
    }

    fn two_words(&mut self) -> (ir::StackSlot, ir::Value) {
        let slot = self.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, 16, 3));
        let address = self.b.ins().stack_addr(types::I64, slot, 0);
        (slot, address)
    }

    fn load_words(&mut self, address: ir::Value) -> ir::Value {
        let flags = MemFlagsData::trusted();
        let lo = self.b.ins().load(types::I64, flags, address, 0);
        let hi = self.b.ins().load(types::I64, flags, address, 8);
        self.b.ins().iconcat(lo, hi)
    }

    /// Two ways to one result: a short one if the condition holds, a call of a helper otherwise.
    fn two_ways(
        &mut self,
        condition: ir::Value,
        results: &[ir::Type],
        short: impl FnOnce(&mut Self) -> Vec<ir::Value>,
        long: impl FnOnce(&mut Self) -> Vec<ir::Value>,
    ) -> Vec<ir::Value> {
        let (near, far, join) = (self.b.create_block(), self.cold_block(), self.b.create_block());
        for &ty in results {
            self.b.append_block_param(join, ty);
        }
        self.branch(condition, (near, &[]), (far, &[]));
        self.b.switch_to_block(near);
        let values = short(self);
        self.jump(join, &values);
        self.b.switch_to_block(far);
        let values = long(self);
        self.jump(join, &values);
        self.b.switch_to_block(join);
        self.b.block_params(join).to_vec()
    }

    fn wide_mul_checked(&mut self, x: ir::Value, y: ir::Value) -> (ir::Value, ir::Value) {
        let (x_lo, x_hi) = self.b.ins().isplit(x);
        let (y_lo, y_hi) = self.b.ins().isplit(y);
        let x_fits = self.fits_word(x_lo, x_hi);
        let y_fits = self.fits_word(y_lo, y_hi);
        let fit = self.b.ins().band(x_fits, y_fits);
        let results = self.two_ways(
            fit,
            &[types::I128, types::I8],
            |e| {
                let lo = e.b.ins().imul(x_lo, y_lo);
                let hi = e.b.ins().smulhi(x_lo, y_lo);
                let product = e.b.ins().iconcat(lo, hi);
                vec![product, e.b.ins().iconst(types::I8, 0)]
            },
            |e| {
                let (_, out) = e.two_words();
                let args = [x_lo, x_hi, y_lo, y_hi, out];
                let overflow = e.call(Callee::Helper(Helper::Mul), &args)[0];
                let overflow = e.b.ins().ireduce(types::I8, overflow);
                vec![e.load_words(out), overflow]
            },
        );
        (results[0], results[1])
    }

    fn wide_division(&mut self, helper: Helper, x: ir::Value, y: ir::Value) -> ir::Value {
        let (x_lo, x_hi) = self.b.ins().isplit(x);
        let (y_lo, y_hi) = self.b.ins().isplit(y);
        let x_fits = self.fits_word(x_lo, x_hi);
        // A divisor of at least 1: neither 0 nor -1.
        let zero = self.word(0);
        let no_high = self.b.ins().icmp(IntCC::Equal, y_hi, zero);
        let positive = self.b.ins().icmp(IntCC::SignedGreaterThan, y_lo, zero);
        let y_fits = self.b.ins().band(no_high, positive);
        let fit = self.b.ins().band(x_fits, y_fits);
        self.two_ways(
            fit,
            &[types::I128],
            |e| {
                let short = match helper {
                    Helper::Div => e.b.ins().sdiv(x_lo, y_lo),
                    _ => e.b.ins().srem(x_lo, y_lo),
                };
                vec![e.b.ins().sextend(types::I128, short)]
            },
            |e| {
                let (_, out) = e.two_words();
                e.call(Callee::Helper(helper), &[x_lo, x_hi, y_lo, y_hi, out]);
                vec![e.load_words(out)]
            },
        )[0]
    }

    fn wide_to_float(&mut self, x: ir::Value, to: Type) -> ir::Value {
        let (lo, hi) = self.b.ins().isplit(x);
        let fit = self.fits_word(lo, hi);
        let target = clif_type(to);
        let helper = match to {
            Type::F32 => Helper::ToF32,
            _ => Helper::ToF64,
        };
        self.two_ways(
            fit,
            &[target],
            |e| vec![e.b.ins().fcvt_from_sint(target, lo)],
            |e| e.call(Callee::Helper(helper), &[lo, hi]),
        )[0]
    }

    fn float_to_wide(&mut self, x: ir::Value) -> ir::Value {
        let limit = self.b.ins().f64const(9.0e18);
        let size = self.b.ins().fabs(x);
        let fit = self.b.ins().fcmp(FloatCC::LessThan, size, limit);
        self.two_ways(
            fit,
            &[types::I128],
            |e| {
                let short = e.b.ins().fcvt_to_sint_sat(types::I64, x);
                vec![e.b.ins().sextend(types::I128, short)]
            },
            |e| {
                let (_, out) = e.two_words();
                e.call(Callee::Helper(Helper::FromF64), &[x, out]);
                vec![e.load_words(out)]
            },
        )[0]
    }

    // ---- calls and traps ----

    fn call(&mut self, callee: Callee, args: &[ir::Value]) -> Vec<ir::Value> {
        let reference = self.callee(callee);
        let inst = self.b.ins().call(reference, args);
        self.b.inst_results(inst).to_vec()
    }

    fn callee(&mut self, callee: Callee) -> FuncRef {
        if let Some(&known) = self.callees.get(&callee) {
            return known;
        }
        let (id, signature) = match callee {
            Callee::Function(id) => self.imports.functions[id.index()].clone(),
            Callee::Runtime(function) => (self.imports.runtime[&function], runtime_signature(function, self.call_conv)),
            Callee::Helper(helper) => (self.imports.helpers[&helper], helper_signature(helper, self.call_conv)),
        };
        let signature = self.b.import_signature(signature);
        let name = self.b.func.declare_imported_user_function(UserExternalName { namespace: 0, index: id.as_u32() });
        let reference = self.b.import_function(ExtFuncData {
            name: ExternalName::user(name),
            signature,
            colocated: false,
            patchable: false,
        });
        self.callees.insert(callee, reference);
        reference
    }

    fn trap_if(&mut self, condition: Value, code: u32, location: u32) {
        let condition = self.get(condition);
        let exit = self.trap_exit();
        let (site, stay) = (self.cold_block(), self.b.create_block());
        self.branch(condition, (site, &[]), (stay, &[]));
        self.b.switch_to_block(site);
        let code = self.word(u64::from(code));
        let location = self.word(u64::from(location));
        self.jump(exit, &[code, location]);
        self.b.switch_to_block(stay);
    }

    fn fail_if(&mut self, condition: Value, status: Option<Value>, location: u32) {
        let condition = self.get(condition);
        let (site, stay) = (self.cold_block(), self.b.create_block());
        self.branch(condition, (site, &[]), (stay, &[]));
        self.b.switch_to_block(site);
        if let Some(worker) = self.kernel.signature.worker {
            let worker = self.get(self.kernel.params()[worker]);
            let location = self.word(u64::from(location));
            let flags = MemFlagsData::trusted();
            let slot = WORKER_TRAP_LOCATION.offset;
            self.b.ins().store(flags, location, worker, slot);
            let status = match status {
                Some(status) => self.get(status),
                None => {
                    let slot = WORKER_TRAP_CODE.offset;
                    let code = self.b.ins().load(types::I64, flags, worker, slot);
                    let code = self.b.ins().ireduce(types::I32, code);
                    let panic = TrapCode::Panic as i32;
                    let panic = self.b.ins().iconst(types::I32, i64::from(panic));
                    self.b.ins().select(code, code, panic)
                }
            };
            self.b.ins().return_(&[status]);
        }
        self.b.switch_to_block(stay);
    }

    /// The block that every trap of the function ends in: takes code and location.
    fn trap_exit(&mut self) -> Block {
        if let Some(block) = self.trap_exit {
            return block;
        }
        let block = self.cold_block();
        self.b.append_block_param(block, types::I64);
        self.b.append_block_param(block, types::I64);
        self.trap_exit = Some(block);
        block
    }

    /// At the function's end: writes the trap into the worker block, returns its code.
    fn fill_trap_exit(&mut self) {
        let (Some(block), Some(worker)) = (self.trap_exit, self.kernel.signature.worker) else {
            return;
        };
        self.b.switch_to_block(block);
        let (code, location) = (self.b.block_params(block)[0], self.b.block_params(block)[1]);
        let worker = self.get(self.kernel.params()[worker]);
        let flags = MemFlagsData::trusted();
        self.b.ins().store(flags, code, worker, WORKER_TRAP_CODE.offset);
        self.b.ins().store(flags, location, worker, WORKER_TRAP_LOCATION.offset);
        let status = self.b.ins().ireduce(types::I32, code);
        self.b.ins().return_(&[status]);
    }

    // ---- control ----

    /// The comparison or choice of comparisons that a condition is the inverse of: branching on it the other way saves the inversion.
    fn inverted(&self, condition: Value) -> Option<Value> {
        let Definition::Result(inst, _) = self.kernel.definition(condition) else {
            return None;
        };
        match self.kernel.inst(inst).op {
            Op::Binary(BinaryOp::Xor, a, b) if self.kernel.constant(b) == Some(1) && self.is_flag(a, 8) => Some(a),
            _ => None,
        }
    }

    /// Whether a value is seen to be 0 or 1 within so many steps.
    fn is_flag(&self, value: Value, steps: u32) -> bool {
        if steps == 0 {
            return false;
        }
        let Definition::Result(inst, number) = self.kernel.definition(value) else {
            return false;
        };
        match self.kernel.inst(inst).op {
            Op::Compare(..) => true,
            Op::Checked(..) => number == 1,
            Op::Binary(BinaryOp::And | BinaryOp::Or | BinaryOp::Xor, a, b) => {
                let flag =
                    |v: Value| self.kernel.constant(v).is_some_and(|bits| bits <= 1) || self.is_flag(v, steps - 1);
                flag(a) && flag(b)
            }
            _ => false,
        }
    }

    fn if_op(&mut self, condition: Value, yes: Region, no: Region, results: &[Value]) {
        let kernel = self.kernel;
        let (condition, yes, no) = match self.inverted(condition) {
            Some(inner) => (inner, no, yes),
            None => (condition, yes, no),
        };
        let condition = self.get(condition);
        let join = self.new_block(results);
        let then_block = self.b.create_block();
        // An empty else needs no block.
        let no_data = kernel.region(no);
        if no_data.insts.is_empty() {
            let otherwise = self.all(&no_data.yields);
            self.branch(condition, (then_block, &[]), (join, &otherwise));
        } else {
            let else_block = self.b.create_block();
            self.branch(condition, (then_block, &[]), (else_block, &[]));
            self.b.switch_to_block(else_block);
            let values = self.region(no);
            self.jump(join, &values);
        }
        self.b.switch_to_block(then_block);
        let values = self.region(yes);
        self.jump(join, &values);
        self.b.switch_to_block(join);
        let values = self.b.block_params(join).to_vec();
        self.define_all(results, &values);
    }

    fn switch_op(&mut self, selector: Value, cases: &[(i64, Region)], default: Region, results: &[Value]) {
        let ty = self.ty(selector);
        let selector = match ty {
            Type::I8 | Type::I16 => self.widened(selector, false),
            _ => self.get(selector),
        };
        let join = self.new_block(results);
        let default_block = self.b.create_block();
        let mut switch = Switch::new();
        let mut blocks = Vec::new();
        for &(value, region) in cases {
            let block = self.b.create_block();
            switch.set_entry(eval::from_signed(ty, i128::from(value)), block);
            blocks.push((block, region));
        }
        switch.emit(&mut self.b, selector, default_block);
        blocks.push((default_block, default));
        for (block, region) in blocks {
            self.b.switch_to_block(block);
            let values = self.region(region);
            self.jump(join, &values);
        }
        self.b.switch_to_block(join);
        let values = self.b.block_params(join).to_vec();
        self.define_all(results, &values);
    }

    /// Before an outermost loop: float constants that it uses go into registers.
    fn enter_loop(&mut self, body: Region) {
        self.loops += 1;
        if self.loops > 1 {
            return;
        }
        let mut found = Vec::new();
        self.float_constants(body, &mut found);
        for value in found {
            if let Some(bits) = self.kernel.constant(value) {
                let made = self.make_constant(self.kernel.ty(value), bits);
                self.held.insert(value, made);
            }
        }
    }

    fn leave_loop(&mut self) {
        self.loops -= 1;
        if self.loops == 0 {
            self.held.clear();
        }
    }

    fn float_constants(&self, region: Region, found: &mut Vec<Value>) {
        let kernel = self.kernel;
        for &inst in &kernel.region(region).insts {
            let op = &kernel.inst(inst).op;
            op.each_operand(|value| {
                let wanted = kernel.ty(value).is_float() && kernel.constant(value).is_some();
                if wanted && found.len() < HELD_CONSTANTS && !found.contains(&value) {
                    found.push(value);
                }
            });
            op.each_region(|inner| self.float_constants(inner, found));
        }
    }

    fn for_op(
        &mut self,
        kind: LoopKind,
        begin: Value,
        end: Value,
        step: i64,
        init: &[Value],
        body: Region,
    ) -> Vec<ir::Value> {
        let init = self.all(init);
        let word = |value: Value| self.kernel.constant(value).map(|bits| bits as u64 as i64);
        let known = word(begin).zip(word(end));
        let steps = known.map(|(first, last)| trip_count(first, last, step));
        if let (LoopKind::Unrolled(times), Some((first, _)), Some(steps)) = (kind, known, steps)
            && steps <= i64::from(times)
        {
            return self.straight(first, step, steps, init, body);
        }
        let (begin, end) = (self.get(begin), self.get(end));
        match kind {
            LoopKind::Serial => self.serial(begin, end, step, init, body),
            LoopKind::Unrolled(times) => self.unrolled(times.clamp(1, 64), begin, end, step, init, body),
            LoopKind::Vector(_) => {
                let rest = lanes::vector_part(self, (kind, step, body), steps, (begin, end), init);
                match rest.empty {
                    true => rest.carried,
                    false => self.serial(rest.index, end, step, rest.carried, body),
                }
            }
        }
    }

    /// A loop of few steps, written out.
    fn straight(
        &mut self,
        first: i64,
        step: i64,
        steps: i64,
        mut carried: Vec<ir::Value>,
        body: Region,
    ) -> Vec<ir::Value> {
        for number in 0..steps {
            let mut params = vec![self.word(first.wrapping_add(number.wrapping_mul(step)) as u64)];
            params.extend(carried);
            carried = self.region_with(body, &params);
        }
        carried
    }

    fn serial(
        &mut self,
        begin: ir::Value,
        end: ir::Value,
        step: i64,
        init: Vec<ir::Value>,
        body: Region,
    ) -> Vec<ir::Value> {
        let (_, carried) = self.counted(begin, end, step, 1, init, body);
        carried
    }

    fn unrolled(
        &mut self,
        times: u32,
        begin: ir::Value,
        end: ir::Value,
        step: i64,
        init: Vec<ir::Value>,
        body: Region,
    ) -> Vec<ir::Value> {
        // `times` steps fit while index + (times - 1) * step < end.
        let reach = self.word((i64::from(times) - 1).wrapping_mul(step) as u64);
        let limit = self.b.ins().isub(end, reach);
        let (index, carried) = self.counted(begin, limit, step, times, init, body);
        self.serial(index, end, step, carried, body)
    }

    /// `while index < limit`, the body `times` times per round; returns the index and the carried values after it.
    fn counted(
        &mut self,
        begin: ir::Value,
        limit: ir::Value,
        step: i64,
        times: u32,
        init: Vec<ir::Value>,
        body: Region,
    ) -> (ir::Value, Vec<ir::Value>) {
        let kernel = self.kernel;
        let mut state = vec![begin];
        state.extend(init);
        self.rounds(&kernel.region(body).params, limit, state, |e, state| {
            let mut state = state.to_vec();
            for _ in 0..times {
                let carried = e.region_with(body, &state);
                // After the body, where the old index is not needed any more.
                let step = e.word(step as u64);
                let next = e.b.ins().iadd(state[0], step);
                state.clear();
                state.push(next);
                state.extend(carried);
            }
            state
        })
    }

    /// `while state[0] < limit { state = round(state) }`, for values of the given kernel values' types.
    fn rounds(
        &mut self,
        like: &[Value],
        limit: ir::Value,
        init: Vec<ir::Value>,
        round: impl FnOnce(&mut Self, &[ir::Value]) -> Vec<ir::Value>,
    ) -> (ir::Value, Vec<ir::Value>) {
        let (header, exit) = (self.new_block(like), self.new_block(like));
        let enter = self.b.ins().icmp(IntCC::SignedLessThan, init[0], limit);
        self.branch(enter, (header, &init), (exit, &init));
        self.b.switch_to_block(header);
        let state = self.b.block_params(header).to_vec();
        let next = round(self, &state);
        let again = self.b.ins().icmp(IntCC::SignedLessThan, next[0], limit);
        self.branch(again, (header, &next), (exit, &next));
        self.b.switch_to_block(exit);
        let last = self.b.block_params(exit);
        (last[0], last[1..].to_vec())
    }

    fn while_op(&mut self, init: &[Value], body: Region, results: &[Value]) {
        let init = self.all(init);
        let (header, exit) = (self.new_block(results), self.new_block(results));
        self.jump(header, &init);
        self.b.switch_to_block(header);
        let params = self.b.block_params(header).to_vec();
        let yields = self.region_with(body, &params);
        match self.inverted(self.kernel.region(body).yields[0]) {
            Some(stop) => {
                let stop = self.get(stop);
                self.branch(stop, (exit, &yields[1..]), (header, &yields[1..]));
            }
            None => self.branch(yields[0], (header, &yields[1..]), (exit, &yields[1..])),
        }
        self.b.switch_to_block(exit);
        let values = self.b.block_params(exit).to_vec();
        self.define_all(results, &values);
    }
}

/// How many steps a loop from `first` to `last` runs.
fn trip_count(first: i64, last: i64, step: i64) -> i64 {
    let span = (i128::from(last) - i128::from(first)).max(0);
    let steps = (span + i128::from(step) - 1) / i128::from(step);
    i64::try_from(steps).unwrap_or(i64::MAX)
}
