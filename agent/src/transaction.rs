//! One decision is one transaction, with one `seq`; policies never order anything.
//!
//! (a) What rises (clocks, shares) is written and read back. (b) If a domain stays below what was asked, an
//! application on it that wanted a *larger* sub-network keeps its old one; every other choice is published:
//! going down is the cure for a clock that does not come. (c) The runner stores `taken = seq` when it picks a
//! choice up, also while idle. (d) What falls is written when every application on the domain has taken
//! the choice that no longer needs it, at the latest when the decision that first wanted the fall expires.
//! A newer decision replaces a pending fall.

use crate::actuate::{ActuateError, Actuator, Half};
use crate::envelope::{Admitted, Clamp, Reason};
use crate::policy::{AppChoice, Grant};
use crate::units::{AppSlot, DomainId, Nanos};
use channel::MAX_RUNNERS;
use channel::msg::DecisionMsg;

/// An application present, as the transaction needs it; order as in the snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Its slot.
    pub slot: AppSlot,
    /// The newest decision its runner has picked up; 0 = none.
    pub taken: u64,
}

/// What an application was last told.
#[derive(Clone, Copy, Debug)]
struct Told {
    choice: (Grant, AppChoice),
    /// The decision that changed it.
    since: u64,
    at: Nanos,
}

/// What must be remembered between two decisions.
#[derive(Debug)]
pub struct Transaction {
    valid: Nanos,
    told: [Option<Told>; MAX_RUNNERS],
    /// When each domain first wanted to fall.
    falling: Vec<Option<Nanos>>,
    part: Admitted,
}

/// What one transaction met.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The last error; all writes were tried.
    pub error: Option<ActuateError>,
    /// Domains whose fall waits for a runner.
    pub waiting: usize,
    /// When the runners had been told: the clock as the caller's `clock` gave it.
    pub published: Nanos,
}

impl Transaction {
    /// For a board of so many domains; a decision binds a runner for `valid`.
    pub fn new(domains: usize, valid: Nanos) -> Self {
        Self { valid, told: [None; MAX_RUNNERS], falling: vec![None; domains], part: Admitted::default() }
    }

    /// The application is gone: what it was told is forgotten.
    pub fn forget(&mut self, slot: AppSlot) {
        self.told[usize::from(slot.0)] = None;
    }

    /// What an application was last told.
    pub fn told(&self, slot: AppSlot) -> Option<&(Grant, AppChoice)> {
        self.told[usize::from(slot.0)].as_ref().map(|t| &t.choice)
    }

    /// Carries out `order`. `publish` gets the position of an application in `present` and its message.
    pub fn carry_out(
        &mut self,
        now: Nanos,
        order: &mut Admitted,
        present: &[Present],
        actuator: &mut dyn Actuator,
        mut publish: impl FnMut(usize, &DecisionMsg),
        mut clock: impl FnMut() -> Nanos,
    ) -> Outcome {
        let mut outcome = Outcome { error: actuator.apply(order, Half::Raise).err(), ..Outcome::default() };
        self.note_unreached(order, actuator);
        self.publish(now, order, present, &mut publish);
        outcome.published = clock();

        let seq_taken = |told: &[Option<Told>; MAX_RUNNERS], i: usize| {
            let p = &present[i];
            told[usize::from(p.slot.0)].is_none_or(|t| p.taken >= t.since || now.since(t.at) >= self.valid)
        };
        for (d, falling) in (0u16..).zip(&mut self.falling) {
            let (asked, is) = (order.opp(DomainId(d)), actuator.standing(DomainId(d)));
            *falling = match (asked, is) {
                (Some(asked), Some(is)) if asked < is => falling.or(Some(now)),
                _ => None,
            };
        }
        let (told, falling, valid) = (&self.told, &self.falling, self.valid);
        let mut waiting = 0;
        self.part.restrict(
            order,
            |d| {
                let Some(since) = falling[usize::from(d.0)] else { return true };
                let on_it =
                    |i: &usize| told[usize::from(present[*i].slot.0)].is_some_and(|t| t.choice.0.domain == d);
                let ready =
                    now.since(since) >= valid || (0..present.len()).filter(on_it).all(|i| seq_taken(told, i));
                waiting += usize::from(!ready);
                ready
            },
            |i| i < present.len() && seq_taken(told, i),
        );
        outcome.waiting = waiting;
        if let Err(e) = actuator.apply(&self.part, Half::Lower) {
            outcome.error = Some(e);
        }
        outcome
    }

    fn note_unreached(&self, order: &mut Admitted, actuator: &dyn Actuator) {
        for d in 0..self.falling.len() {
            let domain = DomainId(u16::try_from(d).expect("checked at load: at most 16 domains"));
            if let (Some(asked), Some(got)) = (order.opp(domain), actuator.standing(domain))
                && got < asked
            {
                order.note(Clamp { domain, reason: Reason::NotReached, asked, got });
            }
        }
    }

    fn publish(
        &mut self,
        now: Nanos,
        order: &Admitted,
        present: &[Present],
        publish: &mut impl FnMut(usize, &DecisionMsg),
    ) {
        let not_reached =
            |d: DomainId| order.clamps().iter().any(|c| c.domain == d && c.reason == Reason::NotReached);
        for (i, p) in present.iter().enumerate() {
            let told = &mut self.told[usize::from(p.slot.0)];
            let mut choice = order.apps().get(i).copied().flatten().or(told.map(|t| t.choice));
            if let (Some((grant, new)), Some(old)) = (&mut choice, &told)
                && new.subnet > old.choice.1.subnet
                && not_reached(grant.domain)
            {
                new.subnet = old.choice.1.subnet;
            }
            let Some(choice) = choice else { continue };
            if told.is_none_or(|t| t.choice != choice) {
                *told = Some(Told { choice, since: order.seq(), at: now });
            }
            publish(
                i,
                &DecisionMsg {
                    seq: order.seq(),
                    valid_until_ns: (now + self.valid).0,
                    target_ns: choice.0.target.latency.map_or(0, |t| t.0),
                    subnet: u32::from(choice.1.subnet.0),
                    threads: u32::from(choice.1.threads),
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::{Board, BoardLimits, Domain, DomainKind, Opp};
    use crate::envelope::Envelope;
    use crate::policy::{Decision, Slo};
    use crate::snapshot::Snapshot;
    use crate::units::{Freq, FreqUnit, OppIndex, SubnetIndex};

    /// A clock that a cap may hold down or that may refuse to move.
    #[derive(Debug)]
    struct FakeClock {
        at: OppIndex,
        cap: OppIndex,
        refuses: bool,
    }
    impl Actuator for FakeClock {
        fn name(&self) -> &str {
            "fake"
        }
        fn standing(&self, _: DomainId) -> Option<OppIndex> {
            Some(self.at)
        }
        fn apply(&mut self, order: &Admitted, half: Half) -> Result<(), ActuateError> {
            let Some(to) = order.opp(DomainId(0)) else { return Ok(()) };
            if (half == Half::Raise) != (to > self.at) || to == self.at {
                return Ok(());
            }
            if self.refuses {
                return Err(ActuateError::NotReached {
                    path: "fake".into(),
                    wrote: to.0.to_string(),
                    read: self.at.0.to_string(),
                });
            }
            self.at = to.min(self.cap);
            Ok(())
        }
    }

    fn board() -> Board {
        let opps = (1..=8)
            .map(|i| Opp { freq: Freq { raw: i, unit: FreqUnit::Khz }, volt: None, power: None })
            .collect();
        let domain = Domain {
            name: "cpu".into(),
            kind: DomainKind::CpuBandwidth,
            cpus: vec![0],
            opps,
            transition_latency: Nanos(0),
        };
        Board {
            name: "t".into(),
            domains: vec![domain],
            limits: BoardLimits { temp_max: None, min_dwell: Nanos(0) },
        }
    }

    struct Bench {
        t: Transaction,
        clock: FakeClock,
        envelope: Envelope,
        taken: u64,
    }
    impl Bench {
        fn new(at: u16, cap: u16, refuses: bool) -> Self {
            Self {
                t: Transaction::new(1, Nanos::from_ms(1000)),
                clock: FakeClock { at: OppIndex(at), cap: OppIndex(cap), refuses },
                envelope: Envelope::new(&board(), &[]),
                taken: 0,
            }
        }
        /// One decision; returns (opp now, sub-network published, falls waiting).
        fn decide(&mut self, seq: u64, at_ms: u64, opp_asked: u16, subnet: u16) -> (u16, Option<u32>, usize) {
            let grant =
                Grant { domain: DomainId(0), cores: 0, weight: 100, power: None, target: Slo::default() };
            let choice = AppChoice { subnet: SubnetIndex(subnet), threads: 1, ask: None, binds: None };
            let wish =
                Decision { seq, opps: vec![Some(OppIndex(opp_asked))], apps: vec![Some((grant, choice))] };
            let mut order = Admitted::default();
            let now = Nanos::from_ms(at_ms);
            self.envelope.admit(&Snapshot { at: now, ..Snapshot::default() }, &wish, &mut order);
            let present = [Present { slot: AppSlot(0), taken: self.taken }];
            let mut told = None;
            let o = self.t.carry_out(
                now,
                &mut order,
                &present,
                &mut self.clock,
                |_, m| told = Some(m.subnet),
                || now,
            );
            (self.clock.at.0, told, o.waiting)
        }
    }

    #[test]
    fn rise_is_written_before_the_choice_is_published() {
        let mut b = Bench::new(2, 7, false);
        assert_eq!(b.decide(1, 0, 5, 3), (5, Some(3), 0));
    }

    #[test]
    fn fall_waits_until_the_runner_has_taken_the_choice() {
        let mut b = Bench::new(2, 7, false);
        b.decide(1, 0, 5, 3);
        b.taken = 1;
        assert_eq!(b.decide(2, 10, 1, 0), (5, Some(0), 1), "busy runner: the clock stays");
        assert_eq!(b.decide(3, 20, 1, 0), (5, Some(0), 1));
        b.taken = 2;
        assert_eq!(b.decide(4, 30, 1, 0), (1, Some(0), 0), "taken: the clock falls");
    }

    #[test]
    fn fall_does_not_wait_for_a_dead_runner_past_the_validity() {
        let mut b = Bench::new(5, 7, false);
        assert_eq!(b.decide(1, 0, 1, 0).0, 5);
        assert_eq!(b.decide(2, 999, 1, 0).0, 5);
        assert_eq!(b.decide(3, 1000, 1, 0).0, 1);
    }

    #[test]
    fn newer_decision_replaces_a_pending_fall() {
        let mut b = Bench::new(5, 7, false);
        b.decide(1, 0, 1, 0);
        assert_eq!(b.decide(2, 10, 6, 0).0, 6);
        b.taken = 2;
        assert_eq!(b.decide(3, 20, 6, 0), (6, Some(0), 0));
    }

    #[test]
    fn larger_subnet_is_withheld_when_the_clock_does_not_come_and_a_smaller_one_is_not() {
        for (cap, refuses) in [(3, false), (7, true)] {
            let mut b = Bench::new(2, cap, refuses);
            b.decide(1, 0, 2, 1);
            assert_eq!(b.decide(2, 10, 6, 3).1, Some(1), "cap {cap}, refuses {refuses}");
            assert_eq!(b.decide(3, 20, 6, 0).1, Some(0), "cap {cap}, refuses {refuses}");
        }
    }

    #[test]
    fn hold_renews_what_was_told_and_a_forgotten_application_is_told_nothing() {
        let mut b = Bench::new(2, 7, false);
        b.decide(1, 0, 2, 1);
        let present = [Present { slot: AppSlot(0), taken: 1 }];
        let mut told = vec![];
        let mut order = Admitted::default();
        b.envelope.admit(
            &Snapshot::default(),
            &Decision { seq: 2, opps: vec![None], apps: vec![None] },
            &mut order,
        );
        b.t.carry_out(
            Nanos::from_ms(10),
            &mut order,
            &present,
            &mut b.clock,
            |_, m| told.push((m.seq, m.subnet, m.valid_until_ns)),
            || Nanos(0),
        );
        assert_eq!(told, vec![(2, 1, 1_010_000_000)]);
        b.t.forget(AppSlot(0));
        told.clear();
        b.t.carry_out(
            Nanos::from_ms(20),
            &mut order,
            &present,
            &mut b.clock,
            |_, m| told.push((m.seq, m.subnet, 0)),
            || Nanos(0),
        );
        assert!(told.is_empty());
    }
}
