//! Elementary functions: one polynomial each, bit-equal wherever it is evaluated.
//!
//! What holds:
//! - a function is branch-free and made of `+ - × ÷ sqrt mul_add`, comparisons with selects, and integer operations on bits, so
//!   that a loop over it computes the same bits in vectors (the payload of a NaN aside). `mul_add` is fused on every machine.
//!   Exceptions are `sin` and `cos` of large numbers, and `round`;
//! - it stands here once, to be inlined. `single.rs` compiles it for one number and `blocks.rs` for many, each for every kind
//!   of vectors: code for any machine would call a function for each fused multiply-add;
//! - a block function applies its function to each element; inputs and output have one length;
//! - the maximum errors, in units in the last place, stand in the documentation of each function and are checked by a test.
//!
//! The coefficients are weighted least-squares fits at Chebyshev nodes, reweighted towards the minimax polynomial (Lawson
//! 1961), computed with 50 digits for the intervals given. Lowest power first.

mod blocks;
mod erf;
mod exp;
mod log;
mod power;
mod round;
mod rows;
pub(crate) mod single;
mod trig;

#[cfg(test)]
mod tests;

pub(crate) use blocks::*;
pub use erf::{erf_f32, erf_f64};
pub use exp::{exp_f32, exp_f64, expm1_f32, expm1_f64, sigmoid_f32, sigmoid_f64, tanh_f32, tanh_f64};
pub use log::{log_f32, log_f64, log1p_f32, log1p_f64, softplus_f32, softplus_f64};
pub use power::{pow_f32, pow_f64};
pub use round::{round_f32, round_f64};
pub(crate) use rows::*;
pub use trig::{cos_f32, cos_f64, sin_f32, sin_f64};

/// Horner's rule, fused.
macro_rules! polynomial {
    ($t:ident, $polynomial:ident) => {
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
    };
}

polynomial!(f32, polynomial_f32);
polynomial!(f64, polynomial_f64);

/// A programming error: block kernels are given slices of one length.
#[inline(always)]
fn check_lengths(a: usize, b: usize) {
    assert_eq!(a, b, "a block kernel's slices differ in length");
}
