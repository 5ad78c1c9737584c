//! The lower bound of each cell whose objective is energy ([`crate::sim::bound`]).

use super::cells::{Cell, Sealed};
use super::figures::median;
use super::runs::{Ground, each};
use super::store::{Key, Store};
use crate::policy::Objective;
use crate::sim::bound::enumerate;
use crate::sim::scenario::Frames;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A cell's bound under one seed, as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Least {
    /// uJ; `None`: no constant point meets the targets, so there is nothing to be measured by.
    pub uj: Option<u64>,
}

/// One enumeration, and all that ask for it.
struct Task<'a> {
    board: usize,
    seed: u64,
    plain: &'a Sealed,
    asked: Vec<(Key, &'a Arc<Sealed>)>,
}

/// By cell, J: the median over seeds. Where nothing but the times of inferences is random, one seed stands for all: over a
/// run's frames that evens out. `None`: the objective is another, no constant point meets the targets, or there is a
/// co-runner, whose clock the cheapest point would take.
///
/// # Errors
/// A scenario that the bound is not made for, or the store cannot be written.
pub fn all(
    ground: &Ground<'_>,
    cells: &[Cell],
    seeds: u64,
    store: &mut Store<Least>,
) -> anyhow::Result<Vec<Option<f64>>> {
    let name = Key::of(&[b"lower bound"]);
    let wanted: Vec<Vec<Key>> = cells.iter().map(|c| keys(ground, c, seeds, &name)).collect();
    let mut tasks: BTreeMap<(usize, &Key, u64), Task<'_>> = BTreeMap::new();
    for (cell, keys) in cells.iter().zip(&wanted) {
        for (seed, key) in (cell.plain.scenario.seed..).zip(keys) {
            if store.get(key).is_none() {
                let new = || Task { board: cell.board, seed, plain: &cell.plain, asked: vec![] };
                let task = tasks.entry((cell.board, &cell.plain.digest, seed)).or_insert_with(new);
                task.asked.push((key.clone(), &cell.scenario));
            }
        }
    }
    let tasks: Vec<Task<'_>> = tasks.into_values().collect();
    ground.bar.inc_length(tasks.len() as u64);
    let work = |task: &Task<'_>| -> anyhow::Result<Vec<Least>> {
        let scenario = task.plain.seeded(task.seed);
        let points = enumerate(&ground.models[task.board], &scenario)?;
        let one = |(_, asked): &(Key, &Arc<Sealed>)| -> anyhow::Result<Least> {
            let bound = points.best(&asked.seeded(task.seed))?;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "an energy; saturates"
            )]
            let uj = bound.energy_j.map(|j| (j * 1e6).round() as u64);
            Ok(Least { uj })
        };
        task.asked.iter().map(one).collect()
    };
    each(&tasks, ground.threads, work, |task, answer| {
        ground.bar.inc(1);
        for ((key, _), least) in task.asked.iter().zip(answer?) {
            store.put(key.clone(), least)?;
        }
        Ok(())
    })?;
    let of = |keys: &Vec<Key>| {
        let all: Option<Vec<u64>> = keys.iter().map(|k| store.get(k).and_then(|l| l.uj)).collect();
        #[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
        all.filter(|a| !a.is_empty()).map(|a| median(a.iter().map(|uj| *uj as f64 / 1e6)))
    };
    Ok(wanted.iter().map(of).collect())
}

/// One per seed that counts.
fn keys(ground: &Ground<'_>, cell: &Cell, seeds: u64, name: &Key) -> Vec<Key> {
    let scenario = &cell.plain.scenario;
    if cell.objective != Objective::Energy || scenario.apps.len() > 2 || !scenario.co_runners.is_empty() {
        return vec![];
    }
    let even = |f: &Frames| matches!(f, Frames::Periodic { .. } | Frames::Recorded { .. });
    let seeds = if scenario.apps.iter().all(|a| even(&a.frames)) { 1 } else { seeds };
    (0..seeds).map(|s| ground.key(cell.board, &cell.scenario, name, scenario.seed + s)).collect()
}
