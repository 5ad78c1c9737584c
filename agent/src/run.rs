//! `tandem run`: wiring, the wait between ticks, signals, and leaving the machine as it was found.
//!
//! Order of the start: everything that can refuse (configuration, lock, board, policies) comes before the
//! first write to the machine. From the first write on, the panic hook, the normal end and the next start
//! after a SIGKILL put everything back by the same list of steps.

use crate::actuate::{self, Actuator};
use crate::board::{self, Board};
use crate::config::{Config, PolicyFiles, millis_from, percent_from};
use crate::control::{self, Answer, Command, Request};
use crate::envelope::Envelope;
use crate::governor::Governor;
use crate::policy::slot::{PolicyContext, PolicyControl, PolicySlot};
use crate::policy::wasm::{WasmEngine, WasmLimits, WasmSource};
use crate::policy::Slo;
use crate::runners::Change;
use crate::runners::gate::{Gate, Prepare};
use crate::sense::{Event, Sense, SenseOptions, UseBpf};
use crate::status::{self, Status, Ticks};
use crate::units::{AppSlot, Nanos};
use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId as Clock, clock_gettime};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// `CLOCK_MONOTONIC`, now.
pub fn now() -> Nanos {
    let t = clock_gettime(Clock::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC is always there");
    Nanos(u64::try_from(t.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec()).unwrap_or(0))
}

/// At most one extra tick in this time.
const WOKEN_GAP: Nanos = Nanos::from_ms(1);

/// What `tandem run` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The configuration.
    #[arg(long)]
    pub config: PathBuf,
    /// Decide and report, write nothing: the first thing to try on a new machine.
    #[arg(long)]
    pub observe: bool,
    /// Sense through /proc even where eBPF would work.
    #[arg(long)]
    pub no_bpf: bool,
    /// Let the control socket inject a panic, to test that everything is put back.
    #[arg(long, hide = true)]
    pub allow_panic: bool,
}

/// Runs the agent until TERM or INT.
///
/// # Errors
/// It could not start (nothing was changed then), or something could not be put back.
pub fn run(options: &Options) -> anyhow::Result<()> {
    // Before any thread starts: all of them inherit the mask, and the signals wait for the loop.
    let signals = block_signals()?;
    let config = Config::load(&options.config)?;
    std::fs::create_dir_all(&config.run_dir)
        .with_context(|| format!("{}: cannot make the run directory", config.run_dir.display()))?;
    let (claim, repaired) = actuate::Claim::take(Path::new("/"), &config.run_dir)?;
    if repaired > 0 {
        tracing::warn!(entries = repaired, "put back what an agent that was killed had left");
    }
    let board = if config.board == "auto" { board::probe::probed()? } else { board::find(&config.board)? };
    let use_bpf = if options.no_bpf { UseBpf::Never } else { UseBpf::Auto };
    let (sense, lost) = Sense::open(&board, &SenseOptions { use_bpf, ..SenseOptions::default() })?;
    for l in &lost {
        tracing::warn!(what = %l.what, why = %l.why, "sensing is less than full");
    }
    let notify = eventfd()?;
    let engine = WasmEngine::new().context("wasmtime")?;
    let context = PolicyContext { board: board.clone(), period: config.period, signals: sense.signals().to_vec() };
    let slot = PolicySlot::new(context, Some(engine.clone())).context("start the policy loader")?;
    let sources = Sources::new(&config, &engine);
    // A set that cannot be used refuses the start, before anything is written.
    sources.check(&config.policy)?;

    let mut machine = Machine::take(claim, &board, options.observe)?;
    let envelope = Envelope::new(&board, sense.signals());
    let policy = slot.control();
    let mut agent = Agent {
        governor: Governor::new(sense, slot, envelope, machine.actuators.take(), board.domains.len(), config.valid),
        lost: lost.iter().map(|l| format!("{}: {}", l.what, l.why)).collect(),
        notes: std::mem::take(&mut machine.notes),
        scheduling: String::new(),
        ticks: Ticks { period_ms: config.period.as_ms(), ..Ticks::default() },
        allow_panic: options.allow_panic,
        policy,
        sources,
        board,
        config,
        gate: None,
    };
    let (to_loop, changes) = channel();
    let path = agent.config.run_dir.join("runner.sock");
    let prepare = machine.prepare();
    agent.gate = Some(Gate::start(&path, agent.config.apps.clone(), prepare, to_loop, Arc::clone(&notify))?);
    let requests = control::serve(&agent.config.run_dir, Arc::clone(&notify))?;
    // Last: threads started after this would inherit the priority.
    agent.scheduling = raise_priority(engine.timer_tid());
    tracing::info!(board = %agent.board.name, sensing = agent.governor.sense().source(), scheduling = %agent.scheduling, observe = options.observe, "running");
    let first = agent.sources.get(&agent.config.policy)?;
    let first = agent.policy.swap(first);
    let ended = agent.serve(&signals, &notify, &requests, &changes, first);

    drop(agent.gate.take());
    let _ = std::fs::remove_file(control::socket_path(&agent.config.run_dir));
    drop(agent);
    let errors = machine.restore();
    anyhow::ensure!(errors.is_empty(), "not everything could be put back:\n{}", errors.join("\n"));
    tracing::info!("everything is as it was found");
    ended
}

/// `tandem restore`.
///
/// # Errors
/// An agent is running, or something could not be put back.
pub fn restore(run_dir: &Path) -> anyhow::Result<()> {
    let entries = actuate::restore_after_kill(Path::new("/"), run_dir)?;
    println!("{entries} entries put back");
    Ok(())
}

fn block_signals() -> anyhow::Result<SignalFd> {
    let mut set = SigSet::empty();
    for s in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(s);
    }
    set.thread_block().context("block signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).context("signalfd")
}

fn eventfd() -> anyhow::Result<Arc<EventFd>> {
    Ok(Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).context("eventfd")?))
}

/// What was changed on the machine and how it is put back.
struct Machine {
    claim: Arc<std::sync::Mutex<actuate::Claim>>,
    actuators: Option<Vec<Box<dyn Actuator>>>,
    shares: Option<actuate::ShareDoor>,
    notes: Vec<String>,
}
