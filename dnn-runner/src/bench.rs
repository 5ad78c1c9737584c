//! Figures about the engine alone: time of a frame, of a switch, accuracy.
//!
//! Responsible for: measuring; `--batch auto` uses it too. Not responsible for: judging the figures.

use crate::batch::Batcher;
use crate::clock;
use crate::data::Images;
use crate::follower::Follower;
use crate::kernel::Kernel;
use crate::model::{State, Supernet};
use channel::msg::DecisionMsg;
use serde::Serialize;
use std::sync::Arc;

/// What `--batch auto` aims at: a frame on the largest sub-network and one thread.
const FRAME_NS: u64 = 25_000_000;
/// Images of a round of the calibration; the fastest round counts, as the least disturbed one.
const ROUND: usize = 16;
/// Rounds: at least so many, at most so many, and no more after so long (an emulated CPU is slow).
const ROUNDS: (usize, usize, u64) = (3, 50, 150_000_000);

/// Images that make a frame of about 25 ms on the largest sub-network.
pub fn calibrate(net: &Supernet) -> std::io::Result<usize> {
    let mut state = State::new(net, Kernel::best())?;
    let largest = net.subnets().len() - 1;
    let image = noise(net.pixels());
    let (least, most, enough_ns) = ROUNDS;
    let began = clock::now();
    let mut fastest = u64::MAX;
    for round in 0..most {
        let from = clock::now();
        if round >= least && from - began > enough_ns {
            break;
        }
        for _ in 0..ROUND {
            std::hint::black_box(net.infer(largest, &image, &mut state));
        }
        fastest = fastest.min(clock::now() - from).max(1);
    }
    Ok(usize::try_from(FRAME_NS * ROUND as u64 / fastest).unwrap_or(1).clamp(1, 100_000))
}

/// An image in which every value occurs.
fn noise(pixels: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(1);
    (0..pixels).map(|_| rng.u8(..)).collect()
}

/// What `bench` finds.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Figures {
    pub network: String,
    pub batch: usize,
    pub frames: Vec<FrameFigures>,
    pub switch: SwitchFigures,
}

/// Time of a frame.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct FrameFigures {
    pub subnet: String,
    pub kernel: &'static str,
    pub n: u32,
    pub frame_ms_p10: f64,
    pub frame_ms_p50: f64,
    pub frame_ms_p90: f64,
    pub macs_per_ns: f64,
}

/// Time of a switch: from a decision in memory to the engine being ready to run it, and what the first
/// image on the new sub-network costs more than a later one (weights that have left the cache).
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct SwitchFigures {
    pub n: u32,
    pub switch_ns_p10: u64,
    pub switch_ns_p50: u64,
    pub switch_ns_p90: u64,
    pub switch_ns_p99: u64,
    pub first_image_extra_ns_p50: i64,
    pub first_image_extra_ns_p99: i64,
}

fn quantile<T: Copy + Ord>(values: &mut [T], permille: usize) -> T {
    values.sort_unstable();
    values[(values.len() - 1) * permille / 1000]
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// Times every sub-network, then switches; `best`: on the fastest form of the arithmetic only, else on every one this
/// CPU has.
pub fn bench(
    net: &Arc<Supernet>,
    batch: usize,
    frames: u32,
    switches: u32,
    best: bool,
) -> std::io::Result<Figures> {
    let mut rows = Vec::new();
    for kernel in Kernel::all().into_iter().filter(|k| !best || *k == Kernel::best()) {
        let mut batcher = Batcher::new(Arc::clone(net), kernel, 1)?;
        // The reference takes seconds for what the fast ones do in a frame: a few must do.
        let n = if kernel == Kernel::reference() { frames.min(3) } else { frames };
        let image = noise(net.pixels());
        batcher.fill(|frame| (0..batch).for_each(|_| frame.push(&image, None)));
        for (i, subnet) in net.subnets().iter().enumerate() {
            batcher.run(i, 1, || {});
            let mut times: Vec<u64> = (0..n)
                .map(|_| {
                    let began = clock::now();
                    batcher.run(i, 1, || {});
                    clock::now() - began
                })
                .collect();
            let p50 = quantile(&mut times, 500);
            #[expect(clippy::cast_precision_loss, reason = "for display")]
            let macs = (subnet.macs * batch as u64) as f64;
            rows.push(FrameFigures {
                subnet: subnet.name.clone(),
                kernel: net.engine().name(kernel),
                n,
                frame_ms_p10: ms(quantile(&mut times, 100)),
                frame_ms_p50: ms(p50),
                frame_ms_p90: ms(quantile(&mut times, 900)),
                macs_per_ns: macs / ms(p50) / 1e6,
            });
        }
    }
    Ok(Figures { network: net.name().to_owned(), batch, frames: rows, switch: switch(net, switches)? })
}

/// Switches from each sub-network to another, any of them.
fn switch(net: &Supernet, switches: u32) -> std::io::Result<SwitchFigures> {
    let count = net.subnets().len();
    let mut state = State::new(net, Kernel::best())?;
    let image = noise(net.pixels());
    let mut timed = |subnet| {
        let began = clock::now();
        std::hint::black_box(net.infer(subnet, &image, &mut state));
        i64::try_from(clock::now() - began).unwrap_or(i64::MAX)
    };
    let mut follower = Follower::new(count, 0, 1, 0);
    let (mut ready, mut extra) = (Vec::new(), Vec::new());
    let (mut rng, mut now) = (fastrand::Rng::with_seed(1), 0);
    for n in 0..switches {
        now = if count > 1 { (now + 1 + rng.usize(..count - 1)) % count } else { 0 };
        let to = u32::try_from(now).unwrap_or(0);
        let decision = DecisionMsg {
            seq: u64::from(n) + 1,
            valid_until_ns: u64::MAX,
            subnet: to,
            threads: 1,
            ..DecisionMsg::default()
        };
        let began = clock::now();
        std::hint::black_box(follower.hear(std::hint::black_box(&decision)));
        let choice = std::hint::black_box(follower.choice(began));
        ready.push(clock::now() - began);
        let first = timed(choice.subnet);
        extra.push(first - timed(choice.subnet));
    }
    Ok(SwitchFigures {
        n: switches,
        switch_ns_p10: quantile(&mut ready, 100),
        switch_ns_p50: quantile(&mut ready, 500),
        switch_ns_p90: quantile(&mut ready, 900),
        switch_ns_p99: quantile(&mut ready, 990),
        first_image_extra_ns_p50: quantile(&mut extra, 500),
        first_image_extra_ns_p99: quantile(&mut extra, 990),
    })
}

/// What `measure` finds.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Accuracy {
    pub network: String,
    pub images: usize,
    pub subnets: Vec<SubnetAccuracy>,
}

/// One sub-network's accuracy.
#[derive(Debug, Serialize)]
pub struct SubnetAccuracy {
    /// Of the manifest.
    pub name: String,
    /// Multiply-accumulates of one image.
    pub macs: u64,
    /// Hundredths of a point, rounded.
    pub top1: u16,
}

/// Runs every sub-network over the first `count` labelled images.
pub fn measure(net: &Supernet, images: &Images, count: usize, kernel: Kernel) -> std::io::Result<Accuracy> {
    let mut state = State::new(net, kernel)?;
    let subnets = net.subnets().iter().enumerate().map(|(i, subnet)| {
        let right = (0..count as u64).filter(|n| {
            let (pixels, label) = images.get(*n);
            label.map(u16::from) == Some(net.infer(i, pixels, &mut state).class)
        });
        let top1 = (right.count() * 10_000 + count / 2) / count.max(1);
        SubnetAccuracy {
            name: subnet.name.clone(),
            macs: subnet.macs,
            top1: u16::try_from(top1).unwrap_or(10_000),
        }
    });
    Ok(Accuracy { network: net.name().to_owned(), images: count, subnets: subnets.collect() })
}
