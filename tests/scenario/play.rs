//! The play: runners, co-runners, what happens to whom and when.

use crate::{Cpus, LEAD, Policy, model};
use anyhow::Context as _;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tandem::control::Command as Ask;
use tandem::policy::Slo;
use tandem::sim::scenario::{AppPlan, CoRunner, Happening, Scenario};
use tandem::sim::stream::{Stream, random};
use tandem_tests::{Agent, program};

const DATASET: &str = "/usr/share/datasets/fashion-mnist";

/// All that a play needs.
pub struct Stage<'a> {
    pub scenario: &'a Scenario,
    pub policy: &'a Policy,
    pub cpus: &'a Cpus,
    pub agent: Option<Agent>,
    /// ms of an image by sub-network.
    pub image: &'a [f64],
    /// Folder of its files.
    pub out: &'a Path,
    /// The co-runner.
    pub speed: &'a Path,
}

/// What a play left.
pub struct Played {
    /// By application: folder of its files, images of a frame.
    pub apps: Vec<(PathBuf, usize)>,
    /// By co-runner: million iterations a second while it ran.
    pub co_runners: Vec<f64>,
}

/// At a time of the scenario.
enum Cue<'a> {
    Target(&'a AppPlan, Slo),
    CoRunner(usize, &'a CoRunner),
    Happens(&'a Happening),
    Mark(u8),
    End,
}

/// Plays it.
pub fn play(stage: Stage<'_>) -> anyhow::Result<Played> {
    let mut runners = Vec::new();
    let mut apps = Vec::new();
    let (began, began_ns) = (Instant::now(), dnn_runner::clock::now());
    for (i, app) in (0u64..).zip(&stage.scenario.apps) {
        let (child, folder, batch) = start_runner(&stage, app, i, began_ns)?;
        runners.push(child);
        apps.push((folder, batch));
    }
    let zero = began + LEAD;
    let mut co_runners: Vec<Option<Child>> = stage.scenario.co_runners.iter().map(|_| None).collect();
    for (at, cue) in cues(stage.scenario) {
        std::thread::sleep((zero + at).saturating_duration_since(Instant::now()));
        match cue {
            Cue::Target(app, slo) => tell_target(&stage, app, slo)?,
            Cue::CoRunner(i, plan) => co_runners[i] = Some(start_co_runner(&stage, plan)?),
            Cue::Happens(what) => happen(&stage, what)?,
            Cue::Mark(mark) => write_mark(mark)?,
            Cue::End => break,
        }
    }
    for runner in &mut runners {
        terminate(runner);
    }
    // Each ends by itself, at most a moment after the scenario.
    let speeds = co_runners.into_iter().map(|c| c.map_or(Ok(0.0), speed)).collect::<anyhow::Result<_>>()?;
    if let Some(agent) = &stage.agent {
        std::fs::write(stage.out.join("agent.log"), agent.log())?;
    }
    drop(stage.agent);
    Ok(Played { apps, co_runners: speeds })
}

fn cues(scenario: &Scenario) -> Vec<(Duration, Cue<'_>)> {
    let at = |n: tandem::units::Nanos| Duration::from_nanos(n.0);
    let mut cues: Vec<(Duration, Cue<'_>)> = Vec::new();
    for app in &scenario.apps {
        // The first is in the configuration.
        cues.extend(app.targets.iter().skip(1).map(|(t, slo)| (at(*t), Cue::Target(app, *slo))));
    }
    cues.extend(scenario.co_runners.iter().enumerate().map(|(i, c)| (at(c.from), Cue::CoRunner(i, c))));
    cues.extend(scenario.events.iter().map(|e| (at(e.at), Cue::Happens(&e.what))));
    cues.push((at(scenario.warm_up), Cue::Mark(40)));
    cues.push((at(scenario.length), Cue::Mark(41)));
    cues.push((at(scenario.length), Cue::End));
    cues.sort_by_key(|c| c.0);
    cues
}

/// Images of a frame, by what an image takes on each sub-network.
pub fn batch(app: &AppPlan, image_ms: &[f64]) -> anyhow::Result<usize> {
    let largest = image_ms.last().copied().context("a network has a sub-network")?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some images")]
    Ok(app.largest.map_or(1, |l| (l.as_ms() / largest).round().max(1.0) as usize))
}

fn start_runner(
    stage: &Stage<'_>,
    app: &AppPlan,
    i: u64,
    began_ns: u64,
) -> anyhow::Result<(Child, PathBuf, usize)> {
    let folder = stage.out.join(&app.name);
    std::fs::create_dir_all(&folder)?;
    let mut text = format!("# {} of {}\n", app.name, stage.scenario.name);
    // The simulator draws the arrivals of an application from the same numbers.
    let mut stream = Stream::new(&app.frames, stage.scenario.length, random(stage.scenario.seed, 2 * i));
    while let Some(at) = stream.next() {
        writeln!(text, "{:.9}", at.as_secs() + LEAD.as_secs_f64())?;
        stream.pop();
    }
    let schedule = folder.join("arrivals.txt");
    std::fs::write(&schedule, text)?;
    let batch = batch(app, stage.image)?;
    let mut command = Command::new(program("dnn-runner"));
    if let Policy::Kernel { subnet, .. } = stage.policy {
        let cpu = stage.cpus.last().context("--cpus is empty")?.1;
        command = Command::new("taskset");
        command.args(["-c", &cpu.to_string()]).arg(program("dnn-runner"));
        command.args(["--fixed", &subnet_name(*subnet)?]);
    }
    if let Some(agent) = &stage.agent {
        command.arg("--socket").arg(agent.socket());
    }
    if let Some(latency) = app.target_at(tandem::units::Nanos(0)).latency {
        command.args(["--deadline-ms", &format!("{:.3}", latency.as_ms())]);
    }
    let child = command
        .args(["--name", &app.name, "--dataset", DATASET, "--batch", &batch.to_string(), "--top1-floor", "0"])
        .args(["--queue", &app.queue.to_string()])
        // All from the same moment: who is in step in the scenario is so here.
        .args(["--began-ns", &began_ns.to_string()])
        .arg("--schedule")
        .arg(&schedule)
        .arg("--model")
        .arg(model())
        .arg("--timeline")
        .arg(folder.join("frames.csv"))
        .arg("--report")
        .arg(folder.join("report.json"))
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("runner.log"))?)
        .spawn()
        .context("start a runner")?;
    Ok((child, folder, batch))
}

/// Names by rising cost, from the manifest.
pub fn subnet_names() -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(model())?;
    let manifest: toml::Table = toml::from_str(&text).context("the network's manifest")?;
    let subnets = manifest.get("subnets").and_then(|s| s.as_array()).context("a manifest has [[subnets]]")?;
    subnets
        .iter()
        .map(|s| Ok(s.get("name").and_then(|n| n.as_str()).context("a sub-network has a name")?.into()))
        .collect()
}

fn subnet_name(i: usize) -> anyhow::Result<String> {
    let names = subnet_names()?;
    names.get(i).cloned().with_context(|| format!("--policy: subnet={i}, there are {}", names.len()))
}

fn cpu_of(stage: &Stage<'_>, domain: Option<&str>) -> anyhow::Result<usize> {
    let found = match domain {
        Some(name) => stage.cpus.iter().find(|(n, _)| n == name),
        None => stage.cpus.last(),
    };
    Ok(found.with_context(|| format!("--cpus has no domain {domain:?}"))?.1)
}

fn start_co_runner(stage: &Stage<'_>, plan: &CoRunner) -> anyhow::Result<Child> {
    let cpu = cpu_of(stage, plan.domain.as_deref())?.to_string();
    let seconds = (plan.to.0 - plan.from.0) as f64 / 1e9;
    Command::new("nice")
        .args(["-n", &plan.nice.to_string()])
        .arg(stage.speed)
        .args(["int", &format!("{seconds:.3}")])
        .args(std::iter::repeat_n(&cpu, usize::from(plan.threads.max(1))))
        .stdout(Stdio::piped())
        .spawn()
        .context("start a co-runner")
}

fn speed(child: Child) -> anyhow::Result<f64> {
    let out = child.wait_with_output().context("a co-runner")?;
    let text = String::from_utf8_lossy(&out.stdout);
    text.lines()
        .map(|l| l.split(' ').nth(1).and_then(|s| s.parse::<f64>().ok()).context("speed's output"))
        .sum()
}

fn tell_target(stage: &Stage<'_>, app: &AppPlan, slo: Slo) -> anyhow::Result<()> {
    // A kernel's governor knows no target; the result judges by it all the same.
    let Some(agent) = &stage.agent else { return Ok(()) };
    let latency_ms = Some(slo.latency.map_or(0.0, |l| l.as_ms()));
    let top1 = Some(slo.top1.map_or(0.0, |t| f64::from(t.0) / 100.0));
    let power_mw = Some(slo.power.map_or(0, |p| p.0));
    let objective = Some(slo.objective);
    agent.ask(&Ask::AppSet { name: app.name.clone(), latency_ms, top1, power_mw, objective }).map(drop)
}

fn happen(stage: &Stage<'_>, what: &Happening) -> anyhow::Result<()> {
    let Happening::Cap { domain, permille } = what else {
        anyhow::bail!("only the simulator knows an ambient temperature");
    };
    for (name, cpu) in stage.cpus.iter().filter(|(n, _)| domain.as_ref().is_none_or(|d| d == n)) {
        let dir = format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq");
        let top: u64 = std::fs::read_to_string(format!("{dir}/cpuinfo_max_freq"))?.trim().parse()?;
        let file = format!("{dir}/scaling_max_freq");
        std::fs::write(&file, (top * u64::from(*permille) / 1000).to_string())
            .with_context(|| format!("{name}: {file}"))?;
    }
    Ok(())
}

fn write_mark(mark: u8) -> anyhow::Result<()> {
    use std::os::unix::fs::FileExt as _;
    if std::env::var_os("TANDEM_VM").is_none() {
        return Ok(());
    }
    let port = std::fs::OpenOptions::new().write(true).open("/dev/port").context("/dev/port")?;
    port.write_all_at(&[mark], 0x5d0).context("write a mark")
}

fn terminate(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
    }
    let _ = child.wait();
}
