//! A budget for heat: what all domains may draw so that the hottest zone stays at a limit. Nothing is known of the board's
//! cooling, so the budget is moved until it fits: an integral controller, quick to take away and slow to give back.

use policy_sdk::{Board, SignalSample};

/// The budget moves by this share of itself for each kelvin away from the limit, thousandths, each review.
const DOWN_PER_K: i64 = 30;
const UP_PER_K: i64 = 4;
/// At most by so much at once, thousandths.
const DOWN_MAX: i64 = 200;
const UP_MAX: i64 = 20;
/// A reading older than this says nothing.
const OLD_NS: u64 = 5_000_000_000;
/// The budget never falls below this share of what the board can draw.
const LEAST: u32 = 50;

/// See the module's text.
#[derive(Debug)]
pub struct Thermal {
    /// Positions of the signals.
    zones: Vec<usize>,
    limit_mc: i64,
    most_mw: u32,
    budget_mw: u32,
}

impl Thermal {
    /// To hold `limit_c`, C.
    ///
    /// # Errors
    /// The board has no thermal zone, or does not say what its domains draw at their top OPPs.
    pub fn new(board: &Board, limit_c: i64) -> Result<Self, String> {
        let is_zone = |(i, s): (usize, &policy_sdk::Signal)| {
            (s.name.starts_with("thermal/") && s.unit == "mC").then_some(i)
        };
        let zones: Vec<usize> = board.signals.iter().enumerate().filter_map(is_zone).collect();
        let top = |d: &policy_sdk::Domain| d.opps.last().and_then(|o| o.power_mw);
        let most_mw: Option<u32> = board.domains.iter().map(top).sum();
        match (zones.is_empty(), most_mw) {
            (true, _) => Err("parameter thermal-c: the board has no thermal zone".into()),
            (_, None | Some(0)) => {
                Err("parameter thermal-c: needs a board file that gives the power of every domain's top OPP"
                    .into())
            }
            (false, Some(most_mw)) => {
                Ok(Self { zones, limit_mc: limit_c * 1000, most_mw, budget_mw: most_mw })
            }
        }
    }

    /// The budget from here on, mW; without a fresh reading the one before.
    pub fn budget(&mut self, signals: &[SignalSample]) -> u32 {
        let fresh = |i: &usize| signals.get(*i).filter(|s| s.age_ns <= OLD_NS).and_then(|s| s.value);
        if let Some(hottest) = self.zones.iter().filter_map(fresh).max() {
            let room_mc = self.limit_mc.saturating_sub(hottest);
            let per_k = if room_mc < 0 { DOWN_PER_K } else { UP_PER_K };
            let step = (room_mc.saturating_mul(per_k) / 1000).clamp(-DOWN_MAX, UP_MAX);
            let moved = i64::from(self.budget_mw) * (1000 + step) / 1000;
            // A small budget, too, must be able to grow.
            let moved = if step > 0 { moved.max(i64::from(self.budget_mw) + 1) } else { moved };
            let least = (self.most_mw / LEAST).max(1);
            self.budget_mw = u32::try_from(moved).unwrap_or(self.most_mw).clamp(least, self.most_mw);
        }
        self.budget_mw
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_sdk::testing::BoardBuilder;

    fn board() -> Board {
        let mut board =
            BoardBuilder::new().khz("cpu", &[0], &[1_000_000, 2_000_000]).signal("thermal/soc", "mC").build();
        for (opp, mw) in board.domains[0].opps.iter_mut().zip([1000, 4000]) {
            opp.power_mw = Some(mw);
        }
        board
    }

    /// 12 K/W in air so warm, 8 s: temperatures, C, each quarter of a second, of a board that draws all it may.
    fn temperatures(thermal: &mut Thermal, air_c: f64, from_c: f64, seconds: u32) -> Vec<f64> {
        let mut celsius = from_c;
        let mut all = vec![];
        for _ in 0..seconds * 4 {
            #[expect(clippy::cast_possible_truncation, reason = "a temperature")]
            let reading = SignalSample { value: Some((celsius * 1000.0) as i64), age_ns: 0 };
            let mw = f64::from(thermal.budget(&[reading]));
            celsius += (air_c + 12.0 * mw / 1000.0 - celsius) * 0.25 / 8.0;
            all.push(celsius);
        }
        all
    }

    #[test]
    fn the_limit_is_held_and_given_back_when_the_air_cools() {
        let mut thermal = Thermal::new(&board(), 60).unwrap();
        // Unlimited it would come to 88 C.
        let hot = temperatures(&mut thermal, 40.0, 40.0, 200);
        let highest = hot.iter().copied().fold(0.0, f64::max);
        assert!(highest < 65.0, "{highest}: on the way up it goes over once");
        let settled = &hot[400..];
        assert!(settled.iter().all(|c| (c - 60.0).abs() < 1.5), "{settled:?}");
        let (budget, cold) = (thermal.budget_mw, temperatures(&mut thermal, 10.0, 60.0, 300));
        assert!(budget < 1900 && thermal.budget_mw == 4000, "{budget}, {}", thermal.budget_mw);
        assert!(cold.iter().all(|c| *c < 65.0), "58 C at the top");
    }

    #[test]
    fn an_old_or_missing_reading_moves_nothing() {
        let mut thermal = Thermal::new(&board(), 60).unwrap();
        let old = SignalSample { value: Some(99_000), age_ns: OLD_NS + 1 };
        assert_eq!((thermal.budget(&[old]), thermal.budget(&[])), (4000, 4000));
        assert!(thermal.budget(&[SignalSample { age_ns: 0, ..old }]) < 4000);
    }

    #[test]
    fn a_board_without_zone_or_powers_is_refused() {
        let mut cool = board();
        cool.signals.clear();
        let mut unknown = board();
        unknown.domains[0].opps[1].power_mw = None;
        let why = |b: &Board| Thermal::new(b, 60).unwrap_err();
        assert_eq!(why(&cool), "parameter thermal-c: the board has no thermal zone");
        assert!(why(&unknown).contains("power of every domain"), "{}", why(&unknown));
    }
}
