//! The real agent and the real runner over the real channel, on this machine: eBPF, the stand-in domain.

use channel::handshake::{HandshakeError, connect};
use channel::hello::{Hello, PROTOCOL, Report, SubnetHello};
use channel::msg::FeedbackMsg;
use nix::sys::signal::Signal;
use std::time::Duration;
use tandem::control::{Answer, Command};
use tandem_tests::{Agent, AgentOptions, Runner, lacking, settings};

const FLOW: [&str; 6] = ["--rate", "40", "--batch", "8", "--top1-floor", "0"];

fn hello(name: &str) -> Hello {
    let subnet = |name: &str, top1, macs| SubnetHello { name: name.into(), top1, macs, params: macs };
    Hello {
        protocol: PROTOCOL,
        name: name.into(),
        manifest_digest: "0".repeat(64),
        weights_digest: "0".repeat(64),
        subnets: vec![subnet("small", 8000, 1000), subnet("large", 9000, 4000)],
        failsafe: 0,
        threads_max: 1,
        pid: std::process::id(),
        tids: None,
        latency_ns: None,
        top1_floor: None,
        report: Report { network: "fake".into(), batch: 1 },
    }
}

#[test]
fn hundred_swaps_lose_no_inference_and_no_tick() {
    needs!(lacking());
    let agent = Agent::start(&AgentOptions::default()).expect("agent");
    let runner = Runner::start(&agent.socket(), "camera", &FLOW).expect("runner");
    agent.app("camera", 5).expect("frames flow");
    let before = agent.status().expect("status");
    for i in 0..100 {
        let set = ["performance", "tandem", "schedutil", "ondemand", "powersave"][i % 5];
        let answer = agent.ask(&Command::Swap { set: set.into() }).expect("swap");
        assert!(matches!(answer, Answer::Done(_)), "{answer:?}");
    }
    let after = agent.status().expect("status");
    assert_eq!(after.policy.swaps - before.policy.swaps, 100);
    assert_eq!(after.policy.state, "serving");
    assert_eq!(after.ticks.missed, 0, "worst lateness {} us", after.ticks.late_max_us);
    let seen = agent.app("camera", after.apps[0].done + 5).expect("frames still flow");
    assert_eq!(seen.dropped, 0);
    assert!(seen.arrived - seen.done <= 2, "by the totals in shared memory: {seen:?}");
    let report = runner.end().expect("report");
    let total = |name: &str| report["totals"][name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"));
    let waiting = report["waiting"].as_u64().expect("waiting");
    assert_eq!(total("arrived"), total("done") + total("dropped") + waiting, "{report}");
    assert!(waiting <= 2, "{report}");
    assert_eq!(total("dropped"), 0);
}

#[test]
fn busy_cpu_is_seen_and_the_runner_is_told() {
    needs!(lacking());
    let agent = Agent::start(&AgentOptions::default()).expect("agent");
    let runner = Runner::start(&agent.socket(), "camera", &FLOW).expect("runner");
    let app = agent.app("camera", 20).expect("frames flow");
    let status = agent.status().expect("status");
    assert_eq!(status.sensing, "eBPF", "{:?}", status.lost);
    assert!(app.run_permille.is_some_and(|r| r > 0), "{app:?}");
    assert!(app.told_subnet.is_some(), "{app:?}");
    assert!(status.domains[0].util.is_some_and(|u| u > 0), "{status:?}");
    assert_eq!(app.pid, runner.pid());
}

#[test]
fn term_restores_every_setting() {
    needs!(lacking());
    restores(|agent| agent.end(Signal::SIGTERM).expect("end").success());
}

#[test]
fn panic_restores_every_setting() {
    needs!(lacking());
    restores(|agent| {
        let _ = agent.ask(&Command::Panic {});
        !agent.wait().expect("end").success()
    });
}

fn restores(end: impl FnOnce(&mut Agent) -> bool) {
    // A runner without an agent: the settings to come back to.
    let nowhere = tempfile::tempdir().expect("temp dir");
    std::fs::set_permissions(nowhere.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("mode");
    let options = AgentOptions::default();
    let mut agent = Agent::start(&options).expect("agent");
    let link = nowhere.path().join("runner.sock");
    let runner = Runner::start(&link, "camera", &FLOW).expect("runner");
    std::thread::sleep(Duration::from_millis(300));
    // The agent was already there: its own group without members is part of what must go.
    let held = settings(runner.pid());
    assert!(held.contains("/tandem/"), "the agent has made no group:\n{held}");
    std::os::unix::fs::symlink(agent.socket(), &link).expect("link");
    agent.app("camera", 3).expect("frames flow");
    let during = settings(runner.pid());
    assert_ne!(held, during, "the agent has not moved the runner");
    assert!(end(&mut agent), "exit code of the agent:\n{}", agent.log());
    let after = settings(runner.pid());
    assert!(!after.contains("/tandem/"), "something of the agent's is left:\n{after}\n{}", agent.log());
    let strip = |text: &str| {
        text.lines().filter(|l| !l.contains("/tandem/")).map(|l| format!("{l}\n")).collect::<String>()
    };
    assert_eq!(strip(&held), strip(&after), "\n{}", agent.log());
}

#[test]
fn killed_agent_is_repaired_by_the_next_start() {
    needs!(lacking());
    let mut agent = Agent::start(&AgentOptions::default()).expect("agent");
    let _runner = Runner::start(&agent.socket(), "camera", &FLOW).expect("runner");
    agent.app("camera", 3).expect("frames flow");
    agent.end(Signal::SIGKILL).expect("killed");
    let pid = std::process::id();
    assert!(settings(pid).contains("/tandem/"), "nothing was left to repair");
    let entries = std::process::Command::new(tandem_tests::program("tandem"))
        .args(["restore", "--run-dir"])
        .arg(agent.run_dir())
        .output()
        .expect("tandem restore");
    assert!(entries.status.success(), "{entries:?}");
    assert!(!settings(pid).contains("/tandem/"), "{}", settings(pid));
}

#[test]
fn observe_writes_nothing() {
    needs!(lacking());
    let before = settings(std::process::id());
    let options = AgentOptions { args: vec!["--observe".into()], ..AgentOptions::default() };
    let agent = Agent::start(&options).expect("agent");
    let _runner = Runner::start(&agent.socket(), "camera", &FLOW).expect("runner");
    let app = agent.app("camera", 10).expect("frames flow");
    assert_eq!(app.told_subnet, None);
    assert!(agent.status().expect("status").observe);
    assert_eq!(before, settings(std::process::id()));
}

#[test]
fn without_bpf_the_agent_runs_and_says_what_is_lost() {
    needs!(lacking());
    let options = AgentOptions { args: vec!["--no-bpf".into()], ..AgentOptions::default() };
    let agent = Agent::start(&options).expect("agent");
    let _runner = Runner::start(&agent.socket(), "camera", &FLOW).expect("runner");
    let app = agent.app("camera", 20).expect("frames flow");
    let status = agent.status().expect("status");
    assert_eq!(status.sensing, "/proc");
    assert!(!status.lost.is_empty());
    assert!(app.run_permille.is_some(), "{app:?}");
}

#[test]
fn both_ends_may_restart_alone() {
    needs!(lacking());
    let options = AgentOptions::default();
    let agent = Agent::start(&options).expect("agent");
    let runner = Runner::start(&agent.socket(), "camera", &FLOW).expect("runner");
    agent.app("camera", 5).expect("frames flow");
    runner.kill().expect("kill the runner");
    let runner = Runner::start(&agent.socket(), "camera", &FLOW).expect("second runner");
    let there = (0..300).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        agent.app("camera", 5).expect("frames flow again").pid == runner.pid()
    });
    assert!(there, "the second runner is not there:\n{}", agent.log());

    // A stable path to whichever agent lives.
    let dir = tempfile::tempdir().expect("temp dir");
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    let link = dir.path().join("runner.sock");
    std::os::unix::fs::symlink(agent.socket(), &link).expect("link");
    drop(runner);
    let runner = Runner::start(&link, "camera", &FLOW).expect("third runner");
    agent.app("camera", 5).expect("frames flow");
    drop(agent);
    std::thread::sleep(Duration::from_millis(300));
    let agent = Agent::start(&options).expect("second agent");
    std::fs::remove_file(&link).expect("unlink");
    std::os::unix::fs::symlink(agent.socket(), &link).expect("link again");
    agent.app("camera", 5).expect("the runner came back by itself");
    let report = runner.end().expect("report");
    let total = |name: &str| report["totals"][name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"));
    let waiting = report["waiting"].as_u64().expect("waiting");
    assert_eq!(total("arrived"), total("done") + total("dropped") + waiting, "{report}");
    assert!(waiting <= 2, "{report}");
}

#[test]
fn second_agent_on_the_machine_is_refused() {
    needs!(lacking());
    let first = Agent::start(&AgentOptions::default()).expect("agent");
    let mut second = Agent::spawn(&AgentOptions::default()).expect("spawn");
    assert!(!second.wait().expect("ends").success());
    let said = second.log();
    assert!(
        said.contains(&format!("pid {}", first.pid())) && said.contains("one agent per machine"),
        "{said}"
    );
    assert!(first.status().is_ok(), "the first one serves on");
}

#[test]
fn broken_policies_refuse_the_start_and_a_swap_leaves_the_old_one_serving() {
    needs!(lacking());
    let dir = tempfile::tempdir().expect("temp dir");
    let junk = dir.path().join("junk.wasm");
    std::fs::write(&junk, "not wasm").expect("write");
    let tuner = tandem_tests::component("fixed");
    let set = |name: &str, allocator: &std::path::Path, act: &str| {
        let params =
            if act.is_empty() { String::new() } else { format!("allocator-params = {{ do = {act:?} }}\n") };
        format!("[policies.{name}]\nallocator = {allocator:?}\ntuner = {tuner:?}\n{params}")
    };
    let hostile = tandem_tests::component("hostile/allocator");
    let mut tail = AgentOptions::default().tail + &set("junk", &junk, "") + &set("world", &tuner, "");
    for act in ["trap-in-start", "refuse", "trap", "no-such-opp", "spin", "short"] {
        tail += &set(act, &hostile, act);
    }
    let mut refused =
        Agent::spawn(&AgentOptions { policy: "junk".into(), tail: tail.clone(), ..Default::default() })
            .expect("spawn");
    assert!(!refused.wait().expect("ends").success());
    assert!(refused.log().contains("junk.wasm"), "{}", refused.log());

    let agent = Agent::start(&AgentOptions { tail, ..Default::default() }).expect("agent");
    let _runner = Runner::start(&agent.socket(), "camera", &FLOW).expect("runner");
    agent.app("camera", 3).expect("frames flow");
    for (set, why) in [
        ("junk", "junk.wasm"),
        ("world", "tuner"),
        ("trap-in-start", "trap"),
        ("refuse", "refused"),
        ("trap", "trap"),
        ("no-such-opp", "opp"),
        ("spin", "deadline"),
        ("short", "domains"),
        ("nowhere", "nowhere"),
    ] {
        let error = agent.ask(&Command::Swap { set: set.into() }).expect_err(set).to_string();
        assert!(error.to_lowercase().contains(why), "{set}: {error}");
        let status = agent.status().expect("status");
        assert_eq!(
            (status.policy.set.as_str(), status.policy.state.as_str()),
            ("tandem", "serving"),
            "{set}"
        );
    }
    let done = agent.status().expect("status").apps[0].done;
    agent.app("camera", done + 5).expect("frames still flow");
}

#[test]
fn target_is_changed_without_a_restart() {
    needs!(lacking());
    let agent = Agent::start(&AgentOptions::default()).expect("agent");
    let _runner = Runner::start(&agent.socket(), "camera", &FLOW).expect("runner");
    agent.app("camera", 3).expect("frames flow");
    let set = |name: &str, latency_ms| {
        agent.ask(&Command::AppSet {
            name: name.into(),
            latency_ms,
            top1: Some(85.0),
            power_mw: None,
            objective: None,
        })
    };
    set("camera", Some(12.5)).expect("set");
    let app = agent.app("camera", 5).expect("frames flow");
    assert_eq!((app.target_ms, app.top1_floor), (Some(12.5), Some(85.0)));
    let error = set("nobody-here", Some(1.0)).expect_err("unknown").to_string();
    assert!(error.contains("nobody-here"), "{error}");
    let error = set("camera", Some(-3.0)).expect_err("negative").to_string();
    assert!(error.contains("-3"), "{error}");
}

#[test]
fn hostile_runner_is_dropped_and_the_loop_goes_on() {
    needs!(lacking());
    let tail = format!("{}[[app]]\nname = \"evil-*\"\nuser = 0\n", AgentOptions::default().tail);
    let agent = Agent::start(&AgentOptions { tail, ..Default::default() }).expect("agent");
    let _runner = Runner::start(&agent.socket(), "camera", &FLOW).expect("runner");
    agent.app("camera", 3).expect("frames flow");

    let dropped = |rule: &str| {
        for _ in 0..300 {
            if agent.log().contains(rule) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{rule:?} is not in\n{}", agent.log());
    };
    let honest = FeedbackMsg { arrived_ns: 1, started_ns: 2, done_ns: 3, ..FeedbackMsg::default() };
    for (name, message, rule) in [
        ("evil-index", FeedbackMsg { subnet: 77, ..honest }, "sub-network 77"),
        ("evil-times", FeedbackMsg { done_ns: 0, ..honest }, "times rise"),
        ("evil-confidence", FeedbackMsg { confidence: 5000, ..honest }, "confidence 5000"),
    ] {
        let (mut end, connection) = connect(&agent.socket(), &hello(name)).expect(name);
        end.feedback.push(&message);
        dropped(rule);
        assert!(
            !agent.status().expect("status").apps.iter().any(|a| a.name == name),
            "{name} is still there"
        );
        drop(connection);
    }
    let done = agent.status().expect("status").apps[0].done;
    agent.app("camera", done + 5).expect("the honest one runs on");
    assert_eq!(agent.status().expect("status").ticks.missed, 0);
}

#[test]
fn names_belong_to_users_and_are_unique_and_the_65th_runner_is_refused() {
    needs!(lacking());
    let tail = format!("{}[[app]]\nname = \"many-*\"\nuser = 0\n", AgentOptions::default().tail);
    let agent = Agent::start(&AgentOptions { tail, ..Default::default() }).expect("agent");
    let refused = |name: &str| match connect(&agent.socket(), &hello(name)) {
        Err(HandshakeError::Refused(why)) => why,
        other => panic!("{name}: {other:?}"),
    };
    assert!(refused("unknown").contains("not in the configuration"));
    let mut all = Vec::new();
    for i in 0..64 {
        all.push(
            connect(&agent.socket(), &hello(&format!("many-{i}"))).unwrap_or_else(|e| panic!("{i}: {e}")),
        );
    }
    assert!(refused("many-0").contains("names are unique"));
    assert!(refused("many-64").contains("64 slots"));
    std::thread::sleep(Duration::from_millis(200));
    let status = agent.status().expect("status");
    assert_eq!(status.apps.len(), 64);
    assert_eq!(
        status.ticks.missed, 0,
        "64 arrivals cost no tick, worst lateness {} us",
        status.ticks.late_max_us
    );
    all.pop();
    std::thread::sleep(Duration::from_millis(100));
    connect(&agent.socket(), &hello("many-64")).expect("a free slot again");
}

#[test]
fn control_socket_refuses_garbage_and_strangers() {
    needs!(lacking());
    let agent = Agent::start(&AgentOptions::default()).expect("agent");
    let path = tandem::control::socket_path(agent.run_dir());
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("socket").permissions());
    assert_eq!(mode & 0o777, 0o660);
    let say = |text: &[u8]| {
        use std::io::{Read, Write};
        let mut s = std::os::unix::net::UnixStream::connect(&path).expect("connect");
        let _ = s.write_all(text);
        let mut answer = String::new();
        match s.read_to_string(&mut answer) {
            Ok(_) => answer,
            // What it had not read when it closed.
            Err(e) => format!("error: {e}"),
        }
    };
    assert!(say(b"{\"cmd\":\"status\",\"x\":1}\n").contains("error"));
    assert!(say(b"\xff\xfe\n").contains("error"));
    assert!(say(&vec![b'x'; 70_000]).contains("error"));
    assert!(agent.status().is_ok());
}
