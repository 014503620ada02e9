//! Host memory: aligned zeros of our own, or read-only bytes from outside.

use super::pool::Pool;
use crate::{
    device::RawBuffer,
    error::{Error, Result},
    tensor::Buffer,
};
use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    any::Any,
    fmt,
    ops::Range,
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak},
};

/// Where allocations start: one cache line, one AVX-512 register.
const ALIGN: usize = 64;
/// Zeros after the last byte, so that a wide load at the end stays inside the allocation.
const PADDING: usize = 64;
/// Bytes that one thread copies at a time: pages of two megabytes have one that touches them first.
const PIECE: usize = 2 << 20;
/// Smallest alignment of imported bytes: that of the largest element.
const IMPORT_ALIGN: usize = 8;
/// Allocations from this size on are compared with the memory that is free: the kernel of the
/// system promises more than it has and ends the process later.
const LARGE: u64 = 64 << 20;

/// Allocations from this size on ask for huge pages.
const HUGE: u64 = 4 << 20;

/// Asks for huge pages: weights and caches are read from end to end, and the prefetchers of the
/// processor stop at the end of a page.
#[cfg(target_os = "linux")]
fn advise_huge_pages(base: NonNull<u8>, len: usize) {
    const PAGE: usize = 4096;
    let skip = base.as_ptr().align_offset(PAGE).min(len);
    let whole = (len - skip) / PAGE * PAGE;
    // SAFETY: whole pages inside our own fresh allocation; the advice changes no contents, and
    // whether the system takes it does not matter.
    unsafe { libc::madvise(base.add(skip).as_ptr().cast(), whole, libc::MADV_HUGEPAGE) };
}
#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_base: NonNull<u8>, _len: usize) {}

/// The memory of one buffer.
pub(crate) struct Memory {
    start: NonNull<u8>,
    len: usize,
    source: Source,
    /// Ops of several streams may name the same buffer; each holds this while it runs.
    lock: RwLock<()>,
}

enum Source {
    /// Our own allocation: its own start and layout.
    Own(NonNull<u8>, Layout),
    /// A part of a chunk, which this keeps alive.
    Part(#[expect(dead_code)] Arc<Chunk>),
    /// Read-only bytes that this keeps alive.
    Imported(#[expect(dead_code)] Arc<dyn AsRef<[u8]> + Send + Sync>),
}

// SAFETY: the bytes are plain memory without thread affinity; access is ordered by `lock`.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// Zeros that small buffers of long life share: alone, each would lie in small pages.
struct Chunk {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the parts that are handed out are disjoint; the chunk itself touches none.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: `Chunk::new` allocated it with this layout.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

impl Chunk {
    /// Bytes of a chunk: what is never touched is never there.
    const LEN: usize = 32 << 20;

    fn new() -> Option<Arc<Chunk>> {
        let layout = Layout::from_size_align(Chunk::LEN, 16).ok()?;
        // SAFETY: the size is not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        advise_huge_pages(base, Chunk::LEN);
        Some(Arc::new(Chunk { base, layout }))
    }

    /// `len` zeros and [`PADDING`] that nobody else has, in the chunk that is being filled or a
    /// new one.
    fn part(len: usize) -> Option<(Arc<Chunk>, NonNull<u8>)> {
        /// The chunk that is being filled, and how far.
        static CURRENT: Mutex<(Weak<Chunk>, usize)> = Mutex::new((Weak::new(), 0));
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let place = |chunk: &Chunk, from: usize| {
            // SAFETY: `from` is inside the chunk.
            let skip = unsafe { chunk.base.add(from) }.as_ptr().align_offset(ALIGN);
            let start = from.checked_add(skip)?;
            let end = start.checked_add(len)?.checked_add(PADDING)?;
            (end <= Chunk::LEN).then_some((start, end))
        };
        let old = current.0.upgrade();
        let found = old.and_then(|chunk| Some((place(&chunk, current.1)?, chunk)));
        let ((start, end), chunk) = match found {
            Some(found) => found,
            None => {
                let chunk = Chunk::new()?;
                current.0 = Arc::downgrade(&chunk);
                (place(&chunk, 0)?, chunk)
            }
        };
        current.1 = end;
        // SAFETY: `start` is inside the chunk.
        let start = unsafe { chunk.base.add(start) };
        Some((chunk, start))
    }
}

/// Bytes of our own that are filled once and then only read: packs, on their way to a buffer.
pub(crate) struct Filled(Memory);

impl Filled {
    /// `bytes` bytes as `fill` leaves them; zeros before.
    pub fn new(bytes: u64, fill: impl FnOnce(&mut [u8])) -> Result<Filled> {
        let memory = Memory::lasting(bytes)?;
        // SAFETY: an allocation of so many bytes that nobody else knows of yet.
        fill(unsafe { std::slice::from_raw_parts_mut(memory.start.as_ptr(), memory.len) });
        Ok(Filled(memory))
    }
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: initialized, and written by nobody since.
        unsafe { std::slice::from_raw_parts(self.0.start.as_ptr(), self.0.len) }
    }
}

/// Keeps other streams from a buffer: all of them, or those that write.
pub(crate) enum Guard<'a> {
    /// Others may read.
    Shared(#[expect(dead_code)] RwLockReadGuard<'a, ()>),
    /// Nobody else.
    Sole(#[expect(dead_code)] RwLockWriteGuard<'a, ()>),
}

impl Memory {
    /// Zeros.
    pub fn zeros(bytes: u64) -> Result<Memory> {
        let free = if bytes >= LARGE {
            super::device::memory().map(|(free, _)| free)
        } else {
            None
        };
        let full = || Error::OutOfMemory { asked: bytes, free };
        if free.is_some_and(|free| bytes > free) {
            return Err(full());
        }
        let len = usize::try_from(bytes).map_err(|_| full())?;
        // The allocator zeroes lazily (fresh pages) only for alignments that it has anyway, so
        // the start is aligned here.
        let layout = len
            .checked_add(PADDING + ALIGN)
            .and_then(|size| Layout::from_size_align(size, 16).ok())
            .ok_or_else(full)?;
        // SAFETY: the size is at least PADDING, not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(full)?;
        if len as u64 >= HUGE {
            advise_huge_pages(base, layout.size());
        }
        let skip = base.as_ptr().align_offset(ALIGN);
        // SAFETY: `skip` is below ALIGN, which the layout includes.
        let start = unsafe { base.add(skip) };
        Ok(Memory {
            start,
            len,
            source: Source::Own(base, layout),
            lock: RwLock::new(()),
        })
    }

    /// Zeros for a buffer of long life, such as a weight or a cache.
    pub fn lasting(bytes: u64) -> Result<Memory> {
        let part = usize::try_from(bytes)
            .ok()
            .filter(|_| (1..HUGE).contains(&bytes))
            .and_then(|len| Some((Chunk::part(len)?, len)));
        match part {
            None => Memory::zeros(bytes),
            Some(((chunk, start), len)) => Ok(Memory {
                start,
                len,
                source: Source::Part(chunk),
                lock: RwLock::new(()),
            }),
        }
    }

    /// Read-only bytes from outside.
    pub fn import(keep: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Result<Memory> {
        let bytes: &[u8] = (*keep).as_ref();
        let (start, len) = (NonNull::from(bytes).cast::<u8>(), bytes.len());
        if !start.addr().get().is_multiple_of(IMPORT_ALIGN) && len > 0 {
            return Err(Error::InvalidTensor(
                format!(
                    "imported bytes start at address {:#x}; expected a multiple of {IMPORT_ALIGN}, \
                     or allocate a buffer and write them into it",
                    start.addr()
                )
                .into(),
            ));
        }
        Ok(Memory {
            start,
            len,
            source: Source::Imported(keep),
            lock: RwLock::new(()),
        })
    }

    /// The memory of a buffer of this backend.
    pub fn of(buffer: &Buffer) -> Result<&Memory> {
        buffer.raw().as_any().downcast_ref().ok_or_else(|| {
            Error::InvalidTensor("a cpu buffer was not allocated by the cpu backend".into())
        })
    }

    /// First byte.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Keeps other streams from writing.
    pub fn lock(&self) -> Guard<'_> {
        Guard::Shared(self.lock.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps other streams away; an error for read-only bytes.
    pub fn lock_mut(&self) -> Result<Guard<'_>> {
        match self.source {
            Source::Own(..) | Source::Part(_) => Ok(Guard::Sole(
                self.lock.write().unwrap_or_else(PoisonError::into_inner),
            )),
            Source::Imported(_) => Err(Error::InvalidTensor(
                "imported host memory is read-only; write to a buffer of the device's own".into(),
            )),
        }
    }

    fn check(&self, range: &Range<u64>) -> Result<Range<usize>> {
        if range.start > range.end || range.end > self.len as u64 {
            return Err(Error::InvalidTensor(
                format!("bytes {range:?} of a buffer of {}", self.len).into(),
            ));
        }
        Ok(range.start as usize..range.end as usize)
    }

    /// Copies bytes in, as `pool` does it.
    pub fn write(&self, pool: &Pool, offset: u64, data: &[u8]) -> Result<()> {
        struct To(NonNull<u8>);
        // SAFETY: tasks write bytes of their own.
        unsafe impl Sync for To {}
        let range = self.check(&(offset..offset.saturating_add(data.len() as u64)))?;
        let _sole = self.lock_mut()?;
        // SAFETY: the range is inside our allocation.
        let to = To(unsafe { self.start.add(range.start) });
        pool.parallel(
            data.len().div_ceil(PIECE),
            data.len() as u64 / 4,
            |pieces| {
                let to = &to;
                let from = pieces.start * PIECE..data.len().min(pieces.end * PIECE);
                let (start, from) = (from.start, &data[from]);
                // SAFETY: a part of the range, and the lock keeps everyone else away.
                unsafe {
                    to.0.add(start)
                        .copy_from_nonoverlapping(NonNull::from(from).cast(), from.len());
                }
            },
        );
        Ok(())
    }

    /// Copies bytes out.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let range = self.check(&range)?;
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(range.len())
            .map_err(|_| Error::OutOfMemory {
                asked: range.len() as u64,
                free: None,
            })?;
        let _shared = self.lock();
        // SAFETY: the range is inside the memory, which is initialized (zeros, or a slice), and
        // the lock keeps writers away.
        bytes.extend_from_slice(unsafe {
            std::slice::from_raw_parts(self.start.add(range.start).as_ptr(), range.len())
        });
        Ok(bytes)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Source::Own(base, layout) = self.source {
            // SAFETY: `zeros` allocated it with this layout.
            unsafe { dealloc(base.as_ptr(), layout) };
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.source {
            Source::Own(..) => "own",
            Source::Part(_) => "part",
            Source::Imported(_) => "imported",
        };
        write!(f, "Memory({} bytes, {kind})", self.len)
    }
}

impl RawBuffer for Memory {
    fn len(&self) -> u64 {
        self.len as u64
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Pool {
        Pool::new(Pool::open(Some(2)).unwrap())
    }

    #[test]
    fn zeros_are_aligned_and_absurd_sizes_are_errors() {
        for bytes in [0, 1, 63, 64, 1000, 1 << 20] {
            let m = Memory::zeros(bytes).unwrap();
            assert!(m.start.addr().get().is_multiple_of(ALIGN));
            assert!(m.read(0..bytes).unwrap().iter().all(|&b| b == 0));
        }
        for bytes in [u64::MAX, i64::MAX as u64, 1 << 62, 1 << 50] {
            assert!(
                matches!(Memory::zeros(bytes), Err(Error::OutOfMemory { .. })),
                "{bytes}"
            );
        }
    }

    #[test]
    fn lasting_zeros_share_chunks_and_nothing_else() {
        let all: Vec<_> = [0, 1, 63, 64, 100_000, 3 << 20, 5 << 20]
            .into_iter()
            .cycle()
            .take(70)
            .enumerate()
            .map(|(i, bytes)| {
                let m = Memory::lasting(bytes).unwrap();
                assert!(m.start.addr().get().is_multiple_of(ALIGN));
                assert!(m.read(0..bytes).unwrap().iter().all(|&b| b == 0));
                let fill = vec![i as u8; bytes as usize];
                m.write(&two(), 0, &fill).unwrap();
                assert!(m.write(&two(), bytes, &[1]).is_err());
                (m, fill)
            })
            .collect();
        for (m, fill) in all {
            assert_eq!(m.read(0..m.len()).unwrap(), fill);
        }
    }

    #[test]
    fn writes_and_reads_keep_to_the_buffer() {
        let m = Memory::zeros(10).unwrap();
        m.write(&two(), 4, &[1, 2, 3]).unwrap();
        assert_eq!(m.read(3..8).unwrap(), [0, 1, 2, 3, 0]);
        assert!(m.write(&two(), 8, &[0; 3]).is_err());
        assert!(m.write(&two(), u64::MAX, &[0; 3]).is_err());
        assert!(m.read(5..11).is_err());
    }

    #[test]
    fn imported_bytes_are_read_only() {
        let words: Vec<u64> = vec![7, 8];
        let keep: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(Bytes(words));
        let m = Memory::import(keep).unwrap();
        assert_eq!(m.read(8..9).unwrap(), [8]);
        assert!(
            m.write(&two(), 0, &[1])
                .unwrap_err()
                .to_string()
                .contains("read-only")
        );
        assert!(m.lock_mut().is_err());
    }

    struct Bytes(Vec<u64>);
    impl AsRef<[u8]> for Bytes {
        fn as_ref(&self) -> &[u8] {
            bytemuck::cast_slice(&self.0)
        }
    }
}
