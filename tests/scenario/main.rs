//! `scenario FILE --policy P`: plays a scenario of `tests/scenarios` on the machine it runs on, with the real agent or a
//! kernel's governor, real runners and real co-runners; made for the VM (`tests/vm`), where it writes marks 40 and 41
//! around what counts. The same file runs in `tandem sim`.
//!
//! A frame is so many images that the largest sub-network takes about `largest-ms` on the fastest CPU at its top OPP;
//! what it really takes there is in the result, as are the frames that came late because a machine of whole images cannot
//! be asked for less.

mod in_vm;
mod play;
mod result;

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tandem::sim::scenario::Scenario;
use tandem_tests::{Agent, AgentOptions, program, repository};

/// What it takes.
#[derive(Debug, clap::Parser)]
struct Options {
    /// The scenario.
    file: PathBuf,
    /// `tandem` or another set of the tests' configuration; `kernel:GOVERNOR?subnet=N`, without an agent.
    #[arg(long)]
    policy: String,
    /// Where result.json and the logs go.
    #[arg(long, default_value = ".")]
    out: PathBuf,
    /// In the VM, on this board of `tests/vm/boards`.
    #[arg(long)]
    vm: Option<String>,
    /// With --vm: schedutil as it is where the scheduler does not know the clock.
    #[arg(long)]
    plain: bool,
    /// `speed` (tests/vm/speed.c), the co-runner.
    #[arg(long, default_value = "speed")]
    speed: PathBuf,
    /// CPUs of each domain in the scenario's words; the last one is the fastest, where applications start.
    #[arg(long, default_value = "little=0,big=1")]
    cpus: String,
}

/// Who governs.
#[derive(Clone, Debug)]
pub enum Policy {
    /// A kernel's governor, and the sub-network that is never changed.
    Kernel {
        /// Its name.
        governor: String,
        /// By rising cost.
        subnet: usize,
    },
    /// A policy set of the agent.
    Set(String),
}

impl std::str::FromStr for Policy {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let Some(rest) = text.strip_prefix("kernel:") else { return Ok(Self::Set(text.into())) };
        let (governor, subnet) = rest.split_once("?subnet=").context("--policy: kernel:GOVERNOR?subnet=N")?;
        Ok(Self::Kernel { governor: governor.into(), subnet: subnet.parse().context("--policy: subnet=N")? })
    }
}

/// A domain's name and the number of its only CPU.
pub type Cpus = Vec<(String, usize)>;

fn cpus(text: &str) -> anyhow::Result<Cpus> {
    let one = |part: &str| -> anyhow::Result<(String, usize)> {
        let (name, cpu) = part.split_once('=').with_context(|| format!("--cpus {part:?}: NAME=CPU"))?;
        Ok((name.into(), cpu.parse().with_context(|| format!("--cpus {part:?}"))?))
    };
    text.split(',').map(one).collect()
}

/// Sets the governor of every cpufreq policy.
fn set_governor(governor: &str) -> anyhow::Result<()> {
    for entry in
        std::fs::read_dir("/sys/devices/system/cpu/cpufreq").context("this machine has no cpufreq")?
    {
        let file = entry?.path().join("scaling_governor");
        if file.exists() {
            std::fs::write(&file, governor).with_context(|| format!("{}: {governor}", file.display()))?;
        }
    }
    Ok(())
}

/// ms of one image on each sub-network, alone on that CPU at its top OPP.
fn image_ms(cpu: usize) -> anyhow::Result<Vec<f64>> {
    set_governor("performance")?;
    let out = Command::new("taskset")
        .args(["-c", &cpu.to_string()])
        .arg(program("dnn-runner"))
        .args(["bench", "--best", "--json", "--batch", "1", "--frames", "10", "--switches", "1", "--model"])
        .arg(model())
        .output()
        .context("dnn-runner bench")?;
    ensure!(out.status.success(), "dnn-runner bench: {}", String::from_utf8_lossy(&out.stderr));
    let figures: serde_json::Value =
        serde_json::from_slice(&out.stdout).context("dnn-runner bench's JSON")?;
    let frames = figures["frames"].as_array().context("dnn-runner bench has no frames")?;
    frames.iter().map(|f| f["frame_ms_p50"].as_f64().context("no frame_ms_p50")).collect()
}

fn model() -> PathBuf {
    repository().join("dnn-runner/models/mlcad-fmnist.toml")
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some(board) = &options.vm {
        return in_vm::run(&options, board);
    }
    let scenario = Scenario::load(&options.file)?;
    if let Some(app) = scenario.apps.iter().find(|a| a.domain.is_some()) {
        anyhow::bail!(
            "app {:?}: domain: only the simulator can begin elsewhere than on the fastest domain",
            app.name
        );
    }
    let policy: Policy = options.policy.parse()?;
    let cpus = cpus(&options.cpus)?;
    let fastest = cpus.last().context("--cpus is empty")?.1;
    let image = image_ms(fastest)?;
    std::fs::create_dir_all(&options.out)?;
    let agent = match &policy {
        Policy::Set(set) => Some(agent(set, &scenario)?),
        Policy::Kernel { governor, .. } => {
            set_governor(governor)?;
            None
        }
    };
    let stage = play::Stage {
        scenario: &scenario,
        policy: &policy,
        cpus: &cpus,
        agent,
        image: &image,
        options: &options,
    };
    let played = play::play(stage)?;
    let result = result::of(&scenario, &options.policy, &image, &played)?;
    std::fs::write(options.out.join("result.json"), serde_json::to_vec_pretty(&result)?)?;
    println!("{}", serde_json::to_string_pretty(&result)?);
    Ok(())
}

fn agent(set: &str, scenario: &Scenario) -> anyhow::Result<Agent> {
    let mut tail = String::new();
    for app in &scenario.apps {
        tail += &format!("[[app]]\nname = {:?}\nuser = \"nobody\"\n", app.name);
        let target = app.target_at(tandem::units::Nanos(0));
        if let Some(latency) = target.latency {
            tail += &format!("latency-ms = {:.3}\n", latency.as_ms());
        }
        if let Some(top1) = target.top1 {
            tail += &format!("top1 = {:.2}\n", f64::from(top1.0) / 100.0);
        }
    }
    // On an emulated CPU a call takes longer, and the policy is compiled for seconds.
    let options =
        AgentOptions { policy: set.into(), head: "decide-deadline-us = 50000\n".into(), tail, args: vec![] };
    Agent::start(&options)
}

/// From the start of the runners to the first frame: all of them must have come up.
pub const LEAD: Duration = Duration::from_secs(4);
