//! Allocator `ondemand`: each domain as the kernel's governor of that name would set it, at our tick.
//!
//! Parameters: `domain` (see `kernel-style`), `up-threshold` (1..=100 %, default 95). A domain whose
//! utilisation is not measured is left alone. The kernel samples every 10 ms or more; a shorter tick of
//! ours makes it correspondingly more nervous.

use formulas::{load, ondemand, relation::Table};
use kernel_style::{KernelStyle, Rule};
use policy_sdk::{Domain, DomainSample, OppRange, Params};

/// The rule of one domain.
#[derive(Debug)]
pub struct Ondemand {
    freqs: Vec<u64>,
    up_threshold: u8,
}

impl Rule for Ondemand {
    fn start(domain: &Domain, params: &mut Params) -> Result<Self, String> {
        Ok(Self {
            freqs: domain.freqs(),
            up_threshold: params.number("up-threshold", 1..=100, ondemand::UP_THRESHOLD)?,
        })
    }
    fn next(&mut self, _: &Domain, limits: OppRange, seen: &DomainSample, _: u64) -> Option<u16> {
        let table = Table::new(&self.freqs, limits.lo, limits.hi)?;
        Some(ondemand::next(load(seen.util?), self.up_threshold, table))
    }
}

/// See the crate's text.
pub type Policy = KernelStyle<Ondemand>;

policy_sdk::export_allocator!(Policy);
