//! What an evaluation came to: summaries of rows over groups of cells, as JSON; [`text`] has the tables, [`lines`] the CSV.
//! Nothing in them depends on the clock.

mod lines;
mod text;

use super::cells::{Cell, Drops};
use super::contest::{CellResult, Placed};
use super::figures::median;
use super::rows::Row;
use crate::policy::Objective;
use crate::sim::model::Model;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// All cells in which the comparator meets its target.
pub const ALL: &str = "all";
/// Of them those in which none of the largest network's accuracy may be given up.
pub const AT_TOP: &str = "no accuracy given up";
/// Of them those of [`Cell::weak`].
pub const WEAK: &str = "where schedutil is weak";
/// Of them those without a co-runner: nobody there from whom a saving could be taken.
pub const ALONE: &str = "without a co-runner";
/// The others: a low clock slows the co-runner too.
pub const BESIDE: &str = "beside a co-runner";
/// Cells in which no fixed choice meets the target: apart, and in no other group.
pub const INFEASIBLE: &str = "no fixed choice meets the target under schedutil";

/// What is reported.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Boards, by position.
    pub models: &'a [Model],
    /// Where.
    pub cells: &'a [Cell],
    /// Who.
    pub rows: &'a [Row],
    /// In the order of the cells.
    pub results: &'a [CellResult],
    /// Runs of each.
    pub seeds: u64,
    /// What boards cannot have.
    pub drops: &'a Drops,
    /// Rows that were left out, and why.
    pub left_out: &'a [String],
}

/// A ratio or difference over cells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Over the cells that have it.
    pub median: f64,
    /// The highest (of an accuracy difference the lowest).
    pub worst: f64,
    /// Which cell that is.
    pub cell: String,
}

/// A row over a group of cells. Ratios are against the primary comparator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// Whose.
    pub row: String,
    /// One of the constants above, `block NAME` or `board NAME`.
    pub group: String,
    /// Of the cells.
    pub objective: Objective,
    /// How many.
    pub cells: usize,
    /// The domains'.
    pub energy: Option<Spread>,
    /// The same where every cell that is not fair counts as the worst; `None`: the median cell is not fair.
    pub fair_energy: Option<f64>,
    /// With the board's constant.
    pub with_board: Option<Spread>,
    /// Latency percentiles.
    pub p50: Option<Spread>,
    /// 95th
    pub p95: Option<Spread>,
    /// 99th
    pub p99: Option<Spread>,
    /// Share, not a ratio.
    pub violations: Option<Spread>,
    /// Mean accuracy, median over cells, %.
    pub top1: Option<f64>,
    /// Percentage points.
    pub top1_diff: Option<Spread>,
    /// Median ratio of what co-runners got done; `None`: no cell has any.
    pub co_runners: Option<f64>,
    /// Median of sub-network changes.
    pub switches: Option<f64>,
    /// Median of clock changes.
    pub moves: Option<f64>,
    /// Energy above the lower bound, share of it, over the cells in which the row meets target and floor.
    pub above_bound: Option<Spread>,
    /// How many cells that are.
    pub bounded: usize,
    /// Cells within the target.
    pub in_target: usize,
    /// Cells at no more violations and equal accuracy, within the target.
    pub fair: usize,
    /// Cells won, whatever was assumed.
    pub won: usize,
    /// Cells in which the row stands where the comparator does.
    pub tied: usize,
    /// Cells whose win hangs on an assumption; not among `won`.
    pub undecided: usize,
}

type Entry<'a> = (&'a Cell, &'a CellResult, &'a Placed);
type Member<'a> = Box<dyn Fn(&Cell, &CellResult) -> bool + 'a>;

impl<'a> Report<'a> {
    /// A cell's full name.
    pub fn name(&self, cell: &Cell) -> String {
        format!("{}:{}", self.models[cell.board].name, cell.name)
    }

    fn summary(&self, row: usize, objective: Objective, group: &str, of: &Member<'_>) -> Option<Summary> {
        let all = self.results.iter().filter_map(|r| Some((&self.cells[r.cell], r, r.rows[row].as_ref()?)));
        let entries: Vec<Entry<'a>> = all.filter(|(c, r, _)| c.objective == objective && of(c, r)).collect();
        if entries.is_empty() {
            return None;
        }
        let values = |f: &dyn Fn(&Placed) -> Option<f64>| -> Vec<(f64, &Cell)> {
            entries.iter().filter_map(|e| Some((f(e.2)?, e.0))).collect()
        };
        let spread = |f: &dyn Fn(&Placed) -> Option<f64>, sign: f64| {
            let values = values(f);
            // Of equals the first, so that the name does not depend on an order of ours.
            let worst = values.iter().rev().max_by(|a, b| (a.0 * sign).total_cmp(&(b.0 * sign)))?;
            let median = median(values.iter().map(|v| v.0));
            Some(Spread { median, worst: worst.0, cell: self.name(worst.1) })
        };
        let med = |f: &dyn Fn(&Placed) -> Option<f64>| spread(f, 1.0).map(|s| s.median);
        let percentile = |i: usize| spread(&move |p| p.standing.latency.map(|l| l[i]), 1.0);
        let count = |f: &dyn Fn(&Entry<'a>) -> bool| entries.iter().filter(|e| f(e)).count();
        let undecided = |e: &Entry<'a>| e.1.undecided.contains(&row);
        let fair = |p: &Placed| if p.standing.fair { p.standing.energy } else { f64::INFINITY };
        Some(Summary {
            row: self.rows[row].name.clone(),
            group: group.into(),
            objective,
            cells: entries.len(),
            energy: spread(&|p| Some(p.standing.energy), 1.0),
            fair_energy: Some(median(entries.iter().map(|e| fair(e.2)))).filter(|m| m.is_finite()),
            with_board: spread(&|p| Some(p.standing.with_board), 1.0),
            p50: percentile(0),
            p95: percentile(1),
            p99: percentile(2),
            violations: spread(&|p| Some(p.standing.violations), 1.0),
            top1: med(&|p| p.standing.top1),
            top1_diff: spread(&|p| p.standing.top1_diff, -1.0),
            co_runners: med(&|p| p.standing.co),
            switches: med(&|p| Some(p.standing.switches)),
            moves: med(&|p| Some(p.standing.moves)),
            above_bound: spread(&|p| p.standing.above_bound, 1.0),
            bounded: values(&|p| p.standing.above_bound).len(),
            in_target: count(&|e| e.2.standing.in_target),
            fair: count(&|e| e.2.standing.fair),
            won: count(&|e| e.2.standing.won && !undecided(e)),
            tied: count(&|e| e.2.standing.tied && !undecided(e)),
            undecided: count(&undecided),
        })
    }

    /// Every row and objective by group.
    pub fn summaries(&self) -> Vec<Summary> {
        let mut groups: Vec<(String, Member<'_>)> = vec![
            (ALL.into(), Box::new(|_, r| r.feasible)),
            (WEAK.into(), Box::new(|c, r| c.weak && r.feasible)),
            (AT_TOP.into(), Box::new(|c, r| c.at_top && r.feasible)),
            (ALONE.into(), Box::new(|c, r| r.feasible && c.plain.scenario.co_runners.is_empty())),
            (BESIDE.into(), Box::new(|c, r| r.feasible && !c.plain.scenario.co_runners.is_empty())),
        ];
        let mut blocks: Vec<&str> = Vec::new();
        for cell in self.cells {
            if !blocks.contains(&cell.block.as_str()) {
                blocks.push(&cell.block);
            }
        }
        for block in blocks {
            groups.push((format!("block {block}"), Box::new(move |c, r| c.block == block && r.feasible)));
        }
        for (i, model) in self.models.iter().enumerate() {
            groups.push((format!("board {}", model.name), Box::new(move |c, r| c.board == i && r.feasible)));
        }
        groups.push((INFEASIBLE.into(), Box::new(|_, r| !r.feasible)));
        let mut all = Vec::new();
        for (group, of) in &groups {
            for objective in OBJECTIVES {
                all.extend((0..self.rows.len()).filter_map(|row| self.summary(row, objective, group, of)));
            }
        }
        all
    }

    /// Writes `cells.csv` and `eval.json`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, summaries: &[Summary], dir: &Path) -> anyhow::Result<()> {
        self.csv(&dir.join("cells.csv"))?;
        let document = Document {
            note: "every figure is modelled",
            boards: self.models.iter().map(|m| m.name.as_str()).collect(),
            seeds: self.seeds,
            cells: self.cells.len(),
            dropped: self.drops,
            left_out: self.left_out,
            summaries,
        };
        std::fs::write(dir.join("eval.json"), serde_json::to_string_pretty(&document)? + "\n")?;
        Ok(())
    }
}

const OBJECTIVES: [Objective; 3] = [Objective::Energy, Objective::Latency, Objective::Accuracy];

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Document<'a> {
    note: &'static str,
    boards: Vec<&'a str>,
    seeds: u64,
    cells: usize,
    dropped: &'a Drops,
    left_out: &'a [String],
    summaries: &'a [Summary],
}
