//! The worker pool: tasks of one job over threads, the cutting of input into ranges, and the containment of panics.
//!
//! What holds:
//! - [`WorkerPool::run`] returns when no task of its job runs or will run any more. The caller works too; a pool of one thread
//!   runs everything inline.
//! - Within one job, tasks that run at the same time have different worker numbers, below [`WorkerPool::threads`].
//! - A panic in a task is an error of its job ([`TrapCode::Panic`]); the pool goes on. After the first error, tasks that have not begun
//!   are skipped. Of several errors the one of the lowest task is returned.
//! - Nothing inside of a task spawns: a `run` from within a task runs its tasks inline, one after the other.
//! - Input is cut into ranges by its number of rows only ([`Ranges`]), so what depends on ranges does not depend on threads.

use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::trap::{Trap, TrapCode};

/// Rows a morsel: the unit of which ranges are made, and of the zone maps.
pub const MORSEL_ROWS: usize = 64 << 10;
/// The most ranges that an input is cut into.
pub const MAX_RANGES: usize = 64;

/// How an input is cut: at most [`MAX_RANGES`] ranges, each a multiple of the morsel (but for the last one).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    rows: usize,
    step: usize,
}

impl Ranges {
    /// The ranges of `rows` rows.
    pub fn new(rows: usize) -> Self {
        Self::with_morsel(rows, MORSEL_ROWS)
    }

    /// As `new` with another morsel, so that tests see many ranges.
    pub fn with_morsel(rows: usize, morsel: usize) -> Self {
        let morsels = rows.div_ceil(morsel.max(1));
        Self { rows, step: morsels.div_ceil(MAX_RANGES).max(1) * morsel.max(1) }
    }

    /// The number of ranges; 0 for no rows.
    pub fn len(self) -> usize {
        self.rows.div_ceil(self.step)
    }

    /// Whether there are no rows.
    pub fn is_empty(self) -> bool {
        self.rows == 0
    }

    /// The rows of range `index`.
    pub fn get(self, index: usize) -> Range<usize> {
        let begin = index * self.step;
        begin..(begin + self.step).min(self.rows)
    }
}

/// The words of a caught panic.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    match payload.downcast_ref::<&str>() {
        Some(text) => (*text).to_owned(),
        None => match payload.downcast_ref::<String>() {
            Some(text) => text.clone(),
            None => "a panic without words".to_owned(),
        },
    }
}

/// Threads that wait for jobs.
pub struct WorkerPool {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    threads: usize,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Counts jobs that were queued, so that an idle worker can look for one without the lock.
    epoch: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Arc<Job>>,
    stop: bool,
}

/// The body of a job: task and worker number.
type Body<'a> = dyn Fn(usize, usize) -> Result<(), Trap> + Sync + 'a;

struct Job {
    /// Lives as long as tasks can be claimed: `run` waits for all of them.
    body: *const Body<'static>,
    tasks: usize,
    next: AtomicUsize,
    failed: AtomicBool,
    /// What `state` says, to be looked at without the lock.
    done: AtomicUsize,
    state: Mutex<JobState>,
    finished: Condvar,
}

#[derive(Default)]
struct JobState {
    done: usize,
    failure: Option<(usize, Trap)>,
}

// SAFETY: the body is `Sync`, and it is only called while `run`, which borrows it, has not returned.
unsafe impl Send for Job {}
// SAFETY: as above.
unsafe impl Sync for Job {}

thread_local! {
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// How often an idle worker looks for the next job before it parks: some microseconds.
const SPINS: usize = 2000;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WorkerPool {
    /// A pool in which `threads` threads work, the caller of [`WorkerPool::run`] among them; at least 1.
    pub fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        let shared =
            Arc::new(Shared { queue: Mutex::new(Queue::default()), wake: Condvar::new(), epoch: AtomicUsize::new(0) });
        let spawn = |worker| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("flern-worker-{worker}")).spawn(move || shared.work(worker)).ok()
        };
        let handles: Vec<_> = (1..threads).map_while(spawn).collect();
        let threads = handles.len() + 1;
        Self { shared, handles, threads }
    }

    /// A pool with a thread for each CPU.
    pub fn with_all_cpus() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// The number of threads that work, the caller among them. May be less than asked for where the system gave no more.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `body(task, worker)` for every task in `0..tasks`.
    ///
    /// # Errors
    /// The trap of the lowest task that failed; [`TrapCode::Panic`] for one that panicked.
    pub fn run<F>(&self, tasks: usize, body: F) -> Result<(), Trap>
    where
        F: Fn(usize, usize) -> Result<(), Trap> + Sync,
    {
        if self.threads == 1 || tasks <= 1 || IN_TASK.get() {
            return (0..tasks).try_for_each(|task| run_task(&body, task, 0));
        }
        let body: &Body<'_> = &body;
        let body: *const Body<'_> = body;
        // SAFETY: only the lifetime changes; `run` returns after the last call of the body has ended, and no task is claimed after that.
        let body: *const Body<'static> = unsafe { std::mem::transmute(body) };
        let job = Arc::new(Job {
            body,
            tasks,
            next: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            done: AtomicUsize::new(0),
            state: Mutex::new(JobState::default()),
            finished: Condvar::new(),
        });
        self.shared.submit(&job, self.threads - 1);
        job.work(0);
        job.wait()
    }

    /// As [`WorkerPool::run`], and collects what the tasks return, in task order.
    ///
    /// # Errors
    /// As for [`WorkerPool::run`].
    pub fn map<T, F>(&self, tasks: usize, body: F) -> Result<Vec<T>, Trap>
    where
        T: Send,
        F: Fn(usize, usize) -> Result<T, Trap> + Sync,
    {
        let results: Vec<Mutex<Option<T>>> = (0..tasks).map(|_| Mutex::new(None)).collect();
        self.run(tasks, |task, worker| {
            let result = body(task, worker)?;
            *lock(&results[task]) = Some(result);
            Ok(())
        })?;
        results
            .into_iter()
            .map(|slot| {
                let slot = slot.into_inner().unwrap_or_else(PoisonError::into_inner);
                slot.ok_or_else(|| Trap::with_detail(TrapCode::Internal, "a task was skipped"))
            })
            .collect()
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        lock(&self.shared.queue).stop = true;
        self.shared.epoch.fetch_add(1, Ordering::Release);
        self.shared.wake.notify_all();
        for handle in self.handles.drain(..) {
            // A worker catches the panics of its tasks; there is nothing to do about one that died anyway.
            let _ = handle.join();
        }
    }
}

impl Shared {
    fn submit(&self, job: &Arc<Job>, workers: usize) {
        lock(&self.queue).jobs.push_back(Arc::clone(job));
        self.epoch.fetch_add(1, Ordering::Release);
        for _ in 0..workers.min(job.tasks - 1) {
            self.wake.notify_one();
        }
    }

    fn work(&self, worker: usize) {
        while let Some(job) = self.next_job() {
            job.work(worker);
            let seen = self.epoch.load(Ordering::Acquire);
            for _ in 0..SPINS {
                if self.epoch.load(Ordering::Relaxed) != seen {
                    break;
                }
                std::hint::spin_loop();
            }
        }
    }

    /// A job with tasks that no one has begun; waits for one. `None` when the pool ends.
    fn next_job(&self) -> Option<Arc<Job>> {
        let mut queue = lock(&self.queue);
        loop {
            while let Some(job) = queue.jobs.front() {
                if job.next.load(Ordering::Relaxed) < job.tasks {
                    return Some(Arc::clone(job));
                }
                queue.jobs.pop_front();
            }
            if queue.stop {
                return None;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Job {
    /// Runs tasks until none is left to begin.
    fn work(&self, worker: usize) {
        let mut done = 0;
        let mut failure: Option<(usize, Trap)> = None;
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= self.tasks {
                break;
            }
            done += 1;
            if self.failed.load(Ordering::Relaxed) {
                continue;
            }
            // SAFETY: this task has begun and is not counted as done, so `run` has not returned and the body lives.
            let body = unsafe { &*self.body };
            if let Err(trap) = run_task(body, task, worker) {
                self.failed.store(true, Ordering::Relaxed);
                if failure.as_ref().is_none_or(|(first, _)| task < *first) {
                    failure = Some((task, trap));
                }
            }
        }
        if done == 0 {
            return;
        }
        let mut state = lock(&self.state);
        state.done += done;
        self.done.store(state.done, Ordering::Release);
        if let Some((task, trap)) = failure
            && state.failure.as_ref().is_none_or(|(first, _)| task < *first)
        {
            state.failure = Some((task, trap));
        }
        if state.done == self.tasks {
            self.finished.notify_all();
        }
    }

    fn wait(&self) -> Result<(), Trap> {
        // Short tasks end while one looks; to be woken takes longer.
        for _ in 0..SPINS {
            if self.done.load(Ordering::Acquire) == self.tasks {
                break;
            }
            std::hint::spin_loop();
        }
        let mut state = lock(&self.state);
        while state.done < self.tasks {
            state = self.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match state.failure.take() {
            Some((_, trap)) => Err(trap),
            None => Ok(()),
        }
    }
}

fn run_task(body: &Body<'_>, task: usize, worker: usize) -> Result<(), Trap> {
    let outer = IN_TASK.replace(true);
    let result = catch_unwind(AssertUnwindSafe(|| body(task, worker)));
    IN_TASK.set(outer);
    result.unwrap_or_else(|payload| Err(Trap::with_detail(TrapCode::Panic, panic_message(payload.as_ref()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_the_rows_once_and_depend_on_nothing_else() {
        for rows in [0, 1, MORSEL_ROWS, MORSEL_ROWS + 1, 10_000_000, 64 * MORSEL_ROWS + 1] {
            let ranges = Ranges::new(rows);
            assert!(ranges.len() <= MAX_RANGES);
            assert_eq!(ranges.is_empty(), rows == 0);
            let mut next = 0;
            for i in 0..ranges.len() {
                let range = ranges.get(i);
                assert_eq!(range.start, next);
                assert!(!range.is_empty());
                assert_eq!(range.start % MORSEL_ROWS, 0);
                next = range.end;
            }
            assert_eq!(next, rows);
        }
        assert_eq!(Ranges::with_morsel(10, 3).len(), 4);
    }

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 3] {
            let pool = WorkerPool::new(threads);
            for tasks in [0, 1, 2, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                let run = pool.run(tasks, |task, worker| {
                    assert!(worker < pool.threads());
                    counts[task].fetch_add(1, Ordering::Relaxed);
                    Ok(())
                });
                assert_eq!(run, Ok(()));
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
            assert_eq!(pool.map(5, |task, _| Ok(task * task)), Ok(vec![0, 1, 4, 9, 16]));
        }
    }

    #[test]
    fn a_panic_is_an_error_and_the_pool_goes_on() {
        for threads in [1, 3] {
            let pool = WorkerPool::new(threads);
            for _ in 0..3 {
                let trap = pool
                    .run(8, |task, _| {
                        assert!(task != 5, "task five");
                        Ok(())
                    })
                    .expect_err("one task panics");
                assert_eq!(trap.code, TrapCode::Panic);
                assert!(trap.to_string().contains("task five"));
                assert_eq!(pool.map(3, |task, _| Ok(task)), Ok(vec![0, 1, 2]));
            }
        }
    }

    #[test]
    fn the_first_error_stops_the_rest() {
        let pool = WorkerPool::new(1);
        let begun = AtomicUsize::new(0);
        let result = pool.run(10, |task, _| {
            begun.fetch_add(1, Ordering::Relaxed);
            if task >= 3 {
                return Err(Trap::with_detail(TrapCode::Overflow, task.to_string()));
            }
            Ok(())
        });
        assert_eq!(result.expect_err("fails").detail.as_deref(), Some("3"));
        assert_eq!(begun.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn runs_nest_inline_and_from_several_threads() {
        let pool = WorkerPool::new(3);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let run = pool.run(7, |_, _| {
                            pool.run(3, |_, worker| {
                                assert_eq!(worker, 0);
                                total.fetch_add(1, Ordering::Relaxed);
                                Ok(())
                            })
                        });
                        assert_eq!(run, Ok(()));
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 4 * 50 * 21);
    }
}
