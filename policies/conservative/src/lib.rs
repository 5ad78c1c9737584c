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
        if let Some(moved) = self.state.next(load(util), current, &self.tunables, table) {
            self.asked = Some(moved);
        }
        // Where the kernel would set nothing, what it set last still stands.
        Some(self.asked.unwrap_or(opp).clamp(limits.lo, limits.hi))
    }
}

/// See the crate's text.
pub type Policy = KernelStyle<Conservative>;

policy_sdk::export_allocator!(Policy);
