//! What a policy is asked and what it answers; the life cycle is cpufreq's (start, limits, decide, drop).
//!
//! Two levels: the allocator sees the whole snapshot and gives every application a [`Grant`] and every
//! domain an ask and a cap; one tuner per application turns its grant into an [`AppChoice`]. A
//! [`Decision`] is a wish: `None` = leave as it is. A domain's OPP = the highest of the asks, then the
//! allocator's cap, then the envelope.

pub mod builtin;
pub mod slot;
pub mod wasm;

use crate::board::Board;
use crate::profile::Measured;
use crate::snapshot::{AppSample, DomainSample, OtherSample, Signal, Snapshot};
use crate::units::{AppSlot, CentiPercent, DomainId, Milliwatts, Nanos, OppIndex, SubnetIndex};
use serde::{Deserialize, Serialize};

/// What an application wants; `None` = no constraint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slo {
    /// Arrival to finish, at the 95th percentile.
    pub latency: Option<Nanos>,
    /// Accuracy floor.
    pub top1: Option<CentiPercent>,
    /// Mean power of its domain, at most.
    #[serde(default)]
    pub power: Option<Milliwatts>,
    /// What to make of the rest.
    #[serde(default)]
    pub objective: Objective,
}

/// What an application wants most, once its bounds hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// The most accurate sub-network.
    #[default]
    Accuracy,
    /// The least energy.
    Energy,
    /// The least latency.
    Latency,
}

impl Objective {
    /// By its word in configurations, scenarios and commands.
    pub fn named(word: &str) -> Option<Self> {
        [Self::Accuracy, Self::Energy, Self::Latency].into_iter().find(|o| o.word() == word)
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::Energy => "energy",
            Self::Latency => "latency",
        }
    }
}

/// What keeps an application from more, in its tuner's opinion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Binds {
    /// Nothing.
    Nothing,
    /// Its latency target.
    Latency,
    /// Its accuracy floor.
    Top1,
    /// Its power budget.
    Power,
    /// A limit on the clock.
    Cap,
    /// Somebody else who uses its CPUs.
    CoRunner,
    /// Its bounds cannot all hold.
    Infeasible,
}

impl Binds {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Latency => "latency",
            Self::Top1 => "accuracy floor",
            Self::Power => "power budget",
            Self::Cap => "cap",
            Self::CoRunner => "co-runner",
            Self::Infeasible => "infeasible",
        }
    }
}

/// One executable slice of a dynamic network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// For people.
    pub name: String,
    /// The manifest's accuracy.
    pub top1: CentiPercent,
    /// Multiply-accumulates of one image.
    pub macs: u64,
    /// By a profile of this machine; empty without one.
    #[serde(default)]
    pub measured: Vec<Measured>,
}

/// An application, as policies know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Its slot.
    pub slot: AppSlot,
    /// Unique.
    pub name: String,
    /// By rising cost, never empty.
    pub subnets: Vec<Subnet>,
    /// The most threads an inference can use.
    pub threads_max: u8,
    /// What it wants.
    pub target: Slo,
}

/// A `key = value` of the configuration, for the policy.
pub type Param = (String, String);

/// What the allocator gives one application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Where it runs.
    pub domain: DomainId,
    /// On how many of the domain's CPUs; 0 = all.
    pub cores: u8,
    /// CPU share against others, cgroup v2 scale 1..=10000, 100 = the kernel's default.
    pub weight: u16,
    /// Its part of a power budget.
    pub power: Option<Milliwatts>,
    /// The target its tuner shall meet: its own, or what is feasible.
    pub target: Slo,
}

/// What a tuner chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppChoice {
    /// Sub-network.
    pub subnet: SubnetIndex,
    /// Threads of one inference, at least 1.
    pub threads: u8,
    /// The OPP it needs on its domain.
    pub ask: Option<OppIndex>,
    /// What keeps the application from more; `None` = not said.
    #[serde(default)]
    pub binds: Option<Binds>,
}

/// The allocator's answer; both lists as in the board and the snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// Per domain.
    pub domains: Vec<DomainOrder>,
    /// Per application present.
    pub grants: Vec<Option<Grant>>,
}

/// What the allocator wants of one domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DomainOrder {
    /// At least this OPP.
    pub ask: Option<OppIndex>,
    /// At most this OPP.
    pub cap: Option<OppIndex>,
}

/// One decision: one transaction, one `seq`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Rises by one with each decision.
    pub seq: u64,
    /// Per domain; `None` = leave.
    pub opps: Vec<Option<OppIndex>>,
    /// Per application present; `None` = leave.
    pub apps: Vec<Option<(Grant, AppChoice)>>,
}

impl Clone for Decision {
    fn clone(&self) -> Self {
        Self { seq: self.seq, opps: self.opps.clone(), apps: self.apps.clone() }
    }
    /// Keeps the buffers, which a derived one does not: a tick allocates nothing.
    fn clone_from(&mut self, other: &Self) {
        self.seq = other.seq;
        self.opps.clone_from(&other.opps);
        self.apps.clone_from(&other.apps);
    }
}

/// The envelope's present values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Lowest and highest OPP allowed, per domain.
    pub opps: Vec<(OppIndex, OppIndex)>,
}

/// What a tuner sees: its own application and its surroundings.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Number of the tick.
    pub tick: u64,
    /// When the snapshot was taken.
    pub at: Nanos,
    /// Length of the window.
    pub window: Nanos,
    /// Its application.
    pub app: &'a AppSample,
    /// The domain it is granted.
    pub domain: &'a DomainSample,
    /// Everything that is no application.
    pub other: &'a OtherSample,
    /// What it is granted.
    pub grant: &'a Grant,
}

/// Why a policy did not serve. The policy is set aside and `Hold` takes over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be used as a policy.
    #[error("{path}: {reason}")]
    Unusable {
        /// The file.
        path: String,
        /// The rule it breaks.
        reason: String,
    },
    /// `start` or another verb answered with an error of its own.
    #[error("policy {name}: {verb} refused: {reason}")]
    Refused {
        /// The policy.
        name: String,
        /// Which call.
        verb: &'static str,
        /// Its words.
        reason: String,
    },
    /// A trap: out of memory, out of bounds, unreachable.
    #[error("policy {name}: {verb} trapped: {reason}")]
    Trapped {
        /// The policy.
        name: String,
        /// Which call.
        verb: &'static str,
        /// The trap.
        reason: String,
    },
    /// It ran past its deadline.
    #[error("policy {name}: {verb} ran past its deadline of {deadline_us} us")]
    Late {
        /// The policy.
        name: String,
        /// Which call.
        verb: &'static str,
        /// The deadline.
        deadline_us: u64,
    },
    /// An answer that breaks the contract (a list of the wrong length, an index that does not exist).
    #[error("policy {name}: answer refused: {reason}")]
    Invalid {
        /// The policy.
        name: String,
        /// What and which rule.
        reason: String,
    },
}

/// The upper level: one per policy set.
pub trait Allocator: Send {
    /// For people.
    fn name(&self) -> &str;
    /// Once, before anything else.
    fn start(
        &mut self,
        board: &Board,
        period: Nanos,
        signals: &[Signal],
        apps: &[App],
        params: &[Param],
    ) -> Result<(), PolicyError>;
    /// An application came, left or changed its target.
    fn apps(&mut self, apps: &[App]) -> Result<(), PolicyError>;
    /// The envelope moved.
    fn limits(&mut self, now: &Limits) -> Result<(), PolicyError>;
    /// Once a tick. `out` arrives with the right lengths and all `None`; it keeps its buffers.
    fn decide(&mut self, seen: &Snapshot, out: &mut Allocation) -> Result<(), PolicyError>;
}

/// The lower level: one per application.
pub trait Tuner: Send {
    /// For people.
    fn name(&self) -> &str;
    /// Once, before anything else.
    fn start(&mut self, board: &Board, period: Nanos, app: &App, params: &[Param])
    -> Result<(), PolicyError>;
    /// Its application changed its target.
    fn app(&mut self, app: &App) -> Result<(), PolicyError>;
    /// The envelope moved.
    fn limits(&mut self, now: &Limits) -> Result<(), PolicyError>;
    /// Once a tick.
    fn decide(&mut self, seen: &View<'_>) -> Result<AppChoice, PolicyError>;
}
