//! `tandem run`: wiring, the wait between ticks, signals, and leaving the machine as it was found.
//!
//! Order of the start: everything that can refuse (configuration, lock, board, policies) comes before the
//! first write to the machine. From the first write on, the panic hook, the normal end and the next start
//! after a SIGKILL put everything back by the same list of steps.

use crate::actuate;
use crate::board::{self, Board};
use crate::config::{Config, millis_from, percent_from};
use crate::control::{self, Answer, Command, Request};
use crate::envelope::Envelope;
use crate::governor::Governor;
use crate::host::Host;
use crate::policy::slot::{Pending, PolicyContext, PolicyControl, PolicySlot};
use crate::policy::wasm::{PolicyFiles, PolicyKind, WasmEngine, WasmLimits, WasmSource};
use crate::policy::{Objective, Slo};
use crate::runners::Change;
use crate::runners::gate::Gate;
use crate::sense::{Event, Sense, SenseOptions, UseBpf};
use crate::status::{self, Status, Ticks};
use crate::units::{Milliwatts, Nanos};
use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId as Clock, clock_gettime};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// `CLOCK_MONOTONIC`, now.
pub fn now() -> Nanos {
    let t = clock_gettime(Clock::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC is always there");
    Nanos(u64::try_from(t.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec()).unwrap_or(0))
}

/// One agent per machine, whatever its run directory.
pub(crate) const MACHINE_LOCK: &str = "/run/tandem.lock";

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
    let _machine = actuate::MachineLock::take(Path::new(MACHINE_LOCK))?;
    let (claim, repaired) = actuate::Claim::take(Path::new("/"), &config.run_dir)?;
    if repaired > 0 {
        tracing::warn!(entries = repaired, "put back what an agent that was killed had left");
    }
    let board = find_board(&config.board)?;
    for app in &config.apps {
        if let Some(profile) = &app.profile {
            profile.check(&board).map_err(anyhow::Error::msg)?;
        }
    }
    let use_bpf = if options.no_bpf { UseBpf::Never } else { UseBpf::Auto };
    let (sense, lost) = Sense::open(&board, &SenseOptions { use_bpf, ..SenseOptions::default() });
    for l in &lost {
        tracing::warn!(what = %l.what, why = %l.why, "sensing is less than full");
    }
    let notify = eventfd()?;
    let engine = WasmEngine::new().context("wasmtime")?;
    let context =
        PolicyContext { board: board.clone(), period: config.period, signals: sense.signals().to_vec() };
    let slot = PolicySlot::new(context, Some(engine.clone())).context("start the policy loader")?;
    let sources = Sources::new(&config, &engine);
    // A set that cannot be used refuses the start, before anything is written.
    let files = config.policies.get(&config.policy).context("checked at load")?;
    sources.check(files)?;

    // From here on the machine is changed; whatever happens, it is put back.
    let (door, actuators, notes) = if options.observe {
        (None, None, vec![])
    } else {
        put_back_on_panic(claim.state_file());
        let (door, actuators, notes) = actuate::start(&board, claim, &actuate::Options::default())?;
        (Some(Arc::new(Mutex::new(door))), Some(actuators), notes)
    };
    for note in &notes {
        tracing::info!(note = %note, "actuators");
    }
    let (to_loop, changes) = channel();
    let gate_path = config.run_dir.join("runner.sock");
    let known = (config.apps.clone(), board.clone());
    let gate = Gate::start(&gate_path, known, door.clone(), to_loop, Arc::clone(&notify))?;
    let requests = control::serve(&config.run_dir, Arc::clone(&notify))?;
    let envelope = Envelope::new(&board, sense.signals());
    let policy = slot.control();
    let first = policy.swap(sources.get(&config.policy)?);
    let mut agent = Agent {
        governor: Governor::new(
            Host::new(sense, actuators, board.domains.len()),
            slot,
            envelope,
            config.valid,
        ),
        lost: lost.iter().map(|l| format!("{}: {}", l.what, l.why)).collect(),
        notes,
        // Last: threads started after this would inherit the priority.
        scheduling: raise_priority(),
        ticks: Ticks { period_ms: config.period.as_ms(), ..Ticks::default() },
        allow_panic: options.allow_panic,
        asked: vec![],
        policy,
        sources,
        board,
        gate,
    };
    tracing::info!(
        board = %agent.board.name,
        bpf = agent.governor.sense().by_bpf(),
        scheduling = %agent.scheduling,
        observe = options.observe,
        "running"
    );
    let ended = agent.serve(config.period, &signals, &notify, &requests, &changes, first);
    // Ends the gate's thread, so that nobody joins while all is put back.
    drop(agent);
    let _ = std::fs::remove_file(control::socket_path(&config.run_dir));
    if let Some(door) = door {
        let errors = door.lock().unwrap_or_else(PoisonError::into_inner).restore();
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        anyhow::ensure!(errors.is_empty(), "not everything could be put back:\n{}", errors.join("\n"));
        tracing::info!("everything is as it was found");
    }
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

/// `auto`: what this machine has; else a shipped board's name, or a file.
pub(crate) fn find_board(name: &str) -> anyhow::Result<Board> {
    if name != "auto" {
        return Ok(Board::find(name)?);
    }
    let text = board::probe::probe(Path::new("/"))?;
    Ok(Board::parse("probed board", &text)?)
}

pub(crate) fn block_signals() -> anyhow::Result<SignalFd> {
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

/// A panic in any thread puts everything back and ends the process: a loop without one of its threads
/// governs nothing.
pub(crate) fn put_back_on_panic(state: &Path) {
    let (state, usual) = (state.to_path_buf(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        match actuate::restore_state(Path::new("/"), &state) {
            Ok(entries) => eprintln!("tandem: panic: {entries} entries put back"),
            Err(e) => eprintln!("tandem: panic: {e}"),
        }
        std::process::exit(101);
    }));
}

/// Asks for a place before everything that is not real-time, and says what was given.
fn raise_priority() -> String {
    use thread_priority::unix::{
        NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ThreadSchedulePolicy,
        set_thread_priority_and_policy, thread_native_id,
    };
    let fifo = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let one = thread_priority::ThreadPriority::Crossplatform(1u8.try_into().expect("1 is in 0..100"));
    if set_thread_priority_and_policy(thread_native_id(), one, fifo).is_ok() {
        return "SCHED_FIFO 1".into();
    }
    let _ = NormalThreadSchedulePolicy::Other;
    match rustix::process::setpriority_process(None, -20) {
        Ok(()) => "nice -20".into(),
        Err(e) => format!("as it was started (nice -20 refused: {e})"),
    }
}

/// The policy sets of the configuration, compiled once each.
struct Sources {
    sets: BTreeMap<String, Arc<WasmSource>>,
    engine: WasmEngine,
}

impl Sources {
    fn new(config: &Config, engine: &WasmEngine) -> Self {
        let call = Duration::from_nanos(config.decide_deadline.0);
        let limits = WasmLimits { memory_bytes: config.policy_memory, call, ..WasmLimits::default() };
        let source = |files: &PolicyFiles| Arc::new(WasmSource::new(engine, files.clone(), limits));
        let sets = config.policies.iter().map(|(name, files)| (name.clone(), source(files))).collect();
        Self { sets, engine: engine.clone() }
    }

    fn get(&self, set: &str) -> anyhow::Result<Arc<WasmSource>> {
        self.sets.get(set).cloned().with_context(|| {
            let known: Vec<_> = self.sets.keys().map(String::as_str).collect();
            format!("policy set {set:?} is not in the configuration; it has {}", known.join(", "))
        })
    }

    /// Whether a set's two files can serve at all.
    fn check(&self, files: &PolicyFiles) -> anyhow::Result<()> {
        for (path, kind) in [(&files.allocator, PolicyKind::Allocator), (&files.tuner, PolicyKind::Tuner)] {
            let info = crate::policy::wasm::check(&self.engine, path)?;
            anyhow::ensure!(info.kind == kind, "{}: is {}, must be {kind}", path.display(), info.kind);
        }
        Ok(())
    }
}

struct Agent {
    governor: Governor,
    policy: PolicyControl,
    sources: Sources,
    board: Board,
    gate: Gate,
    ticks: Ticks,
    lost: Vec<String>,
    notes: Vec<String>,
    scheduling: String,
    allow_panic: bool,
    /// Swaps under way and who asked for them.
    asked: Vec<(Pending, Sender<Answer>)>,
}

impl Agent {
    /// The wait between ticks: timer, rare events, requests and arrivals, signals.
    fn serve(
        &mut self,
        period: Nanos,
        signals: &SignalFd,
        notify: &EventFd,
        requests: &Receiver<Request>,
        changes: &Receiver<Change>,
        first: Pending,
    ) -> anyhow::Result<()> {
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)
                .context("timerfd")?;
        let every = TimeSpec::from_duration(Duration::from_nanos(period.0));
        timer.set(Expiration::Interval(every), TimerSetTimeFlags::empty()).context("set the timer")?;
        let mut due = now() + period;
        let mut last_step = Nanos(0);
        let mut first = Some(first);
        loop {
            self.wait(&timer, signals, notify)?;
            if let Ok(Some(signal)) = signals.read_signal() {
                tracing::info!(signal = signal.ssi_signo, "ending");
                return Ok(());
            }
            if notify.read().is_ok() {
                while let Ok(change) = changes.try_recv() {
                    self.governor.change(change);
                }
                while let Ok(request) = requests.try_recv() {
                    self.answer(request);
                }
            }
            let woken = self.rare_events();
            let began = now();
            if began >= due {
                let late = began.since(due);
                self.ticks.late_max_us = self.ticks.late_max_us.max(late.0 / 1000);
                // Every period that passed without its tick is missed; the grid stays.
                let skipped = late.0 / period.0;
                self.ticks.missed += skipped;
                self.ticks.done += 1;
                due = Nanos(due.0 + (skipped + 1) * period.0);
                let _ = timer.wait();
            } else if woken && began.since(last_step) >= WOKEN_GAP {
                self.ticks.woken += 1;
            } else {
                continue;
            }
            last_step = began;
            if let Some((slot, why)) = self.governor.step(began, now) {
                self.governor.drop_runner(slot, &why, &self.gate);
            }
            self.tell_swapped();
            // The set to start with: what refuses it now was not to be known before.
            if let Some(answer) = first.as_ref().and_then(Pending::poll) {
                first = None;
                answer.context("the first policy set")?;
            }
        }
    }

    fn wait(&self, timer: &TimerFd, signals: &SignalFd, notify: &EventFd) -> anyhow::Result<()> {
        // Without eBPF there are no rare events: the timer stands in for them.
        let events = self.governor.sense().events_fd().unwrap_or(timer.as_fd());
        let fds = [timer.as_fd(), signals.as_fd(), notify.as_fd(), events];
        match poll(&mut fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)), PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(e) => Err(e).context("wait for the next tick"),
        }
    }

    /// Whether something rare happened that deserves a tick of its own.
    fn rare_events(&mut self) -> bool {
        let mut any = false;
        self.governor.sense_mut().drain_events(&mut |event| {
            any = true;
            if let Event::LimitImposed { .. } = event {
                tracing::debug!(?event, "a limit was imposed from outside");
            }
        });
        any
    }

    fn answer(&mut self, request: Request) {
        let Request { command, reply } = request;
        let answer = match command {
            Command::Status {} => Answer::Status(Box::new(self.status())),
            Command::Swap { set } => return self.swap(&set, reply),
            Command::AppSet { name, latency_ms, top1, power_mw, objective } => {
                match self.app_set(&name, latency_ms, top1, power_mw, objective) {
                    Ok(text) => Answer::Done(text),
                    Err(e) => Answer::Error(format!("{e:#}")),
                }
            }
            Command::Panic {} if self.allow_panic => panic!("injected by the control socket"),
            Command::Panic {} => Answer::Error("the agent was not started with --allow-panic".into()),
        };
        // Who asked may have gone.
        let _ = reply.send(answer);
    }

    /// The loader makes and tries the set; the loop looks for its word after each step.
    fn swap(&mut self, set: &str, reply: Sender<Answer>) {
        match self.sources.get(set) {
            Ok(source) => self.asked.push((self.policy.swap(source), reply)),
            // Who asked may have gone.
            Err(e) => drop(reply.send(Answer::Error(e.to_string()))),
        }
    }

    fn tell_swapped(&mut self) {
        let serving = self.governor.policy();
        self.asked.retain(|(pending, reply)| {
            let Some(answer) = pending.poll() else { return true };
            let answer = match answer {
                Ok(()) => Answer::Done(format!("{} serves", serving.serving())),
                Err(e) => Answer::Error(e.to_string()),
            };
            drop(reply.send(answer));
            false
        });
    }

    fn app_set(
        &mut self,
        name: &str,
        latency_ms: Option<f64>,
        top1: Option<f64>,
        power_mw: Option<u32>,
        objective: Option<Objective>,
    ) -> anyhow::Result<String> {
        let slot = self
            .governor
            .runners()
            .slot_of(name)
            .with_context(|| format!("application {name:?} is not here"))?;
        let mut target = self.governor.runners().get(slot).map_or(Slo::default(), |r| r.app.target);
        if let Some(ms) = latency_ms {
            let rule = || format!("latency_ms = {ms}: between 0.1 and 600000, or 0 for none");
            target.latency =
                if ms == 0.0 { None } else { Some(millis_from(ms, 0.1, 600_000.0).with_context(rule)?) };
        }
        if let Some(percent) = top1 {
            let rule = || format!("top1 = {percent}: a percentage between 0 and 100; 0 for none");
            target.top1 = if percent == 0.0 { None } else { Some(percent_from(percent).with_context(rule)?) };
        }
        if let Some(mw) = power_mw {
            target.power = (mw != 0).then_some(Milliwatts(mw));
        }
        target.objective = objective.unwrap_or(target.objective);
        self.governor.set_target(slot, target);
        tracing::info!(name, ?target, "target changed");
        let latency = target.latency.map_or("none".into(), |l| format!("{} ms", l.as_ms()));
        let top1 = target.top1.map_or("none".into(), |t| format!("{:.2} %", f64::from(t.0) / 100.0));
        let power = target.power.map_or("none".into(), |p| format!("{} mW", p.0));
        let first = target.objective.word();
        Ok(format!("{name}: latency {latency}, accuracy floor {top1}, power budget {power}, {first} first"))
    }

    fn status(&self) -> Status {
        status::of(&status::Parts {
            governor: &self.governor,
            board: &self.board,
            policy: &self.policy.status(),
            ticks: self.ticks,
            lost: &self.lost,
            notes: &self.notes,
            scheduling: &self.scheduling,
        })
    }
}
