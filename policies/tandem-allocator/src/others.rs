//! What runs on a domain beside the applications: without it, leaving a domain would seem to switch it off.

use policy_sdk::predict::{inverse, mul_div};
use policy_sdk::{CpuSample, Domain, OppRange};

/// A CPU is busy without a pause from here on, thousandths.
const FULL: u64 = 970;
/// After so long without one, what it did before is forgotten: the mean would need many seconds to.
const UNBROKEN_NS: u64 = 1_000_000_000;
/// Less than this of a CPU does not keep one busy, thousandths.
const HUNGRY: u64 = 200;
/// Head-room of schedutil's rule: `1.25 * f_top * util`.
const HEAD_ROOM: (u64, u64) = (5, 4);

/// The mean share of time, from the first window on; both sums are halved when the time grows long.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    /// Thousandths of ns.
    part: u64,
    time_ns: u64,
}

impl Mean {
    const LONG_NS: u64 = 2_000_000_000;

    fn add(&mut self, thousandths: u64, window_ns: u64) {
        self.part = self.part.saturating_add(thousandths.saturating_mul(window_ns));
        self.time_ns = self.time_ns.saturating_add(window_ns);
        if self.time_ns > Self::LONG_NS {
            (self.part, self.time_ns) = (self.part / 2, self.time_ns / 2);
        }
    }

    fn thousandths(self) -> u64 {
        self.part / self.time_ns.max(1)
    }
}

/// How busy a CPU is, whoever runs there.
#[derive(Debug)]
struct Cpu {
    number: usize,
    mean: Mean,
    /// For how long without a pause.
    unbroken_ns: u64,
}

impl Cpu {
    fn add(&mut self, thousandths: u64, window_ns: u64) {
        self.mean.add(thousandths, window_ns);
        if thousandths < FULL {
            self.unbroken_ns = 0;
            return;
        }
        let before = self.unbroken_ns;
        self.unbroken_ns = before.saturating_add(window_ns);
        if before < UNBROKEN_NS && self.unbroken_ns >= UNBROKEN_NS {
            self.mean = Mean::default();
            self.mean.add(thousandths, UNBROKEN_NS);
        }
    }
}

/// Of one domain.
#[derive(Debug)]
pub struct Others {
    cpus: Vec<Cpu>,
    /// CPU time of the applications there.
    apps: Mean,
    /// `f_top / f` in thousandths, by OPP.
    inverse: Vec<u64>,
    opp: u16,
}

impl Others {
    /// Nobody, until somebody is seen.
    pub fn new(domain: &Domain) -> Self {
        let idle = |c: &u32| Cpu { number: *c as usize, mean: Mean::default(), unbroken_ns: 0 };
        let cpus = domain.cpus.iter().map(idle).collect();
        Self { cpus, apps: Mean::default(), inverse: inverse(domain), opp: domain.top() }
    }

    /// Folds a window in; `apps_ns`: CPU time of the applications on this domain.
    pub fn observe(&mut self, cpus: &[CpuSample], apps_ns: u64, opp: Option<u16>, window_ns: u64) {
        self.opp = opp.unwrap_or(self.opp);
        for cpu in &mut self.cpus {
            if let Some(busy) = cpus.get(cpu.number).and_then(|c| c.busy) {
                cpu.add(u64::from(busy) * 1000 / 1024, window_ns);
            }
        }
        self.apps.add(mul_div(apps_ns, 1000, window_ns), window_ns);
    }

    fn slowness(&self, opp: u16) -> u64 {
        self.inverse.get(usize::from(opp)).copied().unwrap_or(1000)
    }

    /// How busy the domain's CPUs are, applications included, thousandths of one CPU.
    pub fn all(&self) -> u64 {
        self.cpus.iter().map(|c| c.mean.thousandths()).sum()
    }

    fn seen(&self) -> u64 {
        self.all().saturating_sub(self.apps.thousandths())
    }

    /// CPUs that somebody keeps busy at any clock.
    pub fn full(&self) -> u64 {
        let seen = self.seen();
        let full = self.cpus.iter().filter(|c| c.mean.thousandths() >= FULL).count() as u64;
        if seen < HUNGRY { 0 } else { full.min(seen.div_ceil(1000)) }
    }

    /// How busy they keep the domain's CPUs at that OPP, thousandths of one CPU. Who keeps a CPU busy takes what
    /// applications leave; of the others the work stays the same.
    pub fn busy(&self, opp: u16) -> u64 {
        let full = self.full() * 1000;
        let rest = self.seen().saturating_sub(full) * self.slowness(opp) / self.slowness(self.opp).max(1);
        full + rest
    }

    /// The lowest OPP of a range that schedutil would give them.
    pub fn opp(&self, range: OppRange) -> u16 {
        if self.full() > 0 {
            return range.hi;
        }
        let busiest = self.cpus.iter().map(|c| c.mean.thousandths()).max().unwrap_or(0).min(self.seen());
        let wants = busiest * HEAD_ROOM.0 / HEAD_ROOM.1;
        let serves = |opp: &u16| wants * self.slowness(*opp) / self.slowness(self.opp).max(1) <= 1000;
        (range.lo..range.hi).find(serves).unwrap_or(range.hi)
    }
}
