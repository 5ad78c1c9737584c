//! The runner's counts since it was welcomed, one word each. The ring may drop; these do not: "nothing was
//! lost" is proved from them.

use crate::region::{ReadWindow, WriteWindow};
use crate::ring;
use crate::sync::{Load, Store};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::fence;

/// Words they take.
pub(crate) const WORDS: usize = 11;

const ARRIVED: usize = 0;
const STARTED: usize = 1;
const DONE: usize = 2;
const DROPPED: usize = 3;
const QUEUE: usize = 4;
const IN_FLIGHT_SINCE: usize = 5;
const TAKEN: usize = 6;
const HEARTBEAT: usize = 7;
const LABELLED: usize = 8;
const CORRECT: usize = 9;
const SWITCHES: usize = 10;

/// One reading. Of an honest runner `done <= started <= arrived` and `done + dropped <= arrived` always
/// hold, at whatever moment it is taken; of any other runner these are numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Inferences that were asked for.
    pub arrived: u64,
    /// Inferences that began.
    pub started: u64,
    /// Inferences that ended with an answer.
    pub done: u64,
    /// Inferences given up.
    pub dropped: u64,
    /// Inferences waiting now.
    pub queue: u64,
    /// When the inference in flight began, ns of `CLOCK_MONOTONIC`; 0 = none.
    pub in_flight_since_ns: u64,
    /// The newest decision the runner picked up.
    pub taken: u64,
    /// When it last said it lives, ns of `CLOCK_MONOTONIC`.
    pub heartbeat_ns: u64,
    /// Answers whose truth is known, for reports; policies never see it.
    pub labelled: u64,
    /// Those of them that were right.
    pub correct: u64,
    /// Feedback messages dropped because the ring was full.
    pub lost_feedback: u64,
    /// Changes of sub-network.
    pub switches: u64,
}

/// The runner's end. Its threads may share clones of it.
#[derive(Clone, Debug)]
pub struct TotalsWriter(WriteWindow);

impl TotalsWriter {
    pub(crate) fn new(words: WriteWindow) -> Self {
        Self(words)
    }
    /// `n` inferences were asked for.
    pub fn arrived(&self, n: u64) {
        self.0.add(ARRIVED, n, Release);
    }
    /// An inference begins.
    pub fn started(&self, now_ns: u64) {
        self.0.add(STARTED, 1, Release);
        self.0.store(IN_FLIGHT_SINCE, now_ns, Release);
    }
    /// The inference in flight ended.
    pub fn done(&self) {
        self.0.store(IN_FLIGHT_SINCE, 0, Release);
        self.0.add(DONE, 1, Release);
    }
    /// `n` waiting inferences were given up.
    pub fn dropped(&self, n: u64) {
        self.0.add(DROPPED, n, Release);
    }
    /// The inference in flight was given up; counts as dropped.
    pub fn abandoned(&self) {
        self.0.store(IN_FLIGHT_SINCE, 0, Release);
        self.0.add(DROPPED, 1, Release);
    }
    /// How many inferences wait.
    pub fn queue(&self, depth: u64) {
        self.0.store(QUEUE, depth, Relaxed);
    }
    /// Decision `seq` was picked up.
    pub fn taken(&self, seq: u64) {
        self.0.store(TAKEN, seq, Release);
    }
    /// The runner lives.
    pub fn heartbeat(&self, now_ns: u64) {
        self.0.store(HEARTBEAT, now_ns, Relaxed);
    }
    /// Of `labelled` answers whose truth is known, `correct` were right.
    pub fn judged(&self, labelled: u64, correct: u64) {
        self.0.add(LABELLED, labelled, Release);
        self.0.add(CORRECT, correct, Release);
    }
    /// Another sub-network runs from now on.
    pub fn switched(&self) {
        self.0.add(SWITCHES, 1, Relaxed);
    }
}

/// The agent's end.
#[derive(Clone, Debug)]
pub struct TotalsReader {
    words: ReadWindow,
    head: ReadWindow,
}

impl TotalsReader {
    /// `head`: the ring's, whose writer counts what it had to drop.
    pub(crate) fn new(words: ReadWindow, head: ReadWindow) -> Self {
        Self { words, head }
    }

    /// Reads them, later steps of an inference first: what they imply is then visible too.
    pub fn read(&self) -> Totals {
        let load = |word| {
            let value = self.words.load(word);
            fence(Acquire);
            value
        };
        Totals {
            correct: load(CORRECT),
            labelled: load(LABELLED),
            taken: load(TAKEN),
            done: load(DONE),
            dropped: load(DROPPED),
            in_flight_since_ns: load(IN_FLIGHT_SINCE),
            started: load(STARTED),
            arrived: load(ARRIVED),
            queue: load(QUEUE),
            heartbeat_ns: load(HEARTBEAT),
            lost_feedback: self.head.load(ring::LOST),
            switches: load(SWITCHES),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::msg::FeedbackMsg;
    use crate::region::RING_CAPACITY;
    use crate::{AgentEnd, AgentRegions, RunnerEnd, Totals};

    fn ends() -> (AgentEnd, RunnerEnd) {
        let regions = AgentRegions::create().unwrap();
        let [orders, report] = regions.fds();
        let runner = RunnerEnd::open(orders, report).unwrap();
        (regions.into_end(), runner)
    }

    #[test]
    fn each_count_has_a_place_of_its_own() {
        let (agent, mut runner) = ends();
        let totals = &runner.totals;
        totals.arrived(300);
        for _ in 0..4 {
            totals.started(5);
            totals.done();
        }
        totals.started(6);
        totals.abandoned();
        totals.dropped(7);
        totals.started(8);
        totals.queue(9);
        totals.taken(10);
        totals.heartbeat(11);
        totals.judged(13, 12);
        totals.switched();
        for n in 0..RING_CAPACITY + 14 {
            assert_eq!(runner.feedback.push(&FeedbackMsg::default()), n < RING_CAPACITY);
        }
        let seen = agent.totals();
        let expected = Totals {
            arrived: 300,
            started: 6,
            done: 4,
            dropped: 8,
            queue: 9,
            in_flight_since_ns: 8,
            taken: 10,
            heartbeat_ns: 11,
            labelled: 13,
            correct: 12,
            lost_feedback: 14,
            switches: 1,
        };
        assert_eq!(seen, expected);
    }

    #[test]
    fn no_reading_shows_more_done_than_begun() {
        let (agent, runner) = ends();
        let totals = runner.totals.clone();
        const FRAMES: u64 = 200_000;
        std::thread::scope(|s| {
            s.spawn(move || {
                for n in 1..=FRAMES {
                    totals.arrived(1);
                    if n.is_multiple_of(3) {
                        totals.dropped(1);
                    } else {
                        totals.started(n);
                        totals.done();
                    }
                }
            });
            loop {
                let seen = agent.totals();
                assert!(seen.done <= seen.started && seen.started <= seen.arrived, "{seen:?}");
                assert!(seen.done + seen.dropped <= seen.arrived, "{seen:?}");
                if seen.done + seen.dropped == FRAMES {
                    break;
                }
            }
        });
    }
}
