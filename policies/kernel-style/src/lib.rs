//! The frame of an allocator that acts like a kernel governor: a [`Rule`] per domain asks the OPP, and
//! every application gets the whole of one domain, the default weight and its own target.
//!
//! Parameter `domain` = name or index of the domain the applications are granted (default: the first
//! one with CPUs). A rule may read more.

use policy_sdk::{
    Allocation, Allocator, App, Board, Domain, DomainOrder, DomainSample, Grant, OppRange, Params, Slo,
    Snapshot,
};

/// How a governor sets one domain.
pub trait Rule: Sized {
    /// Once per domain.
    fn start(domain: &Domain, params: &mut Params) -> Result<Self, String>;
    /// The next OPP; `None` = leave as it is (what it needs was not measured). `limits` holds at least
    /// one OPP of the domain; `window_ns` is the time that `seen` covers.
    fn next(&mut self, domain: &Domain, limits: OppRange, seen: &DomainSample, window_ns: u64)
    -> Option<u16>;
}

#[derive(Debug)]
struct Governed<R> {
    domain: Domain,
    limits: OppRange,
    rule: R,
}

/// The allocator around a rule.
#[derive(Debug)]
pub struct KernelStyle<R> {
    domains: Vec<Governed<R>>,
    granted: u16,
    targets: Vec<Slo>,
}

impl<R: Rule> Allocator for KernelStyle<R> {
    fn start(board: &Board, apps: &[App], params: &mut Params) -> Result<Self, String> {
        let given = params.index_of("domain", board.domains.iter().map(|d| d.name.as_str()))?;
        let with_cpus = board.domains.iter().position(|d| !d.cpus.is_empty());
        let granted = given.or(with_cpus.and_then(|i| u16::try_from(i).ok()));
        let granted = granted.ok_or("board without a domain that has CPUs: set the parameter domain")?;
        let domains = board
            .domains
            .iter()
            .map(|d| Ok(Governed { domain: d.clone(), limits: d.range(), rule: R::start(d, params)? }));
        let mut policy = Self { domains: domains.collect::<Result<_, String>>()?, granted, targets: vec![] };
        policy.apps(apps);
        Ok(policy)
    }

    fn apps(&mut self, apps: &[App]) {
        self.targets.clear();
        self.targets.extend(apps.iter().map(|a| a.target));
    }

    fn limits(&mut self, opps: &[OppRange]) {
        for (d, now) in self.domains.iter_mut().zip(opps) {
            let hi = now.hi.min(d.domain.top());
            d.limits = OppRange { lo: now.lo.min(hi), hi };
        }
    }

    fn decide(&mut self, seen: &Snapshot) -> Allocation {
        let order = |(d, s): (&mut Governed<R>, &DomainSample)| DomainOrder {
            ask: d.rule.next(&d.domain, d.limits, s, seen.window_ns),
            cap: None,
        };
        Allocation {
            domains: self.domains.iter_mut().zip(&seen.domains).map(order).collect(),
            grants: self.targets.iter().map(|t| Some(Grant::whole(self.granted, *t))).collect(),
        }
    }
}
