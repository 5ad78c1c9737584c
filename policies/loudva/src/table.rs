//! What a frame takes at each point: the profile where there is one, else multiply-accumulates over frequency, scaled by
//! what was measured.

use policy_sdk::{App, Domain, Subnet};

/// Fixed point of the scale: 1 << 20 = 1 ns per multiply-accumulate at 1 unit of frequency.
const ONE: u128 = 1 << 20;
/// A new sample of the scale weighs one part in so many.
const SMOOTH: u128 = 8;

/// Times on one domain with so many threads.
#[derive(Debug)]
pub struct Table {
    freqs: Vec<u64>,
    macs: Vec<u64>,
    /// By sub-network and OPP, ns; empty where the profile says nothing.
    profile: Vec<Vec<u64>>,
    /// ns x frequency / multiply-accumulates, times [`ONE`].
    scale: Option<u128>,
}

impl Table {
    /// For the domain at position `at` of the board.
    pub fn new(app: &App, at: u16, domain: &Domain, threads: u8) -> Self {
        let freqs = domain.freqs();
        let profile: Vec<_> = app.subnets.iter().map(|s| times(s, at, threads, &freqs)).collect();
        let mut table =
            Self { macs: app.subnets.iter().map(|s| s.macs).collect(), freqs, profile, scale: None };
        // A sub-network that the profile leaves out goes by the others.
        table.scale = (0..table.macs.len()).find_map(|s| {
            let (opp, ns) = table.profile[s].iter().copied().enumerate().next_back()?;
            table.scale_of(s, opp, ns)
        });
        table
    }

    fn scale_of(&self, subnet: usize, opp: usize, ns: u64) -> Option<u128> {
        let (macs, freq) = (*self.macs.get(subnet)?, *self.freqs.get(opp)?);
        (macs > 0).then(|| u128::from(ns) * u128::from(freq) * ONE / u128::from(macs))
    }

    /// A frame took that long. Where the profile speaks nothing is learned, as in LoudVA.
    pub fn learn(&mut self, subnet: u16, opp: u16, ns: u64) {
        let (subnet, opp) = (usize::from(subnet), usize::from(opp));
        if self.profile.get(subnet).is_none_or(|p| !p.is_empty()) {
            return;
        }
        if let Some(new) = self.scale_of(subnet, opp, ns) {
            self.scale = Some(self.scale.map_or(new, |old| old - old / SMOOTH + new / SMOOTH));
        }
    }

    /// What a frame takes there, ns; `None`: nothing is known yet.
    pub fn time(&self, subnet: usize, opp: usize) -> Option<u64> {
        if let Some(ns) = self.profile.get(subnet).and_then(|p| p.get(opp)) {
            return Some(*ns);
        }
        let (macs, freq) = (*self.macs.get(subnet)?, *self.freqs.get(opp)?);
        let ns = self.scale? * u128::from(macs) / ONE / u128::from(freq.max(1));
        Some(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

/// A sub-network's medians at every OPP; OPPs that the profile leaves out on a line in `1 / f` between their neighbours,
/// beyond the outermost in proportion to `1 / f`. Empty: it says nothing.
fn times(subnet: &Subnet, at: u16, threads: u8, freqs: &[u64]) -> Vec<u64> {
    let here = subnet.measured.iter().filter(|m| m.domain == at && m.threads == threads);
    let mut known: Vec<(usize, u64)> = here.map(|m| (usize::from(m.opp), m.p50_ns)).collect();
    known.retain(|(opp, ns)| *opp < freqs.len() && *ns > 0);
    known.sort_unstable();
    known.dedup_by_key(|k| k.0);
    if known.is_empty() {
        return vec![];
    }
    let between = |opp: usize| {
        let below = known.iter().rev().find(|k| k.0 <= opp);
        let above = known.iter().find(|k| k.0 >= opp);
        let freq = |o: usize| i128::from(freqs[o].max(1));
        let ns = match (below, above) {
            (Some(a), Some(b)) if a.0 < b.0 => {
                // t = t_b + (t_a - t_b) (1/f - 1/f_b) / (1/f_a - 1/f_b)
                let (fa, fb, f) = (freq(a.0), freq(b.0), freq(opp));
                let (ta, tb) = (i128::from(a.1), i128::from(b.1));
                tb + (ta - tb) * (fb - f) * fa / ((fb - fa).max(1) * f)
            }
            (Some(k), _) | (None, Some(k)) => i128::from(k.1) * freq(k.0) / freq(opp),
            (None, None) => 0,
        };
        u64::try_from(ns.max(1)).unwrap_or(u64::MAX)
    };
    (0..freqs.len()).map(between).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_sdk::Measured;
    use policy_sdk::testing::{BoardBuilder, MS, app};

    fn board() -> policy_sdk::Board {
        BoardBuilder::new().khz("cpu", &[0], &[500_000, 1_000_000, 1_500_000, 2_000_000]).build()
    }

    fn measured(opp: u16, ms: u64) -> Measured {
        Measured { domain: 0, opp, threads: 1, p50_ns: ms * MS, p90_ns: ms * MS }
    }

    #[test]
    fn a_profile_is_taken_as_it_is_and_its_gaps_on_a_line_in_one_over_f() {
        let mut one = app("cam", &[("only", 9000, 100)]);
        one.subnets[0].measured =
            vec![measured(3, 12), measured(1, 20), Measured { domain: 1, ..measured(2, 99) }];
        let t = Table::new(&one, 0, &board().domains[0], 1);
        // t = 4 + 16/f: 36 (beyond the outermost in proportion: 40), 20, 14.67, 12 ms.
        let got: Vec<_> = (0..4).map(|o| t.time(0, o).unwrap() / 1000).collect();
        assert_eq!(got, [40_000, 20_000, 14_666, 12_000]);
        assert_eq!(
            Table::new(&one, 0, &board().domains[0], 2).time(0, 0),
            None,
            "of other threads it says nothing"
        );
    }

    #[test]
    fn without_a_profile_times_go_by_work_over_frequency_and_what_was_measured() {
        let two = app("cam", &[("half", 8000, 500_000), ("full", 9000, 1_000_000)]);
        let mut t = Table::new(&two, 0, &board().domains[0], 1);
        assert_eq!(t.time(0, 0), None);
        t.learn(1, 3, 20 * MS);
        let ms = |t: &Table, s, o| (t.time(s, o).unwrap() + MS / 2) / MS;
        assert_eq!([ms(&t, 1, 3), ms(&t, 1, 1), ms(&t, 0, 3), ms(&t, 0, 0)], [20, 40, 10, 40]);
        // A co-runner takes half: an eighth of the way each time.
        t.learn(1, 3, 40 * MS);
        assert_eq!(t.time(1, 3).unwrap() / 100_000, 225);
        (0..60).for_each(|_| t.learn(1, 3, 40 * MS));
        assert_eq!(ms(&t, 1, 3), 40);
    }

    #[test]
    fn a_sub_network_that_the_profile_leaves_out_goes_by_the_others() {
        let mut two = app("cam", &[("half", 8000, 500_000), ("full", 9000, 1_000_000)]);
        two.subnets[1].measured = vec![measured(3, 20)];
        let mut t = Table::new(&two, 0, &board().domains[0], 1);
        assert_eq!(t.time(0, 3).unwrap() / 100_000, 100);
        t.learn(1, 3, 80 * MS);
        assert_eq!(t.time(1, 3), Some(20 * MS), "the profile stands");
        t.learn(0, 3, 18 * MS);
        assert_eq!(t.time(0, 3).unwrap() / 100_000, 110);
    }
}
