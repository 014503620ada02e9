// IQ4_XS: f16 d, 8 6-bit scales (u16 of high pairs, 4 bytes of low nibbles), 128 bytes of
// nibbles; element = d * (sc - 32) * TABLE[n].
#include "lib/quant_bytes.wgsl"
#include "lib/codebook_iq4.wgsl"
const BLOCK: u32 = 256u;
const BLOCK_BYTES: u32 = 136u;

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
    let k = j >> 2u;
    let low = (w_u8(b + 4u + (k >> 1u)) >> (4u * (k & 1u))) & 15u;
    let high = (w_u16(b + 2u) >> (2u * k)) & 3u;
    let scale = w_f16(b) * (f32(low | (high << 4u)) - 32.0);
    let q = w_u32x2(b + 8u + 16u * k + 8u * (j & 1u));
    return iq4x8(nibbles(q, 2u * (j & 2u)), scale);
}
