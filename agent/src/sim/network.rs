//! Dynamic networks: their sub-networks with accuracy, multiply-adds and relative cost.
//!
//! A cost is a share of the largest sub-network's time, once for CPUs and once for GPUs. What the largest
//! takes on a board is the board's model's matter.

use crate::policy::Subnet;
use crate::units::CentiPercent;
use serde::Deserialize;

/// A family of sub-networks, by rising cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Its name in scenarios.
    pub name: &'static str,
    /// As policies are told.
    pub subnets: Vec<Subnet>,
    /// Time on a CPU, share of the largest's.
    pub on_cpu: Vec<f64>,
    /// Time on a GPU, share of the largest's.
    pub on_gpu: Vec<f64>,
    /// Where the numbers come from.
    pub source: &'static str,
}

/// All there are.
pub const NAMES: [&str; 5] =
    ["dynamic-ofa-6", "dynamic-ofa-7", "inception-v3", "mlcad-fmnist", "us-mobilenet-v1"];

const OFA: &str = include_str!("data/dynamic-ofa.csv");
const MLCAD: &str = include_str!("../../../dnn-runner/models/mlcad-fmnist.toml");

/// US-MobileNet-v1, width: millions of multiply-adds, top-1 in hundredths of a point (ImageNet). Measured by its authors:
/// JiahuiYu/slimmable_networks README (numbers only).
const US_MOBILENET: [(&str, u64, u16); 9] = [
    ("0.25", 41, 5570),
    ("0.3", 64, 5730),
    ("0.4", 100, 6100),
    ("0.5", 149, 6420),
    ("0.6", 217, 6680),
    ("0.7", 287, 6880),
    ("0.8", 366, 6980),
    ("0.9", 466, 7130),
    ("1.0", 568, 7180),
];

impl Network {
    /// The network of that name; `None`: not one of [`NAMES`].
    pub fn find(name: &str) -> Option<Self> {
        match name {
            "dynamic-ofa-6" => Some(dynamic_ofa("dynamic-ofa-6", "nets_6")),
            "dynamic-ofa-7" => Some(dynamic_ofa("dynamic-ofa-7", "nets_7")),
            "inception-v3" => Some(inception()),
            "mlcad-fmnist" => Some(mlcad()),
            "us-mobilenet-v1" => Some(us_mobilenet()),
            _ => None,
        }
    }

    /// The sub-network of that name or position.
    pub fn subnet(&self, text: &str) -> Option<usize> {
        let by_name = self.subnets.iter().position(|s| s.name == text);
        by_name.or_else(|| text.parse().ok().filter(|i| *i < self.subnets.len()))
    }

    /// The best accuracy.
    pub fn best(&self) -> CentiPercent {
        self.subnets.iter().map(|s| s.top1).max().unwrap_or_default()
    }
}

#[derive(Debug, Deserialize)]
struct OfaRow {
    set: String,
    level: u8,
    top1_pct: f64,
    gpu_ms: f64,
    macs_m: f64,
    #[expect(dead_code, reason = "kept beside what it is compared with")]
    lut_gpu_ms: f64,
    lut_cpu_ms: f64,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small, positive table values")]
fn dynamic_ofa(name: &'static str, set: &str) -> Network {
    let mut read = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(OFA.as_bytes());
    let rows: Vec<OfaRow> = read
        .deserialize()
        .map(|r| r.expect("a committed table; tested"))
        .filter(|r: &OfaRow| r.set == set)
        .collect();
    let subnet = |r: &OfaRow| Subnet {
        name: format!("L{}", r.level),
        top1: CentiPercent((r.top1_pct * 100.0).round() as u16),
        macs: (r.macs_m * 1e6).round() as u64,
        measured: vec![],
    };
    let last = rows.last().expect("a committed table; tested");
    Network {
        name,
        subnets: rows.iter().map(subnet).collect(),
        on_cpu: rows.iter().map(|r| r.lut_cpu_ms / last.lut_cpu_ms).collect(),
        on_gpu: rows.iter().map(|r| r.gpu_ms / last.gpu_ms).collect(),
        source: "Dynamic-OFA: top-1 and GPU latency measured by its authors; CPU cost derived from their per-block \
                 latencies (whole-network times on a CPU are not public)",
    }
}

/// Shares of the largest's multiply-adds.
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
fn by_macs(subnets: &[Subnet]) -> Vec<f64> {
    let largest = subnets.last().map_or(1, |s| s.macs) as f64;
    subnets.iter().map(|s| s.macs as f64 / largest).collect()
}

fn us_mobilenet() -> Network {
    let subnet = |&(name, macs_m, top1): &(&str, u64, u16)| Subnet {
        name: name.into(),
        top1: CentiPercent(top1),
        macs: macs_m * 1_000_000,
        measured: vec![],
    };
    let subnets: Vec<Subnet> = US_MOBILENET.iter().map(subnet).collect();
    let cost = by_macs(&subnets);
    Network {
        name: "us-mobilenet-v1",
        on_cpu: cost.clone(),
        on_gpu: cost,
        subnets,
        source: "US-MobileNet-v1: top-1 and multiply-adds of its authors; cost assumed proportional to multiply-adds",
    }
}

fn mlcad() -> Network {
    #[derive(Deserialize)]
    struct Manifest {
        subnets: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        name: String,
        top1: u16,
        macs: u64,
    }
    let manifest: Manifest = toml::from_str(MLCAD).expect("a committed manifest; tested");
    let subnet =
        |e: Entry| Subnet { name: e.name, top1: CentiPercent(e.top1), macs: e.macs, measured: vec![] };
    let subnets: Vec<Subnet> = manifest.subnets.into_iter().map(subnet).collect();
    let cost = by_macs(&subnets);
    Network {
        name: "mlcad-fmnist",
        on_cpu: cost.clone(),
        on_gpu: cost,
        subnets,
        source: "the committed network: top-1 measured; cost derived from multiply-adds (frame times of its engine lie within \
                 2 % of that)",
    }
}

/// One network of one size: what the Jetson tables were measured with.
fn inception() -> Network {
    Network {
        name: "inception-v3",
        subnets: vec![Subnet {
            name: "whole".into(),
            top1: CentiPercent(7790),
            macs: 5_700_000_000,
            measured: vec![],
        }],
        on_cpu: vec![1.0],
        on_gpu: vec![1.0],
        source: "InceptionV3 299x299, as LoudVA measured it; its accuracy is not stated there, 77.9 % is the usual figure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_network_is_there_by_rising_cost() {
        for name in NAMES {
            let n = Network::find(name).unwrap();
            assert_eq!(n.name, name);
            for cost in [&n.on_cpu, &n.on_gpu] {
                assert_eq!(cost.len(), n.subnets.len());
                // Ordered by the GPU's: on a CPU two of dynamic-ofa-7 are 1 % the other way round.
                assert!(cost.windows(2).all(|w| w[0] < w[1] * 1.02), "{name}: {cost:?}");
                assert_eq!(cost.last(), Some(&1.0));
            }
        }
        assert_eq!(Network::find("resnet"), None);
    }

    #[test]
    fn figures_are_their_sources() {
        // Dynamic-OFA, nets_6/0: 74.202 %, 41.16 ms of 61.73 ms; 235.467 M multiply-adds.
        let ofa = Network::find("dynamic-ofa-6").unwrap();
        assert_eq!(
            (ofa.subnets.len(), ofa.subnets[0].top1, ofa.subnets[0].macs),
            (6, CentiPercent(7420), 235_467_000)
        );
        assert!((ofa.on_gpu[0] - 41.1589 / 61.7347).abs() < 1e-9);
        assert_eq!(Network::find("dynamic-ofa-7").unwrap().subnets.len(), 7);
        // The thesis's MLCAD network, ours trained: 88.37 to 90.24 %.
        let mlcad = Network::find("mlcad-fmnist").unwrap();
        assert_eq!((mlcad.subnets[0].top1, mlcad.best()), (CentiPercent(8837), CentiPercent(9024)));
        assert_eq!((mlcad.subnet("75%"), mlcad.subnet("1"), mlcad.subnet("9")), (Some(2), Some(1), None));
    }
}
