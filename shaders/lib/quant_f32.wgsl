// f32, as blocks of 8. W_VEC: every row starts at a multiple of 16 bytes.
const BLOCK: u32 = 8u;
const BLOCK_BYTES: u32 = 32u;

fn decode1(b: u32) -> f32 {
    return w_get(b >> 2u);
}

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
#if W_VEC
    let i = (b >> 4u) + 2u * j;
    return mat2x4<f32>(bitcast<vec4<f32>>(w_vec(i)), bitcast<vec4<f32>>(w_vec(i + 1u)));
#else
    let i = (b >> 2u) + 8u * j;
    return mat2x4<f32>(
        vec4<f32>(w_get(i), w_get(i + 1u), w_get(i + 2u), w_get(i + 3u)),
        vec4<f32>(w_get(i + 4u), w_get(i + 5u), w_get(i + 6u), w_get(i + 7u)),
    );
#endif
}
