//! A manifest: what a dynamic network is, where its weights lie, what its sub-networks cost and reach.
//!
//! Responsible for: reading the TOML file and refusing what cannot be run, all problems at once.
//! Not responsible for: the weights ([`crate::model`]).

use crate::engine::graph::Graph;
use crate::family;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Sub-networks a manifest may list.
pub const SUBNETS_MAX: usize = 64;

/// Numbers in all tensors: a gibibyte of them.
const WEIGHTS_MAX: usize = 1 << 28;

/// A manifest as its file says it; checked by [`Manifest::parse`].
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Manifest {
    /// Of the network.
    pub name: String,
    /// How its sub-networks nest.
    pub family: Family,
    /// Where the idea comes from.
    pub paper: String,
    /// Where the weights come from.
    pub provenance: String,
    /// The classes, in the order of the logits.
    pub classes: Classes,
    /// On what, and by what, `top1` was measured.
    pub top1_source: String,
    /// What it looks at.
    pub input: Input,
    /// The weights file; of the ONNX family none.
    #[serde(default)]
    pub weights: Weights,
    /// ONNX: what runs the files; other families are run by our own engine.
    pub provider: Option<Provider>,
    /// What to run when nobody decides.
    pub failsafe: Failsafe,
    /// The convolutions (group-convolution: of one group; slimmable), first to last.
    #[serde(default)]
    pub convs: Vec<ConvLayer>,
    /// Of each group's tensors (by name, little-endian), as noted when its training ended.
    #[serde(default)]
    pub group_sha256: Vec<String>,
    /// By rising cost.
    pub subnets: Vec<SubnetEntry>,
}

/// How sub-networks nest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Sub-network n is the first n groups of channels; the classifier sums their logits.
    GroupConvolution,
    /// Sub-network w is the first w parts of every layer's channels, with batch-norm of its own.
    Slimmable,
    /// Once-for-All on MobileNetV3 at width 1.2, the backbone of Dynamic-OFA.
    #[serde(rename = "ofa-mobilenet-v3-w1.2")]
    OfaMobileNetV3,
    /// EfficientNet-Lite0, 1 and 2: networks of their own, in one file.
    #[serde(rename = "efficientnet-lite")]
    EfficientNetLite,
    /// Networks of the user's own, each an ONNX file: run by ONNX Runtime.
    Onnx,
}

/// An execution provider of ONNX Runtime: what a library has is decided when it is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// The CPU; every library has it.
    #[default]
    Cpu,
    /// NVIDIA's GPUs.
    Cuda,
    /// The same through TensorRT, on Jetson boards.
    Tensorrt,
}

/// Names, or how many there are.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a list of names, or a number of classes")]
pub enum Classes {
    /// In the order of the logits.
    Names(Vec<String>),
    /// They have none.
    Count(usize),
}

impl Classes {
    /// How many.
    pub fn count(&self) -> usize {
        match self {
            Self::Names(names) => names.len(),
            Self::Count(n) => *n,
        }
    }

    /// For people; a number where there is none.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Names(names) => names.clone(),
            Self::Count(n) => (0..*n).map(|c| c.to_string()).collect(),
        }
    }
}

/// An image, and how a pixel's channel becomes a number: (value / 255 - mean) / std.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the words say it")]
pub struct Input {
    pub height: usize,
    pub width: usize,
    /// 1 (gray) or 3 (red, green, blue, together in each pixel).
    #[serde(default = "one")]
    pub channels: usize,
    pub mean: PerChannel,
    pub std: PerChannel,
}

const fn one() -> usize {
    1
}

/// One number for all channels, or one for each.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a number, or one for each channel")]
pub enum PerChannel {
    /// For all.
    All(f32),
    /// For each.
    Each(Vec<f32>),
}

impl PerChannel {
    /// For channel `c`.
    pub fn of(&self, c: usize) -> Option<f32> {
        match self {
            Self::All(x) => Some(*x),
            Self::Each(xs) => xs.get(c).copied(),
        }
    }
}

/// The weights: a safetensors file beside the manifest, or a seed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// The file's name, without a folder.
    pub file: Option<String>,
    /// Its length.
    pub bytes: Option<u64>,
    /// Of its content, lower-case hexadecimal.
    pub sha256: Option<String>,
    /// No file: random numbers from this seed, to measure time with.
    pub seed: Option<u64>,
}

/// Where the weights come from, once the manifest is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in `Weights`")]
pub enum WeightsSource<'m> {
    File { name: &'m str, bytes: u64, sha256: &'m str },
    Seed(u64),
}

impl Weights {
    /// Which of the two it is; `None`: neither, or both.
    pub fn source(&self) -> Option<WeightsSource<'_>> {
        match (&self.file, self.bytes, &self.sha256, self.seed) {
            (Some(name), Some(bytes), Some(sha256), None) => {
                Some(WeightsSource::File { name, bytes, sha256 })
            }
            (None, None, None, Some(seed)) => Some(WeightsSource::Seed(seed)),
            _ => None,
        }
    }
}

/// Which sub-network is the failsafe.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Failsafe {
    /// The smallest sub-network with at least this top-1 (hundredths of a point), else the largest.
    pub top1_floor: u16,
}

/// A convolution with zero padding and stride 1, ReLU, then maximum pooling.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ConvLayer {
    /// Of its tensors ([`crate::family`] says which).
    pub name: String,
    /// Side of the kernel.
    pub kernel: usize,
    /// Group-convolution: outputs of one group.
    pub channels: Option<usize>,
    /// Slimmable: outputs for each part of the width.
    pub channels_per_width: Option<usize>,
    /// Side of a pooling cell; 1 = no pooling.
    pub pool: usize,
    /// Slimmable: whether its input is added before the ReLU.
    #[serde(default)]
    pub add: bool,
}

/// One executable slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SubnetEntry {
    /// For people, unique.
    pub name: String,
    /// Accuracy, hundredths of a point.
    pub top1: u16,
    /// The same on the split that anything was chosen on.
    pub validation: Option<u16>,
    /// Multiply-accumulates of one image.
    pub macs: u64,
    /// Weights, scales and biases.
    pub params: u64,
    /// Group-convolution: how many groups it runs.
    pub groups: Option<usize>,
    /// Slimmable: parts of the width.
    pub width: Option<usize>,
    /// EfficientNet-Lite: which, 0 to 2.
    pub variant: Option<usize>,
    /// OFA, EfficientNet-Lite: side of the image it works on.
    pub resolution: Option<usize>,
    /// OFA: blocks of each of the five stages, 2 to 4.
    pub depths: Vec<usize>,
    /// OFA: kernel of each of the twenty blocks, 3, 5 or 7; those beyond a stage's depth are not used.
    pub kernels: Vec<usize>,
    /// OFA: expansion of each of the twenty blocks, 3, 4 or 6.
    pub expands: Vec<usize>,
    /// ONNX: the file, beside the manifest. One input of floats, (1, channels, rows, columns) or (1, rows,
    /// columns, channels); the first output are the logits.
    pub file: Option<String>,
    /// ONNX: of the file's content, lower-case hexadecimal.
    pub sha256: Option<String>,
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The manifest.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// It is no TOML, or a key is missing, unknown or of the wrong type.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The manifest.
        path: PathBuf,
        /// Line, caret and reason.
        source: Box<toml::de::Error>,
    },
    /// It breaks rules; all of them are listed.
    #[error("{}: {}", path.display(), problems.join("; "))]
    Rules {
        /// The manifest.
        path: PathBuf,
        /// Item, value and rule of each.
        problems: Vec<String>,
    },
}

impl Manifest {
    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<(Self, String), ManifestError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ManifestError::Read { path: path.to_owned(), source })?;
        Ok((Self::parse(&text, path)?, text))
    }

    /// Checks the text of a manifest; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ManifestError> {
        let manifest: Self = toml::from_str(text)
            .map_err(|e| ManifestError::Syntax { path: path.to_owned(), source: Box::new(e) })?;
        let problems = manifest.problems();
        if problems.is_empty() {
            Ok(manifest)
        } else {
            Err(ManifestError::Rules { path: path.to_owned(), problems })
        }
    }

    /// What each sub-network computes; a problem for each that cannot be.
    pub fn graphs(&self) -> Result<Vec<Graph>, Vec<String>> {
        let mut problems = Vec::new();
        let mut graphs = Vec::new();
        for s in &self.subnets {
            match family::graph(self, s) {
                Ok(graph) => graphs.push(graph),
                Err(error) => problems.push(format!("subnet {:?}: {error}", s.name)),
            }
        }
        if problems.is_empty() { Ok(graphs) } else { Err(problems) }
    }

    fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut rule = |holds: bool, text: &dyn Fn() -> String| {
            if !holds {
                found.push(text());
            }
        };
        let i = &self.input;
        rule((1..=256).contains(&i.height) && (1..=256).contains(&i.width), &|| {
            format!("input: {} x {}; each side is 1 to 256", i.height, i.width)
        });
        rule(i.channels == 1 || i.channels == 3, &|| format!("input: {} channels; 1 or 3", i.channels));
        for c in 0..i.channels.min(3) {
            let (mean, std) = (i.mean.of(c), i.std.of(c));
            let good = mean.is_some_and(f32::is_finite) && std.is_some_and(|s| s.is_finite() && s > 0.0);
            rule(good, &|| {
                format!("input: channel {c}: mean {mean:?} and std {std:?}; both finite, std above 0")
            });
        }
        rule((2..=1024).contains(&self.classes.count()), &|| {
            format!("classes: {}; there are 2 to 1024", self.classes.count())
        });
        rule(self.weights.source().is_some() || self.family == Family::Onnx, &|| {
            "weights: either file, bytes and sha256, or a seed".into()
        });
        if let Some(name) = &self.weights.file {
            rule(Path::new(name).file_name().is_some_and(|f| f == name.as_str()), &|| {
                format!("weights.file {name:?}: a file name without a folder")
            });
        }
        rule(self.failsafe.top1_floor <= 10_000, &|| {
            format!("failsafe.top1-floor {}: hundredths of a point, at most 10000", self.failsafe.top1_floor)
        });
        rule((1..=SUBNETS_MAX).contains(&self.subnets.len()), &|| {
            format!("subnets: {}; there are 1 to {SUBNETS_MAX}", self.subnets.len())
        });
        for s in &self.subnets {
            rule(s.top1 <= 10_000, &|| {
                format!("subnet {:?}: top1 {}; hundredths of a point, at most 10000", s.name, s.top1)
            });
        }
        for (i, s) in self.subnets.iter().enumerate() {
            rule(self.subnets[..i].iter().all(|before| before.name != s.name), &|| {
                format!("subnet {:?}: the name is given twice; names are unique", s.name)
            });
        }
        rule(self.provider.is_none() || self.family == Family::Onnx, &|| {
            format!("provider {:?}: the family \"onnx\" alone has one", self.provider)
        });
        found.extend(family::problems(self));
        if !found.is_empty() {
            return found; // the sizes below are only meaningful for legal layers
        }
        // Saturating: a manifest may say anything.
        let weights = family::slots(self).iter().fold(0_usize, |n, s| n.saturating_add(s.kind.weights()));
        if weights > WEIGHTS_MAX {
            found.push(format!("{weights} weights; at most {WEIGHTS_MAX}"));
            return found;
        }
        let graphs = match self.graphs() {
            // What the files hold, their author knows.
            _ if self.family == Family::Onnx => Vec::new(),
            Ok(graphs) => graphs,
            Err(problems) => return problems,
        };
        for (s, graph) in self.subnets.iter().zip(&graphs) {
            let (m, p) = (graph.macs(), graph.params());
            if (s.macs, s.params) != (m, p) {
                found.push(format!(
                    "subnet {:?}: {} MACs and {} parameters; its layers make {m} and {p}",
                    s.name, s.macs, s.params
                ));
            }
        }
        for pair in self.subnets.windows(2).filter(|p| p[0].macs > p[1].macs) {
            found.push(format!(
                "subnet {:?} has {} MACs after {:?} with {}; list them by rising cost",
                pair[1].name, pair[1].macs, pair[0].name, pair[0].macs
            ));
        }
        found
    }
}
