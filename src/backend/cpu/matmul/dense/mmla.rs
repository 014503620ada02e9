//! Products of two rows by two columns at a time (SMMLA, BFMMLA), by the panels that dot products
//! read too.

use super::{
    kernel::{Block, Blocking, Kernel, Tiles, finish},
    tile::{self, LINE},
    unit::Unit,
};
use crate::backend::cpu::simd::Fetch;
use std::arch::{aarch64::*, asm};

/// Rows of a tile.
const ROWS: usize = 8;
/// Columns of a tile: half a panel.
const COLUMNS: usize = 8;

/// Two rows of eight bytes along k by two columns of as many.
pub(super) trait Mmla: Copy + 'static {
    /// Adds the products, row by row, to `acc`.
    ///
    /// # Safety
    /// The CPU has the feature that the type names.
    unsafe fn add(acc: uint32x4_t, x: uint8x16_t, w: uint8x16_t) -> uint32x4_t;
}

/// CPU feature `i8mm`: bytes, sums in i32.
#[derive(Clone, Copy)]
pub(super) struct Bytes;
/// CPU feature `bf16`: sums in f32.
#[derive(Clone, Copy)]
pub(super) struct Bf16;

macro_rules! mmla {
    ($t:ty, $instruction:literal) => {
        impl Mmla for $t {
            #[inline(always)]
            unsafe fn add(acc: uint32x4_t, x: uint8x16_t, w: uint8x16_t) -> uint32x4_t {
                let mut r = acc;
                // SAFETY: only registers; the caller promises the feature. The intrinsic is not
                // stable.
                unsafe {
                    asm!(
                        $instruction,
                        r = inout(vreg) r, x = in(vreg) x, w = in(vreg) w,
                        options(pure, nomem, nostack, preserves_flags)
                    );
                }
                r
            }
        }
    };
}
mmla!(Bytes, "smmla {r:v}.4s, {x:v}.16b, {w:v}.16b");
mmla!(Bf16, "bfmmla {r:v}.4s, {x:v}.8h, {w:v}.8h");

/// The kernel on the panels of `dots`.
pub(super) const fn kernel(dots: &Kernel, tiles: Tiles) -> Kernel {
    Kernel {
        // Never two panels.
        most: [ROWS, 0],
        packed: Blocking {
            rows: 2,
            streams: false,
            ..Blocking::DOTS
        },
        tiles,
        wide: None,
        ..*dots
    }
}

/// `$name`: tiles over the rows of a block, for a list of CPU features.
macro_rules! tiles {
    ($name:ident, $unit:ty, $mmla:ty, $features:literal) => {
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(b: Block<'_>) {
            // SAFETY: the caller's contract is the callee's.
            unsafe { block::<$unit, $mmla>(b) }
        }
    };
}
tiles!(
    tiles_i8mm,
    super::neon::I8Dot<crate::backend::cpu::simd::Sdot>,
    Bytes,
    "neon,dotprod,i8mm"
);
tiles!(tiles_bfmmla, super::neon::Bfdot, Bf16, "neon,bf16");

/// Tiles over the rows of a block; the sums are finished after the last block.
///
/// # Safety
/// As for [`super::kernel::block`], with the feature of `M`.
#[inline(always)]
unsafe fn block<U: Unit, M: Mmla>(b: Block<'_>) {
    const { assert!(tile::columns::<U>() == 2 * COLUMNS && U::STEP == 1 && U::BYTES == 4) };
    let mut fetch = b.fetch;
    let mut none = Fetch::NONE;
    // SAFETY: rows m0.. of the block.
    unsafe {
        for m0 in (0..b.rows).step_by(b.height) {
            let rows = b.height.min(b.rows - m0);
            let x = b.x.add(m0 * b.row_words + b.word0 * rows);
            let c = b.c.add(m0 * b.ld);
            for half in 0..2 {
                let tile = Tile {
                    x,
                    rows,
                    words: b.words,
                    panel: b.panel.add(half * 4 * COLUMNS),
                    c: c.add(half * COLUMNS).cast(),
                    ld: b.ld,
                    first: b.word0 == 0,
                };
                tile.run::<M>(if half == 0 { &mut fetch } else { &mut none });
            }
            if let Some(done) = b.done {
                finish::<U>(done, c, b.ld, 2 * COLUMNS, m0, rows);
            }
        }
    }
}

/// Up to [`ROWS`] rows by [`COLUMNS`] columns.
struct Tile {
    /// `[words / LINE][rows][LINE]`.
    x: *const u32,
    rows: usize,
    words: usize,
    /// `[words][2 * COLUMNS]` words.
    panel: *const u8,
    c: *mut u32,
    ld: usize,
    first: bool,
}

impl Tile {
    /// Row `r`; the last for rows beyond, whose sums go nowhere.
    #[inline(always)]
    fn row(&self, r: usize) -> usize {
        r.min(self.rows - 1)
    }

    /// # Safety
    /// The pointers lead to what they say; the CPU has the feature of `M`.
    #[inline(always)]
    unsafe fn run<M: Mmla>(self, fetch: &mut Fetch) {
        // SAFETY: the caller's contract.
        unsafe {
            let mut acc = [[vdupq_n_u32(0); COLUMNS / 2]; ROWS / 2];
            if !self.first {
                for r in 0..ROWS / 2 {
                    let rows = [
                        self.c.add(self.row(2 * r) * self.ld),
                        self.c.add(self.row(2 * r + 1) * self.ld),
                    ];
                    for j in 0..COLUMNS / 4 {
                        let (a, b) = (vld1q_u32(rows[0].add(4 * j)), vld1q_u32(rows[1].add(4 * j)));
                        acc[r][2 * j] = low(a, b);
                        acc[r][2 * j + 1] = high(a, b);
                    }
                }
            }
            let mut at = [0; ROWS];
            for (r, at) in at.iter_mut().enumerate() {
                *at = self.row(r) * LINE;
            }
            for word in (0..self.words).step_by(2) {
                if word.is_multiple_of(4) {
                    fetch.some();
                }
                let line = self.x.add(word / LINE * LINE * self.rows + word % LINE);
                let mut x = [vdupq_n_u8(0); ROWS / 2];
                for r in 0..ROWS / 2 {
                    x[r] = vcombine_u8(
                        vld1_u8(line.add(at[2 * r]).cast()),
                        vld1_u8(line.add(at[2 * r + 1]).cast()),
                    );
                }
                let step = 4 * 2 * COLUMNS;
                let from = self.panel.add(word * step);
                for j in 0..COLUMNS / 4 {
                    let a = vld1q_u32(from.add(16 * j).cast());
                    let b = if word + 1 < self.words {
                        vld1q_u32(from.add(step + 16 * j).cast())
                    } else {
                        vdupq_n_u32(0)
                    };
                    let w = [
                        vreinterpretq_u8_u32(vzip1q_u32(a, b)),
                        vreinterpretq_u8_u32(vzip2q_u32(a, b)),
                    ];
                    for r in 0..ROWS / 2 {
                        for i in 0..2 {
                            acc[r][2 * j + i] = M::add(acc[r][2 * j + i], x[r], w[i]);
                        }
                    }
                }
            }
            for r in 0..ROWS {
                if r < self.rows {
                    for j in 0..COLUMNS / 4 {
                        let (a, b) = (acc[r / 2][2 * j], acc[r / 2][2 * j + 1]);
                        let row = if r % 2 == 0 { low(a, b) } else { high(a, b) };
                        vst1q_u32(self.c.add(r * self.ld + 4 * j), row);
                    }
                }
            }
        }
    }
}

/// The lower halves.
#[inline(always)]
unsafe fn low(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
    // SAFETY: NEON by the caller's contract.
    unsafe {
        vreinterpretq_u32_u64(vzip1q_u64(
            vreinterpretq_u64_u32(a),
            vreinterpretq_u64_u32(b),
        ))
    }
}

/// The upper halves.
#[inline(always)]
unsafe fn high(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
    // SAFETY: NEON by the caller's contract.
    unsafe {
        vreinterpretq_u32_u64(vzip2q_u64(
            vreinterpretq_u64_u32(a),
            vreinterpretq_u64_u32(b),
        ))
    }
}
