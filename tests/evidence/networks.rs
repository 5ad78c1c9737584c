//! Figures of the networks: accuracy on the whole test split, times by `tandem profile`, and how far the
//! network and the clock reach.

use crate::{Row, folder, median, row};
use anyhow::Context as _;
use dnn_runner::profile::{At, Profile};
use plotters::prelude::*;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tandem::board::{Board, probe::probe};
use tandem_tests::{family, guest, program, repository};

/// The least top-1 a point of the dynamic range may have, %.
const RANGE_TOP1: f64 = 85.0;

/// The networks trained on Fashion-MNIST.
fn trained() -> anyhow::Result<Vec<family::Network>> {
    Ok(family::manifests()?.into_iter().filter(|n| n.dataset).collect())
}

/// An operating point: name, MMAC, top-1 in %.
type Point = (String, f64, f64);

/// Top-1 of every sub-network on all 10,000 test images, by the engine as it ships.
fn measured(network: &family::Network) -> anyhow::Result<(u64, Vec<Point>)> {
    let out = folder().join(format!("{}-measured.json", network.name));
    std::fs::create_dir_all(folder())?;
    let done = Command::new(program("dnn-runner"))
        .args(["measure", "--model"])
        .arg(&network.path)
        .arg("--json")
        .arg(&out)
        .status()?;
    anyhow::ensure!(done.success(), "dnn-runner measure ended with {done}");
    let found: Value = serde_json::from_slice(&std::fs::read(&out)?)?;
    let point = |s: &Value| {
        let (top1, macs) = (s["top1"].as_f64().context("top1")?, s["macs"].as_f64().context("macs")?);
        Ok((s["name"].as_str().context("name")?.to_owned(), macs / 1e6, top1 / 100.0))
    };
    let points = found["subnets"].as_array().context("subnets")?.iter().map(point);
    Ok((found["images"].as_u64().context("images")?, points.collect::<anyhow::Result<_>>()?))
}

/// Accuracy against multiply-accumulates, a plot per network beside the table.
pub fn accuracy() -> anyhow::Result<Vec<Row>> {
    tandem::demo::plot::register_fonts()?;
    let mut all = Vec::new();
    for network in trained()? {
        let (images, points) = measured(&network)?;
        let path = repository().join(format!("docs/accuracy-{}.png", network.name));
        plot(&network.name, &points, &path)?;
        for (name, macs, top1) in points {
            let name = format!("{} {name} ({macs:.2} MMAC): top-1", network.name);
            all.push(row(&name, top1, "%", images).higher());
        }
    }
    Ok(all)
}

fn plot(name: &str, points: &[Point], path: &Path) -> anyhow::Result<()> {
    let area = BitMapBackend::new(path, (800, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let most = points.iter().map(|p| p.1).fold(0.0, f64::max) * 1.15;
    let lowest = points.iter().map(|p| p.2).fold(100.0, f64::min);
    let highest = points.iter().map(|p| p.2).fold(0.0, f64::max);
    let room = ((highest - lowest) * 0.15).max(0.2);
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .caption(format!("{name}: top-1 on the test split"), ("sans-serif", 18))
        .build_cartesian_2d(0.0..most, lowest - room..highest + room)?;
    chart.configure_mesh().x_desc("million multiply-accumulates of an image").y_desc("top-1, %").draw()?;
    chart.draw_series(LineSeries::new(points.iter().map(|p| (p.1, p.2)), BLUE.stroke_width(2)))?;
    chart.draw_series(points.iter().map(|p| Circle::new((p.1, p.2), 4, BLUE.filled())))?;
    chart.draw_series(points.iter().map(|p| {
        let label = Text::new(p.0.clone(), (6, 6), ("sans-serif", 14).into_font());
        EmptyElement::at((p.1, p.2)) + label
    }))?;
    area.present()?;
    Ok(())
}

/// `tandem profile` into a file of its own, anew: a figure is of this run.
fn profiled(model: &Path, name: &str, more: &[&str]) -> anyhow::Result<Profile> {
    let out = folder().join(format!("profile-{name}.toml"));
    std::fs::create_dir_all(folder())?;
    if out.exists() {
        std::fs::remove_file(&out)?;
    }
    let done = Command::new(program("tandem"))
        .args(["profile", "--noisy", "--run-dir"])
        .arg(folder().join("run"))
        .arg("--model")
        .arg(model)
        .arg("--out")
        .arg(&out)
        .args(more)
        .status()?;
    anyhow::ensure!(done.success(), "tandem profile ended with {done}");
    Profile::parse(&std::fs::read_to_string(&out)?).map_err(anyhow::Error::msg)
}

fn at(at: Option<&At>) -> String {
    at.map_or_else(String::new, |at| format!(" at {} {}", at.domain, at.freq))
}

/// The largest network's sub-networks at the top OPP on one and two threads, the committed one's at every OPP.
pub fn profile() -> anyhow::Result<Vec<Row>> {
    let models = repository().join("dnn-runner/models");
    let mut all = Vec::new();
    for (name, more) in
        [("dynamic-ofa", &["--opps", "1", "--threads", "1,2"][..]), ("mlcad-fmnist", &["--batches", "auto"])]
    {
        let profile = profiled(&models.join(format!("{name}.toml")), name, more)?;
        all.push(row(
            &format!("{name}: others at work when it began, of one CPU"),
            profile.noise * 100.0,
            "%",
            1,
        ));
        for r in &profile.rows {
            let name =
                format!("{name} {}{}, {} threads, batch {}", r.subnet, at(r.at.as_ref()), r.threads, r.batch);
            let row = row(&name, r.p50_ms, "ms", r.frames as u64);
            all.push(Row { p10: Some(r.p10_ms), p90: Some(r.p90_ms), ..row });
        }
        let spread: Vec<f64> =
            profile.rows.iter().map(|r| (r.p90_ms - r.p10_ms) / r.p50_ms * 100.0).collect();
        all.push(median(&format!("{name}: spread of a row, (p90 - p10) / p50"), &spread, "%"));
        let errors = profile.predicted.iter().map(|p| (p.predicted_ms / p.measured_ms - 1.0).abs() * 100.0);
        let errors: Vec<f64> = errors.collect();
        let what = format!("{name}: predicted from the other sub-networks' layers: error");
        all.push(median(&what, &errors, "%"));
        let covered: Vec<f64> = profile.predicted.iter().map(|p| p.covered * 100.0).collect();
        all.push(
            median(&format!("{name}: share of the time that those layers cover"), &covered, "%").higher(),
        );
    }
    Ok(all)
}

/// Slowest over fastest: by the network at the top OPP, by the clock on the largest network, by both.
fn ranges(profile: &Profile, points: &[Point]) -> anyhow::Result<[f64; 3]> {
    let kept: Vec<&Point> = points.iter().filter(|p| p.2 >= RANGE_TOP1).collect();
    let largest = &kept.last().context("no point keeps the floor")?.0;
    let freq = |r: &dnn_runner::profile::Row| r.at.as_ref().map_or(0, |a| a.freq);
    let top = profile.rows.iter().map(freq).max().context("an empty profile")?;
    let kept = |name: &str| kept.iter().any(|p| p.0 == name);
    let range = |keep: &dyn Fn(&dnn_runner::profile::Row) -> bool| {
        let times: Vec<f64> =
            profile.rows.iter().filter(|r| kept(&r.subnet) && keep(r)).map(|r| r.p50_ms).collect();
        times.iter().copied().fold(0.0, f64::max) / times.iter().copied().fold(f64::INFINITY, f64::min)
    };
    Ok([range(&|r| freq(r) == top), range(&|r| r.subnet == *largest), range(&|_| true)])
}

/// How far apart the slowest and the fastest point are that keep the floor.
pub fn range() -> anyhow::Result<Vec<Row>> {
    let board = Board::parse("probed board", &probe(Path::new("/"))?)?;
    let here = board.domains.first().context("a board without a domain")?;
    let clock = if here.kind == tandem::board::DomainKind::CpuBandwidth {
        "this machine's CPU-bandwidth stand-in"
    } else {
        "this machine's cpufreq"
    };
    let mut all = Vec::new();
    for network in trained()? {
        let (_, points) = measured(&network)?;
        let here = profiled(&network.path, &format!("range-{}", network.name), &["--batches", "auto"])?;
        let mut add = |profile: &Profile, clock: &str| -> anyhow::Result<()> {
            let n = profile.rows.iter().map(|r| r.frames as u64).sum();
            for (what, value) in
                ["network alone", "clock alone", "both"].iter().zip(ranges(profile, &points)?)
            {
                let name = format!("{}, {clock}: {what}, slowest over fastest", network.name);
                all.push(row(&name, value, "x", n).higher());
            }
            Ok(())
        };
        add(&here, clock)?;
        match in_vm(&network.path, &network.name) {
            Ok(Some(profile)) => add(&profile, "the VM's cpufreq, 400 to 1600 MHz")?,
            Ok(None) => println!("{}: no VM here", network.name),
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

/// The same in the VM, whose clock really sets the speed.
fn in_vm(model: &Path, name: &str) -> anyhow::Result<Option<Profile>> {
    if let Some(why) = guest::missing() {
        println!("{why}");
        return Ok(None);
    }
    let share: PathBuf = guest::share(&format!("range-{name}"))?;
    let command = format!(
        "taskset -c 1 {} profile --noisy --run-dir /run/tandem --model {} --out /mnt/profile.toml --batches 1",
        program("tandem").display(),
        model.display()
    );
    let options = guest::Options { domains: &guest::SMALL_BOARD[..1], free: 1, seconds: 900, more: &[] };
    let run = guest::run(&command, &share, &options)?;
    anyhow::ensure!(run.status == 0, "the guest ended with {}:\n{}", run.status, run.console);
    let text = std::fs::read_to_string(share.join("profile.toml"))?;
    Profile::parse(&text).map(Some).map_err(anyhow::Error::msg)
}
