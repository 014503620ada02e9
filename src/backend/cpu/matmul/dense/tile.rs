//! The inner loops: some rows of x by a panel of columns, in registers.

use super::unit::Unit;
use crate::backend::cpu::simd::{Fetch, Simd};

/// Words of a line of x.
pub(super) const LINE: usize = 16;
/// Most rows of a tile of two vectors.
pub(super) const fn most_rows<U: Unit>() -> usize {
    U::ROWS[0]
}

/// Most rows of a tile of two panels.
pub(super) const fn most_rows_of_two<U: Unit>() -> usize {
    U::ROWS[1]
}

/// Columns of a panel.
pub(super) const fn columns<U: Unit>() -> usize {
    2 * U::S::LANES
}

/// `c (+)= x . panel` for a few rows.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// `[words / LINE][rows][LINE]`; the last line is filled up with zeros.
    pub x: *const u32,
    /// Words of x along k.
    pub words: usize,
    /// `[steps][columns]`.
    pub panel: *const u8,
    /// Bytes to the next panel, for tiles of two.
    pub panel_step: usize,
    /// `[rows][columns]`, rows `c_step` apart.
    pub c: *mut f32,
    pub c_step: usize,
    /// Replace what is in c.
    pub first: bool,
}

impl Tile {
    /// `rows` rows by one panel, or by two.
    ///
    /// # Safety
    /// At most [`most_rows`] (or [`most_rows_of_two`]); the pointers lead to what they say; the
    /// CPU has the features of `U`.
    #[inline(always)]
    pub unsafe fn run<U: Unit>(self, rows: usize, two: bool, f: &mut Fetch) {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            match (two, rows) {
                (true, 1) => self.rows::<U, 1, 4>(f),
                (true, 2) => self.rows::<U, 2, 4>(f),
                (true, 3) => self.rows::<U, 3, 4>(f),
                (true, 4) => self.rows::<U, 4, 4>(f),
                (true, 5) => self.rows::<U, 5, 4>(f),
                (true, _) => self.rows::<U, 6, 4>(f),
                (false, 1) => self.rows::<U, 1, 2>(f),
                (false, 2) => self.rows::<U, 2, 2>(f),
                (false, 3) => self.rows::<U, 3, 2>(f),
                (false, 4) => self.rows::<U, 4, 2>(f),
                (false, 5) => self.rows::<U, 5, 2>(f),
                (false, 6) => self.rows::<U, 6, 2>(f),
                (false, 7) => self.rows::<U, 7, 2>(f),
                (false, 8) => self.rows::<U, 8, 2>(f),
                (false, 9) => self.rows::<U, 9, 2>(f),
                (false, 10) => self.rows::<U, 10, 2>(f),
                (false, 11) => self.rows::<U, 11, 2>(f),
                (false, _) => self.rows::<U, 12, 2>(f),
            }
        }
    }

    #[inline(always)]
    unsafe fn rows<U: Unit, const MR: usize, const NV: usize>(self, fetch: &mut Fetch) {
        let lanes = U::S::LANES;
        // SAFETY: the loops stay inside the lines, the steps and the rows of c.
        unsafe {
            let mut acc = [[U::zero(); NV]; MR];
            if !self.first {
                for r in 0..MR {
                    for v in 0..NV {
                        acc[r][v] = U::load(self.c.add(r * self.c_step + v * lanes));
                    }
                }
            }
            let (mut x, mut panel) = (self.x, self.panel);
            let step = columns::<U>() * U::BYTES;
            for _ in 0..self.words / LINE {
                for _ in 0..LINE / 4 {
                    fetch.some();
                    for i in 0..4 / U::STEP {
                        let x = x.add(i * U::STEP);
                        self.step::<U, MR, NV>(x, panel.add(i * step), &mut acc);
                    }
                    x = x.add(4);
                    panel = panel.add(4 / U::STEP * step);
                }
                x = x.add((MR - 1) * LINE);
            }
            for _ in 0..(self.words % LINE).div_ceil(U::STEP) {
                self.step::<U, MR, NV>(x, panel, &mut acc);
                x = x.add(U::STEP);
                panel = panel.add(step);
            }
            for r in 0..MR {
                for v in 0..NV {
                    U::store(self.c.add(r * self.c_step + v * lanes), acc[r][v]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn step<U: Unit, const MR: usize, const NV: usize>(
        self,
        x: *const u32,
        panel: *const u8,
        acc: &mut [[U::Acc; NV]; MR],
    ) {
        let vector = U::S::LANES * U::BYTES;
        // SAFETY: as for `rows`.
        unsafe {
            let mut w = [U::step(panel); NV];
            for v in 0..NV {
                w[v] = U::step(panel.add(v / 2 * self.panel_step + v % 2 * vector));
            }
            for s in 0..U::STEP {
                for r in 0..MR {
                    let x = U::splat(x.add(r * LINE + s));
                    for v in 0..NV {
                        acc[r][v] = U::mac(acc[r][v], x, w[v][s]);
                    }
                }
            }
        }
    }
}
