// f16, as blocks of 8.
#include "lib/quant_half.wgsl"
const BLOCK: u32 = 8u;
const BLOCK_BYTES: u32 = 16u;

fn decode1(b: u32) -> f32 {
    return w_get(b >> 1u);
}

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
    let v = w_half8(b + 16u * j);
    return mat2x4<f32>(
        vec4<f32>(unpack_f16(v.x), unpack_f16(v.y)),
        vec4<f32>(unpack_f16(v.z), unpack_f16(v.w)),
    );
}
