//! What a play came to, from the runners' own lines.

use crate::LEAD;
use crate::play::Played;
use anyhow::Context as _;
use serde::Serialize;
use std::path::Path;
use tandem::sim::scenario::{AppPlan, Scenario};
use tandem::units::Nanos;

/// The whole.
#[derive(Debug, Serialize)]
pub struct Result {
    pub scenario: String,
    pub policy: String,
    pub round: usize,
    /// ms of an image by sub-network, alone on the fastest CPU at its top OPP.
    pub image_ms: Vec<f64>,
    pub apps: Vec<AppResult>,
    /// Million iterations a second while each ran.
    pub co_runners: Vec<f64>,
}

/// One application, frames that arrived after the warm-up.
#[derive(Debug, Serialize)]
pub struct AppResult {
    pub name: String,
    /// Images of a frame.
    pub batch: usize,
    pub frames: usize,
    /// In the whole run, the warm-up included.
    pub dropped: u64,
    /// Share late or dropped.
    pub violations: f64,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    /// Share of right answers.
    pub accuracy: f64,
    /// Frames by sub-network.
    pub by_subnet: std::collections::BTreeMap<String, usize>,
}

/// Reads what the runners left.
pub fn of(
    scenario: &Scenario,
    policy: &str,
    round: usize,
    image: &[f64],
    played: &Played,
) -> anyhow::Result<Result> {
    let apps = scenario.apps.iter().zip(&played.apps);
    let apps: anyhow::Result<_> =
        apps.map(|(app, (folder, batch))| one(scenario, app, folder, *batch)).collect();
    Ok(Result {
        scenario: scenario.name.clone(),
        policy: policy.into(),
        round,
        image_ms: image.to_vec(),
        apps: apps?,
        co_runners: played.co_runners.clone(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run")]
fn one(scenario: &Scenario, app: &AppPlan, folder: &Path, batch: usize) -> anyhow::Result<AppResult> {
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("report.json"))?)?;
    let dropped = report["totals"]["dropped"].as_u64().context("the report has no totals.dropped")?;
    let text = std::fs::read_to_string(folder.join("frames.csv"))?;
    let mut latencies = Vec::new();
    let (mut late, mut correct, mut images) = (0usize, 0u64, 0u64);
    let mut by_subnet = std::collections::BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<_> = line.split(',').collect();
        let [t, subnet, latency, _, _, right, of, ..] = fields[..] else {
            anyhow::bail!("short line {line:?}")
        };
        let (t, latency): (f64, f64) = (t.parse()?, latency.parse()?);
        let arrived = Nanos::from_secs((t - LEAD.as_secs_f64() - latency / 1e3).max(0.0));
        if arrived < scenario.warm_up || arrived >= scenario.length {
            continue;
        }
        late += usize::from(app.target_at(arrived).latency.is_some_and(|l| latency > l.as_ms()));
        latencies.push(latency);
        correct += right.parse::<u64>()?;
        images += of.parse::<u64>()?;
        *by_subnet.entry(subnet.to_owned()).or_insert(0) += 1;
    }
    latencies.sort_unstable_by(f64::total_cmp);
    let rank = |permille: usize| {
        let i = (latencies.len() * permille).div_ceil(1000).max(1) - 1;
        latencies.get(i).copied().with_context(|| format!("{}: no frame was finished", app.name))
    };
    let frames = latencies.len();
    Ok(AppResult {
        name: app.name.clone(),
        batch,
        frames,
        dropped,
        violations: (late as f64 + dropped as f64) / (frames as f64 + dropped as f64).max(1.0),
        mean_ms: latencies.iter().sum::<f64>() / (frames as f64).max(1.0),
        p50_ms: rank(500)?,
        p95_ms: rank(950)?,
        p99_ms: rank(990)?,
        accuracy: correct as f64 / (images as f64).max(1.0),
        by_subnet,
    })
}
