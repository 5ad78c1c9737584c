//! The same program in the guest, and what only the host knows of it: energy, and whether the run is valid.

use crate::Options;
use anyhow::{Context as _, bail, ensure};
use serde::Serialize;
use std::process::Command;
use tandem::sim::scenario::Scenario;
use tandem_tests::guest;

/// A run on a host too busy to keep time is void and repeated, so often.
const TRIES: usize = 3;
/// Constant power beside the CPUs, mW: `tests/vm/throttle --board`, assumed.
const BOARD_MW: f64 = 150.0;

/// What the host adds to the guest's result.
#[derive(Debug, Serialize)]
struct Host {
    /// What counts, s.
    seconds: f64,
    /// Energy of each domain in it, mJ, modelled.
    domains_mj: Vec<f64>,
    /// The same had no CPU idled: with it other idle shares than 0.08 are reckoned.
    full_mj: Vec<f64>,
    /// The same of the board's constant.
    board_mj: f64,
    /// Busy share of each limited CPU.
    busy: Vec<f64>,
    limiter_late: f64,
    stall_ms: f64,
    valid: bool,
    tries: usize,
}

/// Plays the scenarios on a board of `tests/vm/boards`, all in one boot.
pub fn run(options: &Options, board: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    let share = options.out.canonicalize()?;
    let source = guest::scripts().join("speed.c");
    let cc = Command::new("cc")
        .args(["-O2", "-pthread", "-static", "-o"])
        .arg(share.join("speed"))
        .arg(source)
        .status();
    ensure!(cc.context("cc does not start")?.success(), "cc cannot build speed.c");
    let command = command(options, board)?;
    let mut more = vec!["-B", board];
    if options.plain {
        more.push("-I");
    }
    let vm = guest::Options { domains: &[], free: 1, seconds: 600 + seconds(options)?, more: &more };
    let path = share.join("result.json");
    for tries in 1..=TRIES {
        let run = guest::run(&command, &share, &vm)?;
        ensure!(run.status == 0, "the guest ended with {}:\n{}", run.status, run.console);
        let counted = run.all_between(40, 41)?;
        let mut results: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(&path)?)?;
        ensure!(counted.len() == results.len(), "{} runs, {} pairs of marks", results.len(), counted.len());
        for (result, (seconds, sums)) in results.iter_mut().zip(counted) {
            result["host"] = serde_json::to_value(host(seconds, sums, tries))?;
        }
        std::fs::write(&path, serde_json::to_vec_pretty(&results)?)?;
        let void = results.iter().filter(|r| r["host"]["valid"] == false).count();
        println!("{}\nwritten: {}", table(&results), path.display());
        // Of many, those that are valid are enough.
        if void < results.len() {
            println!("{void} of {} runs are void: the host was too busy to keep time", results.len());
            return Ok(());
        }
    }
    bail!("void: the host was too busy to keep time in all of {TRIES} tries; the figures above are no result")
}

fn host(seconds: f64, sums: guest::Sums, tries: usize) -> Host {
    let quality = sums.quality();
    Host {
        seconds,
        board_mj: BOARD_MW * seconds,
        busy: sums.busy_ms.iter().map(|b| b / 1e3 / seconds).collect(),
        limiter_late: quality.late,
        stall_ms: quality.stall_ms,
        valid: quality.is_valid(),
        domains_mj: sums.mj,
        full_mj: sums.full_mj,
        tries,
    }
}

/// A line a run.
fn table(results: &[serde_json::Value]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_BORDERS_ONLY);
    table.set_header([
        "scenario",
        "policy",
        "round",
        "mW, modelled",
        "p50 ms",
        "p95 ms",
        "late %",
        "right %",
        "co-runners M/s",
        "valid",
    ]);
    for r in results {
        let apps = || r["apps"].as_array().into_iter().flatten();
        let worst = |what: &str| apps().filter_map(|a| a[what].as_f64()).fold(f64::NAN, f64::max);
        let right: Vec<f64> = apps().filter_map(|a| a["accuracy"].as_f64()).collect();
        let sum = |v: &serde_json::Value| {
            v.as_array().into_iter().flatten().filter_map(|n| n.as_f64()).fold(0.0, |a, b| a + b)
        };
        let mw = sum(&r["host"]["domains_mj"]) / r["host"]["seconds"].as_f64().unwrap_or(f64::NAN);
        table.add_row([
            r["scenario"].as_str().unwrap_or_default().to_owned(),
            r["policy"].as_str().unwrap_or_default().to_owned(),
            r["round"].to_string(),
            format!("{mw:.0}"),
            format!("{:.1}", worst("p50_ms")),
            format!("{:.1}", worst("p95_ms")),
            format!("{:.1}", worst("violations") * 100.0),
            format!("{:.2}", right.iter().sum::<f64>() / right.len().max(1) as f64 * 100.0),
            format!("{:.1}", sum(&r["co_runners"])),
            r["host"]["valid"].to_string(),
        ]);
    }
    table.to_string()
}

/// This program again, in the guest.
fn command(options: &Options, board: &str) -> anyhow::Result<String> {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let mut command = format!("taskset -c 2 {}", quoted(&std::env::current_exe()?.display().to_string()));
    for file in &options.files {
        let file = file.canonicalize().with_context(|| file.display().to_string())?;
        command += &format!(" {}", quoted(&file.display().to_string()));
    }
    for policy in &options.policy {
        command += &format!(" --policy {}", quoted(policy));
    }
    command += &format!(" --rounds {} --out /mnt --speed /mnt/speed --cpus little=0,big=1", options.rounds);
    if options.informed {
        command += &format!(" --board {board}");
    }
    Ok(command)
}

/// What all runs take, with some room.
fn seconds(options: &Options) -> anyhow::Result<u32> {
    let mut sum = 0.0;
    for file in &options.files {
        sum += Scenario::load(file)?.length.as_secs() + 30.0;
    }
    let runs = options.rounds * options.policy.len();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "seconds"
    )]
    Ok((sum * runs as f64) as u32)
}
