//! After start-up the loop's thread allocates nothing in a policy round: one tick is an allocator and
//! four tuners, all in Wasm.

mod guests;

use guests::{Guest, apps, board, snapshot};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use tandem::policy::Decision;
use tandem::policy::slot::{PolicyContext, PolicySlot};
use tandem::policy::wasm::{PolicyFiles, WasmEngine, WasmLimits, WasmSource};
use tandem::units::Nanos;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator; counts what the calling thread asks of it.
struct Counting;

// SAFETY: every method hands its arguments to `System` unchanged; the counter needs no allocation and no
// destructor, so it can be used here at any time.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(at, layout, size) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // Frees count too: the tick hands to the loader what is to be freed.
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_thousand_ticks_of_wasm_policies_allocate_nothing() {
    let engine = WasmEngine::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files = PolicyFiles {
        name: "pair".into(),
        allocator: Guest::allocator(2, 4).file(&dir, "allocator.wasm"),
        tuner: Guest::tuner(1, 2, Some(2)).file(&dir, "tuner.wasm"),
        allocator_params: Vec::new(),
        tuner_params: Vec::new(),
    };
    let context = PolicyContext { board: board(), period: Nanos::from_ms(10), signals: Vec::new() };
    let mut slot = PolicySlot::new(context, Some(engine.clone())).unwrap();
    slot.apps(&apps(4));
    let pending = slot.control().swap(Arc::new(WasmSource::new(&engine, files, WasmLimits::default())));
    let mut out = Decision::default();
    let mut seen = snapshot(1, 4);
    while pending.poll().map(Result::unwrap).is_none() {
        slot.decide(&seen, &mut out);
        std::thread::yield_now();
    }
    // The first ticks after the swap may still grow buffers.
    (0..3).for_each(|_| slot.decide(&seen, &mut out));

    let before = ALLOCATIONS.get();
    for tick in 0..1000 {
        seen.tick = tick;
        slot.decide(&seen, &mut out);
    }
    let counted = ALLOCATIONS.get() - before;
    assert_eq!(slot.serving(), "pair");
    assert_eq!(out.apps.iter().flatten().count(), 4, "all four tuners answered");
    assert_eq!(counted, 0, "allocations and frees in 1000 ticks");

    // The counter counts.
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1_u64)));
    assert_eq!(ALLOCATIONS.get() - before, 2);
}
