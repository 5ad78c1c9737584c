//! The runners present: their ends of the channel, what their messages say, and their books.
//!
//! Everything in a report region is the other side's word: an index that does not exist, times that run
//! backwards or a cursor out of range is misbehaviour, and the runner is dropped. Who may come is settled
//! by [`gate`], on a thread of its own; this half runs on the tick and neither waits nor allocates.

pub mod gate;

use crate::actuate::Member;
use crate::policy::{App, Slo};
use crate::snapshot::{AppSample, DONE_KEPT, Done, Snapshot};
use crate::transaction::Present;
use crate::units::{AppSlot, Nanos, SubnetIndex};
use channel::AgentEnd;
use channel::MAX_RUNNERS;
use channel::Totals;
use channel::msg::{DecisionMsg, FeedbackMsg};

/// Latencies kept for the percentiles of `tandem status`.
const WINDOW: usize = 64;

/// One runner.
#[derive(Debug)]
pub struct Runner {
    /// As policies know it.
    pub app: App,
    /// Its process, by the socket's credentials.
    pub pid: u32,
    /// Run-queue delay in one wait that wakes the loop at once.
    pub runq_bound: Option<Nanos>,
    /// What became of its profile, for people; `None`: the configuration has none.
    pub profile: Option<String>,
    /// The agent's end of the channel.
    end: AgentEnd,
    totals: Totals,
    ledger: Ledger,
    /// Of its newest inference.
    subnet: Option<SubnetIndex>,
}

/// What a runner did since it came.
#[derive(Debug)]
pub struct Ledger {
    /// The newest latencies, a ring.
    latencies: Vec<Nanos>,
    next: usize,
    /// Inferences over the target in force when they finished.
    pub violations: u64,
    /// Inferences by sub-network.
    pub by_subnet: Vec<u64>,
}

/// Who came, who left, who wants something else; from the gate to the loop.
#[derive(Debug)]
pub enum Change {
    /// Welcomed: its regions are mapped on both sides, and its process is in a group of its own unless the
    /// agent observes.
    Came(Box<Runner>, Option<Member>),
    /// Its connection ended.
    Left(AppSlot),
    /// It asked for another target itself.
    Target(AppSlot, Slo),
}

/// All of them.
#[derive(Debug)]
pub struct Runners {
    slots: Vec<Option<Box<Runner>>>,
    /// Who is present, in the order told to policies.
    order: Vec<AppSlot>,
    present: Vec<Present>,
}

impl Runner {
    /// A runner that was just welcomed.
    pub fn new(app: App, pid: u32, runq_bound: Option<Nanos>, end: AgentEnd) -> Self {
        let ledger = Ledger {
            latencies: Vec::with_capacity(WINDOW),
            next: 0,
            violations: 0,
            by_subnet: vec![0; app.subnets.len()],
        };
        Self { app, pid, runq_bound, profile: None, end, totals: Totals::default(), ledger, subnet: None }
    }

    /// Its counts at the last tick.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }
    /// What it did.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Reads what it reported since the last tick; an error drops it.
    fn read(&mut self, now: Nanos, sample: &mut AppSample) -> Result<(), String> {
        sample.slot = self.app.slot;
        (sample.run, sample.runq_delay, sample.subnet) = (None, None, self.subnet);
        sample.done.clear();
        let before = self.totals;
        let totals = self.end.totals();
        let since = |new: u64, old: u64, what: &str| {
            new.checked_sub(old)
                .and_then(|d| u32::try_from(d).ok())
                .ok_or_else(|| format!("{what} went from {old} to {new}; a total only rises"))
        };
        sample.arrived = since(totals.arrived, before.arrived, "arrived")?;
        sample.dropped = since(totals.dropped, before.dropped, "dropped")?;
        let finished = since(totals.done, before.done, "done")?;
        sample.queue = u32::try_from(totals.queue).unwrap_or(u32::MAX);
        sample.in_flight =
            (totals.in_flight_since_ns != 0).then(|| now.since(Nanos(totals.in_flight_since_ns)));
        let (app, ledger) = (&self.app, &mut self.ledger);
        let mut wrong = None;
        let drained = self.end.feedback.drain(|m: FeedbackMsg| match finished_inference(&m, app) {
            Ok(done) => {
                if sample.done.len() == DONE_KEPT {
                    sample.done.rotate_left(1);
                    sample.done.pop();
                }
                sample.done.push(done);
                sample.subnet = Some(done.subnet);
                ledger.add(done, app.target.latency);
            }
            Err(why) => wrong = Some(why),
        });
        drained.map_err(|e| e.to_string())?;
        if let Some(why) = wrong {
            return Err(why);
        }
        self.subnet = sample.subnet;
        sample.done_more = finished.saturating_sub(u32::try_from(sample.done.len()).unwrap_or(u32::MAX));
        self.totals = totals;
        Ok(())
    }
}

fn finished_inference(m: &FeedbackMsg, app: &App) -> Result<Done, String> {
    let subnet = usize::try_from(m.subnet).unwrap_or(usize::MAX);
    if subnet >= app.subnets.len() {
        return Err(format!("feedback names sub-network {}, there are {}", m.subnet, app.subnets.len()));
    }
    if !(m.arrived_ns <= m.started_ns && m.started_ns <= m.done_ns) {
        return Err(format!(
            "feedback says arrived {} started {} done {}; times rise",
            m.arrived_ns, m.started_ns, m.done_ns
        ));
    }
    if m.confidence > 1000 {
        return Err(format!("feedback says confidence {}; at most 1000", m.confidence));
    }
    Ok(Done {
        subnet: SubnetIndex(u16::try_from(subnet).expect("at most 64 sub-networks")),
        seq: m.seq,
        latency: Nanos(m.done_ns - m.arrived_ns),
        service: Nanos(m.done_ns - m.started_ns),
        confidence: u16::try_from(m.confidence).expect("at most 1000"),
    })
}

impl Ledger {
    fn add(&mut self, done: Done, target: Option<Nanos>) {
        self.violations += u64::from(target.is_some_and(|t| done.latency > t));
        self.by_subnet[usize::from(done.subnet.0)] += 1;
        if self.latencies.len() < WINDOW {
            self.latencies.push(done.latency);
        } else {
            self.latencies[self.next] = done.latency;
            self.next = (self.next + 1) % WINDOW;
        }
    }

    /// The `q`-th permille of the newest latencies (nearest rank); `None` before the first.
    pub fn percentile(&self, permille: usize) -> Option<Nanos> {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * permille).div_ceil(1000).max(1);
        sorted.get(rank - 1).copied()
    }
}

impl Default for Runners {
    fn default() -> Self {
        Self {
            slots: (0..MAX_RUNNERS).map(|_| None).collect(),
            order: Vec::with_capacity(MAX_RUNNERS),
            present: Vec::with_capacity(MAX_RUNNERS),
        }
    }
}

impl Runners {
    /// Who is present, in the order told to policies.
    pub fn iter(&self) -> impl Iterator<Item = &Runner> {
        self.order.iter().filter_map(|s| self.get(*s))
    }
    /// The runner in a slot.
    pub fn get(&self, slot: AppSlot) -> Option<&Runner> {
        self.slots.get(usize::from(slot.0))?.as_deref()
    }
    /// The applications, as policies are told.
    pub fn apps(&self) -> Vec<App> {
        self.iter().map(|r| r.app.clone()).collect()
    }
    /// The slot of an application.
    pub fn slot_of(&self, name: &str) -> Option<AppSlot> {
        self.iter().find(|r| r.app.name == name).map(|r| r.app.slot)
    }

    /// A runner comes; it is last in the order.
    pub fn insert(&mut self, runner: Box<Runner>) {
        let slot = runner.app.slot;
        self.order.retain(|&s| s != slot);
        self.order.push(slot);
        self.slots[usize::from(slot.0)] = Some(runner);
    }
    /// A runner goes.
    pub fn remove(&mut self, slot: AppSlot) -> Option<Box<Runner>> {
        self.order.retain(|&s| s != slot);
        self.slots.get_mut(usize::from(slot.0))?.take()
    }
    /// An application wants something else; false if it is not there.
    pub fn set_target(&mut self, slot: AppSlot, target: Slo) -> bool {
        let Some(Some(r)) = self.slots.get_mut(usize::from(slot.0)) else { return false };
        r.app.target = target;
        true
    }

    /// Reads every runner's report into `seen.apps`; the first one that misbehaves is returned.
    pub fn sample(&mut self, now: Nanos, seen: &mut Snapshot) -> Option<(AppSlot, String)> {
        let mut wrong = None;
        // Room is made when a runner comes; the buffers stay.
        while seen.apps.len() < self.order.len() {
            seen.apps.push(AppSample::new(AppSlot(0)));
        }
        seen.apps.truncate(self.order.len());
        self.present.clear();
        for (&slot, sample) in self.order.iter().zip(&mut seen.apps) {
            let Some(runner) = self.slots[usize::from(slot.0)].as_mut() else { continue };
            if let Err(why) = runner.read(now, sample) {
                wrong = wrong.or(Some((slot, why)));
            }
            self.present.push(Present { slot, taken: runner.totals.taken });
        }
        wrong
    }

    /// Those present, as of the last [`Self::sample`], and how to tell the one at a position something.
    pub fn present_and_publish(&mut self) -> (&[Present], impl FnMut(usize, &DecisionMsg)) {
        let Self { slots, order, present } = self;
        let publish = |i: usize, message: &DecisionMsg| {
            if let Some(runner) = order.get(i).and_then(|s| slots[usize::from(s.0)].as_mut()) {
                runner.end.decisions.publish(message);
            }
        };
        (present, publish)
    }
}
