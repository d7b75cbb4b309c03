//! The functions over many numbers: a block for each.

use super::trig::{TRIG_F32_MAX, TRIG_F64_MAX, cos_small_f32, cos_small_f64, sin_small_f32, sin_small_f64};
use super::*;

/// Block forms: `out[i] = scalar(x[i])`.
macro_rules! blocks {
    ($t:ident: $($scalar:ident => $block:ident),* $(,)?) => {
        multiversion! {$(
            #[doc = concat!("`out[i] = ", stringify!($scalar), "(x[i])`.")]
            pub(crate) fn $block(x: &[$t], out: &mut [$t]) {
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

/// Block forms of functions with a branch: without it for all, then the few large arguments once more.
macro_rules! trigonometric_blocks {
    ($t:ident, $max:ident: $($scalar:ident, $small:ident => $block:ident),* $(,)?) => {
        multiversion! {$(
            #[doc = concat!("`out[i] = ", stringify!($scalar), "(x[i])`.")]
            pub(crate) fn $block(x: &[$t], out: &mut [$t]) {
                check_lengths(x.len(), out.len());
                let mut all_small = true;
                for (out, &x) in out.iter_mut().zip(x) {
                    all_small &= x.abs() <= $max;
                    *out = $small(x);
                }
                if !all_small {
                    for (out, &x) in out.iter_mut().zip(x) {
                        *out = $scalar(x);
                    }
                }
            }
        )*}
    };
}

trigonometric_blocks!(f32, TRIG_F32_MAX:
    sin_f32, sin_small_f32 => sin_block_f32, cos_f32, cos_small_f32 => cos_block_f32,
);
trigonometric_blocks!(f64, TRIG_F64_MAX:
    sin_f64, sin_small_f64 => sin_block_f64, cos_f64, cos_small_f64 => cos_block_f64,
);

/// The square root, correctly rounded, and the larger of a number and 0, where NaN stays: blocks alone, since generated code has
/// instructions for one.
macro_rules! instructions {
    ($t:ident, $sqrt:ident, $relu:ident) => {
        #[inline(always)]
        pub(super) fn $sqrt(x: $t) -> $t {
            x.sqrt()
        }

        #[inline(always)]
        pub(super) fn $relu(x: $t) -> $t {
            if x < 0.0 { 0.0 } else { x }
        }
    };
}

instructions!(f32, sqrt_f32, relu_f32);
instructions!(f64, sqrt_f64, relu_f64);
