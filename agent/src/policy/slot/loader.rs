//! The thread that makes policy sets, tries them and frees them, so that the loop never does.
//!
//! It is niced: while it compiles, the loop and the runners come first.

use super::{Answers, Changes, Place, PolicyContext, PolicySet, PolicySource};
use crate::policy::{App, Limits, PolicyError, Tuner};
use crate::snapshot::Snapshot;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How much nicer than the rest of the agent.
const NICE: i32 = 10;
/// How long a candidate waits for the loop: many ticks.
const TICK_WAIT: Duration = Duration::from_secs(5);

/// What the thread is asked to do.
pub(super) enum Job {
    Swap {
        source: Arc<dyn PolicySource>,
        reply: Sender<Result<(), PolicyError>>,
    },
    Tuner {
        source: Arc<dyn PolicySource>,
        set: u64,
        app: App,
        limits: Limits,
    },
    /// To be freed: an instance's memory is unmapped, its code with the last instance.
    Retire(Box<PolicySet>),
    RetireTuner(Box<dyn Tuner>),
    Stop,
}

/// What the loop takes between two ticks.
pub(super) enum Ready {
    Set(Candidate),
    /// `limits`: what it was told.
    Tuner {
        set: u64,
        app: App,
        limits: Limits,
        tuner: Result<Box<dyn Tuner>, PolicyError>,
    },
}

/// A set that was started and passed its trial.
pub(super) struct Candidate {
    pub set: Box<PolicySet>,
    pub source: Arc<dyn PolicySource>,
    /// What it was told of applications and limits.
    pub changes: Changes,
    pub reply: Sender<Result<(), PolicyError>>,
}

/// A copy of the loop's present, for starting and trying a candidate.
pub(super) struct Moment {
    pub seen: Snapshot,
    pub apps: Vec<App>,
    pub limits: Limits,
    pub changes: Changes,
}

/// What `tandem status` shows of the policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyStatus {
    /// The set that serves; `hold` if none does.
    pub serving: String,
    /// The set that served until it failed, while `hold` serves in its place.
    pub set_aside: Option<String>,
    /// Why a set was set aside or a candidate refused, the newest.
    pub last_error: Option<PolicyError>,
    /// Sets installed.
    pub swaps: u64,
    /// Sets set aside.
    pub faults: u64,
}

struct Board {
    status: PolicyStatus,
    /// What the newest installed set was made from.
    source: Option<Arc<dyn PolicySource>>,
}

/// Locked on edges only, never in a tick in which nothing happens.
type SharedBoard = Arc<Mutex<Board>>;

fn lock(board: &SharedBoard) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks for swaps; for every thread but the loop's.
#[derive(Clone)]
pub struct PolicyControl {
    jobs: Sender<Job>,
    board: SharedBoard,
}

impl std::fmt::Debug for PolicyControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicyControl").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// A swap that was asked for.
#[derive(Debug)]
pub struct Pending {
    name: String,
    reply: Receiver<Result<(), PolicyError>>,
}

impl Pending {
    /// Until the set serves or was refused.
    ///
    /// # Errors
    /// Why it does not serve; what served before still does.
    pub fn wait(self) -> Result<(), PolicyError> {
        self.reply.recv().unwrap_or_else(|_| Err(no_swap(&self.name, "the agent is ending")))
    }

    /// The answer, if there is one yet.
    pub fn poll(&self) -> Option<Result<(), PolicyError>> {
        match self.reply.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(no_swap(&self.name, "the agent is ending"))),
        }
    }
}

fn no_swap(name: &str, reason: &str) -> PolicyError {
    PolicyError::Refused { name: name.to_owned(), verb: "swap", reason: reason.to_owned() }
}

impl PolicyControl {
    /// Has a set made, tried and installed. Needs a ticking loop.
    pub fn swap(&self, source: Arc<dyn PolicySource>) -> Pending {
        let (sender, reply) = channel();
        let name = source.name().to_owned();
        // If the thread ended, the reply's sender is dropped with the job and `wait` says so.
        let _ = self.jobs.send(Job::Swap { source, reply: sender });
        Pending { name, reply }
    }

    /// The newest installed set once more, as new instances of the code already compiled. `None` if
    /// there never was one.
    pub fn retry(&self) -> Option<Pending> {
        let source = lock(&self.board).source.clone();
        source.map(|source| self.swap(source))
    }

    /// A copy.
    pub fn status(&self) -> PolicyStatus {
        lock(&self.board).status.clone()
    }
}

/// The loop's end of everything shared with the thread.
pub(super) struct Link {
    jobs: Sender<Job>,
    ready: Receiver<Ready>,
    wanted: Arc<AtomicBool>,
    /// `None` once the slot is being dropped, which ends the thread's waiting.
    moments: Option<Sender<Moment>>,
    board: SharedBoard,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    pub fn new(context: PolicyContext) -> std::io::Result<Self> {
        let (jobs, to_do) = channel();
        let (done, ready) = channel();
        let (moments, given) = channel();
        let wanted = Arc::new(AtomicBool::new(false));
        let status =
            PolicyStatus { serving: "hold".into(), set_aside: None, last_error: None, swaps: 0, faults: 0 };
        let board = Arc::new(Mutex::new(Board { status, source: None }));
        let loader = Loader {
            context,
            jobs: to_do,
            ready: done,
            wanted: Arc::clone(&wanted),
            moments: given,
            board: Arc::clone(&board),
            sets: 0,
        };
        let thread = std::thread::Builder::new().name("policy-loader".into()).spawn(move || loader.run())?;
        Ok(Self { jobs, ready, wanted, moments: Some(moments), board, thread: Some(thread) })
    }

    pub fn control(&self) -> PolicyControl {
        PolicyControl { jobs: self.jobs.clone(), board: Arc::clone(&self.board) }
    }

    pub fn status(&self) -> PolicyStatus {
        lock(&self.board).status.clone()
    }

    /// What is ready, without waiting.
    pub fn ready(&self) -> Option<Ready> {
        self.ready.try_recv().ok()
    }

    /// Whether the thread waits for a [`Moment`]; the question is answered once.
    pub fn moment_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) && self.wanted.swap(false, Ordering::Relaxed)
    }

    pub fn give(&self, moment: Moment) {
        if let Some(moments) = &self.moments {
            let _ = moments.send(moment);
        }
    }

    pub fn send(&self, job: Job) {
        // It fails only if the thread panicked; what was to be freed is then freed here.
        let _ = self.jobs.send(job);
    }

    pub fn swapped(&self, name: &str, source: Arc<dyn PolicySource>) {
        let mut board = lock(&self.board);
        name.clone_into(&mut board.status.serving);
        board.status.set_aside = None;
        board.status.swaps += 1;
        board.source = Some(source);
    }

    pub fn refused(&self, error: PolicyError) {
        lock(&self.board).status.last_error = Some(error);
    }

    pub fn fell_back(&self, name: &str, error: PolicyError) {
        let mut board = lock(&self.board);
        board.status.serving = "hold".into();
        board.status.set_aside = Some(name.to_owned());
        board.status.last_error = Some(error);
        board.status.faults += 1;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.moments = None;
        self.send(Job::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

struct Loader {
    context: PolicyContext,
    jobs: Receiver<Job>,
    ready: Sender<Ready>,
    wanted: Arc<AtomicBool>,
    moments: Receiver<Moment>,
    board: SharedBoard,
    /// Sets made so far.
    sets: u64,
}

impl Loader {
    fn run(mut self) {
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::warn!(%error, "the policy loader could not be niced");
        }
        while let Ok(job) = self.jobs.recv() {
            match job {
                Job::Swap { source, reply } => self.swap(source, reply),
                Job::Tuner { source, set, app, limits } => {
                    let tuner = self.tuner(source.as_ref(), &app, &limits);
                    let _ = self.ready.send(Ready::Tuner { set, app, limits, tuner });
                }
                Job::Retire(set) => drop(set),
                Job::RetireTuner(tuner) => drop(tuner),
                Job::Stop => return,
            }
        }
    }

    fn swap(&mut self, source: Arc<dyn PolicySource>, reply: Sender<Result<(), PolicyError>>) {
        match self.make(&source) {
            Ok((set, changes)) => {
                let _ = self.ready.send(Ready::Set(Candidate { set, source, changes, reply }));
            }
            Err(error) => {
                tracing::warn!(set = source.name(), %error, "policy set refused");
                lock(&self.board).status.last_error = Some(error.clone());
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Compiles, then starts and tries the set on the loop's present.
    fn make(&mut self, source: &Arc<dyn PolicySource>) -> Result<(Box<PolicySet>, Changes), PolicyError> {
        let mut allocator = source.allocator()?;
        let Moment { seen, apps, limits, changes } = self.moment(source.name())?;
        let PolicyContext { board, period, signals } = &self.context;
        allocator.start(board, *period, signals, &apps, source.allocator_params())?;
        if !limits.opps.is_empty() {
            allocator.limits(&limits)?;
        }
        let tuners = apps
            .iter()
            .map(|app| {
                let tuner = self.tuner(source.as_ref(), app, &limits)?;
                Ok(Place { app: app.clone(), tuner: Some(tuner) })
            })
            .collect::<Result<_, PolicyError>>()?;
        self.sets += 1;
        let mut set = Box::new(PolicySet {
            name: source.name().to_owned(),
            number: self.sets,
            source: Some(Arc::clone(source)),
            allocator,
            tuners,
        });
        if seen.apps.len() == apps.len() {
            set.decide(&seen, &mut Answers::default())?;
        }
        Ok((set, changes))
    }

    fn tuner(
        &self,
        source: &dyn PolicySource,
        app: &App,
        limits: &Limits,
    ) -> Result<Box<dyn Tuner>, PolicyError> {
        let mut tuner = source.tuner(app)?;
        tuner.start(&self.context.board, self.context.period, app, source.tuner_params())?;
        if !limits.opps.is_empty() {
            tuner.limits(limits)?;
        }
        Ok(tuner)
    }

    /// Asks the loop for a copy of its present.
    fn moment(&self, name: &str) -> Result<Moment, PolicyError> {
        // One that came too late for the candidate before.
        while self.moments.try_recv().is_ok() {}
        self.wanted.store(true, Ordering::Relaxed);
        self.moments.recv_timeout(TICK_WAIT).map_err(|error| match error {
            RecvTimeoutError::Timeout => no_swap(name, &format!("the loop did not tick for {TICK_WAIT:?}")),
            RecvTimeoutError::Disconnected => no_swap(name, "the agent is ending"),
        })
    }
}
