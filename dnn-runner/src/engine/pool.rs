//! Threads that share one inference's work.
//!
//! Responsible for: handing tasks of a job to the caller and a few helpers, `threads` of them as each
//! inference says. Not responsible for: what a task is.
//!
//! Tasks are claimed one by one, and the caller waits for claimed tasks only: a helper that the kernel
//! has not scheduled costs nothing. Between the jobs of one inference helpers wait awake for a moment,
//! since they are microseconds apart, but give the core away all the time: the first `sched_yield` that
//! lets somebody else run tells that others want the core, and from then on, until the inference ends,
//! helpers sleep. Between inferences they sleep too, unless the last one followed its predecessor at once:
//! then the next is expected as soon, and they wait for it awake, under the same rules (waking a helper costs
//! tens of microseconds, a tenth of a small network's time).
//!
//! The kernel likes to wake a helper on the waker's own CPU, where it waits for milliseconds: an inference on
//! two threads is then no faster than on one. So helpers are kept off the CPU that their caller is on, within
//! the caller's own affinity.
#![expect(unsafe_code, reason = "a job lies on its caller's stack, and helpers get a pointer to it")]

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::{Pid, gettid};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Tasks of a job at most.
pub(crate) const TASKS_MAX: usize = 4095;
/// A yield that takes longer let somebody else run: a system call alone takes a tenth.
const SOMEBODY_ELSE: Duration = Duration::from_micros(5);
/// How often a waiting thread looks before it yields.
const LOOKS: u32 = 64;
/// How long a helper waits awake for the next job of an inference, or for the next inference.
const AWAKE: Duration = Duration::from_micros(200);

/// What is done: with the task's number and the thread's (0 is the caller).
type Work<'a> = dyn Fn(usize, usize) + Sync + 'a;

struct Job<'a> {
    work: &'a Work<'a>,
    done: AtomicUsize,
}

#[derive(Debug)]
struct Shared {
    /// The job on offer: epoch (40 bits), its tasks (12), the next unclaimed (12).
    offer: AtomicU64,
    /// That job. Changes only while no task is on offer, so whoever claims a task has its job.
    job: AtomicPtr<()>,
    /// Threads of the inference under way, 0 between two.
    threads: AtomicUsize,
    /// Between two: threads that wait awake for the next.
    expected: AtomicUsize,
    /// Whether somebody else wants the cores.
    wanted: AtomicBool,
    quit: AtomicBool,
}

#[derive(Debug)]
struct Helper {
    asleep: Arc<AtomicBool>,
    /// Its thread's number; 0 until it runs.
    tid: Arc<AtomicI32>,
    thread: JoinHandle<()>,
}

/// The helpers.
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<Helper>,
    epoch: u64,
    /// When the last inference ended.
    ended: Option<Instant>,
    /// Whether the one under way followed at once.
    at_once: bool,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("helpers", &self.helpers.len()).finish_non_exhaustive()
    }
}

impl Pool {
    /// For up to `threads` threads, the caller's included.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            offer: AtomicU64::new(0),
            job: AtomicPtr::default(),
            threads: AtomicUsize::new(0),
            expected: AtomicUsize::new(0),
            wanted: AtomicBool::new(false),
            quit: AtomicBool::new(false),
        });
        let mut helpers = Vec::new();
        for who in 1..threads.max(1) {
            let (shared, asleep) = (Arc::clone(&shared), Arc::new(AtomicBool::new(false)));
            let theirs = Arc::clone(&asleep);
            let tid = Arc::new(AtomicI32::new(0));
            let tell = Arc::clone(&tid);
            let life = move || {
                tell.store(gettid().as_raw(), SeqCst);
                shared.help(who, &theirs);
            };
            let thread = std::thread::Builder::new().name(format!("dnn-{who}")).spawn(life)?;
            helpers.push(Helper { asleep, tid, thread });
        }
        Ok(Self { shared, helpers, epoch: 0, ended: None, at_once: false })
    }

    /// The most threads an inference can use.
    pub fn threads_max(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Begins an inference on `threads` threads; ends with [`Self::end`].
    pub fn begin(&mut self, threads: usize) {
        let threads = threads.clamp(1, self.threads_max());
        self.at_once = self.ended.is_some_and(|ended| ended.elapsed() < AWAKE);
        self.shared.wanted.store(false, SeqCst);
        self.shared.threads.store(if threads > 1 { threads } else { 0 }, SeqCst);
        if threads > 1 {
            self.keep_off(threads);
        }
        self.wake(threads);
    }

    /// Keeps helpers off the CPU that this thread is on. Asks the kernel each time, since the agent too sets where
    /// threads may run.
    fn keep_off(&self, threads: usize) {
        let Ok(here) = sched_getcpu() else { return };
        for helper in &self.helpers[..threads - 1] {
            let tid = Pid::from_raw(helper.tid.load(SeqCst));
            let on_it = |set: CpuSet| set.is_set(here).unwrap_or(false);
            if tid.as_raw() == 0 || !sched_getaffinity(tid).is_ok_and(on_it) {
                continue;
            }
            let Ok(mut others) = sched_getaffinity(Pid::from_raw(0)) else { continue };
            let some = others.unset(here).is_ok()
                && (0..CpuSet::count()).any(|cpu| others.is_set(cpu).unwrap_or(false));
            if some {
                // If it cannot be, it is only slower.
                let _ = sched_setaffinity(tid, &others);
            }
        }
    }

    /// Lets the helpers sleep, or wait for the next inference if it is expected at once.
    pub fn end(&mut self) {
        let threads = self.shared.threads.swap(0, SeqCst);
        self.shared.expected.store(if self.at_once { threads } else { 0 }, SeqCst);
        self.ended = Some(Instant::now());
    }

    fn wake(&self, threads: usize) {
        for helper in &self.helpers[..threads - 1] {
            if helper.asleep.swap(false, SeqCst) {
                helper.thread.thread().unpark();
            }
        }
    }

    /// Does tasks `0..tasks` (at most [`TASKS_MAX`]), calling `between` after each of the caller's own.
    pub fn run(&mut self, tasks: usize, work: &Work<'_>, between: &mut dyn FnMut()) {
        let threads = self.shared.threads.load(SeqCst);
        if threads < 2 || tasks < 2 {
            for task in 0..tasks {
                work(task, 0);
                between();
            }
            return;
        }
        assert!(tasks <= TASKS_MAX, "a job of {tasks} tasks");
        let job = Job { work, done: AtomicUsize::new(0) };
        self.epoch += 1;
        // Nothing is on offer here: the last job's tasks are all claimed, and done.
        self.shared.job.store((&raw const job).cast_mut().cast(), SeqCst);
        self.shared.offer.store(self.epoch << 24 | (tasks as u64) << 12, SeqCst);
        self.wake(threads);
        while self.shared.claim_and_do(0) {
            between();
        }
        // Helpers are in their last tasks; none can claim another, and the job lives until they are done.
        let mut looks = 0;
        while job.done.load(SeqCst) < tasks {
            looks += 1;
            if looks % LOOKS == 0 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.quit.store(true, SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread.thread().unpark();
            // A helper that panicked has said so on standard error.
            let _ = helper.thread.join();
        }
    }
}

impl Shared {
    /// Whether there was a task to do.
    fn claim_and_do(&self, who: usize) -> bool {
        loop {
            let offer = self.offer.load(SeqCst);
            let (tasks, next) = ((offer >> 12) & 0xfff, offer & 0xfff);
            if next >= tasks {
                return false;
            }
            let job = self.job.load(SeqCst);
            if self.offer.compare_exchange(offer, offer + 1, SeqCst, SeqCst).is_err() {
                continue;
            }
            // SAFETY: `offer` did not change between its load and the exchange (its epoch never comes
            // again), and `job` changes only when nothing is on offer: this is the offer's job. Its caller
            // waits for this task to be counted as done, so it lives until the last line here.
            let job = unsafe { &*job.cast::<Job<'_>>() };
            (job.work)(usize::try_from(next).expect("twelve bits"), who);
            job.done.fetch_add(1, SeqCst);
            return true;
        }
    }

    /// A helper's life.
    fn help(&self, who: usize, asleep: &AtomicBool) {
        let mut since = Instant::now();
        let mut looks = 0_u32;
        while !self.quit.load(SeqCst) {
            let mine = who < self.threads.load(SeqCst);
            if mine && self.claim_and_do(who) {
                (since, looks) = (Instant::now(), 0);
                continue;
            }
            looks += 1;
            let awaited = mine || who < self.expected.load(SeqCst);
            if awaited && looks < LOOKS {
                std::hint::spin_loop();
                continue;
            }
            if awaited && !self.wanted.load(SeqCst) && since.elapsed() < AWAKE {
                let before = Instant::now();
                std::thread::yield_now();
                if before.elapsed() > SOMEBODY_ELSE {
                    self.wanted.store(true, SeqCst);
                }
                looks = 0;
                continue;
            }
            asleep.store(true, SeqCst);
            // Offered meanwhile: the caller may have looked at `asleep` before it was set.
            let offer = self.offer.load(SeqCst);
            if (offer & 0xfff) < (offer >> 12 & 0xfff) && who < self.threads.load(SeqCst)
                || self.quit.load(SeqCst)
            {
                asleep.store(false, SeqCst);
                continue;
            }
            std::thread::park();
            asleep.store(false, SeqCst);
            (since, looks) = (Instant::now(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once_on_any_number_of_threads() {
        for threads in 1..=4 {
            let mut pool = Pool::new(threads).unwrap();
            for round in 0..2000 {
                let tasks = round % 70;
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                let mut between = 0;
                pool.begin(1 + round % threads);
                for _ in 0..3 {
                    let work = |task: usize, who: usize| {
                        assert!(who < threads);
                        counts[task].fetch_add(1, SeqCst);
                    };
                    pool.run(tasks, &work, &mut || between += 1);
                }
                pool.end();
                assert!(counts.iter().all(|c| c.load(SeqCst) == 3));
                assert!(between <= 3 * tasks);
            }
        }
    }

    #[test]
    fn helpers_are_kept_off_their_callers_cpu_and_within_its_affinity() {
        let all = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let cpus: Vec<usize> = (0..CpuSet::count()).filter(|c| all.is_set(*c).unwrap()).collect();
        if cpus.len() < 2 {
            println!("skipped: needs two CPUs");
            return;
        }
        let mut pool = Pool::new(2).unwrap();
        let patience = Instant::now();
        while pool.helpers[0].tid.load(SeqCst) == 0 && patience.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let theirs =
            |pool: &Pool| sched_getaffinity(Pid::from_raw(pool.helpers[0].tid.load(SeqCst))).unwrap();
        let bind = |cpus: &[usize]| {
            let mut set = CpuSet::new();
            cpus.iter().for_each(|cpu| set.set(*cpu).unwrap());
            sched_setaffinity(Pid::from_raw(0), &set).unwrap();
        };
        // The second time around the helper was given all CPUs by somebody else.
        for _ in 0..2 {
            // This thread may be moved between the look and the inference, but hardly each time.
            let kept_off = (0..100).any(|_| {
                let here = sched_getcpu().unwrap();
                pool.begin(2);
                pool.end();
                let mut expected = all;
                expected.unset(here).unwrap();
                theirs(&pool) == expected
            });
            assert!(kept_off);
            sched_setaffinity(Pid::from_raw(pool.helpers[0].tid.load(SeqCst)), &all).unwrap();
        }
        // Bound to one CPU, there is no other to go to.
        bind(&cpus[1..2]);
        pool.begin(2);
        assert_eq!(theirs(&pool), all);
        pool.end();
        bind(&cpus);
    }

    #[test]
    fn helpers_wait_awake_for_an_inference_that_is_expected_at_once() {
        let mut pool = Pool::new(2).unwrap();
        let mut infer = |after: Duration| {
            let since = Instant::now();
            while since.elapsed() < after {}
            pool.begin(2);
            pool.run(8, &|_, _| {}, &mut || {});
            pool.end();
            pool.shared.expected.load(SeqCst)
        };
        assert_eq!(infer(Duration::ZERO), 0, "the first");
        // A stall of this machine may make it late; not every time.
        assert!((0..100).any(|_| infer(Duration::ZERO) == 2), "one that followed at once");
        assert_eq!(infer(AWAKE), 0, "one that came later");
    }

    #[test]
    fn helpers_sleep_between_inferences_and_when_others_want_the_core() {
        let mut pool = Pool::new(2).unwrap();
        pool.begin(2);
        pool.run(8, &|_, _| {}, &mut || {});
        pool.end();
        let asleep = |pool: &Pool| pool.helpers[0].asleep.load(SeqCst);
        let patience = Instant::now();
        while !asleep(&pool) && patience.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(asleep(&pool), "awake after the inference");
        pool.begin(2);
        pool.shared.wanted.store(true, SeqCst);
        let patience = Instant::now();
        while !asleep(&pool) && patience.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(asleep(&pool), "awake although somebody else wants the core");
    }
}
