// bf16, as blocks of 8. Addresses are even.
const BLOCK: u32 = 8u;
const BLOCK_BYTES: u32 = 16u;

fn decode1(b: u32) -> f32 {
    return bitcast<f32>(w_u16(b) << 16u);
}

fn bf16x4(q: vec2<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(
        q.x << 16u, q.x & 0xffff0000u, q.y << 16u, q.y & 0xffff0000u,
    ));
}

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
    return mat2x4<f32>(bf16x4(w_u32x2(b + 16u * j)), bf16x4(w_u32x2(b + 16u * j + 8u)));
}
