//! Cells of the grid in the VM: energy-first and latency-first, beside invariant schedutil with the best fixed sub-network.
//!
//! Two boots: what latency-first may spend is what the comparator of the first boot drew. In each all rows of a stream ran in
//! turns.

use super::runs::{self, ASSUMED, Played};
use crate::{Row, quantile, row};
use anyhow::Context as _;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tandem::sim::network::Network;
use tandem_tests::guest;

const NETWORK: &str = "mlcad-fmnist";
/// The largest sub-network on one image at the top OPP takes about this long in the VM, ms.
const IMAGE_MS: f64 = 20.0;
/// Accuracies this near are equal, percentage points (as in `tandem eval`).
const SAME_TOP1: f64 = 0.2;
/// Shares so near are equal: energies of a kernel's rows, played in both boots, differ by up to 2 %; a p95 may by more.
const SAME: f64 = 0.03;

/// Frames are whole images, so loads are what these make: 60 %, 80 % and 40 % of the clock.
const STREAMS: [Stream; 3] = [
    Stream { name: "30Hz-600", rate_hz: 30.0, images: 1.0, co_runner: false },
    Stream { name: "20Hz-800", rate_hz: 20.0, images: 2.0, co_runner: false },
    Stream { name: "20Hz-400 beside a co-runner", rate_hz: 20.0, images: 1.0, co_runner: true },
];

struct Stream {
    name: &'static str,
    rate_hz: f64,
    /// Of a frame.
    images: f64,
    /// Somebody keeps its CPU busy.
    co_runner: bool,
}

impl Stream {
    fn target_ms(&self) -> f64 {
        1000.0 / self.rate_hz
    }

    /// A scenario's text; mW = a budget, for the least latency.
    fn scenario(&self, top1: f64, budget_mw: Option<f64>) -> String {
        let (rate, largest, latency) = (self.rate_hz, self.images * IMAGE_MS, self.target_ms());
        let wanted = match budget_mw {
            Some(mw) => format!("objective = \"latency\", power-mw = {:.0}", mw.ceil()),
            None => "objective = \"energy\"".into(),
        };
        let co_runner = match self.co_runner {
            true => "[[co-runner]]\nname = \"hungry\"\nfrom-s = 0.0\nto-s = 24.0\ncpus = [0]\n",
            false => "",
        };
        format!(
            "about = \"a cell of the grid, made of whole images\"\nlength-s = 24.0\nwarm-up-s = 4.0\n\n[[app]]\n\
             name = \"camera\"\nnetwork = \"{NETWORK}\"\nlargest-ms = {largest:.1}\ncpus = [0]\n\
             frames = {{ kind = \"periodic\", rate-hz = {rate:.1} }}\n\
             targets = [{{ latency-ms = {latency:.3}, top1 = {top1:.2}, {wanted} }}]\n{co_runner}"
        )
    }
}

/// One cell's comparator and ours.
struct Cell {
    name: String,
    ours: Played,
    /// The best fixed network; `None`: none meets the target.
    fixed: Option<Played>,
    target_ms: f64,
}

/// What a cell came to, against its comparator.
struct Judged {
    energy: f64,
    /// The same under each of [`ASSUMED`].
    energy_if: [f64; ASSUMED.len()],
    p95: f64,
    /// What co-runners got done; not a number without one.
    co_runners: f64,
    /// No more late, within the target, as accurate.
    fair: bool,
}

impl Judged {
    fn saves(&self) -> bool {
        self.fair && self.energy < 1.0 - SAME && self.energy_if.iter().all(|e| *e < 1.0)
    }

    fn is_faster(&self) -> bool {
        let no_more = |energy: &f64| *energy <= 1.0 + SAME;
        self.fair && self.p95 < 1.0 - SAME && no_more(&self.energy) && self.energy_if.iter().all(no_more)
    }

    /// The comparator's own point, as far as can be told.
    fn ties(&self) -> bool {
        self.fair && (self.energy - 1.0).abs() <= SAME && (self.p95 - 1.0).abs() <= SAME
    }
}

/// One boot.
struct Boot {
    /// Streams by floors.
    cells: Vec<Cell>,
    /// Streams by fixed sub-networks under the kernel's governor.
    kernel: Vec<Played>,
}

impl Cell {
    fn judge(&self, network: &Network) -> Option<Judged> {
        let fixed = self.fixed.as_ref()?;
        let ratio = |of: fn(&runs::Run) -> f64| self.ours.median(of) / fixed.median(of);
        let top1 = |p: &Played| p.median(|r| mean_top1(network, &r.by_subnet));
        let fair = self.ours.meets(self.target_ms)
            && self.ours.median(|r| r.late) <= fixed.median(|r| r.late)
            && top1(&self.ours) >= top1(fixed) - SAME_TOP1;
        Some(Judged {
            energy: ratio(|r| r.mw),
            energy_if: ASSUMED.map(|a| self.ours.median(|r| r.mw_if(a)) / fixed.median(|r| r.mw_if(a))),
            p95: ratio(|r| r.p95),
            co_runners: ratio(|r| r.co_runners),
            fair,
        })
    }
}

/// %, by the manifest.
fn mean_top1(network: &Network, frames: &[(String, f64)]) -> f64 {
    let of = |name: &str| {
        let subnet = network.subnets.iter().find(|s| s.name == name);
        subnet.map_or(f64::NAN, |s| f64::from(s.top1.0) / 100.0)
    };
    let all: f64 = frames.iter().map(|(_, n)| n).sum();
    frames.iter().map(|(name, n)| of(name) * n).sum::<f64>() / all
}

/// The figures.
pub fn vm_grid() -> anyhow::Result<Vec<Row>> {
    if let Some(why) = guest::missing() {
        anyhow::bail!("{why}");
    }
    let network = Network::find(NETWORK).with_context(|| format!("no network {NETWORK}"))?;
    let floors: Vec<f64> = network.subnets.iter().map(|s| f64::from(s.top1.0) / 100.0).collect();
    let energy = play("vm-grid-energy", &floors, |_, _| None)?;
    let budget = |stream: usize, floor: usize| {
        let cell = &energy.cells[stream * floors.len() + floor];
        cell.fixed.as_ref().map(|p| p.median(|r| r.home_mw))
    };
    let latency = play("vm-grid-latency", &floors, budget)?;
    let mut rows = Vec::new();
    summary(&network, "energy-first", &energy.cells, Judged::saves, &mut rows);
    summary(&network, "latency-first", &latency.cells, Judged::is_faster, &mut rows);
    let differs = |of: fn(&runs::Run) -> f64| {
        let pairs = energy.kernel.iter().zip(&latency.kernel);
        pairs.map(|(a, b)| (b.median(of) / a.median(of) - 1.0).abs() * 100.0).fold(0.0, f64::max)
    };
    let n = energy.kernel.len() as u64;
    let name = "the kernel's rows in the second boot against the first, largest difference: ";
    rows.push(Row { kind: "modelled".into(), ..row(&format!("{name}energy"), differs(|r| r.mw), "%", n) });
    rows.push(row(&format!("{name}p95"), differs(|r| r.p95), "%", n));
    for (objective, boot) in [("energy-first", &energy), ("latency-first", &latency)] {
        for cell in &boot.cells {
            let Some(j) = cell.judge(&network) else { continue };
            let mut add = |what: &str, value: f64, kind: &str| {
                let name = format!("{objective}, {}: {what}", cell.name);
                rows.push(Row {
                    kind: kind.into(),
                    ..row(&name, value, "ratio", cell.ours.runs.len() as u64)
                });
            };
            let unfair = if j.fair { "" } else { " (NOT fair: late, or less accurate)" };
            add(&format!("energy{unfair}"), j.energy, "modelled");
            add("p95", j.p95, "measured");
            if j.co_runners.is_finite() {
                add("co-runner's work", j.co_runners, "measured");
            }
        }
    }
    Ok(rows)
}

/// All streams at all floors.
fn play(name: &str, floors: &[f64], budget: impl Fn(usize, usize) -> Option<f64>) -> anyhow::Result<Boot> {
    let share = guest::share(name)?;
    let fixed: Vec<String> = (0..floors.len()).map(|n| format!("kernel:schedutil?subnet={n}")).collect();
    let policies: Vec<String> = std::iter::once("tandem".to_owned()).chain(fixed.clone()).collect();
    let mut files: Vec<Vec<PathBuf>> = Vec::new();
    for (s, stream) in STREAMS.iter().enumerate() {
        let mut of_it = Vec::new();
        for (f, floor) in floors.iter().enumerate() {
            let path = share.join(format!("{}-floor-{floor:.2}.toml", stream.name.replace(' ', "-")));
            std::fs::write(&path, stream.scenario(*floor, budget(s, f)))?;
            of_it.push(path);
        }
        files.push(of_it);
    }
    let results = runs::play(&files.concat(), &policies, 1, &share)?;
    let mut boot = Boot { cells: vec![], kernel: vec![] };
    for (stream, files) in STREAMS.iter().zip(&files) {
        stage(stream, files, floors, &fixed, &results, &mut boot)?;
    }
    Ok(boot)
}

fn stage(
    stream: &Stream,
    files: &[PathBuf],
    floors: &[f64],
    fixed: &[String],
    results: &[Value],
    boot: &mut Boot,
) -> anyhow::Result<()> {
    let stem = |p: &Path| p.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    // A kernel's governor played the first file for all.
    let first = stem(&files[0]);
    let kernel = fixed.iter().map(|p| Played::of(p, &first, results));
    let kernel: Vec<Played> = kernel.collect::<anyhow::Result<_>>()?;
    for (f, file) in files.iter().enumerate() {
        let target_ms = stream.target_ms();
        boot.cells.push(Cell {
            name: format!("{}, floor {:.2} %", stream.name, floors[f]),
            ours: Played::of("tandem", &stem(file), results)?,
            fixed: cheapest(&kernel[f..], target_ms).cloned(),
            target_ms,
        });
    }
    boot.kernel.extend(kernel);
    Ok(())
}

/// Of those that meet the target; of equals the smallest network.
fn cheapest(by_network: &[Played], target_ms: f64) -> Option<&Played> {
    let mw = |p: &Played| p.median(|r| r.mw);
    let meet = || by_network.iter().filter(|p| p.meets(target_ms));
    let least = meet().map(mw).min_by(f64::total_cmp)?;
    meet().find(|p| mw(p) <= least * (1.0 + SAME))
}

fn summary(
    network: &Network,
    objective: &str,
    cells: &[Cell],
    won: fn(&Judged) -> bool,
    rows: &mut Vec<Row>,
) {
    let judged: Vec<Judged> = cells.iter().filter_map(|c| c.judge(network)).collect();
    let n = judged.len() as u64;
    if n == 0 {
        return;
    }
    let mut add = |what: &str, value: f64, unit: &str, kind: &str| {
        rows.push(Row { kind: kind.into(), ..row(&format!("{objective}: {what}"), value, unit, n) });
    };
    let energy: Vec<f64> = judged.iter().map(|j| j.energy).collect();
    let p95: Vec<f64> = judged.iter().map(|j| j.p95).collect();
    let share =
        |of: &dyn Fn(&Judged) -> bool| judged.iter().filter(|j| of(j)).count() as f64 / n as f64 * 100.0;
    add(
        "energy against the best fixed network under schedutil, median cell",
        quantile(&energy, 0.5),
        "ratio",
        "modelled",
    );
    add("the same, worst cell", quantile(&energy, 1.0), "ratio", "modelled");
    add("p95 against it, median cell", quantile(&p95, 0.5), "ratio", "measured");
    add("the same, worst cell", quantile(&p95, 1.0), "ratio", "measured");
    add(
        "cells that are fair (no more late, within the target, as accurate)",
        share(&|j| j.fair),
        "%",
        "measured",
    );
    let worst = judged.iter().flat_map(|j| j.energy_if).fold(0.0, f64::max);
    add(
        "energy, worst cell with idle shares 0.02 and 0.3 and the little domain's power x1.4",
        worst,
        "ratio",
        "modelled",
    );
    add("cells that are the comparator's own point", share(&Judged::ties), "%", "modelled");
    add("cells won", share(&won), "%", "modelled");
    add(
        "cells in which no fixed network meets the target, left out",
        (cells.len() - judged.len()) as f64,
        "cells",
        "measured",
    );
    if let Some(last) = rows.iter_mut().rev().find(|r| r.name.ends_with("cells won")) {
        *last = last.clone().goal(95.0).higher();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(mw: f64, p95: f64) -> Played {
        Played { policy: String::new(), runs: vec![runs::Run { mw, p95, ..Default::default() }], void: 0 }
    }

    #[test]
    fn of_equals_the_smallest_network_is_the_comparator() {
        let pick = |all: &[Played]| cheapest(all, 50.0).map(|p| p.median(|r| r.p95));
        assert_eq!(pick(&[played(1001.0, 10.0), played(1000.0, 20.0)]), Some(10.0));
        assert_eq!(pick(&[played(1100.0, 10.0), played(1000.0, 20.0)]), Some(20.0));
        assert_eq!(pick(&[played(900.0, 60.0), played(1000.0, 20.0)]), Some(20.0), "the first is late");
        assert_eq!(pick(&[played(900.0, 60.0)]), None);
    }

    #[test]
    fn what_cannot_be_told_apart_is_no_win() {
        let judged = |energy, p95| Judged {
            energy,
            energy_if: [energy; ASSUMED.len()],
            p95,
            co_runners: f64::NAN,
            fair: true,
        };
        let [tie, faster, dearer] = [judged(1.02, 0.98), judged(1.02, 0.9), judged(1.05, 0.9)];
        assert!(tie.ties() && !tie.is_faster() && !tie.saves());
        assert!(faster.is_faster() && !faster.ties() && !dearer.is_faster());
        assert!(judged(0.9, 1.5).saves() && !Judged { fair: false, ..judged(0.9, 1.5) }.saves());
        let hangs = Judged { energy_if: [0.8, 0.9, 1.1], ..judged(0.9, 0.9) };
        assert!(!hangs.saves() && !hangs.is_faster(), "on the little domain's leakage");
    }
}
