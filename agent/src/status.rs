//! What the agent says of itself: the document of `tandem status --json` and its form for people.
//!
//! It is built on request, between two ticks; a value that is not measured is `null`, never 0.

use crate::board::{Board, DomainKind};
use crate::envelope::{Clamp, Reason};
use crate::governor::Governor;
use crate::policy::Objective;
use crate::policy::slot::PolicyStatus as SlotStatus;
use crate::runners::Runner;
use crate::snapshot::{AppSample, Snapshot};
use crate::units::{CentiPercent, DomainId, Nanos, Source, SubnetIndex};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The whole document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The board's name.
    pub board: String,
    /// True: decides and reports, writes nothing.
    pub observe: bool,
    /// How the loop is scheduled: `SCHED_FIFO 1`, `nice -20`, `nice 0`.
    pub scheduling: String,
    /// The loop.
    pub ticks: Ticks,
    /// What senses: `eBPF` or `/proc`.
    pub sensing: String,
    /// What was lost against full sensing, and why.
    pub lost: Vec<String>,
    /// What serves.
    pub policy: PolicyStatus,
    /// Domains, as in the board.
    pub domains: Vec<DomainStatus>,
    /// Applications present.
    pub apps: Vec<AppStatus>,
    /// CPU time of everything else, thousandths of one CPU.
    pub others_permille: Option<u64>,
    /// Slow sensors.
    pub signals: Vec<SignalStatus>,
    /// The last thing that could not be set, if any.
    pub last_actuate_error: Option<String>,
    /// How saved settings were taken, where that needs saying.
    pub notes: Vec<String>,
}

/// The loop's book.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ticks {
    /// Length of a period, ms.
    pub period_ms: f64,
    /// Periodic ticks done.
    pub done: u64,
    /// Extra ticks, woken by a rare event.
    pub woken: u64,
    /// Periodic ticks that began more than one period late.
    pub missed: u64,
    /// Worst lateness, us.
    pub late_max_us: u64,
    /// Mean time of a tick's steps, us: sense, decide, admit, act and publish.
    pub steps_us: [f64; 4],
    /// Rare events lost because the ring was full.
    pub events_lost: u64,
}

/// What serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyStatus {
    /// The set's name.
    pub set: String,
    /// `starting`, `serving`, or `hold` after it failed.
    pub state: String,
    /// Why it failed.
    pub error: Option<String>,
    /// Swaps since start.
    pub swaps: u64,
}

/// One domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DomainStatus {
    /// Its name.
    pub name: String,
    /// `cpufreq`, `devfreq` or `cpu-bandwidth`.
    pub kind: String,
    /// Index of its OPP.
    pub opp: Option<u16>,
    /// The same for people: `1200 MHz`, `80 %`.
    pub freq: Option<String>,
    /// Number of OPPs.
    pub opps: u16,
    /// Utilisation, 0..=1024.
    pub util: Option<u16>,
    /// The highest OPP allowed from outside.
    pub cap: Option<u16>,
    /// Power, mW.
    pub power_mw: Option<u32>,
    /// The correction in force, if any.
    pub clamp: Option<String>,
}

/// One application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AppStatus {
    /// Its name.
    pub name: String,
    /// Its slot.
    pub slot: u16,
    /// Its runner's process.
    pub pid: u32,
    /// Target latency, ms.
    pub target_ms: Option<f64>,
    /// Accuracy floor, %.
    pub top1_floor: Option<f64>,
    /// Power budget, mW.
    #[serde(default)]
    pub power_budget_mw: Option<u32>,
    /// What it wants most.
    #[serde(default)]
    pub objective: Objective,
    /// The sub-network of the newest inference.
    pub subnet: Option<String>,
    /// Its accuracy by the manifest, %.
    pub subnet_top1: Option<f64>,
    /// Live accuracy over labelled images since the runner came, % (for people; no policy sees it).
    pub live_top1: Option<f64>,
    /// Latency over the newest inferences (up to 64), ms.
    pub p50_ms: Option<f64>,
    /// 95th percentile of the same.
    pub p95_ms: Option<f64>,
    /// Inferences finished since the runner came.
    pub done: u64,
    /// Inferences that arrived.
    pub arrived: u64,
    /// Inferences dropped by the runner.
    pub dropped: u64,
    /// Inferences over the target in force when they finished.
    pub violations: u64,
    /// Its sub-networks by rising cost: name, accuracy by the manifest in %, inferences so far.
    pub subnets: Vec<(String, f64, u64)>,
    /// What became of its profile: `40 points`, or why it was refused; `null` without one.
    pub profile: Option<String>,
    /// The domain it was given.
    #[serde(default)]
    pub domain: Option<String>,
    /// CPU share, cgroup v2 scale.
    pub weight: Option<u16>,
    /// What it was told to run.
    pub told_subnet: Option<String>,
    /// What binds, in its tuner's words ([`crate::policy::Binds`]); of a tuner that does not say, the agent's guess: `target`, `cap`,
    /// `clamp`, `co-runner`, `machine`.
    pub binds: String,
    /// CPU time of its threads, thousandths of one CPU.
    pub run_permille: Option<u64>,
    /// Time its threads waited on run queues, thousandths of one CPU.
    pub runq_permille: Option<u64>,
}

/// One slow sensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SignalStatus {
    /// Its name.
    pub name: String,
    /// In `unit`.
    pub value: Option<i64>,
    /// Its unit.
    pub unit: String,
    /// Where it comes from.
    pub source: Source,
    /// How old the reading is, ms.
    pub age_ms: u64,
}

/// What a status is made from.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The loop.
    pub governor: &'a Governor,
    /// The machine.
    pub board: &'a Board,
    /// The policies' place.
    pub policy: &'a SlotStatus,
    /// The loop's book; the times of its steps are filled in.
    pub ticks: Ticks,
    /// What sensing lost.
    pub lost: &'a [String],
    /// What the actuators say.
    pub notes: &'a [String],
    /// How the loop is scheduled.
    pub scheduling: &'a str,
}

/// The agent's state between two ticks.
pub fn of(parts: &Parts<'_>) -> Status {
    let Parts { governor, board, policy, mut ticks, .. } = *parts;
    let (seen, steps) = (governor.seen(), governor.steps());
    ticks.events_lost = seen.lost;
    ticks.steps_us = steps.sums.map(|sum| micros(sum, steps.count));
    let signals = governor.sense().signals().iter().zip(&seen.signals).map(|(signal, sample)| SignalStatus {
        name: signal.name.clone(),
        value: sample.value,
        unit: signal.unit.clone(),
        source: signal.source,
        age_ms: sample.age.0 / 1_000_000,
    });
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        board: board.name.clone(),
        observe: governor.observes(),
        scheduling: parts.scheduling.to_owned(),
        ticks,
        sensing: if governor.sense().by_bpf() { "eBPF".into() } else { "/proc".into() },
        lost: parts.lost.to_vec(),
        policy: PolicyStatus {
            set: policy.set_aside.clone().unwrap_or_else(|| policy.serving.clone()),
            state: match (&policy.set_aside, policy.swaps) {
                (Some(_), _) => "hold".into(),
                (None, 0) => "starting".into(),
                (None, _) => "serving".into(),
            },
            error: policy.set_aside.as_ref().and(policy.last_error.as_ref()).map(ToString::to_string),
            swaps: policy.swaps,
        },
        domains: (0u16..).zip(&board.domains).map(|(d, _)| domain(DomainId(d), governor, board)).collect(),
        apps: governor.runners().iter().zip(&seen.apps).map(|(r, s)| app(r, s, governor, board)).collect(),
        others_permille: seen.other.run.and_then(|run| permille(run, seen.window)),
        signals: signals.collect(),
        last_actuate_error: governor.last_error().map(str::to_owned),
        notes: parts.notes.to_vec(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn micros(sum_ns: u64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { sum_ns as f64 / count as f64 / 1000.0 }
}

fn clamp_on(domain: DomainId, governor: &Governor) -> Option<&Clamp> {
    governor.admitted().clamps().iter().find(|c| c.domain == domain)
}

fn domain(id: DomainId, governor: &Governor, board: &Board) -> DomainStatus {
    let domain = &board.domains[usize::from(id.0)];
    let sample = governor.seen().domains.get(usize::from(id.0)).copied().unwrap_or_default();
    let freq = sample.opp.and_then(|o| domain.opps.get(usize::from(o.0))).map(|o| o.freq.to_string());
    DomainStatus {
        name: domain.name.clone(),
        kind: match domain.kind {
            DomainKind::Cpufreq { .. } => "cpufreq".into(),
            DomainKind::Devfreq { .. } => "devfreq".into(),
            DomainKind::CpuBandwidth => "cpu-bandwidth".into(),
        },
        opp: sample.opp.map(|o| o.0),
        freq,
        opps: domain.top().0 + 1,
        util: sample.util.map(|u| u.0),
        cap: sample.cap.map(|c| c.0),
        power_mw: sample.power.or(sample.modelled).map(|p| p.0),
        clamp: clamp_on(id, governor).map(|c| format!("{:?} {} to {}", c.reason, c.asked.0, c.got.0)),
    }
}

fn percent(top1: CentiPercent) -> f64 {
    f64::from(top1.0) / 100.0
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn app(runner: &Runner, sample: &AppSample, governor: &Governor, board: &Board) -> AppStatus {
    let (app, totals, ledger) = (&runner.app, runner.totals(), runner.ledger());
    let told = governor.transaction().told(app.slot);
    let subnet = |i: SubnetIndex| app.subnets.get(usize::from(i.0));
    let now = sample.subnet.and_then(subnet);
    let window = governor.seen().window;
    AppStatus {
        name: app.name.clone(),
        slot: app.slot.0,
        pid: runner.pid,
        target_ms: app.target.latency.map(Nanos::as_ms),
        top1_floor: app.target.top1.map(percent),
        power_budget_mw: app.target.power.map(|p| p.0),
        objective: app.target.objective,
        subnet: now.map(|s| s.name.clone()),
        subnet_top1: now.map(|s| percent(s.top1)),
        live_top1: (totals.labelled > 0).then(|| totals.correct as f64 * 100.0 / totals.labelled as f64),
        p50_ms: ledger.percentile(500).map(Nanos::as_ms),
        p95_ms: ledger.percentile(950).map(Nanos::as_ms),
        done: totals.done,
        arrived: totals.arrived,
        dropped: totals.dropped,
        violations: ledger.violations,
        subnets: app
            .subnets
            .iter()
            .zip(&ledger.by_subnet)
            .map(|(s, n)| (s.name.clone(), percent(s.top1), *n))
            .collect(),
        profile: runner.profile.clone(),
        domain: told.and_then(|t| board.domains.get(usize::from(t.0.domain.0))).map(|d| d.name.clone()),
        weight: told.map(|t| t.0.weight),
        told_subnet: told.and_then(|t| subnet(t.1.subnet)).map(|s| s.name.clone()),
        binds: binds(runner, sample, governor, board).into(),
        run_permille: sample.run.and_then(|run| permille(run, window)),
        runq_permille: sample.runq_delay.and_then(|delay| permille(delay, window)),
    }
}

/// What keeps an application from its target, or from a better sub-network within it.
fn binds(runner: &Runner, sample: &AppSample, governor: &Governor, board: &Board) -> &'static str {
    let told = governor.transaction().told(runner.app.slot);
    if let Some(said) = told.and_then(|(_, choice)| choice.binds) {
        return said.word();
    }
    let Some(target) = runner.app.target.latency else { return "nothing: no target" };
    let Some(p95) = runner.ledger().percentile(950) else { return "nothing yet" };
    let largest = told.is_some_and(|t| usize::from(t.1.subnet.0) + 1 == runner.app.subnets.len());
    if p95 <= target && largest {
        return "nothing";
    }
    if let Some((grant, _)) = told {
        let seen: &Snapshot = governor.seen();
        match clamp_on(grant.domain, governor).map(|c| c.reason) {
            Some(Reason::Outside) => return "cap",
            Some(Reason::Thermal | Reason::NotReached) => return "clamp",
            Some(Reason::Range | Reason::Dwell) | None => {}
        }
        let place = usize::from(grant.domain.0);
        if let (Some(sample), Some(domain)) = (seen.domains.get(place), board.domains.get(place))
            && sample.cap.is_some_and(|c| c < domain.top())
            && sample.opp == sample.cap
        {
            return "cap";
        }
    }
    let waited = sample.runq_delay.unwrap_or_default().0;
    let ran = sample.run.unwrap_or_default().0;
    // A twentieth of its CPU time spent waiting for a CPU: somebody else had it.
    if waited * 20 > ran && ran > 0 {
        return "co-runner";
    }
    if p95 <= target { "target" } else { "machine" }
}

/// `part` of `whole` in thousandths; `None` for an empty whole.
fn permille(part: Nanos, whole: Nanos) -> Option<u64> {
    part.0.saturating_mul(1000).checked_div(whole.0)
}

/// A value or a dash: absent is never 0.
fn or_dash<T: fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |v| v.to_string())
}

fn ms(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.1}"))
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = &self.ticks;
        writeln!(
            f,
            "tandem {} pid {} on {}{}",
            self.version,
            self.pid,
            self.board,
            if self.observe { ", observing: nothing is written" } else { "" }
        )?;
        writeln!(
            f,
            "ticks    {} of {} ms, {} woken, {} missed, worst lateness {} us, {}",
            t.done, t.period_ms, t.woken, t.missed, t.late_max_us, self.scheduling
        )?;
        let [sense, decide, admit, act] = t.steps_us;
        writeln!(
            f,
            "         sense {sense:.1} us, decide {decide:.1} us, admit {admit:.1} us, act and publish {act:.1} us (means)"
        )?;
        writeln!(f, "sensing  {}{}", self.sensing, if self.lost.is_empty() { ", nothing lost" } else { "" })?;
        for lost in &self.lost {
            writeln!(f, "         lost: {lost}")?;
        }
        let p = &self.policy;
        writeln!(f, "policy   {}: {}, {} swaps", p.set, p.state, p.swaps)?;
        if let Some(error) = &p.error {
            writeln!(f, "         set aside: {error}")?;
        }
        for d in &self.domains {
            writeln!(
                f,
                "domain   {:<12} {:<13} opp {} of 0..{} ({}), util {}, cap {}, power {} mW{}",
                d.name,
                d.kind,
                or_dash(d.opp),
                d.opps - 1,
                or_dash(d.freq.as_ref()),
                or_dash(d.util),
                or_dash(d.cap),
                or_dash(d.power_mw),
                d.clamp.as_ref().map_or_else(String::new, |c| format!(", clamped: {c}"))
            )?;
        }
        for a in &self.apps {
            writeln!(
                f,
                "app      {:<12} p50 {} p95 {} of {} ms, {} at {} %, {} done, {} dropped, {} over target; binds: {}",
                a.name,
                ms(a.p50_ms),
                ms(a.p95_ms),
                ms(a.target_ms),
                or_dash(a.subnet.as_ref()),
                or_dash(a.subnet_top1),
                a.done,
                a.dropped,
                a.violations,
                a.binds
            )?;
            writeln!(
                f,
                "         {:<12} {} first, floor {} %, budget {} mW; on {}",
                "",
                a.objective.word(),
                or_dash(a.top1_floor),
                or_dash(a.power_budget_mw),
                or_dash(a.domain.as_ref())
            )?;
            writeln!(
                f,
                "         {:<12} cpu {}, waiting {} (of 1000 = one CPU), weight {}, live accuracy {} %",
                "",
                or_dash(a.run_permille),
                or_dash(a.runq_permille),
                or_dash(a.weight),
                ms(a.live_top1)
            )?;
        }
        for (name, profile) in self.apps.iter().filter_map(|a| Some((&a.name, a.profile.as_ref()?))) {
            writeln!(f, "profile  {name:<12} {profile}")?;
        }
        writeln!(f, "others   cpu {} (of 1000 = one CPU)", or_dash(self.others_permille))?;
        for s in &self.signals {
            writeln!(
                f,
                "signal   {:<24} {} {} ({:?}, {} ms old)",
                s.name,
                or_dash(s.value),
                s.unit,
                s.source,
                s.age_ms
            )?;
        }
        if let Some(e) = &self.last_actuate_error {
            writeln!(f, "could not set: {e}")?;
        }
        for n in &self.notes {
            writeln!(f, "note     {n}")?;
        }
        Ok(())
    }
}
