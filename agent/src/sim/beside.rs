//! Policies beside the kernel's clocks: what a set orders for applications gets through, what it wants of
//! clocks does not. So a manager is cut down to its network half, and a rule that has no clock of its own
//! runs under a kernel governor.

use crate::board::Board;
use crate::policy::{
    Allocation, Allocator, App, AppChoice, Grant, Limits, Param, PolicyError, Slo, Tuner, View,
};
use crate::snapshot::{Signal, Snapshot};
use crate::units::{DomainId, Nanos};

/// The upper level when there is none: every application gets all of one domain, the default weight and its
/// own target. Parameter `domain`: its name.
#[derive(Debug, Default)]
pub struct Grants {
    domain: DomainId,
    targets: Vec<Slo>,
}

impl Allocator for Grants {
    fn name(&self) -> &str {
        "grants"
    }

    fn start(
        &mut self,
        board: &Board,
        _: Nanos,
        _: &[Signal],
        apps: &[App],
        params: &[Param],
    ) -> Result<(), PolicyError> {
        for (key, value) in params {
            let refused = |reason| PolicyError::Refused { name: "grants".into(), verb: "start", reason };
            if key != "domain" {
                let reason =
                    format!("parameter {key} = {value:?}: unknown; known: domain, and tuner.* for the tuner");
                return Err(refused(reason));
            }
            let names = board.domains.iter().map(|d| d.name.as_str()).collect::<Vec<_>>().join(", ");
            self.domain = board
                .domain(value)
                .ok_or_else(|| refused(format!("parameter domain = {value:?}: must be one of {names}")))?;
        }
        self.apps(apps)
    }

    fn apps(&mut self, apps: &[App]) -> Result<(), PolicyError> {
        self.targets.clear();
        self.targets.extend(apps.iter().map(|a| a.target));
        Ok(())
    }

    fn limits(&mut self, _: &Limits) -> Result<(), PolicyError> {
        Ok(())
    }

    fn decide(&mut self, _: &Snapshot, out: &mut Allocation) -> Result<(), PolicyError> {
        let grant = |target: &Slo| {
            Some(Grant { domain: self.domain, cores: 0, weight: 100, power: None, target: *target })
        };
        out.grants.clear();
        out.grants.extend(self.targets.iter().map(grant));
        Ok(())
    }
}

/// A policy with something done around each of its decisions.
struct Around<P, F> {
    inner: P,
    decide: F,
}

/// `decide` is called in place of the allocator's own, with the allocator.
pub fn around_allocator(
    inner: Box<dyn Allocator>,
    decide: impl FnMut(&mut dyn Allocator, &Snapshot, &mut Allocation) -> Result<(), PolicyError> + Send + 'static,
) -> Box<dyn Allocator> {
    Box::new(Around { inner, decide })
}

/// The same for a tuner.
pub fn around_tuner(
    inner: Box<dyn Tuner>,
    decide: impl FnMut(&mut dyn Tuner, &View<'_>) -> Result<AppChoice, PolicyError> + Send + 'static,
) -> Box<dyn Tuner> {
    Box::new(Around { inner, decide })
}

/// An allocator whose wishes for clocks are dropped.
pub fn clockless_allocator(inner: Box<dyn Allocator>) -> Box<dyn Allocator> {
    around_allocator(inner, |policy, seen, out| {
        policy.decide(seen, out)?;
        for order in &mut out.domains {
            (order.ask, order.cap) = (None, None);
        }
        Ok(())
    })
}

/// A tuner whose wishes for clocks are dropped.
pub fn clockless_tuner(inner: Box<dyn Tuner>) -> Box<dyn Tuner> {
    around_tuner(inner, |policy, seen| Ok(AppChoice { ask: None, ..policy.decide(seen)? }))
}

impl<F> Allocator for Around<Box<dyn Allocator>, F>
where
    F: FnMut(&mut dyn Allocator, &Snapshot, &mut Allocation) -> Result<(), PolicyError> + Send,
{
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn start(
        &mut self,
        board: &Board,
        period: Nanos,
        signals: &[Signal],
        apps: &[App],
        params: &[Param],
    ) -> Result<(), PolicyError> {
        self.inner.start(board, period, signals, apps, params)
    }

    fn apps(&mut self, apps: &[App]) -> Result<(), PolicyError> {
        self.inner.apps(apps)
    }

    fn limits(&mut self, now: &Limits) -> Result<(), PolicyError> {
        self.inner.limits(now)
    }

    fn decide(&mut self, seen: &Snapshot, out: &mut Allocation) -> Result<(), PolicyError> {
        (self.decide)(&mut *self.inner, seen, out)
    }
}

impl<F> Tuner for Around<Box<dyn Tuner>, F>
where
    F: FnMut(&mut dyn Tuner, &View<'_>) -> Result<AppChoice, PolicyError> + Send,
{
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn start(
        &mut self,
        board: &Board,
        period: Nanos,
        app: &App,
        params: &[Param],
    ) -> Result<(), PolicyError> {
        self.inner.start(board, period, app, params)
    }

    fn app(&mut self, app: &App) -> Result<(), PolicyError> {
        self.inner.app(app)
    }

    fn limits(&mut self, now: &Limits) -> Result<(), PolicyError> {
        self.inner.limits(now)
    }

    fn decide(&mut self, seen: &View<'_>) -> Result<AppChoice, PolicyError> {
        (self.decide)(&mut *self.inner, seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::machine::Book;
    use crate::sim::model::Model;
    use crate::sim::outcome::Outcome;
    use crate::sim::policies::Spec;
    use crate::sim::run::Prepared;
    use crate::sim::scenario::Scenario;

    const PERIOD: Nanos = Nanos::from_ms(10);

    /// At 30 Hz, to be done within 20 ms.
    fn scenario(largest_ms: f64) -> Scenario {
        let text = format!(
            "about = \"t\"\nlength-s = 12.0\nwarm-up-s = 6.0\n[[app]]\nname = \"a\"\nnetwork = \"us-mobilenet-v1\"\nlargest-ms = {largest_ms}\n\
                    frames = {{ kind = \"periodic\", rate-hz = 30.0 }}\ntargets = [{{ latency-ms = 20.0, top1 = 64.0 }}]\n"
        );
        Scenario::parse("t", "t.toml", &text).unwrap()
    }

    /// The largest network misses the target at the highest OPP.
    fn run(policy: &str) -> Result<(Book, Outcome), String> {
        run_with(policy, 25.0)
    }

    fn run_with(policy: &str, largest_ms: f64) -> Result<(Book, Outcome), String> {
        let (model, scenario) = (Model::find("vm-baseline").unwrap(), scenario(largest_ms));
        let prepared = Prepared::new(&Spec::parse(policy)?, &model, &scenario, None, PERIOD);
        let book =
            prepared.and_then(|p| p.run(&model, &scenario, PERIOD, |_| ())).map_err(|e| e.to_string())?;
        let outcome = Outcome::of(policy, &model, &scenario, &book);
        Ok((book, outcome))
    }

    #[test]
    fn a_fixed_tuner_beside_the_kernel_is_the_kernel_with_that_network() {
        for governor in ["schedutil", "ondemand"] {
            let alone = run(&format!("kernel:{governor}?subnet=3")).unwrap();
            let beside = run(&format!("kernel:{governor}+fixed?tuner.subnet=3")).unwrap();
            // The agent looks every 10 ms, so the same sums have other parts, rounded anew.
            let clocks = alone.0.domains[1].residency_ns.iter().zip(&beside.0.domains[1].residency_ns);
            assert!(clocks.clone().all(|(a, b)| a.abs_diff(*b) < 1000), "{governor}: other clocks");
            assert!((alone.1.energy_j / beside.1.energy_j - 1.0).abs() < 1e-6, "{governor}");
        }
    }

    #[test]
    fn a_tuner_moves_the_network_while_the_kernel_moves_the_clock() {
        let (book, outcome) = run("kernel:schedutil+dynamic-ofa").unwrap();
        // 0.9 takes 20.5 ms at the top: too slow; 0.8 takes 16.1 ms.
        assert!(book.frames.iter().any(|f| f.subnet == 7), "it began one below the largest");
        assert!(book.counted().all(|f| f.subnet < 7), "and left it");
        let opps: std::collections::BTreeSet<u16> =
            book.moved.iter().filter(|m| m.domain == 1).map(|m| m.opp).collect();
        assert!(opps.len() > 2, "schedutil followed the load: {opps:?}");
        assert!(outcome.all.violations < 0.06, "{}", outcome.all.violations);
    }

    #[test]
    fn what_a_set_wants_of_clocks_is_dropped_and_its_networks_get_through() {
        // The manager would ask less than the top; under `performance` the clock never leaves it.
        for set in ["tandem-tuner", "tandem-allocator+tandem-tuner", "powersave+tandem-tuner"] {
            let (book, outcome) = run(&format!("kernel:performance+{set}")).unwrap();
            let clocks = &book.domains[1].residency_ns;
            assert_eq!(clocks.iter().position(|ns| *ns > 0), Some(clocks.len() - 1), "{set}: {clocks:?}");
            assert!(book.counted().all(|f| f.subnet < 8), "{set}: the largest misses the target");
            assert!(outcome.all.violations < 0.05, "{set}: {}", outcome.all.violations);
        }
        let at_top = |policy| run_with(policy, 12.5).unwrap().0.domains[1].residency_ns[9];
        assert_eq!(at_top("kernel:performance+tandem-tuner"), 6_000_000_000);
        assert_eq!(at_top("powersave+tandem-tuner"), 0, "with its clocks it asks less");
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        for (policy, message) in [
            (
                "kernel:schedutil+fixed?subnet=3",
                "subnet = \"3\": the tuner chooses it; tuner.* is the tuner's",
            ),
            ("kernel:schedutil+magic", "\"magic\" is no tuner; known: "),
            ("kernel:schedutil+magic+fixed", "\"magic\" is no allocator; known: "),
            ("kernel:fast+fixed", "no such governor"),
            ("kernel:schedutil+fixed?domian=big", "parameter domian = \"big\": unknown; known: domain"),
            ("kernel:schedutil+fixed?domain=huge", "parameter domain = \"huge\": must be one of little, big"),
            ("kernel:schedutil+fixed?tuner.subnet=x", "parameter subnet = \"x\": must be one of 0.25"),
        ] {
            let got = run(policy).unwrap_err();
            assert!(got.contains(message), "{policy}: {got}");
        }
    }
}
