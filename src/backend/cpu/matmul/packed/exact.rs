//! Units as panels of f32, for f32 rows of x and for what reads single rows.

use super::{
    class::{BLOCK, Layout, Scales, TILE, groups},
    lanes::Lanes,
    tile::Params,
};

/// k per panel.
pub(super) const KC: usize = 256;

/// `$body` for byte `$j` of a lane, a constant.
macro_rules! bytes {
    ($j:ident, $body:block) => {{
        bytes!(@ $j, $body, 0 1 2 3);
    }};
    (@ $j:ident, $body:block, $($n:literal)*) => {{
        $({
            const $j: u32 = $n;
            $body
        })*
    }};
}

/// The numbers of `units` units of one tile, 16 for each k, `step` apart.
///
/// # Safety
/// The units and the room exist; the CPU has the features of `L`.
#[inline(always)]
pub(super) unsafe fn unpack<L: Lanes, K: Layout>(
    mut w: *const u8,
    units: usize,
    p: &Params,
    out: *mut f32,
    step: usize,
) {
    // SAFETY: the loops stay inside the units and as many k of `out`.
    unsafe {
        let table = L::table(p.table.as_ptr());
        let mut out = out;
        for _ in 0..units {
            let unit = K::Scales::unit::<L>(w, p.factor);
            for block in 0..K::Scales::UNIT / BLOCK {
                if K::Scales::SUBS == 1 {
                    part::<L, K, 0, 8>(w, unit, block, 0, table, p.zero, out, step);
                } else {
                    part::<L, K, 0, 4>(w, unit, block, 0, table, p.zero, out, step);
                    part::<L, K, 4, 8>(w, unit, block, 1, table, p.zero, out, step);
                }
                out = out.add(BLOCK * step);
            }
            w = w.add(K::BYTES);
        }
    }
}

/// Groups `FROM..TO` of a block, which share a scale.
///
/// # Safety
/// As for [`unpack`].
#[inline(always)]
unsafe fn part<L: Lanes, K: Layout, const FROM: usize, const TO: usize>(
    w: *const u8,
    unit: [L::F; 2],
    block: usize,
    sub: usize,
    table: L::I,
    zero: f32,
    out: *mut f32,
    step: usize,
) {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        let at = w.add(K::Scales::HEAD + block * (BLOCK * TILE * K::BITS / 8));
        let scale = K::Scales::scale::<L>(w, unit, block, sub);
        let min = if K::Scales::MINS {
            K::Scales::min::<L>(w, unit, block, sub)
        } else {
            L::zero()
        };
        let zero = L::splat(zero);
        groups!(G, FROM, TO, {
            let code = K::code::<L, G>(at, table);
            bytes!(J, {
                // One rounding, that of the format: with minima the product is exact.
                let level = L::byte::<J>(code);
                let v = if K::Scales::MINS {
                    L::fms(level, scale, min)
                } else {
                    L::mul(L::sub(level, zero), scale)
                };
                L::store(out.add((4 * G + J as usize) * step), v);
            });
        });
    }
}
