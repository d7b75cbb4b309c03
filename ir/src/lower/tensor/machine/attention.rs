//! Running attention: a task for each head and block of queries. Its derivative: a task for each head.

use runtime::gemm::{self, Attended, Attention, AttentionGrad, SPLIT_PRODUCTS, Target};

use super::super::attention::{Adjoint, Attend, AttendGrad, Matrix, Term};
use super::{Address, Machine, Result, too_large};
use crate::types::Dim;

/// A loop around the heads with its numbers.
struct Loop {
    size: usize,
    steps: [usize; 4],
    terms: Vec<usize>,
}

/// Attention with its numbers.
struct Heads {
    count: usize,
    /// Queries, keys, inner indices, columns.
    sizes: [usize; 4],
    /// Where queries, keys, values and results of the first head begin, and the strides of a head's.
    operands: [(Address, [usize; 2]); 4],
    terms: Vec<Stored>,
    around: Vec<Loop>,
    scale: f64,
    fill: f64,
}

impl Heads {
    /// The place of a head in each loop.
    fn place(&self, head: usize) -> Vec<usize> {
        let mut left = head;
        let mut place: Vec<usize> = self.around.iter().rev().map(|l| (left % l.size, left /= l.size).0).collect();
        place.reverse();
        place
    }

    /// The terms of the head at this place.
    fn terms<T>(&self, place: &[usize]) -> Vec<gemm::Term<T>> {
        let at = |i: usize| place.iter().zip(&self.around).map(|(n, l)| n * l.terms[i]).sum();
        self.terms.iter().enumerate().map(|(i, t)| t.at(at(i))).collect()
    }

    /// The head at this place, which has these terms.
    fn head<'a, T: Attended + Number>(&self, place: &[usize], terms: &'a [gemm::Term<T>]) -> Attention<'a, T> {
        let [queries, keys, inner, columns] = self.sizes;
        let at = |i: usize| {
            let offset = place.iter().zip(&self.around).map(|(n, l)| n * l.steps[i]).sum();
            let (address, strides) = &self.operands[i];
            (address.0.cast::<T>().wrapping_add(offset), *strides)
        };
        let [(q, q_strides), (k, k_strides), (v, v_strides), (out, out_strides)] = [0, 1, 2, 3].map(at);
        Attention {
            queries,
            keys,
            inner,
            columns,
            q: q.cast_const(),
            q_strides,
            k: k.cast_const(),
            k_strides,
            v: v.cast_const(),
            v_strides,
            out,
            out_strides,
            scale: T::of(self.scale),
            fill: T::of(self.fill),
            terms,
        }
    }

    /// Multiplications of its two products.
    fn products(&self) -> usize {
        let [queries, keys, inner, columns] = self.sizes;
        [queries, keys, inner.saturating_add(columns)].iter().fold(self.count, |n, d| n.saturating_mul(*d))
    }
}

/// An adjoint of an operand with its numbers: where it begins, the strides of a head's, and the steps of the loops around.
struct Written {
    at: Address,
    strides: [usize; 2],
    steps: Vec<usize>,
}

impl Written {
    fn target<T>(&self, place: &[usize]) -> Target<T> {
        let offset = place.iter().zip(&self.steps).map(|(n, step)| n * step).sum();
        Target { data: self.at.0.cast::<T>().wrapping_add(offset), strides: self.strides }
    }
}

impl Machine {
    pub(super) fn attend<T: Attended + Number>(&self, a: &Attend) -> Result<()> {
        let heads = self.heads::<T>(a)?;
        let [queries, _, _, columns] = heads.sizes;
        if queries == 0 || columns == 0 {
            return Ok(());
        }
        let block = gemm::query_block(queries);
        let blocks = queries.div_ceil(block);
        let tasks = heads.count.checked_mul(blocks).ok_or_else(too_large)?;
        self.each(tasks, heads.products(), |task| {
            let place = heads.place(task / blocks);
            let terms = heads.terms::<T>(&place);
            let first = task % blocks * block;
            // SAFETY: the strides were derived from the shapes of stored values, whose buffers have their size; the result's buffer
            // overlaps none of them, and no other task writes these queries' rows of this head.
            unsafe { gemm::attend(&heads.head(&place, &terms), first..queries.min(first + block)) };
        })
    }

    pub(super) fn attend_grad<T: Attended + Number>(&self, a: &AttendGrad) -> Result<()> {
        let heads = self.heads::<T>(&a.of)?;
        let written = |a: &Option<Adjoint>| a.as_ref().map(|a| self.written(a)).transpose();
        let [dq, dk, dv] = [written(&a.results[0])?, written(&a.results[1])?, written(&a.results[2])?];
        self.each(heads.count, heads.products().saturating_mul(3), |head| {
            let place = heads.place(head);
            let terms = heads.terms::<T>(&place);
            let target = |a: &Option<Written>| a.as_ref().map(|a| a.target(&place));
            let grad =
                AttentionGrad { of: heads.head(&place, &terms), dq: target(&dq), dk: target(&dk), dv: target(&dv) };
            // SAFETY: as for `attend`; the adjoints of operands are results of this step, of which each head has elements of its own.
            unsafe { gemm::attend_grad(&grad) };
        })
    }

    fn heads<T>(&self, a: &Attend) -> Result<Heads> {
        let around: Vec<Loop> = a.around.iter().map(|l| self.around(l)).collect::<Result<_>>()?;
        Ok(Heads {
            count: around.iter().try_fold(1usize, |n, l| n.checked_mul(l.size)).ok_or_else(too_large)?,
            sizes: self.sizes([&a.queries, &a.keys, &a.inner, &a.columns])?,
            operands: [
                self.matrix::<T>(&a.q)?,
                self.matrix::<T>(&a.k)?,
                self.matrix::<T>(&a.v)?,
                self.matrix::<T>(&a.out)?,
            ],
            terms: a.terms.iter().map(|t| self.term::<T>(t)).collect::<Result<_>>()?,
            around,
            scale: a.scale,
            fill: a.fill,
        })
    }

    fn written(&self, a: &Adjoint) -> Result<Written> {
        let (at, strides) = (Address(self.at(a.out)), self.sizes([&a.strides[0], &a.strides[1]])?);
        Ok(Written { at, strides, steps: self.shape(&a.steps)? })
    }

    /// Runs tasks, on several threads where there are so many multiplications that it pays.
    fn each(&self, tasks: usize, products: usize, task: impl Fn(usize) + Sync) -> Result<()> {
        match &self.pool {
            Some(pool) if products >= SPLIT_PRODUCTS => pool.run(tasks, |i, _| {
                task(i);
                Ok(())
            }),
            _ => {
                (0..tasks).for_each(task);
                Ok(())
            }
        }
    }

    fn sizes<const N: usize>(&self, dims: [&Dim; N]) -> Result<[usize; N]> {
        let mut out = [0; N];
        for (n, d) in out.iter_mut().zip(dims) {
            *n = self.size(d)?;
        }
        Ok(out)
    }

    /// Where a matrix of elements of this type begins, and its strides.
    fn matrix<T>(&self, m: &Matrix) -> Result<(Address, [usize; 2])> {
        let at = self.at(m.at.base).cast::<T>().wrapping_add(self.size(&m.at.offset)?);
        Ok((Address(at.cast()), self.sizes([&m.strides[0], &m.strides[1]])?))
    }

    fn term<T>(&self, t: &Term) -> Result<Stored> {
        Ok(match t {
            Term::Bias(m) => {
                let (at, strides) = self.matrix::<T>(m)?;
                Stored::Bias(at, strides)
            }
            Term::Mask(m) => {
                let (at, strides) = self.matrix::<u8>(m)?;
                Stored::Mask(at, strides)
            }
            Term::Triangle(offset) => Stored::Triangle(*offset),
        })
    }

    fn around(&self, l: &super::super::attention::Around) -> Result<Loop> {
        let steps = self.sizes([&l.steps[0], &l.steps[1], &l.steps[2], &l.steps[3]])?;
        Ok(Loop { size: self.size(&l.size)?, steps, terms: self.shape(&l.terms)? })
    }
}

/// A term of the first head.
enum Stored {
    Bias(Address, [usize; 2]),
    Mask(Address, [usize; 2]),
    Triangle(i64),
}

impl Stored {
    /// That of the head at this offset.
    fn at<T>(&self, offset: usize) -> gemm::Term<T> {
        match self {
            Self::Bias(at, strides) => {
                gemm::Term::Bias { data: at.0.cast::<T>().cast_const().wrapping_add(offset), strides: *strides }
            }
            Self::Mask(at, strides) => {
                gemm::Term::Mask { data: at.0.cast_const().wrapping_add(offset), strides: *strides }
            }
            Self::Triangle(offset) => gemm::Term::Triangle { offset: *offset },
        }
    }
}

/// A number of the operands' type.
pub(super) trait Number {
    fn of(x: f64) -> Self;
}

impl Number for f32 {
    fn of(x: f64) -> f32 {
        x as f32
    }
}

impl Number for f64 {
    fn of(x: f64) -> f64 {
        x
    }
}
