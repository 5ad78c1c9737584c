//! What an answer may say: every number a guest returns is checked here before anybody indexes with it.
//!
//! A broken rule is a sentence that names what was said and what is allowed.

use super::wire;
use crate::board::Board;
use crate::policy::{Allocation, AppChoice, DomainOrder, Grant};
use crate::units::{DomainId, OppIndex};
use std::ops::RangeInclusive;

/// cgroup v2's range.
const WEIGHTS: RangeInclusive<u16> = 1..=10_000;

/// The sizes that answers are held against.
#[derive(Debug, Default)]
pub struct Rules {
    domains: Vec<DomainRule>,
}

#[derive(Debug)]
struct DomainRule {
    name: String,
    opps: usize,
    cpus: usize,
}

impl DomainRule {
    fn opp(&self, what: &str, said: Option<OppIndex>) -> Result<(), String> {
        match said {
            Some(opp) if usize::from(opp.0) >= self.opps => Err(format!(
                "domain {:?}: {what} is OPP {}, it has 0..={}",
                self.name,
                opp.0,
                self.opps.saturating_sub(1)
            )),
            _ => Ok(()),
        }
    }
}

impl Rules {
    pub fn new(board: &Board) -> Self {
        let rule = |d: &crate::board::Domain| DomainRule {
            name: d.name.clone(),
            opps: d.opps.len(),
            cpus: d.cpus.len(),
        };
        Self { domains: board.domains.iter().map(rule).collect() }
    }

    fn domain(&self, id: DomainId) -> Result<&DomainRule, String> {
        self.domains
            .get(usize::from(id.0))
            .ok_or_else(|| format!("domain {} does not exist, there are {}", id.0, self.domains.len()))
    }

    /// Checks an allocator's answer and writes it to `out`, whose buffers are kept.
    pub fn allocation(
        &self,
        said: wire::Allocation,
        apps: usize,
        out: &mut Allocation,
    ) -> Result<(), String> {
        let wire::Allocation { domains, grants } = said;
        domains.of_length(self.domains.len(), |orders| self.orders(orders, &mut out.domains)).map_err(
            |length| format!("`domains` has {length} elements, the board has {} domains", self.domains.len()),
        )??;
        grants
            .of_length(apps, |grants| self.grants(grants, &mut out.grants))
            .map_err(|length| format!("`grants` has {length} elements, there are {apps} applications"))?
    }

    fn orders(&self, said: &[wire::DomainOrder], out: &mut Vec<DomainOrder>) -> Result<(), String> {
        out.clear();
        for (rule, order) in self.domains.iter().zip(said) {
            let order = DomainOrder::from(*order);
            rule.opp("`ask`", order.ask)?;
            rule.opp("`cap`", order.cap)?;
            out.push(order);
        }
        Ok(())
    }

    fn grants(&self, said: &[Option<wire::Grant>], out: &mut Vec<Option<Grant>>) -> Result<(), String> {
        out.clear();
        for (index, grant) in said.iter().enumerate() {
            let grant = grant.map(Grant::from);
            if let Some(grant) = &grant {
                self.grant(grant).map_err(|rule| format!("grant of application {index}: {rule}"))?;
            }
            out.push(grant);
        }
        Ok(())
    }

    fn grant(&self, grant: &Grant) -> Result<(), String> {
        let domain = self.domain(grant.domain)?;
        if usize::from(grant.cores) > domain.cpus {
            return Err(format!(
                "{} cores, domain {:?} has {} CPUs (0 = all)",
                grant.cores, domain.name, domain.cpus
            ));
        }
        if !WEIGHTS.contains(&grant.weight) {
            return Err(format!("weight {}, {WEIGHTS:?} is allowed", grant.weight));
        }
        Ok(())
    }

    /// Checks a tuner's answer for an application with `subnets` and at most `threads_max` threads.
    pub fn choice(
        &self,
        said: &AppChoice,
        domain: DomainId,
        subnets: usize,
        threads_max: u8,
    ) -> Result<(), String> {
        if usize::from(said.subnet.0) >= subnets {
            return Err(format!("sub-network {} does not exist, there are {subnets}", said.subnet.0));
        }
        if said.threads == 0 || said.threads > threads_max {
            return Err(format!("{} threads, 1..={threads_max} is allowed", said.threads));
        }
        self.domain(domain)?.opp("`ask`", said.ask)
    }
}
