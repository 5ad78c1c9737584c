//! Everything the agent parses of a runner's bytes, in one call: what the fuzz target and a property test
//! run. It says nothing; it must return.

use crate::ends::AgentEnd;
use crate::hello::{FromAgent, FromRunner};
use crate::region::{self, Kind, Mapping, RegionError, SLOTS, Window};
use crate::ring::Misbehaved;
use crate::sync::Store;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A report region in which the runner writes what it likes, and the agent's view of it.
struct Hostile {
    orders: Arc<Mapping<true>>,
    report: Arc<Mapping<false>>,
    runner: Window<true>,
}

impl Hostile {
    fn new() -> Result<Self, RegionError> {
        let (_, orders) = region::create(Kind::Orders)?;
        let (fd, report) = region::create(Kind::Report)?;
        let runner = Window::new(&region::open(Kind::Report, fd.as_fd())?, 0..SLOTS.end);
        Ok(Self { orders, report, runner })
    }
    /// Writes `bytes` from word `from` on, as far as the region goes.
    fn write(&self, from: usize, bytes: &[u8]) {
        for (word, bytes) in (from..SLOTS.end).zip(bytes.as_chunks::<8>().0) {
            self.runner.store(word, u64::from_ne_bytes(*bytes), Relaxed);
        }
    }
}

thread_local! {
    // Made once: the fuzzer is to spend its time in the parser, not in mmap.
    static REGION: Hostile = Hostile::new().expect("two regions a thread");
}

/// Reads `bytes` as a packet, then as the contents of a report region: in three steps with a drain after
/// each, as of a runner that keeps writing.
#[doc(hidden)]
pub fn agent_reads(bytes: &[u8]) {
    if let Ok(message) = FromRunner::parse(bytes) {
        let again = serde_json::to_vec(&message).expect("what was parsed can be said");
        assert_eq!(FromRunner::parse(&again).expect("what we say, we parse"), message);
    }
    // The agent's bytes in a runner: the same care.
    let _ = FromAgent::parse(bytes);

    REGION.with(|region| {
        region.write(0, &[0; SLOTS.end * 8]);
        let mut agent = AgentEnd::new(&region.orders, &region.report);
        let (first, second) = bytes.split_at(bytes.len() / 2);
        for part in [first, second, bytes] {
            // From the cursor on, so that short inputs reach what matters.
            region.write(region::HEAD.start, part);
            let mut handed = 0;
            match agent.feedback.drain(|_| handed += 1) {
                Ok(drained) => assert_eq!(drained.messages, handed),
                Err(Misbehaved { .. }) => assert_eq!(handed, 0),
            }
            assert!(handed <= region::RING_CAPACITY as u64);
            let _ = agent.totals();
        }
    });
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::agent_reads;
    use proptest::prelude::*;

    /// Bytes of a report region: noise, but with a cursor near the honest ones more often than noise has it.
    fn region() -> impl Strategy<Value = Vec<u8>> {
        let head = prop_oneof![Just(0), 0u64..600, any::<u64>()];
        (head, prop::collection::vec(any::<u8>(), 0..20_000))
            .prop_map(|(head, noise)| [head.to_ne_bytes().to_vec(), noise].concat())
    }

    proptest! {
        #[test]
        fn any_bytes_of_a_runner_are_survived(bytes in prop_oneof![region(), prop::collection::vec(any::<u8>(), 0..200)]) {
            agent_reads(&bytes);
        }
        #[test]
        fn any_text_of_a_runner_is_survived(text in r#"(\{"(hello|target|bye|x)":)?[\[\]{}":,a-z0-9 ]{0,80}"#) {
            agent_reads(text.as_bytes());
        }
    }
}
