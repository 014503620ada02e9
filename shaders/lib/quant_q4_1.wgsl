// Q4_1: f16 d, f16 m, 16 bytes of nibbles; element = d * n + m.
#include "lib/quant_bytes.wgsl"
const BLOCK: u32 = 32u;
const BLOCK_BYTES: u32 = 20u;

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
    let q = w_u32x2(b + 4u + 8u * (j & 1u));
    return affine8(nibbles(q, 2u * (j & 2u)), w_f16(b), w_f16(b + 2u));
}
