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

#[cfg(test)]
mod tests {
    use super::*;
    use policy_sdk::testing::{BoardBuilder, SnapshotBuilder, params};
    use policy_sdk::{Allocator, Board};

    fn board() -> Board {
        BoardBuilder::new().khz("cpu", &[0], &[800_000, 1_200_000, 1_600_000, 2_000_000]).build()
    }

    fn ask(given: &[(&str, &str)], util: u16) -> Option<u16> {
        let mut p: Policy = policy_sdk::start_allocator(&board(), &[], params(given)).unwrap();
        p.decide(&SnapshotBuilder::new(&board(), 0).domain(0, 0, util).build()).domains[0].ask
    }

    #[test]
    fn load_maps_to_the_nearest_opp_and_above_the_threshold_to_the_top() {
        // util 512 = 50 %: 800,000 + 50 * 12,000 = 1,400,000, a tie: the lower
        assert_eq!(ask(&[], 512), Some(1));
        // util 922 = 90 %: 1,880,000 is nearer to 2.0 GHz; 81 % = util 830: 1,772,000 -> 1.6 GHz
        assert_eq!((ask(&[], 922), ask(&[], 830)), (Some(3), Some(2)));
        assert_eq!(ask(&[("up-threshold", "80")], 830), Some(3));
    }

    #[test]
    fn without_utilisation_the_domain_is_left_alone() {
        let mut p: Policy = policy_sdk::start_allocator(&board(), &[], vec![]).unwrap();
        assert_eq!(p.decide(&SnapshotBuilder::new(&board(), 0).build()).domains[0].ask, None);
    }
}
