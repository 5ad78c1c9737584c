//! Temperature of a board, and the kernel's capping by it.
//!
//! One resistance and one capacity: `T' = (T_air + R P - T) / tau`, solved exactly while the power stands.
//! The cap is `step_wise`'s as we need it: at or above the trip point one step down per poll, below it less
//! the hysteresis one step up (`drivers/thermal/gov_step_wise.c`).

use crate::units::Nanos;

/// Between two looks while it is hot: `polling-delay-passive` of most boards.
pub const POLL: Nanos = Nanos::from_ms(100);
/// Below the trip point before a step up, C: usual in device trees.
pub const HYSTERESIS_C: f64 = 2.0;

/// The board's heat.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thermal {
    /// C
    pub celsius: f64,
    /// C
    pub ambient: f64,
    /// C/W
    pub per_watt: f64,
    /// s
    pub tau: f64,
    /// C
    pub trip: f64,
    /// Steps of capping in force.
    pub state: u16,
}

impl Thermal {
    /// That power for that long.
    pub fn advance(&mut self, milliwatts: f64, time: Nanos) {
        let rest = self.ambient + self.per_watt * milliwatts / 1000.0;
        self.celsius = rest + (self.celsius - rest) * (-time.as_secs() / self.tau).exp();
    }

    /// One poll; true if the capping changed. `steps`: as many as there are.
    pub fn poll(&mut self, steps: u16) -> bool {
        let before = self.state;
        if self.celsius >= self.trip {
            self.state = (self.state + 1).min(steps);
        } else if self.celsius < self.trip - HYSTERESIS_C {
            self.state = self.state.saturating_sub(1);
        }
        self.state != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hot() -> Thermal {
        Thermal { celsius: 25.0, ambient: 25.0, per_watt: 10.0, tau: 5.0, trip: 80.0, state: 0 }
    }

    #[test]
    fn it_comes_to_rest_at_air_plus_power_times_resistance() {
        let mut t = hot();
        // After tau, 1 - 1/e of 50 K: 31.606
        t.advance(5000.0, Nanos::from_ms(5000));
        assert!((t.celsius - 25.0 - 31.606).abs() < 0.001, "{}", t.celsius);
        t.advance(5000.0, Nanos::from_ms(500_000));
        assert!((t.celsius - 75.0).abs() < 1e-6);
    }

    #[test]
    fn steps_are_the_same_as_one() {
        let (mut many, mut one) = (hot(), hot());
        for _ in 0..1000 {
            many.advance(3000.0, Nanos::from_ms(7));
        }
        one.advance(3000.0, Nanos::from_ms(7000));
        assert!((many.celsius - one.celsius).abs() < 1e-9);
    }

    #[test]
    fn hot_is_capped_step_by_step_and_freed_below_the_hysteresis() {
        let mut t = hot();
        t.celsius = 81.0;
        assert!(t.poll(3) && t.poll(3) && t.poll(3));
        assert!(!t.poll(3), "no step below the last");
        t.celsius = 79.0;
        assert!(!t.poll(3), "within the hysteresis");
        t.celsius = 77.9;
        assert!(t.poll(3));
        assert_eq!(t.state, 2);
    }
}
