//! What the policies themselves cost: time in `decide`, both levels, by the clock of this machine. Not deterministic, so it
//! stands beside the results and never in them.

use super::cells::Cell;
use super::contest::Ready;
use super::figures::median;
use super::rows::Row;
use crate::policy::slot::PolicySource;
use crate::policy::{Allocation, Allocator, App, Param, PolicyError, Tuner, View};
use crate::sim::beside::{around_allocator, around_tuner};
use crate::sim::model::Model;
use crate::snapshot::Snapshot;
use crate::units::Nanos;
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What one call of a level took, ns; in the simulator, natively, with the filling of the contract's types.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cost {
    /// Whose.
    pub row: String,
    /// Where; in its first cell.
    pub board: String,
    /// `allocator` (once a tick) or `tuner` (once a tick and application).
    pub level: &'static str,
    /// How many.
    pub calls: usize,
    /// ns
    pub median_ns: f64,
    /// ns
    pub p99_ns: f64,
}

/// Durations of calls, ns.
type Spent = Arc<Mutex<Vec<f64>>>;

fn timed<T>(spent: &Spent, f: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let answer = f();
    let ns = began.elapsed().as_secs_f64() * 1e9;
    spent.lock().unwrap_or_else(PoisonError::into_inner).push(ns);
    answer
}

struct Source {
    inner: Arc<dyn PolicySource>,
    allocator: Spent,
    tuner: Spent,
}

impl PolicySource for Source {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn allocator(&self) -> Result<Box<dyn Allocator>, PolicyError> {
        let spent = Arc::clone(&self.allocator);
        let time = move |p: &mut dyn Allocator, seen: &Snapshot, out: &mut Allocation| {
            timed(&spent, || p.decide(seen, out))
        };
        Ok(around_allocator(self.inner.allocator()?, time))
    }

    fn tuner(&self, app: &App) -> Result<Box<dyn Tuner>, PolicyError> {
        let spent = Arc::clone(&self.tuner);
        let time = move |p: &mut dyn Tuner, seen: &View<'_>| timed(&spent, || p.decide(seen));
        Ok(around_tuner(self.inner.tuner(app)?, time))
    }

    fn allocator_params(&self) -> &[Param] {
        self.inner.allocator_params()
    }

    fn tuner_params(&self) -> &[Param] {
        self.inner.tuner_params()
    }
}

/// One run of every manager in the first cell of every board, with the clock around its calls.
///
/// # Errors
/// A policy failed.
pub fn measure(
    models: &[Model],
    cells: &[Cell],
    rows: &[Row],
    ready: &Ready,
    period: Nanos,
) -> anyhow::Result<Vec<Cost>> {
    let mut costs = Vec::new();
    for (board, model) in models.iter().enumerate() {
        let Some(cell) = cells.iter().find(|c| c.board == board) else { continue };
        for (r, row) in rows.iter().enumerate() {
            let Some(policy) = ready.get(&(r, board, cell.block.clone())) else { continue };
            let (allocator, tuner) = (Spent::default(), Spent::default());
            let timed = policy.timed(|inner| {
                Arc::new(Source { inner, allocator: Arc::clone(&allocator), tuner: Arc::clone(&tuner) })
            });
            timed.run(model, &cell.scenario.scenario, period, |_| ())?;
            for (level, spent) in [("allocator", allocator), ("tuner", tuner)] {
                let mut ns = std::mem::take(&mut *spent.lock().unwrap_or_else(PoisonError::into_inner));
                ns.sort_unstable_by(f64::total_cmp);
                let Some(p99) = ns.get((ns.len() * 99).div_ceil(100).saturating_sub(1)).copied() else {
                    continue;
                };
                costs.push(Cost {
                    row: row.name.clone(),
                    board: model.name.clone(),
                    level,
                    calls: ns.len(),
                    median_ns: median(ns.iter().copied()),
                    p99_ns: p99,
                });
            }
        }
    }
    Ok(costs)
}

/// For people.
pub fn told(costs: &[Cost]) -> String {
    let mut text =
        "cost of the policies themselves, ns a call (this machine, native code; not part of the results)\n"
            .to_owned();
    for c in costs {
        text += &format!(
            "  {:<32} {:<18} {:<10} median {:>7.0}, 99th percentile {:>7.0}, {} calls\n",
            c.row, c.board, c.level, c.median_ns, c.p99_ns, c.calls
        );
    }
    text
}
