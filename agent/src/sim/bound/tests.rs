//! The bound against runs counted the usual way, against arithmetic by hand, and against dynamic programming.

use super::*;
use crate::sim::machine::{Rule, SimMachine};
use crate::sim::outcome::Outcome;
use relax::{Given, floor};

mod dp;
mod relax;
mod runs;

/// No noise: what happens can be computed by hand.
fn quiet(board: &str) -> Model {
    let noise = ["service-noise", "temp-noise-c", "power-noise"];
    noise.iter().fold(Model::find(board).unwrap(), |m, name| m.with(name, 0.0))
}

/// One application of the committed network at 20 Hz for 10 s, its largest sub-network 20 ms at the reference.
fn scenario(targets: &str, rest: &str) -> Scenario {
    let text = format!(
        "about = \"t\"\nlength-s = 10.0\nwarm-up-s = 2.0\n[[app]]\nname = \"a\"\nnetwork = \"mlcad-fmnist\"\nlargest-ms = 20.0\n\
         frames = {{ kind = \"periodic\", rate-hz = 20.0 }}\ntargets = [{targets}]\n{rest}"
    );
    Scenario::parse("t", "t.toml", &text).unwrap()
}

fn second(rate: f64, target: f64) -> String {
    format!(
        "[[app]]\nname = \"b\"\nnetwork = \"mlcad-fmnist\"\nlargest-ms = 15.0\n\
         frames = {{ kind = \"poisson\", rate-hz = {rate} }}\ntargets = [{{ latency-ms = {target} }}]\n"
    )
}

fn point(bound: &Bound, k: usize) -> Point {
    bound.intervals[k].best.as_ref().unwrap_or_else(|| panic!("{bound:?}")).0.clone()
}

fn energy(bound: &Bound, k: usize) -> f64 {
    bound.intervals[k].best.as_ref().unwrap_or_else(|| panic!("{bound:?}")).1
}

#[test]
fn the_bound_is_the_best_of_all_constant_runs_counted_as_usual() {
    for (noise, targets) in
        [(0.0, "{ latency-ms = 40.0, top1 = 89.0 }"), (0.05, "{ latency-ms = 22.0, top1 = 88.0 }")]
    {
        let model = quiet("vm-baseline").with("service-noise", noise);
        let scenario = scenario(targets, "[[co-runner]]\nname = \"c\"\ncpus = [0]\n");
        let target = scenario.apps[0].target_at(Nanos(0));
        let mut best = f64::INFINITY;
        for (domain, opps) in [(0, 7), (1, 10)] {
            for (opp, subnet) in
                product(&[(0..opps).collect(), (0..4).collect()]).iter().map(|p| (p[0], p[1]))
            {
                let mut point = Point { opps: vec![0, 0], apps: vec![(domain, subnet)] };
                point.opps[domain] = opp;
                let mut machine = SimMachine::new(&model, &scenario, &Rule::Point(point)).unwrap();
                machine.advance(scenario.length);
                let outcome = Outcome::of("", &model, &scenario, &machine.into_book());
                let a = &outcome.apps[0];
                let late = a.p95_ms.unwrap() > target.latency.unwrap().as_ms() || a.violations > 0.05;
                let holds = a.top1.unwrap() >= f64::from(target.top1.unwrap().0) / 100.0;
                if holds && !late {
                    best = best.min(outcome.energy_j);
                }
            }
        }
        let bound = lower_bound(&model, &scenario).unwrap();
        assert_eq!(bound.intervals.len(), 1);
        assert!((bound.energy_j.unwrap() / best - 1.0).abs() < 1e-6, "{bound:?}, best of all {best} J");
    }
}

#[test]
fn its_energy_is_what_one_reckons_by_hand() {
    // 90.24 % needs the largest. Within 40 ms it is 40 ms of work at 1000 MHz, or 34.5 ms at 1160: 1000 MHz it is, busy 0.8 of the
    // time on one of two CPUs; the little domain (0.526 of the work) would take 54 ms. Little at 200 MHz idles.
    let model = quiet("vm-baseline");
    let bound = lower_bound(&model, &scenario("{ latency-ms = 40.0, top1 = 90.24 }", "")).unwrap();
    assert_eq!(point(&bound, 0), Point { opps: vec![0, 4], apps: vec![(1, 3)] });
    let exact = 8.0 * (0.824 * (0.08 + 0.92 * 0.8 / 2.0) + 0.029 * 0.08);
    assert!((bound.energy_j.unwrap() / exact - 1.0).abs() < 1e-3, "{bound:?}, {exact} by hand");
}

#[test]
fn each_interval_has_its_own_point_and_they_add_up() {
    let model = quiet("vm-baseline");
    let both = "{ latency-ms = 40.0, top1 = 90.24 }, { at-s = 6.0, latency-ms = 25.0, top1 = 88.0 }";
    let bound = lower_bound(&model, &scenario(both, "")).unwrap();
    let alone = |targets| lower_bound(&model, &scenario(targets, "")).unwrap();
    let parts = [alone("{ latency-ms = 40.0, top1 = 90.24 }"), alone("{ latency-ms = 25.0, top1 = 88.0 }")];
    for (k, part) in parts.iter().enumerate() {
        assert_eq!(point(&bound, k), point(part, 0));
        assert!((energy(&bound, k) / energy(part, 0) - 0.5).abs() < 2e-3, "{bound:?} {part:?}");
    }
    assert_ne!(point(&bound, 0), point(&bound, 1));
    assert!((bound.energy_j.unwrap() - energy(&bound, 0) - energy(&bound, 1)).abs() < 1e-12);
}

#[test]
fn caps_co_runners_and_the_air_cut_time_and_the_warm_up_counts_for_nothing() {
    let rest = "[[co-runner]]\nname = \"c\"\nfrom-s = 1.0\nto-s = 4.0\n[[event]]\nat-s = 5.0\ncap-permille = 500\n\
                [[event]]\nat-s = 7.5\nambient-c = 30.0\n";
    let bound =
        lower_bound(&quiet("vm-baseline"), &scenario("{ latency-ms = 45.0, top1 = 90.24 }", rest)).unwrap();
    let cuts: Vec<_> = bound.intervals.iter().map(|i| (i.from.as_secs(), i.to.as_secs())).collect();
    assert_eq!(cuts, [(2.0, 4.0), (4.0, 5.0), (5.0, 7.5), (7.5, 10.0)]);
    assert!(bound.energy_j.is_some(), "{bound:?}");
}

#[test]
fn an_overload_before_does_not_weigh_on_what_follows() {
    // Eight threads at nice -20 on each domain leave an application at its largest weight half of a CPU for 4 s: at 20 Hz and
    // 20 ms of work that is too little for 40 ms at every point but the fastest.
    let co = "[[co-runner]]\nname = \"c\"\nfrom-s = 2.0\nto-s = 6.0\nnice = -20\nthreads = 8\n[[co-runner]]\nname = \"d\"\nfrom-s = 2.0\n\
              to-s = 6.0\nnice = -20\nthreads = 8\ndomain = \"little\"\n";
    let wanted = "{ latency-ms = 30.0, top1 = 90.24 }";
    let bound = lower_bound(&quiet("vm-baseline"), &scenario(wanted, co)).unwrap();
    let calm = lower_bound(&quiet("vm-baseline"), &scenario(wanted, "")).unwrap();
    assert!(bound.intervals[0].best.is_none() && bound.energy_j.is_none(), "{bound:?}");
    assert_eq!(point(&bound, 1), point(&calm, 0));
    assert!((energy(&bound, 1) / energy(&calm, 0) - 0.5).abs() < 2e-3, "{bound:?} {calm:?}");
}

#[test]
fn what_nothing_can_hold_has_no_bound() {
    // The largest takes 20 ms at the top: 19 ms cannot be had at that floor, 21 can, and 19 can below it.
    let model = quiet("vm-baseline");
    for (wanted, can) in
        [("19.0, top1 = 90.24", false), ("21.0, top1 = 90.24", true), ("19.0, top1 = 88.37", true)]
    {
        let scenario = scenario(&format!("{{ latency-ms = {wanted} }}"), "");
        assert_eq!(lower_bound(&model, &scenario).unwrap().energy_j.is_some(), can, "{wanted}");
        assert_eq!(floor(&model, &scenario, &[Given::default()]).unwrap().is_some(), can, "{wanted}");
    }
}

#[test]
fn one_enumeration_serves_all_targets() {
    let model = quiet("odroid-xu3");
    let all = scenario("{ latency-ms = 40.0 }", "");
    let points = enumerate(&model, &all).unwrap();
    for (latency, floor) in [(40.0, 90.24), (40.0, 88.0), (25.0, 88.37), (100.0, 89.0)] {
        let like = scenario(&format!("{{ latency-ms = {latency}, top1 = {floor} }}"), "");
        assert_eq!(points.best(&like).unwrap(), lower_bound(&model, &like).unwrap());
    }
    let other = scenario("{ latency-ms = 40.0 }", "[[event]]\nat-s = 5.0\ncap-permille = 500\n");
    assert_eq!(
        points.best(&other).unwrap_err().to_string(),
        "scenario t on odroid-xu3: differs from t in more than its targets"
    );
}

#[test]
fn two_applications_apart_are_the_sum_of_each_alone_unless_something_couples_them() {
    let like = scenario("{ latency-ms = 40.0, top1 = 88.0 }", &second(8.0, 60.0));
    let model = quiet("vm-baseline").with("service-noise", 0.02);
    // So little contention that it changes nothing, but every point has to be simulated whole.
    let (little, hot) = (model.with("contention", 1e-12), model.with("trip-c", 27.0));
    let [sums, coupled, hot] = [&model, &little, &hot].map(|m| enumerate(m, &like).unwrap());
    let apart = |f: &&Found| f.point.apps[0].0 != f.point.apps[1].0;
    assert_eq!(sums.len(), coupled.len());
    let points = sums.found.iter().zip(&coupled.found).filter(|(f, _)| apart(f)).step_by(7);
    let mut tried = 0;
    for (a, b) in points {
        let (a, b) = (sums.run(a).unwrap(), coupled.run(b).unwrap());
        assert!((a.1[0] / b.1[0] - 1.0).abs() < 1e-6, "{a:?} {b:?}");
        tried += 1;
    }
    assert_eq!(coupled.simulated(), tried);
    assert!(sums.simulated() < tried / 2, "{} {tried}", sums.simulated());
    let [a, b] = [&sums, &coupled].map(|p| p.best(&like).unwrap());
    assert!((a.energy_j.unwrap() / b.energy_j.unwrap() - 1.0).abs() < 1e-6, "{a:?} {b:?}");
    assert_eq!(point(&a, 0), point(&b, 0));
    // A trip point that all threads busy would reach couples them too.
    assert!(sums.found.iter().filter(apart).any(|f| !hot.search.uncoupled(&f.point)));
}

#[test]
fn three_applications_are_refused() {
    let third = second(8.0, 60.0).replace("\"b\"", "\"c\"");
    let three = scenario("{ latency-ms = 40.0 }", &(second(8.0, 60.0) + &third));
    let got = lower_bound(&quiet("vm-baseline"), &three).unwrap_err().to_string();
    assert_eq!(got, "scenario t on vm-baseline: 3 applications, the bound is for one or two");
}
