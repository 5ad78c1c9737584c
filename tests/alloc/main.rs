//! A tick allocates nothing on the host. A binary of its own, because its allocator counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use tandem_tests::rig::Rig;

thread_local! {
    /// `None`: not counting.
    static COUNT: Cell<Option<u64>> = const { Cell::new(None) };
}

struct Counting;

fn note() {
    // A thread that ends allocates when its locals are gone.
    let _ = COUNT.try_with(|c| c.set(c.get().map(|n| n + 1)));
}

// SAFETY: every call is the system allocator's, with the caller's own guarantees; counting touches a cell only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as the caller promised us.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised us.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as the caller promised us.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn tick_allocates_nothing_after_start_up() {
    if let Some(what) = tandem_tests::lacking() {
        println!("skipped: needs {what}");
        return;
    }
    let mut rig = Rig::new(4).expect("rig");
    // Buffers grow to their size.
    (0..300).for_each(|_| rig.tick());
    COUNT.set(Some(0));
    let counted = vec![1u8];
    assert_eq!(COUNT.get(), Some(1), "the counter does not count");
    drop(counted);
    COUNT.set(Some(0));
    (0..1000).for_each(|_| rig.tick());
    let allocations = COUNT.replace(None);
    rig.check().expect("serving");
    assert_eq!(allocations, Some(0), "in 1000 ticks with an allocator and four tuners");
}
