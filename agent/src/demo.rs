//! `tandem demo`: the main job, live. An agent and a runner on a real image stream; a CPU-hungry co-runner
//! comes, the policy set is swapped from a kernel-style one with a fixed network to ours, the application
//! tightens its target, the co-runner goes. Then each fixed sub-network under the same co-runner, as a
//! yardstick. At the end a table and a plot.
//!
//! Only what is measured is shown: no energy where nothing measures it. In the VM `--marks` writes a mark
//! per phase for the host's power model, and `--energy` adds its column afterwards.

pub mod plot;
mod profile;
mod report;
mod stage;

use anyhow::Context as _;
use report::Report;
use stage::Stage;
use std::path::PathBuf;
use std::time::Duration;

/// What `tandem demo` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The repository: policies are in `target/policies`, models in `dnn-runner/models`.
    #[arg(long, default_value = ".")]
    pub root: PathBuf,
    /// Where the report goes.
    #[arg(long, default_value = "target/demo")]
    pub out: PathBuf,
    /// Frames a second.
    #[arg(long, default_value_t = 20.0)]
    pub rate: f64,
    /// Images of one frame; `auto`: the largest network takes about 25 ms.
    #[arg(long, default_value = "auto")]
    pub batch: String,
    /// The first target, ms.
    #[arg(long, default_value_t = 45.0)]
    pub target_ms: f64,
    /// The tightened target, ms.
    #[arg(long, default_value_t = 30.0)]
    pub tight_ms: f64,
    /// Length of all phases against the usual 84 s.
    #[arg(long, default_value_t = 1.0)]
    pub scale: f64,
    /// The board: `auto`, a shipped one's name, or a file.
    #[arg(long, default_value = "auto")]
    pub board: String,
    /// CPUs of the co-runner, one busy thread each; all by default.
    #[arg(long, value_delimiter = ',')]
    pub burn_cpus: Vec<usize>,
    /// Write a mark per phase for the VM's host.
    #[arg(long)]
    pub marks: bool,
    /// Finish a report made in the VM with the host's P-state log, instead of running anything.
    #[arg(long)]
    pub energy: Option<PathBuf>,
}

/// Our policy set, and its row.
const OURS: &str = "tandem";

/// One phase: what is done at its start, and how long it lasts.
struct Phase {
    label: &'static str,
    seconds: f64,
    set: Option<&'static str>,
    target_ms: Option<f64>,
    co_runner: Option<bool>,
    /// Its row in the table, if it is one.
    row: Option<&'static str>,
}

/// Runs it.
///
/// # Errors
/// A part does not start, or ends before its time.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(pstates) = &options.energy {
        let mut report = Report::load(&options.out)?;
        report.add_energy(pstates)?;
        return report.finish(&options.out);
    }
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "the demo runs an agent: please run it as root");
    std::fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    let phases = phases(options);
    let total: f64 = phases.iter().map(|p| p.seconds * options.scale).sum();
    println!(
        "tandem demo: about {total:.0} s; an agent, a runner on real images, a co-runner that comes and goes"
    );
    let mut stage = Stage::set(options)?;
    let mut report = Report::new(options, stage.subnets());
    let mut serving = "";
    for (i, phase) in phases.iter().enumerate() {
        if let Some(set) = phase.set {
            serving = set;
            stage.swap(set)?;
        }
        if let Some(target) = phase.target_ms {
            stage.target(target)?;
        }
        if let Some(on) = phase.co_runner {
            stage.co_runner(on)?;
        }
        if options.marks {
            stage::mark(2 * i)?;
        }
        let before = stage.counts()?;
        stage.watch(Duration::from_secs_f64(phase.seconds * options.scale), phase.label)?;
        if options.marks {
            stage::mark(2 * i + 1)?;
        }
        let after = stage.counts()?;
        report.phase(phase, serving == OURS, &before, &after, &stage);
    }
    let frames = stage.end()?;
    report.frames(frames);
    report.save(&options.out)?;
    report.finish(&options.out)
}

fn phases(options: &Options) -> Vec<Phase> {
    let quiet = Phase { label: "", seconds: 8.0, set: None, target_ms: None, co_runner: None, row: None };
    vec![
        Phase {
            label: "calm, kernel-style policy",
            set: Some("kernel-style"),
            target_ms: Some(options.target_ms),
            ..quiet
        },
        Phase { label: "co-runner starts", seconds: 10.0, co_runner: Some(true), ..quiet },
        Phase { label: "swapped live to tandem", seconds: 14.0, set: Some(OURS), row: Some(OURS), ..quiet },
        Phase { label: "target tightened", seconds: 12.0, target_ms: Some(options.tight_ms), ..quiet },
        Phase { label: "co-runner ends", co_runner: Some(false), ..quiet },
        Phase {
            label: "fixed 25%",
            set: Some("fixed-0"),
            target_ms: Some(options.target_ms),
            co_runner: Some(true),
            row: Some("fixed 25%"),
            ..quiet
        },
        Phase { label: "fixed 50%", set: Some("fixed-1"), row: Some("fixed 50%"), ..quiet },
        Phase { label: "fixed 75%", set: Some("fixed-2"), row: Some("fixed 75%"), ..quiet },
        Phase { label: "fixed 100%", set: Some("fixed-3"), row: Some("fixed 100%"), ..quiet },
    ]
}
