//! One run: a board, a scenario, a policy; the governor's loop at its tick, the machine between.

use super::kernel::Which;
use super::machine::{Book, Rule, SimMachine, Unfit};
use super::model::Model;
use super::policies::{SetSpec, Spec};
use super::scenario::{AppPlan, Scenario};
use crate::envelope::Envelope;
use crate::governor::Governor;
use crate::policy::slot::{PolicyContext, PolicySlot, PolicySource};
use crate::policy::wasm::WasmEngine;
use crate::policy::{PolicyError, Slo};
use crate::units::Nanos;
use std::sync::Arc;

/// How long a decision binds, as the daemon's default.
const VALID: Nanos = Nanos::from_ms(1000);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The scenario names what the board lacks.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// A parameter of `--policy`.
    #[error("policy {0}")]
    Spec(String),
    /// The policy refused to start, or was set aside while it ran.
    #[error("{policy}: on {board}: {error}")]
    Policy {
        /// As it was written.
        policy: String,
        /// Which board.
        board: String,
        /// Its words.
        error: PolicyError,
    },
    /// The loader's thread could not be started.
    #[error("policy loader: {0}")]
    Loader(#[from] std::io::Error),
}

/// A policy made ready for a board: compiled and checked; runs as often as wanted.
pub struct Prepared {
    /// As it was written.
    pub text: String,
    rule: Rule,
    set: Option<Arc<dyn PolicySource>>,
    engine: Option<WasmEngine>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("text", &self.text).field("rule", &self.rule).finish_non_exhaustive()
    }
}

impl Prepared {
    /// Compiles and checks a policy for a board and a scenario, and lets it start once.
    ///
    /// # Errors
    /// It does not fit them.
    pub fn new(
        spec: &Spec,
        model: &Model,
        scenario: &Scenario,
        engine: Option<&WasmEngine>,
        period: Nanos,
    ) -> Result<Self, RunError> {
        let rule = spec.rule(&scenario.apps).map_err(RunError::Spec)?;
        let home = &model.domain(model.apps_on).name;
        let load = |set: &SetSpec| set.load(engine, home).map_err(|error| refused(&spec.text, model, error));
        let set = spec.set().map(load).transpose()?;
        let engine = engine.filter(|_| spec.wasm()).cloned();
        let prepared = Self { text: spec.text.clone(), rule, set, engine };
        // Before anything runs: whatever refuses does so here.
        prepared.governor(model, scenario, period)?;
        Ok(prepared)
    }

    /// The same with another source of its parts, made from this one's: to put a clock around their calls, say.
    #[must_use]
    pub fn timed(&self, f: impl FnOnce(Arc<dyn PolicySource>) -> Arc<dyn PolicySource>) -> Self {
        Self {
            text: self.text.clone(),
            rule: self.rule.clone(),
            set: self.set.clone().map(f),
            engine: self.engine.clone(),
        }
    }

    fn governor(
        &self,
        model: &Model,
        scenario: &Scenario,
        period: Nanos,
    ) -> Result<Governor<SimMachine>, RunError> {
        let machine = SimMachine::new(model, scenario, &self.rule)?;
        let signals = machine.signals();
        let envelope = Envelope::new(&model.board, &signals);
        let context = PolicyContext { board: model.board.clone(), period, signals };
        let slot = PolicySlot::new(context, self.engine.clone())?;
        let mut governor = Governor::new(machine, slot, envelope, VALID);
        governor.tell_apps();
        if let Some(set) = &self.set {
            governor.serve(Arc::clone(set)).map_err(|error| refused(&self.text, model, error))?;
        }
        Ok(governor)
    }

    /// Runs it. `each` sees the governor after every tick.
    ///
    /// # Errors
    /// The policy was set aside.
    pub fn run(
        &self,
        model: &Model,
        scenario: &Scenario,
        period: Nanos,
        mut each: impl FnMut(&Governor<SimMachine>),
    ) -> Result<Book, RunError> {
        let mut governor = self.governor(model, scenario, period)?;
        let mut targets = changes(scenario).into_iter().peekable();
        let mut now = Nanos(0);
        while now < scenario.length {
            now = (now + period).min(scenario.length);
            let mut told = false;
            while let Some((_, app, slo)) = targets.next_if(|t| t.0 <= now) {
                governor.machine_mut().set_target(app, slo);
                told = true;
            }
            if told {
                governor.tell_apps();
            }
            // Steps take no time here: the book of the steps is the daemon's.
            governor.step(now, || now);
            each(&governor);
        }
        if let Some(error) = governor.policy().last_error() {
            return Err(refused(&self.text, model, error));
        }
        Ok(governor.into_machine().into_book())
    }
}

fn refused(text: &str, model: &Model, error: PolicyError) -> RunError {
    RunError::Policy { policy: text.into(), board: model.name.clone(), error }
}

/// The kernel's governor of that kind over a scenario, with the largest sub-networks: what clocks it sets.
///
/// # Errors
/// The scenario does not fit the board.
pub fn kernel(model: &Model, scenario: &Scenario, cpus: Which) -> Result<Book, RunError> {
    let rule = Rule::Kernel { cpus, devices: Which::Performance, subnets: vec![] };
    undisturbed(model, scenario, &rule)
}

/// A kernel's governor with fixed sub-networks over a scenario, without the agent's ticks: nobody asks what the machine
/// does between two changes of a target.
///
/// # Errors
/// The scenario does not fit the board.
pub fn undisturbed(model: &Model, scenario: &Scenario, rule: &Rule) -> Result<Book, RunError> {
    let mut machine = SimMachine::new(model, scenario, rule)?;
    for (at, app, slo) in changes(scenario) {
        machine.advance(at.min(scenario.length));
        machine.set_target(app, slo);
    }
    machine.advance(scenario.length);
    Ok(machine.into_book())
}

/// Targets after the first, by time: when, whose, what.
fn changes(scenario: &Scenario) -> Vec<(Nanos, usize, Slo)> {
    let of = |(i, app): (usize, &'_ AppPlan)| -> Vec<_> {
        app.targets.iter().skip(1).map(|(at, slo)| (*at, i, *slo)).collect()
    };
    let mut all: Vec<_> = scenario.apps.iter().enumerate().flat_map(of).collect();
    all.sort_by_key(|t| t.0);
    all
}
