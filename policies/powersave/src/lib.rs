//! Allocator `powersave`: every domain at its lowest allowed OPP, as the kernel's governor of that name
//! (`drivers/cpufreq/cpufreq_powersave.c`). Parameter: `domain` (see `kernel-style`).

use kernel_style::{KernelStyle, Rule};
use policy_sdk::{Domain, DomainSample, OppRange, Params};

/// Lowest allowed OPP.
#[derive(Debug)]
pub struct Lowest;

impl Rule for Lowest {
    fn start(_: &Domain, _: &mut Params) -> Result<Self, String> {
        Ok(Self)
    }
    fn next(&mut self, _: &Domain, limits: OppRange, _: &DomainSample, _: u64) -> Option<u16> {
        Some(limits.lo)
    }
}

/// See the crate's text.
pub type Powersave = KernelStyle<Lowest>;

policy_sdk::export_allocator!(Powersave);
