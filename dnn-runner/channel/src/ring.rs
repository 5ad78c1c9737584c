//! A queue of messages from one writer to one reader: the runner's feedback.
//!
//! Three runs of words: the slots and the write cursor lie in the writer's region, the read cursor in the
//! reader's. Cursors count messages since the start and never wrap in practice (2^64). A full ring drops
//! and counts; what must not be lost is in the totals. A cursor from the other side is data: it is
//! checked, and only then used.

use crate::region::{ReadWindow, WriteWindow};
use crate::sync::{Load, Message, Store, fence_at, load_message, store_message};
use std::marker::PhantomData;
use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};

/// Words of the writer's cursor: the cursor, and how many messages were dropped because the ring was full.
pub const HEAD_WORDS: usize = 2;
/// The second of them.
pub(crate) const LOST: usize = 1;
/// Words of the reader's cursor.
pub const TAIL_WORDS: usize = 1;

/// Words of the slots of a ring of `capacity` messages.
pub const fn words<M: Message>(capacity: usize) -> usize {
    capacity * M::WORDS
}

/// The steps that the algorithm's proof rests on. The loom tests replace them one by one.
#[doc(hidden)]
pub trait Rules {
    /// Store of the write cursor: publishes the slot.
    const PUBLISH: Ordering = Release;
    /// Fence after loading the write cursor: the slots are read after it.
    const TAKE: Ordering = Acquire;
    /// Store of the read cursor: frees the slots that were read.
    const FREE: Ordering = Release;
    /// Fence after loading the read cursor: a freed slot is written after it.
    const REUSE: Ordering = Acquire;
    /// The writer stops at a full ring.
    const REFUSE_FULL: bool = true;
}

/// The rules as they must be.
#[doc(hidden)]
#[derive(Debug)]
pub enum Sound {}
impl Rules for Sound {}

/// A write cursor that no honest writer can have: the peer is to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write cursor {head} with read cursor {tail}: more than the {capacity} messages the ring holds")]
pub struct Misbehaved {
    /// What the writer claims.
    pub head: u64,
    /// What was read so far.
    pub tail: u64,
    /// Messages that fit.
    pub capacity: u64,
}

/// What one [`Consumer::drain`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Messages handed over.
    pub messages: u64,
    /// Messages the writer says it dropped since the last drain.
    pub lost: u64,
}

/// The writing end.
#[derive(Debug)]
pub struct Producer<M, S = WriteWindow, L = ReadWindow, R = Sound> {
    slots: S,
    head: S,
    tail: L,
    capacity: usize,
    pushed: u64,
    lost: u64,
    of: PhantomData<fn(M, R)>,
}

impl<M: Message, S: Store, L: Load, R: Rules> Producer<M, S, L, R> {
    /// Over fresh words, all 0.
    #[doc(hidden)]
    pub fn new(slots: S, head: S, tail: L, capacity: usize) -> Self {
        Self { slots, head, tail, capacity, pushed: 0, lost: 0, of: PhantomData }
    }

    /// Appends `m`; `false` = the ring is full, `m` is dropped and counted.
    pub fn push(&mut self, m: &M) -> bool {
        let waiting = self.pushed.wrapping_sub(self.tail.load(0));
        // A read cursor ahead of ours gives a huge number here, which is full as well.
        if R::REFUSE_FULL && waiting >= self.capacity as u64 {
            self.lost += 1;
            self.head.store(LOST, self.lost, Relaxed);
            return false;
        }
        fence_at(R::REUSE);
        store_message(&self.slots, slot::<M>(self.pushed, self.capacity), m);
        self.pushed += 1;
        self.head.store(0, self.pushed, R::PUBLISH);
        true
    }

    /// How many messages were dropped.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

/// The reading end.
#[derive(Debug)]
pub struct Consumer<M, L = ReadWindow, S = WriteWindow, R = Sound> {
    slots: L,
    head: L,
    tail: S,
    capacity: usize,
    taken: u64,
    lost: u64,
    of: PhantomData<fn(M, R)>,
}

impl<M: Message, L: Load, S: Store, R: Rules> Consumer<M, L, S, R> {
    /// Over fresh words, all 0.
    #[doc(hidden)]
    pub fn new(slots: L, head: L, tail: S, capacity: usize) -> Self {
        Self { slots, head, tail, capacity, taken: 0, lost: 0, of: PhantomData }
    }

    /// Hands what has arrived to `f`, oldest first, at most one ring-full. The content is the other
    /// side's: any bits. On `Misbehaved` nothing was handed over, and the peer is to be dropped.
    pub fn drain(&mut self, mut f: impl FnMut(M)) -> Result<Drained, Misbehaved> {
        let head = self.head.load(0);
        let (tail, capacity) = (self.taken, self.capacity as u64);
        let messages = head.wrapping_sub(tail);
        if messages > capacity {
            return Err(Misbehaved { head, tail, capacity });
        }
        fence_at(R::TAKE);
        for n in 0..messages {
            f(load_message(&self.slots, slot::<M>(tail.wrapping_add(n), self.capacity)));
        }
        self.taken = head;
        self.tail.store(0, head, R::FREE);
        let lost_now = self.head.load(LOST);
        let lost = lost_now.saturating_sub(self.lost);
        self.lost = lost_now;
        Ok(Drained { messages, lost })
    }
}

/// The first word of the slot of message number `n`.
fn slot<M: Message>(n: u64, capacity: usize) -> usize {
    let slot = usize::try_from(n % capacity as u64).expect("less than the capacity, which is a usize");
    slot * M::WORDS
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::heap::Heap;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    type Word = [u64; 1];

    struct Ends {
        head: Heap,
        tail: Heap,
        producer: Producer<Word, Heap, Heap>,
        consumer: Consumer<Word, Heap, Heap>,
    }

    fn ends(capacity: usize) -> Ends {
        let slots = Heap::new(words::<Word>(capacity));
        let (head, tail) = (Heap::new(HEAD_WORDS), Heap::new(TAIL_WORDS));
        Ends {
            producer: Producer::new(slots.clone(), head.clone(), tail.clone(), capacity),
            consumer: Consumer::new(slots, head.clone(), tail.clone(), capacity),
            head,
            tail,
        }
    }

    proptest! {
        #[test]
        fn ring_is_a_bounded_queue(
            capacity in 1usize..9,
            // `None` = drain
            steps in prop::collection::vec(prop::option::weighted(0.8, any::<u64>()), 0..200),
        ) {
            let mut ends = ends(capacity);
            let (mut model, mut lost) = (VecDeque::new(), 0);
            for step in steps {
                if let Some(value) = step {
                    let fits = model.len() < capacity;
                    prop_assert_eq!(ends.producer.push(&[value]), fits);
                    if fits { model.push_back(value) } else { lost += 1 }
                    continue;
                }
                let mut got = VecDeque::new();
                let drained = ends.consumer.drain(|[m]| got.push_back(m)).unwrap();
                prop_assert_eq!(drained, Drained { messages: model.len() as u64, lost });
                prop_assert_eq!(got, std::mem::take(&mut model));
                lost = 0;
            }
        }

        #[test]
        fn absurd_write_cursor_is_misbehaviour(head in prop_oneof![0u64..40, any::<u64>()], taken in 0u64..20) {
            let mut ends = ends(8);
            for n in 0..taken {
                ends.producer.push(&[n]);
                ends.consumer.drain(|_| ()).unwrap();
            }
            ends.head.store(0, head, Relaxed);
            let mut handed = 0;
            let drained = ends.consumer.drain(|_| handed += 1);
            if (taken..=taken + 8).contains(&head) {
                prop_assert_eq!((drained.unwrap().messages, handed), (head - taken, head - taken));
            } else {
                prop_assert_eq!(drained, Err(Misbehaved { head, tail: taken, capacity: 8 }));
                prop_assert_eq!((handed, ends.tail.load(0)), (0, taken));
            }
        }
    }

    #[test]
    fn write_cursor_that_goes_back_is_misbehaviour() {
        let mut ends = ends(4);
        ends.producer.push(&[1]);
        ends.consumer.drain(|_| ()).unwrap();
        ends.head.store(0, 0, Relaxed);
        let misbehaved = ends.consumer.drain(|_| ()).unwrap_err();
        assert_eq!(
            misbehaved.to_string(),
            "write cursor 0 with read cursor 1: more than the 4 messages the ring holds"
        );
    }

    #[test]
    fn lost_count_that_falls_or_jumps_is_harmless() {
        let mut ends = ends(4);
        ends.head.store(LOST, u64::MAX, Relaxed);
        assert_eq!(ends.consumer.drain(|_| ()).unwrap().lost, u64::MAX);
        ends.head.store(LOST, 0, Relaxed);
        assert_eq!(ends.consumer.drain(|_| ()).unwrap().lost, 0);
    }

    #[test]
    fn absurd_read_cursor_makes_the_ring_full_not_the_writer_wild() {
        let mut ends = ends(4);
        ends.tail.store(0, 1000, Relaxed);
        assert!(!ends.producer.push(&[1]));
        assert_eq!(ends.producer.lost(), 1);
    }
}
