// MXFP4: E8M0 scale byte, 16 bytes of nibbles; element = 2^(e - 127) * E2M1[n].
#include "lib/quant_bytes.wgsl"
const BLOCK: u32 = 32u;
const BLOCK_BYTES: u32 = 17u;

// Twice the E2M1 value of 4 codes: 0 1 2 3 4 6 8 12, bit 3 the sign.
fn e2m1x4(q: u32) -> vec4<f32> {
    let n = unpack4xU8(q);
    let m = n & vec4<u32>(7u);
    // Codes 0..4 are themselves; then (2 + odd) << (code / 2 - 1).
    let big = (vec4<u32>(2u) + (m & vec4<u32>(1u))) << (max(m >> vec4<u32>(1u), vec4<u32>(1u)) - 1u);
    let v = vec4<f32>(select(big, m, m < vec4<u32>(4u)));
    return select(v, -v, (n & vec4<u32>(8u)) != vec4<u32>());
}

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
    // 2^(e - 128), subnormal for e of 0 and 1.
    let e = w_u8(b);
    let d = bitcast<f32>(select((e - 1u) << 23u, 0x200000u << e, e < 2u));
    let q = nibbles(w_u32x2(b + 1u + 8u * (j & 1u)), 2u * (j & 2u));
    return d * mat2x4<f32>(e2m1x4(q.x), e2m1x4(q.y));
}
