//! Any bytes, taken as gzipped images; and as what is in them, which few gzipped bytes reach.
#![no_main]

use dnn_runner::data::parse_idx;
use flate2::{Compression, read::GzEncoder};
use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("fuzz.gz");
    let _ = parse_idx(bytes, 3, path);
    if let Ok((sizes, data)) = parse_idx(GzEncoder::new(bytes, Compression::none()), 3, path) {
        assert_eq!(sizes.iter().product::<usize>(), data.len());
    }
});
