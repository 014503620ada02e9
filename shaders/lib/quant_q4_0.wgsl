// Q4_0: f16 d, 16 bytes of nibbles; element = d * (n - 8).
#include "lib/quant_bytes.wgsl"
const BLOCK: u32 = 32u;
const BLOCK_BYTES: u32 = 18u;

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
    let q = w_u32x2(b + 2u + 8u * (j & 1u));
    return centred8(nibbles(q, 2u * (j & 2u)), 8.0, w_f16(b));
}
