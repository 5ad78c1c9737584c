//! Tuner `tandem-tuner`: the most accurate sub-network that holds the latency target, at the lowest OPP
//! that still does.
//!
//! **Order of wishes.** Latency comes first, as in the Dynamic-OFA run-time manager: a target that is
//! missed costs accuracy, and an accuracy floor only says how far to fall while anything at or above it
//! can hold the target. Below the floor it goes only when latency is infeasible there; when nothing holds
//! the target it runs the cheapest sub-network at the highest OPP. Then accuracy, then the OPP.
//!
//! **Down fast.** A forced move (a cheaper sub-network, or a faster clock) follows when 3 of the 8 newest
//! inferences missed the target by their service time alone; when 5 of the 64 kept missed it at all
//! (significantly more than the 5 % that a 95th percentile allows); or when inferences arrive faster than
//! they are served, or are dropped. A single late inference moves nothing.
//!
//! **A backlog is sprinted off.** When what already waits cannot be served in time, or one inference has
//! been in flight for three times the target, the most accurate sub-network that can serve the queue runs at the highest OPP until the queue is gone, then the choice before
//! returns. A burst or a stall thus costs a few frames of accuracy, no change of mind; sprinting much of
//! the time is a failure of the choice.
//!
//! **Up slowly.** After `dwell-ms`, to a point whose predicted 95th percentile lies below 85 % of the
//! target, and which has not failed lately (`failures.rs`). A free move that fails is taken back to where
//! it came from.
//!
//! What it believes is in `model.rs`: one scale, learned fast from every inference, and shapes learned
//! slowly, or taken from the application's profile, which also says where to begin. Without a measured OPP the one it asked for is taken to hold. On a `permille` domain the
//! frequency is a share of CPU time; a burst within the quota does not feel it, which the model's
//! insensitive part learns.
//!
//! Parameters: `threads` of one inference (default 1), `dwell-ms` between free moves (default 1000).

mod failures;
mod model;
mod window;

use failures::Failures;
use model::Model;
use policy_sdk::{App, Board, Choice, Domain, OppRange, Params, Slo, Tuner, View, log};
use window::{Sample, Window};

/// A free move wants the predicted 95th percentile below this share of the target, thousandths.
const UP_MARGIN: u64 = 850;
/// A forced move aims here.
const DOWN_MARGIN: u64 = 920;
/// Utilisation of the application's server that a choice may plan for, thousandths.
const BUSY_MAX: u64 = 900;
/// Of this many newest inferences ...
const SLOW_OF: usize = 8;
/// ... so many slow ones force a move.
const SLOW_MIN: usize = 3;
/// So many late ones among all kept force a move.
const LATE_MIN: usize = 5;
/// Samples before a free move, and before learning from one.
const SAMPLES: usize = 8;
/// A backlog must be seen this many ticks in a row.
const BACKLOG_TICKS: u8 = 2;
/// A sprint that lasts longer has not helped.
const SPRINT_MAX_NS: u64 = 2_000_000_000;
/// What each sprint adds to the debt, which time pays off; beyond the limit the choice has failed.
const SPRINT_DEBT_NS: u64 = 10_000_000_000;
const SPRINT_DEBT_MAX_NS: u64 = 40_000_000_000;
/// Free moves are weighed this often.
const REVIEW_NS: u64 = 100_000_000;
/// Arrivals are counted over this long.
const ARRIVALS_NS: u64 = 4_000_000_000;
/// What was learned of idle sub-networks fades this often.
const FADE_NS: u64 = 60_000_000_000;
/// Between two lines of the log.
const SAY_NS: u64 = 1_000_000_000;

/// A sub-network at an OPP of the granted domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    subnet: u16,
    opp: u16,
}

/// What keeps the application from its best sub-network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Binds {
    Nothing,
    Target,
    CoRunner,
    Cap,
    Floor,
    Infeasible,
}

impl Binds {
    fn words(self) -> &'static str {
        match self {
            Self::Nothing => "nothing binds: the best sub-network",
            Self::Target => "the latency target binds",
            Self::CoRunner => "a co-runner binds: time goes on waiting for CPUs",
            Self::Cap => "a cap on the clock binds",
            Self::Floor => "the latency target is infeasible at the accuracy floor: below it",
            Self::Infeasible => "the latency target is infeasible: cheapest sub-network, highest OPP",
        }
    }
}

/// A free move whose effect is not known yet.
#[derive(Clone, Copy, Debug)]
struct Trial {
    from: Point,
    scale_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sprint {
    point: Point,
    since_ns: u64,
}

/// Arrivals and the time they took, halved when it grows long.
#[derive(Clone, Copy, Debug, Default)]
struct Arrivals {
    count: u64,
    time_ns: u64,
}

/// The present point and how it does.
#[derive(Clone, Copy, Debug)]
struct Present {
    now_ns: u64,
    point: Point,
    /// Median and 95th percentile of the scale.
    scale: (u64, u64),
    /// 95th percentile of the waits, and whether inferences arrive together.
    waits: (u64, bool),
}

/// See the crate's text.
#[derive(Debug)]
pub struct TandemTuner {
    domains: Vec<Domain>,
    limits: Vec<OppRange>,
    app: App,
    /// Sub-networks worth running, most accurate first; each is cheaper than the one before.
    order: Vec<u16>,
    threads: u8,
    dwell_ns: u64,

    model: Model,
    window: Window,
    failures: Failures,
    arrivals: Arrivals,
    domain: u16,
    target: Slo,
    /// OPPs allowed at present, the outside cap included.
    range: OppRange,
    /// The OPP seen last, since when, and the one before.
    opp: u16,
    opp_since_ns: u64,
    opp_before: u16,
    point: Option<Point>,
    since_ns: u64,
    /// When the queue was first gone under this choice.
    settled_ns: Option<u64>,
    generation: u32,
    trial: Option<Trial>,
    sprint: Option<Sprint>,
    sprint_debt_ns: u64,
    backlog_ticks: u8,
    reviewed_ns: u64,
    faded_ns: u64,
    waits: u64,
    infeasible: bool,
    binds: Option<Binds>,
    said_ns: u64,
}

/// The sub-networks that are not both dearer and no more accurate than another.
fn order(app: &App) -> Result<Vec<u16>, String> {
    let mut all: Vec<usize> = (0..app.subnets.len()).collect();
    all.sort_by_key(|i| (std::cmp::Reverse(app.subnets[*i].top1), app.subnets[*i].macs));
    let mut kept: Vec<u16> = vec![];
    let mut cheapest = u64::MAX;
    for i in all {
        if app.subnets[i].macs < cheapest {
            cheapest = app.subnets[i].macs;
            kept.push(u16::try_from(i).map_err(|_| "more sub-networks than an index can name")?);
        }
    }
    if kept.is_empty() { Err("application without a sub-network".into()) } else { Ok(kept) }
}

impl Tuner for TandemTuner {
    fn start(board: &Board, app: &App, params: &mut Params) -> Result<Self, String> {
        let domain = board.domains.first().ok_or("board without a domain")?;
        let threads = params.number("threads", 1..=app.threads_max.max(1), 1)?;
        Ok(Self {
            domains: board.domains.clone(),
            limits: board.domains.iter().map(Domain::range).collect(),
            order: order(app)?,
            threads,
            dwell_ns: params.number("dwell-ms", 10..=60_000, 1000)? * 1_000_000,
            model: Model::new(app, 0, domain, threads),
            window: Window::new(),
            failures: Failures::new(app.subnets.len()),
            arrivals: Arrivals::default(),
            domain: 0,
            target: app.target,
            range: domain.range(),
            opp: domain.top(),
            opp_since_ns: 0,
            opp_before: domain.top(),
            point: None,
            since_ns: 0,
            settled_ns: None,
            generation: 0,
            trial: None,
            sprint: None,
            sprint_debt_ns: 0,
            backlog_ticks: 0,
            reviewed_ns: 0,
            faded_ns: 0,
            waits: 0,
            infeasible: false,
            binds: None,
            said_ns: 0,
            app: app.clone(),
        })
    }

    fn app(&mut self, app: &App) {
        // The target comes with the grant; sub-networks do not change while an application lives.
        self.app.name.clone_from(&app.name);
    }

    fn limits(&mut self, opps: &[OppRange]) {
        for (kept, now) in self.limits.iter_mut().zip(opps) {
            *kept = *now;
        }
    }

    fn decide(&mut self, seen: &View) -> Choice {
        self.surroundings(seen);
        let point = match self.point {
            Some(point) => point,
            None => self.begin(seen),
        };
        self.observe(seen, point);
        self.learn(seen.at_ns);
        let point = self.react(seen, point);
        self.say(seen.at_ns, point);
        Choice { subnet: point.subnet, threads: self.threads, ask: Some(point.opp) }
    }
}

impl TandemTuner {
    /// Domain, limits, target: what others decide.
    fn surroundings(&mut self, seen: &View) {
        if seen.grant.domain != self.domain && self.domains.get(usize::from(seen.grant.domain)).is_some() {
            self.domain = seen.grant.domain;
            self.model.granted(self.domain, &self.domains[usize::from(self.domain)]);
            self.failures.clear();
            self.point = None;
        }
        let i = usize::from(self.domain);
        let top = self.domains[i].top();
        let hi = self.limits[i].hi.min(seen.domain.cap.unwrap_or(top)).min(top);
        self.range = OppRange { lo: self.limits[i].lo.min(hi), hi };
        if let Some(point) = &mut self.point {
            point.opp = point.opp.clamp(self.range.lo, hi);
        }
        if seen.grant.target != self.target {
            self.target = seen.grant.target;
            self.failures.clear();
            // Weighed at once, and what was late is not late any more, or the other way round.
            self.reviewed_ns = 0;
            self.since_ns = 0;
            self.generation = self.generation.wrapping_add(1);
            self.trial = None;
        }
    }

    /// At the highest OPP, since arrivals are not known: the best sub-network that holds the target by the
    /// profile; without one the cheapest at or above the floor.
    fn begin(&mut self, seen: &View) -> Point {
        let within = self.order.iter().rev().find(|s| self.meets_floor(**s));
        let subnet = within.or(self.order.last()).copied().unwrap_or(0);
        let cheapest = Point { subnet, opp: self.range.hi };
        let best = self.target.latency_ns.and(self.model.expected()).and_then(|scale| {
            let present = Present { now_ns: seen.at_ns, point: cheapest, scale, waits: (0, false) };
            self.best(0, &present, UP_MARGIN)
        });
        let point = best.map_or(cheapest, |best| Point { opp: self.range.hi, ..best });
        self.point = Some(point);
        self.since_ns = seen.at_ns;
        point
    }

    fn meets_floor(&self, subnet: u16) -> bool {
        let top1 = self.app.subnets.get(usize::from(subnet)).map_or(0, |s| s.top1);
        self.target.top1.is_none_or(|floor| top1 >= floor)
    }

    /// Folds the window's inferences and arrivals in.
    fn observe(&mut self, seen: &View, point: Point) {
        let opp = seen.domain.opp.unwrap_or(self.sprint.map_or(point.opp, |s| s.point.opp));
        if opp != self.opp {
            (self.opp_before, self.opp, self.opp_since_ns) = (self.opp, opp, seen.at_ns);
        }
        for done in &seen.app.finished {
            if usize::from(done.subnet) >= self.app.subnets.len() || done.service_ns == 0 {
                continue;
            }
            // What ran under an older choice still tells the scale, but not whether this choice works.
            let own = done.subnet == point.subnet && seen.at_ns > self.since_ns;
            // Nor does lateness inherited from a backlog that was there before.
            let arrived_ns = seen.at_ns.saturating_sub(done.latency_ns);
            let fair = self.settled_ns.is_some_and(|settled| arrived_ns >= settled);
            // What began before the clock changed is held to have run at the old one.
            let began_ns = seen.at_ns.saturating_sub(done.service_ns);
            let opp = if began_ns < self.opp_since_ns { self.opp_before } else { opp };
            let over = |ns: u64| self.target.latency_ns.is_some_and(|t| ns > t);
            self.window.push(Sample {
                at_ns: seen.at_ns,
                generation: if own { self.generation } else { self.generation.wrapping_sub(1) },
                scale_ns: self.model.scale(done.subnet, opp, done.service_ns),
                wait_ns: done.latency_ns.saturating_sub(done.service_ns),
                fair,
                late: fair && over(done.latency_ns),
                slow: over(done.service_ns),
            });
        }
        self.window.watch(self.generation);
        if self.settled_ns.is_none() && self.sprint.is_none() && seen.app.queue <= 1 {
            self.settled_ns = Some(seen.at_ns);
        }
        self.arrivals.count = self.arrivals.count.saturating_add(u64::from(seen.app.arrived));
        self.arrivals.time_ns = self.arrivals.time_ns.saturating_add(seen.window_ns);
        if self.arrivals.time_ns > ARRIVALS_NS {
            self.arrivals.count /= 2;
            self.arrivals.time_ns /= 2;
        }
        self.sprint_debt_ns = self.sprint_debt_ns.saturating_sub(seen.window_ns);
        if let (Some(run), Some(waited)) = (seen.app.run_ns, seen.app.runq_delay_ns)
            && run > 0
        {
            // Thousandths of thousandths, forgetting over some 32 busy ticks.
            let now = waited.saturating_mul(1000) / run.saturating_add(waited) * 1000;
            self.waits = (self.waits * 31 + now) / 32;
        }
    }

    /// Corrects the model once a free move has shown its effect.
    fn learn(&mut self, now_ns: u64) {
        let Some(point) = self.point else { return };
        if now_ns.saturating_sub(self.faded_ns) > FADE_NS {
            self.faded_ns = now_ns;
            self.model.fade(point.subnet);
        }
        let Some(trial) = self.trial else { return };
        if self.window.count() < SAMPLES {
            return;
        }
        self.trial = None;
        let Some(after) = self.window.median_of(now_ns, self.generation) else { return };
        let (mul, div) = if trial.from.subnet != point.subnet {
            self.model.correct_subnet(point.subnet, trial.scale_ns, after)
        } else {
            self.model.correct_clock(trial.from.opp, point.opp, trial.scale_ns, after)
        };
        self.window.rescale(self.generation, mul, div);
    }

    /// The point for this tick.
    fn react(&mut self, seen: &View, point: Point) -> Point {
        let now_ns = seen.at_ns;
        let scale = self.window.scale(now_ns);
        if self.failing(seen, point, scale) {
            return self.give_up(now_ns, point, scale);
        }
        if let Some(sprint) = self.sprint {
            let vain = now_ns.saturating_sub(sprint.since_ns) > SPRINT_MAX_NS;
            if (seen.app.queue > 0 || self.stuck(seen)) && !vain {
                return sprint.point;
            }
            self.sprint = None;
            if vain || self.sprint_debt_ns > SPRINT_DEBT_MAX_NS {
                return self.give_up(now_ns, point, scale);
            }
            return point;
        }
        if let Some(sprint) = self.backlog(seen, point, scale) {
            self.sprint = Some(Sprint { point: sprint, since_ns: now_ns });
            self.sprint_debt_ns = self.sprint_debt_ns.saturating_add(SPRINT_DEBT_NS);
            self.settled_ns = None;
            return sprint;
        }
        let held = now_ns.saturating_sub(self.since_ns) >= self.dwell_ns;
        let due = now_ns.saturating_sub(self.reviewed_ns) >= REVIEW_NS;
        let shown = self.window.count() >= SAMPLES || self.reviewed_ns == 0;
        if let (Some(scale), true) = (scale, held && due && shown) {
            self.reviewed_ns = now_ns;
            return self.review(now_ns, point, scale);
        }
        point
    }

    /// What already waits cannot be served in time as things are: where it can, or at least sooner.
    fn backlog(&mut self, seen: &View, point: Point, scale: Option<(u64, u64)>) -> Option<Point> {
        let (target, (median, _)) = (self.target.latency_ns?, scale?);
        let last_in_queue = |p: Point| {
            let service = self.model.service(p.subnet, p.opp, median);
            let left = self.model.service(point.subnet, point.opp, median);
            let left = left.saturating_sub(seen.app.in_flight_ns.unwrap_or(left));
            service.saturating_mul(u64::from(seen.app.queue)).saturating_add(left)
        };
        let waiting = seen.app.queue >= 2 && last_in_queue(point) > target;
        if !waiting && !self.stuck(seen) {
            self.backlog_ticks = 0;
            return None;
        }
        self.backlog_ticks = self.backlog_ticks.saturating_add(1);
        if self.backlog_ticks < BACKLOG_TICKS {
            return None;
        }
        let faster = |subnet: u16| Point { subnet, opp: self.range.hi };
        let floor = self.order.iter().rev().find(|s| self.meets_floor(**s));
        let serves =
            self.order.iter().find(|s| last_in_queue(faster(**s)) <= target && self.meets_floor(**s));
        let subnet = *serves.or(floor).or(self.order.last())?;
        (faster(subnet) != point).then(|| faster(subnet))
    }

    /// The inference in flight is long overdue: a faster clock may still help it.
    fn stuck(&self, seen: &View) -> bool {
        let overdue = self.target.latency_ns.map(|t| t.saturating_mul(3));
        seen.app.in_flight_ns.zip(overdue).is_some_and(|(in_flight, overdue)| in_flight > overdue)
    }

    /// Does the present choice fail?
    fn failing(&self, seen: &View, point: Point, scale: Option<(u64, u64)>) -> bool {
        let dropped = seen.app.dropped > 0;
        let median = scale.map(|(median, _)| median);
        let enough = self.window.count() >= SAMPLES;
        let overrun = median.is_some_and(|m| enough && self.busy(point, m) > 1000);
        let slow = self.window.slow(SLOW_OF) >= SLOW_MIN;
        let late = self.window.late() >= LATE_MIN;
        dropped || overrun || slow || late
    }

    /// Utilisation of the application's server at that point, thousandths.
    fn busy(&self, point: Point, median: u64) -> u64 {
        let service_us = self.model.service(point.subnet, point.opp, median) / 1000;
        let window_us = (self.arrivals.time_ns / 1000).max(1);
        service_us.saturating_mul(self.arrivals.count).saturating_mul(1000) / window_us
    }

    /// The predicted 95th percentile of latency there. Waits are carried over from the present point:
    /// with the service time and `1 / (1 - busy)` where inferences arrive together and wait for one
    /// another, and with the chance to find the server busy as well where they arrive singly (M/G/1).
    fn latency(&self, p: Point, now: Point, (wait_ns, together): (u64, bool), scale: (u64, u64)) -> u64 {
        let weight_us = |p: Point| {
            let busy = self.busy(p, scale.0).min(950);
            let chance = if together { 1000 } else { busy };
            (self.model.service(p.subnet, p.opp, scale.0) / 1000).saturating_mul(chance) / (1000 - busy)
        };
        let wait_us = (wait_ns / 1000).saturating_mul(weight_us(p)) / weight_us(now).max(1);
        self.model.service(p.subnet, p.opp, scale.1).saturating_add(wait_us.saturating_mul(1000))
    }

    /// What other points are predicted from.
    fn present(&self, now_ns: u64, now: Point, scale: (u64, u64)) -> Present {
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

    /// The lowest OPP at which `subnet` holds `margin` thousandths of the target.
    fn lowest(&self, subnet: u16, at: &Present, margin: u64) -> Option<u16> {
        let Present { now_ns, point: now, scale, waits } = *at;
        let holds = |opp: u16| {
            let p = Point { subnet, opp };
            let in_time = self.target.latency_ns.is_none_or(|target| {
                self.latency(p, now, waits, scale) <= (target / 1000).saturating_mul(margin)
            });
            in_time && self.busy(p, scale.0) <= BUSY_MAX
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

    /// The best point among `order[from..]`: at the floor with `margin`, at the floor just so, below it.
    fn best(&self, from: usize, present: &Present, margin: u64) -> Option<Point> {
        let at = |floor: bool, margin: u64| {
            self.order
                .iter()
                .skip(from)
                .filter(|s| self.meets_floor(**s) == floor)
                .find_map(|s| self.lowest(*s, present, margin).map(|opp| Point { subnet: *s, opp }))
        };
        at(true, margin).or_else(|| at(true, 1000)).or_else(|| at(false, margin))
    }

    fn place(&self, subnet: u16) -> usize {
        self.order.iter().position(|s| *s == subnet).unwrap_or(0)
    }

    /// Leaves a point that fails for one that should hold.
    fn give_up(&mut self, now_ns: u64, point: Point, scale: Option<(u64, u64)>) -> Point {
        let cheapest = Point { subnet: self.order.last().copied().unwrap_or(0), opp: self.range.hi };
        if let Some(trial) = self.trial.take() {
            // The move itself is the likeliest cause: back to what worked, without what it seemed to show.
            self.failures.record(point.subnet, point.opp, now_ns, self.since_ns, trial.scale_ns);
            self.window.drop_generation(self.generation);
            let opp = trial.from.opp.clamp(self.range.lo, self.range.hi);
            return self.go(now_ns, Point { opp, ..trial.from });
        }
        if point == cheapest {
            // Nowhere to go; and what is late now is not counted again.
            self.infeasible = true;
            return self.go(now_ns, point);
        }
        self.failures.record(
            point.subnet,
            point.opp,
            now_ns,
            self.since_ns,
            scale.map_or(u64::MAX, |(median, _)| median),
        );
        let next = scale.and_then(|scale| {
            self.best(self.place(point.subnet), &self.present(now_ns, point, scale), DOWN_MARGIN)
        });
        self.infeasible = next.is_none();
        self.go(now_ns, next.unwrap_or(cheapest))
    }

    /// Weighs a free move: more accuracy, or the same at a lower OPP.
    fn review(&mut self, now_ns: u64, point: Point, scale: (u64, u64)) -> Point {
        let present = self.present(now_ns, point, scale);
        let Some(next) = self.best(0, &present, UP_MARGIN) else {
            return point;
        };
        let (from, to) = (self.place(point.subnet), self.place(next.subnet));
        let better = to < from || (to == from && next.opp < point.opp);
        if better {
            self.infeasible = false;
            self.trial = Some(Trial { from: point, scale_ns: scale.0 });
            return self.go(now_ns, next);
        }
        let holds = self.lowest(point.subnet, &present, 1000).is_some_and(|opp| opp <= point.opp);
        self.infeasible &= !holds;
        point
    }

    fn go(&mut self, now_ns: u64, to: Point) -> Point {
        self.point = Some(to);
        self.since_ns = now_ns;
        self.settled_ns = None;
        self.sprint = None;
        self.sprint_debt_ns = 0;
        self.generation = self.generation.wrapping_add(1);
        to
    }

    /// Says on edges what binds.
    fn say(&mut self, now_ns: u64, point: Point) {
        let best = self.place(point.subnet) == 0;
        let capped = self.range.hi < self.domains[usize::from(self.domain)].top();
        let binds = match () {
            () if self.infeasible => Binds::Infeasible,
            () if !self.meets_floor(point.subnet) => Binds::Floor,
            () if best => Binds::Nothing,
            () if capped => Binds::Cap,
            () if self.waits >= 150_000 => Binds::CoRunner,
            () => Binds::Target,
        };
        let first_or_due = self.said_ns == 0 || now_ns.saturating_sub(self.said_ns) >= SAY_NS;
        if self.binds != Some(binds) && first_or_due && self.sprint.is_none() {
            self.binds = Some(binds);
            self.said_ns = now_ns;
            let subnet = self.app.subnets.get(usize::from(point.subnet)).map_or("", |s| s.name.as_str());
            log::info(&format!(
                "{}: {} (sub-network {subnet}, OPP {})",
                self.app.name,
                binds.words(),
                point.opp
            ));
        }
    }
}

policy_sdk::export_tuner!(TandemTuner);
