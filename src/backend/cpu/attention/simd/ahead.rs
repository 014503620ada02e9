//! Rows of keys or values that lie at equal distances, and asking for them ahead of their use.

use crate::backend::cpu::simd::cells;

/// Distance of the rows where it is the same between all; gathers take it as 32 bits.
#[inline(always)]
pub(super) fn distance(rows: &[*const u8]) -> Option<usize> {
    let step = (rows[1] as usize).wrapping_sub(rows[0] as usize);
    let mut same = step < 1 << 26;
    for i in 2..rows.len() {
        same &= (rows[i] as usize).wrapping_sub(rows[i - 1] as usize) == step;
    }
    same.then_some(step)
}

/// Rows that are wanted later and asked for a line at a time.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    at: *const u8,
    /// Bytes to the next line: 0 where there is nothing to ask for.
    pace: usize,
    lines: usize,
    /// For the first level of cache.
    near: bool,
}

impl Ahead {
    /// Lines of rows that lie one behind the other; others are asked for at once.
    #[inline(always)]
    pub fn new(rows: &[*const u8], bytes: usize, near: bool) -> Self {
        let none = |at| Ahead {
            at,
            pace: 0,
            lines: 0,
            near,
        };
        match rows {
            // A place that is always near.
            [] => none(std::ptr::from_ref(&0u8)),
            [first, _, ..] if distance(rows) == Some(bytes) => Ahead {
                at: *first,
                pace: 64,
                lines: (rows.len() * bytes).div_ceil(64) + 1,
                near,
            },
            [first, ..] => {
                for &row in rows {
                    for at in (0..bytes).step_by(64) {
                        cells::prefetch(row.wrapping_add(at), near);
                    }
                }
                none(*first)
            }
        }
    }

    #[inline(always)]
    pub fn line(self, i: usize) {
        cells::prefetch(self.at.wrapping_add(i * self.pace), self.near);
    }

    /// Lines from the `i`-th on.
    #[inline(always)]
    pub fn rest(self, i: usize) {
        for i in i..self.lines {
            self.line(i);
        }
    }
}
