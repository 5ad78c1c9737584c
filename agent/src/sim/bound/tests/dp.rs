//! The optimum by dynamic programming, with switching allowed in every slot of 2 ms, on a board of one domain with two
//! OPPs and a network of three sub-networks: nothing of the simulator is in it but the power formula.
//!
//! Work is counted in units: a slot does one at the low OPP, two at the high one. A frame comes every ten slots.

use super::*;

/// Units of work and accuracy above the first, points, of each sub-network.
const SUBNETS: [(u8, u8); 3] = [(4, 0), (6, 4), (10, 10)];
const PERIOD: usize = 10;
/// A frame is late after so many slots.
const DEADLINE: usize = 8;
const FRAMES: usize = 20;
/// Of 20 frames 5 %.
const LATE_MAX: usize = 1;
const WAIT_MAX: usize = 2;
const SLOT_S: f64 = 0.002;

/// mW of the domain, one of two CPUs busy or none, at the low and the high OPP.
fn power(model: &Model) -> [[f64; 2]; 2] {
    let (busy, idle) = (model.busy_power(DomainId(0)), model.constant("idle-share"));
    [0, 1].map(|o| [busy[0][o] * idle, busy[0][o] * (idle + (1.0 - idle) / 2.0)])
}

/// The VM's big domain with two of its OPPs, and nothing else.
fn small() -> Model {
    let mut model = quiet("vm-baseline");
    model.board.domains.remove(0);
    model.domains.remove(0);
    model.apps_on = DomainId(0);
    let keep = [4, 9];
    model.board.domains[0].opps = keep.map(|o| model.board.domains[0].opps[o].clone()).to_vec();
    model.domains[0].power = vec![keep.map(|o| model.domains[0].power[0][o]).to_vec()];
    model
}

/// Floors in points above 80 %, each for its share of the 20 frames.
fn plan(floors: &[u8]) -> Scenario {
    let at = |i: usize| 0.02 * (FRAMES * i / floors.len()) as f64;
    let target =
        |(i, f): (usize, &u8)| format!("{{ at-s = {}, latency-ms = 16.0, top1 = {} }}", at(i), 80 + f);
    let targets: Vec<_> = floors.iter().enumerate().map(target).collect();
    let text = format!(
        "about = \"t\"\nlength-s = 1.0\n[[app]]\nname = \"a\"\nnetwork = \"mlcad-fmnist\"\nlargest-ms = 10.0\n\
         frames = {{ kind = \"periodic\", rate-hz = 50.0 }}\ntargets = [{}]\n",
        targets.join(", ")
    );
    let mut scenario = Scenario::parse("t", "t.toml", &text).unwrap();
    scenario.length = Nanos::from_secs(SLOT_S * (PERIOD * FRAMES) as f64);
    let network = &mut scenario.apps[0].network;
    network.subnets.truncate(SUBNETS.len());
    for (subnet, (_, points)) in network.subnets.iter_mut().zip(SUBNETS) {
        subnet.top1 = CentiPercent(8000 + 100 * u16::from(points));
    }
    network.on_cpu = SUBNETS.iter().map(|(work, _)| f64::from(*work) / 10.0).collect();
    scenario
}

/// What a slot begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct State {
    /// Units of the frame in service.
    left: u8,
    waiting: u8,
    late: u8,
    /// Sum of accuracy points of those begun.
    points: u8,
}

/// What is chosen: for a frame that begins, and for the slot.
type Choice = (usize, usize);

/// The states after a slot with that choice, and its energy, mJ; `None`: too many wait.
fn slot(t: usize, mut s: State, (subnet, opp): Choice, power: &[[f64; 2]; 2]) -> Option<(State, f64)> {
    let come = t / PERIOD + 1;
    if t % PERIOD == 0 {
        s.waiting += 1;
    }
    if s.left == 0 && s.waiting > 0 {
        s.left = SUBNETS[subnet].0;
        s.points += SUBNETS[subnet].1;
        s.waiting -= 1;
    }
    let busy = s.left > 0;
    if busy {
        s.left = s.left.saturating_sub(1 + u8::try_from(opp).unwrap());
        let frame = come - 1 - usize::from(s.waiting);
        if s.left == 0 && t + 1 - frame * PERIOD > DEADLINE {
            s.late += 1;
        }
    }
    (usize::from(s.waiting) <= WAIT_MAX).then_some((s, power[opp][usize::from(busy)] * SLOT_S))
}

/// The least energy, mJ, of those that end with every frame done, few enough late and the mean at the floor. `late`: so
/// many may be.
fn optimum(floor: u8, late: usize, power: &[[f64; 2]; 2], choices: &[Choice]) -> f64 {
    let mut now = HashMap::from([(State { left: 0, waiting: 0, late: 0, points: 0 }, 0.0)]);
    for t in 0..PERIOD * FRAMES {
        let mut next: HashMap<State, f64> = HashMap::new();
        for (state, energy) in now {
            for choice in choices {
                let Some((to, more)) = slot(t, state, *choice, power) else { continue };
                if usize::from(to.late) <= late {
                    let least = next.entry(to).or_insert(f64::INFINITY);
                    *least = least.min(energy + more);
                }
            }
        }
        now = next;
    }
    let enough =
        |s: &State| s.left == 0 && s.waiting == 0 && usize::from(s.points) >= usize::from(floor) * FRAMES;
    now.iter().filter(|(s, _)| enough(s)).map(|(_, e)| *e).fold(f64::INFINITY, f64::min)
}

/// The least energy, mJ, with one point in each part of the frames, switched on the frame; late ones count by part.
fn constant(floors: &[u8], power: &[[f64; 2]; 2]) -> f64 {
    let all: Vec<Choice> = product(&[vec![0, 1, 2], vec![0, 1]]).iter().map(|c| (c[0], c[1])).collect();
    let each = vec![(0..all.len()).collect::<Vec<_>>(); floors.len()];
    let run = |points: &Vec<usize>| {
        let mut s = State { left: 0, waiting: 0, late: 0, points: 0 };
        let (mut energy, mut late, part) = (0.0, 0, FRAMES / floors.len());
        for t in 0..PERIOD * FRAMES {
            let k = t / PERIOD / part;
            if t % (PERIOD * part) == 0 {
                late = s.late;
            }
            let Some((to, more)) = slot(t, s, all[points[k]], power) else { return f64::INFINITY };
            (s, energy) = (to, energy + more);
            if SUBNETS[all[points[k]].0].1 < floors[k] || usize::from(s.late - late) * 20 > part {
                return f64::INFINITY;
            }
        }
        energy
    };
    product(&each).iter().map(run).fold(f64::INFINITY, f64::min)
}

#[test]
fn the_bound_is_the_optimum_of_constant_points_by_dynamic_programming() {
    let model = small();
    for floors in [&[4][..], &[10], &[0], &[0, 10], &[10, 4], &[4, 10, 0, 6, 10]] {
        let bound = lower_bound(&model, &plan(floors)).unwrap();
        let best = constant(floors, &power(&model)) / 1000.0;
        assert_eq!((bound.intervals.len(), bound.feasible), (floors.len(), true));
        assert!(
            bound.energy_j <= best * (1.0 + 1e-6),
            "{floors:?}: {} J, {best} by programming",
            bound.energy_j
        );
        assert!(
            bound.energy_j >= best * (1.0 - 1e-4),
            "{floors:?}: {} J, {best} by programming",
            bound.energy_j
        );
    }
}

#[test]
fn mixing_points_within_an_interval_can_go_below_the_bound_by_what_the_text_says() {
    let all: Vec<Choice> = product(&[vec![0, 1, 2], vec![0, 1]]).iter().map(|c| (c[0], c[1])).collect();
    let below = |floor: u8, late: usize, idle: f64| {
        let model = small().with("idle-share", idle);
        let bound = lower_bound(&model, &plan(&[floor])).unwrap().energy_j;
        let mixed = optimum(floor, late, &power(&model), &all) / 1000.0;
        let percent = 100.0 * (1.0 - mixed / bound);
        println!(
            "floor {}, {late} late, idle {idle}: bound {bound:.4} J, mixed {mixed:.4} J, {percent:.1} % below",
            80 + floor
        );
        percent
    };
    for floor in [0, 4, 6, 10] {
        for (late, idle) in [(0, 0.0), (0, 0.08), (LATE_MAX, 0.08), (LATE_MAX, 0.3)] {
            // Whatever is mixed: never more than the bound.
            assert!(below(floor, late, idle) > -1e-3);
        }
    }
}
