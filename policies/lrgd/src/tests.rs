use super::*;
use policy_sdk::Grant;
use policy_sdk::testing::{BoardBuilder, MS, ViewBuilder, app, params, slo};
use std::collections::BTreeSet;

fn board() -> Board {
    let freqs: Vec<u64> = (1..=10).map(|i| i * 200_000).collect();
    let mut board = BoardBuilder::new().khz("cpu", &[0], &freqs).build();
    for (opp, power) in board.domains[0].opps.iter_mut().zip((1..=10).map(|i| i * i * 30)) {
        opp.power_mw = Some(power);
    }
    board
}

fn cam(latency_ms: u64, floor: u16) -> App {
    let subnets = [("quarter", 8000, 250), ("half", 8600, 500), ("most", 8800, 750), ("full", 9000, 1000)];
    App { target: slo(Some(latency_ms), Some(floor)), ..app("cam", &subnets) }
}

struct Run {
    board: Board,
    app: App,
    tuner: Lrgd,
    tick: u64,
    /// The largest at the top OPP, us.
    full_us: u64,
    chosen: Choice,
}

impl Run {
    fn new(board: Board, app: App, given: &[(&str, &str)]) -> Self {
        let mut tuner: Lrgd = policy_sdk::start_tuner(&board, &app, params(given)).unwrap();
        let chosen = tuner.decide(&ViewBuilder::new(&board, &app).build());
        Self { board, app, tuner, tick: 1, full_us: 20_000, chosen }
    }

    /// So many frames, one every four ticks of 10 ms; the points gone through.
    fn run(&mut self, frames: u32) -> Vec<(u16, u16)> {
        let mut points = vec![];
        for _ in 0..frames {
            let (subnet, opp) = (self.chosen.subnet, self.chosen.ask.unwrap());
            let macs = self.app.subnets[usize::from(subnet)].macs;
            let service = self.full_us * 1000 * macs / 1000 * 10 / u64::from(opp + 1);
            let busy = (service * 1024 / (40 * MS)).min(1024);
            for quarter in 0..4 {
                self.tick += 1;
                let seen = ViewBuilder::new(&self.board, &self.app).tick(self.tick);
                let seen = seen.domain(opp, u16::try_from(busy).unwrap());
                let seen = if quarter == 3 { seen.finished(subnet, service, service) } else { seen };
                self.chosen = self.tuner.decide(&seen.build());
            }
            points.push((subnet, opp));
        }
        points
    }

    fn point(&self) -> (u16, u16) {
        (self.chosen.subnet, self.chosen.ask.unwrap())
    }
}

#[test]
fn it_begins_at_the_highest_knobs_and_explores_for_twenty_samples() {
    let mut run = Run::new(board(), cam(30, 8600), &[("reoptimise", "false")]);
    assert_eq!(run.point(), (3, 9));
    // Two inferences for each sample: the first after a change is not used.
    let points = run.run(40);
    let distinct: BTreeSet<_> = points.iter().collect();
    assert!(distinct.len() > 10, "{points:?}");
    assert!(points.iter().all(|p| p.0 >= 1), "never below the floor: {points:?}");
    assert!(points.chunks(2).all(|pair| pair[0] == pair[1]), "{points:?}");
    let found = run.point();
    assert!(run.run(200).iter().all(|p| *p == found), "then it stands");
}

#[test]
fn it_ends_where_its_models_hold_the_bound_at_less_power_than_at_the_highest_knobs() {
    for (latency, floor) in [(30, 8600), (60, 8000), (25, 8800)] {
        let mut run = Run::new(board(), cam(latency, floor), &[]);
        run.run(40);
        let (subnet, opp) = run.point();
        let place = |s: u16, o: u16| [run.tuner.cost(s), run.tuner.clock(o)].map(Place::of);
        let at = |line: &Line, s, o| line.at(place(s, o)).unwrap();
        assert!(at(&run.tuner.perf, subnet, opp) >= i128::from(run.tuner.bound()), "{latency} ms at {floor}");
        assert!(at(&run.tuner.power, subnet, opp) < at(&run.tuner.power, 3, 9), "{latency} ms at {floor}");
        assert!(
            run.app.subnets[usize::from(subnet)].top1 >= floor && opp < 9,
            "{latency} ms at {floor}: {opp}"
        );
    }
}

#[test]
fn a_new_target_is_searched_at_once_with_what_was_learned() {
    let mut run = Run::new(board(), cam(60, 8000), &[]);
    run.run(40);
    let before = run.point();
    run.app.target = slo(Some(20), Some(8800));
    run.run(1);
    let after = run.point();
    assert!(after.0 == 2 && after.1 > before.1, "{before:?} {after:?}");
    run.app.target = slo(Some(60), Some(8000));
    run.run(1);
    assert_eq!(run.point(), before);
}

#[test]
fn where_nothing_holds_it_takes_the_cheapest_at_the_floor_and_the_highest_clock() {
    let mut run = Run::new(board(), cam(2, 8600), &[]);
    run.run(40);
    assert_eq!(run.point(), (1, 9));
}

#[test]
fn it_keeps_up_with_the_frames_even_if_the_target_is_long() {
    // The target of 400 ms alone would allow the lowest clock; frames that come each 40 ms do not.
    let mut run = Run::new(board(), cam(400, 9000), &[]);
    run.run(40);
    let busy = run.point();
    run.tuner.arrivals = (0, 0);
    run.tuner.optimise();
    assert!(busy.1 > run.tuner.knobs.opp, "{busy:?} {:?}", run.tuner.knobs);
}

#[test]
fn where_the_largest_cannot_hold_the_bound_the_search_begins_at_the_cheapest() {
    // 20 ms at the highest knobs; the cheapest takes 5 ms there.
    let mut run = Run::new(board(), cam(12, 8000), &[("reoptimise", "false")]);
    run.run(40);
    let (subnet, opp) = run.point();
    assert!(subnet == 0 && opp < 9, "{subnet} {opp}");
}

#[test]
fn a_co_runner_that_comes_later_is_answered_but_not_as_shipped() {
    let after = |given: &[(&str, &str)]| {
        let mut run = Run::new(board(), cam(30, 8600), given);
        run.run(40);
        let before = run.point();
        run.full_us = 40_000;
        run.run(400);
        (before, run.point())
    };
    let (before, shipped) = after(&[("reoptimise", "false")]);
    assert_eq!(before, shipped);
    let (before, again) = after(&[]);
    assert!(again.1 > before.1 || again.0 < before.0, "{before:?} {again:?}");
}

#[test]
fn one_sub_network_or_one_opp_is_a_knob_that_cannot_move() {
    let one = App { target: slo(Some(30), None), ..app("cam", &[("only", 9000, 1000)]) };
    let mut run = Run::new(board(), one, &[]);
    run.run(40);
    assert!(run.tuner.trained && run.point().1 < 9, "{:?}", run.point());
    let mut board = board();
    board.domains[0].opps.drain(..9);
    let mut run = Run::new(board, cam(30, 8600), &[]);
    run.run(40);
    assert!(run.tuner.trained);
    assert_eq!(run.point(), (1, 0));
    // Nor is one that the floor leaves.
    let mut run = Run::new(self::board(), cam(100, 9000), &[]);
    run.run(40);
    assert!(run.tuner.trained && run.point().0 == 3, "{:?}", run.point());
}

#[test]
fn the_cap_bounds_the_clock_and_another_domain_begins_anew() {
    let mut run = Run::new(board(), cam(30, 8600), &[]);
    run.run(40);
    let mut seen = ViewBuilder::new(&run.board, &run.app).build();
    seen.domain.cap = Some(1);
    assert!(run.tuner.decide(&seen).ask.unwrap() <= 1);
    run.board.domains.push(run.board.domains[0].clone());
    let mut tuner: Lrgd = policy_sdk::start_tuner(&run.board, &run.app, vec![]).unwrap();
    tuner.trained = true;
    let there = ViewBuilder::new(&run.board, &run.app).grant(Grant::whole(1, run.app.target)).build();
    tuner.decide(&there);
    assert!(!tuner.trained && tuner.at == 1);
}

#[test]
fn the_same_run_gives_the_same_knobs() {
    let points = || Run::new(board(), cam(30, 8600), &[]).run(100);
    assert_eq!(points(), points());
}
