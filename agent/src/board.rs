//! The machine as the agent sees it: domains with their OPPs. Names become indices here, once.
//!
//! A board file is TOML; `tandem board probe` writes one from what the machine has.

use crate::units::{DomainId, Freq, Microvolts, MilliCelsius, Milliwatts, Nanos, OppIndex};

/// CPUs or a device that share one clock, or the stand-in where no clock can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainKind {
    /// `/sys/devices/system/cpu/cpufreq/policyN`
    Cpufreq {
        /// N
        policy: u32,
    },
    /// `/sys/class/devfreq/DEVICE`
    Devfreq {
        /// The device's folder name.
        device: String,
    },
    /// A share of CPU time for all applications together (cgroup CFS bandwidth). It bounds the
    /// average over some periods, not a short burst: a stand-in for a clock, not a clock.
    CpuBandwidth,
}

/// One operating performance point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opp {
    /// As the driver counts it.
    pub freq: Freq,
    /// Supply voltage, if known.
    pub volt: Option<Microvolts>,
    /// Power of the whole domain when all its CPUs are busy, if known.
    pub power: Option<Milliwatts>,
}

/// One domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Unique in the board.
    pub name: String,
    /// What sets its clock.
    pub kind: DomainKind,
    /// CPUs it covers; empty for a device.
    pub cpus: Vec<u32>,
    /// By rising frequency, never empty.
    pub opps: Vec<Opp>,
    /// What the driver says a change takes.
    pub transition_latency: Nanos,
}

/// The safety limits of a board; the envelope's starting values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoardLimits {
    /// Above it the envelope lowers OPPs; `None`: no thermal cap of ours.
    pub temp_max: Option<MilliCelsius>,
    /// A domain that moved stays at least this long, unless it must fall for safety.
    pub min_dwell: Nanos,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// For people.
    pub name: String,
    /// Never empty.
    pub domains: Vec<Domain>,
    /// The envelope's limits.
    pub limits: BoardLimits,
}

impl Domain {
    /// The index of the fastest OPP.
    pub fn top(&self) -> OppIndex {
        OppIndex(u16::try_from(self.opps.len() - 1).expect("checked at load: at most 64 OPPs"))
    }
    /// The lowest OPP at or above `raw` (the kernel's RELATION_L), the top one if there is none.
    pub fn at_least(&self, raw: u64) -> OppIndex {
        let i = self.opps.iter().position(|o| o.freq.raw >= raw).unwrap_or(self.opps.len() - 1);
        OppIndex(u16::try_from(i).expect("checked at load: at most 64 OPPs"))
    }
    /// The highest OPP at or below `raw` (RELATION_H), the lowest one if there is none.
    pub fn at_most(&self, raw: u64) -> OppIndex {
        let i = self.opps.iter().rposition(|o| o.freq.raw <= raw).unwrap_or(0);
        OppIndex(u16::try_from(i).expect("checked at load: at most 64 OPPs"))
    }
}

impl Board {
    /// The domain of that name.
    pub fn domain(&self, name: &str) -> Option<DomainId> {
        let i = self.domains.iter().position(|d| d.name == name)?;
        Some(DomainId(u16::try_from(i).expect("checked at load: at most 16 domains")))
    }
}
