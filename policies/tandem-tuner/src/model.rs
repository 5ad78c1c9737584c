//! What the tuner believes of its application's service times.
//!
//! One number is learned fast: the *scale*, what an inference of the largest sub-network would take at
//! the top OPP under present conditions, ns. Every finished inference gives a sample of it, whatever ran:
//! contention, throttling that nobody reports and the machine itself are all in it. Two shapes convert
//! between operating points and are corrected slowly, only after moves the tuner made at its ease (a
//! forced move coincides with a change of conditions and would teach it wrongly):
//!
//! - a sub-network's cost: its MACs against the largest one's, times a correction;
//! - an OPP's slowness: `insensitive + (1 - insensitive) * f_top / f`, because memory-bound work, and a
//!   burst within a bandwidth quota, do not follow the clock.
//!
//! Where the application has a profile of this machine (for these threads, on the granted domain, of every
//! sub-network), its table stands in for both shapes, OPPs that it leaves out are interpolated in `1 / f`,
//! and the scale to begin with is known too. What is measured is still corrected by sub-network, half as
//! fast: the machine may have changed since.

use policy_sdk::predict::{inverse, mul_div, times};
use policy_sdk::{App, Domain, Subnet};

/// Fixed point of a factor: 1 << 20 = 1.
const ONE: u64 = 1 << 20;
/// Bounds of a sub-network's correction, thousandths.
const CORRECTION: std::ops::RangeInclusive<u64> = 500..=2000;
/// The most of the service time that may be believed to ignore the clock, thousandths.
const INSENSITIVE_MAX: u64 = 900;

#[derive(Clone, Copy, Debug)]
struct Cost {
    /// MACs against the largest, times [`ONE`].
    macs: u64,
    /// Thousandths.
    correction: u64,
    /// Corrected once: what was only its MACs' word is now its own.
    known: bool,
}

/// A thread more is worth it if it makes an inference faster by this share of what a whole CPU could, thousandths.
const EFFICIENCY: u64 = 700;

/// At most `most` threads: of the counts whose CPUs are used well, by the profile of the largest sub-network at the domain's top
/// OPP, the fastest. 1 without a profile.
pub fn worthwhile_threads(app: &App, at: u16, domain: &Domain, most: u8) -> u8 {
    let Some(largest) = app.subnets.iter().max_by_key(|s| s.macs) else { return 1 };
    let time = |n: u8| times(largest, at, domain, n, |m| m.p50_ns).last().copied();
    let Some(one) = time(1) else { return 1 };
    let cpus = u8::try_from(domain.cpus.len()).unwrap_or(u8::MAX).max(1);
    let used_well =
        |(n, ns): &(u8, u64)| ns.saturating_mul(u64::from(*n) * EFFICIENCY) <= one.saturating_mul(1000);
    let counts = (2..=most.min(cpus)).filter_map(|n| Some((n, time(n)?)));
    counts.filter(used_well).filter(|(_, ns)| *ns < one).min_by_key(|(_, ns)| *ns).map_or(1, |(n, _)| n)
}

/// See the module's text.
#[derive(Debug)]
pub struct Model {
    costs: Vec<Cost>,
    subnets: Vec<Subnet>,
    threads: u8,
    /// By sub-network and OPP of the granted domain: against the largest at the top, times [`ONE`]. Empty
    /// without a profile.
    tables: Vec<Vec<u64>>,
    /// Median and 90th percentile of the largest at the top, by the profile.
    expected: Option<(u64, u64)>,
    /// `f_top / f` in thousandths, by OPP of the granted domain.
    inverse: Vec<u64>,
    /// Thousandths.
    insensitive: u64,
}

impl Model {
    /// Nothing learned: the profile, else MACs and frequencies. `at` is the domain's place on the board.
    pub fn new(app: &App, at: u16, domain: &Domain, threads: u8) -> Self {
        let largest = app.subnets.iter().map(|s| s.macs).max().unwrap_or(1).max(1);
        let share = |macs: u64| u128::from(macs) * u128::from(ONE) / u128::from(largest);
        let costs = app.subnets.iter().map(|s| Cost {
            macs: u64::try_from(share(s.macs)).unwrap_or(ONE).clamp(1, ONE),
            correction: 1000,
            known: false,
        });
        let mut model = Self {
            costs: costs.collect(),
            subnets: app.subnets.clone(),
            threads,
            tables: vec![],
            expected: None,
            inverse: vec![],
            insensitive: 0,
        };
        model.granted(at, domain, threads);
        model
    }

    /// Another domain or other threads: the clock's effect is known from a profile, or not yet.
    pub fn granted(&mut self, at: u16, domain: &Domain, threads: u8) {
        self.threads = threads;
        self.inverse = inverse(domain);
        self.insensitive = 0;
        self.read_profile(at, domain);
    }

    fn read_profile(&mut self, at: u16, domain: &Domain) {
        self.tables.clear();
        let of = |s: &Subnet, ns: fn(&policy_sdk::Measured) -> u64| times(s, at, domain, self.threads, ns);
        let medians: Vec<_> = self.subnets.iter().map(|s| of(s, |m| m.p50_ns)).collect();
        let largest = (0..self.subnets.len()).max_by_key(|i| self.subnets[*i].macs);
        let p90 = largest.and_then(|i| of(&self.subnets[i], |m| m.p90_ns).last().copied());
        let reference = largest.and_then(|i| medians[i].last().copied());
        self.expected = None;
        if let (Some(reference), Some(p90)) = (reference, p90)
            && medians.iter().all(|m| !m.is_empty())
        {
            self.expected = Some((reference, p90));
            let share = |ns: u64| mul_div(ns, ONE, reference).clamp(1, ONE << 20);
            self.tables = medians.into_iter().map(|m| m.into_iter().map(share).collect()).collect();
            // What a profile says is more than its MACs' word.
            self.costs.iter_mut().for_each(|c| c.known = true);
        }
    }

    /// The scale to begin with, by the profile: median and 90th percentile.
    pub fn expected(&self) -> Option<(u64, u64)> {
        self.expected
    }

    fn slowness(&self, opp: u16) -> u64 {
        let inverse = self.inverse.get(usize::from(opp)).copied().unwrap_or(1000);
        self.insensitive + (1000 - self.insensitive) * inverse / 1000
    }

    /// Service time at that point against the scale, times [`ONE`]; never 0.
    fn factor(&self, subnet: u16, opp: u16) -> u64 {
        let measured = self.tables.get(usize::from(subnet)).and_then(|t| t.get(usize::from(opp)));
        if let (Some(share), Some(cost)) = (measured, self.costs.get(usize::from(subnet))) {
            return (share * cost.correction / 1000).max(1);
        }
        let cost = self.costs.get(usize::from(subnet)).map_or(ONE, |c| c.macs * c.correction / 1000);
        (cost * self.slowness(opp) / 1000).max(1)
    }

    /// A service time as a sample of the scale.
    pub fn scale(&self, subnet: u16, opp: u16, service_ns: u64) -> u64 {
        mul_div(service_ns, ONE, self.factor(subnet, opp))
    }

    /// The service time at that point, given the scale.
    pub fn service(&self, subnet: u16, opp: u16, scale_ns: u64) -> u64 {
        // No division: 2^20 stands for one, split in two so that hours do not overflow.
        (scale_ns >> 10).saturating_mul(self.factor(subnet, opp)) >> 10
    }

    /// After a free move to `subnet` the scale seemed to change from `before` to `after`: all of it, and
    /// from the second time on half of it, is held to be the sub-network's. Answers by what to divide the samples since (`mul`, `div`).
    pub fn correct_subnet(&mut self, subnet: u16, before: u64, after: u64) -> (u64, u64) {
        let Some(cost) = self.costs.get_mut(usize::from(subnet)) else { return (1, 1) };
        let old = cost.correction;
        let full = old.saturating_mul(after) / before.max(1);
        let full = full.min(4000);
        let mixed = if cost.known { (old + full) / 2 } else { full };
        cost.known = true;
        cost.correction = mixed.clamp(*CORRECTION.start(), *CORRECTION.end());
        (old, cost.correction)
    }

    /// Likewise after a free move from one OPP to another.
    pub fn correct_clock(&mut self, from: u16, to: u16, before: u64, after: u64) -> (u64, u64) {
        if !self.tables.is_empty() {
            return (1, 1); // measured, not guessed
        }
        let at = |opp: u16| self.inverse.get(usize::from(opp)).copied().unwrap_or(1000).cast_signed();
        let (x_from, x_to) = (at(from), at(to));
        let old = self.slowness(to);
        // r = service after / service before, thousandths; then solve
        // a + (1 - a) x_to = r (a + (1 - a) x_from) for a.
        let r = mul_div(mul_div(after, old, before), 1000, self.slowness(from)).min(1 << 20).cast_signed();
        let over = r * x_from / 1000 - x_to;
        let under = (1000 - x_to) - r * (1000 - x_from) / 1000;
        if under == 0 {
            return (1, 1);
        }
        let found = (over * 1000 / under).clamp(0, INSENSITIVE_MAX.cast_signed()).cast_unsigned();
        self.insensitive = (self.insensitive + found) / 2;
        (old, self.slowness(to))
    }

    /// Time passes: what was learned of sub-networks not run meanwhile fades by an eighth.
    pub fn fade(&mut self, running: u16) {
        for (i, c) in self.costs.iter_mut().enumerate() {
            if i != usize::from(running) {
                c.correction = (c.correction * 7 + 1000) / 8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_sdk::testing::{BoardBuilder, MS, app};

    fn model() -> Model {
        let board = BoardBuilder::new().khz("cpu", &[0], &[500_000, 1_000_000]).build();
        Model::new(&app("cam", &[("half", 8000, 500), ("full", 8600, 1000)]), 0, &board.domains[0], 1)
    }

    /// Four OPPs; each sub-network measured at some of them, in ms.
    fn profiled(half: &[(u16, u64)], full: &[(u16, u64)]) -> Model {
        let board = BoardBuilder::new().khz("cpu", &[0], &[500_000, 1_000_000, 1_500_000, 2_000_000]).build();
        let mut app = app("cam", &[("half", 8000, 500), ("full", 8600, 1000)]);
        for (subnet, points) in app.subnets.iter_mut().zip([half, full]) {
            for &(opp, ms) in points {
                let at =
                    policy_sdk::Measured { domain: 0, opp, threads: 1, p50_ns: ms * MS, p90_ns: 2 * ms * MS };
                subnet.measured.push(at);
                // Of other threads and domains: not to be looked at.
                subnet.measured.push(policy_sdk::Measured { threads: 2, p50_ns: 1, ..at });
                subnet.measured.push(policy_sdk::Measured { domain: 1, p50_ns: 1, ..at });
            }
        }
        Model::new(&app, 0, &board.domains[0], 1)
    }

    #[test]
    fn a_profile_stands_in_for_macs_and_frequencies() {
        // The half is dearer than its MACs, and the clock does less than it seems.
        let m = profiled(&[(0, 24), (3, 15)], &[(0, 30), (1, 25), (2, 21), (3, 20)]);
        assert_eq!(m.expected(), Some((20 * MS, 40 * MS)));
        for (subnet, opp, ms) in [(1, 3, 20), (1, 0, 30), (1, 2, 21), (0, 3, 15), (0, 0, 24)] {
            assert!(m.service(subnet, opp, 20 * MS).abs_diff(ms * MS) < MS / 50, "{subnet} {opp}");
        }
        // 1 / f of OPP 1 lies a third of the way from the top's to the lowest's.
        assert!(m.service(0, 1, 20 * MS).abs_diff(18 * MS) < MS / 50, "{}", m.service(0, 1, 20 * MS));
        // Twice as slow as measured: contention, for all points alike.
        assert_eq!(m.scale(0, 3, 30 * MS) / MS, 40);
    }

    #[test]
    fn beyond_what_was_measured_the_clock_counts_in_full() {
        let m = profiled(&[(3, 10)], &[(3, 20)]);
        assert!(m.service(0, 0, 20 * MS).abs_diff(40 * MS) < MS / 50, "{}", m.service(0, 0, 20 * MS));
    }

    #[test]
    fn threads_are_as_many_as_are_worth_their_cpus() {
        let board = BoardBuilder::new().khz("cpu", &[0, 1, 2, 3], &[500_000, 1_000_000]).build();
        let with = |ms: &[(u8, u64)]| {
            let mut app = app("cam", &[("half", 8000, 500), ("full", 8600, 1000)]);
            for (threads, ms) in ms {
                let at = policy_sdk::Measured {
                    domain: 0,
                    opp: 1,
                    threads: *threads,
                    p50_ns: ms * MS,
                    p90_ns: ms * MS,
                };
                app.subnets[1].measured.push(at);
            }
            app
        };
        let of = |ms: &[(u8, u64)], most| worthwhile_threads(&with(ms), 0, &board.domains[0], most);
        // 2 threads use 91 % of their CPUs, 3 of them 74 %, 4 of them 66 %.
        let scales = [(1, 40), (2, 22), (3, 18), (4, 15)];
        assert_eq!((of(&scales, 4), of(&scales, 2), of(&scales, 1)), (3, 2, 1));
        assert_eq!(of(&[(1, 40), (2, 30)], 4), 1, "67 %");
        assert_eq!((of(&[], 4), of(&[(2, 10)], 4)), (1, 1), "nothing to compare with");
        let pair = BoardBuilder::new().khz("cpu", &[0, 1], &[500_000, 1_000_000]).build();
        assert_eq!(worthwhile_threads(&with(&scales), 0, &pair.domains[0], 4), 2, "the domain has two CPUs");
    }

    #[test]
    fn half_a_profile_is_none() {
        let m = profiled(&[], &[(0, 30), (3, 20)]);
        assert_eq!(m.expected(), None);
        assert!(m.service(0, 3, 20 * MS).abs_diff(10 * MS) < MS / 50, "by its MACs");
    }

    #[test]
    fn macs_and_clock_convert_both_ways() {
        let m = model();
        assert_eq!(m.scale(1, 1, 20 * MS), 20 * MS);
        // half the MACs, half the clock: as long as the full one at the top
        assert!(m.service(0, 0, 20 * MS).abs_diff(20 * MS) < MS / 100);
        assert!(m.service(0, 1, 20 * MS).abs_diff(10 * MS) < MS / 100);
        assert!(m.scale(0, 0, 20 * MS).abs_diff(20 * MS) < MS / 100);
    }

    #[test]
    fn a_sub_network_dearer_than_its_macs_is_learned() {
        let mut m = model();
        for _ in 0..8 {
            // It takes 15 ms where 10 ms were expected.
            let after = m.scale(0, 1, 15 * MS);
            m.correct_subnet(0, 20 * MS, after);
        }
        assert!(m.service(0, 1, 20 * MS).abs_diff(15 * MS) < MS / 4, "{}", m.service(0, 1, 20 * MS));
    }

    #[test]
    fn work_that_ignores_half_the_clock_is_learned() {
        let mut m = model();
        for _ in 0..8 {
            // True: 20 ms at the top, 30 ms at half the clock (a = 0.5); 40 ms were expected at first.
            let after = m.scale(1, 0, 30 * MS);
            m.correct_clock(1, 0, 20 * MS, after);
        }
        assert!(m.service(1, 0, 20 * MS).abs_diff(30 * MS) < MS / 4, "{}", m.service(1, 0, 20 * MS));
    }

    #[test]
    fn what_was_learned_of_idle_sub_networks_fades() {
        let mut m = model();
        m.correct_subnet(0, 10, 20);
        m.correct_subnet(1, 10, 20);
        for _ in 0..40 {
            m.fade(1);
        }
        assert!(m.costs[0].correction <= 1010, "{:?}", m.costs);
        assert_eq!(m.costs[1].correction, 2000);
    }
}
