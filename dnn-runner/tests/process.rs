//! The program as it is started: options, report, time line, signals, privileges.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const DATASET: &str = "/usr/share/datasets/fashion-mnist";

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/mlcad-fmnist.toml")
}

fn runner() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dnn-runner"));
    command.arg("--model").arg(model()).args(["--batch", "4", "--rate", "200"]);
    command.stdin(Stdio::null());
    command
}

fn have_dataset() -> bool {
    let found = Path::new(DATASET).exists();
    if !found {
        println!("skipped: needs dataset-fashion-mnist");
    }
    found
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < patience, "{what}: it never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn terminate(child: &Child) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
}

#[test]
fn a_fixed_run_writes_its_report_and_a_line_per_frame() {
    if !have_dataset() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (report, timeline) = (dir.path().join("r.json"), dir.path().join("t.csv"));
    let output = runner()
        .args([
            "--dataset",
            DATASET,
            "--fixed",
            "75%",
            "--frames",
            "30",
            "--queue",
            "100",
            "--deadline-ms",
            "10000",
        ])
        .arg("--report")
        .arg(&report)
        .arg("--timeline")
        .arg(&timeline)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let report: Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
    assert_eq!(report["totals"]["arrived"], 30);
    assert_eq!(report["totals"]["done"], 30);
    assert_eq!(report["labelled"], 120);
    assert_eq!(report["subnets"][2]["frames"], 30);
    assert_eq!(report["violations"], 0);
    // Three in four right, where guessing gives one in ten.
    assert!(report["accuracy_pct"].as_f64().unwrap() > 75.0, "{report}");
    let lines: Vec<String> = std::fs::read_to_string(timeline).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "t_s,subnet,latency_ms,service_ms,queue,correct,images,seq");
    assert_eq!(lines.len(), 31);
    assert!(lines[1..].iter().all(|l| l.split(',').count() == 8 && l.split(',').nth(1) == Some("75%")));
}

#[test]
fn a_terminated_runner_writes_its_report_and_ends_with_0() {
    if !have_dataset() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (report, timeline) = (dir.path().join("r.json"), dir.path().join("t.csv"));
    let mut child = runner()
        .args(["--dataset", DATASET, "--socket"])
        .arg(dir.path().join("no-agent"))
        .arg("--report")
        .arg(&report)
        .arg("--timeline")
        .arg(&timeline)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(log.any(|l| l.unwrap().contains("no agent; trying again")), "it runs on without an agent");
    terminate(&child);
    assert!(child.wait().unwrap().success());
    let report: Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
    let totals = &report["totals"];
    let count = |key: &str| totals[key].as_u64().unwrap();
    assert_eq!(count("arrived"), count("done") + count("dropped") + report["waiting"].as_u64().unwrap());
    assert_eq!(totals["failsafe"], totals["done"], "nobody decided");
}

#[test]
fn requests_are_answered_without_a_stream() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("serve");
    let mut child = runner().args(["--fixed", "100%", "--serve"]).arg(&socket).spawn().unwrap();
    until("the socket", || UnixStream::connect(&socket).is_ok());
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(format!("{{\"image\": {:?}}}\n", [0u8; 784]).as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    let reply: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(reply["subnet"], "100%");
    assert!(reply["confidence"].as_f64().unwrap() > 0.1, "{reply}");
    terminate(&child);
    assert!(child.wait().unwrap().success());
}

#[test]
fn root_is_given_up_with_all_its_groups() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("serve");
    let mut child = runner().args(["--fixed", "25%", "--serve"]).arg(&socket).spawn().unwrap();
    // It serves only after it has given root up.
    until("the socket", || UnixStream::connect(&socket).is_ok());
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let status = || std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let field = |name: &str| {
        let status = status();
        let line = status.lines().find(|l| l.starts_with(name)).unwrap().to_owned();
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let (uid, gid) = (nobody.uid.to_string(), nobody.gid.to_string());
    until("nobody", || field("Uid:") == vec![uid.clone(); 4]);
    assert_eq!(field("Gid:"), vec![gid; 4]);
    assert_eq!(field("Groups:"), Vec::<String>::new());
    until("no new privileges", || field("NoNewPrivs:") == ["1"]);
    for capabilities in ["CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(capabilities), ["0000000000000000"], "{capabilities}");
    }
    terminate(&child);
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_cannot_be_run_is_refused_with_the_rule_and_exit_1() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x.pgm"), b"P5 1 1 255\n\x01").unwrap();
    let folder = dir.path().to_str().unwrap();
    let cases: [(&[&str], &str); 6] = [
        (&["--folder", folder], "x.pgm: 1 x 1; the network takes 28 x 28"),
        (&["--dataset", folder], "t10k-images-idx3-ubyte.gz: No such file"),
        (&["--serve", "/no/such/folder/s"], "listen at /no/such/folder/s"),
        (
            &["--serve", &format!("{folder}/s"), "--fixed", "30%"],
            "--fixed 30%: mlcad-fmnist has 25%, 50%, 75%, 100%",
        ),
        (&["--serve", &format!("{folder}/t"), "--name", "a b"], "name"),
        (&["--serve", &format!("{folder}/u"), "--began-ns", "18446744073709551615"], "is in the future"),
    ];
    for (args, rule) in cases {
        let output = runner().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(text(&output).contains(rule), "{args:?}: {}", text(&output));
    }
}

#[test]
fn a_profile_is_refused_while_others_are_at_work_unless_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let profile = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dnn-runner"));
        command.arg("profile").arg("--model").arg(model()).arg("--out").arg(dir.path().join("p.toml"));
        command.args(more).output().unwrap()
    };
    // This process is another one.
    let busy = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|s| {
        s.spawn(|| {
            while busy.load(std::sync::atomic::Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let refused = profile(&[]);
        let noisy = profile(&["--noisy"]);
        busy.store(false, std::sync::atomic::Ordering::Relaxed);
        assert!(
            !refused.status.success() && text(&refused).contains("of a CPU; at most 5 %"),
            "{}",
            text(&refused)
        );
        assert!(noisy.status.success(), "{}", text(&noisy));
    });
    let table = std::fs::read_to_string(dir.path().join("p.toml")).unwrap();
    let table = dnn_runner::profile::Profile::parse(&table).unwrap();
    assert_eq!((table.rows.len(), table.predicted.len()), (4, 4));
    assert!(table.noise > 0.05, "what it was measured in spite of is written down: {}", table.noise);
}
