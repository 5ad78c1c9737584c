//! What other points would do, and which of them is best by the objective.

use super::{BUSY_JUST_SO, BUSY_MAX, Point, Present, TandemTuner, UP_MARGIN};
use policy_sdk::{Binds, Objective};

/// A free move within a sub-network, or for energy, must save this much, thousandths ...
const SAVES: u64 = 970;
/// ... and one for latency be so much faster.
const FASTER: u64 = 950;
/// Up to here a wait is the kernel's waking up, whatever the point.
const WAKE_UP_NS: u64 = 1_000_000;
/// Shares of the budget, thousandths: what a free move may plan for, and above what a choice is left. By the board's powers ...
const TOLD_BUDGET: (u64, u64) = (1000, 1050);
/// ... and by what a rail taught: exact where it has been, and a guess elsewhere.
const LEARNED_BUDGET: (u64, u64) = (960, 1000);

impl TandemTuner {
    /// Utilisation of the application's server at that point, thousandths.
    pub(super) fn busy(&self, point: Point, median: u64) -> u64 {
        self.arrivals.busy(self.model.service(point.subnet, point.opp, median))
    }

    /// The predicted 95th percentile of latency there. Waits are carried over from the present point:
    /// with the service time and `1 / (1 - busy)` where inferences arrive together and wait for one
    /// another, and with the chance to find the server busy as well where they arrive singly (M/G/1).
    pub(super) fn latency(
        &self,
        p: Point,
        now: Point,
        (wait_ns, together): (u64, bool),
        scale: (u64, u64),
    ) -> u64 {
        let weight_us = |p: Point| {
            let busy = self.busy(p, scale.0).min(950);
            let chance = if together { 1000 } else { busy };
            (self.model.service(p.subnet, p.opp, scale.0) / 1000).saturating_mul(chance) / (1000 - busy)
        };
        let wakes_up = wait_ns.min(WAKE_UP_NS);
        let queued_us = ((wait_ns - wakes_up) / 1000).saturating_mul(weight_us(p)) / weight_us(now).max(1);
        let wait_ns = queued_us.saturating_mul(1000).saturating_add(wakes_up);
        self.model.service(p.subnet, p.opp, scale.1).saturating_add(wait_ns)
    }

    /// What other points are predicted from.
    pub(super) fn present(&self, now_ns: u64, now: Point, scale: (u64, u64)) -> Present {
        let some = self.model.service(now.subnet, now.opp, scale.0) / 16;
        let waits = match self.busy(now, scale.0) {
            // Overloaded: the wait only tells for how long.
            1000.. => (0, false),
            busy => {
                let (wait_ns, waited) = self.window.waits(now_ns, self.generation, some);
                (wait_ns, waited > busy.saturating_mul(2))
            }
        };
        Present { now_ns, point: now, scale, waits }
    }

    /// The lowest OPP at which `subnet` holds `margin` thousandths of the target. Just so (1000) the server may be as
    /// busy as a periodic stream allows.
    pub(super) fn lowest(&self, subnet: u16, at: &Present, margin: u64) -> Option<u16> {
        let Present { now_ns, point: now, scale, waits } = *at;
        let busy_max = if margin < 1000 { BUSY_MAX } else { BUSY_JUST_SO };
        let holds = |opp: u16| {
            let p = Point { subnet, opp };
            let in_time = self.target.latency_ns.is_none_or(|target| {
                self.latency(p, now, waits, scale) <= (target / 1000).saturating_mul(margin)
            });
            in_time && self.busy(p, scale.0) <= busy_max
        };
        let mut lo = self.range.lo.max(self.failures.open_from(subnet, now_ns, scale.0));
        let mut hi = self.range.hi;
        if lo > hi || !holds(hi) {
            return None;
        }
        // A faster clock never makes it slower: bisect.
        while lo < hi {
            let mid = lo + (hi - lo) / 2;
            if holds(mid) { hi = mid } else { lo = mid + 1 }
        }
        Some(lo)
    }

    /// Predicted mean power of the granted domain there, uW.
    fn power_uw(&self, p: Point, median: u64) -> u64 {
        let cpus = self.domains[usize::from(self.domain)].cpus.len() as u64;
        // Its threads are taken to be busy all the time of an inference. What it waits for a CPU it does not spend, if
        // others did: who wakes up waits a little without anybody's work.
        let threads = u64::from(self.threads).clamp(1, cpus.max(1));
        let own = self.busy(p, median).min(1000) * threads;
        let waits = (own * self.waits.min(1_000_000) / 1_000_000).min(self.others);
        let util = (own - waits + self.others) / cpus.max(1);
        self.power.mean_uw(p.opp, util)
    }

    /// Whether so many thousandths of the budget pay for it.
    fn affordable(&self, p: Point, median: u64, share: u64) -> bool {
        self.spends(p, median) <= share
    }

    /// What may be planned for, and what makes a choice be given up: not a prediction that wavers.
    fn budget_shares(&self) -> (u64, u64) {
        if self.power.learned() { LEARNED_BUDGET } else { TOLD_BUDGET }
    }

    /// Clearly so.
    pub(super) fn over_budget(&self, p: Point, median: u64) -> bool {
        !self.affordable(p, median, self.budget_shares().1)
    }

    /// Thousandths of the budget; 0 without one.
    fn spends(&self, p: Point, median: u64) -> u64 {
        let budget = self.budget_mw.filter(|_| self.power.known());
        budget.map_or(0, |mw| self.power_uw(p, median) / u64::from(mw.max(1)))
    }

    pub(super) fn meets_floor(&self, subnet: u16) -> bool {
        let top1 = self.app.subnets.get(usize::from(subnet)).map_or(0, |s| s.top1);
        self.target.top1.is_none_or(|floor| top1 >= floor)
    }

    /// The place of a sub-network by falling accuracy.
    pub(super) fn place(&self, subnet: u16) -> usize {
        self.order.iter().position(|s| *s == subnet).unwrap_or(0)
    }

    /// What is left when nothing holds: the cheapest sub-network at the highest OPP that the budget allows; where it
    /// allows none, at the one that draws least.
    pub(super) fn cheapest(&self, median: u64) -> Point {
        let subnet = self.order.last().copied().unwrap_or(0);
        let opps = || (self.range.lo..=self.range.hi).rev().map(|opp| Point { subnet, opp });
        let within = opps().find(|p| self.affordable(*p, median, self.budget_shares().0));
        within
            .or_else(|| opps().min_by_key(|p| self.power_uw(*p, median)))
            .unwrap_or(Point { subnet, opp: self.range.hi })
    }

    /// `subnet` at the OPP that is best for it: the fastest for latency, else the one of least energy.
    fn at_its_best(&self, subnet: u16, at: &Present, margin: u64, share: u64) -> Option<Point> {
        let lowest = self.lowest(subnet, at, margin)?;
        let opps = (lowest..=self.range.hi).map(|opp| Point { subnet, opp });
        let mut within = opps.filter(|p| self.affordable(*p, at.scale.0, share));
        match self.target.objective {
            Objective::Latency => within.next_back(),
            _ => within.min_by_key(|p| self.power_uw(*p, at.scale.0)),
        }
    }

    /// What the objective makes least.
    fn cost(&self, p: Point, at: &Present, objective: Objective) -> u64 {
        match objective {
            Objective::Accuracy => self.place(p.subnet) as u64,
            Objective::Energy => self.power_uw(p, at.scale.0),
            Objective::Latency => self.latency(p, at.point, at.waits, at.scale),
        }
    }

    /// The best point among `order[from..]`: at the floor with `margin`, just so, just within the budget; below the floor.
    /// Equal ones: the more accurate.
    pub(super) fn best(&self, from: usize, present: &Present, margin: u64) -> Option<Point> {
        let at = |floor: bool, margin: u64, share: u64, objective: Objective| {
            self.order
                .iter()
                .skip(from)
                .filter(|s| self.meets_floor(**s) == floor)
                .filter_map(|s| self.at_its_best(*s, present, margin, share))
                .min_by_key(|p| self.cost(*p, present, objective))
        };
        let (objective, (planned, most)) = (self.target.objective, self.budget_shares());
        at(true, margin, planned, objective)
            .or_else(|| at(true, 1000, planned, objective))
            .or_else(|| at(true, 1000, most, objective))
            .or_else(|| at(false, margin, planned, Objective::Accuracy))
    }

    /// Whether a free move there is worth its risk.
    pub(super) fn better(&self, next: Point, at: &Present) -> bool {
        let now = at.point;
        if self.over_budget(now, at.scale.0) {
            return true;
        }
        match (self.meets_floor(next.subnet), self.meets_floor(now.subnet)) {
            (true, false) => return true,
            (false, true) => return false,
            _ => {}
        }
        let falls = |objective, share: u64| {
            let cost = |p| self.cost(p, at, objective);
            cost(next).saturating_mul(1000) < cost(now).saturating_mul(share)
        };
        let (to, from) = (self.place(next.subnet), self.place(now.subnet));
        match self.target.objective {
            // Below the floor accuracy comes first.
            _ if !self.meets_floor(now.subnet) && to != from => to < from,
            Objective::Accuracy => to < from || (to == from && falls(Objective::Energy, SAVES)),
            Objective::Energy => falls(Objective::Energy, SAVES),
            Objective::Latency => falls(Objective::Latency, FASTER),
        }
    }

    /// Whether the next better point by the objective would hold and is beyond the budget.
    pub(super) fn next_is_too_dear(&self, at: &Present) -> bool {
        let (now, (planned, _)) = (at.point, self.budget_shares());
        match self.target.objective {
            Objective::Energy => false,
            Objective::Latency => {
                let faster = Point { opp: now.opp + 1, ..now };
                now.opp < self.range.hi && !self.affordable(faster, at.scale.0, planned)
            }
            Objective::Accuracy => self.place(now.subnet).checked_sub(1).is_some_and(|above| {
                let subnet = self.order[above];
                let holds = self.lowest(subnet, at, UP_MARGIN).is_some();
                holds && self.at_its_best(subnet, at, UP_MARGIN, planned).is_none()
            }),
        }
    }

    /// What keeps the application from more.
    pub(super) fn bound_by(&self, point: Point) -> Binds {
        if self.infeasible || !self.meets_floor(point.subnet) {
            return Binds::Infeasible;
        }
        let place = self.place(point.subnet);
        let next_down = self.order.get(place + 1);
        let floor_binds = next_down.is_some_and(|s| !self.meets_floor(*s));
        let done = match self.target.objective {
            Objective::Accuracy => place == 0,
            Objective::Energy => next_down.is_none() && point.opp == self.range.lo,
            Objective::Latency => next_down.is_none() && point.opp == self.range.hi,
        };
        let top = self.domains[usize::from(self.domain)].top();
        match () {
            () if done => Binds::Nothing,
            () if self.range.hi < top && point.opp == self.range.hi => Binds::Cap,
            () if self.waits >= self.in_the_way() => Binds::CoRunner,
            () if self.target.objective != Objective::Accuracy && floor_binds => Binds::Top1,
            () if self.too_dear => Binds::Power,
            () => Binds::Latency,
        }
    }

    /// From which share of its time on, spent waiting for CPUs, a co-runner binds, thousandths of thousandths: less for one that
    /// does already, since the share wavers.
    fn in_the_way(&self) -> u64 {
        if self.binds == Some(Binds::CoRunner) { 60_000 } else { 150_000 }
    }

    /// The same for people.
    pub(super) fn words(&self, binds: Binds) -> &'static str {
        match binds {
            Binds::Nothing => "nothing binds",
            Binds::Latency => "the latency target binds",
            Binds::Top1 => "the accuracy floor binds",
            Binds::Power => "the power budget binds",
            Binds::Cap => "a cap on the clock binds",
            Binds::CoRunner => "a co-runner binds: time goes on waiting for CPUs",
            Binds::Infeasible if self.infeasible => "infeasible: cheapest sub-network, highest OPP",
            Binds::Infeasible => "infeasible at the accuracy floor: below it",
        }
    }
}
