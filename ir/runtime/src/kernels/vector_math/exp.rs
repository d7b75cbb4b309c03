//! The exponential and what is made of it: e^x = 2^n e^r with |r| <= ln 2 / 2.

use super::{polynomial_f32, polynomial_f64};

/// (e^r - 1 - r) / r² for |r| <= ln 2 / 2.
pub(super) const EXP_F32: [f32; 5] = [0.5, 0.166_665_18, 0.041_666_202, 0.008_368_952, 0.001_395_069_5];
/// (e^r - 1 - r) / r² for |r| <= ln 2 / 2.
pub(super) const EXP_F64: [f64; 11] = [
    0.5,
    0.16666666666666685,
    0.04166666666666673,
    0.008333333333316609,
    0.0013888888888858482,
    0.0001984126989738539,
    2.48015873736188e-05,
    2.7557233906583276e-06,
    2.7557233477415166e-07,
    2.5112356046016873e-08,
    2.092690627142269e-09,
];
/// log2 e.
const LOG2_E_F32: f32 = std::f32::consts::LOG2_E;
/// log2 e.
pub(super) const LOG2_E_F64: f64 = std::f64::consts::LOG2_E;
/// ln 2 in two parts: the nearest number, and what it lacks.
const LN2_F32: [f32; 2] = [std::f32::consts::LN_2, -1.904_654_2e-9];
/// ln 2 in two parts: the nearest number, and what it lacks.
pub(super) const LN2_F64: [f64; 2] = [std::f64::consts::LN_2, 2.3190468138462996e-17];
/// 1.5 × 2^23: adding it rounds to an integer, which is then the low bits of the sum.
const ROUND_F32: f32 = 12_582_912.0;
/// 1.5 × 2^52: adding it rounds to an integer, which is then the low bits of the sum.
pub(super) const ROUND_F64: f64 = 6_755_399_441_055_744.0;
/// e^x is 0 below the first and infinite above the second.
const EXP_RANGE_F32: [f32; 2] = [-104.0, 89.0];
/// e^x is 0 below the first and infinite above the second.
pub(super) const EXP_RANGE_F64: [f64; 2] = [-746.0, 710.0];
/// e^x - 1 is -1 below the first and infinite above the second.
const EXPM1_RANGE_F32: [f32; 2] = [-20.0, 89.0];
/// e^x - 1 is -1 below the first and infinite above the second.
const EXPM1_RANGE_F64: [f64; 2] = [-50.0, 710.0];
/// tanh is ±1 from here on.
const TANH_MAX_F32: f32 = 20.0;
/// tanh is ±1 from here on.
const TANH_MAX_F64: f64 = 22.0;

/// The functions, which are the same text in both precisions.
macro_rules! exponentials {
    ($t:ident, $bits:ident, $exp:ident, $expm1:ident, $tanh:ident, $sigmoid:ident, $polynomial:ident, $reduce:ident,
     $power_of_two:ident, $clamp:ident,
     [$exp_c:ident, $log2e:ident, $ln2:ident, $round:ident, $exp_range:ident, $expm1_range:ident, $tanh_max:ident,
      $mantissa:literal, $bias:literal],
     [$e_exp:literal, $e_expm1:literal, $e_tanh:literal, $e_sigmoid:literal]) => {
        #[doc = concat!("e^x. Maximum error ", $e_exp, " ulp.")]
        #[inline(always)]
        pub fn $exp(x: $t) -> $t {
            let (em1, n) = $reduce($clamp(x, $exp_range));
            // 2^n in two factors, for a result or an exponent outside the normal numbers.
            let half = (n.wrapping_add(4096) >> 1).wrapping_sub(2048);
            (1.0 + em1) * $power_of_two(half) * $power_of_two(n.wrapping_sub(half))
        }

        #[doc = concat!("e^x - 1. Maximum error ", $e_expm1, " ulp.")]
        #[inline(always)]
        pub fn $expm1(x: $t) -> $t {
            let (em1, n) = $reduce($clamp(x, $expm1_range));
            // 2^(n-1), so that n = emax + 1 does not overflow.
            let scale = $power_of_two(n.wrapping_sub(1));
            2.0 * em1.mul_add(scale, scale - 0.5)
        }

        #[doc = concat!("The hyperbolic tangent. Maximum error ", $e_tanh, " ulp.")]
        #[inline(always)]
        pub fn $tanh(x: $t) -> $t {
            let a = x.abs();
            let a = if a > $tanh_max { $tanh_max } else { a };
            let em1 = $expm1(2.0 * a);
            (em1 / (em1 + 2.0)).copysign(x)
        }

        #[doc = concat!("1 / (1 + e^-x). Maximum error ", $e_sigmoid, " ulp where the result is a normal number.")]
        #[inline(always)]
        pub fn $sigmoid(x: $t) -> $t {
            let e = $exp(-x.abs());
            let numerator = if x < 0.0 { e } else { 1.0 };
            numerator / (1.0 + e)
        }

        /// (e^r - 1, n) with x = n ln 2 + r.
        #[inline(always)]
        fn $reduce(x: $t) -> ($t, $bits) {
            let shifted = x.mul_add($log2e, $round);
            let whole = shifted - $round;
            let r = whole.mul_add(-$ln2[0], x);
            let r = whole.mul_add(-$ln2[1], r);
            let p = $polynomial(r, &$exp_c);
            (p.mul_add(r * r, r), shifted.to_bits().wrapping_sub($round.to_bits()))
        }

        /// 2^n of a normal exponent.
        #[inline(always)]
        pub(super) fn $power_of_two(n: $bits) -> $t {
            <$t>::from_bits(n.wrapping_add($bias) << $mantissa)
        }

        /// `x` within the range; NaN stays.
        #[inline(always)]
        pub(super) fn $clamp(x: $t, range: [$t; 2]) -> $t {
            let x = if x < range[0] { range[0] } else { x };
            if x > range[1] { range[1] } else { x }
        }
    };
}

exponentials!(
    f32,
    u32,
    exp_f32,
    expm1_f32,
    tanh_f32,
    sigmoid_f32,
    polynomial_f32,
    reduce_f32,
    power_of_two_f32,
    clamp_f32,
    [EXP_F32, LOG2_E_F32, LN2_F32, ROUND_F32, EXP_RANGE_F32, EXPM1_RANGE_F32, TANH_MAX_F32, 23, 127],
    ["1.1", "2.0", "3.0", "2.5"]
);
exponentials!(
    f64,
    u64,
    exp_f64,
    expm1_f64,
    tanh_f64,
    sigmoid_f64,
    polynomial_f64,
    reduce_f64,
    power_of_two_f64,
    clamp_f64,
    [EXP_F64, LOG2_E_F64, LN2_F64, ROUND_F64, EXP_RANGE_F64, EXPM1_RANGE_F64, TANH_MAX_F64, 52, 1023],
    ["1.0", "2.0", "3.0", "2.5"]
);
