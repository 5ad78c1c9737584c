//! When frames arrive, and the bounded queue they wait in.
//!
//! Responsible for: a schedule that depends on rate and seed alone, not on how fast frames are served
//! (an open loop: a slow server does not slow its load down), and for who is dropped when the queue is
//! full. Not responsible for: what a frame shows ([`crate::data`]).

use std::collections::VecDeque;

/// How arrivals are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// One each 1 / rate.
    Periodic,
    /// Independent of each other: gaps are exponentially distributed.
    Poisson,
}

/// The times at which frames arrive, ns since its start; endless.
#[derive(Clone, Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    rate: f64,
    rng: fastrand::Rng,
    count: u64,
    at: f64,
}

impl Schedule {
    /// `rate` frames a second, above 0.
    pub fn new(arrivals: Arrivals, rate: f64, seed: u64) -> Self {
        Self { arrivals, rate, rng: fastrand::Rng::with_seed(seed), count: 0, at: 0.0 }
    }
}

impl Iterator for Schedule {
    type Item = u64;
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "times stay far below 2^53 ns (104 days) and are never negative"
    )]
    fn next(&mut self) -> Option<u64> {
        self.at = match self.arrivals {
            // From the count, not from the last time: rounding does not add up.
            Arrivals::Periodic => self.count as f64 * 1e9 / self.rate,
            Arrivals::Poisson => self.at - (1.0 - self.rng.f64()).ln() * 1e9 / self.rate,
        };
        self.count += 1;
        Some(self.at as u64)
    }
}

/// Who goes when the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Victim {
    /// Whoever has waited longest: for streams, where the newest image matters most.
    Oldest,
    /// Whoever comes.
    Newest,
}

/// A queue with a bound.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: VecDeque<T>,
    bound: usize,
    drop: Victim,
}

impl<T> Queue<T> {
    /// At most `bound` wait, at least 1.
    pub fn new(bound: usize, drop: Victim) -> Self {
        Self { waiting: VecDeque::with_capacity(bound), bound: bound.max(1), drop }
    }

    /// Adds an item; returns the one that was dropped for it, if any.
    pub fn push(&mut self, item: T) -> Option<T> {
        if self.waiting.len() < self.bound {
            self.waiting.push_back(item);
            return None;
        }
        match self.drop {
            Victim::Newest => Some(item),
            Victim::Oldest => {
                let oldest = self.waiting.pop_front();
                self.waiting.push_back(item);
                oldest
            }
        }
    }

    /// Takes the one that has waited longest.
    pub fn pop(&mut self) -> Option<T> {
        self.waiting.pop_front()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periodic_arrivals_do_not_drift() {
        // 30 a second: the millionth comes after 33,333.3 s, whatever a rounded period would add up to.
        let at = Schedule::new(Arrivals::Periodic, 30.0, 0).nth(1_000_000).unwrap();
        assert_eq!(at, 33_333_333_333_333);
        assert_eq!(Schedule::new(Arrivals::Periodic, 30.0, 0).next(), Some(0));
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let times: Vec<u64> = Schedule::new(Arrivals::Poisson, 40.0, 7).take(20_000).collect();
        let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]) as f64 / 1e6).collect();
        let n = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / n;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / n;
        // Mean 25 ms, standard deviation the same; three standard errors of each (25 / sqrt(n), and
        // 25 / sqrt(n) times sqrt(2) for the deviation of an exponential).
        assert!((mean - 25.0).abs() < 3.0 * 25.0 / n.sqrt(), "mean {mean}");
        assert!(
            (variance.sqrt() - 25.0).abs() < 3.0 * 1.42 * 25.0 / n.sqrt(),
            "deviation {}",
            variance.sqrt()
        );
        // Memoryless: of the gaps, exp(-1) are longer than the mean.
        let longer = gaps.iter().filter(|g| **g > 25.0).count() as f64 / n;
        assert!((longer - (-1.0f64).exp()).abs() < 0.011, "{longer}");
    }

    #[test]
    fn a_seed_fixes_the_arrivals() {
        let take = |seed| Schedule::new(Arrivals::Poisson, 40.0, seed).take(50).collect::<Vec<_>>();
        assert_eq!(take(3), take(3));
        assert_ne!(take(3), take(4));
    }

    #[test]
    fn a_full_queue_drops_as_it_was_told() {
        let mut q = Queue::new(2, Victim::Oldest);
        assert_eq!([q.push(1), q.push(2), q.push(3)], [None, None, Some(1)]);
        assert_eq!([q.pop(), q.pop(), q.pop()], [Some(2), Some(3), None]);
        let mut q = Queue::new(2, Victim::Newest);
        assert_eq!([q.push(1), q.push(2), q.push(3)], [None, None, Some(3)]);
        assert_eq!([q.pop(), q.pop()], [Some(1), Some(2)]);
    }
}
