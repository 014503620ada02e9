// Q5_0: f16 d, u32 of fifth bits, 16 bytes of nibbles; element = d * (n - 16).
#include "lib/quant_bytes.wgsl"
const BLOCK: u32 = 32u;
const BLOCK_BYTES: u32 = 22u;

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
    let q = nibbles(w_u32x2(b + 6u + 8u * (j & 1u)), 2u * (j & 2u));
    return centred8(q | fifth_bits(w_u32(b + 2u), 8u * j), 16.0, w_f16(b));
}
