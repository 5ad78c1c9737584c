//! Sensing: fast counters every tick, slow sensors by a thread of their own.
//!
//! Responsible for turning totals into one period's [`Snapshot`] and for the rare events that call for
//! an extra tick. Not responsible for when a tick is, nor for what the runner reports about itself
//! (queue, inferences), nor for the OPP of a CPU-bandwidth domain, which only its actuator knows.
//!
//! Fast: BPF programs (`sched`) count in arrays that are mapped here, so that [`Sense::sample`] makes
//! no syscall, takes no lock and allocates nothing. Without BTF or CAP_BPF `/proc` stands in (`proc`)
//! and a [`Loss`] says what is gone. Slow: thermal zones, power, devfreq, pressure (`slow`). Readers
//! take their root folder, so tests lay fake trees.

mod cpufreq;
mod devfreq;
mod domain;
#[cfg(test)]
mod fake;
#[expect(unsafe_code, reason = "maps BPF arrays")]
mod mapped;
mod power;
mod proc;
mod psi;
#[expect(unsafe_code, reason = "the skeleton crosses threads; libbpf's ring gives a raw fd")]
mod sched;
mod slow;
mod thermal;

use crate::board::{Board, DomainKind};
use crate::snapshot::{CpuSample, OtherSample, Signal, SignalSample, Snapshot};
use crate::units::{AppSlot, DomainId, Nanos, Source, Util};
use domain::DomainReader;
use sched::{DomainPlan, Sched, positive};
use serde::Serialize;
use slow::{Gauge, Slow};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use sched::DELAY_BUCKETS;

/// Whether to try BPF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UseBpf {
    /// If the machine and our rights allow it.
    #[default]
    Auto,
    /// Not even then.
    Never,
}

/// Where and how to look.
#[derive(Clone, Debug)]
pub struct SenseOptions {
    /// `/proc`
    pub proc_root: PathBuf,
    /// `/sys`
    pub sys_root: PathBuf,
    /// Whether to try BPF.
    pub use_bpf: UseBpf,
    /// How often the slow sensors are read.
    pub slow_period: Duration,
}

impl Default for SenseOptions {
    fn default() -> Self {
        Self {
            proc_root: "/proc".into(),
            sys_root: "/sys".into(),
            use_bpf: UseBpf::Auto,
            slow_period: Duration::from_millis(200),
        }
    }
}

/// Something that cannot be sensed on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// What is absent.
    pub what: String,
    /// Which file, right or kernel feature is missing.
    pub why: String,
}

impl Loss {
    fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into() }
    }
}

/// A rare event: worth a tick at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A thread of that application waited on a run queue longer than its bound.
    AppDelayed {
        /// Whose.
        slot: AppSlot,
        /// How long.
        delay: Nanos,
    },
    /// The highest frequency allowed on a domain moved, and not to what we set ourselves.
    LimitImposed {
        /// Where.
        domain: DomainId,
    },
    /// The last thread of a registered runner ended.
    RunnerExited {
        /// Whose.
        slot: AppSlot,
    },
}

/// How often a kernel hook fired since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HookCount {
    /// The tracepoint.
    pub hook: &'static str,
    /// False: this kernel has none of that name.
    pub attached: bool,
    /// Times, on all CPUs.
    pub fired: u64,
}

/// Totals since the start, for `tandem status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Bucket b: run-queue delays of [2^b, 2^(b+1)) ns, the last one and longer.
    pub delay_histogram: Vec<u64>,
    /// Per CPU: time in each idle state.
    pub idle_residency: Vec<Vec<Nanos>>,
    /// Per domain: time in each OPP; `None`: not counted here.
    pub opp_time: Vec<Option<Vec<Nanos>>>,
    /// Per kernel hook.
    pub hooks: Vec<HookCount>,
    /// Rare events lost because the ring was full.
    pub lost: u64,
}

/// Why an application could not be told to the counters.
#[derive(Debug, thiserror::Error)]
#[error("application slot {slot}, process {tgid}: {reason}")]
pub struct SenseError {
    /// Its slot.
    pub slot: u16,
    /// Its process.
    pub tgid: u32,
    /// The kernel's answer, or the rule.
    pub reason: String,
}

/// One CPU's totals. Times are modulo 2^63 ns, see [`sched`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CpuTotals {
    busy: Option<u64>,
    switches: Option<u64>,
    wakeups: Option<u64>,
    migrations: Option<u64>,
    delay: Option<u64>,
    idle: Option<u64>,
}

/// One application's totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct AppTotals {
    run: Option<u64>,
    delay: Option<u64>,
}

/// Slow sensors found, with names made unique.
#[derive(Default)]
struct Found {
    signals: Vec<Signal>,
    gauges: Vec<Box<dyn Gauge>>,
}

impl Found {
    fn len(&self) -> usize {
        self.signals.len()
    }

    fn add(&mut self, name: String, unit: &str, gauge: Box<dyn Gauge>) {
        let taken = |name: &String| self.signals.iter().any(|s| s.name == *name);
        let mut unique = name.clone();
        for n in 2.. {
            if !taken(&unique) {
                break;
            }
            unique = format!("{name}#{n}");
        }
        self.signals.push(Signal { name: unique, unit: unit.to_owned(), source: Source::Measured });
        self.gauges.push(gauge);
    }

    #[cfg(test)]
    fn split(self) -> (Vec<Signal>, Vec<Box<dyn Gauge>>) {
        (self.signals, self.gauges)
    }
}

#[derive(Debug)]
enum Fast {
    Bpf(Box<Sched>),
    Proc(Box<proc::Proc>),
}

/// The sensors of one machine.
#[derive(Debug)]
pub struct Sense {
    fast: Fast,
    slow: Slow,
    signals: Vec<Signal>,
    domains: Vec<DomainReader>,
    apps: Vec<Option<u32>>,
    before_at: Nanos,
    before_cpus: Vec<CpuTotals>,
    now_cpus: Vec<CpuTotals>,
    before_apps: Vec<AppTotals>,
    before_other: AppTotals,
}

impl Sense {
    /// Opens whatever this machine has; what it lacks is in the list.
    pub fn open(board: &Board, options: &SenseOptions) -> (Self, Vec<Loss>) {
        let mut lost = Vec::new();
        let sys = options.sys_root.as_path();
        let fast = open_fast(board, options, &mut lost);

        let mut found = Found::default();
        thermal::find(sys, &mut found, &mut lost);
        power::find_rails(sys, &mut found, &mut lost);
        power::find_powercap(sys, &mut found, &mut lost);
        psi::find(&options.proc_root, &mut found, &mut lost);
        let domains =
            board.domains.iter().map(|d| DomainReader::new(d, sys, &mut found, &mut lost)).collect();
        let Found { signals, gauges } = found;
        let slow = Slow::start(gauges, options.slow_period).unwrap_or_else(|e| {
            lost.push(Loss::new("slow sensors", format!("their thread could not be started: {e}")));
            Slow::none()
        });

        let cpus = cpu_count(&options.proc_root);
        let mut sense = Self {
            fast,
            slow,
            signals,
            domains,
            apps: vec![None; channel::MAX_RUNNERS],
            before_at: now(),
            before_cpus: vec![CpuTotals::default(); cpus],
            now_cpus: vec![CpuTotals::default(); cpus],
            before_apps: vec![AppTotals::default(); channel::MAX_RUNNERS],
            before_other: AppTotals::default(),
        };
        let at = sense.before_at;
        for (i, d) in sense.domains.iter_mut().enumerate() {
            d.start(domain_id(i), &sense.fast, &sense.slow);
        }
        sense.read_cpus(at);
        std::mem::swap(&mut sense.before_cpus, &mut sense.now_cpus);
        sense.before_other = sense.read_other(at);
        (sense, lost)
    }

    /// CPUs of the machine: the length `Snapshot::cpus` should have.
    pub fn cpus(&self) -> usize {
        self.before_cpus.len()
    }

    /// The slow sensors, in the order of `Snapshot::signals`.
    pub fn signals(&self) -> &[Signal] {
        &self.signals
    }

    /// True: counting by BPF; false: `/proc` stands in.
    pub fn by_bpf(&self) -> bool {
        matches!(self.fast, Fast::Bpf(_))
    }

    /// Where the power of a domain's samples comes from; `None`: there is none.
    pub fn power_source(&self, domain: DomainId) -> Option<Source> {
        self.domains.get(usize::from(domain.0))?.power_source()
    }

    /// Fills the period that ends at `now` (`CLOCK_MONOTONIC`): CPUs, domains, the applications listed in
    /// `into.apps`, everything else, signals. Fields that are not ours are left alone.
    pub fn sample(&mut self, now: Nanos, into: &mut Snapshot) {
        let window = now.since(self.before_at);
        into.at = now;
        into.window = window;

        self.read_cpus(now);
        let mut busy_sum = Some(0u64);
        for (cpu, (b, n)) in self.before_cpus.iter().zip(&self.now_cpus).enumerate() {
            let busy = elapsed(b.busy, n.busy);
            busy_sum = busy_sum.zip(busy).map(|(s, b)| s + b.0.min(window.0));
            if let Some(sample) = into.cpus.get_mut(cpu) {
                *sample = CpuSample {
                    busy: busy.and_then(|b| Util::from_busy(b, window)),
                    switches: counted(b.switches, n.switches),
                    wakeups: counted(b.wakeups, n.wakeups),
                    migrations: counted(b.migrations, n.migrations),
                    runq_delay: elapsed(b.delay, n.delay),
                    idle: elapsed(b.idle, n.idle),
                };
            }
        }

        // All registered ones, so that "everything else" is right; reported are those asked for.
        let mut apps_run = Some(0u64);
        let mut apps_delay = Some(0u64);
        for slot in 0..self.apps.len() {
            if self.apps.get(slot).copied().flatten().is_none() {
                continue;
            }
            let id = app_slot(slot);
            let total = self.read_app(id, now);
            let before = std::mem::replace(&mut self.before_apps[slot], total);
            let (run, delay) = (elapsed(before.run, total.run), elapsed(before.delay, total.delay));
            apps_run = apps_run.zip(run).map(|(s, r)| s + r.0);
            apps_delay = apps_delay.zip(delay).map(|(s, d)| s + d.0);
            if let Some(sample) = into.apps.iter_mut().find(|a| a.slot == id) {
                (sample.run, sample.runq_delay) = (run, delay);
            }
        }
        let other = self.read_other(now);
        let other_delay = match self.fast {
            Fast::Bpf(_) => elapsed(self.before_other.delay, other.delay),
            Fast::Proc(_) => elapsed(self.before_other.delay, other.delay)
                .zip(apps_delay)
                .map(|(all, apps)| Nanos(all.0.saturating_sub(apps))),
        };
        self.before_other = other;
        into.other = OtherSample {
            run: busy_sum.zip(apps_run).map(|(all, apps)| Nanos(all.saturating_sub(apps))),
            runq_delay: other_delay,
        };

        for (i, d) in self.domains.iter_mut().enumerate() {
            if let Some(sample) = into.domains.get_mut(i) {
                *sample = d.sample(domain_id(i), &self.fast, &self.slow, &into.cpus);
            }
        }
        self.slow_into(into, now);
        if let Fast::Bpf(sched) = &self.fast {
            into.lost = sched.lost();
        }
        std::mem::swap(&mut self.before_cpus, &mut self.now_cpus);
        self.before_at = now;
    }

    /// From now on counts the threads of `tgid` for `slot`, those now running included.
    pub fn add_app(&mut self, slot: AppSlot, tgid: u32) -> Result<(), SenseError> {
        let i = usize::from(slot.0);
        let refuse = |reason: String| SenseError { slot: slot.0, tgid, reason };
        match self.apps.get(i) {
            None => return Err(refuse(format!("slots are 0..{}", self.apps.len()))),
            Some(Some(other)) => return Err(refuse(format!("the slot is taken by process {other}"))),
            Some(None) => {}
        }
        match &mut self.fast {
            Fast::Bpf(sched) => sched.add_app(slot, tgid).map_err(|e| refuse(e.to_string()))?,
            Fast::Proc(proc) => proc.add_app(slot, tgid),
        }
        self.apps[i] = Some(tgid);
        self.before_apps[i] = self.read_app(slot, now());
        Ok(())
    }

    /// Counts its threads for "everything else" again; frees the slot.
    pub fn remove_app(&mut self, slot: AppSlot) -> Result<(), SenseError> {
        let Some(tgid) = self.apps.get_mut(usize::from(slot.0)).and_then(Option::take) else { return Ok(()) };
        match &mut self.fast {
            Fast::Bpf(sched) => sched.remove_app(slot, tgid).map_err(|e| SenseError {
                slot: slot.0,
                tgid,
                reason: e.to_string(),
            }),
            Fast::Proc(proc) => {
                proc.remove_app(slot);
                Ok(())
            }
        }
    }

    /// From now on a run-queue delay of that application above `bound` is an event; `None`: no more.
    pub fn set_runq_bound(&mut self, slot: AppSlot, bound: Option<Nanos>) {
        if let Fast::Bpf(sched) = &mut self.fast {
            sched.set_delay_bound(slot, bound);
        }
    }

    /// The ceiling (in the driver's unit) we set ourselves on a domain: at it, nothing outside caps.
    pub fn set_own_max(&mut self, domain: DomainId, raw: Option<u64>) {
        if let Some(d) = self.domains.get_mut(usize::from(domain.0)) {
            d.own_max = raw;
        }
    }

    /// Readable when there are events; `None`: no events on this machine.
    pub fn events_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.fast {
            Fast::Bpf(sched) => Some(sched.events_fd()),
            Fast::Proc(_) => None,
        }
    }

    /// Passes every waiting event to `f`.
    pub fn drain_events(&mut self, f: &mut impl FnMut(Event)) {
        let domains = &self.domains;
        if let Fast::Bpf(sched) = &mut self.fast {
            sched.drain(&mut |event, value| {
                if let Event::LimitImposed { domain } = event
                    && domains.get(usize::from(domain.0)).is_some_and(|d| d.own_max == Some(value))
                {
                    return;
                }
                f(event);
            });
        }
    }

    /// Totals since the start. Allocates: not for the tick.
    pub fn totals(&self) -> Totals {
        let Fast::Bpf(sched) = &self.fast else {
            return Totals { opp_time: vec![None; self.domains.len()], ..Totals::default() };
        };
        let at = now();
        let ids = (0..self.domains.len()).map(domain_id);
        Totals {
            delay_histogram: sched.delay_histogram().to_vec(),
            idle_residency: sched.idle_residency(at),
            opp_time: ids.map(|id| sched.opp_time(id, at)).collect(),
            hooks: sched.hooks(),
            lost: sched.lost(),
        }
    }

    fn slow_into(&self, into: &mut Snapshot, now: Nanos) {
        for (i, sample) in into.signals.iter_mut().enumerate().take(self.signals.len()) {
            *sample = match self.slow.read(i) {
                Some((value, at)) => SignalSample { value: Some(value), age: now.since(at) },
                None => SignalSample::default(),
            };
        }
    }

    fn read_cpus(&mut self, now: Nanos) {
        match &mut self.fast {
            Fast::Bpf(sched) => {
                for (cpu, totals) in self.now_cpus.iter_mut().enumerate() {
                    *totals = sched.cpu(cpu, now).unwrap_or_default();
                }
            }
            Fast::Proc(proc) => proc.cpus(&mut self.now_cpus),
        }
    }

    fn read_app(&mut self, slot: AppSlot, now: Nanos) -> AppTotals {
        match &mut self.fast {
            Fast::Bpf(sched) => sched.app(slot, now),
            Fast::Proc(proc) => proc.app(slot),
        }
    }

    /// BPF counts "everything else"; `/proc` only the whole.
    fn read_other(&self, now: Nanos) -> AppTotals {
        match &self.fast {
            Fast::Bpf(sched) => sched.other(now),
            Fast::Proc(_) => AppTotals { run: None, delay: self.now_cpus.iter().map(|c| c.delay).sum() },
        }
    }
}

fn open_fast(board: &Board, options: &SenseOptions, lost: &mut Vec<Loss>) -> Fast {
    let mut plans = Vec::new();
    for (i, d) in board.domains.iter().enumerate() {
        if let DomainKind::Cpufreq { policy } = d.kind {
            let (now_khz, limits_khz) = cpufreq::now(&cpufreq::folder(&options.sys_root, policy));
            plans.push(DomainPlan {
                id: domain_id(i),
                cpus: d.cpus.clone(),
                khz: d.opps.iter().map(|o| o.freq.raw).collect(),
                now_khz,
                limits_khz,
            });
        }
    }
    let no_bpf = match options.use_bpf {
        UseBpf::Never => Loss::new("BPF telemetry", "switched off by the configuration"),
        UseBpf::Auto => match Sched::open(&plans, cpufreq::idle_states(&options.sys_root)) {
            Ok((sched, without)) => {
                lost.extend(without);
                return Fast::Bpf(Box::new(sched));
            }
            Err(loss) => loss,
        },
    };
    let why = "only BPF tells; busy time comes from /proc/stat, in steps of 10 ms".to_owned();
    lost.push(no_bpf);
    for what in [
        "context switches, wake-ups and migrations per CPU",
        "run-queue delay histogram",
        "idle residency per state",
        "frequency transitions and time in each OPP",
        "notice at once of a delayed application, an outside limit, a runner's exit",
    ] {
        lost.push(Loss::new(what, why.clone()));
    }
    Fast::Proc(Box::new(proc::Proc::open(&options.proc_root, lost)))
}

/// The present time as the kernel's hooks see it.
pub fn now() -> Nanos {
    let t =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    Nanos(u64::try_from(t.as_nanos()).unwrap_or(u64::MAX))
}

fn elapsed(before: Option<u64>, now: Option<u64>) -> Option<Nanos> {
    Some(Nanos(positive(now?.wrapping_sub(before?))))
}

fn counted(before: Option<u64>, now: Option<u64>) -> Option<u32> {
    Some(u32::try_from(now?.saturating_sub(before?)).unwrap_or(u32::MAX))
}

fn domain_id(i: usize) -> DomainId {
    DomainId(u16::try_from(i).unwrap_or(u16::MAX))
}

fn app_slot(i: usize) -> AppSlot {
    AppSlot(u16::try_from(i).unwrap_or(u16::MAX))
}

/// CPUs that `/proc/stat` lists, by the highest number.
fn cpu_count(proc_root: &Path) -> usize {
    let stat = std::fs::read_to_string(proc_root.join("stat")).unwrap_or_default();
    let number = |l: &str| l.strip_prefix("cpu")?.split_whitespace().next()?.parse::<usize>().ok();
    stat.lines().filter(|l| !l.starts_with("cpu ")).filter_map(number).max().map_or(0, |n| n + 1)
}

/// The trimmed text of a small file; `None`: absent or empty.
fn text(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// The folders (or links to some) in `class` whose name starts so, by number where they have one.
fn folders(class: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(class) else { return Vec::new() };
    let mut named: Vec<(u64, String)> = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter_map(|name| Some((name.strip_prefix(prefix)?.parse().unwrap_or(0), name)))
        .collect();
    named.sort();
    named.into_iter().map(|(_, name)| class.join(name)).collect()
}
