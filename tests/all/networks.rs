//! Every network of `dnn-runner/models` switched live under the real agent, on both engines; a family of the
//! user's own, added as the README says.

use dnn_runner::engine::onnx;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tandem::control::Command as Ask;
use tandem_tests::{Agent, AgentOptions, Runner, component, family, lacking, program, repository, settings};

/// Inferences that a sub-network has to serve before the next one is ordered.
const SERVED: u64 = 3;

fn library_lacking() -> Option<&'static str> {
    onnx::available().is_err().then_some("ONNX Runtime (dnn-runner/onnxruntime.sh)")
}

/// An agent with a set for each position among the sub-networks, `at-0` first.
fn agent(most: usize) -> Agent {
    let (allocator, tuner) = (component("performance"), component("fixed"));
    let set = |i: usize| {
        format!(
            "[policies.at-{i}]\nallocator = {allocator:?}\ntuner = {tuner:?}\ntuner-params = {{ subnet = \"{i}\" }}\n"
        )
    };
    let sets: String = (0..most).map(set).collect();
    let tail = format!("{sets}[[app]]\nname = \"net-*\"\nuser = \"nobody\"\n");
    Agent::start(&AgentOptions { policy: "at-0".into(), tail, ..AgentOptions::default() }).expect("agent")
}

/// Runs the network of `manifest` and has the agent order each of its sub-networks in turn, up and down again;
/// every one has to serve, and nothing may be lost.
fn switch_through(agent: &Agent, manifest: &Path, images: &[&str]) -> serde_json::Value {
    let of = manifest.display();
    agent.ask(&Ask::Swap { set: "at-0".into() }).expect("a set that fits every network");
    let name = format!("net-{}", manifest.file_stem().expect("a file").to_string_lossy());
    let flow = ["--rate", "12", "--batch", "1", "--queue", "4096", "--top1-floor", "0"];
    let args = [images, &flow].concat();
    let runner = Runner::with(&agent.socket(), &name, manifest, &args).expect("runner");
    agent.app(&name, 1).unwrap_or_else(|e| panic!("{of}: {e}\n{}", runner.log()));
    let names: Vec<String> =
        agent.app(&name, 1).expect("there").subnets.into_iter().map(|(name, ..)| name).collect();
    let n = names.len();
    for i in (0..n).chain((0..n.saturating_sub(1)).rev()) {
        let before = agent.app(&name, 1).expect("there").subnets[i].2;
        agent.ask(&Ask::Swap { set: format!("at-{i}") }).expect("swap");
        let patience = Instant::now() + Duration::from_secs(60);
        while agent.app(&name, 1).expect("there").subnets[i].2 < before + SERVED {
            assert!(Instant::now() < patience, "{of}: {} does not serve\n{}", names[i], runner.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = agent.status().expect("status");
        assert_eq!(status.policy.state, "serving", "{of}: {:?}", status.policy);
    }
    let report = runner.end().expect("report");
    let total = |key: &str| report["totals"][key].as_u64().unwrap_or_else(|| panic!("{key} in {report}"));
    let waiting = report["waiting"].as_u64().expect("waiting");
    assert_eq!(total("arrived"), total("done") + waiting, "{of}: nothing is lost: {report}");
    assert_eq!((total("dropped"), total("refused_decisions"), total("lost_feedback")), (0, 0, 0), "{of}");
    assert!(total("switches") >= 2 * (n as u64 - 1), "{of}: {report}");
    let subnets = report["subnets"].as_array().expect("subnets");
    assert_eq!(subnets.len(), n);
    for s in subnets {
        assert!(s["frames"].as_u64().is_some_and(|f| f >= SERVED), "{of}: {s}");
    }
    report
}

/// Pictures for networks that do not look at Fashion-MNIST's.
fn pictures(size: (usize, usize, usize), dir: &Path) -> PathBuf {
    let (height, width, channels) = size;
    let folder = dir.join(format!("{height}x{width}x{channels}"));
    std::fs::create_dir_all(&folder).expect("folder");
    for n in 0..4usize {
        let mut file =
            format!("{}\n{width} {height}\n255\n", if channels == 1 { "P5" } else { "P6" }).into_bytes();
        let wave = |i: usize| u8::try_from((i * (7 + n) + i / width * 13) % 256).expect("below 256");
        file.extend((0..height * width * channels).map(wave));
        std::fs::write(folder.join(format!("{n}.{}", if channels == 1 { "pgm" } else { "ppm" })), file)
            .expect("picture");
    }
    folder
}

#[test]
fn every_network_is_switched_live_on_both_engines_and_loses_nothing() {
    needs!(lacking().or_else(library_lacking));
    let before = settings(std::process::id());
    let manifests = family::manifests().expect("manifests");
    let most = manifests.iter().map(|m| m.subnets.len()).max().expect("a manifest");
    let agent = agent(most);
    let dir = family::open_dir().expect("temp dir");
    let mut engines: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for network in &manifests {
        let images = if network.dataset {
            ["--dataset".to_owned(), "/usr/share/datasets/fashion-mnist".into()]
        } else {
            ["--folder".to_owned(), pictures(network.size, dir.path()).display().to_string()]
        };
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        let report = switch_through(&agent, &network.path, &images);
        assert_ne!(report["kernel"], "onnxruntime", "{}", network.path.display());
        engines.entry("elastic").or_default().push(network.name.clone());

        let names: Vec<&str> = network.subnets.iter().map(String::as_str).collect();
        let folder = dir.path().join(&network.name);
        let exported = family::export(&network.path, &names, &folder).expect("export");
        let report = switch_through(&agent, &exported, &images);
        assert_eq!(report["kernel"], "onnxruntime", "{}", exported.display());
        engines.entry("onnxruntime").or_default().push(network.name.clone());
        std::fs::remove_dir_all(folder).expect("its files are large");
    }
    let patience = Instant::now() + Duration::from_secs(30);
    while !agent.status().expect("status").apps.is_empty() {
        assert!(Instant::now() < patience, "every runner has said bye\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    // Six runners or more had one slot in turn.
    drop(agent);
    assert_eq!(before, settings(std::process::id()), "the machine is as it was found");
    for committed in ["mlcad-fmnist", "dynamic-ofa"] {
        assert!(engines.values().all(|n| n.iter().any(|n| n == committed)), "{committed}: {engines:?}");
    }
    println!("measured: {engines:?}");
}

/// The lines of the first block in this language after `heading`.
fn block<'t>(text: &'t str, heading: &str, language: &str) -> &'t str {
    let (_, after) = text.split_once(heading).unwrap_or_else(|| panic!("README.md has no {heading:?}"));
    let (_, after) = after.split_once(&format!("```{language}\n")).expect("a block");
    after.split_once("```").expect("its end").0
}

/// Takes the README at its word: its commands, its file with the three digests filled in, its runner.
#[test]
fn a_family_of_ones_own_is_added_as_the_readme_says() {
    needs!(lacking().or_else(library_lacking));
    let readme = std::fs::read_to_string(repository().join("README.md")).expect("README.md");
    let heading = "## Bring your own network";
    let dir = family::open_dir().expect("temp dir");
    let shell = |script: &str| {
        let bin = program("dnn-runner").parent().expect("a folder").to_path_buf();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let models = repository().join("dnn-runner/models");
        let script = script.replace("/usr/local/lib/tandem/models", &models.display().to_string());
        let out = Command::new("sh")
            .args(["-ec", &script])
            .current_dir(dir.path())
            .env("PATH", path)
            .output()
            .expect("sh");
        assert!(out.status.success(), "{script}\n{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("text")
    };
    // Its first block makes the three files and tells their digests, a line each.
    let said = shell(block(&readme, heading, "sh"));
    let digests: Vec<&str> = said.lines().filter_map(|l| l.split_once("  ")).map(|(d, _)| d).collect();
    assert_eq!(digests.len(), 3, "{said}");
    let mut text = block(&readme, heading, "toml").to_owned();
    for digest in &digests {
        text = text.replacen("sha256 = \"...\"", &format!("sha256 = {digest:?}"), 1);
    }
    assert!(!text.contains("\"...\""), "a digest for each file:\n{text}");
    let manifest = dir.path().join("mine.toml");
    std::fs::write(&manifest, &text).expect("write");

    let agent = agent(3);
    let report = switch_through(&agent, &manifest, &["--dataset", "/usr/share/datasets/fashion-mnist"]);
    assert_eq!((&report["network"], &report["kernel"]), (&"mine".into(), &"onnxruntime".into()));
    // The answers are the network's: right as often as its manifest says, give or take the few images of this run.
    let right = report["accuracy_pct"].as_f64().expect("labelled images");
    assert!(right > 60.0, "{right} % of the images were right");

    // A digest that is not the file's is refused, and so is a provider that the library does not have.
    for (from, to, said) in [
        (
            format!("sha256 = {:?}", digests[1]),
            format!("sha256 = {:?}", "0".repeat(64)),
            "medium.onnx: sha256",
        ),
        ("provider = \"cpu\"".into(), "provider = \"cuda\"".into(), "provider \"cuda\""),
        ("provider = \"cpu\"".into(), "provider = \"gpu\"".into(), "provider"),
    ] {
        let wrong = text.replacen(&from, &to, 1);
        assert_ne!(wrong, text, "{from} is not in\n{text}");
        std::fs::write(&manifest, wrong).expect("write");
        let out = Command::new(program("dnn-runner"))
            .args([
                "--fixed",
                "small",
                "--frames",
                "1",
                "--dataset",
                "/usr/share/datasets/fashion-mnist",
                "--model",
            ])
            .arg(&manifest)
            .output()
            .expect("dnn-runner");
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(
            !out.status.success() && error.contains("mine.toml") | error.contains("medium.onnx"),
            "{error}"
        );
        assert!(error.contains(said), "{said:?} is not in {error}");
    }
}
