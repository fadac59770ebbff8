//! A small fork-join pool: persistent threads, no allocation for a job.
#![expect(unsafe_code, reason = "a job is a borrowed closure that the caller outlives")]

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;

/// `f(thread, item)`.
type Job<'a> = dyn Fn(usize, usize) + Sync + 'a;

#[derive(Default)]
struct Shared {
    /// Number of jobs started so far; workers wait for it to change.
    epoch: AtomicUsize,
    next: AtomicUsize,
    busy: AtomicUsize,
    items: AtomicUsize,
    job: UnsafeCell<Option<*const Job<'static>>>,
    quit: AtomicBool,
    panicked: AtomicBool,
    sleeping: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written only while no worker runs (before `epoch` changes), and read only after
// that change.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is only used by workers while `Team::run` keeps the closure alive.
unsafe impl Send for Shared {}

/// Spins this often before it yields, and yields this often before it sleeps.
const SPINS: u32 = 4000;
const YIELDS: u32 = 2000;

impl Shared {
    fn work(&self, thread: usize) {
        // SAFETY: set by `run` before the epoch changed; the closure lives until every worker has
        // finished.
        let job = unsafe { (*self.job.get()).map(|f| &*f) };
        let items = self.items.load(Relaxed);
        let Some(job) = job else { return };
        loop {
            let item = self.next.fetch_add(1, AcqRel);
            if item >= items {
                break;
            }
            job(thread, item);
        }
    }

    fn wait_for_job(&self, seen: usize) {
        for attempt in 0..SPINS + YIELDS {
            if self.epoch.load(Acquire) != seen || self.quit.load(Relaxed) {
                return;
            }
            if attempt < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleeping.fetch_add(1, SeqCst);
        while self.epoch.load(SeqCst) == seen && !self.quit.load(SeqCst) {
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
                    let mut seen = 0;
                    loop {
                        shared.wait_for_job(seen);
                        if shared.quit.load(Relaxed) {
                            return;
                        }
                        seen += 1;
                        if catch_unwind(AssertUnwindSafe(|| shared.work(thread))).is_err() {
                            shared.panicked.store(true, Relaxed);
                        }
                        shared.busy.fetch_sub(1, AcqRel);
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
        if self.threads == 1 || items <= 1 {
            for item in 0..items {
                f(0, item);
            }
            return;
        }
        let shared = &*self.shared;
        // SAFETY: no worker runs now. The lifetime is erased, but this function returns (or
        // unwinds) only after every worker has left the closure.
        unsafe {
            let f = std::mem::transmute::<&Job<'_>, &'static Job<'static>>(f);
            *shared.job.get() = Some(f);
        }
        shared.items.store(items, Relaxed);
        shared.next.store(0, Relaxed);
        shared.busy.store(self.threads - 1, Relaxed);
        shared.epoch.fetch_add(1, SeqCst);
        shared.wake_sleepers();
        let own = catch_unwind(AssertUnwindSafe(|| shared.work(0)));
        let mut spins = 0u32;
        while shared.busy.load(Acquire) != 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        if let Err(panic) = own {
            std::panic::resume_unwind(panic);
        }
        assert!(!shared.panicked.swap(false, Relaxed), "a kernel worker panicked");
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
