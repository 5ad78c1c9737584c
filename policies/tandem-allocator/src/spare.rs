//! Domains that no application is granted: others run there, and their clock must not stand still.
//!
//! schedutil's formula on the snapshot, as the allocator `schedutil@tick` applies it.

use formulas::relation::Table;
use formulas::{pelt, schedutil};
use policy_sdk::{Domain, DomainSample, OppRange};

/// One such domain.
#[derive(Debug)]
pub struct Spare {
    freqs: Vec<u64>,
    average: Option<pelt::Average>,
    asked: u16,
}

impl Spare {
    /// Nothing seen yet.
    pub fn new(domain: &Domain) -> Self {
        Self { freqs: domain.freqs(), average: None, asked: domain.top() }
    }

    /// An application came: what was seen of others counts no more.
    pub fn forget(&mut self) {
        self.average = None;
    }

    /// The OPP for what runs there; `None`: its utilisation is not measured, and it stays where it is.
    pub fn ask(&mut self, limits: OppRange, seen: &DomainSample, window_ns: u64) -> Option<u16> {
        let table = Table::new(&self.freqs, limits.lo, limits.hi)?;
        let raw = u64::from(seen.util?.min(1024));
        let current = *self.freqs.get(usize::from(seen.opp.unwrap_or(self.asked)))?;
        let now = schedutil::invariant(raw, current, table.hardware_max());
        let now = u16::try_from(now).unwrap_or(1024);
        let average = self.average.get_or_insert_with(|| pelt::Average::starting_at(now));
        let util = u64::from(average.add(now, window_ns));
        let mut next = schedutil::next(schedutil::Util::Invariant(util), current, table);
        if raw == 1024 {
            // A busy CPU hides how much it needs: climb.
            next = next.max(schedutil::next(schedutil::Util::Raw(raw), current, table));
        }
        self.asked = next;
        Some(next)
    }
}
