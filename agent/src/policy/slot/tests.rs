use super::*;
use crate::board::{BoardLimits, Domain, DomainKind, Opp};
use crate::policy::{DomainOrder, Grant, Slo};
use crate::snapshot::AppSample;
use crate::units::{AppSlot, CentiPercent, Freq, FreqUnit, SubnetIndex};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// What a native set does wrong, and where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Faults {
    make: bool,
    start: bool,
    tuner_start: bool,
    /// From this call of `decide` on.
    decide_from: Option<u32>,
    apps: bool,
}

fn trap(name: &str, verb: &'static str) -> PolicyError {
    PolicyError::Trapped { name: name.into(), verb, reason: "made to".into() }
}

/// A set that asks one OPP and writes down what it is told.
struct Native {
    name: String,
    opp: u16,
    faults: Faults,
    heard: Arc<Mutex<Vec<String>>>,
    /// Allocators and tuners that exist.
    live: Arc<AtomicUsize>,
}

impl Native {
    fn new(name: &str, opp: u16) -> Self {
        Self {
            name: name.into(),
            opp,
            faults: Faults::default(),
            heard: Arc::default(),
            live: Arc::default(),
        }
    }

    fn faulty(name: &str, faults: Faults) -> Arc<Self> {
        Arc::new(Self { faults, ..Self::new(name, 1) })
    }

    fn part(&self, what: &str) -> Part {
        self.live.fetch_add(1, SeqCst);
        Part {
            name: format!("{}/{what}", self.name),
            opp: OppIndex(self.opp),
            faults: self.faults,
            heard: Arc::clone(&self.heard),
            live: Arc::clone(&self.live),
            decides: 0,
        }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

struct Part {
    name: String,
    opp: OppIndex,
    faults: Faults,
    heard: Arc<Mutex<Vec<String>>>,
    live: Arc<AtomicUsize>,
    decides: u32,
}

impl Part {
    fn hear(&self, text: String) {
        self.heard.lock().unwrap().push(format!("{}: {text}", self.name));
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.live.fetch_sub(1, SeqCst);
        self.hear(format!("freed by {}", std::thread::current().name().unwrap_or("?")));
    }
}

impl PolicySource for Native {
    fn name(&self) -> &str {
        &self.name
    }
    fn allocator(&self) -> Result<Box<dyn Allocator>, PolicyError> {
        if self.faults.make {
            return Err(PolicyError::Unusable { path: self.name.clone(), reason: "made to".into() });
        }
        Ok(Box::new(self.part("allocator")))
    }
    fn tuner(&self, app: &App) -> Result<Box<dyn Tuner>, PolicyError> {
        Ok(Box::new(self.part(&app.name)))
    }
}

impl Allocator for Part {
    fn name(&self) -> &str {
        &self.name
    }
    fn start(
        &mut self,
        _: &Board,
        _: Nanos,
        _: &[Signal],
        apps: &[App],
        _: &[Param],
    ) -> Result<(), PolicyError> {
        self.hear(format!("start {}", apps.len()));
        if self.faults.start { Err(trap(&self.name, "start")) } else { Ok(()) }
    }
    fn apps(&mut self, apps: &[App]) -> Result<(), PolicyError> {
        self.hear(format!("apps {}", apps.len()));
        if self.faults.apps { Err(trap(&self.name, "apps")) } else { Ok(()) }
    }
    fn limits(&mut self, now: &Limits) -> Result<(), PolicyError> {
        self.hear(format!("limits {:?}", now.opps));
        Ok(())
    }
    fn decide(&mut self, seen: &Snapshot, out: &mut Allocation) -> Result<(), PolicyError> {
        assert_eq!(out.domains, vec![DomainOrder::default(); seen.domains.len()]);
        self.decides += 1;
        if self.faults.decide_from.is_some_and(|from| self.decides >= from) {
            return Err(trap(&self.name, "decide"));
        }
        out.domains.fill(DomainOrder { ask: Some(self.opp), cap: None });
        out.grants.fill(Some(grant()));
        Ok(())
    }
}

impl Tuner for Part {
    fn name(&self) -> &str {
        &self.name
    }
    fn start(&mut self, _: &Board, _: Nanos, _: &App, _: &[Param]) -> Result<(), PolicyError> {
        self.hear("start".into());
        if self.faults.tuner_start { Err(trap(&self.name, "start")) } else { Ok(()) }
    }
    fn app(&mut self, app: &App) -> Result<(), PolicyError> {
        self.hear(format!("target {:?}", app.target.latency));
        Ok(())
    }
    fn limits(&mut self, now: &Limits) -> Result<(), PolicyError> {
        self.hear(format!("limits {:?}", now.opps));
        Ok(())
    }
    fn decide(&mut self, _: &View<'_>) -> Result<AppChoice, PolicyError> {
        Ok(AppChoice { subnet: SubnetIndex(0), threads: 1, ask: Some(OppIndex(0)), binds: None })
    }
}

fn grant() -> Grant {
    Grant { domain: DomainId(0), cores: 0, weight: 100, power: None, target: Slo::default() }
}

fn app(slot: u16) -> App {
    let subnet =
        crate::policy::Subnet { name: "whole".into(), top1: CentiPercent(9000), macs: 1, measured: vec![] };
    App {
        slot: AppSlot(slot),
        name: format!("app{slot}"),
        subnets: vec![subnet],
        threads_max: 1,
        target: Slo::default(),
    }
}

/// A slot and the loop around it.
struct Loop {
    slot: PolicySlot,
    apps: Vec<App>,
    tick: u64,
    out: Decision,
}

impl Loop {
    fn new() -> Self {
        let opp = |raw| Opp { freq: Freq { raw, unit: FreqUnit::Khz }, volt: None, power: None };
        let domain = Domain {
            name: "cpu".into(),
            kind: DomainKind::Cpufreq { policy: 0 },
            cpus: vec![0],
            opps: (1..=10).map(opp).collect(),
            transition_latency: Nanos(0),
        };
        let limits = BoardLimits { temp_max: None, min_dwell: Nanos(0) };
        let board = Board { name: "one".into(), domains: vec![domain], limits };
        let context = PolicyContext { board, period: Nanos::from_ms(10), signals: Vec::new() };
        let slot = PolicySlot::new(context, None).unwrap();
        Self { slot, apps: Vec::new(), tick: 0, out: Decision::default() }
    }

    fn apps(&mut self, slots: &[u16]) {
        self.apps = slots.iter().copied().map(app).collect();
        self.slot.apps(&self.apps);
    }

    /// What the domain is wished to run at.
    fn tick(&mut self) -> Option<OppIndex> {
        self.tick += 1;
        let mut seen = Snapshot::new(1, 1, 0);
        seen.tick = self.tick;
        seen.apps = self.apps.iter().map(|app| AppSample::new(app.slot)).collect();
        self.slot.decide(&seen, &mut self.out);
        assert_eq!(self.out.opps.len(), 1);
        assert_eq!(self.out.apps.len(), self.apps.len());
        self.out.opps[0]
    }

    /// Ticks until the swap is answered.
    fn swap(&mut self, source: Arc<Native>) -> Result<(), PolicyError> {
        let pending = self.slot.control().swap(source);
        self.until(pending)
    }

    fn until(&mut self, pending: Pending) -> Result<(), PolicyError> {
        loop {
            self.tick();
            if let Some(answer) = pending.poll() {
                return answer;
            }
            std::thread::yield_now();
        }
    }

    /// Ticks, at least once, until it holds.
    fn tick_until(&mut self, mut holds: impl FnMut(&Self) -> bool) {
        self.tick();
        while !holds(self) {
            std::thread::yield_now();
            self.tick();
        }
    }
}

#[test]
fn an_empty_slot_leaves_everything() {
    let mut agent = Loop::new();
    agent.apps(&[0, 1]);
    assert_eq!(agent.tick(), None);
    assert_eq!(agent.out.apps, [None, None]);
    assert_eq!(agent.slot.serving(), "hold");
    assert!(agent.slot.control().retry().is_none());
}

#[test]
fn a_swapped_set_serves_and_the_old_one_is_freed_elsewhere() {
    let mut agent = Loop::new();
    agent.apps(&[0, 1]);
    let first = Arc::new(Native::new("first", 3));
    agent.swap(Arc::clone(&first)).unwrap();
    assert_eq!(agent.tick(), Some(OppIndex(3)));
    assert!(agent.out.apps.iter().all(Option::is_some));
    assert_eq!(first.live.load(SeqCst), 3, "an allocator and two tuners");
    agent.swap(Arc::new(Native::new("second", 5))).unwrap();
    assert_eq!((agent.tick(), agent.slot.serving()), (Some(OppIndex(5)), "second"));
    while first.live.load(SeqCst) > 0 {
        std::thread::yield_now();
    }
    drop(agent);
    let freed: Vec<_> = first.heard().into_iter().filter(|line| line.contains("freed by")).collect();
    assert_eq!(freed.len(), 3);
    assert!(freed.iter().all(|line| line.ends_with("policy-loader")), "{freed:?}");
}

#[test]
fn a_candidate_that_fails_leaves_the_old_set_serving() {
    let mut agent = Loop::new();
    agent.apps(&[0]);
    agent.swap(Arc::new(Native::new("good", 3))).unwrap();
    for faults in [
        Faults { make: true, ..Faults::default() },
        Faults { start: true, ..Faults::default() },
        Faults { tuner_start: true, ..Faults::default() },
        Faults { decide_from: Some(1), ..Faults::default() },
    ] {
        let error = agent.swap(Native::faulty("bad", faults)).unwrap_err();
        assert!(error.to_string().contains("bad"), "{error}");
        assert_eq!((agent.tick(), agent.slot.serving()), (Some(OppIndex(3)), "good"), "{faults:?}");
        assert_eq!(agent.slot.last_error(), Some(error));
    }
    let status = agent.slot.control().status();
    assert_eq!((status.swaps, status.faults), (1, 0));
}

#[test]
fn a_set_that_fails_is_set_aside_once_until_a_retry() {
    let mut agent = Loop::new();
    agent.apps(&[0]);
    // Its trial is the first call.
    let faults = Faults { decide_from: Some(4), ..Faults::default() };
    agent.swap(Native::faulty("tired", faults)).unwrap();
    let wishes: Vec<_> = (0..10).map(|_| agent.tick()).collect();
    assert!(wishes.contains(&Some(OppIndex(1))));
    assert_eq!(wishes.last(), Some(&None));
    assert_eq!(agent.out.apps, [None]);
    let status = agent.slot.control().status();
    assert_eq!((status.serving.as_str(), status.set_aside.as_deref()), ("hold", Some("tired")));
    assert_eq!((status.swaps, status.faults), (1, 1), "one notice, though ten ticks passed");
    assert_eq!(status.last_error, Some(trap("tired/allocator", "decide")));
    let again = agent.slot.control().retry().unwrap();
    agent.until(again).unwrap();
    assert_eq!(agent.slot.serving(), "tired");
    assert_eq!(agent.slot.control().status().set_aside, None);
}

#[test]
fn an_application_that_comes_is_left_alone_until_it_has_a_tuner() {
    let mut agent = Loop::new();
    agent.apps(&[0]);
    let set = Arc::new(Native::new("set", 3));
    agent.swap(Arc::clone(&set)).unwrap();
    agent.apps(&[0, 7]);
    agent.tick();
    assert!(agent.out.apps[0].is_some(), "the other one is served all the time");
    agent.tick_until(|agent| agent.out.apps[1].is_some());
    assert_eq!(set.live.load(SeqCst), 3);
    agent.apps(&[7]);
    agent.tick();
    assert!(agent.out.apps[0].is_some(), "it keeps its tuner, now in another position");
    // By the loader's thread, whenever it gets a CPU.
    while !set.heard().contains(&"set/app0: freed by policy-loader".into()) {
        std::thread::yield_now();
    }
    assert_eq!(set.live.load(SeqCst), 2);
    assert_eq!(set.heard().iter().filter(|line| *line == "set/app7: start").count(), 1);
}

#[test]
fn a_slot_taken_by_another_application_gets_another_tuner() {
    let mut agent = Loop::new();
    agent.apps(&[0]);
    let set = Arc::new(Native::new("set", 3));
    agent.swap(Arc::clone(&set)).unwrap();
    agent.apps[0].name = "newcomer".into();
    agent.slot.apps(&agent.apps.clone());
    agent.tick_until(|agent| agent.out.apps[0].is_some());
    assert!(set.heard().contains(&"set/newcomer: start".into()));
}

#[test]
fn a_changed_target_reaches_the_tuner_it_has() {
    let mut agent = Loop::new();
    agent.apps(&[0]);
    let set = Arc::new(Native::new("set", 3));
    agent.swap(Arc::clone(&set)).unwrap();
    agent.apps[0].target.latency = Some(Nanos(5));
    agent.slot.apps(&agent.apps.clone());
    agent.tick();
    assert!(agent.out.apps[0].is_some());
    assert!(set.heard().contains(&"set/app0: target Some(Nanos(5))".into()));
}

#[test]
fn a_tuner_that_refuses_a_newcomer_costs_only_the_newcomer() {
    let mut agent = Loop::new();
    let faults = Faults { tuner_start: true, ..Faults::default() };
    agent.swap(Native::faulty("picky", faults)).unwrap();
    agent.apps(&[0]);
    agent.tick_until(|agent| agent.slot.last_error().is_some());
    assert_eq!((agent.tick(), agent.slot.serving()), (Some(OppIndex(1)), "picky"));
    assert_eq!(agent.out.apps, [None]);
}

#[test]
fn applications_unknown_to_the_policies_are_no_fault_of_theirs() {
    let mut agent = Loop::new();
    agent.swap(Arc::new(Native::new("set", 3))).unwrap();
    agent.apps = vec![app(0)];
    assert_eq!(agent.tick(), None, "seen, but not told");
    agent.slot.apps(&agent.apps.clone());
    assert_eq!((agent.tick(), agent.slot.serving()), (Some(OppIndex(3)), "set"));
}

#[test]
fn limits_reach_the_serving_set_and_the_candidate() {
    let mut agent = Loop::new();
    agent.apps(&[0]);
    let limits = |hi| Limits { opps: vec![(OppIndex(0), OppIndex(hi))] };
    agent.slot.limits(&limits(4));
    let set = Arc::new(Native::new("set", 3));
    agent.swap(Arc::clone(&set)).unwrap();
    agent.slot.limits(&limits(6));
    agent.slot.limits(&limits(6));
    let told = |hi: u16| set.heard().iter().filter(|line| line.contains(&format!("OppIndex({hi})"))).count();
    assert_eq!(told(4), 2, "the allocator and the tuner, before they served: {:?}", set.heard());
    assert_eq!(told(6), 2, "once each: {:?}", set.heard());
}

#[test]
fn what_changes_while_a_candidate_is_made_is_told_before_it_serves() {
    let mut agent = Loop::new();
    let set = Arc::new(Native::new("set", 3));
    let pending = agent.slot.control().swap(Arc::<Native>::clone(&set));
    // The loader has its copy of the present once the allocator was started.
    while !set.heard().iter().any(|line| line == "set/allocator: start 0") {
        agent.tick();
        std::thread::yield_now();
        if agent.slot.serving() == "set" {
            break;
        }
    }
    agent.apps(&[0]);
    agent.until(pending).unwrap();
    agent.tick_until(|agent| agent.out.apps[0].is_some());
    assert!(set.heard().contains(&"set/allocator: apps 1".into()), "{:?}", set.heard());
}

#[test]
fn a_swap_without_a_loop_ends_when_the_agent_does() {
    let agent = Loop::new();
    let control = agent.slot.control();
    let pending = control.swap(Arc::new(Native::new("set", 3)));
    drop(agent);
    let error = pending.wait().unwrap_err().to_string();
    assert!(error.contains("set") && error.contains("ending"), "{error}");
    assert!(control.swap(Arc::new(Native::new("late", 3))).wait().is_err());
}

#[test]
fn a_hundred_swaps_lose_no_tick_and_leak_no_set() {
    let mut agent = Loop::new();
    agent.apps(&[0, 1, 2, 3]);
    let live = Arc::new(AtomicUsize::new(0));
    for round in 0..100 {
        let source = Native { live: Arc::clone(&live), ..Native::new("set", round % 8) };
        agent.swap(Arc::new(source)).unwrap();
        // Every tick is answered by a whole set, the old one or the new one.
        assert_eq!(agent.tick(), Some(OppIndex(round % 8)));
        assert!(agent.out.apps.iter().all(Option::is_some));
    }
    while live.load(SeqCst) > 5 {
        std::thread::yield_now();
    }
    drop(agent);
    assert_eq!(live.load(SeqCst), 0);
}

#[test]
fn the_highest_ask_wins_under_the_cap() {
    let o = |i| Some(OppIndex(i));
    for (ask, cap, now, wish) in [
        (None, None, o(5), None),
        (o(3), None, o(5), o(3)),
        (o(3), o(2), o(5), o(2)),
        (o(1), o(2), o(5), o(1)),
        (None, o(2), o(5), o(2)),
        (None, o(2), o(1), None),
        (None, o(2), None, o(2)),
    ] {
        assert_eq!(opp(ask, cap, now), wish, "ask {ask:?}, cap {cap:?}, now {now:?}");
    }
}

#[test]
fn a_domain_follows_its_own_applications_only() {
    let mut seen = Snapshot::new(1, 2, 0);
    seen.apps = vec![AppSample::new(AppSlot(0)); 3];
    let on = |domain| Some(Grant { domain: DomainId(domain), ..grant() });
    let ask =
        |opp| Some(AppChoice { subnet: SubnetIndex(0), threads: 1, ask: Some(OppIndex(opp)), binds: None });
    let answers = Answers {
        allocation: Allocation {
            domains: vec![
                DomainOrder { ask: Some(OppIndex(2)), cap: None },
                DomainOrder { ask: None, cap: Some(OppIndex(6)) },
            ],
            grants: vec![on(0), on(1), on(1)],
        },
        choices: vec![ask(1), ask(4), ask(9)],
    };
    let mut out = Decision::default();
    answers.combine(&seen, &mut out);
    assert_eq!(out.opps, [Some(OppIndex(2)), Some(OppIndex(6))]);
    assert_eq!(out.apps.len(), 3);
}
