//! What the machine can do at best: chains of fused multiply-adds that nothing but their number limits.

use crate::cpu::{SimdLevel, simd_level};
use std::hint::black_box;

/// Steps of a chain.
const STEPS: usize = 1 << 16;

/// Runs independent chains of fused multiply-adds in f32, in the widest vectors, on this thread, and returns how many additions
/// and multiplications that were. Divided by the time that it took, this is the peak that matrix products are measured against.
pub fn fused_chains() -> u64 {
    #[cfg(target_arch = "x86_64")]
    match simd_level() {
        // SAFETY: the level says that the machine has AVX-512.
        SimdLevel::Avx512 => return unsafe { x86::avx512() },
        // SAFETY: the level says that the machine has AVX2 and FMA.
        SimdLevel::Avx2 => return unsafe { x86::avx2() },
        SimdLevel::Portable => {}
    }
    let mut sums = [1f32; 64];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = sum.mul_add(black_box(0.999), 0.001);
        }
    }
    black_box(&sums);
    2 * (sums.len() * STEPS) as u64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::STEPS;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512() -> u64 {
        let mut sums = [_mm512_set1_ps(1.0); 24];
        let (x, y) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, x, y);
            }
        }
        let total = sums[1..].iter().fold(sums[0], |total, sum| _mm512_add_ps(total, *sum));
        black_box(_mm512_reduce_add_ps(total));
        2 * (16 * sums.len() * STEPS) as u64
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2() -> u64 {
        let mut sums = [_mm256_set1_ps(1.0); 12];
        let (x, y) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, x, y);
            }
        }
        let total = sums[1..].iter().fold(sums[0], |total, sum| _mm256_add_ps(total, *sum));
        black_box(_mm256_cvtss_f32(total));
        2 * (8 * sums.len() * STEPS) as u64
    }
}
