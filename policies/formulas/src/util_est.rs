//! The scheduler's memory of a task's utilisation: `util_est_update()` in `kernel/sched/fair.c` (kernels
//! from 6.8 on, which keep one value). A task that wakes counts at once with what it needed before.

/// `UTIL_EST_MARGIN`: 1 %.
pub const MARGIN: u64 = 1024 / 100;
/// `UTIL_EST_WEIGHT_SHIFT`: a new value counts a quarter.
const SHIFT: u32 = 2;

/// The estimate after the task went to sleep with `dequeued` utilisation and `runnable` average.
pub fn update(estimate: u64, dequeued: u64, runnable: u64) -> u64 {
    if estimate <= dequeued {
        return dequeued;
    }
    let difference = estimate - dequeued;
    // Small differences, and a task that did not get all the time it wanted, change nothing.
    if difference < MARGIN || dequeued + MARGIN < runnable {
        return estimate;
    }
    ((estimate << SHIFT) - difference) >> SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_at_once_and_falls_by_quarters() {
        assert_eq!(update(100, 400, 400), 400);
        // 400 -> 200: 400 - 200 / 4
        assert_eq!(update(400, 200, 200), 350);
    }

    #[test]
    fn noise_and_a_task_that_waited_change_nothing() {
        assert_eq!(update(400, 392, 392), 400);
        assert_eq!(update(400, 200, 300), 400);
    }
}
