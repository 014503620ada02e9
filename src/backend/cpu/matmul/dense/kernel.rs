//! The instantiations: one set of entry points per unit, each compiled for its instruction sets.

use super::{
    panel::{self, Matrix},
    tile::{self, LINE, Tile},
    unit::Unit,
};
use crate::DType;
use crate::backend::cpu::{
    matmul::simd::epilogue::Output,
    simd::{Fetch, Simd},
};
use std::cell::RefCell;

pub(super) use super::arch::{Tier, fill, lines, select};

/// A block of k of some rows by a panel or two.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// Lines of row 0 at the first k of all.
    pub x: *const u32,
    /// Words of a row of x, whole lines.
    pub row_words: usize,
    /// First word of the block.
    pub word0: usize,
    /// Words of the block.
    pub words: usize,
    pub panel: *const u8,
    pub panel_step: usize,
    pub two: bool,
    /// Sums of all rows, `ld` apart.
    pub c: *mut f32,
    pub ld: usize,
    pub rows: usize,
    /// Rows of a tile.
    pub height: usize,
    pub fetch: Fetch,
    /// The panels come from memory as the first tile multiplies them.
    pub streams: bool,
    /// Set for the last block: where the sums go.
    pub done: Option<Done<'a>>,
}

/// Where sums go.
#[derive(Clone, Copy)]
pub(super) struct Done<'a> {
    pub out: &'a Output,
    /// Rows of y, where they do not follow each other.
    pub scatter: Option<&'a [usize]>,
    /// First row and column of y.
    pub m0: usize,
    pub n0: usize,
    pub n: usize,
    /// The same columns of the second panel, where it is not the next.
    pub beside: Option<(usize, usize)>,
    /// What zeros of x add to each column.
    pub zeros: *const f32,
    /// y is the sums as they are, in four bytes each.
    pub plain: bool,
    /// y is the sums as they are, rounded to its type.
    #[cfg_attr(
        target_arch = "aarch64",
        allow(dead_code, reason = "AMX has its own end")
    )]
    pub straight: bool,
    /// Rows of the block whose sums are not finite, which are still to be done.
    #[cfg_attr(target_arch = "aarch64", allow(dead_code, reason = "AMX has terms"))]
    pub again: &'a RefCell<Vec<usize>>,
}

impl Done<'_> {
    /// The row of y of row `m` of the block.
    #[inline(always)]
    pub fn row(&self, m: usize) -> usize {
        match self.scatter {
            Some(rows) => rows[self.m0 + m],
            None => self.m0 + m,
        }
    }
}

pub(super) type Tiles = unsafe fn(Block<'_>);
pub(super) type Fill = unsafe fn(Matrix, usize, usize, usize, usize, *mut u32, usize, usize);
pub(super) type Zeros = unsafe fn(*const u8, usize, *mut f32);
pub(in crate::backend::cpu::matmul) type Lines = unsafe fn(*const u8, &[usize], usize, *mut u32);

/// How loops over packed panels are cut.
#[derive(Clone, Copy)]
pub(super) struct Blocking {
    /// Rows of a tile are a multiple of this.
    pub rows: usize,
    /// Most rows of x that meet panels before the next rows do.
    pub group: usize,
    /// Words of x that a thread holds as lines: those of all threads share the last level of
    /// cache with the panels that go by.
    pub lines: usize,
    /// Words of k per block, of up to [`Blocking::FEW`] rows and of more: the lines of a group's
    /// block and a panel of it stay in the second level of cache.
    pub words: [usize; 2],
    /// Most panels of an item, and items that a thread should find.
    pub panels: usize,
    pub items: usize,
    /// Bytes of panels from which threads share up to [`Blocking::FEW`] rows and read each panel
    /// once, rather than share the rows out.
    pub shared: usize,
    /// Fetch panels into the first level of cache.
    pub near: bool,
    /// A tile asks for panels as it multiplies them, by lines.
    pub streams: bool,
}

impl Blocking {
    pub const FEW: usize = 128;
    /// Of dot products by vectors, whose arithmetic takes longer than panels take to come.
    pub const DOTS: Blocking = Blocking {
        rows: 1,
        group: 128,
        lines: 704 << 10,
        words: [512; 2],
        panels: 2,
        items: 16,
        shared: usize::MAX,
        near: true,
        streams: true,
    };
}

/// Products of one unit.
pub(super) struct Kernel {
    /// Columns of a panel.
    pub columns: usize,
    /// Most rows of a tile, by one panel and by two.
    pub most: [usize; 2],
    /// How loops over packed panels are cut.
    pub packed: Blocking,
    /// k in a word of x.
    pub per_word: usize,
    /// Words of x per step of a panel.
    pub step: usize,
    /// Bytes of a step.
    pub step_bytes: usize,
    /// Sums are i32.
    pub integers: bool,
    /// Bytes of a packed panel of k numbers.
    pub panel_bytes: fn(usize) -> usize,
    /// # Safety
    /// The block leads to what it says; the CPU has the features.
    pub tiles: Tiles,
    /// Adds what zeros of x add to each column of a panel.
    ///
    /// # Safety
    /// As [`panel::add_zeros`].
    pub zeros: Option<Zeros>,
    /// For many rows: a kernel of f32, and what makes panels of f32 for it.
    pub wide: Option<(&'static Kernel, Zeros)>,
    /// Numbers are sums of terms.
    pub terms: Option<Terms>,
}

/// Where the terms of weights come from.
#[derive(Clone, Copy)]
#[cfg_attr(target_arch = "aarch64", allow(dead_code, reason = "AMX has terms"))]
pub(super) enum Source {
    /// So many k of a panel are split.
    ///
    /// # Safety
    /// The panel has them, and the memory room for a word of each term, column and two k, whole
    /// lines; the CPU has the features.
    Panel(unsafe fn(*const u8, usize, *mut u32)),
    /// Panels are filled with them.
    Fill(Fill),
}

/// How a kernel makes terms.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// Of a number of x, of one of weights.
    pub x: usize,
    pub w: usize,
    pub source: Source,
    /// Computes what is not finite from the same panels, and makes its lines.
    pub exact: &'static Kernel,
    pub lines: Lines,
}

/// Words of a panel that stream by for the first tile and that the second then finds in the first
/// level of cache.
const TURN: usize = 2 * LINE;

/// Tiles over the rows of a block; the sums are finished after the last block.
///
/// # Safety
/// The block leads to what it says; the CPU has the features of `U`.
#[inline(always)]
pub(super) unsafe fn block<U: Unit>(b: Block<'_>) {
    let (ld, columns) = (b.ld, tile::columns::<U>());
    let mut fetch = b.fetch;
    // SAFETY: rows m0.. of the block.
    unsafe {
        let chunk = if b.streams && b.rows > b.height {
            TURN
        } else {
            b.words.max(1)
        };
        for word in (0..b.words).step_by(chunk) {
            for m0 in (0..b.rows).step_by(b.height) {
                let rows = b.height.min(b.rows - m0);
                let tile = Tile {
                    x: b.x.add(m0 * b.row_words + (b.word0 + word) * rows),
                    words: chunk.min(b.words - word),
                    panel: b.panel.add(word / U::STEP * (columns * U::BYTES)),
                    panel_step: b.panel_step,
                    c: b.c.add(m0 * ld),
                    c_step: ld,
                    first: b.word0 + word == 0,
                    streams: b.streams && m0 == 0,
                };
                tile.run::<U>(rows, b.two, &mut fetch);
            }
        }
        for m0 in (0..b.rows).step_by(b.height) {
            let rows = b.height.min(b.rows - m0);
            let c = b.c.add(m0 * ld);
            if let Some(done) = b.done {
                let next = b.two && done.beside.is_none();
                let width = columns * if next { 2 } else { 1 };
                finish::<U>(done, c, ld, width, m0, rows);
                if let Some((n0, n)) = done.beside {
                    let zeros = done.zeros.add(n0 - done.n0);
                    let done = Done {
                        n0,
                        n,
                        zeros,
                        ..done
                    };
                    finish::<U>(done, c.add(columns), ld, columns, m0, rows);
                }
            }
        }
    }
}

/// # Safety
/// `c` has the rows, y has them from `m0` on.
#[inline(always)]
pub(super) unsafe fn finish<U: Unit>(
    done: Done<'_>,
    c: *mut f32,
    ld: usize,
    width: usize,
    m0: usize,
    rows: usize,
) {
    let integers = done.out.y.data.dtype == DType::I32;
    // SAFETY: the caller's contract.
    unsafe {
        for r in 0..rows {
            let row = done.row(m0 + r);
            let y = done.out.y.data.start.cast::<f32>();
            let y = y.wrapping_add(row * done.out.y.stride + done.n0);
            for j in (0..width).step_by(U::S::LANES) {
                let at = c.add(r * ld + j);
                if U::INTEGERS {
                    let exact = U::sub(U::load(at), U::load(done.zeros.add(j)));
                    if integers {
                        U::store(at, exact);
                    } else {
                        U::S::store(at, U::to_f32(exact));
                    }
                }
                if done.plain && j < done.n {
                    let n = done.n - j;
                    if n >= U::S::LANES {
                        U::S::store(y.add(j), U::S::load(at));
                    } else {
                        U::S::store_n(y.add(j), n, U::S::load(at));
                    }
                }
            }
            if !done.plain {
                let c = c.add(r * ld);
                done.out.finish::<U::S>(c, ld, row, 1, done.n0, done.n);
            }
        }
    }
}

pub(super) const fn kernel<U: Unit>(tiles: Tiles, zeros: Option<Zeros>) -> Kernel {
    Kernel {
        columns: tile::columns::<U>(),
        most: [tile::most_rows::<U>(), tile::most_rows_of_two::<U>()],
        packed: Blocking::DOTS,
        per_word: U::K,
        step: U::STEP,
        step_bytes: tile::columns::<U>() * U::BYTES,
        integers: U::INTEGERS,
        panel_bytes: panel::panel_bytes::<U>,
        tiles,
        zeros,
        wide: None,
        terms: None,
    }
}

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Math {
    /// f32 by anything that becomes f32.
    F32,
    /// bf16 by bf16, sums in f32.
    Bf16,
    /// i8 by i8, exact.
    I8,
}

/// Tiles compiled for one list of CPU features.
macro_rules! tiles {
    ($name:ident, $widen:ident, $features:literal) => {
        #[target_feature(enable = $features)]
        unsafe fn $widen<U: Unit<Word = <<U as Unit>::S as Simd>::F>>(
            panel: *const u8,
            steps: usize,
            out: *mut f32,
        ) {
            // SAFETY: the caller's contract is the callee's.
            unsafe { panel::widen::<U>(panel, steps, out) }
        }
        tiles!($name, $features);
    };
    ($name:ident, $features:literal) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<U: Unit>(b: Block<'_>) {
            // SAFETY: the caller's contract is the callee's.
            unsafe { block::<U>(b) }
        }
    };
}
pub(super) use tiles;
