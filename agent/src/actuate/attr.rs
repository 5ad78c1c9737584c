//! One file of the kernel's, kept open: written and read on the tick without an allocation.
//!
//! A value is written with its newline and read up to the first newline, so a plain file stands in for a
//! kernel file in tests: a shorter value does not leave the tail of a longer one behind.

use super::ActuateError;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// `path`, as the machine names it, below `root` (`/`, or a fake tree in tests).
pub fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Room for the value of any attribute we read on the tick.
pub type Buffer = [u8; 96];

/// An open attribute.
#[derive(Debug)]
pub struct Attr {
    file: File,
    path: String,
}

impl Attr {
    /// Opens for reading and writing.
    pub fn open(root: &Path, path: &str) -> Result<Self, ActuateError> {
        let file = OpenOptions::new().read(true).write(true).open(below(root, path));
        Ok(Self { file: file.map_err(|e| read_error(path, e))?, path: path.into() })
    }

    /// Opens for reading.
    pub fn open_read(root: &Path, path: &str) -> Result<Self, ActuateError> {
        let file = File::open(below(root, path)).map_err(|e| read_error(path, e))?;
        Ok(Self { file, path: path.into() })
    }

    /// As the machine names it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Writes `line`, which ends in a newline, in one call.
    pub fn write(&self, line: &str) -> Result<(), ActuateError> {
        debug_assert!(line.ends_with('\n'));
        match self.file.write_at(line.as_bytes(), 0) {
            Ok(n) if n == line.len() => Ok(()),
            Ok(_) => Err(write_error(&self.path, line, io::ErrorKind::WriteZero.into())),
            Err(e) => Err(write_error(&self.path, line, e)),
        }
    }

    /// The first line, trimmed; text that is no UTF-8 reads as "?".
    pub fn read<'b>(&self, buffer: &'b mut Buffer) -> Result<&'b str, ActuateError> {
        let n = self.file.read_at(buffer, 0).map_err(|e| read_error(&self.path, e))?;
        let line = buffer[..n].split(|b| *b == b'\n').next().unwrap_or_default();
        Ok(std::str::from_utf8(line).unwrap_or("?").trim())
    }

    /// The first line as a number; `Err` holds what was read instead.
    pub fn read_number(&self) -> Result<u64, ActuateError> {
        let mut buffer = [0; 96];
        let text = self.read(&mut buffer)?;
        text.parse().map_err(|_| ActuateError::NotReached {
            path: self.path.clone(),
            wrote: "a number".into(),
            read: text.into(),
        })
    }
}

/// The whole value of an attribute, trimmed.
pub fn read_value(root: &Path, path: &str) -> Result<String, ActuateError> {
    let bytes = std::fs::read(below(root, path)).map_err(|e| read_error(path, e))?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Writes a value once, by its path.
pub fn write_value(root: &Path, path: &str, value: &str) -> Result<(), ActuateError> {
    // Never creates: a missing attribute must be an error, not a new plain file.
    let put = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).truncate(true).open(below(root, path))?;
        io::Write::write_all(&mut file, format!("{value}\n").as_bytes())
    };
    put().map_err(|e| write_error(path, value, e))
}

pub(super) fn read_error(path: &str, error: io::Error) -> ActuateError {
    ActuateError::Io { path: path.into(), doing: "read", value: String::new(), error }
}

pub(super) fn write_error(path: &str, value: &str, error: io::Error) -> ActuateError {
    ActuateError::Io { path: path.into(), doing: "write", value: value.trim().into(), error }
}

/// The numbers of the kernel's list format, `0-3,8`.
pub fn cpu_list(text: &str) -> impl Iterator<Item = u32> {
    text.split(',').flat_map(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        match (from.trim().parse::<u32>(), to.trim().parse::<u32>()) {
            (Ok(from), Ok(to)) => from..to.saturating_add(1),
            _ => 0..0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lists_are_read() {
        assert_eq!(cpu_list("0-3,8").collect::<Vec<_>>(), [0, 1, 2, 3, 8]);
        assert_eq!(cpu_list("5").collect::<Vec<_>>(), [5]);
        assert_eq!(cpu_list("").count(), 0);
        assert_eq!(cpu_list("x-3").count(), 0);
    }
}
