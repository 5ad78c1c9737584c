//! A frame (a batch of images) on one or more threads.
//!
//! Responsible for: splitting a frame's images over the calling thread and a few helper threads that
//! sleep between frames and never spin. Not responsible for: when to run which frame ([`crate::worker`]).

use crate::kernel::Kernel;
use crate::model::{Answer, State, Supernet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

/// Images a thread takes at a time: long enough to make taking cheap, short enough to end together.
const CHUNK: usize = 4;

/// Images one behind the other, and what they show where that is known.
#[derive(Debug, Default)]
pub struct Frame {
    /// Pixels of all images.
    pub pixels: Vec<u8>,
    /// One per image.
    pub labels: Vec<Option<u8>>,
}

impl Frame {
    /// Forgets the images, keeps the memory.
    pub fn clear(&mut self) {
        self.pixels.clear();
        self.labels.clear();
    }
    /// Adds an image.
    pub fn push(&mut self, pixels: &[u8], label: Option<u8>) {
        self.pixels.extend_from_slice(pixels);
        self.labels.push(label);
    }
    /// Images in it.
    pub fn len(&self) -> usize {
        self.labels.len()
    }
    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// What a frame came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Images run.
    pub images: u32,
    /// Of them, labelled.
    pub labelled: u32,
    /// Of the labelled, right.
    pub correct: u32,
    /// Mean confidence, 0 to 1.
    pub confidence: f32,
    /// Threads it ran on.
    pub threads: u32,
}

/// Runs frames of one network; owns its helper threads.
#[derive(Debug)]
pub struct Batcher {
    shared: Arc<Shared>,
    state: State,
    helpers: Vec<(Arc<Desk>, JoinHandle<()>)>,
}

#[derive(Debug)]
struct Shared {
    net: Arc<Supernet>,
    frame: RwLock<Frame>,
    /// Answer of each image, packed by [`pack`].
    answers: RwLock<Vec<AtomicU64>>,
    /// The next image nobody has taken.
    next: AtomicUsize,
    busy: Mutex<usize>,
    all_done: Condvar,
}

/// Where a helper finds its next order.
#[derive(Debug, Default)]
struct Desk {
    order: Mutex<Order>,
    arrived: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
enum Order {
    #[default]
    Sleep,
    Run {
        subnet: usize,
    },
    Quit,
}

/// A lock is only poisoned after a panic elsewhere, and the program ends on panics.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Batcher {
    /// For frames on up to `threads` threads (at least 1, the caller's).
    pub fn new(net: Arc<Supernet>, kernel: Kernel, threads: usize) -> std::io::Result<Self> {
        let state = State::new(&net, kernel);
        let shared = Arc::new(Shared {
            net,
            frame: RwLock::default(),
            answers: RwLock::default(),
            next: AtomicUsize::new(0),
            busy: Mutex::new(0),
            all_done: Condvar::new(),
        });
        let mut helpers = Vec::new();
        for i in 1..threads.max(1) {
            let (desk, shared) = (Arc::new(Desk::default()), Arc::clone(&shared));
            let theirs = Arc::clone(&desk);
            let help = move || help(&shared, &theirs, kernel);
            helpers.push((desk, std::thread::Builder::new().name(format!("dnn-{i}")).spawn(help)?));
        }
        Ok(Self { shared, state, helpers })
    }

    /// The network.
    pub fn net(&self) -> &Arc<Supernet> {
        &self.shared.net
    }

    /// The most threads a frame can use.
    pub fn threads_max(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Lets `fill` lay the images of the next frame.
    pub fn fill(&mut self, fill: impl FnOnce(&mut Frame)) {
        let mut frame = self.shared.frame.write().unwrap_or_else(PoisonError::into_inner);
        frame.clear();
        fill(&mut frame);
        let mut answers = self.shared.answers.write().unwrap_or_else(PoisonError::into_inner);
        if answers.len() < frame.len() {
            answers.resize_with(frame.len(), AtomicU64::default);
        }
    }

    /// Runs the frame. `between` is called now and then, between two images, so that the caller can
    /// look after other things; it is short.
    pub fn run(&mut self, subnet: usize, threads: usize, mut between: impl FnMut()) -> Outcome {
        let shared = &*self.shared;
        let images = shared.frame.read().unwrap_or_else(PoisonError::into_inner).len();
        let threads = threads.clamp(1, self.threads_max()).min(images.div_ceil(CHUNK).max(1));
        shared.next.store(0, Ordering::Relaxed);
        *lock(&shared.busy) = threads - 1;
        for (desk, _) in &self.helpers[..threads - 1] {
            *lock(&desk.order) = Order::Run { subnet };
            desk.arrived.notify_one();
        }
        shared.work(subnet, &mut self.state, &mut between);
        let mut busy = lock(&shared.busy);
        while *busy > 0 {
            busy = shared.all_done.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        drop(busy);
        self.outcome(threads)
    }

    fn outcome(&self, threads: usize) -> Outcome {
        let frame = self.shared.frame.read().unwrap_or_else(PoisonError::into_inner);
        let mut out = Outcome { threads: u32::try_from(threads).unwrap_or(u32::MAX), ..Outcome::default() };
        let mut confidence = 0.0;
        let answers = self.shared.answers.read().unwrap_or_else(PoisonError::into_inner);
        for (label, answer) in frame.labels.iter().zip(answers.iter()) {
            let answer = unpack(answer.load(Ordering::Relaxed));
            out.images += 1;
            confidence += answer.confidence;
            if let Some(label) = label {
                out.labelled += 1;
                out.correct += u32::from(answer.class == u16::from(*label));
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a frame has far fewer than 2^24 images")]
        let images = out.images.max(1) as f32;
        out.confidence = confidence / images;
        out
    }

    /// The answer to the first image of the last frame.
    pub fn first_answer(&self) -> Option<Answer> {
        let answers = self.shared.answers.read().unwrap_or_else(PoisonError::into_inner);
        answers.first().map(|a| unpack(a.load(Ordering::Relaxed)))
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        for (desk, _) in &self.helpers {
            *lock(&desk.order) = Order::Quit;
            desk.arrived.notify_one();
        }
        for (_, thread) in self.helpers.drain(..) {
            // A helper that panicked has said so on standard error.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Takes images until none is left.
    fn work(&self, subnet: usize, state: &mut State, between: &mut dyn FnMut()) {
        let frame = self.frame.read().unwrap_or_else(PoisonError::into_inner);
        let answers = self.answers.read().unwrap_or_else(PoisonError::into_inner);
        let size = self.net.pixels();
        loop {
            let from = self.next.fetch_add(CHUNK, Ordering::Relaxed);
            if from >= frame.len() {
                return;
            }
            for i in from..frame.len().min(from + CHUNK) {
                let answer = self.net.infer(subnet, &frame.pixels[i * size..(i + 1) * size], state);
                // Relaxed: whoever reads the answers has first seen `busy` fall under its lock.
                answers[i].store(pack(answer), Ordering::Relaxed);
            }
            between();
        }
    }
}

/// A helper's life.
fn help(shared: &Shared, desk: &Desk, kernel: Kernel) {
    let mut state = State::new(&shared.net, kernel);
    loop {
        let mut order = lock(&desk.order);
        let subnet = loop {
            match std::mem::take(&mut *order) {
                Order::Sleep => order = desk.arrived.wait(order).unwrap_or_else(PoisonError::into_inner),
                Order::Run { subnet } => break subnet,
                Order::Quit => return,
            }
        };
        drop(order);
        shared.work(subnet, &mut state, &mut || {});
        let mut busy = lock(&shared.busy);
        *busy -= 1;
        if *busy == 0 {
            shared.all_done.notify_one();
        }
    }
}

fn pack(answer: Answer) -> u64 {
    u64::from(answer.class) << 32 | u64::from(answer.confidence.to_bits())
}

fn unpack(packed: u64) -> Answer {
    let [_, _, a, b, c @ ..] = packed.to_be_bytes();
    Answer { class: u16::from_be_bytes([a, b]), confidence: f32::from_bits(u32::from_be_bytes(c)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Net, PIXELS, image};

    fn fill(batcher: &mut Batcher, images: u64) {
        batcher.fill(|frame| (0..images).for_each(|n| frame.push(&image(n), (n % 3 != 0).then_some(1))));
    }

    #[test]
    fn a_frame_comes_to_the_same_on_any_number_of_threads() {
        let net = Arc::new(Net::new(3, 5).load());
        let mut state = State::new(&net, Kernel::best());
        let alone: Vec<Answer> = (0..41).map(|n| net.infer(2, &image(n), &mut state)).collect();
        for threads in 1..=4 {
            let mut batcher = Batcher::new(Arc::clone(&net), Kernel::best(), threads).unwrap();
            for images in [1, 3, 41, 8, 0] {
                fill(&mut batcher, images);
                let out = batcher.run(2, threads, || {});
                let of = &alone[..usize::try_from(images).unwrap()];
                assert_eq!(u64::from(out.images), images);
                let labelled = (0..images).filter(|n| n % 3 != 0);
                assert_eq!(u64::from(out.labelled), labelled.clone().count() as u64);
                let right = labelled.filter(|n| of[usize::try_from(*n).unwrap()].class == 1).count();
                assert_eq!(out.correct as usize, right);
                let mean = of.iter().map(|a| a.confidence).sum::<f32>() / of.len().max(1) as f32;
                assert!((out.confidence - mean).abs() < 1e-6, "{} {mean}", out.confidence);
                assert!(out.threads as usize <= threads && out.threads >= 1);
                if images > 0 {
                    assert_eq!(batcher.first_answer(), Some(alone[0]));
                }
            }
        }
    }

    #[test]
    fn a_caller_gets_a_word_in_between_images() {
        let mut batcher = Batcher::new(Arc::new(Net::new(1, 5).load()), Kernel::best(), 1).unwrap();
        fill(&mut batcher, 41);
        let mut called = 0;
        batcher.run(0, 1, || called += 1);
        assert_eq!(called, 41_usize.div_ceil(CHUNK));
    }

    #[test]
    fn answers_survive_packing() {
        for (class, confidence) in [(0, 0.0), (9, 0.25), (u16::MAX, 1.0)] {
            let answer = Answer { class, confidence };
            assert_eq!(unpack(pack(answer)), answer);
        }
        assert_eq!(PIXELS, image(0).len());
    }
}
