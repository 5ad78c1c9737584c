//! Two policies side by side, and whether an assumption could turn the result round.
//!
//! Every assumed constant is set to both ends of its range, one at a time, and both policies run again. If
//! the difference of a figure has another sign at an end, that figure is undecided. Two assumptions that
//! only together would turn it are not found.

use super::model::Model;
use super::outcome::{METRICS, Outcome};
use super::run::{Prepared, RunError};
use super::scenario::Scenario;
use crate::units::Nanos;
use serde::Serialize;

/// Differences below this share are none.
const NOTHING: f64 = 0.001;

/// How a figure of one policy stands against the first's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Lower, whatever was assumed.
    Lower,
    /// Higher, whatever was assumed.
    Higher,
    /// No difference above a thousandth.
    Same,
    /// The sign depends on an assumption.
    Undecided,
}

/// One figure of one policy against the first's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The policy.
    pub policy: String,
    /// Which figure.
    pub metric: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// The first policy's.
    pub base: f64,
    /// This one's.
    pub value: f64,
    /// Smallest and largest difference over all ends of ranges, in the unit.
    pub span: [f64; 2],
    /// What can be said.
    pub verdict: Verdict,
    /// The assumptions that it hangs on: `name = end`.
    pub hangs_on: Vec<String>,
}

/// Runs all policies as the model stands and with each assumed constant at both ends; `step` is called
/// after every run. Answers the outcomes as it stands and the comparisons with the first policy.
///
/// # Errors
/// A run fails.
pub fn compare(
    policies: &[Prepared],
    model: &Model,
    scenario: &Scenario,
    period: Nanos,
    mut step: impl FnMut(),
) -> Result<Vec<Comparison>, RunError> {
    let mut all = |model: &Model| -> Result<Vec<Outcome>, RunError> {
        let one = |p: &Prepared| {
            let book = p.run(model, scenario, period, |_| ())?;
            step();
            Ok(Outcome::of(&p.text, model, scenario, &book))
        };
        policies.iter().map(one).collect()
    };
    let stands = all(model)?;
    let mut ends = Vec::new();
    for (constant, range) in model.constants.assumed().filter(|(c, _)| concerns(&c.name, scenario)) {
        for end in range {
            ends.push((format!("{} = {end}", constant.name), all(&model.with(&constant.name, end))?));
        }
    }
    let mut found = Vec::new();
    for (i, outcome) in stands.iter().enumerate().skip(1) {
        for (metric, unit, of) in METRICS {
            if let (Some(base), Some(value)) = (of(&stands[0]), of(outcome)) {
                let differences = ends.iter().filter_map(|(name, o)| Some((name, of(&o[0])?, of(&o[i])?)));
                found.push(judge(&outcome.policy, metric, unit, [base, value], differences));
            }
        }
    }
    Ok(found)
}

/// How many runs that takes.
pub fn runs(policies: usize, model: &Model, scenario: &Scenario) -> usize {
    policies * (1 + 2 * model.constants.assumed().filter(|(c, _)| concerns(&c.name, scenario)).count())
}

/// A constant of a network that nobody runs, or whose time the scenario gives, changes nothing.
fn concerns(name: &str, scenario: &Scenario) -> bool {
    match name.strip_suffix(".largest-ms") {
        Some(network) => scenario.apps.iter().any(|a| a.network.name == network && a.largest.is_none()),
        None => true,
    }
}

fn judge<'a>(
    policy: &str,
    metric: &'static str,
    unit: &'static str,
    [base, value]: [f64; 2],
    ends: impl Iterator<Item = (&'a String, f64, f64)>,
) -> Comparison {
    let sign = |base: f64, value: f64| {
        let nothing = (value - base).abs() <= NOTHING * base.abs().max(value.abs());
        if nothing { std::cmp::Ordering::Equal } else { value.total_cmp(&base) }
    };
    let here = sign(base, value);
    let mut span = [value - base; 2];
    let mut hangs_on = Vec::new();
    for (name, base, value) in ends {
        span = [span[0].min(value - base), span[1].max(value - base)];
        if sign(base, value) != here {
            hangs_on.push(name.clone());
        }
    }
    let verdict = match here {
        _ if !hangs_on.is_empty() => Verdict::Undecided,
        std::cmp::Ordering::Greater => Verdict::Higher,
        std::cmp::Ordering::Equal => Verdict::Same,
        std::cmp::Ordering::Less => Verdict::Lower,
    };
    Comparison { policy: policy.into(), metric, unit, base, value, span, verdict, hangs_on }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_that_changes_within_a_range_is_undecided() {
        let ends =
            [("idle-share = 0".to_owned(), 100.0, 110.0), ("idle-share = 0.2".to_owned(), 120.0, 115.0)];
        let of = |ends: &[(String, f64, f64)]| {
            judge("b", "energy", "J", [100.0, 105.0], ends.iter().map(|(n, a, b)| (n, *a, *b)))
        };
        let both = of(&ends);
        assert_eq!((both.verdict, both.hangs_on), (Verdict::Undecided, vec!["idle-share = 0.2".to_owned()]));
        assert_eq!(both.span, [-5.0, 10.0]);
        assert_eq!(of(&ends[..1]).verdict, Verdict::Higher);
        assert_eq!(judge("b", "energy", "J", [100.0, 100.05], [].into_iter()).verdict, Verdict::Same);
    }
}
