//! What holds between two changes of a scenario: caps, co-runners, targets, and the frames that come.

use crate::policy::Slo;
use crate::sim::machine::{cap_at, mask};
use crate::sim::model::{Model, mhz};
use crate::sim::scenario::{Happening, Scenario};
use crate::sim::sched::{Thread, spread};
use crate::sim::stream::{Stream, random};
use crate::units::{DomainId, Nanos};

/// A domain in one interval.
#[derive(Debug)]
pub struct DomainSpan {
    /// The highest OPP that the scenario allows.
    pub cap: usize,
    /// Co-runner threads: the CPUs each may use.
    pub co: Vec<u64>,
    /// CPUs that they keep busy by themselves; of a device: jobs in flight.
    pub busy: usize,
}

/// An application's frames of one interval.
#[derive(Debug)]
pub struct Frames {
    /// What is wanted.
    pub target: Slo,
    /// How many come.
    pub all: usize,
    /// Of them, those whose deadline passes before the interval ends.
    pub early: usize,
}

/// One interval.
#[derive(Debug)]
pub struct Span {
    /// s
    pub seconds: f64,
    /// By domain.
    pub domains: Vec<DomainSpan>,
    /// By application.
    pub apps: Vec<Frames>,
}

/// All intervals.
pub fn spans(model: &Model, scenario: &Scenario, intervals: &[(Nanos, Nanos)]) -> Vec<Span> {
    let arrivals: Vec<Vec<Nanos>> = (0..scenario.apps.len()).map(|i| arrivals(scenario, i)).collect();
    let span = |&(from, to): &(Nanos, Nanos)| Span {
        seconds: to.since(from).as_secs(),
        domains: model.board.ids().map(|(id, _)| domain(model, scenario, id, from)).collect(),
        apps: scenario
            .apps
            .iter()
            .zip(&arrivals)
            .map(|(app, all)| {
                let target = app.target_at(from);
                let here: Vec<Nanos> = all.iter().copied().filter(|at| (from..to).contains(at)).collect();
                let early = here.iter().filter(|at| target.latency.is_some_and(|l| **at + l <= to)).count();
                Frames { target, all: here.len(), early }
            })
            .collect(),
    };
    intervals.iter().map(span).collect()
}

/// When an application's frames come, from the start to the end.
pub fn arrivals(scenario: &Scenario, i: usize) -> Vec<Nanos> {
    let rng = random(scenario.seed, i as u64 * 2);
    let mut stream = Stream::new(&scenario.apps[i].frames, scenario.length, rng);
    std::iter::from_fn(|| stream.next().inspect(|_| stream.pop())).collect()
}

fn domain(model: &Model, scenario: &Scenario, id: DomainId, at: Nanos) -> DomainSpan {
    let domain = model.domain(id);
    let clocks: Vec<f64> = domain.opps.iter().map(mhz).collect();
    let mut cap = clocks.len() - 1;
    for event in scenario.events.iter().filter(|e| e.at <= at) {
        if let Happening::Cap { domain: named, permille } = &event.what
            && named.as_ref().is_none_or(|n| *n == domain.name)
        {
            cap = usize::from(cap_at(&clocks, *permille).0);
        }
    }
    let on = |c: &&crate::sim::scenario::CoRunner| {
        let home = c.domain.as_deref().map_or(Some(model.apps_on), |n| model.board.domain(n));
        c.from <= at && at < c.to && home == Some(id)
    };
    let co: Vec<u64> = scenario
        .co_runners
        .iter()
        .filter(on)
        .flat_map(|c| std::iter::repeat_n(mask(&c.cpus), usize::from(c.threads)))
        .collect();
    let busy = busy_cpus(&co, domain.cpus.len());
    DomainSpan { cap, co, busy }
}

/// CPUs with somebody on them if all these threads run; without CPUs: the threads.
pub fn busy_cpus(allowed: &[u64], cpus: usize) -> usize {
    if cpus == 0 {
        return allowed.len();
    }
    let threads: Vec<Thread> =
        allowed.iter().map(|allowed| Thread { allowed: *allowed, weight: 1.0, last: 0 }).collect();
    let mut places = vec![];
    spread(&threads, cpus, &mut places);
    let mut busy: Vec<usize> = places.iter().map(|p| p.cpu).collect();
    busy.sort_unstable();
    busy.dedup();
    busy.len()
}

/// What each sub-network takes at the reference, s; `None`: nothing says so (such a scenario is refused by the machine).
pub fn work(model: &Model, scenario: &Scenario, i: usize, device: bool) -> Option<Vec<f64>> {
    let plan = &scenario.apps[i];
    let largest = plan.largest.map(|l| l.as_ms()).or_else(|| model.largest_ms(plan.network.name))? / 1000.0;
    let cost = if device { &plan.network.on_gpu } else { &plan.network.on_cpu };
    Some(cost.iter().map(|c| c * largest).collect())
}
