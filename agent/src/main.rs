//! `tandem`: arguments and exit code; the work is in the library.

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use tandem::control::{Answer, Command, ask};
use tandem::policy::Objective;
use tandem::{board, policy, run};

/// Governs dynamic DNNs and clocks in tandem.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    what: What,
}

/// Where a running agent is found.
#[derive(Debug, clap::Args)]
struct Agent {
    /// Its run directory.
    #[arg(long, default_value = "/run/tandem")]
    run_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Run the agent in the foreground, until TERM, INT or HUP; every setting is then put back.
    Run(run::Options),
    /// What a running agent sees and does.
    Status {
        #[command(flatten)]
        agent: Agent,
        /// The whole document, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Applications of a running agent.
    #[command(subcommand)]
    App(AppCommand),
    /// Policies.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Boards.
    #[command(subcommand)]
    Board(BoardCommand),
    /// Measure what a network's sub-networks take on this machine, at every OPP: the table for `profile = ...`
    Profile(tandem::profile::measure::Options),
    /// Put back what an agent that was killed has left behind.
    Restore {
        #[command(flatten)]
        agent: Agent,
    },
    /// The main job, live, with a table and a plot at its end.
    #[cfg(feature = "demo")]
    Demo(tandem::demo::Options),
    /// Policies over a simulated board: a table, JSON, CSV, a time line.
    #[cfg(feature = "sim")]
    Sim(tandem::sim::command::Options),
    /// Policies x simulated boards x scenarios, against the kernel's governors: tables, CSV, JSON, plots.
    #[cfg(feature = "sim")]
    Eval(tandem::sim::eval::Options),
    /// Ask a running agent to panic in its loop (only if it was started with --allow-panic).
    #[command(hide = true)]
    Panic {
        #[command(flatten)]
        agent: Agent,
    },
    /// Keep CPUs busy, as a co-runner of the demo and the tests.
    #[command(hide = true)]
    Burn {
        /// On this CPU.
        #[arg(long)]
        cpu: usize,
    },
}

impl What {
    /// What is logged unless TANDEM_LOG says otherwise. A simulation is many runs: their news are a flood.
    fn log_level(&self) -> &'static str {
        match self {
            #[cfg(feature = "sim")]
            Self::Sim(_) | Self::Eval(_) => "error",
            _ => "info",
        }
    }
}

#[derive(Debug, Subcommand)]
enum AppCommand {
    /// Change a target: `tandem app set camera latency_ms=30 top1=85`; 0 = no constraint.
    Set {
        #[command(flatten)]
        agent: Agent,
        /// The application.
        name: String,
        /// `latency_ms=...`, `top1=...`, `power_mw=...`, `objective=accuracy|energy|latency`.
        #[arg(required = true)]
        targets: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// The policy sets of a configuration, each checked.
    List {
        /// The configuration.
        #[arg(long)]
        config: PathBuf,
    },
    /// Whether a file can serve as a policy, and as what.
    Check {
        /// Components.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Serve another policy set of the configuration, between two ticks.
    Swap {
        #[command(flatten)]
        agent: Agent,
        /// Its name.
        set: String,
    },
}

#[derive(Debug, Subcommand)]
enum BoardCommand {
    /// Write a board file from what this machine has, to standard output.
    Probe,
    /// Check a board (a shipped one's name, or a file) and show it.
    Show {
        /// Name or file.
        board: String,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("TANDEM_LOG");
    let filter = filter.unwrap_or_else(|_| args.what.log_level().into());
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_target(false);
    log.with_writer(std::io::stderr).init();
    match carry_out(args.what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("tandem: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(what: What) -> anyhow::Result<()> {
    match what {
        What::Run(options) => run::run(&options),
        What::Status { agent, json } => {
            let Answer::Status(status) = ask(&agent.run_dir, &Command::Status {})? else {
                anyhow::bail!("the agent answered something else");
            };
            if json {
                println!("{}", serde_json::to_string_pretty(&status)?);
            } else {
                print!("{status}");
            }
            Ok(())
        }
        What::App(AppCommand::Set { agent, name, targets }) => app_set(&agent, name, &targets),
        What::Policy(command) => policies(command),
        What::Board(BoardCommand::Probe) => {
            print!("{}", board::probe::probe(std::path::Path::new("/"))?);
            Ok(())
        }
        What::Board(BoardCommand::Show { board }) => {
            show_board(&board::Board::find(&board)?);
            Ok(())
        }
        What::Profile(options) => tandem::profile::measure::measure(&options),
        What::Restore { agent } => run::restore(&agent.run_dir),
        #[cfg(feature = "demo")]
        What::Demo(options) => tandem::demo::run(&options),
        #[cfg(feature = "sim")]
        What::Sim(options) => tandem::sim::command::run(&options),
        #[cfg(feature = "sim")]
        What::Eval(options) => tandem::sim::eval::run(&options),
        What::Panic { agent } => say(&agent, &Command::Panic {}),
        What::Burn { cpu } => burn(cpu),
    }
}

/// A session of its own, so that where the kernel groups tasks by session (autogroup) it counts as much as any other.
fn burn(cpu: usize) -> anyhow::Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu).context("--cpu")?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).context("--cpu")?;
    // Refused to the leader of a group, which has one already.
    let _ = nix::unistd::setsid();
    loop {
        std::hint::spin_loop();
    }
}

fn show_board(board: &board::Board) {
    println!("{}", board.name);
    for d in &board.domains {
        println!("  {}: {:?}, CPUs {:?}, {} OPPs", d.name, d.kind, d.cpus, d.opps.len());
        for (i, o) in d.opps.iter().enumerate() {
            let power = o.power.map_or_else(|| "-".into(), |p| p.0.to_string());
            println!("    {i:2}  {:>10}  {power:>6} mW", o.freq.to_string());
        }
    }
}

fn say(agent: &Agent, command: &Command) -> anyhow::Result<()> {
    if let Answer::Done(text) = ask(&agent.run_dir, command)? {
        println!("{text}");
    }
    Ok(())
}

fn app_set(agent: &Agent, name: String, targets: &[String]) -> anyhow::Result<()> {
    let (mut latency_ms, mut top1, mut power_mw, mut objective) = (None, None, None, None);
    for target in targets {
        let (key, value) = target.split_once('=').with_context(|| format!("{target}: must be key=value"))?;
        if key == "objective" {
            let known = "accuracy, energy, latency";
            objective = Some(Objective::named(value).with_context(|| format!("{target}: one of {known}"))?);
            continue;
        }
        if let "power_mw" | "power-mw" = key {
            let rule = || format!("{target}: {value:?} is not a whole number of mW");
            power_mw = Some(value.parse::<u32>().with_context(rule)?);
            continue;
        }
        let value: f64 = value.parse().with_context(|| format!("{target}: {value:?} is not a number"))?;
        match key {
            "latency_ms" | "latency-ms" => latency_ms = Some(value),
            "top1" => top1 = Some(value),
            _ => anyhow::bail!("{target}: unknown key {key:?}; known: latency_ms, top1, power_mw, objective"),
        }
    }
    say(agent, &Command::AppSet { name, latency_ms, top1, power_mw, objective })
}

fn policies(command: PolicyCommand) -> anyhow::Result<()> {
    match command {
        PolicyCommand::Swap { agent, set } => say(&agent, &Command::Swap { set }),
        PolicyCommand::Check { files } => {
            let engine = policy::wasm::WasmEngine::new()?;
            let mut refused = 0;
            for file in files {
                match policy::wasm::check(&engine, &file) {
                    Ok(info) => println!("{}: {info}", file.display()),
                    Err(e) => {
                        eprintln!("{e}");
                        refused += 1;
                    }
                }
            }
            anyhow::ensure!(refused == 0, "{refused} refused");
            Ok(())
        }
        PolicyCommand::List { config } => {
            let config = tandem::config::Config::load(&config)?;
            let engine = policy::wasm::WasmEngine::new()?;
            for (name, files) in &config.policies {
                println!("{name}{}", if *name == config.policy { "   (serves at start)" } else { "" });
                for file in [&files.allocator, &files.tuner] {
                    match policy::wasm::check(&engine, file) {
                        Ok(info) => println!("  {}: {info}", file.display()),
                        Err(e) => println!("  {e}"),
                    }
                }
            }
            Ok(())
        }
    }
}
