//! The speed of the matrix products beside the fused multiply-add peak of one core, in GFLOP/s: the best and the median of
//! repeated runs. `cargo run --release -p flern-runtime --example gemm_peak`

use runtime::gemm::{Element, Epilogue, MatMut, MatRef, PackedB, Rhs, fused_chains, gemm};
use std::hint::black_box;
use std::time::Instant;

fn main() {
    println!("{:?}", runtime::simd_level());
    println!("peak f32 {:7.1}", speed(fused_chains() as f64, || _ = black_box(fused_chains())).0);
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
