//! Any text, taken as a manifest; what is taken is laid out too.
#![no_main]

use dnn_runner::manifest::Manifest;
use std::path::Path;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(manifest) = Manifest::parse(text, Path::new("fuzz.toml")) {
        let _ = manifest.graphs();
    }
});
