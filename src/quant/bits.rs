//! Field access and packing shared by the formats. All integers are little endian.

use half::f16;

/// The f16 at byte offset `at`, as f32.
#[inline(always)]
pub(crate) fn f16_at(b: &[u8], at: usize) -> f32 {
    f16::from_bits(u16_at(b, at)).to_f32()
}

#[inline(always)]
pub(crate) fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

#[inline(always)]
pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Stores `v` as f16 at byte offset `at`; `None` if it is beyond the range of f16.
#[inline(always)]
pub(crate) fn put_f16(out: &mut [u8], at: usize, v: f32) -> Option<()> {
    let h = f16::from_f32(v);
    out[at..at + 2].copy_from_slice(&h.to_le_bytes());
    h.is_finite().then_some(())
}

/// The byte of 8 signs behind a 7-bit sign index: bit 7 makes the number of set bits even.
#[inline(always)]
pub(crate) fn even_signs(index: u32) -> u8 {
    let low = (index & 127) as u8;
    // Bit i of the constant: is the number of set bits of i odd?
    let odd = 0x6996u16 >> ((low ^ low >> 4) & 15);
    low | (odd as u8) << 7
}

/// Four sign bytes as 7-bit sign indices, and a 4-bit scale in the top bits.
pub(crate) fn pack_signs(signs: &[u8; 4], scale: u8) -> u32 {
    signs
        .iter()
        .enumerate()
        .fold(u32::from(scale) << 28, |w, (l, s)| {
            w | u32::from(s & 127) << (7 * l)
        })
}

/// Eight magnitudes from 1 to 127 as signed bytes: negative where a bit of `signs` is set.
#[inline(always)]
pub(crate) fn with_signs(magnitudes: [u8; 8], signs: u8) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Byte j keeps bit j, then becomes 1 if that is set.
    let bit = (u64::from(signs) * ONES) & 0x8040_2010_0804_0201;
    let negative = ((bit + 0x7f * ONES) >> 7) & ONES;
    // -m is !m + 1, which never carries since m is not 0.
    (u64::from_le_bytes(magnitudes) ^ (negative * 0xff)) + negative
}

/// Two halves of eight magnitudes.
#[inline(always)]
pub(crate) fn join(low: [u8; 4], high: [u8; 4]) -> [u8; 8] {
    let word = u64::from(u32::from_le_bytes(low)) | (u64::from(u32::from_le_bytes(high)) << 32);
    word.to_le_bytes()
}

/// A block of runs of eight signed bytes, each run moved by its shift and then times its scale.
pub(crate) struct Eights {
    pub codes: [u64; 32],
    pub scales: [f32; 32],
    pub shifts: [f32; 32],
}

impl Eights {
    pub const EMPTY: Eights = Eights {
        codes: [0; 32],
        scales: [0.0; 32],
        shifts: [0.0; 32],
    };

    #[inline(always)]
    pub fn decode(&self, out: &mut [f32; 256]) {
        for (k, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            for (v, c) in out.iter_mut().zip(self.codes[k].to_le_bytes()) {
                *v = self.scales[k] * (f32::from(c as i8) + self.shifts[k]);
            }
        }
    }
}

/// Pair `j` (0..8) of the 6-bit scales and minima in the 12 bytes of Q4_K and Q5_K.
#[inline(always)]
pub(crate) fn scale_min_k4(k: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (k[j] & 63, k[j + 4] & 63)
    } else {
        (
            k[j + 4] & 15 | (k[j - 4] >> 6) << 4,
            k[j + 4] >> 4 | (k[j] >> 6) << 4,
        )
    }
}

/// Packs 8 pairs of 6-bit scale and minimum into the 12 bytes of Q4_K and Q5_K.
pub(crate) fn put_scale_min_k4(pairs: &[(u8, u8)], k: &mut [u8]) {
    for j in 0..4 {
        let ((sc, mn), (sc4, mn4)) = (pairs[j], pairs[j + 4]);
        k[j] = sc & 63 | (sc4 >> 4) << 6;
        k[j + 4] = mn & 63 | (mn4 >> 4) << 6;
        k[j + 8] = sc4 & 15 | mn4 << 4;
    }
}

/// The element of largest magnitude, the first of several; 0 if all are 0.
#[inline(always)]
pub(crate) fn max_by_abs(x: &[f32]) -> f32 {
    let mut max = 0.0f32;
    for &v in x {
        if v.abs() > max.abs() {
            max = v;
        }
    }
    max
}

/// Largest magnitude of finite elements.
#[inline(always)]
pub(crate) fn abs_max(x: &[f32]) -> f32 {
    // Magnitudes are ordered as their bits are, and integers need no order of comparison.
    let bits = |v: &f32| v.to_bits() & 0x7fff_ffff;
    f32::from_bits(x.iter().map(bits).fold(0, u32::max))
}

/// `None` for magnitudes that no f16 scale of any format reaches, whose squares and products could
/// overflow in a search.
pub(crate) fn within_reach(x: &[f32]) -> Option<()> {
    (abs_max(x) < 1e9).then_some(())
}

/// Smallest and largest element.
#[inline(always)]
pub(crate) fn min_max(x: &[f32]) -> (f32, f32) {
    x.iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), &v| {
            (lo.min(v), hi.max(v))
        })
}

/// `1 / d`, or 0 for 0.
#[inline(always)]
pub(crate) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// Packs 32 4-bit codes as `i` in the low and `i + 16` in the high nibble of byte `i`.
#[inline(always)]
pub(crate) fn pack_nibbles(q: &[u8; 32], out: &mut [u8]) {
    for (j, b) in out.iter_mut().enumerate().take(16) {
        *b = q[j] & 15 | q[j + 16] << 4;
    }
}

/// Bit 4 of 32 codes, code `i` at bit `i`.
#[inline(always)]
pub(crate) fn fifth_bits(q: &[u8; 32]) -> u32 {
    q.iter()
        .enumerate()
        .fold(0, |h, (i, &v)| h | u32::from(v >> 4 & 1) << i)
}
