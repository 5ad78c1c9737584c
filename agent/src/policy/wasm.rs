//! Policies as WebAssembly components: the only place that names wasmtime.
//!
//! A policy file is compiled once ([`Compiled`]) and instantiated as often as there are applications;
//! each instance has its own memory, its own budget and one import, `log`. Here a guest is hostile until
//! proven otherwise:
//!
//! - **time**: a call has a deadline in *CPU time of the calling thread* (see [`Budget`] and `timer.rs`);
//! - **memory**: all linear memories of an instance together stay under a cap;
//! - **answers**: checked against the board and the applications before anybody uses them (`rules.rs`);
//! - **determinism**: no WASI, no clock, no threads, no relaxed SIMD, canonical NaN, so the same calls
//!   since `start` give the same answers.
//!
//! After an error other than a refusal an instance is spent: drop it. Not responsible for what happens
//! then, nor for swapping; that is `slot.rs`.

mod component;
mod lift;
mod log;
mod lower;
mod rules;
mod source;
mod timer;
mod wire;

pub use component::{Compiled, FILE_BYTES, PolicyInfo, PolicyKind, check};
pub use source::{PolicyFiles, WasmSource};
pub use wire::MAX_DOMAINS;

use crate::board::Board;
use crate::policy::{Allocation, Allocator, App, AppChoice, Limits, Param, PolicyError, Tuner, View};
use crate::snapshot::{Signal, Snapshot};
use crate::units::Nanos;
use log::LineLimit;
use nix::time::{ClockId, clock_gettime};
use rules::Rules;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use timer::{Pace, Timer};
use wasmtime::component::{ComponentNamedList, Instance, Lift, Linker, Lower, TypedFunc, WasmStr};
use wasmtime::{Config, Engine, OptLevel, ResourceLimiter, Store, StoreContextMut, Trap, UpdateDeadline};

/// The interface a policy may import.
const HOST: &str = "tandem:policy/host@0.2.0";
/// How often a running guest is asked for its CPU time, and after how long first.
const PACE: Pace = Pace { quantum: Duration::from_micros(500), rest: Duration::from_millis(4) };
/// Bytes that one call may hand to the host (a log line, a refusal, an answer's lists).
const HOSTCALL_BYTES: usize = 64 << 10;
/// Bytes of a guest's own words kept in an error.
const REASON_BYTES: usize = 512;
/// Core instances of one component; `wit-component` makes three or four.
const INSTANCES: usize = 16;
/// Tables of one component and elements of each.
const TABLES: usize = 16;
const TABLE_ELEMENTS: usize = 10_000;

/// What a policy may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WasmLimits {
    /// All its linear memories together.
    pub memory_bytes: usize,
    /// CPU time of a `decide`, `limits`, `apps` or `app`. A guest is never stopped before, and at the
    /// latest 5 ms after it (it is first asked within 4 ms, then each half).
    pub call: Duration,
    /// CPU time of `start` and of the instantiation.
    pub start: Duration,
}

impl Default for WasmLimits {
    fn default() -> Self {
        Self { memory_bytes: 16 << 20, call: Duration::from_millis(2), start: Duration::from_millis(100) }
    }
}

/// The compiler, the import and the deadline clock; cheap to clone, one per process.
#[derive(Clone)]
pub struct WasmEngine(Arc<Shared>);

struct Shared {
    engine: Engine,
    linker: Linker<State>,
    timer: Timer,
}

impl std::fmt::Debug for WasmEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WasmEngine").field("timer", &self.0.timer).finish_non_exhaustive()
    }
}

impl WasmEngine {
    /// Configures wasmtime and starts the timer thread. Make it before the calling thread gets a
    /// real-time priority: the timer's thread inherits it.
    ///
    /// # Errors
    /// The timer or its thread could not be made, or wasmtime does not support this machine.
    pub fn new() -> std::io::Result<Self> {
        let mut config = Config::new();
        config
            .wasm_component_model(true)
            .concurrency_support(false)
            .epoch_interruption(true)
            .cranelift_nan_canonicalization(true)
            .cranelift_opt_level(OptLevel::Speed)
            .wasm_relaxed_simd(false)
            .wasm_memory64(false)
            .wasm_multi_memory(false)
            .wasm_backtrace_max_frames(None);
        let engine = Engine::new(&config).map_err(std::io::Error::other)?;
        let mut linker = Linker::new(&engine);
        linker
            .instance(HOST)
            .and_then(|mut host| host.func_wrap("log", log_line))
            .map_err(std::io::Error::other)?;
        let ticked = engine.clone();
        let timer = Timer::new(PACE, move || ticked.increment_epoch())?;
        Ok(Self(Arc::new(Shared { engine, linker, timer })))
    }

    /// Runs `calls` with the deadline clock on. Each policy call does this for itself; a caller that
    /// makes several in a row (the loop, once a tick) saves their arming by wrapping them.
    pub fn armed<R>(&self, calls: impl FnOnce() -> R) -> R {
        self.0.timer.armed(calls)
    }

    /// How many compiled files and instances use the engine, this handle's clones included and itself
    /// not: a leak shows here.
    pub fn users(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }

    /// The timer's thread. Whoever gives the loop a real-time priority gives this thread a higher one:
    /// on a machine with one CPU nothing else interrupts a guest that never returns.
    pub fn timer_tid(&self) -> Option<i32> {
        self.0.timer.tid()
    }
}

/// The time a call has left.
///
/// The epoch only *asks*: when it moved since the call began, wasmtime calls [`Budget::ask`] on the
/// guest's own thread, which looks at that thread's CPU clock. The first time in a call it notes the
/// clock, later it compares. So a call pays nothing for its deadline unless it lasts into the next
/// quantum, and time in which the thread did not run (the host stalled, another process had the CPU) is
/// not held against the guest.
#[derive(Debug)]
struct Budget {
    deadline: Duration,
    /// CPU time when first asked in this call.
    asked: Option<Duration>,
    late: bool,
}

impl Budget {
    fn ask(&mut self, cpu_time: Duration) -> UpdateDeadline {
        let first = *self.asked.get_or_insert(cpu_time);
        self.late = cpu_time.saturating_sub(first) >= self.deadline;
        if self.late { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) }
    }
}

/// What belongs to one instance.
struct State {
    name: Arc<str>,
    lines: LineLimit,
    budget: Budget,
    memory: usize,
    memory_cap: usize,
    /// The memory it was refused.
    refused: Option<usize>,
}

impl ResourceLimiter for State {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory.saturating_add(desired.saturating_sub(current));
        if total > self.memory_cap {
            self.refused = Some(total);
            // An error, not `Ok(false)`: the trap then names the cause, instead of whatever the
            // guest's allocator does when it is refused.
            return Err(wasmtime::Error::msg(over_memory(total, self.memory_cap)));
        }
        self.memory = total;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        TABLES
    }
}

fn over_memory(total: usize, cap: usize) -> String {
    format!("asked for {total} bytes of memory in all, {cap} are allowed")
}

/// The one import.
fn log_line(
    mut store: StoreContextMut<'_, State>,
    (level, text): (wire::Level, WasmStr),
) -> wasmtime::Result<()> {
    if let Some(left_out) = store.data_mut().lines.admit(Instant::now()) {
        let text = text.to_str(&store)?;
        log::write(&store.data().name, level, log::cut(&text), left_out);
    }
    Ok(())
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has a CPU clock").into()
}

fn root(error: &wasmtime::Error) -> String {
    error.root_cause().to_string()
}

/// One instance.
struct Guest {
    engine: WasmEngine,
    store: Store<State>,
    instance: Instance,
    limits: WasmLimits,
}

impl Guest {
    fn name(&self) -> &str {
        &self.store.data().name
    }

    /// One call within its deadline.
    fn call<P, R>(&mut self, verb: &'static str, func: &TypedFunc<P, R>, args: P) -> Result<R, PolicyError>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let deadline = if verb == "start" { self.limits.start } else { self.limits.call };
        self.store.data_mut().budget = Budget { deadline, asked: None, late: false };
        self.store.set_epoch_deadline(1);
        let store = &mut self.store;
        self.engine.armed(|| func.call(store, args)).map_err(|error| self.error(verb, deadline, &error))
    }

    fn error(&self, verb: &'static str, deadline: Duration, error: &wasmtime::Error) -> PolicyError {
        let name = self.name().to_owned();
        let state = self.store.data();
        if state.budget.late {
            let deadline_us = u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX);
            PolicyError::Late { name, verb, deadline_us }
        } else if let Some(total) = state.refused {
            PolicyError::Trapped { name, verb, reason: over_memory(total, state.memory_cap) }
        } else if let Some(trap) = error.downcast_ref::<Trap>() {
            PolicyError::Trapped { name, verb, reason: trap.to_string() }
        } else {
            // Not the guest's code failed but its answer: a pointer outside its memory, say.
            PolicyError::Invalid { name, reason: format!("{verb}: {}", root(error)) }
        }
    }

    fn refused(&self, verb: &'static str, reason: &str) -> PolicyError {
        let end = reason.floor_char_boundary(REASON_BYTES);
        PolicyError::Refused { name: self.name().to_owned(), verb, reason: reason[..end].to_owned() }
    }

    fn invalid(&self, reason: String) -> PolicyError {
        PolicyError::Invalid { name: self.name().to_owned(), reason }
    }
}

type Start<'a, A> = TypedFunc<(wire::Board<'a>, A, Vec<wire::Param<'a>>), (Result<(), String>,)>;
type SetLimits = TypedFunc<(&'static [wire::OppRange],), ()>;

/// An allocator in Wasm.
pub struct WasmAllocator {
    guest: Guest,
    start: Start<'static, Vec<wire::App<'static>>>,
    apps: TypedFunc<(Vec<wire::App<'static>>,), ()>,
    limits: SetLimits,
    decide: TypedFunc<(wire::Snapshot<'static>,), (wire::Allocation,)>,
    ranges: Vec<wire::OppRange>,
    rules: Rules,
    app_count: usize,
}

/// A tuner in Wasm.
pub struct WasmTuner {
    guest: Guest,
    start: Start<'static, wire::App<'static>>,
    app: TypedFunc<(wire::App<'static>,), ()>,
    limits: SetLimits,
    decide: TypedFunc<(wire::View<'static>,), (wire::Choice,)>,
    ranges: Vec<wire::OppRange>,
    rules: Rules,
    subnets: usize,
    threads_max: u8,
}

impl std::fmt::Debug for WasmAllocator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WasmAllocator").field("name", &self.guest.name()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for WasmTuner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WasmTuner").field("name", &self.guest.name()).finish_non_exhaustive()
    }
}

impl WasmAllocator {
    /// Compiles a file and instantiates it.
    ///
    /// # Errors
    /// [`PolicyError::Unusable`] with the rule that the file breaks.
    pub fn load(engine: &WasmEngine, path: &Path, limits: WasmLimits) -> Result<Self, PolicyError> {
        Self::new(&Compiled::load(engine, path)?, limits)
    }

    /// A new instance of a compiled file.
    ///
    /// # Errors
    /// [`PolicyError::Unusable`] with the rule that the file breaks.
    pub fn new(code: &Compiled, limits: WasmLimits) -> Result<Self, PolicyError> {
        let mut guest = code.instantiate(PolicyKind::Allocator, limits)?;
        Ok(Self {
            start: code.export(&mut guest, "start")?,
            apps: code.export(&mut guest, "apps")?,
            limits: code.export(&mut guest, "limits")?,
            decide: code.export(&mut guest, "decide")?,
            guest,
            ranges: Vec::new(),
            rules: Rules::default(),
            app_count: 0,
        })
    }
}

impl WasmTuner {
    /// Compiles a file and instantiates it.
    ///
    /// # Errors
    /// [`PolicyError::Unusable`] with the rule that the file breaks.
    pub fn load(engine: &WasmEngine, path: &Path, limits: WasmLimits) -> Result<Self, PolicyError> {
        Self::new(&Compiled::load(engine, path)?, limits)
    }

    /// A new instance of a compiled file.
    ///
    /// # Errors
    /// [`PolicyError::Unusable`] with the rule that the file breaks.
    pub fn new(code: &Compiled, limits: WasmLimits) -> Result<Self, PolicyError> {
        let mut guest = code.instantiate(PolicyKind::Tuner, limits)?;
        Ok(Self {
            start: code.export(&mut guest, "start")?,
            app: code.export(&mut guest, "app")?,
            limits: code.export(&mut guest, "limits")?,
            decide: code.export(&mut guest, "decide")?,
            guest,
            ranges: Vec::new(),
            rules: Rules::default(),
            subnets: 0,
            threads_max: 0,
        })
    }
}

/// A board larger than the arrays that answers are lifted into.
fn too_large(board: &Board, apps: usize) -> Option<String> {
    if board.domains.len() > MAX_DOMAINS {
        return Some(format!("the board has {} domains, {MAX_DOMAINS} are allowed", board.domains.len()));
    }
    let most = channel::MAX_RUNNERS;
    (apps > most).then(|| format!("there are {apps} applications, {most} are allowed"))
}

impl Allocator for WasmAllocator {
    fn name(&self) -> &str {
        self.guest.name()
    }

    fn start(
        &mut self,
        board: &Board,
        period: Nanos,
        signals: &[Signal],
        apps: &[App],
        params: &[Param],
    ) -> Result<(), PolicyError> {
        if let Some(reason) = too_large(board, apps.len()) {
            return Err(self.guest.refused("start", &reason));
        }
        let args = (
            wire::Board::new(board, period, signals),
            apps.iter().map(wire::App::new).collect::<Vec<_>>(),
            wire::params(params),
        );
        let start: Start<'_, Vec<wire::App<'_>>> = self.start;
        let (answer,) = self.guest.call("start", &start, args)?;
        answer.map_err(|reason| self.guest.refused("start", &reason))?;
        self.rules = Rules::new(board);
        self.app_count = apps.len();
        Ok(())
    }

    fn apps(&mut self, apps: &[App]) -> Result<(), PolicyError> {
        let list = apps.iter().map(wire::App::new).collect();
        let func: TypedFunc<(Vec<wire::App<'_>>,), ()> = self.apps;
        self.app_count = apps.len();
        self.guest.call("apps", &func, (list,))
    }

    fn limits(&mut self, now: &Limits) -> Result<(), PolicyError> {
        wire::ranges(&mut self.ranges, now);
        self.guest.call("limits", &self.limits, (&self.ranges,))
    }

    fn decide(&mut self, seen: &Snapshot, out: &mut Allocation) -> Result<(), PolicyError> {
        let func: TypedFunc<(wire::Snapshot<'_>,), (wire::Allocation,)> = self.decide;
        let (answer,) = self.guest.call("decide", &func, (seen.into(),))?;
        self.rules.allocation(answer, self.app_count, out).map_err(|reason| self.guest.invalid(reason))
    }
}

impl Tuner for WasmTuner {
    fn name(&self) -> &str {
        self.guest.name()
    }

    fn start(
        &mut self,
        board: &Board,
        period: Nanos,
        app: &App,
        params: &[Param],
    ) -> Result<(), PolicyError> {
        if let Some(reason) = too_large(board, 1) {
            return Err(self.guest.refused("start", &reason));
        }
        let args = (wire::Board::new(board, period, &[]), wire::App::new(app), wire::params(params));
        let start: Start<'_, wire::App<'_>> = self.start;
        let (answer,) = self.guest.call("start", &start, args)?;
        answer.map_err(|reason| self.guest.refused("start", &reason))?;
        self.rules = Rules::new(board);
        self.subnets = app.subnets.len();
        self.threads_max = app.threads_max;
        Ok(())
    }

    fn app(&mut self, app: &App) -> Result<(), PolicyError> {
        let func: TypedFunc<(wire::App<'_>,), ()> = self.app;
        self.guest.call("app", &func, (wire::App::new(app),))
    }

    fn limits(&mut self, now: &Limits) -> Result<(), PolicyError> {
        wire::ranges(&mut self.ranges, now);
        self.guest.call("limits", &self.limits, (&self.ranges,))
    }

    fn decide(&mut self, seen: &View<'_>) -> Result<AppChoice, PolicyError> {
        let func: TypedFunc<(wire::View<'_>,), (wire::Choice,)> = self.decide;
        let (answer,) = self.guest.call("decide", &func, (seen.into(),))?;
        let choice = AppChoice::from(answer);
        self.rules
            .choice(&choice, seen.grant.domain, self.subnets, self.threads_max)
            .map_err(|reason| self.guest.invalid(reason))?;
        Ok(choice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cpu_time_counts_and_only_from_the_first_question() {
        let ms = Duration::from_millis;
        let mut budget = Budget { deadline: ms(2), asked: None, late: false };
        // Whatever the thread ran before, and however often it is asked in a burst.
        for _ in 0..1000 {
            assert!(matches!(budget.ask(ms(70)), UpdateDeadline::Continue(1)));
        }
        assert!(matches!(budget.ask(ms(72) - Duration::from_nanos(1)), UpdateDeadline::Continue(1)));
        assert!(!budget.late);
        assert!(matches!(budget.ask(ms(72)), UpdateDeadline::Interrupt));
        assert!(budget.late);
    }
}
