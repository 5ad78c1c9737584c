//! A run in figures, as they are kept on disk; and the median over seeds.
//!
//! Whole numbers, so that what is read back is what was written, to the bit.

use crate::sim::outcome::Outcome;
use serde::{Deserialize, Serialize};

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Where they come from: `modelled` (the simulator) or `measured` (a VM, a board).
    pub kind: Kind,
    /// Counted time, ms.
    pub ms: u64,
    /// By domain, uJ.
    pub domains_uj: Vec<u64>,
    /// All domains and the board's constant power, uJ.
    pub with_board_uj: u64,
    /// By application.
    pub apps: Vec<AppFigures>,
    /// What co-runners got done, kHz of the reference core; `None`: there are none.
    pub co_khz: Option<u64>,
    /// Clock changes.
    pub moves: u64,
}

/// Where figures come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// By the simulator.
    Modelled,
    /// In a VM or on a board.
    Measured,
}

/// One application in one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppFigures {
    /// Arrival to finish, us: 50th, 95th, 99th percentile; `None`: nothing finished.
    pub us: Option<[u64; 3]>,
    /// Late, dropped or overdue, millionths of those that came.
    pub violations_ppm: u64,
    /// Mean accuracy, millionths of a percentage point; `None`: nothing finished.
    pub top1_upp: Option<u64>,
    /// Changes of the sub-network.
    pub switches: u64,
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive figures of a run; saturates"
)]
fn whole(x: f64) -> u64 {
    x.round() as u64
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
fn real(x: u64) -> f64 {
    x as f64
}

impl Figures {
    /// Of a simulated run.
    pub fn of(outcome: &Outcome) -> Self {
        let app = |a: &crate::sim::outcome::AppOutcome| AppFigures {
            us: a.p50_ms.zip(a.p95_ms).zip(a.p99_ms).map(|((a, b), c)| [a, b, c].map(|ms| whole(ms * 1e3))),
            violations_ppm: whole(a.violations * 1e6),
            top1_upp: a.top1.map(|t| whole(t * 1e6)),
            switches: a.switches,
        };
        let co = || outcome.co_runners.iter().map(|c| c.1).sum::<f64>();
        Self {
            kind: Kind::Modelled,
            ms: whole(outcome.seconds * 1e3),
            domains_uj: outcome.domains.iter().map(|d| whole(d.energy_j * 1e6)).collect(),
            with_board_uj: whole(outcome.energy_with_board_j * 1e6),
            apps: outcome.apps.iter().map(app).collect(),
            co_khz: (!outcome.co_runners.is_empty()).then(|| whole(co() * 1e3)),
            moves: outcome.domains.iter().map(|d| d.moves).sum(),
        }
    }
}

/// Median over seeds, figure by figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Medians {
    /// The domains' energy, J.
    pub energy_j: f64,
    /// With the board's constant, J.
    pub with_board_j: f64,
    /// Mean power by domain, mW.
    pub domains_mw: Vec<f64>,
    /// By application.
    pub apps: Vec<AppMedians>,
    /// What co-runners got done, MHz of the reference core.
    pub co_mhz: Option<f64>,
    /// Clock changes.
    pub moves: f64,
}

/// One application.
#[derive(Clone, Debug, PartialEq)]
pub struct AppMedians {
    /// 50th, 95th, 99th percentile, ms; `None`: in most runs nothing finished.
    pub ms: Option<[f64; 3]>,
    /// Late, dropped or overdue, share of those that came.
    pub violations: f64,
    /// Mean accuracy, %.
    pub top1: Option<f64>,
    /// Changes of the sub-network.
    pub switches: f64,
}

impl Medians {
    /// Of the runs of one cell and policy; `None`: of none.
    pub fn of(runs: &[&Figures]) -> Option<Self> {
        let first = runs.first()?;
        let med = |f: &dyn Fn(&Figures) -> f64| median(runs.iter().map(|r| f(r)));
        // What is missing sorts last: a run in which nothing finished is the worst.
        let some = |x: f64| x.is_finite().then_some(x);
        let apps = (0..first.apps.len()).map(|i| {
            let percentile = |p: usize| med(&|r| r.apps[i].us.map_or(f64::INFINITY, |us| real(us[p]) / 1e3));
            let ms = [percentile(0), percentile(1), percentile(2)];
            AppMedians {
                ms: ms.iter().all(|m| m.is_finite()).then_some(ms),
                violations: med(&|r| real(r.apps[i].violations_ppm) / 1e6),
                top1: some(med(&|r| r.apps[i].top1_upp.map_or(f64::INFINITY, |t| real(t) / 1e6))),
                switches: med(&|r| real(r.apps[i].switches)),
            }
        });
        let domains = 0..first.domains_uj.len();
        Some(Self {
            energy_j: med(&|r| real(r.domains_uj.iter().sum()) / 1e6),
            with_board_j: med(&|r| real(r.with_board_uj) / 1e6),
            domains_mw: domains.map(|d| med(&|r| real(r.domains_uj[d]) / real(r.ms.max(1)))).collect(),
            apps: apps.collect(),
            co_mhz: first.co_khz.map(|_| med(&|r| real(r.co_khz.unwrap_or(0)) / 1e3)),
            moves: med(&|r| real(r.moves)),
        })
    }
}

/// The middle one, or half way between the two in the middle; NaN of nothing.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.collect();
    all.sort_unstable_by(f64::total_cmp);
    match all.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => all[n / 2],
        n => f64::midpoint(all[n / 2 - 1], all[n / 2]),
    }
}

/// NaN of nothing.
pub fn mean(values: &[f64]) -> f64 {
    let count = u32::try_from(values.len()).map_or(f64::NAN, f64::from);
    values.iter().sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(uj: u64, p95_us: Option<u64>) -> Figures {
        let app = AppFigures {
            us: p95_us.map(|p| [p / 2, p, p + 1000]),
            violations_ppm: uj,
            top1_upp: Some(70_000_000),
            switches: 1,
        };
        Figures {
            kind: Kind::Modelled,
            ms: 8000,
            domains_uj: vec![uj, 1_000_000],
            with_board_uj: uj + 2_000_000,
            apps: vec![app],
            co_khz: None,
            moves: 3,
        }
    }

    #[test]
    fn a_median_is_taken_figure_by_figure() {
        let runs = [run(1_000_000, Some(30_000)), run(3_000_000, Some(10_000)), run(2_000_000, None)];
        let m = Medians::of(&runs.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!((m.energy_j, m.with_board_j, m.domains_mw[0]), (3.0, 4.0, 250.0));
        // The run in which nothing finished is the slowest.
        assert_eq!(m.apps[0].ms, Some([15.0, 30.0, 31.0]));
        assert_eq!(Medians::of(&[]), None);
        assert_eq!(median([4.0, 1.0].into_iter()), 2.5);
    }

    #[test]
    fn what_is_read_back_is_what_was_written() {
        let run = run(1_234_567, Some(33_333));
        let text = serde_json::to_string(&run).unwrap();
        assert_eq!(serde_json::from_str::<Figures>(&text).unwrap(), run);
        assert!(serde_json::from_str::<Figures>(&text.replace("moves", "move")).is_err());
    }
}
