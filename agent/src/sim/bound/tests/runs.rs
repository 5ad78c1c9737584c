//! Policies against the bounds: nobody who is judged by them goes below what cannot be had.

use super::*;
use crate::sim::policies::Spec;
use crate::sim::run::Prepared;
use std::path::Path;

const POLICIES: [&str; 9] = [
    "kernel:schedutil",
    "kernel:schedutil?subnet=2",
    "kernel:powersave?subnet=0",
    "kernel:conservative?subnet=1",
    "kernel:schedutil+dynamic-ofa",
    "powersave+loudva",
    "powersave+lrgd",
    "tandem-allocator+tandem-tuner",
    "tandem-allocator?weight-max=10000",
];

fn load(name: &str) -> Scenario {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/scenarios/{name}.toml"));
    Scenario::load(&path).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn no_run_uses_less_than_the_floor_of_what_it_gave() {
    let period = Nanos::from_ms(10);
    let (mut runs, mut nearest, mut met) = (0, f64::INFINITY, 0);
    for (board, name) in [
        ("odroid-xu3", "stream-30"),
        ("odroid-xu3", "co-runner"),
        ("jetson-xavier-nx", "power-mode"),
        ("odroid-xu3", "thesis-two"),
        ("vm-baseline", "thesis-one"),
        ("odroid-xu3", "tightened"),
        ("odroid-xu3", "two-streams"),
        ("vm-baseline", "stream-60"),
        ("vm-baseline", "burst"),
        ("hikey960", "overload"),
        ("hikey960", "thermal"),
        ("jetson-xavier-nx", "jetson-measured"),
        ("jetson-xavier-nx", "paper-timeline"),
    ] {
        let (model, mut scenario) = (Model::find(board).unwrap(), load(name));
        for (_, slo) in scenario.apps.iter_mut().flat_map(|a| &mut a.targets) {
            slo.objective = crate::policy::Objective::Energy;
        }
        let wanted: Vec<Given> = vec![Given::default(); scenario.apps.len()];
        let constant = lower_bound(&model, &scenario).unwrap();
        let least = floor(&model, &scenario, &wanted).unwrap();
        println!("{board}, {name}: constant points {:?} J, whatever is mixed {least:?} J", constant.energy_j);
        if let Some(constant) = constant.energy_j {
            assert!(least.is_some_and(|l| l <= constant * (1.0 + 1e-9)), "{board}, {name}");
        }
        for policy in POLICIES {
            let spec = Spec::parse(policy).unwrap();
            let run = Prepared::new(&spec, &model, &scenario, None, period)
                .and_then(|p| p.run(&model, &scenario, period, |_| ()));
            let book = run.unwrap_or_else(|e| panic!("{e}"));
            let outcome = Outcome::of(policy, &model, &scenario, &book);
            let given =
                |a: &crate::sim::outcome::AppOutcome| Given { violations: a.violations, top1: a.top1 };
            let given: Vec<Given> = outcome.apps.iter().map(given).collect();
            let own = floor(&model, &scenario, &given).unwrap();
            let own =
                own.unwrap_or_else(|| panic!("{board}, {name}, {policy}: {given:?} is called impossible"));
            println!("  {policy}: {:.3} J, {own:.3} for what it gave", outcome.energy_j);
            assert!(outcome.energy_j >= own, "{board}, {name}, {policy}: {} J below {own}", outcome.energy_j);
            (runs, nearest) = (runs + 1, f64::min(nearest, outcome.energy_j / own));
            let held = outcome.apps.iter().zip(&scenario.apps).all(|(a, plan)| {
                let floors = plan.targets.iter().filter_map(|t| t.1.top1).map(|t| f64::from(t.0) / 100.0);
                a.violations <= VIOLATIONS && a.top1.is_some_and(|t| t >= floors.fold(0.0, f64::max))
            });
            if held {
                met += 1;
                let least =
                    least.unwrap_or_else(|| panic!("{board}, {name}, {policy}: meets what is impossible"));
                assert!(outcome.energy_j >= least, "{board}, {name}, {policy}: {} J", outcome.energy_j);
            }
        }
    }
    println!("{runs} runs, {met} of them meet the targets; the nearest is at {nearest:.3} of its floor");
    // A bound far below everything would hold too.
    assert!(met > 20 && nearest < 1.1, "{met} {nearest}");
}
