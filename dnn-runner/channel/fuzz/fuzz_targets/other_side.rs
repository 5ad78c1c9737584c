//! Any bytes, taken as what a runner sends and writes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| channel::other_side::agent_reads(bytes));
