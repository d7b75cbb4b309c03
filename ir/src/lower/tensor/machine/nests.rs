//! Running nests: those of a step at the same time, each on rows of its own.

use std::ops::Range;
use std::sync::PoisonError;

use runtime::trap::{Trap, TrapCode};

use super::super::{Nest, Slot};
use super::{Kernel, Machine, Result, located};
use crate::entity::PlaceId;

/// Operations below which a step runs on one thread: some ten microseconds. Handing work to threads that wait takes about three.
const SPLIT_WORK: usize = 1 << 16;
/// From so many steps of its outermost loop on, a nest is cut at multiples of [`LINE`].
const LONG: usize = 1024;
/// Elements of which no two threads write some: those of a cache line and more.
const LINE: usize = 64;

/// A nest that may run.
struct Ready<'a> {
    code: &'a Kernel,
    place: Option<PlaceId>,
    /// Where in the step's context its slots begin.
    context: usize,
    extent: usize,
    work: usize,
}

impl Ready<'_> {
    /// Its share of a step's tasks: ranges of its outermost loop.
    fn tasks(&self, most: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let extent = self.extent;
        let wanted = self.work.div_ceil(most).clamp(1, extent.max(1));
        let step = extent.div_ceil(wanted).next_multiple_of(if extent >= LONG { LINE } else { 1 });
        (0..extent).step_by(step.max(1)).map(move |first| first..extent.min(first + step))
    }
}

impl Machine {
    /// Runs nests that do not read each other.
    pub(super) fn nests<'n>(&mut self, nests: impl Iterator<Item = (&'n Nest, Option<PlaceId>)>) -> Result<()> {
        let mut context = std::mem::take(&mut self.context);
        context.clear();
        let done = self.run_nests(nests, &mut context);
        self.context = context;
        done
    }

    fn run_nests<'n>(
        &self,
        nests: impl Iterator<Item = (&'n Nest, Option<PlaceId>)>,
        context: &mut Vec<u64>,
    ) -> Result<()> {
        let ready = nests.map(|(nest, place)| self.ready(nest, place, context)).collect::<Result<Vec<_>>>()?;
        let work = ready.iter().fold(0usize, |sum, n| sum.saturating_add(n.work));
        let run = |n: &Ready<'_>, worker: usize, range: Range<usize>| {
            let mut block = self.workers[worker].lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: the context holds the addresses of the buffers that the nest reads and writes, of the sizes that it loops
            // over; the range's rows of the result are written by nobody else, no nest of the step reads another's result, and
            // the worker block is locked.
            let status = unsafe {
                (n.code.run)(context[n.context..].as_ptr(), block.as_mut_ptr(), range.start as i64, range.end as i64)
            };
            block.check(status).map_err(|t| located(t, n.place))
        };
        match &self.pool {
            Some(pool) if work >= SPLIT_WORK => {
                let most = work.div_ceil(pool.threads());
                let tasks: Vec<(&Ready<'_>, Range<usize>)> =
                    ready.iter().flat_map(|n| n.tasks(most).map(move |range| (n, range))).collect();
                pool.run(tasks.len(), |task, worker| {
                    let (n, range) = &tasks[task];
                    run(n, worker, range.clone())
                })
            }
            _ => ready.iter().try_for_each(|n| run(n, 0, 0..n.extent)),
        }
    }

    fn ready<'n>(&self, nest: &'n Nest, place: Option<PlaceId>, context: &mut Vec<u64>) -> Result<Ready<'n>> {
        let code = nest.code.as_ref().ok_or_else(|| Trap::with_detail(TrapCode::Internal, "a nest without code"))?;
        let begin = context.len();
        for slot in &nest.slots {
            context.push(match slot {
                Slot::Address(v) => self.at(*v).expose_provenance() as u64,
                Slot::Size(d) => self.size(d)? as u64,
            });
        }
        let work = self.size(&nest.work)?.saturating_mul(nest.weight);
        Ok(Ready { code, place, context: begin, extent: self.size(&nest.extent)?, work })
    }
}
