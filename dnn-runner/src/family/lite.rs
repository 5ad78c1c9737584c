//! EfficientNet-Lite: Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML
//! 2019, arXiv 1905.11946; the Lite variants (no squeeze and excite, ReLU6, stem and head unscaled) are of
//! github.com/tensorflow/tpu, models/official/efficientnet/lite.
//!
//! A static set: each sub-network is a network of its own with weights of its own, all in one file. What
//! switching models costs is measured on it. Tensors of variant N: `liteN.stem`, `liteN.B.expand`, `.dw`,
//! `.project` (block B), `liteN.head`, each with `.weight`, `.scale`, `.bias`; `liteN.fc.weight`, `liteN.fc.bias`.

use crate::engine::graph::{Activation, Conv, Graph, GraphError, Norm, Padding, Shape, Value};
use crate::engine::store::{Slot, SlotKind};
use crate::manifest::{Manifest, SubnetEntry};

const STEM: usize = 32;
const HEAD: usize = 1280;
/// Blocks, kernel, stride of the first, expansion, outputs: Table 1 of the paper.
const STAGES: [(usize, usize, usize, usize, usize); 7] = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
];
/// Width and depth of variants 0, 1, 2, in tenths.
const VARIANTS: [(usize, usize); 3] = [(10, 10), (10, 11), (11, 12)];

/// One inverted residual block.
struct Block {
    kernel: usize,
    stride: usize,
    expand: usize,
    outputs: usize,
}

/// `n * tenths / 10` to the next multiple of 8, but never to less than nine tenths of it.
const fn width(n: usize, tenths: usize) -> usize {
    let scaled = n * tenths;
    let rounded = (scaled + 40) / 80 * 8;
    if rounded * 100 < scaled * 9 { rounded + 8 } else { rounded }
}

fn blocks(variant: usize) -> Vec<Block> {
    let (wide, deep) = VARIANTS[variant];
    let mut all = Vec::new();
    for (s, (repeats, kernel, stride, expand, outputs)) in STAGES.into_iter().enumerate() {
        // The first and the last stage are as deep in every variant.
        let ends = s == 0 || s == STAGES.len() - 1;
        let repeats = if ends { repeats } else { (repeats * deep).div_ceil(10) };
        for b in 0..repeats {
            let stride = if b == 0 { stride } else { 1 };
            all.push(Block { kernel, stride, expand, outputs: width(outputs, wide) });
        }
    }
    all
}

pub(super) fn problems(manifest: &Manifest) -> Vec<String> {
    let mut found = Vec::new();
    for s in &manifest.subnets {
        if s.variant.is_none_or(|v| v >= VARIANTS.len()) {
            found.push(format!("subnet {:?}: variant {:?}; 0 to 2", s.name, s.variant));
        }
        if !s.resolution.is_some_and(|r| (32..=512).contains(&r)) {
            found.push(format!("subnet {:?}: resolution {:?}; 32 to 512", s.name, s.resolution));
        }
    }
    if manifest.input.channels != 3 || !manifest.convs.is_empty() {
        found.push("this family takes 3 channels and has no convs".into());
    }
    found
}

fn conv(name: &str, kernel: usize, outputs: usize, activation: Activation) -> Conv {
    Conv {
        slot: format!("{name}.weight"),
        kernel: (kernel, kernel),
        outputs,
        groups: 1,
        stride: 1,
        padding: Padding::Same,
        norm: Norm { scale: Some(format!("{name}.scale")), bias: Some(format!("{name}.bias")) },
        add: None,
        activation,
    }
}

pub(super) fn graph(manifest: &Manifest, subnet: &SubnetEntry) -> Result<Graph, GraphError> {
    let (variant, side) = (subnet.variant.unwrap_or(0), subnet.resolution.unwrap_or(0));
    let mut graph = Graph::new(Shape { height: side, width: side, channels: 3 });
    let name = |what: &str| format!("lite{variant}.{what}");
    let stem = Conv { stride: 2, ..conv(&name("stem"), 3, STEM, Activation::Relu6) };
    let mut x = graph.conv(graph.image(), stem)?;
    for (b, block) in blocks(variant).iter().enumerate() {
        x = self::block(&mut graph, &name(&b.to_string()), x, block)?;
    }
    let x = graph.conv(x, conv(&name("head"), 1, HEAD, Activation::Relu6))?;
    let x = graph.mean(x)?;
    let fc = conv(&name("fc"), 1, manifest.classes.count(), Activation::None);
    graph.conv(x, Conv { norm: Norm { scale: None, ..fc.norm }, ..fc })?;
    Ok(graph)
}

fn block(graph: &mut Graph, name: &str, x: Value, block: &Block) -> Result<Value, GraphError> {
    let inputs = graph.shape(x).channels;
    let mid = inputs * block.expand;
    let mut y = x;
    if block.expand > 1 {
        y = graph.conv(y, conv(&format!("{name}.expand"), 1, mid, Activation::Relu6))?;
    }
    let dw = conv(&format!("{name}.dw"), block.kernel, mid, Activation::Relu6);
    let y = graph.depthwise(y, Conv { stride: block.stride, ..dw })?;
    let add = (block.stride == 1 && inputs == block.outputs).then_some(x);
    let project = conv(&format!("{name}.project"), 1, block.outputs, Activation::None);
    graph.conv(y, Conv { add, ..project })
}

pub(super) fn slots(manifest: &Manifest) -> Vec<Slot> {
    let mut slots = Vec::new();
    for variant in manifest.subnets.iter().filter_map(|s| s.variant) {
        let mut add = |name: &str, kind: SlotKind, outputs: usize, scaled: bool| {
            let name = format!("lite{variant}.{name}");
            slots.push(Slot { name: format!("{name}.weight"), kind });
            for what in if scaled { &["scale", "bias"][..] } else { &["bias"] } {
                slots.push(Slot { name: format!("{name}.{what}"), kind: SlotKind::Vector(outputs) });
            }
        };
        let dense = |kernel: usize, inputs: usize, outputs: usize| SlotKind::Dense {
            kernel: (kernel, kernel),
            inputs,
            outputs,
            groups: 1,
            linear: false,
        };
        add("stem", dense(3, 3, STEM), STEM, true);
        let mut inputs = STEM;
        for (b, block) in blocks(variant).iter().enumerate() {
            let mid = inputs * block.expand;
            if block.expand > 1 {
                add(&format!("{b}.expand"), dense(1, inputs, mid), mid, true);
            }
            let dw = SlotKind::Depthwise { kernel: block.kernel, channels: mid, elastic: false };
            add(&format!("{b}.dw"), dw, mid, true);
            add(&format!("{b}.project"), dense(1, mid, block.outputs), block.outputs, true);
            inputs = block.outputs;
        }
        add("head", dense(1, inputs, HEAD), HEAD, true);
        let classes = manifest.classes.count();
        add("fc", dense(1, HEAD, classes), classes, false);
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_and_depths_are_the_papers() {
        // round_filters and round_repeats of the reference code, by hand for lite2.
        let outputs: Vec<usize> = STAGES.iter().map(|s| width(s.4, 11)).collect();
        assert_eq!(outputs, [16, 24, 48, 88, 120, 208, 352]);
        let depth: Vec<usize> = [0, 1, 2].iter().map(|v| blocks(*v).len()).collect();
        assert_eq!(depth, [16, 1 + 3 + 3 + 4 + 4 + 5 + 1, 1 + 3 + 3 + 4 + 4 + 5 + 1]);
    }
}
