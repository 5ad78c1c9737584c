//! Small guests in WebAssembly text, made into components with the real WIT: no compiler is needed, and
//! they can be as hostile as no compiler would make them.
//!
//! Memory: 64 `start`'s result, 128 `decide`'s result, from 256 orders, from 512 grants, from 4096 what the
//! host lowers (the room is reused in each call).
#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::PathBuf;
use tandem::board::{Board, BoardLimits, Domain, DomainKind, Opp};
use tandem::policy::{App, Grant, Slo, Subnet};
use tandem::profile::Measured;
use tandem::snapshot::{AppSample, CpuSample, Done, OtherSample, Snapshot};
use tandem::units::{
    AppSlot, CentiPercent, DomainId, Freq, FreqUnit, Milliwatts, Nanos, OppIndex, SubnetIndex, Util,
};

const WIT: &str = include_str!("../../../policies/wit/policy.wit");

/// The parts of a guest that differ.
#[derive(Clone, Debug)]
pub struct Guest {
    pub world: &'static str,
    /// Statements; the result's place is given back afterwards.
    pub start: String,
    pub decide: String,
    /// Statements of `limits`.
    pub limits: String,
    /// Orders, grants, the results: `(address, bytes)`.
    pub data: Vec<(u32, Vec<u8>)>,
    /// Replaced in the WIT before the component is made.
    pub wit: Vec<(&'static str, &'static str)>,
    /// Imports and functions besides.
    pub more: String,
}

pub fn order(ask: Option<u16>, cap: Option<u16>) -> Vec<u8> {
    let option = |o: Option<u16>| {
        let [lo, hi] = o.unwrap_or(0).to_le_bytes();
        [u8::from(o.is_some()), 0, lo, hi]
    };
    [option(ask), option(cap)].concat()
}

pub fn grant(domain: u16, cores: u8, weight: u16) -> Vec<u8> {
    let mut bytes = vec![0; 56];
    bytes[0] = 1;
    bytes[8..10].copy_from_slice(&domain.to_le_bytes());
    bytes[10] = cores;
    bytes[12..14].copy_from_slice(&weight.to_le_bytes());
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

impl Guest {
    /// Answers `domains` orders of OPP 1 and `apps` grants on domain 0.
    pub fn allocator(domains: u32, apps: u32) -> Self {
        Self {
            world: "allocator",
            start: String::new(),
            decide: String::new(),
            limits: String::new(),
            data: vec![
                (128, words(&[256, domains, 512, apps])),
                (256, order(Some(1), None).repeat(domains as usize)),
                (512, grant(0, 0, 100).repeat(apps as usize)),
            ],
            wit: Vec::new(),
            more: String::new(),
        }
    }

    /// Answers that choice.
    pub fn tuner(subnet: u16, threads: u8, ask: Option<u16>) -> Self {
        let [lo, hi] = subnet.to_le_bytes();
        let [ask_lo, ask_hi] = ask.unwrap_or(0).to_le_bytes();
        let choice = vec![lo, hi, threads, 0, u8::from(ask.is_some()), 0, ask_lo, ask_hi, 0, 0];
        Self { world: "tuner", data: vec![(128, choice)], ..Self::allocator(0, 0) }
    }

    pub fn start(self, body: &str) -> Self {
        Self { start: body.into(), ..self }
    }

    pub fn decide(self, body: &str) -> Self {
        Self { decide: body.into(), ..self }
    }

    pub fn limits(self, body: &str) -> Self {
        Self { limits: body.into(), ..self }
    }

    pub fn data(mut self, address: u32, bytes: &[u8]) -> Self {
        self.data.push((address, bytes.to_vec()));
        self
    }

    pub fn wit(mut self, from: &'static str, to: &'static str) -> Self {
        assert!(WIT.contains(from), "{from:?} is not in the WIT");
        self.wit.push((from, to));
        self
    }

    pub fn more(self, text: &str) -> Self {
        Self { more: text.into(), ..self }
    }

    pub fn core(&self) -> Vec<u8> {
        let Self { start, decide, limits, more, .. } = self;
        let (start_args, decide_args, apps) = match self.world {
            "allocator" => (
                "(param i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32)",
                "(param i64 i64 i64 i32 i32 i32 i32 i32 i32 i32 i64 i32 i64 i32 i32)",
                r#"(func (export "apps") (param i32 i32) (global.set $next (i32.const 4096)))"#,
            ),
            _ => (
                "(param i32)",
                "(param i32)",
                r#"(func (export "app") (param i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32 i32)
                    (global.set $next (i32.const 4096)))"#,
            ),
        };
        let mut data = String::new();
        for (address, bytes) in &self.data {
            let hex: String = bytes.iter().map(|b| format!("\\{b:02x}")).collect();
            data += &format!("(data (i32.const {address}) \"{hex}\")\n");
        }
        let text = format!(
            r#"(module
              {more}
              (memory (export "memory") 4)
              (global $next (mut i32) (i32.const 4096))
              (global $calls (mut i32) (i32.const 0))
              {data}
              (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local i32)
                (local.tee 4 (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                (global.set $next (i32.add (local.get 4) (local.get 3))))
              (func (export "start") {start_args} (result i32)
                (global.set $next (i32.const 4096)) {start} (i32.const 64))
              {apps}
              (func (export "limits") (param i32 i32) (global.set $next (i32.const 4096)) {limits})
              (func (export "decide") {decide_args} (result i32)
                (global.set $next (i32.const 4096))
                (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
                {decide}
                (i32.const 128)))"#
        );
        wat::parse_str(text).expect("the fixture's text")
    }

    pub fn component(&self) -> Vec<u8> {
        let wit = self.wit.iter().fold(WIT.to_owned(), |wit, (from, to)| wit.replace(from, to));
        let mut resolve = wit_parser::Resolve::default();
        resolve
            .push_str(
                "clocks.wit",
                "package wasi:clocks@0.2.0; interface monotonic-clock { now: func() -> u64; }",
            )
            .expect("a WASI interface, for those who ask for one");
        let package = resolve.push_str("policy.wit", &wit).expect("the fixture's WIT");
        let world = resolve.select_world(&[package], Some(self.world)).expect("the world");
        let mut module = self.core();
        wit_component::embed_component_metadata(
            &mut module,
            &resolve,
            world,
            wit_component::StringEncoding::UTF8,
        )
        .expect("metadata");
        wit_component::ComponentEncoder::default()
            .module(&module)
            .expect("module")
            .encode()
            .expect("component")
    }

    /// Writes the component to a folder.
    pub fn file(&self, dir: &tempfile::TempDir, name: &str) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, self.component()).unwrap();
        path
    }
}

fn domain(name: &str, cpus: &[u32], opps: &[u64]) -> Domain {
    let opp = |&raw: &u64| Opp {
        freq: Freq { raw, unit: FreqUnit::Khz },
        volt: None,
        power: Some(Milliwatts(u32::try_from(raw / 1000).unwrap())),
    };
    Domain {
        name: name.into(),
        kind: DomainKind::Cpufreq { policy: cpus[0] },
        cpus: cpus.to_vec(),
        opps: opps.iter().map(opp).collect(),
        transition_latency: Nanos(10_000),
    }
}

/// Two domains, `little` with CPUs 0..4 and three OPPs, `big` with CPUs 4..8 and four.
pub fn board() -> Board {
    Board {
        name: "two-clusters".into(),
        domains: vec![
            domain("little", &[0, 1, 2, 3], &[500_000, 1_000_000, 1_500_000]),
            domain("big", &[4, 5, 6, 7], &[600_000, 1_200_000, 1_800_000, 2_400_000]),
        ],
        limits: BoardLimits { temp_max: None, min_dwell: Nanos::from_ms(10) },
    }
}

/// An application with two sub-networks and at most four threads.
pub fn app(slot: u16) -> App {
    let measured = |opp| Measured {
        domain: DomainId(1),
        opp: OppIndex(opp),
        threads: 1,
        p50: Nanos(1_000_000),
        p90: Nanos(2_000_000),
    };
    let subnet = |name: &str, top1, macs| Subnet {
        name: name.into(),
        top1: CentiPercent(top1),
        macs,
        measured: (0..3).map(measured).collect(),
    };
    App {
        slot: AppSlot(slot),
        name: format!("app{slot}"),
        subnets: vec![subnet("half", 8_000, 500_000), subnet("full", 9_000, 2_000_000)],
        threads_max: 4,
        target: Slo { latency: Some(Nanos::from_ms(25)), top1: Some(CentiPercent(8_000)), ..Slo::default() },
    }
}

pub fn apps(count: u16) -> Vec<App> {
    (0..count).map(app).collect()
}

/// A tick of [`board`] with 8 CPUs in which each application finished one inference.
pub fn snapshot(tick: u64, apps: u16) -> Snapshot {
    let mut seen = Snapshot::new(8, 2, 0);
    seen.tick = tick;
    seen.at = Nanos(tick * 10_000_000);
    seen.window = Nanos::from_ms(10);
    for (cpu, sample) in (0..).zip(&mut seen.cpus) {
        *sample = CpuSample {
            busy: Some(Util(100 * cpu)),
            switches: Some(100),
            wakeups: Some(90),
            migrations: Some(2),
            runq_delay: Some(Nanos(50_000)),
            idle: Some(Nanos(5_000_000)),
        };
    }
    for (domain, sample) in (0..).zip(&mut seen.domains) {
        sample.opp = Some(OppIndex(domain));
        sample.util = Some(Util(700));
    }
    for slot in 0..apps {
        let mut sample = AppSample::new(AppSlot(slot));
        sample.subnet = Some(SubnetIndex(1));
        sample.run = Some(Nanos::from_ms(8));
        sample.queue = 1;
        sample.arrived = 1;
        sample.done.push(Done {
            subnet: SubnetIndex(1),
            seq: tick,
            latency: Nanos::from_ms(21),
            service: Nanos::from_ms(20),
            confidence: 900,
        });
        seen.apps.push(sample);
    }
    seen.other = OtherSample { run: Some(Nanos::from_ms(3)), runq_delay: None };
    seen
}

pub fn full_grant(domain: u16) -> Grant {
    Grant {
        domain: DomainId(domain),
        cores: 0,
        weight: 100,
        power: None,
        target: Slo { latency: Some(Nanos::from_ms(25)), ..Slo::default() },
    }
}
