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

    /// Main OPP of the big domain, MHz.
    fn main_opp(fps: f64, load: f64, invariant: bool) -> u64 {
        let model = Model::find("vm-baseline").unwrap();
        let which = Which::Schedutil { invariant, rate_limit: None };
        let all = residency(&model, &stream(fps, load), which).unwrap();
        let big = all.iter().find(|r| r.domain == "big").unwrap();
        println!("{fps}/{load} invariant {invariant}: main {} {:?}", big.main(), big.permille);
        big.main()
    }

    #[test]
    fn print_all() {
        for fps in [30.0, 20.0, 10.0] {
            for load in [25.0, 50.0, 75.0] {
                main_opp(fps, load, true);
                main_opp(fps, load, false);
            }
        }
    }
}
