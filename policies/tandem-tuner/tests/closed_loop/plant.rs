//! A small plant: one server with a queue, whose service time is MACs over frequency,
//! times contention, times noise. The plant obeys like the agent and the runner do: the sub-network
//! changes between inferences, the OPP at the next tick.

use policy_sdk::testing::{BoardBuilder, MS, app, params, slo};
use policy_sdk::{
    Allocator, App, AppSample, Board, Choice, DomainSample, Done, Grant, OtherSample, Snapshot, Tuner, View,
};
use std::collections::VecDeque;
use tandem_allocator::TandemAllocator;
use tandem_tuner::TandemTuner;

pub const TICK: u64 = 10 * MS;
pub const SECOND: u64 = 1000 * MS;
pub const KHZ: [u64; 4] = [500_000, 1_000_000, 1_500_000, 2_000_000];

/// xorshift64*: the same noise every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }
    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    /// Exponential with that mean.
    pub fn exponential(&mut self, mean: u64) -> u64 {
        let u = (self.below(1 << 30) + 1) as f64 / (1u64 << 30) as f64;
        (-u.ln() * mean as f64) as u64
    }
}

#[derive(Clone, Copy)]
pub enum Stream {
    Periodic(u64),
    Poisson(u64),
    /// So many at once, every so often.
    Bursts(u64, u64),
}

pub struct Plant {
    pub board: Board,
    pub app: App,
    pub tuner: TandemTuner,
    pub random: Random,
    pub stream: Stream,
    /// Service of the largest sub-network at the top OPP, ns.
    pub full_ns: u64,
    /// True costs against the largest, thousandths.
    pub costs: Vec<u64>,
    /// Part of the service that ignores the clock, thousandths.
    pub insensitive: u64,
    /// Thousandths; 1000 = alone.
    pub contention: u64,
    /// Thousandths of noise, and one in so many inferences takes three times as long.
    pub noise: u64,
    pub outlier: u64,
    /// Added to the next inference, once.
    pub stall_ns: u64,
    pub has_clock: bool,
    pub runq_known: bool,
    /// With an allocator the contention follows from the weight it gives, while a co-runner runs.
    pub allocator: Option<TandemAllocator>,
    pub co_runner: bool,
    /// CPU time of others in each tick, on no CPU of the domain, ns.
    pub elsewhere_ns: u64,
    /// Waits for a CPU that nobody else used, as waking up is on a slow machine: thousandths of the time on it.
    pub wakes: u64,
    pub weight: u16,

    pub now: u64,
    pub tick: u64,
    pub choice: Choice,
    pub opp: u16,
    pub next_arrival: u64,
    pub queue: VecDeque<u64>,
    /// (arrived, started, finishes, sub-network)
    pub running: Option<(u64, u64, u64, u16)>,
    pub log: Vec<(u64, Choice, Vec<Done>)>,
}

impl Plant {
    pub fn new(board: Board, app: App) -> Self {
        let tuner = policy_sdk::start_tuner(&board, &app, params(&[])).unwrap();
        let largest = app.subnets.last().unwrap().macs;
        Self {
            costs: app.subnets.iter().map(|s| s.macs * 1000 / largest).collect(),
            board,
            app,
            tuner,
            random: Random(0x9E37_79B9_7F4A_7C15),
            stream: Stream::Periodic(60 * MS),
            full_ns: 24 * MS,
            insensitive: 0,
            contention: 1000,
            noise: 50,
            outlier: 0,
            stall_ns: 0,
            has_clock: true,
            runq_known: true,
            allocator: None,
            co_runner: false,
            elsewhere_ns: 0,
            wakes: 0,
            weight: 100,
            now: 0,
            tick: 0,
            choice: Choice::default(),
            opp: 0,
            next_arrival: 0,
            queue: VecDeque::new(),
            running: None,
            log: vec![],
        }
    }

    pub fn service(&mut self, subnet: u16) -> u64 {
        let domain = &self.board.domains[0];
        let top = domain.freq(domain.top()).unwrap();
        let slow = self.insensitive + (1000 - self.insensitive) * top / domain.freq(self.opp).unwrap();
        let mut ns = self.full_ns * self.costs[usize::from(subnet)] / 1000 * slow / 1000;
        ns = ns * self.contention / 1000;
        ns = ns * (1000 + self.random.below(self.noise + 1)) / 1000;
        if self.outlier > 0 && self.random.below(self.outlier) == 0 {
            ns *= 3;
        }
        ns + std::mem::take(&mut self.stall_ns)
    }

    pub fn arrive(&mut self) -> u32 {
        let mut arrived = 0;
        while self.next_arrival <= self.now {
            let (count, gap) = match self.stream {
                Stream::Periodic(gap) => (1, gap),
                Stream::Poisson(mean) => (1, self.random.exponential(mean)),
                Stream::Bursts(count, gap) => (count, gap),
            };
            for _ in 0..count {
                self.queue.push_back(self.next_arrival);
                arrived += 1;
            }
            self.next_arrival += gap.max(1);
        }
        arrived
    }

    /// One tick: the plant runs in steps of 0.1 ms, then the tuner looks.
    pub fn step(&mut self) {
        let (mut arrived, mut finished, mut run) = (0, vec![], 0);
        for _ in 0..100 {
            self.now += TICK / 100;
            arrived += self.arrive();
            if let Some((at, started, ends, subnet)) = self.running
                && ends <= self.now
            {
                finished.push(Done {
                    subnet,
                    latency_ns: ends.saturating_sub(at),
                    service_ns: ends - started,
                    ..Done::default()
                });
                self.running = None;
            }
            if self.running.is_none()
                && let Some(at) = self.queue.pop_front()
            {
                let subnet = self.choice.subnet;
                let ends = self.now + self.service(subnet);
                self.running = Some((at, self.now, ends, subnet));
            }
            if self.running.is_some() {
                run += TICK / 100;
            }
        }
        self.tick += 1;
        let worked = run * 1000 / self.contention;
        let mut view = View {
            tick: self.tick,
            at_ns: self.now,
            window_ns: TICK,
            app: AppSample {
                subnet: self.running.map(|r| r.3),
                run_ns: self.runq_known.then_some(worked),
                runq_delay_ns: self.runq_known.then_some(run - worked + worked * self.wakes / 1000),
                queue: u32::try_from(self.queue.len()).unwrap(),
                in_flight_ns: self.running.map(|r| self.now - r.1),
                arrived,
                dropped: 0,
                finished: finished.clone(),
                finished_more: 0,
            },
            domain: DomainSample {
                opp: self.has_clock.then_some(self.opp),
                util: self.runq_known.then_some(u16::try_from(run * 1024 / TICK).unwrap()),
                ..DomainSample::default()
            },
            other: OtherSample {
                run_ns: self.runq_known.then_some(self.elsewhere_ns),
                ..OtherSample::default()
            },
            grant: Grant::whole(0, self.app.target),
        };
        if let Some(allocator) = &mut self.allocator {
            view.other.run_ns = Some(if self.co_runner { TICK } else { 0 });
            let seen = Snapshot {
                tick: view.tick,
                at_ns: view.at_ns,
                window_ns: view.window_ns,
                domains: vec![view.domain],
                apps: vec![view.app.clone()],
                other: view.other,
                ..Snapshot::default()
            };
            view.grant = allocator.decide(&seen).grants[0].unwrap();
            self.weight = view.grant.weight;
            self.contention = if self.co_runner { 1000 + 160_000 / u64::from(self.weight) } else { 1000 };
        }
        let next = self.tuner.decide(&view);
        assert!(usize::from(next.subnet) < self.app.subnets.len() && next.threads >= 1);
        let top = self.board.domains[0].top();
        self.opp = next.ask.map_or(top, |o| {
            assert!(o <= top);
            o
        });
        self.choice = next;
        self.log.push((self.now, next, finished));
    }

    pub fn run(&mut self, seconds: u64) -> &mut Self {
        for _ in 0..seconds * SECOND / TICK {
            self.step();
        }
        self
    }

    /// Share of the inferences finished in the last `seconds` that missed the target, thousandths.
    pub fn missed(&self, seconds: u64) -> u64 {
        let target = self.app.target.latency_ns.unwrap();
        let recent = self.log.iter().filter(|(at, ..)| at + seconds * SECOND > self.now);
        let done: Vec<&Done> = recent.flat_map(|(_, _, d)| d).collect();
        assert!(!done.is_empty());
        done.iter().filter(|d| d.latency_ns > target).count() as u64 * 1000 / done.len() as u64
    }

    /// Changes of sub-network or OPP in the last `seconds`.
    pub fn switches(&self, seconds: u64) -> usize {
        let recent: Vec<&Choice> =
            self.log.iter().filter(|(at, ..)| at + seconds * SECOND > self.now).map(|(_, c, _)| c).collect();
        recent.windows(2).filter(|w| (w[0].subnet, w[0].ask) != (w[1].subnet, w[1].ask)).count()
    }

    /// Mean index of the chosen sub-network over the last `seconds`, hundredths.
    pub fn mean_subnet(&self, seconds: u64) -> u64 {
        let recent: Vec<u64> = self
            .log
            .iter()
            .filter(|(at, ..)| at + seconds * SECOND > self.now)
            .map(|(_, c, _)| u64::from(c.subnet))
            .collect();
        recent.iter().sum::<u64>() * 100 / recent.len() as u64
    }
}

/// The group-convolution network of MLCAD'19 in outline: a quarter, a half, three quarters, all.
pub fn network(latency_ms: u64, top1: Option<u16>) -> App {
    let mut app = app(
        "cam",
        &[("25", 8000, 250_000), ("50", 8500, 700_000), ("75", 8800, 1_300_000), ("100", 9000, 2_000_000)],
    );
    app.target = slo(Some(latency_ms), top1);
    app
}

pub fn cpu() -> Board {
    BoardBuilder::new().khz("cpu", &[0, 1], &KHZ).build()
}
