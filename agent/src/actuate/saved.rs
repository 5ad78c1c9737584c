//! What must be put back, as a list of plain steps that any process can carry out.
//!
//! The list is on disk before the machine is touched ([`super::claim`]). The same [`restore`] serves the
//! normal end, a signal, a panic, `tandem restore` and the next start after a SIGKILL. It tries all and
//! doing it twice does no harm.

use super::attr::{below, read_value, write_value};
use super::cooling;
use super::process;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::time::Duration;

/// A limit written to cpufreq takes force in a work item (`handle_update`, drivers/cpufreq/cpufreq.c):
/// what is read back is given this long.
const SETTLE: Duration = Duration::from_millis(5);
const SETTLE_TRIES: u32 = 20;

/// One value of one kernel file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// As the machine names it.
    pub path: String,
    /// What it held.
    pub value: String,
}

/// One step back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Step {
    /// Write these. One the kernel refuses, or does not keep, is tried again after the others as long as
    /// that helps: `up_threshold` must stay above `down_threshold`, max above min, whatever they are now.
    Write {
        /// The values.
        settings: Vec<Setting>,
    },
    /// Move all threads of a process back to a cgroup.
    Move {
        /// The process.
        tgid: i32,
        /// Its start time (`/proc/PID/stat`, field 22): a number used again is another process.
        started: u64,
        /// The cgroup's folder.
        to: String,
    },
    /// Give a process's threads their CPUs back.
    Affinity {
        /// The process; a thread not listed gets its first thread's CPUs.
        tgid: i32,
        /// As in `Move`.
        started: u64,
        /// Thread and CPUs.
        threads: Vec<(i32, Vec<u32>)>,
    },
    /// Remove a cgroup we made; what is still in it moves to its parent.
    RemoveCgroup {
        /// Its folder.
        dir: String,
    },
    /// Switch a controller off again for a cgroup's children; one that is in use meanwhile stays.
    DisableController {
        /// The `cgroup.subtree_control`.
        file: String,
        /// Without sign.
        controller: String,
    },
}

/// The steps of one owner; carried out in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `cpufreq/policy0`, `app/3`, ...
    pub key: String,
    /// In order.
    pub steps: Vec<Step>,
}

/// All there is to put back; the newest entry first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The boot it belongs to: after another boot there is nothing to put back.
    pub boot_id: String,
    /// Oldest first.
    pub entries: Vec<Entry>,
}

/// One thing that could not be put back.
#[derive(Debug, thiserror::Error)]
#[error("restore {key}: {what}")]
pub struct RestoreError {
    /// Whose.
    pub key: String,
    /// File, value and the kernel's answer.
    pub what: String,
}

/// Puts everything back, newest entry first; tries all and returns what failed.
pub fn restore(saved: &Saved, root: &Path) -> Vec<RestoreError> {
    saved.entries.iter().rev().flat_map(|e| restore_entry(e, root)).collect()
}

/// Puts one entry back.
pub fn restore_entry(entry: &Entry, root: &Path) -> Vec<RestoreError> {
    let failed = entry.steps.iter().flat_map(|s| carry_out(s, root));
    failed.map(|what| RestoreError { key: entry.key.clone(), what }).collect()
}

fn carry_out(step: &Step, root: &Path) -> Vec<String> {
    match step {
        Step::Write { settings } => write_all(settings, root),
        Step::Move { tgid, started, to } => {
            if process::start_time(root, *tgid) != Some(*started) {
                return vec![]; // it ended: nothing to move
            }
            match write_value(root, &format!("{to}/cgroup.procs"), &tgid.to_string()) {
                Err(e) if process::start_time(root, *tgid) == Some(*started) => vec![e.to_string()],
                _ => vec![],
            }
        }
        Step::Affinity { tgid, started, threads } => {
            if process::start_time(root, *tgid) != Some(*started) {
                return vec![];
            }
            process::set_affinities(root, *tgid, threads)
        }
        Step::RemoveCgroup { dir } => remove_cgroup(dir, root),
        Step::DisableController { file, controller } => {
            match write_value(root, file, &format!("-{controller}")) {
                Err(super::ActuateError::Io { error, .. }) if is_busy(&error) => vec![],
                Err(e) => vec![e.to_string()],
                Ok(()) => vec![],
            }
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ResourceBusy
}

fn write_all(settings: &[Setting], root: &Path) -> Vec<String> {
    let mut left: Vec<&Setting> = settings.iter().collect();
    loop {
        let before = left.len();
        let mut errors = vec![];
        left.retain(|s| match put(s, root) {
            Ok(()) => false,
            Err(e) => {
                errors.push(e);
                true
            }
        });
        if left.is_empty() || left.len() == before {
            return errors;
        }
    }
}

fn put(setting: &Setting, root: &Path) -> Result<(), String> {
    let Setting { path, value } = setting;
    write_value(root, path, value).map_err(|e| e.to_string())?;
    let is_clock = path.ends_with("_freq") || path.ends_with("scaling_setspeed");
    let mut read = read_value(root, path).map_err(|e| e.to_string())?;
    for _ in 0..SETTLE_TRIES {
        if read == *value {
            return Ok(());
        }
        if !is_clock {
            break;
        }
        if let (Ok(read), Ok(wanted)) = (read.parse::<u64>(), value.parse::<u64>()) {
            // The kernel keeps devfreq limits in kHz, and shows a limit as the cooling device leaves it:
            // what was written is kept and comes back when the machine is cool.
            let devfreq_rounding = path.contains("/devfreq/") && read.abs_diff(wanted) < 1000;
            if devfreq_rounding || (read < wanted && cooling::any_active(root)) {
                return Ok(());
            }
        }
        std::thread::sleep(SETTLE);
        read = read_value(root, path).map_err(|e| e.to_string())?;
    }
    Err(format!("{path}: wrote {value:?}, read back {read:?}"))
}

fn remove_cgroup(dir: &str, root: &Path) -> Vec<String> {
    let mut errors = vec![];
    if let Ok(inside) = read_value(root, &format!("{dir}/cgroup.procs"))
        && let Some((parent, _)) = dir.rsplit_once('/')
    {
        for pid in inside.lines() {
            // Gone meanwhile is as good as moved; anything else shows at rmdir.
            drop(write_value(root, &format!("{parent}/cgroup.procs"), pid));
        }
    }
    match remove_group_dir(&below(root, dir)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => errors.push(format!("{dir}: remove cgroup: {e}")),
        _ => {}
    }
    errors
}

/// A cgroup goes by `rmdir` although it shows files; those of a test's fake tree must go first.
fn remove_group_dir(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir(dir) {
        #[cfg(test)]
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty && !dir.starts_with("/sys") => {
            std::fs::remove_dir_all(dir)
        }
        other => other,
    }
}
