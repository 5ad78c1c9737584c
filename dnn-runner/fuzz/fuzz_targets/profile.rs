//! Any text, taken as a profile.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = dnn_runner::profile::Profile::parse(text);
});
