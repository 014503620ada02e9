//! Tiles of AMX by the panels that dot products read too.

use super::{
    kernel::{Block, Blocking, Done, Kernel, Tiles, finish},
    tile::{self, LINE, Tile},
    unit::Unit,
};
use crate::{
    DType,
    backend::cpu::{
        matmul::even::{Bf16, Even, F16, Store, Words, each},
        simd::amx::{self, Leave, Product, Sums},
    },
};
use std::{arch::x86_64::*, marker::PhantomData};

/// Rows of a tile of x, and of two.
const HEIGHT: usize = 16;

/// Two tiles of rows by two of columns; never two panels.
pub(super) const MOST: [usize; 2] = [2 * HEIGHT, 0];
/// For numbers of several terms.
pub(super) const OF_TERMS: Blocking = Blocking {
    rows: HEIGHT,
    group: 256,
    lines: 2 << 20,
    words: [512, 256],
    panels: 16,
    items: 8,
    shared: 0,
    near: false,
    streams: false,
};

/// The kernel on the panels of `dots`.
pub(super) const fn kernel(dots: &Kernel, tiles: Tiles) -> Kernel {
    Kernel {
        most: MOST,
        packed: Blocking {
            rows: HEIGHT,
            group: 256,
            lines: 2 << 20,
            words: [512, 128],
            panels: 16,
            items: 8,
            shared: 4 << 20,
            near: false,
            streams: false,
        },
        tiles,
        wide: None,
        zeros: dots.zeros,
        ..*dots
    }
}

/// Columns of a panel.
const COLUMNS: usize = 32;

/// Tiles over the rows of a block, numbers of `X` and `W` terms; the sums are finished after the
/// last block. Words after whole lines go by way of `U`, unless panels are `WHOLE` lines.
///
/// Rows of terms whose sums are not finite are left to be done [again](Done::again).
///
/// # Safety
/// As for [`super::kernel::block`]; AMX is usable.
#[inline(always)]
pub(super) unsafe fn block<
    U: Unit,
    P: Product,
    const X: usize,
    const W: usize,
    const WHOLE: bool,
>(
    b: Block<'_>,
) {
    const { assert!(COLUMNS == tile::columns::<U>() && U::STEP == 1 && U::BYTES == 4) };
    let (steps, rest) = (b.words / LINE, b.words % LINE);
    let (steps, rest) = if WHOLE {
        (b.words.div_ceil(LINE), 0)
    } else {
        (steps, rest)
    };
    // The last sums go to y as they leave.
    let deep = WHOLE || steps >= amx::DEEP || b.done.is_some();
    let mut fetch = b.fetch;
    let mut rooms = [amx::Room::new(), amx::Room::new()];
    let (mut room, mut configured) = (0, 0);
    let mut before = Before::<U, P, WHOLE>::Nothing;
    // SAFETY: rows m0.. of the block.
    unsafe {
        for m0 in (0..b.rows).step_by(b.height) {
            let rows = b.height.min(b.rows - m0);
            if configured != rows {
                amx::configure_rows(rows);
                configured = rows;
            }
            let c = b.c.add(m0 * b.ld);
            let own = (c.cast(), b.ld * 4);
            room ^= 1;
            let (to, step) = if deep { rooms[room].place() } else { own };
            let tile = amx::Rows::<X, W> {
                x: b.x.add(m0 * b.row_words + b.word0 * rows * X).cast(),
                rows,
                w: b.panel,
                c: to,
                step,
                fresh: deep || b.word0 == 0,
            };
            each!(before, Before::[Sums Words Bf16 F16 General], rows => tile.run::<P>(steps, rows, &mut fetch));
            before = Before::Nothing;
            if deep {
                let sums = Sums::new(&mut rooms[room], rows, own, b.word0 == 0);
                if rest == 0 {
                    before = Before::of(sums, m0, b.done.as_ref());
                    continue;
                }
                sums.all();
            }
            if rest > 0 {
                let most = tile::most_rows::<U>();
                for r in (0..rows).step_by(most) {
                    let tile = Tile {
                        x: b.x
                            .add(m0 * b.row_words + (b.word0 + steps * LINE) * rows + r * LINE),
                        words: rest,
                        panel: b.panel.add(steps * amx::STEP),
                        panel_step: 0,
                        c: c.add(r * b.ld),
                        c_step: b.ld,
                        first: false,
                        streams: false,
                    };
                    tile.run::<U>(most.min(rows - r), false, &mut fetch);
                }
            }
            if let Some(done) = b.done {
                finish::<U>(done, c, b.ld, COLUMNS, m0, rows);
            }
        }
        if configured > 0 {
            amx::release();
        }
        each!(before, Before::[Sums Words Bf16 F16 General], rows => rows.all());
    }
}

/// Rows whose sums leave while the next are multiplied.
#[derive(Clone, Copy)]
enum Before<'a, U, P, const WHOLE: bool> {
    Nothing,
    /// There is more of k to come.
    Sums(Sums<P>),
    /// To y, as they are in four bytes, or rounded.
    Words(Straight<'a, U, P, Words, WHOLE>),
    Bf16(Straight<'a, U, P, Bf16, WHOLE>),
    F16(Straight<'a, U, P, F16, WHOLE>),
    /// To y by way of what else is to be done.
    General(General<'a, U, P, WHOLE>),
}

impl<'a, U: Unit, P: Product, const WHOLE: bool> Before<'a, U, P, WHOLE> {
    /// Sums of rows from `m` on of the block.
    #[inline(always)]
    fn of(sums: Sums<P>, m: usize, done: Option<&'a Done<'a>>) -> Self {
        let Some(done) = done else {
            return Before::Sums(sums);
        };
        let dtype = done.out.y.data.dtype;
        let full = done.n >= COLUMNS && done.scatter.is_none();
        if !full || !done.straight || U::INTEGERS && dtype != DType::I32 {
            let unit = PhantomData;
            return Before::General(General {
                sums,
                done,
                m,
                unit,
            });
        }
        match dtype {
            DType::BF16 => Before::Bf16(Straight::new(sums, m, done)),
            DType::F16 => Before::F16(Straight::new(sums, m, done)),
            _ => Before::Words(Straight::new(sums, m, done)),
        }
    }
}

/// Whole rows of sums that y takes as they are or rounded.
#[derive(Clone, Copy)]
struct Straight<'a, U, P, T, const WHOLE: bool> {
    rows: Even<P, T>,
    /// The next row of the block.
    m: usize,
    done: &'a Done<'a>,
    unit: PhantomData<U>,
}

impl<'a, U, P: Product, T: Store, const WHOLE: bool> Straight<'a, U, P, T, WHOLE> {
    #[inline(always)]
    fn new(sums: Sums<P>, m: usize, done: &'a Done<'a>) -> Self {
        Straight {
            rows: Even::new(sums, &done.out.y, done.row(m), done.n0),
            m,
            done,
            unit: PhantomData,
        }
    }
}

impl<U: Unit, P: Product, T: Store, const WHOLE: bool> Leave for Straight<'_, U, P, T, WHOLE> {
    #[inline(always)]
    fn rows(&self) -> usize {
        self.rows.rows()
    }

    #[inline(always)]
    unsafe fn row(&mut self) {
        // SAFETY: the caller's contract; y has the row.
        unsafe {
            let (mut sums, y) = self.rows.next();
            if U::INTEGERS {
                let zeros = self.done.zeros;
                sums[0] = _mm512_sub_epi32(sums[0], _mm512_loadu_si512(zeros.cast()));
                sums[1] = _mm512_sub_epi32(sums[1], _mm512_loadu_si512(zeros.add(16).cast()));
            }
            if WHOLE && !are_finite(sums) {
                again(self.done, self.m);
            } else {
                T::store(y, sums);
            }
            self.m += 1;
        }
    }
}

/// Rows of sums that have more to go through.
#[derive(Clone, Copy)]
struct General<'a, U, P, const WHOLE: bool> {
    sums: Sums<P>,
    done: &'a Done<'a>,
    m: usize,
    unit: PhantomData<U>,
}

impl<U: Unit, P: Product, const WHOLE: bool> Leave for General<'_, U, P, WHOLE> {
    #[inline(always)]
    fn rows(&self) -> usize {
        self.sums.rows()
    }

    #[inline(always)]
    unsafe fn row(&mut self) {
        // SAFETY: the caller's contract.
        unsafe {
            let (sums, room, _) = self.sums.next();
            if WHOLE && !are_finite(sums) {
                again(self.done, self.m);
            } else {
                _mm512_store_si512(room.cast(), sums[0]);
                _mm512_store_si512(room.add(64).cast(), sums[1]);
                general::<U>(self.done, room.cast(), self.m);
            }
            self.m += 1;
        }
    }
}

/// Leaves row `m` to be done again.
#[cold]
fn again(done: &Done<'_>, m: usize) {
    done.again.borrow_mut().push(m);
}

/// Finishes row `m`, apart, so that the loop of the tiles keeps its registers.
///
/// # Safety
/// As for [`finish`].
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn general<U: Unit>(done: &Done<'_>, c: *mut f32, m: usize) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { finish::<U>(*done, c, COLUMNS, COLUMNS, m, 1) }
}

/// Are sums of f32 finite?
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn are_finite(sums: [__m512i; 2]) -> bool {
    /// Quiet and other NaN, both infinities.
    const WILD: i32 = 0x99;
    // SAFETY: no memory is touched.
    unsafe {
        let wild = [
            _mm512_fpclass_ps_mask::<WILD>(_mm512_castsi512_ps(sums[0])),
            _mm512_fpclass_ps_mask::<WILD>(_mm512_castsi512_ps(sums[1])),
        ];
        wild[0] | wild[1] == 0
    }
}
