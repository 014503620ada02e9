// f16, as blocks of 8. Addresses are even.
const BLOCK: u32 = 8u;
const BLOCK_BYTES: u32 = 16u;

fn decode1(b: u32) -> f32 {
    return w_f16(b);
}

fn decode8(b: u32, j: u32) -> mat2x4<f32> {
    let lo = w_u32x2(b + 16u * j);
    let hi = w_u32x2(b + 16u * j + 8u);
    return mat2x4<f32>(
        vec4<f32>(unpack2x16float(lo.x), unpack2x16float(lo.y)),
        vec4<f32>(unpack2x16float(hi.x), unpack2x16float(hi.y)),
    );
}
