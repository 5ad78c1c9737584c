//! How long a decision takes to be visible to a runner that spins, and what a Unix datagram takes for the
//! same: PRiME's framework (Bragg et al., TECS 2020) has its parts talk over datagram sockets.
//!
//! Two threads on CPUs of their own take turns in blocks, one kind of exchange after the other, so that
//! noise of the machine meets all kinds alike. The median over blocks of each block's p50 and p99 is the
//! result; p10 and p90 are over blocks too. Each figure contains one reading of the clock (given beside it).
//!
//! `cargo bench -p channel --bench latency -- [--json] [--quick]`

use channel::msg::{DecisionMsg, FeedbackMsg};
use channel::{AgentEnd, AgentRegions, RunnerEnd};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::os::unix::net::UnixDatagram;
use std::sync::Barrier;
use std::time::Duration;

/// Exchanges of one kind in a block.
const BLOCK: usize = 1000;
/// Blocks of each kind.
const BLOCKS: usize = 200;

#[derive(Clone, Copy)]
enum Kind {
    /// Agent publishes, runner sees: one way.
    Visible,
    /// Agent publishes, runner answers through the ring, agent drains.
    Channel,
    /// A datagram of a decision's size there, one of a feedback's size back, both blocking in the kernel.
    Datagram,
    /// The same, both sides spinning on sockets that do not block.
    SpinningDatagram,
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Visible, "decision visible to a spinning runner"),
    (Kind::Channel, "decision out and feedback back, both spinning"),
    (Kind::Datagram, "unix datagram round trip, blocking"),
    (Kind::SpinningDatagram, "unix datagram round trip, spinning"),
];

fn now_ns() -> u64 {
    let now =
        Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("always there"));
    u64::try_from(now.as_nanos()).expect("584 years")
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("a CPU of this process");
    sched_setaffinity(Pid::from_raw(0), &set).expect("a CPU of this process");
}

/// The first two CPUs this process may use.
fn two_cpus() -> Option<(usize, usize)> {
    let set = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let mut cpus = (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false));
    Some((cpus.next()?, cpus.next()?))
}

fn send(socket: &UnixDatagram, bytes: &[u8]) {
    while socket.send(bytes).is_err() {
        std::hint::spin_loop();
    }
}

fn recv(socket: &UnixDatagram, bytes: &mut [u8]) {
    while socket.recv(bytes).is_err() {
        std::hint::spin_loop();
    }
}

/// The runner's half of a block; of `Visible` it has the times.
fn runner_block(kind: Kind, end: &mut RunnerEnd, socket: &UnixDatagram, seq: &mut u64, times: &mut Vec<u64>) {
    for _ in 0..BLOCK {
        match kind {
            Kind::Visible | Kind::Channel => {
                let seen = loop {
                    match end.decisions.latest() {
                        Ok(Some(seen)) if seen.seq > *seq => break seen,
                        _ => std::hint::spin_loop(),
                    }
                };
                if matches!(kind, Kind::Visible) {
                    // `valid_until_ns` carries when it was published.
                    times.push(now_ns().saturating_sub(seen.valid_until_ns));
                }
                *seq = seen.seq;
                end.feedback.push(&FeedbackMsg { seq: *seq, ..Default::default() });
            }
            Kind::Datagram | Kind::SpinningDatagram => {
                recv(socket, &mut [0; size_of::<DecisionMsg>()]);
                send(socket, &[0; size_of::<FeedbackMsg>()]);
            }
        }
    }
}

/// The agent's half; of all other kinds it has the times.
fn agent_block(kind: Kind, end: &mut AgentEnd, socket: &UnixDatagram, seq: &mut u64, times: &mut Vec<u64>) {
    for _ in 0..BLOCK {
        let start = now_ns();
        match kind {
            Kind::Visible | Kind::Channel => {
                *seq += 1;
                end.decisions.publish(&DecisionMsg {
                    seq: *seq,
                    valid_until_ns: start,
                    ..Default::default()
                });
                while end.feedback.drain(|_| ()).expect("an honest runner").messages == 0 {
                    std::hint::spin_loop();
                }
            }
            Kind::Datagram | Kind::SpinningDatagram => {
                send(socket, &[0; size_of::<DecisionMsg>()]);
                recv(socket, &mut [0; size_of::<FeedbackMsg>()]);
            }
        }
        if !matches!(kind, Kind::Visible) {
            times.push(now_ns() - start);
        }
    }
}

/// All blocks' times, by kind.
fn measure(blocks: usize, cpus: (usize, usize)) -> [Vec<Vec<u64>>; 4] {
    let regions = AgentRegions::create().expect("two memfds");
    let [orders, report] = regions.fds();
    let mut runner = RunnerEnd::open(orders, report).expect("just made");
    let mut agent = regions.into_end();
    let (near, far) = UnixDatagram::pair().expect("two sockets");
    let turn = Barrier::new(2);
    let run = |half: &mut dyn FnMut(Kind, &mut Vec<u64>), socket: &UnixDatagram, cpu: usize| {
        pin(cpu);
        let mut all = [const { Vec::new() }; 4];
        // The first block of each kind warms up.
        for block in 0..=blocks {
            for (of_kind, (kind, _)) in all.iter_mut().zip(KINDS) {
                let mut times = Vec::with_capacity(BLOCK);
                socket.set_nonblocking(matches!(kind, Kind::SpinningDatagram)).expect("a socket");
                turn.wait();
                half(kind, &mut times);
                if block > 0 {
                    of_kind.push(times);
                }
            }
        }
        all
    };
    std::thread::scope(|s| {
        let runner = s.spawn(|| {
            let mut seq = 0;
            run(&mut |kind, times| runner_block(kind, &mut runner, &far, &mut seq, times), &far, cpus.0)
        });
        let mut seq = 0;
        let agents =
            run(&mut |kind, times| agent_block(kind, &mut agent, &near, &mut seq, times), &near, cpus.1);
        let runners = runner.join().expect("the runner's thread");
        let mut both = agents;
        both[0] = runners.into_iter().next().expect("four kinds");
        both
    })
}

/// The value below which `percent` of the sorted values lie.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

fn row(name: &str, of_blocks: &mut [u64], n: usize, goal: Option<u64>) -> serde_json::Value {
    of_blocks.sort_unstable();
    serde_json::json!({
        "name": name, "unit": "ns", "n": n, "kind": "measured", "goal": goal, "better": "lower",
        "value": percentile(of_blocks, 50), "p10": percentile(of_blocks, 10), "p90": percentile(of_blocks, 90),
    })
}

fn main() {
    let has = |flag: &str| std::env::args().any(|a| a == flag);
    // `cargo test --benches` runs this as well: then only that it works.
    let blocks = if has("--quick") || !has("--bench") { 3 } else { BLOCKS };
    let Some(cpus) = two_cpus() else {
        eprintln!("skipped: needs two CPUs");
        return;
    };
    let mut clock: Vec<u64> = (0..BLOCK).map(|_| (now_ns(), now_ns())).map(|(a, b)| b - a).collect();
    let mut rows = vec![row("one reading of the clock", &mut clock, BLOCK, None)];
    for ((kind, name), mut of_kind) in KINDS.into_iter().zip(measure(blocks, cpus)) {
        for times in &mut of_kind {
            times.sort_unstable();
        }
        for percent in [50, 99] {
            let goal = (matches!(kind, Kind::Visible) && percent == 99).then_some(1000);
            let mut of_blocks: Vec<_> = of_kind.iter().map(|times| percentile(times, percent)).collect();
            rows.push(row(&format!("{name}, p{percent}"), &mut of_blocks, blocks * BLOCK, goal));
        }
    }
    if has("--json") {
        println!("{}", serde_json::Value::from(rows));
        return;
    }
    for row in rows {
        let value = row["value"].as_u64().unwrap_or_default();
        let name = row["name"].as_str().unwrap_or_default();
        println!("{value:>9} ns  ({} to {})  {name}", row["p10"], row["p90"]);
    }
}
