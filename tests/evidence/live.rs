//! Figures of the whole: the demo, the agent's footprint, swaps under load.

use crate::{Row, median, row};
use anyhow::Context as _;
use std::process::Command;
use std::time::{Duration, Instant};
use tandem::control::Command as Ask;
use tandem_tests::{Agent, AgentOptions, Runner, program, repository};

/// The demo's table as rows.
pub fn demo() -> anyhow::Result<Vec<Row>> {
    let out = repository().join("target/demo");
    let ok = Command::new(program("tandem")).arg("demo").current_dir(repository()).status()?.success();
    anyhow::ensure!(ok, "the demo failed");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("demo.json"))?)?;
    let mut rows = Vec::new();
    for phase in report["rows"].as_array().context("no rows in demo.json")? {
        let label = phase["label"].as_str().context("a row without a label")?;
        let frames = phase["frames"].as_u64().unwrap_or(0);
        let value = |key: &str| phase[key].as_f64().with_context(|| format!("no {key} in {phase}"));
        rows.push(row(&format!("{label}: violations"), value("violations")? * 100.0, "%", frames));
        rows.push(row(&format!("{label}: p50 latency"), value("p50_ms")?, "ms", frames));
        rows.push(row(&format!("{label}: p95 latency"), value("p95_ms")?, "ms", frames));
        rows.push(row(&format!("{label}: accuracy"), value("top1_pct")?, "%", frames).higher());
        rows.push(row(&format!("{label}: right answers"), value("right")? * 100.0, "%", frames).higher());
        rows.push(row(&format!("{label}: CPU of the runner"), value("runner_cpu")?, "s", 1));
    }
    Ok(rows)
}

fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    // ns on CPU, of every thread.
    let mut sum = 0u64;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(sum).as_secs_f64())
}

fn rss_mib(pid: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|l| l.split_whitespace().next());
    Ok(f64::from(kib.context("no VmRSS")?.parse::<u32>()?) / 1024.0)
}

/// What the agent costs at a 10 ms tick with one runner.
pub fn footprint() -> anyhow::Result<Vec<Row>> {
    let agent = Agent::start(&AgentOptions::default())?;
    let _runner =
        Runner::start(&agent.socket(), "camera", &["--rate", "20", "--batch", "16", "--top1-floor", "0"])?;
    agent.app("camera", 20)?;
    let mut shares = Vec::new();
    for _ in 0..15 {
        let (before, began) = (cpu_seconds(agent.pid())?, Instant::now());
        std::thread::sleep(Duration::from_secs(2));
        shares.push((cpu_seconds(agent.pid())? - before) / began.elapsed().as_secs_f64() * 100.0);
    }
    let status = agent.status()?;
    let [sense, decide, admit, act] = status.ticks.steps_us;
    let n = status.ticks.done;
    Ok(vec![
        median("agent, 10 ms tick, one runner: CPU of one core (2 s windows)", &shares, "%").goal(0.5),
        row("agent: resident memory", rss_mib(agent.pid())?, "MiB", 1).goal(30.0),
        row("live tick, sense (mean)", sense, "us", n),
        row("live tick, decide (mean)", decide, "us", n),
        row("live tick, admit (mean)", admit, "us", n),
        row("live tick, act and publish (mean)", act, "us", n),
        row("ticks missed", f64::from(u32::try_from(status.ticks.missed)?), "ticks", n).goal(0.0),
    ])
}

/// A hundred swaps in a row under load.
pub fn swap() -> anyhow::Result<Vec<Row>> {
    let agent = Agent::start(&AgentOptions::default())?;
    let runner =
        Runner::start(&agent.socket(), "camera", &["--rate", "40", "--batch", "8", "--top1-floor", "0"])?;
    agent.app("camera", 20)?;
    let before = agent.status()?;
    let mut took = Vec::new();
    for i in 0..100 {
        let set = ["performance", "tandem", "schedutil", "ondemand", "powersave"][i % 5];
        let began = Instant::now();
        agent.ask(&Ask::Swap { set: set.into() })?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let after = agent.status()?;
    let report = runner.end()?;
    let total = |name: &str| {
        report["totals"][name]
            .as_u64()
            .and_then(|t| u32::try_from(t).ok())
            .with_context(|| format!("{name} in {report}"))
    };
    let (arrived, done, dropped) = (total("arrived")?, total("done")?, total("dropped")?);
    let waiting = report["waiting"].as_u64().and_then(|w| u32::try_from(w).ok()).context("waiting")?;
    let swaps = after.policy.swaps - before.policy.swaps;
    let ticks = after.ticks.done - before.ticks.done;
    Ok(vec![
        row("swaps under load", f64::from(u32::try_from(swaps)?), "swaps", 1).higher(),
        row(
            "inferences lost (arrived - done - dropped - waiting at the end)",
            f64::from(arrived) - f64::from(done) - f64::from(dropped) - f64::from(waiting),
            "inferences",
            arrived.into(),
        )
        .goal(0.0),
        row("inferences dropped", f64::from(dropped), "inferences", arrived.into()).goal(0.0),
        row(
            "ticks missed",
            f64::from(u32::try_from(after.ticks.missed - before.ticks.missed)?),
            "ticks",
            ticks,
        )
        .goal(0.0),
        row(
            "worst lateness of a tick since start",
            f64::from(u32::try_from(after.ticks.late_max_us)?),
            "us",
            ticks,
        ),
        median("asked to serving: compile once, start, try, install", &took, "ms"),
    ])
}
