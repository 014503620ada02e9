//! IQ4_NL: f16 `d`, 16 bytes of nibbles; element = `d * VALUES[n]`.

use super::bits::{f16_at, pack_nibbles, put_f16};
use super::search::{self, Levels};
use super::{Format, decode_blocks, encode_blocks};

pub(crate) const FORMAT: Format = Format {
    name: "IQ4_NL",
    gguf_id: 20,
    block_len: 32,
    block_bytes: 18,
    decode: |bytes, out| decode_blocks(bytes, out, decode),
    encode: Some(|x, out| encode_blocks(x, out, encode)),
};

/// The non-linear 4-bit table of IQ4_NL and IQ4_XS, ascending.
pub(crate) const VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

#[inline(always)]
pub(crate) fn decode(b: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    for j in 0..16 {
        out[j] = d * f32::from(VALUES[usize::from(b[2 + j] & 15)]);
        out[j + 16] = d * f32::from(VALUES[usize::from(b[2 + j] >> 4)]);
    }
}

pub(crate) fn encode(x: &[f32; 32], out: &mut [u8; 18]) -> Option<()> {
    let (d, levels) = search::one_scale::<Table, 32>(x)?;
    pack_nibbles(&levels.map(code), &mut out[2..]);
    put_f16(out, 0, d)
}

/// [`VALUES`] as the levels of a search.
pub(crate) struct Table;

impl Levels for Table {
    const LOW: f32 = VALUES[0] as f32;
    const HIGH: f32 = VALUES[15] as f32;
    const SPAN: f32 = 0.15;

    #[inline(always)]
    fn nearest(t: f32) -> f32 {
        // A sum of the steps passed, rather than a lookup, so that it vectorizes.
        STEPS.iter().fold(Self::LOW, |level, &(middle, step)| {
            level + if t > middle { step } else { 0.0 }
        })
    }
}

/// Where one level of [`VALUES`] gives way to the next, and how far it is to that.
const STEPS: [(f32, f32); 15] = {
    let mut steps = [(0.0, 0.0); 15];
    let mut i = 0;
    while i < 15 {
        let (a, b) = (VALUES[i] as f32, VALUES[i + 1] as f32);
        steps[i] = ((a + b) / 2.0, b - a);
        i += 1;
    }
    steps
};

/// The code of a level of [`Table`].
pub(crate) fn code(level: f32) -> u8 {
    VALUES.iter().filter(|v| f32::from(**v) < level).count() as u8
}
