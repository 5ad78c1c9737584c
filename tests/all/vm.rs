//! What the VM itself promises, and the agent in it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use tandem_tests::guest::{
    Options, Output, between, is_run_of, missing, parse_pstates, run, scripts, share, traced,
};

/// Skips the test, saying so, where the guest cannot run.
macro_rules! need_vm {
    () => {
        if let Some(why) = missing() {
            println!("skipped: needs QEMU ({why})");
            return;
        }
    };
}

/// The one run that the tests of this module look at: `selftest.sh` on a board with a domain of two CPUs.
fn selftest() -> &'static Output {
    static RUN: OnceLock<Output> = OnceLock::new();
    RUN.get_or_init(|| {
        let share = share("selftest").unwrap();
        let spin = share.join("spin");
        let cc = Command::new("cc")
            .args(["-O2", "-static", "-o"])
            .arg(&spin)
            .arg(scripts().join("spin.c"))
            .status();
        assert!(cc.unwrap().success(), "cc cannot build spin.c");
        let board = ["2:400,800,1600", "1:500,1000,2000"];
        let options = Options { domains: &board, ..Options::default() };
        let script = scripts().join("selftest.sh");
        let out = run(&format!("sh '{}'", script.display()), &share, &options).unwrap();
        assert_eq!(out.status, 0, "{}", out.console);
        out
    })
}

fn left(run: &Output, file: &str) -> String {
    std::fs::read_to_string(run.share.join(file)).unwrap_or_else(|e| panic!("{file}: {e}\n{}", run.console))
}

/// Lines of `after` that `before` has not, and the other way round.
fn changed<'a>(before: &'a str, after: &'a str) -> Vec<&'a str> {
    let missing_in = |a: &'a str, b: &'a str| a.lines().filter(move |l| !b.lines().any(|m| m == *l));
    missing_in(before, after).chain(missing_in(after, before)).collect()
}

#[test]
fn guest_has_what_an_agent_builds_on() {
    need_vm!();
    let facts = left(selftest(), "facts.txt");
    for fact in [
        "cpus 4",
        // The free CPU (3) has no policy, and does not cost the other domain its coordination.
        "policy 0 cpus 0 1",
        "policy 2 cpus 2",
        "has /sys/kernel/btf/vmlinux",
        "has /sys/kernel/tracing/events/power/cpu_frequency",
        "has /sys/fs/bpf",
        "has /sys/fs/cgroup/cpu.stat",
        "has /dev/shm",
        "has /run",
        "has /proc/pressure/cpu",
        "clocksource tsc",
        "drops root to nobody",
    ] {
        assert!(facts.lines().any(|l| l == fact), "no {fact:?} in\n{facts}");
    }
    assert_eq!(facts.matches("policy ").count(), 2, "{facts}");
    let controllers = facts.lines().find_map(|l| l.strip_prefix("controllers ")).unwrap();
    for c in ["cpu", "cpuset"] {
        assert!(controllers.split(' ').any(|x| x == c), "no cgroup2 controller {c}: {controllers}");
    }
}

#[test]
fn every_setspeed_write_arrives_on_the_host_in_order() {
    need_vm!();
    let run = selftest();
    let (writes, trace) = (left(run, "writes.txt"), left(run, "frequency.txt"));
    for (domain, cpu) in [(0, 0), (1, 2)] {
        // What was written, without the writes that asked for the frequency already there: the kernel drops those.
        let prefix = format!("{cpu} ");
        let mut written: Vec<u32> = writes
            .lines()
            .filter_map(|l| l.strip_prefix(&prefix))
            .map(|khz| khz.parse::<u32>().unwrap() / 1000)
            .collect();
        assert_eq!(written.len(), 30, "{writes}");
        let arrived = between(&run.pstates, domain, 40, 41).unwrap();
        written.dedup();
        // The first write may find its frequency set already.
        if arrived.len() + 1 == written.len() {
            written.remove(0);
        }
        assert_eq!(arrived, written, "domain {domain}");
        assert_eq!(
            traced(&trace, cpu).unwrap(),
            arrived,
            "domain {domain}: the kernel's trace against the host's log"
        );
    }
}

#[test]
fn speed_follows_the_opp() {
    need_vm!();
    let text = left(selftest(), "spin.txt");
    let speed = |name: &str| -> f64 {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap_or_else(|| panic!("no {name:?} in {text}"));
        line.trim().parse().unwrap()
    };
    // Twice the clock is about twice the speed; loose, since a late host slows the guest.
    for (low, high) in [("500000 ", "1000000 "), ("1000000 ", "2000000 ")] {
        let ratio = speed(high) / speed(low);
        assert!((1.5..=2.5).contains(&ratio), "{high} against {low}: {ratio} in\n{text}");
    }
    assert!(speed("free ") > speed("2000000 "), "the free CPU is throttled:\n{text}");
}

#[test]
fn guest_clock_agrees_with_the_hosts() {
    need_vm!();
    let run = selftest();
    let at = |mark| run.pstates.iter().find(|p| p.domain == 0 && p.index == mark).unwrap().at_s;
    let host = at(51) - at(50);
    let guest: Vec<f64> = left(run, "clock.txt").lines().map(|l| l.parse().unwrap()).collect();
    // Loose, since marks may come late; a guest that measured its own clock on a loaded host was wrong by 9.
    let ratio = (guest[1] - guest[0]) / host;
    assert!((0.7..=1.4).contains(&ratio), "guest {guest:?} s, host {host} s");
}

#[test]
fn settings_tool_tells_one_changed_tunable() {
    need_vm!();
    let [a, b, c] = ["a", "b", "c"].map(|n| left(selftest(), &format!("settings-{n}.txt")));
    let path = "/sys/devices/system/cpu/cpufreq/ondemand/up_threshold";
    assert_eq!(changed(&a, &b), [format!("{path}:77"), format!("{path}:78")]);
    assert_eq!(a, c, "put back, it must read as before");
    for part in [
        "scaling_max_freq:1000000",
        "conservative/freq_step:13",
        "co-runner/cpu.weight:37",
        "co-runner/cpu.max:60000 90000",
    ] {
        assert!(a.contains(part), "no {part} in\n{a}");
    }
}

#[test]
fn settings_tool_tells_tunables_lost_by_a_governor_that_goes_and_comes_back() {
    need_vm!();
    let [a, d] = ["a", "d"].map(|n| left(selftest(), &format!("settings-{n}.txt")));
    let lost = changed(&a, &d);
    for tunable in ["up_threshold:77", "sampling_down_factor:3", "ignore_nice_load:1", "powersave_bias:50"] {
        assert!(lost.iter().any(|l| l.ends_with(tunable)), "{tunable} is not among {lost:?}");
    }
    assert!(lost.iter().all(|l| l.contains("/ondemand/")), "{lost:?}");
}

/// The restore test of the agent (`e2e.sh`), tried on a stand-in: it passes on one that puts everything back,
/// and fails, naming the setting, on one that forgets a tunable.
#[test]
fn restore_test_passes_on_a_clean_agent_and_names_what_a_forgetful_one_left() {
    need_vm!();
    let share = share("stand-in").unwrap();
    let dir = scripts();
    let dir = dir.display();
    let e2e =
        format!("SECONDS_EACH=1 CHANGES=200 CONFIG=none TANDEM='{dir}/stand-in-agent' sh '{dir}/e2e.sh'");
    let command = format!(
        "mkdir clean forgetful; OUT=/mnt/clean {e2e}; echo $? > clean/rc; FORGET=up_threshold ROUNDS=term OUT=/mnt/forgetful {e2e}; echo $? > forgetful/rc"
    );
    let run = run(&command, &share, &Options::default()).unwrap();
    assert_eq!(run.status, 0, "{}", run.console);
    let clean = left(&run, "clean/result.txt");
    assert_eq!(left(&run, "clean/rc").trim(), "0", "{clean}\n{}", run.console);
    assert_eq!(clean.matches("ok: ").count(), 10, "{clean}");
    let forgetful = left(&run, "forgetful/result.txt");
    assert_eq!(left(&run, "forgetful/rc").trim(), "1", "{forgetful}\n{}", run.console);
    assert!(forgetful.contains("FAIL: term: every setting is back"), "{forgetful}");
    assert!(run.console.contains("up_threshold:77"), "{}", run.console);
    // Hundreds of OPP changes of a real loop, in order, on both domains.
    for (domain, cpu) in [(0, 0), (1, 1)] {
        let mut arrived = between(&run.pstates, domain, 40, 41).unwrap();
        let mut kernel = traced(&left(&run, "clean/frequency-term.txt"), cpu).unwrap();
        arrived.dedup();
        kernel.dedup();
        assert!(kernel.len() >= 50, "only {} changes in domain {domain}", kernel.len());
        assert!(is_run_of(&kernel, &arrived), "domain {domain}: kernel {kernel:?}\nhost {arrived:?}");
        let swapped: Vec<u32> = kernel.iter().copied().rev().collect();
        assert!(!is_run_of(&swapped, &arrived), "the comparison does not see the order");
    }
}

#[test]
fn guest_that_hangs_is_killed() {
    need_vm!();
    let share = share("hang").unwrap();
    let run = run("sleep 1000", &share, &Options { seconds: 5, ..Options::default() }).unwrap();
    assert_eq!(run.status, 124, "{}", run.console);
    assert!(run.console.contains("was killed"), "{}", run.console);
    assert!(share.join(".vm/console.txt").exists());
}

#[test]
fn exit_status_and_quoting_of_a_command_survive() {
    need_vm!();
    let share = share("status").unwrap();
    let run = run("echo \"a  'b' $((6 * 7))\"; exit 42", &share, &Options::default()).unwrap();
    assert_eq!(run.status, 42, "{}", run.console);
    assert!(run.console.contains("a  'b' 42\n"), "{}", run.console);
    assert!(share.join(".vm/dmesg.txt").exists(), "a failed job leaves the kernel's log");
}

#[test]
fn marks_divide_the_log_and_bad_lines_are_told() {
    let text = "t_s,domain,pstate,mhz,x\n0.5,0,2,400,1\n1.0,0,40,,1\n1.1,0,0,1600,1\n1.2,1,0,2000,1\n1.3,0,1,800,1\n1.4,0,41,,1\n1.5,0,2,400,1\n# energy_mj 3\n";
    let log = parse_pstates(text).unwrap();
    assert_eq!(log.len(), 7);
    assert_eq!(between(&log, 0, 40, 41).unwrap(), [1600, 800]);
    assert_eq!(between(&log, 1, 40, 41).unwrap_err().to_string(), "no mark 40 in domain 1");
    let error = format!("{:#}", parse_pstates("head\n0.5,0,x,400\n").unwrap_err());
    assert!(error.starts_with("line 2: \"0.5,0,x,400\""), "{error}");
    assert!(traced("cpu_frequency: state=800000 cpu_id=0\nnonsense\n", 0).is_err());
}

/// The real agent, runner, policies and eBPF on the kernel's own cpufreq: clocks move, arrive on the host in
/// order, and every setting is back after TERM and after an injected panic.
#[test]
fn agent_governs_the_kernels_clocks_and_puts_every_setting_back() {
    crate::needs!(tandem_tests::lacking());
    need_vm!();
    let share = share("agent").unwrap();
    let config = format!(
        "run-dir = \"/run/tandem\"\nboard = \"/mnt/board.toml\"\ndecide-deadline-us = 50000\npolicy = \"schedutil\"\n{}\n[[app]]\nname = \"camera\"\nlatency-ms = 100\n",
        tandem_tests::policy_sets()
    );
    std::fs::write(share.join("tandem.toml"), config).unwrap();
    let tandem = tandem_tests::program("tandem");
    let (tandem, runner) = (tandem.display(), tandem_tests::program("dnn-runner"));
    let model = tandem_tests::repository().join("dnn-runner/models/mlcad-fmnist.toml");
    let runner = format!(
        "{} --name camera --socket /run/tandem/runner.sock --model {} --dataset /usr/share/datasets/fashion-mnist --rate 5 --arrivals poisson --batch 4 --top1-floor 0",
        runner.display(),
        model.display()
    );
    let dir = scripts();
    let command = format!(
        "'{tandem}' board probe > /mnt/board.toml && TANDEM='{tandem}' ARGS=--allow-panic CONFIG=/mnt/tandem.toml SECONDS_EACH=12 CHANGES=60 RUNNER='{runner}' sh '{}/e2e.sh'",
        dir.display()
    );
    let run = run(&command, &share, &Options::default()).unwrap();
    let result = left(&run, "result.txt");
    assert_eq!(run.status, 0, "{result}\n{}", run.console);
    assert!(left(&run, "board.toml").contains("kind = \"cpufreq\""));

    let status: tandem::status::Status = {
        let text = left(&run, "status-term.json");
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        serde_json::from_value(answer).unwrap()
    };
    assert_eq!(status.sensing, "eBPF", "{:?}", status.lost);
    assert!(status.domains.iter().all(|d| d.kind == "cpufreq" && d.opp.is_some()), "{status:?}");
    assert!(status.apps.iter().any(|a| a.name == "camera" && a.done > 0), "{status:?}");
    let mut changes = 0;
    for round in [("term", 40, 41), ("panic", 42, 43)] {
        let trace = left(&run, &format!("frequency-{}.txt", round.0));
        for (domain, cpu) in [(0, 0), (1, 1)] {
            let mut arrived = between(&run.pstates, domain, round.1, round.2).unwrap();
            let mut traced = traced(&trace, cpu).unwrap();
            // A fast switch to where the clock is already is an event without a write (acpi_cpufreq_fast_switch).
            arrived.dedup();
            traced.dedup();
            assert!(is_run_of(&traced, &arrived), "{}: domain {domain}: {traced:?} in {arrived:?}", round.0);
            changes += arrived.len();
        }
    }
    println!("{changes} OPP changes of the agent arrived on the host in order");
    assert!(changes >= 50, "{changes} OPP changes\n{result}\n{}", left(&run, "agent-term.log"));
}

/// The kernel's step_wise governor holds a clock down while the policy wants the top: the agent sees it as an outside
/// limit, says so, never stands above it, and leaves the limits as they were.
#[test]
fn kernels_thermal_cap_is_seen_and_respected() {
    crate::needs!(tandem_tests::lacking());
    need_vm!();
    let share = share("thermal").unwrap();
    let policies = tandem_tests::repository().join("target/policies");
    let config = format!(
        "run-dir = \"/run/tandem\"\nboard = \"auto\"\ndecide-deadline-us = 50000\npolicy = \"top\"\n[policies.top]\nallocator = \"{0}/performance.wasm\"\ntuner = \"{0}/fixed.wasm\"\n",
        policies.display()
    );
    std::fs::write(share.join("tandem.toml"), config).unwrap();
    let command = format!(
        "TANDEM='{}' CONFIG=/mnt/tandem.toml SECONDS_EACH=15 sh '{}/thermal.sh'",
        tandem_tests::program("tandem").display(),
        scripts().display()
    );
    let more = ["-t", "-x", "--rth 18 --tau 4"];
    let run = run(&command, &share, &Options { more: &more, ..Options::default() }).unwrap();
    assert_eq!(run.status, 0, "{}\n{}", run.console, left(&run, "agent.log"));
    let text = left(&run, "status.txt");
    let states: Vec<tandem::status::Status> =
        text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect();
    let (mut capped, mut top) = (0, 0);
    for d in states.iter().flat_map(|s| &s.domains) {
        let highest = d.opps - 1;
        match (d.cap, d.opp) {
            (Some(cap), Some(opp)) if cap < highest => {
                capped += 1;
                // The kernel itself clamps at once; the two readings are one tick apart at most.
                assert!(opp <= cap, "OPP {opp} above the cap {cap}");
            }
            (_, Some(opp)) => top += u32::from(opp == highest),
            _ => {}
        }
    }
    println!("{} looks: {capped} with a cap below the top, {top} at the top without one", states.len());
    assert!(capped >= 3 && top >= 1, "{text}\n{}", left(&run, "zone.txt"));
    assert_eq!(left(&run, "before.txt"), left(&run, "after.txt"));
}

/// One scenario by the agent's policies and by the kernel's schedutil: frames, co-runner, a changed target, energy.
#[test]
fn scenario_is_played_by_the_agent_and_by_a_kernel_governor() {
    crate::needs!(tandem_tests::lacking());
    need_vm!();
    let share = share("scenario").unwrap();
    let file = share.join("short.toml");
    let text = "about = \"a test\"\nlength-s = 8.0\nwarm-up-s = 1.0\n[[app]]\nname = \"camera\"\nnetwork = \"mlcad-fmnist\"\nlargest-ms = 20.0\nframes = { kind = \"periodic\", rate-hz = 10.0 }\ntargets = [{ latency-ms = 90.0 }, { at-s = 4.0, latency-ms = 60.0 }]\n[[co-runner]]\nname = \"burn\"\nfrom-s = 3.0\nto-s = 6.0\n";
    std::fs::write(&file, text).unwrap();
    for (policy, out) in [("tandem", "agent"), ("kernel:schedutil?subnet=0", "kernel")] {
        let out = share.join(out);
        let done = Command::new(tandem_tests::program("scenario"))
            .arg(&file)
            .args(["--vm", "odroid-xu3", "--policy", policy, "--out"])
            .arg(&out)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        // A void run says so and fails; what it left is complete all the same.
        let result = std::fs::read(out.join("result.json")).unwrap_or_else(|e| panic!("{e}\n{said}"));
        let results: Vec<serde_json::Value> = serde_json::from_slice(&result).unwrap();
        let [result] = &results[..] else { panic!("{} runs\n{said}", results.len()) };
        let app = &result["apps"][0];
        // 70 came; a host that stalls may have dropped some.
        assert!((30..=75).contains(&app["frames"].as_u64().unwrap()), "{said}");
        assert!(app["accuracy"].as_f64().unwrap() > 0.7, "{said}");
        assert!(result["co_runners"][0].as_f64().unwrap() > 1.0, "{said}");
        let mj: f64 =
            result["host"]["domains_mj"].as_array().unwrap().iter().map(|e| e.as_f64().unwrap()).sum();
        let seconds = result["host"]["seconds"].as_f64().unwrap();
        assert!((6.0..30.0).contains(&seconds) && mj > 100.0, "{said}");
        if policy != "tandem" {
            assert_eq!(app["by_subnet"].as_object().unwrap().len(), 1, "{said}");
        }
    }
}

/// The agent's own test program, its tests against a real kernel only: governors with all their tunables, limits under
/// a thermal cap, devfreq. On a machine without such clocks they print that they were skipped; here none may.
#[test]
fn actuators_pass_against_the_kernels_own_clocks() {
    crate::needs!(tandem_tests::lacking());
    need_vm!();
    let deps = tandem_tests::program("deps");
    let mut programs: Vec<_> = std::fs::read_dir(&deps)
        .unwrap()
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| {
            p.extension().is_none()
                && p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("tandem-"))
        })
        .collect();
    programs.sort_by_key(|p| std::cmp::Reverse(p.metadata().and_then(|m| m.modified()).ok()));
    let has_them = |p: &&PathBuf| {
        let list = Command::new(p).arg("--list").output();
        list.is_ok_and(|l| String::from_utf8_lossy(&l.stdout).contains("actuate::real::"))
    };
    let program =
        programs.iter().find(has_them).expect("the agent's unit tests are built (cargo test --workspace)");
    let share = share("actuators").unwrap();
    let command =
        format!("TANDEM_TEST_CPUFREQ=1 '{}' --test-threads 1 --nocapture actuate::real::", program.display());
    let options =
        Options { domains: &[], free: 0, more: &["-t", "-D", "200,400,600,850"], ..Options::default() };
    let run = run(&command, &share, &options).unwrap();
    assert_eq!(run.status, 0, "{}", run.console);
    assert!(run.console.contains("test result: ok"), "{}", run.console);
    assert!(!run.console.contains("skipped: "), "{}", run.console);
}
