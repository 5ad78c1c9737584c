//! Slow sensors on a thread of their own: each [`Gauge`] is read once a period and published in two
//! atomic words, so the tick neither waits nor makes a syscall.

use crate::units::Nanos;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Something that can be read now and then. `None`: no value at present.
pub(super) trait Gauge: Send {
    fn read(&mut self, now: Nanos) -> Option<i64>;
}

/// A file that is read again from its start each time: sysfs and procfs make it anew.
#[derive(Debug)]
pub(super) struct Reread(File);

impl Reread {
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        File::open(path).map(Self)
    }

    /// Passes the text (at most 4 KiB of it) to `parse`.
    pub(super) fn parse<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let mut text = [0; 4096];
        let n = self.0.read_at(&mut text, 0).ok()?;
        parse(std::str::from_utf8(text.get(..n)?).ok()?.trim())
    }

    /// A file that holds one number.
    pub(super) fn number(&self) -> Option<i64> {
        self.parse(|t| t.parse().ok())
    }
}

/// One number by a rule of its own.
pub(super) struct FileGauge {
    pub file: Reread,
    pub parse: fn(&str) -> Option<i64>,
}

impl Gauge for FileGauge {
    fn read(&mut self, _: Nanos) -> Option<i64> {
        self.file.parse(self.parse)
    }
}

/// A gauge for the one number in the file at `path`; `None` if it cannot be opened.
pub(super) fn number_gauge(path: &Path) -> Option<Box<dyn Gauge>> {
    Some(Box::new(FileGauge { file: Reread::open(path).ok()?, parse: |t| t.parse().ok() }))
}

/// A published reading. `at` = 0: absent. The value is stored before the time, so whoever sees a time
/// sees its value or a newer one.
#[derive(Debug, Default)]
struct Cell {
    value: AtomicI64,
    at: AtomicU64,
}

/// The thread and what it publishes.
#[derive(Debug)]
pub(super) struct Slow {
    cells: Arc<[Cell]>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Slow {
    /// Reads every gauge once, then starts the thread.
    pub(super) fn start(mut gauges: Vec<Box<dyn Gauge>>, period: Duration) -> std::io::Result<Self> {
        let cells: Arc<[Cell]> = gauges.iter().map(|_| Cell::default()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        publish(&mut gauges, &cells);
        let thread = if gauges.is_empty() {
            None
        } else {
            let (cells, stop) = (Arc::clone(&cells), Arc::clone(&stop));
            let body = move || {
                while !stop.load(Ordering::Acquire) {
                    std::thread::park_timeout(period);
                    publish(&mut gauges, &cells);
                }
            };
            Some(std::thread::Builder::new().name("slow-sensors".to_owned()).spawn(body)?)
        };
        Ok(Self { cells, stop, thread })
    }

    /// No gauges.
    pub(super) fn none() -> Self {
        Self { cells: Arc::new([]), stop: Arc::new(AtomicBool::new(true)), thread: None }
    }

    /// The newest value of gauge `i`, and when it was read.
    pub(super) fn read(&self, i: usize) -> Option<(i64, Nanos)> {
        let cell = self.cells.get(i)?;
        let at = cell.at.load(Ordering::Acquire);
        (at != 0).then(|| (cell.value.load(Ordering::Relaxed), Nanos(at)))
    }
}

fn publish(gauges: &mut [Box<dyn Gauge>], cells: &[Cell]) {
    for (gauge, cell) in gauges.iter_mut().zip(cells) {
        let now = super::now();
        match gauge.read(now) {
            Some(value) => {
                cell.value.store(value, Ordering::Relaxed);
                cell.at.store(now.0.max(1), Ordering::Release);
            }
            None => cell.at.store(0, Ordering::Release),
        }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_published_follows_its_file_and_goes_absent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("temp");
        std::fs::write(&path, "41000\n").unwrap();
        let slow = Slow::start(vec![number_gauge(&path).unwrap()], Duration::from_millis(2)).unwrap();
        assert_eq!(slow.read(0).unwrap().0, 41_000);
        assert_eq!(slow.read(1), None);
        std::fs::write(&path, "-500\n").unwrap();
        wait_for(|| slow.read(0).is_some_and(|(v, _)| v == -500));
        std::fs::write(&path, "no number\n").unwrap();
        wait_for(|| slow.read(0).is_none());
    }

    fn wait_for(done: impl Fn() -> bool) {
        for _ in 0..5_000 {
            if done() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("the slow thread did not follow the file");
    }
}
