//! Counters and times of stages, for EXPLAIN ANALYZE and the benchmarks.
//!
//! What holds:
//! - Counters are added to once a task, never once a row.
//! - Times are of one thread each: with several threads their sum exceeds the time that passed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What the tasks of one stage add up.
#[derive(Debug, Default)]
pub struct StageCounters {
    tasks: AtomicU64,
    rows_in: AtomicU64,
    rows_out: AtomicU64,
    nanoseconds: AtomicU64,
}

/// A reading of [`StageCounters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageStats {
    /// Tasks that ended.
    pub tasks: u64,
    /// Rows that they read.
    pub rows_in: u64,
    /// Rows that they passed on.
    pub rows_out: u64,
    /// Time in tasks, summed over threads.
    pub busy: Duration,
}

impl StageCounters {
    /// All zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one task that began at `start` and ends now.
    pub fn task(&self, start: Instant, rows_in: u64, rows_out: u64) {
        let elapsed = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.tasks.fetch_add(1, Ordering::Relaxed);
        self.rows_in.fetch_add(rows_in, Ordering::Relaxed);
        self.rows_out.fetch_add(rows_out, Ordering::Relaxed);
        self.nanoseconds.fetch_add(elapsed, Ordering::Relaxed);
    }

    /// What has been added so far.
    pub fn read(&self) -> StageStats {
        StageStats {
            tasks: self.tasks.load(Ordering::Relaxed),
            rows_in: self.rows_in.load(Ordering::Relaxed),
            rows_out: self.rows_out.load(Ordering::Relaxed),
            busy: Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_add_up() {
        let counters = StageCounters::new();
        counters.task(Instant::now(), 10, 3);
        counters.task(Instant::now(), 5, 0);
        let stats = counters.read();
        assert_eq!((stats.tasks, stats.rows_in, stats.rows_out), (2, 15, 3));
    }
}
