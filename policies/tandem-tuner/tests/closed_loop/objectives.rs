//! Objectives, budgets, profiles and the knobs for ablations.

use crate::plant::*;
use policy_sdk::testing::{BoardBuilder, MS, params};
use policy_sdk::{App, Binds, Board, Measured, Objective};

/// The network with a profile of the plant: what it takes at each OPP, alone.
fn profiled(latency_ms: u64) -> App {
    let mut app = network(latency_ms, None);
    for subnet in &mut app.subnets {
        let at = |(opp, khz): (u16, &u64)| {
            let p50_ns = 24 * MS * subnet.macs / 2_000_000 * KHZ[3] / khz;
            Measured { domain: 0, opp, threads: 1, p50_ns, p90_ns: p50_ns + p50_ns / 20 }
        };
        subnet.measured = (0..).zip(&KHZ).map(at).collect();
    }
    app
}

/// One CPU with a power for each OPP, mW.
fn powered(mw: [u32; 4]) -> Board {
    let mut board = BoardBuilder::new().khz("cpu", &[0], &KHZ).build();
    for (opp, mw) in board.domains[0].opps.iter_mut().zip(mw) {
        opp.power_mw = Some(mw);
    }
    board
}

fn wanting(objective: Objective, top1: Option<u16>, power_mw: Option<u32>) -> App {
    let mut app = network(50, top1);
    app.target.objective = objective;
    app.target.power_mw = power_mw;
    app
}

/// Power by the cube of the clock, about.
const CONVEX: [u32; 4] = [100, 500, 1500, 3200];

#[test]
fn energy_first_runs_the_floor_at_the_cheapest_clock_that_holds() {
    let mut p = Plant::new(powered(CONVEX), wanting(Objective::Energy, Some(8600), None));
    p.run(20);
    // Three quarters take 15.6 ms at the top, 31 at half, 62 at a quarter of the clock.
    assert_eq!((p.choice.subnet, p.choice.ask), (2, Some(1)));
    assert_eq!(p.choice.binds, Some(Binds::Top1));
    assert!(p.missed(15) <= 50, "{}", p.missed(15));
    assert_eq!(p.switches(10), 0);
}

#[test]
fn energy_first_without_a_floor_takes_the_cheapest_sub_network() {
    let mut p = Plant::new(powered(CONVEX), wanting(Objective::Energy, None, None));
    p.run(20);
    assert_eq!((p.choice.subnet, p.choice.ask, p.choice.binds), (0, Some(0), Some(Binds::Nothing)));
}

#[test]
fn racing_to_idle_is_taken_where_it_is_cheaper() {
    // Half the clock draws nearly what three quarters draw: 31 ms of it cost more than 21 of the faster.
    let mut p = Plant::new(powered([700, 1300, 1500, 3200]), wanting(Objective::Energy, Some(8600), None));
    p.run(20);
    assert_eq!((p.choice.subnet, p.choice.ask), (2, Some(2)));
}

#[test]
fn latency_first_is_as_fast_as_its_budget_allows() {
    let at = |budget| {
        let mut p = Plant::new(powered(CONVEX), wanting(Objective::Latency, Some(8900), budget));
        p.run(20);
        (p.choice.subnet, p.choice.ask, p.choice.binds)
    };
    assert_eq!(at(None), (3, Some(3), Some(Binds::Top1)));
    // 24 ms of 60 at the top: 3200 mW x (8 + 92 x 0.41) % = 1.46 W; 32 ms of 60 at 1.5 GHz: 0.86 W.
    assert_eq!(at(Some(1000)), (3, Some(2), Some(Binds::Top1)));
}

#[test]
fn who_runs_on_no_cpu_of_the_domain_spends_nothing_of_its_budget() {
    let mut p = Plant::new(powered(CONVEX), wanting(Objective::Latency, Some(8900), Some(1000)));
    p.elsewhere_ns = 8 * MS;
    p.run(20);
    assert_eq!((p.choice.subnet, p.choice.ask), (3, Some(2)), "0.86 W there");
}

#[test]
fn who_waits_for_a_cpu_that_nobody_uses_spends_all_the_same() {
    let mut p = Plant::new(powered(CONVEX), wanting(Objective::Latency, Some(8900), Some(1200)));
    p.wakes = 500;
    p.run(20);
    // A third of its time less, the top would draw 1.06 W; it draws 1.46.
    assert_eq!((p.choice.subnet, p.choice.ask), (3, Some(2)), "0.86 W there");
}

#[test]
fn load_that_cannot_all_be_on_the_domain_is_not_mistaken_for_a_neighbour() {
    let mut board = powered(CONVEX);
    board.domains[0].cpus = vec![0, 1];
    let mut p = Plant::new(board, wanting(Objective::Latency, Some(8900), Some(600)));
    p.elsewhere_ns = 20 * MS;
    p.run(30);
    // Two CPUs: 0.85 W at the top, 1500 mW x (8 + 92 x 0.27) % = 0.49 W at 1.5 GHz.
    assert_eq!((p.choice.subnet, p.choice.ask), (3, Some(2)));
    assert_eq!(p.switches(20), 0);
}

#[test]
fn each_thread_draws_power() {
    let at = |threads| {
        let mut board = powered(CONVEX);
        board.domains[0].cpus = vec![0, 1];
        let mut app = wanting(Objective::Latency, Some(8900), Some(1000));
        app.threads_max = 2;
        let mut p = Plant::new(board, app);
        p.tuner = policy_sdk::start_tuner(&p.board, &p.app, params(&[("threads", threads)])).unwrap();
        p.run(20);
        p.choice.ask
    };
    // At the top one of two CPUs is busy for 0.4 of the time: 0.85 W; both: 1.43 W.
    assert_eq!((at("1"), at("2")), (Some(3), Some(2)));
}

#[test]
fn a_budget_costs_accuracy_first_its_accuracy_and_no_more_than_needed() {
    let mut p = Plant::new(powered(CONVEX), wanting(Objective::Accuracy, None, Some(400)));
    p.run(20);
    // The largest wants 1.5 GHz, 0.86 W; three quarters at 1 GHz 0.29 W.
    assert_eq!((p.choice.subnet, p.choice.ask, p.choice.binds), (2, Some(1), Some(Binds::Power)));
    // Later there is less: 0.15 W.
    p.app.target.power_mw = Some(150);
    p.run(20);
    assert!(p.choice.subnet < 2, "{:?}", p.choice);
    assert!(p.missed(10) <= 50, "{}", p.missed(10));
}

#[test]
fn a_budget_that_would_pay_for_more_does_not_bind() {
    let mut p = Plant::new(powered(CONVEX), wanting(Objective::Accuracy, None, Some(3000)));
    p.app.target.latency_ns = Some(15 * MS);
    p.run(20);
    // Three quarters take 15.6 ms at the top.
    assert_eq!((p.choice.subnet, p.choice.ask, p.choice.binds), (1, Some(2), Some(Binds::Latency)));
}

#[test]
fn a_budget_that_nothing_tells_how_to_hold_is_said_once() {
    let said = |board: Board| {
        let mut p = Plant::new(board, wanting(Objective::Latency, Some(8900), Some(1000)));
        p.run(20);
        let lines = policy_sdk::log::kept();
        (lines.iter().filter(|l| l.contains("not held")).count(), p.choice.ask)
    };
    // What is kept is this thread's.
    assert_eq!(said(powered(CONVEX)), (0, Some(2)));
    assert_eq!(said(BoardBuilder::new().khz("cpu", &[0], &KHZ).build()), (1, Some(3)));
}

#[test]
fn a_budget_that_shrinks_slows_the_clock_before_it_costs_accuracy() {
    let mut p = Plant::new(powered(CONVEX), wanting(Objective::Latency, None, None));
    p.app.target.top1 = Some(8900);
    p.run(10);
    assert_eq!((p.choice.subnet, p.choice.ask), (3, Some(3)));
    p.app.target.power_mw = Some(1000);
    p.run(4);
    assert_eq!((p.choice.subnet, p.choice.ask), (3, Some(2)), "0.86 W there");
    assert_eq!(p.mean_subnet(4), 300, "never below");
    // Nothing is as cheap as that: the cheapest there is, said to be infeasible.
    p.app.target.power_mw = Some(9);
    p.run(10);
    assert_eq!((p.choice.subnet, p.choice.ask, p.choice.binds), (0, Some(0), Some(Binds::Infeasible)));
}

#[test]
fn one_knob_alone_is_left_to_others_or_held() {
    for (knobs, subnet, asks) in [("dnn", None, false), ("dvfs", None, true), ("dvfs", Some("50"), true)] {
        let (board, app) = (powered(CONVEX), wanting(Objective::Energy, Some(8400), None));
        let mut given = vec![("knobs", knobs)];
        given.extend(subnet.map(|s| ("subnet", s)));
        let mut p = Plant::new(board, app);
        p.tuner = policy_sdk::start_tuner(&p.board, &p.app, params(&given)).unwrap();
        p.run(10);
        assert_eq!(p.choice.ask.is_some(), asks, "{knobs}");
        let expected = if knobs == "dvfs" && subnet.is_none() { 3 } else { 1 };
        assert_eq!(p.choice.subnet, expected, "{knobs} {subnet:?}");
    }
}

#[test]
fn without_learning_a_wrong_profile_is_believed() {
    let mut app = profiled(50);
    app.target.objective = Objective::Energy;
    app.target.top1 = Some(8900);
    let run = |learn| {
        let mut p = Plant::new(powered(CONVEX), app.clone());
        p.tuner = policy_sdk::start_tuner(&p.board, &p.app, params(&[("learn", learn)])).unwrap();
        // Twice as fast as the profile says.
        p.full_ns = 12 * MS;
        p.run(20);
        p.choice.ask
    };
    assert_eq!((run("true"), run("false")), (Some(1), Some(2)));
}

#[test]
fn with_a_profile_the_first_choice_is_the_best_sub_network_that_holds() {
    for (latency_ms, subnet) in [(50, 3), (20, 2), (12, 1), (5, 0)] {
        let mut p = Plant::new(cpu(), profiled(latency_ms));
        p.step();
        assert_eq!((p.choice.subnet, p.choice.ask), (subnet, Some(3)), "{latency_ms} ms");
        let mut blind = Plant::new(cpu(), network(latency_ms, None));
        blind.step();
        assert_eq!(blind.choice.subnet, 0, "nothing known, nothing dared");
    }
    // And it ends where the other one ends.
    let mut p = Plant::new(cpu(), profiled(50));
    p.run(30);
    assert_eq!((p.choice.subnet, p.choice.ask), (3, Some(2)));
    assert!(p.missed(30) <= 50, "{}", p.missed(30));
}

#[test]
fn a_profile_of_a_faster_machine_is_seen_through() {
    let mut p = Plant::new(cpu(), profiled(50));
    p.full_ns = 48 * MS;
    p.run(30);
    // 48 ms at the top cannot hold 50 with 5 % of noise; three quarters take 31 ms there.
    assert_eq!(p.choice.subnet, 2);
    assert!(p.missed(20) <= 50, "{}", p.missed(20));
}

#[test]
fn a_queue_at_an_infeasible_floor_is_served_below_it() {
    // The floor's three quarters take 78 ms, frames come each 60: only below the floor the queue goes.
    let mut p = Plant::new(powered(CONVEX), wanting(Objective::Energy, Some(8600), None));
    p.full_ns = 120 * MS;
    p.queue.extend([0; 8]);
    p.run(20);
    assert!(p.choice.subnet < 2, "{:?}", p.choice);
    assert!(p.missed(10) <= 50, "{} thousandths, {} waiting", p.missed(10), p.queue.len());
}
