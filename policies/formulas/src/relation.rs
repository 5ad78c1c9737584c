//! From a target frequency to an entry of the table: `CPUFREQ_RELATION_L`, `_H` and `_C`
//! (`include/linux/cpufreq.h`, `cpufreq_table_find_index_al/_ah/_ac`).
//!
//! As there, the target is first clamped to the limits, then looked up. Tables rise.

/// A table and the entries allowed at present, both ends included.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    freqs: &'a [u64],
    lo: usize,
    hi: usize,
}

impl<'a> Table<'a> {
    /// `None` for an empty table. Limits outside the table are drawn into it.
    pub fn new(freqs: &'a [u64], lo: u16, hi: u16) -> Option<Self> {
        let top = freqs.len().checked_sub(1)?;
        let hi = usize::from(hi).min(top);
        Some(Self { freqs, lo: usize::from(lo).min(hi), hi })
    }

    /// The lowest frequency allowed: `policy->min`.
    pub fn min(&self) -> u64 {
        self.freqs[self.lo]
    }
    /// The highest frequency allowed: `policy->max`.
    pub fn max(&self) -> u64 {
        self.freqs[self.hi]
    }
    /// The lowest frequency of the table: `cpuinfo.min_freq`.
    pub fn hardware_min(&self) -> u64 {
        self.freqs[0]
    }
    /// The highest frequency of the table: `cpuinfo.max_freq`.
    pub fn hardware_max(&self) -> u64 {
        self.freqs[self.freqs.len() - 1]
    }

    fn allowed(&self) -> &'a [u64] {
        &self.freqs[self.lo..=self.hi]
    }
    fn index(&self, i: usize) -> u16 {
        u16::try_from(self.lo + i).unwrap_or(u16::MAX)
    }

    /// `CPUFREQ_RELATION_L`: the lowest frequency at or above `target`, the highest one if none is.
    pub fn at_least(&self, target: u64) -> u16 {
        let found = self.allowed().iter().position(|f| *f >= target);
        self.index(found.unwrap_or(self.hi - self.lo))
    }
    /// `CPUFREQ_RELATION_H`: the highest frequency at or below `target`, the lowest one if none is.
    pub fn at_most(&self, target: u64) -> u16 {
        self.index(self.allowed().iter().rposition(|f| *f <= target).unwrap_or(0))
    }
    /// `CPUFREQ_RELATION_C`: the nearest frequency; of two equally near, the lower.
    pub fn closest(&self, target: u64) -> u16 {
        let nearest = self.allowed().iter().enumerate().min_by_key(|(i, f)| (f.abs_diff(target), *i));
        self.index(nearest.map_or(0, |(i, _)| i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Exynos 5422, big cluster, some OPPs (arch/arm/boot/dts/samsung/exynos5800.dtsi), kHz.
    const BIG: [u64; 5] = [800_000, 1_000_000, 1_400_000, 1_800_000, 2_000_000];

    #[test]
    fn relation_l_never_falls_below_the_target() {
        let t = Table::new(&BIG, 0, 4).unwrap();
        assert_eq!([1, 1_000_000, 1_000_001, 2_000_000, 2_000_001].map(|f| t.at_least(f)), [0, 1, 2, 4, 4]);
    }

    #[test]
    fn relation_h_never_exceeds_the_target() {
        let t = Table::new(&BIG, 0, 4).unwrap();
        assert_eq!([1, 999_999, 1_000_000, 1_999_999, 9_000_000].map(|f| t.at_most(f)), [0, 0, 1, 3, 4]);
    }

    #[test]
    fn relation_c_takes_the_nearest_and_the_lower_of_two() {
        let t = Table::new(&BIG, 0, 4).unwrap();
        // 1,200,000 is 200,000 from both neighbours.
        assert_eq!([899_999, 900_000, 900_001, 1_200_000, 1_200_001].map(|f| t.closest(f)), [0, 0, 1, 1, 2]);
    }

    #[test]
    fn target_is_clamped_to_the_limits_first() {
        let t = Table::new(&BIG, 1, 3).unwrap();
        assert_eq!((t.min(), t.max(), t.hardware_max()), (1_000_000, 1_800_000, 2_000_000));
        for look_up in [Table::at_least, Table::at_most, Table::closest] {
            assert_eq!((look_up(&t, 0), look_up(&t, u64::MAX)), (1, 3));
        }
    }

    #[test]
    fn limits_outside_the_table_are_drawn_in() {
        let t = Table::new(&BIG, 9, 9).unwrap();
        assert_eq!((t.min(), t.max()), (2_000_000, 2_000_000));
        assert!(Table::new(&[], 0, 0).is_none());
    }
}
