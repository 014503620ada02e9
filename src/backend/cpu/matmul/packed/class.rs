//! The layouts of packed weights.
//!
//! A matrix is cut into tiles of 16 rows, a tile into units of [`Scales::UNIT`] k, one after the
//! other. A unit is a head of scales and then, for every 32 k, the codes of 16 rows as planes of
//! bits. A plane of 64 bytes holds 16 rows x 4 k (byte `4 row + k`) of one group of bits for as
//! many groups of 4 k as fit: a byte of a plane of 4 bits has the codes of groups `g` (low) and
//! `g + 1` (high); one of 2 bits those of `g`, `g + 1`, `g + 2`, `g + 3` from the lowest bits up;
//! one of 1 bit those of all eight groups. Codes of 3, 5 and 6 bits are a plane of 2 or 4 bits
//! followed by one of the upper 1 or 2.

use super::lanes::{Lanes, shift};
use crate::backend::cpu::parts::Head;
use std::marker::PhantomData;

/// k for which codes lie together, and after which integer sums become floats.
pub(super) const BLOCK: usize = 32;
/// Rows of a tile.
pub(super) const TILE: usize = 16;

/// What the head of a unit holds.
///
/// # Safety
/// `p` points to a unit; the CPU has the features of `L`.
pub(super) trait Scales: 'static {
    /// The same in a panel.
    type Flat: Scales;
    /// k of a unit.
    const UNIT: usize;
    /// Bytes before the codes, a multiple of 64.
    const HEAD: usize;
    /// Scales for every 32 k: 1 or 2 (where fewer are stored they repeat).
    const SUBS: usize = 1;
    /// Is something taken off each number, as many times as there are scales?
    const MINS: bool = false;
    /// What the whole unit shares.
    unsafe fn unit<L: Lanes>(p: *const u8, factor: f32) -> [L::F; 2];
    /// Scale `sub` of the 32 k of `block`.
    unsafe fn scale<L: Lanes>(p: *const u8, unit: [L::F; 2], block: usize, sub: usize) -> L::F;
    /// What is taken off.
    unsafe fn min<L: Lanes>(p: *const u8, unit: [L::F; 2], block: usize, sub: usize) -> L::F {
        let _ = (p, block, sub);
        unit[1]
    }
    /// Writes what block `block` of row `row` adds to the head of a unit.
    fn write(head: &Head, block: usize, row: usize, out: &mut [u8]);
}

/// `bytes` as entry `row` of the list of entries `list`.
fn put<const N: usize>(out: &mut [u8], list: usize, row: usize, bytes: [u8; N]) {
    out[list + row * N..][..N].copy_from_slice(&bytes);
}

/// An f16 for every `SUB` k, and the minima, negated, after all scales.
pub(super) struct Half<const UNIT: usize, const SUB: usize, const MINS: bool>;

impl<const UNIT: usize, const SUB: usize, const MINS: bool> Scales for Half<UNIT, SUB, MINS> {
    type Flat = Flat<1, MINS>;
    const UNIT: usize = UNIT;
    const HEAD: usize = UNIT / SUB * 2 * TILE * (1 + MINS as usize);
    const MINS: bool = MINS;
    #[inline(always)]
    unsafe fn unit<L: Lanes>(_: *const u8, _: f32) -> [L::F; 2] {
        // SAFETY: no memory is touched.
        unsafe { [L::zero(); 2] }
    }
    #[inline(always)]
    unsafe fn scale<L: Lanes>(p: *const u8, _: [L::F; 2], block: usize, _: usize) -> L::F {
        // SAFETY: the head of a unit.
        unsafe { L::load_f16(p.add(block * BLOCK / SUB * 2 * TILE)) }
    }
    #[inline(always)]
    unsafe fn min<L: Lanes>(p: *const u8, _: [L::F; 2], block: usize, _: usize) -> L::F {
        // SAFETY: as above.
        unsafe { L::load_f16(p.add((UNIT + block * BLOCK) / SUB * 2 * TILE)) }
    }
    fn write(head: &Head, block: usize, row: usize, out: &mut [u8]) {
        put(out, block * 2 * TILE, row, (head.d as u16).to_le_bytes());
        if MINS {
            let list = (UNIT / SUB + block) * 2 * TILE;
            put(out, list, row, head.min.to_le_bytes());
        }
    }
}

/// An f16 for 256 k and an i8 for every `32 / SUBS` of them; with minima another f16 and bytes.
pub(super) struct Super<const SUBS: usize, const MINS: bool>;

impl<const SUBS: usize, const MINS: bool> Scales for Super<SUBS, MINS> {
    type Flat = Flat<SUBS, MINS>;
    const UNIT: usize = 256;
    const HEAD: usize = (64 + 8 * SUBS * TILE * (1 + MINS as usize)).next_multiple_of(64);
    const SUBS: usize = SUBS;
    const MINS: bool = MINS;
    #[inline(always)]
    unsafe fn unit<L: Lanes>(p: *const u8, factor: f32) -> [L::F; 2] {
        // SAFETY: the head of a unit.
        unsafe {
            [
                L::mul(L::load_f16(p), L::splat(factor)),
                L::load_f16(p.add(2 * TILE)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn scale<L: Lanes>(p: *const u8, unit: [L::F; 2], block: usize, sub: usize) -> L::F {
        // SAFETY: as above.
        unsafe { L::mul(L::load_i8(p.add(64 + (block * SUBS + sub) * TILE)), unit[0]) }
    }
    #[inline(always)]
    unsafe fn min<L: Lanes>(p: *const u8, unit: [L::F; 2], block: usize, sub: usize) -> L::F {
        // SAFETY: as above.
        unsafe {
            let at = 64 + ((8 + block) * SUBS + sub) * TILE;
            L::mul(L::load_u8(p.add(at)), unit[1])
        }
    }
    fn write(head: &Head, _: usize, row: usize, out: &mut [u8]) {
        put(out, 0, row, (head.d as u16).to_le_bytes());
        for i in 0..8 * SUBS {
            out[64 + i * TILE + row] = head.scales[i];
        }
        if MINS {
            put(out, 2 * TILE, row, head.min.to_le_bytes());
            for i in 0..8 * SUBS {
                out[64 + (8 * SUBS + i) * TILE + row] = head.mins[i];
            }
        }
    }
}

/// Two f16 for 256 k; a byte for every 16 whose low nibble is the scale and high one the minimum.
pub(super) struct Nibbles;

impl Scales for Nibbles {
    type Flat = Flat<2, true>;
    const UNIT: usize = 256;
    const HEAD: usize = 64 + 16 * TILE;
    const SUBS: usize = 2;
    const MINS: bool = true;
    #[inline(always)]
    unsafe fn unit<L: Lanes>(p: *const u8, _: f32) -> [L::F; 2] {
        // SAFETY: the head of a unit.
        unsafe { [L::load_f16(p), L::load_f16(p.add(2 * TILE))] }
    }
    #[inline(always)]
    unsafe fn scale<L: Lanes>(p: *const u8, unit: [L::F; 2], block: usize, sub: usize) -> L::F {
        // SAFETY: as above.
        unsafe {
            let both = L::load_u4(p.add(64 + (2 * block + sub) * TILE));
            L::mul(both[0], unit[0])
        }
    }
    #[inline(always)]
    unsafe fn min<L: Lanes>(p: *const u8, unit: [L::F; 2], block: usize, sub: usize) -> L::F {
        // SAFETY: as above.
        unsafe {
            let both = L::load_u4(p.add(64 + (2 * block + sub) * TILE));
            L::mul(both[1], unit[1])
        }
    }
    fn write(head: &Head, _: usize, row: usize, out: &mut [u8]) {
        put(out, 0, row, (head.d as u16).to_le_bytes());
        put(out, 2 * TILE, row, head.min.to_le_bytes());
        for i in 0..16 {
            out[64 + i * TILE + row] = head.scales[i];
        }
    }
}

/// An f32 for 256 k.
pub(super) struct Whole;

impl Scales for Whole {
    type Flat = Flat<1, false>;
    const UNIT: usize = 256;
    const HEAD: usize = 64;
    #[inline(always)]
    unsafe fn unit<L: Lanes>(p: *const u8, _: f32) -> [L::F; 2] {
        // SAFETY: the head of a unit.
        unsafe { [L::load(p.cast()); 2] }
    }
    #[inline(always)]
    unsafe fn scale<L: Lanes>(_: *const u8, unit: [L::F; 2], _: usize, _: usize) -> L::F {
        unit[0]
    }
    fn write(head: &Head, _: usize, row: usize, out: &mut [u8]) {
        put(out, 0, row, head.d.to_le_bytes());
    }
}

/// An E8M0 byte for every 32 k, worth half.
pub(super) struct E8m0;

impl Scales for E8m0 {
    type Flat = Flat<1, false>;
    const UNIT: usize = 128;
    const HEAD: usize = 4 * TILE;
    #[inline(always)]
    unsafe fn unit<L: Lanes>(_: *const u8, _: f32) -> [L::F; 2] {
        // SAFETY: no memory is touched.
        unsafe { [L::zero(); 2] }
    }
    #[inline(always)]
    unsafe fn scale<L: Lanes>(p: *const u8, _: [L::F; 2], block: usize, _: usize) -> L::F {
        // SAFETY: the head of a unit.
        unsafe { L::load_e8m0(p.add(block * TILE)) }
    }
    fn write(head: &Head, block: usize, row: usize, out: &mut [u8]) {
        out[block * TILE + row] = head.scales[0];
    }
}

/// An unsigned E4M3 byte for every 16 k, worth half.
pub(super) struct E4m3;

impl Scales for E4m3 {
    type Flat = Flat<2, false>;
    const UNIT: usize = 64;
    const HEAD: usize = 4 * TILE;
    const SUBS: usize = 2;
    #[inline(always)]
    unsafe fn unit<L: Lanes>(_: *const u8, _: f32) -> [L::F; 2] {
        // SAFETY: no memory is touched.
        unsafe { [L::zero(); 2] }
    }
    #[inline(always)]
    unsafe fn scale<L: Lanes>(p: *const u8, _: [L::F; 2], block: usize, sub: usize) -> L::F {
        // SAFETY: the head of a unit.
        unsafe { L::load_e4m3(p.add((2 * block + sub) * TILE)) }
    }
    fn write(head: &Head, _: usize, row: usize, out: &mut [u8]) {
        for i in 0..4 {
            out[i * TILE + row] = head.scales[i];
        }
    }
}

/// f32 scales and minima for every 32 k: panels in cache, never weights in memory.
pub(super) struct Flat<const SUBS: usize, const MINS: bool>;

impl<const SUBS: usize, const MINS: bool> Scales for Flat<SUBS, MINS> {
    type Flat = Self;
    const UNIT: usize = BLOCK;
    const HEAD: usize = 4 * TILE * SUBS * (1 + MINS as usize);
    const SUBS: usize = SUBS;
    const MINS: bool = MINS;
    #[inline(always)]
    unsafe fn unit<L: Lanes>(_: *const u8, _: f32) -> [L::F; 2] {
        // SAFETY: no memory is touched.
        unsafe { [L::zero(); 2] }
    }
    #[inline(always)]
    unsafe fn scale<L: Lanes>(p: *const u8, _: [L::F; 2], _: usize, sub: usize) -> L::F {
        // SAFETY: the head of a unit.
        unsafe { L::load(p.cast::<f32>().add(sub * TILE)) }
    }
    #[inline(always)]
    unsafe fn min<L: Lanes>(p: *const u8, _: [L::F; 2], _: usize, sub: usize) -> L::F {
        // SAFETY: as above.
        unsafe { L::load(p.cast::<f32>().add((SUBS + sub) * TILE)) }
    }
    /// Panels are written by the unpacker.
    fn write(_: &Head, _: usize, _: usize, _: &mut [u8]) {}
}

/// How many of the 8 groups of 4 k a plane of `bits` bits shares a byte among.
const fn per_byte(bits: usize) -> usize {
    8 / bits
}

/// A layout: codes of `BITS` bits, through a table of 16 bytes when `TABLE`, and scales. `WIDE`:
/// bytes above 127 occur.
pub(super) struct Class<S, const BITS: usize, const TABLE: bool, const WIDE: bool>(PhantomData<S>);

/// [`Class`] as types see it.
pub(super) trait Layout: 'static {
    type Scales: Scales;
    /// The same numbers in a panel.
    type Panel: Layout;
    const BITS: usize;
    const WIDE: bool;
    /// Bytes of a unit.
    const BYTES: usize = Self::Scales::HEAD + Self::Scales::UNIT * TILE * Self::BITS / 8;
    /// Group `G` of 4 k of the 32 k whose codes are at `p`.
    ///
    /// # Safety
    /// They are there; the CPU has the features of `L`.
    unsafe fn code<L: Lanes, const G: usize>(p: *const u8, table: L::I) -> L::I;
}

/// Where group `G` of a plane of `bits` bits is: its bytes, and its lowest bit in them.
#[inline(always)]
unsafe fn group<L: Lanes, const G: usize>(p: *const u8, bits: usize) -> (L::I, usize) {
    let per = per_byte(bits);
    // SAFETY: the caller's contract is the callee's.
    unsafe { (L::iload(p.add(G / per * 64)), G % per * bits) }
}

/// Codes of group `G` of the plane of `bits` bits at `p`, from bit `to` on.
#[inline(always)]
unsafe fn one<L: Lanes, const G: usize>(p: *const u8, bits: usize, to: usize) -> L::I {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        let (v, from) = group::<L, G>(p, bits);
        L::bits(v, from, bits, to)
    }
}

/// Codes of group `G` of the plane of `lower` bits at `p` and, above them, of the plane of `upper`
/// bits behind it.
#[inline(always)]
unsafe fn two<L: Lanes, const G: usize>(p: *const u8, lower: usize, upper: usize) -> L::I {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        let above = one::<L, G>(p.add(64 * lower), upper, lower);
        let (v, from) = group::<L, G>(p, lower);
        L::or_and(above, shift::<L>(v, from, 0), L::bytes((1 << lower) - 1))
    }
}

impl<S: Scales, const BITS: usize, const TABLE: bool, const WIDE: bool> Layout
    for Class<S, BITS, TABLE, WIDE>
{
    type Scales = S;
    type Panel = Class<S::Flat, 8, false, WIDE>;
    const BITS: usize = BITS;
    const WIDE: bool = WIDE;
    #[inline(always)]
    unsafe fn code<L: Lanes, const G: usize>(p: *const u8, table: L::I) -> L::I {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            let code = match BITS {
                // Codes of 0 and 2: the bit is the sign of a number.
                1 => one::<L, G>(p, 1, 1),
                2 => one::<L, G>(p, 2, 0),
                3 => two::<L, G>(p, 2, 1),
                4 if TABLE && L::LOOSE => {
                    let (v, from) = group::<L, G>(p, 4);
                    shift::<L>(v, from, 0)
                }
                4 => one::<L, G>(p, 4, 0),
                5 => two::<L, G>(p, 4, 1),
                6 => two::<L, G>(p, 4, 2),
                _ => L::iload(p.add(64 * G)),
            };
            if TABLE { L::lookup(table, code) } else { code }
        }
    }
}

/// `$body` for each group `$g` of `$from..$to`, all of them constants.
macro_rules! groups {
    ($g:ident, $from:expr, $to:expr, $body:block) => {{
        groups!(@ $g, $from, $to, $body, 0 1 2 3 4 5 6 7);
    }};
    (@ $g:ident, $from:expr, $to:expr, $body:block, $($n:literal)*) => {{
        $({
            const $g: usize = $n;
            if ($from..$to).contains(&$g) $body
        })*
    }};
}
pub(super) use groups;

/// Runs `$body` with `$layout` as the [`Layout`] of the format.
macro_rules! with_layout {
    ($format:expr, $layout:ident, $body:expr) => {{
        use crate::backend::cpu::matmul::packed::class::*;
        use crate::quant::QuantFormat::*;
        macro_rules! layout {
            ($scales:ty, $bits:literal $table:literal $wide:literal) => {{
                type $layout = Class<$scales, $bits, $table, $wide>;
                $body
            }};
        }
        match $format {
            Q4_0 => layout!(Half<64, 32, false>, 4 false false),
            Q4_1 => layout!(Half<64, 32, true>, 4 false false),
            Q5_0 => layout!(Half<64, 32, false>, 5 false false),
            Q5_1 => layout!(Half<64, 32, true>, 5 false false),
            Q8_0 | Q8_1 => layout!(Half<64, 32, false>, 8 false true),
            Q8_K => layout!(Whole, 8 false true),
            Q2_K => layout!(Nibbles, 2 false false),
            Q3_K => layout!(Super<2, false>, 3 false false),
            Q4_K => layout!(Super<1, true>, 4 false false),
            Q5_K => layout!(Super<1, true>, 5 false false),
            Q6_K => layout!(Super<2, false>, 6 false false),
            IQ2_XXS | IQ1_S => layout!(Super<1, false>, 3 true false),
            IQ2_XS | IQ2_S | IQ1_M => layout!(Super<2, false>, 3 true false),
            IQ3_XXS | IQ3_S | IQ4_XS => layout!(Super<1, false>, 4 true true),
            IQ4_NL => layout!(Half<64, 32, false>, 4 true true),
            TQ1_0 | TQ2_0 => layout!(Whole, 2 false false),
            MXFP4 => layout!(E8m0, 4 true false),
            NVFP4 => layout!(E4m3, 4 true false),
            Q1_0 => layout!(Half<256, 128, false>, 1 false false),
            Q2_0 => layout!(Half<128, 64, false>, 2 false false),
        }
    }};
}
pub(super) use with_layout;
