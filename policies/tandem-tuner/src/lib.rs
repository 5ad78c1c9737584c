//! Tuner `tandem-tuner`: sub-network and OPP of one application, by its objective.
//!
//! Bounds come first. Where they cannot all hold, the accuracy floor gives way, and no further than it must, as in
//! the Dynamic-OFA run-time manager; where that is not enough the latency target: then it runs the cheapest
//! sub-network at the highest OPP that the budget allows. The power budget holds, by what is predicted; only the
//! first second on a domain and a sprint (below, for 2 s) may pass it. Of what holds the bounds it takes, by objective,
//!
//! - *accuracy*: the most accurate sub-network, at the OPP of least energy;
//! - *energy*: the least energy, whichever sub-network and OPP (`choose.rs`): a faster clock where racing
//!   to idle is cheaper, the more accurate sub-network where it costs nothing;
//! - *latency*: the least latency.
//!
//! **Down fast.** A forced move (a cheaper sub-network, or a faster clock) follows when 3 of the 8 newest
//! inferences missed the target by their service time alone; when 5 of the 64 kept missed it at all
//! (significantly more than the 5 % that a 95th percentile allows); or when inferences arrive faster than
//! they are served, or are dropped. A single late inference moves nothing.
//!
//! **A backlog is sprinted off.** When what already waits cannot be served in time, or one inference has
//! been in flight for three times the target, the most accurate sub-network that can serve the queue runs at
//! the highest OPP until the queue is gone, then the choice before returns. A burst or a stall thus costs a few frames of accuracy, no change of mind; sprinting much of
//! the time is a failure of the choice.
//!
//! **Up slowly.** After `dwell-ms`, to a point that is clearly better by the objective, whose predicted 95th
//! percentile lies below 93 % of the target, and which has not failed lately (`failures.rs`). A free move
//! that fails is taken back to where it came from.
//!
//! What it believes of times is in `model.rs`: one scale, learned fast from every inference, and shapes learned
//! slowly, or taken from the application's profile, which also says where to begin. Without a measured OPP
//! the one it asked for is taken to hold. What OPPs draw is by the board file, else by a stand-in, and corrected by the domain's rail where there is one. On a `permille` domain the frequency is a share of CPU time; a burst within the quota does not feel it, which the model's
//! insensitive part learns.
//!
//! Parameters: `threads` of one inference (default 1; `auto`: as many as the profile shows to be worth their CPUs on the granted
//! domain), `dwell-ms` between free moves (default 1000),
//! `idle-permille` of a domain's busy power that it draws idle (default 80), `knobs` = `both`, `dnn` (asks for
//! no OPP) or `dvfs` (keeps to `subnet`, by default the most accurate), `learn` = `true` or `false` (believes
//! the profile or the MACs to the end, whatever it sees; for ablations).

mod choose;
mod failures;
mod model;
mod settings;
mod window;

use failures::Failures;
use model::Model;
use policy_sdk::predict::{Arrivals, IDLE_PERMILLE, Power, mul_div};
use policy_sdk::{App, Binds, Board, Choice, Domain, OppRange, Params, Slo, Tuner, View, log};
use settings::{Knobs, Threads, order};
use window::{Sample, Window};

/// A free move wants the predicted 95th percentile below this share of the target, thousandths.
const UP_MARGIN: u64 = 930;
/// A forced move aims here.
const DOWN_MARGIN: u64 = 950;
/// Utilisation of the application's server that a choice may plan for, thousandths.
const BUSY_MAX: u64 = 920;
/// The same where the accuracy floor would be given up otherwise: a stream that comes regularly can be served so.
const BUSY_JUST_SO: u64 = 980;
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
/// What was learned of idle sub-networks fades this often.
const FADE_NS: u64 = 60_000_000_000;
/// A rail must have shown what an OPP draws by then.
const UNHELD_NS: u64 = 2_000_000_000;
/// Between two lines of the log.
const SAY_NS: u64 = 1_000_000_000;

/// A sub-network at an OPP of the granted domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    subnet: u16,
    opp: u16,
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
    /// They follow domain and cores.
    threads_auto: bool,
    /// CPUs granted; 0 = all of the domain.
    cores: u8,
    dwell_ns: u64,
    knobs: Knobs,
    learns: bool,
    idle_permille: u64,

    model: Model,
    power: Power,
    /// CPU time of others on the granted domain, thousandths of a CPU.
    others: u64,
    /// mW; the grant's or the target's, whichever is less.
    budget_mw: Option<u32>,
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
    /// Share of its time on, spent waiting for CPUs, thousandths of thousandths.
    waits: u64,
    infeasible: bool,
    /// By the last review.
    too_dear: bool,
    /// For how long a budget has stood that nothing tells how to hold.
    unheld_ns: u64,
    binds: Option<Binds>,
    said_ns: u64,
    /// Nothing has finished yet.
    cold: bool,
}

impl Tuner for TandemTuner {
    fn start(board: &Board, app: &App, params: &mut Params) -> Result<Self, String> {
        let domain = board.domains.first().ok_or("board without a domain")?;
        let asked = params.get("threads", "a number of threads or auto", Threads::Fixed(1))?;
        let most = app.threads_max.max(1);
        let threads = match asked {
            Threads::Fixed(n) if !(1..=most).contains(&n) => {
                return Err(format!("parameter threads = \"{n}\": must be from 1 to {most}, or auto"));
            }
            Threads::Fixed(n) => n,
            Threads::Auto => model::worthwhile_threads(app, 0, domain, most),
        };
        let knobs = params.get("knobs", "both, dnn or dvfs", Knobs::Both)?;
        let subnet = params.index_of("subnet", app.subnets.iter().map(|s| s.name.as_str()))?;
        let mut order = order(app)?;
        match (knobs, subnet) {
            (Knobs::Dvfs, Some(subnet)) => order = vec![subnet],
            (Knobs::Dvfs, None) => order.truncate(1),
            (_, Some(_)) => return Err("parameter subnet: only with knobs = dvfs".into()),
            (_, None) => {}
        }
        let idle_permille = params.number("idle-permille", 0..=1000, IDLE_PERMILLE)?;
        Ok(Self {
            domains: board.domains.clone(),
            limits: board.domains.iter().map(Domain::range).collect(),
            order,
            threads,
            threads_auto: asked == Threads::Auto,
            cores: 0,
            dwell_ns: params.number("dwell-ms", 10..=60_000, 1000)? * 1_000_000,
            knobs,
            learns: params.get("learn", "true or false", true)?,
            idle_permille,
            model: Model::new(app, 0, domain, threads),
            power: Power::of(domain, idle_permille),
            others: 0,
            budget_mw: None,
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
            too_dear: false,
            unheld_ns: 0,
            binds: None,
            said_ns: 0,
            cold: true,
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
        if self.learns {
            self.learn(seen.at_ns);
        }
        let point = self.react(seen, point);
        self.say(seen.at_ns, point);
        let ask = (self.knobs != Knobs::Dnn).then_some(point.opp);
        Choice { subnet: point.subnet, threads: self.threads, ask, binds: self.binds }
    }
}

impl TandemTuner {
    /// Domain, limits, target: what others decide.
    fn surroundings(&mut self, seen: &View) {
        let known = self.domains.get(usize::from(seen.grant.domain)).is_some();
        let other_cores = self.threads_auto && seen.grant.cores != self.cores;
        if known && (seen.grant.domain != self.domain || other_cores) {
            (self.domain, self.cores) = (seen.grant.domain, seen.grant.cores);
            let domain = &self.domains[usize::from(self.domain)];
            if self.threads_auto {
                let most = self.app.threads_max.max(1);
                let most = if self.cores > 0 { most.min(self.cores) } else { most };
                self.threads = model::worthwhile_threads(&self.app, self.domain, domain, most);
            }
            self.model.granted(self.domain, domain, self.threads);
            self.power = Power::of(domain, self.idle_permille);
            self.others = 0;
            self.window = Window::new();
            self.trial = None;
            self.sprint = None;
            self.sprint_debt_ns = 0;
            self.settled_ns = None;
            self.infeasible = false;
            self.failures.clear();
            self.point = None;
            (self.opp, self.opp_before, self.opp_since_ns) = (domain.top(), domain.top(), seen.at_ns);
            // The next one to finish may have begun on the domain before.
            self.cold = true;
        }
        let i = usize::from(self.domain);
        let top = self.domains[i].top();
        let hi = self.limits[i].hi.min(seen.domain.cap.unwrap_or(top)).min(top);
        let lo = if self.knobs == Knobs::Dnn { hi } else { self.limits[i].lo.min(hi) };
        self.range = OppRange { lo, hi };
        self.budget_mw = match (seen.grant.power_mw, seen.grant.target.power_mw) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.watch_budget(seen.window_ns);
        if let Some(busy) = self.busy_cpus(seen) {
            let own = mul_div(seen.app.run_ns.unwrap_or(0), 1000, seen.window_ns);
            // Forgets over some 32 ticks.
            self.others = (self.others * 31 + busy.saturating_sub(own)) / 32;
        }
        if let Some(point) = &mut self.point {
            let within = point.opp.clamp(self.range.lo, hi);
            if within != point.opp {
                // What is seen now is not the effect of the last move.
                self.trial = None;
            }
            point.opp = within;
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

    /// Says once that a budget cannot be held: neither the board nor a rail tells what OPPs draw.
    fn watch_budget(&mut self, window_ns: u64) {
        if self.budget_mw.is_none() || self.power.known() {
            self.unheld_ns = 0;
            return;
        }
        let before = self.unheld_ns;
        self.unheld_ns = before.saturating_add(window_ns);
        if before < UNHELD_NS && self.unheld_ns >= UNHELD_NS {
            let domain = &self.domains[usize::from(self.domain)].name;
            log::warn(&format!(
                "{}: the power budget is not held: the board gives no power-mw for domain {domain}, and no rail does",
                self.app.name
            ));
        }
    }

    /// At the highest OPP, since arrivals are not known: the best sub-network that holds the target by the
    /// profile; without one the cheapest at or above the floor.
    fn begin(&mut self, seen: &View) -> Point {
        let within = self.order.iter().rev().find(|s| self.meets_floor(**s));
        let subnet = within.or(self.order.last()).copied().unwrap_or(0);
        let cheapest = Point { subnet, opp: self.range.hi };
        let best = self.model.expected().and_then(|scale| {
            let present = Present { now_ns: seen.at_ns, point: cheapest, scale, waits: (0, false) };
            self.best(0, &present, UP_MARGIN)
        });
        let point = best.map_or(cheapest, |best| Point { opp: self.range.hi, ..best });
        self.point = Some(point);
        self.since_ns = seen.at_ns;
        point
    }

    /// Folds the window's inferences and arrivals in.
    fn observe(&mut self, seen: &View, point: Point) {
        let opp = seen.domain.opp.unwrap_or(self.sprint.map_or(point.opp, |s| s.point.opp));
        if opp != self.opp {
            (self.opp_before, self.opp, self.opp_since_ns) = (self.opp, opp, seen.at_ns);
        }
        self.watch_power(seen);
        for done in &seen.app.finished {
            if usize::from(done.subnet) >= self.app.subnets.len() || done.service_ns == 0 {
                continue;
            }
            // The first one pays for cold memory; it would be the 95th percentile of the first twenty.
            if std::mem::take(&mut self.cold) {
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
        self.arrivals.add(seen.app.arrived, seen.window_ns);
        self.sprint_debt_ns = self.sprint_debt_ns.saturating_sub(seen.window_ns);
        if let (Some(run), Some(waited)) = (seen.app.run_ns, seen.app.runq_delay_ns)
            && run > 0
        {
            // Thousandths of thousandths, forgetting over some 32 busy ticks.
            let now = waited.saturating_mul(1000) / run.saturating_add(waited) * 1000;
            self.waits = (self.waits * 31 + now) / 32;
        }
    }

    /// How busy the granted domain's CPUs were, thousandths of one CPU. Who runs where is not told: all of the machine's
    /// load if the domain's busiest CPU leaves that possible; else some of it is elsewhere, and only of a single CPU is known
    /// how much.
    fn busy_cpus(&self, seen: &View) -> Option<u64> {
        let cpus = self.domains[usize::from(self.domain)].cpus.len() as u64;
        let possible = seen.domain.util.map_or(1000, |util| u64::from(util.min(1024)) * 1000 / 1024) * cpus;
        let run = seen.app.run_ns.zip(seen.other.run_ns).map(|(own, others)| own.saturating_add(others))?;
        let run = mul_div(run, 1000, seen.window_ns);
        (cpus == 1 || run <= possible).then(|| run.min(possible))
    }

    /// A rail of the granted domain corrects what its OPPs are believed to draw.
    fn watch_power(&mut self, seen: &View) {
        let Some(mw) = seen.domain.power_mw.filter(|_| self.learns && seen.domain.opp.is_some()) else {
            return;
        };
        // The window must lie at one OPP.
        if seen.at_ns.saturating_sub(self.opp_since_ns) <= seen.window_ns {
            return;
        }
        let cpus = self.domains[usize::from(self.domain)].cpus.len() as u64;
        let util = if cpus == 0 {
            seen.domain.util.map(|u| u64::from(u) * 1000 / 1024)
        } else {
            self.busy_cpus(seen).map(|busy| busy / cpus)
        };
        if let Some(util) = util {
            self.power.learn(self.opp, util, mw, seen.window_ns);
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
        let learned = self.window.scale(now_ns);
        let scale = if self.learns { learned } else { self.model.expected().or(learned) };
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
        let dear = scale.is_some_and(|(median, _)| self.over_budget(point, median));
        let shown = self.window.count() >= SAMPLES || self.reviewed_ns == 0 || dear;
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
        // Who is below the floor already does not go back to it for a queue.
        let floor = floor.filter(|s| self.place(**s) >= self.place(point.subnet));
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

    /// Leaves a point that fails for one that should hold.
    fn give_up(&mut self, now_ns: u64, point: Point, scale: Option<(u64, u64)>) -> Point {
        let cheapest = self.cheapest(scale.map_or(0, |(median, _)| median));
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

    /// Weighs a free move, and what a budget that shrank leaves.
    fn review(&mut self, now_ns: u64, point: Point, scale: (u64, u64)) -> Point {
        let present = self.present(now_ns, point, scale);
        self.too_dear = self.budget_mw.is_some() && self.next_is_too_dear(&present);
        let Some(next) = self.best(0, &present, UP_MARGIN) else {
            let cheapest = self.cheapest(scale.0);
            if self.over_budget(point, scale.0) && point != cheapest {
                self.infeasible = true;
                return self.go(now_ns, cheapest);
            }
            return point;
        };
        if self.better(next, &present) {
            self.infeasible = false;
            // There is no way back to what cost too much.
            self.trial =
                (!self.over_budget(point, scale.0)).then_some(Trial { from: point, scale_ns: scale.0 });
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
        let binds = self.bound_by(point);
        let first_or_due = self.said_ns == 0 || now_ns.saturating_sub(self.said_ns) >= SAY_NS;
        if self.binds != Some(binds) && first_or_due && self.sprint.is_none() {
            self.binds = Some(binds);
            self.said_ns = now_ns;
            let subnet = self.app.subnets.get(usize::from(point.subnet)).map_or("", |s| s.name.as_str());
            let words = self.words(binds);
            log::info(&format!("{}: {words} (sub-network {subnet}, OPP {})", self.app.name, point.opp));
        }
    }
}

policy_sdk::export_tuner!(TandemTuner);
