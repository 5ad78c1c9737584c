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

/// Numbers of one generation, kept up to date.
#[derive(Clone, Copy, Debug)]
struct Tally {
    generation: u32,
    count: usize,
    late: usize,
}

/// The ring.
#[derive(Debug)]
pub struct Window {
    ring: [Sample; KEPT],
    /// Which places of the ring are kept, by rising scale: `len` of them.
    by_scale: [u8; KEPT],
    next: usize,
    len: usize,
    tally: Tally,
    /// Median and 95th percentile of so many recent ones; forgotten when a sample comes or changes.
    spread: Option<(usize, (u64, u64))>,
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
        Self {
            ring: [NONE; KEPT],
            by_scale: [0; KEPT],
            next: 0,
            len: 0,
            tally: Tally { generation: 0, count: 0, late: 0 },
            spread: None,
        }
    }

    /// Adds one; the oldest falls out.
    pub fn push(&mut self, sample: Sample) {
        let place = self.next;
        if self.len == KEPT {
            let lost = self.ring[place];
            if lost.generation == self.tally.generation {
                self.tally.count -= 1;
                self.tally.late -= usize::from(lost.late);
            }
            if let Some(rank) = self.by_scale.iter().position(|p| usize::from(*p) == place) {
                self.by_scale.copy_within(rank + 1.., rank);
            }
            self.len -= 1;
        }
        let rank = self.by_scale[..self.len].partition_point(|p| self.at(*p).scale_ns <= sample.scale_ns);
        self.by_scale.copy_within(rank..self.len, rank + 1);
        self.by_scale[rank] = u8::try_from(place).unwrap_or(0);
        self.ring[place] = sample;
        self.next = (place + 1) % KEPT;
        self.len += 1;
        if sample.generation == self.tally.generation {
            self.tally.count += 1;
            self.tally.late += usize::from(sample.late);
        }
        self.spread = None;
        self.forget_if_changed();
    }

    fn at(&self, place: u8) -> &Sample {
        &self.ring[usize::from(place) % KEPT]
    }

    /// How many came after the sample at that place.
    fn age(&self, place: u8) -> usize {
        (self.next + KEPT - 1 - usize::from(place)) % KEPT
    }

    fn recount(&mut self, generation: u32) {
        let of_it = self.of(generation);
        let (count, late) = of_it.fold((0, 0), |(n, late), s| (n + 1, late + usize::from(s.late)));
        self.tally = Tally { generation, count, late };
    }

    /// Sorts anew.
    fn rearrange(&mut self) {
        for (back, place) in (1..=self.len).zip(&mut self.by_scale) {
            *place = u8::try_from((self.next + KEPT - back) % KEPT).unwrap_or(0);
        }
        let ring = &self.ring;
        self.by_scale[..self.len].sort_unstable_by_key(|p| ring[usize::from(*p) % KEPT].scale_ns);
        self.spread = None;
    }

    /// Newest first.
    fn newest(&self) -> impl Iterator<Item = &Sample> {
        (1..=self.len).map(|back| &self.ring[(self.next + KEPT - back) % KEPT])
    }

    /// How many are not too old.
    fn recent(&self, now_ns: u64) -> usize {
        let old = |back: usize| {
            let s = &self.ring[(self.next + KEPT - back) % KEPT];
            now_ns.saturating_sub(s.at_ns) > AGE_NS
        };
        if self.len <= ENOUGH || !old(self.len) {
            return self.len;
        }
        let (mut lo, mut hi) = (ENOUGH, self.len - 1);
        while lo < hi {
            let mid = (lo + hi).div_ceil(2);
            if old(mid) { hi = mid - 1 } else { lo = mid }
        }
        lo
    }

    /// Newest first, of this generation only.
    fn of(&self, generation: u32) -> impl Iterator<Item = &Sample> {
        self.newest().filter(move |s| s.generation == generation)
    }

    /// Keeps the numbers of this generation at hand for [`Window::count`] and [`Window::late`].
    pub fn watch(&mut self, generation: u32) {
        if self.tally.generation != generation {
            self.recount(generation);
        }
    }

    /// How many of the watched generation there are.
    pub fn count(&self) -> usize {
        self.tally.count
    }

    /// How many of them are late.
    pub fn late(&self) -> usize {
        self.tally.late
    }

    /// Of the newest `of` of the watched generation, how many are slow.
    pub fn slow(&self, of: usize) -> usize {
        self.of(self.tally.generation).take(of).filter(|s| s.slow).count()
    }

    /// The scale of rank `p` per cent among those of which so many came after: `ages`, which are `n`.
    fn percentile(&self, p: usize, n: usize, ages: std::ops::Range<usize>) -> Option<u64> {
        let rank = (n * p).div_ceil(100).checked_sub(1)?;
        let kept = &self.by_scale[..self.len];
        let scale = |place: &u8| self.at(*place).scale_ns;
        if n == self.len {
            return kept.get(rank).map(scale);
        }
        let counts = |place: &&u8| ages.contains(&self.age(**place));
        // From the nearer end.
        if rank < n / 2 {
            kept.iter().filter(counts).nth(rank).map(scale)
        } else {
            kept.iter().rev().filter(counts).nth(n - 1 - rank).map(scale)
        }
    }

    /// Forgets all but the newest when they show that conditions changed: [`WORSE`] in a row above
    /// nearly all before them, or [`BETTER`] in a row clearly below the median of those.
    fn forget_if_changed(&mut self) {
        let before = |n: usize, p: usize| {
            let count = self.len.checked_sub(n).filter(|count| *count >= WORSE)?;
            self.percentile(p, count, n..self.len)
        };
        let all = |n: usize, which: &dyn Fn(u64) -> bool| self.newest().take(n).all(|s| which(s.scale_ns));
        let worse =
            before(WORSE, 95).is_some_and(|p95| all(WORSE, &|scale| scale > p95.saturating_add(p95 / 8)));
        let better =
            || before(BETTER, 50).is_some_and(|median| all(BETTER, &|scale| scale < median - median / 5));
        let newest = if worse {
            WORSE
        } else if better() {
            BETTER
        } else {
            return;
        };
        self.len = newest;
        self.rearrange();
        self.recount(self.tally.generation);
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
    pub fn scale(&mut self, now_ns: u64) -> Option<(u64, u64)> {
        let recent = self.recent(now_ns);
        match self.spread {
            Some((of, spread)) if of == recent => Some(spread),
            _ => {
                let spread =
                    (self.percentile(50, recent, 0..recent)?, self.percentile(95, recent, 0..recent)?);
                self.spread = Some((recent, spread));
                Some(spread)
            }
        }
    }

    /// 95th percentile of the waits of this generation, and the share of its inferences, in
    /// thousandths, that waited longer than `longer_ns`. 0 without samples.
    pub fn waits(&self, now_ns: u64, generation: u32, longer_ns: u64) -> (u64, u64) {
        let of_it = |s: &&Sample| s.generation == generation && s.fair;
        let waits = self.newest().take(self.recent(now_ns)).filter(of_it).map(|s| s.wait_ns);
        let mut buffer = [0; KEPT];
        let sorted = sort_into(&mut buffer, waits);
        let waited = sorted.iter().filter(|w| **w > longer_ns).count() as u64;
        let share = waited * 1000 / (sorted.len() as u64).max(1);
        (percentile(sorted, 95).unwrap_or(0), share)
    }

    /// Median scale of this generation.
    pub fn median_of(&self, now_ns: u64, generation: u32) -> Option<u64> {
        let mut buffer = [0; KEPT];
        let of_it = self.newest().take(self.recent(now_ns)).filter(|s| s.generation == generation);
        percentile(sort_into(&mut buffer, of_it.map(|s| s.scale_ns)), 50)
    }

    /// Multiplies the scales of this generation: its conversion has been corrected.
    pub fn rescale(&mut self, generation: u32, mul: u64, div: u64) {
        for s in self.ring.iter_mut().filter(|s| s.generation == generation) {
            s.scale_ns = s.scale_ns.saturating_mul(mul) / div.max(1);
        }
        self.rearrange();
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

    fn count(w: &mut Window, generation: u32) -> usize {
        w.watch(generation);
        w.count()
    }

    /// What is kept up to date is what counting and sorting anew would give.
    #[test]
    fn numbers_kept_up_to_date_are_those_of_counting_anew() {
        let mut w = Window::new();
        let mut random = 1_u64;
        let mut below = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % n
        };
        let mut generation = 1;
        for tick in 0..20_000_u64 {
            let now_ns = tick * 60_000_000;
            // Conditions change now and then, and values repeat.
            let scale_ns = 100 + below(20) + 100 * (tick / 300 % 3);
            let (fair, late, slow) = (below(3) > 0, below(9) == 0, below(7) == 0);
            if below(4) > 0 {
                let generation = generation - u32::from(below(5) == 0);
                w.push(Sample { at_ns: now_ns, generation, scale_ns, wait_ns: below(50), fair, late, slow });
            }
            match below(200) {
                0 => w.rescale(generation, 3, 2),
                1 => w.drop_generation(generation),
                2 => generation += 1,
                _ => {}
            }
            w.watch(generation);
            let of_it: Vec<&Sample> = w.of(generation).collect();
            assert_eq!(w.count(), of_it.len());
            assert_eq!(w.late(), of_it.iter().filter(|s| s.late).count());
            let recent =
                w.newest().enumerate().take_while(|(i, s)| *i < ENOUGH || now_ns - s.at_ns <= AGE_NS);
            let mut buffer = [0; KEPT];
            let sorted = sort_into(&mut buffer, recent.map(|(_, s)| s.scale_ns));
            let expected = percentile(sorted, 50).zip(percentile(sorted, 95));
            assert_eq!(w.scale(now_ns), expected, "tick {tick}");
            for n in [WORSE, BETTER] {
                let sorted = sort_into(&mut buffer, w.newest().skip(n).map(|s| s.scale_ns));
                for p in [50, 95] {
                    assert_eq!(w.percentile(p, sorted.len(), n..w.len), percentile(sorted, p), "tick {tick}");
                }
            }
        }
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
        assert_eq!(w.recent(late), ENOUGH);
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
        assert_eq!((count(&mut w, 1), count(&mut w, 2), w.scale(0)), (0, 1, Some((500, 500))));
    }

    #[test]
    fn the_ring_forgets_the_oldest() {
        let mut w = Window::new();
        for i in 0..(KEPT as u64 * 2) {
            w.push(Sample { generation: u32::from(i >= KEPT as u64), ..sample(1000) });
        }
        assert_eq!((count(&mut w, 1), count(&mut w, 0)), (KEPT, 0));
    }
}
