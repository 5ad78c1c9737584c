//! The safety stage: what a policy wishes becomes what may be done. Total: it never fails.
//!
//! Only [`Envelope::admit`] can make an [`Admitted`], and only an [`Admitted`] can act.

use crate::policy::{AppChoice, Decision, Grant};
use crate::units::{DomainId, OppIndex};

/// One recorded correction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clamp {
    /// Outside the allowed range of OPPs (or of the table).
    Range {
        /// Where.
        domain: DomainId,
        /// Wished.
        asked: OppIndex,
        /// Admitted.
        got: OppIndex,
    },
}

/// A decision that may act.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    decision: Decision,
    clamps: Vec<Clamp>,
}

impl Admitted {
    /// Its number.
    pub fn seq(&self) -> u64 {
        self.decision.seq
    }
    /// The OPP of that domain; `None` = leave.
    pub fn opp(&self, domain: DomainId) -> Option<OppIndex> {
        self.decision.opps.get(usize::from(domain.0)).copied().flatten()
    }
    /// Per application present, as in the snapshot.
    pub fn apps(&self) -> &[Option<(Grant, AppChoice)>] {
        &self.decision.apps
    }
    /// What was corrected.
    pub fn clamps(&self) -> &[Clamp] {
        &self.clamps
    }
}
