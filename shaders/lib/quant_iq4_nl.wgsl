// IQ4_NL: f16 d, 16 bytes of nibbles; element = d * TABLE[n].
#include "lib/quant_bytes.wgsl"
#include "lib/codebook_iq4.wgsl"
const BLOCK: u32 = 32u;
const BLOCK_BYTES: u32 = 18u;

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
    let q = w_u32x2(b + 2u + 8u * (j & 1u));
    return iq4x8(nibbles(q, 2u * (j & 2u)), w_f16(b));
}
