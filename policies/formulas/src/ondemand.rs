//! The ondemand governor: `od_update()` in `drivers/cpufreq/cpufreq_ondemand.c`, kernels from 3.13
//! (older ones searched for the lowest frequency that keeps the load under the threshold).
//!
//! Powersave bias, sampling-down factor and I/O-is-busy at their defaults: off, 1, off.

use crate::mul_div;
use crate::relation::Table;

/// `MICRO_FREQUENCY_UP_THRESHOLD`: the default wherever idle time is counted in microseconds, that is,
/// on every present kernel. `DEF_FREQUENCY_UP_THRESHOLD` = 80 is for jiffies.
pub const UP_THRESHOLD: u8 = 95;

/// Load 0..=100 to a frequency: `None` above the threshold (take `policy->max`), else
/// `min_f + load * (max_f - min_f) / 100` over the hardware's range.
pub fn target(load: u8, up_threshold: u8, hardware_min: u64, hardware_max: u64) -> Option<u64> {
    let span = hardware_max.saturating_sub(hardware_min);
    (load <= up_threshold).then(|| hardware_min + mul_div(u64::from(load), span, 100))
}

/// The entry of the table: `RELATION_H` of `policy->max` on an increase, else `RELATION_C`.
pub fn next(load: u8, up_threshold: u8, table: Table) -> u16 {
    match target(load, up_threshold, table.hardware_min(), table.hardware_max()) {
        None => table.at_most(table.max()),
        Some(freq) => table.closest(freq),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LADDER: [u64; 4] = [800_000, 1_200_000, 1_600_000, 2_000_000];

    #[test]
    fn frequency_is_proportional_to_load() {
        // 800,000 + 50 * 1,200,000 / 100 = 1,400,000
        assert_eq!(target(50, 95, 800_000, 2_000_000), Some(1_400_000));
        // Documentation/admin-guide/pm/cpufreq.rst: load 0 is the minimum, 100 % the maximum.
        assert_eq!(target(0, 100, 800_000, 2_000_000), Some(800_000));
        assert_eq!(target(100, 100, 800_000, 2_000_000), Some(2_000_000));
    }

    #[test]
    fn threshold_itself_is_no_increase() {
        // 800,000 + 95 * 12,000 = 1,940,000
        assert_eq!(target(95, 95, 800_000, 2_000_000), Some(1_940_000));
        assert_eq!(target(96, 95, 800_000, 2_000_000), None);
    }

    #[test]
    fn the_nearest_entry_is_taken() {
        let t = Table::new(&LADDER, 0, 3).unwrap();
        // 34 %: 1,208,000 -> 1.2 GHz; 49 %: 1,388,000 -> 1.2; 50 %: 1,400,000, a tie -> 1.2; 51 % -> 1.6
        assert_eq!([34, 49, 50, 51, 96].map(|l| next(l, 95, t)), [1, 1, 1, 2, 3]);
    }

    #[test]
    fn an_increase_goes_to_the_limit_and_not_beyond() {
        let t = Table::new(&LADDER, 0, 2).unwrap();
        assert_eq!(next(100, 95, t), 2);
    }
}
