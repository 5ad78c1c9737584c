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

/// The times at which frames arrive, ns since its start; endless, unless they were recorded.
#[derive(Clone, Debug)]
pub struct Schedule(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Rate { arrivals: Arrivals, rate: f64, rng: fastrand::Rng, count: u64, at: f64 },
    Recorded(std::vec::IntoIter<u64>),
}

/// A file of arrival times that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}: {text:?}: {rule}")]
pub struct BadSchedule {
    file: String,
    line: usize,
    text: String,
    rule: &'static str,
}

impl Schedule {
    /// `rate` frames a second, above 0.
    pub fn new(arrivals: Arrivals, rate: f64, seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Self(Kind::Rate { arrivals, rate, rng, count: 0, at: 0.0 })
    }

    /// Recorded arrivals: a time in seconds a line, never falling; `#` begins a remark.
    ///
    /// # Errors
    /// The first line that is no such time.
    pub fn recorded(file: &str, text: &str) -> Result<Self, BadSchedule> {
        let mut times = Vec::new();
        let lines = (1..).zip(text.lines()).filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'));
        for (line, text) in lines {
            let bad = |rule| BadSchedule { file: file.into(), line, text: text.into(), rule };
            let seconds: f64 = text.trim().parse().map_err(|_| bad("not a number of seconds"))?;
            if !(0.0..=1e6).contains(&seconds) {
                return Err(bad("a time is between 0 and 1000000 s"));
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 1e15")]
            let at = (seconds * 1e9).round() as u64;
            if times.last().is_some_and(|last| at < *last) {
                return Err(bad("earlier than the line before; times never fall"));
            }
            times.push(at);
        }
        Ok(Self(Kind::Recorded(times.into_iter())))
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
        match &mut self.0 {
            Kind::Recorded(times) => times.next(),
            Kind::Rate { arrivals, rate, rng, count, at } => {
                *at = match arrivals {
                    // From the count, not from the last time: rounding does not add up.
                    Arrivals::Periodic => *count as f64 * 1e9 / *rate,
                    Arrivals::Poisson => *at - (1.0 - rng.f64()).ln() * 1e9 / *rate,
                };
                *count += 1;
                Some(*at as u64)
            }
        }
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
    fn recorded_arrivals_come_as_written_and_a_bad_line_is_told() {
        let text = "# a camera\n0\n0.0333\n\n0.0333\n1.5\n";
        let times: Vec<u64> = Schedule::recorded("a.txt", text).unwrap().collect();
        assert_eq!(times, [0, 33_300_000, 33_300_000, 1_500_000_000]);
        for (text, error) in [
            ("0\nx\n", "a.txt:2: \"x\": not a number of seconds"),
            ("0\n\n-1\n", "a.txt:3: \"-1\": a time is between 0 and 1000000 s"),
            ("NaN\n", "a.txt:1: \"NaN\": a time is between 0 and 1000000 s"),
            ("2\n1\n", "a.txt:2: \"1\": earlier than the line before; times never fall"),
        ] {
            assert_eq!(Schedule::recorded("a.txt", text).unwrap_err().to_string(), error);
        }
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
