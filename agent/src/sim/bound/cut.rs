//! Runs at one operating point, cut into intervals.

use crate::sim::machine::{Point, Rule, SimMachine, Unfit};
use crate::sim::model::Model;
use crate::sim::scenario::{Frames, Happening, Scenario};
use crate::units::Nanos;

/// What one interval of a run came to.
#[derive(Clone, Debug, Default)]
pub struct Cut {
    /// By domain, mJ.
    pub energy_mj: Vec<f64>,
    /// By application.
    pub apps: Vec<Served>,
}

/// Frames that came in an interval.
#[derive(Clone, Debug, Default)]
pub struct Served {
    arrived: u64,
    dropped: u64,
    /// Arrival to finish, ns, sorted.
    latencies: Vec<u64>,
    /// Of the unfinished, how long they had been there when it ended, ns.
    unfinished: Vec<u64>,
}

impl Served {
    /// Late, lost, or overdue when the interval ended.
    fn violations(&self, target: Option<Nanos>) -> u64 {
        let Some(target) = target else { return self.dropped };
        let late = self.latencies.len() - self.latencies.partition_point(|l| *l <= target.0);
        let overdue = self.unfinished.iter().filter(|age| **age > target.0).count();
        self.dropped + late as u64 + overdue as u64
    }

    /// Whether the 95th percentile (nearest rank) is within the target and so few are late or lost.
    pub fn holds(&self, target: Option<Nanos>, allowed: f64) -> bool {
        let violations = self.violations(target);
        let came = self.arrived.max(self.latencies.len() as u64);
        #[expect(clippy::cast_precision_loss, reason = "frames are counted in thousands")]
        let few = violations as f64 <= allowed * came as f64;
        let rank = (self.latencies.len() * 950).div_ceil(1000).saturating_sub(1);
        let p95 = self.latencies.get(rank).copied();
        few && target.zip(p95).is_none_or(|(target, p95)| p95 <= target.0)
    }
}

/// Makes runs.
pub struct Cutter<'a> {
    model: &'a Model,
    /// Without a warm-up: everything is counted, and cut off later.
    scenario: Scenario,
    /// The same with frames of one application only.
    lone: Vec<Scenario>,
    /// When to look, and whether everything begins anew then.
    stops: Vec<(Nanos, bool)>,
    /// After the warm-up.
    pub intervals: Vec<(Nanos, Nanos)>,
    coolest: f64,
}

impl<'a> Cutter<'a> {
    pub fn new(model: &'a Model, scenario: &Scenario) -> Self {
        let whole = Scenario { warm_up: Nanos(0), ..scenario.clone() };
        let lone = (0..scenario.apps.len()).map(|i| {
            let mut lone = whole.clone();
            for (_, other) in lone.apps.iter_mut().enumerate().filter(|(j, _)| *j != i) {
                other.frames = Frames::Recorded { times: vec![] };
            }
            lone
        });
        let changes = changes(scenario);
        let mut stops: Vec<(Nanos, bool)> = changes.iter().map(|at| (*at, true)).collect();
        if scenario.warm_up > Nanos(0) && !changes.contains(&scenario.warm_up) {
            stops.push((scenario.warm_up, false));
        }
        stops.push((scenario.length, false));
        stops.sort_unstable();
        let mut begins = vec![scenario.warm_up];
        begins.extend(changes.iter().copied().filter(|at| *at > scenario.warm_up));
        let ends = begins.iter().skip(1).copied().chain([scenario.length]);
        let air = scenario.events.iter().filter_map(|e| match e.what {
            Happening::Ambient { celsius } => Some(celsius),
            Happening::Cap { .. } => None,
        });
        Self {
            model,
            lone: lone.collect(),
            scenario: whole,
            stops,
            intervals: begins.iter().copied().zip(ends).collect(),
            coolest: air.fold(model.constant("ambient-c"), f64::min),
        }
    }

    /// One run; `only` that application has frames.
    pub fn run(&self, point: &Point, only: Option<usize>) -> Result<Vec<Cut>, Unfit> {
        let scenario = only.map_or(&self.scenario, |i| &self.lone[i]);
        let mut machine = SimMachine::new(self.model, scenario, &Rule::Point(point.clone()))?;
        let mut cuts = vec![];
        let mut before = machine.counts();
        for (at, anew) in &self.stops {
            // What happens at the stop belongs to what follows; at the end nothing follows.
            let last = *at == self.scenario.length;
            machine.advance(if last { *at } else { Nanos(at.0 - 1) });
            let now = machine.counts();
            let counted = self.intervals.iter().any(|(_, to)| to == at);
            if counted {
                cuts.push(Cut {
                    energy_mj: now.energy_mj.iter().zip(&before.energy_mj).map(|(b, a)| b - a).collect(),
                    apps: (0..scenario.apps.len())
                        .map(|i| Served {
                            arrived: now.arrived[i] - before.arrived[i],
                            dropped: now.dropped[i] - before.dropped[i],
                            latencies: vec![],
                            unfinished: machine.unfinished(i).map(|came| at.since(came).0).collect(),
                        })
                        .collect(),
                });
            }
            before = now;
            if *anew {
                machine.forget(self.coolest);
            }
        }
        for frame in &machine.book().frames {
            let k = self.intervals.iter().position(|(from, to)| (*from..*to).contains(&frame.arrived));
            if let Some(cut) = k.and_then(|k| cuts.get_mut(k)) {
                cut.apps[usize::from(frame.app)].latencies.push(frame.finished.since(frame.arrived).0);
            }
        }
        cuts.iter_mut().flat_map(|c| &mut c.apps).for_each(|s| s.latencies.sort_unstable());
        Ok(cuts)
    }
}

/// When something changes, between the start and the end.
fn changes(scenario: &Scenario) -> Vec<Nanos> {
    let targets = scenario.apps.iter().flat_map(|a| a.targets.iter().map(|t| t.0));
    let others = scenario.co_runners.iter().flat_map(|c| [c.from, c.to]);
    let events = scenario.events.iter().map(|e| e.at);
    let mut all: Vec<Nanos> = targets.chain(others).chain(events).collect();
    all.retain(|at| *at > Nanos(0) && *at < scenario.length);
    all.sort_unstable();
    all.dedup();
    all
}
