//! `scenario FILE... --policy P...`: plays scenarios of `tests/scenarios` on the machine it runs on, with the real agent
//! or a kernel's governor, real runners and real co-runners; made for the VM (`tests/vm`), where it writes marks 40 and 41
//! around what counts. The same file runs in `tandem sim`.
//!
//! Of several, each round plays every scenario by every policy: what is compared ran in turns in one boot. Scenarios that
//! differ in nothing but floor, budget and objective are one to a kernel's governor, which plays the first of them.
//!
//! A frame is so many images that the largest sub-network takes about `largest-ms` on the fastest CPU at its top OPP;
//! what it really takes there is in the result, as are the frames that came late because a machine of whole images cannot
//! be asked for less.

mod in_vm;
mod known;
mod play;
mod result;

use anyhow::{Context as _, bail, ensure};
use clap::Parser as _;
use known::Known;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tandem::sim::scenario::Scenario;
use tandem_tests::{Agent, AgentOptions, program, repository};

/// What it takes.
#[derive(Debug, clap::Parser)]
struct Options {
    /// The scenarios.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// `tandem` or another set of the tests' configuration, `tandem?PARAMETER=VALUE&...` with parameters of its tuner;
    /// `kernel:GOVERNOR?subnet=N`, without an agent. May be given several times.
    #[arg(long, required = true)]
    policy: Vec<String>,
    /// Rounds, in each of which every scenario is played by every policy.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// With --vm: the agent knows the board's powers, and a profile that is measured first.
    #[arg(long, requires = "vm")]
    informed: bool,
    /// The same in the guest: the board of `tests/vm/boards` that this machine is.
    #[arg(long)]
    board: Option<String>,
    /// Where result.json, a list of runs, and the logs go.
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
    Set {
        /// Its name.
        name: String,
        /// Of its tuner.
        params: Vec<(String, String)>,
    },
}

impl std::str::FromStr for Policy {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let Some(rest) = text.strip_prefix("kernel:") else {
            let (name, params) = text.split_once('?').unwrap_or((text, ""));
            ensure!(
                params.is_empty() || name == "tandem",
                "--policy {text}: only tandem takes parameters here"
            );
            let one = |p: &str| -> anyhow::Result<_> {
                let (k, v) =
                    p.split_once('=').with_context(|| format!("--policy {text}: {p}: NAME=VALUE"))?;
                Ok((k.to_owned(), v.to_owned()))
            };
            let params = params.split('&').filter(|p| !p.is_empty()).map(one).collect::<Result<_, _>>()?;
            return Ok(Self::Set { name: name.into(), params });
        };
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
    let scenarios = options.files.iter().map(|f| Scenario::load(f)).collect::<Result<Vec<_>, _>>()?;
    let policies = options.policy.iter().map(|p| p.parse()).collect::<anyhow::Result<Vec<Policy>>>()?;
    if let Some(app) = scenarios.iter().flat_map(|s| &s.apps).find(|a| a.domain.is_some()) {
        bail!(
            "app {:?}: domain: only the simulator can begin elsewhere than on the fastest domain",
            app.name
        );
    }
    let cpus = cpus(&options.cpus)?;
    std::fs::create_dir_all(&options.out)?;
    let image = image_ms(cpus.last().context("--cpus is empty")?.1)?;
    let batches = scenarios.iter().flat_map(|s| &s.apps).map(|app| play::batch(app, &image));
    let batches: BTreeSet<usize> = batches.collect::<anyhow::Result<_>>()?;
    let known = match &options.board {
        Some(board) => Some(known::measure(board, &batches, &options.out)?),
        None => None,
    };
    let mut results = Vec::new();
    for round in 0..options.rounds {
        for (s, (scenario, file)) in scenarios.iter().zip(&options.files).enumerate() {
            for (i, policy) in policies.iter().enumerate() {
                let kernel = matches!(policy, Policy::Kernel { .. });
                if kernel && scenarios[..s].iter().any(|before| same_for_a_kernel(before, scenario)) {
                    continue;
                }
                let stem = file.file_stem().unwrap_or_default().to_string_lossy();
                let out = options.out.join(format!("{stem}-{i}-{round}"));
                std::fs::create_dir_all(&out)?;
                let agent = match policy {
                    Policy::Set { .. } => Some(agent(policy, scenario, known.as_ref())?),
                    Policy::Kernel { governor, .. } => {
                        set_governor(governor)?;
                        None
                    }
                };
                let (image, speed) = (&image, options.speed.as_path());
                let stage = play::Stage { scenario, policy, cpus: &cpus, agent, image, out: &out, speed };
                let played = play::play(stage)?;
                results.push(result::of(scenario, &options.policy[i], round, image, &played)?);
                // Kept run by run: a guest may be killed.
                std::fs::write(options.out.join("result.json"), serde_json::to_vec_pretty(&results)?)?;
            }
        }
    }
    println!("{}", serde_json::to_string_pretty(&results)?);
    Ok(())
}

/// They differ in nothing that a kernel's governor knows: played once, it has played both.
fn same_for_a_kernel(a: &Scenario, b: &Scenario) -> bool {
    let nameless = |s: &Scenario| Scenario { name: String::new(), about: String::new(), ..s.plain() };
    nameless(a) == nameless(b)
}

fn agent(policy: &Policy, scenario: &Scenario, known: Option<&Known>) -> anyhow::Result<Agent> {
    let Policy::Set { name, params } = policy else { bail!("a kernel's governor has no agent") };
    let mut tail = String::new();
    for app in &scenario.apps {
        tail += &format!("[[app]]\nname = {:?}\nuser = \"nobody\"\n", app.name);
        if let Some(known) = known {
            tail += &format!("profile = {:?}\n", known.profile);
        }
        let target = app.target_at(tandem::units::Nanos(0));
        tail += &format!("objective = {:?}\n", target.objective.word());
        if let Some(latency) = target.latency {
            tail += &format!("latency-ms = {:.3}\n", latency.as_ms());
        }
        if let Some(top1) = target.top1 {
            tail += &format!("top1 = {:.2}\n", f64::from(top1.0) / 100.0);
        }
        if let Some(power) = target.power {
            tail += &format!("power-mw = {}\n", power.0);
        }
    }
    let mut set = name.clone();
    if !params.is_empty() {
        set = "asked".into();
        tail += &tandem_tests::policy_set(&set, "tandem-allocator", "tandem-tuner", &tuner_params(params));
    }
    // On an emulated CPU a call takes longer, and the policy is compiled for seconds.
    let mut head = "decide-deadline-us = 50000\n".to_owned();
    if let Some(known) = known {
        head += &format!("board = {:?}\n", known.board);
    }
    Agent::start(&AgentOptions { policy: set, head, tail, args: vec![] })
}

fn tuner_params(params: &[(String, String)]) -> String {
    let each: Vec<String> = params.iter().map(|(k, v)| format!("{k} = {v:?}")).collect();
    format!("tuner-params = {{ {} }}", each.join(", "))
}

/// From the start of the runners to the first frame: all of them must have come up.
pub const LEAD: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_knows_latencies_and_streams_and_nothing_else_of_what_is_wanted() {
        let scenario = |name: &str, rate: &str, target: &str| {
            let text = format!(
                "about = \"{name}\"\nlength-s = 8.0\nwarm-up-s = 1.0\n[[app]]\nname = \"cam\"\nnetwork = \"mlcad-fmnist\"\n\
                 frames = {{ kind = \"periodic\", rate-hz = {rate} }}\ntargets = [{{ {target} }}]\n"
            );
            Scenario::parse(name, name, &text).unwrap()
        };
        let one = scenario("one", "10.0", "latency-ms = 90.0, top1 = 88.0, objective = \"energy\"");
        let same = scenario("two", "10.0", "latency-ms = 90.0, objective = \"latency\", power-mw = 300");
        assert!(same_for_a_kernel(&one, &same));
        assert!(!same_for_a_kernel(&one, &scenario("three", "10.0", "latency-ms = 80.0")));
        assert!(!same_for_a_kernel(&one, &scenario("four", "20.0", "latency-ms = 90.0")));
    }
}
