//! The dynamic network: one weight set, shared and immutable, of which each sub-network is a view.
//!
//! Responsible for: loading manifest and weights (and refusing broken ones), a plan per sub-network, and
//! the answer to one image. A switch of sub-network is a change of an index. Not responsible for: batches
//! and threads ([`crate::batch`]).
//!
//! Words: *supernet*, all weights; *sub-network*, what runs; *state*, a worker's own arena.

use crate::engine::elastic::Elastic;
use crate::engine::exec::Crew;
use crate::engine::plan::Plan;
use crate::engine::store::{Source, Store};
use crate::engine::{Engine, Worker};
use crate::family;
use crate::image::Images;
use crate::kernel::Kernel;
use crate::manifest::{Family, Manifest, ManifestError, WeightsSource};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// One executable slice of the supernet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// For people.
    pub name: String,
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
    weights_digest: String,
    image: (usize, usize, usize),
    engine: Box<dyn Engine>,
}

/// One worker's memory: allocated once, reused for every inference.
#[derive(Debug)]
pub struct State(Box<dyn Worker>);

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
        if manifest.family == Family::Onnx {
            return Self::onnx(&manifest, &text, path);
        }
        let (file, expected, sha256) = match manifest.weights.source().expect("checked by the manifest") {
            WeightsSource::Seed(seed) => {
                return Self::build(&manifest, &text, &Source::Seed(seed), path, None);
            }
            WeightsSource::File { name, bytes, sha256 } => (path.with_file_name(name), bytes, sha256),
        };
        let read = |source| ModelError::Read { path: file.clone(), source };
        let refuse = |rule| ModelError::File { path: file.clone(), rule };
        // The length first: a file of any size may lie there.
        let length = std::fs::metadata(&file).map_err(read)?.len();
        if length != expected {
            return Err(refuse(format!("{length} bytes; the manifest says {expected}")));
        }
        let bytes = std::fs::read(&file).map_err(read)?;
        let found = hex(&Sha256::digest(&bytes));
        if found != sha256 {
            return Err(refuse(format!("sha256 {found}; the manifest says {sha256}")));
        }
        let tensors = SafeTensors::deserialize(&bytes);
        let tensors = tensors.map_err(|e| refuse(format!("no safetensors file: {e}")))?;
        Self::build(&manifest, &text, &Source::File(tensors), &file, Some(found))
    }

    /// One file per sub-network.
    #[cfg(feature = "onnx")]
    fn onnx(manifest: &Manifest, text: &str, path: &Path) -> Result<Self, ModelError> {
        use crate::engine::onnx::Onnx;
        let mut files = Vec::new();
        for s in &manifest.subnets {
            let file = path.with_file_name(s.file.as_deref().expect("checked by the manifest"));
            let bytes =
                std::fs::read(&file).map_err(|source| ModelError::Read { path: file.clone(), source })?;
            let (found, said) = (hex(&Sha256::digest(&bytes)), s.sha256.as_deref().unwrap_or_default());
            if found != said {
                return Err(ModelError::File {
                    rule: format!("sha256 {found}; the manifest says {said}"),
                    path: file,
                });
            }
            files.push(file);
        }
        let images = Images::new(&manifest.input);
        let provider = manifest.provider.unwrap_or_default();
        let engine = Onnx::new(files, &images, manifest.classes.count(), provider);
        let engine = engine.map_err(|rule| ModelError::File { path: path.to_owned(), rule })?;
        Ok(Self::of(manifest, text, None, images.size, Box::new(engine)))
    }

    #[cfg(not(feature = "onnx"))]
    fn onnx(_: &Manifest, _: &str, path: &Path) -> Result<Self, ModelError> {
        let rule = "an ONNX family; this program was built without the feature `onnx`".into();
        Err(ModelError::File { path: path.to_owned(), rule })
    }

    /// `file` is for messages.
    fn build(
        manifest: &Manifest,
        text: &str,
        source: &Source<'_>,
        file: &Path,
        weights: Option<String>,
    ) -> Result<Self, ModelError> {
        let refuse = |rule| ModelError::File { path: file.to_owned(), rule };
        let store = Store::new(&family::slots(manifest), source).map_err(|e| ModelError::Tensor {
            path: file.to_owned(),
            tensor: e.tensor,
            rule: e.rule,
        })?;
        let graphs = manifest.graphs().map_err(|problems| refuse(problems.join("; ")))?;
        let plans = graphs.iter().map(|graph| Plan::new(graph, &store)).collect::<Result<Vec<_>, _>>();
        let plans = plans.map_err(|e| refuse(e.to_string()))?;
        let images = Images::new(&manifest.input);
        let engine = Box::new(Elastic::new(store, plans, &images));
        Ok(Self::of(manifest, text, weights, images.size, engine))
    }

    /// A checked manifest on an engine.
    fn of(
        manifest: &Manifest,
        text: &str,
        weights: Option<String>,
        image: (usize, usize, usize),
        engine: Box<dyn Engine>,
    ) -> Self {
        let subnets = manifest.subnets.iter().map(|s| Subnet {
            name: s.name.clone(),
            top1: s.top1,
            macs: s.macs,
            params: s.params,
        });
        let digest = hex(&Sha256::digest(text.as_bytes()));
        Self {
            name: manifest.name.clone(),
            classes: manifest.classes.names(),
            subnets: subnets.collect(),
            top1_floor: manifest.failsafe.top1_floor,
            // Random weights are what the manifest says.
            weights_digest: weights.unwrap_or_else(|| digest.clone()),
            digest,
            image,
            engine,
        }
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
    /// SHA-256 of the weights file; of the manifest, if the weights are random.
    pub fn weights_digest(&self) -> &str {
        &self.weights_digest
    }
    /// Rows, columns and channels of an image.
    pub fn image_size(&self) -> (usize, usize, usize) {
        self.image
    }
    /// Bytes of an image.
    pub fn pixels(&self) -> usize {
        self.image.0 * self.image.1 * self.image.2
    }
    /// What runs it.
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
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

    /// The logits of one image of [`Self::pixels`] bytes, on the calling thread.
    pub fn logits<'s>(&self, subnet: usize, image: &[u8], state: &'s mut State) -> &'s [f32] {
        let logits = state.run(subnet, image, &mut Crew::Alone, &mut |_| ControlFlow::Continue(()));
        logits.expect("never stopped")
    }

    /// The answer to one image of [`Self::pixels`] bytes, on the calling thread.
    pub fn infer(&self, subnet: usize, image: &[u8], state: &mut State) -> Answer {
        Answer::of(self.logits(subnet, image, state))
    }
}

impl Answer {
    /// What logits say.
    pub fn of(logits: &[f32]) -> Self {
        let (mut class, mut best) = (0, f32::NEG_INFINITY);
        for (c, &l) in (0u16..).zip(logits) {
            if l > best {
                (class, best) = (c, l);
            }
        }
        let sum: f32 = logits.iter().map(|l| (l - best).exp()).sum();
        Self { class, confidence: 1.0 / sum }
    }
}

impl State {
    /// Memory for one worker of this network.
    pub fn new(net: &Supernet, kernel: Kernel) -> std::io::Result<Self> {
        net.engine.worker(kernel).map(Self).map_err(std::io::Error::other)
    }

    /// Runs one image; asks `go_on` after each layer. The logits; `None` if told to stop.
    ///
    /// # Panics
    /// If the engine fails, which ends the program: it has run this very sub-network before (at its start)
    /// or is our own, which cannot fail.
    pub fn run(
        &mut self,
        subnet: usize,
        image: &[u8],
        crew: &mut Crew<'_>,
        go_on: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Option<&[f32]> {
        self.0.run(subnet, image, crew, go_on).unwrap_or_else(|e| panic!("inference: {e}"))
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
