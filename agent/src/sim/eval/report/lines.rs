//! `cells.csv`: a line per cell and row.

use super::Report;
use std::path::Path;

impl Report<'_> {
    /// Writes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn csv(&self, path: &Path) -> anyhow::Result<()> {
        let mut out = csv::Writer::from_path(path)?;
        out.write_record(COLUMNS)?;
        for result in self.results {
            let cell = &self.cells[result.cell];
            for (r, (row, placed)) in self.rows.iter().zip(&result.rows).enumerate() {
                let Some(placed) = placed else { continue };
                let (m, s) = (&placed.medians, &placed.standing);
                let plans = &cell.plain.scenario.apps;
                let names = placed.subnets.iter().zip(plans).map(|(i, a)| a.network.subnets[*i].name.clone());
                let by_app = |f: &dyn Fn(&super::super::figures::AppMedians) -> Option<f64>| {
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
                    or(s.above_bound),
                    s.in_target.to_string(),
                    s.fair.to_string(),
                    s.won.to_string(),
                    result.undecided.contains(&r).to_string(),
                ])?;
            }
        }
        Ok(out.flush()?)
    }
}

const COLUMNS: [&str; 29] = [
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
    "above_bound",
    "in_target",
    "fair",
    "won",
    "undecided",
];

/// Six significant places are more than any of it is good for.
fn or(v: Option<f64>) -> String {
    v.filter(|v| v.is_finite()).map_or_else(String::new, |v| {
        let text = format!("{v:.6}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    })
}
