// Q5_K: f16 d, f16 dmin, 12 bytes of 6-bit scale and minimum per 32 elements, 32 bytes of fifth
// bits, 128 bytes of nibbles; element = d * sc * n - dmin * mn.
#include "lib/quant_bytes.wgsl"
const BLOCK: u32 = 256u;
const BLOCK_BYTES: u32 = 176u;

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
    let s = j >> 2u;
    let sm = scale_min_k4(b + 4u, s);
    let q = w_u32x2(b + 48u + 32u * (s >> 1u) + 8u * (j & 3u));
    let h = w_u32x2(b + 16u + 8u * (j & 3u));
    let code = nibbles(q, 4u * (s & 1u))
        | (((h >> vec2<u32>(s)) & vec2<u32>(0x01010101u)) << vec2<u32>(4u));
    return affine8(code, w_f16(b) * sm.x, -w_f16(b + 2u) * sm.y);
}
