//! The kernel's own governors over one simulated domain, at the kernel's cadence.
//!
//! Their arithmetic is in `policies/formulas`, shared with the Wasm allocators; here is when it is asked and
//! of what: schedutil at every change of the scheduler's load and at every scheduler tick, at most once per
//! rate limit; ondemand and conservative at the first such moment after a sampling period; devfreq's at a
//! poll. Follows Linux 6.12, `CONFIG_HZ=250`.

use super::run_queue::RunQueue;
use crate::units::Nanos;
use formulas::conservative;
use formulas::relation::Table;
use formulas::sampling::Sampler;
use formulas::{ondemand, schedutil, simple_ondemand};

/// `TICK_NSEC`
pub const TICK: Nanos = Nanos::from_ms(4);
/// `CPUFREQ_DBS_MIN_SAMPLING_INTERVAL`: two ticks.
const SAMPLING_MIN: Nanos = Nanos(2 * TICK.0);

/// Which governor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Which {
    /// On CPUs.
    Schedutil {
        /// The scheduler knows the clock (arm, arm64); else kernels from 6.8 on apply the margin twice.
        invariant: bool,
        /// `None`: 1.5 times the transition latency, 1 ms if that is not known
        /// (`cpufreq_policy_transition_delay_us`).
        rate_limit: Option<Nanos>,
    },
    /// On CPUs.
    Ondemand,
    /// On CPUs.
    Conservative,
    /// Anywhere.
    Performance,
    /// Anywhere.
    Powersave,
    /// One frequency, MHz; anywhere.
    Userspace {
        /// The lowest OPP at or above it.
        mhz: f64,
    },
    /// On devices.
    SimpleOndemand {
        /// Between two looks.
        poll: Nanos,
    },
}

/// One governor at work.
#[derive(Debug)]
pub struct Kernel {
    which: Which,
    freqs: Vec<u64>,
    /// A write to the clock, or a sample, was last made then.
    last: Nanos,
    every: Nanos,
    stepped: conservative::State,
    samplers: Vec<Sampler>,
    /// Nothing was set yet, or the limits changed: it looks at the next moment, whatever its rate.
    fresh: bool,
}

impl Kernel {
    /// Over a domain with these frequencies, so many CPUs (0: a device) and that transition latency.
    pub fn new(which: Which, freqs: &[u64], cpus: usize, transition: Nanos) -> Self {
        let delay =
            if transition.0 == 0 { Nanos::from_ms(1) } else { Nanos(transition.0 + transition.0 / 2) };
        let every = match which {
            Which::Schedutil { rate_limit, .. } => rate_limit.unwrap_or(delay),
            Which::Ondemand | Which::Conservative => Nanos(delay.0.max(SAMPLING_MIN.0)),
            Which::SimpleOndemand { poll } => poll,
            Which::Performance | Which::Powersave | Which::Userspace { .. } => Nanos(0),
        };
        Self {
            which,
            freqs: freqs.to_vec(),
            last: Nanos(0),
            every,
            stepped: conservative::State::default(),
            samplers: vec![Sampler::default(); cpus],
            fresh: true,
        }
    }

    /// What is wrong with this governor on CPUs or on a device, if anything.
    pub fn misfit(&self, of_cpus: bool) -> Option<&'static str> {
        match self.which {
            Which::Schedutil { .. } if !of_cpus => Some("schedutil governs CPUs, this is a device"),
            Which::Ondemand if !of_cpus => Some("ondemand governs CPUs, this is a device"),
            Which::Conservative if !of_cpus => Some("conservative governs CPUs, this is a device"),
            Which::SimpleOndemand { .. } if of_cpus => {
                Some("simple_ondemand governs devices, these are CPUs")
            }
            _ => None,
        }
    }

    /// Whether the run queues must keep PELT's averages, and whether those know the clock.
    pub fn pelt(&self) -> Option<bool> {
        match self.which {
            Which::Schedutil { invariant, .. } => Some(invariant),
            _ => None,
        }
    }

    /// The allowed range changed.
    pub fn limits(&mut self) {
        self.fresh = true;
    }

    /// When it looks by itself, whatever the load does: devfreq's poll.
    pub fn poll(&self) -> Option<Nanos> {
        matches!(self.which, Which::SimpleOndemand { .. }).then(|| self.last + self.every)
    }

    /// Whether a change of load or a tick at that time is a moment for it to look.
    pub fn due(&self, now: Nanos) -> bool {
        match self.which {
            Which::Performance | Which::Powersave | Which::Userspace { .. } => self.fresh,
            Which::SimpleOndemand { .. } => now >= self.last + self.every,
            _ => now >= self.last + self.every || self.fresh,
        }
    }

    /// Looks, and answers the OPP to set; `None` = leaves it.
    ///
    /// `cap`: the highest OPP allowed; `busy`: of a device, its busy and total time since the last look.
    pub fn look(
        &mut self,
        now: Nanos,
        current: usize,
        cap: u16,
        cpus: &mut [RunQueue],
        busy: [u64; 2],
    ) -> Option<u16> {
        let table = Table::new(&self.freqs, 0, cap)?;
        let current_freq = self.freqs[current];
        let since = now.since(self.last).0;
        self.fresh = false;
        match self.which {
            Which::Performance => Some(cap),
            Which::Powersave => Some(0),
            Which::Userspace { mhz } => {
                // The table is in the driver's unit; its top in MHz tells the scale.
                Some(table.at_least(scaled(mhz, self.freqs[self.freqs.len() - 1])))
            }
            Which::SimpleOndemand { .. } => {
                self.last = now;
                Some(simple_ondemand::next(busy[0], busy[1], current_freq, table))
            }
            Which::Schedutil { invariant, .. } => {
                let util = cpus.iter().map(RunQueue::utilisation).max().unwrap_or(0);
                let target = schedutil::target_since_6_8(util, invariant, current_freq, table.hardware_max());
                let next = table.at_least(target);
                // Only a change starts the rate limit anew (`sugov_update_next_freq`).
                if usize::from(next) == current {
                    return None;
                }
                self.last = now;
                Some(next)
            }
            Which::Ondemand | Which::Conservative => {
                self.last = now;
                let (load, idle_periods) = sample(&mut self.samplers, since, self.every, cpus);
                if self.which == Which::Ondemand {
                    return Some(ondemand::next(load, ondemand::UP_THRESHOLD, table));
                }
                let tunables = conservative::Tunables::default();
                self.stepped.next(load, idle_periods.unwrap_or(0), current_freq, &tunables, table)
            }
        }
    }
}

/// `dbs_update()` over all CPUs: the highest load, the fewest idle periods.
fn sample(
    samplers: &mut [Sampler],
    window_ns: u64,
    every: Nanos,
    cpus: &mut [RunQueue],
) -> (u8, Option<u64>) {
    let (mut load, mut idle_periods) = (0, None);
    for (sampler, cpu) in samplers.iter_mut().zip(cpus) {
        let sample = sampler.look(window_ns, cpu.take_idle(window_ns), every.0);
        load = load.max(sample.load);
        idle_periods = match (idle_periods, sample.idle_periods) {
            (Some(a), Some(b)) => Some(u64::min(a, b)),
            (a, b) => a.or(b),
        };
    }
    (load, idle_periods)
}

/// MHz in the unit of a table whose top is `top`: kHz, or Hz above 100 GHz in kHz.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn scaled(mhz: f64, top: u64) -> u64 {
    let unit = if top > 100_000_000 { 1e6 } else { 1e3 };
    (mhz * unit).round() as u64
}
