//! Builds a [`Function`] in one pass and leaves it clean: constants are folded, equal pure values are shared where the first one
//! dominates, and pure ops whose arguments do not change in a loop stand before it.
//!
//! Nested code is written with closures ([`Builder::for_loop`], [`Builder::if_else`], [`Builder::while_loop`]), with closures that
//! may fail (`try_...`), or with pairs (`begin_...`, `end_...`), which suit a caller that keeps the builder in its own state.
//!
//! Wrong types do not panic: the function is built as told, and [`Builder::finish`] reports the first mistake.

use super::{
    BinaryOp, CheckedOp, Cmp, ConvertOp, Definition, Function, FunctionRef, Inst, KernelError, LoopKind, MemFlags, Op,
    OptLevel, Region, RuntimeFn, Signature, TrapCode, Type, UnaryOp, Value, Values, eval, runtime_result,
    verify_function,
};
use runtime::abi::{Effect, Failure};
use std::collections::HashMap;
use std::sync::Arc;

/// Builds one function.
///
/// ```
/// use ir::kernel::{Builder, LoopKind, Signature, Type};
///
/// // Sums a column of i64 at `*ctx` over the range and stores it at `worker + 64`.
/// let mut b = Builder::new("sum", Signature::pipeline());
/// let (ctx, worker, begin, end) = (b.param(0), b.param(1), b.param(2), b.param(3));
/// let column = b.load_always(Type::Ptr, ctx, 0);
/// let zero = b.iconst(Type::I64, 0);
/// let sum = b.for_loop(LoopKind::Serial, begin, end, 1, &[zero], |b, i, carried| {
///     let place = b.offset(column, i, 8, 0);
///     let x = b.load(Type::I64, place, 0);
///     vec![b.add(carried[0], x)]
/// });
/// b.store(sum[0], worker, 64);
/// let ok = b.iconst(Type::I32, 0);
/// let function = b.finish(Some(ok)).unwrap();
/// assert!(function.to_string().contains("for serial"));
/// ```
#[derive(Debug)]
pub struct Builder {
    function: Function,
    frames: Vec<Frame>,
    /// Pure ops that stand in an open region, with their first result.
    shared: HashMap<Op, Value>,
    /// The depth of the region that defines each value: 0 for parameters and constants.
    depth: Vec<u32>,
    mistake: Option<String>,
}

#[derive(Debug)]
struct Frame {
    region: Region,
    kind: FrameKind,
    /// What to take out of `shared` when the region closes.
    keys: Vec<Op>,
}

#[derive(Debug)]
enum FrameKind {
    Body,
    Then {
        condition: Value,
        types: Vec<Type>,
    },
    Else {
        condition: Value,
        types: Vec<Type>,
        then_region: Region,
    },
    Case {
        selector: Value,
        types: Vec<Type>,
        done: Vec<(i64, Region)>,
        /// `None`: the default.
        value: Option<i64>,
    },
    For {
        kind: LoopKind,
        begin: Value,
        end: Value,
        step: i64,
        init: Values,
    },
    While {
        init: Values,
    },
}

impl FrameKind {
    fn is_loop(&self) -> bool {
        matches!(self, FrameKind::For { .. } | FrameKind::While { .. })
    }
}

/// The index and the carried values of a loop that was begun.
#[derive(Clone, Debug)]
pub struct LoopBody {
    /// I64
    pub index: Value,
    /// One per carried value.
    pub carried: Vec<Value>,
}

impl Builder {
    /// A builder for a function that stands alone; see [`super::Module::builder`] for one that others call.
    pub fn new(name: &str, signature: Signature) -> Builder {
        Builder::with_signature(name, Arc::new(signature))
    }

    pub(crate) fn with_signature(name: &str, signature: Arc<Signature>) -> Builder {
        let function = Function::empty(name, signature);
        let depth = vec![0; function.value_count()];
        Builder {
            function,
            frames: vec![Frame { region: Function::BODY, kind: FrameKind::Body, keys: Vec::new() }],
            shared: HashMap::new(),
            depth,
            mistake: None,
        }
    }

    /// Asks the backend for its own optimizer.
    pub fn set_opt_level(&mut self, opt: OptLevel) {
        self.function.opt = opt;
    }

    /// Ends the function: `result` is what it returns where nothing returned before.
    ///
    /// # Errors
    /// The first mistake of the builder's user: a wrong type, a region left open, a value used outside its region.
    pub fn finish(mut self, result: Option<Value>) -> Result<Function, KernelError> {
        if self.frames.len() != 1 {
            self.wrong("a region was left open");
        }
        if let Some(mistake) = self.mistake {
            return Err(KernelError::new(&self.function.name, mistake));
        }
        let body = self.function.region_mut(Function::BODY);
        body.yields = result.into_iter().collect();
        verify_function(&self.function)?;
        Ok(self.function)
    }

    /// How many instructions were built so far: lowering splits a function that grows beyond one or two thousand.
    pub fn inst_count(&self) -> usize {
        self.function.inst_count()
    }

    /// The type of a value.
    pub fn ty(&self, value: Value) -> Type {
        self.function.ty(value)
    }

    /// The bits of a value that is known to be constant, zero-extended.
    pub fn constant_bits(&self, value: Value) -> Option<u128> {
        self.function.constant(value)
    }

    /// The function's parameter.
    ///
    /// # Panics
    /// If the signature has no such parameter.
    pub fn param(&self, index: usize) -> Value {
        self.function.params()[index]
    }

    // ---- constants ----

    /// An integer or an address; the value wraps to the type.
    pub fn iconst(&mut self, ty: Type, value: i64) -> Value {
        self.iconst128(ty, i128::from(value))
    }

    /// An integer of any width; the value wraps to the type.
    pub fn iconst128(&mut self, ty: Type, value: i128) -> Value {
        if ty.is_float() {
            self.wrong("iconst of a float type");
        }
        self.constant(ty, eval::from_signed(ty, value))
    }

    /// An F32 (rounded) or an F64.
    pub fn fconst(&mut self, ty: Type, value: f64) -> Value {
        match ty {
            Type::F32 => self.constant(ty, u128::from((value as f32).to_bits())),
            Type::F64 => self.constant(ty, u128::from(value.to_bits())),
            _ => {
                self.wrong("fconst of an integer type");
                self.constant(ty, 0)
            }
        }
    }

    /// A boolean: I8 0 or 1.
    pub fn bool_const(&mut self, value: bool) -> Value {
        self.constant(Type::I8, u128::from(value))
    }

    /// A constant of any type by its bits, zero-extended.
    pub fn constant(&mut self, ty: Type, bits: u128) -> Value {
        let value = self.function.add_constant(ty, eval::mask(ty, bits));
        self.note_depth(0);
        value
    }

    // ---- arithmetic ----

    /// Any unary op.
    pub fn unary(&mut self, op: UnaryOp, a: Value) -> Value {
        let ty = self.ty(a);
        if let Some(bits) = self.bits(a).and_then(|a| eval::unary(op, ty, a)) {
            return self.constant(ty, bits);
        }
        self.pure(Op::Unary(op, a), &[ty])
    }

    /// Any binary op.
    pub fn binary(&mut self, op: BinaryOp, a: Value, b: Value) -> Value {
        let ty = self.ty(a);
        let (mut a, mut b) = (a, b);
        if let (Some(x), Some(y)) = (self.bits(a), self.bits(b))
            && (op.is_shift() || self.ty(b) == ty)
            && let Some(bits) = eval::binary(op, ty, x, y)
        {
            return self.constant(ty, bits);
        }
        if op.is_commutative() && self.bits(a).is_some() && self.ty(b) == ty {
            (a, b) = (b, a);
        }
        if let Some(value) = self.identity(op, ty, a, b) {
            return value;
        }
        self.pure(Op::Binary(op, a, b), &[ty])
    }

    /// `a op b` that is one of its arguments or a constant, for integers.
    fn identity(&mut self, op: BinaryOp, ty: Type, a: Value, b: Value) -> Option<Value> {
        if !ty.is_int() || !self.ty(b).is_int() {
            return None;
        }
        let ones = eval::mask(ty, u128::MAX);
        match (op, self.bits(b)) {
            (
                BinaryOp::Add
                | BinaryOp::Sub
                | BinaryOp::Or
                | BinaryOp::Xor
                | BinaryOp::Shl
                | BinaryOp::SShr
                | BinaryOp::UShr
                | BinaryOp::Rotl,
                Some(0),
            ) => Some(a),
            (BinaryOp::Mul | BinaryOp::SDiv, Some(1)) => Some(a),
            (BinaryOp::Mul | BinaryOp::And, Some(0)) => Some(b),
            (BinaryOp::And, Some(bits)) if bits == ones => Some(a),
            (BinaryOp::Or, Some(bits)) if bits == ones => Some(b),
            (BinaryOp::And | BinaryOp::Or | BinaryOp::SMin | BinaryOp::SMax, _) if a == b => Some(a),
            (BinaryOp::Sub | BinaryOp::Xor, _) if a == b => Some(self.constant(ty, 0)),
            _ => None,
        }
    }

    /// Wrapping integer addition.
    pub fn add(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::Add, a, b)
    }

    /// Wrapping integer subtraction.
    pub fn sub(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::Sub, a, b)
    }

    /// Wrapping integer multiplication.
    pub fn mul(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::Mul, a, b)
    }

    /// Signed division towards zero; guard the divisor and the one overflow.
    pub fn sdiv(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::SDiv, a, b)
    }

    /// Signed remainder; guard the divisor.
    pub fn srem(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::SRem, a, b)
    }

    /// High half of the unsigned product of two I64.
    pub fn umulhi(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::UMulHi, a, b)
    }

    /// Bitwise and; for booleans: and.
    pub fn and(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::And, a, b)
    }

    /// Bitwise or; for booleans: or.
    pub fn or(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::Or, a, b)
    }

    /// Bitwise exclusive or.
    pub fn xor(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::Xor, a, b)
    }

    /// Left shift.
    pub fn shl(&mut self, a: Value, amount: Value) -> Value {
        self.binary(BinaryOp::Shl, a, amount)
    }

    /// Arithmetic right shift.
    pub fn sshr(&mut self, a: Value, amount: Value) -> Value {
        self.binary(BinaryOp::SShr, a, amount)
    }

    /// Logical right shift.
    pub fn ushr(&mut self, a: Value, amount: Value) -> Value {
        self.binary(BinaryOp::UShr, a, amount)
    }

    /// Rotate left, I32 or I64.
    pub fn rotl(&mut self, a: Value, amount: Value) -> Value {
        self.binary(BinaryOp::Rotl, a, amount)
    }

    /// The smaller of two signed integers.
    pub fn smin(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::SMin, a, b)
    }

    /// The larger of two signed integers.
    pub fn smax(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::SMax, a, b)
    }

    /// a + constant.
    pub fn add_imm(&mut self, a: Value, value: i64) -> Value {
        let ty = self.ty(a);
        let b = self.iconst(ty, value);
        self.add(a, b)
    }

    /// a & constant.
    pub fn and_imm(&mut self, a: Value, value: i64) -> Value {
        let ty = self.ty(a);
        let b = self.iconst(ty, value);
        self.and(a, b)
    }

    /// a << constant.
    pub fn shl_imm(&mut self, a: Value, amount: u32) -> Value {
        let b = self.iconst(Type::I32, i64::from(amount));
        self.shl(a, b)
    }

    /// a >> constant, arithmetic.
    pub fn sshr_imm(&mut self, a: Value, amount: u32) -> Value {
        let b = self.iconst(Type::I32, i64::from(amount));
        self.sshr(a, b)
    }

    /// a >> constant, logical.
    pub fn ushr_imm(&mut self, a: Value, amount: u32) -> Value {
        let b = self.iconst(Type::I32, i64::from(amount));
        self.ushr(a, b)
    }

    /// Integer negation, wrapping.
    pub fn neg(&mut self, a: Value) -> Value {
        self.unary(UnaryOp::Neg, a)
    }

    /// All bits inverted.
    pub fn not(&mut self, a: Value) -> Value {
        self.unary(UnaryOp::Not, a)
    }

    /// The number of bits that are 1, of an I64.
    pub fn pop_count(&mut self, a: Value) -> Value {
        self.unary(UnaryOp::PopCount, a)
    }

    /// A boolean inverted: 0 to 1, 1 to 0.
    pub fn bool_not(&mut self, a: Value) -> Value {
        if let Definition::Result(inst, 0) = self.function.definition(a) {
            match self.function.inst(inst).op {
                Op::Compare(cmp, x, y) if !self.ty(x).is_float() => {
                    return self.icmp(cmp.inverted(), x, y);
                }
                Op::Binary(BinaryOp::Xor, x, y) if self.bits(y) == Some(1) => return x,
                _ => {}
            }
        }
        let one = self.bool_const(true);
        self.xor(a, one)
    }

    /// Wrapped sum and overflow flag.
    pub fn add_checked(&mut self, a: Value, b: Value) -> (Value, Value) {
        self.checked(CheckedOp::Add, a, b)
    }

    /// Wrapped difference and overflow flag.
    pub fn sub_checked(&mut self, a: Value, b: Value) -> (Value, Value) {
        self.checked(CheckedOp::Sub, a, b)
    }

    /// Wrapped product and overflow flag.
    pub fn mul_checked(&mut self, a: Value, b: Value) -> (Value, Value) {
        self.checked(CheckedOp::Mul, a, b)
    }

    /// Any checked op: wrapped result and overflow flag.
    pub fn checked(&mut self, op: CheckedOp, a: Value, b: Value) -> (Value, Value) {
        let ty = self.ty(a);
        if let (Some(x), Some(y)) = (self.bits(a), self.bits(b))
            && self.ty(b) == ty
            && let Some((bits, overflow)) = eval::checked(op, ty, x, y)
        {
            let value = self.constant(ty, bits);
            return (value, self.constant(Type::I8, overflow));
        }
        let first = self.pure(Op::Checked(op, a, b), &[ty, Type::I8]);
        let Definition::Result(inst, _) = self.function.definition(first) else {
            unreachable!("a checked op that was not folded is an instruction")
        };
        (first, self.function.inst(inst).results[1])
    }

    /// Float addition.
    pub fn fadd(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::FAdd, a, b)
    }

    /// Float subtraction.
    pub fn fsub(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::FSub, a, b)
    }

    /// Float multiplication.
    pub fn fmul(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::FMul, a, b)
    }

    /// Float division.
    pub fn fdiv(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::FDiv, a, b)
    }

    /// `a < b ? a : b`.
    pub fn fmin(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::FMin, a, b)
    }

    /// `a > b ? a : b`.
    pub fn fmax(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::FMax, a, b)
    }

    /// The sign bit inverted.
    pub fn fneg(&mut self, a: Value) -> Value {
        self.unary(UnaryOp::FNeg, a)
    }

    /// The sign bit cleared.
    pub fn fabs(&mut self, a: Value) -> Value {
        self.unary(UnaryOp::FAbs, a)
    }

    /// Square root.
    pub fn fsqrt(&mut self, a: Value) -> Value {
        self.unary(UnaryOp::FSqrt, a)
    }

    /// Round down.
    pub fn ffloor(&mut self, a: Value) -> Value {
        self.unary(UnaryOp::FFloor, a)
    }

    /// Round up.
    pub fn fceil(&mut self, a: Value) -> Value {
        self.unary(UnaryOp::FCeil, a)
    }

    /// Round towards zero.
    pub fn ftrunc(&mut self, a: Value) -> Value {
        self.unary(UnaryOp::FTrunc, a)
    }

    /// Round to nearest, ties to even.
    pub fn fnearest(&mut self, a: Value) -> Value {
        self.unary(UnaryOp::FNearest, a)
    }

    /// a * b + c, rounded once.
    pub fn fma(&mut self, a: Value, b: Value, c: Value) -> Value {
        let ty = self.ty(a);
        if let (Some(x), Some(y), Some(z)) = (self.bits(a), self.bits(b), self.bits(c))
            && self.ty(b) == ty
            && self.ty(c) == ty
            && let Some(bits) = eval::fma(ty, x, y, z)
        {
            return self.constant(ty, bits);
        }
        self.pure(Op::Fma(a, b, c), &[ty])
    }

    // ---- comparison, choice ----

    /// Compares integers, addresses (`Eq`, `Ne`, unsigned) or floats.
    pub fn compare(&mut self, cmp: Cmp, a: Value, b: Value) -> Value {
        let ty = self.ty(a);
        if self.ty(b) == ty {
            if let (Some(x), Some(y)) = (self.bits(a), self.bits(b))
                && let Some(holds) = eval::compare(cmp, ty, x, y)
            {
                return self.bool_const(holds);
            }
            if a == b && !ty.is_float() {
                let holds = matches!(cmp, Cmp::Eq | Cmp::Le | Cmp::Ge | Cmp::ULe | Cmp::UGe);
                return self.bool_const(holds);
            }
            if self.bits(a).is_some() {
                return self.pure(Op::Compare(cmp.swapped(), b, a), &[Type::I8]);
            }
        }
        self.pure(Op::Compare(cmp, a, b), &[Type::I8])
    }

    /// Compares integers or addresses.
    pub fn icmp(&mut self, cmp: Cmp, a: Value, b: Value) -> Value {
        if self.ty(a).is_float() {
            self.wrong("icmp of floats");
        }
        self.compare(cmp, a, b)
    }

    /// Compares an integer or an address with a constant.
    pub fn icmp_imm(&mut self, cmp: Cmp, a: Value, value: i64) -> Value {
        let ty = self.ty(a);
        let b = self.iconst(ty, value);
        self.icmp(cmp, a, b)
    }

    /// Compares floats.
    pub fn fcmp(&mut self, cmp: Cmp, a: Value, b: Value) -> Value {
        if !self.ty(a).is_float() {
            self.wrong("fcmp of integers");
        }
        self.compare(cmp, a, b)
    }

    /// `condition ? a : b`, both computed.
    pub fn select(&mut self, condition: Value, a: Value, b: Value) -> Value {
        let ty = self.ty(a);
        if ty == self.ty(b) {
            if a == b {
                return a;
            }
            if let Some(bits) = self.bits(condition) {
                return if bits != 0 { a } else { b };
            }
        }
        self.pure(Op::Select(condition, a, b), &[ty])
    }

    // ---- conversion ----

    /// Any conversion.
    pub fn convert(&mut self, op: ConvertOp, a: Value, to: Type) -> Value {
        let from = self.ty(a);
        if let Some(bits) = self.bits(a).and_then(|bits| eval::convert(op, from, to, bits)) {
            return self.constant(to, bits);
        }
        // Both halves of a pair that was just made.
        if let (ConvertOp::Lo64 | ConvertOp::Hi64, Definition::Result(inst, 0)) = (op, self.function.definition(a))
            && let Op::Concat64(lo, hi) = self.function.inst(inst).op
        {
            return if op == ConvertOp::Lo64 { lo } else { hi };
        }
        // What was made wider and is made narrower again.
        if op == ConvertOp::Demote
            && let Some((ConvertOp::Promote, narrow)) = self.converted(a)
        {
            return narrow;
        }
        if let Some((condition, x, y)) = self.chosen_float(a)
            && let (Some(x), Some(y)) = (eval::convert(op, from, to, x), eval::convert(op, from, to, y))
        {
            return self.choose(condition, to, x, y);
        }
        self.pure(Op::Convert(op, a, to), &[to])
    }

    /// One of two constants, without a branch: floats by their bits, as the machine moves no others on a condition.
    pub(super) fn choose(&mut self, condition: Value, ty: Type, a: u128, b: u128) -> Value {
        let bits = match ty {
            Type::F32 => Type::I32,
            Type::F64 => Type::I64,
            _ => ty,
        };
        let (a, b) = (self.constant(bits, a), self.constant(bits, b));
        let chosen = self.select(condition, a, b);
        self.bitcast(chosen, ty)
    }

    /// The condition and the bits of a float that [`Builder::choose`] made.
    fn chosen_float(&self, value: Value) -> Option<(Value, u128, u128)> {
        let (ConvertOp::Bitcast, bits) = self.converted(value)? else { return None };
        let Definition::Result(inst, 0) = self.function.definition(bits) else { return None };
        let Op::Select(condition, a, b) = self.function.inst(inst).op else { return None };
        let made = self.ty(value).is_float() && self.ty(bits).is_int();
        made.then_some((condition, self.bits(a)?, self.bits(b)?))
    }

    /// The conversion that made a value, and of what.
    fn converted(&self, value: Value) -> Option<(ConvertOp, Value)> {
        let Definition::Result(inst, 0) = self.function.definition(value) else { return None };
        match self.function.inst(inst).op {
            Op::Convert(op, a, _) => Some((op, a)),
            _ => None,
        }
    }

    /// To a wider integer, signed; the same type passes.
    pub fn sext(&mut self, a: Value, to: Type) -> Value {
        if self.ty(a) == to {
            return a;
        }
        self.convert(ConvertOp::SignExtend, a, to)
    }

    /// To a wider integer, unsigned; the same type passes.
    pub fn zext(&mut self, a: Value, to: Type) -> Value {
        if self.ty(a) == to {
            return a;
        }
        self.convert(ConvertOp::ZeroExtend, a, to)
    }

    /// To a narrower integer; the same type passes.
    pub fn trunc(&mut self, a: Value, to: Type) -> Value {
        if self.ty(a) == to {
            return a;
        }
        self.convert(ConvertOp::Truncate, a, to)
    }

    /// Signed integer to float.
    pub fn int_to_float(&mut self, a: Value, to: Type) -> Value {
        self.convert(ConvertOp::IntToFloat, a, to)
    }

    /// Float to signed integer, saturating, NaN to 0.
    pub fn float_to_int(&mut self, a: Value, to: Type) -> Value {
        self.convert(ConvertOp::FloatToInt, a, to)
    }

    /// F32 to F64; F64 passes.
    pub fn promote(&mut self, a: Value) -> Value {
        if self.ty(a) == Type::F64 {
            return a;
        }
        self.convert(ConvertOp::Promote, a, Type::F64)
    }

    /// F64 to F32; F32 passes.
    pub fn demote(&mut self, a: Value) -> Value {
        if self.ty(a) == Type::F32 {
            return a;
        }
        self.convert(ConvertOp::Demote, a, Type::F32)
    }

    /// The same bits as another type of the same width; the same type passes.
    pub fn bitcast(&mut self, a: Value, to: Type) -> Value {
        if self.ty(a) == to {
            return a;
        }
        self.convert(ConvertOp::Bitcast, a, to)
    }

    /// Low half of an I128.
    pub fn lo64(&mut self, a: Value) -> Value {
        self.convert(ConvertOp::Lo64, a, Type::I64)
    }

    /// High half of an I128.
    pub fn hi64(&mut self, a: Value) -> Value {
        self.convert(ConvertOp::Hi64, a, Type::I64)
    }

    /// An I128 from its low and its high half.
    pub fn concat64(&mut self, lo: Value, hi: Value) -> Value {
        if let (Some(x), Some(y)) = (self.bits(lo), self.bits(hi))
            && self.ty(lo) == Type::I64
            && self.ty(hi) == Type::I64
        {
            return self.constant(Type::I128, eval::concat64(x, y));
        }
        self.pure(Op::Concat64(lo, hi), &[Type::I128])
    }

    // ---- memory ----

    /// base + index * scale + displacement (bytes).
    pub fn offset(&mut self, base: Value, index: Value, scale: i64, displacement: i64) -> Value {
        let (mut base, mut index, mut scale, mut displacement) = (base, index, scale, displacement);
        if let Some(bits) = self.bits(index)
            && self.ty(index) == Type::I64
        {
            displacement = displacement.wrapping_add((bits as u64 as i64).wrapping_mul(scale));
            index = self.iconst(Type::I64, 0);
            scale = 0;
        }
        // A place beside a place that is itself a constant away from a base.
        if let Definition::Result(inst, 0) = self.function.definition(base)
            && let Op::Offset { base: inner_base, index: inner_index, scale: inner_scale, displacement: inner } =
                self.function.inst(inst).op
            && (scale == 0 || inner_scale == 0)
            && let Some(sum) = displacement.checked_add(inner)
        {
            base = inner_base;
            displacement = sum;
            if scale == 0 {
                index = inner_index;
                scale = inner_scale;
            }
        }
        if scale == 0 && displacement == 0 && self.ty(base) == Type::Ptr {
            return base;
        }
        self.pure(Op::Offset { base, index, scale, displacement }, &[Type::Ptr])
    }

    /// base + displacement (bytes).
    pub fn displace(&mut self, base: Value, displacement: i64) -> Value {
        let zero = self.iconst(Type::I64, 0);
        self.offset(base, zero, 0, displacement)
    }

    /// Loads from pointer + offset.
    pub fn load(&mut self, ty: Type, pointer: Value, offset: i32) -> Value {
        self.load_with(ty, pointer, offset, MemFlags::default())
    }

    /// Loads from memory that does not change while the function runs: equal loads are shared.
    pub fn load_readonly(&mut self, ty: Type, pointer: Value, offset: i32) -> Value {
        let flags = MemFlags { readonly: true, ..MemFlags::default() };
        self.load_with(ty, pointer, offset, flags)
    }

    /// Loads from memory that does not change and that can be read wherever its address is known (slots of `ctx`): the load is
    /// shared and moves out of loops.
    pub fn load_always(&mut self, ty: Type, pointer: Value, offset: i32) -> Value {
        let flags = MemFlags { readonly: true, always: true, aligned: true };
        self.load_with(ty, pointer, offset, flags)
    }

    /// Loads under the given assumptions.
    pub fn load_with(&mut self, ty: Type, pointer: Value, offset: i32, flags: MemFlags) -> Value {
        let (pointer, offset) = self.fold_offset(pointer, offset);
        let op = Op::Load { ty, pointer, offset, flags };
        if flags.readonly || flags.always { self.pure(op, &[ty]) } else { self.append(op, &[ty])[0] }
    }

    /// Stores to pointer + offset.
    pub fn store(&mut self, value: Value, pointer: Value, offset: i32) {
        self.store_with(value, pointer, offset, MemFlags::default());
    }

    /// Stores under the given assumptions.
    pub fn store_with(&mut self, value: Value, pointer: Value, offset: i32, flags: MemFlags) {
        let (pointer, offset) = self.fold_offset(pointer, offset);
        // The bits that a float was made of need not go through one of its registers.
        let value = match self.converted(value) {
            Some((ConvertOp::Bitcast, bits)) if self.chosen_float(value).is_some() => bits,
            _ => value,
        };
        self.append(Op::Store { value, pointer, offset, flags }, &[]);
    }

    /// Takes a constant displacement of the pointer into the access.
    fn fold_offset(&mut self, pointer: Value, offset: i32) -> (Value, i32) {
        if let Definition::Result(inst, 0) = self.function.definition(pointer)
            && let Op::Offset { base, scale: 0, displacement, .. } = self.function.inst(inst).op
            && let Some(sum) = displacement.checked_add(i64::from(offset))
            && let Ok(sum) = i32::try_from(sum)
        {
            return (base, sum);
        }
        (pointer, offset)
    }

    // ---- calls, leaving ----

    /// Calls a function of the runtime; equal calls of a pure one are shared. A failure is the caller's to look for, unless
    /// [`Builder::call_or_fail`] is used.
    pub fn call(&mut self, function: RuntimeFn, args: &[Value]) -> Option<Value> {
        let result = runtime_result(function);
        let op = Op::CallRuntime(function, args.into());
        if function.effect() == Effect::Pure && result.is_some() {
            return Some(self.pure(op, result.as_slice()));
        }
        self.append(op, result.as_slice()).first().copied()
    }

    /// Calls a function of the runtime and leaves this function if it fails, with the location added to the trap.
    pub fn call_or_fail(&mut self, function: RuntimeFn, args: &[Value], location: u32) -> Option<Value> {
        let result = self.call(function, args);
        let (condition, status) = match (function.failure(), result) {
            (Failure::Never, _) => return result,
            (Failure::Status, Some(status)) => (self.icmp_imm(Cmp::Ne, status, 0), Some(status)),
            (Failure::Null, Some(pointer)) => (self.icmp_imm(Cmp::Eq, pointer, 0), None),
            (Failure::Status | Failure::Null, None) => {
                self.wrong("a runtime function that fails by its result has none");
                return None;
            }
        };
        self.fail_if(condition, status, location);
        result
    }

    /// Leaves the function if the condition is not 0, because a runtime function has failed and left its trap in the worker block:
    /// with the status, or without one with the code from the block.
    pub fn fail_if(&mut self, condition: Value, status: Option<Value>, location: u32) {
        if self.bits(condition) == Some(0) {
            return;
        }
        self.append(Op::FailIf { condition, status, location }, &[]);
    }

    /// Calls a function of this module (also this one).
    pub fn call_function(&mut self, function: &FunctionRef, args: &[Value]) -> Option<Value> {
        let result = function.signature().result;
        let op = Op::Call(function.clone(), args.into());
        self.append(op, result.as_slice()).first().copied()
    }

    /// Returns the status (I32) of a called function of this module if it is not 0.
    pub fn return_if_failed(&mut self, status: Value) {
        let failed = self.icmp_imm(Cmp::Ne, status, 0);
        self.return_if(failed, status);
    }

    /// Returns the value from the function if the condition is not 0.
    pub fn return_if(&mut self, condition: Value, value: Value) {
        if self.bits(condition) == Some(0) {
            return;
        }
        self.append(Op::ReturnIf { condition, value }, &[]);
    }

    /// Leaves the function with a trap if the condition is not 0.
    pub fn trap_if(&mut self, condition: Value, code: TrapCode, location: u32) {
        if self.bits(condition) == Some(0) {
            return;
        }
        self.append(Op::TrapIf { condition, code, location }, &[]);
    }

    // ---- loops and branches, closures ----

    /// `for i in (begin..end).step_by(step)`: the closure gets the index and the carried values and gives the next ones.
    /// Returns the last carried values: `init` if the loop ran no step.
    pub fn for_loop(
        &mut self,
        kind: LoopKind,
        begin: Value,
        end: Value,
        step: i64,
        init: &[Value],
        body: impl FnOnce(&mut Builder, Value, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let inner = self.begin_for(kind, begin, end, step, init);
        let next = body(self, inner.index, &inner.carried);
        self.end_for(&next)
    }

    /// As [`Builder::for_loop`], with a body that may fail.
    ///
    /// # Errors
    /// The closure's; the builder is then of no more use.
    pub fn try_for_loop<E>(
        &mut self,
        kind: LoopKind,
        begin: Value,
        end: Value,
        step: i64,
        init: &[Value],
        body: impl FnOnce(&mut Builder, Value, &[Value]) -> Result<Vec<Value>, E>,
    ) -> Result<Vec<Value>, E> {
        let inner = self.begin_for(kind, begin, end, step, init);
        let next = body(self, inner.index, &inner.carried)?;
        Ok(self.end_for(&next))
    }

    /// Runs the closure's code, at least once, as long as the flag it gives is not 0; returns the values given last.
    pub fn while_loop(
        &mut self,
        init: &[Value],
        body: impl FnOnce(&mut Builder, &[Value]) -> (Value, Vec<Value>),
    ) -> Vec<Value> {
        let carried = self.begin_while(init);
        let (go_on, next) = body(self, &carried);
        self.end_while(go_on, &next)
    }

    /// As [`Builder::while_loop`], with a body that may fail.
    ///
    /// # Errors
    /// The closure's; the builder is then of no more use.
    pub fn try_while_loop<E>(
        &mut self,
        init: &[Value],
        body: impl FnOnce(&mut Builder, &[Value]) -> Result<(Value, Vec<Value>), E>,
    ) -> Result<Vec<Value>, E> {
        let carried = self.begin_while(init);
        let (go_on, next) = body(self, &carried)?;
        Ok(self.end_while(go_on, &next))
    }

    /// Runs one of two closures' code; both give values of the listed types.
    pub fn if_else(
        &mut self,
        condition: Value,
        types: &[Type],
        then_body: impl FnOnce(&mut Builder) -> Vec<Value>,
        else_body: impl FnOnce(&mut Builder) -> Vec<Value>,
    ) -> Vec<Value> {
        self.begin_if(condition, types);
        let values = then_body(self);
        self.begin_else(&values);
        let values = else_body(self);
        self.end_if(&values)
    }

    /// As [`Builder::if_else`], with bodies that may fail.
    ///
    /// # Errors
    /// The closures'; the builder is then of no more use.
    pub fn try_if_else<E>(
        &mut self,
        condition: Value,
        types: &[Type],
        then_body: impl FnOnce(&mut Builder) -> Result<Vec<Value>, E>,
        else_body: impl FnOnce(&mut Builder) -> Result<Vec<Value>, E>,
    ) -> Result<Vec<Value>, E> {
        self.begin_if(condition, types);
        let values = then_body(self)?;
        self.begin_else(&values);
        let values = else_body(self)?;
        Ok(self.end_if(&values))
    }

    /// Runs the closure's code if the condition is not 0.
    pub fn if_then(&mut self, condition: Value, body: impl FnOnce(&mut Builder)) {
        self.begin_if(condition, &[]);
        body(self);
        self.end_if(&[]);
    }

    /// As [`Builder::if_then`], with a body that may fail.
    ///
    /// # Errors
    /// The closure's; the builder is then of no more use.
    pub fn try_if_then<E>(
        &mut self,
        condition: Value,
        body: impl FnOnce(&mut Builder) -> Result<(), E>,
    ) -> Result<(), E> {
        self.begin_if(condition, &[]);
        body(self)?;
        self.end_if(&[]);
        Ok(())
    }

    // ---- loops and branches, pairs ----

    /// Opens the body of a `for` loop; [`Builder::end_for`] closes it.
    pub fn begin_for(&mut self, kind: LoopKind, begin: Value, end: Value, step: i64, init: &[Value]) -> LoopBody {
        let types: Vec<Type> = init.iter().map(|&value| self.ty(value)).collect();
        self.open(FrameKind::For { kind, begin, end, step, init: init.into() });
        let index = self.add_param(Type::I64);
        let carried = types.into_iter().map(|ty| self.add_param(ty)).collect();
        LoopBody { index, carried }
    }

    /// Closes the body of a `for` loop; returns the last carried values.
    pub fn end_for(&mut self, next: &[Value]) -> Vec<Value> {
        match self.close() {
            Some(Frame { region, kind: FrameKind::For { kind, begin, end, step, init }, .. }) => {
                self.function.region_mut(region).yields = next.to_vec();
                let types = self.types(&init);
                let op = Op::For { kind, begin, end, step, init, body: region };
                self.append(op, &types)
            }
            _ => self.wrong_pair("end_for"),
        }
    }

    /// Opens the body of a `while` loop and returns its carried values; [`Builder::end_while`] closes it.
    pub fn begin_while(&mut self, init: &[Value]) -> Vec<Value> {
        let types: Vec<Type> = init.iter().map(|&value| self.ty(value)).collect();
        self.open(FrameKind::While { init: init.into() });
        types.into_iter().map(|ty| self.add_param(ty)).collect()
    }

    /// Closes the body of a `while` loop: it runs again with `next` if `go_on` is not 0, else `next` is the result.
    pub fn end_while(&mut self, go_on: Value, next: &[Value]) -> Vec<Value> {
        match self.close() {
            Some(Frame { region, kind: FrameKind::While { init }, .. }) => {
                let yields = &mut self.function.region_mut(region).yields;
                yields.push(go_on);
                yields.extend_from_slice(next);
                let types = self.types(&init);
                self.append(Op::While { init, body: region }, &types)
            }
            _ => self.wrong_pair("end_while"),
        }
    }

    /// Opens the region that runs if the condition is not 0. [`Builder::begin_else`] may follow; [`Builder::end_if`] closes.
    pub fn begin_if(&mut self, condition: Value, types: &[Type]) {
        self.open(FrameKind::Then { condition, types: types.to_vec() });
    }

    /// Ends the first region with its values and opens the one that runs if the condition is 0.
    pub fn begin_else(&mut self, values: &[Value]) {
        match self.close() {
            Some(Frame { region, kind: FrameKind::Then { condition, types }, .. }) => {
                self.function.region_mut(region).yields = values.to_vec();
                self.open(FrameKind::Else { condition, types, then_region: region });
            }
            _ => {
                self.wrong_pair("begin_else");
            }
        }
    }

    /// Ends an `if` with the values of its last region; returns the results.
    pub fn end_if(&mut self, values: &[Value]) -> Vec<Value> {
        let (condition, types, then_region, else_region) = match self.close() {
            Some(Frame { region, kind: FrameKind::Else { condition, types, then_region }, .. }) => {
                self.function.region_mut(region).yields = values.to_vec();
                (condition, types, then_region, region)
            }
            Some(Frame { region, kind: FrameKind::Then { condition, types }, .. }) => {
                if !types.is_empty() {
                    self.wrong("an if with results has no else");
                }
                self.function.region_mut(region).yields = values.to_vec();
                let else_region = self.function.add_region();
                (condition, types, region, else_region)
            }
            _ => return self.wrong_pair("end_if"),
        };
        let chosen = self.without_branch(condition, [then_region, else_region], &types);
        let left: Vec<Type> = types.iter().zip(&chosen).filter(|(_, c)| c.is_none()).map(|(ty, _)| *ty).collect();
        let idle = [then_region, else_region].iter().all(|region| self.is_idle(*region));
        if idle && left.is_empty() && chosen.len() == types.len() {
            return chosen.into_iter().flatten().collect();
        }
        let mut results = self.append(Op::If { condition, then_region, else_region }, &left).into_iter();
        chosen.into_iter().map_while(|value| value.or_else(|| results.next())).collect()
    }

    /// The results of a branch that need none, taken out of its regions: both yield the same, or do nothing but yield what the
    /// machine moves on a condition.
    fn without_branch(&mut self, condition: Value, regions: [Region; 2], types: &[Type]) -> Vec<Option<Value>> {
        let [a, b] = regions.map(|region| self.function.region(region).yields.clone());
        if a.len() != types.len() || b.len() != types.len() {
            return vec![None; types.len()];
        }
        let idle = regions.iter().all(|region| self.is_idle(*region));
        let mut choose = |(&ty, (&a, &b)): (&Type, (&Value, &Value))| {
            if self.ty(a) != ty || self.ty(b) != ty {
                return None;
            }
            match (self.bits(a), self.bits(b)) {
                _ if a == b => Some(a),
                _ if !idle => None,
                (Some(a), Some(b)) => Some(self.choose(condition, ty, a, b)),
                _ => (!ty.is_float() && ty != Type::I128).then(|| self.select(condition, a, b)),
            }
        };
        let chosen: Vec<Option<Value>> = types.iter().zip(a.iter().zip(&b)).map(&mut choose).collect();
        for (region, yields) in regions.into_iter().zip([a, b]) {
            let left = yields.into_iter().zip(&chosen).filter(|(_, c)| c.is_none()).map(|(value, _)| value);
            self.function.region_mut(region).yields = left.collect();
        }
        chosen
    }

    /// Whether nothing in a region runs.
    fn is_idle(&self, region: Region) -> bool {
        self.function.region(region).insts.is_empty()
    }

    /// Opens a `switch`: [`Builder::begin_case`] for each case, [`Builder::begin_default`], [`Builder::end_switch`]. The first case opens at once.
    pub fn begin_switch(&mut self, selector: Value, first: i64, types: &[Type]) {
        self.open(FrameKind::Case { selector, types: types.to_vec(), done: Vec::new(), value: Some(first) });
    }

    /// Ends a case of a switch with its values and opens the next one.
    pub fn begin_case(&mut self, values: &[Value], next: i64) {
        self.next_case(values, Some(next));
    }

    /// Ends a case of a switch with its values and opens the default.
    pub fn begin_default(&mut self, values: &[Value]) {
        self.next_case(values, None);
    }

    fn next_case(&mut self, values: &[Value], next: Option<i64>) {
        match self.close() {
            Some(Frame { region, kind: FrameKind::Case { selector, types, mut done, value: Some(value) }, .. }) => {
                self.function.region_mut(region).yields = values.to_vec();
                done.push((value, region));
                self.open(FrameKind::Case { selector, types, done, value: next });
            }
            _ => {
                self.wrong_pair("begin_case");
            }
        }
    }

    /// Ends a switch with the values of its default; returns the results.
    pub fn end_switch(&mut self, values: &[Value]) -> Vec<Value> {
        match self.close() {
            Some(Frame { region, kind: FrameKind::Case { selector, types, done, value: None }, .. }) => {
                self.function.region_mut(region).yields = values.to_vec();
                let op = Op::Switch { selector, cases: done, default: region };
                self.append(op, &types)
            }
            _ => self.wrong_pair("end_switch"),
        }
    }

    // ---- within ----

    fn bits(&self, value: Value) -> Option<u128> {
        self.function.constant(value)
    }

    fn types(&self, values: &[Value]) -> Vec<Type> {
        values.iter().map(|&value| self.ty(value)).collect()
    }

    fn wrong(&mut self, mistake: &str) {
        if self.mistake.is_none() {
            self.mistake = Some(mistake.to_string());
        }
    }

    fn wrong_pair(&mut self, what: &str) -> Vec<Value> {
        self.wrong(&format!("{what} does not fit the region that is open"));
        Vec::new()
    }

    fn open(&mut self, kind: FrameKind) {
        let region = self.function.add_region();
        self.frames.push(Frame { region, kind, keys: Vec::new() });
    }

    /// Takes the innermost frame away, but never the body's.
    fn close(&mut self) -> Option<Frame> {
        if self.frames.len() < 2 {
            return None;
        }
        let frame = self.frames.pop()?;
        for key in &frame.keys {
            self.shared.remove(key);
        }
        Some(frame)
    }

    fn add_param(&mut self, ty: Type) -> Value {
        let depth = self.frames.len() - 1;
        let value = self.function.add_param(self.frames[depth].region, ty);
        self.note_depth(depth);
        value
    }

    /// Records that values added since the last note are defined at a depth.
    fn note_depth(&mut self, depth: usize) {
        self.depth.resize(self.function.value_count(), depth as u32);
    }

    fn append(&mut self, op: Op, results: &[Type]) -> Vec<Value> {
        let inst = self.append_at(self.frames.len() - 1, op, results);
        self.function.inst(inst).results.to_vec()
    }

    fn append_at(&mut self, depth: usize, op: Op, results: &[Type]) -> Inst {
        let inst = self.function.add_inst(self.frames[depth].region, op, results);
        self.note_depth(depth);
        inst
    }

    /// The first result of an op that may be shared: an earlier one if it dominates.
    fn pure(&mut self, op: Op, results: &[Type]) -> Value {
        if let Some(&value) = self.shared.get(&op) {
            return value;
        }
        let depth = self.hoisted_depth(&op);
        let inst = self.append_at(depth, op.clone(), results);
        let value = self.function.inst(inst).results[0];
        self.shared.insert(op.clone(), value);
        self.frames[depth].keys.push(op);
        value
    }

    /// Where a pure op goes: just outside the outermost loop in which its arguments do not change.
    fn hoisted_depth(&self, op: &Op) -> usize {
        let innermost = self.frames.len() - 1;
        let may_move = match op {
            Op::Binary(binary, ..) => !binary.is_partial(),
            Op::Load { flags, .. } => flags.always,
            Op::CallRuntime(..) => false,
            _ => true,
        };
        if !may_move {
            return innermost;
        }
        let mut floor = 0;
        op.each_operand(|value| floor = floor.max(self.depth[value.index()] as usize));
        (floor + 1..=innermost).find(|&depth| self.frames[depth].kind.is_loop()).map_or(innermost, |depth| depth - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn values(function: &Function) -> usize {
        function.inst_count()
    }

    #[test]
    fn constants_fold_and_equal_values_are_shared() {
        let mut b = Builder::new("f", Signature::new(&[Type::I64, Type::I64], Some(Type::I64)));
        let (x, y) = (b.param(0), b.param(1));
        let two = b.iconst(Type::I64, 2);
        let three = b.iconst(Type::I64, 3);
        let six = b.mul(two, three);
        assert_eq!(b.constant_bits(six), Some(6));
        let first = b.add(x, y);
        assert_eq!(b.add(x, y), first);
        let plus = b.add(six, first);
        let again = b.add(first, six);
        assert_eq!(plus, again, "a constant moves to the right");
        let function = b.finish(Some(plus)).unwrap();
        assert_eq!(values(&function), 2);
    }

    #[test]
    fn what_does_not_change_leaves_the_loop() {
        let mut b = Builder::new("f", Signature::new(&[Type::Ptr, Type::I64, Type::F64], Some(Type::F64)));
        let (p, n, x) = (b.param(0), b.param(1), b.param(2));
        let zero = b.iconst(Type::I64, 0);
        let init = b.fconst(Type::F64, 0.0);
        let sum = b.for_loop(LoopKind::Serial, zero, n, 1, &[init], |b, i, carried| {
            let place = b.offset(p, i, 8, 0);
            let loaded = b.load(Type::F64, place, 0);
            let square = b.fmul(x, x);
            let product = b.fmul(loaded, square);
            vec![b.fadd(carried[0], product)]
        });
        let function = b.finish(Some(sum[0])).unwrap();
        let body = function.region(function.body());
        assert_eq!(body.insts.len(), 2, "{function}");
        assert!(matches!(function.inst(body.insts[0]).op, Op::Binary(BinaryOp::FMul, ..)));
    }

    #[test]
    fn a_value_of_one_branch_is_not_shared_with_the_other() {
        let mut b = Builder::new("f", Signature::new(&[Type::I64, Type::I8], Some(Type::I64)));
        let (x, c) = (b.param(0), b.param(1));
        let result = b.if_else(c, &[Type::I64], |b| vec![b.mul(x, x)], |b| vec![b.mul(x, x)]);
        let function = b.finish(Some(result[0])).unwrap();
        assert_eq!(values(&function), 3);
    }

    #[test]
    fn a_branch_that_does_nothing_is_a_choice() {
        let mut b = Builder::new("f", Signature::new(&[Type::I8, Type::I64, Type::F64, Type::Ptr], None));
        let (c, x, y, p) = (b.param(0), b.param(1), b.param(2), b.param(3));
        let (one, zero) = (b.fconst(Type::F64, 1.0), b.fconst(Type::F64, 0.0));
        let (seven, yes) = (b.iconst(Type::I64, 7), b.bool_const(true));
        let types = [Type::F64, Type::F64, Type::I64, Type::I8];
        // Constants, a float that is none, an integer, and what is the same on both sides.
        let got = b.if_else(c, &types, |_| vec![one, y, x, yes], |_| vec![zero, zero, seven, yes]);
        assert_eq!(got[3], yes);
        let narrow = b.demote(got[0]);
        let wide = b.promote(narrow);
        assert_eq!(b.demote(wide), narrow);
        b.store(narrow, p, 0);
        b.store(got[1], p, 8);
        b.store(got[2], p, 16);
        let function = b.finish(None).unwrap();
        expect![[r#"
            func @f(%0: i8, %1: i64, %2: f64, %3: ptr) {
              %4 = select.i64 %0, 4607182418800017408:i64, 0:i64
              %5 = bitcast.i64.f64 %4
              %6 = select.i64 %0, %1, 7:i64
              if %0 {
                yield %2
              } else {
                yield 0.0:f64
              } -> %7: f64
              %8 = select.i32 %0, 1065353216:i32, 0:i32
              %9 = bitcast.i32.f32 %8
              store.i32 %8, [%3]
              store.f64 %7, [%3 + 8]
              store.i64 %6, [%3 + 16]
            }
        "#]]
        .assert_eq(&function.to_string());
    }

    #[test]
    fn mistakes_are_reported_not_panicked() {
        let mut b = Builder::new("f", Signature::new(&[Type::I64, Type::I32], None));
        let (x, y) = (b.param(0), b.param(1));
        b.add(x, y);
        let error = b.finish(None).unwrap_err().to_string();
        assert!(error.contains("add"), "{error}");

        let mut b = Builder::new("g", Signature::new(&[Type::I8], None));
        let c = b.param(0);
        b.begin_if(c, &[]);
        assert!(b.finish(None).is_err());
        let mut b = Builder::new("h", Signature::new(&[Type::I8], None));
        b.end_for(&[]);
        assert!(b.finish(None).is_err());
    }

    #[test]
    fn a_value_does_not_leave_its_region() {
        let mut b = Builder::new("f", Signature::new(&[Type::I64, Type::I8], Some(Type::I64)));
        let (x, c) = (b.param(0), b.param(1));
        let mut inner = x;
        b.if_then(c, |b| inner = b.mul(x, x));
        assert!(b.finish(Some(inner)).is_err());
    }

    #[test]
    fn guarded_loads_and_divisions_stay_under_their_guard() {
        let mut b = Builder::new("f", Signature::new(&[Type::I64, Type::Ptr], Some(Type::I64)));
        let (n, p) = (b.param(0), b.param(1));
        let zero = b.iconst(Type::I64, 0);
        let result = b.for_loop(LoopKind::Serial, zero, n, 1, &[zero], |b, i, carried| {
            let safe = b.icmp_imm(Cmp::Ne, n, 0);
            b.if_else(
                safe,
                &[Type::I64],
                |b| {
                    let x = b.load_readonly(Type::I64, p, 0);
                    let q = b.sdiv(x, n);
                    let q = b.add(q, i);
                    vec![b.add(q, carried[0])]
                },
                |_| vec![carried[0]],
            )
        });
        let function = b.finish(Some(result[0])).unwrap();
        let body = function.region(function.body());
        assert_eq!(body.insts.len(), 2, "the comparison and the loop: {function}");
    }
}
