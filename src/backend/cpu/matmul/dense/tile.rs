//! The inner loops: some rows of x by a panel of columns, in registers.

use super::unit::Unit;
use crate::backend::cpu::simd::{Fetch, Simd, stream};

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

/// Most rows of a tile of one panel that comes from memory as it is multiplied: more leave no
/// registers for what that takes.
pub(super) const STREAMS: usize = 8;

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
    /// The panels come from memory as they are multiplied.
    pub streams: bool,
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
            match (self.streams, two, rows) {
                (true, true, _) => self.two::<U, true>(rows, f),
                (false, true, _) => self.two::<U, false>(rows, f),
                (true, false, ..=STREAMS) => self.one::<U, true>(rows, f),
                (false, false, ..=STREAMS) => self.one::<U, false>(rows, f),
                (_, false, 9) => self.rows::<U, 9, 2, false>(f),
                (_, false, 10) => self.rows::<U, 10, 2, false>(f),
                (_, false, 11) => self.rows::<U, 11, 2, false>(f),
                (_, false, _) => self.rows::<U, 12, 2, false>(f),
            }
        }
    }

    /// By two panels.
    ///
    /// # Safety
    /// As for [`Tile::run`].
    #[inline(always)]
    unsafe fn two<U: Unit, const STREAM: bool>(self, rows: usize, f: &mut Fetch) {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            match rows {
                1 => self.rows::<U, 1, 4, STREAM>(f),
                2 => self.rows::<U, 2, 4, STREAM>(f),
                3 => self.rows::<U, 3, 4, STREAM>(f),
                4 => self.rows::<U, 4, 4, STREAM>(f),
                5 => self.rows::<U, 5, 4, STREAM>(f),
                _ => self.rows::<U, 6, 4, STREAM>(f),
            }
        }
    }

    /// Up to [`STREAMS`] rows by one panel.
    ///
    /// # Safety
    /// As for [`Tile::run`].
    #[inline(always)]
    unsafe fn one<U: Unit, const STREAM: bool>(self, rows: usize, f: &mut Fetch) {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            match rows {
                1 => self.rows::<U, 1, 2, STREAM>(f),
                2 => self.rows::<U, 2, 2, STREAM>(f),
                3 => self.rows::<U, 3, 2, STREAM>(f),
                4 => self.rows::<U, 4, 2, STREAM>(f),
                5 => self.rows::<U, 5, 2, STREAM>(f),
                6 => self.rows::<U, 6, 2, STREAM>(f),
                7 => self.rows::<U, 7, 2, STREAM>(f),
                _ => self.rows::<U, 8, 2, STREAM>(f),
            }
        }
    }

    #[inline(always)]
    unsafe fn rows<U: Unit, const MR: usize, const NV: usize, const STREAM: bool>(
        self,
        fetch: &mut Fetch,
    ) {
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
                    if !STREAM {
                        fetch.some();
                    }
                    for i in 0..4 / U::STEP {
                        let x = x.add(i * U::STEP);
                        self.step::<U, MR, NV, STREAM>(x, panel.add(i * step), &mut acc);
                    }
                    x = x.add(4);
                    panel = panel.add(4 / U::STEP * step);
                }
                x = x.add((MR - 1) * LINE);
            }
            for _ in 0..(self.words % LINE).div_ceil(U::STEP) {
                self.step::<U, MR, NV, STREAM>(x, panel, &mut acc);
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
    unsafe fn step<U: Unit, const MR: usize, const NV: usize, const STREAM: bool>(
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
                let at = panel.add(v / 2 * self.panel_step + v % 2 * vector);
                if STREAM && (vector >= 64 || v % (64 / vector) == 0) {
                    stream(at);
                }
                w[v] = U::step(at);
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
