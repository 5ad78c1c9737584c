//! Allocator `conservative`: each domain as the kernel's governor of that name would set it, at our
//! tick: one small step up or down while the load is above or below its thresholds.
//!
//! Parameters: `domain` (see `kernel-style`), `up-threshold` (default 80 %), `down-threshold` (20 %),
//! `freq-step` (5 % of the maximum), `sampling-down-factor` (1). A domain whose utilisation or OPP is
//! not measured is left alone.

use formulas::conservative::{State, Tunables};
use formulas::{load, relation::Table};
use kernel_style::{KernelStyle, Rule};
use policy_sdk::{Domain, DomainSample, OppRange, Params};

/// The rule of one domain.
#[derive(Debug)]
pub struct Conservative {
    freqs: Vec<u64>,
    tunables: Tunables,
    state: State,
    asked: Option<u16>,
}

impl Rule for Conservative {
    fn start(domain: &Domain, params: &mut Params) -> Result<Self, String> {
        let default = Tunables::default();
        let tunables = Tunables {
            up_threshold: params.number("up-threshold", 1..=100, default.up_threshold)?,
            down_threshold: params.number("down-threshold", 0..=99, default.down_threshold)?,
            freq_step: params.number("freq-step", 0..=100, default.freq_step)?,
            sampling_down_factor: params.number(
                "sampling-down-factor",
                1..=10,
                default.sampling_down_factor,
            )?,
        };
        if tunables.down_threshold >= tunables.up_threshold {
            return Err(format!(
                "parameter down-threshold = \"{}\": must be below up-threshold, {}",
                tunables.down_threshold, tunables.up_threshold
            ));
        }
        Ok(Self { freqs: domain.freqs(), tunables, state: State::default(), asked: None })
    }
    fn next(&mut self, domain: &Domain, limits: OppRange, seen: &DomainSample, _: u64) -> Option<u16> {
        let table = Table::new(&self.freqs, limits.lo, limits.hi)?;
        let (util, opp) = (seen.util?, seen.opp?);
        let current = domain.freq(opp)?;
        if let Some(moved) = self.state.next(load(util), 0, current, &self.tunables, table) {
            self.asked = Some(moved);
        }
        // Where the kernel would set nothing, what it set last still stands.
        Some(self.asked.unwrap_or(opp).clamp(limits.lo, limits.hi))
    }
}

/// See the crate's text.
pub type Policy = KernelStyle<Conservative>;

policy_sdk::export_allocator!(Policy);

#[cfg(test)]
mod tests {
    use super::*;
    use policy_sdk::testing::{BoardBuilder, SnapshotBuilder, params};
    use policy_sdk::{Allocator, Board};

    fn board() -> Board {
        BoardBuilder::new().khz("cpu", &[0], &[800_000, 1_200_000, 1_600_000, 2_000_000]).build()
    }

    #[test]
    fn a_busy_domain_climbs_step_by_step_and_then_stays() {
        let mut p: Policy = policy_sdk::start_allocator(&board(), &[], vec![]).unwrap();
        let mut opp = 0;
        let mut asks = vec![];
        for (ticks, util) in [(14, 1024), (3, 512)] {
            for _ in 0..ticks {
                let seen = SnapshotBuilder::new(&board(), 0).domain(0, opp, util).build();
                opp = p.decide(&seen).domains[0].ask.unwrap();
                asks.push(opp);
            }
        }
        // Steps of 100,000 kHz from 800,000: 1.2 GHz is the fourth, 1.6 the eighth, 2.0 the twelfth.
        assert_eq!(asks, [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3]);
    }

    #[test]
    fn thresholds_that_cross_are_refused() {
        let crossed = params(&[("down-threshold", "80")]);
        let refused = policy_sdk::start_allocator::<Policy>(&board(), &[], crossed).unwrap_err();
        assert_eq!(refused, "parameter down-threshold = \"80\": must be below up-threshold, 80");
    }
}
