//! The governor's step in a loop, by its own book.

use crate::{Row, median, row};
use std::time::{Duration, Instant};
use tandem_tests::rig::Rig;

/// Ticks per block; the figures are medians over blocks.
const BLOCK: u32 = 500;
const BLOCKS: u32 = 60;

/// Telemetry of this machine's CPUs and four applications, allocator and four tuners, envelope, publication.
pub fn tick() -> anyhow::Result<Vec<Row>> {
    let cpus = std::thread::available_parallelism()?;
    let hot = Duration::ZERO;
    let mut all = steps(4, &format!("tick, {cpus} CPUs, 4 applications"), hot, BLOCK, Some(10.0))?;
    all.extend(steps(1, &format!("tick, {cpus} CPUs, 1 application"), hot, BLOCK, None)?);
    // The caches' owner meanwhile is the machine, not this process: it only spins.
    for ms in [1, 10] {
        let name = format!("tick, {cpus} CPUs, 1 application, {ms} ms after the last");
        all.extend(steps(1, &name, Duration::from_millis(ms), BLOCK / 50, None)?);
    }
    Ok(all)
}

fn steps(apps: u16, name: &str, pause: Duration, block: u32, goal: Option<f64>) -> anyhow::Result<Vec<Row>> {
    let mut rig = Rig::new(apps)?;
    (0..BLOCK).for_each(|_| rig.tick());
    let mut parts: [Vec<f64>; 4] = Default::default();
    let mut totals = Vec::new();
    for _ in 0..BLOCKS {
        let before = rig.governor.steps();
        for _ in 0..block {
            let last = Instant::now();
            while last.elapsed() < pause {
                std::hint::spin_loop();
            }
            rig.tick();
        }
        let after = rig.governor.steps();
        let mut total = 0.0;
        for (i, part) in parts.iter_mut().enumerate() {
            let ns = u32::try_from(after.sums[i] - before.sums[i]).unwrap_or(u32::MAX);
            let us = f64::from(ns) / f64::from(block) / 1000.0;
            part.push(us);
            total += us;
        }
        totals.push(total);
    }
    rig.check()?;
    let mut rows = vec![Row { goal, ..median(name, &totals, "us") }];
    for (part, what) in parts.iter().zip(["sense", "decide (Wasm)", "admit", "act and publish"]) {
        rows.push(median(&format!("{name}: {what}"), part, "us"));
    }
    rows.push(row(&format!("{name}: ticks measured"), f64::from(block * BLOCKS), "ticks", 1).higher());
    Ok(rows)
}
