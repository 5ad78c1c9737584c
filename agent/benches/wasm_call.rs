//! A call of a Wasm policy against the same policy linked natively, interleaved in one process.
//!
//! The pair `tandem-allocator` + `tandem-tuner`, one allocator call and one tuner call each, for boards
//! of two sizes. What the native side is spared is exactly what the host does: turning the snapshot into
//! the guest's types, lowering it into the guest's memory, arming the clock, lifting and checking the
//! answer. Prints a JSON list, ns a call; `arm` is what a batch of calls costs on top, once a tick.
//!
//! Needs the components of `policies/build.sh` in `target/policies` (or `POLICIES=folder`).

use policy_sdk::{Allocator as _, Tuner as _};
use std::path::PathBuf;
use std::time::Instant;
use tandem::policy::wasm::{WasmAllocator, WasmEngine, WasmLimits, WasmTuner};
use tandem::policy::{Allocation, Allocator as _, Tuner as _, View};
use tandem::units::Nanos;

#[path = "../tests/guests/mod.rs"]
mod guests;

/// Rounds of each side, alternating.
const ROUNDS: usize = 400;
/// Calls timed together.
const CALLS: u32 = 50;

/// Nanoseconds a call, one value per round.
#[derive(Default)]
struct Series(Vec<f64>);

impl Series {
    fn time(&mut self, mut call: impl FnMut()) {
        let start = Instant::now();
        (0..CALLS).for_each(|_| call());
        self.0.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
    }

    /// The value below which `percent` of a hundred rounds lie.
    fn at(&mut self, percent: usize) -> f64 {
        self.0.sort_by(f64::total_cmp);
        self.0[(self.0.len() - 1) * percent / 100]
    }

    fn row(&mut self, name: &str) -> String {
        let [p10, p50, p90] = [10, 50, 90].map(|p| self.at(p));
        format!(
            r#"{{"name": "{name}", "value": {p50:.0}, "unit": "ns", "n": {}, "p10": {p10:.0}, "p90": {p90:.0}, "kind": "measured"}}"#,
            self.0.len()
        )
    }
}

/// The SDK's snapshot of ours.
fn sdk_snapshot(seen: &tandem::snapshot::Snapshot) -> policy_sdk::Snapshot {
    policy_sdk::Snapshot {
        tick: seen.tick,
        at_ns: seen.at.0,
        window_ns: seen.window.0,
        cpus: seen.cpus.iter().map(sdk_cpu).collect(),
        domains: seen.domains.iter().map(sdk_domain).collect(),
        apps: seen.apps.iter().map(sdk_app).collect(),
        other: sdk_other(&seen.other),
        signals: Vec::new(),
    }
}

fn sdk_other(o: &tandem::snapshot::OtherSample) -> policy_sdk::OtherSample {
    policy_sdk::OtherSample { run_ns: o.run.map(|n| n.0), runq_delay_ns: o.runq_delay.map(|n| n.0) }
}

fn sdk_cpu(c: &tandem::snapshot::CpuSample) -> policy_sdk::CpuSample {
    policy_sdk::CpuSample {
        busy: c.busy.map(|u| u.0),
        switches: c.switches,
        wakeups: c.wakeups,
        migrations: c.migrations,
        runq_delay_ns: c.runq_delay.map(|n| n.0),
        idle_ns: c.idle.map(|n| n.0),
    }
}

fn sdk_domain(d: &tandem::snapshot::DomainSample) -> policy_sdk::DomainSample {
    policy_sdk::DomainSample {
        opp: d.opp.map(|o| o.0),
        util: d.util.map(|u| u.0),
        cap: d.cap.map(|o| o.0),
        power_mw: d.power.map(|p| p.0),
        transitions: d.transitions,
    }
}

fn sdk_app(a: &tandem::snapshot::AppSample) -> policy_sdk::AppSample {
    let done = |d: &tandem::snapshot::Done| policy_sdk::Done {
        subnet: d.subnet.0,
        seq: d.seq,
        latency_ns: d.latency.0,
        service_ns: d.service.0,
        confidence: d.confidence,
    };
    policy_sdk::AppSample {
        subnet: a.subnet.map(|s| s.0),
        run_ns: a.run.map(|n| n.0),
        runq_delay_ns: a.runq_delay.map(|n| n.0),
        queue: a.queue,
        in_flight_ns: a.in_flight.map(|n| n.0),
        arrived: a.arrived,
        dropped: a.dropped,
        finished: a.done.iter().map(done).collect(),
        finished_more: a.done_more,
    }
}

fn sdk_board(board: &tandem::board::Board) -> policy_sdk::Board {
    let domain = |d: &tandem::board::Domain| policy_sdk::Domain {
        name: d.name.clone(),
        unit: policy_sdk::FreqUnit::Khz,
        cpus: d.cpus.clone(),
        opps: d
            .opps
            .iter()
            .map(|o| policy_sdk::Opp { freq: o.freq.raw, power_mw: o.power.map(|p| p.0) })
            .collect(),
        transition_latency_ns: d.transition_latency.0,
    };
    policy_sdk::Board {
        name: board.name.clone(),
        period_ns: 10_000_000,
        domains: board.domains.iter().map(domain).collect(),
        signals: Vec::new(),
    }
}

fn sdk_slo(slo: &tandem::policy::Slo) -> policy_sdk::Slo {
    policy_sdk::Slo {
        latency_ns: slo.latency.map(|n| n.0),
        top1: slo.top1.map(|t| t.0),
        ..policy_sdk::Slo::default()
    }
}

fn sdk_description(app: &tandem::policy::App) -> policy_sdk::App {
    let subnet = |s: &tandem::policy::Subnet| policy_sdk::Subnet {
        name: s.name.clone(),
        top1: s.top1.0,
        macs: s.macs,
        measured: Vec::new(),
    };
    policy_sdk::App {
        name: app.name.clone(),
        subnets: app.subnets.iter().map(subnet).collect(),
        threads_max: app.threads_max,
        target: sdk_slo(&app.target),
    }
}

fn file(name: &str) -> PathBuf {
    let folder = std::env::var_os("POLICIES").map_or_else(|| "../target/policies".into(), PathBuf::from);
    folder.join(name)
}

fn measure(engine: &WasmEngine, apps: u16, rows: &mut Vec<String>) {
    let period = Nanos::from_ms(10);
    let (board, described) = (guests::board(), guests::apps(apps));
    let limits = WasmLimits::default();
    let mut allocator =
        WasmAllocator::load(engine, &file("tandem-allocator.wasm"), limits).expect("the component");
    allocator.start(&board, period, &[], &described, &[]).expect("starts");
    let mut tuner = WasmTuner::load(engine, &file("tandem-tuner.wasm"), limits).expect("the component");
    tuner.start(&board, period, &described[0], &[]).expect("starts");

    let sdk_apps: Vec<_> = described.iter().map(sdk_description).collect();
    let mut native_allocator = policy_sdk::start_allocator::<tandem_allocator::TandemAllocator>(
        &sdk_board(&board),
        &sdk_apps,
        Vec::new(),
    )
    .expect("starts");
    let mut native_tuner =
        policy_sdk::start_tuner::<tandem_tuner::TandemTuner>(&sdk_board(&board), &sdk_apps[0], Vec::new())
            .expect("starts");

    let mut seen = guests::snapshot(1, apps);
    let mut sdk_seen = sdk_snapshot(&seen);
    let grant = guests::full_grant(0);
    let mut sdk_view = policy_sdk::View {
        tick: 1,
        at_ns: seen.at.0,
        window_ns: seen.window.0,
        app: sdk_seen.apps[0].clone(),
        domain: sdk_seen.domains[0],
        other: sdk_seen.other,
        grant: policy_sdk::Grant {
            domain: 0,
            cores: 0,
            weight: 100,
            power_mw: None,
            target: sdk_slo(&grant.target),
        },
    };

    let mut out = Allocation::default();
    let [mut wasm, mut native, mut tuner_wasm, mut tuner_native, mut arm] =
        std::array::from_fn(|_| Series::default());
    // Both sides see the same ticks in the same order.
    let [mut a, mut b, mut c, mut d] = [0_u64; 4];
    for _ in 0..ROUNDS {
        native.time(|| {
            a += 1;
            (sdk_seen.tick, sdk_seen.at_ns) = (a, a * 10_000_000);
            std::hint::black_box(native_allocator.decide(std::hint::black_box(&sdk_seen)));
        });
        engine.armed(|| {
            wasm.time(|| {
                b += 1;
                (seen.tick, seen.at) = (b, Nanos(b * 10_000_000));
                allocator.decide(std::hint::black_box(&seen), &mut out).expect("an answer");
            });
        });
        tuner_native.time(|| {
            c += 1;
            (sdk_view.tick, sdk_view.at_ns) = (c, c * 10_000_000);
            std::hint::black_box(native_tuner.decide(std::hint::black_box(&sdk_view)));
        });
        engine.armed(|| {
            tuner_wasm.time(|| {
                d += 1;
                let view = View {
                    tick: d,
                    at: Nanos(d * 10_000_000),
                    window: seen.window,
                    app: &seen.apps[0],
                    domain: &seen.domains[0],
                    other: &seen.other,
                    grant: &grant,
                };
                std::hint::black_box(tuner.decide(std::hint::black_box(&view)).expect("an answer"));
            });
        });
    }
    // One arming per quantum at most touches the timer; so each is given time to be a fresh one.
    for _ in 0..ROUNDS / 4 {
        std::thread::sleep(std::time::Duration::from_millis(2));
        let start = Instant::now();
        engine.armed(|| std::hint::black_box(()));
        arm.0.push(start.elapsed().as_secs_f64() * 1e9);
    }
    for (name, series) in [
        ("allocator/native", &mut native),
        ("allocator/wasm", &mut wasm),
        ("tuner/native", &mut tuner_native),
        ("tuner/wasm", &mut tuner_wasm),
        ("arm", &mut arm),
    ] {
        rows.push(series.row(&format!("wasm-call/{name}/8cpus-{apps}apps")));
    }
}

fn main() {
    let engine = WasmEngine::new().expect("wasmtime runs here");
    let mut rows = Vec::new();
    for apps in [1, 4] {
        measure(&engine, apps, &mut rows);
    }
    println!("[\n  {}\n]", rows.join(",\n  "));
}
