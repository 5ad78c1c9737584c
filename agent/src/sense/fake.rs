//! Fake `/sys` and `/proc` trees for the readers' tests.

use super::Found;
use crate::units::Nanos;
use std::path::Path;

/// A tree in a temporary folder.
pub(super) struct Fake(tempfile::TempDir);

impl Fake {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(super) fn file(self, path: &str, text: &str) -> Self {
        self.write(path, text);
        self
    }
}

/// Name, unit and value of everything found, read once.
pub(super) fn read_all(found: Found) -> Vec<(String, String, Option<i64>)> {
    let (signals, gauges) = found.split();
    signals.into_iter().zip(gauges).map(|(s, mut g)| (s.name, s.unit, g.read(Nanos(1)))).collect()
}
