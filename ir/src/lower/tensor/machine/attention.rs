//! Running attention: a task for each head and block of queries.

use runtime::gemm::{self, Attended, Attention, SPLIT_PRODUCTS};

use super::super::attention::{Attend, Matrix, Term};
use super::{Address, Machine, Result, too_large};
use crate::types::Dim;

/// A loop around the heads with its numbers.
struct Loop {
    size: usize,
    steps: [usize; 4],
    terms: Vec<usize>,
}

impl Machine {
    pub(super) fn attend<T: Attended + Number>(&self, a: &Attend) -> Result<()> {
        let sizes = [&a.queries, &a.keys, &a.inner, &a.columns];
        let [queries, keys, inner, columns] = self.sizes(sizes)?;
        let (q, k, v) = (self.matrix::<T>(&a.q)?, self.matrix::<T>(&a.k)?, self.matrix::<T>(&a.v)?);
        let (out, out_strides) = (Address(self.at(a.out)), self.sizes([&a.out_strides[0], &a.out_strides[1]])?);
        let terms: Vec<Stored> = a.terms.iter().map(|t| self.term::<T>(t)).collect::<Result<_>>()?;
        let around: Vec<Loop> = a.around.iter().map(|l| self.around(l)).collect::<Result<_>>()?;
        let heads = around.iter().try_fold(1usize, |n, l| n.checked_mul(l.size)).ok_or_else(too_large)?;
        if queries == 0 || columns == 0 {
            return Ok(());
        }
        let block = gemm::query_block(queries);
        let blocks = queries.div_ceil(block);
        let task = |task: usize| {
            let (mut left, mut at, mut term_at) = (task / blocks, [0usize; 4], vec![0usize; terms.len()]);
            for l in around.iter().rev() {
                let i = left % l.size;
                left /= l.size;
                at.iter_mut().zip(&l.steps).for_each(|(at, step)| *at += i * step);
                term_at.iter_mut().zip(&l.terms).for_each(|(at, step)| *at += i * step);
            }
            let (q, k, v, out) = (&q, &k, &v, &out);
            let terms: Vec<gemm::Term<T>> = terms.iter().zip(term_at).map(|(t, at)| t.at(at)).collect();
            let head = Attention {
                queries,
                keys,
                inner,
                columns,
                q: q.0.0.cast::<T>().cast_const().wrapping_add(at[0]),
                q_strides: q.1,
                k: k.0.0.cast::<T>().cast_const().wrapping_add(at[1]),
                k_strides: k.1,
                v: v.0.0.cast::<T>().cast_const().wrapping_add(at[2]),
                v_strides: v.1,
                out: out.0.cast::<T>().wrapping_add(at[3]),
                out_strides,
                scale: T::of(a.scale),
                fill: T::of(a.fill),
                terms: &terms,
            };
            let first = task % blocks * block;
            // SAFETY: the strides were derived from the shapes of stored values, whose buffers have their size; the result's buffer
            // overlaps none of them, and no other task writes these queries' rows of this head.
            unsafe { gemm::attend(&head, first..queries.min(first + block)) };
        };
        let tasks = heads.checked_mul(blocks).ok_or_else(too_large)?;
        let products = [queries, keys, inner.saturating_add(columns)].iter().fold(heads, |n, d| n.saturating_mul(*d));
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
