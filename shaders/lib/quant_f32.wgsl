// f32, as blocks of 8. Addresses are multiples of 4.
const BLOCK: u32 = 8u;
const BLOCK_BYTES: u32 = 32u;

fn decode1(b: u32) -> f32 {
    return bitcast<f32>(w[b >> 2u]);
}

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
    let i = (b >> 2u) + 8u * j;
    let lo = vec4<u32>(w[i], w[i + 1u], w[i + 2u], w[i + 3u]);
    let hi = vec4<u32>(w[i + 4u], w[i + 5u], w[i + 6u], w[i + 7u]);
    return mat2x4<f32>(bitcast<vec4<f32>>(lo), bitcast<vec4<f32>>(hi));
}
