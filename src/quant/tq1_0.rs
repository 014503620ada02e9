//! TQ1_0: 48 bytes of five and 4 bytes of four base-3 digits, f16 `d`; element = `d * (t - 1)`.
//!
//! A byte holds its digits as the fraction `b / 256 = 0.t0 t1 t2 ...` in base 3, rounded up: the
//! digit `n` is the integer part of `3 * frac(b * 3^n)`.

use super::bits::{abs_max, f16_at, inverse, put_f16};
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "TQ1_0",
    gguf_id: 34,
    block_len: 256,
    block_bytes: 54,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

/// Byte ranges of a block that share one element order, and their digits per byte: the byte `p`
/// of `bytes` holds the elements `first + n * bytes.len() + p`.
const RUNS: [(std::ops::Range<usize>, usize, usize); 3] =
    [(0..32, 0, 5), (32..48, 160, 5), (48..52, 240, 4)];

#[inline(always)]
pub(crate) fn decode(b: &[u8; 54], out: &mut [f32; 256]) {
    let d = f16_at(b, 52);
    for (run, first, digits) in RUNS {
        let bytes = &b[run];
        let mut power = 1u8;
        for out in out[first..].chunks_exact_mut(bytes.len()).take(digits) {
            for (v, byte) in out.iter_mut().zip(bytes) {
                let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
                *v = d * f32::from(digit as i8 - 1);
            }
            power = power.wrapping_mul(3);
        }
    }
}

#[inline(always)]
pub(crate) fn encode(x: &[f32; 256], out: &mut [u8; 54]) -> Option<()> {
    let d = abs_max(x);
    let id = inverse(d);
    for (run, first, digits) in RUNS {
        let len = run.len();
        for (p, byte) in out[run].iter_mut().enumerate() {
            let mut n = 0u16;
            for digit in 0..5 {
                n *= 3;
                if digit < digits {
                    let t = (x[first + digit * len + p] * id).round();
                    n += (t.clamp(-1.0, 1.0) + 1.0) as u16;
                }
            }
            *byte = (n * 256).div_ceil(243) as u8;
        }
    }
    put_f16(out, 52, d)
}
