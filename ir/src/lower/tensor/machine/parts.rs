//! Running a loop over parts: one fork and join for all that its region does.
//!
//! What holds:
//! - Each worker has a machine of its own, which runs on one thread and keeps its buffers from part to part: a part's values
//!   stay in the caches of the core that runs it.
//! - What a part reads from around the loop it reads in place. What it writes is its own: its rows of what is joined, and its
//!   own places for what is summed.
//! - Of a shuffled batch that nothing else reads, a part copies its own rows.
//! - The first part's values are where the sums will be; those of the others are added to them in the parts' order. So a
//!   result depends on the size of a part, never on who ran it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use runtime::pool;

use super::super::{ForParts, Val};
use super::batches::Shuffled;
use super::{ALIGN, Address, Arena, Machine, Result, too_large};
use crate::stack::StackRoom;
use crate::types::ScalarType;

/// Elements of a sum that are added at a time: with as many of a part they stay in a core's first cache.
const CHUNK: usize = 2048;
/// Additions below which one thread does them all: some ten microseconds.
const SPLIT_ADDITIONS: usize = 1 << 16;

/// The machines of a function's loops over parts, one a worker.
#[derive(Default)]
pub(super) struct Workers {
    list: Vec<Mutex<Worker>>,
    /// Values that are cut whose rows each part copies.
    pub(super) shuffled: Vec<(Val, Shuffled)>,
    /// Counts loops that were run.
    runs: u64,
}

struct Worker {
    machine: Box<Machine>,
    /// The loop for which it knows what is around.
    run: u64,
    /// The sizes' version around that it knows.
    version: u64,
    /// Room for rows that are copied.
    copied: Option<pool::Block>,
}

/// Where the parts' values of sums lie: for each sum its place behind the part's begin.
struct Partials {
    begin: Address,
    /// Bytes of a part.
    width: usize,
    places: Vec<usize>,
}

impl Partials {
    /// Where part `part`, not the first one, has sum `i`.
    fn at(&self, part: usize, i: usize) -> *mut u8 {
        self.begin.0.wrapping_add((part - 1) * self.width + self.places[i])
    }
}

/// A value that is cut or joined: where its first row is, and the bytes of a row.
struct Rows {
    inner: Val,
    at: Address,
    width: usize,
}

/// A value whose rows are copied, and where in a worker's room they come to.
struct Copied<'a> {
    inner: Val,
    rows: &'a Shuffled,
    place: usize,
}

impl Worker {
    /// Room for so many bytes, kept from part to part.
    fn room(&mut self, bytes: usize) -> Result<*mut u8> {
        if bytes == 0 {
            return Ok(std::ptr::null_mut());
        }
        let block = match self.copied.take() {
            Some(block) if block.bytes() >= bytes => block,
            _ => self.machine.memory.allocate(bytes)?,
        };
        Ok(self.copied.insert(block).as_ptr())
    }
}

impl Machine {
    pub(super) fn for_parts(&mut self, f: &ForParts) -> Result<()> {
        let (n, _) = self.rows(f.sources[0])?;
        let parts = n.div_ceil(f.rows);
        let sums = &f.results[f.joined..];
        if parts == 0 {
            return sums.iter().try_for_each(|v| {
                self.raw_mut(*v)?.fill(0);
                Ok(())
            });
        }
        let partials = self.partials(f.body.id, sums, parts)?;
        self.begin_parts();
        let (copied, room) = self.copied(f)?;
        let outer = f.sources.iter().zip(&f.body.params).filter(|(_, inner)| copied.iter().all(|c| c.inner != **inner));
        let joined = f.results.iter().zip(&f.body.results).take(f.joined);
        let cut = outer.chain(joined).map(|(outer, inner)| {
            Ok(Rows { inner: *inner, at: Address(self.at(*outer)), width: self.rows(*outer)?.1 })
        });
        let cut = cut.collect::<Result<Vec<_>>>()?;
        let run = |part: usize, worker: usize| {
            self.cancel.check()?;
            let mut worker = self.parts.list[worker].lock().unwrap_or_else(PoisonError::into_inner);
            self.tell(&mut worker, f);
            let rows = part * f.rows..n.min((part + 1) * f.rows);
            let to = worker.room(room)?;
            let machine = &mut worker.machine;
            for c in &copied {
                let to = to.wrapping_add(c.place);
                // SAFETY: the batch has the rows, and the room was made for as many of each value that is copied; it is the worker's,
                // which is locked.
                unsafe { c.rows.copy(&rows, to) };
                machine.set_address(c.inner, to);
            }
            for r in &cut {
                machine.set_address(r.inner, r.at.0.wrapping_add(rows.start * r.width));
            }
            for (i, (inner, outer)) in f.body.results[f.joined..].iter().zip(sums).enumerate() {
                machine.set_address(*inner, if part == 0 { self.at(*outer) } else { partials.at(part, i) });
            }
            machine.run_part(f, rows.len())
        };
        match &self.pool {
            Some(pool) if parts > 1 => pool.run(parts, run)?,
            _ => (0..parts).try_for_each(|part| run(part, 0))?,
        }
        self.add_parts(sums, &partials, parts)
    }

    /// The values whose rows the parts copy, and the bytes that a part needs for them.
    fn copied(&self, f: &ForParts) -> Result<(Vec<Copied<'_>>, usize)> {
        let (mut list, mut room) = (vec![], 0usize);
        for (outer, inner) in f.sources.iter().zip(&f.body.params) {
            if let Some((_, rows)) = self.parts.shuffled.iter().find(|(v, _)| v == outer) {
                list.push(Copied { inner: *inner, rows, place: room });
                let bytes = rows.width().checked_mul(f.rows).and_then(|n| n.checked_next_multiple_of(ALIGN));
                room = bytes.and_then(|n| room.checked_add(n)).ok_or_else(too_large)?;
            }
        }
        Ok((list, room))
    }

    /// Machines for the parts, made once.
    fn begin_parts(&mut self) {
        self.parts.runs += 1;
        let threads = self.pool.as_ref().map_or(1, |pool| pool.threads());
        while self.parts.list.len() < threads {
            let memory = Arc::clone(&self.memory);
            let mut machine = Self::new(&self.code, 1, None, memory, self.cancel.clone(), None);
            machine.functions = self.functions.clone();
            machine.frames = self.functions.iter().map(|_| vec![]).collect();
            self.parts.list.push(Mutex::new(Worker { machine: Box::new(machine), run: 0, version: 0, copied: None }));
        }
    }

    /// Tells a worker where what its part reads is, and how large.
    fn tell(&self, worker: &mut Worker, f: &ForParts) {
        if worker.run == self.parts.runs {
            return;
        }
        worker.run = self.parts.runs;
        let machine = &mut worker.machine;
        machine.depth = self.depth;
        for v in &f.body.captured {
            machine.addresses[v.0 as usize] = self.addresses[v.0 as usize];
        }
        if worker.version != self.version {
            worker.version = self.version;
            machine.sizes_from(self);
        }
    }

    fn sizes_from(&mut self, other: &Self) {
        if self.sizes.len() < other.sizes.len() {
            self.sizes.resize(other.sizes.len(), None);
            self.capacity.resize(other.sizes.len(), None);
        }
        for (i, (size, capacity)) in other.sizes.iter().zip(&other.capacity).enumerate() {
            // A symbol without a size around the loop is one that is bound inside.
            if size.is_some() && (self.sizes[i] != *size || self.capacity[i] != *capacity) {
                (self.sizes[i], self.capacity[i]) = (*size, *capacity);
                self.version += 1;
            }
        }
    }

    /// Runs the region over a part whose values have their addresses.
    fn run_part(&mut self, f: &ForParts, rows: usize) -> Result<()> {
        if self.capacity.get(f.part.index()).copied().flatten() != Some(f.rows) {
            self.set_capacity(f.part, f.rows);
        }
        self.set_size(f.part, rows);
        self.stack = StackRoom::here(super::effects::TASK_STACK);
        self.run(&f.body)
    }

    // ---- sums ----

    /// Places for the values that all parts but the first one have of the sums; kept from run to run.
    fn partials(&mut self, block: usize, sums: &[Val], parts: usize) -> Result<Partials> {
        let mut width = 0usize;
        let mut places = vec![];
        for v in sums {
            places.push(width);
            let bytes = self.bytes(self.ty(*v))?.checked_next_multiple_of(ALIGN).ok_or_else(too_large)?;
            width = width.checked_add(bytes).ok_or_else(too_large)?;
        }
        let total = width.checked_mul(parts - 1).ok_or_else(too_large)?.max(ALIGN);
        // Only the parts' machines run the block: here its arena holds what comes out of it.
        if self.arenas[block].room.first().is_none_or(|room| *room < total) {
            self.arenas[block] = Arena::default();
            let memory = self.memory.allocate(total)?;
            self.arenas[block] = Arena { memory: Some(memory), room: vec![total], version: 0 };
        }
        let begin = self.arenas[block].memory.as_ref().map_or(std::ptr::null_mut(), |m| m.as_ptr());
        Ok(Partials { begin: Address(begin), width, places })
    }

    /// Adds the parts to the first one, on several threads where that pays: each adds elements of its own.
    fn add_parts(&self, sums: &[Val], partials: &Partials, parts: usize) -> Result<()> {
        let mut chunks: Vec<(usize, Range<usize>)> = vec![];
        let mut elements = 0;
        for (i, v) in sums.iter().enumerate() {
            let n = self.count(&self.ty(*v).shape)?;
            elements += n;
            chunks.extend((0..n).step_by(CHUNK).map(|first| (i, first..n.min(first + CHUNK))));
        }
        let add = |(i, range): &(usize, Range<usize>)| {
            let (i, range) = (*i, range.clone());
            for part in 1..parts {
                match self.ty(sums[i]).dtype {
                    ScalarType::F32 => self.add_part::<f32>(sums[i], partials.at(part, i), range.clone()),
                    _ => self.add_part::<f64>(sums[i], partials.at(part, i), range.clone()),
                }
            }
        };
        match &self.pool {
            Some(pool) if elements * (parts - 1) >= SPLIT_ADDITIONS => {
                let step = chunks.len().div_ceil(pool.threads());
                pool.run(chunks.len().div_ceil(step), |task, _| {
                    chunks[task * step..chunks.len().min((task + 1) * step)].iter().for_each(add);
                    Ok(())
                })
            }
            _ => {
                chunks.iter().for_each(add);
                Ok(())
            }
        }
    }

    fn add_part<T: Copy + std::ops::AddAssign>(&self, sum: Val, part: *mut u8, range: Range<usize>) {
        let (sum, part) = (self.at(sum).cast::<T>(), part.cast::<T>());
        let n = range.len();
        // SAFETY: the range lies within the value, whose buffer and whose places in the parts hold its elements; none overlaps
        // another, and nobody else adds to the range's elements or writes those of a part meanwhile.
        let (sum, part) = unsafe {
            let part = std::slice::from_raw_parts(part.wrapping_add(range.start), n);
            (std::slice::from_raw_parts_mut(sum.wrapping_add(range.start), n), part)
        };
        sum.iter_mut().zip(part).for_each(|(s, x)| *s += *x);
    }
}
