//! Units as panels: bytes and f32 scales that many rows of x share.

#[cfg(target_arch = "aarch64")]
use super::neon::Four;
#[cfg(target_arch = "x86_64")]
use super::{
    avx2::{Avx2, Two, Vnni},
    avx512::Avx512,
};
use super::{
    class::{BLOCK, Layout, Scales, TILE, groups},
    lanes::Lanes,
    tile::{Params, ROWS, Strip, tile},
};
#[cfg(target_arch = "aarch64")]
use crate::backend::cpu::simd::{Sdot, Widening};

/// k per panel.
pub(super) const KC: usize = 512;
/// [`Lanes::PANELS`] of AVX-512. Twelve sums keep two dot products per cycle, of four to five
/// cycles each, busy; with two scales a block has other sums beside them, which leave registers
/// for eight.
pub(super) const WIDE: [usize; 2] = [3, 2];

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

/// A strip by `C` panels.
///
/// # Safety
/// As for [`tile`].
#[inline(always)]
unsafe fn panels<L: Lanes, P: Layout, const C: usize>(
    w: [*const u8; C],
    x: Strip,
    rows: usize,
    blocks: usize,
    c: [*mut f32; C],
    step: usize,
) {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        match rows {
            1 => tile::<L, P, 1, C, false>(w, x, blocks, &PANEL, c, step),
            _ => tile::<L, P, ROWS, C, false>(w, x, blocks, &PANEL, c, step),
        }
    }
}

/// The entry of one instruction set: panels, [`KC`] k apart, as many as a `$count` says.
macro_rules! entry {
    ($name:ident, $lanes:ty, $features:literal, $($count:literal)*) => {
        /// A strip by panels.
        ///
        /// # Safety
        /// As for [`tile`]; there are as many panels.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<P: Layout>(
            w: *const u8,
            count: usize,
            x: Strip,
            rows: usize,
            blocks: usize,
            c: *mut f32,
            step: usize,
        ) {
            // SAFETY: the caller's contract is the callee's.
            unsafe {
                match count {
                    $($count => {
                        let (mut ws, mut cs) = ([w; $count], [c; $count]);
                        for i in 0..$count {
                            ws[i] = w.add(i * (KC / BLOCK * P::BYTES));
                            cs[i] = c.add(i * TILE);
                        }
                        panels::<$lanes, P, $count>(ws, x, rows, blocks, cs, step)
                    })*
                    _ => unreachable!("{count} panels are none that `Lanes::PANELS` allows"),
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
entry!(
    panels_avx512,
    Avx512<false>,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c",
    1 2 3
);
#[cfg(target_arch = "x86_64")]
entry!(panels_avx2, Avx2, "avx2,fma,f16c", 1);
#[cfg(target_arch = "x86_64")]
entry!(panels_avxvnni, Two<Vnni>, "avx2,fma,f16c,avxvnni", 1);
#[cfg(target_arch = "aarch64")]
entry!(panels_neon, Four<Widening>, "neon", 1);
#[cfg(target_arch = "aarch64")]
entry!(panels_dotprod, Four<Sdot>, "neon,dotprod", 1);
