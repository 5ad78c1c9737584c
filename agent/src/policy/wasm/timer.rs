//! The clock behind the deadline of a policy call: a thread that asks running guests to look at theirs.
//!
//! While somebody is [`armed`](Timer::armed), `on_quantum` (an epoch increment) runs once per quantum;
//! a guest that is interrupted by it compares *its own thread's CPU time* with its deadline (see
//! `wasm.rs`). So the timer needs no accuracy: quanta that a stalled host missed are skipped (a timerfd
//! that expired ten times is one expiry), a burst of them kills nobody, and neither does another
//! process that takes the CPU away. The only error is that a guest is asked late.
//!
//! Arming is an atomic and, if the timer is not pending from the arming before, one
//! `timerfd_settime`; no thread is woken. Disarming is an atomic. The thread sleeps in `read` until the
//! quantum ends; if nobody is armed then, it does not start another one.

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

#[derive(Debug)]
struct Shared {
    fd: TimerFd,
    quantum: Duration,
    /// How many calls or batches of calls run now.
    armed: AtomicU32,
    /// The timerfd is set and its expiry not yet handled.
    pending: AtomicBool,
    stop: AtomicBool,
    tid: AtomicI32,
}

/// The thread and its timerfd; dropping it ends the thread.
#[derive(Debug)]
pub struct Timer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Shared {
    /// Starts a quantum unless one runs. The swap is what makes two callers, or a caller and the
    /// thread, agree on who starts it.
    fn start_quantum(&self) {
        if !self.pending.swap(true, SeqCst) {
            self.set(self.quantum);
        }
    }

    fn set(&self, after: Duration) {
        let after = Expiration::OneShot(TimeSpec::from_duration(after));
        self.fd.set(after, TimerSetTimeFlags::empty()).expect("a valid time on our own timerfd");
    }

    fn run(&self, on_quantum: impl Fn()) {
        self.tid.store(nix::unistd::gettid().as_raw(), SeqCst);
        loop {
            match self.fd.wait() {
                Ok(()) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => unreachable!("reading our own timerfd: {error}"),
            }
            if self.stop.load(SeqCst) {
                return;
            }
            if self.armed.load(SeqCst) > 0 {
                on_quantum();
            }
            // First give `pending` back, then look at `armed` again: who arms in between either sees
            // `pending` still set, and is seen here, or starts the quantum itself.
            self.pending.store(false, SeqCst);
            if self.armed.load(SeqCst) > 0 {
                self.start_quantum();
            }
        }
    }
}

impl Timer {
    /// Starts the thread. `on_quantum` must be short.
    pub fn new(quantum: Duration, on_quantum: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
        let shared = Arc::new(Shared {
            fd,
            quantum,
            armed: AtomicU32::new(0),
            pending: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            tid: AtomicI32::new(0),
        });
        let theirs = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("policy-timer".into()).spawn(move || theirs.run(on_quantum))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Runs `calls` with the clock on. Nesting is allowed and costs two atomics.
    pub fn armed<R>(&self, calls: impl FnOnce() -> R) -> R {
        /// Also counts down when `calls` panics.
        struct Disarm<'a>(&'a AtomicU32);
        impl Drop for Disarm<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, SeqCst);
            }
        }
        self.shared.armed.fetch_add(1, SeqCst);
        let _disarm = Disarm(&self.shared.armed);
        self.shared.start_quantum();
        calls()
    }

    /// The thread, once it runs.
    pub fn tid(&self) -> Option<i32> {
        Some(self.shared.tid.load(SeqCst)).filter(|&tid| tid != 0)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.set(Duration::from_nanos(1));
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook; nothing is left to do about it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting() -> (Timer, Arc<AtomicU32>) {
        let quanta = Arc::new(AtomicU32::new(0));
        let theirs = Arc::clone(&quanta);
        let timer = Timer::new(Duration::from_micros(200), move || {
            theirs.fetch_add(1, SeqCst);
        });
        (timer.unwrap(), quanta)
    }

    #[test]
    fn quanta_pass_while_armed() {
        let (timer, quanta) = counting();
        timer.armed(|| {
            timer.armed(|| ());
            while quanta.load(SeqCst) < 5 {
                std::hint::spin_loop();
            }
        });
    }

    #[test]
    fn nothing_ticks_while_nobody_is_armed() {
        let (timer, quanta) = counting();
        for _ in 0..50 {
            timer.armed(|| ());
        }
        std::thread::sleep(Duration::from_millis(2));
        let before = quanta.load(SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(quanta.load(SeqCst), before);
        assert!(!timer.shared.pending.load(SeqCst), "the thread sleeps and no quantum runs");
    }

    #[test]
    fn arming_again_after_a_rest_starts_the_clock_again() {
        let (timer, quanta) = counting();
        for round in 1..20 {
            let start = quanta.load(SeqCst);
            timer.armed(|| {
                while quanta.load(SeqCst) == start {
                    std::hint::spin_loop();
                }
            });
            std::thread::sleep(Duration::from_micros(50 * round));
        }
    }

    #[test]
    fn two_armed_threads_and_one_that_leaves_keep_the_clock_on() {
        let (timer, quanta) = counting();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..2_000).for_each(|_| timer.armed(|| ())));
            scope.spawn(|| {
                for _ in 0..20 {
                    let start = quanta.load(SeqCst);
                    timer.armed(|| while quanta.load(SeqCst) == start {});
                }
            });
        });
    }
}
