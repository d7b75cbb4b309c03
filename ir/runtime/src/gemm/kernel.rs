//! The micro-kernels: a tile of at most [`ROWS`] rows by a few vectors of columns stays in registers while k runs.
//!
//! What holds: a step broadcasts one element of A a row and multiplies it with one row of B's panel, fused into the tile; on
//! AVX-512 the tile is 6 × 4 vectors (24 of 32 registers), on AVX2 6 × 2 (12 of 16). A kernel reads whole vectors of B except
//! where it masks loads, and writes only the tile's own columns of C.

use crate::cpu::SimdLevel;

/// Rows of a full tile.
pub(super) const ROWS: usize = 6;
/// Elements of the largest tile.
pub(super) const MAX_TILE: usize = ROWS * 64;

/// One call of a micro-kernel: `C = gated(relu(alpha A B + beta C + bias))` over `k` steps; what is gated is 0 where the gate's
/// element is at most 0.
pub(super) struct Tile<T> {
    pub(super) k: usize,
    pub(super) a: *const T,
    pub(super) a_strides: [usize; 2],
    pub(super) b: *const T,
    pub(super) b_stride: usize,
    pub(super) c: *mut T,
    pub(super) c_stride: usize,
    pub(super) columns: usize,
    pub(super) alpha: T,
    pub(super) beta: T,
    /// Of the tile's first column; null for none.
    pub(super) bias: *const T,
    pub(super) relu: bool,
    /// Of the tile's first element; null for none.
    pub(super) gate: *const T,
    /// How far apart the gate's rows are.
    pub(super) gate_stride: usize,
    /// Whether the caches are asked for lines: for those of C, and for what is ahead.
    pub(super) asks: bool,
    pub(super) ahead: Ahead<T>,
}

/// What a tile asks the caches for while it runs: every [`line`] steps a line for each of its rows. Nothing
/// is read, so that the addresses may be any; those of no use are best near what is used, as others cost a look-up of the page.
pub(super) struct Ahead<T> {
    pub(super) from: *const T,
    /// From the line of one row to that of the next, in elements.
    pub(super) row: usize,
    /// From the lines of one time to those of the next, in elements.
    pub(super) step: usize,
}

impl<T> Clone for Ahead<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Ahead<T> {}

/// Elements of a cache line: so many steps of k lie between two times at which a tile asks for lines.
pub(super) const fn line<T>() -> usize {
    64 / size_of::<T>()
}

/// Steps of a tile from which on its lines of C are asked for a row at a time: all at once, they keep those of the operands
/// waiting; in shorter tiles the last ones would come too late.
const SPREAD_STEPS: usize = 128;

type Run<T> = unsafe fn(&Tile<T>);

/// `(a, a's row stride, x, k, sums)`: the inner products of x and as many rows of A as the function is for.
type Inner<T> = unsafe fn(*const T, usize, *const T, usize, *mut T);

/// The kernels of one instruction set.
pub struct Kernels<T: 'static> {
    /// Elements of a vector.
    pub(super) lanes: usize,
    /// Whether the last vector of a row of B is read under a mask.
    pub(super) masks_loads: bool,
    /// By vectors - 1, then by rows - 1.
    table: &'static [[Run<T>; ROWS]],
    /// How many rows the first of the inner products takes; the second takes one.
    pub(super) group: usize,
    pub(super) inner: [Inner<T>; 2],
}

impl<T> Kernels<T> {
    /// Columns of a full tile.
    pub(super) fn width(&self) -> usize {
        self.lanes * self.table.len()
    }

    /// The kernel for a tile of this shape.
    pub(super) fn tile(&self, rows: usize, columns: usize) -> Run<T> {
        self.table[(columns - 1) / self.lanes][rows - 1]
    }
}

/// The number types that have kernels.
pub trait Kernel:
    super::vector::VectorLoops
    + Copy
    + Send
    + Sync
    + PartialOrd
    + std::fmt::Debug
    + std::ops::Add<Output = Self>
    + std::ops::Mul<Output = Self>
    + 'static
{
    const ZERO: Self;
    const ONE: Self;
    /// `self * factor + summand`, rounded once.
    fn fused(self, factor: Self, summand: Self) -> Self;
    #[doc(hidden)]
    fn kernels(level: SimdLevel) -> &'static Kernels<Self>;
}

macro_rules! implement {
    ($t:ident, $avx512:ident, $avx2:ident, $portable:ident) => {
        impl Kernel for $t {
            const ZERO: $t = 0.0;
            const ONE: $t = 1.0;

            #[inline(always)]
            fn fused(self, factor: $t, summand: $t) -> $t {
                self.mul_add(factor, summand)
            }

            fn kernels(level: SimdLevel) -> &'static Kernels<$t> {
                #[cfg(target_arch = "x86_64")]
                match level {
                    SimdLevel::Avx512 => return &$avx512::KERNELS,
                    SimdLevel::Avx2 => return &$avx2::KERNELS,
                    SimdLevel::Portable => {}
                }
                let _ = level;
                &$portable::KERNELS
            }
        }
    };
}

implement!(f32, avx512_f32, avx2_f32, portable_f32);
implement!(f64, avx512_f64, avx2_f64, portable_f64);

/// The kernel over the vector operations in scope: `V`, `Mask`, `LANES`, `zero`, `splat`, `load`, `load_masked`,
/// `store_masked`, `fused`, `add`, `multiply`, `gated`, `mask`.
macro_rules! kernel {
    ($t:ident, [$($feature:meta)?], $masks_loads:literal, $group:literal, [$($vectors:literal),*]) => {
        pub(super) static KERNELS: Kernels<$t> = Kernels {
            lanes: LANES,
            masks_loads: $masks_loads,
            table: &[$([run::<1, $vectors>, run::<2, $vectors>, run::<3, $vectors>, run::<4, $vectors>, run::<5, $vectors>,
                run::<6, $vectors>]),*],
            group: $group,
            inner: [inner::<$group>, inner::<1>],
        };

        /// The vectors of the interleaved sums of an inner product: as many lanes on every machine.
        const SUMS: usize = 64 / size_of::<$t>() * 2 / LANES;

        /// # Safety
        /// The machine has this module's instructions; `a` has R rows of k elements, `x` has k and `sums` R.
        $(#[$feature])?
        unsafe fn inner<const R: usize>(a: *const $t, stride: usize, x: *const $t, k: usize, sums: *mut $t) {
            // SAFETY: the caller's promise; p + lanes read at a time <= k.
            unsafe {
                let mut lanes = [[zero(); SUMS]; R];
                let mut p = 0;
                while p + SUMS * LANES <= k {
                    for j in 0..SUMS {
                        let x = load(x.wrapping_add(p + j * LANES));
                        for i in 0..R {
                            lanes[i][j] = fused(load(a.wrapping_add(i * stride + p + j * LANES)), x, lanes[i][j]);
                        }
                    }
                    p += SUMS * LANES;
                }
                for j in 0..SUMS {
                    let at = p + j * LANES;
                    if at < k {
                        let mask = mask((k - at).min(LANES));
                        let x = load_masked(x.wrapping_add(at), mask);
                        for i in 0..R {
                            lanes[i][j] = fused(load_masked(a.wrapping_add(i * stride + at), mask), x, lanes[i][j]);
                        }
                    }
                }
                // Halves are added until one lane is left.
                let mut width = SUMS;
                while width > 1 {
                    width /= 2;
                    for i in 0..R {
                        for j in 0..width {
                            lanes[i][j] = add(lanes[i][j], lanes[i][j + width]);
                        }
                    }
                }
                for i in 0..R {
                    let mut rest = [0.0; LANES];
                    store(rest.as_mut_ptr(), lanes[i][0]);
                    let mut width = LANES;
                    while width > 1 {
                        width /= 2;
                        for l in 0..width {
                            rest[l] += rest[l + width];
                        }
                    }
                    *sums.wrapping_add(i) = rest[0];
                }
            }
        }

        /// # Safety
        /// The machine has this module's instructions. `a` has R × k elements by its strides, and `gate`, if not null, R rows of
        /// `columns`; `b` has k rows of N vectors (the
        /// last one's lanes beyond `columns` need not exist where loads are masked); `c` has R rows of `columns` elements, and
        /// `bias`, if not null, has `columns` elements; (N - 1) LANES < columns <= N LANES.
        $(#[$feature])?
        unsafe fn run<const R: usize, const N: usize>(tile: &Tile<$t>) {
            // SAFETY: the caller's promise; row i < R, vector j < N.
            unsafe {
                let mask = mask(tile.columns - (N - 1) * LANES);
                let mut sums = [[zero(); N]; R];
                let (mut a, mut b, mut ahead) = (tile.a, tile.b, tile.ahead.from);
                let mut asked = 0;
                if tile.asks && tile.k < SPREAD_STEPS {
                    for i in 0..R {
                        for j in 0..N {
                            prefetch_line(tile.c.wrapping_add(i * tile.c_stride + j * LANES).cast());
                        }
                        // Rows that do not begin at a line reach into one more.
                        prefetch_line(tile.c.wrapping_add(i * tile.c_stride + tile.columns - 1).cast());
                    }
                    asked = R;
                }
                for p in 0..tile.k {
                    if tile.asks && p % line::<$t>() == 0 {
                        for i in 0..R {
                            prefetch_line(ahead.wrapping_add(i * tile.ahead.row).cast());
                        }
                        ahead = ahead.wrapping_add(tile.ahead.step);
                        if asked < R {
                            for j in 0..N {
                                prefetch_line(tile.c.wrapping_add(asked * tile.c_stride + j * LANES).cast());
                            }
                            asked += 1;
                        }
                    }
                    let mut row = [zero(); N];
                    for j in 0..N {
                        row[j] = if $masks_loads && j == N - 1 {
                            load_masked(b.wrapping_add(j * LANES), mask)
                        } else {
                            load(b.wrapping_add(j * LANES))
                        };
                    }
                    for i in 0..R {
                        let x = splat(*a.wrapping_add(i * tile.a_strides[0]));
                        for j in 0..N {
                            sums[i][j] = fused(x, row[j], sums[i][j]);
                        }
                    }
                    a = a.wrapping_add(tile.a_strides[1]);
                    b = b.wrapping_add(tile.b_stride);
                }
                let alpha = splat(tile.alpha);
                for i in 0..R {
                    for j in 0..N {
                        sums[i][j] = multiply(alpha, sums[i][j]);
                    }
                }
                if tile.beta != 0.0 {
                    let beta = splat(tile.beta);
                    for i in 0..R {
                        for j in 0..N {
                            let c = tile.c.wrapping_add(i * tile.c_stride + j * LANES);
                            let c = if j == N - 1 { load_masked(c, mask) } else { load(c) };
                            sums[i][j] = fused(beta, c, sums[i][j]);
                        }
                    }
                }
                if !tile.bias.is_null() {
                    for j in 0..N {
                        let bias = tile.bias.wrapping_add(j * LANES);
                        let bias = if j == N - 1 { load_masked(bias, mask) } else { load(bias) };
                        for i in 0..R {
                            sums[i][j] = add(sums[i][j], bias);
                        }
                    }
                }
                if tile.relu {
                    for i in 0..R {
                        for j in 0..N {
                            sums[i][j] = gated(sums[i][j], sums[i][j]);
                        }
                    }
                }
                if !tile.gate.is_null() {
                    for i in 0..R {
                        for j in 0..N {
                            let gate = tile.gate.wrapping_add(i * tile.gate_stride + j * LANES);
                            let gate = if j == N - 1 { load_masked(gate, mask) } else { load(gate) };
                            sums[i][j] = gated(gate, sums[i][j]);
                        }
                    }
                }
                for i in 0..R {
                    for j in 0..N {
                        let c = tile.c.wrapping_add(i * tile.c_stride + j * LANES);
                        if j == N - 1 {
                            store_masked(c, mask, sums[i][j]);
                        } else {
                            store(c, sums[i][j]);
                        }
                    }
                }
            }
        }
    };
}

/// The vector operations of an x86-64 instruction set, by the names of their intrinsics.
#[cfg(target_arch = "x86_64")]
macro_rules! x86 {
    ($module:ident, $t:ident, $feature:literal, $v:ident, $mask:ident, $lanes:literal, $masks_loads:literal, $group:literal, $vectors:tt,
     $zero:ident, $splat:ident, $load:ident, $store:ident, $fused:ident, $add:ident, $multiply:ident, $gated:expr,
     $load_masked:expr, $store_masked:expr, $make_mask:expr) => {
        mod $module {
            use super::{Kernels, SPREAD_STEPS, Tile, line};
            use crate::cpu::prefetch_line;
            use std::arch::x86_64::*;

            const LANES: usize = $lanes;
            type V = $v;
            type Mask = $mask;

            #[inline]
            #[target_feature(enable = $feature)]
            fn zero() -> V {
                $zero()
            }

            #[inline]
            #[target_feature(enable = $feature)]
            fn splat(x: $t) -> V {
                $splat(x)
            }

            #[inline]
            #[target_feature(enable = $feature)]
            unsafe fn load(from: *const $t) -> V {
                // SAFETY: the caller gives a whole readable vector.
                unsafe { $load(from) }
            }

            #[inline]
            #[target_feature(enable = $feature)]
            unsafe fn store(to: *mut $t, x: V) {
                // SAFETY: the caller gives a whole writable vector.
                unsafe { $store(to, x) }
            }

            #[inline]
            #[target_feature(enable = $feature)]
            unsafe fn load_masked(from: *const $t, mask: Mask) -> V {
                // SAFETY: the caller gives a vector whose masked lanes are readable.
                unsafe { $load_masked(from, mask) }
            }

            #[inline]
            #[target_feature(enable = $feature)]
            unsafe fn store_masked(to: *mut $t, mask: Mask, x: V) {
                // SAFETY: the caller gives a vector whose masked lanes are writable.
                unsafe { $store_masked(to, mask, x) }
            }

            #[inline]
            #[target_feature(enable = $feature)]
            fn fused(x: V, y: V, z: V) -> V {
                $fused(x, y, z)
            }

            #[inline]
            #[target_feature(enable = $feature)]
            fn add(x: V, y: V) -> V {
                $add(x, y)
            }

            #[inline]
            #[target_feature(enable = $feature)]
            fn multiply(x: V, y: V) -> V {
                $multiply(x, y)
            }

            /// `x` where `gate` is greater than 0 or NaN, else 0.
            #[inline]
            #[target_feature(enable = $feature)]
            fn gated(gate: V, x: V) -> V {
                $gated(gate, x)
            }

            /// The first `lanes` lanes.
            #[inline]
            #[target_feature(enable = $feature)]
            fn mask(lanes: usize) -> Mask {
                $make_mask(lanes)
            }

            kernel!($t, [target_feature(enable = $feature)], $masks_loads, $group, $vectors);
        }
    };
}

#[cfg(target_arch = "x86_64")]
x86!(
    avx512_f32,
    f32,
    "avx512f",
    __m512,
    __mmask16,
    16,
    true,
    4,
    [1, 2, 3, 4],
    _mm512_setzero_ps,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    _mm512_mul_ps,
    |gate, x| _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLE_UQ>(gate, _mm512_setzero_ps()), x),
    |from, mask| _mm512_maskz_loadu_ps(mask, from),
    |to, mask, x| _mm512_mask_storeu_ps(to, mask, x),
    |lanes: usize| (u32::MAX >> (32 - lanes)) as __mmask16
);
#[cfg(target_arch = "x86_64")]
x86!(
    avx512_f64,
    f64,
    "avx512f",
    __m512d,
    __mmask8,
    8,
    true,
    4,
    [1, 2, 3, 4],
    _mm512_setzero_pd,
    _mm512_set1_pd,
    _mm512_loadu_pd,
    _mm512_storeu_pd,
    _mm512_fmadd_pd,
    _mm512_add_pd,
    _mm512_mul_pd,
    |gate, x| _mm512_maskz_mov_pd(_mm512_cmp_pd_mask::<_CMP_NLE_UQ>(gate, _mm512_setzero_pd()), x),
    |from, mask| _mm512_maskz_loadu_pd(mask, from),
    |to, mask, x| _mm512_mask_storeu_pd(to, mask, x),
    |lanes: usize| (u32::MAX >> (32 - lanes)) as __mmask8
);
#[cfg(target_arch = "x86_64")]
x86!(
    avx2_f32,
    f32,
    "avx2,fma",
    __m256,
    __m256i,
    8,
    false,
    2,
    [1, 2],
    _mm256_setzero_ps,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    _mm256_mul_ps,
    |gate, x| _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLE_UQ>(gate, _mm256_setzero_ps()), x),
    |from, mask| _mm256_maskload_ps(from, mask),
    |to, mask, x| _mm256_maskstore_ps(to, mask, x),
    |lanes: usize| _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
);
#[cfg(target_arch = "x86_64")]
x86!(
    avx2_f64,
    f64,
    "avx2,fma",
    __m256d,
    __m256i,
    4,
    false,
    2,
    [1, 2],
    _mm256_setzero_pd,
    _mm256_set1_pd,
    _mm256_loadu_pd,
    _mm256_storeu_pd,
    _mm256_fmadd_pd,
    _mm256_add_pd,
    _mm256_mul_pd,
    |gate, x| _mm256_and_pd(_mm256_cmp_pd::<_CMP_NLE_UQ>(gate, _mm256_setzero_pd()), x),
    |from, mask| _mm256_maskload_pd(from, mask),
    |to, mask, x| _mm256_maskstore_pd(to, mask, x),
    |lanes: usize| _mm256_cmpgt_epi64(_mm256_set1_epi64x(lanes as i64), _mm256_setr_epi64x(0, 1, 2, 3))
);

/// The vector operations as arrays, which the compiler turns into the vectors that the target has.
macro_rules! portable {
    ($module:ident, $t:ident, $lanes:literal) => {
        mod $module {
            use super::{Kernels, SPREAD_STEPS, Tile, line};
            use crate::cpu::prefetch_line;

            const LANES: usize = $lanes;
            type V = [$t; LANES];

            #[inline(always)]
            fn zero() -> V {
                [0.0; LANES]
            }

            #[inline(always)]
            fn splat(x: $t) -> V {
                [x; LANES]
            }

            #[inline(always)]
            unsafe fn load(from: *const $t) -> V {
                // SAFETY: the caller gives a whole readable vector; arrays are as aligned as their elements.
                unsafe { *from.cast() }
            }

            #[inline(always)]
            unsafe fn store(to: *mut $t, x: V) {
                // SAFETY: the caller gives a whole writable vector.
                unsafe { *to.cast() = x }
            }

            #[inline(always)]
            unsafe fn load_masked(from: *const $t, lanes: usize) -> V {
                let mut x = [0.0; LANES];
                for (i, x) in x.iter_mut().enumerate().take(lanes) {
                    // SAFETY: the caller gives a vector whose first `lanes` lanes are readable.
                    *x = unsafe { *from.wrapping_add(i) };
                }
                x
            }

            #[inline(always)]
            unsafe fn store_masked(to: *mut $t, lanes: usize, x: V) {
                for (i, &x) in x.iter().enumerate().take(lanes) {
                    // SAFETY: the caller gives a vector whose first `lanes` lanes are writable.
                    unsafe { *to.wrapping_add(i) = x };
                }
            }

            #[inline(always)]
            fn fused(x: V, y: V, z: V) -> V {
                std::array::from_fn(|i| x[i].mul_add(y[i], z[i]))
            }

            #[inline(always)]
            fn add(x: V, y: V) -> V {
                std::array::from_fn(|i| x[i] + y[i])
            }

            #[inline(always)]
            fn multiply(x: V, y: V) -> V {
                std::array::from_fn(|i| x[i] * y[i])
            }

            #[inline(always)]
            fn gated(gate: V, x: V) -> V {
                std::array::from_fn(|i| if gate[i] <= 0.0 { 0.0 } else { x[i] })
            }

            #[inline(always)]
            fn mask(lanes: usize) -> usize {
                lanes
            }

            kernel!($t, [], false, 2, [1, 2]);
        }
    };
}

portable!(portable_f32, f32, 8);
portable!(portable_f64, f64, 4);
