//! Allocator `schedutil@tick`: the schedutil governor's formula on our snapshot, once a tick.
//!
//! What it is not: the kernel's governor. That one runs at every update of the scheduler's load, knows
//! util_est, RT, deadline and interrupt time, and boosts after I/O waits. Here utilisation is the share
//! of the window that the domain's busiest CPU was busy, made frequency-invariant by the OPP it ran at,
//! averaged as PELT averages (half-life 32 ms), then `1.25 x f_max x util` and the lowest OPP at or above.
//!
//! Parameters: `domain` (see `kernel-style`), `pelt` = true or false (default true; false: each window
//! counts alone). A domain whose utilisation is not measured is left alone; one whose OPP is not measured
//! counts as being where it was last asked to be.

use formulas::{pelt, relation::Table, schedutil};
use kernel_style::{KernelStyle, Rule};
use policy_sdk::{Domain, DomainSample, OppRange, Params};

/// The rule of one domain.
#[derive(Debug)]
pub struct Schedutil {
    freqs: Vec<u64>,
    average: Option<pelt::Average>,
    asked: Option<u16>,
}

impl Rule for Schedutil {
    fn start(domain: &Domain, params: &mut Params) -> Result<Self, String> {
        let average = params.get("pelt", "true or false", true)?.then(pelt::Average::default);
        Ok(Self { freqs: domain.freqs(), average, asked: None })
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
        let util = match &mut self.average {
            Some(average) => u64::from(average.add(u16::try_from(now).unwrap_or(1024), window_ns)),
            None => now,
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

/// See the crate's text.
pub type Policy = KernelStyle<Schedutil>;

policy_sdk::export_allocator!(Policy);
