//! Small conveniences on the contract's types: looking up OPPs, a plain grant.

use crate::{Domain, FreqUnit, Grant, OppRange, Slo, Source};

impl Default for FreqUnit {
    fn default() -> Self {
        Self::Khz
    }
}

impl Default for Source {
    fn default() -> Self {
        Self::Measured
    }
}

/// An index as the contract carries it. Lists are bounded by the agent far below `u16::MAX`.
fn index(i: usize) -> u16 {
    u16::try_from(i).unwrap_or(u16::MAX)
}

impl Domain {
    /// The fastest OPP.
    pub fn top(&self) -> u16 {
        index(self.opps.len().saturating_sub(1))
    }
    /// All OPPs.
    pub fn range(&self) -> OppRange {
        OppRange { lo: 0, hi: self.top() }
    }
    /// The frequency of that OPP, in the domain's unit.
    pub fn freq(&self, opp: u16) -> Option<u64> {
        self.opps.get(usize::from(opp)).map(|o| o.freq)
    }
    /// Frequencies by rising OPP.
    pub fn freqs(&self) -> Vec<u64> {
        self.opps.iter().map(|o| o.freq).collect()
    }
}

impl Grant {
    /// All cores of `domain` at the default weight, towards `target`.
    pub fn whole(domain: u16, target: Slo) -> Self {
        Self { domain, cores: 0, weight: 100, power_mw: None, target }
    }
}
