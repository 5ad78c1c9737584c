//! Group convolution: Xun et al., "Incremental Training and Group Convolution Pruning for Runtime DNN
//! Performance Scaling on Heterogeneous Embedded Platforms", MLCAD 2019, arXiv 2105.03600.
//!
//! A group's convolutions see only that group's channels (the first sees the image), and the classifier
//! sums the groups' logits. Tensors: `groupN.NAME.weight`, `groupN.NAME.bias`, `groupN.fc.weight`,
//! `groupN.fc.bias`.

use super::{conv_problems, image, last_map, rising};
use crate::engine::graph::{Activation, Conv, Graph, GraphError, Norm, Padding};
use crate::engine::store::{Slot, SlotKind};
use crate::manifest::{ConvLayer, Manifest, SUBNETS_MAX, SubnetEntry};

pub(super) fn problems(manifest: &Manifest) -> Vec<String> {
    let mut found = conv_problems(manifest, |c| c.channels, "channels");
    found.extend(rising(manifest, "groups", SUBNETS_MAX, |s| s.groups));
    found
}

fn channels(c: &ConvLayer) -> usize {
    c.channels.unwrap_or(0)
}

pub(super) fn graph(manifest: &Manifest, subnet: &SubnetEntry) -> Result<Graph, GraphError> {
    let mut graph = Graph::new(image(manifest));
    let mut logits = None;
    for g in 0..subnet.groups.unwrap_or(0) {
        let norm = |name: &str| Norm { scale: None, bias: Some(format!("group{g}.{name}.bias")) };
        let mut x = graph.image();
        for c in &manifest.convs {
            let conv = Conv {
                slot: format!("group{g}.{}.weight", c.name),
                kernel: (c.kernel, c.kernel),
                outputs: channels(c),
                groups: 1,
                stride: 1,
                padding: Padding::Half,
                norm: norm(&c.name),
                add: None,
                activation: Activation::Relu,
            };
            x = graph.conv(x, conv)?;
            if c.pool > 1 {
                x = graph.max_pool(x, c.pool)?;
            }
        }
        let fc = Conv {
            slot: format!("group{g}.fc.weight"),
            kernel: last_map(manifest),
            outputs: manifest.classes.count(),
            groups: 1,
            stride: 1,
            padding: Padding::Valid,
            norm: norm("fc"),
            add: logits,
            activation: Activation::None,
        };
        logits = Some(graph.conv(x, fc)?);
    }
    Ok(graph)
}

pub(super) fn slots(manifest: &Manifest) -> Vec<Slot> {
    let mut slots = Vec::new();
    let groups = manifest.subnets.iter().filter_map(|s| s.groups).max().unwrap_or(0);
    for g in 0..groups {
        let mut add = |name: &str, kernel, inputs, outputs, linear| {
            let kind = SlotKind::Dense { kernel, inputs, outputs, groups: 1, linear };
            slots.push(Slot { name: format!("group{g}.{name}.weight"), kind });
            slots.push(Slot { name: format!("group{g}.{name}.bias"), kind: SlotKind::Vector(outputs) });
        };
        let mut inputs = manifest.input.channels;
        for c in &manifest.convs {
            add(&c.name, (c.kernel, c.kernel), inputs, channels(c), false);
            inputs = channels(c);
        }
        add("fc", last_map(manifest), inputs, manifest.classes.count(), true);
    }
    slots
}
