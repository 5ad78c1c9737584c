//! Runs, over all cores, each kept as soon as it is done.

use super::cells::Sealed;
use super::figures::Figures;
use super::store::{Key, Store};
use crate::sim::model::Model;
use crate::sim::outcome::Outcome;
use crate::sim::policies::Spec;
use crate::sim::run::{Prepared, RunError, undisturbed};
use crate::units::Nanos;
use indicatif::ProgressBar;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

/// What governs a run.
#[derive(Clone, Debug)]
pub enum Governed {
    /// A kernel governor with fixed sub-networks.
    Fixed(Arc<Spec>),
    /// A policy, ready for the board.
    Policy(Arc<Prepared>),
}

/// A run to do.
#[derive(Clone, Debug)]
pub struct Job {
    /// What it depends on.
    pub key: Key,
    /// Position of its model.
    pub board: usize,
    /// What happens.
    pub sealed: Arc<Sealed>,
    /// Who decides.
    pub governed: Governed,
    /// Of everything random.
    pub seed: u64,
}

/// What is the same in all runs of a variant.
#[derive(Debug)]
pub struct Ground<'a> {
    /// By position.
    pub models: &'a [Model],
    /// Digest of each: every constant and table.
    pub digests: Vec<Key>,
    /// Of the program.
    pub program: &'a Key,
    /// A tick.
    pub period: Nanos,
}

impl<'a> Ground<'a> {
    /// Digests the models.
    pub fn new(models: &'a [Model], program: &'a Key, period: Nanos) -> Self {
        let digests = models.iter().map(|m| Key::of(&[format!("{m:?}").as_bytes()])).collect();
        Self { models, digests, program, period }
    }

    /// The key of a run.
    pub fn key(&self, board: usize, sealed: &Sealed, policy: &Key, seed: u64) -> Key {
        let numbers = [self.period.0.to_le_bytes(), seed.to_le_bytes()].concat();
        let digest = &self.digests[board];
        Key::of(&[self.program.bytes(), digest.bytes(), sealed.digest.bytes(), policy.bytes(), &numbers])
    }

    fn run(&self, job: &Job) -> Result<Figures, RunError> {
        let model = &self.models[job.board];
        let mut scenario = job.sealed.scenario.clone();
        scenario.seed = job.seed;
        let book = match &job.governed {
            Governed::Fixed(spec) => {
                let rule = spec.rule(&scenario.apps).map_err(RunError::Spec)?;
                undisturbed(model, &scenario, &rule)?
            }
            Governed::Policy(policy) => policy.run(model, &scenario, self.period, |_| ())?,
        };
        Ok(Figures::of(&Outcome::of("", model, &scenario, &book)))
    }

    /// Does what is not done yet; answers how many runs that were. The first failure ends it; what is done is kept.
    ///
    /// # Errors
    /// A policy failed, or the store cannot be written.
    pub fn run_all(&self, jobs: Vec<Job>, store: &mut Store, threads: usize, bar: &ProgressBar) -> anyhow::Result<usize> {
        let mut seen = HashSet::new();
        let new = |j: &Job| store.get(&j.key).is_none() && seen.insert(j.key.clone());
        let todo: Vec<Job> = jobs.into_iter().filter(new).collect();
        bar.inc_length(todo.len() as u64);
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (send, receive) = mpsc::channel();
        let (todo, next, stop) = (&todo, &next, &stop);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let send = send.clone();
                scope.spawn(move || {
                    while let Some(job) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let answer = (job, self.run(job));
                        if stop.load(Ordering::Relaxed) || send.send(answer).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(send);
            let mut failed = None;
            for (job, answer) in receive {
                let kept = match answer {
                    Ok(figures) => store.put(job.key.clone(), figures),
                    Err(e) => Err(anyhow::Error::from(e).context(job.sealed.scenario.name.clone())),
                };
                if let Err(e) = kept {
                    stop.store(true, Ordering::Relaxed);
                    failed.get_or_insert(e);
                }
                bar.inc(1);
            }
            failed.map_or(Ok(todo.len()), Err)
        })
    }
}

/// What a policy's text stands for: a component counts by its bytes.
///
/// # Errors
/// A component cannot be read.
pub fn policy_key(text: &str) -> std::io::Result<Key> {
    let mut parts = vec![text.as_bytes().to_vec()];
    let names = text.split_once('?').map_or(text, |t| t.0).split('+');
    for file in names.filter(|n| n.ends_with(".wasm")) {
        parts.push(std::fs::read(Path::new(file))?);
    }
    Ok(Key::of(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

/// Of the running program's file: another build's runs are not this one's.
///
/// # Errors
/// It cannot be read.
pub fn program_key() -> std::io::Result<Key> {
    Ok(Key::of(&[&std::fs::read(std::env::current_exe()?)?]))
}
