//! Figures of the simulator: its speed, and how well its models fit what was measured.

use crate::{Row, median, row};
use anyhow::Context as _;
use std::time::Instant;
use tandem::policy::wasm::WasmEngine;
use tandem::sim::fit::{LatencyFit, PowerFit, left_out};
use tandem::sim::model::Model;
use tandem::sim::policies::Spec;
use tandem::sim::run::Prepared;
use tandem::sim::scenario::Scenario;
use tandem::units::Nanos;
use tandem_tests::component;

const PERIOD: Nanos = Nanos::from_ms(10);
/// Runs of each kind, alternating.
const ROUNDS: usize = 20;

/// A board of four domains and four streams for two minutes: 12,000 ticks a run.
const BOARD: &str = include_str!("sim-board.toml");
const MODEL: &str = include_str!("sim-model.toml");
const STREAMS: &str = include_str!("sim-streams.toml");

/// Full ticks a second: machine, snapshot, one allocator and four tuners, envelope, transaction.
pub fn speed() -> anyhow::Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("sim-board.toml"), BOARD)?;
    let model = Model::parse("four-domains", "sim-model.toml", MODEL, Some(dir.path()))?;
    let scenario = Scenario::parse("sim-streams", "sim-streams.toml", STREAMS)?;
    let engine = WasmEngine::new()?;
    let files =
        format!("{}+{}", component("tandem-allocator").display(), component("tandem-tuner").display());
    let prepare = |s: &str| {
        Prepared::new(&Spec::parse(s).map_err(anyhow::Error::msg)?, &model, &scenario, Some(&engine), PERIOD)
            .map_err(anyhow::Error::from)
    };
    let (wasm, native, machine) = (prepare(&files)?, prepare("tandem")?, prepare("kernel:performance")?);
    let mut rates: [Vec<f64>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (policy, rates) in [&wasm, &native, &machine].into_iter().zip(&mut rates) {
            let (began, mut ticks) = (Instant::now(), 0_u32);
            policy.run(&model, &scenario, PERIOD, |_| ticks += 1)?;
            rates.push(f64::from(ticks) / began.elapsed().as_secs_f64());
        }
    }
    let [wasm, native, machine] = rates;
    let name = "ticks a second, 4 domains, 8 CPUs, 4 streams of 30 Hz";
    Ok(vec![
        median(&format!("{name}: allocator and 4 tuners in Wasm"), &wasm, "1/s").higher().goal(150_000.0),
        median(&format!("{name}: the same natively"), &native, "1/s").higher().goal(300_000.0),
        median(&format!("{name}: without a policy (machine and loop)"), &machine, "1/s").higher(),
    ])
}

/// Errors of the curves, on the rows they were made from and on rows left out.
pub fn fit() -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for board in ["jetson-xavier-nx", "jetson-agx-xavier", "jetson-nano", "odroid-xu3"] {
        let model = Model::find(board)?;
        let (_, of) =
            model.board.domains.iter().zip(&model.domains).find(|(_, d)| d.table.is_some()).context(board)?;
        let table = of.table.as_ref().context(board)?;
        for clients in 1..=table.clients_max() {
            let latency = table.latencies(clients, of.fit_to_mhz);
            let fit = LatencyFit::through(&latency).context(board)?;
            let out = left_out(&latency, LatencyFit::through, LatencyFit::at).context(board)?;
            let name = format!("{board}, {clients} in flight: latency");
            rows.push(modelled(&format!("{name}, worst row"), fit.error.worst, fit.error.rows));
            rows.push(modelled(&format!("{name}, rms"), fit.error.rms, fit.error.rows));
            rows.push(modelled(&format!("{name}, rows left out, worst"), out.worst, out.rows));
            rows.push(modelled(&format!("{name}, rows left out, rms"), out.rms, out.rows));
            let power = table.powers(clients);
            let fit = PowerFit::through(&power).context(board)?;
            rows.push(modelled(
                &format!("{board}, {clients} in flight: power, worst row"),
                fit.error.worst,
                power.len(),
            ));
        }
    }
    Ok(rows)
}

fn modelled(name: &str, share: f64, n: usize) -> Row {
    Row { kind: "modelled".into(), ..row(name, share * 100.0, "%", n as u64) }
}
