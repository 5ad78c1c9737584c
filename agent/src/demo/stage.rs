//! The demo's processes: agent, runner, co-runner; what is asked of them and what they show.

use super::Options;
use super::plot::Frame;
use super::profile;
use crate::control::{Answer, Command, ask};
use crate::run::now;
use crate::status::{AppStatus, DomainStatus, Status};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Outside the repository: the runner has dropped root when it comes back to the socket.
const RUN_DIR: &str = "/run/tandem-demo";
const APP: &str = "camera";
const DATASET: &str = "/usr/share/datasets/fashion-mnist";

/// Totals at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// s since the stage was set.
    pub t: f64,
    /// Frames dropped.
    pub dropped: u64,
    /// CPU time of the runner, s.
    pub runner_cpu: f64,
    /// CPU time of the agent, s.
    pub agent_cpu: f64,
    /// Policy swaps.
    pub swaps: u64,
    /// Ticks missed.
    pub missed: u64,
}

/// A frame with its truth.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// As drawn.
    pub frame: Frame,
    /// Images with a known label that were right, and all.
    pub correct: u64,
    /// All of them.
    pub images: u64,
}

/// What a policy chose for the application, and why not more.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Chosen {
    /// What the application wants most.
    pub objective: String,
    /// The sub-network.
    pub subnet: String,
    /// The OPP of its domain, kHz or thousandths of CPU time.
    pub opp: String,
    /// That domain.
    pub domain: String,
    /// Its weight.
    pub weight: String,
    /// What binds, in its tuner's words.
    pub binds: String,
}

/// The processes; dropping it ends them.
#[derive(Debug)]
pub struct Stage {
    agent: Child,
    runner: Child,
    /// One process per CPU.
    co_runner: Vec<Child>,
    burn_cpus: Vec<usize>,
    began: u64,
    timeline: PathBuf,
    target_ms: f64,
    /// (s, weight).
    pub weight: Vec<(f64, f64)>,
    /// (s, thousandths of the top OPP).
    pub opp: Vec<(f64, f64)>,
    subnets: Vec<(String, f64)>,
    /// What the domain's OPPs are.
    pub domain_kind: String,
    /// The live line as it was last.
    pub line: String,
    /// What stood last.
    pub chosen: Chosen,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.co_runner.iter_mut().for_each(terminate);
        terminate(&mut self.runner);
        terminate(&mut self.agent);
        let _ = std::fs::remove_dir_all(RUN_DIR);
    }
}

fn terminate(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
    }
    let _ = child.wait();
}

impl Stage {
    /// Starts agent and runner and waits until frames flow.
    pub fn set(options: &Options) -> anyhow::Result<Self> {
        let me = std::env::current_exe().context("path of this program")?;
        let (profile, batch) = profile::make(options, &me, RUN_DIR)?;
        let config = write_config(options, &profile)?;
        let log = |name: &str| {
            let path = options.out.join(name);
            std::fs::File::create(&path).with_context(|| path.display().to_string())
        };
        let agent = std::process::Command::new(&me)
            .args(["run", "--config"])
            .arg(&config)
            .stderr(log("agent.log")?)
            .spawn()
            .context("start the agent")?;
        let timeline = options.out.join("frames.csv");
        let _ = std::fs::remove_file(&timeline);
        let runner_path = me.with_file_name("dnn-runner");
        let rate = options.rate.to_string();
        let runner = std::process::Command::new(&runner_path)
            .args(["--name", APP, "--socket", &format!("{RUN_DIR}/runner.sock"), "--dataset", DATASET])
            .args(["--rate", &rate, "--batch", &batch.to_string(), "--top1-floor", "0"])
            .arg("--model")
            .arg(profile::model(options))
            .arg("--timeline")
            .arg(&timeline)
            .arg("--report")
            .arg(options.out.join("runner.json"))
            .stdout(Stdio::null())
            .stderr(log("runner.log")?)
            .spawn()
            .with_context(|| format!("{}: start the runner", runner_path.display()))?;
        let mut stage = Self {
            agent,
            runner,
            co_runner: vec![],
            burn_cpus: options.burn_cpus.clone(),
            began: now().0,
            timeline,
            target_ms: options.target_ms,
            weight: Vec::new(),
            opp: Vec::new(),
            subnets: Vec::new(),
            domain_kind: String::new(),
            line: String::new(),
            chosen: Chosen::default(),
        };
        stage.wait_for_frames(&options.out)?;
        stage.began = now().0;
        Ok(stage)
    }

    fn wait_for_frames(&mut self, out: &Path) -> anyhow::Result<()> {
        let patience = Instant::now();
        while patience.elapsed() < Duration::from_secs(120) {
            self.check(out)?;
            if let Ok((status, app)) = self.status()
                && app.done > 0
            {
                self.subnets = app.subnets.into_iter().map(|(name, top1, _)| (name, top1)).collect();
                self.domain_kind = status.domains.first().map_or_else(String::new, |d| d.kind.clone());
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        anyhow::bail!("no frame within 120 s; see {0}/agent.log and {0}/runner.log", out.display())
    }

    fn check(&mut self, out: &Path) -> anyhow::Result<()> {
        for (child, name) in [(&mut self.agent, "agent"), (&mut self.runner, "runner")] {
            if let Some(code) = child.try_wait()? {
                let log = std::fs::read_to_string(out.join(format!("{name}.log"))).unwrap_or_default();
                anyhow::bail!("the {name} ended ({code}):\n{log}");
            }
        }
        Ok(())
    }

    /// By rising cost: name and accuracy in %.
    pub fn subnets(&self) -> Vec<(String, f64)> {
        self.subnets.clone()
    }

    /// The target in force, ms.
    pub fn target_ms(&self) -> f64 {
        self.target_ms
    }

    /// Whether the co-runner runs.
    pub fn has_co_runner(&self) -> bool {
        !self.co_runner.is_empty()
    }

    /// s since the stage was set.
    pub fn seconds(&self) -> f64 {
        seconds_between(self.began, now().0)
    }

    /// Serves another policy set, live.
    pub fn swap(&mut self, set: &str) -> anyhow::Result<()> {
        ask(Path::new(RUN_DIR), &Command::Swap { set: set.into() }).map(drop)
    }

    /// The application wants another latency.
    pub fn target(&mut self, ms: f64) -> anyhow::Result<()> {
        self.target_ms = ms;
        ask(
            Path::new(RUN_DIR),
            &Command::AppSet {
                name: APP.into(),
                latency_ms: Some(ms),
                top1: None,
                power_mw: None,
                objective: None,
            },
        )
        .map(drop)
    }

    /// A CPU-hungry co-runner on every CPU comes or goes.
    pub fn co_runner(&mut self, on: bool) -> anyhow::Result<()> {
        for mut child in self.co_runner.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if !on {
            return Ok(());
        }
        let all = std::thread::available_parallelism()?.get();
        let cpus = if self.burn_cpus.is_empty() { (0..all).collect() } else { self.burn_cpus.clone() };
        let me = std::env::current_exe().context("path of this program")?;
        for cpu in cpus {
            let mut burn = std::process::Command::new(&me);
            let child = burn.args(["burn", "--cpu", &cpu.to_string()]).spawn();
            self.co_runner.push(child.context("start the co-runner")?);
        }
        Ok(())
    }

    fn status(&self) -> anyhow::Result<(Status, AppStatus)> {
        let Answer::Status(status) = ask(Path::new(RUN_DIR), &Command::Status {})? else {
            anyhow::bail!("the agent answered something else");
        };
        let app = status.apps.iter().find(|a| a.name == APP).cloned().context("the runner is not there")?;
        Ok((*status, app))
    }

    /// Totals now.
    pub fn counts(&self) -> anyhow::Result<Counts> {
        let (status, app) = self.status()?;
        Ok(Counts {
            t: self.seconds(),
            dropped: app.dropped,
            runner_cpu: cpu_seconds(app.pid)?,
            agent_cpu: cpu_seconds(self.agent.id())?,
            swaps: status.policy.swaps,
            missed: status.ticks.missed,
        })
    }

    /// Shows the live line for so long.
    pub fn watch(&mut self, length: Duration, label: &str) -> anyhow::Result<()> {
        let terminal = std::io::stdout().is_terminal();
        let (start, mut shown) = (Instant::now(), None::<Instant>);
        while start.elapsed() < length {
            std::thread::sleep(Duration::from_millis(200).min(length.saturating_sub(start.elapsed())));
            let (status, app) = self.status()?;
            let t = self.seconds();
            let its = |d: &&DomainStatus| Some(&d.name) == app.domain.as_ref();
            let domain = status.domains.iter().find(its).or(status.domains.first());
            let domain = domain.context("a board has a domain")?;
            if let Some(weight) = app.weight {
                self.weight.push((t, f64::from(weight)));
            }
            if let Some(opp) = domain.opp {
                self.opp.push((t, f64::from(opp + 1) * 1000.0 / f64::from(domain.opps)));
            }
            self.chosen = Chosen {
                objective: app.objective.word().into(),
                subnet: app.subnet.clone().unwrap_or_else(|| "-".into()),
                opp: domain.freq.clone().unwrap_or_else(|| "-".into()),
                domain: domain.name.clone(),
                weight: app.weight.map_or_else(|| "-".into(), |w| w.to_string()),
                binds: app.binds.clone(),
            };
            let dash = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| format!("{v:.1}"));
            self.line = format!(
                "{t:5.1} s  {label:<26} p50 {:>5} p95 {:>5} of {:.0} ms | {:<5} {:>5} % | {} | weight {:<4} | live accuracy {} %",
                dash(app.p50_ms),
                dash(app.p95_ms),
                self.target_ms,
                app.subnet.as_deref().unwrap_or("-"),
                dash(app.subnet_top1),
                domain.freq.as_deref().unwrap_or("-"),
                app.weight.map_or_else(|| "-".into(), |w| w.to_string()),
                dash(app.live_top1),
            );
            if terminal {
                print!("\r\x1b[K{}", self.line);
                std::io::stdout().flush()?;
            } else if shown.is_none_or(|s| s.elapsed() > Duration::from_secs(2)) {
                println!("{}", self.line);
                shown = Some(Instant::now());
            }
        }
        if terminal {
            println!();
        }
        Ok(())
    }

    /// Ends the runner in good order and reads what it did.
    pub fn end(mut self) -> anyhow::Result<Vec<Seen>> {
        self.co_runner(false)?;
        terminate(&mut self.runner);
        let text = std::fs::read_to_string(&self.timeline)
            .with_context(|| format!("{}: the runner's time line", self.timeline.display()))?;
        let report: serde_json::Value =
            serde_json::from_slice(&std::fs::read(self.timeline.with_file_name("runner.json"))?)?;
        let zero = report["began_ns"].as_u64().context("the runner's report has no began_ns")?;
        // The stage was set after the runner had begun.
        let offset = seconds_between(zero, self.began);
        let mut lines = text.lines();
        let columns: Vec<_> = lines.next().context("an empty time line")?.split(',').collect();
        let column = |name: &str| {
            columns
                .iter()
                .position(|c| *c == name)
                .with_context(|| format!("no column {name} in the time line"))
        };
        let (t, latency, subnet) = (column("t_s")?, column("latency_ms")?, column("subnet")?);
        let (correct, images) = (column("correct")?, column("images")?);
        let mut seen = Vec::new();
        for line in lines {
            let fields: Vec<_> = line.split(',').collect();
            let field = |i: usize| fields.get(i).copied().with_context(|| format!("short line {line:?}"));
            let t = field(t)?.parse::<f64>()? - offset;
            if t < 0.0 {
                continue;
            }
            let name = field(subnet)?;
            let position = self.subnets.iter().position(|s| s.0 == name);
            let subnet =
                position.with_context(|| format!("unknown sub-network {name:?} in the time line"))?;
            let frame = Frame { t, latency_ms: field(latency)?.parse()?, subnet };
            seen.push(Seen { frame, correct: field(correct)?.parse()?, images: field(images)?.parse()? });
        }
        Ok(seen)
    }
}

fn seconds_between(from: u64, to: u64) -> f64 {
    Duration::from_nanos(to.saturating_sub(from)).as_secs_f64()
}

/// CPU time of a process so far, s.
fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let after = text.rsplit_once(") ").with_context(|| format!("{path}: unexpected form"))?.1;
    let fields: Vec<_> = after.split(' ').collect();
    let ticks: u32 = fields.get(11).and_then(|u| u.parse().ok()).unwrap_or(0u32)
        + fields.get(12).and_then(|s| s.parse().ok()).unwrap_or(0u32);
    // USER_HZ is 100 on every architecture Linux has today.
    Ok(f64::from(ticks) / 100.0)
}

/// Of the P-state numbers from 32 on, which are marks in the VM host's log, the demo's begin here.
pub const MARKS: usize = 100;

/// Tells the VM's host that a phase begins (`2 * i`) or ends (`2 * i + 1`).
pub fn mark(i: usize) -> anyhow::Result<()> {
    use std::os::unix::fs::FileExt;
    let port = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/port")
        .context("/dev/port (are you in the VM?)")?;
    let mark = u8::try_from(MARKS + i).context("too many phases")?;
    port.write_all_at(&[mark], 0x5d0).context("write a mark")
}

fn write_config(options: &Options, profile: &Path) -> anyhow::Result<PathBuf> {
    let policies = options
        .root
        .join("target/policies")
        .canonicalize()
        .context("target/policies: run `make policies`")?;
    let p = policies.display();
    // In the VM every instruction is emulated, the policies' too.
    let deadline = if options.marks { 50_000 } else { 2_000 };
    // On the stand-in `schedutil` would starve a fixed network: throttled time reads as idle and keeps the limit low.
    let kernel = if options.marks { "schedutil" } else { "performance" };
    let mut text = format!(
        r#"# Written by `tandem demo`.
run-dir = "{RUN_DIR}"
board = "{}"
decide-deadline-us = {deadline}
policy = "kernel-style"

[policies.kernel-style]
allocator = "{p}/{kernel}.wasm"
tuner = "{p}/fixed.wasm"
tuner-params = {{ subnet = "3" }}

[policies.tandem]
allocator = "{p}/tandem-allocator.wasm"
tuner = "{p}/tandem-tuner.wasm"

[[app]]
name = "{APP}"
user = "nobody"
latency-ms = {}
profile = {profile:?}
"#,
        options.board, options.target_ms
    );
    for i in 0..4 {
        text += &format!(
            "\n[policies.fixed-{i}]\nallocator = \"{p}/{kernel}.wasm\"\ntuner = \"{p}/fixed.wasm\"\ntuner-params = {{ subnet = \"{i}\" }}\n"
        );
    }
    let path = options.out.join("tandem.toml");
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    Ok(path)
}
