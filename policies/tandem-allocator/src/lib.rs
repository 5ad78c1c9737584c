//! Allocator `tandem-allocator`: a domain for every application, its part of a power budget, and as much
//! weight as it takes to hold its target against co-runners, within a bound.
//!
//! *Domains* (`assign.rs`): where the applications' bounds hold, then least accuracy given up, then least
//! power, predicted from their profiles; an application moves only for a clear gain, and not to and fro. A
//! domain that nobody is granted follows what others run there, by schedutil's rule.
//!
//! *Power*: with `power-mw`, each domain gets what its applications need and of the rest in proportion. With `thermal-c` the
//! budget is what keeps the hottest zone there (`thermal.rs`).
//!
//! An application *suffers* when it misses its target, or runs below what it wants (its best sub-network
//! where accuracy comes first, else its floor) because its tuner already gave way. That is a co-runner's doing when one is *visible*: something that is no
//! application used CPU time, and the application's threads waited on run queues. While both hold, its
//! weight doubles each `STEP_UP` up to `weight-max`. It halves again, each `STEP_DOWN`, only once the
//! co-runner itself has gone: to give way while it still runs would bring the suffering back.
//!
//! The OPPs of granted domains are left to the tuners, who choose them for their applications: others on the domain have
//! to do with that clock. With `others = "serve"` they get at least the OPP that schedutil would give them. A cap that something outside imposes is passed on,
//! nothing else is capped.
//!
//! Parameters: `domain` = name or index (default: chosen), `home` = where to begin if it is chosen (default: of
//! those with CPUs the one with the fastest clock, else the first), `cores` = CPUs per application (default 0 = all), `weight-max` (100..=10000, default 400),
//! `others` = `yield` (default) or `serve`, `power-mw` for all domains together and `thermal-c`, a
//! temperature for the hottest zone (default: no budget), `idle-permille` of a domain's busy power that it
//! draws idle (default 80).

mod assign;
mod others;
mod thermal;

use assign::{Assigner, Candidate};
use kernel_style::Rule;
use kernel_style::schedutil::Schedutil;
use policy_sdk::predict::{IDLE_PERMILLE, mul_div};
use policy_sdk::{
    Allocation, Allocator, App, AppSample, Board, Domain, DomainOrder, Grant, Objective, OppRange,
    OtherSample, Params, Slo, Snapshot, log,
};
use thermal::Thermal;

/// The kernel's default weight.
const DEFAULT: u16 = 100;
/// Between two doublings.
const STEP_UP_NS: u64 = 200_000_000;
/// Calm time before each halving.
const STEP_DOWN_NS: u64 = 5_000_000_000;
/// Quantities below are averaged with this time constant.
const MEMORY_NS: u64 = 500_000_000;
/// A co-runner is visible from this share of one CPU on, thousandths ...
const OTHER_SEEN: u64 = 100;
/// ... and gone below this one.
const OTHER_GONE: u64 = 50;
/// It is in the way when the application waits for CPUs this share of its wish to run, thousandths.
const WAITS: u64 = 100;
/// Misses are suffered from this share of the inferences on: the 95th percentile, thousandths.
const MISSES: u64 = 50;

/// An average that forgets with [`MEMORY_NS`], of a share in thousandths.
#[derive(Clone, Copy, Debug, Default)]
struct Share(u64);

impl Share {
    /// Folds in a share seen over a window. Kept in thousandths of thousandths, so that small windows count.
    fn add(&mut self, part: u64, whole: u64, window_ns: u64) {
        if whole == 0 {
            return;
        }
        let now = mul_div(part, 1_000_000, whole).min(100_000_000);
        let w = window_ns.min(MEMORY_NS);
        self.0 = (self.0 * (MEMORY_NS - w) + now * w) / MEMORY_NS;
    }
    fn thousandths(self) -> u64 {
        self.0 / 1000
    }
}

/// One application.
#[derive(Debug)]
struct Client {
    name: String,
    target: Slo,
    top1: Vec<u16>,
    weight: u16,
    misses: Share,
    waits: Share,
    /// Whether run-queue delay is measured at all.
    waits_known: bool,
    raised_ns: u64,
    calm_since_ns: Option<u64>,
}

impl Client {
    fn new(app: &App) -> Self {
        Self {
            name: app.name.clone(),
            target: app.target,
            top1: app.subnets.iter().map(|s| s.top1).collect(),
            weight: DEFAULT,
            misses: Share::default(),
            waits: Share::default(),
            waits_known: false,
            raised_ns: 0,
            calm_since_ns: None,
        }
    }

    /// The same application, perhaps with another target.
    fn again(self, app: &App) -> Self {
        let misses = if self.target == app.target { self.misses } else { Share::default() };
        Self {
            misses,
            weight: self.weight,
            waits: self.waits,
            waits_known: self.waits_known,
            raised_ns: self.raised_ns,
            calm_since_ns: self.calm_since_ns,
            ..Self::new(app)
        }
    }

    fn observe(&mut self, seen: &AppSample, window_ns: u64) {
        if let (Some(run), Some(waited)) = (seen.run_ns, seen.runq_delay_ns) {
            self.waits_known = true;
            // An idle window says nothing.
            self.waits.add(waited, run.saturating_add(waited), window_ns);
        }
        let Some(target) = self.target.latency_ns else { return };
        let late = seen.finished.iter().filter(|d| d.latency_ns > target).count();
        let overdue = seen.in_flight_ns.is_some_and(|t| t > target);
        let bad = late as u64 + u64::from(seen.dropped) + u64::from(overdue);
        let all = seen.finished.len() as u64 + u64::from(seen.dropped) + u64::from(overdue);
        self.misses.add(bad, all, window_ns);
    }

    /// The accuracy below which its tuner has given way.
    fn wanted(&self) -> Option<u16> {
        match self.target.objective {
            Objective::Accuracy => self.top1.iter().max().copied(),
            Objective::Energy | Objective::Latency => self.target.top1,
        }
    }

    fn suffers(&self, seen: &AppSample) -> bool {
        let now = seen.subnet.and_then(|s| self.top1.get(usize::from(s)).copied());
        let gave_way = self.target.latency_ns.is_some() && now < self.wanted() && now.is_some();
        self.misses.thousandths() > MISSES || gave_way
    }

    fn weigh(&mut self, seen: &AppSample, other: Share, other_known: bool, max: u16, now_ns: u64) {
        let in_the_way = self.waits.thousandths() >= WAITS || !self.waits_known;
        let visible = other.thousandths() >= OTHER_SEEN || !other_known;
        // With neither measured nothing can be blamed on a co-runner.
        let blamed = in_the_way && visible && (self.waits_known || other_known);
        let due = now_ns.saturating_sub(self.raised_ns) >= STEP_UP_NS;
        if blamed && due && self.weight < max && self.suffers(seen) {
            if self.weight == DEFAULT {
                log::info(&format!(
                    "{}: a co-runner takes {} % of a CPU, {} % of its time goes on waiting: raising its weight",
                    self.name,
                    other.thousandths() / 10,
                    self.waits.thousandths() / 10
                ));
            }
            self.weight = self.weight.saturating_mul(2).min(max);
            self.raised_ns = now_ns;
        }
        let gone =
            if other_known { other.thousandths() < OTHER_GONE } else { self.waits.thousandths() < WAITS / 4 };
        if !gone || self.weight == DEFAULT {
            self.calm_since_ns = None;
            return;
        }
        let since = *self.calm_since_ns.get_or_insert(now_ns);
        if now_ns.saturating_sub(since) >= STEP_DOWN_NS {
            self.weight = (self.weight / 2).max(DEFAULT);
            self.calm_since_ns = Some(now_ns);
            if self.weight == DEFAULT {
                log::info(&format!("{}: the co-runner is gone: weight back to {DEFAULT}", self.name));
            }
        }
    }
}

/// What others are on a domain with applications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Toward {
    Yield,
    Serve,
}

impl std::str::FromStr for Toward {
    type Err = ();
    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "yield" => Ok(Self::Yield),
            "serve" => Ok(Self::Serve),
            _ => Err(()),
        }
    }
}

/// See the crate's text.
#[derive(Debug)]
pub struct TandemAllocator {
    domains: Vec<Domain>,
    limits: Vec<OppRange>,
    /// Where applications begin.
    home: u16,
    /// The configuration says where they run.
    settled: bool,
    cores: u8,
    weight_max: u16,
    budget_mw: Option<u32>,
    thermal: Option<Thermal>,
    other: Share,
    other_known: bool,
    clients: Vec<Client>,
    places: Vec<Candidate>,
    assigner: Assigner,
    /// The rule of each domain that nobody is granted.
    spare: Vec<Option<Schedutil>>,
}

impl Allocator for TandemAllocator {
    fn start(board: &Board, apps: &[App], params: &mut Params) -> Result<Self, String> {
        let given = params.index_of("domain", board.domains.iter().map(|d| d.name.as_str()))?;
        let clock = |d: &Domain| d.opps.last().map_or(0, |o| o.freq);
        // Of nobody is known yet what he needs: the fastest clock. Of equals the first.
        let with_cpus = board.domains.iter().enumerate().rev().filter(|(_, d)| !d.cpus.is_empty());
        let with_cpus = with_cpus.max_by_key(|(_, d)| clock(d)).map(|(i, _)| i);
        let home = params.index_of("home", board.domains.iter().map(|d| d.name.as_str()))?;
        let home = given.or(home).or(with_cpus.and_then(|i| u16::try_from(i).ok())).unwrap_or(0);
        let domain = board.domains.get(usize::from(home)).ok_or("board without a domain")?;
        let idle_permille = params.number("idle-permille", 0..=1000, IDLE_PERMILLE)?;
        let budget_mw = params.number("power-mw", 0..=u32::MAX, 0)?;
        let limit_c = params.number("thermal-c", 0..=150, 0)?;
        let serves_others = params.get("others", "yield or serve", Toward::Yield)? == Toward::Serve;
        Ok(Self {
            home,
            settled: given.is_some(),
            cores: params.number("cores", 0..=u8::try_from(domain.cpus.len()).unwrap_or(u8::MAX), 0)?,
            weight_max: params.number("weight-max", DEFAULT..=10_000, 400)?,
            budget_mw: (budget_mw > 0).then_some(budget_mw),
            thermal: if limit_c > 0 { Some(Thermal::new(board, limit_c)?) } else { None },
            other: Share::default(),
            other_known: false,
            clients: apps.iter().map(Client::new).collect(),
            places: apps.iter().map(|a| Candidate::new(a, &board.domains, home)).collect(),
            assigner: Assigner::new(&board.domains, idle_permille, serves_others),
            spare: board.domains.iter().map(|_| None).collect(),
            limits: board.domains.iter().map(Domain::range).collect(),
            domains: board.domains.clone(),
        })
    }

    fn apps(&mut self, apps: &[App]) {
        // Who stays keeps what was learned of him.
        let (clients, places) = (std::mem::take(&mut self.clients), std::mem::take(&mut self.places));
        let mut before: Vec<(Client, Candidate)> = clients.into_iter().zip(places).collect();
        for app in apps {
            let (client, place) = match before.iter().position(|(c, _)| c.name == app.name) {
                Some(i) => {
                    let (kept, mut place) = before.swap_remove(i);
                    place.retarget(app.target);
                    (kept.again(app), place)
                }
                None => (Client::new(app), Candidate::new(app, &self.domains, self.home)),
            };
            self.clients.push(client);
            self.places.push(place);
        }
        self.assigner.reconsider();
    }

    fn limits(&mut self, opps: &[OppRange]) {
        for (kept, now) in self.limits.iter_mut().zip(opps) {
            *kept = *now;
        }
    }

    fn decide(&mut self, seen: &Snapshot) -> Allocation {
        if let OtherSample { run_ns: Some(run), .. } = seen.other {
            self.other_known = true;
            self.other.add(run, seen.window_ns, seen.window_ns);
        }
        self.assigner.watch(&self.places, seen);
        let capped = |(i, limits): (usize, &OppRange)| {
            let cap = seen.domains.get(i).and_then(|d| d.cap).unwrap_or(limits.hi);
            OppRange { lo: limits.lo.min(cap), hi: limits.hi.min(cap) }
        };
        let ranges: Vec<OppRange> = self.limits.iter().enumerate().map(capped).collect();
        for ((client, place), app) in self.clients.iter_mut().zip(&mut self.places).zip(&seen.apps) {
            client.observe(app, seen.window_ns);
            client.weigh(app, self.other, self.other_known, self.weight_max, seen.at_ns);
            let opp = seen.domains.get(usize::from(place.domain)).and_then(|d| d.opp);
            place.observe(app, opp, seen.window_ns);
        }
        if self.assigner.due(seen.at_ns) {
            self.review(&ranges, seen);
        }
        let grant = |(i, (client, place)): (usize, (&Client, &Candidate))| Grant {
            // A smaller domain has no more than it has.
            cores: self.cores.min(self.cpus(place.domain)),
            weight: client.weight,
            power_mw: self.assigner.part(i),
            ..Grant::whole(place.domain, client.target)
        };
        let grants =
            self.clients.iter().zip(&self.places).enumerate().map(|both| Some(grant(both))).collect();
        let mut domains = Vec::with_capacity(seen.domains.len());
        for (i, (d, spare)) in seen.domains.iter().zip(&mut self.spare).enumerate() {
            let used = self.places.iter().any(|p| usize::from(p.domain) == i);
            let domain = &self.domains[i];
            let ask = if used || domain.cpus.is_empty() {
                *spare = None;
                self.assigner.floor(i, ranges[i])
            } else {
                let rule = spare.get_or_insert_with(|| Schedutil::new(domain, true));
                rule.next(domain, ranges[i], d, seen.window_ns)
            };
            domains.push(DomainOrder { ask, cap: d.cap });
        }
        Allocation { domains, grants }
    }
}

impl TandemAllocator {
    /// Who runs where, and on how much power.
    fn review(&mut self, ranges: &[OppRange], seen: &Snapshot) {
        if !self.settled && self.assigner.place(&mut self.places, ranges, seen.at_ns) {
            for (client, place) in self.clients.iter().zip(&self.places) {
                let name = &self.domains[usize::from(place.domain)].name;
                log::info(&format!("{}: runs on {name}", client.name));
            }
        }
        let for_heat = self.thermal.as_mut().map(|t| t.budget(&seen.signals));
        if let Some(budget_mw) = self.budget_mw.into_iter().chain(for_heat).min() {
            self.assigner.divide(budget_mw, &self.places, ranges);
        }
    }

    fn cpus(&self, domain: u16) -> u8 {
        u8::try_from(self.domains[usize::from(domain)].cpus.len()).unwrap_or(u8::MAX)
    }
}

policy_sdk::export_allocator!(TandemAllocator);

#[cfg(test)]
mod tests {
    use super::*;
    use policy_sdk::Done;
    use policy_sdk::testing::{BoardBuilder, MS, SnapshotBuilder, app, params, slo};

    struct Bench {
        board: Board,
        policy: TandemAllocator,
        tick: u64,
    }

    fn camera() -> App {
        let mut app = app("cam", &[("small", 8000, 100), ("full", 9000, 400)]);
        app.target = slo(Some(50), None);
        app
    }

    fn bench(given: &[(&str, &str)]) -> Bench {
        let board = BoardBuilder::new().khz("cpu", &[0, 1], &[500_000, 1_000_000]).build();
        let policy = policy_sdk::start_allocator(&board, &[camera()], params(given)).unwrap();
        Bench { board, policy, tick: 0 }
    }

    impl Bench {
        /// Ticks of 10 ms for that long; the last weight.
        fn run(&mut self, ms: u64, subnet: u16, latency_ms: u64, waits_ms: u64, other_ms: u64) -> u16 {
            let mut weight = 0;
            for _ in 0..ms / 10 {
                self.tick += 1;
                let done = Done { subnet, latency_ns: latency_ms * MS, ..Done::default() };
                let sample = AppSample {
                    subnet: Some(subnet),
                    run_ns: Some(5 * MS),
                    runq_delay_ns: Some(waits_ms * MS),
                    finished: vec![done],
                    ..AppSample::default()
                };
                let seen = SnapshotBuilder::new(&self.board, 1)
                    .tick(self.tick)
                    .app(0, sample)
                    .other(other_ms * MS, 0)
                    .build();
                let out = self.policy.decide(&seen);
                weight = out.grants[0].unwrap().weight;
            }
            weight
        }
    }

    #[test]
    fn weight_rises_to_its_bound_while_a_co_runner_makes_it_miss() {
        let mut b = bench(&[]);
        assert_eq!(b.run(1000, 1, 30, 0, 0), 100);
        assert_eq!(b.run(2000, 1, 80, 3, 10), 400);
        let mut b = bench(&[("weight-max", "150")]);
        assert_eq!(b.run(2000, 1, 80, 3, 10), 150);
    }

    #[test]
    fn weight_rises_when_the_tuner_already_gave_way() {
        let mut b = bench(&[]);
        assert_eq!(b.run(2000, 0, 30, 3, 10), 400);
    }

    #[test]
    fn an_application_that_wants_energy_has_not_given_way_below_its_best() {
        let mut thrifty = camera();
        thrifty.target.objective = Objective::Energy;
        let mut weight = |floor| {
            let mut b = bench(&[]);
            thrifty.target.top1 = floor;
            b.policy.apps(&[thrifty.clone()]);
            b.run(2000, 0, 30, 3, 10)
        };
        assert_eq!((weight(None), weight(Some(8500))), (100, 400));
    }

    #[test]
    fn missing_without_a_co_runner_changes_nothing() {
        let weight = |latency, waits, other| bench(&[]).run(2000, 1, latency, waits, other);
        assert_eq!(weight(80, 0, 0), 100, "too slow by itself");
        assert_eq!(weight(80, 0, 10), 100, "a co-runner on another CPU");
        assert_eq!(weight(80, 3, 0), 100, "waits for other applications");
        assert_eq!(weight(30, 3, 10), 100, "a co-runner, but all is well");
    }

    #[test]
    fn weight_stays_while_the_co_runner_does_and_falls_in_steps_when_it_went() {
        let mut b = bench(&[]);
        b.run(2000, 1, 80, 3, 10);
        assert_eq!(b.run(30_000, 1, 30, 1, 10), 400, "all is well because of the weight");
        assert_eq!(b.run(4000, 1, 30, 0, 0), 400);
        let down: Vec<u16> = (0..3).map(|_| b.run(5500, 1, 30, 0, 0)).collect();
        assert_eq!(down, [200, 100, 100]);
    }

    #[test]
    fn outside_cap_is_passed_on_and_nothing_else_is_ordered() {
        let mut b = bench(&[("cores", "1")]);
        let mut seen = SnapshotBuilder::new(&b.board, 1).build();
        assert_eq!(b.policy.decide(&seen).domains, [DomainOrder { ask: None, cap: None }]);
        seen.domains[0].cap = Some(0);
        let out = b.policy.decide(&seen);
        assert_eq!(out.domains, [DomainOrder { ask: None, cap: Some(0) }]);
        let grant = out.grants[0].unwrap();
        assert_eq!((grant.domain, grant.cores, grant.target), (0, 1, slo(Some(50), None)));
    }

    #[test]
    fn who_stays_keeps_his_weight_when_another_comes() {
        let mut b = bench(&[]);
        b.run(2000, 1, 80, 3, 10);
        let newcomer = app("mic", &[("only", 9000, 10)]);
        b.policy.apps(&[newcomer, camera()]);
        let out = b.policy.decide(&SnapshotBuilder::new(&b.board, 2).build());
        let weights: Vec<u16> = out.grants.iter().map(|g| g.unwrap().weight).collect();
        assert_eq!(weights, [100, 400]);
    }

    #[test]
    fn a_domain_nobody_is_granted_follows_its_own_load() {
        let board = BoardBuilder::new()
            .khz("a", &[0], &[500_000, 1_000_000])
            .khz("b", &[1], &[500_000, 1_000_000])
            .build();
        let mut policy: TandemAllocator =
            policy_sdk::start_allocator(&board, &[camera()], params(&[("domain", "a")])).unwrap();
        let mut asks = |util: u16| {
            let mut last = vec![];
            for tick in 1..100 {
                let mut seen = SnapshotBuilder::new(&board, 1).tick(tick).build();
                for d in &mut seen.domains {
                    (d.util, d.opp) = (Some(util), Some(1));
                }
                last = policy.decide(&seen).domains.iter().map(|d| d.ask).collect();
            }
            last
        };
        assert_eq!(asks(1000), [None, Some(1)]);
        assert_eq!(asks(100), [None, Some(0)]);
    }

    #[test]
    fn a_small_domain_grants_no_more_cores_than_it_has() {
        let board =
            BoardBuilder::new().khz("a", &[0, 1, 2, 3], &[1_000_000]).khz("b", &[4], &[1_000_000]).build();
        let mut policy: TandemAllocator =
            policy_sdk::start_allocator(&board, &[camera()], params(&[("cores", "3")])).unwrap();
        let seen = SnapshotBuilder::new(&board, 1).build();
        assert_eq!(policy.decide(&seen).grants[0].unwrap().cores, 3);
        policy.places[0].domain = 1;
        assert_eq!(policy.decide(&seen).grants[0].unwrap().cores, 1);
    }

    #[test]
    fn who_has_no_profile_begins_on_the_fastest_clock() {
        let board = BoardBuilder::new()
            .hz("gpu", &[3_000_000_000])
            .khz("little", &[0], &[1_400_000])
            .khz("big", &[1], &[2_000_000])
            .khz("other", &[2], &[2_000_000])
            .build();
        let domain = |given: &[(&str, &str)]| {
            let mut policy: TandemAllocator =
                policy_sdk::start_allocator(&board, &[camera()], params(given)).unwrap();
            policy.decide(&SnapshotBuilder::new(&board, 1).build()).grants[0].unwrap().domain
        };
        assert_eq!((domain(&[]), domain(&[("home", "little")])), (2, 1));
    }

    #[test]
    fn bad_parameters_are_refused() {
        let start = |board: &Board, p: &[(&str, &str)]| {
            policy_sdk::start_allocator::<TandemAllocator>(board, &[], params(p)).map(|_| ()).unwrap_err()
        };
        assert_eq!(start(&BoardBuilder::new().build(), &[]), "board without a domain");
        let board = BoardBuilder::new().hz("gpu", &[1]).build();
        assert_eq!(
            start(&board, &[("domain", "gpu"), ("weight-max", "99")]),
            "parameter weight-max = \"99\": must be a whole number from 100 to 10000"
        );
    }
}
