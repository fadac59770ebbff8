//! A small fork-join pool: persistent threads, no allocation for a job.
#![expect(unsafe_code, reason = "a job is a borrowed closure that the caller outlives")]

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;

/// `f(thread, item)`.
type Job<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// What is to be done, in one word, so that it is read and claimed as a whole: a number that grows
/// with every job (24 bits), the job's items (20 bits), and the next item nobody has claimed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ticket(u64);

const FIELD: u32 = 20;
const MOST_ITEMS: usize = (1 << FIELD) - 1;

impl Ticket {
    fn new(number: u64, items: usize) -> Self {
        Self((number << (2 * FIELD)) | ((items as u64) << FIELD))
    }

    fn items(self) -> u64 {
        (self.0 >> FIELD) & MOST_ITEMS as u64
    }

    fn next(self) -> u64 {
        self.0 & MOST_ITEMS as u64
    }

    fn has_items(self) -> bool {
        self.next() < self.items()
    }
}

#[derive(Default)]
struct Shared {
    ticket: AtomicU64,
    /// Items of the present job that are done. `run` returns when all are: it never waits for a
    /// worker that has claimed nothing, such as one that the system does not let run.
    done: AtomicUsize,
    job: UnsafeCell<Option<*const Job<'static>>>,
    quit: AtomicBool,
    panicked: AtomicBool,
    sleeping: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written only while all items of the job before are done, and read only by a thread
// that has claimed an item that is not: `Team::run` waits for that item before it writes again.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is only used while `Team::run` keeps the closure alive.
unsafe impl Send for Shared {}

/// Spins this often before it yields, and yields this often before it sleeps.
const SPINS: u32 = 4000;
const YIELDS: u32 = 2000;

impl Shared {
    /// Claims items in order until there are none, and does them.
    fn work(&self, thread: usize) {
        let mut ticket = Ticket(self.ticket.load(Acquire));
        while ticket.has_items() {
            let claim = self.ticket.compare_exchange_weak(ticket.0, ticket.0 + 1, AcqRel, Acquire);
            if let Err(now) = claim {
                ticket = Ticket(now);
                continue;
            }
            // SAFETY: this item is claimed and not done, so the closure is alive and `job` is not
            // written.
            let job = unsafe { (*self.job.get()).map(|f| &*f) };
            if let Some(job) = job {
                let item = ticket.next() as usize;
                if catch_unwind(AssertUnwindSafe(|| job(thread, item))).is_err() {
                    self.panicked.store(true, Relaxed);
                }
            }
            self.done.fetch_add(1, Release);
            ticket = Ticket(self.ticket.load(Acquire));
        }
    }

    fn has_work(&self) -> bool {
        Ticket(self.ticket.load(SeqCst)).has_items()
    }

    fn wait_for_job(&self) {
        for attempt in 0..SPINS + YIELDS {
            if self.has_work() || self.quit.load(Relaxed) {
                return;
            }
            if attempt < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleeping.fetch_add(1, SeqCst);
        while !self.has_work() && !self.quit.load(SeqCst) {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleeping.fetch_sub(1, SeqCst);
    }

    fn wake_sleepers(&self) {
        if self.sleeping.load(SeqCst) > 0 {
            let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.wake.notify_all();
        }
    }
}

/// Persistent workers; the calling thread is number 0.
pub(crate) struct Team {
    shared: Arc<Shared>,
    threads: usize,
    handles: Vec<JoinHandle<()>>,
}

impl Team {
    pub(crate) fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let handles: Vec<_> = (1..threads)
            .map_while(|thread| {
                let shared = Arc::clone(&shared);
                let body = move || {
                    while !shared.quit.load(Relaxed) {
                        shared.wait_for_job();
                        shared.work(thread);
                    }
                };
                std::thread::Builder::new().name(format!("kernels-{thread}")).spawn(body).ok()
            })
            .collect();
        Self { shared, threads: handles.len() + 1, handles }
    }

    /// Calls `f(thread, item)` for every item. Items are claimed in order by whoever is free, so
    /// results must not depend on who runs them.
    pub(crate) fn run(&self, items: usize, f: &Job<'_>) {
        if self.threads == 1 || items <= 1 || items > MOST_ITEMS {
            for item in 0..items {
                f(0, item);
            }
            return;
        }
        let shared = &*self.shared;
        // SAFETY: all items of the job before are done, so nobody reads `job` now. The lifetime is
        // erased, but this function returns only after every item is done.
        unsafe {
            let f = std::mem::transmute::<&Job<'_>, &'static Job<'static>>(f);
            *shared.job.get() = Some(f);
        }
        shared.done.store(0, Relaxed);
        let number = (shared.ticket.load(Relaxed) >> (2 * FIELD)) + 1;
        shared.ticket.store(Ticket::new(number, items).0, SeqCst);
        shared.wake_sleepers();
        shared.work(0);
        let mut spins = 0u32;
        while shared.done.load(Acquire) < items {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        assert!(!shared.panicked.swap(false, Relaxed), "a kernel panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.quit.store(true, SeqCst);
        {
            let _guard = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.wake.notify_all();
        }
        for handle in self.handles.drain(..) {
            let _ = handle.join();
        }
    }
}

static THREADS: AtomicUsize = AtomicUsize::new(0);
static TEAM: Mutex<Option<Team>> = Mutex::new(None);

/// Sets how many threads the kernels of this process use. Results do not depend on it.
///
/// The default is the available parallelism. If two threads of the program run networks at the same
/// time, one of them has the workers and the other runs alone.
pub fn set_threads(threads: usize) {
    THREADS.store(threads.max(1), Relaxed);
}

/// The number of threads the kernels use.
pub fn threads() -> usize {
    match THREADS.load(Relaxed) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

/// Either the process's workers or, if somebody else has them, only the calling thread.
pub(crate) struct Workers(Option<MutexGuard<'static, Option<Team>>>);

impl Workers {
    pub(crate) fn acquire() -> Self {
        let wanted = threads();
        if wanted == 1 {
            return Self(None);
        }
        let mut guard = match TEAM.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Self(None),
        };
        if guard.as_ref().is_none_or(|team| team.threads != wanted) {
            *guard = None;
            *guard = Some(Team::new(wanted));
        }
        Self(Some(guard))
    }

    pub(crate) fn threads(&self) -> usize {
        self.team().map_or(1, |team| team.threads)
    }

    fn team(&self) -> Option<&Team> {
        self.0.as_ref().and_then(|guard| guard.as_ref())
    }

    pub(crate) fn run(&self, items: usize, f: &Job<'_>) {
        match self.team() {
            Some(team) => team.run(items, f),
            None => (0..items).for_each(|item| f(0, item)),
        }
    }
}

// SAFETY: only the closure's shared state crosses threads (`Team::run`); the guard stays on the
// calling thread.
unsafe impl Sync for Workers {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_runs_once() {
        for threads in [1, 2, 5] {
            let team = Team::new(threads);
            for items in [0, 1, 3, 100] {
                let hits: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                team.run(items, &|thread, item| {
                    assert!(thread < threads);
                    hits[item].fetch_add(1, Relaxed);
                });
                assert!(hits.iter().all(|h| h.load(Relaxed) == 1));
            }
        }
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let team = Team::new(3);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let count = AtomicUsize::new(0);
            team.run(10, &|_, _| {
                count.fetch_add(1, Relaxed);
            });
            assert_eq!(count.load(Relaxed), 10);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let team = Team::new(2);
        let caught = catch_unwind(AssertUnwindSafe(|| team.run(8, &|_, item| assert!(item != 5))));
        assert!(caught.is_err());
    }
}
