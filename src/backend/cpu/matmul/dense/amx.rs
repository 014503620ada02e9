//! Tiles of AMX by the panels that dot products read too.

use super::{
    kernel::{Block, Blocking, Kernel, Tiles, finish},
    tile::{self, LINE, Tile},
    unit::Unit,
};
use crate::backend::cpu::simd::{
    Fetch,
    amx::{self, Product, Rows},
};

/// Rows of a tile of x, and of two.
const HEIGHT: usize = 16;

/// The kernel on the panels of `dots`.
pub(super) const fn kernel(dots: &Kernel, tiles: Tiles) -> Kernel {
    Kernel {
        // Two tiles of rows by two of columns; never two panels.
        most: [2 * HEIGHT, 0],
        packed: Blocking {
            rows: HEIGHT,
            group: 256,
            words: [512, 128],
            panels: 16,
            items: 8,
            shared: 4 << 20,
            near: false,
        },
        tiles,
        wide: None,
        zeros: dots.zeros,
        ..*dots
    }
}

/// Tiles over the rows of a block; the sums are finished after the last block. Words after whole
/// lines go by way of `U`.
///
/// # Safety
/// As for [`super::kernel::block`]; AMX is usable.
#[inline(always)]
pub(super) unsafe fn block<U: Unit, P: Product>(b: Block<'_>) {
    const { assert!(tile::columns::<U>() == 32 && U::STEP == 1 && U::BYTES == 4) };
    let (steps, rest) = (b.words / LINE, b.words % LINE);
    let (mut fetch, mut none) = (b.fetch, Fetch::NONE);
    let mut configured = 0;
    // SAFETY: rows m0.. of the block.
    unsafe {
        for m0 in (0..b.rows).step_by(b.height) {
            let rows = b.height.min(b.rows - m0);
            let x = b.x.add(m0 * b.row_words + b.word0 * rows);
            let c = b.c.add(m0 * b.ld);
            if steps > 0 {
                if configured != rows {
                    amx::configure_rows(rows);
                    configured = rows;
                }
                let tile = Rows {
                    x: x.cast(),
                    rows,
                    w: b.panel,
                    c: c.cast(),
                    c_step: b.ld * 4,
                    first: b.word0 == 0,
                };
                tile.run::<P>(steps, &mut fetch);
            }
            if rest > 0 {
                let most = tile::most_rows::<U>();
                for r in (0..rows).step_by(most) {
                    let tile = Tile {
                        x: x.add((steps * rows + r) * LINE),
                        words: rest,
                        panel: b.panel.add(steps * Rows::STEP),
                        panel_step: 0,
                        c: c.add(r * b.ld),
                        c_step: b.ld,
                        first: b.word0 == 0 && steps == 0,
                    };
                    tile.run::<U>(most.min(rows - r), false, &mut none);
                }
            }
            if let Some(done) = b.done {
                finish::<U>(done, c, b.ld, tile::columns::<U>(), m0, rows);
            }
        }
        if configured > 0 {
            amx::release();
        }
    }
}
