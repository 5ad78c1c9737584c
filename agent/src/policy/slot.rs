//! The place where a policy set serves, and how another one gets there.
//!
//! A **set** is one allocator and one tuner per application, swapped as one. Everything slow (reading,
//! compiling, starting, a trial, freeing) happens on the loader's thread (`slot/loader.rs`); between two
//! ticks the loop only takes what is ready and hands back what it no longer needs. A candidate that
//! fails is never seen by the loop. A serving set that traps, is late or answers nonsense is set aside:
//! [`Hold`] serves, with one notice, until somebody asks for a retry or another set.
//!
//! Not here: time (the loop calls [`PolicySlot::decide`]), limits of what is admitted (the envelope),
//! handing a set's state over to the next one.

mod loader;

pub use loader::{Pending, PolicyControl, PolicyStatus};

use super::builtin::Hold;
use super::wasm::WasmEngine;
use super::{Allocation, Allocator, App, AppChoice, Decision, Limits, Param, PolicyError, Tuner, View};
use crate::board::Board;
use crate::snapshot::{Signal, Snapshot};
use crate::units::{DomainId, Nanos, OppIndex};
use loader::{Candidate, Job, Link, Moment, Ready};
use std::sync::Arc;

/// What sets are made from. The loader's thread calls it, also while the set serves, when an
/// application comes.
pub trait PolicySource: Send + Sync {
    /// The set's name.
    fn name(&self) -> &str;
    /// A new allocator, not started.
    ///
    /// # Errors
    /// It cannot be made.
    fn allocator(&self) -> Result<Box<dyn Allocator>, PolicyError>;
    /// A new tuner for that application, not started.
    ///
    /// # Errors
    /// It cannot be made.
    fn tuner(&self, app: &App) -> Result<Box<dyn Tuner>, PolicyError>;
    /// For the allocator's `start`.
    fn allocator_params(&self) -> &[Param] {
        &[]
    }
    /// For the tuners' `start`.
    fn tuner_params(&self) -> &[Param] {
        &[]
    }
}

/// What does not change while the agent runs, and every policy is told.
#[derive(Debug)]
pub struct PolicyContext {
    /// The machine.
    pub board: Board,
    /// Length of a tick.
    pub period: Nanos,
    /// The slow sensors, as in the snapshots.
    pub signals: Vec<Signal>,
}

/// One application's tuner.
struct Place {
    app: App,
    /// `None` until the loader has made it; the application is left as it is meanwhile.
    tuner: Option<Box<dyn Tuner>>,
}

impl Place {
    /// Whether it is the same application, but for its target.
    fn serves(&self, app: &App) -> bool {
        let mine = &self.app;
        mine.slot == app.slot
            && mine.name == app.name
            && mine.threads_max == app.threads_max
            && mine.subnets == app.subnets
    }
}

/// One allocator and a tuner per application.
struct PolicySet {
    name: String,
    /// Tells sets of one name apart; 0 is `Hold`.
    number: u64,
    /// Makes tuners for applications to come.
    source: Option<Arc<dyn PolicySource>>,
    allocator: Box<dyn Allocator>,
    /// In the order of the applications.
    tuners: Vec<Place>,
}

/// What one round of a set produced; buffers.
#[derive(Debug, Default)]
struct Answers {
    allocation: Allocation,
    choices: Vec<Option<AppChoice>>,
}

impl PolicySet {
    fn hold() -> Box<Self> {
        Box::new(Self {
            name: "hold".into(),
            number: 0,
            source: None,
            allocator: Box::new(Hold),
            tuners: Vec::new(),
        })
    }

    /// Asks the allocator, then the tuner of each application that is granted something.
    fn decide(&mut self, seen: &Snapshot, to: &mut Answers) -> Result<(), PolicyError> {
        let Answers { allocation, choices } = to;
        reset(&mut allocation.domains, seen.domains.len());
        reset(&mut allocation.grants, seen.apps.len());
        reset(choices, seen.apps.len());
        self.allocator.decide(seen, allocation)?;
        for (((place, app), grant), choice) in
            self.tuners.iter_mut().zip(&seen.apps).zip(&allocation.grants).zip(choices)
        {
            let (Some(tuner), Some(grant)) = (&mut place.tuner, grant) else { continue };
            let domain = seen.domains.get(usize::from(grant.domain.0)).ok_or_else(|| {
                let reason = format!("domain {} does not exist", grant.domain.0);
                PolicyError::Invalid { name: self.allocator.name().to_owned(), reason }
            })?;
            let view = View {
                tick: seen.tick,
                at: seen.at,
                window: seen.window,
                app,
                domain,
                other: &seen.other,
                grant,
            };
            *choice = Some(tuner.decide(&view)?);
        }
        Ok(())
    }

    fn limits(&mut self, now: &Limits) -> Result<(), PolicyError> {
        self.allocator.limits(now)?;
        self.tuners
            .iter_mut()
            .filter_map(|place| place.tuner.as_mut())
            .try_for_each(|tuner| tuner.limits(now))
    }
}

/// Refills a buffer with empty elements.
fn reset<T: Default + Clone>(buffer: &mut Vec<T>, length: usize) {
    buffer.clear();
    buffer.resize(length, T::default());
}

impl Answers {
    /// Everything is left as it is.
    fn leave(&mut self, seen: &Snapshot) {
        reset(&mut self.allocation.domains, seen.domains.len());
        reset(&mut self.allocation.grants, seen.apps.len());
        reset(&mut self.choices, seen.apps.len());
    }

    /// Makes one decision of the two levels' answers.
    fn combine(&self, seen: &Snapshot, out: &mut Decision) {
        out.opps.clear();
        for ((index, order), sample) in (0..).zip(&self.allocation.domains).zip(&seen.domains) {
            let here = |grant: &super::Grant| grant.domain == DomainId(index);
            let tuners = self.allocation.grants.iter().zip(&self.choices).filter_map(|(grant, choice)| {
                grant.as_ref().filter(|grant| here(grant))?;
                choice.as_ref()?.ask
            });
            let ask = tuners.chain(order.ask).max();
            out.opps.push(opp(ask, order.cap, sample.opp));
        }
        out.apps.clear();
        out.apps.extend(
            self.allocation.grants.iter().zip(&self.choices).map(|(grant, choice)| (*grant).zip(*choice)),
        );
    }
}

/// The highest ask, under the cap. Nobody asks: only a domain above its cap moves.
fn opp(ask: Option<OppIndex>, cap: Option<OppIndex>, now: Option<OppIndex>) -> Option<OppIndex> {
    match (ask, cap) {
        (Some(ask), Some(cap)) => Some(ask.min(cap)),
        (None, Some(cap)) => (now.is_none_or(|now| now > cap)).then_some(cap),
        (ask, None) => ask,
    }
}

/// The loop's side.
pub struct PolicySlot {
    engine: Option<WasmEngine>,
    set: Box<PolicySet>,
    apps: Vec<App>,
    limits: Limits,
    /// Counts changes of `apps` and of `limits`: a candidate was made for some of them.
    changes: Changes,
    answers: Answers,
    link: Link,
}

/// How often the applications and the limits changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Changes {
    apps: u64,
    limits: u64,
}

impl std::fmt::Debug for PolicySlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicySlot").field("serving", &self.set.name).finish_non_exhaustive()
    }
}

/// Items taken from the loader between two ticks, so that many arrivals do not make one tick long.
const TAKEN_PER_TICK: usize = 8;

impl PolicySlot {
    /// An empty slot: `Hold` serves. Starts the loader's thread; make it before the calling thread gets
    /// a real-time priority. `engine` arms the deadline clock once per tick; natively linked policies
    /// need none.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn new(context: PolicyContext, engine: Option<WasmEngine>) -> std::io::Result<Self> {
        Ok(Self {
            engine,
            set: PolicySet::hold(),
            apps: Vec::new(),
            limits: Limits::default(),
            changes: Changes::default(),
            answers: Answers::default(),
            link: Link::new(context)?,
        })
    }

    /// For the control socket and everybody else who is not the loop.
    pub fn control(&self) -> PolicyControl {
        self.link.control()
    }

    /// The name of the set that serves, `hold` if none does.
    pub fn serving(&self) -> &str {
        &self.set.name
    }

    /// Why the last set was set aside or the last candidate refused.
    pub fn last_error(&self) -> Option<PolicyError> {
        self.link.status().last_error
    }

    /// Once a tick. `out.seq` is left alone.
    pub fn decide(&mut self, seen: &Snapshot, out: &mut Decision) {
        self.take_ready();
        self.give_moment(seen);
        // An application that the sensors see before the policies were told of it.
        let told = seen.apps.len() == self.apps.len();
        if self.set.number == 0 || !told {
            self.answers.leave(seen);
        } else if let Err(error) = armed(&self.engine, || self.set.decide(seen, &mut self.answers)) {
            self.set_aside(error);
            self.answers.leave(seen);
        }
        self.answers.combine(seen, out);
    }

    fn give_moment(&self, seen: &Snapshot) {
        if self.link.moment_wanted() {
            self.link.give(Moment {
                seen: seen.clone(),
                apps: self.apps.clone(),
                limits: self.limits.clone(),
                changes: self.changes,
            });
        }
    }

    /// Has a set made, tried and installed before it answers: for who owns the clock, so that it serves from
    /// a certain tick on. The daemon, which must not wait, swaps by [`PolicySlot::control`].
    ///
    /// # Errors
    /// Why it does not serve; what served before still does.
    pub fn serve(&mut self, source: Arc<dyn PolicySource>, seen: &Snapshot) -> Result<(), PolicyError> {
        let pending = self.control().swap(source);
        loop {
            self.take_ready();
            self.give_moment(seen);
            match pending.poll() {
                Some(answer) => return answer,
                // Compiling takes tens of milliseconds.
                None => std::thread::sleep(std::time::Duration::from_micros(50)),
            }
        }
    }

    /// Applications came, left or changed their target: the list as it is now, in the snapshots' order.
    pub fn apps(&mut self, now: &[App]) {
        self.apps = now.to_vec();
        self.changes.apps += 1;
        if let Err(error) =
            armed(&self.engine, || tell_apps(&mut self.set, &self.apps, &self.limits, &self.link))
        {
            self.set_aside(error);
        }
    }

    /// The envelope moved.
    pub fn limits(&mut self, now: &Limits) {
        if self.limits == *now {
            return;
        }
        self.limits.opps.clone_from(&now.opps);
        self.changes.limits += 1;
        if let Err(error) = armed(&self.engine, || self.set.limits(&self.limits)) {
            self.set_aside(error);
        }
    }

    fn set_aside(&mut self, error: PolicyError) {
        let old = std::mem::replace(&mut self.set, PolicySet::hold());
        tracing::warn!(set = %old.name, %error, "policy set aside, hold serves");
        self.link.fell_back(&old.name, error);
        self.link.send(Job::Retire(old));
    }

    fn take_ready(&mut self) {
        for _ in 0..TAKEN_PER_TICK {
            match self.link.ready() {
                None => return,
                Some(Ready::Set(candidate)) => return self.install(candidate),
                Some(Ready::Tuner { set, app, limits, tuner }) => self.place(set, &app, limits, tuner),
            }
        }
    }

    fn install(&mut self, candidate: Candidate) {
        let Candidate { mut set, source, changes, reply } = candidate;
        let told: Result<(), PolicyError> = armed(&self.engine, || {
            if changes.apps != self.changes.apps {
                tell_apps(&mut set, &self.apps, &self.limits, &self.link)?;
            }
            if changes.limits != self.changes.limits {
                set.limits(&self.limits)?;
            }
            Ok(())
        });
        match told {
            Ok(()) => {
                let old = std::mem::replace(&mut self.set, set);
                tracing::info!(from = %old.name, to = %self.set.name, "policy set swapped");
                self.link.swapped(&self.set.name, source);
                self.link.send(Job::Retire(old));
                // Who asked may have gone.
                let _ = reply.send(Ok(()));
            }
            Err(error) => {
                self.link.refused(error.clone());
                self.link.send(Job::Retire(set));
                let _ = reply.send(Err(error));
            }
        }
    }

    /// A tuner for an application that came after the set was installed.
    fn place(&mut self, set: u64, app: &App, limits: Limits, tuner: Result<Box<dyn Tuner>, PolicyError>) {
        let waiting = |place: &&mut Place| place.tuner.is_none() && place.serves(app);
        let place = self.set.tuners.iter_mut().find(waiting).filter(|_| set == self.set.number);
        let (place, mut tuner) = match (place, tuner) {
            (Some(place), Ok(tuner)) => (place, tuner),
            // The set was swapped or the application left meanwhile.
            (None, Ok(tuner)) => return self.link.send(Job::RetireTuner(tuner)),
            (None, Err(_)) => return,
            (Some(_), Err(error)) => {
                tracing::warn!(app = %app.name, %error, "no tuner, the application is left as it is");
                return self.link.refused(error);
            }
        };
        // The target or the limits may have changed while it was made.
        let told = armed(&self.engine, || {
            if place.app.target != app.target {
                tuner.app(&place.app)?;
            }
            if limits != self.limits { tuner.limits(&self.limits) } else { Ok(()) }
        });
        place.tuner = Some(tuner);
        if let Err(error) = told {
            self.set_aside(error);
        }
    }
}

fn armed<R>(engine: &Option<WasmEngine>, calls: impl FnOnce() -> R) -> R {
    match engine {
        Some(engine) => engine.armed(calls),
        None => calls(),
    }
}

/// Tells a set which applications there are: the allocator and the tuners that stay, at once; tuners
/// for new ones come from the loader, those of old ones go there.
fn tell_apps(set: &mut PolicySet, apps: &[App], limits: &Limits, link: &Link) -> Result<(), PolicyError> {
    set.allocator.apps(apps)?;
    let Some(source) = &set.source else { return Ok(()) };
    let mut before = std::mem::take(&mut set.tuners);
    for app in apps {
        let known = before.iter().position(|place| place.serves(app)).map(|at| before.swap_remove(at));
        set.tuners.push(known.unwrap_or_else(|| {
            link.send(Job::Tuner {
                source: Arc::clone(source),
                set: set.number,
                app: app.clone(),
                limits: limits.clone(),
            });
            Place { app: app.clone(), tuner: None }
        }));
    }
    before.into_iter().filter_map(|place| place.tuner).for_each(|tuner| link.send(Job::RetireTuner(tuner)));
    for (place, app) in set.tuners.iter_mut().zip(apps) {
        if place.app.target != app.target {
            place.app.target = app.target;
            place.tuner.as_mut().map_or(Ok(()), |tuner| tuner.app(app))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
