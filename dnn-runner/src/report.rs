//! What a run came to, as a file for people and for the evidence.
//!
//! Responsible for: counting frames, their latencies and answers; the JSON report at the end and the CSV
//! line of each frame. Not responsible for: what the agent is told (the channel's totals).

use crate::model::Subnet;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};

/// The longest time that is told apart, an hour.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// A finished frame or request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record {
    /// The sub-network that ran.
    pub subnet: usize,
    /// The decision in force.
    pub seq: u64,
    /// When it arrived, started and was done, ns.
    pub arrived: u64,
    /// See `arrived`.
    pub started: u64,
    /// See `arrived`.
    pub done: u64,
    /// Images.
    pub images: u32,
    /// Of them, labelled.
    pub labelled: u32,
    /// Of the labelled, right.
    pub correct: u32,
    /// Waiting when it was done.
    pub queue: usize,
    /// Whether nobody decided.
    pub failsafe: bool,
}

/// Times, ns, with three significant digits.
#[derive(Debug)]
struct Times(Histogram<u32>);

impl Times {
    fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("these bounds are legal"))
    }
    fn add(&mut self, ns: u64) {
        self.0.saturating_record(ns.max(1));
    }
    fn quantiles(&self, unit_ns: f64) -> Quantiles {
        let at = |q| (!self.0.is_empty()).then(|| to_f64(self.0.value_at_quantile(q)) / unit_ns);
        Quantiles { n: self.0.len(), p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1.0) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn to_f64(n: u64) -> f64 {
    n as f64
}

/// A distribution; absent where nothing was counted.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Quantiles {
    pub n: u64,
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
    pub max: Option<f64>,
}

/// How the run was set up, as the report repeats it.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the command line's words")]
pub struct Setup {
    pub name: String,
    pub network: String,
    pub manifest_sha256: String,
    pub kernel: &'static str,
    pub batch: usize,
    pub threads: usize,
    pub rate_hz: Option<f64>,
    pub arrivals: String,
    pub seed: u64,
    pub fixed: Option<String>,
    pub failsafe: String,
    pub deadline_ms: Option<f64>,
}

/// Counts of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Frames and requests that arrived.
    pub arrived: u64,
    /// Of them, started.
    pub started: u64,
    /// Of them, done.
    pub done: u64,
    /// Dropped, because the queue was full.
    pub dropped: u64,
    /// Of the arrived, requests over the socket.
    pub requests: u64,
    /// Agents that took this runner in.
    pub agents: u64,
    /// Decisions that named no sub-network of ours.
    pub refused_decisions: u64,
    /// Feedback that the ring had no room for.
    pub lost_feedback: u64,
    /// Frames that ran on the failsafe.
    pub failsafe: u64,
    /// Changes of sub-network.
    pub switches: u64,
}

#[derive(Debug)]
struct PerSubnet {
    name: String,
    frames: u64,
    images: u64,
    labelled: u64,
    correct: u64,
    latency: Times,
    service: Times,
}

/// Collects, writes the time line as it goes.
#[derive(Debug)]
pub struct Tally {
    /// The plain counts.
    pub counts: Counts,
    setup: Setup,
    began: u64,
    deadline_ns: u64,
    late: u64,
    latency: Times,
    service: Times,
    switch: Times,
    subnets: Vec<PerSubnet>,
    timeline: Option<BufWriter<File>>,
}

/// The report as it is written.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    setup: &'a Setup,
    /// Zero of the time line, ns of `CLOCK_MONOTONIC`.
    began_ns: u64,
    wall_s: f64,
    cpu_s: f64,
    totals: Counts,
    /// Arrived, neither done nor dropped when the run ended.
    waiting: u64,
    images: u64,
    labelled: u64,
    correct: u64,
    accuracy_pct: Option<f64>,
    /// Done after the deadline, and dropped: both have missed it.
    violations: u64,
    late: u64,
    latency_ms: Quantiles,
    service_ms: Quantiles,
    switch_ns: Quantiles,
    subnets: Vec<SubnetReport<'a>>,
}

#[derive(Debug, Serialize)]
struct SubnetReport<'a> {
    name: &'a str,
    frames: u64,
    images: u64,
    accuracy_pct: Option<f64>,
    latency_ms: Quantiles,
    service_ms: Quantiles,
}

fn percent(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| 100.0 * to_f64(part) / to_f64(of))
}

impl Tally {
    /// For a run that began at `began`. `timeline` gets its head line.
    pub fn new(
        setup: Setup,
        subnets: &[Subnet],
        timeline: Option<File>,
        began: u64,
    ) -> std::io::Result<Self> {
        let mut timeline = timeline.map(BufWriter::new);
        if let Some(out) = &mut timeline {
            writeln!(out, "t_s,subnet,latency_ms,service_ms,queue,correct,images,seq")?;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be above 0")]
        let deadline_ns = setup.deadline_ms.map_or(u64::MAX, |ms| (ms * 1e6) as u64);
        let subnet = |s: &Subnet| PerSubnet {
            name: s.name.clone(),
            frames: 0,
            images: 0,
            labelled: 0,
            correct: 0,
            latency: Times::new(),
            service: Times::new(),
        };
        Ok(Self {
            counts: Counts::default(),
            setup,
            began,
            deadline_ns,
            late: 0,
            latency: Times::new(),
            service: Times::new(),
            switch: Times::new(),
            subnets: subnets.iter().map(subnet).collect(),
            timeline,
        })
    }

    /// One finished inference.
    pub fn add(&mut self, r: &Record) -> std::io::Result<()> {
        let (latency, service) = (r.done.saturating_sub(r.arrived), r.done.saturating_sub(r.started));
        self.counts.done += 1;
        self.counts.failsafe += u64::from(r.failsafe);
        self.late += u64::from(latency > self.deadline_ns);
        self.latency.add(latency);
        self.service.add(service);
        let s = &mut self.subnets[r.subnet];
        s.frames += 1;
        s.images += u64::from(r.images);
        s.labelled += u64::from(r.labelled);
        s.correct += u64::from(r.correct);
        s.latency.add(latency);
        s.service.add(service);
        let Some(out) = &mut self.timeline else { return Ok(()) };
        // Unlabelled images have no truth: an empty cell, not 0.
        let correct = if r.labelled > 0 { r.correct.to_string() } else { String::new() };
        writeln!(
            out,
            "{:.6},{},{:.3},{:.3},{},{correct},{},{}",
            to_f64(r.done.saturating_sub(self.began)) / 1e9,
            s.name,
            to_f64(latency) / 1e6,
            to_f64(service) / 1e6,
            r.queue,
            r.images,
            r.seq
        )
    }

    /// A change of sub-network that took `ns` from reading the decision to being ready for the next frame.
    pub fn switched(&mut self, ns: u64) {
        self.counts.switches += 1;
        self.switch.add(ns);
    }

    /// The report in JSON, and the rest of the time line to its file.
    pub fn finish(&mut self, now: u64, cpu_ns: u64) -> std::io::Result<String> {
        if let Some(out) = &mut self.timeline {
            out.flush()?;
        }
        let sum = |f: fn(&PerSubnet) -> u64| self.subnets.iter().map(f).sum::<u64>();
        let (labelled, correct) = (sum(|s| s.labelled), sum(|s| s.correct));
        let c = self.counts;
        let report = Report {
            setup: &self.setup,
            began_ns: self.began,
            wall_s: to_f64(now.saturating_sub(self.began)) / 1e9,
            cpu_s: to_f64(cpu_ns) / 1e9,
            totals: c,
            waiting: c.arrived - c.done - c.dropped,
            images: sum(|s| s.images),
            labelled,
            correct,
            accuracy_pct: percent(correct, labelled),
            violations: self.late + c.dropped,
            late: self.late,
            latency_ms: self.latency.quantiles(1e6),
            service_ms: self.service.quantiles(1e6),
            switch_ns: self.switch.quantiles(1.0),
            subnets: self
                .subnets
                .iter()
                .map(|s| SubnetReport {
                    name: &s.name,
                    frames: s.frames,
                    images: s.images,
                    accuracy_pct: percent(s.correct, s.labelled),
                    latency_ms: s.latency.quantiles(1e6),
                    service_ms: s.service.quantiles(1e6),
                })
                .collect(),
        };
        Ok(serde_json::to_string_pretty(&report)? + "\n")
    }
}
