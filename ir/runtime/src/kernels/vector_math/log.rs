//! The natural logarithm and what is made of it: log x = e ln 2 + log(1 + f) with sqrt(1/2) <= 1 + f < sqrt(2).

use super::{exp_f32, exp_f64, polynomial_f32, polynomial_f64};

/// (log(1 + f) - f + f²/2) / f³ for sqrt(1/2) <= 1 + f <= sqrt(2).
const LOG_F32: [f32; 9] =
    [0.33333313, -0.250_000_1, 0.2000214, -0.1666803, 0.1421914, -0.12404742, 0.11890495, -0.11681777, 0.06748701];
/// (log(1 + f) - 2s) / s³ in powers of s², s = f / (2 + f), for sqrt(1/2) <= 1 + f <= sqrt(2).
const LOG_F64: [f64; 7] = [
    0.6666666666666735,
    0.3999999999940865,
    0.28571428743849636,
    0.22222198411369115,
    0.18183573318894097,
    0.15313806224102094,
    0.147985311221201,
];
/// ln 2 in two parts, of which the first has so few bits that its product with an exponent is exact.
const LN2_SHORT_F32: [f32; 2] = [0.693_115_23, 3.194_618_3e-5];
/// ln 2 in two parts, of which the first has so few bits that its product with an exponent is exact.
pub(super) const LN2_SHORT_F64: [f64; 2] = [0.693147180559663, 2.8235290563031577e-13];
/// The bits of sqrt(1/2): a mantissa at or above them keeps its exponent.
const SQRT_HALF_BITS_F32: u32 = 0x3f35_04f3;
/// The bits of sqrt(1/2): a mantissa at or above them keeps its exponent.
const SQRT_HALF_BITS_F64: u64 = 0x3fe6_a09e_667f_3bcd;

/// The natural logarithm; -inf at 0, NaN below. Maximum error 1.0 ulp.
#[inline(always)]
pub fn log_f32(x: f32) -> f32 {
    let (f, exponent) = split_f32(x);
    let square = f * f;
    let tail = (f * square).mul_add(polynomial_f32(f, &LOG_F32), exponent * LN2_SHORT_F32[1]);
    let sum = square.mul_add(-0.5, tail) + f;
    let log = exponent.mul_add(LN2_SHORT_F32[0], sum);
    log_special_f32(x, log)
}

/// (f, e) with x = 2^e (1 + f), sqrt(1/2) <= 1 + f < sqrt(2), for positive finite x.
#[inline(always)]
fn split_f32(x: f32) -> (f32, f32) {
    let subnormal = x < f32::MIN_POSITIVE;
    let bits = if subnormal { x * 33_554_432.0 } else { x }.to_bits();
    let exponent = bits.wrapping_sub(SQRT_HALF_BITS_F32) as i32 >> 23;
    let mantissa = f32::from_bits(bits.wrapping_sub((exponent << 23) as u32));
    (mantissa - 1.0, exponent as f32 - if subnormal { 25.0 } else { 0.0 })
}

#[inline(always)]
fn log_special_f32(x: f32, log: f32) -> f32 {
    let log = if x < f32::INFINITY { log } else { x };
    let log = if x < 0.0 { f32::NAN } else { log };
    if x == 0.0 { f32::NEG_INFINITY } else { log }
}

/// The natural logarithm; -inf at 0, NaN below. Maximum error 1.0 ulp.
#[inline(always)]
pub fn log_f64(x: f64) -> f64 {
    let (f, exponent) = split_f64(x);
    let s = f / (2.0 + f);
    let z = s * s;
    let tail = z * polynomial_f64(z, &LOG_F64);
    let half_square = 0.5 * f * f;
    let low = s.mul_add(half_square + tail, exponent * LN2_SHORT_F64[1]);
    let log = exponent.mul_add(LN2_SHORT_F64[0], f - (half_square - low));
    let log = if x < f64::INFINITY { log } else { x };
    let log = if x < 0.0 { f64::NAN } else { log };
    if x == 0.0 { f64::NEG_INFINITY } else { log }
}

/// (f, e) with x = 2^e (1 + f), sqrt(1/2) <= 1 + f < sqrt(2), for positive finite x.
#[inline(always)]
pub(super) fn split_f64(x: f64) -> (f64, f64) {
    let subnormal = x < f64::MIN_POSITIVE;
    let bits = if subnormal { x * 18_014_398_509_481_984.0 } else { x }.to_bits();
    // The exponent plus 1024, so that the shift is a logical one and the conversion is that of a small natural number.
    let shifted = bits.wrapping_sub(SQRT_HALF_BITS_F64).wrapping_add(1024 << 52) >> 52;
    let mantissa = f64::from_bits(bits.wrapping_sub(shifted.wrapping_sub(1024) << 52));
    let exponent = f64::from_bits(0x4330_0000_0000_0000 | shifted) - (4_503_599_627_370_496.0 + 1024.0);
    (mantissa - 1.0, exponent - if subnormal { 54.0 } else { 0.0 })
}

/// The functions that are the same text in both precisions.
macro_rules! logarithms {
    ($t:ident, $log:ident, $exp:ident, $log1p:ident, $softplus:ident, [$e_log1p:literal, $e_softplus:literal]) => {
        #[doc = concat!("log(1 + x); -inf at -1, NaN below. Maximum error ", $e_log1p, " ulp.")]
        #[inline(always)]
        pub fn $log1p(x: $t) -> $t {
            let u = 1.0 + x;
            let lost = (x - (u - 1.0)) / u;
            let lost = if u > 0.0 && u < <$t>::INFINITY { lost } else { 0.0 };
            $log(u) + lost
        }

        #[doc = concat!("log(1 + e^x). Maximum error ", $e_softplus, " ulp where the result is a normal number.")]
        #[inline(always)]
        pub fn $softplus(x: $t) -> $t {
            let positive = if x < 0.0 { 0.0 } else { x };
            positive + $log1p($exp(-x.abs()))
        }
    };
}

logarithms!(f32, log_f32, exp_f32, log1p_f32, softplus_f32, ["2.0", "2.5"]);
logarithms!(f64, log_f64, exp_f64, log1p_f64, softplus_f64, ["2.0", "2.5"]);
