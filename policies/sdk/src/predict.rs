//! What both levels predict with: service times of a profile at every OPP, and the mean power of a domain.

use crate::{Domain, Measured, Subnet};
pub use formulas::mul_div;

/// Share of the busy power that an idle domain draws where nobody says otherwise, thousandths. Assumed; the
/// parameter `idle-permille` of the policies changes it.
pub const IDLE_PERMILLE: u64 = 80;

/// `f_top / f` in thousandths, by OPP.
pub fn inverse(domain: &Domain) -> Vec<u64> {
    let top = domain.opps.last().map_or(1, |o| o.freq);
    let inverse = |f: u64| u128::from(top) * 1000 / u128::from(f.max(1));
    let one = |o: &crate::Opp| u64::try_from(inverse(o.freq)).unwrap_or(1 << 20).clamp(1000, 1 << 20);
    domain.opps.iter().map(one).collect()
}

/// Service times of `subnet` at every OPP of the domain at place `at`, ns, from what a profile measured there
/// with so many threads: between two measured OPPs by a line in `1 / f`, beyond them as `1 / f` itself. Empty
/// if nothing was measured.
pub fn times(subnet: &Subnet, at: u16, domain: &Domain, threads: u8, of: fn(&Measured) -> u64) -> Vec<u64> {
    let here = subnet.measured.iter().filter(|m| m.domain == at && m.threads == threads);
    let mut known: Vec<(usize, u64)> = here.map(|m| (usize::from(m.opp), of(m))).collect();
    known.retain(|(opp, ns)| *opp < domain.opps.len() && *ns > 0);
    known.sort_unstable();
    interpolate(&known, &inverse(domain))
}

/// Times at all OPPs from those `known`, by rising OPP. Nothing from nothing.
fn interpolate(known: &[(usize, u64)], inverse: &[u64]) -> Vec<u64> {
    let (Some(first), Some(last)) = (known.first(), known.last()) else { return vec![] };
    let at = |opp: usize| {
        let above = known.partition_point(|(o, _)| *o < opp);
        match (above.checked_sub(1).and_then(|i| known.get(i)), known.get(above)) {
            (_, Some(&(o, ns))) if o == opp => ns,
            (Some(&(a, slow)), Some(&(b, fast))) => {
                let (x, x_a, x_b) = (inverse[opp], inverse[a], inverse[b]);
                let share = mul_div(slow.abs_diff(fast), x.saturating_sub(x_b), x_a.saturating_sub(x_b));
                if slow >= fast { fast + share } else { fast.saturating_sub(share) }
            }
            (None, _) => mul_div(first.1, inverse[opp], inverse[first.0]),
            (_, None) => mul_div(last.1, inverse[opp], inverse[last.0]),
        }
    };
    (0..inverse.len()).map(at).collect()
}

/// Arrivals, and the time over which they were counted: both halved when that grows long. A stream that begins, or
/// begins anew after a silence, is counted from there on: its rate would seem too low for many seconds otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrivals {
    /// Thousandths, so that halving a few loses nothing.
    count: u64,
    time_ns: u64,
    age_ns: u64,
    /// Something arrived.
    begun: bool,
    /// Since the newest arrival.
    silent_ns: u64,
    /// Mean time between two, at the newest; 0 = not known.
    gap_ns: u64,
}

impl Arrivals {
    const LONG_NS: u64 = 4_000_000_000;
    const KNOWN_NS: u64 = 1_000_000_000;
    /// Without the first.
    const KNOWN_MIN: u64 = 2000;
    /// So many times the usual gap is a silence.
    const GAPS: u64 = 8;

    /// Folds a window in.
    pub fn add(&mut self, arrived: u32, window_ns: u64) {
        let silence = self.gap_ns.saturating_mul(Self::GAPS).max(Self::LONG_NS);
        if arrived > 0 && (!self.begun || (self.gap_ns > 0 && self.silent_ns > silence)) {
            // What began is the first gap; rates count gaps.
            *self = Self { begun: true, ..Self::default() };
            return;
        }
        self.count = self.count.saturating_add(u64::from(arrived) * 1000);
        self.time_ns = self.time_ns.saturating_add(window_ns);
        self.age_ns = self.age_ns.saturating_add(window_ns);
        self.silent_ns = self.silent_ns.saturating_add(window_ns);
        if arrived > 0 {
            self.silent_ns = 0;
            self.gap_ns = (self.time_ns / 1000).saturating_mul(1_000_000) / self.count.max(1);
        }
        if self.time_ns > Self::LONG_NS {
            self.count /= 2;
            self.time_ns /= 2;
        }
    }

    /// Whether a second and three arrivals were seen, or so long that fewer are the rate.
    pub fn known(&self) -> bool {
        self.age_ns >= Self::LONG_NS || (self.age_ns >= Self::KNOWN_NS && self.count >= Self::KNOWN_MIN)
    }

    /// Utilisation of a server that takes `service_ns` for each, thousandths.
    pub fn busy(&self, service_ns: u64) -> u64 {
        (service_ns / 1000).saturating_mul(self.count) / (self.time_ns / 1000).max(1)
    }
}

/// Mean power of a domain: `P(opp) * (idle + (1 - idle) * util)`, corrected by what a rail shows ([`Power::learn`]).
#[derive(Clone, Debug)]
pub struct Power {
    /// With all CPUs busy, uW, by OPP.
    busy_uw: Vec<u64>,
    idle_permille: u64,
    /// By the board, for every OPP.
    told: bool,
    /// What a rail showed, by OPP.
    shown: Vec<Shown>,
    /// Against what would be predicted without it, thousandths; `None`: not believed yet.
    own: Vec<Option<u64>>,
    /// Against what would be predicted without it, thousandths, by OPP: its own, or the nearest that has one.
    ratio: Vec<u64>,
}

/// Sums of the windows in which an OPP stood.
#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    /// uW x us
    shown: u64,
    /// The same as predicted.
    predicted: u64,
    time_ns: u64,
}

impl Shown {
    /// All is halved when the time grows longer.
    const LONG_NS: u64 = 4_000_000_000;
    /// From here on it is believed: a window may lie within an inference or beside one.
    const KNOWN_NS: u64 = 500_000_000;
    /// Bounds, thousandths: of a stand-in the unit means nothing.
    const RATIO: std::ops::RangeInclusive<u64> = 10..=100_000;

    fn ratio(&self) -> Option<u64> {
        let known = self.time_ns >= Self::KNOWN_NS && self.predicted > 0;
        known.then(|| {
            mul_div(self.shown, 1000, self.predicted).clamp(*Self::RATIO.start(), *Self::RATIO.end())
        })
    }
}

impl Power {
    /// By the board's powers. Where one is missing, a stand-in for all: `(x + x^3) / 2` of a watt, `x = f / f_top`: half
    /// as at a fixed voltage, half as with voltage and clock rising together; no budget can be held against it.
    pub fn of(domain: &Domain, idle_permille: u64) -> Self {
        let told = domain.opps.iter().all(|o| o.power_mw.is_some_and(|mw| mw > 0));
        // `x` is `f_top / f` in thousandths.
        let cube = |x: u64| 1_000_000_000_000_000 / (x * x * x / 1000).max(1) / 1000;
        let stand_in = |x: &u64| (1_000_000_000 / x.max(&1) + cube(*x)) / 2;
        let busy_uw: Vec<u64> = if told {
            domain.opps.iter().map(|o| u64::from(o.power_mw.unwrap_or(0)) * 1000).collect()
        } else {
            inverse(domain).iter().map(stand_in).collect()
        };
        let opps = busy_uw.len();
        let (shown, own, ratio) = (vec![Shown::default(); opps], vec![None; opps], vec![1000; opps]);
        Self { busy_uw, idle_permille: idle_permille.min(1000), told, shown, own, ratio }
    }

    /// Whether it is in real microwatts: by the board, or since a rail was believed.
    pub fn known(&self) -> bool {
        self.told || self.learned()
    }

    /// A rail was believed.
    pub fn learned(&self) -> bool {
        self.own.iter().any(Option::is_some)
    }

    /// At an OPP with its CPUs busy for `util` thousandths of the time, uW.
    pub fn mean_uw(&self, opp: u16, util: u64) -> u64 {
        let ratio = self.ratio.get(usize::from(opp)).copied().unwrap_or(1000);
        mul_div(self.predicted(opp, util), ratio, 1000)
    }

    fn predicted(&self, opp: u16, util: u64) -> u64 {
        let busy = self.busy_uw.get(usize::from(opp)).copied().unwrap_or(u64::MAX / 1_000_000);
        let share = self.idle_permille * 1000 + (1000 - self.idle_permille) * util.min(1000);
        busy.saturating_mul(share) / 1_000_000
    }

    /// Folds in what a rail showed over a window in which the OPP stood and CPUs were busy for `util` thousandths. Board
    /// files are of another sample of the chip, and leave static power out.
    pub fn learn(&mut self, opp: u16, util: u64, shown_mw: u32, window_ns: u64) {
        let predicted = self.predicted(opp, util);
        let Some(sum) = self.shown.get_mut(usize::from(opp)) else { return };
        let us = window_ns.min(Shown::LONG_NS) / 1000;
        sum.shown = sum.shown.saturating_add(u64::from(shown_mw).saturating_mul(1000).saturating_mul(us));
        sum.predicted = sum.predicted.saturating_add(predicted.saturating_mul(us));
        sum.time_ns = sum.time_ns.saturating_add(window_ns);
        if sum.time_ns > Shown::LONG_NS {
            (sum.shown, sum.predicted, sum.time_ns) = (sum.shown / 2, sum.predicted / 2, sum.time_ns / 2);
        }
        let Some(own) = sum.ratio() else { return };
        self.own[usize::from(opp)] = Some(own);
        // Once a tick: of two known ones the nearer, the lower of equals, in one pass.
        let from = |i: usize| (i..self.own.len()).find(|j| self.own[*j].is_some());
        let (mut below, mut above) = (None, from(0));
        for i in 0..self.own.len() {
            if above.is_some_and(|a| a <= i) {
                (below, above) = (above, from(i + 1));
            }
            let nearest = match (below, above) {
                (Some(b), Some(a)) if a - i < i - b => a,
                (Some(b), _) => b,
                (None, Some(a)) => a,
                (None, None) => continue,
            };
            self.ratio[i] = self.own[nearest].unwrap_or(1000);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::BoardBuilder;

    #[test]
    fn arrivals_forget_and_tell_how_busy_a_server_is() {
        let mut arrivals = Arrivals::default();
        for window in 0..1000 {
            assert_eq!(arrivals.known(), window > 100, "{window}");
            arrivals.add(u32::from(window % 3 == 0), 10_000_000);
        }
        // One in 30 ms; 15 ms each.
        assert!(arrivals.busy(15_000_000).abs_diff(500) < 10, "{arrivals:?}");
        for _ in 0..2000 {
            arrivals.add(0, 10_000_000);
        }
        assert!(arrivals.busy(15_000_000) < 20, "{arrivals:?}");
    }

    #[test]
    fn one_a_second_is_known_from_the_third_on_and_for_good() {
        let mut arrivals = Arrivals::default();
        for window in 0..3000 {
            arrivals.add(u32::from(window % 100 == 0), 10_000_000);
            assert_eq!(arrivals.known(), window >= 200, "{window}");
        }
        assert!(arrivals.busy(300_000_000).abs_diff(300) < 80, "{arrivals:?}");
        // Who never runs anything is known for that.
        let mut idle = Arrivals::default();
        (0..400).for_each(|_| idle.add(0, 10_000_000));
        assert!(idle.known() && idle.busy(300_000_000) == 0);
    }

    #[test]
    fn a_stream_that_begins_or_begins_anew_is_known_by_what_it_does_then() {
        let mut arrivals = Arrivals::default();
        for _ in 0..3 {
            (0..1000).for_each(|_| arrivals.add(0, 10_000_000));
            assert!(arrivals.busy(15_000_000) < 50, "{arrivals:?}");
            (0..31).for_each(|window| arrivals.add(u32::from(window % 3 == 0), 10_000_000));
            assert_eq!(arrivals.busy(15_000_000), 500, "{arrivals:?}");
            // Some seconds more, since of a single gap nothing is known.
            (31..300).for_each(|window| arrivals.add(u32::from(window % 3 == 0), 10_000_000));
        }
        // Pauses that are its nature are no silence: one every 5 s.
        let mut rare = Arrivals::default();
        let mut busy = 0;
        for window in 0..10_000 {
            rare.add(u32::from(window % 500 == 0), 10_000_000);
            busy += rare.busy(3_000_000_000);
        }
        assert!((busy / 10_000).abs_diff(600) < 150, "{}", busy / 10_000);
    }

    #[test]
    fn a_rail_corrects_its_opp_and_those_next_to_it() {
        let freqs = [500_000, 1_000_000, 1_500_000, 2_000_000];
        let board = BoardBuilder::new().khz("cpu", &[0], &freqs).build();
        let plain = Power::of(&board.domains[0], 0);
        let mut power = plain.clone();
        let ratios =
            |power: &Power| [0, 1, 2, 3].map(|o| power.mean_uw(o, 1000) * 100 / plain.mean_uw(o, 1000));
        // Busy every other window, with twice what is held to be: 50 windows of 10 ms are believed.
        let twice = u32::try_from(plain.mean_uw(2, 1000) / 500).unwrap();
        for n in 0..50 {
            assert_eq!(ratios(&power), [100; 4], "{n}");
            let busy = n % 2 == 0;
            power.learn(2, if busy { 1000 } else { 0 }, if busy { twice } else { 0 }, 10_000_000);
        }
        assert!(ratios(&power).iter().all(|r| (198..=200).contains(r)), "{power:?}");
        let thrice = u32::try_from(plain.mean_uw(0, 500) * 3 / 1000).unwrap();
        for _ in 0..100 {
            power.learn(0, 500, thrice, 10_000_000);
        }
        // OPP 1 lies next to both; the lower one's counts.
        let now = ratios(&power);
        assert!(now[..2].iter().all(|r| (298..=300).contains(r)) && now[2] <= 200, "{now:?}");
        // The machine changes: half of what is known is forgotten every two seconds.
        for _ in 0..3000 {
            power.learn(2, 1000, twice / 2, 10_000_000);
        }
        assert!((98..=100).contains(&ratios(&power)[2]), "{power:?}");
    }

    #[test]
    fn a_stand_in_becomes_real_by_a_rail() {
        let board = BoardBuilder::new().hz("gpu", &[500_000_000, 1_000_000_000]).build();
        let mut power = Power::of(&board.domains[0], 80);
        assert!(!power.known());
        for _ in 0..100 {
            power.learn(1, 1000, 5000, 10_000_000);
        }
        assert!(power.known());
        assert_eq!((power.mean_uw(1, 1000), power.mean_uw(0, 1000)), (5_000_000, 1_562_500));
        // Beyond the board's OPPs nothing is learned, and nothing panics.
        power.learn(9, 1000, u32::MAX, u64::MAX);
        power.learn(1, u64::MAX, u32::MAX, u64::MAX);
    }

    #[test]
    fn mean_power_lies_between_idle_and_busy() {
        let mut board = BoardBuilder::new().khz("cpu", &[0], &[500_000, 1_000_000]).build();
        let domain = &mut board.domains[0];
        for (opp, mw) in domain.opps.iter_mut().zip([100, 400]) {
            opp.power_mw = Some(mw);
        }
        let power = Power::of(domain, 100);
        assert!(power.known());
        assert_eq!((power.mean_uw(0, 0), power.mean_uw(0, 1000)), (10_000, 100_000));
        assert_eq!(power.mean_uw(1, 500), 220_000);
        domain.opps[0].power_mw = None;
        let power = Power::of(domain, 100);
        assert!(!power.known());
        // Half the clock: half of a half and half of an eighth.
        assert_eq!((power.mean_uw(0, 1000), power.mean_uw(1, 1000)), (312_500, 1_000_000));
    }
}
