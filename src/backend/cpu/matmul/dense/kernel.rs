//! The instantiations: one set of entry points per unit, each compiled for its instruction sets.

use super::{
    acts::{self, Line},
    panel::{self, Matrix, Words},
    tile::{self, Fetch, Tile},
    unit::{Bf16, Bf16Dot, F16, F32, I8Dot, I16Dot, Unit},
};
use crate::DType;
use crate::backend::cpu::{
    matmul::x86::epilogue::Output,
    x86::{Avx2, Avx512, Simd},
};
use half::{bf16, f16};

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
    /// What zeros of x add to each column.
    pub zeros: *const f32,
    /// y is the sums as they are, in four bytes each.
    pub plain: bool,
}

type Tiles = unsafe fn(Block<'_>);
pub(super) type Fill = unsafe fn(Matrix, usize, usize, usize, usize, *mut u32, usize, usize);
type Zeros = unsafe fn(*const u8, usize, *mut f32);
pub(super) type Lines = unsafe fn(*const u8, &[usize], usize, *mut u32);

/// Products of one unit.
pub(super) struct Kernel {
    /// Columns of a panel.
    pub columns: usize,
    /// Most rows of a tile, by one panel and by two.
    pub most: [usize; 2],
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
}

/// Tiles over the rows of a block; the sums are finished after the last block.
///
/// # Safety
/// The block leads to what it says; the CPU has the features of `U`.
#[inline(always)]
unsafe fn block<U: Unit>(b: Block<'_>) {
    let (ld, width) = (b.ld, if b.two { 2 } else { 1 } * tile::columns::<U>());
    let mut fetch = b.fetch;
    // SAFETY: rows m0.. of the block.
    unsafe {
        for m0 in (0..b.rows).step_by(b.height) {
            let rows = b.height.min(b.rows - m0);
            let c = b.c.add(m0 * ld);
            let tile = Tile {
                x: b.x.add(m0 * b.row_words + b.word0 * rows),
                words: b.words,
                panel: b.panel,
                panel_step: b.panel_step,
                c,
                c_step: ld,
                first: b.word0 == 0,
            };
            tile.run::<U>(rows, b.two, &mut fetch);
            if let Some(done) = b.done {
                finish::<U>(done, c, ld, width, m0, rows);
            }
        }
    }
}

/// # Safety
/// `c` has the rows, y has them from `m0` on.
#[inline(always)]
unsafe fn finish<U: Unit>(
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
            let row = match done.scatter {
                Some(rows_of_y) => rows_of_y[done.m0 + m0 + r],
                None => done.m0 + m0 + r,
            };
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

const fn kernel<U: Unit>(tiles: Tiles, zeros: Option<Zeros>) -> Kernel {
    Kernel {
        columns: tile::columns::<U>(),
        most: [tile::most_rows::<U>(), tile::most_rows_of_two::<U>()],
        per_word: U::K,
        step: U::STEP,
        step_bytes: tile::columns::<U>() * U::BYTES,
        integers: U::INTEGERS,
        panel_bytes: panel::panel_bytes::<U>,
        tiles,
        zeros,
        wide: None,
    }
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
tiles!(
    tiles_avx512,
    widen_avx512,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
);
tiles!(
    tiles_bf16,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c"
);
tiles!(
    tiles_vnni,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"
);
tiles!(tiles_avx2, widen_avx2, "avx2,fma,f16c");

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn zeros_vnni<U: Unit>(panel: *const u8, steps: usize, sums: *mut f32) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { panel::add_zeros::<U>(panel, steps, sums) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn fill_avx2<W: Words>(
    w: Matrix,
    n0: usize,
    n: usize,
    k0: usize,
    len: usize,
    out: *mut u32,
    columns: usize,
    step: usize,
) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { panel::fill::<W>(w, n0, n, k0, len, out, columns, step) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn lines_avx2<L: Line>(x: *const u8, rows: &[usize], k: usize, out: *mut u32) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { acts::fill::<L>(x, rows, k, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
unsafe fn lines_bf16<L: Line>(x: *const u8, rows: &[usize], k: usize, out: *mut u32) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { acts::fill::<L>(x, rows, k, out) }
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

/// Instruction sets of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    Avx2,
    Avx512,
}

static F32_AVX512: Kernel = kernel::<F32<Avx512>>(tiles_avx512::<F32<Avx512>>, None);
static F16_AVX512: Kernel = Kernel {
    wide: Some((&F32_AVX512, widen_avx512::<F16<Avx512>>)),
    ..kernel::<F16<Avx512>>(tiles_avx512::<F16<Avx512>>, None)
};
static BF16_AVX512: Kernel = Kernel {
    wide: Some((&F32_AVX512, widen_avx512::<Bf16<Avx512>>)),
    ..kernel::<Bf16<Avx512>>(tiles_avx512::<Bf16<Avx512>>, None)
};
static BF16_DOT: Kernel = kernel::<Bf16Dot>(tiles_bf16::<Bf16Dot>, None);
static I8_DOT: Kernel = kernel::<I8Dot>(tiles_vnni::<I8Dot>, Some(zeros_vnni::<I8Dot>));
static F32_AVX2: Kernel = kernel::<F32<Avx2>>(tiles_avx2::<F32<Avx2>>, None);
static F16_AVX2: Kernel = Kernel {
    wide: Some((&F32_AVX2, widen_avx2::<F16<Avx2>>)),
    ..kernel::<F16<Avx2>>(tiles_avx2::<F16<Avx2>>, None)
};
static BF16_AVX2: Kernel = Kernel {
    wide: Some((&F32_AVX2, widen_avx2::<Bf16<Avx2>>)),
    ..kernel::<Bf16<Avx2>>(tiles_avx2::<Bf16<Avx2>>, None)
};
static I16_AVX2: Kernel = kernel::<I16Dot>(tiles_avx2::<I16Dot>, None);

/// The kernel for weights of type `w`; floats of other types than f32 become f32 when a panel is
/// filled, and in the tile when it was packed.
pub(super) fn select(tier: Tier, math: Math, w: DType, packed: bool) -> Option<&'static Kernel> {
    use Tier::{Avx2, Avx512};
    Some(match (tier, math, w, packed) {
        (Avx512, Math::F32, DType::F16, true) => &F16_AVX512,
        (Avx512, Math::F32, DType::BF16, true) => &BF16_AVX512,
        (Avx512, Math::F32, DType::F32 | DType::F16 | DType::BF16, _) => &F32_AVX512,
        (Avx512, Math::Bf16, DType::BF16, _) => &BF16_DOT,
        (Avx512, Math::I8, DType::I8, _) => &I8_DOT,
        (Avx2, Math::F32, DType::F16, true) => &F16_AVX2,
        (Avx2, Math::F32, DType::BF16, true) => &BF16_AVX2,
        (Avx2, Math::F32, DType::F32 | DType::F16 | DType::BF16, _) => &F32_AVX2,
        (Avx2, Math::I8, DType::I8, _) => &I16_AVX2,
        _ => return None,
    })
}

/// Fills panels of a kernel that [`select`] gives for weights that are not packed.
pub(super) fn fill(tier: Tier, math: Math, w: DType) -> Option<Fill> {
    Some(match (math, w) {
        (Math::F32, DType::F32) => fill_avx2::<panel::Wide<f32>>,
        (Math::F32, DType::F16) => fill_avx2::<panel::Wide<f16>>,
        (Math::F32, DType::BF16) => fill_avx2::<panel::Wide<bf16>>,
        (Math::Bf16, DType::BF16) => fill_avx2::<panel::Pairs>,
        (Math::I8, DType::I8) if tier == Tier::Avx512 => fill_avx2::<panel::Quads>,
        (Math::I8, DType::I8) => fill_avx2::<panel::Shorts>,
        _ => return None,
    })
}

/// Makes lines of x.
pub(super) fn lines(tier: Tier, math: Math, x: DType) -> Option<Lines> {
    Some(match (math, x) {
        (Math::F32, DType::F32) => lines_avx2::<acts::Wide<f32>>,
        (Math::F32, DType::F16) => lines_avx2::<acts::Wide<f16>>,
        (Math::F32, DType::BF16) => lines_avx2::<acts::Wide<bf16>>,
        (Math::Bf16, DType::F32) => lines_bf16::<acts::Pairs<f32>>,
        (Math::Bf16, DType::F16) => lines_bf16::<acts::Pairs<f16>>,
        (Math::Bf16, DType::BF16) => lines_bf16::<acts::Pairs<bf16>>,
        (Math::I8, DType::I8) if tier == Tier::Avx512 => lines_avx2::<acts::Quads>,
        (Math::I8, DType::I8) => lines_avx2::<acts::Shorts>,
        _ => return None,
    })
}
