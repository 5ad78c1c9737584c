//! What a run is judged by: every frame, energy, residency; from the end of the warm-up on.

use super::domain::SimDomain;
use crate::units::Nanos;
use serde::Serialize;

/// One frame that finished.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Frame {
    /// Whose.
    pub app: u16,
    /// When it came, ns.
    pub arrived: Nanos,
    /// When it was done, ns.
    pub finished: Nanos,
    /// By which sub-network.
    pub subnet: u16,
    /// Later than the target in force then.
    pub late: bool,
}

/// A clock that changed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Moved {
    /// When, ns.
    pub at: Nanos,
    /// Which domain.
    pub domain: u16,
    /// To which OPP.
    pub opp: u16,
    /// The highest allowed then.
    pub cap: u16,
}

/// One domain's energy and residency.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DomainBook {
    /// mJ
    pub energy_mj: f64,
    /// ns, by OPP.
    pub residency_ns: Vec<u64>,
    /// Clock changes.
    pub moves: u64,
}

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Book {
    /// The warm-up's end.
    pub begin: Nanos,
    /// The run's.
    pub end: Nanos,
    /// Finished since the start of the run (the warm-up's too).
    pub frames: Vec<Frame>,
    /// By application: came, were dropped.
    pub arrived: Vec<u64>,
    /// By application.
    pub dropped: Vec<u64>,
    /// By application: not finished at the end, and later than the target already.
    pub overdue: Vec<u64>,
    /// By domain.
    pub domains: Vec<DomainBook>,
    /// By co-runner: work done, in MHz s of the reference core.
    pub work: Vec<f64>,
    /// Clock changes, the warm-up's too.
    pub moved: Vec<Moved>,
    /// The highest temperature, C.
    pub hottest: f64,
    /// Temperature at each look of the thermal zone's, C; the warm-up's too. Only of a board that shows one.
    #[serde(skip)]
    pub heat: Vec<(Nanos, f64)>,
}

impl Book {
    pub(super) fn new(domains: &[SimDomain], apps: usize, co_runners: usize) -> Self {
        let moved = |(d, domain): (usize, &SimDomain)| Moved {
            at: Nanos(0),
            domain: index(d),
            opp: index(domain.opp),
            cap: domain.cap.0,
        };
        Self {
            arrived: vec![0; apps],
            dropped: vec![0; apps],
            overdue: vec![0; apps],
            domains: vec![DomainBook::default(); domains.len()],
            work: vec![0.0; co_runners],
            moved: domains.iter().enumerate().map(moved).collect(),
            ..Self::default()
        }
    }

    /// The warm-up is over: what was counted so far counts no more.
    pub(super) fn settle(&mut self, now: Nanos, domains: &[SimDomain]) {
        self.begin = now;
        self.hottest = 0.0;
        self.arrived.fill(0);
        self.dropped.fill(0);
        self.work.fill(0.0);
        for (book, d) in self.domains.iter_mut().zip(domains) {
            // Taken off again at the end.
            *book =
                DomainBook { energy_mj: d.energy_mj, residency_ns: d.residency.clone(), moves: d.moves_all };
        }
    }

    pub(super) fn close_domain(&mut self, i: usize, d: &SimDomain) {
        let from = std::mem::take(&mut self.domains[i]);
        let at = |i: usize| from.residency_ns.get(i).copied().unwrap_or(0);
        self.domains[i] = DomainBook {
            energy_mj: d.energy_mj - from.energy_mj,
            residency_ns: d.residency.iter().enumerate().map(|(i, r)| r - at(i)).collect(),
            moves: d.moves_all - from.moves,
        };
    }

    /// A clock or a cap changed.
    pub(super) fn note(&mut self, now: Nanos, d: usize, domain: &SimDomain) {
        self.moved.push(Moved { at: now, domain: index(d), opp: index(domain.opp), cap: domain.cap.0 });
    }

    /// Frames that came after the warm-up.
    pub fn counted(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter().filter(|f| f.arrived >= self.begin)
    }
}

pub(super) fn index(i: usize) -> u16 {
    u16::try_from(i).unwrap_or(u16::MAX)
}
