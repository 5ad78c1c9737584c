//! How little energy a scenario could have cost: the bound of constant points, by which managers are measured.
//!
//! Time is cut wherever a target, a co-runner, a cap or the air changes. Within each interval the machine stands at one [`Point`] (a sub-network per application, an OPP per domain, applications where they
//! are or on another CPU domain, their shares as large as they can be); which, is found by trying them on the simulated
//! machine itself, with its true frame times. Between intervals everything may change at no cost. The least energy of a
//! feasible point, summed over the intervals, is the bound. *Feasible*: in that interval every application has its 95th
//! percentile within the target, at most 5 % of its frames late or lost, and a sub-network at or above the floor.
//!
//! Points are tried by what they must draw at least, cheapest first, until the next must draw more than the best found
//! did; those that cannot be in time even alone are left out. So few are simulated, and the result is that of all.
//!
//! It is in favour of the bound that every interval begins with nothing waiting, no inference in flight and the coolest air of
//! the scenario; what is unfinished when one ends costs no more, and is late only if it already is. Left out: domains
//! without an application stand at the OPP of least power, and nothing else of the machine depends on theirs. Applications on
//! different domains are simulated one by one and added up where nothing couples them: `contention` is 0, and the board
//! cannot reach its trip point even with all threads busy (temperature rises monotonically towards `air + R P`).
//!
//! A manager that mixes points *within* an interval may go below it. `bound/tests/dp.rs` finds that optimum by dynamic
//! programming for one stream at 60 % of its time on the VM's big domain (slots of 2 ms, 20 frames) and prints it:
//! - clocks, every OPP, one sub-network, no frame late: another clock while idle and another per frame go 2.7 to 3.9 % below
//!   at 8 % idle power (1 % at 2 %, 8 to 10 % at 30 %), a clock per slot 4 to 10 % (1 to 7 %, 11 to 19 %); the 5 %
//!   of frames that may be late give at most 1 % more;
//! - sub-networks, where the floor lies between two published points and is held by the mean: half of the energy on a board of
//!   two OPPs.
//!
//! What no run can undercut, whatever it mixes, is in `bound/tests/relax.rs`: a relaxation that the tests hold the simulator and
//! this bound to.

mod cut;
mod span;

use super::machine::{Point, Unfit};
use super::model::Model;
use super::scenario::{Happening, Scenario};
use crate::policy::Slo;
use crate::units::{DomainId, Nanos};
use cut::{Cut, Cutter};
use serde::Serialize;
use span::Span;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;

/// Frames that may be late or lost, share of those that came: what a 95th percentile allows.
pub const VIOLATIONS: f64 = 0.05;

/// The bound of a scenario on a board, by constant points.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bound {
    /// The domains' energy after the warm-up, J; `None`: an interval has no feasible point.
    pub energy_j: Option<f64>,
    /// After the warm-up, in order.
    pub intervals: Vec<Interval>,
}

/// What is best between two changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// ns
    pub from: Nanos,
    /// ns
    pub to: Nanos,
    /// Where the machine stands, and what that costs, J; `None`: no point meets the targets.
    pub best: Option<(Point, f64)>,
}

/// The bound by constant points; see [`enumerate`] to share its runs between targets.
///
/// # Errors
/// The scenario does not fit the board, or has more than two applications.
pub fn lower_bound(model: &Model, scenario: &Scenario) -> Result<Bound, Unfit> {
    enumerate(model, scenario)?.best(scenario)
}

/// Every point of a board under a scenario, simulated as they are asked for; targets do not matter yet.
pub struct Points<'a> {
    search: Search<'a>,
    /// Simulated runs, and those of one application alone: which, its OPP, domain, sub-network.
    runs: RefCell<Vec<Vec<Cut>>>,
    alone: RefCell<HashMap<(usize, usize, usize, usize), usize>>,
    found: Vec<Found>,
}

impl std::fmt::Debug for Points<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Points").field("points", &self.len()).field("simulated", &self.simulated()).finish()
    }
}

/// A point; once simulated, which run tells of each application, and its energy by interval, mJ.
struct Found {
    point: Point,
    runs: OnceCell<(Vec<usize>, Vec<f64>)>,
}

/// All points. What the targets ask is read later, so one enumeration serves all floors and deadlines of a scenario.
///
/// # Errors
/// The scenario does not fit the board, or has more than two applications.
pub fn enumerate<'a>(model: &'a Model, scenario: &'a Scenario) -> Result<Points<'a>, Unfit> {
    let apps = scenario.apps.len();
    if !(1..=2).contains(&apps) {
        return Err(Unfit::new(model, scenario, format!("{apps} applications, the bound is for one or two")));
    }
    let search = Search::new(model, scenario)?;
    let found = search.points().into_iter().map(|point| Found { point, runs: OnceCell::new() }).collect();
    Ok(Points { search, runs: RefCell::default(), alone: RefCell::default(), found })
}

impl Points<'_> {
    /// How many points there are.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many runs were simulated so far.
    pub fn simulated(&self) -> usize {
        self.runs.borrow().len()
    }

    /// The bound for the targets of `like`: a scenario that differs from the enumerated one in them only, not
    /// in when they change.
    ///
    /// # Errors
    /// It differs in more.
    pub fn best(&self, like: &Scenario) -> Result<Bound, Unfit> {
        let (model, scenario) = (self.search.model, self.search.scenario);
        if bare(like) != bare(scenario) {
            let rule = format!("differs from {} in more than its targets", scenario.name);
            return Err(Unfit::of(&model.name, &like.name, rule));
        }
        let spans = span::spans(model, like, &self.search.cutter.intervals);
        let interval = |(k, span): (usize, &Span)| {
            let (from, to) = self.search.cutter.intervals[k];
            Ok(Interval { from, to, best: self.interval(k, span, like)? })
        };
        let intervals = spans.iter().enumerate().map(interval).collect::<Result<Vec<_>, Unfit>>()?;
        let energy_j = intervals.iter().map(|i| i.best.as_ref().map(|b| b.1)).sum();
        Ok(Bound { energy_j, intervals })
    }

    fn interval(&self, k: usize, span: &Span, like: &Scenario) -> Result<Option<(Point, f64)>, Unfit> {
        let targets: Vec<Slo> = span.apps.iter().map(|a| a.target).collect();
        let at_floor = |p: &Point| {
            let top1 = |i: usize, s: usize| like.apps[i].network.subnets[s].top1;
            p.apps
                .iter()
                .zip(&targets)
                .enumerate()
                .all(|(i, ((_, s), t))| t.top1.is_none_or(|f| top1(i, *s) >= f))
        };
        let found = self.found.iter().filter(|f| at_floor(&f.point));
        let mut order: Vec<(f64, &Found)> =
            found.filter_map(|f| Some((self.search.least_mj(span, &f.point)?, f))).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut best: Option<(&Point, f64)> = None;
        for (least, found) in order {
            if best.is_some_and(|(_, mj)| least > mj) {
                break;
            }
            let (by, energy) = self.run(found)?;
            let runs = self.runs.borrow();
            let holds = by
                .iter()
                .zip(&targets)
                .enumerate()
                .all(|(i, (run, target))| runs[*run][k].apps[i].holds(target.latency, VIOLATIONS));
            if holds && best.is_none_or(|(_, mj)| energy[k] < mj) {
                best = Some((&found.point, energy[k]));
            }
        }
        Ok(best.map(|(point, mj)| (point.clone(), mj / 1000.0)))
    }

    /// Simulates a point, unless it was.
    fn run<'f>(&self, found: &'f Found) -> Result<&'f (Vec<usize>, Vec<f64>), Unfit> {
        if let Some(known) = found.runs.get() {
            return Ok(known);
        }
        let (point, cutter) = (&found.point, &self.search.cutter);
        let intervals = 0..cutter.intervals.len();
        let made = if self.search.uncoupled(point) {
            let mut by = vec![];
            for (i, (d, subnet)) in point.apps.iter().enumerate() {
                let key = (i, point.opps[*d], *d, *subnet);
                let known = self.alone.borrow().get(&key).copied();
                let run = match known {
                    Some(run) => run,
                    None => {
                        let mut lone = Point { opps: self.search.idle.clone(), ..point.clone() };
                        lone.opps[*d] = point.opps[*d];
                        push(&mut self.runs.borrow_mut(), cutter.run(&lone, Some(i))?)
                    }
                };
                self.alone.borrow_mut().insert(key, run);
                by.push(run);
            }
            let places: Vec<usize> = point.apps.iter().map(|a| a.0).collect();
            let runs = self.runs.borrow();
            let energy = intervals.map(|k| added(&runs, &by, &places, k)).collect();
            (by, energy)
        } else {
            let run = push(&mut self.runs.borrow_mut(), cutter.run(point, None)?);
            let energy = intervals.map(|k| self.runs.borrow()[run][k].energy_mj.iter().sum()).collect();
            (vec![run; point.apps.len()], energy)
        };
        Ok(found.runs.get_or_init(|| made))
    }
}

/// A scenario without what its targets ask; when they change remains.
fn bare(scenario: &Scenario) -> Scenario {
    let mut bare = Scenario { name: String::new(), about: String::new(), ..scenario.clone() };
    for (_, slo) in bare.apps.iter_mut().flat_map(|a| &mut a.targets) {
        *slo = Slo::default();
    }
    bare
}

struct Search<'a> {
    model: &'a Model,
    scenario: &'a Scenario,
    cutter: Cutter<'a>,
    /// Domains an application may be on.
    homes: Vec<usize>,
    /// OPP of least power, by domain.
    idle: Vec<usize>,
    /// Power by domain, inferences in flight and OPP, mW.
    power: Vec<Vec<Vec<f64>>>,
    /// Time against the reference, by domain and OPP.
    slow: Vec<Vec<f64>>,
    /// By application and sub-network, s at the reference.
    work: Vec<Vec<f64>>,
    /// Co-runner threads by domain, all there ever are.
    others: Vec<usize>,
    hottest_air: f64,
}

impl<'a> Search<'a> {
    fn new(model: &'a Model, scenario: &'a Scenario) -> Result<Self, Unfit> {
        let home = usize::from(model.apps_on.0);
        let cpus = |d: &usize| !model.board.domains[*d].cpus.is_empty();
        let all = 0..model.board.domains.len();
        // Times on a device and on CPUs have no common reference, so nobody moves between the two.
        let homes = if cpus(&home) { all.filter(cpus).collect() } else { vec![home] };
        let mut others = vec![0; model.board.domains.len()];
        for c in &scenario.co_runners {
            let at = c.domain.as_deref().map_or(Some(model.apps_on), |name| model.board.domain(name));
            if let Some(count) = at.and_then(|d| others.get_mut(usize::from(d.0))) {
                *count += usize::from(c.threads);
            }
        }
        let air = scenario.events.iter().filter_map(|e| match e.what {
            Happening::Ambient { celsius } => Some(celsius),
            Happening::Cap { .. } => None,
        });
        let work = |i| {
            let unknown =
                || Unfit::new(model, scenario, format!("app {i}: nothing says what its network takes"));
            span::work(model, scenario, i, !cpus(&home)).ok_or_else(unknown)
        };
        Ok(Self {
            cutter: Cutter::new(model, scenario),
            homes,
            idle: idle_opps(model),
            power: model.board.ids().map(|(id, _)| model.busy_power(id)).collect(),
            slow: model.board.ids().map(|(id, _)| model.slowness(id)).collect(),
            work: (0..scenario.apps.len()).map(work).collect::<Result<_, _>>()?,
            others,
            hottest_air: air.fold(model.constant("ambient-c"), f64::max),
            model,
            scenario,
        })
    }

    /// All there are.
    fn points(&self) -> Vec<Point> {
        let apps = self.scenario.apps.len();
        let subnets: Vec<Vec<usize>> = self.work.iter().map(|w| (0..w.len()).collect()).collect();
        let mut points = vec![];
        for places in product(&vec![self.homes.clone(); apps]) {
            let mut used = places.clone();
            used.sort_unstable();
            used.dedup();
            let all: Vec<Vec<usize>> = used.iter().map(|d| (0..self.slow[*d].len()).collect()).collect();
            for chosen in product(&all) {
                let mut opps = self.idle.clone();
                used.iter().zip(&chosen).for_each(|(d, opp)| opps[*d] = *opp);
                for subnets in product(&subnets) {
                    points.push(Point {
                        opps: opps.clone(),
                        apps: places.iter().copied().zip(subnets).collect(),
                    });
                }
            }
        }
        points
    }

    /// What a point draws at least in an interval in which it meets the targets, mJ; `None`: it cannot, or is another
    /// one under the cap. Frames whose deadline is not within the interval need not be done, nor a twentieth of all.
    fn least_mj(&self, span: &Span, point: &Point) -> Option<f64> {
        let noise = self.model.constant("service-noise");
        let idle = self.model.constant("idle-share");
        let mut sum = 0.0;
        for (d, domain) in span.domains.iter().enumerate() {
            let here: Vec<usize> = (0..point.apps.len()).filter(|i| point.apps[*i].0 == d).collect();
            let opp = point.opps[d].min(domain.cap);
            if !here.is_empty() && point.opps[d] > domain.cap {
                return None;
            }
            let mut busy = vec![];
            for i in &here {
                let frames = &span.apps[*i];
                let time = self.work[*i][point.apps[*i].1] * self.slow[d][opp];
                let done = (ratio(frames.early, 1) - VIOLATIONS * ratio(frames.all, 1)).max(0.0);
                let sure = (1.0 - noise * (0.11 + 6.0 / ratio(frames.all.max(1), 1).sqrt())).max(0.1);
                let mean = done * time * sure;
                let late = frames.target.latency.is_some_and(|t| time * (1.0 - 3.0 * noise) > t.as_secs());
                if (late && done > 0.0) || mean > span.seconds {
                    return None;
                }
                busy.push(mean);
            }
            let cpus = self.model.board.domains[d].cpus.len();
            let (rows, most) = (&self.power[d], busy.iter().copied().fold(0.0, f64::max));
            let row = |n: usize| rows.get(n - 1).or(rows.last()).map_or(0.0, |r| r[opp]);
            sum += if cpus == 0 {
                let rest = if domain.busy > 0 { row(domain.busy) } else { row(1) * idle };
                rest * span.seconds + (row(domain.busy + 1) - rest).max(0.0) * most
            } else {
                let mine = here.iter().map(|i| crate::sim::machine::mask(&self.scenario.apps[*i].cpus));
                let threads: Vec<u64> = domain.co.iter().copied().chain(mine).collect();
                let apart = span::busy_cpus(&threads, cpus) == domain.busy + here.len();
                let others = ratio(domain.busy, 1) * span.seconds;
                let time = if apart { others + busy.iter().sum::<f64>() } else { others.max(most) };
                row(1) * (idle * span.seconds + (1.0 - idle) * time / ratio(cpus, 1))
            };
        }
        Some(sum)
    }

    /// Whether applications at different places cannot feel each other. One alone has nobody to feel.
    fn uncoupled(&self, point: &Point) -> bool {
        let [(a, _), (b, _)] = point.apps[..] else { return true };
        let idle = self.model.constant("idle-share");
        let most = |d: usize| {
            let threads = self.others[d] + point.apps.iter().filter(|p| p.0 == d).count();
            let cpus = self.model.board.domains[d].cpus.len().max(1);
            let row = self.power[d].iter().map(|r| r[point.opps[d]]).fold(0.0, f64::max);
            row * (idle + (1.0 - idle) * ratio(threads.min(cpus), cpus))
        };
        let watts = (0..point.opps.len()).map(most).sum::<f64>() / 1000.0;
        let hottest = self.hottest_air + self.model.constant("thermal-c-per-w") * watts;
        a != b && self.model.constant("contention") == 0.0 && hottest < self.model.constant("trip-c")
    }
}

/// Energy of an interval from runs of one application each: each one's own domain, and the rest once.
fn added(runs: &[Vec<Cut>], by: &[usize], places: &[usize], k: usize) -> f64 {
    let domains = &runs[by[0]][k].energy_mj;
    let of =
        |d: usize| places.iter().position(|p| *p == d).map_or(domains[d], |i| runs[by[i]][k].energy_mj[d]);
    (0..domains.len()).map(of).sum()
}

fn push<T>(list: &mut Vec<T>, item: T) -> usize {
    list.push(item);
    list.len() - 1
}

/// Every choice of one item from each list.
fn product(lists: &[Vec<usize>]) -> Vec<Vec<usize>> {
    lists.iter().fold(vec![vec![]], |all, list| {
        let with = |head: &Vec<usize>| list.iter().map(|i| [&head[..], &[*i]].concat()).collect::<Vec<_>>();
        all.iter().flat_map(with).collect()
    })
}

#[expect(clippy::cast_precision_loss, reason = "frames and CPUs are counted in thousands")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

/// The OPPs of a domain that draw least, where nobody runs.
fn idle_opps(model: &Model) -> Vec<usize> {
    let least = |id: DomainId| {
        let row = &model.busy_power(id)[0];
        (0..row.len()).min_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0)
    };
    model.board.ids().map(|(id, _)| least(id)).collect()
}

#[cfg(test)]
mod tests;
