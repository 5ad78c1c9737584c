//! The simulator's governors against the kernel's own: time at each OPP under the same loads.

use crate::vm::{guest_program, quality_rows};
use crate::{Row, quantile, row};
use anyhow::Context as _;
use rand_distr::{Distribution as _, Uniform};
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::SeedableRng as _;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use tandem::sim::kernel::Which;
use tandem::sim::model::Model;
use tandem::sim::residency::residency;
use tandem::sim::scenario::Scenario;
use tandem_tests::guest;

/// The first release after a tick of the scheduler, s; that of `tests/vm/loads.c`.
const PHASE: f64 = 0.0003;
/// Measured, after a second of warm-up.
const SECONDS: u32 = 5;
/// One big CPU of the Odroid's OPPs; the powers play no part here.
const DOMAIN: &str = "1:200,400,600,800,1000,1200,1400,1600,1800,2000";
/// Points (of 100) that a residency may be off.
const POINTS: f64 = 5.0;

/// Periodic work: the time between two releases goes from `period_us` to `end_us`; `work_us` at the top OPP.
struct Task {
    period_us: u32,
    work_us: u32,
    end_us: u32,
}

const fn every(period_us: u32, work_us: u32) -> Task {
    Task { period_us, work_us, end_us: period_us }
}

/// Idle-busy steps; 10, 30 and 60 Hz frames at 15, 35 and 60 % of the top OPP; two tasks; a ramp from 10 to 83 %.
const LOADS: [(&str, &[Task]); 12] = [
    ("steps", &[every(2_000_000, 1_000_000)]),
    ("10 Hz, 15 %", &[every(100_000, 15_000)]),
    ("10 Hz, 35 %", &[every(100_000, 35_000)]),
    ("10 Hz, 60 %", &[every(100_000, 60_000)]),
    ("30 Hz, 15 %", &[every(33_333, 5_000)]),
    ("30 Hz, 35 %", &[every(33_333, 11_667)]),
    ("30 Hz, 60 %", &[every(33_333, 20_000)]),
    ("60 Hz, 15 %", &[every(16_667, 2_500)]),
    ("60 Hz, 35 %", &[every(16_667, 5_833)]),
    ("60 Hz, 60 %", &[every(16_667, 10_000)]),
    ("two tasks", &[every(33_333, 10_000), every(100_000, 30_000)]),
    ("ramp", &[Task { period_us: 100_000, work_us: 10_000, end_us: 12_000 }]),
];

/// Runs of the model, each with other jitter.
const SEEDS: u64 = 8;
/// A sleeper of the guest wakes that much late at most, s (traced: 0.1 to 0.5 ms).
const JITTER: f64 = 0.0005;

/// Releases of a task, s: the recurrence of `tests/vm/loads.c`, each late by up to `JITTER`.
fn releases(task: &Task, late: Uniform<f64>, rng: &mut Pcg64Mcg) -> Vec<f64> {
    let total = f64::from(SECONDS + 1);
    let (from, to) = (f64::from(task.period_us) / 1e6, f64::from(task.end_us) / 1e6);
    let mut times = Vec::new();
    let mut at = PHASE;
    while at < total {
        times.push(at + late.sample(rng));
        at += from + (to - from) * (at - PHASE) / total;
    }
    times
}

fn scenario(name: &str, tasks: &[Task], seed: u64) -> anyhow::Result<Scenario> {
    let mut text = format!("about = \"a load\"\nlength-s = {:.1}\nwarm-up-s = 1.0\n", f64::from(SECONDS + 1));
    let (late, mut rng) = (Uniform::new(0.0, JITTER)?, Pcg64Mcg::seed_from_u64(seed));
    for (i, task) in tasks.iter().enumerate() {
        let times: Vec<String> = releases(task, late, &mut rng).iter().map(|t| format!("{t:.6}")).collect();
        write!(
            text,
            "[[app]]\nname = \"task-{i}\"\nnetwork = \"mlcad-fmnist\"\nlargest-ms = {:.3}\nqueue = 4096\ncpus = [0]\n\
             frames = {{ kind = \"recorded\", times-s = [{}] }}\ntargets = [{{ latency-ms = 1000 }}]\n",
            f64::from(task.work_us) / 1e3,
            times.join(", ")
        )?;
    }
    Ok(Scenario::parse(name, name, &text)?)
}

/// Permille by MHz.
type Residency = BTreeMap<u64, f64>;

/// What the guest left: by governor, in the order of the loads.
fn parse(text: &str) -> anyhow::Result<Vec<(String, Residency)>> {
    let mut all = Vec::new();
    for line in text.lines().skip(1) {
        let mut words = line.split_whitespace();
        let (governor, _load) =
            words.next().zip(words.next()).with_context(|| format!("residency.txt: {line:?}"))?;
        let one = |w: &str| -> Option<(u64, f64)> {
            let (mhz, permille) = w.split_once(':')?;
            Some((mhz.parse().ok()?, permille.parse().ok()?))
        };
        let states = words.map(|w| one(w).with_context(|| format!("residency.txt: {w:?}")));
        all.push((governor.to_owned(), states.collect::<anyhow::Result<_>>()?));
    }
    Ok(all)
}

/// Runs the kernel's governors in the guest. `invariant`: with the module that makes schedutil so.
fn kernels(
    invariant: bool,
    governors: &[&str],
    rows: &mut Vec<Row>,
) -> anyhow::Result<Vec<(String, Residency)>> {
    let share = guest::share(if invariant { "governors-invariant" } else { "governors" })?;
    guest_program("loads", &share)?;
    let mut loads = String::new();
    for (i, (_, tasks)) in LOADS.iter().enumerate() {
        write!(loads, "{i}")?;
        tasks.iter().try_for_each(|t| write!(loads, " {}:{}:{}", t.period_us, t.work_us, t.end_us))?;
        loads.push('\n');
    }
    std::fs::write(share.join("loads.txt"), loads)?;
    let command =
        format!("sh '{}/governors.sh' {SECONDS} {}", guest::scripts().display(), governors.join(" "));
    let domains = [DOMAIN];
    let more: &[&str] = if invariant { &["-F"] } else { &[] };
    let options = guest::Options { domains: &domains, free: 1, seconds: 900, more };
    let run = guest::run(&command, &share, &options)?;
    anyhow::ensure!(run.status == 0, "the guest ended with {}:\n{}", run.status, run.console);
    let last = u8::try_from(40 + 2 * LOADS.len() * governors.len() - 1)?;
    let quality = run.quality(40, last)?;
    println!("{quality}");
    rows.extend(quality_rows(if invariant { "invariant" } else { "not invariant" }, &quality, 1));
    parse(&std::fs::read_to_string(share.join("residency.txt"))?)
}

/// Of the model, by seed.
fn modelled(tasks: &[Task], which: Which) -> anyhow::Result<Vec<Residency>> {
    let model = Model::find("vm-baseline")?;
    let run = |seed| {
        let all = residency(&model, &scenario("load", tasks, seed)?, which)?;
        let big = all.iter().find(|r| r.domain == "big").context("vm-baseline has a domain big")?;
        Ok(big.permille.iter().map(|(khz, p)| (khz / 1000, *p)).collect())
    };
    (0..SEEDS).map(run).collect()
}

/// The mean OPP, MHz.
fn mean(r: &Residency) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "MHz")]
    let sum: f64 = r.iter().map(|(mhz, p)| *mhz as f64 * p).sum();
    sum / r.values().sum::<f64>().max(1.0)
}

/// Largest difference at one OPP, points of 100.
fn worst(kernel: &Residency, model: &Residency) -> f64 {
    let of = |r: &Residency, mhz: &u64| r.get(mhz).copied().unwrap_or(0.0);
    let at = kernel.keys().chain(model.keys());
    at.map(|mhz| (of(kernel, mhz) - of(model, mhz)).abs() / 10.0).fold(0.0, f64::max)
}

/// The mean of some.
fn together(runs: &[Residency]) -> Residency {
    let mut sum = Residency::new();
    for (mhz, permille) in runs.iter().flatten() {
        *sum.entry(*mhz).or_default() += permille;
    }
    let total: f64 = sum.values().sum::<f64>().max(1.0);
    sum.into_iter().map(|(mhz, p)| (mhz, 1000.0 * p / total)).collect()
}

/// The largest difference between two of them.
fn spread(runs: &[Residency]) -> f64 {
    let pairs = runs.iter().enumerate().flat_map(|(i, a)| runs[..i].iter().map(move |b| worst(a, b)));
    pairs.fold(0.0, f64::max)
}

/// The simulator's governors against the kernel's, which run twice: what differs between the two is no model's fault.
pub fn governors() -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut runs = Vec::new();
    for _ in 0..2 {
        let mut measured = kernels(true, &["schedutil", "ondemand", "conservative"], &mut rows)?;
        let plain = kernels(false, &["schedutil"], &mut rows)?;
        measured.extend(plain.into_iter().map(|(g, r)| (format!("{g}, not invariant"), r)));
        runs.push(measured);
    }
    let mut off: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (((governor, first), (_, second)), (load, tasks)) in
        runs[0].iter().zip(&runs[1]).zip(LOADS.iter().cycle())
    {
        let which = match governor.as_str() {
            "schedutil" => Which::Schedutil { invariant: true, rate_limit: None },
            "ondemand" => Which::Ondemand,
            "conservative" => Which::Conservative,
            _ => Which::Schedutil { invariant: false, rate_limit: None },
        };
        let measured = [first.clone(), second.clone()];
        let models = modelled(tasks, which)?;
        let (kernel, model) = (together(&measured), together(&models));
        let points = worst(&kernel, &model);
        off.entry(governor.clone()).or_default().push(points);
        let name = format!(
            "{governor}, {load}: worst OPP (mean MHz {:.0} kernel, {:.0} model; runs apart up to {:.0} kernel, {:.0} model)",
            mean(&kernel),
            mean(&model),
            spread(&measured),
            spread(&models)
        );
        println!("{name}: {points:.1}\n  kernel {measured:?}\n  model  {model:?}");
        rows.push(row(&name, points, "points", 2).goal(POINTS));
    }
    for (governor, points) in off {
        rows.push(
            row(
                &format!("{governor}: median over the loads"),
                quantile(&points, 0.5),
                "points",
                points.len() as u64,
            )
            .goal(POINTS)
            .spread(&points),
        );
    }
    Ok(rows)
}
