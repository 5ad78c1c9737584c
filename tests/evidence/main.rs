//! `evidence NAME`: measures what we claim under that name and writes `target/evidence/NAME.json`;
//! `evidence docs` writes `docs/evidence.md` from those files. A missed goal is a figure, not a failure.

mod charts;
mod docs;
mod eval;
mod governors;
mod live;
mod manager;
mod networks;
mod programs;
mod runs;
mod sim;
mod thermal;
mod tick;
mod timeline;
mod vm;
mod vm_grid;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What.
    pub name: String,
    /// Median, unless the name says otherwise.
    pub value: f64,
    /// Of what.
    pub unit: String,
    /// Measurements behind it.
    pub n: u64,
    /// 10th percentile of them; `None` for a single figure or a count.
    #[serde(default)]
    pub p10: Option<f64>,
    /// 90th percentile.
    #[serde(default)]
    pub p90: Option<f64>,
    /// `measured`, `modelled` or `assumed`.
    pub kind: String,
    /// What it should be.
    #[serde(default)]
    pub goal: Option<f64>,
    /// `lower` or `higher`.
    #[serde(default = "lower")]
    pub better: String,
    /// Where: CPU, kernel.
    #[serde(default)]
    pub machine: String,
    /// Of what source.
    #[serde(default)]
    pub commit: String,
}

fn lower() -> String {
    "lower".into()
}

/// A measured figure; smaller is better unless changed.
pub fn row(name: &str, value: f64, unit: &str, n: u64) -> Row {
    Row {
        name: name.into(),
        value,
        unit: unit.into(),
        n,
        p10: None,
        p90: None,
        kind: "measured".into(),
        goal: None,
        better: lower(),
        machine: String::new(),
        commit: String::new(),
    }
}

impl Row {
    /// With its goal.
    pub fn goal(mut self, goal: f64) -> Self {
        self.goal = Some(goal);
        self
    }
    /// Larger is better.
    pub fn higher(mut self) -> Self {
        self.better = "higher".into();
        self
    }
    /// With the spread of its samples.
    pub fn spread(mut self, samples: &[f64]) -> Self {
        (self.p10, self.p90) = (Some(quantile(samples, 0.1)), Some(quantile(samples, 0.9)));
        self
    }
}

/// Median of samples as a figure with its spread.
pub fn median(name: &str, samples: &[f64], unit: &str) -> Row {
    row(name, quantile(samples, 0.5), unit, samples.len() as u64).spread(samples)
}

/// Nearest rank.
pub fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank"
    )]
    let rank = ((sorted.len() as f64 * q).ceil() as usize).clamp(1, sorted.len().max(1));
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// Where the figures lie.
pub fn folder() -> PathBuf {
    tandem_tests::repository().join("target/evidence")
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ")).map_or("?", |m| m.1);
    let cpus = cpu.lines().filter(|l| l.starts_with("processor")).count();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cpus} x {model}, Linux {}", kernel.trim())
}

/// What the programs were built from. `run.sh` builds them and says so; a tree's HEAD is not what a program is of.
fn commit() -> anyhow::Result<String> {
    std::env::var("BUILT_FROM")
        .context("BUILT_FROM is not set: start this by tests/evidence/run.sh, which builds first")
}

fn main() -> anyhow::Result<()> {
    let name = std::env::args().nth(1).context("usage: evidence NAME | evidence docs")?;
    if name == "docs" {
        return docs::write();
    }
    let commit = commit()?;
    let rows = match name.as_str() {
        "demo" => live::demo()?,
        "footprint" => live::footprint()?,
        "swap" => live::swap()?,
        "tick" => tick::tick()?,
        "wasm-call" => programs::wasm_call()?,
        "channel" => programs::channel()?,
        "bpf-cost" => programs::bpf_cost()?,
        "switch" => programs::switch()?,
        "engine" => programs::engine()?,
        "switching" => programs::switching()?,
        "accuracy" => networks::accuracy()?,
        "profile" => networks::profile()?,
        "range" => networks::range()?,
        "vm" => manager::vm()?,
        "vm-grid" => vm_grid::vm_grid()?,
        "vm-board" => vm::board()?,
        "governors" => governors::governors()?,
        "thermal" => thermal::thermal()?,
        "sim" => eval::sim()?,
        "ablation" => eval::ablation()?,
        "timeline" => timeline::timeline()?,
        "sim-speed" => sim::speed()?,
        "sim-fit" => sim::fit()?,
        _ => bail!(
            "unknown evidence {name:?}; known: demo, tick, wasm-call, channel, bpf-cost, switch, footprint, swap, vm, vm-grid, vm-board, governors, thermal, sim, ablation, timeline, sim-speed, sim-fit, engine, switching, accuracy, profile, range, docs"
        ),
    };
    anyhow::ensure!(
        !rows.is_empty() && rows.iter().all(|r| r.value.is_finite()),
        "a measurement did not work: {rows:?}"
    );
    let machine = machine();
    let rows: Vec<Row> =
        rows.into_iter().map(|r| Row { machine: machine.clone(), commit: commit.clone(), ..r }).collect();
    std::fs::create_dir_all(folder())?;
    let path = folder().join(format!("{name}.json"));
    std::fs::write(&path, serde_json::to_vec_pretty(&rows)?)?;
    for r in &rows {
        let goal = r.goal.map_or_else(String::new, |g| format!("   (goal {g})"));
        println!("{:<58} {:>12.3} {}{goal}", r.name, r.value, r.unit);
    }
    println!("written: {}", path.display());
    Ok(())
}
