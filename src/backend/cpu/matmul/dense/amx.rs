//! Tiles of AMX by the panels that dot products read too.

use super::{
    kernel::{Block, Blocking, Done, Kernel, Tiles, finish},
    tile::{self, LINE, Tile},
    unit::Unit,
};
use crate::backend::cpu::simd::amx::{self, Leave, Product, Sums};
use std::{arch::x86_64::*, marker::PhantomData};

/// Rows of a tile of x, and of two.
const HEIGHT: usize = 16;

/// Two tiles of rows by two of columns; never two panels.
pub(super) const MOST: [usize; 2] = [2 * HEIGHT, 0];
/// For numbers of several terms.
pub(super) const OF_TERMS: Blocking = Blocking {
    rows: HEIGHT,
    group: 256,
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
    let deep = WHOLE || steps >= amx::DEEP;
    let mut fetch = b.fetch;
    let mut rooms = [amx::Room::new(), amx::Room::new()];
    let (mut room, mut configured) = (0, 0);
    let mut before = Strip::<U, P, WHOLE> {
        sums: Sums::NONE,
        m: 0,
        end: None,
        unit: PhantomData,
    };
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
            tile.run::<P>(steps, &mut before, &mut fetch);
            if deep {
                before.sums = Sums::new(&mut rooms[room], rows, own, b.word0 == 0);
                before.m = m0;
                if rest == 0 {
                    before.end = b.done;
                    continue;
                }
            }
            if rest > 0 {
                before.some(rows);
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
        before.some(b.height);
    }
}

/// Rows whose sums leave while the next are multiplied, to y in the end.
struct Strip<'a, U, P, const WHOLE: bool> {
    sums: Sums<P>,
    /// The next row.
    m: usize,
    end: Option<Done<'a>>,
    unit: PhantomData<U>,
}

impl<U: Unit, P: Product, const WHOLE: bool> Leave for Strip<'_, U, P, WHOLE> {
    fn rows(&self) -> usize {
        self.sums.rows()
    }

    /// With the features of `U`.
    #[inline(always)]
    unsafe fn some(&mut self, rows: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            let Some(done) = self.end else {
                return self.sums.some(rows);
            };
            for _ in 0..rows.min(self.rows()) {
                let (sums, room, _) = self.sums.next();
                if WHOLE && !are_finite(sums) {
                    done.again.borrow_mut().push(self.m);
                } else {
                    _mm512_store_si512(room.cast(), sums[0]);
                    _mm512_store_si512(room.add(64).cast(), sums[1]);
                    finish::<U>(done, room.cast(), COLUMNS, COLUMNS, self.m, 1);
                }
                self.m += 1;
            }
        }
    }
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
        let wild = sums.map(|s| _mm512_fpclass_ps_mask::<WILD>(_mm512_castsi512_ps(s)));
        wild[0] | wild[1] == 0
    }
}
