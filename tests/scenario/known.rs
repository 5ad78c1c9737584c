//! What an operator would have found out before: the board's powers, and how long each sub-network takes.

use crate::model;
use anyhow::{Context as _, ensure};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use tandem_tests::{guest, program};

/// Files for the agent's configuration.
pub struct Known {
    pub board: PathBuf,
    pub profile: PathBuf,
}

/// Writes the board's file and measures the profile, of frames of so many images, into `out`.
///
/// # Errors
/// The board is not one of `tests/vm/boards`, or `tandem profile` fails.
pub fn measure(board: &str, batches: &BTreeSet<usize>, out: &Path) -> anyhow::Result<Known> {
    let path = guest::scripts().join("boards").join(board);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let known = Known { board: out.join("board.toml"), profile: out.join("profile.toml") };
    std::fs::write(&known.board, board_file(board, &text).with_context(|| path.display().to_string())?)?;
    let batches: Vec<String> = batches.iter().map(usize::to_string).collect();
    let done = Command::new(program("tandem"))
        .args(["profile", "--noisy", "--run-dir", "/run/tandem", "--batches", &batches.join(","), "--board"])
        .arg(&known.board)
        .arg("--model")
        .arg(model())
        .arg("--out")
        .arg(&known.profile)
        .status()
        .context("start tandem profile")?;
    ensure!(done.success(), "tandem profile ended with {done}");
    Ok(known)
}

/// The powers that the host's model goes by, as a board file: domain N is CPU N alone.
fn board_file(name: &str, text: &str) -> anyhow::Result<String> {
    let mut file = format!(
        "name = {name:?}\nsource = \"tests/vm/boards, the host's own model\"\n[limits]\nmin-dwell-ms = 20\n"
    );
    let latency = text.lines().find_map(|l| l.strip_prefix("lat=")).context("no line lat=")?;
    let clusters = text.lines().filter_map(|l| l.trim().strip_prefix("1:"));
    for (cpu, opps) in clusters.enumerate() {
        let name = if cpu == 0 { "little" } else { "big" };
        write!(
            file,
            "[[domain]]\nname = {name:?}\nkind = \"cpufreq\"\npolicy = {cpu}\ncpus = [{cpu}]\n\
             transition-latency-us = {latency}\nopps = [\n"
        )?;
        for opp in opps.split(',') {
            let (mhz, mw) = opp.split_once('@').with_context(|| format!("{opp}: MHZ@MW"))?;
            writeln!(file, "  {{ freq = {mhz}000, power-mw = {mw} }},")?;
        }
        file += "]\n";
    }
    Ok(file)
}
