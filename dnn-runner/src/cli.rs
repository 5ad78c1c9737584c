//! The command line.

use crate::profile::At;
use crate::stream::{Arrivals, Victim};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Runs a dynamic DNN on a stream of images, as the tandem agent decides.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// Something else than running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Running.
    #[command(flatten)]
    pub run: Run,
}

/// Something else than running.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Time a frame on each sub-network and form of the arithmetic, and a switch between sub-networks
    Bench(Bench),
    /// Measure each sub-network's accuracy on the data set's test split
    Measure(Measure),
    /// Measure each sub-network's time on this machine, and write the table that the manager uses
    Profile(Profile),
    /// Write a sub-network as an ONNX file
    Export(Export),
}

/// Running.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("images").args(["dataset", "folder"])))]
pub struct Run {
    /// Name of the application, as the agent's configuration knows it
    #[arg(long, default_value = "runner")]
    pub name: String,
    /// Socket of the agent
    #[arg(long, default_value = "/run/tandem/runner.sock")]
    pub socket: PathBuf,
    /// Manifest of the network
    #[arg(long, required = true)]
    pub model: Option<PathBuf>,
    /// Stream the test split of the Fashion-MNIST files in this folder
    #[arg(long, value_name = "DIR", required_unless_present_any = ["folder", "serve"])]
    pub dataset: Option<PathBuf>,
    /// Stream the PNG and PGM pictures of this folder
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Frames a second
    #[arg(long, value_name = "HZ", default_value_t = 20.0, value_parser = rate)]
    pub rate: f64,
    /// How frames arrive
    #[arg(long, value_enum, default_value_t = Arrivals::Periodic)]
    pub arrivals: Arrivals,
    /// Arrival times from a file instead, s since the start, one a line, never falling; the stream ends with them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rate", "arrivals"])]
    pub schedule: Option<PathBuf>,
    /// Count all times from this moment of CLOCK_MONOTONIC, ns, not from the start: streams of several runners in step
    #[arg(long, value_name = "NS")]
    pub began_ns: Option<u64>,
    /// Seed of the Poisson arrivals
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Images of a frame; `auto`: so many that the largest sub-network takes about 25 ms on one thread
    #[arg(long, value_name = "K", default_value = "auto", value_parser = batch)]
    pub batch: Batch,
    /// Threads that one inference can use
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: u8,
    /// Latency to count violations of, and the target told to the agent
    #[arg(long, value_name = "MS", value_parser = above_zero)]
    pub deadline_ms: Option<f64>,
    /// Accuracy floor in percent: decides the failsafe, and is told to the agent
    #[arg(long, value_name = "PCT", value_parser = percent)]
    pub top1_floor: Option<f64>,
    /// Started as root: become this user (name or number)
    #[arg(long, default_value = "nobody")]
    pub user: String,
    /// Answer requests on a Unix socket at this path
    #[arg(long, value_name = "PATH")]
    pub serve: Option<PathBuf>,
    /// No agent: always run this sub-network, on all --threads
    #[arg(long, value_name = "SUBNET")]
    pub fixed: Option<String>,
    /// Let frames arrive for so long, then end
    #[arg(long, value_name = "SECONDS", value_parser = above_zero)]
    pub duration: Option<f64>,
    /// Let so many frames arrive, then end
    #[arg(long)]
    pub frames: Option<u64>,
    /// Write the report here
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Write a line per frame here
    #[arg(long, value_name = "FILE.csv")]
    pub timeline: Option<PathBuf>,
    /// Frames and requests that may wait
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub queue: u16,
    /// Who goes when the queue is full
    #[arg(long, value_enum, default_value_t = Victim::Oldest)]
    pub drop: Victim,
    /// How long the last choice is kept when decisions stop coming
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pub grace_ms: u64,
}

/// `bench`
#[derive(Debug, Args)]
pub struct Bench {
    /// Manifest of the network
    #[arg(long)]
    pub model: PathBuf,
    /// Images of a frame
    #[arg(long, value_name = "K", default_value = "auto", value_parser = batch)]
    pub batch: Batch,
    /// Frames timed of each sub-network and form
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub frames: u32,
    /// Only the fastest form of the arithmetic
    #[arg(long)]
    pub best: bool,
    /// Switches timed
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub switches: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `measure`
#[derive(Debug, Args)]
pub struct Measure {
    /// Manifest of the network
    #[arg(long)]
    pub model: PathBuf,
    /// Folder of the Fashion-MNIST files
    #[arg(long, value_name = "DIR", default_value = "/usr/share/datasets/fashion-mnist")]
    pub dataset: PathBuf,
    /// Also write JSON here
    #[arg(long, value_name = "FILE.json")]
    pub json: Option<PathBuf>,
}

/// `profile`
#[derive(Debug, Args)]
pub struct Profile {
    /// Manifest of the network
    #[arg(long)]
    pub model: PathBuf,
    /// The table; a broken-off run goes on from what it holds
    #[arg(long, value_name = "FILE.toml")]
    pub out: PathBuf,
    /// Thread counts
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: Vec<u8>,
    /// Images of a frame; `auto` as of a run
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = batch)]
    pub batches: Vec<Batch>,
    /// Measure although others are at work
    #[arg(long)]
    pub noisy: bool,
    /// The OPP that was set: how `tandem profile` labels the rows
    #[arg(long, value_name = "DOMAIN=FREQ", value_parser = opp)]
    pub at: Option<At>,
    /// Load, then wait for the end of standard input: the OPP is set meanwhile
    #[arg(long)]
    pub wait: bool,
}

/// `export`
#[derive(Debug, Args)]
pub struct Export {
    /// Manifest of the network
    #[arg(long)]
    pub model: PathBuf,
    /// Which sub-network
    #[arg(long)]
    pub subnet: String,
    /// Where to
    #[arg(long, value_name = "FILE.onnx")]
    pub out: PathBuf,
}

/// Images of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    /// As this machine is fast.
    Auto,
    /// So many.
    Images(usize),
}

fn batch(text: &str) -> Result<Batch, String> {
    match text.parse() {
        _ if text == "auto" => Ok(Batch::Auto),
        Ok(k) if (1..=100_000).contains(&k) => Ok(Batch::Images(k)),
        _ => Err("`auto`, or 1 to 100000 images".into()),
    }
}

fn opp(text: &str) -> Result<At, String> {
    let at = text.rsplit_once('=').and_then(|(domain, freq)| Some((domain.to_owned(), freq.parse().ok()?)));
    match at {
        Some((domain, freq)) if !domain.is_empty() && freq > 0 => Ok(At { domain, freq }),
        _ => Err("a domain's name and a frequency above 0, as in cpu=1200000".into()),
    }
}

fn above_zero(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(x) if x > 0.0 && x <= 1e9 => Ok(x),
        _ => Err("a number above 0 and at most 1e9".into()),
    }
}

/// Far more than can be run, and few enough to be counted while they arrive.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(x) if x > 0.0 && x <= 1e5 => Ok(x),
        _ => Err("a number above 0 and at most 1e5".into()),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(x) if (0.0..=100.0).contains(&x) => Ok(x),
        _ => Err("0 to 100".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn refused(args: &str) -> String {
        Cli::try_parse_from(args.split(' ')).unwrap_err().to_string()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn running_needs_a_model_and_images_or_a_socket_to_serve() {
        assert!(refused("dnn-runner --dataset d").contains("--model"));
        assert!(refused("dnn-runner --model m").contains("--dataset"));
        assert!(Cli::try_parse_from("dnn-runner --model m --serve s".split(' ')).is_ok());
        assert!(Cli::try_parse_from("dnn-runner --model m --folder f".split(' ')).is_ok());
        assert!(refused("dnn-runner --model m --folder f --dataset d").contains("cannot be used with"));
        assert!(Cli::try_parse_from("dnn-runner bench --model m".split(' ')).is_ok());
    }

    #[test]
    fn values_out_of_range_are_refused_with_the_rule() {
        let with = |extra: &str| refused(&format!("dnn-runner --model m --dataset d {extra}"));
        assert!(with("--rate 0").contains("above 0"));
        assert!(with("--rate nan").contains("above 0"));
        assert!(with("--rate inf").contains("at most 1e5"));
        assert!(with("--batch 0").contains("1 to 100000"));
        assert!(with("--top1-floor 101").contains("0 to 100"));
        assert!(with("--queue 0").contains("1..=4096"));
        assert!(with("--threads 65").contains("1..=64"));
    }
}
