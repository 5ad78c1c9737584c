//! `tandem profile`: every sub-network at every OPP of this machine, thread count and batch.
//!
//! The clocks are set by the agent's own path (envelope, actuators, read-back) and put back at the end, on a
//! signal and on a panic; `dnn-runner profile` times the frames, one process per OPP, in a group of its own.
//! The table goes on where an earlier run was broken off.

use crate::actuate::{self, Actuator, Actuators, Door, Half};
use crate::board::{Board, Domain};
use crate::envelope::{Admitted, Envelope};
use crate::policy::{AppChoice, Decision, Grant, Slo};
use crate::run::{MACHINE_LOCK, block_signals, find_board, now, put_back_on_panic};
use crate::snapshot::Snapshot;
use crate::units::{AppSlot, DomainId, OppIndex};
use anyhow::Context as _;
use nix::sys::signalfd::SignalFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The slot of the runner that measures: there is no other.
const SLOT: AppSlot = AppSlot(0);

/// What `tandem profile` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Manifest of the network
    #[arg(long)]
    pub model: PathBuf,
    /// The table; a broken-off run goes on from what it holds
    #[arg(long, value_name = "FILE.toml")]
    pub out: PathBuf,
    /// Thread counts
    #[arg(long, default_value = "1")]
    pub threads: String,
    /// Images of a frame; `auto` as of a run
    #[arg(long, default_value = "1")]
    pub batches: String,
    /// So many OPPs of each domain, evenly spread, instead of all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub opps: Option<u16>,
    /// Measure although others are at work
    #[arg(long)]
    pub noisy: bool,
    /// The board: `auto`, a shipped one's name, or a file
    #[arg(long, default_value = "auto")]
    pub board: String,
    /// Saved settings live here
    #[arg(long, default_value = "/run/tandem")]
    pub run_dir: PathBuf,
}

/// Measures.
///
/// # Errors
/// The machine cannot be had, the runner refuses, or something could not be put back.
pub fn measure(options: &Options) -> anyhow::Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "setting clocks needs root; `dnn-runner profile` measures at the clock as it is"
    );
    // The runner inherits the mask: it is ended by a signal that cannot be blocked.
    let signals = block_signals()?;
    std::fs::create_dir_all(&options.run_dir)
        .with_context(|| format!("{}: cannot make the run directory", options.run_dir.display()))?;
    let _machine = actuate::MachineLock::take(Path::new(MACHINE_LOCK))?;
    let (claim, _) = actuate::Claim::take(Path::new("/"), &options.run_dir)?;
    let board = find_board(&options.board)?;
    put_back_on_panic(claim.state_file());
    let (mut door, mut actuators, notes) = actuate::start(&board, claim, &actuate::Options::default())?;
    for note in &notes {
        tracing::info!(note = %note, "actuators");
    }
    let done = every_opp(options, &board, &mut door, &mut actuators, &signals);
    let errors: Vec<_> = door.restore().iter().map(ToString::to_string).collect();
    anyhow::ensure!(errors.is_empty(), "not everything could be put back:\n{}", errors.join("\n"));
    done
}

/// `want` of `opps` positions, both ends among them, the highest first: the layers are timed at that one.
fn spread(opps: u16, want: Option<u16>) -> Vec<OppIndex> {
    let n = want.unwrap_or(opps).min(opps);
    let at = |i: u16| if n == 1 { opps - 1 } else { (opps - 1) - i * (opps - 1) / (n - 1) };
    (0..n).map(|i| OppIndex(at(i))).collect()
}

fn every_opp(
    options: &Options,
    board: &Board,
    door: &mut Door,
    actuators: &mut Actuators,
    signals: &SignalFd,
) -> anyhow::Result<()> {
    // An accelerator's clock is for networks that run there, which ours do not.
    let domains: Vec<_> = board.ids().filter(|(_, d)| !d.cpus.is_empty()).collect();
    anyhow::ensure!(!domains.is_empty(), "board {:?} has no domain with CPUs", board.name);
    for (id, domain) in domains {
        let all = u16::try_from(domain.opps.len()).context("too many OPPs")?;
        for opp in spread(all, options.opps) {
            let freq = domain.opps[usize::from(opp.0)].freq;
            println!("{} at {freq}", domain.name);
            let mut runner = start(options, domain, freq.raw)?;
            let ran = at(board, id, opp, door, actuators, &mut runner)
                .and_then(|reached| if reached { wait(&mut runner, signals) } else { Ok(()) });
            // Ended already, or not to go on.
            let _ = runner.kill();
            let _ = runner.wait();
            for e in door.leave(SLOT) {
                tracing::warn!(error = %e, "the runner's group");
            }
            actuators.remove(SLOT);
            ran?;
        }
    }
    println!("written: {}", options.out.display());
    Ok(())
}

/// Loaded, it waits until its standard input ends.
fn start(options: &Options, domain: &Domain, freq: u64) -> anyhow::Result<Child> {
    let path = std::env::current_exe().context("path of this program")?.with_file_name("dnn-runner");
    let mut runner = Command::new(&path);
    runner.arg("profile").arg("--wait").arg("--at").arg(format!("{}={freq}", domain.name));
    runner.arg("--model").arg(&options.model).arg("--out").arg(&options.out);
    runner.args(["--threads", &options.threads, "--batches", &options.batches]);
    if options.noisy {
        runner.arg("--noisy");
    }
    let child = runner.stdin(Stdio::piped()).spawn();
    child.with_context(|| format!("{}: start the runner", path.display()))
}

/// Sets the OPP with the runner in its group; whether it was reached.
fn at(
    board: &Board,
    id: DomainId,
    opp: OppIndex,
    door: &mut Door,
    actuators: &mut Actuators,
    runner: &mut Child,
) -> anyhow::Result<bool> {
    let member = door.join(SLOT, "profile", i32::try_from(runner.id())?)?;
    actuators.admit(member);
    actuators.set_order(&[SLOT]);
    let grant = Grant { domain: id, cores: 0, weight: 100, power: None, target: Slo::default() };
    let mut opps = vec![None; board.domains.len()];
    opps[usize::from(id.0)] = Some(opp);
    let wish = Decision { seq: 1, opps, apps: vec![Some((grant, AppChoice::default()))] };
    let mut seen = Snapshot::new(0, board.domains.len(), 0);
    seen.at = now();
    let mut order = Admitted::default();
    // Made anew for each OPP: minutes lie between two moves.
    Envelope::new(board, &[]).admit(&seen, &wish, &mut order);
    for half in [Half::Raise, Half::Lower] {
        if let Err(e) = actuators.apply(&order, half) {
            println!("  left out: {e}");
            return Ok(false);
        }
    }
    match actuators.standing(id) {
        Some(standing) if standing != opp => {
            println!("  left out: something outside holds the clock at OPP {}", standing.0);
            Ok(false)
        }
        _ => Ok(true),
    }
}

fn wait(runner: &mut Child, signals: &SignalFd) -> anyhow::Result<()> {
    drop(runner.stdin.take());
    loop {
        if let Some(code) = runner.try_wait()? {
            anyhow::ensure!(code.success(), "dnn-runner profile ended with {code}");
            return Ok(());
        }
        if let Ok(Some(signal)) = signals.read_signal() {
            anyhow::bail!("ended by signal {}; the table goes on from here", signal.ssi_signo);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opps_are_spread_from_the_highest_to_the_lowest() {
        let at = |opps, want| spread(opps, want).iter().map(|o| o.0).collect::<Vec<_>>();
        assert_eq!(at(4, None), [3, 2, 1, 0]);
        assert_eq!(at(10, Some(4)), [9, 6, 3, 0]);
        assert_eq!(at(10, Some(1)), [9]);
        assert_eq!(at(2, Some(9)), [1, 0]);
        assert_eq!(at(1, Some(3)), [0]);
    }
}
