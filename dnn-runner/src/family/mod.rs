//! The families of dynamic networks: how a manifest's words become layers and slots.
//!
//! Responsible for: each family's rules, its tensors' names, and a sub-network's graph. A new family is a
//! file here, a variant of [`Family`] and an arm in each function below.

mod groups;
mod lite;
mod ofa;
mod onnx;
mod slimmable;

use crate::engine::graph::{Graph, GraphError, Shape};
use crate::engine::store::Slot;
use crate::manifest::{ConvLayer, Family, Manifest, SubnetEntry};

/// Channels of a layer, or sides of a tensor, at most.
const CHANNELS_MAX: usize = 4096;

/// Rules that a manifest of this family breaks.
pub fn problems(manifest: &Manifest) -> Vec<String> {
    match manifest.family {
        Family::GroupConvolution => groups::problems(manifest),
        Family::Slimmable => slimmable::problems(manifest),
        Family::OfaMobileNetV3 => ofa::problems(manifest),
        Family::EfficientNetLite => lite::problems(manifest),
        Family::Onnx => onnx::problems(manifest),
    }
}

/// What a sub-network computes.
pub fn graph(manifest: &Manifest, subnet: &SubnetEntry) -> Result<Graph, GraphError> {
    match manifest.family {
        Family::GroupConvolution => groups::graph(manifest, subnet),
        Family::Slimmable => slimmable::graph(manifest, subnet),
        Family::OfaMobileNetV3 => ofa::graph(manifest, subnet),
        Family::EfficientNetLite => lite::graph(manifest, subnet),
        Family::Onnx => Err(GraphError { layer: 0, rule: "an ONNX file is not looked into".into() }),
    }
}

/// The super-network's tensors.
pub fn slots(manifest: &Manifest) -> Vec<Slot> {
    match manifest.family {
        Family::GroupConvolution => groups::slots(manifest),
        Family::Slimmable => slimmable::slots(manifest),
        Family::OfaMobileNetV3 => ofa::slots(manifest),
        Family::EfficientNetLite => lite::slots(manifest),
        Family::Onnx => Vec::new(),
    }
}

/// The image as the manifest has it.
fn image(manifest: &Manifest) -> Shape {
    let i = &manifest.input;
    Shape { height: i.height, width: i.width, channels: i.channels }
}

/// What holds for `convs` in both families that have them.
fn conv_problems(manifest: &Manifest, channels: fn(&ConvLayer) -> Option<usize>, key: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !(1..=16).contains(&manifest.convs.len()) {
        found.push(format!("convs: {}; there are 1 to 16", manifest.convs.len()));
    }
    for c in &manifest.convs {
        if c.kernel % 2 == 0 || c.kernel > 7 {
            found.push(format!("conv {:?}: kernel {}; it is 1, 3, 5 or 7", c.name, c.kernel));
        }
        match channels(c) {
            Some(n) if (1..=CHANNELS_MAX).contains(&n) => {}
            n => found.push(format!("conv {:?}: {key} {n:?}; 1 to {CHANNELS_MAX}", c.name)),
        }
        if !(1..=4).contains(&c.pool) {
            found.push(format!("conv {:?}: pool {}; it is 1 to 4", c.name, c.pool));
        }
    }
    let (mut height, mut width) = (manifest.input.height, manifest.input.width);
    for c in manifest.convs.iter().filter(|c| c.pool > 0) {
        let (h, w) = (height / c.pool, width / c.pool);
        if h == 0 || w == 0 {
            found.push(format!(
                "conv {:?}: pool {} leaves nothing of {height} x {width}; at least one cell must remain",
                c.name, c.pool
            ));
            break;
        }
        (height, width) = (h, w);
    }
    found
}

/// Rows and columns after all `convs`.
fn last_map(manifest: &Manifest) -> (usize, usize) {
    let pooled = |side: usize| manifest.convs.iter().fold(side, |s, c| s / c.pool);
    (pooled(manifest.input.height), pooled(manifest.input.width))
}

/// A problem for each sub-network whose `of` is missing, out of range or not above the one before.
fn rising(manifest: &Manifest, key: &str, max: usize, of: fn(&SubnetEntry) -> Option<usize>) -> Vec<String> {
    let mut found = Vec::new();
    for s in &manifest.subnets {
        if !of(s).is_some_and(|n| (1..=max).contains(&n)) {
            found.push(format!("subnet {:?}: {key} {:?}; 1 to {max}", s.name, of(s)));
        }
    }
    for pair in manifest.subnets.windows(2).filter(|p| of(&p[0]) >= of(&p[1])) {
        found.push(format!(
            "subnet {:?} has {key} {:?} after {:?} with {:?}; list them by rising cost",
            pair[1].name,
            of(&pair[1]),
            pair[0].name,
            of(&pair[0])
        ));
    }
    found
}
