//! `tandem eval`: the same bytes after an interruption, what is refused, two thesis-like scenarios as a functional check.

use tandem_tests::{repository, tandem};

/// Few and short cells: 4 floors x 2 objectives on CPUs, 6 floors x 2 on a GPU.
const SMALL: &str = r#"
about = "for tests"
length-s = 2.0
warm-up-s = 0.5
[[block]]
name = "small"
network = { cpu = "mlcad-fmnist", gpu = "dynamic-ofa-6" }
streams = [{ rate-hz = 30.0, load-permille = 500 }]
floors = "every"
deadline-permille = [1000]
co-runners = ["other-cpu"]
caps-permille = [1000]
objectives = ["energy", "latency"]
"#;

/// How many runs it says it did.
fn runs(said: &str) -> usize {
    let line = said.lines().find(|l| l.contains(" runs in ")).unwrap_or_else(|| panic!("{said}"));
    line.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn an_interrupted_evaluation_ends_in_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let grid = dir.path().join("small.toml");
    std::fs::write(&grid, SMALL).unwrap();
    let args = [
        grid.to_str().unwrap(),
        "--board",
        "vm-baseline",
        "jetson-nano",
        "--seeds",
        "2",
        "--idle-share",
        "0.3",
        "--little-power",
        "1.4",
    ];
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    let (ok, said) = tandem("eval", &args, &whole);
    assert!(ok, "{said}");
    assert!(said.contains("2 boards, 20 cells"), "{said}");
    let all = runs(&said);
    let done = std::fs::read_to_string(whole.join("runs.jsonl")).unwrap();
    assert_eq!(done.lines().count(), 1 + all, "the first line is the program's");

    // Killed in the middle of a line.
    let kept = all / 3;
    let end: usize = done.lines().take(1 + kept).map(|l| l.len() + 1).sum();
    std::fs::create_dir(&cut).unwrap();
    std::fs::write(cut.join("runs.jsonl"), &done[..end + 20]).unwrap();
    let (ok, said) = tandem("eval", &args, &cut);
    assert!(ok && said.contains("runs.jsonl: its last line was cut short"), "{said}");
    assert_eq!(runs(&said), all - kept, "what is done is not done again");
    let (ok, said) = tandem("eval", &args, &cut);
    assert!(ok, "{said}");
    assert_eq!(runs(&said), 0);
    for entry in std::fs::read_dir(&whole).unwrap() {
        let name = entry.unwrap().file_name();
        // Runs and bounds are kept in the order they are done; costs are by the clock.
        if name == "runs.jsonl" || name == "bounds.jsonl" || name == "costs.json" {
            continue;
        }
        let [a, b] = [&whole, &cut].map(|d| std::fs::read(d.join(&name)).unwrap());
        assert!(a == b, "{name:?} differs");
        assert!(a.len() > 100 || name == "sensitivity.csv", "{name:?} is empty");
    }
    // A line in the middle that is none of ours.
    std::fs::write(cut.join("runs.jsonl"), done.replacen("\"kind\"", "\"kind", 1)).unwrap();
    let (ok, said) = tandem("eval", &args, &cut);
    assert!(!ok && said.contains("runs.jsonl: line 2: not a line of ours"), "{said}");
}

#[test]
fn two_thesis_like_scenarios_run_through() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["tests/scenarios/thesis-one.toml", "tests/scenarios/thesis-two.toml"];
    let (ok, said) =
        tandem("eval", &[files[0], files[1], "--board", "odroid-xu3", "--seeds", "1"], dir.path());
    assert!(ok, "{said}");
    let mut read = csv::Reader::from_path(dir.path().join("cells.csv")).unwrap();
    let header = read.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|h| h == name).unwrap();
    let (cell, row, ratio, p95) = (column("cell"), column("row"), column("energy_ratio"), column("p95_ms"));
    let (bound, target) = (column("above_bound"), column("in_target"));
    let lines: Vec<csv::StringRecord> = read.records().map(Result::unwrap).collect();
    for (name, apps) in [("thesis-one", 1), ("thesis-two", 2)] {
        let of = |who: &str| lines.iter().find(|l| &l[cell] == name && &l[row] == who);
        assert_eq!(&of("schedutil, best fixed").unwrap()[ratio], "1");
        assert!(
            !of("tandem").unwrap()[bound].is_empty() || of("tandem").unwrap()[target] == *"false",
            "{name}: no bound"
        );
        for who in ["schedutil, largest", "powersave, best fixed", "tandem", "dynamic-ofa", "lrgd", "loudva"]
        {
            let line = of(who).unwrap_or_else(|| panic!("{name}: no {who}\n{said}"));
            assert!(line[ratio].parse::<f64>().is_ok_and(|r| r > 0.0), "{name}: {who}: {line:?}");
            assert_eq!(line[p95].split(';').filter(|p| p.parse::<f64>().is_ok()).count(), apps, "{line:?}");
        }
        assert!(of("schedutil, best fixed, co-runner nice 10").is_none(), "{name} has no co-runner");
    }
    assert!(said.contains("cost of the policies themselves"), "{said}");
}

#[test]
fn bad_input_is_refused_all_at_once_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let [bad, contradictory, hole] =
        ["bad.toml", "contradictory.toml", "hole.toml"].map(|n| dir.path().join(n));
    std::fs::write(&bad, SMALL.replace("rate-hz = 30.0", "rate-hz = -1.0").replace("caps-", "cap-")).unwrap();
    let text = std::fs::read_to_string(repository().join("tests/scenarios/thesis-one.toml")).unwrap();
    std::fs::write(&contradictory, text.replace("top1 = 89.72", "top1 = 95.0")).unwrap();
    // Nothing says what the network takes on the board: a profile with a hole.
    let text = text.replace("largest-ms = 16.67\n", "");
    std::fs::write(&hole, text.replace("\"odroid-xu3\", \"vm-baseline\"", "\"odroid-xu3\"")).unwrap();
    let files = [bad.to_str().unwrap(), contradictory.to_str().unwrap()];
    let (ok, said) = tandem("eval", &[files[0], files[1], "--board", "raspberry", "--idle-share", "2"], &out);
    assert!(!ok);
    for part in [
        "board \"raspberry\": no model of it",
        "bad.toml:8: block \"small\": streams: rate-hz (-1.0): must be 0.01 to 1000",
        "unknown key `cap-permille`",
        "contradicts the network: mlcad-fmnist reaches 90.24 %",
        "--idle-share 2: must be 0 to 1",
    ] {
        assert!(said.contains(part), "wanted {part:?}, got:\n{said}");
    }
    let hole = hole.to_str().unwrap();
    for (args, part) in [
        (
            &[hole, "--board", "odroid-xu3"][..],
            "scenario hole on odroid-xu3: app \"camera\": nothing says what mlcad-fmnist takes there",
        ),
        (
            &["tests/grid.toml", "--block", "three"],
            "--block \"three\": no grid has it; known: deadline, one, two",
        ),
        (&["tests/grid.toml", "--board", "odroid-xu3", "--policy", "magic"], "\"magic\" is no allocator"),
        (
            &["tests/grid.toml", "--board", "odroid-xu3", "--policy", "tandem?domain=gpu"],
            "parameter domain = \"gpu\": must be one of little, big",
        ),
        (&["tests/scenarios/power-mode.toml", "--board", "odroid-xu3"], "no cell is left on odroid-xu3"),
    ] {
        let (ok, said) = tandem("eval", args, &out);
        assert!(!ok && said.contains(part), "{args:?}: wanted {part:?}, got:\n{said}");
    }
    assert!(!out.exists(), "something was begun");
}
