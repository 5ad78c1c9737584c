//! PELT, per-entity load tracking: an average whose periods of 1024 us decay so that `y^32 = 0.5`
//! (`kernel/sched/pelt.c`, `kernel/sched/sched-pelt.h`, `Documentation/scheduler/schedutil.rst`).
//!
//! [`Average`] folds a window with one utilisation in at once, `avg' = u + (avg - u) * y^n`: for a policy
//! that sees windows. [`Signal`] is the kernel's own sum with its part periods, and [`Clock`] the time it
//! counts: for a simulated machine.

use crate::mul_div;

/// Length of a period, ns: 1024 us.
pub const PERIOD_NS: u64 = 1024 * 1000;
/// Periods to half: `LOAD_AVG_PERIOD`.
pub const HALF: u64 = 32;

/// `2^32 * y^n` for n < 32 (`runnable_avg_yN_inv`).
const Y_N: [u32; 32] = [
    0xffff_ffff,
    0xfa83_b2da,
    0xf525_7d14,
    0xefe4_b99a,
    0xeac0_c6e6,
    0xe5b9_06e6,
    0xe0cc_deeb,
    0xdbfb_b796,
    0xd744_fcc9,
    0xd2a8_1d91,
    0xce24_8c14,
    0xc9b9_bd85,
    0xc567_2a10,
    0xc12c_4cc9,
    0xbd08_a39e,
    0xb8fb_af46,
    0xb504_f333,
    0xb123_f581,
    0xad58_3ee9,
    0xa9a1_5ab4,
    0xa5fe_d6a9,
    0xa270_4302,
    0x9ef5_325f,
    0x9b8d_39b9,
    0x9837_f050,
    0x94f4_efa8,
    0x91c3_d373,
    0x8ea4_398a,
    0x8b95_c1e3,
    0x8898_0e80,
    0x85aa_c367,
    0x82cd_8698,
];

/// `value * y^n`, as `decay_load()`.
pub fn decay(value: u64, n: u64) -> u64 {
    let halvings = n / HALF;
    if halvings > 63 {
        return 0;
    }
    let index = usize::try_from(n % HALF).unwrap_or(0);
    u64::try_from((u128::from(value >> halvings) * u128::from(Y_N[index])) >> 32).unwrap_or(u64::MAX)
}

/// The average of one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Average {
    /// In 2^-10 of the util scale, so that decay does not stick at small differences.
    fine: u64,
    /// Time not yet folded in, ns: less than a period.
    rest_ns: u64,
}

impl Average {
    /// As if it had been that busy for long: where a tracker starts in the middle of things.
    pub fn starting_at(util: u16) -> Self {
        Self { fine: u64::from(util.min(1024)) << 10, rest_ns: 0 }
    }

    /// Folds in a window of that utilisation, and answers the average, 0..=1024.
    pub fn add(&mut self, util: u16, window_ns: u64) -> u16 {
        let time = self.rest_ns.saturating_add(window_ns);
        let n = time / PERIOD_NS;
        self.rest_ns = time % PERIOD_NS;
        let to = u64::from(util.min(1024)) << 10;
        self.fine =
            if self.fine > to { to + decay(self.fine - to, n) } else { to - decay(to - self.fine, n) };
        self.value()
    }

    /// 0..=1024, rounded.
    pub fn value(&self) -> u16 {
        u16::try_from((self.fine + 512) >> 10).unwrap_or(1024)
    }
}

/// `LOAD_AVG_MAX`: what a signal that is always on sums to.
const SUM_MAX: u64 = 47742;

/// A sum of `accumulate_sum()`: what `util_sum`, `runnable_sum` of a run queue or a task are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signal {
    sum: u64,
    /// `period_contrib`: units of 1024 ns in the period that is not over.
    contrib: u64,
    /// Time below one unit, ns.
    rest_ns: u64,
}

impl Signal {
    /// Adds time at a level: 1024 = running all of it, 0 = not, 2048 = two runnable.
    pub fn add(&mut self, delta_ns: u64, level: u64) {
        let time = self.rest_ns + delta_ns;
        let delta = time >> 10;
        self.rest_ns = time & 1023;
        if delta == 0 {
            return;
        }
        let total = delta + self.contrib;
        let periods = total / 1024;
        let part = total % 1024;
        if periods == 0 {
            self.sum += delta * level;
        } else {
            // `__accumulate_pelt_segments`: the end of the old period, whole ones, the begun one.
            let first = decay(1024 - self.contrib, periods);
            let whole = SUM_MAX - decay(SUM_MAX, periods) - 1024;
            self.sum = decay(self.sum, periods) + (first + whole + part) * level;
        }
        self.contrib = part;
    }

    /// `util_avg`: the sum against what the present period allows (`get_pelt_divider`).
    pub fn average(&self) -> u64 {
        self.sum / (SUM_MAX - 1024 + self.contrib)
    }

    /// Whether it has been on for so long that no idle time can be seen in it
    /// (`update_idle_rq_clock_pelt`).
    pub fn saturated(&self) -> bool {
        self.sum >= ((SUM_MAX - 1024) << 10) - SUM_MAX
    }
}

/// PELT's time of one CPU, `update_rq_clock_pelt()` in `kernel/sched/pelt.h`: slower while the CPU runs
/// below its full speed, so that the same work makes the same utilisation, and caught up while it idles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    behind_ns: u64,
}

impl Clock {
    /// The CPU ran for that long at `scale` of 1024 of its full speed (1024 where the kernel is not
    /// frequency-invariant). Answers the time that the signals count.
    pub fn running(&mut self, delta_ns: u64, scale: u64) -> u64 {
        let counted = mul_div(delta_ns, scale.min(1024), 1024);
        self.behind_ns += delta_ns - counted;
        counted
    }

    /// The CPU falls idle: what a saturated one is behind is lost, for it hides no idle time.
    pub fn stops(&mut self, saturated: bool) {
        if saturated {
            self.behind_ns = 0;
        }
    }

    /// The CPU was idle for that long.
    pub fn idle(&mut self, delta_ns: u64) -> u64 {
        delta_ns + std::mem::take(&mut self.behind_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_the_powers_of_y() {
        // Documentation/scheduler/sched-pelt.c: ((1UL << 32) - 1) * pow(y, n)
        for (n, entry) in Y_N.iter().enumerate() {
            let exact = f64::from(u32::MAX) * 0.5f64.powf(n as f64 / 32.0);
            assert!((f64::from(*entry) - exact).abs() < 1.0, "y^{n}: {entry} for {exact}");
        }
    }

    #[test]
    fn half_is_forgotten_in_32_periods() {
        assert_eq!(decay(1024, 32), 511); // 512 * 0xffffffff >> 32: the table's first entry is no full 1
        assert_eq!(decay(1 << 20, 64), (1 << 18) - 1);
        assert_eq!(decay(u64::MAX, 64 * 32), 0);
    }

    #[test]
    fn busy_from_idle_follows_one_minus_y_to_the_n() {
        // schedutil.rst: the newest 32 ms weigh a half. 32 periods = 32.768 ms: 1024 * (1 - 0.5) = 512.
        let mut a = Average::default();
        assert_eq!(a.add(1024, 32 * PERIOD_NS), 512);
        // 64 periods: 1024 * (1 - 0.25) = 768
        assert_eq!(a.add(1024, 32 * PERIOD_NS), 768);
    }

    #[test]
    fn many_short_windows_are_one_long_one() {
        let (mut short, mut long) = (Average::default(), Average::default());
        for _ in 0..100 {
            short.add(700, 500_000);
        }
        long.add(700, 50_000_000);
        assert!(short.value().abs_diff(long.value()) <= 1, "{short:?} {long:?}");
    }

    #[test]
    fn a_constant_is_reached_exactly() {
        let mut a = Average::default();
        for _ in 0..200 {
            a.add(613, 10_000_000);
        }
        assert_eq!(a.value(), 613);
        for _ in 0..200 {
            a.add(0, 10_000_000);
        }
        assert_eq!(a.value(), 0);
    }

    #[test]
    fn a_signal_that_is_always_on_reaches_1024_and_is_saturated() {
        let mut s = Signal::default();
        s.add(1_000_000_000, 1024);
        assert!((1022..=1024).contains(&s.average()), "{}", s.average());
        assert!(s.saturated());
    }

    #[test]
    fn a_signal_follows_one_minus_y_to_the_n_and_decays_by_half() {
        // The kernel's microsecond has 1024 ns. 32 periods from nothing: 512; 32 more without: 256.
        let period = 1024 * 1024;
        let mut s = Signal::default();
        s.add(32 * period, 1024);
        assert_eq!(s.average(), 512);
        let before = s.average();
        s.add(32 * period, 0);
        assert!(s.average().abs_diff(before / 2) <= 2, "{}", s.average());
    }

    #[test]
    fn part_periods_add_up_to_whole_ones() {
        let (mut parts, mut whole) = (Signal::default(), Signal::default());
        for _ in 0..1000 {
            parts.add(77_777, 1024);
        }
        whole.add(77_777_000, 1024);
        assert!(parts.average().abs_diff(whole.average()) <= 2, "{parts:?} {whole:?}");
    }

    #[test]
    fn half_speed_counts_half_the_time_and_catches_up_while_idle() {
        // The same work at half speed: 10 ms that count 5, then the idle time counts the other 5.
        let mut c = Clock::default();
        assert_eq!(c.running(10_000_000, 512), 5_000_000);
        c.stops(false);
        assert_eq!(c.idle(1_000_000), 6_000_000);
        assert_eq!(c.idle(1_000_000), 1_000_000);
        c.running(10_000_000, 512);
        c.stops(true);
        assert_eq!(c.idle(1_000_000), 1_000_000);
    }
}
