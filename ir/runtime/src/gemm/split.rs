//! One product by several workers.
//!
//! What holds:
//! - each element of C is computed by one task, as [`gemm_raw`] computes it: its bits depend on neither the cuts nor the workers;
//! - there are more tasks than workers, so that one that is held up leaves its share to the others;
//! - an element of B is packed once altogether: either each task packs the columns that are its own, or all workers pack B
//!   into memory that they then share. That memory belongs to the thread that asks for the product, and stays with it.

use super::blocked::Blocked;
use super::kernel::ROWS;
use super::pack::{Line, PackedB, pack_b};
use super::{Element, Epilogue, MatMut, MatRef, Problem, RawRhs, Rhs, checked, gemm_raw, k_block};
use crate::cpu::simd_level;
use crate::scheduler::WorkerPool;
use crate::trap::Trap;
use std::cell::Cell;
use std::ops::Range;

/// Runs `body(0)` to `body(n - 1)`, on whatever threads, and returns behind the last one.
pub(super) type Runner<'a> = dyn FnMut(usize, &(dyn Fn(usize) + Sync)) + 'a;

/// Multiplications below which a product stays on one thread: some ten microseconds. Handing work to threads that wait takes
/// about three.
pub const SPLIT_PRODUCTS: usize = 1 << 19;
/// Tasks for each worker.
const TASKS: usize = 4;
/// Steps of k that a task packs at a time.
const PACKED_STEPS: usize = 128;
/// Rows of a task at least where A's columns are strided: a cache line of A holds elements of 16 rows.
const STRIDED_ROWS: usize = 8 * ROWS;
/// Bytes of a packed B above which workers pack blocks of it for themselves.
const SHARED_BYTES: usize = 64 << 20;

/// Something that tasks may use at the same time.
struct Shared<T>(T);

// SAFETY: what is shared are numbers and addresses; the tasks of a product write to elements of their own.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    // A closure that names the field would capture what is in it, which is not `Sync`.
    fn get(&self) -> &T {
        &self.0
    }
}

/// [`gemm`](super::gemm) by the workers of a pool, or by the caller alone where the product has fewer than [`SPLIT_PRODUCTS`]
/// multiplications. The result has the same bits.
///
/// # Errors
/// The trap of a task that panicked; C then holds anything.
///
/// # Panics
/// If the shapes of A, B and C do not fit together, or a bias is not as long as a row of C.
pub fn gemm_on<T: Element>(
    pool: &WorkerPool,
    alpha: T,
    a: MatRef<T>,
    b: Rhs<T>,
    beta: T,
    c: MatMut<T>,
    epilogue: Epilogue<T>,
) -> Result<(), Trap> {
    let rows = 0..a.rows;
    let problem = checked(&rows, alpha, a, b, beta, c, epilogue);
    let split = problem.m.saturating_mul(problem.n).saturating_mul(problem.k) >= SPLIT_PRODUCTS;
    // SAFETY: the constructors of the matrices checked that all elements lie in their slices, which are lent until this function
    // returns, and the shapes fit together.
    unsafe {
        if split && pool.threads() > 1 {
            return gemm_raw_on(pool, &problem);
        }
        gemm_raw(&problem, rows);
    }
    Ok(())
}

/// The whole product by the workers of a pool, however small it is.
///
/// # Errors
/// As for [`gemm_on`].
///
/// # Safety
/// As for [`gemm_raw`], for all rows, until the function returns.
pub unsafe fn gemm_raw_on<T: Element>(pool: &WorkerPool, problem: &Problem<T>) -> Result<(), Trap> {
    let mut done = Ok(());
    let mut run = |tasks: usize, body: &(dyn Fn(usize) + Sync)| {
        let ran = pool.run(tasks, |task, _| {
            body(task);
            Ok(())
        });
        done = std::mem::replace(&mut done, Ok(())).and(ran);
    };
    // SAFETY: promised by the caller; a pool runs each task once.
    unsafe { gemm_split(problem, pool.threads(), &mut run) };
    done
}

/// The whole product, by tasks for so many workers.
///
/// # Safety
/// As for [`gemm_raw`], for all rows, until the function returns; `run` runs each task once.
pub(super) unsafe fn gemm_split<T: Element>(problem: &Problem<T>, workers: usize, run: &mut Runner<'_>) {
    let p = *problem;
    let kernels = T::kernels(simd_level());
    let (workers, panels) = (workers.max(1), p.n.div_ceil(kernels.width()));
    let tasks = TASKS * workers;
    let packed_bytes = p.k.saturating_mul(p.n.next_multiple_of(kernels.lanes)).saturating_mul(size_of::<T>());
    let row_major = p.c_strides[1] == 1 || p.c_strides[0] != 1;
    // SAFETY: promised by the caller, here and below.
    unsafe {
        match p.b {
            RawRhs::Plain { .. }
                if p.m > 1 && row_major && p.a_strides[1] == 1 && takes_columns([p.m, p.n], panels, workers) =>
            {
                by_columns(p, panels.div_ceil(tasks) * kernels.width(), run);
            }
            RawRhs::Plain { data, strides } if p.m > 1 && p.n > 1 && row_major && packed_bytes <= SHARED_BYTES => {
                let mut packed = packed_together(data, strides, [p.k, p.n], run);
                by_rows(Problem { b: RawRhs::Packed(&packed), ..p }, tasks, run);
                SHARED.set(packed.take_lines());
            }
            RawRhs::Plain { .. } | RawRhs::Packed(_) => by_rows(p, tasks, run),
        }
    }
}

/// Whether tasks are columns of C rather than rows: there are many, or fewer rows than columns and the workers get nearly as many
/// panels each. Tasks of few rows would each read all of B, which is then larger than A, and wait until all of it is packed.
pub(super) fn takes_columns([m, n]: [usize; 2], panels: usize, workers: usize) -> bool {
    let spare = panels.next_multiple_of(workers) - panels;
    panels >= TASKS * workers || m < n && panels > workers && spare * 8 <= panels
}

/// # Safety
/// As for [`gemm_split`].
unsafe fn by_columns<T: Element>(p: Problem<T>, step: usize, run: &mut Runner<'_>) {
    let p = Shared(p);
    run(p.0.n.div_ceil(step), &|task| {
        let p = *p.get();
        let columns = task * step..p.n.min((task + 1) * step);
        // SAFETY: the columns are this task's alone.
        unsafe { Blocked::new(p, 0..p.m, columns, false).run() };
    });
}

/// # Safety
/// As for [`gemm_split`].
unsafe fn by_rows<T: Element>(p: Problem<T>, tasks: usize, run: &mut Runner<'_>) {
    let least = if p.a_strides[1] == 1 { ROWS } else { STRIDED_ROWS };
    let step = p.m.div_ceil(tasks).next_multiple_of(ROWS).max(least);
    let p = Shared(p);
    run(p.0.m.div_ceil(step), &|task| {
        let p = p.get();
        let rows: Range<usize> = task * step..p.m.min((task + 1) * step);
        // SAFETY: the rows are this task's alone.
        unsafe { gemm_raw(p, rows) };
    });
}

thread_local! {
    static SHARED: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// B, packed by all workers: a task for some steps of one panel.
///
/// # Safety
/// The k × n elements of B are readable until the function returns.
unsafe fn packed_together<T: Element>(
    b: *const T,
    strides: [usize; 2],
    [k, n]: [usize; 2],
    run: &mut Runner<'_>,
) -> PackedB<T> {
    let mut packed = PackedB::<T>::over(SHARED.take(), k, n);
    let kernels = T::kernels(simd_level());
    let (width, lanes) = (kernels.width(), kernels.lanes);
    let (block, padded) = (k_block(k), n.next_multiple_of(lanes));
    let panels = n.div_ceil(width);
    let operands = Shared((b, packed.as_mut_ptr()));
    run(panels * k.div_ceil(PACKED_STEPS), &|task| {
        let (b, to) = *operands.get();
        let column = task % panels * width;
        let columns = width.min(n - column);
        let mut first = task / panels * PACKED_STEPS;
        let end = k.min(first + PACKED_STEPS);
        // A block of k ends where the next one's panels begin.
        while first < end {
            let (begin, last) = (first / block * block, end.min((first / block + 1) * block));
            let steps = k.min(begin + block) - begin;
            let at = begin * padded + column * steps + (first - begin) * columns.next_multiple_of(lanes);
            let from = b.wrapping_add(first * strides[0] + column * strides[1]);
            // SAFETY: `from` is the first of the steps' elements of these columns; their place in the packed matrix is this
            // task's alone.
            unsafe { pack_b(from, strides, last - first, columns, width, lanes, to.wrapping_add(at)) };
            first = last;
        }
    });
    packed
}
