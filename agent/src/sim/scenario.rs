//! Scenarios: which applications run, what they want, who disturbs them. One format for the simulator and
//! for the VM; nothing in it names a board, except where it names a domain.
//!
//! The format stands in `docs/policies.md`; `tests/scenarios` has examples.

mod parse;

use super::network::Network;
use crate::policy::Slo;
use crate::units::Nanos;
use serde::Serialize;

/// A scenario, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// The file's stem.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// How long it lasts.
    pub length: Nanos,
    /// Frames that finish before count for nothing: the policies settle.
    pub warm_up: Nanos,
    /// Of everything random.
    pub seed: u64,
    /// Boards it is meant for (`tandem eval` runs it there); empty: any it fits.
    pub boards: Vec<String>,
    /// Applications; all are there from the start.
    pub apps: Vec<AppPlan>,
    /// Others that want the processor.
    pub co_runners: Vec<CoRunner>,
    /// What happens to the machine, by time.
    pub events: Vec<MachineEvent>,
}

/// One application.
#[derive(Clone, Debug, PartialEq)]
pub struct AppPlan {
    /// Unique.
    pub name: String,
    /// What it runs.
    pub network: Network,
    /// What the largest sub-network takes alone on the board's fastest CPU (or the device) at its top OPP.
    /// `None`: what the board's model says.
    pub largest: Option<Nanos>,
    /// Frames that may wait; one more and the oldest is dropped.
    pub queue: usize,
    /// Where it runs until a policy says otherwise; `None`: where the board's model has its applications.
    pub domain: Option<String>,
    /// CPUs it is pinned to, as positions in its domain; empty: all.
    pub cpus: Vec<usize>,
    /// When frames come.
    pub frames: Frames,
    /// What it wants, by time; the first from 0.
    pub targets: Vec<(Nanos, Slo)>,
}

/// When frames come.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Frames {
    /// Every `period`, the first after `phase`.
    Periodic {
        /// ns
        period: Nanos,
        /// ns
        phase: Nanos,
    },
    /// At random, so many a second on average.
    Poisson {
        /// Mean distance, ns.
        mean: Nanos,
    },
    /// `count` at once, every `period`.
    Bursty {
        /// ns
        period: Nanos,
        /// Frames of one burst.
        count: u32,
    },
    /// At these times, from the start.
    Recorded {
        /// Rising.
        times: Vec<Nanos>,
    },
}

/// A busy thread or several.
#[derive(Clone, Debug, PartialEq)]
pub struct CoRunner {
    /// Unique.
    pub name: String,
    /// From when.
    pub from: Nanos,
    /// Until when.
    pub to: Nanos,
    /// Busy threads.
    pub threads: u8,
    /// CPUs they are pinned to, as positions in the domain; empty: all.
    pub cpus: Vec<usize>,
    /// As the kernel's.
    pub nice: i8,
    /// Where; `None`: where the applications are.
    pub domain: Option<String>,
}

/// Something that happens to the machine.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineEvent {
    /// When.
    pub at: Nanos,
    /// What.
    pub what: Happening,
}

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// At most that share of a domain's top frequency, thousandths; 1000 = free again. All domains if none
    /// is named: a power mode, a user, a battery.
    Cap {
        /// Which.
        domain: Option<String>,
        /// Thousandths.
        permille: u16,
    },
    /// The air becomes so warm, C.
    Ambient {
        /// C
        celsius: f64,
    },
}

impl Scenario {
    /// As a kernel's governor meets it: it knows neither floor nor budget nor objective.
    pub fn plain(&self) -> Self {
        let mut plain = self.clone();
        for (_, slo) in plain.apps.iter_mut().flat_map(|a| &mut a.targets) {
            *slo = Slo { latency: slo.latency, ..Slo::default() };
        }
        plain
    }
}

impl AppPlan {
    /// The target in force.
    pub fn target_at(&self, now: Nanos) -> Slo {
        self.targets.iter().rev().find(|(at, _)| *at <= now).map_or_else(Slo::default, |t| t.1)
    }
}
