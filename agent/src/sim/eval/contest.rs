//! All cells under one set of models: trials of the kernel's governors, the comparator of each cell, then the managers.
//!
//! In two rounds, because what a manager may spend (latency-first, accuracy-first) is what the comparator spends.

use super::cells::{Cell, Sealed};
use super::figures::{Figures, Medians};
use super::judge::{Candidate, Rules, Standing, best};
use super::rows::{Pick, Row, What};
use super::runs::{Governed, Ground, Job, policy_key};
use super::store::{Key, Store};
use crate::sim::policies::Spec;
use crate::sim::run::Prepared;
use crate::units::{CentiPercent, Milliwatts};
use anyhow::Context as _;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// More fixed choices than this are not tried: nobody means to.
const CHOICES: usize = 1000;

/// One cell's result.
#[derive(Clone, Debug)]
pub struct CellResult {
    /// Position of the cell.
    pub cell: usize,
    /// The comparator's sub-networks, by application.
    pub subnets: Vec<usize>,
    /// It meets the target.
    pub feasible: bool,
    /// Rows whose win here turns with a changed assumption.
    pub undecided: BTreeSet<usize>,
    /// By row; `None`: it does not run there.
    pub rows: Vec<Option<Placed>>,
}

/// One row of a cell.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The fixed sub-networks, by application; empty: a manager chose.
    pub subnets: Vec<usize>,
    /// What it came to.
    pub medians: Medians,
    /// Against the comparator.
    pub standing: Standing,
}

/// A manager of a row on a board, by block; missing: it does not run there.
pub type Ready = HashMap<(usize, usize, String), Arc<Prepared>>;

/// What is compared, and how.
#[derive(Debug)]
pub struct Contest<'a> {
    /// Models of this variant.
    pub ground: Ground<'a>,
    /// Where.
    pub cells: &'a [Cell],
    /// Who.
    pub rows: &'a [Row],
    /// Managers, by row, board and block.
    pub ready: &'a Ready,
    /// Positions of the rows that take part; the first always does.
    pub takes_part: &'a BTreeSet<usize>,
    /// Lower bounds, by cell, J.
    pub bounds: &'a [Option<f64>],
    /// Runs of each.
    pub seeds: u64,
}

/// Board, digest of a scenario, governor: what one table of candidates belongs to.
type Which<'a> = (usize, &'a Key, &'a str);
type Tried<'a> = HashMap<Which<'a>, Vec<Candidate>>;
type Trials<'a> = BTreeMap<Which<'a>, (&'a Arc<Sealed>, BTreeSet<Vec<usize>>)>;

/// One fixed choice under one governor, and its runs.
struct Trial<'a> {
    which: Which<'a>,
    subnets: Vec<usize>,
    jobs: Vec<Job>,
}

impl<'a> Contest<'a> {
    /// Runs what is not done yet. Answers the results in the order of the cells, and how many runs were done.
    ///
    /// # Errors
    /// A run failed.
    pub fn hold(&self, store: &mut Store<Figures>) -> anyhow::Result<(Vec<CellResult>, usize)> {
        let trials = self.trial_jobs(self.trials()?)?;
        let jobs = trials.iter().flat_map(|t| t.jobs.clone()).collect();
        let mut done = self.ground.run_all(jobs, store)?;
        let mut tried = Tried::new();
        for Trial { which, subnets, jobs } in trials {
            let medians = self.medians(&jobs, store)?;
            tried.entry(which).or_default().push(Candidate { subnets, medians });
        }
        let mut results = Vec::new();
        let mut managers = Vec::new();
        for (i, cell) in self.cells.iter().enumerate() {
            let (result, home_mw) = self.comparator(i, cell, &tried)?;
            let asked = cell.with_budget(home_mw);
            for (r, row) in self.taking_part() {
                let What::Policy { spec, .. } = &row.what else { continue };
                let Some(policy) = self.ready.get(&(r, cell.board, cell.block.clone())) else { continue };
                let key = policy_key(spec).with_context(|| spec.clone())?;
                managers.push((
                    i,
                    r,
                    self.jobs(cell.board, &asked, &key, &Governed::Policy(Arc::clone(policy))),
                ));
            }
            results.push(result);
        }
        let jobs = managers.iter().flat_map(|m| m.2.clone()).collect();
        done += self.ground.run_all(jobs, store)?;
        for (i, r, jobs) in managers {
            let medians = self.medians(&jobs, store)?;
            results[i].rows[r] = Some(Placed { subnets: vec![], medians, standing: UNJUDGED });
        }
        results.iter_mut().for_each(|r| self.judge(r));
        Ok((results, done))
    }

    fn taking_part(&self) -> impl Iterator<Item = (usize, &'a Row)> {
        self.rows.iter().enumerate().filter(|(r, _)| self.takes_part.contains(r))
    }

    /// What is tried in each (board, scenario): all fixed choices that hold the floor of one of its cells, under every
    /// governor that a row needs there.
    fn trials(&self) -> anyhow::Result<Trials<'a>> {
        let mut all = Trials::new();
        for cell in self.cells {
            let choices = choices(cell)?;
            let model = &self.ground.models[cell.board];
            let on_cpus = !model.domain(model.apps_on).cpus.is_empty();
            for (_, row) in self.taking_part() {
                let What::Trial { governor, nice, cpus_only, .. } = &row.what else { continue };
                let sealed = if *nice { cell.nice.as_ref() } else { Some(&cell.plain) };
                let Some(sealed) = sealed.filter(|_| on_cpus || !cpus_only) else { continue };
                let entry = all.entry((cell.board, &sealed.digest, governor.as_str()));
                entry.or_insert((sealed, BTreeSet::new())).1.extend(choices.iter().cloned());
            }
        }
        Ok(all)
    }

    /// Their runs.
    fn trial_jobs(&self, trials: Trials<'a>) -> anyhow::Result<Vec<Trial<'a>>> {
        let mut all = Vec::new();
        for (which, (sealed, choices)) in trials {
            let (board, _, governor) = which;
            for subnets in choices {
                let list: Vec<String> = subnets.iter().map(usize::to_string).collect();
                let join = if governor.contains('?') { '&' } else { '?' };
                let text = format!("{governor}{join}subnet={}", list.join(","));
                let key = policy_key(&text)?;
                let spec = Arc::new(Spec::parse(&text).map_err(anyhow::Error::msg)?);
                let jobs = self.jobs(board, sealed, &key, &Governed::Fixed(spec));
                all.push(Trial { which, subnets, jobs });
            }
        }
        Ok(all)
    }

    fn jobs(&self, board: usize, sealed: &Arc<Sealed>, policy: &Key, governed: &Governed) -> Vec<Job> {
        let first = sealed.scenario.seed;
        let job = |seed| Job {
            key: self.ground.key(board, sealed, policy, seed),
            board,
            sealed: Arc::clone(sealed),
            governed: governed.clone(),
            seed,
        };
        (first..first + self.seeds).map(job).collect()
    }

    fn medians(&self, jobs: &[Job], store: &Store<Figures>) -> anyhow::Result<Medians> {
        let runs: Option<Vec<_>> = jobs.iter().map(|j| store.get(&j.key)).collect();
        runs.and_then(|r| Medians::of(&r)).context("a run is missing from the store")
    }

    /// A cell's comparator and what it draws where the applications are at home; with all trial rows filled in.
    fn comparator(
        &self,
        i: usize,
        cell: &'a Cell,
        tried: &Tried<'a>,
    ) -> anyhow::Result<(CellResult, Milliwatts)> {
        let floors: BTreeSet<Vec<usize>> = choices(cell)?.into_iter().collect();
        let largest: Vec<usize> =
            cell.plain.scenario.apps.iter().map(|a| a.network.subnets.len() - 1).collect();
        let place = |row: &'a Row| -> Option<(Placed, bool)> {
            let What::Trial { governor, pick, nice, .. } = &row.what else { return None };
            let sealed = if *nice { cell.nice.as_ref()? } else { &cell.plain };
            let all = tried.get(&(cell.board, &sealed.digest, governor.as_str()))?;
            let held = all.iter().filter(|c| floors.contains(&c.subnets));
            let (c, feasible) = match pick {
                Pick::Best => best(held)?,
                Pick::Largest => best(held.filter(|c| c.subnets == largest))?,
            };
            let placed =
                Placed { subnets: c.subnets.clone(), medians: c.medians.clone(), standing: UNJUDGED };
            Some((placed, feasible))
        };
        let mut rows: Vec<Option<Placed>> = Vec::new();
        let mut feasible = false;
        for (r, row) in self.rows.iter().enumerate() {
            let placed = if self.takes_part.contains(&r) { place(row) } else { None };
            if r == 0 {
                feasible = placed.as_ref().is_some_and(|p| p.1);
            }
            rows.push(placed.map(|p| p.0));
        }
        let first = rows[0].as_ref().with_context(|| format!("{}: no comparator", cell.name))?;
        let home = usize::from(self.ground.models[cell.board].apps_on.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a power; saturates")]
        let home_mw = Milliwatts(first.medians.domains_mw[home].ceil() as u32);
        Ok((
            CellResult {
                cell: i,
                subnets: first.subnets.clone(),
                feasible,
                undecided: BTreeSet::new(),
                rows,
            },
            home_mw,
        ))
    }

    fn judge(&self, result: &mut CellResult) {
        let cell = &self.cells[result.cell];
        let percent = |top1: CentiPercent| f64::from(top1.0) / 100.0;
        let best: Vec<f64> = cell.plain.scenario.apps.iter().map(|a| percent(a.network.best())).collect();
        let floors: Vec<f64> = cell.floors.iter().map(|f| percent(*f)).collect();
        let rules = Rules {
            objective: cell.objective,
            feasible: result.feasible,
            best: &best,
            floors: &floors,
            bound: self.bounds[result.cell],
        };
        let Some(comparator) = result.rows[0].as_ref().map(|p| p.medians.clone()) else { return };
        for placed in result.rows.iter_mut().flatten() {
            placed.standing = Standing::of(&placed.medians, &comparator, &rules);
        }
    }
}

/// Until all rows are there.
const UNJUDGED: Standing = Standing {
    energy: f64::NAN,
    with_board: f64::NAN,
    latency: None,
    violations: f64::NAN,
    top1: None,
    top1_diff: None,
    co: None,
    switches: f64::NAN,
    moves: f64::NAN,
    above_bound: None,
    fair: false,
    in_target: false,
    won: false,
    tied: false,
};

/// The fixed choices at or above a cell's floors.
fn choices(cell: &Cell) -> anyhow::Result<Vec<Vec<usize>>> {
    let mut all: Vec<Vec<usize>> = vec![vec![]];
    for (app, floor) in cell.plain.scenario.apps.iter().zip(&cell.floors) {
        let held = app.network.subnets.iter().enumerate().filter(|(_, s)| s.top1 >= *floor);
        let held: Vec<usize> = held.map(|(i, _)| i).collect();
        all = all.iter().flat_map(|c| held.iter().map(|h| [&c[..], &[*h]].concat())).collect();
        anyhow::ensure!(
            all.len() <= CHOICES,
            "{}: more than {CHOICES} fixed choices of sub-networks to try",
            cell.name
        );
    }
    Ok(all)
}
