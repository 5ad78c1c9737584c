//! When an application's frames come: an open loop, as the runner's.

use super::scenario::Frames;
use crate::units::Nanos;
use rand_distr::{Distribution, Exp1, StandardNormal};
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::SeedableRng;

/// Random numbers of one use, the same for the same seed: who draws more elsewhere changes nothing here.
pub fn random(seed: u64, which: u64) -> Pcg64Mcg {
    // Any odd constant spreads neighbouring numbers; this is the golden ratio's.
    Pcg64Mcg::seed_from_u64(seed ^ (which + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A factor around 1 with that standard deviation, at least a tenth.
pub fn noisy(rng: &mut Pcg64Mcg, deviation: f64) -> f64 {
    if deviation == 0.0 {
        return 1.0;
    }
    let z: f64 = StandardNormal.sample(rng);
    (1.0 + deviation * z).max(0.1)
}

/// The arrivals to come.
#[derive(Debug)]
pub struct Stream {
    frames: Frames,
    rng: Pcg64Mcg,
    next: Option<Nanos>,
    count: u64,
    end: Nanos,
}

impl Stream {
    /// From the start until before `end`.
    pub fn new(frames: &Frames, end: Nanos, rng: Pcg64Mcg) -> Self {
        let mut stream = Self { frames: frames.clone(), rng, next: None, count: 0, end };
        stream.next = match frames {
            Frames::Periodic { phase, .. } => Some(*phase),
            Frames::Bursty { .. } => Some(Nanos(0)),
            Frames::Poisson { mean } => Some(stream.wait(*mean)),
            Frames::Recorded { times } => times.first().copied(),
        };
        stream
    }

    /// When the next one comes.
    pub fn next(&self) -> Option<Nanos> {
        self.next.filter(|at| *at < self.end)
    }

    /// It came.
    pub fn pop(&mut self) {
        self.count += 1;
        let Some(now) = self.next else { return };
        self.next = match &self.frames {
            // From the start, so that rounding does not add up.
            Frames::Periodic { period, phase } => Some(*phase + Nanos(period.0 * self.count)),
            Frames::Bursty { period, count } => Some(Nanos(period.0 * (self.count / u64::from(*count)))),
            Frames::Poisson { mean } => Some(now + self.wait(*mean)),
            Frames::Recorded { times } => {
                times.get(usize::try_from(self.count).unwrap_or(usize::MAX)).copied()
            }
        };
    }

    fn wait(&mut self, mean: Nanos) -> Nanos {
        let e: f64 = Exp1.sample(&mut self.rng);
        Nanos::from_secs(mean.as_secs() * e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(frames: &Frames, n: usize) -> Vec<f64> {
        let mut s = Stream::new(frames, Nanos(u64::MAX), random(1, 0));
        let mut all = vec![];
        while let Some(t) = s.next().filter(|_| all.len() < n) {
            all.push(t.as_ms());
            s.pop();
        }
        all
    }

    #[test]
    fn each_source_comes_at_its_times() {
        let ms = Nanos::from_ms;
        assert_eq!(times(&Frames::Periodic { period: ms(33), phase: ms(5) }, 3), [5.0, 38.0, 71.0]);
        assert_eq!(times(&Frames::Bursty { period: ms(100), count: 2 }, 5), [0.0, 0.0, 100.0, 100.0, 200.0]);
        assert_eq!(times(&Frames::Recorded { times: vec![ms(1), ms(4)] }, 9), [1.0, 4.0]);
    }

    #[test]
    fn poisson_arrivals_have_their_mean_and_the_seed_decides() {
        let poisson = Frames::Poisson { mean: Nanos::from_ms(10) };
        let all = times(&poisson, 10_000);
        let mean = all.last().unwrap() / 10_000.0;
        assert!((mean - 10.0).abs() < 0.4, "{mean}");
        assert_eq!(all, times(&poisson, 10_000));
    }
}
