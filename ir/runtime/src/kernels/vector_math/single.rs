//! The functions of one number, as generated code calls them.

use super as inlined;

/// `name(arguments)` of the module above, for every kind of vectors.
macro_rules! singles {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $t:ident;)+) => {
        multiversion! {$(
            #[doc = concat!("[`", stringify!($name), "`](super::", stringify!($name), ").")]
            pub(crate) fn $name($($arg: $ty),*) -> $t {
                inlined::$name($($arg),*)
            }
        )+}
    };
}

singles! {
    exp_f32(x: f32) -> f32;
    exp_f64(x: f64) -> f64;
    expm1_f32(x: f32) -> f32;
    expm1_f64(x: f64) -> f64;
    log_f32(x: f32) -> f32;
    log_f64(x: f64) -> f64;
    log1p_f32(x: f32) -> f32;
    log1p_f64(x: f64) -> f64;
    tanh_f32(x: f32) -> f32;
    tanh_f64(x: f64) -> f64;
    sigmoid_f32(x: f32) -> f32;
    sigmoid_f64(x: f64) -> f64;
    erf_f32(x: f32) -> f32;
    erf_f64(x: f64) -> f64;
    softplus_f32(x: f32) -> f32;
    softplus_f64(x: f64) -> f64;
    sin_f32(x: f32) -> f32;
    sin_f64(x: f64) -> f64;
    cos_f32(x: f32) -> f32;
    cos_f64(x: f64) -> f64;
    pow_f32(x: f32, y: f32) -> f32;
    pow_f64(x: f64, y: f64) -> f64;
    round_f32(x: f32, digits: i32) -> f32;
    round_f64(x: f64, digits: i32) -> f64;
}
