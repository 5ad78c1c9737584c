//! The save, apply and restore paths over fake trees. The real kernel: `real.rs`.

use super::claim::{Claim, ClaimError, restore_after_kill, restore_state};
use super::cpu_bandwidth::CpuBandwidth;
use super::cpu_share::{CpuShare, join, leave};
use super::cpufreq::Cpufreq;
use super::devfreq::Devfreq;
use super::fake::FakeSysfs;
use super::saved::Saved;
use super::*;
use crate::policy::{AppChoice, Grant, Slo};
use proptest::prelude::*;
use std::fs;
use std::path::Path;

const LITTLE: &[u64] = &[400_000, 600_000, 1_000_000, 1_400_000, 1_800_000];
const GPU: &[u64] = &[200_000_000, 297_000_000, 400_000_500];
const POLICY0: &str = "/sys/devices/system/cpu/cpufreq/policy0";
const GPU_DIR: &str = "/sys/class/devfreq/gpu";

fn board(text: &str) -> Board {
    Board::parse("test.toml", &format!("name = \"t\"\nsource = \"test\"\n{text}")).unwrap()
}

fn opps(freqs: &[u64]) -> String {
    let list: Vec<String> = freqs.iter().map(|f| format!("{{ freq = {f} }}")).collect();
    format!("opps = [{}]", list.join(", "))
}

fn little() -> String {
    format!(
        "[[domain]]\nname = \"little\"\nkind = \"cpufreq\"\npolicy = 0\ncpus = [0, 1]\n{}\n",
        opps(LITTLE)
    )
}

fn gpu() -> String {
    format!("[[domain]]\nname = \"gpu\"\nkind = \"devfreq\"\ndevice = \"gpu\"\n{}\n", opps(GPU))
}

fn bandwidth() -> String {
    format!(
        "[[domain]]\nname = \"cpu\"\nkind = \"cpu-bandwidth\"\ncpus = [0, 1, 2, 3]\n{}\n",
        opps(&[100, 500, 1000])
    )
}

fn impatient() -> Options {
    Options { cooling_patience: Duration::ZERO, ..Options::default() }
}

fn claim(fake: &FakeSysfs) -> Claim {
    Claim::take(fake.root(), &fake.root().join("run")).unwrap().0
}

fn grant(domain: u16, cores: u8, weight: u16) -> Option<(Grant, AppChoice)> {
    let grant = Grant { domain: DomainId(domain), cores, weight, power: None, target: Slo::default() };
    Some((grant, AppChoice::default()))
}

fn only(opp: u16) -> impl Fn(DomainId) -> Option<OppIndex> {
    move |d| (d == DomainId(0)).then_some(OppIndex(opp))
}

fn cpufreq(fake: &FakeSysfs, claim: &mut Claim) -> (Cpufreq, Vec<String>) {
    let _ = fake;
    let mut notes = vec![];
    let made = Cpufreq::start(&board(&little()), claim, &impatient(), &mut notes).unwrap().unwrap();
    (made, notes)
}

#[test]
fn setspeed_follows_orders_half_by_half() {
    let fake = FakeSysfs::new();
    fake.policy(0, "0 1", LITTLE, "schedutil", "ondemand userspace schedutil");
    let mut claim = claim(&fake);
    let (mut cpufreq, notes) = cpufreq(&fake, &mut claim);
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(fake.read(&format!("{POLICY0}/scaling_governor")), "userspace");
    let speed = || fake.read(&format!("{POLICY0}/scaling_setspeed"));
    fake.file(&format!("{POLICY0}/scaling_setspeed"), "600000"); // what the kernel runs at
    cpufreq.set(only(3), Half::Lower).unwrap();
    assert_eq!(speed(), "600000", "a rise must not be written by the lowering half");
    cpufreq.set(only(3), Half::Raise).unwrap();
    assert_eq!(speed(), "1400000");
    assert_eq!(cpufreq.standing(DomainId(0)), Some(OppIndex(3)));
    cpufreq.set(only(0), Half::Raise).unwrap();
    assert_eq!(speed(), "1400000", "a fall must not be written by the raising half");
    cpufreq.set(only(0), Half::Lower).unwrap();
    assert_eq!(speed(), "400000");
    cpufreq.set(|_| None, Half::Raise).unwrap();
    assert_eq!(speed(), "400000", "None leaves it");
    assert!(matches!(cpufreq.set(only(9), Half::Raise), Err(ActuateError::NoSuchOpp { .. })));
}

#[test]
fn a_change_by_someone_else_is_corrected() {
    let fake = FakeSysfs::new();
    fake.policy(0, "0 1", LITTLE, "schedutil", "userspace schedutil");
    let mut claim = claim(&fake);
    let (mut cpufreq, _) = cpufreq(&fake, &mut claim);
    let file = format!("{POLICY0}/scaling_setspeed");
    fake.file(&file, "400000");
    cpufreq.set(only(2), Half::Raise).unwrap();
    for foreign in ["400000", "1800000"] {
        fake.file(&file, foreign);
        cpufreq.set(only(2), Half::Raise).unwrap();
        cpufreq.set(only(2), Half::Lower).unwrap();
        assert_eq!(fake.read(&file), "1000000", "after {foreign}");
    }
}

#[test]
fn without_userspace_the_limits_close() {
    let fake = FakeSysfs::new();
    fake.policy(0, "0 1", LITTLE, "powersave", "performance powersave");
    let mut claim = claim(&fake);
    let (mut cpufreq, notes) = cpufreq(&fake, &mut claim);
    assert!(notes[0].contains("min = max") && notes[0].contains("powersave"), "{notes:?}");
    assert_eq!(fake.read(&format!("{POLICY0}/scaling_governor")), "powersave", "put back at once");
    let limits = || ["min", "max"].map(|m| fake.read(&format!("{POLICY0}/scaling_{m}_freq")));
    // At the top both limits must be written although max stands there already.
    cpufreq.set(only(4), Half::Raise).unwrap();
    assert_eq!(limits(), ["1800000", "1800000"]);
    cpufreq.set(only(1), Half::Raise).unwrap();
    cpufreq.set(only(1), Half::Lower).unwrap();
    assert_eq!(limits(), ["600000", "600000"]);
    cpufreq.set(only(2), Half::Raise).unwrap();
    assert_eq!(limits(), ["1000000", "1000000"]);
    assert!(claim.restore().is_empty());
    assert_eq!(limits(), ["400000", "1800000"]);
}

#[test]
fn a_shortfall_is_told_once_and_stands() {
    let fake = FakeSysfs::new();
    // `target_freq` is what the kernel made of it: here it stays low, as under a cap.
    fake.devfreq("gpu", GPU, "simple_ondemand", "userspace simple_ondemand");
    let mut claim = claim(&fake);
    let mut notes = vec![];
    let mut gpu = Devfreq::start(&board(&gpu()), &mut claim, &impatient(), &mut notes).unwrap().unwrap();
    let error = gpu.set(only(2), Half::Raise).unwrap_err().to_string();
    assert!(error.contains("target_freq: wrote \"400000500\", read back \"200000000\""), "{error}");
    assert_eq!(fake.read(&format!("{GPU_DIR}/userspace/set_freq")), "400000500");
    gpu.set(only(2), Half::Lower).unwrap();
    gpu.set(only(2), Half::Raise).unwrap();
    assert_eq!(gpu.standing(DomainId(0)), Some(OppIndex(0)), "still not reached");
    fake.file(&format!("{GPU_DIR}/target_freq"), "400000000"); // lifted; rounded to kHz
    gpu.set(only(2), Half::Raise).unwrap();
    assert_eq!(gpu.standing(DomainId(0)), Some(OppIndex(2)));
    fake.file(&format!("{GPU_DIR}/target_freq"), "297000000");
    assert!(gpu.set(only(2), Half::Raise).is_err(), "a new shortfall is told again");
}

#[test]
fn a_board_of_another_machine_is_refused_before_any_write() {
    for (change, rule) in [
        (("cpus = [0, 1]", "cpus = [0, 2]"), "the board gives it CPUs [0, 2]"),
        (("freq = 600000", "freq = 600001"), "opp 1 (600001 kHz) is not among"),
        (("freq = 1800000", "freq = 9900000"), "is outside the hardware's range, 400000 to 1800000 kHz"),
        (("policy = 0", "policy = 7"), "policy7 does not exist on this machine"),
    ] {
        let fake = FakeSysfs::new();
        fake.policy(0, "0 1", LITTLE, "schedutil", "userspace schedutil");
        let before = fake.all();
        let board = board(&little().replace(change.0, change.1));
        let error = super::start(&board, claim(&fake), &impatient()).unwrap_err().to_string();
        assert!(error.contains(rule), "{error}");
        assert_eq!(fake.all(), before);
    }
}

#[test]
fn nothing_is_written_when_saving_fails() {
    let fake = FakeSysfs::new();
    fake.policy(0, "0 1", LITTLE, "schedutil", "userspace schedutil").cgroup_v1();
    let before = fake.all();
    let claim = claim(&fake);
    fs::create_dir(fake.root().join("run/saved.new")).unwrap();
    let error = super::start(&board(&little()), claim, &impatient()).unwrap_err().to_string();
    assert!(error.contains("saved.json: write"), "{error}");
    assert_eq!(fake.all(), before);
}

#[test]
fn a_held_limit_is_not_saved() {
    let fake = FakeSysfs::new();
    fake.policy(0, "0 1", LITTLE, "schedutil", "userspace schedutil").cooling(0, "cpufreq-cpu1", 2);
    fake.file(&format!("{POLICY0}/scaling_max_freq"), "1400000");
    let mut claim = claim(&fake);
    let (_cpufreq, notes) = cpufreq(&fake, &mut claim);
    assert!(notes[0].contains("cooling_device0 (cpufreq-cpu1) held it down at 1400000"), "{notes:?}");
    fake.cooling(0, "cpufreq-cpu1", 0);
    assert!(claim.restore().is_empty());
    assert_eq!(fake.read(&format!("{POLICY0}/scaling_max_freq")), "1800000");
}

#[test]
fn the_cooling_of_others_and_an_owners_limit_are_told_apart() {
    for (kind, state) in [("cpufreq-cpu2", 1), ("cpufreq-cpu1", 0), ("devfreq-gpu", 3), ("fan", 2)] {
        let fake = FakeSysfs::new();
        fake.policy(0, "0 1", LITTLE, "schedutil", "userspace schedutil").cooling(3, kind, state);
        fake.file(&format!("{POLICY0}/scaling_max_freq"), "1400000");
        let mut claim = claim(&fake);
        let (_cpufreq, notes) = cpufreq(&fake, &mut claim);
        assert!(notes.is_empty(), "{kind}: {notes:?}");
        fake.file(&format!("{POLICY0}/scaling_max_freq"), "400000");
        assert!(claim.restore().is_empty());
        assert_eq!(
            fake.read(&format!("{POLICY0}/scaling_max_freq")),
            "1400000",
            "the owner's limit ({kind})"
        );
    }
}

#[test]
fn a_held_limit_is_waited_for() {
    let fake = FakeSysfs::new();
    fake.policy(0, "0 1", LITTLE, "schedutil", "userspace schedutil").cooling(0, "Processor", 1);
    let max = format!("{POLICY0}/scaling_max_freq");
    fake.file(&max, "1000000");
    let mut claim = claim(&fake);
    let mut notes = vec![];
    let options = Options { cooling_patience: Duration::from_secs(600), ..Options::default() };
    std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(Duration::from_millis(120));
            // The owner's own limit shows when the device lets go.
            fake.swap(&max, "1400000");
            fake.swap("/sys/class/thermal/cooling_device0/cur_state", "0");
        });
        Cpufreq::start(&board(&little()), &mut claim, &options, &mut notes).unwrap().unwrap();
    });
    assert!(notes.is_empty(), "{notes:?}");
    assert!(claim.restore().is_empty());
    assert_eq!(fake.read(&max), "1400000");
}

fn with_groups(
    fake: &FakeSysfs,
    claim: &mut Claim,
) -> (cgroup::Own, CpuShare, Option<CpuBandwidth>, Vec<String>) {
    let board = board(&(bandwidth() + &little()));
    let own = cgroup::Own::make(claim, "tandem").unwrap();
    let mut notes = vec![];
    let limit = own.with("cpu").map(|_| CpuBandwidth::start(&board, fake.root(), &own).unwrap().unwrap());
    let share = CpuShare::start(&board, claim, &own, &mut notes).unwrap();
    (own, share, limit, notes)
}

#[test]
fn v1_groups_hold_quota_shares_and_cpus() {
    let fake = FakeSysfs::new();
    fake.cgroup_v1().process(70, 7).process(71, 8);
    let before = fake.all();
    let mut claim = claim(&fake);
    let (own, mut share, limit, notes) = with_groups(&fake, &mut claim);
    let mut limit = limit.unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    let (cpu, set) = ("/sys/fs/cgroup/cpu,cpuacct/tandem", "/sys/fs/cgroup/cpuset/tandem");
    assert_eq!(fake.read(&format!("{cpu}/cpu.cfs_period_us")), "10000");
    limit.set(OppIndex(1), Half::Raise).unwrap();
    assert_eq!(fake.read(&format!("{cpu}/cpu.cfs_quota_us")), "-1", "a fall waits for the lowering half");
    limit.set(OppIndex(1), Half::Lower).unwrap();
    assert_eq!(fake.read(&format!("{cpu}/cpu.cfs_quota_us")), "20000", "500 permille of 4 CPUs of 10 ms");
    assert_eq!(limit.standing(DomainId(0)), Some(OppIndex(1)));
    assert_eq!(limit.standing(DomainId(1)), None);

    join(&mut claim, &own, AppSlot(3), "a", 70).map(|m| share.admit(m)).unwrap();
    join(&mut claim, &own, AppSlot(1), "b/../x", 71).map(|m| share.admit(m)).unwrap();
    assert_eq!(fake.read(&format!("{cpu}/3-a/cgroup.procs")), "70");
    assert_eq!(fake.read(&format!("{set}/1-bx/cgroup.procs")), "71");
    share.set_order(&[AppSlot(1), AppSlot(3)]);
    share.set(&[grant(1, 1, 300), grant(1, 1, 50)], Half::Raise).unwrap();
    assert_eq!(fake.read(&format!("{cpu}/1-bx/cpu.shares")), "3072");
    assert_eq!(fake.read(&format!("{cpu}/3-a/cpu.shares")), "1024", "falls later");
    assert_eq!(fake.read(&format!("{cpu}/cpu.shares")), "4096", "the sum of its members");
    share.set(&[grant(1, 1, 300), grant(1, 1, 50)], Half::Lower).unwrap();
    assert_eq!(fake.read(&format!("{cpu}/3-a/cpu.shares")), "512");
    assert_eq!(fake.read(&format!("{cpu}/cpu.shares")), "3584");
    assert_eq!(fake.read(&format!("{set}/1-bx/cpuset.cpus")), "0");
    assert_eq!(fake.read(&format!("{set}/3-a/cpuset.cpus")), "1");

    share.remove(AppSlot(3));
    assert!(leave(&mut claim, AppSlot(3)).is_empty());
    assert!(!fake.all().keys().any(|k| k.contains("3-a")));
    share.set_order(&[AppSlot(1)]);
    share.set(&[grant(0, 0, 300)], Half::Raise).unwrap();
    assert_eq!(fake.read(&format!("{set}/1-bx/cpuset.cpus")), "0,1,2,3");
    assert!(claim.restore().is_empty());
    assert!(claim.restore().is_empty(), "twice is fine");
    let mut after = fake.all();
    // A plain file holds the last pid moved, not both.
    after.retain(|k, _| !k.ends_with("procs"));
    assert!(before.iter().filter(|(k, _)| !k.ends_with("procs")).eq(after.iter()), "{after:#?}");
}

#[test]
fn v2_groups_hold_max_weight_and_cpus() {
    let fake = FakeSysfs::new();
    fake.cgroup_v2().process(70, 7);
    let mut claim = claim(&fake);
    let (own, mut share, limit, _) = with_groups(&fake, &mut claim);
    let mut limit = limit.unwrap();
    let dir = "/sys/fs/cgroup/tandem";
    limit.set(OppIndex(0), Half::Lower).unwrap();
    assert_eq!(fake.read(&format!("{dir}/cpu.max")), "4000 10000");
    limit.set(OppIndex(2), Half::Raise).unwrap();
    assert_eq!(fake.read(&format!("{dir}/cpu.max")), "max 10000");
    join(&mut claim, &own, AppSlot(0), "a", 70).map(|m| share.admit(m)).unwrap();
    share.set(&[grant(1, 0, 250)], Half::Raise).unwrap();
    assert_eq!(fake.read(&format!("{dir}/0-a/cpu.weight")), "250");
    assert_eq!(fake.read(&format!("{dir}/cpu.weight")), "250");
    assert_eq!(fake.read(&format!("{dir}/0-a/cpuset.cpus")), "0,1");
    share.set(&[grant(1, 1, 250)], Half::Raise).unwrap();
    assert_eq!(fake.read(&format!("{dir}/0-a/cpuset.cpus")), "0,1", "fewer CPUs wait for the lowering half");
    share.set(&[grant(1, 1, 250)], Half::Lower).unwrap();
    assert_eq!(fake.read(&format!("{dir}/0-a/cpuset.cpus")), "0");
    // The last switch written; a plain file keeps no list.
    assert_eq!(fake.read("/sys/fs/cgroup/cgroup.subtree_control"), "+cpuset");
    assert!(claim.restore().is_empty());
    assert!(fake.read("/sys/fs/cgroup/cgroup.subtree_control").starts_with('-'));
    assert!(!fake.all().keys().any(|k| k.contains("tandem")));
    assert_eq!(fake.read("/sys/fs/cgroup/cgroup.procs"), "70");
}

#[test]
fn a_group_that_was_there_stays_with_its_values() {
    let fake = FakeSysfs::new();
    fake.cgroup_v1().process(70, 7);
    let cpu = "/sys/fs/cgroup/cpu,cpuacct/tandem";
    fake.file(&format!("{cpu}/cpu.cfs_quota_us"), "33000").file(&format!("{cpu}/cpu.cfs_period_us"), "50000");
    fake.file(&format!("{cpu}/cpu.shares"), "77").file(&format!("{cpu}/cgroup.procs"), "");
    let mut claim = claim(&fake);
    let (own, mut share, limit, _) = with_groups(&fake, &mut claim);
    limit.unwrap().set(OppIndex(0), Half::Lower).unwrap();
    join(&mut claim, &own, AppSlot(0), "a", 70).map(|m| share.admit(m)).unwrap();
    share.set(&[grant(1, 0, 900)], Half::Raise).unwrap();
    assert!(claim.restore().is_empty());
    let values = ["cfs_quota_us", "cfs_period_us", "shares"].map(|f| fake.read(&format!("{cpu}/cpu.{f}")));
    assert_eq!(values, ["33000", "50000", "77"]);
    assert!(!fake.all().keys().any(|k| k.contains("0-a")));
}

#[test]
fn a_process_that_ended_or_is_another_is_left_alone() {
    let fake = FakeSysfs::new();
    fake.cgroup_v1().process(70, 7);
    let mut claim = claim(&fake);
    let (own, mut share, ..) = with_groups(&fake, &mut claim);
    let error =
        join(&mut claim, &own, AppSlot(2), "gone", 999).map(|m| share.admit(m)).unwrap_err().to_string();
    assert!(error.contains("/proc/999/stat"), "{error}");
    join(&mut claim, &own, AppSlot(0), "a", 70).map(|m| share.admit(m)).unwrap();
    fake.process(70, 8); // the number is used again
    fake.file("/sys/fs/cgroup/cpu,cpuacct/cgroup.procs", "").file("/sys/fs/cgroup/cpuset/cgroup.procs", "");
    // The kernel would have emptied these when the first process ended.
    for dir in ["cpu,cpuacct", "cpuset"] {
        fake.file(&format!("/sys/fs/cgroup/{dir}/tandem/0-a/cgroup.procs"), "");
    }
    assert!(claim.restore().is_empty());
    assert_eq!(fake.read("/sys/fs/cgroup/cpu,cpuacct/cgroup.procs"), "");
}

/// Ends with the test, whatever becomes of it.
struct Sleeper(std::process::Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn without_a_cpuset_threads_are_pinned_and_let_go() {
    let fake = FakeSysfs::new();
    let child = Sleeper(std::process::Command::new("sleep").arg("600").spawn().unwrap());
    let pid = i32::try_from(child.0.id()).unwrap();
    std::os::unix::fs::symlink(format!("/proc/{pid}"), fake.root().join(format!("proc/{pid}"))).unwrap();
    let before = process::affinities(Path::new("/"), pid);
    let first = before[0].1[0];
    let board = board(&little().replace("cpus = [0, 1]", &format!("cpus = [{first}]")));
    let mut claim = claim(&fake);
    let own = cgroup::Own::make(&mut claim, "tandem").unwrap();
    let mut notes = vec![];
    let mut share = CpuShare::start(&board, &claim, &own, &mut notes).unwrap();
    assert_eq!(notes.len(), 2, "{notes:?}");
    join(&mut claim, &own, AppSlot(0), "a", pid).map(|m| share.admit(m)).unwrap();
    share.set(&[grant(0, 1, 100)], Half::Raise).unwrap();
    assert_eq!(process::affinities(Path::new("/"), pid), [(pid, vec![first])]);
    let errors = claim.restore();
    let after = process::affinities(Path::new("/"), pid);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(after, before);
    assert!(before[0].1.len() > 1, "needs two CPUs to prove anything");
}

#[test]
fn a_second_agent_is_refused_by_pid() {
    let fake = FakeSysfs::new();
    let first = claim(&fake);
    let error = Claim::take(fake.root(), &fake.root().join("run")).unwrap_err();
    assert!(matches!(error, ClaimError::Held { .. }));
    let text = error.to_string();
    assert!(text.contains("agent.lock") && text.contains(&format!("pid {}", std::process::id())), "{text}");
    assert!(
        restore_after_kill(fake.root(), &fake.root().join("run")).is_err(),
        "nor may it be restored under it"
    );
    drop(first);
    Claim::take(fake.root(), &fake.root().join("run")).unwrap();
}

#[test]
fn a_killed_agents_settings_come_back_at_the_next_start() {
    let fake = FakeSysfs::new();
    fake.policy(0, "0 1", LITTLE, "ondemand", "userspace ondemand").cgroup_v1();
    fake.file(&format!("{POLICY0}/ondemand/up_threshold"), "63");
    let before = fake.all();
    let (left, touched);
    {
        let (_door, ..) = super::start(&board(&little()), claim(&fake), &impatient()).unwrap();
        left = fs::read(fake.root().join("run/saved.json")).unwrap(); // what SIGKILL leaves
        fake.file(&format!("{POLICY0}/ondemand/up_threshold"), "95"); // the kernel's default after a switch
        touched = fake.all();
    }
    assert_eq!(fake.all(), before, "the normal end puts all back");
    assert_ne!(touched, before);
    // Again, killed: the tree as it was under the agent, and its file.
    fake.file(&format!("{POLICY0}/scaling_governor"), "userspace");
    fake.file(&format!("{POLICY0}/ondemand/up_threshold"), "95");
    fs::create_dir_all(fake.root().join("sys/fs/cgroup/cpuset/tandem")).unwrap();
    fs::write(fake.root().join("run/saved.json"), left).unwrap();
    let (claim, entries) = Claim::take(fake.root(), &fake.root().join("run")).unwrap();
    assert_eq!(entries, 3, "two groups and a policy");
    assert_eq!(fake.all(), before);
    drop(claim);
    assert!(!fake.root().join("run/saved.json").exists());
}

#[test]
fn saved_settings_of_another_boot_are_dropped() {
    let fake = FakeSysfs::new();
    fake.policy(0, "0 1", LITTLE, "ondemand", "userspace ondemand");
    let state = fake.root().join("saved.json");
    let (door, ..) = super::start(&board(&little()), claim(&fake), &impatient()).unwrap();
    fs::copy(door.claim.state_file(), &state).unwrap();
    drop(door);
    fake.file("/proc/sys/kernel/random/boot_id", "the next boot");
    fake.file(&format!("{POLICY0}/scaling_governor"), "performance");
    assert_eq!(restore_state(fake.root(), &state).unwrap(), 0);
    assert_eq!(fake.read(&format!("{POLICY0}/scaling_governor")), "performance");
    assert!(!state.exists());
}

#[test]
fn unreadable_saved_settings_are_named_and_kept() {
    let fake = FakeSysfs::new();
    fs::create_dir(fake.root().join("run")).unwrap();
    fs::write(fake.root().join("run/saved.json"), "{\"boot_id\": 3}").unwrap();
    let error = Claim::take(fake.root(), &fake.root().join("run")).unwrap_err().to_string();
    assert!(error.contains("saved.json: saved settings that cannot be read"), "{error}");
    assert!(fake.root().join("run/saved.json").exists());
}

#[test]
fn what_cannot_be_put_back_is_told_and_kept_while_the_rest_is_restored() {
    let fake = FakeSysfs::new();
    fake.policy(0, "0 1", LITTLE, "ondemand", "userspace ondemand");
    fake.devfreq("gpu", GPU, "simple_ondemand", "userspace simple_ondemand");
    let mut claim = claim(&fake);
    let state = claim.state_file().to_path_buf();
    let mut notes = vec![];
    let board = board(&(little() + &gpu()));
    Cpufreq::start(&board, &mut claim, &impatient(), &mut notes).unwrap();
    Devfreq::start(&board, &mut claim, &impatient(), &mut notes).unwrap();
    fs::remove_file(fake.root().join("sys/class/devfreq/gpu/governor")).unwrap();
    let errors = claim.restore();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().contains("devfreq/gpu: /sys/class/devfreq/gpu/governor"), "{}", errors[0]);
    assert_eq!(fake.read(&format!("{POLICY0}/scaling_governor")), "ondemand");
    let kept: Saved = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    assert_eq!(kept.entries.len(), 1);
    fake.file(&format!("{GPU_DIR}/governor"), "userspace");
    assert!(claim.restore().is_empty());
    assert_eq!(fake.read(&format!("{GPU_DIR}/governor")), "simple_ondemand");
    assert!(!state.exists());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn restoring_is_the_identity(
        v1 in any::<bool>(),
        governor in prop::sample::select(vec!["ondemand", "schedutil", "userspace", "performance"]),
        userspace in any::<bool>(),
        tunables in prop::collection::btree_map("[a-z_]{1,12}", 0u32..1_000_000, 0..6),
        limits in (0usize..5, 0usize..5),
        gpu_governors in prop::sample::select(vec!["userspace simple_ondemand", "simple_ondemand"]),
        orders in prop::collection::vec((0u16..5, 0u16..3, 0u16..3, 1u16..=10_000, 0u8..4, any::<bool>()), 0..12),
    ) {
        let fake = FakeSysfs::new();
        let governors = if userspace || governor == "userspace" { "userspace ondemand" } else { "ondemand" };
        fake.policy(0, "0 1", LITTLE, governor, governors).devfreq("gpu", GPU, "simple_ondemand", gpu_governors);
        // Everywhere a governor may keep its tunables.
        for dir in [format!("{POLICY0}/{governor}"), format!("/sys/devices/system/cpu/cpufreq/{governor}")] {
            for (name, value) in &tunables {
                fake.file(&format!("{dir}/{name}"), &value.to_string());
            }
        }
        let (low, high) = (limits.0.min(limits.1), limits.0.max(limits.1));
        fake.file(&format!("{POLICY0}/scaling_min_freq"), &LITTLE[low].to_string());
        fake.file(&format!("{POLICY0}/scaling_max_freq"), &LITTLE[high].to_string());
        if v1 { fake.cgroup_v1() } else { fake.cgroup_v2() };
        fake.process(70, 7);
        let mut before = fake.all();
        let board = board(&(little() + &gpu() + &bandwidth()));
        let mut claim = claim(&fake);
        let mut notes = vec![];
        let own = cgroup::Own::make(&mut claim, "tandem").unwrap();
        let mut cpufreq = Cpufreq::start(&board, &mut claim, &impatient(), &mut notes).unwrap().unwrap();
        let mut gpu = Devfreq::start(&board, &mut claim, &impatient(), &mut notes).unwrap().unwrap();
        let mut limit = CpuBandwidth::start(&board, fake.root(), &own).unwrap().unwrap();
        let mut share = CpuShare::start(&board, &claim, &own, &mut notes).unwrap();
        join(&mut claim, &own, AppSlot(5), "a", 70).map(|m| share.admit(m)).unwrap();
        for (little, device, quota, weight, cores, lower) in orders {
            let half = if lower { Half::Lower } else { Half::Raise };
            cpufreq.set(only(little), half).unwrap();
            // `target_freq` of a fake does not follow.
            drop(gpu.set(|d| (d == DomainId(1)).then_some(OppIndex(device)), half));
            limit.set(OppIndex(quota), half).unwrap();
            share.set(&[grant(2, cores, weight)], half).unwrap();
        }
        for name in tunables.keys() {
            fake.file(&format!("{POLICY0}/{governor}/{name}"), "0"); // as a switch away loses them
        }
        prop_assert!(claim.restore().is_empty());
        let mut once = fake.all();
        prop_assert!(claim.restore().is_empty());
        prop_assert_eq!(&fake.all(), &once);
        // The two that plain files cannot show: a set speed while `<unsupported>`, a list of switches.
        for all in [&mut before, &mut once] {
            all.retain(|k, _| !k.ends_with("subtree_control") && !k.ends_with("set_freq"));
            if governor != "userspace" {
                all.retain(|k, _| !k.ends_with("scaling_setspeed"));
            }
        }
        prop_assert_eq!(once, before);
    }
}
