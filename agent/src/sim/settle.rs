//! When a manager came to rest: what stood at each tick, and when it last changed.

use super::model::Model;
use super::run::{Prepared, RunError};
use super::scenario::Scenario;
use crate::sim::machine::Book;
use crate::units::{Nanos, OppIndex, SubnetIndex};

/// What a tick left standing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// By domain, as last admitted; `None`: nothing was ever asked.
    pub opps: Vec<Option<OppIndex>>,
    /// By application, as last admitted.
    pub subnets: Vec<Option<SubnetIndex>>,
}

/// A run, tick by tick.
#[derive(Debug)]
pub struct Trace {
    /// Since the start.
    pub ticks: Vec<(Nanos, Standing)>,
    /// What else it came to.
    pub book: Book,
}

/// Runs a policy and keeps what it decided.
///
/// # Errors
/// The policy was set aside.
pub fn trace(
    policy: &Prepared,
    model: &Model,
    scenario: &Scenario,
    period: Nanos,
) -> Result<Trace, RunError> {
    let mut ticks: Vec<(Nanos, Standing)> = vec![];
    let mut now = Standing::default();
    let book = policy.run(model, scenario, period, |governor| {
        let decision = governor.admitted().decision();
        now.opps.resize(decision.opps.len(), None);
        now.subnets.resize(decision.apps.len(), None);
        for (kept, new) in now.opps.iter_mut().zip(&decision.opps) {
            *kept = new.or(*kept);
        }
        for (kept, new) in now.subnets.iter_mut().zip(&decision.apps) {
            *kept = new.map(|(_, choice)| choice.subnet).or(*kept);
        }
        ticks.push((governor.machine().now(), now.clone()));
    })?;
    Ok(Trace { ticks, book })
}

impl Trace {
    /// From one moment until before another: how many ticks after the first the last change came (0: none did), and how
    /// many changes there were.
    pub fn settled(&self, from: Nanos, to: Nanos) -> (usize, usize) {
        let before = self.ticks.iter().rev().find(|t| t.0 <= from).map(|t| &t.1);
        let mut stands = before.cloned().unwrap_or_default();
        let (mut last, mut changes) = (0, 0);
        for (n, (_, standing)) in self.ticks.iter().filter(|t| t.0 > from && t.0 < to).enumerate() {
            if *standing != stands {
                (last, changes) = (n + 1, changes + 1);
                stands.clone_from(standing);
            }
        }
        (last, changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_and_their_number_are_told_by_stretch() {
        let at =
            |ms, opp| (Nanos::from_ms(ms), Standing { opps: vec![Some(OppIndex(opp))], subnets: vec![None] });
        let ticks = vec![at(10, 1), at(20, 3), at(30, 3), at(40, 3), at(50, 2), at(60, 3), at(70, 3)];
        let trace = Trace { ticks, book: Book::default() };
        let settled = |from, to| trace.settled(Nanos::from_ms(from), Nanos::from_ms(to));
        assert_eq!(settled(0, 50), (2, 2));
        assert_eq!(settled(20, 50), (0, 0));
        assert_eq!(settled(40, 1000), (2, 2), "there and back is two changes");
        assert_eq!(settled(60, 1000), (0, 0));
    }
}
