//! The safety stage: what a policy wishes becomes what may be done. Total: it never fails.
//!
//! Only [`Envelope::admit`] can make an [`Admitted`], and only an [`Admitted`] can act. The corrections, in
//! this order, each a [`Clamp`]: the range of the OPP table, the thermal ceiling, the cap imposed from
//! outside, the dwell time. What must fall for safety does not wait for the dwell time.
//!
//! The thermal ceiling is stepwise, as the kernel's `step_wise` governor is: while the hottest zone is at
//! or above `temp_max` every domain's ceiling falls one OPP per [`THERMAL_STEP`]; once it is
//! [`THERMAL_HYSTERESIS`] below, it rises again, one OPP per step. No temperature, no ceiling of ours: the
//! kernel's own protection stands below us in any case.

use crate::board::Board;
use crate::policy::{AppChoice, Decision, Grant, Limits};
use crate::snapshot::{Signal, Snapshot};
use crate::units::{DomainId, MilliCelsius, Nanos, OppIndex};
use serde::Serialize;

/// Time between two steps of the thermal ceiling.
pub const THERMAL_STEP: Nanos = Nanos::from_ms(500);
/// How far below `temp_max` the ceiling rises again.
pub const THERMAL_HYSTERESIS: MilliCelsius = MilliCelsius(3_000);

/// Why a wish was corrected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Outside the OPP table.
    Range,
    /// Above the thermal ceiling.
    Thermal,
    /// Above what something outside allows.
    Outside,
    /// The domain moved too short a time ago.
    Dwell,
    /// Written, but the hardware did not follow (found by the read-back).
    NotReached,
}

/// One recorded correction of a domain's OPP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Clamp {
    /// Where.
    pub domain: DomainId,
    /// Which rule.
    pub reason: Reason,
    /// Wished.
    pub asked: OppIndex,
    /// Admitted.
    pub got: OppIndex,
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
    /// Records what the read-back found.
    pub(crate) fn note(&mut self, clamp: Clamp) {
        self.clamps.push(clamp);
    }
    /// What was admitted, as a wish again.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }
    /// The same order without the domains and applications that `keep_*` reject: leaving something as it
    /// is needs no admission. Reuses the buffers of `self`.
    pub fn restrict(
        &mut self,
        from: &Admitted,
        mut keep_domain: impl FnMut(DomainId) -> bool,
        mut keep_app: impl FnMut(usize) -> bool,
    ) {
        self.decision.seq = from.decision.seq;
        self.clamps.clear();
        self.decision.opps.clear();
        self.decision
            .opps
            .extend((0u16..).zip(&from.decision.opps).map(|(d, o)| o.filter(|_| keep_domain(DomainId(d)))));
        self.decision.apps.clear();
        self.decision
            .apps
            .extend(from.decision.apps.iter().enumerate().map(|(i, a)| a.filter(|_| keep_app(i))));
    }
}

/// The limits and the little history they need.
#[derive(Debug)]
pub struct Envelope {
    tops: Vec<OppIndex>,
    temp_max: Option<MilliCelsius>,
    min_dwell: Nanos,
    thermal_signals: Vec<usize>,
    ceiling: Vec<OppIndex>,
    stepped: Nanos,
    moved: Vec<Option<(Nanos, OppIndex)>>,
}

impl Envelope {
    /// For a board and the signals of its sensors; temperatures are those in `mC`.
    pub fn new(board: &Board, signals: &[Signal]) -> Self {
        let tops: Vec<_> = board.domains.iter().map(crate::board::Domain::top).collect();
        Self {
            ceiling: tops.clone(),
            moved: vec![None; tops.len()],
            tops,
            temp_max: board.limits.temp_max,
            min_dwell: board.limits.min_dwell,
            thermal_signals: (0..signals.len()).filter(|&i| signals[i].unit == "mC").collect(),
            stepped: Nanos(0),
        }
    }

    /// The OPPs allowed at present.
    pub fn limits(&self) -> Limits {
        Limits { opps: self.ceiling.iter().map(|&c| (OppIndex(0), c)).collect() }
    }

    /// Moves the thermal ceiling if it is time; true if a limit changed.
    pub fn observe(&mut self, seen: &Snapshot) -> bool {
        let Some(max) = self.temp_max else { return false };
        let hottest = self.thermal_signals.iter().filter_map(|&i| seen.signals.get(i)?.value).max();
        let Some(hottest) = hottest else { return false };
        if self.stepped != Nanos(0) && seen.at.since(self.stepped) < THERMAL_STEP {
            return false;
        }
        let mut changed = false;
        for (ceiling, &top) in self.ceiling.iter_mut().zip(&self.tops) {
            let next = if hottest >= i64::from(max.0) {
                OppIndex(ceiling.0.saturating_sub(1))
            } else if hottest < i64::from(max.0 - THERMAL_HYSTERESIS.0) {
                OppIndex((ceiling.0 + 1).min(top.0))
            } else {
                *ceiling
            };
            changed |= next != *ceiling;
            *ceiling = next;
        }
        if changed {
            self.stepped = seen.at;
        }
        changed
    }

    /// Corrects `wish` into `out`, whose buffers are reused.
    pub fn admit(&mut self, seen: &Snapshot, wish: &Decision, out: &mut Admitted) {
        out.decision.clone_from(wish);
        out.clamps.clear();
        for (i, slot) in out.decision.opps.iter_mut().enumerate() {
            let domain = DomainId(u16::try_from(i).expect("checked at load: at most 16 domains"));
            let Some(asked) = *slot else {
                // Nobody wishes anything, but a domain left above its ceiling must still fall.
                let now = seen.domains.get(i).and_then(|d| d.opp);
                if let (Some(now), Some(&ceiling)) = (now, self.ceiling.get(i))
                    && now > ceiling
                {
                    *slot = Some(ceiling);
                    out.clamps.push(Clamp { domain, reason: Reason::Thermal, asked: now, got: ceiling });
                }
                continue;
            };
            let Some((&top, &ceiling)) = self.tops.get(i).zip(self.ceiling.get(i)) else {
                *slot = None;
                continue;
            };
            let mut got = asked;
            let mut limit = |to: OppIndex, reason: Reason| {
                if got > to {
                    out.clamps.push(Clamp { domain, reason, asked, got: to });
                    got = to;
                }
            };
            limit(top, Reason::Range);
            limit(ceiling, Reason::Thermal);
            let cap = seen.domains.get(i).and_then(|d| d.cap);
            if let Some(cap) = cap {
                limit(cap, Reason::Outside);
            }
            if let Some((at, opp)) = self.moved[i]
                && got != opp
                && seen.at.since(at) < self.min_dwell
                && opp <= ceiling
                && cap.is_none_or(|c| opp <= c)
            {
                out.clamps.push(Clamp { domain, reason: Reason::Dwell, asked, got: opp });
                got = opp;
            }
            if self.moved[i].is_none_or(|(_, opp)| opp != got) {
                self.moved[i] = Some((seen.at, got));
            }
            *slot = Some(got);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::{BoardLimits, Domain, DomainKind, Opp};
    use crate::snapshot::{DomainSample, SignalSample};
    use crate::units::{Freq, FreqUnit, Source};
    use proptest::prelude::*;

    fn board(opps: u64, temp_max: Option<i32>, dwell_ms: u64) -> Board {
        let opps = (1..=opps)
            .map(|i| Opp { freq: Freq { raw: i * 100_000, unit: FreqUnit::Khz }, volt: None, power: None })
            .collect();
        Board {
            name: "test".into(),
            domains: vec![Domain {
                name: "cpu".into(),
                kind: DomainKind::Cpufreq { policy: 0 },
                cpus: vec![0],
                opps,
                transition_latency: Nanos(0),
            }],
            limits: BoardLimits { temp_max: temp_max.map(MilliCelsius), min_dwell: Nanos::from_ms(dwell_ms) },
        }
    }
    fn zone() -> Vec<Signal> {
        vec![Signal { name: "thermal/cpu".into(), unit: "mC".into(), source: Source::Measured }]
    }
    fn seen(at_ms: u64, temp: Option<i64>, cap: Option<u16>) -> Snapshot {
        Snapshot {
            at: Nanos::from_ms(at_ms),
            domains: vec![DomainSample { cap: cap.map(OppIndex), ..DomainSample::default() }],
            signals: vec![SignalSample { value: temp, age: Nanos(0) }],
            ..Snapshot::default()
        }
    }
    fn wish(opp: u16) -> Decision {
        Decision { seq: 1, opps: vec![Some(OppIndex(opp))], apps: vec![] }
    }
    fn admit(e: &mut Envelope, s: &Snapshot, opp: u16) -> Admitted {
        let mut out = Admitted::default();
        e.admit(s, &wish(opp), &mut out);
        out
    }

    #[test]
    fn hot_domain_is_capped_step_by_step_and_released_with_hysteresis() {
        let b = board(4, Some(80_000), 0);
        let mut e = Envelope::new(&b, &zone());
        assert!(e.observe(&seen(1_000, Some(80_000), None)));
        assert_eq!(admit(&mut e, &seen(1_000, None, None), 3).opp(DomainId(0)), Some(OppIndex(2)));
        assert!(!e.observe(&seen(1_400, Some(90_000), None)), "not before the step is over");
        assert!(e.observe(&seen(1_500, Some(90_000), None)));
        assert_eq!(e.limits().opps, vec![(OppIndex(0), OppIndex(1))]);
        assert!(!e.observe(&seen(2_500, Some(78_000), None)), "within the hysteresis nothing moves");
        assert!(e.observe(&seen(3_000, Some(76_000), None)));
        assert_eq!(e.limits().opps, vec![(OppIndex(0), OppIndex(2))]);
    }

    #[test]
    fn absent_temperature_caps_nothing() {
        let mut e = Envelope::new(&board(4, Some(80_000), 0), &zone());
        assert!(!e.observe(&seen(1_000, None, None)));
    }

    #[test]
    fn domain_left_alone_above_its_ceiling_falls() {
        let mut e = Envelope::new(&board(4, Some(80_000), 0), &zone());
        e.observe(&seen(1_000, Some(95_000), None));
        let mut s = seen(1_000, None, None);
        s.domains[0].opp = Some(OppIndex(3));
        let mut out = Admitted::default();
        e.admit(&s, &Decision { seq: 1, opps: vec![None], apps: vec![] }, &mut out);
        assert_eq!(out.opp(DomainId(0)), Some(OppIndex(2)));
    }

    #[test]
    fn dwell_holds_a_domain_that_just_moved_but_not_against_an_outside_cap() {
        let mut e = Envelope::new(&board(4, None, 20), &zone());
        assert_eq!(admit(&mut e, &seen(100, None, None), 3).opp(DomainId(0)), Some(OppIndex(3)));
        let held = admit(&mut e, &seen(110, None, None), 1);
        assert_eq!(held.opp(DomainId(0)), Some(OppIndex(3)));
        assert_eq!(held.clamps()[0].reason, Reason::Dwell);
        let capped = admit(&mut e, &seen(111, None, Some(2)), 3);
        assert_eq!(capped.opp(DomainId(0)), Some(OppIndex(2)));
        assert_eq!(capped.clamps()[0].reason, Reason::Outside);
        assert_eq!(admit(&mut e, &seen(131, None, None), 1).opp(DomainId(0)), Some(OppIndex(1)));
    }

    proptest! {
        #[test]
        fn admitted_is_within_limits_and_admitting_it_again_changes_nothing(
            wishes in prop::collection::vec((0u16..80, 0u64..40, prop::option::of(0u16..9), prop::option::of(60_000i64..100_000)), 1..40),
        ) {
            let b = board(8, Some(80_000), 15);
            let mut e = Envelope::new(&b, &zone());
            let mut now = 1_000;
            for (opp, gap, cap, temp) in wishes {
                now += gap;
                let s = seen(now, temp, cap);
                e.observe(&s);
                let once = admit(&mut e, &s, opp);
                let got = once.opp(DomainId(0)).expect("a wish stays a wish");
                prop_assert!(got <= e.limits().opps[0].1);
                prop_assert!(cap.is_none_or(|c| got <= OppIndex(c)));
                let mut twice = Admitted::default();
                e.admit(&s, once.decision(), &mut twice);
                prop_assert_eq!(once.decision(), twice.decision());
                prop_assert!(twice.clamps().is_empty());
            }
        }
    }
}
