//! The conservative governor: `cs_dbs_update()` in `drivers/cpufreq/cpufreq_conservative.c`.

use crate::mul_div;
use crate::relation::Table;

/// `DEF_FREQUENCY_UP_THRESHOLD`
pub const UP_THRESHOLD: u8 = 80;
/// `DEF_FREQUENCY_DOWN_THRESHOLD`
pub const DOWN_THRESHOLD: u8 = 20;
/// `DEF_FREQUENCY_STEP`, per cent of `policy->max`
pub const FREQ_STEP: u8 = 5;
/// `DEF_SAMPLING_DOWN_FACTOR`
pub const SAMPLING_DOWN_FACTOR: u32 = 1;

/// Its tunables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunables {
    /// Load above which it steps up.
    pub up_threshold: u8,
    /// Load below which it steps down.
    pub down_threshold: u8,
    /// A step, per cent of `policy->max`; 0 = never move.
    pub freq_step: u8,
    /// Samples per look downwards.
    pub sampling_down_factor: u32,
}

impl Default for Tunables {
    fn default() -> Self {
        Self {
            up_threshold: UP_THRESHOLD,
            down_threshold: DOWN_THRESHOLD,
            freq_step: FREQ_STEP,
            sampling_down_factor: SAMPLING_DOWN_FACTOR,
        }
    }
}

/// What the governor remembers of one domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// `requested_freq`: moves in steps finer than the table's.
    pub requested: u64,
    down_skip: u32,
}

impl State {
    /// One sample. The entry to set, `None` where the kernel sets nothing.
    ///
    /// `idle_periods`: sampling periods that passed without a sample while all CPUs were idle (0 for who samples at
    /// every period): a step down for each, which the kernel forgets unless it then sets a frequency.
    pub fn next(
        &mut self,
        load: u8,
        idle_periods: u64,
        current: u64,
        tunables: &Tunables,
        table: Table,
    ) -> Option<u16> {
        if tunables.freq_step == 0 {
            return None;
        }
        // Out of range: the limits changed meanwhile.
        if self.requested > table.max() || self.requested < table.min() {
            self.requested = current.clamp(table.min(), table.max());
        }
        let step = match mul_div(u64::from(tunables.freq_step), table.max(), 100) {
            0 => u64::from(FREQ_STEP),
            step => step,
        };
        let idle = step.saturating_mul(idle_periods);
        let requested = self.requested.saturating_sub(idle).max(table.min());
        if load > tunables.up_threshold {
            self.down_skip = 0;
            if requested == table.max() {
                return None;
            }
            self.requested = requested.saturating_add(step).min(table.max());
            return Some(table.at_most(self.requested));
        }
        self.down_skip += 1;
        if self.down_skip < tunables.sampling_down_factor {
            return None;
        }
        self.down_skip = 0;
        if load < tunables.down_threshold {
            if requested == table.min() {
                return None;
            }
            // The kernel lets the driver raise what lies below the minimum; the next sample would then
            // start again from the current frequency. Same entry, without the detour.
            self.requested = requested.saturating_sub(step).max(table.min());
            return Some(table.at_least(self.requested));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LADDER: [u64; 4] = [800_000, 1_200_000, 1_600_000, 2_000_000];

    #[test]
    fn a_step_is_five_per_cent_of_the_maximum() {
        let t = Table::new(&LADDER, 0, 3).unwrap();
        let mut s = State { requested: 1_600_000, ..State::default() };
        // 5 * 2,000,000 / 100 = 100,000. RELATION_H: 1.7 GHz is still the 1.6 GHz entry.
        assert_eq!(s.next(81, 0, 1_600_000, &Tunables::default(), t), Some(2));
        assert_eq!(s.requested, 1_700_000);
        // 1.8, 1.9 and 2.0 GHz: the fourth step reaches the next entry.
        let entries = [0; 3].map(|_| s.next(81, 0, 1_600_000, &Tunables::default(), t));
        assert_eq!(entries, [Some(2), Some(2), Some(3)]);
        assert_eq!(s.next(100, 0, 2_000_000, &Tunables::default(), t), None, "already at full speed");
    }

    #[test]
    fn between_the_thresholds_nothing_moves() {
        let t = Table::new(&LADDER, 0, 3).unwrap();
        let mut s = State { requested: 1_200_000, ..State::default() };
        for load in [20, 50, 80] {
            assert_eq!(s.next(load, 0, 1_200_000, &Tunables::default(), t), None);
        }
        assert_eq!(s.requested, 1_200_000);
    }

    #[test]
    fn a_step_down_rounds_up() {
        let t = Table::new(&LADDER, 0, 3).unwrap();
        let mut s = State { requested: 1_200_000, ..State::default() };
        // 1.1 GHz, RELATION_L: the 1.2 GHz entry; 1.0, 0.9 likewise; 0.8 GHz is an entry.
        let entries = [0; 4].map(|_| s.next(19, 0, 1_200_000, &Tunables::default(), t));
        assert_eq!(entries, [Some(1), Some(1), Some(1), Some(0)]);
        assert_eq!(s.next(0, 0, 800_000, &Tunables::default(), t), None, "cannot fall further");
    }

    #[test]
    fn idle_periods_are_steps_down_only_with_a_change() {
        let t = Table::new(&LADDER, 0, 3).unwrap();
        let mut s = State { requested: 1_600_000, ..State::default() };
        // 1.6 GHz less three steps, less the step of the sample.
        assert_eq!(s.next(0, 3, 1_600_000, &Tunables::default(), t), Some(1));
        assert_eq!(s.requested, 1_200_000);
        assert_eq!(s.next(50, 3, 1_200_000, &Tunables::default(), t), None);
        assert_eq!(s.requested, 1_200_000);
        assert_eq!(s.next(90, u64::MAX, 1_200_000, &Tunables::default(), t), Some(0));
        assert_eq!(s.requested, 900_000);
    }

    #[test]
    fn down_is_looked_at_every_nth_sample() {
        let t = Table::new(&LADDER, 0, 3).unwrap();
        let tunables = Tunables { sampling_down_factor: 3, ..Tunables::default() };
        let mut s = State { requested: 1_200_000, ..State::default() };
        let moved = [0; 6].map(|_| s.next(0, 0, 1_200_000, &tunables, t).is_some());
        assert_eq!(moved, [false, false, true, false, false, true]);
    }

    #[test]
    fn changed_limits_restart_from_the_current_frequency() {
        let mut s = State { requested: 2_000_000, ..State::default() };
        let t = Table::new(&LADDER, 0, 1).unwrap();
        // Limit 1.2 GHz: requested falls to 1.2 GHz, one step of 60,000 down.
        assert_eq!(s.next(0, 0, 1_200_000, &Tunables::default(), t), Some(1));
        assert_eq!(s.requested, 1_140_000);
    }
}
