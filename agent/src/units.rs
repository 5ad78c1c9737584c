//! Units as types: a number that crosses a module carries its unit in its type.
//!
//! Indices are positions in the board's or the application's lists; they are resolved once, at load.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
    };
}

unit!(
    /// A point in time or a length of time, ns; points are `CLOCK_MONOTONIC`.
    Nanos(u64)
);
unit!(
    /// Power, mW.
    Milliwatts(u32)
);
unit!(
    /// Temperature, thousandths of a degree Celsius.
    MilliCelsius(i32)
);
unit!(
    /// Voltage, uV.
    Microvolts(u32)
);
unit!(
    /// Utilisation as the scheduler counts it: 0..=1024, 1024 = always busy.
    Util(u16)
);
unit!(
    /// Top-1 accuracy in hundredths of a percentage point: 8512 = 85.12 %.
    CentiPercent(u16)
);
unit!(
    /// Position of an OPP in its domain's list, which is by rising frequency.
    OppIndex(u16)
);
unit!(
    /// Position of a domain in the board's list.
    DomainId(u16)
);
unit!(
    /// Position of a sub-network in its application's list, which is by rising cost.
    SubnetIndex(u16)
);
unit!(
    /// Fixed slot of an application, 0..64: channel region, BPF counters and configuration share it.
    AppSlot(u16)
);

impl Nanos {
    /// From whole milliseconds.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms * 1_000_000)
    }
    /// As milliseconds, for people.
    #[expect(clippy::cast_precision_loss, reason = "for display")]
    pub fn as_ms(self) -> f64 {
        self.0 as f64 / 1e6
    }
    /// From seconds, rounded; what is negative or no number is 0.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    pub fn from_secs(s: f64) -> Self {
        Self((s * 1e9).round() as u64)
    }
    /// As seconds.
    #[expect(clippy::cast_precision_loss, reason = "exact below 104 days")]
    pub fn as_secs(self) -> f64 {
        self.0 as f64 / 1e9
    }
    /// The time since `earlier`, 0 if it lies ahead.
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add for Nanos {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        Self(self.0.saturating_add(o.0))
    }
}

impl Util {
    /// Always busy.
    pub const MAX: Self = Self(1024);
    /// `busy` of `window`, rounded, at most 1024. `None` for an empty window.
    pub fn from_busy(busy: Nanos, window: Nanos) -> Option<Self> {
        let util =
            (u128::from(busy.0) * 1024 + u128::from(window.0 / 2)).checked_div(u128::from(window.0))?;
        Some(Self(u16::try_from(util.min(1024)).expect("at most 1024")))
    }
}

/// What a raw frequency counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FreqUnit {
    /// cpufreq
    Khz,
    /// devfreq: need not be whole kHz
    Hz,
    /// CPU-bandwidth stand-in: thousandths of all the domain's CPUs' time
    Permille,
}

/// A frequency as its driver counts it: never converted, so that what is read back compares equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freq {
    /// The driver's number.
    pub raw: u64,
    /// Its unit.
    pub unit: FreqUnit,
}

impl fmt::Display for Freq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            FreqUnit::Khz => write!(f, "{} MHz", self.raw / 1000),
            FreqUnit::Hz => write!(f, "{} MHz", self.raw / 1_000_000),
            FreqUnit::Permille => write!(f, "{} %", self.raw / 10),
        }
    }
}

/// Where a value comes from. An absent value is `None`, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Read from hardware or counted by the kernel.
    Measured,
    /// Computed from a model (an OPP's power, say).
    Modelled,
}
