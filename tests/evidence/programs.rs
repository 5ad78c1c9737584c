//! Figures that other programs of the workspace measure; each prints JSON, read here.

use crate::{Row, row};
use anyhow::Context as _;
use serde_json::Value;
use std::process::Command;
use tandem_tests::{program, repository};

fn json(command: &mut Command) -> anyhow::Result<Value> {
    let out = command.current_dir(repository()).stderr(std::process::Stdio::inherit()).output()?;
    anyhow::ensure!(out.status.success(), "{command:?} ended with {}", out.status);
    let text = String::from_utf8(out.stdout)?;
    // Cargo and harnesses may print before it.
    let start = text.find(['{', '[']).with_context(|| format!("{command:?} printed no JSON: {text}"))?;
    serde_json::from_str(&text[start..]).with_context(|| format!("{command:?}: {text}"))
}

/// Rows that the program prints itself.
fn rows(command: &mut Command) -> anyhow::Result<Vec<Row>> {
    Ok(serde_json::from_value(json(command)?)?)
}

fn bench(package: &str, bench: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(["bench", "--quiet", "--locked", "-p", package, "--bench", bench, "--", "--json"]);
    cargo
}

/// A call through the component against the same call natively.
pub fn wasm_call() -> anyhow::Result<Vec<Row>> {
    rows(&mut bench("tandem", "wasm_call"))
}

/// From publishing to being seen, beside a datagram round trip.
pub fn channel() -> anyhow::Result<Vec<Row>> {
    rows(&mut bench("channel", "latency"))
}

/// What our programs cost per context switch, by the kernel's own book.
pub fn bpf_cost() -> anyhow::Result<Vec<Row>> {
    let built = Command::new("cargo")
        .args(["build", "--quiet", "--release", "--locked", "-p", "tandem", "--example", "bpf_cost"])
        .current_dir(repository())
        .status()?;
    anyhow::ensure!(built.success(), "cannot build the example bpf_cost");
    rows(&mut Command::new(program("examples/bpf_cost")))
}

/// From a decision with another sub-network to the engine being ready to run it.
pub fn switch() -> anyhow::Result<Vec<Row>> {
    let report = json(
        Command::new(program("dnn-runner"))
            .args(["bench", "--json", "--model"])
            .arg(repository().join("dnn-runner/models/mlcad-fmnist.toml")),
    )?;
    let s = &report["switch"];
    let n = s["n"].as_u64().context("n")?;
    let ns = |key: &str| s[key].as_f64().with_context(|| format!("no {key} in {s}"));
    let mut all = vec![
        Row {
            p10: Some(ns("switch_ns_p10")?),
            p90: Some(ns("switch_ns_p90")?),
            ..row("switch, p50", ns("switch_ns_p50")?, "ns", n)
        },
        row("switch, p99", ns("switch_ns_p99")?, "ns", n).goal(10_000.0),
        row("first image on the new sub-network, extra, p50", ns("first_image_extra_ns_p50")?, "ns", n),
    ];
    for f in report["frames"].as_array().context("frames")? {
        let (subnet, kernel) =
            (f["subnet"].as_str().context("subnet")?, f["kernel"].as_str().context("kernel")?);
        let ms = |key: &str| f[key].as_f64().with_context(|| format!("no {key} in {f}"));
        let batch = report["batch"].as_u64().unwrap_or(0);
        let name = format!("frame of {batch} images, sub-network {subnet}, {kernel}");
        let row = row(&name, ms("frame_ms_p50")?, "ms", f["n"].as_u64().unwrap_or(0));
        all.push(Row { p10: Some(ms("frame_ms_p10")?), p90: Some(ms("frame_ms_p90")?), ..row });
    }
    Ok(all)
}

/// A bench of the runner's engine, with ONNX Runtime beside it.
fn engine_bench(name: &str) -> anyhow::Result<Command> {
    let fetched = Command::new(repository().join("dnn-runner/onnxruntime.sh")).status()?;
    anyhow::ensure!(fetched.success(), "dnn-runner/onnxruntime.sh ended with {fetched}");
    Ok(bench("dnn-runner", name))
}

/// Our engine beside ONNX Runtime, network by network: with all that the CPU has, then both with AVX2 alone.
pub fn engine() -> anyhow::Result<Vec<Row>> {
    let mut all = rows(&mut engine_bench("engine")?)?;
    let library = std::env::var_os("ORT_DYLIB_PATH")
        .map_or_else(|| repository().join("target/onnxruntime/libonnxruntime.so"), Into::into);
    let avx2 = repository().join("target/onnxruntime/libonnxruntime-avx2.so");
    let made = Command::new("python3")
        .arg(repository().join("tests/evidence/onnxruntime_avx2.py"))
        .args([&library, &avx2])
        .status()?;
    anyhow::ensure!(made.success(), "onnxruntime_avx2.py ended with {made}");
    let mut bench = engine_bench("engine")?;
    all.extend(rows(bench.args(["--form", "avx2"]).env("ORT_DYLIB_PATH", avx2))?);
    Ok(all)
}

/// Switches, unseen sub-networks, and what all sub-networks take.
pub fn switching() -> anyhow::Result<Vec<Row>> {
    rows(&mut engine_bench("switching")?)
}
