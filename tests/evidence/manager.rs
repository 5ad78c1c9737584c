//! Figures of the manager in the VM: the thesis-like scenarios, beside the kernel's own schedutil.

use super::runs::{self, ASSUMED, Played, Run};
use crate::{Row, row};
use anyhow::Context as _;
use tandem::sim::scenario::Scenario;
use tandem::units::Nanos;
use tandem_tests::{guest, repository};

/// In turns, so often.
const ROUNDS: usize = 5;
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
        let results = runs::play(&[file], &policies, ROUNDS, &share)?;
        let played = policies
            .iter()
            .map(|p| Played::of(p, plan.file, &results))
            .collect::<anyhow::Result<Vec<_>>>()?;
        rows(plan, latency_ms, &played, &mut all)?;
    }
    Ok(all)
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
    let meets = fixed.iter().filter(|p| p.meets(latency_ms));
    let least = meets.min_by(|a, b| a.median(|r| r.mw).total_cmp(&b.median(|r| r.mw)));
    match least {
        Some(best) => against("the best fixed network that meets the bounds", best, None),
        None => {
            let name = format!("{}: fixed networks under schedutil that meet {latency_ms} ms", plan.file);
            all.push(row(&name, 0.0, "networks", fixed.len() as u64));
        }
    }
    all.extend(std::iter::once(largest).chain(least).map(|other| whatever_is_assumed(plan, ours, other)));
    Ok(())
}

/// The least saving of energy over [`ASSUMED`], medians over rounds.
fn whatever_is_assumed(plan: &Plan, ours: &Played, other: &Played) -> Row {
    let less = |assumed| {
        let mw = |p: &Played| p.median(|r| r.mw_if(assumed));
        (1.0 - mw(ours) / mw(other)) * 100.0
    };
    let least = ASSUMED.map(less).into_iter().fold(f64::INFINITY, f64::min);
    let name = format!(
        "{}: less energy than {}, the least with idle shares 0.02 and 0.3 and the little domain's power x1.4",
        plan.file, other.policy
    );
    Row { kind: "modelled".into(), ..row(&name, least, "%", ours.runs.len() as u64).higher() }
}
