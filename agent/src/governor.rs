//! The loop: sense, decide, admit, act. The only place that knows the order.
//!
//! Time comes in as an argument, so tests own the clock. After start-up a step allocates nothing, takes no
//! lock and, while nothing has to be written, makes no system call but reading the clock.
//!
//! What is governed is behind [`Machine`]: the [`Host`] of the daemon, or a simulated one (`sim`).

use crate::actuate::{ActuateError, Member};
use crate::envelope::{Admitted, Envelope};
use crate::host::Host;
use crate::policy::slot::{PolicySlot, PolicySource};
use crate::policy::{App, Decision, PolicyError, Slo};
use crate::runners::gate::Gate;
use crate::runners::{Change, Runner, Runners};
use crate::sense::Sense;
use crate::snapshot::Snapshot;
use crate::transaction::Transaction;
use crate::units::{AppSlot, Nanos};
use std::sync::Arc;

/// What the loop governs.
pub trait Machine {
    /// An empty snapshot with room for what it measures.
    fn room(&self) -> Snapshot;
    /// The applications present, in the order of its snapshots.
    fn apps(&self) -> Vec<App>;
    /// Measures the period that ends `now`; answers an application that broke the rules, and how.
    fn sense(&mut self, now: Nanos, seen: &mut Snapshot) -> Option<(AppSlot, String)>;
    /// Carries an order out as one transaction; answers the last thing that could not be set.
    fn act(
        &mut self,
        now: Nanos,
        order: &mut Admitted,
        transaction: &mut Transaction,
        clock: impl FnMut() -> Nanos,
    ) -> Option<ActuateError>;
}

/// The loop's parts and buffers.
#[derive(Debug)]
pub struct Governor<M = Host> {
    machine: M,
    policy: PolicySlot,
    envelope: Envelope,
    transaction: Transaction,
    seen: Snapshot,
    wish: Decision,
    admitted: Admitted,
    last_error: Option<String>,
    steps: StepTimes,
}

/// Sums of the time the steps took: sense, decide, admit, act and publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// Steps done.
    pub count: u64,
    /// Sums, ns.
    pub sums: [u64; 4],
}

impl<M: Machine> Governor<M> {
    /// From its parts; a decision binds an application for `valid`.
    pub fn new(machine: M, policy: PolicySlot, envelope: Envelope, valid: Nanos) -> Self {
        let seen = machine.room();
        let mut governor = Self {
            machine,
            policy,
            envelope,
            transaction: Transaction::new(seen.domains.len(), valid),
            seen,
            wish: Decision::default(),
            admitted: Admitted::default(),
            last_error: None,
            steps: StepTimes::default(),
        };
        governor.policy.limits(&governor.envelope.limits());
        governor
    }

    /// One period: `now` is when it began; `clock` tells the time for the book of its steps.
    pub fn step(&mut self, now: Nanos, mut clock: impl FnMut() -> Nanos) -> Option<(AppSlot, String)> {
        self.seen.tick += 1;
        self.seen.at = now;
        let misbehaved = self.machine.sense(now, &mut self.seen);
        let sensed = clock();

        if self.envelope.observe(&self.seen) {
            self.policy.limits(&self.envelope.limits());
        }
        self.policy.decide(&self.seen, &mut self.wish);
        self.wish.seq = self.seen.tick;
        let decided = clock();

        self.envelope.admit(&self.seen, &self.wish, &mut self.admitted);
        let admitted = clock();

        if let Some(error) = self.machine.act(now, &mut self.admitted, &mut self.transaction, &mut clock) {
            self.note(&error);
        }
        let times = [now, sensed, decided, admitted, clock()];
        for (sum, pair) in self.steps.sums.iter_mut().zip(times.windows(2)) {
            *sum += pair[1].since(pair[0]).0;
        }
        self.steps.count += 1;
        misbehaved
    }

    fn note(&mut self, error: &ActuateError) {
        let text = error.to_string();
        // On the edge only: a setting that keeps failing is one line in the log.
        if self.last_error.as_ref() != Some(&text) {
            tracing::warn!(%error, "could not set");
            self.last_error = Some(text);
        }
    }

    /// Tells the policies who is present, and with which targets.
    pub fn tell_apps(&mut self) {
        self.policy.apps(&self.machine.apps());
    }

    /// Has a policy set serve from the next step on; waits for it. For who owns the clock.
    ///
    /// # Errors
    /// Why it does not serve.
    pub fn serve(&mut self, set: Arc<dyn PolicySource>) -> Result<(), PolicyError> {
        self.policy.serve(set, &self.seen)
    }

    /// What is governed.
    pub fn machine(&self) -> &M {
        &self.machine
    }
    /// The same, for whoever drives it.
    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }
    /// The end: what was governed.
    pub fn into_machine(self) -> M {
        self.machine
    }
    /// The last period's measurements.
    pub fn seen(&self) -> &Snapshot {
        &self.seen
    }
    /// The last period's decision, as admitted.
    pub fn admitted(&self) -> &Admitted {
        &self.admitted
    }
    /// The policies' place.
    pub fn policy(&self) -> &PolicySlot {
        &self.policy
    }
    /// What the applications were told.
    pub fn transaction(&self) -> &Transaction {
        &self.transaction
    }
    /// The last thing that could not be set.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }
    /// The book of the steps.
    pub fn steps(&self) -> StepTimes {
        self.steps
    }
}

impl Governor<Host> {
    /// Takes in who came, who left and who wants something else; between two ticks.
    pub fn change(&mut self, change: Change) {
        match change {
            Change::Came(runner, member) => self.came(runner, member),
            Change::Left(slot) => self.left(slot),
            // A runner tells of its bounds; its objective and its budget are the operator's.
            Change::Target(slot, Slo { latency, top1, .. }) => {
                let now = self.runners().get(slot).map_or(Slo::default(), |r| r.app.target);
                self.set_target(slot, Slo { latency, top1, ..now });
            }
        }
    }

    fn came(&mut self, runner: Box<Runner>, member: Option<Member>) {
        self.transaction.forget(runner.app.slot);
        self.machine.came(runner, member);
        self.tell_apps();
    }

    fn left(&mut self, slot: AppSlot) {
        if self.machine.left(slot) {
            self.transaction.forget(slot);
            self.tell_apps();
        }
    }

    /// A runner that broke the rules: it is gone for the loop, and its connection is closed.
    pub fn drop_runner(&mut self, slot: AppSlot, why: &str, gate: &Gate) {
        let name = self.runners().get(slot).map_or("?", |r| r.app.name.as_str());
        tracing::warn!(name, slot = slot.0, why, "runner dropped");
        self.left(slot);
        gate.drop_runner(slot);
    }

    /// Another target for an application; false if it is not there.
    pub fn set_target(&mut self, slot: AppSlot, target: Slo) -> bool {
        let known = self.machine.set_target(slot, target);
        if known {
            self.tell_apps();
        }
        known
    }

    /// The runners present.
    pub fn runners(&self) -> &Runners {
        self.machine.runners()
    }
    /// What senses.
    pub fn sense(&self) -> &Sense {
        self.machine.senses()
    }
    /// The same, to drain its events.
    pub fn sense_mut(&mut self) -> &mut Sense {
        self.machine.senses_mut()
    }
    /// Whether it only observes.
    pub fn observes(&self) -> bool {
        self.machine.observes()
    }
}
