//! The right to change this machine: a lock that one agent holds, and the saved settings on disk.
//!
//! [`Claim::save`] returns when the steps back are on disk; only then may the machine be touched.

use super::ActuateError;
use super::attr::{read_value, write_error};
use super::saved::{Entry, RestoreError, Saved, Step, restore_entry};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const LOCK: &str = "agent.lock";
const STATE: &str = "saved.json";

/// Why the machine may not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another agent is at work.
    #[error("{path}: held by the agent with pid {pid}; one agent per machine")]
    Held {
        /// The lock file.
        path: String,
        /// Who, as the file says.
        pid: String,
    },
    /// A file of ours.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// The saved settings cannot be read.
    #[error(
        "{path}: saved settings that cannot be read ({reason}); put them back by hand, then remove the file"
    )]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// What a killed agent left could not all be put back.
    #[error("{path}: not all could be put back; mend it or remove the file:\n{errors}")]
    NotRestored {
        /// The file.
        path: String,
        /// One a line.
        errors: String,
    },
}

fn io_error(path: &Path, error: io::Error) -> ClaimError {
    ClaimError::Io { path: path.display().to_string(), error }
}

/// The lock and the saved settings.
#[derive(Debug)]
pub struct Claim {
    root: PathBuf,
    state: PathBuf,
    saved: Saved,
    _lock: Flock<File>,
}

impl Claim {
    /// Takes the lock in `run_dir` and puts back what a killed agent left; says how many entries that
    /// were. `root` is `/`, or a fake tree in tests.
    pub fn take(root: &Path, run_dir: &Path) -> Result<(Self, usize), ClaimError> {
        std::fs::create_dir_all(run_dir).map_err(|e| io_error(run_dir, e))?;
        let lock = lock(&run_dir.join(LOCK))?;
        let state = run_dir.join(STATE);
        let left = restore_state(root, &state)?;
        let saved = Saved { boot_id: boot_id(root), entries: vec![] };
        Ok((Self { root: root.into(), state, saved, _lock: lock }, left))
    }

    /// Where the machine's files are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file that a panic hook hands to [`restore_state`].
    pub fn state_file(&self) -> &Path {
        &self.state
    }

    /// Adds the steps back for `key` and returns when they are on disk. A key is saved once: what it
    /// held first is what counts.
    pub fn save(&mut self, key: &str, steps: Vec<Step>) -> Result<(), ActuateError> {
        if self.saved.entries.iter().any(|e| e.key == key) {
            return Ok(());
        }
        self.saved.entries.push(Entry { key: key.into(), steps });
        let done = store(&self.state, &self.saved);
        if done.is_err() {
            self.saved.entries.pop();
        }
        done.map_err(|e| write_error(&self.state.display().to_string(), key, e))
    }

    /// Puts one entry back and forgets it. One that fails is kept for the end.
    pub fn release(&mut self, key: &str) -> Vec<RestoreError> {
        let Some(at) = self.saved.entries.iter().position(|e| e.key == key) else { return vec![] };
        let mut errors = restore_entry(&self.saved.entries[at], &self.root);
        if errors.is_empty() {
            self.saved.entries.remove(at);
            if let Err(e) = store(&self.state, &self.saved) {
                errors.push(RestoreError { key: key.into(), what: format!("{}: {e}", self.state.display()) });
            }
        }
        errors
    }

    /// The same of all entries whose keys begin so.
    pub fn release_under(&mut self, prefix: &str) -> Vec<RestoreError> {
        let keys = self.saved.entries.iter().map(|e| e.key.clone()).filter(|k| k.starts_with(prefix));
        let keys: Vec<String> = keys.collect();
        keys.iter().flat_map(|key| self.release(key)).collect()
    }

    /// Puts everything back. Idempotent; what failed is kept on disk for another try.
    pub fn restore(&mut self) -> Vec<RestoreError> {
        put_back(&mut self.saved, &self.root, &self.state)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        for e in self.restore() {
            tracing::warn!("{e}");
        }
    }
}

/// Puts back what the state file holds and returns how many entries: for the panic hook and
/// `tandem restore`. The caller holds the lock or is the process that does.
pub fn restore_state(root: &Path, state: &Path) -> Result<usize, ClaimError> {
    let path = || state.display().to_string();
    let text = match std::fs::read(state) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(io_error(state, e)),
    };
    let mut saved: Saved = serde_json::from_slice(&text)
        .map_err(|e| ClaimError::Unreadable { path: path(), reason: e.to_string() })?;
    if saved.boot_id != boot_id(root) {
        // Settings do not survive a boot: there is nothing to put back.
        std::fs::remove_file(state).map_err(|e| io_error(state, e))?;
        return Ok(0);
    }
    let count = saved.entries.len();
    let errors = put_back(&mut saved, root, state);
    if errors.is_empty() {
        return Ok(count);
    }
    let errors = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    Err(ClaimError::NotRestored { path: path(), errors })
}

/// Takes the lock and puts back what a killed agent left: `tandem restore`.
pub fn restore_after_kill(root: &Path, run_dir: &Path) -> Result<usize, ClaimError> {
    if !run_dir.exists() {
        return Ok(0);
    }
    let _lock = lock(&run_dir.join(LOCK))?;
    restore_state(root, &run_dir.join(STATE))
}

fn put_back(saved: &mut Saved, root: &Path, state: &Path) -> Vec<RestoreError> {
    let mut errors = vec![];
    let mut kept = vec![];
    while let Some(entry) = saved.entries.pop() {
        let failed = restore_entry(&entry, root);
        if !failed.is_empty() {
            kept.push(entry);
        }
        errors.extend(failed);
    }
    kept.reverse();
    saved.entries = kept;
    let done = if saved.entries.is_empty() {
        match std::fs::remove_file(state) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    } else {
        store(state, saved)
    };
    if let Err(e) = done {
        errors.push(RestoreError { key: "state file".into(), what: format!("{}: {e}", state.display()) });
    }
    errors
}

/// Whole or not at all, and on disk when it returns.
fn store(state: &Path, saved: &Saved) -> io::Result<()> {
    let new = state.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec_pretty(saved)?)?;
    file.sync_all()?;
    std::fs::rename(&new, state)?;
    match state.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

fn boot_id(root: &Path) -> String {
    read_value(root, "/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// The whole machine's lock, whatever the run directory: two agents would fight over the same clocks. Held
/// until it is dropped.
#[derive(Debug)]
pub struct MachineLock {
    _lock: Flock<File>,
}

impl MachineLock {
    /// Takes it, or says who has it.
    pub fn take(path: &Path) -> Result<Self, ClaimError> {
        Ok(Self { _lock: lock(path)? })
    }
}

fn lock(path: &Path) -> Result<Flock<File>, ClaimError> {
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(path);
    let file = open.map_err(|e| io_error(path, e))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut held) => {
            held.set_len(0)
                .and_then(|()| held.write_all(format!("{}\n", std::process::id()).as_bytes()))
                .map_err(|e| io_error(path, e))?;
            Ok(held)
        }
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            let pid = std::fs::read_to_string(path).unwrap_or_default();
            let pid = if pid.trim().is_empty() { "not told".into() } else { pid.trim().to_owned() };
            Err(ClaimError::Held { path: path.display().to_string(), pid })
        }
        Err((_, e)) => Err(io_error(path, e.into())),
    }
}
