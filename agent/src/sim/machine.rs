//! The simulated machine: domains, applications, co-runners, heat; moved from event to event.
//!
//! Between two events everything is constant, so work, energy and temperature are exact. Events are:
//! frames that arrive and finish, clocks that change, co-runners that come and go, what the scenario does to
//! the machine, polls of the thermal zone and the kernel governors' moments.
//!
//! Either the agent governs it, through [`crate::governor::Machine`], or the kernel's own governors do ([`super::kernel`]),
//! or both: the kernel the clocks, the agent the applications; or nobody does, and everything stays at one [`Point`].

mod act;
mod app;
mod book;
mod domain;
mod events;
mod sense;

pub use app::Done;
pub use book::{Book, DomainBook, Frame, Moved};
pub use domain::SimDomain;

use super::kernel::{Kernel, Which};
use super::model::{Model, mhz};
use super::run_queue::Task;
use super::scenario::{Happening, Scenario};
use super::sched::{Place, Thread};
use super::stream::random;
use super::thermal::{self, Thermal};
use crate::policy::Slo;
use crate::transaction::Present;
use crate::units::{DomainId, Nanos, OppIndex};
use act::Clocks;
use app::SimApp;
use rand_pcg::Pcg64Mcg;

/// Who sets the clocks, and what the applications run if nobody tells them.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// The agent, through [`crate::governor::Machine`].
    Agent,
    /// A kernel governor for CPU domains and one for devices; the sub-network is fixed.
    Kernel {
        /// On CPU domains.
        cpus: Which,
        /// On devices.
        devices: Which,
        /// Position of the sub-network of each application, or one for all; beyond its last: its last. Empty: the largest.
        subnets: Vec<usize>,
    },
    /// A kernel governor sets the clocks; what the agent orders for applications gets through, OPPs do not.
    Tuned {
        /// On CPU domains.
        cpus: Which,
        /// On devices.
        devices: Which,
    },
    /// Nobody: one operating point from the first moment to the last, under the caps.
    Point(Point),
}

/// An operating point of the whole machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Point {
    /// OPP by domain.
    pub opps: Vec<usize>,
    /// Domain and sub-network by application.
    pub apps: Vec<(usize, usize)>,
}

impl Rule {
    /// The kernel's governors for CPU domains and for devices, if they set the clocks.
    fn kernel(&self) -> Option<(Which, Which)> {
        match self {
            Self::Kernel { cpus, devices, .. } | Self::Tuned { cpus, devices } => Some((*cpus, *devices)),
            Self::Agent | Self::Point(_) => None,
        }
    }
}

/// Why a scenario cannot run on a board.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("scenario {scenario} on {board}: {rule}")]
pub struct Unfit {
    scenario: String,
    board: String,
    rule: String,
}

impl Unfit {
    /// Because of that rule.
    pub fn new(model: &Model, scenario: &Scenario, rule: String) -> Self {
        Self::of(&model.name, &scenario.name, rule)
    }

    /// The same by names.
    pub fn of(board: &str, scenario: &str, rule: String) -> Self {
        Self { scenario: scenario.into(), board: board.into(), rule }
    }
}

/// One thread of a co-runner.
#[derive(Debug)]
struct Other {
    name: usize,
    domain: usize,
    allowed: u64,
    weight: f64,
    on: bool,
    place: Place,
    task: Task,
    run_ns: f64,
    wait_ns: f64,
}

/// What is planned, by time.
type Plans = Vec<(Nanos, Plan)>;

/// What is planned for a time.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Settled,
    On(usize),
    Off(usize),
    Event(usize),
}

/// What is counted while it runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// By domain, since the start, mJ.
    pub energy_mj: Vec<f64>,
    /// Frames that came, by application.
    pub arrived: Vec<u64>,
    /// Frames that were dropped, by application.
    pub dropped: Vec<u64>,
}

/// See the module's text.
#[derive(Debug)]
pub struct SimMachine {
    now: Nanos,
    domains: Vec<SimDomain>,
    apps: Vec<SimApp>,
    others: Vec<Other>,
    clocks: Clocks,
    heat: Thermal,
    next_poll: Nanos,
    plan: Plans,
    planned: usize,
    happenings: Vec<Happening>,
    /// Room for `spread`.
    threads: Vec<Thread>,
    places: Vec<Place>,
    present: Vec<Present>,
    sensed: Nanos,
    rng: Pcg64Mcg,
    thermal_zone: bool,
    temp_noise: f64,
    power_noise: f64,
    contention: f64,
    /// The kernel sets the clocks.
    kernel: bool,
    /// The agent's orders are carried out.
    ordered: bool,
    cpus: usize,
    book: Book,
}

impl SimMachine {
    /// A board under a scenario.
    ///
    /// # Errors
    /// The scenario names what the board lacks.
    pub fn new(model: &Model, scenario: &Scenario, rule: &Rule) -> Result<Self, Unfit> {
        let unfit = |rule: String| Unfit::new(model, scenario, rule);
        let mut domains = Vec::new();
        for (id, _) in model.board.ids() {
            domains.push(SimDomain::new(model, id, kernel_of(model, id, rule)).map_err(unfit)?);
        }
        let mut apps = Vec::new();
        for i in 0..scenario.apps.len() {
            let (domain, subnet) = match rule {
                Rule::Agent | Rule::Tuned { .. } => (None, None),
                Rule::Kernel { subnets, .. } => (None, subnets.get(i).or(subnets.first()).copied()),
                Rule::Point(point) => point.apps.get(i).copied().unzip(),
            };
            let mut app = SimApp::new(i, scenario, model, subnet).map_err(unfit)?;
            if let Some(domain) = domain.filter(|d| *d < domains.len()) {
                (app.domain, app.next_domain) = (domain, domain);
                // Of its CPUs it has as much as may be granted.
                app.weight = f64::from(formulas::weight::of_cgroup(10_000));
            }
            apps.push(app);
        }
        if let Rule::Point(point) = rule {
            for (domain, opp) in domains.iter_mut().zip(&point.opps) {
                domain.arrive((*opp).min(usize::from(domain.top().0)));
                domain.set_power();
                domain.moves = 0;
                domain.moves_all = 0;
            }
        }
        let (others, mut plan) = co_runners(model, scenario).map_err(unfit)?;
        plan.push((scenario.warm_up, Plan::Settled));
        for (i, event) in scenario.events.iter().enumerate() {
            if let Happening::Cap { domain: Some(name), .. } = &event.what {
                find(model, Some(name)).map_err(unfit)?;
            }
            plan.push((event.at, Plan::Event(i)));
        }
        plan.sort_by_key(|(at, _)| *at);
        let mut machine = Self {
            now: Nanos(0),
            clocks: Clocks::new(&domains, apps.len(), rule.kernel().is_none()),
            book: Book::new(&domains, apps.len(), scenario.co_runners.len()),
            cpus: model.board.domains.iter().flat_map(|d| &d.cpus).max().map_or(0, |c| *c as usize + 1),
            domains,
            others,
            heat: heat(model),
            next_poll: thermal::POLL,
            plan,
            planned: 0,
            happenings: scenario.events.iter().map(|e| e.what.clone()).collect(),
            threads: Vec::new(),
            places: Vec::new(),
            present: Vec::with_capacity(apps.len()),
            apps,
            sensed: Nanos(0),
            rng: random(scenario.seed, 1 << 32),
            thermal_zone: model.thermal_zone,
            temp_noise: model.constant("temp-noise-c"),
            power_noise: model.constant("power-noise"),
            contention: model.constant("contention"),
            kernel: rule.kernel().is_some(),
            ordered: matches!(rule, Rule::Agent | Rule::Tuned { .. }),
        };
        machine.happen();
        Ok(machine)
    }

    /// The time it has come to.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Its domains.
    pub fn domains(&self) -> &[SimDomain] {
        &self.domains
    }

    /// Another target for an application, from now on.
    pub fn set_target(&mut self, app: usize, target: Slo) {
        self.apps[app].target = target;
    }

    /// Its temperature, C.
    pub fn celsius(&self) -> f64 {
        self.heat.celsius
    }

    /// What was counted.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// The end: what was counted, closed.
    pub fn into_book(mut self) -> Book {
        self.close_book();
        self.book
    }

    /// Totals since the start, or the warm-up's end.
    pub fn counts(&self) -> Counts {
        Counts {
            energy_mj: self.domains.iter().map(|d| d.energy_mj).collect(),
            arrived: self.book.arrived.clone(),
            dropped: self.book.dropped.clone(),
        }
    }

    /// When the frames came that wait or are in flight.
    pub fn unfinished(&self, app: usize) -> impl Iterator<Item = Nanos> {
        let app = &self.apps[app];
        app.waiting.iter().copied().chain(app.flight.map(|f| f.arrived))
    }

    /// Everything begins anew: nothing waits, nothing is in flight, and it is so warm. For runs at one
    /// [`Point`] that are cut into pieces.
    pub fn forget(&mut self, celsius: f64) {
        for app in &mut self.apps {
            app.waiting.clear();
            app.flight = None;
        }
        (self.heat.celsius, self.heat.state) = (celsius, 0);
        self.set_caps();
        (0..self.domains.len()).for_each(|d| self.rearrange(d));
    }

    /// New places, rates and power after something changed on a domain.
    fn rearrange(&mut self, d: usize) {
        self.threads.clear();
        let domain = &mut self.domains[d];
        let running = |a: &&mut SimApp| a.domain == d && a.flight.is_some();
        for app in self.apps.iter_mut().filter(running) {
            self.threads.push(Thread { allowed: app.allowed(), weight: app.weight, last: app.place.cpu });
        }
        for other in self.others.iter().filter(|o| o.on && o.domain == d) {
            self.threads.push(Thread { allowed: other.allowed, weight: other.weight, last: other.place.cpu });
        }
        domain.place(&self.threads, &mut self.places);
        let mut places = self.places.iter().copied();
        let busy = self.domains.iter().map(|d| d.busy_cpus()).sum::<usize>();
        let domain = &mut self.domains[d];
        // Each other busy CPU of the board is in the way of caches and memory.
        let others_busy = u32::try_from(busy.saturating_sub(1)).unwrap_or(0);
        let crowd = 1.0 + self.contention * f64::from(others_busy);
        for app in self.apps.iter_mut().filter(running) {
            let Some(place) = places.next() else { break };
            domain.migrate(app.place.cpu, place.cpu, &mut app.task, app.queued);
            app.queued = true;
            app.place = place;
            app.set_rate(domain, crowd, self.now);
        }
        for other in self.others.iter_mut().filter(|o| o.on && o.domain == d) {
            let Some(place) = places.next() else { break };
            if place.cpu != other.place.cpu {
                domain.migrate(other.place.cpu, place.cpu, &mut other.task, true);
            }
            other.place = place;
        }
        domain.set_power();
    }

    fn close_book(&mut self) {
        self.book.end = self.now;
        for (d, domain) in self.domains.iter().enumerate() {
            self.book.close_domain(d, domain);
        }
        for (app, overdue) in self.apps.iter().zip(&mut self.book.overdue) {
            let Some(target) = app.target.latency else { continue };
            let unfinished = app.waiting.iter().copied().chain(app.flight.map(|f| f.arrived));
            let late = unfinished.filter(|at| *at >= self.book.begin && self.now.since(*at) > target);
            *overdue = late.count() as u64;
        }
    }
}

/// At rest with the air.
fn heat(model: &Model) -> Thermal {
    let ambient = model.constant("ambient-c");
    Thermal {
        celsius: ambient,
        ambient,
        per_watt: model.constant("thermal-c-per-w"),
        tau: model.constant("thermal-tau-s"),
        trip: model.constant("trip-c"),
        state: 0,
    }
}

/// Every co-runner's threads, and when they come and go.
fn co_runners(model: &Model, scenario: &Scenario) -> Result<(Vec<Other>, Plans), String> {
    let (mut others, mut plan) = (Vec::new(), Vec::new());
    for (name, c) in scenario.co_runners.iter().enumerate() {
        let domain = find(model, c.domain.as_deref())?;
        for _ in 0..c.threads {
            plan.extend([(c.from, Plan::On(others.len())), (c.to, Plan::Off(others.len()))]);
            others.push(Other {
                name,
                domain,
                allowed: mask(&c.cpus),
                weight: f64::from(formulas::weight::of_nice(c.nice)),
                on: false,
                place: Place { cpu: others.len(), share: 0.0 },
                task: Task::default(),
                run_ns: 0.0,
                wait_ns: 0.0,
            });
        }
    }
    Ok((others, plan))
}

fn find(model: &Model, name: Option<&str>) -> Result<usize, String> {
    let id = match name {
        None => Some(model.apps_on),
        Some(name) => model.board.domain(name),
    };
    let known: Vec<_> = model.board.domains.iter().map(|d| d.name.as_str()).collect();
    id.map(|d| usize::from(d.0)).ok_or_else(|| {
        format!("domain {:?}: not simulated there; it has {}", name.unwrap_or(""), known.join(", "))
    })
}

pub(super) fn mask(cpus: &[usize]) -> u64 {
    if cpus.is_empty() { u64::MAX } else { cpus.iter().fold(0, |m, c| m | 1 << (c % 64)) }
}

fn kernel_of(model: &Model, id: DomainId, rule: &Rule) -> Option<Kernel> {
    let domain = model.domain(id);
    let (cpus, devices) = rule.kernel()?;
    let which = if domain.cpus.is_empty() {
        match devices {
            Which::SimpleOndemand { .. } => Which::SimpleOndemand {
                poll: Nanos::from_secs(model.domain_constant(id, "poll-ms") / 1000.0),
            },
            other => other,
        }
    } else {
        cpus
    };
    let freqs: Vec<u64> = domain.opps.iter().map(|o| o.freq.raw).collect();
    Some(Kernel::new(which, &freqs, domain.cpus.len(), domain.transition_latency))
}

/// The highest OPP at or below a share of the top frequency.
pub(super) fn cap_at(model_mhz: &[f64], permille: u16) -> OppIndex {
    let top = model_mhz.last().copied().unwrap_or(0.0);
    let limit = top * f64::from(permille) / 1000.0 + 1e-6;
    OppIndex(u16::try_from(model_mhz.iter().rposition(|f| *f <= limit).unwrap_or(0)).unwrap_or(0))
}

#[cfg(test)]
mod tests;
