//! Runs of `scenario` in the VM, as it wrote them.

use crate::quantile;
use anyhow::{Context as _, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tandem_tests::program;

/// The board of tests/vm/boards.
pub const BOARD: &str = "odroid-xu3";
/// Share of late frames that a 95th percentile allows.
const LATE_MAX: f64 = 0.05;

/// Plays them in one boot, each round all of them; the results.
pub fn play(
    files: &[PathBuf],
    policies: &[String],
    rounds: usize,
    share: &Path,
) -> anyhow::Result<Vec<Value>> {
    let mut play = Command::new(program("scenario"));
    play.args(files);
    for policy in policies {
        play.args(["--policy", policy]);
    }
    play.args(["--vm", BOARD, "--informed", "--rounds", &rounds.to_string(), "--out"]).arg(share);
    let done = play.output().context("scenario does not start")?;
    ensure!(done.status.success(), "{}:\n{}", share.display(), String::from_utf8_lossy(&done.stderr));
    Ok(serde_json::from_slice(&std::fs::read(share.join("result.json"))?)?)
}

/// One valid run.
#[derive(Clone, Debug)]
pub struct Run {
    pub round: u64,
    /// Mean power of the domains, mW, with the board's constant, and of the domain where applications begin.
    pub mw: f64,
    pub board_mw: f64,
    pub home_mw: f64,
    /// The worst application's, ms.
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    /// Share.
    pub late: f64,
    /// Mean over applications, %, of the images they saw.
    pub accuracy: f64,
    /// The first application's frames by sub-network.
    pub by_subnet: Vec<(String, f64)>,
    /// What co-runners got done, million iterations a second.
    pub co_runners: f64,
}

/// What became of one policy in one scenario.
#[derive(Clone, Debug)]
pub struct Played {
    pub policy: String,
    pub runs: Vec<Run>,
    pub void: usize,
}

impl Played {
    /// Out of all results.
    ///
    /// # Errors
    /// Something is missing, or all its runs are void.
    pub fn of(policy: &str, scenario: &str, results: &[Value]) -> anyhow::Result<Self> {
        let is_it = |r: &&Value| r["policy"] == policy && r["scenario"] == scenario;
        let mine: Vec<&Value> = results.iter().filter(is_it).collect();
        let valid = mine.iter().filter(|r| r["host"]["valid"] == true);
        let runs = valid
            .map(|r| Run::of(r).with_context(|| format!("{policy}: {r}")))
            .collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(
            !runs.is_empty(),
            "{scenario}, {policy}: all of {} runs are void: the host was too busy to keep time",
            mine.len()
        );
        Ok(Self { void: mine.len() - runs.len(), policy: policy.into(), runs })
    }

    /// Of its runs.
    pub fn median(&self, of: impl Fn(&Run) -> f64) -> f64 {
        quantile(&self.runs.iter().map(of).collect::<Vec<_>>(), 0.5)
    }

    /// At most 5 % late or lost, and the 95th percentile within the target.
    pub fn meets(&self, latency_ms: f64) -> bool {
        self.median(|r| r.late) <= LATE_MAX && self.median(|r| r.p95) <= latency_ms
    }
}

impl Run {
    fn of(r: &Value) -> anyhow::Result<Self> {
        let host = &r["host"];
        let number = |v: &Value| v.as_f64().context("a number is missing");
        let seconds = number(&host["seconds"])?;
        let domains: Vec<f64> =
            host["domains_mj"].as_array().context("domains_mj")?.iter().filter_map(Value::as_f64).collect();
        let mj: f64 = domains.iter().sum();
        let apps = r["apps"].as_array().context("apps")?;
        let of = |what: &str| apps.iter().map(|a| number(&a[what])).collect::<anyhow::Result<Vec<f64>>>();
        let worst = |what: &str| Ok::<_, anyhow::Error>(of(what)?.into_iter().fold(0.0, f64::max));
        let accuracy = of("accuracy")?;
        let frames = apps.first().and_then(|a| a["by_subnet"].as_object()).context("by_subnet")?;
        Ok(Self {
            round: r["round"].as_u64().context("round")?,
            mw: mj / seconds,
            board_mw: (mj + number(&host["board_mj"])?) / seconds,
            home_mw: domains.last().context("no domain")? / seconds,
            p50: worst("p50_ms")?,
            p95: worst("p95_ms")?,
            p99: worst("p99_ms")?,
            late: worst("violations")?,
            accuracy: accuracy.iter().sum::<f64>() / accuracy.len().max(1) as f64 * 100.0,
            co_runners: r["co_runners"].as_array().into_iter().flatten().filter_map(Value::as_f64).sum(),
            by_subnet: frames.iter().map(|(name, n)| (name.clone(), n.as_f64().unwrap_or(0.0))).collect(),
        })
    }
}
