//! `tandem profile` on this machine, and its table in the agent's hands.

use dnn_runner::profile::Profile;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tandem_tests::{Agent, AgentOptions, Runner, family, lacking, program, repository, settings};

const BATCH: &str = "8";

fn profile(dir: &Path, opps: &str) -> Child {
    Command::new(program("tandem"))
        .args(["profile", "--noisy", "--batches", BATCH, "--opps", opps, "--run-dir"])
        .arg(dir.join("run"))
        .arg("--model")
        .arg(repository().join("dnn-runner/models/mlcad-fmnist.toml"))
        .arg("--out")
        .arg(dir.join("p.toml"))
        .stdout(Stdio::null())
        .spawn()
        .expect("tandem profile")
}

fn table(dir: &Path) -> Profile {
    Profile::parse(&std::fs::read_to_string(dir.join("p.toml")).expect("the table")).expect("a good table")
}

fn agent(table: &Path) -> AgentOptions {
    let camera = "[[app]]\nname = \"camera\"\nuser = \"nobody\"\nlatency-ms = 40\n";
    AgentOptions { tail: format!("{camera}profile = {table:?}\n"), ..AgentOptions::default() }
}

#[test]
fn a_profile_is_broken_off_and_gone_on_from_and_leaves_the_machine_as_it_was() {
    needs!(lacking());
    let dir = family::open_dir().expect("temp dir");
    let before = settings(std::process::id());
    let mut broken = profile(dir.path(), "3");
    let patience = Instant::now() + Duration::from_secs(120);
    while !dir.path().join("p.toml").exists() {
        assert!(Instant::now() < patience && broken.try_wait().expect("wait").is_none(), "no row yet");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(Pid::from_raw(i32::try_from(broken.id()).expect("a pid")), Signal::SIGTERM).expect("kill");
    assert!(!broken.wait().expect("end").success(), "it says that it was broken off");
    assert_eq!(before, settings(std::process::id()));
    let part = table(dir.path());
    assert!(!part.rows.is_empty() && part.rows.len() < 3 * 4, "{} rows", part.rows.len());

    assert!(profile(dir.path(), "3").wait().expect("end").success());
    let whole = table(dir.path());
    assert_eq!(whole.rows[..part.rows.len()], part.rows[..], "what was measured is kept");
    assert_eq!(before, settings(std::process::id()));
    let mut points: Vec<_> =
        whole.rows.iter().map(|r| (r.subnet.clone(), r.at.clone().expect("an OPP").freq)).collect();
    assert!(
        whole.rows.iter().all(|r| r.at.as_ref().is_some_and(|a| a.domain == "cpu" || !a.domain.is_empty()))
    );
    points.sort();
    points.dedup();
    assert_eq!(points.len(), whole.rows.len(), "each point once");
    assert_eq!(whole.predicted.len(), 4);
}

#[test]
fn policies_get_the_profile_of_these_weights_and_no_other() {
    needs!(lacking());
    let dir = family::open_dir().expect("temp dir");
    let path = dir.path().join("p.toml");
    assert!(profile(dir.path(), "2").wait().expect("end").success());
    let points = table(dir.path()).rows.len();
    let flow = ["--rate", "40", "--batch", BATCH, "--top1-floor", "0"];
    let seen = |options: &AgentOptions| {
        let agent = Agent::start(options).expect("agent");
        let runner = Runner::start(&agent.socket(), "camera", &flow).expect("runner");
        let app = agent.app("camera", 5).expect("frames flow");
        assert!(app.told_subnet.is_some(), "{app:?}");
        drop(runner);
        (app.profile.expect("a profile is configured"), agent.log())
    };
    let (said, _) = seen(&agent(&path));
    assert_eq!(said, format!("{points} points"));

    let text = std::fs::read_to_string(&path).expect("the table");
    let weights = table(dir.path()).weights_sha256;
    std::fs::write(&path, text.replace(&weights, &"0".repeat(64))).expect("write");
    let (said, log) = seen(&agent(&path));
    for part in ["refused: ", "p.toml: of mlcad-fmnist with weights 000", &weights] {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
    assert!(log.contains("profile refused"), "{log}");

    // Of another board: the agent does not start with it.
    std::fs::write(&path, text.replace("domain = \"", "domain = \"other-")).expect("write");
    let mut refused = Agent::spawn(&agent(&path)).expect("spawn");
    assert!(!refused.wait().expect("ends").success());
    let log = refused.log();
    assert!(log.contains("p.toml: domain \"other-"), "{log}");
}
