//! A fake machine in a temporary folder. Plain files: a governor's tunables do not vanish on a switch
//! here; that is tested in the VM.

use super::attr::below;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What a v1 `cpu` and `cpuset` group shows, and what a v2 group shows.
const V1_CPU: &[(&str, &str)] = &[
    ("cgroup.procs", ""),
    ("cpu.cfs_period_us", "100000"),
    ("cpu.cfs_quota_us", "-1"),
    ("cpu.shares", "1024"),
];
const V1_CPUSET: &[(&str, &str)] = &[("cgroup.procs", ""), ("cpuset.cpus", "0-3"), ("cpuset.mems", "0")];
const V2: &[(&str, &str)] = &[
    ("cgroup.procs", ""),
    ("cgroup.controllers", "cpuset cpu memory"),
    ("cgroup.subtree_control", ""),
    ("cpu.max", "max 100000"),
    ("cpu.weight", "100"),
    ("cpuset.cpus", ""),
];

pub(crate) struct FakeSysfs {
    dir: tempfile::TempDir,
}

impl FakeSysfs {
    pub fn new() -> Self {
        let fake = Self { dir: tempfile::tempdir().unwrap() };
        fake.file("/proc/self/mountinfo", "22 1 0:20 / /proc rw - proc proc rw");
        fake.file("/proc/sys/kernel/random/boot_id", "this-boot");
        fake.file("/sys/devices/system/cpu/online", "0-3");
        fake
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// A file and its folders.
    pub fn file(&self, path: &str, value: &str) -> &Self {
        let path = below(self.root(), path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{value}\n")).unwrap();
        self
    }

    /// As the kernel changes a value, for a reader in another thread: it sees the old or the new one. A
    /// reader that has the file open keeps the old one.
    pub fn swap(&self, path: &str, value: &str) {
        self.file(&format!("{path}.new"), value);
        fs::rename(below(self.root(), &format!("{path}.new")), below(self.root(), path)).unwrap();
    }

    /// First line of a file, trimmed, as the tick's reader sees it.
    pub fn read(&self, path: &str) -> String {
        let text = fs::read_to_string(below(self.root(), path)).unwrap();
        text.lines().next().unwrap_or_default().trim().to_owned()
    }

    pub fn policy(&self, n: u32, cpus: &str, freqs: &[u64], governor: &str, governors: &str) -> &Self {
        let (low, high) = (freqs.iter().min().unwrap().to_string(), freqs.iter().max().unwrap().to_string());
        // acpi-cpufreq lists them falling.
        let list = freqs.iter().rev().map(u64::to_string).collect::<Vec<_>>().join(" ");
        for (name, value) in [
            ("related_cpus", cpus),
            ("scaling_available_frequencies", &list),
            ("scaling_available_governors", governors),
            ("scaling_governor", governor),
            ("scaling_setspeed", if governor == "userspace" { &low } else { "<unsupported>" }),
            ("cpuinfo_min_freq", &low),
            ("cpuinfo_max_freq", &high),
            ("scaling_min_freq", &low),
            ("scaling_max_freq", &high),
            ("scaling_driver", "fake-cpufreq"),
            ("cpuinfo_transition_latency", "100000"),
        ] {
            self.file(&format!("/sys/devices/system/cpu/cpufreq/policy{n}/{name}"), value);
        }
        self
    }

    pub fn devfreq(&self, device: &str, freqs: &[u64], governor: &str, governors: &str) -> &Self {
        let list = freqs.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
        for (name, value) in [
            ("available_frequencies", &*list),
            ("available_governors", governors),
            ("governor", governor),
            ("min_freq", &freqs[0].to_string()),
            ("max_freq", &freqs[freqs.len() - 1].to_string()),
            ("target_freq", &freqs[0].to_string()),
            ("userspace/set_freq", "undefined"),
        ] {
            self.file(&format!("/sys/class/devfreq/{device}/{name}"), value);
        }
        self
    }

    pub fn cooling(&self, n: u32, kind: &str, state: u32) -> &Self {
        self.file(&format!("/sys/class/thermal/cooling_device{n}/type"), kind);
        self.file(&format!("/sys/class/thermal/cooling_device{n}/cur_state"), &state.to_string())
    }

    pub fn cgroup_v1(&self) -> &Self {
        self.file(
            "/proc/self/mountinfo",
            "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct\n\
             34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw",
        );
        self.file("/sys/fs/cgroup/unified/cgroup.controllers", "");
        self.group("/sys/fs/cgroup/cpu,cpuacct", V1_CPU).group("/sys/fs/cgroup/cpuset", V1_CPUSET)
    }

    pub fn cgroup_v2(&self) -> &Self {
        self.file("/proc/self/mountinfo", "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate");
        self.group("/sys/fs/cgroup", V2)
    }

    fn group(&self, dir: &str, files: &[(&str, &str)]) -> &Self {
        for (name, value) in files {
            self.file(&format!("{dir}/{name}"), value);
        }
        self
    }

    /// A process of one thread in the top groups.
    pub fn process(&self, pid: i32, started: u64) -> &Self {
        let stat = format!("{pid} (a (b) c) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 {started} 1 1");
        self.file(&format!("/proc/{pid}/stat"), &stat);
        self.file(&format!("/proc/{pid}/cgroup"), "6:cpuset:/\n5:cpu,cpuacct:/\n1:name=systemd:/x\n0::/");
        for dir in ["cpu,cpuacct", "cpuset", ""] {
            let procs = format!("/sys/fs/cgroup/{dir}/cgroup.procs");
            if below(self.root(), &procs).exists() {
                self.file(&procs, &pid.to_string());
            }
        }
        self
    }

    /// Every file below `/sys` with its value.
    pub fn all(&self) -> BTreeMap<String, String> {
        fn walk(dir: &Path, into: &mut BTreeMap<String, String>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    into.insert(path.display().to_string(), "folder".into());
                    walk(&path, into);
                } else {
                    into.insert(path.display().to_string(), fs::read_to_string(&path).unwrap().trim().into());
                }
            }
        }
        let mut all = BTreeMap::new();
        walk(&self.root().join("sys"), &mut all);
        all
    }
}

/// Fills a new group of a fake tree as the kernel fills a real one: with the files its parent shows, at
/// their defaults. A v1 cpuset begins empty.
pub(crate) fn fill_group(root: &Path, dir: &str) {
    if root == Path::new("/") {
        return;
    }
    let parent = below(root, dir.rsplit_once('/').unwrap().0);
    for (name, value) in V1_CPU.iter().chain(V1_CPUSET).chain(V2) {
        let file = below(root, &format!("{dir}/{name}"));
        if parent.join(name).exists() && !file.exists() {
            let empty = name.starts_with("cpuset.");
            fs::write(file, format!("{}\n", if empty { "" } else { value })).unwrap();
        }
    }
}
