//! One domain: its clock, who is on it, what it draws.

use super::mhz;
use crate::sim::kernel::{Kernel, TICK};
use crate::sim::model::Model;
use crate::sim::run_queue::{RunQueue, Task};
use crate::sim::sched::{CPUS, Place, Thread, spread};
use crate::units::{DomainId, Nanos, OppIndex};

/// A simulated domain.
#[derive(Debug)]
pub struct SimDomain {
    /// Its name.
    pub name: String,
    /// CPU numbers; empty: a device.
    pub cpus: Vec<u32>,
    /// By OPP.
    pub mhz: Vec<f64>,
    /// Time against the reference, by OPP.
    pub slow: Vec<f64>,
    /// Work a second of one CPU, by OPP; of a device in MHz of its own top clock.
    pub work: Vec<f64>,
    busy_mw: Vec<Vec<f64>>,
    speed_up: Vec<f64>,
    idle_share: f64,
    /// What a change of the clock takes.
    pub latency: Nanos,
    /// Where its clock is.
    pub opp: usize,
    /// Where it is going, and when it arrives.
    pub pending: Option<(Nanos, usize)>,
    /// The highest OPP that something outside allows.
    pub cap: OppIndex,
    /// The same without heat.
    pub outside: OppIndex,
    /// A rail shows its power.
    pub rail: bool,
    /// Runnable threads by CPU; a device: in flight.
    on: Vec<u16>,
    /// mW, at this moment.
    pub power_mw: f64,
    /// mJ since the start.
    pub energy_mj: f64,
    /// ns since the start, by OPP.
    pub residency: Vec<u64>,
    /// Busy time since last sensed, ns, by CPU.
    pub busy_ns: Vec<u64>,
    /// mJ when last sensed.
    pub sensed_mj: f64,
    /// Clock changes since last sensed.
    pub moves: u32,
    /// Clock changes since the start.
    pub moves_all: u64,
    /// Who sets its clock, if not the agent.
    pub kernel: Option<Kernel>,
    queues: Vec<RunQueue>,
    /// A device's busy and total time since its governor last looked.
    looked: [u64; 2],
    /// The load changed: a moment for the kernel's governor.
    pub touched: bool,
    /// The scheduler's next tick.
    pub next_tick: Nanos,
}

impl SimDomain {
    /// Idle; under a kernel governor at its highest OPP, as after `performance`, else at its lowest.
    ///
    /// # Errors
    /// A governor that cannot govern it.
    pub fn new(model: &Model, id: DomainId, kernel: Option<Kernel>) -> Result<Self, String> {
        let board = model.domain(id);
        let top = board.top();
        let of_cpus = !board.cpus.is_empty();
        if let Some(which) = kernel.as_ref().and_then(|k| k.misfit(of_cpus)) {
            return Err(format!("domain {:?}: the governor {which}", board.name));
        }
        if board.cpus.len() > CPUS {
            return Err(format!(
                "domain {:?}: {} CPUs, at most {CPUS} are simulated",
                board.name,
                board.cpus.len()
            ));
        }
        let places = board.cpus.len().max(1);
        let opps = board.opps.len();
        let work = if of_cpus {
            (0..opps).map(|o| model.work_rate(id, o)).collect()
        } else {
            device_work(model, id)
        };
        let mut domain = Self {
            name: board.name.clone(),
            cpus: board.cpus.clone(),
            mhz: board.opps.iter().map(mhz).collect(),
            slow: model.slowness(id),
            work,
            busy_mw: model.busy_power(id),
            speed_up: model.domains[usize::from(id.0)].speed_up.clone(),
            idle_share: model.constant("idle-share"),
            latency: board.transition_latency,
            opp: if kernel.is_some() { opps - 1 } else { 0 },
            pending: None,
            cap: top,
            outside: top,
            rail: model.domains[usize::from(id.0)].rail,
            on: vec![0; places],
            power_mw: 0.0,
            energy_mj: 0.0,
            residency: vec![0; opps],
            busy_ns: vec![0; places],
            sensed_mj: 0.0,
            moves: 0,
            moves_all: 0,
            queues: vec![RunQueue::default(); board.cpus.len()],
            kernel,
            looked: [0; 2],
            touched: true,
            next_tick: TICK,
        };
        domain.set_power();
        Ok(domain)
    }

    /// The fastest OPP.
    pub fn top(&self) -> OppIndex {
        OppIndex(u16::try_from(self.mhz.len() - 1).unwrap_or(0))
    }

    /// CPUs with somebody on them; a device that works counts as one.
    pub fn busy_cpus(&self) -> usize {
        self.on.iter().filter(|n| **n > 0).count()
    }

    /// Whether anybody is on it.
    pub fn busy(&self) -> bool {
        self.on.iter().any(|n| *n > 0)
    }

    /// Places all that is runnable here. On a device everybody gets the same part of what so many in
    /// flight are served faster together.
    pub fn place(&mut self, threads: &[Thread], places: &mut Vec<Place>) {
        self.on.fill(0);
        if self.cpus.is_empty() {
            places.clear();
            let n = threads.len();
            self.on[0] = u16::try_from(n).unwrap_or(u16::MAX);
            let known = self.speed_up.get(n.saturating_sub(1)).or(self.speed_up.last());
            let count = u32::try_from(n.max(1)).unwrap_or(1);
            let share = known.copied().unwrap_or(1.0) / f64::from(count);
            places.resize(n, Place { cpu: 0, share });
        } else {
            spread(threads, self.cpus.len(), places);
            places.iter().for_each(|p| self.on[p.cpu] += 1);
        }
    }

    /// The power it draws now: `P (idle + (1 - idle) busy CPUs / CPUs)`.
    pub fn set_power(&mut self) {
        let first = self.busy_mw[0][self.opp];
        self.power_mw = if self.cpus.is_empty() {
            match usize::from(self.on[0]) {
                0 => first * self.idle_share,
                n => self.busy_mw.get(n - 1).or(self.busy_mw.last()).map_or(first, |row| row[self.opp]),
            }
        } else {
            let share = |n: usize| f64::from(u32::try_from(n).unwrap_or(0));
            let busy = share(self.busy_cpus()) / share(self.cpus.len());
            first * (self.idle_share + (1.0 - self.idle_share) * busy)
        };
    }

    /// Time passes with everything as it is. Answers what PELT counts on each CPU, if anybody asks for it.
    pub fn pass(&mut self, time: Nanos) {
        self.energy_mj += self.power_mw * time.as_secs();
        self.residency[self.opp] += time.0;
        for (busy, on) in self.busy_ns.iter_mut().zip(&self.on) {
            *busy += if *on > 0 { time.0 } else { 0 };
        }
        if self.kernel.is_some() {
            self.looked[0] += if self.on[0] > 0 { time.0 } else { 0 };
            self.looked[1] += time.0;
        }
    }

    /// Whether the kernel's governor here needs averages, and the scale of time they count in at this clock.
    pub fn pelt_scale(&self) -> Option<u64> {
        let invariant = self.kernel.as_ref()?.pelt()?;
        if !invariant {
            return Some(1024);
        }
        let share = self.mhz[self.opp] / self.mhz[self.mhz.len() - 1];
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1024")]
        Some((share * 1024.0) as u64)
    }

    /// The run queues of its CPUs.
    pub fn queues(&mut self) -> &mut [RunQueue] {
        &mut self.queues
    }

    /// A thread is now there; before it was elsewhere, or asleep.
    pub fn migrate(&mut self, from: usize, to: usize, task: &mut Task, queued: bool) {
        if self.kernel.is_none() || self.cpus.is_empty() || (queued && from == to) {
            return;
        }
        if queued {
            self.queues[from].leave(task);
        }
        self.queues[to].enqueue(task);
        self.touched = true;
    }

    /// A thread sleeps.
    pub fn sleep(&mut self, cpu: usize, task: &mut Task) {
        if self.kernel.is_some() && !self.cpus.is_empty() {
            self.queues[cpu].dequeue(task);
        }
        self.touched = true;
    }

    /// The clock has arrived.
    pub fn arrive(&mut self, opp: usize) {
        self.pending = None;
        if opp != self.opp {
            self.opp = opp;
            self.moves += 1;
            self.moves_all += 1;
        }
    }

    /// Sets out for an OPP, at most to the cap.
    pub fn go(&mut self, now: Nanos, opp: usize) {
        let opp = opp.min(usize::from(self.cap.0));
        let going = self.pending.map_or(self.opp, |p| p.1);
        if going == opp {
            return;
        }
        self.pending = (self.opp != opp).then_some((now + self.latency, opp));
    }

    /// The cap changed: the kernel's governor looks anew.
    pub fn recap(&mut self) {
        self.touched = true;
        if let Some(kernel) = &mut self.kernel {
            kernel.limits();
        }
    }

    /// Whether the scheduler ticks now.
    pub fn ticks(&mut self, now: Nanos) -> bool {
        let ticks = now >= self.next_tick;
        if ticks {
            self.next_tick = Nanos((now.0 / TICK.0 + 1) * TICK.0);
        }
        ticks && self.busy()
    }

    /// Lets the kernel's governor look, if this is a moment for it. One that comes before its rate allows is lost.
    pub fn look(&mut self, now: Nanos, ticked: bool) {
        let moment = std::mem::take(&mut self.touched) || ticked;
        let Some(kernel) = &mut self.kernel else { return };
        let polls = kernel.poll().is_some_and(|at| now >= at);
        if !(moment || polls) || !kernel.due(now) {
            return;
        }
        // A write under way is finished first, as the kernel's worker would.
        let current = self.pending.map_or(self.opp, |p| p.1);
        if let Some(opp) = kernel.look(now, current, self.cap.0, &mut self.queues, self.looked) {
            self.go(now, usize::from(opp));
        }
        if polls {
            self.looked = [0; 2];
        }
    }

    /// The next moment by itself: a clock that arrives, a tick, a poll.
    pub fn next_event(&self) -> Nanos {
        let arrives = self.pending.map_or(Nanos(u64::MAX), |p| p.0);
        let Some(kernel) = &self.kernel else { return arrives };
        let tick = if self.busy() && !self.cpus.is_empty() { self.next_tick } else { Nanos(u64::MAX) };
        let poll = kernel.poll().unwrap_or(Nanos(u64::MAX));
        arrives.min(tick).min(poll)
    }
}

/// What a device gets done a second at each OPP, as MHz of its top clock: a co-runner there is a second job in flight.
fn device_work(model: &Model, id: DomainId) -> Vec<f64> {
    let opps = &model.domain(id).opps;
    let top = opps.last().map_or(0.0, mhz);
    model.slowness(id).iter().map(|slow| top / slow).collect()
}
