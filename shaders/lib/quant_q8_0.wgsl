// Q8_0: f16 d, 32 signed bytes; element = d * q.
#include "lib/quant_bytes.wgsl"
const BLOCK: u32 = 32u;
const BLOCK_BYTES: u32 = 34u;

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
    let q = w_u32x2(b + 2u + 8u * j);
    return w_f16(b) * mat2x4<f32>(vec4<f32>(unpack4xI8(q.x)), vec4<f32>(unpack4xI8(q.y)));
}
