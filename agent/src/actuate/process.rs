//! What the actuators ask of a process: when it started, its threads, their CPUs.

use super::attr::below;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::path::Path;

/// Start time in clock ticks since boot; `None`: no such process.
pub fn start_time(root: &Path, tgid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(below(root, &format!("/proc/{tgid}/stat"))).ok()?;
    // The command (field 2) may hold spaces and parentheses; the last ')' ends it. Field 22 is the 20th after.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Its threads; empty if it ended.
pub fn threads(root: &Path, tgid: i32) -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir(below(root, &format!("/proc/{tgid}/task"))) else { return vec![] };
    tasks.filter_map(|t| t.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The CPUs each thread may use. A thread that ends meanwhile is left out.
pub fn affinities(root: &Path, tgid: i32) -> Vec<(i32, Vec<u32>)> {
    let of = |tid: i32| {
        let set = sched_getaffinity(Pid::from_raw(tid)).ok()?;
        let cpus = 0..u32::try_from(CpuSet::count()).ok()?;
        Some((tid, cpus.filter(|c| set.is_set(*c as usize).unwrap_or(false)).collect()))
    };
    threads(root, tgid).into_iter().filter_map(of).collect()
}

/// Sets every thread to `cpus`; returns what failed. A thread that ends meanwhile is no failure.
pub fn set_affinity(root: &Path, tgid: i32, cpus: &[u32]) -> Vec<String> {
    set_affinities(root, tgid, &[(tgid, cpus.to_vec())])
}

/// Gives the listed threads their CPUs, any other thread those of the first thread (its tid is `tgid`).
pub fn set_affinities(root: &Path, tgid: i32, saved: &[(i32, Vec<u32>)]) -> Vec<String> {
    let of = |tid: i32| saved.iter().find(|(t, _)| *t == tid).map(|(_, cpus)| cpus);
    let mut errors = vec![];
    for tid in threads(root, tgid) {
        let Some(cpus) = of(tid).or_else(|| of(tgid)) else { continue };
        let mut set = CpuSet::new();
        for cpu in cpus {
            if let Err(e) = set.set(*cpu as usize) {
                errors.push(format!(
                    "thread {tid}: CPU {cpu}: {e}; affinity knows CPUs below {}",
                    CpuSet::count()
                ));
            }
        }
        match sched_setaffinity(Pid::from_raw(tid), &set) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(e) => errors.push(format!("thread {tid}: set CPUs {cpus:?}: {e}")),
        }
    }
    errors
}
