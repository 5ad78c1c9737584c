//! What no run can undercut, whatever it mixes: a linear relaxation, bounded by its Lagrangian dual.
//!
//! Relaxed: a clock may change at any moment and at no cost, also within a frame; every frame may have another
//! sub-network; an application is on whatever domain suits it; a co-runner on a CPU that it may use gets nothing of it;
//! heat never caps. What is left, for each frame that is done in time: its work within its deadline; over each
//! interval: all frames' work within its time; over the run: the share of frames that may be late or lost (a late one
//! has all the time there is, a lost one costs nothing) and the mean accuracy of those that ran.
//!
//! A CPU that serves at OPP `o` draws `P(o) (1 - idle) / CPUs` more, and the clock there instead of at the cheapest
//! draws `P(o) idle` instead of the least. Two applications on one domain divide the second part between them by shares
//! that add up to 1, so the sum is never above what the domain draws; of three divisions the best counts.
//!
//! Any multipliers at all give a bound (weak duality), so the search for good ones needs no proof. Frame times are
//! taken at their mean less six standard errors of it, and less what leaving out the slowest twentieth may
//! gain (0.11 standard deviations of a normal law): a policy chooses before a frame's noise is drawn.
//!
//! Assumed: nobody is granted fewer CPUs than he is pinned to, and nobody moves between CPUs and a device.

use crate::sim::bound::cut::Cutter;
use crate::sim::bound::span::{self, Span};
use crate::sim::bound::{Unfit, VIOLATIONS, ratio};
use crate::sim::machine::mask;
use crate::sim::model::Model;
use crate::sim::scenario::Scenario;
use crate::units::CentiPercent;

/// What an application is given at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Given {
    /// Frames late or lost, share of those that came, at most.
    pub violations: f64,
    /// Mean accuracy of the frames that ran, %, at least; `None`: the floors in force.
    pub top1: Option<f64>,
}

impl Default for Given {
    /// The targets of the scenario: a 95th percentile within the latency, the mean accuracy at the floor.
    fn default() -> Self {
        Self { violations: VIOLATIONS, top1: None }
    }
}

/// The least energy, J, that any run can have that gives the applications this; `None`: proven impossible.
///
/// # Errors
/// The scenario does not fit the board, or has more than two applications.
pub fn floor(model: &Model, scenario: &Scenario, given: &[Given]) -> Result<Option<f64>, Unfit> {
    let apps = scenario.apps.len();
    if !(1..=2).contains(&apps) || given.len() != apps {
        let rule = format!("{apps} applications, {} told of; the bound is for one or two", given.len());
        return Err(Unfit::new(model, scenario, rule));
    }
    let relaxed = Relaxed::new(model, scenario);
    let shares: &[[f64; 2]] = if apps == 1 { &[[1.0, 0.0]] } else { &[[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]] };
    let mut best: f64 = 0.0;
    for shares in shares {
        let mut sum = 0.0;
        for (i, given) in given.iter().enumerate() {
            let Some(work) = span::work(model, scenario, i, relaxed.device) else {
                return Err(Unfit::new(
                    model,
                    scenario,
                    format!("app {i}: nothing says what its network takes"),
                ));
            };
            match relaxed.app(i, &work, given, shares[i]) {
                Some(mj) => sum += mj,
                None => return Ok(None),
            }
        }
        best = best.max(sum);
    }
    let base: f64 = (0..relaxed.spans.len()).map(|k| relaxed.base(k) * relaxed.spans[k].seconds).sum();
    Ok(Some((base + best) / 1000.0))
}

/// Speed in work of the reference a second, and mW above the base.
type Rate = (f64, f64);

struct Relaxed<'a> {
    model: &'a Model,
    scenario: &'a Scenario,
    spans: Vec<Span>,
    device: bool,
    /// By domain.
    power: Vec<Vec<Vec<f64>>>,
    slow: Vec<Vec<f64>>,
    idle: f64,
}

impl<'a> Relaxed<'a> {
    fn new(model: &'a Model, scenario: &'a Scenario) -> Self {
        let ids = || model.board.ids().map(|(id, _)| id);
        Self {
            spans: span::spans(model, scenario, &Cutter::new(model, scenario).intervals),
            device: model.domain(model.apps_on).cpus.is_empty(),
            power: ids().map(|id| model.busy_power(id)).collect(),
            slow: ids().map(|id| model.slowness(id)).collect(),
            idle: model.constant("idle-share"),
            model,
            scenario,
        }
    }

    /// What a domain draws at an OPP with its co-runners only, mW.
    fn alone(&self, k: usize, d: usize, opp: usize) -> f64 {
        let (span, cpus) = (&self.spans[k].domains[d], self.model.board.domains[d].cpus.len());
        let rows = &self.power[d];
        match (cpus, span.busy) {
            (0, 0) => rows[0][opp] * self.idle,
            (0, n) => rows.get(n - 1).unwrap_or(&rows[rows.len() - 1])[opp],
            _ => rows[0][opp] * (self.idle + (1.0 - self.idle) * ratio(span.busy, cpus)),
        }
    }

    fn least(&self, k: usize, d: usize) -> f64 {
        (0..=self.spans[k].domains[d].cap).map(|o| self.alone(k, d, o)).fold(f64::INFINITY, f64::min)
    }

    /// All domains at their cheapest without any frame, mW.
    fn base(&self, k: usize) -> f64 {
        (0..self.power.len()).map(|d| self.least(k, d)).sum()
    }

    /// How an application may be served in an interval; `share`: of what is not its own it bears so much.
    fn rates(&self, k: usize, i: usize, share: f64) -> Vec<Rate> {
        let mut rates = vec![];
        for (d, domain) in self.model.board.domains.iter().enumerate() {
            if domain.cpus.is_empty() != self.device
                || (self.device && d != usize::from(self.model.apps_on.0))
            {
                continue;
            }
            let (span, cpus) = (&self.spans[k].domains[d], domain.cpus.len());
            let speed_up = &self.model.domains[d].speed_up;
            let more =
                |n: usize| speed_up.get(n - 1).or(speed_up.last()).copied().unwrap_or(1.0) / ratio(n, 1);
            let joint = |mine: u64| span.co.iter().any(|other| other & mine != 0);
            let full = if cpus >= 64 { u64::MAX } else { (1 << cpus) - 1 };
            let mine = match mask(&self.scenario.apps[i].cpus) & full {
                0 => full,
                some => some,
            };
            for opp in 0..=span.cap {
                let (slow, least) = (self.slow[d][opp], self.least(k, d));
                if self.device {
                    let row =
                        |n: usize| self.power[d].get(n - 1).or(self.power[d].last()).map_or(0.0, |r| r[opp]);
                    let n = span.busy + 1;
                    rates.push((more(n) / slow, row(n) - least));
                    if self.scenario.apps.len() > 1 {
                        rates.push((more(n + 1) / slow, share * (row(n + 1) - least)));
                    }
                    continue;
                }
                let clock = share * (self.alone(k, d, opp) - least);
                let own = self.power[d][0][opp] * (1.0 - self.idle) / ratio(cpus, 1);
                let free = span.busy >= cpus || joint(mine);
                rates.push((1.0 / slow, clock + if free { 0.0 } else { own }));
            }
        }
        rates
    }

    /// The least an application adds to the base over the run, mJ.
    fn app(&self, i: usize, work: &[f64], given: &Given, share: f64) -> Option<f64> {
        let rates: Vec<Vec<Rate>> = (0..self.spans.len()).map(|k| self.rates(k, i, share)).collect();
        let everywhere: Vec<Rate> = rates.iter().flatten().copied().collect();
        let all: usize = self.spans.iter().map(|s| s.apps[i].all).sum();
        let noise = self.model.constant("service-noise");
        let sure = (1.0 - noise * (0.11 + 6.0 / ratio(all.max(1), 1).sqrt())).max(0.1);
        let work: Vec<f64> = work.iter().map(|w| w * sure).collect();
        let top1: Vec<f64> = self.scenario.apps[i].network.subnets.iter().map(|s| percent(s.top1)).collect();
        let mut latencies = self.spans.iter().map(|s| s.apps[i].target.latency.map(|l| l.as_secs()));
        let longest = latencies.try_fold(0.0, |a: f64, b| Some(a.max(b?)));
        let mut groups = vec![];
        let mut tail = vec![];
        let last = self.spans.len() - 1;
        for (k, span) in self.spans.iter().enumerate() {
            let frames = &span.apps[i];
            let floor = given.top1.or(frames.target.top1.map(percent));
            let deadline = frames.target.latency.map(|l| l.as_secs());
            let early = if deadline.is_some() { frames.early } else { 0 };
            groups.push(Group::new(early, Some(span.seconds), &rates[k], &work, deadline, floor));
            // The rest may be done beyond the interval. In the last one it may be left over: without a deadline what waits.
            let rest = frames.all - early;
            let left = match (k == last, deadline) {
                (false, _) => 0,
                (true, Some(_)) => rest,
                (true, None) => rest.min(self.scenario.apps[i].queue + 1),
            };
            tail.push((left, floor));
            let deadline = deadline.and(longest);
            groups.push(Group::new(rest - left, None, &everywhere, &work, deadline, floor));
        }
        groups.retain(|g| g.frames > 0.0);
        let late: Vec<f64> = work.iter().map(|w| w * cheapest(&everywhere, 0.0)).collect();
        let dual = Dual { groups, late, top1, tail, lost: given.violations * ratio(all, 1) };
        dual.possible(&work).then(|| dual.best())
    }
}

/// Frames alike: what one costs, mJ, by sub-network, at each price of time; infinite: not in time.
struct Group {
    frames: f64,
    floor: Option<f64>,
    seconds: Option<f64>,
    fastest: f64,
    /// mW for all the time that is used, and the costs with it.
    priced: Vec<(f64, Vec<f64>)>,
}

impl Group {
    fn new(
        frames: usize,
        seconds: Option<f64>,
        rates: &[Rate],
        work: &[f64],
        deadline: Option<f64>,
        floor: Option<f64>,
    ) -> Self {
        let prices = if seconds.is_some() { prices(rates) } else { vec![0.0] };
        let priced = prices.into_iter().map(|price| {
            let hull = hull(rates, price);
            let cost = |w: &f64| match deadline {
                Some(d) => d * at(&hull, w / d),
                None => w * cheapest(rates, price),
            };
            (price, work.iter().map(cost).collect())
        });
        let fastest = rates.iter().map(|r| r.0).fold(0.0, f64::max);
        Self { frames: ratio(frames, 1), floor, seconds, fastest, priced: priced.collect() }
    }
}

struct Dual {
    groups: Vec<Group>,
    late: Vec<f64>,
    top1: Vec<f64>,
    /// Frames that need not be done, and the floor they count against.
    tail: Vec<(usize, Option<f64>)>,
    /// Frames that may be late or lost.
    lost: f64,
}

impl Dual {
    /// Whether nothing forbids it: accuracy with what can be in time, time for the cheapest.
    fn possible(&self, work: &[f64]) -> bool {
        let (mut sum, mut never) = (0.0, 0.0);
        let best = self.top1.iter().copied().fold(0.0, f64::max);
        let mut spread = 0.0_f64;
        let least = work.iter().copied().fold(f64::INFINITY, f64::min);
        for g in &self.groups {
            let in_time = self.top1.iter().zip(&g.priced[0].1).filter(|(_, c)| c.is_finite());
            let highest = in_time.map(|(t, _)| *t).fold(f64::NEG_INFINITY, f64::max);
            if highest == f64::NEG_INFINITY {
                never += g.frames;
            } else if let Some(floor) = g.floor {
                sum += g.frames * (highest - floor);
                spread = spread.max(best - highest);
            }
            let done = (g.frames - self.lost).max(0.0);
            if g.seconds.is_some_and(|s| done * least > s * g.fastest * (1.0 + 1e-9)) {
                return false;
            }
        }
        for (frames, floor) in &self.tail {
            sum += floor.map_or(0.0, |f| ratio(*frames, 1) * (best - f).max(0.0));
        }
        never <= self.lost + 1e-9 && sum + self.lost * spread >= -1e-9
    }

    /// Its value at a price of a point of accuracy and one of a violation, mJ.
    fn value(&self, accuracy: f64, violation: f64) -> f64 {
        let best = self.top1.iter().copied().fold(0.0, f64::max);
        let mut value = -violation * self.lost;
        for (frames, floor) in &self.tail {
            value -= floor.map_or(0.0, |f| accuracy * (best - f).max(0.0)) * ratio(*frames, 1);
        }
        for g in &self.groups {
            let gain = |top1: &f64| g.floor.map_or(0.0, |f| accuracy * (top1 - f));
            let late = self.late.iter().zip(&self.top1).map(|(c, t)| c - gain(t) + violation);
            let late = late.fold(violation, f64::min);
            let of = |(price, costs): &(f64, Vec<f64>)| {
                let each = costs.iter().zip(&self.top1).map(|(c, t)| c - gain(t)).fold(late, f64::min);
                g.frames * each - price * g.seconds.unwrap_or(0.0)
            };
            value += g.priced.iter().map(of).fold(f64::NEG_INFINITY, f64::max);
        }
        value
    }

    /// The highest value found.
    fn best(&self) -> f64 {
        let costs = self.groups.iter().flat_map(|g| &g.priced).flat_map(|p| &p.1).chain(&self.late);
        let most = costs.copied().filter(|c| c.is_finite()).fold(0.0, f64::max);
        let mut levels = self.top1.clone();
        levels.sort_unstable_by(f64::total_cmp);
        let steps = levels.windows(2).map(|w| w[1] - w[0]).filter(|s| *s > 0.0);
        let finest = steps.fold(f64::INFINITY, f64::min);
        let floors = self.groups.iter().any(|g| g.floor.is_some()) && finest.is_finite();
        let dearest = if floors { most / finest } else { 0.0 };
        let range = levels.last().zip(levels.first()).map_or(0.0, |(a, b)| a - b);
        let inner = |accuracy: f64| {
            peak(2.0 * (most + accuracy * range), |violation| self.value(accuracy, violation))
        };
        if dearest == 0.0 { inner(0.0) } else { peak(dearest, inner) }
    }
}

/// The largest value of a concave function found by golden section on `[0, to]`, its ends included.
fn peak(to: f64, f: impl Fn(f64) -> f64) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    const STEPS: usize = 40;
    let (mut lo, mut hi) = (0.0, to);
    let (mut a, mut b) = (hi - GOLDEN * (hi - lo), lo + GOLDEN * (hi - lo));
    let (mut fa, mut fb) = (f(a), f(b));
    let mut best = f(0.0).max(fa).max(fb);
    for _ in 0..STEPS {
        if fa < fb {
            (lo, a, fa) = (a, b, fb);
            b = lo + GOLDEN * (hi - lo);
            fb = f(b);
        } else {
            (hi, b, fb) = (b, a, fa);
            a = hi - GOLDEN * (hi - lo);
            fa = f(a);
        }
        best = best.max(fa).max(fb);
    }
    best
}

/// The least mJ a unit of work.
fn cheapest(rates: &[Rate], price: f64) -> f64 {
    rates.iter().map(|(v, p)| (p + price) / v).fold(f64::INFINITY, f64::min)
}

/// Prices of time at which another clock becomes the cheapest for a unit of work.
fn prices(rates: &[Rate]) -> Vec<f64> {
    let chain = hull(rates, 0.0);
    let crossings = chain.windows(2).map(|w| {
        let ((v, p), (w, q)) = (w[0], w[1]);
        // The line through both meets no speed at this power below zero.
        (q - p) / (w - v) * v - p
    });
    std::iter::once(0.0).chain(crossings.filter(|c| *c > 0.0)).collect()
}

/// Lower convex hull of rest and all rates with time at a price, by rising speed.
fn hull(rates: &[Rate], price: f64) -> Vec<Rate> {
    let mut points: Vec<Rate> = rates.iter().map(|(v, p)| (*v, p + price)).collect();
    points.push((0.0, 0.0));
    points.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    points.dedup_by(|later, kept| later.0 == kept.0);
    let mut hull: Vec<Rate> = vec![];
    for point in points {
        while let [.., a, b] = hull[..] {
            if (b.1 - a.1) * (point.0 - a.0) < (point.1 - a.1) * (b.0 - a.0) {
                break;
            }
            hull.pop();
        }
        hull.push(point);
    }
    hull
}

/// A hull's power at a speed; infinite beyond its last.
fn at(hull: &[Rate], speed: f64) -> f64 {
    let after = hull.partition_point(|h| h.0 < speed);
    match (after.checked_sub(1).map(|i| hull[i]), hull.get(after)) {
        (None, Some(h)) => h.1,
        (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (speed - a.0) / (b.0 - a.0),
        (_, None) => f64::INFINITY,
    }
}

fn percent(top1: CentiPercent) -> f64 {
    f64::from(top1.0) / 100.0
}
