use super::split::{gemm_split, takes_columns};
use super::*;
use crate::cpu::tests::at_every_level;
use crate::kernels::random::Philox;
use crate::scheduler::WorkerPool;

/// Row-major, column-major, padded, and strided in both directions.
fn layouts(rows: usize, columns: usize) -> [[usize; 2]; 4] {
    [[columns.max(1), 1], [1, rows.max(1)], [columns + 3, 1], [3 * columns + 1, 3]]
}

fn len(rows: usize, columns: usize, strides: [usize; 2]) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * strides[0] + (columns - 1) * strides[1] + 1 }
}

/// What the two number types need for the same test.
trait Float: Element {
    fn random(stream: u64, len: usize) -> Vec<Self>;
    fn of(x: f64) -> Self;
    fn to(self) -> f64;
    fn bits(self) -> u64;
    const TOLERANCE: f64;
}

impl Float for f32 {
    fn random(stream: u64, len: usize) -> Vec<f32> {
        let mut out = vec![0.0; len];
        Philox::new(1, stream).fill_uniform_f32(0, &mut out);
        out.iter_mut().for_each(|x| *x -= 0.5);
        out
    }
    fn of(x: f64) -> f32 {
        x as f32
    }
    fn to(self) -> f64 {
        f64::from(self)
    }
    fn bits(self) -> u64 {
        u64::from(self.to_bits())
    }
    const TOLERANCE: f64 = 1e-6;
}

impl Float for f64 {
    fn random(stream: u64, len: usize) -> Vec<f64> {
        let mut out = vec![0.0; len];
        Philox::new(1, stream).fill_uniform_f64(0, &mut out);
        out.iter_mut().for_each(|x| *x -= 0.5);
        out
    }
    fn of(x: f64) -> f64 {
        x
    }
    fn to(self) -> f64 {
        self
    }
    fn bits(self) -> u64 {
        self.to_bits()
    }
    const TOLERANCE: f64 = 1e-15;
}

struct Case<T> {
    shape: [usize; 3],
    strides: [[usize; 2]; 3],
    a: Vec<T>,
    b: Vec<T>,
    c: Vec<T>,
    bias: Vec<T>,
    alpha: T,
    beta: T,
}

impl<T: Float> Case<T> {
    fn new(shape: [usize; 3], strides: [[usize; 2]; 3], alpha: f64, beta: f64) -> Case<T> {
        let [m, n, k] = shape;
        let mut c = T::random(3, len(m, n, strides[2]));
        if beta == 0.0 {
            // C must not be read.
            c.fill(T::of(f64::NAN));
        }
        Case {
            shape,
            strides,
            a: T::random(1, len(m, k, strides[0])),
            b: T::random(2, len(k, n, strides[1])),
            c,
            bias: T::random(4, n),
            alpha: T::of(alpha),
            beta: T::of(beta),
        }
    }

    fn a(&self) -> MatRef<'_, T> {
        MatRef::new(&self.a, self.shape[0], self.shape[2], self.strides[0][0], self.strides[0][1])
    }

    fn b(&self) -> MatRef<'_, T> {
        MatRef::new(&self.b, self.shape[2], self.shape[1], self.strides[1][0], self.strides[1][1])
    }

    fn run(&self, rhs: Rhs<T>, epilogue: Epilogue<T>) -> Vec<T> {
        let mut c = self.c.clone();
        let view = MatMut::new(&mut c, self.shape[0], self.shape[1], self.strides[2][0], self.strides[2][1]);
        gemm(self.alpha, self.a(), rhs, self.beta, view, epilogue);
        c
    }

    /// A gated product is the plain one where the gate is positive or NaN, and 0 elsewhere: the same bits.
    fn check_gate(&self, what: &str) {
        let [m, n, _] = self.shape;
        for [row, column] in layouts(m, n) {
            let mut gate = T::random(5, len(m, n, [row, column]));
            gate.iter_mut().step_by(7).for_each(|x| *x = T::of(-0.0));
            gate.iter_mut().step_by(11).for_each(|x| *x = T::of(f64::NAN));
            let view = MatRef::new(&gate, m, n, row, column);
            let plain = self.run(Rhs::Plain(self.b()), Epilogue::None);
            let gated = self.run(Rhs::Plain(self.b()), Epilogue::Gate(view));
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let at = i * self.strides[2][0] + j * self.strides[2][1];
                let closed = gate[i * row + j * column] <= T::ZERO;
                let want = if closed { T::ZERO } else { plain[at] };
                assert_eq!(gated[at].bits(), want.bits(), "{what} {:?} {:?} at ({i}, {j})", self.shape, self.strides);
            }
        }
    }

    /// The triple loop in double precision.
    fn expected(&self, i: usize, j: usize) -> f64 {
        let [a, b, c] = self.strides;
        let sum: f64 =
            (0..self.shape[2]).map(|p| self.a[i * a[0] + p * a[1]].to() * self.b[p * b[0] + j * b[1]].to()).sum();
        let old = if self.beta == T::ZERO { 0.0 } else { self.beta.to() * self.c[i * c[0] + j * c[1]].to() };
        self.alpha.to() * sum + old
    }

    fn check(&self, got: &[T], bias: bool, relu: bool, what: &str) {
        let [m, n, k] = self.shape;
        let strides = self.strides[2];
        let mut untouched = vec![true; got.len()];
        for i in 0..m {
            for j in 0..n {
                let expected = self.expected(i, j) + if bias { self.bias[j].to() } else { 0.0 };
                let expected = if relu { expected.max(0.0) } else { expected };
                let at = i * strides[0] + j * strides[1];
                untouched[at] = false;
                let error = (got[at].to() - expected).abs();
                let limit = T::TOLERANCE * (k as f64 + 4.0);
                assert!(
                    error <= limit,
                    "{what} {:?} {:?} at ({i}, {j}): {} and {expected}",
                    self.shape,
                    self.strides,
                    got[at].to()
                );
            }
        }
        for (at, _) in untouched.iter().enumerate().filter(|(_, untouched)| **untouched) {
            assert_eq!(got[at].bits(), self.c[at].bits(), "{what} {:?} wrote between the elements of C", self.shape);
        }
    }
}

const SMALL: [[usize; 3]; 22] = [
    [0, 3, 3],
    [3, 0, 3],
    [3, 3, 0],
    [0, 0, 0],
    [1, 1, 1],
    [1, 1, 70],
    [1, 7, 5],
    [7, 1, 5],
    [9, 1, 40],
    [1, 100, 33],
    [2, 3, 4],
    [6, 16, 8],
    [5, 15, 9],
    [7, 17, 7],
    [12, 64, 11],
    [13, 65, 3],
    [60, 5, 3],
    [61, 30, 64],
    [50, 63, 20],
    [49, 33, 300],
    [4, 4, 1000],
    [70, 130, 30],
];

fn every_shape_and_layout<T: Float>() {
    at_every_level(|level| {
        for shape in SMALL {
            let [m, n, k] = shape;
            for (which, a) in layouts(m, k).into_iter().enumerate() {
                for (other, b) in layouts(k, n).into_iter().enumerate() {
                    for (third, c) in layouts(m, n).into_iter().enumerate() {
                        let (alpha, beta) =
                            [(1.0, 0.0), (1.0, 1.0), (-0.5, 2.0), (2.0, 0.0)][(which + other + third) % 4];
                        let case = Case::<T>::new(shape, [a, b, c], alpha, beta);
                        let plain = Rhs::Plain(case.b());
                        case.check(&case.run(plain, Epilogue::None), false, false, &format!("{level:?}"));
                        case.check(
                            &case.run(plain, Epilogue::BiasRelu(&case.bias)),
                            true,
                            true,
                            &format!("{level:?} bias, relu"),
                        );
                        if third == 0 {
                            case.check(&case.run(plain, Epilogue::Relu), false, true, &format!("{level:?} relu"));
                            case.check(
                                &case.run(plain, Epilogue::Bias(&case.bias)),
                                true,
                                false,
                                &format!("{level:?} bias"),
                            );
                        }
                        if third < 2 {
                            case.check_gate(&format!("{level:?} gate"));
                        }
                        let packed = PackedB::new(case.b());
                        let got = case.run(Rhs::Packed(&packed), Epilogue::Bias(&case.bias));
                        case.check(&got, true, false, &format!("{level:?} packed"));
                    }
                }
            }
        }
    });
}

#[test]
fn every_shape_and_layout_f32() {
    every_shape_and_layout::<f32>();
}

#[test]
fn every_shape_and_layout_f64() {
    every_shape_and_layout::<f64>();
}

/// Sizes from 1 to 80 and pairs of layouts, drawn at random.
fn sampled<T: Float>() {
    at_every_level(|level| {
        let mut draws = vec![0.0; 8 * 150];
        Philox::new(7, 1).fill_uniform_f64(0, &mut draws);
        for draw in draws.chunks_exact(8) {
            let below = |i: usize, bound: usize| ((draw[i] * bound as f64) as usize).min(bound - 1);
            let shape @ [m, n, k] = [0, 1, 2].map(|i| 1 + below(i, 80));
            let strides = [layouts(m, k)[below(3, 4)], layouts(k, n)[below(4, 4)], layouts(m, n)[below(5, 4)]];
            let case = Case::<T>::new(shape, strides, 1.5, [0.0, 1.0, -0.5][below(6, 3)]);
            let what = format!("{level:?} {strides:?}");
            case.check(&case.run(Rhs::Plain(case.b()), Epilogue::None), false, false, &what);
            case.check(&case.run(Rhs::Plain(case.b()), Epilogue::BiasRelu(&case.bias)), true, true, &what);
        }
    });
}

#[test]
fn sampled_sizes_f32() {
    sampled::<f32>();
}

#[test]
fn sampled_sizes_f64() {
    sampled::<f64>();
}

#[test]
fn large_enough_for_every_block() {
    at_every_level(|level| {
        for (shape, transposed) in [
            ([200, 150, 600], false),
            ([200, 150, 600], true),
            ([10, 2100, 260], false),
            ([197, 70, 257], true),
            ([300, 147, 530], false),
            ([300, 60, 1100], false),
        ] {
            let [m, n, k] = shape;
            let strides = if transposed { [[1, m], [1, k], [1, m]] } else { [[k, 1], [n, 1], [n, 1]] };
            let case = Case::<f32>::new(shape, strides, 1.0, 1.0);
            case.check(&case.run(Rhs::Plain(case.b()), Epilogue::None), false, false, &format!("{level:?}"));
            let packed = PackedB::new(case.b());
            case.check(
                &case.run(Rhs::Packed(&packed), Epilogue::BiasRelu(&case.bias)),
                true,
                true,
                &format!("{level:?} packed"),
            );
        }
    });
}

/// The bits depend on the operands alone: not on the instruction set, the split of the rows, or packing.
#[test]
fn bits_do_not_depend_on_the_way() {
    // Of 270 rows B is packed, and read where it lies by parts of them.
    for shape in [[70, 130, 300], [64, 64, 1024], [100, 1, 90], [1, 100, 90], [33, 7, 64], [270, 70, 520]] {
        let [m, n, k] = shape;
        for (a, c) in [([k, 1], [n, 1]), ([1, m], [1, m])] {
            let case = Case::<f32>::new(shape, [a, [n, 1], c], 1.0, 0.0);
            let mut seen: Vec<Vec<u64>> = Vec::new();
            let mut note = |c: Vec<f32>| seen.push(c.into_iter().map(Float::bits).collect());
            at_every_level(|_| {
                note(case.run(Rhs::Plain(case.b()), Epilogue::None));
                if n > 1 && m > 1 {
                    note(case.run(Rhs::Packed(&PackedB::new(case.b())), Epilogue::None));
                }
                for step in [1, 5, 37] {
                    // The ranges in column-major C interleave, so that each is computed into a C of its own.
                    let mut whole = case.c.clone();
                    for first in (0..m).step_by(step) {
                        let rows = first..m.min(first + step);
                        let mut part = vec![0.0; rows.len() * n];
                        let view = MatMut::row_major(&mut part, rows.len(), n);
                        gemm_rows(rows.clone(), 1.0, case.a(), Rhs::Plain(case.b()), 0.0, view, Epilogue::None);
                        for (i, row) in rows.enumerate() {
                            for j in 0..n {
                                whole[row * c[0] + j * c[1]] = part[i * n + j];
                            }
                        }
                    }
                    note(whole);
                }
            });
            assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{shape:?}");
        }
    }
}

/// By tasks, in the order of their numbers and in the reverse one.
fn split_has_the_same_bits<T: Float>() {
    let shapes = [[1, 70, 40], [70, 1, 40], [2, 3, 0], [61, 70, 33], [50, 65, 517], [7, 1600, 24], [20, 635, 24]];
    for shape @ [m, n, k] in shapes {
        for a_strides in [[k.max(1), 1], [1, m]] {
            for b_strides in [[n, 1], [1, k + 3], [3 * n, 3]] {
                for c_strides in [[n, 1], [1, m]] {
                    let case = Case::<T>::new(shape, [a_strides, b_strides, c_strides], 1.0, 0.0);
                    for epilogue in [Epilogue::None, Epilogue::BiasRelu(&case.bias)] {
                        let whole = case.run(Rhs::Plain(case.b()), epilogue);
                        for (workers, reverse) in [(1, false), (5, true)] {
                            let mut c = case.c.clone();
                            let problem = Problem {
                                m,
                                n,
                                k,
                                alpha: case.alpha,
                                a: case.a.as_ptr(),
                                a_strides,
                                b: RawRhs::Plain { data: case.b.as_ptr(), strides: b_strides },
                                beta: case.beta,
                                c: c.as_mut_ptr(),
                                c_strides,
                                epilogue,
                            };
                            let mut run = |tasks: usize, body: &(dyn Fn(usize) + Sync)| {
                                (0..tasks).for_each(|i| body(if reverse { tasks - 1 - i } else { i }));
                            };
                            // SAFETY: the slices hold the elements that the strides reach.
                            unsafe { gemm_split(&problem, workers, &mut run) };
                            let same = c.iter().zip(&whole).all(|(x, y)| x.bits() == y.bits());
                            assert!(same, "{shape:?} {a_strides:?} {b_strides:?} {c_strides:?} {workers}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_split_product_has_the_bits_of_the_whole() {
    at_every_level(|_| {
        split_has_the_same_bits::<f32>();
        split_has_the_same_bits::<f64>();
    });
}

#[test]
fn few_rows_are_cut_by_columns() {
    // Panels of 64 columns.
    assert!(takes_columns([1024, 9521], 149, 4));
    assert!(takes_columns([128, 768], 12, 4) && takes_columns([128, 768], 12, 3));
    assert!(!takes_columns([128, 768], 12, 5), "three workers' panels are left over");
    assert!(!takes_columns([1024, 768], 12, 4) && !takes_columns([2, 70], 2, 4) && !takes_columns([2, 0], 0, 4));
}

#[test]
fn a_product_on_a_pool_has_the_bits_of_one_thread() {
    for threads in [1, 3] {
        let pool = WorkerPool::new(threads);
        for shape @ [m, n, k] in [[3, 4, 5], [90, 70, 100], [8, 1700, 64]] {
            let case = Case::<f32>::new(shape, [[1, m], [1, k], [n, 1]], 1.0, 0.0);
            let (b, epilogue) = (Rhs::Plain(case.b()), Epilogue::Bias(&case.bias));
            let mut c = case.c.clone();
            gemm_on(&pool, 1.0, case.a(), b, 0.0, MatMut::row_major(&mut c, m, n), epilogue).unwrap();
            assert_eq!(c, case.run(b, epilogue), "{shape:?}, {threads} threads");
        }
    }
}

#[test]
fn callbacks_see_each_final_element_once() {
    struct Seen {
        c: *const f32,
        strides: [usize; 2],
        columns: usize,
        counts: Vec<u32>,
        values: Vec<f32>,
    }
    unsafe extern "C" fn note(context: *mut c_void, row: usize, rows: usize, column: usize, columns: usize) {
        // SAFETY: the context is a `Seen`, and its C is readable while the product runs.
        unsafe {
            let seen = &mut *context.cast::<Seen>();
            for i in row..row + rows {
                for j in column..column + columns {
                    seen.counts[i * seen.columns + j] += 1;
                    seen.values[i * seen.columns + j] = *seen.c.add(i * seen.strides[0] + j * seen.strides[1]);
                }
            }
        }
    }
    at_every_level(|_| {
        for (shape, columns_first) in
            [([70, 130, 300], false), ([70, 130, 300], true), ([1, 30, 8], false), ([30, 1, 8], false)]
        {
            let [m, n, k] = shape;
            let c_strides = if columns_first { [1, m] } else { [n, 1] };
            let case = Case::<f32>::new(shape, [[k, 1], [n, 1], c_strides], 1.0, 0.0);
            let mut c = vec![0.0f32; m * n];
            let mut seen = Seen {
                c: c.as_ptr(),
                strides: c_strides,
                columns: n,
                counts: vec![0; m * n],
                values: vec![0.0; m * n],
            };
            let problem = Problem {
                m,
                n,
                k,
                alpha: 1.0,
                a: case.a.as_ptr(),
                a_strides: [k, 1],
                b: RawRhs::Plain { data: case.b.as_ptr(), strides: [n, 1] },
                beta: 0.0,
                c: c.as_mut_ptr(),
                c_strides,
                // SAFETY: `note` reads C by the pointer that the product writes it by.
                epilogue: Epilogue::Call(unsafe { Callback::new(note, (&raw mut seen).cast()) }),
            };
            seen.c = problem.c.cast_const();
            // SAFETY: the vectors hold the matrices.
            unsafe { gemm_raw(&problem, 0..m) };
            assert!(seen.counts.iter().all(|&count| count == 1));
            for i in 0..m {
                for j in 0..n {
                    assert_eq!(seen.values[i * n + j], c[i * c_strides[0] + j * c_strides[1]]);
                }
            }
        }
    });
}

#[test]
fn nan_passes_through() {
    let (a, b) = ([1.0f32, f32::NAN], [1.0f32, 2.0]);
    for epilogue in [Epilogue::None, Epilogue::Relu] {
        let mut c = [0.0; 4];
        gemm(
            1.0,
            MatRef::row_major(&a, 2, 1),
            Rhs::Plain(MatRef::row_major(&b, 1, 2)),
            0.0,
            MatMut::row_major(&mut c, 2, 2),
            epilogue,
        );
        assert_eq!(c[..2], [1.0, 2.0]);
        assert!(c[2].is_nan() && c[3].is_nan());
    }
}

#[test]
fn a_negative_zero_becomes_zero() {
    at_every_level(|_| {
        let (a, mut c) = ([-0.0f32; 70], [1.0f32; 70]);
        let one = [1.0f32];
        let (a, b) = (MatRef::row_major(&a, 70, 1), MatRef::row_major(&one, 1, 1));
        gemm(1.0, a, Rhs::Plain(b), 0.0, MatMut::row_major(&mut c, 70, 1), Epilogue::Relu);
        assert!(c.iter().all(|x| x.to_bits() == 0));
        gemm(1.0, b, Rhs::Plain(a.transposed()), 0.0, MatMut::row_major(&mut c, 1, 70), Epilogue::Relu);
        assert!(c.iter().all(|x| x.to_bits() == 0));
    });
}

#[test]
#[should_panic(expected = "does not fit")]
fn extents_are_checked() {
    MatRef::new(&[0.0f32; 5], 2, 3, 3, 1);
}

#[test]
#[should_panic(expected = "inner dimensions")]
fn shapes_are_checked() {
    let a = [0.0f32; 6];
    let mut c = [0.0f32; 4];
    gemm(
        1.0,
        MatRef::row_major(&a, 2, 3),
        Rhs::Plain(MatRef::row_major(&a, 2, 2)),
        0.0,
        MatMut::row_major(&mut c, 2, 2),
        Epilogue::None,
    );
}
