//! Once-for-All on MobileNetV3 at width 1.2: the backbone of Dynamic-OFA (Lou et al., "Dynamic-OFA: Runtime
//! DNN Architecture Switching for Performance Scaling on Heterogeneous Embedded Platforms", CVPRW 2021,
//! arXiv 2105.03596; Cai et al., "Once-for-All", ICLR 2020, arXiv 1908.09791).
//!
//! Stem, a first block without expansion, five stages of up to four inverted residual blocks whose number,
//! kernel and expansion are elastic, a final expansion, mean, feature mix, classifier. A block's middle
//! has `expand` times its inputs, rounded to 8; squeeze and excite has a quarter of that, rounded to 8.
//! Batch-norm vectors are named by slot (`NAME.scale`, `NAME.bias`): a sub-network's own would be named by
//! it too, which is all that trained weights need beyond this.

use crate::engine::graph::{Activation, Conv, Graph, GraphError, Norm, Padding, Shape, Value};
use crate::engine::store::{Slot, SlotKind};
use crate::manifest::{Manifest, SubnetEntry};

const STEM: usize = 24;
const FINAL: usize = 1152;
const MIX: usize = 1536;
const DEPTH_MAX: usize = 4;
const EXPAND_MAX: usize = 6;
const KERNEL_MAX: usize = 7;

struct Stage {
    outputs: usize,
    stride: usize,
    squeeze: bool,
    activation: Activation,
}

const fn stage(outputs: usize, stride: usize, squeeze: bool, activation: Activation) -> Stage {
    Stage { outputs, stride, squeeze, activation }
}

const STAGES: [Stage; 5] = [
    stage(32, 2, false, Activation::Relu),
    stage(48, 2, true, Activation::Relu),
    stage(96, 2, false, Activation::HSwish),
    stage(136, 1, true, Activation::HSwish),
    stage(192, 2, true, Activation::HSwish),
];

/// To the next multiple of 8, but never to less than nine tenths (as MobileNet's code rounds).
const fn round8(n: usize) -> usize {
    let rounded = (n + 4) / 8 * 8;
    let rounded = if rounded < 8 { 8 } else { rounded };
    if rounded * 10 < n * 9 { rounded + 8 } else { rounded }
}

const fn squeezed(mid: usize) -> usize {
    round8(mid / 4)
}

pub(super) fn problems(manifest: &Manifest) -> Vec<String> {
    let mut found = Vec::new();
    let blocks = STAGES.len() * DEPTH_MAX;
    let all = |list: &[usize], n: usize, allowed: &[usize]| {
        list.len() == n && list.iter().all(|x| allowed.contains(x))
    };
    for s in &manifest.subnets {
        let mut rule = |holds: bool, rule: String| {
            if !holds {
                found.push(format!("subnet {:?}: {rule}", s.name));
            }
        };
        rule(all(&s.depths, STAGES.len(), &[2, 3, 4]), format!("depths {:?}; five of 2 to 4", s.depths));
        rule(all(&s.kernels, blocks, &[3, 5, 7]), format!("kernels {:?}; {blocks} of 3, 5, 7", s.kernels));
        rule(all(&s.expands, blocks, &[3, 4, 6]), format!("expands {:?}; {blocks} of 3, 4, 6", s.expands));
        let side = manifest.input.height.min(manifest.input.width);
        rule(
            s.resolution.is_some_and(|r| (32..=side).contains(&r)),
            format!("resolution {:?}; 32 to the image's {side}", s.resolution),
        );
    }
    if manifest.input.channels != 3 || !manifest.convs.is_empty() {
        found.push("this family takes 3 channels and has no convs".into());
    }
    found
}

/// A convolution with batch-norm.
fn conv(name: &str, kernel: usize, outputs: usize, activation: Activation) -> Conv {
    Conv {
        slot: format!("{name}.weight"),
        kernel: (kernel, kernel),
        outputs,
        groups: 1,
        stride: 1,
        padding: Padding::Half,
        norm: Norm { scale: Some(format!("{name}.scale")), bias: Some(format!("{name}.bias")) },
        add: None,
        activation,
    }
}

/// One without, with a bias of its own.
fn plain(name: &str, outputs: usize, activation: Activation) -> Conv {
    let norm = Norm { scale: None, bias: Some(format!("{name}.bias")) };
    Conv { norm, ..conv(name, 1, outputs, activation) }
}

fn squeeze_excite(graph: &mut Graph, name: &str, x: Value, mid: usize) -> Result<Value, GraphError> {
    let s = graph.mean(x)?;
    let s = graph.conv(s, plain(&format!("{name}.se1"), squeezed(mid), Activation::Relu))?;
    let s = graph.conv(s, plain(&format!("{name}.se2"), mid, Activation::HSigmoid))?;
    graph.scale(x, s)
}

pub(super) fn graph(manifest: &Manifest, subnet: &SubnetEntry) -> Result<Graph, GraphError> {
    let side = subnet.resolution.unwrap_or(manifest.input.height);
    let mut graph = Graph::new(Shape { height: side, width: side, channels: 3 });
    let stem = Conv { stride: 2, ..conv("stem", 3, STEM, Activation::HSwish) };
    let first = graph.conv(graph.image(), stem)?;
    let x = graph.depthwise(first, conv("first.dw", 3, STEM, Activation::Relu))?;
    let project = Conv { add: Some(first), ..conv("first.project", 1, STEM, Activation::None) };
    let mut x = graph.conv(x, project)?;
    for (s, stage) in STAGES.iter().enumerate() {
        for b in 0..subnet.depths[s] {
            let name = format!("stage{s}.{b}");
            let (kernel, expand) = (subnet.kernels[s * DEPTH_MAX + b], subnet.expands[s * DEPTH_MAX + b]);
            let stride = if b == 0 { stage.stride } else { 1 };
            let inputs = graph.shape(x).channels;
            let mid = round8(inputs * expand);
            let y = graph.conv(x, conv(&format!("{name}.expand"), 1, mid, stage.activation))?;
            let dw = Conv { stride, ..conv(&format!("{name}.dw"), kernel, mid, stage.activation) };
            let mut y = graph.depthwise(y, dw)?;
            if stage.squeeze {
                y = squeeze_excite(&mut graph, &name, y, mid)?;
            }
            let add = (stride == 1 && inputs == stage.outputs).then_some(x);
            let project = conv(&format!("{name}.project"), 1, stage.outputs, Activation::None);
            x = graph.conv(y, Conv { add, ..project })?;
        }
    }
    let x = graph.conv(x, conv("final", 1, FINAL, Activation::HSwish))?;
    let x = graph.mean(x)?;
    let mix = Conv { norm: Norm { scale: None, bias: None }, ..plain("mix", MIX, Activation::HSwish) };
    let x = graph.conv(x, mix)?;
    graph.conv(x, plain("classifier", manifest.classes.count(), Activation::None))?;
    Ok(graph)
}

/// The slots of the largest network.
struct Slots(Vec<Slot>);

impl Slots {
    fn vectors(&mut self, name: &str, outputs: usize, which: &[&str]) {
        for what in which {
            self.0.push(Slot { name: format!("{name}.{what}"), kind: SlotKind::Vector(outputs) });
        }
    }

    fn dense(&mut self, name: &str, kernel: usize, inputs: usize, outputs: usize, vectors: &[&str]) {
        let kernel = (kernel, kernel);
        let kind = SlotKind::Dense { kernel, inputs, outputs, groups: 1, linear: false };
        self.0.push(Slot { name: format!("{name}.weight"), kind });
        self.vectors(name, outputs, vectors);
    }

    fn depthwise(&mut self, name: &str, kernel: usize, channels: usize, elastic: bool) {
        let kind = SlotKind::Depthwise { kernel, channels, elastic };
        self.0.push(Slot { name: format!("{name}.weight"), kind });
        if elastic {
            for (to, side) in [(5, 25), (3, 9)] {
                let kind = SlotKind::Transform(side);
                self.0.push(Slot { name: format!("{name}.weight.to{to}"), kind });
            }
        }
        self.vectors(name, channels, &NORM);
    }
}

const NORM: [&str; 2] = ["scale", "bias"];

pub(super) fn slots(manifest: &Manifest) -> Vec<Slot> {
    let mut slots = Slots(Vec::new());
    slots.dense("stem", 3, 3, STEM, &NORM);
    slots.depthwise("first.dw", 3, STEM, false);
    slots.dense("first.project", 1, STEM, STEM, &NORM);
    let mut inputs = STEM;
    for (s, stage) in STAGES.iter().enumerate() {
        for b in 0..DEPTH_MAX {
            let name = format!("stage{s}.{b}");
            let mid = round8(inputs * EXPAND_MAX);
            slots.dense(&format!("{name}.expand"), 1, inputs, mid, &NORM);
            slots.depthwise(&format!("{name}.dw"), KERNEL_MAX, mid, true);
            if stage.squeeze {
                slots.dense(&format!("{name}.se1"), 1, mid, squeezed(mid), &["bias"]);
                slots.dense(&format!("{name}.se2"), 1, squeezed(mid), mid, &["bias"]);
            }
            slots.dense(&format!("{name}.project"), 1, mid, stage.outputs, &NORM);
            inputs = stage.outputs;
        }
    }
    slots.dense("final", 1, inputs, FINAL, &NORM);
    slots.dense("mix", 1, FINAL, MIX, &[]);
    slots.dense("classifier", 1, MIX, manifest.classes.count(), &["bias"]);
    slots.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_mobilenets() {
        // make_divisible(v, 8) of MobileNet's reference code, worked out by hand.
        for (n, expected) in
            [(1, 8), (11, 16), (12, 16), (13, 16), (18, 24), (20, 24), (36, 40), (72, 72), (96, 96)]
        {
            assert_eq!(round8(n), expected, "{n}");
        }
    }

    #[test]
    fn the_published_subnetworks_cost_what_the_table_says() {
        let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let (manifest, _) = Manifest::read(&models.join("dynamic-ofa.toml")).unwrap();
        let table = std::fs::read_to_string(models.join("dynamic_ofa_subnets.csv")).unwrap();
        let mut rows = 0;
        for line in table.lines().filter(|l| l.starts_with("nets_")) {
            let cells: Vec<_> = line.split(',').collect();
            let name = format!("{}/{}", cells[0], cells[1]);
            let (at, subnet) = manifest.subnets.iter().enumerate().find(|(_, s)| s.name == name).unwrap();
            let graph = &manifest.graphs().unwrap()[at];
            // Millions, to as many digits as the table has.
            #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
            let millions = |n: u64| n as f64 / 1e6;
            for (found, digits, cell) in [(graph.macs(), 3, cells[8]), (graph.params(), 4, cells[9])] {
                let expected: f64 = cell.parse().unwrap();
                let close = (millions(found) - expected).abs() <= 0.51 * 10_f64.powi(-digits);
                assert!(close, "{name}: {found}, {cell} in the table");
            }
            let join = |list: &[usize]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            assert_eq!(join(&subnet.depths), cells[5]);
            assert_eq!(join(&subnet.kernels), cells[6]);
            assert_eq!(join(&subnet.expands), cells[7]);
            rows += 1;
        }
        assert_eq!(rows, 13);
    }
}
