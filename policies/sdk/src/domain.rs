//! Small conveniences on the contract's types: looking up OPPs and signals, a plain grant.

use crate::{Board, Domain, FreqUnit, Grant, OppRange, Slo, Source};

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

impl Board {
    /// Position of a signal the policy cannot do without: for `start`, whose error keeps it from serving.
    ///
    /// # Errors
    /// The board lacks it; which it has.
    pub fn signal(&self, name: &str) -> Result<u16, String> {
        self.signals.iter().position(|s| s.name == name).map(index).ok_or_else(|| {
            let has: Vec<_> = self.signals.iter().map(|s| s.name.as_str()).collect();
            let has = if has.is_empty() { "none".into() } else { has.join(", ") };
            format!("needs the signal {name:?}, board {:?} has {has}", self.name)
        })
    }
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

#[cfg(test)]
mod tests {
    use crate::testing::BoardBuilder;

    #[test]
    fn a_signal_is_found_or_what_there_is_is_said() {
        let board = BoardBuilder::new().signal("thermal/soc", "mC").signal("rail/VDD", "mW").build();
        assert_eq!(board.signal("rail/VDD"), Ok(1));
        let lacks = "needs the signal \"rail/GPU\", board \"test\" has thermal/soc, rail/VDD";
        assert_eq!(board.signal("rail/GPU"), Err(lacks.into()));
    }
}
