//! Wasm policy sets swapped under a running loop.

mod guests;

use guests::{Guest, apps, board, snapshot};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use tandem::policy::slot::{PolicyContext, PolicyControl, PolicySlot};
use tandem::policy::wasm::{PolicyFiles, WasmEngine, WasmLimits, WasmSource};
use tandem::policy::{Decision, PolicyError};
use tandem::units::Nanos;

/// A loop on its own thread, as the agent has it.
struct Running {
    control: PolicyControl,
    ticks: Arc<AtomicU64>,
    /// Ticks in which a set served all four applications.
    whole: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

fn run(engine: &WasmEngine) -> Running {
    let context = PolicyContext { board: board(), period: Nanos::from_ms(1), signals: Vec::new() };
    let mut slot = PolicySlot::new(context, Some(engine.clone())).unwrap();
    let control = slot.control();
    let [ticks, whole] = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
    let stop = Arc::new(AtomicBool::new(false));
    let theirs = (Arc::clone(&ticks), Arc::clone(&whole), Arc::clone(&stop));
    let thread = std::thread::spawn(move || {
        let (ticks, whole, stop) = theirs;
        slot.apps(&apps(4));
        let mut out = Decision::default();
        let mut seen = snapshot(1, 4);
        while !stop.load(SeqCst) {
            seen.tick += 1;
            slot.decide(&seen, &mut out);
            whole.fetch_add(u64::from(out.apps.iter().all(Option::is_some)), SeqCst);
            ticks.fetch_add(1, SeqCst);
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    Running { control, ticks, whole, stop, thread }
}

impl Running {
    fn swap(&self, engine: &WasmEngine, allocator: &Path, tuner: &Path) -> Result<(), PolicyError> {
        let files = PolicyFiles {
            name: "set".into(),
            allocator: allocator.into(),
            tuner: tuner.into(),
            allocator_params: Vec::new(),
            tuner_params: Vec::new(),
        };
        self.control.swap(Arc::new(WasmSource::new(engine, files, WasmLimits::default()))).wait()
    }

    fn end(self) {
        self.stop.store(true, SeqCst);
        self.thread.join().unwrap();
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_hundred_wasm_swaps_leave_no_gap_and_no_memory() {
    let engine = WasmEngine::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let allocator = Guest::allocator(2, 4).file(&dir, "allocator.wasm");
    let tuner = Guest::tuner(1, 2, Some(2)).file(&dir, "tuner.wasm");
    let agent = run(&engine);
    agent.swap(&engine, &allocator, &tuner).unwrap();
    for _ in 0..10 {
        agent.swap(&engine, &allocator, &tuner).unwrap();
    }
    let (users, resident) = (engine.users(), resident_kib());
    let [ticks, whole] = [agent.ticks.load(SeqCst), agent.whole.load(SeqCst)];
    for _ in 0..100 {
        agent.swap(&engine, &allocator, &tuner).unwrap();
    }
    let ticks = agent.ticks.load(SeqCst) - ticks;
    let whole = agent.whole.load(SeqCst) - whole;
    // One may lie between the two readings on either side.
    assert!(ticks.abs_diff(whole) <= 2, "{whole} of {ticks} ticks had a whole set");
    let grown = resident_kib().saturating_sub(resident);
    assert!(grown < 8 << 10, "100 swaps left {grown} KiB, one set takes more than 100");
    // The newest old set may not have been freed yet: an allocator, four tuners and their two files.
    assert!(engine.users() <= users + 8, "{} against {users}", engine.users());
    agent.end();
    assert_eq!(engine.users(), 0);
}

#[test]
fn hostile_candidates_change_nothing() {
    let engine = WasmEngine::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let allocator = Guest::allocator(2, 4).file(&dir, "allocator.wasm");
    let tuner = Guest::tuner(1, 2, Some(2)).file(&dir, "tuner.wasm");
    let agent = run(&engine);
    agent.swap(&engine, &allocator, &tuner).unwrap();
    let before = agent.control.status();
    let bad = |guest: Guest| guest.file(&dir, "bad.wasm");
    let text = dir.path().join("text.wasm");
    std::fs::write(&text, "no policy").unwrap();
    for (bad_allocator, bad_tuner, part) in [
        (text.clone(), tuner.clone(), "not WebAssembly"),
        (allocator.clone(), text, "not WebAssembly"),
        (tuner.clone(), tuner.clone(), "`allocator` is needed"),
        (allocator.clone(), allocator.clone(), "`tuner` is needed"),
        (bad(Guest::allocator(2, 4).start("unreachable")), tuner.clone(), "start trapped"),
    ] {
        let error = agent.swap(&engine, &bad_allocator, &bad_tuner).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    for (guest, part) in [
        (Guest::allocator(2, 4).start("(loop (br 0))"), "deadline"),
        (Guest::allocator(2, 4).decide("(loop (br 0))"), "deadline"),
        (Guest::allocator(3, 4), "`domains` has 3"),
        (Guest::allocator(2, 4).decide("(loop (drop (memory.grow (i32.const 1))) (br 0))"), "are allowed"),
    ] {
        let error = agent.swap(&engine, &bad(guest), &tuner).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let after = agent.control.status();
    assert_eq!((after.serving, after.swaps, after.faults), (before.serving, 1, 0));
    agent.end();
}

#[test]
fn a_set_that_turns_hostile_is_set_aside_and_the_loop_goes_on() {
    let engine = WasmEngine::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let tuner = Guest::tuner(1, 2, Some(2)).file(&dir, "tuner.wasm");
    let agent = run(&engine);
    for (malice, part) in [
        ("unreachable", "trapped"),
        ("(loop (br 0))", "deadline"),
        ("(i32.store (i32.const 132) (i32.const 7))", "`domains` has 7"),
    ] {
        let later = format!("(if (i32.gt_u (global.get $calls) (i32.const 20)) (then {malice}))");
        let allocator = Guest::allocator(2, 4).decide(&later).file(&dir, "later.wasm");
        let faults = agent.control.status().faults;
        agent.swap(&engine, &allocator, &tuner).unwrap();
        while agent.control.status().faults == faults {
            std::thread::yield_now();
        }
        let status = agent.control.status();
        assert_eq!((status.serving.as_str(), status.set_aside.as_deref()), ("hold", Some("set")));
        let error = status.last_error.unwrap().to_string();
        assert!(error.contains(part), "{error}");
        let ticks = agent.ticks.load(SeqCst);
        while agent.ticks.load(SeqCst) < ticks + 5 {
            std::thread::yield_now();
        }
        assert_eq!(agent.control.status().faults, faults + 1, "one notice");
    }
    let again = agent.control.retry().unwrap();
    again.wait().expect("new instances of the same code");
    agent.end();
}

#[test]
fn a_tuner_that_is_hostile_later_is_caught_too() {
    let engine = WasmEngine::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let allocator = Guest::allocator(2, 4).file(&dir, "allocator.wasm");
    let tuner = Guest::tuner(1, 2, Some(2))
        .decide("(if (i32.gt_u (global.get $calls) (i32.const 5)) (then (i32.store8 (i32.const 130) (i32.const 99))))")
        .file(&dir, "tuner.wasm");
    let agent = run(&engine);
    agent.swap(&engine, &allocator, &tuner).unwrap();
    while agent.control.status().faults == 0 {
        std::thread::yield_now();
    }
    let error = agent.control.status().last_error.unwrap().to_string();
    assert!(error.contains("tuner") && error.contains("99 threads"), "{error}");
    assert_ne!(agent.whole.load(SeqCst), 0);
    agent.end();
}
