//! The speed of the matrix products beside the fused multiply-add peak of one core, in GFLOP/s: the best and the median of
//! repeated runs. `cargo run --release -p flern-runtime --example gemm_peak`

use runtime::gemm::{Element, Epilogue, MatMut, MatRef, PackedB, Rhs, gemm};
use std::hint::black_box;
use std::time::Instant;

fn main() {
    println!("{:?}", runtime::simd_level());
    println!("peak f32 {:7.1}", peak());
    println!("{:>22} {:>5} {:>9} {:>7} {:>7}", "m x n x k", "type", "layout", "best", "median");
    for [m, n, k] in [
        [64, 64, 64],
        [128, 128, 128],
        [256, 256, 256],
        [512, 512, 512],
        [1024, 1024, 1024],
        [1024, 64, 64],
        [1024, 64, 30],
        [1024, 30, 64],
        [64, 512, 128],
        [64, 64, 1024],
        [30, 64, 1024],
        [1024, 1, 64],
        [1024, 3, 64],
        [1024, 10, 64],
        [1, 1024, 1024],
        [1024, 1, 1024],
    ] {
        measure::<f32>([m, n, k], Layout::Plain);
        if n > 1 && m > 1 {
            measure::<f32>([m, n, k], Layout::Packed);
            measure::<f32>([m, n, k], Layout::ATransposed);
            measure::<f32>([m, n, k], Layout::BTransposed);
        }
    }
    measure::<f64>([256, 256, 256], Layout::Plain);
    measure::<f64>([1024, 64, 64], Layout::Plain);
    measure::<f64>([64, 64, 1024], Layout::ATransposed);
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    Plain,
    Packed,
    ATransposed,
    BTransposed,
}

fn measure<T: Element>([m, n, k]: [usize; 3], layout: Layout) {
    let (a, b) = (vec![T::ONE; m * k], vec![T::ONE; k * n]);
    let mut c = vec![T::ZERO; m * n];
    let a = match layout {
        Layout::ATransposed => MatRef::row_major(&a, k, m).transposed(),
        _ => MatRef::row_major(&a, m, k),
    };
    let b = match layout {
        Layout::BTransposed => MatRef::row_major(&b, n, k).transposed(),
        _ => MatRef::row_major(&b, k, n),
    };
    let packed = PackedB::new(b);
    let rhs = if layout == Layout::Packed { Rhs::Packed(&packed) } else { Rhs::Plain(b) };
    let work = 2.0 * (m * n * k) as f64;
    let (best, median) = speed(work, || {
        let c = MatMut::row_major(black_box(&mut c), m, n);
        gemm(T::ONE, black_box(a), rhs, T::ZERO, c, Epilogue::None);
    });
    let name = format!("{m} x {n} x {k}");
    let layout = format!("{layout:?}");
    println!("{name:>22} {:>5} {layout:>11} {best:7.1} {median:7.1}", if size_of::<T>() == 4 { "f32" } else { "f64" });
}

/// Best and median, over 15 batches of about 5 ms.
fn speed(work: f64, mut run: impl FnMut()) -> (f64, f64) {
    run();
    let start = Instant::now();
    run();
    let repeats = (0.005 / start.elapsed().as_secs_f64()).ceil().max(1.0) as usize;
    let mut batches: Vec<f64> = (0..15)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..repeats {
                run();
            }
            work * repeats as f64 / start.elapsed().as_secs_f64() / 1e9
        })
        .collect();
    batches.sort_by(f64::total_cmp);
    (batches[batches.len() - 1], batches[batches.len() / 2])
}

/// Independent chains of fused multiply-adds that stay in registers.
fn peak() -> f64 {
    const STEPS: usize = 1 << 16;
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        #[target_feature(enable = "avx512f")]
        fn avx512() -> f32 {
            let mut sums = [_mm512_set1_ps(1.0); 24];
            let (x, y) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = _mm512_fmadd_ps(*sum, x, y);
                }
            }
            let mut total = sums[0];
            for &sum in &sums[1..] {
                total = _mm512_add_ps(total, sum);
            }
            _mm512_reduce_add_ps(total)
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2() -> f32 {
            let mut sums = [_mm256_set1_ps(1.0); 12];
            let (x, y) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = _mm256_fmadd_ps(*sum, x, y);
                }
            }
            let mut total = sums[0];
            for &sum in &sums[1..] {
                total = _mm256_add_ps(total, sum);
            }
            _mm256_cvtss_f32(total)
        }
        match runtime::simd_level() {
            runtime::SimdLevel::Avx512 => {
                // SAFETY: the level says that the machine has AVX-512.
                return speed((2 * 16 * 24 * STEPS) as f64, || _ = black_box(unsafe { avx512() })).0;
            }
            runtime::SimdLevel::Avx2 => {
                // SAFETY: the level says that the machine has AVX2 and FMA.
                return speed((2 * 8 * 12 * STEPS) as f64, || _ = black_box(unsafe { avx2() })).0;
            }
            runtime::SimdLevel::Portable => {}
        }
    }
    let mut sums = [1f32; 64];
    speed((2 * 64 * STEPS) as f64, || {
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = sum.mul_add(black_box(0.999), 0.001);
            }
        }
        black_box(&sums);
    })
    .0
}
