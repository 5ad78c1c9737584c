//! `dnn-runner`: arguments, handshake, loop.
fn main() {}
