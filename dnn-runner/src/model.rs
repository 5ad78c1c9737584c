//! The dynamic network: one weight set, shared and immutable, of which each sub-network is a prefix.
//!
//! Responsible for: loading weights (and refusing broken ones), and the answer to one image. A switch
//! of sub-network is a change of an index. Not responsible for: batches and threads ([`crate::batch`]).
//!
//! Words: *supernet*, all groups; *sub-network*, the first n groups; *state*, a worker's own arena.

use crate::kernel::{Group, Kernel, map_len};
use crate::manifest::{ConvShape, Input, Manifest, ManifestError};
use crate::ops::{Conv, Linear};
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// One executable slice of the supernet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// For people.
    pub name: String,
    /// It runs the first so many groups.
    pub groups: usize,
    /// The manifest's accuracy, hundredths of a point.
    pub top1: u16,
    /// Multiply-accumulates of one image.
    pub macs: u64,
    /// Weights and biases it uses.
    pub params: u64,
}

/// What a network says of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// Position in [`Supernet::classes`].
    pub class: u16,
    /// Softmax of its logit, 0 to 1.
    pub confidence: f32,
}

/// Shared by all workers, never changed.
#[derive(Debug)]
pub struct Supernet {
    name: String,
    classes: Vec<String>,
    subnets: Vec<Subnet>,
    top1_floor: u16,
    digest: String,
    input: Input,
    /// What each value of a pixel becomes.
    normalised: [f32; 256],
    groups: Vec<Group>,
}

/// One worker's memory: allocated once, reused for every inference.
#[derive(Debug)]
pub struct State {
    kernel: Kernel,
    /// [scratch | logits | inputs of the layers and features]
    arena: Vec<f32>,
    scratch: usize,
    logits: usize,
}

/// Why a network is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The weights file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The weights file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// The weights file as a whole is not what the manifest says.
    #[error("{}: {rule}", path.display())]
    File {
        /// The weights file.
        path: PathBuf,
        /// What is wrong, and the rule.
        rule: String,
    },
    /// One of its tensors is not.
    #[error("{}: tensor {tensor:?}: {rule}", path.display())]
    Tensor {
        /// The weights file.
        path: PathBuf,
        /// Which tensor.
        tensor: String,
        /// What is wrong, and the rule.
        rule: String,
    },
}

impl Supernet {
    /// Reads a manifest and the weights it names, and checks both.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let (manifest, text) = Manifest::read(path)?;
        let file = path.with_file_name(&manifest.weights.file);
        let read = |source| ModelError::Read { path: file.clone(), source };
        // The length first: a file of any size may lie there.
        let length = std::fs::metadata(&file).map_err(read)?.len();
        if length != manifest.weights.bytes {
            let rule = format!("{length} bytes; the manifest says {}", manifest.weights.bytes);
            return Err(ModelError::File { path: file, rule });
        }
        let bytes = std::fs::read(&file).map_err(read)?;
        let found = hex(&Sha256::digest(&bytes));
        if found != manifest.weights.sha256 {
            let rule = format!("sha256 {found}; the manifest says {}", manifest.weights.sha256);
            return Err(ModelError::File { path: file, rule });
        }
        Self::build(&manifest, &text, &bytes, &file)
    }

    /// From parts already read; `file` is for messages.
    fn build(manifest: &Manifest, text: &str, bytes: &[u8], file: &Path) -> Result<Self, ModelError> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| ModelError::File {
            path: file.to_owned(),
            rule: format!("no safetensors file: {e}"),
        })?;
        let shapes = manifest.shapes();
        let last = shapes.last().expect("a manifest has convolutions");
        let features = last.pooled_height() * last.pooled_width() * last.channels;
        let classes = manifest.classes.len();
        let largest = manifest.subnets.last().expect("a manifest has sub-networks").groups;
        let tensor = |name: String, shape: &[usize]| tensor(&tensors, file, name, shape);
        let group = |g: usize| -> Result<Group, ModelError> {
            let conv = |(shape, layer): (&ConvShape, &crate::manifest::ConvLayer)| {
                let at = format!("group{g}.{}", layer.name);
                let ConvShape { kernel, depth, channels, .. } = *shape;
                Ok(Conv {
                    shape: *shape,
                    weight: tensor(format!("{at}.weight"), &[kernel, kernel, depth, channels])?,
                    bias: tensor(format!("{at}.bias"), &[channels])?,
                })
            };
            Ok(Group {
                convs: shapes.iter().zip(&manifest.convs).map(conv).collect::<Result<_, ModelError>>()?,
                linear: Linear {
                    weight: tensor(format!("group{g}.fc.weight"), &[features, classes])?,
                    bias: tensor(format!("group{g}.fc.bias"), &[classes])?,
                },
            })
        };
        let groups = (0..largest).map(group).collect::<Result<Vec<_>, _>>()?;
        let expected = largest * (2 * shapes.len() + 2);
        if tensors.len() != expected {
            let rule = format!("{} tensors; the manifest's layers make {expected}", tensors.len());
            return Err(ModelError::File { path: file.to_owned(), rule });
        }
        let subnets = manifest.subnets.iter().map(|s| Subnet {
            name: s.name.clone(),
            groups: s.groups,
            top1: s.top1,
            macs: s.macs,
            params: s.params,
        });
        let Input { mean, std, .. } = manifest.input;
        Ok(Self {
            name: manifest.name.clone(),
            classes: manifest.classes.clone(),
            subnets: subnets.collect(),
            top1_floor: manifest.failsafe.top1_floor,
            digest: hex(&Sha256::digest(text.as_bytes())),
            input: manifest.input,
            normalised: std::array::from_fn(|v| {
                (f32::from(u8::try_from(v).expect("below 256")) / 255.0 - mean) / std
            }),
            groups,
        })
    }

    /// Of the manifest.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// SHA-256 of the manifest (which holds the one of the weights), lower-case hexadecimal.
    pub fn digest(&self) -> String {
        self.digest.clone()
    }
    /// By rising cost, never empty.
    pub fn subnets(&self) -> &[Subnet] {
        &self.subnets
    }
    /// Names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }
    /// Rows and columns of an image.
    pub fn image_size(&self) -> (usize, usize) {
        (self.input.height, self.input.width)
    }
    /// Bytes of an image.
    pub fn pixels(&self) -> usize {
        self.input.height * self.input.width
    }
    /// The manifest's accuracy floor, hundredths of a point.
    pub fn default_floor(&self) -> u16 {
        self.top1_floor
    }
    /// The smallest sub-network that meets `floor` (hundredths of a point), else the largest.
    pub fn failsafe(&self, floor: u16) -> usize {
        self.subnets.iter().position(|s| s.top1 >= floor).unwrap_or(self.subnets.len() - 1)
    }
    /// The sub-network of that name.
    pub fn subnet(&self, name: &str) -> Option<usize> {
        self.subnets.iter().position(|s| s.name == name)
    }

    /// The logits of one image of [`Self::pixels`] bytes.
    pub fn logits<'s>(&self, subnet: usize, image: &[u8], state: &'s mut State) -> &'s [f32] {
        assert_eq!(image.len(), self.pixels(), "callers check the size of an image");
        let (scratch, rest) = state.arena.split_at_mut(state.scratch);
        let (logits, maps) = rest.split_at_mut(state.logits);
        let first = &self.groups[0].convs[0];
        let padding = state.kernel.padding(first);
        let stride = self.input.width + 2 * padding;
        for (y, row) in image.chunks_exact(self.input.width).enumerate() {
            let to = &mut maps[(y + padding) * stride + padding..][..row.len()];
            for (to, pixel) in to.iter_mut().zip(row) {
                *to = self.normalised[usize::from(*pixel)];
            }
        }
        logits.fill(0.0);
        for group in &self.groups[..self.subnets[subnet].groups] {
            state.kernel.run(group, maps, scratch, logits);
        }
        logits
    }

    /// The answer to one image of [`Self::pixels`] bytes.
    pub fn infer(&self, subnet: usize, image: &[u8], state: &mut State) -> Answer {
        let logits = self.logits(subnet, image, state);
        let (mut class, mut best) = (0, f32::NEG_INFINITY);
        for (c, &l) in (0u16..).zip(logits) {
            if l > best {
                (class, best) = (c, l);
            }
        }
        let sum: f32 = logits.iter().map(|l| (l - best).exp()).sum();
        Answer { class, confidence: 1.0 / sum }
    }
}

impl State {
    /// Memory for one worker of this network.
    pub fn new(net: &Supernet, kernel: Kernel) -> Self {
        let group = &net.groups[0];
        let scratch = group.convs.iter().map(|c| c.shape.height * c.shape.width * c.shape.channels).max();
        let scratch = scratch.expect("a manifest has convolutions");
        let logits = net.classes.len();
        let maps: usize = group.convs.iter().map(|c| map_len(c, kernel.padding(c))).sum();
        let features = group.linear.weight.len() / logits;
        // The borders are zero from here on: nothing writes to them.
        Self { kernel, arena: vec![0.0; scratch + logits + maps + features], scratch, logits }
    }

    /// The form of the arithmetic it is laid out for.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }
}

/// The values of a tensor of that shape, all finite.
fn tensor(all: &SafeTensors<'_>, file: &Path, name: String, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
    let refuse = |rule: String| ModelError::Tensor { path: file.to_owned(), tensor: name.clone(), rule };
    let view = all.tensor(&name).map_err(|e| refuse(format!("{e}; the manifest's layers need it")))?;
    if view.dtype() != Dtype::F32 {
        return Err(refuse(format!("type {:?}; it must be F32", view.dtype())));
    }
    if view.shape() != shape {
        return Err(refuse(format!("shape {:?}; the manifest's layers make {shape:?}", view.shape())));
    }
    let (words, _) = view.data().as_chunks::<4>();
    let values: Vec<f32> = words.iter().map(|w| f32::from_le_bytes(*w)).collect();
    match values.iter().position(|v| !v.is_finite()) {
        Some(i) => Err(refuse(format!("value {i} is {}; every weight is finite", values[i]))),
        None => Ok(values),
    }
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut s, b| {
        write!(s, "{b:02x}").expect("a String takes everything");
        s
    })
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
