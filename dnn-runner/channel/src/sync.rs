//! What the seqlock and the ring need of shared memory, so that loom can run them over its own.
//!
//! Shared memory is a run of 64-bit words. They are only ever accessed as atomics, and loads are always
//! `Relaxed`: Rust promises that such loads work on a read-only mapping (`std::sync::atomic`, "Atomic
//! accesses to read-only memory"; words this wide on 64-bit targets). Where acquire is needed a fence
//! follows, which is at least as strong.

#[cfg(loom)]
pub(crate) use loom::{hint::spin_loop, sync::atomic::fence};
#[cfg(not(loom))]
pub(crate) use std::{hint::spin_loop, sync::atomic::fence};

use std::sync::atomic::Ordering;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Shared words that may be read.
pub trait Load {
    /// Word `index`, `Relaxed`.
    fn load(&self, index: usize) -> u64;
}

/// Shared words that may also be written.
pub trait Store: Load {
    /// Writes word `index`.
    fn store(&self, index: usize, value: u64, order: Ordering);
}

/// Plain data that crosses in whole words: fixed width, no padding, any bit pattern valid.
pub trait Message: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {
    /// Words it takes.
    const WORDS: usize = {
        assert!(
            size_of::<Self>() > 0 && size_of::<Self>().is_multiple_of(8),
            "a message is whole 64-bit words"
        );
        size_of::<Self>() / 8
    };
}

impl<M: FromBytes + IntoBytes + Immutable + KnownLayout + Copy> Message for M {}

/// A fence, or none: `std` has no relaxed fence, the mutants need one.
pub(crate) fn fence_at(order: Ordering) {
    if order != Ordering::Relaxed {
        fence(order);
    }
}

/// Copies `m` to the words from `first` on, word by word.
pub(crate) fn store_message<M: Message>(words: &impl Store, first: usize, m: &M) {
    for (i, bytes) in m.as_bytes().as_chunks::<8>().0.iter().enumerate() {
        words.store(first + i, u64::from_ne_bytes(*bytes), Ordering::Relaxed);
    }
}

/// Copies a message from the words from `first` on into local memory. It may be torn: the caller checks.
pub(crate) fn load_message<M: Message>(words: &impl Load, first: usize) -> M {
    let mut m = M::new_zeroed();
    for (i, bytes) in m.as_mut_bytes().as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *bytes = words.load(first + i).to_ne_bytes();
    }
    m
}

/// Shared words on the heap, for the unit tests of the algorithms.
#[cfg(all(test, not(loom)))]
pub(crate) mod heap {
    use super::{Load, Ordering, Store};
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    #[derive(Clone, Debug)]
    pub(crate) struct Heap(Arc<[AtomicU64]>);

    impl Heap {
        pub(crate) fn new(words: usize) -> Self {
            Self((0..words).map(|_| AtomicU64::new(0)).collect())
        }
    }
    impl Load for Heap {
        fn load(&self, index: usize) -> u64 {
            self.0[index].load(Ordering::Relaxed)
        }
    }
    impl Store for Heap {
        fn store(&self, index: usize, value: u64, order: Ordering) {
            self.0[index].store(value, order);
        }
    }
}
