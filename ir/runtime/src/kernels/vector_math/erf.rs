//! The error function: erf a = 1 - e^(-a Q(a)).

use super::{expm1_f32, expm1_f64, polynomial_f32, polynomial_f64};

/// -log(erfc a) / a for 0 <= a <= 4, so that erf a = -expm1(-a Q(a)).
const ERF_F32: [f32; 10] = [
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
const ERF_F64: [f64; 25] = [
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
/// erf is ±1 from here on.
const ERF_MAX_F32: f32 = 4.0;
/// erf is ±1 from here on.
const ERF_MAX_F64: f64 = 6.0;

/// The function, which is the same text in both precisions.
macro_rules! error_function {
    ($t:ident, $erf:ident, $expm1:ident, $polynomial:ident, [$erf_c:ident, $erf_max:ident], $e_erf:literal) => {
        #[doc = concat!("The error function. Maximum error ", $e_erf, " ulp.")]
        #[inline(always)]
        pub fn $erf(x: $t) -> $t {
            let a = x.abs();
            let a = if a > $erf_max { $erf_max } else { a };
            (-$expm1(-a * $polynomial(a, &$erf_c))).copysign(x)
        }
    };
}

error_function!(f32, erf_f32, expm1_f32, polynomial_f32, [ERF_F32, ERF_MAX_F32], "3.0");
error_function!(f64, erf_f64, expm1_f64, polynomial_f64, [ERF_F64, ERF_MAX_F64], "3.0");
