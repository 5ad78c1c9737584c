//! Slimmable networks: Yu, Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV
//! 2019, arXiv 1903.05134.
//!
//! A sub-network of width w has the first `channels-per-width * w` channels of every layer and batch-norm
//! of its own; then the mean over all pixels and a linear classifier. Tensors: `NAME.weight`, per width
//! `wW.NAME.scale` and `wW.NAME.bias`; `fc.weight`, `fc.bias`.

use super::{CHANNELS_MAX, conv_problems, image, rising};
use crate::engine::graph::{Activation, Conv, Graph, GraphError, Norm, Padding};
use crate::engine::store::{Slot, SlotKind};
use crate::manifest::{Manifest, SubnetEntry};

pub(super) fn problems(manifest: &Manifest) -> Vec<String> {
    let mut found = conv_problems(manifest, |c| c.channels_per_width, "channels-per-width");
    found.extend(rising(manifest, "width", 256, |s| s.width));
    let largest = manifest.subnets.iter().filter_map(|s| s.width).max().unwrap_or(0);
    for c in &manifest.convs {
        if c.channels_per_width.unwrap_or(0) * largest.min(256) > CHANNELS_MAX {
            found.push(format!("conv {:?}: more than {CHANNELS_MAX} channels at width {largest}", c.name));
        }
    }
    found
}

pub(super) fn graph(manifest: &Manifest, subnet: &SubnetEntry) -> Result<Graph, GraphError> {
    let width = subnet.width.unwrap_or(0);
    let mut graph = Graph::new(image(manifest));
    let mut x = graph.image();
    for c in &manifest.convs {
        let vector = |what: &str| Some(format!("w{width}.{}.{what}", c.name));
        let conv = Conv {
            slot: format!("{}.weight", c.name),
            kernel: (c.kernel, c.kernel),
            outputs: c.channels_per_width.unwrap_or(0) * width,
            groups: 1,
            stride: 1,
            padding: Padding::Half,
            norm: Norm { scale: vector("scale"), bias: vector("bias") },
            add: c.add.then_some(x),
            activation: Activation::Relu,
        };
        x = graph.conv(x, conv)?;
        if c.pool > 1 {
            x = graph.max_pool(x, c.pool)?;
        }
    }
    let x = graph.mean(x)?;
    let fc = Conv {
        slot: "fc.weight".into(),
        kernel: (1, 1),
        outputs: manifest.classes.count(),
        groups: 1,
        stride: 1,
        padding: Padding::Valid,
        norm: Norm { scale: None, bias: Some("fc.bias".into()) },
        add: None,
        activation: Activation::None,
    };
    graph.conv(x, fc)?;
    Ok(graph)
}

pub(super) fn slots(manifest: &Manifest) -> Vec<Slot> {
    let widths: Vec<usize> = manifest.subnets.iter().filter_map(|s| s.width).collect();
    let largest = widths.iter().copied().max().unwrap_or(0);
    let mut slots = Vec::new();
    let mut inputs = manifest.input.channels;
    for c in &manifest.convs {
        let outputs = c.channels_per_width.unwrap_or(0);
        let kernel = (c.kernel, c.kernel);
        let kind = SlotKind::Dense { kernel, inputs, outputs: outputs * largest, groups: 1, linear: false };
        slots.push(Slot { name: format!("{}.weight", c.name), kind });
        for w in &widths {
            for what in ["scale", "bias"] {
                let kind = SlotKind::Vector(outputs * w);
                slots.push(Slot { name: format!("w{w}.{}.{what}", c.name), kind });
            }
        }
        inputs = outputs * largest;
    }
    let outputs = manifest.classes.count();
    let kind = SlotKind::Dense { kernel: (1, 1), inputs, outputs, groups: 1, linear: true };
    slots.push(Slot { name: "fc.weight".into(), kind });
    slots.push(Slot { name: "fc.bias".into(), kind: SlotKind::Vector(outputs) });
    slots
}
