//! The devfreq governor simple_ondemand: `devfreq_simple_ondemand_func()` in
//! `drivers/devfreq/governor_simpleondemand.c`.

use crate::mul_div;
use crate::relation::Table;

/// `DFSO_UPTHRESHOLD`, per cent
pub const UP_THRESHOLD: u64 = 90;
/// `DFSO_DOWNDIFFERENCTIAL`, per cent
pub const DOWN_DIFFERENTIAL: u64 = 5;

/// The wished frequency after a window in which the device was busy for `busy_ns` of `total_ns`.
pub fn target(busy_ns: u64, total_ns: u64, current: u64, max: u64) -> u64 {
    if total_ns == 0 || current == 0 {
        return max;
    }
    let percent = |of: u64| mul_div(total_ns, of, 100);
    if busy_ns > percent(UP_THRESHOLD) {
        max
    } else if busy_ns > percent(UP_THRESHOLD - DOWN_DIFFERENTIAL) {
        current
    } else {
        // "a = busy * current / total; a * 100 / (upthreshold - downdifferential / 2)"
        mul_div(mul_div(busy_ns, current, total_ns), 100, UP_THRESHOLD - DOWN_DIFFERENTIAL / 2)
    }
}

/// The entry: `devfreq_recommended_opp()`, the lowest at or above the wish.
pub fn next(busy_ns: u64, total_ns: u64, current: u64, table: Table) -> u16 {
    table.at_least(target(busy_ns, total_ns, current, table.max()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_means_full_speed_and_nearly_busy_means_stay() {
        assert_eq!(target(91, 100, 400, 1000), 1000);
        assert_eq!(target(88, 100, 400, 1000), 400);
        assert_eq!(target(0, 0, 400, 1000), 1000);
    }

    #[test]
    fn else_the_load_is_brought_to_88_per_cent() {
        // 44 * 400 / 100 = 176; 176 * 100 / 88 = 200
        assert_eq!(target(44, 100, 400, 1000), 200);
        let t = Table::new(&[100, 300, 1000], 0, 2).unwrap();
        assert_eq!(next(44, 100, 400, t), 1);
    }
}
