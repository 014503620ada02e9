//! Units as panels: bytes and f32 scales that many rows of x share.

use super::{
    class::{BLOCK, Layout, Scales, TILE, groups},
    lanes::Lanes,
    tile::Params,
};

/// Unpacks `units` units of one tile at `w` into `out`, a tile of `K::Panel`. Asks memory for as
/// many at `next`, which come while the panel is multiplied.
///
/// # Safety
/// They exist and the room does; the CPU has the features of `L`.
#[inline(always)]
pub(super) unsafe fn unpack<L: Lanes, K: Layout>(
    mut w: *const u8,
    mut next: *const u8,
    units: usize,
    p: &Params,
    mut out: *mut u8,
) {
    let subs = K::Scales::SUBS;
    // SAFETY: the loops stay inside the units and as many k of the panel.
    unsafe {
        let table = L::table(p.table.as_ptr());
        for _ in 0..units {
            for line in 0..K::BYTES / 64 {
                L::prefetch(next.wrapping_add(64 * line));
            }
            next = next.wrapping_add(K::BYTES);
            let unit = K::Scales::unit::<L>(w, p.factor);
            for block in 0..K::Scales::UNIT / BLOCK {
                let head = out.cast::<f32>();
                for sub in 0..subs {
                    let scale = K::Scales::scale::<L>(w, unit, block, sub);
                    L::store(head.add(sub * TILE), scale);
                    if K::Scales::MINS {
                        let min = K::Scales::min::<L>(w, unit, block, sub);
                        L::store(head.add((subs + sub) * TILE), min);
                    }
                }
                let from = w.add(K::Scales::HEAD + block * (BLOCK * TILE * K::BITS / 8));
                let to = out.add(<K::Panel as Layout>::Scales::HEAD);
                groups!(G, 0, 8, {
                    L::istore(to.add(64 * G), K::code::<L, G>(from, table));
                });
                out = out.add(<K::Panel as Layout>::BYTES);
            }
            w = w.add(K::BYTES);
        }
    }
}
