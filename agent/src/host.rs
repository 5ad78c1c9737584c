//! The machine the daemon runs on: sensors, runners and actuators, as the loop governs them.

use crate::actuate::{ActuateError, Actuator, Actuators, Member};
use crate::envelope::Admitted;
use crate::governor::Machine;
use crate::policy::{App, Slo};
use crate::runners::{Runner, Runners};
use crate::sense::Sense;
use crate::snapshot::Snapshot;
use crate::transaction::Transaction;
use crate::units::{AppSlot, DomainId, Nanos};

/// Its parts.
#[derive(Debug)]
pub struct Host {
    sense: Sense,
    runners: Runners,
    /// `None`: observe only, nothing is written and no runner is told anything.
    actuators: Option<Actuators>,
    domains: usize,
}

impl Machine for Host {
    fn room(&self) -> Snapshot {
        Snapshot::new(self.sense.cpus(), self.domains, self.sense.signals().len())
    }

    fn apps(&self) -> Vec<App> {
        self.runners.apps()
    }

    fn sense(&mut self, now: Nanos, seen: &mut Snapshot) -> Option<(AppSlot, String)> {
        let misbehaved = self.runners.sample(now, seen);
        self.sense.sample(now, seen);
        self.note_opps(seen);
        misbehaved
    }

    fn act(
        &mut self,
        now: Nanos,
        order: &mut Admitted,
        transaction: &mut Transaction,
        clock: impl FnMut() -> Nanos,
    ) -> Option<ActuateError> {
        let actuators = self.actuators.as_mut()?;
        let (present, publish) = self.runners.present_and_publish();
        let outcome = transaction.carry_out(now, order, present, actuators, publish, clock);
        for d in (0u16..).take(self.domains).map(DomainId) {
            self.sense.set_own_max(d, actuators.own_limit(d));
        }
        outcome.error
    }
}

impl Host {
    /// From its parts, over a board of so many domains. `actuators`: `None` observes.
    pub fn new(sense: Sense, actuators: Option<Actuators>, domains: usize) -> Self {
        Self { sense, runners: Runners::default(), actuators, domains }
    }

    /// What only an actuator knows: the stand-in domain has no clock to read.
    fn note_opps(&self, seen: &mut Snapshot) {
        let Some(actuators) = &self.actuators else { return };
        for (d, sample) in (0u16..).zip(&mut seen.domains) {
            sample.opp = sample.opp.or_else(|| actuators.standing(DomainId(d)));
        }
    }

    /// A runner came.
    pub fn came(&mut self, runner: Box<Runner>, member: Option<Member>) {
        let slot = runner.app.slot;
        if let Err(e) = self.sense.add_app(slot, runner.pid) {
            tracing::warn!(error = %e, "the application's CPU time is not seen");
        }
        self.sense.set_runq_bound(slot, runner.runq_bound);
        if let (Some(actuators), Some(member)) = (&mut self.actuators, member) {
            actuators.admit(member);
        }
        self.runners.insert(runner);
        self.set_order();
    }

    /// A runner left; false if it was not there.
    pub fn left(&mut self, slot: AppSlot) -> bool {
        if self.runners.remove(slot).is_none() {
            return false;
        }
        if let Err(e) = self.sense.remove_app(slot) {
            tracing::warn!(error = %e, "the application's process is still counted as its own");
        }
        if let Some(actuators) = &mut self.actuators {
            actuators.remove(slot);
        }
        self.set_order();
        true
    }

    fn set_order(&mut self) {
        if let Some(actuators) = &mut self.actuators {
            let order: Vec<AppSlot> = self.runners.iter().map(|r| r.app.slot).collect();
            actuators.set_order(&order);
        }
    }

    /// Another target for an application; false if it is not there.
    pub fn set_target(&mut self, slot: AppSlot, target: Slo) -> bool {
        self.runners.set_target(slot, target)
    }

    /// The runners present.
    pub fn runners(&self) -> &Runners {
        &self.runners
    }
    /// What senses.
    pub fn senses(&self) -> &Sense {
        &self.sense
    }
    /// The same, to drain its events.
    pub fn senses_mut(&mut self) -> &mut Sense {
        &mut self.sense
    }
    /// Whether it only observes.
    pub fn observes(&self) -> bool {
        self.actuators.is_none()
    }
}
