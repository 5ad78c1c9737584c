//! Each record is lowered by wasmtime's derived code and by ours into the same guest, which returns
//! what it finds in its memory.

use super::*;
use crate::policy::wasm::wire::Slo;
use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Store};

/// The same records, with the derived `Lower`.
mod derived {
    use super::Slo;
    use wasmtime::component::{ComponentType, Lower};

    macro_rules! record {
        ($record:ident of $packed:ty { $($field:ident: $ty:ty, $name:literal;)* }) => {
            #[derive(ComponentType, Lower, Clone)]
            #[component(record)]
            pub struct $record { $(#[component(name = $name)] $field: $ty,)* }

            impl From<&$packed> for $record {
                fn from(p: &$packed) -> Self {
                    Self { $($field: p.$field.clone().into(),)* }
                }
            }
        };
    }

    record!(CpuSample of super::CpuSample {
        busy: Option<u16>, "busy";
        switches: Option<u32>, "switches";
        wakeups: Option<u32>, "wakeups";
        migrations: Option<u32>, "migrations";
        runq_delay_ns: Option<u64>, "runq-delay-ns";
        idle_ns: Option<u64>, "idle-ns";
    });
    record!(DomainSample of super::DomainSample {
        opp: Option<u16>, "opp";
        util: Option<u16>, "util";
        cap: Option<u16>, "cap";
        power_mw: Option<u32>, "power-mw";
        transitions: Option<u32>, "transitions";
    });
    record!(Done of super::Done {
        subnet: u16, "subnet";
        seq: u64, "seq";
        latency_ns: u64, "latency-ns";
        service_ns: u64, "service-ns";
        confidence: u16, "confidence";
    });
    record!(SignalSample of super::SignalSample {
        value: Option<i64>, "value";
        age_ns: u64, "age-ns";
    });
    record!(Grant of super::Grant {
        domain: u16, "domain";
        cores: u8, "cores";
        weight: u16, "weight";
        power_mw: Option<u32>, "power-mw";
        target: Slo, "target";
    });

    /// Its list as our records: `Done` is compared by itself.
    #[derive(ComponentType, Lower, Clone)]
    #[component(record)]
    pub struct AppSample {
        subnet: Option<u16>,
        #[component(name = "run-ns")]
        run_ns: Option<u64>,
        #[component(name = "runq-delay-ns")]
        runq_delay_ns: Option<u64>,
        queue: u32,
        #[component(name = "in-flight-ns")]
        in_flight_ns: Option<u64>,
        arrived: u32,
        dropped: u32,
        finished: Vec<Done>,
        #[component(name = "finished-more")]
        finished_more: u32,
    }

    impl From<&super::AppSample> for AppSample {
        fn from(p: &super::AppSample) -> Self {
            Self {
                subnet: p.subnet,
                run_ns: p.run_ns,
                runq_delay_ns: p.runq_delay_ns,
                queue: p.queue,
                in_flight_ns: p.in_flight_ns,
                arrived: p.arrived,
                dropped: p.dropped,
                finished: p.finished.iter().map(Done::from).collect(),
                finished_more: p.finished_more,
            }
        }
    }
}

/// A component with `see: func(list: list<RECORD>) -> list<u8>` that returns all that was lowered.
fn echo(record: &str) -> Vec<u8> {
    const FIRST: u32 = 4096;
    let contract = include_str!("../../../../policies/wit/policy.wit");
    let wit = format!(
        "{contract}\nworld echo {{ use types.{{{record}}}; export see: func(what: list<{record}>) -> list<u8>; }}"
    );
    let core = format!(
        r#"(module
          (memory (export "memory") 4)
          (global $next (mut i32) (i32.const {FIRST}))
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local i32)
            (local.tee 4 (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
            (global.set $next (i32.add (local.get 4) (local.get 3))))
          (func (export "see") (param i32 i32) (result i32)
            (i32.store (i32.const 64) (i32.const {FIRST}))
            (i32.store (i32.const 68) (i32.sub (global.get $next) (i32.const {FIRST})))
            (i32.const 64)))"#
    );
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_str("policy.wit", &wit).unwrap();
    let world = resolve.select_world(&[package], Some("echo")).unwrap();
    let mut module = wat::parse_str(core).unwrap();
    wit_component::embed_component_metadata(
        &mut module,
        &resolve,
        world,
        wit_component::StringEncoding::UTF8,
    )
    .unwrap();
    wit_component::ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

fn seen<R: Lower>(component: &[u8], what: &[R]) -> Vec<u8> {
    let engine = Engine::default();
    let component = Component::new(&engine, component).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, &component).unwrap();
    let see = instance.get_typed_func::<(&[R],), (Vec<u8>,)>(&mut store, "see").unwrap();
    see.call(&mut store, (what,)).unwrap().0
}

#[track_caller]
fn same<R: Lower, D: Lower + for<'a> From<&'a R>>(record: &str, what: &[R]) {
    let component = echo(record);
    let expected = seen(&component, &what.iter().map(D::from).collect::<Vec<_>>());
    assert!(expected.len() >= D::SIZE32 * what.len());
    assert!(expected.iter().filter(|byte| **byte != 0).count() > what.len(), "there is something to compare");
    assert_eq!(seen(&component, what), expected, "{record}");
}

/// Numbers that differ in every byte.
const N16: u16 = 0x1223;
const N32: u32 = 0x3445_5667;
const N64: u64 = 0x7889_9aab_bccd_dee1;

#[test]
fn every_sample_is_lowered_as_the_derived_code_does() {
    let cpu = CpuSample {
        busy: Some(N16),
        switches: Some(N32),
        wakeups: Some(N32 + 1),
        migrations: Some(N32 + 2),
        runq_delay_ns: Some(N64),
        idle_ns: Some(N64 + 1),
    };
    let blind = CpuSample { busy: None, switches: None, wakeups: None, runq_delay_ns: None, ..cpu };
    same::<CpuSample, derived::CpuSample>("cpu-sample", &[cpu, blind, cpu]);

    let domain = DomainSample {
        opp: Some(N16),
        util: Some(N16 + 1),
        cap: None,
        power_mw: Some(N32),
        transitions: Some(N32 + 1),
    };
    let capped = DomainSample { opp: None, cap: Some(N16 + 2), power_mw: None, ..domain };
    same::<DomainSample, derived::DomainSample>("domain-sample", &[domain, capped, domain]);

    let signal = SignalSample { value: Some(-3), age_ns: N64 };
    same::<SignalSample, derived::SignalSample>(
        "signal-sample",
        &[signal, SignalSample { value: None, ..signal }],
    );

    let grant = Grant {
        domain: N16,
        cores: 0x77,
        weight: N16 + 1,
        power_mw: Some(N32),
        target: Slo { latency_ns: Some(N64), top1: Some(N16 + 2) },
    };
    let free = Grant { power_mw: None, target: Slo::default(), ..grant };
    same::<Grant, derived::Grant>("grant", &[grant, free, grant]);

    let done = Done { subnet: N16, seq: N64, latency_ns: N64 + 1, service_ns: N64 + 2, confidence: N16 + 1 };
    same::<Done, derived::Done>("done", &[done, Done { subnet: 1, ..done }]);

    let app = AppSample {
        subnet: Some(N16),
        run_ns: Some(N64),
        runq_delay_ns: None,
        queue: N32,
        in_flight_ns: Some(N64 + 1),
        arrived: N32 + 1,
        dropped: N32 + 2,
        finished: vec![done; 3],
        finished_more: N32 + 3,
    };
    let silent = AppSample { finished: Vec::new(), subnet: None, ..app.clone() };
    same::<AppSample, derived::AppSample>("app-sample", &[app.clone(), silent, app]);
}
