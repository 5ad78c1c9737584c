//! The channel between the privileged agent and an unprivileged runner.
pub mod msg;

/// Runners at once; each has a fixed slot.
pub const MAX_RUNNERS: usize = 64;
