//! The kernel level: how work is done. Structured loops over scalars in SSA form, one function a pipeline or a tensor nest.
//!
//! What holds (see [`verify`] for the checks):
//! - A function is a tree of regions. A region is a list of instructions; it may have parameters (a loop's index and carried
//!   values) and yields values at its end. There is no other control flow than entering and leaving regions, and leaving the
//!   whole function early by `trap_if` and `return_if`.
//! - Every value is one scalar ([`Type`]). Lanes are a property of a loop ([`LoopKind::Vector`]), not of values.
//! - A constant is a value without a place: it stands for itself wherever it is used.
//! - Booleans are `i8`, 0 or 1. Addresses are [`Type::Ptr`].
//! - Loads and stores are the only ops that touch memory, besides calls.
//! - I128 values do not cross a function's border: pass two I64 or a pointer.
//!
//! NaN bits are not part of a result: an op that makes a NaN makes some quiet NaN.

pub mod build;
pub mod eval;
pub mod print;
pub mod simplify;
pub mod verify;

use runtime::abi::{AbiType, Effect};
use smallvec::SmallVec;
use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

pub use build::Builder;
pub use runtime::abi::RuntimeFn;
pub use runtime::trap::TrapCode;
pub use simplify::{simplify, simplify_module};
pub use verify::{KernelError, verify_function, verify_module};

/// The type of a value in a register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Type {
    /// 8-bit integer; also the boolean (0 or 1) and the valid flag.
    I8,
    /// 16-bit integer: narrowed columns and dictionary codes.
    I16,
    /// 32-bit integer; also a date.
    I32,
    /// 64-bit integer; also a timestamp, a loop index, a small decimal.
    I64,
    /// 128-bit integer; also a wide decimal and a text view.
    I128,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// An address, 64 bits.
    Ptr,
}

impl Type {
    /// Every type, narrow integers first.
    pub const ALL: [Type; 8] = [Type::I8, Type::I16, Type::I32, Type::I64, Type::I128, Type::F32, Type::F64, Type::Ptr];

    /// Width in bytes: what a load or a store moves.
    pub const fn bytes(self) -> u32 {
        match self {
            Type::I8 => 1,
            Type::I16 => 2,
            Type::I32 | Type::F32 => 4,
            Type::I64 | Type::F64 | Type::Ptr => 8,
            Type::I128 => 16,
        }
    }

    /// Width in bits.
    pub const fn bits(self) -> u32 {
        self.bytes() * 8
    }

    /// I8 to I128, not Ptr.
    pub const fn is_int(self) -> bool {
        matches!(self, Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::I128)
    }

    /// F32 or F64.
    pub const fn is_float(self) -> bool {
        matches!(self, Type::F32 | Type::F64)
    }

    /// The name in kernel text.
    pub const fn name(self) -> &'static str {
        match self {
            Type::I8 => "i8",
            Type::I16 => "i16",
            Type::I32 => "i32",
            Type::I64 => "i64",
            Type::I128 => "i128",
            Type::F32 => "f32",
            Type::F64 => "f64",
            Type::Ptr => "ptr",
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name(u32);

        impl $name {
            /// The position in its arena.
            pub const fn index(self) -> usize {
                self.0 as usize
            }

            pub(crate) fn new(index: usize) -> Self {
                $name(u32::try_from(index).expect("an arena holds fewer than 2^32 entries"))
            }
        }
    };
}

id! {
    /// A value of one [`Function`].
    Value
}
id! {
    /// An instruction of one [`Function`].
    Inst
}
id! {
    /// A region of one [`Function`].
    Region
}
id! {
    /// A function of one [`Module`].
    FunctionId
}

/// One argument in, one result of the same type out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnaryOp {
    /// Integers, wrapping.
    Neg,
    /// All bits of an integer inverted. A boolean is inverted by `xor 1` ([`Builder::bool_not`]).
    Not,
    /// The number of bits that are 1, of an I64.
    PopCount,
    /// Floats: the sign bit inverted.
    FNeg,
    /// Floats: the sign bit cleared.
    FAbs,
    /// Floats: correctly rounded square root.
    FSqrt,
    /// Floats: towards negative infinity.
    FFloor,
    /// Floats: towards positive infinity.
    FCeil,
    /// Floats: towards zero.
    FTrunc,
    /// Floats: to nearest, ties to even.
    FNearest,
}

/// Two arguments of one type in, one result of that type out (shifts: see there).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BinaryOp {
    /// Integers, wrapping.
    Add,
    /// Integers, wrapping.
    Sub,
    /// Integers, wrapping.
    Mul,
    /// Integers, towards zero. The divisor must not be 0 and the quotient must fit: the caller guards it. Never moved.
    SDiv,
    /// Integers, sign of the dividend. The divisor must not be 0: the caller guards it. Never moved.
    SRem,
    /// The high 64 bits of the 128-bit product of two unsigned I64.
    UMulHi,
    /// Bitwise.
    And,
    /// Bitwise.
    Or,
    /// Bitwise.
    Xor,
    /// Left shift. The amount may be of any integer type but I128 and counts modulo the width.
    Shl,
    /// Arithmetic right shift; amount as for `Shl`.
    SShr,
    /// Logical right shift; amount as for `Shl`.
    UShr,
    /// Rotate left; amount as for `Shl`. I32 and I64 only.
    Rotl,
    /// The smaller of two signed integers.
    SMin,
    /// The larger of two signed integers.
    SMax,
    /// Floats.
    FAdd,
    /// Floats.
    FSub,
    /// Floats.
    FMul,
    /// Floats.
    FDiv,
    /// `a < b ? a : b`: the second argument if one is NaN or both are zero.
    FMin,
    /// `a > b ? a : b`: the second argument if one is NaN or both are zero.
    FMax,
}

impl BinaryOp {
    /// Whether the second argument counts bits.
    pub const fn is_shift(self) -> bool {
        matches!(self, BinaryOp::Shl | BinaryOp::SShr | BinaryOp::UShr | BinaryOp::Rotl)
    }

    /// Whether the arguments are floats.
    pub const fn is_float(self) -> bool {
        matches!(
            self,
            BinaryOp::FAdd | BinaryOp::FSub | BinaryOp::FMul | BinaryOp::FDiv | BinaryOp::FMin | BinaryOp::FMax
        )
    }

    /// Whether the arguments may be swapped with the same bits as result.
    pub const fn is_commutative(self) -> bool {
        matches!(
            self,
            BinaryOp::Add
                | BinaryOp::Mul
                | BinaryOp::UMulHi
                | BinaryOp::And
                | BinaryOp::Or
                | BinaryOp::Xor
                | BinaryOp::SMin
                | BinaryOp::SMax
                | BinaryOp::FAdd
                | BinaryOp::FMul
        )
    }

    /// Whether some arguments have no result, so that the op may not run before its guard.
    pub const fn is_partial(self) -> bool {
        matches!(self, BinaryOp::SDiv | BinaryOp::SRem)
    }
}

/// Two integers in; the wrapped result and an overflow flag (I8, 0 or 1) out. I32, I64 and I128, signed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CheckedOp {
    /// a + b
    Add,
    /// a - b
    Sub,
    /// a * b
    Mul,
}

/// A comparison: signed for integers, IEEE for floats (false with NaN, but `Ne` is true).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cmp {
    /// a == b
    Eq,
    /// a != b
    Ne,
    /// a < b
    Lt,
    /// a <= b
    Le,
    /// a > b
    Gt,
    /// a >= b
    Ge,
    /// a < b, unsigned integers and pointers
    ULt,
    /// a <= b, unsigned integers and pointers
    ULe,
    /// a > b, unsigned integers and pointers
    UGt,
    /// a >= b, unsigned integers and pointers
    UGe,
}

impl Cmp {
    /// The comparison with its arguments swapped.
    pub const fn swapped(self) -> Cmp {
        match self {
            Cmp::Eq => Cmp::Eq,
            Cmp::Ne => Cmp::Ne,
            Cmp::Lt => Cmp::Gt,
            Cmp::Le => Cmp::Ge,
            Cmp::Gt => Cmp::Lt,
            Cmp::Ge => Cmp::Le,
            Cmp::ULt => Cmp::UGt,
            Cmp::ULe => Cmp::UGe,
            Cmp::UGt => Cmp::ULt,
            Cmp::UGe => Cmp::ULe,
        }
    }

    /// The comparison of integers that holds exactly when this one does not.
    pub const fn inverted(self) -> Cmp {
        match self {
            Cmp::Eq => Cmp::Ne,
            Cmp::Ne => Cmp::Eq,
            Cmp::Lt => Cmp::Ge,
            Cmp::Le => Cmp::Gt,
            Cmp::Gt => Cmp::Le,
            Cmp::Ge => Cmp::Lt,
            Cmp::ULt => Cmp::UGe,
            Cmp::ULe => Cmp::UGt,
            Cmp::UGt => Cmp::ULe,
            Cmp::UGe => Cmp::ULt,
        }
    }
}

/// A change of type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ConvertOp {
    /// To a wider integer, signed.
    SignExtend,
    /// To a wider integer, unsigned.
    ZeroExtend,
    /// To a narrower integer: the low bits.
    Truncate,
    /// Signed integer (I8 to I128) to float, rounded to nearest even.
    IntToFloat,
    /// Float to signed integer (I32, I64, I128), towards zero, saturating; NaN gives 0.
    FloatToInt,
    /// F32 to F64, exact.
    Promote,
    /// F64 to F32, rounded to nearest even.
    Demote,
    /// The same bits: I32 and F32, I64 and F64 and Ptr.
    Bitcast,
    /// I128 to I64: bits 0 to 63.
    Lo64,
    /// I128 to I64: bits 64 to 127.
    Hi64,
}

/// What may be assumed of the memory behind a load or a store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct MemFlags {
    /// The address is a multiple of the type's width.
    pub aligned: bool,
    /// Nothing writes there while the function runs: an earlier load of the same place may stand in.
    pub readonly: bool,
    /// The place may be read wherever its address is known, even if the program would not come to this load: implies `readonly`.
    pub always: bool,
}

/// How a `for` loop runs. The result is the same but for the rounding of float reductions in a vector loop.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LoopKind {
    /// One step after the other.
    Serial,
    /// The backend may run `lanes` steps at once (0: as many as it likes). Steps must be independent, but for carried values that
    /// are sums, minima, maxima or bitwise reductions; a store must not feed a later step's load.
    Vector(u32),
    /// The body is repeated so many times per back edge.
    Unrolled(u32),
}

/// A list of operands.
pub type Values = SmallVec<[Value; 4]>;

/// What an instruction does.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// One argument, one result.
    Unary(UnaryOp, Value),
    /// Two arguments, one result.
    Binary(BinaryOp, Value, Value),
    /// Two arguments; result and overflow flag.
    Checked(CheckedOp, Value, Value),
    /// a * b + c, rounded once.
    Fma(Value, Value, Value),
    /// I8 0 or 1.
    Compare(Cmp, Value, Value),
    /// The second argument if the first (I8) is not 0, else the third; both are computed.
    Select(Value, Value, Value),
    /// A change of type.
    Convert(ConvertOp, Value, Type),
    /// Two I64 to an I128: low half, high half.
    Concat64(Value, Value),
    /// base + index * scale + displacement; the index is I64.
    Offset {
        /// Ptr
        base: Value,
        /// I64
        index: Value,
        /// Bytes per index step.
        scale: i64,
        /// Bytes added.
        displacement: i64,
    },
    /// A value of the type from pointer + offset.
    Load {
        /// Type in memory and in the register.
        ty: Type,
        /// Ptr
        pointer: Value,
        /// Bytes added.
        offset: i32,
        /// Assumptions.
        flags: MemFlags,
    },
    /// The value to pointer + offset.
    Store {
        /// Any type.
        value: Value,
        /// Ptr
        pointer: Value,
        /// Bytes added.
        offset: i32,
        /// Assumptions.
        flags: MemFlags,
    },
    /// A function of the runtime.
    CallRuntime(RuntimeFn, Values),
    /// A function of this module.
    Call(FunctionRef, Values),
    /// If the flag (I8) is not 0: the trap code and the location go into the worker block (slots 1 and 2), and the function
    /// returns the code as its status.
    TrapIf {
        /// I8
        condition: Value,
        /// Slot 1 of the worker block.
        code: TrapCode,
        /// Slot 2 of the worker block: the place in the program that the error names.
        location: u32,
    },
    /// If the flag (I8) is not 0, a runtime function has failed and left its trap in the worker block: the location goes there too, and
    /// the function returns the status; without one, the code from the block ([`TrapCode::Panic`] if there is none).
    FailIf {
        /// I8
        condition: Value,
        /// I32
        status: Option<Value>,
        /// Slot 2 of the worker block.
        location: u32,
    },
    /// If the flag (I8) is not 0: the function returns the value.
    ReturnIf {
        /// I8
        condition: Value,
        /// The function's result.
        value: Value,
    },
    /// One of two regions; results are what the regions yield.
    If {
        /// I8
        condition: Value,
        /// Runs if the condition is not 0.
        then_region: Region,
        /// Runs if the condition is 0.
        else_region: Region,
    },
    /// One of several regions, by value.
    Switch {
        /// An integer but I128.
        selector: Value,
        /// Distinct values with their regions.
        cases: Vec<(i64, Region)>,
        /// Runs if no case fits.
        default: Region,
    },
    /// `i = begin; while i < end { body(i, carried); i += step }`, signed; `end + step` does not overflow.
    /// Region parameters: index (I64), carried values; yields the next carried values. Results: the last carried values.
    For {
        /// How it runs.
        kind: LoopKind,
        /// I64
        begin: Value,
        /// I64
        end: Value,
        /// Positive.
        step: i64,
        /// The carried values of the first step.
        init: Values,
        /// Index and carried values to next carried values.
        body: Region,
    },
    /// The body runs at least once; it yields a flag (I8) whether to go on, then the next carried values.
    /// Results: the carried values that the last run yielded.
    While {
        /// The carried values of the first run.
        init: Values,
        /// Carried values to flag and next carried values.
        body: Region,
    },
}

impl From<AbiType> for Type {
    fn from(ty: AbiType) -> Type {
        match ty {
            AbiType::I8 => Type::I8,
            AbiType::I16 => Type::I16,
            AbiType::I32 => Type::I32,
            AbiType::I64 => Type::I64,
            AbiType::F32 => Type::F32,
            AbiType::F64 => Type::F64,
            AbiType::Ptr => Type::Ptr,
        }
    }
}

/// What a caller must know of a function.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Signature {
    /// No I128.
    pub params: Vec<Type>,
    /// No I128.
    pub result: Option<Type>,
    /// Which parameter is the worker block; without one the function cannot trap. The result is then I32: 0, or a status.
    pub worker: Option<usize>,
}

impl Signature {
    /// A function that cannot trap.
    pub fn new(params: &[Type], result: Option<Type>) -> Signature {
        Signature { params: params.to_vec(), result, worker: None }
    }

    /// `(ctx, worker, begin, end) -> status`: a pipeline or a nest over a range.
    pub fn pipeline() -> Signature {
        Signature::new(&[Type::Ptr, Type::Ptr, Type::I64, Type::I64], Some(Type::I32)).with_worker(1)
    }

    /// The function may trap; parameter `index` is the worker block.
    pub fn with_worker(mut self, index: usize) -> Signature {
        self.worker = Some(index);
        self
    }
}

/// A function of the module with what a call needs to know of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FunctionRef {
    id: FunctionId,
    signature: Arc<Signature>,
}

impl FunctionRef {
    /// The function's place in its module.
    pub fn id(&self) -> FunctionId {
        self.id
    }

    /// The function's parameters and result.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }
}

/// How hard the backend works on a function.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum OptLevel {
    /// The code is clean as it stands: the builder folded, shared and hoisted.
    #[default]
    None,
    /// The backend's own optimizer too: a third more compile time, super-linear above a thousand instructions.
    Speed,
}

/// Where a value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Definition {
    /// The bits, zero-extended.
    Constant(u128),
    /// Parameter of the region.
    Parameter(Region, u32),
    /// Result of the instruction.
    Result(Inst, u32),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct ValueData {
    ty: Type,
    definition: Definition,
}

/// An instruction.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct InstData {
    /// What it does.
    pub op: Op,
    /// What it makes: none, one, two (checked ops), or one per carried or yielded value.
    pub results: SmallVec<[Value; 2]>,
}

/// A region.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct RegionData {
    /// Values defined at its begin.
    pub params: Vec<Value>,
    /// In order.
    pub insts: Vec<Inst>,
    /// Values handed to the instruction that holds the region; the function's result for its body.
    pub yields: Vec<Value>,
}

/// A function: one tree of regions.
#[derive(Clone, Debug)]
pub struct Function {
    /// For people, and the symbol.
    pub name: String,
    /// Parameters and result.
    pub signature: Arc<Signature>,
    /// How hard the backend works on it.
    pub opt: OptLevel,
    values: Vec<ValueData>,
    insts: Vec<InstData>,
    regions: Vec<RegionData>,
    constants: HashMap<(Type, u128), Value>,
}

impl Function {
    pub(crate) const BODY: Region = Region(0);

    pub(crate) fn empty(name: &str, signature: Arc<Signature>) -> Function {
        let mut function = Function {
            name: name.to_string(),
            signature: signature.clone(),
            opt: OptLevel::None,
            values: Vec::new(),
            insts: Vec::new(),
            regions: Vec::new(),
            constants: HashMap::new(),
        };
        let body = function.add_region();
        for &ty in &signature.params {
            function.add_param(body, ty);
        }
        function
    }

    /// The outermost region: its parameters are the function's, what it yields is the function's result.
    pub fn body(&self) -> Region {
        Self::BODY
    }

    /// The function's parameters.
    pub fn params(&self) -> &[Value] {
        &self.regions[0].params
    }

    /// The type of a value.
    pub fn ty(&self, value: Value) -> Type {
        self.values[value.index()].ty
    }

    /// Where a value comes from.
    pub fn definition(&self, value: Value) -> Definition {
        self.values[value.index()].definition
    }

    /// The bits of a constant.
    pub fn constant(&self, value: Value) -> Option<u128> {
        match self.definition(value) {
            Definition::Constant(bits) => Some(bits),
            Definition::Parameter(..) | Definition::Result(..) => None,
        }
    }

    /// An instruction.
    pub fn inst(&self, inst: Inst) -> &InstData {
        &self.insts[inst.index()]
    }

    /// A region.
    pub fn region(&self, region: Region) -> &RegionData {
        &self.regions[region.index()]
    }

    /// How many values the function has, constants included: ids are below it.
    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    /// How many instructions stand in the function's regions.
    pub fn inst_count(&self) -> usize {
        self.regions.iter().map(|region| region.insts.len()).sum()
    }

    /// Every instruction, also such as no region holds any more.
    pub(crate) fn arena(&self) -> &[InstData] {
        &self.insts
    }

    /// Whether the other function does the same in the same way; names aside.
    fn is_like(&self, other: &Function) -> bool {
        self.opt == other.opt
            && self.signature == other.signature
            && self.values == other.values
            && self.insts == other.insts
            && self.regions == other.regions
    }

    /// Equal for functions that are alike.
    fn likeness(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.values, &self.insts, &self.regions).hash(&mut hasher);
        hasher.finish()
    }

    pub(crate) fn add_region(&mut self) -> Region {
        self.regions.push(RegionData::default());
        Region::new(self.regions.len() - 1)
    }

    pub(crate) fn add_param(&mut self, region: Region, ty: Type) -> Value {
        let number = self.regions[region.index()].params.len() as u32;
        let value = self.add_value(ty, Definition::Parameter(region, number));
        self.regions[region.index()].params.push(value);
        value
    }

    /// Adds an instruction to the end of a region.
    pub(crate) fn add_inst(&mut self, region: Region, op: Op, results: &[Type]) -> Inst {
        let inst = Inst::new(self.insts.len());
        self.insts.push(InstData { op, results: SmallVec::new() });
        for (number, &ty) in results.iter().enumerate() {
            let value = self.add_value(ty, Definition::Result(inst, number as u32));
            self.insts[inst.index()].results.push(value);
        }
        self.regions[region.index()].insts.push(inst);
        inst
    }

    pub(crate) fn add_constant(&mut self, ty: Type, bits: u128) -> Value {
        if let Some(&value) = self.constants.get(&(ty, bits)) {
            return value;
        }
        let value = self.add_value(ty, Definition::Constant(bits));
        self.constants.insert((ty, bits), value);
        value
    }

    pub(crate) fn region_mut(&mut self, region: Region) -> &mut RegionData {
        &mut self.regions[region.index()]
    }

    fn add_value(&mut self, ty: Type, definition: Definition) -> Value {
        self.values.push(ValueData { ty, definition });
        Value::new(self.values.len() - 1)
    }
}

impl Op {
    /// Calls `visit` with each operand; regions' yields are not operands.
    pub fn each_operand(&self, mut visit: impl FnMut(Value)) {
        match self {
            Op::Unary(_, a) | Op::Convert(_, a, _) => visit(*a),
            Op::Binary(_, a, b) | Op::Checked(_, a, b) | Op::Compare(_, a, b) | Op::Concat64(a, b) => {
                visit(*a);
                visit(*b);
            }
            Op::Fma(a, b, c) | Op::Select(a, b, c) => {
                visit(*a);
                visit(*b);
                visit(*c);
            }
            Op::Offset { base, index, .. } => {
                visit(*base);
                visit(*index);
            }
            Op::Load { pointer, .. } => visit(*pointer),
            Op::Store { value, pointer, .. } => {
                visit(*value);
                visit(*pointer);
            }
            Op::CallRuntime(_, args) | Op::Call(_, args) => args.iter().copied().for_each(visit),
            Op::TrapIf { condition, .. } => visit(*condition),
            Op::ReturnIf { condition, value } => {
                visit(*condition);
                visit(*value);
            }
            Op::FailIf { condition, status, .. } => {
                visit(*condition);
                status.iter().copied().for_each(visit);
            }
            Op::If { condition, .. } => visit(*condition),
            Op::Switch { selector, .. } => visit(*selector),
            Op::For { begin, end, init, .. } => {
                visit(*begin);
                visit(*end);
                init.iter().copied().for_each(visit);
            }
            Op::While { init, .. } => init.iter().copied().for_each(visit),
        }
    }

    /// Calls `visit` with each region that the op holds.
    pub fn each_region(&self, mut visit: impl FnMut(Region)) {
        match self {
            Op::If { then_region, else_region, .. } => {
                visit(*then_region);
                visit(*else_region);
            }
            Op::Switch { cases, default, .. } => {
                for (_, region) in cases {
                    visit(*region);
                }
                visit(*default);
            }
            Op::For { body, .. } | Op::While { body, .. } => visit(*body),
            Op::Unary(..)
            | Op::Binary(..)
            | Op::Checked(..)
            | Op::Fma(..)
            | Op::Compare(..)
            | Op::Select(..)
            | Op::Convert(..)
            | Op::Concat64(..)
            | Op::Offset { .. }
            | Op::Load { .. }
            | Op::Store { .. }
            | Op::CallRuntime(..)
            | Op::Call(..)
            | Op::TrapIf { .. }
            | Op::FailIf { .. }
            | Op::ReturnIf { .. } => {}
        }
    }

    /// Whether nothing is lost if the op's results are not used.
    pub fn is_droppable(&self) -> bool {
        match self {
            Op::Load { .. } => true,
            Op::CallRuntime(callee, _) => callee.effect() == Effect::Pure,
            op => op.is_pure(),
        }
    }

    /// Whether the op only computes: no memory, no control, and nothing is lost if its result is not used.
    pub fn is_pure(&self) -> bool {
        matches!(
            self,
            Op::Unary(..)
                | Op::Binary(..)
                | Op::Checked(..)
                | Op::Fma(..)
                | Op::Compare(..)
                | Op::Select(..)
                | Op::Convert(..)
                | Op::Concat64(..)
                | Op::Offset { .. }
        )
    }
}

/// The types of a runtime function's parameters.
pub fn runtime_params(function: RuntimeFn) -> Vec<Type> {
    let params = function.signature().params;
    params.iter().map(|&(_, ty)| ty.into()).collect()
}

/// The type of a runtime function's result.
pub fn runtime_result(function: RuntimeFn) -> Option<Type> {
    function.signature().result.map(Type::from)
}

/// Functions that are compiled together and may call each other.
#[derive(Clone, Debug, Default)]
pub struct Module {
    functions: Vec<Declared>,
    /// What [`Module::share`] was given, by likeness.
    shared: HashMap<u64, Vec<FunctionId>>,
}

#[derive(Clone, Debug)]
struct Declared {
    name: String,
    signature: Arc<Signature>,
    function: Option<Function>,
}

impl Module {
    /// A module without functions.
    pub fn new() -> Module {
        Module::default()
    }

    /// Names a function, so that others (and itself) can call it; [`Module::define`] must follow.
    pub fn declare(&mut self, name: &str, signature: Signature) -> FunctionRef {
        let signature = Arc::new(signature);
        self.functions.push(Declared { name: name.to_string(), signature: signature.clone(), function: None });
        FunctionRef { id: FunctionId::new(self.functions.len() - 1), signature }
    }

    /// A builder for a declared function; its result goes to [`Module::define`].
    pub fn builder(&self, function: &FunctionRef) -> Builder {
        let declared = &self.functions[function.id.index()];
        Builder::with_signature(&declared.name, declared.signature.clone())
    }

    /// Gives a declared function its body; an earlier one is replaced.
    pub fn define(&mut self, function: &FunctionRef, body: Function) {
        self.functions[function.id.index()].function = Some(body);
    }

    pub(crate) fn replace(&mut self, id: FunctionId, body: Function) {
        self.functions[id.index()].function = Some(body);
    }

    /// Declares and defines in one step.
    pub fn add(&mut self, function: Function) -> FunctionRef {
        self.functions.push(Declared {
            name: function.name.clone(),
            signature: function.signature.clone(),
            function: None,
        });
        let reference =
            FunctionRef { id: FunctionId::new(self.functions.len() - 1), signature: function.signature.clone() };
        self.define(&reference, function);
        reference
    }

    /// Adds a function, or finds the one that was shared before and does the same: it keeps its name.
    pub fn share(&mut self, function: Function) -> FunctionRef {
        let likeness = function.likeness();
        let alike = |id: &&FunctionId| self.function(**id).is_some_and(|other| other.is_like(&function));
        if let Some(id) = self.shared.get(&likeness).and_then(|ids| ids.iter().find(alike)) {
            return FunctionRef { id: *id, signature: function.signature };
        }
        let reference = self.add(function);
        self.shared.entry(likeness).or_default().push(reference.id);
        reference
    }

    /// The ids of all functions.
    pub fn ids(&self) -> impl Iterator<Item = FunctionId> + use<> {
        (0..self.functions.len()).map(FunctionId::new)
    }

    /// How many functions are declared.
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// Whether no function is declared.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// The name of a function.
    pub fn name(&self, id: FunctionId) -> &str {
        &self.functions[id.index()].name
    }

    /// The signature of a function.
    pub fn signature(&self, id: FunctionId) -> &Signature {
        &self.functions[id.index()].signature
    }

    /// The body of a function, if it was defined.
    pub fn function(&self, id: FunctionId) -> Option<&Function> {
        self.functions[id.index()].function.as_ref()
    }
}
