//! What the counters cost per context switch, by the kernel's own statistics (`bpf_stats_enabled`),
//! beside an empty program on the same hooks and bpftrace's `runqlat.bt`. Prints evidence rows as JSON.
//!
//! `bpf_cost [ROUNDS [SWITCHES]]`, as root. Each round measures the three in turn under the same
//! ping-pong over two pipes on one CPU (two switches and up to two wake-ups a round trip), so that
//! whatever else the machine does meets all three. The statistics leave out what bpftrace's tracepoints
//! cost around its programs, which is in its favour.

use anyhow::{Context, bail};
use libbpf_rs::query::ProgInfoIter;
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tandem::board::{Board, BoardLimits};
use tandem::sense::{Sense, SenseOptions};
use tandem::units::{AppSlot, Nanos};

#[allow(missing_debug_implementations, missing_docs, clippy::all)]
#[allow(clippy::ptr_as_ptr, clippy::undocumented_unsafe_blocks, clippy::cast_possible_truncation)]
mod empty {
    include!(concat!(env!("OUT_DIR"), "/empty.skel.rs"));
}

const SYSCTL: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Programs by id: name, run time in ns, runs.
type Programs = HashMap<u32, (String, u64, u64)>;

fn programs() -> Programs {
    let one = |p: libbpf_rs::query::ProgramInfo| {
        (p.id, (p.name.to_string_lossy().into_owned(), p.run_time_ns, p.run_cnt))
    };
    ProgInfoIter::default().map(one).collect()
}

/// Switches the statistics on; puts the setting back at the end.
struct Stats(String);

impl Stats {
    fn on() -> anyhow::Result<Self> {
        let before = std::fs::read_to_string(SYSCTL).context(SYSCTL)?;
        std::fs::write(SYSCTL, "1").context(SYSCTL)?;
        Ok(Self(before))
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        let _ = std::fs::write(SYSCTL, self.0.trim());
    }
}

struct Echo(Child);

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Echo {
    fn ping(&mut self, round_trips: u32) -> anyhow::Result<()> {
        let (Some(to), Some(from)) = (self.0.stdin.as_mut(), self.0.stdout.as_mut()) else {
            bail!("no pipes")
        };
        let mut byte = [0];
        for _ in 0..round_trips {
            to.write_all(b"x")?;
            from.read_exact(&mut byte)?;
        }
        Ok(())
    }
}

/// ns per context switch of all programs that came since `before`, and of the one on `sched_switch`.
fn measure(
    before: &Programs,
    is_ours: fn(&str) -> bool,
    echo: &mut Echo,
    trips: u32,
) -> anyhow::Result<(f64, f64)> {
    echo.ping(trips / 10)?;
    let mine = |all: Programs| -> Programs {
        all.into_iter().filter(|(id, p)| !before.contains_key(id) && is_ours(&p.0)).collect()
    };
    let start = mine(programs());
    echo.ping(trips)?;
    let (mut time, mut switches, mut switch_time) = (0, 0, 0);
    for (id, (name, ns, runs)) in mine(programs()) {
        let Some((_, ns0, runs0)) = start.get(&id) else { continue };
        time += ns - ns0;
        if name.contains("switch") {
            switches += runs - runs0;
            switch_time += ns - ns0;
        }
    }
    if switches < u64::from(trips) {
        bail!("{switches} runs on sched_switch in {trips} round trips: the programs were not all there");
    }
    Ok((ratio(time, switches), ratio(switch_time, switches)))
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

fn ours(echo: &mut Echo, trips: u32) -> anyhow::Result<(f64, f64)> {
    let board = Board {
        name: "any".to_owned(),
        domains: Vec::new(),
        limits: BoardLimits { temp_max: None, min_dwell: Nanos(0) },
    };
    let before = programs();
    let (mut sense, lost) = Sense::open(&board, &SenseOptions::default());
    if !sense.by_bpf() {
        bail!("no BPF here: {lost:?}");
    }
    // With an application of ours on one end, so that its slot and its bound are in the path.
    sense.add_app(AppSlot(0), std::process::id())?;
    sense.set_runq_bound(AppSlot(0), Some(Nanos::from_ms(10_000)));
    measure(&before, |name| name.starts_with("on_"), echo, trips)
}

fn empty(echo: &mut Echo, trips: u32) -> anyhow::Result<(f64, f64)> {
    let before = programs();
    let mut storage = MaybeUninit::uninit();
    let mut skel = empty::EmptySkelBuilder::default().open(&mut storage)?.load()?;
    skel.attach()?;
    measure(&before, |name| name.starts_with("empty_"), echo, trips)
}

/// The tool's own program. Its one include needs the kernel's private headers for one constant.
fn runqlat_program() -> anyhow::Result<Option<String>> {
    let places = ["/usr/sbin/runqlat.bt", "/usr/share/bpftrace/tools/runqlat.bt"];
    let Some(path) = places.into_iter().find(|p| Path::new(p).exists()) else { return Ok(None) };
    // bpftrace finds tracepoints in tracefs.
    if !Path::new("/sys/kernel/tracing/events").exists() {
        let mounted =
            Command::new("mount").args(["-t", "tracefs", "tracefs", "/sys/kernel/tracing"]).status()?;
        if !mounted.success() {
            bail!("/sys/kernel/tracing: bpftrace needs tracefs there, and mount failed");
        }
    }
    let text = std::fs::read_to_string(path).context(path)?;
    Ok(Some(text.replace("#include <linux/sched.h>", "#define TASK_RUNNING 0")))
}

fn runqlat(program: &str, echo: &mut Echo, trips: u32) -> anyhow::Result<(f64, f64)> {
    let before = programs();
    let _bpftrace = Echo(
        Command::new("bpftrace").args(["-e", program]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?,
    );
    // Its own names; no other tool of ours has them.
    let its = |name: &str| name.contains("sched_") && !name.starts_with("on_");
    let deadline = Instant::now() + Duration::from_secs(60);
    while programs().iter().filter(|(id, p)| !before.contains_key(id) && its(&p.0)).count() < 3 {
        if Instant::now() > deadline {
            bail!("bpftrace: its three programs did not appear within 60 s");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_millis(500));
    measure(&before, its, echo, trips)
}

fn row(name: &str, values: &mut [f64], goal: Option<f64>) -> serde_json::Value {
    values.sort_by(f64::total_cmp);
    let at = |permille: usize| values[(values.len() - 1) * permille / 1000];
    serde_json::json!({
        "name": name, "value": at(500), "unit": "ns", "n": values.len(), "p10": at(100), "p90": at(900),
        "kind": "measured", "goal": goal, "better": "lower",
    })
}

fn main() -> anyhow::Result<()> {
    let number = |i, default| std::env::args().nth(i).map_or(Ok(default), |s| s.parse::<u32>());
    let (rounds, trips) = (number(1, 7)?, number(2, 100_000)? / 2);
    let script = runqlat_program()?;
    let mut set = CpuSet::new();
    set.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &set)?;
    let _stats = Stats::on()?;
    let cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cat")?;
    let mut echo = Echo(cat);

    let mut all: [Vec<f64>; 6] = Default::default();
    for _ in 0..rounds {
        let mut add = |i: usize, (total, switch): (f64, f64)| {
            all[i].push(total);
            all[i + 1].push(switch);
        };
        add(0, ours(&mut echo, trips)?);
        add(2, empty(&mut echo, trips)?);
        if let Some(program) = &script {
            add(4, runqlat(program, &mut echo, trips)?);
        }
    }
    let [total, switch, empty_total, empty_switch, runq_total, runq_switch] = &mut all;
    let mut rows = vec![
        row("bpf-cost/ours-all-hooks-per-switch", total, Some(250.0)),
        row("bpf-cost/ours-sched-switch", switch, Some(250.0)),
        row("bpf-cost/empty-all-hooks-per-switch", empty_total, None),
        row("bpf-cost/empty-sched-switch", empty_switch, None),
    ];
    if script.is_some() {
        let mut times: Vec<f64> = total.iter().zip(runq_total.iter()).map(|(a, b)| a / b).collect();
        let mut share = row("bpf-cost/ours-against-runqlat", &mut times, Some(1.0));
        share["unit"] = "ratio".into();
        rows.push(row("bpf-cost/runqlat-all-hooks-per-switch", runq_total, None));
        rows.push(row("bpf-cost/runqlat-sched-switch", runq_switch, None));
        rows.push(share);
    } else {
        eprintln!("skipped: runqlat.bt: needs bpftrace (apt-get install bpftrace)");
    }
    println!("{}", serde_json::to_string_pretty(&rows)?);
    Ok(())
}
