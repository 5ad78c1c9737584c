//! The demo's end: one row per phase, the fixed sub-networks beside the managed one, and the plot.

use super::plot::{self, Frame, Span, Timeline};
use super::stage::{self, Chosen, Counts, Seen, Stage};
use super::{OURS, Options, Phase};
use anyhow::Context as _;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The first second of a phase still belongs to the one before (its queue, its decision); it is left out of
/// every row alike.
const SETTLE_S: f64 = 1.0;

/// One phase in figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What happened.
    pub label: String,
    /// A row of the comparison, under this name.
    pub row: Option<String>,
    from: f64,
    to: f64,
    target_ms: f64,
    co_runner: bool,
    dropped: u64,
    runner_cpu: f64,
    agent_cpu: f64,
    swaps: u64,
    missed: u64,
    /// Frames finished after the settling time.
    pub frames: usize,
    /// Share of frames over the target or dropped.
    pub violations: f64,
    p50_ms: f64,
    p95_ms: f64,
    /// Top-1 of the sub-networks run, by the manifest: over the whole test set, %.
    pub top1_pct: f64,
    /// Share of right answers among the labelled images of its frames.
    pub right: f64,
    /// From the VM host's power model; `None` where nothing models it.
    energy_mj_s: Option<f64>,
    /// What stood at its end, where our set served.
    chosen: Option<Chosen>,
}

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    subnets: Vec<(String, f64)>,
    domain: String,
    rows: Vec<Row>,
    weight: Vec<(f64, f64)>,
    opp: Vec<(f64, f64)>,
    frames: Vec<(f64, f64, usize)>,
    /// The live line at the end of each phase.
    live: Vec<String>,
}

impl Report {
    /// An empty one.
    pub fn new(_options: &Options, subnets: Vec<(String, f64)>) -> Self {
        Self {
            subnets,
            domain: String::new(),
            rows: vec![],
            weight: vec![],
            opp: vec![],
            frames: vec![],
            live: vec![],
        }
    }

    /// A phase is over.
    pub fn phase(&mut self, phase: &Phase, managed: bool, before: &Counts, after: &Counts, stage: &Stage) {
        self.domain.clone_from(&stage.domain_kind);
        self.weight.clone_from(&stage.weight);
        self.live.push(stage.line.clone());
        self.opp.clone_from(&stage.opp);
        self.rows.push(Row {
            label: phase.label.to_owned(),
            row: phase.row.map(str::to_owned),
            from: before.t,
            to: after.t,
            target_ms: stage.target_ms(),
            co_runner: stage.has_co_runner(),
            dropped: after.dropped - before.dropped,
            runner_cpu: after.runner_cpu - before.runner_cpu,
            agent_cpu: after.agent_cpu - before.agent_cpu,
            swaps: after.swaps,
            missed: after.missed,
            frames: 0,
            violations: 0.0,
            p50_ms: 0.0,
            p95_ms: 0.0,
            top1_pct: 0.0,
            right: 0.0,
            energy_mj_s: None,
            chosen: managed.then(|| stage.chosen.clone()),
        });
    }

    /// The runner's own record of every frame.
    #[expect(clippy::cast_precision_loss, reason = "counts of a demo")]
    pub fn frames(&mut self, seen: Vec<Seen>) {
        for row in &mut self.rows {
            let inside = |s: &&Seen| s.frame.t >= row.from + SETTLE_S && s.frame.t < row.to;
            let mine: Vec<&Seen> = seen.iter().filter(inside).collect();
            let mut latencies: Vec<f64> = mine.iter().map(|s| s.frame.latency_ms).collect();
            latencies.sort_unstable_by(f64::total_cmp);
            let rank = |permille: usize| {
                let i = (latencies.len() * permille).div_ceil(1000).max(1) - 1;
                latencies.get(i).copied().unwrap_or(f64::NAN)
            };
            let late = latencies.iter().filter(|l| **l > row.target_ms).count() as f64;
            let (correct, images) = mine.iter().fold((0, 0), |(c, i), s| (c + s.correct, i + s.images));
            row.frames = mine.len();
            row.violations = (late + row.dropped as f64) / (mine.len() as f64 + row.dropped as f64).max(1.0);
            (row.p50_ms, row.p95_ms) = (rank(500), rank(950));
            row.right = correct as f64 / (images as f64).max(1.0);
            let run = mine.iter().filter_map(|s| self.subnets.get(s.frame.subnet));
            row.top1_pct = run.clone().map(|s| s.1).sum::<f64>() / (run.count() as f64).max(1.0);
        }
        self.frames = seen.iter().map(|s| (s.frame.t, s.frame.latency_ms, s.frame.subnet)).collect();
    }

    /// Energy a second of each phase from the VM host's log, mJ/s, modelled by it; phases differ in length.
    pub fn add_energy(&mut self, pstates: &Path) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(pstates).with_context(|| pstates.display().to_string())?;
        let names: Vec<_> = text.lines().next().context("an empty P-state log")?.split(',').collect();
        let find = |n: &str| names.iter().position(|h| *h == n).with_context(|| format!("no column {n}"));
        let (time, mark, energy) = (find("t_s")?, find("pstate")?, find("e_dom")?);
        // At each mark: the time, s, and the sum of all domains so far, mJ.
        let mut at = std::collections::BTreeMap::new();
        for line in text.lines().skip(1).filter(|l| !l.starts_with('#')) {
            let fields: Vec<_> = line.split(',').collect();
            let field = |i: usize| fields.get(i).copied().context("short line in the P-state log");
            let m: usize = field(mark)?.parse().with_context(|| format!("P-state log: {line:?}"))?;
            if (stage::MARKS..254).contains(&m) {
                let domains: f64 = field(energy)?.split(';').filter_map(|e| e.parse::<f64>().ok()).sum();
                let seconds: f64 = field(time)?.parse().with_context(|| format!("P-state log: {line:?}"))?;
                at.insert(m - stage::MARKS, (seconds, domains));
            }
        }
        for (i, row) in self.rows.iter_mut().enumerate() {
            let ends = at.get(&(2 * i)).zip(at.get(&(2 * i + 1)));
            let ((t0, e0), (t1, e1)) = ends.context("a phase's mark is missing in the P-state log")?;
            row.energy_mj_s = Some((e1 - e0) / (t1 - t0));
        }
        Ok(())
    }

    /// Writes `demo.json`.
    pub fn save(&self, out: &Path) -> anyhow::Result<()> {
        let path = out.join("demo.json");
        std::fs::write(&path, serde_json::to_vec_pretty(self)?).with_context(|| path.display().to_string())
    }

    /// Reads it back.
    pub fn load(out: &Path) -> anyhow::Result<Self> {
        let path = out.join("demo.json");
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }

    /// Prints the table, draws the plot, says where it is.
    pub fn finish(&self, out: &Path) -> anyhow::Result<()> {
        self.save(out)?;
        let shown = self.shown();
        println!("\n{shown}");
        let timeline = self.timeline();
        let [svg, png] = plot::write(&timeline, out, "timeline")?;
        println!("plot: {} and {}", svg.display(), png.display());
        plot::terminal(&format!("$ make demo\n{}\n\n{shown}", self.live.join("\n")), out, "terminal")?;
        Ok(())
    }

    /// The table, what its columns mean, and the verdict.
    fn shown(&self) -> String {
        let mut shown = self.table().to_string();
        shown += "\nviolations: frames over the target or dropped; accuracy: of the sub-networks run, over the whole test set;\n";
        shown += "right: answers of this run's frames; the first second of each phase is left out; CPU: measured (/proc).\n";
        if self.rows.iter().any(|r| r.energy_mj_s.is_some()) {
            shown += "energy: MODELLED by the VM's host (tests/vm/throttle: OPP power x busy share, idle share 0.08).\n";
        }
        shown + &self.manager() + &self.verdict()
    }

    fn table(&self) -> Table {
        let energy = self.rows.iter().any(|r| r.energy_mj_s.is_some());
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY);
        let mut header = vec![
            "phase",
            "target ms",
            "co-runner",
            "frames",
            "violations",
            "p50 ms",
            "p95 ms",
            "accuracy",
            "right",
            "CPU s runner",
            "agent",
        ];
        if energy {
            header.push("energy mJ/s, modelled");
        }
        table.set_header(header);
        for r in &self.rows {
            let mut cells = vec![
                r.label.clone(),
                format!("{:.0}", r.target_ms),
                if r.co_runner { "yes".into() } else { "no".into() },
                r.frames.to_string(),
                format!("{:.1} %", r.violations * 100.0),
                format!("{:.1}", r.p50_ms),
                format!("{:.1}", r.p95_ms),
                format!("{:.2} %", r.top1_pct),
                format!("{:.1} %", r.right * 100.0),
                format!("{:.2}", r.runner_cpu),
                format!("{:.2}", r.agent_cpu),
            ];
            cells.extend(r.energy_mj_s.map(|e| format!("{e:.0}")));
            table.add_row(cells);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    /// What the manager chose and why not more, and how it stands beside the best fixed sub-network.
    fn manager(&self) -> String {
        let mut text = String::new();
        for (row, chosen) in self.rows.iter().filter_map(|r| Some((r, r.chosen.as_ref()?))) {
            let Chosen { objective, subnet, opp, domain, weight, binds } = chosen;
            if text.is_empty() {
                text = format!("the manager, {objective} first:\n");
            }
            text += &format!(
                "  {:<24} {:.0} ms: sub-network {subnet}, {domain} at {opp}, weight {weight}; binds: {binds}\n",
                row.label, row.target_ms
            );
        }
        let (Some(managed), Some(best)) = (self.managed(), self.best_fixed()) else { return text };
        text += &format!(
            "  under the co-runner, beside the best fixed sub-network that holds {:.0} ms ({}): accuracy {:+.2} points, \
             {:.1} against {:.1} % violations, p95 {:.1} against {:.1} ms",
            managed.target_ms,
            best.label,
            managed.top1_pct - best.top1_pct,
            managed.violations * 100.0,
            best.violations * 100.0,
            managed.p95_ms,
            best.p95_ms
        );
        if let Some((ours, theirs)) = managed.energy_mj_s.zip(best.energy_mj_s) {
            text += &format!(", energy {:+.1} % (modelled)", (ours / theirs - 1.0) * 100.0);
        }
        text + "\n"
    }

    fn managed(&self) -> Option<&Row> {
        self.rows.iter().find(|r| r.row.as_deref() == Some(OURS))
    }

    /// The most accurate of those that are late or lose frames at most 5 % of the time, a 95th percentile's due.
    fn best_fixed(&self) -> Option<&Row> {
        let fixed = self.rows.iter().filter(|r| r.row.as_deref().is_some_and(|n| n != OURS));
        fixed.filter(|r| r.violations <= 0.05).max_by(|a, b| a.top1_pct.total_cmp(&b.top1_pct))
    }

    /// Whether a fixed sub-network beat the managed phase on both axes.
    fn verdict(&self) -> String {
        let Some(managed) = self.managed() else { return String::new() };
        let better: Vec<_> = self
            .rows
            .iter()
            .filter(|r| r.row.as_ref().is_some_and(|n| n != OURS))
            .filter(|r| r.violations < managed.violations && r.top1_pct > managed.top1_pct)
            .map(|r| r.label.as_str())
            .collect();
        let last = self.rows.last().map_or((0, 0), |r| (r.swaps, r.missed));
        let swaps = format!("policy sets swapped live: {}; ticks missed: {}", last.0, last.1);
        if better.is_empty() {
            format!(
                "under the co-runner no fixed sub-network has both fewer violations and higher accuracy than tandem\n{swaps}"
            )
        } else {
            format!("better than tandem on both axes in this run: {}\n{swaps}", better.join(", "))
        }
    }

    fn timeline(&self) -> Timeline {
        let clock = if self.domain == "cpu-bandwidth" { "CPU bandwidth" } else { "clock" };
        Timeline {
            title: "tandem: a dynamic DNN under a co-runner, policies swapped live".into(),
            frames: self
                .frames
                .iter()
                .map(|&(t, latency_ms, subnet)| Frame { t, latency_ms, subnet })
                .collect(),
            subnets: self.subnets.clone(),
            weight: self.weight.clone(),
            opp: self.opp.clone(),
            opp_label: format!("{clock}, % of the OPPs"),
            spans: self
                .rows
                .iter()
                .map(|r| Span {
                    from: r.from,
                    to: r.to,
                    label: r.label.clone(),
                    co_runner: r.co_runner,
                    target_ms: r.target_ms,
                })
                .collect(),
        }
    }
}
