//! What a run came to, in figures; all of them modelled.

use super::machine::{Book, Frame};
use super::model::Model;
use super::scenario::Scenario;
use serde::Serialize;

/// One application in a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AppOutcome {
    /// Whose.
    pub name: String,
    /// Frames that came, were finished, were dropped.
    pub arrived: u64,
    /// Of them finished.
    pub done: u64,
    /// Dropped because the queue was full.
    pub dropped: u64,
    /// Arrival to finish, ms; `None`: nothing finished.
    pub p50_ms: Option<f64>,
    /// 95th percentile, nearest rank.
    pub p95_ms: Option<f64>,
    /// 99th percentile, nearest rank.
    pub p99_ms: Option<f64>,
    /// Late, dropped, or overdue at the end; share of those that came. What had waited since the warm-up and is lost can make
    /// it more than all: then 1.
    pub violations: f64,
    /// Mean accuracy of the sub-networks that ran, %.
    pub top1: Option<f64>,
    /// How often the sub-network changed.
    pub switches: u64,
}

/// One domain in a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DomainOutcome {
    /// Which.
    pub name: String,
    /// J
    pub energy_j: f64,
    /// Thousandths of the time at each OPP.
    pub residency_permille: Vec<f64>,
    /// Clock changes.
    pub moves: u64,
}

/// A run in figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// As it was written.
    pub policy: String,
    /// Always `modelled`.
    pub kind: &'static str,
    /// Counted, s: without the warm-up.
    pub seconds: f64,
    /// The domains' energy, J.
    pub energy_j: f64,
    /// With the constant `board-mw`.
    pub energy_with_board_j: f64,
    /// All applications' frames together.
    pub all: AppOutcome,
    /// Each.
    pub apps: Vec<AppOutcome>,
    /// Each.
    pub domains: Vec<DomainOutcome>,
    /// Co-runners: name, MHz of the reference core that they got.
    pub co_runners: Vec<(String, f64)>,
    /// The highest temperature, C.
    pub hottest_c: f64,
}

impl Outcome {
    /// From what was counted.
    pub fn of(policy: &str, model: &Model, scenario: &Scenario, book: &Book) -> Self {
        let seconds = book.end.since(book.begin).as_secs();
        let energy_j = book.domains.iter().map(|d| d.energy_mj).sum::<f64>() / 1000.0;
        let ids = 0..scenario.apps.len();
        let apps: Vec<AppOutcome> = ids
            .map(|i| {
                let frames: Vec<&Frame> = book.counted().filter(|f| usize::from(f.app) == i).collect();
                app(
                    &scenario.apps[i].name,
                    scenario,
                    &frames,
                    [book.arrived[i], book.dropped[i], book.overdue[i]],
                )
            })
            .collect();
        let frames: Vec<&Frame> = book.counted().collect();
        let sums = [&book.arrived, &book.dropped, &book.overdue].map(|v| v.iter().sum());
        let mut all = app("all", scenario, &frames, sums);
        all.switches = apps.iter().map(|a| a.switches).sum();
        let domains = model.board.domains.iter().zip(&book.domains).map(|(d, b)| {
            let total: u64 = b.residency_ns.iter().sum();
            DomainOutcome {
                name: d.name.clone(),
                energy_j: b.energy_mj / 1000.0,
                residency_permille: b.residency_ns.iter().map(|ns| ratio(*ns, total) * 1000.0).collect(),
                moves: b.moves,
            }
        });
        let work = scenario.co_runners.iter().zip(&book.work);
        Self {
            policy: policy.into(),
            kind: "modelled",
            seconds,
            energy_j,
            energy_with_board_j: energy_j + model.constant("board-mw") / 1000.0 * seconds,
            all,
            apps,
            domains: domains.collect(),
            co_runners: work.map(|(c, w)| (c.name.clone(), w / seconds)).collect(),
            hottest_c: book.hottest,
        }
    }

    /// Mean power of the domains, mW.
    pub fn mean_mw(&self) -> f64 {
        self.energy_j * 1000.0 / self.seconds
    }
}

/// A figure that policies are compared by: name, unit, how it is had.
pub type Metric = (&'static str, &'static str, fn(&Outcome) -> Option<f64>);

/// What policies are compared by: name, unit, the figure; smaller is better in all but the last two.
pub const METRICS: [Metric; 7] = [
    ("energy", "J", |o| Some(o.energy_j)),
    ("energy with board", "J", |o| Some(o.energy_with_board_j)),
    ("p50 latency", "ms", |o| o.all.p50_ms),
    ("p95 latency", "ms", |o| o.all.p95_ms),
    ("violations", "%", |o| Some(o.all.violations * 100.0)),
    ("accuracy", "%", |o| o.all.top1),
    ("co-runners", "MHz", |o| (!o.co_runners.is_empty()).then(|| o.co_runners.iter().map(|c| c.1).sum())),
];

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn app(
    name: &str,
    scenario: &Scenario,
    frames: &[&Frame],
    [arrived, dropped, overdue]: [u64; 3],
) -> AppOutcome {
    let mut ms: Vec<f64> = frames.iter().map(|f| f.finished.since(f.arrived).as_ms()).collect();
    ms.sort_unstable_by(f64::total_cmp);
    let rank = |permille: usize| ms.get(((ms.len() * permille).div_ceil(1000)).saturating_sub(1)).copied();
    let top1 = |f: &&Frame| {
        let subnets = &scenario.apps[usize::from(f.app)].network.subnets;
        u64::from(subnets[usize::from(f.subnet)].top1.0)
    };
    let done = frames.len() as u64;
    let late = frames.iter().filter(|f| f.late).count() as u64;
    let sum: u64 = frames.iter().map(top1).sum();
    AppOutcome {
        name: name.into(),
        arrived,
        done,
        dropped,
        p50_ms: rank(500),
        p95_ms: rank(950),
        p99_ms: rank(990),
        violations: ratio(late + dropped + overdue, arrived.max(done)).min(1.0),
        top1: (done > 0).then(|| ratio(sum, done) / 100.0),
        switches: frames.windows(2).filter(|w| w[0].subnet != w[1].subnet).count() as u64,
    }
}
