//! Running a loop over batches.
//!
//! What holds:
//! - The rows of a shuffled batch are copied to where it stands. Where only parts of the batch read them, each part copies its
//!   own ([`super::parts`]): they are in the cache of the core that reads them.
//! - The order of an epoch's rows is made while the epoch before it runs, where there are threads for that.

use std::ops::Range;
use std::sync::Arc;

use runtime::kernels::random::Philox;
use runtime::pool;
use runtime::scheduler::{Ahead, WorkerPool};

use super::super::ForBatches;
use super::{Address, Machine, Result, State, invalid, too_large};
use crate::exec::run::{Progress, ProgressHook};
use crate::types::ScalarType;

/// Rows of a shuffled batch that are asked for before they are copied: in memory they lie anywhere.
const AHEAD: usize = 16;
/// Bytes of such a row that are asked for; the processor follows by itself.
const PREFETCHED: usize = 256;
/// Bytes of a shuffled batch below which one thread copies it.
const SPLIT_BYTES: usize = 1 << 16;

/// A loop under way.
struct Loop<'a> {
    f: &'a ForBatches,
    rows: usize,
    /// Bytes of a row of each source.
    widths: Vec<usize>,
    /// Where the numbers of the epoch and the step are.
    counters: [*mut u8; 2],
    /// Where the batch of each source is, if it is copied.
    buffers: Vec<*mut u8>,
    _memory: pool::Block,
    state: State,
    step: i64,
    progress: Option<ProgressHook>,
}

/// The orders of the epochs' rows.
struct Orders {
    seed: u64,
    rows: u32,
    epochs: usize,
    pool: Option<Arc<WorkerPool>>,
    next: Option<Ahead<Vec<u32>>>,
}

impl Orders {
    fn new(f: &ForBatches, rows: usize, pool: Option<&Arc<WorkerPool>>) -> Result<Option<Self>> {
        let Some(seed) = f.shuffle else { return Ok(None) };
        let rows = u32::try_from(rows).map_err(|_| invalid(format!("{rows} rows are too many to shuffle")))?;
        Ok(Some(Self { seed, rows, epochs: f.epochs, pool: pool.cloned(), next: None }))
    }

    /// The order of an epoch's rows; the next one's is begun.
    fn of(&mut self, epoch: usize) -> Result<Arc<Vec<u32>>> {
        let (seed, rows) = (self.seed, self.rows);
        let order = move |epoch: usize| Philox::new(seed, epoch as u64).permutation(rows);
        let now = match self.next.take() {
            Some(made) => made.get()?,
            None => order(epoch),
        };
        if let Some(pool) = &self.pool
            && epoch + 1 < self.epochs
        {
            self.next = Some(pool.ahead(move || order(epoch + 1)));
        }
        Ok(Arc::new(now))
    }
}

impl Machine {
    pub(super) fn for_batches(&mut self, f: &ForBatches) -> Result<()> {
        let (rows, _) = self.rows(f.sources[0])?;
        let outer = self.sizes.get(f.batch.index()).copied().flatten();
        self.set_capacity(f.batch, f.size.min(rows.max(1)));
        let mut orders = Orders::new(f, rows, self.pool.as_ref())?;
        let mut l = self.begin_batches(f, rows)?;
        let mut means = vec![vec![f64::NAN; f.epochs]; f.body.results.len() - f.state.len()];
        for epoch in 0..f.epochs {
            let order = orders.as_mut().map(|o| o.of(epoch)).transpose()?;
            let found = self.epoch(&mut l, epoch, order.as_ref())?;
            means.iter_mut().zip(found).for_each(|(list, mean)| list[epoch] = mean);
            if let (Some(share), Some(list), true) = (f.early_stop, means.last(), epoch > 0) {
                let (before, now) = (list[epoch - 1], list[epoch]);
                let improved = before - now > share * before.abs();
                if !improved {
                    break;
                }
            }
        }
        self.progress = l.progress.take();
        self.end_state(&l.state, &f.results[..f.state.len()]);
        for (list, v) in means.into_iter().zip(&f.results[f.state.len()..]) {
            match self.ty(*v).dtype {
                ScalarType::F32 => {
                    self.slice_mut::<f32>(*v)?.iter_mut().zip(list).for_each(|(to, x)| *to = x as f32);
                }
                _ => self.slice_mut::<f64>(*v)?.copy_from_slice(&list),
            }
        }
        self.put_size(f.batch, outer);
        Ok(())
    }

    /// Places for what the loop gives to its body and takes from it.
    fn begin_batches<'a>(&mut self, f: &'a ForBatches, rows: usize) -> Result<Loop<'a>> {
        let size = f.size.min(rows.max(1));
        let widths: Vec<usize> = f.sources.iter().map(|v| Ok(self.rows(*v)?.1)).collect::<Result<_>>()?;
        let metrics = &f.body.results[f.state.len()..];
        let mut bytes = vec![8; 2 + metrics.len()];
        for (width, by_parts) in widths.iter().zip(&f.by_parts) {
            let copied = f.shuffle.is_some() && !by_parts;
            bytes.push(if copied { width.checked_mul(size).ok_or_else(too_large)? } else { 0 });
        }
        let (memory, places) = self.loop_memory(&bytes)?;
        let counters = [places[0], places[1]];
        let (places, buffers) = places[2..].split_at(metrics.len());
        for (v, at) in f.body.params.iter().zip(counters).chain(metrics.iter().zip(places.iter().copied())) {
            self.set_address(*v, at);
        }
        let buffers = buffers.to_vec();
        let state = self.begin_state(&f.state)?;
        // A loop inside of this one is silent.
        let progress = self.progress.take();
        Ok(Loop { f, rows, widths, counters, buffers, _memory: memory, state, step: 0, progress })
    }

    /// Runs the batches of an epoch; the metrics' means, weighted by rows.
    fn epoch(&mut self, l: &mut Loop<'_>, epoch: usize, order: Option<&Arc<Vec<u32>>>) -> Result<Vec<f64>> {
        let (f, rows) = (l.f, l.rows);
        let metrics = &f.body.results[f.state.len()..];
        let mut sums = vec![0.0; metrics.len()];
        let mut seen = 0usize;
        let report = (rows / 8).max(1);
        let mut next_report = report;
        for first in (0..rows).step_by(f.size) {
            self.cancel.check()?;
            let chosen = first..rows.min(first + f.size);
            if f.drop_last && chosen.len() < f.size {
                continue;
            }
            self.set_size(f.batch, chosen.len());
            self.take_rows(l, &chosen, order)?;
            // SAFETY: the two counters are 8 bytes each.
            unsafe {
                l.counters[0].cast::<i64>().write(epoch as i64);
                l.counters[1].cast::<i64>().write(l.step);
            }
            let count = f.state.len();
            self.set_state(&l.state, &f.body.params[2 + f.sources.len()..], &f.body.results[..count]);
            self.run(&f.body)?;
            l.state.swap();
            for (sum, v) in sums.iter_mut().zip(metrics) {
                let value = match self.ty(*v).dtype {
                    ScalarType::F32 => f64::from(self.slice::<f32>(*v)?[0]),
                    _ => self.slice::<f64>(*v)?[0],
                };
                *sum += value * chosen.len() as f64;
            }
            seen += chosen.len();
            l.step += 1;
            if let Some(progress) = &l.progress
                && (seen >= next_report || chosen.end == rows)
            {
                next_report = seen + report;
                let loss = sums.first().map(|sum| sum / seen as f64);
                progress(Progress { epoch, epochs: f.epochs, rows: seen, total: rows, loss });
            }
        }
        Ok(sums.into_iter().map(|sum| sum / seen as f64).collect())
    }

    /// Gives the body's parameters their rows of the sources: where they are, or copied.
    fn take_rows(&mut self, l: &Loop<'_>, chosen: &Range<usize>, order: Option<&Arc<Vec<u32>>>) -> Result<()> {
        let f = l.f;
        let params = &f.body.params[2..2 + f.sources.len()];
        let Some(order) = order else {
            for ((param, v), width) in params.iter().zip(&f.sources).zip(&l.widths) {
                self.set_address(*param, self.at(*v).wrapping_add(chosen.start * width));
            }
            return Ok(());
        };
        let mut copies = vec![];
        self.parts.shuffled.clear();
        for (i, (param, v)) in params.iter().zip(&f.sources).enumerate() {
            let copy = Copies { from: Address(self.at(*v)), width: l.widths[i] };
            if f.by_parts[i] {
                let (order, first) = (Arc::clone(order), chosen.start);
                self.parts.shuffled.push((*param, Shuffled { copy, order, first }));
            } else {
                self.set_address(*param, l.buffers[i]);
                copies.push((copy, Address(l.buffers[i])));
            }
        }
        self.gather_batch(order, chosen, &copies)
    }

    /// Copies the rows of a shuffled batch to where it stands, on several threads where that pays.
    fn gather_batch(&self, order: &[u32], chosen: &Range<usize>, copies: &[(Copies, Address)]) -> Result<()> {
        let rows = chosen.len();
        let bytes = rows * copies.iter().map(|(copy, _)| copy.width).sum::<usize>();
        let tasks = match &self.pool {
            Some(pool) if bytes >= SPLIT_BYTES => pool.threads(),
            _ => 1,
        };
        let step = rows.div_ceil(tasks);
        let run = |task: usize, _| {
            let part = (task * step).min(rows)..((task + 1) * step).min(rows);
            for (copy, to) in copies {
                let chosen = chosen.start + part.start..chosen.start + part.end;
                // SAFETY: the permutation's numbers are below the number of rows of each source; the buffer has room for the rows of
                // a batch, of which each task writes its own.
                unsafe { copy.run(order, chosen, to.0.wrapping_add(part.start * copy.width)) };
            }
            Ok(())
        };
        match &self.pool {
            Some(pool) if tasks > 1 => pool.run(tasks, run),
            _ => run(0, 0),
        }
    }
}

/// The rows of a batch that its parts copy.
pub(super) struct Shuffled {
    copy: Copies,
    order: Arc<Vec<u32>>,
    /// Where the batch begins in the order.
    first: usize,
}

impl Shuffled {
    /// Bytes of a row.
    pub(super) fn width(&self) -> usize {
        self.copy.width
    }

    /// Copies rows of the batch.
    ///
    /// # Safety
    /// There is room for them, which nobody else uses; the batch has them.
    pub(super) unsafe fn copy(&self, rows: &Range<usize>, to: *mut u8) {
        // SAFETY: the permutation's numbers are below the source's number of rows; the rest is promised by the caller.
        unsafe { self.copy.run(&self.order, self.first + rows.start..self.first + rows.end, to) };
    }
}

/// Rows of a source that are copied into a batch.
struct Copies {
    from: Address,
    /// Bytes of a row.
    width: usize,
}

impl Copies {
    /// Copies the rows that `order[chosen]` names, in that order.
    ///
    /// # Safety
    /// The source has the rows; there is room for them, which nobody else uses.
    unsafe fn run(&self, order: &[u32], chosen: Range<usize>, to: *mut u8) {
        let (width, mut to) = (self.width, to);
        for at in chosen {
            if let Some(ahead) = order.get(at + AHEAD) {
                let ahead = self.from.0.wrapping_add(*ahead as usize * width).cast_const();
                (0..PREFETCHED.min(width)).step_by(64).for_each(|at| runtime::prefetch_line(ahead.wrapping_add(at)));
            }
            // SAFETY: promised by the caller.
            unsafe {
                let from = self.from.0.wrapping_add(order[at] as usize * width);
                std::ptr::copy_nonoverlapping(from, to, width);
            }
            to = to.wrapping_add(width);
        }
    }
}
