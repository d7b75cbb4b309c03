//! The worker pool: tasks of one job over threads, the cutting of input into ranges, and the containment of panics.
//!
//! What holds:
//! - [`WorkerPool::run`] returns when no task of its job runs or will run any more. The caller works too; a pool of one thread
//!   runs everything inline.
//! - Within one job, tasks that run at the same time have different worker numbers, below [`WorkerPool::threads`].
//! - A panic in a task is an error of its job ([`TrapCode::Panic`]); the pool goes on. After the first error, tasks that have not begun
//!   are skipped. Of several errors the one of the lowest task is returned.
//! - What is begun ahead ([`WorkerPool::ahead`]) is one task that the first free worker takes, or else who asks for its result.
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
    /// Workers that look for one so. Each looks at the queue once more before it parks: nobody has to wake it.
    looking: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Arc<Job>>,
    /// Workers that wait to be woken.
    parked: usize,
    stop: bool,
}

/// The body of a job: task and worker number.
type Body<'a> = dyn Fn(usize, usize) -> Result<(), Trap> + Sync + 'a;

struct Job {
    /// Lives as long as tasks can be claimed: `run` waits for all of them, or the job owns it.
    body: *const Body<'static>,
    _owned: Option<Box<Body<'static>>>,
    tasks: usize,
    next: AtomicUsize,
    failed: AtomicBool,
    done: AtomicUsize,
    /// Whether the caller of `run` waits to be woken.
    waits: AtomicBool,
    /// The failure of the lowest task.
    failure: Mutex<Option<(usize, Trap)>>,
    finished: Condvar,
}

// SAFETY: the body is `Sync`, and it is only called while `run`, which borrows it, has not returned, or while the job owns it.
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
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::default()),
            wake: Condvar::new(),
            epoch: AtomicUsize::new(0),
            looking: AtomicUsize::new(0),
        });
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
        let job = Arc::new(Job::new(body, tasks));
        // The caller takes a task itself.
        self.shared.submit(&job, (self.threads - 1).min(tasks - 1));
        job.work(0);
        job.wait()
    }

    /// Begins something that one thread does while others go on: [`Ahead::get`] gives it, and does it where no thread began it.
    pub fn ahead<T, F>(&self, make: F) -> Ahead<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let made = Arc::new(Mutex::new(None));
        let (slot, make) = (Arc::clone(&made), Mutex::new(Some(make)));
        let body = move |_: usize, _: usize| {
            if let Some(make) = lock(&make).take() {
                *lock(&slot) = Some(make());
            }
            Ok(())
        };
        let body: Box<Body<'static>> = Box::new(body);
        let body_at: *const Body<'static> = &raw const *body;
        let job = Arc::new(Job { _owned: Some(body), ..Job::new(body_at, 1) });
        if self.threads > 1 {
            self.shared.submit(&job, 1);
        }
        Ahead { job, made }
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
    /// Queues a job, and wakes as many workers as it has use for, less those that look for one. To wake is a system call.
    fn submit(&self, job: &Arc<Job>, workers: usize) {
        let parked = {
            let mut queue = lock(&self.queue);
            queue.jobs.push_back(Arc::clone(job));
            queue.parked
        };
        self.epoch.fetch_add(1, Ordering::Release);
        let wanted = workers.saturating_sub(self.looking.load(Ordering::Relaxed));
        for _ in 0..wanted.min(parked) {
            self.wake.notify_one();
        }
    }

    fn work(&self, worker: usize) {
        loop {
            // Before the look at the queue: a job that comes behind it changes the count.
            let seen = self.epoch.load(Ordering::Acquire);
            let job = lock(&self.queue).job();
            match job {
                Some(job) => job.work(worker),
                None if self.look(seen) => {}
                None if self.park() => {}
                None => return,
            }
        }
    }

    /// Looks for a job behind those that were there at this count, for some microseconds; whether one came.
    fn look(&self, seen: usize) -> bool {
        self.looking.fetch_add(1, Ordering::Relaxed);
        let came = (0..SPINS).any(|_| {
            std::hint::spin_loop();
            self.epoch.load(Ordering::Relaxed) != seen
        });
        self.looking.fetch_sub(1, Ordering::Relaxed);
        came
    }

    /// Waits for a job; whether there is one rather than the pool's end.
    fn park(&self) -> bool {
        let mut queue = lock(&self.queue);
        loop {
            if queue.job().is_some() {
                return true;
            }
            if queue.stop {
                return false;
            }
            queue.parked += 1;
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.parked -= 1;
        }
    }
}

impl Queue {
    /// A job with tasks that no one has begun.
    fn job(&mut self) -> Option<Arc<Job>> {
        while let Some(job) = self.jobs.front() {
            if job.next.load(Ordering::Relaxed) < job.tasks {
                return Some(Arc::clone(job));
            }
            self.jobs.pop_front();
        }
        None
    }
}

impl Job {
    fn new(body: *const Body<'static>, tasks: usize) -> Self {
        Self {
            body,
            _owned: None,
            tasks,
            next: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            done: AtomicUsize::new(0),
            waits: AtomicBool::new(false),
            failure: Mutex::new(None),
            finished: Condvar::new(),
        }
    }

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
            // SAFETY: this task has begun and is not counted as done, so `run` has not returned, or the job owns the body: it lives.
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
        if let Some((task, trap)) = failure {
            let mut lowest = lock(&self.failure);
            if lowest.as_ref().is_none_or(|(first, _)| task < *first) {
                *lowest = Some((task, trap));
            }
        }
        // Here the last count comes before the look at who waits, in `wait` the other way round: one sees the other.
        let before = self.done.fetch_add(done, Ordering::SeqCst);
        if before + done == self.tasks && self.waits.load(Ordering::SeqCst) {
            // The caller holds the lock from before it looked at the count until it waits.
            drop(lock(&self.failure));
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
        let mut failure = lock(&self.failure);
        if self.done.load(Ordering::Acquire) < self.tasks {
            self.waits.store(true, Ordering::SeqCst);
            while self.done.load(Ordering::SeqCst) < self.tasks {
                failure = self.finished.wait(failure).unwrap_or_else(PoisonError::into_inner);
            }
        }
        match failure.take() {
            Some((_, trap)) => Err(trap),
            None => Ok(()),
        }
    }
}

/// Something that [`WorkerPool::ahead`] began.
pub struct Ahead<T> {
    job: Arc<Job>,
    made: Arc<Mutex<Option<T>>>,
}

impl<T> Ahead<T> {
    /// What it makes.
    ///
    /// # Errors
    /// [`TrapCode::Panic`] where it panicked.
    pub fn get(self) -> Result<T, Trap> {
        self.job.work(0);
        self.job.wait()?;
        let made = lock(&self.made).take();
        made.ok_or_else(|| Trap::with_detail(TrapCode::Internal, "what was begun ahead was not made"))
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
    fn parked_and_looking_workers_come() {
        // Each job needs all workers at once, whether they look for it still or sleep.
        let pool = WorkerPool::new(4);
        for pause in (0..40).map(|i| std::time::Duration::from_micros(i * i * 2)) {
            std::thread::sleep(pause);
            let here = AtomicUsize::new(0);
            let all = pool.run(4, |_, _| {
                here.fetch_add(1, Ordering::SeqCst);
                while here.load(Ordering::SeqCst) < 4 {
                    std::thread::yield_now();
                }
                Ok(())
            });
            assert_eq!(all, Ok(()));
        }
        let parked = lock(&pool.shared.queue).parked;
        assert!(parked + pool.shared.looking.load(Ordering::SeqCst) <= 3, "no worker counts twice");
    }

    #[test]
    fn what_is_begun_ahead_is_made_once() {
        for threads in [1, 3] {
            let pool = WorkerPool::new(threads);
            for i in 0..50 {
                let number = pool.ahead(move || i * i);
                // Jobs that come behind it do not wait for it.
                assert_eq!(pool.map(4, |task, _| Ok(task)), Ok(vec![0, 1, 2, 3]));
                assert_eq!(number.get(), Ok(i * i));
            }
            let trap = pool.ahead(|| panic!("ahead")).get().map(|()| 0).expect_err("it panics");
            assert_eq!(trap.code, TrapCode::Panic);
            // Nobody asks for it.
            drop(pool.ahead(|| 1));
        }
    }

    #[test]
    fn what_is_begun_ahead_wakes_a_worker() {
        let pool = WorkerPool::new(2);
        while lock(&pool.shared.queue).parked == 0 {
            std::thread::yield_now();
        }
        let (tell, told) = std::sync::mpsc::channel();
        let begun = pool.ahead(move || tell.send(()).is_ok());
        // Before anybody asks for it, and without another job.
        told.recv_timeout(std::time::Duration::from_secs(60)).expect("a worker that slept began it");
        assert_eq!(begun.get(), Ok(true));
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
