//! One message that the newest write wins: the agent's decision.
//!
//! Word 0 is the sequence: 0 = nothing published, odd = being written. The message follows. The writer
//! never waits; the reader tries a bounded number of times, because nobody spins on another process.
//! (Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012.)

use crate::region::{ReadWindow, WriteWindow};
use crate::sync::{Load, Message, Store, fence_at, load_message, spin_loop, store_message};
use std::marker::PhantomData;
use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};

/// Tries of one read. A write takes some ten nanoseconds; a writer that is descheduled in the middle of
/// one is not worth waiting for.
const TRIES: u32 = if cfg!(loom) { 2 } else { 64 };

/// Words that a seqlock for `M` takes.
pub const fn words<M: Message>() -> usize {
    1 + M::WORDS
}

/// The steps that the algorithm's proof rests on. The loom tests replace them one by one.
#[doc(hidden)]
pub trait Rules {
    /// The writer marks the sequence odd.
    const MARK_ODD: bool = true;
    /// Fence after marking: no word may become visible before the mark.
    const AFTER_ODD: Ordering = Release;
    /// Store of the even sequence: publishes the words.
    const EVEN: Ordering = Release;
    /// Fence after the first look at the sequence.
    const AFTER_FIRST: Ordering = Acquire;
    /// The reader refuses an odd sequence.
    const REFUSE_ODD: bool = true;
    /// Fence before the second look: no word may be read after it.
    const BEFORE_SECOND: Ordering = Acquire;
    /// The reader refuses a sequence that moved.
    const REFUSE_MOVED: bool = true;
}

/// The rules as they must be.
#[doc(hidden)]
#[derive(Debug)]
pub enum Sound {}
impl Rules for Sound {}

/// No whole message within the allowed tries: the writer is in the middle of a write, or died in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no whole message in {tries} tries: the writer is in the middle of a write")]
pub struct ReadError {
    /// How often it was tried.
    pub tries: u32,
}

/// The writing end.
#[derive(Debug)]
pub struct Publisher<M, S = WriteWindow, R = Sound> {
    words: S,
    // Kept here and never read back: the other side cannot write it, but need not be relied upon either.
    sequence: u64,
    of: PhantomData<fn(M, R)>,
}

impl<M: Message, S: Store, R: Rules> Publisher<M, S, R> {
    /// Over fresh words, all 0.
    #[doc(hidden)]
    pub fn new(words: S) -> Self {
        Self { words, sequence: 0, of: PhantomData }
    }

    /// Makes `m` the newest message.
    pub fn publish(&mut self, m: &M) {
        if R::MARK_ODD {
            self.words.store(0, self.sequence + 1, Relaxed);
        }
        fence_at(R::AFTER_ODD);
        store_message(&self.words, 1, m);
        self.sequence += 2;
        self.words.store(0, self.sequence, R::EVEN);
    }
}

/// The reading end.
#[derive(Debug)]
pub struct Subscriber<M, S = ReadWindow, R = Sound> {
    words: S,
    of: PhantomData<fn(M, R)>,
}

impl<M: Message, S: Load, R: Rules> Subscriber<M, S, R> {
    #[doc(hidden)]
    pub fn new(words: S) -> Self {
        Self { words, of: PhantomData }
    }

    /// The newest message, `None` if there has been none yet. It is the same again until a newer one is
    /// published.
    pub fn latest(&mut self) -> Result<Option<M>, ReadError> {
        for _ in 0..TRIES {
            let before = self.words.load(0);
            if before == 0 {
                return Ok(None);
            }
            if R::REFUSE_ODD && !before.is_multiple_of(2) {
                spin_loop();
                continue;
            }
            fence_at(R::AFTER_FIRST);
            let m = load_message(&self.words, 1);
            fence_at(R::BEFORE_SECOND);
            if !R::REFUSE_MOVED || self.words.load(0) == before {
                return Ok(Some(m));
            }
            spin_loop();
        }
        Err(ReadError { tries: TRIES })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::heap::Heap;
    use proptest::prelude::*;

    type Pair = [u64; 2];

    fn ends() -> (Heap, Publisher<Pair, Heap>, Subscriber<Pair, Heap>) {
        let words = Heap::new(super::words::<Pair>());
        (words.clone(), Publisher::new(words.clone()), Subscriber::new(words))
    }

    #[test]
    fn newest_message_wins_and_stays() {
        let (_, mut publisher, mut subscriber) = ends();
        assert_eq!(subscriber.latest(), Ok(None));
        publisher.publish(&[1, 2]);
        publisher.publish(&[3, 4]);
        assert_eq!(subscriber.latest(), Ok(Some([3, 4])));
        assert_eq!(subscriber.latest(), Ok(Some([3, 4])));
    }

    #[test]
    fn a_write_that_never_ends_is_a_bounded_error() {
        let (words, mut publisher, mut subscriber) = ends();
        publisher.publish(&[1, 2]);
        words.store(0, 3, Relaxed);
        assert_eq!(subscriber.latest(), Err(ReadError { tries: TRIES }));
        words.store(0, u64::MAX, Relaxed);
        assert_eq!(subscriber.latest(), Err(ReadError { tries: TRIES }));
        publisher.publish(&[5, 6]);
        assert_eq!(subscriber.latest(), Ok(Some([5, 6])), "the next whole write is read again");
    }

    /// Words whose sequence moves whenever it is looked at.
    struct Restless(Heap);
    impl Load for Restless {
        fn load(&self, index: usize) -> u64 {
            if index == 0 {
                self.0.store(0, self.0.load(0).wrapping_add(2), Relaxed);
            }
            self.0.load(index)
        }
    }

    #[test]
    fn a_writer_that_never_rests_is_a_bounded_error() {
        let (words, mut publisher, _) = ends();
        publisher.publish(&[1, 2]);
        let mut subscriber = Subscriber::<Pair, _>::new(Restless(words));
        assert_eq!(subscriber.latest(), Err(ReadError { tries: TRIES }));
    }

    proptest! {
        #[test]
        fn any_message_arrives_bit_by_bit(a: u64, b: u64) {
            let (_, mut publisher, mut subscriber) = ends();
            publisher.publish(&[a, b]);
            prop_assert_eq!(subscriber.latest(), Ok(Some([a, b])));
        }
    }
}
