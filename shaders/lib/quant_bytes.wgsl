// Fields of quantized blocks in the operand `w`, by byte from the start of the tensor: what
// decoders need beyond the generated w_u8, w_u16 and w_u32.
//
// Each `quant_<format>.wgsl` (formats and the plain f32, f16, bf16) defines
//   const BLOCK: u32        elements per block, a multiple of 8
//   const BLOCK_BYTES: u32  bytes per block
//   fn decode8(b: u32, j: u32) -> mat2x4<f32>
//                           elements 8j..8j+8 of the block that starts at byte b
// and the plain ones (blocks of 8 elements) also
//   fn decode1(b: u32) -> f32
//                           the element at byte b, for axes that are not a multiple of 8
// No word is read that holds no byte of the elements asked for.

fn w_i8(b: u32) -> f32 {
    return f32(bitcast<i32>(w_u8(b) << 24u) >> 24u);
}

// b is even in blocks of even size.
fn w_f16(b: u32) -> f32 {
    return unpack2x16float(w_u16(b)).x;
}

// 8 bytes from any b.
fn w_u32x2(b: u32) -> vec2<u32> {
    let a = (p.w_off & 3u) + b;
    let i = a >> 2u;
    let s = (a & 3u) * 8u;
    let low = w_word(i);
    let mid = w_word(i + 1u);
    if (s == 0u) {
        return vec2<u32>(low, mid);
    }
    let t = 32u - s;
    return vec2<u32>((low >> s) | (mid << t), (mid >> s) | (w_word(i + 2u) << t));
}

// The low nibbles of 8 bytes.
fn nibbles(q: vec2<u32>, shift: u32) -> vec2<u32> {
    return (q >> vec2<u32>(shift)) & vec2<u32>(0x0f0f0f0fu);
}

// 8 unsigned bytes as floats.
fn floats8(q: vec2<u32>) -> mat2x4<f32> {
    return mat2x4<f32>(vec4<f32>(unpack4xU8(q.x)), vec4<f32>(unpack4xU8(q.y)));
}

// q * scale + add
fn affine8(q: vec2<u32>, scale: f32, add: f32) -> mat2x4<f32> {
    return mat2x4<f32>(
        vec4<f32>(unpack4xU8(q.x)) * scale + add,
        vec4<f32>(unpack4xU8(q.y)) * scale + add,
    );
}

// (q - zero) * scale, with the subtraction exact
fn centred8(q: vec2<u32>, zero: f32, scale: f32) -> mat2x4<f32> {
    return mat2x4<f32>(
        (vec4<f32>(unpack4xU8(q.x)) - zero) * scale,
        (vec4<f32>(unpack4xU8(q.y)) - zero) * scale,
    );
}

// Spreads bits s..s+8 of `bits` to bit 4 of 8 bytes: the fifth bits of 8 consecutive codes.
fn fifth_bits(bits: u32, s: u32) -> vec2<u32> {
    let h = bits >> s;
    let a = ((h & 1u) << 4u) | ((h & 2u) << 11u) | ((h & 4u) << 18u) | ((h & 8u) << 25u);
    let b = (h & 0x10u) | ((h & 0x20u) << 7u) | ((h & 0x40u) << 14u) | ((h & 0x80u) << 21u);
    return vec2<u32>(a, b);
}

// 6-bit scale and minimum s of the 12 bytes at k (Q4_K, Q5_K).
fn scale_min_k4(k: u32, s: u32) -> vec2<f32> {
    let lo = w_u8(k + (s & 3u));
    let hi = w_u8(k + (s & 3u) + 4u);
    if (s < 4u) {
        return vec2<f32>(vec2<u32>(lo & 63u, hi & 63u));
    }
    let q = w_u8(k + s + 4u);
    return vec2<f32>(vec2<u32>((q & 15u) | ((lo >> 6u) << 4u), (q >> 4u) | ((hi >> 6u) << 4u)));
}
