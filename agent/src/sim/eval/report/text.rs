//! The tables, for people.

use super::{ALL, ALONE, AT_TOP, BESIDE, INFEASIBLE, OBJECTIVES, Report, Spread, Summary, WEAK};
use crate::sim::eval::rows::{OURS, PRIMARY, What};
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};

/// Groups with a table of their own.
const NAMED: [&str; 6] = [ALL, WEAK, AT_TOP, ALONE, BESIDE, INFEASIBLE];

impl Report<'_> {
    /// Wide ones over all cells and over the groups that have a name of their own, every row in them; then our manager (or what was asked for)
    /// by block and board, and where each row has its worst cell.
    pub fn tables(&self, summaries: &[Summary]) -> String {
        let infeasible = self.results.iter().filter(|r| !r.feasible).count();
        let mut text = format!(
            "ratios against {PRIMARY}: the cheapest fixed sub-networks that meet both bounds; all figures modelled, medians over \
             {} seeds; a pair is median / worst over the cells. In {infeasible} of {} cells no fixed choice meets the target: they \
             are a table of their own and in no other.\n\
             fair: no more violations than the comparator, accuracy within 0.2 points of its or above, p95 within the target; \
             energy if fair: the median with every other cell as the worst\n",
            self.seeds,
            self.results.len()
        );
        for group in NAMED {
            for objective in OBJECTIVES {
                let of = |s: &&Summary| s.group == group && s.objective == objective;
                let rows: Vec<&Summary> = summaries.iter().filter(of).collect();
                if let Some(first) = rows.first() {
                    text += &format!(
                        "\n{group}, objective {}: {} cells\n{}\n",
                        objective.word(),
                        first.cells,
                        wide(&rows)
                    );
                }
            }
        }
        text += "\nworst cells (energy ratio)\n";
        for s in summaries.iter().filter(|s| s.group == ALL && s.row != PRIMARY) {
            if let Some(e) = &s.energy {
                text += &format!("  {}, {}: {:.3} in {}\n", s.row, s.objective.word(), e.worst, e.cell);
            }
        }
        let ours = |s: &&Summary| {
            let asked =
                |r: &super::Row| r.name == s.row && matches!(r.what, What::Policy { asked: true, .. });
            let apart = NAMED.contains(&s.group.as_str());
            !apart && (s.row == OURS || self.rows.iter().any(asked))
        };
        text + &format!("\nby block and board\n{}\n", narrow(summaries.iter().filter(ours)))
    }
}

fn share(part: usize, whole: usize) -> String {
    if whole == 0 { "-".into() } else { format!("{:.0} %", 100.0 * part as f64 / whole as f64) }
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

fn num(v: Option<f64>, digits: usize) -> String {
    v.map_or_else(|| "-".into(), |v| format!("{v:.digits$}"))
}

fn percent(s: Option<&Spread>) -> String {
    s.map_or_else(|| "-".into(), |v| format!("{:.2} / {:.1}", v.median * 100.0, v.worst * 100.0))
}

fn points(s: Option<&Spread>) -> String {
    s.map_or_else(|| "-".into(), |d| format!("{:+.2} / {:+.2}", d.median, d.worst))
}

fn wide(rows: &[&Summary]) -> Table {
    let header = [
        "row",
        "energy",
        "if fair",
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
        "above bound %",
        "in target",
        "fair",
        "won",
        "tied",
        "undecided",
    ];
    let one = |s: &&Summary| {
        [
            s.row.clone(),
            two(s.energy.as_ref()),
            num(s.fair_energy, 3),
            two(s.with_board.as_ref()),
            two(s.p50.as_ref()),
            two(s.p95.as_ref()),
            two(s.p99.as_ref()),
            percent(s.violations.as_ref()),
            num(s.top1, 2),
            points(s.top1_diff.as_ref()),
            num(s.co_runners, 3),
            num(s.switches, 0),
            num(s.moves, 0),
            percent(s.above_bound.as_ref()),
            share(s.in_target, s.cells),
            share(s.fair, s.cells),
            share(s.won, s.cells),
            share(s.tied, s.cells),
            share(s.undecided, s.cells),
        ]
    };
    table(header, rows.iter().map(one), 1)
}

fn narrow<'s>(rows: impl Iterator<Item = &'s Summary>) -> Table {
    let header = [
        "group",
        "objective",
        "row",
        "cells",
        "energy",
        "if fair",
        "p95",
        "accuracy diff",
        "above bound %",
        "fair",
        "won",
        "tied",
    ];
    let one = |s: &Summary| {
        [
            s.group.clone(),
            s.objective.word().into(),
            s.row.clone(),
            s.cells.to_string(),
            two(s.energy.as_ref()),
            num(s.fair_energy, 3),
            two(s.p95.as_ref()),
            points(s.top1_diff.as_ref()),
            percent(s.above_bound.as_ref()),
            share(s.fair, s.cells),
            share(s.won, s.cells),
            share(s.tied, s.cells),
        ]
    };
    table(header, rows.map(one), 3)
}
