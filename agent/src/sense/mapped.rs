//! A mapped BPF array, word by word. The kernel writes it meanwhile, so nobody gets a reference into it:
//! words are copied out and in, `Relaxed`. Each word stands for itself (see `bpf/sched.h`), so no
//! ordering between them is needed.

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// The whole value area of a `BPF_F_MMAPABLE` array.
#[derive(Debug)]
pub(super) struct Mapped {
    base: NonNull<AtomicU64>,
    words: usize,
    bytes: NonZeroUsize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only touched through atomics.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps `words` 64-bit words of the array behind `fd`.
    pub(super) fn new(fd: impl AsFd, words: usize) -> Result<Self, nix::Error> {
        let bytes = words.checked_mul(8).and_then(NonZeroUsize::new).ok_or(nix::Error::EINVAL)?;
        // SAFETY: a new shared mapping at an address of the kernel's choice. The kernel refuses a length
        // beyond the array's (rounded up to pages), and a BPF array never shrinks.
        let base = unsafe {
            mmap(None, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0)
        }?;
        Ok(Self { base: base.cast(), words, bytes })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words, "word {index} of a mapped array of {}", self.words);
        // SAFETY: within the mapping, which lives as long as `self`; page-aligned base, so every word is
        // aligned; valid for any bits. The kernel's stores to it are single 64-bit ones.
        unsafe { self.base.add(index).as_ref() }
    }

    /// A word as it is now.
    pub(super) fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Relaxed)
    }

    /// Replaces a word that only the agent writes.
    pub(super) fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Relaxed);
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this length, unmapped once, and no reference outlives `self`.
        let _ = unsafe { munmap(self.base.cast(), self.bytes.get()) };
    }
}
