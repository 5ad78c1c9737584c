//! The demo's profile: read if it is of this network and board, else made.

use super::Options;
use crate::profile::Profile;
use crate::run::find_board;
use anyhow::Context as _;
use std::path::{Path, PathBuf};

/// OPPs of a domain that are measured in the VM, where everything takes its time; the others are interpolated.
const OPPS_IN_VM: &str = "3";

/// The demo's network.
pub fn model(options: &Options) -> PathBuf {
    options.root.join("dnn-runner/models/mlcad-fmnist.toml")
}

/// The table's path, whole, and the images of its frames.
pub fn make(options: &Options, me: &Path, run_dir: &str) -> anyhow::Result<(PathBuf, u32)> {
    let path = options.out.join("profile.toml");
    if !fits(options, &path)? {
        let shown = path.display();
        println!("profile: measuring what each sub-network takes at each OPP, once; {shown}");
        if path.exists() {
            std::fs::remove_file(&path).with_context(|| shown.to_string())?;
        }
        let mut profile = std::process::Command::new(me);
        // The demo is for any machine: the table says how busy it was.
        profile.args(["profile", "--noisy", "--batches", &options.batch, "--board", &options.board]);
        profile.args(["--run-dir", run_dir]).arg("--model").arg(model(options)).arg("--out").arg(&path);
        if options.marks {
            profile.args(["--opps", OPPS_IN_VM]);
        }
        let done = profile.stdout(std::process::Stdio::null()).status().context("start the profile")?;
        anyhow::ensure!(done.success(), "tandem profile ended with {done}");
    }
    let profile = Profile::load(&path)?;
    let batch = profile.batch().with_context(|| format!("{}: no row with an OPP", path.display()))?;
    println!("profile: {}, frames of {batch} images", path.display());
    Ok((path.canonicalize()?, batch))
}

/// Whether the table is there and of these weights, these frames and this board.
fn fits(options: &Options, path: &Path) -> anyhow::Result<bool> {
    let Ok(profile) = Profile::load(path) else { return Ok(false) };
    let manifest = model(options);
    let text = std::fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
    let manifest: toml::Table = text.parse().with_context(|| manifest.display().to_string())?;
    let weights = manifest.get("weights").and_then(|w| w.get("sha256")).and_then(toml::Value::as_str);
    let batch = profile.batch().map(|b| b.to_string());
    let frames = options.batch == "auto" || batch == Some(options.batch.clone());
    Ok(weights == Some(profile.weights()) && frames && profile.check(&find_board(&options.board)?).is_ok())
}
