//! The loop: sense, decide, admit, act. The only place that knows the order.
//!
//! Time comes in as an argument, so tests own the clock. After start-up a step allocates nothing, takes no
//! lock and, while nothing has to be written, makes no system call but reading the clock.

use crate::actuate::{Actuator, Actuators, Member};
use crate::envelope::{Admitted, Envelope};
use crate::policy::slot::PolicySlot;
use crate::policy::{Decision, Slo};
use crate::runners::gate::Gate;
use crate::runners::{Change, Runner, Runners};
use crate::sense::Sense;
use crate::snapshot::Snapshot;
use crate::transaction::Transaction;
use crate::units::{AppSlot, DomainId, Nanos};

/// The loop's parts and buffers.
#[derive(Debug)]
pub struct Governor {
    sense: Sense,
    runners: Runners,
    policy: PolicySlot,
    envelope: Envelope,
    /// `None`: observe only, nothing is written and no runner is told anything.
    actuators: Option<Actuators>,
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

impl Governor {
    /// From its parts. `actuators`: `None` observes.
    pub fn new(
        sense: Sense,
        policy: PolicySlot,
        envelope: Envelope,
        actuators: Option<Actuators>,
        domains: usize,
        valid: Nanos,
    ) -> Self {
        let seen = Snapshot::new(sense.cpus(), domains, sense.signals().len());
        let mut governor = Self {
            sense,
            runners: Runners::default(),
            policy,
            envelope,
            actuators,
            transaction: Transaction::new(domains, valid),
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
        let misbehaved = self.runners.sample(now, &mut self.seen);
        self.sense.sample(now, &mut self.seen);
        self.note_opps();
        let sensed = clock();

        if self.envelope.observe(&self.seen) {
            self.policy.limits(&self.envelope.limits());
        }
        self.policy.decide(&self.seen, &mut self.wish);
        self.wish.seq = self.seen.tick;
        let decided = clock();

        self.envelope.admit(&self.seen, &self.wish, &mut self.admitted);
        let admitted = clock();

        self.act(now, &mut clock);
        let times = [now, sensed, decided, admitted, clock()];
        for (sum, pair) in self.steps.sums.iter_mut().zip(times.windows(2)) {
            *sum += pair[1].since(pair[0]).0;
        }
        self.steps.count += 1;
        misbehaved
    }

    /// What only an actuator knows: the stand-in domain has no clock to read.
    fn note_opps(&mut self) {
        let Some(actuators) = &self.actuators else { return };
        for (d, sample) in (0u16..).zip(&mut self.seen.domains) {
            sample.opp = sample.opp.or_else(|| actuators.standing(DomainId(d)));
        }
    }

    fn act(&mut self, now: Nanos, clock: impl FnMut() -> Nanos) {
        let Some(actuators) = &mut self.actuators else { return };
        let (present, publish) = self.runners.present_and_publish();
        let outcome = self.transaction.carry_out(now, &mut self.admitted, present, actuators, publish, clock);
        for d in (0u16..).take(self.seen.domains.len()).map(DomainId) {
            self.sense.set_own_max(d, actuators.own_limit(d));
        }
        if let Some(error) = outcome.error {
            let text = error.to_string();
            // On the edge only: a setting that keeps failing is one line in the log.
            if self.last_error.as_ref() != Some(&text) {
                tracing::warn!(%error, "could not set");
                self.last_error = Some(text);
            }
        }
    }

    /// Takes in who came, who left and who wants something else; between two ticks.
    pub fn change(&mut self, change: Change) {
        match change {
            Change::Came(runner, member) => self.came(runner, member),
            Change::Left(slot) => self.left(slot),
            Change::Target(slot, target) => {
                self.set_target(slot, target);
            }
        }
    }

    fn came(&mut self, runner: Box<Runner>, member: Option<Member>) {
        let slot = runner.app.slot;
        if let Err(e) = self.sense.add_app(slot, runner.pid) {
            tracing::warn!(error = %e, "the application's CPU time is not seen");
        }
        self.sense.set_runq_bound(slot, runner.runq_bound);
        if let (Some(actuators), Some(member)) = (&mut self.actuators, member) {
            actuators.admit(member);
        }
        self.transaction.forget(slot);
        self.runners.insert(runner);
        self.tell_present();
    }

    fn left(&mut self, slot: AppSlot) {
        if self.runners.remove(slot).is_none() {
            return;
        }
        if let Err(e) = self.sense.remove_app(slot) {
            tracing::warn!(error = %e, "the application's process is still counted as its own");
        }
        if let Some(actuators) = &mut self.actuators {
            actuators.remove(slot);
        }
        self.transaction.forget(slot);
        self.tell_present();
    }

    fn tell_present(&mut self) {
        let apps = self.runners.apps();
        if let Some(actuators) = &mut self.actuators {
            let order: Vec<AppSlot> = apps.iter().map(|a| a.slot).collect();
            actuators.set_order(&order);
        }
        self.policy.apps(&apps);
    }

    /// A runner that broke the rules: it is gone for the loop, and its connection is closed.
    pub fn drop_runner(&mut self, slot: AppSlot, why: &str, gate: &Gate) {
        let name = self.runners.get(slot).map_or("?", |r| r.app.name.as_str());
        tracing::warn!(name, slot = slot.0, why, "runner dropped");
        self.left(slot);
        gate.drop_runner(slot);
    }

    /// Another target for an application; false if it is not there.
    pub fn set_target(&mut self, slot: AppSlot, target: Slo) -> bool {
        let known = self.runners.set_target(slot, target);
        if known {
            self.policy.apps(&self.runners.apps());
        }
        known
    }

    /// The runners present.
    pub fn runners(&self) -> &Runners {
        &self.runners
    }
    /// The last period's measurements.
    pub fn seen(&self) -> &Snapshot {
        &self.seen
    }
    /// The last period's decision, as admitted.
    pub fn admitted(&self) -> &Admitted {
        &self.admitted
    }
    /// What senses.
    pub fn sense(&self) -> &Sense {
        &self.sense
    }
    /// The same, to drain its events.
    pub fn sense_mut(&mut self) -> &mut Sense {
        &mut self.sense
    }
    /// The policies' place.
    pub fn policy(&self) -> &PolicySlot {
        &self.policy
    }
    /// What the runners were told.
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
    /// Whether it only observes.
    pub fn observes(&self) -> bool {
        self.actuators.is_none()
    }
}
