// Q6_K: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales (one per 16
// elements), f16 d; element = d * sc * (q - 32).
#include "lib/quant_bytes.wgsl"
const BLOCK: u32 = 256u;
const BLOCK_BYTES: u32 = 210u;

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
    let half = j >> 4u;
    let group = (j >> 2u) & 3u;
    let l = 8u * (j & 3u);
    let q = w_u32x2(b + 64u * half + 32u * (group & 1u) + l);
    let h = w_u32x2(b + 128u + 32u * half + l);
    let code = nibbles(q, 4u * (group >> 1u))
        | (((h >> vec2<u32>(2u * group)) & vec2<u32>(0x03030303u)) << vec2<u32>(4u));
    return centred8(code, 32.0, w_f16(b + 208u) * w_i8(b + 192u + (j >> 1u)));
}
