// Q5_1: f16 d, f16 m, u32 of fifth bits, 16 bytes of nibbles; element = d * n + m.
#include "lib/quant_bytes.wgsl"
const BLOCK: u32 = 32u;
const BLOCK_BYTES: u32 = 24u;

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
    let q = nibbles(w_u32x2(b + 8u + 8u * (j & 1u)), 2u * (j & 2u));
    return affine8(q | fifth_bits(w_u32(b + 4u), 8u * j), w_f16(b), w_f16(b + 2u));
}
