//! The real counters on the real kernel. Needs root and BTF; prints `skipped: needs ...` otherwise.
//!
//! Which machine fires which hook: this host (no cpufreq) the scheduler's and cpuidle's; the frequency
//! hooks fire only where there is a cpufreq driver, as in the VM (`examples/hooks.rs`).

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tandem::board::{Board, BoardLimits, Domain, DomainKind, Opp};
use tandem::sense::{Event, Loss, Sense, SenseOptions, UseBpf, now};
use tandem::snapshot::{AppSample, Snapshot};
use tandem::units::{AppSlot, Freq, FreqUnit, Nanos};

/// They load the machine on purpose: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn board() -> Board {
    // Not `available_parallelism`: a test that has pinned itself sees one.
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let cpus = (0..).take(stat.lines().filter(|l| l.starts_with("cpu")).count() - 1).collect();
    let opp = Opp { freq: Freq { raw: 1000, unit: FreqUnit::Permille }, volt: None, power: None };
    let domain = Domain {
        name: "share".into(),
        kind: DomainKind::CpuBandwidth,
        cpus,
        opps: vec![opp],
        transition_latency: Nanos(0),
    };
    let limits = BoardLimits { temp_max: None, min_dwell: Nanos(0) };
    Board { name: "here".into(), domains: vec![domain], limits }
}

fn open() -> Option<(Sense, Snapshot, Vec<Loss>)> {
    let (sense, lost) = Sense::open(&board(), &SenseOptions::default());
    if !sense.by_bpf() {
        println!("skipped: needs root and a kernel with BTF: {lost:?}");
        return None;
    }
    let snapshot = Snapshot::new(sense.cpus(), 1, sense.signals().len());
    Some((sense, snapshot, lost))
}

/// A period of `ms` from now.
fn period(sense: &mut Sense, into: &mut Snapshot, ms: u64) {
    sense.sample(now(), into);
    std::thread::sleep(Duration::from_millis(ms));
    sense.sample(now(), into);
}

/// A process that ends with the test.
struct Job(Child);

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `sh -c script`, pinned, at real-time priority if asked: then nothing else runs on its CPU.
fn job(script: &str, cpu: usize, real_time: bool) -> Job {
    let mut command = if real_time {
        let mut c = Command::new("chrt");
        c.args(["-f", "1", "sh", "-c", script]);
        c
    } else {
        let mut c = Command::new("sh");
        c.args(["-c", script]);
        c
    };
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    command.stdout(Stdio::null());
    let job = Job(command.spawn().unwrap());
    let pid = i32::try_from(job.0.id()).unwrap();
    sched_setaffinity(Pid::from_raw(pid), &set).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    job
}

fn pin_self(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// utime + stime of a process, from /proc/PID/stat.
fn proc_stat_time(pid: u32) -> Nanos {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Nanos(ticks * 10_000_000)
}

const SPIN: &str = "while :; do :; done";

#[test]
fn a_spinner_that_never_switches_is_wholly_busy_even_if_it_ran_before_we_looked() {
    let _alone = alone();
    pin_self(0);
    // Real-time and alone on its CPU: no switch, so all of it is open interval.
    let _spinner = job(SPIN, 1, true);
    let Some((mut sense, mut seen, _)) = open() else { return };
    period(&mut sense, &mut seen, 200);
    let cpu = seen.cpus[1];
    assert!(cpu.busy.unwrap().0 >= 973, "95 % of 1024: {cpu:?}");
    assert_eq!(seen.domains[0].util, seen.cpus.iter().filter_map(|c| c.busy).max());
    assert_eq!(seen.domains[0].opp, None, "only the actuator knows a bandwidth domain's OPP");
}

#[test]
fn an_applications_run_time_agrees_with_proc_and_its_open_interval_counts() {
    let _alone = alone();
    pin_self(0);
    let app = job(SPIN, 1, true);
    let other = job(SPIN, 0, false);
    let Some((mut sense, mut seen, _)) = open() else { return };
    let slot = AppSlot(7);
    sense.add_app(slot, app.0.id()).unwrap();
    seen.apps.push(AppSample::new(slot));
    let before = proc_stat_time(app.0.id());
    period(&mut sense, &mut seen, 500);
    let ran = proc_stat_time(app.0.id()).since(before);
    let counted = seen.apps[0].run.unwrap();
    assert!(
        counted.0.abs_diff(ran.0) <= 30_000_000,
        "counted {counted:?}, /proc says {ran:?} in steps of 10 ms"
    );
    assert!(counted.0 * 100 >= seen.window.0 * 80, "{counted:?} of {:?}", seen.window);
    // 80 %: ordinary tasks get 50 ms a second of a CPU that a real-time one would keep.
    // The other spinner is "everything else".
    assert!(seen.other.run.unwrap().0 * 10 >= seen.window.0, "{:?} of {:?}", seen.other, seen.window);
    drop(other);

    // Gone from the slot, its time is everything else's; the slot can be taken again.
    assert!(sense.add_app(slot, 1).is_err());
    sense.remove_app(slot).unwrap();
    seen.apps[0].run = None;
    period(&mut sense, &mut seen, 100);
    assert_eq!(seen.apps[0].run, None);
    assert!(seen.other.run.unwrap().0 * 100 >= seen.window.0 * 80, "{:?} of {:?}", seen.other, seen.window);
}

#[test]
fn a_sleeping_application_reads_low_and_busy_time_agrees_with_proc_stat() {
    let _alone = alone();
    pin_self(0);
    let app = job("exec sleep 100", 1, false);
    let Some((mut sense, mut seen, _)) = open() else { return };
    let slot = AppSlot(5);
    sense.add_app(slot, app.0.id()).unwrap();
    seen.apps.push(AppSample::new(slot));
    let before = busy_by_proc_stat();
    period(&mut sense, &mut seen, 1000);
    let after = busy_by_proc_stat();
    assert!(seen.apps[0].run.unwrap().0 * 100 < seen.window.0, "{:?} of {:?}", seen.apps[0].run, seen.window);
    for (cpu, sample) in seen.cpus.iter().enumerate() {
        let ours = u64::from(sample.busy.unwrap().0) * seen.window.0 / 1024;
        let theirs = after[cpu] - before[cpu];
        // /proc/stat samples at the timer tick and in steps of 10 ms.
        assert!(ours.abs_diff(theirs) < seen.window.0 / 10, "CPU {cpu}: {ours} ns, /proc/stat {theirs} ns");
    }
}

/// Per CPU, ns: everything in /proc/stat but idle and iowait. Stolen time is within a task's for us.
fn busy_by_proc_stat() -> Vec<u64> {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let cpus = stat.lines().skip(1).take_while(|l| l.starts_with("cpu"));
    let fields =
        |l: &str| l.split_whitespace().skip(1).map(|f| f.parse::<u64>().unwrap()).collect::<Vec<_>>();
    cpus.map(fields)
        .map(|f| (f[..3].iter().sum::<u64>() + f[5..8].iter().sum::<u64>()) * 10_000_000)
        .collect()
}

#[test]
fn two_spinners_on_one_cpu_wait_for_each_other() {
    let _alone = alone();
    pin_self(0);
    let (app, _rival) = (job(SPIN, 1, false), job(SPIN, 1, false));
    let Some((mut sense, mut seen, _)) = open() else { return };
    let slot = AppSlot(0);
    sense.add_app(slot, app.0.id()).unwrap();
    seen.apps.push(AppSample::new(slot));
    period(&mut sense, &mut seen, 500);
    let (run, delay) = (seen.apps[0].run.unwrap(), seen.apps[0].runq_delay.unwrap());
    assert!(delay.0 * 5 >= seen.window.0, "it waited {delay:?} and ran {run:?} of {:?}", seen.window);
    assert!(seen.cpus[1].runq_delay.unwrap() >= delay);
    assert!(seen.other.runq_delay.unwrap().0 > 0);
    let histogram = sense.totals().delay_histogram;
    assert!(histogram[20..].iter().sum::<u64>() > 0, "waits of a millisecond and more: {histogram:?}");
}

#[test]
fn a_ping_pong_is_counted_in_switches_and_wakeups() {
    let _alone = alone();
    pin_self(1);
    let Some((mut sense, mut seen, _)) = open() else { return };
    let mut echo = Job(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let (mut to, mut from) = (echo.0.stdin.take().unwrap(), echo.0.stdout.take().unwrap());
    let mut byte = [0];
    let mut ping = |n: u32| {
        for _ in 0..n {
            to.write_all(b"x").unwrap();
            from.read_exact(&mut byte).unwrap();
        }
    };
    ping(10);
    sense.sample(now(), &mut seen);
    ping(1000);
    sense.sample(now(), &mut seen);
    // Both are pinned to CPU 1 (the child inherits it), so a round is two switches. `cat` is woken in
    // each; we are only if the answer was not there before we came to read it.
    let cpu = seen.cpus[1];
    assert!(cpu.switches.unwrap() >= 2000 && cpu.wakeups.unwrap() >= 1000, "{cpu:?}");
}

#[test]
fn a_runners_end_and_its_long_waits_are_told_at_once_and_not_too_often() {
    let _alone = alone();
    pin_self(0);
    let mut app = job(SPIN, 1, false);
    let rivals: Vec<Job> = (0..2).map(|_| job(SPIN, 1, false)).collect();
    let Some((mut sense, _, _)) = open() else { return };
    let slot = AppSlot(63);
    sense.add_app(slot, app.0.id()).unwrap();
    sense.set_runq_bound(slot, Some(Nanos(1)));
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(400));
    sense.set_runq_bound(slot, None);
    let gone = start.elapsed().as_millis();
    let mut delays = Vec::new();
    sense.drain_events(&mut |e| match e {
        Event::AppDelayed { slot: s, delay } => delays.push((s, delay)),
        other => panic!("{other:?}"),
    });
    assert!(!delays.is_empty() && delays.iter().all(|&(s, d)| s == slot && d.0 > 1), "{delays:?}");
    assert!(delays.len() as u128 <= gone + 1, "at most one a millisecond: {} in {gone} ms", delays.len());
    drop(rivals);

    app.0.kill().unwrap();
    let fd = sense.events_fd().unwrap();
    let mut polled = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
    assert_eq!(nix::poll::poll(&mut polled, 10_000u16), Ok(1), "the ring wakes who polls");
    let mut events = Vec::new();
    sense.drain_events(&mut |e| events.push(e));
    assert_eq!(events, [Event::RunnerExited { slot }]);
}

#[test]
fn delay_events_of_a_storm_are_at_most_one_a_millisecond() {
    let _alone = alone();
    pin_self(1);
    let Some((mut sense, mut seen, _)) = open() else { return };
    let slot = AppSlot(2);
    // Ourselves: every round of the ping-pong is a wait of some ns.
    sense.add_app(slot, std::process::id()).unwrap();
    let mut echo = Job(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let (mut to, mut from) = (echo.0.stdin.take().unwrap(), echo.0.stdout.take().unwrap());
    sense.sample(now(), &mut seen);
    sense.set_runq_bound(slot, Some(Nanos(1)));
    let start = Instant::now();
    let mut byte = [0];
    for _ in 0..2000 {
        to.write_all(b"x").unwrap();
        from.read_exact(&mut byte).unwrap();
    }
    sense.set_runq_bound(slot, None);
    let ms = start.elapsed().as_micros().div_ceil(1000);
    sense.sample(now(), &mut seen);
    let mut told = 0u128;
    sense.drain_events(&mut |_| told += 1);
    assert!(seen.cpus[1].switches.unwrap() >= 4000, "{:?}", seen.cpus[1]);
    assert!(told >= 1 && told <= ms + 1, "{told} events in {ms} ms");
    assert_eq!(seen.lost, 0);
}

#[test]
fn events_nobody_takes_fill_the_ring_and_are_counted_as_lost() {
    let _alone = alone();
    pin_self(1);
    let Some((mut sense, mut seen, _)) = open() else { return };
    let mut echo = Job(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    for (slot, tgid) in [(AppSlot(0), std::process::id()), (AppSlot(1), echo.0.id())] {
        sense.add_app(slot, tgid).unwrap();
        sense.set_runq_bound(slot, Some(Nanos(1)));
    }
    let (mut to, mut from) = (echo.0.stdin.take().unwrap(), echo.0.stdout.take().unwrap());
    let mut byte = [0];
    let start = Instant::now();
    while seen.lost == 0 && start.elapsed() < Duration::from_secs(60) {
        for _ in 0..1000 {
            to.write_all(b"x").unwrap();
            from.read_exact(&mut byte).unwrap();
        }
        sense.sample(now(), &mut seen);
    }
    assert!(seen.lost > 0, "the ring holds 64 KiB");
    let mut held = 0;
    sense.drain_events(&mut |_| held += 1);
    // 24 bytes each with the ring's own header.
    assert!((2000..=2731).contains(&held), "{held}");
}

#[test]
fn an_idle_cpu_is_counted_by_the_idle_hook() {
    let _alone = alone();
    pin_self(0);
    let Some((mut sense, mut seen, _)) = open() else { return };
    let idled = |s: &Sense| s.totals().hooks.iter().find(|h| h.hook == "cpu_idle").unwrap().fired;
    for _ in 0..20 {
        let before = idled(&sense);
        period(&mut sense, &mut seen, 300);
        let idlest = seen.cpus.iter().max_by_key(|c| c.idle).unwrap();
        // Several idle times, so that ended ones count, not only the open one.
        if idlest.idle.unwrap().0 > 0 && idled(&sense) >= before + 10 {
            // Busy and idle share the window, but for the way into and out of an idle state.
            let busy = u64::from(idlest.busy.unwrap().0) * seen.window.0 / 1024;
            let sum = busy + idlest.idle.unwrap().0;
            let (low, high) = (seen.window.0 * 90 / 100, seen.window.0 * 102 / 100);
            assert!((low..=high).contains(&sum), "{idlest:?} of {:?}", seen.window);
            return;
        }
    }
    println!(
        "skipped: needs a CPU that idles, or a kernel whose idle loop has the hook ({} events)",
        idled(&sense)
    );
}

#[test]
fn without_bpf_proc_stands_in_and_says_what_is_lost() {
    let _alone = alone();
    pin_self(0);
    let app = job(SPIN, 1, true);
    let options = SenseOptions { use_bpf: UseBpf::Never, ..SenseOptions::default() };
    let (mut sense, lost) = Sense::open(&board(), &options);
    assert!(!sense.by_bpf() && sense.events_fd().is_none());
    assert!(lost.iter().any(|l| l.what == "BPF telemetry"), "{lost:?}");
    let mut seen = Snapshot::new(sense.cpus(), 1, sense.signals().len());
    let slot = AppSlot(1);
    sense.add_app(slot, app.0.id()).unwrap();
    seen.apps.push(AppSample::new(slot));
    period(&mut sense, &mut seen, 500);
    assert!(seen.cpus[1].busy.unwrap().0 >= 900, "{:?}", seen.cpus[1]);
    assert_eq!((seen.cpus[1].switches, seen.domains[0].transitions), (None, None));
    assert!(
        seen.apps[0].run.unwrap().0 * 100 >= seen.window.0 * 80,
        "{:?} of {:?}",
        seen.apps[0].run,
        seen.window
    );
    assert!(seen.apps[0].runq_delay.is_some());
}
