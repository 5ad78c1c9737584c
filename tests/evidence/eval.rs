//! Figures of `tandem eval`: our manager over the committed grid and the named scenarios, on all simulated boards.

use crate::{Row, row};
use anyhow::Context as _;
use serde::Deserialize;
use std::path::PathBuf;
use std::process::Command;
use tandem::policy::Objective;
use tandem::sim::eval::report::{ALL, ALONE, AT_TOP, BESIDE, INFEASIBLE, Summary, WEAK};
use tandem::sim::eval::rows::OURS;
use tandem_tests::{program, repository};

/// Beside the grid.
const NAMED: [&str; 7] =
    ["thesis-one", "thesis-two", "paper-timeline", "power-mode", "thermal", "tightened", "burst"];
/// Rows of the published managers and of the free cure, beside ours.
const OTHERS: [&str; 6] = [
    "schedutil, largest",
    "schedutil, best fixed, co-runner nice 10",
    "performance, best fixed",
    "dynamic-ofa",
    "lrgd",
    "loudva",
];
/// Ours, with co-runners' clock kept.
const SERVED: &str = "tandem, co-runners served";
const PARTS: [&str; 5] = [
    OURS,
    "tandem, network only",
    "tandem, clock only",
    "tandem, without learning",
    "tandem, without upper level",
];

#[derive(Deserialize)]
struct Document {
    boards: Vec<String>,
    summaries: Vec<Summary>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cost {
    row: String,
    level: String,
    calls: u64,
    median_ns: f64,
    p99_ns: f64,
}

impl Document {
    fn find(&self, row: &str, group: &str, objective: Objective) -> anyhow::Result<&Summary> {
        let of = |s: &&Summary| s.row == row && s.group == group && s.objective == objective;
        self.summaries
            .iter()
            .find(of)
            .with_context(|| format!("eval.json: no {row:?} in {group:?}, {objective:?}"))
    }
}

/// Runs what is not done yet, and reads the results.
fn evaluate() -> anyhow::Result<(Document, PathBuf)> {
    let out = repository().join("target/eval");
    let named = NAMED.map(|n| format!("tests/scenarios/{n}.toml"));
    let status = Command::new(program("tandem"))
        .args(["eval", "tests/grid.toml"])
        .args(named)
        .args(["--idle-share", "0.02,0.08,0.3", "--little-power", "1.4", "--out"])
        .arg(&out)
        .current_dir(repository())
        .status()
        .context("tandem eval")?;
    anyhow::ensure!(status.success(), "tandem eval: {status}");
    let text = std::fs::read_to_string(out.join("eval.json"))?;
    Ok((serde_json::from_str(&text).context("eval.json")?, out))
}

fn modelled(name: String, value: f64, unit: &str, n: usize) -> Row {
    Row { kind: "modelled".into(), ..row(&name, value, unit, n as u64) }
}

fn percent(part: usize, whole: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of cells")]
    let share = part as f64 / whole.max(1) as f64;
    share * 100.0
}

/// Energy (or latency) saved, cells won, accuracy given up, in one group.
fn standing(s: &Summary, saving: Option<f64>) -> Vec<Row> {
    let name = format!("{}, {}, {}", s.row, s.objective.word(), s.group);
    let latency = s.objective == Objective::Latency;
    let of = if latency { &s.p95 } else { &s.energy };
    let what = if latency { "p95" } else { "energy" };
    let mut rows = Vec::new();
    if let Some(of) = of {
        let less = |ratio: f64| (1.0 - ratio) * 100.0;
        let median =
            modelled(format!("{name}: {what} saved, median cell"), less(of.median), "%", s.cells).higher();
        rows.push(match saving {
            Some(goal) => median.goal(goal),
            None => median,
        });
        rows.push(
            modelled(format!("{name}: {what} saved, worst cell ({})", of.cell), less(of.worst), "%", s.cells)
                .higher(),
        );
    }
    if let Some(fair) = s.fair_energy.filter(|_| !latency) {
        rows.push(
            modelled(
                format!("{name}: energy saved, median with unfair cells as the worst"),
                (1.0 - fair) * 100.0,
                "%",
                s.cells,
            )
            .higher(),
        );
    }
    if let Some(d) = &s.top1_diff {
        rows.push(
            modelled(
                format!("{name}: accuracy against the comparator, median cell"),
                d.median,
                "points",
                s.cells,
            )
            .higher(),
        );
    }
    if let Some(co) = s.co_runners {
        let name = format!("{name}: what co-runners got done, median of the cells that have any");
        rows.push(modelled(name, co * 100.0, "%", s.cells).higher());
    }
    rows.push(
        modelled(
            format!("{name}: at no more violations and equal accuracy"),
            percent(s.fair, s.cells),
            "% of cells",
            s.cells,
        )
        .higher(),
    );
    rows.push(
        modelled(format!("{name}: won"), percent(s.won, s.cells), "% of cells", s.cells).higher().goal(95.0),
    );
    rows.push(modelled(
        format!("{name}: the comparator's own point"),
        percent(s.tied, s.cells),
        "% of cells",
        s.cells,
    ));
    rows.push(modelled(
        format!("{name}: win hangs on an assumption"),
        percent(s.undecided, s.cells),
        "% of cells",
        s.cells,
    ));
    rows
}

/// Our manager against the primary comparator, and against the lower bound.
pub fn sim() -> anyhow::Result<Vec<Row>> {
    let (all, out) = evaluate()?;
    let mut rows = Vec::new();
    for (group, goal) in
        [(ALL, Some(15.0)), (WEAK, Some(25.0)), (AT_TOP, None), (ALONE, None), (BESIDE, None)]
    {
        rows.extend(standing(all.find(OURS, group, Objective::Energy)?, goal));
    }
    rows.extend(standing(all.find(SERVED, BESIDE, Objective::Energy)?, None));
    for objective in [Objective::Latency, Objective::Accuracy] {
        rows.extend(standing(all.find(OURS, ALL, objective)?, None));
    }
    if let Ok(apart) = all.find(OURS, INFEASIBLE, Objective::Energy) {
        rows.extend(standing(apart, None));
    }
    let bound = |group: &str| -> anyhow::Result<Vec<Row>> {
        let s = all.find(OURS, group, Objective::Energy)?;
        let Some(b) = &s.above_bound else { return Ok(vec![]) };
        let name = format!("{}, energy above the lower bound, {group}", s.row);
        Ok(vec![
            modelled(format!("{name}: median cell"), b.median * 100.0, "%", s.bounded).goal(3.0),
            modelled(format!("{name}: worst cell ({})", b.cell), b.worst * 100.0, "%", s.bounded).goal(10.0),
        ])
    };
    rows.extend(bound(ALL)?);
    for board in &all.boards {
        let group = format!("board {board}");
        let s = all.find(OURS, &group, Objective::Energy)?;
        rows.extend(standing(s, None));
        rows.extend(bound(&group)?);
    }
    for other in OTHERS {
        rows.extend(standing(all.find(other, ALL, Objective::Energy)?, None));
    }
    let costs: Vec<Cost> =
        serde_json::from_str(&std::fs::read_to_string(out.join("costs.json"))?).context("costs.json")?;
    for level in ["allocator", "tuner"] {
        let of = || costs.iter().filter(|c| c.row == OURS && c.level == level);
        let most = |f: fn(&Cost) -> f64| of().map(f).fold(0.0, f64::max);
        let calls = of().map(|c| c.calls).sum();
        let name = format!("{OURS}, a call of the {level}, the dearest board");
        rows.push(row(&format!("{name}: median"), most(|c| c.median_ns), "ns", calls));
        rows.push(row(&format!("{name}: 99th percentile"), most(|c| c.p99_ns), "ns", calls));
    }
    Ok(rows)
}

/// What is left of it without each of its parts.
pub fn ablation() -> anyhow::Result<Vec<Row>> {
    let (all, _) = evaluate()?;
    let mut rows = Vec::new();
    for group in [ALL, "block two"] {
        for part in PARTS {
            rows.extend(standing(all.find(part, group, Objective::Energy)?, None));
        }
    }
    Ok(rows)
}
