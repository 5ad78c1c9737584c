//! The fallback without BPF: `/proc/stat`, `/proc/schedstat` where the kernel has it, and
//! `/proc/PID/task/*/schedstat` per application. Coarser (`/proc/stat` counts in hundredths of a second)
//! and with syscalls on the tick; what it cannot tell is absent.

use super::slow::Reread;
use super::{AppTotals, CpuTotals, Loss};
use crate::units::AppSlot;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// `USER_HZ` is 100 on every architecture we run on; it is ABI, not the kernel's HZ.
const TICK_NS: u64 = 10_000_000;

#[derive(Debug)]
struct App {
    tasks: PathBuf,
    /// Thread id -> run time and delay when last seen.
    threads: HashMap<u32, (u64, u64)>,
    run: u64,
    delay: u64,
}

/// The readers.
#[derive(Debug)]
pub(super) struct Proc {
    root: PathBuf,
    stat: Option<std::fs::File>,
    schedstat: Option<std::fs::File>,
    text: Vec<u8>,
    apps: Vec<Option<App>>,
}

impl Proc {
    pub(super) fn open(root: &Path, lost: &mut Vec<Loss>) -> Self {
        let mut file = |name: &str, what: &str| {
            let path = root.join(name);
            std::fs::File::open(&path)
                .map_err(|e| lost.push(Loss::new(what, format!("{}: {e}", path.display()))))
                .ok()
        };
        Self {
            stat: file("stat", "busy time per CPU"),
            schedstat: file("schedstat", "run-queue delay per CPU"),
            root: root.to_owned(),
            text: Vec::with_capacity(16 << 10),
            apps: (0..channel::MAX_RUNNERS).map(|_| None).collect(),
        }
    }

    /// Totals of the CPUs by number.
    pub(super) fn cpus(&mut self, out: &mut [CpuTotals]) {
        out.fill(CpuTotals::default());
        let lines = |file: &Option<std::fs::File>,
                     text: &mut Vec<u8>,
                     each: &mut dyn FnMut(usize, &[Option<u64>; 10])| {
            if let Some(whole) = file.as_ref().and_then(|f| read_whole(f, text)) {
                cpu_lines(whole, each);
            }
        };
        lines(&self.stat, &mut self.text, &mut |cpu, n| {
            // user nice system idle iowait irq softirq; guest time is within user and nice.
            let sum = |fields: &[usize]| {
                fields.iter().map(|&i| n[i]).sum::<Option<u64>>().map(|t| t.saturating_mul(TICK_NS))
            };
            if let Some(c) = out.get_mut(cpu) {
                c.busy = sum(&[0, 1, 2, 5, 6]);
                c.idle = sum(&[3, 4]);
            }
        });
        lines(&self.schedstat, &mut self.text, &mut |cpu, n| {
            // Documentation/scheduler/sched-stats.rst: the 8th field is the time tasks waited, ns.
            if let Some(c) = out.get_mut(cpu) {
                c.delay = n[7];
            }
        });
    }

    /// Starts counting the threads of `tgid` for `slot`.
    pub(super) fn add_app(&mut self, slot: AppSlot, tgid: u32) {
        let tasks = self.root.join(tgid.to_string()).join("task");
        let mut app = App { tasks, threads: HashMap::new(), run: 0, delay: 0 };
        app.read();
        // What its threads had run before is not ours.
        (app.run, app.delay) = (0, 0);
        if let Some(place) = self.apps.get_mut(usize::from(slot.0)) {
            *place = Some(app);
        }
    }

    pub(super) fn remove_app(&mut self, slot: AppSlot) {
        if let Some(place) = self.apps.get_mut(usize::from(slot.0)) {
            *place = None;
        }
    }

    /// One application's totals.
    pub(super) fn app(&mut self, slot: AppSlot) -> AppTotals {
        match self.apps.get_mut(usize::from(slot.0)) {
            Some(Some(app)) => app.read(),
            _ => AppTotals::default(),
        }
    }
}

impl App {
    /// Adds what each thread ran and waited since it was last seen; a thread that ended since then takes
    /// its last part with it. Absent: the process is gone, or its threads cannot be read.
    fn read(&mut self) -> AppTotals {
        let Ok(folder) = std::fs::read_dir(&self.tasks) else { return AppTotals::default() };
        let mut seen = HashMap::with_capacity(self.threads.len());
        for thread in folder.flatten() {
            let Some(tid) = thread.file_name().to_str().and_then(|t| t.parse::<u32>().ok()) else { continue };
            let Ok(file) = Reread::open(&thread.path().join("schedstat")) else { continue };
            let numbers = file.parse(|t| {
                let mut n = t.split_whitespace().map(|f| f.parse::<u64>().ok());
                Some((n.next()??, n.next()??))
            });
            let Some(now) = numbers else { continue };
            let before = self.threads.get(&tid).copied().unwrap_or((0, 0));
            self.run += now.0.saturating_sub(before.0);
            self.delay += now.1.saturating_sub(before.1);
            seen.insert(tid, now);
        }
        self.threads = seen;
        if self.threads.is_empty() {
            return AppTotals::default();
        }
        AppTotals { run: Some(self.run), delay: Some(self.delay) }
    }
}

fn read_whole<'t>(file: &std::fs::File, text: &'t mut Vec<u8>) -> Option<&'t str> {
    use std::io::{Read, Seek, SeekFrom};
    text.clear();
    let mut file = file;
    file.seek(SeekFrom::Start(0)).ok()?;
    file.read_to_end(text).ok()?;
    std::str::from_utf8(text).ok()
}

/// Calls `each` with the CPU number and the first ten fields of every `cpuN` line.
fn cpu_lines(text: &str, each: &mut dyn FnMut(usize, &[Option<u64>; 10])) {
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        let cpu = fields.next().and_then(|f| f.strip_prefix("cpu")).and_then(|n| n.parse().ok());
        let Some(cpu) = cpu else { continue };
        let mut numbers = [None; 10];
        for (number, field) in numbers.iter_mut().zip(fields) {
            *number = field.parse().ok();
        }
        each(cpu, &numbers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fake::Fake;

    #[test]
    fn cpus_and_applications_are_read_from_a_fake_proc() {
        let stat =
            "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 100 20 30 400 50 6 7 8 60 0\ncpu2 1 1 1 1 1 1 1 1 0 0\nintr 5\n";
        let fake = Fake::new()
            .file("stat", stat)
            .file("schedstat", "version 15\ntimestamp 1\ncpu0 0 0 0 0 0 0 700 123456 9\ndomain0 3 0\n")
            .file("42/task/42/schedstat", "1000 50 3\n")
            .file("42/task/43/schedstat", "2000 60 3\n");
        let mut lost = Vec::new();
        let mut proc = Proc::open(fake.root(), &mut lost);
        assert_eq!(lost, []);
        let mut cpus = [CpuTotals::default(); 3];
        proc.cpus(&mut cpus);
        assert_eq!(cpus[0].busy, Some((100 + 20 + 30 + 6 + 7) * TICK_NS));
        assert_eq!(
            (cpus[0].idle, cpus[0].delay, cpus[0].switches),
            (Some(450 * TICK_NS), Some(123_456), None)
        );
        assert_eq!((cpus[1], cpus[2].busy), (CpuTotals::default(), Some(5 * TICK_NS)));

        let slot = AppSlot(3);
        assert_eq!(proc.app(slot), AppTotals::default());
        proc.add_app(slot, 42);
        assert_eq!(proc.app(slot), AppTotals { run: Some(0), delay: Some(0) });
        // One thread runs on, one ends, one is new.
        fake.write("42/task/42/schedstat", "1300 55 4\n");
        std::fs::remove_dir_all(fake.root().join("42/task/43")).unwrap();
        fake.write("42/task/44/schedstat", "11 7 1\n");
        assert_eq!(proc.app(slot), AppTotals { run: Some(311), delay: Some(12) });
        std::fs::remove_dir_all(fake.root().join("42")).unwrap();
        assert_eq!(proc.app(slot), AppTotals::default());
    }
}
