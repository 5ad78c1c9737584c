//! Figures of the manager in the VM: the thesis-like scenarios, beside the kernel's own schedutil.

use crate::{Row, quantile, row};
use anyhow::{Context as _, ensure};
use serde_json::Value;
use std::process::Command;
use tandem::sim::scenario::Scenario;
use tandem::units::Nanos;
use tandem_tests::{guest, program, repository};

/// In turns, so often.
const ROUNDS: &str = "5";
/// Share of late frames that a fixed network may have to count as one that meets its bounds.
const LATE_MAX: f64 = 0.01;
/// Scenario of `tests/scenarios`, the fixed sub-networks at or above its floor, goals for energy and latency against
/// schedutil with the largest network, %.
const SCENARIOS: [Plan; 2] = [
    Plan { file: "thesis-one-vm", fixed: &[3, 2], goals: (19.0, 9.0) },
    Plan { file: "thesis-two-vm", fixed: &[3, 2, 1, 0], goals: (89.0, 23.0) },
];

struct Plan {
    file: &'static str,
    fixed: &'static [usize],
    goals: (f64, f64),
}

/// One valid run.
struct Run {
    round: u64,
    /// Mean power of the domains, mW, and with the board's constant.
    mw: f64,
    board_mw: f64,
    /// The worst application's, ms.
    p50: f64,
    p95: f64,
    p99: f64,
    /// Share.
    late: f64,
    /// Mean over applications, %, of the images they saw.
    accuracy: f64,
}

/// What became of one policy.
struct Played {
    policy: String,
    runs: Vec<Run>,
    void: usize,
}

impl Played {
    fn median(&self, of: impl Fn(&Run) -> f64) -> f64 {
        quantile(&self.runs.iter().map(of).collect::<Vec<_>>(), 0.5)
    }
}

/// The thesis-like scenarios on `odroid-xu3`: ours (energy first), and invariant schedutil with fixed sub-networks.
pub fn vm() -> anyhow::Result<Vec<Row>> {
    if let Some(why) = guest::missing() {
        anyhow::bail!("{why}");
    }
    let mut all = Vec::new();
    for plan in &SCENARIOS {
        let mut policies = vec!["tandem".to_owned()];
        policies.extend(plan.fixed.iter().map(|n| format!("kernel:schedutil?subnet={n}")));
        let share = guest::share(plan.file)?;
        let file = repository().join(format!("tests/scenarios/{}.toml", plan.file));
        let targets = Scenario::load(&file)?.apps.into_iter().map(|a| a.target_at(Nanos(0)).latency);
        let latency_ms =
            targets.map(|t| t.map_or(f64::INFINITY, |t| t.as_ms())).fold(f64::INFINITY, f64::min);
        let mut play = Command::new(program("scenario"));
        play.arg(&file);
        for policy in &policies {
            play.args(["--policy", policy]);
        }
        play.args(["--vm", "odroid-xu3", "--informed", "--rounds", ROUNDS, "--out"]).arg(&share);
        let done = play.output().context("scenario does not start")?;
        ensure!(done.status.success(), "{}:\n{}", plan.file, String::from_utf8_lossy(&done.stderr));
        let results: Vec<Value> = serde_json::from_slice(&std::fs::read(share.join("result.json"))?)?;
        let played = policies.into_iter().map(|p| played(p, &results)).collect::<anyhow::Result<Vec<_>>>()?;
        rows(plan, latency_ms, &played, &mut all)?;
    }
    Ok(all)
}

fn played(policy: String, results: &[Value]) -> anyhow::Result<Played> {
    let mine: Vec<&Value> = results.iter().filter(|r| r["policy"] == policy.as_str()).collect();
    let valid = mine.iter().filter(|r| r["host"]["valid"] == true);
    let runs = valid
        .map(|r| run(r).with_context(|| format!("{policy}: {r}")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(!runs.is_empty(), "{policy}: all runs are void: the host was too busy to keep time");
    Ok(Played { void: mine.len() - runs.len(), policy, runs })
}

fn run(r: &Value) -> anyhow::Result<Run> {
    let host = &r["host"];
    let number = |v: &Value| v.as_f64().context("a number is missing");
    let seconds = number(&host["seconds"])?;
    let mj: f64 = host["domains_mj"].as_array().context("domains_mj")?.iter().filter_map(Value::as_f64).sum();
    let apps = r["apps"].as_array().context("apps")?;
    let of = |what: &str| apps.iter().map(|a| number(&a[what])).collect::<anyhow::Result<Vec<f64>>>();
    let worst = |what: &str| Ok::<_, anyhow::Error>(of(what)?.into_iter().fold(0.0, f64::max));
    let accuracy = of("accuracy")?;
    Ok(Run {
        round: r["round"].as_u64().context("round")?,
        mw: mj / seconds,
        board_mw: (mj + number(&host["board_mj"])?) / seconds,
        p50: worst("p50_ms")?,
        p95: worst("p95_ms")?,
        p99: worst("p99_ms")?,
        late: worst("violations")?,
        accuracy: accuracy.iter().sum::<f64>() / accuracy.len().max(1) as f64 * 100.0,
    })
}

/// `latency_ms`: the strictest target of the scenario's applications.
fn rows(plan: &Plan, latency_ms: f64, played: &[Played], all: &mut Vec<Row>) -> anyhow::Result<()> {
    for p in played {
        let mut add = |what: &str, unit: &str, kind: &str, of: &dyn Fn(&Run) -> f64| {
            let samples: Vec<f64> = p.runs.iter().map(of).collect();
            let name = format!("{}, {}: {what}", plan.file, p.policy);
            all.push(Row { kind: kind.into(), ..crate::median(&name, &samples, unit) });
        };
        add("power of the domains", "mW", "modelled", &|r| r.mw);
        add("with the board's 150 mW", "mW", "modelled", &|r| r.board_mw);
        add("p50 of latency", "ms", "measured", &|r| r.p50);
        add("p95", "ms", "measured", &|r| r.p95);
        add("p99", "ms", "measured", &|r| r.p99);
        add("late or dropped", "%", "measured", &|r| r.late * 100.0);
        add("right answers", "%", "measured", &|r| r.accuracy);
        all.push(row(
            &format!("{}, {}: void runs", plan.file, p.policy),
            p.void as f64,
            "runs",
            p.runs.len() as u64,
        ));
    }
    let [ours, fixed @ ..] = played else { anyhow::bail!("nobody to compare with") };
    let largest = fixed.first().context("no fixed network")?;
    let mut against = |who: &str, other: &Played, goals: Option<(f64, f64)>| {
        for (what, of, goal) in [
            ("energy", (|r: &Run| r.mw) as fn(&Run) -> f64, goals.map(|g| g.0)),
            ("p95", |r: &Run| r.p95, goals.map(|g| g.1)),
        ] {
            // Round by round: what is compared ran within minutes.
            let less: Vec<f64> = ours
                .runs
                .iter()
                .filter_map(|a| {
                    Some((1.0 - of(a) / of(other.runs.iter().find(|b| b.round == a.round)?)) * 100.0)
                })
                .collect();
            let name = format!("{}: less {what} than {} ({who})", plan.file, other.policy);
            let figure = crate::median(&name, &less, "%").higher();
            all.push(Row {
                goal,
                kind: if what == "energy" { "modelled" } else { "measured" }.into(),
                ..figure
            });
        }
    };
    against("the largest network", largest, Some(plan.goals));
    let meets = |p: &&Played| p.median(|r| r.late) <= LATE_MAX && p.median(|r| r.p95) <= latency_ms;
    let least = fixed.iter().filter(meets).min_by(|a, b| a.median(|r| r.mw).total_cmp(&b.median(|r| r.mw)));
    match least {
        Some(best) => against("the best fixed network that meets the bounds", best, None),
        None => {
            let name = format!("{}: fixed networks under schedutil that meet {latency_ms} ms", plan.file);
            all.push(row(&name, 0.0, "networks", fixed.len() as u64));
        }
    }
    Ok(())
}
