//! Carrying out an admitted decision: one [`Actuator`] per way of setting something.
//!
//! [`start`] saves what is there ([`saved`], on disk before the first write, under the lock of
//! [`claim`]) and makes the machine settable; dropping the [`Door`], or [`Door::restore`], puts all back.
//! Observing means: no `Actuators`.

pub mod attr;
pub mod cgroup;
pub mod claim;
mod clock;
pub mod cooling;
pub mod cpu_bandwidth;
pub mod cpu_share;
pub mod cpufreq;
pub mod devfreq;
pub mod process;
pub mod saved;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod real;
#[cfg(test)]
mod tests;

use crate::board::Board;
use crate::envelope::Admitted;
use crate::units::{AppSlot, DomainId, OppIndex};
pub use claim::{Claim, MachineLock, restore_after_kill, restore_state};
pub use cpu_share::Member;

use cpu_share::CpuShare;
use saved::RestoreError;
use std::time::Duration;

/// Which part of a decision: what rises is written before the runner hears of it, what falls after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Clocks and shares that rise.
    Raise,
    /// Clocks and shares that fall.
    Lower,
}

/// A way of setting something. Saves before its first write; restoring is a list of plain writes that
/// another process can carry out.
pub trait Actuator: Send {
    /// For people.
    fn name(&self) -> &str;
    /// Carries out its part of `order`: skips what is already so, reads back what it wrote, tries all
    /// and returns the last error. That something was not reached is an error once; as long as it lasts,
    /// `standing` tells.
    fn apply(&mut self, order: &Admitted, half: Half) -> Result<(), ActuateError>;
    /// The OPP last read back on that domain; `None`: not known, or not this actuator's.
    fn standing(&self, _domain: DomainId) -> Option<OppIndex> {
        None
    }
    /// The upper limit it has set itself on that domain, raw: no cap from outside.
    fn own_limit(&self, _domain: DomainId) -> Option<u64> {
        None
    }
}

/// What could not be set.
#[derive(Debug, thiserror::Error)]
pub enum ActuateError {
    /// A file of the kernel's could not be read or written.
    #[error("{path}: {doing} {value:?}: {error}")]
    Io {
        /// The file.
        path: String,
        /// "write" or "read".
        doing: &'static str,
        /// What was to be written.
        value: String,
        /// The kernel's answer.
        error: std::io::Error,
    },
    /// Written, but something else was read back.
    #[error("{path}: wrote {wrote:?}, read back {read:?}")]
    NotReached {
        /// The file.
        path: String,
        /// Written.
        wrote: String,
        /// Read back.
        read: String,
    },
    /// The board does not describe this machine.
    #[error("domain {domain:?}: {rule}; compare with `tandem board probe`")]
    Board {
        /// The domain's name.
        domain: String,
        /// What does not fit.
        rule: String,
    },
    /// An order that no envelope over this board admits.
    #[error("domain {}: opp {} of {opps}", domain.0, opp.0)]
    NoSuchOpp {
        /// Where.
        domain: DomainId,
        /// Ordered.
        opp: OppIndex,
        /// How many there are.
        opps: usize,
    },
}

/// What an operator may choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Name of the cgroup of all applications.
    pub group: String,
    /// How long to wait for a cooling device to let go of a limit that is to be saved.
    pub cooling_patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { group: "tandem".into(), cooling_patience: Duration::from_secs(5) }
    }
}

/// Everything that acts on the tick: the clocks and the shares.
pub struct Actuators {
    clocks: Vec<Box<dyn Actuator>>,
    share: CpuShare,
}

/// What is done off the tick: applications' processes are moved in and out, and all is put back at the end.
#[derive(Debug)]
pub struct Door {
    own: cgroup::Own,
    claim: Claim,
}

impl std::fmt::Debug for Actuators {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let clocks: Vec<&str> = self.clocks.iter().map(|c| c.name()).collect();
        f.debug_struct("Actuators").field("clocks", &clocks).finish_non_exhaustive()
    }
}

/// Saves, then makes every domain of the board settable. The notes say what the operator should know. On an
/// error all is put back as it was.
pub fn start(
    board: &Board,
    mut claim: Claim,
    options: &Options,
) -> Result<(Door, Actuators, Vec<String>), ActuateError> {
    let mut notes = vec![];
    let own = cgroup::Own::make(&mut claim, &options.group)?;
    let mut clocks: Vec<Box<dyn Actuator>> = vec![];
    if let Some(cpufreq) = cpufreq::Cpufreq::start(board, &mut claim, options, &mut notes)? {
        clocks.push(Box::new(cpufreq));
    }
    if let Some(devfreq) = devfreq::Devfreq::start(board, &mut claim, options, &mut notes)? {
        clocks.push(Box::new(devfreq));
    }
    if let Some(bandwidth) = cpu_bandwidth::CpuBandwidth::start(board, claim.root(), &own)? {
        clocks.push(Box::new(bandwidth));
    }
    let share = CpuShare::start(board, &claim, &own, &mut notes)?;
    Ok((Door { own, claim }, Actuators { clocks, share }, notes))
}

impl Actuator for Actuators {
    fn name(&self) -> &str {
        "all"
    }
    fn apply(&mut self, order: &Admitted, half: Half) -> Result<(), ActuateError> {
        let mut last = Ok(());
        let all = self.clocks.iter_mut().map(|c| c.as_mut() as &mut dyn Actuator);
        for actuator in all.chain([&mut self.share as &mut dyn Actuator]) {
            if let Err(e) = actuator.apply(order, half) {
                last = Err(e);
            }
        }
        last
    }
    fn standing(&self, domain: DomainId) -> Option<OppIndex> {
        self.clocks.iter().find_map(|c| c.standing(domain))
    }
    fn own_limit(&self, domain: DomainId) -> Option<u64> {
        self.clocks.iter().find_map(|c| c.own_limit(domain))
    }
}

impl Actuators {
    /// An application came, moved in by [`Door::join`].
    pub fn admit(&mut self, member: Member) {
        self.share.admit(member);
    }
    /// An application left.
    pub fn remove(&mut self, slot: AppSlot) {
        self.share.remove(slot);
    }
    /// The order of applications in the decisions to come.
    pub fn set_order(&mut self, slots: &[AppSlot]) {
        self.share.set_order(slots);
    }
}

impl Door {
    /// Moves an application's process into a group of its own.
    pub fn join(&mut self, slot: AppSlot, name: &str, tgid: i32) -> Result<Member, ActuateError> {
        cpu_share::join(&mut self.claim, &self.own, slot, name, tgid)
    }
    /// Puts it back where it was; returns what failed.
    pub fn leave(&mut self, slot: AppSlot) -> Vec<RestoreError> {
        cpu_share::leave(&mut self.claim, slot)
    }
    /// Puts everything back; idempotent. Returns what failed.
    pub fn restore(&mut self) -> Vec<RestoreError> {
        self.claim.restore()
    }
}
