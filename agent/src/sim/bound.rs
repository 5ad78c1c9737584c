//! How little energy a scenario could have cost: the lower bound that managers are measured by.
//!
//! Time is cut wherever a target, a co-runner, a cap or the air changes. Within each interval the machine
//! stands at one [`Point`] (a sub-network per application, an OPP per domain, applications where they are or
//! on another CPU domain); which, is found by trying all of them on the simulated machine itself, with its
//! true frame times. Between intervals everything may change at no cost. The least energy of a feasible point,
//! summed over the intervals, is the bound.
//!
//! *Feasible*: in that interval every application has its 95th percentile within the target, at most 5 % of
//! its frames late or lost, and a sub-network at or above the floor. Where nothing is, the point with the
//! fewest violations counts, then the least energy, and the interval says so.
//!
//! **In its favour** (so that it is below what can be had): every interval begins with nothing waiting, no
//! inference in flight and the coolest air of the scenario; what is unfinished when one ends costs no more, and is
//! late only if it already is.
//!
//! **What can be below it.** A manager that mixes points *within* an interval. `bound/tests/dp.rs` finds that optimum by
//! dynamic programming for one stream at 60 % of its time on the VM's big domain (slots of 2 ms, 20 frames) and prints it:
//! - clocks, every OPP, one sub-network, no frame late: another clock while idle and another per frame go 2.7 to 3.9 % below the
//!   bound at 8 % idle power (1 % at 2 %, 8 to 10 % at 30 %), a clock per slot 4 to 10 % (1 to 7 %, 11 to 19 %); the 5 %
//!   of frames that may be late give at most 1 % more;
//! - sub-networks, where the floor lies between two published points and is held by the mean: half of the energy on a board of
//!   two OPPs.
//!
//! So compare at equal accuracy, and read a small negative distance as mixing.
//!
//! **Left out, with proof.** A domain without an application stands at the OPP of least power: its power is
//! `P(opp)` times a factor that does not depend on the OPP, and nothing else of the machine depends on it. Applications on
//! different domains are simulated one by one and added up where nothing couples them: `contention` is 0, and the board
//! cannot reach its trip point even with all threads busy (temperature rises monotonically towards
//! `air + R P`).

mod cut;

use super::machine::{Point, Unfit};
use super::model::Model;
use super::scenario::{Happening, Scenario};
use crate::policy::Slo;
use crate::units::{CentiPercent, DomainId, Nanos};
use cut::{Cut, Cutter};
use serde::Serialize;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Frames that may be late or lost, share of those that came: what a 95th percentile allows.
const VIOLATIONS: f64 = 0.05;

/// The bound of a scenario on a board.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bound {
    /// The domains' energy after the warm-up, J.
    pub energy_j: f64,
    /// Every interval had a feasible point.
    pub feasible: bool,
    /// After the warm-up, in order.
    pub intervals: Vec<Interval>,
}

/// The best point between two changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// ns
    pub from: Nanos,
    /// ns
    pub to: Nanos,
    /// Where the machine stands.
    pub point: Point,
    /// J
    pub energy_j: f64,
    /// Frames late or lost, of all applications.
    pub violations: u64,
    /// It meets all targets.
    pub feasible: bool,
}

/// The bound by one enumeration; see [`enumerate`] to share it between targets.
///
/// # Errors
/// The scenario does not fit the board, or has more than two applications.
pub fn lower_bound(model: &Model, scenario: &Scenario) -> Result<Bound, Unfit> {
    enumerate(model, scenario)?.best(scenario)
}

/// Every point of a board under a scenario, simulated; targets do not matter yet.
#[derive(Debug)]
pub struct Points {
    board: String,
    scenario: Scenario,
    intervals: Vec<(Nanos, Nanos)>,
    /// Simulated runs.
    runs: Vec<Vec<Cut>>,
    found: Vec<Found>,
}

/// A point, which run tells of each application, and its energy by interval, mJ.
#[derive(Debug)]
struct Found {
    point: Point,
    by: Vec<usize>,
    energy_mj: Vec<f64>,
}

/// Simulates all points. What the targets ask is read later, so one enumeration serves all floors and deadlines of
/// a scenario.
///
/// # Errors
/// The scenario does not fit the board, or has more than two applications.
pub fn enumerate(model: &Model, scenario: &Scenario) -> Result<Points, Unfit> {
    let apps = scenario.apps.len();
    if !(1..=2).contains(&apps) {
        return Err(Unfit::new(model, scenario, format!("{apps} applications, the bound is for one or two")));
    }
    let search = Search::new(model, scenario);
    let mut points = Points {
        board: model.name.clone(),
        scenario: scenario.clone(),
        intervals: search.cutter.intervals.clone(),
        runs: vec![],
        found: vec![],
    };
    for places in product(&vec![search.homes.clone(); apps]) {
        search.at(&places, &mut points)?;
    }
    Ok(points)
}

impl Points {
    /// How many points there are.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many runs were simulated for them.
    pub fn simulated(&self) -> usize {
        self.runs.len()
    }

    /// The bound for the targets of `like`: a scenario that differs from the enumerated one in them only, not
    /// in when they change.
    ///
    /// # Errors
    /// It differs in more.
    pub fn best(&self, like: &Scenario) -> Result<Bound, Unfit> {
        if bare(like) != bare(&self.scenario) {
            let rule = format!("differs from {} in more than its targets", self.scenario.name);
            return Err(Unfit::of(&self.board, &like.name, rule));
        }
        let intervals: Vec<Interval> = (0..self.intervals.len()).map(|k| self.interval(k, like)).collect();
        Ok(Bound {
            energy_j: intervals.iter().map(|i| i.energy_j).sum(),
            feasible: intervals.iter().all(|i| i.feasible),
            intervals,
        })
    }

    fn interval(&self, k: usize, like: &Scenario) -> Interval {
        let (from, to) = self.intervals[k];
        let targets: Vec<Slo> = like.apps.iter().map(|a| a.target_at(from)).collect();
        let top1 = |app: usize, subnet: usize| like.apps[app].network.subnets[subnet].top1;
        let holds_floor = |p: &Point| {
            let each = p.apps.iter().zip(&targets).enumerate();
            each.fold(true, |all, (i, ((_, s), t))| {
                all && t.top1.is_none_or(|f: CentiPercent| top1(i, *s) >= f)
            })
        };
        // Best first: feasible, then few violations unless feasible, then little energy.
        let mut best: Option<(bool, u64, f64, &Point)> = None;
        for found in self.found.iter().filter(|f| holds_floor(&f.point)) {
            let (mut feasible, mut violations) = (true, 0);
            for (i, run) in found.by.iter().enumerate() {
                let served = &self.runs[*run][k].apps[i];
                let late = served.violations(targets[i].latency);
                feasible &= served.holds(targets[i].latency, late, VIOLATIONS);
                violations += late;
            }
            let energy = found.energy_mj[k];
            let better = best.is_none_or(|(f, v, e, _)| match (feasible, f) {
                (true, true) => energy < e,
                (false, false) => (violations, energy) < (v, e),
                (now, _) => now,
            });
            if better {
                best = Some((feasible, violations, energy, &found.point));
            }
        }
        let none = Point::default();
        let (feasible, violations, energy, point) = best.unwrap_or((false, 0, 0.0, &none));
        Interval { from, to, point: point.clone(), energy_j: energy / 1000.0, violations, feasible }
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
    /// Busy power by domain and OPP, mW: the most, whatever is in flight.
    power: Vec<Vec<f64>>,
    /// Co-runner threads by domain, all there ever are.
    others: Vec<usize>,
    hottest_air: f64,
}

impl<'a> Search<'a> {
    fn new(model: &'a Model, scenario: &'a Scenario) -> Self {
        let home = usize::from(model.apps_on.0);
        let cpus = |d: &usize| !model.board.domains[*d].cpus.is_empty();
        let all = 0..model.board.domains.len();
        // Times on a device and on CPUs have no common reference, so nobody moves between the two.
        let homes = if cpus(&home) { all.clone().filter(cpus).collect() } else { vec![home] };
        let rows = |d: usize| model.busy_power(DomainId(u16::try_from(d).unwrap_or(0)));
        let least = |row: &Vec<f64>| (0..row.len()).min_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0);
        let most = |rows: Vec<Vec<f64>>| {
            let opps = rows.first().map_or(0, Vec::len);
            (0..opps).map(|o| rows.iter().map(|r| r[o]).fold(0.0, f64::max)).collect::<Vec<f64>>()
        };
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
        Self {
            model,
            scenario,
            cutter: Cutter::new(model, scenario),
            homes,
            idle: all.clone().map(|d| least(&rows(d)[0])).collect(),
            power: all.map(|d| most(rows(d))).collect(),
            others,
            hottest_air: air.fold(model.constant("ambient-c"), f64::max),
        }
    }

    /// All points with the applications at these places.
    fn at(&self, places: &[usize], points: &mut Points) -> Result<(), Unfit> {
        let mut used = places.to_vec();
        used.sort_unstable();
        used.dedup();
        let apart = used.len() == places.len();
        let opps: Vec<Vec<usize>> =
            used.iter().map(|d| (0..self.model.board.domains[*d].opps.len()).collect()).collect();
        let subnets: Vec<Vec<usize>> =
            self.scenario.apps.iter().map(|a| (0..a.network.subnets.len()).collect()).collect();
        // One application alone on its domain at an OPP, by its sub-network.
        let mut alone: HashMap<(usize, usize, usize), usize> = HashMap::new();
        for chosen in product(&opps) {
            let mut opps = self.idle.clone();
            used.iter().zip(&chosen).for_each(|(d, opp)| opps[*d] = *opp);
            let uncoupled = apart && self.uncoupled(places, &opps);
            for subnets in product(&subnets) {
                let apps = places.iter().copied().zip(subnets).collect();
                let point = Point { opps: opps.clone(), apps };
                if !uncoupled {
                    let run = push(&mut points.runs, self.cutter.run(&point, None)?);
                    let energy_mj = points.runs[run].iter().map(|c| c.energy_mj.iter().sum()).collect();
                    points.found.push(Found { by: vec![run; places.len()], point, energy_mj });
                    continue;
                }
                let mut by = Vec::new();
                for (i, (d, subnet)) in point.apps.iter().enumerate() {
                    let key = (i, point.opps[*d], *subnet);
                    let run = match alone.entry(key) {
                        Entry::Occupied(known) => *known.get(),
                        Entry::Vacant(new) => {
                            let mut lone = Point { opps: self.idle.clone(), ..point.clone() };
                            lone.opps[*d] = point.opps[*d];
                            *new.insert(push(&mut points.runs, self.cutter.run(&lone, Some(i))?))
                        }
                    };
                    by.push(run);
                }
                let energy_mj = (0..points.intervals.len()).map(|k| added(&points.runs, &by, places, k));
                points.found.push(Found { energy_mj: energy_mj.collect(), by, point });
            }
        }
        Ok(())
    }

    /// Whether applications at different places cannot feel each other. One alone has nobody to feel.
    fn uncoupled(&self, places: &[usize], opps: &[usize]) -> bool {
        if places.len() == 1 {
            return true;
        }
        let idle = self.model.constant("idle-share");
        let share = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
        let most = |d: usize| {
            let threads = self.others[d] + places.iter().filter(|p| **p == d).count();
            let cpus = self.model.board.domains[d].cpus.len().max(1);
            let busy = share(threads.min(cpus)) / share(cpus);
            self.power[d][opps[d]] * (idle + (1.0 - idle) * busy)
        };
        let watts = (0..opps.len()).map(most).sum::<f64>() / 1000.0;
        let hottest = self.hottest_air + self.model.constant("thermal-c-per-w") * watts;
        self.model.constant("contention") == 0.0 && hottest < self.model.constant("trip-c")
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

#[cfg(test)]
mod tests;
