//! What each sub-network costs on this machine: the table the manager chooses from.
//!
//! Responsible for: latency of a frame per sub-network, thread count and batch, with its spread; time per
//! kind of layer, and how well a sum of those predicts a sub-network that was not measured; a file that a
//! broken-off run goes on from. The runner owns sub-networks and accuracy (the manifest), this file the
//! times, and both name the same weights: they are joined by the weights' digest. Not responsible for:
//! setting clocks (`tandem profile` does, and says by [`Wanted::at`] where this runs).

use crate::batch::Batcher;
use crate::clock;
use crate::engine::exec::Crew;
use crate::engine::graph::{Graph, Node, Op};
use crate::kernel::Kernel;
use crate::manifest::Manifest;
use crate::model::{State, Supernet};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Frames of a row: at least so many, and no more after so long, ns.
const FRAMES: (usize, u64) = (30, 1_000_000_000);
/// Runs that a layer's time is the median of.
const LAYER_RUNS: usize = 40;
/// Busy time of others, of one CPU, above which the machine is noisy.
const NOISE: f64 = 0.05;
/// For how long the machine is watched first.
const WATCH: Duration = Duration::from_millis(1000);

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Profile {
    /// Of the manifest.
    pub network: String,
    /// Of the weights that were run.
    pub weights_sha256: String,
    /// The CPU's name and how many of them.
    pub machine: String,
    /// Form of the arithmetic.
    pub kernel: String,
    /// Busy time of others when a part began that had most of it, of one CPU.
    pub noise: f64,
    /// Time of a frame.
    #[serde(default)]
    pub rows: Vec<Row>,
    /// Time of a layer, one thread.
    #[serde(default)]
    pub layers: Vec<LayerRow>,
    /// How far sums of layers, taken from the other sub-networks, are from what a sub-network took.
    #[serde(default)]
    pub predicted: Vec<Predicted>,
}

/// Frames of one kind; ms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Row {
    pub subnet: String,
    /// Where and at which raw frequency of it, if `tandem profile` set one; the agent goes by these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<At>,
    pub threads: usize,
    pub batch: usize,
    pub frames: usize,
    pub p10_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    /// Clock of CPU 0 afterwards, where the kernel tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub khz: Option<u64>,
}

/// An OPP: a domain of the board, and the frequency in the unit of its driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct At {
    pub domain: String,
    pub freq: u64,
}

/// One kind of layer; us.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct LayerRow {
    pub layer: String,
    /// Occurrences, in all sub-networks.
    pub n: usize,
    pub p50_us: f64,
}

/// A sub-network's time, one thread and one image; ms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Predicted {
    pub subnet: String,
    pub measured_ms: f64,
    pub predicted_ms: f64,
    /// Share of the measured time whose layers occur in other sub-networks; the rest is its own.
    pub covered: f64,
}

/// Why a profile is not made.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Others are at work.
    #[error("others use {0:.0} % of a CPU; at most {max:.0} % (or say --noisy)", max = NOISE * 100.0)]
    Noisy(f64),
    /// The file to go on from.
    #[error("{}: {rule}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        rule: String,
    },
    /// Of the system, or of an engine.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Thread counts.
    pub threads: Vec<usize>,
    /// Images of a frame.
    pub batches: Vec<usize>,
    /// Whether others may be at work.
    pub noisy: bool,
    /// The OPP that was set.
    pub at: Option<At>,
}

fn quantile(values: &mut [u64], permille: usize) -> f64 {
    values.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "ns of a frame")]
    let ns = values[(values.len() - 1) * permille / 1000] as f64;
    ns
}

/// The CPU's name and how many of them.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cpus} x {}", model.map_or(std::env::consts::ARCH, |m| m.1))
}

/// Busy jiffies of all CPUs since boot.
fn busy() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let fields = stat.lines().next()?.split_whitespace().skip(1).map(str::parse::<u64>);
    let fields: Vec<u64> = fields.collect::<Result<_, _>>().ok()?;
    // user, nice, system, idle, iowait, irq, softirq, steal: all but idle and iowait.
    Some(fields.iter().take(8).sum::<u64>() - fields.get(3)? - fields.get(4)?)
}

/// Busy time of others while this process sleeps, of one CPU.
fn noise() -> f64 {
    let before = busy();
    std::thread::sleep(WATCH);
    let ticks = before.zip(busy()).map_or(0, |(a, b)| b.saturating_sub(a));
    // USER_HZ is 100 on every architecture we run on.
    Duration::from_millis(10 * ticks).as_secs_f64() / WATCH.as_secs_f64()
}

fn khz() -> Option<u64> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq").ok()?;
    text.trim().parse().ok()
}

/// What a layer's time depends on, in words.
pub fn signature(graph: &Graph, node: &Node) -> String {
    let (from, to) = (graph.shape(node.input), node.shape);
    let sizes = format!(
        "{}x{}x{} -> {}x{}x{}",
        from.height, from.width, from.channels, to.height, to.width, to.channels
    );
    match &node.op {
        Op::Conv { conv, .. } => {
            let more = if conv.add.is_some() { " + add" } else { "" };
            let groups = if conv.groups > 1 { format!(" /{}", conv.groups) } else { String::new() };
            format!("conv {}x{}{groups}{more} {sizes}", conv.kernel.0, conv.kernel.1)
        }
        Op::Depthwise { conv, .. } => format!("depthwise {} {sizes}", conv.kernel.0),
        Op::MaxPool(_) => format!("max pool {sizes}"),
        Op::Mean => format!("mean {sizes}"),
        Op::Scale(_) => format!("scale {sizes}"),
        Op::Add(..) => format!("add {sizes}"),
    }
}

impl Profile {
    /// What a file holds of this network on this machine, to be gone on from; empty if there is none.
    pub fn resume(path: &Path, net: &Supernet, kernel: Kernel) -> Result<Self, ProfileError> {
        let fresh = Self {
            network: net.name().to_owned(),
            weights_sha256: net.weights_digest().to_owned(),
            machine: machine(),
            kernel: net.engine().name(kernel).to_owned(),
            ..Self::default()
        };
        let refuse = |rule| ProfileError::File { path: path.to_owned(), rule };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(fresh),
            Err(e) => return Err(refuse(e.to_string())),
        };
        let old = Self::parse(&text).map_err(refuse)?;
        for (what, old, new) in [
            ("weights-sha256", &old.weights_sha256, &fresh.weights_sha256),
            ("machine", &old.machine, &fresh.machine),
            ("kernel", &old.kernel, &fresh.kernel),
        ] {
            if old != new {
                return Err(refuse(format!("{what} {old:?}; this is {new:?}: write to another file")));
            }
        }
        Ok(old)
    }

    /// The text of a file.
    pub fn parse(text: &str) -> Result<Self, String> {
        let profile: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        for r in &profile.rows {
            let rises =
                0.0 < r.p10_ms && r.p10_ms <= r.p50_ms && r.p50_ms <= r.p90_ms && r.p90_ms.is_finite();
            if let Some(At { domain, freq }) = &r.at
                && (domain.is_empty() || *freq == 0)
            {
                return Err(format!(
                    "row of subnet {:?}: domain {domain:?}, freq {freq}; neither is empty",
                    r.subnet
                ));
            }
            if !rises || r.threads == 0 || r.batch == 0 || r.frames == 0 {
                return Err(format!(
                    "row of subnet {:?}: 0 < p10 <= p50 <= p90, and counts above 0",
                    r.subnet
                ));
            }
        }
        Ok(profile)
    }

    /// Writes the file anew, whole or not at all.
    fn write(&self, path: &Path) -> std::io::Result<()> {
        let text = toml::to_string(self).map_err(std::io::Error::other)?;
        let part = path.with_extension("part");
        std::fs::write(&part, format!("# Written by `dnn-runner profile`; it goes on from here.\n{text}"))?;
        std::fs::rename(part, path)
    }

    fn has(&self, subnet: &str, at: Option<&At>, threads: usize, batch: usize) -> bool {
        let same = |r: &&Row| r.subnet == subnet && r.at.as_ref() == at;
        self.rows.iter().filter(same).any(|r| r.threads == threads && r.batch == batch)
    }

    /// Images of a frame that rows were measured with already.
    pub fn batch(&self) -> Option<usize> {
        self.rows.first().map(|r| r.batch)
    }

    /// Measures what is wanted and not in the file yet; writes the file after each row.
    pub fn measure(
        &mut self,
        path: &Path,
        net: &Arc<Supernet>,
        manifest: &Manifest,
        kernel: Kernel,
        wanted: &Wanted,
    ) -> Result<(), ProfileError> {
        let noise = noise();
        if noise > NOISE && !wanted.noisy {
            return Err(ProfileError::Noisy(noise));
        }
        self.noise = self.noise.max(noise);
        let most = wanted.threads.iter().copied().max().unwrap_or(1);
        let mut batcher = Batcher::new(Arc::clone(net), kernel, most)?;
        let all = wanted.threads.len() * wanted.batches.len() * net.subnets().len();
        let bar = ProgressBar::new(all as u64).with_style(
            ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({eta} left)")
                .expect("a legal template"),
        );
        for (subnet, s) in net.subnets().iter().enumerate() {
            for (&threads, &batch) in
                wanted.threads.iter().flat_map(|t| wanted.batches.iter().map(move |b| (t, b)))
            {
                bar.set_message(format!("{}, {threads} threads, batch {batch}", s.name));
                if !self.has(&s.name, wanted.at.as_ref(), threads, batch) {
                    let row = frames(&mut batcher, subnet, threads, batch);
                    self.rows.push(Row { subnet: s.name.clone(), at: wanted.at.clone(), ..row });
                    self.write(path)?;
                }
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        // Once: at the first OPP of several, which is the fastest.
        if self.layers.is_empty()
            && let Ok(graphs) = manifest.graphs()
            && !graphs.is_empty()
        {
            self.layers(net, &graphs, kernel)?;
        }
        Ok(self.write(path)?)
    }

    /// Times every layer of every sub-network, and predicts each from the others.
    fn layers(&mut self, net: &Supernet, graphs: &[Graph], kernel: Kernel) -> std::io::Result<()> {
        let image = vec![128; net.pixels()];
        let mut state = State::new(net, kernel)?;
        let mut of_subnets = Vec::new();
        for (subnet, graph) in graphs.iter().enumerate() {
            let mut times = vec![Vec::with_capacity(LAYER_RUNS); net.engine().layers(subnet)];
            for _ in 0..LAYER_RUNS {
                let mut began = clock::now();
                state.run(subnet, &image, &mut Crew::Alone, &mut |layer| {
                    let now = clock::now();
                    times[layer].push(now - began);
                    began = now;
                    ControlFlow::Continue(())
                });
            }
            let named = graph.nodes.iter().map(|n| signature(graph, n));
            let medians = times.iter_mut().map(|t| quantile(t, 500));
            of_subnets.push(named.zip(medians).collect::<Vec<_>>());
        }
        self.predicted =
            of_subnets.iter().enumerate().map(|(i, own)| predict(net, &of_subnets, i, own)).collect();
        let mut all: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (layer, ns) in of_subnets.iter().flatten() {
            all.entry(layer).or_default().push(*ns);
        }
        let rows = all.into_iter().map(|(layer, ns)| LayerRow {
            layer: layer.to_owned(),
            n: ns.len(),
            p50_us: middle(ns) / 1e3,
        });
        self.layers = rows.collect();
        Ok(())
    }
}

/// Of a few numbers, at least one.
fn middle(mut of: Vec<f64>) -> f64 {
    of.sort_unstable_by(f64::total_cmp);
    of[(of.len() - 1) / 2]
}

fn predict(net: &Supernet, all: &[Vec<(String, f64)>], at: usize, own: &[(String, f64)]) -> Predicted {
    let (mut predicted, mut covered, mut measured) = (0.0, 0.0, 0.0);
    for (layer, ns) in own {
        let others = all.iter().enumerate().filter(|(i, _)| *i != at).flat_map(|(_, s)| s);
        let others: Vec<f64> = others.filter(|(l, _)| l == layer).map(|(_, ns)| *ns).collect();
        measured += ns;
        if others.is_empty() {
            predicted += ns;
        } else {
            covered += ns;
            predicted += middle(others);
        }
    }
    Predicted {
        subnet: net.subnets()[at].name.clone(),
        measured_ms: measured / 1e6,
        predicted_ms: predicted / 1e6,
        covered: covered / measured,
    }
}

fn frames(batcher: &mut Batcher, subnet: usize, threads: usize, batch: usize) -> Row {
    let image = vec![128; batcher.net().pixels()];
    batcher.fill(|frame| (0..batch).for_each(|_| frame.push(&image, None)));
    batcher.run(subnet, threads, || {});
    let (least, enough_ns) = FRAMES;
    let (mut times, start) = (Vec::new(), clock::now());
    while times.len() < least || clock::now() - start < enough_ns / 4 {
        let began = clock::now();
        batcher.run(subnet, threads, || {});
        times.push(clock::now() - began);
        if clock::now() - start > enough_ns && times.len() >= least / 3 {
            break;
        }
    }
    Row {
        subnet: String::new(),
        at: None,
        threads,
        batch,
        frames: times.len(),
        p10_ms: quantile(&mut times, 100) / 1e6,
        p50_ms: quantile(&mut times, 500) / 1e6,
        p90_ms: quantile(&mut times, 900) / 1e6,
        khz: khz(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Net;

    fn wanted() -> Wanted {
        Wanted { threads: vec![1, 2], batches: vec![1, 3], noisy: true, at: None }
    }

    fn made(dir: &Path) -> (Arc<Supernet>, Manifest, PathBuf) {
        let path = Net::new(3, 1).write(dir);
        let (manifest, _) = Manifest::read(&path).unwrap();
        (Arc::new(Supernet::load(&path).unwrap()), manifest, dir.join("profile.toml"))
    }

    #[test]
    fn a_profile_goes_on_where_it_was_broken_off() {
        let dir = tempfile::tempdir().unwrap();
        let (net, manifest, path) = made(dir.path());
        let kernel = Kernel::best();
        let mut whole = Profile::resume(&path, &net, kernel).unwrap();
        whole.measure(&path, &net, &manifest, kernel, &wanted()).unwrap();
        assert_eq!(whole.rows.len(), 3 * 2 * 2);
        assert_eq!(Profile::resume(&path, &net, kernel).unwrap(), whole, "what is written is read");
        // As if it had been broken off after five rows, one of them unlike anything measured.
        let mut broken = whole.clone();
        broken.rows.truncate(5);
        broken.rows[4].p90_ms = 1e6;
        broken.write(&path).unwrap();
        let mut resumed = Profile::resume(&path, &net, kernel).unwrap();
        resumed.measure(&path, &net, &manifest, kernel, &wanted()).unwrap();
        assert_eq!(resumed.rows.len(), 12);
        assert_eq!(resumed.rows[..5], broken.rows[..], "measured rows are kept");
        // All groups are alike, so every layer occurs in another sub-network.
        assert!(resumed.predicted.iter().all(|p| p.covered == 1.0 && p.predicted_ms > 0.0));
    }

    #[test]
    fn each_opp_has_rows_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (net, manifest, path) = made(dir.path());
        let mut profile = Profile::resume(&path, &net, Kernel::best()).unwrap();
        let at = |freq| Some(At { domain: "cpu".into(), freq });
        for freq in [1000, 500, 1000] {
            let wanted = Wanted { threads: vec![1], batches: vec![1], noisy: true, at: at(freq) };
            profile.measure(&path, &net, &manifest, Kernel::best(), &wanted).unwrap();
        }
        assert_eq!(profile.rows.len(), 2 * 3, "an OPP that is there is not measured again");
        assert!(profile.rows[..3].iter().all(|r| r.at == at(1000)));
        assert_eq!(Profile::resume(&path, &net, Kernel::best()).unwrap(), profile, "what is written is read");
        assert_eq!(profile.batch(), Some(1));
    }

    #[test]
    fn a_prediction_takes_known_layers_from_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let (net, _, _) = made(dir.path());
        let layers =
            |list: &[(&str, f64)]| list.iter().map(|(l, ns)| ((*l).to_owned(), *ns)).collect::<Vec<_>>();
        let all =
            [layers(&[("a", 2e6), ("b", 3e6)]), layers(&[("a", 4e6)]), layers(&[("a", 9e6), ("a", 4e6)])];
        // "a" by the middle of 4, 4, 9; "b" is its own: 3 of 5 ms.
        let found = predict(&net, &all, 0, &all[0]);
        assert_eq!((found.measured_ms, found.predicted_ms, found.covered), (5.0, 7.0, 0.4));
    }

    #[test]
    fn a_profile_of_other_weights_is_not_gone_on_from() {
        let dir = tempfile::tempdir().unwrap();
        let (net, _, path) = made(dir.path());
        let fresh = Profile::resume(&path, &net, Kernel::best()).unwrap();
        Profile { weights_sha256: "other".into(), ..fresh.clone() }.write(&path).unwrap();
        let error = Profile::resume(&path, &net, Kernel::best()).unwrap_err().to_string();
        assert!(error.contains("profile.toml: weights-sha256 \"other\"; this is "), "{error}");
        for (broken, rule) in [("network = 1", "network"), ("nonsense", "line 1"), ("", "missing field")] {
            std::fs::write(&path, broken).unwrap();
            let error = Profile::resume(&path, &net, Kernel::best()).unwrap_err().to_string();
            assert!(error.contains("profile.toml: ") && error.contains(rule), "{error}");
        }
        let row =
            "[[rows]]\nsubnet=\"a\"\nthreads=1\nbatch=1\nframes=1\np10-ms=2.0\np50-ms=1.0\np90-ms=3.0\n";
        let head = toml::to_string(&fresh).unwrap();
        let head =
            head.replace("rows = []\n", "").replace("layers = []\n", "").replace("predicted = []\n", "");
        let error = Profile::parse(&format!("{head}{row}")).unwrap_err();
        assert!(error.contains("p10 <= p50"), "{error}");
    }
}
