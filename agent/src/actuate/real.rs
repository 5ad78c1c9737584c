//! Against a real kernel. Cgroups: any machine where we are root. Cpufreq: only where
//! `TANDEM_TEST_CPUFREQ=1` says that its clocks may be changed, as the VM's job does.

use super::attr::{read_value, write_value};
use super::cgroup::Own;
use super::claim::{Claim, restore_after_kill};
use super::cpu_bandwidth::CpuBandwidth;
use super::cpu_share::{CpuShare, join};
use super::cpufreq::Cpufreq;
use super::*;
use crate::policy::{AppChoice, Grant, Slo};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

const ROOT: &str = "/";
const CPUFREQ: &str = "/sys/devices/system/cpu/cpufreq";

fn read(path: &str) -> String {
    read_value(Path::new(ROOT), path).unwrap()
}

fn write(path: &str, value: &str) {
    write_value(Path::new(ROOT), path, value).unwrap();
}

/// Waits for what the kernel does in its own time.
fn eventually(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A busy loop, ended with the test.
struct Spinner(Child);

impl Spinner {
    fn start() -> Self {
        Self(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
    }
    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
    /// CPU time used, in ticks of 10 ms (`/proc/PID/stat`, fields 14 and 15; USER_HZ is 100).
    fn ticks(&self) -> u64 {
        let stat = read(&format!("/proc/{}/stat", self.pid()));
        let fields = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().skip(11).take(2);
        fields.map(|f| f.parse::<u64>().unwrap()).sum()
    }
    /// Its CPU time over the wall time, in percent of one CPU.
    fn use_over(&self, time: Duration) -> u64 {
        let (ticks, start) = (self.ticks(), Instant::now());
        std::thread::sleep(time);
        (self.ticks() - ticks) * 1000 / u64::try_from(start.elapsed().as_millis()).unwrap()
    }
    fn cgroups(&self) -> String {
        read(&format!("/proc/{}/cgroup", self.pid()))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn needs_root() -> bool {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return false;
    }
    true
}

fn cpus() -> usize {
    attr::cpu_list(&read("/sys/devices/system/cpu/online")).count()
}

fn bandwidth_board() -> Board {
    // 500 permille of one CPU, whatever the machine has, and all of it.
    let half_a_cpu = 500 / cpus();
    let list: Vec<u32> = attr::cpu_list(&read("/sys/devices/system/cpu/online")).collect();
    let text = format!(
        "name = \"here\"\nsource = \"test\"\n[[domain]]\nname = \"cpu\"\nkind = \"cpu-bandwidth\"\n\
         cpus = {list:?}\nopps = [{{ freq = {half_a_cpu} }}, {{ freq = 1000 }}]\n"
    );
    Board::parse("test.toml", &text).unwrap()
}

#[test]
fn a_quota_halves_a_busy_loop_and_goes_with_the_agent() {
    if !needs_root() {
        return;
    }
    let board = bandwidth_board();
    let run_dir = tempfile::tempdir().unwrap();
    let (mut claim, _) = Claim::take(Path::new(ROOT), run_dir.path()).unwrap();
    // Not `tandem`: an agent may run on this machine.
    let own = Own::make(&mut claim, &format!("tandem-test-{}", std::process::id())).unwrap();
    let Some(cpu) = own.with("cpu").map(|g| g.dir.clone()) else {
        println!("skipped: needs the cgroup controller `cpu`");
        return;
    };
    let mut notes = vec![];
    let mut limit = CpuBandwidth::start(&board, Path::new(ROOT), &own).unwrap().unwrap();
    let mut share = CpuShare::start(&board, &claim, &own, &mut notes).unwrap();
    let spinner = Spinner::start();
    let (groups, affinity) = (spinner.cgroups(), process::affinities(Path::new(ROOT), spinner.pid()));
    join(&mut claim, &own, AppSlot(0), "spin", spinner.pid()).map(|m| share.admit(m)).unwrap();
    assert_ne!(spinner.cgroups(), groups);
    let grant = Grant { domain: DomainId(0), cores: 1, weight: 300, power: None, target: Slo::default() };
    let order = [Some((grant, AppChoice::default()))];
    for half in [Half::Raise, Half::Lower] {
        share.set(&order, half).unwrap();
    }
    assert_eq!(process::affinities(Path::new(ROOT), spinner.pid())[0].1.len(), 1, "one core granted");

    let throttled = || -> u64 {
        let stat = read(&format!("{cpu}/cpu.stat"));
        stat.lines().find_map(|l| l.strip_prefix("nr_throttled ")).unwrap().parse().unwrap()
    };
    assert_eq!(throttled(), 0, "no limit yet");
    limit.set(OppIndex(0), Half::Lower).unwrap();
    let percent = spinner.use_over(Duration::from_secs(2));
    // An upper bound only: other work on the machine may leave the loop less.
    assert!(percent <= 60, "{percent} % of a CPU under a quota of 50 %");
    assert!(throttled() > 10, "the quota, not other work, held it down");
    limit.set(OppIndex(1), Half::Raise).unwrap();
    assert_eq!(limit.standing(DomainId(0)), Some(OppIndex(1)));
    let after = throttled();
    std::thread::sleep(Duration::from_millis(300));
    assert!(throttled() <= after + 1, "no limit again");
    println!("measured: {percent} % of a CPU under a quota of 50 %");

    let errors = claim.restore();
    assert!(errors.is_empty(), "{errors:?}");
    assert!(claim.restore().is_empty(), "twice is fine");
    assert_eq!(spinner.cgroups(), groups);
    assert_eq!(process::affinities(Path::new(ROOT), spinner.pid()), affinity);
    assert!(!Path::new(&cpu).exists());
}

#[test]
fn a_slot_that_changes_hands_too_fast_leaves_no_group_behind() {
    if !needs_root() {
        return;
    }
    let run_dir = tempfile::tempdir().unwrap();
    let (mut claim, _) = Claim::take(Path::new(ROOT), run_dir.path()).unwrap();
    let own = Own::make(&mut claim, &format!("tandem-test-hands-{}", std::process::id())).unwrap();
    let Some(cpu) = own.with("cpu").map(|g| g.dir.clone()) else {
        println!("skipped: needs the cgroup controller `cpu`");
        return;
    };
    let (first, second) = (Spinner::start(), Spinner::start());
    let slot = AppSlot(0);
    join(&mut claim, &own, slot, "first", first.pid()).unwrap();
    // It cannot be removed yet, as while threads of the first one are still ending.
    let inner = Path::new(&cpu).join("0-first/inner");
    std::fs::create_dir(&inner).unwrap();
    let errors = cpu_share::leave(&mut claim, slot);
    assert!(errors.iter().any(|e| e.to_string().contains("0-first")), "{errors:?}");
    join(&mut claim, &own, slot, "second", second.pid()).unwrap();
    std::fs::remove_dir(&inner).unwrap();
    let errors = cpu_share::leave(&mut claim, slot);
    assert!(errors.is_empty(), "{errors:?}");
    for name in ["0-first", "0-second"] {
        assert!(!Path::new(&cpu).join(name).exists(), "{name} is left");
    }
    assert!(claim.restore().is_empty());
    assert!(!Path::new(&cpu).exists());
}

#[test]
fn a_killed_agents_cgroups_are_removed_and_its_process_moved_back() {
    if !needs_root() {
        return;
    }
    let (run_dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut claim, _) = Claim::take(Path::new(ROOT), run_dir.path()).unwrap();
    let own = Own::make(&mut claim, &format!("tandem-test-killed-{}", std::process::id())).unwrap();
    let dirs: Vec<String> = own.groups.iter().map(|g| g.dir.clone()).collect();
    let mut share = CpuShare::start(&bandwidth_board(), &claim, &own, &mut vec![]).unwrap();
    let spinner = Spinner::start();
    let groups = spinner.cgroups();
    join(&mut claim, &own, AppSlot(7), "spin", spinner.pid()).map(|m| share.admit(m)).unwrap();
    assert!(dirs.iter().all(|d| Path::new(d).exists()));
    // What SIGKILL leaves behind is the file; the lock goes with the process.
    std::fs::copy(claim.state_file(), other.path().join("saved.json")).unwrap();
    let entries = restore_after_kill(Path::new(ROOT), other.path()).unwrap();
    assert_eq!(entries, dirs.len() + 1);
    assert_eq!(spinner.cgroups(), groups);
    assert!(!dirs.iter().any(|d| Path::new(d).exists()));
}

/// Everything a user can set of cpufreq, of every policy and governor.
fn cpufreq_settings() -> Vec<(String, String)> {
    let mut found = vec![];
    let mut dirs = vec![CPUFREQ.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path().display().to_string();
            if entry.file_type().unwrap().is_dir() {
                dirs.push(path);
            } else if !path.contains("/stats/") && !path.contains("cur_freq") {
                found.push((path.clone(), read_value(Path::new(ROOT), &path).unwrap_or_default()));
            }
        }
    }
    found.sort();
    found
}

fn may_change_cpufreq() -> bool {
    let may =
        std::env::var_os("TANDEM_TEST_CPUFREQ").is_some() && Path::new(CPUFREQ).join("policy0").exists();
    if !may {
        println!(
            "not here: needs clocks that may be changed (TANDEM_TEST_CPUFREQ=1); tests/all/vm.rs runs it in the VM"
        );
    }
    may
}

fn probed() -> Board {
    Board::parse("probed", &crate::board::probe::probe(Path::new(ROOT)).unwrap()).unwrap()
}

/// Sets every policy to a governor and its tunables to what is not their default.
fn dress(governor: &str) {
    for n in policies() {
        let dir = format!("{CPUFREQ}/{n}");
        write(&format!("{dir}/scaling_governor"), governor);
        for (name, value) in match governor {
            // Each above the other's default, so that only one order of writing them back is accepted.
            "conservative" => &[("up_threshold", "97"), ("down_threshold", "91"), ("freq_step", "7")][..],
            "ondemand" => &[("up_threshold", "63"), ("sampling_down_factor", "3"), ("ignore_nice_load", "1")],
            "schedutil" => &[("rate_limit_us", "4321")],
            _ => &[],
        } {
            for at in [format!("{dir}/{governor}/{name}"), format!("{CPUFREQ}/{governor}/{name}")] {
                if Path::new(&at).exists() {
                    write(&at, value);
                    assert_eq!(read(&at), *value);
                }
            }
        }
        let steps = read(&format!("{dir}/scaling_available_frequencies"));
        let mut steps: Vec<u64> = steps.split_ascii_whitespace().map(|f| f.parse().unwrap()).collect();
        steps.sort_unstable();
        for (limit, step) in [("min", steps[1]), ("max", steps[steps.len() - 2])] {
            let (limit, step) = (format!("{dir}/scaling_{limit}_freq"), step.to_string());
            write(&limit, &step);
            eventually("a limit in force", || read(&limit) == step);
        }
        if governor == "userspace" {
            write(&format!("{dir}/scaling_setspeed"), &steps[2].to_string());
        }
    }
}

fn policies() -> Vec<String> {
    let names = std::fs::read_dir(CPUFREQ).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|n| n.starts_with("policy")).collect();
    names.sort();
    names
}

#[test]
fn real_governors_come_back_with_their_tunables() {
    if !may_change_cpufreq() {
        return;
    }
    let board = probed();
    let options = Options::default();
    for governor in ["schedutil", "ondemand", "conservative", "userspace", "performance", "powersave"] {
        dress(governor);
        let before = cpufreq_settings();
        if governor == "conservative" {
            // What the saving is for: a switch away and back loses them.
            for n in policies() {
                write(&format!("{CPUFREQ}/{n}/scaling_governor"), "userspace");
            }
            for n in policies() {
                write(&format!("{CPUFREQ}/{n}/scaling_governor"), governor);
            }
            assert_ne!(cpufreq_settings(), before, "this kernel keeps tunables: the test proves nothing");
            dress(governor);
            assert_eq!(cpufreq_settings(), before);
        }
        let run_dir = tempfile::tempdir().unwrap();
        let (mut claim, _) = Claim::take(Path::new(ROOT), run_dir.path()).unwrap();
        let mut notes = vec![];
        let mut cpufreq = Cpufreq::start(&board, &mut claim, &options, &mut notes).unwrap().unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        let mut reached = 0;
        for opp in [2, 1, 2, 3] {
            for half in [Half::Raise, Half::Lower] {
                cpufreq.set(|_| Some(OppIndex(opp)), half).unwrap();
            }
            for (id, domain) in board.ids() {
                let crate::board::DomainKind::Cpufreq { policy } = domain.kind else { continue };
                let now = read(&format!("{CPUFREQ}/policy{policy}/scaling_cur_freq"));
                assert_eq!(now, domain.opps[usize::from(opp)].freq.raw.to_string());
                assert_eq!(cpufreq.standing(id), Some(OppIndex(opp)));
                reached += 1;
            }
        }
        assert_ne!(cpufreq_settings(), before);
        let errors = claim.restore();
        assert!(errors.is_empty(), "{governor}: {errors:?}");
        assert_eq!(cpufreq_settings(), before, "{governor}");
        println!("measured: {governor}: {reached} OPPs read back, {} settings as before", before.len());
    }
}

#[test]
fn an_opp_above_a_users_limit_is_not_reached_and_told() {
    if !may_change_cpufreq() {
        return;
    }
    dress("schedutil"); // leaves the top OPP above scaling_max_freq
    let board = probed();
    let run_dir = tempfile::tempdir().unwrap();
    let (mut claim, _) = Claim::take(Path::new(ROOT), run_dir.path()).unwrap();
    let mut cpufreq = Cpufreq::start(&board, &mut claim, &Options::default(), &mut vec![]).unwrap().unwrap();
    let top = board.domains[0].top();
    let first = |d| (d == DomainId(0)).then_some(top);
    let error = cpufreq.set(first, Half::Raise).unwrap_err();
    assert!(matches!(error, ActuateError::NotReached { .. }), "{error}");
    assert_eq!(cpufreq.standing(DomainId(0)), Some(OppIndex(top.0 - 1)));
    cpufreq.set(first, Half::Raise).unwrap();
    let policy = &policies()[0];
    write(
        &format!("{CPUFREQ}/{policy}/scaling_max_freq"),
        &read(&format!("{CPUFREQ}/{policy}/cpuinfo_max_freq")),
    );
    let speed = format!("{CPUFREQ}/{policy}/scaling_setspeed");
    eventually("the governor rises when the limit is lifted", || {
        read(&speed) == board.domains[0].opps[usize::from(top.0)].freq.raw.to_string()
    });
    cpufreq.set(first, Half::Raise).unwrap();
    assert_eq!(cpufreq.standing(DomainId(0)), Some(top));
    let errors = claim.restore();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn a_thermal_cap_does_not_stick() {
    if !may_change_cpufreq() {
        return;
    }
    let zone = "/sys/class/thermal/thermal_zone0/type";
    if !Path::new(zone).exists() {
        println!("skipped: needs a thermal zone (the VM's boot -t)");
        return;
    }
    for n in policies() {
        let dir = format!("{CPUFREQ}/{n}");
        write(&format!("{dir}/scaling_min_freq"), &read(&format!("{dir}/cpuinfo_min_freq")));
        write(&format!("{dir}/scaling_max_freq"), &read(&format!("{dir}/cpuinfo_max_freq")));
        write(&format!("{dir}/scaling_governor"), "performance");
    }
    let full = |n: &String| read(&format!("{CPUFREQ}/{n}/cpuinfo_max_freq"));
    let spinners: Vec<Spinner> = (0..cpus()).map(|_| Spinner::start()).collect();
    let max = |n: &String| read(&format!("{CPUFREQ}/{n}/scaling_max_freq"));
    let impatient = Options { cooling_patience: Duration::ZERO, ..Options::default() };
    // The kernel caps and lets go every second or so: each round saves at another moment of that.
    for round in 0..8 {
        eventually("the kernel caps", || policies().iter().any(|n| max(n) != full(n)));
        std::thread::sleep(Duration::from_millis(70 * round));
        let run_dir = tempfile::tempdir().unwrap();
        let (mut claim, _) = Claim::take(Path::new(ROOT), run_dir.path()).unwrap();
        let mut notes = vec![];
        let cpufreq = Cpufreq::start(&probed(), &mut claim, &impatient, &mut notes).unwrap();
        let saved: saved::Saved =
            serde_json::from_slice(&std::fs::read(claim.state_file()).unwrap()).unwrap();
        for (n, entry) in policies().iter().zip(&saved.entries) {
            let limits = entry.steps.iter().find_map(|s| match s {
                saved::Step::Write { settings } => {
                    settings.iter().find(|s| s.path.ends_with("scaling_max_freq"))
                }
                _ => None,
            });
            assert_eq!(limits.unwrap().value, full(n), "round {round}: the cap would stick; {notes:?}");
        }
        drop(cpufreq);
        let errors = claim.restore();
        assert!(errors.is_empty(), "{errors:?}");
        println!("measured: round {round}: {} notes", notes.len());
    }
    drop(spinners);
    eventually("the limits are open when the machine is cool", || {
        policies().iter().all(|n| max(n) == full(n))
    });
}

#[test]
fn closed_limits_hold_a_real_clock() {
    if !may_change_cpufreq() {
        return;
    }
    dress("performance");
    let before = cpufreq_settings();
    let board = probed();
    let run_dir = tempfile::tempdir().unwrap();
    let (mut claim, _) = Claim::take(Path::new(ROOT), run_dir.path()).unwrap();
    // Saves; the clocks below are set another way than the one it chose.
    drop(Cpufreq::start(&board, &mut claim, &Options::default(), &mut vec![]).unwrap());
    for (id, domain) in board.ids() {
        let crate::board::DomainKind::Cpufreq { policy } = domain.kind else { continue };
        let dir = format!("{CPUFREQ}/policy{policy}");
        write(&format!("{dir}/scaling_governor"), "performance");
        let mut clock = cpufreq::range(Path::new(ROOT), id, domain, policy).unwrap();
        for opp in [3, 1, 2, 0, 4] {
            // One half moves the clock, the other finds nothing to do.
            for half in [Half::Raise, Half::Lower] {
                match clock.set(OppIndex(opp), half) {
                    // On a starved host the kernel's work item takes longer than a tick may wait.
                    Ok(()) | Err(ActuateError::NotReached { .. }) => {}
                    Err(e) => panic!("OPP {opp}: {e}"),
                }
            }
            let wanted = domain.opps[usize::from(opp)].freq.raw.to_string();
            for file in ["scaling_min_freq", "scaling_max_freq", "scaling_cur_freq"] {
                eventually(file, || read(&format!("{dir}/{file}")) == wanted);
            }
        }
    }
    let errors = claim.restore();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(cpufreq_settings(), before);
}

#[test]
fn a_real_devfreq_device_is_set_and_put_back() {
    if !may_change_cpufreq() {
        return;
    }
    let board = probed();
    let hit = board.ids().find_map(|(id, d)| match &d.kind {
        crate::board::DomainKind::Devfreq { device } => Some((id, d, format!("/sys/class/devfreq/{device}"))),
        _ => None,
    });
    let Some((id, domain, dir)) = hit else {
        println!("skipped: needs a devfreq device (the VM's boot -D)");
        return;
    };
    write(&format!("{dir}/min_freq"), &domain.opps[1].freq.raw.to_string());
    let settings = || ["governor", "min_freq", "max_freq"].map(|f| read(&format!("{dir}/{f}")));
    let before = settings();
    let run_dir = tempfile::tempdir().unwrap();
    let (mut claim, _) = Claim::take(Path::new(ROOT), run_dir.path()).unwrap();
    let mut notes = vec![];
    let started = devfreq::Devfreq::start(&board, &mut claim, &Options::default(), &mut notes);
    let mut devfreq = started.unwrap().unwrap();
    for opp in [2, 0, 3, 1] {
        for half in [Half::Raise, Half::Lower] {
            devfreq.set(|d| (d == id).then_some(OppIndex(opp)), half).unwrap();
        }
        let wanted = domain.opps[usize::from(opp)].freq.raw.to_string();
        eventually("the device follows its limits", || read(&format!("{dir}/target_freq")) == wanted);
        assert_eq!(devfreq.standing(id), Some(OppIndex(opp)));
    }
    assert_ne!(settings(), before);
    println!("measured: {notes:?}");
    let errors = claim.restore();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(settings(), before);
}
