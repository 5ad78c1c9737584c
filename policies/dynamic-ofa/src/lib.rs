//! Tuner `dynamic-ofa`: the rule of Dynamic-OFA's run-time demo (Lou et al., CVPRW 2021, arXiv 2105.03596; `runtime_demo/
//! runtime_adjustment/{run.sh,test2.py,imagenet_eval_helper.py}` of its repository), for comparison. It moves the sub-network only; the
//! clock is whoever's it is.
//!
//! **The rule.** It begins one below the largest. At each level inferences are counted from 0. Times of those after the 20th are
//! kept, outliers left out; when the sum of the newest 20, divided by 20, exceeds the latency constraint the level is *too slow*: one
//! down. When the level's accuracy is below the floor and more than 20 inferences came after the 50th, it wants to *recover*: one up.
//! Each change begins the count anew. Too slow is asked first.
//!
//! **Memory.** The demo remembers the level it climbed from (`level_list`), and when the level above it is too slow goes back to it
//! and notes that. What should follow, no further climb, is commented out there: as shipped it climbs and falls for as long as the
//! floor cannot be held. So here; `hold = true` does what that line would: it stays until the target changes.
//!
//! **Adapted.** (1) Constraint and floor come from the grant's target; the demo has one of each per run (60 ms, 76 %). A new target is
//! a new run at the present level. (2) An outlier is what lasts 90 ms or longer there, 1.5 constraints: `outlier-percent` = 150. So an
//! inference that takes longer than that is never *too slow*, here as there. (3) The demo runs one inference after the other, nothing
//! waits: its time is ours from start to finish, without the queue. (4) Below the smallest or above the largest the demo ends; this
//! one stays. (5) It restarts its program for each switch, which takes 5 to 6 s; ours do not. (6) Of more than 32 inferences in one
//! tick only those that the agent lists are seen.
//!
//! Parameters: `threads` (1), `outlier-percent` of the constraint (150), `hold` (false).

use policy_sdk::{App, Board, Choice, Params, Slo, Tuner, View, log};
use std::collections::VecDeque;

/// Inferences whose mean is compared with the constraint.
const WINDOW: usize = 20;
/// The first so many inferences of a level (0 to 20) are not kept: `i > 20`.
const WARM_UP: u32 = 21;
/// From the 52nd on (`i > 50`) an inference counts towards recovering ...
const RECOVER_AFTER: u32 = 51;
/// ... and more than so many are wanted.
const RECOVER_MORE_THAN: u32 = 20;

/// See the crate's text.
#[derive(Debug)]
pub struct DynamicOfa {
    top1: Vec<u16>,
    level: u16,
    /// The level it last climbed from.
    climbed_from: Option<u16>,
    /// The level that was too slow right after a climb to it.
    failed: Option<u16>,
    /// Inferences at this level.
    count: u32,
    /// Of them, the newest that are kept, ns.
    kept: VecDeque<u64>,
    target: Slo,
    threads: u8,
    outlier_percent: u64,
    hold: bool,
}

impl Tuner for DynamicOfa {
    fn start(_: &Board, app: &App, params: &mut Params) -> Result<Self, String> {
        let last = app.subnets.len().checked_sub(1).ok_or("application without a sub-network")?;
        let level =
            u16::try_from(last.saturating_sub(1)).map_err(|_| "more sub-networks than an index can name")?;
        Ok(Self {
            top1: app.subnets.iter().map(|s| s.top1).collect(),
            level,
            climbed_from: None,
            failed: None,
            count: 0,
            kept: VecDeque::with_capacity(WINDOW),
            target: app.target,
            threads: params.number("threads", 1..=app.threads_max.max(1), 1)?,
            outlier_percent: params.number("outlier-percent", 101..=10_000, 150)?,
            hold: params.get("hold", "true or false", false)?,
        })
    }

    fn decide(&mut self, seen: &View) -> Choice {
        if seen.grant.target != self.target {
            self.target = seen.grant.target;
            (self.climbed_from, self.failed) = (None, None);
            self.begin(self.level);
        }
        // Those that began before the last switch say nothing of this level.
        for done in &seen.app.finished {
            if done.subnet == self.level {
                self.inference(done.service_ns);
            }
        }
        Choice { subnet: self.level, threads: self.threads, ask: None, ..Choice::default() }
    }
}

impl DynamicOfa {
    fn inference(&mut self, time_ns: u64) {
        self.count = self.count.saturating_add(1);
        if self.count > WARM_UP && self.too_slow(time_ns) {
            self.fall();
        } else if self.below_floor() && self.count > RECOVER_AFTER + RECOVER_MORE_THAN {
            self.climb();
        }
    }

    fn too_slow(&mut self, time_ns: u64) -> bool {
        let Some(constraint) = self.target.latency_ns else { return false };
        let outlier = u128::from(constraint) * u128::from(self.outlier_percent) / 100;
        if u128::from(time_ns) >= outlier {
            return false;
        }
        if self.kept.len() == WINDOW {
            self.kept.pop_front();
        }
        self.kept.push_back(time_ns);
        // Fewer than 20 are divided by 20 too: a level is judged before it has them only by times well above.
        let sum: u128 = self.kept.iter().map(|t| u128::from(*t)).sum();
        sum > u128::from(constraint) * WINDOW as u128
    }

    fn below_floor(&self) -> bool {
        let top1 = self.top1.get(usize::from(self.level)).copied();
        self.target.top1.zip(top1).is_some_and(|(floor, top1)| top1 < floor)
    }

    fn fall(&mut self) {
        let Some(down) = self.level.checked_sub(1) else { return self.begin(self.level) };
        log::info(&format!("level {} is too slow: {down}", self.level));
        if self.climbed_from == Some(down) {
            self.failed = Some(self.level);
        }
        self.begin(down);
    }

    fn climb(&mut self) {
        let up = self.level.saturating_add(1);
        if usize::from(up) >= self.top1.len() || (self.hold && self.failed == Some(up)) {
            return;
        }
        log::info(&format!("level {} is below the accuracy floor: {up}", self.level));
        self.climbed_from = Some(self.level);
        self.begin(up);
    }

    fn begin(&mut self, level: u16) {
        self.level = level;
        self.count = 0;
        self.kept.clear();
    }
}

policy_sdk::export_tuner!(DynamicOfa);

#[cfg(test)]
mod tests {
    use super::*;
    use policy_sdk::testing::{BoardBuilder, MS, ViewBuilder, app, params, slo};

    /// nets_6: what the demo has, with its constraint of 60 ms and floor of 76 %.
    fn ofa() -> App {
        let top1 = [7420, 7497, 7613, 7754, 7835, 7903];
        let subnets: Vec<_> = top1.iter().map(|t| ("level", *t, u64::from(*t))).collect();
        App { target: slo(Some(60), Some(7600)), ..app("cam", &subnets) }
    }

    struct Run {
        board: Board,
        app: App,
        tuner: DynamicOfa,
        level: u16,
    }

    impl Run {
        fn new(app: App, given: &[(&str, &str)]) -> Self {
            let board = BoardBuilder::new().hz("gpu", &[1]).build();
            let mut tuner: DynamicOfa = policy_sdk::start_tuner(&board, &app, params(given)).unwrap();
            let level = tuner.decide(&ViewBuilder::new(&board, &app).build()).subnet;
            Self { board, app, tuner, level }
        }
        /// So many inferences, each of `ms(level)`; the levels gone through.
        fn run(&mut self, count: u32, ms: impl Fn(u16) -> u64) -> Vec<u16> {
            let mut levels = vec![self.level];
            for _ in 0..count {
                let time = ms(self.level) * MS;
                let seen = ViewBuilder::new(&self.board, &self.app).finished(self.level, 9 * time, time);
                let choice = self.tuner.decide(&seen.build());
                assert_eq!((choice.threads, choice.ask), (1, None), "it has no clock to turn");
                self.level = choice.subnet;
                if levels.last() != Some(&self.level) {
                    levels.push(self.level);
                }
            }
            levels
        }
    }

    #[test]
    fn it_begins_one_below_the_largest() {
        assert_eq!(Run::new(ofa(), &[]).level, 4);
        assert_eq!(Run::new(app("one", &[("only", 1, 1)]), &[]).level, 0);
    }

    #[test]
    fn a_level_is_judged_by_the_twenty_after_the_first_twenty_one() {
        let mut run = Run::new(ofa(), &[]);
        assert_eq!(run.run(40, |_| 61), [4]);
        assert_eq!(run.run(1, |_| 61), [4, 3]);
        // Divided by 20 from the first on: 18 of 70 ms are enough.
        assert_eq!(Run::new(ofa(), &[]).run(39, |_| 70), [4, 3]);
        // Exactly the constraint is not above it.
        assert_eq!(run.run(500, |_| 60), [3]);
    }

    #[test]
    fn outliers_count_neither_for_nor_against() {
        // 90 ms is 1.5 constraints: never too slow, however often.
        assert_eq!(Run::new(ofa(), &[]).run(500, |_| 90), [4]);
        assert_eq!(Run::new(ofa(), &[]).run(41, |_| 89), [4, 3]);
        assert_eq!(Run::new(ofa(), &[("outlier-percent", "200")]).run(41, |_| 90), [4, 3]);
    }

    #[test]
    fn latency_comes_before_the_floor() {
        // Level 2 is the lowest with 76 %; it goes on to 1, below the floor, if that is what is in time.
        let mut run = Run::new(ofa(), &[]);
        assert_eq!(run.run(41 * 3, |l| if l > 1 { 61 } else { 50 }), [4, 3, 2, 1]);
    }

    #[test]
    fn below_the_floor_it_climbs_after_seventy_two_inferences() {
        let mut run = Run::new(ofa(), &[]);
        run.run(41 * 3, |l| if l > 1 { 61 } else { 50 });
        assert_eq!((run.level, run.run(71, |_| 50)), (1, vec![1]));
        assert_eq!(run.run(1, |_| 50), [1, 2]);
        // At the floor it stays.
        assert_eq!(run.run(500, |_| 50), [2]);
    }

    #[test]
    fn as_shipped_it_climbs_and_falls_for_ever_and_with_hold_once() {
        let slow_from_two = |l: u16| if l > 1 { 61 } else { 50 };
        let levels =
            |given: &[(&str, &str)]| Run::new(ofa(), given).run(41 * 3 + 10 * (72 + 41), slow_from_two);
        assert_eq!(levels(&[]).len(), 4 + 2 * 10);
        assert_eq!(levels(&[("hold", "true")]), [4, 3, 2, 1, 2, 1]);
    }

    #[test]
    fn a_new_target_is_a_new_run() {
        let mut run = Run::new(ofa(), &[("hold", "true")]);
        run.run(41 * 3 + 300, |l| if l > 1 { 61 } else { 50 });
        assert_eq!(run.level, 1);
        run.app.target = slo(Some(80), Some(7600));
        assert_eq!(run.run(72, |l| if l > 1 { 61 } else { 50 }), [1, 2]);
    }

    #[test]
    fn it_stays_at_the_ends_and_without_a_target() {
        assert_eq!(Run::new(ofa(), &[]).run(1000, |_| 61), [4, 3, 2, 1, 0]);
        let high = App { target: slo(Some(60), Some(7900)), ..ofa() };
        assert_eq!(Run::new(high.clone(), &[]).run(1000, |_| 1), [4, 5]);
        let none = App { target: slo(None, None), ..high };
        assert_eq!(Run::new(none, &[]).run(1000, |_| 1000), [4]);
    }

    #[test]
    fn an_inference_of_the_level_before_says_nothing() {
        let mut run = Run::new(ofa(), &[]);
        run.run(41, |_| 61);
        let old = |l: u16| ViewBuilder::new(&run.board, &run.app).finished(l, 61 * MS, 61 * MS).build();
        for _ in 0..100 {
            assert_eq!(run.tuner.decide(&old(4)).subnet, 3);
        }
    }

    #[test]
    fn constants_out_of_range_are_refused() {
        let board = BoardBuilder::new().hz("gpu", &[1]).build();
        let refused =
            |given| policy_sdk::start_tuner::<DynamicOfa>(&board, &ofa(), params(given)).unwrap_err();
        assert_eq!(
            refused(&[("outlier-percent", "100")]),
            "parameter outlier-percent = \"100\": must be a whole number from 101 to 10000"
        );
        assert_eq!(refused(&[("hold", "yes")]), "parameter hold = \"yes\": must be true or false");
    }
}
