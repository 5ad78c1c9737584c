//! The time line of Dynamic-OFA's Fig. 7 under our manager, in the simulator, beside what the figure shows.

use crate::charts::{Area, Chart, labels, panel};
use crate::{Row, row};
use anyhow::Context as _;
use plotters::prelude::*;
use std::path::Path;
use tandem::sim::model::{Model, mhz};
use tandem::sim::outcome::Outcome;
use tandem::sim::policies::Spec;
use tandem::sim::run::Prepared;
use tandem::sim::scenario::Scenario;
use tandem::sim::settle::{Trace, trace};
use tandem::units::Nanos;
use tandem_tests::repository;

const PERIOD: Nanos = Nanos::from_ms(10);
const BOARD: &str = "jetson-xavier-nx";
/// s: the second job begins.
const SECOND_JOB: f64 = 2.5;
/// ms: the constraint.
const CONSTRAINT: f64 = 60.0;

/// A stretch of Fig. 7 as published, read off the figure: s, ms (lowest and highest), top-1 in %.
struct Stretch {
    from: f64,
    ms: [f64; 2],
    top1: f64,
}

const FIGURE: [Stretch; 4] = [
    Stretch { from: 0.0, ms: [45.5, 46.5], top1: 77.5 },
    Stretch { from: SECOND_JOB, ms: [61.0, 65.0], top1: 77.5 },
    Stretch { from: 5.5, ms: [58.0, 63.0], top1: 76.1 },
    Stretch { from: 8.6, ms: [50.5, 55.5], top1: 74.9 },
];

fn run(policy: &str, model: &Model, scenario: &Scenario) -> anyhow::Result<(Trace, Outcome)> {
    let spec = Spec::parse(policy).map_err(anyhow::Error::msg)?;
    let trace = trace(&Prepared::new(&spec, model, scenario, None, PERIOD)?, model, scenario, PERIOD)?;
    let outcome = Outcome::of(policy, model, scenario, &trace.book);
    Ok((trace, outcome))
}

/// s, ms, top-1 in % of the camera's frames, by finish.
fn frames(trace: &Trace, scenario: &Scenario) -> Vec<[f64; 3]> {
    let subnets = &scenario.apps[0].network.subnets;
    let of = |f: &tandem::sim::machine::Frame| {
        let top1 = f64::from(subnets[usize::from(f.subnet)].top1.0) / 100.0;
        [f.finished.as_secs(), f.finished.since(f.arrived).as_ms(), top1]
    };
    trace.book.frames.iter().filter(|f| f.app == 0).map(of).collect()
}

fn with_second_job<'a>(
    area: &Area<'a>,
    title: &str,
    range: std::ops::Range<f64>,
    end: f64,
) -> anyhow::Result<Chart<'a>> {
    let mut chart = panel(area, title, range, end, "s")?;
    chart.draw_series([PathElement::new([(SECOND_JOB, 0.0), (SECOND_JOB, 2000.0)], BLACK.mix(0.5))])?;
    Ok(chart)
}

fn plot(trace: &Trace, model: &Model, scenario: &Scenario, path: &Path) -> anyhow::Result<()> {
    let end = scenario.length.as_secs();
    let area = BitMapBackend::new(path, (1200, 900)).into_drawing_area();
    area.fill(&WHITE)?;
    let parts = area.split_evenly((3, 1));
    let frames = frames(trace, scenario);
    let until = |k: usize| FIGURE.get(k + 1).map_or(end, |s| s.from);
    let key =
        |colour: RGBColor| move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(3));

    let mut chart =
        with_second_job(&parts[0], "latency, ms; the second job begins at 2.5 s", 0.0..80.0, end)?;
    let bands = FIGURE.iter().enumerate();
    let bands =
        bands.map(|(k, s)| Rectangle::new([(s.from, s.ms[0]), (until(k), s.ms[1])], RED.mix(0.35).filled()));
    chart.draw_series(bands)?.label("Fig. 7, as published").legend(key(RED));
    let dots = frames.iter().map(|f| Circle::new((f[0], f[1]), 2, BLUE.filled()));
    chart.draw_series(dots)?.label("our manager, modelled").legend(key(BLUE));
    chart
        .draw_series([PathElement::new([(0.0, CONSTRAINT), (end, CONSTRAINT)], BLACK)])?
        .label("constraint")
        .legend(key(BLACK));
    labels(&mut chart)?;

    let mut chart = with_second_job(&parts[1], "top-1 of the sub-network, %", 73.5..79.5, end)?;
    let lines = FIGURE.iter().enumerate();
    let lines = lines.flat_map(|(k, s)| [(s.from, s.top1), (until(k), s.top1)]);
    chart
        .draw_series(LineSeries::new(lines, RED.stroke_width(3)))?
        .label("Fig. 7, as published")
        .legend(key(RED));
    let dots = frames.iter().map(|f| Circle::new((f[0], f[2]), 2, BLUE.filled()));
    chart.draw_series(dots)?.label("our manager, modelled").legend(key(BLUE));
    labels(&mut chart)?;

    let gpu = usize::from(model.apps_on.0);
    let clock = |opp: u16| mhz(&model.board.domains[gpu].opps[usize::from(opp)]);
    let moved: Vec<_> = trace.book.moved.iter().filter(|m| usize::from(m.domain) == gpu).collect();
    let next = |i: usize| moved.get(i + 1).map_or(end, |m| m.at.as_secs());
    let steps =
        moved.iter().enumerate().flat_map(|(i, m)| [(m.at.as_secs(), clock(m.opp)), (next(i), clock(m.opp))]);
    let mut chart =
        with_second_job(&parts[2], "GPU clock, MHz (the figure does not tell its own)", 0.0..1200.0, end)?;
    chart
        .draw_series(LineSeries::new(steps, BLUE.stroke_width(3)))?
        .label("our manager, modelled")
        .legend(key(BLUE));
    labels(&mut chart)?;
    area.present()?;
    Ok(())
}

fn modelled(name: &str, value: f64, unit: &str, n: u64) -> Row {
    Row { kind: "modelled".into(), ..row(name, value, unit, n) }
}

/// Figures of both halves for our manager and for the shipped rule at the top clock, and `docs/timeline.png`.
pub fn timeline() -> anyhow::Result<Vec<Row>> {
    tandem::demo::plot::register_fonts()?;
    let model = Model::find(BOARD)?;
    let scenario = Scenario::load(&repository().join("tests/scenarios/paper-timeline.toml"))?;
    let mut rows = Vec::new();
    for (who, policy) in
        [("our manager", "tandem"), ("Dynamic-OFA's rule, top clock", "performance+dynamic-ofa")]
    {
        let (trace, outcome) = run(policy, &model, &scenario)?;
        if policy == "tandem" {
            plot(&trace, &model, &scenario, &repository().join("docs/timeline.png"))?;
        }
        let frames = frames(&trace, &scenario);
        let mut last = [0.0; 2];
        for (half, (from, to)) in
            [(0.0, SECOND_JOB), (SECOND_JOB, scenario.length.as_secs())].into_iter().enumerate()
        {
            let when = ["before the second job", "with the second job"][half];
            let here: Vec<&[f64; 3]> = frames.iter().filter(|f| f[0] > from && f[0] <= to).collect();
            let ms: Vec<f64> = here.iter().map(|f| f[1]).collect();
            last[half] = here.last().context("no frame finished")?[2];
            let (ticks, changes) = trace.settled(Nanos::from_secs(from), Nanos::from_secs(to));
            let n = here.len() as u64;
            rows.push(
                modelled(&format!("{who}, {when}: p95 latency"), crate::quantile(&ms, 0.95), "ms", n)
                    .goal(CONSTRAINT),
            );
            rows.push(modelled(
                &format!("{who}, {when}: last change of a clock or sub-network after"),
                f64::from(u32::try_from(ticks)?) * PERIOD.as_ms(),
                "ms",
                1,
            ));
            rows.push(modelled(
                &format!("{who}, {when}: changes of a clock or sub-network"),
                f64::from(u32::try_from(changes)?),
                "",
                1,
            ));
        }
        // The figure falls from 77.5 to 74.9 %.
        let lost = frames.first().context("no frame finished").map(|_| last[0] - last[1])?;
        rows.push(
            modelled(
                &format!("{who}: accuracy given up for the second job (Fig. 7: 2.6)"),
                lost,
                "points",
                1,
            )
            .goal(2.6),
        );
        rows.push(modelled(
            &format!("{who}: frames late or lost"),
            outcome.apps[0].violations * 100.0,
            "%",
            outcome.apps[0].arrived,
        ));
        rows.push(modelled(
            &format!("{who}: switches of the sub-network (Fig. 7: 2)"),
            f64::from(u32::try_from(outcome.apps[0].switches)?),
            "",
            1,
        ));
        rows.push(modelled(&format!("{who}: energy of the GPU"), outcome.energy_j, "J", 1));
    }
    Ok(rows)
}
