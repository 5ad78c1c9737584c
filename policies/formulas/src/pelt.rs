//! PELT, per-entity load tracking: an average whose periods of 1024 us decay so that `y^32 = 0.5`
//! (`kernel/sched/pelt.c`, `kernel/sched/sched-pelt.h`, `Documentation/scheduler/schedutil.rst`).
//!
//! The kernel sums running time period by period. Here a window with one utilisation is folded in at
//! once: `avg' = u + (avg - u) * y^n`, which is the same series for a constant `u`.

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
}
