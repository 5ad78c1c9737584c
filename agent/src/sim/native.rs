//! Policies of the tree, linked natively: the same crates that are built as Wasm, behind the agent's traits.
//!
//! Their types are the contract's; here they are filled from ours, field by field, as `policy/wasm` lowers
//! them into a guest. Buffers are kept from tick to tick.

use crate::board::Board;
use crate::policy::{
    Allocation, Allocator, App, AppChoice, Binds, DomainOrder, Grant, Limits, Objective, Param, PolicyError,
    Slo, Tuner, View,
};
use crate::snapshot::{
    AppSample, CpuSample, DomainSample, Done, OtherSample, Signal, SignalSample, Snapshot,
};
use crate::units::{CentiPercent, DomainId, FreqUnit, Milliwatts, Nanos, OppIndex, Source, SubnetIndex};
use policy_sdk as sdk;

/// Allocators by name.
pub const ALLOCATORS: [&str; 6] =
    ["conservative", "ondemand", "performance", "powersave", "schedutil", "tandem-allocator"];
/// Tuners by name.
pub const TUNERS: [&str; 5] = ["dynamic-ofa", "fixed", "loudva", "lrgd", "tandem-tuner"];

/// An allocator of that name, not started; `None`: no such.
pub fn allocator(name: &str) -> Option<Box<dyn Allocator>> {
    Some(match name {
        "conservative" => Box::new(Native::<conservative::Policy>::new("conservative")),
        "ondemand" => Box::new(Native::<ondemand::Policy>::new("ondemand")),
        "performance" => Box::new(Native::<performance::Performance>::new("performance")),
        "powersave" => Box::new(Native::<powersave::Powersave>::new("powersave")),
        "schedutil" => Box::new(Native::<schedutil::Policy>::new("schedutil")),
        "tandem-allocator" => Box::new(Native::<tandem_allocator::TandemAllocator>::new("tandem-allocator")),
        _ => return None,
    })
}

/// A tuner of that name, not started; `None`: no such.
pub fn tuner(name: &str) -> Option<Box<dyn Tuner>> {
    Some(match name {
        "dynamic-ofa" => Box::new(NativeTuner::<dynamic_ofa::DynamicOfa>::new("dynamic-ofa")),
        "fixed" => Box::new(NativeTuner::<fixed::Fixed>::new("fixed")),
        "loudva" => Box::new(NativeTuner::<loudva::LoudVa>::new("loudva")),
        "lrgd" => Box::new(NativeTuner::<lrgd::Lrgd>::new("lrgd")),
        "tandem-tuner" => Box::new(NativeTuner::<tandem_tuner::TandemTuner>::new("tandem-tuner")),
        _ => return None,
    })
}

/// An allocator of the SDK as one of ours.
pub struct Native<P> {
    name: &'static str,
    policy: Option<P>,
    seen: sdk::Snapshot,
    ranges: Vec<sdk::OppRange>,
}

/// A tuner of the SDK as one of ours.
pub struct NativeTuner<P> {
    name: &'static str,
    policy: Option<P>,
    seen: sdk::View,
    ranges: Vec<sdk::OppRange>,
}

impl<P> std::fmt::Debug for Native<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Native").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<P> std::fmt::Debug for NativeTuner<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NativeTuner").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<P> Native<P> {
    /// Not started.
    pub fn new(name: &'static str) -> Self {
        Self { name, policy: None, seen: sdk::Snapshot::default(), ranges: vec![] }
    }
}

impl<P> NativeTuner<P> {
    /// Not started.
    pub fn new(name: &'static str) -> Self {
        Self { name, policy: None, seen: sdk::View::default(), ranges: vec![] }
    }
}

fn refused(name: &str, reason: String) -> PolicyError {
    PolicyError::Refused { name: name.into(), verb: "start", reason }
}

fn not_started(name: &str) -> PolicyError {
    PolicyError::Invalid { name: name.into(), reason: "was not started".into() }
}

impl<P: sdk::Allocator + Send> Allocator for Native<P> {
    fn name(&self) -> &str {
        self.name
    }

    fn start(
        &mut self,
        board: &Board,
        period: Nanos,
        signals: &[Signal],
        apps: &[App],
        params: &[Param],
    ) -> Result<(), PolicyError> {
        let apps: Vec<_> = apps.iter().map(to_app).collect();
        let policy = sdk::start_allocator(&to_board(board, period, signals), &apps, to_params(params));
        self.policy = Some(policy.map_err(|reason| refused(self.name, reason))?);
        Ok(())
    }

    fn apps(&mut self, apps: &[App]) -> Result<(), PolicyError> {
        let apps: Vec<_> = apps.iter().map(to_app).collect();
        self.policy.as_mut().ok_or_else(|| not_started(self.name))?.apps(&apps);
        Ok(())
    }

    fn limits(&mut self, now: &Limits) -> Result<(), PolicyError> {
        to_ranges(&mut self.ranges, now);
        self.policy.as_mut().ok_or_else(|| not_started(self.name))?.limits(&self.ranges);
        Ok(())
    }

    fn decide(&mut self, seen: &Snapshot, out: &mut Allocation) -> Result<(), PolicyError> {
        to_snapshot(&mut self.seen, seen);
        let said = self.policy.as_mut().ok_or_else(|| not_started(self.name))?.decide(&self.seen);
        if said.domains.len() != seen.domains.len() || said.grants.len() != seen.apps.len() {
            let reason = format!("{} orders, {} grants", said.domains.len(), said.grants.len());
            return Err(PolicyError::Invalid { name: self.name.into(), reason });
        }
        let order = |o: &sdk::DomainOrder| DomainOrder { ask: o.ask.map(OppIndex), cap: o.cap.map(OppIndex) };
        out.domains.clear();
        out.domains.extend(said.domains.iter().map(order));
        out.grants.clear();
        out.grants.extend(said.grants.iter().map(|g| g.as_ref().map(from_grant)));
        Ok(())
    }
}

impl<P: sdk::Tuner + Send> Tuner for NativeTuner<P> {
    fn name(&self) -> &str {
        self.name
    }

    fn start(
        &mut self,
        board: &Board,
        period: Nanos,
        app: &App,
        params: &[Param],
    ) -> Result<(), PolicyError> {
        // As through the component: a tuner is told of no signals.
        let policy = sdk::start_tuner(&to_board(board, period, &[]), &to_app(app), to_params(params));
        self.policy = Some(policy.map_err(|reason| refused(self.name, reason))?);
        Ok(())
    }

    fn app(&mut self, app: &App) -> Result<(), PolicyError> {
        self.policy.as_mut().ok_or_else(|| not_started(self.name))?.app(&to_app(app));
        Ok(())
    }

    fn limits(&mut self, now: &Limits) -> Result<(), PolicyError> {
        to_ranges(&mut self.ranges, now);
        self.policy.as_mut().ok_or_else(|| not_started(self.name))?.limits(&self.ranges);
        Ok(())
    }

    fn decide(&mut self, seen: &View<'_>) -> Result<AppChoice, PolicyError> {
        let to = &mut self.seen;
        (to.tick, to.at_ns, to.window_ns) = (seen.tick, seen.at.0, seen.window.0);
        to_app_sample(&mut to.app, seen.app);
        to.domain = to_domain_sample(seen.domain);
        to.other = to_other(seen.other);
        to.grant = to_grant(seen.grant);
        let said = self.policy.as_mut().ok_or_else(|| not_started(self.name))?.decide(&self.seen);
        Ok(AppChoice {
            subnet: SubnetIndex(said.subnet),
            threads: said.threads,
            ask: said.ask.map(OppIndex),
            binds: said.binds.map(from_binds),
        })
    }
}

fn to_board(board: &Board, period: Nanos, signals: &[Signal]) -> sdk::Board {
    let unit = |u: FreqUnit| match u {
        FreqUnit::Khz => sdk::FreqUnit::Khz,
        FreqUnit::Hz => sdk::FreqUnit::Hz,
        FreqUnit::Permille => sdk::FreqUnit::Permille,
    };
    let domain = |d: &crate::board::Domain| sdk::Domain {
        name: d.name.clone(),
        unit: unit(d.opps[0].freq.unit),
        cpus: d.cpus.clone(),
        opps: d.opps.iter().map(|o| sdk::Opp { freq: o.freq.raw, power_mw: o.power.map(|p| p.0) }).collect(),
        transition_latency_ns: d.transition_latency.0,
    };
    let signal = |s: &Signal| sdk::Signal {
        name: s.name.clone(),
        unit: s.unit.clone(),
        source: match s.source {
            Source::Measured => sdk::Source::Measured,
            Source::Modelled => sdk::Source::Modelled,
        },
    };
    sdk::Board {
        name: board.name.clone(),
        period_ns: period.0,
        domains: board.domains.iter().map(domain).collect(),
        signals: signals.iter().map(signal).collect(),
    }
}

fn to_slo(slo: &Slo) -> sdk::Slo {
    let objective = match slo.objective {
        Objective::Accuracy => sdk::Objective::Accuracy,
        Objective::Energy => sdk::Objective::Energy,
        Objective::Latency => sdk::Objective::Latency,
    };
    sdk::Slo {
        latency_ns: slo.latency.map(|l| l.0),
        top1: slo.top1.map(|t| t.0),
        power_mw: slo.power.map(|p| p.0),
        objective,
    }
}

fn from_slo(slo: &sdk::Slo) -> Slo {
    let objective = match slo.objective {
        sdk::Objective::Accuracy => Objective::Accuracy,
        sdk::Objective::Energy => Objective::Energy,
        sdk::Objective::Latency => Objective::Latency,
    };
    Slo {
        latency: slo.latency_ns.map(Nanos),
        top1: slo.top1.map(CentiPercent),
        power: slo.power_mw.map(Milliwatts),
        objective,
    }
}

fn from_binds(binds: sdk::Binds) -> Binds {
    match binds {
        sdk::Binds::Nothing => Binds::Nothing,
        sdk::Binds::Latency => Binds::Latency,
        sdk::Binds::Top1 => Binds::Top1,
        sdk::Binds::Power => Binds::Power,
        sdk::Binds::Cap => Binds::Cap,
        sdk::Binds::CoRunner => Binds::CoRunner,
        sdk::Binds::Infeasible => Binds::Infeasible,
    }
}

fn to_app(app: &App) -> sdk::App {
    let measured = |m: &crate::profile::Measured| sdk::Measured {
        domain: m.domain.0,
        opp: m.opp.0,
        threads: m.threads,
        p50_ns: m.p50.0,
        p90_ns: m.p90.0,
    };
    let subnet = |s: &crate::policy::Subnet| sdk::Subnet {
        name: s.name.clone(),
        top1: s.top1.0,
        macs: s.macs,
        measured: s.measured.iter().map(measured).collect(),
    };
    sdk::App {
        name: app.name.clone(),
        subnets: app.subnets.iter().map(subnet).collect(),
        threads_max: app.threads_max,
        target: to_slo(&app.target),
    }
}

fn to_params(params: &[Param]) -> Vec<sdk::Param> {
    params.iter().map(|(key, value)| sdk::Param { key: key.clone(), value: value.clone() }).collect()
}

fn to_ranges(to: &mut Vec<sdk::OppRange>, limits: &Limits) {
    to.clear();
    to.extend(limits.opps.iter().map(|(lo, hi)| sdk::OppRange { lo: lo.0, hi: hi.0 }));
}

fn to_grant(g: &Grant) -> sdk::Grant {
    sdk::Grant {
        domain: g.domain.0,
        cores: g.cores,
        weight: g.weight,
        power_mw: g.power.map(|p| p.0),
        target: to_slo(&g.target),
    }
}

fn from_grant(g: &sdk::Grant) -> Grant {
    Grant {
        domain: DomainId(g.domain),
        cores: g.cores,
        weight: g.weight,
        power: g.power_mw.map(Milliwatts),
        target: from_slo(&g.target),
    }
}

fn to_snapshot(to: &mut sdk::Snapshot, seen: &Snapshot) {
    (to.tick, to.at_ns, to.window_ns) = (seen.tick, seen.at.0, seen.window.0);
    to.cpus.clear();
    to.cpus.extend(seen.cpus.iter().map(to_cpu_sample));
    to.domains.clear();
    to.domains.extend(seen.domains.iter().map(to_domain_sample));
    to.apps.resize_with(seen.apps.len(), sdk::AppSample::default);
    for (to, from) in to.apps.iter_mut().zip(&seen.apps) {
        to_app_sample(to, from);
    }
    to.other = to_other(&seen.other);
    let signal = |s: &SignalSample| sdk::SignalSample { value: s.value, age_ns: s.age.0 };
    to.signals.clear();
    to.signals.extend(seen.signals.iter().map(signal));
}

fn to_cpu_sample(c: &CpuSample) -> sdk::CpuSample {
    sdk::CpuSample {
        busy: c.busy.map(|u| u.0),
        switches: c.switches,
        wakeups: c.wakeups,
        migrations: c.migrations,
        runq_delay_ns: c.runq_delay.map(|n| n.0),
        idle_ns: c.idle.map(|n| n.0),
    }
}

fn to_domain_sample(d: &DomainSample) -> sdk::DomainSample {
    sdk::DomainSample {
        opp: d.opp.map(|o| o.0),
        util: d.util.map(|u| u.0),
        cap: d.cap.map(|o| o.0),
        power_mw: d.power.map(|p| p.0),
        transitions: d.transitions,
    }
}

fn to_app_sample(to: &mut sdk::AppSample, a: &AppSample) {
    let done = |d: &Done| sdk::Done {
        subnet: d.subnet.0,
        seq: d.seq,
        latency_ns: d.latency.0,
        service_ns: d.service.0,
        confidence: d.confidence,
    };
    to.subnet = a.subnet.map(|s| s.0);
    to.run_ns = a.run.map(|n| n.0);
    to.runq_delay_ns = a.runq_delay.map(|n| n.0);
    to.queue = a.queue;
    to.in_flight_ns = a.in_flight.map(|n| n.0);
    (to.arrived, to.dropped) = (a.arrived, a.dropped);
    to.finished.clear();
    to.finished.extend(a.done.iter().map(done));
    to.finished_more = a.done_more;
}

fn to_other(o: &OtherSample) -> sdk::OtherSample {
    sdk::OtherSample { run_ns: o.run.map(|n| n.0), runq_delay_ns: o.runq_delay.map(|n| n.0) }
}
