// Q2_K: 16 bytes of 4-bit scale and minimum per 16 elements, 64 bytes of 2-bit codes, f16 d,
// f16 dmin; element = d * sc * q - dmin * mn.
#include "lib/quant_bytes.wgsl"
const BLOCK: u32 = 256u;
const BLOCK_BYTES: u32 = 84u;

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
    let sm = w_u8(b + (j >> 1u));
    let q = w_u32x2(b + 16u + 32u * (j >> 4u) + 8u * (j & 3u));
    let code = (q >> vec2<u32>(2u * ((j >> 2u) & 3u))) & vec2<u32>(0x03030303u);
    return affine8(code, w_f16(b + 80u) * f32(sm & 15u), -w_f16(b + 82u) * f32(sm >> 4u));
}
