//! The machine against arithmetic by hand.

use super::*;
use crate::envelope::Envelope;
use crate::governor::{Governor, Machine as _};
use crate::policy::slot::{PolicyContext, PolicySlot};
use crate::sim::model::Model;

/// No noise, no contention: what happens can be computed by hand.
fn quiet() -> Model {
    let noise = ["service-noise", "temp-noise-c", "power-noise"];
    noise.iter().fold(Model::find("vm-baseline").unwrap(), |m, name| m.with(name, 0.0))
}

fn scenario(rest: &str) -> Scenario {
    let text = format!(
        "about = \"t\"\nlength-s = 10.0\n[[app]]\nname = \"a\"\nnetwork = \"mlcad-fmnist\"\nlargest-ms = 10.0\ncpus = [0]\nqueue = 2\n\
         frames = {{ kind = \"periodic\", rate-hz = 10.0 }}\ntargets = [{{ latency-ms = 100.0 }}]\n{rest}"
    );
    Scenario::parse("t", "t.toml", &text).unwrap()
}

fn at(mhz: f64) -> Rule {
    Rule::Kernel { cpus: Which::Userspace { mhz }, devices: Which::Performance, subnets: vec![] }
}

fn book(model: &Model, scenario: &Scenario, rule: &Rule) -> Book {
    let mut machine = SimMachine::new(model, scenario, rule).unwrap();
    machine.advance(scenario.length);
    machine.into_book()
}

#[test]
fn energy_is_idle_and_busy_power_times_their_times() {
    // 100 frames of 10 ms at 2000 MHz on one of two CPUs in 10 s: 1 s busy. 3182 mW x (0.08 + 0.92 x 0.5) x 1 s + 3182 x
    // 0.08 x 9 s = 1718.3 + 2291.0 mJ; a machine under a kernel governor begins at its highest OPP.
    let b = book(&quiet(), &scenario(""), &at(2000.0));
    let exact = 3182.0 * (0.08 + 0.46) + 3182.0 * 0.08 * 9.0;
    let big = &b.domains[1];
    assert!((big.energy_mj / exact - 1.0).abs() < 2e-3, "{} mJ, {exact} by hand", big.energy_mj);
    assert_eq!((b.frames.len(), b.arrived[0], b.dropped[0], big.moves), (100, 100, 0, 0));
    assert_eq!(b.domains[1].residency_ns.iter().sum::<u64>(), 10_000_000_000);
}

#[test]
fn half_the_clock_doubles_the_latency() {
    let latency = |mhz| {
        let b = book(&quiet(), &scenario(""), &at(mhz));
        let last = *b.frames.last().unwrap();
        last.finished.since(last.arrived).as_ms()
    };
    assert!((latency(2000.0) - 10.0).abs() < 1e-3);
    assert!((latency(1000.0) - 20.0).abs() < 1e-3);
}

#[test]
fn a_clock_that_changes_on_the_way_changes_the_rest_only() {
    // A cap to 1000 MHz comes 5 ms into the frame that begins at 3 s: 5 ms, the switch's 0.1 ms, then 4.9 ms of work at half
    // speed: 5 + 0.1 + 9.8 = 14.9 ms.
    let b = book(&quiet(), &scenario("[[event]]\nat-s = 3.005\ncap-permille = 500\n"), &at(2000.0));
    let frame = b.frames.iter().find(|f| f.arrived == Nanos::from_ms(3000)).unwrap();
    assert!((frame.finished.since(frame.arrived).as_ms() - 14.9).abs() < 1e-3, "{frame:?}");
}

#[test]
fn a_co_runner_on_the_same_cpu_takes_its_weight() {
    let with = |nice: &str| {
        let co = format!("[[co-runner]]\nname = \"c\"\ncpus = [0]\n{nice}");
        let b = book(&quiet(), &scenario(&co), &at(2000.0));
        let last = *b.frames.last().unwrap();
        (last.finished.since(last.arrived).as_ms(), b.work[0])
    };
    // Equal weights: 20 ms, and the co-runner gets 9 of 10 s whole and half of the rest: 2000 x (8 + 1).
    let (ms, work) = with("");
    assert!((ms - 20.0).abs() < 1e-3 && (work / 18_000.0 - 1.0).abs() < 2e-3, "{ms} {work}");
    // Nice 10: 110 against 1024: 10 x 1134 / 1024 = 11.07 ms.
    let (ms, _) = with("nice = 10");
    assert!((ms - 11.074).abs() < 1e-2, "{ms}");
    // On the other CPU it is not in the way.
    let other = scenario("[[co-runner]]\nname = \"c\"\ncpus = [1]\n");
    let b = book(&quiet(), &other, &at(2000.0));
    assert!((b.frames[50].finished.since(b.frames[50].arrived).as_ms() - 10.0).abs() < 1e-3);
    // Unless caches are shared: 20 % longer.
    let b = book(&quiet().with("contention", 0.2), &other, &at(2000.0));
    assert!((b.frames[50].finished.since(b.frames[50].arrived).as_ms() - 12.0).abs() < 1e-3);
}

#[test]
fn what_comes_is_finished_dropped_or_waiting() {
    // At 200 MHz a frame takes 100 ms and 10 a second come; at a tenth more they would pile up.
    let text = "[[co-runner]]\nname = \"c\"\ncpus = [0]\n";
    let mut machine = SimMachine::new(&quiet(), &scenario(text), &at(200.0)).unwrap();
    machine.advance(Nanos::from_ms(10_000));
    let waiting = machine.apps[0].waiting.len() as u64 + u64::from(machine.apps[0].flight.is_some());
    let b = machine.into_book();
    assert!(b.dropped[0] > 30, "{}", b.dropped[0]);
    assert_eq!(b.arrived[0], b.frames.len() as u64 + b.dropped[0] + waiting);
    assert!(b.frames.iter().skip(1).all(|f| f.late));
}

#[test]
fn heat_caps_the_clock_and_the_loop_sees_it_as_an_outside_limit() {
    // 10 K/W, 2.8 W, 60 C air: far above the trip point of 80 C.
    let hot = ["thermal-c-per-w", "trip-c", "ambient-c", "thermal-tau-s"].iter().zip([4.0, 90.0, 85.0, 5.0]);
    let model = hot.fold(quiet(), |m, (name, value)| m.with(name, value));
    let busy = scenario("[[co-runner]]\nname = \"c\"\nthreads = 2\n");
    let machine = SimMachine::new(&model, &busy, &Rule::Agent).unwrap();
    let signals = machine.signals();
    assert!(signals.is_empty(), "this board shows no temperature");
    let context =
        PolicyContext { board: model.board.clone(), period: Nanos::from_ms(10), signals: signals.clone() };
    let slot = PolicySlot::new(context, None).unwrap();
    let mut governor =
        Governor::new(machine, slot, Envelope::new(&model.board, &signals), Nanos::from_ms(1000));
    governor.tell_apps();
    let source = crate::sim::policies::Spec::parse("performance+fixed?domain=big").unwrap();
    let crate::sim::policies::SpecKind::Set(set) = source.kind else { panic!("a set") };
    governor.serve(set.load(None, "big").unwrap()).unwrap();
    let mut caps = Vec::new();
    for tick in 1..=1000 {
        governor.step(Nanos::from_ms(tick * 10), || Nanos(0));
        let big = governor.seen().domains[1];
        // A cap that came just now has a tick to be obeyed: the clock takes its transition latency.
        let before = caps.last().copied().unwrap_or(u16::MAX);
        assert!(big.opp.unwrap().0 <= before.max(big.cap.unwrap().0), "{big:?}");
        caps.push(big.cap.unwrap().0);
    }
    assert!(caps.iter().any(|c| *c < 9), "never capped, {} C", governor.machine().celsius());
    let last = governor.seen().domains[1];
    assert!(last.opp <= last.cap);
    assert!(governor.machine().celsius() < 96.0, "{}", governor.machine().celsius());
}

#[test]
fn a_board_that_shows_its_heat_has_the_signal_for_the_envelope() {
    let xu3 = Model::find("odroid-xu3").unwrap();
    let machine = SimMachine::new(&xu3, &scenario(""), &Rule::Agent).unwrap();
    assert_eq!(machine.signals()[0].unit, "mC");
    assert_eq!(machine.room().signals.len(), 1);
    assert_eq!((machine.room().cpus.len(), machine.room().domains.len()), (8, 2));
}

#[test]
fn several_in_flight_on_a_gpu_take_what_was_measured() {
    // LoudVA, Xavier NX: 4 clients at 1109 MHz take 103.5 ms where one takes 37.8.
    let model =
        ["service-noise"].iter().fold(Model::find("jetson-xavier-nx").unwrap(), |m, n| m.with(n, 0.0));
    let app = |n: u8| {
        format!(
            "[[app]]\nname = \"s{n}\"\nnetwork = \"inception-v3\"\nframes = {{ kind = \"recorded\", times-s = [5.0] }}\n\
             targets = [{{ latency-ms = 1000.0 }}]\n"
        )
    };
    let text = format!("about = \"t\"\nlength-s = 10.0\n{}", (0..4).map(app).collect::<String>());
    let four = Scenario::parse("t", "t.toml", &text).unwrap();
    let rule = Rule::Kernel { cpus: Which::Performance, devices: Which::Performance, subnets: vec![0] };
    let b = book(&model, &four, &rule);
    let ms = b.frames[0].finished.since(b.frames[0].arrived).as_ms();
    assert!((ms / 103.5 - 1.0).abs() < 0.06, "{ms} ms");
}

#[test]
fn an_own_cpu_is_one_of_the_home_domain_only() {
    let noise = ["service-noise", "temp-noise-c", "power-noise"];
    let model = noise.iter().fold(Model::find("odroid-xu3").unwrap(), |m, name| m.with(name, 0.0));
    let tops: Vec<usize> = model.board.domains.iter().map(|d| d.opps.len() - 1).collect();
    // The largest sub-network on a domain beside a busy thread on that domain's first CPU, or alone.
    let latency = |domain: usize, co: &str| {
        let point = Point { opps: tops.clone(), apps: vec![(domain, 3)] };
        let b = book(&model, &scenario(co), &Rule::Point(point));
        let last = *b.frames.last().unwrap();
        last.finished.since(last.arrived).as_ms()
    };
    let beside = |d: &str| format!("[[co-runner]]\nname = \"c\"\ncpus = [0]\ndomain = \"{d}\"\n");
    // A point's application has the largest weight, 100 to the thread's 1.
    let shared = latency(1, &beside("big")) / latency(1, "");
    assert!((shared - 1.01).abs() < 1e-3, "it has CPU 0 of big and no other: {shared}");
    assert!((latency(0, &beside("little")) / latency(0, "") - 1.0).abs() < 1e-6, "there it takes a free one");
}
