//! The heap of a policy in Wasm: a list of free blocks per power of two.
//!
//! A tick asks for what the tick before gave back, so nearly every request takes the head of a list; no
//! block is ever split, joined or searched for. Blocks carry no header, because Rust tells the size
//! again when it frees. Alignments up to that of the smallest block are served.
#![expect(unsafe_code, reason = "an allocator deals in raw memory")]

use core::alloc::{GlobalAlloc, Layout};
use core::arch::wasm32::{memory_grow, memory_size};
use core::cell::Cell;
use core::ptr::{self, null_mut};

/// Bytes of the smallest block.
const SMALLEST: usize = 16;
const CLASSES: usize = 24;
const PAGE: usize = 1 << 16;

unsafe extern "C" {
    /// Set by the linker: data and stack end here.
    static __heap_base: u8;
}

/// Blocks of `SMALLEST << class` bytes; a free one begins with the address of the next.
struct Heap {
    free: [Cell<*mut u8>; CLASSES],
    /// Where memory that was never a block begins; 0 = not known yet.
    fresh: Cell<usize>,
}

// SAFETY: a policy has one thread; the host offers no second.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap { free: [const { Cell::new(null_mut()) }; CLASSES], fresh: Cell::new(0) };

fn class(size: usize) -> usize {
    let blocks = size.saturating_sub(1) / SMALLEST;
    (usize::BITS - blocks.leading_zeros()) as usize
}

impl Heap {
    #[cold]
    fn carve(&self, class: usize) -> *mut u8 {
        let fresh = match self.fresh.get() {
            0 => (&raw const __heap_base).addr().next_multiple_of(SMALLEST),
            known => known,
        };
        let Some(end) = fresh.checked_add(SMALLEST << class) else { return null_mut() };
        let missing = end.saturating_sub(memory_size(0) * PAGE).div_ceil(PAGE);
        if missing > 0 && memory_grow(0, missing) == usize::MAX {
            return null_mut();
        }
        self.fresh.set(end);
        ptr::with_exposed_provenance_mut(fresh)
    }
}

// SAFETY: a block is on one free list or with one owner, is at least as large as asked for (its class is
// a function of the size alone, so it returns to the list it came from), and begins at a multiple of
// `SMALLEST`.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let class = class(layout.size());
        if layout.align() > SMALLEST || class >= CLASSES {
            return null_mut();
        }
        let head = self.free[class].get();
        if head.is_null() {
            return self.carve(class);
        }
        // SAFETY: a free block, so `dealloc` wrote the next one's address there.
        self.free[class].set(unsafe { head.cast::<*mut u8>().read() });
        head
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let class = class(layout.size());
        // SAFETY: the caller gives up the block, which has at least `SMALLEST` bytes.
        unsafe { block.cast::<*mut u8>().write(self.free[class].get()) };
        self.free[class].set(block);
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if class(size) == class(layout.size()) {
            return block;
        }
        // SAFETY: the caller keeps `GlobalAlloc::realloc`'s promises: the new size is not 0 and does not
        // overflow with the alignment, and the block is his.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(block, new, size.min(layout.size()));
                self.dealloc(block, layout);
            }
            new
        }
    }
}
