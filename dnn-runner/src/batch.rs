//! A frame (a batch of images) on one or more threads.
//!
//! Responsible for: splitting a frame's work over the calling thread and the helpers of
//! [`crate::engine::pool`]: whole images where there are enough of them, each layer of an image where
//! there are not. Not responsible for: when to run which frame ([`crate::worker`]).

use crate::engine::exec::Crew;
use crate::engine::pool::{Pool, TASKS_MAX};
use crate::kernel::Kernel;
use crate::model::{Answer, State, Supernet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Images a thread takes at a time: long enough to make taking cheap, short enough to end together.
const CHUNK: usize = 4;
/// Images for each thread from which on whole images are shared out: nothing waits between layers then.
const WHOLE: usize = 2;

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
    net: Arc<Supernet>,
    pool: Pool,
    /// Of each thread.
    states: Vec<Mutex<State>>,
    frame: Frame,
    /// Answer of each image, packed by [`pack`].
    answers: Vec<AtomicU64>,
}

impl Batcher {
    /// For frames on up to `threads` threads (at least 1, the caller's).
    pub fn new(net: Arc<Supernet>, kernel: Kernel, threads: usize) -> std::io::Result<Self> {
        let states = (0..threads.max(1)).map(|_| State::new(&net, kernel).map(Mutex::new));
        let states = states.collect::<Result<_, _>>()?;
        let (frame, answers) = (Frame::default(), Vec::new());
        Ok(Self { pool: Pool::new(threads)?, states, net, frame, answers })
    }

    /// The network.
    pub fn net(&self) -> &Arc<Supernet> {
        &self.net
    }

    /// The most threads a frame can use.
    pub fn threads_max(&self) -> usize {
        self.pool.threads_max()
    }

    /// Lets `fill` lay the images of the next frame.
    pub fn fill(&mut self, fill: impl FnOnce(&mut Frame)) {
        self.frame.clear();
        fill(&mut self.frame);
        if self.answers.len() < self.frame.len() {
            self.answers.resize_with(self.frame.len(), AtomicU64::default);
        }
    }

    /// Runs the frame on `threads` threads. `between` is called now and then, between two images or two
    /// layers, so that the caller can look after other things; it is short.
    pub fn run(&mut self, subnet: usize, threads: usize, mut between: impl FnMut()) -> Outcome {
        let (images, threads) = (self.frame.len(), threads.clamp(1, self.threads_max()));
        let threads = if images == 0 { 1 } else { threads };
        self.pool.begin(threads);
        if images >= WHOLE * threads {
            self.share_images(subnet, threads, &mut between);
        } else {
            self.share_layers(subnet, threads, &mut between);
        }
        self.pool.end();
        self.outcome(threads)
    }

    fn share_images(&mut self, subnet: usize, threads: usize, between: &mut dyn FnMut()) {
        let Self { net, pool, states, frame, answers } = self;
        let (size, images) = (net.pixels(), frame.len());
        let chunk = CHUNK.min(images / threads).max(images.div_ceil(TASKS_MAX));
        let work = |task: usize, who: usize| {
            // A lock is only poisoned after a panic elsewhere, and the program ends on panics.
            let mut state = states[who].lock().unwrap_or_else(PoisonError::into_inner);
            let mine = task * chunk..images.min((task + 1) * chunk);
            let pixels = frame.pixels[mine.start * size..mine.end * size].chunks_exact(size);
            for (image, answer) in pixels.zip(&answers[mine]) {
                let found = net.infer(subnet, image, &mut state);
                // Relaxed: the pool's end of a job orders it before the caller's reading.
                answer.store(pack(found), Ordering::Relaxed);
            }
        };
        pool.run(images.div_ceil(chunk), &work, between);
    }

    fn share_layers(&mut self, subnet: usize, threads: usize, between: &mut dyn FnMut()) {
        let size = self.net.pixels();
        let state = self.states[0].get_mut().unwrap_or_else(PoisonError::into_inner);
        for i in 0..self.frame.len() {
            let mut crew = if threads > 1 { Crew::Of(&mut self.pool, threads) } else { Crew::Alone };
            let image = &self.frame.pixels[i * size..(i + 1) * size];
            let logits = state.run(subnet, image, &mut crew, &mut |_| {
                between();
                ControlFlow::Continue(())
            });
            self.answers[i].store(pack(Answer::of(logits.expect("never stopped"))), Ordering::Relaxed);
        }
    }

    fn outcome(&self, threads: usize) -> Outcome {
        let mut out = Outcome { threads: u32::try_from(threads).unwrap_or(u32::MAX), ..Outcome::default() };
        let mut confidence = 0.0;
        for (label, answer) in self.frame.labels.iter().zip(&self.answers) {
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
        self.answers.first().map(|a| unpack(a.load(Ordering::Relaxed)))
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
        let mut state = State::new(&net, Kernel::best()).unwrap();
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
        assert_eq!(called, 41_usize.div_ceil(CHUNK), "between chunks of images");
        fill(&mut batcher, 1);
        called = 0;
        batcher.run(0, 1, || called += 1);
        assert_eq!(called, batcher.net().engine().layers(0), "between the layers of one image");
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
