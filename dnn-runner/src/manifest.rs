//! A manifest: what a dynamic network is, where its weights lie, what its sub-networks cost and reach.
//!
//! Responsible for: reading the TOML file and refusing what cannot be run, all problems at once.
//! Not responsible for: the weights ([`crate::model`]).

use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Sub-networks a manifest may list.
pub const SUBNETS_MAX: usize = 64;
/// Vector lanes of the fast kernels: a convolution's channels are a multiple of it.
pub const LANES: usize = 8;

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
    /// Names of the classes, in the order of the logits.
    pub classes: Vec<String>,
    /// On what, and by what, `top1` was measured.
    pub top1_source: String,
    /// What it looks at.
    pub input: Input,
    /// The weights file.
    pub weights: Weights,
    /// What to run when nobody decides.
    pub failsafe: Failsafe,
    /// The convolutions of one group, first to last.
    pub convs: Vec<ConvLayer>,
    /// By rising cost.
    pub subnets: Vec<SubnetEntry>,
}

/// How sub-networks nest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Sub-network n is the first n groups of channels; the classifier sums their logits.
    GroupConvolution,
}

/// A grayscale image, and how a pixel becomes a number: (pixel / 255 - mean) / std.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the words say it")]
pub struct Input {
    pub height: usize,
    pub width: usize,
    pub mean: f32,
    pub std: f32,
}

/// The weights file, in safetensors, beside the manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// Its name, without a folder.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Of its content, lower-case hexadecimal.
    pub sha256: String,
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
#[serde(deny_unknown_fields)]
pub struct ConvLayer {
    /// Its tensors are `groupN.NAME.weight` (kernel, kernel, inputs, channels) and `groupN.NAME.bias`.
    pub name: String,
    /// Side of the kernel.
    pub kernel: usize,
    /// Outputs of one group.
    pub channels: usize,
    /// Side of a pooling cell; 1 = no pooling.
    pub pool: usize,
}

/// One executable slice.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubnetEntry {
    /// For people, unique.
    pub name: String,
    /// How many groups it runs.
    pub groups: usize,
    /// Accuracy, hundredths of a point.
    pub top1: u16,
    /// Multiply-accumulates of one image.
    pub macs: u64,
    /// Weights and biases.
    pub params: u64,
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

/// One group's layers with their sizes worked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Rows of the input, and of the output before pooling.
    pub height: usize,
    /// Columns of the same.
    pub width: usize,
    /// Channels of the input.
    pub depth: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Channels of the output.
    pub channels: usize,
    /// Side of a pooling cell.
    pub pool: usize,
}

impl ConvShape {
    /// Rows after pooling.
    pub const fn pooled_height(&self) -> usize {
        self.height / self.pool
    }
    /// Columns after pooling.
    pub const fn pooled_width(&self) -> usize {
        self.width / self.pool
    }
    /// Zeros on each side of the input.
    pub const fn padding(&self) -> usize {
        self.kernel / 2
    }
    /// Numbers in the weight tensor.
    pub const fn weights(&self) -> usize {
        self.kernel * self.kernel * self.depth * self.channels
    }
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

    /// The layers of one group with their sizes.
    pub fn shapes(&self) -> Vec<ConvShape> {
        let (mut height, mut width, mut depth) = (self.input.height, self.input.width, 1);
        let mut shapes = Vec::with_capacity(self.convs.len());
        for layer in &self.convs {
            let shape = ConvShape {
                height,
                width,
                depth,
                kernel: layer.kernel,
                channels: layer.channels,
                pool: layer.pool,
            };
            (height, width, depth) = (shape.pooled_height(), shape.pooled_width(), shape.channels);
            shapes.push(shape);
        }
        shapes
    }

    /// Multiply-accumulates of an image, and parameters, of one group.
    fn cost_of_group(&self) -> (u64, u64) {
        let (mut macs, mut params, mut features) = (0, 0, 0);
        for s in self.shapes() {
            macs += s.height * s.width * s.weights();
            params += s.weights() + s.channels;
            features = s.pooled_height() * s.pooled_width() * s.channels;
        }
        let linear = features * self.classes.len();
        ((macs + linear) as u64, (params + linear + self.classes.len()) as u64)
    }

    fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut rule = |holds: bool, text: &dyn Fn() -> String| {
            if !holds {
                found.push(text());
            }
        };
        let i = self.input;
        rule((1..=256).contains(&i.height) && (1..=256).contains(&i.width), &|| {
            format!("input: {} x {}; each side is 1 to 256", i.height, i.width)
        });
        rule(i.mean.is_finite() && i.std.is_finite() && i.std > 0.0, &|| {
            format!("input: mean {} and std {}; both finite, std above 0", i.mean, i.std)
        });
        rule((2..=1024).contains(&self.classes.len()), &|| {
            format!("classes: {}; there are 2 to 1024", self.classes.len())
        });
        rule(
            Path::new(&self.weights.file).file_name().is_some_and(|f| f == self.weights.file.as_str()),
            &|| format!("weights.file {:?}: a file name without a folder", self.weights.file),
        );
        rule(self.failsafe.top1_floor <= 10_000, &|| {
            format!("failsafe.top1-floor {}: hundredths of a point, at most 10000", self.failsafe.top1_floor)
        });
        rule((1..=16).contains(&self.convs.len()), &|| {
            format!("convs: {}; there are 1 to 16", self.convs.len())
        });
        for c in &self.convs {
            rule(c.kernel % 2 == 1 && c.kernel <= 7, &|| {
                format!("conv {:?}: kernel {}; it is 1, 3, 5 or 7", c.name, c.kernel)
            });
            rule(c.channels % LANES == 0 && (LANES..=512).contains(&c.channels), &|| {
                format!("conv {:?}: {} channels; a multiple of {LANES}, at most 512", c.name, c.channels)
            });
            rule((1..=4).contains(&c.pool), &|| format!("conv {:?}: pool {}; it is 1 to 4", c.name, c.pool));
        }
        rule((1..=SUBNETS_MAX).contains(&self.subnets.len()), &|| {
            format!("subnets: {}; there are 1 to {SUBNETS_MAX}", self.subnets.len())
        });
        for s in &self.subnets {
            rule((1..=SUBNETS_MAX).contains(&s.groups), &|| {
                format!("subnet {:?}: {} groups; 1 to {SUBNETS_MAX}", s.name, s.groups)
            });
            rule(s.top1 <= 10_000, &|| {
                format!("subnet {:?}: top1 {}; hundredths of a point, at most 10000", s.name, s.top1)
            });
        }
        for pair in self.subnets.windows(2) {
            rule(pair[0].groups < pair[1].groups, &|| {
                format!(
                    "subnet {:?} has {} groups after {:?} with {}; list them by rising cost",
                    pair[1].name, pair[1].groups, pair[0].name, pair[0].groups
                )
            });
            rule(self.subnets.iter().filter(|s| s.name == pair[0].name).count() == 1, &|| {
                format!("subnet {:?}: the name is given twice; names are unique", pair[0].name)
            });
        }
        if !found.is_empty() {
            return found; // the sizes below are only meaningful for legal layers
        }
        let shapes = self.shapes();
        if let Some(at) = shapes.iter().position(|s| s.pooled_height() == 0 || s.pooled_width() == 0) {
            let (s, name) = (shapes[at], &self.convs[at].name);
            found.push(format!(
                "conv {name:?}: pool {} leaves nothing of {} x {}; at least one cell must remain",
                s.pool, s.height, s.width
            ));
            return found;
        }
        let (macs, params) = self.cost_of_group();
        for s in &self.subnets {
            let (m, p) = (macs * s.groups as u64, params * s.groups as u64);
            if (s.macs, s.params) != (m, p) {
                found.push(format!(
                    "subnet {:?}: {} MACs and {} parameters; its layers make {m} and {p}",
                    s.name, s.macs, s.params
                ));
            }
        }
        found
    }
}
