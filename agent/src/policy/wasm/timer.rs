//! The clock behind the deadline of a policy call: a thread that asks running guests to look at theirs.
//!
//! While somebody is [`armed`](Timer::armed), `on_quantum` (an epoch increment) runs once per quantum;
//! a guest that is interrupted by it compares *its own thread's CPU time* with its deadline (see
//! `wasm.rs`). So the timer needs no accuracy: quanta that a stalled host missed are skipped (a timerfd
//! that expired ten times is one expiry), a burst of them kills nobody, and neither does another
//! process that takes the CPU away. The only error is that a guest is asked late.
//!
//! **Arming costs two atomics, no system call.** Setting a timer is the dear part: on a virtual machine
//! `timerfd_settime` takes 5 us and more, since the clock chip is the hypervisor's; half a tick's whole
//! budget. So once armed the thread stays awake in long rests, in which it does nothing but look whether
//! somebody is armed at that moment; then it changes to quanta until nobody is. When nobody came for
//! [`RESTS`] rests it parks, and the next arming sets the timer. A guest that runs away is thus first
//! asked within a rest, an honest one (microseconds) hardly ever.

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

/// Rests without an arming before the thread parks.
const RESTS: u32 = 25;

/// How the thread sleeps.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two questions to a guest that runs.
    pub quantum: Duration,
    /// Between two looks while calls come and go.
    pub rest: Duration,
}

#[derive(Debug)]
struct Shared {
    fd: TimerFd,
    pace: Pace,
    /// Calls or batches of calls begun and ended; armed is who began and did not end.
    begun: AtomicU64,
    ended: AtomicU64,
    /// The timerfd is set, or the thread is about to set it: it is not parked.
    awake: AtomicBool,
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
    /// Wakes the thread if it is parked. The swap is what makes two callers, or a caller and the
    /// thread, agree on who sets the timer.
    fn wake(&self) {
        if !self.awake.load(SeqCst) && !self.awake.swap(true, SeqCst) {
            self.set(self.pace.quantum);
        }
    }

    fn set(&self, after: Duration) {
        let after = Expiration::OneShot(TimeSpec::from_duration(after));
        self.fd.set(after, TimerSetTimeFlags::empty()).expect("a valid time on our own timerfd");
    }

    /// How many began so far, and whether one of them did not end.
    fn armed(&self) -> (u64, bool) {
        let ended = self.ended.load(SeqCst);
        let begun = self.begun.load(SeqCst);
        (begun, begun != ended)
    }

    fn run(&self, on_quantum: impl Fn()) {
        self.tid.store(nix::unistd::gettid().as_raw(), SeqCst);
        let (mut known, mut idle) = (0, 0);
        loop {
            match self.fd.wait() {
                Ok(()) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => unreachable!("reading our own timerfd: {error}"),
            }
            if self.stop.load(SeqCst) {
                return;
            }
            let (begun, armed) = self.armed();
            if armed {
                on_quantum();
            }
            idle = if armed || begun != known { 0 } else { idle + 1 };
            known = begun;
            if armed {
                self.set(self.pace.quantum);
            } else if idle < RESTS {
                self.set(self.pace.rest);
            } else {
                // First park, then look again: who arms in between either finds the thread parked and
                // wakes it, or is seen here.
                idle = 0;
                self.awake.store(false, SeqCst);
                if self.armed().1 {
                    self.wake();
                }
            }
        }
    }
}

impl Timer {
    /// Starts the thread. `on_quantum` must be short.
    pub fn new(pace: Pace, on_quantum: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
        let shared = Arc::new(Shared {
            fd,
            pace,
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            awake: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            tid: AtomicI32::new(0),
        });
        let theirs = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("policy-timer".into()).spawn(move || theirs.run(on_quantum))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Runs `calls` with the clock on. Nesting is allowed.
    pub fn armed<R>(&self, calls: impl FnOnce() -> R) -> R {
        /// Also ends when `calls` panics.
        struct End<'a>(&'a AtomicU64);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, SeqCst);
            }
        }
        self.shared.begun.fetch_add(1, SeqCst);
        let _end = End(&self.shared.ended);
        self.shared.wake();
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

    fn counting() -> (Timer, Arc<AtomicU64>) {
        let quanta = Arc::new(AtomicU64::new(0));
        let theirs = Arc::clone(&quanta);
        let pace = Pace { quantum: Duration::from_micros(200), rest: Duration::from_millis(1) };
        let timer = Timer::new(pace, move || {
            theirs.fetch_add(1, SeqCst);
        });
        (timer.unwrap(), quanta)
    }

    /// Armed until a quantum passes.
    fn one_quantum(timer: &Timer, quanta: &AtomicU64) {
        let start = quanta.load(SeqCst);
        timer.armed(|| {
            while quanta.load(SeqCst) == start {
                std::hint::spin_loop();
            }
        });
    }

    fn wait_until_parked(timer: &Timer) {
        while timer.shared.awake.load(SeqCst) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn quanta_pass_while_armed_nested_or_not() {
        let (timer, quanta) = counting();
        timer.armed(|| {
            (0..5).for_each(|_| one_quantum(&timer, &quanta));
            let start = quanta.load(SeqCst);
            while quanta.load(SeqCst) < start + 5 {
                std::hint::spin_loop();
            }
        });
    }

    #[test]
    fn nothing_ticks_while_nobody_is_armed_and_the_thread_parks() {
        let (timer, quanta) = counting();
        one_quantum(&timer, &quanta);
        let after = quanta.load(SeqCst);
        wait_until_parked(&timer);
        // One expiry may have met the end of the arming.
        assert!(quanta.load(SeqCst) <= after + 1);
    }

    #[test]
    fn arming_wakes_a_parked_thread_and_a_resting_one() {
        let (timer, quanta) = counting();
        for _ in 0..3 {
            one_quantum(&timer, &quanta);
            std::thread::sleep(Duration::from_millis(3));
            one_quantum(&timer, &quanta);
            wait_until_parked(&timer);
        }
    }

    #[test]
    fn threads_that_come_and_go_leave_the_clock_on_for_one_that_stays() {
        let (timer, quanta) = counting();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..200_000).for_each(|_| timer.armed(|| ())));
            scope.spawn(|| (0..20).for_each(|_| one_quantum(&timer, &quanta)));
        });
    }
}
