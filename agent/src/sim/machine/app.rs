//! One simulated application: frames come, wait, are served one at a time by the sub-network last told.

use super::domain::SimDomain;
use super::{find, mask};
use crate::policy::{App, Grant, Slo};
use crate::profile::Measured;
use crate::sim::model::Model;
use crate::sim::run_queue::Task;
use crate::sim::scenario::Scenario;
use crate::sim::sched::Place;
use crate::sim::stream::{Stream, noisy, random};
use crate::units::{AppSlot, DomainId, Nanos, OppIndex, SubnetIndex};
use channel::msg::DecisionMsg;
use rand_pcg::Pcg64Mcg;
use std::collections::VecDeque;

/// One finished inference.
pub type Done = crate::snapshot::Done;

/// The inference being served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub arrived: Nanos,
    pub started: Nanos,
    pub subnet: usize,
    pub seq: u64,
    /// What remains of it, 1 to 0.
    pub left: f64,
    /// Of it a nanosecond.
    pub rate: f64,
    /// Alone at the reference, ns.
    pub work_ns: f64,
    pub finish: Nanos,
}

/// What `tandem profile` finds of a sub-network on a quiet board: at the lowest, the middle and the top OPP of each
/// domain. `time_ns`: at the reference, on CPUs and on a device. The 90th percentile by the noise, which is normal.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive; hours of ns fit")]
fn measured(model: &Model, time_ns: [f64; 2], noise: f64) -> Vec<Measured> {
    const Z90: f64 = 1.2816;
    let mut points = Vec::new();
    for (id, domain) in (0..).map(DomainId).zip(&model.board.domains) {
        let alone = time_ns[usize::from(domain.cpus.is_empty())];
        let slow = model.slowness(id);
        let top = domain.top().0;
        let mut opps = vec![0, top / 2, top];
        opps.dedup();
        for opp in opps {
            let ns = alone * slow[usize::from(opp)];
            points.push(Measured {
                domain: id,
                opp: OppIndex(opp),
                threads: 1,
                p50: Nanos(ns as u64),
                p90: Nanos((ns * (1.0 + Z90 * noise)) as u64),
            });
        }
    }
    points
}

#[derive(Debug)]
pub(super) struct SimApp {
    pub app: App,
    pub target: Slo,
    /// Alone at the reference, ns, by sub-network; on CPUs, on a device.
    time_ns: [Vec<f64>; 2],
    queue_max: usize,
    pinned: u64,
    /// The domain that `pinned` is about.
    home: usize,
    pub stream: Stream,
    noise: f64,
    rng: Pcg64Mcg,
    pub waiting: VecDeque<Nanos>,
    pub flight: Option<Flight>,
    /// The newest it was told.
    pub order: DecisionMsg,
    pub grant: Option<Grant>,
    pub taken: u64,
    /// Where it runs; where it will run from the next inference on.
    pub domain: usize,
    pub next_domain: usize,
    pub weight: f64,
    pub place: Place,
    pub task: Task,
    pub queued: bool,
    /// Since last sensed.
    pub run_ns: f64,
    pub wait_ns: f64,
    pub arrived: u32,
    pub dropped: u32,
    pub done: Vec<Done>,
    pub done_more: u32,
    pub newest: Option<SubnetIndex>,
}

impl SimApp {
    /// `subnet`: fixed by the rule; else the largest until told.
    pub fn new(i: usize, scenario: &Scenario, model: &Model, subnet: Option<usize>) -> Result<Self, String> {
        let (plan, seed) = (&scenario.apps[i], scenario.seed);
        let named = plan.largest.map(|l| l.as_ms()).or_else(|| model.largest_ms(plan.network.name));
        let largest_ns = named.ok_or_else(|| {
            format!(
                "app {:?}: nothing says what {} takes there; give `largest-ms`",
                plan.name, plan.network.name
            )
        })? * 1e6;
        let slot = u16::try_from(i).map_err(|_| "too many applications")?;
        let home = find(model, plan.domain.as_deref()).map_err(|e| format!("app {:?}: {e}", plan.name))?;
        let last = plan.network.subnets.len() - 1;
        let subnet = u32::try_from(subnet.unwrap_or(last).min(last)).unwrap_or(0);
        let time = |cost: &[f64]| cost.iter().map(|c| c * largest_ns).collect();
        let time_ns: [Vec<f64>; 2] = [time(&plan.network.on_cpu), time(&plan.network.on_gpu)];
        let noise = model.constant("service-noise");
        let mut subnets = plan.network.subnets.clone();
        for (i, subnet) in subnets.iter_mut().enumerate() {
            subnet.measured = measured(model, [time_ns[0][i], time_ns[1][i]], noise);
        }
        Ok(Self {
            app: App {
                slot: AppSlot(slot),
                name: plan.name.clone(),
                subnets,
                threads_max: 1,
                target: plan.target_at(Nanos(0)),
            },
            target: plan.target_at(Nanos(0)),
            time_ns,
            queue_max: plan.queue,
            pinned: mask(&plan.cpus),
            home,
            stream: Stream::new(&plan.frames, scenario.length, random(seed, u64::from(slot) * 2)),
            noise,
            rng: random(seed, u64::from(slot) * 2 + 1),
            waiting: VecDeque::with_capacity(plan.queue),
            flight: None,
            order: DecisionMsg { subnet, threads: 1, ..DecisionMsg::default() },
            grant: None,
            taken: 0,
            domain: home,
            next_domain: home,
            weight: f64::from(formulas::weight::NICE_0),
            place: Place { cpu: i, share: 0.0 },
            task: Task::default(),
            queued: false,
            run_ns: 0.0,
            wait_ns: 0.0,
            arrived: 0,
            dropped: 0,
            done: Vec::with_capacity(crate::snapshot::DONE_KEPT),
            done_more: 0,
            newest: None,
        })
    }

    /// CPUs of its domain that it may use. As in the kernel, where a cpuset that has none of the CPUs of an affinity mask
    /// makes it void: its own CPUs are at home, on another domain it has what it is granted.
    pub fn allowed(&self) -> u64 {
        let cores = self.grant.map_or(0, |g| g.cores);
        let granted = if cores == 0 || cores >= 64 { u64::MAX } else { (1 << cores) - 1 };
        let own = if self.domain == self.home { self.pinned & granted } else { 0 };
        if own == 0 { granted } else { own }
    }

    /// A frame comes; true if an older one had to go.
    pub fn arrive(&mut self, now: Nanos) -> bool {
        self.arrived += 1;
        let full = self.waiting.len() >= self.queue_max;
        if full {
            self.waiting.pop_front();
            self.dropped += 1;
        }
        self.waiting.push_back(now);
        full
    }

    /// Begins the next inference, if one waits and none is in flight; takes what it was told last.
    pub fn start(&mut self, now: Nanos, device: impl Fn(usize) -> bool) -> bool {
        if self.flight.is_some() {
            return false;
        }
        let Some(arrived) = self.waiting.pop_front() else { return false };
        self.taken = self.order.seq;
        self.domain = self.next_domain;
        let times = &self.time_ns[usize::from(device(self.domain))];
        let subnet = usize::try_from(self.order.subnet).unwrap_or(0).min(times.len() - 1);
        let work_ns = times[subnet] * noisy(&mut self.rng, self.noise);
        let seq = self.order.seq;
        self.flight = Some(Flight {
            arrived,
            started: now,
            subnet,
            seq,
            left: 1.0,
            rate: 0.0,
            work_ns,
            finish: Nanos(u64::MAX),
        });
        true
    }

    /// What of the inference is done a nanosecond from now on.
    pub fn set_rate(&mut self, on: &SimDomain, crowd: f64, now: Nanos) {
        let Some(flight) = &mut self.flight else { return };
        flight.rate = self.place.share / (flight.work_ns * on.slow[on.opp] * crowd);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let rest = (flight.left / flight.rate).ceil() as u64;
        flight.finish = now + Nanos(rest);
    }

    /// Time passes.
    pub fn pass(&mut self, time_ns: f64) {
        if let Some(flight) = &mut self.flight {
            flight.left -= flight.rate * time_ns;
            self.run_ns += self.place.share.min(1.0) * time_ns;
            self.wait_ns += (1.0 - self.place.share.min(1.0)) * time_ns;
        }
    }

    /// The inference in flight is over.
    pub fn finish(&mut self, now: Nanos) -> Option<Flight> {
        let flight = self.flight.take()?;
        self.queued = false;
        let subnet = SubnetIndex(u16::try_from(flight.subnet).unwrap_or(0));
        self.newest = Some(subnet);
        if self.done.len() == crate::snapshot::DONE_KEPT {
            self.done.rotate_left(1);
            self.done.pop();
            self.done_more += 1;
        }
        // Confidence as if the network were calibrated: its accuracy.
        let confidence = self.app.subnets[flight.subnet].top1.0 / 10;
        let (latency, service) = (now.since(flight.arrived), now.since(flight.started));
        self.done.push(Done { subnet, seq: flight.seq, latency, service, confidence });
        Some(flight)
    }
}
