// Q3_K: 32 bytes of third bits, 64 bytes of 2-bit codes, 12 bytes of 6-bit scales per 16
// elements, f16 d; element = d * (sc - 32) * (q - 4).
#include "lib/quant_bytes.wgsl"
const BLOCK: u32 = 256u;
const BLOCK_BYTES: u32 = 110u;

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
    let k = j >> 1u;
    let low = (w_u8(b + 96u + (k & 7u)) >> (4u * (k >> 3u))) & 15u;
    let high = (w_u8(b + 104u + (k & 3u)) >> (2u * (k >> 2u))) & 3u;
    let scale = w_f16(b + 108u) * (f32(low | (high << 4u)) - 32.0);
    let q = w_u32x2(b + 32u + 32u * (j >> 4u) + 8u * (j & 3u));
    let h = w_u32x2(b + 8u * (j & 3u));
    let code = ((q >> vec2<u32>(2u * ((j >> 2u) & 3u))) & vec2<u32>(0x03030303u))
        | (((h >> vec2<u32>(j >> 2u)) & vec2<u32>(0x01010101u)) << vec2<u32>(2u));
    return centred8(code, 4.0, scale);
}
