//! The two memory regions of a runner: sealed memfds, their layout and their mappings.
//!
//! Both are made by the agent. *Orders* is written by the agent: the decision's seqlock and the ring's read
//! cursor. *Report* is written by the runner: the ring's slots and write cursor, and the totals. Every group
//! of words with one writer has cache lines of its own.
//!
//! Seals: neither region can change its size, so that no truncation can end the other side with SIGBUS;
//! orders can get no second writable mapping (`F_SEAL_FUTURE_WRITE`, after the agent made its own).
//!
//! Nearly all unsafe code of the project is here: mapping, and turning a mapped word into an atomic. Never
//! is there a `&T` or a slice into shared memory.

use crate::msg::{DecisionMsg, FeedbackMsg};
use crate::sync::{Load, Store};
use crate::{ring, seqlock, totals};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;
use std::ffi::{CStr, c_void};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Version of the layout and of the messages in it; both sides must have the same.
pub const VERSION: u64 = 1;
/// Messages that the feedback ring holds: 2.5 s of frames at 100 a second.
pub const RING_CAPACITY: usize = 256;

/// "tandemOR", "tandemRE"
const ORDERS_MAGIC: u64 = u64::from_le_bytes(*b"tandemOR");
const REPORT_MAGIC: u64 = u64::from_le_bytes(*b"tandemRE");

/// Two cache lines: processors fetch lines in pairs.
const LINE: usize = 16;
/// Magic, version, size in bytes, capacity of the ring and sizes of the messages.
const HEADER: Range<usize> = 0..4;

pub(crate) const DECISION: Range<usize> = LINE..LINE + seqlock::words::<DecisionMsg>();
pub(crate) const TAIL: Range<usize> = 2 * LINE..2 * LINE + ring::TAIL_WORDS;
const ORDERS_WORDS: usize = 512;

pub(crate) const HEAD: Range<usize> = LINE..LINE + ring::HEAD_WORDS;
pub(crate) const TOTALS: Range<usize> = 2 * LINE..2 * LINE + totals::WORDS;
pub(crate) const SLOTS: Range<usize> = 4 * LINE..4 * LINE + ring::words::<FeedbackMsg>(RING_CAPACITY);
const REPORT_WORDS: usize = 2048;

const _: () = {
    assert!(DECISION.end <= 2 * LINE && TAIL.end <= ORDERS_WORDS);
    assert!(HEAD.end <= 2 * LINE && TOTALS.end <= 4 * LINE && SLOTS.end <= REPORT_WORDS);
};

/// Which of the two regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Written by the agent.
    Orders,
    /// Written by the runner.
    Report,
}

impl Kind {
    const fn words(self) -> usize {
        match self {
            Self::Orders => ORDERS_WORDS,
            Self::Report => REPORT_WORDS,
        }
    }
    const fn seals(self) -> SealFlag {
        let size = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);
        match self {
            Self::Orders => size.union(SealFlag::F_SEAL_FUTURE_WRITE),
            Self::Report => size,
        }
    }
    const fn name(self) -> &'static CStr {
        match self {
            Self::Orders => c"tandem-orders",
            Self::Report => c"tandem-report",
        }
    }
    fn header(self) -> [u64; HEADER.end] {
        let magic = match self {
            Self::Orders => ORDERS_MAGIC,
            Self::Report => REPORT_MAGIC,
        };
        let sizes = (RING_CAPACITY << 32) | (size_of::<DecisionMsg>() << 16) | size_of::<FeedbackMsg>();
        [magic, VERSION, self.words() as u64 * 8, sizes as u64]
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Orders => "orders",
            Self::Report => "report",
        })
    }
}

/// A region that cannot be made or must not be used.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The kernel refused.
    #[error("{kind} region: {doing}: {error}")]
    System {
        /// Which region.
        kind: Kind,
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        error: Errno,
    },
    /// A memfd without the seals that keep this side safe.
    #[error("{kind} region: seals are {found:?}, must be exactly {needed:?}")]
    Seals {
        /// Which region.
        kind: Kind,
        /// What it has.
        found: SealFlag,
        /// What it must have.
        needed: SealFlag,
    },
    /// Of another size than this version's.
    #[error("{kind} region: {found} bytes, must be {needed}")]
    Size {
        /// Which region.
        kind: Kind,
        /// What it has.
        found: i64,
        /// What it must have.
        needed: usize,
    },
    /// Another magic, version, size or shape in the header.
    #[error(
        "{kind} region: header {found:x?}, must be {needed:x?} (magic, version, bytes, ring and messages)"
    )]
    Header {
        /// Which region.
        kind: Kind,
        /// What it has.
        found: [u64; HEADER.end],
        /// What it must have.
        needed: [u64; HEADER.end],
    },
}

/// A mapped region. `WRITE` is in the type, so that safe code cannot store to a read-only page.
#[derive(Debug)]
pub(crate) struct Mapping<const WRITE: bool> {
    base: NonNull<c_void>,
    words: usize,
}

// SAFETY: a Mapping owns its pages until drop, which any thread may do; they are accessed as atomics only.
unsafe impl<const WRITE: bool> Send for Mapping<WRITE> {}
// SAFETY: as for Send: through `&Mapping` nothing is reachable but atomics.
unsafe impl<const WRITE: bool> Sync for Mapping<WRITE> {}

impl<const WRITE: bool> Mapping<WRITE> {
    /// Maps the region. Its size was set or checked, and sealed, by the caller.
    fn new(kind: Kind, fd: BorrowedFd<'_>) -> Result<Self, RegionError> {
        let words = kind.words();
        let bytes = NonZeroUsize::new(words * 8).expect("no region is empty");
        let prot = if WRITE { ProtFlags::PROT_READ | ProtFlags::PROT_WRITE } else { ProtFlags::PROT_READ };
        // Populated: the first tick shall not pay for page faults.
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE;
        // SAFETY: a new mapping at an address the kernel picks; no memory of ours is touched.
        let base = unsafe { mmap(None, bytes, prot, flags, fd, 0) }.map_err(|error| RegionError::System {
            kind,
            doing: "map",
            error,
        })?;
        Ok(Self { base, words })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words, "word {index} of a region of {}", self.words);
        // SAFETY: the mapping is page-aligned, lives as long as `self`, and holds `words` words (its size is
        // sealed, so the pages behind it stay); `index` is among them. Every access to it, here and on the
        // other side, is atomic. Where the pages are read-only, `Window` only loads, `Relaxed`.
        unsafe { &*self.base.as_ptr().cast::<AtomicU64>().add(index) }
    }
}

impl<const WRITE: bool> Drop for Mapping<WRITE> {
    fn drop(&mut self) {
        // SAFETY: made by mmap with this length; no `&AtomicU64` outlives `self`. Failure leaves it mapped.
        let _ = unsafe { munmap(self.base, self.words * 8) };
    }
}

/// Some words of a mapping, which it keeps alive.
#[derive(Clone, Debug)]
pub struct Window<const WRITE: bool> {
    mapping: Arc<Mapping<WRITE>>,
    first: usize,
    len: usize,
}

/// Words of the other side's.
pub type ReadWindow = Window<false>;
/// Words of this side's.
pub type WriteWindow = Window<true>;

impl<const WRITE: bool> Window<WRITE> {
    pub(crate) fn new(mapping: &Arc<Mapping<WRITE>>, range: Range<usize>) -> Self {
        assert!(range.end <= mapping.words, "{range:?} of a region of {} words", mapping.words);
        Self { mapping: Arc::clone(mapping), first: range.start, len: range.len() }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.len, "word {index} of a window of {}", self.len);
        self.mapping.word(self.first + index)
    }
}

impl<const WRITE: bool> Load for Window<WRITE> {
    fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Relaxed)
    }
}

impl Store for WriteWindow {
    fn store(&self, index: usize, value: u64, order: Ordering) {
        self.word(index).store(value, order);
    }
}

impl WriteWindow {
    /// Adds to a word that several threads of this side may add to.
    pub(crate) fn add(&self, index: usize, n: u64, order: Ordering) {
        self.word(index).fetch_add(n, order);
    }
}

/// The agent's side of a region: the descriptor to hand over, and its own mapping.
pub(crate) fn create<const WRITE: bool>(kind: Kind) -> Result<(OwnedFd, Arc<Mapping<WRITE>>), RegionError> {
    let system = |doing| move |error| RegionError::System { kind, doing, error };
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // MFD_NOEXEC_SEAL (Linux 6.3): never a program. Older kernels do not know it.
    let fd = memfd_create(kind.name(), flags | MFdFlags::from_bits_retain(8))
        .or_else(|_| memfd_create(kind.name(), flags))
        .map_err(system("create"))?;
    let bytes = i64::try_from(kind.words() * 8).expect("a few pages");
    ftruncate(&fd, bytes).map_err(system("set the size of"))?;
    {
        let header = Mapping::<true>::new(kind, fd.as_fd())?;
        for (i, word) in kind.header().into_iter().enumerate() {
            header.word(i).store(word, Ordering::Relaxed);
        }
    }
    // Before the seals: F_SEAL_FUTURE_WRITE allows no writable mapping after it, ours neither.
    let mapping = Mapping::<WRITE>::new(kind, fd.as_fd())?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(kind.seals())).map_err(system("seal"))?;
    Ok((fd, Arc::new(mapping)))
}

/// The runner's side: checks what it was handed, then maps it.
pub(crate) fn open<const WRITE: bool>(
    kind: Kind,
    fd: BorrowedFd<'_>,
) -> Result<Arc<Mapping<WRITE>>, RegionError> {
    let system = |doing| move |error| RegionError::System { kind, doing, error };
    let found = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(system("read the seals of"))?;
    let found = SealFlag::from_bits_retain(found);
    // F_SEAL_EXEC comes with MFD_NOEXEC_SEAL.
    let needed = kind.seals();
    if found.difference(SealFlag::from_bits_retain(0x20)) != needed {
        return Err(RegionError::Seals { kind, found, needed });
    }
    let size = fstat(fd).map_err(system("read the size of"))?.st_size;
    if usize::try_from(size) != Ok(kind.words() * 8) {
        return Err(RegionError::Size { kind, found: size, needed: kind.words() * 8 });
    }
    let mapping = Mapping::<WRITE>::new(kind, fd)?;
    let found = std::array::from_fn(|i| mapping.word(i).load(Ordering::Relaxed));
    let needed = kind.header();
    if found != needed {
        return Err(RegionError::Header { kind, found, needed });
    }
    Ok(Arc::new(mapping))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    /// A memfd that looks like a region, but for what a test does to it.
    fn forged(kind: Kind, words: usize, seals: SealFlag, header: [u64; HEADER.end]) -> OwnedFd {
        let fd = memfd_create(c"forged", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let bytes: Vec<u8> = header.iter().flat_map(|w| w.to_ne_bytes()).collect();
        nix::unistd::write(&fd, &bytes).unwrap();
        ftruncate(&fd, i64::try_from(words * 8).unwrap()).unwrap();
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        assert_eq!(kind.words() * 8 % 4096, 0, "whole pages");
        fd
    }

    fn map(fd: &OwnedFd, prot: ProtFlags) -> Result<NonNull<c_void>, Errno> {
        let len = NonZeroUsize::new(4096).unwrap();
        // SAFETY: a new mapping where the kernel likes; it is never accessed.
        unsafe { mmap(None, len, prot, MapFlags::MAP_SHARED, fd, 0) }
    }

    #[test]
    fn orders_cannot_be_written_by_who_holds_the_descriptor() {
        let (fd, agent) = create::<true>(Kind::Orders).unwrap();
        let read_write = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        assert_eq!(map(&fd, read_write), Err(Errno::EPERM));
        let pages = map(&fd, ProtFlags::PROT_READ).unwrap();
        // SAFETY: the pages mapped above; were it to succeed, nothing accesses them.
        assert_eq!(unsafe { nix::sys::mman::mprotect(pages, 4096, read_write) }, Err(Errno::EACCES));
        // SAFETY: as mapped above.
        unsafe { munmap(pages, 4096) }.unwrap();
        assert_eq!(nix::unistd::write(&fd, &[1]), Err(Errno::EPERM));
        // Nor through a descriptor opened anew.
        let again = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/self/fd/{}", fd.as_raw_fd()))
            .unwrap();
        assert_eq!(map(&again.into(), read_write), Err(Errno::EPERM));
        let hole = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
            | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        assert_eq!(nix::fcntl::fallocate(&fd, hole, 0, 4096), Err(Errno::EPERM));
        // The agent's own mapping still writes, and the runner's sees it.
        let runner = open::<false>(Kind::Orders, fd.as_fd()).unwrap();
        Window::new(&agent, TAIL).store(0, 77, Ordering::Relaxed);
        assert_eq!(Window::new(&runner, TAIL).load(0), 77);
    }

    #[test]
    fn no_region_can_change_its_size_or_its_seals() {
        for kind in [Kind::Orders, Kind::Report] {
            let (fd, _mapping) = create::<true>(kind).unwrap();
            let size = i64::try_from(kind.words() * 8).unwrap();
            for other in [0, size - 4096, size + 4096] {
                assert_eq!(ftruncate(&fd, other), Err(Errno::EPERM), "{kind} to {other}");
            }
            let more = fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE));
            assert_eq!(more, Err(Errno::EPERM), "{kind}");
        }
    }

    #[test]
    fn a_hole_in_the_report_reads_as_zero_and_kills_nobody() {
        let (fd, agent) = create::<false>(Kind::Report).unwrap();
        let runner = open::<true>(Kind::Report, fd.as_fd()).unwrap();
        Window::new(&runner, HEAD).store(0, 3, Ordering::Relaxed);
        assert_eq!(Window::new(&agent, HEAD).load(0), 3);
        let hole = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
            | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        nix::fcntl::fallocate(&fd, hole, 0, 4096).unwrap();
        assert_eq!(Window::new(&agent, HEAD).load(0), 0);
    }

    #[test]
    fn a_region_without_its_seals_is_refused() {
        for kind in [Kind::Orders, Kind::Report] {
            for missing in [SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW, SealFlag::F_SEAL_SEAL] {
                let fd = forged(kind, kind.words(), kind.seals().difference(missing), kind.header());
                let refused = open::<false>(kind, fd.as_fd()).unwrap_err();
                assert!(matches!(refused, RegionError::Seals { .. }), "{refused}");
            }
        }
        // Orders that somebody else could still write, and a report that the runner could not.
        let fd = forged(Kind::Orders, ORDERS_WORDS, Kind::Report.seals(), Kind::Orders.header());
        assert!(matches!(open::<false>(Kind::Orders, fd.as_fd()), Err(RegionError::Seals { .. })));
        let fd = forged(Kind::Report, REPORT_WORDS, Kind::Orders.seals(), Kind::Report.header());
        assert!(matches!(open::<true>(Kind::Report, fd.as_fd()), Err(RegionError::Seals { .. })));
    }

    #[test]
    fn a_region_of_another_size_or_header_is_refused() {
        for kind in [Kind::Orders, Kind::Report] {
            let fd = forged(kind, kind.words(), kind.seals(), kind.header());
            open::<false>(kind, fd.as_fd()).expect("the forgery is good");
            for words in [kind.words() - 512, kind.words() + 512, 4] {
                let fd = forged(kind, words, kind.seals(), kind.header());
                let refused = open::<false>(kind, fd.as_fd()).unwrap_err();
                assert!(matches!(refused, RegionError::Size { .. }), "{words}: {refused}");
            }
            for word in HEADER {
                let mut header = kind.header();
                header[word] ^= 1;
                let fd = forged(kind, kind.words(), kind.seals(), header);
                let refused = open::<false>(kind, fd.as_fd()).unwrap_err();
                assert!(matches!(refused, RegionError::Header { .. }), "{word}: {refused}");
            }
        }
        let (swapped, _mapping) = create::<false>(Kind::Report).unwrap();
        assert!(open::<false>(Kind::Orders, swapped.as_fd()).is_err());
    }

    #[test]
    fn what_is_no_memfd_is_refused() {
        let file = OwnedFd::from(std::fs::File::open("/dev/zero").unwrap());
        let refused = open::<false>(Kind::Orders, file.as_fd()).unwrap_err();
        assert_eq!(refused.to_string(), "orders region: read the seals of: EINVAL: Invalid argument");
    }
}
