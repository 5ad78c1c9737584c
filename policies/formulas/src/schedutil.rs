//! The schedutil governor: `get_next_freq()` in `kernel/sched/cpufreq_schedutil.c`, `map_util_freq()`
//! and `map_util_perf()` in `include/linux/sched/cpufreq.h`.
//!
//! "Take C = 1.25 for the frequency tipping point at (util / max) = 0.8."

use crate::mul_div;
use crate::relation::Table;

/// Full capacity: `SCHED_CAPACITY_SCALE`.
pub const CAPACITY: u64 = 1024;

/// Headroom: `util + (util >> 2)`.
pub fn map_util_perf(util: u64) -> u64 {
    util.saturating_add(util >> 2)
}

/// `freq * util / capacity`
pub fn map_util_freq(util: u64, freq: u64, capacity: u64) -> u64 {
    mul_div(freq, util, capacity)
}

/// What the arithmetic multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Util {
    /// Share of the CPU's full capacity (frequency-invariant): scales the hardware's maximum.
    Invariant(u64),
    /// Share of the time at the current frequency: scales the current frequency.
    Raw(u64),
}

/// The raw next frequency, before the table: 1.25 x maximum x util, or 1.25 x current x util.
pub fn target(util: Util, current: u64, hardware_max: u64) -> u64 {
    match util {
        Util::Invariant(u) => map_util_freq(map_util_perf(u), hardware_max, CAPACITY),
        Util::Raw(u) => map_util_freq(map_util_perf(u), current, CAPACITY),
    }
}

/// What kernels from 6.8 on multiply the utilisation, its headroom included, with (`get_capacity_ref_freq`):
/// the maximum where they are frequency-invariant, else 1.25 x the current frequency. The margin then counts
/// twice.
pub fn reference(invariant: bool, current: u64, hardware_max: u64) -> u64 {
    if invariant { hardware_max } else { current.saturating_add(current >> 2) }
}

/// The raw next frequency of kernels from 6.8 on: `sugov_effective_cpu_perf()`, then `get_next_freq()`.
pub fn target_since_6_8(util: u64, invariant: bool, current: u64, hardware_max: u64) -> u64 {
    let util = map_util_perf(util).min(CAPACITY);
    map_util_freq(util, reference(invariant, current, hardware_max), CAPACITY)
}

/// Makes a raw utilisation frequency-invariant: `util * f_cur / f_max` (`r_dvfs` of schedutil.rst).
pub fn invariant(raw: u64, current: u64, hardware_max: u64) -> u64 {
    mul_div(raw, current, hardware_max).min(CAPACITY)
}

/// The entry of the table: "the lowest driver-supported frequency which is equal or greater".
pub fn next(util: Util, current: u64, table: Table) -> u16 {
    table.at_least(target(util, current, table.hardware_max()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tipping_point_is_at_eight_tenths() {
        // util 819 of 1024 = 0.7998: 819 + 204 = 1023 -> 2,000,000 * 1023 / 1024 = 1,998,046
        assert_eq!(target(Util::Invariant(819), 0, 2_000_000), 1_998_046);
        // util 820 = 0.8008: 820 + 205 = 1025 -> 2,001,953, above the maximum
        assert_eq!(target(Util::Invariant(820), 0, 2_000_000), 2_001_953);
    }

    #[test]
    fn invariant_util_scales_the_maximum_and_raw_util_the_current_frequency() {
        // 400 + 100 = 500; 2,000,000 * 500 / 1024 = 976,562
        assert_eq!(target(Util::Invariant(400), 1_000_000, 2_000_000), 976_562);
        // 1,000,000 * 500 / 1024 = 488,281
        assert_eq!(target(Util::Raw(400), 1_000_000, 2_000_000), 488_281);
    }

    #[test]
    fn without_invariance_the_margin_counts_twice() {
        // 400 + 100 = 500; 1,250,000 * 500 / 1024 = 610,351: 1.5625 x 400 / 1024 of the current 1 GHz
        assert_eq!(target_since_6_8(400, false, 1_000_000, 2_000_000), 610_351);
        assert_eq!(target_since_6_8(400, true, 1_000_000, 2_000_000), 976_562);
        // The headroom ends at the capacity: a busy CPU asks 1.25 x current, not 1.56 x.
        assert_eq!(target_since_6_8(1024, false, 1_000_000, 2_000_000), 1_250_000);
    }

    #[test]
    fn a_busy_cpu_rises_by_a_quarter() {
        // 1024 + 256 = 1280; 800,000 * 1280 / 1024 = 1,000,000
        assert_eq!(target(Util::Raw(1024), 800_000, 2_000_000), 1_000_000);
    }

    #[test]
    fn half_speed_halves_the_utilisation() {
        assert_eq!(invariant(1024, 1_000_000, 2_000_000), 512);
        assert_eq!(invariant(600, 1_500_000, 2_000_000), 450);
    }

    #[test]
    fn the_next_entry_is_the_lowest_that_suffices() {
        let freqs = [800_000, 1_200_000, 1_600_000, 2_000_000];
        let t = Table::new(&freqs, 0, 3).unwrap();
        // 976,562 -> 1.2 GHz; 2,001,953 -> the top; 0 -> the bottom
        assert_eq!([400, 820, 0].map(|u| next(Util::Invariant(u), 0, t)), [1, 3, 0]);
        let capped = Table::new(&freqs, 0, 1).unwrap();
        assert_eq!(next(Util::Invariant(1024), 0, capped), 1);
    }
}
