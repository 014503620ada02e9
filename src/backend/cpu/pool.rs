//! Parallel regions for work of a few microseconds and up.
//!
//! A region is run by the calling thread and by helpers, jobs on a rayon pool. Each of them has a
//! span of the region, takes its chunks one by one and then those that others have left: the same
//! part of each op falls to the same thread, whose caches hold what it wrote for the op before. The
//! caller never waits for a helper that has not started, so a region costs no more than the caller
//! alone would need, and after a region helpers keep looking for the next one for a while before
//! they give their thread back to rayon: the ops of a decode step follow each other faster than a
//! sleeping thread wakes.

use crate::error::{Error, Result};
use std::{
    any::Any,
    cell::UnsafeCell,
    fmt,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Work below this many nanoseconds stays on the calling thread.
const SERIAL: u64 = 8_000;
/// Nanoseconds of work that one claim of a chunk should at least bring.
const CHUNK: u64 = 2_000;
/// How long an idle helper looks for the next region.
const LINGER: Duration = Duration::from_micros(150);

/// Bit of [`Team::state`]: the region takes helpers.
const OPEN: u64 = 1 << 31;
/// Bits of [`Team::state`]: helpers inside the region. The upper half counts regions.
const INSIDE: u64 = OPEN - 1;

/// The threads of one stream.
pub(crate) struct Pool {
    threads: Threads,
    team: Arc<Team>,
}

/// Where helpers come from.
#[derive(Clone, Debug)]
pub(crate) enum Threads {
    /// The rayon pool that the caller is in, or the global one.
    Callers,
    /// None: the calling thread alone.
    Lone,
    /// Workers of the device's own, beside the calling thread.
    Own(Arc<rayon::ThreadPool>),
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

/// What the caller and the helpers share.
struct Team {
    /// Region number, [`OPEN`], helpers inside.
    state: AtomicU64,
    /// The open region; written while it is closed and nobody is inside.
    job: UnsafeCell<Option<Job>>,
    /// Helpers that were asked for and have not left.
    helpers: AtomicUsize,
    /// A region is running: one inside it runs on its own thread.
    busy: AtomicBool,
    /// The first panic of a helper.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written by the caller alone, while the state says closed and empty, and read
// by helpers between entering and leaving; entering and leaving are acquire and release.
unsafe impl Sync for Team {}
// SAFETY: the pointers in `job` lead to `Sync` data.
unsafe impl Send for Team {}

/// A region, its type erased.
#[derive(Clone, Copy)]
struct Job {
    data: *const (),
    run: unsafe fn(*const ()),
}

/// Most spans of a region; more threads share them.
const SPANS: usize = 64;

/// A region: `0..n` in chunks, the chunks in spans.
struct Region<'a, F> {
    /// Chunks of each span that are taken; close together, since a thread looks at all of them.
    taken: [AtomicU32; SPANS],
    spans: usize,
    n: usize,
    chunk: usize,
    f: &'a F,
}

impl<F: Fn(Range<usize>) + Sync> Region<'_, F> {
    /// Takes chunks of span `own`, then of the others.
    fn work(&self, own: usize) {
        let chunks = self.n.div_ceil(self.chunk);
        for i in 0..self.spans {
            let span = (own + i) % self.spans;
            let first = chunks * span / self.spans;
            let count = chunks * (span + 1) / self.spans - first;
            let taken = &self.taken[span];
            while (taken.load(Ordering::Relaxed) as usize) < count {
                let chunk = taken.fetch_add(1, Ordering::Relaxed) as usize;
                if chunk >= count {
                    break;
                }
                let start = (first + chunk) * self.chunk;
                (self.f)(start..(start + self.chunk).min(self.n));
            }
        }
    }

    /// # Safety
    /// `data` points to a region that lives until this returns.
    unsafe fn erased(data: *const ()) {
        // SAFETY: by this function's own condition.
        let region = unsafe { &*data.cast::<Self>() };
        // The first span is the caller's.
        let others = (region.spans - 1).max(1);
        region.work(1 + rayon::current_thread_index().unwrap_or(0) % others);
    }
}

impl Team {
    /// Works on the open region if it is another than `last`; true when there was one.
    fn help(&self, last: &mut u64) -> bool {
        let state = self.state.load(Ordering::Acquire);
        let number = state >> 32;
        if state & OPEN == 0 || number == *last {
            return false;
        }
        if self
            .state
            .compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            return true;
        }
        *last = number;
        // SAFETY: inside an open region, nobody writes `job`.
        if let Some(job) = unsafe { *self.job.get() } {
            // SAFETY: the caller leaves the region only after every helper has.
            let done = catch_unwind(AssertUnwindSafe(|| unsafe { (job.run)(job.data) }));
            if let Err(panic) = done {
                self.panic
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert(panic);
            }
        }
        self.state.fetch_sub(1, Ordering::Release);
        true
    }

    /// A helper's life.
    fn linger(&self) {
        let mut last = 0;
        let mut idle_since = Instant::now();
        let mut rounds = 0u32;
        loop {
            if self.help(&mut last) {
                idle_since = Instant::now();
                rounds = 0;
                continue;
            }
            rounds += 1;
            if rounds.is_multiple_of(64) {
                let idle = idle_since.elapsed();
                if idle > LINGER {
                    break;
                }
                if idle > LINGER / 8 {
                    std::thread::yield_now();
                }
            }
            std::hint::spin_loop();
        }
        self.helpers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends a region: no further helpers, and those inside leave first. Also on a panic of the caller.
struct Close<'a>(&'a Team);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut rounds = 0u32;
        while self.0.state.load(Ordering::Acquire) & INSIDE != 0 {
            rounds += 1;
            if rounds > 4096 {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
        // SAFETY: closed and empty.
        unsafe { *self.0.job.get() = None };
        self.0.busy.store(false, Ordering::Release);
    }
}

impl Pool {
    /// `threads` threads of a device's own, the calling one included; without a number, those of
    /// the caller's rayon pool.
    pub fn open(threads: Option<usize>) -> Result<Threads> {
        match threads {
            None => Ok(Threads::Callers),
            Some(0) => Err(Error::Selection(
                "0 threads; expected 1 or more, or none for rayon's pool".to_owned(),
            )),
            Some(1) => Ok(Threads::Lone),
            Some(n) => rayon::ThreadPoolBuilder::new()
                .num_threads(n - 1)
                .thread_name(|i| format!("gristmill-{}", i + 1))
                .build()
                .map(|pool| Threads::Own(Arc::new(pool)))
                .map_err(|e| Error::backend("cpu", e)),
        }
    }

    pub fn new(threads: Threads) -> Pool {
        Pool {
            threads,
            team: Arc::new(Team {
                state: AtomicU64::new(0),
                job: UnsafeCell::new(None),
                helpers: AtomicUsize::new(0),
                busy: AtomicBool::new(false),
                panic: Mutex::new(None),
            }),
        }
    }

    /// Threads that a region uses at most, the calling one included.
    pub fn threads(&self) -> usize {
        match &self.threads {
            Threads::Callers => rayon::current_num_threads(),
            Threads::Lone => 1,
            Threads::Own(pool) => pool.current_num_threads() + 1,
        }
    }

    /// Runs `f` over `0..n` in ranges, in parallel when the whole work takes more than a few
    /// microseconds. `nanoseconds` is a guess of what one thread would need for all of it.
    /// Results must not depend on how the ranges fall.
    pub fn parallel(&self, n: usize, nanoseconds: u64, f: impl Fn(Range<usize>) + Sync) {
        if n == 0 {
            return;
        }
        if n == 1 || nanoseconds < SERIAL {
            return f(0..n);
        }
        let threads = self.threads();
        let most = usize::try_from(nanoseconds / CHUNK).unwrap_or(usize::MAX);
        let chunks = n.min(most).min(threads * 8).max(1);
        self.chunked(n, n.div_ceil(chunks), threads, f);
    }

    /// Runs `f` over each of `0..n`, one claim each: for tasks that are large and uneven.
    pub fn each(&self, n: usize, f: impl Fn(usize) + Sync) {
        match n {
            0 => {}
            1 => f(0),
            _ => self.chunked(n, 1, self.threads(), |range| range.for_each(&f)),
        }
    }

    fn chunked(&self, n: usize, chunk: usize, threads: usize, f: impl Fn(Range<usize>) + Sync) {
        let helpers = (threads - 1).min(n.div_ceil(chunk) - 1);
        let team = &*self.team;
        if helpers == 0 || team.busy.swap(true, Ordering::Acquire) {
            return f(0..n);
        }
        // So few chunks that 32 bits hold their number times that of spans.
        let chunk = chunk.max(n >> 24);
        let region = Region {
            taken: [const { AtomicU32::new(0) }; SPANS],
            spans: (helpers + 1).min(SPANS),
            n,
            chunk,
            f: &f,
        };
        // SAFETY: `busy` was free, so no region is open and nobody is inside.
        unsafe { *team.job.get() = Some(job_of(&region)) };
        // Never 0, which is what a new helper has seen last.
        let number = ((team.state.load(Ordering::Relaxed) >> 32) as u32)
            .wrapping_add(1)
            .max(1);
        team.state
            .store(u64::from(number) << 32 | OPEN, Ordering::Release);
        let close = Close(team);
        self.call(helpers);
        region.work(0);
        drop(close);
        let panic = team
            .panic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Asks for helpers that are not there yet.
    fn call(&self, helpers: usize) {
        let here = self.team.helpers.load(Ordering::Relaxed);
        for _ in here..helpers {
            self.team.helpers.fetch_add(1, Ordering::Relaxed);
            let team = self.team.clone();
            match &self.threads {
                Threads::Own(pool) => pool.spawn(move || team.linger()),
                _ => rayon::spawn(move || team.linger()),
            }
        }
    }
}

fn job_of<F: Fn(Range<usize>) + Sync>(region: &Region<'_, F>) -> Job {
    Job {
        data: std::ptr::from_ref(region).cast(),
        run: Region::<F>::erased,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(threads: usize) -> Pool {
        Pool::new(Pool::open(Some(threads)).unwrap())
    }

    #[test]
    fn every_index_once() {
        for pool in [pool(1), pool(3), Pool::new(Threads::Callers)] {
            for n in [0, 1, 2, 7, 64, 1000] {
                let seen: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..50 {
                    pool.parallel(n, 1_000_000, |range| {
                        for i in range {
                            seen[i].fetch_add(1, Ordering::Relaxed);
                        }
                    });
                    pool.each(n, |i| {
                        seen[i].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 100));
            }
        }
    }

    #[test]
    fn own_span_first_then_the_others() {
        for (n, chunk, spans, own, order) in [
            (4, 1, 2, 1, vec![2..3, 3..4, 0..1, 1..2]),
            (7, 2, 3, 1, vec![2..4, 4..6, 6..7, 0..2]),
            // More threads than chunks: a span may be empty.
            (2, 1, 3, 2, vec![1..2, 0..1]),
        ] {
            let taken = Mutex::new(Vec::new());
            let region = Region {
                taken: [const { AtomicU32::new(0) }; SPANS],
                spans,
                n,
                chunk,
                f: &|range| taken.lock().unwrap().push(range),
            };
            region.work(own);
            // Nothing is left for a second thread.
            region.work(0);
            assert_eq!(taken.into_inner().unwrap(), order);
        }
    }

    #[test]
    fn nested_and_concurrent_regions() {
        let pool = pool(4);
        let total = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for _ in 0..50 {
                        pool.each(8, |_| {
                            pool.each(4, |_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            })
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 3 * 50 * 32);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = pool(3);
        for bad in 0..16 {
            let done = catch_unwind(AssertUnwindSafe(|| {
                pool.each(16, |i| assert_ne!(i, bad, "expected by this test"));
            }));
            assert!(done.is_err());
        }
        let count = AtomicUsize::new(0);
        pool.each(16, |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 16);
    }

    #[test]
    fn no_threads_is_an_error() {
        assert!(Pool::open(Some(0)).is_err());
    }
}
