//! Builders for native tests: a board, a snapshot, a view, each with sensible values where a test does
//! not care.

use crate::{
    App, AppSample, Board, CpuSample, Domain, DomainSample, Done, FreqUnit, Grant, Opp, OtherSample, Param,
    Signal, SignalSample, Slo, Snapshot, Source, Subnet, View,
};

/// One millisecond, ns.
pub const MS: u64 = 1_000_000;

/// Parameters from pairs.
pub fn params(pairs: &[(&str, &str)]) -> Vec<Param> {
    pairs.iter().map(|(k, v)| Param { key: (*k).into(), value: (*v).into() }).collect()
}

/// A latency target in ms and an accuracy floor in hundredths of a point.
pub fn slo(latency_ms: Option<u64>, top1: Option<u16>) -> Slo {
    Slo { latency_ns: latency_ms.map(|ms| ms * MS), top1, ..Slo::default() }
}

/// An application named `name` with sub-networks of (name, top-1 in hundredths of a point, MACs), by
/// rising cost, up to four threads, no target.
pub fn app(name: &str, subnets: &[(&str, u16, u64)]) -> App {
    App {
        name: name.into(),
        subnets: subnets
            .iter()
            .map(|(name, top1, macs)| Subnet {
                name: (*name).into(),
                top1: *top1,
                macs: *macs,
                measured: vec![],
            })
            .collect(),
        threads_max: 4,
        target: Slo::default(),
    }
}

/// A [`Board`] with a tick of 10 ms and as many domains as are added.
#[derive(Debug)]
pub struct BoardBuilder(Board);

impl Default for BoardBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BoardBuilder {
    /// No domains yet.
    pub fn new() -> Self {
        Self(Board { name: "test".into(), period_ns: 10 * MS, domains: vec![], signals: vec![] })
    }
    /// Length of a tick.
    pub fn period_ms(mut self, ms: u64) -> Self {
        self.0.period_ns = ms * MS;
        self
    }
    /// CPUs sharing a clock, kHz.
    pub fn khz(self, name: &str, cpus: &[u32], freqs: &[u64]) -> Self {
        self.domain(name, FreqUnit::Khz, cpus, freqs)
    }
    /// A device's clock, Hz.
    pub fn hz(self, name: &str, freqs: &[u64]) -> Self {
        self.domain(name, FreqUnit::Hz, &[], freqs)
    }
    /// A bandwidth limit in place of a clock, thousandths of the CPUs' time.
    pub fn permille(self, name: &str, cpus: &[u32], shares: &[u64]) -> Self {
        self.domain(name, FreqUnit::Permille, cpus, shares)
    }
    fn domain(mut self, name: &str, unit: FreqUnit, cpus: &[u32], freqs: &[u64]) -> Self {
        self.0.domains.push(Domain {
            name: name.into(),
            unit,
            cpus: cpus.to_vec(),
            opps: freqs.iter().map(|f| Opp { freq: *f, power_mw: None }).collect(),
            transition_latency_ns: 0,
        });
        self
    }
    /// A slow sensor.
    pub fn signal(mut self, name: &str, unit: &str) -> Self {
        self.0.signals.push(Signal { name: name.into(), unit: unit.into(), source: Source::Measured });
        self
    }
    /// The board.
    pub fn build(self) -> Board {
        self.0
    }
}

/// A [`Snapshot`] of a board where nothing was measured, to be filled in.
#[derive(Debug)]
pub struct SnapshotBuilder(Snapshot);

impl SnapshotBuilder {
    /// For that board and that many applications; CPUs up to the highest in its domains.
    pub fn new(board: &Board, apps: usize) -> Self {
        let cpus = board.domains.iter().flat_map(|d| &d.cpus).max().map_or(1, |m| *m as usize + 1);
        Self(Snapshot {
            tick: 1,
            at_ns: board.period_ns,
            window_ns: board.period_ns,
            cpus: vec![CpuSample::default(); cpus],
            domains: vec![DomainSample::default(); board.domains.len()],
            apps: vec![AppSample::default(); apps],
            other: OtherSample::default(),
            signals: vec![SignalSample::default(); board.signals.len()],
        })
    }
    /// The `n`-th tick, windows being equal.
    pub fn tick(mut self, n: u64) -> Self {
        self.0.tick = n;
        self.0.at_ns = n * self.0.window_ns;
        self
    }
    /// That domain runs at that OPP with that utilisation.
    pub fn domain(mut self, domain: usize, opp: u16, util: u16) -> Self {
        self.0.domains[domain].opp = Some(opp);
        self.0.domains[domain].util = Some(util);
        self
    }
    /// That application as given.
    pub fn app(mut self, app: usize, sample: AppSample) -> Self {
        self.0.apps[app] = sample;
        self
    }
    /// Everything that is no application.
    pub fn other(mut self, run_ns: u64, runq_delay_ns: u64) -> Self {
        self.0.other = OtherSample { run_ns: Some(run_ns), runq_delay_ns: Some(runq_delay_ns) };
        self
    }
    /// That CPU was busy for that share of the window, 0..=1024.
    pub fn cpu(mut self, cpu: usize, busy: u16) -> Self {
        self.0.cpus[cpu].busy = Some(busy);
        self
    }
    /// The snapshot.
    pub fn build(self) -> Snapshot {
        self.0
    }
}

/// A [`View`] of one application on domain 0 where nothing was measured, to be filled in.
#[derive(Debug)]
pub struct ViewBuilder(View);

impl ViewBuilder {
    /// Granted all of domain 0 towards the application's own target.
    pub fn new(board: &Board, app: &App) -> Self {
        let s = SnapshotBuilder::new(board, 1).build();
        Self(View {
            tick: s.tick,
            at_ns: s.at_ns,
            window_ns: s.window_ns,
            app: AppSample::default(),
            domain: DomainSample::default(),
            other: s.other,
            grant: Grant::whole(0, app.target),
        })
    }
    /// The `n`-th tick, windows being equal.
    pub fn tick(mut self, n: u64) -> Self {
        self.0.tick = n;
        self.0.at_ns = n * self.0.window_ns;
        self
    }
    /// Its domain runs at that OPP with that utilisation.
    pub fn domain(mut self, opp: u16, util: u16) -> Self {
        self.0.domain.opp = Some(opp);
        self.0.domain.util = Some(util);
        self
    }
    /// Its grant.
    pub fn grant(mut self, grant: Grant) -> Self {
        self.0.grant = grant;
        self
    }
    /// One inference arrived and finished.
    pub fn finished(mut self, subnet: u16, latency_ns: u64, service_ns: u64) -> Self {
        self.0.app.arrived += 1;
        self.0.app.subnet = Some(subnet);
        self.0.app.finished.push(Done { subnet, latency_ns, service_ns, ..Done::default() });
        self
    }
    /// Inferences waiting, and how long the one in flight has been running.
    pub fn waiting(mut self, queue: u32, in_flight_ns: Option<u64>) -> Self {
        self.0.app.queue = queue;
        self.0.app.in_flight_ns = in_flight_ns;
        self
    }
    /// CPU time of its threads and their time on run queues.
    pub fn run(mut self, run_ns: u64, runq_delay_ns: u64) -> Self {
        self.0.app.run_ns = Some(run_ns);
        self.0.app.runq_delay_ns = Some(runq_delay_ns);
        self
    }
    /// Everything that is no application.
    pub fn other(mut self, run_ns: u64, runq_delay_ns: u64) -> Self {
        self.0.other = OtherSample { run_ns: Some(run_ns), runq_delay_ns: Some(runq_delay_ns) };
        self
    }
    /// The view.
    pub fn build(self) -> View {
        self.0
    }
}
