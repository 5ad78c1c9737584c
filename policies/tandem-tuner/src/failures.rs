//! The memory of what did not work, so that the tuner does not go up and down for ever.
//!
//! An operating point that was given up is barred, and with it every slower one of the same
//! sub-network, until conditions are clearly better than they were or a back-off has passed; the
//! back-off doubles each time the point fails again soon.

const BACK_OFF_MIN_NS: u64 = 2_000_000_000;
const BACK_OFF_MAX_NS: u64 = 64_000_000_000;
/// Better conditions: the scale fell below this share of what it was, thousandths.
const CLEARLY_BETTER: u64 = 750;

#[derive(Clone, Copy, Debug, Default)]
struct Failure {
    /// Barred up to and with this OPP; `None` = nothing barred.
    opp: Option<u16>,
    until_ns: u64,
    back_off_ns: u64,
    /// Median scale when it failed, ns.
    scale_ns: u64,
}

/// Per sub-network.
#[derive(Debug)]
pub struct Failures(Vec<Failure>);

impl Failures {
    /// Nothing failed yet.
    pub fn new(subnets: usize) -> Self {
        Self(vec![Failure::default(); subnets])
    }

    /// The target changed: all is open again.
    pub fn clear(&mut self) {
        self.0.fill(Failure::default());
    }

    /// That point, held since `held_since_ns`, was given up.
    pub fn record(&mut self, subnet: u16, opp: u16, now_ns: u64, held_since_ns: u64, scale_ns: u64) {
        let Some(f) = self.0.get_mut(usize::from(subnet)) else { return };
        let held = now_ns.saturating_sub(held_since_ns);
        let again_soon = f.back_off_ns > 0 && held < f.back_off_ns.saturating_mul(4);
        let back_off_ns = if again_soon { (f.back_off_ns * 2).min(BACK_OFF_MAX_NS) } else { BACK_OFF_MIN_NS };
        let opp = f.opp.filter(|_| now_ns < f.until_ns).map_or(opp, |barred| barred.max(opp));
        *f = Failure { opp: Some(opp), until_ns: now_ns.saturating_add(back_off_ns), back_off_ns, scale_ns };
    }

    /// The lowest OPP not barred for that sub-network; `None` lifts nothing.
    pub fn open_from(&self, subnet: u16, now_ns: u64, scale_ns: u64) -> u16 {
        let barred = self.0.get(usize::from(subnet)).filter(|f| {
            let better = scale_ns < f.scale_ns / 1000 * CLEARLY_BETTER;
            now_ns < f.until_ns && !better
        });
        barred.and_then(|f| f.opp).map_or(0, |opp| opp.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const S: u64 = 1_000_000_000;

    #[test]
    fn slower_points_of_the_same_sub_network_are_barred_too() {
        let mut f = Failures::new(2);
        f.record(1, 3, 100 * S, 0, 1000);
        assert_eq!((f.open_from(1, 101 * S, 1000), f.open_from(0, 101 * S, 1000)), (4, 0));
        assert_eq!(f.open_from(1, 102 * S, 1000), 0, "the first back-off is 2 s");
    }

    #[test]
    fn back_off_doubles_when_it_fails_again_soon() {
        let mut f = Failures::new(1);
        let mut now = 10_000 * S;
        let mut waits = vec![];
        for _ in 0..8 {
            f.record(0, 0, now, now - S, 1000); // held for a second
            let failed = now;
            while f.open_from(0, now, 1000) > 0 {
                now += S;
            }
            waits.push((now - failed) / S);
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 64, 64]);
        f.record(0, 0, now, now - 600 * S, 1000);
        assert_eq!(f.open_from(0, now + 2 * S, 1000), 0, "held for long: starts anew");
    }

    #[test]
    fn clearly_better_conditions_open_at_once() {
        let mut f = Failures::new(1);
        f.record(0, 2, 100 * S, 0, 10_000);
        assert_eq!(f.open_from(0, 100 * S, 7_600), 3);
        assert_eq!(f.open_from(0, 100 * S, 7_400), 0);
    }
}
