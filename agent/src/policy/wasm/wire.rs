//! `policies/wit/policy.wit` as Rust types, and ours turned into them.
//!
//! wasmtime compares these types with a component's at load, so one that drifts from the WIT is refused,
//! not misread. What a `decide` sees ([`Snapshot`], [`View`]) borrows our samples; they are converted
//! while they are written into the guest's memory (`lower.rs`).

use super::lift::{Kept, KeptList};
use super::lower::List;
use crate::board;
use crate::policy::{self, Limits};
use crate::profile;
use crate::snapshot as ours;
use crate::units::{self, CentiPercent, DomainId, Milliwatts, Nanos, OppIndex, SubnetIndex};
use std::cell::RefCell;
use std::thread::LocalKey;
use wasmtime::component::{ComponentType, Lift, Lower};

/// Domains a board may have, as far as policies are concerned.
pub const MAX_DOMAINS: usize = 16;

#[derive(ComponentType, Lower, Clone, Copy, Debug)]
#[component(enum)]
#[repr(u8)]
pub enum Source {
    #[component(name = "measured")]
    Measured,
    #[component(name = "modelled")]
    Modelled,
}

#[derive(ComponentType, Lower, Clone, Copy, Debug)]
#[component(enum)]
#[repr(u8)]
pub enum FreqUnit {
    #[component(name = "khz")]
    Khz,
    #[component(name = "hz")]
    Hz,
    #[component(name = "permille")]
    Permille,
}

#[derive(ComponentType, Lift, Clone, Copy, Debug)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "wasmtime makes them from the guest's number")]
pub enum Level {
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
}

#[derive(ComponentType, Lower, Clone, Copy, Debug)]
#[component(record)]
pub struct Opp {
    freq: u64,
    #[component(name = "power-mw")]
    power_mw: Option<u32>,
}

#[derive(ComponentType, Lower, Clone, Debug)]
#[component(record)]
pub struct Domain<'a> {
    name: &'a str,
    unit: FreqUnit,
    cpus: &'a [u32],
    opps: Vec<Opp>,
    #[component(name = "transition-latency-ns")]
    transition_latency_ns: u64,
}

#[derive(ComponentType, Lower, Clone, Debug)]
#[component(record)]
pub struct Signal<'a> {
    name: &'a str,
    unit: &'a str,
    source: Source,
}

#[derive(ComponentType, Lower, Clone, Debug)]
#[component(record)]
pub struct Board<'a> {
    name: &'a str,
    #[component(name = "period-ns")]
    period_ns: u64,
    domains: Vec<Domain<'a>>,
    signals: Vec<Signal<'a>>,
}

#[derive(ComponentType, Lower, Lift, Clone, Copy, Debug, Default)]
#[component(record)]
pub struct Slo {
    #[component(name = "latency-ns")]
    pub latency_ns: Option<u64>,
    pub top1: Option<u16>,
    #[component(name = "power-mw")]
    pub power_mw: Option<u32>,
    pub objective: Objective,
}

#[derive(ComponentType, Lower, Lift, Clone, Copy, Debug, Default)]
#[component(enum)]
#[repr(u8)]
pub enum Objective {
    #[default]
    #[component(name = "accuracy")]
    Accuracy,
    #[component(name = "energy")]
    Energy,
    #[component(name = "latency")]
    Latency,
}

#[derive(ComponentType, Lift, Clone, Copy, Debug)]
#[component(enum)]
#[repr(u8)]
pub enum Binds {
    #[component(name = "nothing")]
    Nothing,
    #[component(name = "latency")]
    Latency,
    #[component(name = "top1")]
    Top1,
    #[component(name = "power")]
    Power,
    #[component(name = "cap")]
    Cap,
    #[component(name = "co-runner")]
    CoRunner,
    #[component(name = "infeasible")]
    Infeasible,
}

#[derive(ComponentType, Lower, Clone, Debug)]
#[component(record)]
pub struct Subnet<'a> {
    name: &'a str,
    top1: u16,
    macs: u64,
    measured: Vec<Measured>,
}

#[derive(ComponentType, Lower, Clone, Copy, Debug)]
#[component(record)]
pub struct Measured {
    domain: u16,
    opp: u16,
    threads: u8,
    #[component(name = "p50-ns")]
    p50_ns: u64,
    #[component(name = "p90-ns")]
    p90_ns: u64,
}

#[derive(ComponentType, Lower, Clone, Debug)]
#[component(record)]
pub struct App<'a> {
    name: &'a str,
    subnets: Vec<Subnet<'a>>,
    #[component(name = "threads-max")]
    threads_max: u8,
    target: Slo,
}

#[derive(ComponentType, Lower, Clone, Copy, Debug)]
#[component(record)]
pub struct OppRange {
    lo: u16,
    hi: u16,
}

#[derive(ComponentType, Lower, Clone, Debug)]
#[component(record)]
pub struct Param<'a> {
    key: &'a str,
    value: &'a str,
}

#[derive(ComponentType, Clone, Copy, Debug)]
#[component(record)]
pub struct CpuSample {
    pub busy: Option<u16>,
    pub switches: Option<u32>,
    pub wakeups: Option<u32>,
    pub migrations: Option<u32>,
    #[component(name = "runq-delay-ns")]
    pub runq_delay_ns: Option<u64>,
    #[component(name = "idle-ns")]
    pub idle_ns: Option<u64>,
}

#[derive(ComponentType, Clone, Copy, Debug, Default)]
#[component(record)]
pub struct DomainSample {
    pub opp: Option<u16>,
    pub util: Option<u16>,
    pub cap: Option<u16>,
    #[component(name = "power-mw")]
    pub power_mw: Option<u32>,
    pub transitions: Option<u32>,
}

#[derive(ComponentType, Clone, Copy, Debug)]
#[component(record)]
pub struct Done {
    pub subnet: u16,
    pub seq: u64,
    #[component(name = "latency-ns")]
    pub latency_ns: u64,
    #[component(name = "service-ns")]
    pub service_ns: u64,
    pub confidence: u16,
}

#[derive(ComponentType, Clone, Copy, Debug)]
#[component(record)]
pub struct AppSample<'a> {
    pub subnet: Option<u16>,
    #[component(name = "run-ns")]
    pub run_ns: Option<u64>,
    #[component(name = "runq-delay-ns")]
    pub runq_delay_ns: Option<u64>,
    pub queue: u32,
    #[component(name = "in-flight-ns")]
    pub in_flight_ns: Option<u64>,
    pub arrived: u32,
    pub dropped: u32,
    pub finished: List<'a, ours::Done, Done>,
    #[component(name = "finished-more")]
    pub finished_more: u32,
}

#[derive(ComponentType, Lower, Clone, Copy, Debug)]
#[component(record)]
pub struct OtherSample {
    #[component(name = "run-ns")]
    pub run_ns: Option<u64>,
    #[component(name = "runq-delay-ns")]
    pub runq_delay_ns: Option<u64>,
}

#[derive(ComponentType, Clone, Copy, Debug)]
#[component(record)]
pub struct SignalSample {
    pub value: Option<i64>,
    #[component(name = "age-ns")]
    pub age_ns: u64,
}

/// What an allocator sees.
#[derive(ComponentType, Lower, Clone, Copy, Debug)]
#[component(record)]
pub struct Snapshot<'a> {
    tick: u64,
    #[component(name = "at-ns")]
    at_ns: u64,
    #[component(name = "window-ns")]
    window_ns: u64,
    cpus: List<'a, ours::CpuSample, CpuSample>,
    domains: List<'a, ours::DomainSample, DomainSample>,
    apps: List<'a, ours::AppSample, AppSample<'a>>,
    other: OtherSample,
    signals: List<'a, ours::SignalSample, SignalSample>,
}

#[derive(ComponentType, Lift, Clone, Copy, Debug, Default)]
#[component(record)]
pub struct Grant {
    pub domain: u16,
    pub cores: u8,
    pub weight: u16,
    #[component(name = "power-mw")]
    pub power_mw: Option<u32>,
    pub target: Slo,
}

#[derive(ComponentType, Lift, Clone, Copy, Debug, Default)]
#[component(record)]
pub struct DomainOrder {
    ask: Option<u16>,
    cap: Option<u16>,
}

#[derive(ComponentType, Lift, Debug)]
#[component(record)]
pub struct Allocation {
    pub domains: KeptList<DomainOrder>,
    pub grants: KeptList<Option<Grant>>,
}

thread_local! {
    static ORDERS: RefCell<Vec<DomainOrder>> = const { RefCell::new(Vec::new()) };
    static GRANTS: RefCell<Vec<Option<Grant>>> = const { RefCell::new(Vec::new()) };
}

impl Kept for DomainOrder {
    const MOST: usize = MAX_DOMAINS;
    fn buffer() -> &'static LocalKey<RefCell<Vec<Self>>> {
        &ORDERS
    }
}

impl Kept for Option<Grant> {
    const MOST: usize = channel::MAX_RUNNERS;
    fn buffer() -> &'static LocalKey<RefCell<Vec<Self>>> {
        &GRANTS
    }
}

/// What a tuner sees.
#[derive(ComponentType, Clone, Copy, Debug)]
#[component(record)]
pub struct View<'a> {
    pub tick: u64,
    #[component(name = "at-ns")]
    pub at_ns: u64,
    #[component(name = "window-ns")]
    pub window_ns: u64,
    pub app: AppSample<'a>,
    pub domain: DomainSample,
    pub other: OtherSample,
    pub grant: Grant,
}

#[derive(ComponentType, Lift, Clone, Copy, Debug)]
#[component(record)]
pub struct Choice {
    subnet: u16,
    threads: u8,
    ask: Option<u16>,
    binds: Option<Binds>,
}

impl From<units::Source> for Source {
    fn from(s: units::Source) -> Self {
        match s {
            units::Source::Measured => Self::Measured,
            units::Source::Modelled => Self::Modelled,
        }
    }
}

impl From<units::FreqUnit> for FreqUnit {
    fn from(u: units::FreqUnit) -> Self {
        match u {
            units::FreqUnit::Khz => Self::Khz,
            units::FreqUnit::Hz => Self::Hz,
            units::FreqUnit::Permille => Self::Permille,
        }
    }
}

impl<'a> Board<'a> {
    pub fn new(board: &'a board::Board, period: Nanos, signals: &'a [ours::Signal]) -> Self {
        let domain = |d: &'a board::Domain| Domain {
            name: &d.name,
            // One driver, one unit: the first OPP's is that of all.
            unit: d.opps.first().map_or(FreqUnit::Khz, |o| o.freq.unit.into()),
            cpus: &d.cpus,
            opps: d.opps.iter().map(|o| Opp { freq: o.freq.raw, power_mw: o.power.map(|p| p.0) }).collect(),
            transition_latency_ns: d.transition_latency.0,
        };
        let signal = |s: &'a ours::Signal| Signal { name: &s.name, unit: &s.unit, source: s.source.into() };
        Self {
            name: &board.name,
            period_ns: period.0,
            domains: board.domains.iter().map(domain).collect(),
            signals: signals.iter().map(signal).collect(),
        }
    }
}

impl<'a> App<'a> {
    pub fn new(app: &'a policy::App) -> Self {
        let measured = |m: &profile::Measured| Measured {
            domain: m.domain.0,
            opp: m.opp.0,
            threads: m.threads,
            p50_ns: m.p50.0,
            p90_ns: m.p90.0,
        };
        let subnet = |s: &'a policy::Subnet| Subnet {
            name: &s.name,
            top1: s.top1.0,
            macs: s.macs,
            measured: s.measured.iter().map(measured).collect(),
        };
        Self {
            name: &app.name,
            subnets: app.subnets.iter().map(subnet).collect(),
            threads_max: app.threads_max,
            target: app.target.into(),
        }
    }
}

pub fn params(of: &[policy::Param]) -> Vec<Param<'_>> {
    of.iter().map(|(key, value)| Param { key, value }).collect()
}

pub fn ranges(buffer: &mut Vec<OppRange>, limits: &Limits) {
    buffer.clear();
    buffer.extend(limits.opps.iter().map(|(lo, hi)| OppRange { lo: lo.0, hi: hi.0 }));
}

impl From<policy::Slo> for Slo {
    fn from(s: policy::Slo) -> Self {
        let objective = match s.objective {
            policy::Objective::Accuracy => Objective::Accuracy,
            policy::Objective::Energy => Objective::Energy,
            policy::Objective::Latency => Objective::Latency,
        };
        Self {
            latency_ns: s.latency.map(|l| l.0),
            top1: s.top1.map(|t| t.0),
            power_mw: s.power.map(|p| p.0),
            objective,
        }
    }
}

impl From<Slo> for policy::Slo {
    fn from(s: Slo) -> Self {
        let objective = match s.objective {
            Objective::Accuracy => policy::Objective::Accuracy,
            Objective::Energy => policy::Objective::Energy,
            Objective::Latency => policy::Objective::Latency,
        };
        Self {
            latency: s.latency_ns.map(Nanos),
            top1: s.top1.map(CentiPercent),
            power: s.power_mw.map(Milliwatts),
            objective,
        }
    }
}

impl From<&ours::CpuSample> for CpuSample {
    fn from(c: &ours::CpuSample) -> Self {
        Self {
            busy: c.busy.map(|u| u.0),
            switches: c.switches,
            wakeups: c.wakeups,
            migrations: c.migrations,
            runq_delay_ns: c.runq_delay.map(|n| n.0),
            idle_ns: c.idle.map(|n| n.0),
        }
    }
}

impl From<&ours::DomainSample> for DomainSample {
    fn from(d: &ours::DomainSample) -> Self {
        Self {
            opp: d.opp.map(|o| o.0),
            util: d.util.map(|u| u.0),
            cap: d.cap.map(|o| o.0),
            power_mw: d.power.map(|p| p.0),
            transitions: d.transitions,
        }
    }
}

impl From<&ours::Done> for Done {
    fn from(d: &ours::Done) -> Self {
        Self {
            subnet: d.subnet.0,
            seq: d.seq,
            latency_ns: d.latency.0,
            service_ns: d.service.0,
            confidence: d.confidence,
        }
    }
}

impl From<&ours::OtherSample> for OtherSample {
    fn from(o: &ours::OtherSample) -> Self {
        Self { run_ns: o.run.map(|n| n.0), runq_delay_ns: o.runq_delay.map(|n| n.0) }
    }
}

impl From<&ours::SignalSample> for SignalSample {
    fn from(s: &ours::SignalSample) -> Self {
        Self { value: s.value, age_ns: s.age.0 }
    }
}

impl From<&policy::Grant> for Grant {
    fn from(g: &policy::Grant) -> Self {
        Self {
            domain: g.domain.0,
            cores: g.cores,
            weight: g.weight,
            power_mw: g.power.map(|p| p.0),
            target: g.target.into(),
        }
    }
}

impl From<Grant> for policy::Grant {
    fn from(g: Grant) -> Self {
        Self {
            domain: DomainId(g.domain),
            cores: g.cores,
            weight: g.weight,
            power: g.power_mw.map(Milliwatts),
            target: g.target.into(),
        }
    }
}

impl From<DomainOrder> for policy::DomainOrder {
    fn from(o: DomainOrder) -> Self {
        Self { ask: o.ask.map(OppIndex), cap: o.cap.map(OppIndex) }
    }
}

impl From<Choice> for policy::AppChoice {
    fn from(c: Choice) -> Self {
        let binds = c.binds.map(|b| match b {
            Binds::Nothing => policy::Binds::Nothing,
            Binds::Latency => policy::Binds::Latency,
            Binds::Top1 => policy::Binds::Top1,
            Binds::Power => policy::Binds::Power,
            Binds::Cap => policy::Binds::Cap,
            Binds::CoRunner => policy::Binds::CoRunner,
            Binds::Infeasible => policy::Binds::Infeasible,
        });
        Self { subnet: SubnetIndex(c.subnet), threads: c.threads, ask: c.ask.map(OppIndex), binds }
    }
}

impl<'a> From<&'a ours::AppSample> for AppSample<'a> {
    fn from(a: &'a ours::AppSample) -> Self {
        Self {
            subnet: a.subnet.map(|s| s.0),
            run_ns: a.run.map(|n| n.0),
            runq_delay_ns: a.runq_delay.map(|n| n.0),
            queue: a.queue,
            in_flight_ns: a.in_flight.map(|n| n.0),
            arrived: a.arrived,
            dropped: a.dropped,
            finished: List::new(&a.done),
            finished_more: a.done_more,
        }
    }
}

impl<'a> From<&'a ours::Snapshot> for Snapshot<'a> {
    fn from(s: &'a ours::Snapshot) -> Self {
        Self {
            tick: s.tick,
            at_ns: s.at.0,
            window_ns: s.window.0,
            cpus: List::new(&s.cpus),
            domains: List::new(&s.domains),
            apps: List::new(&s.apps),
            other: (&s.other).into(),
            signals: List::new(&s.signals),
        }
    }
}

impl<'a> From<&policy::View<'a>> for View<'a> {
    fn from(v: &policy::View<'a>) -> Self {
        Self {
            tick: v.tick,
            at_ns: v.at.0,
            window_ns: v.window.0,
            app: v.app.into(),
            domain: v.domain.into(),
            other: v.other.into(),
            grant: v.grant.into(),
        }
    }
}
