//! Memory that loops ask for ahead of its use.

use super::cells;
use std::sync::atomic::{Ordering, compiler_fence};

/// How far ahead of the loads lines that stream by are asked for: into the second level of cache,
/// since the first has too few misses under way at a time to keep memory busy.
const FAR: usize = 4608;
/// How far ahead they are asked for from there, so that loads do not wait for the second level.
const NEAR: usize = 2304;

/// Bytes of weights that a task streams at least, where threads do not need more tasks: its start,
/// when nothing has been asked for yet, should not count.
pub(crate) const LONG_STREAM: usize = 512 << 10;

/// Asks for lines of a stream that come after the one at `p`, which is about to be loaded. One at a
/// time, between arithmetic: several at once wait for each other.
#[inline(always)]
pub(crate) fn stream(p: *const u8) {
    // Elsewhere one is as good, as far as is known.
    if cfg!(target_arch = "x86_64") {
        cells::prefetch(p.wrapping_add(FAR), false);
    }
    cells::prefetch(p.wrapping_add(NEAR), true);
    // Else the compiler moves them all to one place.
    compiler_fence(Ordering::SeqCst);
}

/// Memory that is wanted soon, fetched into cache a few lines at a time.
#[derive(Clone, Copy)]
pub(crate) struct Fetch {
    pub at: *const u8,
    /// Cache lines until the next row, cache lines in a row, and bytes from the end of one to the
    /// start of the next.
    pub left: usize,
    pub row: usize,
    pub gap: usize,
    /// Cache lines for every four words of x.
    pub pace: usize,
    /// Into the first level of cache, rather than the second.
    pub near: bool,
    /// They stream by: what comes after the line is asked for.
    pub streams: bool,
}

impl Fetch {
    /// Fetches nothing.
    pub const NONE: Fetch = Fetch {
        at: std::ptr::null(),
        left: 0,
        row: usize::MAX,
        gap: 0,
        pace: 0,
        near: false,
        streams: false,
    };

    /// What four words of x are worth.
    #[inline(always)]
    pub fn some(&mut self) {
        for _ in 0..self.pace {
            if self.streams {
                stream(self.at);
            } else {
                cells::prefetch(self.at, self.near);
            }
            self.at = self.at.wrapping_add(64);
            self.left = self.left.wrapping_sub(1);
            if self.left == 0 {
                self.at = self.at.wrapping_add(self.gap);
                self.left = self.row;
            }
        }
    }
}
