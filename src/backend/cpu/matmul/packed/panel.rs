//! Units as panels: bytes and f32 scales that many rows of x share.

#[cfg(target_arch = "aarch64")]
use super::neon::Four;
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};
use super::{
    class::{BLOCK, Layout, Scales, TILE, groups},
    lanes::Lanes,
    tile::{Params, ROWS, Strip, tile},
};
#[cfg(target_arch = "aarch64")]
use crate::backend::cpu::simd::{Dots, Sdot, Widening};

/// k per panel.
pub(super) const KC: usize = 512;

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

/// No table and no factor: panels hold levels and whole scales.
const PANEL: Params = Params {
    table: [0; 16],
    zero: 0.0,
    factor: 1.0,
};

/// A strip by two panels, [`KC`] k apart.
///
/// # Safety
/// As for [`tile`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn panels_avx512<P: Layout>(
    w: *const u8,
    x: Strip,
    rows: usize,
    blocks: usize,
    c: *mut f32,
    step: usize,
) {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        let (w, c) = ([w, w.add(KC / BLOCK * P::BYTES)], [c, c.add(TILE)]);
        match rows {
            1 => tile::<Avx512, P, 1, 2, false>(w, x, blocks, &PANEL, c, step),
            _ => tile::<Avx512, P, ROWS, 2, false>(w, x, blocks, &PANEL, c, step),
        }
    }
}

/// A strip by a panel.
///
/// # Safety
/// As for [`tile`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn panels_avx2<P: Layout>(
    w: *const u8,
    x: Strip,
    rows: usize,
    blocks: usize,
    c: *mut f32,
    step: usize,
) {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        match rows {
            1 => tile::<Avx2, P, 1, 1, false>([w], x, blocks, &PANEL, [c], step),
            _ => tile::<Avx2, P, ROWS, 1, false>([w], x, blocks, &PANEL, [c], step),
        }
    }
}

/// A strip by a panel.
///
/// # Safety
/// As for [`tile`].
#[cfg(target_arch = "aarch64")]
#[inline(always)]
unsafe fn panel_of<D: Dots, P: Layout>(
    w: *const u8,
    x: Strip,
    rows: usize,
    blocks: usize,
    c: *mut f32,
    step: usize,
) {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        match rows {
            1 => tile::<Four<D>, P, 1, 1, false>([w], x, blocks, &PANEL, [c], step),
            _ => tile::<Four<D>, P, ROWS, 1, false>([w], x, blocks, &PANEL, [c], step),
        }
    }
}

#[cfg(target_arch = "aarch64")]
macro_rules! panels {
    ($name:ident, $dots:ty, $features:literal) => {
        /// A strip by a panel.
        ///
        /// # Safety
        /// As for [`tile`].
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<P: Layout>(
            w: *const u8,
            x: Strip,
            rows: usize,
            blocks: usize,
            c: *mut f32,
            step: usize,
        ) {
            // SAFETY: the caller's contract is the callee's.
            unsafe { panel_of::<$dots, P>(w, x, rows, blocks, c, step) }
        }
    };
}
#[cfg(target_arch = "aarch64")]
panels!(panels_neon, Widening, "neon");
#[cfg(target_arch = "aarch64")]
panels!(panels_dotprod, Sdot, "neon,dotprod");
