//! What the pure ops mean, in plain Rust over bits: constant folding and the interpreter share it; code generation does not.
//!
//! A value's bits stand zero-extended in a u128. Every function returns `None` where the op has no result: types that do not fit,
//! or a division that its caller should have guarded.

use super::{BinaryOp, CheckedOp, Cmp, ConvertOp, Type, UnaryOp};

/// Keeps the low bits that the type has.
pub fn mask(ty: Type, bits: u128) -> u128 {
    match ty {
        Type::I128 => bits,
        _ => bits & ((1u128 << ty.bits()) - 1),
    }
}

/// The signed number that an integer's bits stand for.
pub fn signed(ty: Type, bits: u128) -> i128 {
    let shift = 128 - ty.bits();
    ((bits << shift) as i128) >> shift
}

/// The bits of a signed number, wrapped to the type.
pub fn from_signed(ty: Type, value: i128) -> u128 {
    mask(ty, value as u128)
}

fn f32_of(bits: u128) -> f32 {
    f32::from_bits(bits as u32)
}

fn f64_of(bits: u128) -> f64 {
    f64::from_bits(bits as u64)
}

fn of_f32(value: f32) -> u128 {
    u128::from(value.to_bits())
}

fn of_f64(value: f64) -> u128 {
    u128::from(value.to_bits())
}

/// The result of a unary op on a value of type `ty`.
pub fn unary(op: UnaryOp, ty: Type, a: u128) -> Option<u128> {
    if ty.is_int() {
        return match op {
            UnaryOp::Neg => Some(mask(ty, a.wrapping_neg())),
            UnaryOp::Not => Some(mask(ty, !a)),
            UnaryOp::PopCount if ty == Type::I64 => Some(a.count_ones().into()),
            _ => None,
        };
    }
    match ty {
        Type::F32 => {
            let x = f32_of(a);
            Some(of_f32(match op {
                UnaryOp::FNeg => -x,
                UnaryOp::FAbs => x.abs(),
                UnaryOp::FSqrt => x.sqrt(),
                UnaryOp::FFloor => x.floor(),
                UnaryOp::FCeil => x.ceil(),
                UnaryOp::FTrunc => x.trunc(),
                UnaryOp::FNearest => x.round_ties_even(),
                UnaryOp::Neg | UnaryOp::Not | UnaryOp::PopCount => return None,
            }))
        }
        Type::F64 => {
            let x = f64_of(a);
            Some(of_f64(match op {
                UnaryOp::FNeg => -x,
                UnaryOp::FAbs => x.abs(),
                UnaryOp::FSqrt => x.sqrt(),
                UnaryOp::FFloor => x.floor(),
                UnaryOp::FCeil => x.ceil(),
                UnaryOp::FTrunc => x.trunc(),
                UnaryOp::FNearest => x.round_ties_even(),
                UnaryOp::Neg | UnaryOp::Not | UnaryOp::PopCount => return None,
            }))
        }
        _ => None,
    }
}

/// The result of a binary op on two values of type `ty` (a shift's amount may have another type).
pub fn binary(op: BinaryOp, ty: Type, a: u128, b: u128) -> Option<u128> {
    match ty {
        Type::F32 => {
            let (x, y) = (f32_of(a), f32_of(b));
            Some(of_f32(match op {
                BinaryOp::FAdd => x + y,
                BinaryOp::FSub => x - y,
                BinaryOp::FMul => x * y,
                BinaryOp::FDiv => x / y,
                BinaryOp::FMin => return Some(if x < y { a } else { b }),
                BinaryOp::FMax => return Some(if x > y { a } else { b }),
                _ => return None,
            }))
        }
        Type::F64 => {
            let (x, y) = (f64_of(a), f64_of(b));
            Some(of_f64(match op {
                BinaryOp::FAdd => x + y,
                BinaryOp::FSub => x - y,
                BinaryOp::FMul => x * y,
                BinaryOp::FDiv => x / y,
                BinaryOp::FMin => return Some(if x < y { a } else { b }),
                BinaryOp::FMax => return Some(if x > y { a } else { b }),
                _ => return None,
            }))
        }
        Type::Ptr => None,
        Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::I128 => int_binary(op, ty, a, b),
    }
}

fn int_binary(op: BinaryOp, ty: Type, a: u128, b: u128) -> Option<u128> {
    let (x, y) = (signed(ty, a), signed(ty, b));
    // Type widths are powers of two; an amount's low bits are the same in any amount type.
    let amount = (b as u32) & (ty.bits() - 1);
    Some(match op {
        BinaryOp::Add => mask(ty, a.wrapping_add(b)),
        BinaryOp::Sub => mask(ty, a.wrapping_sub(b)),
        BinaryOp::Mul => mask(ty, a.wrapping_mul(b)),
        BinaryOp::SDiv => {
            let quotient = x.checked_div(y)?;
            let bits = from_signed(ty, quotient);
            if signed(ty, bits) != quotient {
                return None;
            }
            bits
        }
        BinaryOp::SRem => {
            if y == 0 {
                return None;
            }
            from_signed(ty, x.wrapping_rem(y))
        }
        BinaryOp::UMulHi => {
            if ty != Type::I64 {
                return None;
            }
            (a * b) >> 64
        }
        BinaryOp::And => a & b,
        BinaryOp::Or => a | b,
        BinaryOp::Xor => a ^ b,
        BinaryOp::Shl => mask(ty, a << amount),
        BinaryOp::SShr => from_signed(ty, x >> amount),
        BinaryOp::UShr => a >> amount,
        BinaryOp::Rotl => match ty {
            Type::I32 => u128::from((a as u32).rotate_left(amount)),
            Type::I64 => u128::from((a as u64).rotate_left(amount)),
            _ => return None,
        },
        BinaryOp::SMin => from_signed(ty, x.min(y)),
        BinaryOp::SMax => from_signed(ty, x.max(y)),
        BinaryOp::FAdd | BinaryOp::FSub | BinaryOp::FMul | BinaryOp::FDiv | BinaryOp::FMin | BinaryOp::FMax => {
            return None;
        }
    })
}

/// Wrapped result and overflow flag of a checked op.
pub fn checked(op: CheckedOp, ty: Type, a: u128, b: u128) -> Option<(u128, u128)> {
    if !matches!(ty, Type::I32 | Type::I64 | Type::I128) {
        return None;
    }
    let (x, y) = (signed(ty, a), signed(ty, b));
    let (wrapped, wide_overflow) = match op {
        CheckedOp::Add => x.overflowing_add(y),
        CheckedOp::Sub => x.overflowing_sub(y),
        CheckedOp::Mul => x.overflowing_mul(y),
    };
    let bits = from_signed(ty, wrapped);
    let overflow = wide_overflow || signed(ty, bits) != wrapped;
    Some((bits, u128::from(overflow)))
}

/// a * b + c, rounded once.
pub fn fma(ty: Type, a: u128, b: u128, c: u128) -> Option<u128> {
    match ty {
        Type::F32 => Some(of_f32(f32_of(a).mul_add(f32_of(b), f32_of(c)))),
        Type::F64 => Some(of_f64(f64_of(a).mul_add(f64_of(b), f64_of(c)))),
        _ => None,
    }
}

/// Whether a comparison of two values of type `ty` holds.
pub fn compare(cmp: Cmp, ty: Type, a: u128, b: u128) -> Option<bool> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let ordering = match ty {
        Type::F32 => f32_of(a).partial_cmp(&f32_of(b)),
        Type::F64 => f64_of(a).partial_cmp(&f64_of(b)),
        Type::Ptr => Some(a.cmp(&b)),
        Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::I128 => Some(signed(ty, a).cmp(&signed(ty, b))),
    };
    Some(match cmp {
        Cmp::Eq => ordering == Some(Equal),
        Cmp::Ne => ordering != Some(Equal),
        Cmp::Lt | Cmp::Le | Cmp::Gt | Cmp::Ge if ty == Type::Ptr => return None,
        Cmp::Lt => ordering == Some(Less),
        Cmp::Le => matches!(ordering, Some(Less | Equal)),
        Cmp::Gt => ordering == Some(Greater),
        Cmp::Ge => matches!(ordering, Some(Greater | Equal)),
        Cmp::ULt | Cmp::ULe | Cmp::UGt | Cmp::UGe if ty.is_float() => return None,
        Cmp::ULt => a < b,
        Cmp::ULe => a <= b,
        Cmp::UGt => a > b,
        Cmp::UGe => a >= b,
    })
}

/// A value of type `from` as type `to`.
pub fn convert(op: ConvertOp, from: Type, to: Type, a: u128) -> Option<u128> {
    if !convertible(op, from, to) {
        return None;
    }
    Some(match op {
        ConvertOp::SignExtend => from_signed(to, signed(from, a)),
        ConvertOp::ZeroExtend | ConvertOp::Bitcast => a,
        ConvertOp::Truncate => mask(to, a),
        ConvertOp::IntToFloat => {
            let x = signed(from, a);
            match to {
                Type::F32 => of_f32(x as f32),
                _ => of_f64(x as f64),
            }
        }
        ConvertOp::FloatToInt => {
            // f32 to f64 is exact, and `as` saturates and takes NaN to 0.
            let x = match from {
                Type::F32 => f64::from(f32_of(a)),
                _ => f64_of(a),
            };
            match to {
                Type::I32 => u128::from((x as i32) as u32),
                Type::I64 => u128::from((x as i64) as u64),
                _ => (x as i128) as u128,
            }
        }
        ConvertOp::Promote => of_f64(f64::from(f32_of(a))),
        ConvertOp::Demote => of_f32(f64_of(a) as f32),
        ConvertOp::Lo64 => a & u128::from(u64::MAX),
        ConvertOp::Hi64 => a >> 64,
    })
}

/// Whether the conversion exists.
pub fn convertible(op: ConvertOp, from: Type, to: Type) -> bool {
    match op {
        ConvertOp::SignExtend | ConvertOp::ZeroExtend => from.is_int() && to.is_int() && from.bits() < to.bits(),
        ConvertOp::Truncate => from.is_int() && to.is_int() && from.bits() > to.bits(),
        ConvertOp::IntToFloat => from.is_int() && to.is_float(),
        ConvertOp::FloatToInt => from.is_float() && matches!(to, Type::I32 | Type::I64 | Type::I128),
        ConvertOp::Promote => from == Type::F32 && to == Type::F64,
        ConvertOp::Demote => from == Type::F64 && to == Type::F32,
        ConvertOp::Bitcast => {
            from != to
                && from.bits() == to.bits()
                && !(from == Type::F64 && to == Type::Ptr)
                && !(from == Type::Ptr && to == Type::F64)
                && from.bits() >= 32
        }
        ConvertOp::Lo64 | ConvertOp::Hi64 => from == Type::I128 && to == Type::I64,
    }
}

/// Two I64 to an I128.
pub fn concat64(lo: u128, hi: u128) -> u128 {
    lo | hi << 64
}

/// base + index * scale + displacement, modulo 2^64.
pub fn offset(base: u128, index: u128, scale: i64, displacement: i64) -> u128 {
    let address =
        (base as u64).wrapping_add((index as u64).wrapping_mul(scale as u64)).wrapping_add(displacement as u64);
    u128::from(address)
}
