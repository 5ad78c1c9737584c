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

#[cfg(test)]
mod tests {
    use super::*;
    use policy_sdk::Allocator;
    use policy_sdk::testing::{BoardBuilder, SnapshotBuilder};

    #[test]
    fn the_limit_is_asked_whatever_the_load() {
        let board = BoardBuilder::new().khz("cpu", &[0], &[1, 2, 3, 4]).build();
        let mut p: Performance = policy_sdk::start_allocator(&board, &[], vec![]).unwrap();
        for util in [0, 1024] {
            let seen = SnapshotBuilder::new(&board, 0).domain(0, 1, util).build();
            assert_eq!(p.decide(&seen).domains[0].ask, Some(3));
        }
        p.limits(&[OppRange { lo: 1, hi: 2 }]);
        assert_eq!(p.decide(&SnapshotBuilder::new(&board, 0).build()).domains[0].ask, Some(2));
    }
}
