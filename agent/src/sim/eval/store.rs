//! What is done, one JSON line each (`runs.jsonl`, `bounds.jsonl`): what a restart need not do again.
//!
//! A run's key is a digest of all that it depends on: the board's model, the scenario, the policy (a component's
//! bytes, not its name), the tick and the seed. The first line names the program: another build's runs are dropped.

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
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
struct Head {
    program: Key,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<T> {
    key: Key,
    run: T,
}

/// See the module's text.
#[derive(Debug)]
pub struct Store<T> {
    path: PathBuf,
    file: File,
    done: HashMap<Key, T>,
    /// What was left out of the file, and why.
    pub notes: Vec<String>,
}

impl<T: Serialize + DeserializeOwned> Store<T> {
    /// Opens a file of a folder, or begins it. A last line that was cut short is dropped, and done again.
    ///
    /// # Errors
    /// The file cannot be had, another `tandem eval` writes it, or a line but the last is none of ours.
    pub fn open(dir: &Path, name: &str, program: &Key) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let path = dir.join(name);
        let name = path.display().to_string();
        let file = File::options().read(true).append(true).create(true).open(&path).context(name.clone())?;
        file.try_lock().with_context(|| format!("{name}: another `tandem eval` writes there"))?;
        let mut store = Self { path, file, done: HashMap::new(), notes: vec![] };
        store.read(program).with_context(|| name)?;
        Ok(store)
    }

    fn read(&mut self, program: &Key) -> anyhow::Result<()> {
        let mut text = Vec::new();
        self.file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let name = self.path.display();
        if whole < text.len() {
            self.file.set_len(whole as u64)?;
            self.notes.push(format!("{name}: its last line was cut short and is left out"));
        }
        let mut lines = text[..whole].split(|b| *b == b'\n').enumerate().filter(|(_, l)| !l.is_empty());
        let none = "not a line of ours; delete it to have it done again";
        if let Some((i, line)) = lines.next() {
            let head: Head =
                serde_json::from_slice(line).with_context(|| format!("line {}: {none}", i + 1))?;
            if head.program == *program {
                for (i, line) in lines {
                    let line: Line<T> =
                        serde_json::from_slice(line).with_context(|| format!("line {}: {none}", i + 1))?;
                    self.done.insert(line.key, line.run);
                }
                return Ok(());
            }
            self.notes.push(format!("{name}: is of another build of this program and begun anew"));
            self.file.set_len(0)?;
        }
        self.line(&Head { program: program.clone() })
    }

    /// What it has.
    pub fn get(&self, key: &Key) -> Option<&T> {
        self.done.get(key)
    }

    /// Keeps one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&mut self, key: Key, run: T) -> anyhow::Result<()> {
        let line = Line { key, run };
        self.line(&line)?;
        self.done.insert(line.key, line.run);
        Ok(())
    }

    /// One write a line, so that only the last can be cut short.
    fn line(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).with_context(|| self.path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        Key::of(&[&[n]])
    }

    fn open(dir: &Path, program: u8) -> anyhow::Result<Store<u64>> {
        Store::open(dir, "runs.jsonl", &key(program))
    }

    #[test]
    fn a_line_cut_short_is_done_again_and_a_bad_one_is_refused_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("runs.jsonl");
        let mut store = open(dir.path(), 9).unwrap();
        for n in 0..3 {
            store.put(key(n), n.into()).unwrap();
        }
        let other = open(dir.path(), 9).unwrap_err();
        assert!(format!("{other:#}").contains("another `tandem eval` writes there"), "{other:#}");
        drop(store);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, &text[..text.len() - 3]).unwrap();
        let mut store = open(dir.path(), 9).unwrap();
        assert!(store.notes[0].ends_with("its last line was cut short and is left out"), "{:?}", store.notes);
        assert_eq!((store.get(&key(1)), store.get(&key(2))), (Some(&1), None));
        store.put(key(2), 2).unwrap();
        drop(store);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);

        std::fs::write(&file, text.replacen("\"run\":1", "\"run\":x", 1)).unwrap();
        let bad = format!("{:#}", open(dir.path(), 9).unwrap_err());
        assert!(bad.contains("runs.jsonl: line 3: not a line of ours"), "{bad}");
        assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 4, "nothing is deleted unasked");
    }

    #[test]
    fn runs_of_another_build_are_dropped_with_a_word() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), 1).unwrap().put(key(5), 5).unwrap();
        let same = open(dir.path(), 1).unwrap();
        assert_eq!((same.get(&key(5)), same.notes.len()), (Some(&5), 0));
        drop(same);
        let other = open(dir.path(), 2).unwrap();
        assert_eq!(other.get(&key(5)), None);
        assert!(other.notes[0].contains("another build"), "{:?}", other.notes);
    }

    #[test]
    fn where_a_part_ends_matters() {
        assert_ne!(Key::of(&[b"ab", b"c"]), Key::of(&[b"a", b"bc"]));
        assert_eq!(Key::of(&[b"ab"]).bytes().len(), 32);
    }
}
