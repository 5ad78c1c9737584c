//! Each record is lowered by wasmtime's derived code and by ours into the same guest, which returns
//! what it finds in its memory.

use super::*;
use crate::policy;
use crate::policy::wasm::wire::Slo;
use crate::snapshot as ours;
use crate::units::{AppSlot, CentiPercent, DomainId, Milliwatts, Nanos, OppIndex, SubnetIndex, Util};
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
    record!(OtherSample of super::OtherSample {
        run_ns: Option<u64>, "run-ns";
        runq_delay_ns: Option<u64>, "runq-delay-ns";
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

    impl From<&super::AppSample<'_>> for AppSample {
        fn from(p: &super::AppSample<'_>) -> Self {
            Self {
                subnet: p.subnet,
                run_ns: p.run_ns,
                runq_delay_ns: p.runq_delay_ns,
                queue: p.queue,
                in_flight_ns: p.in_flight_ns,
                arrived: p.arrived,
                dropped: p.dropped,
                finished: p.finished.items.iter().map(|d| Done::from(&super::Done::from(d))).collect(),
                finished_more: p.finished_more,
            }
        }
    }

    #[derive(ComponentType, Lower, Clone)]
    #[component(record)]
    pub struct View {
        tick: u64,
        #[component(name = "at-ns")]
        at_ns: u64,
        #[component(name = "window-ns")]
        window_ns: u64,
        app: AppSample,
        domain: DomainSample,
        other: OtherSample,
        grant: Grant,
    }

    impl From<&super::View<'_>> for View {
        fn from(v: &super::View<'_>) -> Self {
            Self {
                tick: v.tick,
                at_ns: v.at_ns,
                window_ns: v.window_ns,
                app: (&v.app).into(),
                domain: (&v.domain).into(),
                other: (&v.other).into(),
                grant: (&v.grant).into(),
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

fn seen<L: Lower>(component: &[u8], what: L) -> Vec<u8> {
    let engine = Engine::default();
    let component = Component::new(&engine, component).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, &component).unwrap();
    let see = instance.get_typed_func::<(L,), (Vec<u8>,)>(&mut store, "see").unwrap();
    see.call(&mut store, (what,)).unwrap().0
}

/// Samples `O` as records `R` against the derived `D`.
#[track_caller]
fn same<'a, O, R, D>(record: &str, what: &'a [O])
where
    O: Send + Sync,
    R: Packed + From<&'a O>,
    D: Lower + for<'r> From<&'r R>,
{
    let component = echo(record);
    let derived: Vec<D> = what.iter().map(|sample| D::from(&R::from(sample))).collect();
    let expected = seen(&component, derived);
    assert!(expected.len() >= D::SIZE32 * what.len());
    assert!(expected.iter().filter(|byte| **byte != 0).count() > what.len(), "there is something to compare");
    assert_eq!(seen(&component, List::<O, R>::new(what)), expected, "{record}");
}

/// Numbers that differ in every byte.
const N16: u16 = 0x1223;
const N32: u32 = 0x3445_5667;
const N64: u64 = 0x7889_9aab_bccd_dee1;

fn done() -> ours::Done {
    ours::Done {
        subnet: SubnetIndex(N16),
        seq: N64,
        latency: Nanos(N64 + 1),
        service: Nanos(N64 + 2),
        confidence: N16 + 1,
    }
}

fn app() -> ours::AppSample {
    ours::AppSample {
        slot: AppSlot(0),
        subnet: Some(SubnetIndex(N16)),
        run: Some(Nanos(N64)),
        runq_delay: None,
        queue: N32,
        in_flight: Some(Nanos(N64 + 1)),
        arrived: N32 + 1,
        dropped: N32 + 2,
        done: vec![done(); 3],
        done_more: N32 + 3,
    }
}

#[test]
fn every_sample_is_lowered_as_the_derived_code_does() {
    let cpu = ours::CpuSample {
        busy: Some(Util(N16)),
        switches: Some(N32),
        wakeups: Some(N32 + 1),
        migrations: Some(N32 + 2),
        runq_delay: Some(Nanos(N64)),
        idle: Some(Nanos(N64 + 1)),
    };
    let blind = ours::CpuSample { busy: None, switches: None, wakeups: None, runq_delay: None, ..cpu };
    same::<_, CpuSample, derived::CpuSample>("cpu-sample", &[cpu, blind, cpu]);

    let domain = ours::DomainSample {
        opp: Some(OppIndex(N16)),
        util: Some(Util(N16 + 1)),
        cap: None,
        power: Some(Milliwatts(N32)),
        modelled: None,
        transitions: Some(N32 + 1),
    };
    let capped = ours::DomainSample { opp: None, cap: Some(OppIndex(N16 + 2)), power: None, ..domain };
    same::<_, DomainSample, derived::DomainSample>("domain-sample", &[domain, capped, domain]);

    let signal = ours::SignalSample { value: Some(-3), age: Nanos(N64) };
    let dead = ours::SignalSample { value: None, ..signal };
    same::<_, SignalSample, derived::SignalSample>("signal-sample", &[signal, dead]);

    let other = ours::OtherSample { run: Some(Nanos(N64)), runq_delay: None };
    same::<_, OtherSample, derived::OtherSample>("other-sample", &[other, other]);

    let grant = policy::Grant {
        domain: DomainId(N16),
        cores: 0x77,
        weight: N16 + 1,
        power: Some(Milliwatts(N32)),
        target: policy::Slo {
            latency: Some(Nanos(N64)),
            top1: Some(CentiPercent(N16 + 2)),
            power: Some(Milliwatts(N32 + 1)),
            objective: policy::Objective::Latency,
        },
    };
    let free = policy::Grant { power: None, target: policy::Slo::default(), ..grant };
    same::<_, Grant, derived::Grant>("grant", &[grant, free, grant]);

    same::<_, Done, derived::Done>("done", &[done(), ours::Done { subnet: SubnetIndex(1), ..done() }]);

    let slow = ours::AppSample { done: vec![done()], subnet: None, ..app() };
    let apps = [app(), slow, app()];
    same::<_, AppSample<'_>, derived::AppSample>("app-sample", &apps);

    let view = |app, grant| policy::View {
        tick: N64,
        at: Nanos(N64 + 1),
        window: Nanos(N64 + 2),
        app,
        domain: &domain,
        other: &other,
        grant,
    };
    let views = [view(&apps[0], &grant), view(&apps[1], &free)];
    same::<_, View<'_>, derived::View>("view", &views);
}

#[test]
fn an_empty_list_asks_the_guest_for_no_room() {
    let idle = ours::AppSample { done: Vec::new(), ..app() };
    let component = echo("app-sample");
    let one = seen(&component, List::<_, AppSample<'_>>::new(&[idle]));
    assert_eq!(one.len(), AppSample::SIZE32, "the record alone");
    assert_eq!(one[76..80], [0; 4], "the length of `finished`");
    assert!(seen(&component, List::<_, AppSample<'_>>::new(&[])).is_empty());
}
