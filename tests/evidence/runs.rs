//! Runs of `scenario` in the VM, as it wrote them.

use crate::quantile;
use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tandem_tests::{program, repository};

/// The board of tests/vm/boards.
pub const BOARD: &str = "odroid-xu3";
/// Share of late frames that a 95th percentile allows.
const LATE_MAX: f64 = 0.05;

/// Share of its busy power that an idle CPU draws in the host's model (`tests/vm/throttle --idle`).
const IDLE: f64 = 0.08;
/// Idle shares and factors of the little domain's power (leakage) under which a win must keep its sign.
pub const ASSUMED: [(f64, f64); 3] = [(0.02, 1.0), (0.3, 1.0), (IDLE, 1.4)];

/// Boots for runs of which all were void.
const TRIES: usize = 3;

/// What was played, so that a session that was cut, or a host that was busy for a while, costs only the runs it spoilt.
#[derive(Deserialize, Serialize)]
struct Kept {
    /// Programs and policies: length and time of each.
    programs: Vec<String>,
    /// Texts of the scenarios.
    scenarios: Vec<String>,
    policies: Vec<String>,
    rounds: usize,
    results: Vec<Value>,
}

/// Plays them in one boot, each round all of them, and once more those whose runs are all void; the results. They are kept below
/// `target/evidence`, and not played again with the same programs.
pub fn play(
    files: &[PathBuf],
    policies: &[String],
    rounds: usize,
    share: &Path,
) -> anyhow::Result<Vec<Value>> {
    let name = share.file_name().context("a folder without a name")?.to_string_lossy();
    let folder = repository().join("target/evidence");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let path = folder.join(format!("{name}-played.json"));
    let asked = Kept {
        programs: programs()?,
        scenarios: files.iter().map(std::fs::read_to_string).collect::<Result<_, _>>()?,
        policies: policies.to_vec(),
        rounds,
        results: vec![],
    };
    let kept = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Kept>(&text).ok());
    let same = |k: &Kept| {
        (&k.programs, &k.scenarios, &k.policies, k.rounds)
            == (&asked.programs, &asked.scenarios, &asked.policies, rounds)
    };
    let mut all = kept.filter(same).unwrap_or(asked);
    for _ in 0..TRIES {
        let (again, by): (Vec<PathBuf>, Vec<String>) = if all.results.is_empty() {
            (files.to_vec(), policies.to_vec())
        } else {
            let void = void(&all.results);
            let stem =
                |f: &&PathBuf| f.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
            let of_it = |f: &&PathBuf| void.iter().any(|(scenario, _)| *scenario == stem(f));
            let its = |p: &&String| void.iter().any(|(_, policy)| policy == *p);
            (files.iter().filter(of_it).cloned().collect(), policies.iter().filter(its).cloned().collect())
        };
        if again.is_empty() {
            break;
        }
        all.results.extend(boot(&again, &by, rounds, share)?);
        std::fs::write(&path, serde_json::to_vec_pretty(&all)?)
            .with_context(|| path.display().to_string())?;
    }
    Ok(all.results)
}

/// Scenario and policy of those without a valid run.
fn void(results: &[Value]) -> Vec<(String, String)> {
    let of = |r: &Value| {
        let word = |key: &str| r[key].as_str().unwrap_or_default().to_owned();
        (word("scenario"), word("policy"))
    };
    let valid: Vec<_> = results.iter().filter(|r| r["host"]["valid"] == true).map(of).collect();
    results.iter().map(of).filter(|pair| !valid.contains(pair)).collect()
}

fn programs() -> anyhow::Result<Vec<String>> {
    let policies = repository().join("target/policies");
    let mut paths = vec![program("tandem"), program("dnn-runner")];
    for entry in std::fs::read_dir(&policies).with_context(|| policies.display().to_string())? {
        paths.push(entry?.path());
    }
    paths.sort_unstable();
    let one = |path: &PathBuf| {
        let data = std::fs::metadata(path).with_context(|| path.display().to_string())?;
        let age = data.modified()?.duration_since(std::time::UNIX_EPOCH)?;
        Ok(format!("{} {} {}", path.display(), data.len(), age.as_nanos()))
    };
    paths.iter().map(one).collect()
}

fn boot(files: &[PathBuf], policies: &[String], rounds: usize, share: &Path) -> anyhow::Result<Vec<Value>> {
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
#[derive(Clone, Debug, Default)]
pub struct Run {
    pub round: u64,
    /// Mean power of the domains, mW, with the board's constant, and of the domain where applications begin.
    pub mw: f64,
    pub board_mw: f64,
    pub home_mw: f64,
    /// Of each domain, the little one first: mean power, and had no CPU idled, mW.
    pub domains: Vec<(f64, f64)>,
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
    /// Mean power of the domains with another of [`ASSUMED`], mW.
    pub fn mw_if(&self, (idle, little): (f64, f64)) -> f64 {
        let one = |(mw, full): &(f64, f64)| idle * full + (1.0 - idle) * (mw - IDLE * full) / (1.0 - IDLE);
        self.domains.iter().enumerate().map(|(d, of)| one(of) * if d == 0 { little } else { 1.0 }).sum()
    }

    fn of(r: &Value) -> anyhow::Result<Self> {
        let host = &r["host"];
        let number = |v: &Value| v.as_f64().context("a number is missing");
        let seconds = number(&host["seconds"])?;
        let each = |key: &'static str| {
            let list = host[key].as_array().context(key)?;
            Ok::<Vec<f64>, anyhow::Error>(list.iter().filter_map(Value::as_f64).collect())
        };
        let domains = each("domains_mj")?;
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
            domains: domains
                .iter()
                .zip(each("full_mj")?)
                .map(|(mj, full)| (mj / seconds, full / seconds))
                .collect(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_under_other_assumptions_is_reckoned_from_what_no_idle_cpu_would_draw() {
        // Half busy: 200 mW x (8 + 92 x 0.5) %, and 1000 mW.
        let run = Run { domains: vec![(108.0, 200.0), (540.0, 1000.0)], ..Default::default() };
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        near(run.mw_if((IDLE, 1.0)), 648.0);
        near(run.mw_if((0.0, 1.0)), 600.0);
        near(run.mw_if((IDLE, 1.4)), 108.0 * 1.4 + 540.0);
    }
}
