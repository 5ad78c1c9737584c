//! One CPU as the kernel's governors see it: PELT's averages, the tasks' remembered utilisation, idle time.
//!
//! Follows `kernel/sched/fair.c` and `pelt.h` of Linux 6.12. An idle CPU's average is brought up to date
//! whenever somebody looks; in the kernel that can lag until the next balancing.

use formulas::pelt::{Clock, Signal};
use formulas::util_est;

/// A task's own averages and what it is remembered to need.
#[derive(Clone, Copy, Debug, Default)]
pub struct Task {
    util: Signal,
    runnable: Signal,
    /// What the averages were when it was enqueued or at the last tick since.
    seen: [u64; 2],
    estimate: u64,
}

/// A CPU.
#[derive(Clone, Debug, Default)]
pub struct RunQueue {
    clock: Clock,
    util: Signal,
    runnable: Signal,
    /// Sum of the estimates of the tasks that are runnable.
    estimate: u64,
    /// Runnable tasks.
    tasks: u32,
    idle_ns: u64,
}

impl RunQueue {
    /// Time passed with the tasks as they are, at `scale` of 1024 of the CPU's full speed. Answers the time
    /// that PELT counts, for the tasks' own averages.
    pub fn advance(&mut self, delta_ns: u64, scale: u64) -> u64 {
        let counted = if self.tasks > 0 {
            self.clock.running(delta_ns, scale)
        } else {
            self.idle_ns += delta_ns;
            self.clock.idle(delta_ns)
        };
        self.util.add(counted, if self.tasks > 0 { 1024 } else { 0 });
        self.runnable.add(counted, u64::from(self.tasks) * 1024);
        counted
    }

    /// A task wakes here.
    pub fn enqueue(&mut self, task: &mut Task) {
        task.tick();
        self.tasks += 1;
        self.estimate += task.estimate;
    }

    /// A runnable task goes to another CPU.
    pub fn leave(&mut self, task: &Task) {
        self.tasks = self.tasks.saturating_sub(1);
        self.estimate = self.estimate.saturating_sub(task.estimate);
    }

    /// Time passed for who asks for idle time only.
    pub fn rest(&mut self, delta_ns: u64) {
        self.idle_ns += if self.tasks > 0 { 0 } else { delta_ns };
    }

    /// A task goes to sleep. Its estimate is made before its averages are brought up to date: from what the last
    /// tick saw (`dequeue_task_fair()` of 6.12).
    pub fn dequeue(&mut self, task: &mut Task) {
        self.tasks = self.tasks.saturating_sub(1);
        self.estimate = self.estimate.saturating_sub(task.estimate);
        task.estimate = util_est::update(task.estimate, task.seen[0], task.seen[1]);
        if self.tasks == 0 {
            self.clock.stops(self.util.saturated());
        }
    }

    /// What schedutil takes: `cpu_util_cfs_boost()`, the most of running average, runnable average and the
    /// estimate of who is here.
    pub fn utilisation(&self) -> u64 {
        self.util.average().max(self.runnable.average()).max(self.estimate).min(1024)
    }

    /// Idle time since last asked, within a window.
    pub fn take_idle(&mut self, window_ns: u64) -> u64 {
        std::mem::take(&mut self.idle_ns).min(window_ns)
    }

    /// Runnable tasks.
    pub fn busy(&self) -> bool {
        self.tasks > 0
    }
}

impl Task {
    /// The scheduler's tick, or a wake-up, looks at it.
    pub fn tick(&mut self) {
        self.seen = [self.util.average(), self.runnable.average()];
    }

    /// PELT's time passed for it: on a CPU for `share` of 1024 of it if it is runnable.
    pub fn advance(&mut self, counted_ns: u64, share: u64, runnable: bool) {
        self.util.add(counted_ns, if runnable { share } else { 0 });
        self.runnable.add(counted_ns, if runnable { 1024 } else { 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task that runs for `run_ns` of each `period_ns` at a fixed scale; the highest and lowest utilisation of the last
    /// period.
    fn periodic(run_ns: u64, period_ns: u64, scale: u64) -> (u64, u64) {
        let (mut cpu, mut task) = (RunQueue::default(), Task::default());
        let mut seen = (0, 1024);
        for i in 0..100 {
            cpu.enqueue(&mut task);
            let counted = cpu.advance(run_ns, scale);
            task.advance(counted, 1024, true);
            let high = cpu.utilisation();
            cpu.dequeue(&mut task);
            let counted = cpu.advance(period_ns - run_ns, scale);
            task.advance(counted, 1024, false);
            if i == 99 {
                seen = (high, cpu.utilisation());
            }
        }
        seen
    }

    #[test]
    fn half_load_swings_around_a_half() {
        let (high, low) = periodic(16_000_000, 32_000_000, 1024);
        // Running 16 ms multiplies what is missing by y^15.26 = 0.718: 1024 * (1 - 0.718) / (1 - 0.718^2) = 596.
        assert!((590..=602).contains(&high), "{high}");
        assert!((420..=434).contains(&low), "{low}");
    }

    #[test]
    fn the_same_work_at_half_speed_makes_about_the_same_utilisation() {
        let (fast, _) = periodic(8_000_000, 33_000_000, 1024);
        let (slow, _) = periodic(16_000_000, 33_000_000, 512);
        assert!(fast.abs_diff(slow) < 12, "{fast} {slow}");
    }

    #[test]
    fn a_task_that_wakes_counts_with_what_it_needed_before() {
        let (mut cpu, mut task) = (RunQueue::default(), Task::default());
        cpu.enqueue(&mut task);
        let counted = cpu.advance(100_000_000, 1024);
        task.advance(counted, 1024, true);
        task.tick();
        cpu.dequeue(&mut task);
        cpu.advance(200_000_000, 1024);
        assert!(cpu.utilisation() < 20);
        cpu.enqueue(&mut task);
        assert!(cpu.utilisation() > 850, "{}", cpu.utilisation());
    }

    #[test]
    fn two_that_want_one_cpu_are_seen() {
        let mut cpu = RunQueue::default();
        cpu.enqueue(&mut Task::default());
        cpu.enqueue(&mut Task::default());
        cpu.advance(20_000_000, 1024);
        // 20 ms: 1 - y^19 = 0.34 of 2048.
        assert!((640..720).contains(&cpu.utilisation()), "{}", cpu.utilisation());
    }
}
