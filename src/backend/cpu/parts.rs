//! Every GGUF format as codes and scales: what the packer reads.
//!
//! An element is `scale * (level - zero)` minus a minimum, where the level is the code itself or
//! the entry of a table at the code. Scales are products that f32 holds exactly, so a pack decodes
//! to the bits of the format's own decoder.

use crate::quant::{
    QuantFormat,
    bits::{even_signs, scale_min_k4, u16_at, u32_at},
    grids::{iq1, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs},
    iq4_nl, mxfp4,
};
use half::f16;

/// The zero point of layouts with codes above 127.
const WIDE: u8 = 128;

/// What a format leaves open in its layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    /// Taken off each level.
    pub zero: u8,
    /// Levels behind the codes, zero point added.
    pub table: [u8; 16],
    /// On the scale of a super-block.
    pub factor: f32,
}

/// One block taken apart: what all of it shares, and small scales and minima.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    /// f16 or f32 bits, or nothing where all scales are small ones.
    pub d: u32,
    /// f16 bits of what is taken off, or of its factor.
    pub min: u16,
    pub scales: [u8; 16],
    pub mins: [u8; 16],
}

impl Head {
    pub const EMPTY: Head = Head {
        d: 0,
        min: 0,
        scales: [0; 16],
        mins: [0; 16],
    };
}

const NO_TABLE: [u8; 16] = [0; 16];

fn table(levels: impl Fn(usize) -> i32, zero: u8) -> [u8; 16] {
    std::array::from_fn(|i| (levels(i) + i32::from(zero)) as u8)
}

/// `levels` for the codes below `sign` (a power of two), and negated above.
fn signed_table(levels: &[u8], sign: usize, zero: u8) -> [u8; 16] {
    let level = |i: usize| i32::from(levels.get(i % sign).copied().unwrap_or(0));
    table(
        |i| {
            if i & sign == 0 { level(i) } else { -level(i) }
        },
        zero,
    )
}

/// The traits of a format.
pub(crate) fn traits(format: QuantFormat) -> Traits {
    use QuantFormat::*;
    let plain = |zero| Traits {
        zero,
        table: NO_TABLE,
        factor: 1.0,
    };
    let listed = |zero, table, factor| Traits {
        zero,
        table,
        factor,
    };
    match format {
        Q4_1 | Q5_1 | Q2_K | Q4_K | Q5_K => plain(0),
        Q1_0 | Q2_0 | TQ1_0 | TQ2_0 => plain(1),
        Q3_K => plain(4),
        Q4_0 => plain(8),
        Q5_0 => plain(16),
        Q6_K => plain(32),
        Q8_0 | Q8_1 | Q8_K => plain(WIDE),
        IQ1_S | IQ1_M => listed(
            9,
            table(
                |i| 8 * (i as i32 % 4 - 1) + if i & 4 == 0 { 1 } else { -1 },
                9,
            ),
            0.125,
        ),
        IQ2_XXS | IQ2_XS | IQ2_S => listed(43, signed_table(&iq2_s::VALUES, 4, 43), 0.125),
        IQ3_XXS => listed(WIDE, signed_table(&iq3_xxs::VALUES, 8, WIDE), 0.25),
        IQ3_S => listed(WIDE, signed_table(&iq3_s::VALUES, 8, WIDE), 1.0),
        IQ4_NL | IQ4_XS => listed(WIDE, table(|i| iq4_nl::VALUES[i].into(), WIDE), 1.0),
        MXFP4 | NVFP4 => listed(12, table(|i| mxfp4::DOUBLED[i].into(), 12), 1.0),
    }
}

/// `H` bytes as low and then as high nibbles. Lengths that the compiler knows: a loop over 16 of
/// them is a few vectors.
#[inline(always)]
fn nibbles<const H: usize>(b: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(H);
    if let (Some(b), Some(low), Some(high)) = (
        b.first_chunk::<H>(),
        low.first_chunk_mut::<H>(),
        high.first_chunk_mut::<H>(),
    ) {
        for i in 0..H {
            low[i] = b[i] & 15;
            high[i] = b[i] >> 4;
        }
    }
}

/// Adds bit `i` of `bits` to code `i` as 16.
#[inline(always)]
fn fifth(bits: u32, codes: &mut [u8]) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let (eights, _) = codes.as_chunks_mut::<8>();
    for (eight, byte) in eights.iter_mut().zip(bits.to_le_bytes()) {
        // Byte j keeps bit j, then becomes 1 if that is set.
        let bit = (u64::from(byte) * ONES) & 0x8040_2010_0804_0201;
        let set = ((bit + 0x7f * ONES) >> 7) & ONES;
        *eight = (u64::from_le_bytes(*eight) | set << 4).to_le_bytes();
    }
}

/// Signed bytes with the wide zero point added.
#[inline(always)]
fn flipped(b: &[u8], codes: &mut [u8]) {
    let (from, _) = b.as_chunks::<32>();
    let (to, _) = codes.as_chunks_mut::<32>();
    for (to, from) in to.iter_mut().zip(from) {
        for i in 0..32 {
            to[i] = from[i] ^ WIDE;
        }
    }
}

/// A minimum that is added, as bits of what is taken off.
fn negated(half: u16) -> u16 {
    half ^ 0x8000
}

/// Eight 2-bit codes of a grid, with the sign of each in bit 2.
#[inline(always)]
fn grid2(point: u16, signs: u8, codes: &mut [u8]) {
    for (j, c) in codes.iter_mut().enumerate().take(8) {
        *c = (point >> (2 * j) & 3) as u8 | (signs >> j & 1) << 2;
    }
}

/// Two points of four 4-bit codes, with the sign of each in bit 3.
#[inline(always)]
fn grid3(points: [u16; 2], signs: u8, codes: &mut [u8]) {
    for (j, c) in codes.iter_mut().enumerate().take(8) {
        *c = (points[j / 4] >> (4 * (j % 4)) & 7) as u8 | (signs >> j & 1) << 3;
    }
}

/// Takes one block apart: codes of all elements in order, scales.
#[inline(always)]
pub(crate) fn read(format: QuantFormat, b: &[u8], codes: &mut [u8]) -> Head {
    use QuantFormat::*;
    let mut head = Head::EMPTY;
    let half = |at: usize| u32::from(u16_at(b, at));
    match format {
        Q4_0 | IQ4_NL => {
            head.d = half(0);
            nibbles::<16>(&b[2..], codes);
        }
        Q4_1 => {
            head.d = half(0);
            head.min = negated(u16_at(b, 2));
            nibbles::<16>(&b[4..], codes);
        }
        Q5_0 => {
            head.d = half(0);
            nibbles::<16>(&b[6..], codes);
            fifth(u32_at(b, 2), codes);
        }
        Q5_1 => {
            head.d = half(0);
            head.min = negated(u16_at(b, 2));
            nibbles::<16>(&b[8..], codes);
            fifth(u32_at(b, 4), codes);
        }
        Q8_0 => {
            head.d = half(0);
            flipped(&b[2..], codes);
        }
        Q8_1 => {
            head.d = half(0);
            flipped(&b[4..], codes);
        }
        Q8_K => {
            head.d = u32_at(b, 0);
            flipped(&b[4..260], codes);
        }
        Q2_K => {
            (head.d, head.min) = (half(80), u16_at(b, 82));
            head.scales.copy_from_slice(&b[..16]);
            for (k, codes) in codes.chunks_exact_mut(32).enumerate() {
                let shift = 2 * (k % 4);
                for (c, q) in codes.iter_mut().zip(&b[16 + 32 * (k / 4)..]) {
                    *c = q >> shift & 3;
                }
            }
        }
        Q3_K => {
            head.d = half(108);
            for (k, s) in head.scales.iter_mut().enumerate() {
                let low = b[96 + k % 8] >> (4 * (k / 8)) & 15;
                let high = b[104 + k % 4] >> (2 * (k / 4)) & 3;
                *s = (low | high << 4).wrapping_sub(32);
            }
            for (k, codes) in codes.chunks_exact_mut(32).enumerate() {
                let shift = 2 * (k % 4);
                let low = b[32 + 32 * (k / 4)..].iter();
                for ((c, q), h) in codes.iter_mut().zip(low).zip(b) {
                    *c = q >> shift & 3 | (h >> k & 1) << 2;
                }
            }
        }
        Q4_K | Q5_K => {
            (head.d, head.min) = (half(0), u16_at(b, 2));
            for j in 0..8 {
                (head.scales[j], head.mins[j]) = scale_min_k4(&b[4..16], j);
            }
            let five = format == Q5_K;
            let low = if five { 48 } else { 16 };
            for (k, codes) in codes.chunks_exact_mut(64).enumerate() {
                nibbles::<32>(&b[low + 32 * k..], codes);
                if five {
                    let (first, second) = codes.split_at_mut(32);
                    for ((f, s), h) in first.iter_mut().zip(second).zip(&b[16..48]) {
                        *f |= (h >> (2 * k) & 1) << 4;
                        *s |= (h >> (2 * k + 1) & 1) << 4;
                    }
                }
            }
        }
        Q6_K => {
            head.d = half(208);
            head.scales.copy_from_slice(&b[192..208]);
            for (k, codes) in codes.chunks_exact_mut(32).enumerate() {
                let (part, group) = (k / 4, k % 4);
                let low = b[64 * part + 32 * (group % 2)..].iter();
                let high = b[128 + 32 * part..].iter();
                let (l, h) = (4 * (group / 2), 2 * group);
                for ((c, q), up) in codes.iter_mut().zip(low).zip(high) {
                    *c = q >> l & 15 | (up >> h & 3) << 4;
                }
            }
        }
        IQ4_XS => {
            head.d = half(0);
            for k in 0..8 {
                let low = b[4 + k / 2] >> (4 * (k % 2)) & 15;
                let high = (u16_at(b, 2) >> (2 * k) & 3) as u8;
                head.scales[k] = (low | high << 4).wrapping_sub(32);
            }
            for (k, codes) in codes.chunks_exact_mut(32).enumerate() {
                nibbles::<16>(&b[8 + 16 * k..], codes);
            }
        }
        IQ2_XXS => {
            head.d = half(0);
            for (k, codes) in codes.chunks_exact_mut(8).enumerate() {
                let at = 2 + 8 * (k / 4);
                let w = u32_at(b, at + 4);
                head.scales[k / 4] = 2 * (w >> 28) as u8 + 1;
                let point = iq2_xxs::PACKED[usize::from(b[at + k % 4])];
                grid2(point, even_signs(w >> (7 * (k % 4))), codes);
            }
        }
        IQ2_XS => {
            head.d = half(0);
            for (k, codes) in codes.chunks_exact_mut(8).enumerate() {
                let w = u16_at(b, 2 + 2 * k);
                head.scales[k / 2] = 2 * (b[66 + k / 4] >> (4 * (k % 4 / 2)) & 15) + 1;
                let point = iq2_xs::PACKED[usize::from(w & 511)];
                grid2(point, even_signs(u32::from(w >> 9)), codes);
            }
        }
        IQ2_S => {
            head.d = half(0);
            for (k, codes) in codes.chunks_exact_mut(8).enumerate() {
                let high = usize::from(b[66 + k / 4] >> (2 * (k % 4)) & 3);
                head.scales[k / 2] = 2 * (b[74 + k / 4] >> (4 * (k % 4 / 2)) & 15) + 1;
                let point = iq2_s::PACKED[usize::from(b[2 + k]) | high << 8];
                grid2(point, b[34 + k], codes);
            }
        }
        IQ3_XXS => {
            head.d = half(0);
            for (k, codes) in codes.chunks_exact_mut(8).enumerate() {
                let w = u32_at(b, 66 + 4 * (k / 4));
                head.scales[k / 4] = 2 * (w >> 28) as u8 + 1;
                let points = [0, 1].map(|i| iq3_xxs::PACKED[usize::from(b[2 + 2 * k + i])]);
                grid3(points, even_signs(w >> (7 * (k % 4))), codes);
            }
        }
        IQ3_S => {
            head.d = half(0);
            for (k, codes) in codes.chunks_exact_mut(8).enumerate() {
                head.scales[k / 4] = 2 * (b[106 + k / 8] >> (4 * (k / 4 % 2)) & 15) + 1;
                let points = [0, 1].map(|i| {
                    let high = usize::from(b[66 + k / 4] >> (2 * (k % 4) + i) & 1);
                    iq3_s::PACKED[usize::from(b[2 + 2 * k + i]) | high << 8]
                });
                grid3(points, b[74 + k], codes);
            }
        }
        IQ1_S => {
            head.d = half(0);
            for (k, codes) in codes.chunks_exact_mut(8).enumerate() {
                let w = u16_at(b, 34 + 2 * (k / 4));
                head.scales[k / 4] = 2 * (w >> 12 & 7) as u8 + 1;
                let high = usize::from(w >> (3 * (k % 4)) & 7);
                let point = iq1::PACKED[usize::from(b[2 + k]) | high << 8];
                grid2(point, if w & 0x8000 == 0 { 0 } else { 255 }, codes);
            }
        }
        IQ1_M => {
            let sc: [u16; 4] = std::array::from_fn(|i| u16_at(b, 48 + 2 * i));
            let d = sc[0] >> 12 | sc[1] >> 12 << 4 | sc[2] >> 12 << 8 | sc[3] >> 12 << 12;
            head.d = u32::from(d);
            for (k, codes) in codes.chunks_exact_mut(8).enumerate() {
                head.scales[k / 2] = 2 * (sc[k / 8] >> (3 * (k / 2 % 4)) & 7) as u8 + 1;
                let n = b[32 + k / 2] >> (4 * (k % 2)) & 15;
                let point = iq1::PACKED[usize::from(b[k]) | usize::from(n & 7) << 8];
                grid2(point, if n & 8 == 0 { 0 } else { 255 }, codes);
            }
        }
        TQ1_0 => {
            head.d = f16::from_bits(u16_at(b, 52)).to_f32().to_bits();
            for (bytes, first, digits) in [(0..32, 0, 5), (32..48, 160, 5), (48..52, 240, 4)] {
                let bytes = &b[bytes];
                let mut power = 1u8;
                for codes in codes[first..].chunks_exact_mut(bytes.len()).take(digits) {
                    for (c, byte) in codes.iter_mut().zip(bytes) {
                        *c = ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as u8;
                    }
                    power = power.wrapping_mul(3);
                }
            }
        }
        TQ2_0 => {
            head.d = f16::from_bits(u16_at(b, 64)).to_f32().to_bits();
            for (k, codes) in codes.chunks_exact_mut(32).enumerate() {
                for (c, q) in codes.iter_mut().zip(&b[32 * (k / 4)..]) {
                    *c = q >> (2 * (k % 4)) & 3;
                }
            }
        }
        MXFP4 => {
            head.scales[0] = b[0];
            nibbles::<16>(&b[1..], codes);
        }
        NVFP4 => {
            for (g, codes) in codes.chunks_exact_mut(16).enumerate() {
                // The one code that is no number counts as 0, and the sign for nothing.
                head.scales[g] = if b[g] == 0x7f { 0 } else { b[g] & 0x7f };
                nibbles::<8>(&b[4 + 8 * g..], codes);
            }
        }
        Q1_0 => {
            head.d = half(0);
            for (codes, &byte) in codes.chunks_exact_mut(8).zip(&b[2..]) {
                for (j, c) in codes.iter_mut().enumerate() {
                    *c = byte >> j & 1;
                }
            }
        }
        Q2_0 => {
            head.d = half(0);
            for (codes, &byte) in codes.chunks_exact_mut(4).zip(&b[2..]) {
                for (j, c) in codes.iter_mut().enumerate() {
                    *c = byte >> (2 * j) & 3;
                }
            }
        }
    }
    head
}
