//! Time, in ns: `CLOCK_MONOTONIC`, which the agent and the kernel use too, and this process's CPU time.

use nix::time::{ClockId, clock_gettime};

/// Now.
pub fn now() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// CPU time of all threads of this process.
pub fn cpu_time() -> u64 {
    read(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

fn read(clock: ClockId) -> u64 {
    let t = clock_gettime(clock).expect("Linux has this clock");
    let part = |x: i64| u64::try_from(x).expect("these clocks start at 0");
    part(t.tv_sec()) * 1_000_000_000 + part(t.tv_nsec())
}
