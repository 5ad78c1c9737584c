//! `tandem`: arguments, wiring, exit code.
fn main() {}
