//! Sine and cosine. They reduce their argument in two or three parts (Cody and Waite 1980); beyond [`TRIG_F32_MAX`] and
//! [`TRIG_F64_MAX`] they call the standard library, which reduces with as many bits as it takes.

use super::exp::ROUND_F64;
use super::polynomial_f64;

/// (sin r - r) / r³ in powers of r², |r| <= π/4; single precision evaluates it in double.
const SIN_F32: [f64; 4] = [-0.1666666664054722, 0.008333329261161645, -0.00019839294717735533, 2.717928774315258e-06];
/// (cos r - 1 + r²/2) / r⁴ in powers of r², |r| <= π/4; single precision evaluates it in double.
const COS_F32: [f64; 4] = [0.04166666662101797, -0.001388888359537818, 2.4799477950897478e-05, -2.7206740515666714e-07];
/// (sin r - r) / r³ in powers of r², |r| <= π/4.
const SIN_F64: [f64; 6] = [
    -0.1666666666666663,
    0.008333333333321867,
    -0.00019841269829351163,
    2.755731352765344e-06,
    -2.5050731552952678e-08,
    1.5895210736931853e-10,
];
/// (cos r - 1 + r²/2) / r⁴ in powers of r², |r| <= π/4.
const COS_F64: [f64; 6] = [
    0.041666666666666595,
    -0.001388888888887338,
    2.480158728899897e-05,
    -2.755731420746206e-07,
    2.087570291299726e-09,
    -1.1358561329828088e-11,
];
/// π/2 in three parts.
const HALF_PI_F64: [f64; 3] = [std::f64::consts::FRAC_PI_2, 6.123233995736766e-17, -1.4973849048591698e-33];
/// Above this magnitude the argument of `sin_f32` and `cos_f32` takes the standard library's path.
pub(super) const TRIG_F32_MAX: f32 = 67_108_864.0;
/// Above this magnitude the argument of `sin_f64` and `cos_f64` takes the standard library's path.
pub(super) const TRIG_F64_MAX: f64 = 1_048_576.0;

/// The sine. Maximum error 0.6 ulp.
#[inline(always)]
pub fn sin_f32(x: f32) -> f32 {
    // Beyond the range, and for NaN: the standard library.
    if x.abs() <= TRIG_F32_MAX { sin_small_f32(x) } else { f64::from(x).sin() as f32 }
}

/// The cosine. Maximum error 0.6 ulp.
#[inline(always)]
pub fn cos_f32(x: f32) -> f32 {
    // Beyond the range, and for NaN: the standard library.
    if x.abs() <= TRIG_F32_MAX { cos_small_f32(x) } else { f64::from(x).cos() as f32 }
}

/// The sine. Maximum error 1.0 ulp.
#[inline(always)]
pub fn sin_f64(x: f64) -> f64 {
    // Beyond the range, and for NaN: the standard library.
    if x.abs() <= TRIG_F64_MAX { sin_small_f64(x) } else { x.sin() }
}

/// The cosine. Maximum error 1.0 ulp.
#[inline(always)]
pub fn cos_f64(x: f64) -> f64 {
    // Beyond the range, and for NaN: the standard library.
    if x.abs() <= TRIG_F64_MAX { cos_small_f64(x) } else { x.cos() }
}

/// The sine where |x| <= [`TRIG_F32_MAX`]; meaningless beyond.
#[inline(always)]
pub(super) fn sin_small_f32(x: f32) -> f32 {
    let (r, quadrant) = reduce_trig_f32(f64::from(x));
    quarter_f32(r, quadrant)
}

#[inline(always)]
pub(super) fn cos_small_f32(x: f32) -> f32 {
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
pub(super) fn sin_small_f64(x: f64) -> f64 {
    let (r, tail, quadrant) = reduce_trig_f64(x);
    quarter_f64(r, tail, quadrant)
}

#[inline(always)]
pub(super) fn cos_small_f64(x: f64) -> f64 {
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
