//! A run's report: a table for people, JSON and CSV for programs, a time line per policy and application.

use super::compare::{Comparison, Verdict};
use super::constant::Constant;
use super::fit::LatencyFit;
use super::fit::left_out;
use super::machine::Book;
use super::model::Model;
use super::outcome::{AppOutcome, Outcome};
use super::scenario::Scenario;
use crate::demo::plot::{self, Span, Timeline};
use crate::units::Nanos;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// What is reported.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The board.
    pub model: &'a Model,
    /// What ran.
    pub scenario: &'a Scenario,
    /// By policy.
    pub outcomes: &'a [Outcome],
    /// With the first policy.
    pub comparisons: &'a [Comparison],
}

#[derive(Serialize)]
struct Document<'a> {
    board: &'a str,
    scenario: &'a str,
    about: &'a str,
    seed: u64,
    note: &'static str,
    constants: &'a [Constant],
    outcomes: &'a [Outcome],
    comparisons: &'a [Comparison],
}

const NOTE: &str =
    "every figure is modelled; a constant's kind says whether it was measured, derived or assumed";

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (model, scenario) = (self.model, self.scenario);
        writeln!(f, "{} on {}: {}", scenario.name, model.name, scenario.about)?;
        if !model.left_out.is_empty() {
            writeln!(f, "not modelled there, left out: {}", model.left_out.join(", "))?;
        }
        writeln!(f, "{}", self.table())?;
        for c in self.comparisons.iter().filter(|c| c.verdict != Verdict::Same) {
            writeln!(f, "{}", told(c))?;
        }
        writeln!(f, "\nconstants:")?;
        for c in &model.constants.0 {
            writeln!(f, "  {c}")?;
        }
        writeln!(f, "\n{}", fits(model))
    }
}

fn told(c: &Comparison) -> String {
    let percent = (c.value / c.base - 1.0) * 100.0;
    let change = if percent.is_finite() { format!(" ({percent:+.1} %)") } else { String::new() };
    let what = format!("{}: {} {:.2} -> {:.2} {}{change}", c.policy, c.metric, c.base, c.value, c.unit);
    match c.verdict {
        Verdict::Undecided => format!("{what}: UNDECIDED, the sign hangs on {}", c.hangs_on.join(", ")),
        _ => format!("{what}; over all assumed ranges {:+.2} to {:+.2} {}", c.span[0], c.span[1], c.unit),
    }
}

impl Report<'_> {
    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY);
        table.set_header([
            "policy (all figures modelled)",
            "energy J",
            "with board J",
            "p50 ms",
            "p95 ms",
            "violations %",
            "accuracy %",
            "switches",
            "clock moves",
            "co-runners MHz",
            "hottest C",
        ]);
        for o in self.outcomes {
            let or = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| format!("{v:.2}"));
            let moves: u64 = o.domains.iter().map(|d| d.moves).sum();
            let co: f64 = o.co_runners.iter().map(|c| c.1).sum();
            let row = |a: &AppOutcome, name: String, whole: bool| {
                let only = |s: String| if whole { s } else { String::new() };
                [
                    name,
                    only(format!("{:.2}", o.energy_j)),
                    only(format!("{:.2}", o.energy_with_board_j)),
                    or(a.p50_ms),
                    or(a.p95_ms),
                    format!("{:.2}", a.violations * 100.0),
                    or(a.top1),
                    a.switches.to_string(),
                    only(moves.to_string()),
                    only(if o.co_runners.is_empty() { "-".into() } else { format!("{co:.0}") }),
                    only(format!("{:.1}", o.hottest_c)),
                ]
            };
            table.add_row(row(&o.all, o.policy.clone(), true));
            if o.apps.len() > 1 {
                for a in &o.apps {
                    table.add_row(row(a, format!("  {}", a.name), false));
                }
            }
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    /// Writes all files; returns their paths.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, books: &[Book], dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
        std::fs::create_dir_all(dir)?;
        let mut written = vec![dir.join("sim.json"), dir.join("sim.csv"), dir.join("frames.csv")];
        let document = Document {
            board: &self.model.name,
            scenario: &self.scenario.name,
            about: &self.scenario.about,
            seed: self.scenario.seed,
            note: NOTE,
            constants: &self.model.constants.0,
            outcomes: self.outcomes,
            comparisons: self.comparisons,
        };
        std::fs::write(&written[0], serde_json::to_string_pretty(&document)? + "\n")?;
        self.csv(&written[1])?;
        self.frames(books, &written[2])?;
        for (i, (outcome, book)) in self.outcomes.iter().zip(books).enumerate() {
            for app in 0..self.scenario.apps.len() {
                let name = format!("timeline-{i}-{}", self.scenario.apps[app].name);
                written.extend(plot::write(&self.timeline(outcome, book, app), dir, &name)?);
            }
        }
        Ok(written)
    }

    fn csv(&self, path: &Path) -> anyhow::Result<()> {
        let mut out = csv::Writer::from_path(path)?;
        out.write_record([
            "board",
            "scenario",
            "policy",
            "app",
            "kind",
            "energy_j",
            "energy_with_board_j",
            "arrived",
            "done",
            "dropped",
            "p50_ms",
            "p95_ms",
            "violations",
            "top1_pct",
            "switches",
        ])?;
        for o in self.outcomes {
            for a in std::iter::once(&o.all).chain(&o.apps) {
                let or = |v: Option<f64>| v.map_or_else(String::new, |v| v.to_string());
                out.write_record([
                    self.model.name.clone(),
                    self.scenario.name.clone(),
                    o.policy.clone(),
                    a.name.clone(),
                    o.kind.into(),
                    o.energy_j.to_string(),
                    o.energy_with_board_j.to_string(),
                    a.arrived.to_string(),
                    a.done.to_string(),
                    a.dropped.to_string(),
                    or(a.p50_ms),
                    or(a.p95_ms),
                    a.violations.to_string(),
                    or(a.top1),
                    a.switches.to_string(),
                ])?;
            }
        }
        Ok(out.flush()?)
    }

    fn frames(&self, books: &[Book], path: &Path) -> anyhow::Result<()> {
        let mut out = csv::Writer::from_path(path)?;
        out.write_record(["policy", "app", "arrived_ns", "finished_ns", "subnet", "late"])?;
        for (o, book) in self.outcomes.iter().zip(books) {
            for frame in book.counted() {
                let app = &self.scenario.apps[usize::from(frame.app)];
                let subnet = &app.network.subnets[usize::from(frame.subnet)].name;
                out.write_record([
                    &o.policy,
                    &app.name,
                    &frame.arrived.0.to_string(),
                    &frame.finished.0.to_string(),
                    subnet,
                    &u8::from(frame.late).to_string(),
                ])?;
            }
        }
        Ok(out.flush()?)
    }

    fn timeline(&self, outcome: &Outcome, book: &Book, app: usize) -> Timeline {
        let plan = &self.scenario.apps[app];
        let home = usize::from(self.model.apps_on.0);
        let domain = &self.model.board.domains[home];
        let top = super::model::mhz(&domain.opps[domain.opps.len() - 1]);
        let mhz = |opp: u16| super::model::mhz(&domain.opps[usize::from(opp)]);
        let moved = book.moved.iter().filter(|m| usize::from(m.domain) == home);
        let frame = |f: &super::machine::Frame| plot::Frame {
            t: f.finished.as_secs(),
            latency_ms: f.finished.since(f.arrived).as_ms(),
            subnet: f.subnet.into(),
        };
        Timeline {
            title: format!(
                "{}, {} on {}: {} (modelled)",
                self.scenario.name, plan.name, self.model.name, outcome.policy
            ),
            frames: book.frames.iter().filter(|f| usize::from(f.app) == app).map(frame).collect(),
            subnets: plan
                .network
                .subnets
                .iter()
                .map(|s| (s.name.clone(), f64::from(s.top1.0) / 100.0))
                .collect(),
            weight: vec![],
            opp: moved.map(|m| (m.at.as_secs(), mhz(m.opp) / top * 1000.0)).collect(),
            opp_label: format!("clock of {}, % of {top:.0} MHz", domain.name),
            spans: self.spans(app),
        }
    }

    /// The run, cut wherever the target, a co-runner or the machine changes.
    fn spans(&self, app: usize) -> Vec<Span> {
        let (scenario, plan) = (self.scenario, &self.scenario.apps[app]);
        let mut cuts: Vec<(Nanos, String)> = vec![(Nanos(0), String::new())];
        cuts.extend(plan.targets.iter().skip(1).map(|(at, _)| (*at, "target".to_owned())));
        for c in &scenario.co_runners {
            cuts.push((c.from, format!("{} starts", c.name)));
            cuts.push((c.to, format!("{} ends", c.name)));
        }
        cuts.extend(scenario.events.iter().map(|e| (e.at, "machine".to_owned())));
        cuts.sort();
        cuts.retain(|(at, _)| *at < scenario.length);
        let ends = cuts.iter().skip(1).map(|c| c.0).chain([scenario.length]);
        let span = |((from, label), to): (&(Nanos, String), Nanos)| Span {
            from: from.as_secs(),
            to: to.as_secs(),
            label: label.clone(),
            co_runner: scenario.co_runners.iter().any(|c| c.from <= *from && *from < c.to),
            target_ms: plan.target_at(*from).latency.map_or(0.0, Nanos::as_ms),
        };
        cuts.iter().zip(ends).map(span).collect()
    }
}

/// How well a board's curves fit the rows they were made from, and rows left out.
pub fn fits(model: &Model) -> String {
    let mut text = String::from("curves:");
    let before = text.len();
    for (domain, of) in model.board.domains.iter().zip(&model.domains) {
        let (Some(table), Some(fit)) = (&of.table, of.fit) else {
            text += &format!(
                "\n  {}: no measured rows; power {} ({})",
                domain.name, of.power_kind, of.power_source
            );
            continue;
        };
        let rows = table.latencies(1, of.fit_to_mhz);
        let out = left_out(&rows, LatencyFit::through, LatencyFit::at).unwrap_or_default();
        text += &format!(
            "\n  {}: latency of {} = {:.2} + {:.2} / GHz ms; {} rows: worst {:.1} %, rms {:.1} %; on rows left out: worst {:.1} \
             %, rms {:.1} %",
            domain.name,
            of.network.as_deref().unwrap_or("?"),
            fit.a_ms,
            fit.b_ms_ghz,
            fit.error.rows,
            fit.error.worst * 100.0,
            fit.error.rms * 100.0,
            out.worst * 100.0,
            out.rms * 100.0
        );
        for (clients, speed) in (1_u8..).zip(&of.speed_up).skip(1) {
            text += &format!("\n    {clients} in flight: {speed:.2} times the throughput of one");
        }
    }
    if text.len() == before { String::new() } else { text }
}
