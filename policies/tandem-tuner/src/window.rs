//! The newest finished inferences, in a fixed ring, and the order statistics the tuner decides on.

/// Inferences kept.
pub const KEPT: usize = 64;
/// An inference older than this counts only while there are fewer than [`ENOUGH`] newer ones.
const AGE_NS: u64 = 4_000_000_000;
const ENOUGH: usize = 20;
/// So many in a row above nearly all others: conditions are worse.
const WORSE: usize = 3;
/// So many in a row clearly below the others: conditions are better.
const BETTER: usize = 8;

/// One finished inference.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// When it was seen.
    pub at_ns: u64,
    /// Which choice it ran under.
    pub generation: u32,
    /// Its service time, converted to the largest sub-network at the top OPP, ns.
    pub scale_ns: u64,
    /// Its wait before service, ns.
    pub wait_ns: u64,
    /// It arrived with no older backlog before it: its wait tells of this choice.
    pub fair: bool,
    /// It missed the target, fairly.
    pub late: bool,
    /// Its service alone missed the target: no backlog is to blame.
    pub slow: bool,
}

/// The ring.
#[derive(Debug)]
pub struct Window {
    ring: [Sample; KEPT],
    next: usize,
    len: usize,
}

impl Window {
    /// Nothing yet.
    pub const fn new() -> Self {
        const NONE: Sample = Sample {
            at_ns: 0,
            generation: 0,
            scale_ns: 0,
            wait_ns: 0,
            fair: false,
            late: false,
            slow: false,
        };
        Self { ring: [NONE; KEPT], next: 0, len: 0 }
    }

    /// Adds one; the oldest falls out.
    pub fn push(&mut self, sample: Sample) {
        self.ring[self.next] = sample;
        self.next = (self.next + 1) % KEPT;
        self.len = (self.len + 1).min(KEPT);
        self.forget_if_changed();
    }

    /// Newest first.
    fn newest(&self) -> impl Iterator<Item = &Sample> {
        (1..=self.len).map(|back| &self.ring[(self.next + KEPT - back) % KEPT])
    }

    /// Newest first, without what is too old.
    fn recent(&self, now_ns: u64) -> impl Iterator<Item = &Sample> {
        self.newest()
            .enumerate()
            .take_while(move |(i, s)| *i < ENOUGH || now_ns.saturating_sub(s.at_ns) <= AGE_NS)
            .map(|(_, s)| s)
    }

    /// Newest first, of this generation only.
    fn of(&self, generation: u32) -> impl Iterator<Item = &Sample> {
        self.newest().filter(move |s| s.generation == generation)
    }

    /// How many of this generation there are.
    pub fn count(&self, generation: u32) -> usize {
        self.of(generation).count()
    }

    /// Of the newest `of` of this generation, how many are as `which` says.
    pub fn among(&self, of: usize, generation: u32, which: impl Fn(&Sample) -> bool) -> usize {
        self.of(generation).take(of).filter(|s| which(s)).count()
    }

    /// Forgets all but the newest when they show that conditions changed: [`WORSE`] in a row above
    /// nearly all before them, or [`BETTER`] in a row clearly below the median of those.
    fn forget_if_changed(&mut self) {
        let mut buffer = [0; KEPT];
        for (n, worse) in [(WORSE, true), (BETTER, false)] {
            let before = sort_into(&mut buffer, self.newest().skip(n).map(|s| s.scale_ns));
            if before.len() < WORSE {
                continue;
            }
            let (median, p95) = (percentile(before, 50).unwrap_or(0), percentile(before, 95).unwrap_or(0));
            let changed = self.newest().take(n).all(|s| {
                if worse {
                    s.scale_ns > p95.saturating_add(p95 / 8)
                } else {
                    s.scale_ns < median - median / 5
                }
            });
            if changed {
                self.len = n;
                return;
            }
        }
    }

    /// Drops what ran under that generation.
    pub fn drop_generation(&mut self, generation: u32) {
        let before = std::mem::replace(self, Self::new());
        for back in (1..=before.len).rev() {
            let sample = before.ring[(before.next + KEPT - back) % KEPT];
            if sample.generation != generation {
                self.push(sample);
            }
        }
    }

    /// Median and 95th percentile of the scale. `None` without samples.
    pub fn scale(&self, now_ns: u64) -> Option<(u64, u64)> {
        let mut buffer = [0; KEPT];
        let sorted = sort_into(&mut buffer, self.recent(now_ns).map(|s| s.scale_ns));
        Some((percentile(sorted, 50)?, percentile(sorted, 95)?))
    }

    /// 95th percentile of the waits of this generation, and the share of its inferences, in
    /// thousandths, that waited longer than `longer_ns`. 0 without samples.
    pub fn waits(&self, now_ns: u64, generation: u32, longer_ns: u64) -> (u64, u64) {
        let mut buffer = [0; KEPT];
        let waits = self.recent(now_ns).filter(|s| s.generation == generation && s.fair).map(|s| s.wait_ns);
        let sorted = sort_into(&mut buffer, waits);
        let waited = sorted.iter().filter(|w| **w > longer_ns).count() as u64;
        let share = waited * 1000 / (sorted.len() as u64).max(1);
        (percentile(sorted, 95).unwrap_or(0), share)
    }

    /// Median scale of this generation.
    pub fn median_of(&self, now_ns: u64, generation: u32) -> Option<u64> {
        let mut buffer = [0; KEPT];
        let of_it = self.recent(now_ns).filter(|s| s.generation == generation);
        percentile(sort_into(&mut buffer, of_it.map(|s| s.scale_ns)), 50)
    }

    /// Multiplies the scales of this generation: its conversion has been corrected.
    pub fn rescale(&mut self, generation: u32, mul: u64, div: u64) {
        for s in self.ring.iter_mut().filter(|s| s.generation == generation) {
            s.scale_ns = s.scale_ns.saturating_mul(mul) / div.max(1);
        }
    }
}

fn sort_into(buffer: &mut [u64; KEPT], values: impl Iterator<Item = u64>) -> &[u64] {
    let mut n = 0;
    for (slot, value) in buffer.iter_mut().zip(values) {
        *slot = value;
        n += 1;
    }
    let used = &mut buffer[..n];
    used.sort_unstable();
    used
}

/// The smallest value that at least `p` per cent do not exceed.
fn percentile(sorted: &[u64], p: usize) -> Option<u64> {
    let rank = (sorted.len() * p).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(scale_ns: u64) -> Sample {
        Sample { scale_ns, ..Sample::default() }
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let twenty: Vec<u64> = (1..=20).collect();
        assert_eq!(percentile(&twenty, 95), Some(19)); // 0.95 * 20 = 19
        assert_eq!(percentile(&twenty, 50), Some(10));
        assert_eq!(percentile(&[7], 95), Some(7));
        assert_eq!(percentile(&[], 95), None);
    }

    #[test]
    fn one_outlier_of_twenty_does_not_move_the_95th_percentile() {
        let mut w = Window::new();
        for _ in 0..19 {
            w.push(sample(10));
        }
        w.push(sample(1000));
        assert_eq!(w.scale(0), Some((10, 10)));
        w.push(sample(1000));
        assert_eq!(w.scale(0), Some((10, 1000))); // 0.95 * 21 = 19.95: rank 20
    }

    #[test]
    fn what_is_old_counts_only_while_there_is_little_else() {
        let mut w = Window::new();
        for _ in 0..30 {
            w.push(sample(10));
        }
        let late = AGE_NS + 1;
        assert_eq!(w.recent(late).count(), ENOUGH);
        for _ in 0..ENOUGH {
            w.push(Sample { at_ns: late, ..sample(9) });
        }
        assert_eq!(w.scale(late), Some((9, 9)));
    }

    #[test]
    fn three_worse_or_eight_better_in_a_row_are_a_change() {
        let mut w = Window::new();
        for _ in 0..40 {
            w.push(sample(1000));
        }
        w.push(sample(2000));
        w.push(sample(2000));
        assert_eq!(w.scale(0), Some((1000, 1000)));
        w.push(sample(2000));
        assert_eq!(w.scale(0), Some((2000, 2000)));
        for _ in 0..7 {
            w.push(sample(1000));
        }
        assert_eq!(w.scale(0).unwrap().1, 2000);
        for _ in 0..20 {
            w.push(sample(1000));
        }
        assert_eq!(w.scale(0), Some((1000, 1000)));
    }

    #[test]
    fn one_generation_is_rescaled_or_dropped_without_the_others() {
        let mut w = Window::new();
        for generation in [1, 1, 1, 2] {
            w.push(Sample { generation, ..sample(1000) });
        }
        w.rescale(2, 1000, 2000);
        assert_eq!((w.median_of(0, 1), w.median_of(0, 2)), (Some(1000), Some(500)));
        w.drop_generation(1);
        assert_eq!((w.count(1), w.count(2), w.scale(0)), (0, 1, Some((500, 500))));
    }

    #[test]
    fn the_ring_forgets_the_oldest() {
        let mut w = Window::new();
        for i in 0..(KEPT as u64 * 2) {
            w.push(Sample { generation: u32::from(i >= KEPT as u64), ..sample(1000) });
        }
        assert_eq!((w.count(1), w.count(0)), (KEPT, 0));
    }
}
