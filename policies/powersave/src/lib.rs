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

#[cfg(test)]
mod tests {
    use super::*;
    use policy_sdk::Allocator;
    use policy_sdk::testing::{BoardBuilder, SnapshotBuilder};

    #[test]
    fn the_limit_is_asked_whatever_the_load() {
        let board = BoardBuilder::new().khz("cpu", &[0], &[1, 2, 3, 4]).build();
        let mut p: Powersave = policy_sdk::start_allocator(&board, &[], vec![]).unwrap();
        for util in [0, 1024] {
            let seen = SnapshotBuilder::new(&board, 0).domain(0, 1, util).build();
            assert_eq!(p.decide(&seen).domains[0].ask, Some(0));
        }
        p.limits(&[OppRange { lo: 1, hi: 2 }]);
        assert_eq!(p.decide(&SnapshotBuilder::new(&board, 0).build()).domains[0].ask, Some(1));
    }
}
