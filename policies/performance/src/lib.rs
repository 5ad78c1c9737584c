//! Allocator `performance`: every domain at its highest allowed OPP, as the kernel's governor of that
//! name (`drivers/cpufreq/cpufreq_performance.c`). Parameter: `domain` (see `kernel-style`).

use kernel_style::{KernelStyle, Rule};
use policy_sdk::{Domain, DomainSample, OppRange, Params};

/// Highest allowed OPP.
#[derive(Debug)]
pub struct Highest;

impl Rule for Highest {
    fn start(_: &Domain, _: &mut Params) -> Result<Self, String> {
        Ok(Self)
    }
    fn next(&mut self, _: &Domain, limits: OppRange, _: &DomainSample, _: u64) -> Option<u16> {
        Some(limits.hi)
    }
}

/// See the crate's text.
pub type Performance = KernelStyle<Highest>;

policy_sdk::export_allocator!(Performance);
