//! The simulator: policies natively and as Wasm, the same bytes twice, what is refused, what the VM measured.

use std::path::PathBuf;
use tandem::policy::wasm::WasmEngine;
use tandem::policy::{AppChoice, Grant};
use tandem::sim::compare::{Verdict, compare};
use tandem::sim::kernel::Which;
use tandem::sim::model::Model;
use tandem::sim::outcome::Outcome;
use tandem::sim::policies::Spec;
use tandem::sim::run::Prepared;
use tandem::sim::scenario::Scenario;
use tandem::sim::settle::trace;
use tandem::units::{Nanos, OppIndex};
use tandem_tests::{component, repository, tandem};

const PERIOD: Nanos = Nanos::from_ms(10);

fn scenarios() -> Vec<Scenario> {
    let folder = repository().join("tests/scenarios");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "toml"));
    files.sort();
    files.iter().map(|f| Scenario::load(f).unwrap_or_else(|e| panic!("{e}"))).collect()
}

fn scenario(name: &str) -> Scenario {
    Scenario::load(&repository().join(format!("tests/scenarios/{name}.toml"))).unwrap()
}

/// All that a tick decided.
type Decided = (Vec<Option<OppIndex>>, Vec<Option<(Grant, AppChoice)>>);

fn decisions(spec: &str, model: &Model, scenario: &Scenario, engine: Option<&WasmEngine>) -> Vec<Decided> {
    let spec = Spec::parse(spec).unwrap();
    let policy = Prepared::new(&spec, model, scenario, engine, PERIOD).unwrap_or_else(|e| panic!("{e}"));
    let mut all = Vec::new();
    let each = |g: &tandem::governor::Governor<tandem::sim::machine::SimMachine>| {
        let d = g.admitted().decision();
        all.push((d.opps.clone(), d.apps.clone()));
    };
    policy.run(model, scenario, PERIOD, each).unwrap_or_else(|e| panic!("{e}"));
    all
}

#[test]
fn every_policy_decides_the_same_natively_and_as_wasm_over_every_scenario() {
    if !component("tandem-tuner").is_file() {
        println!("skipped: needs wasm components (policies/build.sh)");
        return;
    }
    let engine = WasmEngine::new().unwrap();
    let model = Model::find("odroid-xu3").unwrap();
    let jetson = Model::find("jetson-xavier-nx").unwrap();
    let pairs = [
        ("conservative", "fixed"),
        ("ondemand", "fixed"),
        ("performance", "fixed"),
        ("powersave", "fixed"),
        ("schedutil", "fixed"),
        ("performance", "dynamic-ofa"),
        ("powersave", "lrgd"),
        ("powersave", "loudva"),
        ("tandem-allocator", "tandem-tuner"),
    ];
    let mut ticks = 0;
    for scenario in scenarios() {
        let model = if scenario.apps.iter().any(|a| a.largest.is_none()) { &jetson } else { &model };
        for (allocator, tuner) in pairs {
            let native = decisions(&format!("{allocator}+{tuner}"), model, &scenario, None);
            let files = format!("{}+{}", component(allocator).display(), component(tuner).display());
            let wasm = decisions(&files, model, &scenario, Some(&engine));
            ticks += native.len();
            let differs = native.iter().zip(&wasm).position(|(a, b)| a != b);
            assert_eq!(
                (differs, native.len()),
                (None, wasm.len()),
                "{allocator}+{tuner} over {}",
                scenario.name
            );
            let moved = native
                .iter()
                .any(|(opps, apps)| opps.iter().any(Option::is_some) || apps.iter().any(Option::is_some));
            assert!(moved, "{allocator}+{tuner} over {} decided nothing", scenario.name);
        }
    }
    println!("{ticks} ticks, all decisions equal");
}

#[test]
fn the_policy_in_c_decides_as_the_one_in_rust() {
    if !component("c-conservative").is_file() {
        println!("skipped: needs wasm components (policies/build.sh)");
        return;
    }
    let engine = WasmEngine::new().unwrap();
    let model = Model::find("odroid-xu3").unwrap();
    let scenario = scenario("co-runner");
    // It knows no parameter: its applications get the first domain with CPUs.
    let native = decisions("conservative+fixed?domain=little", &model, &scenario, None);
    let files = format!("{}+{}", component("c-conservative").display(), component("fixed").display());
    assert_eq!(native, decisions(&files, &model, &scenario, Some(&engine)));
}

#[test]
fn two_runs_give_the_same_bytes() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let args = [
        "tests/scenarios/burst.toml",
        "--board",
        "odroid-xu3",
        "--policy",
        "kernel:schedutil",
        "tandem",
        "--quick",
    ];
    let texts = dirs.each_ref().map(|d| {
        let (ok, text) = tandem("sim", &args, d.path());
        assert!(ok, "{text}");
        text.replace(&d.path().display().to_string(), "OUT")
    });
    assert_eq!(texts[0], texts[1]);
    let mut names: Vec<_> =
        std::fs::read_dir(dirs[0].path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    // JSON, two CSV, a picture in two formats for each of two policies and two applications.
    assert_eq!(names.len(), 3 + 2 * 2 * 2, "{names:?}");
    for name in names {
        let [a, b] = dirs.each_ref().map(|d| std::fs::read(d.path().join(&name)).unwrap());
        assert!(a == b, "{name:?} differs");
        assert!(a.len() > 100, "{name:?} is empty");
    }
    let other_seed = tempfile::tempdir().unwrap();
    let file = other_seed.path().join("burst.toml");
    let text = std::fs::read_to_string(repository().join(args[0])).unwrap().replace("seed = 3", "seed = 4");
    std::fs::write(&file, text).unwrap();
    let (ok, _) = tandem("sim", &[&[file.to_str().unwrap()], &args[1..]].concat(), other_seed.path());
    assert!(ok);
    let [a, b] = [dirs[0].path(), other_seed.path()].map(|d| std::fs::read(d.join("frames.csv")).unwrap());
    assert!(a != b, "another seed changes nothing");
}

#[test]
fn bad_input_is_refused_all_at_once_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let bad = dir.path().join("bad.toml");
    let text = std::fs::read_to_string(repository().join("tests/scenarios/stream-30.toml")).unwrap();
    std::fs::write(&bad, text.replace("us-mobilenet-v1", "resnet").replace("warm-up-s", "warmup-s")).unwrap();
    let (ok, said) = tandem(
        "sim",
        &[bad.to_str().unwrap(), "--board", "raspberry", "--policy", "kernel:magic", "tandem"],
        &out,
    );
    assert!(!ok);
    for part in [
        "board \"raspberry\": no model of it",
        "bad.toml:7: app \"camera\": network (\"resnet\"): not known",
        "unknown key `warmup-s`",
        "policy kernel:magic: no such governor",
    ] {
        assert!(said.contains(part), "wanted {part:?}, got:\n{said}");
    }
    let good = "tests/scenarios/stream-30.toml";
    let needy = format!("{}+tandem-tuner?needs=rail/VDD_CPU", component("hostile/allocator").display());
    for (args, part) in [
        (
            ["jetson-measured.toml", "odroid-xu3", "tandem"],
            "nothing says what dynamic-ofa-6 takes there; give `largest-ms`",
        ),
        (
            ["stream-30.toml", "odroid-xu3", "tandem?domain=gpu"],
            "parameter domain = \"gpu\": must be one of little, big",
        ),
        (["stream-30.toml", "jetson-nano", "kernel:userspace"], "give mhz"),
        (
            ["stream-30.toml", "odroid-xu3", "kernel:simple_ondemand"],
            "simple_ondemand governs devices, these are CPUs",
        ),
        (
            ["stream-30.toml", "odroid-xu3", &needy],
            "needs the signal \"rail/VDD_CPU\", board \"odroid-xu3\" has ",
        ),
    ] {
        let file = format!("tests/scenarios/{}", args[0]);
        let (ok, said) = tandem("sim", &[&file, "--board", args[1], "--policy", args[2]], &out);
        assert!(!ok && said.contains(part), "{args:?}: wanted {part:?}, got:\n{said}");
    }
    assert!(!out.exists(), "{good} was begun");
}

/// One stream on the VM's big domain: 30 frames a second that take half the period at 2000 MHz.
fn baseline(policy: &str) -> Outcome {
    let model = Model::find("vm-baseline").unwrap();
    let load = Scenario::load(&repository().join("tests/scenarios/loads/frames-30-50.toml")).unwrap();
    let policy = Prepared::new(&Spec::parse(policy).unwrap(), &model, &load, None, PERIOD).unwrap();
    let book = policy.run(&model, &load, PERIOD, |_| ()).unwrap();
    Outcome::of(&policy.text, &model, &load, &book)
}

#[test]
fn energy_and_latency_of_fixed_clocks_are_what_the_vm_measured() {
    // The VM's baseline, 30 frames a second, L = 50 %: mean mW of the CPU domains, p95 ms.
    for (policy, mw, p95) in [
        ("kernel:userspace?mhz=1200", 519.0, 28.0),
        ("kernel:performance", 1004.0, 16.9),
        ("kernel:schedutil", 698.0, 21.1),
    ] {
        let o = baseline(policy);
        let (is_mw, is_p95) = (o.mean_mw(), o.all.p95_ms.unwrap());
        println!("{policy}: {is_mw:.0} mW (measured {mw}), p95 {is_p95:.1} ms (measured {p95})");
        assert!((is_mw / mw - 1.0).abs() < 0.06, "{policy}: {is_mw} mW, measured {mw}");
        assert!((is_p95 / p95 - 1.0).abs() < 0.06, "{policy}: {is_p95} ms, measured {p95}");
    }
}

#[test]
fn a_comparison_tries_both_ends_of_every_assumption() {
    let model = Model::find("vm-baseline").unwrap();
    let scenario = scenario("stream-30");
    let prepare = |s: &str| Prepared::new(&Spec::parse(s).unwrap(), &model, &scenario, None, PERIOD).unwrap();
    let policies = ["kernel:userspace?mhz=1400", "kernel:userspace?mhz=1200"].map(prepare);
    let mut runs = 0;
    let found = compare(&policies, &model, &scenario, PERIOD, || runs += 1).unwrap();
    assert_eq!(runs, tandem::sim::compare::runs(2, &model, &scenario));
    let energy = found.iter().find(|c| c.metric == "energy").unwrap();
    assert_eq!((energy.verdict, energy.hangs_on.len()), (Verdict::Lower, 0), "{energy:?}");
    assert!(energy.span[1] < 0.0 && energy.span[0] < energy.span[1], "{energy:?}");
    let p95 = found.iter().find(|c| c.metric == "p95 latency").unwrap();
    assert_eq!(p95.verdict, Verdict::Higher, "{p95:?}");
}

#[test]
fn a_result_that_hangs_on_an_assumption_is_undecided() {
    // The smallest network at 2000 MHz against a larger one at 600 MHz, mW of the big domain: without idle power
    // 3182 x 0.5 x 0.036 = 57 against 426 x 0.5 x 0.293 = 62; with 8 % of it 307 against 91.
    let model = Model::find("vm-baseline").unwrap();
    let scenario = scenario("stream-30");
    let prepare = |s: &str| Prepared::new(&Spec::parse(s).unwrap(), &model, &scenario, None, PERIOD).unwrap();
    let policies =
        ["kernel:userspace?mhz=2000&subnet=0.25", "kernel:userspace?mhz=600&subnet=0.4"].map(prepare);
    let found = compare(&policies, &model, &scenario, PERIOD, || ()).unwrap();
    let energy = found.iter().find(|c| c.metric == "energy").unwrap();
    assert!(energy.value < energy.base, "{energy:?}");
    assert_eq!(
        (energy.verdict, &energy.hangs_on[..]),
        (Verdict::Undecided, &["idle-share = 0".to_owned()][..])
    );
}

#[test]
fn governors_by_kernel_arithmetic_name_their_kind() {
    // The two schedutils differ: the margin counts twice where the clock is not known.
    let invariant = baseline("kernel:schedutil").mean_mw();
    let kit = baseline("kernel:schedutil?invariant=false").mean_mw();
    assert!(kit > invariant * 1.15, "{kit} {invariant}");
    assert!(matches!(
        Spec::parse("kernel:schedutil").unwrap().rule(&scenario("stream-30").apps),
        Ok(tandem::sim::machine::Rule::Kernel { cpus: Which::Schedutil { invariant: true, .. }, .. })
    ));
}

/// Ticks of 10 ms after which nothing may change any more: two seconds, twenty to thirty frames.
const SETTLES_WITHIN: usize = 200;

#[test]
fn on_the_papers_time_line_the_manager_settles_after_each_event_and_does_not_alternate() {
    let model = Model::find("jetson-xavier-nx").unwrap();
    let scenario = scenario("paper-timeline");
    let policy = Prepared::new(&Spec::parse("tandem").unwrap(), &model, &scenario, None, PERIOD).unwrap();
    let trace = trace(&policy, &model, &scenario, PERIOD).unwrap();
    // The second job begins at 2.5 s.
    for (from, to) in [(0, 2500), (2500, 12_000)] {
        let (ticks, changes) = trace.settled(Nanos::from_ms(from), Nanos::from_ms(to));
        println!("from {from} ms: {changes} changes, the last after {ticks} ticks");
        assert!(changes > 0, "from {from} ms: nothing was decided");
        assert!(ticks <= SETTLES_WITHIN, "from {from} ms: a change {ticks} ticks after it");
    }
}
