//! The same program in the guest, and what only the host knows of it: energy, and whether the run is valid.

use crate::Options;
use anyhow::{Context as _, bail, ensure};
use serde::Serialize;
use std::process::Command;
use tandem_tests::guest::{self, Quality};

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
    /// The same of the board's constant.
    board_mj: f64,
    /// Busy share of each limited CPU.
    busy: Vec<f64>,
    limiter_late: f64,
    stall_ms: f64,
    valid: bool,
    tries: usize,
}

/// Plays the scenario on a board of `tests/vm/boards`.
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
    let me = std::env::current_exe()?;
    let command = format!(
        "taskset -c 2 '{}' '{}' --policy '{}' --out /mnt --speed /mnt/speed --cpus little=0,big=1",
        me.display(),
        options.file.canonicalize().with_context(|| options.file.display().to_string())?.display(),
        options.policy
    );
    let mut more = vec!["-B", board];
    if options.plain {
        more.push("-I");
    }
    let vm = guest::Options { domains: &[], free: 1, seconds: 900, more: &more };
    let mut last = None;
    for tries in 1..=TRIES {
        let run = guest::run(&command, &share, &vm)?;
        ensure!(run.status == 0, "the guest ended with {}:\n{}", run.status, run.console);
        let (seconds, sums) = run.between(40, 41)?;
        let quality: Quality = run.quality(40, 41)?;
        println!("{quality}");
        let host = Host {
            seconds,
            board_mj: BOARD_MW * seconds,
            busy: sums.busy_ms.iter().map(|b| b / 1e3 / seconds).collect(),
            domains_mj: sums.mj,
            limiter_late: quality.late,
            stall_ms: quality.stall_ms,
            valid: quality.is_valid(),
            tries,
        };
        let valid = host.valid;
        last = Some(host);
        if valid {
            break;
        }
    }
    let Some(host) = last else { bail!("no run") };
    let path = share.join("result.json");
    let mut result: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    result["host"] = serde_json::to_value(&host)?;
    std::fs::write(&path, serde_json::to_vec_pretty(&result)?)?;
    println!("{}", serde_json::to_string_pretty(&result)?);
    println!("written: {}", path.display());
    ensure!(
        host.valid,
        "void: the host was too busy to keep time in all of {TRIES} runs; the figures above are no result"
    );
    Ok(())
}
