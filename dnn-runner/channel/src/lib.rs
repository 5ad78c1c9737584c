//! The channel between the privileged agent and an unprivileged runner: shared memory, and the handshake
//! that sets it up.
//!
//! A runner has two memory regions, both made by the agent. *Orders* carries the newest decision to the
//! runner, *report* carries feedback and totals back; one direction per region, one writer per region. No
//! side ever waits for the other, and neither can hurt the other: sizes are sealed, indices from the other
//! side are checked, reads are bounded. This crate does not know what a decision means.
//!
//! ```
//! use channel::{AgentRegions, RunnerEnd, msg::{DecisionMsg, FeedbackMsg}};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let regions = AgentRegions::create()?;
//! // In life the two descriptors travel over a socket: `Connection::welcome`, `connect`.
//! let [orders, report] = regions.fds();
//! let mut runner = RunnerEnd::open(orders, report)?;
//! let mut agent = regions.into_end();
//!
//! agent.decisions.publish(&DecisionMsg { seq: 1, subnet: 3, ..Default::default() });
//! let decision = runner.decisions.latest()?.expect("there is one");
//! runner.totals.taken(decision.seq);
//! runner.feedback.push(&FeedbackMsg { seq: decision.seq, subnet: 3, ..Default::default() });
//!
//! let drained = agent.feedback.drain(|done| assert_eq!(done.subnet, 3))?;
//! assert_eq!((drained.messages, agent.totals().taken), (1, 1));
//! # Ok(())
//! # }
//! ```

mod ends;
pub mod handshake;
pub mod hello;
pub mod msg;
#[doc(hidden)]
pub mod other_side;
pub mod region;
pub mod ring;
pub mod seqlock;
pub mod sync;
pub mod totals;

pub use ends::{AgentEnd, AgentRegions, RunnerEnd};
pub use handshake::{Connection, HandshakeError, Listener, PeerCred, connect};
pub use hello::{Hello, Target, Welcome};
pub use ring::{Consumer, Drained, Misbehaved, Producer};
pub use seqlock::{Publisher, ReadError, Subscriber};
pub use sync::Message;
pub use totals::{Totals, TotalsWriter};

/// Runners at once; each has a fixed slot.
pub const MAX_RUNNERS: usize = 64;
