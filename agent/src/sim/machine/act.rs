//! The agent's hands on the simulated machine: clocks and shares as one actuator, decisions by reference.

use super::{SimDomain, SimMachine};
use crate::actuate::{ActuateError, Actuator, Half};
use crate::envelope::Admitted;
use crate::policy::Grant;
use crate::transaction::{Present, Transaction};
use crate::units::{DomainId, Nanos, OppIndex};

/// What was written, as it would be read back.
#[derive(Debug)]
pub(super) struct Clocks {
    wanted: Vec<OppIndex>,
    caps: Vec<OppIndex>,
    grants: Vec<Option<Grant>>,
    /// False: they are the kernel's, and what is ordered for them is not even heard.
    ours: bool,
}

impl Clocks {
    pub fn new(domains: &[SimDomain], apps: usize, ours: bool) -> Self {
        let opp = |d: &SimDomain| OppIndex(u16::try_from(d.opp).unwrap_or(0));
        Self {
            wanted: domains.iter().map(opp).collect(),
            caps: domains.iter().map(|d| d.cap).collect(),
            grants: vec![None; apps],
            ours,
        }
    }

    /// The cap moved; answers the OPP that then stands.
    pub fn recap(&mut self, domain: usize, cap: OppIndex) -> OppIndex {
        self.caps[domain] = cap;
        self.wanted[domain].min(cap)
    }
}

impl Actuator for Clocks {
    fn name(&self) -> &str {
        "simulated"
    }

    fn apply(&mut self, order: &Admitted, half: Half) -> Result<(), ActuateError> {
        for (d, wanted) in (0u16..).zip(&mut self.wanted) {
            let Some(asked) = order.opp(DomainId(d)).filter(|_| self.ours) else { continue };
            let rises = asked > *wanted;
            if rises == (half == Half::Raise) {
                *wanted = asked;
            }
        }
        for (mine, new) in self.grants.iter_mut().zip(order.apps()) {
            let Some((grant, _)) = new else { continue };
            let rises = mine.is_none_or(|m| grant.weight > m.weight);
            if rises == (half == Half::Raise) {
                *mine = Some(*grant);
            }
        }
        Ok(())
    }

    fn standing(&self, domain: DomainId) -> Option<OppIndex> {
        if !self.ours {
            return None;
        }
        let d = usize::from(domain.0);
        Some((*self.wanted.get(d)?).min(self.caps[d]))
    }
}

impl SimMachine {
    /// Carries an order out: what was written sets out now, what was told is taken with the next inference.
    pub(super) fn carry_order(
        &mut self,
        now: Nanos,
        order: &mut Admitted,
        transaction: &mut Transaction,
        clock: impl FnMut() -> Nanos,
    ) -> Option<ActuateError> {
        if !self.ordered {
            return None;
        }
        self.present.clear();
        self.present.extend(self.apps.iter().map(|a| Present { slot: a.app.slot, taken: a.taken }));
        let Self { apps, clocks, present, domains, .. } = self;
        let publish = |i: usize, message: &channel::msg::DecisionMsg| apps[i].order = *message;
        let outcome = transaction.carry_out(now, order, present, clocks, publish, clock);
        for (d, domain) in (0u16..).zip(domains) {
            if let Some(opp) = clocks.standing(DomainId(d)) {
                domain.go(now, usize::from(opp.0));
            }
        }
        let mut dirty: u32 = 0;
        for (app, grant) in self.apps.iter_mut().zip(&self.clocks.grants) {
            let Some(grant) = grant else { continue };
            if app.flight.is_none() {
                app.taken = app.order.seq;
            }
            if app.grant.as_ref() == Some(grant) {
                continue;
            }
            app.grant = Some(*grant);
            app.weight = f64::from(formulas::weight::of_cgroup(grant.weight));
            app.next_domain = usize::from(grant.domain.0);
            dirty |= 1 << app.domain;
        }
        for d in 0..self.domains.len() {
            if dirty >> d & 1 == 1 {
                self.rearrange(d);
            }
        }
        outcome.error
    }
}
