//! A family of the user's own: one ONNX file per operating point, run by ONNX Runtime.

use crate::manifest::{Manifest, Weights};
use std::path::Path;

pub(super) fn problems(manifest: &Manifest) -> Vec<String> {
    let mut found = Vec::new();
    for s in &manifest.subnets {
        let good = |f: &String| Path::new(f).file_name().is_some_and(|name| name == f.as_str());
        if !s.file.as_ref().is_some_and(good) {
            found.push(format!("subnet {:?}: file {:?}; a file name without a folder", s.name, s.file));
        }
        if s.macs == 0 {
            found.push(format!("subnet {:?}: macs 0; at least 1, by rising cost", s.name));
        }
        if s.sha256.is_none() {
            found.push(format!("subnet {:?}: no sha256 of its file", s.name));
        }
    }
    let Weights { file, bytes, sha256, seed } = &manifest.weights;
    let weights = file.is_some() || bytes.is_some() || sha256.is_some() || seed.is_some();
    if weights || !manifest.convs.is_empty() {
        found.push("this family has neither weights nor convs: they are in the files".into());
    }
    found
}
