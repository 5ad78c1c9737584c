//! schedutil's rule, once a tick: for the allocator `schedutil`, and for domains that another allocator leaves to
//! whoever runs there.
//!
//! Utilisation is the share of the window that the domain's busiest CPU was busy, made frequency-invariant by the
//! OPP it ran at, averaged as PELT averages (half-life 32 ms), then `1.25 x f_max x util` and the lowest OPP at or
//! above.

use crate::Rule;
use formulas::{pelt, relation::Table, schedutil};
use policy_sdk::{Domain, DomainSample, OppRange, Params};

/// The rule of one domain.
#[derive(Debug)]
pub struct Schedutil {
    freqs: Vec<u64>,
    pelt: bool,
    /// From the first window on: a policy swapped in must not think the CPU was idle before.
    average: Option<pelt::Average>,
    asked: Option<u16>,
}

impl Schedutil {
    /// Nothing seen yet. Without `pelt` each window counts alone.
    pub fn new(domain: &Domain, pelt: bool) -> Self {
        Self { freqs: domain.freqs(), pelt, average: None, asked: None }
    }
}

impl Rule for Schedutil {
    fn start(domain: &Domain, params: &mut Params) -> Result<Self, String> {
        Ok(Self::new(domain, params.get("pelt", "true or false", true)?))
    }
    fn next(
        &mut self,
        domain: &Domain,
        limits: OppRange,
        seen: &DomainSample,
        window_ns: u64,
    ) -> Option<u16> {
        let table = Table::new(&self.freqs, limits.lo, limits.hi)?;
        let raw = seen.util?.min(1024);
        let opp = seen.opp.or(self.asked).unwrap_or(domain.top());
        let current = domain.freq(opp)?;
        let now = schedutil::invariant(u64::from(raw), current, table.hardware_max());
        let util = if self.pelt {
            let now = u16::try_from(now).unwrap_or(1024);
            let average = self.average.get_or_insert_with(|| pelt::Average::starting_at(now));
            u64::from(average.add(now, window_ns))
        } else {
            now
        };
        let mut next = schedutil::next(schedutil::Util::Invariant(util), current, table);
        if raw == 1024 {
            // A busy CPU hides how much it needs. Two things the kernel has for that: PELT's clock runs
            // slower at a low frequency until idle time returns (`update_rq_clock_pelt`), so a saturated
            // CPU climbs; and "do not reduce the frequency if the CPU has not been idle recently".
            let climb = schedutil::next(schedutil::Util::Raw(u64::from(raw)), current, table);
            next = next.max(climb);
        }
        self.asked = Some(next);
        Some(next)
    }
}
