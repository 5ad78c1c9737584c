//! Small networks with random weights, for tests.

use crate::model::Supernet;
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A network in the making: change what you like, then [`Self::write`] it.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    pub groups: usize,
    /// Applied to the manifest's text at the end: (from, to).
    pub edits: Vec<(&'static str, String)>,
    /// How the weights file lies on the disk, if not whole.
    pub cut_weights_to: Option<usize>,
}

/// 10 x 10 pixels, convolutions of 8 and 16 channels, three classes.
const LAYERS: [(usize, usize, usize); 2] = [(5, 1, 8), (3, 8, 16)]; // kernel, depth, channels
const CLASSES: usize = 3;
const FEATURES: usize = 2 * 2 * 16;
/// Worked out by hand: 10*10*25*8 + 5*5*9*8*16 + 64*3, and 200+8 + 1152+16 + 192+3.
const MACS: usize = 20_000 + 28_800 + 192;
const PARAMS: usize = 208 + 1168 + 195;

pub(crate) const PIXELS: usize = 100;

impl Net {
    pub fn new(groups: usize, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut tensors = BTreeMap::new();
        for g in 0..groups {
            let mut add = |name: String, shape: &[usize]| {
                let values = (0..shape.iter().product()).map(|_| rng.f32() - 0.5).collect();
                tensors.insert(format!("group{g}.{name}"), (shape.to_vec(), values));
            };
            for (i, (kernel, depth, channels)) in LAYERS.into_iter().enumerate() {
                add(format!("c{i}.weight"), &[kernel, kernel, depth, channels]);
                add(format!("c{i}.bias"), &[channels]);
            }
            add("fc.weight".into(), &[FEATURES, CLASSES]);
            add("fc.bias".into(), &[CLASSES]);
        }
        Self { tensors, groups, edits: Vec::new(), cut_weights_to: None }
    }

    pub fn edit(mut self, from: &'static str, to: impl Into<String>) -> Self {
        self.edits.push((from, to.into()));
        self
    }

    /// The manifest's path.
    pub fn write(&self, dir: &Path) -> PathBuf {
        let bytes: BTreeMap<_, (Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(n, (s, v))| (n.clone(), (s.clone(), v.iter().flat_map(|x| x.to_le_bytes()).collect())))
            .collect();
        let views = bytes.iter().map(|(n, (s, b))| (n, TensorView::new(Dtype::F32, s.clone(), b).unwrap()));
        let file = safetensors::serialize(views, None).unwrap();
        let sha: String = Sha256::digest(&file).iter().map(|b| format!("{b:02x}")).collect();
        let cut = self.cut_weights_to.unwrap_or(file.len());
        std::fs::write(dir.join("net.safetensors"), &file[..cut]).unwrap();
        let mut text = format!(
            r#"name = "net"
family = "group-convolution"
paper = "none"
provenance = "random"
classes = ["a", "b", "c"]
top1-source = "invented"
[input]
height = 10
width = 10
mean = 0.5
std = 0.25
[weights]
file = "net.safetensors"
bytes = {}
sha256 = "{sha}"
[failsafe]
top1-floor = 7000
[[convs]]
name = "c0"
kernel = 5
channels = 8
pool = 2
[[convs]]
name = "c1"
kernel = 3
channels = 16
pool = 2
"#,
            file.len(),
        );
        for g in 1..=self.groups {
            text += &format!(
                "[[subnets]]\nname = \"n{g}\"\ngroups = {g}\ntop1 = {}\nmacs = {}\nparams = {}\n",
                6500 + 500 * g,
                MACS * g,
                PARAMS * g,
            );
        }
        for (from, to) in &self.edits {
            assert!(text.contains(from), "{from:?} is not in the manifest");
            text = text.replacen(from, to, 1);
        }
        let path = dir.join("net.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn load(&self) -> Supernet {
        let dir = tempfile::tempdir().unwrap();
        Supernet::load(&self.write(dir.path())).unwrap()
    }

    /// Why it is refused.
    pub fn refused(&self) -> String {
        let dir = tempfile::tempdir().unwrap();
        Supernet::load(&self.write(dir.path())).unwrap_err().to_string()
    }
}

pub(crate) fn image(seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..PIXELS).map(|_| rng.u8(..)).collect()
}
