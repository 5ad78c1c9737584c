//! The seqlock and the ring under loom: every interleaving and every value a weak memory model allows, of
//! the real code over loom's atomics. Each rule the algorithms rest on is then broken, and loom must notice:
//! a model that cannot fail proves nothing.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p channel --release --test loom`
#![cfg(loom)]

use channel::ring::{self, Consumer, Producer};
use channel::seqlock::{self, Publisher, Subscriber};
use channel::sync::{Load, Store};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};

/// Words that may be read while they are written.
#[derive(Clone)]
struct Racy(Arc<Vec<AtomicU64>>);

impl Racy {
    fn new(words: usize) -> Self {
        Self(Arc::new((0..words).map(|_| AtomicU64::new(0)).collect()))
    }
}
impl Load for Racy {
    fn load(&self, index: usize) -> u64 {
        self.0[index].load(Relaxed)
    }
}
impl Store for Racy {
    fn store(&self, index: usize, value: u64, order: Ordering) {
        self.0[index].store(value, order);
    }
}

/// Words that the algorithm says are never read while they are written: a slot of the ring is one side's
/// or the other's. Loom checks it by the happens-before of the cell beside each word. (Values alone cannot
/// show a slot that is reused too early: loom does not let a load see a store that comes later in time.)
#[derive(Clone)]
struct Exclusive(Arc<Vec<(AtomicU64, UnsafeCell<()>)>>);

impl Exclusive {
    fn new(words: usize) -> Self {
        Self(Arc::new((0..words).map(|_| (AtomicU64::new(0), UnsafeCell::new(()))).collect()))
    }
}
// SAFETY: the cells hold nothing; they are there for loom to watch.
unsafe impl Send for Exclusive {}
impl Load for Exclusive {
    fn load(&self, index: usize) -> u64 {
        self.0[index].1.with(|_| ());
        self.0[index].0.load(Relaxed)
    }
}
impl Store for Exclusive {
    fn store(&self, index: usize, value: u64, order: Ordering) {
        self.0[index].1.with_mut(|_| ());
        self.0[index].0.store(value, order);
    }
}

/// Runs a model that must fail, with one of these words in its message.
fn caught(words: &[&str], model: impl Fn()) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(model)) else {
        panic!("loom did not notice the mutant");
    };
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    assert!(words.iter().any(|w| text.contains(w)), "failed, but for another reason: {text}");
}

// ---- seqlock

type Pair = [u64; 2];

/// Two writes against two reads, each side in a thread of its own. Returns how many executions there were,
/// and in how many of them a read got the first message, the second, and none whole.
fn seqlock_model<R: seqlock::Rules + 'static>() -> [usize; 4] {
    let seen = std::sync::Arc::new([const { AtomicUsize::new(0) }; 4]);
    let count = std::sync::Arc::clone(&seen);
    loom::model(move || {
        let words = Racy::new(seqlock::words::<Pair>());
        let mut publisher = Publisher::<Pair, _, R>::new(words.clone());
        let mut subscriber = Subscriber::<Pair, _, R>::new(words);
        let writer = thread::spawn(move || {
            publisher.publish(&[1, 1]);
            publisher.publish(&[2, 2]);
        });
        let count = std::sync::Arc::clone(&count);
        let reader = thread::spawn(move || {
            count[0].fetch_add(1, Relaxed);
            let mut newest = 0;
            for _ in 0..2 {
                match subscriber.latest() {
                    Ok(None) => assert_eq!(newest, 0, "older than before: none"),
                    Ok(Some([a, b])) => {
                        assert!(a == b, "torn: {a} {b}");
                        assert!(a >= newest && a > 0, "older than before: {a} after {newest}");
                        newest = a;
                        count[usize::from(a == 2) + 1].fetch_add(1, Relaxed);
                    }
                    Err(_) => _ = count[3].fetch_add(1, Relaxed),
                }
            }
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
    std::array::from_fn(|i| seen[i].load(Relaxed))
}

#[test]
fn seqlock_never_hands_out_a_torn_or_older_message() {
    let [executions, first, second, none] = seqlock_model::<seqlock::Sound>();
    println!("seqlock: {executions} executions; reads: first {first}, second {second}, none whole {none}");
    assert!(executions > 1000 && first > 0 && second > 0 && none > 0);
}

macro_rules! seqlock_mutant {
    ($test:ident, $const:ident: $type:ty = $value:expr) => {
        #[test]
        fn $test() {
            enum Mutant {}
            impl seqlock::Rules for Mutant {
                const $const: $type = $value;
            }
            caught(&["torn", "older than before"], || _ = seqlock_model::<Mutant>());
        }
    };
}
seqlock_mutant!(seqlock_mutant_without_odd_mark_is_caught, MARK_ODD: bool = false);
seqlock_mutant!(seqlock_mutant_without_writer_fence_is_caught, AFTER_ODD: Ordering = Relaxed);
seqlock_mutant!(seqlock_mutant_with_acquire_writer_fence_is_caught, AFTER_ODD: Ordering = Acquire);
seqlock_mutant!(seqlock_mutant_with_relaxed_even_is_caught, EVEN: Ordering = Relaxed);
seqlock_mutant!(seqlock_mutant_without_first_fence_is_caught, AFTER_FIRST: Ordering = Relaxed);
seqlock_mutant!(seqlock_mutant_that_takes_odd_is_caught, REFUSE_ODD: bool = false);
seqlock_mutant!(seqlock_mutant_without_second_fence_is_caught, BEFORE_SECOND: Ordering = Relaxed);
seqlock_mutant!(seqlock_mutant_with_release_second_fence_is_caught, BEFORE_SECOND: Ordering = Release);
seqlock_mutant!(seqlock_mutant_without_version_check_is_caught, REFUSE_MOVED: bool = false);

// ---- ring

/// Three messages through a ring of one, so that the slot is used again; the reader drains twice, and once
/// more at the end. Returns executions, messages read while the writer ran, messages from a reused slot,
/// and pushes that met a full ring.
fn ring_model<R: ring::Rules + 'static, W: Store + Clone + Send + 'static>(
    slots: fn(usize) -> W,
) -> [usize; 4] {
    const CAPACITY: usize = 1;
    let seen = std::sync::Arc::new([const { AtomicUsize::new(0) }; 4]);
    let count = std::sync::Arc::clone(&seen);
    loom::model(move || {
        // The slots are watched, the cursors race by design: both behind one type for the producer.
        let slots = Part::Slots(slots(ring::words::<Pair>(CAPACITY)));
        let head = Part::Cursor(Racy::new(ring::HEAD_WORDS));
        let tail = Part::<W>::Cursor(Racy::new(ring::TAIL_WORDS));
        let mut producer =
            Producer::<Pair, _, _, R>::new(slots.clone(), head.clone(), tail.clone(), CAPACITY);
        let mut consumer = Consumer::<Pair, _, _, R>::new(slots, head, tail, CAPACITY);
        let writer = thread::spawn(move || {
            for n in 1..=3 {
                producer.push(&[n, n]);
            }
            producer.lost()
        });
        let counted = std::sync::Arc::clone(&count);
        let reader = thread::spawn(move || {
            counted[0].fetch_add(1, Relaxed);
            let (mut got, mut lost) = (Vec::new(), 0);
            for _ in 0..2 {
                let drained = consumer.drain(|[a, b]| {
                    assert!(a == b && a > 0, "torn: {a} {b}");
                    got.push(a);
                });
                lost += drained.expect("misbehaved").lost;
            }
            counted[1].fetch_add(got.len(), Relaxed);
            counted[2].fetch_add(usize::from(got.len() > 1), Relaxed);
            (consumer, got, lost)
        });
        let really_lost = writer.join().unwrap();
        let (mut consumer, mut got, mut lost) = reader.join().unwrap();
        lost += consumer.drain(|[a, _]| got.push(a)).expect("misbehaved").lost;
        count[3].fetch_add(usize::try_from(lost).unwrap(), Relaxed);
        assert!(got.is_sorted() && got.windows(2).all(|w| w[0] != w[1]), "order: {got:?}");
        assert_eq!((got.len() as u64 + lost, lost), (3, really_lost), "count: {got:?} and {lost} lost");
    });
    std::array::from_fn(|i| seen[i].load(Relaxed))
}

#[derive(Clone)]
enum Part<W> {
    Slots(W),
    Cursor(Racy),
}
impl<W: Load> Load for Part<W> {
    fn load(&self, index: usize) -> u64 {
        match self {
            Self::Slots(words) => words.load(index),
            Self::Cursor(words) => words.load(index),
        }
    }
}
impl<W: Store> Store for Part<W> {
    fn store(&self, index: usize, value: u64, order: Ordering) {
        match self {
            Self::Slots(words) => words.store(index, value, order),
            Self::Cursor(words) => words.store(index, value, order),
        }
    }
}

#[test]
fn ring_keeps_order_and_loses_only_what_it_counts() {
    for [executions, read, reused, full] in
        [ring_model::<ring::Sound, _>(Racy::new), ring_model::<ring::Sound, _>(Exclusive::new)]
    {
        println!("ring: {executions} executions; read {read}, from a reused slot {reused}, full {full}");
        assert!(executions > 100 && read > 0 && reused > 0 && full > 0);
    }
}

macro_rules! ring_mutant {
    ($test:ident, $words:ident, $const:ident: $type:ty = $value:expr) => {
        #[test]
        fn $test() {
            enum Mutant {}
            impl ring::Rules for Mutant {
                const $const: $type = $value;
            }
            caught(&["torn", "Causality", "order", "count", "misbehaved"], || {
                _ = ring_model::<Mutant, _>($words::new)
            });
        }
    };
}
ring_mutant!(ring_mutant_with_relaxed_publish_is_caught, Racy, PUBLISH: Ordering = Relaxed);
ring_mutant!(ring_mutant_without_take_fence_is_caught, Racy, TAKE: Ordering = Relaxed);
ring_mutant!(ring_mutant_with_release_take_fence_is_caught, Racy, TAKE: Ordering = Release);
ring_mutant!(ring_mutant_with_relaxed_free_is_caught, Exclusive, FREE: Ordering = Relaxed);
ring_mutant!(ring_mutant_without_reuse_fence_is_caught, Exclusive, REUSE: Ordering = Relaxed);
ring_mutant!(ring_mutant_that_overwrites_is_caught, Racy, REFUSE_FULL: bool = false);
