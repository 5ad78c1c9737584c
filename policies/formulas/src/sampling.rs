//! The load of the sampling governors, ondemand and conservative: `dbs_update()` in
//! `drivers/cpufreq/cpufreq_governor.c`, for one CPU.

/// What it remembers of one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampler {
    previous: u8,
}

/// One look at a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// 0..=100
    pub load: u8,
    /// Whole sampling periods it slept through; `None`: it did not.
    pub idle_periods: Option<u64>,
}

impl Sampler {
    /// From the time since the last look and how much of it was idle.
    ///
    /// A CPU that slept for more than two periods wakes with a load that says little: the load before is
    /// taken once more ("copy the previous load over"), so that a task that comes back starts fast.
    pub fn look(&mut self, wall_ns: u64, idle_ns: u64, period_ns: u64) -> Sample {
        let slept = idle_ns > period_ns.saturating_mul(2);
        let load = if slept && self.previous > 0 {
            std::mem::take(&mut self.previous)
        } else {
            let busy = wall_ns.saturating_sub(idle_ns);
            let load = u8::try_from(crate::mul_div(100, busy, wall_ns)).unwrap_or(100).min(100);
            self.previous = load;
            load
        };
        Sample { load, idle_periods: slept.then(|| idle_ns / period_ns.max(1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_the_busy_share() {
        let mut s = Sampler::default();
        assert_eq!(s.look(8_000, 2_000, 8_000), Sample { load: 75, idle_periods: None });
        assert_eq!(s.look(0, 0, 8_000).load, 0);
    }

    #[test]
    fn after_a_long_sleep_the_load_before_counts_once() {
        let mut s = Sampler::default();
        s.look(8_000, 800, 8_000);
        assert_eq!(s.look(40_000, 32_000, 8_000), Sample { load: 90, idle_periods: Some(4) });
        assert_eq!(s.look(40_000, 32_000, 8_000), Sample { load: 20, idle_periods: Some(4) });
    }
}
