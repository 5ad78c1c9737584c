//! Models of boards: which domains, what power and time they take, every constant with its source.
//!
//! A model is a TOML file (`sim/data/*.toml`) over a board file; tables of measured rows lie beside it. All
//! errors of a file come out at once. Domains of the board that a model says nothing of are left out of
//! the simulated machine, and that is said.

mod parse;

pub use parse::{ModelError, SHIPPED};

use super::constant::{Constants, Kind};
use super::fit::LatencyFit;
use super::table::Table;
use crate::board::{Board, Domain, Opp};
use crate::units::{DomainId, FreqUnit};

/// A board that can be simulated.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// What policies are told.
    pub board: Board,
    /// Where applications run if nobody says otherwise.
    pub apps_on: DomainId,
    /// As in the board.
    pub domains: Vec<DomainModel>,
    /// Every number that is not a table's.
    pub constants: Constants,
    /// The machine shows a temperature.
    pub thermal_zone: bool,
    /// Domains of the board that are not modelled.
    pub left_out: Vec<String>,
}

/// What is known of one domain.
#[derive(Clone, Debug)]
pub struct DomainModel {
    /// Busy power, mW, by inferences in flight (from 1) and OPP; of a CPU domain one row: all CPUs busy.
    pub power: Vec<Vec<f64>>,
    /// Where that comes from.
    pub power_kind: Kind,
    /// The same in words.
    pub power_source: String,
    /// That power is the whole board's: the constant `board-mw` is in it.
    pub whole_board: bool,
    /// A rail shows the domain's power.
    pub rail: bool,
    /// Measured rows.
    pub table: Option<Table>,
    /// The curve through them.
    pub fit: Option<LatencyFit>,
    /// The rows up to this clock made the curve.
    pub fit_to_mhz: f64,
    /// What so many in flight are served faster together than one alone; from 1.
    pub speed_up: Vec<f64>,
    /// The network that was measured.
    pub network: Option<String>,
}

/// A clock in MHz.
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53 Hz")]
pub fn mhz(opp: &Opp) -> f64 {
    match opp.freq.unit {
        FreqUnit::Khz => opp.freq.raw as f64 / 1e3,
        FreqUnit::Hz => opp.freq.raw as f64 / 1e6,
        // No clock; such boards are refused as models.
        FreqUnit::Permille => opp.freq.raw as f64,
    }
}

impl Model {
    /// A constant that `parse` made sure of.
    pub fn constant(&self, name: &str) -> f64 {
        self.constants.get(name).unwrap_or(0.0)
    }

    /// A constant of a domain.
    pub fn domain_constant(&self, domain: DomainId, name: &str) -> f64 {
        let domain = &self.board.domains[usize::from(domain.0)].name;
        self.constant(&format!("{domain}.{name}"))
    }

    /// The model with another value for one constant.
    pub fn with(&self, name: &str, value: f64) -> Self {
        Self { constants: self.constants.with(name, value), ..self.clone() }
    }

    /// A domain of the board.
    pub fn domain(&self, id: DomainId) -> &Domain {
        &self.board.domains[usize::from(id.0)]
    }

    /// Work a second of one CPU of a domain at an OPP, against other domains: MHz x `work-per-mhz`.
    pub fn work_rate(&self, id: DomainId, opp: usize) -> f64 {
        mhz(&self.domain(id).opps[opp]) * self.domain_constant(id, "work-per-mhz")
    }

    /// The fastest CPU of the board at its top OPP: what an application's `largest-ms` is told for.
    pub fn fastest_cpu(&self) -> Option<f64> {
        let cpus = self.board.ids().filter(|(_, d)| !d.cpus.is_empty());
        cpus.map(|(id, d)| self.work_rate(id, d.opps.len() - 1)).max_by(f64::total_cmp)
    }

    /// Time of an inference against its time at the reference (the fastest CPU's top OPP; a GPU's own top
    /// OPP), for each OPP of a domain.
    ///
    /// GPU: `(a + b/f) / (a + b/f_top)` of the measured curve. CPU: `m + (1 - m) rate_ref / rate`, where m is
    /// the share of the time at the reference that memory takes (`memory-share`).
    pub fn slowness(&self, id: DomainId) -> Vec<f64> {
        let domain = self.domain(id);
        if domain.cpus.is_empty() {
            let Some(fit) = self.domains[usize::from(id.0)].fit else { return vec![1.0; domain.opps.len()] };
            let top = fit.at(mhz(&domain.opps[domain.opps.len() - 1]));
            return domain.opps.iter().map(|o| fit.at(mhz(o)) / top).collect();
        }
        let (memory, reference) = (self.constant("memory-share"), self.fastest_cpu().unwrap_or(1.0));
        let one = |opp| memory + (1.0 - memory) * reference / self.work_rate(id, opp);
        (0..domain.opps.len()).map(one).collect()
    }

    /// Busy power of a domain itself, mW, by inferences in flight (from 1) and OPP.
    pub fn busy_power(&self, id: DomainId) -> Vec<Vec<f64>> {
        let d = &self.domains[usize::from(id.0)];
        let board = if d.whole_board { self.constant("board-mw") } else { 0.0 };
        d.power.iter().map(|row| row.iter().map(|p| (p - board).max(0.0)).collect()).collect()
    }

    /// What the largest sub-network of a network takes at the reference, ms, if the model says so.
    pub fn largest_ms(&self, network: &str) -> Option<f64> {
        self.constants.get(&format!("{network}.largest-ms"))
    }
}
