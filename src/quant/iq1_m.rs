//! IQ1_M: 32 low index bytes, 32 nibbles of 3-bit high index part and shift sign, 4 u16 of four
//! 3-bit scales (one per 16 elements) whose top nibbles, low to high, are the f16 `d`;
//! element = `d * (2 sc + 1) * (grid +- 1/8)`.

use half::f16;

use super::bits::{Eights, u16_at};
use super::codebook::{Codebook, Signs};
use super::grids::iq1::GRID;
use super::iq1_s::shifted;
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "IQ1_M",
    gguf_id: 29,
    block_len: 256,
    block_bytes: 56,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 56], out: &mut [f32; 256]) {
    eights(b).decode(out);
}

#[inline(always)]
pub(crate) fn eights(b: &[u8; 56]) -> Eights {
    let sc: [u16; 4] = std::array::from_fn(|i| u16_at(b, 48 + 2 * i));
    let bits = sc[0] >> 12 | sc[1] >> 12 << 4 | sc[2] >> 12 << 8 | sc[3] >> 12 << 12;
    let d = f16::from_bits(bits).to_f32();
    let mut e = Eights::EMPTY;
    for k in 0..32 {
        let s = sc[k / 8] >> (3 * (k / 2 % 4)) & 7;
        let n = b[32 + k / 2] >> (4 * (k % 2)) & 15;
        e.scales[k] = d * f32::from(2 * s + 1);
        e.shifts[k] = if n & 8 == 0 { 0.125 } else { -0.125 };
        let point = GRID[usize::from(b[k]) | usize::from(n & 7) << 8];
        e.codes[k] = u64::from_le_bytes(point.map(|g| g as u8));
    }
    e
}

const CODEBOOK: Codebook<8> = Codebook {
    point: shifted,
    points: 2 * GRID.len(),
    bank: 2 * GRID.len(),
    group: 16,
    scales: 8,
    factor: |sc| f32::from(2 * sc + 1),
    signs: Signs::Points,
};

pub(crate) fn encode(x: &[f32; 256], out: &mut [u8; 56]) -> Option<()> {
    let fit = CODEBOOK.fit(x)?;
    out[32..48].fill(0);
    for (k, p) in fit.points[..32].iter().enumerate() {
        out[k] = *p as u8;
        // Bits 8..11 of the index, and above them the shift.
        out[32 + k / 2] |= ((p >> 8) as u8) << (4 * (k % 2));
    }
    let d = f16::from_f32(fit.d).to_bits();
    for (i, scales) in fit.scales.as_chunks::<4>().0.iter().enumerate() {
        let w = scales.iter().rev().fold(d >> (4 * i) & 15, |w, sc| w << 3 | u16::from(*sc));
        out[48 + 2 * i..50 + 2 * i].copy_from_slice(&w.to_le_bytes());
    }
    Some(())
}
