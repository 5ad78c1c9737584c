//! The frame of an allocator that acts like a kernel governor: a [`Rule`] per domain asks the OPP, and
//! every application gets the whole of one domain, the default weight and its own target.
//!
//! Parameter `domain` = name or index of the domain the applications are granted (default: the first
//! one with CPUs). A rule may read more.

pub mod schedutil;

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

#[cfg(test)]
mod tests {
    use super::*;
    use policy_sdk::testing::{BoardBuilder, SnapshotBuilder, app, params, slo};

    /// Asks the highest allowed OPP where something was measured.
    #[derive(Debug)]
    struct Top;

    impl Rule for Top {
        fn start(_: &Domain, _: &mut Params) -> Result<Self, String> {
            Ok(Self)
        }
        fn next(&mut self, _: &Domain, limits: OppRange, seen: &DomainSample, _: u64) -> Option<u16> {
            seen.util.map(|_| limits.hi)
        }
    }

    fn board() -> Board {
        BoardBuilder::new()
            .hz("gpu", &[1, 2])
            .khz("little", &[0, 1], &[1, 2, 3])
            .khz("big", &[2], &[1, 2])
            .build()
    }

    fn start(given: &[(&str, &str)]) -> Result<KernelStyle<Top>, String> {
        policy_sdk::start_allocator(&board(), &[app("cam", &[("only", 1, 1)])], params(given))
    }

    #[test]
    fn applications_get_all_of_the_first_domain_with_cpus_or_the_one_named() {
        let seen = SnapshotBuilder::new(&board(), 1).build();
        let granted = |given: &[(&str, &str)]| start(given).map(|mut p| p.decide(&seen).grants[0].unwrap());
        assert_eq!(granted(&[]), Ok(Grant::whole(1, Slo::default())));
        assert_eq!(granted(&[("domain", "big")]).map(|g| g.domain), Ok(2));
        assert_eq!(
            granted(&[("domain", "huge")]),
            Err("parameter domain = \"huge\": must be one of gpu, little, big, or its index".into())
        );
    }

    #[test]
    fn each_domain_is_asked_within_its_limits_and_left_alone_unmeasured() {
        let mut p = start(&[]).unwrap();
        let seen = SnapshotBuilder::new(&board(), 1).domain(0, 0, 5).domain(1, 0, 5).build();
        let asks =
            |p: &mut KernelStyle<Top>| p.decide(&seen).domains.iter().map(|d| d.ask).collect::<Vec<_>>();
        assert_eq!(asks(&mut p), [Some(1), Some(2), None]);
        p.limits(&[OppRange { lo: 0, hi: 0 }, OppRange { lo: 1, hi: 9 }, OppRange { lo: 0, hi: 1 }]);
        assert_eq!(asks(&mut p), [Some(0), Some(2), None]);
    }

    #[test]
    fn grants_follow_the_list_of_applications() {
        let mut p = start(&[]).unwrap();
        let mut mic = app("mic", &[("only", 1, 1)]);
        mic.target = slo(Some(5), Some(7000));
        p.apps(&[mic.clone(), app("cam", &[("only", 1, 1)])]);
        let out = p.decide(&SnapshotBuilder::new(&board(), 2).build());
        assert_eq!(out.grants, [Some(Grant::whole(1, mic.target)), Some(Grant::whole(1, Slo::default()))]);
        p.apps(&[]);
        assert!(p.decide(&SnapshotBuilder::new(&board(), 0).build()).grants.is_empty());
    }
}
