// f8e5m2, as blocks of 8.
const BLOCK: u32 = 8u;
const BLOCK_BYTES: u32 = 8u;

fn decode1(b: u32) -> f32 {
    return w_get(b);
}

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
    let i = b + 8u * j;
    return mat2x4<f32>(
        vec4<f32>(w_get(i), w_get(i + 1u), w_get(i + 2u), w_get(i + 3u)),
        vec4<f32>(w_get(i + 4u), w_get(i + 5u), w_get(i + 6u), w_get(i + 7u)),
    );
}
