//! The messages in shared memory: `#[repr(C)]`, fixed width, no padding, times in ns of `CLOCK_MONOTONIC`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Agent to runner, through the seqlock: the newest decision wins.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DecisionMsg {
    /// Number of the decision, from 1; 0 = none yet.
    pub seq: u64,
    /// Past this time the runner keeps its choice for a grace time, then falls to its failsafe.
    pub valid_until_ns: u64,
    /// The latency the application is tuned for, arrival to finish; 0 = none.
    pub target_ns: u64,
    /// Sub-network to run from the next inference on.
    pub subnet: u32,
    /// Threads of one inference.
    pub threads: u32,
}
const _: () = assert!(size_of::<DecisionMsg>() == 32);

/// Runner to agent, through the ring: one finished inference.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FeedbackMsg {
    /// The decision in force when it started.
    pub seq: u64,
    /// Number of the inference, from 0.
    pub inference: u64,
    /// When its input arrived.
    pub arrived_ns: u64,
    /// When it started.
    pub started_ns: u64,
    /// When it finished.
    pub done_ns: u64,
    /// The sub-network that ran.
    pub subnet: u32,
    /// Threads it ran on.
    pub threads: u32,
    /// Mean confidence of its answers, thousandths.
    pub confidence: u32,
    /// Images in it.
    pub images: u32,
}
const _: () = assert!(size_of::<FeedbackMsg>() == 56);
