//! The networks of `dnn-runner/models`, and each as a family of ONNX files, as a user would bring one.

use crate::{program, repository};
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use toml::{Table, Value};

/// A network that can run here.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its manifest.
    pub path: PathBuf,
    /// Its name there.
    pub name: String,
    /// Its sub-networks by rising cost.
    pub subnets: Vec<String>,
    /// Rows, columns and channels of its images.
    pub size: (usize, usize, usize),
    /// Whether Fashion-MNIST's are its images.
    pub dataset: bool,
}

/// Every manifest there; one whose weights are to be fetched first prints the line that CI counts.
///
/// # Errors
/// One cannot be read.
pub fn manifests() -> anyhow::Result<Vec<Network>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(repository().join("dnn-runner/models"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let (manifest, _) = dnn_runner::manifest::Manifest::read(&path)?;
        if manifest.weights.file.as_ref().is_some_and(|f| !path.with_file_name(f).exists()) {
            println!("skipped: needs `make models`: the weights of {}", path.display());
            continue;
        }
        let i = &manifest.input;
        let size = (i.height, i.width, i.channels);
        all.push(Network {
            name: manifest.name,
            subnets: manifest.subnets.into_iter().map(|s| s.name).collect(),
            size,
            dataset: size == (28, 28, 1),
            path,
        });
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

/// A folder that a runner may read after it has given up root.
///
/// # Errors
/// It cannot be made.
pub fn open_dir() -> anyhow::Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(dir)
}

/// Writes these sub-networks of `manifest` into `folder` as ONNX files with a manifest of their own, by the
/// same programs that a user has.
///
/// # Errors
/// A program fails.
pub fn export(manifest: &Path, subnets: &[&str], folder: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let ours: Table = toml::from_str(&std::fs::read_to_string(manifest)?)?;
    let kept = ["paper", "provenance", "classes", "top1-source", "input", "failsafe"];
    let mut table: Table = ours
        .iter()
        .filter(|(k, _)| kept.contains(&k.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let name = ours["name"].as_str().context("a name")?;
    table.insert("name".into(), format!("{name}-onnx").into());
    table.insert("family".into(), "onnx".into());
    let mut entries = Vec::new();
    for (i, subnet) in subnets.iter().enumerate() {
        let file = format!("{i}.onnx");
        let done = Command::new(program("dnn-runner"))
            .args(["export", "--subnet", subnet, "--model"])
            .arg(manifest)
            .arg("--out")
            .arg(folder.join(&file))
            .status()?;
        anyhow::ensure!(done.success(), "dnn-runner export --subnet {subnet} ended with {done}");
        let sum = Command::new("sha256sum").arg(folder.join(&file)).output()?;
        let sum = String::from_utf8(sum.stdout)?;
        let entry = |e: &&Value| e.get("name").and_then(Value::as_str) == Some(subnet);
        let list = ours["subnets"].as_array().context("subnets")?;
        let old = list.iter().find(entry).with_context(|| format!("no sub-network {subnet}"))?;
        let mut new: Table = ["name", "top1", "macs", "params"]
            .iter()
            .filter_map(|k| Some(((*k).to_owned(), old.get(k)?.clone())))
            .collect();
        new.insert("file".into(), file.into());
        new.insert("sha256".into(), sum.split(' ').next().unwrap_or_default().into());
        entries.push(Value::Table(new));
    }
    table.insert("subnets".into(), entries.into());
    let path = folder.join(format!("{name}-onnx.toml"));
    std::fs::write(&path, toml::to_string(&table)?)?;
    Ok(path)
}
