//! Who runs where, and how fast: the scheduler of a simulated domain.
//!
//! Runnable threads are spread over the CPUs they may use, the least loaded first; the threads of one CPU
//! share it by weight, as fluid. Real ones take turns of milliseconds; over a frame that is the same.

/// A runnable thread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thread {
    /// CPUs of the domain it may use, a bit each.
    pub allowed: u64,
    /// Against others.
    pub weight: f64,
    /// The CPU it was on: it stays there if that is as good as any.
    pub last: usize,
}

/// Where a thread runs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    /// CPU of the domain.
    pub cpu: usize,
    /// Its share of it, 0 to 1.
    pub share: f64,
}

/// The most CPUs of a domain.
pub const CPUS: usize = 64;

/// Places all threads on so many CPUs. `places` is refilled.
pub fn spread(threads: &[Thread], cpus: usize, places: &mut Vec<Place>) {
    places.clear();
    places.resize(threads.len(), Place::default());
    let mut load = [0.0_f64; CPUS];
    let full = if cpus >= CPUS { u64::MAX } else { (1 << cpus) - 1 };
    // Those with little choice first; then the heavy ones. Ties by position, so that a run repeats.
    for choice in 1..=cpus {
        for (i, thread) in threads.iter().enumerate() {
            let allowed = match thread.allowed & full {
                // Pinned to CPUs that this domain has not: anywhere.
                0 => full,
                some => some,
            };
            if allowed.count_ones() as usize != choice {
                continue;
            }
            let free = (0..cpus).filter(|c| allowed >> c & 1 == 1);
            let better = |a: &usize, b: &usize| {
                load[*a].total_cmp(&load[*b]).then((*a != thread.last).cmp(&(*b != thread.last)))
            };
            let cpu = free.min_by(better).unwrap_or(0);
            load[cpu] += thread.weight;
            places[i].cpu = cpu;
        }
    }
    for (place, thread) in places.iter_mut().zip(threads) {
        place.share = thread.weight / load[place.cpu];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: u64 = u64::MAX;

    fn shares(threads: &[(u64, f64)], cpus: usize) -> Vec<(usize, f64)> {
        let threads: Vec<_> =
            threads.iter().map(|&(allowed, weight)| Thread { allowed, weight, last: 0 }).collect();
        let mut places = vec![];
        spread(&threads, cpus, &mut places);
        places.iter().map(|p| (p.cpu, p.share)).collect()
    }

    #[test]
    fn threads_get_a_cpu_each_while_there_are_enough() {
        assert_eq!(shares(&[(ANY, 1024.0), (ANY, 1024.0)], 2), [(0, 1.0), (1, 1.0)]);
    }

    #[test]
    fn a_thread_stays_where_it_was() {
        let mut places = vec![];
        spread(&[Thread { allowed: ANY, weight: 1.0, last: 1 }], 2, &mut places);
        assert_eq!(places[0].cpu, 1);
    }

    #[test]
    fn one_cpu_is_shared_by_weight() {
        assert_eq!(shares(&[(ANY, 4096.0), (ANY, 1024.0)], 1), [(0, 0.8), (0, 0.2)]);
    }

    #[test]
    fn who_is_pinned_stays_and_the_others_give_way() {
        // A co-runner on CPU 0: the free thread goes to CPU 1, though it is named first.
        assert_eq!(shares(&[(ANY, 1024.0), (1, 1024.0)], 2), [(1, 1.0), (0, 1.0)]);
        // One on each CPU: half remains.
        assert_eq!(shares(&[(ANY, 1024.0), (1, 1024.0), (2, 1024.0)], 2)[0], (0, 0.5));
        // Pinned to a CPU that is not there.
        assert_eq!(shares(&[(1 << 9, 1.0)], 2), [(0, 1.0)]);
    }
}
