//! Arithmetic, mathematics and rounding.

use std::cmp::Ordering;

use runtime::kernels::{decimal, vector_math as vm};

use super::{Args, Outcome, compare, mistyped, overflow};
use crate::error::TrapKind;
use crate::scalar::ScalarOp;
use crate::value::Value;

/// `add` and `sub`: decimals are brought to the result's scale first.
pub(crate) fn sum(args: &Args<'_>) -> Outcome {
    let minus = args.op == ScalarOp::Sub;
    let none = || overflow(args.out);
    Ok(match args.values {
        [Value::I32(a), Value::I32(b)] => {
            Value::I32(if minus { a.checked_sub(*b) } else { a.checked_add(*b) }.ok_or_else(none)?)
        }
        [Value::I64(a), Value::I64(b)] => {
            Value::I64(if minus { a.checked_sub(*b) } else { a.checked_add(*b) }.ok_or_else(none)?)
        }
        [Value::F32(a), Value::F32(b)] => Value::F32(if minus { a - b } else { a + b }),
        [Value::F64(a), Value::F64(b)] => Value::F64(if minus { a - b } else { a + b }),
        [Value::Decimal(a), Value::Decimal(b)] => {
            let (precision, scale) = args.out_decimal();
            let a = align(*a, args.scale(0), scale);
            let b = align(*b, args.scale(1), scale);
            let result = a
                .zip(b)
                .and_then(|(a, b)| if minus { decimal::sub(a, b, precision) } else { decimal::add(a, b, precision) });
            Value::Decimal(result.ok_or_else(none)?)
        }
        _ => return mistyped(args),
    })
}

/// A decimal at a scale that is not smaller than its own.
fn align(value: i128, from: u32, to: u32) -> Option<i128> {
    value.checked_mul(decimal::power_of_ten(to.checked_sub(from)?)?)
}

pub(crate) fn mul(args: &Args<'_>) -> Outcome {
    let none = || overflow(args.out);
    Ok(match args.values {
        [Value::I32(a), Value::I32(b)] => Value::I32(a.checked_mul(*b).ok_or_else(none)?),
        [Value::I64(a), Value::I64(b)] => Value::I64(a.checked_mul(*b).ok_or_else(none)?),
        [Value::F32(a), Value::F32(b)] => Value::F32(a * b),
        [Value::F64(a), Value::F64(b)] => Value::F64(a * b),
        [Value::Decimal(a), Value::Decimal(b)] => {
            Value::Decimal(decimal::mul(*a, *b, args.out_decimal().0).ok_or_else(none)?)
        }
        _ => return mistyped(args),
    })
}

pub(crate) fn div(args: &Args<'_>) -> Outcome {
    let none = || overflow(args.out);
    Ok(match args.values {
        [Value::I32(_), Value::I32(0)] | [Value::I64(_), Value::I64(0)] => return Err(TrapKind::DivisionByZero),
        [Value::I32(a), Value::I32(b)] => Value::I32(a.checked_div(*b).ok_or_else(none)?),
        [Value::I64(a), Value::I64(b)] => Value::I64(a.checked_div(*b).ok_or_else(none)?),
        [Value::F32(a), Value::F32(b)] => Value::F32(a / b),
        [Value::F64(a), Value::F64(b)] => Value::F64(a / b),
        _ => return mistyped(args),
    })
}

pub(crate) fn rem(args: &Args<'_>) -> Outcome {
    Ok(match args.values {
        [Value::I32(_), Value::I32(0)] | [Value::I64(_), Value::I64(0)] | [Value::Decimal(_), Value::Decimal(0)] => {
            return Err(TrapKind::DivisionByZero);
        }
        [Value::I32(a), Value::I32(b)] => Value::I32(a.wrapping_rem(*b)),
        [Value::I64(a), Value::I64(b)] => Value::I64(a.wrapping_rem(*b)),
        [Value::F32(a), Value::F32(b)] => Value::F32(a % b),
        [Value::F64(a), Value::F64(b)] => Value::F64(a % b),
        [Value::Decimal(a), Value::Decimal(b)] => {
            let scale = args.out_decimal().1;
            let a = align(*a, args.scale(0), scale);
            let b = align(*b, args.scale(1), scale);
            let result = a.zip(b).and_then(|(a, b)| a.checked_rem(b));
            Value::Decimal(result.ok_or_else(|| overflow(args.out))?)
        }
        _ => return mistyped(args),
    })
}

pub(crate) fn neg(args: &Args<'_>) -> Outcome {
    let none = || overflow(args.out);
    Ok(match args.values {
        [Value::I32(a)] => Value::I32(a.checked_neg().ok_or_else(none)?),
        [Value::I64(a)] => Value::I64(a.checked_neg().ok_or_else(none)?),
        [Value::F32(a)] => Value::F32(-a),
        [Value::F64(a)] => Value::F64(-a),
        [Value::Decimal(a)] => Value::Decimal(a.checked_neg().ok_or_else(none)?),
        _ => return mistyped(args),
    })
}

pub(crate) fn abs(args: &Args<'_>) -> Outcome {
    let none = || overflow(args.out);
    Ok(match args.values {
        [Value::I32(a)] => Value::I32(a.checked_abs().ok_or_else(none)?),
        [Value::I64(a)] => Value::I64(a.checked_abs().ok_or_else(none)?),
        [Value::F32(a)] => Value::F32(a.abs()),
        [Value::F64(a)] => Value::F64(a.abs()),
        [Value::Decimal(a)] => Value::Decimal(a.checked_abs().ok_or_else(none)?),
        _ => return mistyped(args),
    })
}

pub(crate) fn sign(args: &Args<'_>) -> Outcome {
    Ok(match args.values {
        [Value::I32(a)] => Value::I32(a.signum()),
        [Value::I64(a)] => Value::I64(a.signum()),
        [Value::F32(a)] => Value::F32(if *a == 0.0 { 0.0 } else { a.signum() }),
        [Value::F64(a)] => Value::F64(if *a == 0.0 { 0.0 } else { a.signum() }),
        // The unscaled number is at the operand's scale: one is 10^scale.
        [Value::Decimal(a)] => match decimal::power_of_ten(args.scale(0)) {
            Some(one) => Value::Decimal(a.signum() * one),
            None => return mistyped(args),
        },
        _ => return mistyped(args),
    })
}

pub(crate) fn min(args: &Args<'_>) -> Outcome {
    let [a, b] = args.values else { return mistyped(args) };
    Ok(if compare(b, a) == Ordering::Less { b.clone() } else { a.clone() })
}

pub(crate) fn max(args: &Args<'_>) -> Outcome {
    let [a, b] = args.values else { return mistyped(args) };
    Ok(if compare(b, a) == Ordering::Greater { b.clone() } else { a.clone() })
}

/// A function of one float.
pub(crate) fn math1(args: &Args<'_>) -> Outcome {
    type Pair = (fn(f32) -> f32, fn(f64) -> f64);
    let (single, double): Pair = match args.op {
        ScalarOp::Exp => (vm::exp_f32, vm::exp_f64),
        ScalarOp::Log => (vm::log_f32, vm::log_f64),
        ScalarOp::Log1p => (vm::log1p_f32, vm::log1p_f64),
        ScalarOp::Sqrt => (f32::sqrt, f64::sqrt),
        ScalarOp::Sin => (vm::sin_f32, vm::sin_f64),
        ScalarOp::Cos => (vm::cos_f32, vm::cos_f64),
        ScalarOp::Tan => (f32::tan, f64::tan),
        ScalarOp::Asin => (f32::asin, f64::asin),
        ScalarOp::Acos => (f32::acos, f64::acos),
        ScalarOp::Atan => (f32::atan, f64::atan),
        ScalarOp::Tanh => (vm::tanh_f32, vm::tanh_f64),
        ScalarOp::Sigmoid => (vm::sigmoid_f32, vm::sigmoid_f64),
        ScalarOp::Erf => (vm::erf_f32, vm::erf_f64),
        _ => return mistyped(args),
    };
    match args.values {
        [Value::F32(a)] => Ok(Value::F32(single(*a))),
        [Value::F64(a)] => Ok(Value::F64(double(*a))),
        _ => mistyped(args),
    }
}

pub(crate) fn atan2(args: &Args<'_>) -> Outcome {
    match args.values {
        [Value::F32(a), Value::F32(b)] => Ok(Value::F32(a.atan2(*b))),
        [Value::F64(a), Value::F64(b)] => Ok(Value::F64(a.atan2(*b))),
        _ => mistyped(args),
    }
}

pub(crate) fn pow(args: &Args<'_>) -> Outcome {
    match args.values {
        [Value::F32(a), Value::F32(b)] => Ok(Value::F32(vm::pow_f32(*a, *b))),
        [Value::F64(a), Value::F64(b)] => Ok(Value::F64(vm::pow_f64(*a, *b))),
        _ => mistyped(args),
    }
}

/// `floor`, `ceil` and `trunc`.
pub(crate) fn whole(args: &Args<'_>) -> Outcome {
    let op = args.op;
    Ok(match args.values {
        [v @ (Value::I32(_) | Value::I64(_))] => v.clone(),
        [Value::F32(a)] => Value::F32(match op {
            ScalarOp::Floor => a.floor(),
            ScalarOp::Ceil => a.ceil(),
            _ => a.trunc(),
        }),
        [Value::F64(a)] => Value::F64(match op {
            ScalarOp::Floor => a.floor(),
            ScalarOp::Ceil => a.ceil(),
            _ => a.trunc(),
        }),
        [Value::Decimal(a)] => {
            let scale = args.scale(0);
            Value::Decimal(match op {
                ScalarOp::Floor => decimal::floor(*a, scale),
                ScalarOp::Ceil => decimal::ceil(*a, scale),
                _ if *a < 0 => decimal::ceil(*a, scale),
                _ => decimal::floor(*a, scale),
            })
        }
        _ => return mistyped(args),
    })
}

pub(crate) fn round(args: &Args<'_>) -> Outcome {
    let none = || overflow(args.out);
    let digits = args.i32(1)?;
    Ok(match args.values {
        [Value::I32(a), _] => {
            let rounded = decimal::round(i128::from(*a), 0, digits).ok_or_else(none)?;
            Value::I32(i32::try_from(rounded).map_err(|_| none())?)
        }
        [Value::I64(a), _] => {
            let rounded = decimal::round(i128::from(*a), 0, digits).ok_or_else(none)?;
            Value::I64(i64::try_from(rounded).map_err(|_| none())?)
        }
        [Value::F32(a), _] => Value::F32(vm::round_f32(*a, digits)),
        [Value::F64(a), _] => Value::F64(vm::round_f64(*a, digits)),
        [Value::Decimal(a), _] => {
            let rounded = decimal::round(*a, args.scale(0), digits);
            Value::Decimal(rounded.and_then(|v| decimal::fit(v, args.out_decimal().0)).ok_or_else(none)?)
        }
        _ => return mistyped(args),
    })
}

/// Euclid's algorithm.
pub(crate) fn gcd(args: &Args<'_>) -> Outcome {
    fn of(mut a: u64, mut b: u64) -> u64 {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    }
    match args.values {
        [Value::I32(a), Value::I32(b)] => {
            let gcd = of(a.unsigned_abs().into(), b.unsigned_abs().into());
            i32::try_from(gcd).map(Value::I32).map_err(|_| overflow(args.out))
        }
        [Value::I64(a), Value::I64(b)] => {
            let gcd = of(a.unsigned_abs(), b.unsigned_abs());
            i64::try_from(gcd).map(Value::I64).map_err(|_| overflow(args.out))
        }
        _ => mistyped(args),
    }
}

pub(crate) fn bits(args: &Args<'_>) -> Outcome {
    let (a, b, width) = match args.values {
        [Value::I32(a), Value::I32(b)] => (i64::from(*a), i64::from(*b), 32),
        [Value::I64(a), Value::I64(b)] => (*a, *b, 64),
        _ => return mistyped(args),
    };
    let by = || {
        let by = u32::try_from(b).ok().filter(|by| *by < width);
        by.ok_or_else(|| TrapKind::InvalidArgument(format!("a shift by {b} of {width} bits")))
    };
    let value = match args.op {
        ScalarOp::BitAnd => a & b,
        ScalarOp::BitOr => a | b,
        ScalarOp::BitXor => a ^ b,
        ScalarOp::ShiftLeft => a << by()?,
        ScalarOp::ShiftRight => a >> by()?,
        _ => return mistyped(args),
    };
    Ok(if width == 32 { Value::I32(value as i32) } else { Value::I64(value) })
}
