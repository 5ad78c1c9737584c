//! Runs that are done, one JSON line each (`runs.jsonl`): what a restart need not run again.
//!
//! A run's key is a digest of all that it depends on: the program, the board's model, the scenario, the policy
//! (a component's bytes, not its name), the tick and the seed.

use super::figures::Figures;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// A digest, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

impl Key {
    /// Of parts; where one ends matters.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        // 128 bits: no two of a billion runs meet.
        let digest = hash.finalize();
        Self(digest.iter().take(16).map(|b| format!("{b:02x}")).collect())
    }

    /// For a further digest.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: Key,
    run: Figures,
}

/// See the module's text.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    file: File,
    done: HashMap<Key, Figures>,
}

impl Store {
    /// Opens `DIR/runs.jsonl`, or begins it. A last line that was cut short is dropped, and its run is run again.
    ///
    /// # Errors
    /// The file cannot be had, another `tandem eval` writes it, or a line but the last is none of ours.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let path = dir.join("runs.jsonl");
        let name = path.display().to_string();
        let mut file = File::options().read(true).append(true).create(true).open(&path).context(name.clone())?;
        file.try_lock().with_context(|| format!("{name}: another `tandem eval` writes there"))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).context(name.clone())?;
        let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        if whole < text.len() {
            file.set_len(whole as u64).context(name.clone())?;
            file.seek(std::io::SeekFrom::End(0)).context(name.clone())?;
        }
        let mut done = HashMap::new();
        for (i, line) in text[..whole].split(|b| *b == b'\n').enumerate().filter(|(_, l)| !l.is_empty()) {
            let line: Line = serde_json::from_slice(line)
                .with_context(|| format!("{name}:{}: not a run; delete the line to run it again", i + 1))?;
            done.insert(line.key, line.run);
        }
        Ok(Self { path, file, done })
    }

    /// Its runs.
    pub fn get(&self, key: &Key) -> Option<&Figures> {
        self.done.get(key)
    }

    /// Keeps one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&mut self, key: Key, run: Figures) -> anyhow::Result<()> {
        let line = Line { key, run };
        let mut text = serde_json::to_string(&line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).with_context(|| self.path.display().to_string())?;
        self.done.insert(line.key, line.run);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::Kind;
    use super::*;

    fn run(moves: u64) -> Figures {
        Figures {
            kind: Kind::Modelled,
            ms: 1,
            domains_uj: vec![],
            with_board_uj: 0,
            apps: vec![],
            co_khz: None,
            moves,
        }
    }

    fn key(n: u8) -> Key {
        Key::of(&[&[n]])
    }

    #[test]
    fn a_line_cut_short_is_run_again_and_a_bad_one_is_refused_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("runs.jsonl");
        let mut store = Store::open(dir.path()).unwrap();
        for n in 0..3 {
            store.put(key(n), run(n.into())).unwrap();
        }
        let other = Store::open(dir.path()).unwrap_err();
        assert!(format!("{other:#}").contains("another `tandem eval` writes there"), "{other:#}");
        drop(store);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, &text[..text.len() - 9]).unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        assert_eq!((store.get(&key(1)), store.get(&key(2))), (Some(&run(1)), None));
        store.put(key(2), run(2)).unwrap();
        drop(store);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);

        std::fs::write(&file, text.replacen("\"ms\":1", "\"ms\":x", 1)).unwrap();
        let bad = format!("{:#}", Store::open(dir.path()).unwrap_err());
        assert!(bad.contains("runs.jsonl:1: not a run"), "{bad}");
    }

    #[test]
    fn where_a_part_ends_matters() {
        assert_ne!(Key::of(&[b"ab", b"c"]), Key::of(&[b"a", b"bc"]));
        assert_eq!(Key::of(&[b"ab"]).bytes().len(), 32);
    }
}
