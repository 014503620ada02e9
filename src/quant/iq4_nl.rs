//! IQ4_NL: f16 `d`, 16 bytes of nibbles; element = `d * VALUES[n]`.

use super::bits::f16_at;
use super::{Format, decode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "IQ4_NL",
    gguf_id: 20,
    block_len: 32,
    block_bytes: 18,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: None,
};

/// The non-linear 4-bit table of IQ4_NL and IQ4_XS, ascending.
pub(crate) const VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

#[inline(always)]
fn decode(b: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    for j in 0..16 {
        out[j] = d * f32::from(VALUES[usize::from(b[2 + j] & 15)]);
        out[j + 16] = d * f32::from(VALUES[usize::from(b[2 + j] >> 4)]);
    }
}
