//! Runs, over all cores, each kept as soon as it is done.

use super::cells::Sealed;
use super::figures::Figures;
use super::store::{Key, Store};
use crate::sim::model::Model;
use crate::sim::outcome::Outcome;
use crate::sim::policies::Spec;
use crate::sim::run::{Prepared, RunError, undisturbed};
use crate::units::Nanos;
use anyhow::Context as _;
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
    /// A tick.
    pub period: Nanos,
    /// At once.
    pub threads: usize,
    /// Tells how far it has come.
    pub bar: &'a ProgressBar,
}

impl<'a> Ground<'a> {
    /// Digests the models.
    pub fn new(models: &'a [Model], period: Nanos, threads: usize, bar: &'a ProgressBar) -> Self {
        let digests = models.iter().map(|m| Key::of(&[format!("{m:?}").as_bytes()])).collect();
        Self { models, digests, period, threads, bar }
    }

    /// The key of a run.
    pub fn key(&self, board: usize, sealed: &Sealed, policy: &Key, seed: u64) -> Key {
        let numbers = [self.period.0.to_le_bytes(), seed.to_le_bytes()].concat();
        let digest = &self.digests[board];
        Key::of(&[digest.bytes(), sealed.digest.bytes(), policy.bytes(), &numbers])
    }

    fn run(&self, job: &Job) -> Result<Figures, RunError> {
        let model = &self.models[job.board];
        let scenario = job.sealed.seeded(job.seed);
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
    pub fn run_all(&self, jobs: Vec<Job>, store: &mut Store<Figures>) -> anyhow::Result<usize> {
        let mut seen = HashSet::new();
        let new = |j: &Job| store.get(&j.key).is_none() && seen.insert(j.key.clone());
        let todo: Vec<Job> = jobs.into_iter().filter(new).collect();
        self.bar.inc_length(todo.len() as u64);
        let keep = |job: &Job, answer: Result<Figures, RunError>| {
            let figures = answer.with_context(|| job.sealed.scenario.name.clone())?;
            self.bar.inc(1);
            store.put(job.key.clone(), figures)
        };
        each(&todo, self.threads, |job| self.run(job), keep)?;
        Ok(todo.len())
    }
}

/// Works on all at once on so many threads; `keep` gets every answer here, as they come. Its first error ends it.
///
/// # Errors
/// What `keep` says.
pub fn each<T: Sync, A: Send>(
    todo: &[T],
    threads: usize,
    work: impl Fn(&T) -> A + Sync,
    mut keep: impl FnMut(&T, A) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (send, receive) = mpsc::channel();
    let (next, stop, work) = (&next, &stop, &work);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let send = send.clone();
            scope.spawn(move || {
                while let Some(item) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let answer = work(item);
                    if stop.load(Ordering::Relaxed) || send.send((item, answer)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(send);
        let mut failed = None;
        for (item, answer) in receive {
            if failed.is_none()
                && let Err(e) = keep(item, answer)
            {
                stop.store(true, Ordering::Relaxed);
                failed = Some(e);
            }
        }
        failed.map_or(Ok(()), Err)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_answers_are_kept_and_the_first_error_ends_it() {
        let todo: Vec<u64> = (0..500).collect();
        let mut sum = 0;
        each(
            &todo,
            3,
            |n| n * 2,
            |n, twice| {
                assert_eq!(twice, n * 2);
                sum += n;
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(sum, 499 * 250);
        let (done, mut kept) = (AtomicUsize::new(0), 0);
        let work = |_: &u64| done.fetch_add(1, Ordering::Relaxed);
        let keep = |n: &u64, _| {
            if *n == 3 {
                anyhow::bail!("no room")
            } else {
                kept += 1;
                Ok(())
            }
        };
        assert_eq!(each(&todo, 1, work, keep).unwrap_err().to_string(), "no room");
        assert_eq!(kept, 3);
    }
}
