//! Cells: a board and a scenario that policies are compared in; from a grid's blocks, or from a scenario file.

use super::grid::{Block, CoRun, Grid, Load, Place};
use super::store::Key;
use crate::policy::{Objective, Slo};
use crate::sim::machine::{Rule, SimMachine};
use crate::sim::model::Model;
use crate::sim::network::Network;
use crate::sim::scenario::{AppPlan, CoRunner, Frames, Happening, MachineEvent, Scenario};
use crate::units::{CentiPercent, DomainId, Milliwatts, Nanos};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A scenario and a digest of all it says but the seed.
#[derive(Debug)]
pub struct Sealed {
    /// Its seed is the first.
    pub scenario: Scenario,
    /// See the struct's text.
    pub digest: Key,
}

impl Sealed {
    /// Digests it.
    pub fn new(scenario: Scenario) -> Arc<Self> {
        // Every field is in the derived text, also those that are added one day.
        let text = format!("{:?}", Scenario { seed: 0, name: String::new(), ..scenario.clone() });
        Arc::new(Self { digest: Key::of(&[text.as_bytes()]), scenario })
    }

    /// With another seed.
    pub fn seeded(&self, seed: u64) -> Scenario {
        Scenario { seed, ..self.scenario.clone() }
    }
}

/// Where one comparison is made.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Position in the list of boards.
    pub board: usize,
    /// Without the board's.
    pub name: String,
    /// Of the grid, or `named`.
    pub block: String,
    /// What is wanted.
    pub objective: Objective,
    /// By application; of a target that changes the highest.
    pub floors: Vec<CentiPercent>,
    /// Nothing of the (first) network's accuracy may be given up.
    pub at_top: bool,
    /// See [`weak`].
    pub weak: bool,
    /// As our policies are asked, but for a budget.
    pub scenario: Arc<Sealed>,
    /// As a kernel governor meets it: it knows neither floor nor objective.
    pub plain: Arc<Sealed>,
    /// The same with co-runners at nice 10; `None`: there are none, or none on CPUs.
    pub nice: Option<Arc<Sealed>>,
}

impl Cell {
    /// The scenario with a budget for the objectives that have one, where its file names none.
    pub fn with_budget(&self, budget: Milliwatts) -> Arc<Sealed> {
        if self.objective == Objective::Energy {
            return Arc::clone(&self.scenario);
        }
        let mut scenario = self.scenario.scenario.clone();
        for (_, slo) in scenario.apps.iter_mut().flat_map(|a| &mut a.targets) {
            slo.power = slo.power.or(Some(budget));
        }
        Sealed::new(scenario)
    }
}

/// What a board cannot have: reason and how many cells.
pub type Drops = BTreeMap<String, usize>;

/// A grid's cells on a board.
pub fn of_grid(grid: &Grid, board: usize, model: &Model, drops: &mut Drops) -> Vec<Cell> {
    let mut cells = Vec::new();
    for block in &grid.blocks {
        for base in bases(grid, block) {
            let floors = base.floors(model);
            match base.scenario(model) {
                Ok(plain) => base.cells(board, model, &plain, &floors, &mut cells),
                Err(reason) => {
                    *drops.entry(format!("{}: {reason}", model.name)).or_default() +=
                        floors.len() * block.objectives.len();
                }
            }
        }
    }
    cells
}

/// A cell of a scenario file on a board; `None`: not meant for it, or does not fit (counted in `drops`).
///
/// # Errors
/// It is meant for the board and does not fit it.
pub fn of_scenario(
    scenario: &Scenario,
    board: usize,
    model: &Model,
    drops: &mut Drops,
) -> anyhow::Result<Option<Cell>> {
    let mut drop = |reason: String| *drops.entry(reason).or_default() += 1;
    if !scenario.boards.is_empty() && !scenario.boards.contains(&model.name) {
        drop(format!("{}: {} is not meant for it", model.name, scenario.name));
        return Ok(None);
    }
    if let Err(unfit) = SimMachine::new(model, scenario, &Rule::Agent) {
        anyhow::ensure!(scenario.boards.is_empty(), "{unfit}");
        drop(unfit.to_string());
        return Ok(None);
    }
    let floor = |a: &AppPlan| a.targets.iter().filter_map(|t| t.1.top1).max().unwrap_or_default();
    let floors: Vec<CentiPercent> = scenario.apps.iter().map(floor).collect();
    let plain = scenario.plain();
    Ok(Some(Cell {
        board,
        name: scenario.name.clone(),
        block: "named".into(),
        objective: scenario.apps[0].targets[0].1.objective,
        at_top: scenario.apps.iter().zip(&floors).all(|(a, f)| *f == a.network.best()),
        floors,
        weak: weak(scenario),
        scenario: Sealed::new(scenario.clone()),
        nice: niced(model, &plain),
        plain: Sealed::new(plain),
    }))
}

/// One combination of a block's lists, but for floors and objectives.
struct Base<'a> {
    grid: &'a Grid,
    block: &'a Block,
    load: Load,
    deadline: u32,
    co: CoRun,
    cap: u16,
    place: Place,
}

fn bases<'a>(grid: &'a Grid, block: &'a Block) -> Vec<Base<'a>> {
    let mut all = Vec::new();
    for &load in &block.streams {
        for &deadline in &block.deadlines {
            for &place in &block.places {
                for &co in &block.co_runners {
                    for &cap in &block.caps {
                        all.push(Base { grid, block, load, deadline, co, cap, place });
                    }
                }
            }
        }
    }
    all
}

fn on_gpu(model: &Model) -> bool {
    model.domain(model.apps_on).cpus.is_empty()
}

impl Base<'_> {
    fn network(&self, model: &Model) -> &Network {
        if on_gpu(model) { &self.block.networks.gpu } else { &self.block.networks.cpu }
    }

    /// Each published point of the first network; the second keeps its second.
    fn floors(&self, model: &Model) -> Vec<Vec<CentiPercent>> {
        let second = self.block.second.as_ref().map(|(networks, _)| {
            let network = if on_gpu(model) { &networks.gpu } else { &networks.cpu };
            network.subnets[1.min(network.subnets.len() - 1)].top1
        });
        let one = |top1| std::iter::once(top1).chain(second).collect();
        self.network(model).subnets.iter().map(|s| one(s.top1)).collect()
    }

    /// What a kernel governor meets; or why the board cannot have it.
    fn scenario(&self, model: &Model) -> Result<Scenario, &'static str> {
        let gpu = on_gpu(model);
        let home = model.domain(model.apps_on);
        let cpu = |position: usize| if gpu { vec![] } else { vec![position] };
        let mut apps = vec![self.app("first", self.network(model), self.load, None, cpu(0), 0)];
        if let Some((networks, load)) = &self.block.second {
            let network = if gpu { &networks.gpu } else { &networks.cpu };
            let (domain, cpus) = self.place(model)?;
            // Not in step with the first, so that queues are not always met at their longest.
            apps.push(self.app("second", network, *load, domain, cpus, 7));
        }
        let taken = |p: &usize| apps.iter().any(|a| a.domain.is_none() && a.cpus.contains(p));
        let co_runner = match self.co {
            CoRun::None => None,
            CoRun::SameCpu if gpu => {
                return Err("a device has no CPUs: its co-runner is the cell `other-cpu`, a second job");
            }
            CoRun::SameCpu => Some(vec![0]),
            CoRun::OtherCpu if gpu => Some(vec![]),
            CoRun::OtherCpu => {
                let free = (0..home.cpus.len()).find(|p| !taken(p));
                Some(vec![free.ok_or("no CPU of the domain is left for a co-runner")?])
            }
        };
        let hungry = |cpus| CoRunner {
            name: "hungry".into(),
            from: Nanos(0),
            to: self.grid.length,
            threads: 1,
            cpus,
            nice: 0,
            domain: None,
        };
        let cap = MachineEvent { at: Nanos(0), what: Happening::Cap { domain: None, permille: self.cap } };
        Ok(Scenario {
            name: self.name(),
            about: String::new(),
            length: self.grid.length,
            warm_up: self.grid.warm_up,
            seed: 1,
            boards: vec![],
            apps,
            co_runners: co_runner.map(hungry).into_iter().collect(),
            events: if self.cap == 1000 { vec![] } else { vec![cap] },
        })
    }

    /// The second application's domain and CPUs.
    fn place(&self, model: &Model) -> Result<(Option<String>, Vec<usize>), &'static str> {
        let gpu = on_gpu(model);
        match self.place {
            Place::OneDomain if gpu => Ok((None, vec![])),
            Place::OneDomain if model.domain(model.apps_on).cpus.len() < 2 => Err("its domain has one CPU"),
            Place::OneDomain => Ok((None, vec![1])),
            Place::OneCpu if gpu => Err("a device has no CPUs: two on it are the cell `one-domain`"),
            Place::OneCpu => Ok((None, vec![0])),
            Place::TwoDomains => {
                let other = other_domain(model).ok_or("a second domain is not simulated")?;
                Ok((Some(model.domain(other).name.clone()), vec![0]))
            }
        }
    }

    fn app(
        &self,
        name: &str,
        network: &Network,
        load: Load,
        domain: Option<String>,
        cpus: Vec<usize>,
        phase_ms: u64,
    ) -> AppPlan {
        let latency = Nanos::from_secs(load.period().as_secs() * f64::from(self.deadline) / 1000.0);
        AppPlan {
            name: name.into(),
            network: network.clone(),
            largest: Some(load.largest()),
            queue: 8,
            domain,
            cpus,
            frames: Frames::Periodic { period: load.period(), phase: Nanos::from_ms(phase_ms) },
            targets: vec![(Nanos(0), Slo { latency: Some(latency), ..Slo::default() })],
        }
    }

    fn name(&self) -> String {
        let word = |w: String| {
            w.to_lowercase().replace("cpu", "-cpu").replace("domain", "-domain").replace("--", "-")
        };
        let mut name = format!("{}/{}Hz-{}", self.block.name, self.load.rate, self.load.permille);
        if self.block.second.is_some() {
            name += &format!("/{}", word(format!("{:?}", self.place)));
        }
        if self.deadline != 1000 {
            name += &format!("/deadline-{}", self.deadline);
        }
        name + &format!("/{}/cap-{}", word(format!("{:?}", self.co)), self.cap)
    }

    fn cells(
        &self,
        board: usize,
        model: &Model,
        plain: &Scenario,
        floors: &[Vec<CentiPercent>],
        to: &mut Vec<Cell>,
    ) {
        let (sealed, nice) = (Sealed::new(plain.clone()), niced(model, plain));
        for floors in floors {
            for &objective in &self.block.objectives {
                let mut asked = plain.clone();
                for (app, floor) in asked.apps.iter_mut().zip(floors) {
                    let slo = &mut app.targets[0].1;
                    *slo = Slo { top1: Some(*floor), objective, ..*slo };
                }
                let floor = f64::from(floors[0].0) / 100.0;
                to.push(Cell {
                    board,
                    name: format!("{}/floor-{floor:.2}/{}", plain.name, objective.word()),
                    block: self.block.name.clone(),
                    objective,
                    floors: floors.clone(),
                    weak: weak(plain),
                    at_top: floors[0] == self.network(model).best(),
                    scenario: Sealed::new(asked),
                    plain: Arc::clone(&sealed),
                    nice: nice.clone(),
                });
            }
        }
    }
}

/// Where the kernel's schedutil is known to be weak (measured in a VM): three quarters of the clock and more, periods of
/// 100 ms and more, more than one application, a target that is not the period.
fn weak(scenario: &Scenario) -> bool {
    let one = |app: &AppPlan| {
        let Frames::Periodic { period, .. } = app.frames else { return false };
        let busy = app.largest.is_some_and(|l| l.as_secs() >= 0.745 * period.as_secs());
        // Files write a period of 33.333 ms as 33.3.
        let other =
            |slo: &Slo| slo.latency.is_some_and(|l| (l.as_secs() / period.as_secs() - 1.0).abs() > 0.01);
        busy || period >= Nanos::from_ms(100) || app.targets.iter().any(|(_, slo)| other(slo))
    };
    scenario.apps.len() > 1 || scenario.apps.iter().any(one)
}

/// A CPU domain beside the one that applications run on.
pub fn other_domain(model: &Model) -> Option<DomainId> {
    model.board.ids().find(|(id, d)| *id != model.apps_on && !d.cpus.is_empty()).map(|(id, _)| id)
}

/// With co-runners at nice 10; `None`: that changes nothing. A device knows no niceness.
fn niced(model: &Model, plain: &Scenario) -> Option<Arc<Sealed>> {
    if plain.co_runners.iter().all(|c| c.nice >= 10) || on_gpu(model) {
        return None;
    }
    let mut nice = plain.clone();
    nice.co_runners.iter_mut().for_each(|c| c.nice = c.nice.max(10));
    Some(Sealed::new(nice))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(board: &str) -> (Vec<Cell>, Drops) {
        let text = include_str!("../../../../tests/grid.toml");
        let grid = Grid::parse(std::path::Path::new("grid.toml"), text).unwrap();
        let mut drops = Drops::new();
        let cells = of_grid(&grid, 0, &Model::find(board).unwrap(), &mut drops);
        (cells, drops)
    }

    #[test]
    fn a_board_has_the_cells_it_can_have_and_says_which_not() {
        // one: 3 streams x 3 co-runners x 2 caps x 9 floors x 3 objectives; deadline: 2 x 2 x 9;
        // two: 3 places x 2 co-runners x 2 caps x 9.
        let (xu3, drops) = cells("odroid-xu3");
        assert_eq!((xu3.len(), drops.len()), (3 * 3 * 2 * 9 * 3 + 2 * 2 * 9 + 3 * 2 * 2 * 9, 0));
        let mut names: Vec<_> = xu3.iter().map(|c| &c.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), xu3.len(), "names are unique");

        // A GPU has 6 floors, no same-cpu, one place.
        let (nx, drops) = cells("jetson-xavier-nx");
        assert_eq!(nx.len(), 3 * 2 * 2 * 6 * 3 + 2 * 2 * 6 + 2 * 2 * 6);
        let dropped: Vec<usize> = drops.values().copied().collect();
        assert_eq!(dropped.iter().sum::<usize>(), 3 * 2 * 6 * 3 + 2 * 2 * 2 * 6, "{drops:?}");
        assert!(drops.keys().any(|r| r.contains("a second domain is not simulated")), "{drops:?}");

        // Two of two CPUs have an application: nobody else fits beside them.
        let (vm, drops) = cells("vm-baseline");
        assert_eq!((vm.len(), drops.values().sum::<usize>()), (xu3.len() - 2 * 9, 2 * 9), "{drops:?}");
    }

    #[test]
    fn a_cell_is_what_its_coordinates_say() {
        let (all, _) = cells("odroid-xu3");
        let find = |name: &str| all.iter().find(|c| c.name == name).unwrap_or_else(|| panic!("{name}"));
        let c = find("one/30Hz-750/same-cpu/cap-700/floor-71.80/latency");
        let app = &c.scenario.scenario.apps[0];
        assert_eq!((app.largest, &app.cpus[..], c.at_top), (Some(Nanos::from_ms(25)), &[0][..], true));
        let slo = app.targets[0].1;
        assert_eq!(
            (slo.latency, slo.top1, slo.objective),
            (Some(Nanos(33_333_333)), Some(CentiPercent(7180)), Objective::Latency)
        );
        assert_eq!(c.plain.scenario.apps[0].targets[0].1, Slo { latency: slo.latency, ..Slo::default() });
        assert_eq!(c.nice.as_ref().unwrap().scenario.co_runners[0].nice, 10);
        assert_eq!(c.with_budget(Milliwatts(500)).scenario.apps[0].targets[0].1.power, Some(Milliwatts(500)));
        assert!(Arc::ptr_eq(&find("one/30Hz-750/same-cpu/cap-700/floor-55.70/energy").plain, &c.plain));

        let c = find("two/30Hz-300/two-domains/other-cpu/cap-1000/floor-55.70/energy");
        let [first, second] = &c.scenario.scenario.apps[..] else { panic!() };
        assert_eq!(
            (&first.domain, second.domain.as_deref(), &second.cpus[..]),
            (&None, Some("little"), &[0][..])
        );
        assert_eq!(second.targets[0].1.top1, Some(CentiPercent(7497)));
        assert_eq!(c.scenario.scenario.co_runners[0].cpus, [1]);
        let own = c.with_budget(Milliwatts(500));
        assert!(Arc::ptr_eq(&own, &c.scenario), "energy-first has no budget");
        let d = find("deadline/10Hz-500/deadline-600/none/cap-1000/floor-55.70/energy");
        assert_eq!(d.scenario.scenario.apps[0].targets[0].1.latency, Some(Nanos::from_ms(60)));
    }

    #[test]
    fn weak_is_a_high_load_a_long_period_two_models_or_another_deadline() {
        let (all, _) = cells("odroid-xu3");
        let weak =
            |name: &str| all.iter().filter(|c| c.name.starts_with(name)).map(|c| c.weak).collect::<Vec<_>>();
        for (name, is) in [
            ("one/30Hz-500/", false),
            ("one/30Hz-750/", true),
            ("one/10Hz-500/", true),
            ("deadline/30Hz-500/", true),
            ("two/", true),
        ] {
            let found = weak(name);
            assert!(!found.is_empty() && found.iter().all(|w| *w == is), "{name}");
        }
    }

    #[test]
    fn a_digest_follows_what_a_scenario_says() {
        let (all, _) = cells("odroid-xu3");
        let one = &all[0].scenario;
        let mut other = one.scenario.clone();
        other.apps[0].targets[0].1.power = Some(Milliwatts(1));
        assert_ne!(Sealed::new(other.clone()).digest, one.digest);
        other.apps[0].targets[0].1.power = None;
        other.seed = 77;
        assert_eq!(Sealed::new(other).digest, one.digest, "the seed is told beside it");
    }
}
