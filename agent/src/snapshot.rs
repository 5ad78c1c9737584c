//! What one period looked like: plain data, no handles. `None` = not measured, never 0.
//!
//! Buffers are made once, by [`Snapshot::new`], and reused every tick.

use crate::units::{AppSlot, Milliwatts, Nanos, OppIndex, Source, SubnetIndex, Util};
use serde::Serialize;

/// A slow sensor's identity, told to policies once, at start; a tick carries value and age by position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signal {
    /// For people and policies, unique: `thermal/cpu-thermal`, `rail/VDD_CPU`, `psi/cpu-some-avg10`.
    pub name: String,
    /// `mC`, `mW`, `uW`, `permille`, ...
    pub unit: String,
    /// Where the value comes from.
    pub source: Source,
}

/// One reading of a slow sensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SignalSample {
    /// In the signal's unit; `None`: absent.
    pub value: Option<i64>,
    /// How old the reading was when the snapshot was taken.
    pub age: Nanos,
}

/// One CPU over the period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuSample {
    /// Share of the period not idle, the interval still open included.
    pub busy: Option<Util>,
    /// Context switches in the period.
    pub switches: Option<u32>,
    /// Wake-ups in the period.
    pub wakeups: Option<u32>,
    /// Tasks migrated onto this CPU in the period.
    pub migrations: Option<u32>,
    /// Time that tasks waited on this CPU's run queue, ended in the period.
    pub runq_delay: Option<Nanos>,
    /// Time in idle states in the period.
    pub idle: Option<Nanos>,
}

/// One domain over the period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DomainSample {
    /// The OPP it runs at now.
    pub opp: Option<OppIndex>,
    /// Utilisation of its busiest CPU (or of the device) at its present OPP.
    pub util: Option<Util>,
    /// The highest OPP that something outside (thermal, firmware, a user) allows at present.
    pub cap: Option<OppIndex>,
    /// Power, if a rail measures this domain.
    pub power: Option<Milliwatts>,
    /// Without a rail: by the board file's powers and the busy share. For people; a policy has the same numbers.
    pub modelled: Option<Milliwatts>,
    /// OPP changes in the period.
    pub transitions: Option<u32>,
}

/// One finished inference (a frame or a request).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Done {
    /// The sub-network that ran.
    pub subnet: SubnetIndex,
    /// The decision in force when it started.
    pub seq: u64,
    /// Arrival to finish.
    pub latency: Nanos,
    /// Start to finish.
    pub service: Nanos,
    /// Mean confidence of its answers, thousandths.
    pub confidence: u16,
}

/// Finished inferences kept per tick.
pub const DONE_KEPT: usize = 32;

/// One application over the period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AppSample {
    /// Its slot.
    pub slot: AppSlot,
    /// The sub-network of its newest inference.
    pub subnet: Option<SubnetIndex>,
    /// CPU time of its threads in the period, the open interval included.
    pub run: Option<Nanos>,
    /// Time its threads waited on run queues, ended in the period.
    pub runq_delay: Option<Nanos>,
    /// Inferences waiting now.
    pub queue: u32,
    /// How long the inference in flight has been running.
    pub in_flight: Option<Nanos>,
    /// Arrived in the period.
    pub arrived: u32,
    /// Dropped by the runner in the period.
    pub dropped: u32,
    /// The newest finished ones of the period, oldest first, at most [`DONE_KEPT`].
    pub done: Vec<Done>,
    /// Finished in the period but not in `done`.
    pub done_more: u32,
}

/// Everything that is no registered application, over the period: co-runners show here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OtherSample {
    /// CPU time, summed over all CPUs.
    pub run: Option<Nanos>,
    /// Time waited on run queues, summed.
    pub runq_delay: Option<Nanos>,
}

/// One period's measurements.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Number of the tick, from 1.
    pub tick: u64,
    /// When it was taken.
    pub at: Nanos,
    /// Length of the window its deltas cover.
    pub window: Nanos,
    /// By CPU number.
    pub cpus: Vec<CpuSample>,
    /// As in the board.
    pub domains: Vec<DomainSample>,
    /// The applications present, in the order last told to the policies.
    pub apps: Vec<AppSample>,
    /// Everything else.
    pub other: OtherSample,
    /// As in the list of signals told at start.
    pub signals: Vec<SignalSample>,
    /// Rare events lost since start because the ring was full.
    pub lost: u64,
}

impl AppSample {
    /// An empty sample with room for a tick's finished inferences.
    pub fn new(slot: AppSlot) -> Self {
        Self {
            slot,
            subnet: None,
            run: None,
            runq_delay: None,
            queue: 0,
            in_flight: None,
            arrived: 0,
            dropped: 0,
            done: Vec::with_capacity(DONE_KEPT),
            done_more: 0,
        }
    }
}

impl Snapshot {
    /// Buffers for a board with this many CPUs, domains and signals.
    pub fn new(cpus: usize, domains: usize, signals: usize) -> Self {
        Self {
            cpus: vec![CpuSample::default(); cpus],
            domains: vec![DomainSample::default(); domains],
            apps: Vec::with_capacity(channel::MAX_RUNNERS),
            signals: vec![SignalSample::default(); signals],
            ..Self::default()
        }
    }
}
