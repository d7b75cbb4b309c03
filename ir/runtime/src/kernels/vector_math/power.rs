//! x^y = e^(y log x), with the logarithm in two parts.

use super::exp::{EXP_F64, EXP_RANGE_F64, LN2_F64, LOG2_E_F64, ROUND_F64, clamp_f64, power_of_two_f64};
use super::log::{LN2_SHORT_F64, split_f64};
use super::polynomial_f64;

/// (log(1 + f) - 2s - 2/3 s³) / s⁵ in powers of s²: the tail of the logarithm in `pow`.
const POW_F64: [f64; 8] = [
    0.39999999999999974,
    0.2857142857144532,
    0.22222222217487414,
    0.1818181887627374,
    0.15384556467705462,
    0.1333633283592179,
    0.11674507135817176,
    0.11991595949631344,
];
/// 2/3 in two parts.
const TWO_THIRDS_F64: [f64; 2] = [0.6666666666666666, 3.700743415417188e-17];

/// x^y with the special cases of IEEE 754 (`pow(x, 0)` and `pow(1, y)` are 1 even for NaN; a negative base with a fractional
/// exponent is NaN). Maximum error 1.5 ulp.
#[inline(always)]
pub fn pow_f64(x: f64, y: f64) -> f64 {
    let base = x.abs();
    let (log_high, log_low) = log_in_two_parts(base);
    let high = y * log_high;
    let low = y.mul_add(log_high, -high) + y * log_low;
    let inside = high > EXP_RANGE_F64[0] && high < EXP_RANGE_F64[1];
    let clamped = clamp_f64(high, EXP_RANGE_F64);
    let low = if inside { low } else { 0.0 };
    let shifted = clamped.mul_add(LOG2_E_F64, ROUND_F64);
    let whole = shifted - ROUND_F64;
    let r = whole.mul_add(-LN2_F64[0], clamped);
    let r = whole.mul_add(-LN2_F64[1], r) + low;
    let p = polynomial_f64(r, &EXP_F64);
    let n = shifted.to_bits().wrapping_sub(ROUND_F64.to_bits());
    let half = (n.wrapping_add(4096) >> 1).wrapping_sub(2048);
    let power = (1.0 + p.mul_add(r * r, r)) * power_of_two_f64(half) * power_of_two_f64(n.wrapping_sub(half));

    let power = if base == 0.0 || base == f64::INFINITY || y.abs() == f64::INFINITY {
        // Zero or infinite, by whether base and exponent point the same way.
        let one = base == 1.0;
        let grows = (base > 1.0) == (y > 0.0);
        let extreme = if grows { f64::INFINITY } else { 0.0 };
        if one { 1.0 } else { extreme }
    } else {
        power
    };
    let whole = y.floor() == y;
    let odd = whole && (0.5 * y).floor() != 0.5 * y;
    let negative = x.is_sign_negative();
    let power = if negative && odd { -power } else { power };
    let power = if x < 0.0 && !whole && base < f64::INFINITY { f64::NAN } else { power };
    let power = if x.is_nan() || y.is_nan() { f64::NAN } else { power };
    if x == 1.0 || y == 0.0 { 1.0 } else { power }
}

/// x^y, [`pow_f64`] rounded.
#[inline(always)]
pub fn pow_f32(x: f32, y: f32) -> f32 {
    pow_f64(f64::from(x), f64::from(y)) as f32
}

/// The logarithm of a positive finite number as a sum whose second part is below the last place of the first.
#[inline(always)]
fn log_in_two_parts(x: f64) -> (f64, f64) {
    let (f, exponent) = split_f64(x);
    // log(1 + f) = 2s + 2/3 s³ + s⁵ P(s²); s, s² and the first two terms in two parts each.
    let d = 2.0 + f;
    let d_low = f - (d - 2.0);
    let s = f / d;
    let s_low = (s.mul_add(-d, f) - s * d_low) / d;
    let z = s * s;
    let z_low = s.mul_add(s, -z) + 2.0 * s * s_low;
    let t = TWO_THIRDS_F64[0] * z;
    let t_low = TWO_THIRDS_F64[0].mul_add(z, -t) + TWO_THIRDS_F64[0].mul_add(z_low, TWO_THIRDS_F64[1] * z);
    let t_low = (z * z).mul_add(polynomial_f64(z, &POW_F64), t_low);
    let cube = s * t;
    let cube_low = s.mul_add(t, -cube) + s.mul_add(t_low, s_low * t);
    // Sums in the order of magnitude, each with its rounding error.
    let (whole, fraction) = (exponent * LN2_SHORT_F64[0], exponent * LN2_SHORT_F64[1]);
    let first = 2.0 * s + cube;
    let first_low = (2.0 * s - first) + cube;
    let high = whole + first;
    let back = high - whole;
    let high_low = (whole - (high - back)) + (first - back);
    let low = high_low + (fraction + (first_low + (cube_low + 2.0 * s_low)));
    let sum = high + low;
    (sum, (high - sum) + low)
}
