//! Tuner `lrgd`: PRiME's manager by linear regression and gradient descent (C. Leech, `rtm/lrgd` of the PRiME framework), for one
//! application, for comparison. Own code; the algorithm is theirs.
//!
//! **The manager.** Every monitor is a linear function of the knobs, fitted by least squares over a sliding window of 256 samples (the
//! oldest 64 go at once), each time 20 more have come. Until the first fit the knobs are set at random for every sample; the first reading after a
//! change of knobs is not used. Then, once and whenever a target changes: gradient descent of the device's
//! power from the highest knobs, under the application's monitor staying above its minimum; a step is 100 times the slope for
//! each knob, halved where it would leave the knob's range, all halved where the bound would break, until none is left
//! (`descent.rs`); since all are halved together, one knob at its bound can stop another short. If the bound does not hold at the
//! highest knobs they are set.
//!
//! **Adapted.** (1) Knobs: theirs are parallelism, affinity and clocks; ours the OPP and the sub-network, as its multiply-accumulates. (2) The
//! monitor with a minimum is performance, as theirs: inferences a second by service time; its minimum is the latency target's or the
//! rate at which frames come, whichever is more. (3) A larger sub-network makes performance worse, not better: where the
//! bound does not hold with the largest at the highest OPP, descent begins at the cheapest, and that one at the highest OPP is
//! what "nothing can be done" sets. (4) No knob for the sub-network below the accuracy floor. (5) Knobs are shares of their ranges, so that
//! one step size fits both; the OPP is rounded up as theirs, the sub-network down, so that the bound holds. (6) Power is
//! what the domain's rail shows, else the board file's power of the OPP times the busy share, else the frequency times that; averaged over the
//! sample, not over 200 ms of any knobs. (7) Random numbers begin with the same seed each time. (8) Where a window does not determine
//! a coefficient (after the search the knobs stand still) what was learned stays; their library takes the least of all solutions.
//! (9) As shipped nothing but a new target makes it search again (`reoptimise = false`), so neither a first fit that
//! was wrong (a plane over clock and cost is) nor a co-runner that comes later is answered; here it searches after every fit. (10) A grant of another domain begins anew. All arithmetic is in integers.
//!
//! Parameters: `threads` (1), `samples` between two fits (20), `reoptimise` (true).

mod descent;
mod line;

use line::{Line, Place, RANGE};
use policy_sdk::{App, Board, Choice, Domain, OppRange, Params, Slo, Tuner, View, log};

/// Frames before their rate is believed.
const ARRIVALS: u64 = 8;
/// Their count fades when it covers so long.
const ARRIVALS_NS: u64 = 4_000_000_000;
/// Thousandths of an inference a second, for one that takes a nanosecond.
const PER_NS: u64 = 1_000_000_000_000;
/// The most that is believed of a service: 10^9 thousandths a second.
const SERVICE_MIN_NS: u64 = 1000;

/// Where the knobs stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Knobs {
    subnet: u16,
    opp: u16,
}

/// See the crate's text.
#[derive(Debug)]
pub struct Lrgd {
    domains: Vec<Domain>,
    limits: Vec<OppRange>,
    app: App,
    threads: u8,
    samples: usize,
    reoptimise: bool,
    at: u16,
    target: Slo,
    /// OPPs allowed at present, the outside cap included.
    range: OppRange,
    knobs: Knobs,
    /// The first inference since the knobs were set has been seen.
    settled: bool,
    perf: Line,
    power: Line,
    /// Fitted and searched at least once.
    trained: bool,
    /// Since the last sample: mW ns and ns.
    energy: (u128, u64),
    /// mW of the last tick.
    now_mw: u64,
    /// Frames and the time they took to come.
    arrivals: (u64, u64),
    random: u64,
}

impl Tuner for Lrgd {
    fn start(board: &Board, app: &App, params: &mut Params) -> Result<Self, String> {
        let domain = board.domains.first().ok_or("board without a domain")?;
        let last = app.subnets.len().checked_sub(1).ok_or("application without a sub-network")?;
        let subnet = u16::try_from(last).map_err(|_| "more sub-networks than an index can name")?;
        Ok(Self {
            limits: board.domains.iter().map(Domain::range).collect(),
            domains: board.domains.clone(),
            app: app.clone(),
            threads: params.number("threads", 1..=app.threads_max.max(1), 1)?,
            samples: params.number("samples", 4..=256, 20)?,
            reoptimise: params.get("reoptimise", "true or false", true)?,
            at: 0,
            target: app.target,
            range: domain.range(),
            knobs: Knobs { subnet, opp: domain.top() },
            settled: false,
            perf: Line::default(),
            power: Line::default(),
            trained: false,
            energy: (0, 0),
            now_mw: 0,
            arrivals: (0, 0),
            random: 0x9e37_79b9_7f4a_7c15,
        })
    }

    fn limits(&mut self, opps: &[OppRange]) {
        for (kept, now) in self.limits.iter_mut().zip(opps) {
            *kept = *now;
        }
    }

    fn decide(&mut self, seen: &View) -> Choice {
        self.surroundings(seen);
        self.meter(seen);
        let opp = seen.domain.opp.unwrap_or(self.knobs.opp);
        for done in &seen.app.finished {
            if done.subnet != self.knobs.subnet {
                continue;
            }
            if self.settled {
                self.sample(Knobs { subnet: done.subnet, opp }, done.service_ns);
            } else {
                (self.settled, self.energy) = (true, (0, 0));
            }
        }
        let opp = self.knobs.opp.clamp(self.range.lo, self.range.hi);
        Choice { subnet: self.knobs.subnet, threads: self.threads, ask: Some(opp), ..Choice::default() }
    }
}

impl Lrgd {
    /// Domain, limits and target: what others decide.
    fn surroundings(&mut self, seen: &View) {
        if seen.grant.domain != self.at {
            self.at = seen.grant.domain;
            self.perf.clear();
            self.power.clear();
            self.trained = false;
            let top = self.domain().map_or(0, Domain::top);
            self.set(Knobs { opp: top, ..self.knobs });
        }
        let at = usize::from(self.at);
        let top = self.domain().map_or(0, Domain::top);
        let limit = self.limits.get(at).copied().unwrap_or(OppRange { lo: 0, hi: top });
        let hi = limit.hi.min(top).min(seen.domain.cap.unwrap_or(top));
        self.range = OppRange { lo: limit.lo.min(hi), hi };
        self.arrivals.0 += u64::from(seen.app.arrived);
        self.arrivals.1 += seen.window_ns;
        if self.arrivals.1 > ARRIVALS_NS {
            self.arrivals = (self.arrivals.0 / 2, self.arrivals.1 / 2);
        }
        if seen.grant.target != self.target {
            self.target = seen.grant.target;
            if self.trained {
                self.optimise();
            } else if !self.allowed().contains(&self.knobs.subnet) {
                self.randomise();
            }
        }
    }

    fn domain(&self) -> Option<&Domain> {
        self.domains.get(usize::from(self.at))
    }

    /// Power of the window.
    fn meter(&mut self, seen: &View) {
        let opp = seen.domain.opp.unwrap_or(self.knobs.opp);
        let of_board = self.domain().and_then(|d| d.opps.get(usize::from(opp))).map(|o| match o.power_mw {
            Some(mw) => u64::from(mw),
            // Any unit will do: only the slope's sign and size against itself count.
            None => {
                o.freq.saturating_mul(1000) / self.domain().and_then(|d| d.freq(d.top())).unwrap_or(1).max(1)
            }
        });
        let busy = u64::from(seen.domain.util.unwrap_or(1024).min(1024));
        let modelled = || of_board.unwrap_or(0).saturating_mul(busy) / 1024;
        self.now_mw = seen.domain.power_mw.map_or_else(modelled, u64::from);
        self.energy.0 += u128::from(self.now_mw) * u128::from(seen.window_ns);
        self.energy.1 = self.energy.1.saturating_add(seen.window_ns);
    }

    /// An inference at settled knobs.
    fn sample(&mut self, knobs: Knobs, service_ns: u64) {
        let x = [self.cost(knobs.subnet), self.clock(knobs.opp)];
        let rate = PER_NS / service_ns.max(SERVICE_MIN_NS);
        let mean_mw = self.energy.0.checked_div(u128::from(self.energy.1)).unwrap_or(u128::from(self.now_mw));
        self.perf.add(x, i64::try_from(rate).unwrap_or(i64::MAX));
        self.power.add(x, i64::try_from(mean_mw.min(1 << 32)).unwrap_or(0));
        self.energy = (0, 0);
        if self.perf.len().is_multiple_of(self.samples) {
            let allowed = self.allowed();
            let fixed = [
                allowed.iter().all(|s| self.cost(*s) == self.cost(allowed[0])),
                self.range.lo == self.range.hi,
            ];
            let trained = self.perf.train(fixed) & self.power.train(fixed);
            if trained && (self.reoptimise || !self.trained) {
                self.trained = true;
                self.optimise();
                return;
            }
        }
        if !self.trained {
            self.randomise();
        }
    }

    /// Sub-networks at or above the floor, cheapest first; if there are none, all.
    fn allowed(&self) -> Vec<u16> {
        let at_least = |floor: u16| {
            let good = (0u16..).zip(&self.app.subnets).filter(move |(_, s)| s.top1 >= floor);
            let mut good: Vec<(u64, u16)> = good.map(|(i, s)| (s.macs, i)).collect();
            good.sort_unstable();
            good.into_iter().map(|(_, i)| i).collect::<Vec<_>>()
        };
        let some = at_least(self.target.top1.unwrap_or(0));
        if some.is_empty() { at_least(0) } else { some }
    }

    /// A sub-network's place among all, 0 to [`RANGE`].
    fn cost(&self, subnet: u16) -> i64 {
        let macs = self.app.subnets.iter().map(|s| s.macs);
        let (least, most) = (macs.clone().min().unwrap_or(0), macs.max().unwrap_or(0));
        let mine = self.app.subnets.get(usize::from(subnet)).map_or(0, |s| s.macs) - least;
        let share = u128::from(mine) * u128::from(RANGE.unsigned_abs()) / u128::from((most - least).max(1));
        i64::try_from(share).unwrap_or(RANGE)
    }

    /// An OPP's place among all, 0 to [`RANGE`].
    fn clock(&self, opp: u16) -> i64 {
        let top = self.domain().map_or(1, Domain::top).max(1);
        i64::from(opp) * RANGE / i64::from(top)
    }

    /// The lowest OPP at or above a place.
    fn opp_at(&self, place: Place) -> u16 {
        let at_least = |o: &u16| Place::of(self.clock(*o)) >= place;
        (self.range.lo..=self.range.hi).find(at_least).unwrap_or(self.range.hi)
    }

    fn optimise(&mut self) {
        let allowed = self.allowed();
        let (Some(cheapest), Some(dearest)) = (allowed.first(), allowed.last()) else { return };
        let (cheap, dear) = (Place::of(self.cost(*cheapest)), Place::of(self.cost(*dearest)));
        let (low, high) = (Place::of(self.clock(self.range.lo)), Place::of(self.clock(self.range.hi)));
        let bound = i128::from(self.bound());
        let search =
            |from: Place| descent::descend(&self.power, &self.perf, bound, [from, high], [cheap, low]);
        let found = search(dear).or_else(|| search(cheap));
        let knobs = match found {
            Some([cost, clock]) => {
                let within = |s: &&u16| Place::of(self.cost(**s)) <= cost;
                let subnet = allowed.iter().rev().find(within).unwrap_or(cheapest);
                Knobs { subnet: *subnet, opp: self.opp_at(clock) }
            }
            None => Knobs { subnet: *cheapest, opp: self.range.hi },
        };
        if knobs != self.knobs {
            let held =
                if found.is_some() { "predicted to hold the bound" } else { "nothing holds the bound" };
            log::info(&format!("sub-network {}, OPP {}: {held}", knobs.subnet, knobs.opp));
            self.set(knobs);
        }
    }

    /// The least performance, thousandths of an inference a second.
    fn bound(&self) -> u64 {
        let (count, time) = self.arrivals;
        let comes = if count < ARRIVALS {
            0
        } else {
            u128::from(count) * u128::from(PER_NS) / u128::from(time.max(1))
        };
        let target = self.target.latency_ns.map_or(0, |t| PER_NS / t.max(1));
        target.max(u64::try_from(comes).unwrap_or(u64::MAX))
    }

    fn randomise(&mut self) {
        let allowed = self.allowed();
        let subnet = self.below(allowed.len());
        let opps = self.below(usize::from(self.range.hi - self.range.lo) + 1);
        let opp = self.range.lo + u16::try_from(opps).unwrap_or(0);
        self.set(Knobs { subnet: allowed.get(subnet).copied().unwrap_or(0), opp });
    }

    fn set(&mut self, knobs: Knobs) {
        (self.knobs, self.settled, self.energy) = (knobs, false, (0, 0));
    }

    /// xorshift64*, below `n`.
    fn below(&mut self, n: usize) -> usize {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let high = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap_or(0) % n.max(1)
    }
}

policy_sdk::export_tuner!(Lrgd);

#[cfg(test)]
mod tests;
