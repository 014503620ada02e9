//! Q8_K: f32 `d`, 256 signed bytes, i16 sums of 16 codes; element = `d * q`.

use super::bits::max_by_abs;
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "Q8_K",
    gguf_id: 15,
    block_len: 256,
    block_bytes: 292,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

#[inline(always)]
pub(crate) fn decode(b: &[u8; 292], out: &mut [f32; 256]) {
    let d = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    for (v, &q) in out.iter_mut().zip(&b[4..260]) {
        *v = d * f32::from(q as i8);
    }
}

/// The element of largest magnitude gets code -127, so that `d` carries its negated sign.
#[inline(always)]
pub(crate) fn encode(x: &[f32; 256], out: &mut [u8; 292]) -> Option<()> {
    out.fill(0);
    let max = max_by_abs(x);
    let inverse = -127.0 / max;
    // All zero, or too small for the inverse scale to be finite: the zero block.
    if max == 0.0 || !inverse.is_finite() {
        return Some(());
    }
    out[..4].copy_from_slice(&(1.0 / inverse).to_le_bytes());
    let (codes, sums) = out[4..].split_at_mut(256);
    for (g, v) in x.as_chunks::<16>().0.iter().enumerate() {
        let mut sum = 0i16;
        for (c, v) in codes[16 * g..].iter_mut().zip(v) {
            let q = (inverse * v).round_ties_even().min(127.0) as i8;
            sum += i16::from(q);
            *c = q as u8;
        }
        sums[2 * g..2 * g + 2].copy_from_slice(&sum.to_le_bytes());
    }
    Some(())
}
