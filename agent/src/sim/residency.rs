//! What a kernel governor does with a load, as residency per OPP: to compare with a kernel's
//! `time_in_state`.

use super::kernel::Which;
use super::model::Model;
use super::run::{RunError, kernel};
use super::scenario::Scenario;
use serde::Serialize;

/// Where one domain's clock was.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Residency {
    /// Which.
    pub domain: String,
    /// (kHz or Hz, as the driver counts; thousandths of the time), by OPP.
    pub permille: Vec<(u64, f64)>,
}

impl Residency {
    /// The OPP it was at longest, in MHz if it counts kHz.
    pub fn main(&self) -> u64 {
        self.permille.iter().max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |p| p.0 / 1000)
    }
}

/// Residency of every domain over a load, after its warm-up.
///
/// # Errors
/// The load does not fit the board.
pub fn residency(model: &Model, load: &Scenario, governor: Which) -> Result<Vec<Residency>, RunError> {
    let book = kernel(model, load, governor)?;
    let of = |(d, b): (&crate::board::Domain, &super::machine::DomainBook)| {
        let total: u64 = b.residency_ns.iter().sum();
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let share = |ns: &u64| *ns as f64 * 1000.0 / total.max(1) as f64;
        Residency {
            domain: d.name.clone(),
            permille: d.opps.iter().zip(&b.residency_ns).map(|(o, ns)| (o.freq.raw, share(ns))).collect(),
        }
    };
    Ok(model.board.domains.iter().zip(&book.domains).map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One stream at `fps` on the big domain whose largest network takes `load` per cent of the period at 2000 MHz.
    fn stream(fps: f64, load: f64) -> Scenario {
        let text = format!(
            "about = \"baseline\"\nlength-s = 22.0\nwarm-up-s = 2.0\n[[app]]\nname = \"s\"\nnetwork = \"mlcad-fmnist\"\n\
             largest-ms = {}\nframes = {{ kind = \"periodic\", rate-hz = {fps:.1} }}\ntargets = [{{ latency-ms = {} }}]\n",
            10.0 * load / fps,
            1000.0 / fps
        );
        Scenario::parse("s", "s.toml", &text).unwrap()
    }

    /// Thousandths of the time of the big domain at each OPP.
    fn big(fps: f64, load: f64, invariant: bool) -> Residency {
        let model = Model::find("vm-baseline").unwrap();
        let which = Which::Schedutil { invariant, rate_limit: None };
        let all = residency(&model, &stream(fps, load), which).unwrap();
        all.into_iter().find(|r| r.domain == "big").unwrap()
    }

    #[test]
    fn schedutil_stays_longest_where_the_kernel_in_the_vm_did() {
        // The VM's baseline, section 1: work at 2000 MHz / median latency x 2000 MHz, to the nearest OPP.
        for (fps, load, invariant, kit) in [
            (30.0, 50.0, 1600, 1800),
            (30.0, 75.0, 2000, 2000),
            (20.0, 25.0, 1000, 1000),
            (20.0, 50.0, 1600, 2000),
            (20.0, 75.0, 2000, 2000),
            (10.0, 25.0, 1200, 1400),
            (10.0, 50.0, 2000, 2000),
            (10.0, 75.0, 2000, 2000),
        ] {
            for (is_invariant, measured) in [(true, invariant), (false, kit)] {
                let is = big(fps, load, is_invariant);
                assert_eq!(is.main(), measured, "{fps}/{load}, invariant {is_invariant}: {is:?}");
            }
        }
        assert_eq!(big(30.0, 25.0, false).main(), 1000);
    }

    #[test]
    fn one_load_lies_on_the_edge_between_two_opps() {
        // 30/25, invariant: the VM stayed at 800 MHz, the model is there half of the time and at 1000 MHz else.
        let is = big(30.0, 25.0, true);
        let at = |khz| is.permille.iter().find(|p| p.0 == khz).unwrap().1;
        assert!(at(800_000) > 400.0 && at(800_000) + at(1_000_000) > 990.0, "{is:?}");
    }

    #[test]
    fn residency_is_all_of_the_time() {
        let sum: f64 = big(10.0, 25.0, true).permille.iter().map(|p| p.1).sum();
        assert!((sum - 1000.0).abs() < 1e-6);
    }
}
