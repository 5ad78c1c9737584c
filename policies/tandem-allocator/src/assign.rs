//! Which domain each application runs on, and what a power budget leaves each domain.
//!
//! For every way to place the applications it predicts, from their profiles, what each needs on its domain
//! (the sub-network that its bounds and its objective ask for, at the lowest OPP that holds them), how many
//! then miss a bound, how much accuracy is lost, and what the board draws: a domain runs at the highest OPP
//! that anyone on it needs. A domain without a profile of an application is no choice for it, so without
//! profiles everybody stays.
//!
//! What others run on a domain draws power there whoever else comes or goes (`others.rs`); it is counted at the OPP that
//! schedutil would give them, so that nobody's place is chosen in order to slow them.
//!
//! How the machine differs from the profile is learned per application and domain: the ratio of service times
//! seen to those predicted. A co-runner is such a difference. What is known of a domain where the application
//! does not run fades. What OPPs draw is by the board file, else by a stand-in, and corrected by the domain's rail where there
//! is one.

use super::others::Others;
use policy_sdk::predict::{Arrivals, Power, mul_div, times};
use policy_sdk::{App, AppSample, Domain, Objective, OppRange, Slo, Snapshot};

/// To which share of the target a service time is planned, and how busy a CPU, thousandths: medians are predicted, 95th
/// percentiles are wanted.
const PLANNED: Margins = Margins { latency: 900, busy: 920 };
/// The same where the accuracy floor would be given up otherwise.
const JUST_SO: Margins = Margins { latency: 960, busy: 960 };
/// Placements are weighed this often.
const REVIEW_NS: u64 = 250_000_000;
/// A move must leave at most this much of the power that applications cause, thousandths ...
const SAVES: u64 = 900;
/// ... and comes this long after the one before.
const DWELL_NS: u64 = 3_000_000_000;
/// A domain left because bounds did not hold there is barred this long, twice as long if that happens again soon.
const BARRED_NS: u64 = 10_000_000_000;
const BARRED_MAX_NS: u64 = 160_000_000_000;
/// What is known of a domain not used fades by one part in so many each second: it halves in a minute.
const FADE: u64 = 87;
const FADE_EVERY_NS: u64 = 1_000_000_000;
/// Bounds of a learned ratio, thousandths.
const BIAS: std::ops::RangeInclusive<u64> = 250..=8000;
/// Placements are found by trying one application at a time, so often.
const ROUNDS: usize = 2;

/// From here on a window shows what an OPP draws, and not what it draws idle, thousandths.
const SHOWS_BUSY: u64 = 200;

/// Up to this share of its budget a tuner stays where it is, thousandths.
const JUST_PAID: u64 = 1050;

/// Thousandths.
#[derive(Clone, Copy, Debug)]
struct Margins {
    latency: u64,
    busy: u64,
}

/// One application.
#[derive(Debug)]
pub struct Candidate {
    /// By domain, then sub-network, then OPP, ns; empty where the profile says nothing.
    times: Vec<Vec<Vec<u64>>>,
    top1: Vec<u16>,
    target: Slo,
    /// By domain, thousandths.
    bias: Vec<u64>,
    arrivals: Arrivals,
    unfaded_ns: u64,
    /// Where it runs.
    pub domain: u16,
    /// The next inference to finish may have begun elsewhere.
    moved: bool,
    /// By domain: until when it is barred, and for how long the last time, ns.
    barred: Vec<(u64, u64)>,
}

impl Candidate {
    /// On `domain` until more is known.
    pub fn new(app: &App, domains: &[Domain], domain: u16) -> Self {
        let table = |(at, d): (u16, &Domain)| {
            let of = |s| times(s, at, d, 1, |m| m.p50_ns);
            let all: Vec<Vec<u64>> = app.subnets.iter().map(of).collect();
            if all.iter().any(Vec::is_empty) { vec![] } else { all }
        };
        Self {
            times: (0..).zip(domains).map(table).collect(),
            top1: app.subnets.iter().map(|s| s.top1).collect(),
            target: app.target,
            bias: vec![1000; domains.len()],
            arrivals: Arrivals::default(),
            unfaded_ns: 0,
            domain,
            moved: false,
            barred: vec![(0, 0); domains.len()],
        }
    }

    /// Perhaps another target.
    pub fn retarget(&mut self, target: Slo) {
        if target != self.target {
            self.target = target;
            self.barred.fill((0, 0));
        }
    }

    fn bar(&mut self, domain: u16, now_ns: u64) {
        let Some((until, lasted)) = self.barred.get_mut(usize::from(domain)) else { return };
        let soon = *lasted > 0 && now_ns < until.saturating_add(lasted.saturating_mul(4));
        *lasted = if soon { (*lasted * 2).min(BARRED_MAX_NS) } else { BARRED_NS };
        *until = now_ns.saturating_add(*lasted);
    }

    /// Folds a window in; `opp` is its domain's.
    pub fn observe(&mut self, seen: &AppSample, opp: Option<u16>, window_ns: u64) {
        self.arrivals.add(seen.arrived, window_ns);
        let here = usize::from(self.domain);
        self.unfaded_ns = self.unfaded_ns.saturating_add(window_ns);
        if self.unfaded_ns >= FADE_EVERY_NS {
            self.unfaded_ns = 0;
            for (d, bias) in self.bias.iter_mut().enumerate() {
                if d != here {
                    let faded = *bias * (FADE - 1) + 1000;
                    *bias = if *bias < 1000 { faded.div_ceil(FADE) } else { faded / FADE };
                }
            }
        }
        let Some(table) = self.times.get(here).filter(|t| !t.is_empty()) else { return };
        for done in &seen.finished {
            if std::mem::take(&mut self.moved) {
                continue;
            }
            let predicted =
                opp.and_then(|o| table.get(usize::from(done.subnet))?.get(usize::from(o)).copied());
            if let (Some(predicted), true) = (predicted, done.service_ns > 0) {
                let ratio = mul_div(done.service_ns, 1000, predicted).clamp(*BIAS.start(), *BIAS.end());
                self.bias[here] = (self.bias[here] * 15 + ratio) / 16;
            }
        }
    }

    fn can(&self, domain: usize) -> bool {
        self.times.get(domain).is_some_and(|t| !t.is_empty())
    }

    /// Service time there, ns.
    fn service(&self, domain: usize, subnet: usize, opp: u16) -> u64 {
        mul_div(self.times[domain][subnet][usize::from(opp)], self.bias[domain], 1000)
    }

    /// Share of a CPU it takes there, thousandths.
    fn busy(&self, domain: usize, subnet: usize, opp: u16) -> u64 {
        self.arrivals.busy(self.service(domain, subnet, opp))
    }

    fn meets_floor(&self, subnet: usize) -> bool {
        self.target.top1.is_none_or(|floor| self.top1[subnet] >= floor)
    }
}

/// What an application needs on a domain.
#[derive(Clone, Copy, Debug)]
struct Need {
    subnet: usize,
    opp: u16,
    /// Its bounds hold.
    holds: bool,
}

/// Share of the domain's CPUs that was busy, thousandths; of a device its own figure.
fn busy(domain: &Domain, seen: &Snapshot, d: usize) -> Option<u64> {
    let thousandths = |of_1024: u16| u64::from(of_1024) * 1000 / 1024;
    if domain.cpus.is_empty() {
        return seen.domains[d].util.map(thousandths);
    }
    let cpu = |c: &u32| seen.cpus.get(*c as usize)?.busy.map(thousandths);
    let sum: u64 = domain.cpus.iter().map(cpu).sum::<Option<u64>>()?;
    Some(sum / domain.cpus.len() as u64)
}

/// How good a placement is; smaller is better, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    /// Applications whose bounds do not hold.
    missing: usize,
    /// Hundredths of a point given up by those that want accuracy.
    given_up: u64,
    /// Service times of those that want latency, us.
    latency_us: u64,
    power_uw: u64,
}

/// Places applications.
#[derive(Debug)]
pub struct Assigner {
    domains: Vec<Domain>,
    power: Vec<Power>,
    /// At the end of the window before.
    opps: Vec<Option<u16>>,
    others: Vec<Others>,
    /// Others get the clock that schedutil would give them.
    serves_others: bool,
    moved_ns: u64,
    reviewed_ns: u64,
    /// What each application's domain may draw for it, the others there served, as divided last, mW.
    parts: Vec<u32>,
}

impl Assigner {
    /// Nothing placed yet.
    pub fn new(domains: &[Domain], idle_permille: u64, serves_others: bool) -> Self {
        Self {
            domains: domains.to_vec(),
            opps: vec![None; domains.len()],
            others: domains.iter().map(Others::new).collect(),
            serves_others,
            power: domains.iter().map(|d| Power::of(d, idle_permille)).collect(),
            moved_ns: 0,
            reviewed_ns: 0,
            parts: vec![],
        }
    }

    /// Folds in what a window shows of others.
    pub fn watch(&mut self, apps: &[Candidate], seen: &Snapshot) {
        for (d, others) in self.others.iter_mut().enumerate() {
            let here = apps.iter().zip(&seen.apps).filter(|(a, _)| usize::from(a.domain) == d);
            let apps_ns = here.map(|(_, sample)| sample.run_ns.unwrap_or(0)).sum();
            let opp = seen.domains.get(d).and_then(|s| s.opp);
            others.observe(&seen.cpus, apps_ns, opp, seen.window_ns);
            let at_one_opp = std::mem::replace(&mut self.opps[d], opp) == opp;
            if let (Some(opp), Some(mw), true) = (opp, seen.domains[d].power_mw, at_one_opp)
                && let Some(util) = busy(&self.domains[d], seen, d).filter(|util| *util >= SHOWS_BUSY)
            {
                self.power[d].learn(opp, util, mw, seen.window_ns);
            }
        }
    }

    /// The OPP below which a domain may not fall for the sake of others.
    pub fn floor(&self, domain: usize, range: OppRange) -> Option<u16> {
        self.serves_others.then(|| self.others[domain].opp(range))
    }

    /// A target changed: what is best may have changed with it.
    pub fn reconsider(&mut self) {
        (self.moved_ns, self.reviewed_ns) = (0, 0);
    }

    /// Whether it is time to look again: not each tick, since it weighs every placement.
    pub fn due(&mut self, now_ns: u64) -> bool {
        let due = self.reviewed_ns == 0 || now_ns.saturating_sub(self.reviewed_ns) >= REVIEW_NS;
        if due {
            self.reviewed_ns = now_ns;
        }
        due
    }

    /// Moves applications if that is clearly better; answers whether it did.
    pub fn place(&mut self, apps: &mut [Candidate], ranges: &[OppRange], now_ns: u64) -> bool {
        let due = self.moved_ns == 0 || now_ns.saturating_sub(self.moved_ns) >= DWELL_NS;
        let choices = apps.iter().any(|a| (0..self.domains.len()).filter(|d| a.can(*d)).count() > 1);
        // Powers that are stand-ins say nothing about one domain against another.
        let used = |d: usize| apps.iter().any(|a| a.can(d));
        let comparable = self.power.iter().enumerate().all(|(d, p)| p.known() || !used(d));
        if !due || !choices || !comparable || !apps.iter().all(|a| a.arrivals.known()) {
            return false;
        }
        let now: Vec<usize> = apps.iter().map(|a| usize::from(a.domain)).collect();
        if (0..apps.len()).any(|i| !apps[i].can(now[i])) {
            return false; // where it is cannot be compared with
        }
        let stands = self.cost(apps, &now, ranges);
        let mut best = (stands, now.clone());
        for _ in 0..ROUNDS {
            for i in 0..apps.len() {
                let open = |d: &usize| apps[i].can(*d) && (*d == now[i] || apps[i].barred[*d].0 <= now_ns);
                for d in (0..self.domains.len()).filter(open) {
                    let mut other = best.1.clone();
                    other[i] = d;
                    let cost = self.cost(apps, &other, ranges);
                    if cost < best.0 {
                        best = (cost, other);
                    }
                }
            }
        }
        let (cost, to) = best;
        let others: u64 =
            (0..self.domains.len()).map(|d| self.drawn(apps, &[], d, self.others[d].opp(ranges[d]))).sum();
        // Who has a budget does not leave another domain idle beside it for speed alone.
        let free = apps.iter().all(|a| a.target.power_mw.is_none());
        let own = stands.power_uw.saturating_sub(others);
        let better = (cost.missing, cost.given_up) < (stands.missing, stands.given_up)
            || (cost.latency_us * 1000 < stands.latency_us * SAVES
                && (free || cost.power_uw <= stands.power_uw))
            || cost.power_uw < stands.power_uw.saturating_sub(own / 1000 * (1000 - SAVES));
        if to == now || !better {
            return false;
        }
        for (app, d) in apps.iter_mut().zip(to) {
            let d = u16::try_from(d).unwrap_or(0);
            if d != app.domain {
                // Not left for energy: what it did there may look possible again once its bias has faded.
                if (cost.missing, cost.given_up) < (stands.missing, stands.given_up) {
                    app.bar(app.domain, now_ns);
                }
                (app.domain, app.moved) = (d, true);
            }
        }
        self.moved_ns = now_ns;
        true
    }

    /// What the domain of the application in that place may draw for it, of the budget divided last, mW.
    pub fn part(&self, app: usize) -> Option<u32> {
        self.parts.get(app).copied()
    }

    /// Divides a budget for all domains: to each what its applications need, and of the rest in proportion; what
    /// idle domains draw comes first. An application is given its domain's part without what the others on it add.
    pub fn divide(&mut self, budget_mw: u32, apps: &[Candidate], ranges: &[OppRange]) {
        let at: Vec<usize> = apps.iter().map(|a| usize::from(a.domain)).collect();
        let known = apps.iter().zip(&at).all(|(a, d)| a.arrivals.known() && a.can(*d));
        let needs: Vec<u64> = (0..self.domains.len())
            .map(|d| match known {
                true => self.draws(apps, &at, d, ranges),
                false => u64::from(at.contains(&d)),
            })
            .collect();
        let idle: u64 = (0..needs.len()).filter(|d| known && !at.contains(d)).map(|d| needs[d]).sum();
        let used: u64 = (0..needs.len()).filter(|d| at.contains(d)).map(|d| needs[d]).sum();
        let left = (u64::from(budget_mw) * 1000).saturating_sub(idle);
        let adds: Vec<u64> =
            (0..apps.len()).map(|i| if known { self.adds(apps, &at, i, ranges[at[i]]) } else { 0 }).collect();
        let beside =
            |i: usize| (0..apps.len()).filter(|j| *j != i && at[*j] == at[i]).map(|j| adds[j]).sum::<u64>();
        let part = |i: usize| {
            let uw = mul_div(left, needs[at[i]], used).saturating_sub(beside(i));
            u32::try_from(uw / 1000).unwrap_or(u32::MAX)
        };
        self.parts = (0..apps.len()).map(part).collect();
    }

    /// What an application adds to what its domain draws, uW.
    fn adds(&self, apps: &[Candidate], at: &[usize], i: usize, range: OppRange) -> u64 {
        let d = at[i];
        let (needs, opp) = self.needs(apps, at, d, range);
        let busy = needs.iter().find(|(n, _)| *n == i).map_or(0, |(_, n)| apps[i].busy(d, n.subnet, opp));
        let cpus = self.domains[d].cpus.len().max(1) as u64;
        self.power[d].mean_uw(opp, busy.min(1000) / cpus) - self.power[d].mean_uw(opp, 0)
    }

    fn cost(&self, apps: &[Candidate], at: &[usize], ranges: &[OppRange]) -> Cost {
        let mut cost = Cost { missing: 0, given_up: 0, latency_us: 0, power_uw: 0 };
        for (d, range) in ranges.iter().enumerate() {
            let (needs, opp) = self.needs(apps, at, d, *range);
            for (i, need) in &needs {
                let app = &apps[*i];
                cost.missing += usize::from(!need.holds);
                let best = app.top1.iter().max().copied().unwrap_or(0);
                if app.target.objective == Objective::Accuracy || !need.holds {
                    cost.given_up += u64::from(best.saturating_sub(app.top1[need.subnet]));
                }
                if app.target.objective == Objective::Latency {
                    cost.latency_us += app.service(d, need.subnet, opp) / 1000;
                }
            }
            cost.power_uw += self.drawn(apps, &needs, d, opp);
        }
        cost
    }

    /// Who is on the domain and needs what; its OPP then.
    fn needs(
        &self,
        apps: &[Candidate],
        at: &[usize],
        d: usize,
        range: OppRange,
    ) -> (Vec<(usize, Need)>, u16) {
        let here: Vec<usize> = (0..apps.len()).filter(|i| at[*i] == d).collect();
        let (cpus, others) = (self.domains[d].cpus.len().max(1), &self.others[d]);
        // More applications than CPUs: they may have to wait for one another, each for all in the worst case.
        let shared = here.len() > cpus;
        let needs: Vec<(usize, Need)> = here
            .iter()
            .map(|i| {
                let slowed = if shared { here.len() as u64 } else { 1 };
                // Who is there has learned what somebody who keeps his CPU busy costs him; who comes would share one.
                let crowded =
                    usize::from(apps[*i].domain) != d && here.len() as u64 + others.full() > cpus as u64;
                (*i, self.need(&apps[*i], d, range, if crowded { slowed * 2 } else { slowed }))
            })
            .collect();
        // Others are counted as if they were served: no placement is good because it slows them.
        let opp = needs.iter().map(|(_, n)| n.opp).fold(others.opp(range), u16::max);
        let busy: u64 = needs.iter().map(|(i, n)| apps[*i].busy(d, n.subnet, opp)).sum();
        let over = here.len() > 1 && busy > PLANNED.busy * cpus as u64;
        let needs = needs.into_iter().map(|(i, n)| (i, Need { holds: n.holds && !over, ..n })).collect();
        (needs, opp)
    }

    fn need(&self, app: &Candidate, d: usize, range: OppRange, slowed: u64) -> Need {
        let lowest = |subnet: usize, m: Margins| {
            (range.lo..=range.hi).find(|opp| {
                let ns = app.service(d, subnet, *opp).saturating_mul(slowed);
                app.target.latency_ns.is_none_or(|t| ns <= t / 1000 * m.latency)
                    && app.busy(d, subnet, *opp) <= m.busy
                    && self.pays(app, d, subnet, *opp, JUST_PAID)
            })
        };
        let mut order: Vec<usize> = (0..app.top1.len()).collect();
        order.sort_by_key(|s| (app.times[d][*s].last().copied(), std::cmp::Reverse(app.top1[*s])));
        // As the tuner does: who takes longer must be more accurate.
        let mut best = None;
        order.retain(|s| {
            let better = best < Some(app.top1[*s]);
            best = best.max(Some(app.top1[*s]));
            better
        });
        let above: Vec<usize> = order.iter().copied().filter(|s| app.meets_floor(*s)).collect();
        let at = |s: &usize, m: Margins| Some((*s, lowest(*s, m)?));
        let last = |list: &[usize], m: Margins| list.iter().rev().find_map(|s| at(s, m));
        let at_floor = |m: Margins| match app.target.objective {
            Objective::Accuracy => last(&above, m),
            Objective::Energy | Objective::Latency => above.iter().find_map(|s| at(s, m)),
        };
        let found = at_floor(PLANNED).or_else(|| at_floor(JUST_SO));
        match found {
            Some((subnet, _)) if app.target.objective == Objective::Latency => {
                Need { subnet, opp: self.fastest(app, d, subnet, range), holds: true }
            }
            Some((subnet, opp)) => Need { subnet, opp, holds: true },
            None => {
                let (subnet, opp) = last(&order, PLANNED).unwrap_or((order[0], range.hi));
                Need { subnet, opp, holds: false }
            }
        }
    }

    /// The highest OPP within the application's own budget.
    fn fastest(&self, app: &Candidate, d: usize, subnet: usize, range: OppRange) -> u16 {
        (range.lo..=range.hi).rev().find(|opp| self.pays(app, d, subnet, *opp, 1000)).unwrap_or(range.lo)
    }

    /// Whether the application's own budget does, as far as powers are known.
    /// `share`: thousandths of it.
    fn pays(&self, app: &Candidate, d: usize, subnet: usize, opp: u16, share: u64) -> bool {
        let Some(mw) = app.target.power_mw.filter(|_| self.power[d].known()) else { return true };
        let cpus = self.domains[d].cpus.len().max(1) as u64;
        self.power[d].mean_uw(opp, app.busy(d, subnet, opp) / cpus) <= u64::from(mw) * share
    }

    fn drawn(&self, apps: &[Candidate], needs: &[(usize, Need)], d: usize, opp: u16) -> u64 {
        let cpus = self.domains[d].cpus.len().max(1) as u64;
        let others = &self.others[d];
        let stays = |i: usize| needs.iter().any(|(n, _)| *n == i) == (usize::from(apps[i].domain) == d);
        // Who keeps a CPU busy takes what applications leave: all is as it is, as long as nobody comes or goes.
        if others.full() > 0 && (0..apps.len()).all(stays) {
            return self.power[d].mean_uw(opp, others.all() / cpus);
        }
        let busy: u64 = needs.iter().map(|(i, n)| apps[*i].busy(d, n.subnet, opp).min(1000)).sum();
        self.power[d].mean_uw(opp, (busy + others.busy(opp)) / cpus)
    }

    fn draws(&self, apps: &[Candidate], at: &[usize], d: usize, ranges: &[OppRange]) -> u64 {
        let (needs, opp) = self.needs(apps, at, d, ranges[d]);
        self.drawn(apps, &needs, d, opp)
    }
}

#[cfg(test)]
#[path = "assign_tests.rs"]
mod tests;
