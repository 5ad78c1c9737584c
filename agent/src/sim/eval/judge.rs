//! Who won a cell, and by how much.
//!
//! Applications are judged one by one and the worst one counts: its latency ratio, its violations, its accuracy
//! difference. So a gain of one application never pays for a loss of another.

use super::figures::Medians;
use crate::policy::Objective;
use crate::sim::bound::VIOLATIONS;

/// Accuracies this near are equal, percentage points (as the issue states the comparison).
pub const SAME_TOP1: f64 = 0.2 + 1e-9; // 70.0 - 69.8 is above 0.2 in binary

/// One fixed choice of sub-networks that was tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// By application.
    pub subnets: Vec<usize>,
    /// What it came to.
    pub medians: Medians,
}

/// The worst application's violations.
pub fn violations(m: &Medians) -> f64 {
    m.apps.iter().map(|a| a.violations).fold(0.0, f64::max)
}

/// Every application's 95th percentile is within its target: of the frames that came at most 5 % were late or lost, which
/// says the same also of a target that changes, and counts lost frames as late.
pub fn in_target(m: &Medians) -> bool {
    violations(m) <= VIOLATIONS
}

/// Of candidates that all hold the floor: the one of least energy that meets the target, and `true`; if none does, the one
/// with the fewest violations, then of least energy, and `false`.
pub fn best<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> Option<(&'a Candidate, bool)> {
    let rank = |c: &Candidate| {
        let v = violations(&c.medians);
        (if v <= VIOLATIONS { 0.0 } else { v }, c.medians.energy_j)
    };
    let order = |a: &&Candidate, b: &&Candidate| {
        let (a, b) = (rank(a), rank(b));
        a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
    };
    candidates.min_by(order).map(|c| (c, in_target(&c.medians)))
}

/// One row in one cell against the primary comparator. Ratios are below 1 where the row has less.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The domains' energy.
    pub energy: f64,
    /// With the board's constant.
    pub with_board: f64,
    /// 50th, 95th, 99th percentile; the worst application. `None`: one of the two finished nothing.
    pub latency: Option<[f64; 3]>,
    /// Share, the worst application.
    pub violations: f64,
    /// Mean over applications, %.
    pub top1: Option<f64>,
    /// Percentage points, the worst application.
    pub top1_diff: Option<f64>,
    /// Co-runners' throughput.
    pub co: Option<f64>,
    /// Changes of the sub-network, all applications.
    pub switches: f64,
    /// Clock changes.
    pub moves: f64,
    /// The domains' energy against the lower bound's, less 1; `None`: there is none, or the row misses target or floor.
    pub above_bound: Option<f64>,
    /// See [`in_target`].
    pub in_target: bool,
    /// At no more violations than the comparator, mean accuracy within 0.2 points of its or above, p95 within the
    /// target: only then may energies be compared.
    pub fair: bool,
    /// See [`won`].
    pub won: bool,
    /// The same point as the comparator's, to a thousandth: fair, neither won nor lost.
    pub tied: bool,
}

/// What a cell is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// What is wanted.
    pub objective: Objective,
    /// The comparator meets the target. Where it does not, its p95 stands for the target.
    pub feasible: bool,
    /// The networks' best accuracies, %.
    pub best: &'a [f64],
    /// The floors, %.
    pub floors: &'a [f64],
    /// The lower bound of the energy, J.
    pub bound: Option<f64>,
}

impl Standing {
    /// Of one row.
    pub fn of(row: &Medians, comparator: &Medians, rules: &Rules<'_>) -> Self {
        let pairs = || row.apps.iter().zip(&comparator.apps);
        let latency = pairs().try_fold([0.0_f64; 3], |worst, (a, b)| {
            let (a, b) = a.ms.zip(b.ms)?;
            Some(std::array::from_fn(|i| worst[i].max(a[i] / b[i])))
        });
        let diffs = pairs().map(|(a, b)| Some(a.top1? - b.top1?));
        let tops: Option<Vec<f64>> = row.apps.iter().map(|a| a.top1).collect();
        let mut standing = Self {
            energy: row.energy_j / comparator.energy_j,
            with_board: row.with_board_j / comparator.with_board_j,
            latency,
            violations: violations(row),
            top1: tops.map(|t| super::figures::mean(&t)),
            top1_diff: diffs.reduce(|a, b| Some(a?.min(b?))).flatten(),
            co: row.co_mhz.zip(comparator.co_mhz).map(|(a, b)| a / b).filter(|r| r.is_finite()),
            switches: row.apps.iter().map(|a| a.switches).sum(),
            moves: row.moves,
            above_bound: rules
                .bound
                .filter(|_| in_target(row) && holds(row, rules.floors))
                .map(|b| row.energy_j / b - 1.0),
            in_target: in_target(row),
            fair: false,
            won: false,
            tied: false,
        };
        let within = if rules.feasible { standing.in_target } else { standing.p95() <= 1.0 };
        let no_worse = standing.violations <= violations(comparator);
        standing.fair = no_worse && within && standing.top1_diff.is_some_and(|d| d >= -SAME_TOP1);
        standing.won = won(&standing, row, comparator, rules);
        let same = |ratio: f64| (ratio - 1.0).abs() < 1e-3;
        standing.tied = standing.fair && !standing.won && same(standing.energy) && same(standing.p95());
        standing
    }

    /// Of the worst application; nothing finished: infinite.
    fn p95(&self) -> f64 {
        self.latency.map_or(f64::INFINITY, |l| l[1])
    }
}

/// Every application's mean accuracy is at its floor, or within 0.2 points.
fn holds(row: &Medians, floors: &[f64]) -> bool {
    row.apps.iter().zip(floors).all(|(a, floor)| a.top1.is_some_and(|t| t >= floor - SAME_TOP1))
}

/// Whether a row beats the comparator by the cell's objective; always at no more violations and mean accuracy within 0.2
/// points or above.
///
/// - energy: less energy, p95 within the target;
/// - latency: lower p95 at no more energy;
/// - accuracy: higher (or the network's best) at no more energy, p95 within the target.
fn won(s: &Standing, row: &Medians, comparator: &Medians, rules: &Rules<'_>) -> bool {
    let higher = || {
        let above = row.apps.iter().zip(&comparator.apps).any(|(a, b)| a.top1 > b.top1);
        above || holds(row, rules.best)
    };
    // Lower latency than a comparator within the target is within it.
    s.fair
        && match rules.objective {
            Objective::Energy => s.energy < 1.0,
            Objective::Latency => s.p95() < 1.0 && s.energy <= 1.0,
            Objective::Accuracy => higher() && s.energy <= 1.0,
        }
}

#[cfg(test)]
mod tests {
    use super::super::figures::AppMedians;
    use super::*;

    fn medians(energy_j: f64, p95: f64, violations: f64, top1: f64) -> Medians {
        let app =
            AppMedians { ms: Some([p95 * 0.8, p95, p95 * 1.1]), violations, top1: Some(top1), switches: 2.0 };
        Medians {
            energy_j,
            with_board_j: energy_j + 1.0,
            domains_mw: vec![],
            apps: vec![app],
            co_mhz: Some(500.0),
            moves: 1.0,
        }
    }

    #[test]
    fn the_comparator_is_the_cheapest_that_meets_both_bounds() {
        let table = [
            (0, medians(1.0, 50.0, 0.30, 64.0)),
            (1, medians(2.0, 33.0, 0.05, 67.0)),
            (2, medians(1.9, 30.0, 0.02, 70.0)),
            (3, medians(3.0, 20.0, 0.00, 71.0)),
        ];
        let all = table.map(|(i, medians)| Candidate { subnets: vec![i], medians });
        let pick = |c: &[Candidate]| best(c.iter()).map(|(c, feasible)| (c.subnets[0], feasible));
        // Dearer ones, and the cheapest that is late, are not it.
        assert_eq!(pick(&all), Some((2, true)));
        assert_eq!(pick(&all[..2]), Some((1, true)), "5 % are allowed");
        // None meets it: the fewest violations, whatever the energy.
        let late = [
            (0, medians(1.0, 50.0, 0.30, 64.0)),
            (1, medians(9.0, 40.0, 0.06, 64.0)),
            (2, medians(8.0, 40.0, 0.06, 64.0)),
        ];
        let late = late.map(|(i, medians)| Candidate { subnets: vec![i], medians });
        assert_eq!(pick(&late), Some((2, false)));
        assert_eq!(pick(&[]), None);
    }

    #[test]
    fn a_win_needs_every_condition_of_its_objective() {
        let base = medians(2.0, 30.0, 0.02, 70.0);
        let against = |row: &Medians, base: &Medians, objective, feasible, best| {
            Standing::of(
                row,
                base,
                &Rules { objective, feasible, best: &[best], floors: &[69.0], bound: None },
            )
            .won
        };
        let won = |row: &Medians, objective, feasible| against(row, &base, objective, feasible, 71.8);
        let e = |row: &Medians| won(row, Objective::Energy, true);
        assert!(e(&medians(1.9, 33.0, 0.02, 69.8)), "slower, but within the target");
        assert!(!e(&medians(2.0, 20.0, 0.0, 71.0)), "no less energy");
        assert!(!e(&medians(1.0, 30.0, 0.03, 70.0)), "more violations");
        assert!(!e(&medians(1.0, 30.0, 0.02, 69.7)), "accuracy given up");
        let late = medians(1.0, 40.0, 0.50, 70.0);
        let later = medians(2.0, 45.0, 0.6, 70.0);
        assert!(!against(&late, &later, Objective::Energy, true, 71.8));
        assert!(against(&late, &later, Objective::Energy, false, 71.8), "its p95 stands for the target");

        let tied = |energy_j| {
            Standing::of(
                &medians(energy_j, 30.0, 0.02, 70.0),
                &base,
                &Rules {
                    objective: Objective::Energy,
                    feasible: true,
                    best: &[71.8],
                    floors: &[69.0],
                    bound: None,
                },
            )
            .tied
        };
        assert_eq!((tied(2.0), tied(2.01), tied(1.9999)), (true, false, false), "what is won is no tie");

        let l = |row: &Medians| won(row, Objective::Latency, true);
        assert!(l(&medians(2.0, 29.0, 0.0, 70.0)));
        assert!(!l(&medians(2.01, 10.0, 0.0, 70.0)), "more energy");
        assert!(!l(&medians(1.0, 30.0, 0.0, 70.0)), "no faster");

        let a = |row: &Medians| won(row, Objective::Accuracy, true);
        assert!(a(&medians(2.0, 30.0, 0.02, 70.1)));
        assert!(!a(&medians(2.0, 30.0, 0.02, 70.0)), "not above");
        assert!(!a(&medians(2.1, 30.0, 0.02, 71.8)), "more energy");
        assert!(against(&base, &base, Objective::Accuracy, true, 70.0), "there is nothing above the best");
    }

    #[test]
    fn the_worst_application_counts() {
        let two = |p95: [f64; 2], top1: [f64; 2]| {
            let mut m = medians(1.0, p95[0], 0.0, top1[0]);
            m.apps.extend(medians(1.0, p95[1], 0.01, top1[1]).apps);
            m
        };
        let of = |row: &Medians, bound| {
            let rules = Rules {
                objective: Objective::Energy,
                feasible: true,
                best: &[],
                floors: &[72.0, 75.1],
                bound,
            };
            Standing::of(row, &two([20.0, 100.0], [70.0, 76.0]), &rules)
        };
        let s = of(&two([10.0, 120.0], [72.0, 75.0]), Some(0.8));
        assert_eq!((s.latency.unwrap()[1], s.top1_diff, s.violations), (1.2, Some(-1.0), 0.01));
        assert!(s.above_bound.is_some_and(|b| (b - 0.25).abs() < 1e-9), "{s:?}");
        assert_eq!(
            of(&two([10.0, 120.0], [72.0, 74.8]), Some(0.8)).above_bound,
            None,
            "the second's floor is given up"
        );
        let mut none = two([10.0, 120.0], [72.0, 75.0]);
        none.apps[1].ms = None;
        assert_eq!(of(&none, None).latency, None);
    }
}
