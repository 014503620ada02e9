//! What the kernels on packed weights need of an instruction set.

use super::{class::Layout, tile::Strip};

/// Sixteen 32-bit lanes (one for each row of a tile) or 64 bytes (four k of each row), in as many
/// registers as the instruction set needs.
///
/// # Safety
/// Every method needs the CPU features that the implementing type names, and pointers that are
/// valid for what is read or written. No pointer needs alignment.
pub(super) trait Lanes: Copy + 'static {
    /// 16 f32.
    type F: Copy;
    /// 16 i32, or 64 bytes.
    type I: Copy;
    /// True when few rows of x read the tiles as they are, without a panel.
    const STREAMS: bool;
    /// True when [`Lanes::dot_wide`] takes bytes as they are, like [`Lanes::dot`]; else it takes
    /// 128 off each.
    const WIDE_AS_IS: bool;
    /// True when [`Lanes::lookup`] takes codes of 4 bits with anything above them.
    const LOOSE: bool = false;

    /// Panels that a strip meets at once, of layouts with one and with two scales for 32 k: enough
    /// sums that dot products do not wait for each other, as far as registers hold them.
    const PANELS: [usize; 2];

    /// A strip of `rows` rows by `count` panels, at least one and at most [`Lanes::PANELS`]:
    /// `blocks` blocks of k, sums to `c`, rows of which are `step` apart.
    unsafe fn panels<P: Layout>(
        w: *const u8,
        count: usize,
        x: Strip,
        rows: usize,
        blocks: usize,
        c: *mut f32,
        step: usize,
    );

    unsafe fn zero() -> Self::F;
    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, v: Self::F);
    unsafe fn load_f16(p: *const u8) -> Self::F;
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a * b - c`, rounded once.
    unsafe fn fms(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once.
    unsafe fn fnma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    unsafe fn izero() -> Self::I;
    unsafe fn iload(p: *const u8) -> Self::I;
    unsafe fn istore(p: *mut u8, v: Self::I);
    /// The 32 bits at `p` in every lane.
    unsafe fn isplat(p: *const u8) -> Self::I;
    /// The byte in every byte.
    unsafe fn bytes(b: u8) -> Self::I;
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    /// `a | (b & mask)`.
    unsafe fn or_and(a: Self::I, b: Self::I, mask: Self::I) -> Self::I;
    /// 16-bit lanes to the right.
    unsafe fn shr<const N: u32>(a: Self::I) -> Self::I;
    /// 16-bit lanes to the left.
    unsafe fn shl<const N: u32>(a: Self::I) -> Self::I;
    /// Bits `from..from + count` of each byte, from bit `to` on; the others are 0.
    #[inline(always)]
    unsafe fn bits(a: Self::I, from: usize, count: usize, to: usize) -> Self::I {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            let mask = ((1 << count) - 1) << to;
            Self::and(shift::<Self>(a, from, to), Self::bytes(mask))
        }
    }
    /// The 16 bytes at `p`, as the table of [`Lanes::lookup`].
    unsafe fn table(p: *const u8) -> Self::I;
    /// `table[code]` for each byte, which is below 16.
    unsafe fn lookup(table: Self::I, codes: Self::I) -> Self::I;
    /// Adds to each lane of `acc` the dot product of its four unsigned bytes of `w` (at most 127)
    /// and four signed bytes of `x` (`-127..=127`).
    unsafe fn dot(acc: Self::I, w: Self::I, x: Self::I) -> Self::I;
    /// [`Lanes::dot`] for all unsigned bytes; see [`Lanes::WIDE_AS_IS`].
    unsafe fn dot_wide(acc: Self::I, w: Self::I, x: Self::I) -> Self::I;
    unsafe fn to_f32(x: Self::I) -> Self::F;
    /// Byte `J` of each lane, unsigned.
    unsafe fn byte<const J: u32>(x: Self::I) -> Self::F;
    /// 16 signed bytes.
    unsafe fn load_i8(p: *const u8) -> Self::F;
    /// 16 unsigned bytes.
    unsafe fn load_u8(p: *const u8) -> Self::F;
    /// The low and the high nibbles of 16 bytes.
    unsafe fn load_u4(p: *const u8) -> [Self::F; 2];
    /// `2^(e - 128)` of 16 bytes.
    unsafe fn load_e8m0(p: *const u8) -> Self::F;
    /// Half of 16 unsigned E4M3 numbers.
    unsafe fn load_e4m3(p: *const u8) -> Self::F;
    /// Asks for a line, into the second cache.
    unsafe fn prefetch(p: *const u8);
}

/// Moves bit `from` of each byte to bit `to`; bits of neighbours come along.
///
/// # Safety
/// The CPU has the features of `L`.
#[inline(always)]
pub(super) unsafe fn shift<L: Lanes>(a: L::I, from: usize, to: usize) -> L::I {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        match to as isize - from as isize {
            4 => L::shl::<4>(a),
            3 => L::shl::<3>(a),
            2 => L::shl::<2>(a),
            1 => L::shl::<1>(a),
            0 => a,
            -1 => L::shr::<1>(a),
            -2 => L::shr::<2>(a),
            -3 => L::shr::<3>(a),
            -4 => L::shr::<4>(a),
            -5 => L::shr::<5>(a),
            -6 => L::shr::<6>(a),
            _ => L::shr::<7>(a),
        }
    }
}
