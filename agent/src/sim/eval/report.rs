//! The tables, the CSV (a line per cell and row) and the JSON of an evaluation. Nothing in them depends on the clock.

use super::cells::{Cell, Drops};
use super::contest::CellResult;
use super::figures::median;
use super::rows::Row;
use crate::policy::Objective;
use crate::sim::model::Model;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use std::path::Path;

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
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Over the cells that have it.
    pub median: f64,
    /// The highest (of an accuracy difference the lowest).
    pub worst: f64,
    /// Which cell that is.
    pub cell: String,
}

/// A row over a group of cells. Ratios are against the primary comparator.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// Whose.
    pub row: String,
    /// `all`, a block, a board, or the cells in which no accuracy may be given up.
    pub group: String,
    /// Of the cells.
    pub objective: Objective,
    /// How many, and in how many of them the comparator meets its target.
    pub cells: usize,
    /// See above.
    pub feasible: usize,
    /// The domains'.
    pub energy: Option<Spread>,
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
    /// Cells within the target.
    pub in_target: usize,
    /// Cells won of those in which the comparator meets the target.
    pub won: usize,
    /// Cells won of the others.
    pub won_infeasible: usize,
}

type Entry<'a> = (&'a Cell, &'a CellResult, &'a super::contest::Placed);

impl<'a> Report<'a> {
    /// A cell's full name.
    pub fn name(&self, cell: &Cell) -> String {
        format!("{}:{}", self.models[cell.board].name, cell.name)
    }

    fn entries(&self, row: usize, objective: Objective, group: &dyn Fn(&Cell) -> bool) -> Vec<Entry<'a>> {
        let of = |r: &'a CellResult| Some((&self.cells[r.cell], r, r.rows[row].as_ref()?));
        self.results.iter().filter_map(of).filter(|(c, ..)| c.objective == objective && group(c)).collect()
    }

    fn summary(&self, row: usize, objective: Objective, group: &str, of: &dyn Fn(&Cell) -> bool) -> Option<Summary> {
        let entries = self.entries(row, objective, of);
        if entries.is_empty() {
            return None;
        }
        let spread = |f: &dyn Fn(&Entry<'_>) -> Option<f64>, sign: f64| {
            let values: Vec<(f64, &Cell)> = entries.iter().filter_map(|e| Some((f(e)?, e.0))).collect();
            // Of equals the first, so that the name does not depend on an order of ours.
            let worst = values.iter().rev().max_by(|a, b| (a.0 * sign).total_cmp(&(b.0 * sign)))?;
            let median = median(values.iter().map(|v| v.0));
            Some(Spread { median, worst: worst.0, cell: self.name(worst.1) })
        };
        let med = |f: &dyn Fn(&Entry<'_>) -> Option<f64>| spread(f, 1.0).map(|s| s.median);
        let percentile = |i: usize| spread(&move |e| e.2.standing.latency.map(|l| l[i]), 1.0);
        let won = |feasible: bool| entries.iter().filter(|e| e.1.feasible == feasible && e.2.standing.won).count();
        Some(Summary {
            row: self.rows[row].name.clone(),
            group: group.into(),
            objective,
            cells: entries.len(),
            feasible: entries.iter().filter(|e| e.1.feasible).count(),
            energy: spread(&|e| Some(e.2.standing.energy), 1.0),
            with_board: spread(&|e| Some(e.2.standing.with_board), 1.0),
            p50: percentile(0),
            p95: percentile(1),
            p99: percentile(2),
            violations: spread(&|e| Some(e.2.standing.violations), 1.0),
            top1: med(&|e| e.2.standing.top1),
            top1_diff: spread(&|e| e.2.standing.top1_diff, -1.0),
            co_runners: med(&|e| e.2.standing.co),
            switches: med(&|e| Some(e.2.standing.switches)),
            moves: med(&|e| Some(e.2.standing.moves)),
            in_target: entries.iter().filter(|e| e.2.standing.in_target).count(),
            won: won(true),
            won_infeasible: won(false),
        })
    }

    /// Every row and objective, over all cells and by group.
    pub fn summaries(&self) -> Vec<Summary> {
        let mut groups: Vec<(String, Box<dyn Fn(&Cell) -> bool + '_>)> = vec![
            ("all".into(), Box::new(|_: &Cell| true)),
            ("no accuracy given up".into(), Box::new(|c: &Cell| c.at_top)),
        ];
        let mut blocks: Vec<&str> = Vec::new();
        for cell in self.cells {
            if !blocks.contains(&cell.block.as_str()) {
                blocks.push(&cell.block);
            }
        }
        for block in blocks {
            groups.push((format!("block {block}"), Box::new(move |c: &Cell| c.block == block)));
        }
        for (i, model) in self.models.iter().enumerate() {
            groups.push((format!("board {}", model.name), Box::new(move |c: &Cell| c.board == i)));
        }
        let mut all = Vec::new();
        for (group, of) in &groups {
            for objective in [Objective::Energy, Objective::Latency, Objective::Accuracy] {
                all.extend((0..self.rows.len()).filter_map(|row| self.summary(row, objective, group, of)));
            }
        }
        all
    }

    /// For people: over all cells, then the groups in short.
    pub fn tables(&self, summaries: &[Summary]) -> String {
        let mut text = format!(
            "ratios against {}: the cheapest fixed sub-networks that meet both bounds; median over {} seeds, all figures modelled\n",
            super::rows::PRIMARY,
            self.seeds
        );
        let whole: Vec<&Summary> = summaries.iter().filter(|s| s.group == "all").collect();
        for objective in [Objective::Energy, Objective::Latency, Objective::Accuracy] {
            let rows: Vec<&Summary> = whole.iter().copied().filter(|s| s.objective == objective).collect();
            if !rows.is_empty() {
                text += &format!("\nobjective {}\n{}\n", objective.word(), wide(&rows));
            }
        }
        text += "\nworst cells (energy ratio)\n";
        for s in whole.iter().filter(|s| s.row != super::rows::PRIMARY) {
            if let Some(e) = &s.energy {
                text += &format!("  {}, {}: {:.3} in {}\n", s.row, s.objective.word(), e.worst, e.cell);
            }
        }
        text + &format!("\nby group\n{}\n", narrow(summaries.iter().filter(|s| s.group != "all")))
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

    fn csv(&self, path: &Path) -> anyhow::Result<()> {
        let mut out = csv::Writer::from_path(path)?;
        out.write_record(COLUMNS)?;
        for result in self.results {
            let cell = &self.cells[result.cell];
            for (row, placed) in self.rows.iter().zip(&result.rows) {
                let Some(placed) = placed else { continue };
                let (m, s) = (&placed.medians, &placed.standing);
                let plans = &cell.plain.scenario.apps;
                let names = placed.subnets.iter().zip(plans).map(|(i, a)| a.network.subnets[*i].name.clone());
                let by_app = |f: &dyn Fn(&super::figures::AppMedians) -> Option<f64>| {
                    m.apps.iter().map(|a| or(f(a))).collect::<Vec<_>>().join(";")
                };
                let ms = |i: usize| by_app(&move |a| a.ms.map(|ms| ms[i]));
                let ratio = |i: usize| or(s.latency.map(|l| l[i]));
                out.write_record([
                    self.models[cell.board].name.clone(),
                    cell.block.clone(),
                    cell.name.clone(),
                    cell.objective.word().into(),
                    row.name.clone(),
                    result.feasible.to_string(),
                    names.collect::<Vec<_>>().join(";"),
                    or(Some(m.energy_j)),
                    or(Some(m.with_board_j)),
                    ms(0),
                    ms(1),
                    ms(2),
                    by_app(&|a| Some(a.violations)),
                    by_app(&|a| a.top1),
                    by_app(&|a| Some(a.switches)),
                    or(Some(m.moves)),
                    or(m.co_mhz),
                    or(Some(s.energy)),
                    or(Some(s.with_board)),
                    ratio(0),
                    ratio(1),
                    ratio(2),
                    or(s.top1_diff),
                    or(s.co),
                    s.in_target.to_string(),
                    s.won.to_string(),
                ])?;
            }
        }
        Ok(out.flush()?)
    }
}

const COLUMNS: [&str; 26] = [
    "board",
    "block",
    "cell",
    "objective",
    "row",
    "comparator_feasible",
    "fixed_subnets",
    "energy_j",
    "energy_with_board_j",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "violations",
    "top1_pct",
    "switches",
    "clock_moves",
    "co_runners_mhz",
    "energy_ratio",
    "energy_with_board_ratio",
    "p50_ratio",
    "p95_ratio",
    "p99_ratio",
    "top1_diff",
    "co_runners_ratio",
    "in_target",
    "won",
];

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

/// Six significant places are more than any of it is good for.
fn or(v: Option<f64>) -> String {
    v.filter(|v| v.is_finite()).map_or_else(String::new, |v| {
        let text = format!("{v:.6}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    })
}

fn share(part: usize, whole: usize) -> String {
    if whole == 0 { "-".into() } else { format!("{:.0} % of {whole}", 100.0 * part as f64 / whole as f64) }
}

fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>, left: usize) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(header);
    rows.for_each(|r| {
        table.add_row(r);
    });
    for column in table.column_iter_mut().skip(left) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn two(s: Option<&Spread>) -> String {
    s.map_or_else(|| "-".into(), |s| format!("{:.3} / {:.3}", s.median, s.worst))
}

fn wide(rows: &[&Summary]) -> Table {
    let header = [
        "row",
        "energy (median / worst)",
        "with board",
        "p50",
        "p95",
        "p99",
        "violations %",
        "accuracy %",
        "accuracy diff",
        "co-runners",
        "switches",
        "clock moves",
        "in target",
        "won",
        "won, infeasible",
    ];
    let one = |s: &&Summary| {
        let num = |v: Option<f64>, digits: usize| v.map_or_else(|| "-".into(), |v| format!("{v:.digits$}"));
        let percent = |v: &Spread| format!("{:.2} / {:.1}", v.median * 100.0, v.worst * 100.0);
        [
            s.row.clone(),
            two(s.energy.as_ref()),
            two(s.with_board.as_ref()),
            two(s.p50.as_ref()),
            two(s.p95.as_ref()),
            two(s.p99.as_ref()),
            s.violations.as_ref().map_or_else(|| "-".into(), percent),
            num(s.top1, 2),
            s.top1_diff.as_ref().map_or_else(|| "-".into(), |d| format!("{:+.2} / {:+.2}", d.median, d.worst)),
            num(s.co_runners, 3),
            num(s.switches, 0),
            num(s.moves, 0),
            share(s.in_target, s.cells),
            share(s.won, s.feasible),
            share(s.won_infeasible, s.cells - s.feasible),
        ]
    };
    table(header, rows.iter().map(one), 1)
}

fn narrow<'s>(rows: impl Iterator<Item = &'s Summary>) -> Table {
    let header = ["group", "objective", "row", "energy (median / worst)", "p95", "accuracy diff", "won"];
    let one = |s: &Summary| {
        [
            s.group.clone(),
            s.objective.word().into(),
            s.row.clone(),
            two(s.energy.as_ref()),
            two(s.p95.as_ref()),
            s.top1_diff.as_ref().map_or_else(|| "-".into(), |d| format!("{:+.2} / {:+.2}", d.median, d.worst)),
            share(s.won, s.feasible),
        ]
    };
    table(header, rows.filter(|s| s.row != super::rows::PRIMARY).map(one), 3)
}
