//! Elementary functions: one polynomial each, bit-equal wherever it is evaluated.
//!
//! What holds:
//! - a scalar function is branch-free and made of `+ - × ÷ sqrt mul_add`, comparisons with selects, and integer operations on
//!   bits, so that a vectorized loop over it, and generated code that emits the same sequence with the constants given here,
//!   compute the same bits (the payload of a NaN aside). `mul_add` is fused on every machine;
//! - a block function applies its scalar function to each element; inputs and output have one length;
//! - the maximum errors, in units in the last place, stand in the documentation of each function and are checked by a test.
//!
//! The coefficients are weighted least-squares fits at Chebyshev nodes, reweighted towards the minimax polynomial (Lawson
//! 1961), computed with 50 digits for the intervals given. Lowest power first.
//!
//! `sin` and `cos` reduce their argument in two or three parts (Cody and Waite 1980); beyond [`TRIG_F32_MAX`] and
//! [`TRIG_F64_MAX`] they call the standard library, which reduces with as many bits as it takes.

/// (e^r - 1 - r) / r² for |r| <= ln 2 / 2.
pub const EXP_F32: [f32; 5] = [0.5, 0.166_665_18, 0.041_666_202, 0.008_368_952, 0.001_395_069_5];
/// (e^r - 1 - r) / r² for |r| <= ln 2 / 2.
pub const EXP_F64: [f64; 11] = [
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
/// (log(1 + f) - f + f²/2) / f³ for sqrt(1/2) <= 1 + f <= sqrt(2).
pub const LOG_F32: [f32; 9] =
    [0.33333313, -0.250_000_1, 0.2000214, -0.1666803, 0.1421914, -0.12404742, 0.11890495, -0.11681777, 0.06748701];
/// (log(1 + f) - 2s) / s³ in powers of s², s = f / (2 + f), for sqrt(1/2) <= 1 + f <= sqrt(2).
pub const LOG_F64: [f64; 7] = [
    0.6666666666666735,
    0.3999999999940865,
    0.28571428743849636,
    0.22222198411369115,
    0.18183573318894097,
    0.15313806224102094,
    0.147985311221201,
];
/// (log(1 + f) - 2s - 2/3 s³) / s⁵ in powers of s²: the tail of the logarithm in `pow`.
pub const POW_F64: [f64; 8] = [
    0.39999999999999974,
    0.2857142857144532,
    0.22222222217487414,
    0.1818181887627374,
    0.15384556467705462,
    0.1333633283592179,
    0.11674507135817176,
    0.11991595949631344,
];
/// (sin r - r) / r³ in powers of r², |r| <= π/4; single precision evaluates it in double.
pub const SIN_F32: [f64; 4] =
    [-0.1666666664054722, 0.008333329261161645, -0.00019839294717735533, 2.717928774315258e-06];
/// (cos r - 1 + r²/2) / r⁴ in powers of r², |r| <= π/4; single precision evaluates it in double.
pub const COS_F32: [f64; 4] =
    [0.04166666662101797, -0.001388888359537818, 2.4799477950897478e-05, -2.7206740515666714e-07];
/// (sin r - r) / r³ in powers of r², |r| <= π/4.
pub const SIN_F64: [f64; 6] = [
    -0.1666666666666663,
    0.008333333333321867,
    -0.00019841269829351163,
    2.755731352765344e-06,
    -2.5050731552952678e-08,
    1.5895210736931853e-10,
];
/// (cos r - 1 + r²/2) / r⁴ in powers of r², |r| <= π/4.
pub const COS_F64: [f64; 6] = [
    0.041666666666666595,
    -0.001388888888887338,
    2.480158728899897e-05,
    -2.755731420746206e-07,
    2.087570291299726e-09,
    -1.1358561329828088e-11,
];
/// -log(erfc a) / a for 0 <= a <= 4, so that erf a = -expm1(-a Q(a)).
pub const ERF_F32: [f32; 10] = [
    std::f32::consts::FRAC_2_SQRT_PI,
    std::f32::consts::FRAC_2_PI,
    0.102771275,
    -0.019117685,
    -0.00025308903,
    0.0017993976,
    -0.0007407246,
    0.00016750018,
    -2.1359573e-05,
    1.1938189e-06,
];
/// -log(erfc a) / a for 0 <= a <= 6.
pub const ERF_F64: [f64; 25] = [
    std::f64::consts::FRAC_2_SQRT_PI,
    0.6366197723675836,
    0.10277260330178878,
    -0.01912844700507085,
    -0.00020919469483679143,
    0.0016962063857085502,
    -0.0005901255527470935,
    2.5878603887375512e-05,
    6.449186157002556e-05,
    -2.9724047072569352e-05,
    3.407266235782309e-06,
    2.8351401103502894e-06,
    -1.7415482330855416e-06,
    3.3636607003738647e-07,
    1.3718060765508162e-07,
    -1.4176086069954073e-07,
    6.573292190889588e-08,
    -2.096243554192091e-08,
    4.997643143889533e-09,
    -9.082100389663868e-10,
    1.2483909804276791e-10,
    -1.2610804920876827e-11,
    8.845445742393633e-13,
    -3.850478561180068e-14,
    7.834116036642325e-16,
];

/// log2 e.
pub const LOG2_E_F32: f32 = std::f32::consts::LOG2_E;
/// log2 e.
pub const LOG2_E_F64: f64 = std::f64::consts::LOG2_E;
/// ln 2 in two parts: the nearest number, and what it lacks.
pub const LN2_F32: [f32; 2] = [std::f32::consts::LN_2, -1.904_654_2e-9];
/// ln 2 in two parts: the nearest number, and what it lacks.
pub const LN2_F64: [f64; 2] = [std::f64::consts::LN_2, 2.3190468138462996e-17];
/// ln 2 in two parts, of which the first has so few bits that its product with an exponent is exact.
pub const LN2_SHORT_F32: [f32; 2] = [0.693_115_23, 3.194_618_3e-5];
/// ln 2 in two parts, of which the first has so few bits that its product with an exponent is exact.
pub const LN2_SHORT_F64: [f64; 2] = [0.693147180559663, 2.8235290563031577e-13];
/// π/2 in three parts.
pub const HALF_PI_F64: [f64; 3] = [std::f64::consts::FRAC_PI_2, 6.123233995736766e-17, -1.4973849048591698e-33];
/// 2/3 in two parts.
pub const TWO_THIRDS_F64: [f64; 2] = [0.6666666666666666, 3.700743415417188e-17];
/// 1.5 × 2^23: adding it rounds to an integer, which is then the low bits of the sum.
pub const ROUND_F32: f32 = 12_582_912.0;
/// 1.5 × 2^52: adding it rounds to an integer, which is then the low bits of the sum.
pub const ROUND_F64: f64 = 6_755_399_441_055_744.0;
/// e^x is 0 below the first and infinite above the second.
pub const EXP_RANGE_F32: [f32; 2] = [-104.0, 89.0];
/// e^x is 0 below the first and infinite above the second.
pub const EXP_RANGE_F64: [f64; 2] = [-746.0, 710.0];
/// e^x - 1 is -1 below the first and infinite above the second.
pub const EXPM1_RANGE_F32: [f32; 2] = [-20.0, 89.0];
/// e^x - 1 is -1 below the first and infinite above the second.
pub const EXPM1_RANGE_F64: [f64; 2] = [-50.0, 710.0];
/// tanh is ±1 from here on.
pub const TANH_MAX_F32: f32 = 20.0;
/// tanh is ±1 from here on.
pub const TANH_MAX_F64: f64 = 22.0;
/// erf is ±1 from here on.
pub const ERF_MAX_F32: f32 = 4.0;
/// erf is ±1 from here on.
pub const ERF_MAX_F64: f64 = 6.0;
/// Above this magnitude the argument of `sin_f32` and `cos_f32` takes the standard library's path.
pub const TRIG_F32_MAX: f32 = 67_108_864.0;
/// Above this magnitude the argument of `sin_f64` and `cos_f64` takes the standard library's path.
pub const TRIG_F64_MAX: f64 = 1_048_576.0;

/// The scalar functions that are the same text in both precisions.
macro_rules! scalar_functions {
    ($t:ident, $bits:ident, $exp:ident, $expm1:ident, $log:ident, $log1p:ident, $tanh:ident, $sigmoid:ident, $erf:ident,
     $softplus:ident, $sqrt:ident, $polynomial:ident, $reduce:ident, $power_of_two:ident, $clamp:ident,
     [$exp_c:ident, $erf_c:ident, $log2e:ident, $ln2:ident, $round:ident, $exp_range:ident, $expm1_range:ident,
      $tanh_max:ident, $erf_max:ident, $mantissa:literal, $bias:literal],
     [$e_exp:literal, $e_expm1:literal, $e_log1p:literal, $e_tanh:literal, $e_sigmoid:literal, $e_erf:literal,
      $e_softplus:literal]) => {
        /// Horner's rule, fused.
        #[inline(always)]
        fn $polynomial<const N: usize>(x: $t, coefficients: &[$t; N]) -> $t {
            let mut sum = coefficients[N - 1];
            let mut i = N - 1;
            while i > 0 {
                i -= 1;
                sum = sum.mul_add(x, coefficients[i]);
            }
            sum
        }

        /// `x` within the range; NaN stays.
        #[inline(always)]
        fn $clamp(x: $t, range: [$t; 2]) -> $t {
            let x = if x < range[0] { range[0] } else { x };
            if x > range[1] { range[1] } else { x }
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
        fn $power_of_two(n: $bits) -> $t {
            <$t>::from_bits(n.wrapping_add($bias) << $mantissa)
        }

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

        #[doc = concat!("log(1 + x); -inf at -1, NaN below. Maximum error ", $e_log1p, " ulp.")]
        #[inline(always)]
        pub fn $log1p(x: $t) -> $t {
            let u = 1.0 + x;
            let lost = (x - (u - 1.0)) / u;
            let lost = if u > 0.0 && u < <$t>::INFINITY { lost } else { 0.0 };
            $log(u) + lost
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

        #[doc = concat!("The error function. Maximum error ", $e_erf, " ulp.")]
        #[inline(always)]
        pub fn $erf(x: $t) -> $t {
            let a = x.abs();
            let a = if a > $erf_max { $erf_max } else { a };
            (-$expm1(-a * $polynomial(a, &$erf_c))).copysign(x)
        }

        #[doc = concat!("log(1 + e^x). Maximum error ", $e_softplus, " ulp where the result is a normal number.")]
        #[inline(always)]
        pub fn $softplus(x: $t) -> $t {
            let positive = if x < 0.0 { 0.0 } else { x };
            positive + $log1p($exp(-x.abs()))
        }

        /// The square root, correctly rounded.
        #[inline(always)]
        pub fn $sqrt(x: $t) -> $t {
            x.sqrt()
        }
    };
}

scalar_functions!(
    f32,
    u32,
    exp_f32,
    expm1_f32,
    log_f32,
    log1p_f32,
    tanh_f32,
    sigmoid_f32,
    erf_f32,
    softplus_f32,
    sqrt_f32,
    polynomial_f32,
    reduce_f32,
    power_of_two_f32,
    clamp_f32,
    [
        EXP_F32,
        ERF_F32,
        LOG2_E_F32,
        LN2_F32,
        ROUND_F32,
        EXP_RANGE_F32,
        EXPM1_RANGE_F32,
        TANH_MAX_F32,
        ERF_MAX_F32,
        23,
        127
    ],
    ["1.1", "2.0", "2.0", "3.0", "2.5", "3.0", "2.5"]
);
scalar_functions!(
    f64,
    u64,
    exp_f64,
    expm1_f64,
    log_f64,
    log1p_f64,
    tanh_f64,
    sigmoid_f64,
    erf_f64,
    softplus_f64,
    sqrt_f64,
    polynomial_f64,
    reduce_f64,
    power_of_two_f64,
    clamp_f64,
    [
        EXP_F64,
        ERF_F64,
        LOG2_E_F64,
        LN2_F64,
        ROUND_F64,
        EXP_RANGE_F64,
        EXPM1_RANGE_F64,
        TANH_MAX_F64,
        ERF_MAX_F64,
        52,
        1023
    ],
    ["1.0", "2.0", "2.0", "3.0", "2.5", "3.0", "2.5"]
);

/// The bits of sqrt(1/2): a mantissa at or above them keeps its exponent.
pub const SQRT_HALF_BITS_F32: u32 = 0x3f35_04f3;
/// The bits of sqrt(1/2): a mantissa at or above them keeps its exponent.
pub const SQRT_HALF_BITS_F64: u64 = 0x3fe6_a09e_667f_3bcd;

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
fn split_f64(x: f64) -> (f64, f64) {
    let subnormal = x < f64::MIN_POSITIVE;
    let bits = if subnormal { x * 18_014_398_509_481_984.0 } else { x }.to_bits();
    // The exponent plus 1024, so that the shift is a logical one and the conversion is that of a small natural number.
    let shifted = bits.wrapping_sub(SQRT_HALF_BITS_F64).wrapping_add(1024 << 52) >> 52;
    let mantissa = f64::from_bits(bits.wrapping_sub(shifted.wrapping_sub(1024) << 52));
    let exponent = f64::from_bits(0x4330_0000_0000_0000 | shifted) - (4_503_599_627_370_496.0 + 1024.0);
    (mantissa - 1.0, exponent - if subnormal { 54.0 } else { 0.0 })
}

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

/// x^y, [`pow_f64`] rounded.
#[inline(always)]
pub fn pow_f32(x: f32, y: f32) -> f32 {
    pow_f64(f64::from(x), f64::from(y)) as f32
}

/// The sine where |x| <= [`TRIG_F32_MAX`]; meaningless beyond.
#[inline(always)]
fn sin_small_f32(x: f32) -> f32 {
    let (r, quadrant) = reduce_trig_f32(f64::from(x));
    quarter_f32(r, quadrant)
}

#[inline(always)]
fn cos_small_f32(x: f32) -> f32 {
    let (r, quadrant) = reduce_trig_f32(f64::from(x));
    quarter_f32(r, quadrant.wrapping_add(1))
}

#[inline(always)]
fn reduce_trig_f32(x: f64) -> (f64, u64) {
    let shifted = x.mul_add(std::f64::consts::FRAC_2_PI, ROUND_F64);
    let whole = shifted - ROUND_F64;
    let r = whole.mul_add(-HALF_PI_F64[0], x);
    (whole.mul_add(-HALF_PI_F64[1], r), shifted.to_bits())
}

/// sin(r + quadrant π/2).
#[inline(always)]
fn quarter_f32(r: f64, quadrant: u64) -> f32 {
    let z = r * r;
    let sine = (r * z).mul_add(polynomial_f64(z, &SIN_F32), r);
    let cosine = (z * z).mul_add(polynomial_f64(z, &COS_F32), z.mul_add(-0.5, 1.0));
    let value = if quadrant & 1 == 0 { sine } else { cosine };
    (if quadrant & 2 == 0 { value } else { -value }) as f32
}

#[inline(always)]
fn sin_small_f64(x: f64) -> f64 {
    let (r, tail, quadrant) = reduce_trig_f64(x);
    quarter_f64(r, tail, quadrant)
}

#[inline(always)]
fn cos_small_f64(x: f64) -> f64 {
    let (r, tail, quadrant) = reduce_trig_f64(x);
    quarter_f64(r, tail, quadrant.wrapping_add(1))
}

/// (r, what r lacks, quadrant). The first product is exact: it and x are multiples of 2^-52 where it is not zero.
#[inline(always)]
fn reduce_trig_f64(x: f64) -> (f64, f64, u64) {
    let shifted = x.mul_add(std::f64::consts::FRAC_2_PI, ROUND_F64);
    let whole = shifted - ROUND_F64;
    let first = whole.mul_add(-HALF_PI_F64[0], x);
    // The second product and the difference with their rounding errors (Knuth's two-sum), then the third part.
    let product = whole * HALF_PI_F64[1];
    let product_low = whole.mul_add(HALF_PI_F64[1], -product);
    let sum = first - product;
    let back = sum - first;
    let lost = (first - (sum - back)) - (product + back);
    let low = whole.mul_add(-HALF_PI_F64[2], lost - product_low);
    let r = sum + low;
    let tail = (sum - r) + low;
    (r, tail, shifted.to_bits())
}

/// sin(r + tail + quadrant π/2).
#[inline(always)]
fn quarter_f64(r: f64, tail: f64, quadrant: u64) -> f64 {
    let z = r * r;
    let cube = (r * z).mul_add(polynomial_f64(z, &SIN_F64), z.mul_add(-0.5 * tail, tail));
    let sine = r + cube;
    let half = 0.5 * z;
    let w = 1.0 - half;
    let small = (z * z).mul_add(polynomial_f64(z, &COS_F64), (-r).mul_add(tail, (1.0 - w) - half));
    let cosine = w + small;
    let value = if quadrant & 1 == 0 { sine } else { cosine };
    if quadrant & 2 == 0 { value } else { -value }
}

/// `x` rounded half away from zero to so many decimal digits: scaled by a power of ten, rounded, scaled back. A number so
/// large that it has no such digit stays; one that rounds to nothing becomes 0.
pub fn round_f64(x: f64, digits: i32) -> f64 {
    if digits == 0 || !x.is_finite() {
        return x.round();
    }
    let power = power_of_ten(digits.unsigned_abs());
    if digits > 0 {
        let scaled = x * power;
        if scaled.is_finite() { scaled.round() / power } else { x }
    } else if power.is_finite() {
        (x / power).round() * power
    } else {
        0.0
    }
}

/// [`round_f64`] in double precision, rounded.
pub fn round_f32(x: f32, digits: i32) -> f32 {
    round_f64(f64::from(x), digits) as f32
}

/// The double nearest to 10^n; infinite above 308.
fn power_of_ten(n: u32) -> f64 {
    // Up to 10^22 each power is exact, and so are the products.
    let exact = |n: u32| (0..n).fold(1.0, |power, _| power * 10.0);
    if n <= 22 { exact(n) } else { format!("1e{n}").parse().unwrap_or(f64::INFINITY) }
}

/// A trigonometric function and its block form: branch-free, then the few large arguments once more.
macro_rules! trigonometric {
    ($t:ident, $name:ident, $block:ident, $small:ident, $max:ident, $doc:literal, $large:expr) => {
        // The single form as well: code for any machine calls a function for each fused multiply-add.
        multiversion! {
            #[doc = $doc]
            pub fn $name(x: $t) -> $t {
                // Beyond the range, and for NaN: the standard library.
                if x.abs() <= $max { $small(x) } else { $large(x) }
            }

            #[doc = concat!("`out[i] = ", stringify!($name), "(x[i])`.")]
            pub fn $block(x: &[$t], out: &mut [$t]) {
                check_lengths(x.len(), out.len());
                let mut all_small = true;
                for (out, &x) in out.iter_mut().zip(x) {
                    all_small &= x.abs() <= $max;
                    *out = $small(x);
                }
                if !all_small {
                    for (out, &x) in out.iter_mut().zip(x) {
                        *out = $name(x);
                    }
                }
            }
        }
    };
}

trigonometric!(
    f32,
    sin_f32,
    sin_block_f32,
    sin_small_f32,
    TRIG_F32_MAX,
    "The sine. Maximum error 0.6 ulp.",
    |x: f32| { f64::from(x).sin() as f32 }
);
trigonometric!(
    f32,
    cos_f32,
    cos_block_f32,
    cos_small_f32,
    TRIG_F32_MAX,
    "The cosine. Maximum error 0.6 ulp.",
    |x: f32| { f64::from(x).cos() as f32 }
);
trigonometric!(f64, sin_f64, sin_block_f64, sin_small_f64, TRIG_F64_MAX, "The sine. Maximum error 1.0 ulp.", f64::sin);
trigonometric!(
    f64,
    cos_f64,
    cos_block_f64,
    cos_small_f64,
    TRIG_F64_MAX,
    "The cosine. Maximum error 1.0 ulp.",
    f64::cos
);

/// A programming error: block kernels are given slices of one length.
#[inline(always)]
fn check_lengths(a: usize, b: usize) {
    assert_eq!(a, b, "a block kernel's slices differ in length");
}

/// Block forms: `out[i] = scalar(x[i])`.
macro_rules! blocks {
    ($t:ident: $($scalar:ident => $block:ident),* $(,)?) => {
        multiversion! {$(
            #[doc = concat!("`out[i] = ", stringify!($scalar), "(x[i])`.")]
            pub fn $block(x: &[$t], out: &mut [$t]) {
                check_lengths(x.len(), out.len());
                for (out, &x) in out.iter_mut().zip(x) {
                    *out = $scalar(x);
                }
            }
        )*}
    };
}

blocks!(f32:
    exp_f32 => exp_block_f32, expm1_f32 => expm1_block_f32, log_f32 => log_block_f32, log1p_f32 => log1p_block_f32,
    tanh_f32 => tanh_block_f32, sigmoid_f32 => sigmoid_block_f32, erf_f32 => erf_block_f32,
    softplus_f32 => softplus_block_f32, sqrt_f32 => sqrt_block_f32, relu_f32 => relu_block_f32,
);
blocks!(f64:
    exp_f64 => exp_block_f64, expm1_f64 => expm1_block_f64, log_f64 => log_block_f64, log1p_f64 => log1p_block_f64,
    tanh_f64 => tanh_block_f64, sigmoid_f64 => sigmoid_block_f64, erf_f64 => erf_block_f64,
    softplus_f64 => softplus_block_f64, sqrt_f64 => sqrt_block_f64, relu_f64 => relu_block_f64,
);

/// The functions of one number, as generated code calls them. Code for any machine calls a function for each fused
/// multiply-add; here it is the machine's own.
pub(crate) mod single {
    macro_rules! singles {
        ($($name:ident($t:ident);)+) => {
            multiversion! {$(
                #[doc = concat!("[`", stringify!($name), "`](super::", stringify!($name), ").")]
                pub(crate) fn $name(x: $t) -> $t {
                    super::$name(x)
                }
            )+}
        };
    }

    singles! {
        exp_f32(f32);
        exp_f64(f64);
        expm1_f32(f32);
        expm1_f64(f64);
        log_f32(f32);
        log_f64(f64);
        log1p_f32(f32);
        log1p_f64(f64);
        tanh_f32(f32);
        tanh_f64(f64);
        sigmoid_f32(f32);
        sigmoid_f64(f64);
        erf_f32(f32);
        erf_f64(f64);
        softplus_f32(f32);
        softplus_f64(f64);
    }
}

/// Fused kernels over whole slices, for one precision.
macro_rules! fused {
    ($t:ident, $lanes:literal, $relu:ident, $max:ident) => {
        /// The larger of `x` and 0; NaN stays.
        #[inline(always)]
        pub fn $relu(x: $t) -> $t {
            if x < 0.0 { 0.0 } else { x }
        }

        multiversion! {
            /// The greatest of `first` and the elements; NaN is greater than every number, and of equals the first is meant, which
            /// the sign of a zero shows.
            pub fn $max(first: $t, x: &[$t]) -> $t {
                // A NaN is kept apart: the lanes are compared as numbers.
                let (mut lanes, mut odd) = ([first; $lanes], [0.0; $lanes]);
                let chunks = x.chunks_exact($lanes);
                let rest = chunks.remainder();
                for chunk in chunks {
                    for ((lane, odd), &x) in lanes.iter_mut().zip(&mut odd).zip(chunk) {
                        *lane = if x > *lane { x } else { *lane };
                        *odd = if x.is_nan() { x } else { *odd };
                    }
                }
                for ((lane, odd), &x) in lanes.iter_mut().zip(&mut odd).zip(rest) {
                    *lane = if x > *lane { x } else { *lane };
                    *odd = if x.is_nan() { x } else { *odd };
                }
                let most = lanes.into_iter().fold(first, |most, x| if x > most { x } else { most });
                if first.is_nan() || odd.iter().any(|x: &$t| x.is_nan()) {
                    <$t>::NAN
                } else if most == 0.0 && first != 0.0 {
                    x.iter().copied().find(|x| *x == 0.0).unwrap_or(most)
                } else {
                    most
                }
            }

        }
    };
}

fused!(f32, 64, relu_f32, max_f32);
fused!(f64, 32, relu_f64, max_f64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::at_every_level;

    type Function32 = (&'static str, fn(f32) -> f32, fn(&[f32], &mut [f32]), fn(f64) -> f64, f64);
    type Function64 = (&'static str, fn(f64) -> f64, fn(&[f64], &mut [f64]), fn(f64) -> f64, f64);

    const FUNCTIONS_F32: [Function32; 11] = [
        ("exp", exp_f32, exp_block_f32, f64::exp, 1.1),
        ("expm1", expm1_f32, expm1_block_f32, f64::exp_m1, 2.0),
        ("log", log_f32, log_block_f32, f64::ln, 1.0),
        ("log1p", log1p_f32, log1p_block_f32, f64::ln_1p, 2.0),
        ("tanh", tanh_f32, tanh_block_f32, f64::tanh, 3.0),
        ("sigmoid", sigmoid_f32, sigmoid_block_f32, sigmoid, 2.5),
        ("erf", erf_f32, erf_block_f32, erf, 3.0),
        ("softplus", softplus_f32, softplus_block_f32, softplus, 2.5),
        ("sqrt", sqrt_f32, sqrt_block_f32, f64::sqrt, 0.5001),
        ("sin", sin_f32, sin_block_f32, f64::sin, 0.6),
        ("cos", cos_f32, cos_block_f32, f64::cos, 0.6),
    ];

    /// The limits hold the error of the reference as well.
    const FUNCTIONS_F64: [Function64; 11] = [
        ("exp", exp_f64, exp_block_f64, f64::exp, 1.0),
        ("expm1", expm1_f64, expm1_block_f64, f64::exp_m1, 2.0),
        ("log", log_f64, log_block_f64, f64::ln, 1.0),
        ("log1p", log1p_f64, log1p_block_f64, f64::ln_1p, 2.0),
        ("tanh", tanh_f64, tanh_block_f64, f64::tanh, 3.0),
        ("sigmoid", sigmoid_f64, sigmoid_block_f64, sigmoid, 2.5),
        // The series and the fraction are off by up to eight units themselves; `known_values_of_erf` is sharper.
        ("erf", erf_f64, erf_block_f64, erf, 9.0),
        ("softplus", softplus_f64, softplus_block_f64, softplus, 2.5),
        ("sqrt", sqrt_f64, sqrt_block_f64, f64::sqrt, 0.5),
        ("sin", sin_f64, sin_block_f64, f64::sin, 1.0),
        ("cos", cos_f64, cos_block_f64, f64::cos, 1.0),
    ];

    fn sigmoid(x: f64) -> f64 {
        if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) }
    }

    fn softplus(x: f64) -> f64 {
        x.max(0.0) + (-x.abs()).exp().ln_1p()
    }

    /// Below 1.5 Kummer's series, all of whose terms are positive; else the continued fraction of 1 - erf (Abramowitz and
    /// Stegun 7.1.6 and 7.1.14).
    fn erf(x: f64) -> f64 {
        if x.is_nan() || x.abs() > 6.0 {
            return if x.is_nan() { x } else { x.signum() };
        }
        if x.abs() > 1.5 {
            let a = x.abs();
            let tail = (1..=100).rev().fold(0.0, |tail, k| 0.5 * f64::from(k) / (a + tail));
            return (1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / (a + tail)).copysign(x);
        }
        let (mut term, mut sum, mut n) = (1.0, 0.0, 0.0);
        while term > sum * 1e-18 {
            sum += term;
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
        }
        2.0 / std::f64::consts::PI.sqrt() * x * (-x * x).exp() * sum
    }

    /// The floats of a range that does not contain zero, ascending, in blocks: their values by a function.
    fn walk_f32(from: f32, to: f32, block: fn(&[f32], &mut [f32]), see: &mut dyn FnMut(f32, f32)) {
        assert!(from <= to && from.is_sign_negative() == to.is_sign_negative());
        let (first, last) = (from.to_bits(), to.to_bits());
        let count = u64::from(first.abs_diff(last)) + 1;
        let (mut x, mut y) = (vec![0.0f32; 1 << 14], vec![0.0f32; 1 << 14]);
        let mut done = 0;
        while done < count {
            let n = (count - done).min(x.len() as u64) as usize;
            for (i, x) in x[..n].iter_mut().enumerate() {
                let at = done as u32 + i as u32;
                *x = f32::from_bits(if first <= last { first + at } else { first - at });
            }
            block(&x[..n], &mut y[..n]);
            x[..n].iter().zip(&y).for_each(|(x, y)| see(*x, *y));
            done += n as u64;
        }
    }

    /// How many floats apart two of one sign are.
    fn apart(a: f32, b: f32) -> u32 {
        a.to_bits().abs_diff(b.to_bits())
    }

    /// The optimizer compares what a function is computed from in place of what it gives (`opt/monotone.rs` of `ir`): it
    /// counts on these, for every float between where the functions are flat.
    #[test]
    fn computed_functions_fall_no_further_than_told() {
        const FLAT: f32 = 1.0 / 33_554_432.0;
        /// A function, where it is flat from, and by how much it may fall.
        type Told = (fn(&[f32], &mut [f32]), f32, fn(f32) -> u32);
        let told: [Told; 3] = [
            (exp_block_f32, 104.0, |_| 0),
            (sigmoid_block_f32, 104.0, |x| u32::from(x < -0.69)),
            (tanh_block_f32, 20.0, |_| 2),
        ];
        let check = |(block, end, may_fall): Told| {
            let mut most = f32::NEG_INFINITY;
            let mut see = |x: f32, y: f32| {
                if y < most {
                    assert!(apart(most, y) <= may_fall(x), "{x} gives {y}, less gave {most}");
                } else {
                    most = y;
                }
            };
            walk_f32(-end, -FLAT, block, &mut see);
            walk_f32(FLAT, end, block, &mut see);
        };
        std::thread::scope(|s| told.map(|f| s.spawn(move || check(f))).map(|t| t.join().expect("it holds")));
    }

    /// Bit patterns over the whole range, and values where functions bend.
    fn inputs_f32() -> Vec<f32> {
        let mut x: Vec<f32> = (0..=u32::MAX).step_by(20_011).map(f32::from_bits).collect();
        x.extend((-120_000..120_000).map(|i| i as f32 * 1e-3));
        x.extend((-20_000..20_000).map(|i| i as f32 * 1e-4));
        x.extend((0..20_000).map(|i| 1.0 + (i - 10_000) as f32 * f32::EPSILON));
        x.extend([
            0.0,
            -0.0,
            1.0,
            -1.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            f32::MAX,
            f32::MIN_POSITIVE,
            1e-45,
        ]);
        x
    }

    fn inputs_f64() -> Vec<f64> {
        let mut x: Vec<f64> = (0..200_000u64).map(|i| f64::from_bits(i.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
        x.extend((-80_000..80_000).map(|i| f64::from(i) * 1e-2 + 1e-7));
        x.extend((-100_000..100_000).map(|i| f64::from(i) * 1.1e-4));
        x.extend((0..20_000).map(|i| 1.0 + f64::from(i - 10_000) * 1e-12));
        x.extend((1..20_000).map(|i| f64::from(i) * std::f64::consts::FRAC_PI_2));
        x.extend([
            0.0,
            -0.0,
            1.0,
            -1.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            f64::MAX,
            f64::MIN_POSITIVE,
            5e-324,
        ]);
        x
    }

    fn same_f32(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    fn same_f64(a: f64, b: f64) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    /// The distance in units of the last place of the exact value; 0 where both are NaN or the same infinity.
    fn error_f32(got: f32, exact: f64) -> f64 {
        let nearest = exact as f32;
        if got == nearest || (got.is_nan() && exact.is_nan()) {
            return if nearest.is_infinite() || exact.is_nan() {
                0.0
            } else {
                (f64::from(got) - exact).abs() / ulp_f32(nearest)
            };
        }
        if nearest.is_infinite() {
            return (f64::from(got) - f64::from(f32::MAX)).abs() / ulp_f32(f32::MAX) + 1.0;
        }
        (f64::from(got) - exact).abs() / ulp_f32(nearest)
    }

    fn ulp_f32(x: f32) -> f64 {
        let exponent = ((x.to_bits() >> 23) & 255).max(1) as i32;
        2f64.powi(exponent - 150)
    }

    fn error_f64(got: f64, exact: f64) -> f64 {
        if got == exact || (got.is_nan() && exact.is_nan()) {
            return 0.0;
        }
        let exponent = ((exact.to_bits() >> 52) & 2047).max(1) as i32;
        let ulp = if exponent > 52 { 2f64.powi(exponent - 1075) } else { f64::from_bits(1u64 << (exponent - 1)) };
        (got - exact).abs() / ulp
    }

    #[test]
    fn single_precision_is_as_accurate_as_documented() {
        let inputs = inputs_f32();
        for (name, scalar, _, exact, limit) in FUNCTIONS_F32 {
            let (mut worst, mut at) = (0.0, 0.0);
            for &x in &inputs {
                let expected = exact(f64::from(x));
                if matches!(name, "sigmoid" | "softplus") && expected.abs() < f64::from(f32::MIN_POSITIVE) {
                    continue;
                }
                let error = error_f32(scalar(x), expected);
                if error.is_nan() || error > worst {
                    (worst, at) = (error, x);
                }
            }
            println!("{name}_f32: {worst:.3} ulp at {at:e}");
            assert!(worst <= limit, "{name}_f32({at:e}) = {:e}: {worst} ulp", scalar(at));
        }
    }

    #[test]
    fn double_precision_is_as_accurate_as_documented() {
        let inputs = inputs_f64();
        for (name, scalar, _, exact, limit) in FUNCTIONS_F64 {
            let (mut worst, mut at) = (0.0, 0.0);
            for &x in &inputs {
                let expected = exact(x);
                if matches!(name, "sigmoid" | "softplus") && expected.abs() < f64::MIN_POSITIVE {
                    continue;
                }
                let error = error_f64(scalar(x), expected);
                if error.is_nan() || error > worst {
                    (worst, at) = (error, x);
                }
            }
            println!("{name}_f64: {worst:.3} ulp at {at:e}");
            assert!(worst <= limit, "{name}_f64({at:e}) = {:e}: {worst} ulp", scalar(at));
        }
    }

    /// Computed with 40 digits.
    const ERF: [(f64, f64); 64] = [
        (1e-300, 1.1283791670955126e-300),
        (1e-17, 1.1283791670955127e-17),
        (1e-09, 1.1283791670955127e-09),
        (0.001, 0.0011283787909692365),
        (0.012636, 0.014257440330029137),
        (0.128938, 0.14468869567299827),
        (0.152675, 0.1709460388053587),
        (0.170085, 0.19008563989127517),
        (0.174245, 0.19464259730977704),
        (0.18354, 0.20480047562741568),
        (0.563158, 0.5742153437713279),
        (0.72534, 0.6950073756533478),
        (0.806185, 0.7457627565576885),
        (1.115438, 0.8853120164000885),
        (1.299596, 0.9339237847253574),
        (1.312686, 0.9366060480059688),
        (1.33015, 0.9400438821608483),
        (1.372573, 0.9477552275741611),
        (1.385199, 0.9498833732969576),
        (1.398507, 0.952047323273673),
        (1.530414, 0.9695611395012181),
        (1.73869, 0.9860628409431852),
        (1.820211, 0.9899518263896407),
        (1.996171, 0.9952425224101754),
        (2.287225, 0.9987819724500581),
        (2.532642, 0.9996586299819085),
        (2.532699, 0.99965873531935),
        (2.596602, 0.9997594813459121),
        (2.627326, 0.9997972779806927),
        (2.672323, 0.9998426893619998),
        (2.696946, 0.9998632964214558),
        (2.757621, 0.9999037536680544),
        (2.972611, 0.9999737652994602),
        (2.974873, 0.9999741337873346),
        (3.031703, 0.9999819284817782),
        (3.248475, 0.9999956524859578),
        (3.338726, 0.999997660858329),
        (3.525484, 0.9999993828999143),
        (3.534014, 0.9999994202710702),
        (3.853766, 0.9999999496438133),
        (3.909558, 0.9999999677846763),
        (4.021833, 0.9999999871261432),
        (4.267151, 0.9999999984070506),
        (4.328906, 0.9999999990759056),
        (4.32924, 0.9999999990786419),
        (4.57368, 0.9999999999007968),
        (4.582648, 0.9999999999087884),
        (4.73234, 0.999999999978067),
        (4.980214, 0.9999999999981197),
        (5.014591, 0.9999999999986753),
        (5.025468, 0.9999999999988148),
        (5.077185, 0.999999999999304),
        (5.084602, 0.9999999999993555),
        (5.159679, 0.9999999999997055),
        (5.294874, 0.9999999999999302),
        (5.408565, 0.9999999999999797),
        (5.618644, 0.9999999999999981),
        (5.634895, 0.9999999999999984),
        (5.671624, 0.999999999999999),
        (5.9, 0.9999999999999999),
        (5.95, 1.0),
        (5.95526, 1.0),
        (6.1, 1.0),
        (30.0, 1.0),
    ];

    #[test]
    fn known_values_of_erf() {
        let mut worst: f64 = 0.0;
        for (x, y) in ERF {
            worst = worst.max(error_f64(erf_f64(x), y));
            assert_eq!(erf_f64(-x), -erf_f64(x));
        }
        println!("erf_f64: {worst:.3} ulp over the table");
        assert!(worst <= 3.0, "{worst} ulp");
    }

    #[test]
    fn blocks_equal_scalars_bit_for_bit_at_every_level() {
        let (x32, x64) = (inputs_f32(), inputs_f64());
        at_every_level(|level| {
            // An odd length has a tail behind the last whole vector.
            for (name, scalar, block, _, _) in FUNCTIONS_F32 {
                let mut out = vec![0.0; x32.len()];
                block(&x32, &mut out);
                for (&x, &out) in x32.iter().zip(&out) {
                    assert!(same_f32(out, scalar(x)), "{level:?} {name}_f32({x:e}): {out:e} and {:e}", scalar(x));
                }
            }
            for (name, scalar, block, _, _) in FUNCTIONS_F64 {
                let mut out = vec![0.0; x64.len()];
                block(&x64, &mut out);
                for (&x, &out) in x64.iter().zip(&out) {
                    assert!(same_f64(out, scalar(x)), "{level:?} {name}_f64({x:e}): {out:e} and {:e}", scalar(x));
                }
            }
            let mut out = vec![0.0; x32.len()];
            relu_block_f32(&x32, &mut out);
            assert!(x32.iter().zip(&out).all(|(&x, &out)| same_f32(out, relu_f32(x))));
        });
    }

    #[test]
    fn power() {
        let specials = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            2.0,
            -2.0,
            3.0,
            -3.0,
            0.5,
            -0.5,
            1.5,
            -1.5,
            1e300,
            -1e300,
            1e-300,
            5e-324,
            1e15 + 1.0,
            9e15,
            f64::MAX,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
        ];
        for x in specials {
            for y in specials {
                let (got, expected) = (pow_f64(x, y), x.powf(y));
                let equal = same_f64(got, expected) || error_f64(got, expected) <= 1.5;
                assert!(equal, "pow({x:e}, {y:e}) = {got:e}, not {expected:e}");
                if y == y as f32 as f64 && x == x as f32 as f64 {
                    let (got, expected) = (pow_f32(x as f32, y as f32), expected as f32);
                    assert!(
                        same_f32(got, expected) || error_f32(got, f64::from(expected)) <= 1.0,
                        "{x} {y} {got} {expected}"
                    );
                }
            }
        }
        let (mut worst, mut at) = (0.0, (0.0, 0.0));
        for i in 1..400u32 {
            for j in 0..400u32 {
                let x = f64::from(i) * 0.037 * 1.07f64.powi(j as i32 - 200);
                let y = (f64::from(j) - 199.7) * 0.31 / x.ln().abs().max(1e-3) * 11.0;
                let error = error_f64(pow_f64(x, y), x.powf(y));
                if error.is_nan() || error > worst {
                    (worst, at) = (error, (x, y));
                }
            }
        }
        println!("pow_f64: {worst:.3} ulp at {at:?}");
        assert!(worst <= 1.5, "{at:?}: {worst} ulp");
    }

    #[test]
    fn rounds_at_decimal_digits() {
        for (x, digits, expected) in [
            (2.5, 0, 3.0),
            (-2.5, 0, -3.0),
            (1.25, 1, 1.3),
            (1234.5, -2, 1200.0),
            (-1250.0, -2, -1300.0),
            (1e300, 300, 1e300),
            (5.0, -400, 0.0),
            (0.1, 25, 0.1),
        ] {
            assert_eq!(round_f64(x, digits), expected, "{x} {digits}");
        }
        assert_eq!(round_f32(1.15, 1), 1.1);
        assert!(round_f64(f64::NAN, 2).is_nan());
    }

    #[test]
    fn the_greatest_is_the_first_of_equals_and_nan_above_all() {
        fn greatest(first: f32, x: &[f32]) -> f32 {
            x.iter().fold(first, |most, &x| if most.is_nan() || x <= most { most } else { x })
        }
        at_every_level(|level| {
            for n in [0usize, 1, 3, 31, 32, 63, 64, 65, 127, 128, 129, 1000] {
                let plain: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
                let with = |at: usize, v: f32| {
                    let mut x = plain.clone();
                    x.iter_mut().skip(at).take(1).for_each(|x| *x = v);
                    x
                };
                let mut cases = vec![plain.clone(), vec![f32::NEG_INFINITY; n]];
                cases.extend([0, n / 2, n.saturating_sub(1)].map(|at| with(at, f32::NAN)));
                cases.extend([0, n / 2, n.saturating_sub(1)].map(|at| with(at, f32::INFINITY)));
                let zeros = |odd: usize| (0..n).map(|i| if i % 3 == odd { 0.0 } else { -0.0 }).collect::<Vec<f32>>();
                cases.extend([zeros(0), zeros(1), zeros(2)]);
                for first in [f32::NEG_INFINITY, -0.0, 0.0, 3.0, f32::INFINITY, f32::NAN] {
                    for x in &cases {
                        let expected = greatest(first, x);
                        assert!(same_f32(max_f32(first, x), expected), "{level:?} {n} {first}");
                        let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                        assert!(
                            same_f64(max_f64(f64::from(first), &wide), f64::from(expected)),
                            "{level:?} {n} {first}"
                        );
                    }
                }
            }
        });
    }

    #[test]
    #[should_panic(expected = "differ in length")]
    fn lengths_are_checked() {
        exp_block_f32(&[1.0], &mut []);
    }
}
