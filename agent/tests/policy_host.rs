//! Guests of every kind of malice against the policy host.

mod guests;

use guests::{Guest, app, apps, board, full_grant, snapshot};
use std::path::{Path, PathBuf};
use tandem::policy::wasm::{FILE_BYTES, PolicyKind, WasmAllocator, WasmEngine, WasmLimits, WasmTuner, check};
use tandem::policy::{Allocation, Allocator, AppChoice, Binds, Grant, Limits, PolicyError, Tuner, View};
use tandem::snapshot::Snapshot;
use tandem::units::{Nanos, OppIndex, SubnetIndex};

/// An engine and a folder for the guests' files.
struct Host {
    engine: WasmEngine,
    dir: tempfile::TempDir,
}

const PERIOD: Nanos = Nanos::from_ms(10);

impl Host {
    fn new() -> Self {
        Self { engine: WasmEngine::new().unwrap(), dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join("guest.wasm");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn check(&self, bytes: &[u8]) -> String {
        check(&self.engine, &self.file(bytes)).unwrap_err().to_string()
    }

    fn allocator(&self, guest: &Guest) -> WasmAllocator {
        WasmAllocator::load(&self.engine, &guest.file(&self.dir, "guest.wasm"), WasmLimits::default())
            .unwrap()
    }

    fn start(&self, guest: &Guest) -> Result<WasmAllocator, PolicyError> {
        let mut allocator = self.allocator(guest);
        allocator.start(&board(), PERIOD, &[], &apps(2), &[("key".into(), "value".into())])?;
        Ok(allocator)
    }

    fn decide(&self, guest: &Guest) -> Result<Allocation, PolicyError> {
        let mut out = Allocation::default();
        self.start(guest).unwrap().decide(&snapshot(1, 2), &mut out)?;
        Ok(out)
    }

    fn choose(&self, guest: &Guest) -> Result<AppChoice, PolicyError> {
        let path = guest.file(&self.dir, "guest.wasm");
        let mut tuner = WasmTuner::load(&self.engine, &path, WasmLimits::default()).unwrap();
        tuner.start(&board(), PERIOD, &app(0), &[]).unwrap();
        tuner.decide(&view(&snapshot(1, 1), &full_grant(1)))
    }
}

/// The first application's view, granted something on domain 1.
fn view<'a>(seen: &'a Snapshot, grant: &'a Grant) -> View<'a> {
    View {
        tick: seen.tick,
        at: seen.at,
        window: seen.window,
        app: &seen.apps[0],
        domain: &seen.domains[1],
        other: &seen.other,
        grant,
    }
}

/// The message of an error of the right kind.
macro_rules! said {
    ($result:expr, $kind:ident) => {
        match $result {
            Err(error @ PolicyError::$kind { .. }) => error.to_string(),
            other => panic!("not {}: {other:?}", stringify!($kind)),
        }
    };
}

#[track_caller]
fn says(message: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| message.contains(part)), "{message:?} lacks some of {parts:?}");
}

/// Reads `opp` of the first domain's sample (option<u16> at 0) and asks for the next one.
const ASK_NEXT: &str = "(i32.store16 (i32.const 258)
    (i32.add (i32.const 1) (i32.load16_u offset=2 (local.get 5))))";

/// Domain 0 asks for the number of the call, modulo its three OPPs.
const ASK_BY_COUNT: &str = "(i32.store16 (i32.const 258) (i32.rem_u (global.get $calls) (i32.const 3)))";

#[test]
fn a_well_behaved_pair_is_understood() {
    let host = Host::new();
    let out = host.decide(&Guest::allocator(2, 2).decide(ASK_NEXT)).unwrap();
    assert_eq!(out.domains.len(), 2);
    assert_eq!(out.domains[0].ask, Some(OppIndex(1)), "the snapshot has domain 0 at OPP 0");
    assert_eq!((out.domains[0].cap, out.domains[1].ask), (None, Some(OppIndex(1))));
    assert_eq!(out.grants.len(), 2);
    assert_eq!(out.grants[1].unwrap().weight, 100);
    let choice = host.choose(&Guest::tuner(1, 4, Some(3))).unwrap();
    assert_eq!(choice, AppChoice { subnet: SubnetIndex(1), threads: 4, ask: Some(OppIndex(3)), binds: None });
    let bound = host.choose(&Guest::tuner(1, 4, None).data(136, &[1, 4])).unwrap();
    assert_eq!((bound.ask, bound.binds), (None, Some(Binds::Cap)));
}

#[test]
fn the_same_calls_give_the_same_answers() {
    let host = Host::new();
    let run = || {
        let mut allocator = host.start(&Guest::allocator(2, 2).decide(ASK_BY_COUNT)).unwrap();
        let mut out = Allocation::default();
        (0..7)
            .map(|tick| {
                allocator.limits(&Limits { opps: vec![(OppIndex(0), OppIndex(2)); 2] }).unwrap();
                allocator.decide(&snapshot(tick, 2), &mut out).unwrap();
                out.domains[0].ask.unwrap().0
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(run(), [1, 2, 0, 1, 2, 0, 1]);
    assert_eq!(run(), run());
}

#[test]
fn a_trap_is_told_from_the_rest() {
    let host = Host::new();
    let message = said!(host.decide(&Guest::allocator(2, 2).decide("unreachable")), Trapped);
    says(&message, &["guest", "decide", "unreachable"]);
    let message = said!(host.start(&Guest::allocator(2, 2).start("unreachable")), Trapped);
    says(&message, &["start", "unreachable"]);
    let deep = Guest::allocator(2, 2).decide("(call $deep)").more("");
    let deep = Guest { limits: ") (func $deep (call $deep)".into(), ..deep };
    says(&said!(host.decide(&deep), Trapped), &["decide", "stack"]);
}

#[test]
fn an_endless_loop_is_late() {
    let host = Host::new();
    let message = said!(host.decide(&Guest::allocator(2, 2).decide("(loop (br 0))")), Late);
    says(&message, &["decide", "2000 us"]);
    let message = said!(host.start(&Guest::allocator(2, 2).start("(loop (br 0))")), Late);
    says(&message, &["start", "100000 us"]);
    let message = said!(
        host.start(&Guest::allocator(2, 2).limits("(loop (br 0))"))
            .unwrap()
            .limits(&Limits { opps: vec![(OppIndex(0), OppIndex(1)); 2] }),
        Late
    );
    says(&message, &["limits"]);
}

#[test]
fn a_start_function_that_never_ends_is_refused() {
    let host = Host::new();
    let guest = Guest::allocator(2, 2);
    let guest = Guest { limits: ") (start $forever) (func $forever (loop (br 0))".into(), ..guest };
    says(&host.check(&guest.component()), &["guest.wasm", "instantiated"]);
}

#[test]
fn a_spent_instance_stays_spent() {
    let host = Host::new();
    let mut allocator = host.start(&Guest::allocator(2, 2).decide("(loop (br 0))")).unwrap();
    let mut out = Allocation::default();
    assert!(allocator.decide(&snapshot(1, 2), &mut out).is_err());
    assert!(allocator.decide(&snapshot(2, 2), &mut out).is_err());
}

#[test]
fn memory_ends_at_the_cap() {
    let host = Host::new();
    let hoard = "(loop (drop (memory.grow (i32.const 16))) (br 0))";
    let message = said!(host.decide(&Guest::allocator(2, 2).decide(hoard)), Trapped);
    says(&message, &["memory", "16777216 are allowed"]);
    let below = "(drop (memory.grow (i32.const 252)))";
    host.decide(&Guest::allocator(2, 2).decide(below)).expect("with the first four, 256 pages are 16 MiB");
    let above = "(drop (memory.grow (i32.const 253)))";
    says(&said!(host.decide(&Guest::allocator(2, 2).decide(above)), Trapped), &["asked for 16842752 bytes"]);
}

#[test]
fn lists_of_the_wrong_length_are_refused() {
    let host = Host::new();
    for (domains, apps, part) in [
        (1, 2, "`domains` has 1 elements, the board has 2"),
        (3, 2, "`domains` has 3 elements"),
        (2, 1, "`grants` has 1 elements, there are 2 applications"),
        (2, 0, "`grants` has 0 elements"),
    ] {
        says(&said!(host.decide(&Guest::allocator(domains, apps)), Invalid), &["guest", part]);
    }
    // Within the memory, but longer than any board.
    let long = Guest::allocator(2, 2).data(132, &1000_u32.to_le_bytes());
    says(&said!(host.decide(&long), Invalid), &["`domains` has 1000 elements"]);
}

#[test]
fn a_list_outside_the_memory_is_refused() {
    let host = Host::new();
    for bytes in [0x7fff_fff8_u32.to_le_bytes(), 0xffff_fff8_u32.to_le_bytes(), 257_u32.to_le_bytes()] {
        says(
            &said!(host.decide(&Guest::allocator(2, 2).data(128, &bytes)), Invalid),
            &["decide", "list pointer"],
        );
    }
    let long = Guest::allocator(2, 2).data(132, &0xffff_ffff_u32.to_le_bytes());
    said!(host.decide(&long), Invalid);
}

#[test]
fn numbers_that_do_not_exist_are_refused() {
    let host = Host::new();
    let orders = |bytes: &[u8]| Guest::allocator(2, 2).data(256, bytes);
    let grants = |bytes: &[u8]| Guest::allocator(2, 2).data(512, bytes);
    for (guest, parts) in [
        (orders(&guests::order(Some(3), None)), ["\"little\"", "`ask` is OPP 3, it has 0..=2"]),
        (orders(&guests::order(None, Some(999))), ["\"little\"", "`cap` is OPP 999"]),
        (grants(&guests::grant(2, 0, 100)), ["application 0", "domain 2 does not exist"]),
        (grants(&guests::grant(1, 5, 100)), ["5 cores", "\"big\" has 4 CPUs"]),
        (grants(&guests::grant(1, 4, 0)), ["weight 0", "1..=10000"]),
        (grants(&guests::grant(1, 4, 10_001)), ["weight 10001", "1..=10000"]),
    ] {
        says(&said!(host.decide(&guest), Invalid), &parts);
    }
    host.decide(&grants(&guests::grant(1, 4, 10_000))).expect("all at the edge of what is allowed");
    for (guest, part) in [
        (Guest::tuner(2, 1, None), "sub-network 2 does not exist, there are 2"),
        (Guest::tuner(0, 0, None), "0 threads, 1..=4"),
        (Guest::tuner(0, 5, None), "5 threads, 1..=4"),
        (Guest::tuner(0, 1, Some(4)), "\"big\": `ask` is OPP 4, it has 0..=3"),
    ] {
        says(&said!(host.choose(&guest), Invalid), &[part]);
    }
    // A discriminant that is neither `none` nor `some`.
    said!(host.decide(&orders(&[7, 0, 0, 0])), Invalid);
}

#[test]
fn a_refusal_keeps_its_words() {
    let host = Host::new();
    let words = b"needs three domains";
    let refuses = Guest::allocator(2, 2)
        .data(64, &[1, 0, 0, 0])
        .data(68, &80_u32.to_le_bytes())
        .data(72, &u32::try_from(words.len()).unwrap().to_le_bytes())
        .data(80, words);
    says(&said!(host.start(&refuses), Refused), &["guest", "start", "needs three domains"]);
    let nonsense = refuses.data(80, &[0xff, 0xfe]);
    said!(host.start(&nonsense), Invalid);
}

#[test]
fn a_flood_of_log_lines_is_swallowed() {
    let host = Host::new();
    let import = r#"(import "tandem:policy/host@0.2.0" "log" (func $log (param i32 i32 i32)))"#;
    let flood = "(func $flood (local $left i32) (local.set $left (i32.const 1000))
        (loop (call $log (i32.const 2) (i32.const 1024) (i32.const 2000))
              (br_if 0 (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))";
    let guest = Guest::allocator(2, 2).more(&format!("{import} {flood}"));
    host.decide(&guest.decide("(call $flood)")).unwrap();
    let huge = Guest::allocator(2, 2)
        .more(import)
        .decide("(call $log (i32.const 2) (i32.const 0) (i32.const 200000))");
    assert!(host.decide(&huge).is_err(), "more than a call may hand to the host");
}

#[test]
fn what_is_no_policy_is_named() {
    let host = Host::new();
    says(&host.check(b"#!/bin/sh\n"), &["guest.wasm", "is not WebAssembly"]);
    says(&host.check(b""), &["is not WebAssembly"]);
    let good = Guest::allocator(2, 2);
    says(&host.check(&good.core()), &["core module", "component"]);
    let whole = good.component();
    says(&host.check(&whole[..whole.len() / 2]), &["no valid component"]);
    let large = vec![0; usize::try_from(FILE_BYTES).unwrap() + 1];
    says(&host.check(&large), &["4194305 bytes, 4194304 are allowed"]);
    let missing = check(&host.engine, Path::new("there-is-none.wasm")).unwrap_err().to_string();
    says(&missing, &["there-is-none.wasm", "cannot be read"]);
    says(&check(&host.engine, host.dir.path()).unwrap_err().to_string(), &["no regular file"]);
}

#[test]
fn the_wrong_world_is_named() {
    let host = Host::new();
    let lacks = Guest::allocator(2, 2).wit("export limits: func(opps: list<opp-range>);", "");
    says(&host.check(&lacks.component()), &["does not export `limits`", "allocator"]);
    let neither = Guest { world: "other", ..Guest::allocator(2, 2) }.wit(
        "/// The upper level",
        "world other { export limits: func(opps: list<u64>); }\n/// The upper level",
    );
    says(&host.check(&neither.component()), &["exports [\"limits\"]", "an allocator exports", "a tuner"]);
    let other_type = Guest::allocator(2, 2).wit("cap: option<u16> }", "cap: option<s16> }");
    says(&host.check(&other_type.component()), &["`decide` has not the type"]);
    let tuner = Guest::tuner(0, 1, None).file(&host.dir, "tuner.wasm");
    let message = said!(WasmAllocator::load(&host.engine, &tuner, WasmLimits::default()), Unusable);
    says(&message, &["tuner.wasm", "`tuner`", "`allocator` is needed"]);
}

#[test]
fn an_import_besides_the_log_is_refused() {
    let host = Host::new();
    let wasi = Guest::allocator(2, 2)
        .wit("import host;", "import host; import wasi:clocks/monotonic-clock@0.2.0;")
        .more(r#"(import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $now (result i64)))"#)
        .decide("(drop (call $now))");
    says(&host.check(&wasi.component()), &["imports `wasi:clocks/monotonic-clock@0.2.0`", "no WASI"]);
    let own = Guest::allocator(2, 2)
        .wit("import host;", "import host; import now: func() -> u64;")
        .more(r#"(import "$root" "now" (func $now (result i64)))"#)
        .decide("(drop (call $now))");
    says(&host.check(&own.component()), &["imports `now`", "only `tandem:policy/host@0.2.0`"]);
    let more = Guest::allocator(2, 2)
        .wit("log: func(", "random: func() -> u64; log: func(")
        .more(r#"(import "tandem:policy/host@0.2.0" "random" (func $random (result i64)))"#)
        .decide("(drop (call $random))");
    says(&host.check(&more.component()), &["imports what is not there", "random"]);
}

#[test]
fn a_policy_is_described() {
    let host = Host::new();
    let bytes = Guest::tuner(0, 1, None).component();
    let info = check(&host.engine, &host.file(&bytes)).unwrap();
    assert_eq!(info.kind, PolicyKind::Tuner);
    assert_eq!(info.size, bytes.len());
    assert_eq!(info.sha256.len(), 64);
    for name in ["start", "app", "limits", "decide"] {
        assert!(info.exports.iter().any(|export| export == name), "{name} of {:?}", info.exports);
    }
}

/// What `policies/build.sh` makes, if it did.
fn built() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/policies");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "wasm"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_policy_that_was_built_serves_on_a_board() {
    let host = Host::new();
    let files = built();
    if files.is_empty() {
        println!("skipped: needs the components of policies/build.sh in target/policies");
        return;
    }
    let limits = Limits { opps: vec![(OppIndex(0), OppIndex(2)), (OppIndex(1), OppIndex(3))] };
    for file in files {
        let kind = check(&host.engine, &file).unwrap().kind;
        println!("{kind} {}", file.display());
        match kind {
            PolicyKind::Allocator => {
                let mut allocator = WasmAllocator::load(&host.engine, &file, WasmLimits::default()).unwrap();
                allocator.start(&board(), PERIOD, &[], &apps(1), &[]).unwrap();
                allocator.limits(&limits).unwrap();
                allocator.apps(&apps(3)).unwrap();
                let mut out = Allocation::default();
                for tick in 1..200 {
                    allocator.decide(&snapshot(tick, 3), &mut out).unwrap();
                }
                assert!(out.grants.iter().all(Option::is_some), "{out:?}");
            }
            PolicyKind::Tuner => {
                let mut tuner = WasmTuner::load(&host.engine, &file, WasmLimits::default()).unwrap();
                tuner.start(&board(), PERIOD, &app(0), &[]).unwrap();
                tuner.limits(&limits).unwrap();
                tuner.app(&app(0)).unwrap();
                for tick in 1..200 {
                    tuner.decide(&view(&snapshot(tick, 1), &full_grant(1))).unwrap();
                }
            }
        }
    }
}
