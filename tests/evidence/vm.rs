//! Figures of the VM: whether its speed follows the clock, on every kind of work.

use crate::{Row, quantile, row};
use anyhow::Context as _;
use std::path::Path;
use std::process::Command;
use tandem_tests::guest::{self, Quality};
use tandem_tests::{program, repository};

/// Runs of one evaluation before a busy host is reported as that.
const TRIES: u32 = 3;
/// Largest deviation from proportional, %: the bound for a board that timing is claimed on.
const PROPORTIONAL: f64 = 3.0;

/// Compiles one of the VM's guest programs into the shared folder.
pub fn guest_program(name: &str, share: &Path) -> anyhow::Result<()> {
    let source = guest::scripts().join(format!("{name}.c"));
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-pthread", "-static", "-o"]).arg(share.join(name)).arg(&source);
    anyhow::ensure!(
        cc.status().context("cc does not start")?.success(),
        "cc cannot build {}",
        source.display()
    );
    Ok(())
}

/// `WHAT CPU KHZ SPEED` of `board.sh`.
struct Speed {
    what: String,
    cpu: u32,
    mhz: f64,
    speed: f64,
}

fn speeds(text: &str) -> anyhow::Result<Vec<Speed>> {
    text.lines()
        .map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [what, cpu, khz, speed] = fields[..] else { anyhow::bail!("speed.txt: {line:?}") };
            let parse = |s: &str| s.parse::<f64>().with_context(|| format!("speed.txt: {line:?}"));
            Ok(Speed {
                what: what.into(),
                cpu: cpu.parse()?,
                mhz: parse(khz)? / 1000.0,
                speed: parse(speed)?,
            })
        })
        .collect()
}

/// Speed per MHz of one kind of work on one CPU: its relative deviations from their median, %.
fn deviations(all: &[Speed], what: &str, cpu: u32) -> Vec<(f64, f64)> {
    let mine: Vec<_> = all.iter().filter(|s| s.what == what && s.cpu == cpu).collect();
    let per_mhz: Vec<f64> = mine.iter().map(|s| s.speed / s.mhz).collect();
    let middle = quantile(&per_mhz, 0.5);
    mine.iter().zip(per_mhz).map(|(s, p)| (s.mhz, (p / middle - 1.0) * 100.0)).collect()
}

/// The quality of the sections that are timed loops from end to end. An inference's section has the start of a program
/// in it, whose page faults are served under QEMU's lock; its figure is a median over frames.
fn steady(run: &guest::Output, all: &[Speed]) -> anyhow::Result<Quality> {
    let (mut late, mut busy, mut stall_ms) = (0.0, 0.0, 0.0_f64);
    for (mark, _) in (40..).step_by(2).zip(all).filter(|(_, s)| s.what != "inference") {
        let (_, sums) = run.between(mark, mark + 1)?;
        late += sums.late_ms.iter().sum::<f64>();
        busy += sums.busy_ms.iter().sum::<f64>();
        stall_ms = stall_ms.max(sums.stall_ms);
    }
    Ok(Quality { late: late / f64::max(busy, 1.0), stall_ms })
}

/// Integer loop, AVX2 FMA loop and the committed network at the OPPs of `odroid-xu3`, both limited CPUs busy.
pub fn board() -> anyhow::Result<Vec<Row>> {
    let share = guest::share("board")?;
    guest_program("speed", &share)?;
    let model = repository().join("dnn-runner/models/mlcad-fmnist.toml");
    let runner = format!(
        "{} bench --best --json --batch 1 --frames 6 --switches 1 --model {}",
        program("dnn-runner").display(),
        model.display()
    );
    let command = format!("RUNNER='{runner}' sh '{}/board.sh'", guest::scripts().display());
    let options = guest::Options { domains: &[], free: 1, seconds: 900, more: &["-B", "odroid-xu3"] };
    let mut tries = Vec::new();
    for _ in 0..TRIES {
        let run = guest::run(&command, &share, &options)?;
        anyhow::ensure!(run.status == 0, "the guest ended with {}:\n{}", run.status, run.console);
        let all = speeds(&std::fs::read_to_string(share.join("speed.txt"))?)?;
        let quality = steady(&run, &all)?;
        println!("{quality}");
        let valid = quality.is_valid();
        tries.push((all, quality));
        if valid {
            break;
        }
    }
    let n = u64::from(u32::try_from(tries.len())?);
    let times = std::fs::read_to_string(share.join(".vm/times.txt"))?;
    let starts = times.lines().find_map(|l| l.strip_prefix("guest_job_starts_s ")).context("times.txt")?;
    let boot = row("from the kernel's start to the job", starts.trim().parse()?, "s", 1).goal(10.0);
    let (all, quality) = tries.pop().context("no run")?;
    let mut rows = quality_rows("vm-board", &quality, n);
    rows.push(boot);
    for (cpu, core) in [(0, "little"), (1, "big")] {
        for what in ["int", "fma", "inference"] {
            let off = deviations(&all, what, cpu);
            let worst = off.iter().map(|d| d.1.abs()).fold(0.0, f64::max);
            let name = format!("{core}, {what}: worst deviation from proportional over {} OPPs", off.len());
            rows.push(row(&name, worst, "%", off.len() as u64).goal(PROPORTIONAL));
            for (s, d) in all.iter().filter(|s| s.what == what && s.cpu == cpu).zip(&off) {
                let unit = if what == "inference" { "frames/s" } else { "M/s" };
                rows.push(
                    row(&format!("{core}, {what} at {} MHz (off by {:+.1} %)", s.mhz, d.1), s.speed, unit, 1)
                        .higher(),
                );
            }
        }
    }
    Ok(rows)
}

/// The quality mark of a run as figures.
pub fn quality_rows(name: &str, quality: &Quality, tries: u64) -> Vec<Row> {
    vec![
        row(&format!("{name}: limiter over 5 ms late, of the busy time"), quality.late * 100.0, "%", tries)
            .goal(1.0),
        row(&format!("{name}: longest stall of the host"), quality.stall_ms, "ms", tries).goal(20.0),
    ]
}
