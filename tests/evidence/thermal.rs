//! The kernel's thermal capping in the VM and the simulator's, the same board and heat, side by side.

use crate::charts::{Area, labels, panel};
use crate::{Row, row};
use anyhow::Context as _;
use plotters::prelude::*;
use std::path::Path;
use tandem::sim::kernel::Which;
use tandem::sim::model::Model;
use tandem::sim::run::kernel;
use tandem::sim::scenario::Scenario;
use tandem_tests::{component, guest, program, repository};

/// All CPUs busy, s.
const BUSY: u32 = 40;
/// From here on the first rise is over.
const SETTLED: f64 = 15.0;
/// The domains of `vm-baseline`, the big one last.
const DOMAINS: [&str; 2] = [
    "2:200@29,400@72,600@108,800@174,1000@218,1200@338,1400@410",
    "2:200@160,400@290,600@426,800@584,1000@824,1200@1104,1400@1396,1600@1844,1800@2502,2000@3182",
];
/// The VM's heat (`tests/vm/throttle`, `gen-asl`): C/W, s, trip point and still air in C.
const HEAT: [(&str, f64); 4] =
    [("thermal-c-per-w", 12.0), ("thermal-tau-s", 8.0), ("trip-c", 75.0), ("ambient-c", 40.0)];

/// s since the CPUs became busy; C; MHz of the big domain.
type Line = Vec<(f64, f64, f64)>;

fn in_vm() -> anyhow::Result<Line> {
    let share = guest::share("thermal-evidence")?;
    let config = format!(
        "run-dir = \"/run/tandem\"\nboard = \"auto\"\ndecide-deadline-us = 50000\npolicy = \"top\"\n[policies.top]\n\
         allocator = {:?}\ntuner = {:?}\n",
        component("performance"),
        component("fixed")
    );
    std::fs::write(share.join("tandem.toml"), config)?;
    let command = format!(
        "TANDEM='{}' CONFIG=/mnt/tandem.toml SECONDS_EACH={BUSY} sh '{}/thermal.sh'",
        program("tandem").display(),
        guest::scripts().display()
    );
    let more = ["-t", "-x", "--scale 0.526,1"];
    let run = guest::run(
        &command,
        &share,
        &guest::Options { domains: &DOMAINS, free: 1, seconds: 600, more: &more },
    )?;
    anyhow::ensure!(run.status == 0, "the guest ended with {}:\n{}", run.status, run.console);
    let text = std::fs::read_to_string(share.join("zone.txt"))?;
    let parse = |line: &str| -> anyhow::Result<[f64; 4]> {
        let numbers: Vec<f64> =
            line.split(' ').map(str::parse).collect::<Result<_, _>>().with_context(|| line.to_owned())?;
        <[f64; 4]>::try_from(numbers).ok().with_context(|| format!("zone.txt: {line:?}"))
    };
    let lines: Vec<_> = text.lines().map(parse).collect::<anyhow::Result<_>>()?;
    let zero = lines.first().context("zone.txt is empty")?[0];
    Ok(lines.iter().map(|[t, mc, _, khz]| (t - zero, mc / 1e3, khz / 1e3)).collect())
}

fn simulated() -> anyhow::Result<Line> {
    let mut model = Model::find("vm-baseline")?;
    model.thermal_zone = true;
    for (name, value) in HEAT {
        model = model.with(name, value);
    }
    let lead = 40;
    let (from, to) = (lead, lead + BUSY);
    let busy = |domain: &str| {
        format!(
            "[[co-runner]]\nname = \"{domain}\"\ndomain = \"{domain}\"\nthreads = 2\ncpus = [0, 1]\nfrom-s = {from}.0\nto-s = {to}.0\n"
        )
    };
    let text = format!(
        "about = \"all CPUs busy\"\nlength-s = {to}.0\n[[app]]\nname = \"none\"\nnetwork = \"mlcad-fmnist\"\nlargest-ms = 1.0\n\
         frames = {{ kind = \"recorded\", times-s = [0.0] }}\ntargets = [{{ latency-ms = 1000.0 }}]\n{}{}",
        busy("little"),
        busy("big")
    );
    let book = kernel(&model, &Scenario::parse("thermal", "thermal", &text)?, Which::Performance)?;
    let big =
        model.board.domains.iter().position(|d| d.name == "big").context("vm-baseline has a big domain")?;
    let mhz = |at: tandem::units::Nanos| {
        let last = book.moved.iter().rfind(|m| usize::from(m.domain) == big && m.at <= at);
        last.map_or(0.0, |m| tandem::sim::model::mhz(&model.board.domains[big].opps[usize::from(m.opp)]))
    };
    Ok(book
        .heat
        .iter()
        .map(|(at, c)| (at.as_secs() - f64::from(lead), *c, mhz(*at)))
        .filter(|p| p.0 >= 0.0)
        .collect())
}

/// Mean temperature, mean clock, highest temperature once settled; when the clock first fell.
fn summary(line: &Line) -> anyhow::Result<[f64; 4]> {
    let settled: Vec<_> = line.iter().filter(|p| p.0 >= SETTLED && p.0 <= f64::from(BUSY)).collect();
    #[expect(clippy::cast_precision_loss, reason = "some hundred lines")]
    let n = settled.len().max(1) as f64;
    let top = line.iter().map(|p| p.2).fold(0.0, f64::max);
    let fell = line.iter().find(|p| p.2 < top).context("the clock was never capped")?.0;
    let mean = |f: fn(&(f64, f64, f64)) -> f64| settled.iter().map(|p| f(p)).sum::<f64>() / n;
    Ok([mean(|p| p.1), mean(|p| p.2), line.iter().map(|p| p.1).fold(0.0, f64::max), fell])
}

fn plot(vm: &Line, sim: &Line, path: &Path) -> anyhow::Result<()> {
    let area = BitMapBackend::new(path, (1200, 640)).into_drawing_area();
    area.fill(&WHITE)?;
    let (upper, lower) = area.split_vertically(320);
    let end = f64::from(BUSY);
    let both = |area: &Area<'_>,
                title: &str,
                range: std::ops::Range<f64>,
                pick: fn(&(f64, f64, f64)) -> f64|
     -> anyhow::Result<()> {
        let mut chart = panel(area, title, range, end, "s since all CPUs are busy")?;
        for (line, name, colour) in [(vm, "VM: the kernel's step_wise", RED), (sim, "simulator", BLUE)] {
            chart
                .draw_series(LineSeries::new(
                    line.iter().filter(|p| p.0 <= end).map(|p| (p.0, pick(p))),
                    colour.stroke_width(2),
                ))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour));
        }
        labels(&mut chart)
    };
    both(
        &upper,
        "temperature of the zone, C (modelled by the VM's host and by the simulator)",
        40.0..90.0,
        |p| p.1,
    )?;
    both(&lower, "clock of the big domain, MHz", 0.0..2200.0, |p| p.2)?;
    area.present()?;
    Ok(())
}

/// Both, as figures and as `docs/thermal.png`.
pub fn thermal() -> anyhow::Result<Vec<Row>> {
    tandem::demo::plot::register_fonts()?;
    let (vm, sim) = (in_vm()?, simulated()?);
    plot(&vm, &sim, &repository().join("docs/thermal.png"))?;
    let (v, s) = (summary(&vm)?, summary(&sim)?);
    let names = [
        "mean temperature once hot",
        "mean clock of the big domain once hot",
        "highest temperature",
        "first cap after",
    ];
    let mut rows = Vec::new();
    for (i, (name, unit)) in names.iter().zip(["C", "MHz", "C", "s"]).enumerate() {
        // The clock is the kernel's own in the VM; heat is modelled in both.
        rows.push(Row {
            kind: if i == 1 || i == 3 { "measured" } else { "modelled" }.into(),
            ..row(&format!("VM: {name}"), v[i], unit, 1)
        });
        rows.push(Row { kind: "modelled".into(), ..row(&format!("simulator: {name}"), s[i], unit, 1) });
    }
    Ok(rows)
}
